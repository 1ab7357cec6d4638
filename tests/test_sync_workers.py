"""``sfss sync`` of many small files: other processes copy as well, and none is left behind."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sfss.sync_plan import Entry, Pair, Step
from sfss.sync_workers import Gone, _Worker
from tests.servers import PYTHON_ENVIRON, Gateway, gateway, lacking, running, wait_until

COUNT = 64 * 32
"""Files, in full batches."""

CONCURRENCY = 4
HELD_UP = COUNT - CONCURRENCY // 2 * 32
"""Files that are copied where one of two processes stands still: it has half of the batches that
are under way.
"""

PLAIN = "import sys; from sfss import cli; sys.exit(cli.main())"

COUNTED = """
import sys
from sfss import cli, sync_workers

asked, ask = 0, sync_workers._Worker.ask

async def counted(worker, batch):
    global asked
    answer = await ask(worker, batch)
    asked += 1
    return answer

sync_workers._Worker.ask = counted
status = cli.main()
sys.exit(status if asked else "no other process has copied anything")
"""
"""``sfss``, which fails if it has done all by itself."""

FORKS = """
import os, sys
from sfss import cli

forks, fork = 0, os.fork

def counted():
    global forks
    forks += 1
    return fork()

os.fork = counted
status = cli.main()
print("forks:", forks, file=sys.stderr)
sys.exit(status)
"""
"""``sfss``, which tells how many processes it has forked."""

RAISING = """
import os, sys
from sfss import cli, sync_copying

first, do_batch = os.getpid(), sync_copying.Copier.do_batch

async def failing(*job):
    if os.getpid() != first:
        raise AssertionError("a mistake")
    await do_batch(*job)

