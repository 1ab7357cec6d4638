"""Ordinary files below one folder, which no name leads out of: found, read and listed.

Every component of a name is opened relative to the descriptor of the folder before it, and none may
be a symbolic link: not even one that stays inside, for what is checked once may lead elsewhere a
moment later. What is neither a regular file nor a folder is not there. A name may not begin with a
dot: such files are other programs' own, and ours are in ``.sfss``. It is the system's calls that do
this, and not obstore, whose store of local files (0.12.1) does not fsync, follows links out of its
folder, and sets no times.

All of it may wait for a disk.
"""

import errno
import logging
import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time_ns
from typing import Final, NamedTuple, TypeAlias

from sfss.errors import BadPath, SettingError, StoreFull, Unreachable
from sfss.keys import is_file_path
from sfss.spool import FULL

OWN_FOLDER: Final = b".sfss"
ATTRIBUTE: Final = "user.sfss"
"""The extended attribute that carries the head of a file."""

SETTLED_NS: Final = 3_000_000_000
"""After this time a change of a folder has another time of change: some file systems keep times to
two seconds.
"""

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PASS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV})
_UNCARRIED: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES})
_RESCUED: Final = b"lost+found/"
_REMEMBERED_FOLDERS: Final = 2
_SMALL_FOLDER: Final = 1000

_log = logging.getLogger(__name__)

Names: TypeAlias = Sequence[bytes]
"""The components of a name."""


class Stamp(NamedTuple):
    """What tells one state of a file from another."""

    inode: int
    size: int
    mtime_ns: int


