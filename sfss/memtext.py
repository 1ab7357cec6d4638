"""The memcached text protocol as pure functions over bytes: builders of commands, a parser of
replies.

Only commands that every server of the family understands alike are built (``get``, ``set`` with
exptime 0, ``delete``, ``stats``, ``version``). The parser takes the grammar exactly: what it does
not know is an error, never a guess, because a connection that is out of step hands one file's bytes
to the reader of another.

Source: https://github.com/memcached/memcached/blob/master/doc/protocol.txt
"""

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from sfss.keys import KEY_LIMIT

LINE_LIMIT: Final = 4096
"""Longest reply line that is waited for; real ones, STAT lines, stay below 300 bytes."""

VERSION_COMMAND: Final = b"version\r\n"

_KEY: Final = re.compile(rb"[!->A-~][!-~]{0,%d}" % (KEY_LIMIT - 1))
# Beansdb prints flags from 0x80000000 on as negative numbers; memcached appends a cas number to
# "gets" replies.
_VALUE: Final = re.compile(rb"VALUE ([!-~]{1,250}) (-?\d{1,10}) (\d{1,10})(?: \d{1,20})?")
_STAT: Final = re.compile(rb"STAT (\S+)(?: (.*))?", re.DOTALL)
# Only the second group may be followed by text: "END of chapter one" is a line of some file.
_STATUS: Final = re.compile(
    rb"(?:(END|STORED|NOT_STORED|EXISTS|NOT_FOUND|DELETED|OK)"
    rb"|(VERSION|ERROR|CLIENT_ERROR|SERVER_ERROR)(?: (.*))?)",
    re.DOTALL,
)
_FLAGS: Final = range(-(1 << 31), 1 << 32)


class BadReply(Exception):
    """Raised when bytes from a server are no reply of the protocol: it is out of step."""


class BadKey(ValueError):
    """Raised when a key cannot be written into a command safely."""


@dataclass(frozen=True, slots=True)
class Value:
    """``VALUE key flags size`` and its data block."""

    key: bytes
    flags: int
    body: bytes


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


def check_key(key: bytes) -> bytes:
    """Return ``key``, or raise ``BadKey``; counts bytes, not characters."""
    if not _KEY.fullmatch(key):
        raise BadKey(f"not a safe key of 1 to {KEY_LIMIT} bytes: {key[:300]!r}")
    return key


def get_command(key: bytes) -> bytes:
    """Return the bytes that ask for one key."""
    return b"get %b\r\n" % check_key(key)


def set_command(key: bytes, flags: int, body: bytes) -> bytes:
    """Return the bytes that store ``body``. Exptime is always 0: on the Beansdb family it is a
    version number.
    """
    return b"".join((b"set %b %d 0 %d\r\n" % (check_key(key), flags, len(body)), body, b"\r\n"))


def delete_command(key: bytes) -> bytes:
    """Return the bytes that delete one key."""
    return b"delete %b\r\n" % check_key(key)


def stats_command(group: str = "") -> bytes:
    """Return the bytes that ask for statistics, of one ``group`` ("settings") or general."""
    return f"stats {group}\r\n".encode() if group else b"stats\r\n"


class ReplyParser:
    """Cuts a stream of bytes into replies.

    ``value_limit`` is the largest body, in bytes, that is taken from the server.
    """

    def __init__(self, value_limit: int) -> None:
        self._value_limit = value_limit
        self._buffer = bytearray()
        self._scanned = 0
        self._value: tuple[bytes, int, int, int] | None = (
            None  # key, flags, start and end of its body
        )

    def feed(self, data: bytes) -> None:
        """Add bytes just received."""
        self._buffer += data

    def empty(self) -> bool:
        """Tell whether every byte fed so far has been returned in a reply."""
        return not self._buffer

    def next_reply(self) -> Reply | None:
        """Return the next whole reply, or None while more bytes are needed; raise ``BadReply`` on
        anything else.
        """
        if self._value is not None:
            return self._finish_value(*self._value)
        end = self._buffer.find(b"\r\n", self._scanned)
        if end < 0 or end > LINE_LIMIT:
            if len(self._buffer) > LINE_LIMIT + 1:  # the CR may be there already
                raise BadReply(f"a line of over {LINE_LIMIT} bytes")
            self._scanned = max(0, len(self._buffer) - 1)
            return None
        self._scanned = 0
        return self._read_line(bytes(self._buffer[:end]), end + 2)

    def _read_line(self, line: bytes, end: int) -> Reply | None:
        if line.startswith(b"VALUE "):
            return self._start_value(line, end)
        del self._buffer[:end]
        if match := _STATUS.fullmatch(line):
            return Status((match[1] or match[2]).decode(), _text(match[3]))
        if match := _STAT.fullmatch(line):
            return Stat(_text(match[1]), _text(match[2]))
        raise BadReply(f"an unknown line: {line[:80]!r}")

    def _start_value(self, line: bytes, end: int) -> Reply | None:
        match = _VALUE.fullmatch(line)
        if match is None or int(match[2]) not in _FLAGS:
            raise BadReply(f"a malformed VALUE line: {line[:80]!r}")
        size = int(match[3])
        if size > self._value_limit:
            raise BadReply(f"a value of {size} bytes; at most {self._value_limit} are taken")
        self._value = (match[1], int(match[2]) & 0xFFFFFFFF, end, end + size)
        return self._finish_value(*self._value)

    def _finish_value(self, key: bytes, flags: int, start: int, end: int) -> Value | None:
        if len(self._buffer) < end + 2:
            return None
        if self._buffer[end : end + 2] != b"\r\n":
            raise BadReply("a data block that does not end where its VALUE line says")
        with memoryview(self._buffer) as view:
            body = bytes(view[start:end])
        del self._buffer[: end + 2]
        self._value = None
        return Value(key, flags, body)


def _text(field: bytes | None) -> str:
    return (field or b"").decode("utf-8", "backslashreplace")
