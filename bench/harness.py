"""How the questions measure: rivals in turn, a core for the servers, the other for wrk.

A question is a function from a ``Plan`` to ``Group`` after ``Group``. A wrong answer, an error that
wrk counts or a dead server raises ``Void``: what was measured then says nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from checkout import CHECKOUT
from processes import cpu_s, families, memory_bytes

from tests.servers import SEARCH_PATH, AnyServer, Server, running

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
BENCH: Final = CHECKOUT / "bench"

_SLACK: Final = 0.97
_LAST_WORDS: Final = 600
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_US: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


class Void(Exception):
    """Raised when a run says nothing, because an answer was wrong or missing."""


@dataclass(frozen=True)
class Plan:
    """How much is measured, and where files may be written."""

    rounds: int
    seconds: int
    full: bool
    folder: Path

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Give a new folder for the block."""
        with TemporaryDirectory(dir=self.folder, prefix="sfss-bench-") as name:
            yield Path(name)


@dataclass(frozen=True)
class Load:
    """What wrk is told; ``body_size`` is what each answer has at least, in bytes."""

    target: str
    connections: int = 32
    body_size: int = 0
    headers: Sequence[str] = ()
    script: str | None = None
    arguments: Sequence[str] = ()


class Contender:
    """Servers that work together under one name, the first of them asked by ``load``."""

    def __init__(self, name: str, *servers: Server) -> None:
        self.name, self.servers = name, servers

    def load(self, number: int) -> Load:
        """Return the load of round ``number``; 0 is the warm-up."""
        raise NotImplementedError

    def check(self, number: int, requests: int | None) -> None:
        """Raise ``Void`` unless answers are right, before (``requests`` None) and after a round."""
        raise NotImplementedError

    def measure(self, number: int, seconds: int) -> tuple[dict[str, float], float]:
        """Put the load of round ``number`` on it, with wrk unless it is no HTTP.

        Return ``requests``, ``rate``, ``p50_us`` and ``p99_us``, and the CPU seconds of the load.
        """
        text, load_cpu_s = _wrk(self.load(number), self.servers[0], seconds)
        return _counts(self, number, text), load_cpu_s

    def pids(self) -> list[int]:
        """Return the processes of all servers."""
        return families(server.pid for server in self.servers)


@dataclass(frozen=True)
class Round:
    """One contender's figures of one round; times in microseconds."""

    requests: int
    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float
    server_busy: float
    load_busy: float

    def value(self, measure: str) -> float:
        """Return the figure named ``measure``."""
        return float(getattr(self, measure))


@dataclass(frozen=True)
class Result:
    """All rounds of one contender; memory in bytes, the sum of its processes."""

    name: str
    rounds: Sequence[Round]
    peak_bytes: int
    private_bytes: int

    def median(self, measure: str) -> float:
        """Return the median of the rounds."""
        return median(self.values(measure))

    def values(self, measure: str) -> list[float]:
        """Return the figure of each round."""
        return [each.value(measure) for each in self.rounds]


@dataclass(frozen=True)
class Verdict:
    """What was found beside what was asked for; ``met`` is None where nothing is asked."""

    what: str
    found: float
    bar: float | None
    met: bool | None


@dataclass(frozen=True)
class Versus:
    """One contender over its rival, with the least ratio of rates and the most of the others.

    None where the issue asks for nothing.
    """

    contender: str
    rival: str
    rate: float | None = None
    cpu: float | None = None
    p99: float | None = 1.0

    def verdicts(self, results: Mapping[str, Result]) -> list[Verdict]:
        """Return the ratios of the medians, held against the bars."""
        ours, theirs = results[self.contender], results[self.rival]
        ratios = [ours.median(m) / theirs.median(m) for m in ("rate", "cpu_us", "p99_us")]
        return [
            at_least("rate", ratios[0], self.rate),
            at_most("CPU", ratios[1], self.cpu),
            at_most("p99", ratios[2], self.p99),
        ]


def at_least(what: str, found: float, bar: float | None) -> Verdict:
    """Return the verdict on a figure that should be large."""
    return Verdict(what, found, bar, None if bar is None else found >= bar)


def at_most(what: str, found: float, bar: float | None) -> Verdict:
    """Return the verdict on a figure that should be small."""
    return Verdict(what, found, bar, None if bar is None else found <= bar)


