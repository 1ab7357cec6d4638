"""Objects: bodies with names of their own, ULIDs, on the members of a cluster and in a bucket.

- An object is there when its entry is (``object_entries``). The entry is written last: when the
  body is kept, and, from level 1 on and writing through, the bucket has it.
- What is asked for is what the entry names: no body and no object in the bucket is taken for it
  that was not put with it. What the members have lost comes from the bucket, and is kept again.
- A deletion is an entry, too. As long as it is there, the bucket is not asked; and it goes only
  when the bucket has forgotten the object.
- The bucket follows the entries: where it may not be as an entry says, that is owed, durably, from
  before the bucket is written until both are known to be alike (``object_origin``).

Changes of one object take turns among the processes of a gateway. Between gateways the newest entry
stays, and whoever finds that the bucket differs from it makes it alike.
"""

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sfss.agreement import Debt, left_nothing
from sfss.errors import Corrupt, StoreError, Unreachable, Unsettled
from sfss.metrics import Counts
from sfss.object_bodies import Bodies, HelpedBody
from sfss.object_debts import Payments
from sfss.object_entries import (
    Entry,
    Traits,
    entry_from_bucket,
    entry_path,
    record_for_bucket,
)
from sfss.object_fetching import Fetching
from sfss.object_origin import Origin, neither
from sfss.object_shelf import Changed, Entries, Seen, now_us, unless_newer
from sfss.record import (
    VERSION_LIMIT,
    Body,
    Content,
    StreamedBody,
    record_of,
)
from sfss.stores.base import Guard
from sfss.turns import Background

_TRIES: Final = 8
_REMOVAL_PATIENCE_S: Final = 1.0
_CLOSE_S: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ObjectRules:
    """How objects are kept. ``writes_through``: a put of level 1 or 2 is answered when the bucket
    has it, not only the members. ``always_fetches``: what is not known is looked for in the bucket,
    whoever asks. ``spool_folder`` is for bodies in pieces while they are brought to the bucket.
    What that is owed is paid ``pay_every_s``; see ``Payments.run``.
    """

    writes_through: bool = True
    always_fetches: bool = False
    spool_folder: Path = Path("/tmp")
    pay_every_s: float = 1.0
    longest_pause_s: float = 10.0


class Found(NamedTuple):
    """An object, with its ``body`` if that was asked for and it is not a deleted one.
    ``was_fetched``: it came from the bucket just now. ``is_elsewhere``: its body is kept by another
    member, and not here.
    """

    entry: Entry
    body: Body = b""
    was_fetched: bool = False
    is_elsewhere: bool = False


class Place(NamedTuple):
    """This member: its name, a ULID, and the folder of its store."""

    member_id: str = ""
    folder: Path = Path()


