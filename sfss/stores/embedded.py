"""A store on the local disk: LMDB in one folder, shared by all workers and gateways that open it.

Reads happen in the event loop, each in a read transaction of its own that ends before anything is
awaited: a longer one would pin old pages and let the file grow. Writes that wait at the same time
share one transaction, committed with fsync by the store's writer thread, and are answered after the
commit.

A store belongs to the process that opened it and to one event loop: open it after the fork.
"""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias, TypeVar

import lmdb

from sfss import __version__
from sfss.errors import Corrupt, StoreError, StoreFull, Unreachable
from sfss.items import unique_of
from sfss.keys import KEY_LIMIT
from sfss.record import Buffer, Head, Kind, Record, decode, encode_head, held
from sfss.stores.base import Child, Entry, Guard, Stamped, Use, children_of
from sfss.stores.lmdb_changes import Change, Outcome
from sfss.stores.lmdb_folder import ATTEMPTS, LmdbFolder, mendable
from sfss.stores.patience import Patience

INITIAL_MAP_SIZE: Final = 1 << 34
"""Bytes of address space a store begins with; 16 GiB of it cost nothing. A full map is doubled."""

_BATCH_OPERATIONS: Final = 1000
_BATCH_BYTES: Final = 16 * 1024 * 1024

_SWEPT_IN_RESERVE: Final = 16

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Repair:
    """A read that cannot go on before the writer thread has mended what ``error`` says."""

    future: asyncio.Future[bool]
    error: lmdb.Error


@dataclass(frozen=True, slots=True)
class _Task:
    """What the writer thread is to call; ``future`` is told what that returns."""

    future: asyncio.Future[bool]
    work: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Sweep:
    """That what has expired at ``now_us`` is to go, up to ``limit`` records; ``future`` is told
    whether there may be more.
    """

    future: asyncio.Future[bool]
    now_us: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Stop:
    """The last thing in the queue; ``future`` is told when all before it is done."""

    future: asyncio.Future[bool]


_Waiting: TypeAlias = Change | _Repair | _Sweep | _Task | _Stop


def check_folder(folder: Path, make: bool) -> None:
    """Raise ``SettingError`` unless ``folder`` can be opened as a store, made if ``make``."""
    LmdbFolder(f"embedded:{folder}", folder, INITIAL_MAP_SIZE, make).close()


