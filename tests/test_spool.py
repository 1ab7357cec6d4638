"""Bodies that come in pieces, held or spooled; a long body is read in pieces."""

import os
import resource
from pathlib import Path

import pytest

from sfss.errors import StoreFull
from sfss.record import PIECE_SIZE, digest_of, digest_of_any, held, pieces_of
from sfss.spool import FileBody, Spool


@pytest.mark.parametrize("held_limit", [0, 10, 999, 1000, 10**9])
@pytest.mark.parametrize("size", [0, 1, 10, 11, 1000])
async def test_what_went_in_comes_out(tmp_path: Path, held_limit: int, size: int) -> None:
    whole = os.urandom(size)
    spool = Spool(tmp_path, held_limit)
    for start in range(0, size, 7):
        await spool.write(whole[start : start + 7])
    body, digest = await spool.finish()
    assert (held(body), len(body), digest) == (whole, size, digest_of(whole))
    assert isinstance(body, FileBody) == (size > held_limit)


async def test_a_large_body_leaves_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1000)
    piece = os.urandom(1_500_000)
    await spool.write(piece)
    await spool.write(piece)
    body, digest = await spool.finish()
    assert not any(os.scandir(tmp_path))
    assert digest == digest_of_any(body) == digest_of(piece * 2)
    assert [len(each) for each in pieces_of(body)][:2] == [PIECE_SIZE, PIECE_SIZE]
    assert b"".join(pieces_of(body, 10, 2_000_000)) == (piece * 2)[10:2_000_000]


async def test_no_room_is_told_from_other_errors(tmp_path: Path) -> None:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, former[1]))
    try:
        with pytest.raises(StoreFull):
            await Spool(tmp_path, 1).write(bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    spool = Spool(tmp_path / "missing", 1)
    with pytest.raises(OSError, match="missing"):
        await spool.write(bytes(2_000_000))


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    body = FileBody(os.open(file, os.O_RDONLY), 1000)
    assert len(held(body)) == 1000
    os.truncate(file, 400)
    with pytest.raises(OSError, match="ends after 400 of 1000"):
        held(body)


def test_a_body_that_is_held_is_not_copied() -> None:
    body = b"body"
    assert next(pieces_of(body)) is body
    assert bytes(next(pieces_of(body, 1, 3))) == b"od"
