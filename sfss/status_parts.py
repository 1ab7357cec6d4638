"""What a gateway says of itself that follows from its settings alone."""

from pathlib import Path
from typing import Any, Final

from sfss.config import Settings
from sfss.config_checks import cache_of, least_copies
from sfss.config_groups import has_groups, parts_of

_WITH_COPIES: Final = frozenset({"replicated", "joined"})


def work_folder(settings: Settings) -> Path | None:
    """Return the folder in which a cluster of this kind keeps an embedded store."""
    folders = {
        "embedded": settings.embedded.folder,
        "replicated": settings.replicated.owed_folder,
        "joined": settings.embedded.folder,
    }
    folder = folders.get(settings.cluster.kind)
    return None if folder is None else Path(folder)


def tool_folders(settings: Settings) -> dict[str, Path]:
    """Return the folders in which repair tools say how far they are, by the names of the groups of
    stores, "" where there is but one.
    """
    folders = {part.name: work_folder(part.settings) for part in parts_of(settings)}
    return {name: folder for name, folder in folders.items() if folder is not None}


def about(settings: Settings) -> dict[str, Any]:
    """Return how files are kept: the kind of the cluster and, where there are copies, how many, how
    many of them a write waits for, and the placement; the address of a near cache, "" for none.
    """
    found: dict[str, Any] = {"kind": "groups" if has_groups(settings) else settings.cluster.kind}
    if settings.cluster.kind not in _WITH_COPIES:
        return found
    options, is_joined = settings.replicated, settings.cluster.kind == "joined"
    copies = options.copies if is_joined else least_copies(options)
    return {
        **found,
        "placement": "ketama" if is_joined else options.placement,
        "copies": copies,
        "write_quorum": min(copies, options.write_quorum or copies // 2 + 1),
        "cache": "" if is_joined else cache_of(settings),
    }
