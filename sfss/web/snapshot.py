"""All that the page ``/status/`` shows, at one moment. What is counted is counted since the start:
whoever has two of them knows what went on in between.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from sfss.metrics import LOOP, REQUEST, STORE
from sfss.timings import BOUNDS_S, Line
from sfss.web import http, status
from sfss.web.figures import Figures, gather, migration_of, room_of


async def take(site: http.Site) -> dict[str, Any]:
    """Return how the service is now, all workers together.

    ``requests`` and ``operations`` are lists of names (face, method, status; operation, outcome,
    store), each with counts, one for each of ``bounds_s`` and one for all that took longer.
    """
    figures = await gather(site)
    why = "this process is about to end" if site.readiness.draining else figures.health.lacking
    timings = site.board.timings()
    members = None if site.cluster.members is None else site.cluster.members.shown()
    return {
        "at_s": time.time(),
        **status.webserver(site.board),
        "about": dict(site.about),
        "ready": not why,
        "why": why,
        "stores": list(_stores(figures)),
        "owed": _owed(figures),
        "tools": [{"group": group, **each.document()} for group, each in figures.tools],
        "migration": migration_of(site),
        "members": members,
        "bounds_s": BOUNDS_S,
        "requests": _lines(timings.values(), REQUEST),
        "operations": _lines(timings.values(), STORE),
        "lag": _lines(timings.values(), LOOP),
    }


def _stores(figures: Figures) -> Iterator[dict[str, Any]]:
    for address, why in figures.health.stores.items():
        stats = figures.stats.get(address, {})
        room = room_of(stats)._asdict()
        yield {"address": address, "why": why, "version": stats.get("version", ""), **room}


def _owed(figures: Figures) -> dict[str, Any] | None:
    if figures.owing is None:
        return None
    return {
        "writes": figures.owing.writes,
        "needs_repair": list(figures.owing.needs_repair),
        "bucket": figures.owed_to_bucket,
    }


def _lines(lines: Iterable[Line], kind: str) -> list[dict[str, Any]]:
    found = [line for line in lines if line.name[:1] == (kind,)]
    return [{"name": line.name[1:], "counts": line.counts, "sum_us": line.sum_us} for line in found]
