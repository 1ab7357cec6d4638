"""Copies against a dict, written by several gateways that know nothing of each other's debts.

Each gateway has its own list of debts and its own ways to the stores: a store may be down for one
and not for another, lose the answers of one, or be stopped for all. Gateways are killed, and come
back with what they have noted. No store loses what it has. What a read may return is told as in
``test_copies_model``, and 404 is said only where it is proven.

``MovingGateways`` change the stores, one gateway after the other, as ``docs/copies.md`` says:
nobody is to notice.

``SFSS_MODEL_EXAMPLES=5000 python -m pytest tests/test_gateways_model.py -o faulthandler_timeout=0``
looks for longer.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sfss.agreement import CopiesSettings
from sfss.copies import Copies
from sfss.errors import QuorumFailed, StoreError
from sfss.moving import Placed, has_moved, put_in_place
from sfss.owed import Owed
from sfss.placement import Places
from sfss.record import Record, decode, encode, expired_tombstone, has_expired, is_alive, new_record
from tests.copies_bench import DAY, TestClock, body_of, others_than_this
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always
from tests.test_copies_model import ASKED_FOR, PHASES, Complaints
from tests.virtual_time import VirtualLoop

EXAMPLES = int(ASKED_FOR or "120")
SETTINGS = CopiesSettings(straggler_ms=50, head_timeout_ms=20, shares_debts=False)

KEYS = [b"k", b"l"]
key_of = st.sampled_from(KEYS)
store_of = st.integers(0, 4)
gateway_of = st.integers(0, 2)
ttl_of = st.sampled_from([0, 0, 1, 5])
fault_of = st.sampled_from([Fault.REFUSE, Fault.LOSE_ANSWER, Fault.LATE, Fault.FULL])


@dataclass
class Gateway:
    """One gateway: its ways to the stores, what it has noted, and the stores that it knows of."""

    ways: dict[str, FaultyStore]
    clock: TestClock
    names: Sequence[str]
    former: Sequence[str] = ()
    writes_both: bool = False
    noted: DictStore = field(default_factory=lambda: DictStore("list"))

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew, with what was noted."""
        names, former, writes_both = self.names, self.former, self.writes_both
        places = Places(lambda _: names, lambda _: former, writes_both=lambda: writes_both)
        owed = Owed(self.noted, limit=1000)
        self.copies = Copies(self.ways, places, owed, self.clock, SETTINGS)

    async def failing(self) -> set[str]:
        """Return the stores that do not answer here, or are owed something from here."""
        debts = await self.copies.missing(b"", 1000)
        return {name for name, way in self.ways.items() if way.plan is not HEALTHY} | {
            debt.address for _, debt in debts
        }


def HEALTHY(operation: str, key: bytes) -> None:  # noqa: N802 - a plan, compared by identity
    """Plan nothing."""


