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

A store behind the memcached protocol compares and writes in two steps. Writers of one key in the
same process take turns; one in another process may come between, and an older write may then
replace a newer on that store, until the key is healed.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from sfss.agreement import (
    Answer,
    CopiesSettings,
    Debt,
    Debts,
    Quorums,
    Trust,
    Verdict,
    Written,
    decide,
    differ,
    file_head,
    is_gone,
    newest,
    newest_seen,
    not_noted,
    refusal,
    stamped,
    tombstone,
    trust,
    unproven,
)
from sfss.errors import Corrupt, StoreError, Unreachable
from sfss.healing import Healing
from sfss.holders import Holders
from sfss.owed import Owed
from sfss.record import Head, Kind, Record
from sfss.stores.base import Guard, Store

Result = TypeVar("Result")


class Clock(Protocol):
    """Where versions come from."""

    def version(self) -> int:
        """Return microseconds since 1970, above every version returned before."""


class Copies:
    """``stores`` by address; ``primaries`` names those that should hold a key, best first.

    ``healing`` mends, pays debts and compares.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        primaries: Callable[[bytes], Sequence[str]],
        owed: Owed,
        clock: Clock,
        settings: CopiesSettings,
    ) -> None:
        self._primaries, self._owed = primaries, owed
        self._clock, self._settings = clock, settings
        self._holders = Holders(stores, settings.cooling_s, settings.background_bytes)
        self.healing = Healing(self._holders, primaries, owed, clock.version, settings)
        self.counts = self._holders.counts
        """How often things have happened, by name."""

    def first(self, key: bytes) -> str | None:
        """Return the store that ``get`` would ask first, if an answer of it alone is the answer:
        nobody is owed anything. For the hot path; None: ask ``get``.

        What the store has is believed as far as it is a sound file; all else is for ``get`` to
        find out.
        """
        settings = self._settings
        if not self._owed.clear or settings.read_quorum > 1 or settings.read_mode != "first":
            return None
        address = self._primaries(key)[0]
        return None if self._holders.rests(address) else address

    async def get(self, key: bytes) -> Record | None:
        """Return the file under ``key``, or None if there is none.

        Raises ``Corrupt`` when all that was found is damaged, ``NoStoreReachable`` when those that
        answered do not prove anything.
        """
        debts, quorums = await self._known(key)
        order = self._order(self._primaries(key), debts)
        width = max(quorums.read, 2 if self._settings.read_mode == "fastest" else 1)
        reading = _Reading(self._holders, key, order, debts, quorums)
        record = (await self._read(reading, width)).record
        return None if record is None or record.head.kind is Kind.TOMBSTONE else record

    async def put(self, key: bytes, record: Record, guard: Guard | None = None) -> Head:
        """Keep ``record`` under ``key`` and return its head, which may have another version.

        It goes to all stores at once, whoever waits. ``guard`` is called with the newest head
        that any of them has, before anything is written: over several stores, somebody can come in
        between. Raises what ``guard`` raises; ``QuorumFailed``; ``StoreFull``, ``TooLarge`` when
        all stores say so.
        """
        if guard is not None:
            found = await self._survey(key)
            guard(file_head(found.head))
            record = stamped(record, found.head)
        return await self._finish(self._keep(key, record, guard))

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove the file under ``key``; return whether there was one. ``guard`` and errors as in
        ``put``.

        A tombstone is written even if there is no file, unless it is certain that none can turn up:
        a store that is down may have one.
        """
        found = await self._survey(key)
        if guard is not None:
            guard(file_head(found.head))
        is_there = found.is_damaged or file_head(found.head) is not None
        if not is_there and is_gone(found.answers, found.debts, self._quorums(key)):
            return False
        record = stamped(tombstone(self._clock.version()), found.head)
        await self._finish(self._keep(key, record, guard))
        return is_there

    async def close(self) -> None:
        """Wait for everything that goes on in the background. The stores are not closed."""
        await self._holders.background.finish()

    def _quorums(self, key: bytes) -> Quorums:
        return self._settings.quorums(len(self._primaries(key)))

    async def _known(self, key: bytes) -> tuple[Debts, Quorums]:
        """Return who is owed ``key``, and how many have to answer a read."""
        quorums = self._quorums(key)
        try:
            return await self._owed.owes(key, self._primaries(key)), quorums
        except StoreError:
            # So many that one of them has confirmed whatever was acknowledged.
            return {}, quorums.careful()

    def _order(self, addresses: Sequence[str], debts: Debts) -> list[str]:
        """Return ``addresses`` in the order in which to ask: those in doubt last."""
        order = list(addresses)
        if self._settings.read_mode == "random":
            random.shuffle(order)
        rests = self._holders.rests
        return sorted(order, key=lambda address: (address in debts, rests(address)))

    async def _survey(self, key: bytes) -> "_Found":
        """Return what is under ``key``, from all stores that answer in time.

        Raises ``NoStoreReachable`` where those that answer do not prove anything. What is damaged
        everywhere is there, and counts as nothing: it may be replaced.
        """
        debts, quorums = await self._known(key)
        order = self._order(self._primaries(key), debts)
        reading = _Reading(self._holders, key, order, debts, quorums)
        is_damaged = False
        try:
            await self._read(reading, len(order), self._settings.straggler_ms / 1000)
        except Corrupt:
            is_damaged = True
        record = newest(reading.answers)
        head = None if record is None else record.head
        return _Found(head, is_damaged, reading.answers, debts)

    async def _read(self, reading: "_Reading", width: int, linger_s: float = 0.0) -> Verdict:
        try:
            verdict = await reading.verdict(width, self._settings.head_timeout_ms / 1000)
            await reading.linger(linger_s)
            return verdict
        finally:
            reading.leave()
            if differ(reading.answers):
                self.healing.later(reading.key)

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what ``work`` returns; it goes on when whoever waits for it is cancelled."""
        return await asyncio.shield(self._holders.background.start(work))

    async def _keep(self, key: bytes, record: Record, guard: Guard | None) -> Head:
        """Write ``record`` to a quorum, and note for whom it is left to be done.

        A store may have something newer, although this is the latest write: the clock of another
        process was ahead. So the write is stamped anew, above all that was seen. What is newer then
        was written in the meantime, and has come after this one.
        """
        written = await self._spread(key, record)
        if (newer := newest_seen(written)) is not None:
            if guard is not None:
                guard(file_head(newer))
            record = stamped(record, newer)
            written = await self._spread(key, record)
        await self._conclude(key, record.head, written)
        return record.head

    async def _spread(self, key: bytes, record: Record) -> list[Written]:
        """Write to all stores at once; return what has become of it by the time that the quorum is
        reached, and the rest had ``straggler_ms``, or that nothing more can come.

        Stores that rest are written to only where the quorum cannot be had without them.
        """
        holders, quorum = self._holders, self._quorums(key).write
        tasks: dict[str, asyncio.Task[Written]] = {}

        def start(addresses: Iterable[str], insist: bool) -> None:
            for address in addresses:
                write = holders.write(address, key, record, insist)
                tasks[address] = holders.background.start(write)

        try:
            start(self._primaries(key), insist=False)
            await asyncio.wait(tasks.values(), timeout=self._settings.straggler_ms / 1000)
            if _confirmed(tasks) < quorum:
                start(_not_asked(tasks), insist=True)
            while _confirmed(tasks) < quorum and (pending := _pending(tasks)):
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks.values():
                holders.background.leave(task, len(record.body))
        return [_outcome(address, task) for address, task in tasks.items()]

    async def _conclude(self, key: bytes, head: Head, written: Sequence[Written]) -> None:
        """Note who is owed the write; return if it is kept, raise if not."""
        quorum = self._quorums(key).write
        missing = [each for each in written if each.failure is not None]
        is_kept = len(written) - len(missing) >= quorum
        if missing and (len(missing) < len(written) or any(each.maybe for each in missing)):
            acknowledged = head.version if is_kept else 0
            debts = [Debt(each.address, key, head.version, acknowledged) for each in missing]
            try:
                await self._owed.add(debts)
            except StoreError as error:
                # Others would believe a store that lacks the write: better to say that it failed.
                raise not_noted(written, quorum, self._owed.address, error) from error
            self.counts["owed"] += len(debts)
        if not is_kept:
            raise refusal(written, quorum)


class _Found(NamedTuple):
    """What several stores have under one key: the newest ``head``; whether there is only damage."""

    head: Head | None
    is_damaged: bool
    answers: Sequence[Answer]
    debts: Debts


class _Reading:
    """One read of ``key``: the stores are asked in ``order`` until what they say proves something.

    None is cancelled once it is asked: it is the answer that does not come which tells that a store
    is ill, and to cut off a connection costs more than to read on.
    """

    def __init__(
        self, holders: Holders, key: bytes, order: Sequence[str], debts: Debts, quorums: Quorums
    ) -> None:
        self.key = key
        self.answers: list[Answer] = []
        self._holders, self._debts, self._quorums = holders, debts, quorums
        self._waiting = list(reversed(order))
        self._running: set[asyncio.Task[Answer]] = set()

    async def verdict(self, width: int, patience_s: float) -> Verdict:
        """Return what is proven, having asked ``width`` stores at once, and one more each time that
        none has answered for ``patience_s``. Raises as ``Copies.get``.
        """
        while (verdict := self._decided()) is None:
            self._ask(max(1, width - self._trusted()))
            if not self._running:
                raise unproven(self.answers, self._debts)
            if not await self._collect(patience_s if self._waiting else None):
                width += 1
        return verdict

    async def linger(self, patience_s: float) -> None:
        """Wait up to ``patience_s`` for the answers that are still to come."""
        if self._running and patience_s:
            await asyncio.wait(self._running, timeout=patience_s)
            self._take({task for task in self._running if task.done()})

    def leave(self) -> None:
        """Wait no longer for those who have not answered."""
        for task in self._running:
            self._holders.background.leave(task)

    def _decided(self) -> Verdict | None:
        last = not self._waiting and not self._running
        return decide(self.answers, self._debts, self._quorums, last)

    def _trusted(self) -> int:
        debts = self._debts
        return sum(trust(each, debts.get(each.address)) is Trust.FULL for each in self.answers)

    def _ask(self, wanted: int) -> None:
        while self._waiting and len(self._running) < wanted:
            read = self._holders.read(self._waiting.pop(), self.key)
            self._running.add(self._holders.background.start(read))

    async def _collect(self, patience_s: float | None) -> bool:
        done, _ = await asyncio.wait(
            self._running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        self._take(done)
        return bool(done)

    def _take(self, done: set[asyncio.Task[Answer]]) -> None:
        self._running -= done
        self.answers += [task.result() for task in done]


_Writes: TypeAlias = Mapping[str, asyncio.Task[Written]]


def _pending(writes: _Writes) -> list[asyncio.Task[Written]]:
    return [task for task in writes.values() if not task.done()]


def _confirmed(writes: _Writes) -> int:
    return sum(task.done() and task.result().failure is None for task in writes.values())


def _not_asked(writes: _Writes) -> list[str]:
    return [each for each, task in writes.items() if task.done() and not task.result().asked]


def _outcome(address: str, task: asyncio.Task[Written]) -> Written:
    if task.done():
        return task.result()
    return Written(address, failure=Unreachable(address, "it has not answered yet"))
