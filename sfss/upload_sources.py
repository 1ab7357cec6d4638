"""What is to be uploaded: names out of arguments, lists and folders, and the bodies of files.

All of it blocks, and is called in threads.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

from xxhash import xxh3_128

from sfss.errors import BadArgument, BadBody
from sfss.upload_plan import Splitter, is_url

STDIN: Final = "-"
BLOCK_BYTES: Final = 256 * 1024
"""What is read at a time; a smaller file is held in memory whole."""

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


@dataclass(slots=True)
class Body:
    """What is uploaded, ``size`` bytes: a small one as ``content``, else in an open ``file``; that
    is a ``LongBody`` (``record``). ``failure`` is what kept it from being read while it was sent.
    """

    size: int
    content: bytes = b""
    file: IO[bytes] | None = None
    failure: BadBody | None = None

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()

    def __len__(self) -> int:
        return self.size

    def read(self, start: int, size: int) -> bytes:
        """Return some of the ``size`` bytes from ``start`` on; raises OSError, see ``failure``."""
        try:
            return self.block(start, size)
        except BadBody as error:
            raise OSError(error.reason) from None

    def block(self, offset: int, size: int = BLOCK_BYTES) -> bytes:
        """Return some bytes from ``offset`` on, not beyond ``size``; raises ``BadBody``."""
        assert self.file is not None
        try:
            block = os.pread(self.file.fileno(), min(size, self.size - offset), offset)
        except OSError as error:
            raise self._fail(f"cannot read it: {error.strerror}") from error
        if not block:
            raise self._fail("it became shorter while it was read")
        return block

    def _fail(self, reason: str) -> BadBody:
        self.failure = BadBody(reason)
        return self.failure

    def digest(self) -> str:
        """Return the XXH3-128 of it all, in hex; raises ``BadBody``."""
        digest = xxh3_128(self.content)
        if self.file is not None:
            offset = 0
            while offset < self.size:
                block = self.block(offset)
                digest.update(block)
                offset += len(block)
        return digest.hexdigest()


def open_body(name: Path) -> Body:
    """Return the file ``name``; raises ``BadBody`` where it cannot be read."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadBody("no such file or folder") from error
    except OSError as error:
        raise BadBody(f"cannot open it: {error.strerror}") from error
    except ValueError:
        raise BadBody("its name contains NUL") from None
    file = os.fdopen(descriptor, "rb", buffering=0)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise BadBody("it is not a file")
    body = Body(status.st_size, file=file)
    if body.size > BLOCK_BYTES:
        return body
    with file:
        content = body.block(0) if body.size else b""
    if len(content) < body.size:
        raise BadBody("it became shorter while it was read")
    return Body(body.size, content)


class Spool:
    """Takes in a body of unknown size: on disk, without a name, what is too large for memory."""

    def __init__(self) -> None:
        self._start = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0

    def write(self, block: bytes) -> None:
        """Add ``block``; raises ``BadBody``."""
        self._size += len(block)
        if self._file is None and self._size <= BLOCK_BYTES:
            self._start += block
            return
        try:
            if self._file is None:
                self._file = TemporaryFile()  # noqa: SIM115 (closed by whoever has it last)
                self._file.write(self._start)
            self._file.write(block)
        except OSError as error:
            raise BadBody(f"cannot be kept meanwhile: {error.strerror}") from error

    def body(self) -> Body:
        """Return what was taken in; raises ``BadBody``."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise BadBody(f"cannot be kept meanwhile: {error.strerror}") from error
        return Body(self._size, b"" if self._file else bytes(self._start), self._file)

    def close(self) -> None:
        """Forget it."""
        if self._file is not None:
            self._file.close()
