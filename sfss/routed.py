"""Stores that each key has one way to: the engine where no copies are kept here.

Either one store owns a key (``Owner``), or any of several reaches all that there is (``Proxies``).
Absent is not unreachable: ``None`` means that a store that reaches the newest copy said no; when
every store that could hold the key failed, ``NoStoreReachable`` is raised.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from sfss.agreement import Debt, Health, Kept, Owing
from sfss.complaints import Complaints
from sfss.errors import (
    CannotList,
    NoStoreReachable,
    SfssError,
    StoreFull,
    Unreachable,
)
from sfss.metrics import NoteStore
from sfss.record import Head, Record
from sfss.stopwatch import Stopwatch
from sfss.stores.base import (
    BrowsableStore,
    Child,
    Entry,
    Guard,
    Store,
    Use,
    ViewableStore,
    failures_of,
    least_room,
)

Answer = TypeVar("Answer")


class Route(Protocol):
    """Says which stores may be asked for a key, the best first."""

    def candidates(self, key: bytes) -> Sequence[Store]:
        """Return one store or more, in the order in which to ask."""

    def failed(self, store: Store) -> None:
        """Take note that ``store`` did not answer."""


class Owner:
    """Each store holds only its share: nobody stands in for the owner of a key."""

    def __init__(self, stores: Mapping[str, Store], owner: Callable[[bytes], str]) -> None:
        self._stores, self._owner = stores, owner

    def candidates(self, key: bytes) -> Sequence[Store]:
        """Return the owner alone."""
        return (self._stores[self._owner(key)],)

    def failed(self, store: Store) -> None:
        """Change nothing: another store would answer from what it does not have."""


class Proxies:
    """Any store reaches all data: the ring says which to prefer, those that failed come last."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        order: Callable[[bytes], Sequence[str]],
        tries: int,
        retry_after_s: float,
    ) -> None:
        self._stores, self._order = stores, order
        self._tries, self._retry_after_s = tries, retry_after_s
        self._parked_until: dict[str, float] = {}

    def candidates(self, key: bytes) -> Sequence[Store]:
        """Return up to ``tries`` stores; parked ones only behind all others."""
        now = time.monotonic()
        order = self._order(key)
        parked = {name for name in order if self._parked_until.get(name, 0.0) > now}
        preferred = sorted(order, key=parked.__contains__)
        return [self._stores[name] for name in preferred[: self._tries]]

    def failed(self, store: Store) -> None:
        """Park ``store``."""
        self._parked_until[store.address] = time.monotonic() + self._retry_after_s


def _unless_present(own: Head | None, guard: Guard) -> Guard:
    """Return ``guard``, but for one case: what is there is ``own``, written by a try whose answer
    was lost. ``guard`` has allowed that already.
    """

    def guard_others(head: Head | None) -> None:
        # A raw store keeps no version.
        is_own = head and own and head.digest == own.digest and head.version in (0, own.version)
        if not is_own:
            guard(head)

    return guard_others


