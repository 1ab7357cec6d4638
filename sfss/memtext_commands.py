"""The memcached text protocol as a server reads it: bytes in, commands out. Pure.

``memtext`` is the other side, that of a client.

Nothing is believed before it is bounded: a line has at most ``LINE_LIMIT`` bytes, a key
``KEY_LIMIT``, a value what the caller allows. What is wrong with a command is known before its
value is taken, and then the value is passed over, so that no byte of it can be read as a command.
Where the length of what follows cannot be known, ``BadCommand`` says so, and the connection has to
be closed.

Source: https://github.com/memcached/memcached/blob/master/doc/protocol.txt
"""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from sfss.keys import KEY_LIMIT
from sfss.memtext_extensions import BROWSE, BROWSE_LIMIT, MEMBERS, MESSAGE_LIMIT, NEWEST
from sfss.record import Buffer

LINE_LIMIT: Final = 65_536
"""Longest command line in bytes: a get of 260 keys of full length."""

TOO_LARGE: Final = b"SERVER_ERROR object too large for cache\r\n"
BAD_FORMAT: Final = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK: Final = b"CLIENT_ERROR bad data chunk\r\n"
BAD_DELTA: Final = b"CLIENT_ERROR invalid numeric delta argument\r\n"
UNKNOWN: Final = b"ERROR\r\n"

_KEY: Final = re.compile(rb"[\x21-\x7e\x80-\xff]{1,%d}" % KEY_LIMIT)
_GET: Final = re.compile(rb"get ([\x21-\x7e\x80-\xff]{1,%d})\r?\n" % KEY_LIMIT)
_UNSIGNED: Final = re.compile(rb"\d{1,20}")
_SIGNED: Final = re.compile(rb"-?\d{1,18}")
_FLAGS_LIMIT: Final = (1 << 32) - 1
_SIZE_LIMIT: Final = (1 << 31) - 1
_NUMBER_LIMIT: Final = (1 << 64) - 1
_BINARY_MAGIC: Final = 0x80
_MODES: Final = frozenset({"set", "add", "replace", "append", "prepend", "cas", NEWEST})