@dataclass(frozen=True)
class Figure:
    """Something that no load is needed for, once or in each round; ``bar`` is the most."""

    name: str
    unit: str
    values: Sequence[float]
    bar: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What the median is, held against the bar."""
        return at_most(self.unit, median(self.values), self.bar)


@dataclass(frozen=True)
class Group:
    """The part of the table that answers one thing."""

    title: str
    results: Sequence[Result] = ()
    versus: Sequence[Versus] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def compared(self) -> list[tuple[Versus, list[Verdict]]]:
        """Return each comparison with its verdicts."""
        by_name = {result.name: result for result in self.results}
        return [(versus, versus.verdicts(by_name)) for versus in self.versus]


def say(text: str) -> None:
    """Tell how far it has come."""
    print(text, file=sys.stderr, flush=True)


def program(name: str) -> str | None:
    """Return where the program is, None where it is missing."""
    return shutil.which(name, path=SEARCH_PATH)


@contextmanager
def all_running(*servers: AnyServer) -> Iterator[None]:
    """Run ``servers`` for the block; an ``OSError`` in it becomes ``Void``, with their logs."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(running(server))
        try:
            yield
        except OSError as error:
            raise Void("; ".join([str(error), *filter(None, map(_last_words, servers))])) from error


def _last_words(server: Server) -> str:
    words = server.output()[-_LAST_WORDS:]
    return f"port {server.port} wrote last: {words}" if words else ""


def compete(
    title: str, contenders: Sequence[Contender], versus: Sequence[Versus], plan: Plan
) -> Group:
    """Measure ``contenders``, whose servers run, in turn; each round begins with another one."""
    say(f"  {title}")
    for contender in contenders:
        _round(contender, 0, 1)
    rounds: dict[str, list[Round]] = {contender.name: [] for contender in contenders}
    for number in range(1, plan.rounds + 1):
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            rounds[contender.name].append(_round(contender, number, plan.seconds))
    return Group(title, [_result(each, rounds[each.name]) for each in contenders], versus)


def _result(contender: Contender, rounds: Sequence[Round]) -> Result:
    pids = contender.pids()
    peak, private = memory_bytes(pids, "VmHWM"), memory_bytes(pids, "RssAnon")
    return Result(contender.name, rounds, peak, private)


def _round(contender: Contender, number: int, seconds: int) -> Round:
    contender.check(number, None)
    pids = contender.pids()
    before_s = cpu_s(pids)
    counts, load_cpu_s = contender.measure(number, seconds)
    spent_s = cpu_s(pids) - before_s
    if contender.pids() != pids:
        raise Void(f"{contender.name}: a process has been replaced")
    elapsed_s = counts["requests"] / counts["rate"]
    contender.check(number, int(counts["requests"]))
    return Round(
        requests=int(counts["requests"]),
        rate=counts["rate"],
        cpu_us=spent_s / counts["requests"] * 1e6,
        p50_us=counts["p50_us"],
        p99_us=counts["p99_us"],
        server_busy=spent_s / elapsed_s,
        load_busy=load_cpu_s / elapsed_s,
    )


def _wrk(load: Load, server: Server, seconds: int) -> tuple[str, float]:
    """Return what wrk prints, and the CPU seconds that it used."""
    command = ["wrk", "-t1", f"-c{load.connections}"]
    command += [f"-d{seconds}s", "--latency", "--timeout", "30s"]
    for header in load.headers:
        command += ["-H", header]
    if load.script:
        command += ["-s", str(BENCH / load.script)]
    command += [f"http://{server.address}{load.target}", "--", *load.arguments]
    return run_load(command)


def run_load(command: Sequence[str]) -> tuple[str, float]:
    """Run a load on its core; return what it prints, and the CPU seconds that it used."""
    pinned = ["taskset", "-c", str(LOAD_CORE), *command]
    before = os.times()
    done = subprocess.run(pinned, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise Void(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    used_s = after.children_user + after.children_system
    return done.stdout, used_s - before.children_user - before.children_system


def _counts(contender: Contender, number: int, text: str) -> dict[str, float]:
    for fault in ("Socket errors", "Non-2xx"):
        if fault in text:
            line = next(line.strip() for line in text.splitlines() if fault in line)
            raise Void(f"{contender.name}: {line}")
    total = re.search(r"(\d+) requests in \S+, ([\d.]+)([KMGT]?)B read", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if total is None or rate is None or not int(total[1]):
        raise Void(f"{contender.name}: wrk got no answer: {text}")
    received, requests = float(total[2]) * _UNITS[total[3]], int(total[1])
    if received < requests * contender.load(number).body_size * _SLACK:
        raise Void(f"{contender.name}: {requests} answers of {received:.0f} bytes are too short")
    percentiles = {f"p{percent}_us": _latency_us(text, percent) for percent in (50, 99)}
    return {"requests": requests, "rate": float(rate[1]), **percentiles}


def _latency_us(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if found is None:
        raise Void(f"wrk does not say the {percent}% latency: {text}")
    return float(found[1]) * _US[found[2]]
