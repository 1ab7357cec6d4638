"""Counters that all workers of a gateway share: one table in memory, a row for each worker.

The table is anonymous shared memory, made by the parent before it forks. A worker writes only its
own row and any worker may read all of them, so nothing is locked and nothing is sent. A worker that
takes over the row of a dead one goes on counting from there: totals never fall.
"""

import mmap
import os
from collections.abc import Callable
from operator import add
from typing import Final, Protocol, TypeAlias

from sfss import timings
from sfss.timings import SHORTEST_S, SUM, Line, Name, Timings, note_in

ROWS: Final = 512
"""Workers that can be counted apart; a reload runs twice the configured number for a while."""

_GAUGES: Final = ("pid", "connections")
_TOTALS: Final = ("received_bytes", "sent_bytes")
_STATUSES: Final = range(100, 600)
EVENTS: Final = (
    "owed",
    "paid",
    "mended",
    "damaged",
    "reaped",
    "moved",
    "heals_dropped",
    "head_timeouts",
    "expired",
    "cache_hits",
    "cache_misses",
)
"""What happens to copies: writes noted as owed, and paid; copies healed, and found damaged; old
tombstones forgotten, misplaced copies moved; heals given up because too many were waiting; races
for the fastest store that none has won in time; files removed for they have expired; what a store
that may lack files had, when it was read, and what had to come from elsewhere.
"""

_STATUS_COLUMN: Final = len(_GAUGES) + len(_TOTALS)
_EVENT_COLUMN: Final = _STATUS_COLUMN + len(_STATUSES)
_OK_COLUMN: Final = _STATUS_COLUMN + 200 - _STATUSES.start
_TIMINGS_COLUMN: Final = _EVENT_COLUMN + len(EVENTS)
_COLUMNS: Final = _TIMINGS_COLUMN + timings.CELLS
_CELL: Final = 8

RATES: Final = 1 << 17

REQUEST: Final = "request"
STORE: Final = "store"
LOOP: Final = "loop"
ERROR: Final = "error"
"""How names of timings begin. Behind it: face, method, status; operation, outcome, store; nothing;
the kind of an error, which takes no time.
"""

NoteStore: TypeAlias = Callable[[str, str, bool, float], None]
"""Called with what was asked of a store, its address, whether it failed, and seconds."""


class Counts(Protocol):
    """Numbers by name, 0 at first; a ``Counter`` is one."""

    def __getitem__(self, name: str, /) -> int: ...

    def __setitem__(self, name: str, value: int, /) -> None: ...


class Events:
    """How often each of ``EVENTS`` has happened, in the cells of one worker."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def __getitem__(self, name: str) -> int:
        return int(self._cells[EVENTS.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._cells[EVENTS.index(name)] = value


class _Short(dict[str, memoryview]):
    """By face, the line of a GET that is answered 200: a look into a dict finds it."""

    def __init__(self, timings: Timings) -> None:
        super().__init__()
        self._timings = timings

    def __missing__(self, face: str) -> memoryview:
        line = self[face] = self._timings.line(REQUEST, face, "GET", "200")
        return line


class Counters:
    """One worker's row; unlike plain attributes, its cells are seen by all workers."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self.events = Events(cells[_EVENT_COLUMN:_TIMINGS_COLUMN])
        self._timings = Timings(cells[_TIMINGS_COLUMN:])
        self._short = _Short(self._timings)
        self._took: dict[tuple[str, str, int], memoryview] = {}
        self.note_store_also: NoteStore | None = None
        """Told of each store that was asked, if anybody is to be."""

    def start(self, pid: int) -> None:
        """Take the row over for the process ``pid``."""
        self._cells[0], self._cells[1] = pid, 0

    def connected(self, change: int) -> None:
        """Count connections opened (1) or closed (-1)."""
        self._cells[1] += change

    def request(self, status: int, received: int, sent: int) -> None:
        """Count one answered request and the bytes of its two bodies."""
        cells = self._cells
        cells[2] += received
        cells[3] += sent
        cells[_STATUS_COLUMN + status - _STATUSES.start] += 1

    def took(self, face: str, method: str, status: int, seconds: float) -> None:
        """Note what was answered, and how long that took; ``request`` counts it as well."""
        line = self._took.get((face, method, status))
        if line is None:
            line = self._timings.line(REQUEST, face, method, str(status))
            self._took[face, method, status] = line
        note_in(line, seconds)

    # These two are for the hot path: each cell costs as much as all else in them.

    def remembered(self, face: str, sent: int) -> None:
        """Count a GET that was answered 200 from memory, in no time that would be worth a look at
        a clock.
        """
        cells = self._cells
        cells[3] += sent
        cells[_OK_COLUMN] += 1
        self._short[face][0] += 1

    def short(self, face: str, sent: int, seconds: float) -> None:
        """Count a GET that was answered 200 by the short way."""
        cells = self._cells
        cells[3] += sent
        cells[_OK_COLUMN] += 1
        line = self._short[face]
        if seconds > SHORTEST_S:
            note_in(line, seconds)
        else:
            line[0] += 1
            line[SUM] += int(seconds * 1e6)

    def note_store(self, operation: str, address: str, has_failed: bool, seconds: float) -> None:
        """Note that a store was asked; see ``NoteStore``."""
        outcome = "error" if has_failed else "ok"
        self._timings.note((STORE, operation, outcome, address), seconds)
        if self.note_store_also is not None:
            self.note_store_also(operation, address, has_failed, seconds)

    def failed(self, kind: str) -> None:
        """Count a request that was answered with an error of this kind, from a short list."""
        self._timings.line(ERROR, kind)[0] += 1

    def lagged(self, seconds: float) -> None:
        """Note by how much the event loop was late."""
        self._timings.note((LOOP,), seconds)


