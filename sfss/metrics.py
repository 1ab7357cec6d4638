"""Counters that all workers of a gateway share: one table in memory, a row for each worker.

The table is anonymous shared memory, made by the parent before it forks. A worker writes only its
own row and any worker may read all of them, so nothing is locked and nothing is sent. A worker that
takes over the row of a dead one goes on counting from there: totals never fall.
"""

import mmap
from typing import Final, Protocol

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
)
"""What happens to copies: writes noted as owed, and paid; copies healed, and found damaged; old
tombstones forgotten, misplaced copies moved; heals given up because too many were waiting; races
for the fastest store that none has won in time.
"""

_STATUS_COLUMN: Final = len(_GAUGES) + len(_TOTALS)
_EVENT_COLUMN: Final = _STATUS_COLUMN + len(_STATUSES)
_COLUMNS: Final = _EVENT_COLUMN + len(EVENTS)
_CELL: Final = 8


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


class Counters:
    """One worker's row; unlike plain attributes, its cells are seen by all workers."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self.events = Events(cells[_EVENT_COLUMN:])

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


class Board:
    """The whole table, and one cell beside it."""

    def __init__(self, rows: int = ROWS) -> None:
        cells = memoryview(mmap.mmap(-1, (rows * _COLUMNS + 1) * _CELL)).cast("Q")
        self._rows = [cells[row * _COLUMNS : (row + 1) * _COLUMNS] for row in range(rows)]
        self._store = cells[-1:]

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
