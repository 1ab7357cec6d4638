"""An embedded store that may forget files: what it notes of them, and what it keeps after that."""

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest

from sfss.agreement import tombstone
from sfss.record import HEADER_SIZE, Kind, Record, new_record
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.evicting_store import EvictingStore
from sfss.stores.lmdb_copies import LmdbCopies
from sfss.stores.visited import Visited, places_for

CAPACITY = 1 << 20


def record(version: int, size: int = 100) -> Record:
    """Return a file."""
    return new_record(random.randbytes(size), version)


async def open_store(folder: Path) -> LmdbCopies:
    """Return the store, ready."""
    store = LmdbCopies(f"lmdb:{folder}/store", 30.0)
    store.limit(CAPACITY)
    await store.prepare()
    while await store.index():
        pass
    return store


@pytest.fixture(name="store")
async def own_store(tmp_path: Path) -> AsyncIterator[LmdbCopies]:
    """A store."""
    store = await open_store(tmp_path)
    yield store
    await store.close()


async def keys_of(store: EvictingStore) -> list[bytes]:
    """Return the keys in the order in which they came."""
    return [each.key for each in await store.arrivals(0, 100_000)]


async def noted(store: EvictingStore) -> tuple[int, int]:
    """Return how many files are noted, and their bytes; both are the same in the index."""
    usage = await store.usage()
    arrivals = await store.arrivals(0, 100_000)
    assert usage.size == sum(each.size for each in arrivals)
    assert usage.files == len(arrivals)
    assert int((await store.stats())["used_bytes"]) == usage.size
    return usage.files, usage.size


async def test_records_are_counted_and_stand_in_the_order_in_which_they_came(
    store: LmdbCopies,
) -> None:
    for number, key in enumerate([b"c", b"a", b"b"]):
        await store.set(key, record(number + 1))
    assert await keys_of(store) == [b"c", b"a", b"b"]
    assert await noted(store) == (3, 3 * (HEADER_SIZE + 100))
    await store.set_newest(b"c", record(9, 300))
    assert await keys_of(store) == [b"c", b"a", b"b"]
    assert await noted(store) == (3, 3 * HEADER_SIZE + 500)
    await store.delete(b"a")
    await store.set_newest(b"b", tombstone(99))
    assert await keys_of(store) == [b"c"]
    await store.set_newest(b"b", record(100))
    await store.set(b"a", record(1))
    assert await keys_of(store) == [b"c", b"b", b"a"]
    await noted(store)


async def test_the_count_of_records_is_that_of_before(store: LmdbCopies) -> None:
    await store.set(b"a", record(1))
    assert (await store.stats())["curr_items"] == "1"
    assert [each.key for each in await anext(store.keys())] == [b"a"]


async def test_what_was_removed_is_free_for_what_comes(store: LmdbCopies) -> None:
    keys = [b"%d" % number for number in range(100)]
    await asyncio.gather(*(store.set(key, record(1, 50_000)) for key in keys))
    before = await store.stats()
    assert int(before["free_bytes"]) < 500_000
    for key in keys:
        await store.delete(key)
    await store.set(b"a", record(1, 1))
    after = await store.stats()
    assert int(after["bytes"]) < 1.1 * int(before["bytes"])
    assert int(after["free_bytes"]) >= 5_000_000
    await asyncio.gather(*(store.set(key, record(2, 50_000)) for key in keys))
    assert int((await store.stats())["bytes"]) < 1.2 * int(before["bytes"])


