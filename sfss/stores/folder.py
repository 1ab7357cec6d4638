"""A store of ordinary files below a local folder, which other programs may use at the same time.

A body is a file under its own name, and the time of change of the file is its version. The rest of
its head is in an extended attribute or, where the file system has none, in a mark; a file that is
not as its head says is another program's, and is served as it is (``plain_heads``). The memory of a
deletion is a mark that counts as long as there is no file.

A change is made under a lock that all gateways on the folder respect; other programs do not. What
one of them writes between a look and a change is seen, and looked at anew, but for the moment of
the change itself. A change that has begun is finished, whoever waits for it: else it could come
after a newer one.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

from sfss import __version__
from sfss.errors import BadPath, Corrupt, StoreError, Unreachable, Unsettled
from sfss.items import unique_of
from sfss.keys import names_of
from sfss.record import Body, Head, Kind, Record, decode_lone_head, digest_of, digest_of_any
from sfss.spool import FileBody
from sfss.stores.base import (
    KEYS_LIMIT,
    Child,
    Entry,
    Guard,
    HasNewer,
    Stamped,
    scan_of,
    unless_newer,
)
from sfss.stores.key_locks import KeyLocks
from sfss.stores.marks import Marks
from sfss.stores.plain_folder import Names, PlainFolder, Seen, Stamp, stamp_of
from sfss.stores.plain_heads import SECOND_US, is_about, is_raw, raw_file_head
from sfss.stores.plain_writing import ANY, PlainWriting, Stale

SMALL_SIZE: Final = 1024 * 1024
"""Bytes of a file that are read in the event loop, as from the page cache; a larger one is read by
a thread and is a ``LongBody``.
"""

_THREADS: Final = 8
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.02

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Given = TypeVarTuple("Given")


class _Changing(OSError):
    """Raised when a file is changed while it is read."""


@dataclass(slots=True)
class _Turn:
    """Whether a change has got its turn: what has not may still be called off."""

    has_come: bool = False


class _StillBody(FileBody):
    """A file that another program may change in place: whoever reads it then is told so, and never
    gets the bytes of two states, or those of one under the head of the other.
    """

    def __init__(self, descriptor: int, stamp: Stamp) -> None:
        super().__init__(descriptor, stamp.size)
        self._stamp = stamp

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; see ``LongBody.read``."""
        piece = super().read(start, size)
        if stamp_of(os.fstat(self.fileno())) != self._stamp:
            raise _Changing("the file was changed while it was read")
        return piece


