"""Bodies of objects as what may be evicted from the store of a member; see ``evicting``.

A body goes as a whole, the manifest of a large one before its chunks: so nobody finds one that
names chunks which are not there. Was a process killed in between, the chunks that are left go one
by one, as long as the object is the same.

None goes without proof, asked for while nobody here changes the object: that its entry names this
very body, that it is of level 1 or 2, that the bucket is owed nothing of it, and has it. And none
goes that other members are to have as well: these would bring it back. Entries never go.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sfss.chunks import chunk_key, file_key_of, layout_of, object_of
from sfss.errors import Corrupt
from sfss.evicting import Evicting, Marks
from sfss.object_origin import Origin
from sfss.object_shelf import Entries, now_us
from sfss.record import Head
from sfss.sieve import Arrival
from sfss.stores.lmdb_arrivals import Usage
from sfss.turns import Turns

REFUSED_IN_A_ROW: Final = 10_000
"""Bodies that stay, most for they are of level 0, until the hand rests. Few cost a request."""

_CHUNKS_AT_ONCE: Final = 32
_REFUSAL_COUNTS_S: Final = 1.0
_REFUSALS_KEPT: Final = 1000
_LEVELS_KEPT: Final = 50_000


class EvictableBodies:
    """The bodies in ``store``, whose chunks have keys that begin with ``prefix``; see ``Evicting``.
    What was read is in ``marks``. Only this member ``keeps_alone`` what is under certain keys.
    """

    def __init__(
        self,
        store: Evicting,
        marks: Marks,
        shelf: tuple[Entries, Origin],
        prefix: bytes,
        keeps_alone: Callable[[bytes], bool],
    ) -> None:
        self.address = store.address
        self._store, self._marks = store, marks
        self._entries, self._origin = shelf
        self._prefix, self._keeps_alone = prefix, keeps_alone
        self._turns = Turns()
        self._refused_at_s: dict[bytes, float] = {}
        self._of_level_0: set[bytes] = set()

    async def prepare(self) -> bool:
        """See ``Evicting``."""
        return await self._store.prepare()

    async def index(self) -> bool:
        """See ``Evicting``."""
        return await self._store.index()

    async def usage(self) -> Usage:
        """See ``Evicting``."""
        return await self._store.usage()

    async def arrivals(self, behind: int, limit: int) -> Sequence[Arrival]:
        """See ``Evicting``."""
        return await self._store.arrivals(behind, limit)

    async def head(self, key: bytes) -> Head | None:
        """See ``Evicting``."""
        return await self._store.head(key)

    async def evict(self, key: bytes, head: Head | None) -> bool:
        """Forget what is under ``key``, and the rest of the body that it is a part of, if that may
        go. Raises ``StoreError`` where that cannot be told.
        """
        if head is None:
            return await self._store.evict(key, None)
        body = key if object_of(key) else file_key_of(head)
        object_id = None if body is None else object_of(body)
        if body is None or object_id is None or not self._keeps_alone(body):
            return False
        if body in self._of_level_0:
            return False  # as long as it is there: a put gives an object another body
        if body != key and self._marks.has(body):
            return False  # its manifest is read each time that a part of it is
        async with self._turns.of(body):
            if await self._store.head(key) is None:
                return True  # with another part
            if self._is_refused(body):
                return False
            may_go = await self._evict(key, body, object_id)
            if not may_go:
                self._refuse(body)
            return may_go

    async def _evict(self, key: bytes, body: bytes, object_id: str) -> bool:
        if self._entries.is_changing(object_id):
            return False
        async with self._entries.turn(object_id):
            if not await self._is_in_origin(object_id, body):
                return False
            try:
                whole = await self._store.head(body)
            except Corrupt:
                return False  # it is mended when it is read
            if whole is None:
                return await self._evict_key(key)
            if not await self._store.evict(body, whole):
                return False
            # From here on nobody finds the chunks.
            await self._evict_chunks(body, whole)
            return True

    async def _is_in_origin(self, object_id: str, body: bytes) -> bool:
        """Tell whether ``body`` is that of an object which the bucket has, and will go on to have,
        as far as this gateway knows.
        """
        try:
            seen = await self._entries.see(object_id)
        except Corrupt:
            return False
        if seen is None or seen.entry.is_deleted or seen.entry.body.encode() != body:
            return False
        entry = seen.entry
        if not entry.traits.level:
            self._note_level_0(body)
            return False
        if await self._origin.owes(self._entries.key(object_id)):
            return False
        there = await self._origin.head(object_id, now_us())
        return there is not None and entry.is_version_of(there)

    async def _evict_chunks(self, body: bytes, whole: Head) -> None:
        layout = layout_of(whole)
        if layout is None:
            return
        for first in range(0, layout.chunks, _CHUNKS_AT_ONCE):
            numbers = range(first, min(first + _CHUNKS_AT_ONCE, layout.chunks))
            keys = [chunk_key(self._prefix, body, layout.upload, number) for number in numbers]
            await asyncio.gather(*map(self._evict_key, keys))

    async def _evict_key(self, key: bytes) -> bool:
        try:
            head = await self._store.head(key)
        except Corrupt:
            return False
        return head is not None and await self._store.evict(key, head)

    def _is_refused(self, body: bytes) -> bool:
        """Tell whether the body was not to go a moment ago: so of its chunks one asks."""
        at_s = self._refused_at_s.get(body)
        return at_s is not None and _now_s() - at_s < _REFUSAL_COUNTS_S

    def _note_level_0(self, body: bytes) -> None:
        if len(self._of_level_0) >= _LEVELS_KEPT:
            self._of_level_0.clear()
        self._of_level_0.add(body)

    def _refuse(self, body: bytes) -> None:
        if len(self._refused_at_s) >= _REFUSALS_KEPT:
            self._refused_at_s.clear()
        self._refused_at_s[body] = _now_s()


async def may_evict(key: bytes, head: Head) -> bool:
    """Return True: ``EvictableBodies`` asks for proof itself, for whole bodies."""
    return True


def _now_s() -> float:
    return asyncio.get_running_loop().time()
