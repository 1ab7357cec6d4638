"""The memcached-protocol store when servers die, stop, answer wrong, and callers give up."""

import asyncio
import os
import random
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sfss.config import MIB, MemcachedSettings
from sfss.errors import SfssError, StoreFull, TooLarge, Unreachable
from sfss.memtext import VALUE_LIMIT
from sfss.record import RECORD_FLAGS, Record, encode, new_record
from sfss.stores.memcached import MemcachedStore
from tests.servers import Server, free_port, running
from tests.servers import memcached as memcached_with
from tests.stores.scripted import CLOSE, Script, ScriptedServer, until
from tests.stores.test_memcached import (
    KNOWN_LIMIT,
    PATIENT,
    RECORD,
    idle_connections,
    plain,
    store_on,
)

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

HASTY = MemcachedSettings(timeout_s=0.4, item_limit=MIB)
BRISK = replace(HASTY, timeout_s=1.5)
ONE = replace(KNOWN_LIMIT, connections=1)
FOUND = b"VALUE k %d %d\r\n%b\r\nEND\r\n" % (RECORD_FLAGS, len(encode(RECORD)), encode(RECORD))

Operation = Callable[[MemcachedStore], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "get": lambda store: store.get(b"k"),
    "set": lambda store: store.set(b"k", RECORD),
    "delete": lambda store: store.delete(b"k"),
}
GOOD_ANSWERS = {"get": FOUND, "set": b"STORED\r\n", "delete": b"DELETED\r\n"}


def maybe_applied(name: str) -> bool | None:
    return False if name == "get" else None


async def unreachable(operation: Awaitable[object]) -> Unreachable:
    """Return the Unreachable that ``operation`` raises."""
    with pytest.raises(Unreachable) as caught:
        await operation
    return caught.value


async def body(store: MemcachedStore, key: bytes) -> bytes | None:
    record = await store.get(key)
    return None if record is None else bytes(record.body)


def of_key(key: bytes, size: int = 100) -> Record:
    """Return the record that tests keep under ``key`` and no other."""
    return new_record(key * (size // len(key) + 1), 1)


async def connections_of(server: Server, store: MemcachedStore) -> int:
    """Return how many connections of ``store`` the server has, when it has seen to those that were
    closed; fail where they are more than the store knows of.
    """
    for _ in range(3000):
        states = re.findall(rb":state (\w+)", await plain(server, b"stats conns\r\n", b"END"))
        seen = len(states) - states.count(b"conn_listening") - 1  # the one that asks
        if seen <= len(idle_connections(store)):
            return seen
        await asyncio.sleep(0.01)
    pytest.fail(f"{seen} connections at the server, {len(idle_connections(store))} in the pool")


# -- servers that die


@pytest.mark.parametrize("name", OPERATIONS)
async def test_nobody_listens(name: str) -> None:
    async with store_on(f"127.0.0.1:{free_port()}", KNOWN_LIMIT) as store:
        for _ in range(20):
            error = await unreachable(OPERATIONS[name](store))
            assert (error.store, error.applied) == (store.address, False)
        assert (await unreachable(store.stats())).applied is False


async def test_nobody_listens_when_the_limit_is_asked() -> None:
    async with store_on(f"127.0.0.1:{free_port()}", PATIENT) as store:
        assert (await unreachable(store.set(b"k", RECORD))).applied is False


async def test_a_host_without_an_address() -> None:
    async with store_on("no-such-host.invalid:11211", KNOWN_LIMIT) as store:
        assert (await unreachable(store.set(b"k", RECORD))).applied is False


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_server_killed_while_it_is_asked(memcached: Server, name: str) -> None:
    async with store_on(memcached.address, KNOWN_LIMIT) as store:
        await store.set(b"k", RECORD)
        memcached.pause()
        asked = [asyncio.ensure_future(OPERATIONS[name](store)) for _ in range(20)]
        await until(lambda: not idle_connections(store), "the pooled connection is in use")
        os.kill(memcached.pid, signal.SIGKILL)  # and not kill(), which lets it go on first
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Unreachable)]
        assert len(errors) == len(outcomes)
        assert {error.applied for error in errors} <= {False, maybe_applied(name)}
        assert errors[0].applied is maybe_applied(name)
        memcached.kill()
        memcached.start()
        await store.set(b"k", RECORD)
        assert await body(store, b"k") == RECORD.body


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_server_restarted_between_two_requests(memcached: Server, name: str) -> None:
    async with store_on(memcached.address, KNOWN_LIMIT) as store:
        await asyncio.gather(*(store.get(b"k") for _ in range(20)))
        memcached.kill()
        memcached.start()
        for _ in range(20):
            await OPERATIONS[name](store)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_pooled_connection_that_dies_is_replaced_once(name: str) -> None:
    good = GOOD_ANSWERS[name]
    async with ScriptedServer([good, CLOSE], [good]) as server:
        async with store_on(server.address, ONE) as store:
            await OPERATIONS[name](store)
            await OPERATIONS[name](store)
        assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize("half", [b"VAL", FOUND[:-5], FOUND[:40]])
