"""Copies against a dict: whatever fails, a read returns what was acknowledged last.

The model knows, for each key, what a read may return: after an acknowledged write, only that; after
a refused one, that as well; and nothing where that has expired. Stores remove what has expired,
each for itself. They are killed, stopped (what they were asked meanwhile they do when they go on),
lose answers, lose disks and damage files, on one of them at a time until all is healed
(``write_quorum`` - 1 with N=3 and W=2); and the gateway, two workers, is restarted and killed.
Hypothesis prints the steps that break it, and how to do them again.

``SFSS_MODEL_EXAMPLES=5000 python -m pytest tests/test_copies_model.py -o faulthandler_timeout=0``
looks for longer, and for fewer steps that break it.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from itertools import product
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sfss.agreement import CopiesSettings
from sfss.copies import Copies
from sfss.errors import Corrupt, QuorumFailed, StoreError
from sfss.record import Record, decode, encode, expired_tombstone, has_expired, is_alive
from tests.copies_bench import DAY, Bench, body_of, others_than_this
from tests.stores.faulty_store import Fault, healthy
from tests.virtual_time import VirtualLoop

ASKED_FOR = os.environ.get("SFSS_MODEL_EXAMPLES")
EXAMPLES = int(ASKED_FOR or "150")

KEYS = [b"k", b"l"]
key_of = st.sampled_from(KEYS)
store_of = st.integers(0, 4)
worker_of = st.integers(0, 1)
ttl_of = st.sampled_from([0, 0, 1, 5])
fault_of = st.sampled_from([Fault.REFUSE, Fault.HANG, Fault.LOSE_ANSWER, Fault.LATE, Fault.FULL])


class Complaints(logging.Handler):
    """Remembers what was logged as an error: something acknowledged is lost."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, entry: logging.LogRecord) -> None:
        """Remember a line; what was refused may be lost."""
        if "acknowledged" in entry.getMessage():
            self.lines.append(entry.getMessage())


