"""The state of a migration, and where files are read and written in each."""

from pathlib import Path

import pytest

from sfss.copies import Copies
from sfss.errors import Refused, SettingError
from sfss.migration import Migration, State
from sfss.placement import Mirror
from sfss.record import decode
from tests.copies_bench import KEY, Bench
from tests.virtual_time import in_virtual_time


@pytest.fixture(name="migration")
def new_migration(tmp_path: Path) -> Migration:
    """One that has not begun."""
    return Migration(tmp_path / "migration", "places")


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
    [([], "abort"), (["start", "finish"], "start"), (["start", "finish"], "abort")],
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
    other = Migration(tmp_path / "migration", "places")
    migration.take("start")
    assert other.state() is State.BOTH
    other.take("abort")
    assert migration.state() is State.BACK
    migration.close()
    other.close()
    assert Migration(tmp_path / "migration", "places").state() is State.BACK


def test_the_state_of_other_places_says_nothing(tmp_path: Path, migration: Migration) -> None:
    migration.take("start")
    assert Migration(tmp_path / "migration", "other places").state() is State.OLD


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 128, b"h places no open", bytes(128)])
def test_a_file_that_is_none_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "migration").write_bytes(content)
    assert Migration(tmp_path / "migration", "places").state() is State.OLD


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="migration"):
        Migration(tmp_path / "missing" / "migration", "places")


def migrating(migration: Migration) -> Bench:
    """Return stores a, b, c, which are to be left for d, e, f."""
    bench = Bench(others=("d", "e", "f"))
    places = migration.places(Mirror(["a", "b", "c"]), Mirror(["d", "e", "f"]))
    bench.gateway = Copies(bench.stores, places, bench.owed, bench.clock, bench.settings)
    return bench


def on(bench: Bench, names: str) -> set[bytes | None]:
    """Return what the stores ``names`` have; a tombstone's body is empty."""
    values = [bench.stores[name].inner.values.get(KEY) for name in names]
    return {None if value is None else bytes(decode(value, "", KEY).body) for value in values}


@in_virtual_time
async def test_a_file_is_found_wherever_it_is(tmp_path: Path) -> None:
    migration = Migration(tmp_path / "migration", "places")
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
    migration = Migration(tmp_path / "migration", "places")
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
    migration = Migration(tmp_path / "migration", "places")
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
    migration = Migration(tmp_path / "migration", "places")
    bench = migrating(migration)
    migration.take("start", force=True)
    await bench.put(b"in between")
    migration.take("abort", force=True)
    await bench.put(b"last")
    assert await bench.get() == b"last"
    await bench.gateway.healing.heal(KEY)
    assert (await bench.get(), on(bench, "abc")) == (b"last", {b"last"})
