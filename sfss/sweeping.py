"""Files that have expired, removed from an embedded store in the background."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from sfss.complaints import Complaints
from sfss.errors import StoreError, Unreachable
from sfss.metrics import Counts

SWEEP_EVERY_S: Final = 1.0

SWEPT_AT_ONCE: Final = 256
"""Files that one transaction removes: writes wait for no longer one."""

_log = logging.getLogger(__name__)


class SweptStore(Protocol):
    """A store that knows what in it has expired."""

    address: str

    @property
    def swept(self) -> int:
        """How many files this process has removed."""

    async def sweep(self, now_us: int, limit: int) -> bool:
        """Remove files that have expired at ``now_us``, up to ``limit`` of them; return whether
        there may be more. Raises ``StoreFull``, ``Unreachable``, ``Corrupt``.
        """


async def keep_sweeping(
    store: SweptStore,
    leader: Callable[[], bool] = lambda: True,
    counts: Counts | None = None,
) -> None:
    """Remove from ``store`` what has expired, for ever; only while ``leader()`` says so: one of
    the processes that share a store is enough. It is counted in ``counts``, as "expired".
    """
    complaints, counts = Complaints(), Counter() if counts is None else counts
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        before = store.swept
        try:
            while leader() and await store.sweep(time.time_ns() // 1000, SWEPT_AT_ONCE):
                pass
            complaints.answered(store.address)
        except StoreError as error:
            complaints.failed(store.address, error)
        except OSError as error:  # its folder is gone
            complaints.failed(store.address, Unreachable(store.address, str(error), applied=False))
        except Exception:
            _log.exception("store %s: what has expired cannot be removed", store.address)
        counts["expired"] += store.swept - before
