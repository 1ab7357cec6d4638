"""Whether this process can serve requests now: asked often, found out at most once a second."""

import asyncio
from math import inf
from typing import Final

from sfss.agreement import Health
from sfss.cluster import Cluster

ASK_S: Final = 0.8
"""Seconds for which stores are waited for: probes often give up after one."""

KNOWN_S: Final = 1.0
"""Seconds for which what was found is told again."""


class Readiness:
    """What one process knows of its stores, and whether it is about to end."""

    def __init__(self) -> None:
        self.draining = False
        """Whether no more requests are wanted."""
        self._asked_at_s = -inf
        self._asking: asyncio.Task[Health] | None = None

    async def health(self, cluster: Cluster) -> Health:
        """Return how the stores are. All who ask meanwhile wait for the same answer, and nobody
        who leaves cuts it short.
        """
        now_s = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now_s - self._asked_at_s > KNOWN_S):
            self._asked_at_s = now_s
            self._asking = asyncio.ensure_future(cluster.health(ASK_S))
        return await asyncio.shield(self._asking)
