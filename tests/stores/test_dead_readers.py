"""Readers of a store that were killed: what they were reading is in nobody's way."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sfss.config_quota import Quota
from sfss.record import new_record
from sfss.stores import lmdb_readers
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.ledger import Ledger
from sfss.stores.ledger_entries import Outcome

READ = """
import sys, time, lmdb
environment = lmdb.open(sys.argv[1], readonly=True, max_dbs=3, lib_version=0)
with environment.begin() as transaction:
    print(transaction.id(), flush=True)
    time.sleep(3600)
"""
ROUNDS = 40


def kill_a_reader(folder: Path) -> None:
    """Have a process, as a backup may be one, killed in the middle of a read."""
    reader = subprocess.Popen([sys.executable, "-c", READ, str(folder)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    with reader.stdout:
        assert reader.stdout.readline()
        reader.kill()
        reader.wait()


def size_of(folder: Path) -> Callable[[], int]:
    """Return what tells the size of the data file."""
    return lambda: (folder / "data.mdb").stat().st_size


async def test_a_store_does_not_grow_for_a_reader_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_readers, "READERS_EVERY_S", 0.0)
    store, size = EmbeddedStore(tmp_path / "store"), size_of(tmp_path / "store")
    body = b"x" * 1_000_000
    for number in range(4):
        await store.set(b"key", new_record(body, number + 1))
    before = size()
    kill_a_reader(tmp_path / "store")
    for number in range(ROUNDS):
        await store.set(b"key", new_record(body, number + 10))
    assert size() < before + 4 * len(body)
    await store.close()


async def test_a_ledger_does_not_grow_for_a_reader_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_readers, "READERS_EVERY_S", 0.0)
    folder = tmp_path / "quota"
    noted, size = Ledger(folder, [Quota("", 10**12, None)]), size_of(folder)
    await noted.counted("")

    async def write() -> None:
        for number in range(ROUNDS):
            begun = await noted.begin(b"path %d" % number, 1, 0)
            assert begun is not None
            await noted.end(begun, Outcome.KEPT, 1)

    await write()
    kill_a_reader(folder)
    before = size()
    await write()
    await write()
    assert size() < 2 * before
    await noted.close()
