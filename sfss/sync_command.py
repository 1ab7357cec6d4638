"""``sfss sync``: makes one side like the other; files here, or below a path of a gateway."""

import argparse
import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from sfss.client_errors import ClientError, ConditionFailed, NotFound, Unreadable
from sfss.client_saving import Progress
from sfss.command_parsers import NewParser
from sfss.glob_patterns import Choice, choice_of
from sfss.remote_command import (
    Report,
    add_manner,
    add_server,
    do_each,
    failure,
    opened,
    read_remote,
    run_command,
    wrong,
)
from sfss.sync_copying import Copier, Manner
from sfss.sync_obstacles import (
    remove_empty_folders,
    remove_left_over,
    replace,
    scratch_for,
    to_go,
)
from sfss.sync_plan import Entry, OutOfOrder, Pair, Step, paired, step_for
from sfss.sync_sides import LocalSide, RemoteSide, Side
from sfss.sync_workers import Crew, Workers, usable_count
from sfss.upload_plan import Outcome, Result

_Found = TypeVar("_Found")

_BATCH: Final = 32
_BATCH_BYTES: Final = 1024 * 1024
"""Files that are read together: one step to a thread for each would take longer than the files."""

_EPILOG = """\
    sfss sync pictures sfss:backup/pictures         # from here to the server of --url
    sfss sync sfss:backup/pictures pictures         # and back
    sfss sync --delete --exclude '*.tmp' pictures sfss:backup/pictures
    sfss sync sfss:a http://other:8255/a            # between servers, by way of this machine

A side is a folder here, sfss:PATH for the server of --url, or http://HOST:PORT/PATH for another
one (whose token is SFSS_OTHER_TOKEN). What is the same by size and digest is left alone. --delete
removes from the second side what the first does not have: at the end, and only if both sides were
read to their ends and nothing has failed; where FROM is a server, only what it says is not there.
Where a file of FROM has the name of a folder here, or the other way round, it takes --delete, too.
Exit status: 0 all is done, 1 something failed, 2 a wrong option, 130 interrupted; run it again, and
it goes on.
"""


def add_sync(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Make the second side like the first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="FROM", help="folder, sfss:PATH or http://HOST:PORT/PATH")
    parser.add_argument("target", metavar="TO", help="the same")
    parser.add_argument(
        "--delete", action="store_true", help="remove what FROM does not have, in the end"
    )
    for flag, meaning in (("--include", "only these"), ("--exclude", "not these, even so")):
        parser.add_argument(
            flag,
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{meaning}: a path below FROM, or without / a name anywhere; may be repeated",
        )
    parser.add_argument(
        "--size-only", action="store_true", help="what has the same size is the same"
    )
    add_manner(parser)
    add_server(parser)


def run_sync(options: argparse.Namespace) -> int:
    """Do it, and return the exit status."""
    with Workers(usable_count() - 1, partial(_copier, options)) as workers:
        return run_command(lambda: _sync(options, workers))


async def _sync(options: argparse.Namespace, workers: Workers) -> int:
    async with _sides(options) as (source, target):
        if isinstance(source, LocalSide):
            if isinstance(target, LocalSide):
                raise wrong("FROM, TO", "are both folders here", "one is to be sfss:PATH")
            if not await asyncio.to_thread(source.root.is_dir):
                raise wrong("FROM", f"is {options.source!r}", "a folder is expected")
        elif isinstance(target, RemoteSide):
            _check_apart(source, target, options.delete)
        report = Report(options)
        copier = Copier((source, target), _manner(options), report.moved)
        async with Crew(copier, workers, report.moved, report.screen.say) as crew:
            sync = Sync((source, target), options, report, crew)
            await report.screen.during(sync.run())
        return report.ended()


@asynccontextmanager
async def _copier(options: argparse.Namespace, moved: Progress) -> AsyncIterator[Copier]:
    async with _sides(options) as sides:
        yield Copier(sides, _manner(options), moved)


def _manner(options: argparse.Namespace) -> Manner:
    return Manner(deletes=options.delete, is_dry=options.dry_run)


@asynccontextmanager
async def _sides(options: argparse.Namespace) -> AsyncIterator[tuple[Side, Side]]:
    try:
        choice = choice_of(options.include, options.exclude)
    except ValueError as error:
        raise wrong("--include, --exclude", "is no pattern", str(error)) from None
    async with AsyncExitStack() as stack:
        source = await _side(stack, options, options.source, choice, is_first=True)
        yield source, await _side(stack, options, options.target, choice)


