"""The access log, in the combined format (Apache's mod_log_config).

What a client sent stands in quotes, with quotes, backslashes and all that is not printable ASCII
escaped, so that no request can write a line of its own.
"""

import logging
import re
import time
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from sfss.web import http

_ESCAPED: Final = re.compile(rb'["\\]|[^\x20-\x7e]')


class AccessLogger(AbstractAccessLogger):
    """Writes a line for each answered request."""

    __slots__ = ()

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of one request; ``time`` is how many seconds it took."""
        sent_bytes = response.sent_bytes if isinstance(response, http.Answer) else 0
        headers = request.headers
        line = combined(
            request.remote,
            _request_line(request),
            response.status,
            sent_bytes,
            headers.get("Referer"),
            headers.get("User-Agent"),
        )
        self.logger.info("%s", line)

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""
        return self.logger.isEnabledFor(logging.INFO)


def combined(
    remote: str | None,
    request_line: str | None,
    status: int,
    sent_bytes: int,
    referer: str | None,
    agent: str | None,
) -> str:
    """Return the line; ``sent_bytes`` is the size of the body of the answer."""
    moment = time.strftime("%d/%b/%Y:%H:%M:%S %z")
    return (
        f"{remote or '-'} - - [{moment}] {quoted(request_line)}"
        f" {status} {sent_bytes or '-'} {quoted(referer)} {quoted(agent)}"
    )


def _request_line(request: web.BaseRequest) -> str | None:
    if request.method == "UNKNOWN":  # what aiohttp gives a request that it cannot parse
        return None
    major, minor = request.version
    return f"{request.method} {request.raw_path} HTTP/{major}.{minor}"


def quoted(text: str | None) -> str:
    r"""Return ``text`` in quotes, safe in a line of a log: other bytes as ``\xHH``."""
    if text is None:
        return '"-"'
    encoded = text.encode("utf-8", "surrogateescape")
    escaped = _ESCAPED.sub(lambda match: b"\\x%02X" % match[0][0], encoded)
    return f'"{escaped.decode("ascii")}"'
