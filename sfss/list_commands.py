"""``sfss ls``, ``stat``, ``du`` and ``rm``: what there is, and without some of it."""

import argparse
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeAlias

from sfss.client import AsyncClient
from sfss.client_errors import ClientError, NotFound
from sfss.client_text import File, Page
from sfss.command_parsers import NewParser
from sfss.glob_patterns import is_pattern, literal_prefix
from sfss.readable import readable_size
from sfss.remote_command import (
    FAILED,
    Found,
    Report,
    add_json,
    add_manner,
    add_server,
    do_each,
    failure,
    found_files,
    opened,
    print_line,
    remote_path,
    run_command,
    say_damaged,
    wrong,
)
from sfss.upload_plan import Outcome, Result, printable

_NO_TIME = "-" * 19

_EPILOG = """\
Patterns: * within a name, ** over folders, ?, [a-c], {jpg,png}; quoted. Exit status: 0 all is done,
1 something failed or is not there, 2 a wrong option, 130 interrupted.
"""


def add_ls(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(epilog=_EPILOG)
    _add_names(parser, "*")
    parser.add_argument("-r", "--recursive", action="store_true", help="all files below folders")
    parser.add_argument(
        "-1", "--names", action="store_true", dest="only_names", help="only the paths"
    )
    parser.add_argument("--bytes", action="store_true", help="sizes as numbers of bytes")
    add_json(parser)
    add_server(parser)


def add_stat(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(epilog=_EPILOG)
    _add_names(parser, "+")
    add_json(parser)
    add_server(parser)


def add_du(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(epilog=_EPILOG)
    _add_names(parser, "*")
    parser.add_argument(
        "--depth",
        type=int,
        default=1,
        metavar="NUMBER",
        help="print folders down to this level (default: 1; 0: only the sum)",
    )
    parser.add_argument("--bytes", action="store_true", help="sizes as numbers of bytes")
    add_json(parser)
    add_server(parser)


def add_rm(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(epilog=_EPILOG)
    _add_names(parser, "+")
    parser.add_argument("-r", "--recursive", action="store_true", help="all files below folders")
    parser.add_argument("-f", "--force", action="store_true", help="what is not there is fine")
    parser.add_argument(
        "--all", action="store_true", help="needed where all files of the server are meant"
    )
    add_manner(parser)
    add_server(parser)


def _add_names(parser: argparse.ArgumentParser, count: str) -> None:
    parser.add_argument(
        "names", nargs=count, metavar="PATH", help="path, folder or pattern of the server"
    )


def run_ls(options: argparse.Namespace) -> int:
    """Print what there is, and return the exit status."""

    async def work() -> int:
        async with opened(options) as client:
            return await _ls(client, options)

    return run_command(work)


async def _ls(client: AsyncClient, options: argparse.Namespace) -> int:
    listed = damaged = 0
    for name in options.names or [""]:
        async with aclosing(_shown(client, name, options.recursive)) as entries:
            async for path, entry in entries:
                if entry is None:
                    damaged += 1
                    say_damaged(path)
                else:
                    listed += 1
                    print_line(_line(entry, options))
    return FAILED if damaged or (not listed and any(options.names)) else 0


_Shown: TypeAlias = tuple[str, File | str | None]
"""A path, and the file or the folder there; None for a file that is damaged."""


async def _shown(client: AsyncClient, name: str, recursive: bool) -> AsyncGenerator[_Shown, None]:
    """Yield what ``name`` means: files and folders in it, or all files."""
    path = remote_path(name)
    if recursive or is_pattern(path):
        async with aclosing(found_files(client, name, recursive)) as found:
            async for each in found:
                yield each.path, each.file
        return
    path, _ = literal_prefix(path)
    count = 0
    if path and not path.endswith("/"):
        try:
            yield path, await client.stat(path)
            count = 1
        except NotFound:
            pass
        path = f"{path}/"
    async with aclosing(client.pages(path, delimiter="/")) as pages:
        async for page in pages:
            for entry in _in_order(page):
                count += 1
                yield entry
    if not count and path:
        raise NotFound(f"{name}: there is no such file or folder", 404)


def _in_order(page: Page) -> list[_Shown]:
    entries: list[_Shown] = [*page.things(), *((path, path) for path in page.folders)]
    return sorted(entries, key=lambda entry: entry[0].encode())


def _line(entry: File | str, options: argparse.Namespace) -> str:
    if options.as_json:
        return json.dumps({"folder": entry} if isinstance(entry, str) else entry.as_json())
    path = printable(entry if isinstance(entry, str) else entry.path)
    if options.only_names:
        return path
    if isinstance(entry, str):
        return f"{'':19}  {'folder':>10}  {path}"
    return f"{_time_of(entry)}  {_size_text(entry.size, options.bytes):>10}  {path}"


def _time_of(file: File) -> str:
    return _NO_TIME if file.modified is None else file.modified.strftime("%Y-%m-%d %H:%M:%S")


def _size_text(size: int, in_bytes: bool) -> str:
    return str(size) if in_bytes else readable_size(size)


def run_stat(options: argparse.Namespace) -> int:
    """Print what is known of files, and return the exit status."""

    async def work() -> int:
        damaged = 0
        async with opened(options) as client:
            for name in options.names:
                async with aclosing(found_files(client, name, recursive=False)) as found:
                    async for each in found:
                        if each.is_damaged:
                            damaged += 1
                            say_damaged(each.path)
                        else:
                            _print_stat((await client.stat(each.path)).as_json(), options.as_json)
        return FAILED if damaged else 0

    return run_command(work)


def _print_stat(known: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_line(json.dumps(known))
        return
    for name, value in known.items():
        if value is not None:
            print_line(f"{name + ':':<10}{printable(str(value))}")


def run_du(options: argparse.Namespace) -> int:
    """Print how much folders hold, and return the exit status."""

    async def work() -> int:
        async with opened(options) as client:
            damaged = [await _du(client, name, options) for name in options.names or [""]]
        return FAILED if any(damaged) else 0

    return run_command(work)


async def _du(client: AsyncClient, name: str, options: argparse.Namespace) -> int:
    """Print the sums of folders as soon as they are complete: the listing is in order. Return how
    many files are not counted, for they are damaged.
    """
    sums: dict[str, list[int]] = {"": [0, 0]}
    top, damaged = _top_of(name), 0
    async with aclosing(found_files(client, name, recursive=True)) as found:
        async for each in found:
            if each.file is None:
                damaged += 1
                say_damaged(each.path)
                continue
            parts = each.below.split("/")[:-1][: max(0, options.depth)]
            levels = ["".join(f"{part}/" for part in parts[:n]) for n in range(len(parts) + 1)]
            for done in sorted((each for each in sums if each not in levels), reverse=True):
                _print_sum(top + done, sums.pop(done), options)
            for folder in levels:
                counted = sums.setdefault(folder, [0, 0])
                counted[0] += 1
                counted[1] += each.file.size
    for folder in sorted(sums, reverse=True):
        _print_sum(top + folder, sums[folder], options)
    return damaged


def _top_of(name: str) -> str:
    prefix, is_for_many = literal_prefix(remote_path(name))
    if is_for_many:
        return prefix[: prefix.rfind("/") + 1]
    return f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""


def _print_sum(folder: str, counted: list[int], options: argparse.Namespace) -> None:
    count, size = counted
    if options.as_json:
        print_line(json.dumps({"folder": folder, "files": count, "size": size}))
        return
    shown = printable(folder) or "(all)"
    print_line(f"{_size_text(size, options.bytes):>12}  {count:>12,} files  {shown}")


def run_rm(options: argparse.Namespace) -> int:
    """Remove files, and return the exit status."""
    for name in options.names:
        if not remote_path(name).strip("/*") and not options.all:
            found = f"is {name!r}, which is every file of the server"
            raise wrong("PATH", found, "--all is expected with it")
    return run_command(lambda: _rm(options))


async def _rm(options: argparse.Namespace) -> int:
    report = Report(options)
    async with opened(options) as client:

        async def do(found: Found) -> None:
            try:
                if not options.dry_run:
                    await client.delete(found.path, missing_ok=options.force)
                outcome = Outcome(Result.DONE)
            except (ClientError, ValueError) as error:
                outcome = failure(error)
            report.add("delete", found.path, outcome)

        jobs = _to_remove(client, options, report)
        await report.screen.during(do_each(jobs, do, options.concurrency))
        return report.ended()


async def _to_remove(
    client: AsyncClient, options: argparse.Namespace, report: Report
) -> AsyncGenerator[Found, None]:
    count = 0
    for name in options.names:
        try:
            async with aclosing(found_files(client, name, options.recursive)) as found:
                async for each in found:
                    count += 1
                    yield each
        except NotFound as error:
            if not options.force:
                report.add("delete", name, failure(error))
    report.tally.total = count
