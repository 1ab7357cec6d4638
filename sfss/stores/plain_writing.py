"""Ordinary files written and removed so that it lasts: whole or not at all.

A file is written under a temporary name in ``.sfss/tmp``, with what it carries and its time,
brought to the disk (fsync) and renamed over its name. Then the folders are brought to the disk: the
one that it is in, and those above it whose entries may be new. Several processes may do that at
once, and other programs in between. All of it may wait for a disk.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from secrets import token_hex
from threading import Lock
from time import time_ns
from typing import Final

from sfss.errors import PathTaken, Unreachable
from sfss.record import Body, Buffer, Head, encode_head, pieces_of
from sfss.stores.plain_folder import (
    ATTRIBUTE,
    OWN_FOLDER,
    SETTLED_NS,
    Names,
    PlainFolder,
    Stamp,
    stamp_of,
)
from sfss.stores.plain_heads import SECOND_US, raw_file_head

LEFT_OVER_NS: Final = 3600 * 1_000_000_000
"""A temporary file that nobody has touched for so long is that of a dead process."""

_TEMPORARY: Final = b"tmp"
_LOCK: Final = b"lock"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS: Final = 100
_SETTLED_LIMIT: Final = 10_000
_PRECISIONS_US: Final = (1, 10_000, 1_000_000, 2_000_000)
_PROBE_US: Final = 1_700_000_001_234_567
# An attribute may be too long for a file system that has room (ext4: ENOSPC).
_NOT_CARRIED: Final = frozenset(
    {errno.ENOTSUP, errno.EPERM, errno.E2BIG, errno.ENOSPC, errno.EDQUOT, errno.ERANGE}
)
_NO_FOLDER: Final = "what is no folder has the name of one"
_IS_FOLDER: Final = "a folder has that name"
_BARRED: Final = {
    errno.ENOTDIR: _NO_FOLDER,
    errno.ELOOP: _NO_FOLDER,
    errno.EISDIR: _IS_FOLDER,
    errno.ENOTEMPTY: _IS_FOLDER,
    errno.EXDEV: "another file system is mounted on the way",
}


ANY: Final = Stamp(-1, -1, -1)
"""Stands for whatever is there, nothing included."""


class Stale(Exception):
    """Raised when a file is not what it was when it was looked at; nothing was changed."""


class _NoFile(Exception):
    """Raised when what has the name of a file is none."""


class PlainWriting:
    """Changes files in ``folder``, once it was opened: without its lock file that is not safe.

    ``lock_file`` is a descriptor for locks between processes; ``precision_us`` how exactly the file
    system keeps the times of files.
    """

    def __init__(self, folder: PlainFolder) -> None:
        self._folder = folder
        self._settled: dict[tuple[int, int], int] = {}
        self.lock_file: int | None = None
        self.precision_us = 1
        self._opening = Lock()

    def open(self, use: Callable[[int], None]) -> None:
        """Make ready for changes what is not so yet; ``use`` gets the lock file before anybody may
        change a file. Raises ``Unreachable`` where the folder cannot be written.
        """
        with self._opening:
            if self.lock_file is not None:
                return
            self._folder.root()
            try:
                with self._own() as own, self._temporaries() as temporaries:
                    _clean(temporaries)
                    self.precision_us = _precision(temporaries)
                    lock_file = os.open(_LOCK, _LOCK_FILE, 0o666, dir_fd=own)
            except OSError as error:
                reason = f"it cannot be written ({error.strerror})"
                raise Unreachable(self._folder.address, reason, applied=False) from error
            use(lock_file)
            self.lock_file = lock_file

    def close(self) -> None:
        """Let go of the lock file."""
        lock_file, self.lock_file = self.lock_file, None
        if lock_file is not None:
            os.close(lock_file)

    def write(self, names: Names, head: Head, body: Body, expected: Stamp | None) -> bool:
        """Keep ``body`` under ``names``, with the time of the head's version and with the head if
        it can be carried; return whether it is.

        Raises ``Stale`` unless the file there is as ``expected`` (None: there is none);
        ``PathTaken``, ``StoreFull``, ``Unreachable``.
        """
        self._check_may_write()
        with self._folder.border(), self._temporaries() as temporaries:
            temporary = token_hex(16).encode()
            try:
                is_carried = self._fill(temporaries, temporary, head, body)
                with ExitStack() as opened:
                    path = self._rename(temporaries, temporary, names, expected, opened)
                    self._sync(path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=temporaries)
                raise
        self._folder.root(applied=None)
        return is_carried

    def remove(self, names: Names, expected: Stamp | None) -> bool:
        """Remove a file, and the folders on the way that are empty then; return whether it was
        there. When this returns, its absence lasts. Raises ``Stale``, ``Unreachable``.
        """
        self._check_may_write()
        with ExitStack() as opened:
            with self._folder.border():
                path = self._opened(names[:-1], opened)
                is_removed = len(path) == len(names) and _unlink(path[-1], names[-1], expected)
            with self._folder.border(applied=None):
                # Who has removed it before may have died before that was on the disk.
                self._sync(path) if is_removed else self._settle(path[-1])
            if is_removed:
                _prune(path, names)
        self._folder.root(applied=None)
        return is_removed

    def _check_may_write(self) -> None:
        self._folder.root()
        if self.lock_file is None:
            raise Unreachable(self._folder.address, "it is closed", applied=False)

    def _fill(self, temporaries: int, temporary: bytes, head: Head, body: Body) -> bool:
        descriptor = os.open(temporary, _NEW, 0o666, dir_fd=temporaries)
        try:
            for piece in self._pieces(body):
                _write(descriptor, piece)
            is_carried = _carry(descriptor, head)
            time_of_change_ns = head.version * 1000
            os.utime(descriptor, ns=(time_of_change_ns, time_of_change_ns))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return is_carried

    def _pieces(self, body: Body) -> Iterator[Buffer]:
        try:
            yield from pieces_of(body)
        except OSError as error:
            reason = f"the body that it was to keep cannot be read: {error}"
            raise Unreachable(self._folder.address, reason, applied=False) from error

    def _rename(
        self,
        temporaries: int,
        temporary: bytes,
        names: Names,
        expected: Stamp | None,
        opened: ExitStack,
    ) -> list[int]:
        """Return the folders on the way, from the root on, that have been ``opened``."""
        for _ in range(_ATTEMPTS):
            try:
                path = self._made(names[:-1], opened)
                _check(path[-1], names[-1], expected)
                os.rename(temporary, names[-1], src_dir_fd=temporaries, dst_dir_fd=path[-1])
                return path
            except FileNotFoundError:
                opened.close()  # a folder was empty and has been removed: made again
            except OSError as error:
                if error.errno not in _BARRED:
                    raise
                raise self._taken(names, _BARRED[error.errno]) from error
            except _NoFile as error:
                raise self._taken(names, str(error)) from error
        raise Unreachable(self._folder.address, "its folders keep vanishing", applied=False)

    def _taken(self, names: Names, reason: str) -> PathTaken:
        return PathTaken(self._folder.address, b"/".join(names).decode(), reason)

    def _made(self, names: Names, opened: ExitStack) -> list[int]:
        """Return descriptors of all folders on the way, made where they are missing."""
        path = [self._opened_in(self._folder.root(), b".", opened)]
        for name in names:
            with suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=path[-1])
            path.append(self._opened_in(path[-1], name, opened))
        return path

    def _opened(self, names: Names, opened: ExitStack) -> list[int]:
        """Return descriptors of the folders on the way as far as they are there."""
        path = [self._opened_in(self._folder.root(), b".", opened)]
        for name in names:
            try:
                path.append(self._opened_in(path[-1], name, opened))
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    break
                raise
        return path

    def _opened_in(self, folder: int, name: bytes, opened: ExitStack) -> int:
        descriptor = os.open(name, _FOLDER, dir_fd=folder)
        opened.callback(os.close, descriptor)
        return descriptor

    @contextmanager
    def _own(self) -> Iterator[int]:
        with ExitStack() as opened:
            yield self._made([OWN_FOLDER], opened)[-1]

    @contextmanager
    def _temporaries(self) -> Iterator[int]:
        with ExitStack() as opened:
            path = self._made([OWN_FOLDER, _TEMPORARY], opened)
            yield path[-1]

    def _sync(self, path: list[int]) -> None:
        """Bring to the disk that the last of ``path`` has changed, and that it is there."""
        with self._folder.border(applied=None):
            _sync_folder(path[-1])
            for folder in path[:-1]:
                self._settle(folder)

    def _settle(self, folder: int) -> None:
        """Bring ``folder`` to the disk unless it has not changed since that was done: who has made
        an entry in it may not have got to that.
        """
        now_ns, status = time_ns(), os.fstat(folder)
        place = status.st_dev, status.st_ino
        if self._settled.get(place) == status.st_mtime_ns:
            return
        _sync_folder(folder)
        if now_ns - status.st_mtime_ns > SETTLED_NS:
            if len(self._settled) >= _SETTLED_LIMIT:
                self._settled.clear()
            self._settled[place] = status.st_mtime_ns


def _check(folder: int, name: bytes, expected: Stamp | None) -> bool:
    """Return whether there is a file; raise ``Stale`` unless it is as ``expected``."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        found = None
    else:
        if not stat.S_ISREG(status.st_mode):
            is_folder = stat.S_ISDIR(status.st_mode)
            raise _NoFile(_IS_FOLDER if is_folder else "what has that name is no file")
        found = stamp_of(status)
    if expected is not ANY and found != expected:
        raise Stale
    return found is not None


