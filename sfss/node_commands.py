"""What a node does for each command of the memcached protocol, over one store.

Nothing here knows of connections: a command comes in, an answer goes out. Conditions hold inside
the store's own transaction, so they are right between clients, and between processes that have the
same folder open.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, TypeVar
from urllib.parse import quote_from_bytes

from sfss.agreement import rank
from sfss.checks import BOOLEAN, SECRET, between
from sfss.cluster import Clock
from sfss.config import MIB
from sfss.declaring import setting
from sfss.errors import Corrupt, SfssError, StoreFull
from sfss.items import (
    BadItem,
    expiry_of,
    is_alive,
    is_own,
    item_size,
    record_of,
    unique_of,
)
from sfss.memtext_commands import TOO_LARGE, UNKNOWN, Browse, Count, Delete, Set, Touch
from sfss.memtext_extensions import DAMAGED, DISK_FULL, MESSAGE_LIMIT, NEWEST
from sfss.node_reads import Block, NodeStore, Reads, block_of, now_us, thing_block_of
from sfss.record import Buffer, Head, Record, encode, held, new_record
from sfss.stores.base import Guard

STORED: Final = b"STORED\r\n"
NOT_STORED: Final = b"NOT_STORED\r\n"
EXISTS: Final = b"EXISTS\r\n"
NOT_FOUND: Final = b"NOT_FOUND\r\n"
DELETED: Final = b"DELETED\r\n"
TOUCHED: Final = b"TOUCHED\r\n"
END: Final = b"END\r\n"

_ERROR_TEXT_LIMIT: Final = 500
_LOCKS: Final = 16
_TRIES: Final = 100
_NUMBER: Final = re.compile(rb"(\d{1,20}) *")
_NUMBER_END: Final = 1 << 64

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

OnMessage: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""What answers a message of another member of the cluster. It is cancelled when that one resets its
connection, or after ``MESSAGE_S``; one that closes it is not noticed before the answer.
"""

MESSAGE_S: Final = 60.0
"""Seconds in which a message has to be answered."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node allows."""

    item_limit: int = setting(50 * MIB, "bytes a value may have", between(1, 1024 * MIB))
    connections: int = setting(1024, "clients at the same time", between(1, 65_536))
    allow_flush: bool = setting(
        False,
        "let clients delete everything with flush_all",
        BOOLEAN,
    )
    secret: str = setting("", "what clients have to know, if it is not empty", SECRET)


async def answer_message(on_message: OnMessage | None, payload: Buffer) -> bytes:
    """Return the answer to the command "members"; ERROR where nobody takes messages."""
    if on_message is None:
        return UNKNOWN
    try:
        async with asyncio.timeout(MESSAGE_S):
            found = await on_message(bytes(payload))
        if len(found) > MESSAGE_LIMIT:
            raise ValueError(f"an answer of {len(found)} bytes; at most {MESSAGE_LIMIT} are sent")
    except Exception:
        _log.exception("error in answering a member")
        return b"SERVER_ERROR members\r\n"
    return b"MEMBERS %d\r\n%b\r\n" % (len(found), found)


