"""What happens to a connection while its file is awaited, and to answers that are remembered."""

import asyncio
import gc
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from sfss.cluster import Cluster
from sfss.config_limits import LimitsSettings
from sfss.keys import KeyScheme
from sfss.record import encode, new_record
from sfss.routed import Owner, Routed
from sfss.stores import lmdb_folder
from sfss.stores.base import Use
from sfss.stores.embedded import EmbeddedStore
from sfss.web import fast
from sfss.web.fast import ANSWER_LIMIT, ShortWay
from sfss.web.server import Server
from tests.stores.scripted import until
from tests.stores.test_embedded import child
from tests.web.client import head
from tests.web.test_fast import FILES, LAST, Gateway, ViewableStore, Witness, read_all, serving

GET = head("GET", "/file?path=a.txt")
OTHER = head("GET", "/file?path=folder/b.tar.gz")
PUT = head("PUT", "/file?path=new", "Content-Length: 3") + b"abc"
SEND_BYTES = 32 * 1024


class HeldStore(ViewableStore):
    """A store that calls when the test says so; ``shown`` counts."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def view(self, key: bytes, use: Use) -> bool:
        """Wait for ``go_on``."""
        self.waiting.append(lambda: use(self.values.get(key), True))
        return True

    def go_on(self) -> None:
        """Call for all that wait."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


class Talk:
    """One connection to a gateway over a ``HeldStore``; ``answers`` is all that has come back."""

    def __init__(self, gateway: Gateway, store: HeldStore) -> None:
        self.gateway, self.store = gateway, store
        self.answers = bytearray()

    async def __aenter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        # What the server does not read waits at the client, but for a little.
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._loop = asyncio.get_running_loop()
        server = self.gateway.runner.server
        assert server is not None
        self.transport, _ = await self._loop.connect_accepted_socket(server, theirs)
        self._reader = asyncio.ensure_future(read_all(self._ours, self.answers))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        self._ours.close()

    async def send(self, *pieces: bytes) -> None:
        """Send each of ``pieces`` in a segment of its own."""
        for piece in pieces:
            await self._loop.sock_sendall(self._ours, piece)
            for _ in range(10):
                await asyncio.sleep(0)

    async def ask(self) -> None:
        """Send a request and wait until the store is asked."""
        await self.send(GET)
        await until(lambda: self.store.waiting, "the store is asked")

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._ours.shutdown(socket.SHUT_WR)

    async def ended(self) -> bytes:
        """Return all answers, once the server has closed the connection."""
        await asyncio.wait_for(self._reader, 30)
        return bytes(self.answers)

    def bodies(self) -> list[bytes]:
        """Return the bodies of the answers so far."""
        return re.findall(rb"\r\n\r\n((?:(?!HTTP/1).)*)", bytes(self.answers), re.DOTALL)


@asynccontextmanager
async def talking(**options: float) -> AsyncIterator[Talk]:
    """Connect to a gateway over a store that waits."""
    store = HeldStore()
    async with serving(True, store, **options) as gateway, Talk(gateway, store) as talk:
        yield talk


async def test_what_comes_while_a_file_is_awaited_is_answered_in_order() -> None:
    async with talking() as talk:
        await talk.ask()
        await talk.send(OTHER, PUT, head("GET", "/file?path=new"), LAST)
        assert not talk.answers
        talk.store.go_on()
        await talk.ended()
        tag = new_record(b"abc", 0).head.digest.hex()
        assert [body.count(b"0123456789") for body in talk.bodies()] == [1, 0, 0, 0, 1]
        assert talk.bodies()[3] == b"abc"
        assert f'ETag: "{tag}"'.encode() in talk.answers
        assert talk.gateway.board.statuses() == {"200": 5}


async def test_half_a_request_while_a_file_is_awaited() -> None:
    async with talking() as talk:
        await talk.ask()
        await talk.send(PUT[:20])
        talk.store.go_on()
        await until(lambda: talk.answers.endswith(b"0123456789"), "the first answer")
        await talk.send(PUT[20:], LAST)
        await talk.ended()
        assert talk.gateway.board.statuses() == {"200": 3}


async def test_a_flood_while_a_file_is_awaited_is_not_read() -> None:
    async with talking() as talk:
        await talk.ask()
        assert talk.transport.is_reading()
        flood = asyncio.ensure_future(talk.send(*[GET * 100] * 40, LAST))
        for _ in range(1000):  # over twice as many turns as all of it would take
            await asyncio.sleep(0)
        assert not talk.transport.is_reading()
        assert not flood.done()  # so the socket is full
        talk.store.go_on()
        await talk.ended()
        await flood
        assert talk.gateway.board.statuses() == {"200": 4002}


