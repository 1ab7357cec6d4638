"""Writes that a store still has to get: a durable list of debts, shared by all workers.

The list is itself kept in a store, one that can list: the embedded store in a folder of its own
makes it durable, mends it, and lets every worker see a debt as soon as it is noted. A debt is one
record without a body, under

    xxh3_64 of the store's address, 16 hex digits; a space; xxh3_128 of the key, 32 hex digits

so that the debts to one store lie together. Its version is the version owed; what it is about
stands in its metadata. Deletes are debts like any other: what is owed is the tombstone.

The list is bounded. Beyond ``limit`` debts, a store that fails further writes is noted as owed
*everything*: one debt, with the empty key. It is asked last for every file then, and believed for
none, until it has been compared with the others as a whole (a repair), and ``settle`` was given the
debt that ``everything`` had returned before that began. A write that it has missed in between is a
newer debt, and stays.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Final

from xxhash import xxh3_64_hexdigest, xxh3_128_hexdigest

from sfss.agreement import EVERY_VERSION, Debt, Debts
from sfss.errors import Corrupt
from sfss.record import Head, Record, digest_of
from sfss.stores.base import Guard, Store, ViewableStore

EVERYTHING: Final = b""
"""The key of a debt that stands for all keys; no file has it."""

_NONE: Final[Debts] = {}
_ADDRESS, _KEY, _ACKNOWLEDGED, _DIGEST = "store", "key", "acknowledged", "digest"
_EXPIRY: Final = "expiry"
_EMPTY_DIGEST: Final = digest_of(b"")

_log = logging.getLogger(__name__)


class _Changed(Exception):
    """Raised when a debt is not what it was when its change was worked out."""


class Owed:
    """The debts kept in ``store``, about ``limit`` of them at most; the stores that are ``doubted``
    are owed everything besides, for they have lost what they had.

    Every method raises what ``store`` raises when it fails.
    """

    def __init__(self, store: Store, limit: int, doubted: Collection[str] = ()) -> None:
        self.address = store.address
        self._store, self._limit, self._doubted = store, limit, frozenset(doubted)
        self._state = store.state if isinstance(store, ViewableStore) else lambda: 0
        # The state at which the list was last looked at as a whole, and whether it was empty then.
        self._looked_at, self._was_empty = 0, False
        self._over_limit: set[str] = set()

    @property
    def clear(self) -> bool:
        """Whether nobody is owed anything, as far as can be told without asking: for the hot path.

        False tells nothing; ``owes`` makes sure.
        """
        is_known = self._was_empty and self._state() == self._looked_at != 0
        return is_known and not self._doubted

    async def owes(self, key: bytes, addresses: Iterable[str]) -> Debts:
        """Return which of the stores at ``addresses`` are owed a write of ``key``, and which.

        Costs next to nothing while there are no debts at all.
        """
        addresses = list(addresses)
        debts = self.doubts(key, addresses)
        if self.clear or await self._is_empty():
            return debts or _NONE
        for address in addresses:
            if (debt := await self._find(address, key)) is not None:
                debts[address] = debt
            if await self._find(address, EVERYTHING) is not None:
                debts[address] = Debt(address, key, EVERY_VERSION, EVERY_VERSION)
        return debts

    def doubts(self, key: bytes, addresses: Iterable[str]) -> dict[str, Debt]:
        """Return of ``owes`` what is known without the list: which stores are not believed."""
        return {
            address: Debt(address, key, EVERY_VERSION, EVERY_VERSION)
            for address in addresses
            if address in self._doubted
        }

    async def add(self, debts: Sequence[Debt]) -> None:
        """Note ``debts``; when this returns, they are durable.

        Of two debts of one store and key, one remains, with the newer version and the newer
        acknowledged version of both.
        """
        room = await self.count() < self._limit
        notes = (self._add(debt, room) for debt in debts)
        for failure in await asyncio.gather(*notes, return_exceptions=True):
            if failure is not None:
                raise failure

    async def of(self, address: str, after: bytes = b"", limit: int = 100) -> list[Debt]:
        """Return up to ``limit`` debts to the store at ``address``, in the order of ``place``,
        those behind the place ``after``; the debt of everything is left out.
        """
        return await self._page(_prefix(address), after, limit, lambda debt: debt.key != EVERYTHING)

    async def all(self, after: bytes = b"", limit: int = 100) -> list[Debt]:
        """Return up to ``limit`` debts of all stores as ``of`` does, those of everything too."""
        return await self._page(b"", after, limit, lambda debt: True)

    async def _page(
        self, prefix: bytes, after: bytes, limit: int, wanted: Callable[[Debt], bool]
    ) -> list[Debt]:
        while entries := await self._store.scan(prefix, after, limit):
            found = [_debt_of(entry.head) for entry in entries if entry.head is not None]
            if debts := [debt for debt in found if debt is not None and wanted(debt)]:
                return debts
            after = entries[-1].key
        return []

    async def forget_others(self, addresses: Container[str]) -> int:
        """Strike off what is owed to stores that are none of ``addresses``: nobody would ever pay
        it. Return how much that was.
        """
        after, count = b"", 0
        while debts := await self.all(after):
            others = [debt for debt in debts if debt.address not in addresses]
            count += sum([await self.settle(debt) for debt in others])
            after = place(debts[-1])
        return count

    async def everything(self, address: str) -> Debt | None:
        """Return the debt of everything, if the store at ``address`` is owed that."""
        return await self._find(address, EVERYTHING)

    async def settle(self, debt: Debt) -> bool:
        """Strike ``debt`` off, unless a newer one has come in its place; return whether it was
        there.
        """
        try:
            return await self._store.delete(place(debt), _only_if(_head_of(debt)))
        except _Changed:
            return False

    async def count(self) -> int:
        """Return how many debts there are."""
        return int((await self._store.stats())["curr_items"])

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _is_empty(self) -> bool:
        number = self._state()
        if number != 0 and number == self._looked_at:
            return self._was_empty
        is_empty = not await self.count()
        # Of the number read before: what was noted since then is another.
        self._looked_at, self._was_empty = number, is_empty
        return is_empty

    async def _find(self, address: str, key: bytes) -> Debt | None:
        record = await self._store.get(place(Debt(address, key, 0)))
        return None if record is None else _debt_of(record.head)

    async def _add(self, debt: Debt, room: bool) -> None:
        while True:
            head = await self._head(debt)
            if head is None and not room:
                self._complain(debt.address)
                return await self._add(debt._replace(key=EVERYTHING), True)
            merged = _merged(None if head is None else _debt_of(head), debt)
            new = _head_of(merged)
            if head == new:
                return None
            try:
                return await self._store.set(place(merged), Record(new, b""), _only_if(head))
            except _Changed:
                continue

    async def _head(self, debt: Debt) -> Head | None:
        try:
            record = await self._store.get(place(debt))
        except Corrupt as error:
            _log.warning("a debt is noted anew: %s", error)
            return None
        return None if record is None else record.head

    def _complain(self, address: str) -> None:
        if address not in self._over_limit:
            self._over_limit.add(address)
            _log.error(
                "store %s has missed more than %d writes: it is asked last for every file until it"
                " has been repaired",
                address,
                self._limit,
            )


def place(debt: Debt) -> bytes:
    """Return the key under which ``debt`` is noted, which is where a listing goes on after it."""
    return _prefix(debt.address) + xxh3_128_hexdigest(debt.key).encode()


def _prefix(address: str) -> bytes:
    return xxh3_64_hexdigest(address.encode()).encode() + b" "


def _merged(old: Debt | None, new: Debt) -> Debt:
    if old is None:
        return new
    newer = max(old, new, key=lambda debt: (debt.version, debt.digest))
    if new.key == EVERYTHING:
        # Each write that is missed makes another debt of it: a repair that has begun before settles
        # what it has read, and not this.
        newer = newer._replace(version=max(old.version + 1, new.version))
    return newer._replace(acknowledged=max(old.acknowledged, new.acknowledged))


def _head_of(debt: Debt) -> Head:
    names = {
        _ADDRESS: debt.address,
        _KEY: debt.key.decode("latin-1"),  # of any bytes
        _ACKNOWLEDGED: str(debt.acknowledged),
        _DIGEST: debt.digest.hex(),
    }
    if debt.expiry:
        names[_EXPIRY] = str(debt.expiry)  # not the note's own: it does not expire
    return Head(debt.version, 0, _EMPTY_DIGEST, metadata=names)


def _debt_of(head: Head) -> Debt | None:
    names: Mapping[str, str] = head.metadata
    try:
        key = names[_KEY].encode("latin-1")
        acknowledged, digest = int(names[_ACKNOWLEDGED]), bytes.fromhex(names[_DIGEST])
        expiry = int(names.get(_EXPIRY, "0"))
        return Debt(names[_ADDRESS], key, head.version, acknowledged, digest, expiry)
    except (KeyError, ValueError):
        _log.warning("what lies among the debts is none: %s", dict(names))
        return None


def _only_if(expected: Head | None) -> Guard:
    def guard(found: Head | None) -> None:
        if found != expected:
            raise _Changed

    return guard
