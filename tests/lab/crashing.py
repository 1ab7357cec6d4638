"""What remains of an embedded store when those that write to it are killed, again and again.

    python -m tests.lab.crashing FOLDER --kills 1000

Some processes fill one store through the product's own code (``Cluster`` over ``Large`` over
``EvictingStore``): small files and large ones in chunks, files that expire and are swept, deletes,
creations that only one may win. They say on a pipe what they begin and what was acknowledged.
SIGKILL ends them: while they open the store, while they write, or one alone while the others have
to go on. Then another process opens what is there, reads everything, and looks through the file.

The last line printed is a report in JSON; the exit status is 1 if anything was wrong.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from sfss.cluster import Cluster
from sfss.errors import SettingError
from sfss.keys import KeyScheme
from sfss.large import Large, LargeSettings
from sfss.record import Content, Head
from sfss.routed import Owner, Routed
from sfss.stores.evicting_store import EvictingStore
from sfss.streams import stream
from tests.lab.ledger import Event, Ledger, body_of
from tests.lab.store_check import complaints

WORKERS: Final = 3
LANES: Final = 6
PATHS_EACH: Final = 6
SHARED_EACH_ROUND: Final = 10
ROUNDS_EACH_STORE: Final = 25
LARGE_ABOVE: Final = 48 * 1024
_SIZES: Final = (0, 10, 500, 4000, 4100, 20_000, 47_000)
_LARGE_SIZES: Final = (50_000, 600_000, 1_200_000)
_MAP_SIZE: Final = 1 << 20
_GO_ON: Final = 20
_PATIENCE_S: Final = 60.0


class Taken(Exception):
    """Raised by a guard: there is something already."""


def _unless_there(found: Head | None) -> None:
    if found is not None:
        raise Taken


def now_us() -> int:
    """Return microseconds since 1970."""
    return time.time_ns() // 1000


async def open_cluster(folder: Path, make: bool, notes_arrivals: bool) -> Cluster:
    """Return a cluster over the store in ``folder``, as a worker opens it, with a map that soon is
    too small.
    """
    store = EvictingStore(folder, make=make, initial_map_size=_MAP_SIZE)
    if notes_arrivals:
        store.limit(1 << 40)
        while await store.prepare() and await store.index():
            pass
    alone = Routed([store], Owner({store.address: store}, lambda _: store.address))
    settings = LargeSettings(1 << 30, LARGE_ABOVE, b"\0", kept_s=0.02)
    cluster = Cluster(Large(alone, settings), KeyScheme("plain"), 1 << 30)
    cluster.own = store
    return cluster


class Writer:
    """One of the processes that write: ``LANES`` things at a time, until it is killed."""

    def __init__(self, cluster: Cluster, pipe: int, seed: str, number: int, turns: int) -> None:
        self._cluster, self._pipe, self._number = cluster, pipe, number
        self._random = random.Random(f"{seed} {number}")
        self._turn = turns

    async def run(self, turn: int) -> None:
        """Write for ever."""
        lanes = [self._lane(lane) for lane in range(LANES)]
        await asyncio.gather(*lanes, self._create(turn), self._sweep())

    async def _lane(self, lane: int) -> None:
        paths = [f"w{self._number}/l{lane}/{number}" for number in range(PATHS_EACH)]
        while True:
            path, what = self._random.choice(paths), self._random.random()
            if what < 0.25:
                await self._delete(path)
            else:
                await self._put(path, self._random.choice((0, 0, 0, 1, 1000)))

    async def _create(self, turn: int) -> None:
        for number in range(SHARED_EACH_ROUND):
            begun = self._begin("begin create", f"shared/{turn}/{number}", self._size())
            await self._answer(begun, self._keep(begun, _unless_there))

    async def _sweep(self) -> None:
        assert self._cluster.own is not None
        while True:
            await self._cluster.own.sweep(now_us(), 256)
            await asyncio.sleep(0.005)

    async def _put(self, path: str, ttl_s: int) -> None:
        begun = self._begin("begin put", path, self._size(), ttl_s)
        await self._answer(begun, self._keep(begun, None))

    async def _keep(self, begun: Event, guard: Callable[[Head | None], None] | None) -> str:
        body = body_of(begun.path, begun.turn, begun.size)
        content = Content(body, ttl_s=begun.ttl_s or None)
        try:
            await self._cluster.put(begun.path, content, guard)
        except Taken:
            return "taken"
        return "kept"

    async def _delete(self, path: str) -> None:
        async def remove() -> str:
            return "deleted" if await self._cluster.delete(path) else "absent"

        await self._answer(self._begin("begin delete", path, 0), remove())

    def _size(self) -> int:
        return self._random.choice(_LARGE_SIZES if self._random.random() < 0.06 else _SIZES)

    def _begin(self, what: str, path: str, size: int, ttl_s: int = 0) -> Event:
        self._turn += 1
        event = Event(what, path, now_us(), self._turn, size, ttl_s)
        os.write(self._pipe, event.line())
        return event

    async def _answer(self, begun: Event, work: Awaitable[str]) -> None:
        try:
            answer = await work
        except Exception as error:
            answer = repr(error)
        done = Event("done", begun.path, now_us(), begun.turn, answer=answer)
        os.write(self._pipe, done.line())


async def look_at(ledger: Ledger, folder: Path, make: bool, notes_arrivals: bool) -> None:
    """Read every path there ever was, and look through the file."""
    cluster = await open_cluster(folder, make, notes_arrivals)
    for path in ledger.paths:
        before_us = now_us()
        record = await cluster.get(path)
        found = None
        if record is not None:
            found = b"".join([bytes(piece) async for piece in stream(record.body)])
        ledger.look(path, found, before_us, now_us())
    await cluster.close()
    ledger.wrong += complaints(folder)


def in_child(work: Callable[[], None]) -> int:
    """Return the id of a process that does ``work`` and ends."""
    child = os.fork()
    if child:
        return child
    status = 1
    with suppress(BaseException):
        try:
            work()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"{os.getpid()}: {error!r}\n")
            raise
    os._exit(status)


@dataclass
class Crashes:
    """All rounds, in ``folder``; ``report`` is about them."""

    folder: Path
    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    report: Counter[str] = field(default_factory=Counter)
    _store: Path = Path()
    _notes_arrivals: bool = False

    def run(self, kills: int) -> None:
        """Have ``kills`` processes killed."""
        turn = 0
        while self.report["kills"] < kills and not self.ledger.wrong:
            if turn % ROUNDS_EACH_STORE == 0:
                self._begin_store(turn)
            self._round(turn)
            turn += 1
        self.report["rounds"] = turn

    def _begin_store(self, turn: int) -> None:
        self._store = self.folder / str(turn)
        self._notes_arrivals = turn // ROUNDS_EACH_STORE % 2 == 1
        self.ledger.paths.clear()
        self.report["stores"] += 1

    def _round(self, turn: int) -> None:
        choose = random.Random(f"{self.seed} {turn}")
        read_end, write_end = os.pipe()
        writers = [
            in_child(lambda number=number: self._write(write_end, turn, number))  # type: ignore[misc]
            for number in range(WORKERS)
        ]
        os.close(write_end)
        heard = Heard(read_end)
        _KINDS[choose.choices(list(_KINDS), (2, 5, 3))[0]](self, writers, heard, choose)
        killed = sum(os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) < 0 for each in writers)
        heard.rest()
        os.close(read_end)
        self.report["kills"] += killed
        if killed < WORKERS:
            self.ledger.wrong.append("a writer ended by itself")
        self.ledger.read(heard.lines(), now_us())
        self._look(turn)

    def _write(self, pipe: int, turn: int, number: int) -> None:
        async def run() -> None:
            cluster = await open_cluster(self._store, True, self._notes_arrivals)
            turns = (turn * WORKERS + number) * 1_000_000
            await Writer(cluster, pipe, f"{self.seed} {turn}", number, turns).run(turn)

        uvloop.run(run())

    def _look(self, turn: int) -> None:
        read_end, write_end = os.pipe()
        make = not any(path.may_be[0].turn for path in self.ledger.paths.values())

        def work() -> None:
            uvloop.run(look_at(self.ledger, self._store, make, self._notes_arrivals))
            found = {name: path.may_be for name, path in self.ledger.paths.items()}
            with os.fdopen(write_end, "w") as pipe:
                json.dump([self.ledger.wrong, found], pipe)

        child = in_child(work)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            said = pipe.read()
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not said:
            self.ledger.wrong.append(f"round {turn}: the store cannot be read")
            return
        self.ledger.settle(*json.loads(said))
        self.report["paths read"] += len(self.ledger.paths)


class Heard:
    """What comes through a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._pieces = pipe, [b""]
        self.answers = 0

    def listen(self, until_s: float, answers: int = sys.maxsize) -> None:
        """Listen until a time of the monotonic clock, or until so many ``answers`` have come."""
        while self.answers < answers and (left_s := until_s - time.monotonic()) > 0:
            if select.select([self._pipe], [], [], left_s)[0] and not self._read():
                return

    def rest(self) -> None:
        """Listen until nobody is there to say anything."""
        while self._read():
            pass

    def lines(self) -> list[bytes]:
        """Return all lines."""
        whole = b"".join(self._pieces)
        assert not whole or whole.endswith(b"\n")  # writes to a pipe are whole
        return whole.splitlines()

    def _read(self) -> bool:
        piece = os.read(self._pipe, 1 << 16)
        self._pieces.append(piece)
        self.answers += piece.count(b'"done"')
        return bool(piece)