async def test_a_client_that_has_sent_all_gets_its_answer() -> None:
    async with talking() as talk:
        await talk.ask()
        talk.half_close()
        for _ in range(20):
            await asyncio.sleep(0)
        talk.store.go_on()
        answers = await talk.ended()
        assert answers.endswith(b"0123456789")
        assert b"Connection: close" in answers


async def test_a_client_that_cuts_its_second_request_off() -> None:
    async with talking() as talk:
        await talk.ask()
        await talk.send(PUT[:-1])
        talk.half_close()
        talk.store.go_on()
        answers = await talk.ended()
        assert answers.count(b"HTTP/1.1 200 OK") == 1
        assert answers.count(b"HTTP/1.1 400 Bad Request") == 1


async def test_a_client_that_is_gone_is_not_answered() -> None:
    async with talking() as talk:
        await talk.ask()
        talk.transport.abort()
        await until(lambda: not talk.gateway.board.totals()["connections"], "the end is seen")
        talk.store.go_on()
        assert talk.gateway.board.statuses() == {}
        assert not talk.gateway.runner.server.connections  # type: ignore[union-attr]


async def test_a_reset_just_before_the_file_comes_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with talking() as talk:
        await talk.ask()
        del talk.store.values[b"a.txt"]
        talk.transport.abort()  # connection_lost comes in the next turn only
        talk.store.go_on()
        await until(lambda: not talk.gateway.board.totals()["connections"], "the end is seen")
        for _ in range(10):
            await asyncio.sleep(0)
        gc.collect()
    assert not caplog.records


async def test_a_client_that_stops_reading_a_short_answer_is_cut_off() -> None:
    limits = LimitsSettings(send_timeout_s=1.0)
    async with serving(True, limits=limits, keepalive_timeout_s=0.3) as gateway:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        server = gateway.runner.server
        assert server is not None
        with ours:
            transport, _ = await loop.connect_accepted_socket(server, theirs)
            for _ in range(20):
                with suppress(BlockingIOError):
                    ours.send(head("GET", "/file?path=large"))
                for _ in range(5):
                    await asyncio.sleep(0)
            assert transport.get_write_buffer_size()
            assert gateway.taken
            await until(lambda: not gateway.board.totals()["connections"], "it is cut off")


async def test_a_store_that_has_nothing_leaves_it_to_the_long_way() -> None:
    async with talking() as talk:
        await talk.ask()
        del talk.store.values[b"a.txt"]
        talk.store.go_on()
        await until(lambda: talk.answers, "an answer")
        assert talk.answers.startswith(b"HTTP/1.1 404 Not Found")
        await talk.send(LAST)
        await talk.ended()
        assert talk.gateway.board.statuses() == {"404": 2}


async def test_a_draining_worker_answers_what_is_awaited_and_closes() -> None:
    async with talking() as talk:
        await talk.ask()
        draining = asyncio.ensure_future(talk.gateway.runner.drain(0.01))
        for _ in range(20):
            await asyncio.sleep(0)
        talk.store.go_on()
        answers = await talk.ended()
        assert answers.endswith(b"0123456789")
        assert b"Connection: close" in answers
        await asyncio.wait_for(draining, 30)


async def test_a_connection_accepted_just_before_the_draining_is_closed_like_the_others() -> None:
    async with serving(True) as gateway:
        server = gateway.runner.server
        assert isinstance(server, Server)
        connection = server()
        draining = asyncio.ensure_future(gateway.runner.drain(30))
        await asyncio.sleep(0)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        answers = bytearray()
        with ours:
            await loop.connect_accepted_socket(lambda: connection, theirs)
            await loop.sock_sendall(ours, GET)
            await asyncio.wait_for(asyncio.gather(read_all(ours, answers), draining), 20)
        assert b"Connection: close" in answers


async def test_an_awaited_file_outlasts_the_idle_timeout() -> None:
    async with talking(keepalive_timeout_s=0.3) as talk:
        await talk.ask()
        end = asyncio.get_running_loop().time() + 0.75
        await until(lambda: asyncio.get_running_loop().time() > end, "over twice the time-out")
        talk.store.go_on()
        answers = await talk.ended()  # and idle from then on
        assert answers.endswith(b"0123456789")


def way_to(store: EmbeddedStore) -> ShortWay:
    """Return the short way to ``store``."""
    owner = Owner({store.address: store}, lambda _: store.address)
    return ShortWay(Cluster(Routed([store], owner), KeyScheme("plain"), 2**21))


@dataclass
class Time:
    """The time of day, which goes on when told."""

    now_s: float = 1_700_000_000.5

    def time(self) -> float:
        """Return seconds since 1970."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Give the short way a time of day that stands still."""
    clock = Time()
    monkeypatch.setattr(fast, "time", clock)
    return clock


