"""``GET /status``: what the stores say of themselves, and with ``detail=full`` this server, too;
and ``/status/``, the same for people.
"""

import os
import time
from pathlib import Path
from typing import Final

from aiohttp import web

from sfss import __version__
from sfss.errors import BadArgument
from sfss.metrics import Board
from sfss.quotas import Quotas
from sfss.web import figures, http, pages

_STARTED_S: Final = time.monotonic()
"""When this module was imported: by the master of the workers, before it forked any."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

TOP: Final = "/status/"

page: Final = pages.shown_at(TOP, "status")
"""``GET /status/*``: the page, or what it is made of; 404 for anything else."""


async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer with the STATS of every store that answers, by address, under ``storages`` if full.

    Raises ``NoStoreReachable`` when none does.
    """
    detail = http.argument(request, "detail")
    if detail not in (None, "full"):
        raise BadArgument("detail", repr(detail), "full is the only one")
    storages = await site.cluster.stats()
    if detail is None:
        return http.json_answer(storages)
    owing, tools = await site.cluster.owing(), await figures.tools_of(site)
    ours = {
        **webserver(site.board),
        "owed": owing.writes,
        "needs_repair": list(owing.needs_repair),
        "tools": [{"group": group, **each.document()} for group, each in tools],
    }
    if (migration := figures.migration_of(site)) is not None:
        ours["migration"] = migration
    if site.objects is not None:
        ours["owed_to_bucket"] = await site.objects.owing()
    if site.cluster.quotas is not None:
        ours["quotas"] = quotas(site.cluster.quotas)
    if site.cluster.members is not None:
        ours["members"] = site.cluster.members.shown()
    return http.json_answer({"storages": storages, "webserver": ours})


def quotas(kept: Quotas) -> dict[str, object]:
    """Return by prefix how much is there, and may be; ``null`` is any number."""
    return {
        prefix: {
            "bytes": used.bytes,
            "bytes_limit": quota.bytes,
            "files": used.files,
            "files_limit": quota.files,
            "counted": used.is_counted,
        }
        for prefix, (quota, used) in kept.usage().items()
    }


def webserver(board: Board) -> dict[str, object]:
    """Return the figures of this gateway, all its workers together; ``uptime`` in seconds."""
    memory = [found for pid in board.pids() if (found := _memory_bytes(pid))]
    return {
        "version": __version__,
        "uptime": round(time.monotonic() - _STARTED_S, 3),
        "workers": len(memory),
        "requests": board.statuses(),
        "errors": board.errors(),
        **board.totals(),
        "events": board.events(),
        "memory_bytes": sum(memory),
    }


def _memory_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 when it has died (proc(5), statm)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
