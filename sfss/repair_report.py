"""What a run of a repair tool has found and done: for people, for programs, on the terminal."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sfss.faults import Fault
from sfss.readable import readable_size, readable_span
from sfss.repair import Outcome, Tool
from sfss.repair_notes import Notes

FINDINGS_REPORTED: Final = 1000
"""Findings in a report as JSON; all of them are in a file."""

FINDINGS_PRINTED: Final = 20

INTERRUPTED: Final = 130

_REDRAW_S: Final = 0.1
_CLEAR_LINE: Final = "\r\x1b[K"


def counted(counts: Counter[str]) -> dict[str, int]:
    """Return what a run has ``counts`` of, by the names in a report and in ``Progress``."""
    remaining = sum(counts[_counter(each)] for each in (Outcome.FOUND, Outcome.FAILED))
    return {
        "done": counts["keys"],
        "looked_at": counts["looked_at"],
        "mended": counts[_counter(Outcome.MENDED)],
        "moved": counts[_counter(Outcome.MOVED)],
        "removed": counts[_counter(Outcome.REMOVED)],
        "failed": counts[_counter(Outcome.FAILED)],
        "remaining": remaining,
        "scarce": counts["scarce"],
        "reaped": counts["reaped"],
        "expired": counts["expired"],
        "written_bytes": counts["written_bytes"],
    }


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has done. ``is_whole``: it was not interrupted; ``total``: all keys listed;
    ``settled``: stores that can be believed again; ``owed``: writes that stores still have to get.
    """

    tool: Tool
    dry_run: bool
    stores: Sequence[str]
    is_whole: bool
    total: int
    notes: Notes
    unreachable: Mapping[str, str]
    settled: Sequence[str]
    owed: int
    elapsed_s: float

    @property
    def remaining(self) -> int:
        """How many findings are as they were."""
        return counted(self.notes.counts)["remaining"]

    @property
    def status(self) -> int:
        """The exit status, see ``repair_commands.run_tool``."""
        if not self.is_whole:
            return INTERRUPTED
        if self.unreachable or self.notes.counts[Fault.UNKNOWN.value]:
            return 2
        return 1 if self.remaining or self.notes.counts["scarce"] else 0

    def document(self) -> dict[str, Any]:
        """Return all of it, for programs."""
        counts = self.notes.counts
        return {
            "tool": self.tool.value,
            "dry_run": self.dry_run,
            "status": self.status,
            "finished": self.is_whole,
            "stores": list(self.stores),
            "unreachable": dict(self.unreachable),
            "keys": self.total,
            **counted(counts),
            "foreign": counts["foreign"],
            "findings": {fault.value: counts[fault.value] for fault in Fault},
            "settled": list(self.settled),
            "owed": self.owed,
            "elapsed_s": round(self.elapsed_s, 3),
            "found": self.notes.findings(FINDINGS_REPORTED),
            "findings_file": str(self.notes.findings_file),
        }

    def text(self) -> str:
        """Return a short report, for people."""
        return "\n".join([*self._findings(), *self._warnings(), *self._summary()])

    def _findings(self) -> list[str]:
        rows = self.notes.findings(FINDINGS_PRINTED + 1)
        lines = [_finding_line(row) for row in rows[:FINDINGS_PRINTED]]
        return [*lines, f"... all: {self.notes.findings_file}"] if len(rows) > len(lines) else lines

    def _warnings(self) -> list[str]:
        counts = self.notes.counts
        lines = [f"not listed: {why}" for why in self.unreachable.values()]
        if not self.is_whole:
            lines.append(self._interrupted())
        if counts["scarce"]:
            lines.append(f"{counts['scarce']} files have fewer sound copies than --min-copies says")
        if counts["foreign"]:
            lines.append(f"{counts['foreign']} keys are no paths of sfss and were left alone")
        if counts[Fault.MISPLACED.value] and self.tool is not Tool.REBALANCE:
            lines.append("what is misplaced is moved by sfss rebalance")
        lines += [
            f"store {address} has got all that it had missed, and is read like the others again"
            for address in self.settled
        ]
        if self.owed:
            lines.append(f"{self.owed} writes are still owed to stores")
        return lines

    def _interrupted(self) -> str:
        if not self.total:
            return "interrupted before all stores were listed: the same command begins anew"
        how = "begins anew" if self.unreachable else "goes on there, or anew with --fresh"
        where = f"after {self.notes.counts['keys']} of {self.total} keys"
        return f"interrupted {where}: the same command {how}"

    def _summary(self) -> list[str]:
        counts = self.notes.counts
        dry = " (dry run)" if self.dry_run else ""
        faults = [f"{counts[fault.value]} {fault.value}" for fault in Fault if counts[fault.value]]
        done = [
            f"{counts[_counter(each)]} {each.value}"
            for each in (Outcome.MENDED, Outcome.MOVED, Outcome.REMOVED, Outcome.FAILED)
            if counts[_counter(each)]
        ]
        if counts["written_bytes"]:
            done.append(f"{readable_size(counts['written_bytes'])} written")
        if counts["expired"]:
            done.append(f"{counts['expired']} copies of expired files removed")
        if counts["reaped"]:
            done.append(f"{counts['reaped']} old tombstones forgotten")
        return [
            f"{self.tool.value}{dry}: {_number(counts['keys'], 'key')} on"
            f" {_number(len(self.stores), 'store')} in {self.elapsed_s:.1f} s, {self._looked_at()}",
            "; ".join([", ".join(faults) or self._nothing(), *([", ".join(done)] if done else [])]),
        ]

    def _looked_at(self) -> str:
        looked_at, keys = self.notes.counts["looked_at"], self.notes.counts["keys"]
        return "all looked at" if looked_at == keys else f"{looked_at} needed a closer look"

    def _nothing(self) -> str:
        if not self.is_whole:
            return "nothing wrong so far"
        if not self.unreachable:
            return "all is well"
        missing = f"{len(self.unreachable)} of {_number(len(self.stores), 'store')}"
        return f"nothing is wrong in what was listed, and {missing} could not be listed"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _counter(outcome: Outcome) -> str:
    return f"outcome {outcome.value}"


