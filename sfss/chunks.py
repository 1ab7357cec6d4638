"""Large files as several records: chunks of the body, and a manifest that names them. Pure.

A manifest is the record under the file's own key, of a kind of its own (``Kind.MANIFEST``), so that
nobody takes it for the file: its body is the digests of all chunks, 16 bytes each, in their order.
What the file itself is, stands in its metadata under ``large file``, five words with a space in
between:

=========  =========================================================================================
word       what it says
=========  =========================================================================================
size       bytes of the file
digest     of the file: 128-bit XXH3, 32 hexadecimal digits
chunk      bytes of each chunk; the last one has what is left
upload     32 hexadecimal digits that no other upload has: its version in microseconds, and a number
           at random
=========  =========================================================================================

The other names in the metadata, version and expiry are those of the file. A chunk is the record of
a plain file, with the expiry of the file, and with the file's key in its metadata, under
``chunk of``: the key itself (Latin-1), for those who find a chunk and look for its file. It has the
digest that the manifest says, or is not the one.

The key of a chunk is a prefix, a mark, ``c``, the digest of the file's key, ``.``, the upload,
``.``, and its number from 0 in four or more hexadecimal digits. No path has such a key: paths have
no control characters, so where keys are paths, none begins with a NUL byte, and elsewhere none with
``%00``, which is how keys would escape it (``%`` is not in the alphabet of base64 at all).

The mark says where the chunk belongs. There is none for files; bodies of objects, which have paths
of their own (``body_path``), have ``s`` where one member keeps them, ``m`` where all do. So a chunk
can be placed with its body by its key alone (``home_of``).
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_128_hexdigest

from sfss.errors import Corrupt
from sfss.record import Buffer, Head, Kind, Record, digest_of
from sfss.ulid import PATTERN

CHUNK_SIZE: Final = 510 * 1024
"""Bytes of a chunk, if the stores take that: with what is around it, half a page of memcached's
slabs (slab_chunk_max), and a whole number of LMDB's pages.
"""

LEAST_CHUNK_SIZE: Final = 16 * 1024
"""A store that does not take as many gets no chunks: their number would be out of all proportion.
"""

KEY_SIZE: Final = 80
"""Bytes that the key of a chunk may have: in fact 75 or fewer, for as many chunks as can be."""

FILE_NAME: Final = "large file"
CHUNK_NAME: Final = "chunk of"
"""Names in the metadata. They hold a space, as no name of a header field does."""

PLAIN_PREFIX: Final = b"\x00"
ESCAPED_PREFIX: Final = b"%00"

_DIGEST_SIZE: Final = 16
ENTRIES: Final = b"objects/"
"""How the keys of entries of objects begin."""

SINGLE: Final = "single"
EVERY: Final = "every"
"""How the paths of bodies of objects begin: of those that one member keeps, and that all keep."""

_DIGITS: Final = "([0-9a-f]{32})"
_KEY: Final = re.compile(rf"[sm]?c{_DIGITS}\.{_DIGITS}\.([0-9a-f]{{4,6}})".encode())
_CHUNK: Final = re.compile(
    rf"(?:\x00|%00)([sm])c{_DIGITS}\.{_DIGITS}\.[0-9a-f]{{4,6}}".encode("ascii")
)
_BODY: Final = re.compile(rf"({SINGLE}|{EVERY})/({PATTERN})/{_DIGITS}".encode())
_MARKS: Final = {SINGLE.encode(): b"s", EVERY.encode(): b"m"}
_FILE: Final = re.compile(r"(0|[1-9]\d{0,15}) ([0-9a-f]{32}) ([1-9]\d{0,9}) ([0-9a-f]{32})")


class Layout(NamedTuple):
    """A large file as its manifest tells it: its size in bytes and its digest; the bytes of each of
    its chunks; and what names the ``upload``.
    """

    size: int
    digest: bytes
    chunk_size: int
    upload: str

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.size // self.chunk_size)

    def size_of(self, number: int) -> int:
        """Return how many bytes a chunk has."""
        return min(self.chunk_size, self.size - number * self.chunk_size)


class ChunkName(NamedTuple):
    """What the key of a chunk says: the digest of its file's key, the upload, its number."""

    file: str
    upload: str
    number: int

    @property
    def version(self) -> int:
        """When the upload began, in microseconds since 1970."""
        return int(self.upload[:16], 16)


class Span(NamedTuple):
    """Bytes ``start`` to ``stop`` of the chunk ``number``."""

    number: int
    start: int
    stop: int


def upload_name(version: int, number: int) -> str:
    """Return what names an upload: its ``version``, and a ``number`` of 64 bits at random."""
    return f"{version:016x}{number:016x}"


def prefix_of(encoding: str) -> bytes:
    """Return how keys of chunks begin beside keys of files of the ``encoding`` (see ``keys``)."""
    return PLAIN_PREFIX if encoding == "plain" else ESCAPED_PREFIX


def chunk_key(prefix: bytes, key: bytes, upload: str, number: int) -> bytes:
    """Return the key of a chunk of the file under ``key``."""
    body = _BODY.fullmatch(key)
    mark = b"" if body is None else _MARKS[body[1]]
    file = xxh3_128_hexdigest(key).encode()
    return b"%b%bc%b.%b.%04x" % (prefix, mark, file, upload.encode(), number)


