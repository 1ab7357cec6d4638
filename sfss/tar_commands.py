"""``sfss export`` and ``import``: the files of a gateway as one tar archive, and back."""

import argparse
import asyncio
import sys
import tarfile
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from sfss.client import AsyncClient, File
from sfss.client_errors import ClientError, ConditionFailed, NotFound, Unreadable
from sfss.command_parsers import NewParser
from sfss.errors import BadPath
from sfss.remote_command import (
    FAILED,
    Found,
    Report,
    add_json,
    add_server,
    do_each,
    failure,
    found_files,
    opened,
    run_command,
    wrong,
)
from sfss.tar_reading import DIGEST_FIELD, EXPIRES_FIELD, TYPE_FIELD, Member, members_of
from sfss.upload_plan import Outcome, Result, path_segments

_HELD_LIMIT: Final = 256 * 1024
_BATCH: Final = 32
_BATCH_BYTES: Final = 1024 * 1024


def add_export(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Write files as a tar archive to standard output: with their types, times, and"
        " when they expire, in pax headers, for sfss import; any tar can read it.",
        epilog="sfss export photos | zstd > photos.tar.zst. If something fails, the archive has no"
        " end, and sfss import says so. Exit status: 0 all is done, 1 something failed, 2 a wrong"
        " option, 130 interrupted.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="PATH", help="folder or pattern (default: all files)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only what went wrong")
    add_server(parser)


def add_import(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Upload the files of a tar archive from standard input, compressed or not, made"
        " by sfss export or any tar.",
        epilog="If the archive was cut off, what came before is kept, and the exit status is 1. Run"
        " again with --check, it goes on. Exit status: 0 all is done, 1 something failed, 2 a wrong"
        " option, 130 interrupted.",
    )
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="instead of stdin")
    parser.add_argument("--path", default="", metavar="PREFIX", help="put before every path")
    parser.add_argument(
        "--check", action="store_true", help="leave out what is there with the same content"
    )
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave out what is there, whatever it is"
    )
    add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only what went wrong")
    add_server(parser)


def run_export(options: argparse.Namespace) -> int:
    """Do it, and return the exit status."""
    if sys.stdout.isatty():
        raise wrong("standard output", "is a terminal", "a file or a pipe is expected")
    options.as_json = False
    return run_command(lambda: _export(options))


async def _export(options: argparse.Namespace) -> int:
    report = Report(options)
    async with opened(options) as client:
        writing = _Export(client, report, sys.stdout.buffer, options.concurrency)
        await report.screen.during(writing.run(options.names or [""]))
    return report.ended()


class _Export:
    """Writes an archive: some files ahead are fetched while one is written."""

    def __init__(
        self, client: AsyncClient, report: Report, output: IO[bytes], concurrency: int
    ) -> None:
        self._client, self._report, self._output = client, report, output
        self._concurrency = concurrency
        self._waiting: deque[tuple[Found, asyncio.Task[tuple[File, bytes] | None] | None]] = deque()

    async def run(self, names: list[str]) -> None:
        """Write the files that ``names`` mean, and the end of the archive. Raises ``ClientError``,
        without the end.
        """
        try:
            for name in names:
                async with aclosing(found_files(self._client, name, recursive=True)) as files:
                    async for found in files:
                        self._ask_for(found)
                        if len(self._waiting) >= self._concurrency:
                            await self._write_next()
            while self._waiting:
                await self._write_next()
        finally:
            tasks = [task for _, task in self._waiting if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._write, bytes(tarfile.RECORDSIZE))

    def _ask_for(self, found: Found) -> None:
        assert found.file is not None
        is_held = found.file.size <= _HELD_LIMIT
        task = asyncio.ensure_future(self._fetched(found.path)) if is_held else None
        self._waiting.append((found, task))

    async def _fetched(self, path: str) -> tuple[File, bytes] | None:
        try:
            async with self._client.open(path) as download:
                return download.file, await download.read()
        except NotFound:
            return None  # it was removed since it was listed

    async def _write_next(self) -> None:
        found, task = self._waiting.popleft()
        if task is None:
            await self._write_long(found)
            return
        fetched = await task
        if fetched is not None:
            file, content = fetched
            padding = bytes(-len(content) % tarfile.BLOCKSIZE)
            await asyncio.to_thread(self._write, _header(found, file) + content + padding)
            self._told(file)

    async def _write_long(self, found: Found) -> None:
        try:
            async with (
                self._client.open(found.path) as download,
                aclosing(download.blocks()) as blocks,
            ):
                await asyncio.to_thread(self._write, _header(found, download.file))
                async for block in blocks:
                    await asyncio.to_thread(self._write, block)
                padding = bytes(-download.file.size % tarfile.BLOCKSIZE)
                await asyncio.to_thread(self._write, padding)
                self._told(download.file)
        except NotFound:
            return

    def _write(self, text: bytes) -> None:
        self._output.write(text)
        self._output.flush()

    def _told(self, file: File) -> None:
        self._report.moved(file.size)
        self._report.add("export", file.path, Outcome(Result.DONE))


