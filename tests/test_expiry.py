"""Files that expire, with real gateways, nodes and servers: their space is given back."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from sfss.config import MemcachedSettings
from sfss.record import (
    RECORD_FLAGS,
    Content,
    Kind,
    Record,
    decode,
    encode,
    expired_tombstone,
    new_record,
    record_of,
)
from sfss.stores import memcached as memcached_store
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.memcached import EXPIRY_MARGIN_S, MemcachedStore
from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    Server,
    gateway,
    memcached,
    node,
    running,
    wait_until,
)

KEY = b"key"


def soon(body: bytes = b"body", ttl_s: int = 1) -> Record:
    """Return a record that expires soon."""
    return record_of(Content(body, ttl_s=ttl_s), time.time_ns() // 1000)


def ask(server: Server, request: bytes) -> bytes:
    """Send a request of the memcached protocol; return all of the answer, which ends with a line
    that ends answers.
    """
    with socket.create_connection((server.host, server.port), timeout=DEADLINE_S) as client:
        client.sendall(request)
        answer = b""
        while not answer.endswith((b"END\r\n", b"STORED\r\n", b"EXISTS\r\n")):
            piece = client.recv(65_536)
            assert piece, answer
            answer += piece
    return answer


def item(server: Server, key: bytes = KEY) -> Record | None:
    """Return the record that a server has."""
    line, _, rest = ask(server, b"get %b\r\n" % key).partition(b"\r\n")
    if line == b"END":
        return None
    size = int(line.split()[3])
    record = decode(rest[:size], "", key)
    return record._replace(body=bytes(record.body))  # type: ignore[arg-type]


def tell(server: Server, command: bytes, record: Record) -> None:
    """Have a server keep a record."""
    value = encode(record)
    request = b"%b %b %d 0 %d\r\n%b\r\n" % (command, KEY, RECORD_FLAGS, len(value), value)
    assert ask(server, request) == b"STORED\r\n"


# The embedded store


def status_of(served: Gateway) -> dict[str, str]:
    """Return the statistics of the one store."""
    (found,) = served.request("GET", "/status").json().values()
    return dict(found)


@pytest.fixture(name="served")
def served_fixture(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of two workers over an embedded store."""
    with running(gateway(tmp_path, "--workers", "2")) as served:
        yield served


def put_expiring(served: Gateway, turn: int, count: int = 50) -> None:
    """Put files that expire in a second."""
    for number in range(count):
        path = f"/file?path={turn}/{number}&ttl=1"
        assert served.request("PUT", path, os.urandom(20_000)).status == 200


def is_empty(served: Gateway) -> bool:
    """Tell whether only the file that does not expire is left."""
    return status_of(served)["curr_items"] == "1"


def test_an_embedded_store_does_not_grow(served: Gateway) -> None:
    assert served.put("kept", b"kept").status == 200
    sizes: list[int] = []
    for turn in range(4):
        put_expiring(served, turn)
        wait_until(lambda: is_empty(served), "what has expired is gone")
        sizes.append(int(status_of(served)["bytes"]))
    assert sizes[3] - sizes[1] <= sizes[0] // 4  # how they come to lie is never quite the same
    assert served.get("kept").body == b"kept"


def test_large_files_go_as_a_whole(tmp_path: Path) -> None:
    settings = "[cluster]\nmax_file_size = 30_000_000\n"
    with running(gateway(tmp_path, settings=settings)) as served:
        assert served.put("kept", b"kept").status == 200
        body = os.urandom(20_000_000)
        assert served.request("PUT", "/file?path=large&ttl=3", body).status == 200
        assert int(status_of(served)["curr_items"]) > 10
        assert served.get("large").body == body
        wait_until(lambda: is_empty(served), "the manifest is gone, and all chunks")
        assert served.get("large").status == 404


def test_workers_that_are_killed_while_they_sweep(served: Gateway) -> None:
    assert served.put("kept", b"kept").status == 200
    put_expiring(served, 0, 200)
    for _ in range(4):
        for worker in served.workers():
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        wait_until(lambda: _answers(served), "there are other workers")
    wait_until(lambda: is_empty(served), "what has expired is gone")
    assert served.get("kept").body == b"kept"


def _answers(served: Gateway) -> bool:
    with suppress(OSError):
        return served.get("kept").status == 200
    return False


# Nodes


