"""Uploads the files of a tar archive.

The archive is read by one thread, in its order: some short files at a time, and what is long only
when the gateway would take it, and there is room for it here.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import IO, Final, NamedTuple

from sfss.client import AsyncClient
from sfss.client_bodies import FileBody, HeldBody
from sfss.client_errors import ClientError, ConditionFailed, NotFound, Unreachable
from sfss.errors import BadPath
from sfss.own_thread import OwnThread
from sfss.remote_command import FAILED, Report, do_each, failure
from sfss.tar_reading import Archive, BadArchive, Member
from sfss.upload_plan import Outcome, Result, path_segments

_BATCH: Final = 32
_BATCH_BYTES: Final = 1024 * 1024

_DAMAGED: Final = Outcome(Result.FAILED, "was damaged since it was exported; left out")
_EXPIRED: Final = Outcome(Result.THERE, "has expired; left out")
_THERE: Final = Outcome(Result.THERE)
_DONE: Final = Outcome(Result.DONE)


@dataclass(slots=True)
class _Entry:
    """A file of the archive, where it goes, and what has become of it."""

    member: Member
    path: str
    outcome: Outcome | None = None


class _Batch(NamedTuple):
    """Some files, and the paths that will be written."""

    entries: list[_Entry]
    paths: set[str]


class Import:
    """Uploads below ``prefix`` what ``file`` has, which is read unbuffered."""

    def __init__(
        self,
        client: AsyncClient,
        report: Report,
        options: argparse.Namespace,
        prefix: tuple[str, ...],
        file: IO[bytes],
    ) -> None:
        self._client, self._report, self._options = client, report, options
        self._prefix = prefix
        self._archive = Archive(file)
        self._reader = OwnThread("archive")
        self._failure: BadArchive | None = None
        self._is_read = False
        self._busy: set[str] = set()  # paths that are being written
        self._spooled = 0  # long files that are being written
        self._progress = asyncio.Event()
        self._largest_taken = 0

    async def run(self) -> int:
        """Do it, and return the exit status, as far as it is the archive's."""
        try:
            await do_each(self._batches(), self._do, self._options.concurrency)
        except BadArchive as error:
            count = self._report.tally.stored
            self._report.screen.say(f"{error}; {count:,} files were imported")
            return FAILED
        return 0

    async def _batches(self) -> AsyncGenerator[_Batch, None]:
        """Yield what the archive has, what came before an error before it."""
        while entries := await self._reader.do(self._read):
            last = entries[-1]
            try:
                if last.outcome is None and last.member.is_long:
                    last.outcome = await self._admit(last)
            except BadArchive as error:
                self._failure, self._is_read = error, True
                entries.pop()
            batch = _Batch(entries, {entry.path for entry in entries if entry.outcome is None})
            # Of two files with the same name the last one counts, as for any tar.
            await self._occupy(batch.paths)
            yield batch
        if self._failure is not None:
            raise self._failure
        await self._reader.do(self._archive.drain)

    def _read(self) -> list[_Entry]:
        """Return some more files, a long one last. It blocks."""
        batch: list[_Entry] = []
        size = 0
        try:
            while len(batch) < _BATCH and size < _BATCH_BYTES and not self._is_read:
                member = self._archive.next()
                if member is None:
                    self._is_read = True
                    break
                batch.append(self._entry(member))
                size += member.size
                if member.is_long:
                    break
        except BadArchive as error:
            self._failure, self._is_read = error, True
        return batch

    def _entry(self, member: Member) -> _Entry:
        if member.problem:
            result = Result.IGNORED if member.is_other else Result.FAILED
            return _Entry(member, "", Outcome(result, member.problem))
        try:
            entry = _Entry(member, "/".join((*self._prefix, *_names_of(member))))
        except BadPath as error:
            return _Entry(member, "", failure(error))
        if member.expires is not None and member.expires <= time.time():
            entry.outcome = _EXPIRED
        elif member.is_damaged():
            entry.outcome = _DAMAGED
        return entry

    async def _admit(self, entry: _Entry) -> Outcome | None:
        """Read a long file if it is of use; else return what becomes of it. Raises
        ``BadArchive``.
        """
        member = entry.member
        try:
            if self._options.skip_existing and await self._client.exists(entry.path):
                return _THERE
            if self._options.check and await self._is_there(entry.path, member.size, member.digest):
                return _THERE
            await self._check_size(entry)
            await self._wait_for_room(member.size)
            member.body = await self._reader.do(self._archive.body)
            self._spooled += 1
            is_damaged = await self._reader.do(member.is_damaged)
        except OSError as error:
            return Outcome(Result.FAILED, f"cannot be kept here meanwhile: {error.strerror}")
        except BadArchive:
            raise
        except (ClientError, ValueError) as error:
            return failure(error)
        return _DAMAGED if is_damaged else None

    async def _check_size(self, entry: _Entry) -> None:
        """Raise ``ClientError`` where the gateway refuses a file: it need not be read for that."""
        member = entry.member
        if member.size <= self._largest_taken:
            return
        try:
            await self._client.check_put(entry.path, member.size, content_type=member.media_type)
        except Unreachable:
            return  # then it is tried
        self._largest_taken = member.size

    async def _wait_for_room(self, size: int) -> None:
        """Raise OSError where there is no room for ``size`` bytes, though none are being sent."""
        folder = tempfile.gettempdir()
        await self._until(lambda: not self._spooled or shutil.disk_usage(folder).free >= size)
        free = shutil.disk_usage(folder).free
        if free < size:
            found = f"it has {size:,} bytes, {folder} has room for {free:,} (TMPDIR names another)"
            raise OSError(0, found)

    async def _occupy(self, paths: set[str]) -> None:
        await self._until(lambda: self._busy.isdisjoint(paths))
        self._busy |= paths

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._progress.clear()
            await self._progress.wait()

    async def _do(self, batch: _Batch) -> None:
        """Upload some files."""
        try:
            for entry in batch.entries:
                outcome = entry.outcome or await self._outcome(entry)
                self._report.add("import", entry.member.name, outcome)
        finally:
            for entry in batch.entries:
                if isinstance(entry.member.body, FileBody):
                    entry.member.body.close()
                    self._spooled -= 1
            self._busy -= batch.paths
            self._progress.set()

    async def _outcome(self, entry: _Entry) -> Outcome:
        try:
            return await self._put(entry.path, entry.member)
        except ConditionFailed:
            return _THERE
        except (ClientError, ValueError, OSError) as error:
            return failure(error)

    async def _put(self, path: str, member: Member) -> Outcome:
        body, options = member.body, self._options
        assert body is not None
        if options.check:
            is_held = isinstance(body, HeldBody)
            digest = body.digest() if is_held else await asyncio.to_thread(body.digest)
            if await self._is_there(path, len(body), digest):
                return _THERE
        if options.dry_run:
            is_kept = options.skip_existing and await self._client.exists(path)
            return _THERE if is_kept else _DONE
        ttl_s = None if member.expires is None else member.expires - int(time.time())
        if ttl_s is not None and ttl_s <= 0:
            return _EXPIRED
        await self._client.put(
            path, body, content_type=member.media_type, ttl_s=ttl_s, create=options.skip_existing
        )
        self._report.moved(len(body))
        return _DONE

    async def _is_there(self, path: str, size: int, digest: str | None) -> bool:
        if digest is None:
            return False
        try:
            found = await self._client.stat(path)
        except NotFound:
            return False
        return found.size == size and found.digest == digest


def _names_of(member: Member) -> tuple[str, ...]:
    """Return the path of a file in its parts. What was exported has had it, however it looks: a
    gateway may well have a file that is called ``a/`` or ``./a``. Raises ``BadPath``.
    """
    return path_segments(member.name) if member.digest is None else (member.name,)
