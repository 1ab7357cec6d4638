"""What is in a folder: as a page, as JSON, or for a WebDAV client (PROPFIND).

A page has a limited number of things, and a link to the next. The two others have all at once, as
programs expect that may not know of pages: they are written to a spool before they are sent, so
that a folder of any size is held in memory only piece by piece.
"""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

from sfss.cluster import Thing
from sfss.errors import CannotList, NotFound, StoreError
from sfss.http_text import http_date
from sfss.record import Body, Head
from sfss.spool import HELD_LIMIT, Spool
from sfss.web import files, html, http
from sfss.web.locations import Location, is_addressable, reference

_JSON_FIELDS: Final = {
    "Content-Type": "application/json",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}

_REMEMBERED_LIMIT: Final = 1000
"""Folders without files that a worker remembers."""


async def show(site: http.Site, request: web.BaseRequest, location: Location) -> http.Answer:
    """Answer GET with what is in a folder: a page, or JSON where ``Accept`` names that.

    ``after`` and ``limit`` in the query say which part of it. Raises ``NotFound`` for an empty
    folder but the topmost, ``CannotList``.
    """
    as_json = http.wants_json(request)
    after, limit = http.argument(request, "after"), http.argument(request, "limit")
    if as_json and after is None and limit is None:
        return await _all_as_json(site, location)
    most = http.page_limit(limit)
    # One more than shown tells whether there is a next page.
    found = await site.cluster.folder(location.path, after or "", most + 1)
    if not found and not after and not await is_there(site, location):
        raise NotFound(location.asked)
    following = None
    if len(found) > most:
        found = found[:most]
        following = f"?after={quote(found[-1].name, safe='')}&limit={most}"
    things = _addressable(found)
    if as_json:
        links = {"Link": f'<{following}>; rel="next"'} if following else {}
        document = ",\n".join(map(_as_json, things))
        return http.Answer(200, {**_JSON_FIELDS, **links}, f"[\n{document}\n]\n".encode())
    rows = [_as_row(thing) for thing in things]
    if location.path:
        rows.insert(0, html.Row("../", "../"))
    body = html.page(f"Index of /{location.asked}", [html.Section("", rows)], following)
    return http.Answer(200, html.FIELDS, body)


async def is_there(site: http.Site, location: Location) -> bool:
    """Tell whether there is a folder at ``location``: the topmost is, any other with files below
    it, and those that are remembered. Raises ``CannotList``, ``NoStoreReachable``.
    """
    known = not location.path or location.path in site.made_folders
    return known or await has_files(site, location)


async def has_files(site: http.Site, location: Location) -> bool:
    """Tell whether there are files below ``location``; raises as ``is_there``."""
    return bool(await site.cluster.folder(location.path, "", 1))


def remember(site: http.Site, location: Location) -> None:
    """Remember a folder without files: in this worker, so for the same connection, and not for
    ever. A client that has made a folder looks into it before it puts a file there.
    """
    forget(site, location)
    site.made_folders[location.path] = None
    if len(site.made_folders) > _REMEMBERED_LIMIT:
        del site.made_folders[next(iter(site.made_folders))]


def forget(site: http.Site, location: Location) -> None:
    """Remember the folder no more."""
    site.made_folders.pop(location.path, None)


async def moved(site: http.Site, location: Location) -> http.Answer | None:
    """Return where to look instead of ``location``, at which there is no file: in the folder of
    this name; None if there is none, or if nobody can tell.
    """
    try:
        if not await is_there(site, location.as_folder):
            return None
    except StoreError:
        return None  # that there is no such file is certain all the same
    return http.Answer(301, {"Location": reference(f"/{location.asked}/")})


async def _pages(site: http.Site, location: Location) -> AsyncIterator[list[Thing]]:
    """Yield all that is in a folder."""
    after = ""
    while found := await site.cluster.folder(location.path, after, http.PAGE_LIMIT):
        yield _addressable(found)
        after = found[-1].name


def _addressable(things: Sequence[Thing]) -> list[Thing]:
    return [thing for thing in things if is_addressable(thing.name)]


async def _spooled(site: http.Site, pieces: AsyncIterator[str]) -> Body:
    spool = Spool(site.spool_folder, HELD_LIMIT)
    async for piece in pieces:
        await spool.write(piece.encode("utf-8", "backslashreplace"))
    body, _ = await spool.finish()
    return body


