"""Pages for a browser, and what they are made of: files of this package, under ``pages/``.

They are read once, when the routes are made. Nothing of them comes from outside, and what they may
do is said in one place: they run and load their own files only, and stand in no other site's frame.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

from aiohttp import web
from xxhash import xxh3_128_hexdigest

from sfss.errors import PreconditionFailed
from sfss.web import conditional, files, http, mediatypes

FOLDER: Final = Path(__file__).with_name("pages")

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What pages may do, as Content-Security-Policy says it."""

FIELDS: Final = {
    "Cache-Control": "no-cache",  # asked for again each time, for a 304: an upgrade is seen at once
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_TEXT: Final = ("text/", "image/svg")
_COMMON: Final = ("common.css", "sizes.js")

Shown: TypeAlias = Callable[[http.Site, web.BaseRequest], Awaitable[http.Answer]]


def shown_at(top: str, folder: str) -> Shown:
    """Return what answers GET and HEAD of all that lies below the address ``top``: with the page,
    its scripts, styles and pictures, which are in ``folder``, relative to ``FOLDER``; 404 for
    anything else.

    Raises ``OSError`` where there is no page: the package is not whole.
    """
    assets = {"": shown(f"{folder}/index.html"), **{name: shown(name) for name in _COMMON}}
    for file in (FOLDER / folder).iterdir():
        if file.suffix in (".css", ".js", ".svg"):
            assets[file.name] = shown(f"{folder}/{file.name}")

    async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
        """Answer with what the address names, or 404."""
        name = request.path.removeprefix(top)
        asset = assets.get(name)
        if asset is None:
            return http.refuse(request, 404, f"there is no {name} beside the page; it is at {top}")
        return await asset(site, request)

    return show


def shown(name: str) -> Shown:
    """Return what answers GET and HEAD with the file ``name``, relative to ``FOLDER``.

    Raises ``OSError`` where there is none: the package is not whole.
    """
    body = (FOLDER / name).read_bytes()
    validators = conditional.Validators(f'"{xxh3_128_hexdigest(body)}"', None)
    fields = {**FIELDS, **validators.fields()}
    media_type = mediatypes.guess(name)
    if media_type.startswith(_TEXT):
        media_type = f"{media_type}; charset=utf-8"

    async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
        """Answer with the file, or 304 to whoever has it. Raises ``PreconditionFailed``."""
        unmet = conditional.unmet(files.preconditions(request), validators, reading=True)
        if unmet in conditional.NOT_MODIFIED:
            return http.Answer(304, fields)
        if unmet:
            raise PreconditionFailed(unmet)
        return http.Answer(200, {**fields, "Content-Type": media_type}, body)

    return show