@pytest.mark.parametrize("command", [b"newest", b"set"])
def test_a_node_sweeps_records(tmp_path: Path, command: bytes) -> None:
    with running(node(tmp_path)) as server:
        record = soon(b"x" * 100_000)
        tell(server, command, record)
        gone = expired_tombstone(record.head) if command == b"newest" else None
        wait_until(lambda: item(server) == gone, "the record is gone")
        assert (b"STAT curr_items %d\r\n" % (gone is not None)) in ask(server, b"stats\r\n")
        if gone is not None:  # nothing older, the record itself included, takes its place
            for older in (record, new_record(b"older", record.head.version - 1)):
                value = encode(older)
                line = b"newest %b %d 0 %d\r\n" % (KEY, RECORD_FLAGS, len(value))
                assert ask(server, line + value + b"\r\n") == b"EXISTS\r\n"
        tell(server, b"newest", new_record(b"newer", record.head.version + 1))


def test_a_node_sweeps_plain_items(tmp_path: Path) -> None:
    with running(node(tmp_path)) as server:
        assert ask(server, b"set key 0 1 1\r\na\r\n") == b"STORED\r\n"
        assert ask(server, b"set long 0 1000 1\r\na\r\n") == b"STORED\r\n"
        wait_until(lambda: b"STAT curr_items 1\r\n" in ask(server, b"stats\r\n"), "it is gone")
        assert ask(server, b"get key long\r\n") == b"VALUE long 0 1\r\na\r\nEND\r\n"


# Copies


def put_ttl(served: Gateway, body: bytes) -> int:
    """Put the file that expires in a second."""
    return served.request("PUT", "/file?path=key&ttl=1", body).status


def replicated(folder: Path, stores: list[str], copies: int) -> Gateway:
    """Return a gateway (not started) over ``stores``."""
    return gateway(
        folder,
        settings=f"[cluster]\nkind = 'replicated'\n[replicated]\nstores = {json.dumps(stores)}\n"
        f"copies = {copies}\nowed_folder = 'owed'\ncooling_s = 0.2\n",
    )


def run(served: Gateway, tool: str) -> dict[str, Any]:
    """Run a tool, and return its report."""
    config = served.command[served.command.index("--config") + 1]
    command = [*SFSS, tool, "--config", config, "--json"]
    done = subprocess.run(
        command, cwd=served.folder, env=PYTHON_ENVIRON, capture_output=True, timeout=DEADLINE_S
    )
    assert not done.stderr, done.stderr
    return dict(json.loads(done.stdout))


def owed(served: Gateway) -> int:
    """Return how many writes stores still have to get."""
    return int(served.request("GET", "/status?detail=full").json()["webserver"]["owed"])


