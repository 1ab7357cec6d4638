"""Former places of files, and how files are moved from there to where they belong."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sfss.agreement import CopiesSettings
from sfss.config import MemcachedSettings
from sfss.copies import Copies
from sfss.errors import Corrupt, NoStoreReachable, PreconditionFailed
from sfss.healing import Moved
from sfss.owed import Owed
from sfss.paying import Paid
from sfss.placement import KetamaRing, Places
from sfss.record import Head, encode, new_record, raw_record
from sfss.stores.memcached import MemcachedStore
from tests.copies_bench import DAY, KEY, Bench, TestClock, cancel_after, others_than_this
from tests.servers import node, running
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, always, at
from tests.virtual_time import in_virtual_time

CANCEL_STEPS = 60
FIVE = ("a", "b", "c", "d", "e")


def changed(bench: Bench, *names: str) -> Bench:
    """Have files belong on the stores ``names``; the workers know where they were."""
    bench.former, bench.names = bench.names, names
    bench.gateway = bench.new_gateway()
    return bench


async def moving(body: bytes = b"body") -> Bench:
    """Return a bench on which ``KEY`` lies on a, b and c, and belongs on c, d and e."""
    bench = Bench(others=("d", "e"))
    await bench.put(body)
    return changed(bench, "c", "d", "e")


def everywhere(bench: Bench) -> dict[str, bool]:
    """Return which stores have something under ``KEY``."""
    return {name: KEY in store.inner.values for name, store in bench.stores.items()}


async def move_all(bench: Bench) -> list[Moved]:
    """Move ``KEY`` from wherever it does not belong."""
    names = [name for name in bench.stores if name not in bench.names]
    return [await bench.gateway.healing.move(KEY, name) for name in names]


# Reads and writes.


@pytest.mark.parametrize("mode", ["first", "random", "fastest"])
@in_virtual_time
async def test_a_file_in_its_former_place_is_found_and_brought_to_its_new_one(mode: str) -> None:
    bench = Bench(CopiesSettings(read_mode=mode), others=("d", "e"))
    await bench.put(b"body")
    changed(bench, "d", "e")
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"body")
    bench.asked()
    assert await bench.get() == b"body"
    assert {name for name, _ in bench.asked()} <= {"d", "e"}, "what has been moved is found there"


@in_virtual_time
async def test_without_former_places_nobody_else_is_asked() -> None:
    bench = await moving()
    bench.former = ()
    bench.names = ("d", "e")
    bench.asked()
    assert await bench.get() is None
    assert {name for name, _ in bench.asked()} == {"d", "e"}


@in_virtual_time
async def test_a_key_whose_place_is_the_same_is_asked_for_once() -> None:
    bench = changed(Bench(others=("d", "e")), "b", "c", "a")
    assert await bench.get() is None
    assert len(bench.asked()) == 2


@in_virtual_time
async def test_a_copy_that_only_one_former_store_has_is_found() -> None:
    bench = changed(Bench(others=("d", "e")), "b", "c", "d")
    bench.stores["a"].inner.values[KEY] = encode(bench.record(b"body"))
    assert await bench.get() == b"body"


@in_virtual_time
async def test_a_raw_body_of_another_program_is_moved() -> None:
    bench = changed(Bench(names=("a",), others=("d", "e")), "d", "e")
    await bench.stores["a"].set(KEY, raw_record(b"raw"))
    assert await bench.get() == b"raw"
    assert await move_all(bench) == [Moved(True)]
    assert bench.has() == bench.same(b"raw")


@in_virtual_time
async def test_nothing_is_nothing_when_both_places_say_so() -> None:
    bench = changed(Bench(others=("d", "e")), "d", "e")
    assert await bench.get() is None
    bench.down("a")
    assert await bench.get() is None
    bench.down("b")
    with pytest.raises(NoStoreReachable) as caught:
        await bench.get()
    assert set(caught.value.failures) == {"a", "b"}
    await bench.up()
    bench.down("d")
    with pytest.raises(NoStoreReachable):
        await bench.get()


@in_virtual_time
async def test_what_is_moved_between_the_looks_is_found() -> None:
    bench = await moving()
    bench.names = ("d", "e")
    mover = bench.new_gateway()
    gets = {name: bench.stores[name].get for name in "abc"}

    async def move_all_of_it() -> None:
        for name in "abc":
            del bench.stores[name].get  # type: ignore[method-assign]
        assert [await mover.healing.move(KEY, name) for name in "abc"] == [Moved(True)] * 3

    def get_late(name: str) -> Callable[[bytes], Coroutine[Any, Any, Any]]:
        async def get(key: bytes) -> Any:
            if not moved:
                moved.append(asyncio.ensure_future(move_all_of_it()))
            await moved[0]
            return await gets[name](key)

        return get

    moved: list[asyncio.Future[None]] = []
    for name in "abc":
        bench.stores[name].get = get_late(name)  # type: ignore[method-assign]
    assert await bench.get() == b"body"
    assert moved


@in_virtual_time
async def test_what_is_found_is_brought_to_all_that_can_be_asked() -> None:
    bench = Bench(names=("a", "b"), others=("c", "d", "e"))
    await bench.put(b"body")
    changed(bench, "c", "d", "e")
    bench.down("b", "e")
    with pytest.raises(NoStoreReachable):
        await bench.gateway.get(b"another")
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == {"c": b"body", "d": b"body", "e": None}


@in_virtual_time
async def test_what_was_written_since_wins_over_what_was_left_behind() -> None:
    bench = await moving(b"old")
    await bench.put(b"new")
    assert await bench.get() == b"new"
    healed = await bench.gateway.healing.heal(KEY)
    assert healed.is_settled
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_write_of_a_worker_that_knows_only_the_former_places_is_seen() -> None:
    bench = Bench(others=("d",))
    before = bench.names
    old = Copies(bench.stores, Places(lambda _: before), bench.owed, bench.clock, bench.settings)
    await old.put(KEY, bench.record(b"one"))
    changed(bench, "d", "a", "b")
    await bench.put(b"two")
    await bench.gateway.finish()
    await old.put(KEY, bench.record(b"three"))
    assert bench.gateway.first(KEY) is None
    assert await bench.get() == b"three"


@in_virtual_time
async def test_an_old_copy_on_a_store_that_is_owed_the_new_is_not_believed() -> None:
    bench = Bench(others=("d", "e"))
    await bench.put(b"old")
    bench.down("c")
    await bench.put(b"new")
    await bench.up()
    changed(bench, "c", "d", "e")
    assert await bench.get() == b"new"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"new")
    bench.down("b")
    assert await bench.get() == b"new"


@in_virtual_time
async def test_what_former_stores_cannot_prove_is_not_brought_anywhere() -> None:
    bench = Bench(others=("d", "e"))
    await bench.put(b"old")
    bench.down("a")
    await bench.put(b"new")
    await bench.up()
    changed(bench, "d", "e")
    bench.down("b", "c")
    with pytest.raises(NoStoreReachable):
        await bench.get()
    await bench.gateway.healing.heal(KEY)
    assert bench.has() == bench.same(None)
    await bench.up()
    await bench.gateway.healing.heal(KEY)
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_guard_hears_of_what_is_in_the_former_place() -> None:
    bench = await moving(b"old")
    bench.names = ("d", "e")
    heard: list[Head | None] = []
    head = await bench.put(b"new", heard.append)
    (found,) = heard
    assert found is not None and found.size == 3 and found.version < head.version
    assert await bench.get() == b"new"


@in_virtual_time
async def test_a_guard_can_forbid_to_delete_what_is_in_the_former_place() -> None:
    def forbid(head: Head | None) -> None:
        assert head is not None
        raise PreconditionFailed("If-Match")

    bench = await moving()
    with pytest.raises(PreconditionFailed):
        await bench.gateway.delete(KEY, forbid)
    assert await bench.get() == b"body"


@in_virtual_time
async def test_a_damaged_former_copy_is_not_served() -> None:
    bench = await moving()
    bench.names = ("d", "e")
    for name in "abc":
        bench.stores[name].damage(KEY)
    with pytest.raises(Corrupt):
        await bench.get()
    assert await bench.gateway.delete(KEY) is True
    assert await bench.get() is None


def damage_primaries(bench: Bench) -> None:
    """Have a damaged record where the file belongs; what is sound is where it was."""
    for name in bench.names:
        bench.stores[name].inner.values[KEY] = encode(bench.record(b"damaged"))
        bench.stores[name].damage(KEY)


@in_virtual_time
async def test_a_sound_former_copy_is_read_where_all_primaries_are_damaged() -> None:
    bench = await moving()
    bench.names = ("d", "e")
    damage_primaries(bench)
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_a_guard_hears_of_a_sound_former_copy_where_all_primaries_are_damaged() -> None:
    bench = await moving(b"old")
    bench.names = ("d", "e")
    damage_primaries(bench)
    heard: list[Head | None] = []
    await bench.put(b"new", heard.append)
    assert heard[0] is not None and heard[0].size == 3
    assert await bench.get() == b"new"


@in_virtual_time
async def test_a_former_tombstone_says_nothing_where_all_primaries_are_damaged() -> None:
    bench = Bench(others=("d", "e"))
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    changed(bench, "d", "e")
    damage_primaries(bench)
    assert await bench.get() is None
    assert await bench.gateway.delete(KEY) is False


@in_virtual_time
async def test_what_is_damaged_is_said_to_be_only_when_the_former_places_have_nothing() -> None:
    bench = changed(Bench(others=("d", "e")), "d", "e")
    damage_primaries(bench)
    with pytest.raises(Corrupt):
        await bench.get()
    bench.down("a", "b")
    with pytest.raises(NoStoreReachable):
        await bench.get()
    await bench.up()
    assert await bench.gateway.delete(KEY) is True
    assert await bench.get() is None


# Deletes.


@in_virtual_time
async def test_a_deleted_file_does_not_come_back_from_its_former_place() -> None:
    bench = await moving()
    bench.names = ("d", "e")
    assert await bench.gateway.delete(KEY) is True
    assert await bench.get() is None
    assert bench.has() == bench.same(b""), "a tombstone"
    assert await bench.gateway.delete(KEY) is False
    bench.clock.now += 11 * DAY
    for _ in range(3):
        assert not (await bench.gateway.healing.heal(KEY)).reaped
        assert await bench.get() is None
    assert all(each.moved for each in await move_all(bench))
    assert list((await bench.gateway.healing.heal(KEY)).reaped) == ["d", "e"]
    assert not any(everywhere(bench).values())
    assert await bench.get() is None


@in_virtual_time
async def test_a_tombstone_stays_while_a_former_place_cannot_be_asked() -> None:
    bench = changed(Bench(others=("d", "e")), "d", "e")
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    bench.clock.now += 11 * DAY
    bench.down("a")
    assert not (await bench.gateway.healing.heal(KEY)).reaped
    await bench.up()
    assert (await bench.gateway.healing.heal(KEY)).reaped


@in_virtual_time
async def test_a_tombstone_in_the_former_place_says_nothing_too() -> None:
    bench = Bench(others=("d", "e"))
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    changed(bench, "d", "e")
    assert await bench.get() is None
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"")
    assert await bench.gateway.delete(KEY) is False


@in_virtual_time
async def test_to_delete_nothing_leaves_a_tombstone_as_long_as_files_may_be_elsewhere() -> None:
    bench = changed(Bench(others=("d", "e")), "d", "e")
    assert await bench.gateway.delete(KEY) is False
    assert bench.has() == bench.same(b"")
    assert await bench.debts() == {}


# Debts.


@in_virtual_time
async def test_what_a_former_store_is_owed_is_settled_once_the_file_is_where_it_belongs() -> None:
    bench = Bench(others=("d", "e"))
    bench.down("a")
    head = await bench.put(b"body")
    await bench.up()
    changed(bench, "d", "e")
    assert await bench.debts() == {"a": head.version}
    bench.down("e")
    await bench.gateway.paying.pay("a")
    assert await bench.debts() == {"a": head.version}, "it must not be believed yet"
    await bench.up()
    await bench.pay()
    assert everywhere(bench) == dict(zip(FIVE, [False, True, True, True, True], strict=True))


@in_virtual_time
async def test_a_debt_is_paid_though_a_former_store_is_gone() -> None:
    bench = changed(Bench(others=("d", "e")), "c", "d", "e")
    bench.down("a", "e")
    await bench.put(b"body")
    await bench.up("e")
    assert await bench.gateway.paying.pay("e") == Paid(brought=1)
    assert await bench.gateway.paying.pay("e") == Paid(settled=1)
    assert bench.has() == bench.same(b"body")


# Moves.


@in_virtual_time
async def test_a_move_brings_the_file_to_its_place_and_removes_what_is_left() -> None:
    bench = await moving()
    assert await move_all(bench) == [Moved(True), Moved(True)]
    assert everywhere(bench) == dict(zip(FIVE, [False, False, True, True, True], strict=True))
    assert bench.has() == bench.same(b"body")
    assert bench.gateway.counts["moved"] == 2
    assert await bench.gateway.healing.verify(KEY, also=FIVE) == []
    bench.former = ()
    assert await bench.get() == b"body"


@in_virtual_time
async def test_a_copy_on_a_store_that_nobody_knew_of_is_moved_too() -> None:
    bench = Bench(others=("d", "e"))
    bench.stores["d"].inner.values[KEY] = encode(bench.record(b"body"))
    assert await bench.gateway.healing.move(KEY, "d") == Moved(True)
    assert bench.has() == bench.same(b"body")
    assert not everywhere(bench)["d"]


@in_virtual_time
async def test_what_belongs_there_or_is_not_there_is_not_removed() -> None:
    bench = await moving()
    assert not (await bench.gateway.healing.move(KEY, "c")).moved
    assert (await bench.gateway.healing.move(b"another", "a")).reason == "it is not there any more"
    assert everywhere(bench)["c"]
    assert not (await bench.gateway.healing.move(KEY, "unknown")).moved


@pytest.mark.parametrize("operation", ["get", "set", "delete"])
@pytest.mark.parametrize("name", ["a", "c", "d", "e"])
@in_virtual_time
async def test_a_copy_stays_unless_it_is_proven_to_be_elsewhere(name: str, operation: str) -> None:
    bench = await moving()
    bench.stores[name].plan = at(operation, Fault.REFUSE)
    moved = await bench.gateway.healing.move(KEY, "a")
    needed = {"get": "acde", "set": "de", "delete": "a"}[operation]
    assert moved.moved is (name not in needed)
    if not moved.moved:
        assert f"store {name}" in moved.reason
        assert everywhere(bench)["a"]
    await bench.up()
    assert (await bench.gateway.healing.move(KEY, "a")).moved
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_a_store_that_says_it_was_written_and_was_not_is_found_out() -> None:
    bench = await moving()

    async def forget(*_: object) -> None:
        """Keep nothing."""

    bench.stores["e"].set_newest = forget  # type: ignore[method-assign, assignment]
    moved = await bench.gateway.healing.move(KEY, "a")
    assert moved == Moved(False, moved.reason)
    assert moved.reason.startswith("store e: it has not got the file of 20")
    bench.stores["e"].plan = at("get", Fault.REFUSE)
    assert not (await bench.gateway.healing.move(KEY, "a")).moved
    assert everywhere(bench)["a"]


@in_virtual_time
async def test_a_copy_that_is_newer_is_brought_and_one_that_is_older_is_dropped() -> None:
    bench = await moving(b"old")
    await bench.put(b"new")
    assert await bench.gateway.healing.move(KEY, "a") == Moved(True)
    bench.stores["b"].inner.values[KEY] = encode(bench.record(b"newest"))
    assert await bench.gateway.healing.move(KEY, "b") == Moved(True)
    assert bench.has() == bench.same(b"newest")


@in_virtual_time
async def test_what_comes_between_the_look_and_the_removal_is_not_removed() -> None:
    bench = await moving()
    newer = encode(bench.record(b"newer"))

    def come_between(operation: str, _: bytes) -> None:
        if operation == "delete":
            bench.stores["a"].inner.values[KEY] = newer

    bench.stores["a"].plan = come_between
    assert not (await bench.gateway.healing.move(KEY, "a")).moved
    assert everywhere(bench)["a"]
    assert (await bench.gateway.healing.move(KEY, "a")).moved
    assert bench.has() == bench.same(b"newer")


@pytest.mark.parametrize("garbage", [False, True])
@in_virtual_time
async def test_a_damaged_copy_goes_if_all_primaries_have_the_same(garbage: bool) -> None:
    bench = await moving()
    await bench.gateway.healing.heal(KEY)
    if garbage:
        bench.stores["a"].inner.values[KEY] = b"garbage"
    else:
        bench.stores["a"].damage(KEY)
    assert await bench.gateway.healing.move(KEY, "a") == Moved(True)
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_a_damaged_copy_stays_while_a_primary_cannot_be_asked_or_has_nothing() -> None:
    bench = await moving()
    for name in "abc":
        bench.stores[name].damage(KEY)
    assert not (await bench.gateway.healing.move(KEY, "a")).moved
    bench.stores["d"].inner.values[KEY] = encode(bench.record(b"newer"))
    bench.down("e")
    assert not (await bench.gateway.healing.move(KEY, "a")).moved
    assert everywhere(bench)["a"]


@in_virtual_time
async def test_a_removal_whose_answer_is_lost_is_no_failure() -> None:
    bench = await moving()
    await bench.gateway.healing.heal(KEY)
    bench.stores["a"].plan = at("delete", Fault.LOSE_ANSWER)
    bench.gateway._holders._cooling_s = 0
    assert await bench.gateway.healing.move(KEY, "a") == Moved(True, "it is not there any more")


@in_virtual_time
async def test_moves_beside_writes_reads_and_deletes() -> None:
    for last in (b"9", None):
        bench = await moving()
        worker = bench.new_gateway()

        async def write(bench: Bench = bench, last: bytes | None = last) -> None:
            for number in range(10):
                await bench.put(b"%d" % number)
            if last is None:
                await bench.gateway.delete(KEY)

        moves = (worker.healing.move(KEY, name) for name in "abab")
        await asyncio.gather(write(), *moves, *(worker.get(KEY) for _ in range(9)))
        await worker.finish()
        assert all(each.moved for each in await move_all(bench))
        await bench.gateway.finish()
        assert await bench.get() == last
        assert others_than_this() == set()


async def move(bench: Bench) -> None:
    await bench.gateway.healing.move(KEY, "a")


async def get(bench: Bench) -> None:
    await bench.get()


async def delete(bench: Bench) -> None:
    await bench.gateway.delete(KEY)


@pytest.mark.parametrize("fault", [None, Fault.LOSE_ANSWER, Fault.LATE, Fault.HANG])
@pytest.mark.parametrize("operation", [move, get, delete])
@in_virtual_time
async def test_cancel_at_every_step(
    operation: Callable[[Bench], Coroutine[Any, Any, None]], fault: Fault | None
) -> None:
    allowed = {b"body", None} if operation is delete else {b"body"}
    for steps in range(CANCEL_STEPS):
        bench = await moving()
        bench.names = ("d", "e")
        bench.stores["b"].plan = always(fault) if fault else bench.stores["b"].plan
        await cancel_after(steps, operation(bench))
        await bench.up()
        found = await bench.get()
        assert found in allowed
        await bench.gateway.finish()
        assert all(each.moved for each in await move_all(bench))
        assert await bench.get() == found
        await bench.gateway.finish()
        assert others_than_this() == set()


# Real servers.


async def test_four_nodes_become_five(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(5)]
        stores = {each.address: MemcachedStore(each.address, MemcachedSettings()) for each in nodes}
        before, after = (KetamaRing(list(stores)[:count], copies=3) for count in (4, 5))
        files = {b"file-%d" % number: b"%d" % number for number in range(30)}

        def gateway(ring: KetamaRing, former: KetamaRing | None = None) -> Copies:
            places = Places(ring.primaries, former.primaries if former else lambda _: ())
            owed = Owed(DictStore("list"), limit=9)
            return Copies(stores, places, owed, clock, CopiesSettings())

        async def holders(key: bytes) -> Sequence[str]:
            found = [address for address, store in stores.items() if await store.get(key)]
            return sorted(found)

        clock = TestClock()
        old = gateway(before)
        for key, body in files.items():
            await old.put(key, new_record(body, clock.version()))
        await old.delete(b"file-0")
        new = gateway(after, before)
        for key, body in files.items():
            found = await new.get(key)
            assert (found and bytes(found.body)) == (None if key == b"file-0" else body)
        await new.finish()
        for key in files:
            for address in set(await holders(key)).difference(after.primaries(key)):
                assert (await new.healing.move(key, address)).moved
            assert await new.healing.verify(key, also=list(stores)) == []
        assert new.counts["moved"] > 0
        done = gateway(after)
        for key, body in files.items():
            assert await holders(key) == sorted(after.primaries(key))
            found = await done.get(key)
            assert (found and bytes(found.body)) == (None if key == b"file-0" else body)
        await new.close()
