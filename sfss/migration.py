"""The move of all files to other stores while the service goes on.

======  ===========================  =================  ============================================
state   writes go to                 reads look at      what goes on
======  ===========================  =================  ============================================
old     the old places               the old places     nothing yet
both    the new places               both: the newest   files are copied to the new places
back    the old places               both: the newest   what was written in the meantime is copied
                                                        back
new     the new places               the new places     nothing any more
======  ===========================  =================  ============================================

Both places are read, for the new ones may have something older, from a migration that was aborted.
Once everything has been copied, in ``both``, reads look at the old places only where the new ones
have nothing.

The state is one byte of a small file that every worker has mapped into its memory: all of them see
a change at once, and it outlives them. The rest of the file, for people and tools, says when that
was, and which places it is about. With others it cannot be opened before it has ended: neither set
of them would have all files.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

from sfss.errors import Refused, SettingError
from sfss.placement import Placement, Places

_SIZE: Final = 128


class State(Enum):
    """Where a migration is."""

    OLD = "old"
    BOTH = "both"
    BACK = "back"
    NEW = "new"


_LETTERS: Final = {
    ord(letter): (state, letter.isupper())
    for state in State
    for letter in (state.value[-1], state.value[-1].upper())
}
"""The first byte of the file: the last letters of the words, which differ; a capital if everything
has been copied, of ``new`` if the new places were seen to be those of the settings.
"""

STEPS: Final = {
    ("start", State.OLD): State.BOTH,
    ("start", State.BACK): State.BOTH,
    ("finish", State.BOTH): State.NEW,
    ("finish", State.BACK): State.OLD,
    ("abort", State.BOTH): State.BACK,
}
"""What may be asked for, in which state, and the state after it."""

_DONE: Final = {("start", State.BOTH), ("abort", State.BACK), ("finish", State.NEW)}
"""What may be asked for once more."""


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
    """The migration from the places that ``old`` stands for to those of ``new``, in ``file``, made
    if missing. ``memory_s`` is for how long deletions are remembered.

    Raises ``SettingError`` when the file cannot be used, or one between other places has not ended.
    """

    def __init__(self, file: Path, old: str, new: str, memory_s: float = inf) -> None:
        self._old, self._new, self._memory_s = old, new, memory_s
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with self._locked():
                found = _read(self._descriptor)
                if found is None or (found.old, found.new) != (old, new):
                    _check_ended(found, old, file)
                    self._write(Status(State.OLD))
            self._map = mmap.mmap(self._descriptor, _SIZE)
        except OSError as error:
            raise _unusable(file, error) from error

    def state(self) -> State:
        """Return where the migration is, whoever has brought it there."""
        return self._now()[0]

    def status(self) -> Status:
        """Return where it is, since when, and how far."""
        found = _read(self._descriptor)
        return Status(State.OLD) if found is None else found.status

    def _now(self) -> tuple[State, bool]:
        return _LETTERS.get(self._map[0], (State.OLD, False))

    def take(self, step: str, force: bool = False) -> Status:
        """Take one of the ``STEPS`` and return the status after it; to begin what has begun is no
        mistake.

        Raises ``Refused`` for one that does not follow. And, unless ``force``: for the end of what
        is not copied yet, and for the beginning long after another was aborted, when the new places
        may have files whose deletion is forgotten.
        """
        with self._locked():
            status = self.status()
            after = STEPS.get((step, status.state))
            if after is None:
                if (step, status.state) in _DONE:
                    return status
                raise Refused(f"{step} does not follow on the state {status.state.value!r}")
            if step == "finish" and not (status.is_copied or force):
                raise Refused("not everything has been copied yet")
            if status.state is State.OLD and self._has_forgotten(status) and not force:
                raise Refused(
                    "a migration was aborted so long ago that the new stores may have files which"
                    " have been deleted since: empty them, then force it"
                )
            return self._write(Status(after, time.time_ns() // 1000))

    def _has_forgotten(self, status: Status) -> bool:
        aborted_s = status.since_us / 1_000_000  # 0: there was none
        return bool(aborted_s) and time.time() - aborted_s > self._memory_s

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

        def reads_both() -> bool:
            return self._now() in ((State.BOTH, False), (State.BACK, False), (State.BACK, True))

        return Places(primaries, former, reads_both, state=self._now)

    def either(self, old: Sequence[str], new: Sequence[str]) -> Callable[[], Sequence[str]]:
        """Return what tells which of the stores ``old`` and ``new`` may have files."""
        both = tuple(dict.fromkeys([*old, *new]))
        alone = {State.OLD: tuple(old), State.NEW: tuple(new)}
        return lambda: alone.get(self.state(), both)

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

    def _write(self, status: Status) -> Status:
        _write(self._descriptor, _Found(status, self._old, self._new))
        return status


def check_none(file: Path, places: str) -> None:
    """Raise ``SettingError`` if ``file`` tells of a migration that has not ended, the files being
    in the ``places`` now. Of one to these places, take note that nobody needs to know any more.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = _read(descriptor)
            _check_ended(found, places, file)
            if found is not None and found.new == places and found.status.state is State.NEW:
                _write(descriptor, found._replace(status=replace(found.status, is_copied=True)))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(file, error) from error


class _Found(NamedTuple):
    """What a file says."""

    status: Status
    old: str
    new: str


def _read(descriptor: int) -> _Found | None:
    text = os.pread(descriptor, _SIZE, 0)
    try:
        letter, old, new, since_us = text.decode("ascii", "replace").split()
        state, is_copied = _LETTERS[ord(letter)]
        found = _Found(Status(state, int(since_us), is_copied), old, new)
        return found if len(text) == _SIZE else None
    except (ValueError, KeyError, TypeError):
        return None


def _write(descriptor: int, found: _Found) -> None:
    # One write of less than a sector, over what was there: it is seen, and kept, whole.
    letter = found.status.state.value[-1]
    words = (
        letter.upper() if found.status.is_copied else letter,
        found.old,
        found.new,
        str(found.status.since_us),
    )
    os.pwrite(descriptor, f"{' '.join(words):<{_SIZE - 1}}\n".encode(), 0)
    os.fsync(descriptor)


def _check_ended(found: _Found | None, places: str, file: Path) -> None:
    state = State.OLD if found is None else found.status.state
    if found is None or state is State.OLD:
        return
    if state is State.NEW and (
        found.new == places or (found.status.is_copied and found.old != places)
    ):
        return
    sentence = f"is not what it was when the migration began that is in the state {state.value!r}"
    wanted = f"set it back until that has ended; {file} tells of it"
    if state is State.NEW:
        wanted = (
            "all files are in its new places: make them those of [replicated], or remove"
            f" {file} if that was long ago"
        )
    raise SettingError("settings", "migration", sentence, wanted)


def _unusable(file: Path, error: OSError) -> SettingError:
    if isinstance(error, FileNotFoundError):
        found = "no gateway with these settings has been started in this folder yet"
        return SettingError("settings", "migration", found, f"{file.parent} is missing")
    wanted = "a file that can be written is expected"
    return SettingError("settings", "migration", f"{file}: {error}", wanted)
