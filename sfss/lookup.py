"""What several stores have under a key: asked as widely as need be, and weighed.

A read asks as few stores as prove something, a survey all that answer. Both look at the primaries
and, as far as need be, at where the key was before the stores were changed. What is seen to differ
is mended in the background.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from sfss.agreement import (
    Answer,
    CopiesSettings,
    Debts,
    Quorums,
    newest,
    presumes_nothing,
)
from sfss.errors import Corrupt, NoStoreReachable, StoreError
from sfss.faults import differ
from sfss.healing import Healing
from sfss.holders import Holders
from sfss.owed import Owed
from sfss.placement import Places, Where
from sfss.reading import Ask, Doubt, Found, Known, Reading
from sfss.record import Head, Kind, Record

_Look: TypeAlias = Callable[[bytes, Sequence[str], Ask, Sequence[Answer]], Awaitable[Found]]


class Lookup:
    """Asks the stores of ``holders`` for keys, which belong where ``places`` say; those ``owed``
    something are believed less. ``healing`` mends.
    """

    def __init__(
        self,
        holders: Holders,
        places: Places,
        owed: Owed,
        healing: Healing,
        settings: CopiesSettings,
    ) -> None:
        self._holders, self._places, self._primaries = holders, places, places.primaries
        self._owed, self._healing, self._settings = owed, healing, settings
        self._turn = 0

    async def read(self, key: bytes) -> Found:
        """Return what is under ``key``. Raises ``NoStoreReachable`` where those that answer do not
        prove anything. Where all that was found is damaged, that is told by the ``damage``.
        """
        found = await self._find(key, self._read, self._holders.read)
        if self._settings.may_lack and found.record is not None:
            self._count_cache(found)
        return found

    def _count_cache(self, found: Found) -> None:
        """Count whether the store that may lack files had this one."""
        cache = self._settings.may_lack
        has = any(each.address == cache and each.record is not None for each in found.answers)
        self._holders.counts["cache_hits" if has else "cache_misses"] += 1

    async def look(self, key: bytes) -> Found:
        """Return the same without bodies, which are not looked at where the stores can do that."""
        return await self._find(key, self._read, self._holders.look)

    async def survey(self, key: bytes) -> Found:
        """Return the same, as of all stores that answer in time; bodies or not, as ``look``."""
        # Where it costs no more, it is also found out which bodies are sound.
        holders = self._holders
        ask = holders.look if holders.heads_are_cheap else holders.read
        return await self._find(key, self._survey, ask)

    async def left_head(self, key: bytes) -> Head | None:
        """Return the newest head where ``key`` was before the stores were changed, as far as those
        stores answer: what is written now has to be newer than that.
        """
        where = self._places.of(key)
        if not where.moves or where.writes_both:  # what is written to tells it itself
            return None
        return (await self._survey(key, where.former, self._holders.look, ())).head

    async def _find(self, key: bytes, look: _Look, ask: Ask) -> Found:
        """Return what is under ``key``: in its primaries or, where they prove that they have
        nothing, or nothing that is sound, where it was before the stores were changed; the newest
        of both where what was left there may be newer.

        Raises ``NoStoreReachable`` where those that answer do not prove anything. Where all that
        was found is damaged, that is told by the ``damage``.
        """
        where = self._places.of(key)
        found = await look(key, where.primaries, ask, ())
        if where.moves and (where.reads_both or found.record is None):
            found = await self._find_left(key, where, found, look, ask)
        if found.doubt is not None:
            raise found.doubt.error
        return found

    async def _find_left(
        self, key: bytes, where: Where, found: Found, look: _Look, ask: Ask
    ) -> Found:
        """Return what ``where.former`` has, if it is newer than what was ``found``."""
        known = [answer for answer in found.answers if answer.address in where.former]
        survey = look if where.reads_both else self._survey
        left = await survey(key, where.former, ask, known)
        proven = left.answers if left.doubt is None else ()
        record = newest((*proven, *_answer_of(found.record)))
        if record is None:
            # It may have been moved between the two looks.
            found = await look(key, where.primaries, ask, ())
            record = found.record
        elif record is not found.record:
            self._healing.later(key)
        return Found(
            record,
            [*found.answers, *left.answers],
            {**found.debts, **left.debts},
            None if record is not None else found.damage or left.damage,
            found.doubts(record) or left.doubts(record),
            asked_former=True,
        )

    async def _read(
        self, key: bytes, addresses: Sequence[str], ask: Ask, known: Sequence[Answer]
    ) -> Found:
        """Return what the stores at ``addresses`` prove, having asked as few as need be; ``known``
        are answers of some of them. Where they prove nothing, that is told by the ``doubt``.
        """
        reading = await self._reading(key, addresses, ask, known)
        width = 1
        if self._settings.read_mode == "fastest" and not self._holders.heads_are_cheap:
            width = 2
        return await self._done(reading, max(width, reading.quorums.read), 0.0)

    async def _survey(
        self, key: bytes, addresses: Sequence[str], ask: Ask, known: Sequence[Answer]
    ) -> Found:
        """Return the same of all stores at ``addresses`` that answer in time; of those that rest
        only as many as need be.
        """
        reading = await self._reading(key, addresses, ask, known)
        width = sum(not self._holders.rests(address) for address in addresses)
        return await self._done(reading, width, self._settings.straggler_ms / 1000)

    async def _reading(
        self, key: bytes, addresses: Sequence[str], ask: Ask, known: Sequence[Answer]
    ) -> Reading:
        moments = self._holders.moments(key)
        debts, quorums = await self._known(key, addresses)
        answered = {answer.address for answer in known}
        order = [each for each in self._order(addresses, debts) if each not in answered]
        holders = self._holders
        is_race = self._settings.read_mode == "fastest" and ask == holders.read
        if is_race and holders.heads_are_cheap and len(order) > 1:
            await self._race(key, order, debts)
        together = holders.read_together if ask == holders.read else None
        state = Known(debts, quorums, known, together, moments)
        return Reading(ask, holders.background, key, order, state)

    def _order(self, addresses: Sequence[str], debts: Debts) -> list[str]:
        """Return ``addresses`` in the order in which to ask: those in doubt last."""
        order = list(addresses)
        if self._settings.read_mode in ("random", "fastest"):
            random.shuffle(order)
        elif self._settings.read_mode == "local" and len(order) > 1:
            self._turn += 1
            cut = 1 + self._turn % (len(order) - 1)
            order = [order[0], *order[cut:], *order[1:cut]]
        rests = self._holders.rests
        return sorted(order, key=lambda address: (address in debts, rests(address)))

    async def _race(self, key: bytes, order: list[str], debts: Debts) -> None:
        """Put that store first in ``order`` which is the first to say that it has ``key``, of those
        that are not in doubt, within ``head_timeout_ms``; change nothing if none does.
        """
        holders = self._holders
        looks = {
            holders.background.start(holders.look(address, key))
            for address in order
            if address not in debts and not holders.rests(address)
        }
        try:
            async with asyncio.timeout(self._settings.head_timeout_ms / 1000):
                for done in asyncio.as_completed(looks):
                    answer = await done
                    if answer.record is not None:
                        order.sort(key=lambda address: address != answer.address)
                        break
        except TimeoutError:
            self._holders.counts["head_timeouts"] += 1
        finally:
            for look in looks:
                holders.background.leave(look)

    async def _known(self, key: bytes, addresses: Sequence[str]) -> tuple[Debts, Quorums]:
        """Return which of the stores are owed ``key``, and how many have to answer a read."""
        quorums = self._settings.quorums(len(addresses))
        careful = quorums.careful()
        is_small = careful.read == careful.copies
        if self._settings.shares_debts and self._places.of(key).moves and not is_small:
            # A worker that knows only the former places may still write: it owes the new ones
            # nothing. Not where one store that is down would then be the end of all reads.
            quorums = careful
        try:
            return await self._owed.owes(key, addresses), quorums
        except StoreError:
            # So many that one of them has confirmed whatever was acknowledged.
            return self._owed.doubts(key, addresses), careful

    async def _done(self, reading: Reading, width: int, linger_s: float) -> Found:
        record, damage, doubt = None, None, None
        try:
            verdict = await reading.verdict(width, self._settings.head_timeout_ms / 1000)
            record = verdict.record
            await reading.linger(linger_s)
        except Corrupt as error:
            damage = error
        except NoStoreReachable as error:
            is_presumed = presumes_nothing(reading.answers, reading.debts, reading.quorums)
            doubt = Doubt(error, is_presumed)
        finally:
            reading.leave()
            if differ(reading.answers, self._settings.may_lack):
                self._mend(reading, record)
            elif record is not None and self._is_to_be_kept(reading, record):
                self._healing.keep(reading.key, record, self._settings.may_lack, reading.moments)
        return Found(record, reading.answers, reading.debts, damage, doubt)

    def _is_to_be_kept(self, reading: Reading, record: Record) -> bool:
        """Tell whether the store that may lack files is to have this one, which others have."""
        settings = self._settings
        return (
            settings.keeps_fetched
            and record.head.kind is not Kind.TOMBSTONE
            and len(record.body) == record.head.size  # else only its head was asked for
            and any(each.says_no and each.address == settings.may_lack for each in reading.answers)
        )

    def _mend(self, reading: Reading, record: Record | None) -> None:
        """Have made equal what stores have answered, in the background."""
        lacking = [each.address for each in reading.answers if each.says_no]
        whole = [each.record for each in reading.answers if each.record is not None]
        is_all = len(reading.answers) == len(self._primaries(reading.key))
        is_plain = is_all and whole == [record] and len(lacking) + 1 == len(reading.answers)
        if (
            record is None
            or not is_plain
            or len(record.body) != record.head.size  # only its head was asked for
            or self._places.of(reading.key).moves
        ):
            self._healing.later(reading.key)
        else:
            self._healing.bring(reading.key, record, lacking)


def _answer_of(record: Record | None) -> list[Answer]:
    return [] if record is None else [Answer("", record)]
