"""A local store that files are evicted from, before a store that has them all."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sfss.agreement import CopiesSettings, Debt, tombstone
from sfss.copies import Copies
from sfss.errors import NoStoreReachable, QuorumFailed, StoreError, Unreachable
from sfss.faults import Fault as Finding
from sfss.inventory import Listed
from sfss.record import Kind, decode, encode, new_record
from sfss.repair import Counted, Mender, Patience, Tool, Treated
from tests.copies_bench import KEY, Bench, body_of
from tests.stores.faulty_store import Fault, FaultyStore, at, healthy
from tests.stores.forgetful_store import ForgetfulDict, ForgetfulStore, LateDict
from tests.test_copies_model import KEYS, SELDOM, CopiesMachine, key_of, worker_of
from tests.virtual_time import in_virtual_time

NEAR, FAR = "near", "far"


def own(**changes: Any) -> CopiesSettings:
    """Return the settings of such a pair."""
    return CopiesSettings(**{"write_quorum": 2, "may_lack": NEAR, **changes})


@dataclass
class NearBench(Bench):
    """The stores ``near``, which forgets, and ``far``."""

    settings: CopiesSettings = field(default_factory=own)
    names: tuple[str, ...] = (NEAR, FAR)

    def new_store(self, name: str) -> FaultyStore:
        """Return one of the two."""
        return ForgetfulStore(ForgetfulDict(name)) if name == NEAR else FaultyStore(LateDict(name))

    @property
    def near(self) -> ForgetfulDict:
        """What is near."""
        inner = self.stores[NEAR].inner
        assert isinstance(inner, ForgetfulDict)
        return inner

    @property
    def far(self) -> LateDict:
        """What is far."""
        inner = self.stores[FAR].inner
        assert isinstance(inner, LateDict)
        return inner

    async def evict(self, key: bytes = KEY, worker: Copies | None = None) -> bool:
        """Evict a file if that may be; return whether it is gone."""
        value = self.near.values.get(key)
        if value is None:
            return True
        head = decode(value, NEAR, key).head
        if await (worker or self.gateway).healing.is_elsewhere(key, head, NEAR):
            self.near.evict(key, head)
        return key not in self.near.values


def mender(bench: NearBench, tool: Tool) -> Mender:
    """Return what a tool does."""
    patience = Patience(asyncio.Event(), limit_s=0)
    return Mender(
        bench.new_gateway(keeps_fetched=False), lambda _: bench.names, tool, False, patience
    )


@in_virtual_time
async def test_what_was_evicted_is_fetched_and_kept_again() -> None:
    bench = NearBench()
    await bench.put(b"body")
    assert await bench.evict()
    assert bench.has() == {NEAR: None, FAR: b"body"}
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_what_only_the_head_is_asked_of_is_not_fetched() -> None:
    bench = NearBench()
    await bench.put(b"body")
    await bench.evict()
    head = await bench.gateway.head(KEY)
    assert head is not None
    await bench.gateway.finish()
    assert bench.has() == {NEAR: None, FAR: b"body"}


@in_virtual_time
async def test_it_need_not_be_kept() -> None:
    bench = NearBench(own(keeps_fetched=False))
    await bench.put(b"body")
    await bench.evict()
    assert await bench.get() == b"body"
    await bench.gateway.finish()
    assert bench.has() == {NEAR: None, FAR: b"body"}


@in_virtual_time
async def test_more_at_a_time_than_fits_in_memory_is_served_and_not_kept() -> None:
    bench = NearBench(own(background_bytes=40_000))
    keys = [b"%d" % number for number in range(9)]
    for key in keys:
        bench.far.values[key] = encode(bench.record(bytes(10_000)))
    bench.stores[NEAR].plan = at("set", Fault.LATE)
    found = await asyncio.gather(*map(bench.gateway.get, keys))
    assert all(body_of(each) == bytes(10_000) for each in found)
    await bench.gateway.finish()
    assert len(bench.near.values) == 4
    assert bench.gateway.counts["heals_dropped"] == 5
    bench.stores[NEAR].plan = healthy
    for key in keys:
        await bench.gateway.get(key)
        await bench.gateway.finish()
    assert len(bench.near.values) == 9


@in_virtual_time
async def test_a_deletion_that_is_far_is_believed_and_not_brought() -> None:
    bench = NearBench()
    bench.far.values[KEY] = encode(tombstone(bench.clock.version()))
    assert await bench.get() is None
    await bench.gateway.finish()
    assert bench.near.values == {}


@in_virtual_time
async def test_evicted_is_not_missing_to_any_tool() -> None:
    bench = NearBench()
    await bench.put(b"body")
    await bench.evict()
    listed = Listed(KEY, frozenset([FAR]), True)
    assert await bench.gateway.healing.verify(KEY) == []
    for tool in (Tool.CHECK, Tool.REPAIR, Tool.SCRUB):
        assert await mender(bench, tool).treat(listed) == Treated([])
    assert (await bench.gateway.healing.heal(KEY)).is_settled
    await bench.gateway.finish()
    assert bench.has() == {NEAR: None, FAR: b"body"}


@in_virtual_time
async def test_a_near_copy_is_none_that_counts() -> None:
    bench = NearBench()
    await bench.put(b"body")
    for wanted in (1, 2):
        counted = Counted(mender(bench, Tool.REPAIR), bench.gateway, lambda _: (FAR,), wanted)
        treated = await counted.treat(Listed(KEY, frozenset(bench.names), True))
        assert treated.scarce == (wanted == 2)


@in_virtual_time
async def test_what_is_missing_far_is_a_fault_and_mended() -> None:
    bench = NearBench()
    await bench.put(b"body")
    del bench.far.values[KEY]
    (found,) = await bench.gateway.healing.verify(KEY)
    assert (found.address, found.fault) == (FAR, Finding.MISSING)
    assert not await bench.evict()
    await bench.gateway.healing.heal(KEY)
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_what_is_old_near_is_a_fault_and_mended() -> None:
    bench = NearBench()
    await bench.put(b"old")
    old = bench.near.values[KEY]
    await bench.put(b"new")
    bench.near.values[KEY] = old
    (found,) = await bench.gateway.healing.verify(KEY)
    assert (found.address, found.fault) == (NEAR, Finding.STALE)
    assert not await bench.evict()
    await bench.gateway.healing.heal(KEY)
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_nothing_is_evicted_that_is_owed() -> None:
    bench = NearBench(own(write_quorum=1))
    bench.down(FAR)
    await bench.put(b"body")
    assert not await bench.evict()
    await bench.up(FAR)
    assert not await bench.evict()
    await bench.pay()
    assert await bench.evict()
    assert await bench.get() == b"body"


@in_virtual_time
async def test_nothing_is_evicted_that_is_owed_although_it_is_there() -> None:
    bench = NearBench()
    head = await bench.put(b"body")
    await bench.owed.add([Debt(FAR, KEY, head.version + 1, head.version + 1)])
    assert not await bench.evict()


@in_virtual_time
async def test_a_store_that_is_down_is_not_asked_for_each_file() -> None:
    bench = NearBench()
    await bench.put(b"body")
    bench.down(FAR)
    bench.asked()
    for _ in range(5):
        with pytest.raises(Unreachable):
            await bench.evict()
    assert bench.asked().count((FAR, "get")) == 1


@in_virtual_time
async def test_a_debt_of_the_near_store_is_paid_without_bringing_it() -> None:
    bench = NearBench(own(write_quorum=1))
    bench.down(NEAR)
    await bench.put(b"body")
    assert set(await bench.debts()) == {NEAR}
    await bench.up(NEAR)
    await bench.pay()
    assert bench.has() == {NEAR: None, FAR: b"body"}
    bench.near.values[KEY] = encode(new_record(b"old", 1))
    bench.down(NEAR)
    await bench.put(b"new")
    await bench.up(NEAR)
    assert await bench.get() == b"new"
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_what_is_far_is_not_there_while_that_is_down() -> None:
    bench = NearBench()
    await bench.put(b"body")
    await bench.evict()
    bench.down(FAR)
    with pytest.raises(NoStoreReachable):
        await bench.get()


@in_virtual_time
async def test_what_was_deleted_after_it_was_evicted_stays_deleted() -> None:
    bench = NearBench()
    await bench.put(b"body")
    await bench.evict()
    assert await bench.gateway.delete(KEY)
    assert await bench.get() is None
    await bench.gateway.finish()
    assert decode(bench.far.values[KEY], FAR, KEY).head.kind is Kind.TOMBSTONE


@in_virtual_time
async def test_what_another_gateway_has_changed_far_is_what_is_fetched() -> None:
    bench = NearBench()
    await bench.put(b"body")
    await bench.evict()
    bench.far.values[KEY] = encode(bench.record(b"of another"))
    assert await bench.get() == b"of another"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"of another")
    bench.far.values[KEY] = encode(tombstone(bench.clock.version()))
    assert not await bench.evict()


@in_virtual_time
async def test_what_was_on_its_way_does_not_come_behind_an_eviction() -> None:
    bench = NearBench()
    await bench.put(b"old")
    await bench.evict()
    other = bench.new_gateway()
    bench.far.delay_s = 1.0
    fetch = asyncio.ensure_future(bench.gateway.get(KEY))
    await asyncio.sleep(0.5)
    bench.far.delay_s = 0.0
    await other.put(KEY, bench.record(b"new"))
    assert await bench.evict()
    assert body_of(await fetch) == b"old"  # it has begun before
    await bench.gateway.finish()
    assert bench.has() == {NEAR: None, FAR: b"new"}
    assert await bench.get() == b"new"


@in_virtual_time
async def test_a_read_does_not_join_one_from_before_an_eviction() -> None:
    bench = NearBench()
    await bench.put(b"old")
    await bench.evict()
    bench.far.delay_s = 1.0
    fetch = asyncio.ensure_future(bench.gateway.get(KEY))
    await asyncio.sleep(0.5)
    bench.far.delay_s = 0.0
    await bench.new_gateway().put(KEY, bench.record(b"new"))
    assert await bench.evict()
    assert await bench.get() == b"new"
    await fetch


@in_virtual_time
async def test_a_write_that_was_on_its_way_does_not_come_behind_an_eviction() -> None:
    bench = NearBench()
    near = bench.stores[NEAR]
    near.plan = at("set", Fault.HANG)
    with pytest.raises(QuorumFailed):
        await bench.put(b"old")
    near.plan = healthy
    await bench.up(FAR)
    await asyncio.sleep(10)
    await bench.put(b"new")
    await bench.pay()
    assert await bench.evict()
    await near.resume()
    await bench.gateway.finish()
    assert bench.has() == {NEAR: None, FAR: b"new"}


@in_virtual_time
async def test_a_heal_that_was_on_its_way_does_not_come_behind_an_eviction() -> None:
    bench = NearBench()
    await bench.put(b"old")
    old = bench.near.values[KEY]
    await bench.put(b"middle")
    bench.near.values[KEY] = old
    near = bench.stores[NEAR]
    near.plan = at("set", Fault.LATE)
    heal = asyncio.ensure_future(bench.gateway.healing.heal(KEY))
    await asyncio.sleep(0.5)
    near.plan = healthy
    await bench.new_gateway().put(KEY, bench.record(b"new"))
    assert await bench.evict()
    await heal
    assert bench.has() == {NEAR: None, FAR: b"new"}


@in_virtual_time
async def test_around_writes_go_to_the_far_store_only() -> None:
    bench = NearBench(own(around=True))
    bench.near.values[KEY] = encode(bench.record(b"old"))
    await bench.put(b"new")
    assert bench.has() == {NEAR: None, FAR: b"new"}
    assert await bench.get() == b"new"
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"new")
    assert await bench.gateway.delete(KEY)
    assert bench.near.values == {}
    assert await bench.get() is None
    assert await bench.owed.count() == 0


@in_virtual_time
async def test_around_what_is_on_its_way_is_not_kept() -> None:
    bench = NearBench(own(around=True))
    await bench.put(b"old")
    bench.far.delay_s = 1.0
    fetch = asyncio.ensure_future(bench.gateway.get(KEY))
    await asyncio.sleep(0.5)
    bench.far.delay_s = 0.0
    await bench.put(b"new")
    assert await bench.get() == b"new"
    await fetch
    await bench.gateway.finish()
    assert bench.has() == bench.same(b"new")


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE_ANSWER, Fault.FULL])
@in_virtual_time
async def test_around_nothing_is_kept_that_the_far_store_does_not_confirm(fault: Fault) -> None:
    bench = NearBench(own(around=True))
    await bench.put(b"old")
    assert await bench.get() == b"old"
    await bench.gateway.finish()
    bench.stores[FAR].plan = at("set", fault)
    with pytest.raises(StoreError):
        await bench.put(b"new")
    assert bench.has()[NEAR] == b"old"
    await bench.up(FAR)
    await bench.pay()
    expected = b"new" if fault is Fault.LOSE_ANSWER else b"old"
    assert bench.has() == bench.same(expected)


@in_virtual_time
async def test_around_an_old_copy_that_cannot_be_removed_is_never_served() -> None:
    bench = NearBench(own(around=True))
    await bench.put(b"old")
    assert await bench.get() == b"old"
    await bench.gateway.finish()
    bench.stores[NEAR].plan = at("set", Fault.REFUSE)
    await bench.put(b"new")
    assert bench.has() == {NEAR: b"old", FAR: b"new"}
    assert await bench.new_gateway().get(KEY) is not None
    assert await bench.get() == b"new"
    await bench.up(NEAR)
    assert await bench.get() == b"new"
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_around_a_write_does_not_replace_what_is_newer_and_owed() -> None:
    bench = NearBench(own(write_quorum=1))
    bench.down(FAR)
    bench.clock.now += 1_000_000
    await bench.put(b"newer")
    bench.clock.now -= 1_000_000
    await bench.up(FAR)
    around = bench.new_gateway(around=True)
    kept = await around.put(KEY, bench.record(b"last"))
    assert body_of(await around.get(KEY)) == b"last"
    await bench.pay()
    assert await bench.get() == b"last"
    assert decode(bench.far.values[KEY], FAR, KEY).head == kept.head


class NearMachine(CopiesMachine):
    """The model of copies, with a near store that forgets. Nothing is lost or damaged; whatever is
    not down answers.
    """

    quorum = 2
    around = False

    # Of three stores; this is about what stores forget themselves.
    lose_the_disk = damage = repair = sweep = None  # type: ignore[assignment]
    an_expiring_write_that_one_misses = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        changes = {"write_quorum": self.quorum, "around": self.around}
        self.bench: NearBench = NearBench(own(head_timeout_ms=20, **changes))
        self.workers = self.new_workers()

    async def failing(self, worker: Copies) -> set[str]:
        """Return two where one is down: then requests may fail, and else none."""
        return {NEAR, FAR} if self.down else set()

    @rule(key=key_of, worker=worker_of, during=st.sampled_from(["", "write", "delete", "read"]))
    def evict(self, key: bytes, worker: int, during: str) -> None:
        """Have a file evicted, with something that comes between proof and removal."""
        value = self.bench.near.values.get(key)
        if value is None:
            return
        head = decode(value, NEAR, key).head
        if head.kind is Kind.TOMBSTONE or not self.run(self.is_proven(key, worker)):
            return
        if during in ("write", "delete"):
            self.a_write(key, 1 - worker, during == "delete", 0)
        elif during:
            self.run(self.check(self.workers[worker], key))
        self.bench.near.evict(key, head)

    async def is_proven(self, key: bytes, worker: int) -> bool:
        """Tell whether it may go."""
        head = decode(self.bench.near.values[key], NEAR, key).head
        try:
            return await self.workers[worker].healing.is_elsewhere(key, head, NEAR)
        except StoreError:
            assert self.down
            return False

    @precondition(lambda self: not self.down)
    @rule(key=key_of, worker=worker_of, deletes=st.booleans(), joins=st.booleans())
    def a_fetch_takes_long(self, key: bytes, worker: int, deletes: bool, joins: bool) -> None:
        """Have a fetch on its way while something newer is written and evicted."""
        self.run(self.fetched_late(key, worker, deletes, joins))

    async def fetched_late(self, key: bytes, worker: int, deletes: bool, joins: bool) -> None:
        reader, writer = self.workers[worker], self.workers[1 - worker]
        self.bench.far.delay_s = 1.0
        fetch = asyncio.ensure_future(reader.get(key))
        await asyncio.sleep(0.5)
        self.bench.far.delay_s = 0.0
        body = None if deletes else self.new_body()
        before = set(self.possible[key])
        if await self.write(writer, key, body):
            self.possible[key] = {body}
        with suppress(StoreError):  # the far store may rest still
            await self.bench.evict(key, writer)
        if joins:
            await self.check(reader, key)
        found = self.alive(await fetch)
        assert found in before | self.readable(key) | {None}
        await reader.finish()
        await self.check(reader, key)

    async def repaired(self) -> None:
        """Have all stores be well, and make all copies equal but for what is not near."""
        for store in self.bench.stores.values():
            store.plan = healthy
            await store.resume()
        self.down.clear()
        for worker in self.workers:
            await worker.finish()
        await asyncio.sleep(self.bench.settings.cooling_s + 1)
        self.bench.gateway = self.workers[0]
        await self.bench.pay()
        for key in KEYS:
            healed = [await self.workers[0].healing.heal(key) for _ in range(4)][-1]
            assert healed.is_settled
            assert await self.workers[1].healing.verify(key) == []
            value = self.bench.near.values.get(key)
            assert value is None or value == self.bench.far.values[key]


class BackMachine(NearMachine):
    """The same, written back."""

    quorum = 1


class AroundMachine(NearMachine):
    """The same, written around."""

    around = True


TestWrittenThrough = NearMachine.TestCase
TestWrittenThrough.settings = SELDOM
TestWrittenBack = BackMachine.TestCase
TestWrittenBack.settings = SELDOM
TestWrittenAround = AroundMachine.TestCase
TestWrittenAround.settings = SELDOM
