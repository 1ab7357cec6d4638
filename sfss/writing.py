"""Writes of one key to several stores, and what is noted of those that have not confirmed one."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from sfss.agreement import CopiesSettings, Debt, Written, failures, not_noted, refusal
from sfss.errors import QuorumFailed, SfssError, StoreError, Unreachable
from sfss.holders import NO_MOMENTS, Holders, Moments
from sfss.owed import Owed
from sfss.record import Head, Record, held_size

Groups: TypeAlias = Sequence[Sequence[str]]
"""Stores, each group of which has to keep a write."""

_INSIST_AFTER_S: Final = 0.2
"""Seconds that a write waits for the stores that are well before it asks those that rest."""


class Writing:
    """Writes to the stores of ``holders``; what one of them lacks after that it is ``owed``."""

    def __init__(self, holders: Holders, owed: Owed, settings: CopiesSettings) -> None:
        self._holders, self._owed, self._settings = holders, owed, settings

    async def spread(
        self, key: bytes, record: Record, groups: Groups, moments: Moments = NO_MOMENTS
    ) -> list[Written]:
        """Write to all stores of ``groups`` at once; return what has become of it when a quorum of
        each group has confirmed and the rest had ``straggler_ms`` since, or when nothing more can
        come.

        Stores that rest are written to only where the quorum is not had without them. The store
        that decides is asked and waited for, whatever the others do. ``moments`` are from before.
        """
        if self._settings.around:
            return await self._spread_around(key, record, groups[0])
        holders = self._holders
        everywhere = dict.fromkeys(address for group in groups for address in group)
        addresses = [address for address in everywhere if address not in holders.gone]
        needed = addresses[:1] if self._settings.first_decides else []
        tasks: dict[str, asyncio.Task[Written]] = {}

        def start(addresses: Iterable[str], insist: bool) -> None:
            for address in addresses:
                insists = insist or address in needed
                write = holders.write(address, key, record, insists, moments)
                tasks[address] = holders.background.start(write)

        try:
            start(addresses, insist=False)
            if not await self._is_confirmed(tasks, groups, _INSIST_AFTER_S):
                start(_not_asked(tasks), insist=True)
                await self._is_confirmed(tasks, groups, None)
            if needed:
                await asyncio.wait([tasks[address] for address in needed])
            if pending := _pending(tasks):
                await asyncio.wait(pending, timeout=self._settings.straggler_ms / 1000)
        finally:
            for task in tasks.values():
                holders.background.leave(task, held_size(record.body))
        return [_outcome(address, task) for address, task in tasks.items()]

    async def _spread_around(
        self, key: bytes, record: Record, primaries: Sequence[str]
    ) -> list[Written]:
        """Write to all stores but the first, and then have that one forget what it has: what has
        been read of the others before is not kept there any more.
        """
        first, others = primaries[0], primaries[1:]
        start = self._holders.background.start
        writes = [start(self._holders.write(each, key, record, insist=True)) for each in others]
        try:
            await asyncio.wait(writes)
        finally:
            for write in writes:
                self._holders.background.leave(write, held_size(record.body))
        written = [write.result() for write in writes]
        failure = next((each.failure for each in written if each.failure), None)
        if failure is not None or any(each.newer is not None for each in written):
            return [Written(first, failure=failure, asked=False), *written]
        forgotten = await self._holders.forget(first, key, record.head)
        return [forgotten._replace(asked=False), *written]

    async def conclude(
        self, key: bytes, head: Head, written: Sequence[Written], groups: Groups
    ) -> None:
        """Note who is owed the write; return if each of ``groups`` keeps it, raise if not."""
        missing = [each for each in written if each.failure is not None]
        lacking = self._lacking({each.address for each in written if each.failure is None}, groups)
        is_kept = lacking is None
        if self._settings.around:
            is_kept = all(each.failure is None for each in written[1:])
        if self._settings.first_decides:
            is_kept = is_kept and written[0].failure is None
        if missing and (len(missing) < len(written) or any(each.maybe for each in missing)):
            acknowledged = head.version if is_kept else 0
            debt = Debt("", key, head.version, acknowledged, head.digest, head.expiry)
            debts = [debt._replace(address=each.address) for each in missing]
            try:
                await self._owed.add(debts)
            except StoreError as error:
                # Others would believe a store that lacks the write: better to say that it failed.
                group, quorum = self._of_group(written, lacking or groups[0])
                raise not_noted(group, quorum, self._owed.address, error) from error
            self._holders.counts["owed"] += len(debts)
        if not is_kept:
            raise self._refusal(written, lacking or groups[0])

    def _refusal(self, written: Sequence[Written], group: Sequence[str]) -> SfssError:
        """Return the error for a write that ``group`` has not kept; others may have."""
        theirs, quorum = self._of_group(written, group)
        others = [each for each in written if each.address not in group]
        if any(each.failure is None or each.maybe for each in others):
            got = sum(each.failure is None for each in theirs)
            return QuorumFailed(quorum, got, failures(theirs), indeterminate=True)
        return refusal(theirs, quorum)

    def _lacking(self, confirmed: Collection[str], groups: Groups) -> Sequence[str] | None:
        """Return the first of ``groups`` that has not got its quorum; None: all have."""
        for group in groups:
            if sum(address in confirmed for address in group) < self._quorum(group):
                return group
        return None

    def _quorum(self, group: Sequence[str]) -> int:
        """Return how many of ``group`` must keep a write: no more than are left of it."""
        left = sum(address not in self._holders.gone for address in group)
        return min(self._settings.quorums(len(group)).write, left)

    def _of_group(
        self, written: Sequence[Written], group: Sequence[str]
    ) -> tuple[list[Written], int]:
        """Return what became of a write at the stores of ``group``, and how many must keep it."""
        theirs = [each for each in written if each.address in group]
        return theirs, self._quorum(group)

    async def _is_confirmed(
        self, writes: "_Writes", groups: Groups, patience_s: float | None
    ) -> bool:
        """Wait until each group has its quorum; return False when all have ended, or the time is
        over, without that.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._lacking(_confirmed(writes), groups) and (pending := _pending(writes)):
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        return self._lacking(_confirmed(writes), groups) is None


_Writes: TypeAlias = Mapping[str, asyncio.Task[Written]]


def _pending(writes: _Writes) -> list[asyncio.Task[Written]]:
    return [task for task in writes.values() if not task.done()]


def _confirmed(writes: _Writes) -> set[str]:
    return {
        address for address, task in writes.items() if task.done() and task.result().failure is None
    }


def _not_asked(writes: _Writes) -> list[str]:
    return [each for each, task in writes.items() if task.done() and not task.result().asked]


def _outcome(address: str, task: asyncio.Task[Written]) -> Written:
    if task.done():
        return task.result()
    return Written(address, failure=Unreachable(address, "it has not answered yet"))
