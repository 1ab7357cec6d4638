"""Room made in a real store: which files go, and that none goes without proof."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sfss.agreement import tombstone
from sfss.errors import Unreachable
from sfss.evicting import LOW_WATER, Evictor
from sfss.record import HEADER_SIZE, Head, new_record
from sfss.stores.lmdb_copies import LmdbCopies
from tests.copies_bench import lines_of

SIZE = 1000
CAPACITY = 100 * SIZE


class Proof:
    """Says of files whether they are elsewhere; a test may say something else."""

    def __init__(self) -> None:
        self.says: Callable[[bytes], bool] = lambda key: True
        self.asked: list[bytes] = []

    async def __call__(self, key: bytes, head: Head) -> bool:
        """Say it."""
        self.asked.append(key)
        await asyncio.sleep(0)
        return self.says(key)


@pytest.fixture(name="store")
async def own_store(tmp_path: Path) -> AsyncIterator[LmdbCopies]:
    """A store for 100 files."""
    store = LmdbCopies(f"lmdb:{tmp_path}/store", 30.0)
    store.limit(CAPACITY)
    await store.prepare()
    assert not await store.index()
    yield store
    await store.close()


def key_of(number: int) -> bytes:
    """Return a key."""
    return b"%04d" % number


async def fill(store: LmdbCopies, first: int, last: int) -> None:
    """Put files of 1000 bytes each, one after the other."""
    for number in range(first, last):
        await store.set(key_of(number), new_record(bytes(SIZE - HEADER_SIZE), 1 + number))


async def numbers(store: LmdbCopies) -> list[int]:
    """Return which files are there."""
    return sorted(int(each.key) for each in await store.arrivals(0, 10_000))


async def test_nothing_goes_up_to_the_capacity(store: LmdbCopies) -> None:
    await fill(store, 0, 100)
    proof = Proof()
    assert await Evictor(store, store.mark_hits(), CAPACITY, proof).make_room() == CAPACITY
    assert (proof.asked, await numbers(store)) == ([], list(range(100)))


async def test_beyond_it_the_oldest_go_that_nobody_has_read(store: LmdbCopies) -> None:
    marks = store.mark_hits()
    await fill(store, 0, 110)
    for number in (0, 3, 50):
        await store.get(key_of(number))
    evictor = Evictor(store, marks, CAPACITY, Proof())
    assert await evictor.make_room() == CAPACITY * LOW_WATER
    gone = [1, 2, *range(4, 14)]
    assert await numbers(store) == [each for each in range(110) if each not in gone]
    assert not marks.has(key_of(0))
    assert marks.has(key_of(50))
    await fill(store, 110, 113)
    await Evictor(store, marks, CAPACITY, Proof()).make_room()
    left = await numbers(store)
    assert left[:3] == [0, 3, 17]  # the hand has gone on from where it was
    usage = await store.usage()
    assert (usage.evicted_files, usage.evicted_size) == (15, 15 * SIZE)


async def test_where_all_were_read_the_hand_comes_again(store: LmdbCopies) -> None:
    marks = store.mark_hits()
    await fill(store, 0, 400)
    for number in range(400):
        await store.get(key_of(number))
    assert await Evictor(store, marks, CAPACITY, Proof()).make_room() == CAPACITY * LOW_WATER
    assert await numbers(store) == list(range(302, 400))


async def test_what_is_not_elsewhere_stays(store: LmdbCopies) -> None:
    await fill(store, 0, 110)
    proof = Proof()
    proof.says = lambda key: key >= key_of(105)
    evictor = Evictor(store, store.mark_hits(), CAPACITY, proof)
    with lines_of("sfss.evicting") as lines:
        for _ in range(3):
            assert await evictor.make_room() == 105 * SIZE
    assert await numbers(store) == list(range(105))
    (line,) = lines
    assert "beyond its capacity of 100000 bytes" in line
    proof.says = lambda key: True
    assert await evictor.make_room() == CAPACITY * LOW_WATER


async def test_no_more_are_asked_for_at_a_time_than_some_thousand(store: LmdbCopies) -> None:
    marks = store.mark_hits()
    puts = (store.set(key_of(number), new_record(b"", 1)) for number in range(9000))
    await asyncio.gather(*puts)
    await fill(store, 9000, 9100)
    capacity = 9000 * HEADER_SIZE + 50 * SIZE
    proof = Proof()
    proof.says = lambda key: key >= key_of(9000)
    evictor, asked = Evictor(store, marks, capacity, proof), list[int]()
    while await evictor.make_room() > capacity:
        asked.append(len(proof.asked))
        assert len(asked) < 10
    assert asked[0] < 2100
    assert len(proof.asked) < 9200
    assert len(set(proof.asked)) == len(proof.asked)


async def test_when_it_cannot_be_told_nothing_goes(store: LmdbCopies) -> None:
    await fill(store, 0, 110)
    proof = Proof()

    def fail(key: bytes) -> bool:
        raise Unreachable("s3://bucket", "it is down", applied=False)

    proof.says = fail
    marks = store.mark_hits()
    await store.get(key_of(0))
    evictor = Evictor(store, marks, CAPACITY, proof)
    for _ in range(3):
        with pytest.raises(Unreachable):
            await evictor.make_room()
    assert await numbers(store) == list(range(110))
    assert marks.has(key_of(0))
    assert marks.hand == 0


async def test_what_has_changed_since_the_proof_stays(store: LmdbCopies) -> None:
    await fill(store, 0, 101)
    proof = Proof()
    evictor = Evictor(store, store.mark_hits(), CAPACITY, proof)

    async def prove(key: bytes, head: Head) -> bool:
        if key == key_of(0):
            await store.set_newest(key, new_record(bytes(SIZE), 999))
        return True

    evictor = Evictor(store, store.mark_hits(), CAPACITY, prove)
    await evictor.make_room()
    assert 0 in await numbers(store)
    found = await store.head(key_of(0))
    assert found is not None
    assert found.version == 999


async def test_tombstones_are_neither_counted_nor_evicted(store: LmdbCopies) -> None:
    await fill(store, 0, 110)
    for number in range(5):
        await store.set_newest(key_of(number), tombstone(999))
    await store.set_newest(b"another", tombstone(999))
    evictor = Evictor(store, store.mark_hits(), CAPACITY, Proof())
    assert await evictor.make_room() == CAPACITY * LOW_WATER
    assert (await store.stats())["curr_items"] == str(98 + 6)


async def test_what_is_damaged_is_left_to_a_scrub(store: LmdbCopies) -> None:
    await fill(store, 0, 101)
    damaged = store._setting(key_of(0), new_record(bytes(SIZE - HEADER_SIZE), 1), None)
    assert damaged.head is not None
    damaged.head = bytes(len(damaged.head))
    await store._change(damaged)
    assert await Evictor(store, store.mark_hits(), CAPACITY, Proof()).make_room() == 98 * SIZE
    assert (await numbers(store))[:2] == [0, 4]


async def test_it_goes_on_by_itself_while_it_is_the_one_that_may(store: LmdbCopies) -> None:
    await fill(store, 0, 300)
    is_leader = False
    evictor = Evictor(store, store.mark_hits(), CAPACITY, Proof())
    task = asyncio.ensure_future(evictor.run(lambda: is_leader))
    await asyncio.sleep(0.6)
    assert (await store.usage()).size == 300 * SIZE
    is_leader = True
    async with asyncio.timeout(20):
        while (await store.usage()).size > CAPACITY:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_stays_stands_in_no_queue_and_counts(tmp_path: Path) -> None:
    store = LmdbCopies(f"lmdb:{tmp_path}/store", 30.0)
    store.limit(CAPACITY, lambda key: key >= key_of(50))
    await store.prepare()
    assert not await store.index()
    proof = Proof()
    evictor = Evictor(store, store.mark_hits(), CAPACITY, proof)
    await fill(store, 0, 110)
    assert (await store.usage()).size == 110 * SIZE
    assert await numbers(store) == list(range(50, 110))
    assert await evictor.make_room() == CAPACITY * LOW_WATER
    assert await numbers(store) == list(range(62, 110))
    await store.set(key_of(3), new_record(bytes(SIZE), 1000))
    await store.delete(key_of(4))
    assert (await store.usage()).files == 97
    await fill(store, 0, 50)
    proof.says = lambda key: False
    for number in range(62, 110):
        await store.delete(key_of(number))
    await store.set(b"0000 large", new_record(bytes(CAPACITY), 1))
    assert await evictor.make_room() > CAPACITY  # there is nothing to go on with
    assert await numbers(store) == []
    await store.close()
