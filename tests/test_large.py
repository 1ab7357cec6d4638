"""Large files over one store and over copies: whole, in ranges, replaced, refused, cut off."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfss.agreement import CopiesSettings
from sfss.chunks import ESCAPED_PREFIX, PLAIN_PREFIX, read_chunk_key
from sfss.cluster import Cluster
from sfss.errors import (
    Corrupt,
    NoStoreReachable,
    PreconditionFailed,
    SfssError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.keys import KeyScheme
from sfss.large import WORKER_CHUNKS_AT_ONCE, Large, LargeSettings
from sfss.record import (
    Content,
    Head,
    Kind,
    Record,
    StreamedBody,
    decode_head,
    digest_of,
    encode,
    new_record,
)
from sfss.routed import Owner, Routed
from sfss.spool import Spool
from sfss.stores.base import Guard
from sfss.streams import stream
from tests.copies_bench import Bench
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault

ROOM = 20_480
CHUNK = ROOM - 2048
KEY = b"folder/file"
BODY = bytes(range(251)) * 400
CHUNKS = -(-len(BODY) // CHUNK)


class SmallStore(DictStore):
    """Takes records of up to ``limit`` bytes, and fails at the change number ``fails_at``."""

    def __init__(self, address: str = "small") -> None:
        super().__init__(address)
        self.limit = ROOM
        self.changes = 0
        self.fails_at: dict[int, SfssError] = {}
        self.gate: asyncio.Event | None = None
        self.says: asyncio.Event | None = None
        self.is_silent = False

    async def room(self) -> int:
        """Return the limit."""
        if self.says is not None:
            await self.says.wait()
        if self.is_silent:
            raise Unreachable(self.address, "silence", applied=False)
        return self.limit

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` unless it is too large."""
        self.changes += 1
        if self.gate is not None:
            await self.gate.wait()
        if failure := self.fails_at.get(self.changes):
            raise failure
        if len(encode(record)) > self.limit:
            raise TooLarge(len(record.body), self.limit, self.address)
        await super().set(key, record, guard)

    @property
    def chunks(self) -> list[bytes]:
        """The keys of chunks."""
        return [key for key in self.values if read_chunk_key(PLAIN_PREFIX, key)]


def large_over(
    store: DictStore, kept_s: float = 0.0, above: int = 4_000_000, most: int = 10_000_000
) -> Large:
    """Return an engine over one store."""
    routed = Routed([store], Owner({store.address: store}, lambda _: store.address))
    return Large(routed, LargeSettings(most, above, PLAIN_PREFIX, kept_s, key_limit=250))


def record_of(body: bytes, version: int = 1_700_000_000_000_000) -> Record:
    """Return a record with metadata."""
    return new_record(body, version, {"Content-Type": "text/x"})


async def bytes_of(record: Record | None, start: int = 0, stop: int | None = None) -> bytes:
    """Return the body of a record that is there."""
    assert record is not None
    return b"".join([bytes(piece) async for piece in stream(record.body, start, stop)])


async def removed(large: Large) -> None:
    """Wait until what was to be removed is gone."""
    await large._background.finish()


async def test_a_file_that_fits_in_an_item_is_one() -> None:
    store = SmallStore()
    large = large_over(store)
    record = record_of(bytes(ROOM - len(encode(record_of(b"")))))
    kept = await large.put(KEY, record)
    assert kept.head == record.head
    assert store.values == {KEY: encode(record)}
    read = await large.get(KEY)
    assert read == record


async def test_a_larger_one_is_kept_in_chunks() -> None:
    store = SmallStore()
    large, record = large_over(store), record_of(BODY)
    kept = await large.put(KEY, record)
    assert kept.head == record.head
    assert len(store.chunks) == CHUNKS
    assert decode_head(store.values[KEY], "", KEY).kind is Kind.MANIFEST
    assert all(len(value) <= ROOM for value in store.values.values())
    read = await large.get(KEY)
    assert read is not None
    assert read.head == record.head == await large.head(KEY)
    assert isinstance(read.body, StreamedBody)
    assert len(read.body) == len(BODY)
    assert await bytes_of(read) == BODY
    (entry,) = await large.scan(b"", b"", 10)
    assert (entry.key, entry.head) == (KEY, record.head)
    (child,) = await large.children(b"folder/", b"", 10)
    assert (child.name, child.head) == (b"file", record.head)
    assert [child.name for child in await large.children(b"", b"", 10)] == [b"folder/"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(BODY)), st.integers(0, len(BODY)))
