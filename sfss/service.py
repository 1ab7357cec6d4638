"""From settings to running parts: the one module that knows all of them.

``sfss serve`` and plain ``gunicorn -k sfss.worker.Worker sfss.service:application`` start here.
"""

import asyncio
import logging
import logging.config
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from ssl import SSLContext
from tempfile import gettempdir
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from sfss.checks import BLOBS, BUCKET, LMDB, bucket_of, keeps_files, read_rewrites
from sfss.chunks import is_of_body, prefix_of
from sfss.cluster import Cluster, Engine
from sfss.config import Settings
from sfss.config_access import rules_of
from sfss.config_answers import AnswersSettings, CorsSettings, read_caching
from sfss.config_checks import addresses_of, has_plain_files
from sfss.config_groups import groups_of, has_groups
from sfss.config_joined import is_joined
from sfss.groups import Group, Groups
from sfss.joining import Joining
from sfss.json_log import JsonFormatter
from sfss.keys import FILES_LIMIT, KEY_LIMIT, KeyScheme
from sfss.large import Large, LargeSettings
from sfss.metrics import Board, Counters
from sfss.object_parts import has_objects, make_objects, prepare_objects
from sfss.placement import KetamaRing
from sfss.prefixes import read_prefixes
from sfss.quotas import Quotas
from sfss.replicas import (
    MARKS,
    SWEEPER,
    Replicas,
    Turn,
    make_replicas,
)
from sfss.routed import Owner, Proxies, Route, Routed
from sfss.settings_file import read_settings
from sfss.status_parts import about, tool_folders
from sfss.stores.bucket import DELETED
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.evicting_store import EvictingStore
from sfss.stores.ledger import Ledger
from sfss.stores.memcached import MemcachedStore
from sfss.sweeping import keep_sweeping
from sfss.web.answers import Answers
from sfss.web.cors import Cors
from sfss.web.http import Site
from sfss.web.server import Runner
from sfss.web.throttling import Throttle
from sfss.web.tls import contexts_of
from sfss.web.traces import open_traces

COUNTER: Final = "counter"
"""The lock of the process that counts what quotas are about."""


def _embedded(settings: Settings, board: Board, counters: Counters) -> Cluster:
    options = settings.embedded
    store = _open_folder(Path(options.folder), options.timeout_s, board)
    if capacity_bytes := settings.objects.capacity_bytes:
        store.limit(capacity_bytes, is_of_body)
    alone = Routed([store], Owner({store.address: store}, lambda _: store.address))
    alone.count_in(counters.note_store)
    sweeper = Turn(Path(options.folder) / SWEEPER)
    sweeping = keep_sweeping(store, sweeper.is_ours, counters.events)
    cluster = _with_chunks(alone, settings, [sweeping])
    cluster.own = store
    return cluster


def _with_chunks(
    engine: Engine, settings: Settings, work: Sequence[Coroutine[Any, Any, None]] = ()
) -> Cluster:
    large = Large(engine, chunk_settings(settings))
    return Cluster(large, make_scheme(settings), settings.cluster.max_file_size, work)


def chunk_settings(settings: Settings) -> LargeSettings:
    """Return which files are kept in chunks, and under which keys."""
    cluster, scheme = settings.cluster, make_scheme(settings)
    return LargeSettings(
        cluster.max_file_size,
        cluster.chunks_above,
        prefix_of(scheme.encoding),
        cluster.chunks_kept_s,
        writes=cluster.kind == "embedded" or not settings.memcached.raw,
        key_limit=scheme.limit,
    )


def _open_folder(folder: Path, timeout_s: float, board: Board) -> EvictingStore:
    # Only the first worker to open a folder may make a store there: later it would be an empty one
    # in place of one that was moved away.
    number = xxh3_64_intdigest(os.fsencode(folder.absolute()))
    store = EvictingStore(folder, make=board.store != number, timeout_s=timeout_s)
    board.store = number
    return store


def _replicated(settings: Settings, board: Board, counters: Counters) -> Cluster:
    folder = Path(settings.replicated.owed_folder)
    timeout_s = settings.embedded.timeout_s
    owed, marks = _open_folder(folder, timeout_s, board), None
    if has_plain_files(settings):
        marks = EmbeddedStore(folder / MARKS, timeout_s=timeout_s)
    replicas = make_replicas(settings, owed, marks)
    replicas.copies.count_in(counters.events, counters.note_store)
    engine, close = _engine_over(replicas, settings)
    cluster = Cluster(
        engine,
        make_scheme(settings),
        settings.cluster.max_file_size,
        replicas.work(folder),
        close,
    )
    cluster.migration = replicas.migration
    cluster.has_http_nodes = _speaks_http(replicas)
    return cluster


