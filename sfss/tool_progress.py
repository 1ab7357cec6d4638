"""How far a repair tool is, and what its last run has done, where gateways can read it.

A run has a process of its own. It writes what it has counted beside the store that gateways and
tools share, under ``tools/TOOL.json``: whole, in place of what was there, about once a second as
long as it goes on, and once more when it ends. It stays until the next run. One that was killed
says nothing any more; that is seen from its last word.

Nothing depends on it: what cannot be written is left out, and what cannot be read is not there.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

TELL_EVERY_S: Final = 1.0

LOST_AFTER_S: Final = 15.0
"""Seconds without a word after which a run is taken for one that was killed."""

TOOLS: Final = "tools"
"""Name of the folder, in that of the store."""

LISTING: Final = "listing"
RUNNING: Final = "running"
FINISHED: Final = "finished"
INTERRUPTED: Final = "interrupted"
FAILED: Final = "failed"
LOST: Final = "lost"

_AT_WORK: Final = frozenset({LISTING, RUNNING})
_FILES_READ: Final = 16
_SIZE_LIMIT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Progress:
    """A run of ``tool``: its ``state``, one of the words above, as of ``updated_s``; when it began
    and, unless it goes on, ended (seconds since 1970, 0: it has not). ``keys`` are listed, and
    ``done`` of them seen to; what else is counted is as in the report of the run, ``status`` its
    exit status, -1 before there is one. ``unreachable`` stores could not be listed.
    """

    tool: str
    state: str = LISTING
    dry_run: bool = False
    started_s: float = 0.0
    updated_s: float = 0.0
    ended_s: float = 0.0
    status: int = -1
    keys: int = 0
    done: int = 0
    looked_at: int = 0
    findings: int = 0
    mended: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0
    remaining: int = 0
    scarce: int = 0
    reaped: int = 0
    expired: int = 0
    written_bytes: int = 0
    unreachable: int = 0

    @property
    def is_at_work(self) -> bool:
        """Whether the run goes on."""
        return self.state in _AT_WORK

    def document(self) -> dict[str, Any]:
        """Return all of it, for programs."""
        return asdict(self)


class Teller:
    """Writes the progress of one run of ``tool`` into ``folder``, that of the store; None: nowhere.
    Raises nothing.
    """

    def __init__(self, folder: Path | None, tool: str, dry_run: bool) -> None:
        self._file = None if folder is None else folder / TOOLS / f"{tool}.json"
        self.progress = Progress(tool, dry_run=dry_run, started_s=time.time())
        """What was told last."""

    def tell(self, state: str, counted: Mapping[str, Any]) -> None:
        """Write down the ``state``, and those fields of ``Progress`` that were ``counted``."""
        now_s = time.time()
        ended_s = 0.0 if state in _AT_WORK else now_s
        known = replace(self.progress, state=state, updated_s=now_s, ended_s=ended_s)
        self.progress = replace(known, **counted)
        if self._file is None:
            return
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(exist_ok=True)
            new.write_text(json.dumps(asdict(self.progress)), encoding="ascii")
            new.replace(self._file)
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)


def read_progress(folder: Path, now_s: float) -> list[Progress]:
    """Return what runs have written into the ``folder`` of a store, the latest first; ``now_s`` is
    the time since 1970. Raises nothing.
    """
    found: list[Progress] = []
    with suppress(OSError):
        for file in sorted((folder / TOOLS).glob("*.json"))[:_FILES_READ]:
            with suppress(OSError, ValueError, RecursionError):
                found.append(_read(file, now_s))
    return sorted(found, key=lambda each: each.started_s, reverse=True)


def _read(file: Path, now_s: float) -> Progress:
    """Return what ``file`` says. Raises ``OSError``, ``ValueError``."""
    with file.open("rb") as opened:
        text = opened.read(_SIZE_LIMIT + 1)
    said = json.loads(text)
    if not isinstance(said, dict):
        raise ValueError(f"{file} is no object")
    for field in fields(Progress):
        # Of a float, 1 may be written; True is no number here.
        value = said.get(field.name)
        wanted = (int, float) if field.type is float else (field.type,)
        if type(value) not in wanted:
            raise ValueError(f"{file}: {field.name} is {value!r}")
    progress = Progress(**{field.name: said[field.name] for field in fields(Progress)})
    if progress.is_at_work and now_s - progress.updated_s > LOST_AFTER_S:
        return replace(progress, state=LOST)
    return progress
