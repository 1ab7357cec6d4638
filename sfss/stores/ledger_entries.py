"""What the ledger of quotas notes of one file, as bytes; and who has the ledger open."""

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

STALE_US: Final = 6 * 3_600_000_000
"""Microseconds after which a write that has not ended never will."""

_ENTRY: Final = Struct("<QQQIBBQQQB")
_MOMENT: Final = Struct(">Q")


def now_us() -> int:
    """Return microseconds on a clock that all processes share, and nobody sets."""
    return time.monotonic_ns() // 1000


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
    """That this process has the ledger in ``folder`` open, as long as it lives."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "open", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._descriptor, _MOMENT.pack(now_us()), 0)  # alone: nobody is in a write
        except BlockingIOError:
            pass
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        (self.began_us,) = _MOMENT.unpack(os.pread(self._descriptor, _MOMENT.size, 0))

    def now(self) -> Now:
        """Return this moment."""
        return Now(now_us(), self.began_us)

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)
