"""The body of a request as one file: raw or in a form, whole, within the limit and in time.

Nothing is asked for and nothing is read before the head of the request has been found in order, so
a client that waits for ``100 Continue`` learns of a refusal without sending a byte of its body.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp import HttpVersion11, StreamReader, web

from sfss.errors import BadBody, BodyTimeout, TooLarge, UnsupportedCoding
from sfss.record import Buffer
from sfss.web import form

ENVELOPE_LIMIT: Final = 64 * 1024
"""Bytes that a form may have beside the file in it."""

_SMALL_PIECE: Final = 4096  # kept apart, those of a body that trickles in take many times its size


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may be: ``size`` in bytes for the file in it, and the longest silence."""

    size: int
    timeout_s: float


async def read_file(request: web.BaseRequest, limits: Limits) -> Buffer:
    """Return the file that ``request`` carries.

    Raises ``TooLarge``, ``UnsupportedCoding``, ``BodyTimeout``, and ``BadBody`` for what is cut
    off, malformed, or holds no file.
    """
    content_type = request.headers.get("Content-Type", "")
    _check_head(request)
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        return await _read(request, limits, limits.size)
    boundary = form.boundary(content_type)
    whole = await _read(request, limits, limits.size + ENVELOPE_LIMIT)
    file = form.first_file(whole, boundary)
    if len(file) > limits.size:
        raise TooLarge(len(file), limits.size)
    return file


def _check_head(request: web.BaseRequest) -> None:
    headers = request.headers
    for coding in ",".join(headers.getall("Content-Encoding", [])).split(","):
        if coding.strip().lower() not in ("", "identity"):
            raise UnsupportedCoding(coding.strip())
    if "Content-Range" in headers:
        # To take a part for the whole would lose the rest (RFC 9110, 14.4).
        raise BadBody("a part of a file (Content-Range) cannot be stored")
    if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
        raise BadBody("there is none; an empty file has Content-Length: 0")


async def _read(request: web.BaseRequest, limits: Limits, most: int) -> bytes:
    """Return the whole body, of at most ``most`` bytes."""
    length = request.content_length
    if length is not None and length > most:
        raise TooLarge(length if most == limits.size else None, limits.size)
    await _invite(request)
    pieces: list[bytes] = []
    size = 0
    # Not "until at_eof()": a body that was cut off is at its end, too, and only reading it raises.
    while size != length and (piece := await _piece(request.content, limits.timeout_s)):
        size += len(piece)
        if size > most:
            raise TooLarge(None, limits.size)
        if pieces and len(pieces[-1]) < _SMALL_PIECE:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    if length is not None and size != length:
        raise BadBody(f"it ends after {size} of {length} bytes")
    # One body at a time is held twice. Bytearrays that grow, all at once, move and leave holes.
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _piece(content: StreamReader, timeout_s: float) -> bytes:
    """Return what has arrived, as soon as there is something; empty at the end of the body."""
    try:
        if content.is_eof():  # all has come: it would cost more to set an alarm than to read
            return content.read_nowait()
        async with asyncio.timeout(timeout_s):
            return await content.readany()
    except TimeoutError:
        raise BodyTimeout(timeout_s) from None
    except web.RequestPayloadError as error:
        raise BadBody(str(error)) from None
    except (ConnectionError, RuntimeError):  # aiohttp raises the latter on a closed connection
        raise BadBody("the connection was lost") from None


async def _invite(request: web.BaseRequest) -> None:
    """Send ``100 Continue`` to a client that waits for it (RFC 9110, 10.1.1)."""
    waits = request.headers.get("Expect", "").lower() == "100-continue"
    if waits and request.version >= HttpVersion11 and not request.content.total_bytes:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
