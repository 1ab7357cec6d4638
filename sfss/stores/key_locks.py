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
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

_FLOCK: Final = Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES})
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02

_log = logging.getLogger(__name__)


class KeyLocks:
    """Locks of keys on the file ``descriptor``; None: among this process only."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._turns: dict[int, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: bytes) -> AsyncIterator[None]:
        """Hold the lock of ``key`` for the block; whoever asks first here gets it first here."""
        place = xxh3_64_intdigest(key) >> 2  # an offset is positive
        turn, users = self._turns.get(place) or (asyncio.Lock(), 0)
        self._turns[place] = turn, users + 1
        try:
            async with turn:
                await self._take(place)
                try:
                    yield
                finally:
                    self._lock(fcntl.F_UNLCK, place)
        finally:
            turn, users = self._turns.pop(place)
            if users > 1:
                self._turns[place] = turn, users - 1

    async def _take(self, place: int) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._lock(fcntl.F_WRLCK, place):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

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