class Routed:
    """``stores`` behind ``route``; see ``cluster.Engine``.

    ``get``, ``put`` and ``delete`` raise ``NoStoreReachable`` when no store that could hold the key
    answered.
    """

    def __init__(self, stores: Sequence[Store], route: Route) -> None:
        self._stores, self._route = stores, route
        self._complaints = Complaints()
        self._stopwatch = Stopwatch()
        self.guards_are_free = len(stores) == 1 and stores[0].head_is_cheap
        """Whether there is one store, which looks and writes in one step."""
        self._viewable = {
            store.address: store for store in stores if isinstance(store, ViewableStore)
        }
        self._only = next(iter(self._viewable.values()), None) if len(stores) == 1 else None

    def count_in(self, note: NoteStore) -> None:
        """Tell ``note`` from now on what stores are asked, and how long they take."""
        self._stopwatch = Stopwatch(note)

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``, or None where there is none. Raises ``Corrupt``."""
        return await self._ask("get", key, lambda store, _: store.get(key))

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``; see ``Store.head``."""
        return await self._ask("head", key, lambda store, _: store.head(key))

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``; see ``ViewableStore.view``.

        The store that ``get`` would ask first is asked, and no other.
        """
        store = self._only or self._viewable.get(self._route.candidates(key)[0].address)
        return store is not None and store.view(key, use)

    def state(self) -> int:
        """Return what ``ViewableStore.state`` says; 0 for more than one store."""
        return self._only.state() if self._only is not None else 0

    async def put(self, key: bytes, record: Record, guard: Guard | None = None) -> Kept:
        """Keep ``record``; when this returns, the store has it.

        On the embedded store nobody can come in between ``guard`` and the change; a store behind
        the memcached protocol is asked first and written then.
        """

        async def write(store: Store, repeated: bool) -> None:
            own = record.head if repeated else None
            await store.set(key, record, guard and _unless_present(own, guard))

        await self._ask("set", key, write)
        return Kept(record.head)

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``; return whether it was there. ``guard`` as in ``put``."""

        async def remove(store: Store, repeated: bool) -> bool:
            # A failed attempt may have deleted the file; "no such key" is then its success.
            return await store.delete(key, None if repeated else guard) or repeated

        return await self._ask("delete", key, remove)

    async def _ask(
        self, operation: str, key: bytes, ask: Callable[[Store, bool], Awaitable[Answer]]
    ) -> Answer:
        """Return the first answer; ``ask`` is told whether an earlier try may have been done."""
        failures: dict[str, str] = {}
        indeterminate = False
        for store in self._route.candidates(key):
            try:
                with self._stopwatch.of(operation, store.address):
                    answer = await ask(store, indeterminate)
            except Unreachable as error:
                self._route.failed(store)
                self._complaints.failed(store.address, error)
                failures[error.store] = error.reason
                indeterminate |= error.applied is None
            except SfssError as error:
                if isinstance(error, StoreFull):
                    self._complaints.failed(store.address, error)
                if not indeterminate:
                    raise
                # A refusal says that nothing was changed, and an earlier try may have changed it.
                raise NoStoreReachable({**failures, store.address: str(error)}, True) from error
            else:
                self._complaints.answered(store.address)
                return answer
        raise NoStoreReachable(failures, indeterminate)

    async def room(self) -> int | None:
        """Return how many bytes a record may have; see ``cluster.Engine.room``."""
        return await least_room(self._stores)

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return what the one store lists; raises ``CannotList`` where there are several."""
        if len(self._stores) != 1:
            raise CannotList(", ".join(store.address for store in self._stores))
        return await self._stores[0].scan(prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what the one store shows; raises ``CannotList`` where it cannot, or there are
        several.
        """
        store = self._stores[0]
        if len(self._stores) != 1 or not isinstance(store, BrowsableStore):
            raise CannotList(", ".join(store.address for store in self._stores))
        return await store.children(prefix, after, limit)

    async def stats(self) -> dict[str, dict[str, str]]:
        """Return the statistics of every store by address; ``error`` alone of one that fails."""
        answers = await asyncio.gather(
            *(store.stats() for store in self._stores), return_exceptions=True
        )
        found: dict[str, dict[str, str]] = {}
        failures: dict[str, str] = {}
        for store, answer in zip(self._stores, answers, strict=True):
            if isinstance(answer, Unreachable):
                failures[store.address] = answer.reason
                found[store.address] = {"error": answer.reason}
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[store.address] = dict(answer)
        if len(failures) == len(self._stores):
            raise NoStoreReachable(failures)
        return found

    async def health(self, timeout_s: float) -> Health:
        """Return how the stores are; one that answers is enough."""
        health = Health(await failures_of(self._stores, timeout_s))
        return health if health.up else health._replace(lacking="no store answers")

    async def owing(self) -> Owing:
        """Return that nobody is owed anything: a write is answered when its one store has it."""
        return Owing()

    async def missing(self, after: bytes, limit: int) -> Sequence[tuple[bytes, Debt]]:
        """Return nothing."""
        return ()

    def debug(self) -> Mapping[str, object]:
        """Return nothing."""
        return {}

    async def close(self) -> None:
        """Finish what was begun and let go of every store."""
        for store in self._stores:
            await store.close()
