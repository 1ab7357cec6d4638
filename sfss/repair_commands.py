"""``sfss check``, ``repair``, ``scrub`` and ``rebalance``: a run, and what is said of it.

A run has a process of its own, beside those of gateways. It knows what they know: the settings, and
the list of what stores are owed.
"""

import asyncio
import json
import logging.config
import sys
import time
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Sequence,
)
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_128_hexdigest

from sfss.chunks import prefix_of
from sfss.config import Settings
from sfss.config_checks import cache_of
from sfss.config_groups import parts_of
from sfss.errors import CannotList, SettingError, SfssError
from sfss.inventory import Inventory, Listed, make_inventory, open_inventory
from sfss.repair import (
    Counted,
    Mender,
    Patience,
    Reader,
    Stopped,
    Tool,
    Treated,
    needs_look,
    owed_everything,
    pause,
    pay,
    settle_everything,
)
from sfss.repair_chunks import ChunkCare, ManyStores, OneStore, Shelf
from sfss.repair_notes import Notes
from sfss.repair_report import INTERRUPTED, Drawing, Report, counted
from sfss.repair_subject import Subject, opened
from sfss.repair_walk import Pace, Walk
from sfss.service import logging_settings
from sfss.status_parts import work_folder
from sfss.stopping import listen_for_signals
from sfss.tool_progress import FAILED, FINISHED, LISTING, RUNNING, TELL_EVERY_S, Teller
from sfss.tool_progress import INTERRUPTED as CUT_OFF

DEFAULT_FOLDER: Final = "var/tools"

