"""Gateways over real memcached-protocol servers that die, stop, fill up or hold wrong bytes."""

import base64
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sfss.placement import KetamaRing
from sfss.record import RECORD_FLAGS, encode, new_record
from tests.servers import Answer, Gateway, Server, gateway, memcached, nutcracker, running

TIMEOUT_S = 0.5


class Plain:
    """Any other memcached client: one command, one reply, on a plain socket."""

    def __init__(self, server: Server) -> None:
        self._address = (server.host, server.port)

    def set(self, key: bytes, flags: int, body: bytes) -> None:
        """Store an item."""
        command = b"set %b %d 0 %d\r\n%b\r\n" % (key, flags, len(body), body)
        assert self._ask(command, b"STORED\r\n") == b"STORED\r\n"

    def get(self, key: bytes) -> bytes:
        """Return the whole reply to a get."""
        return self._ask(b"get %b\r\n" % key, b"END\r\n")

    def _ask(self, command: bytes, end: bytes) -> bytes:
        reply = b""
        with socket.create_connection(self._address, timeout=10) as connection:
            connection.sendall(command)
            while not reply.endswith(end):
                part = connection.recv(65536)
                assert part, reply
                reply += part
        return reply


def settings(kind: str, servers: list[Server], more: str = "") -> str:
    """Return the TOML of a gateway over ``servers``."""
    addresses = ", ".join(f'"{server.address}"' for server in servers)
    return (
        f'[cluster]\nkind = "{kind}"\n[memcached]\nservers = [{addresses}]\n'
        f"timeout_s = {TIMEOUT_S}\n{more}\n"
    )


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Gateway, list[Server]]]:
    """A gateway over two memcached that hold a share each."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running(memcached(tmp_path, "-I", "4m"))) for _ in range(2)]
        server = gateway(tmp_path, settings=settings("nodes", servers))
        yield stack.enter_context(running(server)), servers


@pytest.fixture
def proxies(tmp_path: Path) -> Iterator[tuple[Gateway, list[Server]]]:
    """A gateway over two twemproxies that both reach the same two memcached."""
    with ExitStack() as stack:
        behind = [stack.enter_context(running(memcached(tmp_path, "-I", "4m"))) for _ in range(2)]
        addresses = [server.address for server in behind]
        servers = [stack.enter_context(running(nutcracker(tmp_path, addresses))) for _ in range(2)]
        more = "item_limit = 4194304\nretry_after_s = 0.2"
        server = gateway(tmp_path, settings=settings("proxies", servers, more))
        yield stack.enter_context(running(server)), servers


def owned(servers: list[Server], count: int = 20) -> dict[str, list[str]]:
    """Return ``count`` paths for each server that owns them."""
    ring = KetamaRing([server.address for server in servers])
    paths: dict[str, list[str]] = {server.address: [] for server in servers}
    for turn in range(count * len(servers) * 10):
        paths[ring.owner(f"file{turn}".encode())].append(f"file{turn}")
    assert all(len(names) >= count for names in paths.values())
    return {address: names[:count] for address, names in paths.items()}


def each_method(server: Gateway, path: str) -> list[Answer]:
    """Ask every method for one path."""
    return [
        server.request("GET", f"/file?path={path}"),
        server.request("HEAD", f"/file?path={path}"),
        server.request("PUT", f"/file?path={path}", b"new"),
        server.request("POST", f"/files?path={path}", b"new"),
        server.request("DELETE", f"/file?path={path}"),
    ]


def test_an_unreachable_owner_is_504_and_nobody_stands_in(
    nodes: tuple[Gateway, list[Server]],
) -> None:
    server, (first, second) = nodes
    paths = owned([first, second])
    for path in (*paths[first.address], *paths[second.address]):
        assert server.put(path, path.encode()).status == 200
    first.kill()
    for path in paths[first.address]:
        answers = each_method(server, path)
        assert [answer.status for answer in answers] == [504] * 5
        assert first.address in answers[0].json()["error"]
        assert Plain(second).get(path.encode()) == b"END\r\n"
    for path in paths[second.address]:
        assert server.get(path).body == path.encode()
    status = server.request("GET", "/status").json()
    assert list(status[first.address]) == ["error"]
    assert status[second.address]["version"]
    first.start()
    for path in paths[first.address]:
        # A memcached comes back empty: now it is asked, and says no.
        assert server.get(path).status == 404
        assert server.put(path, b"again").status == 200


def test_a_stopped_owner_is_504_in_time_and_harms_no_other_request(
    nodes: tuple[Gateway, list[Server]],
) -> None:
    server, (first, second) = nodes
    paths = owned([first, second])
    for path in (*paths[first.address], *paths[second.address]):
        server.put(path, path.encode())
    first.pause()
    with ThreadPoolExecutor(8) as pool:
        stuck = list(pool.map(server.get, paths[first.address][:8]))
        well = list(pool.map(server.get, paths[second.address]))
    assert [answer.status for answer in stuck] == [504] * 8
    assert {"no answer within 0.5 s" in answer.json()["error"] for answer in stuck} == {True}
    assert [answer.body for answer in well] == [path.encode() for path in paths[second.address]]
    first.resume()
    for path in paths[first.address]:
        # A connection with an unread reply, used again, would give a false miss or another's body.
        assert server.get(path).body == path.encode()


def test_all_nodes_down_is_504_on_every_endpoint(nodes: tuple[Gateway, list[Server]]) -> None:
    server, servers = nodes
    server.put("a", b"x")
    for node in servers:
        node.kill()
    assert [answer.status for answer in each_method(server, "a")] == [504] * 5
    for target in ("/status", "/status?detail=full"):
        answer = server.request("GET", target)
        assert answer.status == 504
        assert servers[0].address in answer.json()["error"]
    assert server.request("GET", "/file").status == 400


def test_a_dead_proxy_costs_nothing_but_a_try(proxies: tuple[Gateway, list[Server]]) -> None:
    server, (first, second) = proxies
    names = [f"file{turn}" for turn in range(30)]
    for name in names:
        assert server.put(name, name.encode()).status == 200
    first.kill()
    for name in names:
        assert server.get(name).body == name.encode()
        assert server.put(name, b"new").status == 200
        assert server.request("DELETE", f"/file?path={name}").status == 204
        assert server.get(name).status == 404
    second.kill()
    assert [answer.status for answer in each_method(server, "file1")] == [504] * 5
    assert server.request("GET", "/status").status == 504
    first.start()
    assert server.put("file1", b"back").status == 200


def test_a_stopped_proxy_is_passed_over(proxies: tuple[Gateway, list[Server]]) -> None:
    server, (first, _) = proxies
    names = [f"file{turn}" for turn in range(20)]
    for name in names:
        server.put(name, name.encode())
    first.pause()
    assert [server.get(name).body for name in names] == [name.encode() for name in names]
    first.resume()
    assert [server.get(name).body for name in names] == [name.encode() for name in names]


def test_a_node_killed_under_load_gives_only_right_answers_and_504(
    nodes: tuple[Gateway, list[Server]],
) -> None:
    server, (first, _) = nodes
    names = [f"file{turn}" for turn in range(40)]
    seen: set[int] = set()

    def put_and_get(name: str) -> tuple[int, Answer]:
        body = name.encode() * 1000
        return server.put(name, body).status, server.get(name)

    with ThreadPoolExecutor(8) as pool:
        running_puts = [pool.submit(put_and_get, name) for name in names * 5]
        running_puts[20].result()
        first.kill()
        for name, future in zip(names * 5, running_puts, strict=True):
            stored, got = future.result()
            assert stored in (200, 504)
            assert got.status in (200, 504)
            seen |= {stored, got.status}
            if got.status == 200:
                assert got.body == name.encode() * 1000
    assert seen == {200, 504}


def test_wrong_bytes_in_the_store_are_500_and_never_served(
    nodes: tuple[Gateway, list[Server]],
) -> None:
    server, servers = nodes
    (path, *_), owner = owned(servers)[servers[0].address], servers[0]
    value = bytearray(encode(new_record(b"the body", 1)))
    for position in range(len(value)):
        damaged = bytearray(value)
        damaged[position] ^= 1
        Plain(owner).set(path.encode(), RECORD_FLAGS, bytes(damaged))
        answer = server.get(path)
        assert answer.status == 500
        assert b"the bod" not in answer.body
    Plain(owner).set(path.encode(), RECORD_FLAGS, bytes(value))
    assert server.get(path).body == b"the body"
    Plain(owner).set(path.encode(), RECORD_FLAGS, bytes(damaged))
    assert server.put(path, b"mended").status == 200
    assert server.get(path).body == b"mended"


def test_a_body_of_any_other_client_is_served(memcached: Server, tmp_path: Path) -> None:
    Plain(memcached).set(b"pictures/a%20b.png", 0, b"raw body")
    with running(gateway(tmp_path, settings=settings("nodes", [memcached]))) as server:
        answer = server.get("pictures/a b.png")
        assert (answer.status, answer.body) == (200, b"raw body")
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["etag"]
        assert "last-modified" not in answer.headers


def test_raw_values_are_plain_bodies_for_any_other_client(
    memcached: Server, tmp_path: Path
) -> None:
    raw = settings("nodes", [memcached], "raw = true")
    with running(gateway(tmp_path, settings=raw)) as server:
        server.put("a b", b"plain")
        assert Plain(memcached).get(b"a%20b") == b"VALUE a%20b 0 5\r\nplain\r\nEND\r\n"
        assert server.get("a b").body == b"plain"


def test_files_of_the_sfss_of_2014(memcached: Server, tmp_path: Path) -> None:
    path = "音乐/" + "a" * 179
    assert len(path.encode()) == 186
    Plain(memcached).set(base64.b64encode(path.encode()), 0, b"old file")
    old = settings("nodes", [memcached], 'key_encoding = "base64"\nraw = true')
    with running(gateway(tmp_path, settings=old)) as server:
        assert server.get(path).body == b"old file"
        assert server.put(path, b"new file").status == 200
        assert b"\r\nnew file\r\n" in Plain(memcached).get(base64.b64encode(path.encode()))
        refused = server.put(path + "b", b"x")
        assert refused.status == 400
        assert "252 bytes; 250 are allowed" in refused.json()["error"]


def test_a_file_too_large_for_the_server_is_413_and_the_old_one_stays(
    memcached: Server, tmp_path: Path
) -> None:
    without_chunks = settings("nodes", [memcached], "raw = true")
    with running(gateway(tmp_path, settings=without_chunks)) as server:
        assert server.put("a", b"old").status == 200
        refused = server.put("a", bytes(2_000_000))
        assert refused.status == 413
        assert memcached.address in refused.json()["error"]
        assert server.get("a").body == b"old"


def test_a_full_server_is_507_with_its_reason(tmp_path: Path) -> None:
    with ExitStack() as stack:
        small = stack.enter_context(running(memcached(tmp_path, "-M", "-m", "8")))
        server = stack.enter_context(
            running(gateway(tmp_path, settings=settings("nodes", [small])))
        )
        answers = [server.put(f"file{turn}", bytes(500_000)) for turn in range(40)]
        assert {answer.status for answer in answers} == {200, 507}
        refused = next(answer for answer in answers if answer.status == 507)
        assert "memory" in refused.json()["error"]
        assert "the store has dropped what was there before" in refused.json()["error"]
        for turn, answer in enumerate(answers):
            if answer.status == 200:
                assert server.get(f"file{turn}").body == bytes(500_000)
        assert server.request("DELETE", "/file?path=file0").status == 204


def test_listing_where_the_protocol_has_none_is_501(nodes: tuple[Gateway, list[Server]]) -> None:
    answer = nodes[0].request("GET", "/files")
    assert answer.status == 501
    assert "list" in answer.json()["error"]


def test_status_names_every_store_by_its_address(
    nodes: tuple[Gateway, list[Server]], proxies: tuple[Gateway, list[Server]]
) -> None:
    server, servers = nodes
    answer = server.request("GET", "/status")
    assert answer.headers["content-type"].startswith("application/json")
    assert set(answer.json()) == {node.address for node in servers}
    for stats in answer.json().values():
        assert stats["version"]
        assert all(isinstance(value, str) for value in stats.values())
    server, servers = proxies
    assert set(server.request("GET", "/status").json()) == {proxy.address for proxy in servers}
