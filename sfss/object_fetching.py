"""Objects fetched from the bucket: those whose bodies the members have lost, or let go of, and
those that were put there by others.

Of all who ask for one object at the same time, one asks the bucket. What came is kept, under a new
name, with an entry that says so, unless the object has changed meanwhile.
"""

import asyncio
import logging
from typing import Final

from sfss.agreement import left_nothing
from sfss.errors import SfssError, Unreachable
from sfss.object_bodies import Bodies
from sfss.object_entries import Entry, entry_from_bucket
from sfss.object_origin import Origin, digest_of_fetched
from sfss.object_shelf import Changed, Entries, Seen, now_us, only_if
from sfss.record import Body, Record
from sfss.stores.plain_heads import is_raw

_CLOSE_S: Final = 10.0

_log = logging.getLogger(__name__)


class Fetching:
    """Brings objects from ``origin`` to ``bodies``, with ``entries``."""

    def __init__(self, origin: Origin, entries: Entries, bodies: Bodies) -> None:
        self._origin, self._entries, self._bodies = origin, entries, bodies
        self._tasks: dict[tuple[str, int], asyncio.Task[tuple[Entry, Body] | None]] = {}
        self.fetched = 0
        """How many were fetched."""

    async def fetch(self, object_id: str, seen: Seen | None) -> tuple[Entry, Body] | None:
        """Return an object from the bucket, None where that has none, or not the one that was
        ``seen``. Raises ``Changed`` if that is another by now; ``Unreachable``, ``Corrupt``.
        """
        what = object_id, 0 if seen is None else seen.entry.written
        task = self._tasks.get(what)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(object_id, seen))
            self._tasks[what] = task
            task.add_done_callback(lambda done: self._done(what, done))
        return await asyncio.shield(task)

    def _done(self, what: tuple[str, int], task: asyncio.Task[tuple[Entry, Body] | None]) -> None:
        self._tasks.pop(what)
        if not task.cancelled():
            task.exception()  # or asyncio complains that nobody has asked

    async def _fetch(self, object_id: str, seen: Seen | None) -> tuple[Entry, Body] | None:
        record = await self._origin.get(object_id, now_us())
        if record is None or (seen is not None and not seen.entry.is_version_of(record.head)):
            return None
        # That of an object of others is not in its head.
        digest = await digest_of_fetched(record.body)
        if seen is None:
            entry = entry_from_bucket(object_id, record.head, digest)
        elif digest == seen.entry.digest:
            entry = seen.entry._replace(is_fetched=True)
        else:
            return None
        self.fetched += 1
        try:
            entry = await self._keep(entry, seen, record.body)
        except SfssError as error:
            # It is here to be served all the same.
            _log.warning("object %s from the bucket is not kept: %s", object_id, error)
        return entry, record.body

    async def _keep(self, entry: Entry, seen: Seen | None, body: Body) -> Entry:
        """Keep what came from the bucket, in place of what was ``seen``; return its entry.

        Its version is hardly above that of the entry before: whatever else is written is newer.
        """
        # Of today: nobody is to take it for what an old upload has left behind.
        record = Record(entry.head._replace(version=max(now_us(), entry.written)), body)
        path = await self._bodies.keep(entry.id, entry.traits.level, record)
        kept = entry._replace(body=path)
        version = entry.written if seen is None else seen.version + 1
        try:
            async with self._entries.turn(entry.id):
                await self._entries.write(kept, version, only_if(seen), kept.traits.expiry)
        except Exception as error:
            if left_nothing(error):
                self._bodies.remove_now(path)
            raise
        if seen is not None:
            self._bodies.remove_later(seen.entry.body)
        return kept

    async def check_lost(self, object_id: str, seen: Seen) -> None:
        """Return if neither the members nor the bucket have the body that was ``seen``, and that
        is no change under way: a put writes the bucket first, and a delete the entry.

        Raises ``Changed`` if the entry is another by now; ``Unreachable`` where the bucket has what
        a put of others has left there that is not finished.
        """
        async with self._entries.turn(object_id):
            if await self._entries.see(object_id) != seen:
                raise Changed
        there = await self._origin.head(object_id, now_us())
        if there is None or is_raw(there) or there.version <= seen.entry.written:
            return
        if await self._entries.see(object_id) != seen:
            raise Changed
        reason = "it has a newer object, of a put that is not finished"
        raise Unreachable(self._origin.address, reason, applied=False)

    async def finish(self) -> None:
        """Wait for what is being fetched, as long as that takes but a few seconds."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=_CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
