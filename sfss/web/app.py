"""The whole public API on one screen."""

import logging
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiohttp import web

from sfss.asking import FORWARDED
from sfss.errors import SfssError
from sfss.grants import ADMIN as ADMIN_SCOPE
from sfss.grants import ANYBODY, DELETE, LIST, READ, WRITE
from sfss.web import (
    admin,
    api,
    browser,
    content,
    cors,
    crawling,
    debug,
    events,
    framing,
    health,
    http,
    metrics,
    native,
    objects,
    pages,
    paths,
    status,
    webdav,
)
from sfss.web.access import redacted
from sfss.web.description import STRICT
from sfss.web.gate import Gate

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
    scope: str = ADMIN_SCOPE
    """What whoever asks has to be allowed to do (``grants``, ``needs``)."""


NATIVE: Final = (
    Route("POST", "/files", native.create, "?path=P  create or replace a file: 201", WRITE),
    Route(
        "GET",
        "/files",
        native.page,
        "?prefix=&after=&limit=&delimiter=/  list files, in pages",
        LIST,
    ),
    Route("PUT", "/file", native.put, "?path=P  create or replace a file: 200", WRITE),
    Route(
        "GET", "/file", native.read, "?path=P  the file; ranges and conditions are honoured", READ
    ),
    Route("DELETE", "/file", native.remove, "?path=P  remove a file: 204", DELETE),
)
STATUS: Final = (
    Route(
        "GET",
        "/status",
        status.show,
        "statistics of the stores; ?detail=full of this server too",
        LIST,
    ),
    Route("GET", "/status/events", events.watch, "how all is, as server-sent events", LIST),
    Route("GET", "/status/*", status.page, "/status/  how all is, for people", ANYBODY),
)
DEBUG: Final = (Route("GET", "/debug/vars", debug.show, "counters", LIST),)
ADMIN: Final = (
    Route("GET", "/admin/migration", admin.show_migration, "how far a migration is", ADMIN_SCOPE),
    Route(
        "POST",
        "/admin/migration",
        admin.step_migration,
        "?step=start|finish|abort  take a step",
        ADMIN_SCOPE,
    ),
)
PATHS: Final = (
    Route("GET", "/__index__/", crawling.index, "?after=&limit=  links to all files", LIST),
    Route("GET", "/__missing__/", crawling.missing, "what stores still have to get", LIST),
    Route("GET", "/__readme.txt", crawling.readme, "commands for this installation", ANYBODY),
    Route(
        "GET", ANYWHERE, paths.read, "a file; ranges and conditions; or what is in a folder", READ
    ),
    Route("PUT", ANYWHERE, paths.put, "create or replace a file: 201", WRITE),
    Route("DELETE", ANYWHERE, paths.remove, "remove a file: 204", DELETE),
    Route("OPTIONS", ANYWHERE, webdav.options, "what is understood", ANYBODY),
    Route("PROPFIND", ANYWHERE, webdav.find_properties, "Depth: 0 or 1  properties: 207", LIST),
    Route(
        "MKCOL", ANYWHERE, webdav.make_folder, "a folder, as soon as a file is in it: 201", WRITE
    ),
    Route("COPY", ANYWHERE, webdav.copy, "Destination:  copy a file: 201, 204", WRITE),
    Route("MOVE", ANYWHERE, webdav.move, "Destination:  move a file: 201, 204", DELETE),
)
UPLOAD: Final = (Route("POST", "/upload", content.upload, "keep the body: 200 with its id", WRITE),)
FETCH: Final = (
    Route("GET", "/fetch/*", content.fetch, "/fetch/ID or /fetch/ID.EXT  a blob", READ),
)
BLOBS: Final = (
    Route("GET", "/alive", content.alive, "200 as long as this process answers", ANYBODY),
    Route("GET", "/blobs", content.listing, "all ids, as one JSON array", LIST),
    Route("GET", "/blob/*", content.read, "/blob/ID  a blob", READ),
    Route("POST", "/blob/*", content.put, "/blob/ID  keep the body under this id: 200", WRITE),
    Route("DELETE", "/blob/*", content.remove, "/blob/ID  remove a blob: 204", DELETE),
)
OBJECTS: Final = (
    Route("GET", "/api/v1/ping", objects.ping, "the name of this member", ANYBODY),
    Route("GET", "/api/v1/id", objects.new_id, "a new ULID", ANYBODY),
    Route("GET", "/api/v1/version", objects.version, "the version of this software", ANYBODY),
    Route("GET", "/api/v1/stats", objects.stats, "the disk, and counters", LIST),
    Route(
        "POST", "/api/v1/put", objects.put, "X-Meta-ID:  keep the body under this id: 200", WRITE
    ),
    Route("GET", "/api/v1/get/*", objects.read, "/api/v1/get/ID  an object", READ),
    Route(
        "GET", "/api/v1/meta/*", objects.meta, "/api/v1/meta/ID  what is known of an object", READ
    ),
    Route(
        "POST",
        "/api/v1/delete/*",
        objects.remove,
        "/api/v1/delete/ID  delete an object: 200",
        DELETE,
    ),
)
HEALTH: Final = (
    Route("GET", "/health/live", health.live, "200 as long as this process answers", ANYBODY),
    Route("GET", "/health/ready", health.ready, "200 if requests can be served, else 503", ANYBODY),
)
BROWSER: Final = (
    Route("GET", "/browse", browser.moved, "to /browse/", ANYBODY),
    Route("GET", "/browse/*", browser.show, "/browse/  files and folders, for people", ANYBODY),
)
METRICS: Final = (Route("GET", "/metrics", metrics.show, "counters, for Prometheus", LIST),)
API: Final = (
    Route("GET", "/openapi.json", api.document, "this description, as OpenAPI 3.1", ANYBODY),
    Route("GET", "/api/", api.page, "this description, as a page", ANYBODY),
    Route("GET", "/api/common.css", pages.shown("common.css"), "how all pages look", ANYBODY),
    Route("GET", "/api/page.css", pages.shown("api/page.css"), "how that page looks", ANYBODY),
)
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
    "browser": BROWSER,
    "api": API,
}
"""Wherever GET is allowed, so is HEAD: the same without a body."""

