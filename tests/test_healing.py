"""Healing, payments and findings: what is written to a store that lacks something, and what not."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import lmdb
import pytest

from sfss.agreement import CopiesSettings, Debt
from sfss.config import MemcachedSettings
from sfss.copies import Copies
from sfss.errors import Corrupt, NoStoreReachable, QuorumFailed, StoreFull
from sfss.faults import Fault as Wrong
from sfss.healing import HEALS_WAITING, Healed
from sfss.paying import Paid, next_delay_s
from sfss.placement import Places
from sfss.record import RECORD_FLAGS, encode, new_record
from sfss.stores.memcached import MemcachedStore
from tests.copies_bench import DAY, KEY, Bench, lines_of, others_than_this
from tests.servers import Server, memcached, node, node_folder, running
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always, at
from tests.virtual_time import in_virtual_time


async def heal(bench: Bench) -> Healed:
    """Heal the key of the bench."""
    return await bench.gateway.healing.heal(KEY)


@in_virtual_time
async def test_what_is_equal_is_left_alone() -> None:
    bench = Bench()
    head = await bench.put(b"body")
    bench.asked()
    healed = await heal(bench)
    assert healed == Healed(head, [])
    assert healed.is_settled
    assert {operation for _, operation in bench.asked()} == {"get"}


@in_virtual_time
async def test_the_newest_sound_copy_goes_to_all_that_lack_it() -> None:
    bench = Bench()
    await bench.put(b"old")
    older = bench.stores["b"].inner.values[KEY]
    head = await bench.put(b"new")
    del bench.stores["a"].inner.values[KEY]
    bench.stores["b"].inner.values[KEY] = older
    healed = await heal(bench)
    assert bench.has() == bench.same(b"new")
    assert (healed.newest, sorted(healed.mended)) == (head, ["a", "b"])
    assert not healed.is_settled
    assert (await heal(bench)).is_settled


@in_virtual_time
async def test_a_tombstone_is_newer_than_what_it_deletes() -> None:
    bench = Bench()
    await bench.put(b"body")
    older = bench.stores["c"].inner.values[KEY]
    await bench.gateway.delete(KEY)
    bench.stores["c"].inner.values[KEY] = older
    await heal(bench)
    assert bench.has() == bench.same(b"")


@in_virtual_time
async def test_damaged_copies_are_replaced() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].damage(KEY)
    bench.stores["b"].inner.values[KEY] = b"garbage"
    await heal(bench)
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_where_all_is_damaged_nothing_can_be_done() -> None:
    bench = Bench()
    await bench.put(b"body")
    for store in bench.stores.values():
        store.damage(KEY)
    healed = await heal(bench)
    assert healed == Healed(damaged=["a", "b", "c"])
    assert await bench.gateway.delete(KEY) is True
    assert bench.has() == bench.same(b"")


@pytest.mark.parametrize("two_steps", [False, True])
@in_virtual_time
async def test_a_damaged_copy_that_is_newer_than_every_sound_one_does_not_stay(
    two_steps: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.stores["a"].two_steps = two_steps
    head = await bench.put(b"body")
    await damage_newer(bench, "a")
    assert await heal(bench) == Healed(head, ["a"])
    assert bench.has() == bench.same(b"body")
    assert bench.gateway.counts["mended"] == 1
    assert "store a: the newest copy of b'k' was damaged, and is lost" in caplog.text
    assert (await heal(bench)).is_settled


async def damage_newer(bench: Bench, *names: str) -> None:
    """Have stores damage something newer."""
    record = bench.record(b"newer")
    for name in names:
        await bench.stores[name].inner.set(KEY, record)
        bench.stores[name].damage(KEY)


@in_virtual_time
async def test_of_damaged_copies_that_are_newer_none_stays() -> None:
    bench = Bench()
    head = await bench.put(b"body")
    await damage_newer(bench, "a", "b")
    healed = await heal(bench)
    assert (healed.newest, sorted(healed.mended), healed.failures) == (head, ["a", "b"], {})
    assert bench.has() == bench.same(b"body")


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE_ANSWER])
@in_virtual_time
async def test_a_damaged_copy_that_is_newer_and_stays_is_not_mended(fault: Fault) -> None:
    bench = Bench()
    await bench.put(b"body")
    await damage_newer(bench, "a")
    bench.stores["a"].plan = at("delete", fault)
    healed = await heal(bench)
    assert (healed.mended, list(healed.failures)) == ([], ["a"])
    assert bench.gateway.counts["mended"] == 0
    await bench.up()
    await heal(bench)
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_a_damaged_copy_that_is_newer_stays_where_something_newer_has_come_meanwhile() -> (
    None
):
    bench = Bench()
    await bench.put(b"body")
    await damage_newer(bench, "a")
    newest = encode(bench.record(b"newest"))

    def come_between(operation: str, _: bytes) -> None:
        if operation == "set":
            bench.stores["b"].inner.values[KEY] = newest

    bench.stores["a"].plan = come_between
    healed = await heal(bench)
    assert (healed.mended, list(healed.failures)) == ([], ["a"])
    assert ("a", "delete") not in bench.asked()
    await heal(bench)
    assert bench.has() == bench.same(b"newest")


@in_virtual_time
async def test_what_comes_before_a_damaged_copy_is_dropped_is_neither_dropped_nor_replaced() -> (
    None
):
    bench = Bench()
    await bench.put(b"body")
    await damage_newer(bench, "a")
    newest = encode(bench.record(b"newest"))

    def come_between(operation: str, _: bytes) -> None:
        if operation == "delete":
            bench.stores["a"].inner.values[KEY] = newest

    bench.stores["a"].plan = come_between
    healed = await heal(bench)
    assert (healed.mended, list(healed.failures)) == ([], ["a"])
    assert bench.has()["a"] == b"newest"
    await heal(bench)
    assert bench.has() == bench.same(b"newest")


@in_virtual_time
async def test_a_damaged_copy_that_is_newer_stays_while_a_sound_one_may_exist() -> None:
    bench = Bench()
    await bench.put(b"body")
    newer = encode(bench.record(b"newer"))
    for name in "ac":
        bench.stores[name].inner.values[KEY] = newer
    bench.stores["a"].damage(KEY)
    bench.down("c")
    await heal(bench)
    await bench.up()
    await heal(bench)
    assert bench.has() == bench.same(b"newer")


@in_virtual_time
async def test_what_was_damaged_and_is_sound_by_now_is_not_removed() -> None:
    bench = Bench()
    await bench.put(b"body")
    newer = encode(bench.record(b"newer"))
    store = bench.stores["a"]
    store.damage(KEY)

    def come_between(operation: str, _: bytes) -> None:
        if operation == "set":
            store.inner.values[KEY] = newer

    store.plan = come_between
    await heal(bench)
    assert bench.has()["a"] == b"newer"
    await heal(bench)
    assert bench.has() == bench.same(b"newer")


@in_virtual_time
async def test_what_cannot_be_asked_is_left_out() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].inner.values.clear()
    bench.down("c")
    healed = await heal(bench)
    assert (healed.mended, healed.failures) == (["a"], {"c": "refused"})
    assert not healed.is_settled


@in_virtual_time
async def test_what_cannot_be_mended_is_told() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].inner.values.clear()
    bench.stores["a"].plan = at("set", Fault.FULL)
    healed = await heal(bench)
    assert (healed.mended, list(healed.failures)) == ([], ["a"])


@in_virtual_time
async def test_a_store_that_lost_the_newest_is_not_given_what_is_older() -> None:
    """It would be believed: it is owed nothing."""
    bench = Bench()
    await bench.put(b"old")
    bench.down("c")
    await bench.put(b"new")
    await bench.up("c")
    bench.stores["a"].inner.values.clear()
    bench.down("b")
    healed = await heal(bench)
    assert healed.mended == ()
    assert bench.has() == {"a": None, "b": b"new", "c": b"old"}
    await bench.up("b")
    await heal(bench)
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_nothing_is_written_where_debts_and_a_store_are_unknown() -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.stores["a"].inner.values.clear()
    await bench.owed.add([Debt("b", b"another", 1)])
    bench.list.plan = at("get", Fault.REFUSE)
    bench.down("c")
    assert (await heal(bench)).mended == ()
    await bench.up("c")
    assert (await heal(bench)).mended == ["a"]


@in_virtual_time
async def test_a_write_that_comes_between_wins() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.stores["a"].inner.values.clear()
    newer = encode(bench.record(b"new"))

    def come_between(operation: str, _: bytes) -> None:
        if operation == "set":
            for store in bench.stores.values():
                store.inner.values[KEY] = newer

    bench.stores["a"].plan = come_between
    await heal(bench)
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_heals_and_writes_of_one_key_at_once() -> None:
    bench = Bench()
    await bench.put(b"0")
    bench.stores["b"].inner.values.clear()
    work = [heal(bench) if number % 2 else bench.put(b"%d" % number) for number in range(20)]
    await asyncio.gather(*work)
    assert len(set(bench.has().values())) == 1
    await bench.gateway.finish()
    assert others_than_this() == set()


@in_virtual_time
async def test_heals_in_the_background_are_bounded() -> None:
    bench = Bench()
    for number in range(HEALS_WAITING + 10):
        bench.gateway.healing.later(b"%d" % number)
        bench.gateway.healing.later(b"%d" % number)
    assert bench.gateway.counts["heals_dropped"] == 20
    assert len(others_than_this()) == HEALS_WAITING
    await bench.gateway.finish()
    assert len(bench.asked()) == 3 * HEALS_WAITING
    assert bench.gateway.healing._waiting == {}


# Tombstones.


@in_virtual_time
async def test_an_old_tombstone_is_forgotten_everywhere() -> None:
    bench = Bench()
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    assert (await heal(bench)).is_settled
    bench.clock.now += 11 * DAY
    healed = await heal(bench)
    assert list(healed.reaped) == ["a", "b", "c"]
    assert bench.has() == bench.same(None)
    assert await bench.get() is None
    assert bench.gateway.counts["reaped"] == 1


@in_virtual_time
async def test_an_old_tombstone_that_a_store_lacks_is_not_brought_there() -> None:
    bench = Bench()
    await bench.gateway.put(KEY, bench.record(b"body"))
    await bench.gateway.delete(KEY)
    bench.clock.now += 11 * DAY
    bench.stores["a"].inner.values.clear()
    assert list((await heal(bench)).reaped) == ["b", "c"]
    assert bench.has() == bench.same(None)


@pytest.mark.parametrize("older", [False, True])
@in_virtual_time
async def test_a_tombstone_stays_while_a_store_may_have_the_file(older: bool) -> None:
    bench = Bench()
    await bench.put(b"body")
    bench.down("c")
    await bench.gateway.delete(KEY)
    bench.clock.now += 11 * DAY
    if older:
        await bench.up("c")
    healed = await heal(bench)
    assert not healed.reaped
    assert bench.has() == (bench.same(b"") if older else {"a": b"", "b": b"", "c": b"body"})
    await bench.up("c")
    await bench.pay()
    await heal(bench)
    assert bench.has() == bench.same(None)


@in_virtual_time
async def test_a_file_that_comes_while_a_tombstone_is_reaped_stays() -> None:
    bench = Bench()
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    bench.clock.now += 11 * DAY
    newer = encode(bench.record(b"new"))

    def come_between(operation: str, _: bytes) -> None:
        if operation == "delete":
            for store in bench.stores.values():
                store.inner.values[KEY] = newer

    bench.stores["b"].plan = come_between
    healed = await heal(bench)
    assert list(healed.reaped) == ["a"]
    assert "b" in healed.failures
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_tombstone_that_cannot_be_removed_is_tried_again() -> None:
    bench = Bench()
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    bench.clock.now += 11 * DAY
    bench.stores["b"].plan = at("delete", Fault.REFUSE)
    assert list((await heal(bench)).reaped) == ["a"]
    await bench.up()
    assert list((await heal(bench)).reaped) == ["b", "c"]


@in_virtual_time
async def test_a_tombstone_stays_while_it_is_owed() -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    await bench.up("c")
    await heal(bench)
    bench.clock.now += 11 * DAY
    assert not (await heal(bench)).reaped
    bench.down("a")
    assert await bench.get() is None
    await bench.up("a")
    await bench.pay()
    assert (await heal(bench)).reaped
    assert bench.has() == bench.same(None)


@in_virtual_time
async def test_the_debt_of_a_tombstone_that_was_reaped_is_no_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    await bench.put(b"body")
    await bench.gateway.delete(KEY)
    tombstone = bench.clock.now
    bench.clock.now += 11 * DAY
    await heal(bench)
    await bench.owed.add([Debt("c", KEY, tombstone, tombstone)])
    await bench.pay()
    assert bench.has() == bench.same(None)
    assert not [entry for entry in caplog.records if entry.levelno >= logging.ERROR]


# Payments.


@in_virtual_time
async def test_a_debt_is_settled_by_the_look_that_finds_it_paid() -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"body")
    await bench.up("c")
    payments = bench.gateway.paying
    assert await payments.pay("c") == Paid(brought=1)
    assert bench.has() == bench.same(b"body")
    assert set(await bench.debts()) == {"c"}
    assert await payments.pay("c") == Paid(settled=1)
    assert await bench.debts() == {}
    assert await payments.pay("c") == Paid()


@in_virtual_time
async def test_what_a_stopped_store_does_late_is_found() -> None:
    """Without a comparison in the store, an old write undoes what was just paid."""
    bench = Bench()
    await bench.put(b"old")
    bench.down("c")
    await bench.put(b"new")
    await bench.up("c")
    zombie = encode(new_record(b"long ago", bench.clock.now - 1))
    assert await bench.gateway.paying.pay("c") == Paid(brought=1)
    bench.stores["c"].inner.values[KEY] = zombie
    assert await bench.get() == b"new", "it is still owed, and not believed"
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_round_of_payments_ends_when_the_store_does_not_answer() -> None:
    bench = Bench()
    bench.down("c")
    for number in range(40):
        await bench.gateway.put(b"%d" % number, bench.record(b"body"))
    await bench.up("c")
    bench.down("c")
    bench.asked()
    paid = await bench.gateway.paying.pay("c")
    assert paid.settled == paid.brought == 0
    assert len(bench.asked()) < 10
    assert await bench.gateway.paying.pay("c") != Paid()
    assert bench.asked() == [], "it rests"
    await bench.up("c")
    assert (await bench.gateway.paying.pay("c")).brought == 40
    assert (await bench.gateway.paying.pay("c")).settled == 40


@in_virtual_time
async def test_a_debt_that_cannot_be_paid_does_not_hold_up_the_others() -> None:
    bench = Bench()
    bench.down("c")
    for number in range(40):
        await bench.gateway.put(b"%d" % number, bench.record(b"body"))
    await bench.up("c")
    bench.stores["c"].plan = lambda operation, key: (
        Fault.FULL if operation == "set" and key == b"7" else None
    )
    assert await bench.gateway.paying.pay("c") == Paid(brought=39, left=1)
    assert await bench.gateway.paying.pay("c") == Paid(settled=39, left=1)


@in_virtual_time
async def test_a_store_that_cannot_tell_is_brought_what_it_is_owed() -> None:
    """It has lost sight of others, which may never come back; it does not rest, and what is written
    now does not wait for a payment either.
    """
    bench = Bench()
    bench.down("c")
    await bench.put(b"body")
    await bench.up("c")
    bench.stores["c"].plan = at("get", Fault.UNSURE)
    assert await bench.get() == b"body"
    assert await bench.gateway.paying.pay("c") == Paid(brought=1)
    assert await bench.gateway.paying.pay("c") == Paid(settled=1)
    assert bench.has() == bench.same(b"body")
    await bench.gateway.get(b"nothing")
    await bench.gateway.put(b"nothing", bench.record(b"now"))
    assert await bench.debts() == {}


@in_virtual_time
async def test_nothing_is_not_said_for_a_store_that_cannot_tell() -> None:
    bench = Bench()
    for name in "bc":
        bench.stores[name].plan = at("get", Fault.UNSURE)
    with pytest.raises(NoStoreReachable) as caught:
        await bench.gateway.get(KEY)
    assert sorted(caught.value.failures) == ["b", "c"]


@in_virtual_time
async def test_a_version_that_no_store_has_any_more_is_said_to_be_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    await bench.put(b"old")
    older = dict(bench.stores["a"].inner.values)
    bench.down("c")
    await bench.put(b"new")
    await bench.up("c")
    for name in "ab":
        bench.stores[name].inner.values = dict(older)
    await bench.pay()
    assert "no store has it any more" in caplog.text
    assert await bench.get() == b"old"


@in_virtual_time
async def test_a_refused_version_that_no_store_has_is_dropped_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    head = await bench.put(b"old")
    debts = [Debt(name, KEY, head.version + 1, head.version) for name in bench.names]
    await bench.owed.add(debts)
    assert await bench.get() == b"old"
    await bench.pay()
    assert caplog.record_tuples == []
    assert bench.has() == bench.same(b"old")


@in_virtual_time
async def test_a_debt_stays_while_a_store_that_may_have_it_is_down() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("b", "c")
    with pytest.raises(QuorumFailed):
        await bench.put(b"new")
    await bench.up("b", "c")
    bench.down("a")
    for _ in range(3):
        assert (await bench.gateway.paying.pay("b")).settled == 0
    await bench.up("a")
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_store_that_is_no_primary_any_more_is_paid_only_what_it_has() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("c")
    await bench.put(b"new")
    await bench.gateway.put(b"new here", bench.record(b"body"))
    await bench.up("c")
    bench.names = ("a", "b")
    while await bench.owed.count():
        await bench.gateway.paying.pay("c")
    store = bench.stores["c"].inner
    assert list(store.values) == [KEY]
    record = await store.get(KEY)
    assert record is not None and bytes(record.body) == b"new"


@contextlib.asynccontextmanager
async def paying(bench: Bench, leader: bool = True) -> AsyncIterator[None]:
    """Have debts paid in the background."""
    payer = asyncio.ensure_future(bench.gateway.paying.run(lambda: leader))
    try:
        yield
    finally:
        payer.cancel()
        await asyncio.gather(payer, return_exceptions=True)
        await bench.gateway.finish()
        assert others_than_this() == set()


@in_virtual_time
async def test_debts_are_paid_as_soon_as_the_store_is_back() -> None:
    bench = Bench()
    bench.down("c")
    async with paying(bench):
        await bench.put(b"body")
        await asyncio.sleep(100)
        bench.asked()
        await asyncio.sleep(600)
        assert len(bench.asked()) in range(8, 13), "about every 60 s"
        await bench.up("c")
        await asyncio.sleep(62)
        assert bench.has() == bench.same(b"body")
        assert await bench.owed.count() == 0


@in_virtual_time
async def test_a_store_that_has_got_all_that_it_had_missed_is_said_to() -> None:
    bench = Bench()
    with lines_of("sfss.paying") as lines:
        async with paying(bench):
            head = await bench.put(b"body")
            await bench.owed.add([Debt("b", KEY, head.version, head.version)])
            await asyncio.sleep(3 * bench.settings.pay_every_s)
            assert await bench.owed.count() == 0
            bench.down("c")
            for key in (b"k", b"l"):
                await bench.gateway.put(key, bench.record(b"body"))
            await asyncio.sleep(100)
            assert lines == []
            await bench.up("c")
            await asyncio.sleep(200)
    assert lines == ["store c has got all that it had missed"]


@in_virtual_time
async def test_debts_are_paid_at_once_when_the_store_has_answered_somebody_else() -> None:
    bench = Bench()
    bench.down("c")
    async with paying(bench):
        await bench.put(b"body")
        await asyncio.sleep(630)
        await bench.up("c")
        assert await bench.owed.count() == 1
        await bench.put(b"newer")
        assert bench.has() == bench.same(b"newer")
        await asyncio.sleep(3 * bench.settings.pay_every_s)
        assert await bench.owed.count() == 0


@in_virtual_time
async def test_debts_are_paid_at_once_when_the_store_is_in_the_roster_again() -> None:
    bench = Bench()
    bench.absent = {"c"}
    async with paying(bench):
        await bench.put(b"body")
        await asyncio.sleep(600)
        assert ("c", "get") not in bench.asked()
        bench.absent = set()
        await asyncio.sleep(3 * bench.settings.pay_every_s)
        assert await bench.owed.count() == 0
    assert bench.gateway.counts["paid"] == 1


@in_virtual_time
async def test_a_store_that_takes_long_does_not_hold_up_the_payment_of_others() -> None:
    bench = Bench()
    for name in "bc":
        bench.down(name)
        for number in range(50):
            await bench.gateway.put(b"%s%d" % (name.encode(), number), bench.record(b"body"))
        await bench.up(name)
    bench.stores["b"].late_s = 1.5
    bench.stores["b"].plan = at("set", Fault.LATE)
    async with paying(bench):
        await asyncio.sleep(10)
        assert not await bench.owed.of("c")
        assert await bench.owed.of("b")


@in_virtual_time
async def test_only_the_leader_pays() -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"body")
    await bench.up("c")
    async with paying(bench, leader=False):
        await asyncio.sleep(100)
        assert await bench.owed.count() == 1


@in_virtual_time
async def test_the_payer_outlives_a_list_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"body")
    await bench.up("c")

    async def broken() -> int:
        raise StoreFull("list", "no room")

    async with paying(bench):
        bench.gateway._owed.count = broken  # type: ignore[method-assign]
        await asyncio.sleep(3)
        assert "no room" in caplog.text
        del bench.gateway._owed.count
        await asyncio.sleep(10)
        assert await bench.owed.count() == 0


@in_virtual_time
async def test_the_payer_outlives_anything(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.down("c")
    await bench.put(b"body")
    await bench.up("c")
    payments = bench.gateway.paying

    async def broken(*_: object) -> Paid:
        raise ValueError("a bug")

    async with paying(bench):
        payments.pay = broken  # type: ignore[method-assign]
        await asyncio.sleep(100)
        assert caplog.text.count("store c cannot be paid") in range(5, 10), "less and less often"
        del payments.pay
        await asyncio.sleep(62)
        assert await bench.owed.count() == 0


def test_back_off() -> None:
    stuck, delays = Paid(left=1), [0.0]
    for _ in range(8):
        delays.append(next_delay_s(delays[-1], stuck))
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert next_delay_s(60, Paid(brought=1, left=1)) == 0
    assert next_delay_s(60, Paid(settled=1, left=1)) == 0
    assert next_delay_s(60, Paid()) == 0


# Findings.


@in_virtual_time
async def test_findings_are_what_a_heal_would_mend() -> None:
    bench = Bench()
    await bench.put(b"old")
    older = bench.stores["b"].inner.values[KEY]
    await bench.put(b"new")
    assert await bench.gateway.healing.verify(KEY) == []
    bench.stores["a"].damage(KEY)
    bench.stores["b"].inner.values[KEY] = older
    before = {name: dict(store.inner.values) for name, store in bench.stores.items()}
    found = await bench.gateway.healing.verify(KEY)
    assert [(each.address, each.fault) for each in found] == [
        ("a", Wrong.DAMAGED),
        ("b", Wrong.STALE),
    ]
    assert before == {name: store.inner.values for name, store in bench.stores.items()}
    await heal(bench)
    assert await bench.gateway.healing.verify(KEY) == []
    bench.down("c")
    (unknown,) = await bench.gateway.healing.verify(KEY)
    assert (unknown.address, unknown.fault) == ("c", Wrong.UNKNOWN)


@in_virtual_time
async def test_what_does_not_belong_where_it_is() -> None:
    bench = Bench()
    await bench.put(b"body")
    values = bench.stores["a"].inner.values
    bench.stores["d"] = FaultyStore(DictStore("d"))
    assert await bench.gateway.healing.verify(KEY, also=["a", "d"]) == []
    bench.stores["d"].inner.values = dict(values)
    (found,) = await bench.gateway.healing.verify(KEY, also=["d"])
    assert (found.address, found.fault) == ("d", Wrong.MISPLACED)


@in_virtual_time
async def test_everything_is_settled_by_a_repair_of_all_keys() -> None:
    """What ``sfss repair`` does for a store that has missed too many writes."""
    bench = Bench(owed_limit=2)
    few = bench.owed
    bench.down("c")
    for number in range(5):
        await bench.gateway.put(b"%d" % number, bench.record(b"body"))
    await bench.up("c")
    everything = await few.everything("c")
    assert everything is not None
    for number in range(5):
        await bench.gateway.healing.heal(b"%d" % number)
    assert await few.settle(everything)
    await bench.pay()
    for number in range(5):
        assert bench.has(b"%d" % number) == bench.same(b"body")


@in_virtual_time
async def test_a_store_that_hangs_does_not_hold_up_heals_for_long() -> None:
    bench = Bench(CopiesSettings(cooling_s=1000))
    for number in range(50):
        await bench.gateway.put(b"%d" % number, bench.record(b"body"))
    bench.stores["a"].inner.values.clear()
    bench.stores["c"].plan = always(Fault.HANG)
    for number in range(50):
        bench.gateway.healing.later(b"%d" % number)
    await bench.gateway.finish()
    assert asyncio.get_running_loop().time() < 5
    assert len(bench.stores["a"].inner.values) == 50


# Real servers.


async def client_set(server: Server, key: bytes, value: bytes) -> None:
    """Have a client of the server store whatever it likes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"set %b %d 0 %d\r\n%b\r\n" % (key, RECORD_FLAGS, len(value), value))
    assert await asyncio.wait_for(reader.readline(), 10) == b"STORED\r\n"
    writer.close()


