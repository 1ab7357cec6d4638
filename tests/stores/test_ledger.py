"""The ledger of quotas: what it counts is never less than what is there, whoever dies when."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfss.config_quota import Quota, read_quota
from sfss.errors import QuotaExceeded, Unreachable
from sfss.stores import ledger_entries
from sfss.stores.ledger import Ledger
from sfss.stores.ledger_entries import Begun, Outcome, Presence
from sfss.stores.write_lock import WriteLock
from tests.servers import DEADLINE_S, PYTHON_ENVIRON

QUOTAS = [Quota("a/", 100, 3), Quota("a/b/", None, 2), Quota("", 1000, None)]


@asynccontextmanager
async def opened(folder: Path, quotas: list[Quota] = QUOTAS) -> AsyncIterator[Ledger]:
    """Open a ledger whose prefixes are counted."""
    ledger = Ledger(folder, quotas)
    try:
        for quota in quotas:
            if not ledger.usage()[quota.prefix][1].is_counted:
                await ledger.count(quota.prefix)
                await ledger.counted(quota.prefix)
        yield ledger
    finally:
        await ledger.close()


async def keep(ledger: Ledger, path: bytes, size: int, expiry: int = 0) -> None:
    """Write a file."""
    begun = await ledger.begin(path, size, expiry)
    assert begun is not None
    await ledger.end(begun, Outcome.KEPT, size, expiry)


async def remove(ledger: Ledger, path: bytes) -> None:
    """Delete a file."""
    await ledger.end(await ledger.begin_delete(path), Outcome.GONE)


def used(ledger: Ledger, prefix: str = "a/") -> tuple[int, int]:
    """Return bytes and files below ``prefix``."""
    found = ledger.usage()[prefix][1]
    return found.bytes, found.files


async def test_replaced_and_deleted_files_give_back_what_they_had(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await keep(ledger, b"a/x", 60)
        await keep(ledger, b"a/x", 100)
        assert used(ledger) == (100, 1)
        with pytest.raises(QuotaExceeded) as refusal:
            await ledger.begin(b"a/y", 1, 0)
        assert str(refusal.value) == (
            "the quota of a/* is at most 100 bytes, of which 100 are used, and this needs 1 more;"
            " nothing was stored"
        )
        await keep(ledger, b"a/y", 0)  # it needs no byte
        await keep(ledger, b"a/x", 10)
        assert used(ledger) == (10, 2)
        await remove(ledger, b"a/x")
        await remove(ledger, b"a/x")
        assert used(ledger) == (0, 1)
        await keep(ledger, b"z", 1000)
        assert used(ledger, "") == (1000, 2)
        await keep(ledger, b"a/y", 0)


async def test_as_many_files_as_may_be_whichever_prefix_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for path in (b"a/b/1", b"a/b/2"):
            await keep(ledger, path, 1)
        with pytest.raises(QuotaExceeded, match=r"of a/b/\* is at most 2 files, of which 2"):
            await ledger.begin(b"a/b/3", 1, 0)
        await keep(ledger, b"a/c", 1)
        with pytest.raises(QuotaExceeded, match=r"of a/\* is at most 3 files"):
            await ledger.begin(b"a/d", 1, 0)


async def test_a_write_that_failed_counts_no_more_but_one_that_may_have_been_made_does(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as ledger:
        await keep(ledger, b"a/x", 10)
        for outcome, expected in ((Outcome.UNCHANGED, 10), (Outcome.UNKNOWN, 50)):
            begun = await ledger.begin(b"a/x", 50, 0)
            assert begun is not None
            assert used(ledger) == (50, 1)
            await ledger.end(begun, outcome)
            assert used(ledger) == (expected, 1)
        await keep(ledger, b"a/x", 5)
        assert used(ledger) == (5, 1)


async def test_of_three_writes_that_overlap_in_turn_the_largest_counts(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first, second = await ledger.begin(b"a/x", 90, 0), await ledger.begin(b"a/x", 10, 0)
        assert first is not None
        assert second is not None
        await ledger.end(first, Outcome.KEPT, 90)
        await keep(ledger, b"a/x", 5)  # the second may still come, or have come before the first
        assert used(ledger) == (90, 1)
        await ledger.end(second, Outcome.KEPT, 10)
        assert used(ledger) == (90, 1)
        await keep(ledger, b"a/x", 5)
        assert used(ledger) == (5, 1)


async def test_of_writes_that_overlap_the_last_counts_where_that_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first, second = await ledger.begin(b"a/x", 90, 0), await ledger.begin(b"a/x", 10, 0)
        third = await ledger.begin_delete(b"a/x")
        assert first is not None
        assert second is not None
        await ledger.end(second, Outcome.KEPT, 10, at_ns=3)
        await ledger.end(first, Outcome.KEPT, 90, at_ns=1)
        await ledger.end(third, Outcome.GONE, at_ns=2)
        assert used(ledger) == (10, 1)


async def test_what_has_expired_makes_room(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await keep(ledger, b"a/x", 100, expiry=1)
        await keep(ledger, b"a/y", 100)
        assert used(ledger) == (100, 1)
        await keep(ledger, b"a/y", 10, expiry=1)
        await keep(ledger, b"a/y", 20)  # for ever now
        with pytest.raises(QuotaExceeded):
            await ledger.begin(b"a/z", 100, 0)


async def test_nobody_waits_for_ever_for_a_process_that_was_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path) as former:
        await keep(former, b"a/old", 5)
    ledger = Ledger(tmp_path, QUOTAS, timeout_s=0.2)
    ending = await ledger.begin(b"a/ending", 10, 0)
    assert ending is not None
    stopped = WriteLock(tmp_path / "data.mdb")  # a stopped process would have it like this
    with stopped:
        for given_up in (
            ledger.begin(b"a/new", 10, 0),
            ledger.begin_delete(b"a/old"),
            ledger.end(ending, Outcome.KEPT, 10),
        ):
            with pytest.raises(Unreachable, match=r"nothing was noted within 0\.2 s"):
                await asyncio.wait_for(given_up, DEADLINE_S)
    # What was to begin has not begun; what had come to its end has ended.
    await keep(ledger, b"a/next", 20)
    assert used(ledger) == (35, 3)
    await keep(ledger, b"a/ending", 1)
    await remove(ledger, b"a/old")
    assert used(ledger) == (21, 2)
    stopped.close()
    await ledger.close()


async def test_a_ledger_is_opened_beside_a_process_that_was_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path) as former:
        await keep(former, b"a/old", 5)
    with closing(WriteLock(tmp_path / "data.mdb")) as stopped:
        with stopped:
            # In a thread, so that one that waits fails the test, and goes on behind it.
            opening = asyncio.to_thread(Ledger, tmp_path, QUOTAS)
            ledger = await asyncio.wait_for(asyncio.shield(opening), DEADLINE_S)
            assert not ledger.usage()["a/"][1].is_counted
        await keep(ledger, b"a/new", 5)
        assert used(ledger) == (10, 2)
    await ledger.close()


async def test_nothing_is_written_before_it_is_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, QUOTAS)
    assert await ledger.begin(b"a/x", 1, 0) is None
    for quota in QUOTAS:
        since_us = await ledger.count(quota.prefix)
        listed = {b"a/old": (70, 0)} if quota.prefix != "a/b/" else {}
        await ledger.merge(quota.prefix, (b"", None), listed, since_us)
        await ledger.counted(quota.prefix)
    assert used(ledger) == (70, 1)
    with pytest.raises(QuotaExceeded):
        await ledger.begin(b"a/x", 40, 0)
    await ledger.close()
    async with opened(tmp_path, QUOTAS[:1]) as ledger:  # another has none for the others any more
        await ledger.forget_others()
        await remove(ledger, b"a/old")
    ledger = Ledger(tmp_path, QUOTAS)
    assert used(ledger, "") == (0, 0)
    assert not ledger.usage()[""][1].is_counted
    await ledger.close()


async def test_a_count_leaves_alone_what_is_being_written_and_mends_the_rest(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as ledger:
        for path in (b"a/1", b"a/2", b"z" * 700):
            await keep(ledger, path, 10)
        open_write = await ledger.begin(b"a/3", 10, 0)
        since_us = await ledger.count("")
        await keep(ledger, b"a/2", 30)
        listed = {b"a/1": (20, 0), b"a/2": (10, 0), b"other": (5, 0)}
        await ledger.merge("", (b"", None), listed, since_us)
        assert used(ledger) == (20 + 30 + 10, 3)
        assert used(ledger, "") == (20 + 30 + 10 + 10 + 5, 5)
        assert open_write is not None
        await ledger.end(open_write, Outcome.KEPT, 10)
        since_us = await ledger.count("")
        await ledger.merge("", (b"", b"a/1"), {b"a/1": (20, 0)}, since_us)
        await ledger.merge("", (b"a/1", None), {b"a/2": (30, 0)}, since_us)
        assert used(ledger) == (50, 2)


async def test_a_write_that_never_ended_is_forgotten_when_all_who_were_there_are_gone(
    tmp_path: Path,
) -> None:
    other = Presence(tmp_path)
    async with opened(tmp_path) as ledger:
        await keep(ledger, b"a/x", 10)
        await ledger.begin(b"a/x", 50, 0)  # and it never ends
        await keep(ledger, b"a/x", 20)
        assert used(ledger) == (50, 1)  # either may have come last
    with closing(other):  # another process
        async with opened(tmp_path) as ledger:  # who comes while others are there knows of it
            await keep(ledger, b"a/x", 20)
            since_us = await ledger.count("a/")
            await ledger.merge("a/", (b"", None), {b"a/x": (20, 0)}, since_us)
            assert used(ledger) == (50, 1)
    async with opened(tmp_path) as ledger:
        assert used(ledger) == (50, 1)
        since_us = await ledger.count("a/")
        await ledger.merge("a/", (b"", None), {b"a/x": (20, 0)}, since_us)
        assert used(ledger) == (20, 1)
        await keep(ledger, b"a/x", 30)
        assert used(ledger) == (30, 1)


DIES = """
import asyncio, sys
from pathlib import Path
from tests.stores.test_ledger import QUOTAS, Ledger

