"""Files on their way to other stores after a change, each store seeing to those that it has itself.

``Move`` walks all keys of one store, in their order, as often as it takes until a whole walk finds
nothing to do. Of each key that the stores were changed for, tombstones, chunks and manifests like
any other, all present primaries are brought the newest. While the former places are written, too
(``Places.writes_both``), that is all: whoever knows only these must find there what he looks for.
Afterwards what does not belong on the store is removed, one file at a time, each only after a look
at all present primaries has shown that every one of them has it, whole, or something newer. A
quorum of them with a debt for the rest would do for a read, but not for the next disk that is lost:
with the copy, the one that could have mended it would be gone.

Nothing is kept but the copies themselves, so a walk may be killed anywhere, and begins again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from sfss.complaints import Complaints
from sfss.copies import Copies
from sfss.errors import StoreError
from sfss.faults import Fault
from sfss.record import Head

REPORT_EVERY_S: Final = 1.0

_LOOKS_A_MOVE: Final = 10
_KEYS_A_TURN: Final = 100
_TRIES: Final = 4
_LEADER_EVERY_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0

_log = logging.getLogger(__name__)


class OwnStore(Protocol):
    """The store that is walked; ``address`` is the one under which all gateways know it."""

    address: str

    async def heads(self, after: bytes) -> tuple[list[tuple[bytes, Head | None]], bytes | None]:
        """Return keys behind ``after``, see ``EmbeddedStore.heads``."""

    async def stats(self) -> Mapping[str, str]:
        """Return statistics, see ``Store.stats``."""


@dataclass(frozen=True, slots=True)
class MoveSettings:
    """How much of the machines a move may take: files a second, without bursts (a look at one that
    needs nothing counts a tenth); files and bytes in hand at once, one file being always allowed.
    After a walk with failures there is a pause, of ``retry_s`` at first. ``everything``: each file
    is seen to, whether its places are others than before or not.
    """

    moves_per_s: float = 100.0
    at_once: int = 2
    bytes_at_once: int = 16 * 1024 * 1024
    retry_s: float = 1.0
    everything: bool = False


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """How far a move is.

    ``keys`` were in the store when the walk began, at ``started_us`` (microseconds since 1970, 0:
    not yet), and ``seen`` of them have been looked at in it. ``moved`` files and ``bytes`` have
    been brought to other stores, or removed from this one, since the move began; ``failed`` could
    not be in this walk. ``lost`` are damaged here and on no store whole: they stay where they are.
    ``done``: a whole walk has found nothing to do.
    """

    keys: int = 0
    seen: int = 0
    moved: int = 0
    bytes: int = 0
    failed: int = 0
    lost: int = 0
    started_us: int = 0
    done: bool = False


class Placed(NamedTuple):
    """What was done for one key: ``moved``, or why it could not be; ``is_lost``: there is nothing
    to move.
    """

    moved: bool = False
    reason: str = ""
    is_lost: bool = False


async def put_in_place(copies: Copies, key: bytes, address: str) -> Placed:
    """Bring ``key``, which the store at ``address`` has, to where it belongs; remove it from there
    if it does not, unless the former places are still written. Raises nothing.
    """
    where, healing = copies.places.of(key), copies.healing
    if address not in where.primaries and not where.writes_both:
        moved = await healing.move(key, address)
        is_lost = not moved.moved and await _is_lost(copies, key, address)
        return Placed(moved.moved, "" if is_lost else moved.reason, is_lost)
    has_mended, reasons = False, ["it was written again and again"]
    for _ in range(_TRIES):
        # A look may fall into the middle of a write: then the heal finds nothing to do.
        if await healing.is_complete(key, (address,)):
            return Placed(has_mended)
        healed = await healing.heal(key, (address,))
        has_mended = has_mended or bool(healed.mended or healed.reaped)
        reasons = [f"store {each}: {reason}" for each, reason in healed.failures.items()] or reasons
    return Placed(reason="; ".join(reasons))


def has_moved(copies: Copies, key: bytes, address: str) -> bool:
    """Tell whether ``key``, which the store at ``address`` has, belongs on others than before."""
    where = copies.places.of(key)
    is_changed = bool(where.former) and set(where.former) != set(where.primaries)
    return is_changed or address not in where.primaries


async def _is_lost(copies: Copies, key: bytes, address: str) -> bool:
    """Tell whether all stores were asked, and none has anything that is whole."""
    faults, head = await copies.healing.survey(key, (address,))
    return head is None and all(each.fault is not Fault.UNKNOWN for each in faults)


class Move:
    """Moves what is in ``store``, one of those of ``copies``; ``report`` is told the progress about
    once a second, and at the end of each walk.
    """

    def __init__(
        self,
        copies: Copies,
        store: OwnStore,
        settings: MoveSettings,
        report: Callable[[MoveProgress], None],
    ) -> None:
        self._copies, self._store, self._settings = copies, store, settings
        self._address = store.address
        self._tell = report
        self._pace = _Pace(settings.moves_per_s)
        self._complaints = Complaints()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._hands: dict[asyncio.Task[None], int] = {}
        # The key up to which all are done (None: nothing is begun), and how many that are.
        self._after: bytes | None = None
        self._seen = 0
        self._found_work = False
        self.progress = MoveProgress()
        """How far it is."""

    def again(self) -> None:
        """Take nothing for done that was done before: others may have written to former places
        until now. The walk that goes on begins anew.
        """
        self.progress = replace(self.progress, done=False)
        self._changed.set()

    def stop(self) -> None:
        """Have ``run`` return as soon as the files in hand are done."""
        self._stopping.set()

    async def run(self, leader: Callable[[], bool]) -> None:
        """Walk until all is done, and again after ``again``, until ``stop``; only while
        ``leader()`` says so: one process of those that share the store is enough.

        A run after a ``stop`` goes on where that was, if the walk had left nothing behind so far;
        else from the start. May be cancelled anywhere.
        """
        self._stopping.clear()
        reports = asyncio.create_task(self._keep_reporting())
        try:
            await self._keep_walking(leader)
        finally:
            reports.cancel()
            await self._drop()
            self._report()

    async def _keep_walking(self, leader: Callable[[], bool]) -> None:
        delay_s = 0.0
        while not self._stopping.is_set():
            if not leader():
                await self._pause(_LEADER_EVERY_S)
                continue
            if self.progress.done and not self._changed.is_set():
                await self._pause(None)
                continue
            had_moved = self.progress.moved
            is_whole = await self._walk(leader)
            if self._stopping.is_set() or self._changed.is_set():
                continue
            is_clean = is_whole and not self.progress.failed
            self.progress = replace(self.progress, done=is_clean and not self._found_work)
            self._report()
            if is_clean:
                delay_s = 0.0
                continue
            has_moved = self.progress.moved > had_moved
            longer_s = self._settings.retry_s if has_moved or not delay_s else 2 * delay_s
            delay_s = min(_LONGEST_WAIT_S, longer_s)
            await self._pause(delay_s)

    async def _walk(self, leader: Callable[[], bool]) -> bool:
        """Go through the keys; return whether that was all of them."""
        if self._after is None or self._changed.is_set() or self.progress.failed:
            self._begin()
        self.progress = replace(self.progress, seen=self._seen)
        try:
            if not self._seen:
                keys = int((await self._store.stats()).get("curr_items", "0"))
                self.progress = replace(self.progress, keys=keys)
            while self._after is not None:
                page, after = await self._store.heads(self._after)
                if not await self._go_through(page, leader):
                    return False
                self._after = after
        except StoreError as error:
            self._complaints.failed(self._address, error)
        except Exception:
            _log.exception("store %s: files cannot be moved", self._address)
        else:
            self._complaints.answered(self._address)
            return True
        self._after = None
        return False

    def _begin(self) -> None:
        self._changed.clear()
        self._after, self._seen, self._found_work = b"", 0, False
        started_us = time.time_ns() // 1000
        self.progress = replace(
            self.progress, seen=0, failed=0, lost=0, started_us=started_us, done=False
        )

    async def _go_through(
        self, page: list[tuple[bytes, Head | None]], leader: Callable[[], bool]
    ) -> bool:
        """See to the keys of a page; return False if the walk is over before its end."""
        for number, (key, head) in enumerate(page):
            if self._stopping.is_set() or self._changed.is_set() or not leader():
                await self._finish(page[:number])
                return False
            self.progress = replace(self.progress, seen=self.progress.seen + 1)
            if self._settings.everything or has_moved(self._copies, key, self._address):
                await self._pace.wait(1 / _LOOKS_A_MOVE, self._stopping)
                await self._start(key, head)
            elif number % _KEYS_A_TURN == 0:
                await asyncio.sleep(0)
        await self._finish(page)
        return True

    async def _finish(self, begun: list[tuple[bytes, Head | None]]) -> None:
        """Wait for what is in hand: then all that was ``begun`` is done."""
        await self._wait_for_room(None)
        self._seen += len(begun)
        if begun:
            self._after = begun[-1][0]

    async def _start(self, key: bytes, head: Head | None) -> None:
        # A heal reads what each of the stores has; of one whose head is damaged nothing is known.
        copies = len(self._copies.places.of(key).kept_on) + 1
        cost = self._settings.bytes_at_once if head is None else head.size * copies
        await self._wait_for_room(cost)
        task = asyncio.create_task(self._place(key, head))
        self._hands[task] = cost

    async def _wait_for_room(self, cost: int | None) -> None:
        """Wait until there is room for one more file of ``cost`` bytes; None: until none is in
        hand.
        """
        while self._hands and not self._has_room(cost):
            done, _ = await asyncio.wait(self._hands, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del self._hands[task]
                task.result()

    def _has_room(self, cost: int | None) -> bool:
        if cost is None or len(self._hands) >= self._settings.at_once:
            return False
        return sum(self._hands.values()) + cost <= self._settings.bytes_at_once

    async def _place(self, key: bytes, head: Head | None) -> None:
        placed = await put_in_place(self._copies, key, self._address)
        now = self.progress
        if placed.moved:
            self._found_work = True
            size = 0 if head is None else head.size
            self.progress = replace(now, moved=now.moved + 1, bytes=now.bytes + size)
            await self._pace.wait(1 - 1 / _LOOKS_A_MOVE, self._stopping)
        elif placed.is_lost:
            self.progress = replace(now, lost=now.lost + 1)
            _log.error("store %s: %r is damaged, and no store has it whole", self._address, key)
        elif placed.reason:
            self.progress = replace(now, failed=now.failed + 1)
            _log.debug("%r stays on store %s: %s", key, self._address, placed.reason)

    async def _drop(self) -> None:
        """End what is in hand; a walk that was cut off there comes to it again."""
        for task in self._hands:
            task.cancel()
        await asyncio.gather(*self._hands, return_exceptions=True)
        self._hands.clear()

    async def _pause(self, seconds: float | None) -> None:
        """Wait, for ever if ``seconds`` is None, or until there is something else to do."""
        waits = [asyncio.create_task(each.wait()) for each in (self._stopping, self._changed)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self._report()

    def _report(self) -> None:
        with suppress(Exception):  # it is for others to look at, and must not stop the move
            self._tell(self.progress)


class _Pace:
    """No more than ``rate`` files a second; 0: as many as can be."""

    def __init__(self, rate: float) -> None:
        self._rate, self._next_s = rate, 0.0

    async def wait(self, files: float, stopping: asyncio.Event) -> None:
        """Wait until ``files`` more may be seen to, a part of one or one, or for ``stopping``."""
        if not self._rate:
            return
        now_s = asyncio.get_running_loop().time()
        begins_s = max(self._next_s, now_s)
        self._next_s = begins_s + files / self._rate
        if begins_s > now_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(begins_s - now_s):
                    await stopping.wait()
