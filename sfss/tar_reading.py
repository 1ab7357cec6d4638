"""A tar archive as it comes: the files in it, one after the other. All of it blocks.

It may be compressed as Python's own modules read it, and is never wound back. One that ends without
its end has been cut off, though it may be at the end of a file. ``tarfile`` would not say so; nor
does it bound what it holds, or go on behind what it does not like.
"""

import bz2
import gzip
import io
import lzma
import select
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any, Final, cast

from xxhash import xxh3_128_hexdigest

from sfss.client_bodies import HELD_LIMIT, FileBody, HeldBody, SentBody
from sfss.client_errors import Unreadable
from sfss.tar_text import (
    BLOCK,
    EXPIRES_FIELD,
    TYPE_FIELD,
    BadHead,
    Head,
    digest_of,
    padding,
    read_fields,
    read_head,
    size_of,
    sparse_name,
)

EXTENSION_LIMIT: Final = 1024 * 1024
"""Bytes that the extended headers of one entry, or those for all of them, may have."""

_PIECE: Final = 1024 * 1024
_REST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes behind the end that are read."""

_PACKED: Final[Mapping[bytes, str]] = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
    b"LZIP": "lzip",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-Zip",
}
_MAGIC_SIZE: Final = 6
_EXTENSIONS: Final = frozenset(b"xXgLK")
_FILES: Final = frozenset((b"0", b"\0", b"7"))
_SILENT: Final = frozenset((b"5", b"D", b"V"))
"""Folders, and the name of a volume."""

_WITHOUT_BODY: Final = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_OTHERS: Final[Mapping[bytes, str]] = {
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
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
        self._given: IO[bytes] | None = file
        self._file: IO[bytes] = file
        self._left = self._filling = 0
        self._common: dict[bytes, bytes] = {}
        self._where = ""

    def next(self) -> Member | None:
        """Return the next file, or what else is no folder; None at the end. What is left of the
        last one is skipped.
        """
        own: dict[bytes, bytes] = {}
        extended = 0
        while (head := self._head()) is not None:
            if head.kind[0] in _EXTENSIONS:
                extended += head.size
                self._extend(head, own, extended <= EXTENSION_LIMIT)
                continue
            member = self._member(head, own, extended)
            if member is not None:
                return member
            own, extended = {}, 0
        return None

    def body(self) -> SentBody:
        """Return the body of the long file that ``next`` has returned last, kept in a temporary
        file; raises OSError where that cannot be.
        """
        size = self._left
        file = TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the body)
        try:
            while self._left:
                rest = memoryview(self._piece())
                while rest:
                    rest = rest[file.write(rest) :]
        except BaseException:
            file.close()
            raise
        return FileBody(file, size)

    def drain(self) -> None:
        """Read what comes behind the end, so that whoever writes it is not cut off, as tar does;
        and the sums of what was packed.
        """
        left = _REST_LIMIT
        while left > 0 and (piece := self._some(HELD_LIMIT)):
            left -= len(piece)

    def _head(self) -> Head | None:
        """Return the next head; None at the end."""
        if self._given is not None:
            self._open(self._given)
        self._skip()
        block = self._some(BLOCK)
        if not block:
            raise self._bad("it has no end: it was cut off, or its export has failed")
        if len(block) < BLOCK:
            raise self._bad("it was cut off, or is none")
        try:
            return read_head(block)
        except BadHead as error:
            raise self._bad(f"what should be a head is none, {error}") from None

    def _extend(self, head: Head, own: dict[bytes, bytes], is_taken: bool) -> None:
        """Read an entry that says something of the next one, or of all."""
        self._left, self._filling = head.size, padding(head.size)
        if not is_taken:
            return
        text, self._left = self._read(head.size), 0
        if head.kind == b"L":
            own[b"path"] = text.partition(b"\0")[0]
        elif head.kind != b"K":
            try:
                fields = read_fields(text)
            except BadHead as error:
                raise self._bad(str(error)) from None
            (self._common if head.kind == b"g" else own).update(fields)

    def _member(self, head: Head, own: dict[bytes, bytes], extended: int) -> Member | None:
        fields = {**self._common, **own} if self._common else own
        holes = sparse_name(head, fields)
        name = _text(holes or fields.get(b"path") or head.name)
        self._where = f"in {name}"
        try:
            size = 0 if head.kind in _WITHOUT_BODY else size_of(head, fields)
        except BadHead as error:
            raise self._bad(str(error)) from None
        goes_on = head.goes_on
        while goes_on:
            goes_on = self._read(BLOCK)[504] != 0
        self._left, self._filling = size, padding(size)
        if head.kind in _SILENT or (head.kind == b"\0" and name.endswith("/")):
            return None
        if extended > EXTENSION_LIMIT:
            found = f"its extended headers have {extended:,} bytes"
            return Member(name, problem=f"{found}, up to {EXTENSION_LIMIT:,} are read; left out")
        if holes is not None:
            return Member(name, problem="a sparse file, kept without its holes; left out")
        if head.kind not in _FILES:
            return _other(name, head.kind)
        return self._file_of(name, size, fields)

    def _file_of(self, name: str, size: int, fields: Mapping[bytes, bytes]) -> Member:
        member = Member(name, size, digest=digest_of(fields))
        media_type = fields.get(TYPE_FIELD.encode())
        member.media_type = _text(media_type) if media_type else None
        expires = fields.get(EXPIRES_FIELD.encode(), b"")
        member.expires = int(expires) if expires.isdigit() and len(expires) < 13 else None
        if "\0" in name:
            member.problem = "there is a NUL in its name; left out"
        elif size <= HELD_LIMIT:
            member.body, self._left = HeldBody(self._read(size)), 0
        return member

    def _open(self, file: IO[bytes]) -> None:
        begin = b""
        try:
            while piece := _read_raw(file, _MAGIC_SIZE - len(begin)):
                begin += piece
        except OSError as error:
            raise self._bad(str(error)) from None
        self._given = None
        for magic, program in _PACKED.items():
            if begin.startswith(magic):
                raise self._bad(f"it is packed with {program}, unpack it first")
        # A raw file to whoever reads it, though mypy does not see it.
        self._file = io.BufferedReader(cast(io.RawIOBase, _Begun(begin, file)), HELD_LIMIT)
        for magic, unpacking in _UNPACKED.items():
            if begin.startswith(magic):
                self._file = io.BufferedReader(unpacking(self._file), HELD_LIMIT)
                break

    def _skip(self) -> None:
        while self._left:
            self._piece()
        self._read(self._filling)
        self._filling = 0
        self._where = self._where.replace("in ", "behind ", 1)

    def _piece(self) -> bytes:
        piece = self._read(min(self._left, _PIECE))
        self._left -= len(piece)
        return piece

    def _read(self, size: int) -> bytes:
        piece = self._some(size)
        if len(piece) < size:
            raise self._bad("it was cut off")
        return piece

    def _some(self, size: int) -> bytes:
        """Return up to ``size`` bytes, fewer only at the end."""
        try:
            return self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise self._bad(str(error)) from None

    def _bad(self, reason: str) -> BadArchive:
        where = f" on {self._where}" if self._where else ""
        return BadArchive(f"the archive cannot be read{where}: {reason}")


class _Begun(io.RawIOBase):
    """A file whose beginning was read already."""

    def __init__(self, begin: bytes, file: IO[bytes]) -> None:
        self._begin, self._file = begin, file

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        piece = self._begin or _read_raw(self._file, len(room))
        self._begin = b""
        room[: len(piece)] = piece
        return len(piece)


_UNPACKED: Final[Mapping[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


def _read_raw(file: IO[bytes], size: int) -> bytes:
    while True:
        piece = cast(bytes | None, file.read(size))
        if piece is not None:
            return piece
        select.select([file], [], [])  # whoever has given it does not wait himself


def _other(name: str, kind: bytes) -> Member:
    if kind == b"1":
        return Member(name, problem="another name of a file; not imported")
    if kind in _OTHERS:
        return Member(name, problem=f"{_OTHERS[kind]}; left out", is_other=True)
    return Member(name, problem=f"of a kind that is not known, {_text(kind)!r}; left out")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
