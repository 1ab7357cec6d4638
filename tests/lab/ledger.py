"""What processes that were killed had said of their writes, and what may be read because of that.

A process tells what it begins, and what was answered, one event a line: of a killed one, the last
line may be missing, and nothing else. Bodies are named, not kept: a path and a turn make one.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.probe.expectations import shown

FOREVER: Final = 0
SECOND_US: Final = 1_000_000


class Event(NamedTuple):
    """A line of what a process says. ``what``: "begin put", "begin create", "begin delete", "done";
    ``turn`` and ``size`` name a body, ``ttl_s`` is 0 for one that stays; ``answer``: "kept",
    "deleted", "absent", "taken", or what went wrong.
    """

    what: str
    path: str
    at_us: int
    turn: int = 0
    size: int = 0
    ttl_s: int = 0
    answer: str = ""

    def line(self) -> bytes:
        """Return the event as it is written."""
        return json.dumps(self).encode() + b"\n"


class Version(NamedTuple):
    """What may be at a path: ``turn`` 0 is nothing. It is there before ``stays_until_us``, and is
    not after ``goes_until_us``; 0: it stays.
    """

    turn: int = 0
    size: int = 0
    stays_until_us: int = FOREVER
    goes_until_us: int = FOREVER


NOTHING: Final = Version()


def body_of(path: str, turn: int, size: int) -> bytes:
    """Return the body of a turn, which no other has."""
    return random.Random(f"{path} {turn}").randbytes(size)


@dataclass(slots=True)
class Path:
    """One path: what may be there, what was begun and not answered, and whether somebody was told
    that it ``is_taken``.
    """

    may_be: list[Version] = field(default_factory=lambda: [NOTHING])
    begun: list[Event] = field(default_factory=list)
    is_taken: bool = False


@dataclass
class Ledger:
    """What may be read, by path; ``wrong`` are answers that cannot be right."""

    paths: dict[str, Path] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    acknowledged: int = 0
    in_doubt: int = 0

    def read(self, lines: Iterable[bytes], until_us: int) -> None:
        """Take note of all that was said by processes that have ended at ``until_us``, in the order
        of the times at which it was.
        """
        events = [Event(*json.loads(line)) for line in lines]
        for event in sorted(events, key=lambda event: event.at_us):
            self._note(event)
        for path in self.paths.values():
            self.in_doubt += len(path.begun)
            for event in path.begun:
                if event.what != "begin create" or NOTHING in path.may_be:
                    path.may_be.append(_version(event, until_us))
            if path.is_taken and NOTHING in path.may_be:
                path.may_be.remove(NOTHING)
            path.begun.clear()

    def _note(self, event: Event) -> None:
        path = self.paths.setdefault(event.path, Path())
        if event.what != "done":
            path.begun.append(event)
            return
        begun = next(each for each in path.begun if each.turn == event.turn)
        path.begun.remove(begun)
        self.acknowledged += 1
        if event.answer in ("kept", "deleted"):
            if event.answer == "deleted" and path.may_be == [NOTHING]:
                self.wrong.append(f"{event.path}: deleted, where there was nothing")
            if begun.what == "begin create" and NOTHING not in path.may_be:
                self.wrong.append(f"{event.path}: created twice")
            path.may_be = [_version(begun, event.at_us)]
        elif event.answer == "absent":
            if not any(_may_be_absent(version, event.at_us) for version in path.may_be):
                self.wrong.append(f"{event.path}: nothing was there to be deleted")
            path.may_be = [NOTHING]
        elif event.answer == "taken":
            path.is_taken = True
        else:
            self.wrong.append(f"{event.path}: {begun.what}: {event.answer}")
            path.may_be.append(_version(begun, event.at_us))

    def look(self, name: str, found: bytes | None, before_us: int, after_us: int) -> None:
        """Hold what was read between two times against what may be there; from now on, nothing
        else may.
        """
        path = self.paths[name]
        for version in path.may_be:
            if _is(name, version, found, before_us, after_us):
                path.may_be = [version]
                return
        self.wrong.append(f"{name}: {shown(found)} was read, not one of {path.may_be}")

    def settle(self, wrong: list[str], found: dict[str, list[list[int]]]) -> None:
        """Take over what another process has found by ``look``."""
        self.wrong = wrong
        for name, versions in found.items():
            self.paths[name].may_be = [Version(*version) for version in versions]


def _version(begun: Event, answered_us: int) -> Version:
    if begun.what == "begin delete":
        return NOTHING
    if not begun.ttl_s:
        return Version(begun.turn, begun.size)
    life_us = begun.ttl_s * SECOND_US
    return Version(begun.turn, begun.size, begun.at_us + life_us, answered_us + life_us)


def _may_be_absent(version: Version, at_us: int) -> bool:
    return version.turn == 0 or 0 < version.stays_until_us <= at_us


def _is(name: str, version: Version, found: bytes | None, before_us: int, after_us: int) -> bool:
    if found is None:
        return _may_be_absent(version, after_us)
    if version.turn == 0 or len(found) != version.size:
        return False
    if version.goes_until_us and before_us > version.goes_until_us:
        return False
    return found == body_of(name, version.turn, version.size)
