"""Which stores should hold a key: pure, and the same in every process and every release.

Every placement gives the ``primaries``, which should hold the key, best first: nobody stands in for
them, what they miss is owed. ``tests/golden/placement-*.json`` pin the answers; changing one would
lose sight of files.

=========  =========================================================================================
placement  primaries
=========  =========================================================================================
ketama     the first ``copies`` different stores round the ring
jump       the stores of one shard, chosen by jump consistent hash
chash      the stores of one shard, chosen on a ring of 160 points a shard
mirror     every store
objects    as the placement that is right for this kind of key
=========  =========================================================================================
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5
from struct import Struct, iter_unpack
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from uhashring import HashRing

from sfss.chunks import ENTRIES, home_of

MEMCACHED_PORT: Final = 11211

CHASH_POINTS: Final = 160
"""Points on the ring of ``chash`` for each unit of weight."""

_ORDERS_REMEMBERED: Final = 4096
_FIRST_WORD: Final = Struct("<I")
_WORD_32: Final = (1 << 32) - 1
_WORD_64: Final = (1 << 64) - 1


class Placement(Protocol):
    """Where a key belongs."""

    def primaries(self, key: bytes) -> Sequence[str]:
        """Return the names of the stores that should hold ``key``: one or more, best first."""


def _nowhere(key: bytes) -> Sequence[str]:
    return ()


def _never() -> bool:
    return False


class Where(NamedTuple):
    """Where a key belongs, see ``Places``: at one moment."""

    primaries: Sequence[str]
    former: Sequence[str]
    reads_both: bool
    writes_both: bool = False

    @property
    def moves(self) -> bool:
        """Whether the key had other places before; where both are written, whether they differ."""
        if self.writes_both:
            return bool(self.former) and set(self.former) != set(self.primaries)
        return not set(self.former) <= set(self.primaries)

    @property
    def written(self) -> Sequence[Sequence[str]]:
        """The groups of stores that a write goes to: it is kept when each has its quorum."""
        if self.writes_both and self.moves:
            return (self.primaries, self.former)
        return (self.primaries,)

    @property
    def kept_on(self) -> set[str]:
        """The stores that should have the key."""
        return {address for group in self.written for address in group}


class Places(NamedTuple):
    """Where keys belong: ``primaries``, best first, and ``former``, where they may be left from
    before. ``reads_both``: what the former places have may be newer. ``writes_both``: others still
    know only the former places; each write goes there, too, and reads look at both. ``shards`` are
    the stores that hold the same files, by the name of the shard, where there are shards. ``state``
    is another whenever the places are others. ``stores`` are those that may have files; empty: any.
    """

    primaries: Callable[[bytes], Sequence[str]]
    former: Callable[[bytes], Sequence[str]] = _nowhere
    reads_both: Callable[[], bool] = _never
    shards: Mapping[str, Sequence[str]] = MappingProxyType({})
    state: Callable[[], object] = _never
    stores: Callable[[], Sequence[str]] = tuple
    writes_both: Callable[[], bool] = _never

    def of(self, key: bytes) -> Where:
        """Return where ``key`` belongs, all of it at one moment."""
        while True:
            state = self.state()
            writes_both = self.writes_both()
            reads_both = writes_both or self.reads_both()
            where = Where(self.primaries(key), self.former(key), reads_both, writes_both)
            if self.state() == state:
                return where


class KetamaRing:
    """Ketama over ``host:port`` names: the node that twemproxy (``distribution: ketama``, ``hash:
    md5``) and libmemcached (``ketama_weighted``) choose for the same key.

    ``copies`` says how many stores should hold a key; where there are fewer, all of them do.
    Ketama:
    https://www.last.fm/user/RJ/journal/2007/04/10/rz_libketama_-_a_consistent_hashing_algo_for_memcache_clients
    """

    def __init__(self, addresses: Sequence[str], copies: int = 1) -> None:
        names = {_ring_name(address): address for address in addresses}
        # uhashring builds the ring; to ask it would cost twice as much as to search here.
        ring = HashRing(list(names), hash_fn="ketama").get_points()
        self._points = [point for point, _ in ring]
        # One more, for keys behind the last point: there the ring begins again.
        self._owners = [names[name] for _, name in [*ring, *ring[:1]]]
        self._copies, self._size = copies, len(names)
        self._order_from = lru_cache(_ORDERS_REMEMBERED)(self._walk)

    def owner(self, key: bytes) -> str:
        """Return the address whose share of the ring ``key`` falls into."""
        return self._owners[self._position(key)]

    def order(self, key: bytes) -> Sequence[str]:
        """Return all addresses, nearest first round the ring from ``key``."""
        return self._order_from(self._position(key))

    def primaries(self, key: bytes) -> Sequence[str]:
        """Return the nearest ``copies`` addresses."""
        return self.order(key)[: self._copies]

    def _position(self, key: bytes) -> int:
        digest = md5(key).digest()
        return bisect_right(self._points, _FIRST_WORD.unpack_from(digest)[0])

    def _walk(self, position: int) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for owner in [*self._owners[position:], *self._owners[:position]]:
            found[owner] = None
            if len(found) == self._size:
                break
        return tuple(found)


def _ring_name(address: str) -> str:
    # Both libmemcached and twemproxy leave the default port out of the name that they hash.
    host, _, port = address.rpartition(":")
    return host if port == str(MEMCACHED_PORT) else address


@dataclass(frozen=True, slots=True)
class Shard:
    """Stores that hold the same files, under one name; ``weight`` is its part of all keys."""

    name: str
    stores: tuple[str, ...]
    weight: int = 1


class _Shards:
    """Each key belongs to all stores of one shard."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        # A shard of weight w stands in the list w times.
        self._buckets = [shard for shard in shards for _ in range(shard.weight)]
        if not self._buckets:
            raise ValueError("no shard has a weight")

    def shard(self, key: bytes) -> Shard:
        """Return the shard of ``key``: for Photosrv's answers, a path without its leading ``/``."""
        raise NotImplementedError

    def primaries(self, key: bytes) -> Sequence[str]:
        """Return the stores of the shard, in the order in which they were given."""
        return self.shard(key).stores