class EmbeddedStore:
    """Files in an LMDB environment under ``folder``, which is made if missing and ``make``.

    A write that is not done within ``timeout_s``, because the disk or a process that holds the
    write lock does not go on, is given up. ``initial_map_size`` is in bytes; ``address`` is the
    one that others know. Raises
    ``SettingError`` when the folder cannot be made or written, is open in this process already, or
    holds something else.
    """

    head_is_cheap = True

    def __init__(
        self,
        folder: Path,
        *,
        make: bool = True,
        timeout_s: float = 30.0,
        initial_map_size: int = INITIAL_MAP_SIZE,
        address: str = "",
    ) -> None:
        self.address = address or f"embedded:{folder}"
        self.folder = folder
        """Where the files are."""
        self._folder = LmdbFolder(self.address, folder, initial_map_size, make)
        self._queue: SimpleQueue[_Waiting] = SimpleQueue()
        self._stop: _Stop | None = None
        self._patience = Patience(timeout_s)
        writer = _Writer(self.address, self._folder, self._queue)
        # A daemon never keeps a dying process alive; what it has not committed, nobody was told of.
        threading.Thread(target=writer.run, name=self.address, daemon=True).start()

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key`` with its digest checked, or None if there is none.

        Raises ``Corrupt``, ``Unreachable``.
        """
        try:
            value = self._folder.get(key)
        except lmdb.Error:
            value = await self._read(partial(self._folder.get, key), key)
        return None if value is None else self._decoded(value, key)

    def _decoded(self, value: Buffer, key: bytes) -> Record:
        return decode(value, self.address, key)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``; see ``Store.head``."""
        return await self._read(partial(self._folder.head, key), key)

    def view(self, key: bytes, use: Use) -> bool:
        """Call ``use`` at once, in a read transaction, with the record under ``key``: a view of the
        database itself. ``use`` may not ask this store for anything. See ``ViewableStore.view``.
        """
        try:
            return self._folder.view(key, use)
        except (lmdb.Error, Unreachable):
            return False

    def state(self) -> int:
        """Return the number of the last commit, whoever made it; 0 while the files are not in
        their place.
        """
        folder = self._folder
        return folder.last_commit.number() if folder.place_is_right else 0

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``; when this returns, it is on disk.

        ``guard`` is called in the writer thread, inside the write transaction: nobody comes in
        between. It is called again where the transaction has to be repeated. A damaged record
        counts as nothing there: it can be replaced. Raises what ``guard`` raises, ``StoreFull``,
        ``Unreachable``; ValueError for a key that is no key.
        """
        await self._change(self._setting(key, record, guard))

    async def set_copy(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Do as ``set`` with a record of which other stores have copies: when it has expired and is
        swept, a tombstone remains. A copy of something older, which one of them may have yet,
        would be the newest else.
        """
        change = self._setting(key, record, guard)
        change.leaves_tombstone = True
        await self._change(change)

    async def sweep(self, now_us: int, limit: int) -> bool:
        """Remove files that have expired at ``now_us``, up to ``limit`` of them; return whether
        there may be more. Errors as in ``set``.

        Where there are none, nobody is waited for.
        """
        return await self._enqueue(_Sweep(self._new_future(), now_us, limit))

    @property
    def swept(self) -> int:
        """How many files ``sweep`` has removed."""
        return self._folder.swept

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``; return whether it was there. ``guard`` and errors as in ``set``."""
        return await self._change(Change(self._new_future(), key, None, b"", guard))

    async def delete_damaged(self, key: bytes) -> bool:
        """Remove the record under ``key`` if it is damaged, its body included; return whether it
        was. Nobody comes in between. Errors as in ``set``.
        """
        change = Change(self._new_future(), key, None, b"", None, if_damaged=True)
        return await self._change(change)

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries whose keys begin with ``prefix`` and are greater than
        ``after``, in byte order.

        A damaged record is logged, and has no head: so the others can be listed. A long listing is
        read in several transactions, with other requests served between them.
        """
        entries: list[Entry] = []
        position: bytes | None = after
        while position is not None and len(entries) < limit:
            wanted = limit - len(entries)
            read = partial(self._folder.scan, prefix, position, wanted)
            found, position = await self._read(read)
            entries += found
            await asyncio.sleep(0)
        return entries

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore``. Errors as in ``scan``."""
        return await children_of(self.scan, prefix, after, limit)

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all keys in byte order, with the stamps of their records; see
        ``ListingStore.keys``. Errors as in ``scan``.

        A record whose head is damaged is there, too, and has no stamp.
        """
        position: bytes | None = b""
        while position is not None:
            found, position = await self.heads(position)
            if found:
                yield [Stamped(key, _stamp_of(head)) for key, head in found]
            await asyncio.sleep(0)

    async def heads(self, after: bytes) -> tuple[list[tuple[bytes, Head | None]], bytes | None]:
        """Return some of the keys behind ``after``, in byte order, with their heads, None where
        that is damaged; and the key to go on after, None at the end. Errors as in ``scan``.
        """
        return await self._read(partial(self._folder.heads, after))

    async def stats(self) -> Mapping[str, str]:
        """Return what the store holds and has room for, in bytes but for ``curr_items``.

        Nothing in it depends on which of several workers is asked. Raises ``Unreachable``.
        """
        sizes = await self._read(self._folder.sizes)
        return {"version": __version__, **{name: str(size) for name, size in sizes.items()}}

    async def close(self) -> None:
        """Finish the writes that wait, stop the writer thread and close the files.

        After ``timeout_s`` the thread is left behind: nobody was told that its write is kept.
        """
        if self._stop is None:
            self._stop = _Stop(self._new_future())
            self._queue.put(self._stop)
        await asyncio.wait([self._stop.future], timeout=self._patience.timeout_s)

    def _setting(self, key: bytes, record: Record, guard: Guard | None) -> Change:
        head, body = encode_head(record.head), held(record.body)
        expiry = record.head.expiry if record.head.kind is not Kind.TOMBSTONE else 0
        return Change(self._new_future(), key, head, body, guard, expiry=expiry)

    async def _change(self, change: Change) -> bool:
        if not 0 < len(change.key) <= KEY_LIMIT:
            raise ValueError(f"a key has 1 to {KEY_LIMIT} bytes, not {len(change.key)}")
        try:
            return await self._enqueue(change)
        finally:
            change.give_up()

    async def _in_writer(self, work: Callable[[], bool]) -> bool:
        """Return what ``work`` returns in the writer thread; errors as in ``set``."""
        return await self._enqueue(_Task(self._new_future(), work))

    def _new_future(self) -> asyncio.Future[bool]:
        return asyncio.get_running_loop().create_future()

    async def _enqueue(self, item: Change | _Repair | _Sweep | _Task) -> bool:
        if self._stop is not None:
            raise Unreachable(self.address, "it is closed", applied=False)
        self._queue.put(item)
        self._patience.watch(item.future)
        try:
            return await item.future
        except TimeoutError:
            reason = f"nothing was done within {self._patience.timeout_s:g} s"
            applied = None if isinstance(item, Change) else False
            raise Unreachable(self.address, reason, applied) from None

    async def _read(self, read: Callable[[], Answer], key: bytes = b"database") -> Answer:
        """Return what ``read`` returns; let the writer thread mend what can be mended."""
        for _ in range(ATTEMPTS):
            try:
                return read()
            except lmdb.Error as error:
                if not mendable(error):
                    raise _failure(self.address, key, error, applied=False) from error
                repair = _Repair(self._new_future(), error)
            await self._enqueue(repair)
        raise Unreachable(self.address, "its map keeps changing", applied=False)