def test_a_range_needs_its_chunks_only(start: int, stop: int) -> None:
    start, stop = min(start, stop), max(start, stop)

    async def run() -> None:
        store = SmallStore()
        large = large_over(store)
        await large.put(KEY, record_of(BODY))
        needed = range(start // CHUNK, -(-stop // CHUNK) if start < stop else 0)
        for key in store.chunks:
            name = read_chunk_key(PLAIN_PREFIX, key)
            assert name is not None
            if name.number not in needed:
                del store.values[key]
        assert await bytes_of(await large.get(KEY), start, stop) == BODY[start:stop]

    asyncio.run(run())


async def test_a_spooled_body_is_cut(tmp_path: Path) -> None:
    spool, large = Spool(tmp_path, 0), large_over(SmallStore())
    await spool.write(BODY)
    body, digest = await spool.finish()
    await large.put(KEY, Record(Head(5, len(body), digest), body))
    assert await bytes_of(await large.get(KEY)) == BODY


@pytest.mark.parametrize("above", [50_000, 4_000_000])
async def test_a_streamed_body_is_copied(above: int) -> None:
    store = SmallStore()
    large = large_over(store, above=above)
    await large.put(KEY, record_of(BODY))
    read = await large.get(KEY)
    assert read is not None
    kept = await large.put(b"copy", read._replace(head=read.head._replace(version=7)))
    assert kept.head == read.head._replace(version=7)
    assert await bytes_of(await large.get(b"copy")) == BODY
    assert len(store.chunks) == 2 * CHUNKS


@pytest.mark.parametrize("new", [b"small", BODY[::-1]])
@pytest.mark.parametrize("guarded", [False, True])
async def test_the_chunks_of_a_replaced_file_go(new: bytes, guarded: bool) -> None:
    store, heads = SmallStore(), []
    large = large_over(store)
    await large.put(KEY, record_of(BODY))
    before = set(store.chunks)
    await large.put(KEY, record_of(new, 2), heads.append if guarded else None)
    await removed(large)
    assert not before & set(store.chunks)
    assert len(store.chunks) == (CHUNKS if len(new) > ROOM else 0)
    assert await bytes_of(await large.get(KEY)) == new
    assert all(head == record_of(BODY).head for head in heads)


@pytest.mark.parametrize("guarded", [False, True])
async def test_the_chunks_of_a_deleted_file_go(guarded: bool) -> None:
    store, heads = SmallStore(), []
    large = large_over(store)
    await large.put(KEY, record_of(BODY))
    assert await large.delete(KEY, heads.append if guarded else None)
    await removed(large)
    assert not store.values
    assert heads == ([record_of(BODY).head] if guarded else [])
    assert not await large.delete(KEY)


async def test_of_many_writers_of_one_file_one_leaves_chunks() -> None:
    store = SmallStore()
    store.head_is_cheap = True
    large = large_over(store)
    bodies = [bytes([number]) * len(BODY) for number in range(9)]
    writes = (large.put(KEY, record_of(body, number)) for number, body in enumerate(bodies, 1))
    await asyncio.gather(*writes, large.put(KEY, record_of(b"small", 10)), large.delete(KEY))
    await large.put(KEY, record_of(BODY, 11))
    await removed(large)
    assert len(store.chunks) == CHUNKS
    assert await bytes_of(await large.get(KEY)) == BODY


async def test_a_reader_of_a_file_that_goes_has_time() -> None:
    store = SmallStore()
    large = large_over(store, kept_s=60.0)
    await large.put(KEY, record_of(BODY))
    read = await large.get(KEY)
    await large.delete(KEY)
    assert await large.get(KEY) is None
    assert await bytes_of(read) == BODY
    await large.close()  # removes at once what is left
    assert not store.values


async def test_a_condition_that_does_not_hold_is_told_before_anything_is_written() -> None:
    store = SmallStore()
    large = large_over(store)
    await large.put(KEY, record_of(b"there"))

    def guard(head: Head | None) -> None:
        if head is not None:
            raise PreconditionFailed("If-None-Match")

    with pytest.raises(PreconditionFailed):
        await large.put(KEY, record_of(BODY), guard)
    assert list(store.values) == [KEY]
    await large.put(b"new", record_of(BODY), guard)
    assert await bytes_of(await large.get(b"new")) == BODY


async def test_a_condition_that_fails_at_the_end_leaves_no_chunks() -> None:
    store = SmallStore()
    large, seen = large_over(store), []

    def guard(head: Head | None) -> None:
        seen.append(head)
        if len(seen) == 2:
            raise PreconditionFailed("If-Match")

    with pytest.raises(PreconditionFailed):
        await large.put(KEY, record_of(BODY), guard)
    await removed(large)
    assert not store.values


@pytest.mark.parametrize("change", range(1, CHUNKS + 2))
async def test_a_store_that_is_full_keeps_nothing(change: int) -> None:
    store = SmallStore()
    large = large_over(store)
    store.fails_at[change] = StoreFull("small", "full")
    with pytest.raises(StoreFull):
        await large.put(KEY, record_of(BODY))
    await removed(large)
    assert not store.values


async def test_uploads_that_fail_do_not_use_up_those_that_may_write_at_once() -> None:
    store = SmallStore()
    large = large_over(store)
    for _ in range(WORKER_CHUNKS_AT_ONCE):
        store.fails_at = {store.changes + 2: StoreFull("small", "no room")}
        with pytest.raises(StoreFull):
            await large.put(KEY, record_of(BODY))
        await removed(large)
    async with asyncio.timeout(10):
        await large.put(KEY, record_of(BODY))
    assert await bytes_of(await large.get(KEY)) == BODY


@pytest.mark.parametrize("applied", [False, None])
async def test_chunks_stay_if_their_manifest_may_be_there(applied: bool | None) -> None:
    store = SmallStore()
    large = large_over(store)
    store.fails_at[CHUNKS + 1] = Unreachable("small", "silence", applied)
    with pytest.raises(NoStoreReachable):
        await large.put(KEY, record_of(BODY))
    await removed(large)
    assert len(store.chunks) == (CHUNKS if applied is None else 0)


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 30])
async def test_a_client_that_goes_away_leaves_nothing(turns: int) -> None:
    store = SmallStore()
    large = large_over(store)
    store.gate = asyncio.Event()
    writing = asyncio.ensure_future(large.put(KEY, record_of(BODY)))
    for _ in range(turns):
        await asyncio.sleep(0)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    store.gate.set()
    await removed(large)
    assert not store.values


