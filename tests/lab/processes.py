"""What the system says of a running process."""

import resource
from collections import Counter
from pathlib import Path


def descriptors(pid: int) -> Counter[str]:
    """Return how many descriptors a process has, by what they are: "socket", or the file's name."""
    found: Counter[str] = Counter()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:
            continue
        if not target.endswith("/sweeper"):  # which a store opens when it first has the time
            found[target.partition(":")[0]] += 1
    return found


def limit_descriptors(pid: int, more: int) -> None:
    """Allow a process ``more`` descriptors than it has, and no more."""
    highest = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + more, hard))


def memory_bytes(pid: int) -> int:
    """Return how much memory of its own a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