class _Writer:
    """The thread that makes every change: a batch of those that wait, one transaction."""

    def __init__(self, address: str, folder: LmdbFolder, queue: SimpleQueue[_Waiting]) -> None:
        self._address, self._folder, self._queue = address, folder, queue

    def run(self) -> None:
        """Work until a ``_Stop`` comes."""
        while (stop := self._work(self._take())) is None:
            pass
        self._folder.close()
        _post([(stop.future, True)])

    def _work(self, batch: Sequence[_Waiting]) -> _Stop | None:
        changes = [item for item in batch if isinstance(item, Change)]
        for change in changes:
            change.taken = True
        # What was cancelled by now is not begun.
        changes = [change for change in changes if not change.future.done()]
        outcomes = self._change(changes) if changes else []
        answers = list(zip([change.future for change in changes], outcomes, strict=True))
        repairs = [item for item in batch if isinstance(item, _Repair)]
        answers += [(repair.future, self._repair(repair.error)) for repair in repairs]
        sweeps = [item for item in batch if isinstance(item, _Sweep) and not item.future.done()]
        answers += [(sweep.future, self._sweep(sweep)) for sweep in sweeps]
        tasks = [item for item in batch if isinstance(item, _Task) and not item.future.done()]
        answers += [(task.future, self._do(task)) for task in tasks]
        _post(answers)
        return next((item for item in batch if isinstance(item, _Stop)), None)

    def _take(self) -> list[_Waiting]:
        """Wait for something; return it with all else that waits, within the bounds of a batch."""
        batch = [self._queue.get()]
        size = _size(batch[0])
        with suppress(Empty):
            while len(batch) < _BATCH_OPERATIONS and size < _BATCH_BYTES:
                batch.append(self._queue.get_nowait())
                size += _size(batch[-1])
        return batch

    def _change(self, changes: Sequence[Change]) -> list[Outcome]:
        try:
            return self._settle(changes)
        except Exception as error:
            # The thread has to live, and everybody who waits has to hear.
            _log.exception("store %s: a batch of %d writes failed", self._address, len(changes))
            return [Unreachable(self._address, repr(error)) for _ in changes]

    def _settle(self, changes: Sequence[Change]) -> list[Outcome]:
        try:
            return self._folder.commit(changes)
        except Unreachable as error:
            return [error for _ in changes]
        except lmdb.Error as error:
            reason = self._folder.why_full(error, sum(change.size for change in changes))
            if len(changes) > 1 and (reason or isinstance(error, lmdb.TxnFullError)):
                # One by one: a large file that finds no room must not fail the small ones.
                return [outcome for change in changes for outcome in self._settle([change])]
            if reason is None:
                return [_failure(self._address, change.key, error) for change in changes]
        if changes[0].deletes and self._folder.spend_reserve():
            return self._settle(changes)
        return [StoreFull(self._address, reason)]

    def _sweep(self, sweep: _Sweep) -> Outcome:
        try:
            return self._folder.sweep(sweep.now_us, sweep.limit).more
        except Unreachable as error:
            return error
        except lmdb.Error as error:
            if not self._folder.why_full(error, 0) or not self._folder.spend_reserve():
                return _failure(self._address, b"database", error)
        except Exception as error:
            _log.exception("store %s: what has expired cannot be removed", self._address)
            return Unreachable(self._address, repr(error))
        # With less room, fewer at a time.
        return self._sweep(replace(sweep, limit=_SWEPT_IN_RESERVE))

    def _do(self, task: _Task) -> Outcome:
        try:
            return task.work()
        except Unreachable as error:
            return error
        except lmdb.Error as error:
            return _failure(self._address, b"database", error)
        except Exception as error:
            _log.exception("store %s: unexpected", self._address)
            return Unreachable(self._address, repr(error))

    def _repair(self, error: lmdb.Error) -> Outcome:
        try:
            self._folder.mend(error)
            return True
        except Exception as failure:
            reason = f"it cannot be opened again: {failure}"
            return Unreachable(self._address, reason, applied=False)


_DAMAGE: Final = lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError


def _failure(
    address: str, key: bytes, error: lmdb.Error, applied: bool | None = None
) -> StoreError:
    if isinstance(error, _DAMAGE):
        return Corrupt(address, key, "sound pages of the database", str(error))
    reason = os.strerror(error.code) if error.code > 0 else str(error)
    return Unreachable(address, reason, applied)


def _stamp_of(head: Head | None) -> int | None:
    return None if head is None else unique_of(head)


def _size(item: _Waiting) -> int:
    return item.size if isinstance(item, Change) else 0


def _post(answers: Sequence[tuple[asyncio.Future[bool], Outcome]]) -> None:
    """Give every future its outcome in one call of the event loop."""
    if answers:
        # RuntimeError: the loop is closed, and nobody waits any more.
        with suppress(RuntimeError):
            answers[0][0].get_loop().call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Sequence[tuple[asyncio.Future[bool], Outcome]]) -> None:
    for future, outcome in answers:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
