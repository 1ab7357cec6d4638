"""``sfss node`` with a secret: who does not know it gets nothing and can occupy little."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfss import node_newcomers
from sfss.cli import main
from sfss.handshake import REFUSAL, ClientHandshake, new_nonce
from sfss.node_commands import NodeSettings
from sfss.node_process import is_open, read_address
from tests.servers import PYTHON_ENVIRON, Server, gateway, node, running
from tests.test_node import Client, client_of, exchange, set_command, stats_of
from tests.test_node_limits import Run, Served, run, serving, until  # noqa: F401 - a fixture

SECRET = "the-secret-of-the-node"
GUARDED = NodeSettings(secret=SECRET)


def node_with(folder: Path, secret: str = SECRET) -> Server:
    """Return a node (not started) that has ``secret`` in a file."""
    file = folder / "secret"
    file.write_text(f"{secret}\n")
    return node(folder, "--secret-file", str(file))


@pytest.fixture(name="guarded", scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node that wants ``SECRET`` to be known."""
    with running(node_with(tmp_path_factory.mktemp("node"))) as server:
        yield server


def enter(client: Client, secret: str = SECRET) -> None:
    """Do the handshake."""
    handshake = ClientHandshake(secret, new_nonce())
    client.send(handshake.feed(client.ask(handshake.request)))
    assert handshake.feed(client.line()) == b""
    assert handshake.finished


@pytest.mark.parametrize(
    ("text", "secret", "found"),
    [
        ("127.0.0.1:1", "", False),
        ("[::1]:1", "", False),
        ("[::ffff:127.0.0.1]:1", "", False),
        ("0.0.0.0:1", "", True),
        ("[::]:1", "", True),
        ("node.test:1", "", True),
        ("0.0.0.0:1", SECRET, False),
    ],
)
def test_a_node_that_all_may_use_says_so(text: str, secret: str, found: bool) -> None:
    assert is_open(read_address(text), NodeSettings(secret=secret)) == found


@pytest.mark.parametrize(
    "request_",
    [
        b"version\r\n",
        b"stats\r\n",
        b"stats settings\r\n",
        b"get k\r\n",
        b"quit\r\n",
        b"verbosity 1\r\n",
        b"flush_all\r\n",
        b"lru_crawler metadump all\r\n",
        b"delete k\r\n",
        b"\r\n",
        b"auth\r\n",
        b"auth %b\r\n" % (b"0" * 63),
        b"GET / HTTP/1.1\r\n\r\n",
        b"members 5\r\nhello\r\n",
        set_command(b"k", b"v"),
        b"auth %b\r\nget k\r\n" % (b"0" * 64),
        b"x" * 10_000,
    ],
)
def test_nothing_is_done_before_the_handshake(guarded: Server, request_: bytes) -> None:
    found = exchange(guarded, request_)
    assert found.endswith(REFUSAL)
    assert not found.removesuffix(REFUSAL) or found.startswith(b"AUTH ")
    with client_of(guarded) as client:
        enter(client)
        assert client.get(b"k") is None


def test_everything_is_done_behind_the_handshake(guarded: Server) -> None:
    with client_of(guarded) as client:
        enter(client)
        assert client.ask(set_command(b"own", b"v")) == b"STORED\r\n"
        assert client.get(b"own") == b"v"
        assert client.ask(b"version\r\n").startswith(b"VERSION ")
        assert client.ask(b"delete own\r\n") == b"DELETED\r\n"
        assert client.ask(b"auth %b\r\n" % (b"0" * 64)) == b"ERROR\r\n"


def test_commands_that_come_with_the_proof(guarded: Server) -> None:
    with client_of(guarded) as client:
        handshake = ClientHandshake(SECRET, new_nonce())
        proof = handshake.feed(client.ask(handshake.request))
        client.send(proof + set_command(b"with", b"v" * 100_000) + b"get none\r\ndelete with\r\n")
        assert [client.line() for _ in range(4)] == [
            b"OK\r\n",
            b"STORED\r\n",
            b"END\r\n",
            b"DELETED\r\n",
        ]


def test_a_wrong_proof_ends_the_connection(guarded: Server) -> None:
    with client_of(guarded) as client:
        handshake = ClientHandshake(SECRET, new_nonce())
        assert client.ask(handshake.request).startswith(b"AUTH ")
        assert client.ask(b"auth %b\r\n" % (b"0" * 64)) == REFUSAL
        assert client.line() == b""


def test_the_proof_of_the_node_proves_nothing_for_a_client(guarded: Server) -> None:
    with client_of(guarded) as client:
        _, _, proof = client.ask(ClientHandshake(SECRET, new_nonce()).request).split()
        assert client.ask(b"auth %b\r\n" % proof) == REFUSAL


def test_a_node_without_a_secret_knows_no_handshake(tmp_path: Path) -> None:
    with running(node(tmp_path)) as server, client_of(server) as client:
        assert client.ask(b"auth %b\r\n" % (b"0" * 64)) == b"ERROR\r\n"
        assert client.ask(b"version\r\n").startswith(b"VERSION ")
        assert stats_of(server)["curr_connections"] == "2"


def test_a_secret_from_the_environment(tmp_path: Path) -> None:
    server = node(tmp_path)
    server.environ["SFSS_NODE_SECRET"] = SECRET
    with running(server):
        assert exchange(server, b"version\r\n") == REFUSAL
        with client_of(server) as client:
            enter(client)
        command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert SECRET.encode() not in command_line
        assert "was refused: it did not begin with a handshake" in server.output()
        assert SECRET not in server.output()