async def test_a_pooled_connection_that_dies_in_its_answer_is_replaced(half: bytes) -> None:
    scripts = [[FOUND, half], [FOUND]]
    async with ScriptedServer(*scripts) as server, store_on(server.address, ONE) as store:
        await store.get(b"k")
        second = asyncio.ensure_future(body(store, b"k"))
        await until(lambda: len(server.requests) == 2, "the second request has come")
        server.writers[0].close()
        assert await second == RECORD.body


@pytest.mark.parametrize("name", OPERATIONS)
async def test_only_once(name: str) -> None:
    good = GOOD_ANSWERS[name]
    async with ScriptedServer([good, CLOSE], [CLOSE]) as server:
        async with store_on(server.address, ONE) as store:
            await OPERATIONS[name](store)
            error = await unreachable(OPERATIONS[name](store))
            assert error.applied is maybe_applied(name)
        assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_fresh_connection_that_dies_is_not_replaced(name: str) -> None:
    async with ScriptedServer([CLOSE]) as server:
        async with store_on(server.address, ONE) as store:
            error = await unreachable(OPERATIONS[name](store))
            assert error.applied is maybe_applied(name)
        assert (server.connections, len(server.requests)) == (1, 1)


async def test_a_repeated_delete_that_finds_nothing_may_have_done_it() -> None:
    deleted, not_found = b"DELETED\r\n", b"NOT_FOUND\r\n"
    scripts: list[Script] = [[deleted, CLOSE], [not_found, not_found]]
    async with ScriptedServer(*scripts) as server, store_on(server.address, ONE) as store:
        assert await store.delete(b"k") is True
        assert await store.delete(b"k") is True
        assert await store.delete(b"k") is False


async def test_a_guard_is_asked_of_the_server_that_then_dies() -> None:
    async with ScriptedServer([FOUND], [CLOSE]) as server, store_on(server.address, HASTY) as store:
        seen: list[object] = []
        assert (await unreachable(store.set(b"k", RECORD, seen.append))).applied is None
        assert seen == [RECORD.head]
        assert (await unreachable(store.delete(b"k", seen.append))).applied is False
        assert seen == [RECORD.head]


# -- servers that stop


@pytest.mark.parametrize("name", OPERATIONS)
async def test_no_answer_in_time(name: str) -> None:
    async with ScriptedServer([]) as server, store_on(server.address, HASTY) as store:
        error = await unreachable(asyncio.wait_for(OPERATIONS[name](store), 30))
        assert (error.reason, error.applied) == ("no answer within 0.4 s", maybe_applied(name))
        assert len(server.requests) == 1, "not repeated"
        await until(lambda: server.open_connections == 0, "the connection is closed")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_waiting_for_a_connection_is_bounded_too(name: str) -> None:
    one = replace(HASTY, connections=1)
    async with ScriptedServer([]) as server, store_on(server.address, one) as store:
        asked = [asyncio.ensure_future(OPERATIONS[name](store)) for _ in range(20)]
        async with asyncio.timeout(30):
            errors = [await unreachable(operation) for operation in asked]
    assert {error.applied for error in errors} == {False, maybe_applied(name)}
    assert len(server.requests) < len(errors)


