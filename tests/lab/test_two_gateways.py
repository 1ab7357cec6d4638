"""Two gateways that have the same stores are one: what one has acknowledged, the other reads."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.lab.store_check import complaints
from tests.probe.load import HttpConnection, Load, target_of
from tests.servers import Gateway, Server, gateway, node, running

KINDS = ("embedded", "folder", "copies")
AT_ONCE = 8
TURNS = 6

EMBEDDED = "[embedded]\nfolder = 'store'\n"
FOLDER = """
[cluster]
kind = "replicated"
[replicated]
stores = ["file:plain"]
copies = 1
owed_folder = "owed-{number}"
"""
COPIES = """
[cluster]
kind = "replicated"
[replicated]
stores = {stores}
copies = 3
write_quorum = 2
read_quorum = 2
cooling_s = 0.2
owed_folder = "owed-{number}"
"""


@dataclass
class Pair:
    """Two gateways of two workers each, and the nodes that they share, if any."""

    kind: str
    gateways: list[Gateway]
    nodes: list[Server]

    @property
    def ports(self) -> list[int]:
        """Where the gateways are reached."""
        return [each.port for each in self.gateways]


@pytest.fixture(params=KINDS, scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two gateways over the same stores, which are found to be whole at the end."""
    kind, folder = str(request.param), tmp_path_factory.mktemp("pair")
    nodes = [node(folder) for _ in range(3)] if kind == "copies" else []
    text = {"embedded": EMBEDDED, "folder": FOLDER, "copies": COPIES}[kind]
    stores = [each.address for each in nodes]
    gateways = [
        gateway(folder, "--workers", "2", settings=text.format(stores=stores, number=number))
        for number in range(2)
    ]
    with ExitStack() as stack:
        for server in (*nodes, *gateways):
            stack.enter_context(running(server))
        yield Pair(kind, gateways, nodes)
    if kind == "embedded":
        assert not complaints(folder / "store")


async def test_they_are_one(pair: Pair, lab_seed: int) -> None:
    """Each write is read at once through the other, also while one of them is killed."""
    load = Load(pair.ports[0], lab_seed, also=pair.ports[1:])
    await load.start()
    try:
        await load.more(600)
        assert not load.wrong, load.wrong
        load.gateway_dies = True
        for server in pair.gateways:
            server.kill()
            await load.more(100)
            server.start()
            await load.more(100)
        for server in pair.nodes[:1]:
            server.kill()
            await load.more(300)
            server.start()
            await load.more(100)
        await load.stop()
        load.gateway_dies = False
        await load.check_all()
        assert not load.wrong, load.wrong
    except Exception as error:
        error.add_note(load.report())
        for server in pair.gateways:
            error.add_note(server.output()[-2000:])
        raise
    finally:
        await load.close()


async def test_one_of_many_creates(pair: Pair) -> None:
    for turn in range(TURNS):
        creations = [create(pair, f"created/{turn}", number) for number in range(AT_ONCE)]
        winners = [number for number in await asyncio.gather(*creations) if number is not None]
        found = pair.gateways[turn % 2].get(f"created/{turn}")
        assert int(found.body) in winners
        # Over copies a condition is looked at before, and not in one step with the write.
        assert pair.kind != "embedded" or len(winners) == 1


async def create(pair: Pair, path: str, number: int) -> int | None:
    """Put a file if there is none; return the ``number``, None if there was one."""
    status, _ = await put(pair.ports[number % 2], path, b"%d" % number, "If-None-Match: *")
    assert status in (200, 412)
    return number if status == 200 else None


async def put(port: int, path: str, body: bytes, condition: str) -> tuple[int, str]:
    """Put a file under a condition; return status and entity tag."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"PUT {target_of(path)} HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}{condition}\r\nConnection: close\r\n\r\n".encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    tags = [line[6:] for line in answer.split("\r\n") if line.lower().startswith("etag: ")]
    return int(answer.split(" ")[1]), tags[0] if tags else ""


async def test_nobody_replaces_what_he_has_not_seen(pair: Pair) -> None:
    if pair.kind != "embedded":
        return  # see above
    await put(pair.ports[0], "counter", b"0", "If-None-Match: *")
    await asyncio.gather(*(count(pair, number) for number in range(AT_ONCE)))
    assert int(pair.gateways[0].get("counter").body) == AT_ONCE * TURNS


async def count(pair: Pair, number: int) -> None:
    """Add one to the counter ``TURNS`` times."""
    choose, done = random.Random(number), 0
    while done < TURNS:
        found = pair.gateways[choose.randrange(2)].get("counter")
        condition = f"If-Match: {found.headers['etag']}"
        body = b"%d" % (int(found.body) + 1)
        done += (await put(choose.choice(pair.ports), "counter", body, condition))[0] == 200


async def test_what_one_has_in_memory_the_other_may_change(pair: Pair) -> None:
    """A file that is asked for again and again is answered from memory."""
    connections = [HttpConnection(port) for port in pair.ports]
    for turn in range(20):
        writer, reader = connections[turn % 2], connections[1 - turn % 2]
        assert (await writer.ask("PUT", target_of("hot"), b"%d" % turn)).status == 200
        for _ in range(5):
            assert (await reader.ask("GET", target_of("hot"))).body == b"%d" % turn
    assert (await connections[0].ask("DELETE", target_of("hot"))).status == 204
    assert (await connections[1].ask("GET", target_of("hot"))).status == 404
    for connection in connections:
        await connection.close()
