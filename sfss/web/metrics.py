"""``GET /metrics``: what is counted, in the formats of Prometheus.

All workers count in memory that they share, so any of them can tell for all. Names, escaping and
the choice between formats are prometheus-client's; its own multi-process mode is not used, for one
count there takes longer than all that is counted for a file from memory (``docs/metrics.md``).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from typing import Any, Final, TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sfss import __version__
from sfss.config_quota import Quota, Used
from sfss.metrics import EVENTS, LOOP, REQUEST, STORE, Board
from sfss.timings import BOUNDS_S, Line, Name
from sfss.web import figures, http, metrics_figures, status
from sfss.web.figures import Figures

_BOUNDS: Final = [*map(str, BOUNDS_S), "+Inf"]
_US: Final = 1e6
_CACHE: Final = {"cache_hits": "hit", "cache_misses": "miss"}

Timings: TypeAlias = Mapping[Name, Line]


async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer with all metrics."""
    members = None if site.cluster.members is None else site.cluster.members.shown()
    gathered = await figures.gather(site)
    quotas = site.cluster.quotas
    usage = quotas.usage() if quotas else {}
    seen = Seen(site.board, gathered, figures.migration_of(site), members, usage)
    registry = CollectorRegistry()
    registry.register(seen)
    encode, media_type = choose_encoder(request.headers.get("Accept", ""))
    return http.Answer(200, {"Content-Type": media_type}, encode(registry))


@dataclass(frozen=True, slots=True, eq=False)
class Seen(Collector):
    """What was seen at one moment."""

    board: Board
    figures: Figures
    migration: Mapping[str, Any] | None
    members: Mapping[str, Any] | None
    usage: Mapping[str, tuple[Quota, Used]]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield InfoMetricFamily("sfss", "this software", {"version": __version__})
        yield from _of_processes(status.webserver(self.board))
        yield from _of_board(self.board)
        timings = self.board.timings()
        yield from _of_requests(timings)
        yield from _of_stores(timings)
        yield from metrics_figures.of_quotas(self.usage)
        yield from metrics_figures.of_figures(self.figures)
        yield from metrics_figures.of_migration(self.migration)
        yield from metrics_figures.of_members(self.members)


def _of_processes(webserver: Mapping[str, object]) -> Iterator[Metric]:
    for name, key, what in (
        ("sfss_workers", "workers", "worker processes"),
        ("sfss_connections", "connections", "connections of clients that are open"),
        ("sfss_uptime_seconds", "uptime", "seconds since the gateway was started"),
        ("sfss_resident_memory_bytes", "memory_bytes", "resident memory of all workers"),
    ):
        yield metrics_figures.gauge(name, what, float(str(webserver[key])))


def _of_board(board: Board) -> Iterator[Metric]:
    totals, events = board.totals(), board.events()
    for name, key, what in (
        ("sfss_received_bytes", "received_bytes", "bytes of the bodies of requests"),
        ("sfss_sent_bytes", "sent_bytes", "bytes of the bodies of answers"),
    ):
        yield CounterMetricFamily(name, what, totals[key])
    counted = CounterMetricFamily("sfss_events", "what has happened to copies", labels=["event"])
    for event in EVENTS:
        if event not in _CACHE:
            counted.add_metric([event], events.get(event, 0))
    yield counted
    what = "reads of a store that may lack files"
    cache = CounterMetricFamily("sfss_cache_reads", what, labels=["outcome"])
    for event, outcome in _CACHE.items():
        cache.add_metric([outcome], events.get(event, 0))
    yield cache
    failed = CounterMetricFamily("sfss_errors", "requests answered with errors", labels=["kind"])
    for kind, count in board.errors().items():
        failed.add_metric([kind], count)
    yield failed


def _of_requests(timings: Timings) -> Iterator[Metric]:
    """Yield requests and how long they took; "method" and "face" are ours, never a client's."""
    total = CounterMetricFamily(
        "sfss_requests", "answered requests", labels=["face", "method", "status"]
    )
    took = HistogramMetricFamily(
        "sfss_request_duration_seconds",
        "seconds until a request was answered",
        labels=["face", "method"],
    )
    lines = [line for name, line in timings.items() if name[:1] == (REQUEST,)]
    for line in lines:
        total.add_metric(line.name[1:], sum(line.counts))
    _add_all(took, ((line.name[1:3], line) for line in lines))
    yield from (total, took)


def _of_stores(timings: Timings) -> Iterator[Metric]:
    total = CounterMetricFamily(
        "sfss_store_operations",
        "what stores were asked to do, but for what went the short way",
        labels=["store", "operation", "outcome"],
    )
    took = HistogramMetricFamily(
        "sfss_store_operation_duration_seconds",
        "seconds until a store had done what it was asked",
        labels=["store", "operation"],
    )
    lines = [line for name, line in timings.items() if name[:1] == (STORE,)]
    for line in lines:
        _, operation, outcome, address = line.name
        total.add_metric([address, operation, outcome], sum(line.counts))
    _add_all(took, (((line.name[3], line.name[1]), line) for line in lines))
    yield from (total, took)
    lag = HistogramMetricFamily(
        "sfss_event_loop_lag_seconds", "seconds by which the event loop of a worker was late"
    )
    _add_all(lag, (((), line) for name, line in timings.items() if name == (LOOP,)))
    uncounted = [sum(line.counts) for name, line in timings.items() if not name]
    yield lag
    what = "requests and operations that the table of timings had no line for"
    yield CounterMetricFamily("sfss_timings_dropped", what, sum(uncounted))


def _add_all(family: HistogramMetricFamily, lines: Iterable[tuple[Name, Line]]) -> None:
    """Add one histogram for each labels, of all lines that have them."""
    counts: dict[Name, list[int]] = defaultdict(lambda: [0] * len(_BOUNDS))
    sums: dict[Name, int] = defaultdict(int)
    for labels, line in lines:
        counts[labels] = list(map(add, counts[labels], line.counts))
        sums[labels] += line.sum_us
    for labels, each in counts.items():
        buckets = list(zip(_BOUNDS, map(float, accumulate(each)), strict=True))
        family.add_metric(labels, buckets, sums[labels] / _US)
