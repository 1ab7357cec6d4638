"""A file as bytes in a store: a fixed header, then metadata if any, then the body.

======  ====  ==================================================================================
offset  size  field (all integers little-endian, unsigned)
======  ====  ==================================================================================
0       2     magic, ``SF``
2       1     format version, 1
3       1     kind: 1 file, 2 tombstone (a deletion that has to be remembered), 4 manifest (of a
              file that is kept in chunks, see ``chunks``); an sfss that does not know a kind
              takes the record for damaged, and does not serve it
4       4     size of the metadata in bytes, at most 65 536
8       8     version: microseconds since 1970 (UTC), up to the year 9999; the newest wins
16      8     expiry: microseconds since 1970 (UTC), 0 never
24      8     size of the body in bytes
32      16    digest of the body: 128-bit XXH3, canonical (big-endian) form; in the tombstone of a
              file that has expired, of the body that the file had
48      8     checksum: 64-bit XXH3 of bytes 0 to 47 followed by the metadata
56      m     metadata: a JSON object of strings in UTF-8, nothing at all where there is none
56+m    n     body
======  ====  ==================================================================================

No length is trusted before it is bounded, and nothing is believed before its checksum holds. The
digest finds damage, not malice: whoever can write to the store can write a valid record.
``tests/golden`` pins these bytes: another layout is another format version. XXH3:
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeAlias

from xxhash import xxh3_64_intdigest, xxh3_128, xxh3_128_digest, xxh3_128_hexdigest

from sfss.errors import Corrupt

RECORD_FLAGS: Final = 0x53460001
"""Memcached item flags that say "this is a record, format 1"; free of every bit that Beansdb gives
a meaning to.
"""

METADATA_LIMIT: Final = 65_536

VERSION_LIMIT: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999: no calendar goes on."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORT_METADATA: Final = 256
_MAGIC: Final = b"SF"
_FORMAT: Final = 1
_FIELDS: Final = Struct("<2sBBIQQQ16s")
_CHECKSUM: Final = Struct("<Q")
_HEADER: Final = Struct(_FIELDS.format + "Q")
HEADER_SIZE: Final = _HEADER.size
_EXPIRY: Final = Struct("<Q")
_EXPIRY_OFFSET: Final = 16
_VERSION_OFFSET: Final = 8
_KIND_OFFSET: Final = 3

PIECE_SIZE: Final = 256 * 1024
"""Bytes of a long body that are read at a time."""

Buffer: TypeAlias = bytes | bytearray | memoryview


class LongBody(Protocol):
    """A body that is too large to be held in memory: it is read from where it lies, in pieces."""

    def __len__(self) -> int:
        """Return how many bytes it has."""

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on, fewer only at the end; may wait for a disk.

        Raises OSError where they cannot be had any more.
        """


class StreamedBody(ABC):
    """A body that lies in stores, and is fetched from there in pieces. It is given out by an
    engine, and taken by nothing else: no store keeps one.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return how many bytes it has."""

    @abstractmethod
    def pieces(self, start: int, stop: int) -> AsyncGenerator[Buffer, None]:
        """Yield bytes ``start`` to ``stop``, no more of it than that is fetched.

        Raises ``StoreError`` where they cannot be had.
        """


Body: TypeAlias = Buffer | LongBody | StreamedBody

digest_of = xxh3_128_digest
"""The digest of a body that is held, 16 bytes."""


def pieces_of(body: Body, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
    """Yield bytes ``start`` to ``stop`` of ``body``, a held one at once; errors as ``read``.

    Not of one that is streamed: see ``streams``.
    """
    if isinstance(body, StreamedBody):
        raise TypeError("a streamed body comes in the event loop")
    stop = len(body) if stop is None else stop
    if isinstance(body, bytes | bytearray | memoryview):
        yield body if (start, stop) == (0, len(body)) else memoryview(body)[start:stop]
        return
    while start < stop:
        piece = body.read(start, min(PIECE_SIZE, stop - start))
        if not piece:
            raise OSError(f"the body ends after {start} of {len(body)} bytes")
        yield piece
        start += len(piece)


def held(body: Body) -> Buffer:
    """Return ``body`` in memory; errors as ``LongBody.read``."""
    if isinstance(body, bytes | bytearray | memoryview):
        return body
    return b"".join(pieces_of(body))


def held_size(body: Body) -> int:
    """Return how many bytes of memory ``body`` takes."""
    return len(body) if isinstance(body, bytes | bytearray | memoryview) else 0


def digest_of_any(body: Body) -> bytes:
    """Return the digest of ``body``, 16 bytes; errors as ``LongBody.read``."""
    digest = xxh3_128()
    for piece in pieces_of(body):
        digest.update(piece)
    return digest.digest()


class Kind(IntEnum):
    """What a record stands for."""

    FILE = 1
    TOMBSTONE = 2
    MANIFEST = 4  # 3 has always been one that nobody knows


_KINDS: Final = {int(kind): kind for kind in Kind}
_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})


