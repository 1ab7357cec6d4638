"""Readers of an LMDB environment that were killed, struck off.

Pages that somebody is reading are not used again. Who is killed in the middle of a read, a backup
by ``mdb_copy`` say, stays in LMDB's table of readers until somebody looks whether the processes in
it are alive; up to then, every write makes the file larger.
"""

import time
from typing import Any, Final

READERS_EVERY_S: Final = 1.0
"""Seconds, at least, between two looks."""


class DeadReaders:
    """When the readers of an environment were looked at last, by one thread."""

    def __init__(self) -> None:
        self._due_s = 0.0

    def strike_off(self, environment: Any) -> None:
        """Strike off those of ``environment``, if it is time for it. Raises ``lmdb.Error``.

        Whoever asks holds the write lock: LMDB's mutex of readers is one that forgets who waits,
        too (see ``write_lock``), so nobody is to wait for it.
        """
        if (now_s := time.monotonic()) >= self._due_s:
            self._due_s = now_s + READERS_EVERY_S
            environment.reader_check()
