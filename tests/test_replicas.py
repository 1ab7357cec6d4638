"""From settings to copies on many stores."""

from pathlib import Path

import pytest

from sfss.config import Settings
from sfss.config_reading import load
from sfss.errors import SettingError
from sfss.replicas import Replicas, check_migration, make_replicas
from tests.stores.dict_store import DictStore

OLD = "shards = ['one http://a:1/ http://b:1/', 'two http://c:1/']\n"
NEW = "shards = ['one http://d:1/', 'two http://c:1/', 'three x2 http://e:1/']\n"


def settings(folder: Path, shards: str, new: str = "") -> Settings:
    """Return settings for shards of nodes, with debts in ``folder``."""
    return load(
        "[cluster]\nkind = 'replicated'\n"
        f"[replicated]\nplacement = 'jump'\nowed_folder = '{folder}'\n{shards}[migration]\n{new}"
    )


def replicas(chosen: Settings) -> Replicas:
    """Return the replicas of settings; nobody is asked."""
    return make_replicas(chosen, DictStore("owed"), DictStore("marks"))


async def test_shards_are_known_by_their_names(tmp_path: Path) -> None:
    made = replicas(settings(tmp_path, OLD))
    assert made.places.shards == {"one": ("http://a:1/", "http://b:1/"), "two": ("http://c:1/",)}
    await made.close()


async def test_new_shards_may_have_the_names_of_old_ones(tmp_path: Path) -> None:
    made = replicas(settings(tmp_path, OLD, NEW))
    assert made.places.shards == {
        "one": ("http://a:1/", "http://b:1/"),
        "one (new)": ("http://d:1/",),
        "two": ("http://c:1/",),
        "three": ("http://e:1/",),
    }
    await made.close()


async def test_without_shards_none_has_a_name(tmp_path: Path) -> None:
    made = replicas(_mirror(tmp_path))
    assert made.places.shards == {}
    assert made.copies.debug() == {"DeadShards": []}
    await made.close()


def _mirror(folder: Path) -> Settings:
    return load(
        "[cluster]\nkind = 'replicated'\n[replicated]\nplacement = 'mirror'\n"
        f"stores = ['http://a:1/']\nowed_folder = '{folder}'\n"
    )


def test_settings_cannot_leave_a_migration_behind(tmp_path: Path) -> None:
    check_migration(settings(tmp_path, OLD))
    check_migration(settings(tmp_path, OLD, NEW))
    made = replicas(settings(tmp_path, OLD, NEW))
    assert made.migration is not None
    made.migration.take("start")
    check_migration(settings(tmp_path, OLD, NEW))
    for shards, new in (
        (OLD, ""),
        (NEW, ""),
        (NEW, OLD),
        (OLD, NEW.replace("x2", "x3")),
        (OLD.replace("b:1", "f:1"), NEW),
    ):
        with pytest.raises(SettingError, match="'both'"):
            check_migration(settings(tmp_path, shards, new))
    made.migration.take("finish", force=True)
    with pytest.raises(SettingError, match="in its new places"):
        check_migration(settings(tmp_path, OLD))
    check_migration(settings(tmp_path, NEW))
