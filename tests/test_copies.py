"""Copies: what a write leaves behind when stores fail, and what a read believes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sfss.agreement import CopiesSettings, Debt
from sfss.copies import Copies
from sfss.errors import (
    CannotList,
    Corrupt,
    NoStoreReachable,
    PreconditionFailed,
    QuorumFailed,
    StoreFull,
    Unreachable,
)
from sfss.owed import Owed
from sfss.placement import Places
from sfss.record import Head, Kind, encode, new_record, raw_record
from sfss.stores.base import Entry, Use
from tests.copies_bench import (
    KEY,
    Bench,
    TestClock,
    body_of,
    cancel_after,
    lines_of,
    others_than_this,
)
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, always, at, healthy
from tests.virtual_time import in_virtual_time

CANCEL_STEPS = 40
HUGE_BODY = bytes(100_000)


def now_s() -> float:
    """Return the made-up time."""
    return asyncio.get_running_loop().time()


def forbid(head: Head | None) -> None:
    """Guard everything."""
    raise PreconditionFailed("If-Match")


# Writes.


@in_virtual_time
async def test_a_write_goes_to_all_stores() -> None:
    bench = Bench()
    head = await bench.put(b"body")
    assert bench.has() == bench.same(b"body")
    found = await bench.gateway.get(KEY)
    assert found is not None
    assert found.head == head
    assert await bench.debts() == {}
    assert now_s() == 0


@in_virtual_time
async def test_one_store_is_enough_where_there_is_one() -> None:
    bench = Bench(names=("a",))
    await bench.put(b"body")
    assert await bench.get() == b"body"
    assert await bench.gateway.delete(KEY)
    assert await bench.get() is None
    bench.down("a")
    with pytest.raises(QuorumFailed):
        await bench.put(b"body")
    with pytest.raises(NoStoreReachable):
        await bench.get()


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE_ANSWER, Fault.FULL, Fault.HANG])
@in_virtual_time
async def test_what_one_store_misses_it_is_owed_before_the_answer(fault: Fault) -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("b", fault=fault)
    head = await bench.put(b"new")
    assert await bench.debts() == {"b": head.version}
    assert now_s() < 1, "nobody waits for the store's time-out"
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(b"new")
    assert await bench.debts() == {}
    await bench.gateway.finish()


@in_virtual_time
async def test_a_store_that_is_a_little_late_is_waited_for() -> None:
    bench = Bench()
    bench.stores["c"].late_s = 0.04
    bench.down("c", fault=Fault.LATE)
    await bench.put(b"body")
    assert bench.has() == bench.same(b"body")
    assert await bench.debts() == {}


@in_virtual_time
async def test_who_comes_last_is_waited_for_from_when_the_quorum_is_there() -> None:
    bench = Bench()
    for name, late_s in (("b", 0.15), ("c", 0.19)):
        bench.stores[name].late_s = late_s
        bench.down(name, fault=Fault.LATE)
    await bench.put(b"body")
    assert now_s() == pytest.approx(0.19)
    assert bench.has() == bench.same(b"body")
    assert await bench.debts() == {}


@in_virtual_time
async def test_a_write_that_has_its_quorum_waits_little_for_a_store_that_hangs() -> None:
    bench = Bench()
    bench.down("c", fault=Fault.HANG)
    await bench.put(b"body")
    assert now_s() == pytest.approx(bench.settings.straggler_ms / 1000)
    assert set(await bench.debts()) == {"c"}
    await bench.gateway.finish()


@in_virtual_time
async def test_a_store_that_rests_is_not_asked_because_the_others_are_a_little_late() -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"old")
    for name in "ab":
        bench.stores[name].late_s = 0.1
        bench.down(name, fault=Fault.LATE)
    bench.asked()
    await bench.put(b"new")
    assert {name for name, _ in bench.asked()} == {"a", "b"}


@in_virtual_time
async def test_a_store_that_rests_is_asked_where_another_hangs() -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"old")
    bench.stores["c"].plan = healthy
    bench.down("b", fault=Fault.HANG)
    await bench.put(b"new")
    assert now_s() < bench.stores["b"].timeout_s
    assert bench.has() == {"a": b"new", "b": b"old", "c": b"new"}
    await bench.gateway.finish()


@in_virtual_time
async def test_a_store_whose_copy_is_damaged_and_newer_has_not_kept_a_write() -> None:
    bench = Bench()
    await bench.put(b"old")
    await bench.stores["a"].inner.set(KEY, new_record(b"ahead", bench.clock.now + 10**9))
    bench.stores["a"].damage(KEY)
    head = await bench.put(b"new")
    assert await bench.debts() == {"a": head.version}
    bench.down("c")
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"newer")
    assert (caught.value.got, set(caught.value.failures)) == (1, {"a", "c"})
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(b"newer")


@in_virtual_time
async def test_a_store_that_is_very_late_gets_it_all_the_same() -> None:
    bench = Bench()
    bench.down("c", fault=Fault.LATE)
    head = await bench.put(b"body")
    assert bench.has() == {"a": b"body", "b": b"body", "c": None}
    assert await bench.debts() == {"c": head.version}
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"body")
    await bench.up()
    await bench.pay()


@in_virtual_time
async def test_a_late_write_that_would_hold_too_much_memory_is_given_up() -> None:
    bench = Bench(CopiesSettings(background_bytes=150_000))
    bench.down("c", fault=Fault.LATE)
    for number in range(3):
        await bench.gateway.put(b"%d" % number, bench.record(HUGE_BODY))
    await bench.gateway.finish()
    assert [b"%d" % number in bench.stores["c"].inner.values for number in range(3)] == [
        True,
        False,
        False,
    ]
    assert await bench.owed.count() == 3


@in_virtual_time
async def test_too_few_stores_are_an_error_that_says_what_was_done() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("b", "c")
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"new")
    assert (caught.value.wanted, caught.value.got) == (2, 1)
    assert caught.value.failures == {"b": "refused", "c": "refused"}
    assert set(await bench.debts()) == {"b", "c"}
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(b"new"), "it converges to the write"


@in_virtual_time
async def test_a_write_that_reached_nobody_leaves_nothing() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("a", "b", "c")
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"new")
    assert (caught.value.got, caught.value.indeterminate) == (0, False)
    assert await bench.debts() == {}
    await bench.up()
    assert await bench.get() == b"old"


@in_virtual_time
async def test_a_write_whose_answers_were_lost_may_win() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("a", fault=Fault.LOSE_ANSWER)
    bench.down("b", "c")
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"new")
    assert (caught.value.got, caught.value.indeterminate) == (0, True)
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_write_that_may_have_been_kept_and_was_not_is_owed_no_more() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("a", "b", "c", fault=Fault.HANG)
    with pytest.raises(QuorumFailed):
        await bench.put(b"new")
    for store in bench.stores.values():
        store._stuck.clear()  # it never reached them
    await bench.up()
    assert await bench.get() == b"old"
    await bench.pay()
    assert bench.has() == bench.same(b"old")


@in_virtual_time
async def test_full_stores() -> None:
    bench = Bench()
    bench.down("a", "b", "c", fault=Fault.FULL)
    with pytest.raises(StoreFull):
        await bench.put(b"body")
    bench.stores["a"].plan = at("get", Fault.REFUSE)
    with pytest.raises(QuorumFailed, match="no room"):
        await bench.put(b"body")


@in_virtual_time
async def test_a_failed_store_rests_and_is_tried_again_by_one() -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"1")
    bench.asked()
    await bench.put(b"2")
    assert bench.asked() == [("a", "set"), ("b", "set")]
    await asyncio.sleep(bench.settings.cooling_s + 0.1)
    await asyncio.gather(*(bench.gateway.put(b"%d" % key, bench.record(b"3")) for key in range(9)))
    assert [name for name, _ in bench.asked()].count("c") == 1
    await bench.up("c")
    await bench.put(b"4")
    assert ("c", "set") in bench.asked()
    await bench.put(b"5")
    assert ("c", "set") in bench.asked()


@in_virtual_time
async def test_where_too_few_are_well_those_that_rest_are_asked() -> None:
    bench = Bench()
    bench.down("b", "c")
    with pytest.raises(QuorumFailed):
        await bench.put(b"1")
    for name in "bc":
        bench.stores[name].plan = always(Fault.LATE)
        bench.stores[name].late_s = 0
    await bench.put(b"2")
    assert bench.has() == bench.same(b"2")


@in_virtual_time
async def test_a_failing_store_is_logged_once_and_when_it_answers_again() -> None:
    bench = Bench()
    with lines_of("sfss.complaints") as lines:
        bench.down("c")
        for _ in range(5):
            await bench.put(b"body")
            await asyncio.sleep(bench.settings.cooling_s / 4)
        await bench.up("c")
        await bench.put(b"body")
        await bench.put(b"body")
    assert lines == ["store c cannot be reached: refused", "store c answers again"]


@in_virtual_time
async def test_the_last_write_wins_though_the_clock_of_another_was_ahead() -> None:
    bench = Bench()
    ahead = (await bench.gateway.put(KEY, new_record(b"other", bench.clock.now + 10**9))).head
    head = await bench.put(b"mine")
    assert head.version > ahead.version
    assert bench.has() == bench.same(b"mine")
    assert await bench.get() == b"mine"


@in_virtual_time
async def test_the_last_delete_wins_though_the_clock_of_another_was_ahead() -> None:
    bench = Bench()
    await bench.gateway.put(KEY, new_record(b"other", bench.clock.now + 10**9))
    assert await bench.gateway.delete(KEY)
    assert await bench.get() is None
    assert await bench.put(b"mine")
    assert await bench.get() == b"mine"


@in_virtual_time
async def test_a_raw_body_loses_to_any_record() -> None:
    bench = Bench()
    for store in bench.stores.values():
        await store.set(KEY, raw_record(b"of another program"))
    assert await bench.get() == b"of another program"
    await bench.put(b"mine")
    assert bench.has() == bench.same(b"mine")


@in_virtual_time
async def test_writers_at_the_same_time_leave_the_same_everywhere() -> None:
    bench = Bench()
    worker = bench.new_gateway()
    writes = [bench.gateway, worker] * 10
    await asyncio.gather(
        *(each.put(KEY, bench.record(b"%d" % number)) for number, each in enumerate(writes))
    )
    assert len(set(bench.has().values())) == 1
    assert await bench.debts() == {}


@in_virtual_time
async def test_equal_versions_end_the_same_everywhere() -> None:
    bench = Bench()
    for body in (b"x", b"y", b"z"):
        await bench.gateway.put(KEY, new_record(body, 5))
    assert bench.has() == bench.same(b"z")


@in_virtual_time
async def test_a_write_whose_debts_cannot_be_noted_is_not_acknowledged() -> None:
    bench = Bench()
    bench.list.plan = at("set", Fault.FULL)
    await bench.put(b"1")
    bench.down("c")
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"2")
    assert set(caught.value.failures) == {"c", "list"}


@in_virtual_time
async def test_a_store_that_breaks_its_contract_counts_as_failed() -> None:
    bench = Bench()

    async def broken(*_: object) -> None:
        raise ValueError("a bug")

    bench.stores["c"].set_newest = broken  # type: ignore[method-assign, assignment]
    await bench.put(b"body")
    assert set(await bench.debts()) == {"c"}


# Conditional writes.


@in_virtual_time
async def test_a_guard_hears_of_the_newest_file() -> None:
    bench = Bench()
    heard: list[Head | None] = []
    await bench.put(b"1", heard.append)
    head = await bench.put(b"2", heard.append)
    bench.down("a")
    await bench.put(b"3", heard.append)
    assert heard[0] is None
    assert heard[1] is not None and heard[1].size == 1
    assert heard[2] == head
    await bench.gateway.delete(KEY, heard.append)
    await bench.put(b"4", heard.append)
    assert heard[4] is None, "of a tombstone it hears nothing"


@in_virtual_time
async def test_a_guard_hears_of_what_only_some_have() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("a", "c")
    with pytest.raises(QuorumFailed):
        await bench.put(b"new")
    await bench.up()
    heard: list[Head | None] = []
    head = await bench.put(b"newest", heard.append)
    (found,) = heard
    assert found is not None
    assert found.digest == new_record(b"new", 1).head.digest
    assert head.version > found.version


@in_virtual_time
async def test_what_a_guard_forbids_is_not_written() -> None:
    bench = Bench()
    await bench.put(b"1")
    bench.asked()
    with pytest.raises(PreconditionFailed):
        await bench.put(b"2", forbid)
    with pytest.raises(PreconditionFailed):
        await bench.gateway.delete(KEY, forbid)
    assert {operation for _, operation in bench.asked()} == {"get"}
    assert bench.has() == bench.same(b"1")


@in_virtual_time
async def test_a_guard_is_asked_again_if_somebody_came_in_between() -> None:
    bench = Bench()

    def only_new(head: Head | None) -> None:
        if head is not None:
            raise PreconditionFailed("If-None-Match")

    record = bench.record(b"slow")
    fast = new_record(b"fast", record.head.version + 1)

    def come_first(operation: str, _: bytes) -> None:
        if operation == "set":
            for store in bench.stores.values():
                store.inner.values[KEY] = encode(fast)

    bench.stores["a"].plan = come_first
    with pytest.raises(PreconditionFailed):
        await bench.gateway.put(KEY, record, only_new)
    assert bench.has() == bench.same(b"fast")


@in_virtual_time
async def test_a_conditional_write_does_not_wait_for_a_store_that_rests() -> None:
    bench = Bench()
    await bench.put(b"1")
    bench.down("a", fault=Fault.HANG)
    heard: list[Head | None] = []
    await bench.put(b"2", heard.append)
    await bench.gateway.finish()
    bench.asked()
    before_s = now_s()
    await bench.put(b"3", heard.append)
    assert now_s() == before_s
    assert None not in heard
    assert "a" not in {name for name, _ in bench.asked()}
    await bench.gateway.finish()


@in_virtual_time
async def test_a_guard_is_not_asked_where_nothing_is_known() -> None:
    bench = Bench()
    bench.down("a", "b")
    for change in (bench.put(b"1", forbid), bench.gateway.delete(KEY)):
        with pytest.raises(NoStoreReachable):
            await change


# Reads.


@in_virtual_time
async def test_one_store_is_asked() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.asked()
    assert await bench.get() == b"body"
    assert bench.asked() == [("a", "get")]


@in_virtual_time
async def test_any_store_is_asked() -> None:
    bench = Bench(CopiesSettings(read_mode="random"))
    await bench.put(b"body")
    bench.asked()
    for _ in range(100):
        assert await bench.get() == b"body"
    assert {name for name, _ in bench.asked()} == {"a", "b", "c"}


@in_virtual_time
async def test_the_fastest_of_two_answers() -> None:
    bench = Bench(CopiesSettings(read_mode="fastest"))
    await bench.put(b"body")
    bench.stores["a"].plan = always(Fault.LATE)
    assert await bench.get() == b"body"
    assert now_s() == 0
    await bench.gateway.finish()


@in_virtual_time
async def test_a_read_that_takes_long_is_also_asked_of_the_next() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].plan = always(Fault.HANG)
    bench.asked()
    for _ in range(100):
        assert await bench.get() == b"body"
    assert now_s() < 5, "it rests once it has timed out"
    await bench.gateway.finish()


@in_virtual_time
async def test_a_failed_store_is_passed_over_and_then_asked_last() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.down("a")
    bench.asked()
    for _ in range(3):
        assert await bench.get() == b"body"
    assert bench.asked() == [("a", "get"), *[("b", "get")] * 3]


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE_ANSWER, Fault.HANG])
@in_virtual_time
async def test_two_stores_down(fault: Fault) -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.down("a", "b", fault=fault)
    assert await bench.get() == b"body"
    with pytest.raises(NoStoreReachable) as caught:
        await bench.gateway.get(b"nothing there")
    assert set(caught.value.failures) == {"a", "b"}
    await bench.gateway.finish()


@in_virtual_time
async def test_nothing_is_nothing_when_enough_say_so() -> None:
    bench = Bench()
    assert await bench.get() is None
    assert len(bench.asked()) == 2
    bench.down("a")
    assert await bench.get() is None


@in_virtual_time
async def test_a_store_that_is_owed_a_write_is_asked_last_and_not_believed() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("a")
    await bench.put(b"new")
    await bench.up("a")
    bench.asked()
    assert await bench.get() == b"new"
    assert bench.asked() == [("b", "get")]
    bench.down("b", "c")
    with pytest.raises(NoStoreReachable) as caught:
        await bench.get()
    assert caught.value.failures["a"] == "it still lacks a write"
    await bench.gateway.finish()


@in_virtual_time
async def test_a_store_that_missed_only_what_was_refused_is_believed_in_need() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("b", "c")
    with pytest.raises(QuorumFailed):
        await bench.put(b"new")
    await bench.up("b", "c")
    assert await bench.get() == b"new"
    bench.down("a")
    assert await bench.get() == b"old"


@in_virtual_time
async def test_every_worker_reads_what_one_has_written() -> None:
    bench = Bench()
    worker = bench.new_gateway()
    for number in range(20):
        bench.down("abc"[number % 3])
        body = b"%d" % number
        await bench.put(body)
        await bench.up()
        assert body_of(await worker.get(KEY)) == body
        assert await bench.get() == body
    await bench.pay()
    assert bench.has() == bench.same(b"19")


@in_virtual_time
async def test_what_a_store_has_lost_is_read_from_another_and_healed() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].inner.values.clear()
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"body")
    assert bench.gateway.counts["mended"] == 1


@in_virtual_time
async def test_what_a_store_has_damaged_is_read_from_another_and_healed() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].damage(KEY)
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"body")
    assert bench.gateway.counts["damaged"] > 0


@in_virtual_time
async def test_what_all_have_damaged_is_never_served() -> None:
    bench = Bench()
    await bench.put(b"body")
    for store in bench.stores.values():
        store.damage(KEY)
    with pytest.raises(Corrupt):
        await bench.get()
    heard: list[Head | None] = []
    await bench.put(b"another", heard.append)
    assert heard == [None]
    assert bench.has() == bench.same(b"another")


@in_virtual_time
@pytest.mark.parametrize("first_decides", [False, True])
async def test_what_is_damaged_is_listed_as_such_only_where_no_store_has_it_whole(
    first_decides: bool,
) -> None:
    bench = Bench(CopiesSettings(first_decides=first_decides))
    stores = {name: store.inner for name, store in bench.stores.items()}
    places = Places(lambda key: bench.names, lambda key: (), lambda: False)
    gateway = Copies(stores, places, bench.owed, bench.clock, bench.settings)
    for name in (b"deleted", b"lost", b"sound", b"whole"):
        await gateway.put(b"d/" + name, bench.record(name))
    await gateway.delete(b"d/deleted")
    for name, damaged in ((b"deleted", "a"), (b"lost", "abc"), (b"whole", "a")):
        for each in damaged:
            record = bytearray(stores[each].values[b"d/" + name])
            record[20] ^= 1
            stores[each].values[b"d/" + name] = bytes(record)
    for limit in (1, 2, 10):
        found: list[Entry] = []
        while page := await gateway.scan(b"d/", found[-1].key if found else b"", limit):
            found += page
        assert [each.key for each in found] == [b"d/lost", b"d/sound", b"d/whole"]
        assert [each.head is None for each in found] == [True, False, False]


@in_virtual_time
async def test_a_store_that_goes_damaging_what_it_is_given() -> None:
    bench = Bench()
    bench.stores["a"].plan = at("set", Fault.CORRUPT)
    await bench.put(b"body")
    assert await bench.get() == b"body"
    await bench.up()
    await bench.gateway.healing.heal(KEY)
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_a_read_quorum_sees_what_another_gateway_has_written() -> None:
    bench = Bench(CopiesSettings(read_quorum=2))
    other = Bench(bench.settings, clock=bench.clock)
    other.stores = bench.stores
    other.gateway = other.new_gateway()
    await bench.put(b"old")
    bench.down("a")
    await bench.put(b"new")
    await bench.up("a")
    assert await other.debts() == {}, "it has a list of its own"
    assert await other.get() == b"new"
    bench.down("b", "c")
    with pytest.raises(NoStoreReachable):
        await other.get()


@in_virtual_time
async def test_without_the_list_of_debts_a_quorum_is_read() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("a")
    await bench.put(b"new")
    await bench.up("a")
    bench.list.plan = at("get", Fault.REFUSE)
    assert await bench.get() == b"new"
    bench.down("b", "c")
    with pytest.raises(NoStoreReachable):
        await bench.get()


@in_virtual_time
async def test_a_store_that_is_none_of_the_stores_counts_as_down() -> None:
    bench = Bench()
    del bench.stores["a"]
    await bench.put(b"body")
    assert await bench.get() == b"body"
    assert set(await bench.debts()) == {"a"}


@in_virtual_time
async def test_a_store_that_is_not_in_the_roster_is_not_asked_and_owed_what_it_misses() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.asked()
    bench.absent = {"a"}
    await bench.put(b"new")
    assert await bench.get() == b"new"
    await bench.gateway.healing.heal(KEY)
    assert (await bench.gateway.paying.pay("a")).left == 1
    assert bench.gateway.first(KEY) is None
    assert "a" not in {name for name, _ in bench.asked()}
    assert set(await bench.debts()) == {"a"}
    bench.absent = set()
    assert await bench.get() == b"new"
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_quorum_is_not_had_by_asking_who_is_not_in_the_roster() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.asked()
    bench.absent = {"a", "b"}
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"new")
    assert caught.value.failures == dict.fromkeys("ab", "it is not in the roster")
    with pytest.raises(NoStoreReachable) as unproven:
        await bench.gateway.get(b"another")
    assert set(unproven.value.failures) == {"a", "b"}
    assert {name for name, _ in bench.asked()} == {"c"}


@in_virtual_time
async def test_an_older_write_of_the_same_version_is_not_believed() -> None:
    bench = Bench()
    older, newer = sorted(
        (new_record(b"1", 5), new_record(b"2", 5)), key=lambda record: record.head.digest
    )
    await bench.gateway.put(KEY, older)
    bench.down("a")
    await bench.gateway.put(KEY, newer)
    await bench.up()
    assert await bench.get() == newer.body
    bench.down("b", "c")
    with pytest.raises(NoStoreReachable):
        await bench.get()
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(bytes(newer.body))


@in_virtual_time
async def test_a_store_that_is_owed_everything_is_believed_for_nothing() -> None:
    bench = Bench()
    await bench.put(b"body")
    owed = Owed(bench.list, limit=0)
    await owed.add([Debt("a", b"another key", 5, 5)])
    bench.asked()
    assert await bench.get() == b"body"
    assert bench.asked() == [("b", "get")]
    bench.down("b", "c")
    with pytest.raises(NoStoreReachable):
        await bench.get()


class Watched(DictStore):
    """A list that says when it changes."""

    def view(self, key: bytes, use: Use) -> bool:
        """Not here."""
        return False

    def state(self) -> int:
        """Return another number for another content."""
        return 1 + len(self.values)


@in_virtual_time
async def test_the_hot_path_is_open_while_nothing_is_owed() -> None:
    bench, owed = Bench(), Owed(Watched("list"), limit=9)

    def gateway(settings: CopiesSettings) -> Copies:
        return Copies(bench.stores, Places(lambda key: bench.names), owed, bench.clock, settings)

    copies = gateway(bench.settings)
    assert copies.first(KEY) is None, "nobody has looked yet"
    await copies.get(KEY)
    assert copies.first(KEY) == "a"
    assert gateway(CopiesSettings(read_quorum=2)).first(KEY) is None
    assert gateway(CopiesSettings(read_mode="random")).first(KEY) in {"a", "b", "c"}
    assert gateway(CopiesSettings(read_mode="fastest")).first(KEY) is None
    bench.down("c")
    await copies.put(KEY, bench.record(b"body"))
    assert copies.first(KEY) is None
    (debt,) = await owed.all()
    assert await owed.settle(debt)
    await copies.get(KEY)
    assert copies.first(KEY) == "a"
    bench.down("a")
    await copies.get(KEY)
    assert copies.first(KEY) is None


class Shown(DictStore):
    """A store that shows what it has at once."""

    def view(self, key: bytes, use: Use) -> bool:
        """Show it."""
        use(self.values.get(key), True)
        return True

    def state(self) -> int:
        """Return what means nothing."""
        return 0


@in_virtual_time
async def test_the_hot_path_leads_to_the_first_store_if_that_can_show_what_it_has() -> None:
    bench = Bench()
    bench.stores["a"] = shown = Shown("a")  # type: ignore[assignment]
    owed = Owed(Watched("list"), limit=9)
    seen: list[object] = []

    def use(item: object, is_record: bool) -> None:
        seen.append(item)

    def gateway(*names: str) -> Copies:
        return Copies(bench.stores, Places(lambda key: names), owed, bench.clock, bench.settings)

    copies = gateway("a", "b", "c")
    assert copies.state() == 0
    assert not copies.view(KEY, use), "nobody has looked whether anything is owed"
    await copies.put(KEY, bench.record(b"body"))
    await copies.get(KEY)
    assert copies.view(KEY, use)
    assert seen == [shown.values[KEY]]
    assert not gateway("b", "a").view(KEY, use), "it cannot show what it has"
    bench.down("c")
    await copies.put(KEY, bench.record(b"newer"))
    assert not copies.view(KEY, use)
    assert len(seen) == 1


@in_virtual_time
async def test_listing_names_the_stores_that_would_have_to_be_merged() -> None:
    with pytest.raises(CannotList, match="a, b, c"):
        await Bench().gateway.scan(b"", b"", 10)


@in_virtual_time
async def test_statistics_of_every_store() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.down("a")
    await bench.put(b"newer")

    async def fail() -> None:
        raise Unreachable("b", "refused")

    bench.stores["b"].stats = fail  # type: ignore[method-assign, assignment]
    bench.absent = {"c"}
    one = {"curr_items": "1"}
    assert await bench.gateway.stats() == {
        "a": one,
        "b": {"error": "refused"},
        "c": {"error": "it is not in the roster"},
    }
    bench.absent = {"a", "c"}
    with pytest.raises(NoStoreReachable) as caught:
        await bench.gateway.stats()
    assert set(caught.value.failures) == {"a", "b", "c"}


@in_virtual_time
async def test_what_is_owed_is_counted() -> None:
    bench = Bench()
    bench.down("b")
    await bench.put(b"body")
    await bench.gateway.delete(b"another")
    assert (await bench.gateway.owing()).writes == 2


@in_virtual_time
async def test_to_close_waits_for_writes_and_not_for_heals() -> None:
    bench = Bench()
    for number in range(100):
        await bench.gateway.put(b"%d" % number, bench.record(b"body"))
    bench.stores["a"].inner.values.clear()
    bench.down("c", fault=Fault.LATE)
    await bench.put(b"body")
    for number in range(100):
        bench.gateway.healing.later(b"%d" % number)
    stores = list(bench.stores.values())
    await bench.gateway.close()
    assert others_than_this() == set()
    assert KEY in bench.stores["c"].inner.values
    assert all(store.inner.closed for store in [*stores, bench.list])
    assert len(bench.stores["a"].inner.values) < 100
    assert bench.gateway.healing._waiting == {}
    assert bench.gateway.healing._turns._locks == {}


# Deletes.


@in_virtual_time
async def test_a_delete_leaves_a_tombstone_and_says_whether_there_was_a_file() -> None:
    bench = Bench()
    await bench.put(b"body")
    assert await bench.gateway.delete(KEY) is True
    assert await bench.get() is None
    for store in bench.stores.values():
        record = await store.inner.get(KEY)
        assert record is not None
        assert record.head.kind is Kind.TOMBSTONE
    bench.asked()
    assert await bench.gateway.delete(KEY) is False
    assert {operation for _, operation in bench.asked()} == {"get"}
    await bench.put(b"again")
    assert await bench.get() == b"again"


@in_virtual_time
async def test_to_delete_nothing_writes_nothing_if_all_stores_say_so() -> None:
    bench = Bench()
    assert await bench.gateway.delete(KEY) is False
    assert bench.has() == bench.same(None)
    bench.down("c")
    assert await bench.gateway.delete(KEY) is False
    assert bench.has() == {"a": b"", "b": b"", "c": None}, "c may have one"
    assert set(await bench.debts()) == {"c"}


@in_virtual_time
async def test_a_file_that_only_a_store_that_was_down_has_does_not_come_back() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.down("a")
    assert await bench.gateway.delete(KEY)
    await bench.up("a")
    assert await bench.get() is None
    await bench.gateway.healing.heal(KEY)
    await bench.pay()
    assert bench.has() == bench.same(b"")


@in_virtual_time
async def test_a_refused_put_does_not_come_back_after_a_delete() -> None:
    bench = Bench()
    bench.down("a", "b")
    with pytest.raises(QuorumFailed):
        await bench.put(b"body")
    await bench.up("a", "b")
    bench.down("c")
    assert await bench.gateway.delete(KEY) is False
    await bench.up("c")
    assert await bench.get() is None
    await bench.pay()
    assert bench.has() == bench.same(b"")


@in_virtual_time
async def test_a_refused_delete_is_done_by_the_next() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["b"].plan = bench.stores["c"].plan = at("set", Fault.REFUSE)
    with pytest.raises(QuorumFailed):
        await bench.gateway.delete(KEY)
    await bench.up()
    assert await bench.gateway.delete(KEY) is False
    bench.down("a")
    assert await bench.get() is None, "two others have to know"


# Cancellation.


async def check_nothing_is_left(bench: Bench) -> None:
    """Finish, and see that no task and no lock remains."""
    await bench.gateway.finish()
    assert others_than_this() == set()
    assert bench.gateway._holders._turns._locks == {}
    assert bench.gateway._holders.background._left_bytes == 0


@pytest.mark.parametrize("fault", [None, Fault.LOSE_ANSWER, Fault.LATE, Fault.REFUSE])
@in_virtual_time
async def test_cancel_a_put_at_every_step(fault: Fault | None) -> None:
    for steps in range(CANCEL_STEPS):
        bench = Bench()
        await bench.put(b"old")
        bench.stores["b"].plan = always(fault) if fault else bench.stores["b"].plan
        await cancel_after(steps, bench.put(b"new"))
        assert await bench.get() in (b"old", b"new")
        await bench.gateway.finish()
        if steps > 0:
            assert await bench.get() == b"new", "what has begun is finished"
        await bench.up()
        await bench.pay()
        assert bench.has() in (bench.same(b"old"), bench.same(b"new"))
        await check_nothing_is_left(bench)


async def conditional_put(bench: Bench) -> None:
    await bench.put(b"new", lambda head: None)


async def delete(bench: Bench) -> None:
    await bench.gateway.delete(KEY)


async def get(bench: Bench) -> None:
    await bench.get()


async def heal(bench: Bench) -> None:
    await bench.gateway.healing.heal(KEY)


async def pay(bench: Bench) -> None:
    await bench.gateway.paying.pay("c")


@pytest.mark.parametrize("fault", [None, Fault.LOSE_ANSWER, Fault.LATE, Fault.HANG])
@pytest.mark.parametrize("operation", [conditional_put, delete, get, heal, pay])
@in_virtual_time
async def test_cancel_anything_at_every_step(
    operation: Callable[[Bench], Coroutine[Any, Any, None]], fault: Fault | None
) -> None:
    allowed = {conditional_put: {b"new", b"old"}, delete: {None, b"old"}}.get(operation, {b"old"})
    for steps in range(CANCEL_STEPS):
        bench = Bench()
        await bench.put(b"older")
        bench.down("c")
        await bench.put(b"old")
        await bench.up("c")
        bench.stores["a"].inner.values.clear()
        bench.stores["b"].plan = always(fault) if fault else bench.stores["b"].plan
        await cancel_after(steps, operation(bench))
        await bench.up()
        assert await bench.get() in allowed
        await bench.pay()
        await bench.gateway.healing.heal(KEY)
        assert await bench.get() in allowed
        assert len(set(bench.has().values())) == 1
        await check_nothing_is_left(bench)


@in_virtual_time
async def test_a_gateway_that_dies_at_any_moment_of_a_put() -> None:
    for steps in range(CANCEL_STEPS):
        bench = Bench()
        await bench.put(b"old")
        bench.down("b", fault=Fault.LATE)
        task = asyncio.ensure_future(bench.put(b"new"))
        for _ in range(steps):
            await asyncio.sleep(0)
        answered = task.done()
        for left in others_than_this():
            left.cancel()
        await asyncio.sleep(0)
        await bench.up()
        bench.gateway = bench.new_gateway()
        assert await bench.get() in ((b"new",) if answered else (b"new", b"old"))
        await bench.pay()
        await bench.gateway.healing.heal(KEY)
        assert bench.has() in (bench.same(b"old"), bench.same(b"new"))


@in_virtual_time
async def test_unreachable_is_what_a_caller_can_tell_from_absent() -> None:
    bench = Bench(clock=TestClock(5))
    bench.down("a", "b", "c", fault=Fault.HANG)
    with pytest.raises(NoStoreReachable) as caught:
        await bench.get()
    assert set(caught.value.failures) == {"a", "b", "c"}
    assert not isinstance(caught.value, Unreachable)
    await bench.gateway.finish()


@pytest.mark.parametrize("list_fails", [False, True])
@in_virtual_time
async def test_a_store_that_has_lost_all_is_not_believed_whatever_the_list_says(
    list_fails: bool,
) -> None:
    settings = CopiesSettings(shares_debts=False)
    before = Bench(settings)
    await before.put(b"kept")
    bench = Bench(settings, doubted=["a"])
    for name in ("b", "c"):
        bench.stores[name].inner.values.update(before.stores[name].inner.values)
    bench.stores["b"].inner.values.clear()  # it has missed the write
    await bench.owed.add([Debt("c", b"another key", 1)])  # else it need not be asked
    bench.list.plan = at("get", Fault.REFUSE) if list_fails else healthy
    bench.down("c")
    with pytest.raises(NoStoreReachable):
        await bench.get()
