"""The whole public API on one screen."""

import logging
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiohttp import web

from sfss.asking import FORWARDED
from sfss.errors import SfssError
from sfss.web import (
    admin,
    content,
    crawling,
    debug,
    health,
    http,
    metrics,
    native,
    objects,
    paths,
    status,
    webdav,
)

Handler = Callable[[http.Site, web.BaseRequest], Awaitable[http.Answer]]


ANYWHERE: Final = "/*"
"""Instead of an address: every one that has no route of its own."""

ANY_NAME: Final = "*"
"""At the end of an address, for whatever stands there."""


class Route(NamedTuple):
    """One line of the API. An address may end with ``ANY_NAME``, behind its second "/", where it
    stands for all that is below, or behind a later one, where it stands for one name.
    """

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
UPLOAD: Final = (Route("POST", "/upload", content.upload, "keep the body: 200 with its id"),)
FETCH: Final = (Route("GET", "/fetch/*", content.fetch, "/fetch/ID or /fetch/ID.EXT  a blob"),)
BLOBS: Final = (
    Route("GET", "/alive", content.alive, "200 as long as this process answers"),
    Route("GET", "/blobs", content.listing, "all ids, as one JSON array"),
    Route("GET", "/blob/*", content.read, "/blob/ID  a blob"),
    Route("POST", "/blob/*", content.put, "/blob/ID  keep the body under this id: 200"),
    Route("DELETE", "/blob/*", content.remove, "/blob/ID  remove a blob: 204"),
)
OBJECTS: Final = (
    Route("GET", "/api/v1/ping", objects.ping, "the name of this member"),
    Route("GET", "/api/v1/id", objects.new_id, "a new ULID"),
    Route("GET", "/api/v1/version", objects.version, "the version of this software"),
    Route("GET", "/api/v1/stats", objects.stats, "the disk, and counters"),
    Route("POST", "/api/v1/put", objects.put, "X-Meta-ID:  keep the body under this id: 200"),
    Route("GET", "/api/v1/get/*", objects.read, "/api/v1/get/ID  an object"),
    Route("GET", "/api/v1/meta/*", objects.meta, "/api/v1/meta/ID  what is known of an object"),
    Route("POST", "/api/v1/delete/*", objects.remove, "/api/v1/delete/ID  delete an object: 200"),
)
HEALTH: Final = (
    Route("GET", "/health/live", health.live, "200 as long as this process answers"),
    Route("GET", "/health/ready", health.ready, "200 if requests can be served, else 503"),
)
METRICS: Final = (Route("GET", "/metrics", metrics.show, "counters, for Prometheus"),)
FACES: Final[Mapping[str, Sequence[Route]]] = {
    "native": NATIVE,
    "status": STATUS,
    "paths": PATHS,
    "debug": DEBUG,
    "admin": ADMIN,
    "upload": UPLOAD,
    "fetch": FETCH,
    "blobs": BLOBS,
    "objects": OBJECTS,
    "health": HEALTH,
    "metrics": METRICS,
}
"""Wherever GET is allowed, so is HEAD: the same without a body."""

METHODS: Final = frozenset({"HEAD"}).union(
    route.method for routes in FACES.values() for route in routes
)
"""The methods that mean anything anywhere."""

FOR_PROGRAMS: Final = frozenset({"upload", "fetch", "blobs", "objects"})
"""The faces whose refusals are JSON, whoever asks."""

_log = logging.getLogger(__name__)


class Addresses:
    """The addresses that have a meaning of their own: ``known``, of which some stand for many."""

    def __init__(self, known: Container[str]) -> None:
        self._known = known

    def __contains__(self, address: object) -> bool:
        return isinstance(address, str) and (
            address in self._known or any(each in self._known for each in _families(address))
        )


def _families(address: str) -> tuple[str, str]:
    """Return the addresses of routes for all that has the first part of ``address``, and for all
    that lies beside it.
    """
    _, first, _ = [*address.split("/", 2), "", ""][:3]
    return f"/{first}/{ANY_NAME}", f"{address.rpartition('/')[0]}/{ANY_NAME}"


class App:
    """Answers the requests to one listener, which shows ``faces``."""

    def __init__(self, site: http.Site, faces: Iterable[str]) -> None:
        self._site, self.faces = site, frozenset(faces)
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._only_json: set[str] = set()
        self._face_of: dict[str, str] = {}
        self._by_path_only = "paths" in self.faces and "native" not in self.faces
        for face in sorted(self.faces, key=list(FACES).index):
            for route in FACES[face]:
                self._add(route)
                self._face_of[route.address] = face
                if face in FOR_PROGRAMS:
                    self._only_json.add(route.address)
        self.addresses = Addresses(frozenset(self._handlers) - {ANYWHERE})
        """The addresses that have a meaning of their own."""

    def _add(self, route: Route) -> None:
        methods = self._handlers.setdefault(route.address, {})
        methods[route.method] = route.handler
        if route.method == "GET":
            methods["HEAD"] = route.handler

    def _address(self, path: str) -> str:
        """Return the address of the route for ``path``."""
        if path in self._handlers:
            return path
        return next((each for each in _families(path) if each in self._handlers), ANYWHERE)

    async def answer(self, request: web.BaseRequest) -> http.Answer:
        """Answer any request: by its handler, or with the refusal that an error stands for."""
        address = self._address(request.path)
        method = request.method if request.method in METHODS else http.OTHER_METHOD
        http.begin(request, self._face_of.get(address, http.NO_FACE), method)
        if unclear := http.refuse_framing(request):
            return unclear
        if getattr(request.protocol, "may_have_large_head", True) and (
            large := http.refuse_large_head(request, self._site.limits.head_bytes)
        ):
            return large
        throttle = self._site.throttle
        if throttle is not None:
            face = self._face_of.get(address, http.NO_FACE)
            if limited := throttle.refuse(request, face):
                return limited
        if self._site.cluster.has_http_nodes:
            FORWARDED.set(http.forwarded(request))
        request[http.TAKEN] = self.addresses
        if self._by_path_only and (misled := paths.refuse_native(request)):
            return misled
        methods = self._handlers.get(address)
        if address in self._only_json:
            request[http.ONLY_JSON] = True
        if methods is None:
            known = ", ".join(self._handlers)
            return http.refuse(request, 404, f"no such address; known are {known}")
        handler = methods.get(request.method)
        if handler is None:
            allowed = ", ".join(methods)
            sentence = f"{request.method} is not allowed here; allowed are {allowed}"
            return http.refuse(request, 405, sentence, {"Allow": allowed})
        try:
            answer = await handler(self._site, request)
            await answer.begin()
            return answer
        except SfssError as error:
            return http.refuse_error(request, self._site.cluster.meant(error))
        except Exception:
            target, request_id = http.printable(request.raw_path), http.asked_of(request).request_id
            _log.exception("error on %s %s, request %s", request.method, target, request_id)
            return http.refuse(request, 500, "internal error")
