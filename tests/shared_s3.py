"""One server of the S3 protocol for many tests: each finds it as if it had just been started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import S3Server, wait_until

_LISTENING, _TIME_WAIT = "0A", "06"


@contextmanager
def with_bucket(server: S3Server, name: str) -> Iterator[S3Server]:
    """Give ``server``, whatever was done to it before, an empty bucket and nothing else."""
    if not _runs(server):
        server.kill()
        server.start()
    # What clients that were killed have sent is still worked off.
    wait_until(lambda: not _connections(server.port), "nobody is connected")
    assert server.ask("POST", "/moto-api/reset").status == 200
    os.truncate(server.log, 0)
    server.make_bucket(name)
    yield server


def _runs(server: S3Server) -> bool:
    """Tell whether the process is there, and not paused."""
    if server.process is None or server.process.poll() is not None:
        return False
    return Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"


def _connections(port: int) -> int:
    """Count what clients have open at ``port``, by proc(5)."""
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, own, _, state, *_ = line.split()
        count += int(own.rpartition(":")[2], 16) == port and state not in (_LISTENING, _TIME_WAIT)
    return count
