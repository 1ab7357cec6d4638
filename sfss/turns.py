"""Turns of tasks in one process: one at a time does something with one thing."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """A lock for each of many things, kept only while somebody has it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, thing: Hashable) -> AsyncIterator[None]:
        """Hold the lock of ``thing`` for the block; whoever asks first gets it first."""
        lock, users = self._locks.get(thing) or (asyncio.Lock(), 0)
        self._locks[thing] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(thing)
            if users > 1:
                self._locks[thing] = lock, users - 1

    def is_taken(self, thing: Hashable) -> bool:
        """Tell whether somebody has the lock of ``thing``."""
        lock, _ = self._locks.get(thing) or (None, 0)
        return lock is not None and lock.locked()
