"""What the bucket behind objects is owed, paid: it is made as the entries say."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sfss.agreement import Debt, left_nothing
from sfss.errors import Corrupt, SfssError, StoreError, Unreachable
from sfss.object_bodies import Bodies
from sfss.object_entries import entry_from_bucket, record_for_bucket
from sfss.object_origin import Origin
from sfss.object_shelf import Changed, Entries, Seen, now_us, only_if
from sfss.owed import place
from sfss.record import Body, Record, StreamedBody
from sfss.spool import Spool
from sfss.stores.plain_heads import is_raw
from sfss.streams import stream

_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class Payments:
    """Pays what ``origin`` is owed, by what ``entries`` say, with the bodies of ``bodies``: those
    in pieces are kept in ``spool_folder`` meanwhile.
    """

    def __init__(
        self, origin: Origin, entries: Entries, bodies: Bodies, spool_folder: Path
    ) -> None:
        self._origin, self._entries, self._bodies = origin, entries, bodies
        self._spool_folder = spool_folder

    async def run(self, leader: Callable[[], bool], every_s: float, longest_pause_s: float) -> None:
        """Pay for ever, ``every_s``; only while ``leader()`` says so. As long as a round pays
        nothing of what is owed, the pause after it is twice the one before, up to the longest.
        """
        pause_s = every_s
        while True:
            await asyncio.sleep(pause_s)
            try:
                is_stuck = leader() and await self.round() == 0
            except Exception:
                _log.exception("what the bucket is owed is not paid")
                is_stuck = True
            pause_s = min(2 * pause_s, longest_pause_s) if is_stuck else every_s

    async def round(self) -> int | None:
        """Try to pay everything once; return how much that was, None if nothing was owed. It ends
        with a bucket that cannot be reached.
        """
        paid, after, at_once = None, b"", asyncio.Semaphore(_AT_ONCE)
        while debts := await self._origin.page(after):
            outcomes = [await self._try(debts[0], at_once)]
            if outcomes != [None]:
                outcomes += await asyncio.gather(*(self._try(debt, at_once) for debt in debts[1:]))
            paid = (paid or 0) + sum(outcome is True for outcome in outcomes)
            if None in outcomes:
                break
            after = place(debts[-1])
        return paid

    async def _try(self, debt: Debt, at_once: asyncio.Semaphore) -> bool | None:
        """Return whether the debt was paid; None: the bucket cannot be reached."""
        async with at_once:
            try:
                await self.pay(debt)
            except StoreError as error:
                is_bucket = isinstance(error, Unreachable) and error.store == self._origin.address
                return None if is_bucket else False
            except (SfssError, OSError) as error:
                _log.error("the bucket does not get what is at %r: %s", debt.key, error)
                return False
            return True

    async def pay(self, debt: Debt, is_known: bool = False) -> None:
        """Make the bucket as the entry of an object says, and strike ``debt`` off. ``is_known``:
        what the entry says was acknowledged just now.

        Raises ``StoreError`` where that cannot be done now.
        """
        object_id = self._entries.id_at(debt.key)
        async with self._entries.turn(object_id):
            if is_known:
                seen = await self._entries.see(object_id)
            else:
                seen = await self._entries.confirm(object_id, debt.version)
            if seen is not None and not seen.entry.is_deleted and seen.entry.traits.level:
                await self._bring(seen, debt)
            else:
                written = 0 if seen is None else seen.entry.written
                await self._origin.remove(object_id, max(written, debt.version))
                if seen is not None and seen.entry.is_deleted:
                    await self._let_expire(seen)
            await self._origin.settle(debt)

    async def _bring(self, seen: Seen, debt: Debt) -> None:
        """Have the bucket keep the object that was ``seen``, unless somebody else has put a newer
        one there.
        """
        entry = seen.entry
        there = await self._origin.head(entry.id, now_us())
        up_to = max(entry.written, debt.version)
        if there is not None and (entry.is_version_of(there) or there.version > up_to):
            return
        record = await self._whole(entry.body)
        if record is None or not entry.has_body(record.head):
            await self._go_on(seen, up_to)
            return
        body = await self._out_of_stores(record.body)
        await self._origin.replace(entry.id, record_for_bucket(entry, body), up_to)

    async def _whole(self, path: str) -> Record | None:
        """Return a body, None also for one that is damaged: it is lost."""
        try:
            return await self._bodies.get(path)
        except Corrupt as error:
            _log.error("%s", error)
            return None

    async def _go_on(self, seen: Seen, up_to: int) -> None:
        """Finish a put that was broken off and has overwritten the object that was ``seen`` in the
        bucket, where no member has that any more: better than to have neither.
        """
        entry = seen.entry
        record = await self._origin.get(entry.id, now_us())
        is_ours = record is not None and not is_raw(record.head)
        if record is None or not is_ours or not entry.written < record.head.version <= up_to:
            _log.error("object %s is lost: no member has its body, nor the bucket", entry.id)
            return
        newer = entry_from_bucket(entry.id, record.head, record.head.digest)
        body = Record(newer.head._replace(version=now_us()), record.body)
        path = await self._bodies.keep(entry.id, newer.traits.level, body)
        try:
            newer, version = newer._replace(body=path), seen.version + 1
            await self._entries.write(newer, version, only_if(seen), newer.traits.expiry)
        except Exception as error:
            if left_nothing(error):
                self._bodies.remove_now(path)
            if not isinstance(error, Changed):
                raise
        _log.warning("object %s is what a put has left that was not answered", entry.id)

    async def _let_expire(self, seen: Seen) -> None:
        """Remember a deletion from now on only for as long as it has to be."""
        expiry = self._entries.forgotten_at(now_us())
        with suppress(Changed):
            await self._entries.write(seen.entry, seen.version + 1, only_if(seen), expiry)

    async def _out_of_stores(self, body: Body) -> Body:
        if not isinstance(body, StreamedBody):
            return body
        spool = Spool(self._spool_folder)
        async for piece in stream(body):
            await spool.write(bytes(piece))
        return (await spool.finish())[0]
