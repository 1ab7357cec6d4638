"""The face "browser": the page ``/browse/`` on which people see, put and remove files.

The page asks the face "native" of the same listener as any program does; of its own it has only
``settings.json``, which says what it can count on here.
"""

from collections.abc import Container, Mapping
from typing import Final

from aiohttp import web

from sfss.web import http, pages

TOP: Final = "/browse/"

_page: Final = pages.shown_at(TOP, "browser")

_NOWHERE: Final[Container[str]] = frozenset()


async def moved(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /browse``: 301 to where the page is; relative, for a proxy that shows it elsewhere."""
    return http.Answer(301, {"Location": "browse/"})


async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /browse/*``: the page, or what it is made of; 404 for anything else."""
    if request.path == f"{TOP}settings.json":
        return http.json_answer(_settings(site, request), fields=pages.FIELDS)
    return await _page(site, request)


def _settings(site: http.Site, request: web.BaseRequest) -> Mapping[str, object]:
    shown = request.get(http.TAKEN, _NOWHERE)
    return {
        "max_file_size": site.cluster.max_file_size,
        "has_files": "/files" in shown,
        "has_status": "/status/" in shown,
        "has_api": "/api/" in shown,
    }