class BadCommand(Exception):
    """Raised when it cannot be known where the next command begins.

    ``answer`` is the last thing to send before the connection is closed; it may be empty.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.answer = answer


class Get(NamedTuple):
    """get, gets, and gat, gats, which have an ``exptime``; ``unique``: with cas numbers."""

    keys: Sequence[bytes]
    unique: bool = False
    exptime: int | None = None


class Set(NamedTuple):
    """One of the commands that carry a value; ``mode`` is its name. ``unique`` is for cas."""

    mode: str
    key: bytes
    flags: int
    exptime: int
    body: Buffer
    unique: int = 0
    noreply: bool = False


class Delete(NamedTuple):
    """delete; ``if_damaged``: only what fails its check, our own command ``delete_damaged``."""

    key: bytes
    noreply: bool = False
    if_damaged: bool = False


class Count(NamedTuple):
    """incr or, if ``down``, decr."""

    key: bytes
    delta: int
    down: bool
    noreply: bool = False


class Touch(NamedTuple):
    """touch."""

    key: bytes
    exptime: int
    noreply: bool = False


class Flush(NamedTuple):
    """flush_all, at once."""

    noreply: bool = False


class Stats(NamedTuple):
    """stats, of a ``group`` or general."""

    group: str = ""


class Browse(NamedTuple):
    """browse, our own command."""

    prefix: bytes
    after: bytes
    limit: int


class Message(NamedTuple):
    """members, our own command."""

    payload: Buffer


class Word(Enum):
    """Commands that have nothing to say but their name."""

    VERSION = "version"
    QUIT = "quit"
    METADUMP = "lru_crawler metadump all"


class Answer(NamedTuple):
    """A command whose answer is known already: most are refusals."""

    line: bytes
    noreply: bool = False


Command: TypeAlias = (
    Get | Set | Delete | Count | Touch | Flush | Stats | Browse | Message | Word | Answer
)


class CommandParser:
    """Cuts a stream of bytes into commands.

    ``value_limit`` is the largest value, in bytes, that is taken; larger ones are passed over.
    """

    def __init__(self, value_limit: int) -> None:
        self._value_limit = value_limit
        self._fed = b""  # of which the bytes up to _position have been used
        self._position = 0
        self._scanned = 0  # no line ends before this
        self._passing_over = 0
        # A command whose value, with its CRLF, is still coming.
        self._started: Set | Message | None = None
        self._value = bytearray()
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Add bytes just received."""
        if self._position < len(self._fed):
            self._scanned -= self._position
            self._fed = self._fed[self._position :] + data
        else:
            self._fed, self._scanned = data, 0
        self._position = 0
        if self._missing:
            self._collect()

    @property
    def unread(self) -> int:
        """Bytes that were fed and belong to no command yet that was begun."""
        return len(self._fed) - self._position

    @property
    def empty(self) -> bool:
        """Whether all that was fed has been returned in commands or passed over."""
        return not self.unread and self._started is None

    @property
    def expected(self) -> int:
        """Size of the value that has begun and whose end has not been fed; 0 if there is none."""
        return len(self._value) + self._missing if self._missing else 0

    def next_get(self) -> bytes | None:
        """Return the key if the next command is a whole get of one key; else change nothing."""
        if self._started or self._passing_over:
            return None
        match = _GET.match(self._fed, self._position)
        if match is None:
            return None
        self._position = self._scanned = match.end()
        return match[1]

    def next_command(self) -> Command | None:
        """Return the next whole command, or None while more bytes are needed.

        Raises ``BadCommand``.
        """
        if self._passing_over and not self._pass_over():
            return None
        if self._started is not None:
            return self._finish(self._started)
        line = self._next_line()
        return None if line is None else self._read(line)

    def _next_line(self) -> bytes | None:
        end = self._fed.find(b"\n", self._scanned)
        if end < 0 or end - self._position > LINE_LIMIT:
            if self.unread and self._fed[self._position] == _BINARY_MAGIC:
                raise BadCommand(b"")
            if self.unread > LINE_LIMIT:
                raise BadCommand(b"CLIENT_ERROR line too long\r\n")
            self._scanned = len(self._fed)
            return None
        line = self._fed[self._position : end]
        self._position = self._scanned = end + 1
        return line.removesuffix(b"\r")

    def _read(self, line: bytes) -> Command | None:
        name, *arguments = [word for word in line.split(b" ") if word] or [b""]
        mode = name.decode("ascii", "replace")
        if mode in _MODES:
            return self._start(mode, arguments)
        if mode == MEMBERS:
            return self._start_message(arguments)
        read = _READERS.get(name)
        if read is not None:
            return read(arguments)
        if line[:1] == b"\x80":
            raise BadCommand(b"")
        if arguments and arguments[-1].startswith(b"HTTP/"):
            # What follows may come from a page in somebody's browser, and may be made to look like
            # commands.
            raise BadCommand(UNKNOWN)
        return Answer(UNKNOWN)

    def _start(self, mode: str, arguments: list[bytes]) -> Command | None:
        """Read the line of a command that carries a value, and look for the value."""
        noreply = _cut_noreply(arguments)
        if len(arguments) != (5 if mode == "cas" else 4):
            raise BadCommand(BAD_FORMAT)
        size = _unsigned(arguments[3], _SIZE_LIMIT)
        if size is None:
            raise BadCommand(BAD_CHUNK)
        command = _read_set(mode, arguments, noreply)
        if command is None or size > self._value_limit:
            self._passing_over = size + 2
            return Answer(BAD_FORMAT if command is None else TOO_LARGE, noreply)
        return self._begin(command, size)

    def _start_message(self, arguments: list[bytes]) -> Command | None:
        size = _unsigned(arguments[0], _SIZE_LIMIT) if len(arguments) == 1 else None
        if size is None:
            raise BadCommand(BAD_FORMAT)
        if size > MESSAGE_LIMIT:
            self._passing_over = size + 2
            return Answer(TOO_LARGE)
        return self._begin(Message(b""), size)

    def _begin(self, command: Set | Message, size: int) -> Command | None:
        self._started, self._value, self._missing = command, bytearray(), size + 2
        self._collect()
        return self._finish(command)

    def _collect(self) -> None:
        taken = self._fed[self._position : self._position + self._missing]
        self._position += len(taken)
        self._scanned = self._position
        self._value += taken
        self._missing -= len(taken)

    def _finish(self, command: Set | Message) -> Command | None:
        if self._missing:
            return None
        value, self._value, self._started = self._value, bytearray(), None
        if not value.endswith(b"\r\n"):
            raise BadCommand(BAD_CHUNK)
        del value[-2:]
        if isinstance(command, Message):
            return Message(value)
        mode, key, flags, exptime, _, unique, noreply = command
        return Set(mode, key, flags, exptime, value, unique, noreply)

    def _pass_over(self) -> bool:
        passed = min(self._passing_over, self.unread)
        self._position += passed
        self._scanned = self._position
        self._passing_over -= passed
        return not self._passing_over


def _cut_noreply(arguments: list[bytes]) -> bool:
    if arguments[-1:] != [b"noreply"]:
        return False
    del arguments[-1]
    return True


def _unsigned(word: bytes, limit: int) -> int | None:
    number = int(word) if _UNSIGNED.fullmatch(word) else limit + 1
    return number if number <= limit else None


def _signed(word: bytes) -> int | None:
    return int(word) if _SIGNED.fullmatch(word) else None


def _is_key(word: bytes) -> bool:
    return _KEY.fullmatch(word) is not None