async def test_what_is_not_there_or_not_sound_is_damage() -> None:
    store = SmallStore()
    large = large_over(store)
    await large.put(KEY, record_of(BODY))
    keys = sorted(store.chunks)
    read = await large.get(KEY)
    assert read is not None
    store.values[keys[1]] = store.values[keys[0]]
    assert await bytes_of(read, 0, CHUNK) == BODY[:CHUNK]
    with pytest.raises(Corrupt, match=f"chunk 1 of {CHUNKS}, found another"):
        await bytes_of(read)
    del store.values[keys[1]]
    with pytest.raises(Corrupt, match=f"chunk 1 of {CHUNKS}, found nothing"):
        await bytes_of(read)
    value = store.values[keys[2]]
    store.values[keys[2]] = value[:-1] + bytes([value[-1] ^ 1])
    with pytest.raises(Corrupt):
        await bytes_of(read, 2 * CHUNK, 2 * CHUNK + 1)


async def test_a_manifest_that_cannot_be_read_can_be_replaced_and_deleted() -> None:
    store = SmallStore()
    large = large_over(store)
    head = Head(1, 0, digest_of(b""), Kind.MANIFEST, metadata={"large file": "?"})
    store.values[KEY] = encode(Record(head, b""))
    with pytest.raises(Corrupt):
        await large.get(KEY)
    assert len(await large.scan(b"", b"", 10)) == 1
    heads: list[Head | None] = []
    await large.put(KEY, record_of(b"new", 2), heads.append)
    assert heads == [None]
    store.values[KEY] = encode(Record(head, b""))
    assert await large.delete(KEY)


async def test_a_store_that_takes_less_than_it_did_gets_chunks() -> None:
    store = SmallStore()
    store.limit = 1_000_000
    large = large_over(store)
    await large.put(KEY, record_of(BODY))
    assert not store.chunks
    store.limit = ROOM
    await large.put(KEY, record_of(BODY, 2))
    assert len(store.chunks) == CHUNKS


