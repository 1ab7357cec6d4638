"""Those who watch how this process is: one look for all of them, once in a while, and none while
nobody watches.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

EVERY_S: Final = 2.0
"""Seconds from one look to the next."""

LIMIT: Final = 32
"""Watchers of one process."""

_log = logging.getLogger(__name__)


class Watch:
    """What one watcher has not been sent yet: the latest look, and none before that."""

    def __init__(self) -> None:
        self.is_over = False
        """Whether there is nothing more to come."""
        self.patience: asyncio.Timeout | None = None
        """How long is waited for the watcher now, if at all."""
        self._latest = b""
        self._changed = asyncio.Event()

    def offer(self, look: bytes) -> None:
        """Have the watcher sent ``look``, whatever waits still."""
        self._latest = look
        self._changed.set()

    def end(self) -> None:
        """Send nothing more, and wait for the watcher no longer."""
        self.is_over = True
        self._changed.set()
        if self.patience is not None:
            with suppress(RuntimeError):  # its time is over
                self.patience.reschedule(asyncio.get_running_loop().time())

    async def next(self, patience_s: float) -> bytes:
        """Return the next look; nothing if none comes within ``patience_s``, or it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._changed.wait()
        self._changed.clear()
        look, self._latest = self._latest, b""
        return b"" if self.is_over else look


class Watchers:
    """All who watch; ``every_s`` from one look to the next."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.every_s = every_s
        self._watches: set[Watch] = set()
        self._looking: asyncio.Task[None] | None = None
        self._latest, self._looked_at_s = b"", 0.0
        self._are_over = False

    def __len__(self) -> int:
        return len(self._watches)

    @property
    def is_full(self) -> bool:
        """Whether nobody more is taken in."""
        return len(self._watches) >= LIMIT

    @contextmanager
    def watching(self, look: Callable[[], Awaitable[bytes]]) -> Iterator[Watch]:
        """Have ``look`` called now and then during the block; the same for all who watch."""
        watch = Watch()
        if self._are_over:
            watch.end()
        self._watches.add(watch)
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking(look))
        elif asyncio.get_running_loop().time() - self._looked_at_s < 2 * self.every_s:
            watch.offer(self._latest)
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            if not self._watches:
                self._looking.cancel()
                self._looking = None

    async def _keep_looking(self, look: Callable[[], Awaitable[bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                self._latest = await look()
                self._looked_at_s = loop.time()
                for watch in self._watches:
                    watch.offer(self._latest)
            except Exception:
                _log.exception("it cannot be told how this process is")
            await asyncio.sleep(max(0.0, began_s + self.every_s - loop.time()))

    def end(self) -> None:
        """Let all of them go, and who comes now at once: it is to ask another process."""
        self._are_over = True
        for watch in list(self._watches):
            watch.end()