def _finding_line(row: Mapping[str, str]) -> str:
    path, store, fault = _printable(row["path"]), row["store"], row["fault"]
    outcome = "" if row["outcome"] == Outcome.FOUND.value else f" -> {row['outcome']}"
    return f"{fault:9} {store}  {path}: {_printable(row['reason'])}{outcome}"


def _printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey instead of show."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class Drawing:
    """One line on the terminal that says how far a run is; nothing elsewhere."""

    def __init__(self) -> None:
        self._is_drawing = sys.stderr is not None and sys.stderr.isatty()
        self._began_s = self._drawn_s = 0.0
        self._first: int | None = None

    def listed(self, count: int) -> None:
        """Show that ``count`` keys have been listed."""
        self._draw(lambda: f"listing the stores: {count} keys")

    def walked(self, done: int, total: int, counts: Counter[str]) -> None:
        """Show that ``done`` of ``total`` keys have been seen to, and what was found."""
        if self._first is None:
            self._first, self._began_s = done, time.monotonic()
        self._draw(lambda: self._progress(done, total, counts))

    def _progress(self, done: int, total: int, counts: Counter[str]) -> str:
        share = min(1.0, done / max(1, total))
        now_done, elapsed_s = done - (self._first or 0), time.monotonic() - self._began_s
        left_s = elapsed_s * (total - done) / now_done if now_done else 0.0
        return (
            f"[{'#' * int(20 * share):.<20}] {done}/{total} keys,"
            f" {counts['findings']} findings, {counts[_counter(Outcome.MENDED)]} mended,"
            f" {now_done / max(elapsed_s, 1e-6):.0f}/s, ETA {readable_span(left_s)}"
        )

    def _draw(self, line: Callable[[], str]) -> None:
        if self._is_drawing and time.monotonic() - self._drawn_s >= _REDRAW_S:
            self._drawn_s = time.monotonic()
            width = shutil.get_terminal_size().columns - 1
            print(_CLEAR_LINE + line()[:width], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._is_drawing:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
