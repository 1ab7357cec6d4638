"""The entries of objects as an engine keeps them; turns of those who change them."""

import time
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, NamedTuple

from sfss.cluster import Clock, Engine
from sfss.errors import Unsettled
from sfss.keys import KeyScheme
from sfss.object_entries import Entry, Traits, entry_path, read_entry, record_of_entry
from sfss.record import VERSION_LIMIT, Head, Record, digest_of, is_alive
from sfss.stores.base import Guard
from sfss.stores.key_locks import KeyLocks

_TURN_PATIENCE_S: Final = 30.0
_TRIES: Final = 8
_DAY_US: Final = 86_400_000_000


class Seen(NamedTuple):
    """An entry, the version under which it was found, and until when it is kept."""

    entry: Entry
    version: int
    expiry: int = 0


class Changed(Exception):
    """Raised when an entry is not what it was a moment ago."""


class Entries:
    """The entries in ``engine``. ``locks`` are those of all processes of the gateway. Deletions are
    remembered for ``tombstone_days``.
    """

    def __init__(
        self, engine: Engine, scheme: KeyScheme, locks: KeyLocks, tombstone_days: float
    ) -> None:
        self._engine, self._scheme, self._locks = engine, scheme, locks
        self._tombstone_us = round(tombstone_days * _DAY_US)
        self._clock = Clock()

    def key(self, object_id: str) -> bytes:
        """Return the key of the entry of an object."""
        return self._scheme.key(entry_path(object_id))

    def id_at(self, key: bytes) -> str:
        """Return the id of the object whose entry is under ``key``."""
        return self._scheme.path(key).rpartition("/")[2]

    def turn(self, object_id: str) -> AbstractAsyncContextManager[None]:
        """Return what lets one at a time change an object; see ``KeyLocks.within``."""
        return self._locks.within(_TURN_PATIENCE_S, object_id.encode(), "of objects")

    def is_changing(self, object_id: str) -> bool:
        """Tell whether somebody here has the turn of an object."""
        return self._locks.is_held(object_id.encode())

    async def see(self, object_id: str) -> Seen | None:
        """Return the entry of an object, None where there is none, or it has expired.

        Raises ``NoStoreReachable``, ``Corrupt``.
        """
        return _seen(object_id, await self._engine.head(self.key(object_id)))

    async def confirm(self, object_id: str, above: int) -> Seen | None:
        """Return the newest entry of an object that can be found, None where there is none, after
        it was written again with a version above ``above``: so that no entry with that version, or
        an older one, that was not acknowledged turns up later, on a store that is down now.

        Not with a version of this moment: what others are just writing is to stay newer. Raises as
        ``Engine.put``, ``Unsettled``.
        """
        for _ in range(_TRIES):
            seen = await self._newest(object_id)
            with suppress(Changed):
                if seen is None:
                    # What has expired is not there, and newer than what was before it.
                    nothing = Entry(object_id, Traits(), 0, digest_of(b""), above)
                    await self.write(nothing, above + 1, only_if(None), expiry=1)
                    return None
                version = max(seen.version, above) + 1
                await self.write(seen.entry, version, only_if(seen), seen.expiry)
                return seen._replace(version=version)
        raise Unsettled("of objects", self.key(object_id))

    async def _newest(self, object_id: str) -> Seen | None:
        """Return the newest entry of an object that any store has which can be asked."""
        none = Record(Head(0, 0, digest_of(b"")), b"")
        try:
            await self._engine.put(self.key(object_id), none, _tell)
        except _Told as told:
            return _seen(object_id, told.head)
        raise AssertionError("the guard was not asked")

    async def write(self, entry: Entry, version: int, guard: Guard, expiry: int) -> None:
        """Write ``entry``, to be kept until ``expiry``. Raises what ``guard`` raises, and as
        ``Engine.put``.
        """
        record = record_of_entry(entry, version, expiry)
        await self._engine.put(self.key(entry.id), record, guard)

    def version_after(self, former: Seen | None) -> int:
        """Return a version for what is to come after ``former``."""
        above = 0 if former is None else max(former.version, former.entry.written) + 1
        return min(max(self._clock.version(), above), VERSION_LIMIT)

    def forgotten_at(self, version: int) -> int:
        """Return until when a deletion is remembered that was made, or finished, at ``version``."""
        return min(version + self._tombstone_us, VERSION_LIMIT)

    def close(self) -> None:
        """Let go of the locks; the engine stays open."""
        self._locks.close()


class _Told(Exception):
    """Raised by a guard that wants to know no more than what there is, which has ``head``."""

    def __init__(self, head: Head | None) -> None:
        super().__init__()
        self.head = head


def _tell(found: Head | None) -> None:
    raise _Told(found)


def _seen(object_id: str, head: Head | None) -> Seen | None:
    if head is None or not is_alive(head, now_us()):
        return None
    return Seen(read_entry(object_id, head), head.version, head.expiry)


def only_if(seen: Seen | None) -> Guard:
    """Return a guard that lets an entry be changed only if it is the one that was ``seen``; it
    raises ``Changed``.
    """

    def guard(found: Head | None) -> None:
        alive = found if found is not None and is_alive(found, now_us()) else None
        if (None if alive is None else alive.version) != (None if seen is None else seen.version):
            raise Changed

    return guard


def unless_newer(version: int) -> Guard:
    """Return a guard that lets only older entries be replaced; it raises ``Changed``."""

    def guard(found: Head | None) -> None:
        if found is not None and found.version >= version:
            raise Changed

    return guard


def now_us() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000
