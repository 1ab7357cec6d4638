"""Large files through a gateway, over real stores: in bounded memory, and nothing left over."""

import hashlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from xxhash import xxh3_128_hexdigest

from tests.servers import (
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    Server,
    gateway,
    memcached,
    node,
    node_folder,
    running,
    wait_until,
)
from tests.web.client import FILE, multipart

MIB = 1024 * 1024
LARGE = 12 * MIB
TRANSFERS = 16
ROOM = 64 * MIB
"""What so many transfers at once may add to the memory of a worker."""

BODY = hashlib.shake_256(b"large").digest(9 * MIB + 12_345)
OTHER = BODY[::-1]
CHUNKS = -(-len(BODY) // 522_240)

KINDS = ("embedded", "memcached", "nodes")


@dataclass
class Site:
    """A gateway, and the stores behind it."""

    folder: Path
    kind: str
    gateway: Gateway
    stores: list[Server] = field(default_factory=list)

    def keys(self, server: Server | None = None) -> list[bytes]:
        """Return the keys that a store lists, the first unless told, without those of what was
        deleted.
        """
        server = server or self.stores[0]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"lru_crawler metadump all\r\n")
            lines = connection.makefile("rb")
            found = [line.split()[0] for line in iter(lines.readline, b"END\r\n")]
            keys = [unquote_to_bytes(each.removeprefix(b"key=")) for each in found]
            return [key for key in keys if not _is_tombstone(connection, key)]

    def items(self) -> int:
        """Return how many items the first store has."""
        if self.kind != "embedded":
            return len(self.keys())
        (stats,) = self.gateway.request("GET", "/status").json().values()
        return int(stats["curr_items"])

    def tool(self, name: str, *options: str) -> dict[str, Any]:
        """Run a tool and return its report."""
        config = self.gateway.command[self.gateway.command.index("--config") + 1]
        command = [*SFSS, name, "--config", config, "--json", "--work", "tools", *options]
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=PYTHON_ENVIRON,
            capture_output=True,
            timeout=100,
            check=False,
        )
        assert ended.stdout, ended.stderr
        report: dict[str, Any] = json.loads(ended.stdout)
        return report


def _is_tombstone(connection: socket.socket, key: bytes) -> bool:
    connection.sendall(b"get %b\r\n" % key)
    lines = connection.makefile("rb")
    line = lines.readline()
    if line == b"END\r\n":
        return True
    value = lines.read(int(line.split()[3]))
    assert lines.read(7) == b"\r\nEND\r\n"
    return value[3] == 2


def settings_of(folder: Path, kind: str, stores: list[Server]) -> str:
    """Return what the gateway is told."""
    top = f"[server]\nspool_folder = '{folder}'\n[cluster]\nmax_file_size = {1024 * MIB}\n"
    servers = json.dumps([store.address for store in stores])
    if kind == "embedded":
        return f"{top}chunks_kept_s = 0\n[embedded]\nfolder = 'store'\n"
    if kind == "memcached":
        return f'{top}chunks_kept_s = 0\nkind = "nodes"\n[memcached]\nservers = {servers}\n'
    return f'{top}chunks_kept_s = 0\nkind = "replicated"\n[replicated]\nstores = {servers}\n'


@contextmanager
def site_of(folder: Path, kind: str) -> Iterator[Site]:
    """Run a gateway and its stores."""
    with ExitStack() as start:
        stores = []
        if kind == "memcached":
            stores = [start.enter_context(running(memcached(folder, "-m", "2048")))]
        elif kind == "nodes":
            stores = [start.enter_context(running(node(folder))) for _ in range(3)]
        server = gateway(folder, settings=settings_of(folder, kind, stores))
        yield Site(folder, kind, start.enter_context(running(server)), stores)


