"""multipart/form-data: the first file of a form, as pure functions over bytes (RFC 2046, RFC 7578).

A form is ``--B`` (headers, empty line, body) repeated, and ``--B--`` at the end, each delimiter on
a line of its own. Only a part with a file name is a file; what comes before it is skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sfss.errors import BadBody, UnsupportedCoding

HEADERS_LIMIT: Final = 16 * 1024
"""Bytes that the headers of one part may have."""

PARTS_LIMIT: Final = 100

_BOUNDARY: Final = re.compile(r';[ \t]*boundary=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)
_BOUNDARY_CHARACTERS: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_LINE_END: Final = re.compile(rb"(--)[ \t]*(?:\r\n|\Z)|[ \t]*\r\n")
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


def first_file(form: bytes | bytearray, boundary: bytes) -> tuple[memoryview, str | None]:
    """Return the body of the first part of ``form`` that is a file, as a view into ``form``, and
    the media type that the form gives it, if any.

    Raises ``BadBody`` where there is none and for a form that is malformed or cut off, and
    ``UnsupportedCoding`` for a file that is coded.
    """
    found: tuple[memoryview, str | None] | None = None
    for number, (headers, start, stop) in enumerate(_parts(form, boundary)):
        if number == PARTS_LIMIT:
            raise BadBody(f"the form has more than {PARTS_LIMIT} parts")
        if found is None and _names_file(headers):
            _check_codings(headers)
            media_type = headers.get(b"content-type")
            said = None if media_type is None else media_type.decode("latin-1")
            found = memoryview(form)[start:stop], said
    if found is None:
        raise BadBody("no part of the form is a file")
    return found


@dataclass(frozen=True, slots=True)
class _Delimiter:
    start: int
    stop: int
    last: bool


def _delimiter(form: bytes | bytearray, line: bytes, position: int) -> _Delimiter:
    """Return the next delimiter; ``line`` is two dashes and the boundary, where a line begins."""
    start = position
    if position or not form.startswith(line):
        while (start := form.find(b"\r\n" + line, start)) >= 0:
            if end := _LINE_END.match(form, start + 2 + len(line)):
                return _Delimiter(start, end.end(), bool(end[1]))
            start += 2  # the boundary is only the beginning of that line
    elif end := _LINE_END.match(form, len(line)):
        return _Delimiter(0, end.end(), bool(end[1]))
    raise BadBody("the form is cut off: its last delimiter is missing")


def _parts(
    form: bytes | bytearray, boundary: bytes
) -> Iterator[tuple[dict[bytes, bytes], int, int]]:
    """Yield headers, start and stop of the body of each part, to the end of the form."""
    line = b"--" + boundary
    opening = _delimiter(form, line, 0)
    while not opening.last:
        # The line end of the delimiter may also be that of an empty block of headers.
        headers_start = opening.stop - 2
        headers_stop = form.find(b"\r\n\r\n", headers_start, headers_start + HEADERS_LIMIT)
        if headers_stop < 0:
            raise BadBody("the headers of a part of the form do not end")
        closing = _delimiter(form, line, headers_stop + 2)
        # An empty body may leave out its own line end: then the delimiter begins in ours.
        start = min(headers_stop + 4, closing.start)
        yield _headers(bytes(form[headers_start:headers_stop])), start, closing.start
        opening = closing


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


def _check_codings(headers: dict[bytes, bytes]) -> None:
    for field, plain in _PLAIN_CODINGS.items():
        coding = headers.get(field, b"").lower()
        if coding and coding not in plain:
            raise UnsupportedCoding(
                coding.decode("utf-8", "backslashreplace"), field.decode().title()
            )
