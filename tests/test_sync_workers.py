"""``sfss sync`` of many small files: other processes copy as well, and none is left behind."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers import PYTHON_ENVIRON, SFSS, Gateway, gateway, running, wait_until

COUNT = 64 * 32
"""Files, in full batches."""

CONCURRENCY = 4
HELD_UP = COUNT - CONCURRENCY // 2 * 32
"""Files that are copied where one of two processes stands still: it has half of the batches that
are under way.
"""

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="with one processor there are no other processes"
)


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


def start(server: Gateway, *arguments: object) -> subprocess.Popen[bytes]:
    """Start ``sfss sync`` on two processors."""
    processors = set(sorted(os.sched_getaffinity(0))[:2])
    words = [str(each) for each in arguments]
    return subprocess.Popen(
        [*SFSS, "sync", "--concurrency", str(CONCURRENCY), *words],
        env={**os.environ, **PYTHON_ENVIRON, "SFSS_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, processors),
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


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def is_busy(pid: int) -> bool:
    """Tell whether a process has connections to the gateway: more sockets than the two to the first
    process, and the two of its event loop.
    """
    try:
        names = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return sum(name.startswith("socket:") for name in names) > 4


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
    assert f"{COUNT:,} files, 0 skipped, 0 failed" in ended(start(server, many, "sfss:both"), 0)
    ended(start(server, "sfss:both", tmp_path / "down"), 0)
    assert read(tmp_path / "down") == read(many)
    assert f" {COUNT:,} skipped, 0 failed" in ended(
        start(server, "sfss:both", tmp_path / "down"), 0
    )


def test_what_fails_elsewhere_is_told_here(server: Gateway, many: Path, tmp_path: Path) -> None:
    for number in range(500):
        Path(os.fsdecode(b"%s/z%03d\xff" % (os.fsencode(tmp_path), number))).touch()
    for name in ("0001", "0002"):
        shutil.copy(many / name, tmp_path)
    said = ended(start(server, tmp_path, "sfss:bad"), 1)
    assert said.count("its path is not UTF-8") == 500
    assert " 500 failed" in said
    assert count(server, "bad") == 2


def test_what_stands_in_the_way_elsewhere_goes_here(
    server: Gateway, many: Path, tmp_path: Path
) -> None:
    ended(start(server, many, "sfss:way"), 0)
    for number in range(0, COUNT, 2):
        (tmp_path / f"{number:04}" / "former").mkdir(parents=True)
    said = ended(start(server, "sfss:way", tmp_path), 1)
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
    with held_up(server):
        sync = start(server, *sides)
        worker = worker_of(sync)
        os.kill(worker, signal.SIGSTOP)
    done = lambda: len(os.listdir(folder)) if direction == "down" else count(server, prefix)  # noqa: E731, PTH208
    wait_until(lambda: done() == HELD_UP, "all is done but what the other process has")
    os.kill(worker, signal.SIGKILL)
    assert "a process that copied has ended" in ended(sync, 0)
    assert done() == COUNT
    if direction == "down":
        assert read(folder) == read(many)


@pytest.mark.parametrize("is_at_work", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_behind(
    server: Gateway, many: Path, number: signal.Signals, is_at_work: bool
) -> None:
    prefix = f"left-{number}-{is_at_work}"
    with held_up(server):
        sync = start(server, many, f"sfss:{prefix}")
        worker = worker_of(sync)
    if is_at_work:
        wait_until(lambda: is_busy(worker), "the other process is at work")
    os.kill(sync.pid, number)
    # It may not have begun to listen to signals.
    said = ended(sync, *([-number] if number is signal.SIGKILL else [-number, 130]))
    wait_until(lambda: has_ended(worker), "the other process has ended")
    assert "Error" not in said
    ended(start(server, many, f"sfss:{prefix}"), 0)
    assert count(server, prefix) == COUNT


def test_an_interrupt_from_the_terminal_ends_both(server: Gateway, many: Path) -> None:
    with held_up(server):
        sync = start(server, many, "sfss:terminal")
        worker = worker_of(sync)
    wait_until(lambda: is_busy(worker), "the other process is at work")
    os.killpg(sync.pid, signal.SIGINT)
    assert ended(sync, 130) == ""
    wait_until(lambda: has_ended(worker), "the other process has ended")
