"""Files with copies that expire: they become tombstones, and nothing older comes back."""

import asyncio
from typing import cast

import pytest

from sfss.agreement import Debt, rank, to_be_had
from sfss.chunks import PLAIN_PREFIX
from sfss.errors import QuorumFailed
from sfss.expiring import AGAIN_AFTER_US, Expiring
from sfss.faults import Fault
from sfss.inventory import Inventory, Listed
from sfss.large import Large, LargeSettings
from sfss.record import (
    VERSION_LIMIT,
    Content,
    Head,
    Kind,
    Record,
    decode,
    encode,
    expired_tombstone,
    new_record,
    record_of,
)
from sfss.repair import Mender, Patience, Tool, Treated
from sfss.repair_chunks import ChunkCare, ManyStores
from tests.copies_bench import DAY, KEY, Bench, lines_of
from tests.stores.dict_store import DictStore
from tests.virtual_time import in_virtual_time

VERSION = 1_700_000_000_000_000
TTL_S = 86_400


def expiring_file(bench: Bench, body: bytes = b"body") -> Record:
    """Return a new record that expires in a day."""
    return record_of(Content(body, ttl_s=TTL_S), bench.clock.version())


async def put(bench: Bench, body: bytes = b"body") -> Head:
    """Put a file that expires in a day."""
    return (await bench.gateway.put(KEY, expiring_file(bench, body))).head


def heads(bench: Bench) -> dict[str, Head | None]:
    """Return what the primaries have."""
    values = {name: bench.stores[name].inner.values.get(KEY) for name in bench.names}
    return {
        name: None if value is None else decode(value, name, KEY).head
        for name, value in values.items()
    }


def sweep(bench: Bench, *names: str, forgets: bool = False) -> None:
    """Have stores do with the file what ``sfss node`` does, or memcached if it ``forgets``."""
    for name in names:
        values = bench.stores[name].inner.values
        if forgets:
            del values[KEY]
        else:
            head = decode(values[KEY], name, KEY).head
            values[KEY] = encode(expired_tombstone(head))


def scrub(bench: Bench, tool: Tool = Tool.SCRUB) -> Mender:
    """Return what a tool does."""
    patience = Patience(asyncio.Event(), limit_s=0)
    return Mender(bench.gateway, lambda _: bench.names, tool, False, patience)


async def scrubbed(bench: Bench, tool: Tool = Tool.SCRUB) -> Treated:
    """Have a tool look at the key."""
    return await scrub(bench, tool).treat(Listed(KEY, frozenset(bench.names), False))


def test_nothing_comes_between_a_file_and_its_tombstone() -> None:
    bodies = [b"", b"a", b"b", b"c"]
    files = [
        record_of(Content(body, names=names, ttl_s=ttl_s), VERSION + later).head
        for body in bodies
        for later in (0, 1)
        for ttl_s in (None, 1)
        for names in ({}, {"a": "b"})
    ]
    files += [head._replace(kind=Kind.MANIFEST) for head in files]
    for head in files:
        gone = expired_tombstone(head).head
        assert rank(gone) > rank(head)
        others = [
            each for each in files if (each.version, each.digest) != (head.version, head.digest)
        ]
        for other in others:
            assert (rank(other) > rank(gone)) == (rank(other) > rank(head))


@in_virtual_time
async def test_a_heal_of_an_expired_file_makes_tombstones() -> None:
    bench = Bench()
    head = await put(bench)
    assert (await bench.gateway.healing.heal(KEY)).is_settled
    bench.clock.now += DAY
    sweep(bench, "b")
    healed = await bench.gateway.healing.heal(KEY)
    gone = expired_tombstone(head).head
    assert heads(bench) == dict.fromkeys("abc", gone)
    assert (healed.newest, sorted(healed.mended)) == (gone, ["a", "c"])
    assert (await bench.gateway.healing.heal(KEY)).is_settled
    assert await bench.get() is None


