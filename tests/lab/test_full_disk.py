"""A disk without room: writes are 507 in words, reads and deletes go on, nothing is there in part.

Nothing has to be started again when there is room.
"""

import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.lab.disks import Disk, small_disk
from tests.lab.ledger import body_of
from tests.lab.store_check import complaints
from tests.servers import Answer, Gateway, Server, gateway, node, running, wait_until

MIB = 1024 * 1024
SIZE = 150_000

SETTINGS = {
    "embedded": """
[cluster]
max_file_size = 8388608
chunks_above = 65536
chunks_kept_s = 0.1
[embedded]
folder = "disk/store"
""",
    "folder": """
[cluster]
kind = "replicated"
max_file_size = 8388608
[replicated]
stores = ["file:disk/plain"]
copies = 1
owed_folder = "disk/owed"
""",
    "copies": """
[cluster]
kind = "replicated"
max_file_size = 8388608
[replicated]
stores = ["lmdb:disk/one", "lmdb:disk/two"]
placement = "mirror"
owed_folder = "disk/owed"
""",
    "joined": """
[cluster]
kind = "joined"
max_file_size = 8388608
chunks_above = 65536
chunks_kept_s = 0.1
[embedded]
folder = "disk/member"
[replicated]
copies = 3
owed_folder = "disk/owed"
[discovery]
advertise = "127.83.70.2:7955"
secret = "a-secret-of-the-tests"
""",
}
EMBEDDED_STORES = {
    "embedded": ["store"],
    "folder": ["owed", "owed/marks"],
    "copies": ["one", "two", "owed"],
    "joined": ["member", "owed"],
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 16 MiB."""
    with small_disk(tmp_path / "disk", 16) as mounted:
        # Of others, who leave at the end.
        mounted.fill(leave=12 * MIB)
        yield mounted


def small_files(server: Gateway, count: int) -> dict[str, bytes]:
    """Put ``count`` files."""
    files = {f"small/{turn}": body_of("small", turn, 1000) for turn in range(count)}
    for path, body in files.items():
        assert server.put(path, body).status == 200
    return files


def fill_by_puts(server: Gateway) -> dict[str, bytes]:
    """Put files until there is no room; return those that were acknowledged."""
    files = {}
    for turn in range(2000):
        path, body = f"fill/{turn}", body_of("fill", turn, SIZE)
        answer = server.put(path, body)
        if answer.status != 200:
            check_refused(answer)
            assert server.get(path).status == 404
            return files
        files[path] = body
    pytest.fail("the disk has room for everything")


def check_refused(answer: Answer) -> None:
    """Assert that a write has found no room, and that the answer says so."""
    assert answer.status == 507, answer
    assert "full" in answer.json()["error"]
    assert "nothing was stored" in answer.json()["error"]


def check(server: Gateway, files: dict[str, bytes]) -> None:
    """Read all of ``files``."""
    for path, body in files.items():
        answer = server.get(path)
        assert (answer.status, answer.body) == (200, body), path


def delete(server: Gateway, path: str) -> None:
    """Delete a file; it is gone."""
    answer = server.request("DELETE", f"/file?path={path}")
    assert answer.status == 204, answer
    assert server.get(path).status == 404


def has_begun(server: Gateway) -> bool:
    """Tell whether what is not there is said to be not there."""
    try:
        return server.get("nothing").status == 404
    except ConnectionError:  # by a worker that ends, for others know of the cluster
        return False


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_gateway(tmp_path: Path, disk: Disk, kind: str) -> None:
    options = ["--workers", "2", *(["--found"] if kind == "joined" else [])]
    server = gateway(tmp_path, *options, settings=SETTINGS[kind])
    with running(server):
        wait_until(lambda: has_begun(server), "a member has begun a cluster")
        files = small_files(server, 100)
        filled = fill_by_puts(server)
        disk.fill()
        # What is there is replaced as a whole, or not at all, and a large file leaves nothing.
        replaced = next(iter(filled))
        check_refused(server.put(replaced, body_of("another", 1, 500_000)))
        check_refused(server.put("large", body_of("large", 1, 3_000_000)))
        assert server.get("large").status == 404
        check(server, files | filled)
        for path in list(files)[:60]:
            delete(server, path)
            del files[path]
        check(server, files | filled)
        # It goes on from another start, too.
        assert server.stop() == 0
        server.start()
        check(server, files | filled)
        delete(server, replaced)
        del filled[replaced]
        for path in list(filled)[:20]:
            delete(server, path)
            filled[path] = body_of(path, 2, SIZE)
        for path in list(filled)[:15]:
            put = partial(server.put, path, filled[path])
            # Chunks go a moment later.
            wait_until(lambda put=put: put().status == 200, "what was deleted makes room")
        for path in list(filled)[15:20]:
            del filled[path]
        disk.make_room()
        assert server.put("large", body_of("large", 1, 2_000_000)).status == 200
        check(server, {"large": body_of("large", 1, 2_000_000)} | files | filled)
        assert server.stop() == 0
    for store in EMBEDDED_STORES[kind]:
        assert not complaints(disk.path / store)


def memcached_answer(server: Server, command: bytes) -> bytes:
    """Return what a node answers, in one piece."""
    with closing(socket.create_connection((server.host, server.port), timeout=30)) as client:
        client.sendall(command)
        return client.recv(100_000)


def test_a_node(tmp_path: Path, disk: Disk) -> None:
    items = node(tmp_path)
    items.command[items.command.index("--store") + 1] = "disk/node"
    settings = f"[cluster]\nkind = 'nodes'\n[memcached]\nservers = ['{items.address}']\n"
    with running(items), running(gateway(tmp_path, settings=settings)) as server:
        files = small_files(server, 100)
        filled = fill_by_puts(server)
        disk.fill()
        said = memcached_answer(items, b"set raw 0 0 200000\r\n%b\r\n" % bytes(200_000))
        assert said.startswith(b"SERVER_ERROR disk full: "), said
        check(server, files | filled)
        for path in list(files)[:50]:
            delete(server, path)
            del files[path]
        assert memcached_answer(items, b"delete small/60\r\n") == b"DELETED\r\n"
        del files["small/60"]
        disk.make_room()
        assert server.put("again", bytes(1_000_000)).status == 200
        check(server, files | filled)
    assert not complaints(disk.path / "node")


def test_a_spool_folder(tmp_path: Path, disk: Disk) -> None:
    settings = "[server]\nspool_folder = 'disk'\n[cluster]\nmax_file_size = 33554432\n"
    body = bytes(9_000_000)
    with running(gateway(tmp_path, settings=settings)) as server:
        disk.fill(leave=5_000_000)
        free = disk.free
        check_refused(server.put("large", body))
        assert server.get("large").status == 404
        assert disk.free == free
        files = small_files(server, 5)
        disk.fill()
        check_refused(server.put("large", body))
        check(server, files)
        disk.make_room()
        assert server.put("large", body).status == 200
        assert server.get("large").body == body


def test_the_list_of_what_is_owed(tmp_path: Path, disk: Disk) -> None:
    """A write that a store has missed, and that cannot be noted, is not acknowledged."""
    nodes = [node(tmp_path) for _ in range(2)]
    stores = [each.address for each in nodes]
    settings = f"""
[cluster]
kind = "replicated"
[replicated]
stores = {stores}
placement = "mirror"
write_quorum = 1
owed_folder = "disk/owed"
cooling_s = 0.2
"""
    server = gateway(tmp_path, settings=settings)
    with running(nodes[0]), running(nodes[1]), running(server):
        files = small_files(server, 20)
        nodes[1].kill()
        assert server.put("owed", b"noted").status == 200
        disk.fill()
        late = (server.put(f"late/{turn}", b"x") for turn in range(1000))
        refused = next(answer for answer in late if answer.status != 200)
        assert refused.status == 504
        assert "cannot be noted" in refused.json()["error"]
        assert "is full" in refused.json()["error"]
        check(server, files | {"owed": b"noted"})
        nodes[1].start()
        wait_until(lambda: server.put("both", b"both").status == 200, "nothing has to be noted")
        disk.make_room()
        wait_until(lambda: owed(server) == 0, "all is paid")
        assert server.put("again", b"again").status == 200
        check(server, files | {"owed": b"noted", "again": b"again"})


def owed(server: Gateway) -> int:
    """Return how many writes stores still have to get."""
    return int(server.request("GET", "/status?detail=full").json()["webserver"]["owed"])