def ask(way: ShortWay, request: bytes) -> bytes | None:
    """Ask as a connection does; return what was remembered."""
    found = way.remembered(request)
    if found is None:
        way.begin(request, Witness())
    return found and b"".join(found[1])


@pytest.mark.usefixtures("clock")
async def test_an_answer_is_remembered_until_anybody_writes_anything(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")
    way = way_to(store)
    await store.set(b"a.txt", new_record(b"one", 1))
    assert [ask(way, GET) is not None for _ in range(4)] == [False, False, True, True]
    await store.set(b"b.txt", new_record(b"other", 1))
    assert [ask(way, GET) is not None for _ in range(3)] == [False, True, True]
    await store.set(b"a.txt", new_record(b"two", 2))
    assert ask(way, GET) is None
    assert (ask(way, GET) or b"").endswith(b"two")
    await store.delete(b"a.txt")
    assert ask(way, GET) is None
    assert ask(way, GET) is None
    await store.close()


async def test_the_store_is_asked_once_a_second(tmp_path: Path, clock: Time) -> None:
    store = EmbeddedStore(tmp_path / "store")
    way = way_to(store)
    await store.set(b"a.txt", new_record(b"one", 1))
    assert [ask(way, GET) is not None for _ in range(3)] == [False, False, True]
    for step_s in (0.5, 1.0, 3600.0, -7200.0):
        clock.now_s += step_s
        assert ask(way, GET) is None
        assert fast.http_date(int(clock.now_s)).encode() in (ask(way, GET) or b"")
    await store.close()


async def test_what_is_remembered_of_a_store_that_was_moved_is_not_served(
    tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_folder, "PLACE_CHECK_S", 0.0)
    store = EmbeddedStore(tmp_path / "store")
    way = way_to(store)
    await store.set(b"a.txt", new_record(b"one", 1))
    assert [ask(way, GET) is not None for _ in range(3)] == [False, False, True]
    (tmp_path / "store").rename(tmp_path / "away")
    clock.now_s += 1
    assert [ask(way, GET) for _ in range(3)] == [None, None, None]
    await store.close()


async def test_a_write_of_another_process_is_seen_at_once(tmp_path: Path) -> None:
    code = """
store = EmbeddedStore(folder)
async def write():
    for number in range(20):
        await store.set(b"a.txt", new_record(b"%d" % number, 1))
        say("done")
        hear()
asyncio.run(write())
"""
    store = EmbeddedStore(tmp_path / "store")
    way = way_to(store)
    with child(code, tmp_path / "store") as other:
        for number in range(20):
            assert other.heard() == "done"
            client = Witness()
            remembered = way.remembered(GET)
            assert remembered is None
            assert way.begin(GET, client)
            assert client.answers[-1].endswith(b"\r\n\r\n%d" % number)
            ask(way, GET)
            assert (ask(way, GET) or b"").endswith(b"\r\n\r\n%d" % number)
            other.tell()
    await store.close()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("size", "is_remembered"), [(ANSWER_LIMIT, True), (ANSWER_LIMIT + 1, False)]
)
async def test_only_small_answers_are_remembered(
    tmp_path: Path, size: int, is_remembered: bool
) -> None:
    store = EmbeddedStore(tmp_path / "store")
    way = way_to(store)
    await store.set(b"a.txt", new_record(b"x" * size, 1))
    assert [ask(way, GET) is not None for _ in range(3)] == [False, False, is_remembered]
    await store.close()


async def test_the_memory_of_answers_is_bounded(tmp_path: Path, clock: Time) -> None:
    store = EmbeddedStore(tmp_path / "store")
    way = way_to(store)
    requests = [head("GET", f"/file?path=f{number}") for number in range(300)]
    sets = [store.set(b"f%d" % number, new_record(b"x" * ANSWER_LIMIT, 1)) for number in range(300)]
    await asyncio.gather(*sets)
    for _ in range(4):
        for request in requests:
            ask(way, request)
        kept = sum(len(asked.kept[1]) for asked in way._asked.values())
        assert kept == way._bodies_size <= 16 * 2**20
        await store.set(b"another", new_record(b"x", 1))
    assert kept > 15 * 2**20
    clock.now_s += 1
    ask(way, requests[0])
    assert len(way._asked) == way._bodies_size == 0
    assert [ask(way, requests[299]) is not None for _ in range(3)] == [False, False, True]
    await store.close()


async def test_nothing_is_remembered_of_a_store_that_cannot_tell() -> None:
    store = ViewableStore()
    way = ShortWay(Cluster(Routed([store], Owner({}, lambda _: "")), KeyScheme("plain"), 1))
    store.values[b"a.txt"] = encode(new_record(FILES["a.txt"], 1))
    for _ in range(4):
        assert way.remembered(GET) is None
        assert way.begin(GET, Witness())
