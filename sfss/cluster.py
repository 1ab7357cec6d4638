"""What is served: paths and files, over an engine that knows keys and records."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from sfss.agreement import Debt, Health, Kept, Owing
from sfss.errors import CannotList, NoStoreReachable, NotFound, SfssError
from sfss.keys import KeyScheme
from sfss.migration import Migration
from sfss.quotas import Order, Quotas
from sfss.record import Content, Head, Record, is_alive, record_of
from sfss.stores.base import Child, Entry, Guard, Use
from sfss.stores.evicting_store import EvictingStore


class Clock:
    """Versions: microseconds since 1970, each above the last, also when the clock is set back."""

    def __init__(self) -> None:
        self._last = 0

    def version(self) -> int:
        """Return a version above every one returned before."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


class Engine(Protocol):
    """One store or many, as one: how a key is read and written, and what is done about failures.

    Absent is not unreachable: ``None`` and ``False`` mean that there is nothing, and what cannot be
    told is raised.
    """

    guards_are_free: bool
    """Whether a write with a guard costs no more, and fails no more often, than one without; nobody
    comes in between guard and write then.
    """

    async def get(self, key: bytes) -> Record | None:
        """Return the file under ``key``, or None. Raises ``Corrupt``, ``NoStoreReachable``."""

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the file under ``key``, or None; its body need not be sound. Raises as
        ``get``.
        """

    async def put(self, key: bytes, record: Record, guard: Guard | None = None) -> Kept:
        """Keep ``record``, which may get a newer version; when this returns, it is kept.

        ``guard`` is called with the head of the file that is about to be replaced (None: there is
        none) and forbids it by raising. Raises ``TooLarge``, ``StoreFull``, ``NoStoreReachable``,
        ``QuorumFailed``.
        """

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove the file; return whether there was one. ``guard`` and errors as in ``put``."""

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``; see ``ViewableStore.view``."""

    def state(self) -> int:
        """Return a number that is another after every change; see ``ViewableStore.state``."""

    async def room(self) -> int | None:
        """Return how many bytes a record may have so that every store takes it, as far as they say;
        None where they say nothing.
        """

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries as ``Store.scan`` does; raises ``CannotList``."""

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder, as ``BrowsableStore.children`` does; raises ``CannotList``,
        ``NoStoreReachable``.
        """

    async def stats(self) -> Mapping[str, Mapping[str, str]]:
        """Return the statistics of every store by address; ``error`` alone of one that fails.

        Raises ``NoStoreReachable`` when all do.
        """

    async def health(self, timeout_s: float) -> Health:
        """Return how the stores are, and whether enough of them answer within ``timeout_s`` for
        some file, if not for each, to be read and written.
        """

    async def owing(self) -> Owing:
        """Return what stores still have to get of the writes that were answered."""

    async def missing(self, after: bytes, limit: int) -> Sequence[tuple[bytes, Debt]]:
        """Return up to ``limit`` writes that stores still have to get, each behind its place in
        the list, those behind the place ``after``.
        """

    def debug(self) -> Mapping[str, object]:
        """Return counters for ``/debug/vars``, by name."""

    async def close(self) -> None:
        """Finish what was begun and let go of every store."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a listing; ``head`` is None where no store can tell it, for it is damaged."""

    path: str
    head: Head | None


class Thing(NamedTuple):
    """One thing in a folder: a file with its ``head``, None where that is damaged; or a folder,
    whose name ends with "/", as that of no file does.
    """

    name: str
    head: Head | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith("/")


class Missing(NamedTuple):
    """That the store at ``address`` still has to get what was written or deleted at ``path`` (None:
    it may lack anything). ``place`` is where a listing goes on.
    """

    address: str
    path: str | None
    version: int
    place: bytes


def _now_us() -> int:
    return time.time_ns() // 1000


def _is_alive(head: Head) -> bool:
    return is_alive(head, _now_us())


def _is_shown(head: Head | None) -> bool:
    return head is None or _is_alive(head)


def _of_alive(guard: Guard) -> Guard:
    return lambda head: guard(head if head is None or _is_alive(head) else None)


