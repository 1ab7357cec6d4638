"""Copies made equal again: after a read saw a difference, to pay a debt, or because a tool asks.

``heal`` is the one operation behind all three. It only ever replaces older by newer, so it may run
at any time, beside writes and other heals, and be cut off anywhere.

A debt is struck off by the look that finds the store to have what it is owed, never by the write
that brought it: a server that stood still may only now do what it was asked long ago, and a store
that compares and writes in two steps may have let an older write come between. The next look is a
round later.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sfss.agreement import (
    MICROSECONDS_A_DAY,
    Answer,
    CopiesSettings,
    Debt,
    Debts,
    Finding,
    decide,
    findings,
    is_reapable,
    lacking,
    newest,
    rank,
    unknown,
)
from sfss.errors import SfssError, StoreError
from sfss.holders import Holders, Turns, resting
from sfss.owed import Owed, place
from sfss.record import Head, Record

HEALS_WAITING: Final = 1000
"""Keys that wait to be healed in the background; a scrub finds what is dropped beyond that."""

_HEALS_AT_ONCE: Final = 4
_LONGEST_WAIT_S: Final = 60.0

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


class Paid(NamedTuple):
    """What a round of payments did: debts ``settled``, stores ``brought`` what they were owed (and
    looked at again in the next round), debts ``left`` as they were.
    """

    settled: int = 0
    brought: int = 0
    left: int = 0


class Healing:
    """Heals keys of the stores of ``holders``, pays what is ``owed``; ``version`` is the clock."""

    def __init__(
        self,
        holders: Holders,
        primaries: Callable[[bytes], Sequence[str]],
        owed: Owed,
        version: Callable[[], int],
        settings: CopiesSettings,
    ) -> None:
        self._holders, self._primaries, self._owed = holders, primaries, owed
        self._version, self._settings = version, settings
        self._waiting: set[bytes] = set()
        self._turns = Turns()
        self._at_once = asyncio.Semaphore(_HEALS_AT_ONCE)
        self._waits: dict[str, _Wait] = {}

    def later(self, key: bytes) -> None:
        """Heal ``key`` in the background, unless it waits for that already or too many do."""
        if key in self._waiting:
            return
        if len(self._waiting) >= HEALS_WAITING:
            self._holders.counts["heals_dropped"] += 1
            return
        self._waiting.add(key)
        self._holders.background.start(self._heal_later(key))

    async def _heal_later(self, key: bytes) -> None:
        try:
            await self.heal(key)
        except Exception:
            _log.exception("a heal in the background failed")
        finally:
            self._waiting.discard(key)

    async def heal(self, key: bytes, also: Collection[str] = ()) -> Healed:
        """Bring the newest sound copy of ``key`` to every primary that lacks it.

        Those that cannot be asked are left out, and as long as one of them may have something newer
        that was acknowledged, nothing is written: a store that has lost what it had, and says so,
        must not be given something older that it would be believed for. An old tombstone that all
        primaries have, or lack, is removed instead. Stores ``also`` that are no primaries are
        brought up to date only if they have something: a copy that was left behind. Raises nothing.
        """
        async with self._turns.of(key), self._at_once:
            primaries = self._primaries(key)
            before = await self._owes(key, primaries)
            answers = await self._ask(key, [*primaries, *(set(also) - set(primaries))])
            debts = _both(before, await self._owes(key, primaries))
            found = newest(answers)
            if found is None:
                damaged = [answer.address for answer in answers if answer.is_damaged]
                return Healed(failures=unknown(answers), damaged=damaged)
            if not self._is_proven(primaries, answers, debts):
                return Healed(found.head, failures=unknown(answers))
            if is_reapable(answers, found.head, self._reap_before()):
                return await self._reap(key, answers, found.head)
            return await self._mend(key, answers, found)

    async def _owes(self, key: bytes, primaries: Sequence[str]) -> Debts | None:
        try:
            return await self._owed.owes(key, primaries)
        except StoreError:
            return None

    def _is_proven(
        self, primaries: Sequence[str], answers: Sequence[Answer], debts: Debts | None
    ) -> bool:
        """Tell whether nothing that was acknowledged is newer than the newest of ``answers``."""
        if not unknown(answers):
            return True
        if debts is None:
            return False
        quorums = self._settings.quorums(len(primaries))
        theirs = [answer for answer in answers if answer.address in primaries]
        verdict = decide(theirs, debts, quorums, last=True)
        return verdict is not None and verdict.record is not None

    async def verify(self, key: bytes, also: Collection[str] = ()) -> list[Finding]:
        """Return what is wrong with the copies of ``key``, on its primaries and on the stores
        ``also`` that were seen to list it. Changes nothing.
        """
        primaries = self._primaries(key)
        answers = await self._ask(key, [*primaries, *(set(also) - set(primaries))])
        return findings(key, answers, primaries, self._reap_before())

    async def _ask(self, key: bytes, addresses: Sequence[str]) -> list[Answer]:
        return await asyncio.gather(*(self._look(address, key) for address in addresses))

    async def _look(self, address: str, key: bytes) -> Answer:
        if self._holders.rests(address):
            return Answer(address, failure=resting(address))
        return await self._holders.read(address, key)

    def _reap_before(self) -> int:
        age = self._settings.tombstone_days * MICROSECONDS_A_DAY
        return max(0, self._version() - round(age))

    async def _mend(self, key: bytes, answers: Sequence[Answer], found: Record) -> Healed:
        having = {answer.address for answer in answers if not answer.says_no}
        may_have = having.union(self._primaries(key))
        targets = [address for address in lacking(answers, found.head) if address in may_have]
        writes = (self._holders.write(each, key, found, insist=True) for each in targets)
        written = await asyncio.gather(*writes)
        for each in written:
            damaged = any(
                each.address == answer.address and answer.is_damaged for answer in answers
            )
            if damaged and each.newer is not None:
                await self._drop_damaged(key, each.address, each.newer)
        mended = [each.address for each in written if each.failure is None]
        self._holders.counts["mended"] += len(mended)
        refused = {each.address: str(each.failure) for each in written if each.failure}
        return Healed(found.head, mended, failures=unknown(answers) | refused)

    async def _drop_damaged(self, key: bytes, address: str, head: Head) -> None:
        """Remove the damaged copy ``head`` at ``address`` if it is newer than every sound one: it
        would stay for ever, for nothing older replaces it. The next heal brings what there is.
        """
        answers = await self._ask(key, self._primaries(key))
        found = newest(answers)
        is_there = any(each.address == address and each.is_damaged for each in answers)
        if not is_there or unknown(answers) or (found and rank(found.head) >= rank(head)):
            return
        if await self._holders.remove(address, key, head):
            _log.error("version %d of %r is damaged and lost", head.version, key)

    async def _reap(self, key: bytes, answers: Sequence[Answer], head: Head) -> Healed:
        """Have all stores forget an old tombstone.

        One after the other, as long as each still has it: where a store compares and removes in two
        steps, a write that comes between is lost on one of them, and healed.
        """
        having = [answer.address for answer in answers if answer.record is not None]
        reaped: list[str] = []
        for address in having:
            if not await self._holders.remove(address, key, head):
                return Healed(head, reaped=reaped, failures={address: "it could not be removed"})
            reaped.append(address)
        self._holders.counts["reaped"] += 1
        return Healed(head, reaped=reaped)

    async def pay(self, address: str) -> Paid:
        """Go once through what the store at ``address`` is owed; stop when it does not answer.

        Raises what the list of debts raises.
        """
        total, after = Paid(), b""
        # The first by itself: of a store that has failed, one request finds out how it is.
        while debts := await self._owed.of(address, after, _HEALS_AT_ONCE if after else 1):
            paid = await asyncio.gather(*(self._pay(debt) for debt in debts))
            total = Paid(*map(sum, zip(total, *paid, strict=True)))
            after = place(debts[-1])
            if self._holders.rests(address):
                break
        self._holders.counts["paid"] += total.settled
        return total

    async def _pay(self, debt: Debt) -> Paid:
        answer = await self._look(debt.address, debt.key)
        if self._has(answer, debt):
            return Paid(settled=await self._owed.settle(debt))
        if answer.failure is not None and not answer.is_damaged:
            return Paid(left=1)
        healed = await self.heal(debt.key, also=(debt.address,))
        version = 0 if healed.newest is None else healed.newest.version
        if healed.is_settled and version < debt.version:
            # All stores were asked, and none has it any more, or ever had.
            self._say_lost(debt, version)
            return Paid(settled=await self._owed.settle(debt))
        return Paid(left=1) if healed.failures else Paid(brought=1)

    def _has(self, answer: Answer, debt: Debt) -> bool:
        """Tell whether the store needs nothing any more: it has it, or has nothing and need not."""
        if answer.record is not None:
            return answer.record.head.version >= debt.version
        return answer.says_no and debt.address not in self._primaries(debt.key)

    def _say_lost(self, debt: Debt, version: int) -> None:
        # An old one was most likely a tombstone, and that has been reaped.
        if debt.acknowledged > max(version, self._reap_before()):
            _log.error(
                "version %d of %r was acknowledged, and no store has it any more",
                debt.acknowledged,
                debt.key,
            )

    async def run(self, leader: Callable[[], bool]) -> None:
        """Pay all debts as stores come back, for ever; only while ``leader()`` says so: one worker
        of a gateway is enough.

        A store that takes nothing is tried again after 1, 2, 4 and so on up to 60 seconds.
        """
        while True:
            await asyncio.sleep(self._settings.pay_every_s)
            try:
                if leader() and await self._owed.count():
                    await self._pay_all()
            except SfssError as error:
                _log.error("debts cannot be paid: %s", error)
            except Exception:
                _log.exception("debts cannot be paid")

    async def _pay_all(self) -> None:
        for address in self._holders.addresses:
            wait = self._waits.get(address, _Wait())
            if wait.until_s <= asyncio.get_running_loop().time():
                delay_s = next_delay_s(wait.delay_s, await self.pay(address))
                until_s = asyncio.get_running_loop().time() + delay_s
                self._waits[address] = _Wait(delay_s, until_s)


class _Wait(NamedTuple):
    delay_s: float = 0.0
    until_s: float = 0.0


def next_delay_s(delay_s: float, paid: Paid) -> float:
    """Return how long to leave a store alone after a round of payments; ``delay_s`` was the last
    such time.
    """
    if not paid.left or paid.settled or paid.brought:
        return 0.0
    return min(_LONGEST_WAIT_S, max(1.0, 2 * delay_s))


def _failures(answers: Sequence[Answer]) -> dict[str, str]:
    return {answer.address: str(answer.failure) for answer in answers if answer.failure is not None}


def _both(before: Debts | None, after: Debts | None) -> Debts | None:
    """Return the debts of two moments: one may have been noted, or paid, between them."""
    if before is None or after is None:
        return None
    return {**before, **after}
