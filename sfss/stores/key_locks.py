"""One change of a key at a time, among all processes that change files in the same folder.

In one process they take turns; between processes it is a lock on one byte of a file that all have
open, which the system lets go of when a process dies (fcntl(2), open file description locks). No
thread waits for it, so none can be missing to whoever has it.
"""

import asyncio
import errno
import fcntl
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

from sfss.errors import Unreachable
from sfss.turns import Turns

_FLOCK: Final = Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES})
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02

_log = logging.getLogger(__name__)


class KeyLocks:
    """Locks of keys on the file ``descriptor``; None: among this process only."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._turns = Turns()

    @classmethod
    def on(cls, file: Path) -> "KeyLocks":
        """Return those on ``file``, made if missing, for one process. Raises ``OSError``."""
        return cls(os.open(file, _FILE, 0o666))

    def use(self, descriptor: int) -> None:
        """Have locks on this file from now on."""
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of the file, and of all that is locked."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def is_held(self, key: bytes) -> bool:
        """Tell whether anybody has the lock of ``key`` at this moment, in whatever process."""
        place = _place(key)
        return self._turns.is_taken(place) or self._is_taken(place)

    @asynccontextmanager
    async def of(self, key: bytes) -> AsyncIterator[None]:
        """Hold the lock of ``key`` for the block; whoever asks first here gets it first here."""
        place = _place(key)
        async with self._turns.of(place):
            await self._take(place)
            try:
                yield
            finally:
                self._lock(fcntl.F_UNLCK, place)

    @asynccontextmanager
    async def within(self, patience_s: float, key: bytes, store: str) -> AsyncIterator[None]:
        """Hold the lock of ``key`` for the block. Raises ``Unreachable``, of ``store``, when others
        have it for ``patience_s``.
        """
        waiting = asyncio.timeout(patience_s)
        try:
            async with waiting, self.of(key):
                waiting.reschedule(None)
                yield
        except TimeoutError as error:
            if not waiting.expired():
                raise
            reason = "another process has been changing the file for a long time"
            raise Unreachable(store, reason, applied=False) from error

    async def _take(self, place: int) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._lock(fcntl.F_WRLCK, place):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _is_taken(self, place: int) -> bool:
        """Tell whether another process has the lock."""
        if self._descriptor is None:
            return False
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        try:
            found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, request)
        except OSError:
            return False  # whoever takes a lock says it
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _lock(self, kind: int, place: int) -> bool:
        """Return False if another process has the lock."""
        if self._descriptor is None:
            return True
        request = _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            _log.warning("no locks between processes: %s", error)
            self._descriptor = None
        return True


def _place(key: bytes) -> int:
    return xxh3_64_intdigest(key) >> 2  # an offset is positive
