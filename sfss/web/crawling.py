"""Addresses for machines that copy this one: what there is, what stores have missed, and how to.

A crawler such as ``wget -r`` that begins at one of the first two gets the files, page by page.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web

from sfss.cluster import Listed, Missing
from sfss.web import html, http
from sfss.web.locations import is_addressable, reference

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_WGET: Final = "-nH -nv -e robots=off --no-iri --restrict-file-names=nocontrol"
"""Without the last two, wget asks for another file where a name has a ``%``, and calls others than
ASCII otherwise.
"""


async def index(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /__index__/``: links to all files, in pages; JSON where ``Accept`` names that.

    Raises ``CannotList``.
    """
    after, limit = _position(request)
    found = await site.cluster.list("", after, limit + 1)
    listed = found[:limit]
    following = listed[-1].path if len(found) > limit else None
    if http.wants_json(request):
        files = [{"path": each.path, "size": each.head.size} for each in listed if each.head]
        damaged = [each.path for each in listed if each.head is None]
        more = {"damaged": damaged} if damaged else {}
        return http.json_answer({"files": files, **more, "next": following})
    rows = [_link(each.path, _size(each)) for each in listed if is_addressable(each.path)]
    return _page("All files", [html.Section("", rows)], following, limit)


async def missing(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /__missing__/``: the writes that stores still have to get, by store and day, in pages;
    JSON where ``Accept`` names that. ``store`` in the query: those of one store alone.
    """
    after, limit = _position(request)
    store = http.argument(request, "store")
    place = after.encode("utf-8", "replace")
    found = await site.cluster.missing(place, limit)
    following = found[-1].place.decode("utf-8", "replace") if len(found) == limit else None
    owed = [each for each in found if store in (None, each.address)]
    if http.wants_json(request):
        return http.json_answer({"missing": list(map(_described, owed)), "next": following})
    return _page("Missing", _by_store_and_day(owed), following, limit, store)


def _position(request: web.BaseRequest) -> tuple[str, int]:
    limit = http.page_limit(http.argument(request, "limit"))
    return http.argument(request, "after") or "", limit


def _page(
    title: str,
    sections: Sequence[html.Section],
    after: str | None,
    limit: int,
    store: str | None = None,
) -> http.Answer:
    following = None
    if after is not None:
        names = {"after": after, "limit": str(limit), **({"store": store} if store else {})}
        following = "?" + urlencode(names, quote_via=quote, safe="")
    return http.Answer(200, html.FIELDS, html.page(title, sections, following))


def _size(listed: Listed) -> str:
    return "damaged" if listed.head is None else str(listed.head.size)


def _link(path: str, *details: str) -> html.Row:
    return html.Row(f"/{path}", reference(f"/{path}"), details)


def _by_store_and_day(owed: Sequence[Missing]) -> list[html.Section]:
    def heading(each: Missing) -> str:
        return f"{each.address}, {_day(each) or 'at any time'}"

    groups = groupby(sorted(owed, key=heading), key=heading)
    return [html.Section(title, list(map(_missing_row, each))) for title, each in groups]


def _missing_row(missing: Missing) -> html.Row:
    if missing.path is None:
        return html.Row("more than was noted: it has to be repaired", None)
    if not is_addressable(missing.path):
        return html.Row(f"/{missing.path}", None)
    return _link(missing.path)


def _described(missing: Missing) -> Mapping[str, str | int | None]:
    return {
        "store": missing.address,
        "path": missing.path,
        "version": missing.version,
        "day": _day(missing),
    }


def _day(missing: Missing) -> str | None:
    """Return the day of the version (UTC); None where that is not known."""
    try:
        return datetime.fromtimestamp(missing.version // 1_000_000, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return None


async def readme(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /__readme.txt``: commands for this very installation."""
    host = request.headers.get("Host", "")
    url = f"{request.scheme}://{host if _HOST.fullmatch(host) else 'HOST:PORT'}"
    text = _README.format(url=url, wget=_WGET, size=site.cluster.max_file_size)
    fields = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    return http.Answer(200, fields, text.encode("ascii"))


_README: Final = """\
Files at {url}/ by path. One may have {size} bytes.

Put a file; the answer says what has become of it at each store:

    curl -T FILE {url}/folder/name

Get it, or only its head:

    curl -O {url}/folder/name
    curl -I {url}/folder/name

Remove it:

    curl -X DELETE {url}/folder/name

Look into a folder; as JSON:

    curl -H "Accept: application/json" {url}/folder/

Copy everything into the folder that you are in:

    wget -r -l inf -N {wget} {url}/__index__/; rm -r __index__

Copy what stores have missed; they also get it by themselves:

    wget -r -l inf {wget} {url}/__missing__/; rm -r __missing__

With a WebDAV client:

    rclone copy FOLDER :webdav:folder --webdav-url {url}
    cadaver {url}/
"""
