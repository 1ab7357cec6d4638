"""The body of a request as one file: raw or in a form, whole, within the limit and in time.

Nothing is asked for and nothing is read before the head of the request has been found in order, so
a client that waits for ``100 Continue`` learns of a refusal without sending a byte of its body.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from aiohttp import HttpVersion11, web

from sfss.errors import BadBody, BodyTimeout, TooLarge, UnsupportedCoding
from sfss.record import Body
from sfss.spool import HELD_LIMIT, Spool
from sfss.web import form

ENVELOPE_LIMIT: Final = 64 * 1024
"""Bytes that a form may have beside the file in it."""

UNSURE_HELD: Final = 512 * 1024
"""Bytes that are held of a body that may be too long for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may be: ``size`` in bytes for the file in it, the longest silence, and how slow.
    One of more than ``held`` bytes is kept in a file in ``spool_folder`` while it is used.
    """

    size: int
    timeout_s: float
    spool_folder: Path = Path("/tmp")
    held: int = HELD_LIMIT
    least_bytes_per_s: int = 0


class Received(NamedTuple):
    """A file that came in, its digest where that is known already, and the media type that the
    client gives it, if any.
    """

    body: Body
    digest: bytes | None = None
    media_type: str | None = None


async def read_file(request: web.BaseRequest, limits: Limits) -> Received:
    """Return the file that ``request`` carries.

    Raises ``TooLarge``, ``UnsupportedCoding``, ``BodyTimeout``, ``StoreFull`` when it finds no room
    in the spool folder, and ``BadBody`` for what is cut off, malformed, or holds no file.
    """
    content_type = request.headers.get("Content-Type", "")
    _check_head(request)
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        received = await _read(request, limits, limits.size)
        return received._replace(media_type=content_type or None)
    reader = form.FormReader(form.boundary(content_type))
    received = await _read(request, limits, limits.size + ENVELOPE_LIMIT, reader)
    return received._replace(media_type=reader.media_type)


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


async def _read(
    request: web.BaseRequest, limits: Limits, most: int, reader: form.FormReader | None = None
) -> Received:
    """Return the whole body, of at most ``most`` bytes, or the file that ``reader`` finds in it."""
    length = request.content_length
    if length is not None and length > most:
        raise TooLarge(length if most == limits.size else None, limits.size)
    await _invite(request)
    # What is certain to go to a file, or may be, is not collected before.
    may_hold = length is not None and length <= limits.held
    spool = Spool(limits.spool_folder, limits.held if may_hold else min(limits.held, UNSURE_HELD))
    # Not "until at_eof()": a body that was cut off is at its end, too, and only reading it raises.
    came, pace = 0, _Pace(limits.timeout_s, limits.least_bytes_per_s)
    while came != length and (piece := await pace.piece(request.content)):
        came += len(piece)
        if came > most:
            raise TooLarge(None, limits.size)
        await _keep(spool, [piece] if reader is None else reader.feed(piece), limits)
    if length is not None and came != length:
        raise BadBody(f"it ends after {came} of {length} bytes")
    if reader is not None:
        await _keep(spool, reader.finish(), limits)
    return Received(*await spool.finish())


async def _keep(spool: Spool, pieces: Iterable[bytes], limits: Limits) -> None:
    for piece in pieces:
        if spool.size + len(piece) > limits.size:
            raise TooLarge(None, limits.size)
        await spool.write(piece)


class Content(Protocol):
    """What comes of a body; aiohttp's ``StreamReader`` is one."""

    def is_eof(self) -> bool: ...

    def read_nowait(self) -> bytes: ...

    async def readany(self) -> bytes: ...


class _Pace:
    """Waits for what comes of a body, for ``timeout_s`` at most; and for that long in all beside
    the time that the body takes at ``rate`` bytes a second, if any.
    """

    def __init__(self, timeout_s: float, rate: int) -> None:
        self._timeout_s, self._rate = timeout_s, rate
        self._came, self._waited_s = 0, 0.0

    def _left_s(self) -> float:
        if not self._rate:
            return self._timeout_s
        left_s = self._timeout_s + self._came / self._rate - self._waited_s
        return max(0.0, min(self._timeout_s, left_s))

    async def piece(self, content: Content) -> bytes:
        """Return what has arrived, as soon as there is something; empty at the end of the body."""
        left_s = self._timeout_s
        try:
            if content.is_eof():  # all has come: it would cost more to set an alarm than to read
                return content.read_nowait()
            left_s, now_s = self._left_s(), asyncio.get_running_loop().time
            began_s = now_s()
            async with asyncio.timeout(left_s):
                piece = await content.readany()
            # Where chunks end badly just behind a good one, readany() has been woken already, and
            # finds the end without looking why; this raises.
            piece = piece or content.read_nowait()
        except TimeoutError:
            rate = self._rate if left_s < self._timeout_s else None
            raise BodyTimeout(self._timeout_s, rate) from None
        except web.RequestPayloadError as error:
            raise BadBody(str(error)) from None
        except (ConnectionError, RuntimeError):  # aiohttp raises the latter on a closed connection
            raise BadBody("the connection was lost") from None
        self._waited_s += now_s() - began_s
        self._came += len(piece)
        return piece


async def _invite(request: web.BaseRequest) -> None:
    """Send ``100 Continue`` to a client that waits for it (RFC 9110, 10.1.1)."""
    waits = request.headers.get("Expect", "").lower() == "100-continue"
    if waits and request.version >= HttpVersion11 and not request.content.total_bytes:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
