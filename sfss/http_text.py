"""Answers of HTTP/1.1 servers as bytes, the dates in them, and what a host is. Pure.

Strict, for nobody but a server that is asked for files is read here: whatever RFC 9112 lets a
recipient mend (folded fields, bare line feeds, lengths that contradict each other) is refused, and
so is whatever was not asked for: interim answers, ranges, coded bodies, bytes behind the end. A
body whose end is not marked is refused, too: cut off, it would look whole.
"""

import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Final

HEAD_LIMIT: Final = 16 * 1024
"""Bytes that a head may have where nobody says otherwise, and the trailer of a chunked body."""

LENGTH_LIMIT: Final = 1 << 53
"""Bytes of a body that anybody could mean."""

_CHUNK_LINE_LIMIT: Final = 256
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME: Final = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]++"
_BLOCK: Final = re.compile(rb"(?:\r\n" + _NAME + rb":[\t\x20-\x7e\x80-\xff]*+)*+")
_FIELD: Final = re.compile(rb"\r\n(" + _NAME + rb"):[ \t]*+([^\r]*)")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,14})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_DIGITS: Final = re.compile(rb"[0-9]{1,16}")

# What may not be said twice: what it would mean is anybody's guess.
_ONCE: Final = (
    b"content-length",
    b"transfer-encoding",
    b"content-encoding",
    b"content-range",
    b"last-modified",
    b"connection",
)
_NO_BODY: Final = frozenset({204, 304})


class BadResponse(Exception):
    """Raised when the bytes are no answer that can be trusted; says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says before its body. ``fields`` by lower-case name, several of one name
    joined by commas (RFC 9110, 5.2); ``length`` of the body in bytes, None where it comes in chunks
    or is not said (to HEAD); ``keeps`` the connection.
    """

    status: int
    fields: Mapping[bytes, bytes]
    length: int | None
    keeps: bool


