"""The table of keys: filled from listings, read back in order, kept only when it is complete."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from sfss import inventory as inventories
from sfss.errors import CannotList, SettingError, Unreachable
from sfss.inventory import Inventory, Listed, make_inventory, open_inventory
from sfss.record import new_record
from sfss.stores.base import ListingStore, Stamped
from tests.stores.dict_store import DictStore


class Lister:
    """Lists ``pairs`` of key and stamp, and fails as often as it is told."""

    def __init__(
        self, pairs: Sequence[tuple[bytes, int | None]], failures: int = 0, batch: int = 3
    ) -> None:
        self.pairs, self.failures, self.batch = pairs, failures, batch
        self.closed = 0

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all pairs, or half of them before it fails."""
        end = len(self.pairs) // 2 if self.failures else len(self.pairs)
        try:
            for start in range(0, end, self.batch):
                yield [Stamped(*pair) for pair in self.pairs[start : min(start + self.batch, end)]]
            if self.failures:
                self.failures -= 1
                raise Unreachable("it", "cut off")
        finally:
            self.closed += 1


async def made(file: Path, stores: Mapping[str, ListingStore], name: str = "one") -> Inventory:
    """Make an inventory."""
    return await make_inventory(file, name, stores, lambda _: None)


async def all_of(inventory: Inventory, page: int = 2) -> list[Listed]:
    """Read it in pages, and close it."""
    found: list[Listed] = []
    while listed := await inventory.page(found[-1].key if found else b"", page):
        assert len(listed) <= page
        found += listed
    await inventory.close()
    return found


def files(folder: Path) -> list[str]:
    """Return the names of the files in ``folder``."""
    return [file.name for file in folder.iterdir()]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventories, "PAUSE_S", 0.0)


async def test_keys_come_in_byte_order_with_the_stores_that_list_them(tmp_path: Path) -> None:
    keys = [b"b", b"\xff", b"a", b"\x00", b"ab", b"\xe4", b"A"]
    stores = {
        "a": Lister([(key, 7) for key in keys]),
        "b": Lister([(key, 7) for key in reversed(keys) if key != b"a"]),
    }
    inventory = await made(tmp_path / "i", stores)
    assert inventory.facts.total == len(keys)
    both = frozenset(("a", "b"))
    wanted = [Listed(key, frozenset("a") if key == b"a" else both, True) for key in sorted(keys)]
    assert await all_of(inventory) == wanted


@pytest.mark.parametrize(
    ("stamps", "alike"),
    [
        ((1, 1, 1), True),
        ((1, 1, 2), False),
        ((2, 1, 1), False),
        ((1, None, 1), False),
        ((None, 1, 1), False),
        ((None, None, None), False),
        ((2**64 - 1,) * 3, True),
        ((2**64 - 1, 2**64 - 1, 2**63 - 1), False),
        ((2**63, 2**63 - 1, 2**63), False),
        ((2**64,) * 3, False),
        ((0, 0, 0), True),
    ],
)
async def test_stamps_that_differ_or_say_nothing(
    tmp_path: Path, stamps: Sequence[int | None], alike: bool
) -> None:
    stores = {str(number): Lister([(b"k", stamp)]) for number, stamp in enumerate(stamps)}
    (listed,) = await all_of(await made(tmp_path / "i", stores))
    assert listed.alike is alike


async def test_what_one_store_alone_lists_without_a_stamp_may_be_anything(tmp_path: Path) -> None:
    stores = {"a": Lister([(b"k", None), (b"l", 1), (b"m", 1), (b"m", 2)]), "b": Lister([])}
    listed = await all_of(await made(tmp_path / "i", stores))
    assert [each.alike for each in listed] == [False, True, False]


async def test_a_key_that_comes_twice_counts_once(tmp_path: Path) -> None:
    stores = {"a": Lister([(b"k", 1)] * 7), "b": Lister([(b"k", 1)])}
    inventory = await made(tmp_path / "i", stores)
    assert inventory.facts.total == 1
    assert await all_of(inventory) == [Listed(b"k", frozenset(("a", "b")), True)]


async def test_a_set_of_stores_is_one_in_whatever_order_they_list(tmp_path: Path) -> None:
    stores = {
        "a": Lister([(b"k", 1), (b"l", 1)], batch=1),
        "b": Lister([(b"l", 1), (b"k", 1)], batch=1),
    }
    one, other = await all_of(await made(tmp_path / "i", stores))
    assert one.stores == other.stores == {"a", "b"}
    assert one.stores is other.stores


async def test_the_memory_for_sets_of_stores_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventories, "_SETS_KEPT", 2)
    key = [(bytes([number]), 1) for number in range(6)]
    stores = {str(number): Lister(key[number:]) for number in range(6)}
    inventory = await made(tmp_path / "i", stores)
    listed = await all_of(inventory)
    assert [len(each.stores) for each in listed] == [1, 2, 3, 4, 5, 6]
    assert len(inventory._table._sets) <= 2


async def test_more_stores_than_a_number_has_bits(tmp_path: Path) -> None:
    stores = {f"host-{number}:7900": Lister([(b"k", 1)]) for number in range(300)}
    (listed,) = await all_of(await made(tmp_path / "i", stores))
    assert listed.stores == frozenset(stores)