class Board:
    """The whole table, and one cell beside it."""

    def __init__(self, rows: int = ROWS) -> None:
        cells = memoryview(mmap.mmap(-1, (rows * _COLUMNS + 1) * _CELL)).cast("Q")
        self._rows = [cells[row * _COLUMNS : (row + 1) * _COLUMNS] for row in range(rows)]
        self._store = cells[-1:]
        self.rates = memoryview(mmap.mmap(-1, RATES * _CELL)).cast("d")
        """Cells for how often clients ask, see ``rates``."""
        self.master = os.getpid()
        """The process that forks the workers. Not in the table: they have it by the fork."""

    @property
    def store(self) -> int:
        """A number for the store that some worker has opened last, 0 at first."""
        return self._store[0]

    @store.setter
    def store(self, number: int) -> None:
        self._store[0] = number

    def row(self, index: int) -> Counters:
        """Return the row of one worker."""
        return Counters(self._rows[index])

    def _used(self) -> list[memoryview]:
        return [row for row in self._rows if row[0]]

    def pids(self) -> list[int]:
        """Return the process ids in the table; some of them may have died."""
        return [row[0] for row in self._used()]

    def totals(self) -> dict[str, int]:
        """Return ``connections`` (open now), ``received_bytes`` and ``sent_bytes`` (ever)."""
        used = self._used()
        names = (*_GAUGES, *_TOTALS)
        return {name: sum(row[names.index(name)] for row in used) for name in names[1:]}

    def events(self) -> dict[str, int]:
        """Return how often each of ``EVENTS`` has happened that ever has."""
        used = self._used()
        counts = {
            name: sum(row[_EVENT_COLUMN + offset] for row in used)
            for offset, name in enumerate(EVENTS)
        }
        return {name: count for name, count in counts.items() if count}

    def statuses(self) -> dict[str, int]:
        """Return how many requests were answered with each HTTP status that was ever given."""
        used = self._used()
        counts = {
            str(status): sum(row[_STATUS_COLUMN + offset] for row in used)
            for offset, status in enumerate(_STATUSES)
        }
        return {status: count for status, count in counts.items() if count}

    def errors(self) -> dict[str, int]:
        """Return how many requests were answered with an error of each kind."""
        lines = self.timings().items()
        return {name[1]: sum(line.counts) for name, line in lines if name[:1] == (ERROR,)}

    def timings(self) -> dict[Name, Line]:
        """Return, by name, what all workers have noted."""
        found: dict[Name, Line] = {}
        for row in self._used():
            for line in timings.read(row[_TIMINGS_COLUMN:]):
                known = found.get(line.name)
                found[line.name] = line if known is None else _together(known, line)
        return found


def _together(one: Line, other: Line) -> Line:
    counts = tuple(map(add, one.counts, other.counts))
    return Line(one.name, counts, one.sum_us + other.sum_us)
