"""Bytes of memory for what is on its way, shared by all connections of a node."""

import asyncio
from collections import deque


class Room:
    """``limit`` bytes. Whoever finds too little room left waits, first come first served."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_take(self, size: int) -> bool:
        """Take ``size`` bytes, at most all there are, if nobody has to wait for them."""
        size = min(size, self._limit)
        if self._waiting or size > self._free:
            return False
        self._free -= size
        return True

    async def take(self, size: int) -> None:
        """Wait for ``size`` bytes, at most all there are, and take them."""
        if self.try_take(size):
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((min(size, self._limit), granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Give back what was taken with the same ``size``."""
        self._free += min(size, self._limit)
        while self._waiting:
            wanted, granted = self._waiting[0]
            if not granted.cancelled():
                if wanted > self._free:
                    return
                self._free -= wanted
                granted.set_result(None)
            self._waiting.popleft()