class CopiesMachine(RuleBasedStateMachine):
    """The rules; each runs in made-up time until it has its answer."""

    mode = "first"
    two_steps = False
    others = ""
    forgets = False

    def __init__(self) -> None:
        super().__init__()
        own = CopiesSettings(straggler_ms=50, head_timeout_ms=20, read_mode=self.mode)
        self.bench = Bench(own, others=self.others)
        for store in self.bench.stores.values():
            store.two_steps = self.two_steps
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.workers = self.new_workers()
        self.possible: dict[bytes, set[bytes | None]] = {key: {None} for key in KEYS}
        self.down: set[str] = set()
        self.lost: set[str] = set()
        self.bodies = 0
        self.expiry: dict[bytes, int] = {}
        self.complaints = Complaints()
        logging.getLogger("sfss.paying").addHandler(self.complaints)

    def new_workers(self) -> list[Copies]:
        """Return two workers; the same one twice where writers are known to come between."""
        worker = self.bench.new_gateway()
        return [worker, worker if self.two_steps else self.bench.new_gateway()]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run ``work`` to its end; what goes on in the background waits for the next rule."""
        return self.runner.run(work)

    def new_body(self) -> bytes:
        """Return a body that no other write has."""
        self.bodies += 1
        return b"body %d" % self.bodies

    def name(self, number: int) -> str:
        """Return the address of one of the stores."""
        return list(self.bench.stores)[number % len(self.bench.stores)]

    async def failing(self, worker: Copies) -> set[str]:
        """Return the stores of which no more than one may fail, if every request is to succeed."""
        return self.down

    # What clients do.

    def readable(self, key: bytes) -> set[bytes | None]:
        """Return what a read may return now: in place of what has expired, nothing."""
        now = self.bench.clock.now
        ended = {
            body for body in self.possible[key] if body and self.expiry.get(body, now + 1) <= now
        }
        return {None if body in ended else body for body in self.possible[key]}

    def alive(self, record: Record | None) -> bytes | None:
        """Return the body that a client is shown."""
        shown = record is not None and is_alive(record.head, self.bench.clock.now)
        return body_of(record) if shown else None

    async def write(
        self, worker: Copies, key: bytes, body: bytes | None, ttl_days: int = 0
    ) -> bool:
        """Put, or delete if ``body`` is None; return whether it was acknowledged, and note what may
        be read from now on.
        """
        before = self.readable(key) | self.possible[key]
        self.possible[key].add(body)
        try:
            if body is not None:
                record = self.bench.record(body)
                if ttl_days:
                    self.expiry[body] = self.bench.clock.now + ttl_days * DAY
                    head = record.head._replace(expiry=self.expiry[body])
                    record = record._replace(head=head)
                await worker.put(key, record)
            else:
                found = await worker.delete(key)
                assert before != {None} if found else None in before
        except StoreError as error:
            failing = await self.failing(worker)
            assert len(failing) > 1 or (self.lost and body is None), f"one is down: {error}"
            nothing_done = isinstance(error, QuorumFailed) and not error.got
            if nothing_done and not error.indeterminate and body not in before:
                self.possible[key].discard(body)
            return False
        return True

    @rule(key=key_of, worker=worker_of, deletes=st.booleans(), ttl_days=ttl_of)
    def a_write(self, key: bytes, worker: int, deletes: bool, ttl_days: int) -> None:
        body = None if deletes else self.new_body()
        if self.run(self.write(self.workers[worker], key, body, ttl_days)):
            self.possible[key] = {body}

    @rule(store=store_of, fault=fault_of, key=key_of, worker=worker_of, deletes=st.booleans())
    def a_write_that_one_misses(
        self, store: int, fault: Fault, key: bytes, worker: int, deletes: bool
    ) -> None:
        self.fail(store, fault)
        self.a_write(key, worker, deletes, 0)
        self.recover(store)

    # While files move, two stores have to answer, and one that is owed a write does not count.
    @precondition(lambda self: not self.others)
    @rule(store=store_of, key=key_of, worker=worker_of)
    def an_expiring_write_that_one_misses(self, store: int, key: bytes, worker: int) -> None:
        self.fail(store, Fault.REFUSE)
        self.a_write(key, worker, False, 1)
        self.recover(store)

    @rule(days=st.sampled_from([0, 2]), stores=st.sets(store_of))
    def sweep(self, days: int, stores: set[int]) -> None:
        """Have stores remove what has expired, as ``sfss node`` and memcached do; also those that
        nobody can reach.
        """
        self.days_pass(days)
        for key, store in product(KEYS, stores):
            values = self.bench.stores[self.name(store)].inner.values
            try:
                head = decode(values[key], "", key).head
            except (KeyError, Corrupt):
                continue
            if has_expired(head, self.bench.clock.now):
                values[key] = encode(expired_tombstone(head))
                if self.forgets:
                    del values[key]

    @rule(worker=worker_of)
    def reads(self, worker: int) -> None:
        for key in KEYS:
            self.run(self.check(self.workers[worker], key))

    async def check(self, worker: Copies, key: bytes) -> None:
        """Read ``key``."""
        try:
            found = self.alive(await worker.get(key))
        except StoreError as error:
            failing = len(await self.failing(worker)) + len(self.lost)
            assert failing > 1, f"it could be answered: {error}"
            return
        assert found in self.readable(key)

    @rule(key=key_of, writes=st.lists(worker_of, min_size=2, max_size=5))
    def writes_at_once(self, key: bytes, writes: list[int]) -> None:
        bodies = [self.new_body() for _ in writes]
        work = [
            self.write(self.workers[worker], key, body)
            for worker, body in zip(writes, bodies, strict=True)
        ]

        async def all_of_them() -> list[bool]:
            return await asyncio.gather(*work)

        if any(self.run(all_of_them())):
            self.possible[key] &= set(bodies)

    # What goes wrong.

    @rule(store=store_of, fault=fault_of)
    def fail(self, store: int, fault: Fault) -> None:
        name = self.name(store)
        self.bench.down(name, fault=fault)
        self.down.add(name)

    @rule(store=store_of)
    def recover(self, store: int) -> None:
        name = self.name(store)
        self.run(self.recovered(name))
        self.down.discard(name)

    async def recovered(self, name: str) -> None:
        """Have a store be well, and be asked again."""
        await self.bench.stores[name].resume()
        await asyncio.sleep(self.bench.settings.cooling_s + 1)

    # A loss waits for what goes on in the background: to a store that loses the newest while an
    # older version is on its way there, that one is new.

    @rule(store=store_of)
    def lose_the_disk(self, store: int) -> None:
        name = self.name(store)
        if self.lost <= {name}:
            self.lost.add(name)
            self.run(self.left())
            lost = self.bench.stores[name]
            lost.inner.values.clear()
            lost._stuck.clear()  # it is another process then

    @rule(store=store_of, key=key_of, body=st.booleans())
    def damage(self, store: int, key: bytes, body: bool) -> None:
        damaged = self.bench.stores[self.name(store)]
        if self.lost <= {damaged.address} and key in damaged.inner.values:
            self.lost.add(damaged.address)
            self.run(self.left())
            if body:
                damaged.damage(key)
            else:
                damaged.inner.values[key] = b"garbage"

    @rule(worker=worker_of)
    def restart(self, worker: int) -> None:
        self.run(self.workers[worker].finish())
        if self.two_steps:
            self.workers = self.new_workers()
        else:
            self.workers[worker] = self.bench.new_gateway()

    @rule(key=key_of, steps=st.integers(0, 12), deletes=st.booleans())
    def die(self, key: bytes, steps: int, deletes: bool) -> None:
        body = None if deletes else self.new_body()
        self.possible[key].add(body)
        self.run(self.killed(key, body, steps))
        self.workers = self.new_workers()

    async def killed(self, key: bytes, body: bytes | None, steps: int) -> None:
        """Begin a write, and end every task of the gateway."""
        worker = self.workers[0]
        write = worker.delete(key) if body is None else worker.put(key, self.bench.record(body))
        begun = asyncio.ensure_future(write)
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in others_than_this():
            task.cancel()
        await asyncio.gather(begun, return_exceptions=True)

    @rule(key=key_of, steps=st.integers(0, 12))
    def a_client_goes_away(self, key: bytes, steps: int) -> None:
        body = self.new_body()
        self.possible[key].add(body)
        self.run(self.gone(key, body, steps))

    async def gone(self, key: bytes, body: bytes, steps: int) -> None:
        """Begin a put, and cancel it."""
        put = asyncio.ensure_future(self.workers[0].put(key, self.bench.record(body)))
        for _ in range(steps):
            await asyncio.sleep(0)
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        # It goes on: until it has ended, nothing can be said of what comes after it.
        await self.workers[0].finish()

    @rule(days=st.sampled_from([1, 2, 11]))
    def days_pass(self, days: int) -> None:
        self.bench.clock.now += days * DAY

    # What mends it.

    @rule(key=key_of, worker=worker_of)
    def heal(self, key: bytes, worker: int) -> None:
        self.run(self.workers[worker].healing.heal(key))

    @rule(worker=worker_of)
    def pay(self, worker: int) -> None:
        self.run(self.pay_all(self.workers[worker]))

    async def pay_all(self, worker: Copies) -> None:
        """Go through all debts once."""
        for name in self.bench.stores:
            await worker.paying.pay(name)

    @precondition(lambda self: self.lost)
    @rule()
    def repair(self) -> None:
        self.run(self.repaired())

    async def repaired(self) -> None:
        """Have all stores be well, and make all copies equal."""
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
            if healed.damaged:
                # A refused write, on one store alone, was damaged there.
                assert await self.write(self.workers[0], key, None)
                self.possible[key] = {None}
            for name in set(self.bench.stores).difference(self.bench.names):
                moved = await self.workers[0].healing.move(key, name)
                assert moved.moved, moved.reason
            assert await self.workers[1].healing.verify(key, also=self.bench.stores) == []
            assert len(set(self.bench.has(key).values())) == 1
        self.bench.former = ()
        self.lost.clear()

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        assert self.complaints.lines == []

    def teardown(self) -> None:
        logging.getLogger("sfss.paying").removeHandler(self.complaints)
        try:
            self.run(self.repaired())
            for key in KEYS:
                for worker in self.workers:
                    self.run(self.check(worker, key))
            assert self.complaints.lines == []
            assert self.run(self.left()) == set()
        finally:
            self.runner.close()

    async def left(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that still run when the workers have ended."""
        for worker in self.workers:
            await worker.finish()
        return others_than_this()


