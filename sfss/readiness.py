"""Whether this process can serve requests now: asked often, found out at most once a second. So are
the statistics of the stores.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Final, Generic, TypeAlias, TypeVar

from sfss.agreement import Health
from sfss.cluster import Cluster
from sfss.errors import NoStoreReachable, SfssError

ASK_S: Final = 0.8
"""Seconds for which stores are waited for: probes often give up after one."""

KNOWN_S: Final = 1.0
"""Seconds for which what was found is told again."""

STATS_S: Final = 1.0
"""Seconds for which statistics are waited for; what was told before counts until they come."""

Stats: TypeAlias = Mapping[str, Mapping[str, str]]

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class Readiness:
    """What one process knows of its stores, and whether it is about to end."""

    def __init__(self) -> None:
        self.draining = False
        """Whether no more requests are wanted."""
        self._health: _Shared[Health] = _Shared()
        self._asked_stats: _Shared[Stats] = _Shared()
        self._stats: Stats = {}

    async def health(self, cluster: Cluster) -> Health:
        """Return how the stores are. All who ask meanwhile wait for the same answer, and nobody
        who leaves cuts it short.
        """
        return await self._health.get(lambda: cluster.health(ASK_S))

    async def stats(self, cluster: Cluster) -> Stats:
        """Return the statistics of every store by address, ``error`` alone of one that fails; those
        of before where they do not come in time, and nothing where there are none.
        """

        async def ask() -> Stats:
            try:
                self._stats = await cluster.stats()
            except NoStoreReachable as error:
                self._stats = {address: {"error": why} for address, why in error.failures.items()}
            except SfssError as error:
                _log.warning("what the stores say of themselves is not known: %s", error)
            return self._stats

        try:
            async with asyncio.timeout(STATS_S):
                return await self._asked_stats.get(ask)
        except TimeoutError:
            return self._stats


class _Shared(Generic[Answer]):
    """One answer for all who ask at the same time, or within a second."""

    def __init__(self) -> None:
        self._asked_at_s = -inf
        self._asking: asyncio.Task[Answer] | None = None

    async def get(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        now_s = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now_s - self._asked_at_s > KNOWN_S):
            self._asked_at_s = now_s
            self._asking = asyncio.ensure_future(ask())
        return await asyncio.shield(self._asking)
