"""A map that another process makes larger, at the moments at which that is hardest to follow."""

from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from sfss.record import Content, record_of
from sfss.stores import lmdb_opening
from sfss.stores.embedded import EmbeddedStore
from tests.stores.test_embedded import KIB, Child, body_at, child

OTHER = """
async def main():
    store = EmbeddedStore(folder, initial_map_size=64 * 1024)
    say("open")
    while (size := hear()):
        await store.set(b"large", new_record(b"x" * int(size), 1))
        say("written")
asyncio.run(main())
"""


def grow(other: Child, size: int) -> None:
    """Have the other process write so much that its map grows."""
    other.tell(str(size))
    assert other.heard() == "written"


async def test_it_grows_between_the_opening_and_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child(OTHER, tmp_path) as other:
        assert other.heard() == "open"
        sizes = iter([500 * KIB, 5000 * KIB])
        fill_up = lmdb_opening._fill_up

        def late(*arguments: object) -> None:
            fill_up(*arguments)  # type: ignore[arg-type]
            if size := next(sizes, 0):
                grow(other, size)

        monkeypatch.setattr(lmdb_opening, "_fill_up", late)
        store = EmbeddedStore(tmp_path, initial_map_size=64 * KIB)
        assert next(sizes, 0) == 0
        assert await body_at(store, b"large") == b"x" * 5000 * KIB
        await store.close()


async def test_it_grows_while_the_last_commit_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child(OTHER, tmp_path) as other:
        assert other.heard() == "open"
        sizes = iter([500 * KIB])
        find = lmdb_opening.LastCommit.find

        def late(last_commit: lmdb_opening.LastCommit, read: Callable[[], int]) -> None:
            if size := next(sizes, 0):
                grow(other, size)
            find(last_commit, read)

        monkeypatch.setattr(lmdb_opening.LastCommit, "find", late)
        store = EmbeddedStore(tmp_path, initial_map_size=64 * KIB)
        assert await body_at(store, b"large") == b"x" * 500 * KIB
        assert store.state()
        await store.close()


@pytest.mark.parametrize("has_index", [True, False])
async def test_it_grows_before_a_sweep(tmp_path: Path, has_index: bool) -> None:
    store = EmbeddedStore(tmp_path, initial_map_size=64 * KIB)
    if has_index:
        await store.set(b"expiring", record_of(Content(b"body", ttl_s=1), 1))
    with child(OTHER, tmp_path) as other:
        assert other.heard() == "open"
        grow(other, 500 * KIB)
        assert await store.sweep(10_000_000, 10) is False
    assert await body_at(store, b"expiring") is None
    await store.close()


def test_an_opening_that_fails_lets_go_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: lmdb.Environment) -> int:
        raise lmdb.Error("it fails")

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_opening, "_last_number", fail)
        with pytest.raises(lmdb.Error, match="it fails"):
            lmdb_opening.open_environment(tmp_path, 64 * KIB, make=True)
    opened = lmdb_opening.open_environment(tmp_path, 64 * KIB, make=True)
    opened.environment.close()
    opened.last_commit.close()
    opened.write_lock.close()
