"""Fixtures: a real gateway on every kind of store, shared by the tests of this folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.servers import Gateway, Server, gateway, gobeansdb, memcached, nutcracker, running


def over(kind: str, server: Server) -> str:
    """Return the settings of a gateway over one server."""
    return (
        f"[cluster]\nkind = '{kind}'\n"
        f"[memcached]\nitem_limit = 4194304\nservers = ['{server.address}']\n"
    )


def _embedded(folder: Path, _: ExitStack) -> Gateway:
    return gateway(folder, "--store", str(folder / "store"))


def _memcached(folder: Path, stack: ExitStack) -> Gateway:
    server = stack.enter_context(running(memcached(folder, "-I", "4m")))
    return gateway(folder, settings=over("nodes", server))


def _twemproxy(folder: Path, stack: ExitStack) -> Gateway:
    nodes = [stack.enter_context(running(memcached(folder, "-I", "4m"))) for _ in range(2)]
    addresses = [node.address for node in nodes]
    proxy = stack.enter_context(running(nutcracker(folder, addresses, timeout_ms=1500)))
    return gateway(folder, settings=over("proxies", proxy))


def _gobeansdb(folder: Path, stack: ExitStack) -> Gateway:
    server: Server = stack.enter_context(running(gobeansdb(folder)))
    return gateway(folder, settings=over("nodes", server))


KINDS: dict[str, Callable[[Path, ExitStack], Gateway]] = {
    "embedded": _embedded,
    "memcached": _memcached,
    "twemproxy": _twemproxy,
    "gobeansdb": _gobeansdb,
}


@pytest.fixture(name="kind", scope="package", params=KINDS)
def each_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="api", scope="package")
def gateway_on_each_kind(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with ExitStack() as stack:
        yield stack.enter_context(running(KINDS[kind](tmp_path_factory.mktemp(kind), stack)))


_numbers = count()


@pytest.fixture(name="path")
def unused_path() -> str:
    """A path that nothing is stored under, with characters that must be quoted."""
    return f"folder {next(_numbers)}/ä+b&c=d%41;?#.txt"