@pytest.mark.parametrize("swept", ["nobody", "nodes", "memcached"])
@in_virtual_time
async def test_a_store_that_was_down_does_not_bring_back_something_older(swept: str) -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("c")
    head = await put(bench)
    bench.clock.now += DAY
    if swept != "nobody":
        sweep(bench, "a", "b", forgets=swept == "memcached")
    with lines_of("sfss.paying") as lines:
        await bench.up("c")
        found = await bench.gateway.get(KEY)
        assert found is None or found.head == head
        await bench.gateway.healing.heal(KEY)
        await bench.pay()
    assert lines == []
    assert heads(bench) == dict.fromkeys("abc", expired_tombstone(head).head)
    assert await bench.get() is None


@in_virtual_time
async def test_what_was_refused_and_has_expired_takes_nothing_with_it() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("b", "c")
    with pytest.raises(QuorumFailed):
        await put(bench)
    (debt,) = {each._replace(address="") for each in await bench.owed.all()}
    assert (debt.acknowledged, debt.expiry > debt.version) == (0, True)
    bench.stores["a"].inner.values[KEY] = encode(new_record(b"old", VERSION))
    for name in "bc":
        bench.stores[name].inner.values[KEY] = encode(new_record(b"old", VERSION))
    bench.clock.now += DAY
    await bench.up()
    await bench.gateway.healing.heal(KEY)
    assert await bench.get() == b"old"


@in_virtual_time
async def test_a_write_right_behind_an_expired_file_stays() -> None:
    """The clock of its gateway was behind: it is stamped above what it has met, by 1."""
    bench = Bench()
    head = await put(bench)
    bench.down("c")
    new = new_record(b"new", head.version - 5)
    kept = await bench.gateway.put(KEY, new)
    assert kept.head.version == head.version + 1
    bench.clock.now += DAY
    await bench.up("c")
    sweep(bench, "c")
    assert await bench.get() == b"new"
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_a_write_of_the_same_microsecond_stays() -> None:
    bench = Bench()
    version = bench.clock.version()
    records = [record_of(Content(b"%d" % each, ttl_s=TTL_S), version) for each in range(9)]
    loser = min(records, key=lambda record: record.head.digest)
    winner = new_record(b"winner", version)
    winner = max(winner, new_record(b"another", version), key=lambda record: record.head.digest)
    assert rank(winner.head) > rank(loser.head)
    await bench.gateway.put(KEY, loser)
    bench.down("c")
    await bench.gateway.put(KEY, winner)
    bench.clock.now += DAY
    await bench.up("c")
    sweep(bench, "c")
    await bench.pay()
    assert bench.has() == bench.same(bytes(winner.body))


def test_a_debt_that_has_expired_counts_if_it_was_acknowledged() -> None:
    head = record_of(Content(b"body", ttl_s=1), VERSION).head
    debt = Debt("a", KEY, head.version, head.version, head.digest, head.expiry)
    gone = expired_tombstone(head)
    assert to_be_had([], {"a": debt}, head.expiry) == gone
    assert to_be_had([], {"a": debt}, head.expiry - 1) is None
    assert to_be_had([], {"a": debt._replace(acknowledged=1)}, head.expiry) is None
    assert to_be_had([], {"a": debt._replace(expiry=0)}, head.expiry) is None


@in_virtual_time
async def test_a_check_finds_no_fault_with_expired_files() -> None:
    bench = Bench()
    await bench.put(b"old")
    older = bench.stores["c"].inner.values[KEY]
    await put(bench)
    bench.clock.now += DAY
    assert await bench.gateway.healing.verify(KEY) == []
    sweep(bench, "a")
    sweep(bench, "b", forgets=True)
    assert await bench.gateway.healing.verify(KEY) == []
    assert await scrubbed(bench, Tool.CHECK) == Treated([])
    bench.stores["c"].inner.values[KEY] = older
    (found,) = await bench.gateway.healing.verify(KEY)
    assert (found.address, found.fault) == ("c", Fault.STALE)


