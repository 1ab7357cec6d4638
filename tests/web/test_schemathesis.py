"""schemathesis against running gateways: what it makes of the description has to be answered as
that says, valid or not, in any order that the links allow; and it must find nothing.

``schemathesis.toml`` beside this says which checks are off, and why. What is tried depends on a
seed alone, ``--api-seed``; ``--api-s`` makes each run go on with more. A long run:
``pytest tests/web/test_schemathesis.py --api-s 300 --api-seed 7 -o faulthandler_timeout=0``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.servers import CHECKOUT, Gateway
from tests.web.described import SHOWN, TOKEN, gateways

CONFIG = CHECKOUT / "tests" / "web" / "schemathesis.toml"
MARGIN_S = 240


@pytest.fixture(name="sites", scope="module")
def all_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Gateway]]:
    with gateways(tmp_path_factory.mktemp("described")) as found:
        yield found


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_is_found(
    sites: Mapping[str, Gateway], name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seconds = int(request.config.getoption("--api-s"))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"{sites[name].url}/openapi.json", "--no-color", "--warnings", "off"),
        *("--seed", str(request.config.getoption("--api-seed"))),
        *("--max-examples", "100" if seconds else "8"),
        *("--generation-database", "none", "--continue-on-failure"),
        *(("--max-time", str(seconds)) if seconds else ()),
        *(("--header", f"Authorization: Bearer {TOKEN}") if name == "admin" else ()),
    ]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)]),
        "SCHEMATHESIS_HOOKS": "tests.web.schemathesis_formats",
    }
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ,
        timeout=seconds + MARGIN_S,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    assert "generated" in run.stdout