class JumpShards(_Shards):
    """Shards chosen by jump consistent hash over SipHash-2-4, as Photosrv's ``jump`` does.

    Shards may be added and removed only at the end of the list; then few keys move.
    """

    def shard(self, key: bytes) -> Shard:
        """Return the shard of ``key``; see ``_Shards.shard``."""
        return self._buckets[jump(siphash(key), len(self._buckets))]


class ChashShards(_Shards):
    """Shards chosen on a ring of points, as Photosrv's ``chash`` does.

    Shards may be added and removed anywhere; then few keys move. With the first weight other than
    1, which Photosrv ignored, all points get new names, and most keys move.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        super().__init__(shards)
        names = _bucket_names(shards)
        # Where two points fall together, the one of the later shard counts.
        ring = {
            leveldb_hash(f"{point}{name}".encode()): shard
            for name, shard in zip(names, self._buckets, strict=True)
            for point in range(CHASH_POINTS)
        }
        self._points = sorted(ring)
        self._owners = [ring[point] for point in [*self._points, self._points[0]]]

    def shard(self, key: bytes) -> Shard:
        """Return the shard of ``key``; see ``_Shards.shard``."""
        return self._owners[bisect_left(self._points, leveldb_hash(key))]


def _bucket_names(shards: Sequence[Shard]) -> list[str]:
    if all(shard.weight == 1 for shard in shards):
        return [shard.name for shard in shards]
    return [f"{shard.name}#{number}" for shard in shards for number in range(shard.weight)]


class Mirror:
    """Every store holds every key, in the order in which they are given."""

    def __init__(self, stores: Sequence[str]) -> None:
        self._stores = tuple(stores)

    def primaries(self, key: bytes) -> Sequence[str]:
        """Return every store."""
        return self._stores


class OwnFirst:
    """``placement``, with the store ``own`` asked first where it is one of several."""

    def __init__(self, placement: Placement, own: str) -> None:
        self._placement, self._own = placement, own

    def primaries(self, key: bytes) -> Sequence[str]:
        """Return the primaries, ``own`` the first of them if it is one."""
        found = self._placement.primaries(key)
        if self._own not in found[1:]:
            return found
        return (self._own, *(each for each in found if each != self._own))


class ObjectPlacement:
    """Files beside objects: what all members have to know of objects, and bodies that all keep,
    belong where ``every`` says; bodies that one keeps, with their chunks, where ``single`` says;
    all other keys where ``files`` does. ``single`` is not asked for the key of a body, but for a
    token that is the same for its chunks.
    """

    def __init__(self, files: Placement, single: Placement, every: Placement) -> None:
        self._files, self._single, self._every = files, single, every

    def primaries(self, key: bytes) -> Sequence[str]:
        """Return those of the placement that is right for ``key``."""
        if (home := home_of(key)) is not None:
            placement = self._every if home.everywhere else self._single
            return placement.primaries(home.token)
        return (self._every if key.startswith(ENTRIES) else self._files).primaries(key)


def jump(key_hash: int, buckets: int) -> int:
    """Return the bucket, from 0, of a 64-bit hash: Lamping and Veach, "A Fast, Minimal Memory,
    Consistent Hash Algorithm" (2014), https://arxiv.org/abs/1406.2294
    """
    bucket, following = 0, 0
    while following < buckets:
        bucket = following
        key_hash = (key_hash * 2862933555777941757 + 1) & _WORD_64
        following = int((bucket + 1) * (float(1 << 31) / float((key_hash >> 33) + 1)))
    return bucket


def leveldb_hash(text: bytes) -> int:
    """Return LevelDB's hash (util/hash.cc) with the seed of its bloom filter: 32 bits."""
    factor = 0xC6A4A793
    state = 0xBC9F1D34 ^ (len(text) * factor & _WORD_32)
    whole = len(text) & ~3
    for (word,) in iter_unpack("<I", text[:whole]):
        state = (state + word) * factor & _WORD_32
        state ^= state >> 16
    if rest := text[whole:]:
        state = (state + int.from_bytes(rest, "little")) * factor & _WORD_32
        state ^= state >> 24
    return state


def siphash(text: bytes) -> int:
    """Return SipHash-2-4 of ``text`` with a key of zeros: 64 bits. https://www.aumasson.jp/siphash/"""
    a, b, c, d = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573
    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) & 0xFF])
    for (word,) in iter_unpack("<Q", padded):
        a, b, c, d = _sip_rounds(a, b, c, d ^ word)
        a ^= word
    a, b, c, d = _sip_rounds(*_sip_rounds(a, b, c ^ 0xFF, d))
    return a ^ b ^ c ^ d


def _sip_rounds(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    """Do two rounds. Rotations are written out: as calls they would double the time of a lookup."""
    for _ in range(2):
        a = (a + b) & _WORD_64
        b = (b << 13 & _WORD_64 | b >> 51) ^ a
        a = a << 32 & _WORD_64 | a >> 32
        c = (c + d) & _WORD_64
        d = (d << 16 & _WORD_64 | d >> 48) ^ c
        a = (a + d) & _WORD_64
        d = (d << 21 & _WORD_64 | d >> 43) ^ a
        c = (c + b) & _WORD_64
        b = (b << 17 & _WORD_64 | b >> 47) ^ c
        c = c << 32 & _WORD_64 | c >> 32
    return a, b, c, d
