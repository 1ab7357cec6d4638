"""An embedded store in front of others that have all that it has: it may forget files.

Who forgets has to be told from who never had anything. What was read elsewhere before a newer
version was kept here, and forgotten, must not be kept after that: nothing here would know that it
is old. So the store notes at how many ``moments`` something was removed whose key has a certain
hash, and the newest version of that. Whoever asks another store takes the moment before he asks,
and gives it with what he has found.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Final

from sfss.agreement import rank
from sfss.record import Head, Record
from sfss.sieve import Arrival
from sfss.stores.base import Guard, HasNewer, unless_newer
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.lmdb_arrivals import Arrivals, Usage
from sfss.stores.lmdb_changes import Change, Transaction
from sfss.stores.visited import Visited, places_for

MARKS: Final = "visited"
"""The file of the marks, in the folder of the store."""

_INDEXED_AT_ONCE: Final = 256


class Another(Exception):
    """Raised by a guard when there is something else than what was to be forgotten."""


class EvictingStore(EmbeddedStore):
    """See ``EmbeddedStore``. Nothing is noted of what may be forgotten before ``limit``."""

    capacity_bytes = 0
    """Bytes that its records are to have together, 0: any number."""

    def limit(self, capacity_bytes: int, queues: Callable[[bytes], bool] = bool) -> None:
        """Note from now on in which order records come, and when any are removed: by every process
        that has the store open, before the first request. Those that may be evicted are under keys
        that it ``queues``, any by default.
        """
        self.capacity_bytes = capacity_bytes
        self._folder.keeps_arrivals, self._folder.queues = True, queues
        self._never = count(-1, -1)

    def mark_hits(self) -> Visited:
        """Mark from now on what is read, for all processes; return the marks."""
        file = self._folder.path / MARKS
        self._folder.visited = Visited(file, places_for(self.capacity_bytes))
        return self._folder.visited

    async def prepare(self) -> bool:
        """Open the index of arrivals, made if need be; return whether ``index`` has anything to do.
        Errors as in ``set``.
        """
        change = self._folder.change
        return await self._in_writer(
            lambda: change(lambda transaction, arrivals: arrivals.check(transaction), False)
        )

    async def index(self) -> bool:
        """Note some of what was there before the index; return whether there may be more. Errors as
        in ``set``.
        """
        change, some = self._folder.change, _INDEXED_AT_ONCE
        return await self._in_writer(
            lambda: change(lambda transaction, arrivals: arrivals.walk(transaction, some), False)
        )

    async def usage(self) -> Usage:
        """Return what there is, and was evicted; nothing before ``prepare``. Raises
        ``Unreachable``, ``Corrupt``.
        """
        return await self._read(lambda: self._folder.look(_usage, Usage()))

    async def arrivals(self, behind: int, limit: int) -> Sequence[Arrival]:
        """Return up to ``limit`` files that came after the one of the number ``behind``, in their
        order. Errors as in ``usage``.
        """
        none: list[Arrival] = []
        look = self._folder.look
        return await self._read(
            lambda: look(lambda now, arrivals: arrivals.behind(now, behind, limit), none)
        )

    async def evict(self, key: bytes, head: Head | None) -> bool:
        """Forget the record under ``key`` if its head is ``head`` still; None: if there is none any
        more. Return whether it was that. Nobody comes in between. Errors as in ``set``.
        """
        change = Change(self._new_future(), key, None, b"", _only_if(head), evicts=True)
        try:
            await self._change(change)
        except Another:
            return False
        return True

    def moment(self, key: bytes) -> int:
        """Return a number that is another when what was removed since may have been ``key``; one
        that was never returned where it cannot tell.
        """
        try:
            found = self._folder.look(lambda now, arrivals: arrivals.moment(now, key), None)
        except Exception:
            found = None  # who goes on to ask is told
        return next(self._never) if found is None else found

    async def set_newest_since(self, key: bytes, record: Record, moment: int) -> Head | None:
        """Keep ``record`` unless there is a newer one, or was one that may have been removed after
        the ``moment`` before ``record`` was found elsewhere: return the head of that, of a
        tombstone if it was removed. See ``NewestStore.set_newest``.
        """
        change = self._setting(key, record, unless_newer(record.head))
        change.since, change.leaves_tombstone = moment, True
        try:
            await self._change(change)
        except HasNewer as newer:
            return newer.head
        return None

    async def forget(self, key: bytes, head: Head) -> Head | None:
        """Remove what is under ``key`` unless it is newer than ``head``, which another store has
        got: return the head of that. What anybody has found elsewhere before this is not kept any
        more. Errors as in ``set``.
        """
        change = Change(self._new_future(), key, None, b"", unless_newer(head), floor=head.version)
        try:
            await self._change(change)
        except HasNewer as newer:
            return newer.head
        return None

    async def stats(self) -> Mapping[str, str]:
        """Return also how many bytes the records have and may have, and what was evicted; and how
        much of the data file is free for what comes. Before ``prepare`` nobody can tell here what
        they have, and was evicted.
        """
        found = await super().stats()
        if not self._folder.keeps_arrivals:
            return found
        in_use = await self._read(self._folder.bytes_in_use)
        found = {
            **found,
            "free_bytes": str(max(0, int(found["bytes"]) - in_use)),
            "capacity_bytes": str(self.capacity_bytes),
        }
        usage = await self._read(lambda: self._folder.look(_usage, None))
        if usage is None:
            return found
        return {
            **found,
            "used_bytes": str(usage.size),
            "evicted_files": str(usage.evicted_files),
            "evicted_bytes": str(usage.evicted_size),
        }


def _usage(transaction: Transaction, arrivals: Arrivals) -> Usage:
    return arrivals.usage(transaction)


def _only_if(expected: Head | None) -> Guard:
    def guard(found: Head | None) -> None:
        if found is not None and (expected is None or rank(found) != rank(expected)):
            raise Another
        if found is None and expected is not None:
            raise Another

    return guard
