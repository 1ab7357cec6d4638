"""Changes on their way to a node, many at a time; and what is newer wins, in one step."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sfss.agreement import tombstone
from sfss.config import MemcachedSettings
from sfss.errors import Corrupt, Unreachable
from sfss.memtext import SET, VERSION, VERSION_COMMAND, set_command
from sfss.record import Record, encode, new_record
from sfss.stores.memcached import MemcachedStore
from sfss.stores.memcached_pool import Closed, Exchange
from sfss.stores.memcached_writer import SMALL, Writers
from tests.servers import DEADLINE_S, Server, node, running
from tests.servers import memcached as memcached_with
from tests.stores.scripted import CLOSE, ScriptedServer, until
from tests.stores.test_memcached import PATIENT, plain, plain_set, store_on
from tests.test_node import flip, plant

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

BRISK = replace(PATIENT, timeout_s=0.5)
STORED = b"STORED\r\n"
SETTINGS = b"STAT item_size_max 1048576\r\nSTAT newest yes\r\nEND\r\n"


def version(number: int) -> Record:
    """Return a record that is newer the greater ``number`` is."""
    return new_record(b"body %d" % number, number)


@pytest.fixture(name="node")
def one_node(tmp_path: Path) -> Iterator[Server]:
    """A node."""
    with running(node(tmp_path)) as server:
        yield server


async def test_many_at_once_share_a_connection(node: Server) -> None:
    async with store_on(node.address) as store:
        await store.set(b"first", version(1))
        writes = [store.set(b"k%d" % number, version(number)) for number in range(200)]
        assert store._writers._small._connection is not None
        await asyncio.gather(*writes)
        for number in range(200):
            assert await store.get(b"k%d" % number) == version(number)
        deletes = [store.delete(b"k%d" % number) for number in range(0, 400, 2)]
        assert await asyncio.gather(*deletes) == [True] * 100 + [False] * 100
        assert int((await store.stats())["total_connections"]) <= 4


async def test_many_are_read_at_once(node: Server) -> None:
    async with store_on(node.address) as store:
        await asyncio.gather(*(store.set(b"k%d" % n, version(n)) for n in range(300)))
        await plain_set(node, b"plain", 0, b"a body of somebody else")
        await until(lambda: store.view(b"k0", lambda *_: None), "the hot path is open")
        found = await asyncio.gather(*(store.get(b"k%d" % n) for n in range(310)))
        assert found == [version(n) for n in range(300)] + [None] * 10
        plain_one = await store.get(b"plain")
        assert plain_one is not None
        assert (bytes(plain_one.body), plain_one.head.version) == (b"a body of somebody else", 0)
        assert int((await store.stats())["total_connections"]) <= 12
        reads = [asyncio.ensure_future(store.get(b"k%d" % n)) for n in range(100)]
        await asyncio.sleep(0)
        for read in reads[::2]:
            read.cancel()
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert outcomes[1::2] == [version(n) for n in range(1, 100, 2)]


async def test_a_large_one_and_one_too_many_go_another_way(node: Server) -> None:
    async with store_on(node.address) as store:
        await store.set(b"first", version(1))
        large = new_record(bytes(2 * SMALL), 1)
        many = 600
        writes = [store.set(b"k%d" % number, version(number)) for number in range(many)]
        await asyncio.gather(store.set(b"large", large), *writes)
        assert await store.get(b"large") == large
        for number in range(many):
            assert await store.get(b"k%d" % number) == version(number)


@pytest.mark.parametrize("kind", ["node", "memcached"])
async def test_what_is_newer_stays(kind: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)
    async with store_on(server.address) as store:
        assert await store.set_newest(b"k", version(5)) is None
        assert await store.set_newest(b"k", version(4)) == version(5).head
        assert await store.get(b"k") == version(5)
        assert await store.set_newest(b"k", version(5)) is None
        assert await store.set_newest(b"k", version(6)) is None
        gone = tombstone(7)
        assert await store.set_newest(b"k", gone) is None
        assert await store.set_newest(b"k", version(6)) == gone.head
        # Of the same version, the one with the greater digest.
        ties = sorted(
            (new_record(b"%d" % n, 9) for n in range(2)), key=lambda each: each.head.digest
        )
        assert await store.set_newest(b"k", ties[1]) is None
        assert await store.set_newest(b"k", ties[0]) == ties[1].head
        # A plain body has no version, and loses.
        await plain_set(server, b"plain", 0, b"a body of somebody else")
        assert await store.set_newest(b"plain", version(1)) is None
        assert await store.get(b"plain") == version(1)


@pytest.mark.parametrize("kind", ["node", "memcached"])
async def test_two_gateways_that_write_the_same_leave_the_newest(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    async with store_on(server.address) as one, store_on(server.address) as other:
        writes = []
        for number in range(1, 40):
            order = (one, other) if number % 2 else (other, one)
            writes += [
                store.set_newest(b"k%d" % key, version(40 * number + turn))
                for key in range(5)
                for turn, store in enumerate(order)
            ]
        await asyncio.gather(*reversed(writes))
        for key in range(5):
            assert await one.get(b"k%d" % key) == version(40 * 39 + 1)


async def test_another_server_in_its_place_is_not_sent_our_command(
    node: Server, tmp_path: Path
) -> None:
    # As a body, what would empty a server that takes it for commands.
    harmful = new_record(b"x\r\nflush_all\r\n", 5)
    async with store_on(node.address) as store:
        await store.set_newest(b"first", harmful)
        node.kill()
        with running(memcached_with(tmp_path, port=node.port)) as other:
            await plain_set(other, b"kept", 0, b"x")
            outcomes = await asyncio.gather(
                *(store.set_newest(b"k%d" % number, harmful) for number in range(20)),
                store.set_newest(b"large", new_record(bytes(2 * SMALL), 5)),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} <= {type(None), Unreachable}
            assert await store.set_newest(b"k", harmful) is None
            assert (await plain(other, b"get kept\r\n", b"END")).startswith(b"VALUE kept 0 1")
            assert b"cmd_flush 0" in await plain(other, b"stats\r\n", b"END")


async def test_what_is_newer_and_damaged_is_no_answer(node: Server) -> None:
    async with store_on(node.address) as store:
        await store.set_newest(b"k", version(9))
        plant(node, b"k", flip(-1))
        with pytest.raises(Corrupt):
            await store.set_newest(b"k", version(5))
        assert await store.set_newest(b"k", version(10)) is None
        assert await store.get(b"k") == version(10)


async def test_newest_takes_records_only(node: Server) -> None:
    answer = await plain(
        node, b"newest k 0 0 1\r\nx\r\n", b"CLIENT_ERROR newest takes records only"
    )
    assert answer.startswith(b"CLIENT_ERROR")
    value = encode(version(1))
    request = b"newest k %d 0 %d\r\n%b\r\n" % (0x53460001, len(value), value)
    assert await plain(node, request + b"version\r\n", b"STORED") == STORED


async def test_a_node_that_dies_and_comes_back(node: Server) -> None:
    async with store_on(node.address, replace(PATIENT, timeout_s=5.0)) as store:
        await store.set(b"first", version(1))
        node.pause()
        writes = [
            asyncio.ensure_future(store.set_newest(b"k%d" % number, version(number)))
            for number in range(50)
        ]
        connection = store._writers._small._connection
        assert connection is not None
        await until(lambda: len(connection._waiting) == 50, "all are sent")
        node.kill()
        for outcome in await asyncio.gather(*writes, return_exceptions=True):
            assert isinstance(outcome, Unreachable)
            assert outcome.applied is None
        node.start()
        assert await store.set_newest(b"again", version(2)) is None
        assert await store.get(b"first") == version(1)


async def test_a_node_that_stands_still_and_goes_on(node: Server) -> None:
    async with store_on(node.address, BRISK) as store:
        await in_the_end(lambda: store.set_newest(b"first", version(1)))
        held = store._writers._small._connection
        node.pause()
        with pytest.raises(Unreachable, match="no answer within"):
            await store.set_newest(b"k", version(1))
        assert held is not None
        assert held.ended
        node.resume()
        assert await in_the_end(lambda: store.set_newest(b"k", version(2))) is None
        assert await in_the_end(lambda: store.get(b"k")) == version(2)


async def in_the_end(ask: Callable[[], Awaitable[object]]) -> object:
    """Ask a node that is up until it has answered in time; return its answer."""
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await ask()
        except Unreachable:
            if time.monotonic() > end_s:
                raise


async def test_one_that_is_given_up_harms_no_other(node: Server) -> None:
    async with store_on(node.address) as store:
        await store.set(b"first", version(1))
        writes = [
            asyncio.ensure_future(store.set(b"k%d" % number, version(number)))
            for number in range(100)
        ]
        for steps, write in enumerate(writes[::3]):
            if steps % 2:
                await asyncio.sleep(0)
            write.cancel()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if not isinstance(outcome, asyncio.CancelledError):
                assert outcome is None
                assert await store.get(b"k%d" % number) == version(number)
        assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b"nonsense\r\n"], "unknown line"),
        ([b"ERROR\r\n"], "ERROR"),
        ([b"DELETED\r\n"], "does not answer"),
        ([CLOSE], "closed the connection"),
    ],
)
async def test_an_answer_out_of_step_ends_the_connection(
    answers: list[bytes | None], reason: str
) -> None:
    settings = MemcachedSettings(timeout_s=30.0)
    async with (
        ScriptedServer([SETTINGS], [SETTINGS, *answers]) as server,
        store_on(server.address, settings) as store,
    ):
        writes = [store.set(key, version(1)) for key in (b"a", b"b")]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        connection = store._writers._small._connection
        assert connection is not None
        await until(lambda: connection.ended, "it is thrown away")
        assert any(reason in str(each) for each in outcomes)


async def test_what_ends_is_told_to_all_and_nothing_is_sent_after_the_end() -> None:
    async with ScriptedServer([SETTINGS, CLOSE]) as server:
        writer = Writers("127.0.0.1", server.port, 30.0)
        exchanges = [Exchange(set_command(b"k", 0, b"x"), SET) for _ in range(3)]
        outcomes = await asyncio.gather(
            *(writer.run(exchange) for exchange in exchanges), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [Closed] * 3
        assert [exchange.applied for exchange in exchanges] == [None] * 3
        await writer.close()
        with pytest.raises(ConnectionError):
            await writer.run(Exchange(VERSION_COMMAND, VERSION))


async def test_a_store_that_is_closed_finishes_what_was_begun(node: Server) -> None:
    store = MemcachedStore(node.address, PATIENT)
    await store.set(b"first", version(1))
    writes = [asyncio.ensure_future(store.set(b"k%d" % n, version(n))) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writes) == [None] * 20


async def test_one_answer_too_many_ends_the_connection() -> None:
    async with ScriptedServer([SETTINGS, STORED * 3]) as server:
        writers = Writers("127.0.0.1", server.port, 30.0)
        exchanges = [Exchange(set_command(b"k", 0, b"x"), SET) for _ in range(2)]
        await asyncio.gather(*(writers.run(exchange) for exchange in exchanges))
        connection = writers._small._connection
        assert connection is not None
        await until(lambda: connection.ended, "it is thrown away")
        await writers.close()
