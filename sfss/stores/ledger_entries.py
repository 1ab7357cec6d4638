"""What the ledger of quotas notes of one file, as bytes; and who has the ledger open."""

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from secrets import randbits
from struct import Struct
from typing import Any, Final, NamedTuple

STALE_US: Final = 6 * 3_600_000_000
"""Microseconds after which a write that has not ended never will."""

GRACE_US: Final = 60_000_000
"""Microseconds after its beginning in which a write may come to pass though its process has died:
what was sent to a server is under way.
"""

_LOOK_EVERY_US: Final = 5_000_000
_BITS: Final = 62  # of an offset, which is positive
_FLOCK: Final = Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_WRITE: Final = Struct(">QQ")  # a process, and which of its writes
_ENTRY: Final = Struct("<QQQIBBQQQB")
_MOMENT: Final = Struct(">Q")


def now_us() -> int:
    """Return microseconds on a clock that all processes share, and nobody sets."""
    return time.monotonic_ns() // 1000


class Outcome(Enum):
    """What has come of a write."""

    KEPT = "kept"
    GONE = "gone"
    UNCHANGED = "unchanged"
    UNKNOWN = "unknown"


class Begun(NamedTuple):
    """A write that has begun; ``number`` is that of ``Writes``, 0 for one that is not noted, as a
    deletion where there is nothing.
    """

    path: bytes
    number: int = 0


class Came(NamedTuple):
    """A state of a file, and when it came to pass."""

    at_ns: int = 0
    size: int = 0
    expiry: int = 0
    is_file: bool = False


NEVER: Final = Came()


@dataclass(slots=True)
class File:
    """What is noted of one file: ``size`` counts; ``touched_us`` is when a write of it began or
    ended last, on a clock that all processes share and that begins anew with the machine. Of writes
    that overlap, ``last`` is the one that came last, as far as that is known.
    """

    size: int
    expiry: int = 0
    touched_us: int = 0
    writers: int = 0
    overlaps: bool = False
    is_told: bool = True
    last: Came = NEVER

    def pack(self) -> bytes:
        """Return it as bytes."""
        state = (self.size, self.expiry, self.touched_us, self.writers)
        return _ENTRY.pack(*state, self.overlaps, self.is_told, *self.last)

    @classmethod
    def unpack(cls, value: bytes) -> "File":
        """Return what ``pack`` has made."""
        size, expiry, touched_us, writers, *rest = _ENTRY.unpack(value)
        overlaps, is_told, at_ns, last_size, last_expiry, is_file = rest
        last = Came(at_ns, last_size, last_expiry, bool(is_file))
        return cls(size, expiry, touched_us, writers, bool(overlaps), bool(is_told), last)

    def has_writers(self, now: "Now") -> bool:
        """Tell whether it may be in the middle of being written."""
        is_ours = now.began_us <= self.touched_us <= now.us
        return self.writers > 0 and is_ours and now.us - self.touched_us < STALE_US

    def is_since(self, since_us: int, now: "Now") -> bool:
        """Tell whether it may have been written after ``since_us``."""
        return max(since_us, now.began_us) <= self.touched_us <= now.us


class Now(NamedTuple):
    """This moment, and when the first of those came who are there."""

    us: int
    began_us: int


class Presence:
    """That this process has the ledger in ``folder`` open, as long as it lives: a lock (flock(2)),
    and one on the byte of its ``number`` (fcntl(2), open file description locks).
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "open", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._descriptor, _MOMENT.pack(now_us()), 0)  # alone: nobody is in a write
        except BlockingIOError:
            pass
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self.number = randbits(_BITS)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _lock_of(self.number))
        (self.began_us,) = _MOMENT.unpack(os.pread(self._descriptor, _MOMENT.size, 0))

    def now(self) -> Now:
        """Return this moment."""
        return Now(now_us(), self.began_us)

    def has(self, number: int) -> bool:
        """Tell whether the process of this number lives."""
        if number == self.number:
            return True
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _lock_of(number))
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def _lock_of(number: int) -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)


class Writes:
    """The writes that have begun and not ended, in a ``database`` of their own, each under the
    number of its process: so those of the dead can be found.
    """

    def __init__(self, database: Any, presence: Presence) -> None:
        self._database, self._presence = database, presence
        self._count = self._look_us = 0

    def begin(self, transaction: Any, path: bytes) -> int:
        """Note one of this process; return what ``end`` is to be told."""
        self._count += 1
        key = _WRITE.pack(self._presence.number, self._count)
        transaction.put(key, _MOMENT.pack(now_us()) + path, db=self._database)
        return self._count

    def end(self, transaction: Any, count: int) -> None:
        """Forget one."""
        transaction.delete(_WRITE.pack(self._presence.number, count), db=self._database)

    def of_the_dead(self, transaction: Any) -> list[bytes]:
        """Forget those of processes that have died, and return the paths of those that counted up
        to now; nothing where it was looked for them a moment ago.
        """
        now = self._presence.now()
        if now.us < self._look_us:
            return []
        self._look_us = now.us + _LOOK_EVERY_US
        paths = []
        for key, begun_us, path in list(self._dead(transaction)):
            # Those from before anybody came who is there, or the machine was started, ended then.
            if now.began_us <= begun_us <= now.us:
                if now.us - begun_us < GRACE_US:
                    continue
                paths.append(path)
            transaction.delete(key, db=self._database)
        return paths

    def _dead(self, transaction: Any) -> Iterator[tuple[bytes, int, bytes]]:
        lives: dict[int, bool] = {}
        with transaction.cursor(db=self._database) as cursor:
            for key, value in cursor:
                number, _ = _WRITE.unpack(key)
                if number not in lives:
                    lives[number] = self._presence.has(number)
                if not lives[number]:
                    (begun_us,) = _MOMENT.unpack_from(value)
                    yield bytes(key), begun_us, bytes(value[_MOMENT.size :])