def _grouped(settings: Settings, board: Board, counters: Counters) -> Cluster:
    parts = groups_of(settings)
    folders = [Path(part.settings.replicated.owed_folder) for part in parts]
    # As in _open_folder, for all of them.
    number = xxh3_64_intdigest(b"\0".join(os.fsencode(each.absolute()) for each in folders))
    make, timeout_s = board.store != number, settings.embedded.timeout_s
    opened: list[Replicas] = []
    for part, folder in zip(parts, folders, strict=True):
        owed, marks = EmbeddedStore(folder, make=make, timeout_s=timeout_s), None
        if has_plain_files(settings):
            marks = EmbeddedStore(folder / MARKS, timeout_s=timeout_s)
        opened.append(make_replicas(part.settings, owed, marks))
        opened[-1].copies.count_in(counters.events, counters.note_store)
    board.store = number
    groups = [
        Group(part.name, each.copies, part.takes) for part, each in zip(parts, opened, strict=True)
    ]
    work = [
        task for each, folder in zip(opened, folders, strict=True) for task in each.work(folder)
    ]

    async def close() -> None:
        await asyncio.gather(*(each.close() for each in opened))

    limit = settings.cluster.max_file_size
    cluster = Cluster(Groups(groups), make_scheme(settings), limit, work, close)
    cluster.has_http_nodes = any(_speaks_http(each) for each in opened)
    return cluster


def _open_joining(settings: Settings, board: Board) -> Joining:
    folder = Path(settings.replicated.owed_folder)
    owed = _open_folder(folder, settings.embedded.timeout_s, board)
    return Joining(settings, owed, board.master)


def _joined(joining: Joining, settings: Settings, counters: Counters) -> Cluster:
    replicas = joining.replicas
    replicas.copies.count_in(counters.events, counters.note_store)
    engine, close = _engine_over(replicas, joining.settings)

    async def close_all() -> None:
        await joining.stop()
        await close()
        await joining.close()

    limit = settings.cluster.max_file_size
    cluster = Cluster(engine, make_scheme(settings), limit, joining.work(), close_all)
    cluster.members, cluster.own = joining, joining.store
    return cluster


def _speaks_http(replicas: Replicas) -> bool:
    return any(address.startswith("http:") for address in replicas.stores)


def _engine_over(
    replicas: Replicas, settings: Settings
) -> tuple[Engine, Callable[[], Awaitable[None]]]:
    """Return what a cluster asks, and what closes it: a store of plain files takes files of any
    size.
    """
    if has_plain_files(settings):
        return replicas.copies, replicas.close
    large = Large(replicas.copies, chunk_settings(settings))

    async def close() -> None:
        await large.finish()
        await replicas.close()

    return large, close


def _nodes(settings: Settings, _: Board, counters: Counters) -> Cluster:
    return _over_memcached(settings, counters, lambda stores, ring: Owner(stores, ring.owner))


def _proxies(settings: Settings, _: Board, counters: Counters) -> Cluster:
    tries, retry_after_s = settings.memcached.tries, settings.memcached.retry_after_s
    return _over_memcached(
        settings,
        counters,
        lambda stores, ring: Proxies(stores, ring.order, tries, retry_after_s),
    )


def _over_memcached(
    settings: Settings,
    counters: Counters,
    route: Callable[[Mapping[str, MemcachedStore], KetamaRing], Route],
) -> Cluster:
    options = settings.memcached
    stores = {address: MemcachedStore(address, options) for address in options.servers}
    routed = Routed(list(stores.values()), route(stores, KetamaRing(options.servers)))
    routed.count_in(counters.note_store)
    return _with_chunks(routed, settings)


def make_scheme(settings: Settings) -> KeyScheme:
    """Return how keys are made of paths."""
    options = settings.memcached
    if settings.cluster.kind == "embedded":
        return KeyScheme("plain")
    if has_plain_files(settings):
        limits = [_key_limit(address, settings) for address in addresses_of(settings)]
        return KeyScheme("files", min(limits))
    return KeyScheme(options.key_encoding, options.key_limit)


def _key_limit(address: str, settings: Settings) -> int:
    """Return how many bytes a path may have in a store to which it is the key: those of blobs are
    to each.
    """
    if address.startswith((LMDB, BLOBS)):
        return KEY_LIMIT
    if not keeps_files(address):
        return settings.memcached.key_limit
    if address.startswith(BUCKET):
        # It has to be possible to remember a deletion.
        return FILES_LIMIT - len(bucket_of(address)[1]) - len(DELETED)
    return FILES_LIMIT


_KINDS: Final = {
    "embedded": _embedded,
    "nodes": _nodes,
    "proxies": _proxies,
    "replicated": _replicated,
    "groups": _grouped,
}


