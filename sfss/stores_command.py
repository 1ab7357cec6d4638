"""``sfss stores``: the stores as the settings name them. Nothing is opened, and nobody is asked."""

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

from sfss.checks import read_shard
from sfss.command_parsers import NewParser, add_cluster
from sfss.config import Settings
from sfss.config_groups import groups_of, has_groups
from sfss.settings_file import read_settings

_HEADS: Final = ("SHARD", "STORE", "WEIGHT", "")
_SHARDED: Final = frozenset({"jump", "chash"})


def add_stores(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new()
    add_cluster(parser)
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print one JSON document"
    )


def run_stores(options: argparse.Namespace) -> None:
    """Print the table. Raises ``SettingError``."""
    document = described(read_settings(options.config, None, options.cluster))
    print(json.dumps(document, indent=2) if options.as_json else as_text(document))


def described(settings: Settings) -> dict[str, Any]:
    """Return how files are placed and all stores, in the order in which they are asked."""
    kind, replicated = settings.cluster.kind, settings.replicated
    found: dict[str, Any] = {"kind": kind}
    if kind == "embedded":
        return {**found, "stores": [_row(settings.embedded.folder)]}
    if kind != "replicated":
        return {**found, "stores": [_row(address) for address in settings.memcached.servers]}
    found |= {"placement": replicated.placement}
    if replicated.placement == "ketama":
        found |= {"copies": replicated.copies}
    found |= {"write_quorum": replicated.write_quorum or "majority"}
    return {**found, "stores": _placed(settings)}


def _placed(settings: Settings) -> list[dict[str, Any]]:
    replicated, new = settings.replicated, settings.migration
    if has_groups(settings):
        rows = _groups(settings)
    else:
        rows = _rows(replicated.stores, replicated.shards)
    rows += _rows(replicated.former_stores, replicated.former_shards, "before a change")
    return rows + _rows(new.stores, new.shards, "of the migration")


def _groups(settings: Settings) -> list[dict[str, Any]]:
    replicated = settings.replicated
    return [
        _row(store, part.name, note=_note(store in replicated.preferred, part.takes))
        for part in groups_of(settings)
        for store in part.settings.replicated.stores
    ]


def _note(is_preferred: bool, takes: bool) -> str:
    notes = (["preferred"] if is_preferred else []) + ([] if takes else ["only read"])
    return ", ".join(notes)


def _rows(stores: Sequence[str], shards: Sequence[str], note: str = "") -> list[dict[str, Any]]:
    rows = [_row(store, note=note) for store in stores]
    for name, weight, members in map(read_shard, shards):
        rows += [_row(store, name, weight, note) for store in members]
    return rows


def _row(store: str, shard: str = "", weight: int = 1, note: str = "") -> dict[str, Any]:
    return {"shard": shard, "store": store, "weight": weight, "note": note}


def as_text(document: dict[str, Any]) -> str:
    """Return the same as a table, for people."""
    about = ", ".join(f"{name} {value}" for name, value in document.items() if name != "stores")
    rows = [_HEADS, *(tuple(map(str, row.values())) for row in document["stores"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    shown = [column for column in range(len(_HEADS)) if any(row[column] for row in rows[1:])]
    if document.get("placement") not in _SHARDED:
        shown.remove(_HEADS.index("WEIGHT"))
    lines = ("  ".join(row[column].ljust(widths[column]) for column in shown) for row in rows)
    return "\n".join([about, *(line.rstrip() for line in lines)])
