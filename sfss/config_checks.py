"""Whether settings that are right by themselves go together. Pure."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from sfss.checks import (
    BUCKET,
    LMDB,
    in_toml,
    is_blob_server,
    keeps_files,
    kinds_of,
    read_shard,
    store_name,
)
from sfss.config import DECLARATIONS, MIB, Settings
from sfss.config_access import check_access
from sfss.config_joined import check_joined
from sfss.config_replicated import MigrationSettings, ReplicatedSettings
from sfss.errors import SettingError
from sfss.listening import check_tls_pair

HELD_FILE_LIMIT: Final = 64 * MIB
"""Bytes that a file may have where records are held in memory."""

FACES_OF_GROUPS: Final = ("upload", "fetch", "blobs", "status", "debug", "health", "metrics")
"""What can be shown of groups, and of blob servers: files that do not change."""

KINDS_WITH_OBJECTS: Final = ("embedded", "joined")
"""The kinds of clusters that can show the face "objects"."""

Choice: TypeAlias = ReplicatedSettings | MigrationSettings
"""The settings that say which stores there are, and how files are placed on them."""


def check_together(settings: Settings, source: str) -> None:
    """Raise ``SettingError`` where settings do not go together."""
    kind = settings.cluster.kind
    _check_listen(settings, source)
    check_access(settings.access, source)
    if kind == "replicated":
        _check_replicated(settings, source)
    elif kind == "joined":
        check_joined(settings, source)
    elif kind != "embedded" and not settings.memcached.servers:
        wanted = f'cluster.kind "{kind}" needs at least one "host:port"'
        raise SettingError(source, "memcached.servers", "is empty", wanted)
    _check_near_cache(settings, source)
    is_raw = kind != "embedded" and settings.memcached.raw
    if settings.cluster.max_file_size > HELD_FILE_LIMIT and is_raw:
        found = f"is {settings.cluster.max_file_size}"
        wanted = f"at most {HELD_FILE_LIMIT} where memcached.raw is true: no chunks are written"
        raise SettingError(source, "cluster.max_file_size", found, wanted)
    _check_endpoint(settings, source)
    if settings.cluster.max_file_size > HELD_FILE_LIMIT and _holds_whole_files(settings):
        found = f"is {settings.cluster.max_file_size}"
        wanted = f"at most {HELD_FILE_LIMIT} where one of the stores is lmdb:FOLDER"
        raise SettingError(source, "cluster.max_file_size", found, wanted)


def cache_of(settings: Settings) -> str:
    """Return the address of the store that need not have all files; "" where there is none."""
    near = settings.near_cache
    is_cache = near.capacity_bytes or near.around or near.fetch != "keep"
    return settings.replicated.stores[0] if is_cache else ""


def _check_near_cache(settings: Settings, source: str) -> None:
    near, options = settings.near_cache, settings.replicated
    chosen = {
        "capacity_bytes": near.capacity_bytes != 0,
        "fetch": near.fetch != "keep",
        "around": near.around,
    }
    name = next((name for name, is_chosen in chosen.items() if is_chosen), None)
    if name is None:
        return
    key, found = f"near_cache.{name}", f"is {in_toml(getattr(near, name))}"
    kinds = [
        next((kind for kind in (LMDB, BUCKET) if store.startswith(kind)), "")
        for store in options.stores
    ]
    is_mirror = settings.cluster.kind == "replicated" and options.placement == "mirror"
    if not is_mirror or kinds != [LMDB, BUCKET]:
        wanted = 'that is for placement "mirror" and stores ["lmdb:FOLDER", "s3://BUCKET"]'
        raise SettingError(source, key, found, wanted)
    if options.first_decides or options.former_stores or migrates(settings):
        wanted = "not with replicated.first_decides, former_stores or a migration"
        raise SettingError(source, key, found, wanted)


def _check_endpoint(settings: Settings, source: str) -> None:
    bucket = settings.bucket
    if bucket.endpoint.startswith("http:") and not bucket.allow_http:
        wanted = "https://, or bucket.allow_http = true where the network may be trusted"
        raise SettingError(source, "bucket.endpoint", f"is {bucket.endpoint!r}", wanted)


def _holds_whole_files(settings: Settings) -> bool:
    """Tell whether some store holds each file that it is given in memory: next to stores that take
    files of any size, none is kept in chunks.
    """
    if settings.cluster.kind != "replicated":
        return False
    return any(address.startswith(LMDB) for address in addresses_of(settings))


def _check_listen(settings: Settings, source: str) -> None:
    for name in ("host", "port", "faces", "tls_certificate", "tls_key"):
        declared, value = DECLARATIONS[f"server.{name}"], getattr(settings.server, name)
        if settings.listen and value != declared.default:
            wanted = "with [[listen]], say it there"
            raise SettingError(source, declared.key, f"is {in_toml(value)} and not used", wanted)
    if not settings.listen:
        check_tls_pair(settings.listeners()[0], source, "server")
    kind = settings.cluster.kind
    if "objects" in shown_faces(settings) and kind not in KINDS_WITH_OBJECTS:
        wanted = f'cluster.kind "{kind}" has no objects; {", ".join(KINDS_WITH_OBJECTS)} has'
        raise SettingError(source, "listen.faces", 'shows "objects"', wanted)
    objects = settings.objects
    if objects.capacity_bytes and not (objects.bucket and "objects" in shown_faces(settings)):
        found = f"is {objects.capacity_bytes}"
        wanted = 'only the face "objects" needs it, with an objects.bucket'
        raise SettingError(source, "objects.capacity_bytes", found, wanted)
    raw = settings.memcached.raw and kind != "embedded"
    if raw and shown_faces(settings) & {"upload", "blobs"}:
        wanted = "the faces upload and blobs keep fields with a file: raw must be false"
        raise SettingError(source, "memcached.raw", "is true", wanted)


def shown_faces(settings: Settings) -> frozenset[str]:
    """Return the faces that are shown on any address."""
    return frozenset(face for listen in settings.listeners() for face in listen.faces)


def has_plain_files(settings: Settings) -> bool:
    """Tell whether files are kept under their paths, in stores that share marks and locks."""
    if settings.cluster.kind != "replicated":
        return False
    return any(map(keeps_files, addresses_of(settings)))


def addresses_of(settings: Settings) -> list[str]:
    """Return all stores of the kind "replicated", each once: those too that were before a change,
    or are to be after a migration.
    """
    now, new = settings.replicated, settings.migration
    shards = (*now.shards, *now.former_shards, *new.shards)
    named = (store for shard in shards for store in read_shard(shard)[2])
    return list(dict.fromkeys((*now.stores, *now.former_stores, *new.stores, *named)))


def migrates(settings: Settings) -> bool:
    """Tell whether there is a second set of stores."""
    return bool(settings.migration.stores or settings.migration.shards)


def least_copies(choice: Choice) -> int:
    """Return how many stores hold a file, of the shard with the fewest where they differ."""
    if choice.placement == "ketama":
        return min(choice.copies, len(choice.stores))
    if choice.placement == "mirror":
        return len(choice.stores)
    return min(len(read_shard(shard)[2]) for shard in choice.shards)


def _check_replicated(settings: Settings, source: str) -> None:
    replicated = settings.replicated
    _check_places(replicated, "replicated", source)
    _check_groups(settings, source)
    unused = f"former_{_unused(replicated)}"
    if getattr(replicated, unused):
        raise _not_used("replicated", unused, replicated, source)
    copies = least_copies(replicated)
    if migrates(settings):
        _check_migration(settings, source)
        copies = min(copies, least_copies(settings.migration))
    for name in ("write_quorum", "read_quorum"):
        if getattr(replicated, name) > copies:
            wanted = f"at most {copies}, the stores that hold a file"
            found = f"is {getattr(replicated, name)}"
            raise SettingError(source, f"replicated.{name}", found, wanted)
    _check_names(addresses_of(settings), source)
    if len(kinds_of(addresses_of(settings))) > 1:
        found, wanted = "are of two kinds", "stores of plain files or paths do not go with others"
        raise SettingError(source, "replicated.stores", found, wanted)
    _check_blob_servers(settings, source)
    if settings.memcached.raw:
        wanted = "copies need versions, so records: raw must be false"
        raise SettingError(source, "memcached.raw", "is true", wanted)


def _check_names(addresses: Sequence[str], source: str) -> None:
    """Raise ``SettingError`` where one store has two addresses: before a change, and after it."""
    found: dict[str | None, str] = {}
    for address in addresses:
        former = found.setdefault(store_name(address), address)
        if former != address:
            wanted = f"it is {former!r} elsewhere: write it alike"
            raise SettingError(source, "address of a store", f"is {address!r}", wanted)


def _check_groups(settings: Settings, source: str) -> None:
    options = settings.replicated
    groups = [read_shard(shard)[2] for shard in options.shards]
    if options.placement != "groups":
        groups = []
    for name in ("preferred", "read_only"):
        for store in getattr(options, name):
            if not any(store in group for group in groups):
                wanted = 'a store of replicated.shards is expected, and placement "groups"'
                raise SettingError(source, f"replicated.{name}", f"names {store!r}", wanted)
    if groups and all(set(group) & set(options.read_only) for group in groups):
        found = "names stores of all groups"
        raise SettingError(source, "replicated.read_only", found, "one that takes files is needed")
    if groups:
        _check_alone(settings, source)


def _check_alone(settings: Settings, source: str) -> None:
    """Raise ``SettingError`` for what does not go with groups: files that change, and moves."""
    _check_faces(settings, 'replicated.placement "groups" goes', source)
    if settings.replicated.former_shards or migrates(settings):
        wanted = 'replicated.placement "groups" moves no files'
        raise SettingError(source, "replicated.placement", 'is "groups"', wanted)


def _check_faces(settings: Settings, what_goes: str, source: str) -> None:
    if wrong := sorted(shown_faces(settings) - set(FACES_OF_GROUPS)):
        wanted = f"{what_goes} with {', '.join(FACES_OF_GROUPS)}"
        raise SettingError(source, "listen.faces", f'shows "{wrong[0]}"', wanted)


def _check_blob_servers(settings: Settings, source: str) -> None:
    """Raise ``SettingError`` for what does not go with stores that keep nothing but blobs."""
    addresses = addresses_of(settings)
    servers = [address for address in addresses if is_blob_server(address)]
    if not servers:
        return
    _check_faces(settings, f"{servers[0]}, a blob server, goes", source)
    if all(map(keeps_files, addresses)):
        return
    if settings.replicated.placement != "groups":
        found, wanted = f"has {servers[0]!r}", 'it goes with "host:port" in groups only'
        raise SettingError(source, "replicated.stores", found, wanted)
    if settings.memcached.key_encoding != "percent":
        found = f'is "{settings.memcached.key_encoding}"'
        wanted = f'with {servers[0]!r}, it has to be "percent"'
        raise SettingError(source, "memcached.key_encoding", found, wanted)


def _check_migration(settings: Settings, source: str) -> None:
    _check_places(settings.migration, "migration", source)
    for name in ("former_stores", "former_shards"):
        if getattr(settings.replicated, name):
            found, wanted = "is set", "finish sfss rebalance before a migration"
            raise SettingError(source, f"replicated.{name}", found, wanted)


def _unused(choice: Choice) -> str:
    return "stores" if choice.placement in ("jump", "chash", "groups") else "shards"


def _not_used(section: str, name: str, choice: Choice, source: str) -> SettingError:
    used = "shards" if _unused(choice) == "stores" else "stores"
    wanted = f'{section}.placement "{choice.placement}" reads {section}.{used}'
    return SettingError(source, f"{section}.{name}", "is not used", wanted)


def _check_places(choice: Choice, section: str, source: str) -> None:
    unused = _unused(choice)
    used = "shards" if unused == "stores" else "stores"
    if not getattr(choice, used):
        wanted = f'{section}.placement "{choice.placement}" needs some'
        raise SettingError(source, f"{section}.{used}", "is empty", wanted)
    if getattr(choice, unused):
        raise _not_used(section, unused, choice, source)
    if choice.placement == "ketama" and choice.copies > len(choice.stores):
        found = f"is {choice.copies}, and there are {len(choice.stores)} stores"
        raise SettingError(source, f"{section}.copies", found, "no store holds two copies")
