"""What the processes of a server cost, from /proc (proc(5))."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


def family(pid: int) -> Iterator[int]:
    """Yield ``pid`` and all its descendants."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            for child in (thread / "children").read_text().split():
                yield from family(int(child))


def families(roots: Iterable[int]) -> list[int]:
    """Return all of ``roots`` with their descendants."""
    return [pid for root in roots for pid in family(root)]


def cpu_s(pids: Iterable[int]) -> float:
    """Return the seconds of CPU time, user and system, that ``pids`` have used so far."""
    return sum(map(_cpu_ticks, pids)) / _TICKS


def _cpu_ticks(pid: int) -> int:
    # After the name, which may contain anything, the fields from the third on.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory_bytes(pids: Iterable[int], field: str) -> int:
    """Return the sum of a line of /proc/PID/status: ``VmHWM``, ``VmRSS``, ``RssAnon``."""
    return sum(_line_bytes(Path(f"/proc/{pid}/status"), field) for pid in pids)


def share_bytes(pids: Iterable[int]) -> int:
    """Return the memory of ``pids``, what several of them share divided among them (Pss)."""
    return sum(_line_bytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids)


def _line_bytes(file: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    return int(found[1]) * _KIB if found else 0


def disk_bytes(folder: Path) -> int:
    """Return the bytes that the files in ``folder`` take on the disk, whole blocks."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
