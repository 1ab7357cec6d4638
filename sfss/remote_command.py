"""What the commands have in common that ask a gateway: addresses, options, how they report and end.

========  ====================================================================
status    meaning
========  ====================================================================
0         all is done
1         something failed, or is not there; standard error says what
2         wrong options
130       interrupted (``Ctrl-C``, SIGTERM)
========  ====================================================================
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple, TypeVar

import uvloop

from sfss.client import TOKEN_VARIABLE, URL_VARIABLE, AsyncClient, url_of
from sfss.client_errors import ClientError, NotFound
from sfss.client_text import DAMAGED, DEFAULT_URL, File, read_server
from sfss.errors import SettingError
from sfss.glob_patterns import compiled, literal_prefix
from sfss.progress import Screen
from sfss.upload_plan import Outcome, Result, Tally

FAILED: Final = 1
INTERRUPTED: Final = 130
OTHER_TOKEN_VARIABLE: Final = "SFSS_OTHER_TOKEN"

_CONCURRENCY_LIMIT: Final = 512
_OTHER: Final = re.compile(r"(https?://[^/]+)/?(.*)", re.DOTALL)
_OURS: Final = re.compile(r"sfss:/{0,2}(.*)", re.DOTALL)

_Job = TypeVar("_Job")


class Remote(NamedTuple):
    """A path of a gateway; ``url`` None: of the one that ``--url`` names."""

    url: str | None
    path: str


def read_remote(text: str) -> Remote | None:
    """Return what ``sfss:PATH`` and ``http://HOST:PORT/PATH`` name; None for what is neither."""
    if found := _OTHER.fullmatch(text):
        return Remote(found[1], found[2])
    if found := _OURS.fullmatch(text):
        return Remote(None, found[1])
    return None


def remote_path(text: str) -> str:
    """Return the path that ``text`` is, or names as ``sfss:PATH``. Raises ``SettingError``."""
    found = read_remote(text)
    if found is None:
        return text
    if found.url is not None:
        raise wrong("PATH", f"is {text!r}", "--url names the server; a path is expected")
    return found.path


def wrong(flag: str, found: str, allowed: str) -> SettingError:
    """Return the error that an option is."""
    return SettingError("command line", flag, found, allowed)


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which gateway is asked, and how."""
    add: Callable[..., Any] = parser.add_argument
    add(
        "--url",
        metavar="URL",
        help=f"the server (default: {URL_VARIABLE} in the environment, or {DEFAULT_URL};"
        f" {TOKEN_VARIABLE} is its token)",
    )
    add_effort(parser)


def add_effort(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much is asked at once, and how often."""
    add: Callable[..., Any] = parser.add_argument
    add(
        "--concurrency",
        type=int,
        default=16,
        metavar="NUMBER",
        help="requests at the same time (default: 16)",
    )
    add(
        "--tries",
        type=int,
        default=5,
        metavar="NUMBER",
        help="tries for each, if a further one may help (default: 5)",
    )
    add(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long nothing may move before a try counts as failed (default: 60)",
    )


def check_effort(options: argparse.Namespace) -> None:
    """Raise ``SettingError`` for an option of ``add_effort`` that cannot be."""
    if not 1 <= options.concurrency <= _CONCURRENCY_LIMIT:
        allowed = f"a number from 1 to {_CONCURRENCY_LIMIT} is expected"
        raise wrong("--concurrency", f"is {options.concurrency}", allowed)
    for flag, value in (("--tries", options.tries), ("--timeout", options.timeout)):
        if not 0 < value < inf:
            raise wrong(flag, f"is {value:g}", "a number over 0 is expected")


