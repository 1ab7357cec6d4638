"""``sfss put``: upload files, folders, and what a list names.

Standard output has the names that failed, in the form in which they were given, so that it can be
the list of another run. Everything else goes to standard error.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Final

import uvloop

from sfss.client import TOKEN_VARIABLE, URL_VARIABLE, url_of
from sfss.client_text import DEFAULT_URL, read_server, token_value
from sfss.command_parsers import NewParser
from sfss.errors import BadPath, SettingError
from sfss.progress import Screen
from sfss.remote_command import INTERRUPTED, add_effort, check_effort, wrong
from sfss.stopping import listen_for_signals
from sfss.upload import Order, Uploader, opened
from sfss.upload_feed import Feed
from sfss.upload_plan import FACES, Outcome, Result, Tally, Target, path_segments
from sfss.upload_sources import STDIN, Given, Item, stdin_ahead, stdin_blocks, stdin_is_file


def run_put(options: argparse.Namespace) -> int:
    """Upload what ``options`` name, and return the exit status: 0, 1 if some failed, 130 if it was
    interrupted. Raises ``SettingError``.
    """
    order = _order(options)
    given = Given(options.names, order.folder, b"\0" if options.null else b"\n", not options.delete)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Run(given, order, options.concurrency).to_its_end())
    except KeyboardInterrupt:
        return INTERRUPTED


def _order(options: argparse.Namespace) -> Order:
    url = url_of(options.url)
    try:
        server = read_server(url)
    except ValueError:
        raise wrong("--to", f"is {url!r}", "http://HOST:PORT is expected") from None
    check_effort(options)
    if options.check and options.delete:
        raise wrong("--check", "is given with --delete", "one of them is allowed")
    try:
        prefix = path_segments(options.path) if options.path.strip("/") else ()
    except BadPath as error:
        raise wrong("--path", f"is {options.path!r}", str(error)) from None
    return Order(
        server=server,
        target=Target(options.face, prefix),
        folder=Path(options.folder),
        check=options.check,
        delete=options.delete,
        tries=options.tries,
        silence_s=options.timeout,
        token=_token(),
    )


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    try:
        return token_value(token) if token else ""
    except ValueError as error:
        raise SettingError("environment", TOKEN_VARIABLE, "is no token", str(error)) from None


class Run:
    """One run of the command."""

    def __init__(self, given: Given, order: Order, concurrency: int) -> None:
        self._given, self._order, self._concurrency = given, order, concurrency
        self._tally = Tally(time.monotonic())
        self._report = Report(self._tally, given.separator)

    async def to_its_end(self) -> int:
        """Do all there is, or as much as there is time for until a signal; return the status."""
        stopping = asyncio.Event()
        listen_for_signals(stopping)
        feed = Feed(self._given.batches(stdin_blocks))
        self._count()
        work = asyncio.create_task(self._work(feed))
        stopped = asyncio.create_task(stopping.wait())
        ended = asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await self._report.screen.during(ended, lambda: self._look(feed))
        if work.done():
            work.result()
            self._report.end()
            return 1 if self._tally.failed else 0
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await self._leave(feed)
        return INTERRUPTED

    async def _work(self, feed: Feed) -> None:
        async with opened(self._order, self._concurrency) as uploader:
            await uploader.check_face()
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._treat_all(feed, uploader))

    async def _treat_all(self, feed: Feed, uploader: Uploader) -> None:
        while (item := await feed.next()) is not None:
            try:
                outcome = await uploader.treat(item)
            except asyncio.CancelledError:
                self._report.not_done(item)
                raise
            self._report.add(item, outcome)

    async def _leave(self, feed: Feed) -> None:
        """Print what is left; a terminal is not asked for more."""
        self._report.end("interrupted; names that are left go to standard output")
        is_typed = STDIN in self._given.names and os.isatty(0)
        while not is_typed and (item := await feed.next()) is not None:
            self._report.not_done(item)

    def _look(self, feed: Feed) -> None:
        if feed.is_complete:
            self._tally.total = feed.count

    def _count(self) -> None:
        """Find out in a thread how much there is to be done, if that can be known beforehand."""
        if STDIN in self._given.names and not stdin_is_file():
            return
        # Made here: reading standard input moves where it is.
        batches = self._given.batches(stdin_ahead)

        def count() -> None:
            self._tally.total = sum(not item.is_ignored for batch in batches for item in batch)

        Thread(target=count, daemon=True).start()


class Report:
    """What the user is told: on standard output what failed, on standard error the rest."""

    def __init__(self, tally: Tally, separator: bytes) -> None:
        self._tally, self._separator = tally, separator
        self.screen = Screen(tally)
        self._is_heard = sys.stdout is not None

    def add(self, item: Item, outcome: Outcome) -> None:
        """Take note of what became of ``item``, and say so if that is news."""
        self._tally.add(outcome)
        if outcome.result is Result.FAILED:
            self.not_done(item)
        if outcome.reason:
            self.screen.say(f"{item.name}: {outcome.reason}" if item.name else outcome.reason)

    def not_done(self, item: Item) -> None:
        """Print the name of ``item`` on standard output."""
        if not item.name or item.is_ignored:
            return
        line = os.fsencode(item.name)
        if self._separator in line:
            self.screen.say(f"{item.name}: only --null can print this name, or take it from a list")
            return
        self.screen.clear()
        self._write(line + self._separator)

    def _write(self, line: bytes) -> None:
        if not self._is_heard:
            return
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except OSError as error:
            # The rest goes on. At its end Python would try to write once more.
            self._is_heard = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.screen.say(f"cannot write to standard output: {error.strerror}")

    def end(self, sentence: str = "") -> None:
        """Say how it went."""
        self.screen.end()
        if sentence:
            self.screen.say(sentence)


_EPILOG: Final = """\
A name is stored as the path that it is: "sfss put a/b" stores a/b, and "sfss put a" all files below
the folder a. What begins a path in the file system only ("/", "./") is left out, ".." is refused:
use --folder. A URL is fetched, and stored under its own path.

Standard output has the names that failed, as they were given, standard error says why:

    sfss put pictures > failed; sfss put - < failed

A server that wants a token is shown the one in SFSS_TOKEN.

Ctrl-C stops it and prints the names that are left, too. Exit status: 0 all is done, 1 some names
failed, 2 a wrong option, 130 interrupted.
"""


def add_put(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="file, folder, URL, or - for a list on stdin"
    )
    parser.add_argument(
        "--to",
        dest="url",
        metavar="URL",
        help=f"the server (default: {URL_VARIABLE} in the environment, or {DEFAULT_URL})",
    )
    parser.add_argument(
        "--face",
        choices=tuple(FACES),
        default="native",
        help="native: PUT /file?path=P; paths: PUT /P, for WebDAV servers (default: native)",
    )
    parser.add_argument(
        "--path", default="", metavar="PREFIX", help="what is put before every path"
    )
    parser.add_argument(
        "--folder", default=".", metavar="FOLDER", help="where names begin (default: here)"
    )
    _add_manner(parser)


def _add_manner(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add("--check", action="store_true", help="leave out what is there with the same content")
    add("--delete", action="store_true", help="delete these paths instead; folders are not entered")
    add(
        "--null", action="store_true", help="names on stdin and stdout end with NUL, not a new line"
    )
    add_effort(parser)