class Seen(NamedTuple):
    """A file without its body; ``carried`` is what its attribute holds."""

    stamp: Stamp
    carried: bytes | None


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file."""
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


class PlainFolder:
    """The folder at ``folder``, made if missing and ``make``, but not what it is in.

    Raises ``SettingError`` when it cannot be opened, or was not ours before where it is not to be
    made: its disk may not be there. Later, ``Unreachable`` when it was moved or replaced.
    """

    def __init__(self, address: str, folder: Path, make: bool) -> None:
        self.address, self._folder = address, folder
        self._listings = _Listings()
        self._root: int | None = None
        try:
            if make and _make_folder(folder):
                _log.warning("store %s is new and empty: its folder was made", address)
            self._root = os.open(folder, _LIST & ~os.O_NOFOLLOW)
            self._identity = _identity(os.fstat(self._root))
            if not make:
                os.stat(OWN_FOLDER, dir_fd=self._root, follow_symlinks=False)
        except (OSError, ValueError) as error:  # ValueError: no name of a file
            self.close()
            allowed = "a folder, or the name of one in a folder that is there, is expected"
            found = f"is {str(folder)!r} ({error})"
            raise SettingError("settings", "folder", found, allowed) from error

    def close(self) -> None:
        """Let go of the folder."""
        root, self._root = self._root, None
        if root is not None:
            os.close(root)

    @contextmanager
    def border(self, applied: bool | None = False) -> Iterator[None]:
        """Turn what the system says in the block into errors of ours; ``applied`` as in
        ``Unreachable``.
        """
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if error.errno == errno.ENAMETOOLONG:
                raise BadPath(f"{self.address} takes no such long name") from error
            if error.errno in FULL and applied is False:
                raise StoreFull(self.address, reason) from error
            raise Unreachable(self.address, reason, applied) from error

    def root(self, applied: bool | None = False) -> int:
        """Return the descriptor of the folder; raise ``Unreachable`` when it is closed, or not in
        its place.

        What another disk holds that was mounted there, or one that was not, says nothing of ours.
        """
        if self._root is None:
            raise Unreachable(self.address, "it is closed", applied=False)
        try:
            is_right = _identity(self._folder.stat()) == self._identity
        except OSError:
            is_right = False
        if not is_right:
            reason = "its folder was moved, unmounted or replaced while open; start sfss anew"
            raise Unreachable(self.address, reason, applied)
        return self._root

    def open_file(self, names: Names) -> tuple[int, Seen] | None:
        """Return a descriptor of a file, to be closed, and the file as it is; None if there is
        none.
        """
        with self.border():
            folder = self._open_folder(names[:-1], _PASS)
            if folder is None:
                return None
            try:
                return _open_in(folder, names[-1])
            finally:
                os.close(folder)

    def look(self, names: Names) -> Seen | None:
        """Return a file as it is; None if there is none."""
        opened = self.open_file(names)
        if opened is None:
            return None
        os.close(opened[0])
        return opened[1]

    def look_in(self, folder_names: Names, names: Names) -> list[Seen | None]:
        """Return the files called ``names`` in one folder as they are; one that may not be read
        without what it carries.
        """
        with self.border():
            folder = self._open_folder(folder_names, _PASS)
            if folder is None:
                return [None] * len(names)
            try:
                return [_seen_in(folder, name) for name in names]
            finally:
                os.close(folder)

    def listed(self, folder_names: Names, after: bytes = b"", limit: int | None = None) -> Names:
        """Return the names in a folder that are greater than ``after``, sorted; those of folders
        end with "/". A folder that is not there is empty.
        """
        with self.border():
            folder = self._open_folder(folder_names, _LIST)
            if folder is None:
                return []
            try:
                names = self._listings.of(folder)
            finally:
                os.close(folder)
        start = bisect_right(names, after)
        return names[start:] if limit is None else names[start : start + limit]

    def walk(self) -> Iterator[tuple[bytes, Names]]:
        """Yield every folder, as what its keys begin with, and the names of the files in it."""
        waiting = [b""]
        while waiting:
            prefix = waiting.pop()
            try:
                listed = self.listed(prefix.split(b"/")[:-1])
            except Unreachable as error:
                if prefix == _RESCUED and isinstance(error.__cause__, PermissionError):
                    continue  # of the file system itself, at the root of many
                raise
            waiting += [prefix + name for name in listed if name.endswith(b"/")]
            yield prefix, [name for name in listed if not name.endswith(b"/")]

    def room(self) -> dict[str, int]:
        """Return what ``stats`` says of the file system."""
        with self.border():
            space = os.fstatvfs(self.root())
        return {
            "bytes": (space.f_blocks - space.f_bfree) * space.f_frsize,
            "avail_space": space.f_bavail * space.f_frsize,
            "total_space": space.f_blocks * space.f_frsize,
        }

    def _open_folder(self, names: Names, flags: int) -> int | None:
        folder = os.open(".", flags, dir_fd=self.root())
        for name in names:
            try:
                inner = os.open(name, flags, dir_fd=folder)
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                raise
            finally:
                os.close(folder)
            folder = inner
        return folder


class _Listings:
    """Remembers the names in the last large folders, so that a page of them does not cost all."""

    def __init__(self) -> None:
        self._names: OrderedDict[tuple[int, int], tuple[int, list[bytes]]] = OrderedDict()

    def of(self, folder: int) -> list[bytes]:
        """Return the sorted names in the open ``folder``."""
        now_ns, status = time_ns(), os.fstat(folder)
        place, mtime_ns = _identity(status), status.st_mtime_ns
        known = self._names.get(place)
        if known is not None and known[0] == mtime_ns:
            return known[1]
        names = _names_in(folder)
        # One that was changed just now may change again without having another time of change.
        if len(names) > _SMALL_FOLDER and now_ns - mtime_ns > SETTLED_NS:
            self._names[place] = mtime_ns, names
            if len(self._names) > _REMEMBERED_FOLDERS:
                self._names.popitem(last=False)
        return names


def _names_in(folder: int) -> list[bytes]:
    found: list[bytes] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if not is_file_path(name):
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append(name + b"/")
            elif entry.is_file(follow_symlinks=False):
                found.append(name)
    found.sort()
    return found


def _open_in(folder: int, name: bytes) -> tuple[int, Seen] | None:
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return descriptor, Seen(stamp_of(status), _carried(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _seen_in(folder: int, name: bytes) -> Seen | None:
    try:
        opened = _open_in(folder, name)
    except PermissionError:
        return Seen(stamp_of(os.stat(name, dir_fd=folder, follow_symlinks=False)), None)
    if opened is None:
        return None
    os.close(opened[0])
    return opened[1]


def _carried(descriptor: int) -> bytes | None:
    try:
        return os.getxattr(descriptor, ATTRIBUTE)
    except OSError as error:
        if error.errno in _UNCARRIED:
            return None
        raise


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _make_folder(folder: Path) -> bool:
    """Make ``folder``, so that it outlives a power failure; return False if it is there already.
    What it is to be in has to be there: it may be a disk that is not mounted.
    """
    if folder.exists():  # mkdir would say of a disk that can only be read that it is one
        return False
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True
