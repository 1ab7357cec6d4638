"""Whether files would be looked for where they are not: the stores were changed, and what they were
is not in the settings.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sfss.config import Settings
from sfss.config_checks import Choice, migrates
from sfss.config_replicated import ReplicatedSettings
from sfss.placement import Placement
from sfss.replicas import placed

_PLACES: Final = "places"
_FIELDS: Final = ("placement", "copies", "stores", "shards")
_SAMPLES: Final = 1000

_log = logging.getLogger(__name__)


def warn_of_lost(settings: Settings) -> None:
    """Log what share of the files that are stored cannot be found with ``settings``, if any; write
    down where files belong otherwise. Nothing is refused: whoever has emptied stores may go on.
    """
    options = settings.replicated
    file = Path(options.owed_folder) / _PLACES
    known = _read(file, options)
    lost = min((_lost(options, each) for each in known), default=0)
    if not lost:
        _write(file, [options, *([settings.migration] if migrates(settings) else [])])
        return
    was, now = (f"{each.placement} over {', '.join(_named(each))}" for each in (known[0], options))
    key = "former_shards" if options.shards else "former_stores"
    way = f"set {key} to what it was, then run sfss rebalance"
    if known[0].placement != options.placement:
        way = "set what it was again, and move the files with [migration]"
    _log.warning(
        "about %d %% of the files stored so far cannot be found: the placement was %s, and is %s;"
        " %s (docs/repair.md). If nobody needs them, remove %s",
        max(1, 100 * lost // _SAMPLES),
        was,
        now,
        way,
        file,
    )


def _named(choice: Choice) -> Sequence[str]:
    return [*choice.stores, *(f'"{shard}"' for shard in choice.shards)]


def _lost(options: ReplicatedSettings, known: Choice) -> int:
    """Return how many of ``_SAMPLES`` keys have none of their ``known`` stores left."""
    looked_at = [placed(options, options.stores, options.shards)]
    if options.former_stores or options.former_shards:
        looked_at.append(placed(options, options.former_stores, options.former_shards))
    before = placed(known, known.stores, known.shards)
    keys = (f"{number:x}/{number}.jpg".encode() for number in range(_SAMPLES))
    return sum(_is_lost(key, before, looked_at) for key in keys)


def _is_lost(key: bytes, before: Placement, looked_at: Sequence[Placement]) -> bool:
    had = before.primaries(key)
    return all(set(had).isdisjoint(placement.primaries(key)) for placement in looked_at)


def _read(file: Path, options: ReplicatedSettings) -> list[Choice]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return [
            replace(
                options,
                placement=str(each["placement"]),
                copies=int(each["copies"]),
                stores=tuple(each["stores"]),
                shards=tuple(each["shards"]),
            )
            for each in found
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # of no use: it is written anew


def _write(file: Path, choices: Sequence[Choice]) -> None:
    text = json.dumps([{name: getattr(each, name) for name in _FIELDS} for each in choices])
    scratch = file.with_name(f"{_PLACES}.{os.getpid()}")
    try:
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("where files belong is not written down: %s", error)