def add_manner(parser: argparse.ArgumentParser, dry_run: bool = True) -> None:
    """Add the options that say how it is reported."""
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    add_json(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="no progress and no summary, only what went wrong"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option for results that programs read."""
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print one JSON object a line"
    )


@asynccontextmanager
async def opened(options: argparse.Namespace, url: str | None = None) -> AsyncIterator[AsyncClient]:
    """Give a client of the gateway that ``options`` name, or that is at ``url``. Raises
    ``SettingError``.
    """
    chosen = url_of(options.url)
    check_effort(options)
    try:
        client = AsyncClient(
            url or chosen,
            _token(chosen, url),
            connections=options.concurrency,
            tries=options.tries,
            timeout_s=options.timeout,
        )
    except ValueError as error:
        raise wrong("--url", f"is {url or chosen!r}", str(error)) from None
    async with client:
        yield client


def _token(chosen: str, url: str | None) -> str:
    """Return the token for ``url``: never that of the server ``chosen`` for another one."""
    if url is None or read_server(url).origin == read_server(chosen).origin:
        return os.environ.get(TOKEN_VARIABLE, "")
    return os.environ.get(OTHER_TOKEN_VARIABLE, "")


def new_runner() -> asyncio.Runner:
    """Return what runs a coroutine of a command."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run_command(work: Callable[[], Awaitable[int | None]]) -> int:
    """Run a command to its end, and return its exit status; says why it failed. Raises
    ``SettingError``.
    """

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work() or 0

    try:
        with new_runner() as runner:
            return runner.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except ClientError as error:
        Screen(Tally(0.0)).say(str(error))
        return FAILED
    except OSError as error:
        # With a broken pipe, whoever reads has enough. At its end Python would write once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            Screen(Tally(0.0)).say(f"cannot go on: {error.strerror or error}")
        return FAILED


class Report:
    """What the user is told: on standard output, with ``--json`` or ``--dry-run``, what was done;
    on standard error what failed, how far it is, and how it went.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.tally = Tally(time.monotonic())
        self.screen = Screen(self.tally, options.quiet)
        self._as_json = options.as_json
        self._is_dry = getattr(options, "dry_run", False)

    def moved(self, size: int) -> None:
        """Take note that ``size`` more bytes were sent, or have come."""
        self.tally.sent_bytes += size

    def begin_anew(self) -> None:
        """Count from the beginning: what was done is going to be found there."""
        if self._is_dry:
            self.tally.stored = 0
        self.tally.failed, self.tally.there = 0, -self.tally.stored

    def add(self, action: str, path: str, outcome: Outcome, **more: object) -> None:
        """Take note of what became of ``path``; ``more`` is for ``--json``."""
        self.tally.add(outcome)
        if outcome.result is Result.FAILED:
            is_named = f"/{path}:" in f"/{outcome.reason}"
            self.screen.say(outcome.reason if is_named else f"{path}: {outcome.reason}")
        elif outcome.reason:
            self.screen.say(f"{path}: {outcome.reason}")
        if self._as_json:
            is_planned = self._is_dry and outcome.result is Result.DONE
            result = "planned" if is_planned else outcome.result.name.lower()
            said = {"reason": outcome.reason} if outcome.reason else {}
            self.print(
                json.dumps({"action": action, "path": path, "result": result, **more, **said})
            )
        elif self._is_dry and outcome.result is Result.DONE:
            self.print(f"{action} {path}")

    def print(self, line: str) -> None:
        """Print ``line`` on standard output."""
        self.screen.clear()
        print_line(line)

    def ended(self) -> int:
        """Say how it went, and return the exit status."""
        self.screen.end()
        return FAILED if self.tally.failed else 0


def print_line(line: str) -> None:
    """Print ``line`` on standard output; names that are not UTF-8 as the bytes that they are."""
    if sys.stdout is None:
        return
    sys.stdout.buffer.write(f"{line}\n".encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def say_damaged(path: str) -> None:
    """Say that what a server has at ``path`` is damaged."""
    Screen(Tally(0.0)).say(f"{path}: {DAMAGED}")


def failure(error: Exception) -> Outcome:
    """Return what became of a path, which ``error`` has prevented."""
    is_name = isinstance(error, UnicodeEncodeError)
    return Outcome(Result.FAILED, "its path is not UTF-8" if is_name else str(error))


async def do_each(
    jobs: AsyncGenerator[_Job, None], do: Callable[[_Job], Awaitable[None]], concurrency: int
) -> None:
    """Do all ``jobs``, ``concurrency`` of them at the same time. An error of ``jobs`` is raised
    when those that came before it are done; one of ``do`` ends it all.
    """
    turn = asyncio.Lock()
    errors: list[ClientError] = []

    async def following() -> _Job | None:
        async with turn:
            try:
                return None if errors else await anext(jobs, None)
            except ClientError as error:
                errors.append(error)
                return None

    async def work() -> None:
        while (job := await following()) is not None:
            await do(job)

    async with aclosing(jobs):
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as group_of:
            raise group_of.exceptions[0] from None
    if errors:
        raise errors[0]


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a name on the command line means; ``below``: its path behind what the name says
    of folders. ``file`` is None for one that nobody has looked at yet, or that ``is_damaged``, as
    the server says.
    """

    path: str
    below: str
    file: File | None = None
    is_damaged: bool = False


async def found_files(
    client: AsyncClient, name: str, recursive: bool
) -> AsyncGenerator[Found, None]:
    """Yield the files that ``name`` means: a path, a pattern, or all below a folder if
    ``recursive``.

    Raises ``ClientError``; ``NotFound`` where a pattern or a folder means no file.
    """
    path = remote_path(name)
    prefix, is_pattern = literal_prefix(path)
    if not is_pattern and not recursive and prefix and not prefix.endswith("/"):
        yield Found(prefix, prefix.rpartition("/")[2])
        return
    if not is_pattern and not recursive:
        raise wrong("PATH", f"is {name!r}, a folder", "--recursive is expected with it")
    if is_pattern:
        try:
            expression = compiled(f"{path.rstrip('/')}/**" if path.endswith("/") else path)
        except ValueError as error:
            raise wrong("PATH", f"is {name!r}", str(error)) from None
        top = prefix[: prefix.rfind("/") + 1]
    else:
        expression = None
        top = prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    count = 0
    async with aclosing(client.pages(prefix)) as pages:
        async for page in pages:
            for path, file in page.things():
                if expression is None or expression.fullmatch(path):
                    count += 1
                    yield Found(path, path[len(top) :], file, file is None)
    if not count:
        raise NotFound(f"{name}: there is no such file", 404)
