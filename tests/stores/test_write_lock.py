"""Processes that wait to write are handed the lock, whichever of them is killed."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb
import pytest

from sfss.stores.embedded import check_folder
from sfss.stores.write_lock import WriteLock
from tests.servers import DEADLINE_S, wait_until
from tests.stores.test_embedded import Child, child

STORE = """
async def main():
    store = EmbeddedStore(folder)
    say("open"), hear()
    await store.set(b"key", new_record(b"body", 1))
    say("written"), hear()
asyncio.run(main())
"""

LEDGER = """
from sfss.config_quota import Quota
from sfss.stores.ledger import Ledger
async def main():
    ledger = Ledger(folder, [Quota("", 1000, 1000)])
    say("open"), hear()
    await ledger.begin_delete(b"path")
    say("written"), hear()
asyncio.run(main())
"""


@pytest.mark.parametrize("code", [STORE, LEDGER])
def test_the_one_that_is_woken_is_killed(code: str, tmp_path: Path) -> None:
    """A mutex of glibc forgets then that others wait, if it is taken before the death."""
    if code == STORE:
        check_folder(tmp_path, make=True)
    with child(code, tmp_path) as first, child(code, tmp_path) as second:
        assert (first.heard(), second.heard()) == ("open", "open")
        environment = lmdb.open(str(tmp_path), lib_version=0)
        lock = WriteLock(tmp_path / "data.mdb")
        with holds_up(first):
            with lock, environment.begin(write=True):
                for one in (first, second):
                    one.tell()
                    wait_until(partial(waits_for_a_lock, one), "it waits for the lock")
            with lock, environment.begin(write=True):  # the first is woken, and does not run
                first.kill()
        assert heard_in_time(second) == "written"
        environment.close()
        lock.close()


def waits_for_a_lock(one: Child) -> bool:
    """Tell whether it waits for a lock of a file, or for a mutex in the lock file of LMDB."""
    process = Path("/proc", str(one.process.pid))
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    if any("->" in words and str(one.process.pid) in words for words in waiting):
        return True
    lines = (process / "maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith("lock.mdb")]
    for thread in (process / "task").iterdir():
        words = (thread / "syscall").read_text().split()
        address = int(words[1], 16) if len(words) > 1 else 0
        if any(int(begin, 16) <= address < int(end, 16) for begin, end in spans):
            return True
    return False


@contextmanager
def holds_up(one: Child) -> Iterator[None]:
    """Keep a process busy, where ``one`` runs only if no other wants to."""
    processor = {min(os.sched_getaffinity(0))}
    for thread in Path("/proc", str(one.process.pid), "task").iterdir():
        os.sched_setaffinity(int(thread.name), processor)
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        os.sched_setaffinity(other.pid, processor)
        try:
            yield
        finally:
            other.kill()


def heard_in_time(one: Child) -> str:
    """Return what it says next; "" if it says nothing, or ends."""
    found, _, _ = select.select([one.process.stdout], [], [], DEADLINE_S)
    return one.heard() if found else ""
