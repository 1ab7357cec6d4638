"""Ordinary files in a folder: durable, never outside, beside other programs, on a failing disk."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sfss.errors import (
    BadPath,
    Corrupt,
    PathTaken,
    PreconditionFailed,
    SettingError,
    StoreFull,
    Unreachable,
    Unsettled,
)
from sfss.items import unique_of
from sfss.record import Head, Kind, Record, digest_of, held, new_record
from sfss.stores import plain_writing
from sfss.stores.base import Store
from sfss.stores.folder import SMALL_SIZE, FolderStore
from sfss.stores.marks import Marks
from sfss.stores.plain_heads import is_raw
from tests.servers import DEADLINE_S, PYTHON_ENVIRON
from tests.stores.dict_store import DictStore

VERSION = 1_700_000_000_123_456
HOUR_NS = 3600 * 10**9
KEY = b"a/b/file.txt"
GONE = Record(Head(VERSION + 9, 0, digest_of(b""), Kind.TOMBSTONE), b"")

PRELUDE = """\
import asyncio, os, signal, sys
from pathlib import Path
from sfss.errors import *
from sfss.record import new_record
from sfss.stores.folder import FolderStore
from sfss.stores.marks import Marks
from tests.stores.dict_store import DictStore
root = Path(sys.argv[1])
store = FolderStore("file://x", root, Marks(DictStore(), "file://x"))
"""


@pytest.fixture(name="root")
def root_folder(tmp_path: Path) -> Path:
    """The folder of the store, not made yet."""
    return tmp_path / "files"


@pytest.fixture(name="marks")
def marks_store() -> DictStore:
    """Where the marks are kept."""
    return DictStore()


def opened(root: Path, marks: DictStore, make: bool = True) -> FolderStore:
    """A store in ``root``."""
    address = f"file://{root}"
    return FolderStore(address, root, Marks(marks, address), make=make, timeout_s=DEADLINE_S)


@pytest.fixture(name="store")
async def folder_store(root: Path, marks: DictStore) -> AsyncIterator[FolderStore]:
    """A store."""
    store = opened(root, marks)
    yield store
    await store.close()


async def body_at(store: Store, key: bytes) -> bytes | None:
    """Return the body under ``key``."""
    record = await store.get(key)
    return None if record is None else bytes(held(record.body))


async def listed(store: FolderStore) -> dict[bytes, int | None]:
    """Return all keys with their stamps."""
    found: dict[bytes, int | None] = {}
    async for batch in store.keys():
        found.update(batch)
    return found


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def temporaries(root: Path) -> list[str]:
    """Return what lies in the folder of temporary files."""
    return names_in(root / ".sfss" / "tmp")


def move(folder: Path, name: str) -> None:
    """Give ``folder`` another name."""
    folder.rename(folder.with_name(name))


def make(folder: Path) -> None:
    """Make an empty folder."""
    folder.mkdir()


def remove(folder: Path) -> None:
    """Remove an empty folder."""
    folder.rmdir()


def absent(head: Head | None) -> None:
    """The guard of If-None-Match: *."""
    if head is not None:
        raise PreconditionFailed("If-None-Match")


def run(code: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start another process with the store."""
    command = [sys.executable, "-c", PRELUDE + code, str(root), *arguments]
    environ = {**os.environ, **PYTHON_ENVIRON}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process; return what it said."""
    try:
        return process.communicate(timeout=DEADLINE_S)[0].strip()
    finally:
        process.kill()
        process.wait()


class Calls:
    """What the system is asked for, in order, and where; may fail or block what a test names."""

    NAMES = ("write", "setxattr", "utime", "fsync", "rename", "unlink", "mkdir", "rmdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.done: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._seen(name, getattr(os, name), str(root)))

    def _seen(self, name: str, call: Callable[..., object], root: str) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            said = name
            if name == "fsync":
                place = str(Path(f"/proc/self/fd/{arguments[0]}").readlink()).removeprefix(root)
                said = "fsync temporary" if "/.sfss/tmp/" in place else f"fsync {place or '/'}"
            if said in self.before:
                self.before[said]()
            self.done.append(said)
            return call(*arguments, **named)

        return wrapped


def failing(number: int) -> Callable[[], object]:
    """Return what fails as the system does."""

    def fail() -> object:
        raise OSError(number, os.strerror(number))

    return fail


# What is written lasts


async def test_a_file_is_on_the_disk_before_it_has_its_name(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, root)
    await store.set(KEY, new_record(b"body", VERSION))
    written = [call for call in calls.done if call != "mkdir"]
    assert written == [
        *("write", "setxattr", "utime", "fsync temporary", "rename"),
        *("fsync /a/b", "fsync /", "fsync /a"),
    ]
    file = root / KEY.decode()
    assert file.read_bytes() == b"body"
    assert file.stat().st_mtime_ns == VERSION * 1000
    assert temporaries(root) == []


async def test_folders_that_are_on_the_disk_are_left_alone(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = plain_writing.time_ns() + HOUR_NS
    monkeypatch.setattr(plain_writing, "time_ns", lambda: now_ns)
    await store.set(KEY, new_record(b"1", VERSION))
    calls = Calls(monkeypatch, root)
    await store.set(KEY, new_record(b"2", VERSION))
    assert [call for call in calls.done if "fsync" in call] == ["fsync temporary", "fsync /a/b"]
    calls.done.clear()
    (root / "another").mkdir()
    calls.done.clear()
    await store.set(KEY, new_record(b"3", VERSION))
    assert "fsync /" in calls.done


async def test_a_deletion_is_on_the_disk_before_it_is_remembered(
    store: FolderStore, root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.set(KEY, new_record(b"body", VERSION))
    await store.set(b"a/other", new_record(b"body", VERSION))
    calls = Calls(monkeypatch, root)
    calls.before["fsync /a/b"] = lambda: calls.done.append(f"marks {len(marks.values)}")
    await store.set(KEY, GONE)
    assert calls.done[:3] == ["unlink", "marks 0", "fsync /a/b"]
    assert "rmdir" in calls.done
    assert len(marks.values) == 1
    assert names_in(root / "a") == ["other"]
    assert await store.get(KEY) == GONE


@pytest.mark.parametrize("step", ["write", "setxattr", "utime", "fsync", "rename", "second fsync"])
async def test_killed_between_two_steps(
    store: FolderStore, root: Path, marks: DictStore, step: str
) -> None:
    old = new_record(b"old", VERSION)
    await store.set(KEY, old)
    code = """
