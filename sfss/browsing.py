"""What several stores have in their folders, shown as one."""

import asyncio
from collections.abc import Mapping, Sequence

from sfss.agreement import CopiesSettings, rank
from sfss.errors import CannotList, NoStoreReachable, StoreError
from sfss.holders import Holders
from sfss.owed import Owed
from sfss.stores.base import Child, Entry, scan_of


class Browsing:
    """Shows the folders of the stores of ``holders``, which may be ``owed`` writes."""

    def __init__(self, holders: Holders, owed: Owed, settings: CopiesSettings) -> None:
        self._holders, self._owed, self._settings = holders, owed, settings

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return what all stores together list, as ``Store.scan``; see ``children``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what all stores together have in a folder, the newest of each file; where the
        first store decides, what that has. See ``BrowsableStore.children``.

        Raises ``CannotList``, and ``NoStoreReachable`` when so many did not answer that they could
        have something which no other has.
        """
        addresses = self._holders.addresses
        if not self._holders.can_browse:
            raise CannotList(", ".join(addresses))
        if self._settings.first_decides:
            return await self._holders.children(addresses[0], prefix, after, limit)
        shown, failures = await self._shown(prefix, after, limit)
        if len(failures) >= self._settings.least_quorum:
            raise NoStoreReachable(failures)
        return await self._merged(prefix, shown, limit)

    async def _shown(
        self, prefix: bytes, after: bytes, limit: int
    ) -> tuple[dict[str, list[Child]], dict[str, str]]:
        """Return what stores have, and why others did not say it, both by address."""
        addresses = self._holders.addresses
        looks = (self._holders.children(each, prefix, after, limit) for each in addresses)
        answers = await asyncio.gather(*looks, return_exceptions=True)
        shown: dict[str, list[Child]] = {}
        failures: dict[str, str] = {}
        for address, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, StoreError):
                failures[address] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                shown[address] = answer
        return shown, failures

    async def _merged(
        self, prefix: bytes, shown: Mapping[str, Sequence[Child]], limit: int
    ) -> list[Child]:
        """Return the first ``limit`` things of all that stores have shown."""
        # Behind the end of a page that is full, the store may have more.
        full = [things[-1].name for things in shown.values() if len(things) == limit]
        end = min(full, default=None)
        found: dict[bytes, Child] = {}
        for address, things in shown.items():
            for child in things:
                if end is not None and child.name > end:
                    break
                if await self._is_old(prefix, child, address):
                    continue
                former = found.get(child.name)
                if former is None or _is_newer(child, former):
                    found[child.name] = child
        return [found[name] for name in sorted(found)][:limit]

    async def _is_old(self, prefix: bytes, child: Child, address: str) -> bool:
        """Tell whether the store still has to get a write of this file."""
        if child.head is None:
            return False
        return bool(await self._owed.owes(prefix + child.name, (address,)))


def _is_newer(child: Child, former: Child) -> bool:
    if child.head is None or former.head is None:
        return False
    return rank(child.head) > rank(former.head)
