"""What a client sends: bytes, files, and whatever comes piece by piece; and the digest of it."""

import asyncio
import io
import os
import stat
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final, TypeVar

from xxhash import xxh3_128, xxh3_128_hexdigest

from sfss.client_errors import Unreadable

HELD_LIMIT: Final = 256 * 1024
"""Bytes of a file that are read at once; of a longer one the pieces are read as they are sent."""

_PIECE: Final = 1024 * 1024
_Found = TypeVar("_Found")


class HeldBody:
    """Bytes that are to be sent."""

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self.body = bytes(content)

    def __len__(self) -> int:
        return len(self.body)

    def digest(self) -> str:
        """Return the XXH3-128 of the bytes, in hex."""
        return xxh3_128_hexdigest(self.body)

    def close(self) -> None:
        """Nothing is open."""


class FileBody:
    """``size`` bytes from ``start`` on of an open file, which is closed with it; what ``LongBody``
    of ``record`` asks for. The digest is taken of what is read in order, as it is when it is sent.
    """

    def __init__(self, file: IO[bytes], size: int, start: int = 0) -> None:
        self._file, self._size, self._start = file, size, start
        self._digest, self._digested = xxh3_128(), 0
        self.failure: str | None = None

    @property
    def body(self) -> "FileBody":
        """This one is sent as it is."""
        return self

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; raise OSError where they are not there."""
        if start == 0:
            self._digest, self._digested = xxh3_128(), 0
        try:
            piece = os.pread(self._file.fileno(), size, self._start + start)
            if not piece:
                raise OSError("it became shorter while it was read")
        except OSError as error:
            self.failure = error.strerror or str(error)
            raise
        if start == self._digested:
            self._digest.update(piece)
            self._digested += len(piece)
        return piece

    def digest(self) -> str:
        """Return the XXH3-128 of what was sent, in hex; what has not been read yet is read."""
        while self._digested < self._size:
            self.read(self._digested, min(_PIECE, self._size - self._digested))
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


SentBody = HeldBody | FileBody

Content = bytes | bytearray | memoryview | Path | IO[bytes] | AsyncIterable[bytes] | SentBody
"""What can be put: what is held, the file of a name, an open file from where it stands, what is
still to come, or what ``open_body`` has made.
"""


async def in_thread(work: Callable[[], _Found]) -> _Found:
    """Return what ``work`` returns. Cancelled, it is waited for all the same, so that nobody closes
    a file under its hands; and what it has opened is closed.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            close = getattr(task.result(), "close", None)
            if close is not None:
                close()
        raise


async def body_of(content: Content) -> SentBody:
    """Return ``content`` ready to be sent, and sent again. ``close`` must follow.

    What comes piece by piece is kept in a temporary file, without a name, until it is all there.
    Raises ``Unreadable``.
    """
    if isinstance(content, bytes | bytearray | memoryview):
        return HeldBody(content)
    if isinstance(content, HeldBody | FileBody):
        return content
    if isinstance(content, Path):
        return await in_thread(lambda: open_body(content))
    if isinstance(content, AsyncIterable):
        return await _spooled(content)
    return await in_thread(lambda: _of_open_file(content))


def open_body(name: Path) -> SentBody:
    """Return the file ``name``, a short one held; raise ``Unreadable``. It blocks."""
    try:
        return body_of_file(name)
    except Unreadable as error:
        raise Unreadable(f"{name}: {error}") from None


def body_of_file(name: Path) -> SentBody:
    """As ``open_body``, for whoever names the file when it says why it cannot be read."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = open(name, "rb", 0, opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    except FileNotFoundError:
        raise Unreadable("no such file or folder") from None
    except OSError as error:
        raise Unreadable(f"cannot open it: {error.strerror}") from None
    except ValueError:
        raise Unreadable("its name contains NUL") from None
    try:
        body = _body_of_opened(file)
    except BaseException:
        file.close()
        raise
    if isinstance(body, HeldBody):
        file.close()
    return body


def _body_of_opened(file: IO[bytes]) -> SentBody:
    size = _regular_size(file.fileno())
    if size > HELD_LIMIT:
        return FileBody(file, size)
    held = b""
    try:
        while len(held) < size and (piece := os.pread(file.fileno(), size, len(held))):
            held += piece
    except OSError as error:
        raise Unreadable(f"cannot read it: {error.strerror}") from None
    if len(held) < size:
        raise Unreadable("it became shorter while it was read")
    return HeldBody(held[:size])


def _regular_size(descriptor: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("it is not a file")
    return status.st_size


def _of_open_file(file: IO[bytes]) -> SentBody:
    """Return the rest of ``file``, which stays open."""
    try:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            start = file.tell()
            copy = os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
            return FileBody(copy, max(0, status.st_size - start), start)
    except io.UnsupportedOperation:
        pass  # it lies in memory
    except (OSError, ValueError) as error:
        raise _unreadable("the body", error) from None
    return Spool().filled(file)


async def _spooled(pieces: AsyncIterable[bytes]) -> SentBody:
    spool = Spool()
    try:
        async for piece in pieces:
            if spool.takes_at_once(piece):
                spool.write(piece)
            else:
                await in_thread(partial(spool.write, piece))
        return spool.body()
    except BaseException:
        spool.close()
        raise


class Spool:
    """Takes in what comes, on the disk what is long."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0

    def takes_at_once(self, piece: bytes) -> bool:
        """Tell whether writing ``piece`` does not wait for a disk."""
        return len(self._held) + len(piece) <= HELD_LIMIT

    def write(self, piece: bytes) -> None:
        """Add ``piece``; raises ``Unreadable``."""
        self._held += piece
        self._size += len(piece)
        if len(self._held) > HELD_LIMIT:
            try:
                if self._file is None:
                    self._file = TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the body)
                write_all(self._file.fileno(), self._held)
            except OSError as error:
                raise Unreadable(f"the body cannot be kept meanwhile: {error.strerror}") from None
            self._held = bytearray()

    def body(self) -> SentBody:
        """Return all of it; raises ``Unreadable``."""
        if self._file is None:
            return HeldBody(self._held)
        try:
            write_all(self._file.fileno(), self._held)
        except OSError as error:
            raise Unreadable(f"the body cannot be kept meanwhile: {error.strerror}") from None
        return FileBody(self._file, self._size)

    def filled(self, file: IO[bytes]) -> SentBody:
        """Return what is left of ``file``."""
        try:
            while piece := file.read(HELD_LIMIT):
                self.write(piece)
            return self.body()
        except (OSError, ValueError) as error:
            self.close()
            raise _unreadable("the body", error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Forget it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def write_all(descriptor: int, held: bytes | bytearray) -> None:
    """Write all of ``held`` to an open file; raise ``OSError``."""
    rest = memoryview(held)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _unreadable(name: str, error: Exception) -> Unreadable:
    return Unreadable(f"{name}: {getattr(error, 'strerror', None) or error}")
