"""``GET /metrics``: what is counted, in the formats of Prometheus.

All workers count in memory that they share, so any of them can tell for all. Names, escaping and
the choice between formats are prometheus-client's; its own multi-process mode is not used, for one
count there takes longer than all that is counted for a file from memory (``docs/metrics.md``).
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from typing import Final, TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sfss import __version__
from sfss.agreement import Health, Owing
from sfss.config_quota import Quota, Used
from sfss.errors import SfssError
from sfss.metrics import EVENTS, LOOP, REQUEST, STORE, Board
from sfss.timings import BOUNDS_S, Line, Name
from sfss.web import http, status

OWING_S: Final = 1.0
"""Seconds for which lists of debts are waited for; without an answer they are left out."""

_BOUNDS: Final = [*map(str, BOUNDS_S), "+Inf"]
_US: Final = 1e6

Timings: TypeAlias = Mapping[Name, Line]


async def show(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer with all metrics."""
    quotas = site.cluster.quotas
    health, usage = await site.readiness.health(site.cluster), quotas.usage() if quotas else {}
    seen = Seen(site.board, health, *await _owing(site), usage)
    registry = CollectorRegistry()
    registry.register(seen)
    encode, media_type = choose_encoder(request.headers.get("Accept", ""))
    return http.Answer(200, {"Content-Type": media_type}, encode(registry))


async def _owing(site: http.Site) -> tuple[Owing | None, int | None]:
    """Return what stores still have to get, and the bucket of objects; None for what cannot be told
    now, or is not there.
    """
    owing, owed_to_bucket = None, None
    with suppress(SfssError, TimeoutError):
        async with asyncio.timeout(OWING_S):
            owing = await site.cluster.owing()
            if site.objects is not None:
                owed_to_bucket = await site.objects.owing()
    return owing, owed_to_bucket


@dataclass(frozen=True, slots=True, eq=False)
class Seen(Collector):
    """What was seen at one moment."""

    board: Board
    health: Health
    owing: Owing | None
    owed_to_bucket: int | None
    usage: Mapping[str, tuple[Quota, Used]]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield InfoMetricFamily("sfss", "this software", {"version": __version__})
        yield from _of_processes(status.webserver(self.board))
        yield from _of_board(self.board)
        timings = self.board.timings()
        yield from _of_requests(timings)
        yield from _of_stores(timings)
        yield from self._states()
        yield from _of_quotas(self.usage)

    def _states(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("sfss_store_up", "whether a store answers", labels=["store"])
        for address, why in self.health.stores.items():
            up.add_metric([address], 0 if why else 1)
        yield up
        if self.owing is not None:
            writes, repairs = self.owing.writes, len(self.owing.needs_repair)
            yield _gauge("sfss_owed_writes", "writes that stores still have to get", writes)
            yield _gauge("sfss_stores_to_repair", "stores that wait for sfss repair", repairs)
        if self.owed_to_bucket is not None:
            what = "objects that the bucket still has to get or lose"
            yield _gauge("sfss_owed_to_bucket", what, self.owed_to_bucket)


def _of_quotas(usage: Mapping[str, tuple[Quota, Used]]) -> Iterator[Metric]:
    for what in ("bytes", "files"):
        used = GaugeMetricFamily(f"sfss_quota_{what}", f"{what} below a prefix", labels=["prefix"])
        most = GaugeMetricFamily(
            f"sfss_quota_{what}_limit", f"{what} that there may be below it", labels=["prefix"]
        )
        for prefix, (quota, found) in usage.items():
            used.add_metric([prefix], getattr(found, what))
            if (limit := getattr(quota, what)) is not None:
                most.add_metric([prefix], limit)
        if usage:
            yield from (used, most)


def _of_processes(webserver: Mapping[str, object]) -> Iterator[Metric]:
    for name, key, what in (
        ("sfss_workers", "workers", "worker processes"),
        ("sfss_connections", "connections", "connections of clients that are open"),
        ("sfss_uptime_seconds", "uptime", "seconds since the gateway was started"),
        ("sfss_resident_memory_bytes", "memory_bytes", "resident memory of all workers"),
    ):
        yield _gauge(name, what, float(str(webserver[key])))


def _of_board(board: Board) -> Iterator[Metric]:
    totals, events = board.totals(), board.events()
    for name, key, what in (
        ("sfss_received_bytes", "received_bytes", "bytes of the bodies of requests"),
        ("sfss_sent_bytes", "sent_bytes", "bytes of the bodies of answers"),
    ):
        yield CounterMetricFamily(name, what, totals[key])
    counted = CounterMetricFamily("sfss_events", "what has happened to copies", labels=["event"])
    for event in EVENTS:
        counted.add_metric([event], events.get(event, 0))
    yield counted


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


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value)
