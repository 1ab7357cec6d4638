"""What a client of a node can occupy, and for how long: connections in this process, over a store
that waits or fails when a test wants it to.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

import pytest
import uvloop

from sfss import node, node_outbox, node_room
from sfss.config import MIB
from sfss.items import record_of
from sfss.node_commands import NodeSettings
from sfss.node_room import Room
from sfss.node_stats import Traffic
from sfss.record import Record, encode
from sfss.stores.base import Guard, Use
from tests.servers import DEADLINE_S
from tests.stores.dict_store import DictStore

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
STORED = b"STORED\r\n"


class GatedStore(DictStore):
    """A dict whose writes wait while ``gate`` is closed; ``begun`` counts those that have come."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0
        self.fault: Exception | None = None
        self.before_set: Callable[[bytes], None] = lambda key: None

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Wait for the gate, then keep the record."""
        self.begun += 1
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.before_set(key)
        await super().set(key, record, guard)

    def view(self, key: bytes, use: Use) -> bool:
        """Show what there is."""
        value = self.values.get(key)
        if value is not None:
            use(memoryview(value), True)
        return value is not None


@dataclass
class Served:
    """A node in this process, and how to reach it."""

    server: node.Server
    store: GatedStore
    port: int
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection, closed with the test."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=64 * MIB)
        self.clients.append(writer)
        return reader, writer

    async def leave(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()
            with suppress(OSError):
                await client.wait_closed()

    async def ask(self, request: bytes) -> bytes:
        """Return all that is answered to ``request``."""
        reader, writer = await self.connect()
        writer.write(request)
        writer.write_eof()
        return await reader.read()


@asynccontextmanager
async def serving(settings: NodeSettings | None = None) -> AsyncIterator[Served]:
    """Serve for the block; afterwards nothing may be left of any client."""
    before = asyncio.all_tasks()
    store = GatedStore()
    server = node.Server(store, settings or NodeSettings(), 0)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server.connection, "127.0.0.1", 0)
    served = Served(server, store, listener.sockets[0].getsockname()[1])
    try:
        yield served
        store.gate.set()
        await served.leave()
        await until(lambda: not server.traffic.connections, "all connections are let go")
        await until(lambda: asyncio.all_tasks() <= before, "all tasks have ended")
        for room in (server.arriving, server.waiting):
            assert room._free == room._limit
            assert not room._waiting
    finally:
        listener.close()
        await server.drain(0.0)
        await served.leave()


async def until(holds: Callable[[], object], what: str) -> None:
    """Let the loop go on until ``holds()``."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            while not holds():  # noqa: ASYNC110 - nobody would set an event
                await asyncio.sleep(0.001)
            return
    pytest.fail(f"not in time: {what}")


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Run a coroutine on each kind of loop."""

    def on_loop(test: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(test, 2 * DEADLINE_S))

    return on_loop


Run = Callable[[Awaitable[None]], None]


def set_command(key: bytes, size: int) -> bytes:
    """Return a set of so many bytes."""
    return b"set %b 0 0 %d\r\n%b\r\n" % (key, size, b"x" * size)


# -- time


def test_a_client_that_never_reads_is_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_outbox, "STALLED_S", 0.05)

    async def test() -> None:
        async with serving() as served:
            await served.ask(set_command(b"large", 8 * MIB))
            for request in (b"get large\r\n" * 3, b"get large large large\r\nquit\r\n"):
                with socket.create_connection(("127.0.0.1", served.port)) as client:
                    client.sendall(request)
                    await until(lambda: served.server.traffic.connections == 1, "it is taken up")
                    await until(lambda: not served.server.traffic.connections, "it is cut off")

    run(test())


class StuckTransport(asyncio.Transport):
    """Has a few bytes left to send, fewer than would be reported, and never gets rid of them."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False
        self.aborted = asyncio.Event()

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.closing

    def close(self) -> None:
        """Be closed when all is sent, so never."""
        self.closing = True

    def get_write_buffer_size(self) -> int:
        """Return what is left."""
        return 10

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take it."""

    def abort(self) -> None:
        """Be closed at once."""
        self.aborted.set()


def test_a_closed_client_that_does_not_take_its_last_answer_is_cut_off(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_outbox, "STALLED_S", 0.05)

    async def test() -> None:
        outbox, transport = node_outbox.Outbox(Traffic()), StuckTransport()
        outbox.open(transport)
        outbox.say(b"END\r\n")
        outbox.close()
        assert transport.closing and not transport.aborted.is_set()
        await transport.aborted.wait()

    run(test())


def test_a_client_that_reads_slowly_is_not_cut_off(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_outbox, "STALLED_S", 0.5)

    async def test() -> None:
        async with serving() as served:
            await served.ask(set_command(b"large", MIB))
            reader, writer = await served.connect()
            writer.write(b"get large\r\n" * 40)
            loop, received = asyncio.get_running_loop(), 0
            begun_s = loop.time()
            while received < 40 * (MIB + 29):
                received += len(await reader.read(MIB))
                # Slower than the limit in all, but never long without taking something.
                if loop.time() - begun_s < 1.5:
                    await asyncio.sleep(0.05)

    run(test())


def test_a_large_value_that_does_not_come_on_is_cut_off_and_its_room_is_free_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_room, "VALUE_PROGRESS_S", 0.05)

    async def test() -> None:
        async with serving() as served:
            reader, writer = await served.connect()
            writer.write(set_command(b"a", MIB)[: MIB // 2])
            assert await reader.read() == b""
            reader, writer = await served.connect()
            writer.write(set_command(b"small", 100)[:50])
            await until(lambda: served.server.traffic.received_bytes > MIB // 2 + 40, "it came")
            await asyncio.sleep(0.2)
            writer.write(set_command(b"small", 100)[50:])  # small ones have all the time
            assert await reader.readline() == STORED

    run(test())


def test_a_value_that_has_come_waits_for_the_store_as_long_as_that_takes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_room, "VALUE_PROGRESS_S", 0.05)

    async def test() -> None:
        async with serving() as served:
            served.store.gate.clear()
            reader, writer = await served.connect()
            writer.write(set_command(b"a", MIB) + b"append a 0 0 500000\r\n" + b"y" * 500_000)
            await until(lambda: served.store.begun == 1, "it waits for the store")
            writer.write(b"\r\n")
            await asyncio.sleep(0.3)
            served.store.gate.set()
            assert await reader.readline() == STORED
            assert await reader.readline() == STORED

    run(test())


def test_a_client_without_a_command_may_stay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_room, "VALUE_PROGRESS_S", 0.05)
    monkeypatch.setattr(node_outbox, "STALLED_S", 0.05)

    async def test() -> None:
        async with serving() as served:
            reader, writer = await served.connect()
            for _ in range(3):
                await asyncio.sleep(0.1)
                writer.write(b"get nothing\r\n")
                assert await reader.readline() == b"END\r\n"

    run(test())


# -- memory


def test_values_that_arrive_wait_for_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "ARRIVING_BYTES", 2 * MIB + 100)

    async def test() -> None:
        async with serving(NodeSettings(item_limit=2 * MIB)) as served:
            arriving = served.server.arriving
            clients = [await served.connect() for _ in range(4)]
            whole = set_command(b"a", MIB)
            for _, writer in clients:
                writer.write(whole[: MIB // 4])
            await until(lambda: len(arriving._waiting) == 2, "two of four have no room")
            for _, writer in clients[2:]:
                writer.write(whole[MIB // 4 :])
            assert (await served.ask(set_command(b"small", 1000))) == STORED
            assert len(arriving._waiting) == 2
            for _, writer in clients[:2]:
                writer.write(whole[MIB // 4 :])
            for reader, _ in clients:
                assert await reader.readline() == STORED

    run(test())


def test_values_that_wait_for_the_disk_are_bounded_for_all_clients_together(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "WAITING_BYTES", MIB)

    async def test() -> None:
        async with serving(NodeSettings(item_limit=MIB)) as served:
            served.store.gate.clear()
            clients = [await served.connect() for _ in range(5)]
            for _, writer in clients:
                writer.write(set_command(b"a", 100_000) * 20)
            await until(lambda: served.store.begun == MIB // 101_024, "there is no more room")
            for _ in range(20):
                await asyncio.sleep(0)
            assert served.store.begun == MIB // 101_024
            served.store.gate.set()
            for reader, _ in clients:
                assert await reader.readexactly(len(STORED) * 20) == STORED * 20

    run(test())


def test_writes_in_flight_of_one_client_are_bounded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "WRITES_IN_FLIGHT", 10)

    async def test() -> None:
        async with serving() as served:
            served.store.gate.clear()
            reader, writer = await served.connect()
            writer.write(set_command(b"a", 10) * 100 + b"get a\r\n")
            await until(lambda: served.store.begun == 10, "so many have begun")
            for _ in range(20):
                await asyncio.sleep(0)
            assert served.store.begun == 10
            served.store.gate.set()
            assert await reader.readexactly(len(STORED) * 100) == STORED * 100
            assert await reader.readline() == b"VALUE a 0 10\r\n"

    run(test())


def test_what_is_read_ahead_is_bounded(run: Run) -> None:
    async def test() -> None:
        async with serving() as served:
            served.store.gate.clear()
            reader, writer = await served.connect()
            writer.write(b"add a 0 0 1\r\n1\r\nincr a 0\r\n" + b"get a\r\n" * 400_000)
            await until(lambda: served.store.begun == 1, "the first waits for the store")
            (connection,) = served.server._connections
            # The most that comes in one piece is 256 KiB.
            await until(lambda: connection._parser.unread > node.READ_AHEAD, "it has read ahead")
            for _ in range(100):
                await asyncio.sleep(0)
            assert connection._parser.unread < 4 * node.READ_AHEAD
            served.store.gate.set()
            expected = STORED + b"1\r\n" + b"VALUE a 0 1\r\n1\r\nEND\r\n" * 400_000
            for start in range(0, len(expected), MIB):
                piece = expected[start : start + MIB]
                assert await reader.readexactly(len(piece)) == piece

    run(test())


# -- faults


@pytest.mark.parametrize("verb", [b"set", b"add", b"append"])
def test_an_unforeseen_error_is_an_answer_and_the_connection_goes_on(run: Run, verb: bytes) -> None:
    async def test() -> None:
        async with serving() as served:
            await served.ask(set_command(b"there", 1))
            served.store.fault = RuntimeError("unforeseen\r\nSTORED")
            key = b"new" if verb == b"add" else b"there"
            answer = await served.ask(b"%b %b 0 0 1\r\nx\r\nversion\r\n" % (verb, key))
            first, second = answer.splitlines()
            assert first == b"SERVER_ERROR internal error"
            assert second.startswith(b"VERSION ")

    run(test())


def test_a_change_is_tried_again_when_somebody_came_in_between(run: Run) -> None:
    async def test() -> None:
        async with serving() as served:
            others: Iterator[int] = iter(range(10, 13))

            def interfere(key: bytes) -> None:
                if (number := next(others, None)) is not None:
                    served.store.values[key] = encode(record_of(0, b"%d" % number, 0, number))

            await served.ask(b"set a 0 0 1\r\n5\r\n")
            served.store.before_set = interfere
            assert await served.ask(b"incr a 1\r\n") == b"13\r\n"
            others = count(20)
            answer = await served.ask(b"incr a 1\r\nversion\r\n")
            assert answer.startswith(b"SERVER_ERROR the item keeps changing\r\nVERSION ")

    run(test())


SCRIPT = (
    b"set a 0 0 3\r\nabc\r\nget a b\r\nincr n 1\r\nappend a 0 0 1\r\nd\r\ngets a\r\ngat 0 a b\r\n"
    b"lru_crawler metadump all\r\nstats\r\ndelete a\r\n"
    + set_command(b"large", 100_000)
    + b"append large 0 0 70000\r\n"
    + b"y" * 70_000
    + b"\r\n"
)


@pytest.mark.parametrize("resets", [False, True])
def test_a_client_may_leave_at_any_byte(run: Run, resets: bool) -> None:
    """``serving`` then finds no task, no room taken and no connection left."""

    async def test() -> None:
        async with serving() as served:
            sizes = [*range(230), *range(230, len(SCRIPT), 9973), len(SCRIPT)]
            for number, size in enumerate(sizes):
                if number % 3 == 0:
                    served.store.gate.clear()
                with socket.create_connection(("127.0.0.1", served.port)) as client:
                    client.sendall(SCRIPT[:size])
                    for _ in range(number % 7):
                        await asyncio.sleep(0)
                    if resets:
                        linger = (1).to_bytes(8, "little")
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                await asyncio.sleep(0)
                served.store.gate.set()
            assert await served.ask(b"set z 0 0 1\r\nx\r\n") == STORED

    run(test())


def test_a_stop_cuts_off_what_does_not_end(run: Run) -> None:
    async def test() -> None:
        async with serving() as served:
            served.store.gate.clear()
            reader, writer = await served.connect()
            writer.write(set_command(b"a", 10))
            await until(lambda: served.store.begun == 1, "it waits for the store")
            await served.server.drain(0.3)
            assert await reader.read() == b""

    run(test())


# -- the room itself


def test_room_is_given_first_come_first_served(run: Run) -> None:
    async def test() -> None:
        room, order = Room(10), []

        async def take(name: str, size: int) -> None:
            await room.take(size)
            order.append(name)

        assert room.try_take(6)
        tasks = [asyncio.create_task(take(*what)) for what in (("a", 5), ("b", 1), ("c", 99))]
        await asyncio.sleep(0)
        assert not room.try_take(1)  # b is first
        room.give(6)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["a", "b"]
        room.give(5)
        room.give(1)
        await tasks[2]  # more than there is means all there is
        room.give(99)
        assert room.try_take(10)

    run(test())


@pytest.mark.parametrize("steps", range(4))
def test_room_is_not_lost_by_who_is_cancelled(run: Run, steps: int) -> None:
    async def test() -> None:
        room = Room(10)
        assert room.try_take(10)
        first, second = (asyncio.create_task(room.take(10)) for _ in range(2))
        await asyncio.sleep(0)
        if steps > 1:
            room.give(10)
        for _ in range(steps % 2):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        if steps < 2 or not first.cancelled():
            room.give(10)
        await second
        room.give(10)
        assert room.try_take(10)

    run(test())