_DAY_S: Final = 86_400.0
_WATCH_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be done. ``rate``: keys a second, 0 for as many as can be; ``fresh``: do not go on
    where an interrupted run has ended; ``every_days``: from the beginning of one run to that of the
    next, 0 for one run only. ``since_us``: a run of another number is not gone on with. Once
    ``goes_on`` says no, the run is told to stop. ``waits_s``: for another run to leave the folder.
    ``min_copies``: a file with fewer sound ones counts as wrong. Chunks of no file
    count ``orphans_after_days`` after they were written.
    """

    tool: Tool
    settings: Settings
    work: Path
    as_json: bool = False
    dry_run: bool = False
    rate: float = 0.0
    fresh: bool = False
    every_days: float = 0.0
    since_us: int = 0
    goes_on: Callable[[], bool] | None = None
    waits_s: float = 0.0
    min_copies: int = 0
    orphans_after_days: float = 1.0


def run_tool(options: Options) -> int:
    """Do what ``options`` say, print a report of each run, and return the exit status.

    0: nothing is wrong any more; 1: something is; 2: not everything could be looked at; 130: the
    run was interrupted. Raises ``SettingError``.
    """
    numbers = {
        "--rate": options.rate,
        "--every": options.every_days,
        "--min-copies": options.min_copies,
        "--orphans-after": options.orphans_after_days,
    }
    for flag, value in numbers.items():
        if not 0 <= value < inf:
            raise _wrong(flag, f"is {value:g}", "a number from 0 is expected")
    logging.config.dictConfig(logging_settings("error"))
    try:
        return asyncio.run(_runs(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except SettingError:
        raise
    except SfssError as error:
        print(f"sfss: {error}", file=sys.stderr)
        return 2


def _wrong(key: str, found: str, allowed: str) -> SettingError:
    return SettingError("command line", key, found, allowed)


async def _runs(options: Options) -> int:
    """Do one run after the other; return the exit status of the last."""
    stopping = asyncio.Event()
    listen_for_signals(stopping)
    watch = asyncio.ensure_future(_watch(options.goes_on, stopping))
    try:
        return await _runs_until(options, stopping)
    finally:
        watch.cancel()


async def _watch(goes_on: Callable[[], bool] | None, stopping: asyncio.Event) -> None:
    while goes_on is not None:
        if not goes_on():
            stopping.set()
        await asyncio.sleep(_WATCH_S)


async def _runs_until(options: Options, stopping: asyncio.Event) -> int:
    loop = asyncio.get_running_loop()
    while True:
        began_s = loop.time()
        status = await _run_all(options, stopping)
        if not options.every_days or stopping.is_set():
            return status
        rest_s = began_s + options.every_days * _DAY_S - loop.time()
        try:
            await pause(max(0.0, rest_s), stopping)
        except Stopped:
            return status


async def _run_all(options: Options, stopping: asyncio.Event) -> int:
    """Do a run, one for each group where there are groups; print what was found, and return the
    worst exit status.
    """
    parts = parts_of(options.settings)
    reports: dict[str, Report] = {}
    for part in parts:
        work = options.work / part.name
        reports[part.name] = await _run(
            replace(options, settings=part.settings, work=work), stopping
        )
    if options.as_json:
        documents = {name: report.document() for name, report in reports.items()}
        print(json.dumps(documents.get("", documents), indent=2), flush=True)
    else:
        for name, report in reports.items():
            print(f"{name}:\n{report.text()}" if name else report.text(), flush=True)
    return max(report.status for report in reports.values())


async def _run(options: Options, stopping: asyncio.Event) -> Report:
    notes = await _open_notes(options)
    try:
        async with opened(options.tool, options.settings) as subject:
            folder = work_folder(options.settings)
            teller = Teller(folder, options.tool.value, options.dry_run)
            run = Run(options, subject, notes, stopping, Drawing(), teller)
            return await run.to_its_end()
    finally:
        notes.close()


async def _open_notes(options: Options) -> Notes:
    end_s = time.monotonic() + options.waits_s
    while True:
        try:
            return Notes(options.work / options.tool.value, _fingerprint(options))
        except SettingError:
            if time.monotonic() >= end_s:
                raise
        await asyncio.sleep(_WATCH_S)


def _fingerprint(options: Options) -> str:
    settings = options.settings
    stores = (
        settings.cluster,
        settings.embedded,
        settings.memcached,
        settings.webdav,
        settings.replicated,
        settings.migration,
    )
    what = (options.tool.value, options.dry_run, stores, options.since_us, options.min_copies)
    return xxh3_128_hexdigest(repr(what).encode())


@dataclass
class Run:
    """One run over ``subject``, which goes on where the ``notes`` say, or begins."""

    options: Options
    subject: Subject
    notes: Notes
    stopping: asyncio.Event
    drawing: Drawing
    teller: Teller
    total: int = 0
    listed: int = 0
    unreachable: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)

    async def to_its_end(self) -> Report:
        """Do all that is to be done, or as much as there is time for, and return what was found."""
        telling = asyncio.ensure_future(self._keep_telling())
        state, status = FAILED, -1
        try:
            report = await self._to_its_end()
            state, status = FINISHED if report.is_whole else CUT_OFF, report.status
            return report
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            self._tell(state, status)

    async def _keep_telling(self) -> None:
        while True:
            self._tell(RUNNING if self.total else LISTING)
            await asyncio.sleep(TELL_EVERY_S)

    def _tell(self, state: str, status: int = -1) -> None:
        counts = counted(self.notes.counts)
        told = {"keys": self.total or self.listed, "findings": self.notes.counts["findings"]}
        unreachable = len(self.unreachable)
        self.teller.tell(state, {**counts, **told, "unreachable": unreachable, "status": status})

    def _note_listed(self, count: int) -> None:
        self.listed = count
        self.drawing.listed(count)

    async def _to_its_end(self) -> Report:
        began_s = time.monotonic()
        is_whole = False
        try:
            inventory = await self._inventory()
            self.total = inventory.facts.total
            try:
                is_whole = await self._walk(inventory)
            finally:
                await inventory.close()
            if is_whole:
                await self._conclude()
        except Stopped:
            pass
        finally:
            self.drawing.clear()
        if is_whole or self.unreachable:
            self.notes.end()
        return await self._report(is_whole, self.total, time.monotonic() - began_s)

    async def _inventory(self) -> Inventory:
        """Return the inventory of the run that this one goes on with, or a new one.

        Raises ``Stopped``.
        """
        notes = self.notes
        if not self.options.fresh and notes.resume():
            former = await open_inventory(notes.inventory_file, notes.fingerprint)
            if former is not None:
                return former
        notes.begin()
        if self._mends and (replicas := self.subject.replicas):
            # What a store misses from now on is a newer debt, which this run does not settle.
            notes.debts = await owed_everything(replicas.owed, self.subject.stores)
            await self._unless_stopped(pay(replicas.copies, self.subject.stores))
        listing = make_inventory(
            notes.inventory_file, notes.fingerprint, self.subject.listing(), self._note_listed
        )
        inventory: Inventory = await self._unless_stopped(listing)
        self.unreachable = {address: str(why) for address, why in inventory.failures.items()}
        notes.save()
        return inventory

    @property
    def _mends(self) -> bool:
        return self.options.tool in (Tool.REPAIR, Tool.SCRUB) and not self.options.dry_run

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what ``work`` returns; cut it off and raise ``Stopped`` when told to stop."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Stopped
            return task.result()
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _walk(self, inventory: Inventory) -> bool:
        failures = inventory.failures
        blind = {address for address, why in failures.items() if isinstance(why, CannotList)}
        down = set(failures) - blind
        walk = Walk(
            inventory,
            self.notes,
            self.subject.path_of,
            # Nor does it say anything that a store which may lack files does not list one.
            partial(self._needs_look, blind=blind, down=down | self._lacking),
            self._care(inventory, self._treat(Patience(self.stopping, down))),
            Pace(self.options.rate, self.stopping),
            self.stopping,
            self.drawing.walked,
        )
        return await walk.run()

    def _needs_look(self, listed: Listed, blind: set[str], down: set[str]) -> bool:
        tool = Tool.SCRUB if self.subject.replicas is None else self.options.tool
        primaries = self.subject.primaries(listed.key)
        is_scarce = len(set(primaries) - self._lacking) < self.options.min_copies
        return is_scarce or needs_look(tool, listed, primaries, blind, down)

    @property
    def _lacking(self) -> set[str]:
        """The store that may lack files, if any: what it has is no copy that counts."""
        return set(filter(None, [cache_of(self.options.settings)]))

    def _treat(self, patience: Patience) -> Callable[[Listed], Awaitable[Treated]]:
        subject, options = self.subject, self.options
        if subject.replicas is None:
            (store,) = subject.stores.values()
            return Reader(store, patience).treat
        copies, primaries = subject.replicas.copies, subject.primaries
        mender = Mender(copies, primaries, options.tool, options.dry_run, patience)
        if options.min_copies:
            return Counted(mender, copies, self._durable, options.min_copies).treat
        return mender.treat

    def _durable(self, key: bytes) -> Sequence[str]:
        return [each for each in self.subject.primaries(key) if each not in self._lacking]

    def _care(
        self, inventory: Inventory, treat: Callable[[Listed], Awaitable[Treated]]
    ) -> Callable[[Listed], Awaitable[Treated]]:
        """Return ``treat``, with what chunks need beside that."""
        subject, options = self.subject, self.options
        if options.tool in (Tool.REBALANCE, Tool.MIGRATE) or subject.scheme.encoding == "files":
            return treat
        shelf: Shelf
        if subject.replicas is None:
            (store,) = subject.stores.values()
            shelf = OneStore(store)
        else:
            shelf = ManyStores(subject.replicas.copies)
        before = None
        if options.tool is Tool.SCRUB:
            before = time.time_ns() // 1000 - round(options.orphans_after_days * _DAY_S * 1e6)
        prefix, removes = prefix_of(subject.scheme.encoding), not options.dry_run
        return ChunkCare(treat, shelf, inventory, subject.primaries, prefix, before, removes).treat

    async def _conclude(self) -> None:
        if self._mends and not self.unreachable and (replicas := self.subject.replicas):
            self.settled = await settle_everything(replicas.owed, self.notes)

    async def _report(self, is_whole: bool, total: int, elapsed_s: float) -> Report:
        replicas = self.subject.replicas
        return Report(
            self.options.tool,
            self.options.dry_run,
            tuple(self.subject.stores),
            is_whole,
            total,
            self.notes,
            self.unreachable,
            tuple(self.settled),
            0 if replicas is None else await replicas.owed.count(),
            elapsed_s,
        )
