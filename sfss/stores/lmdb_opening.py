"""LMDB in a folder, opened: the files made so that they last, what they hold found to be ours."""

import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Final, NamedTuple, TypeAlias

import lmdb

from sfss.errors import SettingError
from sfss.keys import KEY_LIMIT
from sfss.stores.lmdb_commits import LastCommit
from sfss.stores.write_lock import WriteLock

FORMAT: Final = b"sfss 1"
"""What the value of ``FORMAT_KEY`` says in a store that this module reads."""

FORMAT_KEY: Final = b"\xff" * (KEY_LIMIT + 1)
"""Longer than, and so never, the key of a file; it is the last of all in byte order."""

_READERS: Final = 1022  # workers, those of a reload, and tools
_ATTEMPTS: Final = 32
_LOCK_FILE_SIZE: Final = 65_536  # a table of that many readers
_ENGINE: Final = 0  # LMDB 0.9, whatever LMDB_DEFAULT_LIB_VERSION says

_log = logging.getLogger(__name__)

Identity: TypeAlias = tuple[tuple[int, int], ...]
"""Device and inode of each file."""


class Opened(NamedTuple):
    """An open environment; who closes it closes ``last_commit`` and ``write_lock`` behind it."""

    environment: lmdb.Environment
    identity: Identity
    last_commit: LastCommit
    write_lock: WriteLock


def open_environment(folder: Path, map_size: int, make: bool) -> Opened:
    """Open the store in ``folder``, made there if ``make``.

    Raises ``SettingError`` where there is none, or something else; OSError, ``lmdb.Error``.
    """
    for _ in range(_ATTEMPTS - 1):
        # Another process may make the map larger before the first look into it.
        with suppress(lmdb.MapResizedError):
            return _open(folder, map_size, make)
    return _open(folder, map_size, make)


def _open(folder: Path, map_size: int, make: bool) -> Opened:
    if not (folder / "data.mdb").exists():
        if not make:
            # An empty store made here now would say "no such file" of files that have moved.
            raise bad_folder(folder, "its files are gone")
        _make_data_file(folder, map_size)
    _make_lock_file(folder / "lock.mdb")
    with ExitStack() as stack:
        last_commit = LastCommit(folder / "lock.mdb")
        stack.callback(last_commit.close)
        environment = lmdb.open(
            str(folder),
            map_size=map_size,
            max_readers=_READERS,
            max_spare_txns=1,
            max_dbs=2,  # lmdb_expiries, lmdb_arrivals
            lib_version=_ENGINE,
        )
        stack.callback(environment.close)
        write_lock = WriteLock(folder / "data.mdb")
        stack.callback(write_lock.close)
        _fill_up(environment, folder / "data.mdb")
        environment.reader_check()
        _check_format(environment, write_lock, folder, make)
        last_commit.find(lambda: _last_number(environment))
        opened = Opened(environment, identity(folder), last_commit, write_lock)
        stack.pop_all()
        return opened


def _last_number(environment: lmdb.Environment) -> int:
    with environment.begin() as transaction:
        return transaction.id()


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, so that they outlive a power failure."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_lock_file(path: Path) -> None:
    """Write LMDB's lock file in full: it would leave holes, and a process that first touches one
    when the disk is full is killed (SIGBUS).
    """
    if path.exists():
        return
    # Linked under its name when it is whole, or another process could open it half written.
    with suppress(FileExistsError), NamedTemporaryFile(dir=path.parent) as zeros:
        zeros.write(bytes(_LOCK_FILE_SIZE))
        zeros.flush()
        Path(zeros.name).chmod(0o644)
        os.link(zeros.name, path)


def _make_data_file(folder: Path, map_size: int) -> None:
    """Make an empty store, under its name only when it has reached the disk: LMDB would not open
    what a power failure leaves of a file that it was making.
    """
    with suppress(FileExistsError), TemporaryDirectory(dir=folder) as scratch:
        with (
            lmdb.open(scratch, map_size=map_size, lock=False, lib_version=_ENGINE) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.put(FORMAT_KEY, FORMAT)
        os.link(Path(scratch, "data.mdb"), folder / "data.mdb")
    _sync_folder(folder)


def identity(folder: Path) -> Identity:
    """Return what tells the files in ``folder`` from others of the same names."""
    found = [(folder / name).stat() for name in ("data.mdb", "lock.mdb")]
    return tuple((status.st_dev, status.st_ino) for status in found)


def _fill_up(environment: lmdb.Environment, path: Path) -> None:
    """Give a data file that was cut short its length back, in zeros.

    To read a page beyond the end kills the process (SIGBUS). A page of zeros is found damaged, and
    what is whole is still served. A file may also lack pages at its end that were never used.
    """
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if (size := path.stat().st_size) < expected:
        _log.warning("%s has %d bytes, not %d: cut short, or unused there", path, size, expected)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), expected - 1, 1)  # unlike truncate, never shortens


def _check_format(
    environment: lmdb.Environment, write_lock: WriteLock, folder: Path, make: bool
) -> None:
    """Raise ``SettingError`` unless the environment is a store; if ``make``, an empty one becomes
    one.
    """
    try:
        with environment.begin() as transaction:
            if _is_store(transaction, folder):
                return
    except (lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
        # Damage where the format stands must not hide the files that are whole.
        _log.error("%s is damaged: %s", folder, error)
        return
    if not make:
        raise bad_folder(folder, "its files are gone")
    # Only now: a write transaction waits for those of other processes.
    with write_lock, environment.begin(write=True) as transaction:
        if not _is_store(transaction, folder):
            transaction.put(FORMAT_KEY, FORMAT)
    _sync_folder(folder)


def _is_store(transaction: "lmdb.Transaction[bytes]", folder: Path) -> bool:
    """Return False for an empty environment; raise ``SettingError`` for one that is not ours."""
    found = transaction.get(FORMAT_KEY)
    if found is None and not transaction.stat()["entries"]:
        return False
    if found != FORMAT:
        kind = "a database of another program" if found is None else f"the format {found!r}"
        raise bad_folder(folder, f"it holds {kind}, and this sfss reads {FORMAT!r}")
    return True


def bad_folder(folder: Path, reason: str) -> SettingError:
    """Return the error for a folder that cannot be opened; which setting names it, the wiring knows
    better.
    """
    allowed = "a folder that can be made and written, or one that holds a store, is expected"
    return SettingError("settings", "embedded.folder", f"is {str(folder)!r} ({reason})", allowed)
