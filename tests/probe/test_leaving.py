"""Clients that go away at any moment: in the middle of a request, before the answer, within it.

The next request is right, others are not disturbed, and the gateway keeps nothing of them.
"""

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.probe.expectations import Expected
from tests.probe.load import CONNECTIONS, HttpConnection, body_for, message, target_of, until
from tests.probe.probe import Probe, probing
from tests.servers import DEADLINE_S, Gateway, Server

STAYING = 4
LEAVERS = 8
REQUESTS_EACH = 60
PATHS_EACH = 4
LARGEST_BODY = 200_000
GROWTH_BYTES = 48 * 1024 * 1024
STORE_CONNECTIONS = 16
"""Most connections of a worker to one store."""

_RESET = struct.pack("ii", 1, 0)
_ESTABLISHED, _LISTENING = "01", "0A"


class Leaver:
    """Sends part of a request, or all of it and reads part of the answer, and is gone."""

    def __init__(self, probe: Probe, name: str) -> None:
        self._port = probe.gateway.port
        self._random = random.Random(f"{probe.load.seed} {name}")
        self.expected = {f"{name}/{number}": Expected() for number in range(PATHS_EACH)}

    async def run(self) -> None:
        """Leave many times."""
        for turn in range(REQUESTS_EACH):
            await self._leave(turn)

    async def _leave(self, turn: int) -> None:
        choose = self._random
        path = choose.choice(list(self.expected))
        method = choose.choice(["PUT", "PUT", "GET", "DELETE"])
        body = body_for(path, turn, choose.randrange(LARGEST_BODY)) if method == "PUT" else None
        request = message(method, target_of(path), body)
        cut = choose.choice([len(request), choose.randrange(len(request))])
        if cut == len(request) and method != "GET":
            self.expected[path].unsure(body)
        await self._send(request[:cut], choose.choice([0, 0, 1, 100, 1000]) * (cut == len(request)))

    async def _send(self, part: bytes, answer_bytes: int) -> None:
        """Send ``part``, read up to ``answer_bytes`` of the answer, and close or reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        with suppress(ConnectionError):
            writer.write(part)
            await writer.drain()
            if answer_bytes:
                await reader.read(answer_bytes)
        if self._random.random() < 0.5:
            own: socket.socket = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def make_sure(self) -> None:
        """Read all paths, change them, and read them again."""
        connection = HttpConnection(self._port)
        for path, expected in self.expected.items():
            found = await connection.ask("GET", target_of(path))
            complaint = expected.complaint(found.body if found.status == 200 else None)
            assert complaint is None, f"{path}: {found.status}: {complaint}"
            assert found.status in (200, 404)
            body = body_for(path, REQUESTS_EACH, 1000)
            assert (await connection.ask("PUT", target_of(path), body)).status == 200
            expected.acknowledged(body)
            assert (await connection.ask("GET", target_of(path))).body == body
        await connection.close()


@pytest.mark.parametrize("stores", ["all up", "one paused"])
async def test_clients_that_go_away_at_any_moment(
    tmp_path: Path, probe_seed: int, stores: str
) -> None:
    async with probing("nodes", tmp_path, probe_seed, clients=STAYING) as probe:
        await probe.load.start()
        await probe.load.more(1000)
        before, memory_bytes = descriptors(probe), memory_of(probe.gateway)
        leavers = [Leaver(probe, f"leaver{number}") for number in range(LEAVERS)]
        if stores == "one paused":
            async with probe.fault("paused", probe.random.choice(probe.servers)):
                await leave(probe, leavers)
        else:
            await leave(probe, leavers)
        await probe.paid()
        for leaver in leavers:
            await leaver.make_sure()
            probe.load.others |= leaver.expected
        await probe.finish()
        await until(lambda: not descriptors(probe)["clients"], "all connections are closed")
        # A file that is just being read, or a connection made between two looks, is there for once.
        await until(lambda: descriptors(probe)["others"] <= before["others"], "nothing else stays")
        to_stores = STORE_CONNECTIONS * len(probe.servers) * workers(probe.gateway)
        assert descriptors(probe)["stores"] <= to_stores
        growth_bytes = memory_of(probe.gateway) - memory_bytes
        assert growth_bytes < GROWTH_BYTES, f"{growth_bytes} bytes more than before"


async def leave(probe: Probe, leavers: list[Leaver]) -> None:
    """Have everybody leave; return when the gateway has noticed it."""
    async with asyncio.timeout(4 * DEADLINE_S):
        await asyncio.gather(*(leaver.run() for leaver in leavers))
    staying = CONNECTIONS * STAYING
    await until(lambda: descriptors(probe)["clients"] <= staying, "those who left are forgotten")


def workers(gateway: Gateway) -> int:
    """Return how many processes serve."""
    return len(gateway.workers())


def memory_of(gateway: Gateway) -> int:
    """Return the resident memory of all workers in bytes."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in gateway.workers()]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) * 1024 for text in statuses)


def descriptors(probe: Probe) -> Counter[str]:
    """Count what the workers have open: connections of ``clients``, to ``stores``; ``others``."""
    sockets = dict(_sockets(probe.gateway, probe.servers))
    found: Counter[str] = Counter()
    for pid in probe.gateway.workers():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found[sockets.get(str(link.readlink()), "others")] += 1
    return found


def _sockets(gateway: Gateway, servers: list[Server]) -> Iterator[tuple[str, str]]:
    """Yield what connections are for, by the names that links to them have (proc(5))."""
    stores = {server.port for server in servers}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, own, other, state, *_, inode = line.split()[:10]
        if int(other.rpartition(":")[2], 16) in stores:
            yield f"socket:[{inode}]", "stores"
        elif int(own.rpartition(":")[2], 16) == gateway.port and state != _LISTENING:
            yield f"socket:[{inode}]", "clients"
