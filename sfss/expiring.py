"""When files expire that are in stores which do not see to that themselves, as plain files.

What is put with a time to live is noted beside the marks of those stores, in the order of the time:

    "expires "; microseconds since 1970 of its end, 16 hex digits; a space; xxh3_128 of the key

with the key in the metadata. When the time has come, the key is healed, which makes a tombstone of
it on all stores, unless something else is there by then. Where a store cannot be asked, that is
tried again a minute later, and then after twice the time, and again. A note that is lost costs
space until the next scrub.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128_hexdigest

from sfss.complaints import Complaints
from sfss.errors import StoreError
from sfss.healing import Healing
from sfss.record import Head, Record, digest_of
from sfss.stores.base import Store

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at whether the time of any file has come."""

AGAIN_AFTER_US: Final = 60 * 1_000_000
"""Microseconds, at least, until what could not be removed is tried again."""

_AT_ONCE: Final = 64
_PREFIX: Final = b"expires "
_KEY, _SINCE = " key", " since"
_EMPTY_DIGEST: Final = digest_of(b"")

_log = logging.getLogger(__name__)


class Expiring:
    """Notes in ``store``, which can list; ``healing`` makes tombstones."""

    def __init__(self, store: Store, healing: Healing) -> None:
        self._store, self._healing = store, healing
        self._complaints = Complaints()

    async def note(self, key: bytes, expiry: int) -> None:
        """Note that what is under ``key`` expires at ``expiry``, microseconds since 1970. What
        fails is logged: the file is kept all the same.
        """
        await self._note(key, expiry, expiry)

    async def _note(self, key: bytes, due: int, since: int) -> None:
        names = {_KEY: key.decode("latin-1"), _SINCE: str(since)}
        head = Head(due, 0, _EMPTY_DIGEST, metadata=names)
        place = b"%b%016x %b" % (_PREFIX, due, xxh3_128_hexdigest(key).encode())
        try:
            await self._store.set(place, Record(head, b""))
        except StoreError as error:
            self._complaints.failed(self._store.address, error)

    async def run(self, leader: Callable[[], bool]) -> None:
        """Remove what has expired, for ever; only while ``leader()`` says so."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                while leader() and await self.sweep(time.time_ns() // 1000):
                    pass
                self._complaints.answered(self._store.address)
            except StoreError as error:
                self._complaints.failed(self._store.address, error)
            except Exception:
                _log.exception("what has expired cannot be removed")

    async def sweep(self, now_us: int) -> bool:
        """Remove some of what has expired at ``now_us``; return whether there may be more. Raises
        what the store of the notes raises.
        """
        after = b""
        while entries := await self._store.scan(_PREFIX, after, _AT_ONCE):
            after = entries[-1].key
            sound = [(entry.key, entry.head) for entry in entries if entry.head is not None]
            if due := [(place, head) for place, head in sound if head.version <= now_us]:
                await asyncio.gather(*(self._settle(*each, now_us) for each in due))
            if sound:  # behind what is damaged, the earliest
                return len(due) == len(sound) and len(entries) == _AT_ONCE
        return False

    async def _settle(self, place: bytes, note: Head, now_us: int) -> None:
        names = note.metadata
        key, since = names[_KEY].encode("latin-1"), int(names[_SINCE])
        healed = await self._healing.heal(key)
        if healed.failures:
            await self._note(key, now_us + max(AGAIN_AFTER_US, now_us - since), since)
        elif healed.mended:
            self._healing.counts["expired"] += 1
        await self._store.delete(place)
