"""A tar archive as it comes: the files in it, one after the other. All of it blocks.

An archive ends with a block of zeros. One that ends without has been cut off, though it may be at
the end of a file: ``tarfile`` alone would not say so.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Final

from sfss.client_bodies import HELD_LIMIT, FileBody, HeldBody, SentBody
from sfss.client_errors import Unreadable

TYPE_FIELD: Final = "SFSS.type"
DIGEST_FIELD: Final = "SFSS.xxh3"
EXPIRES_FIELD: Final = "SFSS.expires"
"""What is kept with a file beside its bytes, in the fields of pax headers (POSIX.1-2001, pax)."""

_PIECE: Final = 1024 * 1024


class BadArchive(Unreadable):
    """Raised when an archive is none, or is cut off."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive. Without a body it is something else: ``problem`` says what."""

    name: str
    body: SentBody | None
    fields: dict[str, str]
    problem: str = ""


class _Header(tarfile.TarInfo):
    """The header of a member, which takes note of the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.__dict__["has_ended"] = True
            raise


def members_of(file: IO[bytes]) -> Iterator[Member]:
    """Yield what is in the archive that ``file`` is, compressed or not, without folders. Raises
    ``BadArchive``. Bodies are to be closed.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as archive:
            while (header := archive.next()) is not None:
                archive.__dict__["members"].clear()  # else all of them are remembered
                if not header.isdir():
                    yield _member(archive, header)
            if "has_ended" not in archive.__dict__:
                raise BadArchive("the archive has no end: it was cut off")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise BadArchive(f"the archive cannot be read on: {error}") from None
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma"):
            raise BadArchive(f"the archive cannot be read on: {error}") from None
        raise


def _member(archive: tarfile.TarFile, header: tarfile.TarInfo) -> Member:
    fields = {str(name): str(value) for name, value in header.pax_headers.items()}
    if header.islnk():
        return Member(header.name, None, fields, "another name of a file; not imported")
    if not header.isfile():
        return Member(header.name, None, fields)
    source = archive.extractfile(header)
    assert source is not None
    return Member(header.name, _body(source, header.size), fields)


def _body(source: IO[bytes], size: int) -> SentBody:
    if size <= HELD_LIMIT:
        content = source.read(size)
        if len(content) < size:
            raise EOFError("it ends within a file")
        return HeldBody(content)
    file = TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the body)
    try:
        left = size
        while left:
            piece = source.read(min(left, _PIECE))
            if not piece:
                raise EOFError("it ends within a file")
            left -= len(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
    except BaseException:
        file.close()
        raise
    return FileBody(file, size)