async def test_the_first_writes_of_all_wait_for_what_the_stores_say() -> None:
    store = SmallStore()
    store.says = asyncio.Event()
    large = large_over(store, most=4_000_000)
    writes = [asyncio.ensure_future(large.put(b"%d" % n, record_of(BODY))) for n in range(3)]
    await asyncio.sleep(0)
    writes.pop().cancel()
    await asyncio.sleep(0)
    store.says.set()
    await asyncio.gather(*writes)
    assert len(store.chunks) == 2 * CHUNKS


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_store_that_was_silent_and_takes_less_gets_chunks(guarded: bool) -> None:
    store = SmallStore()
    store.is_silent = True
    large = large_over(store, most=4_000_000)
    await large.put(b"small", record_of(b"small"))
    store.is_silent = False
    heads: list[Head | None] = []
    await large.put(KEY, record_of(BODY), heads.append if guarded else None)
    assert len(store.chunks) == CHUNKS
    assert set(heads) <= {None}


async def test_a_store_that_takes_little_is_not_filled_with_crumbs() -> None:
    store = SmallStore()
    store.limit = 10_000
    large = large_over(store)
    with pytest.raises(TooLarge):
        await large.put(KEY, record_of(BODY))
    assert not store.values


async def test_where_all_files_fit_nothing_is_looked_at_before_a_write() -> None:
    store = DictStore()
    large = large_over(store, most=1000)
    asked: list[bytes] = []
    store.head = lambda key: asked.append(key)  # type: ignore[assignment, method-assign, return-value, func-returns-value]
    await large.put(KEY, record_of(b"small"))
    assert not asked


async def test_an_expired_file_has_chunks_that_expire() -> None:
    store = SmallStore()
    cluster = Cluster(large_over(store), KeyScheme("plain"), 10_000_000)
    await cluster.put("a", Content(BODY, ttl_s=60))
    expiries = {decode_head(value, "", key).expiry for key, value in store.values.items()}
    assert len(expiries) == 1
    assert expiries != {0}


# -- copies


@pytest.fixture(name="bench")
def new_bench() -> Iterator[Bench]:
    """Three stores, and quick gateways over them."""
    yield Bench(CopiesSettings(cooling_s=0.01, straggler_ms=200))


def over(bench: Bench) -> Large:
    """Return an engine over copies."""
    chosen = LargeSettings(10_000_000, 50_000, ESCAPED_PREFIX, 0.0, key_limit=250)
    return Large(bench.gateway, chosen)


BIG = bytes(range(256)) * 8000


async def test_chunks_have_copies_and_are_healed(bench: Bench) -> None:
    large = over(bench)
    await large.put(KEY, bench.record(BIG))
    bench.down("a")
    assert await bytes_of(await large.get(KEY)) == BIG
    newer = BIG[::-1]
    await large.put(KEY, bench.record(newer))
    await bench.up()
    await bench.pay()
    await bench.gateway.finish()
    await removed(large)
    bench.stores["b"].inner.values.clear()
    assert await bytes_of(await large.get(KEY)) == newer
    keys = [key for key in bench.stores["a"].inner.values if read_chunk_key(ESCAPED_PREFIX, key)]
    heads = [decode_head(bench.stores["a"].inner.values[key], "", key) for key in keys]
    assert sum(head.kind is Kind.FILE for head in heads) == -(-len(BIG) // 522_240)


async def test_too_few_stores_are_an_error_and_the_former_file_stays(bench: Bench) -> None:
    large = over(bench)
    await large.put(KEY, bench.record(BIG))
    bench.down("a", "b", fault=Fault.REFUSE)
    with pytest.raises(SfssError):
        await large.put(KEY, bench.record(BIG[::-1]))
    await bench.up()
    await removed(large)
    await bench.gateway.finish()
    assert await bytes_of(await large.get(KEY)) == BIG


async def test_debts_of_chunks_are_not_told_as_files(bench: Bench) -> None:
    large = over(bench)
    bench.down("c")
    await large.put(KEY, bench.record(BIG))
    missing = await large.missing(b"", 1000)
    assert [debt.key for _, debt in missing] == [KEY]
    assert len(await bench.gateway.missing(b"", 1000)) == 1 + -(-len(BIG) // 522_240)
