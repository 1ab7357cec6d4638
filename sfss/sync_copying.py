"""What a synchronisation does with the paths of one batch: it leaves them alone, or copies them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from sfss.client_bodies import SentBody, open_body
from sfss.client_errors import ClientError, Unreadable
from sfss.client_saving import HELD_LIMIT, Progress
from sfss.get_command import has_content, local_name
from sfss.remote_command import failure
from sfss.sync_obstacles import in_the_way, what_it_is
from sfss.sync_plan import Entry, Pair, Step
from sfss.sync_sides import LocalSide, RemoteSide, Side
from sfss.upload_plan import Outcome, Result

Batch: TypeAlias = Sequence[tuple[Step, Pair]]
Told: TypeAlias = Callable[[Pair, Outcome | None], None]
"""Is told what became of a path; None: something stands in its way, which may have to go."""


class Manner(NamedTuple):
    """How it is done: whether what stands in the way may go, and whether it is only looked at."""

    deletes: bool
    is_dry: bool


class Copier:
    """Copies from the first of ``sides`` to the second; ``moved`` is told the bytes."""

    def __init__(self, sides: tuple[Side, Side], manner: Manner, moved: Progress) -> None:
        self._source, self._target = sides
        self._manner, self._moved = manner, moved

    async def do_batch(self, batch: Batch, told: Told) -> None:
        """Read in one step what has to be read: one to a thread for each takes longer than the
        files. Then do one after the other.
        """
        to_do: list[tuple[Pair, SentBody | None]] = []
        prepared = await self._all_prepared(batch)
        for (_, pair), (outcome, body) in zip(batch, prepared, strict=True):
            if outcome is None:
                to_do.append((pair, body))
            else:
                told(pair, outcome)
        try:
            for pair, body in to_do:
                told(pair, await self._result(pair, body))
        finally:
            for _, body in to_do:
                if body is not None:
                    body.close()

    async def _all_prepared(self, batch: Batch) -> list[tuple[Outcome | None, SentBody | None]]:
        def prepare() -> list[tuple[Outcome | None, SentBody | None]]:
            return [self._prepared(*each) for each in batch]

        reads = isinstance(self._source, LocalSide) or any(
            step is Step.COMPARE for step, _ in batch
        )
        return await asyncio.to_thread(prepare) if reads else prepare()

    def _prepared(self, step: Step, pair: Pair) -> tuple[Outcome | None, SentBody | None]:
        """Return what became of ``pair``, or None and what is to be sent of it. It blocks."""
        source, target = pair
        if step is Step.FAIL:
            problems = [entry.problem for entry in pair if entry is not None and entry.problem]
            return Outcome(Result.FAILED, problems[0]), None
        if step is Step.KEEP:
            return Outcome(Result.THERE), None
        if isinstance(self._source, RemoteSide) or source is None:
            return self._unlike(step, pair), None
        try:
            body = open_body(self._source.root / source.path)
            is_same = step is Step.COMPARE and body.digest() == _digest_of(target)
            if is_same:
                body.close()
                return Outcome(Result.THERE), None
        except (Unreadable, OSError) as error:
            return failure(error), None
        if self._manner.is_dry:
            body.close()
            return None, None
        return None, body

    def _unlike(self, step: Step, pair: Pair) -> Outcome | None:
        """Return None where the file of a gateway is to be copied."""
        source, target = pair
        if step is Step.COMPARE and isinstance(self._target, LocalSide):
            assert source is not None and source.file is not None and target is not None
            if has_content(self._target.root / target.path, source.file):
                return Outcome(Result.THERE)
        return None

    async def _result(self, pair: Pair, body: SentBody | None) -> Outcome | None:
        """Return what became of ``pair``; None until it is known what may go."""
        entry = pair.source
        assert entry is not None
        try:
            # To look first costs as much for each short file as to load one that cannot be kept.
            if self._manner.is_dry or entry.size > HELD_LIMIT:
                self.check_way(entry)
            if not self._manner.is_dry:
                await self.copy(entry, body)
        except (ClientError, ValueError, OSError) as error:
            if self._manner.deletes and self.obstacle(entry) is not None:
                return None
            return self._failure(entry, error)
        return Outcome(Result.DONE)

    def obstacle(self, entry: Entry) -> str | None:
        """Return the path of what has to go before ``entry`` can be there."""
        if isinstance(self._target, LocalSide) and local_name(self._target.root, entry.path):
            return in_the_way(self._target.root, entry.path)
        return None

    def check_way(self, entry: Entry) -> None:
        """Raise ``Unreadable`` where something stands in the way of ``entry``."""
        obstacle = self.obstacle(entry)
        if obstacle is not None:
            assert isinstance(self._target, LocalSide)
            raise Unreadable(what_it_is(self._target.root, obstacle))

    def _failure(self, entry: Entry, error: Exception) -> Outcome:
        try:
            self.check_way(entry)  # it may have come since: FROM can have both names
        except Unreadable as found:
            return failure(found)
        return failure(error)

    async def copy(self, entry: Entry, body: SentBody | None) -> None:
        """Copy a file, whose ``body`` is held if it is one here. Raises ``ClientError``, and
        ``ValueError`` and ``OSError`` for what cannot be.
        """
        if isinstance(self._target, LocalSide):
            assert isinstance(self._source, RemoteSide) and entry.file is not None
            target = local_name(self._target.root, entry.path)
            if target is None:
                raise Unreadable(f"{entry.file.path}: cannot be a file name here")
            await self._source.client.get_to_file(entry.file.path, target, self._moved)
            return
        path = f"{self._target.prefix}{entry.path}"
        if body is not None:
            await self._target.client.put(path, body)
        else:
            assert isinstance(self._source, RemoteSide) and entry.file is not None
            await self._source.client.copy(entry.file.path, path, self._target.client)
        self._moved(entry.size)


def _digest_of(entry: Entry | None) -> str | None:
    return None if entry is None or entry.file is None else entry.file.digest