def _unlink(folder: int, name: bytes, expected: Stamp | None) -> bool:
    try:
        if _check(folder, name, expected):
            os.unlink(name, dir_fd=folder)
            return True
    except (_NoFile, FileNotFoundError, IsADirectoryError):
        pass
    return False


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system has no such thing for folders
            raise


def _prune(path: Sequence[int], names: Names) -> None:
    """Remove the folders on the way that are empty."""
    with suppress(OSError):  # the first that is not ends it
        for depth in reversed(range(len(path) - 1)):
            os.rmdir(names[depth], dir_fd=path[depth])


def _write(descriptor: int, piece: Buffer) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _carry(descriptor: int, head: Head) -> bool:
    if head == raw_file_head(head.size, head.version // SECOND_US):
        return True  # all of it is told by the file
    try:
        os.setxattr(descriptor, ATTRIBUTE, encode_head(head))
    except OSError as error:
        if error.errno in _NOT_CARRIED:
            return False
        raise
    return True


def _precision(temporaries: int) -> int:
    """Return to how many microseconds the file system keeps the time of a file."""
    name = token_hex(16).encode()
    descriptor = os.open(name, _NEW, 0o666, dir_fd=temporaries)
    try:
        os.utime(descriptor, ns=(_PROBE_US * 1000, _PROBE_US * 1000))
        kept_us = os.fstat(descriptor).st_mtime_ns // 1000
    finally:
        os.close(descriptor)
        os.unlink(name, dir_fd=temporaries)
    exact = (each for each in _PRECISIONS_US if _PROBE_US // each * each == kept_us)
    return next(exact, _PRECISIONS_US[-1])


def _clean(temporaries: int) -> None:
    """Remove what dead processes have left behind."""
    oldest_ns = time_ns() - LEFT_OVER_NS
    with os.scandir(temporaries) as entries:
        for entry in entries:
            with suppress(OSError):
                # Its other times are set to that of the version while it is written.
                if entry.stat(follow_symlinks=False).st_ctime_ns < oldest_ns:
                    os.unlink(entry.name, dir_fd=temporaries)
