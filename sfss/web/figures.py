"""What is known of the stores and of the work on them at one moment: for ``/metrics``, for
``/status``, and for the page of it. Nothing that does not answer in time is waited for.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from sfss.agreement import Health, Owing
from sfss.errors import SfssError
from sfss.readiness import Stats
from sfss.tool_progress import Progress, read_progress
from sfss.web import http

OWING_S: Final = 1.0
"""Seconds for which lists of debts are waited for; without an answer they are left out."""


class Room(NamedTuple):
    """How much a store has, and has room for; None for what it does not say. Where it
    has no limit of its own, its room is that of its disk, which others may fill as well.
    """

    items: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    capacity_bytes: int | None = None
    evicted_files: int | None = None
    evicted_bytes: int | None = None


class Figures(NamedTuple):
    """How the stores are; what they say of themselves; what they, and the bucket of objects, still
    have to get, None where that cannot be told now, or is not there; and how far repair tools are,
    each behind the name of the group of its stores.
    """

    health: Health
    stats: Stats
    owing: Owing | None
    owed_to_bucket: int | None
    tools: Sequence[tuple[str, Progress]]


async def gather(site: http.Site) -> Figures:
    """Return what is known now."""
    health, stats, (owing, owed_to_bucket), tools = await asyncio.gather(
        site.readiness.health(site.cluster),
        site.readiness.stats(site.cluster),
        _owing(site),
        tools_of(site),
    )
    return Figures(health, stats, owing, owed_to_bucket, tools)


async def _owing(site: http.Site) -> tuple[Owing | None, int | None]:
    owing, owed_to_bucket = None, None
    with suppress(SfssError, TimeoutError):
        async with asyncio.timeout(OWING_S):
            owing = await site.cluster.owing()
            if site.objects is not None:
                owed_to_bucket = await site.objects.owing()
    return owing, owed_to_bucket


async def tools_of(site: http.Site) -> list[tuple[str, Progress]]:
    """Return how far repair tools are, each behind the name of the group of its stores."""

    def read() -> list[tuple[str, Progress]]:
        now_s = time.time()
        return [
            (name, progress)
            for name, folder in site.tool_folders.items()
            for progress in read_progress(folder, now_s)
        ]

    return await asyncio.to_thread(read)


def migration_of(site: http.Site) -> dict[str, Any] | None:
    """Return where the migration is, and how far; None where there is none."""
    migration = site.cluster.migration
    return None if migration is None else dict(migration.status().document())


def room_of(stats: Mapping[str, str]) -> Room:
    """Return the room of the store that says ``stats`` of itself, in the words of memcached, of
    Beansdb, or of our own stores.
    """
    number = {name: int(text) for name, text in stats.items() if text.isdecimal()}.get
    used, free, total = number("bytes"), number("avail_space"), number("total_space")
    limit = number("capacity_bytes")
    if limit:
        used = number("used_bytes")  # its other bytes are those of its file
    elif not total:
        limit = number("limit_maxbytes")
    if limit:
        left = max(0, limit - (used or 0))  # at most, where it is not said what is used
        free = left if free is None else min(free, left)
    evicted = number("evicted_files"), number("evicted_bytes")
    return Room(number("curr_items"), used, free, limit or total, *evicted)
