"""The list of debts: what stays noted, what it costs to look, and what is done when it is full."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from sfss.agreement import EVERY_VERSION, Debt
from sfss.errors import StoreFull, Unreachable
from sfss.owed import EVERYTHING, Owed, place
from sfss.record import encode, new_record
from sfss.stores.base import Use
from sfss.stores.embedded import EmbeddedStore
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always, at

ODD_KEY = bytes(range(256))[:250]


class CountingStore(DictStore):
    """Knows how often it was asked, and says when it changes, as the embedded store does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.changes = 0, 1

    def view(self, key: bytes, use: Use) -> bool:
        """Not here."""
        return False

    def state(self) -> int:
        """Return how often it was changed."""
        return self.changes

    def _open(self) -> dict[bytes, bytes]:
        self.asked += 1
        return super()._open()

    async def set(self, *args: object, **kwargs: object) -> None:
        """Count a change."""
        await super().set(*args, **kwargs)  # type: ignore[arg-type]
        self.changes += 1

    async def delete(self, *args: object, **kwargs: object) -> bool:
        """Count a change."""
        self.changes += 1
        return await super().delete(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture(name="owed", params=["dict", "counting", "embedded"])
async def owed_in_each(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Owed]:
    """A list in each kind of store."""
    if request.param == "embedded":
        owed = Owed(EmbeddedStore(tmp_path / "owed"), limit=100)
    else:
        owed = Owed(DictStore() if request.param == "dict" else CountingStore(), limit=100)
    yield owed
    await owed.close()


async def test_what_is_noted_is_owed(owed: Owed) -> None:
    debts = [Debt("a:1", b"k", 5, 5), Debt("b:1", b"k", 5, 5), Debt("a:1", ODD_KEY, 6)]
    assert await owed.owes(b"k", ["a:1", "b:1", "c:1"]) == {}
    await owed.add(debts)
    assert await owed.owes(b"k", ["a:1", "b:1", "c:1"]) == {"a:1": debts[0], "b:1": debts[1]}
    assert await owed.owes(b"k", ["b:1", "c:1"]) == {"b:1": debts[1]}
    assert await owed.owes(ODD_KEY, ["a:1", "b:1"]) == {"a:1": debts[2]}
    assert await owed.owes(b"another", ["a:1", "b:1"]) == {}
    assert await owed.count() == 3


async def test_what_is_settled_is_owed_no_more(owed: Owed) -> None:
    debts = [Debt("a:1", b"k", 5, 5), Debt("b:1", b"k", 5, 5)]
    await owed.add(debts)
    assert await owed.settle(debts[0])
    assert not await owed.settle(debts[0])
    assert await owed.owes(b"k", ["a:1", "b:1"]) == {"b:1": debts[1]}
    assert await owed.settle(debts[1])
    assert await owed.owes(b"k", ["a:1", "b:1"]) == {}
    assert await owed.count() == 0


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ((5, 5), (6, 6), (6, 6)),
        ((6, 6), (5, 5), (6, 6)),
        ((5, 5), (6, 0), (6, 5)),
        ((6, 0), (5, 5), (6, 5)),
        ((5, 0), (6, 6), (6, 6)),
        ((5, 5), (5, 0), (5, 5)),
    ],
)
async def test_of_two_debts_the_newer_remains_and_what_was_acknowledged(
    owed: Owed, first: tuple[int, int], second: tuple[int, int], both: tuple[int, int]
) -> None:
    await owed.add([Debt("a:1", b"k", *first)])
    await owed.add([Debt("a:1", b"k", *second)])
    assert await owed.owes(b"k", ["a:1"]) == {"a:1": Debt("a:1", b"k", *both)}
    assert await owed.count() == 1


async def test_debts_that_are_noted_at_the_same_time(owed: Owed) -> None:
    debts = [Debt("a:1", b"k", version, version if version % 2 else 0) for version in range(1, 21)]
    await asyncio.gather(*(owed.add([debt]) for debt in debts))
    assert await owed.owes(b"k", ["a:1"]) == {"a:1": Debt("a:1", b"k", 20, 19)}


