"""A store that lacks a file fetches it from another, once, however many ask at the same time."""

import asyncio

from sfss.agreement import CopiesSettings
from sfss.errors import NoStoreReachable
from sfss.record import Kind, Record
from tests.copies_bench import KEY, Bench, body_of
from tests.stores.faulty_store import Fault, at
from tests.virtual_time import in_virtual_time

MANY = 50


def near_and_far() -> Bench:
    """Return a bench with a near store, which has nothing, and a far one, which is slow."""
    bench = Bench(CopiesSettings(write_quorum=2), names=("near", "far"))
    far = bench.stores["far"].inner
    get = far.get

    async def get_slowly(key: bytes) -> Record | None:
        found = await get(key)
        await asyncio.sleep(1)
        return found

    far.get = get_slowly  # type: ignore[method-assign]
    return bench


async def lose(bench: Bench) -> None:
    """Have the near store lose all that it has."""
    await bench.gateway.finish()
    bench.stores["near"].inner.values.clear()
    bench.asked()


def far_gets(bench: Bench) -> int:
    """Return how often the far store was asked for a record, and forget it."""
    return bench.asked().count(("far", "get"))


@in_virtual_time
async def test_one_asks_for_all_who_ask_at_the_same_time() -> None:
    bench = near_and_far()
    await bench.put(b"body")
    await lose(bench)
    found = await asyncio.gather(*(bench.gateway.get(KEY) for _ in range(MANY)))
    assert list(map(body_of, found)) == [b"body"] * MANY
    await bench.gateway.finish()
    assert far_gets(bench) == 1
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_one_asks_for_all_where_there_is_nothing() -> None:
    bench = near_and_far()
    found = await asyncio.gather(*(bench.gateway.get(KEY) for _ in range(MANY)))
    assert found == [None] * MANY
    assert far_gets(bench) == 1


@in_virtual_time
async def test_who_is_cancelled_leaves_the_others_their_answer() -> None:
    bench = near_and_far()
    await bench.put(b"body")
    await lose(bench)
    readers = [asyncio.ensure_future(bench.gateway.get(KEY)) for _ in range(3)]
    await asyncio.sleep(0.5)
    readers[0].cancel()
    assert list(map(body_of, await asyncio.gather(*readers[1:]))) == [b"body"] * 2
    await bench.gateway.finish()
    assert far_gets(bench) == 1


@in_virtual_time
async def test_all_hear_of_a_failure_and_the_next_asks_again() -> None:
    bench = near_and_far()
    await bench.put(b"body")
    await lose(bench)
    bench.down("far")
    reads = (bench.gateway.get(KEY) for _ in range(MANY))
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(each, NoStoreReachable) for each in found)
    await bench.up("far")
    assert await bench.get() == b"body"


@in_virtual_time
async def test_a_read_after_a_write_does_not_join_one_from_before_it() -> None:
    bench = near_and_far()
    await bench.put(b"old")
    await lose(bench)
    before = asyncio.ensure_future(bench.gateway.get(KEY))
    await asyncio.sleep(0.5)
    # The near store does not keep it: only the far one can tell.
    bench.stores["near"].plan = at("set", Fault.FULL)
    await bench.new_gateway(write_quorum=1).put(KEY, bench.record(b"new"))
    assert await bench.get() == b"new"
    await before


@in_virtual_time
async def test_nothing_old_replaces_what_came_while_it_was_fetched() -> None:
    bench = near_and_far()
    await bench.put(b"old")
    await lose(bench)
    fetch = asyncio.ensure_future(bench.gateway.get(KEY))
    await asyncio.sleep(0.5)
    await bench.new_gateway().put(KEY, bench.record(b"new"))
    await fetch
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"new")
    fetch = asyncio.ensure_future(bench.gateway.get(KEY))
    assert await bench.new_gateway().delete(KEY)
    await fetch
    await bench.gateway.finish()
    near = await bench.stores["near"].inner.head(KEY)
    assert near is not None
    assert near.kind is Kind.TOMBSTONE
