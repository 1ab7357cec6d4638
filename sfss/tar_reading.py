"""A tar archive as it comes: the files in it, one after the other. All of it blocks.

``tarfile`` reads the archive, and believes what it says of itself; here it is bounded. One that
ends without its end has been cut off, though it may be at the end of a file: ``tarfile`` would not
say so. Python's own modules unpack it, for the streams of ``tarfile`` hold all that some bytes
become, end with the first of several parts, and compare no sums.
"""

import bz2
import gzip
import lzma
import select
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any, Final, cast

from xxhash import xxh3_128_hexdigest

from sfss.client_bodies import HELD_LIMIT, FileBody, HeldBody, SentBody
from sfss.client_errors import Unreadable

TYPE_FIELD: Final = "SCHILY.xattr.user.mime_type"
"""The type of a file. Of extended attributes it is the one that freedesktop.org has for that."""

EXPIRES_FIELD: Final = "SCHILY.xattr.user.sfss.expires"
"""The second since 1970 from which on a file is gone. GNU tar and bsdtar take both keywords for
extended attributes, and complain of none that begins as they do.
"""

DIGEST_FIELD: Final = "comment"
DIGEST_MARK: Final = "xxh3-128 "
"""What stands before the digest, in hex. It is a comment, and no attribute: whoever unpacks a file
and changes it does not take it along.
"""

EXTENSION_LIMIT: Final = 1024 * 1024
"""Bytes that an extended header, or those for all files together, may have."""

_PIECE: Final = 1024 * 1024
_REST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes behind the end that are read."""

_UNPACKED: Final[Mapping[bytes, Callable[[Any], Any]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MAGIC_SIZE: Final = 6
_EXTENSIONS: Final = frozenset(
    (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )
)
_SILENT: Final = frozenset((tarfile.DIRTYPE, b"D", b"V"))
"""Folders, also those of GNU tar's increments, and the name of a volume."""

_OTHERS: Final[Mapping[bytes, str]] = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class BadArchive(Unreadable):
    """Raised when an archive is none, or is cut off."""


@dataclass(slots=True)
class Member:
    """A file of an archive. ``body`` is there if it is short, else ``Archive.body`` gives it.

    ``problem`` says why it is not to be had; ``is_other``: it is no file. ``digest`` is the one
    that the body had when it was exported, ``media_type`` its type, ``expires`` the second from
    which on it is gone; each None if the archive does not say.
    """

    name: str
    size: int = 0
    body: SentBody | None = None
    problem: str = ""
    is_other: bool = False
    digest: str | None = None
    media_type: str | None = None
    expires: int | None = None

    @property
    def is_long(self) -> bool:
        """The body is still to be read."""
        return self.body is None and not self.problem

    def is_damaged(self) -> bool:
        """Tell whether the body is another one than was exported. It may take long."""
        return self.digest is not None and self.body is not None and self._found() != self.digest

    def _found(self) -> str:
        assert self.body is not None
        if isinstance(self.body, HeldBody):
            return xxh3_128_hexdigest(self.body.body)
        return self.body.digest()


