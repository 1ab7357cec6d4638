"""Groups side by side: who gets a file, who is asked for it, and when there is none."""

from dataclasses import dataclass, field

import pytest

from sfss.agreement import CopiesSettings
from sfss.config_groups import groups_of, parts_of
from sfss.config_reading import load
from sfss.errors import (
    CannotList,
    Corrupt,
    NoStoreReachable,
    PreconditionFailed,
    Refused,
    SettingError,
    StoreFull,
)
from sfss.groups import KNOWN_LIMIT, Group, Groups
from sfss.record import Head
from tests.copies_bench import KEY, Bench, body_of
from tests.stores.faulty_store import Fault, at
from tests.virtual_time import in_virtual_time

SETTINGS = CopiesSettings(write_quorum=1)


@dataclass
class Benches:
    """Two groups of two stores each."""

    takes: tuple[bool, bool] = (True, True)
    one: Bench = field(default_factory=lambda: Bench(SETTINGS, ("a", "b")))
    two: Bench = field(default_factory=lambda: Bench(SETTINGS, ("c", "d")))

    def __post_init__(self) -> None:
        gateways = (self.one.gateway, self.two.gateway)
        named = zip(("one", "two"), gateways, self.takes, strict=True)
        self.groups = Groups([Group(*each) for each in named])

    async def put(self, body: bytes, key: bytes = KEY) -> None:
        """Put a file."""
        await self.groups.put(key, self.one.record(body))

    async def get(self, key: bytes = KEY) -> bytes | None:
        """Get a file."""
        return body_of(await self.groups.get(key))

    def has(self) -> dict[str, bytes | None]:
        """Return what all stores have."""
        return {**self.one.has(), **self.two.has()}


@in_virtual_time
async def test_a_file_goes_to_the_first_group() -> None:
    benches = Benches()
    await benches.put(b"body")
    assert benches.has() == {"a": b"body", "b": b"body", "c": None, "d": None}
    assert await benches.get() == b"body"
    assert not [each for each in benches.two.asked() if each[1] == "set"]


@in_virtual_time
@pytest.mark.parametrize("fault", [Fault.FULL, Fault.REFUSE, Fault.HANG])
async def test_a_group_that_does_not_take_a_file_is_passed_over(fault: Fault) -> None:
    benches = Benches()
    benches.one.down("a", "b", fault=fault)
    await benches.put(b"body")
    assert benches.two.has() == benches.two.same(b"body")
    await benches.one.up()
    assert await benches.get() == b"body"


@in_virtual_time
async def test_one_member_that_is_full_or_down_is_no_reason_to_pass_over_a_group() -> None:
    benches = Benches()
    benches.one.down("a")
    await benches.put(b"body")
    assert benches.has() == {"a": None, "b": b"body", "c": None, "d": None}
    await benches.one.up()
    await benches.one.pay()
    assert benches.one.has() == benches.one.same(b"body")


@in_virtual_time
async def test_nothing_is_there_only_when_all_groups_say_so() -> None:
    benches = Benches()
    assert await benches.get() is None
    benches.two.down("c", "d")
    with pytest.raises(NoStoreReachable) as caught:
        await benches.get()
    assert set(caught.value.failures) == {"c", "d"}
    await benches.put(b"body")
    assert await benches.get() == b"body"


@in_virtual_time
async def test_what_one_group_has_is_found_although_another_is_down() -> None:
    benches = Benches()
    benches.one.down("a", "b", fault=Fault.FULL)
    await benches.put(b"body")
    benches.one.down("a", "b")
    assert await benches.get() == b"body"
    head = await benches.groups.head(KEY)
    assert head is not None and head.size == 4


@in_virtual_time
async def test_all_groups_are_full_or_down() -> None:
    benches = Benches()
    for bench in (benches.one, benches.two):
        bench.down(*bench.names, fault=Fault.FULL)
    with pytest.raises(StoreFull):
        await benches.put(b"body")
    benches.two.down("c", "d")
    with pytest.raises(NoStoreReachable) as caught:
        await benches.put(b"body")
    assert caught.value.indeterminate


@in_virtual_time
async def test_a_group_that_is_only_read() -> None:
    benches = Benches(takes=(False, True))
    await benches.one.put(b"old")
    assert await benches.get() == b"old"
    await benches.put(b"new", b"other")
    assert await benches.get(b"other") == b"new"
    assert benches.one.has(b"other") == benches.one.same(None)
    with pytest.raises(Refused):
        await benches.groups.delete(KEY)
    assert await benches.groups.delete(b"other")


@in_virtual_time
async def test_the_same_again_goes_where_it_is() -> None:
    benches = Benches()
    await benches.two.put(b"body")
    seen: list[Head | None] = []
    await benches.groups.put(KEY, benches.one.record(b"body"), seen.append)
    assert [head is not None and head.size for head in seen] == [4]
    assert benches.one.has() == benches.one.same(None)
    benches.two.down("c", "d", fault=Fault.FULL)
    await benches.put(b"body")
    assert benches.one.has() == benches.one.same(b"body")