class Refused(Exception):
    """Raised when a command is answered with ``line`` and nothing is changed."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


class _Changed(Exception):
    """Raised when an item is not what it was when its change was worked out."""


class Node:
    """The commands over ``store``.

    ``outcomes`` counts answers by command and first word. ``show`` is the short way to an item; see
    ``Reads``.
    """

    def __init__(self, store: NodeStore, settings: NodeSettings) -> None:
        self.settings = settings
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.show = Reads(store).show
        self._store = store
        self._clock = Clock()
        # Of those that read, change and write, one at a time for each key, and few in all.
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def read(self, key: bytes, unique: bool, exptime: int | None = None) -> Block | None:
        """Return the item under ``key``, or None if there is none; ``exptime`` changes it first.

        Raises ``Refused``.
        """
        if exptime is None:
            record = await _answered(self._store.get(key))
            if record is None or not is_alive(record.head, now_us()):
                return None
        else:
            record, line = await _answered(self._replace(Touch(key, exptime)))
            self._count("touch", line)
            if record is None:
                return None
        return block_of(key, record, b"" if is_own(record.head) else encode(record), unique)

    async def write(self, command: Set | Delete) -> bytes:
        """Do a command that depends on the former item's head at most; return the answer. What is
        answered as done is on the disk.
        """
        if isinstance(command, Delete):
            return await self._counted("delete", self._delete(command))
        return await self._counted(command.mode, self._set(command))

    async def change(self, command: Set | Count | Touch) -> bytes:
        """Do a command that makes a new item of the former one; return the answer."""
        if isinstance(command, Set):
            name = command.mode
        elif isinstance(command, Touch):
            name = "touch"
        else:
            name = "decr" if command.down else "incr"
        return await self._counted(name, self._change(command))

    async def _counted(self, name: str, doing: Awaitable[bytes]) -> bytes:
        try:
            line = await _answered(doing)
        except Refused as refused:
            line = refused.line
        self._count(name, line)
        return line

    def _count(self, name: str, line: bytes) -> None:
        word = line.split(maxsplit=1)[0].decode()
        self.outcomes[name, "number" if word.isdigit() else word] += 1

    async def _set(self, command: Set) -> bytes:
        expiry = expiry_of(command.exptime, now_us())
        try:
            record = record_of(command.flags, command.body, expiry, self._clock.version())
        except BadItem as error:
            raise Refused(b"CLIENT_ERROR %b\r\n" % _one_line(str(error))) from error
        guard = _guard(command, record.head)
        if command.exptime < 0:
            # It has expired when it comes: there is nothing to keep.
            await self._store.delete(command.key, guard)
        elif command.mode == NEWEST:
            await self._store.set_copy(command.key, record, guard)
        else:
            await self._store.set(command.key, record, guard)
        return STORED

    async def _delete(self, command: Delete) -> bytes:
        if command.if_damaged:
            is_gone = await self._store.delete_damaged(command.key)
        else:
            is_gone = await self._store.delete(command.key, _refuse_expired)
        return DELETED if is_gone else NOT_FOUND

    async def _change(self, command: Set | Count | Touch) -> bytes:
        _, line = await self._replace(command)
        return line

    async def _replace(self, command: Set | Count | Touch) -> tuple[Record | None, bytes]:
        """Return the new record, None if there was none before, and the answer."""
        async with self._locks[hash(command.key) % _LOCKS]:
            for _ in range(_TRIES):
                former = await self._store.get(command.key)
                if former is None or not is_alive(former.head, now_us()):
                    return None, NOT_STORED if isinstance(command, Set) else NOT_FOUND
                record, line = self._changed(former, command)
                guard = partial(_refuse_others, former.head)
                try:
                    await self._store.set(command.key, record, guard)
                    return record, line
                except _Changed:
                    continue
        raise Refused(b"SERVER_ERROR the item keeps changing\r\n")

    def _changed(self, former: Record, command: Set | Count | Touch) -> tuple[Record, bytes]:
        """Return what is to replace ``former``, and the answer when it has; raises ``Refused``."""
        if isinstance(command, Count):
            number = _counted_number(former, command)
            return self._with_body(former, number), b"%b\r\n" % number
        if not is_own(former.head):
            raise Refused(b"CLIENT_ERROR a record can only be replaced\r\n")
        if isinstance(command, Touch):
            expiry = expiry_of(command.exptime, now_us())
            return former._replace(head=former.head._replace(expiry=expiry)), TOUCHED
        parts = [held(former.body), command.body]
        if command.mode == "prepend":
            parts.reverse()
        if sum(map(len, parts)) > self.settings.item_limit:
            raise Refused(TOO_LARGE)
        return self._with_body(former, b"".join(parts)), STORED

    def _with_body(self, former: Record, body: bytes) -> Record:
        record = new_record(body, self._clock.version(), former.head.metadata)
        return record._replace(head=record.head._replace(expiry=former.head.expiry))

    async def flush(self) -> bytes:
        """Delete everything, if the settings allow it; return the answer."""
        if not self.settings.allow_flush:
            return b"CLIENT_ERROR flush_all not allowed\r\n"
        return await self._counted("flush_all", self._flush())

    async def _flush(self) -> bytes:
        position: bytes | None = b""
        while position is not None:
            found, position = await self._store.heads(position)
            await asyncio.gather(*(self._store.delete(key) for key, _ in found))
        return b"OK\r\n"

    async def metadump(self) -> AsyncIterator[bytes]:
        """Yield all keys in byte order, in the lines of memcached's ``lru_crawler metadump``. A
        record whose head is damaged has the cas number 0.

        Raises ``Refused``.
        """
        position: bytes | None = b""
        while position is not None:
            found, position = await _answered(self._store.heads(position))
            now = now_us()
            alive = (each for each in found if each[1] is None or is_alive(each[1], now))
            yield b"".join(_metadump_line(key, head) for key, head in alive)
            await asyncio.sleep(0)

    async def browse(self, command: Browse) -> list[Block]:
        """Return what is in a folder, see ``memtext_extensions.BROWSE``; raises ``Refused``."""
        prefix, after, limit = command
        children = await _answered(self._store.children(prefix, after, limit))
        return [thing_block_of(number, child) for number, child in enumerate(children)]

    async def store_stats(self) -> Mapping[str, str]:
        """Return what the store says of itself; raises ``Refused``."""
        return await _answered(self._store.stats())


async def _answered(doing: Awaitable[Answer]) -> Answer:
    """Wait for ``doing``; raise ``Refused`` for whatever goes wrong."""
    try:
        return await doing
    except Refused:
        raise
    except SfssError as error:
        raise Refused(_error_line(error)) from error
    except Exception as error:
        _log.exception("error in a command")
        raise Refused(b"SERVER_ERROR internal error\r\n") from error


def _error_line(error: SfssError) -> bytes:
    text = str(error)
    if isinstance(error, Corrupt):
        text = f"{DAMAGED}: {error.damage}"
    elif isinstance(error, StoreFull):
        text = f"{DISK_FULL}: {text}"
    return b"SERVER_ERROR %b\r\n" % _one_line(text)


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode("ascii", "backslashreplace")[:_ERROR_TEXT_LIMIT]


def _guard(command: Set, own: Head) -> Guard | None:
    """Return what refuses the command, which brings ``own``, where the present item forbids it."""
    if command.mode == "set":
        return None
    if command.mode == NEWEST:
        if is_own(own):
            raise Refused(b"CLIENT_ERROR newest takes records only\r\n")
        return partial(_refuse_older, own)

    def guard(head: Head | None) -> None:
        present = head if head is not None and is_alive(head, now_us()) else None
        if command.mode == "cas":
            _compare(present, command.unique)
        elif (command.mode == "add") != (present is None):
            raise Refused(NOT_STORED)

    return guard


def _refuse_older(own: Head, present: Head | None) -> None:
    # A plain item has no version that a gateway knows of.
    if present is not None and not is_own(present) and rank(present) > rank(own):
        raise Refused(EXISTS)


def _compare(present: Head | None, unique: int) -> None:
    if present is None:
        raise Refused(NOT_FOUND)
    if unique_of(present) != unique:
        raise Refused(EXISTS)


def _refuse_expired(head: Head | None) -> None:
    # None: nothing there, or something damaged, and that has to go.
    if head is not None and not is_alive(head, now_us()):
        raise Refused(NOT_FOUND)


def _refuse_others(expected: Head, head: Head | None) -> None:
    if head != expected:
        raise _Changed


def _counted_number(former: Record, command: Count) -> bytes:
    match = _NUMBER.fullmatch(held(former.body)) if is_own(former.head) else None
    if match is None or int(match[1]) >= _NUMBER_END:
        raise Refused(b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n")
    number = int(match[1])
    if command.down:
        return b"%d" % max(0, number - command.delta)
    return b"%d" % ((number + command.delta) % _NUMBER_END)


def _metadump_line(key: bytes, head: Head | None) -> bytes:
    expiry_s, changed_s, unique, size = -1, 0, 0, 0
    if head is not None:
        expiry_s = head.expiry // 1_000_000 if head.expiry and is_own(head) else -1
        changed_s, unique, size = head.version // 1_000_000, unique_of(head), item_size(head)
    line = (
        f"key={quote_from_bytes(key, safe='')} exp={expiry_s} la={changed_s} cas={unique}"
        f" fetch=no cls=1 size={size}\n"
    )
    return line.encode("ascii")
