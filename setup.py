"""The sfss package, for `pip install .`; a checkout is set up by bootstrap.py instead."""

import re
from pathlib import Path

from setuptools import find_packages, setup

INIT = Path(__file__).with_name("sfss") / "__init__.py"
# Read, not imported: sfss may need packages that are not installed while this runs.
VERSION = re.findall(r'^__version__ = "(.+)"$', INIT.read_text("utf-8"), re.MULTILINE)[0]

setup(
    name="sfss",
    version=VERSION,
    description="A small-file store: HTTP in front, memcached-protocol servers or LMDB behind",
    author="the sfss authors",
    license="BSD-3-Clause",
    python_requires=">=3.11",
    packages=find_packages(include=["sfss", "sfss.*"]),
    package_data={"sfss": ["py.typed"], "sfss.web": ["pages/*", "pages/*/*"]},
    zip_safe=False,
    install_requires=[
        # web/connection.py reaches into its connections; minor releases change them.
        "aiohttp>=3.14,<3.15",
        # stores/memcached_pool.py takes the place of its internals.
        "aiomcache>=0.8.2,<0.9",
        "gunicorn>=27",
        "lmdb>=3",
        # stores/bucket_client.py reads its messages.
        "obstore>=0.12.1,<0.13",
        # web/metrics.py encodes with it.
        "prometheus-client>=0.26,<1",
        # Progress bars and tables of the command line.
        "rich>=15",
        "uhashring>=2.5",
        "uvloop>=0.23",
        "xxhash>=4",
        "yarl>=1.20",
    ],
    extras_require={
        "bench": ["matplotlib>=3.9"],  # for bench/run --chart
        "test": [
            # moto, the S3 server of the tests, with what its extras s3 and server would bring of
            # use: all of "server" is ten times as much.
            "flask>=3.1",
            "flask-cors>=6",
            "furo>=2025.12",
            "httplint>=2026.10",
            "hypothesis>=6.150",
            "moto>=5.2",
            "mypy>=2",
            "myst-parser>=5",
            "opentelemetry-exporter-otlp-proto-http>=1.45",
            "opentelemetry-sdk>=1.45",
            "playwright>=1.65",
            "py-partiql-parser>=0.6.3",
            "pytest>=9",
            "pytest-asyncio>=1.3",
            "pytest-xdist>=3.8",
            "pyyaml>=6",
            "ruff>=0.15",
            "schemathesis>=4.32",
            "sphinx>=9",
        ],
    },
    entry_points={"console_scripts": ["sfss = sfss.cli:main"]},
)
