"""Writes the files of a gateway as a tar archive; see ``tar_reading`` for the keywords in it.

What has failed is told by the archive, too: it has no end. Whoever reads it from a pipe sees that,
and does not see the exit status.
"""

import asyncio
import os
import select
import tarfile
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from sfss.client import AsyncClient, File
from sfss.client_errors import (
    ClientError,
    Damaged,
    Forbidden,
    NotFound,
    Refused,
    TooManyRequests,
    Unauthorized,
)
from sfss.own_thread import OwnThread
from sfss.remote_command import Found, Report, failure, found_files
from sfss.tar_reading import DIGEST_FIELD, DIGEST_MARK, EXPIRES_FIELD, TYPE_FIELD
from sfss.upload_plan import Outcome, Result

END: Final = bytes(tarfile.RECORDSIZE)
"""What ends an archive: a record of zeros, which is what tar reads at once."""

_HELD_LIMIT: Final = 256 * 1024
"""Bytes of a file that is fetched ahead, while others are written."""

_WRITTEN_AT_ONCE: Final = 256 * 1024

_FOR_ALL: Final = (Unauthorized, Forbidden, TooManyRequests)
"""What will be said of all files that follow."""

_SAYS_NOTHING: Final = "application/octet-stream"
"""The type of a file of which none is known."""

_REMOVED: Final = Outcome(Result.IGNORED, "it was removed since it was listed; left out")

_Fetched = tuple[File, bytes] | Outcome


class Export:
    """Writes an archive to the descriptor ``output``: while some of it is written, files further
    on are fetched, ``concurrency`` of them at the same time.
    """

    def __init__(self, client: AsyncClient, report: Report, output: int, concurrency: int) -> None:
        self._client, self._report, self._output = client, report, output
        self._concurrency = concurrency
        self._waiting: deque[tuple[Found, asyncio.Task[_Fetched] | None]] = deque()
        self._writer = OwnThread("output")
        self._pieces: list[bytes] = []
        self._held = 0
        self._written: list[File] = []

    async def run(self, names: list[str]) -> None:
        """Write the files that ``names`` mean, and the end of the archive if all are in it. Raises
        ``ClientError`` where it cannot go on, and OSError.
        """
        try:
            async with aclosing(self._found(names)) as files:
                async for found in files:
                    self._ask_for(found)
                    if len(self._waiting) >= self._concurrency:
                        await self._add_next()
            while self._waiting:
                await self._add_next()
        finally:
            tasks = [task for _, task in self._waiting if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not self._report.tally.failed:
            self._pieces.append(END)
        await self._write()

    async def _found(self, names: list[str]) -> AsyncGenerator[Found, None]:
        for name in names:
            async with aclosing(found_files(self._client, name, recursive=True)) as files:
                async for found in files:
                    yield found

    def _ask_for(self, found: Found) -> None:
        is_held = found.file is not None and found.file.size <= _HELD_LIMIT
        task = asyncio.ensure_future(self._fetched(found.path)) if is_held else None
        self._waiting.append((found, task))

    async def _fetched(self, path: str) -> _Fetched:
        try:
            async with self._client.open(path) as download:
                return download.file, await download.read()
        except (Refused, Damaged) as error:
            return _of_one(error)

    async def _add_next(self) -> None:
        found, task = self._waiting.popleft()
        if task is None:
            await self._add_long(found)
            return
        fetched = await task
        if isinstance(fetched, Outcome):
            self._report.add("export", found.path, fetched)
            return
        file, content = fetched
        self._add(_head(found, file), content, _padding(len(content)))
        self._written.append(file)
        if self._held >= _WRITTEN_AT_ONCE:
            await self._write()

    async def _add_long(self, found: Found) -> None:
        is_begun = False
        try:
            async with (
                self._client.open(found.path) as download,
                aclosing(download.blocks()) as blocks,
            ):
                # The last block comes only when all of them were found to be right.
                async for block in blocks:
                    if not is_begun:
                        self._add(_head(found, download.file))
                        is_begun = True
                    self._add(block)
                    await self._write()
                self._add(_padding(download.file.size))
                self._written.append(download.file)
                await self._write()
        except (Refused, Damaged) as error:
            if is_begun:
                raise
            self._report.add("export", found.path, _of_one(error))

    def _add(self, *pieces: bytes) -> None:
        self._pieces += pieces
        self._held += sum(map(len, pieces))

    async def _write(self) -> None:
        text, written = b"".join(self._pieces), self._written
        self._pieces, self._held, self._written = [], 0, []
        await self._writer.do(lambda: _write_all(self._output, text))
        for file in written:
            self._report.moved(file.size)
            self._report.add("export", file.path, Outcome(Result.DONE))


def _write_all(output: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        try:
            rest = rest[os.write(output, rest) :]
        except BlockingIOError:
            select.select([], [output], [])


def _of_one(error: ClientError) -> Outcome:
    """Return what ``error`` means for one file; raise it where it is about more than that."""
    if isinstance(error, NotFound):
        return _REMOVED
    if isinstance(error, _FOR_ALL):
        raise error
    return failure(error)


def _head(found: Found, file: File) -> bytes:
    """Return what stands before a file. A listing tells its time to the microsecond."""
    listed, modified = found.file, file.modified
    if listed is not None and listed.etag == file.etag and listed.modified is not None:
        modified = listed.modified
    fields = {} if file.media_type in ("", _SAYS_NOTHING) else {TYPE_FIELD: file.media_type}
    if file.digest is not None:
        fields[DIGEST_FIELD] = DIGEST_MARK + file.digest
    if file.expires is not None:
        fields[EXPIRES_FIELD] = str(int(file.expires.timestamp()))
    header = tarfile.TarInfo(file.path)
    header.size, header.pax_headers = file.size, fields
    header.mtime = modified.timestamp() if modified else 0
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
