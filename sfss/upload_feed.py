"""Items made in a thread of their own, ahead of their use, but not by more than ``AHEAD``."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from threading import Thread
from typing import Final

from sfss.upload_sources import Item

AHEAD: Final = 10_000


class Feed:
    """Runs ``batches`` in a thread. The thread is a daemon: nobody waits for a list that hangs."""

    def __init__(self, batches: Iterator[list[Item]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Item | None] = asyncio.Queue(AHEAD)
        self.count = 0
        self.is_complete = False
        Thread(target=self._run, args=(batches,), daemon=True).start()

    async def next(self) -> Item | None:
        """Return the next item, and None when there will be no more, to everybody who asks."""
        item = await self._queue.get()
        if item is None:
            self._queue.put_nowait(None)
        return item

    def _run(self, batches: Iterator[list[Item]]) -> None:
        try:
            for batch in batches:
                if batch and not self._hand_over(batch):
                    return
        finally:
            self._hand_over([None])

    def _hand_over(self, batch: Sequence[Item | None]) -> bool:
        """Wait until ``batch`` is in the queue; False if nobody wants it any more."""
        adding = self._add(batch)
        try:
            asyncio.run_coroutine_threadsafe(adding, self._loop).result()
        except (RuntimeError, CancelledError):
            adding.close()
            return False
        return True

    async def _add(self, batch: Sequence[Item | None]) -> None:
        for item in batch:
            await self._queue.put(item)
            if item is None:
                self.is_complete = True
            else:
                self.count += not item.is_ignored
