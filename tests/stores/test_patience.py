"""How long a write of the embedded store may take, with a clock that is set by hand."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from sfss.stores.patience import Patience


class Clock(asyncio.SelectorEventLoop):
    """An event loop in which it is as late as it is told, and that waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.alarms: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        """Return what it was told."""
        return self.now_s

    def call_later(self, delay: float, callback: Any, *arguments: Any, **_: Any) -> Any:
        """Set an alarm."""
        return self.call_at(self.now_s + delay, callback, *arguments)

    def call_at(self, when: float, callback: Any, *arguments: Any, **_: Any) -> Any:
        """Set an alarm."""
        self.alarms.append((when, partial(callback, *arguments)))
        return self.alarms[-1]

    def at(self, now_s: float) -> None:
        """Let time pass."""
        self.now_s = now_s
        due = [alarm for when, alarm in self.alarms if when <= now_s]
        self.alarms = [(when, alarm) for when, alarm in self.alarms if when > now_s]
        for alarm in due:
            alarm()


def test_each_write_has_its_time_and_all_share_a_timer() -> None:
    with closing(Clock()) as loop:
        patience = Patience(10.0)
        first, second, third = (loop.create_future() for _ in range(3))
        patience.watch(first)
        loop.at(4)
        patience.watch(second)
        assert len(loop.alarms) == 1
        loop.at(10)
        assert isinstance(first.exception(), TimeoutError) and not second.done()
        second.set_result(True)
        loop.at(14)
        assert not loop.alarms and second.result()
        patience.watch(third)
        loop.at(23)
        assert not third.done()
        loop.at(24)
        assert isinstance(third.exception(), TimeoutError)
        assert not loop.alarms


def test_what_is_done_is_let_go_of_while_others_wait() -> None:
    with closing(Clock()) as loop:
        patience = Patience(10.0)
        for _ in range(1000):
            future = loop.create_future()
            patience.watch(future)
            future.set_result(True)
        assert len(patience._waiting) == 1 and len(loop.alarms) == 1
