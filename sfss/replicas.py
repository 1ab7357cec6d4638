"""From settings to copies on many stores: for the service and for the tools that repair."""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

from sfss.agreement import CopiesSettings
from sfss.checks import (
    BUCKET,
    LMDB,
    folder_of,
    host_of,
    is_blob_server,
    keeps_files,
    read_shard,
)
from sfss.cluster import Clock
from sfss.config import Settings
from sfss.config_checks import Choice, addresses_of, cache_of, least_copies, migrates
from sfss.config_replicated import ReplicatedSettings
from sfss.copies import Copies
from sfss.errors import SettingError, StoreError
from sfss.evicting import Evictor
from sfss.expiring import Expiring
from sfss.migration import Migration, check_none
from sfss.owed import Owed
from sfss.placement import (
    ChashShards,
    JumpShards,
    KetamaRing,
    Mirror,
    ObjectPlacement,
    OwnFirst,
    Placement,
    Places,
    Shard,
)
from sfss.roster import Roster
from sfss.stores.base import NewestStore, Store
from sfss.stores.blob_server import BlobServerStore
from sfss.stores.bucket import BucketStore
from sfss.stores.folder import FolderStore
from sfss.stores.key_locks import KeyLocks
from sfss.stores.lmdb_copies import LmdbCopies
from sfss.stores.marks import Marks
from sfss.stores.memcached import MemcachedStore
from sfss.stores.webdav import WebdavStore
from sfss.sweeping import keep_sweeping

TURN_EVERY_S: Final = 1.0
"""Seconds between two looks at whether the process that paid has ended."""

MARKS: Final = "marks"
"""Name of the folder, in that of the debts, for what stores of plain files cannot carry."""

SWEEPER: Final = "sweeper"
"""Name of a file in the folder of an embedded store: which process sweeps has locked it."""

EVICTOR: Final = "evictor"
"""Name of a file in the folder of a store that files are evicted from: which process does it."""

