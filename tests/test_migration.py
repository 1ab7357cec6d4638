"""The state of a migration, and where files are read and written in each."""

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sfss.agreement import CopiesSettings
from sfss.copies import Copies
from sfss.errors import NoStoreReachable, Refused, SettingError
from sfss.migration import Migration, State, check_none
from sfss.placement import Mirror, Places, Where
from sfss.record import Head, decode, encode
from tests.copies_bench import KEY, Bench, body_of
from tests.stores.faulty_store import Fault, at
from tests.virtual_time import in_virtual_time


@pytest.fixture(name="migration")
def new_migration(tmp_path: Path) -> Migration:
    """One that has not begun."""
    return Migration(tmp_path / "migration", "from", "to")


def walk(migration: Migration, *steps: str) -> State:
    """Take ``steps``, everything being copied before the last."""
    for step in steps:
        migration.copied(migration.status().since_us)
        migration.take(step)
    return migration.state()


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([], State.OLD),
        (["start"], State.BOTH),
        (["start", "start"], State.BOTH),
        (["start", "finish"], State.NEW),
        (["start", "finish", "finish"], State.NEW),
        (["start", "abort"], State.BACK),
        (["start", "abort", "abort"], State.BACK),
        (["start", "abort", "finish"], State.OLD),
        (["start", "abort", "start"], State.BOTH),
        (["start", "abort", "finish", "start", "finish"], State.NEW),
    ],
)
def test_steps(migration: Migration, steps: list[str], state: State) -> None:
    assert walk(migration, *steps) is state


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ([], "abort"),
        ([], "finish"),
        (["start", "abort", "finish"], "finish"),
        (["start", "finish"], "start"),
        (["start", "finish"], "abort"),
    ],
)
def test_steps_that_do_not_follow(migration: Migration, steps: list[str], refused: str) -> None:
    before = walk(migration, *steps)
    with pytest.raises(Refused, match=refused):
        migration.take(refused)
    assert migration.state() is before


def test_it_ends_only_when_everything_is_copied(migration: Migration) -> None:
    began = migration.take("start")
    with pytest.raises(Refused, match="not everything has been copied"):
        migration.take("finish")
    assert not migration.copied(began.since_us - 1)
    with pytest.raises(Refused):
        migration.take("finish")
    assert migration.copied(began.since_us)
    assert migration.take("finish").state is State.NEW


def test_it_can_be_forced_to_end(migration: Migration) -> None:
    migration.take("start")
    assert migration.take("finish", force=True).state is State.NEW


def test_what_was_copied_before_an_abort_says_nothing(migration: Migration) -> None:
    walk(migration, "start")
    assert migration.copied(migration.status().since_us)
    migration.take("abort")
    migration.take("start")
    with pytest.raises(Refused):
        migration.take("finish")


def test_all_see_a_change_at_once_and_it_is_remembered(
    tmp_path: Path, migration: Migration
) -> None:
    other = Migration(tmp_path / "migration", "from", "to")
    migration.take("start")
    assert other.state() is State.BOTH
    other.take("abort")
    assert migration.state() is State.BACK
    migration.close()
    other.close()
    assert Migration(tmp_path / "migration", "from", "to").state() is State.BACK


@pytest.mark.parametrize("state", [State.OLD, State.NEW])
def test_one_that_has_ended_makes_room_for_another(
    tmp_path: Path, migration: Migration, state: State
) -> None:
    if state is State.NEW:
        walk(migration, "start", "finish")
        check_none(tmp_path / "migration", "to")
    other = Migration(tmp_path / "migration", "to", "elsewhere")
    assert other.state() is State.OLD


def test_after_one_that_has_ended_places_may_change_again(
    tmp_path: Path, migration: Migration
) -> None:
    file = tmp_path / "migration"
    walk(migration, "start", "finish")
    check_none(file, "to")
    assert Migration(file, "from", "to").state() is State.NEW  # who has not heard of it yet
    check_none(file, "to and more")
    with pytest.raises(SettingError, match="in its new places"):
        check_none(file, "from")
    assert Migration(file, "to and more", "from").state() is State.OLD


@pytest.mark.parametrize("steps", [["start"], ["start", "abort"], ["start", "finish"]])
def test_one_that_has_not_ended_is_not_forgotten(
    tmp_path: Path, migration: Migration, steps: list[str]
) -> None:
    state = walk(migration, *steps)
    for places in (("other", "to"), ("from", "elsewhere"), ("elsewhere", "from")):
        with pytest.raises(SettingError, match=f"'{state.value}'"):
            Migration(tmp_path / "migration", *places)
    with pytest.raises(SettingError, match=f"'{state.value}'"):
        check_none(tmp_path / "migration", "from")
    assert migration.state() is state


def test_where_there_was_none(tmp_path: Path) -> None:
    check_none(tmp_path / "migration", "places")
    (tmp_path / "migration").mkdir()
    with pytest.raises(SettingError, match="migration"):
        check_none(tmp_path / "migration", "places")


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 128, b"h from to no", bytes(128)])
def test_a_file_that_is_none_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "migration").write_bytes(content)
    assert Migration(tmp_path / "migration", "from", "to").state() is State.OLD


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="migration"):
        Migration(tmp_path / "missing" / "migration", "from", "to")


