"""The number of the last commit: the same as long as a read would find the same."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from sfss.errors import SettingError, Unreachable
from sfss.record import new_record
from sfss.stores.embedded import EmbeddedStore, check_folder
from sfss.stores.lmdb_commits import LastCommit
from tests.stores.test_embedded import child


@contextmanager
def environment_in(folder: Path) -> Iterator[tuple[lmdb.Environment, LastCommit]]:
    """Open an environment, and look for its number."""
    folder.mkdir(exist_ok=True)
    lmdb.open(str(folder), lib_version=0).close()
    last_commit = LastCommit(folder / "lock.mdb")
    environment = lmdb.open(str(folder), lib_version=0)
    write(environment, b"first")
    last_commit.find(lambda: last_number(environment))
    yield environment, last_commit
    environment.close()
    last_commit.close()


def last_number(environment: lmdb.Environment) -> int:
    """Return the number with which a read transaction begins."""
    with environment.begin() as transaction:
        return transaction.id()


def write(environment: lmdb.Environment, value: bytes) -> None:
    """Make one commit."""
    with environment.begin(write=True) as transaction:
        transaction.put(b"key", value)


def test_it_is_what_a_read_transaction_begins_with(tmp_path: Path) -> None:
    with environment_in(tmp_path) as (environment, last_commit):
        for number in range(2, 50):
            write(environment, b"%d" % number)
            assert last_commit.number() == last_number(environment) == number
        with environment.begin(write=True) as transaction:
            transaction.put(b"key", b"not committed")
            assert last_commit.number() == 49
            transaction.abort()
        assert last_commit.number() == 49
    assert last_commit.number() == 0


def test_it_is_found_while_others_commit(tmp_path: Path) -> None:
    with environment_in(tmp_path) as (environment, last_commit):

        def read() -> int:
            number = last_number(environment)
            write(environment, b"in between")
            return number

        last_commit.find(read)
        assert last_commit.number() == last_number(environment) > 0


def test_another_number_than_expected_is_not_believed(tmp_path: Path) -> None:
    with environment_in(tmp_path) as (environment, _):
        write(environment, b"x")
    doubtful = LastCommit(tmp_path / "lock.mdb")
    for wrong in (0, 1, 3):
        doubtful.find(lambda wrong=wrong: wrong)
        assert doubtful.number() == 0
    doubtful.close()


def test_a_file_that_looks_otherwise_gives_none(tmp_path: Path) -> None:
    for content in (b"", b"x" * 65536, bytes(65536), bytes.fromhex("dec0efbe02000100") * 8192):
        (tmp_path / "lock").write_bytes(content)
        last_commit = LastCommit(tmp_path / "lock")
        last_commit.find(lambda found=content[48:56]: int.from_bytes(found, "little"))
        assert last_commit.number() == 0
        last_commit.close()


def locks_on(path: Path) -> list[str]:
    """Return the locks that this process has on a file."""
    lines = Path("/proc/locks").read_text().splitlines()
    inode = path.stat().st_ino
    mine = [line for line in lines if f" {os.getpid()} " in line and f":{inode} " in line]
    return sorted(line.partition(": ")[2] for line in mine)


async def test_the_locks_of_a_store_outlast_a_second_opening(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"key", new_record(b"1", 1))
    before = locks_on(folder / "lock.mdb")
    assert before
    for make in (True, False):
        with pytest.raises(SettingError, match="already open"):
            EmbeddedStore(folder, make=make)
        with pytest.raises(SettingError, match="already open"):
            check_folder(folder, make)
        assert locks_on(folder / "lock.mdb") == before
    await asyncio.to_thread(store._folder.mend, lmdb.PanicError("as if"))
    assert locks_on(folder / "lock.mdb") == before
    await store.close()
    assert not locks_on(folder / "lock.mdb")
    again = EmbeddedStore(folder)
    assert await again.get(b"key") is not None
    await again.close()


def move(folder: Path, to: Path) -> None:
    """Rename a folder."""
    folder.rename(to)


async def test_a_store_that_was_moved_has_no_state(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"key", new_record(b"1", 1))
    assert store.state()
    move(folder, folder.with_name("moved"))
    with pytest.raises(Unreachable):
        await store.set(b"key", new_record(b"2", 1))
    assert store.state() == 0
    move(folder.with_name("moved"), folder)
    await store.set(b"key", new_record(b"3", 1))
    assert store.state()
    await store.close()


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
    shown: list[bytes | None] = []
    for key in (b"key", b"other"):
        assert store.view(key, lambda item, _: shown.append(item and bytes(item)))
    found, nothing = shown
    assert found is not None and found.endswith(b"1")
    assert nothing is None
    await store.close()
    assert not store.view(b"key", lambda item, _: shown.append(b"never"))
    assert len(shown) == 2
    with pytest.raises(Unreachable):
        await store.get(b"key")
