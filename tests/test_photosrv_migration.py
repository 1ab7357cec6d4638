"""10,000 files of shards of nginx nodes moved to other shards, while clients read and write."""

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from sfss.placement import JumpShards, Shard
from tests.probe.load import HttpConnection
from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    Server,
    free_port,
    nginx_node,
    nginx_root,
    running,
)

FILES = 4_000
CLIENTS = 4
TOKEN = "the token of the tests"
YEAR_AGO_S = time.time() - 365 * 86_400


class Move:
    """Old nodes and new ones, each with a folder for every shard; a gateway over them."""

    def __init__(self, folder: Path, nodes: Sequence[Server], old: int = 3, new: int = 4) -> None:
        self.folder, self.nodes = folder, nodes
        self.old = self._shards("s", nodes[:2], old)
        self.new = self._shards("n", nodes[2:], new)
        self.port = free_port()
        self.config = folder / "sfss.toml"
        self.config.write_text(self.text(self.old, self.new))

    def _shards(self, letter: str, nodes: Sequence[Server], count: int) -> list[Shard]:
        names = [f"{letter}{number}" for number in range(1, count + 1)]
        for node in nodes:
            for name in names:
                (nginx_root(node) / name).mkdir()
        return [
            Shard(name, tuple(f"http://{node.address}/{name}/" for node in nodes)) for name in names
        ]

    def text(self, shards: Sequence[Shard], new: Sequence[Shard] = ()) -> str:
        """Return the settings of a gateway over ``shards``, which are to be left for ``new``."""

        def listed(shards: Sequence[Shard]) -> str:
            return json.dumps([" ".join((each.name, *each.stores)) for each in shards])

        return (
            f"[[listen]]\naddress = '127.0.0.1:{self.port}'\nfaces = ['paths', 'debug', 'admin']\n"
            f"[server]\nworkers = 2\nadmin_token = '{TOKEN}'\n"
            "[cluster]\nkind = 'replicated'\nmax_file_size = 1048576\n"
            "[replicated]\nplacement = 'jump'\nwrite_quorum = 1\nread_mode = 'random'\n"
            f"shards = {listed(shards)}\n[migration]\nshards = {listed(new)}\n"
        )

    def gateway(self) -> Gateway:
        """Return the gateway (not started)."""
        command = [*SFSS, "serve", "--config", str(self.config)]
        return Gateway(command, self.port, self.folder, PYTHON_ENVIRON)

    def files(self, path: str, shards: Sequence[Shard] | None = None) -> list[Path]:
        """Return where the nodes of ``shards``, or the old ones, have ``path``."""
        name = JumpShards(shards or self.old).shard(path.encode()).name
        nodes = self.nodes[:2] if name.startswith("s") else self.nodes[2:]
        return [nginx_root(node) / name / path for node in nodes]

    def fill(self, paths: Sequence[str]) -> None:
        """Write files into the folders of the old nodes, as other programs have long done."""
        for node, shards in ((self.nodes[0], self.old), (self.nodes[1], self.old)):
            for shard in shards:
                for number in range(100):
                    (nginx_root(node) / shard.name / f"{number:02}").mkdir(
                        parents=True, exist_ok=True
                    )
        for path in paths:
            for file in self.files(path):
                file.write_bytes(body_of(path, 0))
                os.utime(file, (YEAR_AGO_S, YEAR_AGO_S))

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``sfss migrate``."""
        return subprocess.Popen(
            [*SFSS, "migrate", *arguments, "--config", str(self.config)],
            env={**os.environ, **PYTHON_ENVIRON},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def migrate(self, *arguments: str) -> tuple[int, str]:
        """Run ``sfss migrate`` to its end; return the exit status and what it has said."""
        process = self.begin(*arguments)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def state(self) -> str:
        """Return the state as a tool sees it."""
        return str(json.loads(self.migrate("status", "--json")[1])["state"])

    def copied(self) -> int:
        """Return about how many files the new nodes have."""
        root = nginx_root(self.nodes[2])
        return sum(1 for shard in self.new for _ in (root / shard.name).glob("*/*"))


def body_of(path: str, turn: int) -> bytes:
    """Return what is at ``path`` after ``turn`` changes."""
    return f"{path} {turn} ".encode().ljust(200, b".")


def path_of(number: int) -> str:
    """Return the path of a file."""
    return f"{number % 100:02}/ü {number}.jpg"


@dataclass
class Known:
    """What may be read at a path: changes are numbered; the latest that was ``done``, the latest
    that was ``begun``, and which of them were deletions.
    """

    done: int = 0
    begun: int = 0
    deletions: set[int] = field(default_factory=set)


class Load:
    """Clients of a gateway; each changes files of its own, and reads any."""

    def __init__(self, port: int, paths: Sequence[str]) -> None:
        self._port, self.paths = port, paths
        self.known = {path: Known() for path in paths}
        self.wrong: list[str] = []
        self.requests = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the clients."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(CLIENTS)]

    async def stop(self) -> None:
        """Have every client finish its request and end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def more(self, count: int) -> None:
        """Wait until ``count`` more requests have been answered."""
        await self.until(lambda end=self.requests + count: self.requests >= end, "more requests")

    async def until(self, holds, what: str) -> None:  # type: ignore[no-untyped-def]
        """Go on until ``holds()``, or something is wrong."""
        end = time.monotonic() + 2 * DEADLINE_S
        while not (holds() or self.wrong):
            assert time.monotonic() < end, what
            await asyncio.sleep(0.02)
        assert not self.wrong, self.wrong[:5]

    async def _run(self, number: int) -> None:
        connections = [HttpConnection(self._port) for _ in range(2)]
        dice = random.Random(number)
        while not (self._stopping or self.wrong):
            connection = dice.choice(connections)
            if dice.random() < 0.15:
                await self._change(connection, dice.choice(self.paths[number::CLIENTS]), dice)
            else:
                await self.read(connection, dice.choice(self.paths))
            self.requests += 1
        for connection in connections:
            await connection.close()

    async def _change(self, connection: HttpConnection, path: str, dice: random.Random) -> None:
        known = self.known[path]
        known.begun += 1
        if dice.random() < 0.25:
            known.deletions.add(known.begun)
            expected = (204, 404)
            reply = await connection.ask("DELETE", f"/{quote(path)}")
        else:
            expected = (201,)
            reply = await connection.ask("PUT", f"/{quote(path)}", body_of(path, known.begun))
        if reply.status not in expected:
            self.wrong.append(f"{path}: change {known.begun}: {reply}")
        known.done = known.begun

    async def read(self, connection: HttpConnection, path: str) -> None:
        """Read a file, and hold the answer against what is known."""
        known = self.known[path]
        least = known.done
        reply = await connection.ask("GET", f"/{quote(path)}")
        turns = range(least, known.begun + 1)
        bodies = {body_of(path, turn) for turn in turns if turn not in known.deletions}
        if reply.status == 404 and known.deletions.intersection(turns):
            return
        if reply.status != 200 or reply.body not in bodies:
            self.wrong.append(f"{path}: {reply}, of {least} to {known.begun} {known.deletions}")

    async def read_all(self) -> None:
        """Read every file."""
        for start in range(CLIENTS):
            connection = HttpConnection(self._port)
            for path in self.paths[start::CLIENTS]:
                await self.read(connection, path)
            await connection.close()
        assert not self.wrong, self.wrong[:5]


