"""What every face does with a file: take it in, and answer with it, whole or in ranges."""

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from aiohttp import web

from sfss.agreement import Kept
from sfss.errors import BadArgument, NotFound, PreconditionFailed
from sfss.http_text import http_date
from sfss.record import Buffer, Content, Head, Record, StreamedBody, digest_of_any
from sfss.streams import stream
from sfss.web import body, conditional, http, mediatypes, names_kept
from sfss.web.answers import CACHE_CONTROL
from sfss.web.conditional import Span, Validators

PARTS_SIZE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of all ranges of one answer with several; whoever asks for more gets the whole file."""


async def receive(
    site: http.Site,
    request: web.BaseRequest,
    path: str,
    names: Mapping[str, str] = http.NO_FIELDS,
) -> Kept:
    """Keep the file that ``request`` carries at ``path``, and ``names`` with it, if its conditions
    hold: for as long as ``ttl`` in the query or Expires-In says, with the type that the client
    gives, where that is another than its name stands for.
    """
    site.cluster.check(path)
    ttl_s = names_kept.ttl_s(http.argument(request, "ttl"), request.headers.get("Expires-In"))
    file = await read_body(site, request)
    said = names_kept.media_type(file.media_type)
    if said is not None and said != mediatypes.guess(path):
        names = {**names, names_kept.CONTENT_TYPE: said}
    content = Content(file.body, file.digest, names, ttl_s)
    return await site.cluster.put(path, content, guard_of(request))


async def read_body(site: http.Site, request: web.BaseRequest) -> body.Received:
    """Return the file that ``request`` carries; errors as ``body.read_file``."""
    limits = body.Limits(
        site.cluster.max_file_size,
        site.body_timeout_s,
        site.spool_folder,
        least_bytes_per_s=site.limits.least_bytes_per_s,
    )
    return await body.read_file(request, limits)


def media_type_of(head: Head, path: str) -> str:
    """Return the type of a file: what was said of it, else what its name stands for."""
    said = names_kept.media_type(head.metadata.get(names_kept.CONTENT_TYPE))
    return said or mediatypes.guess(path)


async def remove(
    site: http.Site,
    request: web.BaseRequest,
    path: str,
    validators: Callable[[Head], Validators] | None = None,
) -> http.Answer:
    """Remove the file at ``path``: 204; raises ``NotFound`` where there is none. ``validators`` as
    in ``guard_of``.
    """
    guard = guard_of(request, validators)

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


class Look(NamedTuple):
    """How a file is shown: what tells its states apart, its type, ``more`` header fields, and those
    that go with its type and path, which count more.
    """

    validators: Validators
    media_type: str
    more: Mapping[str, str]
    shown: Mapping[str, str]


async def show(
    site: http.Site,
    request: web.BaseRequest,
    path: str,
    more: Callable[[Head], Mapping[str, str]] = lambda _: {},
) -> http.Answer:
    """Answer GET and HEAD with the file at ``path``, or with what conditions and ranges make of it;
    ``more`` gives further header fields of a file.

    Raises ``NotFound``, ``PreconditionFailed``.
    """
    record = await found(site, request, path)
    head = record.head
    media_type = media_type_of(head, path)
    shown = site.answers.of(path, media_type, is_public=http.is_public(request)).fields
    look = Look(validators_of(head), media_type, more(head), shown)
    return await answer(request, record, look)


async def answer(request: web.BaseRequest, record: Record, look: Look) -> http.Answer:
    """Answer GET and HEAD with ``record``, or with what conditions and ranges make of it.

    Raises ``PreconditionFailed``.
    """
    validators, shown = look.validators, _in_time(look.shown, record.head)
    unmet = conditional.unmet(preconditions(request), validators, reading=True)
    if unmet in conditional.NOT_MODIFIED:
        # What a cache keeps is brought up to date by these (RFC 9110, 15.4.5).
        return http.Answer(304, {**validators.fields(), **look.more, **shown})
    if unmet:
        raise PreconditionFailed(unmet)
    fields = {
        "Content-Type": look.media_type,
        "Accept-Ranges": "bytes",
        **shown,
        **validators.fields(),
        **_expires(record.head),
        **look.more,
        **shown,  # where they stand; but no field that was kept with a file takes their place
    }
    whole = (0, record.head.size)
    part = await _part(request, record, validators, fields)
    return part or http.Answer(200, fields, record.body, whole)


def _expires(head: Head) -> dict[str, str]:
    return {"Expires": http_date(head.expiry // 1_000_000)} if head.expiry else {}


_AGE: Final = re.compile(r"(?<![a-z-])((?:s-maxage|max-age)=)([0-9]+)")


def _in_time(shown: Mapping[str, str], head: Head) -> Mapping[str, str]:
    """Return ``shown`` as it is for a file that expires: no cache may have it for longer."""
    caching = shown.get(CACHE_CONTROL)
    if not head.expiry or caching is None:
        return shown
    rest_s = rest_of(head)
    capped = _AGE.sub(lambda match: f"{match[1]}{min(int(match[2]), rest_s)}", caching)
    return {**shown, CACHE_CONTROL: capped}


def rest_of(head: Head) -> int:
    """Return how many seconds, rounded up, a file that expires is still kept."""
    return max(0, -(-(head.expiry - time.time_ns() // 1000) // 1_000_000))


async def found(site: http.Site, request: web.BaseRequest, path: str) -> Record:
    """Return the file at ``path``, for HEAD without its body; raise ``NotFound`` where there is
    none.
    """
    if request.method == "HEAD":
        head = await site.cluster.head(path)
        record = None if head is None else Record(head, b"")
    else:
        record = await site.cluster.get(path)
    if record is None:
        raise NotFound(path)
    return record


def guard_of(
    request: web.BaseRequest, validators: Callable[[Head], Validators] | None = None
) -> Callable[[Head | None], None] | None:
    """Return the preconditions of a write as the stores take them; None where there are none.
    ``validators``: of a file, ``validators_of`` unless given.
    """
    of = validators or validators_of
    fields = preconditions(request)
    if not fields:
        return None
    if name := conditional.malformed(fields):
        raise BadArgument(name, repr(fields[name]), 'entity tags in quotes or "*" are expected')

    def guard(head: Head | None) -> None:
        current = None if head is None else of(head)
        unmet = conditional.unmet(fields, current, reading=False)
        if unmet:
            raise PreconditionFailed(unmet)

    return guard


def preconditions(request: web.BaseRequest) -> dict[str, str]:
    """Return the fields of a request that say under which conditions it is to be done."""
    headers = request.headers
    return {name: ", ".join(headers.getall(name)) for name in conditional.FIELDS if name in headers}


async def digest_of_file(record: Record) -> bytes:
    """Return the digest of what a store has returned, which for a file that another program has
    made is not in its head.
    """
    if isinstance(record.body, StreamedBody):
        return record.head.digest  # such files are made here
    return await asyncio.to_thread(digest_of_any, record.body)


def validators_of(head: Head) -> Validators:
    """Return what tells this state of a file from another."""
    modified_s = head.version // 1_000_000 if head.version else None
    return Validators(f'"{head.digest.hex()}"', modified_s)


async def _part(
    request: web.BaseRequest, record: Record, validators: Validators, fields: dict[str, str]
) -> http.Answer | None:
    """Return what a Range asks for; None where the whole file is the answer."""
    wanted, if_range = request.headers.get("Range"), request.headers.get("If-Range")
    if wanted is None or request.method != "GET":
        return None
    if not conditional.range_applies(if_range, validators):
        return None
    size = record.head.size
    spans = conditional.parse_range(wanted, size)
    if spans is None:
        return None
    if not spans:
        sentence = f"no such range: the file has {size} bytes"
        return http.refuse(request, 416, sentence, {"Content-Range": f"bytes */{size}"})
    if len(spans) > 1:
        if sum(span.stop - span.start for span in spans) > PARTS_SIZE_LIMIT:
            return None
        return await _parts(record, spans, fields)
    (span,) = spans
    fields = {**fields, "Content-Range": span.content_range(size)}
    return http.Answer(206, fields, record.body, (span.start, span.stop))


async def _parts(record: Record, spans: list[Span], fields: dict[str, str]) -> http.Answer:
    """Return several ranges as multipart/byteranges (RFC 9110, 14.6)."""
    # At random, so that no file can be made to contain it.
    boundary = secrets.token_hex(16)
    pieces: list[Buffer] = []
    for span in spans:
        content_range = span.content_range(record.head.size)
        pieces.append(
            f"\r\n--{boundary}\r\nContent-Type: {fields['Content-Type']}\r\n"
            f"Content-Range: {content_range}\r\n\r\n".encode("ascii")
        )
        pieces += [piece async for piece in stream(record.body, span.start, span.stop)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    content_type = f"multipart/byteranges; boundary={boundary}"
    return http.Answer(206, {**fields, "Content-Type": content_type}, b"".join(pieces))