async def test_what_was_there_before_is_noted_in_steps(tmp_path: Path) -> None:
    plain = EmbeddedStore(tmp_path / "store")
    sizes = {b"%04d" % number: number % 50 for number in range(600)}
    await asyncio.gather(*(plain.set(key, record(1, size)) for key, size in sizes.items()))
    await plain.set(b"gone", tombstone(1))
    await plain.close()
    store = LmdbCopies(f"lmdb:{tmp_path}/store", 30.0)
    store.limit(CAPACITY)
    assert await store.prepare()
    assert await noted(store) == (0, 0)
    assert await store.index()
    await store.set(b"0001", record(2, 77))
    await store.set(b"0599", record(2, 77))
    await store.set(b"zzzz", record(2, 77))
    await store.delete(b"0002")
    await store.close()
    store = await open_store(tmp_path)
    sizes |= dict.fromkeys([b"0001", b"0599", b"zzzz"], 77)
    del sizes[b"0002"]
    assert await noted(store) == (600, 600 * HEADER_SIZE + sum(sizes.values()))
    assert set(await keys_of(store)) == set(sizes)
    assert not await store.index()
    assert not await store.prepare()
    await store.close()


async def test_a_program_that_knows_nothing_of_the_index_is_noticed(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    for key in (b"a", b"b", b"c"):
        await store.set(key, record(1))
    value_of_d = b"x" * 200
    await store.close()
    with (
        lmdb.open(str(tmp_path / "store"), lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.delete(b"a")
        transaction.put(b"b", value_of_d)
        transaction.put(b"d", value_of_d)
    store = await open_store(tmp_path)
    keys = await keys_of(store)
    assert sorted(keys) == [b"a", b"b", b"c", b"d"]
    sizes = {each.key: each.size for each in await store.arrivals(0, 9)}
    assert (sizes[b"b"], sizes[b"d"]) == (200, 200)
    assert await store.evict(b"a", None)
    assert sorted(await keys_of(store)) == [b"b", b"c", b"d"]
    assert (await noted(store))[0] == 3
    assert (await store.usage()).evicted_files == 0
    await store.close()


async def test_who_has_not_opened_the_index_does_not_tell_what_is_in_it(
    tmp_path: Path,
) -> None:
    store = await open_store(tmp_path)
    await store.set(b"a", record(1))
    await store.close()
    other = LmdbCopies(store.address, 30.0)
    other.limit(CAPACITY)
    found = await other.stats()
    assert found["capacity_bytes"] == str(CAPACITY)
    assert not {"used_bytes", "evicted_files", "evicted_bytes"} & found.keys()
    await other.prepare()
    assert (await other.stats())["used_bytes"] == str(HEADER_SIZE + 100)
    await other.close()


async def test_only_what_it_was_is_evicted(store: LmdbCopies) -> None:
    first, second = record(1), record(2)
    await store.set(b"a", first)
    await store.set(b"a", second)
    assert not await store.evict(b"a", first.head)
    assert not await store.evict(b"a", None)
    assert await store.get(b"a") == second
    assert await store.evict(b"a", second.head)
    assert await store.get(b"a") is None
    assert not await store.evict(b"a", second.head)
    usage = await store.usage()
    assert usage[:4] == (0, 0, 1, HEADER_SIZE + 100)
    assert (await store.stats())["evicted_bytes"] == str(HEADER_SIZE + 100)


async def test_what_was_found_before_something_newer_was_forgotten_is_not_kept(
    store: LmdbCopies,
) -> None:
    old, new = record(1), record(2)
    moment = store.moment(b"a")
    await store.set_newest(b"a", new)
    assert store.moment(b"a") == moment
    await store.evict(b"a", new.head)
    newer = await store.set_newest_since(b"a", old, moment)
    assert newer is not None
    assert (newer.version, newer.kind) == (2, Kind.TOMBSTONE)
    assert await store.get(b"a") is None
    assert await store.set_newest_since(b"a", record(3), moment) is None
    await store.delete(b"a")
    assert await store.set_newest_since(b"a", new, store.moment(b"a")) is None
    assert await store.get(b"a") == new


async def test_to_forget_nothing_counts_too(store: LmdbCopies) -> None:
    moment = store.moment(b"a")
    assert await store.forget(b"a", record(5).head) is None
    assert store.moment(b"a") != moment
    assert await store.set_newest_since(b"a", record(4), moment) is not None
    assert await store.get(b"a") is None


async def test_what_is_newer_is_not_forgotten(store: LmdbCopies) -> None:
    new = record(5)
    await store.set(b"a", new)
    assert await store.forget(b"a", record(4).head) == new.head
    assert await store.get(b"a") == new


async def test_before_it_is_prepared_no_two_moments_are_alike(tmp_path: Path) -> None:
    store = LmdbCopies(f"lmdb:{tmp_path}/store", 30.0)
    store.limit(CAPACITY)
    assert store.moment(b"a") != store.moment(b"a")
    await store.close()


async def test_hits_are_marked_for_all_processes(store: LmdbCopies, tmp_path: Path) -> None:
    marks = store.mark_hits()
    others = Visited(tmp_path / "store" / "visited", places_for(CAPACITY))
    await store.set(b"a", record(1))
    assert await store.get(b"b") is None
    assert not others.has(b"a")
    assert not others.has(b"b")
    await store.get(b"a")
    assert others.has(b"a")
    others.clear(b"a")
    assert not marks.has(b"a")
    assert store.view(b"a", lambda item, form: None)
    assert others.has(b"a")
    others.clear(b"a")
    await store.head(b"a")
    assert not others.has(b"a")
    await store.set(b"a", record(2))
    assert others.has(b"a")
    others.hand = 12_345
    assert marks.hand == 12_345


def test_marks_of_another_number_are_made_anew(tmp_path: Path) -> None:
    first = Visited(tmp_path / "visited", places_for(0))
    first.mark(b"a")
    first.hand = 7
    assert Visited(tmp_path / "visited", places_for(0)).has(b"a")
    second = Visited(tmp_path / "visited", places_for(1 << 30))
    assert (second.has(b"a"), second.hand) == (False, 0)
    assert first.has(b"a")
    assert [path.name for path in tmp_path.iterdir()] == ["visited"]


def test_processes_that_start_together_have_the_same_marks(tmp_path: Path) -> None:
    file = tmp_path / "visited"
    with ThreadPoolExecutor(8) as pool:
        all_marks = list(pool.map(lambda _: Visited(file, places_for(0)), range(32)))
    all_marks[0].mark(b"a")
    assert all(marks.has(b"a") for marks in all_marks)


def test_without_a_file_the_marks_are_those_of_one_process(tmp_path: Path) -> None:
    marks = Visited(tmp_path / "nowhere" / "visited", places_for(0))
    marks.mark(b"a")
    assert marks.has(b"a")


@pytest.mark.parametrize(
    ("capacity", "places"), [(0, 1 << 16), (1 << 30, 1 << 20), (1 << 50, 1 << 26)]
)
def test_places(capacity: int, places: int) -> None:
    assert places_for(capacity) == places


async def test_any_changes_leave_the_index_right(store: LmdbCopies) -> None:
    """Many writers, of few keys."""
    chosen = random.Random(7)
    keys = [b"k%d" % number for number in range(8)]

    async def change(number: int) -> None:
        key = chosen.choice(keys)
        match chosen.randrange(5):
            case 0:
                await store.delete(key)
            case 1:
                await store.set_newest(key, tombstone(number))
            case 2:
                head = await store.head(key)
                await store.evict(key, head)
            case _:
                await store.set_newest(key, record(number, chosen.randrange(9000)))

    for step in range(40):
        await asyncio.gather(*(change(step * 10 + each) for each in range(10)))
        await noted(store)
        found = {key: head async for key, head in heads_of(store)}
        assert set(found) == set(await keys_of(store))


async def heads_of(store: LmdbCopies) -> AsyncIterator[tuple[bytes, object]]:
    """Yield what is no tombstone."""
    found, _ = await store.heads(b"")
    for key, head in found:
        if head is not None and head.kind is not Kind.TOMBSTONE:
            yield key, head