class Objects:
    """The objects with these ``entries`` and ``bodies``, and in ``origin`` if there is a bucket."""

    def __init__(
        self,
        entries: Entries,
        bodies: Bodies,
        rules: ObjectRules,
        origin: Origin | None = None,
        place: Place | None = None,
    ) -> None:
        self._entries, self._bodies, self._rules, self._origin = entries, bodies, rules, origin
        self._payments = self._fetching = None
        if origin is not None:
            self._payments = Payments(origin, entries, bodies, rules.spool_folder)
            self._fetching = Fetching(origin, entries, bodies)
        self._background = Background()
        self._going_on: list[asyncio.Task[None]] = []
        self.place = place or Place()
        self._counts = {"puts": 0, "gets": 0, "fetches": 0, "deletes": 0}
        self._events: Counts = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """What this process has done."""
        fetches = 0 if self._fetching is None else self._fetching.fetched
        return {**self._counts, "fetches": fetches}

    def count_in(self, events: Counts) -> None:
        """Count from now on whose bodies were here, and whose had to come from the bucket."""
        self._events = events

    def start_paying(self, leader: Callable[[], bool]) -> None:
        """Pay what the bucket is owed from now on, while ``leader()`` says so."""
        if self._payments is not None:
            pauses = self._rules.pay_every_s, self._rules.longest_pause_s
            self.go_on(self._payments.run(leader, *pauses))

    def go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Have ``work`` go on until the objects are closed."""
        self._going_on.append(asyncio.ensure_future(work))

    # -- reading

    async def look(self, object_id: str) -> Found | None:
        """Return what is known of an object, also of a deleted one; None: nothing.

        Raises ``NoStoreReachable``, ``Corrupt``.
        """
        seen = await self._entries.see(object_id)
        return None if seen is None else self._found(seen.entry)

    async def get(self, object_id: str, fetches: bool = False, body: bool = True) -> Found | None:
        """Return an object with its ``body``, of a deleted one the entry alone; None: there is
        none, nor has the bucket one, if that was asked (``fetches``).

        Raises ``NoStoreReachable`` where it cannot be told, or the body cannot be had now;
        ``Corrupt`` where the body is lost.
        """
        self._counts["gets"] += 1
        found = await self._get_now(object_id, fetches, body)
        if body and self._origin is not None and found is not None and not found.entry.is_deleted:
            self._events["cache_misses" if found.was_fetched else "cache_hits"] += 1
        return found

    async def _get_now(self, object_id: str, fetches: bool, body: bool) -> Found | None:
        for _ in range(_TRIES):
            seen = await self._entries.see(object_id)
            try:
                if seen is None:
                    wanted = fetches or self._rules.always_fetches
                    return await self._fetched(object_id, None) if wanted else None
                if seen.entry.is_deleted or not body:
                    return self._found(seen.entry)
                return await self._get(object_id, seen)
            except Changed:
                continue
        raise Unsettled("of objects", self._entries.key(object_id))

    async def _get(self, object_id: str, seen: Seen) -> Found:
        entry, failure = seen.entry, None
        try:
            record = await self._bodies.get(entry.body)
            if record is not None and entry.has_body(record.head):
                return self._found(entry, self._whole(object_id, seen, record.body))
        except StoreError as error:
            failure = error
        if await self._entries.see(object_id) != seen:
            raise Changed
        try:
            fetched = await self._fetched(object_id, seen) if entry.traits.level else None
        except StoreError as error:
            raise neither(failure, error) from error
        if fetched is not None:
            return fetched
        if self._fetching is not None and entry.traits.level:
            await self._fetching.check_lost(object_id, seen)
        if failure is not None:
            raise failure
        key = entry_path(object_id).encode()
        raise Corrupt("of objects", key, f"a body, {entry.body}", "nothing")

    def _whole(self, object_id: str, seen: Seen, body: Body) -> Body:
        """Return ``body`` as one that the bucket helps out with, if it is in pieces."""
        if not isinstance(body, StreamedBody) or not seen.entry.traits.level:
            return body

        async def fetch() -> Body | None:
            with suppress(StoreError, Changed):
                found = await self._fetched(object_id, seen)
                return None if found is None else found.body
            # Somebody else may have fetched it, and it has another name now.
            with suppress(StoreError, Changed):
                now = await self._entries.see(object_id)
                if now not in (None, seen) and now.entry.digest == seen.entry.digest:
                    return (await self._get(object_id, now)).body
            return None

        return HelpedBody(body, fetch)

    def _found(self, entry: Entry, body: Body = b"") -> Found:
        return Found(entry, body, False, self._bodies.is_elsewhere(entry.body))

    # -- fetching

    async def _fetched(self, object_id: str, seen: Seen | None) -> Found | None:
        """Return an object from the bucket; see ``Fetching.fetch``."""
        if self._fetching is None:
            return None
        fetched = await self._fetching.fetch(object_id, seen)
        return None if fetched is None else Found(*fetched, was_fetched=True)

    # -- writing

    async def put(
        self, object_id: str, content: Content, traits: Traits, guard: Guard | None = None
    ) -> Entry:
        """Keep ``content`` as an object, in place of the one that there is; return its entry.
        ``content`` says for how long, not ``traits``. ``guard`` is called with the head of the
        former one, None where there is none.

        Raises what ``guard`` raises, and as ``Engine.put``; ``Unreachable`` of the bucket.
        """
        return await self._background.make(self._put(object_id, content, traits, guard))

    async def _put(
        self, object_id: str, content: Content, traits: Traits, guard: Guard | None
    ) -> Entry:
        async with self._entries.turn(object_id):
            former = await self._see_or_damaged(object_id)
            if guard is not None:
                is_there = former is not None and not former.entry.is_deleted
                guard(former.entry.head if former is not None and is_there else None)
            version = self._entries.version_after(former)
            record = record_of(content._replace(names={}), version, now_us())
            path = await self._bodies.keep(object_id, traits.level, record)
            traits = traits._replace(expiry=record.head.expiry)
            entry = Entry(object_id, traits, len(record.body), record.head.digest, version, path)
            entry, debt = await self._publish(entry, former, record.body)
        self._counts["puts"] += 1
        if former is not None:
            self._bodies.remove_later(former.entry.body)
        if debt is not None and not traits.level:
            await self._pay_soon(debt)
        return entry

    async def _see_or_damaged(self, object_id: str) -> Seen | None:
        """Return the entry of an object, None also for what is damaged: it can be replaced."""
        try:
            return await self._entries.see(object_id)
        except Corrupt as error:
            _log.error("%s", error)
            return None

    async def _publish(
        self, entry: Entry, former: Seen | None, body: Body
    ) -> tuple[Entry, Debt | None]:
        """Bring a new object to the bucket, and write its entry; return that, and what the bucket
        may be owed of it.
        """
        may_be_there = False
        try:
            for _ in range(_TRIES):
                entry, debt = await self._tell_origin(entry, former, body)
                may_be_there = True
                with suppress(Changed):
                    guard = unless_newer(entry.written)
                    await self._entries.write(entry, entry.written, guard, entry.traits.expiry)
                    break
                may_be_there = False
                # By another gateway, with a clock that is ahead; this write comes after that one.
                former = await self._see_or_damaged(entry.id)
                entry = entry._replace(written=self._entries.version_after(former))
            else:
                raise Unsettled("of objects", self._entries.key(entry.id))
        except BaseException as error:
            if not may_be_there or (isinstance(error, Exception) and left_nothing(error)):
                self._bodies.remove_now(entry.body)
            raise
        if self._origin is not None and debt is not None and self._goes_through(entry):
            self._background.start(self._origin.settle(debt))
        return entry, debt

    def _goes_through(self, entry: Entry) -> bool:
        return entry.traits.level > 0 and self._rules.writes_through

    async def _tell_origin(
        self, entry: Entry, former: Seen | None, body: Body
    ) -> tuple[Entry, Debt | None]:
        """Note that the bucket is owed ``entry``, and write through; return what was noted, and the
        entry, which may have got a newer version.
        """
        origin, key = self._origin, self._entries.key(entry.id)
        if origin is None or (former is None and not entry.traits.level):
            return entry, None
        was_owed = await origin.owes(key)
        for _ in range(_TRIES):
            debt = await origin.owe(key, entry.written)
            if not self._goes_through(entry):
                return entry, debt
            try:
                newer = await origin.put(entry.id, record_for_bucket(entry, body))
            except Exception as error:
                await origin.failed(debt, was_owed, error)
                raise
            if newer is None:
                return entry, debt
            # By another clock. This write comes after that one all the same.
            entry = entry._replace(written=min(newer.version + 1, VERSION_LIMIT))
        raise Unsettled(origin.address, key)

    async def delete(self, object_id: str, fetches: bool = False) -> Entry | None:
        """Delete an object; return its entry, also where it was deleted before; None: there is
        none. With ``fetches``, one that only the bucket has counts, too. Errors as ``put``, but for
        a bucket that cannot be reached: that is owed it.
        """
        return await self._background.make(self._delete(object_id, fetches))

    async def _delete(self, object_id: str, fetches: bool) -> Entry | None:
        for _ in range(_TRIES):
            with suppress(Changed):
                async with self._entries.turn(object_id):
                    seen = await self._entries.see(object_id)
                    if seen is None and (fetches or self._rules.always_fetches):
                        seen = await self._see_in_origin(object_id)
                    if seen is None:
                        return None
                    gone, debt = await self._write_deletion(seen)
                self._counts["deletes"] += 1
                self._bodies.remove_later(seen.entry.body)
                if debt is not None:
                    await self._pay_soon(debt)
                return gone
        raise Unsettled("of objects", self._entries.key(object_id))

    async def _write_deletion(self, seen: Seen) -> tuple[Entry, Debt | None]:
        """Write that an object is deleted, even if its entry says so: it may not have been
        acknowledged, and be gone again tomorrow. Raises ``Changed`` and as ``Entries.write``.
        """
        version, gone, debt = self._entries.version_after(seen), seen.entry, None
        if not gone.is_deleted:
            gone = gone._replace(written=version, body="", is_deleted=True)
        # As long as the bucket may have it, the deletion must not be forgotten.
        expiry = 0 if self._origin is not None else self._entries.forgotten_at(version)
        if self._origin is not None:
            debt = await self._origin.owe(self._entries.key(gone.id), version)
        await self._entries.write(gone, version, unless_newer(version), expiry)
        return gone, debt

    async def _see_in_origin(self, object_id: str) -> Seen | None:
        head = None if self._origin is None else await self._origin.head(object_id, now_us())
        if head is None:
            return None
        return Seen(entry_from_bucket(object_id, head, head.digest), head.version)

    async def _pay_soon(self, debt: Debt) -> None:
        """Try to pay ``debt`` at once; wait for it only a moment, for it is noted."""
        if self._payments is not None:
            task = self._background.start(self._payments.pay(debt, is_known=True))
            await asyncio.wait([task], timeout=_REMOVAL_PATIENCE_S)

    # -- all else

    async def owing(self) -> int:
        """Return of how many objects the bucket may differ from what it is to be."""
        return 0 if self._origin is None else await self._origin.count()

    async def disk(self) -> dict[str, int]:
        """Return the bytes of the disk that the store here is on: ``all``, ``used``, ``free``.
        Raises ``Unreachable`` where its folder is gone.
        """
        folder = self.place.folder
        try:
            found = await asyncio.to_thread(shutil.disk_usage, folder)
        except OSError as error:
            raise Unreachable(str(folder), str(error)) from error
        return {"all": found.total, "used": found.used, "free": found.free}

    async def close(self) -> None:
        """Finish what was begun, and let go of the bucket; the engine stays open."""
        for task in self._going_on:
            task.cancel()
        await asyncio.gather(*self._going_on, return_exceptions=True)
        await self._background.finish(_CLOSE_S)
        if self._fetching is not None:
            await self._fetching.finish()
        await self._bodies.finish()
        if self._origin is not None:
            await self._origin.close()
        self._entries.close()
