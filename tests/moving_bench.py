"""Members, each with a store of its own that the others reach through a node; and a process that
moves what one of them has: ``python -m tests.moving_bench`` with the arguments as JSON.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from sfss.agreement import CopiesSettings
from sfss.config import MemcachedSettings
from sfss.copies import Copies
from sfss.moving import Move, MoveProgress, MoveSettings, OwnStore
from sfss.owed import Owed
from sfss.placement import KetamaRing, Places
from sfss.stores.base import NewestStore
from sfss.stores.lmdb_copies import LmdbCopies
from sfss.stores.memcached import MemcachedStore
from tests.copies_bench import TestClock
from tests.servers import Server, node, node_folder, running
from tests.stores.dict_store import DictStore

COPIES = 2
FAST = MoveSettings(moves_per_s=0, retry_s=0.05)


@dataclass(frozen=True)
class View:
    """The stores that a gateway knows of: those of now, those before, whether it writes to both."""

    now: Sequence[str]
    former: Sequence[str] = ()
    both: bool = False

    def places(self) -> Places:
        """Return where keys belong."""
        now, both = KetamaRing(self.now, COPIES), self.both
        if not self.former:
            return Places(now.primaries)
        former = KetamaRing(self.former, COPIES)
        return Places(now.primaries, former.primaries, writes_both=lambda: both)


def settings(**others: float) -> CopiesSettings:
    """Return how gateways of members read and write."""
    return CopiesSettings(shares_debts=False, cooling_s=0.05, **others)  # type: ignore[arg-type]


class Members:
    """``count`` members with running nodes; all gateways are in this process."""

    def __init__(self, stack: ExitStack, folder: Path, count: int) -> None:
        self.nodes: list[Server] = [
            stack.enter_context(running(node(folder))) for _ in range(count)
        ]
        self.addresses = [each.address for each in self.nodes]
        self.own = {each.address: own_store(node_folder(each), each.address) for each in self.nodes}
        patience = MemcachedSettings(timeout_s=5.0)
        self.remote = {each: MemcachedStore(each, patience) for each in self.addresses}
        self.clock = TestClock()
        self.lists = [DictStore("list") for _ in self.nodes]
        self.gateways: list[Copies] = []

    def gateway(self, number: int, view: View) -> Copies:
        """Return the gateway of a member, with this view."""
        own = self.addresses[number]
        stores: dict[str, NewestStore] = {**self.remote, own: self.own[own]}
        owed = Owed(self.lists[number], limit=10_000)
        copies = Copies(stores, view.places(), owed, self.clock, settings())
        self.gateways.append(copies)
        return copies

    def move(self, copies: Copies, number: int, given: MoveSettings = FAST) -> "Mover":
        """Return what moves the files of a member."""
        return Mover(copies, self.own[self.addresses[number]], given)

    async def finish(self) -> None:
        """Have all gateways end what they have begun."""
        for copies in self.gateways:
            await copies.finish()

    async def holders(self, key: bytes) -> set[str]:
        """Return which members have ``key``."""
        return {each for each, store in self.own.items() if await store.head(key) is not None}

    async def close(self) -> None:
        """Close all stores."""
        for copies in self.gateways:
            copies.healing.stop()
        await self.finish()
        for store in [*self.own.values(), *self.remote.values()]:
            await store.close()


def own_store(folder: Path, address: str) -> LmdbCopies:
    """Return the store of a member, in its own process."""
    return LmdbCopies(f"lmdb:{folder}", 30.0, address)


class Mover:
    """A move, and what it has reported."""

    def __init__(self, copies: Copies, store: OwnStore, given: MoveSettings = FAST) -> None:
        self.reports: list[MoveProgress] = []
        self._seen = asyncio.Event()
        self.move = Move(copies, store, given, self._take)

    def _take(self, progress: MoveProgress) -> None:
        self.reports.append(progress)
        self._seen.set()

    async def until(self, holds: Callable[[MoveProgress], bool]) -> None:
        """Run until a report says so; then stop."""
        run = asyncio.create_task(self.move.run(lambda: True))
        async with asyncio.timeout(30):
            while not (self.reports and holds(self.reports[-1])):
                self._seen.clear()
                await self._seen.wait()
        self.move.stop()
        await run

    async def done(self) -> MoveProgress:
        """Run until all is done."""
        await self.until(lambda progress: progress.done)
        return self.move.progress


def process(folder: Path, member: Server, view: View, given: MoveSettings) -> Server:
    """Return a process (not started) that moves what ``member`` has, and prints its progress."""
    told = {
        "folder": str(node_folder(member)),
        "address": member.address,
        "now": list(view.now),
        "former": list(view.former),
        "both": view.both,
        "settings": asdict(given),
    }
    command = [sys.executable, "-m", "tests.moving_bench", json.dumps(told)]
    return Server(command, member.port, folder, member.environ)


async def main(text: str) -> None:
    """Move until killed."""
    told = json.loads(text)
    view = View(told["now"], told["former"], told["both"])
    own = own_store(Path(told["folder"]), told["address"])
    others = {*view.now, *view.former} - {own.address}
    stores: dict[str, NewestStore] = {
        each: MemcachedStore(each, MemcachedSettings()) for each in others
    }
    stores[own.address] = own
    owed = Owed(DictStore("list"), limit=10_000)
    copies = Copies(stores, view.places(), owed, TestClock(), settings())

    def show(progress: MoveProgress) -> None:
        print(json.dumps(asdict(progress)), flush=True)

    await Move(copies, own, MoveSettings(**told["settings"]), show).run(lambda: True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