def _header(found: Found, file: File) -> bytes:
    """Return the header of a member."""
    header = tarfile.TarInfo(file.path)
    header.size, header.mode = file.size, 0o644
    listed = found.file
    modified = file.modified
    # A listing tells the time to the microsecond.
    if listed is not None and listed.etag == file.etag and listed.modified is not None:
        modified = listed.modified
    if modified is not None:
        header.mtime = modified.timestamp()
    fields = {DIGEST_FIELD: file.digest or "", TYPE_FIELD: file.media_type}
    if file.expires is not None:
        fields[EXPIRES_FIELD] = str(int(file.expires.timestamp()))
    header.pax_headers = {name: value for name, value in fields.items() if value}
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def run_import(options: argparse.Namespace) -> int:
    """Do it, and return the exit status."""
    try:
        prefix = path_segments(options.path) if options.path.strip("/") else ()
    except BadPath as error:
        raise wrong("--path", f"is {options.path!r}", str(error)) from None
    try:
        is_given = options.file != "-"
        file = Path(options.file).open("rb") if is_given else sys.stdin.buffer  # noqa: SIM115
    except OSError as error:
        raise wrong("FILE", f"is {options.file!r}", str(error.strerror)) from None
    return run_command(lambda: _import(options, file, prefix))


async def _import(options: argparse.Namespace, file: IO[bytes], prefix: tuple[str, ...]) -> int:
    report = Report(options)
    async with opened(options) as client:
        importing = _Import(client, report, options, prefix)

        async def all_of_it() -> int:
            try:
                await do_each(_batches(members_of(file)), importing.do, options.concurrency)
            except Unreadable as error:
                report.screen.say(f"{error}; {report.tally.stored:,} files were imported")
                return FAILED
            return 0

        failed = await report.screen.during(all_of_it())
    return report.ended() or failed


async def _batches(members: Iterator[Member]) -> AsyncGenerator[list[Member], None]:
    """Yield members, some at a time from a thread; what came before an error, before it."""
    errors: list[Unreadable] = []

    def read() -> list[Member]:
        batch: list[Member] = []
        size = 0
        try:
            for member in members:
                batch.append(member)
                size += 0 if member.body is None else len(member.body)
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    break
        except Unreadable as error:
            errors.append(error)
        return batch

    while batch := await asyncio.to_thread(read):
        yield batch
    if errors:
        raise errors[0]


@dataclass(frozen=True, slots=True)
class _Import:
    client: AsyncClient
    report: Report
    options: argparse.Namespace
    prefix: tuple[str, ...]

    async def do(self, batch: list[Member]) -> None:
        """Upload some members."""
        try:
            for member in batch:
                outcome = await self._outcome(member)
                self.report.add("import", member.name, outcome)
        finally:
            for member in batch:
                if member.body is not None:
                    member.body.close()

    async def _outcome(self, member: Member) -> Outcome:
        if member.body is None:
            what = member.problem or "neither a file nor a folder; left out"
            return Outcome(Result.FAILED if member.problem else Result.IGNORED, what)
        try:
            path = "/".join((*self.prefix, *path_segments(member.name)))
            return await self._put(path, member)
        except BadPath as error:
            return failure(error)
        except ConditionFailed:
            return Outcome(Result.THERE)
        except (ClientError, ValueError, OSError) as error:
            return failure(error)

    async def _put(self, path: str, member: Member) -> Outcome:
        body = member.body
        assert body is not None
        ttl_s = _ttl_s(member.fields.get(EXPIRES_FIELD))
        if ttl_s is not None and ttl_s <= 0:
            return Outcome(Result.THERE, "has expired; left out")
        digest = member.fields.get(DIGEST_FIELD)
        if digest is not None and digest != await asyncio.to_thread(body.digest):
            return Outcome(Result.FAILED, "was damaged since it was exported; left out")
        if self.options.check and await self._is_there(path, member):
            return Outcome(Result.THERE)
        media_type = member.fields.get(TYPE_FIELD)
        await self.client.put(
            path, body, content_type=media_type, ttl_s=ttl_s, create=self.options.skip_existing
        )
        self.report.moved(len(body))
        return Outcome(Result.DONE)

    async def _is_there(self, path: str, member: Member) -> bool:
        try:
            found = await self.client.stat(path)
        except NotFound:
            return False
        body = member.body
        assert body is not None
        if found.size != len(body) or found.digest is None:
            return False
        return found.digest == await asyncio.to_thread(body.digest)


def _ttl_s(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return int(text[:12]) - int(time.time())
