"""What is looked at before a gateway starts or takes new settings: its folders and its files."""

from pathlib import Path
from tempfile import TemporaryFile

from sfss.checks import LMDB, folder_of
from sfss.config import Settings
from sfss.config_checks import addresses_of
from sfss.config_groups import has_groups, parts_of
from sfss.errors import SettingError
from sfss.joining import find_others
from sfss.moved_places import warn_of_lost
from sfss.object_parts import prepare_objects
from sfss.replicas import check_migration, claim_folder
from sfss.status_parts import work_folder
from sfss.stores.embedded import check_folder


def check_startable(settings: Settings, former: Settings | None = None) -> None:
    """Raise ``SettingError`` for what would keep ``service.start`` from succeeding.

    A new embedded store is made here, unless it is the one of the ``former`` settings.
    """
    _check_spool_folder(settings.server.spool_folder)
    prepare_objects(settings, former)
    folder = work_folder(settings)
    if settings.cluster.kind == "replicated":
        _check_lmdb(settings, former)
        _check_copies(settings, former)
    elif folder is not None:
        check_folder(folder, make=former is None or work_folder(former) != folder)
    if settings.cluster.kind == "joined":
        owed_folder, is_first = Path(settings.replicated.owed_folder), former is None
        check_folder(owed_folder, make=is_first)
        if is_first:
            find_others(settings)


def _check_spool_folder(folder: str) -> None:
    try:
        with TemporaryFile(dir=folder or None):
            pass
    except (OSError, ValueError) as error:  # ValueError: no name of a folder
        found, wanted = f"is {folder!r} ({error})", "a folder that can be written is expected"
        raise SettingError("settings", "server.spool_folder", found, wanted) from None


def _check_copies(settings: Settings, former: Settings | None) -> None:
    """Check the folders of what stores still have to get, one for each group where there are
    groups: with an empty one, stores would be believed that have missed something.
    """
    root = Path(settings.replicated.owed_folder)
    others = [root / "data.mdb"] if has_groups(settings) else list(root.glob("*/stores"))
    if any(file.exists() for file in others):
        found = f"is {str(root)!r}, of a cluster with another placement"
        wanted = "groups and other placements need folders of their own"
        raise SettingError("settings", "replicated.owed_folder", found, wanted)
    parts = parts_of(settings)
    before = {}
    if former is not None and former.cluster.kind == "replicated":
        before = {part.name: part.settings for part in parts_of(former)}
        if before.keys() != {part.name for part in parts}:
            found, wanted = "changes the groups", "that takes a restart"
            raise SettingError("settings", "replicated.shards", found, wanted)
    for part in parts:
        folder = Path(part.settings.replicated.owed_folder)
        _check_owed_folder(folder, part.settings, before.get(part.name, former))
        check_migration(part.settings)
        claim_folder(part.settings)
        warn_of_lost(part.settings)


def _check_owed_folder(folder: Path, settings: Settings, former: Settings | None) -> None:
    key = "replicated.owed_folder"
    same_kind = former is not None and former.cluster.kind == "replicated"
    if same_kind and former is not None and work_folder(former) != folder:
        # With an empty list, stores would be believed that have missed something.
        found, wanted = f"is {str(folder)!r}", f"{str(work_folder(former))!r} stays until a restart"
        raise SettingError("settings", key, found, wanted)
    try:
        check_folder(folder, make=not same_kind)
    except SettingError as error:
        raise SettingError(error.source, key, error.found, error.allowed) from error


def _check_lmdb(settings: Settings, former: Settings | None) -> None:
    known = addresses_of(former) if former is not None else []
    for address in addresses_of(settings):
        if address.startswith(LMDB) and address not in known:
            check_folder(Path(folder_of(address)), make=True)
