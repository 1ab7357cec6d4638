"""A store of this machine before all others: it decides on writes, and is read first."""

import pytest

from sfss.agreement import CopiesSettings
from sfss.errors import NoStoreReachable, QuorumFailed
from tests.copies_bench import KEY, Bench, body_of
from tests.stores.faulty_store import Fault, always, at
from tests.virtual_time import in_virtual_time

SETTINGS = CopiesSettings(write_quorum=1, first_decides=True, read_mode="local")


@in_virtual_time
async def test_a_write_is_kept_by_the_first_store_whatever_the_others_do() -> None:
    bench = Bench(SETTINGS)
    bench.down("b", "c")
    head = await bench.put(b"body")
    assert bench.has() == {"a": b"body", "b": None, "c": None}
    assert await bench.debts() == {"b": head.version, "c": head.version}
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(b"body")


@in_virtual_time
@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.FULL, Fault.HANG])
async def test_a_write_that_the_first_store_refuses_is_not_kept(fault: Fault) -> None:
    bench = Bench(SETTINGS)
    await bench.put(b"old")
    bench.stores["a"].plan = at("set", fault)
    with pytest.raises(QuorumFailed) as caught:
        await bench.put(b"new")
    assert list(caught.value.failures) == ["a"]
    assert str(caught.value).startswith(
        "the store that decides has not kept the change; 2 others have; it may or may not be seen"
    )
    # Others have it: it may be seen, and it is owed.
    assert await bench.get() in (b"old", b"new")
    await bench.up()
    await bench.pay()
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_the_first_store_is_waited_for() -> None:
    bench = Bench(SETTINGS)
    bench.stores["a"].plan = always(Fault.LATE)
    await bench.put(b"body")
    assert bench.has() == bench.same(b"body")


@in_virtual_time
async def test_the_first_store_is_asked_although_it_rests() -> None:
    bench = Bench(SETTINGS)
    bench.down("a")
    with pytest.raises(QuorumFailed):
        await bench.put(b"old")
    bench.stores["a"].plan = always(Fault.LATE)
    await bench.put(b"new")
    assert bench.has() == bench.same(b"new")


@in_virtual_time
async def test_what_the_first_store_has_is_asked_of_nobody_else() -> None:
    bench = Bench(SETTINGS)
    await bench.put(b"body")
    bench.asked()
    for _ in range(4):
        assert await bench.get() == b"body"
    assert set(bench.asked()) == {("a", "get")}


@in_virtual_time
async def test_what_the_first_store_has_not_is_asked_of_the_others_in_turn() -> None:
    bench = Bench(SETTINGS)
    bench.gateway.healing.stop()
    asked: list[str] = []
    for number in range(6):
        key = b"%d" % number
        await bench.gateway.put(key, bench.record(b"body"))
        del bench.stores["a"].inner.values[key]
        bench.asked()
        assert body_of(await bench.gateway.get(key)) == b"body"
        first, second, *_ = (name for name, _ in bench.asked())
        asked += [first, second]
        await bench.gateway.finish()
        assert bench.has(key) == bench.same(b"body"), "it is healed"
    assert asked == ["a", "c", "a", "b"] * 3 or asked == ["a", "b", "a", "c"] * 3


@in_virtual_time
async def test_one_that_fails_or_has_nothing_is_followed_by_the_next() -> None:
    bench = Bench(SETTINGS)
    await bench.put(b"body")
    for lacking, failing in (("b", "c"), ("c", "b")):
        del bench.stores["a"].inner.values[KEY]
        del bench.stores[lacking].inner.values[KEY]
        assert await bench.get() == b"body"
        await bench.gateway.finish()
        assert bench.has() == bench.same(b"body")
        del bench.stores["a"].inner.values[KEY]
        bench.down(failing)
        assert await bench.get() == b"body"
        await bench.up()
        await bench.gateway.healing.heal(KEY)


@in_virtual_time
async def test_nothing_is_said_only_for_all() -> None:
    bench = Bench(SETTINGS)
    assert await bench.get() is None
    bench.down("c")
    with pytest.raises(NoStoreReachable):
        await bench.get()
