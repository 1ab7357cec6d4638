"""Three stores and a gateway under load, and what is done to them one after the other."""

import asyncio
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.probe.expectations import Expected
from tests.probe.load import HttpConnection, Load, Tally, until
from tests.probe.stores import (
    KINDS,
    STORES,
    Item,
    StoreKind,
    body_in,
    config_of,
    make_gateway,
    summary,
)
from tests.servers import SFSS, Gateway, Server, running

PAID_S: Final = 90.0
"""Seconds until all debts have to be paid; a store that was down is asked after up to 60 s."""

QUIET: Final = frozenset({"quiet", "paying"})
"""Stages in which all stores are up."""

_REQUESTS: Final = (300, 2500)
"""Least and most requests that are answered while a fault lasts."""

_LOADS: Final = 100
_LOG_LINES: Final = 40
_LOOK_S: Final = 1.0


@dataclass
class Probe:
    """One run.

    ``random`` decides what happens; ``events`` tell what has happened, and ``paid_s`` how long it
    took after each fault until nobody was owed anything.
    """

    kind: StoreKind
    folder: Path
    servers: list[Server]
    gateway: Gateway
    load: Load
    random: random.Random
    events: list[str] = field(default_factory=list)
    paid_s: list[float] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Have one fault after the other happen, for about ``seconds``; each once in a turn."""
        end = time.monotonic() + seconds
        names: list[str] = []
        while time.monotonic() < end:
            names = names or self.random.sample(list(self.kind.faults), len(self.kind.faults))
            await self.disturb(names.pop(), self.random.choice(self.servers))

    async def disturb(self, name: str, server: Server) -> None:
        """Have one fault happen to ``server``, and all be well again afterwards."""
        async with self.fault(name, server):
            await self.load.more(self.random.randint(*_REQUESTS))
            self.check()
        await self.paid()
        if self.kind.faults[name].loses:
            await self.repair(server)
            await self.paid()
        self.load.stage = "quiet"
        await self.load.more(100)
        self.check()

    def check(self) -> None:
        """Fail if any answer was wrong, before what the stores have changes."""
        if self.load.wrong:
            pytest.fail(self.failed("wrong answers"))

    @asynccontextmanager
    async def fault(self, name: str, server: Server) -> AsyncIterator[None]:
        """Have ``server`` suffer a fault for the block."""
        fault = self.kind.faults[name]
        self._say(f"{name}: {server.address}")
        self.load.stage = name
        await asyncio.to_thread(fault.begin, server)
        try:
            yield
        finally:
            await asyncio.to_thread(fault.end, server)
            self._say(f"{name}: {server.address} is well again")
            self.load.stage = "paying"

    async def kill_gateway(self) -> None:
        """Kill the gateway under load, and start it anew."""
        await asyncio.to_thread(self.gateway.kill)
        self._say("the gateway was killed")
        await asyncio.to_thread(self.gateway.start)
        self._say("the gateway was started")

    def _say(self, sentence: str) -> None:
        self.events.append(f"{time.strftime('%H:%M:%S')} {sentence}")

    async def owed(self) -> int:
        """Return how many writes the gateway says that stores are owed."""
        connection = HttpConnection(self.gateway.port)
        try:
            reply = await connection.ask("GET", "/status?detail=full")
        finally:
            await connection.close()
        assert reply.status == 200, reply
        return int(json.loads(reply.body)["webserver"]["owed"])

    async def owing(self) -> int:
        """Go on until a store is owed something; return how many writes it is."""
        for _ in range(_LOADS):
            await self.load.more(150)
            if count := await self.owed():
                return count
        pytest.fail(self.failed("nobody is owed anything"))

    async def paid(self) -> None:
        """Wait until nobody is owed anything."""
        began_s = time.monotonic()
        while count := await self.owed():
            if time.monotonic() - began_s > PAID_S:
                pytest.fail(self.failed(f"{count} writes are owed after {PAID_S} s"))
            await asyncio.sleep(0.1)
        self.paid_s.append(time.monotonic() - began_s)
        self._say("all debts are paid")

    async def repair(self, server: Server) -> None:
        """Give ``server``, which is empty, what it should have; the clients go on."""
        await asyncio.to_thread(self.tool, "repair")
        self._say(f"repaired: {server.address}")

    def tool(self, name: str) -> None:
        """Run a repair tool on the stores of the gateway; assert that it finds nothing left."""
        command = [*SFSS, name, "--config", str(config_of(self.folder, self.gateway.port))]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.gateway.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = (done.stdout + done.stderr)[-2000:]
        assert done.returncode == 0, self.failed(f"sfss {name}: {done.returncode}: {said}")

    @property
    def keys(self) -> dict[bytes, str]:
        """Return the keys of all paths, with the paths."""
        return {self.kind.key(path): path for path in self.load.expected}

    async def finish(self) -> None:
        """End the clients, and assert that everything is as it has to be."""
        await self.load.stop()
        self.load.stage = "paying"
        await self.paid()
        await self.load.make_sure()
        await self.paid()
        self.load.stage = "at the end"
        await self.load.check_all()
        self.check()
        await self._compare()
        await asyncio.to_thread(self.tool, "check")
        logs = [server.output() for server in (self.gateway, *self.servers)]
        assert not any("Traceback" in log for log in logs), self.failed("a traceback in a log")

    async def _compare(self) -> None:
        """Wait until all stores have the same, and what was acknowledged."""
        found: list[str] = []

        def same() -> bool:
            found[:] = self._differences()
            return not found

        try:
            await until(same, "all copies are equal")
        except AssertionError:
            raise AssertionError(self.failed("copies differ", found)) from None

    def _differences(self) -> list[str]:
        paths, expected = self.keys, self.load.expected
        stores = {server.address: self.kind.contents(server, paths) for server in self.servers}
        found: list[str] = []
        for key, path in paths.items():
            items = {address: each[key] for address, each in stores.items()}
            if len(set(items.values())) > 1:
                found.append(f"{path}: " + ", ".join(map(summary, items, items.values())))
            elif not _is_right(items, key, expected[path]):
                found.append(f"{path}: all copies are wrong alike")
        return found

    def failed(self, what: str, details: list[str] | None = None) -> str:
        """Return all that helps to find out why."""
        log = self.gateway.output().splitlines()[-_LOG_LINES:]
        parts = {
            f"seed {self.load.seed}": [what],
            "wrong": self.load.wrong[:20],
            "stores": [self._look(path) for path in sorted(self.load.wrong_paths)[:5]],
            "details": (details or [])[:20],
            "events": self.events,
            f"end of {self.gateway.log}": log,
        }
        return "\n".join(
            f"{title}:\n  " + "\n  ".join(lines) for title, lines in parts.items() if lines
        )

    def _look(self, path: str) -> str:
        """Return what every store that answers has at ``path`` now."""
        key, found = self.kind.key(path), []
        for server in self.servers:
            try:
                item = self.kind.contents(server, [key], _LOOK_S)[key]
                found.append(summary(server.address, item))
            except OSError as error:
                found.append(f"{server.address}: {error!r}")
        return f"{path}: {', '.join(found)}"

    @property
    def disturbed(self) -> Tally:
        """Return what became of the requests that began while something was wrong with a store."""
        total = Tally()
        for stage, tally in self.load.tallies.items():
            if stage not in QUIET:
                total.requests += tally.requests
                total.failures += tally.failures
                total.latencies_s += tally.latencies_s
        return total


def _is_right(items: dict[str, Item | None], key: bytes, expected: Expected) -> bool:
    """Tell whether what all stores have, and is the same, is what has to be there."""
    address, item = next(iter(items.items()))
    return body_in(item, address, key) == expected.body


@asynccontextmanager
async def probing(kind: str, folder: Path, seed: int, clients: int = 12) -> AsyncIterator[Probe]:
    """Run three stores of ``kind`` and a gateway for the block; the load is still to be started."""
    with ExitStack() as stack:
        made = [KINDS[kind].make(folder) for _ in range(STORES)]
        servers = [stack.enter_context(running(server)) for server in made]
        gateway = make_gateway(folder, servers, kind=KINDS[kind])
        stack.enter_context(running(gateway))
        load = Load(gateway.port, seed, clients)
        try:
            yield Probe(KINDS[kind], folder, servers, gateway, load, random.Random(seed))
        finally:
            await load.close()