class Joined(Protocol):
    """This gateway as one of several that have joined each other."""

    @property
    def lacking(self) -> str:
        """Why no other was ever found, though there may be some: these may have anything. "" once
        it is known who belongs to the cluster.
        """

    def shown(self) -> Mapping[str, object]:
        """Return what is known of all members, for people."""


class Cluster:
    """The files behind one gateway. ``max_file_size`` is in bytes; ``work`` goes on until the
    cluster is closed, by ``close`` or by closing the ``engine``.

    Every method that is given a path raises ``BadPath`` for one that breaks a rule.
    """

    def __init__(
        self,
        engine: Engine,
        scheme: KeyScheme,
        max_file_size: int,
        work: Sequence[Coroutine[Any, Any, None]] = (),
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._engine, self._scheme = engine, scheme
        self.engine = engine
        """What keeps the files, under keys."""
        self._clock = Clock()
        self._close = close or engine.close
        self.migration: Migration | None = None
        """The move of all files to other stores, where there is one."""
        self.members: Joined | None = None
        """The gateways that have joined this one, if there can be any."""
        self.own: EvictingStore | None = None
        """The store of this gateway that bodies of objects may be evicted from, where there is one.
        """
        self.quotas: Quotas | None = None
        """How much may be kept below which paths, where that is limited."""
        self.has_http_nodes = False
        """Whether some stores want to know for whom they are asked."""
        self._work = [asyncio.ensure_future(each) for each in work]
        self.max_file_size = max_file_size
        # Called for each request of the hot path, so nothing comes in between.
        self.key = scheme.key
        """Returns what the stores are asked for when somebody names a path."""
        self.view, self.state = engine.view, engine.state

    def keep_within(self, quotas: Quotas, work: Coroutine[Any, Any, None]) -> None:
        """Have ``quotas`` decide what may be kept, and do their ``work`` until the end."""
        self.quotas = quotas
        self._work.append(asyncio.ensure_future(work))

    def check(self, path: str) -> None:
        """Raise ``BadPath`` unless ``path`` can be stored."""
        self._scheme.key(path)

    async def get(self, path: str) -> Record | None:
        """Return the file at ``path``, or None where there is none. Raises as ``Engine.get``."""
        record = await self._engine.get(self._scheme.key(path))
        return record if record is None or _is_alive(record.head) else None

    async def head(self, path: str) -> Head | None:
        """Return the head of the file at ``path``, or None where there is none; see
        ``Engine.head``.
        """
        head = await self._engine.head(self._scheme.key(path))
        return head if head is None or _is_alive(head) else None

    async def put(self, path: str, content: Content, guard: Guard | None = None) -> Kept:
        """Keep ``content`` at ``path``. ``guard`` and errors as ``Engine.put``; a file that has
        expired is none to it.
        """
        self.check_condition(guard)
        key, record = self._scheme.key(path), record_of(content, self._clock.version(), _now_us())
        of_alive = guard and _of_alive(guard)
        if self.quotas is None or not self.quotas.covers(path):
            return await self._engine.put(key, record, of_alive)
        order = Order(self._engine.guards_are_free)
        put = partial(self._engine.put, key, record, order.seen_by(of_alive))
        return await self.quotas.keep(path, record.head, put, order)

    async def delete(self, path: str, guard: Guard | None = None) -> bool:
        """Remove the file at ``path``; return whether there was one that had not expired. See
        ``Engine.delete``, and ``put`` for ``guard``.
        """
        self.check_condition(guard)
        if self._lacking and await self.head(path) is None:
            # Not one that is said to be without effect, and then reaches the others.
            self._check_found()
        found: list[Head | None] = []

        def note(head: Head | None) -> None:
            found.append(head)
            if guard is not None:
                _of_alive(guard)(head)

        key = self._scheme.key(path)
        if self.quotas is None or not self.quotas.covers(path):
            was_there = await self._engine.delete(key, note)
        else:
            order = Order(self._engine.guards_are_free)
            delete = partial(self._engine.delete, key, order.seen_by(note))
            was_there = await self.quotas.drop(path, delete, order)
        last = found[-1] if found else None
        return was_there and (last is None or _is_alive(last))

    async def list(self, prefix: str, after: str, limit: int) -> list[Listed]:
        """Return up to ``limit`` files whose paths begin with ``prefix`` and come after ``after``.

        In byte order of the path; of its key, where stores speak the memcached protocol. Raises
        ``CannotList`` where the stores have no listing.
        """
        self._check_listed()
        prefix_key, after_key = map(self._scheme.prefix, (prefix, after))
        found: list[Listed] = []
        while len(found) < limit:
            wanted = limit - len(found)
            entries = await self._engine.scan(prefix_key, after_key, wanted)
            alive = [entry for entry in entries if _is_shown(entry.head)]
            found += [Listed(self._scheme.path(entry.key), entry.head) for entry in alive]
            if len(entries) < wanted:
                break
            after_key = entries[-1].key
        return found

    async def folder(self, path: str, after: str, limit: int) -> Sequence[Thing]:
        """Return up to ``limit`` things in the folder ``path`` ("" or ending with "/") whose names
        come after ``after``, in byte order of the names. A folder that is not there is empty.

        Raises ``CannotList``, ``NoStoreReachable``.
        """
        self._check_listed()
        prefix = self._scheme.prefix(path)
        # Not of the name alone: how a key begins is written in a way of its own.
        position = self._scheme.prefix(path + after).removeprefix(prefix)
        found: list[Thing] = []
        while len(found) < limit:
            wanted = limit - len(found)
            children = await self._engine.children(prefix, position, wanted)
            alive = [child for child in children if _is_shown(child.head)]
            found += [Thing(self._scheme.path(child.name), child.head) for child in alive]
            if len(children) < wanted:
                break
            position = children[-1].name
        return found

    def order(self, path: str) -> bytes:
        """Return what decides where ``path``, or how paths begin, stands in a listing."""
        return self._scheme.prefix(path)

    def check_condition(self, guard: Guard | None) -> None:
        """Raise ``NoStoreReachable`` where what ``guard`` is about may be with members that were
        not found yet.
        """
        if guard is not None:
            self._check_found()

    def _check_found(self) -> None:
        if self._lacking:
            raise NoStoreReachable({"other members": self._lacking})

    @property
    def _lacking(self) -> str:
        return "" if self.members is None else self.members.lacking

    def _check_listed(self) -> None:
        self._check_found()
        if not self._scheme.has_prefixes:
            reason = f"keys in {self._scheme.encoding} do not tell which paths are in a folder"
            raise CannotList("the stores", reason)

    async def stats(self) -> Mapping[str, Mapping[str, str]]:
        """Return the statistics of every store by address; see ``Engine.stats``."""
        return await self._engine.stats()

    async def health(self, timeout_s: float) -> Health:
        """Return how the stores are; see ``Engine.health``."""
        health = await self._engine.health(timeout_s)
        return health._replace(lacking=self._lacking or health.lacking)

    async def owing(self) -> Owing:
        """Return what stores still have to get; see ``Engine.owing``."""
        return await self._engine.owing()

    async def missing(self, after: bytes = b"", limit: int = 1000) -> Sequence[Missing]:
        """Return up to ``limit`` writes that stores still have to get, those behind ``after``."""
        path = self._scheme.path
        return [
            Missing(debt.address, path(debt.key) if debt.key else None, debt.version, place)
            for place, debt in await self._engine.missing(after, limit)
        ]

    def meant(self, error: SfssError) -> SfssError:
        """Return what ``error`` means: that there is nothing here says nothing as long as this
        gateway is still looking for the others.
        """
        if not self._lacking or not isinstance(error, NotFound):
            return error
        return NoStoreReachable({"other members": self._lacking})

    def debug(self) -> Mapping[str, object]:
        """Return counters of the engine by name; see ``Engine.debug``."""
        return self._engine.debug()

    async def close(self) -> None:
        """Finish what was begun and let go of every store."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._close()
        if self.quotas is not None:
            await self.quotas.close()
