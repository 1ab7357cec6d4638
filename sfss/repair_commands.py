"""``sfss check``, ``repair``, ``scrub`` and ``rebalance``: a run, and what is said of it.

A run has a process of its own, beside those of gateways. It knows what they know: the settings, and
the list of what stores are owed.
"""

import asyncio
import json
import logging.config
import signal
import sys
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_128_hexdigest

from sfss.chunks import prefix_of, read_chunk_key
from sfss.config import Settings
from sfss.config_checks import HELD_FILE_LIMIT, cache_of, has_plain_files
from sfss.config_groups import parts_of
from sfss.errors import BadPath, CannotList, SettingError, SfssError, Unreachable
from sfss.inventory import Inventory, Listed, make_inventory, open_inventory
from sfss.keys import KeyScheme
from sfss.member_stores import MemberStores
from sfss.repair import (
    Counted,
    Mender,
    Patience,
    Reader,
    Stopped,
    Tool,
    Treated,
    at_once,
    needs_look,
    owed_everything,
    pause,
    pay,
    settle_everything,
)
from sfss.repair_chunks import ChunkCare, ManyStores, OneStore, Shelf
from sfss.repair_notes import Notes
from sfss.repair_report import INTERRUPTED, Drawing, Report
from sfss.repair_walk import Pace, Walk
from sfss.replicas import MARKS, Replicas, make_replicas
from sfss.roster import Roster
from sfss.service import logging_settings, make_scheme
from sfss.stores.base import ListingStore, Store
from sfss.stores.embedded import EmbeddedStore

DEFAULT_FOLDER: Final = "var/tools"

_DAY_S: Final = 86_400.0
_WATCH_S: Final = 0.2
_ONLY_READS: Final = frozenset({Tool.CHECK, Tool.SCRUB})
_KINDS: Final[Mapping[str, Collection[Tool]]] = {
    '"replicated"': frozenset(Tool),
    '"joined"': frozenset({Tool.CHECK, Tool.REPAIR, Tool.SCRUB}),
    '"embedded"': _ONLY_READS,
}
"""What the tools are for; members that have joined each other move files by themselves."""


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
    _listen_for_signals(stopping)
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
        async with _opened(options) as subject:
            run = Run(options, subject, notes, stopping, Drawing())
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


def _listen_for_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        stopping.set()
        loop.remove_signal_handler(number)  # the second one ends it at once

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)


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


@dataclass(frozen=True, slots=True)
class Subject:
    """The stores that a run is about, and where their keys belong; ``replicas`` None: it is one
    store, for itself.
    """

    stores: Mapping[str, Store]
    primaries: Callable[[bytes], Sequence[str]]
    scheme: KeyScheme
    replicas: Replicas | None = None

    def path_of(self, key: bytes) -> str | None:
        """Return the path whose key is ``key``, or what a chunk is called; None of what is not
        ours.
        """
        if name := read_chunk_key(prefix_of(self.scheme.encoding), key):
            return f"(chunk {name.number} of upload {name.upload} of {name.file})"
        try:
            path = self.scheme.path(key)
            return path if self.scheme.key(path) == key else None
        except (ValueError, BadPath):
            return None

    def listing(self) -> dict[str, Store | ListingStore]:
        """Return what is to be listed for each store."""
        is_live = (lambda _: True) if self.replicas is None else self.replicas.is_live
        return {
            address: store if is_live(address) else _NotLive(address)
            for address, store in self.stores.items()
        }


class _NotLive:
    """In the place of a store that is not in the roster: it is not asked."""

    def __init__(self, address: str) -> None:
        self._address = address

    def keys(self) -> Any:
        """Raise ``Unreachable``."""
        raise Unreachable(self._address, "it is not in the roster", applied=False)


@asynccontextmanager
async def _opened(options: Options) -> AsyncIterator[Subject]:
    """Open the stores for the block. Raises ``SettingError`` for what the tool is not for."""
    settings, kind = options.settings, options.settings.cluster.kind
    scheme = make_scheme(settings)
    if kind == "replicated":
        # Never made here: with an empty list, stores would be believed that have missed something.
        folder = Path(settings.replicated.owed_folder)
        timeout_s = settings.embedded.timeout_s
        owed, marks = EmbeddedStore(folder, make=False, timeout_s=timeout_s), None
        if has_plain_files(settings):
            marks = EmbeddedStore(folder / MARKS, make=False, timeout_s=timeout_s)
        heals_at_once = at_once(_largest_record(settings))
        replicas = make_replicas(settings, owed, marks, heals_at_once, fetches=False)
        try:
            async with _watching(replicas.roster):
                yield Subject(replicas.stores, replicas.places.primaries, scheme, replicas)
        finally:
            await replicas.close()
    elif kind == "joined" and options.tool in _KINDS['"joined"']:
        async with _as_member(settings, scheme) as subject:
            yield subject
    elif kind == "embedded" and options.tool in _ONLY_READS:
        store = EmbeddedStore(Path(settings.embedded.folder), make=False)
        try:
            yield Subject({store.address: store}, lambda _: (store.address,), scheme)
        finally:
            await store.close()
    else:
        kinds = [each for each in _KINDS if options.tool in _KINDS[each]]
        allowed = f"sfss {options.tool.value} is for {' and '.join(kinds)}"
        raise SettingError("settings", "cluster.kind", f'is "{kind}"', allowed)


@asynccontextmanager
async def _as_member(settings: Settings, scheme: KeyScheme) -> AsyncIterator[Subject]:
    """Open the stores of all members for the block, as this one knows them; who belongs to the
    cluster cannot change meanwhile.
    """
    folder = Path(settings.replicated.owed_folder)
    owed = EmbeddedStore(folder, make=False, timeout_s=settings.embedded.timeout_s)
    opened = MemberStores(settings, owed, at_once(_largest_record(settings)))
    replicas = opened.replicas
    try:
        async with _watching(replicas.roster):
            yield Subject(replicas.stores, replicas.places.primaries, scheme, replicas)
    finally:
        await opened.close()


def _largest_record(settings: Settings) -> int:
    """Return the bytes of what is held in memory at a time."""
    limit = HELD_FILE_LIMIT if has_plain_files(settings) else settings.cluster.chunks_above
    return min(settings.cluster.max_file_size, limit)


@asynccontextmanager
async def _watching(roster: Roster | None) -> AsyncIterator[None]:
    """Look at ``roster`` again and again for the block: a run may take days."""
    watch = None if roster is None else asyncio.ensure_future(roster.run())
    try:
        yield
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


@dataclass
class Run:
    """One run over ``subject``, which goes on where the ``notes`` say, or begins."""

    options: Options
    subject: Subject
    notes: Notes
    stopping: asyncio.Event
    drawing: Drawing
    unreachable: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)

    async def to_its_end(self) -> Report:
        """Do all that is to be done, or as much as there is time for, and return what was found."""
        began_s = time.monotonic()
        is_whole, total = False, 0
        try:
            inventory = await self._inventory()
            total = inventory.facts.total
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
        return await self._report(is_whole, total, time.monotonic() - began_s)

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
            notes.inventory_file, notes.fingerprint, self.subject.listing(), self.drawing.listed
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
