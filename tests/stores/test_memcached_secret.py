"""The memcached-protocol store and a node with a secret: all ways to it, and how it says no."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sfss.config import MemcachedSettings
from sfss.errors import Unreachable
from sfss.record import Buffer, Form, new_record
from sfss.stores.memcached import MemcachedStore
from tests.servers import Server, memcached, node, node_folder, nutcracker, running
from tests.stores.scripted import CLOSE, Script, ScriptedServer, until

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

SECRET = "the-secret-of-the-nodes"
KNOWING = MemcachedSettings(timeout_s=30.0, secret=SECRET)
GUESSING = replace(KNOWING, secret="another-secret-than-that")
IGNORANT = replace(KNOWING, secret="")
HASTY = replace(KNOWING, timeout_s=0.2)
VERSION = 1_700_000_000_000_000
RECORD = new_record(b"a body", VERSION)
LARGE = new_record(b"x" * 300_000, VERSION)


@asynccontextmanager
async def store_on(address: str, settings: MemcachedSettings) -> AsyncIterator[MemcachedStore]:
    store = MemcachedStore(address, settings)
    try:
        yield store
    finally:
        await store.close()


def node_with_secret(folder: Path, secret: str = SECRET) -> Server:
    file = folder / "secret"
    file.write_text(f"{secret}\n")
    return node(folder, "--secret-file", str(file))


@pytest.fixture(name="guarded", scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node that wants ``SECRET`` to be known."""
    with running(node_with_secret(tmp_path_factory.mktemp("node"))) as server:
        yield server


async def list_all(store: MemcachedStore) -> object:
    listing = store.keys()
    return [entry.key async for some in listing for entry in some]


OPERATIONS: dict[str, Callable[[MemcachedStore], Awaitable[object]]] = {
    "get": lambda store: store.get(b"k"),
    "head": lambda store: store.head(b"k"),
    "set": lambda store: store.set(b"k", RECORD),
    "set of a large one": lambda store: store.set(b"k", LARGE),
    "set_newest": lambda store: store.set_newest(b"k", RECORD),
    "delete": lambda store: store.delete(b"k"),
    "delete with a guard": lambda store: store.delete(b"k", lambda _: None),
    "keys": list_all,
    "stats": lambda store: store.stats(),
    "room": lambda store: store.room(),
}
EVERY = pytest.mark.parametrize("name", OPERATIONS)


async def view(store: MemcachedStore, key: bytes) -> bytes | None:
    """Return the item under ``key`` by the hot path, whose connection is opened if need be."""
    found: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def use(item: Buffer | None, _: Form) -> None:
        found.set_result(None if item is None else bytes(item))

    await until(lambda: found.done() or store.view(key, use), "there is a connection")
    return await found


async def test_every_way_to_a_node_with_a_secret(guarded: Server) -> None:
    async with store_on(guarded.address, KNOWING) as store:
        await store.set(b"some", RECORD)
        assert await store.set_newest(b"some", RECORD) is None
        assert await store.set_newest(b"much", LARGE) is None
        found = await store.get(b"much")
        assert found is not None
        assert found.body == LARGE.body
        assert await view(store, b"some") is not None
        many = await asyncio.gather(*(store.get(b"some") for _ in range(50)))
        assert {bytes(each.body) for each in many if each is not None} == {b"a body"}
        assert await list_all(store) == [b"much", b"some"]
        assert await store.delete(b"some")
        assert await store.delete(b"much", lambda _: None)
        assert await store.room() > 0
        assert (await store.stats())["curr_items"] == "0"


@EVERY
async def test_a_wrong_secret(guarded: Server, name: str) -> None:
    async with store_on(guarded.address, GUESSING) as store:
        with pytest.raises(Unreachable, match="it has another secret") as caught:
            await OPERATIONS[name](store)
    assert caught.value.applied is False
    assert SECRET not in str(caught.value)
    assert GUESSING.secret not in str(caught.value)


@EVERY
async def test_none_where_one_is_wanted(guarded: Server, name: str) -> None:
    async with store_on(guarded.address, IGNORANT) as store:
        with pytest.raises(Unreachable, match="it asks for a secret, and none is set") as caught:
            await OPERATIONS[name](store)
    assert caught.value.applied is False


async def test_what_was_refused_for_want_of_a_secret_was_not_done(guarded: Server) -> None:
    settings = replace(IGNORANT, item_limit=1_000_000)
    async with store_on(guarded.address, settings) as store:
        with pytest.raises(Unreachable, match="it asks for a secret") as caught:
            await store.set(b"k", RECORD)
    assert caught.value.applied is False
    async with store_on(guarded.address, KNOWING) as store:
        assert await store.get(b"k") is None


