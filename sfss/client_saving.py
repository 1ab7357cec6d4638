"""Has a file of a gateway in a file here: under its name only when it is whole and right.

What comes of a long file is kept in a file beside it, ``.sfss-DIGEST.part``, until it is all there;
whoever asks for the same file again, goes on with that. Its name tells of which state of which file
it is. One process at a time has it; others begin their own.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from xxhash import xxh3_128, xxh3_128_hexdigest

from sfss.client_asking import Answer, Asker
from sfss.client_bodies import in_thread, write_all
from sfss.client_download import Download, Wanted
from sfss.client_errors import Damaged, Unreadable
from sfss.client_text import File

HELD_LIMIT: Final = 256 * 1024
"""Bytes of a body that are written in the event loop: to memory, which takes less than a thread."""

PART_BEFORE: Final = ".sfss-"
PART_AFTER: Final = ".part"
_PART_NAME: Final = re.compile(r"\.sfss-[0-9a-f]{32}\.part")
_BLOCK: Final = 1024 * 1024
_NO_FILE_OF_OURS: Final = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO}
)

Progress = Callable[[int], object]
"""Is told how many bytes more have come; fewer than none for those that were of no use."""


def is_part(name: str) -> bool:
    """Tell whether a file of this name has what came of another."""
    return name.startswith(PART_BEFORE) and name.endswith(PART_AFTER)


def is_left_over(name: Path, before_s: float, removes: bool = False) -> bool:
    """Tell whether ``name`` is a part of a download that was interrupted before ``before_s``, in
    seconds of the epoch, and with which nobody goes on at this moment; or have it removed.
    """
    if _PART_NAME.fullmatch(name.name) is None:
        return False
    try:
        file = _own_file(name)
        if file is None:
            return False
        with file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(file.fileno())
            # Not by its time of change: who has it whole gives it that of the original.
            if found.st_ctime >= before_s or not os.path.samestat(found, name.lstat()):
                return False
            if removes:
                name.unlink()
    except OSError:  # somebody has it, or it cannot be told
        return False
    return True


@dataclass(slots=True)
class _Part:
    """What is there of a file so far."""

    name: Path
    file: IO[bytes]
    size: int = 0
    keeps: bool = False  # what came, for the next time

    def close(self) -> None:
        """Close it; it is removed unless it ``keeps``, or has got its name."""
        if not self.keeps:
            with suppress(OSError):
                self.name.unlink()
        self.file.close()

    def digest(self) -> Any:
        """Return the digest of what is there."""
        digest, position = xxh3_128(), 0
        while position < self.size:
            piece = os.pread(self.file.fileno(), min(_BLOCK, self.size - position), position)
            if not piece:
                raise OSError("it became shorter")
            digest.update(piece)
            position += len(piece)
        return digest


async def save(asker: Asker, path: str, target: Path, progress: Progress = lambda _: None) -> File:
    """Have the file ``path`` in ``target``, with its time of change, in place of what is there.

    Raises ``ClientError``; ``Unreadable`` where it cannot be written. ``target`` is then as it was.
    """
    wanted = Wanted(path)
    async with asker.asking(wanted.request(asker, 0, {}), path) as answer:
        download = Download(asker, wanted, answer)
        if isinstance(answer.body, bytes):
            return await _save_held(download, target, progress)
        name = _part_name(target, download.file)
        if name is not None and (part := await _in_thread(target, lambda: _resumed(name))):
            return await _go_on(asker, download, answer, (target, part, progress))
        part = await _in_thread(target, lambda: _opened(target, name))
        return await _save(download, (target, part, progress))


def _write_at_once(target: str, body: bytes, file: File) -> None:
    """Without ``Path`` and ``IO``, which would take as long as the kernel does."""
    folder = target[: target.rfind("/") + 1]
    name = f"{folder}{_new_part_name()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o666)
    except FileNotFoundError:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, flags, 0o666)
    try:
        _lock(descriptor)
        write_all(descriptor, body)
        _set_time(descriptor, file)
        os.replace(name, target)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
    finally:
        os.close(descriptor)


async def _save_held(download: Download, target: Path, progress: Progress) -> File:
    body = await download.read()

    def write() -> None:
        _write_at_once(os.fspath(target), body, download.file)

    if len(body) <= HELD_LIMIT:
        _translated(target, write)
    else:
        await _in_thread(target, write)
    progress(len(body))
    return download.file


_Job = tuple[Path, _Part, Progress]


async def _go_on(asker: Asker, first: Download, answer: Answer, job: _Job) -> File:
    """Ask for what ``part`` lacks; if the file has changed since ``answer``, begin anew."""
    target, part, progress = job
    file = first.file
    if not 0 < part.size < file.size:
        # It had nothing yet; or all but its name, or more than that, and is of no use.
        part.size = 0
        return await _save(first, job)
    answer.close()
    wanted = Wanted(file.path, part.size)
    rest = None
    try:
        digest = await _in_thread(target, part.digest)
        request = wanted.request(asker, part.size, {"If-Range": file.etag})
        rest = await asker.answered(request, file.path)
        if rest.head.status != 206:
            part.keeps = False
            raise Damaged(f"{file.path}: it was replaced; ask again")
        download = Download(asker, wanted, rest)
        download.continues(digest)
    except BaseException:
        part.close()
        if rest is not None:
            rest.close()
        raise
    try:
        progress(part.size)
        return await _save(download, job)
    finally:
        rest.close()


async def _save(download: Download, job: _Job) -> File:
    """Write what comes behind what ``part`` has, and give it its name."""
    target, part, progress = job
    came = part.size
    try:
        await _in_thread(target, lambda: part.file.truncate(part.size))
        part.file.seek(part.size)
        async with aclosing(_gathered(download)) as blocks:
            async for block in blocks:
                await _in_thread(target, partial(write_all, part.file.fileno(), block))
                came += len(block)
                progress(len(block))
        await _in_thread(target, lambda: _finish(part, target, download.file))
    except Damaged:
        part.keeps = False
        progress(-came)
        raise
    except BaseException:
        part.keeps = part.keeps and came > 0
        progress(-came)
        raise
    finally:
        part.close()
    return download.file


async def _gathered(download: Download) -> AsyncGenerator[bytes, None]:
    """Yield blocks that are worth a thread."""
    held = bytearray()
    async with aclosing(download.blocks()) as blocks:
        async for block in blocks:
            held += block
            if len(held) >= _BLOCK:
                yield bytes(held)
                held = bytearray()
    if held:
        yield bytes(held)


def _part_name(target: Path, file: File) -> Path | None:
    """Return where what came of ``file`` is kept; None where nothing would prove the whole."""
    if file.digest is None:
        return None
    of = xxh3_128_hexdigest(f"{target.name}\0{file.path}\0{file.etag}".encode("utf-8", "replace"))
    return target.with_name(f"{PART_BEFORE}{of}{PART_AFTER}")


def _resumed(name: Path) -> _Part | None:
    """Return what is there; None if there is nothing that is ours, or another process has it."""
    file = _own_file(name)
    if file is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(file.fileno())
        # Whoever had it may have given it its name meanwhile.
        if os.path.samestat(found, name.lstat()):
            return _Part(name, file, found.st_size, keeps=True)
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _own_file(name: Path) -> IO[bytes] | None:
    """Return the file ``name``; None for what somebody else may have put there, a link say: in a
    folder that many write to, the name can be foreseen.
    """
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE_OF_OURS:
            return None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
        return os.fdopen(descriptor, "r+b", buffering=0)
    os.close(descriptor)
    return None


def _opened(target: Path, name: Path | None) -> _Part:
    """Return a new part of ``target``, by ``name`` if there is one that nobody has."""
    if name is not None:
        with suppress(FileExistsError):
            return _Part(name, _created(name), keeps=True)
    name = target.with_name(_new_part_name())
    return _Part(name, _created(name))


def _new_part_name() -> str:
    return f"{PART_BEFORE}{secrets.token_hex(16)}{PART_AFTER}"


def _created(name: Path) -> IO[bytes]:
    """Make the file ``name``, and its folder if that is missing; it is ours while it is open."""
    try:
        file = name.open("x+b", buffering=0)
    except FileNotFoundError:
        name.parent.mkdir(parents=True, exist_ok=True)
        file = name.open("x+b", buffering=0)
    _lock(file.fileno())
    return file


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _finish(part: _Part, target: Path, file: File) -> None:
    _set_time(part.file.fileno(), file)
    part.name.replace(target)
    part.keeps = True


def _set_time(descriptor: int, file: File) -> None:
    moment = file.modified
    if moment is not None:
        nanoseconds = int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
        os.utime(descriptor, ns=(nanoseconds, nanoseconds))


async def _in_thread(target: Path, work: Callable[[], Any]) -> Any:
    return await in_thread(lambda: _translated(target, work))


def _translated(target: Path, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreadable(f"{target}: cannot be written: {reason}") from None