async def test_a_newer_debt_is_not_settled_by_the_older(owed: Owed) -> None:
    older, newer = Debt("a:1", b"k", 5, 5), Debt("a:1", b"k", 6)
    await owed.add([older])
    await owed.add([newer])
    assert not await owed.settle(older)
    assert not await owed.settle(newer), "it is owed the acknowledged version, too"
    assert await owed.settle(Debt("a:1", b"k", 6, 5))


async def test_the_debts_of_one_store_are_listed_in_pages(owed: Owed) -> None:
    mine = [Debt("a:1", b"%d" % number, number + 1) for number in range(25)]
    await owed.add([*mine, *(debt._replace(address="b:1") for debt in mine)])
    found: list[Debt] = []
    while page := await owed.of("a:1", place(found[-1]) if found else b"", 10):
        assert len(page) <= 10
        found += page
    assert sorted(found) == sorted(mine)
    assert await owed.of("c:1") == []


async def test_the_debts_of_all_stores_are_listed_in_pages(owed: Owed) -> None:
    debts = [Debt(name, b"%d" % number, 5) for name in ("a:1", "b:1") for number in range(12)]
    debts.append(Debt("b:1", EVERYTHING, 7))
    await owed.add(debts)
    found: list[Debt] = []
    while page := await owed.all(place(found[-1]) if found else b"", 10):
        assert len(page) <= 10
        found += page
    assert sorted(found) == sorted(debts)


async def test_what_is_owed_to_stores_that_are_gone_is_forgotten(owed: Owed) -> None:
    stays = [Debt("a:1", b"%d" % number, 5) for number in range(40)]
    goes = [Debt("b:1", b"%d" % number, 5) for number in range(50)]
    await owed.add([*stays, *goes, Debt("b:1", EVERYTHING, 7)])
    assert await owed.forget_others({"a:1", "c:1"}) == 51
    assert sorted(await owed.all(limit=200)) == sorted(stays)
    assert await owed.forget_others({"a:1", "c:1"}) == 0


async def test_of_two_debts_with_one_version_that_of_the_write_that_won_remains(owed: Owed) -> None:
    lost, won = Debt("a:1", b"k", 5, 5, b"1"), Debt("a:1", b"k", 5, 0, b"2")
    for debts in ([lost, won], [won, lost]):
        for debt in debts:
            await owed.add([debt])
        both = won._replace(acknowledged=5)
        assert await owed.owes(b"k", ["a:1"]) == {"a:1": both}
        assert await owed.settle(both)


async def test_beyond_the_limit_a_store_is_owed_everything(
    owed: Owed, caplog: pytest.LogCaptureFixture
) -> None:
    await owed.add([Debt("a:1", b"%d" % number, 1) for number in range(100)])
    await owed.add([Debt("b:1", b"k", 5, 5), Debt("b:1", b"l", 7)])
    assert await owed.count() == 101
    assert await owed.everything("b:1") == Debt("b:1", EVERYTHING, 7, 5)
    assert await owed.everything("a:1") is None
    assert [level for _, level, _ in caplog.record_tuples] == [logging.ERROR]
    # Of any file, whichever version it has, it may lack a newer one.
    everything = Debt("b:1", b"never written", EVERY_VERSION, EVERY_VERSION)
    assert await owed.owes(b"never written", ["b:1", "c:1"]) == {"b:1": everything}
    assert await owed.of("b:1") == [], "there is no file that could be brought"


async def test_at_the_limit_what_is_noted_can_become_newer(owed: Owed) -> None:
    await owed.add([Debt("a:1", b"%d" % number, 1) for number in range(100)])
    await owed.add([Debt("a:1", b"0", 2, 2)])
    assert await owed.owes(b"0", ["a:1"]) == {"a:1": Debt("a:1", b"0", 2, 2)}
    assert await owed.everything("a:1") is None


async def test_everything_is_settled_unless_something_was_missed_since(owed: Owed) -> None:
    await owed.add([Debt("a:1", b"%d" % number, 1) for number in range(100)])
    await owed.add([Debt("b:1", b"k", 5, 5)])
    before = await owed.everything("b:1")
    assert before is not None
    # Of the version of each: another worker's clock may be behind.
    for version in (6, 6, 4):
        await owed.add([Debt("b:1", b"l", version, version)])
        assert not await owed.settle(before)
        before = await owed.everything("b:1")
        assert before is not None
    assert await owed.settle(before)
    assert await owed.everything("b:1") is None