@EVERY
@pytest.mark.parametrize("kind", [node, memcached])
async def test_one_where_none_is_known(
    kind: Callable[[Path], Server], name: str, tmp_path: Path
) -> None:
    with running(kind(tmp_path)) as server:
        async with store_on(server.address, KNOWING) as store:
            with pytest.raises(Unreachable, match="it knows no secrets") as caught:
                await OPERATIONS[name](store)
    assert caught.value.applied is False


async def test_a_proxy_knows_no_secrets(tmp_path: Path) -> None:
    with (
        running(memcached(tmp_path)) as server,
        running(nutcracker(tmp_path, [server.address])) as proxy,
    ):
        async with store_on(proxy.address, KNOWING) as store:
            with pytest.raises(Unreachable, match="closed the connection when a secret"):
                await store.get(b"k")


@EVERY
async def test_nothing_but_the_handshake_is_sent_to_an_impostor(name: str) -> None:
    script = [f"AUTH {'0' * 64} {'0' * 64}\r\n".encode()]
    async with ScriptedServer(script) as server, store_on(server.address, KNOWING) as store:
        with pytest.raises(Unreachable, match="it has another secret") as caught:
            await OPERATIONS[name](store)
        assert not store.view(b"k", lambda *_: None)
        await until(lambda: not server.open_connections, "all connections are closed")
    assert caught.value.applied is False
    assert {request.split()[0] for request in server.requests} == {b"auth"}
    assert all(len(request) == len("auth ") + 64 for request in server.requests)


@EVERY
@pytest.mark.parametrize(
    "script", [[], [b"AUTH 0"], [b"AUTH"] * 2], ids=["silent", "half", "two halves"]
)
async def test_the_handshake_has_to_end_in_time(name: str, script: Script) -> None:
    async with ScriptedServer(script) as server, store_on(server.address, HASTY) as store:
        with pytest.raises(Unreachable, match=r"0\.2 s") as caught:
            await OPERATIONS[name](store)
        await until(lambda: not server.open_connections, "all connections are closed")
    assert caught.value.applied is False


@EVERY
async def test_a_connection_that_ends_in_the_handshake(name: str) -> None:
    async with ScriptedServer([CLOSE]) as server, store_on(server.address, KNOWING) as store:
        with pytest.raises(Unreachable, match="closed the connection when a secret") as caught:
            await OPERATIONS[name](store)
    assert caught.value.applied is False


@EVERY
async def test_a_cancelled_handshake_leaves_no_connection(name: str) -> None:
    async with ScriptedServer([]) as server, store_on(server.address, KNOWING) as store:
        asking = asyncio.ensure_future(OPERATIONS[name](store))
        await until(lambda: server.requests, "the handshake has begun")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not server.open_connections, "the connection is closed")


async def test_the_hot_path_is_closed_in_its_handshake() -> None:
    async with ScriptedServer([]) as server, store_on(server.address, KNOWING) as store:
        assert not store.view(b"k", lambda *_: None)
        await until(lambda: server.requests, "the handshake has begun")
        await store.close()
        await until(lambda: not server.open_connections, "the connection is closed")


async def test_a_node_cancelled_at_any_point_of_the_handshake(guarded: Server) -> None:
    async with store_on(guarded.address, KNOWING) as store:
        await store.set(b"k", RECORD)
    for steps in range(60):
        async with store_on(guarded.address, KNOWING) as store:
            asking = asyncio.ensure_future(store.get(b"k"))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            found = await store.get(b"k")
            assert found is not None
            assert found.body == RECORD.body
    async with store_on(guarded.address, KNOWING) as store:
        await store.delete(b"k")


async def test_a_node_that_is_started_anew_with_a_secret(tmp_path: Path) -> None:
    server = node(tmp_path)
    with running(server):
        async with store_on(server.address, IGNORANT) as store:
            assert await store.set_newest(b"k", RECORD) is None
            assert await view(store, b"k") is not None
            server.stop()
            file = tmp_path / "secret"
            file.write_text(SECRET)
            server.command += ["--secret-file", str(file)]
            server.start()
            for operation in OPERATIONS.values():
                with pytest.raises(Unreachable):
                    await operation(store)
            with pytest.raises(Unreachable, match="it asks for a secret"):
                await store.get(b"k")
        async with store_on(server.address, KNOWING) as store:
            assert await store.get(b"k") is not None
    assert node_folder(server).exists()
    assert SECRET not in server.output()