def _read_set(mode: str, arguments: list[bytes], noreply: bool) -> Set | None:
    """Return the command without its value, or None if an argument is wrong."""
    key = arguments[0]
    flags = _unsigned(arguments[1], _FLAGS_LIMIT)
    exptime = _signed(arguments[2])
    unique = _unsigned(arguments[4], _NUMBER_LIMIT) if mode == "cas" else 0
    if not _is_key(key) or flags is None or exptime is None or unique is None:
        return None
    return Set(mode, key, flags, exptime, b"", unique, noreply)


def _read_get(arguments: list[bytes], unique: bool) -> Command:
    if not arguments:
        return Answer(UNKNOWN)
    return Get(arguments, unique) if all(map(_is_key, arguments)) else Answer(BAD_FORMAT)


def _read_gat(arguments: list[bytes], unique: bool) -> Command:
    if len(arguments) < 2:
        return Answer(UNKNOWN)
    exptime, *keys = arguments
    if (seconds := _signed(exptime)) is None or not all(map(_is_key, keys)):
        return Answer(BAD_FORMAT)
    return Get(keys, unique, seconds)


def _read_delete(arguments: list[bytes]) -> Command:
    noreply = len(arguments) > 1 and _cut_noreply(arguments)  # alone it is the key
    # A time of 0 is what is left of an argument that memcached once had.
    if arguments[1:] not in ([], [b"0"]) or not arguments:
        return Answer(UNKNOWN, noreply)
    return Delete(arguments[0], noreply) if _is_key(arguments[0]) else Answer(BAD_FORMAT, noreply)


def _read_delete_damaged(arguments: list[bytes]) -> Command:
    command = _read_delete(arguments)
    return command._replace(if_damaged=True) if isinstance(command, Delete) else command


def _read_count(arguments: list[bytes], down: bool) -> Command:
    noreply = _cut_noreply(arguments)
    if len(arguments) != 2:
        return Answer(UNKNOWN, noreply)
    key, delta = arguments[0], _unsigned(arguments[1], _NUMBER_LIMIT)
    if delta is None:
        return Answer(BAD_DELTA, noreply)
    return Count(key, delta, down, noreply) if _is_key(key) else Answer(BAD_FORMAT, noreply)


def _read_touch(arguments: list[bytes]) -> Command:
    noreply = _cut_noreply(arguments)
    if len(arguments) != 2:
        return Answer(UNKNOWN, noreply)
    key, exptime = arguments[0], _signed(arguments[1])
    if exptime is None or not _is_key(key):
        return Answer(BAD_FORMAT, noreply)
    return Touch(key, exptime, noreply)


def _read_flush(arguments: list[bytes]) -> Command:
    noreply = _cut_noreply(arguments)
    if arguments in ([], [b"0"]):
        return Flush(noreply)
    return Answer(b"CLIENT_ERROR flush_all takes no delay here\r\n", noreply)


def _read_stats(arguments: list[bytes]) -> Command:
    return Stats(b" ".join(arguments).decode("ascii", "replace"))


def _read_browse(arguments: list[bytes]) -> Command:
    if len(arguments) != 3:
        return Answer(UNKNOWN)
    limit, *texts = arguments
    number = _unsigned(limit, BROWSE_LIMIT)
    if not number or not all(text == b"=" or _is_text(text) for text in texts):
        return Answer(BAD_FORMAT)
    return Browse(texts[0][1:], texts[1][1:], number)


def _is_text(word: bytes) -> bool:
    return word.startswith(b"=") and _is_key(word[1:])


def _read_verbosity(arguments: list[bytes]) -> Command:
    noreply = _cut_noreply(arguments)
    return Answer(b"OK\r\n" if len(arguments) == 1 else UNKNOWN, noreply)


def _read_crawler(arguments: list[bytes]) -> Command:
    return Word.METADUMP if arguments == [b"metadump", b"all"] else Answer(UNKNOWN)


_READERS: Final[dict[bytes, Callable[[list[bytes]], Command]]] = {
    b"get": lambda arguments: _read_get(arguments, unique=False),
    b"gets": lambda arguments: _read_get(arguments, unique=True),
    b"gat": lambda arguments: _read_gat(arguments, unique=False),
    b"gats": lambda arguments: _read_gat(arguments, unique=True),
    b"delete": _read_delete,
    b"delete_damaged": _read_delete_damaged,
    b"incr": lambda arguments: _read_count(arguments, down=False),
    b"decr": lambda arguments: _read_count(arguments, down=True),
    b"touch": _read_touch,
    b"flush_all": _read_flush,
    b"stats": _read_stats,
    BROWSE.encode(): _read_browse,
    b"version": lambda _: Word.VERSION,
    b"verbosity": _read_verbosity,
    b"quit": lambda _: Word.QUIT,
    b"lru_crawler": _read_crawler,
}
"""What reads the words behind the name of a command that carries no value."""
