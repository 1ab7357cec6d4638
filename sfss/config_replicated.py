"""Settings of copies on several stores, of a store before a bucket, and of moves. Pure."""

from dataclasses import dataclass

from sfss.checks import (
    ANY_TEXT,
    BOOLEAN,
    NOT_EMPTY,
    SHARDS,
    STORES,
    at_least,
    between,
    in_range,
    one_of,
)
from sfss.declaring import setting


@dataclass(frozen=True, slots=True)
class ReplicatedSettings:
    """Copies of each file on several stores; read when cluster.kind is "replicated"."""

    stores: tuple[str, ...] = setting(
        (), 'addresses, for the placements "ketama" and "mirror"', STORES
    )
    placement: str = setting(
        "ketama",
        "ketama: the next stores round a ring; mirror: all stores; jump, chash: the stores of one"
        " shard; groups: those of the first shard that takes it, for files by their content",
        one_of("ketama", "mirror", "jump", "chash", "groups"),
    )
    shards: tuple[str, ...] = setting(
        (),
        'for jump, chash and groups, each "NAME STORE STORE ...", or "NAME xWEIGHT STORE ..."',
        SHARDS,
    )
    preferred: tuple[str, ...] = setting(
        (), "stores that are asked before others, and their groups too (groups)", STORES
    )
    read_only: tuple[str, ...] = setting(
        (), "stores whose groups get no new files (groups)", STORES
    )
    copies: int = setting(3, "stores that hold a file (ketama)", between(1, 16))
    write_quorum: int = setting(
        0, "stores that must have kept a write until it is answered; 0: a majority", between(0, 16)
    )
    read_quorum: int = setting(
        1,
        "stores that must agree on a read; more than 1 where gateways share stores but not"
        " owed_folder",
        between(1, 16),
    )
    read_mode: str = setting(
        "first",
        "which store is asked first. first: in order of placement; random: any; fastest: the one"
        " that answers first; local: the first, then the others in turn",
        one_of("first", "random", "fastest", "local"),
    )
    first_decides: bool = setting(
        False,
        "a write needs the first of stores above all, and folders are shown as that one has them",
        BOOLEAN,
    )
    head_timeout_ms: int = setting(
        100, "milliseconds until the next store is asked as well", between(1, 60_000)
    )
    straggler_ms: int = setting(
        50,
        "milliseconds that a write which is kept waits for the other stores",
        between(0, 60_000),
    )
    cooling_s: float = setting(
        2.0, "seconds that a store which failed is left alone", at_least(0.1)
    )
    tombstone_days: float = setting(
        10.0,
        "days that a deletion is remembered; no store may be away for longer",
        in_range(0.01, 36_500),
    )
    owed_folder: str = setting(
        "var/owed", "folder of the writes that stores still have to get, made if missing", NOT_EMPTY
    )
    owed_limit: int = setting(
        1_000_000,
        "writes that are noted one by one; a store that misses more is read last until"
        " sfss repair has run",
        between(1, 1_000_000_000),
    )
    former_stores: tuple[str, ...] = setting(
        (), "stores as they were before a change, until sfss rebalance has run", STORES
    )
    former_shards: tuple[str, ...] = setting(
        (), "shards as they were before a change, until sfss rebalance has run", SHARDS
    )
    roster: str = setting("", "file of the stores that are live; empty: all are", ANY_TEXT)
    roster_check_s: float = setting(2.0, "seconds between two looks at the roster", at_least(0.05))


@dataclass(frozen=True, slots=True)
class NearCacheSettings:
    """A store "lmdb:FOLDER" before one "s3://BUCKET"; for replicated.placement "mirror"."""

    capacity_bytes: int = setting(
        0,
        "bytes that the local store keeps; beyond it, files are removed that the bucket has; 0: all"
        " is kept",
        between(0, 1 << 50),
    )
    fetch: str = setting(
        "keep",
        "what is done with a file that only the bucket has when it is read. keep: it is kept here,"
        " too; serve: it is served only",
        one_of("keep", "serve"),
    )
    around: bool = setting(
        False,
        "what is written goes to the bucket only, and an older copy here is removed; in place of"
        " write_quorum",
        BOOLEAN,
    )


@dataclass(frozen=True, slots=True)
class MigrationSettings:
    """Where files are to move while the service goes on; see ``sfss migrate``."""

    placement: str = setting(
        "jump", "as replicated.placement", one_of("ketama", "mirror", "jump", "chash")
    )
    stores: tuple[str, ...] = setting((), "as replicated.stores, of the new places", STORES)
    shards: tuple[str, ...] = setting((), "as replicated.shards, of the new places", SHARDS)
    copies: int = setting(3, "as replicated.copies", between(1, 16))
