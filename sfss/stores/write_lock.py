"""The lock that whoever writes to an LMDB environment takes before LMDB's own.

LMDB's is a robust POSIX mutex, and that of glibc loses a wake-up when the process that it has woken
is killed before it runs, while another takes the mutex: nobody knows any more that others wait, and
these wait for ever (seen with glibc 2.36, ``__pthread_mutex_lock_full``: only who has waited keeps
``FUTEX_WAITERS``). Where all wait for a lock of the kernel first (flock(2)), which it hands on
whoever dies, nobody waits for the mutex.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class WriteLock:
    """A lock on ``data_file``, to be held (``with``) around each write transaction, by one thread.

    Waiting has no end, as LMDB's has none. Raises OSError.
    """

    def __init__(self, data_file: Path) -> None:
        self._descriptor = os.open(data_file, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file; may be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
