"""The memcached-protocol store on real servers: what it writes, reads, refuses and asks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfss.config import MIB, MemcachedSettings
from sfss.errors import (
    CannotList,
    Corrupt,
    PreconditionFailed,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.memtext import BadKey
from sfss.record import RECORD_FLAGS, Head, Record, encode, new_record, raw_record
from sfss.stores.memcached import ITEM_OVERHEAD, MemcachedStore
from sfss.stores.memcached_pool import ServerConnection
from sfss.stores.memcached_server import BEANSDB_ITEM_LIMIT, PROXY_ITEM_LIMIT
from tests.servers import Server, gobeansdb, nutcracker, running
from tests.servers import memcached as memcached_with
from tests.stores.scripted import CLOSE, Script, ScriptedServer, until

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

PATIENT = MemcachedSettings(timeout_s=30.0)
KNOWN_LIMIT = replace(PATIENT, item_limit=MIB)
RECORD = new_record(b"a body", 1_700_000_000_000_000, {"type": "text/plain"})


@asynccontextmanager
async def store_on(
    address: str, settings: MemcachedSettings = PATIENT
) -> AsyncIterator[MemcachedStore]:
    store = MemcachedStore(address, settings)
    try:
        yield store
    finally:
        await store.close()


def idle_connections(store: MemcachedStore) -> list[ServerConnection]:
    """Return the connections that wait to be used."""
    return list(store._client._pool._pool._queue)  # type: ignore[attr-defined]


async def plain(server: Server, request: bytes, last_line: bytes) -> bytes:
    """Send ``request`` on a plain socket, and return all up to the line ``last_line``."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.readuntil(last_line + b"\r\n"), 30)
    finally:
        writer.close()
        await writer.wait_closed()


async def plain_set(server: Server, key: bytes, flags: int, value: bytes) -> None:
    request = b"set %b %d 0 %d\r\n%b\r\n" % (key, flags, len(value), value)
    assert await plain(server, request, b"STORED") == b"STORED\r\n"