def migrating(migration: Migration, old: str = "abc", new: str = "def", **settings: Any) -> Bench:
    """Return stores a, b, c, which are to be left for d, e, f."""
    bench = Bench(CopiesSettings(**settings), names=tuple(old), others=tuple(new))
    places = migration.places(Mirror(tuple(old)), Mirror(tuple(new)))
    bench.gateway = Copies(bench.stores, places, bench.owed, bench.clock, bench.settings)
    return bench


def on(bench: Bench, names: str) -> set[bytes | None]:
    """Return what the stores ``names`` have; a tombstone's body is empty."""
    values = [bench.stores[name].inner.values.get(KEY) for name in names]
    return {None if value is None else bytes(decode(value, "", KEY).body) for value in values}


@in_virtual_time
async def test_a_file_is_found_wherever_it_is(tmp_path: Path) -> None:
    migration = Migration(tmp_path / "migration", "from", "to")
    bench = migrating(migration)
    await bench.put(b"old")
    migration.take("start", force=True)
    assert await bench.get() == b"old"
    await bench.gateway.finish()  # what was read is copied
    assert on(bench, "def") == {b"old"}
    await bench.put(b"new")
    assert (on(bench, "abc"), on(bench, "def")) == ({b"old"}, {b"new"})
    assert await bench.get() == b"new"
    migration.take("finish", force=True)
    assert await bench.get() == b"new"


@in_virtual_time
async def test_what_was_written_in_the_meantime_is_there_after_an_abort(tmp_path: Path) -> None:
    migration = Migration(tmp_path / "migration", "from", "to")
    bench = migrating(migration)
    await bench.put(b"old")
    migration.take("start", force=True)
    await bench.put(b"new")
    migration.take("abort", force=True)
    assert await bench.get() == b"new"  # though the old places have something that is sound
    await bench.gateway.finish()
    assert on(bench, "abc") == {b"new"}
    migration.take("finish", force=True)
    assert await bench.get() == b"new"


@in_virtual_time
async def test_what_was_deleted_in_the_meantime_stays_deleted_after_an_abort(
    tmp_path: Path,
) -> None:
    migration = Migration(tmp_path / "migration", "from", "to")
    bench = migrating(migration)
    await bench.put(b"old")
    migration.take("start", force=True)
    assert await bench.gateway.delete(KEY)
    assert await bench.get() is None
    migration.take("abort", force=True)
    assert await bench.get() is None
    assert await bench.gateway.head(KEY) is None
    await bench.gateway.healing.heal(KEY)
    migration.take("finish", force=True)
    assert await bench.get() is None


@in_virtual_time
async def test_a_write_after_an_abort_is_newer_than_one_before(tmp_path: Path) -> None:
    migration = Migration(tmp_path / "migration", "from", "to")
    bench = migrating(migration)
    migration.take("start", force=True)
    await bench.put(b"in between")
    migration.take("abort", force=True)
    await bench.put(b"last")
    assert await bench.get() == b"last"
    await bench.gateway.healing.heal(KEY)
    assert (await bench.get(), on(bench, "abc")) == (b"last", {b"last"})


@in_virtual_time
async def test_what_an_aborted_migration_has_left_is_not_taken_for_the_newest(
    migration: Migration,
) -> None:
    bench = migrating(migration)
    await bench.put(b"old")
    migration.take("start")
    await bench.gateway.healing.heal(KEY)
    assert on(bench, "def") == {b"old"}
    migration.take("abort")
    migration.take("finish", force=True)
    await bench.put(b"after the abort")
    migration.take("start")
    assert await bench.get() == b"after the abort"
    assert (await bench.gateway.head(KEY) or Head(0, 0, b"")).size == len(b"after the abort")
    await bench.gateway.finish()
    assert on(bench, "def") == {b"after the abort"}


@in_virtual_time
async def test_what_was_deleted_after_an_abort_does_not_come_back(migration: Migration) -> None:
    bench = migrating(migration)
    await bench.put(b"old")
    migration.take("start")
    await bench.gateway.healing.heal(KEY)
    migration.take("abort")
    migration.take("finish", force=True)
    assert await bench.gateway.delete(KEY)
    migration.take("start")
    assert await bench.get() is None
    await bench.gateway.finish()
    migration.take("finish", force=True)
    assert await bench.get() is None


def write_late(bench: Bench, names: str) -> None:
    """Have writes to the stores ``names`` take a second."""
    for name in names:
        bench.stores[name].plan, bench.stores[name].late_s = at("set", Fault.LATE), 1.0