async def _all_as_json(site: http.Site, location: Location) -> http.Answer:
    if not await is_there(site, location):
        raise NotFound(location.asked)

    async def pieces() -> AsyncIterator[str]:
        separator = "[\n"
        async for things in _pages(site, location):
            for thing in things:
                yield separator + _as_json(thing)
                separator = ",\n"
        yield "[]\n" if separator == "[\n" else "\n]\n"

    return http.Answer(200, _JSON_FIELDS, await _spooled(site, pieces()))


def _as_json(thing: Thing) -> str:
    """Return what nginx's ``autoindex_format json`` says of a file or folder, as far as it is
    known; and of a file the rest of its head, for another sfss.
    """
    if thing.is_folder:
        return json.dumps({"name": thing.name.rstrip("/"), "type": "directory"})
    if thing.head is None:
        return json.dumps({"name": thing.name, "type": "other", "damaged": True})
    # Whoever reads it as nginx's expects a time of every file, if only that of 1970.
    modified = http_date(thing.head.version // 1_000_000)
    described: dict[str, object] = {"name": thing.name, "type": "file", "mtime": modified}
    if thing.head.version:
        described["version"] = thing.head.version
        described["digest"] = thing.head.digest.hex()
    return json.dumps({**described, "size": thing.head.size})


def _as_row(thing: Thing) -> html.Row:
    if thing.head is None:
        details = () if thing.is_folder else ("", "damaged")
        return html.Row(thing.name, reference(thing.name), details)
    size, version = str(thing.head.size), thing.head.version
    modified = ""
    if version:
        modified = datetime.fromtimestamp(version // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return html.Row(thing.name, reference(thing.name), (modified, size))


async def properties(site: http.Site, location: Location, deep: bool) -> Body:
    """Return a multistatus (RFC 4918, 13): the properties of the file or folder at ``location``,
    ``deep``: and those of what is in the folder. Raises ``NotFound``.

    Asked ``deep``, a URL that ends with ``/`` is that of a folder, which may be empty: clients look
    into one from which they have just removed the last file. Which properties were asked for makes
    no difference: all that are known are told.
    """
    head = None if location.is_folder else await site.cluster.head(location.path)
    may_be_empty = deep and location.is_folder
    if head is None and not may_be_empty and not await _is_known(site, location.as_folder):
        raise NotFound(location.asked)

    async def pieces() -> AsyncIterator[str]:
        yield '<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">\n'
        if head is not None:
            yield _response(location.asked, head)
        else:
            async for piece in _responses(site, location.as_folder, deep):
                yield piece
        yield "</D:multistatus>\n"

    return await _spooled(site, pieces())


async def _responses(site: http.Site, folder: Location, deep: bool) -> AsyncIterator[str]:
    yield _response(folder.asked, None)
    if deep:
        async for things in _pages(site, folder):
            yield "".join(
                _response(folder.asked + thing.name, thing.head)
                if thing.head is not None or thing.is_folder
                else _damaged(folder.asked + thing.name)
                for thing in things
            )


async def _is_known(site: http.Site, folder: Location) -> bool:
    """Tell whether there is such a folder; where no store can list, none is known."""
    try:
        return await is_there(site, folder)
    except CannotList:
        return False


def _damaged(asked: str) -> str:
    return (
        f"<D:response><D:href>{escape(reference(f'/{asked}'))}</D:href>"
        "<D:status>HTTP/1.1 500 Internal Server Error</D:status></D:response>\n"
    )


def _response(asked: str, head: Head | None) -> str:
    if head is None:
        properties = "<D:resourcetype><D:collection/></D:resourcetype>"
    else:
        validators = files.validators_of(head)
        properties = (
            f"<D:resourcetype/><D:getcontentlength>{head.size}</D:getcontentlength>"
            f"<D:getcontenttype>{escape(files.media_type_of(head, asked))}</D:getcontenttype>"
            f"<D:getetag>{validators.etag}</D:getetag>"
        )
        if head.version:
            modified = http_date(head.version // 1_000_000)
            properties += f"<D:getlastmodified>{modified}</D:getlastmodified>"
    return (
        f"<D:response><D:href>{escape(reference(f'/{asked}'))}</D:href><D:propstat>"
        f"<D:prop>{properties}</D:prop><D:status>HTTP/1.1 200 OK</D:status>"
        "</D:propstat></D:response>\n"
    )
