"""Items of the memcached protocol as the records that a node keeps. Pure.

An item whose flags are ``RECORD_FLAGS`` is a record already, and is kept as what it is. Any other
becomes the body of a record of our own; ``FLAGS_NAME`` in its metadata says so and remembers its
flags, and its expiry is the record's. Either way what is given back is what was given.

The cas number of an item is made of version, digest and kind alone: equal records have equal
numbers, on every node and at any time.
"""

from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from sfss.errors import Corrupt
from sfss.record import (
    HEADER_SIZE,
    RECORD_FLAGS,
    Buffer,
    Head,
    Kind,
    Record,
    decode,
    digest_of,
    encode,
    held,
)

FLAGS_NAME: Final = "memcached flags"
"""Name in the metadata of what came in as a plain item. It holds a space, as no name of a header
field does.
"""

RELATIVE_EXPTIME_LIMIT: Final = 60 * 60 * 24 * 30
"""An exptime up to this many seconds counts from now, a larger one from 1970 (protocol.txt)."""

_EXPIRED: Final = 1
_DELETED: Final = b"deleted"
_LAST_EXPIRY: Final = (1 << 63) - 1


class BadItem(ValueError):
    """Raised when an item says that it is a record, and is none that could be given back."""


class Item(NamedTuple):
    """What a client sees of a record: ``value`` is of ``size`` bytes."""

    flags: int
    value: Buffer


def record_of(flags: int, value: Buffer, expiry: int, version: int) -> Record:
    """Return the record of an item; ``expiry`` as in records, ``version`` for one of our own.

    Raises ``BadItem``.
    """
    if flags != RECORD_FLAGS:
        metadata = {FLAGS_NAME: str(flags)}
        head = Head(version, len(value), digest_of(value), expiry=expiry, metadata=metadata)
        return Record(head, value)
    try:
        record = decode(value, "client", b"")
    except Corrupt as error:
        raise BadItem(f"no record: expected {error.expected}, found {error.found}") from error
    if FLAGS_NAME in record.head.metadata:
        raise BadItem(f"a record may not have metadata of the name {FLAGS_NAME!r}")
    if expiry:
        raise BadItem("a record has its own expiry; exptime has to be 0")
    if record.head.metadata or len(value) != HEADER_SIZE + record.head.size:
        _check_metadata(record, value)
    return record


def _check_metadata(record: Record, value: Buffer) -> None:
    before_body = len(value) - record.head.size
    if encode(record._replace(body=b"")) != value[:before_body]:
        raise BadItem("the metadata is not written as sfss writes it")


def is_own(head: Head) -> bool:
    """Tell whether the record is a plain item's."""
    return FLAGS_NAME in head.metadata


def item_of(record: Record, encoded: Buffer) -> Item:
    """Return the item that a record stands for; ``encoded`` is all of the record."""
    flags = record.head.metadata.get(FLAGS_NAME)
    if flags is None:
        return Item(RECORD_FLAGS, encoded)
    return Item(int(flags), held(record.body))


def item_size(head: Head) -> int:
    """Return the size in bytes of the item's value."""
    return head.size if is_own(head) else len(encode(Record(head, b""))) + head.size


def shown_head(head: Head) -> Head:
    """Return the head of what a gateway makes of the item: a plain one has no version, and no
    metadata.
    """
    return Head(0, head.size, head.digest, expiry=head.expiry) if is_own(head) else head


def unique_of(head: Head) -> int:
    """Return the cas number, of 64 bits."""
    if head.kind is Kind.TOMBSTONE:  # which may have the digest of the file that it was
        return xxh3_64_intdigest(head.digest + _DELETED, head.version)
    return xxh3_64_intdigest(head.digest, head.version)


def is_alive(head: Head, now_us: int) -> bool:
    """Tell whether the item is still to be seen. Only plain items expire here: what becomes of an
    expired record is for whoever wrote it to say.
    """
    return not head.expiry or head.expiry > now_us or not is_own(head)


def expiry_of(exptime: int, now_us: int) -> int:
    """Return the expiry, in microseconds since 1970, that an exptime means; 0 is never."""
    if exptime == 0:
        return 0
    if exptime < 0:
        return _EXPIRED
    if exptime <= RELATIVE_EXPTIME_LIMIT:
        return now_us + exptime * 1_000_000
    return min(exptime * 1_000_000, _LAST_EXPIRY)
