"""What a run of a repair tool has done so far, in a folder, so that another can go on.

=====================  =============================================================================
file                   what it is
=====================  =============================================================================
``lock``               locked by the run that works in the folder
``inventory.sqlite``   which stores list which keys; see ``inventory``
``progress.json``      how far the run is, and what it has counted
``findings.jsonl``     all that it has found, a line each; it stays until the next run begins
=====================  =============================================================================

What is counted and how far the run is change together: a run that was killed is known as it was at
most ``SAVE_EVERY_S`` before, and what it did after that is done again, which changes nothing.
"""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from sfss.agreement import Debt
from sfss.errors import SettingError
from sfss.owed import EVERYTHING

SAVE_EVERY_S: Final = 1.0

RESUME_WITHIN_S: Final = 3 * 86_400.0
"""Seconds after which a run that was interrupted is not gone on with: too many files are newer than
its list.
"""

_FORMAT: Final = 1


class Notes:
    """The notes in ``folder``, which is made if missing, and theirs alone until they are closed.

    ``fingerprint`` says what run they are of; another finds nothing in them. Every method raises
    ``SettingError`` when the folder cannot be used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self.fingerprint = folder, fingerprint
        self._saved_at_s = 0.0
        self._findings: BinaryIO | None = None
        self.counts: Counter[str] = Counter()
        self.after = b""
        """The last key before which all have been done."""
        self.debts: list[Debt] = []
        """The debts of everything that there were before the stores were listed."""
        self.unsettled: set[str] = set()
        """Stores that still lack something, or may."""
        with self._border():
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            found, allowed = f"{folder} is in use by another run", "give this one another folder"
            raise SettingError("command line", "--work", found, allowed) from None

    @property
    def inventory_file(self) -> Path:
        """Where the inventory of this run lies."""
        return self._folder / "inventory.sqlite"

    @property
    def findings_file(self) -> Path:
        """Where all findings are."""
        return self._folder / "findings.jsonl"

    @property
    def _progress_file(self) -> Path:
        return self._folder / "progress.json"

    def resume(self) -> bool:
        """Take over what a run of the same fingerprint has left not long ago; return False if there
        is nothing.
        """
        try:
            state = json.loads(self._progress_file.read_text())
            size = self.findings_file.stat().st_size
            if state["format"] != _FORMAT or state["fingerprint"] != self.fingerprint:
                return False
            if not 0 <= time.time() - state["saved_at_s"] < RESUME_WITHIN_S:
                return False
            if size < state["findings_size"]:
                return False
            self._take(state)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        with self._border():
            os.truncate(self.findings_file, state["findings_size"])
            self._findings = self.findings_file.open("ab")
        return True

    def _take(self, state: Mapping[str, Any]) -> None:
        self.after = bytes.fromhex(state["after"])
        self.counts = Counter(state["counts"])
        self.unsettled = set(state["unsettled"])
        self.debts = [
            Debt(address, EVERYTHING, version, acknowledged, bytes.fromhex(digest))
            for address, version, acknowledged, digest in state["debts"]
        ]

    def begin(self) -> None:
        """Forget all that was there."""
        with self._border():
            self._progress_file.unlink(missing_ok=True)
            self.inventory_file.unlink(missing_ok=True)
            self._findings = self.findings_file.open("wb")
        self.counts, self.after, self.debts, self.unsettled = Counter(), b"", [], set()

    def add(self, finding: Mapping[str, object]) -> None:
        """Write down one finding."""
        assert self._findings is not None, "neither resumed nor begun"
        with self._border():
            self._findings.write(json.dumps(finding).encode() + b"\n")

    def save(self) -> None:
        """Write down how far the run is."""
        assert self._findings is not None, "neither resumed nor begun"
        state = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "saved_at_s": time.time(),
            "after": self.after.hex(),
            "counts": self.counts,
            "unsettled": sorted(self.unsettled),
            "debts": [
                (each.address, each.version, each.acknowledged, each.digest.hex())
                for each in self.debts
            ],
        }
        with self._border():
            self._findings.flush()
            state["findings_size"] = self._findings.tell()
            new = self._progress_file.with_suffix(".new")
            new.write_text(json.dumps(state))
            new.replace(self._progress_file)
        self._saved_at_s = time.monotonic()

    def save_sometimes(self) -> None:
        """Do as ``save``, unless that was done a moment ago."""
        if time.monotonic() - self._saved_at_s >= SAVE_EVERY_S:
            self.save()

    def findings(self, limit: int) -> list[dict[str, Any]]:
        """Return the first ``limit`` findings."""
        found: list[dict[str, Any]] = []
        with self._border():
            if self._findings is not None:
                self._findings.flush()
            with self.findings_file.open("rb") as lines:
                for line in lines:
                    if len(found) == limit:
                        break
                    found.append(json.loads(line))
        return found

    def end(self) -> None:
        """Note that the run is over: the findings stay, and the next one begins anew."""
        with self._border():
            self._progress_file.unlink(missing_ok=True)
            self.inventory_file.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder; what was noted can still be read."""
        if self._findings is not None:
            self._findings.close()
            self._findings = None
        self._lock.close()

    @contextmanager
    def _border(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found = f"{self._folder}: {error.strerror or error}"
            wanted = "a folder that can be written, with room, is expected"
            raise SettingError("command line", "--work", found, wanted) from error
