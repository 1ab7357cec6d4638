"""Groups of stores that mirror each other, side by side: a file is in the first group that took it.

Any group may have a file. So it is asked for in one group after the other, the one that is known to
have had it first, and "nothing" is said only when all groups have said so. A group that is full,
down, or only to be read is passed over by writes. That is right only for files that do not change,
as those named by their content: of one that was replaced, each group could have another state.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from sfss.agreement import Debt, Health, Kept, Owing
from sfss.copies import Copies
from sfss.errors import (
    CannotList,
    Corrupt,
    NoStoreReachable,
    Refused,
    SfssError,
    StoreError,
    StoreFull,
    TooLarge,
)
from sfss.record import Head, Record
from sfss.stores.base import Child, Entry, Guard, Use

KNOWN_LIMIT: Final = 65_536
"""Keys of which it is remembered which group has them."""

Found = TypeVar("Found")


class Group(NamedTuple):
    """Stores that mirror each other; ``takes``: new files may go there."""

    name: str
    copies: Copies
    takes: bool = True


class Groups:
    """``groups``, in the order in which they are to be asked and to get files; see
    ``cluster.Engine``.
    """

    guards_are_free = False

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._known: dict[bytes, Group] = {}

    async def room(self) -> int | None:
        """Return how many bytes a record may have; see ``cluster.Engine.room``."""
        rooms = [await group.copies.room() for group in self._groups]
        return min((room for room in rooms if room is not None), default=None)

    async def get(self, key: bytes) -> Record | None:
        """Return the file under ``key``, or None where no group has it; raises as ``Copies.get``,
        where a group that cannot tell may have it.
        """
        return (await self._find(key, lambda group: group.copies.get(key)))[1]

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the file under ``key``; as ``get``."""
        return (await self._head(key))[1]

    async def put(self, key: bytes, record: Record, guard: Guard | None = None) -> Kept:
        """Keep ``record`` in the group that has the file, if that takes it, or the first that does.

        With a ``guard``, it has to be known whether there is a file. Raises as ``Copies.put``,
        where no group takes it.
        """
        holder = None
        if guard is not None:
            holder, head = await self._head(key)
            guard(head)
        failures: dict[str, SfssError] = {}
        takers = [group for group in self._order(key) if group.takes]
        for group in sorted(takers, key=lambda group: group is not holder):
            try:
                kept = await group.copies.put(key, record)
            except (StoreError, TooLarge) as error:
                failures[group.name] = error
            else:
                self._remember(key, group)
                return kept
        raise _refusal(failures)

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove the file from all groups; return whether there was one. ``guard`` as in ``put``.

        Where a group cannot tell, or does not confirm it, the others have removed the file, and
        ``NoStoreReachable`` is raised. Raises ``Refused`` where it is in a group that is only read.
        """
        failures: dict[str, SfssError] = {}
        having: list[Group] = []
        heads: list[Head] = []
        for group in self._groups:
            try:
                if (head := await group.copies.head(key)) is not None:
                    having.append(group)
                    heads.append(head)
            except Corrupt:
                having.append(group)
            except StoreError as error:
                failures[group.name] = error
        if guard is not None and (heads or not failures):
            guard(heads[0] if heads else None)
        if only_read := [group.name for group in having if not group.takes]:
            raise Refused(f"it is in {only_read[0]}, which is only read")
        self._known.pop(key, None)
        for group in having:
            try:
                await group.copies.delete(key)
            except StoreError as error:
                failures[group.name] = error
        if failures:
            raise NoStoreReachable(_reasons(failures), indeterminate=bool(having))
        return bool(having)

    def view(self, key: bytes, use: Use) -> bool:
        """Return False: there is no short way."""
        return False

    def state(self) -> int:
        """Return 0: nobody says when one of the stores is changed."""
        return 0

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return what all groups together list; raises as ``Copies.scan`` of any."""
        pages = await self._all(lambda copies: copies.scan(prefix, after, limit))
        listed: dict[bytes, Entry] = {}
        for entry in merge(*pages, key=lambda entry: entry.key):
            former = listed.setdefault(entry.key, entry)
            if former.head is None:  # damaged in one group, and sound in another perhaps
                listed[entry.key] = entry
        return list(islice(listed.values(), limit))

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Raise ``CannotList``: what lies here is not asked for by folders."""
        names = ", ".join(group.name for group in self._groups)
        raise CannotList(names, "groups show no folders")

    async def stats(self) -> dict[str, dict[str, str]]:
        """Return the statistics of every store by address; see ``Copies.stats``."""
        found: dict[str, dict[str, str]] = {}
        failures: dict[str, str] = {}
        for group in self._groups:
            try:
                found |= await group.copies.stats()
            except NoStoreReachable as error:
                failures |= error.failures
        if not found:
            raise NoStoreReachable(failures)
        return found | {address: {"error": why} for address, why in failures.items()}

    async def health(self, timeout_s: float) -> Health:
        """Return how the stores are: one group that takes files has to be able to."""
        found = await self._all(lambda copies: copies.health(timeout_s))
        stores = {address: why for each in found for address, why in each.stores.items()}
        lacking = [
            f"{group.name}: {each.lacking}"
            for group, each in zip(self._groups, found, strict=True)
            if group.takes and each.lacking
        ]
        takers = sum(group.takes for group in self._groups)
        return Health(stores, "; ".join(lacking) if len(lacking) == takers else "")

    async def owing(self) -> Owing:
        """Return what stores of any group still have to get."""
        owing = await self._all(lambda copies: copies.owing())
        needs_repair = [address for each in owing for address in each.needs_repair]
        return Owing(sum(each.writes for each in owing), needs_repair)

    async def missing(self, after: bytes, limit: int) -> Sequence[tuple[bytes, Debt]]:
        """Return debts of all groups as ``Copies.missing`` does."""
        pages = await self._all(lambda copies: copies.missing(after, limit))
        return sorted((debt for page in pages for debt in page), key=lambda each: each[0])[:limit]

    def debug(self) -> Mapping[str, object]:
        """Return the groups of which all stores rest, as ``Copies.debug`` does."""
        return {"DeadShards": [group.name for group in self._groups if group.copies.rests]}

    async def close(self) -> None:
        """Finish what was begun and close all groups."""
        await self._all(lambda copies: copies.close())

    async def _all(self, ask: Callable[[Copies], Awaitable[Found]]) -> list[Found]:
        return await asyncio.gather(*(ask(group.copies) for group in self._groups))

    async def _head(self, key: bytes) -> tuple[Group | None, Head | None]:
        return await self._find(key, lambda group: group.copies.head(key))

    async def _find(
        self, key: bytes, ask: Callable[[Group], Awaitable[Found | None]]
    ) -> tuple[Group | None, Found | None]:
        """Return the first group that has something under ``key``, and what; None and None where
        all have said that they have nothing.
        """
        failures: dict[str, SfssError] = {}
        for group in self._order(key):
            try:
                found = await ask(group)
            except StoreError as error:
                failures[group.name] = error
                continue
            if found is not None:
                self._remember(key, group)
                return group, found
        if failures:
            raise _doubt(failures)
        return None, None

    def _order(self, key: bytes) -> list[Group]:
        """Return all groups: that which had ``key`` first, those of which no store answers last."""
        known = self._known.get(key)
        return sorted(self._groups, key=lambda group: (group.copies.rests, group is not known))

    def _remember(self, key: bytes, group: Group) -> None:
        if group is self._groups[0]:
            self._known.pop(key, None)  # it is asked first anyway
            return
        if key not in self._known and len(self._known) >= KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
        self._known[key] = group


def _reasons(failures: Mapping[str, SfssError]) -> dict[str, str]:
    """Return why stores, or groups as a whole, could not do what they should."""
    reasons: dict[str, str] = {}
    for name, error in failures.items():
        if isinstance(error, NoStoreReachable):
            reasons |= error.failures
        else:
            reasons[name] = str(error)
    return reasons


def _doubt(failures: Mapping[str, SfssError]) -> SfssError:
    damaged = [error for error in failures.values() if isinstance(error, Corrupt)]
    return damaged[0] if len(damaged) == len(failures) else NoStoreReachable(_reasons(failures))


def _refusal(failures: Mapping[str, SfssError]) -> SfssError:
    """Return the error for a write that no group has kept."""
    errors = list(failures.values())
    for kind in (TooLarge, StoreFull):
        if all(isinstance(error, kind) for error in errors):
            return errors[0]
    return NoStoreReachable(_reasons(failures), indeterminate=True)