async def test_debts_outlive_the_process(tmp_path: Path) -> None:
    owed = Owed(EmbeddedStore(tmp_path / "owed"), limit=100)
    debt = Debt("a:1", ODD_KEY, 5, 4)
    await owed.add([debt])
    await owed.close()
    owed = Owed(EmbeddedStore(tmp_path / "owed"), limit=100)
    assert not owed.clear
    assert await owed.of("a:1") == [debt]
    await owed.close()


async def test_every_worker_sees_a_debt_at_once(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "owed")
    one, another = Owed(store, limit=100), Owed(store, limit=100)
    debt = Debt("a:1", b"k", 5, 5)
    assert await another.owes(b"k", ["a:1"]) == {}
    assert another.clear
    await one.add([debt])
    assert not another.clear
    assert await another.owes(b"k", ["a:1"]) == {"a:1": debt}
    assert await one.settle(debt)
    assert await another.owes(b"k", ["a:1"]) == {}
    assert another.clear
    await store.close()


async def test_looking_costs_nothing_while_there_are_no_debts() -> None:
    store = CountingStore()
    owed = Owed(store, limit=100)
    assert not owed.clear, "nobody has looked yet"
    assert await owed.owes(b"k", ["a:1"]) == {}
    asked = store.asked
    for _ in range(100):
        assert await owed.owes(b"k", ["a:1"]) == {}
        assert owed.clear
    assert store.asked == asked


async def test_what_is_noted_while_somebody_looks_is_not_overlooked() -> None:
    debt = Debt("a:1", b"k", 5, 5)

    class BusyStore(CountingStore):
        async def stats(self) -> Mapping[str, str]:
            found = await super().stats()
            await DictStore.set(self, place(debt), noted)
            self.changes += 1
            return found

    other = CountingStore()
    await Owed(other, limit=100).add([debt])
    noted = await other.get(place(debt))
    assert noted is not None
    owed = Owed(BusyStore(), limit=100)
    await owed.owes(b"k", ["a:1"])
    assert not owed.clear
    assert await owed.owes(b"k", ["a:1"]) == {"a:1": debt}


async def test_a_store_that_cannot_tell_its_state_is_always_asked() -> None:
    store = DictStore()
    owed = Owed(store, limit=100)
    assert await owed.owes(b"k", ["a:1"]) == {}
    await Owed(store, limit=100).add([Debt("a:1", b"k", 5, 5)])
    assert set(await owed.owes(b"k", ["a:1"])) == {"a:1"}


async def test_a_damaged_debt_is_an_error_and_is_noted_anew() -> None:
    store = FaultyStore(DictStore())
    owed = Owed(store, limit=100)
    debt = Debt("a:1", b"k", 5, 5)
    await owed.add([debt])
    store.inner.values[place(debt)] = b"damaged"
    with pytest.raises(Exception, match="damaged"):
        await owed.owes(b"k", ["a:1"])
    await owed.add([debt])
    assert await owed.owes(b"k", ["a:1"]) == {"a:1": debt}


async def test_what_is_no_debt_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    store = DictStore()
    owed = Owed(store, limit=100)
    debt = Debt("a:1", b"k", 5, 5)
    store.values[place(debt)] = encode(new_record(b"a file", 1))
    assert await owed.of("a:1") == []
    assert await owed.owes(b"k", ["a:1"]) == {}
    await owed.add([debt])
    assert await owed.of("a:1") == [debt]
    assert "none" in caplog.text


@pytest.mark.parametrize(("fault", "kind"), [(Fault.FULL, StoreFull), (Fault.REFUSE, Unreachable)])
async def test_a_list_that_fails_says_so(fault: Fault, kind: type[Exception]) -> None:
    store = FaultyStore(DictStore())
    owed = Owed(store, limit=100)
    await owed.add([Debt("a:1", b"l", 5, 5)])
    store.plan = at("set", fault)
    with pytest.raises(kind):
        await owed.add([Debt("a:1", b"k", 5, 5), Debt("b:1", b"k", 5, 5)])
    store.plan = always(Fault.REFUSE)
    with pytest.raises(Unreachable):
        await owed.owes(b"k", ["a:1"])
