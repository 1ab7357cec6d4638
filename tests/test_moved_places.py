"""A gateway says so when its settings hide files."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.servers import Gateway, Server, gateway, node, running

LOST = "of the files stored so far cannot be found: the placement was"


def over(folder: Path, stores: Sequence[Server], *, former: Sequence[Server] = ()) -> Gateway:
    """Return a gateway (not started) whose shards are one store each."""
    text = f"""
[cluster]
kind = "replicated"
[replicated]
placement = "jump"
write_quorum = 1
shards = {_shards(stores)}
former_shards = {_shards(former)}
owed_folder = "owed"
"""
    return gateway(folder, settings=text)


def _shards(stores: Sequence[Server]) -> list[str]:
    return [f"s{number} {store.address}" for number, store in enumerate(stores)]


@pytest.fixture(name="nodes")
def three_nodes(tmp_path: Path) -> list[Server]:
    return [node(tmp_path) for _ in range(3)]


def said(server: Gateway) -> str:
    with running(server):
        assert server.request("GET", "/status")
    return server.output()


def test_shards_that_hide_files_are_told_until_they_are_named(
    tmp_path: Path, nodes: list[Server]
) -> None:
    with running(nodes[0]), running(nodes[1]), running(nodes[2]):
        assert LOST not in said(over(tmp_path, nodes[:2]))
        assert LOST not in said(over(tmp_path, nodes[:2]))
        for _ in range(2):
            output = said(over(tmp_path, nodes))
            assert LOST in output and "set former_shards to what it was" in output
        assert LOST not in said(over(tmp_path, nodes, former=nodes[:2]))
        assert LOST not in said(over(tmp_path, nodes))  # after a rebalance


def test_other_copies_of_the_same_files_hide_nothing(tmp_path: Path, nodes: list[Server]) -> None:
    settings = """
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
owed_folder = "owed"
stores = {}
"""
    with running(nodes[0]), running(nodes[1]), running(nodes[2]):
        for stores in (nodes[:2], nodes, nodes[1:]):
            text = settings.format([store.address for store in stores])
            assert LOST not in said(gateway(tmp_path, settings=text))