class Archive:
    """The archive that ``file`` is, unbuffered, compressed or not. All methods raise
    ``BadArchive``, which says where.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._source = _Source(file)
        self._archive: tarfile.TarFile | None = None
        self._header: tarfile.TarInfo | None = None
        self._where = ""

    def next(self) -> Member | None:
        """Return the next file, or what else is no folder; None at the end. What is left of the
        last one is skipped.
        """
        self._where = self._where.replace(" in ", " behind ", 1)
        with self._telling():
            while (header := self._next_header()) is not None:
                if header.type not in _SILENT:
                    return self._member(header)
        return None

    def body(self) -> SentBody:
        """Return the body of the long file that ``next`` has returned last, kept in a temporary
        file; raises OSError where that cannot be.
        """
        assert self._header is not None
        file = TemporaryFile()  # noqa: SIM115 (closed with the body)
        try:
            with self._telling():
                shutil.copyfileobj(self._content(self._header), file, _PIECE)
            file.flush()
        except BaseException:
            file.close()
            raise
        return FileBody(file, self._header.size)

    def drain(self) -> None:
        """Read what comes behind the end, so that whoever writes it is not cut off, as tar does;
        and the sums of what was packed.
        """
        left = _REST_LIMIT
        with self._telling():
            while left > 0 and (piece := self._source.read(HELD_LIMIT)):
                left -= len(piece)

    def _next_header(self) -> tarfile.TarInfo | None:
        if self._archive is None:
            self._source.open()
            self._archive = tarfile.open(  # noqa: SIM115 (it holds nothing open)
                fileobj=cast(IO[bytes], self._source),
                mode="r|",
                # It is called as a class, so every archive has its own.
                tarinfo=type("Header", (_Header,), {"source": self._source}),
                encoding="utf-8",
                errors="surrogateescape",
            )
        self._header = self._archive.next()
        self._archive.__dict__["members"].clear()  # else all of them are remembered
        return self._header

    def _member(self, header: tarfile.TarInfo) -> Member:
        fields = header.pax_headers
        # tarfile takes the slash at the end from some names; a gateway may have such a file.
        name = fields.get("GNU.sparse.name") or fields.get("path") or header.name
        self._where = f" on in {name}"
        if not header.isfile():
            return _other(name, header.type)
        if header.size < 0:
            raise tarfile.ReadError(f"its size is {header.size}")
        member = Member(name, header.size, digest=_digest(fields), expires=_expires(fields))
        member.media_type = fields.get(TYPE_FIELD) or None
        if "\0" in name:
            member.problem = "there is a NUL in its name; left out"
        elif header.size <= HELD_LIMIT:
            member.body = HeldBody(self._content(header).read())
        return member

    def _content(self, header: tarfile.TarInfo) -> IO[bytes]:
        assert self._archive is not None
        content = self._archive.extractfile(header)
        assert content is not None
        return content

    @contextmanager
    def _telling(self) -> Generator[None]:
        """Say where the archive was bad. ``tarfile`` raises whatever it stumbles over; OSError is
        of the temporary file alone.
        """
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            text = f"the archive cannot be read{self._where}: {reason}"
            raise BadArchive(text) from None


class _Header(tarfile.TarInfo):
    """The header of a member, with all that belongs to it: bounded, and not passed over when it is
    bad.
    """

    source: "_Source"

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise tarfile.ReadError("a size in it is negative")
        if header.type in _EXTENSIONS and header.size > EXTENSION_LIMIT:
            raise tarfile.ReadError(_too_long(f"has {header.size:,} bytes"))
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        common = sum(len(key) + len(value) for key, value in archive.pax_headers.items())
        if common > EXTENSION_LIMIT:
            raise tarfile.ReadError(_too_long("goes on"))
        allowed = cls.source.allowed
        # Of several before one file, too, and of the map of a sparse file.
        cls.source.allowed = min(allowed, 2 * EXTENSION_LIMIT)
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            text = "it has no end: it was cut off, or its export has failed"
            raise tarfile.ReadError(text) from None
        except tarfile.HeaderError as error:
            # tarfile itself would take it for the end.
            raise tarfile.ReadError(f"what should be a head is none, {error}") from None
        finally:
            cls.source.allowed = allowed


class _Source:
    """What ``tarfile`` reads: ``file`` unpacked. ``allowed``: as many bytes may be read. Raises
    ``tarfile.ReadError``.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._given = _Given(file)
        self._file: Any = self._given
        self.allowed = sys.maxsize
        self._has_ended = False

    def open(self) -> None:
        """Find out how it is packed."""
        begin = b""
        while len(begin) < _MAGIC_SIZE and (piece := self.read(_MAGIC_SIZE - len(begin))):
            begin += piece
        self._given.begin, self._has_ended = begin, False
        if begin.startswith(_ZSTD):
            raise tarfile.ReadError("it is packed with zstd, unpack it first")
        packed = (unpack for magic, unpack in _UNPACKED.items() if begin.startswith(magic))
        self._file = next(packed, lambda file: file)(self._given)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        if self.allowed <= 0:
            raise tarfile.ReadError(_too_long("goes on"))
        try:
            piece: bytes = self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise tarfile.ReadError(str(error)) from None
        if not piece and self._has_ended:
            # tarfile would ask as often as there are pieces in what it skips.
            raise tarfile.ReadError("it was cut off")
        self._has_ended = not piece
        self.allowed -= len(piece)
        return piece


class _Given:
    """A file that is waited for, though whoever has given it may not wait himself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.begin = b""  # was read already

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        if self.begin:
            piece, self.begin = self.begin[:size], self.begin[size:]
            return piece
        while (found := cast(bytes | None, self._file.read(size))) is None:
            select.select([self._file], [], [])
        return found


def _too_long(found: str) -> str:
    return f"an extended header {found}, up to {EXTENSION_LIMIT:,} are read"


def _other(name: str, kind: bytes) -> Member:
    if kind == tarfile.LNKTYPE:
        return Member(name, problem="another name of a file; not imported")
    if kind in _OTHERS:
        return Member(name, problem=f"{_OTHERS[kind]}; left out", is_other=True)
    shown = kind.decode("latin-1")
    return Member(name, problem=f"of a kind that is not known, {shown!r}; left out")


def _digest(fields: Mapping[str, str]) -> str | None:
    comment = fields.get(DIGEST_FIELD, "")
    return comment.removeprefix(DIGEST_MARK) if comment.startswith(DIGEST_MARK) else None


def _expires(fields: Mapping[str, str]) -> int | None:
    text = fields.get(EXPIRES_FIELD, "")
    return int(text) if text.isdecimal() and len(text) < 13 else None
