"""Writes of one key to several stores, and what is noted of those that have not confirmed one."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from sfss.agreement import CopiesSettings, Debt, Written, not_noted, refusal
from sfss.errors import StoreError, Unreachable
from sfss.holders import Holders
from sfss.owed import Owed
from sfss.record import Head, Record, held_size

_INSIST_AFTER_S: Final = 0.2
"""Seconds that a write waits for the stores that are well before it asks those that rest."""


class Writing:
    """Writes to the stores of ``holders``; what one of them lacks after that it is ``owed``."""

    def __init__(self, holders: Holders, owed: Owed, settings: CopiesSettings) -> None:
        self._holders, self._owed, self._settings = holders, owed, settings

    async def spread(self, key: bytes, record: Record, primaries: Sequence[str]) -> list[Written]:
        """Write to all stores at once; return what has become of it when the quorum has confirmed
        and the rest had ``straggler_ms`` since, or when nothing more can come.

        Stores that rest are written to only where the quorum is not had without them. The store
        that decides is asked and waited for, whatever the others do.
        """
        holders = self._holders
        quorum = self._settings.quorums(len(primaries)).write
        needed = primaries[:1] if self._settings.first_decides else []
        tasks: dict[str, asyncio.Task[Written]] = {}

        def start(addresses: Iterable[str], insist: bool) -> None:
            for address in addresses:
                write = holders.write(address, key, record, insist or address in needed)
                tasks[address] = holders.background.start(write)

        try:
            start(primaries, insist=False)
            if not await _is_confirmed(tasks, quorum, _INSIST_AFTER_S):
                start(_not_asked(tasks), insist=True)
                await _is_confirmed(tasks, quorum, None)
            if needed:
                await asyncio.wait([tasks[address] for address in needed])
            if pending := _pending(tasks):
                await asyncio.wait(pending, timeout=self._settings.straggler_ms / 1000)
        finally:
            for task in tasks.values():
                holders.background.leave(task, held_size(record.body))
        return [_outcome(address, task) for address, task in tasks.items()]

    async def conclude(self, key: bytes, head: Head, written: Sequence[Written]) -> None:
        """Note who is owed the write; return if it is kept, raise if not."""
        quorum = self._settings.quorums(len(written)).write
        missing = [each for each in written if each.failure is not None]
        is_kept = len(written) - len(missing) >= quorum
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
                raise not_noted(written, quorum, self._owed.address, error) from error
            self._holders.counts["owed"] += len(debts)
        if not is_kept:
            raise refusal(written, quorum)


_Writes: TypeAlias = Mapping[str, asyncio.Task[Written]]


def _pending(writes: _Writes) -> list[asyncio.Task[Written]]:
    return [task for task in writes.values() if not task.done()]


def _confirmed(writes: _Writes) -> int:
    return sum(task.done() and task.result().failure is None for task in writes.values())


async def _is_confirmed(writes: _Writes, quorum: int, patience_s: float | None) -> bool:
    """Wait until ``quorum`` stores have confirmed; return False when all have ended, or the time is
    over, without that.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while _confirmed(writes) < quorum and (pending := _pending(writes)):
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    return _confirmed(writes) >= quorum


def _not_asked(writes: _Writes) -> list[str]:
    return [each for each, task in writes.items() if task.done() and not task.result().asked]


def _outcome(address: str, task: asyncio.Task[Written]) -> Written:
    if task.done():
        return task.result()
    return Written(address, failure=Unreachable(address, "it has not answered yet"))
