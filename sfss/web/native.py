"""The native face: /file and /files.

A path is an argument of the query, so that any path can be named without a clash with addresses of
the service.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeAlias
from urllib.parse import quote

from aiohttp import web

from sfss.errors import BadArgument
from sfss.record import Head
from sfss.web import files, http
from sfss.web.levels import level

_Found: TypeAlias = tuple[str, Head | None]


async def create(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /files?path=P``: create or replace; 201 with Location and ETag."""
    path = http.path_argument(request)
    kept = await files.receive(site, request, path)
    location = f"/file?path={quote(path, safe='/')}"
    return http.Answer(201, {"Location": location, **files.validators_of(kept.head).fields()})


async def put(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``PUT /file?path=P``: create or replace; 200 with ETag."""
    kept = await files.receive(site, request, http.path_argument(request))
    return http.Answer(200, files.validators_of(kept.head).fields())


async def remove(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``DELETE /file?path=P``: 204, or 404 where there is none."""
    return await files.remove(site, request, http.path_argument(request))


async def read(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET`` or ``HEAD /file?path=P``: the file, or what the conditions and ranges make of it."""
    return await files.show(site, request, http.path_argument(request))


async def page(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /files?prefix=&after=&limit=``: a page of what is stored, in byte order of the path.

    ``next`` is what to give as ``after`` for the next page; null on the last. With ``delimiter=/``
    only files that have no "/" behind the prefix, and ``folders``, which end with "/". ``damaged``,
    where there are any, are paths of the page of which nobody can tell more; they count as files.
    """
    prefix = http.argument(request, "prefix") or ""
    after = http.argument(request, "after") or ""
    limit = http.page_limit(http.argument(request, "limit"))
    if (delimiter := http.argument(request, "delimiter")) is not None:
        if delimiter != "/":
            raise BadArgument("delimiter", repr(delimiter), 'only "/" is known')
        return await _level(site, prefix, after, limit)
    # One more than asked tells whether there is a next page.
    found = await site.cluster.list(prefix, after, limit + 1)
    listed = [(each.path, each.head) for each in found]
    return http.json_answer({**_described(listed[:limit]), "next": _next(listed, limit)})


async def _level(site: http.Site, prefix: str, after: str, limit: int) -> http.Answer:
    found = await level(site.cluster, prefix, after, limit + 1)
    things = found[:limit]
    return http.json_answer(
        {
            **_described([each for each in things if not each.is_folder]),
            "folders": [each.name for each in things if each.is_folder],
            "next": _next(found, limit),
        }
    )


def _next(found: Sequence[_Found], limit: int) -> str | None:
    return found[limit - 1][0] if len(found) > limit else None


def _described(found: Sequence[_Found]) -> dict[str, object]:
    damaged = [path for path, head in found if head is None]
    described: dict[str, object] = {
        "files": [_describe(path, head) for path, head in found if head is not None]
    }
    return {**described, "damaged": damaged} if damaged else described


def _describe(path: str, head: Head) -> dict[str, str | int | None]:
    return {
        "path": path,
        "size": head.size,
        "type": files.media_type_of(head, path),
        "etag": files.validators_of(head).etag,
        "modified": _rfc3339(head.version) if head.version else None,
    }


def _rfc3339(version: int) -> str:
    seconds, microseconds = divmod(version, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None, microsecond=microseconds)
    return f"{moment.isoformat(timespec='microseconds')}Z"