class ResponseParser:
    """Takes the bytes of one answer as they come; ``is_head``: to a HEAD request.

    ``head`` is there as soon as it has come, ``complete`` says that nothing is to follow.
    ``head_limit``: bytes that the head may have.
    """

    __slots__ = ("_chunks", "_head_limit", "_is_head", "_left", "_text", "complete", "head")

    def __init__(self, is_head: bool = False, head_limit: int = HEAD_LIMIT) -> None:
        self._is_head, self._head_limit = is_head, head_limit
        self._text = b""  # of what has to come whole
        self._left = 0
        self._chunks: _Chunks | None = None
        self.head: Head | None = None
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` holds of the body; raise ``BadResponse``."""
        if self.head is None:
            text = self._text + data if self._text else data
            end = text.find(b"\r\n\r\n", max(0, len(self._text) - 3))
            if (len(text) if end < 0 else end) > self._head_limit:
                raise BadResponse(f"a head of over {self._head_limit} bytes")
            if end < 0:
                self._text = text
                return b""
            self._begin(text[:end])
            data = text[end + 4 :]
        if self._chunks is not None:
            body = self._chunks.feed(data)
            self.complete = self._chunks.ended
            return body
        if len(data) > self._left:
            raise BadResponse("bytes behind the end of the answer")
        self._left -= len(data)
        self.complete = not self._left
        return data

    def _begin(self, text: bytes) -> None:
        self.head = head = read_head(text)
        self._text = b""
        if self._is_head or head.status in _NO_BODY:
            return
        if head.length is not None:
            self._left = head.length
        elif b"transfer-encoding" in head.fields:
            self._chunks = _Chunks()
        else:
            raise BadResponse("neither Content-Length nor chunks")


def read_head(text: bytes) -> Head:
    """Return the head of an answer, without the empty line at its end; raise ``BadResponse``."""
    end = text.find(b"\r\n")
    line = _STATUS_LINE.fullmatch(text if end < 0 else text[:end])
    if line is None:
        raise BadResponse(f"no status line: {text[:80]!r}")
    status = int(line[2])
    if status < 200:
        raise BadResponse(f"an answer {status} that nobody waits for")
    fields = _fields(text, len(text) if end < 0 else end)
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise BadResponse(f"a coded body: {fields[b'content-encoding'][:80]!r}")
    length = _length(fields)
    chunked = b"transfer-encoding" in fields
    if chunked and (length is not None or fields[b"transfer-encoding"].lower() != b"chunked"):
        raise BadResponse("a body of unclear length")
    if chunked and line[1] == b"0":
        raise BadResponse("chunks in HTTP/1.0")
    return Head(status, fields, length, _keeps(fields, line[1] == b"1"))


def _fields(text: bytes, start: int) -> dict[bytes, bytes]:
    if _BLOCK.fullmatch(text, start) is None:
        raise BadResponse("a line of the head that is no field")
    pairs = _FIELD.findall(text, start)
    fields = {name.lower(): value.rstrip(b" \t") for name, value in pairs}
    if len(fields) != len(pairs):
        names = [name.lower() for name, _ in pairs]
        for name in _ONCE:
            if names.count(name) > 1:
                raise BadResponse(f"{name.decode()} twice")
        return _joined(pairs)
    return fields


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        found.setdefault(name.lower(), []).append(value.rstrip(b" \t"))
    return {name: b", ".join(values) for name, values in found.items()}


def _length(fields: Mapping[bytes, bytes]) -> int | None:
    text = fields.get(b"content-length")
    if text is None:
        return None
    if _DIGITS.fullmatch(text) is None or (length := int(text)) > LENGTH_LIMIT:
        raise BadResponse(f"a Content-Length of {text[:80]!r}")
    return length


def _keeps(fields: Mapping[bytes, bytes], by_default: bool) -> bool:
    said = fields.get(b"connection")
    if said is None:
        return by_default
    options = {option.strip() for option in said.lower().split(b",")}
    return b"close" not in options and (by_default or b"keep-alive" in options)


class _Chunks:
    """A body in chunks (RFC 9112, 7.1). Extensions and trailers are read over."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0  # of a chunk and the line end behind it
        self._in_trailer = self.ended = False
        self._trailer_size = 0

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` holds of the body."""
        pieces: list[bytes] = []
        position = 0
        while position < len(data):
            if self.ended:
                raise BadResponse("bytes behind the end of the answer")
            if self._left > 2:
                piece = data[position : position + self._left - 2]
                pieces.append(piece)
                self._left -= len(piece)
                position += len(piece)
            elif self._left:
                position = self._end_chunk(data, position)
            else:
                position = self._take_line(data, position)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _end_chunk(self, data: bytes, position: int) -> int:
        if data[position] != b"\n\r"[self._left - 1]:
            raise BadResponse("a chunk that is longer than it says")
        self._left -= 1
        return position + 1

    def _take_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > (HEAD_LIMIT if self._in_trailer else _CHUNK_LINE_LIMIT):
            raise BadResponse("a line among the chunks that does not end")
        if end >= 0:
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise BadResponse("a line among the chunks that ends wrong")
            self._use_line(line[:-2])
        return stop

    def _use_line(self, line: bytes) -> None:
        if self._in_trailer:
            self._trailer_size += len(line)
            if line and _BLOCK.fullmatch(b"\r\n" + line) is None:
                raise BadResponse("a line of the trailer that is no field")
            if self._trailer_size > HEAD_LIMIT:
                raise BadResponse(f"a trailer of over {HEAD_LIMIT} bytes")
            self.ended = not line
            return
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise BadResponse(f"no size of a chunk: {line[:80]!r}")
        size = int(found[1], 16)
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0


_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1
    )
}
_DATE: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4})"
    rb" ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)


_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*+)(?::[0-9]*)?"
)


def is_host(text: str) -> bool:
    """Tell whether ``text`` is a Host (RFC 9110, 7.2): as in an URI, with a port or without; it may
    be empty.
    """
    return _HOST.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def http_date(second: int) -> str:
    """Return a second since 1970 as an HTTP-date (RFC 9110, 5.6.7)."""
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=4096)
def second_of(date: bytes) -> int:
    """Return the second since 1970, not before, that an HTTP-date names; raise ``BadResponse``."""
    found = _DATE.fullmatch(date)
    month = None if found is None else _MONTHS.get(found[2])
    if found is None or month is None:
        raise BadResponse(f"no date: {date[:80]!r}")
    day, year, hour, minute, second = map(int, found.group(1, 3, 4, 5, 6))
    if not (1 <= day <= 31 and hour < 24 and minute < 60 and second < 61 and year):
        raise BadResponse(f"no date: {date[:80]!r}")
    return max(0, timegm((year, month, day, hour, minute, second)))
