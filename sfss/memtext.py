"""The memcached text protocol as pure functions over bytes: builders of commands, and parsers that
cut a stream into replies and put those together to answers.

Built are commands that every server of the family understands alike (``get``, ``set`` with exptime
0, ``delete``, ``stats``, ``version``), and some for those that say that they know them. The parser
takes the grammar exactly: what it does not know is an error, never a guess, because a connection
that is out of step hands one file's bytes to the reader of another.

Source: https://github.com/memcached/memcached/blob/master/doc/protocol.txt
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

from sfss.keys import KEY_LIMIT

LINE_LIMIT: Final = 4096
"""Longest reply line that is waited for; real ones, STAT lines, stay below 300 bytes."""

VALUE_LIMIT: Final = 100 << 20
"""Largest value, in bytes, that is taken from a server: Beansdb's limit, the highest default."""

VERSION_COMMAND: Final = b"version\r\n"

_TEXT: Final = re.compile(rb"[!-~\x80-\xff]{1,%d}" % KEY_LIMIT)
_KEY: Final = re.compile(rb"[!->A-~][!-~]{0,%d}" % (KEY_LIMIT - 1))
# Beansdb prints flags from 0x80000000 on as negative numbers; a reply to "gets" has a cas number.
_VALUE: Final = re.compile(rb"VALUE ([!-~]{1,250}) (-?\d{1,10}) (\d{1,10})(?: (\d{1,20}))?\r\n")
_STAT: Final = re.compile(rb"STAT (\S+)(?: (.*))?", re.DOTALL)
# Only the second group may be followed by text: "END of chapter one" is a line of some file.
_STATUS: Final = re.compile(
    rb"(?:(END|STORED|NOT_STORED|EXISTS|NOT_FOUND|DELETED|OK)"
    rb"|(VERSION|ERROR|CLIENT_ERROR|SERVER_ERROR)(?: (.*))?)",
    re.DOTALL,
)
_FLAGS: Final = range(-(1 << 31), 1 << 32)
_AFTER_VALUE: Final = b"\r\nEND\r\n"
_AFTER_VALUE_SIZE: Final = len(_AFTER_VALUE)
_BUFFER_KEPT: Final = 4 << 20  # bytes of memory that are kept from value to value
_STATS_LIMIT: Final = 10_000


class BadReply(Exception):
    """Raised when bytes from a server are no reply of the protocol: it is out of step."""


class BadKey(ValueError):
    """Raised when a key cannot be written into a command safely."""


@dataclass(frozen=True, slots=True)
class Value:
    """``VALUE key flags size`` and its data block; ``unique`` is the cas number, if it has one."""

    key: bytes
    flags: int
    body: bytes
    unique: int = 0


