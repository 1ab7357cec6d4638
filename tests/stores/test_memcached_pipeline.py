"""The hot path of the memcached-protocol store: right values, or None, and nobody kept waiting."""

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sfss.config import MIB, MemcachedSettings
from sfss.errors import Unreachable
from sfss.memtext import VALUE_LIMIT
from sfss.record import RECORD_FLAGS, Buffer, encode, new_record
from sfss.stores import memcached_pipeline
from sfss.stores.base import ViewableStore
from sfss.stores.memcached import MemcachedStore
from sfss.stores.memcached_pipeline import UNDER_WAY_LIMIT
from tests.servers import Server, free_port, nutcracker, running
from tests.servers import memcached as memcached_with
from tests.stores.scripted import CLOSE, Script, ScriptedServer, until
from tests.stores.test_memcached import PATIENT, plain_set, store_on

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

BRISK = MemcachedSettings(timeout_s=1.5, item_limit=MIB)
"""A quarter of that is what the pipeline waits for an answer."""

Item = tuple[bytes | None, bool]
NOTHING: Item = (None, False)


class Reader:
    """Asks a store by the hot path. ``given`` is what came, in the order in which it came."""

    def __init__(self, store: MemcachedStore) -> None:
        self.store = store
        self.given: list[tuple[bytes, Item]] = []

    @property
    def connection(self) -> memcached_pipeline._Connection | None:
        return self.store._pipeline._connection

    @property
    def connecting(self) -> "asyncio.Task[None] | None":
        return self.store._pipeline._connecting

    def ask(self, key: bytes) -> "asyncio.Future[Item] | None":
        """Return what will be given for ``key``, or None where the store takes no request."""
        item: asyncio.Future[Item] = asyncio.get_running_loop().create_future()

        def use(value: Buffer | None, is_record: bool) -> None:
            copy = None if value is None else bytes(value)
            self.given.append((key, (copy, is_record)))
            item.set_result((copy, is_record))

        return item if self.store.view(key, use) else None

    async def get(self, key: bytes) -> Item:
        """Return what is given for ``key``, asked as soon as the store takes requests."""
        [item] = await self.get_all([key])
        return item

    async def get_all(self, keys: list[bytes]) -> list[Item]:
        """Return what is given for ``keys``, all asked in one turn of the event loop."""
        await self.connect()
        return await asyncio.wait_for(asyncio.gather(*map(self.must, keys)), 30)

    def must(self, key: bytes) -> "asyncio.Future[Item]":
        item = self.ask(key)
        assert item is not None
        return item

    async def connect(self) -> None:
        """Wait until requests are taken."""

        def connected() -> bool:
            if self.connection is None:
                assert self.ask(b"this opens it") is None
            return self.connection is not None

        await until(connected, "there is a connection")


@asynccontextmanager
async def reader_on(address: str, settings: MemcachedSettings = PATIENT) -> AsyncIterator[Reader]:
    async with store_on(address, settings) as store:
        yield Reader(store)


@asynccontextmanager
async def scripted(
    *scripts: Script, settings: MemcachedSettings = PATIENT
) -> AsyncIterator[tuple[ScriptedServer, Reader]]:
    async with ScriptedServer(*scripts) as server, reader_on(server.address, settings) as reader:
        yield server, reader


@pytest.fixture(name="retry_at_once")
def no_rest_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memcached_pipeline, "RETRY_AFTER_S", 0.0)


@pytest.fixture(name="never_retry")
def endless_rest_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memcached_pipeline, "RETRY_AFTER_S", 1e9)


def found(key: bytes, body: bytes, flags: int = RECORD_FLAGS) -> bytes:
    return b"VALUE %b %d %d\r\n%b\r\nEND\r\n" % (key, flags, len(body), body)


async def stops_taking(reader: Reader) -> None:
    await until(lambda: reader.ask(b"late") is None, "no request is taken any more")


# -- right values


