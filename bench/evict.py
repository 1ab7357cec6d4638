"""How often is a file here that is asked for, when there is not room for all?

    python3 bench/evict.py [--full]

100,000 files of 1 KiB, asked for 500,000 times (with ``--full`` 3,000,000): the k-th most popular
with a probability proportional to 1 / k ** skew (Zipf), drawn with a fixed seed. The part of the
requests that hit, for caches of several sizes: SIEVE as the service does it (its code, over a list
in memory in the place of LMDB: it lets go of 2 % at a time, and two files may share a mark), beside
an exact LRU and a FIFO, which let go of one at a time. Every miss is kept. "With scans": after each
50,000 requests somebody goes once through 10,000 files that nobody else ever asks for; the hits are
those of the others.
"""

import asyncio
import random
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import command
from files import KIB
from harness import Figure, Group, Plan, say

from sfss.evicting import Evictor
from sfss.record import Head
from sfss.sieve import Arrival
from sfss.stores.lmdb_arrivals import Usage
from sfss.stores.visited import Visited, places_for

_FILES = 100_000
_REQUESTS = {False: 500_000, True: 3_000_000}
_SIZES = (0.01, 0.05, 0.1, 0.25)
_SCAN_EVERY, _SCANNED = 50_000, 10_000
_HEAD = Head(1, KIB, b"")


class Cache(Protocol):
    """A cache that is asked for one file after the other."""

    async def ask(self, key: bytes) -> bool:
        """Return whether it is there; it is from now on."""


class Ordered:
    """The first to go is the one that came first, or was asked for longest ago."""

    def __init__(self, files: int, is_lru: bool) -> None:
        self._files, self._is_lru = files, is_lru
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    async def ask(self, key: bytes) -> bool:
        """See ``Cache``."""
        if key in self._keys:
            if self._is_lru:
                self._keys.move_to_end(key)
            return True
        if len(self._keys) == self._files:
            self._keys.popitem(last=False)
        self._keys[key] = None
        return False


class InMemory:
    """The part of a store that an ``Evictor`` asks, in memory."""

    address = "memory"

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self._arrivals: list[tuple[int, bytes]] = []
        self._last = 0

    def put(self, key: bytes) -> None:
        """Keep a file."""
        self._last += 1
        self.numbers[key] = self._last
        self._arrivals.append((self._last, key))

    async def prepare(self) -> bool:
        """Return that there is nothing to be done."""
        return False

    async def index(self) -> bool:
        """Return that there is nothing to be done."""
        return False

    async def usage(self) -> Usage:
        """Return what there is."""
        return Usage(len(self.numbers) * KIB, len(self.numbers))

    async def arrivals(self, behind: int, limit: int) -> Sequence[Arrival]:
        """Return the files that came after a number."""
        if len(self._arrivals) > 2 * len(self.numbers) + limit:
            self._arrivals = [each for each in self._arrivals if self._is_there(*each)]
        found: list[Arrival] = []
        for place in range(bisect_right(self._arrivals, (behind, b"\xff")), len(self._arrivals)):
            number, key = self._arrivals[place]
            if self._is_there(number, key):
                found.append(Arrival(number, key, KIB))
                if len(found) == limit:
                    break
        return found

    def _is_there(self, number: int, key: bytes) -> bool:
        return self.numbers.get(key) == number

    async def head(self, key: bytes) -> Head | None:
        """Return a head: all are alike."""
        return _HEAD if key in self.numbers else None

    async def evict(self, key: bytes, head: Head | None) -> bool:
        """Forget a file."""
        return self.numbers.pop(key, None) is not None


class Sieve:
    """What the service does."""

    def __init__(self, files: int, folder: Path) -> None:
        self._store, self._capacity = InMemory(), files * KIB
        self._marks = Visited(folder / f"marks-{files}", places_for(self._capacity))
        self._evictor = Evictor(self._store, self._marks, self._capacity, _may_evict)

    async def ask(self, key: bytes) -> bool:
        """See ``Cache``."""
        if key in self._store.numbers:
            self._marks.mark(key)
            return True
        self._store.put(key)
        if len(self._store.numbers) * KIB > self._capacity:
            await self._evictor.make_room()
        return False


async def _may_evict(key: bytes, head: Head) -> bool:
    return True


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group for each trace."""
    requests = _REQUESTS[plan.full]
    for skew in (0.8, 1.0):
        for has_scans in (False, True):
            scans = ", with scans" if has_scans else ""
            title = f"Hits of {requests:,} requests, Zipf {skew}{scans}"
            say(f"  {title}")
            trace = list(_trace(requests, skew, has_scans))
            with plan.room() as folder:
                yield Group(title, figures=list(_figures(trace, folder)))


def _trace(requests: int, skew: float, has_scans: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield keys, and whether they count: those of scans do not."""
    draw = random.Random(20261125)
    weights = list(accumulate(1 / rank**skew for rank in range(1, _FILES + 1)))
    # Popularity says nothing of the order of names.
    names = [b"%d" % number for number in range(_FILES)]
    draw.shuffle(names)
    for start in range(0, requests, _SCAN_EVERY):
        if has_scans and start:
            yield from ((b"scanned %d %d" % (start, number), False) for number in range(_SCANNED))
        for key in draw.choices(names, cum_weights=weights, k=min(_SCAN_EVERY, requests - start)):
            yield key, True


def _figures(trace: Sequence[tuple[bytes, bool]], folder: Path) -> Iterator[Figure]:
    for part in _SIZES:
        files = int(_FILES * part)
        for name, cache in _caches(files, folder).items():
            hits = asyncio.run(_hits(cache, trace))
            yield Figure(f"room for {part:.0%} of the files: {name}", "% hits", [100 * hits])


def _caches(files: int, folder: Path) -> dict[str, Cache]:
    return {
        "SIEVE": Sieve(files, folder),
        "LRU": Ordered(files, is_lru=True),
        "FIFO": Ordered(files, is_lru=False),
    }


async def _hits(cache: Cache, trace: Sequence[tuple[bytes, bool]]) -> float:
    hits = asked = 0
    for key, counts in trace:
        is_hit = await cache.ask(key)
        asked += counts
        hits += counts and is_hit
    return hits / asked


if __name__ == "__main__":
    sys.exit(command.main({"evict": question}))