def _check_apart(source: RemoteSide, target: RemoteSide, deletes: bool) -> None:
    """Raise ``SettingError`` where one side would be read, or removed, as part of the other."""
    if source.client.url != target.client.url or source.prefix == target.prefix:
        return
    if target.prefix.startswith(source.prefix):
        raise wrong("TO", "lies within FROM", "what is copied would be copied again")
    if deletes and source.prefix.startswith(target.prefix):
        raise wrong("FROM", "lies within TO", "--delete would remove it")


async def _side(
    stack: AsyncExitStack,
    options: argparse.Namespace,
    text: str,
    choice: Choice,
    is_first: bool = False,
) -> Side:
    remote = read_remote(text)
    if remote is None:
        return LocalSide(Path(text), choice, is_first)
    client = await stack.enter_async_context(opened(options, remote.url))
    path = remote.path.strip("/")
    return RemoteSide(client, f"{path}/" if path else "", choice)


class Sync:
    """Makes the second of ``sides`` like the first, by a ``crew`` that copies between them."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        options: argparse.Namespace,
        report: Report,
        crew: Crew,
    ) -> None:
        self._source, self._target = sides
        self._options, self._report = options, report
        self._crew, self._copier = crew, crew.copier
        self._seen, self._begun_s = 0, time.time()
        self._extra: dict[str, Entry] = {}
        self._blocked: list[Pair] = []
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Do it. Raises ``ClientError`` where a side cannot be read to its end: then nothing was
        removed.
        """
        try:
            await self._compare()
        except OutOfOrder:  # stores that speak the memcached protocol are listed by their keys
            for side in (self._source, self._target):
                side.is_gathered = True
            self._seen = 0
            self._extra.clear()
            self._blocked.clear()
            self._report.begin_anew()
            await self._compare()
        await do_each(_each(self._blocked), self._replace, self._options.concurrency)
        await self._remove_extra()
        await self._remove_left_over()

    async def _compare(self) -> None:
        await do_each(self._batches(), self._do_batch, self._options.concurrency)

    async def _remove_extra(self) -> None:
        if not self._extra:
            return
        if self._report.tally.failed:
            self._report.screen.say("something failed, so nothing was removed")
        elif not self._seen:
            self._report.tally.failed += 1
            self._report.screen.say("FROM has no files at all, so nothing was removed")
        else:
            await do_each(_each(self._extra.values()), self._remove, self._options.concurrency)

    async def _remove_left_over(self) -> None:
        """Remove the parts of downloads that were interrupted before, and were of no use now."""
        if isinstance(self._target, LocalSide) and not (
            self._options.dry_run or self._report.tally.failed
        ):
            side, prunes = self._target, self._options.delete
            job = (side.root, sorted(side.parts), self._begun_s, prunes)
            await asyncio.to_thread(remove_left_over, *job)

    async def _batches(self) -> AsyncGenerator[list[tuple[Step, Pair]], None]:
        batch: list[tuple[Step, Pair]] = []
        size = seen = 0
        async with (
            aclosing(self._source.entries()) as source,
            aclosing(self._target.entries()) as target,
            aclosing(paired(source, target)) as pairs,
        ):
            async for pair in pairs:
                self._seen += pair.source is not None
                step = step_for(pair, self._options.size_only)
                if step is Step.DELETE:
                    self._note_extra(pair)
                    continue
                seen += 1
                batch.append((step, pair))
                size += pair.source.size if pair.source is not None else 0
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
        self._report.tally.total = seen + len(self._extra)
        if batch:
            yield batch

    def _note_extra(self, pair: Pair) -> None:
        if self._options.delete and pair.target is not None:
            self._extra[pair.target.path] = pair.target

    async def _do_batch(self, batch: list[tuple[Step, Pair]]) -> None:
        size = sum(pair.source.size for _, pair in batch if pair.source is not None)
        # Long files stay here, where progress is shown; what is not copied is not worth sending.
        is_short = size < _BATCH_BYTES and any(
            step in (Step.COPY, Step.COMPARE) for step, _ in batch
        )
        await self._crew.do_batch(batch, self._told, anywhere=is_short)

    async def _replace(self, pair: Pair) -> None:
        """Copy what something stands in the way of, which may go if FROM does not have it."""
        assert pair.source is not None and isinstance(self._target, LocalSide)
        try:
            while (obstacle := self._copier.obstacle(pair.source)) is not None:
                try:
                    await self._copied_over(self._target.root, pair.source, obstacle)
                    break
                except (Unreadable, OSError):
                    if self._copier.obstacle(pair.source) == obstacle:
                        raise
            else:  # it has gone already, for another file
                if not self._options.dry_run:
                    await self._copier.copy(pair.source, None)
            outcome = Outcome(Result.DONE)
        except (ClientError, ValueError, OSError) as error:
            outcome = failure(error)
        self._told(pair, outcome)

    async def _copied_over(self, root: Path, entry: Entry, obstacle: str) -> None:
        """Have ``entry`` in the place of ``obstacle``: it is here, whole and right, before that
        goes, so nothing is lost for a file that cannot be had.
        """
        self._check_none_failed(entry)
        going = await asyncio.to_thread(to_go, root, obstacle, self._extra, self._begun_s)
        if self._options.dry_run:
            return
        assert isinstance(self._source, RemoteSide) and entry.file is not None
        scratch = scratch_for(root, obstacle, entry.path)
        try:
            await self._source.client.get_to_file(entry.file.path, scratch, self._report.moved)
            for each in going:
                if await self._source_has(self._extra.get(each, Entry(each))):
                    raise Unreadable(f"{each} stands in the way, and has come to FROM meanwhile")
            async with self._turn:
                self._check_none_failed(entry)
                job = (root, entry.path, scratch, going, self._begun_s)
                self._note_gone(await asyncio.to_thread(replace, *job))
        except (ClientError, ValueError, OSError):
            # Not where we are interrupted: a thread may be about to give it its name.
            scratch.unlink(missing_ok=True)
            raise

    def _check_none_failed(self, entry: Entry) -> None:
        """Raise ``Unreadable`` where nothing may be removed any more."""
        if self._report.tally.failed:
            try:
                self._copier.check_way(entry)
            except Unreadable as found:
                raise Unreadable(f"{found}; something failed, so it was not removed") from None

    def _note_gone(self, paths: Iterable[str]) -> None:
        for path in paths:
            entry = self._extra.pop(path, None)
            if entry is not None:
                self._report.add("delete", path, Outcome(Result.DONE), size=entry.size)

    def _told(self, pair: Pair, outcome: Outcome | None) -> None:
        if outcome is None:
            self._blocked.append(pair)
            return
        entry = pair.source or pair.target
        assert entry is not None
        self._report.add("copy", entry.path, outcome, size=entry.size)

    async def _remove(self, entry: Entry) -> None:
        try:
            if await self._source_has(entry):
                outcome = Outcome(Result.THERE, "has come to FROM meanwhile, and is kept")
            else:
                if not self._options.dry_run:
                    await self._removed(entry)
                outcome = Outcome(Result.DONE)
        except ConditionFailed:
            outcome = Outcome(Result.THERE, "was changed meanwhile, and is kept")
        except (ClientError, ValueError, OSError) as error:
            outcome = failure(error)
        self._report.add("delete", entry.path, outcome, size=entry.size)

    async def _source_has(self, entry: Entry) -> bool:
        """Tell whether FROM has a file that it did not list: this may be the last copy that is
        sound. Raises ``ClientError``.
        """
        if not isinstance(self._source, RemoteSide):
            return False
        try:
            await self._source.client.stat(f"{self._source.prefix}{entry.path}")
        except NotFound:
            return False
        return True

    async def _removed(self, entry: Entry) -> None:
        if isinstance(self._target, LocalSide):
            await asyncio.to_thread(_remove_here, self._target.root, entry.path)
            return
        assert entry.file is not None
        # Only what was listed: what has taken its place is another file.
        await self._target.client.delete(entry.file.path, if_match=entry.file.etag, missing_ok=True)


async def _each(found: Iterable[_Found]) -> AsyncGenerator[_Found, None]:
    for each in found:
        yield each


def _remove_here(root: Path, path: str) -> None:
    """Remove a file, and the folders that are empty then."""
    (root / path).unlink(missing_ok=True)
    remove_empty_folders(root, path)
