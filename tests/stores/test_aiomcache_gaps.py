"""The five gaps of aiomcache 0.8.2: each test shows the bare library failing and ours not.

When an upgrade of aiomcache makes the first half of a test fail, the gap has been closed there, and
what closes it in ``stores/memcached_pool.py`` may go.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomcache
import pytest

from sfss.memtext import BadKey, Value
from sfss.stores.memcached_pool import Client
from tests.servers import CHECKOUT, Server
from tests.stores.scripted import CLOSE, ScriptedServer

DEADLINE_S = 30.0

VICTIM_OF_A_CLOSING_SERVER = """
import asyncio, sys
from contextlib import suppress
import aiomcache
from sfss.stores.memcached_pool import Client

async def close_at_once(reader, writer):
    await reader.readuntil(b"\\r\\n")
    writer.close()

async def main(kind):
    server = await asyncio.start_server(close_at_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bare = lambda: aiomcache.Client("127.0.0.1", port, pool_size=1)
    client = bare() if kind == "bare" else Client("127.0.0.1", port, 1)
    print("asking", flush=True)
    with suppress(Exception):
        await asyncio.wait_for(client.delete(b"k"), 0.2)
    print("answered", flush=True)

asyncio.run(main(sys.argv[1]))
"""


@asynccontextmanager
async def bare_client(port: int, connections: int = 1) -> AsyncIterator[aiomcache.Client]:
    client = aiomcache.Client("127.0.0.1", port, pool_size=connections)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def our_client(port: int, connections: int = 1) -> AsyncIterator[Client]:
    client = Client("127.0.0.1", port, connections)
    try:
        yield client
    finally:
        await client.close()


def start_victim(kind: str) -> subprocess.Popen[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])}
    command = [sys.executable, "-c", VICTIM_OF_A_CLOSING_SERVER, kind]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def test_gap_1_the_bare_client_spins_when_the_server_closes() -> None:
    with start_victim("bare") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        # Its own time-out is 0.2 s; it never comes, because the event loop does not run.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.kill()
        assert process.stdout.read() == ""


def test_gap_1_ours_does_not() -> None:
    with start_victim("ours") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        assert process.stdout.readline() == "answered\n"
        assert process.wait(DEADLINE_S) == 0


async def cancelled_get(client: aiomcache.FlagClient[Value], memcached: Server) -> object:
    """Cancel a get at a stopped server, let it go on, and return what the next get says."""
    for key in (b"first", b"second"):
        await aiomcache_set(memcached, key)
    await client.get(b"first")
    memcached.pause()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.get(b"first"), 0.2)
    memcached.resume()
    return await asyncio.wait_for(client.get(b"second"), DEADLINE_S)


async def aiomcache_set(memcached: Server, key: bytes) -> None:
    async with bare_client(memcached.port) as client:
        assert await client.set(key, b"value of " + key)


async def test_gap_2_a_cancelled_get_leaves_its_reply_to_the_next(memcached: Server) -> None:
    async with bare_client(memcached.port) as client:
        assert await cancelled_get(client, memcached) is None, "a false miss"  # type: ignore[arg-type]
    async with our_client(memcached.port) as ours:
        assert await cancelled_get(ours, memcached) == Value(b"second", 0, b"value of second")


async def stranded(client: aiomcache.FlagClient[Value], wait_s: float) -> int:
    """Ask four times at once, on one connection, a server that closes; return how many wait on."""
    gets = [asyncio.ensure_future(client.get(b"k")) for _ in range(4)]
    _, pending = await asyncio.wait(gets, timeout=wait_s)
    for get in pending:
        get.cancel()
    await asyncio.gather(*gets, return_exceptions=True)
    return len(pending)


async def test_gap_3_waiters_starve_when_a_connection_dies() -> None:
    async with ScriptedServer([CLOSE]) as server:
        async with bare_client(server.port) as client:
            assert await stranded(client, 1.0) > 0  # type: ignore[arg-type]
        async with our_client(server.port) as ours:
            assert await stranded(ours, DEADLINE_S) == 0


async def test_gap_4_a_key_of_750_bytes_runs_the_body_as_commands(memcached: Server) -> None:
    key, body = "中".encode() * 250, b"delete victim"
    async with bare_client(memcached.port) as client, our_client(memcached.port) as ours:
        await client.set(b"victim", b"precious")
        with pytest.raises(BadKey):
            await ours.set(key, body)
        assert await client.get(b"victim") == b"precious"
    async with bare_client(memcached.port) as client:
        with pytest.raises(aiomcache.ClientException):
            await client.set(key, body)
    async with bare_client(memcached.port) as client:
        assert await client.get(b"victim") is None


async def test_gap_5_multi_get_sends_gets() -> None:
    found = b"VALUE a 0 1\r\nx\r\nEND\r\n"
    async with ScriptedServer([b"ERROR\r\n"], [found]) as server:
        async with bare_client(server.port) as client:
            with pytest.raises(aiomcache.ClientException):
                await client.multi_get(b"a", b"b")
        async with our_client(server.port) as ours:
            assert await ours.multi_get(b"a", b"b") == (Value(b"a", 0, b"x"), None)
    assert server.requests == [b"gets a b", b"get a b"]


async def test_gap_5_keys_asked_for_twice(memcached: Server) -> None:
    async with bare_client(memcached.port) as client, our_client(memcached.port) as ours:
        await client.set(b"k", b"x")
        with pytest.raises(aiomcache.ClientException):
            await client.multi_get(b"k", b"k")
        assert await ours.multi_get(b"k", b"k") == (Value(b"k", 0, b"x"),) * 2


async def test_gap_5_flags_other_than_0() -> None:
    found = b"VALUE k 1397096449 1\r\nx\r\nEND\r\n"
    async with ScriptedServer([found]) as server:
        async with bare_client(server.port) as client:
            with pytest.raises(aiomcache.ClientException):
                await client.get(b"k")
        async with our_client(server.port) as ours:
            assert await ours.get(b"k") == Value(b"k", 0x53460001, b"x")


async def total_connections(client: Client) -> int:
    """Return how many the server has had; what aiomcache's stats reads on is thrown away."""
    return int((await client.stats())[b"total_connections"] or 0)


async def test_inherited_commands_work_and_keep_the_connection(memcached: Server) -> None:
    async with our_client(memcached.port) as ours:
        before = await total_connections(ours)
        assert await ours.set(b"k", b"x")
        assert (await ours.version()).startswith(b"1.")
        assert await ours.delete(b"k")
        assert not await ours.delete(b"k")
        assert await total_connections(ours) == before + 1
        assert await ours.multi_get() == ()


@pytest.mark.parametrize("command", ["stats", "incr", "version"])
async def test_an_inherited_command_that_is_cancelled_leaves_no_reply(
    memcached: Server, command: str
) -> None:
    async with our_client(memcached.port) as ours:
        await ours.set(b"k", b"1")
        memcached.pause()
        arguments = (b"counter",) if command == "incr" else ()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(getattr(ours, command)(*arguments), 0.2)
        memcached.resume()
        assert await ours.set(b"k", b"2")
        assert await ours.get(b"k") == Value(b"k", 0, b"2")
