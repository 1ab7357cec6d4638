"""Bytes of memory for what is on its way, shared by all connections of a node."""

import asyncio
from collections import deque
from typing import Final, Protocol

UNRESERVED_BYTES: Final = 64 * 1024
VALUE_PROGRESS_S: Final = 30.0
"""A larger value has to come on by as many bytes in as many seconds, or the client is cut off."""


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


class Client(Protocol):
    """Who sends a value: how many bytes have come of it in all, and what cuts it off."""

    received_bytes: int

    def abort(self) -> None:
        """Close at once."""


class Arrival:
    """Room for one large value of ``client``, from when it begins to come until it is passed on;
    a client whose value does not come on is cut off.
    """

    def __init__(self, room: Room, client: Client) -> None:
        self._room, self._client = room, client
        self._check: asyncio.TimerHandle | None = None
        self.size = 0
        """Bytes that are taken; 0: no value has begun to come."""

    def try_take(self, size: int) -> bool:
        """Take ``size`` bytes, if nobody has to wait for them."""
        if not self._room.try_take(size):
            return False
        self._begin(size)
        return True

    async def take(self, size: int) -> None:
        """Wait for ``size`` bytes and take them."""
        await self._room.take(size)
        self._begin(size)

    def came(self) -> None:
        """Take note that the value is here: it may wait for the store as long as that takes."""
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def give(self) -> None:
        """Give back what is taken, if anything is."""
        if self.size:
            self._room.give(self.size)
            self.size = 0
            self.came()

    def _begin(self, size: int) -> None:
        self.size = size
        self._expect_more()

    def _expect_more(self) -> None:
        self._check = asyncio.get_running_loop().call_later(
            VALUE_PROGRESS_S, self._look, self._client.received_bytes
        )

    def _look(self, received_before: int) -> None:
        if self._client.received_bytes - received_before < UNRESERVED_BYTES:
            self._client.abort()
        else:
            self._expect_more()