@in_virtual_time
async def test_a_scrub_removes_what_has_expired_and_forgets_it_later() -> None:
    bench = Bench()
    head = await put(bench)
    assert await scrubbed(bench) == Treated([])
    bench.clock.now += DAY
    assert await scrubbed(bench, Tool.REPAIR) == Treated([])
    assert heads(bench) == dict.fromkeys("abc", head)
    assert await scrubbed(bench) == Treated([], expired=3)
    assert {found.kind for found in heads(bench).values() if found} == {Kind.TOMBSTONE}
    assert await scrubbed(bench) == Treated([])
    bench.clock.now += 10 * DAY
    assert await scrubbed(bench) == Treated([], reaped=3)
    assert heads(bench) == dict.fromkeys("abc")


@in_virtual_time
async def test_a_scrub_with_one_store_down_waits_for_it() -> None:
    bench = Bench()
    await bench.put(b"old")
    bench.down("c")
    head = await put(bench)
    bench.clock.now += 20 * DAY
    for _ in range(2):
        await scrubbed(bench)
        assert None not in heads(bench).values()
    await bench.up("c")
    await scrubbed(bench)
    assert {found.version for found in heads(bench).values() if found} == {head.version}
    await bench.pay()
    await scrubbed(bench)
    assert heads(bench) == dict.fromkeys("abc")
    assert await bench.get() is None


def noted(bench: Bench) -> Expiring:
    """Return the notes of the gateway on when its files expire."""
    expiring = Expiring(DictStore(), bench.gateway.healing)
    bench.gateway.note_expiry = expiring.note
    return expiring


@in_virtual_time
async def test_what_was_noted_goes_when_its_time_has_come() -> None:
    bench = Bench()
    expiring = noted(bench)
    head = await put(bench)
    assert not await expiring.sweep(head.expiry - 1)
    assert heads(bench) == dict.fromkeys("abc", head)
    bench.clock.now += DAY
    bench.down("c")
    await expiring.sweep(head.expiry)
    gone = expired_tombstone(head).head
    assert heads(bench) == {"a": gone, "b": gone, "c": head}
    # The store that was down has its turn later, and later still.
    again = head.expiry + AGAIN_AFTER_US
    await expiring.sweep(again - 1)
    await expiring.sweep(again)
    await bench.up("c")
    await expiring.sweep(again + AGAIN_AFTER_US - 1)
    assert heads(bench)["c"] == head
    again += AGAIN_AFTER_US
    await expiring.sweep(again)
    assert heads(bench) == dict.fromkeys("abc", gone)
    bench.asked()
    await expiring.sweep(again + DAY)
    assert bench.asked() == []


@in_virtual_time
async def test_what_was_noted_and_replaced_stays() -> None:
    bench = Bench()
    expiring = noted(bench)
    head = await put(bench)
    later = await bench.put(b"later")
    bench.clock.now += DAY
    await expiring.sweep(head.expiry)
    assert heads(bench) == dict.fromkeys("abc", later)


@in_virtual_time
async def test_many_notes() -> None:
    bench = Bench()
    expiring = noted(bench)
    keys = [b"key/%d" % number for number in range(200)]
    for key in keys:
        await bench.gateway.put(key, expiring_file(bench, key))
    bench.clock.now += 2 * DAY
    rounds = 1
    while await expiring.sweep(bench.clock.now):
        rounds += 1
    assert rounds == 4
    values = [bench.stores[name].inner.values[key] for name in "abc" for key in keys]
    assert {decode(value, "", b"").head.kind for value in values} == {Kind.TOMBSTONE}


