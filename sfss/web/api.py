"""The face "api": the description of all that the listener shows, for programs and for people."""

import json
from functools import lru_cache
from typing import Final

from aiohttp import web
from xxhash import xxh3_128_hexdigest

from sfss.errors import PreconditionFailed
from sfss.web import api_page, conditional, files, http, openapi, pages

_JSON: Final = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
_HTML: Final = {**pages.FIELDS, "Content-Type": "text/html; charset=utf-8"}


class _Made:
    """The description of some routes, made once: as JSON and as a page."""

    def __init__(self, shown: tuple[http.Shown, ...]) -> None:
        found = openapi.document(shown)
        self.json = json.dumps(found, ensure_ascii=False, indent=1).encode() + b"\n"
        self.page = api_page.page(found)


@lru_cache(maxsize=16)
def _made(shown: tuple[http.Shown, ...]) -> _Made:
    return _Made(shown)


async def document(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /openapi.json``: the description in the form of OpenAPI 3.1."""
    return _answer(request, _made(request[http.SHOWN]).json, _JSON)


async def page(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /api/``: the same as a page to read."""
    return _answer(request, _made(request[http.SHOWN]).page, _HTML)


def _answer(request: web.BaseRequest, body: bytes, fields: dict[str, str]) -> http.Answer:
    """Answer with ``body``, or 304 to whoever has it. Raises ``PreconditionFailed``."""
    validators = conditional.Validators(f'"{xxh3_128_hexdigest(body)}"', None)
    unmet = conditional.unmet(files.preconditions(request), validators, reading=True)
    if unmet in conditional.NOT_MODIFIED:
        return http.Answer(304, {**fields, **validators.fields()})
    if unmet:
        raise PreconditionFailed(unmet)
    return http.Answer(200, {**fields, **validators.fields()}, body)
