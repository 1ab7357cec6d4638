"""What stands in the way of a file in a folder here: a file where its path needs a folder, or a
folder that has its name. It may go where the other side does not have it.
"""

import os
import stat
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from sfss.client_errors import Unreadable
from sfss.client_saving import PART_AFTER, PART_BEFORE, is_left_over


def in_the_way(root: Path, path: str) -> str | None:
    """Return the path below ``root`` of what has to go before a file can be at ``path``."""
    name = f"{root}/{path}"
    try:
        return path if stat.S_ISDIR(os.lstat(name).st_mode) else None
    except OSError:
        at = name.rfind("/")
    # Mostly its folder is there: then it is not looked at those above.
    if _leads_to_folder(name[:at]):
        return None
    at = 0
    while (at := path.find("/", at + 1)) > 0:
        folder = f"{root}/{path[:at]}"
        if not _leads_to_folder(folder):
            return path[:at] if os.path.lexists(folder) else None
    return None


def what_it_is(root: Path, obstacle: str) -> str:
    """Return what is said of it."""
    name = root / obstacle
    kind = "a folder" if _is_folder(name) else "no folder"
    return f"{name} is {kind}, and stands in the way"


def to_go(root: Path, obstacle: str, extra: Container[str], before_s: float) -> list[str]:
    """Return the files of ``extra`` that are removed with ``obstacle``, a path below ``root``.

    Raises ``Unreadable`` where it holds anything else, but for parts left over since ``before_s``;
    ``OSError`` where nobody can tell.
    """
    going = []
    for path in _files(root, obstacle):
        if path in extra:
            going.append(path)
        elif not is_left_over(root / path, before_s):
            within = "" if path == obstacle else f" with {path[len(obstacle) + 1 :]}, which"
            raise Unreadable(f"{what_it_is(root, obstacle)}{within or ', and'} is to stay")
    return going


def scratch_for(root: Path, obstacle: str, path: str) -> Path:
    """Return where the file for ``path`` can be until ``obstacle`` has gone: always the same, so
    that a download goes on which was interrupted; a part as others are, if it is left over.
    """
    digest = xxh3_128_hexdigest(f"obstacle\0{path}".encode("utf-8", "surrogateescape"))
    return (root / obstacle).with_name(f"{PART_BEFORE}{digest}{PART_AFTER}")


def replace(
    root: Path, path: str, scratch: Path, extra: Collection[str], before_s: float
) -> list[str]:
    """Give ``scratch`` the name ``path``, below ``root``, in place of what stands in the way;
    return the files of ``extra`` that were removed. Raises as ``to_go``: then nothing was.
    """
    going: list[str] = []
    obstacle = in_the_way(root, path)
    if obstacle is not None:
        going = to_go(root, obstacle, extra, before_s)
        scratch.stat()
        for each in going:
            (root / each).unlink(missing_ok=True)
        if _is_folder(root / obstacle):
            _remove_folder(root / obstacle, before_s)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    scratch.replace(root / path)
    return going


def remove_left_over(root: Path, parts: Iterable[str], before_s: float, prunes: bool) -> None:
    """Remove those of ``parts`` that are left over since ``before_s``; and, where that ``prunes``,
    the folders that are empty then.
    """
    for part in parts:
        if is_left_over(root / part, before_s, removes=True) and prunes:
            remove_empty_folders(root, part)


def remove_empty_folders(root: Path, path: str) -> None:
    """Remove the folders between ``root`` and ``path`` that are empty."""
    for folder in (root / path).parents:
        if folder == root:
            break
        try:
            folder.rmdir()
        except OSError:
            break


def _is_folder(name: Path) -> bool:
    return name.is_dir() and not name.is_symlink()


def _leads_to_folder(name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name).st_mode)  # noqa: PTH116
    except OSError:
        return False


def _files(root: Path, path: str) -> Iterator[str]:
    """Yield ``path``, or all below it that is not a folder; links are not followed."""
    if not _is_folder(root / path):
        yield path
        return
    with os.scandir(root / path) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        yield from _files(root, f"{path}/{name}")


def _remove_folder(top: Path, before_s: float) -> None:
    """Remove a folder that holds nothing but folders and parts left over; what has come in this
    moment is not removed, and its folder cannot be.
    """
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            is_left_over(Path(folder, name), before_s, removes=True)
        Path(folder).rmdir()