@pytest.mark.parametrize("secret", ["", "short", "with a space in it", "x" * 1001, "ä" * 20])
def test_a_secret_that_is_none(
    secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text(f"{secret}\n", encoding="utf-8")
    command = ["node", "--store", "store", "--listen", "127.0.0.1:1"]
    assert main([*command, "--secret-file", str(file)]) == 2
    monkeypatch.setenv("SFSS_NODE_SECRET", secret)
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "--secret-file: is" in told
    assert "SFSS_NODE_SECRET: is" in told
    assert "16 to 1000 characters" in told
    assert not secret or secret not in told
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["missing", ".", "binary"])
def test_a_file_without_a_secret(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(os.urandom(100) + b"\xff")
    command = ["node", "--store", "store", "--listen", "127.0.0.1:1", "--secret-file", name]
    assert main(command) == 2
    assert f"--secret-file: {name}: " in capsys.readouterr().err


def test_a_gateway_over_nodes_with_a_secret(tmp_path: Path) -> None:
    nodes = [node_with(tmp_path) for _ in range(2)]
    settings = (
        "[cluster]\nkind = 'replicated'\n[replicated]\ncopies = 2\nwrite_quorum = 2\n"
        f"stores = {[each.address for each in nodes]}\n"
    )
    known, wrong = ({"SFSS_MEMCACHED_SECRET": each} for each in (SECRET, "x" * 16))
    with running(nodes[0]), running(nodes[1]):
        with running(gateway(tmp_path, settings=settings, environ=known)) as server:
            assert server.put("a", b"body").status == 200
            assert server.get("a").body == b"body"
            assert server.get("b").status == 404
            assert SECRET not in server.output()
        with running(gateway(tmp_path, settings=settings, environ=wrong)) as server:
            refused = server.get("a")
            assert refused.status == 504
            assert b"another secret" in refused.body
            assert server.put("a", b"other").status == 504
            assert "x" * 16 not in server.output()


def test_no_flag_takes_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["node", "--store", "store", "--secret", SECRET])
    assert "unrecognized arguments" in capsys.readouterr().err


# -- what can be occupied


async def ended(served: Served, request: bytes = b"") -> tuple[asyncio.StreamReader, bytes]:
    """Return all that a new client gets until it is cut off."""
    reader, writer = await served.connect()
    writer.write(request)
    return reader, await reader.read()


def test_who_does_not_prove_it_in_time_is_cut_off(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_newcomers, "HANDSHAKE_S", 1.0)

    async def test() -> None:
        async with serving(GUARDED) as served:
            assert (await ended(served))[1] == b""
            assert (await ended(served, b"auth 00"))[1] == b""
            request = ClientHandshake(SECRET, new_nonce()).request
            assert (await ended(served, request))[1].startswith(b"AUTH ")
            assert served.server.traffic.total_connections == 0

    run(test())


def test_who_comes_byte_by_byte_is_cut_off_all_the_same(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_newcomers, "HANDSHAKE_S", 0.3)

    async def test() -> None:
        async with serving(GUARDED) as served:
            reader, writer = await served.connect()

            async def trickle() -> None:
                while not reader.at_eof():
                    writer.write(b"a")
                    await asyncio.sleep(0.05)

            trickling = asyncio.ensure_future(trickle())
            assert await reader.read() == b""
            trickling.cancel()
            await asyncio.gather(trickling, return_exceptions=True)

    run(test())


async def entered(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection behind its handshake."""
    reader, writer = await served.connect()
    handshake = ClientHandshake(SECRET, new_nonce())
    writer.write(handshake.request)
    writer.write(handshake.feed(await reader.readuntil(b"\r\n")))
    assert await reader.readuntil(b"\r\n") == b"OK\r\n"
    return reader, writer


def test_of_too_many_newcomers_the_first_has_to_go(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_newcomers, "NEWCOMERS_LIMIT", 3)

    async def test() -> None:
        async with serving(GUARDED) as served:
            inside, writer = await entered(served)
            crowd = [await served.connect() for _ in range(3)]
            waiting = served.server._newcomers._waiting
            await until(lambda: len(waiting) == 3, "all have come")
            for _ in range(10):
                await entered(served)
            assert await crowd[0][0].read() == b""
            writer.write(b"get none\r\n")
            assert await inside.readuntil(b"\r\n") == b"END\r\n"
            assert len(waiting) < 3

    run(test())


def test_one_too_many_is_told_so_behind_its_handshake(run: Run) -> None:  # noqa: F811
    async def test() -> None:
        async with serving(NodeSettings(secret=SECRET, connections=1)) as served:
            await entered(served)
            reader, _ = await entered(served)
            assert await reader.read() == b"ERROR Too many open connections\r\n"

    run(test())


def test_a_node_that_stops_does_not_wait_for_newcomers(run: Run) -> None:  # noqa: F811
    async def test() -> None:
        async with serving(GUARDED) as served:
            reader, _ = await served.connect()
            waiting = served.server._newcomers._waiting
            await until(lambda: waiting, "it has come")
            await served.server.drain(30.0)
            assert await reader.read() == b""
            assert not waiting

    run(test())


def test_the_secret_is_not_in_what_is_shown_of_settings() -> None:
    assert SECRET not in repr(GUARDED)


def test_a_node_reads_its_secret_where_the_environment_has_one_too(tmp_path: Path) -> None:
    server = node_with(tmp_path)
    server.environ |= {**PYTHON_ENVIRON, "SFSS_NODE_SECRET": "what-does-not-count"}
    with running(server), client_of(server) as client:
        enter(client)
