"""When records expire: an index beside the records, changed in the transactions that change them.

An entry of the index is a key: 8 bytes of expiry, big-endian, and the key of the record. So what
expires first comes first. Its value says what is to remain of the record. The index is a database
of its own in the environment, made with the first record that expires; its name, which is longer
than any key of a record, is an entry among the records, the last of all.

An entry is only a hint: what is removed is looked at again. One that is wrong costs that look.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

import lmdb

from sfss.errors import Corrupt
from sfss.record import Head, decode_head, encode_head, expired_tombstone, expiry_in, has_expired
from sfss.stores.lmdb_arrivals import Arrivals
from sfss.stores.lmdb_opening import FORMAT_KEY

INDEX: Final = FORMAT_KEY + b"\xff"
"""The name of the index."""

_SWEPT_BYTES: Final = 64 * 1024 * 1024
_EXPIRY: Final = Struct(">Q")
_NOTHING_REMAINS: Final = b""
_TOMBSTONE_REMAINS: Final = b"t"


class Swept(NamedTuple):
    """How many records were removed, and whether there may be ``more`` that have expired."""

    records: int = 0
    more: bool = False


class Expiries:
    """The index, open in its environment. Every method is for the writer thread."""

    def __init__(self, database: "lmdb._Database") -> None:
        self._database = database

    @classmethod
    def within(
        cls,
        environment: lmdb.Environment,
        transaction: "lmdb.Transaction[memoryview]",
        make: bool,
    ) -> "Expiries | None":
        """Return the index, made if ``make``; None where there is none. It stays open only if the
        ``transaction`` is committed.
        """
        if not make and transaction.get(INDEX) is None:
            return None
        return cls(environment.open_db(INDEX, transaction))

    def stat(self, transaction: "lmdb.Transaction[bytes]") -> "lmdb._StatDict":
        """Return what LMDB says of the pages of the index."""
        return transaction.stat(self._database)

    def add(
        self,
        transaction: "lmdb.Transaction[memoryview]",
        key: bytes,
        expiry: int,
        leaves_tombstone: bool,
    ) -> None:
        """Note when the record under ``key`` expires, and whether a tombstone is to remain."""
        remains = _TOMBSTONE_REMAINS if leaves_tombstone else _NOTHING_REMAINS
        transaction.put(_EXPIRY.pack(expiry) + key, remains, db=self._database)

    def forget(self, transaction: "lmdb.Transaction[memoryview]", key: bytes) -> None:
        """Remove the entry of what is under ``key``, which is about to be replaced."""
        value = transaction.get(key)
        if value is not None and (expiry := expiry_in(value)):
            transaction.delete(_EXPIRY.pack(expiry) + key, db=self._database)

    def is_due(self, transaction: "lmdb.Transaction[memoryview]", now_us: int) -> bool:
        """Tell whether there is anything to ``sweep``."""
        return next(self._due(transaction, now_us), None) is not None

    def sweep(
        self,
        transaction: "lmdb.Transaction[memoryview]",
        now_us: int,
        limit: int,
        arrivals: Arrivals | None = None,
    ) -> Swept:
        """Remove up to ``limit`` of the records that have expired at ``now_us``, fewer if they are
        large. ``arrivals`` are told.
        """
        seen = records = size = 0
        while seen < limit and size < _SWEPT_BYTES:
            entry = next(self._due(transaction, now_us), None)
            if entry is None:
                return Swept(records)
            seen += 1
            if freed := _remove(transaction, entry, now_us, arrivals):
                records, size = records + 1, size + freed
            transaction.delete(_EXPIRY.pack(entry.expiry) + entry.key, db=self._database)
        return Swept(records, more=True)

    def _due(self, transaction: "lmdb.Transaction[memoryview]", now_us: int) -> Iterator["_Entry"]:
        with transaction.cursor(db=self._database) as cursor:
            for place, remains in cursor:
                entry = bytes(place)
                (expiry,) = _EXPIRY.unpack_from(entry)
                if expiry > now_us:
                    return
                yield _Entry(entry[_EXPIRY.size :], expiry, bytes(remains) == _TOMBSTONE_REMAINS)


class _Entry(NamedTuple):
    key: bytes
    expiry: int
    leaves_tombstone: bool


def _remove(
    transaction: "lmdb.Transaction[memoryview]",
    entry: _Entry,
    now_us: int,
    arrivals: Arrivals | None,
) -> int:
    """Remove the record that ``entry`` is about; return its size, 0 if it is there no more."""
    value = transaction.get(entry.key)
    head = None if value is None else _head_in(value, entry.key)
    if value is None or head is None or not has_expired(head, now_us):
        return 0
    size = len(value)
    if arrivals is not None:
        if entry.leaves_tombstone:
            arrivals.drops(transaction, entry.key)
        else:
            arrivals.removes(transaction, entry.key, 0, evicts=False)
    if entry.leaves_tombstone:
        transaction.put(entry.key, encode_head(expired_tombstone(head).head))
    else:
        transaction.delete(entry.key)
    return size


def _head_in(value: memoryview, key: bytes) -> Head | None:
    try:
        return decode_head(value, "", key)
    except Corrupt:
        return None  # for a scrub to find