@in_virtual_time
async def test_a_guard_forbids_and_has_to_know() -> None:
    benches = Benches()

    def guard(head: Head | None) -> None:
        if head is not None:
            raise PreconditionFailed("If-None-Match")

    await benches.groups.put(KEY, benches.one.record(b"body"), guard)
    with pytest.raises(PreconditionFailed):
        await benches.groups.put(KEY, benches.one.record(b"body"), guard)
    with pytest.raises(PreconditionFailed):
        await benches.groups.delete(KEY, guard)
    benches.two.down("c", "d")
    with pytest.raises(NoStoreReachable):
        await benches.groups.put(b"unknown", benches.one.record(b"body"), guard)


@in_virtual_time
async def test_a_file_is_removed_from_all_groups() -> None:
    benches = Benches()
    assert not await benches.groups.delete(KEY)
    await benches.one.put(b"body")
    await benches.two.put(b"body")
    assert await benches.groups.delete(KEY)
    assert await benches.get() is None
    assert not await benches.groups.delete(KEY)


@in_virtual_time
async def test_a_removal_that_a_group_did_not_hear_of_is_no_removal() -> None:
    benches = Benches()
    await benches.one.put(b"body")
    benches.two.down("c", "d")
    with pytest.raises(NoStoreReachable):
        await benches.groups.delete(KEY)
    assert benches.one.has() == benches.one.same(b"")
    await benches.two.up()
    assert not await benches.groups.delete(KEY)
    assert await benches.get() is None


@in_virtual_time
async def test_damage_is_no_absence() -> None:
    benches = Benches()
    await benches.one.put(b"body")
    for store in ("a", "b"):
        benches.one.stores[store].plan = at("get", Fault.CORRUPT)
    with pytest.raises(Corrupt):
        await benches.get()
    await benches.one.up()
    assert await benches.groups.delete(KEY)


@in_virtual_time
async def test_which_group_has_a_key_is_remembered() -> None:
    benches = Benches()
    await benches.two.put(b"body")
    await benches.get()
    benches.one.asked(), benches.two.asked()
    assert await benches.get() == b"body"
    assert not benches.one.asked()
    for number in range(KNOWN_LIMIT + 1):
        benches.groups._remember(b"%d" % number, benches.groups._groups[1])
    assert len(benches.groups._known) == KNOWN_LIMIT


@in_virtual_time
async def test_what_groups_say_of_themselves() -> None:
    benches = Benches()
    with pytest.raises(CannotList):
        await benches.groups.children(b"", b"", 10)
    assert list(await benches.groups.stats()) == ["a", "b", "c", "d"]
    benches.one.down("a")
    await benches.put(b"body")
    assert (await benches.groups.owing()).writes == 1
    ((_, debt),) = await benches.groups.missing(b"", 10)
    assert debt.address == "a"
    benches.one.down("b")
    await benches.groups.put(b"other", benches.one.record(b"x"))
    assert benches.groups.debug() == {"DeadShards": ["one"]}
    await benches.groups.close()


GROUPS = """
[[listen]]
address = "127.0.0.1:1"
faces = ["upload", "fetch"]
[cluster]
kind = "replicated"
[replicated]
placement = "groups"
shards = ["one a:1 b:1", "two c:1 d:1"]
"""


def test_the_settings_of_groups() -> None:
    settings = load(GROUPS + "preferred = ['d:1']\nread_only = ['a:1']")
    two, one = groups_of(settings)
    assert (two.name, two.takes, two.settings.replicated.stores) == ("two", True, ("d:1", "c:1"))
    assert (one.name, one.takes, one.settings.replicated.stores) == ("one", False, ("a:1", "b:1"))
    assert one.settings.replicated.placement == "mirror"
    assert one.settings.replicated.owed_folder == "var/owed/one"
    assert parts_of(settings) == [two, one]
    (alone,) = parts_of(load())
    assert (alone.name, alone.settings) == ("", load())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GROUPS + "read_only = ['a:1', 'c:1']", "names stores of all groups"),
        (GROUPS + "read_only = ['x:1']", "replicated.read_only: names 'x:1'"),
        (GROUPS + "preferred = ['x:1']", "replicated.preferred: names 'x:1'"),
        (GROUPS + "former_shards = ['one a:1']", "moves no files"),
        (GROUPS + "[migration]\nshards = ['one a:1']", "moves no files"),
        (GROUPS + "stores = ['a:1']", "is not used"),
        (GROUPS + "write_quorum = 3", "at most 2"),
        (GROUPS.replace('"fetch"', '"native"'), 'shows "native"'),
        (GROUPS.replace('"groups"', '"jump"') + "preferred = ['a:1']", "placement"),
    ],
)
def test_settings_that_do_not_go_with_groups(text: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(text)
    assert words in str(caught.value)