class GatewaysMachine(RuleBasedStateMachine):
    """The rules, over ``count`` stores; each runs in made-up time until it has its answer."""

    all_names = "abc"
    first_names = "abc"

    def __init__(self) -> None:
        super().__init__()
        self.clock = TestClock()
        self.stores = {name: DictStore(name) for name in self.all_names}
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.gateways = [self.new_gateway() for _ in range(3)]
        self.possible: dict[bytes, set[bytes | None]] = {key: {None} for key in KEYS}
        self.expiry: dict[bytes, int] = {}
        self.bodies = 0
        self.complaints = Complaints()
        logging.getLogger("sfss.paying").addHandler(self.complaints)

    def new_gateway(self) -> Gateway:
        """Return a gateway with ways of its own."""
        ways = {name: FaultyStore(store, HEALTHY) for name, store in self.stores.items()}
        return Gateway(ways, self.clock, self.first_names)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run ``work`` to its end; what goes on in the background waits for the next rule."""
        return self.runner.run(work)

    def new_body(self) -> bytes:
        """Return a body that no other write has."""
        self.bodies += 1
        return b"body %d" % self.bodies

    def record(self, body: bytes) -> Record:
        """Return a new record."""
        return new_record(body, self.clock.version())

    def name(self, number: int) -> str:
        """Return the name of one of the stores."""
        return list(self.stores)[number % len(self.stores)]

    def may_fail(self, failing: set[str]) -> bool:
        """Tell whether a request may fail when so many stores do: to all but W, and to be sure of
        "nothing", a quorum has to answer.
        """
        copies = len(self.first_names)
        quorums = SETTINGS.quorums(copies)
        return len(failing) > copies - max(quorums.write, quorums.noes)

    # What clients do.

    def readable(self, key: bytes) -> set[bytes | None]:
        """Return what a read may return now: in place of what has expired, nothing."""
        now = self.clock.now
        return {
            None if body and self.expiry.get(body, now + 1) <= now else body
            for body in self.possible[key]
        }

    async def write(self, number: int, key: bytes, body: bytes | None, ttl_days: int = 0) -> bool:
        """Put, or delete if ``body`` is None; return whether it was acknowledged, and note what may
        be read from now on.
        """
        gateway = self.gateways[number]
        before = self.readable(key) | self.possible[key]
        self.possible[key].add(body)
        try:
            if body is None:
                found = await gateway.copies.delete(key)
                assert before != {None} if found else None in before
            else:
                record = self.record(body)
                if ttl_days:
                    self.expiry[body] = self.clock.now + ttl_days * DAY
                    record = record._replace(head=record.head._replace(expiry=self.expiry[body]))
                await gateway.copies.put(key, record)
        except StoreError as error:
            assert self.may_fail(await gateway.failing()), f"it could be kept: {error}"
            nothing_done = isinstance(error, QuorumFailed) and not error.got
            if nothing_done and not error.indeterminate and body not in before:
                self.possible[key].discard(body)
            return False
        return True

    @rule(key=key_of, gateway=gateway_of, deletes=st.booleans(), ttl_days=ttl_of)
    def a_write(self, key: bytes, gateway: int, deletes: bool, ttl_days: int) -> None:
        body = None if deletes else self.new_body()
        if self.run(self.write(gateway, key, body, ttl_days)):
            self.possible[key] = {body}

    @rule(key=key_of, gateway=gateway_of, deletes=st.booleans())
    def a_write_that_all_read(self, key: bytes, gateway: int, deletes: bool) -> None:
        self.a_write(key, gateway, deletes, 0)
        for each in self.gateways:
            self.run(self.check(each, key))

    @rule(
        store=store_of,
        fault=fault_of,
        key=key_of,
        gateway=gateway_of,
        deletes=st.booleans(),
        ttl_days=ttl_of,
    )
    def a_write_that_one_misses(
        self, store: int, fault: Fault, key: bytes, gateway: int, deletes: bool, ttl_days: int
    ) -> None:
        self.part(store, fault, gateway)
        self.a_write(key, gateway, deletes, ttl_days)
        self.recover(store)

    @rule(key=key_of, writes=st.lists(gateway_of, min_size=2, max_size=4), deletes=st.booleans())
    def writes_at_once(self, key: bytes, writes: list[int], deletes: bool) -> None:
        bodies: list[bytes | None] = [self.new_body() for _ in writes]
        if deletes:
            bodies[0] = None
        self.possible[key] |= set(bodies)
        work = [
            self.write(gateway, key, body) for gateway, body in zip(writes, bodies, strict=True)
        ]

        async def all_of_them() -> list[bool]:
            return await asyncio.gather(*work)

        if any(self.run(all_of_them())):
            self.possible[key] = set(bodies)

    @rule(gateway=gateway_of)
    def reads(self, gateway: int) -> None:
        for key in KEYS:
            self.run(self.check(self.gateways[gateway], key))

    async def check(self, gateway: Gateway, key: bytes) -> None:
        """Read ``key``."""
        try:
            record = await gateway.copies.get(key)
        except StoreError as error:
            assert self.may_fail(await gateway.failing()), f"it could be answered: {error}"
            return
        shown = record is not None and is_alive(record.head, self.clock.now)
        assert (body_of(record) if shown else None) in self.readable(key)

    # What goes wrong.

    @rule(store=store_of, fault=fault_of, gateway=gateway_of)
    def part(self, store: int, fault: Fault, gateway: int) -> None:
        """Have a store fail for one gateway."""
        self.gateways[gateway].ways[self.name(store)].plan = always(fault)

    @rule(store=store_of)
    def stop(self, store: int) -> None:
        """Have a store do nothing until it goes on, whoever asks it."""
        for gateway in self.gateways:
            gateway.ways[self.name(store)].plan = always(Fault.HANG)

    @rule(store=store_of)
    def recover(self, store: int) -> None:
        self.run(self.recovered([self.name(store)]))

    async def recovered(self, names: Sequence[str]) -> None:
        """Have stores be well for all, and be asked again."""
        for gateway in self.gateways:
            for name in names:
                await gateway.ways[name].resume()
                gateway.ways[name].plan = HEALTHY
        # What hung at the last moment fails before that.
        await asyncio.sleep(3 + SETTINGS.cooling_s)

    @rule()
    def all_recover(self) -> None:
        self.run(self.recovered(list(self.stores)))

    @rule(gateway=gateway_of)
    def restart(self, gateway: int) -> None:
        self.run(self.gateways[gateway].copies.finish())
        self.gateways[gateway].start()

    @rule(gateway=gateway_of, key=key_of, steps=st.integers(0, 12), deletes=st.booleans())
    def die(self, gateway: int, key: bytes, steps: int, deletes: bool) -> None:
        body = None if deletes else self.new_body()
        self.possible[key].add(body)
        self.run(self.killed(self.gateways[gateway], key, body, steps))
        self.gateways[gateway].start()

    async def killed(self, gateway: Gateway, key: bytes, body: bytes | None, steps: int) -> None:
        """Begin a write, and end every task of the gateway."""
        for other in self.gateways:
            if other is not gateway:
                await other.copies.finish()
        copies = gateway.copies
        write = copies.delete(key) if body is None else copies.put(key, self.record(body))
        begun = asyncio.ensure_future(write)
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in others_than_this():
            task.cancel()
        await asyncio.gather(begun, return_exceptions=True)

    @rule(days=st.sampled_from([1, 2, 11]))
    def days_pass(self, days: int) -> None:
        # What a store was asked so long ago has ended with the connection.
        self.run(self.left())
        self.clock.now += days * DAY

    @rule(days=st.sampled_from([0, 2]), stores=st.sets(store_of))
    def sweep(self, days: int, stores: set[int]) -> None:
        """Have stores make tombstones of what has expired."""
        self.clock.now += days * DAY
        for number in stores:
            values = self.stores[self.name(number)].values
            for key in KEYS:
                head = decode(values[key], "", key).head if key in values else None
                if head is not None and has_expired(head, self.clock.now):
                    values[key] = encode(expired_tombstone(head))

    # What mends it.

    @rule(key=key_of, gateway=gateway_of)
    def heal(self, key: bytes, gateway: int) -> None:
        self.run(self.gateways[gateway].copies.healing.heal(key))

    @rule(gateway=gateway_of)
    def pay(self, gateway: int) -> None:
        self.run(self.paid(self.gateways[gateway]))

    async def paid(self, gateway: Gateway) -> None:
        """Go through all debts once."""
        for name in self.stores:
            await gateway.copies.paying.pay(name)

    async def repaired(self) -> None:
        """Have all stores be well, all debts be paid, and all copies be equal."""
        await self.recovered(list(self.stores))
        await self.left()
        for gateway in self.gateways:
            for _ in range(6):
                await self.paid(gateway)
            assert await gateway.copies.missing(b"", 10) == []
            for key in KEYS:
                healed = [await gateway.copies.healing.heal(key) for _ in range(3)][-1]
                assert healed.is_settled
                assert await gateway.copies.healing.is_complete(key)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        assert self.complaints.lines == []

    def teardown(self) -> None:
        logging.getLogger("sfss.paying").removeHandler(self.complaints)
        try:
            self.run(self.repaired())
            for key in KEYS:
                for gateway in self.gateways:
                    self.run(self.check(gateway, key))
            assert self.complaints.lines == []
            assert self.run(self.left()) == set()
        finally:
            self.runner.close()

    async def left(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that still run when the gateways have ended."""
        for gateway in self.gateways:
            await gateway.copies.finish()
        return others_than_this()