async def test_a_stopped_server(memcached: Server, tmp_path: Path) -> None:
    keys = [b"key-%d" % number for number in range(40)]
    with running(memcached_with(tmp_path)) as other_server:
        async with (
            store_on(memcached.address, BRISK) as store,
            store_on(other_server.address, PATIENT) as other,
        ):
            for key in keys:
                await store.set(key, of_key(key))
                await other.set(key, of_key(key))
            memcached.pause()
            stopped = [asyncio.ensure_future(unreachable(store.get(key))) for key in keys]
            for key in keys:
                assert await body(other, key) == of_key(key).body
            async with asyncio.timeout(30):
                assert all(error.applied is False for error in await asyncio.gather(*stopped))
            memcached.resume()
            for key in [*keys, *keys]:
                assert await body(store, key) == of_key(key).body
            found = await asyncio.gather(*(body(store, key) for key in keys))
            assert found == [of_key(key).body for key in keys]


async def test_a_set_that_was_given_up_is_not_sent_on_later(tmp_path: Path) -> None:
    large = new_record(b"x" * 60 * MIB, 2)
    with running(memcached_with(tmp_path, "-m", "256", "-I", "64m")) as server:
        settings = replace(BRISK, item_limit=64 * MIB)
        async with store_on(server.address, settings) as store:
            await store.set(b"k", RECORD)
            server.pause()
            assert (await unreachable(store.set(b"k", large))).applied is None
            server.resume()
            assert await connections_of(server, store) == 0
            async with store_on(server.address, PATIENT) as patient:
                assert await body(patient, b"k") == RECORD.body


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_any_point(memcached: Server, seed: int) -> None:
    """Whatever is cancelled: the value read is the value of the key asked, and nothing is lost."""
    choose = random.Random(seed)
    keys = [b"key-%d" % number for number in range(20)]
    settings = replace(PATIENT, connections=4)

    async def get(key: bytes) -> None:
        assert await body(store, key) == of_key(key, 30_000).body, f"seed {seed}"

    async def cancelled(operation: Awaitable[None], turns: int) -> None:
        task = asyncio.ensure_future(operation)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    async with store_on(memcached.address, settings) as store:
        for key in keys:
            await store.set(key, of_key(key, 30_000))
        for _ in range(30):
            chosen = choose.choices(keys, k=16)
            await asyncio.gather(
                *(cancelled(get(key), choose.randrange(30)) for key in chosen[:6]),
                *(
                    cancelled(store.set(key, of_key(key, 30_000)), choose.randrange(30))
                    for key in chosen[6:10]
                ),
                *(get(key) for key in chosen[10:]),
            )
        for key in keys:
            await get(key)
        assert await connections_of(memcached, store) <= 4


# -- connections


async def test_waiters_are_woken_when_connections_die() -> None:
    two = replace(KNOWN_LIMIT, connections=2)
    scripts: list[Script] = [[FOUND, FOUND, CLOSE], [CLOSE]]
    async with ScriptedServer(*scripts) as server, store_on(server.address, two) as store:
        gets = asyncio.gather(*(store.get(b"k") for _ in range(50)), return_exceptions=True)
        outcomes = await asyncio.wait_for(gets, 30)
    assert {type(outcome) for outcome in outcomes} <= {Record, Unreachable}
    assert sum(isinstance(outcome, Unreachable) for outcome in outcomes) >= 46


async def test_waiters_are_woken_when_those_before_them_give_up(memcached: Server) -> None:
    async with store_on(memcached.address, ONE) as store:
        await store.set(b"k", RECORD)
        memcached.pause()
        asked = [asyncio.ensure_future(store.get(b"k")) for _ in range(10)]
        await until(lambda: not idle_connections(store), "the connection is in use")
        for waiting in (*asked[:3], asked[5]):
            waiting.cancel()
        memcached.resume()
        outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        assert sum(isinstance(outcome, Record) for outcome in outcomes) == 6


