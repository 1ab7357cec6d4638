"""What a request needs to be allowed: scopes, each for a path, or for how paths begin.

Paths are those under which files are stored, found as the handlers find them. What has no function
here needs its scope for all that there is (None), and so does what cannot be read: the handler says
what is wrong with it, to those who may ask for anything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from aiohttp import web

from sfss.blob_ids import PREFIX, check_id, path_of
from sfss.errors import SfssError
from sfss.grants import LIST, READ, WRITE
from sfss.web import content, http, paths, webdav

Need: TypeAlias = tuple[str, str | None]
_Function: TypeAlias = Callable[[http.Site, web.BaseRequest, str], Iterable[Need]]

SIGNABLE: Final = frozenset({"GET", "HEAD", "PUT"})
"""The methods of signed URLs, where they name one file."""


def needs(site: http.Site, request: web.BaseRequest, face: str, scope: str) -> Sequence[Need]:
    """Return what ``request`` needs, to a route of ``face`` with ``scope``."""
    function = _FUNCTIONS.get((face, request.path)) or _FUNCTIONS.get((face, ""))
    try:
        return list(function(site, request, scope)) if function else [(scope, None)]
    except SfssError:
        return [(scope, None)]


def signable_path(request: web.BaseRequest, face: str, found: Sequence[Need]) -> str | None:
    """Return the path of the file that a signed URL would name; None where none is good."""
    is_file = face == "paths" or (face, request.path) == ("native", "/file")
    if not is_file or request.method not in SIGNABLE or len(found) != 1:
        return None
    scope, path = found[0]
    return path if scope in (READ, WRITE) else None


def _of_file(_: http.Site, request: web.BaseRequest, scope: str) -> Iterable[Need]:
    yield scope, http.path_argument(request)


def _of_files(site: http.Site, request: web.BaseRequest, scope: str) -> Iterable[Need]:
    if scope != LIST:
        return _of_file(site, request, scope)
    return [(scope, http.argument(request, "prefix") or "")]


def _of_path(site: http.Site, request: web.BaseRequest, scope: str) -> Iterable[Need]:
    location = paths.location_of(site, request)
    if request.method in ("COPY", "MOVE"):
        yield READ, location.path
        yield WRITE, webdav.destination_of(site, request).path
    if request.method == "MKCOL":
        location = location.as_folder
    if request.method != "COPY":
        yield LIST if scope == READ and location.is_folder else scope, location.path


def _of_blob(_: http.Site, request: web.BaseRequest, scope: str) -> Iterable[Need]:
    yield scope, path_of(check_id(content.name_in(request)))


def _of_fetched(_: http.Site, request: web.BaseRequest, scope: str) -> Iterable[Need]:
    yield scope, path_of(check_id(content.fetched_in(request)))


def _of_blobs(_: http.Site, __: web.BaseRequest, scope: str) -> Iterable[Need]:
    yield scope, PREFIX  # of an upload, which one it will be is known when the body is


def _of_all(_: http.Site, __: web.BaseRequest, scope: str) -> Iterable[Need]:
    yield scope, None


_FUNCTIONS: Final[Mapping[tuple[str, str], _Function]] = {
    ("native", "/file"): _of_file,
    ("native", "/files"): _of_files,
    ("paths", ""): _of_path,
    ("paths", "/__index__/"): _of_all,
    ("paths", "/__missing__/"): _of_all,
    ("upload", ""): _of_blobs,
    ("fetch", ""): _of_fetched,
    ("blobs", ""): _of_blob,
    ("blobs", "/blobs"): _of_blobs,
}
"""By face and address; "" for all addresses that are not here."""