@dataclass(frozen=True, slots=True)
class Stat:
    """One ``STAT name value`` line."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Status:
    """A line that ends a reply: ``word`` is END, STORED, SERVER_ERROR ...; ``text`` what follows
    it.
    """

    word: str
    text: str = ""


Reply: TypeAlias = Value | Stat | Status


@dataclass(frozen=True, slots=True)
class Grammar:
    """What may answer a command: replies of the kind ``item``, then one of the words ``ends``.

    ``changes``: the command changes what the server holds.
    """

    ends: frozenset[str]
    item: type[Value] | type[Stat] | None = None
    changes: bool = False


GET: Final = Grammar(frozenset({"END"}), item=Value)
SET: Final = Grammar(frozenset({"STORED", "NOT_STORED"}), changes=True)
CAS: Final = Grammar(frozenset({"STORED", "EXISTS", "NOT_FOUND"}), changes=True)
NEWEST: Final = Grammar(frozenset({"STORED", "EXISTS"}), changes=True)
DELETE: Final = Grammar(frozenset({"DELETED", "NOT_FOUND"}), changes=True)
STATS: Final = Grammar(frozenset({"END"}), item=Stat)
BROWSE: Final = Grammar(frozenset({"END"}), item=Value)
VERSION: Final = Grammar(frozenset({"VERSION"}))

_REFUSALS: Final = frozenset({"SERVER_ERROR", "CLIENT_ERROR", "ERROR"})  # of any command


@dataclass(slots=True)
class Answer:
    """A whole answer: the line that ended it, and what came before."""

    status: Status
    values: list[Value] = field(default_factory=list)
    stats: dict[str, str] = field(default_factory=dict)

    @property
    def in_step(self) -> bool:
        """Tell whether the server is ready for another command; otherwise it may take the rest of
        what it was sent for one.
        """
        return self.status.word not in ("CLIENT_ERROR", "ERROR")


is_safe_key: Final = _KEY.fullmatch
"""Finds nothing in a key that cannot be written into a command safely; counts bytes, not
characters.
"""


def check_key(key: bytes) -> bytes:
    """Return ``key``, or raise ``BadKey``; see ``is_safe_key``."""
    if not is_safe_key(key):
        raise BadKey(f"not a safe key of 1 to {KEY_LIMIT} bytes: {key[:300]!r}")
    return key


def get_command(key: bytes) -> bytes:
    """Return the bytes that ask for one key."""
    return b"get %b\r\n" % check_key(key)


def gets_command(key: bytes) -> bytes:
    """Return the bytes that ask for one key and its cas number; Beansdb does not know it."""
    return b"gets %b\r\n" % check_key(key)


def get_commands(safe_keys: Iterable[bytes]) -> bytes:
    """Return the bytes that ask for each key in a command of its own."""
    return b"get %b\r\n" % b"\r\nget ".join(safe_keys)


def set_command(key: bytes, flags: int, body: bytes, exptime: int = 0) -> bytes:
    """Return the bytes that store ``body``. Only a real memcached may be given an ``exptime``: on
    the Beansdb family it is a version number.
    """
    line = b"set %b %d %d %d\r\n" % (check_key(key), flags, exptime, len(body))
    return b"".join((line, body, b"\r\n"))


def add_command(key: bytes, flags: int, body: bytes, exptime: int = 0) -> bytes:
    """Return the bytes that store ``body`` unless there is something; Beansdb answers it twice."""
    return b"add" + set_command(key, flags, body, exptime).removeprefix(b"set")


def cas_command(key: bytes, flags: int, body: bytes, unique: int, exptime: int = 0) -> bytes:
    """Return the bytes that store ``body`` if the item still has the cas number ``unique``."""
    line = b"cas %b %d %d %d %d\r\n" % (check_key(key), flags, exptime, len(body), unique)
    return b"".join((line, body, b"\r\n"))


def newest_command(key: bytes, flags: int, body: bytes) -> bytes:
    """Return the bytes that have an ``sfss node`` keep the record in ``body`` unless it has a newer
    one. No other server knows this command.
    """
    return b"newest" + set_command(key, flags, body).removeprefix(b"set")


def delete_command(key: bytes) -> bytes:
    """Return the bytes that delete one key."""
    return b"delete %b\r\n" % check_key(key)


def remove_command(key: bytes, unique: int) -> bytes:
    """Return the bytes that remove the item if it still has the cas number ``unique``: one that has
    expired is put in its place. The answer is that to ``cas_command``.
    """
    return b"cas %b 0 -1 0 %d\r\n\r\n" % (check_key(key), unique)


def delete_damaged_command(key: bytes) -> bytes:
    """Return the bytes that have an ``sfss node`` delete one key if what it has there is damaged.
    No other server knows this command.
    """
    return b"delete_damaged %b\r\n" % check_key(key)


def browse_command(prefix: bytes, after: bytes, limit: int) -> bytes:
    """Return the bytes that ask an ``sfss node`` what is in a folder; see
    ``memtext_extensions.BROWSE``. No other server knows this command.
    """
    for text in (prefix, after):
        if text and not _TEXT.fullmatch(text):
            raise BadKey(f"not a part of a safe key: {text[:300]!r}")
    return b"browse %d =%b =%b\r\n" % (limit, prefix, after)


def stats_command(group: str = "") -> bytes:
    """Return the bytes that ask for statistics, of one ``group`` ("settings") or general."""
    return f"stats {group}\r\n".encode() if group else b"stats\r\n"


class ReplyParser:
    """Cuts a stream of bytes into replies.

    ``value_limit`` is the largest body, in bytes, that is taken from the server. Bytes come in
    through ``feed``, or without being copied through ``room`` and ``received``.
    """

    def __init__(self, value_limit: int = VALUE_LIMIT) -> None:
        self._value_limit = value_limit
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # of what has come and was not yet taken; all else is stale
        self._value_size = 0  # with its VALUE line, of the value that has begun to come

    def feed(self, data: bytes) -> None:
        """Add bytes just received."""
        while data:
            room = self.room(len(data))
            part = data[: len(room)]
            room[: len(part)] = part
            self.received(len(part))
            data = data[len(part) :]

    def room(self, size: int) -> memoryview:
        """Return where the next bytes go: at least ``size`` of them, or some that a value lacks."""
        waiting, free = self._end - self._start, len(self._buffer) - self._end
        lacking = self._value_size and self._value_size + len(b"END\r\n") - waiting
        if lacking <= 0:
            self._move_to_front(waiting + size)
        elif not free or (self._start and free < lacking):
            # A promise of many bytes gets no more memory than has come.
            self._move_to_front(waiting + min(lacking, max(waiting, _BUFFER_KEPT)))
        return self._view[self._end :]

    def received(self, size: int) -> None:
        """Take note that the first ``size`` bytes of ``room`` have been filled."""
        self._end += size

    def empty(self) -> bool:
        """Tell whether every byte received so far has been returned in a reply."""
        return self._start == self._end

    def next_reply(self) -> Reply | None:
        """Return the next whole reply, or None while more bytes are needed; raise ``BadReply`` on
        anything else.
        """
        waiting = self._end - self._start
        if waiting < self._value_size:
            return None
        end = self._buffer.find(b"\r\n", self._start, self._end)
        if end < 0 or end - self._start > LINE_LIMIT:
            if waiting > LINE_LIMIT + 1:  # the CR may be there already
                raise BadReply(f"a line of over {LINE_LIMIT} bytes")
            return None
        line = bytes(self._view[self._start : end])
        if line.startswith(b"VALUE "):
            return self._next_value(line)
        self._take(end + 2)
        return _reply(line)

    def _next_value(self, line: bytes) -> Value | None:
        match = _VALUE.match(self._buffer, self._start, self._end)
        if match is None:
            raise BadReply(f"a malformed VALUE line: {line[:80]!r}")
        flags, size, start = _flags(match[2]), int(match[3]), match.end()
        if size > self._value_limit:
            raise BadReply(f"a value of {size} bytes; at most {self._value_limit} are taken")
        end = start + size
        if self._end < end + 2:
            self._value_size = end + 2 - self._start
            return None
        if self._buffer[end : end + 2] != b"\r\n":
            raise BadReply("a data block that does not end where its VALUE line says")
        self._take(end + 2)
        return Value(match[1], flags, bytes(self._view[start:end]), int(match[4] or 0))

    def _take(self, end: int) -> None:
        self._start, self._value_size = end, 0

    def _move_to_front(self, capacity: int) -> None:
        """Put what was not yet taken at the front of a buffer into which nobody looks."""
        waiting = self._buffer[self._start : self._end]
        self._view.release()
        size = len(self._buffer)
        if size < capacity or size > max(capacity, _BUFFER_KEPT) or _looked_into(self._buffer):
            self._buffer = bytearray(max(capacity, min(size, _BUFFER_KEPT)))
        self._view = memoryview(self._buffer)
        self._start, self._end = 0, len(waiting)
        self._buffer[: self._end] = waiting


class AnswerParser(ReplyParser):
    """Cuts a stream of bytes into answers, and holds them to what was asked."""

    def __init__(self, value_limit: int = VALUE_LIMIT) -> None:
        super().__init__(value_limit)
        self._values: dict[bytes, Value] = {}
        self._stats: dict[str, str] = {}

    def next_answer(self, grammar: Grammar, keys: Collection[bytes] = ()) -> Answer | None:
        """Return the whole answer to a command, or None while more bytes are needed.

        ``keys`` are those that the command asks for: a value must be of one of them, each at most
        once. Raise ``BadReply`` on anything that does not answer this command.
        """
        while not isinstance(reply := self.next_reply(), Status):
            if reply is None:
                return None
            if type(reply) is not grammar.item:
                raise BadReply(f"a {type(reply).__name__} line that was not asked for")
            self._add(reply, keys)
        if reply.word not in grammar.ends and reply.word not in _REFUSALS:
            raise BadReply(f"{reply.word}, which does not answer what was asked")
        answer = Answer(reply, list(self._values.values()), self._stats)
        self._values, self._stats = {}, {}
        return answer

    def _add(self, reply: Value | Stat, keys: Collection[bytes]) -> None:
        if isinstance(reply, Stat):
            self._stats[reply.name] = reply.value
            if len(self._stats) > _STATS_LIMIT:
                raise BadReply(f"more than {_STATS_LIMIT} STAT lines")
        elif reply.key not in keys or reply.key in self._values:
            raise BadReply(f"the value of {reply.key[:80]!r}, which was not asked for")
        else:
            self._values[reply.key] = reply

    def next_item(self, key: bytes) -> tuple[bytes | memoryview | None, int] | None:
        """Return body and flags out of the answer to ``get key``, or None while more bytes are
        needed. The body is None where the server has nothing or refused to tell.

        Raise ``BadReply`` as ``next_answer`` does, and where the server is out of step. The body
        may be a view of the parser's memory, which is not used again before that is released.
        """
        # The usual answer, one value whole, is recognised at a glance; next_answer knows the rest.
        match = _VALUE.match(self._buffer, self._start, self._end)
        if match is not None and not self._values:
            name, flags, size, _ = match.groups()
            start = match.end()
            end = start + int(size)
            whole = self._buffer.startswith(_AFTER_VALUE, end, self._end)
            if whole and name == key and end - start <= self._value_limit:
                item = self._view[start:end], _flags(flags)
                self._start, self._value_size = end + _AFTER_VALUE_SIZE, 0
                return item
        return self._next_item(key)

    def _next_item(self, key: bytes) -> tuple[bytes | None, int] | None:
        answer = self.next_answer(GET, (key,))
        if answer is None:
            return None
        if not answer.in_step:
            raise BadReply(f"{answer.status.word} {answer.status.text}")
        if answer.status.word != "END" or not answer.values:
            return None, 0
        return answer.values[0].body, answer.values[0].flags


def _reply(line: bytes) -> Reply:
    if match := _STATUS.fullmatch(line):
        return Status((match[1] or match[2]).decode(), _text(match[3]))
    if match := _STAT.fullmatch(line):
        return Stat(_text(match[1]), _text(match[2]))
    raise BadReply(f"an unknown line: {line[:80]!r}")


@lru_cache(maxsize=64)
def _flags(field: bytes) -> int:
    if int(field) not in _FLAGS:
        raise BadReply(f"flags of {field.decode()}")
    return int(field) & 0xFFFFFFFF


def _looked_into(buffer: bytearray) -> bool:
    """Tell whether there are views of ``buffer``: then its size cannot be changed."""
    try:
        buffer.append(0)
    except BufferError:
        return True
    buffer.pop()
    return False


def _text(field: bytes | None) -> str:
    return (field or b"").decode("utf-8", "backslashreplace")
