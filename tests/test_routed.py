"""Who is asked in which order, what a failure means, and the clock of versions."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from sfss.cluster import Clock, Cluster
from sfss.complaints import COMPLAINT_EVERY_S, RECOVERED_AFTER_S
from sfss.errors import BadPath, CannotList, NoStoreReachable, PreconditionFailed, Unreachable
from sfss.keys import KeyScheme
from sfss.record import Content, Head, Kind, Record, encode, new_record
from sfss.routed import Owner, Proxies, Routed
from sfss.stores.base import Guard
from tests.stores.dict_store import DictStore


class FaultyStore(DictStore):
    """Shares ``values`` with its like, as proxies do, and fails as told.

    ``down``: fails at once, nothing done. ``deaf``: does what was asked and fails then.
    """

    def __init__(self, address: str, values: dict[bytes, bytes] | None = None) -> None:
        super().__init__(address)
        self.values = {} if values is None else values
        self.down = self.deaf = False
        self.asked = 0

    def _open(self) -> dict[bytes, bytes]:
        if self.down:
            raise Unreachable(self.address, "down", applied=False)
        return self.values

    async def get(self, key: bytes) -> Record | None:
        self.asked += 1
        return await super().get(key)

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        self.asked += 1
        await super().set(key, record, guard)
        self._lose_answer()

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        self.asked += 1
        found = await super().delete(key, guard)
        self._lose_answer()
        return found

    def _lose_answer(self) -> None:
        if self.deaf:
            raise Unreachable(self.address, "no answer", applied=None)


def proxies(stores: Sequence[FaultyStore], tries: int = 3, retry_after_s: float = 60.0) -> Cluster:
    """A cluster that prefers the stores in the order given."""
    by_address = {store.address: store for store in stores}
    placement = Proxies(by_address, lambda key: list(by_address), tries, retry_after_s)
    return Cluster(Routed(stores, placement), KeyScheme(), 1000)


def four() -> list[FaultyStore]:
    """Return four proxies to the same data."""
    values: dict[bytes, bytes] = {}
    return [FaultyStore(name, values) for name in "abcd"]


def body(record: Record | None) -> bytes | None:
    """Return the body of what was found."""
    return None if record is None else bytes(record.body)


async def test_put_get_delete() -> None:
    cluster = proxies(four())
    head = (await cluster.put("p", Content(b"x"))).head
    assert (head.size, head.kind) == (1, Kind.FILE)
    found = await cluster.get("p")
    assert found is not None and found.head == head
    assert await cluster.delete("p") is True
    assert await cluster.get("p") is None
    assert await cluster.delete("p") is False


async def test_a_failed_proxy_is_passed_over_and_then_asked_last() -> None:
    stores = four()
    cluster = proxies(stores)
    await cluster.put("p", Content(b"x"))
    stores[0].down = True
    for _ in range(5):
        assert body(await cluster.get("p")) == b"x"
    assert stores[0].asked == 2  # the put, and the first get
    stores[0].down = False
    stores[1].down = stores[2].down = stores[3].down = True
    # b, c and d fail now; the tries are used up before it is the turn of a.
    with pytest.raises(NoStoreReachable):
        await cluster.get("p")
    # All are parked: the ring decides again.
    assert body(await cluster.get("p")) == b"x"


async def test_a_parked_proxy_is_preferred_again_after_its_time() -> None:
    stores = four()
    cluster = proxies(stores, retry_after_s=0.0)
    stores[0].down = True
    await cluster.put("p", Content(b"x"))
    stores[0].down = False
    before = stores[0].asked
    await cluster.get("p")
    assert stores[0].asked == before + 1


async def test_no_more_proxies_are_tried_than_set_and_each_is_named() -> None:
    stores = four()
    for store in stores:
        store.down = True
    cluster = proxies(stores, tries=3)
    with pytest.raises(NoStoreReachable) as caught:
        await cluster.get("p")
    assert caught.value.failures == {"a": "down", "b": "down", "c": "down"}
    assert "may or may not" not in str(caught.value)
    assert [store.asked for store in stores] == [1, 1, 1, 0]


async def test_a_write_whose_answer_was_lost_everywhere_is_called_indeterminate() -> None:
    stores = four()
    for store in stores:
        store.deaf = True
    cluster = proxies(stores)
    with pytest.raises(NoStoreReachable) as caught:
        await cluster.put("p", Content(b"x"))
    assert caught.value.indeterminate
    assert "may or may not have been made" in str(caught.value)


async def test_a_delete_that_may_have_been_done_finds_nothing_and_is_done() -> None:
    stores = four()
    cluster = proxies(stores)
    await cluster.put("p", Content(b"x"))
    stores[0].deaf = True
    assert await cluster.delete("p") is True


async def test_a_delete_that_was_certainly_not_done_is_not_claimed() -> None:
    stores = four()
    stores[0].down = True
    assert await proxies(stores).delete("p") is False


async def test_a_repeated_delete_does_not_ask_its_own_deed_for_leave() -> None:
    stores = four()
    cluster = proxies(stores)
    await cluster.put("p", Content(b"x"))
    stores[0].deaf = True

    def must_exist(head: Head | None) -> None:
        if head is None:
            raise PreconditionFailed("If-Match")

    assert await cluster.delete("p", must_exist) is True


async def test_a_repeated_put_does_not_ask_its_own_deed_for_leave() -> None:
    stores = four()
    cluster = proxies(stores)
    stores[0].deaf = True

    def must_be_new(head: Head | None) -> None:
        if head is not None:
            raise PreconditionFailed("If-None-Match")

    await cluster.put("p", Content(b"x"), guard=must_be_new)
    assert body(await cluster.get("p")) == b"x"


async def test_a_refusal_after_a_lost_answer_does_not_claim_that_nothing_changed() -> None:
    stores = four()
    cluster = proxies(stores)
    stores[0].deaf = True
    seen: list[Head | None] = []

    def once(head: Head | None) -> None:
        seen.append(head)
        if len(seen) > 1:
            raise PreconditionFailed("If-Match")

    # Somebody else writes between the two tries.
    async def overtaken(key: bytes, record: Record, guard: Guard | None = None) -> None:
        stores[1].values[key] = encode(new_record(b"theirs", 1))
        await FaultyStore.set(stores[1], key, record, guard)

    stores[1].set = overtaken  # type: ignore[method-assign]
    with pytest.raises(NoStoreReachable) as caught:
        await cluster.put("p", Content(b"x"), guard=once)
    assert caught.value.indeterminate
    assert body(await cluster.get("p")) == b"theirs"


async def test_a_failing_store_is_logged_once_in_a_while_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = four()
    cluster = proxies(stores, retry_after_s=0.0)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(3):
        stores[0].down = True
        await cluster.get("p")
        stores[0].down = False  # it answers in between
        await cluster.get("p")
    assert [entry.getMessage() for entry in caplog.records] == ["store a cannot be reached: down"]
    now += RECOVERED_AFTER_S
    await cluster.get("p")
    assert caplog.records[1:][0].getMessage() == "store a answers again"
    stores[0].down = True
    for _ in range(4):
        await cluster.get("p")
        now += COMPLAINT_EVERY_S / 2
    assert len(caplog.records) == 4


async def test_what_a_guard_raises_is_an_answer_and_parks_nobody() -> None:
    stores = four()
    cluster = proxies(stores)

    def refuse(head: Head | None) -> None:
        raise PreconditionFailed("If-Match")

    with pytest.raises(PreconditionFailed):
        await cluster.put("p", Content(b"x"), guard=refuse)
    assert [store.asked for store in stores] == [1, 0, 0, 0]
    await cluster.put("p", Content(b"x"))
    assert stores[0].asked == 2


async def test_nobody_stands_in_for_an_owner() -> None:
    owner, other = FaultyStore("owner"), FaultyStore("other")
    placement = Owner({"owner": owner, "other": other}, lambda key: "owner")
    cluster = Cluster(Routed([owner, other], placement), KeyScheme(), 1000)
    owner.down = True
    requests: list[Callable[[], object]] = [
        lambda: cluster.get("p"),
        lambda: cluster.put("p", Content(b"x")),
        lambda: cluster.delete("p"),
    ]
    for request in requests:
        with pytest.raises(NoStoreReachable):
            await request()  # type: ignore[misc]
    assert other.asked == 0


async def test_stats_name_every_store_and_say_which_fails() -> None:
    stores = four()
    stores[1].down = True
    cluster = proxies(stores)
    stats = await cluster.stats()
    assert list(stats) == ["a", "b", "c", "d"]
    assert [name for name, figures in stats.items() if "error" in figures] == ["b"]
    for store in stores:
        store.down = True
    with pytest.raises(NoStoreReachable) as caught:
        await cluster.stats()
    assert list(caught.value.failures) == ["a", "b", "c", "d"]


async def test_listing_over_several_stores_is_refused() -> None:
    with pytest.raises(CannotList):
        await proxies(four()).list("", "", 10)


async def test_listing_of_one_store() -> None:
    store = DictStore()
    cluster = Cluster(
        Routed([store], Owner({"dict": store}, lambda key: "dict")), KeyScheme("plain"), 10
    )
    for path in ("b", "a/2", "a/1", "a 0", "ä"):
        await cluster.put(path, Content(path.encode()))
    paths = [listed.path for listed in await cluster.list("", "", 10)]
    assert paths == ["a 0", "a/1", "a/2", "b", "ä"]
    assert [listed.path for listed in await cluster.list("a/", "a/1", 10)] == ["a/2"]


async def test_a_bad_path_reaches_no_store() -> None:
    stores = four()
    cluster = proxies(stores)
    for request in (cluster.get("/p"), cluster.put("/p", Content(b"")), cluster.delete("/p")):
        with pytest.raises(BadPath):
            await request
    with pytest.raises(BadPath):
        cluster.check("")
    assert not any(store.asked for store in stores)


async def test_close_closes_every_store() -> None:
    stores = four()
    await proxies(stores).close()
    assert all(store.closed for store in stores)


def test_versions_rise_also_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    first = clock.version()
    assert abs(first - time.time() * 1_000_000) < 60_000_000
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    versions = [clock.version() for _ in range(100)]
    assert versions == sorted(set(versions))
    assert versions[0] > first


async def test_a_cancelled_request_leaves_the_others_alone() -> None:
    stores = four()
    cluster = proxies(stores)
    task = asyncio.create_task(cluster.put("p", Content(b"x")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await cluster.put("q", Content(b"y"))
    assert body(await cluster.get("q")) == b"y"
