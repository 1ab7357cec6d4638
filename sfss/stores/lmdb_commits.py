"""The number of the last commit to an LMDB environment, for the price of a look at memory.

Every read transaction begins with this number, which LMDB keeps in its lock file, in memory that
all processes share: while it stays the same, a transaction would find what the last one found. It
is ``mtb_txnid`` of ``MDB_txbody`` in mdb.c of LMDB 0.9: magic, format, a mutex, and this.

A process that closes any descriptor of a file loses its locks on it (POSIX, fcntl), LMDB's own
among them; other processes would then take the store for closed. So the lock file is opened before
the environment and closed behind it, and never while this process has it open already.
"""

import mmap
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

_FORMAT: Final = bytes.fromhex("dec0efbe 01000100")
"""MDB_MAGIC, and MDB_LOCK_FORMAT with POSIX mutexes."""

_MUTEX_SIZE: Final = {"x86_64": 40, "aarch64": 48}.get(platform.machine(), 40)
"""Bytes of glibc's pthread_mutex_t. Were it another, the number would not be found."""

_OFFSET: Final = len(_FORMAT) + _MUTEX_SIZE


class LastCommit:
    """The number in ``lock_file``, which must exist; 0 where it cannot be found.

    Raises OSError when the file cannot be opened, or is in use by this process.
    """

    # Of the files in use: process (a fork inherits the set, but no lock), device and inode.
    _in_use: ClassVar[set[tuple[int, int, int]]] = set()

    def __init__(self, lock_file: Path) -> None:
        status = lock_file.stat()
        self._identity = (os.getpid(), status.st_dev, status.st_ino)
        if self._identity in self._in_use:
            raise OSError("it is already open in this process")
        self._closed = False
        self._map: mmap.mmap | None = None
        self._found: memoryview | None = None
        with lock_file.open("rb") as file, suppress(ValueError):  # shorter than LMDB makes it
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)
        self._in_use.add(self._identity)

    def find(self, read: Callable[[], int]) -> None:
        """Look for the number, which ``read`` reads in another way, from now on."""
        if self._map is None or self._map[: len(_FORMAT)] != _FORMAT:
            return
        found = memoryview(self._map)[_OFFSET : _OFFSET + 8].cast("Q")
        try:
            before = found[0]
            # Others may commit in between.
            if 0 < before <= read() <= found[0]:
                self._found = found
        finally:
            if self._found is not found:
                found.release()  # an error would keep it, and with it the map

    def number(self) -> int:
        """Return the number, or 0."""
        found = self._found
        try:
            return 0 if found is None else found[0]
        except ValueError:  # closed by another thread in between
            return 0

    def close(self) -> None:
        """Let go of the file, now that the environment is closed."""
        if self._closed:
            return  # the file may be in use again
        self._closed = True
        found, self._found = self._found, None
        if found is not None:
            found.release()
        if self._map is not None:
            self._map.close()
        self._in_use.discard(self._identity)