async def test_no_connection_leaks(memcached: Server) -> None:
    settings = replace(BRISK, connections=4)
    async with store_on(memcached.address, settings) as store:
        for _ in range(2):
            await asyncio.gather(*(store.get(b"k") for _ in range(20)))
            assert await connections_of(memcached, store) <= 4
            memcached.pause()
            outcomes = await asyncio.gather(
                *(store.get(b"k") for _ in range(20)), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {Unreachable}
            memcached.resume()
            assert await connections_of(memcached, store) == 0
        await asyncio.gather(*(store.get(b"k") for _ in range(20)))
    assert await connections_of(memcached, store) == 0


async def test_a_replaced_connection_does_not_exceed_the_limit() -> None:
    """One who waits takes the slot of the dead connection, and leaves an idle one behind it."""
    async with ScriptedServer([FOUND, CLOSE], [FOUND]) as server:
        async with store_on(server.address, ONE) as store:
            await store.get(b"k")
            first, second = await asyncio.gather(body(store, b"k"), body(store, b"k"))
            assert (first, second) == (RECORD.body, RECORD.body)
            assert len(idle_connections(store)) == 1
        assert len(server.requests) == 4


async def test_one_connection_is_enough_for_one_at_a_time() -> None:
    async with ScriptedServer([FOUND] * 10) as server:
        async with store_on(server.address, KNOWN_LIMIT) as store:
            for _ in range(10):
                await store.get(b"k")
        assert server.connections == 1


async def test_close_waits_for_what_was_begun(memcached: Server) -> None:
    store = MemcachedStore(memcached.address, KNOWN_LIMIT)
    await store.set(b"k", RECORD)
    memcached.pause()
    asked = [asyncio.ensure_future(store.get(b"k")) for _ in range(20)]
    await until(lambda: not idle_connections(store), "the pooled connection is in use")
    closing = asyncio.ensure_future(store.close())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not closing.done()
    memcached.resume()
    await asyncio.wait_for(closing, 30)
    assert asked[0].done()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(outcomes[0], Record)
    assert {type(outcome) for outcome in outcomes} <= {Record, Unreachable}
    assert "closed" in (await unreachable(store.get(b"k"))).reason
    await store.close()


# -- servers that answer wrong

STRAYS = [b"END\r\n", b"STORED\r\n", b"VALUE k 0 1\r\n", b"x", b"\r\n"]


@pytest.mark.parametrize("stray", STRAYS)
async def test_a_connection_with_bytes_that_nobody_asked_for_is_not_used(stray: bytes) -> None:
    async with ScriptedServer([FOUND], [FOUND]) as server:
        async with store_on(server.address, ONE) as store:
            await store.get(b"k")
            (idle,) = idle_connections(store)
            server.writers[0].write(stray)
            await until(lambda: not idle.usable(), "the stray bytes have come")
            record = await store.get(b"k")
            assert record is not None
        assert server.connections == 2


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    async with ScriptedServer([FOUND], [b"STORED\r\n"]) as server:
        async with store_on(server.address, ONE) as store:
            await store.get(b"k")
            (idle,) = idle_connections(store)
            server.writers[0].close()
            await until(lambda: not idle.usable(), "the end of the stream has come")
            await store.set(b"k", RECORD)
        assert len(server.requests) == 2, "the set was sent once"


NOT_ANSWERS_TO_GET = {
    "another key": b"VALUE other 0 1\r\nx\r\nEND\r\n",
    "the key twice": b"VALUE k 0 1\r\nx\r\nVALUE k 0 1\r\nx\r\nEND\r\n",
    "two keys": b"VALUE k 0 1\r\nx\r\nVALUE l 0 1\r\nx\r\nEND\r\n",
    "two answers": FOUND + FOUND,
    "a miss and an answer": b"END\r\n" + FOUND,
    "two misses": b"END\r\nEND\r\n",
    "an answer and a byte": FOUND + b"V",
    "a body longer than announced": b"VALUE k 0 1\r\nxyz\r\nEND\r\n",
    "a huge value": b"VALUE k 0 %d\r\n" % (VALUE_LIMIT + 1),
    "a larger value than there is memory": b"VALUE k 0 9999999999\r\n",
    "a negative size": b"VALUE k 0 -1\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an endless line": b"x" * 100_000,
    "a status of set": b"STORED\r\n",
    "a statistic": b"STAT pid 1\r\nEND\r\n",
    "a line that begins as a miss": b"END of chapter one\r\n",
    "no such command": b"ERROR\r\n",
    "a mistake of ours": b"CLIENT_ERROR bad command line format\r\n",
    "a value and then an error": b"VALUE k 0 1\r\nx\r\nERROR\r\n",
}


@pytest.mark.parametrize("answer", NOT_ANSWERS_TO_GET.values(), ids=NOT_ANSWERS_TO_GET)
async def test_what_is_no_answer_to_get(answer: bytes) -> None:
    async with ScriptedServer([FOUND, answer], [FOUND]) as server:
        async with store_on(server.address, ONE) as store:
            await store.get(b"k")
            error = await unreachable(store.get(b"k"))
            assert error.applied is False
            assert await body(store, b"k") == RECORD.body
        assert server.connections == 2, "the connection was thrown away"


@pytest.mark.parametrize(
    "half", [b"E", b"VALUE", FOUND[:30], FOUND[:-7], FOUND[:-1], b"END\n", b"x" * 4000]
)
async def test_half_an_answer(half: bytes) -> None:
    one = replace(HASTY, connections=1)
    async with ScriptedServer([half], [FOUND]) as server, store_on(server.address, one) as store:
        assert (await unreachable(store.get(b"k"))).reason == "no answer within 0.4 s"
        assert await body(store, b"k") == RECORD.body


async def test_statistics_without_end() -> None:
    lines = b"".join(b"STAT name-%d x\r\n" % number for number in range(10_001))
    async with ScriptedServer([lines]) as server, store_on(server.address, ONE) as store:
        assert "STAT" in (await unreachable(store.stats())).reason


REFUSALS_OF_SET: list[tuple[bytes, type[SfssError], bool]] = [
    (b"NOT_STORED\r\n", StoreFull, True),
    # Then it is asked what it is, and does not say.
    (b"SERVER_ERROR object too large for cache\r\n", TooLarge, False),
    (b"SERVER_ERROR out of memory storing object\r\n", StoreFull, True),
    (b"SERVER_ERROR Connection refused\r\n", Unreachable, True),
    (b"SERVER_ERROR Connection timed out\r\n", Unreachable, True),
    (b"SERVER_ERROR write failed\r\n", Unreachable, True),
    (b"ERROR\r\n", Unreachable, False),
    (b"ERROR\r\nERROR\r\n", Unreachable, False),
    (b"CLIENT_ERROR bad data chunk\r\n", Unreachable, False),
    (b"EXISTS\r\n", Unreachable, False),
    (b"END\r\n", Unreachable, False),
    (b"DELETED\r\n", Unreachable, False),
    (b"STORED\r\nSTORED\r\n", Unreachable, False),
    (b"VALUE k 0 1\r\nx\r\nEND\r\n", Unreachable, False),
    (b"what\r\n", Unreachable, False),
]


@pytest.mark.parametrize(("answer", "kind", "in_step"), REFUSALS_OF_SET)
async def test_what_refuses_a_set(answer: bytes, kind: type[SfssError], in_step: bool) -> None:
    async with ScriptedServer([answer, FOUND], [FOUND]) as server:
        async with store_on(server.address, ONE) as store:
            with pytest.raises(kind) as caught:
                await store.set(b"k", RECORD)
            if isinstance(caught.value, Unreachable):
                assert caught.value.applied is None
            assert await body(store, b"k") == RECORD.body
        assert server.connections == (1 if in_step else 2)


@pytest.mark.parametrize(
    ("answer", "in_step"),
    [
        (b"SERVER_ERROR wait for retry\r\n", True),
        (b"ERROR\r\n", False),
        (b"CLIENT_ERROR bad command line format\r\n", False),
        (b"STORED\r\n", False),
        (b"END\r\n", False),
        (b"DELETED\r\nDELETED\r\n", False),
    ],
)
async def test_what_refuses_a_delete(answer: bytes, in_step: bool) -> None:
    async with ScriptedServer([answer, FOUND], [FOUND]) as server:
        async with store_on(server.address, ONE) as store:
            assert (await unreachable(store.delete(b"k"))).applied is None
            assert await body(store, b"k") == RECORD.body
        assert server.connections == (1 if in_step else 2)