def _kill(writers: list[int]) -> None:
    for each in writers:
        os.kill(each, signal.SIGKILL)


def _at_start(crashes: Crashes, writers: list[int], heard: Heard, choose: random.Random) -> None:
    heard.listen(time.monotonic() + choose.uniform(0, 0.03))
    _kill(writers)
    crashes.report["rounds killed at the start"] += 1


def _at_work(crashes: Crashes, writers: list[int], heard: Heard, choose: random.Random) -> None:
    heard.listen(time.monotonic() + _PATIENCE_S, choose.randrange(1, 200))
    heard.listen(time.monotonic() + choose.uniform(0, 0.01))
    _kill(writers)
    crashes.report["rounds killed at work"] += 1


def _one_first(crashes: Crashes, writers: list[int], heard: Heard, choose: random.Random) -> None:
    heard.listen(time.monotonic() + _PATIENCE_S, choose.randrange(1, 100))
    _kill(writers[:1])
    heard.listen(time.monotonic() + 0.01)  # what it had said before
    wanted = heard.answers + _GO_ON
    heard.listen(time.monotonic() + _PATIENCE_S, wanted)
    if heard.answers < wanted:
        crashes.ledger.wrong.append("the others did not go on")
    _kill(writers[1:])
    crashes.report["rounds with one killed first"] += 1


_KINDS: Final = {"start": _at_start, "work": _at_work, "one": _one_first}


def main() -> NoReturn:
    """Run, and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    crashes = Crashes(options.folder, options.seed)
    began_s = time.monotonic()
    with suppress(SettingError):
        crashes.run(options.kills)
    ledger = crashes.ledger
    print(
        json.dumps(
            {
                **crashes.report,
                "acknowledged": ledger.acknowledged,
                "in doubt": ledger.in_doubt,
                "seconds": round(time.monotonic() - began_s, 1),
                "seed": options.seed,
                "wrong": ledger.wrong,
            }
        )
    )
    raise SystemExit(bool(ledger.wrong))


if __name__ == "__main__":
    main()
