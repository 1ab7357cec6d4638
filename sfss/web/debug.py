"""``GET /debug/vars``: a few counters, under the names that Photosrv gave them."""

from aiohttp import web

from sfss import __version__
from sfss.migration import State
from sfss.web import http


async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer with the counters of this gateway, all its workers together, and what the engine adds;
    each engine has those that mean something there.
    """
    statuses = site.board.statuses()
    ours = {
        "Requests": sum(statuses.values()),
        "Errors": sum(count for status, count in statuses.items() if status >= "500"),
        "MultiHeadTimeout": site.board.events().get("head_timeouts", 0),
        "BuildVersion": __version__,
        "MigrationState": _migration_state(site),
        "DeadShards": [],
    }
    return http.json_answer({**ours, **site.cluster.debug()})


def _migration_state(site: http.Site) -> str:
    migration = site.cluster.migration
    if migration is None:
        return State.OLD.value
    state = migration.state()
    return State.BOTH.value if state is State.BACK else state.value  # Photosrv knew three
