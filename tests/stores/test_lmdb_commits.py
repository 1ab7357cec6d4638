"""The number of the last commit: the same as long as a read would find the same."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from sfss.errors import Unreachable
from sfss.record import new_record
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.lmdb_commits import LastCommit
from tests.stores.test_embedded import child


@contextmanager
def environment_in(folder: Path) -> Iterator[tuple[lmdb.Environment, LastCommit]]:
    """Open an environment, and look for its number."""
    folder.mkdir(exist_ok=True)
    lmdb.open(str(folder), lib_version=0).close()
    last_commit = LastCommit(folder / "lock.mdb")
    environment = lmdb.open(str(folder), lib_version=0)
    with environment.begin() as transaction:
        last_commit.expect(transaction.id())
    yield environment, last_commit
    environment.close()
    last_commit.close()


def write(environment: lmdb.Environment, value: bytes) -> None:
    """Make one commit."""
    with environment.begin(write=True) as transaction:
        transaction.put(b"key", value)


def test_it_is_what_a_read_transaction_begins_with(tmp_path: Path) -> None:
    with environment_in(tmp_path) as (environment, last_commit):
        for number in range(1, 50):
            write(environment, b"%d" % number)
            with environment.begin() as transaction:
                assert last_commit.number() == transaction.id() == number
        with environment.begin(write=True) as transaction:
            transaction.put(b"key", b"not committed")
            assert last_commit.number() == 49
            transaction.abort()
        assert last_commit.number() == 49


def test_it_is_none_before_it_is_expected_and_after_it_is_closed(tmp_path: Path) -> None:
    with environment_in(tmp_path) as (environment, last_commit):
        write(environment, b"x")
        fresh = LastCommit(tmp_path / "lock.mdb")
        assert fresh.number() == 0
    assert last_commit.number() == fresh.number() == 0
    fresh.close()


def test_a_file_that_looks_otherwise_gives_none(tmp_path: Path) -> None:
    for content in (b"", b"x" * 65536, bytes(65536), bytes.fromhex("dec0efbe02000100") * 8192):
        (tmp_path / "lock").write_bytes(content)
        last_commit = LastCommit(tmp_path / "lock")
        last_commit.expect(int.from_bytes(content[48:56], "little"))
        assert last_commit.number() == 0
        last_commit.close()


def test_another_number_than_expected_is_not_believed(tmp_path: Path) -> None:
    with environment_in(tmp_path) as (environment, _):
        write(environment, b"x")
        doubtful = LastCommit(tmp_path / "lock.mdb")
        doubtful.expect(2)
        assert doubtful.number() == 0


@pytest.fixture(name="folder")
def store_folder(tmp_path: Path) -> Path:
    """A folder for a store."""
    return tmp_path / "store"


async def test_the_state_of_a_store_changes_with_its_own_writes(folder: Path) -> None:
    store = EmbeddedStore(folder)
    seen = [store.state()]
    assert seen[0] > 0
    for number in range(5):
        await store.set(b"key", new_record(b"%d" % number, number + 1))
        seen.append(store.state())
    await store.delete(b"key")
    seen.append(store.state())
    assert len(set(seen)) == 7
    assert await store.get(b"key") is None
    assert store.state() == seen[-1]
    await store.close()
    assert store.state() == 0


async def test_the_state_changes_with_the_write_of_another_process(folder: Path) -> None:
    code = """
store = EmbeddedStore(folder)
async def write():
    for number in range(3):
        hear()
        await store.set(b"key", new_record(b"%d" % number, 1))
        say("done")
asyncio.run(write())
"""
    store = EmbeddedStore(folder)
    with child(code, folder) as other:
        for number in range(3):
            before = store.state()
            other.tell()
            assert other.heard() == "done"
            assert store.state() != before
            record = await store.get(b"key")
            assert record is not None
            assert bytes(record.body) == b"%d" % number
    await store.close()


async def test_the_state_is_known_again_after_the_store_was_mended(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"key", new_record(b"1", 1))
    for number in range(3):
        await asyncio.to_thread(store._folder.mend, lmdb.PanicError("as if"))
        before = store.state()
        assert before > 0
        await store.set(b"key", new_record(b"%d" % number, 1))
        assert store.state() != before
    await store.close()


async def test_nothing_is_shown_of_a_closed_store(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"key", new_record(b"1", 1))
    shown: list[bytes] = []
    assert store.view(b"key", lambda item, _: shown.append(bytes(item or b"")))
    assert shown[0].endswith(b"1")
    assert not store.view(b"other", lambda item, _: shown.append(b"never"))
    await store.close()
    assert not store.view(b"key", lambda item, _: shown.append(b"never"))
    assert len(shown) == 1
    with pytest.raises(Unreachable):
        await store.get(b"key")
