"""Fixtures: real servers, one for each test that asks, unless the name says otherwise."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import SECRET, Gateway, S3Server, Server, gateway, memcached, running, s3

# What runs in the background of a shell ignores SIGINT, and so would all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what probes and lab can be told; above 200 s with ``-o faulthandler_timeout=0``."""
    group = parser.getgroup("probe")
    group.addoption("--probe-s", type=float, default=10.0, help="seconds that each probe takes")
    group.addoption("--probe-seed", type=int, help="repeat the probe that printed this seed")
    group.addoption("--api-s", type=int, default=0, help="seconds of each run of schemathesis")
    group.addoption("--api-seed", type=int, default=1, help="what decides what it tries")
    lab = parser.getgroup("lab")
    lab.addoption("--lab-kills", type=int, default=45, help="processes that the lab kills")
    lab.addoption("--lab-long", action="store_true", help="all of the lab about HTTP")
    lab.addoption("--lab-seed", type=int, help="repeat the run of the lab that printed this seed")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command that runs in this process does to the logging of all that follow."""
    root = logging.getLogger()
    level, handlers = root.level, set(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - handlers:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


@pytest.fixture(autouse=True, scope="session")
def credentials() -> Iterator[None]:
    """Have keys for buckets, and none of the machine's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield


@pytest.fixture(name="memcached")
def memcached_server(tmp_path: Path) -> Iterator[Server]:
    """A stock memcached: its items are limited to 1 MiB."""
    with running(memcached(tmp_path)) as server:
        yield server


@pytest.fixture(name="shared_s3", scope="session")
def s3_of_the_whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of the S3 protocol, to be used by ``with_bucket`` of ``tests.shared_s3`` only."""
    with running(s3(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(name="gateway", scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway over an embedded store, shared by the whole run: use paths of your own."""
    server = gateway(tmp_path_factory.mktemp("gateway"), "--store", "store")
    with running(server):
        yield server
