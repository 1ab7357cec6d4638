"""One read of one key, on several stores."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeAlias

from sfss.agreement import (
    Answer,
    Debts,
    Quorums,
    Trust,
    Verdict,
    decide,
    newest,
    trust,
    unproven,
)
from sfss.errors import Corrupt, NoStoreReachable
from sfss.holders import NO_MOMENTS, Moments
from sfss.record import Head, Record
from sfss.turns import Background

Ask: TypeAlias = Callable[[str, bytes], Coroutine[Any, Any, Answer]]
"""Asks the store at an address what it has under a key."""


class Known(NamedTuple):
    """What is known before a read: what stores are owed, how many have to agree, and ``answers`` of
    some of them; ``together``: how to ask along with others, where that may be done; the
    ``moments`` before anybody is asked.
    """

    debts: Debts
    quorums: Quorums
    answers: Sequence[Answer] = ()
    together: Ask | None = None
    moments: Moments = NO_MOMENTS


class Doubt(NamedTuple):
    """Why nothing is proven; ``presumed``: there is nothing, unless a store has lost it."""

    error: NoStoreReachable
    presumed: bool


class Found(NamedTuple):
    """What stores have under one key: the ``record`` that they prove (None: nothing), and all their
    ``answers``. ``damage``: there is something, and nothing sound. ``doubt``: nothing is proven.
    ``asked_former``: the former places were asked, too.
    """

    record: Record | None
    answers: Sequence[Answer]
    debts: Debts
    damage: Corrupt | None = None
    doubt: Doubt | None = None
    asked_former: bool = False

    def doubts(self, record: Record | None) -> Doubt | None:
        """Return the doubt that stays although other places have ``record``."""
        is_over = record is not None and self.doubt is not None and self.doubt.presumed
        return None if is_over else self.doubt

    @property
    def head(self) -> Head | None:
        """The newest that any of them has, proven or not."""
        found = newest(self.answers)
        return None if found is None else found.head


class Reading:
    """One read of ``key``: the stores are asked in ``order`` until what they say, with the answers
    that are ``known`` of others, proves something.

    None is cancelled once it is asked: it is the answer that does not come which tells that a store
    is ill, and to cut off a connection costs more than to read on.
    """

    def __init__(
        self,
        ask: Ask,
        background: Background,
        key: bytes,
        order: Sequence[str],
        known: Known,
    ) -> None:
        self.key, self.debts, self.quorums = key, known.debts, known.quorums
        self.answers = list(known.answers)
        self.moments = known.moments
        self._ask_store, self._background = ask, background
        self._together = known.together
        self._waiting = list(reversed(order))
        self._running: set[asyncio.Task[Answer]] = set()

    async def verdict(self, width: int, patience_s: float) -> Verdict:
        """Return what is proven, having asked ``width`` stores at once, and one more each time that
        none has answered for ``patience_s``. Raises as ``Copies.get``.
        """
        self._ask(width - self._trusted())
        while (verdict := self._decided()) is None:
            self._ask(max(1, width - self._trusted()))
            if not self._running:
                raise unproven(self.answers, self.debts)
            if not await self._collect(patience_s if self._waiting else None):
                width += 1
        return verdict

    async def linger(self, patience_s: float) -> None:
        """Wait up to ``patience_s`` for the answers that are still to come."""
        if self._running and patience_s:
            await asyncio.wait(self._running, timeout=patience_s)
            self._take({task for task in self._running if task.done()})

    def leave(self) -> None:
        """Wait no longer for those who have not answered."""
        for task in self._running:
            self._background.leave(task)

    def _decided(self) -> Verdict | None:
        last = not self._waiting and not self._running
        return decide(self.answers, self.debts, self.quorums, last)

    def _trusted(self) -> int:
        debts = self.debts
        return sum(trust(each, debts.get(each.address)) is Trust.FULL for each in self.answers)

    def _may_share(self) -> bool:
        """Tell whether an answer may be used that is from before this read, but for the moment.

        What was acknowledged before this read began is on every store, as nobody is owed it. So a
        store that has answered this read has told it, if there is such a thing; the others are only
        asked for what was there before.
        """
        has_answered = any(answer.failure is None for answer in self.answers)
        return has_answered and not self.debts and self.quorums.read == 1

    def _ask(self, wanted: int) -> None:
        while self._waiting and len(self._running) < wanted:
            ask = self._together if self._together and self._may_share() else self._ask_store
            read = ask(self._waiting.pop(), self.key)
            self._running.add(self._background.start(read))

    async def _collect(self, patience_s: float | None) -> bool:
        done, _ = await asyncio.wait(
            self._running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        self._take(done)
        return bool(done)

    def _take(self, done: set[asyncio.Task[Answer]]) -> None:
        self._running -= done
        self.answers += [task.result() for task in done]