async def plant(server: Server, key: bytes, value: bytes) -> None:
    """Put damaged bytes under ``key`` behind the back of the node, from this process."""
    with (
        lmdb.open(str(node_folder(server)), lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(key, value)


@pytest.mark.parametrize(
    ("make", "damage"), [(node, plant), (memcached, client_set)], ids=["node", "memcached"]
)
@pytest.mark.parametrize("position", [-1, 9], ids=["body", "header"])
async def test_a_damaged_copy_that_is_newer_does_not_stay_on_a_real_server(
    make: Callable[[Path], Server],
    damage: Callable[[Server, bytes, bytes], Awaitable[None]],
    position: int,
    tmp_path: Path,
) -> None:
    bench = Bench()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(make(tmp_path))) for _ in range(3)]
        stores = {
            each.address: MemcachedStore(each.address, MemcachedSettings()) for each in servers
        }
        places = list(stores)
        copies = Copies(stores, Places(lambda _: places), bench.owed, bench.clock, CopiesSettings())
        head = (await copies.put(KEY, bench.record(b"body"))).head
        newer = bytearray(encode(bench.record(b"newer")))
        newer[position] ^= 1
        await damage(servers[0], KEY, bytes(newer))
        healed = await copies.healing.heal(KEY)
        assert (healed.newest, list(healed.mended), healed.failures) == (head, places[:1], {})
        for store in stores.values():
            record = await store.get(KEY)
            assert record is not None and record.head == head
        assert (await copies.healing.heal(KEY)).is_settled
        await copies.close()


async def test_a_damaged_copy_that_is_newer_stays_while_a_node_is_down(tmp_path: Path) -> None:
    bench = Bench()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        stores = {
            each.address: MemcachedStore(each.address, MemcachedSettings()) for each in servers
        }
        copies = Copies(
            stores, Places(lambda _: list(stores)), bench.owed, bench.clock, CopiesSettings()
        )
        await copies.put(KEY, bench.record(b"body"))
        newer = encode(bench.record(b"newer"))
        await plant(servers[0], KEY, newer[:-1] + b"?")
        servers[2].kill()
        healed = await copies.healing.heal(KEY)
        assert (list(healed.mended), len(healed.failures)) == ([], 2)
        with pytest.raises(Corrupt):
            await stores[servers[0].address].get(KEY)
        await copies.close()