def body_path(object_id: str, upload: str, everywhere: bool) -> str:
    """Return the path of the body that an ``upload`` has given an object; whether all members are
    to have it, or one.
    """
    return f"{EVERY if everywhere else SINGLE}/{object_id}/{upload}"


def object_of(key: bytes) -> str | None:
    """Return the id of the object whose body is under ``key``; None for any other key."""
    match = _BODY.fullmatch(key)
    return None if match is None else match[2].decode()


def kept_since(key: bytes) -> int:
    """Return when the body of an object was written, in microseconds since 1970, by its key."""
    return int(key.rpartition(b"/")[2][:16], 16)


class Home(NamedTuple):
    """Where a body belongs: ``everywhere``, or where one member is found by the ``token``, which
    its chunks have as well.
    """

    everywhere: bool
    token: bytes


def home_of(key: bytes) -> Home | None:
    """Return where the body of an object, or a chunk of one, belongs; None for any other key."""
    if (chunk := _CHUNK.fullmatch(key)) is not None:
        return Home(chunk[1] == b"m", chunk[2])
    if (body := _BODY.fullmatch(key)) is not None:
        return Home(body[1] == EVERY.encode(), xxh3_128_hexdigest(key).encode())
    return None


def is_of_body(key: bytes) -> bool:
    """Tell whether ``key`` is that of the body of an object, or of a chunk of one."""
    return home_of(key) is not None


def read_chunk_key(prefix: bytes, key: bytes) -> ChunkName | None:
    """Return what the key of a chunk says; None for any other key."""
    if not key.startswith(prefix):
        return None
    match = _KEY.fullmatch(key, len(prefix))
    if match is None:
        return None
    return ChunkName(match[1].decode(), match[2].decode(), int(match[3], 16))


def chunk_record(piece: Buffer, key: bytes, file: Head) -> Record:
    """Return the record of a chunk of the file ``file`` under ``key``."""
    names = {CHUNK_NAME: key.decode("latin-1")}
    head = Head(file.version, len(piece), digest_of(piece), Kind.FILE, file.expiry, names)
    return Record(head, piece)


def file_key_of(chunk: Head) -> bytes | None:
    """Return the key of the file that a chunk says it is of; None where it says none."""
    try:
        return chunk.metadata[CHUNK_NAME].encode("latin-1")
    except (KeyError, UnicodeEncodeError):
        return None


def is_part(key: bytes, head: Head) -> bool:
    """Tell whether the record under ``key`` is one of several that a large file is made of, or an
    object: not its entry.
    """
    is_body = head.kind is not Kind.TOMBSTONE and _BODY.fullmatch(key) is not None
    return is_body or head.kind is Kind.MANIFEST or CHUNK_NAME in head.metadata


def manifest(file: Head, layout: Layout, digests: Sequence[bytes]) -> Record:
    """Return the manifest of the file ``file``, with the ``digests`` of its chunks."""
    body = b"".join(digests)
    words = (str(layout.size), layout.digest.hex(), str(layout.chunk_size), layout.upload)
    names = {**file.metadata, FILE_NAME: " ".join(words)}
    head = Head(file.version, len(body), digest_of(body), Kind.MANIFEST, file.expiry, names)
    return Record(head, body)


def layout_of(head: Head) -> Layout | None:
    """Return what a manifest tells of its file; None for what is no manifest, or none that can be
    read.
    """
    if head.kind is not Kind.MANIFEST:
        return None
    match = _FILE.fullmatch(head.metadata.get(FILE_NAME, ""))
    if match is None:
        return None
    layout = Layout(int(match[1]), bytes.fromhex(match[2]), int(match[3]), match[4])
    return layout if layout.chunks * _DIGEST_SIZE == head.size else None


def file_head(head: Head, key: bytes) -> Head:
    """Return the head of the file that ``head`` stands for: of a manifest, its file's; else as it
    is. Raises ``Corrupt`` for a manifest under ``key`` that cannot be read.
    """
    if head.kind is not Kind.MANIFEST:
        return head
    layout = layout_of(head)
    if layout is None:
        found = head.metadata.get(FILE_NAME, "none")
        raise Corrupt("of chunks", key, "a readable manifest", repr(found[:200]))
    names = {name: value for name, value in head.metadata.items() if name != FILE_NAME}
    return Head(head.version, layout.size, layout.digest, Kind.FILE, head.expiry, names)


def digests_in(body: Buffer) -> list[bytes]:
    """Return the digests of the chunks that the body of a manifest names."""
    starts = range(0, len(body), _DIGEST_SIZE)
    return [bytes(body[start : start + _DIGEST_SIZE]) for start in starts]


def spans(layout: Layout, start: int, stop: int) -> list[Span]:
    """Return where bytes ``start`` to ``stop`` of a file are, in order."""
    size, found = layout.chunk_size, []
    for number in range(start // size, -(-stop // size) if start < stop else 0):
        offset = number * size
        found.append(Span(number, max(start - offset, 0), min(stop - offset, size)))
    return found


def chunk_size_for(room: int | None) -> int | None:
    """Return how large chunks may be where a store takes values of ``room`` bytes (None: any); None
    where that is too little. ``room`` is for the head of a chunk, too, whatever its file's key is.
    """
    if room is None:
        return CHUNK_SIZE
    size = min(CHUNK_SIZE, room - _HEAD_ROOM)
    return size if size >= LEAST_CHUNK_SIZE else None


_HEAD_ROOM: Final = 2048
"""A key of 250 bytes, each escaped in JSON with six, and all else before the body."""
