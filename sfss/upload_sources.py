"""What is to be uploaded: names out of arguments, lists and folders.

All of it blocks, and is called in threads.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sfss.errors import BadArgument
from sfss.upload_plan import Splitter, is_url

STDIN: Final = "-"
BLOCK_BYTES: Final = 256 * 1024
"""What is read of a list at a time."""

_BATCH: Final = 256
_IS_IGNORED: Final = "neither a file nor a folder, or a link to a folder; left out"


@dataclass(frozen=True, slots=True)
class Item:
    """A name in the form in which it was given; with a ``problem`` nothing can be done with it,
    which is a failure unless it ``is_ignored``. Without a name the problem is one of the list.
    """

    name: str
    problem: str | None = None
    is_ignored: bool = False


Blocks = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Given:
    """What the user gave: ``names``, and what standard input is if ``STDIN`` is among them.

    ``folder``: where names begin. ``expanding``: a folder stands for the files in it.
    """

    names: Sequence[str]
    folder: Path
    separator: bytes = b"\n"
    expanding: bool = True

    def batches(self, stdin: Blocks) -> Iterator[list[Item]]:
        """Yield all items, some at a time; from a list as soon as they come."""
        for name in self.names:
            if name == STDIN:
                yield from self._listed(stdin)
            else:
                yield from self._expanded([name])

    def _listed(self, stdin: Blocks) -> Iterator[list[Item]]:
        splitter = Splitter(self.separator)
        try:
            for block in stdin():
                yield from self._expanded(map(os.fsdecode, splitter.feed(block)))
            yield from self._expanded(map(os.fsdecode, splitter.end()))
        except BadArgument as error:
            yield [Item("", str(error))]
        except OSError as error:
            yield [Item("", f"cannot read standard input: {error.strerror}")]

    def _expanded(self, names: Iterable[str]) -> Iterator[list[Item]]:
        batch: list[Item] = []
        for name in names:
            if self.expanding and not is_url(name) and _stands_for_files(self.folder / name):
                yield batch
                batch = []
                yield from self._walk(name)
            else:
                batch.append(Item(name))
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch

    def _walk(self, top: str) -> Iterator[list[Item]]:
        """Yield the files under ``top``. Only the folders on the way down are remembered."""
        waiting = [top]
        while waiting:
            name = waiting.pop()
            batch: list[Item] = []
            try:
                with os.scandir(self.folder / name) as entries:
                    for entry in entries:
                        below = f"{name.rstrip('/')}/{entry.name}"
                        if _is_folder(entry):
                            waiting.append(below)
                        else:
                            batch.append(_found(entry, below))
                        if len(batch) >= _BATCH:
                            yield batch
                            batch = []
            except OSError as error:
                batch.append(Item(name, f"cannot read the folder: {error.strerror}"))
            yield batch


def _stands_for_files(name: Path) -> bool:
    try:
        return name.is_dir()
    except OSError:
        return False  # whoever opens it is told why


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _found(entry: os.DirEntry[str], name: str) -> Item:
    try:
        is_left_out = entry.is_dir() if entry.is_symlink() else not entry.is_file()
    except OSError:
        is_left_out = False
    return Item(name, _IS_IGNORED, is_ignored=True) if is_left_out else Item(name)


def stdin_blocks() -> Iterator[bytes]:
    """Yield what comes on standard input."""
    while block := os.read(0, BLOCK_BYTES):
        yield block


def stdin_ahead() -> Iterator[bytes]:
    """Yield what is still to come on standard input, a regular file, and leave it there."""
    offset = os.lseek(0, 0, os.SEEK_CUR)
    while block := os.pread(0, BLOCK_BYTES, offset):
        offset += len(block)
        yield block


def stdin_is_file() -> bool:
    """Tell whether standard input can be read twice."""
    try:
        return stat.S_ISREG(os.fstat(0).st_mode)
    except OSError:
        return False
