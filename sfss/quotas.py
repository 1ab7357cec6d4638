"""How much may be kept below prefixes of paths: noted in a ledger, and counted now and then.

What is written through this gateway counts at once and exactly, as ``stores/ledger`` says. What
others have written counts from the next count on: a listing of all that lies below the prefix,
merged into the ledger while writes go on.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from sfss.agreement import left_nothing
from sfss.config_quota import Quota, Used
from sfss.errors import CannotList, QuotaExceeded, SfssError
from sfss.record import Head
from sfss.stores.base import Guard
from sfss.stores.ledger import Ledger
from sfss.stores.ledger_entries import Begun, Outcome

COUNT_WAIT_S: Final = 10.0
"""Seconds that a write waits for the first count."""

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at whether there is something to count."""

_PAGE: Final = 1000
_PAUSE_S: Final = 0.05

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Listed(Protocol):
    """One file of a listing; without a head where that is damaged."""

    @property
    def path(self) -> str: ...

    @property
    def head(self) -> Head | None: ...


List = Callable[[str, str, int], Awaitable[Sequence[Listed]]]
"""As ``Cluster.list``."""


class Order:
    """When a write comes to pass among all writes of a file: when its guard is called, where nobody
    comes in between guard and write. ``is_known`` says whether that is so; else no guard is added.
    """

    def __init__(self, is_known: bool) -> None:
        self._is_known, self.at_ns = is_known, 0

    def seen_by(self, guard: Guard | None) -> Guard | None:
        """Return ``guard`` as one that also takes note of the moment."""
        if not self._is_known:
            return guard

        def see(head: Head | None) -> None:
            self.at_ns = time.monotonic_ns()  # it is called again where a transaction is repeated
            if guard is not None:
                guard(head)

        return see


class Quotas:
    """Lets writes go on that find room, by the ``ledger``, which is closed with it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ending: set[asyncio.Future[Any]] = set()

    def covers(self, path: str) -> bool:
        """Tell whether a file at ``path`` counts."""
        return self._ledger.covers(path.encode())

    def usage(self) -> Mapping[str, tuple[Quota, Used]]:
        """Return by prefix what it may have, and has."""
        return self._ledger.usage()

    async def keep(
        self, path: str, head: Head, write: Callable[[], Awaitable[Answer]], order: Order
    ) -> Answer:
        """Have ``write``, in this ``order``, keep a file with ``head`` at ``path``, if there is
        room for it.

        Raises ``QuotaExceeded`` and what ``write`` does; ``StoreFull``, ``Unreachable`` where
        nothing could be noted, and so nothing was written.
        """
        begun = await self._begun(path, head)
        answer = await self._done(begun, write)
        await self._end(begun, Outcome.KEPT, head.size, head.expiry, order.at_ns)
        return answer

    async def drop(
        self, path: str, delete: Callable[[], Awaitable[Answer]], order: Order
    ) -> Answer:
        """Have ``delete``, in ``order``, remove the file at ``path``. Raises what that does."""
        try:
            begun = await self._certainly(self._ledger.begin_delete(path.encode()))
        except SfssError as error:
            # It must be possible to make room. What is gone counts until the next count.
            _log.warning("a deletion is not noted: %s", error)
            return await delete()
        assert begun is not None
        answer = await self._done(begun, delete)
        await self._end(begun, Outcome.GONE, at_ns=order.at_ns)
        return answer

    async def _done(self, begun: Begun, change: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what ``change`` does; where it raises, what has ``begun`` has ended with that."""
        try:
            return await change()
        except Exception as error:
            outcome = Outcome.UNCHANGED if left_nothing(error) else Outcome.UNKNOWN
            await self._end(begun, outcome)
            raise
        except BaseException:
            self._ledger.end_later(begun, Outcome.UNKNOWN)
            raise

    async def _begun(self, path: str, head: Head) -> Begun:
        loop = asyncio.get_running_loop()
        until_s, name = loop.time() + COUNT_WAIT_S, path.encode()
        while True:
            begun = await self._certainly(self._ledger.begin(name, head.size, head.expiry))
            if begun is not None:
                return begun
            if loop.time() > until_s:
                raise self._uncounted(name, head)
            await asyncio.sleep(_PAUSE_S)

    def _uncounted(self, path: bytes, head: Head) -> QuotaExceeded:
        usage = self.usage().values()
        prefix = next(
            quota.prefix
            for quota, used in usage
            if not used.is_counted and path.startswith(quota.prefix.encode())
        )
        return QuotaExceeded(prefix, "bytes", None, None, head.size)

    async def _certainly(self, begin: Coroutine[Any, Any, Begun | None]) -> Begun | None:
        """Return what ``begin`` does; whoever is cancelled meanwhile leaves nothing noted."""
        task = asyncio.ensure_future(begin)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._ending.add(task)
            task.add_done_callback(self._undo)
            raise

    def _undo(self, task: "asyncio.Future[Begun | None]") -> None:
        self._ending.discard(task)
        if not task.cancelled() and not task.exception() and (begun := task.result()):
            self._ledger.end_later(begun, Outcome.UNCHANGED)

    async def _end(
        self, begun: Begun, outcome: Outcome, size: int = 0, expiry: int = 0, at_ns: int = 0
    ) -> None:
        try:
            await self._ledger.end(begun, outcome, size, expiry, at_ns)
        except SfssError as error:
            # The write was made or not, whatever is noted: too much counts then, never too little.
            _log.warning("what has come of a write is not noted: %s", error)

    async def keep_counting(
        self, listing: List, leader: Callable[[], bool], every_s: float
    ) -> None:
        """Count what is there, for ever: at once, and again after ``every_s`` (0: not again); only
        while ``leader()`` says so: one of the processes that share the ledger is enough.
        """
        loop = asyncio.get_running_loop()
        due_s: dict[str, float] = dict.fromkeys(self.usage(), 0.0)
        while True:
            for prefix in [each for each, at_s in due_s.items() if loop.time() >= at_s]:
                try:
                    if not leader():
                        break
                    await self._ledger.forget_others()
                    await self.count(prefix, listing)
                    due_s[prefix] = loop.time() + every_s if every_s else float("inf")
                except (SfssError, OSError) as error:
                    _log.warning("what is below %r cannot be counted: %s", prefix, error)
                    due_s[prefix] = loop.time() + 10 * LOOK_EVERY_S
                except Exception:
                    _log.exception("what is below %r cannot be counted", prefix)
                    due_s[prefix] = loop.time() + 10 * LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)

    async def count(self, prefix: str, listing: List) -> None:
        """Count what is below ``prefix``. Raises what ``listing`` does; where nothing can be
        listed, what was written through this gateway is all that counts.
        """
        since_us, after = await self._ledger.count(prefix), ""
        try:
            while True:
                page = await listing(prefix, after, _PAGE)
                heads = ((each.path.encode(), each.head) for each in page)
                listed = {path: (head.size, head.expiry) for path, head in heads if head}
                last = page[-1].path if len(page) == _PAGE else None
                span = (after.encode(), None if last is None else last.encode())
                await self._ledger.merge(prefix, span, listed, since_us)
                if last is None:
                    break
                after = last
        except CannotList as error:
            _log.warning("below %r counts what is written from now on: %s", prefix, error)
        await self._ledger.counted(prefix)

    async def close(self) -> None:
        """Finish what was begun, and close the ledger."""
        if self._ending:
            await asyncio.wait(self._ending)
        await self._ledger.close()
