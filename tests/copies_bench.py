"""Stores that can fail, one list of debts, and gateways over them."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sfss.agreement import CopiesSettings
from sfss.copies import Copies
from sfss.owed import Owed
from sfss.paying import Paid
from sfss.placement import Places
from sfss.record import Head, Record, decode, new_record
from sfss.stores.base import Guard
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always, healthy

NAMES: Final = ("a", "b", "c")
KEY: Final = b"k"
DAY: Final = 86_400_000_000


class TestClock:
    """Counts microseconds by itself; a test may set ``now``."""

    __test__ = False

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self.now = now

    def version(self) -> int:
        """Return the next version."""
        self.now += 1000
        return self.now


@dataclass
class Bench:
    """The stores ``a``, ``b`` and ``c``, in this order the primaries of every key, and ``others``.

    A test may change ``names``, the primaries; ``former``, what they were before; and ``absent``,
    those that are not in the roster. The stores that are ``doubted`` have lost what they had.
    """

    settings: CopiesSettings = field(default_factory=CopiesSettings)
    names: Sequence[str] = NAMES
    clock: TestClock = field(default_factory=TestClock)
    others: Sequence[str] = ()
    owed_limit: int = 1000
    doubted: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.stores = {name: self.new_store(name) for name in [*self.names, *self.others]}
        self.former: Sequence[str] = ()
        self.reads_both = False
        self.absent: set[str] = set()
        self.list = FaultyStore(DictStore("list"))
        self.gateway = self.new_gateway()

    def new_store(self, name: str) -> FaultyStore:
        """Return a store, which is empty."""
        return FaultyStore(DictStore(name))

    def new_gateway(self, **settings: Any) -> Copies:
        """Return one more worker, or the gateway after a restart."""
        own = replace(self.settings, **settings)
        return Copies(
            self.stores,
            Places(lambda key: self.names, lambda key: self.former, lambda: self.reads_both),
            self.owed,
            self.clock,
            own,
            is_live=lambda address: address not in self.absent,
        )

    @property
    def owed(self) -> Owed:
        """The debts, as another process sees them."""
        return Owed(self.list, self.owed_limit, self.doubted)

    def record(self, body: bytes) -> Record:
        """Return a new record."""
        return new_record(body, self.clock.version())

    async def put(self, body: bytes, guard: Guard | None = None) -> Head:
        """Put ``body`` under ``KEY``."""
        return (await self.gateway.put(KEY, self.record(body), guard)).head

    async def get(self) -> bytes | None:
        """Get what is under ``KEY``."""
        return body_of(await self.gateway.get(KEY))

    def has(self, key: bytes = KEY) -> dict[str, bytes | None]:
        """Return the bodies that the primaries have; a tombstone's is empty."""
        values = {name: self.stores[name].inner.values.get(key) for name in self.names}
        return {
            name: None if value is None else bytes(decode(value, name, key).body)
            for name, value in values.items()
        }

    def same(self, body: bytes | None) -> dict[str, bytes | None]:
        """Return what ``has`` returns when all have ``body``."""
        return dict.fromkeys(self.names, body)

    def down(self, *names: str, fault: Fault = Fault.REFUSE) -> None:
        """Have stores fail in everything."""
        for name in names:
            self.stores[name].plan = always(fault)

    async def up(self, *names: str) -> None:
        """Have stores be well, and have been well for long enough to be asked again."""
        for name in names or self.stores:
            self.stores[name].plan = healthy
            await self.stores[name].resume()
        await asyncio.sleep(self.settings.cooling_s + 1)

    async def debts(self) -> dict[str, int]:
        """Return the versions of ``KEY`` that stores are owed."""
        owed = await self.owed.owes(KEY, {*self.names, *self.stores})
        return {address: debt.version for address, debt in owed.items()}

    async def pay(self) -> None:
        """Pay until nobody is owed anything any more."""
        for _ in range(10):
            paid = [await self.gateway.paying.pay(name) for name in self.stores]
            if not await self.owed.count():
                return
            await asyncio.sleep(self.settings.cooling_s + 1)
        raise AssertionError(f"debts remain: {paid}")

    def asked(self) -> list[tuple[str, str]]:
        """Return which stores were asked for what, and forget it."""
        found = [(name, each) for name in self.stores for each, _ in self.stores[name].asked]
        for store in self.stores.values():
            store.asked.clear()
        return found


def body_of(record: Record | None) -> bytes | None:
    """Return the body of what was found."""
    return None if record is None else bytes(record.body)


async def cancel_after(steps: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Let ``work`` go ``steps`` turns of the loop and cancel it; return whether it was still
    running.
    """
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled = task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return cancelled


def others_than_this() -> set[asyncio.Task[Any]]:
    """Return the tasks that run besides the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@contextmanager
def lines_of(name: str) -> Iterator[list[str]]:
    """Return the list of what the logger ``name`` says within the block."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda entry: lines.append(entry.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger(name).removeHandler(handler)


NOTHING_PAID: Final = Paid()