METHODS: Final = frozenset({"HEAD"}).union(
    route.method for routes in FACES.values() for route in routes
)
"""The methods that mean anything anywhere."""

FOR_PROGRAMS: Final = frozenset({"upload", "fetch", "blobs", "objects"})
"""The faces whose refusals are JSON, whoever asks."""

_DOORS: Final = {"/browse/*": "browse/", "/status/*": "status/", "/api/": "api/"}
"""Where a browser is led that asks for nothing but the server: the first that is shown."""

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


def _permission(request: web.BaseRequest, allowed: cors.Cors, origin: str) -> http.Answer:
    """Return what a browser is told that asks whether a page may ask: for that no token is needed,
    and what is at the address does not matter.
    """
    http.begin(request, http.NO_FACE, "OPTIONS")
    if unclear := framing.refuse_framing(request):
        return unclear
    if not allowed.allows(origin):
        return http.refuse(request, 403, "pages of this origin may not ask: see cors.origins")
    return http.Answer(204, allowed.permission(origin, request.headers))


def _internal_error(request: web.BaseRequest) -> http.Answer:
    """Return the refusal for the exception that is being handled, which is logged."""
    asked, target = http.asked_of(request), http.printable(redacted(request.raw_path) or "")
    _log.exception("error on %s %s, request %s", request.method, target, asked.request_id)
    asked.error = http.INTERNAL
    return http.refuse(request, 500, "internal error")


def _strict(route: Route) -> Route:
    """Return ``route``; if it is one of ``STRICT``, it refuses arguments that it does not know."""
    known = STRICT.get((route.method, route.address))
    if known is None:
        return route

    async def answer(site: http.Site, request: web.BaseRequest) -> http.Answer:
        http.check_arguments(request, known)
        return await route.handler(site, request)

    return route._replace(handler=answer)


def shown_of(faces: Container[str]) -> tuple[http.Shown, ...]:
    """Return the routes of ``faces`` as they can be described."""
    return tuple(
        http.Shown(face, route.method, route.address, route.summary, face in FOR_PROGRAMS)
        for face, routes in FACES.items()
        if face in faces
        for route in routes
    )