class Form(IntEnum):
    """What an item is that a store shows."""

    RAW = 0
    """A body that some other client has stored; or no item."""
    RECORD = 1
    """A record."""
    UNPROVEN = 2
    """A record of which the digest is not its body's, but the mark of a file that some other
    program has written: its body is served as it is.
    """


class Head(NamedTuple):
    """All of a record but its body. ``version`` 0 means unknown: the body was written raw, by
    another client.
    """

    version: int
    size: int
    digest: bytes
    kind: Kind = Kind.FILE
    expiry: int = 0
    metadata: Mapping[str, str] = _NO_METADATA


class Record(NamedTuple):
    """A file, or the memory of its deletion."""

    head: Head
    body: Body


class Content(NamedTuple):
    """A file as it comes in: its body, with the ``digest`` where that is known already, as it has
    to be of a long one; the ``names`` that are kept with it and their values; for how many seconds
    it is kept, None for ever.
    """

    body: Body
    digest: bytes | None = None
    names: Mapping[str, str] = _NO_METADATA
    ttl_s: int | None = None


def new_record(
    body: Body,
    version: int,
    metadata: Mapping[str, str] | None = None,
    digest: bytes | None = None,
) -> Record:
    """Return the record of a file that is kept for ever; see ``record_of``."""
    return record_of(Content(body, digest, metadata or _NO_METADATA), version)


def record_of(content: Content, version: int, now_us: int | None = None) -> Record:
    """Return the record of a file just received; ``version`` in microseconds since 1970, and so is
    ``now_us``, from when on it is kept: the version may be ahead of that.
    """
    body, digest, names, ttl_s = content
    if digest is None:
        digest = xxh3_128_digest(held(body))
    since_us = version if now_us is None else now_us
    expiry = 0 if ttl_s is None else min(since_us + ttl_s * 1_000_000, VERSION_LIMIT)
    return Record(Head(version, len(body), digest, Kind.FILE, expiry, names), body)


def is_alive(head: Head, now_us: int) -> bool:
    """Tell whether a file has not expired, at ``now_us`` microseconds since 1970."""
    return not head.expiry or head.expiry > now_us


def has_expired(head: Head, now_us: int) -> bool:
    """Tell whether this is a file, or the manifest of one, that has expired."""
    return head.kind is not Kind.TOMBSTONE and not is_alive(head, now_us)


def expired_tombstone(head: Head) -> Record:
    """Return what takes the place of the file or manifest with ``head`` once it has expired.

    It has the version and the digest of the file, so that every store makes the same of it, and in
    the order of ``agreement.rank`` it comes right behind the file: it is newer than that, and than
    nothing that the file was older than.
    """
    return Record(Head(head.version, 0, head.digest, Kind.TOMBSTONE, head.expiry), b"")


def expiry_in(value: Buffer) -> int:
    """Return the expiry that stands in the header of the record in ``value``, unchecked; 0 where
    that is too short.
    """
    return int(_EXPIRY.unpack_from(value, _EXPIRY_OFFSET)[0]) if len(value) >= HEADER_SIZE else 0


def version_in(value: Buffer) -> int:
    """Return the version that stands in the header of the record in ``value``, as ``expiry_in``."""
    return int(_EXPIRY.unpack_from(value, _VERSION_OFFSET)[0]) if len(value) >= HEADER_SIZE else 0


def is_tombstone_in(value: Buffer) -> bool:
    """Tell whether the header of the record in ``value``, unchecked, is that of a tombstone."""
    return len(value) >= HEADER_SIZE and value[_KIND_OFFSET] == Kind.TOMBSTONE


def raw_head(body: Buffer) -> Head:
    """Return the head for a body that some other client stored without a header."""
    return Head(0, len(body), digest_of(body))


def raw_record(body: bytes) -> Record:
    """Return the record for a body that some other client stored without a header."""
    return Record(raw_head(body), body)


def encode(record: Record) -> bytes:
    """Return ``record`` as it is kept in a store; raise ValueError when its metadata is over the
    limit.
    """
    return b"".join((encode_head(record.head), held(record.body)))