class TwoStores(GatewaysMachine):
    """The same, over two stores: both keep each write, one answers for both."""

    all_names = first_names = "ab"


class OneStore(GatewaysMachine):
    """The same, over one store."""

    all_names = first_names = "a"


class MovingGateways(GatewaysMachine):
    """The same, while the stores are changed: each gateway goes from the old places to both, then
    to the new ones with the old as former, then to the new ones alone.
    """

    all_names = "abcde"
    sizes: tuple[int, ...] = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.old: Sequence[str] = self.first_names
        self.new: Sequence[str] = ()
        self.steps = [0] * len(self.gateways)
        self.is_copied = self.is_moved = self.is_another = False

    def may_fail(self, failing: set[str]) -> bool:
        """Tell whether a request may fail: while stores are changed, each that fails may be one of
        the few that hold a key.
        """
        return bool(failing) if self.new or len(self.old) < 3 else len(failing) > 1

    @initialize(names=st.permutations("abcde"), size=st.integers(0, 2), first=gateway_of)
    def begin(self, names: list[str], size: int, first: int) -> None:
        """Have one gateway hear of the first change."""
        self.change_the_stores(names, size)
        self.learn(first)

    @precondition(lambda self: not self.new)
    @rule(names=st.permutations("abcde"), size=st.integers(0, 2))
    def change_the_stores(self, names: list[str], size: int) -> None:
        self.new = tuple(names[: self.sizes[size % len(self.sizes)]])
        self.is_copied = self.is_moved = self.is_another = False

    @precondition(lambda self: self.new and max(self.steps) < 2)
    @rule(names=st.permutations("abcde"), size=st.integers(0, 2))
    def change_them_again(self, names: list[str], size: int) -> None:
        """Have other stores be the new ones, as long as nobody has left the old ones."""
        self.change_the_stores(names, size)
        self.steps = [0] * len(self.gateways)
        self.is_another = True

    @precondition(lambda self: self.new)
    @rule(gateway=gateway_of)
    def learn(self, gateway: int) -> None:
        """Have one gateway take the next step, if all others are ready for it."""
        step = self.steps[gateway]
        if (step == 1 and not self.is_copied) or (step == 2 and not self.is_moved) or step == 3:
            return
        self.take(gateway, step + 1)
        if min(self.steps) == 3:
            self.old, self.new = self.new, ()
            self.steps = [0] * len(self.gateways)

    def take(self, number: int, step: int) -> None:
        """Reload a gateway: the one before finishes what it has begun."""
        gateway = self.gateways[number]
        self.run(gateway.copies.finish())
        gateway.names, gateway.former, gateway.writes_both = (
            self.new,
            self.old if step < 3 else (),
            step == 1,
        )
        self.steps[number] = step
        gateway.start()

    @precondition(lambda self: self.new)
    @rule(gateway=gateway_of, stores=st.lists(store_of, min_size=1, max_size=3))
    def move_some(self, gateway: int, stores: list[int]) -> None:
        """Begin a walk that does not come to its end."""
        if self.steps[gateway]:
            self.run(self.walked(gateway, [self.name(number) for number in stores]))

    @precondition(lambda self: self.new)
    @rule(gateway=gateway_of)
    def move_all(self, gateway: int) -> None:
        """Walk all stores to the end, if everybody has taken the step."""
        is_at = set(self.steps)
        if is_at not in ({1}, {2}):
            return
        placed = self.run(self.walked(gateway, list(self.stores)))
        if all(each == Placed() for each in placed):
            self.is_copied = self.is_copied or is_at == {1}
            self.is_moved = is_at == {2}

    async def walked(self, number: int, names: Sequence[str]) -> list[Placed]:
        """Put what is on the stores in its place; each is asked itself what it has."""
        copies = self.gateways[number].copies
        return [
            await put_in_place(copies, key, name)
            for name in names
            for key in KEYS
            if key in self.stores[name].values and has_moved(copies, key, name)
        ]

    @property
    def all_have_heard(self) -> bool:
        """Whether nobody writes to the former stores alone, and none is left with something that
        nobody asks for.
        """
        return not self.new or (min(self.steps) > 0 and not self.is_another)

    @rule(days=st.sampled_from([1, 2, 11]))
    def days_pass(self, days: int) -> None:
        """Not while a gateway has not heard of the change for as long as deletes are remembered."""
        if self.all_have_heard:
            super().days_pass(days)

    @rule(days=st.sampled_from([0, 2]), stores=st.sets(store_of))
    def sweep(self, days: int, stores: set[int]) -> None:
        """The same."""
        super().sweep(days if self.all_have_heard else 0, stores)

    async def repaired(self) -> None:
        """Have the change be made to its end, too."""
        await self.recovered(list(self.stores))
        await self.left()
        return await super().repaired()

    def teardown(self) -> None:
        """Take all steps that are left; what was acknowledged is there."""
        try:
            self.run(self.recovered(list(self.stores)))
            for step in (1, 2, 3) if self.new else ():
                for number in range(len(self.gateways)):
                    if self.steps[number] < step:
                        self.take(number, step)
                for _ in range(3 if step < 3 and set(self.steps) == {step} else 0):
                    placed = self.run(self.walked(0, list(self.stores)))
                    self.run(self.recovered([]))
                    if step == 1:
                        assert not any(each.reason for each in placed)
                if step < 3 and set(self.steps) == {step}:
                    assert all(each == Placed() for each in placed), placed
                for number in range(len(self.gateways)):
                    for key in KEYS:
                        self.run(self.check(self.gateways[number], key))
            for name in set(self.stores).difference(self.new or self.old):
                if set(self.steps) != {0}:
                    assert not self.stores[name].values
        except BaseException:
            logging.getLogger("sfss.paying").removeHandler(self.complaints)
            self.runner.close()
            raise
        super().teardown()


class OneBecomesThree(MovingGateways):
    """The same, with one to three stores."""

    first_names = "a"
    sizes = (1, 2, 3)


OFTEN = settings(
    phases=PHASES,
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SELDOM = settings(OFTEN, max_examples=EXAMPLES // 3)

TestGateways = GatewaysMachine.TestCase
TestGateways.settings = OFTEN
TestTwoStores = TwoStores.TestCase
TestTwoStores.settings = SELDOM
TestOneStore = OneStore.TestCase
TestOneStore.settings = SELDOM
TestMovingGateways = MovingGateways.TestCase
TestMovingGateways.settings = OFTEN
TestOneBecomesThree = OneBecomesThree.TestCase
TestOneBecomesThree.settings = OFTEN
