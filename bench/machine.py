"""What a result has to name: the machine, and the versions of all that took part."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from checkout import CHECKOUT
from harness import program

_PACKAGES: Final = ("aiohttp", "aiomcache", "gunicorn", "lmdb", "uvloop", "xxhash")


def describe(folder: Path) -> dict[str, object]:
    """Return the machine, as JSON can hold it; ``folder`` is where the stores are."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _said("stat", "-f", "-c", "%T", str(folder)),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: _package(name) for name in _PACKAGES},
        "nginx": _number("nginx", "-v"),
        "wrk": _number("wrk", "-v"),
        "memcached": _number("memcached", "-V"),
        "commit": _commit(),
    }


def as_text(machine: dict[str, object]) -> str:
    """Return the machine in lines for people."""
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in machine.items()]
    return "; ".join(parts)


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _number(name: str, option: str) -> str:
    path = program(name)
    found = re.search(r"\d+(\.\d+)+", _said(path, option)) if path else None
    return found[0] if found else "missing"


def _commit() -> str:
    commit = _said("git", "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(CHECKOUT), "status", "--porcelain", "--", "sfss")
    return f"{commit} with changes in sfss/" if changed else commit


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    # nginx and wrk say their version on either channel, wrk with a status of 1.
    return (done.stdout + done.stderr).strip()