async def test_a_listing_that_breaks_off_is_begun_again(tmp_path: Path) -> None:
    keys = [(b"%03d" % number, number) for number in range(100)]
    lister = Lister(keys, failures=2)
    inventory = await made(tmp_path / "i", {"a": lister})
    assert (inventory.failures, inventory.facts.total) == ({}, 100)
    assert lister.closed == 3
    assert [each.key for each in await all_of(inventory)] == [key for key, _ in keys]


async def test_a_store_that_cannot_be_listed_is_named_and_the_table_is_not_kept(
    tmp_path: Path,
) -> None:
    class Mute:
        async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
            raise CannotList("mute")
            yield []

    stores = {"a": Lister([(b"k", 1)]), "down": Lister([(b"l", 1)] * 2, failures=99)}
    inventory = await made(tmp_path / "i", {**stores, "mute": Mute(), "none": object()})  # type: ignore[dict-item]
    assert {name: type(why) for name, why in inventory.failures.items()} == {
        "down": Unreachable,
        "mute": CannotList,
        "none": CannotList,
    }
    # What it did list counts: it is there.
    assert [each.key for each in await all_of(inventory)] == [b"k", b"l"]
    assert files(tmp_path) == []
    assert await open_inventory(tmp_path / "i", "one") is None


async def test_a_complete_table_is_found_again_by_its_fingerprint(tmp_path: Path) -> None:
    first = await made(tmp_path / "i", {"a": Lister([(b"k", 1)]), "b": Lister([])})
    await first.close()
    assert await open_inventory(tmp_path / "i", "another") is None
    again = await open_inventory(tmp_path / "i", "one")
    assert again is not None
    assert (again.facts, again.failures) == (first.facts, {})
    assert await all_of(again) == [Listed(b"k", frozenset("a"), True)]


async def test_a_table_that_was_being_filled_is_not_found(tmp_path: Path) -> None:
    stuck = asyncio.Event()

    class Endless:
        async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
            yield [Stamped(b"k", 1)]
            stuck.set()
            await asyncio.Event().wait()

    making = asyncio.ensure_future(made(tmp_path / "i", {"a": Endless(), "b": Lister([])}))
    await stuck.wait()
    assert files(tmp_path) == ["i.part"]
    assert await open_inventory(tmp_path / "i", "one") is None
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert others == set()
    assert (await made(tmp_path / "i", {"a": Lister([(b"l", 1)])})).facts.total == 1


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000, None])
async def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "i"
    await (await made(file, {"a": Lister([(b"k", 1)])})).close()
    file.write_bytes(file.read_bytes()[:5000] if damage is None else damage)
    found = await open_inventory(file, "one")
    if found is not None:  # the page with the facts was whole
        with pytest.raises(SettingError):
            await all_of(found)
        await found.close()


async def test_a_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "i.part").mkdir()
    with pytest.raises(SettingError, match=r"--work: .*i\.part"):
        await made(tmp_path / "i", {"a": Lister([(b"k", 1)])})


async def test_a_failure_of_one_ends_the_others(tmp_path: Path) -> None:
    class Broken:
        async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
            raise ZeroDivisionError
            yield []

    with pytest.raises(ZeroDivisionError):
        await made(tmp_path / "i", {"a": Lister([(b"k", 1)] * 1000, batch=1), "b": Broken()})
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_store_of_the_tests_can_be_listed(tmp_path: Path) -> None:
    stores = {name: DictStore(name) for name in ("a", "b")}
    for store in stores.values():
        await store.set(b"k", new_record(b"body", 1))
    await stores["b"].set(b"l", new_record(b"one", 1))
    await stores["a"].set(b"l", new_record(b"two", 1))
    listed = await all_of(await made(tmp_path / "i", stores))
    assert [(each.key, each.alike) for each in listed] == [(b"k", True), (b"l", False)]


class Many:
    """Lists ``count`` keys, in an order of its own."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def _batches(self) -> Iterator[Sequence[Stamped]]:
        order = list(range(0, self.count, 1000))
        random.Random(self.seed).shuffle(order)
        for start in order:
            yield [
                Stamped(b"folder/of/many/files/%012d.jpg" % number, number)
                for number in range(start, min(start + 1000, self.count))
            ]

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all keys."""
        for batch in self._batches():
            yield batch


def memory_kib() -> int:
    """Return the memory that this process has, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def test_memory_is_bounded_however_many_keys_there_are(tmp_path: Path) -> None:
    await all_of(await made(tmp_path / "small", {"a": Many(1000, 0)}))
    before = memory_kib()
    inventory = await made(tmp_path / "i", {str(seed): Many(200_000, seed) for seed in range(3)})
    count, after = 0, b""
    while page := await inventory.page(after, 1000):
        count, after = count + len(page), page[-1].key
        assert all(each.alike and len(each.stores) == 3 for each in page)
    # Kept in a dict of sets, they would be more than 60 MiB; SQLite's cache may have 32.
    assert memory_kib() - before < 50 * 1024
    await inventory.close()
    assert count == inventory.facts.total == 200_000
    with sqlite3.connect(tmp_path / "i") as table:
        assert table.execute("SELECT count(*) FROM listed").fetchone() == (200_000,)
    table.close()
