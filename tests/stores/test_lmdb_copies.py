"""An embedded store as one of several with copies: the newest stays, and files of others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sfss.errors import Corrupt
from sfss.record import (
    Content,
    Head,
    Kind,
    Record,
    digest_of,
    encode_head,
    expired_tombstone,
    new_record,
    record_of,
)
from sfss.stores.lmdb_copies import LmdbCopies
from sfss.stores.plain_heads import raw_file_head

VERSION = 1_700_000_000_123_456


@pytest.fixture(name="store")
async def own_store(tmp_path: Path) -> AsyncIterator[LmdbCopies]:
    """A store of its own."""
    store = LmdbCopies(f"lmdb:{tmp_path}/store", 30.0)
    yield store
    await store.close()


async def test_its_address_is_the_one_in_the_settings(store: LmdbCopies, tmp_path: Path) -> None:
    assert store.address == f"lmdb:{tmp_path}/store"
    await store.set(b"a", Record(Head(1, 1, b"0" * 16), b"x"))
    with pytest.raises(Corrupt) as caught:
        await store.get(b"a")
    assert caught.value.store == store.address


async def test_the_newest_stays(store: LmdbCopies) -> None:
    first, second = new_record(b"1", VERSION), new_record(b"2", VERSION + 1)
    tombstone = Record(Head(VERSION + 2, 0, digest_of(b""), Kind.TOMBSTONE), b"")
    assert await store.set_newest(b"a", second) is None
    assert await store.set_newest(b"a", first) == second.head
    assert await store.set_newest(b"a", second) is None
    assert await store.set_newest(b"a", tombstone) is None
    assert await store.set_newest(b"a", second) == tombstone.head
    assert await store.get(b"a") == tombstone


async def test_a_node_over_the_same_folder_gives_it_its_address(tmp_path: Path) -> None:
    store = LmdbCopies(f"lmdb:{tmp_path}/store", 30.0, "127.0.0.1:7900")
    assert store.address == "127.0.0.1:7900"
    await store.close()


async def test_what_has_expired_leaves_a_tombstone(store: LmdbCopies) -> None:
    # One of the others may have something older.
    record = record_of(Content(b"body", ttl_s=1), VERSION)
    await store.set_newest(b"a", record)
    while await store.sweep(record.head.expiry + 1, 10):
        pass
    assert await store.head(b"a") == expired_tombstone(record.head).head


async def test_the_newest_stays_of_many_at_once(store: LmdbCopies) -> None:
    records = [new_record(b"%d" % number, VERSION + number * 7 % 50) for number in range(50)]
    await asyncio.gather(*(store.set_newest(b"a", record) for record in records))
    found = await store.get(b"a")
    assert found is not None
    assert found.head.version == VERSION + 49


async def test_what_is_newer_and_damaged_is_returned(store: LmdbCopies) -> None:
    damaged = Record(Head(VERSION + 1, 1, b"0" * 16), b"x")
    await store.set(b"a", damaged)
    assert await store.set_newest(b"a", new_record(b"x", VERSION)) == damaged.head


async def test_a_file_that_another_program_wrote_is_kept_as_it_is(store: LmdbCopies) -> None:
    record = Record(raw_file_head(4, 1_700_000_000), b"body")
    assert await store.set_newest(b"a", record) is None
    assert await store.get(b"a") == record
    assert await store.head(b"a") == record.head
    shown: list[bytes] = []
    assert store.view(b"a", lambda item, _: shown.append(bytes(item or b"")))
    assert shown == [encode_head(record.head) + b"body"]
