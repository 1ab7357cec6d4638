"""The face "admin": what changes how the service works, for whoever has the scope "admin"."""

from typing import Final

from aiohttp import web

from sfss.errors import BadArgument, Refused
from sfss.migration import STEPS, Migration
from sfss.web import http

_STEPS: Final = tuple(dict.fromkeys(step for step, _ in STEPS))


async def show_migration(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /admin/migration``: where the migration is, since when, and how far."""
    return http.json_answer(_migration(site).status().document())


async def step_migration(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /admin/migration?step=start|finish|abort``: take a step, and say where it is then.

    ``force=true`` ends a migration although not everything has been copied. Raises ``Refused``.
    """
    step, force = http.argument(request, "step"), http.argument(request, "force")
    if step not in _STEPS:
        raise BadArgument("step", repr(step), f"one of {', '.join(_STEPS)} is expected")
    if force not in (None, "true", "false"):
        raise BadArgument("force", repr(force), "true or false is expected")
    return http.json_answer(_migration(site).take(step, force == "true").document())


def _migration(site: http.Site) -> Migration:
    if site.cluster.migration is None:
        raise Refused("the settings have no [migration]")
    return site.cluster.migration
