"""Tasks in one process: turns, in which one at a time does something with one thing; and those in
the background, which go on when nobody waits for them any more.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Hashable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Final, TypeVar

_TASK_BYTES: Final = 16 * 1024
"""What a task that nobody waits for counts besides its body."""

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


class Background:
    """Tasks that go on to their end when nobody waits for them any more, and none is forgotten: a
    server may do what it has been sent even so, and whose turn is next is not to come before that.

    Those that were left may hold about ``limit_bytes``; more are cancelled.
    """

    def __init__(self, limit_bytes: int = 0) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._limit_bytes, self._left_bytes = limit_bytes, 0

    def __len__(self) -> int:
        """Return how many have not ended."""
        return len(self._tasks)

    def start(
        self, work: Coroutine[Any, Any, Outcome], context: Context | None = None
    ) -> asyncio.Task[Outcome]:
        """Start ``work``, for the request that this is a part of unless ``context`` is another;
        what it raises is for those who wait for it, if there are any.
        """
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or asyncio complains that nobody has asked

    async def make(self, change: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Return what ``change`` returns; it goes on when whoever waits is cancelled."""
        return await asyncio.shield(self.start(change))

    def leave(self, task: asyncio.Task[Any], size_bytes: int = 0) -> None:
        """Go on with ``task``, which holds a body of ``size_bytes`` and is waited for by nobody."""
        cost = size_bytes + _TASK_BYTES
        if task.done():
            return
        if self._left_bytes + cost > self._limit_bytes:
            task.cancel()
            return
        self._left_bytes += cost
        task.add_done_callback(lambda _: self._give_back(cost))

    def _give_back(self, cost: int) -> None:
        self._left_bytes -= cost

    async def finish(self, within_s: float | None = None) -> None:
        """Wait until nothing is left, of what is running and of what that starts; cancel what has
        not ended ``within_s``.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            late = list(self._tasks)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
