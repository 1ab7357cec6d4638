"""Three nodes and a gateway with real processes against a dict, whatever happens to them.

Hypothesis chooses what happens: files are written, read and deleted; stores are killed, stopped,
damaged, and lose their disks; the gateway is restarted and killed, also in the middle of a change.
Every answer is held against what was acknowledged (``expectations``), and as long as no more than
one store is ill, every request has to succeed. At the end all is brought back, debts are paid, what
was lost is repaired, and ``sfss check`` must find nothing.

What happens is kept to what docs/copies.md speaks of: at most one store loses something until that
was repaired. Any number may be down, two of three are. Round after round, for ``--probe-s``; each
begins with a seed of its own, and a failure says with which ``--probe-seed`` it comes first.
"""

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.probe.expectations import Expected
from tests.probe.load import body_for
from tests.probe.stores import KINDS, STORES
from tests.probe.world import World, world_in
from tests.servers import Answer, Server

PATHS: Final = 4
ROUND = settings(
    phases=[Phase.generate],  # to find fewer steps takes as many runs as there are steps
    max_examples=10,
    stateful_step_count=24,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

path_of = st.integers(0, PATHS - 1)
store_of = st.integers(0, STORES - 1)
size_of = st.sampled_from([0, 40, 1000, 100_000])
request_of = st.tuples(st.sampled_from(["PUT", "GET", "DELETE"]), path_of, size_of)
requests_of = st.lists(request_of, min_size=1, max_size=6)
moment_of = st.sampled_from([0.0, 0.0005, 0.001, 0.002, 0.004, 0.01])


class TimeIsOver(BaseException):
    """Raised within a round when there is no time left. Hypothesis takes no notice of it."""


class StoresMachine(RuleBasedStateMachine):
    """What may happen, one thing after the other."""

    def __init__(self, world: World, name: str, end_s: float) -> None:
        super().__init__()
        self.world, self.end_s = world, end_s
        self.expected = {f"{name}/ü{number}": Expected() for number in range(PATHS)}
        self.turn = 0
        self.ill: dict[int, Callable[[Server], object]] = {}
        self.lost: int | None = None
        self.is_damaged = False
        self.has_died = False
        """Whether a change was cut off: nobody has noted that copies differ."""
        self.is_news = False
        """Whether anything has happened since the gateway was restarted, or a tool has run."""
        self.was_ill = False
        """Whether what a store was asked, or a heal that waits for one, may still be under way."""

    @initialize()
    def begin(self) -> None:
        self.world.begin()
        for number in range(1, PATHS):
            self.put(number, 40)

    @invariant()
    def there_is_time(self) -> None:
        if time.monotonic() > self.end_s:
            raise TimeIsOver

    @property
    def must_answer(self) -> bool:
        """Whether so little is wrong that every request has to succeed."""
        return len(self.ill) + (self.lost is not None and self.lost not in self.ill) <= 1

    def path(self, number: int) -> str:
        """Return one of the paths."""
        return list(self.expected)[number]

    # What clients do.

    def change(self, number: int, body: bytes | None) -> None:
        """Put, or delete if ``body`` is None."""
        path = self.path(number)
        expected = self.expected[path]
        with self.world.explaining([path]):
            answer = self.world.ask("DELETE" if body is None else "PUT", path, body)
            if not self.is_answered(answer):
                expected.unsure(body)
                return
            if answer.status == 404:
                assert not (complaint := expected.complaint(None)), f"DELETE: {complaint}"
            assert answer.status != 204 or expected.bodies != {None}, "DELETE: there is no file"
            expected.acknowledged(body)

    def is_answered(self, answer: Answer) -> bool:
        """Tell whether a request has succeeded; assert that it has if it had to."""
        if answer.status in (200, 204, 404):
            return True
        assert answer.status in (500, 504), answer
        assert not self.must_answer, f"it could be done: {answer}"
        return False

    def new_body(self, size: int) -> bytes:
        """Return a body that nothing else has."""
        self.turn += 1
        return body_for(self.path(0), self.turn, size)

    def put(self, number: int, size: int) -> None:
        """Write a file."""
        self.change(number, self.new_body(size))

    def request(self, requests: list[tuple[str, int, int]]) -> None:
        """Do one request after the other."""
        self.is_news = True
        # Where two are stopped, each takes until the gateway gives one up.
        for method, number, size in requests if self.must_answer else requests[:2]:
            if method == "GET":
                self.read(self.path(number))
            else:
                self.change(number, None if method == "DELETE" else self.new_body(size))

    # All rules are as likely: twice, so that not most of what happens happens to nothing.

    @rule(requests=requests_of)
    def some_requests(self, requests: list[tuple[str, int, int]]) -> None:
        self.request(requests)

    @rule(requests=requests_of)
    def more_requests(self, requests: list[tuple[str, int, int]]) -> None:
        self.request(requests)

    @rule()
    def read_all(self) -> None:
        for path in self.expected:
            self.read(path)

    def read_if(self, reads: bool) -> None:
        """Read all files, or not: what is read is healed, and cannot go wrong later."""
        if reads:
            self.read_all()

    def read(self, path: str) -> None:
        """Read a file."""
        with self.world.explaining([path]):
            answer = self.world.ask("GET", path)
            if self.is_answered(answer):
                found = answer.body if answer.status == 200 else None
                assert not (complaint := self.expected[path].complaint(found)), complaint

    # What goes wrong.

    @precondition(lambda self: len(self.ill) < 2)
    @rule(store=store_of, reads=st.booleans())
    def kill(self, store: int, reads: bool) -> None:
        self.fall_ill(store, Server.kill, Server.start)
        self.read_if(reads)

    @precondition(lambda self: len(self.ill) < 2)
    @rule(store=store_of, reads=st.booleans())
    def stop(self, store: int, reads: bool) -> None:
        self.fall_ill(store, Server.pause, Server.resume)
        self.read_if(reads)

    def fall_ill(
        self, store: int, begin: Callable[[Server], object], end: Callable[[Server], object]
    ) -> None:
        """Have a store fail, until ``end``."""
        if store not in self.ill:
            server = self.world.stores[store]
            begin(server)
            self.ill[store], self.was_ill, self.is_news = end, True, True
            self.world.say(f"{begin.__name__} {server.address}")

    @precondition(lambda self: self.ill)
    @rule(reads=st.booleans())
    def recover(self, reads: bool) -> None:
        self.end_illness()
        self.read_if(reads)

    def end_illness(self) -> None:
        """Have the store be well that failed last."""
        store, end = self.ill.popitem()
        end(self.world.stores[store])
        self.world.say(f"{end.__name__} {self.world.stores[store].address}")

    @precondition(lambda self: self.lost is None and not self.ill)
    @rule(store=store_of, reads=st.booleans())
    def lose_the_disk(self, store: int, reads: bool) -> None:
        self.let_finish()
        self.world.lose_disk(self.world.stores[store])
        self.lost, self.is_news = store, True
        self.read_if(reads)

    @precondition(lambda self: not self.ill)
    @rule(store=store_of, number=path_of, bit=st.integers(0, 1 << 20), reads=st.booleans())
    def damage(self, store: int, number: int, bit: int, reads: bool) -> None:
        if self.lost in (None, store):
            self.let_finish()
            self.world.flip(self.world.stores[store], self.path(number), bit)
            # Whether there was anything or not: what may happen next has to be the same each time.
            self.lost, self.is_damaged, self.is_news = store, True, True
            self.read_if(reads)

    def let_finish(self) -> None:
        """Wait for what goes on in the background: to a store that loses the newest while something
        older is on its way there, that is new.
        """
        if self.was_ill:
            self.restart()

    @precondition(lambda self: self.is_news)
    @rule()
    def restart(self) -> None:
        self.is_news = False
        self.world.gateway.stop()
        self.world.gateway.start()
        self.was_ill = bool(self.ill)
        self.world.say("the gateway was restarted")

    @precondition(lambda self: self.is_news)
    @rule(number=path_of, size=size_of, deletes=st.booleans(), moment_s=moment_of)
    def kill_the_gateway(self, number: int, size: int, deletes: bool, moment_s: float) -> None:
        body = None if deletes else self.new_body(size)
        path, method = self.path(number), "DELETE" if deletes else "PUT"
        self.expected[path].unsure(body)
        self.has_died, self.is_news = True, False
        self.world.kill_gateway_in(method, path, body, moment_s)

    # What mends it.

    @precondition(lambda self: self.is_news and not self.ill)
    @rule()
    def scrub(self) -> None:
        self.make_sure()
        self.run_tool("scrub")
        self.lost, self.is_damaged, self.has_died = None, False, False

    @precondition(lambda self: self.is_news and not self.ill)
    @rule()
    def repair(self) -> None:
        self.make_sure()
        self.run_tool("repair")
        self.has_died = False
        if not self.is_damaged:
            self.lost = None

    def make_sure(self) -> None:
        """Write again what is in doubt, if the only copy of it may be damaged."""
        for number, expected in enumerate(self.expected.values()):
            if self.is_damaged and not expected.is_sure:
                self.put(number, 40)

    def run_tool(self, name: str) -> None:
        """Run a tool, and assert that it leaves nothing."""
        self.is_news = False
        with self.world.explaining(self.expected):
            report = self.world.tool(name)
            assert report["status"] == 0, f"sfss {name}: {report}"

    def teardown(self) -> None:
        if self.world.has_failed:
            return
        while self.ill:
            self.end_illness()
        with self.world.explaining(self.expected):
            self.world.wait_until_paid()
        if self.is_damaged:
            self.scrub()
        elif self.lost is not None or self.has_died:
            self.repair()
        self.run_tool("check")
        for path in self.expected:
            self.read(path)
        self.world.is_well()


def run_round(world: World, number: int, end_s: float) -> None:
    """Try what the seed ``number`` gives, as far as there is time."""
    examples = count(1)

    def machine() -> StoresMachine:
        return StoresMachine(world, f"round{number}/{next(examples)}", end_s)

    try:
        run_state_machine_as_test(seed(number)(machine), settings=ROUND)  # type: ignore[arg-type]
    except (TimeIsOver, FlakyStrategyDefinition):
        # What was tried once may be cut short when it is begun the same way again.
        if world.has_failed or time.monotonic() < end_s:
            raise
    except BaseException as error:
        error.add_note(f"--probe-seed {number}")
        raise


@pytest.mark.parametrize("kind", ["nodes", "nginxes"])
def test_whatever_happens_what_was_acknowledged_is_read(
    kind: str, tmp_path: Path, probe_s: float, probe_seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    end_s = time.monotonic() + probe_s * KINDS[kind].share
    with world_in(tmp_path, KINDS[kind]) as world:
        for number in count(probe_seed):
            if time.monotonic() > end_s:
                break
            run_round(world, number, end_s)
        with capsys.disabled():
            print(f"  {world.count} examples in {number - probe_seed} rounds")
