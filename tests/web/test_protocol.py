"""The face in this process, over a dict or over a store that fails as told."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from sfss import errors
from sfss.cluster import Cluster
from sfss.config import ServerSettings
from sfss.config_limits import LimitsSettings
from sfss.grants import OPEN, Rules
from sfss.keys import KeyScheme
from sfss.listening import DEFAULT_FACES
from sfss.metrics import Board
from sfss.record import Head, Record, new_record
from sfss.routed import Owner, Routed
from sfss.stores.base import Guard
from sfss.web import http
from sfss.web import server as web_server
from sfss.web.app import FACES
from sfss.web.server import Runner
from tests.servers import Answer
from tests.stores.dict_store import DictStore
from tests.web.client import Wire, chunked, head

LIMIT = 1000
Result = TypeVar("Result")


class ToldStore(DictStore):
    """Fails with ``error`` where there is one; holds writes back while ``held``."""

    def __init__(self) -> None:
        super().__init__("told")
        self.error: Exception | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.begun = asyncio.Event()

    async def get(self, key: bytes) -> Record | None:
        """Fail if told to."""
        if self.error:
            raise self.error
        return await super().get(key)

    async def head(self, key: bytes) -> Head | None:
        """Fail if told to."""
        if self.error:
            raise self.error
        return await super().head(key)

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Begin, and end when nothing holds it back."""
        self.begun.set()
        await self.held.wait()
        if self.error:
            raise self.error
        await super().set(key, record, guard)


