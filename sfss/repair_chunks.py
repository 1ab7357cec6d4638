"""What the repair tools do about chunks, and bodies of objects, beside the copies of every key.

A chunk is an orphan when the manifest of its file is not there, or is that of another upload: it
was left behind, and nobody reads it. An upload under way has chunks and no manifest, too, so only
an old orphan counts. It is removed only where all stores of the manifest were asked and agree: one
that was down may have the manifest of a write that was never acknowledged, and that will win.

The body of an object is an orphan when the entry of the object does not name it, by the same rules;
and with it the chunks that it is made of.

A file is damaged when chunks of it are nowhere. The listings say which may be missing; whether they
are, the stores are asked.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from xxhash import xxh3_128_hexdigest

from sfss.chunks import (
    ENTRIES,
    ChunkName,
    Layout,
    chunk_key,
    file_key_of,
    kept_since,
    layout_of,
    object_of,
    read_chunk_key,
)
from sfss.copies import Copies
from sfss.errors import Corrupt, StoreError
from sfss.faults import Fault, Finding
from sfss.inventory import Inventory, Listed
from sfss.record import Head, has_expired
from sfss.repair import Outcome, Seen, Treated
from sfss.stores.base import Store

_VERDICTS_KEPT: Final = 1000
_PAGE: Final = 1000
_AT_ONCE: Final = 4


class Shelf(Protocol):
    """Where chunks and manifests are: copies on many stores, or one store."""

    async def head(self, key: bytes) -> Head | None:
        """Return the head of what is under ``key``. Raises ``StoreError``."""

    async def delete(self, key: bytes) -> bool:
        """Remove what is under ``key``. Raises ``StoreError``."""

    async def is_settled(self, key: bytes) -> bool:
        """Tell whether all that could have ``key`` were asked, and have the same."""


@dataclass(frozen=True, slots=True)
class OneStore:
    """A single store."""

    store: Store

    async def head(self, key: bytes) -> Head | None:
        """Return the head of what is under ``key``; see ``Shelf.head``."""
        return await self.store.head(key)

    async def delete(self, key: bytes) -> bool:
        """Remove what is under ``key``; see ``Shelf.delete``."""
        return await self.store.delete(key)

    async def is_settled(self, key: bytes) -> bool:
        """Return True: there is no other."""
        return True


@dataclass(frozen=True, slots=True)
class ManyStores:
    """Copies on many stores."""

    copies: Copies

    async def head(self, key: bytes) -> Head | None:
        """Return the head of what is under ``key``; see ``Shelf.head``."""
        return await self.copies.head(key)

    async def delete(self, key: bytes) -> bool:
        """Remove what is under ``key``; see ``Shelf.delete``."""
        return await self.copies.delete(key)

    async def is_settled(self, key: bytes) -> bool:
        """See ``Shelf.is_settled``."""
        return not await self.copies.healing.verify(key)


def _now_us() -> int:
    return time.time_ns() // 1000


@dataclass
class ChunkCare:
    """Has ``treat`` see to a key, and then, where that found nothing wrong, to what chunks need.

    ``prefix`` is how their keys begin; ``primaries`` say where a key belongs. Orphans of uploads
    that began before the version ``before`` are looked for where that is not None, and removed if
    ``removes``. ``now_us`` tells the time.
    """

    treat_copies: Callable[[Listed], Awaitable[Treated]]
    shelf: Shelf
    inventory: Inventory
    primaries: Callable[[bytes], Sequence[str]]
    prefix: bytes
    before: int | None = None
    removes: bool = False
    now_us: Callable[[], int] = _now_us
    _orphaned: OrderedDict[ChunkName, bool] = field(default_factory=OrderedDict, init=False)
    _at_once: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def treat(self, listed: Listed) -> Treated:
        """Look at a key and do what is to be done; raises what ``treat_copies`` does."""
        treated = await self.treat_copies(listed)
        if treated.seen or treated.part is None:
            return treated
        try:
            seen = await self._see(listed.key, treated.part)
        except StoreError:
            return treated  # the next run finds it
        return treated if seen is None else treated._replace(seen=[seen])

    async def _see(self, key: bytes, part: Head) -> Seen | None:
        name, layout = read_chunk_key(self.prefix, key), layout_of(part)
        async with self._at_once:
            if name is not None:
                return await self._see_chunk(key, name, part)
            if (object_id := object_of(key)) and await self._is_unnamed(key, object_id):
                return await self._remove(
                    Finding(self._stores_of(key), key, Fault.ORPHAN, _UNNAMED)
                )
            return None if layout is None else await self._see_file(key, layout)

    async def _see_chunk(self, key: bytes, name: ChunkName, chunk: Head) -> Seen | None:
        if self.before is None or name.version >= self.before:
            return None
        if not await self._is_orphan(name, chunk):
            return None
        return await self._remove(Finding(self._stores_of(key), key, Fault.ORPHAN, _ORPHAN))

    async def _is_unnamed(self, key: bytes, object_id: str) -> bool:
        """Tell whether a body that is old enough is certainly not that of its object."""
        if self.before is None or kept_since(key) >= self.before:
            return False
        entry_key = ENTRIES + object_id.encode()
        if not await self.shelf.is_settled(entry_key):
            return False
        entry = await self.shelf.head(entry_key)
        return entry is None or entry.metadata.get("body") != key.decode()

    async def _remove(self, finding: Finding) -> Seen:
        if not self.removes:
            return Seen(finding)
        try:
            await self.shelf.delete(finding.key)
        except StoreError as error:
            return Seen(finding, Outcome.FAILED, str(error))
        return Seen(finding, Outcome.REMOVED)

    async def _is_orphan(self, name: ChunkName, chunk: Head) -> bool:
        """Tell whether the upload has no manifest, or that of a body which is to go as well; that
        is the same for all of its chunks.
        """
        upload = name._replace(number=0)
        known = self._orphaned.get(upload)
        if known is None:
            known = await self._has_no_manifest(name, chunk)
            if known is None:
                return False
            self._orphaned[upload] = known
            if len(self._orphaned) > _VERDICTS_KEPT:
                self._orphaned.popitem(last=False)
        return known

    async def _has_no_manifest(self, name: ChunkName, chunk: Head) -> bool | None:
        """Tell whether the upload of a chunk has no manifest, or one of a body of no object; None
        where that is not certain.
        """
        key = file_key_of(chunk)
        if key is None or xxh3_128_hexdigest(key) != name.file:
            return None
        if not await self.shelf.is_settled(key):
            return None
        head = await self.shelf.head(key)
        layout = None if head is None else layout_of(head)
        if layout is None or layout.upload != name.upload:
            return True
        object_id = object_of(key)
        return object_id is not None and await self._is_unnamed(key, object_id)

    async def _see_file(self, key: bytes, layout: Layout) -> Seen | None:
        missing = await self._missing(key, layout)
        if not missing:
            return None
        head = await self.shelf.head(key)
        if head is None or layout_of(head) != layout or has_expired(head, self.now_us()):
            return None  # it was replaced meanwhile, or its chunks may go before itself
        what = f"{len(missing)} of its {layout.chunks} chunks, the first is number {missing[0]}"
        return Seen(Finding(self._stores_of(key), key, Fault.DAMAGED, f"it lacks {what}"))

    async def _missing(self, key: bytes, layout: Layout) -> list[int]:
        """Return the numbers of the chunks that no store has."""
        names = {chunk_key(self.prefix, key, layout.upload, n): n for n in range(layout.chunks)}
        after = begin = min(names, default=b"").rpartition(b".")[0]
        unlisted = dict(names)
        while page := await self.inventory.page(after, _PAGE):
            for listed in page:
                unlisted.pop(listed.key, None)
            after = page[-1].key
            if not after.startswith(begin):
                break
        return [number for name, number in unlisted.items() if await self._is_missing(name)]

    async def _is_missing(self, key: bytes) -> bool:
        try:
            return await self.shelf.head(key) is None
        except Corrupt:
            return True

    def _stores_of(self, key: bytes) -> str:
        return ", ".join(self.primaries(key))


_ORPHAN: Final = "it is a chunk of no file: an upload failed, or its file was replaced or deleted"
_UNNAMED: Final = "it is the body of no object: a put failed, or the object was replaced or deleted"
