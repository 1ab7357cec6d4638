"""Which files of a store were read since the last look: marks that all its processes share.

A byte of a file that each of them maps, at a place that is a hash of the key: to set it costs one
store and no lock. Two files may have one place; then a hit of one is one of the other, too. The
marks are hints: a power failure, or a process that still has a former file of another size, loses
some. The number of the place where the hand of ``sieve`` stands is kept with them.
"""

import fcntl
import logging
import mmap
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from xxhash import xxh3_64_intdigest

_HEADER: Final = 64
_HAND_SIZE: Final = 8
_BYTES_A_MARK: Final = 1024
_FEWEST: Final = 1 << 16
_MOST: Final = 1 << 26

_log = logging.getLogger(__name__)


def places_for(capacity_bytes: int) -> int:
    """Return how many marks a store has: one for each KiB, 64 Ki at least and 64 Mi at most."""
    wanted = max(1, capacity_bytes // _BYTES_A_MARK)
    return min(_MOST, max(_FEWEST, 1 << (wanted - 1).bit_length()))


class Visited:
    """The marks in ``file``, made anew where it has not got so many. Where that cannot be, the disk
    may be full, the marks of this process are its own.
    """

    def __init__(self, file: Path, places: int) -> None:
        self._places = places
        try:
            self._map = _opened(file, _HEADER + places)
        except OSError as error:
            _log.warning("%s: hits of other processes do not count: %s", file, error)
            self._map = mmap.mmap(-1, _HEADER + places)

    def mark(self, key: bytes) -> None:
        """Note that the file under ``key`` was read."""
        self._map[_HEADER + xxh3_64_intdigest(key) % self._places] = 1

    def clear(self, key: bytes) -> None:
        """Remove the mark of ``key``."""
        self._map[_HEADER + xxh3_64_intdigest(key) % self._places] = 0

    def has(self, key: bytes) -> bool:
        """Tell whether ``key`` is marked."""
        return self._map[_HEADER + xxh3_64_intdigest(key) % self._places] != 0

    @property
    def hand(self) -> int:
        """The number of the file behind which the hand stands, 0 before the oldest."""
        return int.from_bytes(self._map[:_HAND_SIZE], "little")

    @hand.setter
    def hand(self, number: int) -> None:
        self._map[:_HAND_SIZE] = number.to_bytes(_HAND_SIZE, "little")


def _opened(file: Path, size: int) -> mmap.mmap:
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Of processes that start together, all have to map the same file.
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not file.exists() or file.stat().st_size != size:
            _make(file, size)
        with file.open("r+b") as opened:
            return mmap.mmap(opened.fileno(), size)
    finally:
        os.close(folder)


def _make(file: Path, size: int) -> None:
    """Write all of it: who first touches a hole when the disk is full is killed (SIGBUS)."""
    with NamedTemporaryFile(dir=file.parent, delete=False) as made:
        try:
            os.posix_fallocate(made.fileno(), 0, size)
            Path(made.name).chmod(0o644)
            Path(made.name).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(made.name).unlink()
            raise