count = {"fsync": 0}
def at(name):
    call = getattr(os, name)
    def wrapped(*arguments, **named):
        count[name] = count.get(name, 0) + 1
        if sys.argv[2] == (name if count[name] == 1 else f"second {name}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    setattr(os, name, wrapped)
for name in ("write", "setxattr", "utime", "fsync", "rename"):
    at(name)
asyncio.run(store.set(b"a/b/file.txt", new_record(b"new" * 1000, 1_700_000_000_123_457)))
"""
    process = run(code, root, step)
    said(process)
    assert process.returncode == -signal.SIGKILL
    is_new = step == "second fsync"
    assert await body_at(store, KEY) == (b"new" * 1000 if is_new else b"old")
    if not is_new:
        assert await store.get(KEY) == old
    assert len(temporaries(root)) == (0 if is_new else 1)
    await store.set(KEY, new_record(b"newest", VERSION + 2))
    assert await body_at(store, KEY) == b"newest"
    assert set(await listed(store)) == {KEY}


async def test_only_old_left_overs_are_removed(
    store: FolderStore, root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = root / ".sfss" / "tmp" / "left"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    await opened(root, marks, make=False).close()
    assert temporaries(root) == ["left"]
    now_ns = plain_writing.time_ns() + 2 * HOUR_NS
    monkeypatch.setattr(plain_writing, "time_ns", lambda: now_ns)
    await opened(root, marks, make=False).close()
    assert temporaries(root) == []


async def test_a_folder_that_was_removed_meanwhile_is_made_again(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, left = Calls(monkeypatch, root), 3

    def vanish() -> None:
        nonlocal left
        if left:
            left -= 1
            remove(root / "a" / "b")

    calls.before["rename"] = vanish
    await store.set(KEY, new_record(b"body", VERSION))
    assert await body_at(store, KEY) == b"body"


async def test_sets_and_deletes_in_one_folder_at_once(store: FolderStore) -> None:
    keys = [b"x/y/%d" % number for number in range(8)]

    async def churn(key: bytes) -> None:
        for _ in range(15):
            await store.set(key, new_record(key, VERSION))
            assert await body_at(store, key) == key
            assert await store.delete(key)

    await asyncio.gather(*map(churn, keys))
    assert await store.children(b"", b"", 9) == []


# Never outside

HOSTILE = [
    b"../canary",
    b"a/../../canary",
    b"./a",
    b"a/./b",
    b"..",
    b"a/..",
    b".hidden",
    b"a/.hidden/b",
    b".sfss/tmp/x",
    b".sfss",
    b"/etc/passwd",
    b"//etc",
    b"a//b",
    b"a/",
    b"/",
    b"",
    b"a\\b",
    b"nul\0",
    b"\0",
    b"a\nb",
    b"\x7f",
    b"\xff",
    b"\xc0\xae\xc0\xae/canary",
    b"\xed\xa0\x80",
    b"\xc2\x85",
    b"x" * 256,
    b"a/" + b"y" * 300 + b"/b",
    "ü".encode() * 128,
]
LINKED = [b"link", b"inside", b"linked/canary", b"linked/new", b"dots/canary", b"loop", b"loop/x"]
ODD = [b"%2e%2e/canary", b"%00", b"..\xe2\x80\xa8"[2:], b"-rf", b"a b", b"~", b"$HOME", b"con"]


@pytest.fixture(name="canary")
def canaries(root: Path, store: FolderStore) -> Path:
    """A file outside, which links inside lead to."""
    outside = root.parent / "outside"
    outside.mkdir()
    (root.parent / "canary").write_bytes(b"canary")
    (outside / "canary").write_bytes(b"canary")
    (root / "file").write_bytes(b"file")
    (root / "link").symlink_to(root.parent / "canary")
    (root / "inside").symlink_to("file")
    (root / "linked").symlink_to(outside)
    (root / "dots").symlink_to("..")
    (root / "loop").symlink_to("loop")
    return outside


def tree(folder: Path) -> list[tuple[str, bytes]]:
    """Return what is outside."""
    files = [folder / "canary", *sorted((folder / "outside").rglob("*"))]
    return [(str(file), file.read_bytes()) for file in files]


@pytest.mark.parametrize("key", HOSTILE)
async def test_what_is_no_name_is_refused(store: FolderStore, canary: Path, key: bytes) -> None:
    before = tree(canary.parent)
    for operation in (
        store.get(key),
        store.head(key),
        store.set(key, new_record(b"evil", VERSION)),
        store.set(key, GONE),
        store.set_newest(key, new_record(b"evil", VERSION)),
        store.delete(key),
    ):
        with pytest.raises(BadPath):
            await operation
    assert await store.children(key + b"/", b"", 9) == []
    assert tree(canary.parent) == before
    assert names_in(canary.parent) == ["canary", "files", "outside"]


@pytest.mark.parametrize("key", LINKED)
async def test_links_are_not_followed(store: FolderStore, canary: Path, key: bytes) -> None:
    before = tree(canary.parent)
    assert await store.get(key) is None
    assert await store.head(key) is None
    with pytest.raises(PathTaken):
        await store.set(key, new_record(b"evil", VERSION))
    assert await store.delete(key) is False
    await store.set(key, GONE)
    assert await store.delete(key) is True
    assert await store.children(key + b"/", b"", 9) == []
    assert [child.name for child in await store.children(b"", b"", 9)] == [b"file"]
    assert set(await listed(store)) == {b"file"}
    assert tree(canary.parent) == before
    assert (Path(store.address[7:]) / "link").is_symlink()


@pytest.mark.parametrize("key", ODD)
async def test_odd_names_are_names(store: FolderStore, root: Path, key: bytes) -> None:
    await store.set(b"d/" + key, new_record(b"body", VERSION))
    assert (root / "d" / os.fsdecode(key)).read_bytes() == b"body"
    assert await body_at(store, b"d/" + key) == b"body"
    assert [child.name for child in await store.children(b"d/", b"", 9)][-1] in key + b"/"
    assert set(await listed(store)) == {b"d/" + key}


async def test_a_folder_swapped_for_a_link_on_the_way(
    store: FolderStore, root: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, root)

    def swap() -> None:
        calls.before.clear()
        (root / "a" / "b").rename(root / "a" / "away")
        (root / "a" / "b").symlink_to(canary)

    calls.before["rename"] = swap
    await store.set(KEY, new_record(b"body", VERSION))
    assert (root / "a" / "away" / "file.txt").read_bytes() == b"body"
    assert names_in(canary) == ["canary"]


async def test_what_is_no_file_is_not_there(store: FolderStore, root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)  # an address of a socket is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        for key in (b"fifo", b"folder", b"socket"):
            assert await store.get(key) is None
            assert await store.delete(key) is False
            with pytest.raises(PathTaken, match="a folder has" if key == b"folder" else "no file"):
                await store.set(key, new_record(b"x", VERSION))
    assert [child.name for child in await store.children(b"", b"", 9)] == [b"folder/"]
    assert names_in(root) == [".sfss", "fifo", "folder", "socket"]


async def test_a_file_in_the_place_of_a_folder(store: FolderStore) -> None:
    await store.set(b"file", new_record(b"body", VERSION))
    with pytest.raises(PathTaken, match="cannot keep file/below/it: what is no folder"):
        await store.set(b"file/below/it", new_record(b"x", VERSION))
    assert await store.get(b"file/below/it") is None
    assert await store.delete(b"file/below/it") is False
    await store.set(b"file/below/it", GONE)
    assert await store.get(b"file/below/it") == GONE
    assert await body_at(store, b"file") == b"body"


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.EXDEV, "another file system is mounted"), (errno.EISDIR, "a folder has that name")],
)
async def test_what_comes_into_the_way_at_the_last_moment(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    calls = Calls(monkeypatch, root)
    calls.before["rename"] = failing(number)
    with pytest.raises(PathTaken, match=why):
        await store.set(KEY, new_record(b"body", VERSION))
    assert temporaries(root) == []


# Other programs


async def test_a_file_of_another_program_is_served(store: FolderStore, root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "theirs").write_bytes(b"body")
    os.utime(root / "a" / "theirs", ns=(0, 1_600_000_000_999_999_999))
    record = await store.get(b"a/theirs")
    assert record is not None
    assert (record.head.version, bytes(held(record.body))) == (1_600_000_000_000_000, b"body")
    assert is_raw(record.head)
    assert await store.head(b"a/theirs") == record.head
    (child,) = await store.children(b"a/", b"", 9)
    assert child.head == record.head
    assert await listed(store) == {b"a/theirs": unique_of(record.head)}
    assert await store.delete(b"a/theirs")
    assert names_in(root) == [".sfss"]


@pytest.mark.parametrize("size", [10, SMALL_SIZE, SMALL_SIZE + 1])
async def test_a_file_changed_in_place_is_another_programs(
    store: FolderStore, root: Path, size: int
) -> None:
    await store.set(b"file", new_record(bytes(size), VERSION, {"a": "b"}))
    with (root / "file").open("r+b") as file:
        file.write(b"theirs")
    os.utime(root / "file", (1_800_000_000, 1_800_000_000))
    record = await store.get(b"file")
    assert record is not None
    assert bytes(held(record.body))[:7] == b"theirs\0"
    assert (record.head.version, record.head.metadata) == (1_800_000_000_000_000, {})
    assert is_raw(record.head)
    await store.set(b"file", new_record(b"ours", VERSION))
    assert await body_at(store, b"file") == b"ours"


async def test_a_change_within_the_second_of_our_own_write_is_newer_than_that(
    store: FolderStore, root: Path
) -> None:
    written = new_record(b"ours", 1_700_000_000_300_000)
    await store.set(b"file", written)
    with (root / "file").open("ab") as file:
        file.write(b" and more")
    os.utime(root / "file", ns=(0, 1_700_000_000_700_000_000))
    head = await store.head(b"file")
    assert head is not None and head.version == 1_700_000_000_700_000
    record = await store.get(b"file")
    assert record is not None and (record.head, held(record.body)) == (head, b"ours and more")
    assert await store.set_newest(b"file", written) == head


async def test_a_file_replaced_by_another_program(store: FolderStore, root: Path) -> None:
    await store.set(b"file", new_record(b"ours", VERSION))
    (root / "theirs").write_bytes(b"them")
    (root / "theirs").replace(root / "file")
    assert await body_at(store, b"file") == b"them"
    head = await store.head(b"file")
    assert head is not None
    assert is_raw(head)


async def test_a_raw_file_is_the_same_in_another_folder(
    store: FolderStore, root: Path, tmp_path: Path
) -> None:
    (root / "file").write_bytes(b"body")
    record = await store.get(b"file")
    assert record is not None
    other = opened(tmp_path / "other", DictStore())
    assert await other.set_newest(b"file", record) is None
    assert await other.get(b"file") == record
    expiring = Record(record.head._replace(expiry=7, metadata={"a": "b"}), record.body)
    await other.set(b"file", expiring)
    assert await other.get(b"file") == expiring
    await other.close()


async def test_damage_is_found_in_large_files_too(store: FolderStore, root: Path) -> None:
    await store.set(b"file", new_record(bytes(SMALL_SIZE + 1), VERSION))
    with (root / "file").open("r+b") as file:
        file.write(b"\1")
    os.utime(root / "file", ns=(0, VERSION * 1000))
    with pytest.raises(Corrupt):
        await store.get(b"file")


@pytest.mark.parametrize("size", [10, SMALL_SIZE + 1])
async def test_a_file_cut_while_it_is_read(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    await store.set(b"file", new_record(b"x" * size, VERSION))
    pread, left = os.pread, 2

    def cut(descriptor: int, count: int, start: int) -> bytes:
        nonlocal left
        if left:
            left -= 1
            os.truncate(root / "file", left + 1)
        return pread(descriptor, count, start)

    monkeypatch.setattr(os, "pread", cut)
    assert await body_at(store, b"file") == b"x"


async def test_a_file_that_keeps_changing(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"x" * 100)
    pread, sizes = os.pread, iter(range(99, 0, -1))

    def cut(descriptor: int, count: int, start: int) -> bytes:
        os.truncate(root / "file", next(sizes))
        return pread(descriptor, count, start)

    monkeypatch.setattr(os, "pread", cut)
    with pytest.raises(Unsettled, match="keeps changing file"):
        await store.get(b"file")


@pytest.mark.parametrize("is_theirs", [True, False])
async def test_a_large_file_changed_while_it_is_sent(
    store: FolderStore, root: Path, is_theirs: bool
) -> None:
    if is_theirs:
        (root / "file").write_bytes(bytes(SMALL_SIZE + 1))
        os.utime(root / "file", (1, 1))
    else:
        await store.set(b"file", new_record(bytes(SMALL_SIZE + 1), VERSION))
    record = await store.get(b"file")
    assert record is not None
    assert not isinstance(record.body, bytes)
    await store.set(b"file", new_record(b"another file", VERSION))
    assert len(held(record.body)) == SMALL_SIZE + 1
    record = await store.get(b"file")
    await store.set(b"file", new_record(bytes(SMALL_SIZE + 1), VERSION))
    record = await store.get(b"file")
    assert record is not None
    with (root / "file").open("r+b") as file:
        file.write(b"theirs")
    with pytest.raises(OSError, match="changed while it was read"):
        held(record.body)


async def test_what_another_program_writes_is_seen_by_a_condition(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, root)
    calls.before["fsync temporary"] = lambda: (root / "file").write_bytes(b"theirs")
    with pytest.raises(PreconditionFailed):
        await store.set(b"file", new_record(b"ours", VERSION), absent)
    newer = await store.set_newest(b"file", new_record(b"ours", VERSION))
    assert newer is not None
    assert await body_at(store, b"file") == b"theirs"
    assert temporaries(root) == []


async def test_names_that_cannot_be_asked_for_are_not_listed(
    store: FolderStore, root: Path
) -> None:
    await store.set(b"d/good", new_record(b"", VERSION))
    for name in (b"\xff", b"a\nb", b"back\\slash", b".dot"):
        (root / "d" / os.fsdecode(name)).write_bytes(b"x")
        (root / os.fsdecode(name + b"d")).mkdir()
    assert [child.name for child in await store.children(b"", b"", 9)] == [b"d/"]
    assert [child.name for child in await store.children(b"d/", b"", 9)] == [b"good"]
    assert set(await listed(store)) == {b"d/good"}
    assert await store.delete(b"d/good")
    assert (root / "d").exists()


async def test_a_large_folder_is_read_once_and_by_threads(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [b"%05d" % number for number in range(2500)]
    (root / "d").mkdir()
    for name in names:
        (root / "d" / name.decode()).touch()
    os.utime(root / "d", (1, 1))
    scandir, by = os.scandir, []

    def seen(folder: int) -> object:
        by.append(threading.current_thread())
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", seen)
    found = [entry.key for entry in await store.scan(b"d/", b"", 5000)]
    assert found == [b"d/" + name for name in names]
    assert len(by) == 1
    assert by[0] is not threading.main_thread()
    (root / "d" / "new").touch()
    assert (await store.children(b"d/", b"02499", 9))[0].name == b"new"


async def test_what_lies_in_a_folder_of_the_file_system(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.set(b"file", new_record(b"", VERSION))
    await store.set(b"closed/x", new_record(b"", VERSION))
    (root / "lost+found").mkdir()
    system_open, closed = os.open, {b"lost+found"}

    def forbid(path: object, *arguments: object, **named: object) -> object:
        if path in closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return system_open(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", forbid)
    assert set(await listed(store)) == {b"file", b"closed/x"}
    closed.add(b"closed")
    with pytest.raises(Unreachable, match="Permission denied"):
        await listed(store)
    with pytest.raises(Unreachable):
        await store.get(b"closed/x")
    closed.add(b"file")
    assert (await store.children(b"", b"", 9))[1].name == b"file"


# Deletions, and what is marked


async def test_a_deletion_is_remembered_until_there_is_a_file(
    store: FolderStore, root: Path, marks: DictStore
) -> None:
    await store.set(b"file", new_record(b"body", VERSION))
    assert await store.set_newest(b"file", GONE) is None
    assert await store.get(b"file") == GONE
    assert await store.head(b"file") == GONE.head
    assert not (root / "file").exists()
    assert await listed(store) == {b"file": unique_of(GONE.head)}
    assert await store.children(b"", b"", 9) == []
    assert await store.set_newest(b"file", new_record(b"old", VERSION)) == GONE.head
    assert await store.set_newest(b"file", new_record(b"new", VERSION + 10)) is None
    assert await body_at(store, b"file") == b"new"
    assert marks.values == {}
    assert await store.set_newest(b"file", GONE) == new_record(b"new", VERSION + 10).head
    assert await body_at(store, b"file") == b"new"


async def test_a_file_counts_more_than_the_memory_of_its_deletion(
    store: FolderStore, root: Path, marks: DictStore
) -> None:
    await store.set(b"file", GONE)
    (root / "file").write_bytes(b"theirs")
    assert await body_at(store, b"file") == b"theirs"
    assert len(await listed(store)) == 1
    assert await store.delete(b"file")
    assert marks.values == {}
    assert await store.get(b"file") is None
    await store.set(b"file", GONE)
    assert await store.delete(b"file") is True
    assert await store.delete(b"file") is False


async def test_a_file_system_without_attributes(
    store: FolderStore, root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> bytes:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    record = new_record(b"body", VERSION, {"a": "b"})
    await store.set(b"file", record)
    assert await store.get(b"file") == record
    assert (await store.children(b"", b"", 1))[0].head == record.head
    assert await listed(store) == {b"file": unique_of(record.head)}
    (root / "file").write_bytes(b"them")
    head = await store.head(b"file")
    assert head is not None
    assert is_raw(head)
    await store.set(b"file", record)
    with (root / "file").open("r+b") as file:
        file.write(b"B")
    os.utime(root / "file", ns=(0, VERSION * 1000))
    with pytest.raises(Corrupt):
        await store.get(b"file")
    await store.set(b"file", GONE)
    assert await store.get(b"file") == GONE


async def test_metadata_too_long_for_an_attribute(store: FolderStore, marks: DictStore) -> None:
    record = new_record(b"body", VERSION, {"a": "b" * 60_000})
    await store.set(b"file", record)
    assert await store.get(b"file") == record
    await store.set(b"file", new_record(b"body", VERSION))
    assert await store.get(b"file") == new_record(b"body", VERSION)
    assert marks.values == {}


@pytest.mark.parametrize("precision_us", [10_000, 1_000_000, 2_000_000])
async def test_a_file_system_with_coarse_times(
    root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch, precision_us: int
) -> None:
    utime, step = os.utime, precision_us * 1000

    def coarse(path: int, *, ns: tuple[int, int]) -> None:
        utime(path, ns=(ns[0] // step * step, ns[1] // step * step))

    monkeypatch.setattr(os, "utime", coarse)
    store, record = opened(root, marks), new_record(b"body", VERSION, {"a": "b"})
    await store.set(b"file", record)
    assert await store.get(b"file") == record
    utime(root / "file", ns=(0, VERSION * 1000 + step))
    head = await store.head(b"file")
    assert head is not None
    assert is_raw(head)
    await store.close()


async def test_without_its_marks_a_store_cannot_tell(store: FolderStore, marks: DictStore) -> None:
    await store.set(b"file", new_record(b"body", VERSION))
    marks.closed = True
    assert await body_at(store, b"file") == b"body"
    for operation in (store.get(b"none"), store.head(b"none"), listed(store)):
        with pytest.raises(Unreachable, match="its marks") as caught:
            await operation
        assert (caught.value.store, caught.value.applied) == (store.address, False)
    with pytest.raises(Unreachable, match="its marks") as caught:
        await store.set(b"file", GONE)
    assert caught.value.applied is None


# Several at once


async def test_processes_that_write_the_same_file(store: FolderStore, root: Path) -> None:
    code = """
async def write():
    body = sys.argv[2].encode() * 100_000
    for number in range(40):
        await store.set(b"d/file", new_record(body, 1_700_000_000_000_000 + number))
        record = await store.get(b"d/file")
        assert record and len(set(bytes(record.body))) == 1, record
asyncio.run(write())
print("done")
"""
    processes = [run(code, root, letter) for letter in "abc"]
    assert [said(process) for process in processes] == ["done"] * 3
    assert len(set(await body_at(store, b"d/file") or b"")) == 1
    assert temporaries(root) == []


async def test_the_newest_of_several_processes_stays(store: FolderStore, root: Path) -> None:
    code = """
async def write():
    for number in range(int(sys.argv[2]), 90, 3):
        await store.set_newest(b"file", new_record(b"%d" % number, 1_700_000_000_000_000 + number))
asyncio.run(write())
"""
    processes = [run(code, root, str(number)) for number in range(3)]
    assert [said(process) for process in processes] == [""] * 3
    assert await body_at(store, b"file") == b"89"


async def test_one_of_many_creators_wins(root: Path, store: FolderStore) -> None:
    code = """
def absent(head):
    if head is not None:
        raise PreconditionFailed("If-None-Match")
async def create(key):
    try:
        await store.set(key, new_record(sys.argv[2].encode(), 1_700_000_000_000_000), absent)
        return key.decode()
    except PreconditionFailed:
        return ""
async def main():
    print(*await asyncio.gather(*(create(b"%d" % n) for n in range(60) for _ in range(2))))
asyncio.run(main())
"""
    processes = [run(code, root, letter) for letter in "abc"]
    won = [name for process in processes for name in said(process).split()]
    assert sorted(won, key=int) == [str(number) for number in range(60)]


async def test_a_change_given_up_never_comes_after_a_newer_one(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, may_go_on, is_there = Calls(monkeypatch, root), threading.Event(), threading.Event()

    def wait() -> None:
        calls.before.clear()
        is_there.set()
        may_go_on.wait(DEADLINE_S)

    calls.before["rename"] = wait
    first = asyncio.ensure_future(store.set(b"file", new_record(b"first", VERSION)))
    await asyncio.to_thread(is_there.wait, DEADLINE_S)
    first.cancel()
    waiting = asyncio.ensure_future(store.set(b"file", new_record(b"given up", VERSION + 1)))
    second = asyncio.ensure_future(store.set(b"file", new_record(b"second", VERSION + 2)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(first, waiting, return_exceptions=True)
    for number in range(5):
        await store.set(b"other-%d" % number, new_record(b"x", VERSION))
    assert not second.done()
    may_go_on.set()
    await second
    assert await body_at(store, b"file") == b"second"
    assert calls.done.count("rename") == 7


async def test_two_gateways_do_not_come_between(
    store: FolderStore, root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened(root, marks, make=False)
    calls, may_go_on, is_there = Calls(monkeypatch, root), threading.Event(), threading.Event()

    def wait() -> None:
        calls.before.clear()
        is_there.set()
        may_go_on.wait(DEADLINE_S)

    calls.before["rename"] = wait
    older = asyncio.ensure_future(store.set_newest(b"file", new_record(b"1", VERSION)))
    await asyncio.to_thread(is_there.wait, DEADLINE_S)
    newer = asyncio.ensure_future(other.set_newest(b"file", new_record(b"2", VERSION + 1)))
    for number in range(5):
        await other.set(b"other-%d" % number, new_record(b"x", VERSION))
    assert not newer.done()
    may_go_on.set()
    assert await asyncio.gather(older, newer) == [None, None]
    assert await body_at(store, b"file") == b"2"
    await other.close()


async def test_a_disk_that_does_not_answer(
    root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"file://{root}"
    store = FolderStore(address, root, Marks(marks, address), timeout_s=0.2)
    calls, may_go_on = Calls(monkeypatch, root), threading.Event()
    calls.before["rename"] = lambda: may_go_on.wait(DEADLINE_S)
    try:
        first = asyncio.ensure_future(store.set(b"file", new_record(b"1", VERSION)))
        second = asyncio.ensure_future(store.set(b"file", new_record(b"2", VERSION)))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        found = [each.applied for each in outcomes if isinstance(each, Unreachable)]
        assert found == [None, False]
    finally:
        may_go_on.set()
    await store.close()
    assert (root / "file").read_bytes() == b"1"


async def test_what_was_begun_is_finished_at_the_end(root: Path, marks: DictStore) -> None:
    store = opened(root, marks)
    tasks = [
        asyncio.ensure_future(store.set(b"%d" % number, new_record(b"x", VERSION)))
        for number in range(20)
    ]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*tasks)
    assert len(names_in(root)) == 21


# A failing disk


async def test_no_room_for_a_file(store: FolderStore, root: Path) -> None:
    await store.set(b"file", new_record(b"old", VERSION))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for size in (100_001, 3_000_000):
    try:
        asyncio.run(store.set(b"file", new_record(bytes(size), 1_700_000_000_123_457)))
    except StoreFull as error:
        print(error)
"""
    lines = said(run(code, root)).splitlines()
    assert lines == ["store file://x is full: File too large; nothing was stored"] * 2
    assert await body_at(store, b"file") == b"old"
    assert temporaries(root) == []


@pytest.mark.parametrize("step", ["write", "fsync temporary", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_the_old_file_stays_where_the_new_one_cannot_be(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    old = new_record(b"old", VERSION)
    await store.set(b"file", old)
    calls = Calls(monkeypatch, root)
    calls.before[step] = failing(number)
    kind = StoreFull if number in (errno.ENOSPC, errno.EDQUOT) else Unreachable
    with pytest.raises(kind, match=os.strerror(number)) as caught:
        await store.set(b"file", new_record(b"new", VERSION + 1))
    assert getattr(caught.value, "applied", False) is False
    assert await store.get(b"file") == old
    assert temporaries(root) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_what_may_not_last_is_not_acknowledged(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    calls = Calls(monkeypatch, root)
    calls.before["fsync /a/b"] = failing(number)
    for change in (store.set(KEY, new_record(b"new", VERSION)), store.delete(KEY)):
        with pytest.raises(Unreachable, match=os.strerror(number)) as caught:
            await change
        assert caught.value.applied is None


async def test_a_body_that_cannot_be_read(store: FolderStore, root: Path) -> None:
    class Broken:
        def __len__(self) -> int:
            return 10

        def read(self, start: int, size: int) -> bytes:
            raise OSError(errno.ENOSPC, "of another disk")

    with pytest.raises(Unreachable, match="the body that it was to keep") as caught:
        await store.set(b"file", new_record(Broken(), VERSION, digest=bytes(16)))
    assert caught.value.applied is False
    assert temporaries(root) == []


async def test_a_disk_that_cannot_be_read(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.set(b"file", new_record(b"body", VERSION))
    for name in ("pread", "getxattr"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: failing(errno.EIO)())
            with pytest.raises(Unreachable, match="Input/output error"):
                await store.get(b"file")
    assert await body_at(store, b"file") == b"body"


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_folder_that_is_not_in_its_place(
    store: FolderStore, root: Path, is_replaced: bool
) -> None:
    await store.set(b"file", new_record(b"body", VERSION))
    move(root, "away")
    if is_replaced:
        make(root)
    for operation in (
        store.get(b"file"),
        store.get(b"none"),
        store.head(b"file"),
        store.set(b"file", new_record(b"new", VERSION)),
        store.delete(b"file"),
        store.children(b"", b"", 9),
        store.scan(b"", b"", 9),
        listed(store),
        store.stats(),
    ):
        with pytest.raises(Unreachable, match="moved, unmounted or replaced") as caught:
            await operation
        assert caught.value.applied is False
    if is_replaced:
        assert names_in(root) == []
        remove(root)
    move(root.with_name("away"), root.name)
    assert await body_at(store, b"file") == b"body"


async def test_a_folder_that_may_not_be_written(
    root: Path, marks: DictStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(root)
    (root / "file").write_bytes(b"theirs")
    calls = Calls(monkeypatch, root)
    calls.before["mkdir"] = failing(errno.EROFS)
    store = opened(root, marks)
    assert "can only be read until" in caplog.text
    assert await body_at(store, b"file") == b"theirs"
    assert (await store.children(b"", b"", 9))[0].name == b"file"
    for change in (store.set(b"file", new_record(b"x", VERSION)), store.delete(b"file")):
        with pytest.raises(Unreachable, match="Read-only file system") as caught:
            await change
        assert caught.value.applied is False
    calls.before.clear()
    other = opened(root, marks)
    written = (store.set(b"file", new_record(b"new", VERSION + each)) for each in range(9))
    await asyncio.gather(*written)
    assert await body_at(other, b"file") == await body_at(store, b"file") == b"new"
    async with other._locks.of(b"file"):
        assert store._locks.is_held(b"file")  # by what is another process to it
    await other.close()
    await store.close()


async def test_opening(root: Path, marks: DictStore) -> None:
    (root.parent / "plain").touch()
    with pytest.raises(SettingError, match="Not a directory"):
        opened(root.parent / "plain", marks)
    with pytest.raises(SettingError, match="null"):
        opened(Path("/tmp/nul\0"), marks)
    with pytest.raises(SettingError, match="No such file"):
        opened(root, marks, make=False)
    make(root)
    with pytest.raises(SettingError, match="No such file"):
        opened(root, marks, make=False)  # its disk may not be mounted
    await opened(root, marks).close()
    await opened(root, marks, make=False).close()
    link = root.with_name("link")
    link.symlink_to(root)
    store = opened(link, marks)
    await store.set(b"file", new_record(b"x", VERSION))
    assert (root / "file").read_bytes() == b"x"
    await store.close()


async def test_stats_tell_the_room(store: FolderStore) -> None:
    stats = await store.stats()
    assert set(stats) == {"version", "bytes", "avail_space", "total_space"}
    assert 0 < int(stats["avail_space"]) <= int(stats["total_space"])
