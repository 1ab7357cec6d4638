"""Bodies that come in many pieces."""

from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from sfss.errors import BadBody, TooLarge
from sfss.web.body import Limits, read_file


class Content:
    """Gives ``pieces`` one by one."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.total_bytes = 0

    async def readany(self) -> bytes:
        """Return the next piece, empty at the end."""
        return self.pieces.pop(0) if self.pieces else b""


def request(pieces: list[bytes], **headers: str) -> Any:
    """Return a request with a body in ``pieces``."""
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    length = int(fields["Content-Length"]) if "Content-Length" in fields else None
    return SimpleNamespace(headers=fields, content_length=length, content=Content(pieces))


async def test_pieces_are_joined_in_order() -> None:
    for count in range(10):
        pieces = [b"%d," % number for number in range(count)]
        whole = b"".join(pieces)
        asked = request(pieces, Transfer_Encoding="chunked")
        assert await read_file(asked, Limits(100, 1)) == whole


async def test_reading_ends_with_the_first_piece_over_the_limit() -> None:
    asked = request([b"12", b"34", b"56", b"78"], Transfer_Encoding="chunked")
    with pytest.raises(TooLarge):
        await read_file(asked, Limits(5, 1))
    assert asked.content.pieces == [b"78"]


@pytest.mark.parametrize("pieces", [[], [b"123"], [b"1234", b"56"]])
async def test_another_length_than_announced_is_never_a_file(pieces: list[bytes]) -> None:
    with pytest.raises(BadBody, match=r"ends after \d of 5 bytes"):
        await read_file(request(pieces, Content_Length="5"), Limits(100, 1))
