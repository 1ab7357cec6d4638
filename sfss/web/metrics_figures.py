"""Metrics of the stores, and of the work on them, in the terms of prometheus-client."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from sfss.config_quota import Quota, Used
from sfss.tool_progress import Progress
from sfss.web.figures import Figures, room_of

_ROOM: Final = (
    ("sfss_store_items", "items", "what a store holds"),
    ("sfss_store_used_bytes", "used_bytes", "bytes that a store uses"),
    ("sfss_store_free_bytes", "free_bytes", "bytes that a store has room for"),
    ("sfss_store_capacity_bytes", "capacity_bytes", "bytes of the limit, or disk, of a store"),
)
_EVICTED: Final = (
    ("sfss_store_evicted_files", "evicted_files", "files removed from a store to make room"),
    ("sfss_store_evicted_bytes", "evicted_bytes", "bytes of those files"),
)
_TOOLS: Final = (
    ("sfss_tool_keys", "keys", "keys of the last run of a repair tool"),
    ("sfss_tool_keys_done", "done", "keys of that run that are done"),
    ("sfss_tool_findings", "findings", "what that run has found"),
    ("sfss_tool_mended", "mended", "findings that it has mended"),
    ("sfss_tool_remaining", "remaining", "findings that are as they were"),
    ("sfss_tool_written_bytes", "written_bytes", "bytes that it has written"),
    ("sfss_tool_started_timestamp_seconds", "started_s", "when that run began"),
    ("sfss_tool_ended_timestamp_seconds", "ended_s", "when it ended, 0 while it goes on"),
    ("sfss_tool_exit_status", "status", "its exit status, -1 while there is none"),
)
_MEMBER_MOVE: Final = (
    ("sfss_move_keys", "keys", "keys of the own store when its walk began"),
    ("sfss_move_keys_seen", "seen", "keys that the walk has looked at"),
    ("sfss_move_failed", "failed", "files that could not be moved in this walk"),
    ("sfss_move_files", "moved", "files that were moved since the members changed"),
    ("sfss_move_bytes", "bytes", "bytes of those files"),
)


def of_figures(figures: Figures) -> Iterator[Metric]:
    """Yield what stores hold and have room for, what they are owed, and how far tools are."""
    up = GaugeMetricFamily("sfss_store_up", "whether a store answers", labels=["store"])
    for address, why in figures.health.stores.items():
        up.add_metric([address], 0 if why else 1)
    yield up
    yield from _of_rooms(figures)
    if figures.owing is not None:
        writes, repairs = figures.owing.writes, len(figures.owing.needs_repair)
        yield gauge("sfss_owed_writes", "writes that stores still have to get", writes)
        yield gauge("sfss_stores_to_repair", "stores that wait for sfss repair", repairs)
    if figures.owed_to_bucket is not None:
        what = "objects that the bucket still has to get or lose"
        yield gauge("sfss_owed_to_bucket", what, figures.owed_to_bucket)
    yield from _of_tools(figures.tools)


def _of_rooms(figures: Figures) -> Iterator[Metric]:
    rooms = {address: room_of(stats)._asdict() for address, stats in figures.stats.items()}
    for families, table in ((GaugeMetricFamily, _ROOM), (CounterMetricFamily, _EVICTED)):
        for name, field, what in table:
            family = families(name, what, labels=["store"])
            for address, room in rooms.items():
                if room[field] is not None:
                    family.add_metric([address], room[field])
            yield family


def _of_tools(tools: Sequence[tuple[str, Progress]]) -> Iterator[Metric]:
    labels = ["tool", "group"]
    running = GaugeMetricFamily("sfss_tool_running", "whether a tool is at work", labels=labels)
    for group, each in tools:
        running.add_metric([each.tool, group], each.is_at_work)
    yield running
    for name, field, what in _TOOLS:
        family = GaugeMetricFamily(name, what, labels=labels)
        for group, each in tools:
            family.add_metric([each.tool, group], getattr(each, field))
        yield family


def of_migration(migration: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Yield whether all files are being moved to other stores, and have been."""
    if migration is not None:
        what = "whether a migration is under way"
        yield gauge("sfss_migration_active", what, migration["state"] in ("both", "back"))
        what = "whether all of it has been copied"
        yield gauge("sfss_migration_copied", what, migration["copied"])


def of_members(shown: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Yield how many members there are, how many of them answer, and how far files have moved."""
    if shown is None:
        return
    members = shown["members"].values()
    live = sum(bool(each.get("live")) for each in members)
    yield gauge("sfss_members", "gateways that have joined each other", len(members))
    yield gauge("sfss_members_live", "members that answer this one", live)
    yield gauge("sfss_members_epoch", "how often the members have changed", shown["epoch"])
    moving = shown["moving"]
    if moving:
        for name, field, what in _MEMBER_MOVE:
            yield gauge(name, what, moving.get(field, 0))


def gauge(name: str, what: str, value: float) -> Metric:
    """Return a metric without labels."""
    return GaugeMetricFamily(name, what, value)


def of_quotas(usage: Mapping[str, tuple[Quota, Used]]) -> Iterator[Metric]:
    """Yield what is below prefixes, and may be."""
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
