"""The two kinds of sides: a folder here, and the files of a gateway below a path."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import islice
from pathlib import Path

from sfss.client import AsyncClient
from sfss.client_saving import is_part
from sfss.client_text import DAMAGED, File
from sfss.glob_patterns import Choice
from sfss.sync_plan import Entry

_BATCH = 512


class LocalSide:
    """The files below ``root``. ``ignored`` counts what is neither a file nor a folder, or a link
    to a folder: it is left out. ``parts`` are what has come of downloads. Of the first side
    (``is_first``) a link to nothing is a problem.
    """

    def __init__(self, root: Path, choice: Choice, is_first: bool = False) -> None:
        self.root, self._choice, self._is_first = root, choice, is_first
        self.is_gathered = True
        self.ignored = 0
        self.parts: set[str] = set()

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """Yield them in byte order, some at a time from a thread; what cannot be read as a
        problem.
        """
        walk = self._walk()
        while batch := await asyncio.to_thread(lambda: list(islice(walk, _BATCH))):
            for entry in batch:
                yield entry

    def _walk(self) -> Iterator[Entry]:
        waiting = [self._in_folder("")]
        while waiting:
            for found in waiting[-1]:
                if isinstance(found, Entry):
                    if self._choice.takes(found.path) or found.problem:
                        yield found
                else:
                    waiting.append(self._in_folder(found))
                    break
            else:
                waiting.pop()

    def _in_folder(self, folder: str) -> Iterator[Entry | str]:
        """Yield files, and folders with a "/" at their end, in the order of all paths below."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = [self._found(entry, f"{folder}{entry.name}") for entry in entries]
        except OSError as error:
            if folder or not isinstance(error, FileNotFoundError):
                yield Entry(folder, problem=f"cannot read the folder: {error.strerror}")
            return
        shown = [each for each in found if each is not None]
        yield from sorted(shown, key=_key)

    def _found(self, entry: os.DirEntry[str], path: str) -> Entry | str | None:
        try:
            if entry.is_dir(follow_symlinks=False):
                return f"{path}/"
            if entry.is_file():
                if is_part(entry.name):
                    self.parts.add(path)
                    return None
                status = entry.stat()
                return Entry(path, status.st_size, int(status.st_mtime))
            if self._is_first and entry.is_symlink():
                entry.stat()  # what it led to may be back with its disk: it is not absent
        except OSError as error:
            return Entry(path, problem=f"cannot be looked at: {error.strerror}")
        self.ignored += 1
        return None


def _key(found: Entry | str) -> bytes:
    return found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found.key


class RemoteSide:
    """The files of a gateway whose paths begin with ``prefix``. ``is_gathered``: they are put in
    order here, all of them in memory, for a gateway that lists them in another.
    """

    def __init__(self, client: AsyncClient, prefix: str, choice: Choice) -> None:
        self.client, self.prefix, self._choice = client, prefix, choice
        self.is_gathered = False

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """Yield them as they are listed, in byte order if they are gathered. Raises
        ``ClientError``.
        """
        async with aclosing(self._listed()) as listed:
            if self.is_gathered:
                for entry in sorted([each async for each in listed], key=_key):
                    yield entry
            else:
                async for entry in listed:
                    yield entry

    async def _listed(self) -> AsyncGenerator[Entry, None]:
        async with aclosing(self.client.pages(self.prefix)) as pages:
            async for page in pages:
                for path, file in page.things():
                    below = path[len(self.prefix) :]
                    if self._choice.takes(below):
                        yield _entry(below, file)


def _entry(path: str, file: File | None) -> Entry:
    if file is None:
        return Entry(path, problem=DAMAGED, is_damaged=True)
    second = None if file.modified is None else int(file.modified.timestamp())
    return Entry(path, file.size, second, file)


Side = LocalSide | RemoteSide