def make_cluster(
    settings: Settings, board: Board, counters: Counters, joining: Joining | None = None
) -> Cluster:
    """Return the cluster that ``settings`` describe, its stores open. Raises ``SettingError``.

    The workers of a gateway tell each other through ``board`` which folder they have opened; this
    one counts in ``counters``. ``joining`` is what this process is to the others, where gateways
    join each other.
    """
    if joining is not None:
        return _joined(joining, settings, counters)
    kind = "groups" if has_groups(settings) else settings.cluster.kind
    return _KINDS[kind](settings, board, counters)


def stores_of(settings: Settings) -> str:
    """Return where the files are, for a person."""
    replicated = settings.replicated
    return {
        "embedded": str(Path(settings.embedded.folder).resolve()),
        "replicated": ", ".join(replicated.stores or replicated.shards),
        "joined": f"{Path(settings.embedded.folder).resolve()}, {settings.discovery.advertise}",
    }.get(settings.cluster.kind) or ", ".join(settings.memcached.servers)


def make_answers(options: AnswersSettings) -> Answers:
    """Return what the settings say of the heads of answers with files."""
    trusted = read_prefixes(options.trusted)
    caching = read_caching(options.cache_control)
    return Answers(options.active_types == "inline", trusted, caching)


def make_cors(options: CorsSettings) -> Cors | None:
    """Return which pages of other origins may ask; None where none may."""
    if not options.origins:
        return None
    return Cors(options.origins, options.methods, options.exposed, options.max_age_s)


async def start(
    settings: Settings,
    counters: Counters,
    board: Board,
    contexts: Sequence[SSLContext | None] | None = None,
) -> Runner:
    """Return a runner that serves the cluster of ``settings``; it still has to be given sockets.
    ``contexts``: those of its listeners, where they have been made already.

    The cluster is closed with the runner.
    """
    joining = _open_joining(settings, board) if is_joined(settings) else None
    cluster = make_cluster(settings, board, counters, joining)
    _set_quotas(cluster, settings)
    spool_folder = Path(settings.server.spool_folder or gettempdir())
    rewrites = read_rewrites(settings.paths.rewrites)
    objects = None
    if has_objects(settings):
        members = None if joining is None else joining.members
        objects = make_objects(settings, cluster, make_scheme(settings), members)
    throttle = Throttle(settings.limits, board.rates)
    site = Site(
        cluster,
        board,
        settings.server.body_timeout_s,
        spool_folder,
        rewrites,
        rules_of(settings.access, settings.server.admin_token),
        settings.content.digest,
        objects,
        about=about(settings),
        tool_folders=tool_folders(settings),
        traces=open_traces(os.environ),
        answers=make_answers(settings.answers),
        cors=make_cors(settings.cors),
        limits=settings.limits,
        throttle=throttle if throttle.is_on else None,
    )
    if site.traces is not None:
        counters.note_store_also = site.traces.note_store
    if objects is not None:
        objects.count_in(counters.events)
    shown = [listen.faces for listen in settings.listeners()]
    contexts = contexts_of(settings) if contexts is None else contexts
    doors = [] if joining is None else [joining.listener]
    runner = Runner(site, settings.server, counters, shown, doors, contexts)
    await runner.setup()
    return runner


def _set_quotas(cluster: Cluster, settings: Settings) -> None:
    """Have quotas decide what ``cluster`` keeps, where there are any."""
    options = settings.quota
    if not options.prefixes:
        return
    folder = Path(options.folder)
    quotas = Quotas(Ledger(folder, options.quotas(), settings.embedded.timeout_s))
    turn, every_s = Turn(folder / COUNTER), options.recount_hours * 3600
    cluster.keep_within(quotas, quotas.keep_counting(cluster.list, turn.is_ours, every_s))


async def application(counters: Counters, board: Board) -> Runner:
    """Do as ``start`` with the settings of SFSS_CONFIG and the environment, for plain gunicorn."""
    settings = read_settings()
    prepare_objects(settings)
    if not logging.getLogger().handlers:  # else somebody has configured it already
        logging.config.dictConfig(
            logging_settings(settings.server.log_level, settings.server.log_format)
        )
    return await start(settings, counters, board)


def logging_settings(level: str, form: str = "line") -> dict[str, Any]:
    """Return the one logging configuration (``logging.config.dictConfig``): all to standard error,
    the access log to standard output, both in a ``form`` of ``server.log_format``.
    """
    own, bare = ("json", "json") if form == "json" else ("line", "bare")
    to_root = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s [%(process)d] %(message)s"},
            "bare": {"format": "%(message)s"},
            "json": {"()": JsonFormatter},
        },
        "handlers": {
            "errors": {
                "class": "logging.StreamHandler",
                "formatter": own,
            },
            "access": {
                "class": "logging.StreamHandler",
                "formatter": bare,
                "stream": "ext://sys.stdout",
            },
        },
        "root": {"level": level.upper(), "handlers": ["errors"]},
        "loggers": {
            "gunicorn.error": to_root,
            "gunicorn.access": to_root,
            "sfss.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        },
    }