@pytest.fixture(name="move")
def nodes_to_move(tmp_path: Path) -> Iterator[Move]:
    """Nodes, two old and two new."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(nginx_node(tmp_path))) for _ in range(4)]
        yield Move(tmp_path, nodes)


async def test_files_are_moved_while_clients_read_and_write(move: Move) -> None:
    paths = [path_of(number) for number in range(FILES)]
    move.fill(paths)
    with ExitStack() as stack:
        server = stack.enter_context(running(move.gateway()))
        load = Load(move.port, paths)
        load.start()
        await load.more(200)
        await aborted_half_way(move, load)
        await killed_half_way_and_gone_on_with(move, load)
        await load.more(200)
        await load.stop()
        server.kill()
        server.start()
        assert server.request("GET", "/debug/vars").json()["MigrationState"] == "both"
        load.start()
        assert await done(move, "finish") == 0
        await load.more(200)
        await load.stop()
        for node in move.nodes[:2]:
            node.kill()
        await load.read_all()
        assert_moved(move, load)
        await as_if_it_had_always_been_so(move, load, server)


async def aborted_half_way(move: Move, load: Load) -> None:
    """Begin, and abort when some files have been copied and some have been changed."""
    run = move.begin("start")
    await load.until(lambda: move.copied() > FILES // 5, "some are copied")
    assert move.state() == "both"
    assert await done(move, "abort") == 0
    # The run has noticed by itself that it is not wanted any more.
    said = (await asyncio.to_thread(run.communicate))[0]
    assert run.returncode == 1, said
    assert "the state was changed" in said
    assert move.state() == "old"
    assert move.copied() > FILES // 5
    await load.more(200)


async def killed_half_way_and_gone_on_with(move: Move, load: Load) -> None:
    """Begin again, kill the run, find that it cannot be finished, and go on."""
    before = move.copied()
    run = move.begin("start")
    await load.until(lambda: move.copied() > (before + FILES) // 2, "half is copied")
    run.kill()
    await asyncio.to_thread(run.communicate)
    assert move.state() == "both"
    assert await done(move, "finish") == 1
    assert await done(move, "start") == 0
    assert move.copied() >= FILES - len(load.paths) // 2


async def done(move: Move, *arguments: str) -> int:
    """Run ``sfss migrate`` beside the clients, and return its exit status."""
    status, said = await asyncio.to_thread(move.migrate, *arguments)
    print(said)
    return status


def assert_moved(move: Move, load: Load) -> None:
    """Assert that the new nodes have all files, as they were changed last."""
    for path, known in load.known.items():
        for file in move.files(path, move.new):
            if known.done in known.deletions:
                assert not file.exists()
            else:
                assert file.read_bytes() == body_of(path, known.done)


async def as_if_it_had_always_been_so(move: Move, load: Load, server: Gateway) -> None:
    """Take the old stores out of the settings, and go on."""
    server.stop()
    move.config.write_text(move.text(move.old))
    status, said = move.migrate("status")
    assert status == 2, said
    with pytest.raises(pytest.fail.Exception, match="all files are in its new places"):
        server.start()
    move.config.write_text(move.text(move.new))
    server.start()
    await load.read_all()
    load.start()
    await load.more(200)
    await load.stop()


def listed(server: Gateway, folder: str = "/") -> list[str]:
    """Return the names in a folder."""
    answer = server.request("GET", folder, None, {"Accept": "application/json"})
    assert answer.status == 200, answer
    return sorted(each["name"] for each in answer.json())


def indexed(server: Gateway) -> list[str]:
    """Return the paths of all files, from pages of three."""
    found: list[str] = []
    target = "/__index__/?limit=3"
    while True:
        page = server.request("GET", target, None, {"Accept": "application/json"}).json()
        found += [each["path"] for each in page["files"]]
        if page["next"] is None:
            return found
        target = f"/__index__/?limit=3&after={quote(page['next'])}"


def step(server: Gateway, query: str) -> None:
    """Take a step by an admin's request."""
    own = {"Authorization": f"Bearer {TOKEN}"}
    answer = server.request("POST", f"/admin/migration?step={query}", None, own)
    assert answer.status == 200, answer


