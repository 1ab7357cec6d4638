"""Bodies that come in many pieces."""

import asyncio
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from sfss.errors import BadBody, TooLarge
from sfss.web.body import Limits, read_file


class Content:
    """Gives ``pieces`` one by one, and as soon as only ``come`` are left, all of them at once."""

    def __init__(self, pieces: list[bytes], come: int = -1) -> None:
        self.pieces, self.come = pieces, come
        self.total_bytes = 0
        self.failure: Exception | None = None

    async def readany(self) -> bytes:
        """Return the next piece, empty at the end."""
        await asyncio.sleep(0)
        return self.pieces.pop(0) if self.pieces else b""

    def is_eof(self) -> bool:
        """Tell whether the last piece has come."""
        return len(self.pieces) <= self.come

    def read_nowait(self) -> bytes:
        """Return all that has come."""
        if self.failure:
            raise self.failure
        whole = b"".join(self.pieces)
        self.pieces.clear()
        return whole


def request(pieces: list[bytes], come: int = -1, **headers: str) -> Any:
    """Return a request with a body in ``pieces``."""
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    length = int(fields["Content-Length"]) if "Content-Length" in fields else None
    return SimpleNamespace(headers=fields, content_length=length, content=Content(pieces, come))


@pytest.mark.parametrize("come", [-1, 0, 1, 5, 10])
@pytest.mark.parametrize("size", [1, 3000, 5000])
async def test_pieces_are_joined_in_order(come: int, size: int) -> None:
    for count in range(10):
        pieces = [b"%d," % number * size for number in range(count)]
        whole = b"".join(pieces)
        asked = request(pieces, come, Transfer_Encoding="chunked")
        assert (await read_file(asked, Limits(100_000, 1))).body == whole


async def test_a_body_that_came_whole_is_not_copied() -> None:
    whole = bytes(1000)
    asked = request([whole], -1, Content_Length="1000")
    assert (await read_file(asked, Limits(1000, 1))).body is whole


class Trickle(Content):
    """Gives as many single bytes as it is told."""

    def __init__(self, size: int) -> None:
        super().__init__([])
        self.left = size

    async def readany(self) -> bytes:
        """Return the next byte, empty at the end."""
        await asyncio.sleep(0)
        self.left -= 1
        return b"%c" % (self.left % 256) if self.left >= 0 else b""


async def test_a_trickle_takes_hardly_more_memory_than_its_bytes() -> None:
    size = 20_000
    asked = request([], Content_Length=str(size))
    asked.content = Trickle(size)
    tracemalloc.start()
    try:
        body = (await read_file(asked, Limits(size, 1))).body
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) == size
    assert peak < 4 * size


async def test_a_body_that_failed_before_it_was_read_is_400() -> None:
    asked = request([b"12"], 1, Content_Length="4")
    asked.content.failure = web.RequestPayloadError("it ends too soon")
    with pytest.raises(BadBody, match="it ends too soon"):
        await read_file(asked, Limits(5, 1))


async def test_reading_ends_with_the_first_piece_over_the_limit() -> None:
    asked = request([b"12", b"34", b"56", b"78"], Transfer_Encoding="chunked")
    with pytest.raises(TooLarge):
        await read_file(asked, Limits(5, 1))
    assert asked.content.pieces == [b"78"]


@pytest.mark.parametrize("come", [-1, 5])
@pytest.mark.parametrize("pieces", [[], [b"123"], [b"1234", b"56"]])
async def test_another_length_than_announced_is_never_a_file(
    pieces: list[bytes], come: int
) -> None:
    with pytest.raises(BadBody, match=r"ends after \d of 5 bytes"):
        await read_file(request(list(pieces), come, Content_Length="5"), Limits(100, 1))
