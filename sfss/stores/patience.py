"""One time limit for many futures."""

import asyncio
from collections import deque


class Patience:
    """Fails futures that are not done within ``timeout_s`` with ``TimeoutError``.

    One timer for all, which waits for the oldest: one for each costs as much as LMDB's own work.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._waiting: deque[tuple[float, asyncio.Future[bool]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[bool]) -> None:
        """Give ``future``, of the running loop, its time from now on."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        loop = future.get_loop()
        waiting.append((loop.time() + self.timeout_s, future))
        if self._timer is None:
            self._timer = loop.call_later(self.timeout_s, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s, waiting = loop.time(), self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now_s):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._timer = loop.call_at(waiting[0][0], self._expire, loop) if waiting else None
