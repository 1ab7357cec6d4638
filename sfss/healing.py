"""Copies made equal again: after a read saw a difference, to pay a debt, or because a tool asks.

``heal`` is the one operation behind all three. It only ever replaces older by newer, so it may run
at any time, beside writes and other heals, and be cut off anywhere.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple

from sfss.agreement import (
    MICROSECONDS_A_DAY,
    Answer,
    CopiesSettings,
    Debts,
    Written,
    decide,
    newest,
    rank,
    to_be_had,
    unknown,
    without_expired,
)
from sfss.errors import Corrupt, StoreError
from sfss.faults import Finding, findings, is_reapable, lacking, why_kept
from sfss.holders import NO_MOMENTS, Holders, Moments
from sfss.metrics import Counts
from sfss.owed import Owed
from sfss.placement import Places
from sfss.record import Head, Record, has_expired
from sfss.turns import Turns

HEALS_WAITING: Final = 1000
"""Keys that wait to be healed in the background; a scrub finds what is dropped beyond that."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Healed:
    """What a heal did.

    ``newest`` is the newest sound copy there was, None where there was none; ``mended`` the stores
    that have got it, or something newer, since they were asked; ``reaped`` those that have
    forgotten it, an old tombstone; ``failures`` say why others could not be asked or mended.
    ``damaged`` are those whose copy is damaged and stays, for want of a sound one: a new write, or
    a delete, ends that.
    """

    newest: Head | None = None
    mended: Sequence[str] = ()
    reaped: Sequence[str] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    damaged: Sequence[str] = ()

    @property
    def is_settled(self) -> bool:
        """Whether all stores were found to have the same already, as far as it can be had."""
        return not (self.mended or self.reaped or self.failures)


class Seen(NamedTuple):
    """What stores said of ``key``, asked after the ``moments``."""

    key: bytes
    answers: Sequence[Answer]
    moments: Moments


class Moved(NamedTuple):
    """Whether a misplaced copy is gone; ``reason`` says why not, or why there was nothing to do."""

    moved: bool
    reason: str = ""


