"""``sfss export`` and ``import``: the files of a gateway as one tar archive, and back."""

import argparse
import sys
from typing import IO

from sfss.client_errors import ClientError
from sfss.command_parsers import NewParser
from sfss.errors import BadPath
from sfss.remote_command import FAILED, Report, add_manner, add_server, opened, run_command, wrong
from sfss.tar_export import Export
from sfss.tar_import import Import
from sfss.upload_plan import path_segments


def add_export(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Write files as a tar archive to standard output: with their types, times, and"
        " when they expire, for sfss import; any tar can read it.",
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
    add_manner(parser)
    add_server(parser)


def run_export(options: argparse.Namespace) -> int:
    """Do it, and return the exit status."""
    if sys.stdout is None or sys.stdout.isatty():
        found = "is closed" if sys.stdout is None else "is a terminal"
        raise wrong("standard output", found, "a file or a pipe is expected")
    options.as_json = False
    return run_command(lambda: _export(options))


async def _export(options: argparse.Namespace) -> int:
    report = Report(options)
    async with opened(options) as client:
        export = Export(client, report, sys.stdout.fileno(), options.concurrency)
        try:
            await report.screen.during(export.run(options.names or [""]))
        except ClientError as error:
            report.screen.say(f"{error}; the archive has no end")
            return FAILED
    status = report.ended()
    if status:
        report.screen.say("the archive has no end, for not all files are in it")
    return status


def run_import(options: argparse.Namespace) -> int:
    """Do it, and return the exit status."""
    try:
        prefix = path_segments(options.path) if options.path.strip("/") else ()
    except BadPath as error:
        raise wrong("--path", f"is {options.path!r}", str(error)) from None
    is_given = options.file != "-"
    if not is_given and (sys.stdin is None or sys.stdin.isatty()):
        found = "is closed" if sys.stdin is None else "is a terminal"
        raise wrong("standard input", found, "an archive is expected")
    try:
        # Unbuffered: at its end Python would wait for a buffer that a thread reads into.
        file = open(options.file if is_given else 0, "rb", 0, closefd=is_given)  # noqa: SIM115
    except OSError as error:
        raise wrong("FILE", f"is {options.file!r}", str(error.strerror)) from None
    return run_command(lambda: _import(options, file, prefix))


async def _import(options: argparse.Namespace, file: IO[bytes], prefix: tuple[str, ...]) -> int:
    report = Report(options)
    async with opened(options) as client:
        importing = Import(client, report, options, prefix, file)
        failed = await report.screen.during(importing.run())
    return report.ended() or failed