@dataclass
class Face:
    """A running application on ``port``."""

    store: ToldStore
    runner: Runner
    board: Board
    port: int = 0
    wires: list[Wire] = field(default_factory=list)

    async def connect(self) -> Wire:
        """Return a connection, closed with the face."""
        self.wires.append(await asyncio.to_thread(Wire, "127.0.0.1", self.port))
        return self.wires[-1]

    async def ask(self, *pieces: bytes, method: str = "GET") -> Answer:
        """Send one request on a connection of its own and return the answer."""
        with await asyncio.to_thread(Wire, "127.0.0.1", self.port) as wire:
            return await asyncio.to_thread(exchange, wire, *pieces, method=method)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the loop run until ``holds()``."""
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.001)


def exchange(wire: Wire, *pieces: bytes, method: str = "GET") -> Answer:
    """Send a request and read its answer; blocking."""
    wire.send(*pieces)
    return wire.answer(method)


@asynccontextmanager
async def serving(
    settings: ServerSettings, limits: LimitsSettings | None = None, rules: Rules = OPEN
) -> AsyncIterator[Face]:
    """Serve a store in this loop."""
    store = ToldStore()
    owner = Owner({store.address: store}, lambda _: store.address)
    cluster = Cluster(Routed([store], owner), KeyScheme("plain"), LIMIT)
    board = Board(2)
    counters = board.row(1)
    counters.start(os.getpid())
    bounds = limits or LimitsSettings()
    served = http.Site(
        cluster, board, settings.body_timeout_s, Path("/tmp"), limits=bounds, rules=rules
    )
    face = Face(store, Runner(served, settings, counters), board)
    await face.runner.setup()
    site = web.TCPSite(face.runner, "127.0.0.1", 0)
    await site.start()
    face.port = site.port
    try:
        yield face
    finally:
        store.held.set()
        for wire in face.wires:
            wire.close()
        await face.runner.cleanup()


@pytest.fixture(name="face")
async def running_face() -> AsyncIterator[Face]:
    async with serving(ServerSettings()) as face:
        yield face


def leaves(kind: type[Exception]) -> set[type[Exception]]:
    """Return the leaves of a tree of errors."""
    below = kind.__subclasses__()
    return {kind} if not below else set().union(*map(leaves, below))


def test_every_leaf_of_the_errors_has_a_status_and_nothing_else_has() -> None:
    assert set(http.STATUS) == leaves(errors.SfssError)


def test_the_routes_are_the_api() -> None:
    routes = [route for face in DEFAULT_FACES for route in FACES[face]]
    assert {(route.method, route.address) for route in routes} == {
        ("POST", "/files"),
        ("GET", "/files"),
        ("PUT", "/file"),
        ("GET", "/file"),
        ("DELETE", "/file"),
        ("GET", "/status"),
        ("GET", "/status/events"),
        ("GET", "/status/*"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/browse"),
        ("GET", "/browse/*"),
        ("GET", "/openapi.json"),
        ("GET", "/api/"),
        ("GET", "/api/common.css"),
        ("GET", "/api/page.css"),
    }
    assert all(route.summary for face in FACES.values() for route in face)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (errors.Unreachable("a:1", "refused"), 504, "a:1"),
        (errors.NoStoreReachable({"a:1": "late"}), 504, "a:1 (late)"),
        (errors.StoreFull("a:1", "no memory"), 507, "no memory"),
        (errors.TooLarge(10, 5, "a:1"), 413, "a:1 takes at most 5 bytes"),
        (errors.PathTaken("file:///a", "b", "a folder has that name"), 409, "cannot keep b: a f"),
        (errors.Corrupt("a:1", b"k", "x", "y"), 500, "a:1 holds a damaged k"),
        (errors.SettingError("file", "a.b", "is 1", "2 is expected"), 500, "a.b"),
    ],
)
async def test_what_a_store_says_is_told(
    face: Face, error: Exception, status: int, words: str
) -> None:
    face.store.error = error
    for method in ("GET", "HEAD", "PUT"):
        body = b"x" if method == "PUT" else b""
        fields = f"Content-Length: {len(body)}"
        answer = await face.ask(head(method, "/file?path=a", fields), body, method=method)
        assert answer.status == status
        if method != "HEAD":
            assert words in answer.json()["error"]


async def test_damage_is_logged(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    face.store.error = errors.Corrupt("a:1", b"some key", "x", "y")
    await face.ask(head("GET", "/file?path=a"))
    ((_, level, text),) = caplog.record_tuples
    assert level == logging.ERROR
    assert "some key" in text


@pytest.mark.parametrize("error", [ValueError("secret"), TimeoutError(), ConnectionError("x")])
async def test_what_was_not_foreseen_is_500_and_logged_with_its_traceback(
    face: Face, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    face.store.error = error
    wire = await face.connect()
    for _ in range(2):  # the connection goes on
        answer = await asyncio.to_thread(exchange, wire, head("GET", "/file?path=a"))
        assert answer.status == 500
        assert answer.json() == {"error": "internal error"}
    assert [bool(record.exc_info) for record in caplog.records] == [True, True]


async def test_malformed_requests_leave_no_traceback(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await face.ask(b"\0\r\n\r\n")).status == 400
    assert (await face.ask(head("GET", "/file?path=a", "X: \0"))).status == 400
    assert (await face.ask(head("OPTIONS", "*"))).status == 404
    assert (await face.ask(head("CONNECT", "x:1"))).status == 404
    assert not caplog.records


async def test_each_answered_request_is_counted_once(face: Face) -> None:
    wire = await face.connect()
    for pieces, method in (
        ([head("PUT", "/file?path=a", "Content-Length: 5"), b"12345"], "PUT"),
        ([head("PUT", "/file?path=b", "Transfer-Encoding: chunked"), chunked(b"1", b"23")], "PUT"),
        ([head("GET", "/file?path=a")], "GET"),
        ([head("HEAD", "/file?path=a")], "HEAD"),
        ([head("DELETE", "/file?path=b")], "DELETE"),
        ([head("GET", "/file?path=b")], "GET"),
        ([head("GET", "/nowhere")], "GET"),
        ([head("GET", "/file")], "GET"),
    ):
        await asyncio.to_thread(exchange, wire, *pieces, method=method)
    await face.ask(b"nonsense\r\n\r\n")
    await face.until(lambda: face.board.totals()["connections"] == 1)
    assert face.board.statuses() == {"200": 4, "204": 1, "400": 2, "404": 2}
    totals = face.board.totals()
    assert totals["received_bytes"] == 8
    sentences = [
        '{"error": "no such file: b"}\n',
        '{"error": "no such address; known are /files, /file, /status, /status/events,'
        ' /status/*, /health/live, /health/ready, /browse, /browse/*, /openapi.json, /api/"}\n',
        '{"error": "bad argument: path is missing; one is needed: ?path=folder/file.txt"}\n',
        '{"error": "malformed request: Invalid method encountered"}\n',
    ]
    assert totals["sent_bytes"] == 5 + sum(map(len, sentences))
    wire.close()
    await face.until(lambda: face.board.totals()["connections"] == 0)


async def test_a_body_without_an_end_is_not_kept(face: Face) -> None:
    wire = await face.connect()
    endless = threading_send(wire, b"100\r\n" + bytes(256) + b"\r\n")
    await asyncio.to_thread(wire.send, head("PUT", "/file?path=a", "Transfer-Encoding: chunked"))
    sending = asyncio.create_task(asyncio.to_thread(endless))
    answer = await asyncio.to_thread(wire.answer)
    assert answer.status == 413
    await sending
    # Beside the limit there is what one read of the socket may bring.
    assert face.board.totals()["received_bytes"] < LIMIT + 1024 * 1024


def threading_send(wire: Wire, piece: bytes) -> Callable[[], None]:
    """Return what sends ``piece`` again and again, until nobody takes it."""

    def send() -> None:
        try:
            for _ in range(1_000_000):
                wire.send(piece)
        except OSError:
            return

    return send


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_write_goes_on_when_its_client_leaves(face: Face, abruptly: bool) -> None:
    face.store.held.clear()
    wire = await face.connect()
    wire.send(head("PUT", "/file?path=a", "Content-Length: 4"), b"kept")
    await face.store.begun.wait()
    if abruptly:
        wire.reset()
        await face.until(lambda: face.board.totals()["connections"] == 0)
    else:
        wire.close()
    face.store.held.set()
    await face.until(lambda: b"a" in face.store.values)
    await face.until(lambda: face.board.totals()["connections"] == 0)
    assert (await face.ask(head("GET", "/file?path=a"))).body == b"kept"


async def test_a_draining_server_closes_each_connection_after_one_more_request(
    face: Face,
) -> None:
    idle, busy = await face.connect(), await face.connect()
    for wire in (idle, busy):
        answer = await asyncio.to_thread(exchange, wire, head("GET", "/file?path=a"))
        assert "connection" not in answer.headers
    face.store.held.clear()
    busy.send(head("PUT", "/file?path=a", "Content-Length: 1"), b"x")
    await face.store.begun.wait()
    draining = asyncio.create_task(face.runner.drain(30))
    await asyncio.sleep(0)
    answer = await asyncio.to_thread(exchange, idle, head("GET", "/file?path=a"))
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert await asyncio.to_thread(idle.ended)
    assert not draining.done()
    face.store.held.set()
    answer = await asyncio.to_thread(busy.answer)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await asyncio.to_thread(busy.ended)
    async with asyncio.timeout(20):
        await draining


async def test_draining_closes_idle_connections_and_waits_for_bodies_in_flight(
    face: Face,
) -> None:
    idle, busy = await face.connect(), await face.connect()
    busy.send(head("PUT", "/file?path=a", "Content-Length: 4", "Expect: 100-continue"))
    assert (await asyncio.to_thread(busy.answer)).status == 100
    draining = asyncio.create_task(face.runner.drain(0))
    assert await asyncio.to_thread(idle.ended)
    busy.send(b"1234")
    answer = await asyncio.to_thread(busy.answer)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    async with asyncio.timeout(20):
        await draining
    assert b"a" in face.store.values


async def test_draining_gives_up_on_what_does_not_end() -> None:
    async with serving(ServerSettings(graceful_timeout_s=1)) as face:
        face.store.held.clear()
        wire = await face.connect()
        wire.send(head("PUT", "/file?path=a", "Content-Length: 1"), b"x")
        await face.store.begun.wait()
        async with asyncio.timeout(20):
            await face.runner.drain(0)
            await face.runner.cleanup()
        assert await asyncio.to_thread(wire.ended)


async def test_draining_without_connections_is_done_at_once(face: Face) -> None:
    async with asyncio.timeout(20):
        await face.runner.drain(3600)


async def test_an_idle_connection_is_closed() -> None:
    async with serving(ServerSettings(keepalive_timeout_s=0.1)) as face:
        silent, half = await face.connect(), await face.connect()
        half.send(b"GET /file?pa")
        for wire in (silent, half):
            assert await asyncio.to_thread(wire.ended)


async def test_the_rest_of_a_body_that_came_too_late_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_server, "LINGERING_S", 3600.0)
    async with serving(ServerSettings(body_timeout_s=0.1)) as face:
        wire = await face.connect()
        put = head("PUT", "/file?path=a", "Content-Length: 9")
        assert (await asyncio.to_thread(exchange, wire, put, b"x")).status == 408
        assert await asyncio.to_thread(wire.ended)


async def test_a_client_that_stops_reading_is_cut_off() -> None:
    async with serving(ServerSettings(), LimitsSettings(send_timeout_s=1.0)) as face:
        await face.store.set(b"a", new_record(bytes(32 * 1024 * 1024), 1))
        slow, stopped = await face.connect(), await face.connect()
        for wire in (slow, stopped):
            wire.send(head("GET", "/file?path=a"))
        assert len((await asyncio.to_thread(slow.answer)).body) == 32 * 1024 * 1024
        await face.until(lambda: face.board.totals()["connections"] == 1)
        answer = await asyncio.to_thread(exchange, slow, head("GET", "/file?path=b"))
        assert answer.status == 404


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "x"])
async def test_nothing_behind_a_wish_to_upgrade_is_taken_for_a_request(protocol: str) -> None:
    upgrade = ("Connection: Upgrade", f"Upgrade: {protocol}")
    async with serving(ServerSettings()) as face:
        await face.store.set(b"a", new_record(b"aaa", 1))
        for wish in (head("GET", "/file?path=a", *upgrade), head("HEAD", "/file?path=a", *upgrade)):
            wire = await face.connect()
            delete = head("DELETE", "/file?path=a")
            put = head("PUT", "/file?path=b", f"Content-Length: {len(delete)}")
            wire.send(wish + put)
            method = wish.partition(b" ")[0].decode()
            answer = await asyncio.to_thread(wire.answer, method)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            with suppress(ConnectionError):
                wire.send(delete)
            with suppress(ConnectionError):
                assert await asyncio.to_thread(wire.ended)
        assert await face.store.get(b"a") is not None


async def test_a_body_behind_a_wish_to_upgrade_is_kept_whole_or_refused() -> None:
    async with serving(ServerSettings()) as face:
        fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
        put = head("PUT", "/file?path=b", "Content-Length: 3", *fields)
        answer = await face.ask(put + b"abc")
        kept = await face.store.get(b"b")
        assert (answer.status == 200) == (kept is not None)
        assert kept is None or bytes(kept.body) == b"abc"


async def test_the_access_log_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sfss.access")
    async with serving(ServerSettings(access_log=True)) as face:
        target = '/file?path=a%0A"'
        agent = 'User-Agent: x" 200 1\\ \xff\t'
        assert (await face.ask(head("GET", target, agent, "Referer: http://r/"))).status == 400
        await face.ask(b"nonsense\r\n\r\n")
    (line, malformed) = [record.getMessage() for record in caplog.records]
    assert line.startswith("127.0.0.1 - - [")
    assert line.endswith(
        r'] "GET /file?path=a%0A\x22 HTTP/1.1" 400 55 "http://r/" "x\x22 200 1\x5C \xFF"'
    )
    assert malformed.endswith('] "-" 400 59 "-" "-"')


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
async def test_the_access_log_is_off_unless_set(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(level, "sfss.access")
    async with serving(ServerSettings(access_log=level == logging.WARNING)) as face:
        await face.ask(head("GET", "/file?path=a"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é", "plain é"),
        ("a\r\nb\0\x7f", "a\\r\\nb\\x00\\x7f"),
        ("\u2028\u202e\ud800", "\\u2028\\u202e\\ud800"),
        ("x" * 2000, "x" * 1000 + "..."),
    ],
)
def test_sentences_are_printable(text: str, expected: str) -> None:
    assert http.printable(text) == expected
