"""Deletions that are remembered need space, too, and a full disk has none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfss.errors import StoreFull
from sfss.record import Head, Kind, Record, digest_of, new_record
from sfss.stores.lmdb_copies import LmdbCopies
from tests.lab.disks import Disk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 8 MiB."""
    with small_disk(tmp_path / "disk", 8) as mounted:
        yield mounted


async def test_a_tombstone_is_a_delete(disk: Disk) -> None:
    store = LmdbCopies(f"lmdb:{disk.path}/store", timeout_s=30.0)
    keys = [b"key-%04d" % (number * 7919 % 2000) for number in range(900)]
    # One batch, so that LMDB has no free page left over from an earlier one.
    await asyncio.gather(*(store.set_newest(key, new_record(key * 20, 1)) for key in keys))
    disk.fill()
    tombstone = Record(Head(2, 0, digest_of(b""), Kind.TOMBSTONE), b"")
    await asyncio.gather(*(store.set_newest(key, tombstone) for key in keys[:50]))
    for key in keys[50:100]:
        assert await store.set_newest(key, tombstone) is None
    for key in keys[:100]:
        head = await store.head(key)
        assert head is not None and head.kind is Kind.TOMBSTONE
    assert all(await asyncio.gather(*map(store.get, keys[100:])))
    with pytest.raises(StoreFull):
        await store.set_newest(b"large", new_record(b"x" * 2_000_000, 1))
    disk.make_room()
    await store.set_newest(b"large", new_record(b"x" * 2_000_000, 1))
    await store.close()
