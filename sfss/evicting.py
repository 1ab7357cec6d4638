"""Files removed from a local store that has a capacity, of those that another store has as well.

Which go, ``sieve`` says. None goes without proof, asked for at that moment: that whoever has the
durable copy has exactly this version. Where that cannot be told, because it is down, nothing goes,
and where it says no the file stays; then the store grows beyond its capacity.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from sfss.complaints import Complaints
from sfss.errors import Corrupt, StoreError, Unreachable
from sfss.record import Head
from sfss.sieve import Arrival, Picked, pick
from sfss.stores.lmdb_arrivals import Usage

LOOK_EVERY_S: Final = 0.25

LOW_WATER: Final = 0.98
"""The part of its capacity that a store has when room was made: work is done in batches."""

_AHEAD: Final = 256
_EVICTED_AT_ONCE: Final = 32
_INDEXED_IN_A_ROW: Final = 64
_REFUSED_IN_A_ROW: Final = 2000  # then the hand rests: each may cost a request to a bucket
_ROUNDS_IN_VAIN: Final = 3  # the rest of one; one that finds each file marked; one that finds none
_LONGEST_WAIT_S: Final = 10.0

_log = logging.getLogger(__name__)

MayEvict: TypeAlias = Callable[[bytes, Head], Awaitable[bool]]
"""Tells whether another store has exactly the record with this head under this key, durably, now.
Raises ``StoreError`` where it cannot be told.
"""


class Marks(Protocol):
    """Which files were read since the hand passed them, and where it is; see ``Visited``."""

    hand: int

    def has(self, key: bytes) -> bool:
        """Tell whether ``key`` is marked."""

    def clear(self, key: bytes) -> None:
        """Remove the mark of ``key``."""


class Evicting(Protocol):
    """A store that files can be evicted from; see ``EvictingStore``."""

    address: str

    async def prepare(self) -> bool:
        """Return whether ``index`` has anything to do."""

    async def index(self) -> bool:
        """Note some of what is there; return whether there may be more."""

    async def usage(self) -> Usage:
        """Return what there is."""

    async def arrivals(self, behind: int, limit: int) -> Sequence[Arrival]:
        """Return the files that came after a number."""

    async def head(self, key: bytes) -> Head | None:
        """Return the head of what is under ``key``."""

    async def evict(self, key: bytes, head: Head | None) -> bool:
        """Forget what is under ``key`` if it is that still."""


class _Step(NamedTuple):
    """How many of the files that the hand has passed are gone, and were refused; whether it has
    come to the newest.
    """

    evicted: int
    refused: int
    is_end: bool


class Evictor:
    """Keeps ``store`` at ``capacity_bytes``, as far as ``may_evict`` lets files go."""

    def __init__(
        self,
        store: Evicting,
        marks: Marks,
        capacity_bytes: int,
        may_evict: MayEvict,
        refused_in_a_row: int = _REFUSED_IN_A_ROW,
    ) -> None:
        self._store, self._marks, self._may_evict = store, marks, may_evict
        self._capacity_bytes, self._refused_in_a_row = capacity_bytes, refused_in_a_row
        self._complaints = Complaints()
        self._is_over = False

    async def run(self, leader: Callable[[], bool]) -> None:
        """Note what is there, and make room again and again, for ever; only while ``leader()`` says
        so: one of the processes that share the store is enough.
        """
        delay_s, is_ready = LOOK_EVERY_S, False
        while True:
            is_well = False
            try:
                if not is_ready:
                    await self._store.prepare()
                    is_ready = True
                is_well = not leader() or await self._keep_room()
            except StoreError as error:
                self._complaints.failed(self._store.address, error)
            except OSError as error:  # its folder is gone
                reason = Unreachable(self._store.address, str(error), applied=False)
                self._complaints.failed(self._store.address, reason)
            except Exception:
                _log.exception("store %s: no room can be made", self._store.address)
            delay_s = LOOK_EVERY_S if is_well else min(_LONGEST_WAIT_S, 2 * delay_s)
            await asyncio.sleep(delay_s)

    async def _keep_room(self) -> bool:
        """Return whether the store is within its capacity."""
        # Room first: on a full disk nothing can be noted.
        is_within = await self.make_room() <= self._capacity_bytes
        for _ in range(_INDEXED_IN_A_ROW):
            if not await self._store.index():
                return is_within
        return True  # soon again

    async def make_room(self) -> int:
        """Evict files until the store has ``LOW_WATER`` of its capacity, if it has more than that
        whole; return how many bytes it has then.

        Raises ``StoreError``, of the store or of whoever was asked for proof.
        """
        usage = await self._store.usage()
        if usage.size <= self._capacity_bytes:
            self._say(is_over=False)
            return usage.size
        low, ends, refused = int(self._capacity_bytes * LOW_WATER), 0, 0
        while usage.size > low and ends < _ROUNDS_IN_VAIN and refused < self._refused_in_a_row:
            step = await self._step(usage.size - low)
            ends = 0 if step.evicted else ends + step.is_end
            refused = 0 if step.evicted else refused + step.refused
            usage = await self._store.usage()
        self._say(is_over=usage.size > self._capacity_bytes)
        return usage.size

    async def _step(self, wanted: int) -> "_Step":
        """Move the hand on."""
        ahead = await self._store.arrivals(self._marks.hand, _AHEAD + 1)
        is_end, marked = len(ahead) <= _AHEAD, self._marks.has
        picked = pick(ahead[:_AHEAD], marked, wanted, _EVICTED_AT_ONCE, is_end)
        evicted = await self._evict(picked)
        for arrival in picked.spared:
            self._marks.clear(arrival.key)
        self._marks.hand = picked.hand
        return _Step(evicted, len(picked.chosen) - evicted, is_end=picked.hand == 0)

    async def _evict(self, picked: Picked) -> int:
        """Evict those of the chosen that may go; return how many. When one cannot be told, the hand
        is left where it was.
        """
        gone = await asyncio.gather(
            *(self._evict_one(each.key) for each in picked.chosen), return_exceptions=True
        )
        for outcome in gone:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(bool(each) for each in gone)

    async def _evict_one(self, key: bytes) -> bool:
        try:
            head = await self._store.head(key)
        except Corrupt:
            return False  # a scrub finds it, and mends it
        if head is not None and not await self._may_evict(key, head):
            return False
        return await self._store.evict(key, head)

    def _say(self, is_over: bool) -> None:
        if is_over and not self._is_over:
            _log.warning(
                "store %s is beyond its capacity of %d bytes: no other store has what would have to"
                " be removed",
                self._store.address,
                self._capacity_bytes,
            )
        self._is_over = is_over
