"""What a node says of itself, under the names that memcached and Beansdb use."""

import os
import resource
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sfss.memtext_extensions import BROWSE, MEMBERS, NEWEST
from sfss.node_commands import NodeSettings

EMPTY_GROUPS: Final = frozenset({"conns", "items", "sizes", "slabs"})
"""Groups of memcached's that say nothing of a store on the disk; tools ask for them."""

_BY_OUTCOME: Final = {
    "cmd_flush": (("flush_all", "OK"),),
    "cmd_touch": (("touch", "TOUCHED"), ("touch", "NOT_FOUND")),
    "cmd_delete": (("delete", "DELETED"), ("delete", "NOT_FOUND")),
    "delete_hits": (("delete", "DELETED"),),
    "delete_misses": (("delete", "NOT_FOUND"),),
    "incr_hits": (("incr", "number"),),
    "incr_misses": (("incr", "NOT_FOUND"),),
    "decr_hits": (("decr", "number"),),
    "decr_misses": (("decr", "NOT_FOUND"),),
    "cas_hits": (("cas", "STORED"),),
    "cas_misses": (("cas", "NOT_FOUND"),),
    "cas_badval": (("cas", "EXISTS"),),
    "touch_hits": (("touch", "TOUCHED"),),
    "touch_misses": (("touch", "NOT_FOUND"),),
}
"""Names of statistics, and the outcomes of commands that each counts."""

_STORED: Final = "STORED"
_ERROR: Final = "SERVER_ERROR"


@dataclass
class Traffic:
    """What has come and gone since the start; ``connections`` are those open now."""

    connections: int = 0
    total_connections: int = 0
    rejected_connections: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    get_hits: int = 0
    get_misses: int = 0
    get_errors: int = 0
    started_s: float = field(default_factory=time.monotonic)


def lines(stats: Mapping[str, object]) -> bytes:
    """Return the answer that says ``stats``."""
    text = "".join(f"STAT {name} {value}\r\n" for name, value in stats.items())
    return f"{text}END\r\n".encode("ascii", "replace")


def general(
    store: Mapping[str, str],
    traffic: Traffic,
    outcomes: Counter[tuple[str, str]],
    settings: NodeSettings,
) -> dict[str, object]:
    """Return what plain ``stats`` says; ``store`` is what the store says of itself."""
    return {
        "pid": os.getpid(),
        "uptime": int(time.monotonic() - traffic.started_s),
        "time": int(time.time()),
        "pointer_size": 8 * struct.calcsize("P"),
        "threads": 1,
        **dict(_usage()),
        **store,
        "limit_maxbytes": store.get("total_space", "0"),
        "max_connections": settings.connections,
        "accepting_conns": int(traffic.connections < settings.connections),
        "curr_connections": traffic.connections,
        "total_connections": traffic.total_connections,
        "rejected_connections": traffic.rejected_connections,
        "connection_structures": traffic.connections,
        "bytes_read": traffic.received_bytes,
        "bytes_written": traffic.sent_bytes,
        "cmd_get": traffic.get_hits + traffic.get_misses,
        "get_hits": traffic.get_hits,
        "get_misses": traffic.get_misses,
        **dict(_commands(outcomes)),
        "evictions": 0,
        "errors": traffic.get_errors + _ending(outcomes, _ERROR),
    }


def _usage() -> Iterator[tuple[str, object]]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield "rusage_user", f"{usage.ru_utime:.6f}"
    yield "rusage_system", f"{usage.ru_stime:.6f}"
    yield "rusage_minflt", usage.ru_minflt
    yield "rusage_majflt", usage.ru_majflt
    yield "rusage_nswap", usage.ru_nswap
    yield "rusage_inblock", usage.ru_inblock
    yield "rusage_oublock", usage.ru_oublock
    yield "rusage_nvcsw", usage.ru_nvcsw
    yield "rusage_nivcsw", usage.ru_nivcsw
    yield "rusage_maxrss", usage.ru_maxrss


def _commands(outcomes: Counter[tuple[str, str]]) -> Iterator[tuple[str, int]]:
    stored = _ending(outcomes, _STORED)
    yield "cmd_set", stored + _ending(outcomes, "NOT_STORED") + _ending(outcomes, "EXISTS")
    yield "total_items", stored
    for name, counted in _BY_OUTCOME.items():
        yield name, sum(outcomes[outcome] for outcome in counted)


def _ending(outcomes: Counter[tuple[str, str]], word: str) -> int:
    return sum(count for (_, outcome), count in outcomes.items() if outcome == word)


def allowed(settings: NodeSettings, port: int, takes_messages: bool) -> dict[str, object]:
    """Return what ``stats settings`` says."""
    return {
        "maxconns": settings.connections,
        "tcpport": port,
        "udpport": 0,
        "verbosity": 0,
        "evictions": "off",
        "num_threads": 1,
        "cas_enabled": "yes",
        "auth_enabled_ascii": "no",
        "binding_protocol": "ascii",
        "item_size_max": settings.item_limit,
        "flush_enabled": "yes" if settings.allow_flush else "no",
        "dump_enabled": "yes",
        NEWEST: "yes",
        BROWSE: "yes",
        MEMBERS: "yes" if takes_messages else "no",
    }
