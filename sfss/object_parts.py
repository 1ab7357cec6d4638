"""From settings to objects: the bucket, the list of what it is owed, and what lies beside that.

All of it is in one folder, ``objects.owed_folder``: the name of this member, the locks of its
processes, and the list.
"""

import logging
import os
import secrets
import time
from pathlib import Path
from tempfile import gettempdir
from typing import Final

from sfss.chunks import prefix_of
from sfss.cluster import Cluster
from sfss.config import Settings
from sfss.config_checks import shown_faces
from sfss.errors import SettingError
from sfss.evicting import Evictor
from sfss.keys import KeyScheme
from sfss.object_bodies import Alone, Bodies, Members
from sfss.object_entries import ObjstoreLabels
from sfss.object_evicting import REFUSED_IN_A_ROW, EvictableBodies, may_evict
from sfss.object_origin import Origin
from sfss.object_shelf import Entries
from sfss.objects import ObjectRules, Objects, Place
from sfss.replicas import EVICTOR, Turn
from sfss.stores.bucket import BucketStore
from sfss.stores.embedded import EmbeddedStore, check_folder
from sfss.stores.key_locks import KeyLocks
from sfss.ulid import RANDOM_BITS, read_ulid, ulid

FACE: Final = "objects"

_PAYER: Final = "payer"
_LOCKS: Final = "locks"
_MEMBER: Final = "member"

_log = logging.getLogger(__name__)


def has_objects(settings: Settings) -> bool:
    """Tell whether objects are shown."""
    return FACE in shown_faces(settings)


def prepare_objects(settings: Settings, former: Settings | None = None) -> None:
    """Make what ``make_objects`` needs, if it is missing and was not there by the ``former``
    settings; say it where there is no bucket. Raises ``SettingError``.
    """
    if not has_objects(settings):
        return
    folder = Path(settings.objects.owed_folder)
    is_new = former is None or not has_objects(former)
    if not is_new and former is not None and Path(former.objects.owed_folder) != folder:
        # With an empty list, it would be forgotten what the bucket has to forget.
        found, wanted = f"is {str(folder)!r}", f"{former.objects.owed_folder!r} until a restart"
        raise SettingError("settings", "objects.owed_folder", found, wanted)
    try:
        check_folder(folder, make=is_new)
    except SettingError as error:
        raise SettingError(
            error.source, "objects.owed_folder", error.found, error.allowed
        ) from error
    _member_id(folder)
    if not settings.objects.bucket and (is_new or (former and former.objects.bucket)):
        _log.warning(
            "objects.bucket is empty: there is no origin, and objects of levels 1 and 2 are kept"
            " by the members alone"
        )


def make_objects(
    settings: Settings, cluster: Cluster, scheme: KeyScheme, members: Members | None = None
) -> Objects:
    """Return the objects whose entries and bodies ``cluster`` keeps, among ``members``. Raises
    ``SettingError``.
    """
    options, engine, members = settings.objects, cluster.engine, members or Alone()
    folder = Path(options.owed_folder)
    spool_folder = Path(settings.server.spool_folder or gettempdir())
    try:
        locks = KeyLocks.on(folder / _LOCKS)
    except OSError as error:
        raise SettingError("settings", "objects.owed_folder", str(error), "a folder") from error
    entries = Entries(engine, scheme, locks, options.tombstone_days)
    origin = _origin(settings, spool_folder)
    objects = Objects(
        entries,
        Bodies(engine, scheme, members, settings.cluster.chunks_kept_s),
        ObjectRules(options.write == "through", options.fetch == "always", spool_folder),
        origin,
        Place(_member_id(folder), Path(settings.embedded.folder)),
    )
    objects.start_paying(Turn(folder / _PAYER).is_ours)
    if options.capacity_bytes and origin is not None and cluster.own is not None:
        store, marks = cluster.own, cluster.own.mark_hits()
        prefix = prefix_of(scheme.encoding)
        bodies = EvictableBodies(store, marks, (entries, origin), prefix, members.keeps_alone)
        evictor = Evictor(bodies, marks, options.capacity_bytes, may_evict, REFUSED_IN_A_ROW)
        objects.go_on(evictor.run(Turn(store.folder / EVICTOR).is_ours))
    return objects


def _origin(settings: Settings, spool_folder: Path) -> Origin | None:
    options = settings.objects
    if not options.bucket:
        return None
    bucket = BucketStore(options.bucket, settings.bucket, spool_folder, labels=ObjstoreLabels())
    folder = Path(options.owed_folder)
    debts = EmbeddedStore(folder, make=False, timeout_s=settings.embedded.timeout_s)
    return Origin(bucket, debts)


def _member_id(folder: Path) -> str:
    """Return the name of this member, which it is given once."""
    file = folder / _MEMBER
    try:
        if not file.exists():
            name = ulid(time.time_ns() // 1_000_000, secrets.randbits(RANDOM_BITS))
            scratch = file.with_name(f"{_MEMBER}.{os.getpid()}")
            scratch.write_text(f"{name}\n", encoding="ascii")
            scratch.replace(file)
        found = read_ulid(file.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("settings", "objects.owed_folder", str(error), "a folder") from error
    if found is None:
        wanted = "the name of this member, a ULID, is expected there"
        raise SettingError("settings", str(file), "holds something else", wanted)
    return found
