"""From settings to running parts: the one module that knows all of them.

``sfss serve`` and plain ``gunicorn -k sfss.worker.Worker sfss.service:application`` start here.
"""

import logging
import logging.config
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from sfss.cluster import Cluster, Owner, Placement, Proxies
from sfss.config import Setting, Settings, load
from sfss.errors import SettingError
from sfss.keys import KeyScheme
from sfss.metrics import Board, Counters
from sfss.placement import KetamaRing
from sfss.stores.embedded import EmbeddedStore, check_folder
from sfss.stores.memcached import MemcachedStore
from sfss.web.http import Site
from sfss.web.server import Runner

CONFIG_VARIABLE: Final = "SFSS_CONFIG"


def read_settings(
    file: str | None = None, options: Mapping[str, Setting] | None = None
) -> Settings:
    """Return the settings in ``file``, overridden by the environment and then by ``options``.

    Without ``file`` the one that SFSS_CONFIG names is read, if any. Raises ``SettingError``, also
    when a file cannot be read.
    """
    file = file or os.environ.get(CONFIG_VARIABLE)
    try:
        text = Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(str(file), "file", str(error), "a TOML file is expected") from None
    return load(text, file or "settings", os.environ, options)


def _embedded(settings: Settings, board: Board) -> Cluster:
    options = settings.embedded
    # Only the first worker to open a folder may make a store there: later it would be an empty one
    # in place of one that was moved away.
    number = xxh3_64_intdigest(os.fsencode(Path(options.folder).absolute()))
    make = board.store != number
    store = EmbeddedStore(Path(options.folder), make=make, timeout_s=options.timeout_s)
    board.store = number
    alone = Owner({store.address: store}, lambda key: store.address)
    return Cluster([store], alone, KeyScheme("plain"), settings.cluster.max_file_size)


def _nodes(settings: Settings, _: Board) -> Cluster:
    return _over_memcached(settings, lambda stores, ring: Owner(stores, ring.owner))


def _proxies(settings: Settings, _: Board) -> Cluster:
    tries, retry_after_s = settings.memcached.tries, settings.memcached.retry_after_s
    return _over_memcached(
        settings, lambda stores, ring: Proxies(stores, ring.order, tries, retry_after_s)
    )


def _over_memcached(
    settings: Settings, place: Callable[[Mapping[str, MemcachedStore], KetamaRing], Placement]
) -> Cluster:
    options = settings.memcached
    stores = {address: MemcachedStore(address, options) for address in options.servers}
    placement = place(stores, KetamaRing(options.servers))
    scheme = KeyScheme(options.key_encoding, options.key_limit)
    return Cluster(list(stores.values()), placement, scheme, settings.cluster.max_file_size)


_KINDS: Final = {"embedded": _embedded, "nodes": _nodes, "proxies": _proxies}


def make_cluster(settings: Settings, board: Board) -> Cluster:
    """Return the cluster that ``settings`` describe, its stores open. Raises ``SettingError``.

    The workers of a gateway tell each other through ``board`` which store they have opened.
    """
    return _KINDS[settings.cluster.kind](settings, board)


async def start(settings: Settings, counters: Counters, board: Board) -> Runner:
    """Return a runner that serves the cluster of ``settings``; it still has to be given sockets.

    The cluster is closed with the runner.
    """
    cluster = make_cluster(settings, board)
    site = Site(cluster, board, settings.server.body_timeout_s)
    runner = Runner(site, settings.server, counters)
    await runner.setup()
    return runner


def check(settings: Settings, former: Settings | None = None) -> None:
    """Raise ``SettingError`` for what would keep ``start`` from succeeding.

    A new embedded store is made here, unless it is the one of the ``former`` settings.
    """
    if settings.cluster.kind == "embedded":
        is_new = former is None or (former.cluster.kind, former.embedded.folder) != (
            settings.cluster.kind,
            settings.embedded.folder,
        )
        check_folder(Path(settings.embedded.folder), make=is_new)


async def application(counters: Counters, board: Board) -> Runner:
    """Do as ``start`` with the settings of SFSS_CONFIG and the environment, for plain gunicorn."""
    settings = read_settings()
    if not logging.getLogger().handlers:  # else somebody has configured it already
        logging.config.dictConfig(logging_settings(settings.server.log_level))
    return await start(settings, counters, board)


def logging_settings(level: str) -> dict[str, Any]:
    """Return the one logging configuration (``logging.config.dictConfig``): all to standard error,
    the access log to standard output.
    """
    to_root = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s [%(process)d] %(message)s"},
            "bare": {"format": "%(message)s"},
        },
        "handlers": {
            "errors": {"class": "logging.StreamHandler", "formatter": "line"},
            "access": {
                "class": "logging.StreamHandler",
                "formatter": "bare",
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
