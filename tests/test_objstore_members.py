"""conf/objstore.toml on three members, with a bucket behind them, while this and that fails."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.objstore import BUCKET, PREFIX, Objstore
from tests.servers import S3Server, running, s3, wait_until

MEMBERS = 3
JOINED_S = 60.0


@pytest.fixture(name="server")
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    with running(s3(tmp_path)) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(name="nodes")
def three_nodes(tmp_path: Path, server: S3Server) -> Iterator[list[Objstore]]:
    """Three gateways with the page as it is, but for addresses; each names the one before."""
    nodes: list[Objstore] = []
    with ExitStack() as stack:
        for number in range(MEMBERS):
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            join = json.dumps([place(nodes[-1])] if nodes else [])
            nodes.append(Objstore(folder, server, join=join))
            nodes[-1].gateway.environ["SFSS_DISCOVERY_HEARTBEAT_S"] = "0.2"
            stack.enter_context(running(nodes[-1].gateway))
        settle(nodes)
        yield nodes
        for node in nodes:
            assert "Traceback" not in node.gateway.output()


def place(node: Objstore) -> str:
    """Return what a node advertises."""
    found = re.search(r'^advertise = "(.*)"$', node.config.read_text(), re.M)
    assert found is not None
    return found[1]


def settle(nodes: list[Objstore]) -> None:
    """Wait until all know of all, and nothing moves."""
    for node in nodes:
        wait_until(lambda: knows(node, nodes), f"{place(node)} knows all", JOINED_S)  # noqa: B023


def knows(node: Objstore, nodes: list[Objstore]) -> bool:
    try:
        answer = node.gateway.request("GET", "/status?detail=full")
    except (OSError, HTTPException):
        return False
    view = answer.json()["webserver"]["members"] if answer.status == 200 else {"members": {}}
    shown = view["members"]
    is_quiet = all(
        e["live"] and e["adopted"] == e["moved"] == view["epoch"] for e in shown.values()
    )
    return set(shown) == set(map(place, nodes)) and is_quiet and view["moving"] is None


def test_what_one_node_gets_all_have(nodes: list[Objstore], server: S3Server) -> None:
    ids = {level: nodes[level].new_id() for level in (0, 1, 2)}
    for level, object_id in ids.items():
        answer = nodes[level].put(object_id, b"It works!", level, "test.txt", {"tag": str(level)})
        assert answer.status == 200, answer
    for level, object_id in ids.items():
        for node in nodes:
            answer = node.get(object_id)
            assert (answer.status, answer.body) == (200, b"It works!")
            assert answer.headers["x-meta-consistencylevel"] == str(level)
            assert answer.headers["x-meta-name"] == "test.txt"
            assert json.loads(answer.headers["x-meta-usermeta"]) == {"tag": str(level)}
            is_elsewhere = level < 2 and node is not nodes[level]
            assert answer.headers.get("x-meta-symlink") == ("true" if is_elsewhere else None)
            meta = node.meta(object_id).json()
            assert (meta["is_symlink"], meta["is_deleted"]) == (is_elsewhere, False)
    assert {key.rpartition("/")[2] for key in server.keys(BUCKET)} == {ids[1], ids[2]}
    assert len({node.ask("GET", "ping").body for node in nodes}) == MEMBERS
    for node in nodes:
        for object_id in ids.values():
            assert node.delete(object_id).status == 200
            answer = node.get(object_id, fetch=True)
            assert (answer.status, answer.headers["x-meta-deleted"]) == (404, "true")
    assert server.keys(BUCKET) == []


def test_a_node_is_killed_during_writes(nodes: list[Objstore]) -> None:
    victim, stop = nodes[2], threading.Event()
    kept: dict[str, bytes] = {}

    def write(number: int) -> None:
        serial = 0
        while not stop.is_set():
            serial += 1
            object_id = f"01J{number}{serial:022d}"
            body, level = object_id.encode() * 50, serial % 3
            try:
                answer = nodes[number].put(object_id, body, level)
            except (OSError, HTTPException):
                continue  # nobody was told that it is kept
            if answer.status == 200 and (level or number != 2):
                kept[object_id] = body

    writers = [threading.Thread(target=write, args=(number,)) for number in range(MEMBERS)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: len(kept) > 60, "objects are kept")
        victim.gateway.kill()
        before = len(kept)
        wait_until(lambda: len(kept) > before + 60, "objects are kept with one node away")
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    for object_id, body in kept.items():
        answer = nodes[0].get(object_id)
        if answer.status == 504:
            # Level 0 on the node that is away: that cannot be had now, and is not said to be gone.
            assert nodes[0].meta(object_id).json()["consistency"] == 0
        else:
            assert (answer.status, answer.body) == (200, body)
    victim.gateway.start()
    settle(nodes)
    for object_id, body in kept.items():
        for node in nodes:
            answer = node.get(object_id)
            assert (answer.status, answer.body) == (200, body), (object_id, place(node))


def test_a_deletion_while_a_node_is_away(nodes: list[Objstore], server: S3Server) -> None:
    ids = {level: nodes[2].new_id() for level in (0, 1, 2)}
    for level, object_id in ids.items():
        assert nodes[2].put(object_id, b"to be deleted", level).status == 200
    nodes[2].gateway.kill()
    for object_id in ids.values():
        assert nodes[0].delete(object_id).status == 200
    nodes[2].gateway.start()
    for object_id in ids.values():
        for fetches in (False, True):
            for node in reversed(nodes):
                answer = node.get(object_id, fetch=fetches)
                assert (answer.status, answer.headers["x-meta-deleted"]) == (404, "true")
        assert nodes[2].meta(object_id).json()["is_deleted"]
    assert server.keys(BUCKET) == []


def test_the_bucket_is_wiped(nodes: list[Objstore], server: S3Server) -> None:
    ids = {level: nodes[0].new_id() for level in (1, 2)}
    for level, object_id in ids.items():
        assert nodes[0].put(object_id, b"still here", level).status == 200
        server.delete(f"{BUCKET}/{PREFIX}/{object_id}")
    for object_id in ids.values():
        for node in nodes:
            assert node.get(object_id).body == b"still here"
        assert nodes[1].delete(object_id).status == 200
        assert nodes[2].get(object_id, fetch=True).status == 404


def test_a_local_disk_is_wiped(nodes: list[Objstore]) -> None:
    ids = {level: nodes[1].new_id() for level in (0, 1, 2)}
    for level, object_id in ids.items():
        assert nodes[1].put(object_id, f"level {level}".encode(), level).status == 200
    nodes[1].wipe()
    settle(nodes)
    for node in nodes:
        for level in (1, 2):
            answer = node.get(ids[level])
            assert (answer.status, answer.body) == (200, f"level {level}".encode())
        # Its only body was there: that is said, and not that it never was.
        assert node.get(ids[0]).status == 500
        assert node.meta(ids[0]).json()["size"] == 7
