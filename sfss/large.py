"""Files that no store takes as one item: kept in chunks, with a manifest that is written last.

``Large`` stands between the cluster and the engine that it is given. A chunk and a manifest are
ordinary records to that engine: they have their copies, their quorum and their debts, and are
healed like any other. What stands above sees files only.

- A file is there when its manifest is, and whole: the manifest is written when all chunks are kept.
- Nobody but a writer, or somebody who deletes, removes chunks: those of an upload that certainly
  has failed at once, those of a file that was replaced or deleted after ``kept_s``, because there
  may be readers of it. What it does not get to (it was killed; a store was down; two writers of one
  file had seen the same former one) lies there, in nobody's way, until a scrub finds it.
- What an upload has left behind that may or may not have come to pass is not touched: its manifest
  may turn up on a store that was down, and win.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from sfss.agreement import Debt, Health, Kept, Owing, left_nothing
from sfss.chunks import (
    KEY_SIZE,
    PLAIN_PREFIX,
    Layout,
    chunk_key,
    chunk_record,
    chunk_size_for,
    digests_in,
    file_head,
    layout_of,
    manifest,
    read_chunk_key,
    spans,
    upload_name,
)
from sfss.cluster import Engine
from sfss.errors import Corrupt, StoreError, StoreFull, TooLarge
from sfss.record import (
    METADATA_LIMIT,
    Buffer,
    Head,
    Kind,
    Record,
    StreamedBody,
    encode_head,
    held,
)
from sfss.stores.base import Child, Entry, Guard
from sfss.streams import cut, stream
from sfss.turns import Background

ROOM_KNOWN_S: Final = 10.0
"""Seconds for which it is believed how much the stores take."""

CHUNKS_AT_ONCE: Final = 2
"""Chunks of one upload that are being written."""

WORKER_CHUNKS_AT_ONCE: Final = 8
"""Chunks of all uploads that are being written."""

_REMOVALS_AT_ONCE: Final = 8
_REMOVALS_WAITING: Final = 10_000
_CLOSE_S: Final = 10.0
_HEAD_ROOM: Final = 64 + METADATA_LIMIT

Item = TypeVar("Item")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LargeSettings:
    """What is a large file: one of more than ``above`` bytes, or more than a store takes; files may
    have ``most``. ``prefix``: how keys of chunks begin. Chunks of a file that is gone are kept for
    ``kept_s``. Without ``writes`` no chunks are written; what lies in chunks is still read.
    """

    most: int
    above: int
    prefix: bytes
    kept_s: float = 60.0
    writes: bool = True
    key_limit: int = KEY_SIZE


class Large:
    """``engine``, with files of any size; see ``cluster.Engine``."""

    def __init__(self, engine: Engine, settings: LargeSettings) -> None:
        self._engine, self._settings = engine, settings
        # For the hot path nothing comes in between: what is no file is not for it, see ``Kind``.
        self.view, self.state = engine.view, engine.state
        self.guards_are_free = engine.guards_are_free
        self._writes = settings.writes and settings.key_limit >= KEY_SIZE
        self._room: int | None = None
        self._room_asked_at_s: float | None = None
        self._asking = asyncio.Lock()
        self._writing = asyncio.Semaphore(WORKER_CHUNKS_AT_ONCE)
        self._removing = asyncio.Semaphore(_REMOVALS_AT_ONCE)
        self._closing = asyncio.Event()
        self._background = Background()

    async def get(self, key: bytes) -> Record | None:
        """Return the file under ``key``, or None; the body of a large one is streamed."""
        record = await self._engine.get(key)
        if record is None or record.head.kind is not Kind.MANIFEST:
            return record
        head, layout = file_head(record.head, key), layout_of(record.head)
        assert layout is not None
        return Record(head, _Chunks(self, key, layout, digests_in(held(record.body))))

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the file under ``key``, or None."""
        head = await self._engine.head(key)
        return None if head is None else file_head(head, key)

    async def put(self, key: bytes, record: Record, guard: Guard | None = None) -> Kept:
        """Keep ``record``; see ``Engine.put``. A large one is kept when its manifest is."""
        if isinstance(record.body, StreamedBody) and len(record.body) <= self._settings.above:
            record = record._replace(body=b"".join([bytes(p) async for p in stream(record.body)]))
        has_chunks = await self._has_chunks()
        if not (has_chunks and self._is_large(record)):
            formers = await self._formers(key, guard) if has_chunks else set()
            seeing = self._seeing(guard, key, formers) if has_chunks or guard else None
            try:
                return await self._put_item(key, record, seeing, formers)
            except TooLarge:
                await self._ask_room()  # it may be another server now, which takes less
                if not (self._writes and self._is_large(record)):
                    raise
        return await self._put_chunks(key, record, guard)

    async def _put_item(
        self, key: bytes, record: Record, guard: Guard | None, formers: set[Layout]
    ) -> Kept:
        kept = await self._engine.put(key, record, guard)
        self._remove_later(key, formers)
        return kept

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove the file; see ``Engine.delete``."""
        formers: set[Layout] = set()
        if not await self._has_chunks():
            return await self._engine.delete(key, guard and _seeing(guard, key, formers))
        deletion = self._engine.delete(key, _seeing(guard, key, formers))
        return await self._background.make(self._deleted(key, deletion, formers))

    async def _deleted(
        self, key: bytes, deletion: Coroutine[Any, Any, bool], formers: set[Layout]
    ) -> bool:
        was_there = await deletion
        self._remove_later(key, formers)
        return was_there

    # -- what is large

    async def _has_chunks(self) -> bool:
        """Tell whether a file may have to be kept in chunks here."""
        if not self._writes:
            return False
        if self._room_is_old():
            async with self._asking:
                if self._room_is_old():
                    await self._ask_room()
        if self._settings.most > self._settings.above:
            return True
        return self._room is not None and self._settings.most + _HEAD_ROOM > self._room

    def _room_is_old(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return self._room_asked_at_s is None or now_s - self._room_asked_at_s > ROOM_KNOWN_S

    async def _ask_room(self) -> None:
        room = await self._engine.room()
        # Of those that do not answer now, what they have said before counts.
        self._room = self._room if room is None else room
        self._room_asked_at_s = asyncio.get_running_loop().time()

    def _is_large(self, record: Record) -> bool:
        size = len(record.body)
        if size <= self._settings.above and self._room is not None:
            return len(encode_head(record.head)) + size > self._room
        return size > self._settings.above

    # -- writing

    async def _formers(self, key: bytes, guard: Guard | None) -> set[Layout]:
        """Return what a write will replace, as far as a guard will not see it."""
        if guard is not None or self.guards_are_free:
            return set()
        try:
            head = await self._engine.head(key)
        except StoreError:
            return set()  # the write itself may do; a scrub finds what is left
        layout = None if head is None else layout_of(head)
        return set() if layout is None else {layout}

    def _seeing(self, guard: Guard | None, key: bytes, formers: set[Layout]) -> Guard | None:
        """Return ``guard`` as one that also sees what is replaced; None where that costs more."""
        return _seeing(guard, key, formers) if guard or self.guards_are_free else None

    async def _put_chunks(self, key: bytes, record: Record, guard: Guard | None) -> Kept:
        chunk_size = chunk_size_for(self._room)
        if chunk_size is None or _manifest_room(record, chunk_size) > (self._room or 1 << 62):
            raise TooLarge(len(record.body), self._room, "with the least room")
        if guard is not None:
            with suppress(StoreError):
                guard(await self.head(key))  # not only when all has been written
        formers = await self._formers(key, guard)
        upload = upload_name(record.head.version, secrets.randbits(64))
        layout = Layout(record.head.size, record.head.digest, chunk_size, upload)
        digests: list[bytes] = []
        try:
            await self._write_chunks(key, record, layout, digests)
        except BaseException:
            self._background.start(self._remove(key, layout, range(len(digests))))
            raise
        whole = manifest(record.head, layout, digests)
        seeing = self._seeing(guard, key, formers)
        return await self._background.make(self._publish(key, whole, seeing, formers))

    async def _write_chunks(
        self, key: bytes, record: Record, layout: Layout, digests: list[bytes]
    ) -> None:
        """Write all chunks; the ``digests`` of all that were begun are there, whatever happens."""
        running: deque[asyncio.Task[Kept]] = deque()
        try:
            async with aclosing(cut(record.body, layout.chunk_size)) as parts:
                async for part in parts:
                    if len(running) == CHUNKS_AT_ONCE:
                        await running.popleft()
                    await self._writing.acquire()
                    chunk = chunk_record(part, key, record.head)
                    name = chunk_key(self._settings.prefix, key, layout.upload, len(digests))
                    digests.append(chunk.head.digest)
                    task = self._background.start(self._engine.put(name, chunk))
                    # Not in the task itself: one that is cancelled early never begins.
                    task.add_done_callback(lambda _: self._writing.release())
                    running.append(task)
            while running:
                await running.popleft()
        except OSError as error:
            raise StoreFull("of bodies", f"the body cannot be read on: {error}") from error
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _publish(
        self, key: bytes, whole: Record, guard: Guard | None, formers: set[Layout]
    ) -> Kept:
        layout = layout_of(whole.head)
        assert layout is not None
        try:
            kept = await self._engine.put(key, whole, guard)
        except Exception as error:
            if left_nothing(error):
                self._background.start(self._remove(key, layout, range(layout.chunks)))
            raise
        self._remove_later(key, formers - {layout})
        return kept._replace(head=file_head(kept.head, key))

    # -- removing

    def _remove_later(self, key: bytes, formers: Iterable[Layout]) -> None:
        for layout in formers:
            if len(self._background) < _REMOVALS_WAITING:
                self._background.start(self._remove_in_time(key, layout))

    async def _remove_in_time(self, key: bytes, layout: Layout) -> None:
        try:
            async with asyncio.timeout(self._settings.kept_s):
                await self._closing.wait()
        except TimeoutError:
            pass
        await self._remove(key, layout, range(layout.chunks))

    async def _remove(self, key: bytes, layout: Layout, numbers: Sequence[int]) -> None:
        names = [chunk_key(self._settings.prefix, key, layout.upload, each) for each in numbers]
        async with self._removing:
            for number, name in enumerate(names):
                try:
                    await self._engine.delete(name)
                except StoreError as error:
                    left = len(names) - number
                    _log.warning("%d chunks of %r are left for a scrub: %s", left, key, error)
                    return

    # -- all else

    async def room(self) -> int | None:
        """Return what the engine does; see ``Engine.room``."""
        return await self._engine.room()

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries as ``Engine.scan`` does, of files."""
        page = partial(self._engine.scan, prefix)
        entries = await self._files(page, lambda entry: entry.key, prefix, after, limit)
        return [Entry(each.key, each.head and _listed(each.head, each.key)) for each in entries]

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder, as ``Engine.children`` does."""
        page = partial(self._engine.children, prefix)
        found = await self._files(page, lambda child: child.name, prefix, after, limit)
        return [
            Child(name, None if head is None else _listed(head, prefix + name))
            for name, head in found
        ]

    async def _files(
        self,
        page: Callable[[bytes, int], Awaitable[Sequence[Item]]],
        name: Callable[[Item], bytes],
        prefix: bytes,
        after: bytes,
        limit: int,
    ) -> Sequence[Item]:
        """Return what ``page`` lists, chunks left out: they are not walked through."""
        if prefix:
            return await page(after, limit)  # nothing before a "/" begins as chunks do
        chunks, found = self._settings.prefix, list[Item]()
        behind = chunks + b"\xff"
        after = max(after, behind) if chunks == PLAIN_PREFIX else after  # before all else there
        while len(found) < limit:
            wanted = limit - len(found)
            items = await page(after, wanted)
            found += (each for each in items if not name(each).startswith(chunks))
            if len(items) < wanted:
                break
            last = name(items[-1])
            after = behind if last.startswith(chunks) else last
        return found

    async def stats(self) -> Mapping[str, Mapping[str, str]]:
        """Return what the engine does."""
        return await self._engine.stats()

    async def health(self, timeout_s: float) -> Health:
        """Return how the stores are; see ``Engine.health``."""
        return await self._engine.health(timeout_s)

    async def owing(self) -> Owing:
        """Return what the engine does."""
        return await self._engine.owing()

    async def missing(self, after: bytes, limit: int) -> Sequence[tuple[bytes, Debt]]:
        """Return what the engine does, of files: chunks that a store lacks are not told."""
        found: list[tuple[bytes, Debt]] = []
        while len(found) < limit and (page := await self._engine.missing(after, limit)):
            prefix, after = self._settings.prefix, page[-1][0]
            found += [each for each in page if read_chunk_key(prefix, each[1].key) is None]
        return found[:limit]

    def debug(self) -> Mapping[str, object]:
        """Return what the engine does."""
        return self._engine.debug()

    async def finish(self) -> None:
        """Remove at once all chunks that are still to be removed, as far as that can be done within
        a few seconds.
        """
        self._closing.set()
        await self._background.finish(_CLOSE_S)

    async def close(self) -> None:
        """Finish what was begun, and close the engine."""
        await self.finish()
        await self._engine.close()

    async def chunk(self, key: bytes, layout: Layout, number: int, digest: bytes) -> Buffer:
        """Return the body of a chunk of the file under ``key``.

        Raises ``Corrupt`` where it is not there or not what was stored, ``NoStoreReachable``.
        """
        name = chunk_key(self._settings.prefix, key, layout.upload, number)
        record = await self._engine.get(name)
        found = "nothing"
        if record is not None:
            if record.head.digest == digest and record.head.size == layout.size_of(number):
                return held(record.body)
            found = "another"
        raise Corrupt("of chunks", key, f"chunk {number} of {layout.chunks}", found)


class _Chunks(StreamedBody):
    """The body of a large file."""

    def __init__(self, large: Large, key: bytes, layout: Layout, digests: Sequence[bytes]) -> None:
        self._large, self._key, self._layout, self._digests = large, key, layout, digests

    def __len__(self) -> int:
        return self._layout.size

    async def pieces(self, start: int, stop: int) -> AsyncGenerator[Buffer, None]:
        """Yield bytes ``start`` to ``stop``, chunk by chunk; errors as ``Large.chunk``."""
        for span in spans(self._layout, start, stop):
            number = span.number
            chunk = await self._large.chunk(self._key, self._layout, number, self._digests[number])
            is_whole = (span.start, span.stop) == (0, len(chunk))
            yield chunk if is_whole else memoryview(chunk)[span.start : span.stop]


def _manifest_room(record: Record, chunk_size: int) -> int:
    count = -(-len(record.body) // chunk_size)
    return len(encode_head(record.head)) + 256 + 16 * count


def _seeing(guard: Guard | None, key: bytes, formers: set[Layout]) -> Guard:
    """Return a guard that adds to ``formers`` what is about to be replaced, if that has chunks, and
    tells ``guard`` of files only.
    """

    def see(head: Head | None) -> None:
        shown = None
        if head is not None:
            layout = layout_of(head)
            shown = None if _is_unreadable(head, layout) else file_head(head, key)
            if layout is not None:
                formers.add(layout)
        if guard is not None:
            guard(shown)

    return see


def _is_unreadable(head: Head, layout: Layout | None) -> bool:
    return head.kind is Kind.MANIFEST and layout is None


def _listed(head: Head, key: bytes) -> Head:
    try:
        return file_head(head, key)
    except Corrupt as error:
        _log.warning("listed as it is: %s", error)
        return head