async def main():
    ledger = Ledger(Path(sys.argv[1]), QUOTAS)
    await ledger.begin(b"a/new", 40, 0)
    await ledger.begin(b"a/old", 40, 0)
    print("begun", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@contextmanager
def in_writes(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that has begun two writes, and is to be killed."""
    environ = {**os.environ, **PYTHON_ENVIRON}
    command = [sys.executable, "-c", DIES, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        yield process
        process.kill()


async def test_a_write_has_ended_when_its_process_has_died_though_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_entries, "_LOOK_EVERY_US", 0)
    async with opened(tmp_path) as ledger:
        await keep(ledger, b"a/old", 10)
        with in_writes(tmp_path) as other:
            await remove(ledger, b"a/new")
            await keep(ledger, b"a/old", 20)
            assert used(ledger) == (80, 2)
            other.kill()
        # What it has sent may be under way yet.
        await keep(ledger, b"a/old", 20)
        assert used(ledger) == (80, 2)
        monkeypatch.setattr(ledger_entries, "GRACE_US", 0)
        ours = await ledger.begin(b"a/new", 30, 0)
        assert used(ledger) == (80, 2)  # it may have come to pass
        assert ours is not None
        await keep(ledger, b"a/old", 20)
        assert used(ledger) == (60, 2)
        await ledger.end(ours, Outcome.KEPT, 30)
        await remove(ledger, b"a/new")
        assert used(ledger) == (20, 1)


async def test_what_is_left_of_all_who_have_died_ends_no_write_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = Ledger(tmp_path, QUOTAS)
    for quota in QUOTAS:
        await former.counted(quota.prefix)
    await former.begin(b"a/x", 10, 0)
    await former.close()
    monkeypatch.setattr(ledger_entries, "_LOOK_EVERY_US", 0)
    async with opened(tmp_path) as ledger:
        ours = await ledger.begin(b"a/x", 40, 0)
        monkeypatch.setattr(ledger_entries, "GRACE_US", 0)
        await keep(ledger, b"a/x", 5)
        assert used(ledger) == (40, 1)
        assert ours is not None
        await ledger.end(ours, Outcome.KEPT, 40)
        assert used(ledger) == (40, 1)
        await keep(ledger, b"a/x", 5)
        assert used(ledger) == (5, 1)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("a/ 100 -", Quota("a/", 100, None)),
        ("two words/ 10GiB 7", Quota("two words/", 10 << 30, 7)),
        ("/ - 1000", Quota("", None, 1000)),
        ("a/ 1 2 3", Quota("a/ 1", 2, 3)),
        ("a/ 100", None),
        ("a/ -1 5", None),
        ("a/ 1GB 5", None),
        (" 1 5", None),
        ("/a/ 1 5", Quota("a/", 1, 5)),
        (f"{'a' * 300}/ 1 5", None),
    ],
)
def test_quotas_as_they_are_written(text: str, quota: Quota | None) -> None:
    assert read_quota(text) == quota


PATHS = [b"a/x", b"a/y", b"a/b/z"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "delete", "store", "end", "fail", "lose", "die"]),
        st.integers(0, 5),
        st.integers(0, 60),
    ),
    max_size=40,
)


class World:
    """A store, writes in flight, and the ledger that is to know of it; the store ``tells`` in which
    order writes came to pass, or does not.
    """

    def __init__(self, ledger: Ledger, tells: bool) -> None:
        self.ledger, self.tells = ledger, tells
        self.files: dict[bytes, int] = {}
        self.flying: list[tuple[Begun, int | None, list[int]]] = []
        self.is_in_doubt, self.moment = False, 1

    async def step(self, kind: str, number: int, size: int) -> None:
        """Do one thing: begin a write, store one in flight, or end one in some way."""
        path = PATHS[number % len(PATHS)]
        others = [begun for begun, _, _ in self.flying if begun.path == path]
        # A deletion that found nothing is not noted: a write that begins then knows nothing of it.
        is_told = self.tells and all(begun.number for begun in others)
        self.is_in_doubt |= kind in ("begin", "delete") and bool(others) and not is_told
        if kind == "begin":
            try:
                begun = await self.ledger.begin(path, size, 0)
            except QuotaExceeded:
                return
            assert begun is not None
            self.flying.append((begun, size, []))
        elif kind == "delete":
            self.flying.append((await self.ledger.begin_delete(path), None, []))
        elif self.flying:
            await self.land(kind, self.flying[number % len(self.flying)])

    async def land(self, kind: str, write: tuple[Begun, int | None, list[int]]) -> None:
        """Go on with a write in flight."""
        begun, size, done = write
        if kind == "fail" and not done:
            await self.ledger.end(begun, Outcome.UNCHANGED)
        else:
            if not done:
                self.moment += 1
                done.append(self.moment if self.tells else 0)
                if size is None:
                    self.files.pop(begun.path, None)
                else:
                    self.files[begun.path] = size
            if kind == "store":
                return
            if kind == "end":
                outcome = Outcome.GONE if size is None else Outcome.KEPT
                await self.ledger.end(begun, outcome, size or 0, at_ns=done[0])
            else:
                self.is_in_doubt = True
                if kind == "lose":
                    await self.ledger.end(begun, Outcome.UNKNOWN)
        self.flying.remove(write)

    def check(self) -> None:
        """Assert the law."""
        size, files = used(self.ledger)
        assert sum(self.files.values()) <= size <= 100
        assert len(self.files) <= files <= 3
        if not self.flying and not self.is_in_doubt:
            assert (sum(self.files.values()), len(self.files)) == (size, files)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.booleans())
def test_no_less_is_counted_than_there_is_and_no_more_is_there_than_may_be(
    steps: list[tuple[str, int, int]], tells: bool
) -> None:
    async def work() -> None:
        with TemporaryDirectory(dir="/dev/shm") as folder:
            async with opened(Path(folder)) as ledger:
                world = World(ledger, tells)
                for step in steps:
                    await world.step(*step)
                    world.check()
                since_us = await ledger.count("a/")
                listed = {path: (size, 0) for path, size in world.files.items()}
                await ledger.merge("a/", (b"", None), listed, since_us)
                world.check()

    asyncio.run(work())