@in_virtual_time
async def test_a_large_file_is_whole_until_it_expires_and_gone_then() -> None:
    bench = Bench()
    large = Large(bench.gateway, LargeSettings(10_000_000, 1000, PLAIN_PREFIX, key_limit=250))
    record = expiring_file(bench, bytes(2_000_000))
    await large.put(KEY, record)
    keys = [key for key in bench.stores["a"].inner.values if key != KEY]
    assert len(keys) == 4
    expiries = {head_of(bench, name, key).expiry for name in bench.names for key in [KEY, *keys]}
    assert expiries == {record.head.expiry}
    bench.clock.now = record.head.expiry - 1000 * len(keys) * 100
    assert await cared_for(bench) == (0, 0, 0)
    assert {head_of(bench, "c", key).kind for key in keys} == {Kind.FILE}
    # Chunks may go a moment before their manifest; that is no damage.
    del bench.stores["a"].inner.values[keys[0]]
    bench.clock.now = record.head.expiry
    assert await cared_for(bench, Tool.CHECK) == (0, 0, 0)
    assert await cared_for(bench) == (0, 3 * (1 + len(keys)), 0)
    kinds = {head_of(bench, name, key).kind for name in bench.names for key in [KEY, *keys]}
    assert kinds == {Kind.TOMBSTONE}
    assert await large.get(KEY) is None
    assert await cared_for(bench, Tool.CHECK) == (0, 0, 0)
    bench.clock.now += 10 * DAY
    assert await cared_for(bench) == (0, 0, 3 * (1 + len(keys)))
    assert not any(store.inner.values for store in bench.stores.values())


@in_virtual_time
async def test_what_a_large_file_lacks_is_damage_only_until_it_expires() -> None:
    bench = Bench()
    large = Large(bench.gateway, LargeSettings(10_000_000, 1000, PLAIN_PREFIX, key_limit=250))
    record = expiring_file(bench, bytes(2_000_000))
    await large.put(KEY, record)
    (lost, *_) = [key for key in bench.stores["a"].inner.values if key != KEY]
    for store in bench.stores.values():
        del store.inner.values[lost]
    assert await cared_for(bench, Tool.CHECK) == (1, 0, 0)
    bench.clock.now = record.head.expiry
    assert await cared_for(bench, Tool.CHECK) == (0, 0, 0)
    care = caring(bench, Tool.CHECK)
    head = head_of(bench, "a", KEY)
    care.treat_copies = lambda _: asyncio.sleep(0, Treated(part=head))  # seen before it expired
    assert (await care.treat(Listed(KEY, frozenset(bench.names), True))).seen == ()


def head_of(bench: Bench, name: str, key: bytes) -> Head:
    """Return what a store has."""
    return decode(bench.stores[name].inner.values[key], name, key).head


class Shown:
    """Lists what is in the stores of a bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def page(self, after: bytes, limit: int) -> list[Listed]:
        """Return up to ``limit`` keys behind ``after``."""
        stores = self._bench.stores.values()
        keys = sorted({key for store in stores for key in store.inner.values if key > after})
        return [Listed(key, frozenset(self._bench.names), False) for key in keys[:limit]]


def caring(bench: Bench, tool: Tool) -> ChunkCare:
    """Return what a tool does, which takes every chunk for old enough to be an orphan."""
    return ChunkCare(
        scrub(bench, tool).treat,
        ManyStores(bench.gateway),
        cast(Inventory, Shown(bench)),
        lambda _: bench.names,
        PLAIN_PREFIX,
        VERSION_LIMIT,
        tool is Tool.SCRUB,
        lambda: bench.clock.now,
    )


async def cared_for(bench: Bench, tool: Tool = Tool.SCRUB) -> tuple[int, int, int]:
    """Have a tool look at all keys; return how much it has seen, removed as expired, and reaped."""
    care, found = caring(bench, tool), []
    for listed in await Shown(bench).page(b"", 1000):
        found.append(await care.treat(listed))
    return (
        sum(len(each.seen) for each in found),
        sum(each.expired for each in found),
        sum(each.reaped for each in found),
    )
