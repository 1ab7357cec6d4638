"""Listing every key of a store: on real memcached, ``sfss node`` and LMDB.

Beansdb and gobeansdb cannot run everywhere: what they answer is scripted here, after their source
(``htree.c``, ``hstore.c``) and PROTOCOL-FACTS. So is what real servers do only now and then.
"""

import asyncio
import gc
import os
import re
import signal
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from sfss.config import MIB, MemcachedSettings
from sfss.errors import CannotList, TooLarge, Unreachable
from sfss.items import unique_of
from sfss.memtext_listing import METADUMP_ALL, METADUMP_HASH
from sfss.record import new_record
from sfss.stores import memcached_listing
from sfss.stores.base import KEYS_LIMIT, ListingStore, Stamped
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.memcached import MemcachedStore
from tests.servers import Server, free_port, node, nutcracker, running
from tests.servers import memcached as memcached_with
from tests.stores.dict_store import DictStore
from tests.stores.scripted import CLOSE, Script, ScriptedServer, until

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

SETTINGS = MemcachedSettings(timeout_s=10.0, item_limit=4 * MIB)
HASTY = MemcachedSettings(timeout_s=0.3, item_limit=MIB)
MANY = 20_000
STATS = b"STAT pid 1\r\nSTAT cas_hits 0\r\nEND\r\n"
NODE_STATS = b"STAT cas_hits 0\r\nSTAT avail_space 1\r\nEND\r\n"
BEANSDB_STATS = b"STAT pid 1\r\nSTAT avail_space 1\r\nEND\r\n"
LINE = b"key=%b exp=-1 la=1 cas=5 fetch=no cls=1 size=80\n"
VERSION = b"VERSION 1.6.18\r\n"

Iterations = AsyncIterator[Sequence[Stamped]]


@asynccontextmanager
async def store_on(
    address: str, settings: MemcachedSettings = SETTINGS
) -> AsyncIterator[MemcachedStore]:
    store = MemcachedStore(address, settings)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(name="node")
def own_node(tmp_path: Path) -> Iterator[Server]:
    """One of our own nodes."""
    with running(node(tmp_path)) as server:
        yield server


