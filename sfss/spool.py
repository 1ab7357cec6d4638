"""Bodies too large to be held in memory: they are kept in a file without a name while in use.

What is written to a ``Spool`` is gone with the process, whatever becomes of it: the file has no
name from the beginning (``O_TMPFILE``), so nothing is left behind.
"""

import errno
import os
from pathlib import Path
from typing import Final

from xxhash import xxh3_128

from sfss.errors import StoreFull
from sfss.record import Body
from sfss.streams import in_spool_thread

HELD_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a body that are held in memory; a longer one goes to a file."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where there is no room."""

_NO_MORE_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})

_FLUSH_SIZE: Final = 256 * 1024
_SMALL_PIECE: Final = 4096  # kept apart, those of a body that trickles in take many times its size


class FileBody:
    """The first ``size`` bytes of an open file, which is closed when nobody uses them any more."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; see ``LongBody.read``."""
        return os.pread(self._descriptor, max(0, min(size, self._size - start)), start)

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


class Spool:
    """A body that comes in pieces. Above ``held_limit`` bytes it goes to a file in ``folder``."""

    def __init__(self, folder: Path, held_limit: int = HELD_LIMIT) -> None:
        self._folder, self._held_limit = folder, held_limit
        self._pieces: list[bytes] = []
        self._pending = 0
        self._digest = xxh3_128()
        self._file: FileBody | None = None
        self.size = 0

    async def write(self, piece: bytes) -> None:
        """Take ``piece``. Raises ``StoreFull`` when the disk has no room, or this process no file
        left that it may open; OSError when the disk does not take it for another reason.
        """
        self.size += len(piece)
        self._pending += len(piece)
        if self._pieces and len(self._pieces[-1]) < _SMALL_PIECE:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)
        if self.size > self._held_limit and self._pending >= _FLUSH_SIZE:
            await in_spool_thread(self._flush)

    def _flush(self) -> None:
        try:
            self._spill()
        except OSError as error:
            self._refuse(error)
            raise

    def _refuse(self, error: OSError) -> None:
        if error.errno in FULL or error.errno in _NO_MORE_FILES:
            raise StoreFull(str(self._folder), os.strerror(error.errno)) from error

    def _spill(self) -> None:
        self._pending = 0
        if self._file is None:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            self._file = FileBody(os.open(self._folder, flags, 0o600), 0)
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            self._digest.update(piece)
            _write(self._file.fileno(), piece)

    async def finish(self) -> tuple[Body, bytes]:
        """Return the body, held or in its file, with its digest; raises as ``write``."""
        if self.size > self._held_limit:
            await in_spool_thread(self._flush)
        if self._file is not None:
            try:
                descriptor = os.dup(self._file.fileno())
            except OSError as error:
                self._refuse(error)
                raise
            return FileBody(descriptor, self.size), self._digest.digest()
        # One body at a time is held twice. Bytearrays that grow, all at once, move and leave holes.
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._digest.update(whole)
        return whole, self._digest.digest()


def _write(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
