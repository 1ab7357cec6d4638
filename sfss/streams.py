"""The bytes of any body, in the event loop: held, in a file, or in stores."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

from sfss.record import Body, Buffer, LongBody, StreamedBody, pieces_of

_threads: Final = ThreadPoolExecutor(2, "spool")
"""Few: the C library keeps a heap for each thread, and in each there stay holes of the size of
bodies.
"""

Result = TypeVar("Result")


async def in_spool_thread(call: Callable[[], Result]) -> Result:
    """Return what ``call``, which reads or writes a spooled body, returns; it waits for a disk."""
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


async def stream(
    body: Body, start: int = 0, stop: int | None = None
) -> AsyncGenerator[Buffer, None]:
    """Yield bytes ``start`` to ``stop`` of ``body``, a held one at once.

    Raises as ``LongBody.read`` or ``StreamedBody.pieces``.
    """
    stop = len(body) if stop is None else stop
    if isinstance(body, StreamedBody):
        async with aclosing(body.pieces(start, stop)) as streamed:
            async for piece in streamed:
                yield piece
        return
    pieces = pieces_of(body, start, stop)
    if isinstance(body, bytes | bytearray | memoryview):
        for piece in pieces:
            yield piece
        return
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


async def cut(body: Body, size: int) -> AsyncGenerator[Buffer, None]:
    """Yield all of ``body`` in parts of ``size`` bytes, the last one shorter; errors as
    ``stream``.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        for start in range(0, len(body), size):
            yield memoryview(body)[start : start + size]
        return
    if not isinstance(body, StreamedBody):
        for start in range(0, len(body), size):
            part_size = min(size, len(body) - start)
            yield await in_spool_thread(partial(_read, body, start, part_size))
        return
    part = bytearray()
    async with aclosing(stream(body)) as pieces:
        async for piece in pieces:
            rest = memoryview(piece)
            while rest:
                room = size - len(part)
                part += rest[:room]
                rest = rest[room:]
                if len(part) == size:
                    yield part
                    part = bytearray()
    if part:
        yield part


def _read(body: LongBody, start: int, size: int) -> bytes:
    part = body.read(start, size)
    while len(part) < size:
        more = body.read(start + len(part), size - len(part))
        if not more:
            raise OSError(f"the body ends after {start + len(part)} of {len(body)} bytes")
        part += more
    return part