_PAYER: Final = "payer"
_LOCKS: Final = "locks"
_STORES: Final = "stores"
_MIGRATION: Final = "migration"
_DAY_S: Final = 86_400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Stores by address; where keys belong; what stores still have to get; and the engine over all
    that. Where there are any: the roster and the migration; the ``marks`` of stores of plain files,
    the ``locks`` on their keys, and what is ``expiring`` in them; the ``cache``, a store that may
    lack files. ``close`` closes everything.
    """

    stores: Mapping[str, NewestStore]
    places: Places
    owed: Owed
    copies: Copies
    roster: Roster | None = None
    migration: Migration | None = None
    marks: Store | None = None
    locks: KeyLocks | None = None
    expiring: Expiring | None = None
    cache: LmdbCopies | None = None

    def is_live(self, address: str) -> bool:
        """Tell whether the store may be asked, as far as the roster is concerned."""
        return is_live(self.roster, address)

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""
        await self.copies.close()
        if self.marks is not None:
            await self.marks.close()
        if self.locks is not None:
            self.locks.close()
        if self.migration is not None:
            self.migration.close()

    def work(self, folder: Path) -> list[Coroutine[Any, Any, None]]:
        """Return what has to go on while a gateway serves: debts are paid, the roster is watched,
        what has expired is removed from embedded stores.

        Of all processes that share ``folder``, one pays; of those that share a store, one sweeps.
        """
        watched = [] if self.roster is None else [self.roster.run()]
        swept = [
            keep_sweeping(store, Turn(store.folder / SWEEPER).is_ours, self.copies.counts)
            for store in self.stores.values()
            if isinstance(store, LmdbCopies)
        ]
        turn = Turn(folder / _PAYER)
        if self.expiring is not None:
            swept.append(self.expiring.run(turn.is_ours))
        return [self._pay(turn), *watched, *swept, *self._evictors()]

    def _evictors(self) -> list[Coroutine[Any, Any, None]]:
        cache = self.cache
        if cache is None or not cache.capacity_bytes:
            return []
        may_evict = partial(self.copies.healing.is_elsewhere, address=cache.address)
        evictor = Evictor(cache, cache.mark_hits(), cache.capacity_bytes, may_evict)
        return [evictor.run(Turn(cache.folder / EVICTOR).is_ours)]

    async def _pay(self, turn: "Turn") -> None:
        while not turn.is_ours():  # noqa: ASYNC110 - another process cannot tell when it ends
            await asyncio.sleep(TURN_EVERY_S)
        try:
            forgotten = await self.owed.forget_others(self.stores)
            if forgotten:
                _log.warning("%d writes owed to stores that are gone are forgotten", forgotten)
        except StoreError as error:
            _log.error("what is owed to stores that are gone stays: %s", error)
        await self.copies.paying.run(turn.is_ours)


class Turn:
    """A lock that one process has at a time, and until it ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def is_ours(self) -> bool:
        """Tell whether this process has it; take it if nobody has."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True


def claim_folder(settings: Settings) -> None:
    """Write down whose debts are in the folder of ``settings``; raise ``SettingError`` when it is
    those of quite other stores: one gateway would forget what another has noted.
    """
    folder = settings.replicated.owed_folder
    file, addresses = Path(folder) / _STORES, addresses_of(settings)
    try:
        former = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
        if former and not set(former) & set(addresses):
            found = f"is {folder!r}, which is about the stores {', '.join(former)}"
            wanted = "each cluster needs a folder of its own"
            raise SettingError("settings", "replicated.owed_folder", found, wanted)
        if former != addresses:
            scratch = file.with_name(f"{_STORES}.{os.getpid()}")
            scratch.write_text("\n".join(addresses) + "\n", encoding="utf-8")
            scratch.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("settings", "replicated.owed_folder", str(error), "a folder") from error


@dataclass(frozen=True, slots=True)
class Own:
    """What a gateway that has a store itself knows of the stores: its own ``store``, under the
    address that others have for it; whether that ``belongs`` to the cluster; and the addresses of
    those that are ``doubted``, for they have lost what they had, and of those ``gone`` for good.
    """

    store: NewestStore
    belongs: bool = True
    doubted: Collection[str] = ()
    gone: Collection[str] = ()


def make_replicas(
    settings: Settings,
    owed_store: Store,
    marks: Store | None = None,
    heals_at_once: int = 4,
    fetches: bool = True,
) -> Replicas:
    """Return the replicas of ``settings``, whose kind is "replicated"; debts are in ``owed_store``,
    and what stores of plain files cannot carry is in ``marks``, which these need. Unless it
    ``fetches``, a store that may lack files is not given those that are read.

    Raises ``SettingError``.
    """
    options = settings.replicated
    locks = None if marks is None else _open_locks(options)
    stores = {address: _open(address, settings, marks, locks) for address in addresses_of(settings)}
    migration = _migration(settings)
    places, roster = _places(settings, migration), _roster(options)
    owed = Owed(owed_store, options.owed_limit)
    chosen = _engine_settings(settings, heals_at_once, fetches)
    copies = Copies(stores, places, owed, Clock(), chosen, _liveness(roster))
    cache = stores.get(cache_of(settings))
    if isinstance(cache, LmdbCopies):
        cache.limit(settings.near_cache.capacity_bytes)
    else:
        cache = None
    expiring = None
    if marks is not None and not all(isinstance(each, LmdbCopies) for each in stores.values()):
        expiring = Expiring(marks, copies.healing)
        copies.note_expiry = expiring.note
    return Replicas(stores, places, owed, copies, roster, migration, marks, locks, expiring, cache)


def make_joined(
    settings: Settings, owed_store: Store, own: Own, heals_at_once: int = 4
) -> Replicas:
    """Return the replicas of members that have joined each other, ``settings`` being those of
    ``config_joined.joined_settings``; see ``make_replicas``. Other members write the same stores,
    and note for themselves what these still have to get.
    """
    options = settings.replicated
    addresses = [address for address in addresses_of(settings) if address not in own.gone]
    stores = {address: _open(address, settings, None, None) for address in addresses}
    if own.belongs:
        stores[own.store.address] = own.store
    now, former = options.stores, options.former_stores
    prefer, copies = own.store.address, options.copies
    places = Places(objects_placed(now, copies, prefer).primaries)
    if former:
        before = objects_placed(former, copies, prefer)
        places = places._replace(former=before.primaries, writes_both=lambda: True)
    roster, owed = _roster(options), Owed(owed_store, options.owed_limit, own.doubted)
    chosen = replace(
        _engine_settings(settings, heals_at_once),
        shares_debts=False,
        least_copies=min(copies, len(now), len(former or now)),
        gone=frozenset(own.gone),
    )
    engine = Copies(stores, places, owed, Clock(), chosen, _liveness(roster))
    return Replicas(stores, places, owed, engine, roster)


def objects_placed(members: Sequence[str], copies: int, prefer: str) -> Placement:
    """Return where files belong, in so many ``copies``, and objects; ``prefer`` comes first."""
    ring = OwnFirst(KetamaRing(members, copies), prefer)
    return ObjectPlacement(ring, KetamaRing(members), OwnFirst(Mirror(members), prefer))


def _liveness(roster: Roster | None) -> Callable[[str], bool] | None:
    return None if roster is None else partial(is_live, roster)


def _open_locks(options: ReplicatedSettings) -> KeyLocks:
    file = Path(options.owed_folder) / _LOCKS
    try:
        return KeyLocks.on(file)
    except OSError as error:
        raise SettingError("settings", "replicated.owed_folder", str(error), "a folder") from error


def _open(
    address: str, settings: Settings, marks: Store | None, locks: KeyLocks | None
) -> NewestStore:
    if not keeps_files(address):
        patience_s = settings.replicated.head_timeout_ms / 1000
        return MemcachedStore(address, settings.memcached, patience_s)
    if address.startswith(LMDB):
        return LmdbCopies(address, settings.embedded.timeout_s)
    spool_folder = Path(settings.server.spool_folder or gettempdir())
    if address.startswith(BUCKET):
        return BucketStore(address, settings.bucket, spool_folder, locks)
    assert marks is not None
    own = Marks(marks, address)
    if address.startswith("file:"):
        timeout_s = settings.embedded.timeout_s
        return FolderStore(address, Path(folder_of(address)), own, timeout_s=timeout_s)
    kind = BlobServerStore if is_blob_server(address) else WebdavStore
    return kind(address, own, settings.webdav, spool_folder, locks)


def is_live(roster: Roster | None, address: str) -> bool:
    """Tell whether the store at ``address`` may be asked: folders and buckets always may."""
    host = host_of(address)
    return roster is None or host is None or roster.is_live(host)


def open_migration(settings: Settings) -> Migration:
    """Return the migration that ``settings`` describe. Raises ``SettingError``."""
    old, new = _fingerprint(settings.replicated), _fingerprint(settings.migration)
    memory_s = settings.replicated.tombstone_days * _DAY_S
    return Migration(_migration_file(settings), old, new, memory_s)


def check_migration(settings: Settings) -> None:
    """Raise ``SettingError`` where a migration is under way that ``settings`` do not describe."""
    migration = _migration(settings)
    if migration is not None:
        migration.close()


def _migration(settings: Settings) -> Migration | None:
    if migrates(settings):
        return open_migration(settings)
    check_none(_migration_file(settings), _fingerprint(settings.replicated))
    return None


def _migration_file(settings: Settings) -> Path:
    return Path(settings.replicated.owed_folder) / _MIGRATION


def _fingerprint(choice: Choice) -> str:
    copies = choice.copies if choice.placement == "ketama" else 0
    places = (choice.placement, choice.stores, choice.shards, copies)
    return xxh3_64_hexdigest(repr(places).encode())


def _places(settings: Settings, migration: Migration | None) -> Places:
    options = settings.replicated
    now = placed(options, options.stores, options.shards)
    shards = _shards_by_name(settings)
    if migration is not None:
        new = settings.migration
        places = migration.places(now, placed(new, new.stores, new.shards))
        stores = migration.either(_stores_of(options), _stores_of(new))
        return places._replace(shards=shards, stores=stores)
    if options.former_stores or options.former_shards:
        former = placed(options, options.former_stores, options.former_shards)
        return Places(now.primaries, former.primaries, shards=shards)
    return Places(now.primaries, shards=shards)


def _stores_of(choice: Choice) -> Sequence[str]:
    return [*choice.stores, *(store for shard in choice.shards for store in read_shard(shard)[2])]


def _shards_by_name(settings: Settings) -> dict[str, Sequence[str]]:
    """Return the stores of each shard; new ones may have the names of old ones."""
    found: dict[str, Sequence[str]] = {}
    for shards in (settings.replicated.shards, settings.migration.shards):
        for name, _, stores in map(read_shard, shards):
            is_another = found.get(name, stores) != stores
            found[f"{name} (new)" if is_another else name] = stores
    return found


def _engine_settings(
    settings: Settings, heals_at_once: int, fetches: bool = True
) -> CopiesSettings:
    options, near = settings.replicated, settings.near_cache
    ours = {entry.name for entry in fields(options)}
    names = ours & {entry.name for entry in fields(CopiesSettings)}
    chosen = {name: getattr(options, name) for name in names}
    least = least_copies(options)
    if migrates(settings):
        least = min(least, least_copies(settings.migration))
    return CopiesSettings(
        **chosen,
        heals_at_once=heals_at_once,
        least_copies=least,
        may_lack=cache_of(settings),
        keeps_fetched=fetches and near.fetch == "keep",
        around=near.around,
    )


def placed(choice: Choice, stores: Sequence[str], shards: Sequence[str]) -> Placement:
    """Return where keys belong that are placed on ``stores`` or ``shards`` as ``choice`` says."""
    if choice.placement == "mirror":
        return Mirror(stores)
    if choice.placement == "ketama":
        return KetamaRing(stores, choice.copies)
    found = [_shard(text) for text in shards]
    return JumpShards(found) if choice.placement == "jump" else ChashShards(found)


def _shard(text: str) -> Shard:
    name, weight, stores = read_shard(text)
    return Shard(name, stores, weight)


def _roster(options: ReplicatedSettings) -> Roster | None:
    if not options.roster:
        return None
    roster = Roster(Path(options.roster), options.roster_check_s)
    roster.load()
    return roster
