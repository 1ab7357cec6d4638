"""Objects against a dict: whatever fails, a read returns what was acknowledged last.

Three members keep copies of entries, and the bodies; a bucket has those of levels 1 and 2. Members
and the bucket go down, hang, lose answers and lose disks; the gateway, two workers, is killed. The
model knows what a read of each object may return: after an acknowledged put or delete only that,
after one that failed that as well. In the end all is well again: then the bucket is as the entries
say, and has whatever the members have lost since.

``SFSS_MODEL_EXAMPLES=3000 python -m pytest tests/test_objects_model.py -o faulthandler_timeout=0``
looks for longer.
"""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from sfss.agreement import CopiesSettings
from sfss.chunks import object_of
from sfss.cluster import Clock
from sfss.copies import Copies
from sfss.errors import Corrupt, StoreError
from sfss.keys import KeyScheme
from sfss.object_bodies import Bodies, Placed
from sfss.object_entries import Traits
from sfss.object_origin import Origin
from sfss.object_shelf import Entries
from sfss.objects import ObjectRules, Objects
from sfss.owed import Owed
from sfss.placement import KetamaRing, Mirror, ObjectPlacement, Places
from sfss.record import Content, held
from sfss.stores.key_locks import KeyLocks
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always
from tests.virtual_time import VirtualLoop

EXAMPLES = int(os.environ.get("SFSS_MODEL_EXAMPLES") or "150")

NAMES = ["a:1", "b:1", "c:1"]
SCHEME = KeyScheme("percent")
IDS = ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW"]
DELETED = "deleted"

id_of = st.sampled_from(IDS)
worker_of = st.integers(0, 1)
level_of = st.integers(0, 2)
fault_of = st.sampled_from([Fault.REFUSE, Fault.HANG, Fault.LOSE_ANSWER, Fault.FULL])


class Worker:
    """One process of the gateway; its home is the first member."""

    def __init__(self, machine: "ObjectsMachine") -> None:
        self.placement = ObjectPlacement(Mirror(NAMES), KetamaRing(NAMES), Mirror(NAMES))
        own = CopiesSettings(straggler_ms=50, head_timeout_ms=20, cooling_s=0.5, least_copies=1)
        self.copies = Copies(
            machine.stores,
            Places(self.placement.primaries),
            Owed(machine.debts, 10_000),
            Clock(),
            own,
        )
        placed = Placed(self.copies.places, NAMES[0], self.copies.is_resting)
        origin = Origin(machine.bucket, machine.origin_debts)
        self.objects = Objects(
            Entries(self.copies, SCHEME, machine.locks, 10.0),
            Bodies(self.copies, SCHEME, placed, 5.0),
            ObjectRules(machine.writes_through),
            origin,
        )

    async def pay(self) -> None:
        """Pay all that is owed, once."""
        for name in NAMES:
            await self.copies.paying.pay(name)
        assert self.objects._payments is not None
        await self.objects._payments.round()


