"""The short way for a plain GET of a file that its store can hand over at once.

A request that is understood here from its bytes alone is answered in the same turn of the event
loop, without a parser, a task or a request object. Everything else goes the long way, through
aiohttp; so does what cannot be answered 200. Both ways give the same bytes but for Date
(``tests/web/test_fast.py``), so a request that could mean anything more than "the whole file,
please, and keep the connection" is not for this module.

The header block of a client is the same bytes from request to request: what was found in a block is
remembered for it.
"""

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp.helpers import rfc822_formatted_time

from sfss.cluster import Cluster
from sfss.errors import SfssError
from sfss.record import Buffer, Head
from sfss.web import http, mediatypes

REQUEST_LIMIT: Final = 4096
"""Bytes of a request that is looked at here; browsers send about 700."""

_BLOCKS_REMEMBERED: Final = 1024

# Of a query's characters (RFC 3986, 3.4) those with no meaning of their own in a form.
_REQUEST_LINE: Final = re.compile(
    rb"GET /file\?path=((?:[A-Za-z0-9._~!$'()*,:@/-]|%[0-9A-Fa-f]{2})+) HTTP/1\.1\r\n"
)
_FIELD: Final = re.compile(
    rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?"
)

# What asks for another answer than the whole file, or for another state of the connection.
_SIGNIFICANT: Final = re.compile(
    rb"if-.*|range|content-.*|transfer-encoding|te|trailer|expect|upgrade|http2-settings"
    rb"|connection|keep-alive|proxy-connection|sec-websocket-.*|x-http-method.*"
)


def means_nothing(block: bytes) -> bool:
    """Tell whether a header block (with the empty line at its end) leaves a GET as plain as it is.

    Strict: each line one well-formed field of ASCII, no name twice, Host among them, and of those
    that could matter none but ``Connection: keep-alive``.
    """
    lines = block.split(b"\r\n")
    if lines[-2:] != [b"", b""]:
        return False
    names: set[bytes] = set()
    for line in lines[:-2]:
        field = _FIELD.fullmatch(line)
        if field is None:
            return False
        name = field[1].lower()
        kept_alive = name == b"connection" and (field[2] or b"").lower() == b"keep-alive"
        if name in names or (_SIGNIFICANT.fullmatch(name) and not kept_alive):
            return False
        names.add(name)
    return b"host" in names


class ShortWay:
    """Answers what it can from ``cluster``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._verdicts: dict[bytes, bool] = {}

    def answer(self, request: bytes) -> tuple[bytes, Buffer] | None:
        """Return head and body of the answer to ``request``, or None: not by this way.

        ``request`` is all that has come, and is answered only if it is one whole request.
        """
        line = _REQUEST_LINE.match(request)
        if line is None or len(request) > REQUEST_LIMIT:
            return None
        block = request[line.end() :]
        verdict = self._verdicts.get(block)
        if verdict is None:
            verdict = self._look_at(block)
        return self._read(line[1]) if verdict else None

    def _look_at(self, block: bytes) -> bool:
        verdict = means_nothing(block)
        if len(self._verdicts) >= _BLOCKS_REMEMBERED:
            self._verdicts.clear()
        self._verdicts[block] = verdict
        return verdict

    def _read(self, target: bytes) -> tuple[bytes, Buffer] | None:
        try:
            path = unquote_to_bytes(target).decode() if b"%" in target else target.decode()
            record = self._cluster.get_now(path)
        except (SfssError, UnicodeDecodeError):
            return None  # the long way finds it again, and says it in words
        return None if record is None else (_head(path, record.head), record.body)


def _head(path: str, head: Head) -> bytes:
    """Return the head of a 200, to the byte as ``native.read`` and aiohttp make it."""
    modified = _last_modified(head.version // 1_000_000) if head.version else ""
    return (
        f"HTTP/1.1 200 OK\r\n{_type_fields(path)}"
        f'ETag: "{head.digest.hex()}"\r\n{modified}'
        f"Content-Length: {head.size}\r\nServer: {http.SOFTWARE}\r\n"
        f"Date: {rfc822_formatted_time()}\r\n\r\n"
    ).encode("ascii")


@lru_cache(maxsize=1024)
def _last_modified(second: int) -> str:
    return f"Last-Modified: {formatdate(second, usegmt=True)}\r\n"


def _type_fields(path: str) -> str:
    # Only what follows the last "/" and its first "." says the type, and that repeats.
    return _fields_of_suffix("".join(path[path.rfind("/") + 1 :].partition(".")[1:]))


@lru_cache(maxsize=1024)
def _fields_of_suffix(suffix: str) -> str:
    return (
        f"Content-Type: {mediatypes.guess('a' + suffix)}\r\nAccept-Ranges: bytes\r\n"
        "X-Content-Type-Options: nosniff\r\n"
    )
