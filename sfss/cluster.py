"""Many stores as one: which store is asked for a path, and what to do when it does not answer.

Absent is not unreachable: ``None`` means that a store that reaches the newest copy said no; when
every store that could hold the path failed, ``NoStoreReachable`` is raised.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeVar

from sfss.errors import (
    CannotList,
    NoStoreReachable,
    SfssError,
    StoreError,
    StoreFull,
    Unreachable,
)
from sfss.keys import KeyScheme
from sfss.record import Buffer, Head, Record, new_record
from sfss.stores.base import Guard, Store, Use, ViewableStore

Answer = TypeVar("Answer")

COMPLAINT_EVERY_S = 10.0
"""Seconds between two lines of the log that say of one store that it fails."""

RECOVERED_AFTER_S = 2.0
"""Seconds without a failure after which a store that answers is said to be well."""

_log = logging.getLogger(__name__)


class Clock:
    """Versions: microseconds since 1970, each above the last, also when the clock is set back."""

    def __init__(self) -> None:
        self._last = 0

    def version(self) -> int:
        """Return a version above every one returned before."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


class Placement(Protocol):
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


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a listing."""

    path: str
    head: Head


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


class Cluster:
    """The stores behind one gateway, as one.

    Every method raises ``BadPath`` for a path that breaks a rule, and ``NoStoreReachable`` when no
    store that could hold it answered. ``max_file_size`` is in bytes.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        placement: Placement,
        scheme: KeyScheme,
        max_file_size: int,
    ) -> None:
        self._stores, self._placement, self._scheme = stores, placement, scheme
        self._clock = Clock()
        # Of stores that fail: when that was logged last, and when they failed last.
        self._complaints: dict[str, tuple[float, float]] = {}
        self._viewable = {
            store.address: store for store in stores if isinstance(store, ViewableStore)
        }
        self._only = next(iter(self._viewable.values()), None) if len(stores) == 1 else None
        self.state = self._only.state if self._only is not None else lambda: 0
        """Returns a number that is another after every change; see ``ViewableStore.state``."""
        self.max_file_size = max_file_size

    def check(self, path: str) -> None:
        """Raise ``BadPath`` unless ``path`` can be stored."""
        self._scheme.key(path)

    async def get(self, path: str) -> Record | None:
        """Return the file at ``path``, or None where there is none. Raises ``Corrupt``."""
        key = self._scheme.key(path)
        return await self._ask(key, lambda store, _: store.get(key))

    def key(self, path: str) -> bytes:
        """Return what the stores are asked for when somebody names ``path``."""
        return self._scheme.key(path)

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``; see ``ViewableStore.view``.

        The store that ``get`` would ask first is asked, and no other.
        """
        store = self._only or self._viewable.get(self._placement.candidates(key)[0].address)
        return store is not None and store.view(key, use)

    async def put(self, path: str, body: Buffer, guard: Guard | None = None) -> Head:
        """Keep ``body`` at ``path`` and return its head; when this returns, the store has it.

        ``guard`` is called with the head of the file that is about to be replaced (None: there is
        none) and forbids it by raising. On the embedded store nobody can come in between; a store
        behind the memcached protocol is asked first and written then. Raises ``TooLarge``,
        ``StoreFull``.
        """
        key = self._scheme.key(path)
        record = new_record(body, self._clock.version())

        async def write(store: Store, repeated: bool) -> None:
            own = record.head if repeated else None
            await store.set(key, record, guard and _unless_present(own, guard))

        await self._ask(key, write)
        return record.head

    async def delete(self, path: str, guard: Guard | None = None) -> bool:
        """Remove the file at ``path``; return whether there was one. ``guard`` as in ``put``."""
        key = self._scheme.key(path)

        async def remove(store: Store, repeated: bool) -> bool:
            # A failed attempt may have deleted the file; "no such key" is then its success.
            return await store.delete(key, None if repeated else guard) or repeated

        return await self._ask(key, remove)

    async def _ask(self, key: bytes, ask: Callable[[Store, bool], Awaitable[Answer]]) -> Answer:
        """Return the first answer; ``ask`` is told whether an earlier try may have been done."""
        failures: dict[str, str] = {}
        indeterminate = False
        for store in self._placement.candidates(key):
            try:
                answer = await ask(store, indeterminate)
            except Unreachable as error:
                self._placement.failed(store)
                self._complain(store, error)
                failures[error.store] = error.reason
                indeterminate |= error.applied is None
            except SfssError as error:
                if isinstance(error, StoreFull):
                    self._complain(store, error)
                if not indeterminate:
                    raise
                # A refusal says that nothing was changed, and an earlier try may have changed it.
                raise NoStoreReachable({**failures, store.address: str(error)}, True) from error
            else:
                if self._complaints:
                    self._answered(store)
                return answer
        raise NoStoreReachable(failures, indeterminate)

    def _complain(self, store: Store, error: StoreError) -> None:
        """Log that ``store`` fails, once in a while: a crowd of requests fails alike."""
        now = time.monotonic()
        said_s, _ = self._complaints.get(store.address, (-inf, now))
        if now - said_s >= COMPLAINT_EVERY_S:
            _log.warning("%s", error)
            said_s = now
        self._complaints[store.address] = said_s, now

    def _answered(self, store: Store) -> None:
        # A store may answer reads and fail every write: only a while without failures is the end.
        _, failed_s = self._complaints.get(store.address, (0.0, inf))
        if time.monotonic() - failed_s >= RECOVERED_AFTER_S:
            del self._complaints[store.address]
            _log.warning("store %s answers again", store.address)

    async def list(self, prefix: str, after: str, limit: int) -> list[Listed]:
        """Return up to ``limit`` files whose paths begin with ``prefix`` and come after ``after``.

        In byte order of the path. Raises ``CannotList`` where the stores have no listing.
        """
        if len(self._stores) != 1:
            raise CannotList(", ".join(store.address for store in self._stores))
        prefix_key, after_key = map(self._scheme.prefix, (prefix, after))
        entries = await self._stores[0].scan(prefix_key, after_key, limit)
        return [Listed(self._scheme.path(entry.key), entry.head) for entry in entries]

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

    async def close(self) -> None:
        """Finish what was begun and let go of every store."""
        for store in self._stores:
            await store.close()
