"""The access log, in the combined format (Apache's mod_log_config) or as JSON (``json_log``).

What a client sent stands in quotes, with quotes, backslashes and all that is not printable ASCII
escaped, so that no request can write a line of its own. No token stands there, and no signature of
a URL.
"""

import logging
import re
import time
from collections.abc import Mapping
from time import perf_counter
from typing import Final, NamedTuple
from urllib.parse import unquote

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from sfss.web import http

_ESCAPED: Final = re.compile(rb'["\\]|[^\x20-\x7e]')
# What may be a name, with what ends it: something matches wherever it begins, and none of it twice.
_PART: Final = re.compile(r"([^&;=?#]*+)(?:[&;=?#]|\Z)")
_VALUE: Final = re.compile("[^&;#]*+")
_SECRET: Final = frozenset({"signature", "token", "access_token"})
_HIDDEN: Final = "***"


class AccessLogger(AbstractAccessLogger):
    """Writes a line for each answered request."""

    __slots__ = ()

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of one request; ``time`` is how many seconds it took."""
        sent_bytes = response.sent_bytes if isinstance(response, http.Answer) else 0
        headers, asked = request.headers, http.asked_of(request)
        entry = Entry(
            request.remote,
            request_line(request),
            response.status,
            sent_bytes,
            redacted(headers.get("Referer")),
            headers.get("User-Agent"),
            asked.told_id(response.status) or None,
            perf_counter() - asked.began_s,
        )
        self.logger.info(entry)

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""
        return self.logger.isEnabledFor(logging.INFO)


class Entry(NamedTuple):
    """One answered request; ``sent_bytes`` is the size of the body of the answer, ``seconds`` what
    it took, None where that was not worth a look at a clock. As text it is a line in the combined
    format, which has no place for the id.
    """

    remote: str | None
    request: str | None
    status: int
    sent_bytes: int
    referer: str | None
    agent: str | None
    request_id: str | None
    seconds: float | None

    def __str__(self) -> str:
        """Return the line."""
        moment = time.strftime("%d/%b/%Y:%H:%M:%S %z")
        return (
            f"{self.remote or '-'} - - [{moment}] {quoted(self.request)}"
            f" {self.status} {self.sent_bytes or '-'} {quoted(self.referer)} {quoted(self.agent)}"
        )

    def fields(self) -> Mapping[str, object]:
        """Return the same as fields of an object, with all that is known."""
        seconds = None if self.seconds is None else round(self.seconds, 6)
        known = {**self._asdict(), "seconds": seconds}
        return {name: value for name, value in known.items() if value is not None}


def request_line(request: web.BaseRequest) -> str | None:
    """Return the first line of a request, ``redacted``; None of what is none."""
    if request.method == "UNKNOWN":  # what aiohttp gives a request that it cannot parse
        return None
    major, minor = request.version
    return f"{request.method} {redacted(request.raw_path)} HTTP/{major}.{minor}"


def redacted(url: str | None) -> str | None:
    """Return ``url``, or what ends with one, without the values of arguments that are secrets: who
    reads a log shall not be able to do what was allowed to others.
    """
    if url is None or "?" not in url:
        return url
    start = url.index("?") + 1
    shown = [url[:start]]
    while start < len(url) and (part := _PART.match(url, start)):
        shown.append(part[0])
        start = part.end()
        if part[0].endswith("=") and _is_secret(part[1]) and (value := _VALUE.match(url, start)):
            shown.append(_HIDDEN)
            start = value.end()
    return "".join(shown)


def _is_secret(name: str) -> bool:
    return (unquote(name).strip().lower() if "%" in name else name.lower()) in _SECRET


def quoted(text: str | None) -> str:
    r"""Return ``text`` in quotes, safe in a line of a log: other bytes as ``\xHH``."""
    if text is None:
        return '"-"'
    encoded = text.encode("utf-8", "surrogateescape")
    escaped = _ESCAPED.sub(lambda match: b"\\x%02X" % match[0][0], encoded)
    return f'"{escaped.decode("ascii")}"'
