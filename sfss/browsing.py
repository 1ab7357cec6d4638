"""What several stores have in their folders, shown as one."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

from sfss.agreement import CopiesSettings, rank
from sfss.errors import CannotList, Corrupt, NoStoreReachable, StoreError
from sfss.holders import Holders
from sfss.owed import Owed
from sfss.placement import Places
from sfss.record import Head
from sfss.stores.base import Child, Entry, scan_of

_LOOKS_AT_ONCE: Final = 32
_NOT_HERE: Final = "stores of this kind are not listed over HTTP; sfss check goes through all files"

HeadOf: TypeAlias = Callable[[bytes], Awaitable[Head | None]]


class Browsing:
    """Shows the folders of the stores of ``holders``, which may be ``owed`` writes.

    ``head_of`` tells what there is under a key: of files that have other places since a change, and
    may have been deleted there.
    """

    def __init__(
        self,
        holders: Holders,
        owed: Owed,
        settings: CopiesSettings,
        places: Places,
        head_of: HeadOf,
    ) -> None:
        self._holders, self._owed, self._settings = holders, owed, settings
        self._places, self._head_of = places, head_of
        self._at_once = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return what all stores together list, as ``Store.scan``; see ``children``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what all stores together have in a folder, the newest of each file; where the
        first store decides, what that has. See ``BrowsableStore.children``.

        Raises ``CannotList``, and ``NoStoreReachable`` when so many did not answer that they could
        have something which no other has.
        """
        addresses = self._places.stores() or self._holders.addresses
        if not self._holders.can_browse:
            raise CannotList(", ".join(addresses), _NOT_HERE)
        found: list[Child] = []
        end: bytes | None = after
        while end is not None and len(found) < limit:
            if self._settings.first_decides:
                page, end = await self._of_first(addresses[0], prefix, end, limit)
                found += page
                continue
            shown, failures = await self._shown(addresses, prefix, end, limit)
            if len(failures) >= self._settings.least_quorum or self._misses_most(failures):
                raise NoStoreReachable(failures)
            page, end = await self._merged(prefix, shown, limit)
            found += page
        return found[:limit]

    async def _of_first(
        self, address: str, prefix: bytes, after: bytes, limit: int
    ) -> tuple[list[Child], bytes | None]:
        """Return what ``_merged`` does, of one store."""
        shown = await self._holders.children(address, prefix, after, limit)
        found: list[Child] = []
        for child in shown:
            is_damaged = child.head is None and not child.is_folder
            settled = await self._settled(prefix, child) if is_damaged else child
            if settled is not None:
                found.append(settled)
        return found, shown[-1].name if len(shown) == limit else None

    def _misses_most(self, failures: Mapping[str, str]) -> bool:
        """Tell whether a store did not answer that has what the first may lack."""
        first = self._settings.may_lack
        return bool(first) and any(address != first for address in failures)

    async def _shown(
        self, addresses: Sequence[str], prefix: bytes, after: bytes, limit: int
    ) -> tuple[dict[str, list[Child]], dict[str, str]]:
        """Return what stores have, and why others did not say it, both by address."""
        looks = (self._holders.children(each, prefix, after, limit) for each in addresses)
        answers = await asyncio.gather(*looks, return_exceptions=True)
        shown: dict[str, list[Child]] = {}
        failures: dict[str, str] = {}
        for address, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, StoreError) and not isinstance(answer, CannotList):
                failures[address] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                shown[address] = answer
        return shown, failures

    async def _merged(
        self, prefix: bytes, shown: Mapping[str, Sequence[Child]], limit: int
    ) -> tuple[list[Child], bytes | None]:
        """Return what stores have shown, and up to which name that is all there is; None: that is
        all.
        """
        # Behind the end of a page that is full, the store may have more.
        full = [things[-1].name for things in shown.values() if len(things) == limit]
        end = min(full, default=None)
        found: dict[bytes, tuple[Child, str]] = {}
        alike: dict[bytes, set[str]] = {}  # the stores that show the newest
        for address, things in shown.items():
            for child in things:
                if end is not None and child.name > end:
                    break
                if await self._is_old(prefix, child, address):
                    continue
                former = found.get(child.name)
                if former is None or _is_newer(child, former[0]):
                    found[child.name], alike[child.name] = (child, address), {address}
                elif not _is_newer(former[0], child):
                    alike[child.name].add(address)
        doubted = [
            name
            for name, each in found.items()
            if self._is_doubted(prefix, *each)
            or self._may_be_deleted(prefix, each[0], shown.keys() - alike[name])
        ]
        settled = await asyncio.gather(*(self._settled(prefix, found[name][0]) for name in doubted))
        looked_at = dict(zip(doubted, settled, strict=True))
        children = (looked_at.get(name, found[name][0]) for name in sorted(found))
        return [child for child in children if child is not None], end

    def _is_doubted(self, prefix: bytes, child: Child, address: str) -> bool:
        """Tell whether a file may have been deleted, where the store does not know of it; or may be
        whole all the same, where none has shown its head.
        """
        if child.is_folder:
            return False
        if child.head is None:
            return True
        where = self._places.of(prefix + child.name)
        return address not in where.primaries or (where.moves and where.reads_both)

    def _may_be_deleted(self, prefix: bytes, child: Child, others: Collection[str]) -> bool:
        """Tell whether one of the ``others``, which do not show a file, should have it: where not
        all debts are known, it may be the one that knows of the deletion.
        """
        if child.head is None or self._settings.shares_debts:
            return False
        return any(address in others for address in self._places.primaries(prefix + child.name))

    async def _settled(self, prefix: bytes, child: Child) -> Child | None:
        """Return what a look at the file itself makes of ``child``: None where it is deleted."""
        async with self._at_once:
            try:
                head = await self._head_of(prefix + child.name)
            except Corrupt:
                return Child(child.name, None)
        if head is None:
            return None
        return Child(child.name, head) if child.head is None else child

    async def _is_old(self, prefix: bytes, child: Child, address: str) -> bool:
        """Tell whether the store still has to get a write of this file."""
        if child.is_folder:
            return False
        return bool(await self._owed.owes(prefix + child.name, (address,)))


def _is_newer(child: Child, former: Child) -> bool:
    if child.head is None or former.head is None:
        return child.head is not None  # a file that is damaged on one store, and whole on another
    return rank(child.head) > rank(former.head)
