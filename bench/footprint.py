"""What does it take to have it: time to start, memory of a worker, disk beyond the bodies?

    python3 bench/footprint.py [--full] [--rounds 5]

Start: from the fork to the first answer, on one core, sfss with an embedded store of 10,000 files
(with ``--full`` also of 1,000,000) and nginx. Memory: a worker that has answered, and what each
further worker adds (Pss: shared pages divided). Disk: the blocks of a store of files of 1 KiB,
stored in order of their paths and in disorder, less an empty store; beside the same in a folder of
files.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import command
import files
import rivals
from files import KIB, MIB
from get_random import FULL, MANY
from harness import Figure, Group, Plan, all_running, say
from processes import disk_bytes, family, memory_bytes, share_bytes

from tests.servers import Gateway, Server, wait_until

_WORKERS = 4


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group each for start, memory and disk."""
    say("  start-up and memory")
    yield _starts(plan)
    yield _memory(plan)
    yield _disk(plan)


def _starts(plan: Plan) -> Group:
    figures = []
    for count in _counts(plan):
        with plan.room() as folder:
            files.fill(folder / "store", count)
            target = f"/file?path={files.path(0)}"
            make = _maker(folder)
            times = [_first_answer_ms(make(), target) for _ in range(plan.rounds)]
            figures.append(Figure(f"sfss, embedded store of {count:,} files", "ms", times))
    with plan.room() as folder:
        (folder / files.path(0)).parent.mkdir()
        (folder / files.path(0)).write_bytes(files.body(files.path(0)))
        times = [
            _first_answer_ms(rivals.nginx_static(folder, folder), f"/{files.path(0)}")
            for _ in range(plan.rounds)
        ]
        figures.append(Figure("nginx", "ms", times))
    return Group("Start-up until the first answer, one worker", figures=figures)


def _maker(folder: Path) -> Callable[[], Gateway]:
    return lambda: rivals.sfss_embedded(folder, folder / "store")


def _counts(plan: Plan) -> tuple[int, ...]:
    return (MANY, FULL) if plan.full else (MANY,)


def _first_answer_ms(server: Server, target: str) -> float:
    began = time.monotonic()
    with all_running(server):
        rivals.expect(server, target, files.body(files.path(0)))
        return (time.monotonic() - began) * 1000


def _memory(plan: Plan) -> Group:
    rounds = [_memory_round(plan) for _ in range(plan.rounds)]
    names = (
        "sfss, one worker that has answered (VmRSS)",
        "sfss, the same without files and shared memory (RssAnon)",
        "sfss, master and one worker together (Pss)",
        "sfss, what each further worker adds (Pss)",
        "nginx, master and one worker together (Pss)",
    )
    columns = zip(*rounds, strict=True)
    figures = [
        Figure(name, "MiB", [value / MIB for value in column])
        for name, column in zip(names, columns, strict=True)
    ]
    return Group("Memory at rest", figures=figures)


def _memory_round(plan: Plan) -> list[float]:
    with plan.room() as folder:
        one = rivals.sfss_embedded(folder, folder / "store")
        with all_running(one):
            _wait_for_workers(one, 1)
            single = share_bytes(family(one.pid))
            worker = [memory_bytes(one.workers(), field) for field in ("VmRSS", "RssAnon")]
        several = rivals.sfss_embedded(folder, folder / "store", _WORKERS)
        with all_running(several):
            _wait_for_workers(several, _WORKERS)
            further = (share_bytes(family(several.pid)) - single) / (_WORKERS - 1)
        nginx = rivals.nginx_static(folder, folder)
        with all_running(nginx):
            return [*worker, single, further, share_bytes(family(nginx.pid))]


def _wait_for_workers(server: Gateway, count: int) -> None:
    def serving() -> bool:
        answer = server.request("GET", "/status?detail=full").json()
        return bool(answer["webserver"]["workers"] == count)

    wait_until(serving, f"{count} workers serve")


def _disk(plan: Plan) -> Group:
    figures = []
    for count in _counts(plan):
        for order in ("sorted", "shuffled"):
            with plan.room() as folder:
                files.fill(folder / "store", count, order)
                files.fill(folder / "empty", 0)
                used = disk_bytes(folder / "store") - disk_bytes(folder / "empty")
            beyond = used / count - KIB
            figures.append(Figure(f"sfss embedded, {count:,} files, {order}", "bytes", [beyond]))
    figures.append(Figure(f"a folder of {MANY:,} files", "bytes", [_plain_folder(plan)]))
    return Group("Disk beyond the body, each file of 1 KiB", figures=figures)


def _plain_folder(plan: Plan) -> float:
    with plan.room() as folder:
        for number in range(MANY):
            (folder / str(number)).write_bytes(files.body(files.path(number)))
        return disk_bytes(folder) / MANY - KIB


if __name__ == "__main__":
    sys.exit(command.main({"footprint": question}))