@pytest.fixture(name="site", params=KINDS)
def every_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A gateway over each kind of stores."""
    with site_of(tmp_path, request.param) as site:
        yield site


@pytest.fixture(name="copies")
def site_of_copies(tmp_path: Path) -> Iterator[Site]:
    """A gateway over three nodes."""
    with site_of(tmp_path, "nodes") as site:
        yield site


def test_2_mib_over_a_stock_memcached(tmp_path: Path, memcached: Server) -> None:
    settings = f'[cluster]\nkind = "nodes"\n[memcached]\nservers = ["{memcached.address}"]\n'
    with running(gateway(tmp_path, settings=settings)) as server:
        body = BODY[: 2 * MIB]
        assert server.put("two", body).status == 200
        assert server.get("two").body == body
        assert server.put("more", BODY[: 2 * MIB + 1]).status == 413


def test_what_went_in_comes_out(site: Site) -> None:
    server = site.gateway
    made = server.put("a/large", BODY)
    assert made.status == 200
    answer = server.get("a/large")
    assert (answer.status, answer.body == BODY) == (200, True)
    assert answer.headers["etag"] == f'"{xxh3_128_hexdigest(BODY)}"'
    assert answer.headers["content-length"] == str(len(BODY))
    head = server.request("HEAD", "/file?path=a/large")
    for name in ("etag", "content-length", "last-modified", "content-type"):
        assert head.headers[name] == answer.headers[name]
    known = {"If-None-Match": answer.headers["etag"]}
    assert server.request("GET", "/file?path=a/large", headers=known).status == 304
    assert server.request("PUT", "/file?path=a/large", BODY, known).status == 412
    for start, stop in ((0, 1), (522_239, 522_241), (5_000_000, len(BODY)), (len(BODY) - 1, None)):
        wanted = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        part = server.request("GET", "/file?path=a/large", headers=wanted)
        assert (part.status, part.body == BODY[start:stop]) == (206, True)
    two = {"Range": "bytes=0-9,9000000-9000009"}
    parts = server.request("GET", "/file?path=a/large", headers=two)
    assert parts.status == 206
    assert BODY[:10] in parts.body
    assert BODY[9_000_000:9_000_010] in parts.body


def test_a_form_may_carry_a_large_file(site: Site) -> None:
    content_type, form = multipart((FILE, BODY))
    headers = {"Content-Type": content_type}
    made = site.gateway.request("POST", "/files?path=large", form, headers)
    assert made.status == 201
    assert site.gateway.get("large").body == BODY


def test_replaced_and_deleted_files_leave_nothing(site: Site) -> None:
    server = site.gateway
    assert server.put("large", BODY).status == 200
    assert server.put("large", OTHER).status == 200
    assert server.get("large").body == OTHER
    wait_until(lambda: site.items() == CHUNKS + 1, "the former chunks are gone")
    assert server.put("large", b"small").status == 200
    assert server.get("large").body == b"small"
    assert server.request("DELETE", "/file?path=large").status == 204
    assert server.get("large").status == 404
    wait_until(lambda: site.items() == 0, "all is gone")
    if site.kind != "memcached":
        assert site.tool("scrub", "--orphans-after", "0")["findings"]["orphan"] == 0


def test_listings_show_files_and_no_chunks(tmp_path: Path) -> None:
    with site_of(tmp_path, "embedded") as site:
        site.gateway.put("large", BODY)
        site.gateway.put("small", b"small")
        page = site.gateway.request("GET", "/files").json()
        found = [(each["path"], each["size"]) for each in page["files"]]
        assert found == [("large", len(BODY)), ("small", 5)]
        assert page["next"] is None
        assert site.tool("check")["status"] == 0


def memory_bytes(pid: int) -> int:
    """Return the memory of a process that is its own: mapped files are the page cache's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Give a list that grows by the memory of a process all the while."""
    seen, done = [memory_bytes(pid)], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(memory_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def zeros(path: str, size: int) -> Iterator[bytes]:
    """Yield the body of a file, which is another for each path."""
    yield path.encode().ljust(MIB, b".")
    for _ in range(size // MIB - 1):
        yield bytes(MIB)


def upload(server: Gateway, path: str, size: int = LARGE) -> int:
    """Send a large file that nobody holds in memory; return the status."""
    headers = {"Content-Length": str(size)}
    return server.request("PUT", f"/file?path={path}", zeros(path, size), headers).status


def digest_of_download(server: Gateway, path: str) -> str:
    """Return the digest of a file as it comes."""
    digest = hashlib.sha256()
    with closing(server.connect()) as connection:
        connection.request("GET", f"/file?path={path}")
        response = connection.getresponse()
        while piece := response.read(MIB):
            digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_many_transfers_at_once_take_little_memory(tmp_path: Path, kind: str) -> None:
    with site_of(tmp_path, kind) as site, ThreadPoolExecutor(TRANSFERS) as threads:
        server = site.gateway
        assert server.put("first", b"first").status == 200
        (worker,) = server.workers()
        paths = [f"large-{number}" for number in range(TRANSFERS)]
        with watched(worker) as seen:
            statuses = list(threads.map(lambda path: upload(server, path), paths))
            digests = list(threads.map(lambda path: digest_of_download(server, path), paths))
        assert statuses == [200] * TRANSFERS
        for path, digest in zip(paths, digests, strict=True):
            assert digest == hashlib.sha256(b"".join(zeros(path, LARGE))).hexdigest()
        assert max(seen) - seen[0] <= ROOM


def begin_upload(server: Gateway, path: str, sent: int) -> HTTPConnection:
    """Send some of a file."""
    connection = server.connect()
    connection.putrequest("PUT", f"/file?path={path}")
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders()
    connection.send(BODY[:sent])
    return connection


def test_a_client_that_goes_away_leaves_nothing(site: Site) -> None:
    server = site.gateway
    assert server.put("large", OTHER).status == 200
    begin_upload(server, "large", len(BODY) - 1).close()
    begin_upload(server, "new", MIB).close()
    assert server.get("large").body == OTHER
    assert server.get("new").status == 404
    wait_until(lambda: site.items() == CHUNKS + 1, "nothing was added")


def test_a_server_without_room_keeps_no_chunks(tmp_path: Path) -> None:
    with running(memcached(tmp_path, "-M", "-m", "6")) as store:
        server = gateway(tmp_path, settings=settings_of(tmp_path, "memcached", [store]))
        with running(server):
            site = Site(tmp_path, "memcached", server, [store])
            assert server.put("small", b"small").status == 200
            assert server.put("large", BODY).status == 507
            wait_until(lambda: site.items() == 1, "the chunks are gone")
            assert server.get("small").body == b"small"
            assert server.get("large").status == 404


def test_a_stopped_gateway_removes_what_is_left(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "embedded", []).replace("chunks_kept_s = 0\n", "")
    with running(gateway(tmp_path, settings=settings)) as server:
        site = Site(tmp_path, "embedded", server)
        assert server.put("large", BODY).status == 200
        assert server.put("large", b"small").status == 200
        assert site.items() == CHUNKS + 1
        assert server.stop() == 0
        server.start()
        assert server.get("large").body == b"small"
        assert site.items() == 1


def test_what_a_killed_gateway_leaves_is_found_by_scrub(tmp_path: Path) -> None:
    with site_of(tmp_path, "embedded") as site:
        server = site.gateway
        assert server.put("large", BODY).status == 200
        thread = threading.Thread(target=upload_in_vain, args=(server, "lost"))
        thread.start()
        wait_until(lambda: site.items() > CHUNKS + 4, "chunks have been written")
        server.kill()
        thread.join()
        server.start()
        assert server.get("lost").status == 404
        assert site.items() > CHUNKS + 1
        assert site.tool("check")["status"] == 0
        assert site.tool("scrub")["findings"]["orphan"] == 0  # too young
        dry = site.tool("scrub", "--orphans-after", "0", "--dry-run")
        assert (dry["status"], dry["removed"], dry["foreign"]) == (1, 0, 0)
        report = site.tool("scrub", "--orphans-after", "0")
        assert (report["status"], report["removed"]) == (0, dry["findings"]["orphan"])
        assert site.items() == CHUNKS + 1
        assert server.get("large").body == BODY
        assert site.tool("scrub", "--orphans-after", "0")["findings"]["orphan"] == 0


def upload_in_vain(server: Gateway, path: str) -> None:
    """Send a file to a gateway that is killed before it answers."""
    with pytest.raises((RemoteDisconnected, ConnectionError)):
        upload(server, path, 512 * MIB)


def test_a_gateway_killed_over_copies(copies: Site) -> None:
    server = copies.gateway
    assert server.put("large", OTHER).status == 200
    thread = threading.Thread(target=upload_in_vain, args=(server, "large"))
    thread.start()
    wait_until(lambda: len(copies.keys()) > CHUNKS + 4, "chunks have been written")
    server.kill()
    thread.join()
    server.start()
    assert server.get("large").body == OTHER
    copies.tool("repair")
    report = copies.tool("scrub", "--orphans-after", "0")
    assert report["status"] == 0
    assert report["removed"] > 3
    assert [len(copies.keys(store)) for store in copies.stores] == [CHUNKS + 1] * 3
    assert server.get("large").body == OTHER
    assert copies.tool("check")["status"] == 0


def test_one_node_down_and_then_wiped(copies: Site) -> None:
    server, (first, *_) = copies.gateway, copies.stores
    assert server.put("before", BODY).status == 200
    first.kill()
    assert server.get("before").body == BODY
    assert server.put("meanwhile", OTHER).status == 200
    assert server.get("meanwhile").body == OTHER
    for file in node_folder(first).iterdir():
        file.unlink()
    first.start()
    report = copies.tool("repair")
    assert report["status"] == 0
    assert report["foreign"] == 0
    wait_until(lambda: len(copies.keys(first)) == 2 * (CHUNKS + 1), "all chunks are back")
    for other in copies.stores[1:]:
        other.kill()
    assert server.get("before").body == BODY
    for other in copies.stores[1:]:
        other.start()
    assert copies.tool("check")["status"] == 0


def put_everywhere(site: Site, path: str, body: bytes) -> None:
    """Put a file of ``CHUNKS`` chunks, and wait for the third store as well."""
    assert site.gateway.put(path, body).status == 200
    wait_until(
        lambda: all(len(site.keys(store)) == CHUNKS + 1 for store in site.stores),
        "every store has got all",
    )


def chunk_keys(site: Site, server: Server) -> list[bytes]:
    """Return the keys of all chunks, by their number."""
    return sorted(key for key in site.keys(server) if key.startswith(b"%00c"))


def tell(server: Server, command: bytes) -> bytes:
    """Return the first line that a store answers."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(command)
        return connection.makefile("rb").readline()


def test_a_chunk_that_is_lost_breaks_the_answer_off(tmp_path: Path) -> None:
    with site_of(tmp_path, "memcached") as site:
        server, (store,) = site.gateway, site.stores
        assert server.put("large", BODY).status == 200
        keys = chunk_keys(site, store)
        assert tell(store, b"delete %b\r\n" % keys[3]) == b"DELETED\r\n"
        with pytest.raises(IncompleteRead) as caught:
            server.get("large")
        assert caught.value.partial == BODY[: len(caught.value.partial)]
        part = server.request("GET", "/file?path=large", headers={"Range": "bytes=0-1000000"})
        assert part.body == BODY[:1_000_001]
        assert tell(store, b"set %b 0 0 5\r\nwrong\r\n" % keys[0]) == b"STORED\r\n"
        assert server.get("large").status == 500  # nothing had been sent
        store.kill()
        assert server.get("large").status == 504


def test_a_chunk_that_is_lost_everywhere_is_reported(copies: Site) -> None:
    put_everywhere(copies, "large", BODY)
    key = chunk_keys(copies, copies.stores[0])[3]
    for store in copies.stores:
        assert tell(store, b"delete %b\r\n" % key) == b"DELETED\r\n"
    report = copies.tool("scrub")
    assert (report["status"], report["findings"]["damaged"]) == (1, 1)
    (row,) = report["found"]
    assert (row["path"], row["fault"]) == ("large", "damaged")
    assert f"1 of its {CHUNKS} chunks, the first is number 3" in row["reason"]


def test_a_chunk_that_is_lost_somewhere_comes_back(copies: Site) -> None:
    server, first = copies.gateway, copies.stores[0]
    put_everywhere(copies, "large", BODY)
    for key in chunk_keys(copies, first)[::2]:
        assert tell(first, b"delete %b\r\n" % key) == b"DELETED\r\n"
    assert server.get("large").body == BODY
    assert copies.tool("repair")["status"] == 0
    assert len(chunk_keys(copies, first)) == CHUNKS
    assert copies.tool("check")["findings"]["missing"] == 0


def test_chunks_are_moved_to_another_store(tmp_path: Path) -> None:
    with ExitStack() as start:
        stores = [start.enter_context(running(node(tmp_path))) for _ in range(3)]
        few = settings_of(tmp_path, "nodes", stores[:2]) + "copies = 2\n"
        with running(gateway(tmp_path, settings=few)) as server:
            assert server.put("large", BODY).status == 200
        former = json.dumps([store.address for store in stores[:2]])
        more = settings_of(tmp_path, "nodes", stores) + f"copies = 2\nformer_stores = {former}\n"
        server = start.enter_context(running(gateway(tmp_path, settings=more)))
        site = Site(tmp_path, "nodes", server, stores)
        assert server.get("large").body == BODY
        report = site.tool("rebalance")
        assert (report["status"], report["foreign"]) == (0, 0)
        held = [len(site.keys(store)) for store in stores]
        assert sum(held) == 2 * (CHUNKS + 1)
        assert all(held)
        assert site.tool("check")["status"] == 0
        assert server.get("large").body == BODY


def test_a_copy_of_a_large_file_is_one(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "embedded", []).replace(
        "[server]\n", '[server]\nfaces = ["paths", "status"]\n'
    )
    with running(gateway(tmp_path, settings=settings)) as server:
        assert server.request("PUT", "/a", BODY).status == 201
        assert server.request("COPY", "/a", headers={"Destination": "/b"}).status == 201
        assert server.request("MOVE", "/a", headers={"Destination": "/c"}).status == 201
        assert server.request("GET", "/a").status == 404
        for path in ("/b", "/c"):
            assert server.request("GET", path).body == BODY
        site = Site(tmp_path, "embedded", server)
        wait_until(lambda: site.items() == 2 * (CHUNKS + 1), "the chunks of /a are gone")
