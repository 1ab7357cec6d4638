"""multipart/form-data: the first file of a form, as pure functions over bytes (RFC 2046, RFC 7578).

A form is ``--B`` (headers, empty line, body) repeated, and ``--B--`` at the end, each delimiter on
a line of its own. Only a part with a file name is a file; what comes before it is skipped.
"""

import re
from collections.abc import Callable
from typing import Final

from sfss.errors import BadBody, UnsupportedCoding
from sfss.record import Buffer

HEADERS_LIMIT: Final = 16 * 1024
"""Bytes that the headers of one part may have."""

PARTS_LIMIT: Final = 100

_BOUNDARY: Final = re.compile(r';[ \t]*boundary=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)
_BOUNDARY_CHARACTERS: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_LINE_END: Final = re.compile(rb"(--)[ \t]*(?:\r\n|\Z)|[ \t]*\r\n")
_PART_OF_LINE_END: Final = re.compile(rb"-?|(?:--)?[ \t]*\r?")
_NO_LINE_END: Final = (0, False)
_CUT_OFF: Final = "the form is cut off: its last delimiter is missing"
_PARAMETER: Final = re.compile(rb';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"]*)')
_PLAIN_CODINGS: Final = {
    b"content-encoding": (b"identity",),
    b"content-transfer-encoding": (b"binary", b"8bit", b"7bit"),
}


def boundary(content_type: str) -> bytes:
    """Return the boundary that the Content-Type of a form names; raise ``BadBody`` without one."""
    match = _BOUNDARY.search(content_type)
    found = "" if match is None else match[1] or match[2] or ""
    if not _BOUNDARY_CHARACTERS.fullmatch(found):
        raise BadBody("its Content-Type names no valid boundary")
    return found.encode("ascii")


def first_file(form: Buffer, boundary: bytes) -> tuple[bytes, str | None]:
    """Return the body of the first part of ``form`` that is a file, and the media type that the
    form gives it, if any; raises as ``FormReader``.
    """
    reader = FormReader(boundary)
    found = [*reader.feed(form), *reader.finish()]
    return b"".join(found), reader.media_type


class FormReader:
    """Gives the body of the first file of a form as the form comes in. Of what has come, only what
    may be a delimiter, or the headers of a part, is held.

    ``media_type`` is what the form gives the file, once that has begun to come. ``BadBody`` is
    raised where there is no file and for a form that is malformed or cut off, ``UnsupportedCoding``
    for a file that is coded.
    """

    def __init__(self, boundary: bytes) -> None:
        self._line = b"--" + boundary
        self._delimiter = b"\r\n" + self._line
        self._unread = b""
        self._read: Callable[[bool], bytes | None] = self._read_opening
        self._parts = 0
        self._has_file = self._is_file = self._is_over = False
        self.media_type: str | None = None

    def feed(self, data: Buffer) -> list[bytes]:
        """Take what has come; return what that tells of the file, in order. Raises ``BadBody``,
        ``UnsupportedCoding``.
        """
        self._unread = b"".join((self._unread, data))
        return self._advance(is_end=False)

    def finish(self) -> list[bytes]:
        """Return what is left of the file, now that the form is at its end; raises as ``feed``."""
        found = self._advance(is_end=True)
        if not self._is_over:
            raise BadBody(_CUT_OFF)
        if not self._has_file:
            raise BadBody("no part of the form is a file")
        return found

    def _advance(self, is_end: bool) -> list[bytes]:
        found: list[bytes] = []
        while True:
            is_file = self._is_file
            piece = self._read(is_end)
            if piece is None:
                return found
            if piece and is_file:
                found.append(piece)

    # Each of these reads on by one step, and returns what it has found of a body; None: more has
    # to come.

    def _read_opening(self, is_end: bool) -> bytes | None:
        if len(self._unread) < len(self._line) and not is_end:
            return None
        if not self._unread.startswith(self._line):
            self._read = self._read_body  # of what is no part
            return b""
        end = self._line_end(len(self._line), is_end)
        if end == _NO_LINE_END:
            raise BadBody(_CUT_OFF)
        return None if end is None else self._pass(end)

    def _read_headers(self, is_end: bool) -> bytes | None:
        stop = self._unread.find(b"\r\n\r\n", 0, HEADERS_LIMIT)
        if stop < 0:
            if is_end or len(self._unread) >= HEADERS_LIMIT:
                raise BadBody("the headers of a part of the form do not end")
            return None
        if self._parts == PARTS_LIMIT:
            raise BadBody(f"the form has more than {PARTS_LIMIT} parts")
        headers = _headers(self._unread[:stop])
        self._parts += 1
        if not self._has_file and _names_file(headers):
            _check_codings(headers)
            self.media_type = _media_type(headers)
            self._has_file = self._is_file = True
        self._take(stop + 2)
        self._read = self._read_line_end
        return b""

    def _read_line_end(self, is_end: bool) -> bytes | None:
        """Drop the line end behind the headers, unless it is that of a delimiter: an empty body may
        leave out its own.
        """
        if self._unread.startswith(self._delimiter):
            end = self._line_end(len(self._delimiter), is_end)
            if end != _NO_LINE_END:
                return None if end is None else self._pass(end)
        elif self._delimiter.startswith(self._unread) and not is_end:
            return None
        self._take(2)
        self._read = self._read_body
        return b""

    def _read_body(self, is_end: bool) -> bytes | None:
        start = self._unread.find(self._delimiter)
        if start < 0:
            kept = 0 if is_end else len(self._delimiter) - 1
            return self._take(max(0, len(self._unread) - kept)) or None
        end = self._line_end(start + len(self._delimiter), is_end)
        if end is None:
            return self._take(start) or None
        if end == _NO_LINE_END:
            return self._take(start + 2)  # the boundary is only the beginning of that line
        piece = self._unread[:start]
        self._pass(end)
        return piece

    def _read_nothing(self, is_end: bool) -> bytes | None:
        self._unread = b""  # what stands behind the form
        return None

    def _line_end(self, position: int, is_end: bool) -> tuple[int, bool] | None:
        """Return where the line of a delimiter ends, and whether it is the last; ``_NO_LINE_END``
        where it is no delimiter, None where more has to come.
        """
        rest = self._unread[position : position + HEADERS_LIMIT]
        if not is_end and len(rest) < HEADERS_LIMIT and _PART_OF_LINE_END.fullmatch(rest):
            return None
        end = _LINE_END.match(self._unread, position)
        return (end.end(), bool(end[1])) if end else _NO_LINE_END

    def _pass(self, end: tuple[int, bool]) -> bytes:
        """Go behind a delimiter: the end of its line may also be that of no headers at all."""
        stop, self._is_over = end
        self._take(stop - 2)
        self._is_file = False
        self._read = self._read_nothing if self._is_over else self._read_headers
        return b""

    def _take(self, size: int) -> bytes:
        piece, self._unread = self._unread[:size], self._unread[size:]
        return piece


def _headers(block: bytes) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if line and not colon:
            raise BadBody("a header of a part of the form is malformed")
        fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _names_file(headers: dict[bytes, bytes]) -> bool:
    # An empty name is what a browser sends for a field in which no file was chosen.
    disposition = headers.get(b"content-disposition", b"")
    return any(
        name.lower() in (b"filename", b"filename*") and value.strip(b' \t"')
        for name, value in _PARAMETER.findall(disposition)
    )


def _media_type(headers: dict[bytes, bytes]) -> str | None:
    media_type = headers.get(b"content-type")
    return None if media_type is None else media_type.decode("latin-1")


def _check_codings(headers: dict[bytes, bytes]) -> None:
    for field, plain in _PLAIN_CODINGS.items():
        coding = headers.get(field, b"").lower()
        if coding and coding not in plain:
            raise UnsupportedCoding(
                coding.decode("utf-8", "backslashreplace"), field.decode().title()
            )
