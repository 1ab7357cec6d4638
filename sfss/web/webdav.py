"""What WebDAV (RFC 4918, class 1) has beside GET, PUT and DELETE.

Not there: locks, properties that clients set, and whatever works on a folder with all in it.
"""

import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from sfss.errors import BadArgument, NotFound, PreconditionFailed, StoreError
from sfss.record import Content, Head
from sfss.web import files, folders, http, mediatypes, names_kept
from sfss.web.locations import Location, locate, reference
from sfss.web.paths import location_of

METHODS: Final = "GET, HEAD, PUT, DELETE, OPTIONS, PROPFIND, MKCOL, COPY, MOVE"

_XML: Final = {"Content-Type": "application/xml; charset=utf-8"}
_FINITE_DEPTH: Final = (
    b'<?xml version="1.0" encoding="utf-8"?>\n'
    b'<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>\n'
)


class _Changed(Exception):
    """Raised when what was copied is not there any more as it was."""


async def options(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Say what is understood here; the same for every path, whatever is there."""
    return http.Answer(200, {"Allow": METHODS, "DAV": "1", "MS-Author-Via": "DAV"})


async def find_properties(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer PROPFIND, of depth 0 or 1: 207; see ``folders.properties``."""
    location = location_of(site, request)
    depth = request.headers.get("Depth", "infinity")
    if depth not in ("0", "1"):
        return http.Answer(403, _XML, _FINITE_DEPTH)
    return http.Answer(207, _XML, await folders.properties(site, location, depth == "1"))


async def make_folder(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer MKCOL: 201 where nothing is in the way. No store keeps it: the folder is there as soon
    as a file is; until then see ``folders.remember``.
    """
    location = location_of(site, request).as_folder
    if request.body_exists:
        return http.refuse(request, 415, "MKCOL with a body is not understood")
    name = location.path.rstrip("/")
    if not name or await site.cluster.head(name) is not None or await _is_there(site, location):
        sentence = "there is something of this name already"
        return http.refuse(request, 405, sentence, {"Allow": METHODS})
    folders.remember(site, location)
    return http.Answer(201, {})


async def _is_there(site: http.Site, location: Location) -> bool:
    try:
        return await folders.is_there(site, location)
    except StoreError:
        return False  # nothing hangs on it


async def copy(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer COPY of a file: 201, or 204 where it replaces one."""
    return (await _copied(site, request))[0]


async def move(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer MOVE of a file: a copy, and then a removal of what was copied."""
    answer, head = await _copied(site, request)

    def guard(found: Head | None) -> None:
        if found is not None and (found.version, found.digest) != (head.version, head.digest):
            raise _Changed

    try:
        await site.cluster.delete(location_of(site, request).path, guard)
    except _Changed:
        return http.refuse(request, 409, "it was copied, and then changed: it is still there, too")
    return answer


async def _copied(site: http.Site, request: web.BaseRequest) -> tuple[http.Answer, Head]:
    """Copy a file; return the answer, and the head of what was copied."""
    source, target = location_of(site, request), destination_of(site, request)
    if source.is_folder or target.is_folder:
        raise BadArgument("the folder", "not a file", "files are copied and moved one by one")
    if source.path == target.path:
        raise BadArgument("Destination", "the same file", "another is expected")
    record = await site.cluster.get(source.path)
    if record is None:
        raise NotFound(source.path)
    found: list[Head | None] = []
    overwrites = request.headers.get("Overwrite", "T").upper() != "F"

    def guard(head: Head | None) -> None:
        found.append(head)
        if head is not None and not overwrites:
            raise PreconditionFailed("Overwrite")

    digest = await files.digest_of_file(record)
    names = _names_at(record.head, source.path, target.path)
    content = Content(record.body, digest, names, _ttl_s(record.head))
    kept = await site.cluster.put(target.path, content, guard)
    status, fields = _status_of(found), files.validators_of(kept.head).fields()
    if status == 201:
        fields["Location"] = reference(f"/{target.asked}")
    return http.Answer(status, fields), record.head


def _ttl_s(head: Head) -> int | None:
    """Return for how many seconds a copy is kept: as long as what it is made from."""
    if not head.expiry:
        return None
    return max(1, (head.expiry - time.time_ns() // 1000) // 1_000_000)


def _names_at(head: Head, source: str, target: str) -> dict[str, str]:
    """Return what is kept with a copy: its type, too, where its name stands for another."""
    media_type = files.media_type_of(head, source)
    names = {**head.metadata, names_kept.CONTENT_TYPE: media_type}
    if media_type == mediatypes.guess(target):
        del names[names_kept.CONTENT_TYPE]
    return names


def _status_of(found: Sequence[Head | None]) -> int:
    return 201 if not found or found[-1] is None else 204


def destination_of(site: http.Site, request: web.BaseRequest) -> Location:
    """Return where to copy or move to; raise ``BadArgument`` for what is not on this server."""
    destination = request.headers.get("Destination")
    if destination is None:
        raise BadArgument("Destination", "missing", "a URL of this server is expected")
    if not destination.startswith("/") or destination.startswith("//"):
        try:
            host = urlsplit(destination).netloc
        except ValueError:
            host = ""
        if host.lower() != request.headers.get("Host", "").lower():
            raise BadArgument("Destination", "elsewhere", "a URL of this server is expected")
    location = locate(destination, site.rewrites)
    if f"/{location.asked}" in request[http.TAKEN]:
        raise BadArgument("Destination", "an address of the service", "another name is expected")
    return location