class Healing:
    """Heals keys of the stores of ``holders``, of which ``owed`` tells what they have missed;
    ``version`` is the clock.

    Primaries of a key from before the stores were changed may have something. They are brought it
    only while they are written, too.
    """

    def __init__(
        self,
        holders: Holders,
        places: Places,
        owed: Owed,
        version: Callable[[], int],
        settings: CopiesSettings,
    ) -> None:
        self._holders, self._places, self._primaries = holders, places, places.primaries
        self._owed, self._version, self._settings = owed, version, settings
        self._waiting: dict[bytes, asyncio.Task[None]] = {}
        self._bringing: set[asyncio.Task[None]] = set()
        self._kept_bytes = 0
        self._turns = Turns()
        self.width = settings.heals_at_once
        """How many keys are healed at the same time."""
        self._at_once = asyncio.Semaphore(self.width)

    @property
    def counts(self) -> Counts:
        """The events of ``metrics``."""
        return self._holders.counts

    def later(self, key: bytes) -> None:
        """Heal ``key`` in the background, unless it waits for that already or too many do."""
        if key in self._waiting:
            return
        if len(self._waiting) >= HEALS_WAITING:
            self._holders.counts["heals_dropped"] += 1
            return
        self._waiting[key] = self._start(self._heal_later(key))

    def bring(self, key: bytes, record: Record, addresses: Sequence[str]) -> None:
        """Write ``record``, which a read has proven, to the stores that have said that they have
        nothing, in the background; when too many are at it, ``key`` is healed later.
        """
        if key in self._waiting:
            return
        if len(self._bringing) >= self.width:
            self.later(key)
            return
        task = self._start(self._bring(key, record, addresses))
        self._waiting[key] = task
        self._bringing.add(task)
        task.add_done_callback(self._bringing.discard)

    def keep(self, key: bytes, record: Record, address: str, moments: Moments) -> None:
        """Write ``record``, which a read has found elsewhere after the ``moments``, to the store at
        ``address``, which may lack files, in the background; or not, when too much is on its way.
        """
        size = len(record.body)
        if key in self._waiting:
            return
        if self._kept_bytes and self._kept_bytes + size > self._settings.background_bytes:
            self._holders.counts["heals_dropped"] += 1
            return
        self._kept_bytes += size
        self._waiting[key] = task = self._start(self._bring(key, record, (address,), moments))
        task.add_done_callback(lambda _: self._give_back(size))

    def _give_back(self, size: int) -> None:
        self._kept_bytes -= size

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # No client has asked for it: nodes are not to be told of the one whose request found it.
        return self._holders.background.start(work, Context())

    async def _bring(
        self,
        key: bytes,
        record: Record,
        addresses: Sequence[str],
        moments: Moments = NO_MOMENTS,
    ) -> None:
        try:
            write = partial(self._holders.write, key=key, record=record, moments=moments)
            writes = (write(each) for each in addresses)
            written = await asyncio.gather(*writes)
            self._holders.counts["mended"] += sum(not each.failure for each in written)
        finally:
            self._waiting.pop(key, None)

    def stop(self) -> None:
        """Give up all that is to be healed in the background: what differs is seen again."""
        for task in self._waiting.values():
            task.cancel()
        self._waiting.clear()

    async def _heal_later(self, key: bytes) -> None:
        try:
            await self.heal(key)
        except Exception:
            _log.exception("a heal in the background failed")
        finally:
            self._waiting.pop(key, None)

    async def heal(self, key: bytes, also: Collection[str] = ()) -> Healed:
        """Bring the newest sound copy of ``key`` to every primary that lacks it.

        Those that cannot be asked are left out, and as long as one of them may have something newer
        that was acknowledged, nothing is written: a store that has lost what it had, and says so,
        must not be given something older that it would be believed for. An old tombstone that
        nobody is owed, and that all have or lack, is removed instead. Stores ``also`` that are no
        primaries are brought up to date only if they have something: a copy that was left behind.
        In place of a file that has expired, all are brought its tombstone. Raises nothing.
        """
        async with self._turns.of(key), self._at_once:
            return await self._heal(key, also)

    async def _heal(self, key: bytes, also: Collection[str]) -> Healed:
        addresses = self.who_may_have(key, also)
        moments = self._holders.moments(key)
        before = await self._owes(key, addresses)
        answers = await self._ask(key, addresses)
        debts = _both(before, await self._owes(key, addresses))
        found = to_be_had(answers, debts or {}, self._version())
        if found is None:
            damaged = [answer.address for answer in answers if answer.is_damaged]
            return Healed(failures=unknown(answers), damaged=damaged)
        if not self._is_proven(key, answers, debts):
            return Healed(found.head, failures=unknown(answers))
        # What is owed is looked for until it is found: it must not be gone before that.
        nothing_owed = debts is not None and not debts
        if nothing_owed and is_reapable(answers, found.head, self.reap_before()):
            return await self._reap(key, answers, found.head)
        return await self._mend(Seen(key, answers, moments), found, also)

    def who_may_have(self, key: bytes, also: Collection[str] = ()) -> list[str]:
        """Return the stores where ``key`` belongs or has belonged, and those ``also``."""
        where = self._places.of(key)
        return list(dict.fromkeys([*where.primaries, *where.former, *also]))

    async def _owes(self, key: bytes, addresses: Sequence[str]) -> Debts | None:
        try:
            return await self._owed.owes(key, addresses)
        except StoreError:
            return None

    def _is_proven(self, key: bytes, answers: Sequence[Answer], debts: Debts | None) -> bool:
        """Tell whether nothing that was acknowledged is newer than the newest of ``answers``."""
        if not unknown(answers):
            return True
        if debts is None:
            return False
        where = self._places.of(key)
        verdicts = []
        for places in (where.primaries, where.former):
            theirs = [answer for answer in answers if answer.address in places]
            verdict = decide(theirs, debts, self._settings.quorums(len(places)), last=True)
            if verdict is None:
                return False
            verdicts.append(verdict)
            if verdict.record is not None and not where.reads_both:
                break
        return any(verdict.record is not None for verdict in verdicts)

    async def is_complete(self, key: bytes, also: Collection[str] = ()) -> bool:
        """Tell whether every primary is seen to have the newest of ``key`` that there is on these,
        on its former places and on the stores ``also``, and nothing newer was acknowledged. Bodies
        are not looked at, where stores can do that. Also where all have nothing. Raises nothing.
        """
        addresses = self.who_may_have(key, also)
        debts = await self._owes(key, addresses)
        seen = await asyncio.gather(
            *(self._holders.look_awake(address, key) for address in addresses)
        )
        answers = without_expired(seen, self._version())
        found = newest(answers)
        if found is None:
            return not unknown(answers)
        theirs = [answer for answer in answers if answer.address in self._primaries(key)]
        has_all = all(each.record and rank(each.record.head) == rank(found.head) for each in theirs)
        return has_all and self._is_proven(key, answers, debts)

    async def verify(self, key: bytes, also: Collection[str] = ()) -> list[Finding]:
        """Return what is wrong with the copies of ``key``, on its primaries and on the stores
        ``also`` that were seen to list it. Changes nothing.
        """
        return (await self.survey(key, also))[0]

    async def survey(
        self, key: bytes, also: Collection[str] = ()
    ) -> tuple[list[Finding], Head | None]:
        """Return what ``verify`` does, and the newest head, if any: of a file that has expired that
        is its tombstone's.
        """
        seen = await self._ask(key, self.who_may_have(key, also))
        answers = without_expired(seen, self._version())
        found = newest(answers)
        lacks = self._settings.may_lack
        faults = findings(key, answers, self._primaries(key), self.reap_before(), lacks)
        return faults, None if found is None else found.head

    def has_expired(self, head: Head) -> bool:
        """Tell whether this is a file that has expired, of which a heal makes a tombstone."""
        return has_expired(head, self._version())

    async def move(self, key: bytes, address: str) -> Moved:
        """Remove the copy of ``key`` at ``address``, which is none of its primaries, as soon as all
        of them have the same or something newer; what they lack they are brought first.

        That they have it is proven by a look at each after all was written. The copy is looked at
        again when it is removed, and stays if it is newer by then; see ``Holders`` for stores where
        something may come between those two. Raises nothing.
        """
        if address in self._places.of(key).kept_on:
            return Moved(False, "it belongs there")
        moved = await self._remove_misplaced(key, address)
        if not moved.moved:
            await self.heal(key, also=(address,))
            moved = await self._remove_misplaced(key, address)
        return moved

    async def _remove_misplaced(self, key: bytes, address: str) -> Moved:
        async with self._turns.of(key):
            *theirs, copy = await self._ask(key, [*self._primaries(key), address])
            if copy.says_no:
                return Moved(True, "it is not there any more")
            if reason := why_kept(copy, theirs):
                return Moved(False, reason)
            oldest = min((each.record.head for each in theirs if each.record), key=rank)
            if not await self._holders.remove_up_to(address, key, oldest):
                return Moved(
                    False, f"store {address}: it has something newer, or did not remove it"
                )
        self._holders.counts["moved"] += 1
        return Moved(True)

    async def _ask(self, key: bytes, addresses: Sequence[str]) -> list[Answer]:
        return await asyncio.gather(
            *(self._holders.read_awake(address, key) for address in addresses)
        )

    def reap_before(self) -> int:
        """Return the version below which tombstones are old."""
        age = self._settings.tombstone_days * MICROSECONDS_A_DAY
        return max(0, self._version() - round(age))

    async def _mend(self, seen: Seen, found: Record, also: Collection[str]) -> Healed:
        key, answers, moments = seen
        left_behind = {
            each.address for each in answers if each.address in also and not each.says_no
        }
        may_have = left_behind | self._places.of(key).kept_on
        lacks = lacking(answers, found.head, self._settings.may_lack)
        targets = [address for address in lacks if address in may_have]
        write = partial(self._holders.write, key=key, record=found, insist=True, moments=moments)
        writes = (write(each) for each in targets)
        written = await asyncio.gather(*writes)
        blocked = _blocked(answers, written)
        mended = [each.address for each in written if not (each.failure or each.address in blocked)]
        self._holders.counts["mended"] += len(mended)
        dropped = [
            await self._drop_damaged(key, address, head, found.head, also)
            for address, head in blocked.items()
        ]
        if any(dropped):
            # With another look: what has come meanwhile must not be replaced by something older.
            healed = await self._heal(key, also)
            return replace(healed, mended=[*mended, *healed.mended])
        refused = {each.address: str(each.failure) for each in written if each.failure}
        refused |= dict.fromkeys(blocked, "its copy is damaged, and newer than all that are sound")
        return Healed(found.head, mended, failures=unknown(answers) | refused)

    async def _drop_damaged(
        self, key: bytes, address: str, head: Head | None, sound: Head, also: Collection[str]
    ) -> bool:
        """Remove the damaged copy ``head`` (None: not known) at ``address``, to which ``sound`` was
        too old, if that is still the newest sound copy of all: it would stay for ever, for nothing
        older replaces it. Return whether it is gone.
        """
        answers = await self._ask(key, self.who_may_have(key, also))
        found = newest(answers)
        is_there = any(each.address == address and each.is_damaged for each in answers)
        if not is_there or unknown(answers) or found is None or rank(found.head) != rank(sound):
            return False
        is_gone = await self._holders.remove_damaged(address, key, head)
        if is_gone:
            _log.error("store %s: the newest copy of %r was damaged, and is lost", address, key)
        return is_gone

    async def _reap(self, key: bytes, answers: Sequence[Answer], head: Head) -> Healed:
        """Have all stores forget an old tombstone.

        One after the other, as long as each is seen to have it still: where a store looks and
        removes in two steps, a write of another process that comes between is lost on that one
        store, and healed.
        """
        having = [answer.address for answer in answers if answer.record is not None]
        reaped: list[str] = []
        for address in having:
            if not await self._holders.remove(address, key, head):
                return Healed(head, reaped=reaped, failures={address: "it could not be removed"})
            reaped.append(address)
        self._holders.counts["reaped"] += 1
        return Healed(head, reaped=reaped)

    async def is_elsewhere(self, key: bytes, head: Head, address: str) -> bool:
        """Tell whether all other primaries have exactly what the store at ``address`` has under
        ``key``, and nobody is owed anything newer: each has said so just now. Raises what the list
        of debts raises, and why one of them could not be asked.
        """
        primaries = self._primaries(key)
        if await self._owed.owes(key, primaries):
            return False
        others = [each for each in primaries if each != address]
        for answer in await asyncio.gather(
            *(self._holders.look_awake(each, key) for each in others)
        ):
            if isinstance(answer.failure, StoreError) and not answer.is_damaged:
                raise answer.failure
            if answer.record is None or rank(answer.record.head) != rank(head):
                return False
        return bool(others)


def _blocked(answers: Sequence[Answer], written: Sequence[Written]) -> dict[str, Head | None]:
    """Return the stores where a damaged copy is newer than what was ``written``, with its head
    where that is known.
    """
    damaged = {answer.address for answer in answers if answer.is_damaged}
    return {
        each.address: each.newer
        for each in written
        if each.address in damaged and (each.newer is not None or isinstance(each.failure, Corrupt))
    }


def _both(before: Debts | None, after: Debts | None) -> Debts | None:
    """Return the debts of two moments: one may have been noted, or paid, between them."""
    if before is None or after is None:
        return None
    return {**before, **after}
