"""One key on several stores: written to all, read from those that can be believed.

What holds, as long as the clients of the stores are the workers of one gateway, which share one
list of debts:

- An acknowledged write (a delete is one) is on ``write_quorum`` stores, and whatever store has not
  confirmed it is owed it, durably, before the client is told. It is not lost while fewer than
  ``write_quorum`` of the stores have lost something that was not healed yet: have forgotten it or
  have damaged it. Any number may be down, or have been down.
- Under the same condition no read returns anything older than the last acknowledged write, or
  "nothing" where there is something. A read that cannot prove its answer raises. That does not
  happen while at most copies - ``write_quorum`` stores, and fewer than ``write_quorum``, are down,
  and none has lost something: with N=3 and W=2, one.
- A write that was refused (``QuorumFailed``), or whose gateway was killed before it answered, may
  be seen or not, and by turns, until something newer is acknowledged or the key is healed.
- A store that was set back to an older state of itself, so that it has an old record where it had a
  new one, is believed; so is one that loses the newest just while something older, which a heal had
  found before that, is on its way there. ``read_quorum`` above copies - ``write_quorum`` sees
  through that, too, and serves several gateways that write the same stores.

After a change of the stores the primaries of a key are others, and ``former`` names those it had
before. What the primaries have counts; only where they prove that they have nothing, or nothing
that is sound, the former places are asked, by the same rules, and what is found there is brought to
the primaries. So "nothing" is said only when both have said it. A newer version in the primaries
wins over what was left behind, tombstones included; those are kept until nothing is left behind.
All workers have to know of a change at the same time, and to forget ``former`` only when a check
finds nothing to do. During a migration (``reads_both``) the newest of both places counts. A file
that one of the two has is also served where so many stores of the other say that they have nothing,
and are owed nothing, that ``write_quorum`` of them would have had to lose it.

A write that a change of the places has overtaken is written once more, to where the file belongs
then, before it is answered. So whoever copies files from where they were before finds there all
that was acknowledged.

A write keeps the newer of what is there and what it brings, in one step on ``sfss node`` and on
memcached. Beansdb compares and writes in two: writers of one key in the same process take turns
there; one in another process may come between, and an older write may then replace a newer on that
store, until the key is healed. The same goes for what a heal or a move removes: there, a newer
write of another process may be removed with it.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from sfss.agreement import (
    CopiesSettings,
    Debt,
    Health,
    Kept,
    Owing,
    file_head,
    is_gone,
    newest_seen,
    stamped,
    tombstone,
)
from sfss.browsing import Browsing
from sfss.healing import Healing
from sfss.holders import Holders
from sfss.lookup import Lookup
from sfss.metrics import Counts, NoteStore
from sfss.owed import Owed, place
from sfss.paying import Paying
from sfss.placement import Places
from sfss.record import Buffer, Form, Head, Kind, Record
from sfss.stopwatch import Stopwatch
from sfss.stores.base import Child, Entry, Guard, NewestStore, Use, ViewableStore
from sfss.writing import Writing


class Clock(Protocol):
    """Where versions come from."""

    def version(self) -> int:
        """Return microseconds since 1970, above every version returned before."""


class Copies:
    """``stores`` by address; ``places`` name those that should hold a key, best first, and those
    that should have before the stores were changed, until all has been moved.

    A store of which ``is_live`` says no counts as down. ``healing`` mends, compares and moves,
    ``paying`` brings stores what they have missed.
    """

    guards_are_free = False

    def __init__(
        self,
        stores: Mapping[str, NewestStore],
        places: Places,
        owed: Owed,
        clock: Clock,
        settings: CopiesSettings,
        is_live: Callable[[str], bool] | None = None,
    ) -> None:
        self._places, self._primaries = places, places.primaries
        self._owed, self._clock, self._settings = owed, clock, settings
        self._holders = Holders(stores, settings, is_live)
        self._viewable: Mapping[str, _Views] = self._holders.viewable
        self.healing = Healing(self._holders, places, owed, clock.version, settings)
        self.paying = Paying(self._holders, places, owed, self.healing, settings)
        self._lookup = Lookup(self._holders, places, owed, self.healing, settings)
        self._browsing = Browsing(self._holders, owed, settings, places, self.head)
        self._writing = Writing(self._holders, owed, settings)
        self.note_expiry: Callable[[bytes, int], Awaitable[None]] | None = None
        """Called with the key of each file that is kept and expires, and when."""

    @property
    def places(self) -> Places:
        """Where keys belong."""
        return self._places

    @property
    def counts(self) -> Counts:
        """How often things have happened: the events of ``metrics``."""
        return self._holders.counts

    def is_resting(self, address: str) -> bool:
        """Tell whether the store at ``address`` has failed a moment ago, or is not live."""
        return self._holders.rests(address)

    @property
    def rests(self) -> bool:
        """Whether all stores are left alone: they have failed a moment ago, or are not live."""
        return all(map(self._holders.rests, self._holders.addresses))

    def count_in(self, counts: Counts, note: NoteStore | None = None) -> None:
        """Count in ``counts`` from now on, and tell ``note`` what stores are asked, and how long
        they take.
        """
        self._holders.counts = counts
        self._holders.stopwatch = Stopwatch(note)
        cache = self._holders.viewable.get(self._settings.may_lack)
        if cache is not None:
            counted = _CountedViews(cache, counts)
            self._viewable = {**self._holders.viewable, self._settings.may_lack: counted}

    def first(self, key: bytes) -> str | None:
        """Return the store that ``get`` would ask first, if an answer of it alone is the answer:
        nobody is owed anything. For the hot path; None: ask ``get``.

        What the store has is believed as far as it is a sound file; all else is for ``get`` to
        find out: "nothing" as well.
        """
        settings = self._settings
        if not self._owed.clear or settings.read_quorum > 1 or settings.read_mode == "fastest":
            return None
        primaries = self._primaries(key)
        if not settings.shares_debts and settings.quorums(len(primaries)).read > 1:
            return None
        address = random.choice(primaries) if settings.read_mode == "random" else primaries[0]
        is_alone = not self._holders.rests(address) and not self._places.of(key).moves
        return address if is_alone else None

    async def get(self, key: bytes) -> Record | None:
        """Return the file under ``key``, or None if there is none.

        Raises ``Corrupt`` when all that was found is damaged, ``NoStoreReachable`` when those that
        answered do not prove anything.
        """
        found = await self._lookup.read(key)
        record = found.record
        if record is None and found.damage is not None:
            raise found.damage
        return None if record is None or record.head.kind is Kind.TOMBSTONE else record

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the file under ``key``, or None if there is none; raises as ``get``.
        Bodies are not looked at where the stores can do that.
        """
        found = await self._lookup.look(key)
        if found.record is None and found.damage is not None:
            raise found.damage
        return None if found.record is None else file_head(found.record.head)

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``, see ``ViewableStore.view``: by the store
        of which ``first`` says that it may answer.
        """
        address = self.first(key)
        store = None if address is None else self._viewable.get(address)
        return store is not None and store.view(key, use)

    def state(self) -> int:
        """Return 0: nobody says when one of the stores is changed."""
        return 0

    async def put(self, key: bytes, record: Record, guard: Guard | None = None) -> Kept:
        """Keep ``record`` under ``key``; it may get another version.

        It goes to all stores at once, whoever waits. ``guard`` is called with the newest head
        that any of them has, before anything is written: over several stores, somebody can come in
        between. Raises what ``guard`` raises; ``QuorumFailed``; ``StoreFull``, ``TooLarge`` when
        all stores say so.
        """
        if guard is not None:
            found = await self._lookup.survey(key)
            guard(file_head(found.head))
            record = stamped(record, found.head)
        record = stamped(record, await self._lookup.left_head(key))
        return await self._holders.background.make(self._put(key, record, guard))

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove the file under ``key``; return whether there was one. ``guard`` and errors as in
        ``put``.

        A tombstone is written even if there is no file, unless it is certain that none can turn up:
        a store that is down may have one.
        """
        found = await self._lookup.survey(key)
        if guard is not None:
            guard(file_head(found.head))
        is_there = found.damage is not None or file_head(found.head) is not None
        quorums = self._settings.quorums(len(self._primaries(key)))
        is_certain = not found.asked_former and is_gone(found.answers, found.debts, quorums)
        if not is_there and is_certain:
            return False
        record = stamped(tombstone(self._clock.version()), found.head)
        record = stamped(record, await self._lookup.left_head(key))
        await self._holders.background.make(self._keep(key, record, guard))
        return is_there

    async def room(self) -> int | None:
        """Return how many bytes a record may have; see ``cluster.Engine.room``."""
        return await self._holders.room()

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return what all stores together list, the newest of each key; see ``Browsing``."""
        return await self._browsing.scan(prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what all stores together have in a folder; see ``Browsing``."""
        return await self._browsing.children(prefix, after, limit)

    async def stats(self) -> dict[str, dict[str, str]]:
        """Return the statistics of every store by address; ``error`` alone of one that fails.

        Raises ``NoStoreReachable`` when all do.
        """
        return await self._holders.stats()

    async def health(self, timeout_s: float) -> Health:
        """Return how the stores are: in one shard, if there are any, as many have to answer as
        reads and writes ask for.
        """
        health = Health(await self._holders.failures(timeout_s))
        shards = self._places.shards or {"": self._places.stores() or self._holders.addresses}
        lacking = [self._lacking(name, stores, health) for name, stores in shards.items()]
        return health._replace(lacking="; ".join(lacking) if all(lacking) else "")

    def _lacking(self, shard: str, stores: Sequence[str], health: Health) -> str:
        copies = len(stores) if self._places.shards else self._settings.least_copies
        quorums, up = self._settings.quorums(copies), set(health.up).intersection(stores)
        needed, place = max(quorums.write, quorums.read), f" of {shard}" if shard else ""
        if self._settings.first_decides and stores[0] not in up:
            return f"the first store{place} does not answer"
        if len(up) < needed:
            return f"{len(up)} of the {len(stores)} stores{place} answer, and {needed} have to"
        return ""

    async def owing(self) -> Owing:
        """Return what stores still have to get."""
        writes = await self._owed.count()
        debts = [await self._owed.everything(each) for each in self._holders.addresses if writes]
        return Owing(writes, [debt.address for debt in debts if debt is not None])

    async def missing(self, after: bytes, limit: int) -> Sequence[tuple[bytes, Debt]]:
        """Return up to ``limit`` debts, each behind its place in the list, those behind ``after``.

        Raises what the list of debts raises.
        """
        return [(place(debt), debt) for debt in await self._owed.all(after, limit)]

    def debug(self) -> Mapping[str, object]:
        """Return the shards of which all stores rest, under Photosrv's name."""
        rests = self._holders.rests
        shards = self._places.shards.items()
        dead = [name for name, stores in shards if all(map(rests, stores))]
        return {"DeadShards": dead}

    async def finish(self) -> None:
        """Wait for everything that goes on in the background."""
        await self._holders.background.finish()

    async def close(self) -> None:
        """Finish what was begun and close the stores and the list of debts.

        What waits to be healed is left: the next read sees the difference again.
        """
        self.healing.stop()
        await self.finish()
        await self._holders.close()
        await self._owed.close()

    async def _put(self, key: bytes, record: Record, guard: Guard | None) -> Kept:
        kept = await self._keep(key, record, guard)
        if kept.head.expiry and self.note_expiry is not None:
            await self.note_expiry(key, kept.head.expiry)
        return kept

    async def _keep(self, key: bytes, record: Record, guard: Guard | None) -> Kept:
        """Write ``record`` to a quorum, and note for whom it is left to be done.

        A store may have something newer, although this is the latest write: the clock of another
        process was ahead. So the write is stamped anew, above all that was seen. What is newer then
        was written in the meantime, and has come after this one.
        """
        while True:
            groups, moments = self._places.of(key).written, self._holders.moments(key)
            written = await self._writing.spread(key, record, groups, moments)
            if (newer := newest_seen(written)) is not None:
                if guard is not None:
                    guard(file_head(newer))
                record = stamped(record, newer)
                written = await self._writing.spread(key, record, groups, moments)
            await self._writing.conclude(key, record.head, written, groups)
            # Else a migration has begun meanwhile: the file may have been copied before this.
            if self._places.of(key).written == groups:
                return Kept(record.head, written)


class _Views(Protocol):
    """A store that can be asked as the hot path does."""

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``, see ``ViewableStore.view``."""


class _CountedViews:
    """``store``, which may lack files; what it has when the hot path asks is counted. What it has
    not is asked for again, the long way.
    """

    def __init__(self, store: ViewableStore, counts: Counts) -> None:
        self._store, self._counts = store, counts

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``, see ``ViewableStore.view``."""

        def count(item: Buffer | None, form: Form) -> None:
            if item is not None:
                self._counts["cache_hits"] += 1
            use(item, form)

        return self._store.view(key, count)
