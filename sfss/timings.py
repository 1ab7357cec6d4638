"""How often things were done, and how long they took: a table in memory that processes share.

A table has one writer. A line of it has a name, texts that are written once, how many took no
longer than each of ``BOUNDS_S``, and microseconds of all together. Lines are never given back: what
a writer finds of one before it, it goes on with.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

BOUNDS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds up to which durations are counted together; one more count is for all that is longer."""

SHORTEST_S: Final = BOUNDS_S[0]

SUM: Final = len(BOUNDS_S) + 1
"""Where a line has its microseconds, behind its counts."""

LINES: Final = 256
"""Lines of a table; what finds no room is counted in the last one, which has no name."""

_NAME_CELLS: Final = 24
_CELL: Final = 8
_NAME_BYTES: Final = _NAME_CELLS * _CELL
_LINE: Final = _NAME_CELLS + SUM + 1
_SEPARATOR: Final = "\x1f"

CELLS: Final = 1 + LINES * _LINE
"""64-bit cells of a table."""

Name: TypeAlias = tuple[str, ...]


class Line(NamedTuple):
    """What a table says under one name: ``counts``, one for each of ``BOUNDS_S`` and one more, and
    microseconds.
    """

    name: Name
    counts: tuple[int, ...]
    sum_us: int


class Timings:
    """The table in ``cells``, for its one writer."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self._lines = {
            _read_name(cells, number): _numbers(cells, number) for number in range(cells[0])
        }

    def line(self, *name: str) -> memoryview:
        """Return the numbers of one line: counts, and at ``SUM`` microseconds."""
        found = self._lines.get(name)
        return self._begin(name) if found is None else found

    def note(self, name: Name, seconds: float) -> None:
        """Count something that took so long."""
        note_in(self.line(*name), seconds)

    def _begin(self, name: Name) -> memoryview:
        """Take a line; it is known to readers when its name is there."""
        cells, number = self._cells, self._cells[0]
        if number >= LINES - 1:
            return _numbers(cells, LINES - 1)
        text = _SEPARATOR.join(part.replace(_SEPARATOR, "?") for part in name)
        encoded = text.encode("utf-8", "backslashreplace")[:_NAME_BYTES]
        _name_bytes(cells, number)[:] = encoded.ljust(_NAME_BYTES, b"\0")
        cells[0] = number + 1
        found = self._lines[name] = _numbers(cells, number)
        return found


def note_in(numbers: memoryview, seconds: float) -> None:
    """Count in one line something that took so long."""
    numbers[bisect_left(BOUNDS_S, seconds)] += 1
    numbers[SUM] += int(seconds * 1e6)


def read(cells: memoryview) -> Iterator[Line]:
    """Yield the lines of a table that anybody may be writing; without a name the one for what found
    no room.
    """
    for number in range(cells[0]):
        yield _line(cells, number, _read_name(cells, number))
    if any(_numbers(cells, LINES - 1)[:SUM]):
        yield _line(cells, LINES - 1, ())


def _line(cells: memoryview, number: int, name: Name) -> Line:
    numbers = _numbers(cells, number)
    return Line(name, tuple(numbers[:SUM]), numbers[SUM])


def _numbers(cells: memoryview, number: int) -> memoryview:
    start = 1 + number * _LINE + _NAME_CELLS
    return cells[start : start + SUM + 1]


def _name_bytes(cells: memoryview, number: int) -> memoryview:
    start = 1 + number * _LINE
    return cells[start : start + _NAME_CELLS].cast("B")


def _read_name(cells: memoryview, number: int) -> Name:
    text = bytes(_name_bytes(cells, number)).rstrip(b"\0").decode("utf-8", "replace")
    return tuple(text.split(_SEPARATOR))