def encode_head(head: Head) -> bytes:
    """Return what stands before the body in a record with ``head``; errors as in ``encode``."""
    metadata = b""
    if head.metadata:
        metadata = json.dumps(dict(head.metadata), separators=(",", ":")).encode()
    if len(metadata) > METADATA_LIMIT:
        raise ValueError(f"metadata has {len(metadata)} bytes; {METADATA_LIMIT} are allowed")
    fields = _FIELDS.pack(
        _MAGIC, _FORMAT, head.kind, len(metadata), head.version, head.expiry, head.size, head.digest
    )
    checksum = _CHECKSUM.pack(xxh3_64_intdigest(fields + metadata))
    return fields + checksum + metadata


def described(head: Head) -> str:
    """Return what ``head`` is of and since when, for a person: "the deletion of 2026-11-20 ..."."""
    what = "deletion" if head.kind is Kind.TOMBSTONE else "file"
    if not head.version:
        return f"a {what} without a version"
    since = _EPOCH + timedelta(microseconds=head.version)
    return f"the {what} of {since:%Y-%m-%d %H:%M:%S.%f} UTC"


def decode(value: Buffer, store: str, key: bytes) -> Record:
    """Return the record in ``value``; raise ``Corrupt`` (naming ``store`` and ``key``) unless all
    of it checks.

    The body is a view into ``value``, not a copy.
    """
    head, body_offset = _decode_head(value, store, key)
    body = memoryview(value)[body_offset:]
    if xxh3_128_digest(body) != head.digest and (body or head.kind is Kind.FILE):
        raise Corrupt(store, key, f"digest {head.digest.hex()}", xxh3_128_hexdigest(body))
    return Record(head, body)


def decode_head(value: Buffer, store: str, key: bytes) -> Head:
    """Return the head of the record in ``value`` without reading its body; raise ``Corrupt`` as
    ``decode``.
    """
    return _decode_head(value, store, key)[0]


def decode_lone_head(value: Buffer, store: str, key: bytes) -> Head:
    """Return the head in ``value``, which is kept apart from its body; raise ``Corrupt`` as
    ``decode``.
    """
    return _decode_head(value, store, key, is_alone=True)[0]


def _decode_head(value: Buffer, store: str, key: bytes, is_alone: bool = False) -> tuple[Head, int]:
    if len(value) < HEADER_SIZE:
        raise Corrupt(store, key, f"a header of {HEADER_SIZE} bytes", f"{len(value)} bytes")
    magic, form, kind, metadata_size, version, expiry, size, digest, checksum = _HEADER.unpack_from(
        value
    )
    if magic != _MAGIC or form != _FORMAT:
        raise Corrupt(store, key, f"a record of format {_FORMAT}", f"{magic!r}, format {form}")
    if metadata_size > METADATA_LIMIT or HEADER_SIZE + metadata_size > len(value):
        raise Corrupt(store, key, "metadata within its limits", f"{metadata_size} bytes of it")
    body_offset = HEADER_SIZE + metadata_size
    checked = value[: _FIELDS.size]
    if metadata_size:
        checked = bytes(checked) + value[HEADER_SIZE:body_offset]
    if xxh3_64_intdigest(checked) != checksum:
        raise Corrupt(store, key, f"header checksum {checksum:016x}", "another")
    if version > VERSION_LIMIT:
        raise Corrupt(store, key, "a version of this age", str(version))
    body_size = 0 if is_alone else size
    if len(value) - body_offset != body_size:
        found = len(value) - body_offset
        raise Corrupt(store, key, f"a body of {body_size} bytes", f"{found} bytes")
    if kind not in _KINDS:
        raise Corrupt(store, key, "a file or a tombstone", f"kind {kind}")
    metadata = _NO_METADATA
    if metadata_size:
        try:
            metadata = _names(bytes(value[HEADER_SIZE:body_offset]))
        except (ValueError, RecursionError) as error:
            raise Corrupt(store, key, "readable metadata", str(error)) from error
    return Head(version, size, digest, _KINDS[kind], expiry, metadata), body_offset


def _names(metadata: bytes) -> Mapping[str, str]:
    # Few metadata are different, most say no more than a type.
    return _read_names(metadata) if len(metadata) > _SHORT_METADATA else _short_names(metadata)


@lru_cache(maxsize=1024)
def _short_names(metadata: bytes) -> Mapping[str, str]:
    return _read_names(metadata)


def _read_names(metadata: bytes) -> Mapping[str, str]:
    names = json.loads(metadata)
    if not isinstance(names, dict) or not all(isinstance(value, str) for value in names.values()):
        raise ValueError("not an object of strings")
    return MappingProxyType(names)
