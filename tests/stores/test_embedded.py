"""The embedded store with real processes: together, killed, growing, on a full disk."""

import asyncio
import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
import pytest
import uvloop

from sfss.errors import (
    Corrupt,
    PreconditionFailed,
    SettingError,
    SfssError,
    StoreFull,
    Unreachable,
)
from sfss.record import Head, encode, new_record
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.lmdb_folder import FORMAT_KEY, Change
from tests.servers import CHECKOUT, DEADLINE_S, lacking, wait_until

KIB = 1024
MIB = 1024 * KIB

PRELUDE = """\
import asyncio, os, sys, lmdb
from pathlib import Path
from sfss.errors import *
from sfss.record import new_record
from sfss.stores.embedded import EmbeddedStore
folder = Path(sys.argv[1])
def say(*words):
    print(*words, flush=True)
def hear():
    return sys.stdin.readline().strip()
"""


class Child:
    """Another process that runs ``code`` with the folder of a store as its argument."""

    def __init__(self, code: str, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", PRELUDE + code, str(folder), *arguments]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])}
        self.process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def heard(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str = "go") -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def ended(self) -> int:
        """Wait for its own end and return the exit status."""
        return self.process.wait(DEADLINE_S)


@contextmanager
def child(code: str, folder: Path, *arguments: str) -> Iterator[Child]:
    """Run a child process for the block."""
    started = Child(code, folder, *arguments)
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture(name="folder")
def store_folder(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "made" / "by" / "store"


async def body_at(store: EmbeddedStore, key: bytes) -> bytes | None:
    """Return the body under ``key``."""
    record = await store.get(key)
    return None if record is None else bytes(record.body)


def absent(head: Head | None) -> None:
    """The guard of If-None-Match: *."""
    if head is not None:
        raise PreconditionFailed("If-None-Match")


# Opening


async def test_folder_is_made_and_reopened(folder: Path) -> None:
    store = EmbeddedStore(folder)
    assert store.address == f"embedded:{folder}"
    await store.set(b"key", new_record(b"kept", 1))
    await store.close()
    again = EmbeddedStore(folder)
    assert await body_at(again, b"key") == b"kept"
    await again.close()


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/sfss")):
        with pytest.raises(SettingError, match=r"embedded\.folder: is '.*'") as caught:
            EmbeddedStore(folder)
        assert str(folder) in str(caught.value)


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    code = (
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: EmbeddedStore(folder)\nexcept SettingError as e: say(e)"
    )
    with child(code, tmp_path) as other:
        assert "Permission denied" in other.heard()


def test_a_folder_that_holds_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(SettingError, match="not an LMDB file"):
        EmbeddedStore(tmp_path)


def test_a_database_of_another_program(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"somebody", b"else")
    with pytest.raises(SettingError, match="another program"):
        EmbeddedStore(tmp_path)
    with lmdb.open(str(tmp_path)) as environment, environment.begin() as transaction:
        assert transaction.stat()["entries"] == 1


@pytest.mark.parametrize("engine", [0, 1])
def test_a_later_format_is_refused_in_words(tmp_path: Path, engine: int) -> None:
    with (
        lmdb.open(str(tmp_path), lib_version=engine) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(FORMAT_KEY, b"sfss 2")
    words = "holds the format b'sfss 2'" if engine == 0 else "not an LMDB file"
    with pytest.raises(SettingError, match=words):
        EmbeddedStore(tmp_path)


async def test_one_process_opens_a_folder_once(folder: Path) -> None:
    store = EmbeddedStore(folder)
    with pytest.raises(SettingError, match="already open"):
        EmbeddedStore(folder)
    await store.close()


async def test_the_lock_file_has_no_holes(folder: Path) -> None:
    store = EmbeddedStore(folder)
    found = (folder / "lock.mdb").stat()
    assert found.st_blocks * 512 >= found.st_size >= 1022 * 64
    await store.close()


def test_many_processes_make_one_store(folder: Path) -> None:
    code = "hear(); store = EmbeddedStore(folder); say('open'); hear()"
    children = [Child(code, folder) for _ in range(6)]
    try:
        for other in children:
            other.tell()
        assert [other.heard() for other in children] == ["open"] * 6
    finally:
        for other in children:
            other.kill()


async def test_fork_then_open(folder: Path) -> None:
    first = EmbeddedStore(folder)
    await first.set(b"before", new_record(b"fork", 1))
    await first.close()
    code = """
readers = []
for number in range(3):
    if not os.fork():
        async def work():
            store = EmbeddedStore(folder)
            assert bytes((await store.get(b"before")).body) == b"fork"
            await store.set(b"child-%d" % number, new_record(b"written", 1))
            await store.close()
        asyncio.run(work())
        os._exit(0)
say([os.wait()[1] for _ in range(3)])
"""
    with child(code, folder) as parent:
        assert parent.heard() == "[0, 0, 0]"
    store = EmbeddedStore(folder)
    for number in range(3):
        assert await body_at(store, b"child-%d" % number) == b"written"
    await store.close()


# Several processes


async def test_writes_of_another_process_are_seen_at_once(folder: Path) -> None:
    code = """
async def main():
    store = EmbeddedStore(folder)
    say("open")
    while line := hear():
        record = await store.get(line.encode())
        say(None if record is None else bytes(record.body).decode())
        await store.set(b"answer", new_record(line.encode(), 1))
        say("written")
asyncio.run(main())
"""
    store = EmbeddedStore(folder)
    with child(code, folder) as other:
        assert other.heard() == "open"
        for number in range(50):
            key = b"key-%d" % number
            await store.set(key, new_record(b"body-%d" % number, 1))
            other.tell(key.decode())
            assert other.heard() == f"body-{number}"
            assert other.heard() == "written"
            assert await body_at(store, b"answer") == key
    await store.close()


def test_create_if_absent_has_one_winner(folder: Path) -> None:
    code = """
def absent(head):
    if head is not None:
        raise PreconditionFailed("If-None-Match")
async def create(store, number):
    try:
        await store.set(b"key-%d" % number, new_record(sys.argv[2].encode(), 1), absent)
        return number
    except PreconditionFailed:
        return None
async def main():
    store = EmbeddedStore(folder)
    hear()
    won = []
    for start in range(0, 400, 20):
        won += await asyncio.gather(*(create(store, start + number) for number in range(20)))
    say([number for number in won if number is not None])
    await store.close()
asyncio.run(main())
"""
    children = [Child(code, folder, str(number)) for number in range(4)]
    try:
        for other in children:
            other.tell()
        won = [number for other in children for number in json.loads(other.heard())]
    finally:
        for other in children:
            other.kill()
    assert sorted(won) == list(range(400))


WRITER = """
async def main():
    store = EmbeddedStore(folder, initial_map_size=256 * 1024)
    async def write(lane):
        for number in range(10**9):
            key = b"%d/%d" % (lane, number)
            await store.set(key, new_record(key * 1000, 1))
            say(key.decode())
    await asyncio.gather(*map(write, range(8)))
asyncio.run(main())
"""


async def test_kill_a_writer_under_load(folder: Path) -> None:
    for _ in range(3):
        with child(WRITER, folder) as writer:
            acknowledged = [writer.heard() for _ in range(200)]
            writer.process.kill()
            assert writer.process.stdout is not None
            acknowledged += writer.process.stdout.read().split("\n")[:-1]
        store = EmbeddedStore(folder)
        for key in map(str.encode, acknowledged):
            assert await body_at(store, key) == key * 1000
        await store.set(b"afterwards", new_record(b"written", 1))
        await store.close()


HOLDER = """
environment = lmdb.open(str(folder), lib_version=0)
transaction = environment.begin(write=True)
say("held")
hear()
transaction.abort()
environment.close()
say("released")
"""


async def test_the_loop_never_waits_for_the_lock_of_another_process(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"old", new_record(b"old", 1))
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        waiting = asyncio.ensure_future(store.set(b"new", new_record(b"new", 1)))
        for _ in range(100):
            await asyncio.sleep(0)
            assert await body_at(store, b"old") == b"old"
        assert len(await store.scan(b"", b"", 10)) == 1
        assert (await store.stats())["curr_items"] == "1"
        assert not waiting.done()
        holder.tell()
        await waiting
    assert await body_at(store, b"new") == b"new"
    await store.close()


async def test_open_while_another_process_holds_the_lock(folder: Path) -> None:
    await EmbeddedStore(folder).close()
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        store = EmbeddedStore(folder)
        assert await store.get(b"key") is None
        holder.tell()
        assert holder.heard() == "released"
        await store.set(b"key", new_record(b"body", 1))
        assert await body_at(store, b"key") == b"body"
        await store.close()


async def test_kill_a_process_that_holds_the_lock(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"old", new_record(b"old", 1))
    for number in range(3):
        with child(HOLDER, folder) as holder:
            assert holder.heard() == "held"
            waiting = asyncio.ensure_future(store.set(b"new", new_record(b"%d" % number, 1)))
            await asyncio.sleep(0)
            holder.kill()
            async with asyncio.timeout(DEADLINE_S):
                await waiting
        assert await body_at(store, b"new") == b"%d" % number
    await store.close()


async def test_stale_readers_are_cleared_at_open(folder: Path) -> None:
    code = """
store = EmbeddedStore(folder)
transaction = store._folder._environment.begin()
say("held")
hear()
"""
    with child(code, folder) as living:
        assert living.heard() == "held"
        with child(code, folder) as dying:
            assert dying.heard() == "held"
        store = EmbeddedStore(folder)
        environment = store._folder._environment
        assert environment is not None
        readers = environment.readers()
        assert str(living.process.pid) in readers
        assert str(dying.process.pid) not in readers
        await store.close()


# The map


async def test_a_tiny_map_grows(folder: Path) -> None:
    store = EmbeddedStore(folder, initial_map_size=64 * KIB)
    small = [(b"key-%04d" % number, b"%d" % number * 500) for number in range(500)]
    await asyncio.gather(*(store.set(key, new_record(body, 1)) for key, body in small))
    await store.set(b"large", new_record(b"x" * 5 * MIB, 1))
    for key, body in small:
        assert await body_at(store, key) == body
    assert await body_at(store, b"large") == b"x" * 5 * MIB
    await store.close()


async def test_readers_and_writers_follow_a_map_that_grows_elsewhere(folder: Path) -> None:
    store = EmbeddedStore(folder, initial_map_size=64 * KIB)
    remaps = counted_remaps(store)
    with child(WRITER, folder) as writer:

        async def read() -> None:
            for _ in range(2500):
                key = (await asyncio.to_thread(writer.heard)).encode()
                assert await body_at(store, key) == key * 1000

        async def write() -> None:
            for number in range(500):
                await store.set(b"own-%d" % number, new_record(b"%d" % number * 1000, 1))

        async with asyncio.timeout(2 * DEADLINE_S):
            await asyncio.gather(read(), write())
    assert remaps
    assert len(await store.scan(b"own-", b"", 1000)) == 500
    await store.close()


def counted_remaps(store: EmbeddedStore) -> list[lmdb.Error]:
    """Return a list that fills with the errors that the store mends."""
    found: list[lmdb.Error] = []
    mend = store._folder.mend

    def counting(error: lmdb.Error) -> None:
        found.append(error)
        mend(error)

    store._folder.mend = counting  # type: ignore[method-assign]
    return found


class Panicked:
    """What LMDB is after it failed to write its meta page."""

    def __init__(self, environment: lmdb.Environment | None) -> None:
        self._environment = environment

    def begin(self, *_: object, **__: object) -> None:
        """Refuse, as LMDB does from then on."""
        raise lmdb.PanicError("mdb_txn_begin", -30795)

    def close(self) -> None:
        """Close what is behind."""
        assert self._environment is not None
        self._environment.close()


async def test_a_fatal_error_is_mended_by_opening_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"old", new_record(b"old", 1))
    monkeypatch.setattr(store._folder, "_environment", Panicked(store._folder._environment))
    assert await body_at(store, b"old") == b"old"
    monkeypatch.setattr(store._folder, "_environment", Panicked(store._folder._environment))
    await store.set(b"new", new_record(b"new", 1))
    assert await body_at(store, b"new") == b"new"
    await store.close()


@pytest.mark.parametrize("in_the_way", ["a file", "an empty folder"])
async def test_what_cannot_be_opened_again_is_unreachable_until_it_can(
    folder: Path, in_the_way: str
) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"old", new_record(b"old", 1))
    put_away(folder, in_the_way)
    Panicked(store._folder._environment).close()
    store._folder._environment = None
    with pytest.raises(Unreachable, match="cannot be opened again"):
        await store.get(b"old")
    with pytest.raises(Unreachable):
        await store.set(b"new", new_record(b"new", 1))
    put_back(folder)
    assert await body_at(store, b"old") == b"old"
    await store.set(b"new", new_record(b"new", 1))
    await store.close()


def put_away(folder: Path, in_the_way: str) -> None:
    """Put something else in the place of ``folder``."""
    folder.rename(folder.with_name("away"))
    if in_the_way == "a file":
        folder.write_text("in the way")
    else:
        folder.mkdir()


def put_back(folder: Path) -> None:
    """Undo ``put_away``."""
    if folder.is_file():
        folder.unlink()
    else:
        shutil.rmtree(folder)
    folder.with_name("away").rename(folder)


async def test_other_errors_of_the_library_do_not_get_out(folder: Path) -> None:
    store = EmbeddedStore(folder)
    with pytest.raises(Unreachable, match="MDB_BAD_VALSIZE"):
        await store.get(b"")
    for key in (b"", b"k" * 251):
        with pytest.raises(ValueError, match="a key has 1 to 250 bytes"):
            await store.set(key, new_record(b"body", 1))
    await store.close()


# A full disk


async def fill(store: EmbeddedStore, size: int) -> list[bytes]:
    """Set bodies of ``size`` bytes until the store is full; return the keys that were kept."""
    kept: list[bytes] = []
    with pytest.raises(StoreFull):
        while True:
            key = b"fill-%d-%05d" % (size, len(kept))
            await store.set(key, new_record(key.ljust(size), 1))
            kept.append(key)
    return kept


async def check_full_store(store: EmbeddedStore) -> None:
    """Fill ``store`` and delete what was kept."""
    kept = await fill(store, 100_000)
    kept += await fill(store, 1000)
    for key in kept:
        assert (await body_at(store, key) or b"").rstrip() == key
    large, small = await asyncio.gather(
        store.set(b"large", new_record(b"x" * MIB, 1)),
        store.delete(kept.pop()),
        return_exceptions=True,
    )
    assert isinstance(large, StoreFull)
    assert small is True
    assert await store.get(b"large") is None
    for key in kept:
        assert await store.delete(key)
    await store.set(b"small again", new_record(b"x" * 100_000, 1))
    await store.set(b"large again", new_record(b"y" * MIB, 1))
    assert await body_at(store, b"large again") == b"y" * MIB


@pytest.fixture(name="small_disk")
def mounted_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.getuid() != 0 or mount is None or umount is None:
        lacking("mounting a small disk needs root and mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        lacking(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run([umount, "-l", str(disk)], check=True)


def stuff(disk: Path) -> Path:
    """Fill ``disk`` to its last page with a file, and return that."""
    ballast = disk / "ballast"
    with ballast.open("ab") as file, pytest.raises(OSError, match="No space left"):
        while True:
            os.write(file.fileno(), bytes(4096))
    return ballast


async def test_a_full_disk(small_disk: Path) -> None:
    store = EmbeddedStore(small_disk / "store")
    await check_full_store(store)
    await store.close()


async def test_deletes_make_room_on_a_disk_that_others_filled(small_disk: Path) -> None:
    store = EmbeddedStore(small_disk / "store")
    # One batch, so that LMDB has no free page left over from an earlier one.
    keys = [b"key-%04d" % (number * 7919 % 2000) for number in range(2000)]
    await asyncio.gather(*(store.set(key, new_record(key * 20, 1)) for key in keys[:900]))
    ballast = stuff(small_disk)
    outcomes = await asyncio.gather(*map(store.delete, keys[:50]))
    assert outcomes == [True] * 50
    for key in keys[50:100]:
        assert await store.delete(key)
    kept = await asyncio.gather(*map(store.get, keys[100:900]))
    assert all(kept)
    ballast.unlink()
    await store.set(b"large", new_record(b"x" * MIB, 1))
    await store.close()


async def test_a_full_disk_can_be_opened_and_read(small_disk: Path) -> None:
    folder = small_disk / "store"
    store = EmbeddedStore(folder)
    await store.set(b"key", new_record(b"body", 1))
    await store.close()
    (folder / "reserve").unlink()
    ballast = stuff(small_disk)
    code = """
async def main():
    store = EmbeddedStore(folder)
    say(bytes((await store.get(b"key")).body))
    try:
        await store.set(b"big", new_record(b"x" * 2**20, 1))
    except StoreFull:
        say("full")
    hear()
    await store.set(b"big", new_record(b"x" * 2**20, 1))
    say("written")
asyncio.run(main())
"""
    with child(code, folder) as other:
        assert [other.heard(), other.heard()] == ["b'body'", "full"]
        ballast.unlink()
        other.tell()
        assert other.heard() == "written"


def test_a_limit_of_the_file_size(folder: Path) -> None:
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def attempt(store, number, size):
    try:
        await store.set(b"key-%d" % number, new_record(b"%d" % number * size, 1))
        return "stored"
    except StoreFull as error:
        return error.reason
async def main():
    store = EmbeddedStore(folder)
    await attempt(store, 0, 100_000)
    say("ready"); hear()
    full = [await attempt(store, number, 400_000) for number in range(1, 9)]
    say(full[0]); say(full[-1])
    say(all([bytes((await store.get(b"key-0")).body) == b"0" * 100_000]))
    small = [attempt(store, number, 10) for number in range(20, 24)]
    mixed = await asyncio.gather(attempt(store, 50, 10**6), *small)
    say(mixed.count("stored"))
    hear()
    say(await attempt(store, 9, 400_000))
    await store.close()
asyncio.run(main())
"""
    with child(code, folder) as other:
        assert other.heard() == "ready"
        resource.prlimit(other.process.pid, resource.RLIMIT_FSIZE, (2 * MIB, -1))
        other.tell()
        assert other.heard() == "stored"
        assert other.heard() == os.strerror(errno.EFBIG)
        assert other.heard() == "True"
        assert other.heard() == "4"
        resource.prlimit(other.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        other.tell()
        assert other.heard() == "stored"
        assert other.ended() == 0


# Conditions, damage, listing, statistics


async def test_a_damaged_record_can_be_replaced_on_condition(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = EmbeddedStore(folder)
    environment = store._folder._environment
    assert environment is not None
    with environment.begin(write=True) as transaction:
        transaction.put(b"key", b"damaged" * 20)
    with pytest.raises(Corrupt):
        await store.get(b"key")
    with caplog.at_level(logging.WARNING):
        await store.set(b"key", new_record(b"new", 1), absent)
    assert "damaged key" in caplog.text
    assert await body_at(store, b"key") == b"new"
    await store.close()


async def test_a_long_listing_in_byte_order(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EmbeddedStore(folder)
    names = [f"{letter}/{number}" for letter in "aZäß€\U0001f600~" for number in range(150)]
    await asyncio.gather(*(store.set(name.encode(), new_record(b"", 1)) for name in names))
    expected = sorted(name.encode() for name in names)
    assert [entry.key for entry in await store.scan(b"", b"", 10_000)] == expected
    pages: list[bytes] = []
    while page := await store.scan(b"", pages[-1] if pages else b"", 70):
        pages += [entry.key for entry in page]
    assert pages == expected
    assert not caplog.records
    await store.close()


async def test_a_listing_of_large_files(folder: Path) -> None:
    store = EmbeddedStore(folder)
    for number in range(8):
        await store.set(b"key-%d" % number, new_record(bytes(MIB), 1))
    listed = await store.scan(b"key-", b"", 100)
    assert [entry.head.size for entry in listed] == [MIB] * 8
    await store.close()


async def test_what_is_damaged_is_among_the_keys(folder: Path) -> None:
    store = EmbeddedStore(folder)
    keys = [b"key-%03d" % number for number in range(600)]
    heads = [new_record(key * 9, 1) for key in keys]
    await asyncio.gather(*(store.set(*pair) for pair in zip(keys, heads, strict=True)))
    damaged = {keys[0]: b"", keys[255]: b"x", keys[256]: b"?" * 200, keys[-1]: b"SFSS"}
    environment = store._folder._environment
    assert environment is not None
    with environment.begin(write=True) as transaction:
        for key, value in damaged.items():
            transaction.put(key, value)
    listing = store.keys()
    found = [stamped async for batch in listing for stamped in batch]
    assert [key for key, _ in found] == keys
    assert {key for key, stamp in found if stamp is None} == set(damaged)
    await store.close()


async def test_keys_of_large_files_come_in_small_batches(folder: Path) -> None:
    store = EmbeddedStore(folder)
    for number in range(12):
        await store.set(b"key-%02d" % number, new_record(bytes(MIB), 1))
    listing = store.keys()
    sizes = [len(batch) async for batch in listing]
    assert sum(sizes) == 12 and max(sizes) == 4
    await store.close()


async def test_statistics_are_of_the_store_whoever_is_asked(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"a", new_record(b"1", 1))
    await store.set(b"b", new_record(b"1", 1))
    await store.delete(b"b")
    stats = await store.stats()
    assert stats["curr_items"] == "1"
    assert stats["bytes"] == str((folder / "data.mdb").stat().st_size)
    assert 0 < int(stats["avail_space"]) <= int(stats["total_space"])
    assert set(stats) == {*("version", "curr_items", "bytes", "avail_space", "total_space")}
    await store.close()


async def test_a_crowd_of_writes_shares_transactions(folder: Path) -> None:
    store = EmbeddedStore(folder)
    environment = store._folder._environment
    assert environment is not None
    before = environment.info()["last_txnid"]
    await asyncio.gather(*(store.set(b"%d" % n, new_record(b"", 1)) for n in range(3000)))
    assert environment.info()["last_txnid"] - before < 300
    await store.close()


# Ends


async def test_what_is_cancelled_before_its_turn_is_not_done(folder: Path) -> None:
    store = EmbeddedStore(folder)
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        taken = asyncio.ensure_future(store.set(b"taken", new_record(b"1", 1)))
        await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, store._queue.empty, "the writer has taken the first")
        late = asyncio.ensure_future(store.set(b"late", new_record(b"1", 1)))
        await asyncio.sleep(0)
        for task in (taken, late):
            task.cancel()
        await asyncio.gather(taken, late, return_exceptions=True)
        holder.tell()
        await store.set(b"other", new_record(b"1", 1))
    # The lock came too late for both: newer writes of others may have been acknowledged by then.
    assert await body_at(store, b"taken") is None
    assert await body_at(store, b"late") is None
    assert await body_at(store, b"other") == b"1"
    await store.close()


async def test_writes_that_were_given_up_hold_no_bodies(folder: Path) -> None:
    store = EmbeddedStore(folder, timeout_s=0.05)
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        await asyncio.gather(
            *(store.set(b"k", new_record(bytes(MIB), 1)) for _ in range(5)), return_exceptions=True
        )
        for _ in range(5):
            with pytest.raises(Unreachable) as caught:
                await store.set(b"k", new_record(bytes(MIB), 1))
            assert caught.value.applied is None
        waiting = [store._queue.get_nowait() for _ in range(store._queue.qsize())]
        assert waiting
        assert not any(item.body for item in waiting if isinstance(item, Change))
        holder.tell()
    store._patience.timeout_s = 30.0
    await store.set(b"other", new_record(b"1", 1))
    assert await body_at(store, b"k") is None
    await store.close()


async def test_a_body_that_waits_is_not_copied(folder: Path) -> None:
    store = EmbeddedStore(folder)
    bodies = [bytes(MIB) for _ in range(3)]
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        first = asyncio.ensure_future(store.set(b"0", new_record(b"", 1)))
        await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, store._queue.empty, "the writer waits for the lock")
        writes = [asyncio.ensure_future(store.set(b"k", new_record(body, 1))) for body in bodies]
        await asyncio.sleep(0)
        waiting = [store._queue.get_nowait() for _ in bodies]
        assert [item.body for item in waiting if isinstance(item, Change)] == bodies
        for item, body in zip(waiting, bodies, strict=True):
            assert isinstance(item, Change) and item.body is body
            store._queue.put(item)
        holder.tell()
        await asyncio.gather(first, *writes)
    assert await body_at(store, b"k") == bodies[-1]
    await store.close()


async def test_a_write_that_waited_while_the_folder_was_moved_is_not_acknowledged(
    folder: Path,
) -> None:
    store = EmbeddedStore(folder)
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        waiting = asyncio.ensure_future(store.set(b"k", new_record(b"1", 1)))
        await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, store._queue.empty, "the writer waits for the lock")
        await asyncio.to_thread(folder.rename, folder.with_name("away"))
        holder.tell()
        with pytest.raises(Unreachable, match="start sfss anew"):
            await waiting
    with pytest.raises(Unreachable, match="start sfss anew"):
        await store.get(b"k")
    await store.close()


async def test_close_finishes_what_waits(folder: Path) -> None:
    store = EmbeddedStore(folder)
    writes = [
        asyncio.ensure_future(store.set(b"%d" % number, new_record(b"body", 1)))
        for number in range(2500)
    ]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(*writes)
    again = EmbeddedStore(folder)
    assert (await again.stats())["curr_items"] == "2500"
    await again.close()


async def test_close_while_the_map_grows_and_reads_go_on(folder: Path) -> None:
    for _ in range(5):
        store = EmbeddedStore(folder, initial_map_size=64 * KIB)
        writes = [
            asyncio.ensure_future(store.set(b"%d" % number, new_record(bytes(20_000), 1)))
            for number in range(50)
        ]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        while not closing.done():
            with suppress(Unreachable):
                await store.get(b"1")
                await store.scan(b"", b"", 10)
            await asyncio.sleep(0)
        await asyncio.gather(*writes)
        shutil.rmtree(folder)


@pytest.mark.parametrize("end", ["return", "raise SystemExit(0)", "await asyncio.sleep(0)"])
def test_a_process_that_does_not_close_still_ends(folder: Path, end: str) -> None:
    code = f"""
async def main():
    global store
    store = EmbeddedStore(folder)
    await store.set(b"acknowledged", new_record(b"body", 1))
    record = new_record(bytes(9999), 1)
    tasks = [asyncio.ensure_future(store.set(b"%d" % n, record)) for n in range(999)]
    await asyncio.sleep(0)
    {end}
asyncio.run(main())
"""
    with child(code, folder) as other:
        assert other.ended() == 0
    store = asyncio.run(reopened(folder))
    assert store == b"body"


async def reopened(folder: Path) -> bytes | None:
    """Open the store anew and return what was acknowledged."""
    store = EmbeddedStore(folder)
    try:
        return await body_at(store, b"acknowledged")
    finally:
        await store.close()


def test_on_uvloop(folder: Path) -> None:
    async def work() -> None:
        store = EmbeddedStore(folder, initial_map_size=64 * KIB)
        keys = [b"%d" % number for number in range(500)]
        await asyncio.gather(*(store.set(key, new_record(key * 100, 1)) for key in keys))
        assert [await body_at(store, key) for key in keys] == [key * 100 for key in keys]
        assert await store.delete(b"1") and not await store.delete(b"1")
        await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


async def test_values_are_encoded_records(folder: Path) -> None:
    store = EmbeddedStore(folder)
    record = new_record(b"body", 1, {"a": "b"})
    await store.set(b"key", record)
    assert store._folder.get(b"key") == encode(record)
    await store.close()


async def test_commits_reach_the_disk(folder: Path) -> None:
    store = EmbeddedStore(folder)
    environment = store._folder._environment
    assert environment is not None
    flags = environment.flags()
    assert flags["sync"] and flags["metasync"] and not flags["writemap"]
    await store.close()


async def test_damaged_pages_of_the_database_are_damage_and_not_a_store_out_of_reach(
    folder: Path,
) -> None:
    store = EmbeddedStore(folder)
    for turn in range(2000):
        await store.set(b"key-%d" % turn, new_record(b"x", 1))
    await store.close()
    found: set[type[Exception] | None] = set()
    data = bytearray((folder / "data.mdb").read_bytes())
    for page in range(2, len(data) // 4096):
        # The flags of a page say what it is: a branch, a leaf, an overflow.
        data[page * 4096 + 10] ^= 0x0F
    (folder / "data.mdb").write_bytes(data)
    with suppress(SettingError):
        store = EmbeddedStore(folder)
        for turn in range(20):
            try:
                await store.get(b"key-%d" % turn)
            except SfssError as error:
                found.add(type(error))
        await store.close()
        assert found == {Corrupt}


async def test_a_read_that_waits_too_long_for_a_repair_speaks_of_no_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedStore(folder)
    await store.set(b"warm", new_record(b"1", 1))
    store._patience.timeout_s = 0.05

    def resized(_: bytes) -> bytes:
        raise lmdb.MapResizedError("another process has grown the map")

    monkeypatch.setattr(store._folder, "get", resized)
    with child(HOLDER, folder) as holder:
        assert holder.heard() == "held"
        # It keeps the writer thread from mending anything.
        waiting = asyncio.ensure_future(store.set(b"k", new_record(b"1", 1)))
        await asyncio.sleep(0)
        with pytest.raises(Unreachable) as caught:
            await store.get(b"k")
        assert caught.value.applied is False
        with pytest.raises(Unreachable):
            await waiting
        holder.tell()
    await store.close()
