"""The native face: /file and /files.

A path is an argument of the query, so that any path can be named without a clash with addresses of
the service.
"""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from aiohttp import web

from sfss.cluster import Listed
from sfss.errors import BadArgument, NotFound, PreconditionFailed
from sfss.record import Head, Record
from sfss.web import body, conditional, http, mediatypes
from sfss.web.conditional import Span, Validators

LIST_LIMIT: Final = 1000
"""Most files on one page of a listing, and the default."""


async def create(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /files?path=P``: create or replace; 201 with Location and ETag."""
    path, head = await _store(site, request)
    location = f"/file?path={quote(path, safe='/')}"
    return http.Answer(201, {"Location": location, **_validators(head).fields()})


async def put(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``PUT /file?path=P``: create or replace; 200 with ETag."""
    _, head = await _store(site, request)
    return http.Answer(200, _validators(head).fields())


async def _store(site: http.Site, request: web.BaseRequest) -> tuple[str, Head]:
    path = http.path_argument(request)
    site.cluster.check(path)
    limits = body.Limits(site.cluster.max_file_size, site.body_timeout_s)
    file = await body.read_file(request, limits)
    return path, await site.cluster.put(path, file, _guard(request))


async def remove(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``DELETE /file?path=P``: 204, or 404 where there is none."""
    path = http.path_argument(request)
    guard = _guard(request)

    def guard_present(head: Head | None) -> None:
        # Without a file it is 404 whatever the condition (RFC 9110, 13.2.1). Not left to the
        # store: it also calls with None for a damaged file, which meets no condition.
        if head is None:
            raise NotFound(path)
        if guard is not None:
            guard(head)

    if not await site.cluster.delete(path, guard and guard_present):
        raise NotFound(path)
    return http.Answer(204, {})


def _guard(request: web.BaseRequest) -> Callable[[Head | None], None] | None:
    """Return the preconditions of a write as the stores take them; None where there are none."""
    fields = _precondition_fields(request)
    if not fields:
        return None
    if name := conditional.malformed(fields):
        raise BadArgument(name, repr(fields[name]), 'entity tags in quotes or "*" are expected')

    def guard(head: Head | None) -> None:
        current = None if head is None else _validators(head)
        unmet = conditional.unmet(fields, current, reading=False)
        if unmet:
            raise PreconditionFailed(unmet)

    return guard


def _precondition_fields(request: web.BaseRequest) -> dict[str, str]:
    headers = request.headers
    return {name: ", ".join(headers.getall(name)) for name in conditional.FIELDS if name in headers}


def _validators(head: Head) -> Validators:
    modified_s = head.version // 1_000_000 if head.version else None
    return Validators(f'"{head.digest.hex()}"', modified_s)


async def read(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET`` or ``HEAD /file?path=P``: the file, or what the conditions and ranges make of it."""
    path = http.path_argument(request)
    record = await site.cluster.get(path)
    if record is None:
        raise NotFound(path)
    validators = _validators(record.head)
    unmet = conditional.unmet(_precondition_fields(request), validators, reading=True)
    if unmet in conditional.NOT_MODIFIED:
        return http.Answer(304, validators.fields())
    if unmet:
        raise PreconditionFailed(unmet)
    fields = {
        "Content-Type": mediatypes.guess(path),
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        **validators.fields(),
    }
    return _part(request, record, fields) or http.Answer(200, fields, record.body)


def _part(request: web.BaseRequest, record: Record, fields: dict[str, str]) -> http.Answer | None:
    """Return what a Range asks for; None where the whole file is the answer."""
    wanted, if_range = request.headers.get("Range"), request.headers.get("If-Range")
    if wanted is None or request.method != "GET":
        return None
    if not conditional.range_applies(if_range, _validators(record.head)):
        return None
    size = record.head.size
    spans = conditional.parse_range(wanted, size)
    if spans is None:
        return None
    if not spans:
        sentence = f"no such range: the file has {size} bytes"
        return http.refuse(request, 416, sentence, {"Content-Range": f"bytes */{size}"})
    if len(spans) > 1:
        return _parts(record, spans, fields)
    (span,) = spans
    content = memoryview(record.body)[span.start : span.stop]
    return http.Answer(206, {**fields, "Content-Range": span.content_range(size)}, content)


def _parts(record: Record, spans: list[Span], fields: dict[str, str]) -> http.Answer:
    """Return several ranges as multipart/byteranges (RFC 9110, 14.6)."""
    # At random, so that no file can be made to contain it.
    boundary = secrets.token_hex(16)
    view = memoryview(record.body)
    pieces: list[bytes | memoryview] = []
    for span in spans:
        content_range = span.content_range(record.head.size)
        pieces += (
            f"\r\n--{boundary}\r\nContent-Type: {fields['Content-Type']}\r\n"
            f"Content-Range: {content_range}\r\n\r\n".encode("ascii"),
            view[span.start : span.stop],
        )
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    content_type = f"multipart/byteranges; boundary={boundary}"
    return http.Answer(206, {**fields, "Content-Type": content_type}, b"".join(pieces))


async def page(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /files?prefix=&after=&limit=``: a page of what is stored, in byte order of the path.

    ``next`` is what to give as ``after`` for the next page; null on the last.
    """
    prefix = http.argument(request, "prefix") or ""
    after = http.argument(request, "after") or ""
    limit = _limit(http.argument(request, "limit"))
    # One more than asked tells whether there is a next page.
    found = await site.cluster.list(prefix, after, limit + 1)
    files = found[:limit]
    return http.json_answer(
        {
            "files": [_describe(listed) for listed in files],
            "next": files[-1].path if len(found) > limit else None,
        }
    )


_LIMIT: Final = re.compile("[0-9]{1,4}")


def _limit(text: str | None) -> int:
    if text is None:
        return LIST_LIMIT
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= LIST_LIMIT:
        raise BadArgument("limit", repr(text), f"a number from 1 to {LIST_LIMIT} is expected")
    return int(text)


def _describe(listed: Listed) -> dict[str, str | int | None]:
    head = listed.head
    return {
        "path": listed.path,
        "size": head.size,
        "type": mediatypes.guess(listed.path),
        "etag": _validators(head).etag,
        "modified": _rfc3339(head.version) if head.version else None,
    }


def _rfc3339(version: int) -> str:
    seconds, microseconds = divmod(version, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None, microsecond=microseconds)
    return f"{moment.isoformat(timespec='microseconds')}Z"
