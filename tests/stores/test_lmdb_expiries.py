"""Files that have expired give their space back, in the embedded store."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from struct import unpack_from
from typing import NamedTuple

import lmdb
import pytest

from sfss.record import (
    Content,
    Head,
    Kind,
    Record,
    decode_head,
    expired_tombstone,
    new_record,
    record_of,
)
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.lmdb_expiries import INDEX
from sfss.stores.lmdb_opening import FORMAT, FORMAT_KEY
from tests.stores.test_embedded import MIB, child

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
LATER = NOW + 3600 * SECOND


def expiring(body: bytes = b"body", ttl_s: int = 1, version: int = NOW) -> Record:
    """Return a record that expires."""
    return record_of(Content(body, names={"Content-Type": "a/b"}, ttl_s=ttl_s), version)


class Kept(NamedTuple):
    """What is in the files of a store: the heads of records, and the entries of the index."""

    heads: dict[bytes, Head]
    index: set[tuple[int, bytes]]


def kept_in(folder: Path) -> Kept:
    """Return what is in the files of a closed store, read without its code."""
    with lmdb.open(str(folder), max_dbs=1, lib_version=0) as environment:
        with environment.begin() as transaction:
            records = dict(transaction.cursor())
        assert records.pop(FORMAT_KEY) == FORMAT
        index: set[tuple[int, bytes]] = set()
        if records.pop(INDEX, None) is not None:
            database = environment.open_db(INDEX)
            with environment.begin() as transaction:
                places = [place for place, _ in transaction.cursor(db=database)]
            index = {(unpack_from(">Q", place)[0], place[8:]) for place in places}
    return Kept({key: decode_head(value, "", key) for key, value in records.items()}, index)


def expected_index(heads: dict[bytes, Head]) -> set[tuple[int, bytes]]:
    """Return the index that the records with ``heads`` should have."""
    files = ((key, head) for key, head in heads.items() if head.kind is not Kind.TOMBSTONE)
    return {(head.expiry, key) for key, head in files if head.expiry}


async def swept(store: EmbeddedStore, now_us: int = LATER, limit: int = 100) -> int:
    """Sweep until nothing is left; return how many times it took."""
    for times in range(1, 1000):
        if not await store.sweep(now_us, limit):
            return times
    raise AssertionError("there is always more")


async def test_what_has_expired_is_removed(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await store.set(b"short", expiring(ttl_s=1))
    await store.set(b"long", expiring(ttl_s=10))
    await store.set(b"for ever", new_record(b"body", NOW))
    assert await store.sweep(NOW + SECOND - 1, 10) is False
    assert [entry.key for entry in await store.scan(b"", b"", 10)] == [
        b"for ever",
        b"long",
        b"short",
    ]
    assert await store.sweep(NOW + SECOND, 10) is False
    assert [entry.key for entry in await store.scan(b"", b"", 10)] == [b"for ever", b"long"]
    await swept(store)
    assert [entry.key for entry in await store.scan(b"", b"", 10)] == [b"for ever"]
    await store.close()
    assert kept_in(tmp_path).index == set()


async def test_manifests_expire_as_files_do(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    file = expiring()
    whole = Record(file.head._replace(kind=Kind.MANIFEST), file.body)
    await store.set(b"alone", whole)
    await store.set_copy(b"copy", whole)
    await swept(store)
    assert await store.get(b"alone") is None
    assert await store.head(b"copy") == expired_tombstone(whole.head).head
    await store.close()
    assert kept_in(tmp_path).index == set()


async def test_a_copy_leaves_a_tombstone(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    record = expiring(b"x" * 100_000)
    await store.set_copy(b"key", record)
    await swept(store)
    found = await store.get(b"key")
    assert found == Record(expired_tombstone(record.head).head, memoryview(b""))
    assert not await store.sweep(LATER, 10)
    assert (await store.stats())["curr_items"] == "1"
    # The same without a copy elsewhere, and the other way round.
    await store.set(b"key", record)
    await swept(store)
    assert await store.get(b"key") is None
    await store.set(b"key", record)
    await store.set_copy(b"key", record)
    await swept(store)
    assert await store.get(b"key") == found
    await store.close()


async def test_the_index_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    assert (await store.stats())["curr_items"] == "0"
    highest = "\U0010ffff".encode() * 62
    for key in (b"a/b", highest):
        await store.set(key, expiring())
    assert (await store.stats())["curr_items"] == "2"
    assert [entry.key for entry in await store.scan(b"", b"", 10)] == [b"a/b", highest]
    assert [entry.key for entry in await store.scan(b"\xff", b"", 10)] == []
    assert [each.key for batch in [await anext(store.keys())] for each in batch] == [
        b"a/b",
        highest,
    ]
    found, position = await store.heads(b"")
    assert ([key for key, _ in found], position) == ([b"a/b", highest], None)
    assert [child.name for child in await store.children(b"", b"", 10)] == [b"a/", highest]
    await store.close()


async def test_what_is_replaced_or_deleted_leaves_no_entry(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for ttl_s in range(1, 50):
        for key in (b"again", b"kept", b"deleted", b"tombstone"):
            await store.set(key, expiring(ttl_s=ttl_s))
    await store.set(b"kept", new_record(b"body", NOW))
    await store.delete(b"deleted")
    await store.set_copy(b"tombstone", expired_tombstone(expiring().head))
    await store.close()
    kept = kept_in(tmp_path)
    assert kept.index == {(NOW + 49 * SECOND, b"again")} == expected_index(kept.heads)
    again = EmbeddedStore(tmp_path)
    await swept(again)
    assert (await again.stats())["curr_items"] == "2"
    await again.close()


async def test_a_wrong_entry_costs_a_look_and_is_gone(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await store.set(b"long", expiring(ttl_s=10))
    await store.set(b"damaged", expiring(ttl_s=1))
    await store.close()
    with lmdb.open(str(tmp_path), max_dbs=1, lib_version=0) as environment:
        index = environment.open_db(INDEX)
        with environment.begin(write=True) as transaction:
            for key in (b"long", b"never there"):
                transaction.put((NOW + SECOND).to_bytes(8, "big") + key, b"", db=index)
            transaction.put(b"damaged", b"SF no record" * 10)
    again = EmbeddedStore(tmp_path)
    await swept(again, NOW + 2 * SECOND)
    assert (await again.stats())["curr_items"] == "2"
    assert await again.get(b"long") is not None
    await again.delete(b"damaged")
    await again.close()
    assert kept_in(tmp_path).index == {(NOW + 10 * SECOND, b"long")}


async def test_a_store_without_an_index_works(tmp_path: Path) -> None:
    with (
        lmdb.open(str(tmp_path), lib_version=0) as environment,
        environment.begin(write=True) as old,
    ):
        old.put(FORMAT_KEY, FORMAT)
    store = EmbeddedStore(tmp_path)
    await store.set(b"key", new_record(b"body", NOW))
    assert not await store.sweep(LATER, 10)
    await store.close()
    assert kept_in(tmp_path).index == set()
    # One process makes the index while another has the store open.
    code = """