async def test_a_memcached_store_can_be_viewed(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        assert isinstance(reader.store, ViewableStore)
        assert reader.store.state() == 0


async def test_a_record_a_raw_item_and_nothing(memcached: Server) -> None:
    record = new_record(b"a body", 1)
    async with reader_on(memcached.address) as reader:
        await reader.store.set(b"record", record)
        await plain_set(memcached, b"raw", 0, b"plain")
        await plain_set(memcached, b"other", RECORD_FLAGS + 1, b"")
        assert await reader.get_all([b"record", b"raw", b"nothing", b"other", b"raw"]) == [
            (encode(record), True),
            (b"plain", False),
            NOTHING,
            (b"", False),
            (b"plain", False),
        ]


async def test_many_keys_and_sizes_at_once(tmp_path: Path) -> None:
    chance = random.Random(1)
    sizes = [0, 1, 1024, 16_384, 262_144, 2 * MIB]
    bodies = {
        b"key-%d" % number: chance.randbytes(max(0, size + chance.randrange(-9, 9)))
        for number, size in enumerate(sizes * 6)
    }
    with running(memcached_with(tmp_path, "-I", "8m", "-m", "256")) as server:
        async with reader_on(server.address) as reader:
            for key, body in bodies.items():
                await plain_set(server, key, RECORD_FLAGS, body)
            for _ in range(4):
                keys = chance.choices(list(bodies), k=100)
                reader.given.clear()
                await until(lambda: reader.ask(b"key-0"), "requests are taken")
                items = await reader.get_all(keys)
                assert items == [(bodies[key], True) for key in keys]
                asked_first = list(dict.fromkeys([b"key-0", *keys]))
                assert list(dict.fromkeys(key for key, _ in reader.given)) == asked_first


async def test_values_are_not_written_over_while_somebody_looks(memcached: Server) -> None:
    bodies = {b"k%d" % number: os.urandom(50_000) for number in range(20)}
    held: dict[bytes, Buffer | None] = {}
    async with reader_on(memcached.address) as reader:
        for key, body in bodies.items():
            await plain_set(memcached, key, 0, body)
        await reader.connect()
        for key in bodies:
            asked = reader.store.view(key, lambda value, _, key=key: held.update({key: value}))
            assert asked
            await until(lambda key=key: key in held, "the value has come")
    assert held == bodies


async def test_asked_in_one_turn_sent_in_one_write(
    memcached: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    build = memcached_pipeline.get_commands
    monkeypatch.setattr(
        memcached_pipeline, "get_commands", lambda keys: writes.append(build(keys)) or writes[-1]
    )
    async with reader_on(memcached.address) as reader:
        await plain_set(memcached, b"a", 0, b"x")
        assert await reader.get_all([b"a", b"b", b"a", b"a", b"c"]) == [
            *[(b"x", False), NOTHING, (b"x", False), (b"x", False), NOTHING]
        ]
        # One that is asked for again before the request is sent is not asked for twice.
        assert writes == [b"get a\r\nget b\r\nget c\r\n"]
        assert await reader.get(b"a") == (b"x", False)
        assert writes[1:] == [b"get a\r\n"]


async def test_no_task_for_a_request(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        await reader.connect()
        before = asyncio.all_tasks()
        items = [reader.must(b"k%d" % number) for number in range(100)]
        assert asyncio.all_tasks() == before
        await asyncio.wait_for(asyncio.gather(*items), 30)


async def test_an_answer_in_single_bytes() -> None:
    answers = found(b"a", b"one") + found(b"b", b"two", 0) + b"END\r\n"
    async with scripted(()) as (server, reader):
        await reader.connect()
        items = [reader.must(key) for key in (b"a", b"b", b"c")]
        await until(lambda: len(server.requests) == 3, "the requests have come")
        for index in range(len(answers)):
            server.writers[0].write(answers[index : index + 1])
            await asyncio.sleep(0)
        assert await asyncio.gather(*items) == [(b"one", True), (b"two", False), NOTHING]


async def test_through_twemproxy(tmp_path: Path) -> None:
    bodies = {b"key-%d" % number: b"body %d" % number for number in range(40)}
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(memcached_with(tmp_path))) for _ in range(2)]
        proxy = nutcracker(tmp_path, [node.address for node in nodes])
        stack.enter_context(running(proxy))
        async with reader_on(proxy.address) as reader:
            for key, body in bodies.items():
                await plain_set(proxy, key, 0, body)
            assert await reader.get_all(list(bodies)) == [(body, False) for body in bodies.values()]
            connection = reader.connection
            nodes[0].kill()
            items = await reader.get_all(list(bodies))
            # SERVER_ERROR is the answer to one request, and the others get theirs.
            pairs = list(zip(items, bodies.values(), strict=True))
            right = [item for item, body in pairs if item == (body, False)]
            assert 0 < len(right) < len(items)
            assert items.count(NOTHING) == len(items) - len(right)
            assert reader.connection is connection


# -- who asks may do anything in between


async def test_asking_again_from_within(memcached: Server) -> None:
    record = new_record(b"a body", 1)
    done = asyncio.get_running_loop().create_future()
    async with reader_on(memcached.address) as reader:
        await reader.store.set(b"k", record)
        await reader.connect()
        seen: list[Item] = []

        def use(value: Buffer | None, is_record: bool) -> None:
            seen.append((value and bytes(value), is_record))
            if len(seen) == 1000:
                done.set_result(None)
            assert reader.store.view(b"k", use)

        assert reader.store.view(b"k", use)
        await asyncio.wait_for(done, 30)
        assert seen[:1000] == [(encode(record), True)] * 1000


async def test_one_that_raises_harms_nobody(
    memcached: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(value: Buffer | None, is_record: bool) -> None:
        raise RuntimeError("not my day")

    async with reader_on(memcached.address) as reader:
        await plain_set(memcached, b"k", 0, b"x")
        await reader.connect()
        before = reader.must(b"k")
        assert reader.store.view(b"k", broken)
        assert reader.store.view(b"l", broken)
        after, last = reader.must(b"k"), reader.must(b"m")
        assert await asyncio.gather(before, after, last) == [(b"x", False)] * 2 + [NOTHING]
        assert [str(record.exc_info[1]) for record in caplog.records] == ["not my day"] * 2  # type: ignore[index]
        assert await reader.get(b"k") == (b"x", False)
        memcached.pause()
        assert reader.store.view(b"k", broken)
        last = reader.must(b"k")
        await reader.store.close()
        assert await last == NOTHING
        memcached.resume()


async def test_ended_from_within(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        await plain_set(memcached, b"k", 0, b"x")
        await reader.connect()
        connection = reader.connection
        assert connection is not None
        assert reader.store.view(b"k", lambda *_: connection.end())
        same, others = reader.must(b"k"), [reader.must(b"l%d" % number) for number in range(9)]
        assert await asyncio.wait_for(same, 30) == (b"x", False)
        assert await asyncio.wait_for(asyncio.gather(*others), 30) == [NOTHING] * 9
        assert len(reader.given) == 10
        assert reader.connection is None
        await reader.connect()
        connection.connection_lost(None)  # the event loop says it late
        assert reader.connection is not None


# -- what is not taken


@pytest.mark.parametrize("key", [b"", b"a b", b"a\r\nget b", b"@", b"?k", b"k" * 251, b"\x80"])
async def test_an_unsafe_key_is_not_asked(memcached: Server, key: bytes) -> None:
    async with reader_on(memcached.address) as reader:
        await reader.connect()
        assert reader.ask(key) is None
        assert await reader.get(b"k") == NOTHING


async def test_so_many_at_a_time_and_no_more(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        await reader.connect()
        items = [reader.must(b"k%d" % number) for number in range(UNDER_WAY_LIMIT)]
        assert reader.ask(b"another") is None
        joined = reader.must(b"k0")  # costs the server nothing
        assert await asyncio.wait_for(asyncio.gather(*items, joined), 30) == [NOTHING] * 257
        assert await reader.get(b"another") == NOTHING


async def test_nothing_is_taken_while_the_server_does_not_read(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        await reader.connect()
        assert reader.connection is not None
        reader.connection.pause_writing()
        assert reader.ask(b"k") is None
        reader.connection.resume_writing()
        assert await reader.get(b"k") == NOTHING


async def test_behind_a_late_answer_nobody_is_kept(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        await plain_set(memcached, b"k", 0, b"x")
        await reader.connect()
        memcached.pause()
        item = reader.must(b"k")
        await stops_taking(reader)
        assert not item.done()
        memcached.resume()
        assert await asyncio.wait_for(item, 30) == (b"x", False)
        await until(lambda: reader.ask(b"k"), "requests are taken again")


@pytest.fixture(name="tick")
async def ticks_by_hand(
    memcached: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Reader, Callable[[], None]]]:
    """A connected reader, and what lets time pass for its connection; nothing else does."""
    async with reader_on(memcached.address, replace(PATIENT, timeout_s=0.2)) as reader:
        await reader.connect()
        assert reader.connection is not None
        monkeypatch.setattr(memcached_pipeline, "_TICK_S", 1e6)
        yield reader, reader.connection._tick


async def test_answers_in_time_are_never_late(tick: tuple[Reader, Callable[[], None]]) -> None:
    reader, pass_time = tick
    former = reader.must(b"k")
    for number in range(50):
        latter = reader.must(b"k%d" % number)  # something is always under way
        assert await asyncio.wait_for(former, 30) == NOTHING
        pass_time()
        former = latter
    assert await asyncio.wait_for(former, 30) == NOTHING


async def test_the_age_at_which_a_request_is_late_and_too_old(
    memcached: Server, tick: tuple[Reader, Callable[[], None]]
) -> None:
    reader, pass_time = tick
    memcached.pause()
    items = [reader.must(b"k")]
    await asyncio.sleep(0)
    taken = []
    for _ in range(5):
        pass_time()
        item = reader.ask(b"another")
        taken.append(item is not None)
        items += [item] if item else []
        await asyncio.sleep(0)
    # Within the first tick it was asked, two more make it late, and a quarter of 0.2 s is five.
    assert taken == [True, True, False, False, False]
    assert not any(item.done() for item in items)
    pass_time()
    assert [await item for item in items] == [NOTHING] * 3
    assert reader.connection is None
    memcached.resume()


async def test_time_in_which_the_event_loop_stands_still_is_not_the_servers(
    memcached: Server,
) -> None:
    async with reader_on(memcached.address, replace(PATIENT, timeout_s=0.8)) as reader:
        await plain_set(memcached, b"k", 0, b"x")
        await reader.connect()
        for _ in range(2):
            item = reader.must(b"k")
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251
            assert await asyncio.wait_for(item, 30) == (b"x", False)


# -- servers that answer wrong

GOOD = found(b"k", b"x")
PIECE = b"VALUE kk 0 1\r\nx\r\n"
WRONG = {
    "another key": found(b"other", b"x"),
    "a part of the key": GOOD,
    "more than the key": found(b"kkk", b"x"),
    "the key after that": found(b"l", b"x"),
    "two values": PIECE + PIECE + b"END\r\n",
    "too large": b"VALUE kk 0 %d\r\n" % (VALUE_LIMIT + 1),
    "a wrong size": b"VALUE kk 0 2\r\nx\r\nEND\r\n",
    "no grammar": b"VALUE kk 0  1\r\nx\r\nEND\r\n",
    "flags out of range": b"VALUE kk 4294967296 1\r\nx\r\nEND\r\n",
    "an unknown line": b"HTTP/1.1 400 Bad Request\r\n",
    "another answer": b"STORED\r\n",
    "an endless line": b"x" * 5000,
    "an error": b"ERROR\r\n",
    "an error of the client": b"CLIENT_ERROR bad command line format\r\n",
    "nothing": CLOSE,
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_answer_ends_the_connection(wrong: str, never_retry: None) -> None:
    async with scripted([GOOD, WRONG[wrong], found(b"l", b"x")]) as (server, reader):
        items = await reader.get_all([b"k", b"kk", b"l"])
        assert items == [(b"x", True), NOTHING, NOTHING]
        assert reader.ask(b"k") is None
        await until(lambda: server.open_connections == 0, "the connection is closed")
        assert reader.ask(b"k") is None
        assert not reader.connecting
        assert server.connections == 1


@pytest.mark.parametrize("surplus", [GOOD, b"END\r\n", b"\r\n", b"V", b"ERROR\r\n"])
async def test_bytes_that_nobody_asked_for(surplus: bytes, never_retry: None) -> None:
    async with scripted([GOOD + surplus]) as (server, reader):
        assert await reader.get(b"k") == (b"x", True)
        await until(lambda: server.open_connections == 0, "the connection is closed")
        assert reader.ask(b"k") is None


async def test_bytes_that_come_late(never_retry: None) -> None:
    async with scripted([GOOD]) as (server, reader):
        assert await reader.get(b"k") == (b"x", True)
        assert reader.connection is not None
        server.writers[0].write(GOOD)
        await until(lambda: server.open_connections == 0, "the connection is closed")
        assert reader.ask(b"k") is None


async def test_what_was_not_yet_sent_is_not_answered(never_retry: None) -> None:
    async with scripted(()) as (_, reader):
        await reader.connect()
        connection = reader.connection
        assert connection is not None
        item = reader.must(b"k")  # goes out at the end of this turn
        room = connection.get_buffer(-1)
        room[: len(GOOD)] = GOOD
        connection.buffer_updated(len(GOOD))
        assert await item == NOTHING
        assert reader.connection is None


async def test_a_refusal_answers_one_request() -> None:
    script = [b"SERVER_ERROR busy\r\n", GOOD, b"VALUE l 0 1\r\nx\r\nSERVER_ERROR busy\r\n", GOOD]
    async with scripted(script) as (server, reader):
        for _ in range(2):
            assert await reader.get_all([b"l", b"k"]) == [NOTHING, (b"x", True)]
        assert server.open_connections == 1


@pytest.mark.parametrize("piece", [b"", b"VAL", b"VALUE k 0 10\r\nabc", GOOD[:-1]])
async def test_a_server_that_closes_in_the_middle(piece: bytes, retry_at_once: None) -> None:
    async with scripted([piece, CLOSE], [GOOD]) as (server, reader):
        assert await reader.get_all([b"k", b"l", b"m"]) == [NOTHING] * 3
        assert await reader.get(b"k") == (b"x", True)
        assert server.connections == 2


# -- servers that are not there


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "x" * 64 + ".invalid"])
async def test_nobody_listens(
    host: str, never_retry: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with reader_on(f"{host}:{free_port()}") as reader:
        assert reader.ask(b"k") is None
        await until(lambda: not reader.connecting, "it was tried")
        assert reader.ask(b"k") is None
        assert not reader.connecting
        with pytest.raises(Unreachable):
            await reader.store.get(b"k")
    assert not caplog.records


async def test_a_server_that_takes_no_more_connections(never_retry: None) -> None:
    greeting = b"ERROR Too many open connections\r\n"
    async with scripted(()) as (server, reader):
        reader.ask(b"k")
        await until(lambda: server.writers, "the connection has come")
        server.writers[0].write(greeting)
        server.writers[0].close()
        await until(lambda: server.open_connections == 0, "the connection is closed")
        await until(lambda: reader.connection is None, "the end has been seen")
        assert reader.ask(b"k") is None
        assert not reader.connecting


async def test_a_server_that_closes_before_it_was_asked(never_retry: None) -> None:
    async with scripted(()) as (server, reader):
        reader.ask(b"k")
        await until(lambda: server.writers, "the connection has come")
        server.writers[0].close()
        await until(lambda: reader.connection is None, "the end has been seen")
        assert reader.ask(b"k") is None
        assert not reader.connecting


async def test_a_connection_that_ends_as_it_begins(
    memcached: Server, monkeypatch: pytest.MonkeyPatch, never_retry: None
) -> None:
    begin = memcached_pipeline._Connection.connection_made

    def made(connection: memcached_pipeline._Connection, transport: asyncio.BaseTransport) -> None:
        begin(connection, transport)
        connection.connection_lost(None)

    monkeypatch.setattr(memcached_pipeline._Connection, "connection_made", made)
    async with reader_on(memcached.address) as reader:
        assert reader.ask(b"k") is None
        await until(lambda: not reader.connecting, "it was tried")
        assert reader.ask(b"k") is None
        assert not reader.connecting


@contextmanager
def deaf_listener() -> Iterator[str]:
    """Yield the address of a listener to which no more connections can be made."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_connection_that_is_never_made(never_retry: None) -> None:
    with deaf_listener() as address:
        async with reader_on(address, BRISK) as reader:
            assert reader.ask(b"k") is None
            connecting = reader.connecting
            assert connecting is not None
            assert reader.ask(b"k") is None
            assert reader.connecting is connecting
            await until(connecting.done, "it was given up")
            assert reader.ask(b"k") is None
            assert not reader.connecting


async def test_closed_while_connecting() -> None:
    with deaf_listener() as address:
        async with reader_on(address) as reader:
            assert reader.ask(b"k") is None
            connecting = reader.connecting
            assert connecting is not None
            await asyncio.sleep(0)
            await reader.store._pipeline.close()
            assert connecting.done()
            assert reader.ask(b"k") is None
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_is_stopped_and_goes_on(
    memcached: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_pipeline, "RETRY_AFTER_S", 0.05)
    record = new_record(b"a body", 1)
    async with reader_on(memcached.address, BRISK) as reader:
        await reader.store.set(b"k", record)
        await reader.connect()
        memcached.pause()
        assert (
            await reader.get_all([b"k"] + [b"l%d" % number for number in range(30)])
            == [NOTHING] * 31
        )
        assert reader.connection is None
        with pytest.raises(Unreachable):
            await reader.store.get(b"k")
        memcached.resume()
        right = (b"k", (encode(record), True))
        await until(lambda: reader.ask(b"k") and right in reader.given, "it answers again")


async def test_a_failure_is_followed_by_a_rest(memcached: Server, never_retry: None) -> None:
    async with reader_on(memcached.address, BRISK) as reader:
        await reader.connect()
        memcached.pause()
        assert await asyncio.wait_for(reader.must(b"k"), 30) == NOTHING
        memcached.resume()
        assert await reader.store.get(b"k") is None
        assert reader.ask(b"k") is None
        assert not reader.connecting


async def test_a_server_that_is_started_anew(memcached: Server, never_retry: None) -> None:
    async with reader_on(memcached.address) as reader:
        for body in (b"one", b"two"):
            await plain_set(memcached, b"k", 0, body)
            # The end of a connection with nothing under way is no failure.
            assert await reader.get(b"k") == (body, False)
            memcached.kill()
            await until(lambda: reader.connection is None, "the end has been seen")
            memcached.start()


async def test_a_server_killed_while_it_is_asked(memcached: Server, retry_at_once: None) -> None:
    async with reader_on(memcached.address) as reader:
        await reader.connect()
        memcached.pause()
        items = [reader.must(b"k%d" % number) for number in range(50)]
        await asyncio.sleep(0)
        os.kill(memcached.pid, signal.SIGKILL)  # and not kill(), which lets it go on first
        assert await asyncio.wait_for(asyncio.gather(*items), 30) == [NOTHING] * 50
        memcached.kill()
        memcached.start()
        await plain_set(memcached, b"k", 0, b"x")
        assert await reader.get(b"k") == (b"x", False)


# -- the end


async def test_closed_with_requests_under_way() -> None:
    async with scripted(()) as (server, reader):
        await reader.connect()
        sent = [reader.must(b"k%d" % number) for number in range(5)]
        await until(lambda: len(server.requests) == 5, "the requests have come")
        unsent = [reader.must(b"k%d" % number) for number in range(5)]
        await reader.store.close()
        assert await asyncio.gather(*sent, *unsent) == [NOTHING] * 10
        assert len(reader.given) == 10
        await until(lambda: server.open_connections == 0, "the connection is closed")
        assert reader.ask(b"k") is None
        await asyncio.sleep(0)
        assert (server.connections, len(server.requests)) == (1, 5)
        assert asyncio.all_tasks() - server._players == {asyncio.current_task()}


async def test_closed_without_a_request(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        await reader.store.close()
        assert reader.ask(b"k") is None


async def test_an_idle_connection_has_no_timer(memcached: Server) -> None:
    async with reader_on(memcached.address) as reader:
        assert await reader.get(b"k") == NOTHING
        connection = reader.connection
        assert connection is not None
        await until(lambda: connection._ticking is None, "nothing ticks")
        assert await reader.get(b"k") == NOTHING
