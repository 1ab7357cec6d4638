"""What a synchronisation compares and decides, apart from all input and output.

Both sides come in byte order of their paths, so two of any size are compared in no more memory
than it takes to hold one file of each.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from sfss.client_errors import ClientError
from sfss.client_text import File


class OutOfOrder(ClientError):
    """Raised when a side is not in byte order: what seems not to be there may still come."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of one side: its path relative to where that begins, its size, its second of change
    if that is known, and what a gateway says of it. With a ``problem`` nobody can tell what it is;
    ``is_damaged``: nor will anybody, as the gateway says.
    """

    path: str
    size: int = 0
    modified_s: int | None = None
    file: File | None = None
    problem: str = ""
    is_damaged: bool = False

    @property
    def key(self) -> bytes:
        """What sides are ordered by."""
        return self.path.encode("utf-8", "surrogateescape")


class Pair(NamedTuple):
    """The same path on both sides; None where there is none."""

    source: Entry | None
    target: Entry | None


async def paired(
    source: AsyncIterator[Entry], target: AsyncIterator[Entry]
) -> AsyncGenerator[Pair, None]:
    """Yield all paths of both sides, in order. Raises ``OutOfOrder``, and whatever they raise."""
    left, right = await _next(source, None), await _next(target, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.key < right.key):
            yield Pair(left, None)
            left = await _next(source, left)
        elif left is None or right.key < left.key:
            yield Pair(None, right)
            right = await _next(target, right)
        else:
            yield Pair(left, right)
            left, right = await _next(source, left), await _next(target, right)


async def _next(side: AsyncIterator[Entry], former: Entry | None) -> Entry | None:
    entry = await anext(side, None)
    if entry is not None and former is not None and entry.key <= former.key:
        raise OutOfOrder(f"a listing is not in order: {entry.path!r} comes after {former.path!r}")
    return entry


class Step(Enum):
    """What is to be done with a path."""

    COPY = auto()
    COMPARE = auto()  # of the same size: only the digests tell
    KEEP = auto()
    DELETE = auto()
    FAIL = auto()


def step_for(pair: Pair, by_size_only: bool) -> Step:
    """Return what is to be done with what one or both sides have."""
    source, target = pair
    if source is not None and source.problem:
        return Step.FAIL
    if target is not None and target.problem:
        return Step.COPY if source is not None and target.is_damaged else Step.FAIL
    if source is None:
        return Step.DELETE
    if target is None or source.size != target.size:
        return Step.COPY
    if by_size_only:
        return Step.KEEP
    of_source, of_target = _digest(source), _digest(target)
    if of_source is not None and of_target is not None:
        return Step.KEEP if of_source == of_target else Step.COPY
    if source.file is not None and of_source is None:
        return _by_time(source, target)
    if target.file is not None and of_target is None:
        return _by_time(source, target)
    return Step.COMPARE


def _digest(entry: Entry) -> str | None:
    return None if entry.file is None else entry.file.digest


def _by_time(source: Entry, target: Entry) -> Step:
    """What another program has written into a store has no digest; a copy of it has its time."""
    is_same = source.modified_s is not None and source.modified_s == target.modified_s
    return Step.KEEP if is_same else Step.COPY