@pytest.mark.parametrize("step", ["start", "abort"])
@in_virtual_time
async def test_a_write_that_a_step_has_overtaken_is_where_the_file_belongs_then(
    migration: Migration, step: str
) -> None:
    bench = migrating(migration)
    await bench.put(b"old")
    before, after = "abc", "def"
    if step == "abort":
        migration.take("start")
        await bench.gateway.healing.heal(KEY)
        before, after = after, before
    write_late(bench, before)
    writing = asyncio.ensure_future(bench.put(b"overtaken"))
    await asyncio.sleep(0.5)
    migration.take(step)
    assert await bench.get() == b"old"  # and it is copied to where it belongs now
    await writing
    assert await bench.get() == b"overtaken"
    assert on(bench, after) == {b"overtaken"}
    await bench.gateway.finish()


@in_virtual_time
async def test_a_delete_that_a_step_has_overtaken_holds(migration: Migration) -> None:
    bench = migrating(migration)
    await bench.put(b"old")
    write_late(bench, "abc")
    deleting = asyncio.ensure_future(bench.gateway.delete(KEY))
    await asyncio.sleep(0.5)
    migration.take("start")
    assert await bench.get() == b"old"
    await bench.gateway.healing.heal(KEY)
    assert await deleting
    assert await bench.get() is None
    await bench.up()
    migration.take("finish", force=True)
    assert await bench.get() is None


@pytest.mark.parametrize("is_guarded", [False, True])
@in_virtual_time
async def test_a_write_is_newer_than_what_is_in_the_old_places(
    migration: Migration, is_guarded: bool
) -> None:
    bench = migrating(migration)
    bench.clock.now += 10_000_000_000  # another gateway, or program, whose clock is ahead
    await bench.put(b"old")
    bench.clock.now -= 10_000_000_000
    migration.take("start")
    await bench.put(b"new", (lambda head: None) if is_guarded else None)
    assert await bench.get() == b"new"
    await bench.gateway.healing.heal(KEY)
    assert (await bench.get(), on(bench, "def")) == (b"new", {b"new"})
    assert await bench.gateway.delete(KEY)
    assert await bench.get() is None


@in_virtual_time
async def test_once_all_is_copied_the_old_places_are_asked_only_for_what_the_new_ones_lack(
    migration: Migration,
) -> None:
    bench = migrating(migration)
    await bench.put(b"old")
    migration.take("start")
    await bench.gateway.healing.heal(KEY)
    bench.asked()
    assert await bench.get() == b"old"
    assert {name for name, _ in bench.asked()} & set("abc")
    await bench.gateway.finish()
    bench.asked()
    migration.copied(migration.status().since_us)
    assert await bench.get() == b"old"
    assert {name for name, _ in bench.asked()} <= set("def")
    bench.stores["a"].inner.values[b"another"] = encode(bench.record(b"from elsewhere"))
    assert body_of(await bench.gateway.get(b"another")) == b"from elsewhere"


@pytest.mark.parametrize("down", "abde")
@in_virtual_time
async def test_one_store_down_hides_no_file_though_a_single_one_confirms_writes(
    migration: Migration, down: str
) -> None:
    bench = migrating(migration, "ab", "de", write_quorum=1)
    await bench.put(b"old")
    migration.take("start")
    await bench.gateway.put(b"moved", bench.record(b"new"))
    bench.down(down)
    for _ in range(3):
        assert await bench.get() == b"old"
        assert body_of(await bench.gateway.get(b"moved")) == b"new"
    with pytest.raises(NoStoreReachable):
        await bench.gateway.get(b"nothing")
    migration.take("abort")
    for _ in range(3):
        assert await bench.get() == b"old"
        assert body_of(await bench.gateway.get(b"moved")) == b"new"
    await bench.gateway.finish()


@in_virtual_time
async def test_a_store_that_is_owed_a_write_says_nothing_for_the_others(
    migration: Migration,
) -> None:
    bench = migrating(migration, "ab", "de", write_quorum=1)
    await bench.put(b"old")
    migration.take("start")
    bench.down("d")
    await bench.put(b"new")
    await bench.up()
    bench.down("e")
    with pytest.raises(NoStoreReachable):
        await bench.get()
    await bench.up()
    assert await bench.get() == b"new"
    await bench.gateway.finish()


def test_where_a_key_belongs_is_said_of_one_moment() -> None:
    states = count()  # it is another each time that somebody looks: twice, and then no more
    last: list[int] = []

    def state() -> int:
        last.append(min(next(states), 3))
        return last[-1]

    places = Places(
        lambda _: (f"new {last[-1]}",),
        lambda _: (f"former {last[-1]}",),
        lambda: bool(last[-1]),
        state=state,
    )
    assert places.of(KEY) == Where(("new 3",), ("former 3",), True)


def test_long_after_an_abort_the_new_places_have_to_be_emptied_first(tmp_path: Path) -> None:
    migration = Migration(tmp_path / "migration", "from", "to", memory_s=3600)
    walk(migration, "start", "abort", "finish", "start", "abort", "finish")
    migration.close()
    forgetful = Migration(tmp_path / "migration", "from", "to", memory_s=-1)
    with pytest.raises(Refused, match="empty them"):
        forgetful.take("start")
    assert forgetful.take("start", force=True).state is State.BOTH
    assert forgetful.take("start").state is State.BOTH
    other = Migration(tmp_path / "other", "from", "to", memory_s=-1)
    assert other.take("start").state is State.BOTH  # there was none before
