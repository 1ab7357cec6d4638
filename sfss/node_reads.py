"""Items as the answer to a get shows them, and the short way to one that the store has at hand."""

import time
from typing import Final, NamedTuple, Protocol

from sfss.errors import Corrupt
from sfss.items import is_alive, is_own, item_of, shown_head, unique_of
from sfss.memtext_listing import Thing, thing_block
from sfss.record import Buffer, Form, Head, Record, decode, digest_of, encode_head
from sfss.stores.base import Child, Guard, Store, ViewableStore

_REMEMBERED: Final = 8192
_STAMP_LIMIT: Final = 512
"""Items that are remembered, and the most bytes before their body."""

_TURNS: Final = 8
"""One of so many items that were not remembered is."""


class NodeStore(Store, ViewableStore, Protocol):
    """A store whose ``view`` calls back before it returns, as the embedded one's does."""

    async def heads(self, after: bytes) -> tuple[list[tuple[bytes, Head | None]], bytes | None]:
        """Return some of the keys behind ``after``, in byte order, with their heads, None where
        that is damaged; and the key to go on after, None at the end. Raises ``Unreachable``.
        """

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """See ``BrowsableStore.children``."""

    async def set_copy(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Do as ``set``, with a record that leaves a tombstone when it has expired."""

    async def delete_damaged(self, key: bytes) -> bool:
        """Remove what is under ``key`` if it is damaged, in one step; return whether it was.

        Raises ``StoreFull``, ``Unreachable``.
        """


class Block(NamedTuple):
    """One value of an answer: its VALUE line, and its bytes without the CRLF behind them."""

    line: bytes
    value: bytes


def block_of(key: bytes, record: Record, encoded: Buffer, unique: bool) -> Block:
    """Return the item that ``record`` stands for; ``encoded`` is all of it. ``unique``: with its
    cas number.
    """
    flags, value = item_of(record, encoded)
    end = b" %d\r\n" % unique_of(record.head) if unique else b"\r\n"
    return Block(b"VALUE %b %d %d%b" % (key, flags, len(value), end), bytes(value))


def thing_block_of(number: int, child: Child) -> Block:
    """Return what the answer to "browse" says of ``child``, as its thing number ``number``."""
    head = b"" if child.head is None else encode_head(shown_head(child.head))
    value = thing_block(Thing(child.name, head))
    return Block(b"VALUE %d 0 %d\r\n" % (number, len(value)), value)


def now_us() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


class _Known(NamedTuple):
    """What is known of an item that was shown lately: as long as all of the record before its body,
    the ``stamp``, is the same, so is the rest. ``start`` is where its value begins in the record.
    """

    stamp: bytes
    digest: bytes
    line: bytes
    start: int


class Reads:
    """The short way to the items of ``store``: no task, no future, and one copy of the bytes.

    What it cannot do, or finds wrong, is for the store's ``get`` to do, or to say.
    """

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._known: dict[bytes, _Known] = {}
        self._asked = b""
        self._unique = False
        self._turn = 0
        self._block: Block | None = None

    def show(self, key: bytes, unique: bool = False) -> Block | None:
        """Return the item under ``key`` if the store has a sound one at hand; None tells nothing.

        The digest has been checked. ``unique``: with its cas number.
        """
        self._asked, self._unique, self._block = key, unique, None
        self._store.view(key, self._use)
        return self._block

    def _use(self, stored: Buffer | None, form: Form) -> None:
        if stored is None or form is not Form.RECORD:
            return
        known = self._known.get(self._asked)
        if known is not None and not self._unique:
            offset = len(known.stamp)
            whole = memoryview(stored)
            if whole[:offset] == known.stamp and digest_of(whole[offset:]) == known.digest:
                self._block = Block(known.line, bytes(whole[known.start :]))
                return
        try:
            record = decode(stored, "", self._asked)
            self._learn(record, stored)
        except (Corrupt, ValueError):
            return  # ``get`` finds it again, and says it

    def _learn(self, record: Record, stored: Buffer) -> None:
        head, key = record.head, self._asked
        if head.expiry and not is_alive(head, now_us()):
            return
        self._block = block_of(key, record, stored, self._unique)
        # To remember costs as much as to find out again: that is for what is asked for often.
        self._turn = (self._turn + 1) % _TURNS
        offset = len(stored) - head.size
        if self._turn or head.expiry or self._unique or offset > _STAMP_LIMIT:
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        start = offset if is_own(head) else 0
        self._known[key] = _Known(bytes(stored[:offset]), head.digest, self._block.line, start)
