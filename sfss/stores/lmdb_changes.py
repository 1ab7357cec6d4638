"""One change of an LMDB environment, within a transaction: of a record, and of what is noted of it
beside the records.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import lmdb

from sfss.errors import Corrupt
from sfss.record import (
    Buffer,
    Head,
    Kind,
    decode,
    decode_head,
    digest_of,
    is_tombstone_in,
    version_in,
)
from sfss.stores.base import Guard, HasNewer
from sfss.stores.lmdb_arrivals import Arrivals
from sfss.stores.lmdb_expiries import Expiries
from sfss.stores.visited import Visited

CHANGE_OVERHEAD: Final = 8192
"""Bytes of pages about a value."""

_log = logging.getLogger(__name__)

Outcome: TypeAlias = bool | Exception
"""Of a change: whether the key was there (delete), or why it was not made."""

Transaction: TypeAlias = "lmdb.Transaction[memoryview]"


@dataclass(slots=True)
class Change:
    """A write that waits, of a value in two parts; ``head`` None deletes. ``if_damaged``: nothing
    is changed if there is a sound record. ``taken``: the writer thread has begun it. ``expiry``: of
    a file that is to be swept then, 0 never; ``leaves_tombstone``: not without a trace. ``since``:
    nothing is put where something as new may have been removed after that moment. A delete knows
    that there was something of the version ``floor``; ``evicts``: it is to make room.
    """

    future: asyncio.Future[bool]
    key: bytes
    head: bytes | None
    body: Buffer
    guard: Guard | None
    if_damaged: bool = False
    expiry: int = 0
    leaves_tombstone: bool = False
    taken: bool = False
    since: int | None = None
    floor: int = 0
    evicts: bool = False

    def give_up(self) -> None:
        """Let go of a body that nobody waits for any more; the future is done."""
        # The writer looks at the future after it has set "taken", so it sees one or the other.
        if not self.taken:
            self.body = b""

    @property
    def deletes(self) -> bool:
        """Whether it leaves nothing, or no more than the memory of a deletion."""
        return self.head is None or is_tombstone_in(self.head)

    @property
    def size(self) -> int:
        """Bytes that it may add to the data file."""
        return CHANGE_OVERHEAD + len(self.head or b"") + len(self.body)


class Indexes(NamedTuple):
    """What stands beside the records, as far as it is there, and open."""

    expiries: Expiries | None = None
    arrivals: Arrivals | None = None


def apply(
    transaction: Transaction,
    indexes: Indexes,
    change: Change,
    address: str,
    visited: Visited | None,
) -> Outcome:
    """Make ``change`` in ``transaction``, to the store at ``address``; a file that is replaced is
    ``visited``.
    """
    if change.future.done():
        return False  # given up while the lock was waited for: newer writes may have come
    try:
        if change.guard is not None:
            change.guard(_head(transaction, change.key, address))
    except lmdb.Error:
        raise
    except Exception as refusal:
        return refusal
    if change.if_damaged and _is_sound(transaction, change.key, address):
        return False
    expiries, arrivals = indexes
    if arrivals is not None:
        if refused := _too_late(transaction, arrivals, change):
            return refused
        _note(transaction, arrivals, change, visited)
    if expiries is not None:
        expiries.forget(transaction, change.key)
        if change.expiry:
            expiries.add(transaction, change.key, change.expiry, change.leaves_tombstone)
    if change.head is None:
        return transaction.delete(change.key)
    # Joined only now: of all the bodies that wait, two copies would be too many.
    return transaction.put(change.key, b"".join((change.head, change.body)))


def _note(
    transaction: Transaction, arrivals: Arrivals, change: Change, visited: Visited | None
) -> None:
    if change.head is None:
        arrivals.removes(transaction, change.key, change.floor, change.evicts)
    elif is_tombstone_in(change.head):
        arrivals.drops(transaction, change.key)
    else:
        size = len(change.head) + len(change.body)
        if arrivals.keeps(transaction, change.key, size) and visited is not None:
            visited.mark(change.key)


def _is_sound(transaction: Transaction, key: bytes, address: str) -> bool:
    try:
        decode(transaction.get(key) or b"", address, key)
    except Corrupt:
        return False
    return True


def _head(transaction: Transaction, key: bytes, address: str) -> Head | None:
    value = transaction.get(key)
    try:
        return None if value is None else decode_head(value, address, key)
    except Corrupt as error:
        _log.warning("taken for absent by a conditional write: %s", str(error))
        return None


def _too_late(transaction: Transaction, arrivals: Arrivals, change: Change) -> HasNewer | None:
    """Return why nothing may be put: something as new was there, and has been removed since."""
    if change.since is None or change.head is None or transaction.get(change.key) is not None:
        return None
    version = version_in(change.head)
    newer = arrivals.newer_than(transaction, change.key, version, change.since)
    if newer is None:
        return None
    return HasNewer(Head(newer, 0, digest_of(b""), Kind.TOMBSTONE))
