"""Results as one table, as JSON, and as a chart."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from harness import Figure, Group, Result, Verdict
from machine import as_text

Groups = Mapping[str, Sequence[Group]]
"""The groups of each question that was answered, by its name."""

_MIB: Final = 1 << 20
_ROW: Final = "{:<28} {:>28} {:>28} {:>10} {:>10} {:>8} {:>8} {:>7}"
_HEADING: Final = (
    "median (min .. max)",
    "requests/s",
    "CPU us/request",
    "p50 us",
    "p99 us",
    "peak MiB",
    "own MiB",
    "busy %",
)
_NOTE: Final = """\
CPU: user and system time of all processes of the server, from /proc. peak: their VmHWM, which
counts mapped files and, once in each process, shared pages; own: their RssAnon at the end. busy: of
the servers' core / of wrk's core; where wrk is at 100 and the server is not, wrk was the limit."""


def table(groups: Groups, machine: dict[str, object], plan: str) -> str:
    """Return the table with the bars below the rows that they are about."""
    lines = [as_text(machine), plan, "", _ROW.format(*_HEADING)]
    for question in groups.values():
        for group in question:
            lines += ["", group.title, *_group_lines(group)]
    return "\n".join([*lines, "", _NOTE, "", *_summary(groups)])


def _group_lines(group: Group) -> Iterator[str]:
    yield from map(_result_line, group.results)
    for figure in group.figures:
        yield from _figure_lines(figure)
    for versus, verdicts in group.compared():
        yield f"    {versus.contender} over {versus.rival}: " + "; ".join(map(_judged, verdicts))
    yield from (f"    {note}" for note in group.notes)


def _result_line(result: Result) -> str:
    busy = [result.median(measure) * 100 for measure in ("server_busy", "load_busy")]
    return _ROW.format(
        f"  {result.name}",
        _spread(result, "rate", 0),
        _spread(result, "cpu_us", 1),
        f"{result.median('p50_us'):,.0f}",
        f"{result.median('p99_us'):,.0f}",
        f"{result.peak_bytes / _MIB:.0f}",
        f"{result.private_bytes / _MIB:.0f}",
        "{:.0f}/{:.0f}".format(*busy),
    )


def _spread(result: Result, measure: str, digits: int) -> str:
    values = result.values(measure)
    numbers = (result.median(measure), min(values), max(values))
    return "{} ({} .. {})".format(*(f"{number:,.{digits}f}" for number in numbers))


def _figure_lines(figure: Figure) -> Iterator[str]:
    spread = f" ({min(figure.values):,.1f} .. {max(figure.values):,.1f})"
    judged = "" if figure.bar is None else f"; at most {figure.bar:g}: {_word(figure.verdict)}"
    value = f"{figure.verdict.found:,.1f} {figure.unit}"
    yield f"  {figure.name:<56} {value}{spread if len(figure.values) > 1 else ''}{judged}"


def _judged(verdict: Verdict) -> str:
    bar = "" if verdict.bar is None else f" (bar {verdict.bar:.1f}: {_word(verdict)})"
    return f"{verdict.what} x {verdict.found:.2f}{bar}"


def _word(verdict: Verdict) -> str:
    return "met" if verdict.met else "NOT MET"


def _summary(groups: Groups) -> Iterator[str]:
    judged = [each for question in groups.values() for group in question for each in _bars(group)]
    missed = [name for name, verdict in judged if not verdict.met]
    yield f"{len(judged) - len(missed)} of {len(judged)} bars met" + (":" if missed else "")
    yield from (f"  NOT MET: {name}" for name in missed)


def _bars(group: Group) -> Iterator[tuple[str, Verdict]]:
    for versus, verdicts in group.compared():
        for verdict in verdicts:
            if verdict.bar is not None:
                name = f"{versus.contender} over {versus.rival}, {_judged(verdict)}"
                yield f"{group.title}: {name}", verdict
    for figure in group.figures:
        if figure.bar is not None:
            yield f"{group.title}: {figure.name}", figure.verdict


def as_json(groups: Groups, machine: dict[str, object], plan: str, void: Mapping[str, str]) -> str:
    """Return everything: each round, the medians, the bars, and why a question is void."""
    questions = {name: list(map(_group_json, question)) for name, question in groups.items()}
    document = {"machine": machine, "plan": plan, "void": dict(void), "questions": questions}
    return json.dumps(document, indent=1) + "\n"


def _group_json(group: Group) -> dict[str, Any]:
    measures = ("rate", "cpu_us", "p50_us", "p99_us", "server_busy", "load_busy")
    return {
        "title": group.title,
        "results": [
            {**asdict(result), "medians": {name: result.median(name) for name in measures}}
            for result in group.results
        ],
        "comparisons": [
            {
                "contender": versus.contender,
                "rival": versus.rival,
                "verdicts": [asdict(verdict) for verdict in verdicts],
            }
            for versus, verdicts in group.compared()
        ],
        "figures": [{**asdict(each), **asdict(each.verdict)} for each in group.figures],
        "notes": list(group.notes),
    }


def draw(groups: Groups, machine: dict[str, object], file: Path) -> None:
    """Write a chart of the rates as a PNG; raises ImportError without matplotlib."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    drawn = [group for question in groups.values() for group in question if group.results]
    heights = [len(group.results) + 1 for group in drawn]
    figure, axes = pyplot.subplots(
        len(drawn),
        figsize=(9, 0.35 * sum(heights) + 1.2),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for group, axis in zip(drawn, axes[:, 0], strict=True):
        _draw_group(group, axis)
    figure.suptitle("Requests per second, one core each: medians, with min and max", fontsize=11)
    caption = f"{machine['cpu']}, {machine['cores']} cores, commit {machine['commit']}"
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _draw_group(group: Group, axis: Any) -> None:
    names = [result.name for result in group.results]
    rates = [result.median("rate") for result in group.results]
    spans = [result.values("rate") for result in group.results]
    below = [rate - min(span) for rate, span in zip(rates, spans, strict=True)]
    above = [max(span) - rate for rate, span in zip(rates, spans, strict=True)]
    colours = ["#1f77b4" if name.startswith("sfss") else "#b0b0b0" for name in names]
    bars = axis.barh(names, rates, xerr=[below, above], color=colours, ecolor="#555555")
    axis.bar_label(bars, [f" {rate:,.0f}" for rate in rates], fontsize=8, padding=2)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title(group.title, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.xaxis.set_visible(False)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
