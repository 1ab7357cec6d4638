"""The face "browser": the page ``/browse/`` on which people see, put and remove files.

The page asks the face "native" of the same listener as any program does; of its own it has only
``settings.json``, which says what it can count on here.
"""

from collections.abc import Container, Mapping
from typing import Final

from aiohttp import web

from sfss.web import http, pages

TOP: Final = "/browse/"

_ASSETS: Final[Mapping[str, pages.Shown]] = {
    "": pages.shown("browser/index.html"),
    "common.css": pages.shown("common.css"),
    **{
        file.name: pages.shown(f"browser/{file.name}")
        for file in (pages.FOLDER / "browser").iterdir()
        if file.suffix in (".css", ".js", ".svg")
    },
}

_NOWHERE: Final[Container[str]] = frozenset()


async def moved(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /browse``: 301 to where the page is; relative, for a proxy that shows it elsewhere."""
    return http.Answer(301, {"Location": "browse/"})


async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /browse/*``: the page, or what it is made of; 404 for anything else."""
    name = request.path.removeprefix(TOP)
    if name == "settings.json":
        return http.json_answer(_settings(site, request), fields=pages.FIELDS)
    asset = _ASSETS.get(name)
    if asset is None:
        return http.refuse(request, 404, f"there is no {name} beside the page; it is at {TOP}")
    return await asset(site, request)


def _settings(site: http.Site, request: web.BaseRequest) -> Mapping[str, object]:
    shown = request.get(http.TAKEN, _NOWHERE)
    return {
        "max_file_size": site.cluster.max_file_size,
        "has_files": "/files" in shown,
        "has_status": "/status/" in shown,
        "has_api": "/api/" in shown,
    }
