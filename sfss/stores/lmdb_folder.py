"""LMDB in a folder: opened, read, changed and mended.

Who calls what matters. The event loop reads; everything else is done by one writer thread, for only
that may wait for LMDB's write lock, which another process may hold. ``lmdb.Error`` leaves this
module: the store repeats or translates.

LMDB 0.9: http://www.lmdb.tech/doc/, and its Python binding: https://lmdb.readthedocs.io/
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, TypeVar

import lmdb

from sfss.errors import Corrupt, Unreachable
from sfss.record import (
    Form,
    Head,
    decode_head,
)
from sfss.spool import FULL
from sfss.stores.base import Entry, Use
from sfss.stores.lmdb_arrivals import ARRIVALS, Arrivals
from sfss.stores.lmdb_changes import CHANGE_OVERHEAD, Change, Indexes, Outcome, Transaction, apply
from sfss.stores.lmdb_expiries import INDEX, Expiries, Swept
from sfss.stores.lmdb_opening import (
    FORMAT_KEY,
    bad_folder,
    identity,
    make_folder,
    open_environment,
)
from sfss.stores.lmdb_readers import DeadReaders
from sfss.stores.visited import Visited

_SCAN_ENTRIES: Final = 256
_SCAN_BYTES: Final = 4 * 1024 * 1024
_RESERVE_SIZE: Final = 1024 * 1024
_MAP_STEP: Final = 65_536
_META_PAGES: Final = 2
ATTEMPTS: Final = 32
"""How often something is repeated because another process has changed the map."""

PLACE_CHECK_S: Final = 1.0
"""Seconds between two looks at whether the files are still in their place, for reads; a write
looks each time.
"""


_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class LmdbFolder:
    """One LMDB environment. ``get``, ``scan`` and ``sizes`` are for the event loop, all else is for
    the writer thread.

    The methods raise ``lmdb.Error``, and ``Unreachable`` once it is closed.
    """

    # The lock is held for every read and while the map is replaced or closed: a map must not go
    # from under a read. Nobody waits for another process while holding it.

    def __init__(self, address: str, folder: Path, map_size: int, make: bool) -> None:
        self._address, self._folder, self._map_size = address, folder, map_size
        self.path = folder
        self.place_is_right = True
        self._check_place_at_s = 0.0
        self._dead_readers = DeadReaders()
        self._lock = threading.Lock()
        self._closed = False
        self._environment: lmdb.Environment | None = None
        self._indexes = Indexes()
        self.swept = 0
        """Records that this process has removed for they have expired."""
        self.keeps_arrivals = False
        """Whether the index of arrivals is made if there is none."""
        self.queues: Callable[[bytes], bool] = bool
        """Tells whether what is under a key may be evicted ever: all that has a key."""
        self.visited: Visited | None = None
        """Where hits are marked."""
        self._reserve = folder / "reserve"
        self._reserve_spent = False
        try:
            if make:
                make_folder(folder)
            self._open(make)
        except (OSError, ValueError, lmdb.Error) as error:  # ValueError: no name of a file
            raise bad_folder(folder, str(error)) from error
        self._keep_reserve()

    def _open(self, make: bool) -> None:
        opened = open_environment(self._folder, self._map_size, make)
        self._environment, self._identity, self.last_commit, self._write_lock = opened

    def _usable(self) -> lmdb.Environment:
        if self._environment is None:
            if self._closed:
                raise Unreachable(self._address, "it is closed", applied=False)
            raise lmdb.PanicError("not open")  # mended like the failure that closed it
        if time.monotonic() >= self._check_place_at_s:
            self._check_place(applied=False)
        return self._environment

    def _check_place(self, applied: bool | None) -> None:
        """Raise ``Unreachable`` when the files under our names are not those that are open here.

        What is written to files that were moved or deleted is lost to whoever opens the folder
        next, and two processes with different lock files write over each other.
        """
        try:
            is_right = identity(self._folder) == self._identity
        except OSError:
            is_right = False
        if not is_right:
            reason = "its files were moved, deleted or replaced while open; start sfss anew"
            if self.place_is_right:
                _log.error("store %s: %s", self._address, reason)
            self.place_is_right = False
            self._check_place_at_s = 0.0  # reads are to know at once, too
            raise Unreachable(self._address, reason, applied)
        self.place_is_right = True
        self._check_place_at_s = time.monotonic() + PLACE_CHECK_S

    def get(self, key: bytes) -> bytes | None:
        """Return a copy of the value under ``key``."""
        with self._lock, self._usable().begin() as transaction:
            value = transaction.get(key)
        if value is not None and self.visited is not None:
            self.visited.mark(key)
        return value

    def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``; raises ``Corrupt``."""
        with self._lock, self._usable().begin(buffers=True) as transaction:
            value = transaction.get(key)
            return None if value is None else decode_head(value, self._address, key)

    def view(self, key: bytes, use: Use) -> bool:
        """Call ``use`` with the value under ``key`` where it lies, None where there is none."""
        with self._lock, self._usable().begin(buffers=True) as transaction:
            value = transaction.get(key)
            if value is not None and self.visited is not None:
                self.visited.mark(key)
            use(value, Form.RAW if value is None else Form.RECORD)
            return True

    def look(self, use: Callable[[Transaction, Arrivals], Answer], otherwise: Answer) -> Answer:
        """Return what ``use`` makes of the index of arrivals; ``otherwise`` where that is not open
        yet, see ``change``.
        """
        arrivals = self._indexes.arrivals  # before the transaction, which else may not know of it
        if arrivals is None:
            return otherwise
        with self._lock, self._usable().begin(buffers=True) as transaction:
            return use(transaction, arrivals)

    def scan(self, prefix: bytes, after: bytes, limit: int) -> tuple[list[Entry], bytes | None]:
        """Return the first of the entries that ``scan`` of the store is to return, and the key to
        go on after: None at the end.
        """
        entries: list[Entry] = []

        def take(key: bytes, value: memoryview) -> bool:
            entries.append(self._entry(key, value))
            return len(entries) < limit

        return entries, self._walk(prefix, after, take)

    def heads(self, after: bytes) -> tuple[list[tuple[bytes, Head | None]], bytes | None]:
        """Return some of the keys behind ``after`` with their heads, None where that is damaged,
        and the key to go on after: None at the end.
        """
        found: list[tuple[bytes, Head | None]] = []

        def take(key: bytes, value: memoryview) -> bool:
            found.append((key, self._head_in(key, value)))
            return True

        return found, self._walk(b"", after, take)

    def _walk(
        self, prefix: bytes, after: bytes, take: Callable[[bytes, memoryview], bool]
    ) -> bytes | None:
        """Have ``take`` see keys that begin with ``prefix`` and are greater than ``after``, and
        their values, as long as it returns True and the transaction has not become long.

        Return the key to go on after, None at the end.
        """
        size = seen = 0
        with (
            self._lock,
            self._usable().begin(buffers=True) as transaction,
            transaction.cursor() as cursor,
        ):
            positioned = cursor.set_range(max(prefix, after))
            while positioned and (key := bytes(cursor.key())).startswith(prefix):
                if key == FORMAT_KEY:
                    break
                if key > after:
                    value = cursor.value()
                    size, seen = size + len(value), seen + 1
                    if not take(key, value) or seen == _SCAN_ENTRIES or size > _SCAN_BYTES:
                        return key
                positioned = cursor.next()
        return None

    def _entry(self, key: bytes, value: memoryview) -> Entry:
        try:
            return Entry(key, decode_head(value, self._address, key))
        except Corrupt as error:
            _log.warning("in a listing: %s", str(error))
            return Entry(key, None)

    def _head_in(self, key: bytes, value: memoryview) -> Head | None:
        try:
            return decode_head(value, self._address, key)
        except Corrupt:
            return None

    def sizes(self) -> dict[str, int]:
        """Return what ``stats`` says of the store as a whole."""
        try:
            space = os.statvfs(self._folder)
            size = (self._folder / "data.mdb").stat().st_size
        except OSError as error:
            raise Unreachable(self._address, str(error), applied=False) from error
        with self._lock:
            environment = self._usable()
            with environment.begin() as transaction:
                others = 1  # FORMAT_KEY
                others += sum(transaction.get(name) is not None for name in (INDEX, ARRIVALS))
                entries = transaction.stat()["entries"]
        return {
            "curr_items": entries - others,
            "bytes": size,
            "avail_space": space.f_bavail * space.f_frsize,
            "total_space": space.f_blocks * space.f_frsize,
        }

    def bytes_in_use(self) -> int:
        """Return how many bytes of the data file hold something; all others are free for reuse."""
        indexes = self._indexes
        with self._lock, self._usable().begin() as transaction:
            databases = [index.stat(transaction) for index in indexes if index is not None]
            stats = [transaction.stat(), *databases]
        pages = sum(
            each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats
        )
        return (_META_PAGES + pages) * stats[0]["psize"]

    def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Make all of ``changes`` in one transaction that is on disk when this returns.

        The outcome of one that its guard forbade is what the guard raised.
        """
        expires = any(change.expiry for change in changes)

        def work(transaction: Transaction, indexes: Indexes) -> tuple[list[Outcome], bool]:
            outcomes = [
                apply(transaction, indexes, change, self._address, self.visited)
                for change in changes
            ]
            return outcomes, any(not isinstance(each, Exception) for each in outcomes)

        return self._in_transaction(work, sum(change.size for change in changes), expires)

    def sweep(self, now_us: int, limit: int) -> Swept:
        """Remove up to ``limit`` of the records that have expired at ``now_us``, in one transaction
        that is on disk when this returns. Where there are none it costs next to nothing.
        """

        def work(transaction: Transaction, indexes: Indexes) -> tuple[Swept, bool]:
            expiries, arrivals = indexes
            if expiries is None:
                return Swept(), False
            return expiries.sweep(transaction, now_us, limit, arrivals), True

        if not self._is_due(now_us):
            return Swept()
        swept = self._in_transaction(work, limit * CHANGE_OVERHEAD)
        self.swept += swept.records
        return swept

    def change(self, use: Callable[[Transaction, Arrivals], Answer], otherwise: Answer) -> Answer:
        """Return what ``use`` makes of the index of arrivals, which is open from now on, in one
        transaction that is on disk then; ``otherwise`` where there is none.
        """

        def work(transaction: Transaction, indexes: Indexes) -> tuple[Answer, bool]:
            if indexes.arrivals is None:
                return otherwise, False
            return use(transaction, indexes.arrivals), False

        return self._in_transaction(work, CHANGE_OVERHEAD)

    def _is_due(self, now_us: int) -> bool:
        for _ in range(ATTEMPTS):
            expiries = self._indexes.expiries
            try:
                with self._lock, self._usable().begin(buffers=True) as transaction:
                    if expiries is None:
                        return transaction.get(INDEX) is not None
                    return expiries.is_due(transaction, now_us)
            except lmdb.Error as error:
                if not mendable(error):
                    raise
                self.mend(error)
        return True  # the transaction that is to remove it makes sure

    def _in_transaction(
        self,
        work: Callable[[Transaction, Indexes], tuple[Answer, bool]],
        needed: int,
        expires: bool = False,
    ) -> Answer:
        """Return what ``work`` returns, which needs so many bytes, and says whether it has changed
        records; it is given the indexes, that of expiries made if something ``expires``.
        """
        for _ in range(ATTEMPTS):
            try:
                environment = self._usable()
                with (
                    self._write_lock,
                    environment.begin(write=True, buffers=True) as transaction,
                ):
                    # Now that the lock is held: to wait for it may have taken long.
                    self._check_place(applied=False)
                    self._dead_readers.strike_off(environment)
                    indexes = self._opened(environment, transaction, expires)
                    if indexes.arrivals is not None:
                        indexes.arrivals.begin(transaction)
                    answer, is_changed = work(transaction, indexes)
                    if indexes.arrivals is not None:
                        indexes.arrivals.end(transaction, is_changed)
                self._indexes = indexes
                self._check_place(applied=None)
                if self._reserve_spent:
                    self._keep_reserve()
                return answer
            except lmdb.MapFullError:
                self._grow(needed)
            except lmdb.Error as error:
                if not mendable(error):
                    raise
                self.mend(error)
        raise lmdb.MapFullError("the map keeps changing")

    def _opened(
        self, environment: lmdb.Environment, transaction: Transaction, expires: bool
    ) -> Indexes:
        expiries, arrivals = self._indexes
        return Indexes(
            expiries or Expiries.within(environment, transaction, expires),
            arrivals or Arrivals.within(environment, transaction, self.keeps_arrivals, self.queues),
        )

    def _grow(self, needed: int) -> None:
        size = self._usable().info()["map_size"]
        self._resize(2 * size + 2 * needed)

    def mend(self, error: lmdb.Error) -> None:
        """Take over a map that another process has grown, or open anew after a fatal error."""
        if isinstance(error, lmdb.MapResizedError):
            self._resize(0)
        else:
            self._open_again()

    def _resize(self, size: int) -> None:
        """Map ``size`` bytes, or as many as the file asks for if 0; no transaction may be open."""
        try:
            with self._lock:
                self._usable().set_mapsize(-(-size // _MAP_STEP) * _MAP_STEP)
        except lmdb.Error:
            self._open_again()  # without its map the environment is of no use
            raise

    def _open_again(self) -> None:
        with self._lock:
            self._close()
            self._open(make=False)

    def close(self) -> None:
        """Close the environment; whatever is asked later raises ``Unreachable``."""
        with self._lock:
            self._closed = True
            self._close()

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
        self._indexes = Indexes()
        self.last_commit.close()
        self._write_lock.close()

    def why_full(self, error: lmdb.Error, needed: int) -> str | None:
        """Return the reason if ``error`` means that ``needed`` bytes found no room, else None."""
        if error.code in FULL:
            return os.strerror(error.code)
        if error.code != errno.EIO:
            return None
        # LMDB calls a write that was cut short an I/O error, and that is how a disk fills up. Ask
        # the disk whether a file could grow as the data file should have.
        try:
            with TemporaryFile(dir=self._folder) as probe:
                end = (self._folder / "data.mdb").stat().st_size
                os.posix_fallocate(probe.fileno(), end, needed + _RESERVE_SIZE)
        except OSError as refusal:
            return refusal.strerror if refusal.errno in FULL else None
        return None

    def _keep_reserve(self) -> None:
        """Set space aside: LMDB needs new pages to delete, which a full disk would refuse."""
        try:
            with self._reserve.open("ab") as reserve:
                os.posix_fallocate(reserve.fileno(), 0, _RESERVE_SIZE)
            self._reserve_spent = False
        except OSError:
            self.spend_reserve()

    def spend_reserve(self) -> bool:
        """Give the reserve to a delete that found no room; return False if there is none."""
        self._reserve_spent = True
        try:
            if not self._reserve.stat().st_size:
                return False
            os.truncate(self._reserve, 0)
        except OSError:
            return False
        return True


def mendable(error: lmdb.Error) -> bool:
    """Tell whether ``LmdbFolder.mend`` helps against ``error``."""
    return isinstance(error, lmdb.MapResizedError | lmdb.PanicError)
