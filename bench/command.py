"""The command line of ``bench/run`` and of each question."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import machine
import pytest
import report
from harness import LOAD_CORE, SERVER_CORE, Group, Plan, Void, program, say

Question: TypeAlias = Callable[[Plan], Iterator[Group]]

_PROGRAMS: Final = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "memcached": "memcached",
    "taskset": "util-linux",
}
"""Programs by name, with the Debian packages that have them."""


def main(questions: Mapping[str, Question]) -> int:
    """Ask ``questions`` as the command line says; return 1 if what came out says nothing."""
    options = _options(list(questions))
    obstacle = _obstacle(options)
    if obstacle:
        print(f"bench: {obstacle}", file=sys.stderr)
        return 1
    plan = Plan(options.rounds, options.seconds, options.full, options.folder)
    described = machine.describe(plan.folder)
    groups, void = _ask({name: questions[name] for name in options.only or questions}, plan)
    words = f"{plan.rounds} rounds of {plan.seconds} s each, in turn; one worker each"
    print(report.table(groups, described, words))
    if options.json:
        options.json.write_text(report.as_json(groups, described, words, void))
    if options.chart:
        report.draw(groups, described, options.chart)
    for name, reason in void.items():
        print(f"VOID: {name}: {reason}")
    return 1 if void else 0


def _ask(
    questions: Mapping[str, Question], plan: Plan
) -> tuple[dict[str, list[Group]], dict[str, str]]:
    """Return what was found by question, and for those that failed why."""
    groups: dict[str, list[Group]] = {}
    void: dict[str, str] = {}
    for name, question in questions.items():
        say(name)
        try:
            groups[name] = list(question(plan))
        except (Void, OSError, pytest.fail.Exception) as error:
            void[name] = str(error)
            say(f"  void: {error}")
    return groups, void


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--rounds", type=_positive, default=5, help="of each contender (default 5)")
    parser.add_argument("--seconds", type=_positive, default=3, help="of each round (default 3)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--full", action="store_true", help="1,000,000 files too; takes minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--chart", type=Path, metavar="FILE.png", help="draw the rates")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),
        help="where the stores are made; on a disk, for fsync costs nothing in memory"
        " (default /var/tmp)",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _obstacle(options: argparse.Namespace) -> str | None:
    """Return what stands in the way in a sentence, None if nothing does."""
    missing = [name for name in _PROGRAMS if program(name) is None]
    if missing:
        packages = " ".join(_PROGRAMS[name] for name in missing)
        return f"missing: {', '.join(missing)}; on Debian: apt-get install {packages}"
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        return "two cores are needed, 0 for the servers and 1 for wrk"
    if options.chart and importlib.util.find_spec("matplotlib") is None:
        return f"--chart needs matplotlib; install it: {sys.executable} -m pip install matplotlib"
    return None
