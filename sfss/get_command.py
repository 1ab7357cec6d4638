"""``sfss get``: files of a gateway into files here, or to standard output."""

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from sfss.client import AsyncClient
from sfss.client_bodies import open_body
from sfss.client_errors import ClientError, Unreadable
from sfss.client_saving import is_part
from sfss.client_text import DAMAGED, File
from sfss.command_parsers import NewParser
from sfss.glob_patterns import is_pattern
from sfss.remote_command import (
    Found,
    Report,
    add_manner,
    add_server,
    do_each,
    failure,
    found_files,
    opened,
    remote_path,
    run_command,
)
from sfss.upload_plan import Outcome, Result

_STDOUT = "-"

_EPILOG = """\
    sfss get photos/a.jpg                       # to ./a.jpg
    sfss get photos/a.jpg photos/b.jpg pictures # to the folder pictures
    sfss get 'photos/2020*/**.jpg' pictures     # pictures/2020-01/a.jpg, ...
    sfss get --recursive photos pictures        # all below photos/
    sfss get notes.txt - | less                 # to standard output

Patterns: * within a name, ** over folders, ?, [a-c], {jpg,png}; quoted, so that the shell leaves
them alone; \\ before a character that stands for itself. A file here is replaced when all has come
and was found right; what came of a large one is kept beside it, and gone on with next time.
Exit status: 0 all is done, 1 something failed or is not there, 2 a wrong option, 130 interrupted.
"""


def add_get(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names",
        nargs="+",
        metavar="PATH",
        help="path, pattern or folder of the server; if there are several, the last is where they"
        " go: a file, a folder, or - for standard output (default: this folder)",
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="all files below folders")
    parser.add_argument(
        "--check", action="store_true", help="leave out what is here with the same content"
    )
    add_manner(parser)
    add_server(parser)


def run_get(options: argparse.Namespace) -> int:
    """Do it, and return the exit status."""
    return run_command(lambda: _get(options))


async def _get(options: argparse.Namespace) -> int:
    *names, last = options.names
    if not names:
        names, last = [last], "."
    async with opened(options) as client:
        if last == _STDOUT:
            return await _print_all(client, names, options.recursive)
        report = Report(options)
        getting = _Getting(client, report, options)
        target = Path(last)
        jobs = _jobs(client, names, options.recursive, report)
        is_folder = (
            len(names) > 1
            or options.recursive
            or is_pattern(remote_path(names[0]))
            or last.endswith("/")
            or await asyncio.to_thread(target.is_dir)
        )

        async def do(found: Found) -> None:
            await getting.get(found, local_name(target, found.below) if is_folder else target)

        await report.screen.during(do_each(jobs, do, options.concurrency))
        return report.ended()


async def _jobs(
    client: AsyncClient, names: list[str], recursive: bool, report: Report
) -> AsyncGenerator[Found, None]:
    count = 0
    for name in names:
        try:
            async with aclosing(found_files(client, name, recursive)) as found:
                async for each in found:
                    count += 1
                    yield each
        except ClientError as error:
            report.add("get", name, failure(error))
            count += 1
    report.tally.total = count


def local_name(folder: Path, below: str) -> Path | None:
    """Return the file in ``folder`` for a path; None where it cannot be one there."""
    parts = below.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or is_part(parts[-1]):
        return None
    return folder / below


@dataclass(frozen=True, slots=True)
class _Getting:
    client: AsyncClient
    report: Report
    options: argparse.Namespace

    async def get(self, found: Found, target: Path | None) -> None:
        """Have one file in ``target``."""
        if target is None:
            self.report.add("get", found.path, Outcome(Result.FAILED, "cannot be a file name here"))
            return
        try:
            file, outcome = await self._result(found, target)
        except (ClientError, ValueError) as error:
            file, outcome = found.file, failure(error)
        size = None if file is None else file.size
        self.report.add("get", found.path, outcome, file=str(target), size=size)

    async def _result(self, found: Found, target: Path) -> tuple[File | None, Outcome]:
        if self.options.check:
            file = found.file or await self.client.stat(found.path)
            if await asyncio.to_thread(has_content, target, file):
                return file, Outcome(Result.THERE)
        if self.options.dry_run:
            if found.is_damaged:
                return None, Outcome(Result.FAILED, DAMAGED)
            return found.file, Outcome(Result.DONE)
        file = await self.client.get_to_file(found.path, target, self.report.moved)
        return file, Outcome(Result.DONE)


def has_content(name: Path, file: File) -> bool:
    """Tell whether the file ``name`` has the bytes of ``file``: by the digest; where there is none,
    by its time.
    """
    try:
        status = name.stat()
        if status.st_size != file.size:
            return False
        if file.digest is None:
            return file.modified is not None and int(file.modified.timestamp()) == int(
                status.st_mtime
            )
        body = open_body(name)
    except (OSError, Unreadable):
        return False
    try:
        return body.digest() == file.digest
    except OSError:
        return False
    finally:
        body.close()


async def _print_all(client: AsyncClient, names: list[str], recursive: bool) -> int:
    for name in names:
        async with aclosing(found_files(client, name, recursive)) as files:
            async for found in files:
                async with (
                    client.open(found.path) as download,
                    aclosing(download.blocks()) as blocks,
                ):
                    async for block in blocks:
                        await asyncio.to_thread(sys.stdout.buffer.write, block)
    await asyncio.to_thread(sys.stdout.buffer.flush)
    return 0
