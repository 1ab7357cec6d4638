"""The whole public API on one screen."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiohttp import web

from sfss.asking import FORWARDED
from sfss.errors import SfssError
from sfss.web import admin, crawling, debug, http, native, paths, status, webdav

Handler = Callable[[http.Site, web.BaseRequest], Awaitable[http.Answer]]


ANYWHERE: Final = "/*"
"""Instead of an address: every one that has no route of its own."""


class Route(NamedTuple):
    """One line of the API."""

    method: str
    address: str
    handler: Handler
    summary: str


NATIVE: Final = (
    Route("POST", "/files", native.create, "?path=P  create or replace a file: 201"),
    Route("GET", "/files", native.page, "?prefix=&after=&limit=  list files, a page at a time"),
    Route("PUT", "/file", native.put, "?path=P  create or replace a file: 200"),
    Route("GET", "/file", native.read, "?path=P  the file; ranges and conditions are honoured"),
    Route("DELETE", "/file", native.remove, "?path=P  remove a file: 204"),
)
STATUS: Final = (
    Route(
        "GET", "/status", status.show, "statistics of the stores; ?detail=full of this server too"
    ),
)
DEBUG: Final = (Route("GET", "/debug/vars", debug.show, "counters"),)
ADMIN: Final = (
    Route("GET", "/admin/migration", admin.show_migration, "how far a migration is"),
    Route(
        "POST", "/admin/migration", admin.step_migration, "?step=start|finish|abort  take a step"
    ),
)
PATHS: Final = (
    Route("GET", "/__index__/", crawling.index, "?after=&limit=  links to all files"),
    Route("GET", "/__missing__/", crawling.missing, "what stores still have to get"),
    Route("GET", "/__readme.txt", crawling.readme, "commands for this installation"),
    Route("GET", ANYWHERE, paths.read, "a file; ranges and conditions; or what is in a folder"),
    Route("PUT", ANYWHERE, paths.put, "create or replace a file: 201"),
    Route("DELETE", ANYWHERE, paths.remove, "remove a file: 204"),
    Route("OPTIONS", ANYWHERE, webdav.options, "what is understood"),
    Route("PROPFIND", ANYWHERE, webdav.find_properties, "Depth: 0 or 1  properties: 207"),
    Route("MKCOL", ANYWHERE, webdav.make_folder, "a folder, as soon as a file is in it: 201"),
    Route("COPY", ANYWHERE, webdav.copy, "Destination:  copy a file: 201, 204"),
    Route("MOVE", ANYWHERE, webdav.move, "Destination:  move a file: 201, 204"),
)
FACES: Final[Mapping[str, Sequence[Route]]] = {
    "native": NATIVE,
    "status": STATUS,
    "paths": PATHS,
    "debug": DEBUG,
    "admin": ADMIN,
}
"""Wherever GET is allowed, so is HEAD: the same without a body."""

_log = logging.getLogger(__name__)


class App:
    """Answers the requests to one listener, which shows ``faces``."""

    def __init__(self, site: http.Site, faces: Iterable[str]) -> None:
        self._site, self.faces = site, frozenset(faces)
        self._handlers: dict[str, dict[str, Handler]] = {}
        for route in (route for face in faces for route in FACES[face]):
            methods = self._handlers.setdefault(route.address, {})
            methods[route.method] = route.handler
            if route.method == "GET":
                methods["HEAD"] = route.handler

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that have a meaning of their own."""
        return frozenset(self._handlers)

    async def answer(self, request: web.BaseRequest) -> http.Answer:
        """Answer any request: by its handler, or with the refusal that an error stands for."""
        if unclear := http.refuse_framing(request):
            return unclear
        if self._site.cluster.has_http_nodes:
            FORWARDED.set(http.forwarded(request))
        methods = self._handlers.get(request.path) or self._handlers.get(ANYWHERE)
        if methods is None:
            known = ", ".join(self._handlers)
            return http.refuse(request, 404, f"no such address; known are {known}")
        handler = methods.get(request.method)
        if handler is None:
            allowed = ", ".join(methods)
            sentence = f"{request.method} is not allowed here; allowed are {allowed}"
            return http.refuse(request, 405, sentence, {"Allow": allowed})
        try:
            return await handler(self._site, request)
        except SfssError as error:
            return http.refuse_error(request, error)
        except Exception:
            _log.exception("error on %s %s", request.method, http.printable(request.raw_path))
            return http.refuse(request, 500, "internal error")
