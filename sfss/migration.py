"""The move of all files to other stores while the service goes on.

======  ===========================  =================  ============================================
state   writes go to                 reads look at      what goes on
======  ===========================  =================  ============================================
old     the old places               the old places     nothing yet
both    the new places               the new, then the  files are copied to the new places
                                     old places
back    the old places               both               what was written in the meantime is copied
                                                        back
new     the new places               the new places     nothing any more
======  ===========================  =================  ============================================

The state is one byte of a small file that every worker has mapped into its memory: all of them see
a change at once, and it outlives them. The rest of the file, for people and tools, says when that
was, and whether everything has been copied since. It is about the two sets of places that it was
begun with; with others, it says nothing.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from sfss.errors import Refused, SettingError
from sfss.placement import Placement, Places

_SIZE: Final = 128


class State(Enum):
    """Where a migration is."""

    OLD = "old"
    BOTH = "both"
    BACK = "back"
    NEW = "new"


_LETTERS: Final = {ord(state.value[-1]): state for state in State}
"""The first byte of the file: the last letters of the words, which differ."""

STEPS: Final = {
    ("start", State.OLD): State.BOTH,
    ("start", State.BACK): State.BOTH,
    ("finish", State.BOTH): State.NEW,
    ("finish", State.BACK): State.OLD,
    ("abort", State.BOTH): State.BACK,
}
"""What may be asked for, in which state, and the state after it."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a migration is, since when (microseconds since 1970), and whether a run has copied
    everything since then.
    """

    state: State
    since_us: int = 0
    is_copied: bool = False

    def document(self) -> dict[str, str | bool | None]:
        """Return all of it, for programs."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since_us / 1_000_000))
        return {
            "state": self.state.value,
            "since": since if self.since_us else None,
            "copied": self.is_copied,
        }


class Migration:
    """The migration of the places that ``fingerprint`` stands for, in ``file``, made if missing.

    Raises ``SettingError`` when the file cannot be used.
    """

    def __init__(self, file: Path, fingerprint: str) -> None:
        self._file, self._fingerprint = file, fingerprint
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with self._locked():
                if os.fstat(self._descriptor).st_size != _SIZE or self._read() is None:
                    self._write(Status(State.OLD))
            self._map = mmap.mmap(self._descriptor, _SIZE)
        except OSError as error:
            wanted = "a file that can be written is expected"
            raise SettingError("settings", "migration", f"{file}: {error}", wanted) from error

    def state(self) -> State:
        """Return where the migration is, whoever has brought it there."""
        return _LETTERS.get(self._map[0], State.OLD)

    def status(self) -> Status:
        """Return where it is, since when, and how far."""
        return self._read() or Status(State.OLD)

    def take(self, step: str, force: bool = False) -> Status:
        """Take one of the ``STEPS`` and return the status after it; to begin what has begun is no
        mistake.

        Raises ``Refused`` for one that does not follow, and for the end of what is not copied yet,
        unless ``force``.
        """
        with self._locked():
            status = self.status()
            after = STEPS.get((step, status.state))
            if after is None:
                if status.state in [state for (name, _), state in STEPS.items() if name == step]:
                    return status
                raise Refused(f"{step} does not follow on the state {status.state.value!r}")
            if step == "finish" and not (status.is_copied or force):
                raise Refused("not everything has been copied yet")
            return self._write(Status(after, time.time_ns() // 1000))

    def copied(self, since_us: int) -> bool:
        """Note that everything has been copied, by a run that saw the state of ``since_us``; return
        whether it still is that state.
        """
        with self._locked():
            status = self.status()
            if status.since_us != since_us:
                return False
            self._write(replace(status, is_copied=True))
            return True

    def places(self, old: Placement, new: Placement) -> Places:
        """Return where keys belong, as the state says at each moment."""

        def primaries(key: bytes) -> Sequence[str]:
            is_new = self.state() in (State.BOTH, State.NEW)
            return (new if is_new else old).primaries(key)

        def former(key: bytes) -> Sequence[str]:
            left = {State.BOTH: old, State.BACK: new}.get(self.state())
            return () if left is None else left.primaries(key)

        return Places(primaries, former, lambda: self.state() is State.BACK)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _read(self) -> Status | None:
        words = os.pread(self._descriptor, _SIZE, 0).decode("ascii", "replace").split()
        try:
            letter, fingerprint, since_us, copied = words
            state = _LETTERS[ord(letter)]
            status = Status(state, int(since_us), copied == "copied")
        except (ValueError, KeyError, TypeError):
            return None
        return status if fingerprint == self._fingerprint else None

    def _write(self, status: Status) -> Status:
        # One write of less than a sector, over what was there: it is seen, and kept, whole.
        copied = "copied" if status.is_copied else "open"
        words = (status.state.value[-1], self._fingerprint, str(status.since_us), copied)
        os.pwrite(self._descriptor, f"{' '.join(words):<{_SIZE - 1}}\n".encode(), 0)
        os.fsync(self._descriptor)
        return status
