"""The number of the last commit to an LMDB environment, for the price of a look at memory.

Every read transaction begins with this number, which LMDB keeps in its lock file, in memory that
all processes share: while it stays the same, a transaction would find what the last one found. It
is ``mtb_txnid`` of ``MDB_txbody`` in mdb.c of LMDB 0.9: magic, format, a mutex, and this.

A process that closes any descriptor of a file loses its locks on it (POSIX, fcntl), LMDB's own
among them. So the lock file is opened before the environment, and closed behind it.
"""

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Final

_FORMAT: Final = bytes.fromhex("dec0efbe 01000100")
"""MDB_MAGIC, and MDB_LOCK_FORMAT with POSIX mutexes."""

_NUMBER_OFFSET: Final = len(_FORMAT) + 40  # a pthread_mutex_t of 64-bit Linux


class LastCommit:
    """The number in ``lock_file``, which must exist; 0 where it cannot be found."""

    def __init__(self, lock_file: Path) -> None:
        self._map: mmap.mmap | None = None
        self._found: memoryview | None = None
        with lock_file.open("rb") as file, suppress(ValueError):  # shorter than LMDB makes it
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)

    def expect(self, number: int) -> None:
        """Look for the number, which has been seen to be ``number``, from now on."""
        if self._map is not None and self._map[: len(_FORMAT)] == _FORMAT:
            found = memoryview(self._map)[_NUMBER_OFFSET : _NUMBER_OFFSET + 8].cast("Q")
            self._found = found if found[0] == number else None

    def number(self) -> int:
        """Return the number, or 0."""
        found = self._found
        try:
            return 0 if found is None else found[0]
        except ValueError:  # closed by another thread in between
            return 0

    def close(self) -> None:
        """Let go of the file, now that the environment is closed."""
        found, self._found = self._found, None
        if found is not None:
            found.release()
        if self._map is not None:
            self._map.close()
