"""What the log says of stores that fail, and when they are well again: one rule for all engines.

A crowd of requests fails alike, so that a store is said to fail once in a while only. A store may
answer reads and fail every write: it is said to answer again when it does, and has not failed for a
while.
"""

import asyncio
import logging
from math import inf
from typing import Final

from sfss.errors import StoreError, StoreFull, Unreachable

COMPLAINT_EVERY_S: Final = 10.0
"""Seconds between two lines of the log that say the same of one store."""

RECOVERED_AFTER_S: Final = 2.0
"""Seconds without a failure after which a store that answers is said to be well."""

_log = logging.getLogger(__name__)


class Complaints:
    """The lines about all stores of one engine, told by their addresses."""

    def __init__(self) -> None:
        self._said_at: dict[tuple[str, type[StoreError]], float] = {}
        self._failed_at: dict[str, float] = {}

    def failed(self, address: str, error: StoreError) -> None:
        """Take note that the store has failed, or has something damaged."""
        now_s = _now()
        if isinstance(error, Unreachable | StoreFull):
            self._failed_at[address] = now_s
        what = address, type(error)
        if now_s - self._said_at.get(what, -inf) >= COMPLAINT_EVERY_S:
            self._said_at[what] = now_s
            _log.warning("%s", error)

    def answered(self, address: str) -> None:
        """Take note that the store has answered as it should."""
        if not self._failed_at:
            return
        if _now() - self._failed_at.get(address, inf) >= RECOVERED_AFTER_S:
            del self._failed_at[address]
            for kind in (Unreachable, StoreFull):
                self._said_at.pop((address, kind), None)
            _log.warning("store %s answers again", address)


def _now() -> float:
    return asyncio.get_running_loop().time()