def test_what_is_deleted_in_the_meantime_is_not_listed(move: Move) -> None:
    names = [f"{number:02}.jpg" for number in range(20)]
    for name in names:
        for file in move.files(name):
            file.write_bytes(b"old")
    with running(move.gateway()) as server:
        assert listed(server) == indexed(server) == names
        step(server, "start")
        gone, left = names[:10], names[10:]
        for name in gone:
            assert server.request("DELETE", f"/{name}").status == 204
        assert listed(server) == indexed(server) == left
        assert server.request("PUT", "/new.jpg", b"new").status == 201
        assert listed(server) == indexed(server) == [*left, "new.jpg"]
        step(server, "abort")
        assert listed(server) == indexed(server) == [*left, "new.jpg"]
        assert move.migrate("abort")[0] == 0
        assert listed(server) == indexed(server) == [*left, "new.jpg"]
        assert server.request("DELETE", "/new.jpg").status == 204
        assert listed(server) == indexed(server) == left
        assert move.migrate("start")[0] == 0
        assert listed(server) == indexed(server) == left
        step(server, "finish")
        for node in move.nodes[:2]:
            node.kill()
        assert listed(server) == indexed(server) == left
        assert {server.request("GET", f"/{name}").status for name in left} == {200}


@pytest.mark.parametrize("which", range(4))
def test_one_node_may_be_down_all_the_time(move: Move, which: int) -> None:
    names = [f"{number:02}.jpg" for number in range(20)]
    for name in names:
        for file in move.files(name):
            file.write_bytes(b"old")
    with running(move.gateway()) as server:
        step(server, "start")
        move.nodes[which].kill()
        for name in names[:5]:
            assert server.request("PUT", f"/{name}", b"new").status == 201
        for name in names[5:8]:
            assert server.request("DELETE", f"/{name}").status == 204
        for state in ("both", "back"):
            for _ in range(2):
                for number, name in enumerate(names):
                    answer = server.request("GET", f"/{name}")
                    if number in range(5, 8):
                        assert answer.status in (404, 504)  # a tombstone may be on either side
                    else:
                        assert answer.status == 200, (state, name, answer)
                        assert answer.body == (b"new" if number < 5 else b"old")
            if state == "both":
                step(server, "abort")
        move.nodes[which].start()
        status, said = move.migrate("abort")
        assert status == 0, said
        for number, name in enumerate(names):
            answer = server.request("GET", f"/{name}")
            assert answer.status == (404 if number in range(5, 8) else 200)
