"""Listings in the memcached text protocol, as pure functions over bytes: the lines of memcached's
``lru_crawler metadump``, which our own node speaks as well, and the buckets of Beansdb's ``get @``.

The grammar is taken exactly. A line that was cut and went on with another one is no line, and
nothing may follow the end: memcached sends such to a client that reads too slowly, and a list that
is short of keys is taken for files that are lost.

Sources: https://github.com/memcached/memcached/blob/master/doc/protocol.txt ("LRU_Crawler") and
https://github.com/douban/beansdb/blob/master/src/htree.c (``list_dir``).
"""

import re
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from sfss.keys import KEY_LIMIT
from sfss.memtext import LINE_LIMIT, BadReply, Status

METADUMP_ALL: Final = b"lru_crawler metadump all\r\n"
"""For ``sfss node``. A memcached 1.6.18 in use left out up to 9 of 100 keys: it walks queues, in
which items move, and passes over those that others hold.
"""

METADUMP_HASH: Final = b"lru_crawler metadump hash\r\n"
"""For memcached: it walks its hash table, where nothing moves. Older ones answer BADCLASS."""

BUCKET_DEPTH_LIMIT: Final = 8
"""Beansdb's buckets are named by the digits of a hash of 32 bits."""

_METADUMP: Final = re.compile(
    rb"key=((?:[\w.~-]++|%[0-9A-Fa-f]{2})++) exp=-?\d{1,20} la=\d{1,20} cas=(\d{1,20})"
    rb" fetch=(?:yes|no) cls=\d{1,5} size=\d{1,20}(?: flags=\d{1,20})?"
)
_ENDING: Final = re.compile(
    rb"(END)\r|(BUSY|BADCLASS|NOTSTARTED|ERROR|CLIENT_ERROR|SERVER_ERROR)(?: (.*))?\r", re.DOTALL
)
_FOLDER: Final = re.compile(rb"([0-9a-f])/ (\d{1,10}) (\d{1,10})")
_LEAF: Final = re.compile(rb"([^\x00-\x20\x7f]{1,%d}) \d{1,10} (-?\d{1,11})" % KEY_LIMIT)
_DIGITS: Final = b"0123456789abcdef"
_HASH: Final = re.compile(rb"[0-9a-f]{16}")
_NODE_NAMES: Final = frozenset({"avail_space", "cas_hits"})


class Listed(NamedTuple):
    """One key of a metadump, whatever bytes it is made of, and the cas number of its item."""

    key: bytes
    unique: int


_NAME_SIZE: Final = struct.Struct("<H")


class Thing(NamedTuple):
    """One thing in a folder: its name, which ends with "/" if it is a folder, and the encoded head
    of a file; empty of a folder, and of a file whose head is damaged.
    """

    name: bytes
    head: bytes


def thing_block(thing: Thing) -> bytes:
    """Return ``thing`` as it stands in the answer to "browse": the size of its name in two bytes,
    the lower first, the name, the head.
    """
    return _NAME_SIZE.pack(len(thing.name)) + thing.name + thing.head


def thing(block: bytes) -> Thing:
    """Return what a block of the answer to "browse" tells; raises ``BadReply``."""
    start = _NAME_SIZE.size
    end = start + _NAME_SIZE.unpack_from(block)[0] if len(block) >= start else 0
    name, head = block[start:end], block[end:]
    if not name or end > len(block) or (name.endswith(b"/") and head):
        raise BadReply(f"no thing of a folder: {block[:80]!r}")
    return Thing(name, head)


class MetadumpParser:
    """Cuts the answer to a metadump command into the keys that it lists.

    ``ending`` is None until the answer is whole: END, or why there are no (further) keys.
    """

    def __init__(self) -> None:
        self.ending: Status | None = None
        self._rest = b""

    def feed(self, data: bytes) -> list[Listed]:
        """Take bytes just received; return the keys whose lines they complete. Raises
        ``BadReply``.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if any(len(line) > LINE_LIMIT for line in (*lines, self._rest)):
            raise BadReply(f"a line of over {LINE_LIMIT} bytes")
        listed = [key for line in lines if (key := self._listed(line)) is not None]
        if self.ending is not None and self._rest:
            raise BadReply(f"more behind the end of a list: {self._rest[:80]!r}")
        return listed

    def _listed(self, line: bytes) -> Listed | None:
        if self.ending is not None:
            raise BadReply(f"more behind the end of a list: {line[:80]!r}")
        if match := _METADUMP.fullmatch(line):
            key = unquote_to_bytes(match[1])
            if len(key) <= KEY_LIMIT:
                return Listed(key, int(match[2]))
        elif match := _ENDING.fullmatch(line):
            text = (match[3] or b"").decode("utf-8", "backslashreplace")
            self.ending = Status((match[1] or match[2]).decode(), text)
            return None
        raise BadReply(f"no line of a list: {line[:80]!r}")


def is_node(stats: Mapping[str, str]) -> bool:
    """Tell by its ``stats`` whether a server is ``sfss node``: only there are the names of both
    Beansdb and memcached.
    """
    return stats.keys() >= _NODE_NAMES


def is_busy(refusal: Status) -> bool:
    """Tell whether what ended a metadump before it began may be otherwise in a while."""
    # NOTSTARTED: every queue is being walked for somebody else; where there is nothing, it is END.
    return refusal.word in ("BUSY", "NOTSTARTED") or refusal.text.startswith("locked")


def is_unknown(refusal: Status) -> bool:
    """Tell whether the server does not know the command at all."""
    return refusal == Status("ERROR")


class Bucket(NamedTuple):
    """One bucket of a Beansdb: either ``digits``, which lead to further buckets, or ``keys``."""

    digits: bytes
    keys: list[bytes]

    def may_be_hashes(self) -> bool:
        """Tell whether the keys look like what gobeansdb lists, which keeps only their hashes."""
        return bool(self.keys) and all(map(_HASH.fullmatch, self.keys))


def bucket_key(path: bytes) -> bytes:
    """Return the key under which Beansdb keeps its list of the bucket ``path``, hex digits."""
    return b"@" + path


def metadata_key(key: bytes) -> bytes:
    """Return the key under which Beansdb keeps what it knows of ``key``."""
    return b"?" + key


def bucket(body: bytes) -> Bucket:
    """Return the bucket that the value of a ``bucket_key`` tells of; raises ``BadReply``.

    Deleted keys and empty buckets are left out.
    """
    *lines, rest = body.split(b"\n")
    if rest:
        raise BadReply(f"a bucket that ends within a line: {rest[:80]!r}")
    folders = [match for line in lines if (match := _FOLDER.fullmatch(line))]
    # A key may look like a folder, "a/", but not sixteen of them.
    if len(folders) == len(lines) and b"".join(match[1] for match in folders) == _DIGITS:
        full = (match[1] for match in folders if int(match[2]) or int(match[3]))
        return Bucket(b"".join(full), [])
    leaves = [_leaf(line) for line in lines]
    return Bucket(b"", [key for key, version in leaves if version >= 0])


def _leaf(line: bytes) -> tuple[bytes, int]:
    match = _LEAF.fullmatch(line)
    if match is None:
        raise BadReply(f"no line of a bucket: {line[:80]!r}")
    return match[1], int(match[2])