class ObjectsMachine(RuleBasedStateMachine):
    """The rules; each runs in made-up time until it has its answer."""

    writes_through = True

    def __init__(self) -> None:
        super().__init__()
        self.stores = {name: FaultyStore(DictStore(name), timeout_s=0.5) for name in NAMES}
        self.bucket = FaultyStore(DictStore("s3://bucket"), timeout_s=0.5)
        self.debts, self.origin_debts = DictStore("debts"), DictStore("origin debts")
        self.locks = KeyLocks(None)
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.workers = self.run(self.new_workers())
        self.possible: dict[str, set[bytes | str | None]] = {each: {None} for each in IDS}
        self.levels: dict[bytes, int] = {}
        self.down: set[str] = set()
        self.lost: set[str] = set()
        self.bodies = 0

    async def new_workers(self) -> list[Worker]:
        """Return two workers."""
        return [Worker(self), Worker(self)]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run ``work`` to its end; what goes on in the background waits for the next rule."""
        return self.runner.run(work)

    # What clients do.

    async def write(self, worker: Worker, object_id: str, level: int | None) -> None:
        """Put, or delete if ``level`` is None, and note what may be read from now on."""
        self.bodies += 1
        body = b"body %d" % self.bodies
        self.levels[body] = level or 0
        state: bytes | str = DELETED if level is None else body
        before = set(self.possible[object_id])
        self.possible[object_id].add(state)
        try:
            if level is not None:
                await worker.objects.put(object_id, Content(body), Traits("a.txt", level))
            elif await worker.objects.delete(object_id) is None:
                assert None in before
                self.possible[object_id] = before
                return
        except StoreError:
            assert self.down or self.lost, "nothing is wrong"
            return
        self.possible[object_id] = {state}

    async def read(self, worker: Worker, object_id: str, fetches: bool) -> None:
        """Get an object; what comes must be possible."""
        possible = self.possible[object_id]
        try:
            found = await worker.objects.get(object_id, fetches)
        except StoreError as error:
            is_local = any(not self.levels.get(each, 1) for each in possible if each)  # type: ignore[arg-type]
            is_lost = isinstance(error, Corrupt) and is_local and self.lost
            assert self.down or is_lost or len(possible) > 1, f"nothing is wrong: {error}"
            return
        if found is None:
            assert None in possible, "it was acknowledged"
        elif found.entry.is_deleted:
            assert DELETED in possible
        else:
            assert bytes(held(found.body)) in possible

    @rule(number=worker_of, object_id=id_of, level=level_of)
    def put(self, number: int, object_id: str, level: int) -> None:
        self.run(self.write(self.workers[number], object_id, level))

    @rule(number=worker_of, object_id=id_of)
    def delete(self, number: int, object_id: str) -> None:
        self.run(self.write(self.workers[number], object_id, None))

    @rule(number=worker_of, object_id=id_of, fetches=st.booleans())
    def get(self, number: int, object_id: str, fetches: bool) -> None:
        self.run(self.read(self.workers[number], object_id, fetches))

    @rule(object_id=id_of, levels=st.lists(st.none() | level_of, min_size=2, max_size=3))
    def several_at_once(self, object_id: str, levels: list[int | None]) -> None:
        self.run(self._at_once(object_id, levels))

    async def _at_once(self, object_id: str, levels: list[int | None]) -> None:
        before = set(self.possible[object_id])
        writing = [
            self.write(self.workers[number % 2], object_id, level)
            for number, level in enumerate(levels)
        ]
        states: set[bytes | str | None] = {DELETED} if None in levels else set()
        first = self.bodies + 1
        await asyncio.gather(*writing)
        states |= {b"body %d" % number for number in range(first, self.bodies + 1)}
        # Any of them may have been the last, or, where all have failed, none.
        self.possible[object_id] = states | before

    # What goes wrong.

    @rule(number=st.integers(0, 2), fault=fault_of)
    def a_member_fails(self, number: int, fault: Fault) -> None:
        if not self.down & set(NAMES) and not self.lost:
            self.stores[NAMES[number]].plan = always(fault)
            self.down.add(NAMES[number])

    @rule(fault=fault_of)
    def the_bucket_fails(self, fault: Fault) -> None:
        self.bucket.plan = always(fault)
        self.down.add("bucket")

    @rule()
    def all_are_back(self) -> None:
        self.run(self._back())

    async def _back(self) -> None:
        for store in (*self.stores.values(), self.bucket):
            await store.resume()
        await asyncio.sleep(1)
        self.down.clear()

    @rule(number=st.integers(0, 2))
    def a_member_loses_bodies(self, number: int) -> None:
        if not self.writes_through and self.run(self.workers[0].objects.owing()):
            return  # what the bucket has not got yet would be lost
        values = self.stores[NAMES[number]].inner.values
        for key in [key for key in values if object_of(key)]:
            del values[key]
        self.lost.add(NAMES[number])

    @rule()
    def the_gateway_is_killed(self) -> None:
        self.run(self._kill())

    @rule(number=worker_of, object_id=id_of, level=st.none() | level_of, steps=st.integers(0, 60))
    def the_gateway_is_killed_while_it_writes(
        self, number: int, object_id: str, level: int | None, steps: int
    ) -> None:
        self.run(self._kill_within(self.write(self.workers[number], object_id, level), steps))

    async def _kill_within(self, work: Coroutine[Any, Any, None], steps: int) -> None:
        task = asyncio.ensure_future(work)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await self._kill()
        await asyncio.gather(task, return_exceptions=True)

    async def _kill(self) -> None:
        this = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not this]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.locks = KeyLocks(None)
        self.workers = await self.new_workers()

    @rule(number=worker_of)
    def debts_are_paid(self, number: int) -> None:
        self.run(self.workers[number].pay())

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        self.run(asyncio.sleep(seconds))

    # In the end.

    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.runner.close()

    async def _end(self) -> None:
        await self._back()
        await asyncio.sleep(60)
        for _ in range(3):
            for worker in self.workers:
                await worker.pay()
        assert await self.workers[0].objects.owing() == 0
        for object_id in IDS:  # what was never acknowledged is seen by turns until then
            await self.workers[0].copies.healing.heal(f"objects/{object_id}".encode())
        for object_id in IDS:
            await self._check(object_id)

    async def _check(self, object_id: str) -> None:
        """Check that the bucket is as the entry says, and enough where members have lost all."""
        worker = self.workers[0]
        found = await worker.objects.look(object_id)
        there = await self.bucket.get(object_id.encode())
        if found is None or found.entry.is_deleted or not found.entry.traits.level:
            assert there is None
        else:
            assert there is not None
            assert found.entry.is_version_of(there.head)
            for store in self.stores.values():
                for key in [key for key in store.inner.values if object_of(key)]:
                    del store.inner.values[key]
            fetched = await worker.objects.get(object_id)
            assert fetched is not None
            assert fetched.was_fetched
        if found is None or found.entry.traits.level or found.entry.is_deleted:
            await self.read(worker, object_id, fetches=True)


class BackMachine(ObjectsMachine):
    """The same, written back."""

    writes_through = False


_CHOSEN = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
)

TestThrough = ObjectsMachine.TestCase
TestThrough.settings = _CHOSEN
TestBack = BackMachine.TestCase
TestBack.settings = _CHOSEN


def test_a_put_that_was_not_answered_is_finished_where_it_has_overwritten_the_last_copy() -> None:
    state = ObjectsMachine()
    state.put(number=0, object_id=IDS[0], level=1)
    state.a_member_loses_bodies(number=0)
    state.the_bucket_fails(fault=Fault.HANG)
    state.put(number=0, object_id=IDS[0], level=1)
    state.teardown()


def test_a_put_that_was_not_answered_is_taken_back_where_a_member_has_the_former_body() -> None:
    state = ObjectsMachine()
    state.put(number=0, object_id=IDS[0], level=1)
    state.the_bucket_fails(fault=Fault.HANG)
    state.put(number=0, object_id=IDS[0], level=1)
    state.possible[IDS[0]] = {b"body 1"}
    state.teardown()


def test_a_deletion_that_is_repeated_is_written_again() -> None:
    # The first was broken off, and one member has not heard of it.
    state = ObjectsMachine()
    state.put(level=0, number=0, object_id=IDS[0])
    state.a_member_fails(fault=Fault.REFUSE, number=0)
    state.the_gateway_is_killed_while_it_writes(level=None, number=0, object_id=IDS[0], steps=22)
    state.delete(number=0, object_id=IDS[0])
    state.all_are_back()
    state.get(fetches=False, number=0, object_id=IDS[0])
    state.teardown()


def test_the_bucket_is_made_as_all_members_are_to_say() -> None:
    # What one member still says was replaced, or deleted, without an answer.
    for level in (None, 1):
        state = ObjectsMachine()
        state.put(level=1, number=0, object_id=IDS[0])
        state.a_member_fails(fault=Fault.REFUSE, number=0)
        for steps in range(10, 60, 4):
            state.the_gateway_is_killed_while_it_writes(
                level=level, number=0, object_id=IDS[0], steps=steps
            )
        state.all_are_back()
        state.debts_are_paid(number=0)
        state.teardown()