class App:
    """Answers the requests to one listener, which shows ``faces``."""

    def __init__(self, site: http.Site, faces: Iterable[str]) -> None:
        self._site, self.faces = site, frozenset(faces)
        self.gate = Gate(site.rules)
        """Who may pass."""
        self._routes: dict[str, dict[str, Route]] = {}
        self._only_json: set[str] = set()
        self._face_of: dict[str, str] = {}
        self._by_path_only = "paths" in self.faces and "native" not in self.faces
        for face in sorted(self.faces, key=list(FACES).index):
            for route in FACES[face]:
                self._add(route)
                self._face_of[route.address] = face
                if face in FOR_PROGRAMS:
                    self._only_json.add(route.address)
        self._shown = shown_of(self.faces)
        self.addresses = Addresses(frozenset(self._routes) - {ANYWHERE})
        """The addresses that have a meaning of their own."""

    def _add(self, route: Route) -> None:
        route = _strict(route)
        methods = self._routes.setdefault(route.address, {})
        methods[route.method] = route
        if route.method == "GET":
            methods["HEAD"] = route

    def _address(self, path: str) -> str:
        """Return the address of the route for ``path``."""
        if path in self._routes:
            return path
        return next((each for each in _families(path) if each in self._routes), ANYWHERE)

    def _unknown(self, request: web.BaseRequest) -> http.Answer:
        """Refuse an address that has no meaning; but lead on who is at the door, or has left out
        the slash behind a page: relative, for a proxy that shows it elsewhere.
        """
        path, page = request.path, None
        if path == "/" and "text/html" in request.headers.get("Accept", ""):
            page = next((page for route, page in _DOORS.items() if route in self._routes), None)
        elif f"{path}/" in self._routes:
            page = f"{path.rpartition('/')[2]}/"
        if page is not None and request.method in ("GET", "HEAD"):
            return http.Answer(302, {"Location": page})
        known = ", ".join(each for each in self._routes if not each.endswith(".css"))
        return http.refuse(request, 404, f"no such address; known are {known}")

    async def answer_all_origins(self, request: web.BaseRequest) -> http.Answer:
        """As ``answer``, and tell browsers which pages of other origins may have asked."""
        allowed, origin = self._site.cors, request.headers.get("Origin")
        if allowed is None:
            return await self.answer(request)
        if origin is not None and cors.is_preflight(request.method, request.headers):
            answer = _permission(request, allowed, origin)
        else:
            answer = await self.answer(request)
        if allowed.varies:
            answer.headers["Vary"] = cors.vary(answer.headers.get("Vary"))
        for name, value in allowed.fields(origin).items():
            answer.headers.setdefault(name, value)
        return answer

    async def answer(self, request: web.BaseRequest) -> http.Answer:
        """Answer any request: by its handler, or with the refusal that an error stands for."""
        address = self._address(request.path)
        method = request.method if request.method in METHODS else http.OTHER_METHOD
        http.begin(request, self._face_of.get(address, http.NO_FACE), method)
        if self._site.traces is not None:
            http.trace(self._site.traces, request, address)
        if unclear := framing.refuse_framing(request):
            return unclear
        if getattr(request.protocol, "may_have_large_head", True) and (
            large := framing.refuse_large_head(request, self._site.limits.head_bytes)
        ):
            return large
        self.gate.identify(request)
        throttle = self._site.throttle
        if throttle is not None:
            face = self._face_of.get(address, http.NO_FACE)
            if limited := throttle.refuse(request, face):
                return limited
        if self._site.cluster.has_http_nodes:
            FORWARDED.set(http.forwarded(request))
        request[http.TAKEN] = self.addresses
        request[http.SHOWN] = self._shown
        if self._by_path_only and (misled := paths.refuse_native(request)):
            return misled
        methods = self._routes.get(address)
        if address in self._only_json:
            request[http.ONLY_JSON] = True
        if methods is None:
            return self._unknown(request)
        route = methods.get(request.method)
        if route is None:
            allowed = ", ".join(methods)
            sentence = f"{request.method} is not allowed here; allowed are {allowed}"
            return http.refuse(request, 405, sentence, {"Allow": allowed})
        try:
            face = self._face_of[address]
            if refusal := self.gate.refusal(self._site, request, face, route.scope):
                return refusal
            answer = await route.handler(self._site, request)
            await answer.begin()
            answer = http.kept_apart(request, http.without_sniffing(request, answer))
            return http.without_guesses(request, answer)
        except SfssError as error:
            return http.refuse_error(request, self._site.cluster.meant(error))
        except Exception:
            return _internal_error(request)