class FolderStore:
    """Files below ``folder``, which is made if missing and ``make``; ``marks`` are its own.

    A change that is not done within ``timeout_s`` is given up, or goes on unheard. A store belongs
    to the process that opened it and to one event loop. Raises ``SettingError`` when the folder
    cannot be opened.
    """

    head_is_cheap = True

    def __init__(
        self,
        address: str,
        folder: Path,
        marks: Marks,
        *,
        make: bool = True,
        timeout_s: float = 30.0,
    ) -> None:
        self.address, self._marks, self._timeout_s = address, marks, timeout_s
        self._folder = PlainFolder(address, folder, make)
        self._writing = PlainWriting(self._folder)
        self._locks = KeyLocks(None)
        try:
            self._writing.open(self._locks.use)
        except Unreachable as error:
            _log.warning("it can only be read until it can be written: %s", error)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=address)
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_closed = False

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``; None if there is none. See ``Store.get``.

        The digest of a file that another program wrote is none, and is not checked.
        """
        names = names_of(key)
        for _ in range(_ATTEMPTS):
            try:
                return await self._read(key, names)
            except _Changing:
                await asyncio.sleep(_PAUSE_S)
        raise Unsettled(self.address, key)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``; see ``Store.head``."""
        return await self._head_of(key, self._folder.look(names_of(key)))

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``; when this returns, it is on disk. See ``Store.set``.

        ``guard`` is called again where another program comes in between. Raises ``PathTaken`` where
        a folder has that name, or a file that of a folder on the way; ``BadPath`` for a key that is
        no name of a file here.
        """
        names = names_of(key)
        await self._changed(key, lambda: self._set(key, names, record, guard))

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is something newer; see ``NewestStore``. Errors as in
        ``set``. Nobody but another program can come in between.
        """
        names, guard = names_of(key), unless_newer(record.head)
        try:
            await self._changed(key, lambda: self._set(key, names, record, guard))
        except HasNewer as refusal:
            return refusal.head
        return None

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key`` and the folders that are empty then; return whether it was there.
        ``guard`` and errors as in ``set``.
        """
        names = names_of(key)
        return await self._changed(key, lambda: self._delete(key, names, guard))

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries in byte order; see ``Store.scan`` and ``children``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore``. What cannot be asked for is left out,
        and so is, with a line in the log, a file whose head is damaged.
        """
        try:
            folder = names_of(prefix[:-1]) if prefix else []
        except BadPath:
            return []
        found: list[Child] = []
        while len(found) < limit:
            wanted = limit - len(found)
            names = await self._run(self._folder.listed, folder, after, wanted)
            if not names:
                break
            found += await self._children(prefix, folder, names)
            after = names[-1]
        return found

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield the keys of all files and of all deletions that are remembered; see
        ``ListingStore.keys``.
        """
        walk = self._folder.walk()
        while (step := await self._run(next, walk, None)) is not None:
            prefix, names = step
            for start in range(0, len(names), KEYS_LIMIT):
                yield await self._stamped(prefix, names[start : start + KEYS_LIMIT])
        with self._marks_border():
            async for marked in self._marks.all():
                if tombstones := [each for each in marked if each[1].kind is Kind.TOMBSTONE]:
                    yield await self._run(self._without_file, tombstones)

    async def stats(self) -> Mapping[str, str]:
        """Return the sizes of the file system in bytes, ``bytes`` being what is in use, whatever
        for. Raises ``Unreachable``.
        """
        room = await self._run(self._folder.room)
        return {"version": __version__, **{name: str(size) for name, size in room.items()}}

    async def close(self) -> None:
        """Finish what was begun, and let go of the folder; after ``timeout_s`` it is left behind:
        nobody was told that it is done.
        """
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await asyncio.to_thread(self._threads.shutdown)
                self._writing.close()
                self._folder.close()

    async def _read(self, key: bytes, names: Names) -> Record | None:
        opened = self._folder.open_file(names)
        if opened is None:
            head = await self._head_of(key, None)
            return None if head is None else Record(head, b"")
        descriptor, seen = opened
        body = _StillBody(descriptor, seen.stamp)
        head = await self._head_of(key, seen)
        assert head is not None
        try:
            small = body.read(0, len(body)) if len(body) <= SMALL_SIZE else None
            if is_raw(head):
                return Record(head, body if small is None else small)
            if small is not None:
                return self._checked(key, head, small, digest_of(small))
            return self._checked(key, head, body, await self._run(digest_of_any, body))
        except _Changing:
            raise
        except OSError as error:
            raise Unreachable(self.address, str(error), applied=False) from error

    def _checked(self, key: bytes, head: Head, body: Body, digest: bytes) -> Record:
        if digest != head.digest:
            raise Corrupt(self.address, key, f"digest {head.digest.hex()}", digest.hex())
        return Record(head, body)

    async def _head_of(self, key: bytes, seen: Seen | None) -> Head | None:
        """Return the head of what is under ``key``, where the file was ``seen``."""
        if seen is not None and seen.carried is not None:
            head: Head | None = decode_lone_head(seen.carried, self.address, key)
        else:
            with self._marks_border():
                head = await self._marks.get(key)
        if seen is None:
            return head if head is not None and head.kind is Kind.TOMBSTONE else None
        size, mtime_us = seen.stamp.size, seen.stamp.mtime_ns // 1000
        if head is not None and is_about(head, size, mtime_us, self._writing.precision_us):
            return head
        raw = raw_file_head(size, mtime_us // SECOND_US)
        if head is not None and raw.version < head.version < mtime_us:
            # Changed within the second of our own write, and after it: the change wins.
            return raw._replace(version=mtime_us)
        return raw

    async def _head_if_sound(self, key: bytes, seen: Seen | None) -> Head | None:
        try:
            return await self._head_of(key, seen)
        except Corrupt as error:
            _log.warning("taken for absent: %s", error)
            return None

    async def _children(self, prefix: bytes, folder: Names, names: Names) -> list[Child]:
        files = [name for name in names if not name.endswith(b"/")]
        seen = dict(zip(files, await self._looked_in(folder, files), strict=True))
        found: list[Child] = []
        for name in names:
            if name.endswith(b"/"):
                found.append(Child(name, None))
            elif seen[name] is not None:
                found += await self._child(prefix, name, seen[name])
        return found

    async def _child(self, prefix: bytes, name: bytes, seen: Seen | None) -> list[Child]:
        try:
            head = await self._head_of(prefix + name, seen)
        except Corrupt as error:
            _log.warning("in a listing: %s", error)
            return [Child(name, None)]
        return [Child(name, head)] if head is not None else []

    async def _stamped(self, prefix: bytes, names: Names) -> list[Stamped]:
        found: list[Stamped] = []
        looked = await self._looked_in(prefix.split(b"/")[:-1], names)
        for name, seen in zip(names, looked, strict=True):
            if seen is not None:
                head = await self._head_if_sound(prefix + name, seen)
                found.append(Stamped(prefix + name, None if head is None else unique_of(head)))
        return found

    async def _looked_in(self, folder: Names, names: Names) -> list[Seen | None]:
        return await self._run(self._folder.look_in, folder, names) if names else []

    def _without_file(self, marked: Sequence[tuple[bytes, Head]]) -> list[Stamped]:
        looks = ((key, head) for key, head in marked if self._folder.look(names_of(key)) is None)
        return [Stamped(key, unique_of(head)) for key, head in looks]

    async def _set(self, key: bytes, names: Names, record: Record, guard: Guard | None) -> None:
        head, body = record
        if head.kind is Kind.TOMBSTONE:
            # The mark comes last: if nobody gets that far, nobody was told of a deletion.
            await self._remove(key, names, guard)
            is_carried = False
        else:
            write = self._writing.write
            is_carried = await self._tried(
                key, names, guard, lambda expected: write(names, head, body, expected)
            )
        with self._marks_border(applied=None):
            if not is_carried:
                await self._marks.set(key, head)
            elif (mark := await self._marks.get(key)) is not None:
                await self._marks.delete(key, mark)

    async def _delete(self, key: bytes, names: Names, guard: Guard | None) -> bool:
        is_removed = await self._remove(key, names, guard)
        with self._marks_border(applied=None):
            mark = await self._marks.get(key)
            if mark is None:
                return is_removed
            await self._marks.delete(key, mark)
        return is_removed or mark.kind is Kind.TOMBSTONE

    async def _remove(self, key: bytes, names: Names, guard: Guard | None) -> bool:
        remove = self._writing.remove
        return await self._tried(key, names, guard, lambda expected: remove(names, expected))

    async def _tried(
        self,
        key: bytes,
        names: Names,
        guard: Guard | None,
        change: Callable[[Stamp | None], Answer],
    ) -> Answer:
        """Return what ``change`` returns, having asked ``guard`` about what it changes."""
        for _ in range(_ATTEMPTS):
            expected: Stamp | None = ANY
            if guard is not None:
                seen = self._folder.look(names)
                guard(await self._head_if_sound(key, seen))
                expected = None if seen is None else seen.stamp
            try:
                return await self._run(change, expected)
            except Stale:
                continue
        raise Unsettled(self.address, key)

    async def _changed(self, key: bytes, change: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what ``change`` returns, which is done under the lock of ``key``."""
        if self._is_closed:
            raise Unreachable(self.address, "it is closed", applied=False)
        turn = _Turn()
        task = asyncio.ensure_future(self._in_turn(key, change, turn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            reason = f"nothing was done within {self._timeout_s:g} s"
            applied = None if turn.has_come else False
            raise Unreachable(self.address, reason, applied) from None
        finally:
            if not turn.has_come:
                task.cancel()

    async def _in_turn(
        self, key: bytes, change: Callable[[], Awaitable[Answer]], turn: _Turn
    ) -> Answer:
        if self._writing.lock_file is None:
            await self._run(self._writing.open, self._locks.use)
        async with self._locks.of(key):
            turn.has_come = True
            return await change()

    async def _run(self, work: Callable[[*Given], Answer], *given: *Given) -> Answer:
        """Return what ``work`` returns in a thread of the store."""
        try:
            future = self._threads.submit(work, *given)
        except RuntimeError:
            raise Unreachable(self.address, "it is closed", applied=False) from None
        return await asyncio.wrap_future(future)

    @contextmanager
    def _marks_border(self, applied: bool | None = False) -> Iterator[None]:
        """Without its marks the store cannot tell: that is its own failure, and named so."""
        try:
            yield
        except Unreachable as error:
            if error.store == self.address:
                raise
            raise Unreachable(self.address, f"its marks: {error}", applied) from error
        except StoreError as error:
            raise Unreachable(self.address, f"its marks: {error}", applied) from error