@pytest.fixture(name="twemproxy")
def twemproxy_over_two(tmp_path: Path) -> Iterator[tuple[Server, list[Server]]]:
    """A twemproxy over two memcached that take larger items than it lets know."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(running(memcached_with(tmp_path, "-I", "4m"))) for _ in range(2)
        ]
        proxy = nutcracker(tmp_path, [node.address for node in nodes])
        yield stack.enter_context(running(proxy)), nodes


# -- what is written and read


async def test_a_record_comes_back(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        assert store.address == memcached.address
        assert await store.get(b"k") is None
        await store.set(b"k", RECORD)
        found = await store.get(b"k")
        assert found is not None
        assert (found.head, bytes(found.body)) == (RECORD.head, RECORD.body)


async def test_a_record_is_marked_by_its_flags(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        await store.set(b"k", RECORD)
    value = encode(RECORD)
    expected = b"VALUE k %d %d\r\n%b\r\nEND\r\n" % (RECORD_FLAGS, len(value), value)
    assert await plain(memcached, b"get k\r\n", b"END") == expected


@pytest.mark.parametrize("flags", [0, 1, 0x53460002, 2**32 - 1])
async def test_what_another_client_stored_is_a_raw_body(memcached: Server, flags: int) -> None:
    await plain_set(memcached, b"k", flags, b"SF\r\nEND\r\n")
    async with store_on(memcached.address) as store:
        assert await store.get(b"k") == raw_record(b"SF\r\nEND\r\n")


async def test_a_raw_store_writes_plain_bodies(memcached: Server) -> None:
    async with store_on(memcached.address, replace(PATIENT, raw=True)) as store:
        await store.set(b"k", Record(RECORD.head, memoryview(b"a body")))
        assert await plain(memcached, b"get k\r\n", b"END") == (b"VALUE k 0 6\r\na body\r\nEND\r\n")
        assert await store.get(b"k") == raw_record(b"a body")


async def test_a_raw_store_reads_records(memcached: Server) -> None:
    await plain_set(memcached, b"k", RECORD_FLAGS, encode(RECORD))
    async with store_on(memcached.address, replace(PATIENT, raw=True)) as store:
        found = await store.get(b"k")
        assert found is not None
        assert found.head == RECORD.head


@pytest.mark.parametrize("offset", [0, 2, 3, 4, 8, 16, 24, 32, 48, 56, -1])
async def test_a_damaged_record_is_never_returned(memcached: Server, offset: int) -> None:
    value = bytearray(encode(RECORD))
    value[offset] ^= 0x40
    await plain_set(memcached, b"k", RECORD_FLAGS, bytes(value))
    async with store_on(memcached.address) as store:
        with pytest.raises(Corrupt) as caught:
            await store.get(b"k")
        assert (caught.value.store, caught.value.key) == (memcached.address, b"k")
        await store.set(b"k", RECORD)
        assert await store.get(b"k") is not None


async def test_a_record_cut_short_is_never_returned(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        for size in (0, 1, 55, 56, len(encode(RECORD)) - 1):
            await plain_set(memcached, b"k", RECORD_FLAGS, encode(RECORD)[:size])
            with pytest.raises(Corrupt):
                await store.get(b"k")


async def test_bodies_of_every_byte_and_many_sizes(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        for size in (0, 1, 255, 65_535, 65_536, 262_144, 1_000_000):
            body = (bytes(range(256)) * (size // 256 + 1))[:size]
            await store.set(b"k", new_record(body, size + 1))
            found = await store.get(b"k")
            assert found is not None
            assert bytes(found.body) == body


async def test_delete_tells_whether_it_was_there(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        assert not await store.delete(b"k")
        await store.set(b"k", RECORD)
        assert await store.delete(b"k")
        assert await store.get(b"k") is None
        assert not await store.delete(b"k")


@pytest.mark.parametrize("key", [b"", b"a b", b"@", b"?k", b"k\r\ndelete x", b"k" * 251])
async def test_an_unsafe_key_is_not_sent(key: bytes) -> None:
    async with ScriptedServer([]) as server, store_on(server.address, KNOWN_LIMIT) as store:
        for operation in (store.get(key), store.set(key, RECORD), store.delete(key)):
            with pytest.raises(BadKey):
                await operation
        assert server.connections == 0


async def test_keys_cannot_be_listed(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        with pytest.raises(CannotList):
            await store.scan(b"", b"", 10)


async def test_an_ipv6_address() -> None:
    async with ScriptedServer([b"END\r\n"], host="::1") as server:
        assert server.address.startswith("[::1]:")
        async with store_on(server.address) as store:
            assert await store.get(b"k") is None


# -- guards


async def test_a_guard_sees_what_is_there_and_can_forbid(memcached: Server) -> None:
    seen: list[Head | None] = []

    def forbid(head: Head | None) -> None:
        seen.append(head)
        raise PreconditionFailed("If-Match")

    newer = new_record(b"newer", 5)
    async with store_on(memcached.address) as store:
        with pytest.raises(PreconditionFailed):
            await store.set(b"k", RECORD, forbid)
        assert await store.get(b"k") is None
        await store.set(b"k", RECORD, seen.append)
        with pytest.raises(PreconditionFailed):
            await store.set(b"k", newer, forbid)
        with pytest.raises(PreconditionFailed):
            await store.delete(b"k", forbid)
        assert await store.get(b"k") is not None
        assert await store.delete(b"k", seen.append)
    assert seen == [None, None, RECORD.head, RECORD.head, RECORD.head]


async def test_a_guard_sees_the_head_of_a_raw_body(memcached: Server) -> None:
    seen: list[Head | None] = []
    await plain_set(memcached, b"k", 0, b"raw")
    async with store_on(memcached.address) as store:
        await store.set(b"k", RECORD, seen.append)
    assert seen == [raw_record(b"raw").head]


async def test_a_damaged_body_does_not_forbid_its_replacement(memcached: Server) -> None:
    seen: list[Head | None] = []
    await plain_set(memcached, b"k", RECORD_FLAGS, encode(RECORD)[:-1] + b"?")
    async with store_on(memcached.address) as store:
        await store.set(b"k", RECORD, seen.append)
        assert await store.get(b"k") is not None
    assert seen == [RECORD.head]


async def test_a_damaged_header_is_nothing_to_a_guard(memcached: Server) -> None:
    seen: list[Head | None] = []
    async with store_on(memcached.address) as store:
        await plain_set(memcached, b"k", RECORD_FLAGS, b"no record")
        await store.set(b"k", new_record(b"new", 1), seen.append)
        await plain_set(memcached, b"k", RECORD_FLAGS, b"no record")
        assert await store.delete(b"k", seen.append)
    assert seen == [None, None]


# -- sizes


def body_limit(item_limit: int, key: bytes, raw: bool) -> int:
    return item_limit - ITEM_OVERHEAD - len(key) - (0 if raw else len(encode(new_record(b"", 1))))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("options", "item_limit"), [((), MIB), (("-I", "4m"), 4 * MIB), (("-C",), MIB)]
)
async def test_the_largest_body_is_kept_and_one_byte_more_refused(
    tmp_path: Path, options: tuple[str, ...], item_limit: int, raw: bool
) -> None:
    with running(memcached_with(tmp_path, *options)) as server:
        async with store_on(server.address, replace(PATIENT, raw=raw)) as store:
            for key in (b"k", b"k" * 250):
                limit = body_limit(item_limit, key, raw)
                await store.set(key, new_record(b"x" * limit, 1))
                with pytest.raises(TooLarge) as caught:
                    await store.set(key, new_record(b"y" * (limit + 1), 2))
                refusal = caught.value
                assert (refusal.size, refusal.limit) == (limit + 1, limit)
                assert refusal.store == server.address
                found = await store.get(key)
                assert found is not None
                assert bytes(found.body) == b"x" * limit


async def test_metadata_counts_into_the_size(memcached: Server) -> None:
    async with store_on(memcached.address, replace(PATIENT, item_limit=1000)) as store:
        limit = body_limit(1000, b"k", False) - len('{"type":"a"}')
        await store.set(b"k", new_record(b"x" * limit, 1, {"type": "a"}))
        with pytest.raises(TooLarge) as caught:
            await store.set(b"k", new_record(b"x" * (limit + 1), 1, {"type": "a"}))
        assert caught.value.limit == limit


async def test_a_configured_limit_is_not_asked_for() -> None:
    async with ScriptedServer([b"STORED\r\n"]) as server:
        async with store_on(server.address, replace(PATIENT, item_limit=10)) as store:
            with pytest.raises(TooLarge) as caught:
                await store.set(b"k", RECORD)
            assert caught.value.limit == 0
        async with store_on(server.address, KNOWN_LIMIT) as store:
            await store.set(b"k", RECORD)
    assert server.requests == [b"set k %d 0 %d" % (RECORD_FLAGS, len(encode(RECORD)))]


SETTINGS = b"STAT item_size_max 1000\r\nEND\r\n"


async def test_all_who_wait_for_the_limit_share_one_question() -> None:
    scripts = [[SETTINGS] + [b"STORED\r\n"] * 11, [b"STORED\r\n"] * 11]
    async with ScriptedServer(*scripts) as server, store_on(server.address) as store:
        await asyncio.gather(*(store.set(b"k%d" % number, RECORD) for number in range(10)))
        await store.set(b"k", RECORD)
    assert server.requests.count(b"stats settings") == 1
    assert len(server.requests) == 12


@pytest.mark.parametrize("failure", [b"SERVER_ERROR no\r\n", b"STAT item_size_max ?\r\nEND\r\n"])
async def test_a_question_that_failed_is_asked_again(failure: bytes) -> None:
    script = [failure, SETTINGS, b"STORED\r\n"]
    async with ScriptedServer(script) as server, store_on(server.address) as store:
        with pytest.raises(Unreachable) as caught:
            await store.set(b"k", RECORD)
        assert caught.value.applied is False
        await store.set(b"k", RECORD)
    assert server.requests[:2] == [b"stats settings"] * 2
    assert len(server.requests) == 3


BEANSDB_STATS = b"STAT curr_items 0\r\nSTAT avail_space 1\r\nEND\r\n"
TWEMPROXY: list[Script] = [[CLOSE], [CLOSE], [b"VERSION 1.6.18\r\n"]]


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        ([[SETTINGS]], 1000),
        ([[b"END\r\n", BEANSDB_STATS]], BEANSDB_ITEM_LIMIT),
        ([[BEANSDB_STATS, BEANSDB_STATS]], BEANSDB_ITEM_LIMIT),
        ([[b"ERROR\r\n"], [BEANSDB_STATS]], BEANSDB_ITEM_LIMIT),
        ([[b"CLIENT_ERROR what\r\n"], [BEANSDB_STATS]], BEANSDB_ITEM_LIMIT),
        ([[CLOSE], [BEANSDB_STATS]], BEANSDB_ITEM_LIMIT),
        (TWEMPROXY, PROXY_ITEM_LIMIT),
        ([[b"END\r\n", b"END\r\n", b"VERSION 1\r\n"]], PROXY_ITEM_LIMIT),
    ],
)
async def test_the_limit_of_each_kind_of_server(scripts: list[Script], expected: int) -> None:
    async with ScriptedServer(*scripts) as server, store_on(server.address) as store:
        with pytest.raises(TooLarge) as caught:
            await store.set(b"k", new_record(b"x" * expected, 1))
        assert caught.value.limit == body_limit(expected, b"k", False)
    assert not any(request.startswith(b"set") for request in server.requests)


@pytest.mark.parametrize("last", [CLOSE, b"ERROR\r\n", b"SERVER_ERROR no\r\n", b"END\r\n"])
async def test_no_limit_is_guessed_of_a_server_that_is_going_away(last: bytes | None) -> None:
    async with (
        ScriptedServer([CLOSE], [CLOSE], [last]) as server,
        store_on(server.address) as store,
    ):
        with pytest.raises(Unreachable) as caught:
            await store.set(b"k", RECORD)
        assert caught.value.applied is False
    assert server.requests == [b"stats settings", b"stats", b"version"]


async def test_behind_twemproxy_the_limit_is_that_of_a_stock_memcached(
    twemproxy: tuple[Server, list[Server]],
) -> None:
    proxy, _ = twemproxy
    limit = body_limit(PROXY_ITEM_LIMIT, b"k", False)
    async with store_on(proxy.address) as store:
        await store.set(b"k", new_record(b"x" * limit, 1))
        with pytest.raises(TooLarge):
            await store.set(b"k", new_record(b"x" * (limit + 1), 1))
        assert await store.get(b"k") is not None


@pytest.mark.parametrize("noticed", ["when idle", "when asked"])
async def test_a_restarted_server_is_asked_for_its_limit_again(
    memcached: Server, noticed: str
) -> None:
    larger = new_record(b"x" * 2 * MIB, 1)
    async with store_on(memcached.address) as store:
        with pytest.raises(TooLarge):
            await store.set(b"k", larger)
        memcached.kill()
        if noticed == "when idle":
            await until(lambda: not idle_connections(store)[0].usable(), "it has been closed")
        memcached.command += ["-I", "4m"]
        memcached.start()
        assert await store.get(b"k") is None
        await store.set(b"k", larger)


async def test_a_wrong_limit_in_the_settings_is_too_large_too(memcached: Server) -> None:
    settings = replace(PATIENT, item_limit=4 * MIB)
    async with store_on(memcached.address, settings) as store:
        with pytest.raises(TooLarge) as caught:
            await store.set(b"k", new_record(b"x" * MIB, 1))
        assert (caught.value.size, caught.value.store) == (MIB, memcached.address)
        assert f"takes fewer bytes and this has {MIB} bytes" in str(caught.value)
        assert "has dropped what was there before" in str(caught.value)
        await store.set(b"k", RECORD)


async def test_a_limit_that_proved_wrong_is_asked_for_again() -> None:
    answers = [b"SERVER_ERROR object too large for cache\r\n", SETTINGS, b"STORED\r\n"]
    async with ScriptedServer([SETTINGS, *answers]) as server, store_on(server.address) as store:
        with pytest.raises(TooLarge):
            await store.set(b"k", RECORD)
        await store.set(b"k", RECORD)
    assert server.requests.count(b"stats settings") == 2


async def test_a_full_memcached(tmp_path: Path) -> None:
    with running(memcached_with(tmp_path, "-M", "-m", "4")) as server:
        async with store_on(server.address) as store:
            with pytest.raises(StoreFull) as caught:
                for number in range(100):
                    await store.set(b"k%d" % number, new_record(b"x" * 500_000, 1))
            assert caught.value.store == server.address
            assert await store.get(b"k0") is not None


# -- statistics


async def test_stats(memcached: Server) -> None:
    async with store_on(memcached.address) as store:
        stats = await store.stats()
    assert stats["pid"] == str(memcached.pid)
    assert len(stats) > 50


async def test_twemproxy_has_only_a_version(twemproxy: tuple[Server, list[Server]]) -> None:
    proxy, _ = twemproxy
    async with store_on(proxy.address) as store:
        await store.set(b"k", RECORD)
        assert list(await store.stats()) == ["version"]
        assert await store.get(b"k") is not None


@pytest.mark.parametrize("script", [[CLOSE], [b"SERVER_ERROR no\r\n"], [b"END\r\nEND\r\n"]])
async def test_stats_of_a_server_that_does_not_answer(script: Script) -> None:
    async with ScriptedServer(script) as server, store_on(server.address) as store:
        with pytest.raises(Unreachable):
            await store.stats()


# -- twemproxy and gobeansdb


async def test_twemproxy_spreads_and_finds(twemproxy: tuple[Server, list[Server]]) -> None:
    proxy, nodes = twemproxy
    keys = [b"k%d" % number for number in range(50)]
    async with store_on(proxy.address) as store:
        await asyncio.gather(*(store.set(key, new_record(key, 1)) for key in keys))
        for key in keys:
            found = await store.get(key)
            assert found is not None
            assert bytes(found.body) == key
        assert await store.delete(keys[0])
        assert not await store.delete(keys[0])
        assert await store.get(keys[0]) is None
    for node in nodes:
        async with store_on(node.address) as store:
            assert int((await store.stats())["curr_items"]) > 0


async def test_twemproxy_says_that_a_node_is_down(twemproxy: tuple[Server, list[Server]]) -> None:
    proxy, nodes = twemproxy
    nodes[0].kill()
    keys = [b"k%d" % number for number in range(50)]
    async with store_on(proxy.address, replace(KNOWN_LIMIT, connections=2)) as store:
        outcomes: list[Any] = await asyncio.gather(
            *(store.get(key) for key in keys), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {type(None), Unreachable}
        failed = [key for key, outcome in zip(keys, outcomes, strict=True) if outcome is not None]
        with pytest.raises(Unreachable, match="SERVER_ERROR") as caught:
            await store.set(failed[0], RECORD)
        assert caught.value.applied is None
        with pytest.raises(Unreachable, match="SERVER_ERROR") as caught:
            await store.delete(failed[0])
        assert caught.value.applied is None


async def test_gobeansdb(tmp_path: Path) -> None:
    with running(gobeansdb(tmp_path)) as server:
        async with store_on(server.address) as store:
            assert await store.get(b"k") is None
            await store.set(b"k", RECORD)
            found = await store.get(b"k")
            assert found is not None
            assert (found.head, bytes(found.body)) == (RECORD.head, RECORD.body)
            await store.set(b"large", new_record(b"x" * 2 * MIB, 1))
            with pytest.raises(TooLarge):
                await store.set(b"large", new_record(b"x" * BEANSDB_ITEM_LIMIT, 1))
            assert await store.get(b"large") is not None
            assert await store.delete(b"k")
            assert not await store.delete(b"k")
            assert await store.get(b"k") is None
            assert "curr_items" in await store.stats()


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
async def test_a_host_name_that_cannot_be_asked_for(host: str) -> None:
    async with store_on(f"{host}:1") as store:
        with pytest.raises(Unreachable):
            await store.get(b"k")
