"""Every key of all stores looked at, and made right: what the repair tools have in common.

=========  ======================================  ================================================
tool       which keys are looked at                what is done about what is wrong
=========  ======================================  ================================================
check      those of which the listings of the      nothing
           stores do not show that all is well
repair     the same                                copies are made equal, where they belong
scrub      all                                     the same; files that have expired are removed,
                                                   old tombstones forgotten, and chunks of no file
                                                   removed (``repair_chunks``)
rebalance  those that are where they do not        moved to where they belong
           belong
migrate    those of which the listings do not      copied to where they belong; nothing is removed
           show that they are where they belong
=========  ======================================  ================================================

The listings, which are old by the time that a key is its turn, only say where to look. What is done
to a key depends on what its stores have at that moment, and is safe beside running gateways.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from math import inf
from typing import Final, NamedTuple, TypeVar

from sfss.agreement import Debt
from sfss.chunks import is_part
from sfss.copies import Copies
from sfss.errors import Corrupt, NoStoreReachable, StoreError
from sfss.faults import MENDABLE, Fault, Finding
from sfss.healing import Healed
from sfss.inventory import Listed
from sfss.owed import Owed
from sfss.record import Head
from sfss.repair_notes import Notes
from sfss.stores.base import Store

AT_ONCE: Final = 32
"""Keys that stores are asked for at the same time, if the files are small."""

_READS_AT_ONCE: Final = 8
_AT_ONCE_BYTES: Final = 64 * 1024 * 1024

CONFIRM_S: Final = 0.25
"""Seconds until what may be a write that is under way is looked at again: that is no fault."""

PATIENCE_S: Final = 30.0
"""Seconds that a run waits for a store that does not answer, before it goes on without it."""

_TRIES: Final = 4
_PAYMENTS: Final = 10
_RETRY_S: Final = 0.5

Result = TypeVar("Result")


class Tool(StrEnum):
    """What is to be done."""

    CHECK = "check"
    REPAIR = "repair"
    SCRUB = "scrub"
    REBALANCE = "rebalance"
    MIGRATE = "migrate"


class Outcome(StrEnum):
    """What has become of a finding."""

    FOUND = "found"
    MENDED = "mended"
    MOVED = "moved"
    REMOVED = "removed"
    FAILED = "failed"


class Seen(NamedTuple):
    """A finding and its outcome; ``why`` it failed."""

    finding: Finding
    outcome: Outcome = Outcome.FOUND
    why: str = ""


class Treated(NamedTuple):
    """What was seen of one key, and done: bytes of bodies ``written``, tombstones ``reaped``, and
    copies of a file that has ``expired`` removed; whether it is ``scarce``, a file with too few
    copies. ``part`` is the head of what is one of the records of a large file, or the body of an
    object, where all is well with that.
    """

    seen: Sequence[Seen] = ()
    written: int = 0
    reaped: int = 0
    expired: int = 0
    scarce: bool = False
    part: Head | None = None


class Stopped(Exception):
    """Raised within a run that has been told to stop while it waited for something."""


def needs_look(
    tool: Tool,
    listed: Listed,
    primaries: Collection[str],
    blind: Collection[str] = (),
    down: Collection[str] = (),
) -> bool:
    """Tell whether ``tool`` has to look at a key, from what the stores list.

    ``blind`` are stores that can be asked, but cannot list; what those that are ``down`` do not
    list says nothing.
    """
    misplaced = not listed.stores.issubset(primaries) and tool is not Tool.MIGRATE
    if tool is Tool.SCRUB or misplaced:
        return True
    if tool is Tool.REBALANCE:
        return False
    missing = (each for each in primaries if each not in listed.stores and each not in down)
    return not listed.alike or any(missing) or any(each in blind for each in primaries)


class Patience:
    """How long a run waits for stores that do not answer, and whether it goes on at all.

    Once that time is over for a store, it is not waited for again until it has answered; it is
    over already for those that are ``down``.
    """

    def __init__(
        self,
        stopping: asyncio.Event,
        down: Collection[str] = (),
        limit_s: float = PATIENCE_S,
    ) -> None:
        self._stopping, self._limit_s = stopping, limit_s
        self._since_s = dict.fromkeys(down, -inf)

    def go_on(self) -> None:
        """Raise ``Stopped`` if the run has been told to stop."""
        if self._stopping.is_set():
            raise Stopped

    def answered(self, addresses: Iterable[str]) -> None:
        """Take note that stores have answered."""
        for address in addresses if self._since_s else ():
            self._since_s.pop(address, None)

    async def wait(self, addresses: Iterable[str]) -> bool:
        """Wait a moment for stores that did not answer; return False if that is no use any more.

        Raises ``Stopped``.
        """
        now_s = asyncio.get_running_loop().time()
        waited = [now_s - self._since_s.setdefault(each, now_s) for each in addresses]
        if min(waited, default=self._limit_s) >= self._limit_s:
            return False
        await pause(_RETRY_S, self._stopping)
        return True


def at_once(max_file_size: int) -> int:
    """Return how many keys, with files of so many bytes at most, are to be in hand at a time."""
    return max(2, min(AT_ONCE, _AT_ONCE_BYTES // max_file_size))


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Wait ``seconds``; raise ``Stopped`` if the run is told to stop by then."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
        raise Stopped


class Mender:
    """Looks at keys that have copies on several stores, and does what ``tool`` is for; with
    ``dry_run`` it only looks.
    """

    def __init__(
        self,
        copies: Copies,
        primaries: Callable[[bytes], Sequence[str]],
        tool: Tool,
        dry_run: bool,
        patience: Patience,
    ) -> None:
        self._copies, self._healing, self._primaries = copies, copies.healing, primaries
        self._tool, self._patience = tool, patience
        self._only_looks = dry_run or tool is Tool.CHECK
        self._at_once = asyncio.Semaphore(self._healing.width)

    async def treat(self, listed: Listed) -> Treated:
        """Look at a key and do what is to be done. Raises ``Stopped``."""
        also = listed.stores.difference(self._primaries(listed.key))
        if self._tool is Tool.REBALANCE and not self._only_looks:
            return await self._move(listed.key, also)
        found, newest = await self._survey(listed.key, also, begins=True)
        if self._only_looks:
            found = await self._confirmed(found, listed.key, also)
            return Treated([Seen(each) for each in found], part=_part(listed.key, newest))
        if any(each.fault is Fault.STALE for each in found):
            found = await self._confirmed(found, listed.key, also)
        if any(each.fault in MENDABLE for each in found):
            return await self._mend(found, listed.key, also)
        treated = Treated([Seen(each) for each in found], part=_part(listed.key, newest))
        if self._tool is Tool.SCRUB and not found:
            return await self._reap(listed.key, treated)
        return treated

    async def _verify(self, key: bytes, also: Collection[str]) -> list[Finding]:
        """Return what is wrong with ``key``, having waited for stores that do not answer."""
        return (await self._survey(key, also))[0]

    async def _survey(
        self, key: bytes, also: Collection[str], begins: bool = False
    ) -> tuple[list[Finding], Head | None]:
        """Return what ``_verify`` does, and the newest head."""
        while True:
            found, newest = await self._next(lambda: self._healing.survey(key, also), begins)
            if self._tool is Tool.MIGRATE:  # what it leaves behind is there on purpose
                found = [each for each in found if each.fault is not Fault.MISPLACED]
            unknown = {each.address for each in found if each.fault is Fault.UNKNOWN}
            self._patience.answered({*self._primaries(key), *also} - unknown)
            if not unknown or not await self._patience.wait(unknown):
                return found, newest

    async def _next(self, ask: Callable[[], Awaitable[Result]], begins: bool = False) -> Result:
        """Return what ``ask`` returns when it is its turn; of a run that has been told to stop, a
        key that has begun is finished, and none ``begins``.
        """
        async with self._at_once:
            if begins:
                self._patience.go_on()
            return await ask()

    async def _confirmed(
        self, found: Sequence[Finding], key: bytes, also: Collection[str]
    ) -> list[Finding]:
        """Return those of ``found`` that this tool is for and that are the same a moment later."""
        if self._tool is Tool.REBALANCE:
            return [each for each in found if each.fault in (Fault.MISPLACED, Fault.UNKNOWN)]
        if not found:
            return []
        await asyncio.sleep(CONFIRM_S)
        before = {_what(each) for each in found}
        return [each for each in await self._verify(key, also) if _what(each) in before]

    async def _mend(self, found: list[Finding], key: bytes, also: Collection[str]) -> Treated:
        """Heal ``key`` until a look finds that it is well.

        That last look is not only to be sure: over stores that compare and write in two steps, a
        heal may have come between the two steps of a gateway.
        """
        left, written = found, 0
        why: dict[str, str] = {}
        for _ in range(_TRIES):
            healed = await self._next(lambda: self._healing.heal(key, also))
            written += _bytes_written(healed)
            why = dict.fromkeys(healed.damaged, "no sound copy is left")
            why.update(healed.failures)
            left = await self._verify(key, also)
            is_hopeless = not healed.mended and not healed.failures
            if is_hopeless or not any(each.fault in MENDABLE for each in left):
                break
        else:
            left = await self._confirmed(left, key, also)
        return Treated(_compared(found, left, why), written)

    async def _reap(self, key: bytes, treated: Treated) -> Treated:
        """Have all stores forget ``key`` if it is a tombstone that is old enough, or a file that
        has expired, of which a tombstone stays for now.
        """
        try:
            record = await self._next(lambda: self._copies.get(key))
        except (Corrupt, NoStoreReachable):
            return treated  # the next scrub finds it
        if record is not None and not self._healing.has_expired(record.head):
            return treated
        healed = await self._next(lambda: self._healing.heal(key))
        expired = 0 if record is None else len(healed.mended)
        return treated._replace(reaped=len(healed.reaped), expired=expired)

    async def _move(self, key: bytes, also: Collection[str]) -> Treated:
        """Move the copies of ``key`` from the stores ``also`` to where it belongs."""
        healed = await self._next(lambda: self._healing.heal(key, also), begins=True)
        moved = [await self._move_from(key, address) for address in sorted(also)]
        return Treated([seen for each in moved for seen in each], _bytes_written(healed))

    async def _move_from(self, key: bytes, address: str) -> list[Seen]:
        """Move one copy; return nothing if it was not there."""
        finding, why = Finding(address, key, Fault.MISPLACED, _MISPLACED), ""
        for _ in range(_TRIES):
            moved = await self._next(lambda: self._healing.move(key, address))
            if moved.moved:
                return [Seen(finding, Outcome.MOVED)]
            why = moved.reason
            found = await self._verify(key, (address,))
            if not any(each.address == address for each in found):
                return []
            if unknown := [each for each in found if each.fault is Fault.UNKNOWN]:
                return [Seen(finding, Outcome.FAILED, why), *map(Seen, unknown)]
        return [Seen(finding, Outcome.FAILED, why)]


_MISPLACED: Final = "it does not belong on this store"


def _what(finding: Finding) -> tuple[str, ...]:
    """Return what two looks have to agree on. Of a copy that lacks something that is the versions,
    too: a file that gets one version after the other is on its way to its stores all the time.
    """
    lacks = finding.fault in (Fault.MISSING, Fault.STALE)
    return finding.address, finding.fault, finding.reason if lacks else ""


def _bytes_written(healed: Healed) -> int:
    return len(healed.mended) * (healed.newest.size if healed.newest else 0)


def _compared(
    before: Sequence[Finding], after: Sequence[Finding], why: dict[str, str]
) -> list[Seen]:
    """Return what has become of the findings of ``before``, with those that have come since."""
    left = {each.address: each for each in after}
    seen: list[Seen] = []
    for each in before:
        remains = left.pop(each.address, None)
        if remains is None:
            seen.append(Seen(each, Outcome.MENDED))
        elif remains.fault is Fault.MISPLACED:
            seen.append(Seen(remains))
        else:
            reason = why.get(each.address, "it was not the same when looked at again")
            seen.append(Seen(remains, Outcome.FAILED, reason))
    return [
        *seen,
        *(Seen(each, Outcome.FAILED, why.get(each.address, "")) for each in left.values()),
    ]


class Counted:
    """Has ``mender`` treat keys, and tells which files have fewer than ``wanted`` sound copies
    then.
    """

    def __init__(
        self,
        mender: Mender,
        copies: Copies,
        primaries: Callable[[bytes], Sequence[str]],
        wanted: int,
    ) -> None:
        self._mender, self._copies = mender, copies
        self._primaries, self._wanted = primaries, wanted

    async def treat(self, listed: Listed) -> Treated:
        """Look at a key, and do what is to be done. Raises ``Stopped``."""
        treated = await self._mender.treat(listed)
        left = {
            seen.finding.address
            for seen in treated.seen
            if seen.outcome in (Outcome.FOUND, Outcome.FAILED)
        }
        sound = set(self._primaries(listed.key)) - left
        is_scarce = len(sound) < self._wanted and await self._is_file(listed.key)
        return treated._replace(scarce=is_scarce)

    async def _is_file(self, key: bytes) -> bool:
        """Tell whether there is a file, or may be: a deletion needs no copies."""
        try:
            return await self._copies.head(key) is not None
        except StoreError:
            return True


def _part(key: bytes, head: Head | None) -> Head | None:
    return head if head is not None and is_part(key, head) else None


class Reader:
    """Reads the keys of a single store, which has nothing to be compared with or mended from."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store, self._patience = store, patience
        self._at_once = asyncio.Semaphore(_READS_AT_ONCE)

    async def treat(self, listed: Listed) -> Treated:
        """Look at a key. Raises ``Stopped``."""
        address, key = self._store.address, listed.key
        while True:
            try:
                async with self._at_once:
                    self._patience.go_on()
                    record = await self._store.get(key)
            except Corrupt as error:
                return Treated([Seen(Finding(address, key, Fault.DAMAGED, str(error)))])
            except StoreError as error:
                if not await self._patience.wait((address,)):
                    return Treated([Seen(Finding(address, key, Fault.UNKNOWN, str(error)))])
                continue
            self._patience.answered((address,))
            return Treated(part=None if record is None else _part(key, record.head))


async def owed_everything(owed: Owed, addresses: Iterable[str]) -> list[Debt]:
    """Return the debts of everything; to be asked before stores are listed. Raises what ``owed``
    does.
    """
    debts = [await owed.everything(address) for address in addresses]
    return [debt for debt in debts if debt is not None]


async def settle_everything(owed: Owed, notes: Notes) -> list[str]:
    """Strike off the debts of everything in ``notes``, but those of stores that still lack
    something; return whose. For a run that has gone through everything, over complete listings.
    """
    return [
        debt.address
        for debt in notes.debts
        if debt.address not in notes.unsettled and await owed.settle(debt)
    ]


async def pay(copies: Copies, addresses: Iterable[str]) -> None:
    """Bring stores what they are owed, as far as they take it. Raises what the list of debts
    does.
    """
    for address in addresses:
        for _ in range(_PAYMENTS):
            paid = await copies.paying.pay(address)
            if not paid.settled and not paid.brought:
                break
