"""What stores are owed, brought to them as soon as they are back.

A debt is struck off by the look that finds the store to have what it is owed, never by the write
that brought it: a server that stood still may only now do what it was asked long ago, and a store
that compares and writes in two steps may have let an older write come between. The next look is a
round later.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from sfss.agreement import Answer, CopiesSettings, Debt, is_paid
from sfss.errors import SfssError
from sfss.healing import Healing
from sfss.holders import Holders
from sfss.owed import Owed, place
from sfss.placement import Places

_LONGEST_WAIT_S: Final = 60.0

_log = logging.getLogger(__name__)


class Paid(NamedTuple):
    """What a round of payments did: debts ``settled``, stores ``brought`` what they were owed (and
    looked at again in the next round), debts ``left`` as they were.
    """

    settled: int = 0
    brought: int = 0
    left: int = 0


class Paying:
    """Pays what the stores of ``holders`` are ``owed``, by ``healing``, where keys belong as
    ``places`` say.
    """

    def __init__(
        self,
        holders: Holders,
        places: Places,
        owed: Owed,
        healing: Healing,
        settings: CopiesSettings,
    ) -> None:
        self._holders, self._places, self._owed = holders, places, owed
        self._healing, self._settings = healing, settings

    async def pay(self, address: str) -> Paid:
        """Go once through what the store at ``address`` is owed; stop when it does not answer.

        Raises what the list of debts raises, and nothing else.
        """
        total, after, width = Paid(), b"", self._healing.width
        # The first by itself: of a store that has failed, one request finds out how it is.
        while debts := await self._owed.of(address, after, width if after else 1):
            paid = await asyncio.gather(*(self._pay(debt) for debt in debts))
            total = Paid(*map(sum, zip(total, *paid, strict=True)))
            self._holders.counts["paid"] += sum(each.settled for each in paid)
            after = place(debts[-1])
            if self._holders.rests(address):
                break
        return total

    async def _pay(self, debt: Debt) -> Paid:
        answer = await self._holders.read_awake(debt.address, debt.key)
        if self._has(answer, debt):
            return Paid(settled=await self._owed.settle(debt))
        if answer.failure is not None and not (answer.is_damaged or answer.is_unsure):
            return Paid(left=1)
        healed = await self._healing.heal(debt.key, also=(debt.address,))
        if healed.is_settled and not is_paid(healed.newest, debt):
            # All stores were asked, and none has it any more, or ever had.
            self._say_lost(debt, 0 if healed.newest is None else healed.newest.version)
            return Paid(settled=await self._owed.settle(debt))
        is_kept_there = debt.address in self._places.of(debt.key).kept_on
        if healed.is_settled and answer.says_no and not is_kept_there:
            # A former place: it is not asked any more, for all primaries have the write.
            return Paid(settled=await self._owed.settle(debt))
        is_left = bool(healed.failures) and debt.address not in healed.mended
        return Paid(left=1) if is_left else Paid(brought=1)

    def _has(self, answer: Answer, debt: Debt) -> bool:
        """Tell whether the store needs nothing any more: it has it, or has nothing and need not."""
        if answer.record is not None:
            return is_paid(answer.record.head, debt)
        if debt.address == self._settings.may_lack:
            return answer.says_no  # nobody is misled: the others are asked
        return answer.says_no and debt.address not in self._healing.who_may_have(debt.key)

    def _say_lost(self, debt: Debt, version: int) -> None:
        # An old one was most likely a tombstone, and that has been reaped.
        if debt.acknowledged > max(version, self._healing.reap_before()):
            _log.error(
                "version %d of %r was acknowledged, and no store has it any more",
                debt.acknowledged,
                debt.key,
            )

    async def run(self, leader: Callable[[], bool]) -> None:
        """Pay all debts as stores come back, for ever; only while ``leader()`` says so: one worker
        of a gateway is enough.

        A store that takes nothing is tried again after 1, 2, 4 and so on up to 60 seconds, or when
        it has answered somebody else.
        """
        async with asyncio.TaskGroup() as payers:
            for address in self._holders.addresses:
                payers.create_task(self._keep_paying(address, leader))

    async def _keep_paying(self, address: str, leader: Callable[[], bool]) -> None:
        wait, is_behind = _Wait(), False
        while True:
            await asyncio.sleep(self._settings.pay_every_s)
            has_failed = self._holders.has_failed(address)
            if _now() < wait.until_s and (has_failed or not wait.had_failed):
                continue
            paid = Paid(left=1)
            try:
                paid = await self._pay_if_due(address, leader)
                is_behind = await self._is_behind(address, is_behind or paid.left > 0)
            except SfssError as error:
                _log.error("store %s cannot be paid: %s", address, error)
            except Exception:
                _log.exception("store %s cannot be paid", address)
            delay_s = next_delay_s(wait.delay_s, paid)
            wait = _Wait(delay_s, _now() + delay_s, self._holders.has_failed(address))

    async def _pay_if_due(self, address: str, leader: Callable[[], bool]) -> Paid:
        if not (self._holders.is_live(address) and leader() and await self._owed.count()):
            return Paid()
        return await self.pay(address)

    async def _is_behind(self, address: str, was_behind: bool) -> bool:
        """Tell whether a store that ``was_behind`` still lacks something; log that it does not.

        One that is brought at once what it has missed is not behind.
        """
        if not was_behind:
            return False
        if await self._owed.of(address, limit=1) or await self._owed.everything(address):
            return True
        _log.warning("store %s has got all that it had missed", address)
        return False


class _Wait(NamedTuple):
    """How long a store is left alone, and whether that is because it has failed."""

    delay_s: float = 0.0
    until_s: float = 0.0
    had_failed: bool = False


def next_delay_s(delay_s: float, paid: Paid) -> float:
    """Return how long to leave a store alone after a round of payments; ``delay_s`` was the last
    such time.
    """
    if not paid.left or paid.settled or paid.brought:
        return 0.0
    return min(_LONGEST_WAIT_S, max(1.0, 2 * delay_s))


def _now() -> float:
    return asyncio.get_running_loop().time()