async def main():
    store = EmbeddedStore(folder, make=False)
    say("open")
    hear()
    say(await store.sweep(1 << 60, 10), (await store.stats())["curr_items"])
    await store.close()
asyncio.run(main())
"""
    store = EmbeddedStore(tmp_path)
    with child(code, tmp_path) as other:
        assert other.heard() == "open"
        await store.set(b"soon", expiring())
        other.tell()
        assert other.heard() == "False 1"
    await store.close()
    assert kept_in(tmp_path).index == set()


async def test_an_index_of_a_change_that_failed_is_not_used(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, initial_map_size=1 << 17)
    await store.set(b"large", expiring(b"x" * MIB))  # the map is full, and it is done again
    await store.set(b"small", expiring())
    await swept(store)
    assert (await store.stats())["curr_items"] == "0"
    await store.close()


async def test_the_space_is_used_again(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    sizes = []
    for turn in range(12):
        record = expiring(os.urandom(30_000), version=NOW + turn)
        await asyncio.gather(*(store.set(b"%d/%d" % (turn, each), record) for each in range(100)))
        sizes.append(int((await store.stats())["bytes"]))
        assert await swept(store, limit=30) == 4
        assert (await store.stats())["curr_items"] == "0"
    await store.close()
    # Pages are free for the next but one transaction, and how many writes share one is not said:
    # so a tenth of the room for one turn more may be taken, of eight.
    assert sizes[-1] < sizes[3] + 300_000 < 3 * 3_000_000


async def test_few_large_files_at_a_time(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for each in range(5):
        await store.set(b"%d" % each, expiring(bytes(20 * MIB)))
    assert await store.sweep(LATER, 100) is True
    assert (await store.stats())["curr_items"] == "1"
    assert await store.sweep(LATER, 100) is False
    assert (await store.stats())["curr_items"] == "0"
    await store.close()


@pytest.mark.parametrize("operation", ["set", "set_copy"])
async def test_killed_in_a_sweep(tmp_path: Path, operation: str) -> None:
    origin = tmp_path / "origin"
    store = EmbeddedStore(origin)
    setting = getattr(store, operation)
    for start in range(0, 2000, 500):
        keys = (b"%d" % each for each in range(start, start + 500))
        await asyncio.gather(*(setting(key, expiring(ttl_s=1 + start)) for key in keys))
    await store.set(b"kept", new_record(b"body", NOW))
    await store.close()
    code = """
async def main():
    store = EmbeddedStore(folder, make=False)
    while await store.sweep(1 << 60, 20):
        say("more")
asyncio.run(main())
"""
    for batches in (1, 7, 40):
        folder = tmp_path / f"{batches}"
        shutil.copytree(origin, folder)
        with child(code, folder) as sweeper:
            for _ in range(batches):
                assert sweeper.heard() == "more"
            sweeper.process.send_signal(signal.SIGKILL)
        await check_killed(folder, operation)


async def check_killed(folder: Path, operation: str) -> None:
    """Check that records and index belong together, and that the sweep goes on."""
    before = kept_in(folder)
    assert before.index == expected_index(before.heads)
    assert len(before.index) < 2000
    store = EmbeddedStore(folder, make=False)
    await swept(store)
    assert (await store.stats())["curr_items"] == ("1" if operation == "set" else "2001")
    assert await store.get(b"kept") is not None
    await store.close()
    after = kept_in(folder)
    assert after.index == set()
    assert {head.kind for key, head in after.heads.items() if key != b"kept"} <= {Kind.TOMBSTONE}
