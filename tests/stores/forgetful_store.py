"""A store of a test that forgets what others have, and one that answers late what it had before."""

import asyncio
from collections.abc import Callable
from typing import Any

from sfss.agreement import rank
from sfss.record import Head, Kind, Record, digest_of
from sfss.stores.base import Guard, HasNewer, unless_newer
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import FaultyStore


class ForgetfulDict(DictStore):
    """Notes what was removed, of all keys together: more than it has to, and never less."""

    head_is_cheap = True

    def __init__(self, address: str = "dict") -> None:
        super().__init__(address)
        self.removed, self.newest = 0, 0

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove and note it."""
        found = self.header(key)
        was_there = await super().delete(key, guard)
        self._note(0 if found is None else found.version)
        return was_there

    def _note(self, version: int) -> None:
        self.removed, self.newest = self.removed + 1, max(self.newest, version)

    async def set_newest_since(self, key: bytes, record: Record, moment: int) -> Head | None:
        """Keep what is not older than what was removed since."""
        is_old = moment != self.removed and record.head.version <= self.newest
        if is_old and key not in self.values:
            return Head(self.newest, 0, digest_of(b""), Kind.TOMBSTONE)
        return await self.set_newest(key, record)

    async def forget(self, key: bytes, head: Head) -> Head | None:
        """Remove what is not newer than ``head``."""
        try:
            await self.delete(key, unless_newer(head))
        except HasNewer as newer:
            return newer.head
        self._note(head.version)
        return None

    def evict(self, key: bytes, head: Head) -> None:
        """Remove what has this very head."""
        found = self.header(key)
        if found is not None and rank(found) == rank(head):
            del self.values[key]
            self._note(head.version)


class ForgetfulStore(FaultyStore):
    """The same, failing as a plan says."""

    inner: ForgetfulDict

    def moment(self, key: bytes) -> int:
        """Return how often anything was removed: never at fault."""
        return self.inner.removed

    async def set_newest_since(self, key: bytes, record: Record, moment: int) -> Head | None:
        """To a plan it is a ``set``."""
        return await self._change(key, lambda: self.inner.set_newest_since(key, record, moment))

    async def forget(self, key: bytes, head: Head) -> Head | None:
        """To a plan it is a ``set``."""
        return await self._change(key, lambda: self.inner.forget(key, head))

    async def _change(self, key: bytes, act: Callable[[], Any]) -> Head | None:
        newer = await self._do("set", key, act)
        assert newer is None or isinstance(newer, Head)
        return newer


class LateDict(DictStore):
    """Reads at once, and answers after ``delay_s``."""

    head_is_cheap = True
    delay_s = 0.0

    async def get(self, key: bytes) -> Record | None:
        """Return what there was."""
        found = await super().get(key)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return found
