"""Clients that are slow, or go away at any stage, and many that do nothing: others are served, and
nothing is kept of them.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.lab.processes import descriptors, memory_bytes
from tests.servers import Gateway, gateway, running, wait_until
from tests.web.client import Wire, chunked, head, multipart

MIB = 1024 * 1024
LARGE = bytes(range(256)) * (8 * MIB // 256)
GROWTH_BYTES = 48 * MIB
EACH = 8
SETTINGS = """
[server]
workers = 1
faces = ["native", "status"]
body_timeout_s = 2
keepalive_timeout_s = 3
[cluster]
max_file_size = 67108864
"""
KIND, FORM = multipart(('form-data; name="f"; filename="a"', bytes(50_000)))
PUT = head("PUT", "/file?path=new", "Content-Length: 100000")

STAGES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 0),
    "half a line": (b"GET /file?pa", 0),
    "half a head": (head("GET", "/file?path=canary")[:-2], 0),
    "an answer unread": (head("GET", "/file?path=canary"), 0),
    "an answer half read": (head("GET", "/file?path=canary"), 50),
    "answers unread": (head("GET", "/file?path=canary") * 20, 0),
    "a large answer unread": (head("GET", "/file?path=large"), 0),
    "a large answer half read": (head("GET", "/file?path=large"), MIB),
    "a range half read": (head("GET", "/file?path=large", "Range: bytes=1000000-"), MIB),
    "ranges half read": (head("GET", "/file?path=large", "Range: bytes=0-999999,2000000-"), MIB),
    "a head with a body to come": (PUT, 0),
    "a body invited": (PUT[:-2] + b"Expect: 100-continue\r\n\r\n", 10),
    "half a body": (PUT + bytes(50_000), 0),
    "half a large body": (
        head("PUT", "/file?path=new", "Content-Length: 9000000") + LARGE[:MIB],
        0,
    ),
    "a body, unanswered": (PUT + bytes(100_000), 0),
    "half of chunks": (
        head("PUT", "/file?path=new", "Transfer-Encoding: chunked") + chunked(bytes(9000))[:-4],
        0,
    ),
    "half a form": (
        head("POST", "/files?path=new", f"Content-Type: {KIND}", f"Content-Length: {len(FORM)}")
        + FORM[:30_000],
        0,
    ),
    "a body refused": (head("PUT", "/file?path=/", "Content-Length: 9000000") + LARGE[:MIB], 0),
    "a listing": (head("GET", "/files"), 10),
    "events": (head("GET", "/status/events"), 300),
}
"""What a client has sent, and how many bytes it has read, when it goes away."""


@pytest.fixture(name="api", scope="module")
def own_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("clients")
    with running(gateway(folder, "--store", "store", settings=SETTINGS)) as server:
        assert server.put("canary", b"canary" * 100).status == 200
        assert server.put("large", LARGE).status == 200
        yield server
        assert "Traceback" not in server.output()


def read(connection: Wire, size: int) -> None:
    """Read up to ``size`` bytes."""
    with suppress(OSError):
        while size > 0 and (piece := connection._file.read1(size)):
            size -= len(piece)


def close(connection: Wire) -> None:
    """Go as most do."""
    connection.close()


def half_close(connection: Wire) -> None:
    """Say that nothing more comes, and read what still does, for a while."""
    with suppress(OSError):
        connection.half_close()
        connection._socket.settimeout(0.2)
        read(connection, 2 * len(LARGE))
    connection.close()


@pytest.mark.parametrize("leave", [close, half_close, Wire.reset], ids=["FIN", "half", "RST"])
def test_nothing_is_kept_of_clients_that_go_away(
    api: Gateway, leave: Callable[[Wire], None]
) -> None:
    (worker,) = api.workers()
    wait_until(lambda: connections(api) == 1, "all others have gone")
    before, memory = descriptors(worker), memory_bytes(worker)
    with Wire(api.host, api.port) as staying:
        for stage, (sent, size) in STAGES.items():
            for _ in range(EACH if size < MIB else 3):
                connection = Wire(api.host, api.port)
                with suppress(OSError):
                    connection.send(sent)
                read(connection, size)
                leave(connection)
            staying.send(head("GET", "/file?path=canary"))
            assert staying.answer().body == b"canary" * 100, stage
    assert api.get("large").body == LARGE
    wait_until(lambda: connections(api) == 1, "their connections are closed")
    wait_until(lambda: descriptors(worker) <= before, "so are their files")
    assert memory_bytes(worker) - memory < GROWTH_BYTES
    kept = api.get("new")
    assert kept.status == 404 or kept.body == bytes(100_000)  # of the stage that sends all of it


def connections(api: Gateway) -> int:
    """Return how many there are, that of this question included."""
    return int(api.request("GET", "/status?detail=full").json()["webserver"]["connections"])


def test_slow_clients_hold_up_nobody(api: Gateway) -> None:
    (worker,) = api.workers()
    memory = memory_bytes(worker)
    with ExitStack() as stack:
        heads, bodies, readers = (
            [stack.enter_context(Wire(api.host, api.port)) for _ in range(30)] for _ in range(3)
        )
        for reader in readers:  # of answers that they do not read
            reader.send(head("GET", "/file?path=large"))
        for body in bodies:
            body.send(PUT)
        for at in range(10):
            for each in heads:
                each.send(b"GET /file?path=canary"[at : at + 1])
            for each in bodies:
                each.send(b"x")
            assert api.get("canary").body == b"canary" * 100
        growth = memory_bytes(worker) - memory
        assert growth < len(readers) * len(LARGE) // 2, growth
        assert all(reader.answer().body == LARGE for reader in readers)
        for each in bodies:  # they have been given up
            assert each.answer().status == 408
            assert each.ended()


IDLE = 4000


def test_thousands_of_idle_connections(
    tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(IDLE, hard - 300) if hard != resource.RLIM_INFINITY else IDLE
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 200), hard))
    settings = "[server]\nworkers = 1\nkeepalive_timeout_s = 600\n"
    server = gateway(tmp_path_factory.mktemp("idle"), "--store", "store", settings=settings)
    try:
        with running(server), ExitStack() as stack:
            assert server.put("a", b"body").status == 200
            (worker,) = server.workers()
            memory = memory_bytes(worker)
            idle = []
            for _ in range(number):
                idle.append(stack.enter_context(Wire(server.host, server.port)))
            for each in idle[::2]:  # every other has asked before
                each.send(head("GET", "/file?path=a"))
            assert all(each.answer().body == b"body" for each in idle[::2])
            each_bytes = (memory_bytes(worker) - memory) // number
            assert server.get("a").body == b"body"
            assert connections(server) == number + 1
            assert each_bytes < 64 * 1024
            began = time.monotonic()
            assert server.stop() == 0
            seconds = time.monotonic() - began
            assert all(each.ended() for each in idle)
            say(f"{number} connections, {each_bytes} bytes each, all closed in {seconds:.1f} s")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