def test_a_node_that_was_down_while_a_file_expired(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        addresses = [each.address for each in nodes]
        served = stack.enter_context(running(replicated(tmp_path, addresses, 3)))
        assert served.put("key", b"old").status == 200
        wait_until(lambda: all(map(item, nodes)), "all have the file")
        nodes[2].kill()
        assert put_ttl(served, b"new") == 200
        wait_until(lambda: served.get("key").status == 404, "it has expired")
        gone = [Kind.TOMBSTONE] * 2
        wait_until(lambda: kinds(nodes[:2]) == gone, "two nodes have swept it")
        assert owed(served) == 1
        nodes[2].start()
        statuses = set()

        def is_paid() -> bool:
            statuses.add(served.get("key").status)
            return owed(served) == 0

        wait_until(is_paid, "the node has got what it had missed")
        assert statuses == {404}
        first, *others = map(item, nodes)
        assert others == [first, first]
        assert kinds(nodes) == [Kind.TOMBSTONE] * 3
        assert run(served, "check")["status"] == 0
        assert served.put("key", b"again").status == 200
        assert served.get("key").body == b"again"


def kinds(servers: list[Server]) -> list[Kind | None]:
    """Return what servers have."""
    found = (item(each) for each in servers)
    return [None if record is None else record.head.kind for record in found]


@pytest.mark.parametrize("workers", [1, 2])
def test_plain_files_go_by_themselves(tmp_path: Path, workers: int) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    served = replicated(tmp_path, [f"file:{folder}" for folder in folders], 2)
    served.command += ["--workers", str(workers)]
    with running(served):
        for number in range(100):
            path = f"/file?path=key{number}&ttl=1"
            assert served.request("PUT", path, b"body").status == 200
        assert served.put("kept", b"kept").status == 200
        assert served.request("PUT", "/file?path=again&ttl=1", b"once").status == 200
        assert served.put("again", b"again").status == 200
        names = {"kept", "again"}
        for folder in folders:
            wait_until(
                lambda folder=folder: {each.name for each in folder.glob("[!.]*")} == names,
                "all others are gone",
            )
        assert run(served, "check")["status"] == 0
        assert served.get("key1").status == 404
        assert (served.get("kept").body, served.get("again").body) == (b"kept", b"again")


def test_plain_files_that_expire_while_there_is_no_gateway(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    served = replicated(tmp_path, [f"file:{folder}" for folder in folders], 2)
    with running(served):
        assert put_ttl(served, b"body") == 200
        served.kill()
        end = time.time() + 1.1
        wait_until(lambda: time.time() > end, "it has expired")
        assert all((folder / "key").exists() for folder in folders)
        served.start()
        wait_until(lambda: not any((folder / "key").exists() for folder in folders), "it is gone")
        assert served.get("key").status == 404


def test_a_scrub_removes_plain_files(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    stores = [f"file:{folder}" for folder in folders]
    with running(replicated(tmp_path, stores, 2)) as served:
        assert put_ttl(served, b"body") == 200
        assert served.put("kept", b"kept").status == 200
        served.kill()
        end = time.time() + 1.1
        wait_until(lambda: time.time() > end, "it has expired")
        files = [folder / "key" for folder in folders]
        assert all(file.exists() for file in files)
        report = run(served, "check")
        assert (report["status"], report["expired"]) == (0, 0)
        report = run(served, "scrub")
        assert (report["status"], report["expired"]) == (0, 2)
        assert not any(file.exists() for file in files)
        assert run(served, "check")["status"] == 0
        served.start()
        assert served.get("key").status == 404
        assert served.get("kept").body == b"kept"


async def test_embedded_stores_with_copies_are_swept(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    with running(replicated(tmp_path, [f"lmdb:{folder}" for folder in folders], 2)) as served:
        assert put_ttl(served, b"body") == 200
        assert served.put("kept", b"kept").status == 200
        for folder in folders:
            store = EmbeddedStore(folder, make=False)
            end = time.monotonic() + DEADLINE_S
            while (head := await store.head(b"key")) is not None and head.kind is Kind.FILE:
                assert time.monotonic() < end, "it is swept"
                await asyncio.sleep(0.05)
            # Something older may be left in a store that is away.
            assert head is not None
            assert head.kind is Kind.TOMBSTONE
            await store.close()
        assert run(served, "check")["status"] == 0
        assert served.get("key").status == 404
        assert served.get("kept").body == b"kept"


def test_copies_on_memcached(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(running(memcached(tmp_path))) for _ in range(3)]
        addresses = [each.address for each in servers]
        served = stack.enter_context(running(replicated(tmp_path, addresses, 3)))
        assert put_ttl(served, b"body") == 200
        wait_until(lambda: served.get("key").status == 404, "it has expired")
        assert run(served, "check")["status"] == 0
        assert run(served, "scrub")["expired"] == 3
        assert kinds(servers) == [Kind.TOMBSTONE] * 3


# memcached


def exptime(server: Server) -> int:
    """Return when memcached forgets the item, -1 never."""
    line = ask(server, b"lru_crawler metadump all\r\n")
    return int(line.split(b"exp=")[1].split()[0])


async def test_memcached_is_told_when_a_file_expires(tmp_path: Path) -> None:
    with running(memcached(tmp_path)) as server:
        store = MemcachedStore(server.address, MemcachedSettings())
        first, second = soon(b"first", 100), soon(b"second", 40 * 86_400)
        for record in (first, second):  # add, cas
            assert await store.set_newest(KEY, record) is None
            expected = record.head.expiry // 1_000_000 + EXPIRY_MARGIN_S
            assert abs(exptime(server) - expected) <= 1
        gone = expired_tombstone(second.head)
        assert await store.set_newest(KEY, gone) is None
        assert exptime(server) == -1
        await store.set(KEY, first)
        assert exptime(server) > 0
        await store.set(KEY, new_record(b"for ever", 1))
        assert exptime(server) == -1
        await store.set(KEY, soon(ttl_s=100 * 365 * 86_400))
        assert exptime(server) == -1
        whole = first._replace(head=first.head._replace(kind=Kind.MANIFEST))
        await store.set(KEY, whole)
        assert exptime(server) > 0
        await store.close()


async def test_memcached_forgets_what_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_store, "EXPIRY_MARGIN_S", 1)
    with running(memcached(tmp_path)) as server:
        store = MemcachedStore(server.address, MemcachedSettings())
        assert await store.set_newest(KEY, soon()) is None
        assert item(server) is not None
        wait_until(lambda: item(server) is None, "memcached has forgotten it")
        await store.close()
