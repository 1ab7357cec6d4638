"""Tasks in one process: turns, in which one at a time does something with one thing; and changes,
which go on when nobody waits for them any more.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Outcome = TypeVar("Outcome")


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


class Changes:
    """Changes that are begun and go on to their end: a server may do what it has been sent even if
    nobody waits any more, and whose turn is next is not to come before that.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def make(self, change: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Return what ``change`` returns; it goes on when whoever waits is cancelled."""
        task = asyncio.ensure_future(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Wait until all have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
