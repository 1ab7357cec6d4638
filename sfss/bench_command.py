"""``sfss bench``: a quick load on a running server, and honest figures: what was wrong counts, and
whether the server or this client was at its limit is said.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import secrets
import time
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sfss.client import AsyncClient
from sfss.client_errors import ClientError
from sfss.command_parsers import NewParser
from sfss.readable import readable_size
from sfss.remote_command import (
    FAILED,
    add_json,
    add_server,
    do_each,
    opened,
    print_line,
    run_command,
    wrong,
)

_SIZE_LIMIT: Final = 64 * 1024 * 1024
_BUSY: Final = 0.85
"""Share of a core from which on the client is taken for what limits the rate."""

_BAR: Final = 40
_Item = TypeVar("_Item")


def add_bench(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Measure a running server with a mix of GET and PUT. The files are made below"
        " sfss-bench-.../ and removed at the end. Every body that comes is held against its digest."
        " Exit status: 0, 1 if a request failed, 2 a wrong option, 130 interrupted.",
    )
    add: Any = parser.add_argument
    add("--seconds", type=float, default=5.0, metavar="NUMBER", help="how long (default: 5)")
    add("--size", type=int, default=1024, metavar="BYTES", help="of each file (default: 1024)")
    add(
        "--reads",
        type=int,
        default=50,
        metavar="PERCENT",
        help="share of GET, the others are PUT (default: 50)",
    )
    add("--files", type=int, default=500, metavar="NUMBER", help="files to read (default: 500)")
    add_json(parser)
    add_server(parser)


def run_bench(options: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    for flag, value, least, most in (
        ("--seconds", options.seconds, 0.1, 86_400),
        ("--size", options.size, 0, _SIZE_LIMIT),
        ("--reads", options.reads, 0, 100),
        ("--files", options.files, 1, 1_000_000),
    ):
        if not least <= value <= most:
            raise wrong(flag, f"is {value}", f"a number from {least} to {most} is expected")
    return run_command(lambda: _bench(options))


@dataclass(slots=True)
class Times:
    """How long requests of one kind took, in seconds."""

    each: "array[float]" = field(default_factory=lambda: array("d"))

    def figures(self, elapsed_s: float) -> dict[str, float | int]:
        """Return rate and percentiles."""
        ordered = sorted(self.each)
        found: dict[str, float | int] = {
            "requests": len(ordered),
            "per_second": round(len(ordered) / elapsed_s, 1),
        }
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("max_ms", 1.0)):
            if ordered:
                found[name] = round(1000 * ordered[int(share * (len(ordered) - 1))], 3)
        return found

    def histogram(self) -> list[tuple[float, int]]:
        """Return how many took up to so many milliseconds, each limit twice the one before."""
        counts: dict[float, int] = {}
        for seconds in self.each:
            limit_ms = 0.125
            while seconds * 1000 > limit_ms:
                limit_ms *= 2
            counts[limit_ms] = counts.get(limit_ms, 0) + 1
        return sorted(counts.items())


class Load:
    """A mix of requests on ``client``."""

    def __init__(self, client: AsyncClient, options: argparse.Namespace) -> None:
        self._client, self._options = client, options
        self._top = f"sfss-bench-{secrets.token_hex(6)}"
        self._content = os.urandom(options.size)
        self._written = 0
        self.times = {"GET": Times(), "PUT": Times()}
        self.failures: dict[str, int] = {}
        self.elapsed_s = self.cpu_s = 0.0

    async def run(self) -> None:
        """Make the files, measure, and remove them. Raises ``ClientError`` where they cannot be
        made.
        """
        try:
            if self._options.reads:
                await self._all(range(self._options.files), self._make)
            began_s, cpu_s = time.perf_counter(), _cpu_s()
            end_s = began_s + self._options.seconds
            await asyncio.gather(*(self._ask(end_s) for _ in range(self._options.concurrency)))
            self.elapsed_s = time.perf_counter() - began_s
            self.cpu_s = _cpu_s() - cpu_s
        finally:
            names = [file.path async for file in self._client.list(f"{self._top}/")]
            await self._all(names, self._remove)

    async def _make(self, number: int) -> None:
        await self._client.put(f"{self._top}/read/{number}", self._content)

    async def _remove(self, name: str) -> None:
        await self._client.delete(name, missing_ok=True)

    async def _all(self, items: Iterable[_Item], do: Callable[[_Item], Awaitable[None]]) -> None:
        await do_each(_each_of(items), do, self._options.concurrency)

    async def _ask(self, end_s: float) -> None:
        while (began_s := time.perf_counter()) < end_s:
            is_read = random.random() * 100 < self._options.reads
            try:
                if is_read:
                    number = random.randrange(self._options.files)
                    await self._client.get(f"{self._top}/read/{number}")
                else:
                    self._written += 1
                    await self._client.put(f"{self._top}/put/{self._written}", self._content)
            except ClientError as error:
                kind = type(error).__name__
                self.failures[kind] = self.failures.get(kind, 0) + 1
                continue
            kind = "GET" if is_read else "PUT"
            self.times[kind].each.append(time.perf_counter() - began_s)


async def _each_of(items: Iterable[_Item]) -> AsyncGenerator[_Item, None]:
    for item in items:
        yield item


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _bench(options: argparse.Namespace) -> int:
    async with opened(options) as client:
        load = Load(client, options)
        await load.run()
    share = load.cpu_s / load.elapsed_s
    kinds = {
        kind: times.figures(load.elapsed_s) for kind, times in load.times.items() if times.each
    }
    if options.as_json:
        found = {**kinds, "failures": load.failures, "client_cpu": round(share, 3)}
        print_line(json.dumps(found))
    else:
        _print(load, options, kinds, share)
    return FAILED if load.failures else 0


def _print(
    load: Load, options: argparse.Namespace, kinds: dict[str, dict[str, float | int]], share: float
) -> None:
    total = sum(figures["requests"] for figures in kinds.values())
    rate = total / load.elapsed_s
    print_line(
        f"{total:,} requests in {load.elapsed_s:.1f} s, {rate:,.0f}/s,"
        f" {readable_size(rate * options.size)}/s, {options.concurrency} at a time"
    )
    for kind, figures in kinds.items():
        print_line("  ".join([kind, *(f"{name} {value:,}" for name, value in figures.items())]))
        _print_histogram(load.times[kind])
    for name, count in load.failures.items():
        print_line(f"failed: {count:,} {name}")
    print_line(f"this client used {share:.0%} of a core")
    if share > _BUSY:
        print_line("so it was the client that was at its limit, and not the server")


def _print_histogram(times: Times) -> None:
    found = times.histogram()
    most = max(count for _, count in found)
    for limit_ms, count in found:
        bar = "#" * max(1, round(_BAR * count / most))
        print_line(f"  to {limit_ms:>9,.3f} ms {count:>10,}  {bar}")