async def in_arrears(worker: Copies) -> set[str]:
    """Return the stores that are owed a write."""
    return {debt.address for _, debt in await worker.missing(b"", 1000)}


class MovingMachine(CopiesMachine):
    """The same, while the stores where the files belong are changed, and files are moved."""

    mode = "random"
    others = "de"

    async def failing(self, worker: Copies) -> set[str]:
        """Count those in arrears too: as long as files are moved, two have to prove a read."""
        return self.down | (await in_arrears(worker) if self.bench.former else set())

    @precondition(lambda self: not self.bench.former)
    @rule(places=st.permutations("abcde"))
    def change_the_stores(self, places: list[str]) -> None:
        self.run(self.left())
        self.bench.former, self.bench.names = self.bench.names, places[:3]
        self.workers = self.new_workers()

    @precondition(lambda self: self.bench.former)
    @rule(store=store_of, key=key_of, worker=worker_of)
    def move(self, store: int, key: bytes, worker: int) -> None:
        self.run(self.workers[worker].healing.move(key, self.name(store)))


class ForgettingMachine(CopiesMachine):
    """The same, over stores that forget what has expired without a trace, as memcached does."""

    forgets = True

    async def failing(self, worker: Copies) -> set[str]:
        """Count those in arrears too: what has expired is proven by two that have nothing."""
        return self.down | await in_arrears(worker)


class FastestMachine(CopiesMachine):
    """The same, with two stores asked at once."""

    mode = "fastest"


class RandomMachine(CopiesMachine):
    """The same, with the stores asked in any order."""

    mode = "random"


class TwoStepsMachine(CopiesMachine):
    """The same, over stores that compare and write in two steps: one worker is right there, too."""

    two_steps = True


# To find fewer steps may take minutes, in which the run would be ended for a test that hangs.
PHASES = [each for each in Phase if ASKED_FOR or each is not Phase.shrink]

OFTEN = settings(
    phases=PHASES,
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SELDOM = settings(OFTEN, max_examples=EXAMPLES // 3)

TestCopies = CopiesMachine.TestCase
TestCopies.settings = OFTEN
TestForgettingCopies = ForgettingMachine.TestCase
TestForgettingCopies.settings = SELDOM
TestFastestCopies = FastestMachine.TestCase
TestFastestCopies.settings = SELDOM
TestRandomCopies = RandomMachine.TestCase
TestRandomCopies.settings = SELDOM
TestMovingCopies = MovingMachine.TestCase
TestMovingCopies.settings = OFTEN
TestTwoStepCopies = TwoStepsMachine.TestCase
TestTwoStepCopies.settings = SELDOM
