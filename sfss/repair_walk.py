"""The way of a repair tool through all keys: many in hand at once, accounted for in their order.

A key is accounted for when all before it are. So one key, the last, says how far the run is.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final

from sfss.faults import Fault, Finding
from sfss.inventory import Inventory, Listed
from sfss.repair import Outcome, Stopped, Treated, pause
from sfss.repair_notes import Notes

FOREIGN_SHOWN: Final = 100
"""Keys that are no paths of ours which are written down; all are counted."""

_WINDOW: Final = 256
_PAGE: Final = 1000


class Pace:
    """No more than ``rate`` keys a second; 0: as many as can be."""

    def __init__(self, rate: float, stopping: asyncio.Event) -> None:
        self._rate, self._stopping = rate, stopping
        self._next_s = 0.0

    async def wait(self) -> None:
        """Wait until the next key may begin. Raises ``Stopped``."""
        if not self._rate:
            return
        now_s = asyncio.get_running_loop().time()
        self._next_s = max(self._next_s, now_s)
        if self._next_s > now_s:
            await pause(self._next_s - now_s, self._stopping)
        self._next_s += 1 / self._rate


@dataclass
class _Step:
    """A key in hand, and the keys behind it that need no look: up to ``last``. ``path`` None: it is
    not ours.
    """

    listed: Listed
    path: str | None
    task: asyncio.Future[Treated]
    last: bytes
    keys: int = 1


@dataclass
class Walk:
    """All keys of an inventory, in their order, from where the notes say that the last run ended.

    ``path_of`` returns the path of a key, None of one that is not ours: it is counted and left
    alone. ``progress`` is called often, with the number of keys that are done and of all.
    """

    inventory: Inventory
    notes: Notes
    path_of: Callable[[bytes], str | None]
    needs_look: Callable[[Listed], bool]
    treat: Callable[[Listed], Awaitable[Treated]]
    pace: Pace
    stopping: asyncio.Event
    progress: Callable[[int, int, Counter[str]], None]
    _steps: deque[_Step] = field(default_factory=deque, init=False)

    async def run(self) -> bool:
        """Go through all keys; return False if the run was told to stop before.

        Then the keys in hand are finished, and the notes say where to go on. When this is
        cancelled, or fails, those in hand are for the next run.
        """
        try:
            with suppress(Stopped):
                await self._go()
            while self._steps:
                await self._finish_oldest()
        except Stopped:
            pass
        finally:
            await self._drop()
            self.notes.save()
        return not self.stopping.is_set()

    async def _go(self) -> None:
        async with aclosing(self._keys()) as keys:
            async for listed in keys:
                path = self.path_of(listed.key)
                if path is not None and not self.needs_look(listed):
                    self._pass(listed.key)
                    continue
                if path is not None:
                    await self.pace.wait()
                self._begin(listed, path)
                while len(self._steps) >= _WINDOW or (self._steps and self._steps[0].task.done()):
                    await self._finish_oldest()

    async def _keys(self) -> AsyncGenerator[Listed, None]:
        after = self.notes.after
        while page := await self.inventory.page(after, _PAGE):
            for listed in page:
                if self.stopping.is_set():
                    return
                yield listed
            after = page[-1].key
            # A long way without a key to look at must not keep the progress waiting.
            self._show()

    def _begin(self, listed: Listed, path: str | None) -> None:
        task = asyncio.ensure_future(_nothing() if path is None else self._treat(listed))
        self._steps.append(_Step(listed, path, task, listed.key))

    async def _treat(self, listed: Listed) -> Treated:
        return await self.treat(listed)

    def _pass(self, key: bytes) -> None:
        if self._steps:
            self._steps[-1].last = key
            self._steps[-1].keys += 1
        else:
            self._advance(key, 1)

    def _advance(self, key: bytes, keys: int) -> None:
        self.notes.after = key
        self.notes.counts["keys"] += keys
        self.notes.save_sometimes()

    async def _finish_oldest(self) -> None:
        step = self._steps[0]
        treated = await step.task
        self._steps.popleft()
        if step.path is None:
            self._count_foreign(step.listed)
        else:
            self._count(step.path, treated)
        self._advance(step.last, step.keys)
        self._show()

    def _show(self) -> None:
        counts = self.notes.counts
        self.progress(counts["keys"], self.inventory.facts.total, counts)

    def _count_foreign(self, listed: Listed) -> None:
        counts = self.notes.counts
        counts["foreign"] += 1
        if counts["foreign"] <= FOREIGN_SHOWN:
            path = listed.key.decode("ascii", "backslashreplace")
            stores = ", ".join(sorted(listed.stores))
            self.notes.add(_row(path, stores, "foreign", "no file of sfss has this key"))

    def _count(self, path: str, treated: Treated) -> None:
        counts = self.notes.counts
        counts.update(looked_at=1, written_bytes=treated.written)
        counts.update(reaped=treated.reaped, expired=treated.expired)
        counts["scarce"] += treated.scarce
        for finding, outcome, why in treated.seen:
            counts.update(("findings", finding.fault.value, f"outcome {outcome.value}"))
            reason = f"{finding.reason}; {why}" if why else finding.reason
            self.notes.add(_row(path, finding.address, finding.fault.value, reason, outcome))
            if outcome in (Outcome.FOUND, Outcome.FAILED):
                self._remember(finding)

    def _remember(self, finding: Finding) -> None:
        """Note which stores still lack something. What is damaged is believed by nobody anyway."""
        if finding.fault is Fault.UNKNOWN:
            self.notes.unsettled.update(self.inventory.facts.addresses)
        elif finding.fault in (Fault.MISSING, Fault.STALE):
            self.notes.unsettled.add(finding.address)

    async def _drop(self) -> None:
        """Wait for the keys that are in hand behind one that was not finished."""
        if not self.stopping.is_set():
            for step in self._steps:
                step.task.cancel()
        await asyncio.gather(*(step.task for step in self._steps), return_exceptions=True)
        self._steps.clear()


async def _nothing() -> Treated:
    return Treated()


def _row(
    path: str, store: str, fault: str, reason: str, outcome: str = Outcome.FOUND.value
) -> dict[str, str]:
    return {"path": path, "store": store, "fault": fault, "reason": reason, "outcome": outcome}
