"""What counts against quotas: the size of each file below a prefix, in a small LMDB of its own.

A write is noted before it begins (``begin``), with what it may add, and after it (``end``), with
what has come of it. In between a file counts as the largest that it may be: what was there, or any
of what is being written. So whatever happens, and whoever dies, no less is counted than there is;
too much may be, until the file is written anew, or counted (``merge``).

All processes of a gateway share the ledger; several gateways on one machine may. Its laws:

- What is noted for a prefix is the sum of what is noted for the files below it.
- Where writes of one file have overlapped, the one that came last counts if all say when they
  came to pass, as those to an embedded store can, inside its transactions. Else the largest does.
- A write has ended that is hours old, or whose process has died (``Writes``), or that began when
  none of those were there who have the ledger open now: they all hold a lock, and whoever comes
  first writes down when that was (``Presence``).

Every change is on disk (fsync) before it is answered; those that wait share a transaction.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from struct import Struct
from typing import Any, Final, NamedTuple, TypeVar

import lmdb
from xxhash import xxh3_128_digest

from sfss.config_quota import Quota, Used
from sfss.errors import QuotaExceeded, SettingError, StoreFull, Unreachable
from sfss.stores.ledger_entries import Begun, Came, File, Outcome, Presence, Writes, now_us
from sfss.stores.lmdb_readers import DeadReaders
from sfss.stores.patience import Patience
from sfss.stores.write_lock import WriteLock

_MAP_SIZE: Final = 1 << 34
_BATCH: Final = 512
_KEY_LIMIT: Final = 500
_SWEPT: Final = 1000
_SUM: Final = Struct("<QQB")
_EXPIRY: Final = Struct(">Q")

Answer = TypeVar("Answer")
Transaction = Any
"""Of LMDB; its binding has no types for named databases in one."""


class _Waiting(NamedTuple):
    """What waits for the writer thread; ``future`` is told what ``work`` returns. ``is_due``: it is
    done, however late, also where nobody waits for it any more.
    """

    work: Callable[[Any], Any]
    future: Any
    is_due: bool


def _key(path: bytes) -> bytes:
    # LMDB has keys of up to 511 bytes. No path has the byte that stands before the digest.
    return path if len(path) <= _KEY_LIMIT else path[:400] + b"\xff" + xxh3_128_digest(path)


class Ledger:
    """The ledger in ``folder``, made if missing, of the ``quotas``. To be opened after the fork.

    What is not done within ``timeout_s``, because the disk or a process that holds the write lock
    does not go on, is given up; all methods raise ``Unreachable`` then.
    """

    def __init__(self, folder: Path, quotas: Sequence[Quota], timeout_s: float = 30.0) -> None:
        self.address = f"quota:{folder}"
        self._patience = Patience(timeout_s)
        self._quotas = {quota.prefix.encode(): quota for quota in quotas}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._presence = Presence(folder)
            self._environment = lmdb.open(
                str(folder), map_size=_MAP_SIZE, max_dbs=4, max_readers=1022, lib_version=0
            )
            self._write_lock = WriteLock(folder / "data.mdb")
            self._dead_readers = DeadReaders()
        except (OSError, lmdb.Error) as error:
            wanted = "a folder is needed that can be written"
            raise SettingError("settings", "quota.folder", str(error), wanted) from error
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._is_open = False
        # The databases are opened in the thread: whoever is stopped may have the write lock, and
        # reads of files, which need none of this, are not to wait for that.
        self._queue.put(_Waiting(lambda transaction: None, None, is_due=True))
        self._thread = threading.Thread(target=self._work, name=self.address, daemon=True)
        self._thread.start()

    def _open(self, transaction: Transaction) -> None:
        self._files, self._sums, self._expiries, writes = (
            self._environment.open_db(name, transaction)
            for name in (b"files", b"sums", b"expiries", b"writes")
        )
        self._writes = Writes(writes, self._presence)

    # -- a write

    async def begin(self, path: bytes, size: int, expiry: int) -> Begun | None:
        """Note that ``size`` bytes are about to be written at ``path``; return what ``end`` is to
        be told. None: it is not known yet what is there (``count``), and nothing was noted.

        Raises ``QuotaExceeded``, ``StoreFull``, ``Unreachable``: nothing was noted.
        """
        return await self._change(lambda transaction: self._begin(transaction, path, size, expiry))

    async def begin_delete(self, path: bytes) -> Begun:
        """Note that what is at ``path`` is about to be deleted."""
        return await self._change(
            lambda transaction: self._enter(transaction, path, 0, 0, is_file=False)
        )

    async def end(
        self, begun: Begun, outcome: Outcome, size: int = 0, expiry: int = 0, at_ns: int = 0
    ) -> None:
        """Note what has come of a write, for ``KEPT`` of how many bytes, and until when; ``at_ns``:
        when it came to pass among all writes of the store, 0 where that cannot be told.
        """
        came = Came(at_ns, size, expiry, outcome is Outcome.KEPT)
        await self._change(
            lambda transaction: self._end(transaction, begun, outcome, came), is_due=True
        )

    def end_later(self, begun: Begun, outcome: Outcome) -> None:
        """Do as ``end`` and wait for nothing."""
        end = partial(self._end, begun=begun, outcome=outcome, came=Came())
        self._queue.put(_Waiting(end, None, is_due=True))

    def _begin(self, transaction: Transaction, path: bytes, size: int, expiry: int) -> Begun | None:
        if not all(used.is_counted for used in self._used(transaction, path).values()):
            return None
        if self._excess(transaction, path, size):
            self._sweep(transaction)
            if excess := self._excess(transaction, path, size):
                raise excess
        return self._enter(transaction, path, size, expiry, is_file=True)

    def _excess(self, transaction: Transaction, path: bytes, size: int) -> QuotaExceeded | None:
        file = self._file(transaction, path)
        more = max(0, size - (file.size if file else 0))
        for prefix, used in self._used(transaction, path).items():
            quota = self._quotas[prefix]
            if quota.bytes is not None and more and used.bytes + more > quota.bytes:
                return QuotaExceeded(quota.prefix, "bytes", quota.bytes, used.bytes, more)
            if quota.files is not None and file is None and used.files + 1 > quota.files:
                return QuotaExceeded(quota.prefix, "files", quota.files, used.files, 1)
        return None

    def _enter(
        self, transaction: Transaction, path: bytes, size: int, expiry: int, *, is_file: bool
    ) -> Begun:
        now, former = self._presence.now(), self._file(transaction, path)
        if former is None and not is_file:
            return Begun(path)
        file = former or File(0, expiry)
        if not file.has_writers(now):
            before = Came(0, file.size, file.expiry, former is not None)
            file.writers, file.overlaps, file.is_told, file.last = 0, False, True, before
        # Until it ends it may be any of them, and any may be there for ever.
        ends = file.expiry and expiry if is_file else file.expiry
        file.expiry = max(file.expiry, expiry) if ends else 0
        file.size, file.touched_us = max(file.size, size), now.us
        file.overlaps |= file.writers > 0
        file.writers += 1
        self._note(transaction, path, file)
        return Begun(path, self._writes.begin(transaction, path))

    def _end(self, transaction: Transaction, begun: Begun, outcome: Outcome, came: Came) -> None:
        self._writes.end(transaction, begun.number)
        file = self._file(transaction, begun.path) if begun.number else None
        if file is not None:
            self._end_of(transaction, begun.path, file, outcome, came)

    def _end_of(
        self, transaction: Transaction, path: bytes, file: File, outcome: Outcome, came: Came
    ) -> None:
        file.writers, file.touched_us = max(0, file.writers - 1), now_us()
        is_change = outcome in (Outcome.KEPT, Outcome.GONE)
        if file.overlaps:
            file.is_told &= bool(came.at_ns) if is_change else outcome is Outcome.UNCHANGED
            if is_change and came.at_ns > file.last.at_ns:
                file.last = came
            is_settled = file.is_told and not file.writers
        elif is_change:
            file.last, is_settled = came, True
        else:
            is_settled = outcome is Outcome.UNCHANGED
        if is_settled:
            file.size, file.expiry = file.last.size, file.last.expiry
        self._note(transaction, path, None if is_settled and not file.last.is_file else file)

    def _end_of_the_dead(self, transaction: Transaction) -> None:
        now = self._presence.now()
        for path in self._writes.of_the_dead(transaction):
            file = self._file(transaction, path)
            if file is not None and file.has_writers(now):
                self._end_of(transaction, path, file, Outcome.UNKNOWN, Came())

    # -- counting

    async def count(self, prefix: str) -> int:
        """Begin to count what is below ``prefix``: what is noted is added up. Return the moment."""
        return await self._change(lambda transaction: self._count(transaction, prefix.encode()))

    async def merge(
        self,
        prefix: str,
        span: tuple[bytes, bytes | None],
        listed: Mapping[bytes, tuple[int, int]],
        since_us: int,
    ) -> None:
        """Note the files that were ``listed`` after the moment ``since_us``, each with size and
        expiry: all below ``prefix`` behind the first of ``span`` and up to the second, None for the
        end. What else is noted there is gone, unless it was written since.
        """
        await self._change(
            lambda transaction: self._merge(transaction, prefix.encode(), span, listed, since_us)
        )

    async def counted(self, prefix: str) -> None:
        """Note that all that is below ``prefix`` has been counted."""
        await self._change(lambda transaction: self._mark(transaction, prefix.encode(), True))

    def _count(self, transaction: Transaction, prefix: bytes) -> int:
        size = files = 0
        with transaction.cursor(db=self._files) as cursor:
            is_there = cursor.set_range(prefix) if prefix else cursor.first()
            while is_there and bytes(cursor.key()).startswith(prefix):
                size, files = size + File.unpack(cursor.value()).size, files + 1
                is_there = cursor.next()
        was_counted = self._sum(transaction, prefix).is_counted
        transaction.put(prefix or b"\0", _SUM.pack(size, files, was_counted), db=self._sums)
        return now_us()

    def _merge(
        self,
        transaction: Transaction,
        prefix: bytes,
        span: tuple[bytes, bytes | None],
        listed: Mapping[bytes, tuple[int, int]],
        since_us: int,
    ) -> None:
        after, last = span
        noted: list[bytes] = []
        with transaction.cursor(db=self._files) as cursor:
            is_there = cursor.set_range(max(prefix, after) or b"\0")
            while is_there and (key := bytes(cursor.key())).startswith(prefix):
                if last is not None and key > last:
                    break
                if key > after:
                    noted.append(key)
                is_there = cursor.next()
        now = self._presence.now()
        for key in noted:
            file = self._file(transaction, key)
            is_old = file and not file.has_writers(now) and not file.is_since(since_us, now)
            if is_old and key not in listed and len(key) <= _KEY_LIMIT and b"\xff" not in key:
                self._note(transaction, key, None)
        for path, (size, expiry) in listed.items():
            file = self._file(transaction, path)
            if file is None:
                self._note(transaction, path, File(size, expiry))
            elif file.has_writers(now) or file.is_since(since_us, now):
                if size > file.size and file.has_writers(now):
                    file.size = size
                    if not file.last.at_ns:  # what will be there if none of them comes to pass
                        file.last = Came(0, size, expiry, is_file=True)
                    self._note(transaction, path, file)
            else:
                self._note(transaction, path, File(size, expiry, file.touched_us))

    def _mark(self, transaction: Transaction, prefix: bytes, is_counted: bool) -> None:
        used = self._sum(transaction, prefix)
        transaction.put(
            prefix or b"\0", _SUM.pack(used.bytes, used.files, is_counted), db=self._sums
        )

    # -- what is noted

    async def forget_others(self) -> None:
        """Note of prefixes that have no quota that they are not counted any more."""
        await self._change(self._forget_others)

    def _forget_others(self, transaction: Transaction) -> None:
        with transaction.cursor(db=self._sums) as cursor:
            known = [bytes(key) for key, _ in cursor]
        for key in known:
            prefix = b"" if key == b"\0" else key
            if prefix not in self._quotas:
                self._mark(transaction, prefix, False)

    def usage(self) -> dict[str, tuple[Quota, Used]]:
        """Return by prefix what it may have, and has, as far as that is known."""
        if not self._is_open:
            unknown = Used(0, 0, is_counted=False)
            return {quota.prefix: (quota, unknown) for quota in self._quotas.values()}
        with self._environment.begin() as transaction:
            return {
                quota.prefix: (quota, self._sum(transaction, prefix))
                for prefix, quota in self._quotas.items()
            }

    def covers(self, path: bytes) -> bool:
        """Tell whether a file at ``path`` counts."""
        return any(path.startswith(prefix) for prefix in self._quotas)

    def _used(self, transaction: Transaction, path: bytes) -> dict[bytes, Used]:
        found = (prefix for prefix in self._quotas if path.startswith(prefix))
        return {prefix: self._sum(transaction, prefix) for prefix in found}

    def _sum(self, transaction: Transaction, prefix: bytes) -> Used:
        value = transaction.get(prefix or b"\0", db=self._sums)
        if value is None:
            return Used(0, 0, is_counted=False)
        size, files, is_counted = _SUM.unpack(value)
        return Used(size, files, bool(is_counted))

    def _file(self, transaction: Transaction, path: bytes) -> File | None:
        value = transaction.get(_key(path), db=self._files)
        return None if value is None else File.unpack(value)

    def _note(self, transaction: Transaction, path: bytes, file: File | None) -> None:
        """Note ``file``, or that there is none, and all sums that it is in."""
        former, key = self._file(transaction, path), _key(path)
        more = (file.size if file else 0) - (former.size if former else 0)
        for name, used in self._sums_of(transaction, path):
            files = used.files + (file is not None) - (former is not None)
            transaction.put(
                name,
                _SUM.pack(max(0, used.bytes + more), max(0, files), used.is_counted),
                db=self._sums,
            )
        if former is not None and former.expiry:
            transaction.delete(_EXPIRY.pack(former.expiry) + key, db=self._expiries)
        if file is None:
            transaction.delete(key, db=self._files)
            return
        if file.expiry and len(key) <= _KEY_LIMIT:
            transaction.put(_EXPIRY.pack(file.expiry) + key, b"", db=self._expiries)
        transaction.put(key, file.pack(), db=self._files)

    def _sums_of(self, transaction: Transaction, path: bytes) -> list[tuple[bytes, Used]]:
        """Return all sums that ``path`` is in: those too of prefixes that other processes know."""
        with transaction.cursor(db=self._sums) as cursor:
            known = [bytes(key) for key, _ in cursor]
        found = [key for key in known if path.startswith(b"" if key == b"\0" else key)]
        return [(key, self._sum(transaction, b"" if key == b"\0" else key)) for key in found]

    def _sweep(self, transaction: Transaction) -> None:
        """Forget files that have expired: nobody is shown them any more."""
        due, now = time.time_ns() // 1000, self._presence.now()
        with transaction.cursor(db=self._expiries) as cursor:
            expired: list[bytes] = []
            for key, _ in cursor:
                entry = bytes(key)
                if _EXPIRY.unpack_from(entry)[0] > due or len(expired) == _SWEPT:
                    break
                expired.append(entry[_EXPIRY.size :])
        for path in expired:
            file = self._file(transaction, path)
            if file is not None and not file.has_writers(now):
                self._note(transaction, path, None)

    # -- transactions

    async def _change(
        self, work: Callable[[Transaction], Answer], *, is_due: bool = False
    ) -> Answer:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put(_Waiting(work, future, is_due))
        self._patience.watch(future)
        try:
            answer: Answer = await future
            return answer
        except TimeoutError:
            reason = f"nothing was noted within {self._patience.timeout_s:g} s"
            raise Unreachable(self.address, reason, applied=False) from None

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            with suppress(Empty):
                while len(batch) < _BATCH:
                    batch.append(self._queue.get_nowait())
            waiting = [each for each in batch if each is not None]
            self._post(list(zip(waiting, self._commit(waiting), strict=True)))
            if len(waiting) < len(batch):
                self._environment.close()
                self._write_lock.close()
                self._presence.close()
                return

    def _commit(self, waiting: Sequence[_Waiting]) -> list[Any]:
        """Do all that waits in one transaction; return results, or errors."""
        answers: list[Any] = []
        try:
            with self._write_lock, self._environment.begin(write=True) as transaction:
                self._dead_readers.strike_off(self._environment)
                if not self._is_open:
                    self._open(transaction)
                self._end_of_the_dead(transaction)
                for work, future, is_due in waiting:
                    is_given_up = not is_due and future.done()  # while the lock was waited for
                    try:
                        answers.append(None if is_given_up else work(transaction))
                    except QuotaExceeded as refusal:
                        answers.append(refusal)
            self._is_open = True
            return answers
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            return [StoreFull(self.address, str(error)) for _ in waiting]
        except Exception as error:  # the thread has to live, and everybody who waits has to hear
            return [Unreachable(self.address, repr(error), applied=False) for _ in waiting]

    def _post(self, answers: Sequence[tuple[_Waiting, Any]]) -> None:
        told = [(waiting.future, answer) for waiting, answer in answers if waiting.future]
        if told:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                told[0][0].get_loop().call_soon_threadsafe(self._resolve, told)

    def _resolve(self, answers: Sequence[tuple[Any, Any]]) -> None:
        for future, answer in answers:
            if not future.done():
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            elif isinstance(answer, Begun):
                self.end_later(answer, Outcome.UNCHANGED)  # given up meanwhile: nothing is written

    async def close(self) -> None:
        """Finish what waits, and close the files."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, 10.0)