sync_copying.Copier.do_batch = failing
sys.exit(cli.main())
"""
"""``sfss``, with a mistake that only other processes make."""


@pytest.fixture(autouse=True)
def two_processors() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        lacking("a second processor is")


@pytest.fixture(name="server", scope="module")
def gateway_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(gateway(tmp_path_factory.mktemp("many"), "--store", "store")) as server:
        yield server


@pytest.fixture(name="many", scope="module")
def folder_of_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "many"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:04}").write_bytes(b"%d" % number)
    return folder


@contextmanager
def held_up(server: Gateway) -> Iterator[None]:
    """Have the gateway stand still."""
    for pid in server.workers():
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in server.workers():
            os.kill(pid, signal.SIGCONT)


def start(
    server: Gateway,
    *arguments: object,
    program: str = PLAIN,
    ignored: signal.Signals | None = None,
    allowed: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``sfss sync`` on two processors, with a signal ``ignored``, or few ``allowed``."""
    processors = set(sorted(os.sched_getaffinity(0))[:2])
    words = [str(each) for each in arguments]

    def prepare() -> None:
        os.sched_setaffinity(0, processors)
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)
        if allowed is not None:
            resource.setrlimit(allowed, (32, 32))

    return subprocess.Popen(
        [sys.executable, "-c", program, "sync", "--concurrency", str(CONCURRENCY), *words],
        env={**os.environ, **PYTHON_ENVIRON, "SFSS_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=prepare,
    )


def worker_of(sync: subprocess.Popen[bytes]) -> int:
    """Return the process that copies as well."""
    found: list[str] = []

    def is_there() -> bool:
        with suppress(OSError):
            found[:] = Path(f"/proc/{sync.pid}/task/{sync.pid}/children").read_text().split()
        return bool(found)

    wait_until(is_there, "there is another process")
    (pid,) = found
    return int(pid)


def held_back(server: Gateway, *arguments: object) -> tuple[subprocess.Popen[bytes], int]:
    """Start ``sfss sync`` with a worker that stands still from the beginning; return both."""
    with held_up(server):
        sync = start(server, *arguments)
        worker = worker_of(sync)
        os.kill(worker, signal.SIGSTOP)
    return sync, worker


def is_connected(pid: int, server: Gateway) -> bool:
    """Tell whether a process has a connection to the gateway."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    there = {row[9] for row in rows if int(row[2].partition(":")[2], 16) == server.port}
    try:
        names = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(f"socket:[{inode}]" in names for inode in there)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def count(server: Gateway, prefix: str) -> int:
    """Return how many files there are, pages of them."""
    number, after = 0, ""
    while True:
        page = server.request("GET", f"/files?prefix={prefix}/&limit=1000&after={after}").json()
        number += len(page["files"])
        if not page.get("next"):
            return number
        after = page["next"]


def read(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def ended(sync: subprocess.Popen[bytes], *statuses: int) -> str:
    """Return what was said on standard error by a command that ends with one of ``statuses``."""
    _, said = sync.communicate(timeout=60)
    assert sync.returncode in statuses, said
    assert b"Traceback" not in said
    return said.decode()


def test_many_files_go_up_and_down(server: Gateway, many: Path, tmp_path: Path) -> None:
    assert f"{COUNT:,} files, 0 skipped, 0 failed" in ended(
        start(server, many, "sfss:both", program=COUNTED), 0
    )
    ended(start(server, "sfss:both", tmp_path / "down", program=COUNTED), 0)
    assert read(tmp_path / "down") == read(many)
    assert f" {COUNT:,} skipped, 0 failed" in ended(
        start(server, "sfss:both", tmp_path / "down"), 0
    )


def test_what_fails_elsewhere_is_told_here(server: Gateway, many: Path, tmp_path: Path) -> None:
    for number in range(500):
        Path(os.fsdecode(b"%s/z%03d\xff" % (os.fsencode(tmp_path), number))).touch()
    for name in ("0001", "0002"):
        shutil.copy(many / name, tmp_path)
    said = ended(start(server, tmp_path, "sfss:bad", program=COUNTED), 1)
    assert said.count("its path is not UTF-8") == 500
    assert " 500 failed" in said
    assert count(server, "bad") == 2


def test_what_stands_in_the_way_elsewhere_goes_here(
    server: Gateway, many: Path, tmp_path: Path
) -> None:
    ended(start(server, many, "sfss:way"), 0)
    for number in range(0, COUNT, 2):
        (tmp_path / f"{number:04}" / "former").mkdir(parents=True)
    said = ended(start(server, "sfss:way", tmp_path, program=COUNTED), 1)
    assert said.count("is a folder, and stands in the way") == COUNT // 2
    ended(start(server, "--delete", "sfss:way", tmp_path), 0)
    assert read(tmp_path) == read(many)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_a_process_had_that_was_killed_is_done_again(
    server: Gateway, many: Path, tmp_path: Path, direction: str
) -> None:
    prefix, folder = f"killed-{direction}", tmp_path / "down"
    sides: tuple[object, object] = (many, f"sfss:{prefix}")
    if direction == "down":
        ended(start(server, *sides), 0)
        folder.mkdir()
        sides = (f"sfss:{prefix}", folder)
    done = lambda: len(os.listdir(folder)) if direction == "down" else count(server, prefix)  # noqa: E731, PTH208
    sync, worker = held_back(server, *sides)
    wait_until(lambda: done() == HELD_UP, "all is done but what the other process has")
    os.kill(worker, signal.SIGKILL)
    assert "a process that copied has ended" in ended(sync, 0)
    assert done() == COUNT
    if direction == "down":
        assert read(folder) == read(many)


def test_what_a_process_had_that_made_a_mistake_is_done_again(server: Gateway, many: Path) -> None:
    _, said = start(server, many, "sfss:mistake", program=RAISING).communicate(timeout=60)
    assert b"AssertionError: a mistake" in said
    assert b"a process that copied has ended" in said
    assert f"{COUNT:,} files, 0 skipped, 0 failed".encode() in said
    assert count(server, "mistake") == COUNT


def test_who_is_not_told_of_children_ends_well(server: Gateway, many: Path) -> None:
    ended(start(server, many, "sfss:orphans", ignored=signal.SIGCHLD), 0)
    assert count(server, "orphans") == COUNT


@pytest.mark.parametrize("is_at_work", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_behind(
    server: Gateway, many: Path, number: signal.Signals, is_at_work: bool
) -> None:
    prefix = f"left-{number}-{is_at_work}"
    sync, worker = held_back(server, many, f"sfss:{prefix}")
    wait_until(lambda: count(server, prefix) == HELD_UP, "the other process has something to do")
    with held_up(server):  # nobody comes to the end of what he does
        if is_at_work:
            os.kill(worker, signal.SIGCONT)
            wait_until(lambda: is_connected(worker, server), "it asks the gateway")
        os.kill(sync.pid, number)
        os.kill(worker, signal.SIGCONT)
        assert ended(sync, -number if number is signal.SIGKILL else 130) == ""
        wait_until(lambda: has_ended(worker), "the other process has ended")
    ended(start(server, many, f"sfss:{prefix}"), 0)
    assert count(server, prefix) == COUNT


def test_an_interrupt_from_the_terminal_ends_both(server: Gateway, many: Path) -> None:
    sync, worker = held_back(server, many, "sfss:terminal")
    wait_until(lambda: count(server, "terminal") == HELD_UP, "the other process has work")
    with held_up(server):
        os.kill(worker, signal.SIGCONT)
        wait_until(lambda: is_connected(worker, server), "it asks the gateway")
        os.killpg(sync.pid, signal.SIGINT)
        assert ended(sync, 130) == ""
    wait_until(lambda: has_ended(worker), "the other process has ended")


def test_a_second_interrupt_leaves_no_process_that_stands_still(
    server: Gateway, many: Path
) -> None:
    sync, worker = held_back(server, many, "sfss:twice")
    wait_until(lambda: count(server, "twice") == HELD_UP, "the other process has something to do")
    os.kill(sync.pid, signal.SIGINT)
    wait_until(lambda: not is_connected(sync.pid, server), "only that one is waited for")
    os.kill(sync.pid, signal.SIGINT)
    assert ended(sync, 130) == ""
    wait_until(lambda: has_ended(worker), "the other process has ended")


async def test_who_has_ended_is_not_waited_for() -> None:
    """However soon after that: its socket is closed before anybody has read so."""
    ours, theirs = socket.socketpair()
    worker = _Worker(0, ours)
    await worker.open()
    theirs.close()
    batch = [(Step.KEEP, Pair(Entry("x" * 100_000), None))]
    for _ in range(20):
        with pytest.raises(Gone):
            await worker.ask(batch)
    await worker.close()
    worker.forget()


@pytest.mark.parametrize("limit", [resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE])
def test_where_little_is_allowed_there_are_no_others(
    server: Gateway, many: Path, tmp_path: Path, limit: int
) -> None:
    sync = start(server, many, f"sfss:little-{limit}", "--dry-run", program=FORKS, allowed=limit)
    assert ended(sync, 0).endswith("forks: 0\n")
    sync = start(server, many, f"sfss:little-{limit}", "--dry-run", program=FORKS)
    assert ended(sync, 0).endswith("forks: 1\n")