@pytest.fixture(scope="module", params=[memcached_with, node], ids=["memcached", "node"])
def full(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Each kind of server that lists, with ``MANY`` names; shared, so it may have more keys."""
    with running(request.param(tmp_path_factory.mktemp("full"))) as server:
        asyncio.run(plain_sets(server, names(MANY)))
        yield server


@pytest.fixture(params=["memcached", "node"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server that lists, in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


@pytest.fixture(scope="module", name="long_list")
def node_with_a_long_list(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node with ``long_names``; who kills it starts it again."""
    with running(node(tmp_path_factory.mktemp("long"))) as server:
        asyncio.run(plain_sets(server, long_names()))
        yield server


def names(count: int) -> list[bytes]:
    return [b"name/of/a/file-%06d" % number for number in range(count)]


def kernel_bytes() -> int:
    """Return the most that the kernel takes from a server, and holds for a client that reads no
    more: how much it really is depends on how fast the two were until then.
    """
    limits = Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()
    return int(limits[2]) + 2 * memcached_listing._RECEIVE_BYTES


def long_names() -> list[bytes]:
    """Return names of 250 bytes, so many that the kernel cannot hold a list of them."""
    count = (kernel_bytes() + 3 * MIB) // 250
    return [b"%0250d" % number for number in range(count)]


async def plain_sets(server: Server, keys: Sequence[bytes], body: bytes = b"x") -> None:
    """Set plain items, as another client does."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    for start in range(0, len(keys), 1000):
        some = keys[start : start + 1000]
        writer.write(b"".join(b"set %b 7 0 %d\r\n%b\r\n" % (key, len(body), body) for key in some))
        for _ in some:
            assert await reader.readline() == b"STORED\r\n"
    writer.close()
    await writer.wait_closed()


async def all_keys(store: ListingStore) -> list[Stamped]:
    found: list[Stamped] = []
    async for batch in store.keys():
        assert 0 < len(batch) <= KEYS_LIMIT
        found += batch
    return found


async def failure(store: ListingStore) -> Exception:
    """Return the error that a listing ends with."""
    with pytest.raises((CannotList, Unreachable)) as caught:
        await all_keys(store)
    assert getattr(caught.value, "applied", False) is False
    return caught.value


async def connections_at(server: Server) -> int:
    """Return how many connections the server has, beside the one that asks."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"stats\r\n")
    answer = await reader.readuntil(b"END\r\n")
    writer.close()
    await writer.wait_closed()
    match = re.search(rb"STAT curr_connections (\d+)", answer)
    assert match
    return int(match[1]) - 1


async def settled(server: Server, wanted: int) -> None:
    """Wait until the server has no more than ``wanted`` connections."""
    for _ in range(1000):
        if await connections_at(server) <= wanted:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{await connections_at(server)} connections at the server, not {wanted}")


def open_listings(store: MemcachedStore) -> int:
    return len(store._listings._open)


# -- what is listed


@pytest.mark.parametrize("make", [lambda _: DictStore(), lambda path: EmbeddedStore(path / "s")])
async def test_stores_of_our_own_list_what_they_hold(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    store = make(tmp_path)
    assert isinstance(store, ListingStore)
    assert await all_keys(store) == []
    records = {key: new_record(key, number) for number, key in enumerate(names(2345))}
    await asyncio.gather(*(store.set(key, record) for key, record in records.items()))
    assert dict(await all_keys(store)) == {
        key: unique_of(record.head) for key, record in records.items()
    }
    await store.close()
    with pytest.raises(Unreachable):
        await all_keys(store)


async def test_nothing_is_an_empty_list(server: Server) -> None:
    async with store_on(server.address) as store:
        assert isinstance(store, ListingStore)
        assert await all_keys(store) == []


async def test_a_node_stamps_and_memcached_does_not(memcached: Server, node: Server) -> None:
    records = {key: new_record(key * 9, 5, {"a": key.decode()}) for key in names(1500)}
    for server in (memcached, node):
        async with store_on(server.address) as store:
            await asyncio.gather(*(store.set(key, record) for key, record in records.items()))
            found = await all_keys(store)
            assert len(found) == len(records)
            expected = {
                key: unique_of(record.head) if server is node else None
                for key, record in records.items()
            }
            assert dict(found) == expected


async def test_keys_that_are_none_of_ours(server: Server) -> None:
    odd = [b"%41 ".strip(), b"a=b%", b"@x", b"?x", b"\xff\xfe\xc3", b"\x80", b"k" * 250, b"'\"&+"]
    await plain_sets(server, odd)
    async with store_on(server.address) as store:
        assert sorted(key for key, _ in await all_keys(store)) == sorted(odd)


async def test_many_keys_are_all_there(full: Server) -> None:
    async with store_on(full.address) as store:
        found = [key for key, _ in await all_keys(store)]
        assert len(found) == len(set(found)) < MANY + 100
        assert set(found) >= set(names(MANY))
        assert open_listings(store) == 0


async def test_memcached_in_use_lists_every_key(memcached: Server) -> None:
    # Its "metadump all" leaves out thousands of these: see METADUMP_ALL.
    keys = names(MANY)
    await plain_sets(memcached, keys)
    async with store_on(memcached.address) as store:
        stop = False

        async def use(start: int) -> None:
            reader, writer = await asyncio.open_connection(memcached.host, memcached.port)
            position = start
            while not stop:
                some = [keys[(position + step * 7919) % MANY] for step in range(200)]
                position += 13
                writer.write(b"".join(b"get %b\r\nset %b 7 0 1\r\ny\r\n" % (k, k) for k in some))
                for _ in some:
                    while await reader.readline() != b"STORED\r\n":
                        pass
            writer.close()
            await writer.wait_closed()

        users = [asyncio.ensure_future(use(start)) for start in range(0, 300, 100)]
        try:
            for _ in range(3):
                assert {key for key, _ in await all_keys(store)} == set(keys)
        finally:
            stop = True
            await asyncio.gather(*users)


async def test_other_requests_are_served_meanwhile(full: Server) -> None:
    async with store_on(full.address) as store, aclosing(cast(Any, store.keys())) as batches:
        listed = len(await anext(batches))
        for number in range(20):
            await store.set(b"%d" % number, new_record(b"x", 1))
            assert await store.get(b"%d" % number) is not None
        async for batch in batches:
            listed += len(batch)
        assert listed >= MANY


async def test_listings_at_the_same_time(full: Server) -> None:
    async with store_on(full.address) as store:
        for found in await asyncio.gather(*(all_keys(store) for _ in range(3))):
            assert len(found) >= MANY


# -- consumers that stop, are slow, or are cancelled


async def test_who_stops_early_leaves_nothing_behind(full: Server) -> None:
    async with store_on(full.address) as store:
        tasks = asyncio.all_tasks()
        before = await connections_at(full)

        async def stop_early() -> None:
            async for batch in store.keys():
                assert batch
                break

        for _ in range(3):
            await stop_early()
        await until(lambda: open_listings(store) == 0, "every listing is closed")
        await until(lambda: asyncio.all_tasks() == tasks, "no task is left")
        await settled(full, before)
        async with aclosing(cast(Any, store.keys())) as batches:
            await anext(batches)
        assert open_listings(store) == 0
        assert len(await all_keys(store)) >= MANY


async def test_cancelled_at_every_step(server: Server) -> None:
    await plain_sets(server, names(3000))
    async with store_on(server.address) as store:
        tasks = asyncio.all_tasks()
        before = await connections_at(server)
        for steps in range(40):
            listing = asyncio.ensure_future(all_keys(store))
            for _ in range(steps):
                await asyncio.sleep(0)
            listing.cancel()
            await asyncio.gather(listing, return_exceptions=True)
            await until(lambda: open_listings(store) == 0, "the listing is closed")
        assert asyncio.all_tasks() == tasks
        await settled(server, before)
        assert len(await all_keys(store)) == 3000


async def test_a_node_is_read_no_faster_than_its_list_is_taken(long_list: Server) -> None:
    count = len(long_names())
    async with store_on(long_list.address) as store, aclosing(cast(Any, store.keys())) as batches:
        before = await sent_bytes(long_list)
        listed = len(await anext(batches))
        (connection,) = store._listings._open
        reader = connection._reader
        await until(lambda: reader._paused, "reading is paused")  # type: ignore[attr-defined]
        for _ in range(20):
            await store.get(b"x")
        # Twice its limit, and what came with the last read: all that the kernel may have had.
        limit = 2 * memcached_listing._READ_SIZE + 2 * memcached_listing._RECEIVE_BYTES
        assert len(reader._buffer) <= limit  # type: ignore[attr-defined]
        sent = await sent_bytes(long_list) - before
        assert sent < kernel_bytes() + 2 * MIB < count * 250
        async for batch in batches:
            listed += len(batch)
        assert listed == count


async def sent_bytes(server: Server) -> int:
    """Return how many bytes the server has sent."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"stats\r\n")
    answer = await reader.readuntil(b"END\r\n")
    writer.close()
    await writer.wait_closed()
    match = re.search(rb"STAT bytes_written (\d+)", answer)
    assert match
    return int(match[1])


async def test_nobody_waits_for_who_lists_memcached_slowly(memcached: Server) -> None:
    # A metadump that is not read holds up every client of the thread that is asked for another.
    await plain_sets(memcached, names(MANY))
    async with store_on(memcached.address) as store, aclosing(cast(Any, store.keys())) as batches:
        listed = len(await anext(batches))
        await settled(memcached, 0)
        async with store_on(memcached.address) as other:
            assert len(await all_keys(other)) == MANY
        await store.set(b"x", new_record(b"x", 1))
        async for batch in batches:
            listed += len(batch)
        assert listed == MANY


async def test_the_memory_for_a_list_of_memcached_is_bounded(memcached: Server) -> None:
    many = long_names()
    await plain_sets(memcached, many)
    assert await peak_of_listing(memcached, len(many)) < 3 * MIB < len(many) * 250


async def test_the_memory_for_a_list_of_a_node_is_bounded(long_list: Server) -> None:
    count = len(long_names())
    assert await peak_of_listing(long_list, count) < MIB < count * 250


async def peak_of_listing(server: Server, count: int) -> int:
    """Return the most memory, in bytes, that a listing of ``count`` keys needed."""
    async with store_on(server.address) as store:
        async for _ in store.keys():
            pass
        gc.collect()
        tracemalloc.start()
        try:
            listed = 0
            async for batch in store.keys():
                listed += len(batch)
            assert listed == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


async def test_a_closed_store_lists_nothing(full: Server) -> None:
    async with store_on(full.address) as store:
        batches = store.keys()
        await anext(batches)
        await store.close()
        assert open_listings(store) == 0
        assert isinstance(await failure(store), Unreachable)
        if await is_cut_off(batches):
            return
        assert "memcached" in full.command[0]  # its list had been read whole


async def is_cut_off(batches: Iterations) -> bool:
    try:
        async for _ in batches:
            pass
    except Unreachable:
        return True
    return False


# -- servers that die, stand still, or answer wrong


async def test_a_node_killed_in_the_middle(long_list: Server) -> None:
    async with (
        store_on(long_list.address) as store,
        aclosing(cast(Any, store.keys())) as batches,
    ):
        listed = len(await anext(batches))
        (connection,) = store._listings._open
        await until(lambda: connection._reader._paused, "reading is paused")
        os.kill(long_list.pid, signal.SIGKILL)
        with pytest.raises(Unreachable) as caught:
            async for batch in batches:
                listed += len(batch)
        assert caught.value.store == long_list.address
        assert listed < len(long_names())
        assert open_listings(store) == 0
    long_list.kill()
    long_list.start()


def at_read(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Have ``action`` called before a listing reads for the so manieth time."""
    read, reads = memcached_listing._Connection.read, 0

    async def counted(connection: memcached_listing._Connection) -> bytes:
        nonlocal reads
        reads += 1
        if reads == number:
            action()
        return await read(connection)

    monkeypatch.setattr(memcached_listing._Connection, "read", counted)


async def test_memcached_killed_while_it_lists(
    memcached: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many that what the kernel holds of a list is a part of it.
    await plain_sets(memcached, long_names())
    at_read(monkeypatch, 4, lambda: os.kill(memcached.pid, signal.SIGKILL))
    async with store_on(memcached.address) as store:
        assert isinstance(await failure(store), Unreachable)
        assert open_listings(store) == 0
        memcached.kill()


async def test_a_server_that_stands_still(server: Server) -> None:
    async with store_on(server.address, HASTY) as store:
        server.pause()
        async with asyncio.timeout(30):  # or the test would wait as long as the listing does
            error = await failure(store)
        assert isinstance(error, Unreachable)
        assert error.reason == "nothing came for 0.3 s"
    server.resume()
    async with store_on(server.address) as store:
        assert await all_keys(store) == []


async def test_nobody_listens() -> None:
    for host in ("127.0.0.1", "no-such-host.invalid"):
        async with store_on(f"{host}:{free_port()}") as store:
            assert isinstance(await failure(store), Unreachable)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([STATS, LINE % b"a", CLOSE], "nothing came for"),
        ([STATS, LINE % b"a" + b"END"], "nothing came for"),
        ([STATS, LINE % b"a" + b"key=b"], "nothing came for"),
        ([NODE_STATS, LINE % b"a" + b"SERVER_ERROR disk gone\r\n"], "SERVER_ERROR disk gone"),
        ([NODE_STATS, b"SERVER_ERROR disk gone\r\n"], "SERVER_ERROR disk gone"),
        ([NODE_STATS, LINE % b"a" + b"ERROR\r\n"], "cut short by ERROR"),
        ([STATS, LINE % b"a" + b"END\r\n" + LINE % b"b"], "behind the end"),
        ([STATS, LINE % b"a" + b"END\r\n", LINE % b"b" + VERSION], "unknown line"),
        ([STATS, LINE % b"a" + b"END\r\n", b"ERROR\r\n"], "its version"),
        ([STATS, LINE % b"a" + b"END\r\n", CLOSE], "it closed"),
        ([STATS, LINE % b"a" + b"VALUE a 0 1\r\n"], "no line of a list"),
        ([STATS, b"k" * 5000], "a line of over"),
        ([b"STAT a", CLOSE], "nothing came for"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "unknown line"),
    ],
)
async def test_a_list_that_is_not_whole(answers: Script, reason: str) -> None:
    settings = HASTY if reason == "nothing came for" else SETTINGS
    async with ScriptedServer(answers) as server, store_on(server.address, settings) as store:
        error = await failure(store)
        assert isinstance(error, Unreachable)
        assert reason in error.reason
        assert open_listings(store) == 0


@pytest.mark.parametrize("stats", [STATS, NODE_STATS], ids=["memcached", "node"])
@pytest.mark.parametrize("sent", [LINE % b"a" * 3, LINE % b"a" + b"key=b", LINE % b"a" + b"END\r"])
async def test_a_list_that_is_cut_off(
    stats: bytes, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedServer([stats, sent]) as server, store_on(server.address) as store:
        at_read(monkeypatch, 3, lambda: server.writers[0].transport.abort())
        error = await failure(store)
        assert isinstance(error, Unreachable)
        assert open_listings(store) == 0


async def test_what_the_server_calls_a_stamp_is_believed_of_a_node_only() -> None:
    for stats, command, stamp in (
        (STATS, METADUMP_HASH, None),
        (NODE_STATS, METADUMP_ALL, 5),
    ):
        script = [stats, LINE % b"a" + b"END\r\n", VERSION]
        async with ScriptedServer(script) as server, store_on(server.address) as store:
            assert await all_keys(store) == [Stamped(b"a", stamp)]
            assert server.requests == [b"stats", command.rstrip(), b"version"]
            assert server.connections == 1


# -- servers that are busy, or may not or cannot list


@pytest.mark.parametrize(
    "refusal",
    [
        b"BUSY currently processing crawler request\r\n",
        b"ERROR locked try again later\r\n",
        b"NOTSTARTED no items to crawl\r\n",
    ],
)
async def test_a_busy_server_is_asked_again(
    refusal: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_listing, "BUSY_PAUSE_S", 0.001)
    script = [STATS, refusal, refusal, refusal, LINE % b"a" + b"END\r\n", VERSION]
    async with ScriptedServer(script) as server, store_on(server.address) as store:
        assert await all_keys(store) == [Stamped(b"a", None)]
    monkeypatch.setattr(memcached_listing, "BUSY_S", 0.05)
    async with (
        ScriptedServer([STATS, *[refusal] * 1000]) as server,
        store_on(server.address) as store,
    ):
        error = await failure(store)
        assert isinstance(error, Unreachable)
        assert "busy with another listing" in error.reason
        assert "try again later" in error.reason


@pytest.mark.parametrize("options", [["-o", "no_lru_crawler"], ["-X"]], ids=["off", "forbidden"])
async def test_memcached_that_may_not_list(tmp_path: Path, options: list[str]) -> None:
    with running(memcached_with(tmp_path, *options)) as server:
        async with store_on(server.address) as store:
            error = await failure(store)
            assert isinstance(error, CannotList)
            assert error.store == server.address
            assert str(error).endswith("start it without -X and without -o no_lru_crawler")
            await store.set(b"k", new_record(b"x", 1))


async def test_memcached_that_is_too_old() -> None:
    script = [STATS, b"BADCLASS invalid class id\r\n"]
    async with ScriptedServer(script) as server, store_on(server.address) as store:
        error = await failure(store)
        assert isinstance(error, CannotList)
        assert "use a newer one" in str(error)


async def test_a_proxy_cannot_list(memcached: Server, tmp_path: Path) -> None:
    with running(nutcracker(tmp_path, [memcached.address])) as proxy:
        async with store_on(proxy.address) as store:
            error = await failure(store)
            assert isinstance(error, CannotList)
            assert "list the servers behind it" in str(error)
            proxy.kill()
            assert isinstance(await failure(store), Unreachable)


async def test_a_proxy_that_has_statistics_cannot_list() -> None:
    # As Beanseye: it closes the connection after a line that it does not know.
    scripts: list[Script] = [[BEANSDB_STATS, CLOSE], [VERSION]]
    async with ScriptedServer(*scripts) as server, store_on(server.address) as store:
        assert isinstance(await failure(store), CannotList)


# -- Beansdb


def value(key: bytes, body: bytes) -> bytes:
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(body), body)


def folders(*full: int) -> bytes:
    return b"".join(b"%x/ %d %d\n" % (digit, digit in full, digit in full) for digit in range(16))


class Beansdb(ScriptedServer):
    """Answers ``get`` from ``values``, and knows neither metadump nor gets."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        super().__init__([])
        self._values = values

    async def _play(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while line := await reader.readline():
                self.requests.append(line.rstrip())
                writer.write(self._answer(line.split()))
        finally:
            self.open_connections -= 1
            writer.transport.abort()

    def _answer(self, words: list[bytes]) -> bytes:
        if words == [b"stats"]:
            return BEANSDB_STATS
        if words[0] != b"get":
            return b"ERROR\r\n"
        found = self._values.get(words[1])
        return b"END\r\n" if found is None else value(words[1], found)


async def test_buckets_of_beansdb() -> None:
    values = {
        b"@": folders(0, 10),
        b"@0": b"in/0 1 1\ngone 2 -3\n@odd 3 4\n",
        b"@a": folders(15),
        b"@af": b"".join(b"many-%d 1 1\n" % number for number in range(2500)),
    }
    async with Beansdb(values) as server, store_on(server.address) as store:
        found = await all_keys(store)
        expected = {b"in/0", b"@odd", *(b"many-%d" % number for number in range(2500))}
        assert {key for key, _ in found} == expected
        assert len(found) == len(expected)
        assert {stamp for _, stamp in found} == {None}
        await until(lambda: server.open_connections == 0, "its connections are closed")


async def test_an_empty_beansdb() -> None:
    for body in (b"", folders()):
        async with Beansdb({b"@": body}) as server, store_on(server.address) as store:
            assert await all_keys(store) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({b"@": folders(1)}, "it has no bucket b'1'"),
        ({b"@": b"key 1"}, "within a line"),
        ({b"@": b"whatever\n"}, "no line of a bucket"),
        ({b"@" + b"1" * depth: folders(1) for depth in range(20)}, "buckets below b'11111111'"),
        ({b"@": b"k 1 1\n" * 3_000_000}, "a value of 18000000 bytes"),
    ],
    ids=["missing", "cut", "foreign", "deep", "large"],
)
async def test_buckets_that_are_none(values: dict[bytes, bytes], reason: str) -> None:
    async with Beansdb(values) as server, store_on(server.address) as store:
        error = await failure(store)
        assert isinstance(error, Unreachable)
        assert reason in error.reason


async def test_gobeansdb_has_no_names() -> None:
    values = {b"@": folders(1), b"@1": b"1123456789abcdef 5 1\n1fffffffffffffff 5 1\n"}
    async with Beansdb(values) as server, store_on(server.address) as store:
        error = await failure(store)
        assert isinstance(error, CannotList)
        assert "hashes of its keys" in str(error)
    values[b"?1fffffffffffffff"] = b"1 5 0 1 1"
    values[b"?1123456789abcdef"] = b"1 5 0 1 1"
    async with Beansdb(values) as server, store_on(server.address) as store:
        assert len(await all_keys(store)) == 2


async def test_a_server_that_knows_none_of_this() -> None:
    async with Beansdb({}) as server, store_on(server.address) as store:
        error = await failure(store)
        assert isinstance(error, CannotList)
        assert str(error).endswith("its protocol has no command for it")


# -- what a refused set leaves behind


async def test_a_node_that_refuses_a_set_keeps_what_it_has(tmp_path: Path) -> None:
    with running(node(tmp_path, "--item-limit", "10000")) as server:
        async with store_on(server.address) as store:
            await store.set(b"k", new_record(b"old", 1))
            with pytest.raises(TooLarge) as caught:
                await store.set(b"k", new_record(bytes(20_000), 2))
            assert not caught.value.former_lost
            kept = await store.get(b"k")
            assert kept is not None and bytes(kept.body) == b"old"


async def test_memcached_that_refuses_a_set_has_dropped_what_it_had(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        await store.set(b"k", new_record(b"old", 1))
        with pytest.raises(TooLarge) as caught:
            await store.set(b"k", new_record(bytes(2 * MIB), 2))
        assert caught.value.former_lost
        assert await store.get(b"k") is None
