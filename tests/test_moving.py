"""Files that move by themselves when members join and leave: real stores, real nodes."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from sfss.agreement import CopiesSettings
from sfss.chunks import ESCAPED_PREFIX
from sfss.copies import Copies
from sfss.errors import QuorumFailed, Unreachable
from sfss.moving import Move, MoveSettings, Placed, put_in_place
from sfss.owed import Owed
from sfss.placement import KetamaRing, Places
from sfss.record import Head, new_record
from tests.copies_bench import KEY, Bench, TestClock, body_of, cancel_after, others_than_this
from tests.moving_bench import COPIES, Members, Mover, View, process
from tests.servers import wait_until
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always
from tests.virtual_time import in_virtual_time

FILES = 90


@asynccontextmanager
async def members(folder: Path, count: int) -> AsyncIterator[Members]:
    """Run ``count`` members."""
    with ExitStack() as stack:
        these = Members(stack, folder, count)
        try:
            yield these
        finally:
            await these.close()


async def fill(these: Members, copies: Copies, count: int = FILES) -> dict[bytes, bytes | None]:
    """Keep files, a chunk among them; delete every ninth; return what should be there."""
    there: dict[bytes, bytes | None] = {}
    for number in range(count):
        key = b"%s%d" % (ESCAPED_PREFIX if number == 1 else b"file-", number)
        there[key] = b"%d " % number * number
        await copies.put(key, new_record(there[key] or b"", these.clock.version()))
    for key in list(there)[::9]:
        await copies.delete(key)
        there[key] = None
    return there


async def check(copies: Copies, there: dict[bytes, bytes | None]) -> None:
    """Read all that should be there."""
    for key, body in there.items():
        assert body_of(await copies.get(key)) == body, key


async def take_step(these: Members, view: View, numbers: Sequence[int]) -> list[Mover]:
    """Have members have this view, and move until all are done."""
    movers = [these.move(these.gateway(number, view), number) for number in numbers]
    await asyncio.gather(*(mover.done() for mover in movers))
    return movers


async def check_places(these: Members, now: Sequence[str], keys: Sequence[bytes]) -> None:
    """Check that each key is on just the stores where it belongs."""
    ring = KetamaRing(now, COPIES)
    for key in keys:
        assert await these.holders(key) == set(ring.primaries(key)), key


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 3)])
async def test_only_what_has_to_move_moves(tmp_path: Path, before: int, after: int) -> None:
    async with members(tmp_path, 3) as these:
        old, new = these.addresses[:before], these.addresses[:after]
        there = await fill(these, these.gateway(0, View(old)))
        await these.finish()
        was, will = KetamaRing(old, COPIES), KetamaRing(new, COPIES)
        more = sum(len(set(will.primaries(key)) - set(was.primaries(key))) for key in there)
        less = sum(len(set(was.primaries(key)) - set(will.primaries(key))) for key in there)
        copying = await take_step(these, View(new, old, both=True), range(3))
        mended = sum(copies.counts["mended"] for copies in these.gateways)
        # The same copy may be brought by two, which have seen at the same time that it lacks.
        assert more <= mended <= 2 * more
        for key in there:
            assert await these.holders(key) == {*was.primaries(key), *will.primaries(key)}
        assert all(mover.move.progress.failed == 0 for mover in copying)
        moving = await take_step(these, View(new, old), range(3))
        assert sum(mover.move.progress.moved for mover in moving) == less
        await check_places(these, new, list(there))
        for number in range(after):
            await check(these.gateway(number, View(new)), there)
        if after < before:
            assert (await these.own[these.addresses[2]].stats())["curr_items"] == "0"


async def test_a_store_that_is_down_in_the_middle_is_waited_for(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as these:
        old, new = these.addresses[:2], these.addresses
        there = await fill(these, these.gateway(0, View(old)))
        both = View(new, old, both=True)
        mover = these.move(these.gateway(0, both), 0)
        these.nodes[2].kill()
        await mover.until(lambda progress: progress.failed > 0)
        assert not any(report.done for report in mover.reports)
        these.nodes[2].start()
        mover.move.again()
        assert (await mover.done()).failed == 0
        await take_step(these, both, range(3))
        # Of two stores that hold a file, one is down: it stays where else it is.
        these.nodes[2].kill()
        last = these.move(these.gateway(0, View(new, old)), 0)
        await last.until(lambda progress: progress.failed > 0)
        ring = KetamaRing(new, COPIES)
        for key in there:
            if new[2] in ring.primaries(key):
                assert await these.holders(key) >= set(KetamaRing(old, COPIES).primaries(key)) - {
                    new[1]
                }
        these.nodes[2].start()
        await take_step(these, View(new, old), range(3))
        await check_places(these, new, list(there))
        await check(these.gateway(1, View(new)), there)


async def test_killed_in_the_middle(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as these:
        old, new = these.addresses, these.addresses[:2]
        there = await fill(these, these.gateway(0, View(old)))
        await these.finish()
        given = MoveSettings(moves_per_s=25)
        for view in (View(new, old, both=True), View(new, old)):
            leaving = process(tmp_path, these.nodes[2], view, given)
            leaving.log = tmp_path / f"move-{view.both}.log"
            leaving._ready = lambda each=leaving: '"moved": ' in each.output()  # type: ignore
            leaving.start()
            try:
                wait_until(
                    lambda each=leaving: has_moved_some(each.output()), "some have been moved"
                )
            finally:
                assert leaving.process is not None
                leaving.process.kill()
                leaving.process.wait()
            assert '"done": true' not in leaving.output()
            copies = these.gateway(0, view)
            await check(copies, there)
            await take_step(these, view, range(3))
        await check_places(these, new, list(there))
        await check(these.gateway(0, View(new)), there)


def has_moved_some(output: str) -> bool:
    """Tell whether a progress says that something was moved."""
    return any(f'"moved": {number}' in output for number in range(1, 10))


async def test_two_views_at_once(tmp_path: Path) -> None:
    """Writes and deletes by gateways of which one is always a step ahead, while files move."""
    async with members(tmp_path, 3) as these:
        old, new = these.addresses[:2], these.addresses
        steps = [View(old), View(new, old, both=True), View(new, old), View(new)]
        there = await fill(these, these.gateway(0, steps[0]))
        dice = random.Random(4)

        async def use(gateways: Sequence[Copies]) -> None:
            for _ in range(100):
                key, copies = dice.choice(list(there)), dice.choice(gateways)
                assert body_of(await copies.get(key)) == there[key], key
                if dice.random() < 0.3:
                    await copies.delete(key)
                    there[key] = None
                else:
                    there[key] = b"new %d" % these.clock.version()
                    record = new_record(there[key] or b"", these.clock.version())
                    await copies.put(key, record)
                assert body_of(await dice.choice(gateways).get(key)) == there[key], key

        for before, after in pairwise(steps):
            mixed = [
                these.gateway(0, before),
                these.gateway(1, after),
                these.gateway(2, before if before.former else after),
            ]
            all_after = [these.gateway(number, after) for number in range(3)]
            for gateways in (mixed, all_after):
                movers = [these.move(gateways[number], number) for number in (1, 2)]
                if gateways is all_after:
                    movers.append(these.move(gateways[0], 0))
                await asyncio.gather(use(gateways), *(mover.done() for mover in movers))
                await these.finish()
            # What goes on only now that nobody has the view before counts.
            await take_step(these, after, range(3))
        await check_places(these, new, [key for key, body in there.items() if body is not None])
        for number in range(3):
            await check(these.gateway(number, View(new)), there)


async def test_a_stopped_walk_goes_on_where_it_was(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as these:
        old, new = these.addresses[:2], these.addresses
        await fill(these, these.gateway(0, View(old)))
        await these.finish()
        both = View(new, old, both=True)
        mover = these.move(these.gateway(0, both), 0, MoveSettings(moves_per_s=30))
        await mover.until(lambda progress: progress.moved > 0)
        stopped = mover.move.progress
        assert 0 < stopped.seen < stopped.keys == FILES and not stopped.done
        await mover.until(lambda progress: progress.started_us > stopped.started_us)
        walk = [each for each in mover.reports if each.started_us == stopped.started_us]
        assert walk[-1].seen == FILES, "each key once"
        await these.finish()


async def test_a_walk_that_left_something_behind_begins_anew(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as these:
        old, new = these.addresses[:2], these.addresses
        await fill(these, these.gateway(0, View(old)))
        mover = these.move(these.gateway(0, View(new, old, both=True)), 0)
        these.nodes[2].kill()
        await mover.until(lambda progress: progress.failed > 0)
        started_us = mover.move.progress.started_us
        these.nodes[2].start()
        await mover.done()
        assert mover.reports[-1].started_us > started_us
        assert mover.reports[-1].seen == FILES


# In made-up time.


class Listed(FaultyStore):
    """A store that can be walked; ``fails``: not now."""

    fails = False

    async def heads(self, after: bytes) -> tuple[list[tuple[bytes, Head | None]], bytes | None]:
        """Return three keys at a time."""
        if self.fails:
            raise Unreachable(self.address, "its folder is gone")
        keys = sorted(key for key in self.inner.values if key > after)
        page = [(key, self.inner.header(key)) for key in keys[:3]]
        return page, keys[2] if len(keys) > 3 else None


async def leaving(count: int = 10, size: int = 4) -> tuple[Bench, Listed, list[bytes]]:
    """Return a bench on which files lie on a, which leaves, and belong on b and c."""
    bench = Bench(names=("a",), others=("b", "c"))
    own = bench.stores["a"] = Listed(DictStore("a"))
    bench.gateway = bench.new_gateway()
    keys = [b"key %d" % number for number in range(count)]
    for key in keys:
        await bench.gateway.put(key, bench.record(bytes(size)))
    bench.former, bench.names = bench.names, ("b", "c")
    bench.gateway = bench.new_gateway()
    return bench, own, keys


def virtual(bench: Bench, own: Listed, **given: float) -> Mover:
    """Return what moves the files of ``own``."""
    return Mover(bench.gateway, own, MoveSettings(**given))  # type: ignore[arg-type]


def is_empty(own: Listed) -> bool:
    """Tell whether nothing is left."""
    return not own.inner.values


@in_virtual_time
async def test_no_more_than_so_many_a_second() -> None:
    bench, own, _ = await leaving(20)
    before_s = asyncio.get_running_loop().time()
    mover = virtual(bench, own, moves_per_s=2)
    await mover.done()
    assert asyncio.get_running_loop().time() - before_s >= 19 / 2
    moved = [report.moved for report in mover.reports if not report.done]
    assert all(after - before <= 3 for before, after in pairwise(moved)), "no bursts"
    assert is_empty(own) and mover.move.progress.bytes == 20 * 4


@pytest.mark.parametrize(("limits", "most"), [({"at_once": 3}, 3), ({"bytes_at_once": 1000}, 1)])
@in_virtual_time
async def test_no_more_than_so_much_at_once(limits: dict[str, float], most: int) -> None:
    bench, own, _ = await leaving(5, 300)
    asked: dict[float, set[bytes]] = {}

    def late(operation: str, key: bytes) -> Fault:
        asked.setdefault(asyncio.get_running_loop().time(), set()).add(key)
        return Fault.LATE

    bench.stores["b"].plan = late
    await virtual(bench, own, moves_per_s=0, **limits).done()
    assert max(map(len, asked.values())) == most
    assert is_empty(own)


@in_virtual_time
async def test_only_the_leader_moves() -> None:
    bench, own, keys = await leaving()
    mover = virtual(bench, own, moves_per_s=0)
    leads = False
    run = asyncio.create_task(mover.move.run(lambda: leads))
    await asyncio.sleep(10)
    assert len(own.inner.values) == len(keys)
    leads = True
    await asyncio.sleep(10)
    assert is_empty(own) and mover.move.progress.done
    mover.move.stop()
    await run


@in_virtual_time
async def test_what_comes_later_is_moved_when_told() -> None:
    bench, own, keys = await leaving()
    mover = virtual(bench, own, moves_per_s=0)
    run = asyncio.create_task(mover.move.run(lambda: True))
    await asyncio.sleep(10)
    assert mover.move.progress.done
    await own.inner.set(keys[0], bench.record(b"late"))
    await asyncio.sleep(10)
    assert not is_empty(own)
    mover.move.again()
    assert not mover.move.progress.done
    await asyncio.sleep(10)
    assert mover.move.progress.done and is_empty(own)
    assert body_of(await bench.gateway.get(keys[0])) == b"late"
    run.cancel()
    await asyncio.wait([run])


@in_virtual_time
async def test_a_store_that_cannot_be_walked_is_walked_later() -> None:
    bench, own, _ = await leaving()
    mover = virtual(bench, own, moves_per_s=0)
    own.fails = True
    run = asyncio.create_task(mover.move.run(lambda: True))
    await asyncio.sleep(30)
    assert not mover.move.progress.done
    own.fails = False
    await asyncio.sleep(60)
    assert mover.move.progress.done and is_empty(own)
    run.cancel()
    await asyncio.wait([run])


@in_virtual_time
async def test_what_is_damaged_everywhere_stays_and_is_told() -> None:
    bench, own, keys = await leaving()
    own.damage(keys[3])
    progress = await virtual(bench, own, moves_per_s=0).done()
    assert (progress.lost, progress.failed) == (1, 0)
    assert list(own.inner.values) == [keys[3]]


@in_virtual_time
async def test_a_report_that_fails_stops_nothing() -> None:
    bench, own, _ = await leaving()

    def report(progress: object) -> None:
        raise ValueError

    move = Move(bench.gateway, own, MoveSettings(moves_per_s=0), report)
    run = asyncio.create_task(move.run(lambda: True))
    await asyncio.sleep(10)
    assert move.progress.done
    move.stop()
    await run
    assert others_than_this() == set()


@pytest.mark.parametrize("fault", [None, Fault.LOSE_ANSWER, Fault.LATE, Fault.HANG])
@in_virtual_time
async def test_cancelled_at_every_step(fault: Fault | None) -> None:
    for steps in range(0, 120, 3):
        bench, own, keys = await leaving(4)
        if fault:
            bench.stores["b"].plan = always(fault)
        mover = virtual(bench, own, moves_per_s=0)
        await cancel_after(steps, mover.move.run(lambda: True))
        await bench.up()
        for key in keys:
            assert body_of(await bench.gateway.get(key)) == bytes(4)
        await virtual(bench, own, moves_per_s=0, retry_s=0.01).done()
        assert is_empty(own)
        await bench.gateway.finish()
        assert others_than_this() == set()


# What gateways that share no debts do otherwise.


def parted(**settings: int) -> Bench:
    """Return a bench whose gateways share no debts."""
    return Bench(CopiesSettings(shares_debts=False, **settings))  # type: ignore[arg-type]


def strangers(bench: Bench) -> Copies:
    """Return a gateway with a list of debts of its own."""
    bench.list = FaultyStore(DictStore("another list"))
    return bench.new_gateway()


@in_virtual_time
async def test_what_another_gateway_owes_is_seen_all_the_same() -> None:
    bench = parted()
    await bench.put(b"old")
    bench.down("a")
    await bench.put(b"new")
    await bench.up()
    other = strangers(bench)
    assert other.first(KEY) is None
    assert body_of(await other.get(KEY)) == b"new"


@in_virtual_time
async def test_what_another_gateway_deleted_is_not_listed() -> None:
    stores = {name: DictStore(name) for name in "abc"}
    clock = TestClock()
    owed = Owed(DictStore("list"), limit=10)
    places, settings = Places(lambda _: "abc"), CopiesSettings(shares_debts=False)
    copies = Copies(stores, places, owed, clock, settings)
    await copies.put(KEY, new_record(b"body", clock.version()))
    assert [each.key for each in await copies.scan(b"", b"", 10)] == [KEY]
    missed = stores["a"].values[KEY]
    await copies.delete(KEY)
    stores["a"].values[KEY] = missed
    assert await copies.children(b"", b"", 10) == []
    assert await copies.scan(b"", b"", 10) == []
    await copies.finish()


@in_virtual_time
async def test_to_delete_nothing_leaves_a_tombstone_as_writes_may_be_on_their_way() -> None:
    bench = parted()
    assert await bench.gateway.delete(KEY) is False
    assert bench.has() == bench.same(b"")


@in_virtual_time
async def test_what_the_old_places_may_have_newer_is_not_taken_for_copied() -> None:
    bench = Bench(CopiesSettings(shares_debts=False), others=("d", "e", "f"))
    places = Places(lambda _: ("d", "e", "f"), lambda _: bench.names, writes_both=lambda: True)
    copies = Copies(bench.stores, places, bench.owed, bench.clock, bench.settings)
    await copies.put(KEY, bench.record(b"old"))
    assert await put_in_place(copies, KEY, "c") == Placed()
    bench.down("c")
    await strangers(bench).put(KEY, bench.record(b"new"))  # it knows only the old places
    await bench.up()
    bench.down("a", "b")
    assert (await put_in_place(copies, KEY, "c")).reason
    await bench.up()
    assert await put_in_place(copies, KEY, "c") == Placed(moved=True)
    assert len({store.inner.values[KEY] for store in bench.stores.values()}) == 1


@in_virtual_time
async def test_a_write_that_only_the_other_place_may_have_kept_may_be_seen() -> None:
    bench = Bench(CopiesSettings(shares_debts=False), names=("b",), others=("a",))
    places = Places(lambda _: ("b",), lambda _: ("a",), writes_both=lambda: True)
    copies = Copies(bench.stores, places, bench.owed, bench.clock, bench.settings)
    bench.down("b")
    bench.down("a", fault=Fault.LOSE_ANSWER)
    with pytest.raises(QuorumFailed) as caught:
        await copies.put(KEY, bench.record(b"body"))
    assert caught.value.indeterminate


@in_virtual_time
async def test_a_write_to_both_places_needs_a_quorum_of_each() -> None:
    bench = Bench(CopiesSettings(shares_debts=False), names=("d", "e"), others=("a", "b", "c"))
    places = Places(lambda _: ("d", "e"), lambda _: ("a", "b", "c"), writes_both=lambda: True)
    copies = Copies(bench.stores, places, bench.owed, bench.clock, bench.settings)
    bench.down("a")
    await copies.put(KEY, bench.record(b"body"))
    assert set(await bench.debts()) == {"a"}
    bench.down("b")
    with pytest.raises(QuorumFailed) as caught:
        await copies.put(KEY, bench.record(b"more"))
    assert (caught.value.got, caught.value.wanted) == (1, 2)
    bench.down("c")
    with pytest.raises(QuorumFailed) as caught:
        await copies.put(KEY, bench.record(b"most"))
    assert caught.value.got == 0 and caught.value.indeterminate, "d and e have kept it"
    await bench.up()
    for name in "abc":
        await copies.paying.pay(name)
    assert len({store.inner.values[KEY] for store in bench.stores.values()}) == 1
    assert not (await copies.healing.move(KEY, "a")).moved
