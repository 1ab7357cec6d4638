"""The contract of a store: one place that keeps records under keys.

``tests/stores/test_contract.py`` runs on every store. ``None`` and ``False`` mean that the store
was asked and said no; when it could not be asked, ``Unreachable`` is raised. A write that returns
has been acknowledged by the store. An operation that is cancelled or times out leaves the store
usable and harms no other operation.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from sfss.agreement import rank
from sfss.record import Buffer, Form, Head, Kind, Record

Guard: TypeAlias = Callable[[Head | None], None]
"""Called with the head of what a key holds (None: nothing) just before it is changed; raises to
forbid the change.
"""


class HasNewer(Exception):
    """Raised by a guard that keeps what is there, which has ``head``."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head


def unless_newer(own: Head) -> Guard:
    """Return a guard that lets a record with ``own`` take the place of nothing newer; it raises
    ``HasNewer``.
    """

    def guard(found: Head | None) -> None:
        if found is not None and rank(found) > rank(own):
            raise HasNewer(found)

    return guard


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a listing; ``head`` is None where it is damaged, so that nobody can tell it."""

    key: bytes
    head: Head | None


class Store(Protocol):
    """One place that keeps records. ``address`` names it in answers, errors and logs."""

    address: str
    head_is_cheap: bool
    """Whether ``head`` leaves the body where it is."""

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key`` with its digest checked, or None if there is none.

        Raises ``Corrupt``, ``Unreachable``.
        """

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``, or None if there is none. The body is not
        held against its digest, and where the store can, it is not read.

        Raises ``Corrupt``, ``Unreachable``.
        """

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``, replacing what was there. When it returns, the record is
        kept.

        Raises what ``guard`` raises, ``TooLarge``, ``StoreFull``, ``Unreachable``.
        """

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``; return whether it was there. Raises what ``guard`` raises, ``StoreFull``,
        ``Unreachable``.
        """

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries whose keys begin with ``prefix`` and are greater than
        ``after``, in byte order. What is damaged is there, too, without a head.

        Raises ``CannotList``.
        """

    async def stats(self) -> Mapping[str, str]:
        """Return the store's statistics under the names of the memcached STATS command; raises
        ``Unreachable``.
        """

    async def close(self) -> None:
        """Finish what was begun and let go of files and connections."""


class NewestStore(Store, Protocol):
    """A store that can be one of several with copies of a key: it keeps the newest."""

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is something newer (``agreement.rank``): return the head of
        that, None if ``record`` was kept.

        Raises as ``set``; ``Corrupt`` when what is there is newer by its header, and damaged, so
        that ``record`` was not kept. A store that does not look beyond the header may return that.
        """


@runtime_checkable
class ForgetfulStore(NewestStore, Protocol):
    """A store that forgets what others have: it may have had something newer than it is brought."""

    def moment(self, key: bytes) -> int:
        """Return a number that is another when what was forgotten since may have been ``key``; one
        that was never returned where it cannot tell. To be taken before another store is asked.
        """

    async def set_newest_since(self, key: bytes, record: Record, moment: int) -> Head | None:
        """Keep ``record``, which was found elsewhere after ``moment``, as ``set_newest`` does, but
        not if something as new may have been forgotten since: return a head of that version.
        """

    async def forget(self, key: bytes, head: Head) -> Head | None:
        """Forget what is under ``key`` unless it is newer than ``head``, which another store has:
        return the head of that. What was found elsewhere before this is not kept any more.

        Raises as ``delete``.
        """


@runtime_checkable
class LimitedStore(Protocol):
    """A store that does not take records of any size."""

    async def room(self) -> int:
        """Return how many bytes a record may have, whatever its key is: as the store has said,
        now or before.

        Raises ``Unreachable``.
        """


_ROOM_WITHIN_S: Final = 0.25
"""Seconds for which stores are waited for that have not said yet how much they take."""


async def least_room(stores: Iterable[Store]) -> int | None:
    """Return how many bytes a record may have so that all ``stores`` take it which say that within
    a moment; None where none does.
    """
    asked = [
        asyncio.ensure_future(store.room()) for store in stores if isinstance(store, LimitedStore)
    ]
    if not asked:
        return None
    try:
        await asyncio.wait(asked, timeout=_ROOM_WITHIN_S)
    finally:
        for task in asked:
            task.cancel()
    said = await asyncio.gather(*asked, return_exceptions=True)
    return min((room for room in said if isinstance(room, int)), default=None)


async def failures_of(stores: Iterable[Store], timeout_s: float) -> dict[str, str]:
    """Return why ``stores`` do not answer within ``timeout_s``, by address; "" of those that do."""
    asked = {store.address: asyncio.ensure_future(store.stats()) for store in stores}
    try:
        if asked:
            await asyncio.wait(asked.values(), timeout=timeout_s)
    finally:
        for task in asked.values():
            task.cancel()
            task.add_done_callback(_drop)  # what it still says is not waited for
    return {address: _why(task, timeout_s) for address, task in asked.items()}


def _drop(task: "asyncio.Future[Mapping[str, str]]") -> None:
    if not task.cancelled():
        task.exception()


def _why(task: "asyncio.Future[Mapping[str, str]]", timeout_s: float) -> str:
    if not task.done() or task.cancelled():
        return f"no answer within {timeout_s:g} s"
    error = task.exception()
    return "" if error is None else str(error) or repr(error)


_CHILDREN_AT_ONCE: Final = 64


Use: TypeAlias = Callable[[Buffer | None, Form], None]
"""Called with an item as it lies in the store, and what it is. The bytes may be used only during
the call. None: the store has nothing, or could not tell. It must not raise.
"""


@runtime_checkable
class ViewableStore(Protocol):
    """A store that can also show what it has without a task or a future: for the hot path.

    What goes wrong is not told; ``get`` finds it again, and says it.
    """

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called once with the item under ``key``, now or in a later turn of the event
        loop; return False, and never call it, where that is not possible now.

        The item is not decoded: neither header nor digest have been checked.
        """

    def state(self) -> int:
        """Return a number that is another after every change that anybody has made to the store;
        0 where it cannot tell, which says nothing of another 0.
        """


class Child(NamedTuple):
    """One thing in a folder: a file with its ``head``, None where that is damaged; or a folder.

    ``name`` is what stands behind the prefix: of a folder, and of no file, it ends with "/".
    """

    name: bytes
    head: Head | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith(b"/")


@runtime_checkable
class BrowsableStore(Protocol):
    """A store whose keys are paths, and which can show them folder by folder."""

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return up to ``limit`` things in the folder ``prefix`` ("" or ending with "/") whose
        names are greater than ``after``, in byte order of the names. Tombstones are left out;
        a folder that holds nothing but tombstones may be shown.

        A folder that is not there has nothing in it. Raises ``Unreachable``.
        """


Children: TypeAlias = Callable[[bytes, bytes, int], Awaitable[Sequence[Child]]]
"""As ``BrowsableStore.children``."""

Scan: TypeAlias = Callable[[bytes, bytes, int], Awaitable[Sequence[Entry]]]
"""As ``Store.scan``."""


async def children_of(scan: Scan, prefix: bytes, after: bytes, limit: int) -> list[Child]:
    """Return what ``BrowsableStore.children`` does, of a store that can ``scan``.

    Of what lies below a folder one entry is looked at, not all.
    """
    found: list[Child] = []
    position = prefix + _behind(after)
    while len(found) < limit:
        entries = await scan(prefix, position, min(limit - len(found), _CHILDREN_AT_ONCE))
        for entry in entries:
            if entry.key <= position:
                continue  # in a folder that was found just now
            name, slash, _ = entry.key[len(prefix) :].partition(b"/")
            if slash:
                found.append(Child(name + slash, None))
            elif entry.head is None or entry.head.kind is not Kind.TOMBSTONE:
                found.append(Child(name, entry.head))
            position = _behind(entry.key[: len(prefix) + len(name) + len(slash)])
        if not entries:
            break
    return found[:limit]


async def scan_of(children: Children, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
    """Return what ``Store.scan`` does, of a store that can show its ``children``.

    Folders are looked into in the byte order of their names, which with their "/" is the order of
    the keys below them.
    """
    found: list[Entry] = []
    after = max(after, prefix[:-1]) if prefix.endswith(b"/") else after
    async for entry in _walk(children, _folder_of(prefix), after):
        if entry.key.startswith(prefix) and entry.key > after:
            found.append(entry)
        elif entry.key > prefix and not entry.key.startswith(prefix):
            break
        if len(found) >= limit:
            break
    return found[:limit]


def _folder_of(prefix: bytes) -> bytes:
    return prefix[: prefix.rfind(b"/") + 1]


async def _walk(children: Children, folder: bytes, after: bytes) -> AsyncIterator[Entry]:
    """Yield what is below ``folder`` in byte order, from about ``after`` on."""
    # Where a folder lies on the way to "after", that is the first to be looked into.
    position = b""
    if after.startswith(folder):
        name, slash, _ = after[len(folder) :].partition(b"/")
        if slash:
            async for entry in _walk(children, folder + name + slash, after):
                yield entry
        position = name + slash
    while found := await children(folder, position, _CHILDREN_AT_ONCE):
        for child in found:
            if not child.is_folder:
                yield Entry(folder + child.name, child.head)
            else:
                async for entry in _walk(children, folder + child.name, b""):
                    yield entry
        position = found[-1].name


def _behind(position: bytes) -> bytes:
    # No path has this byte, which is never a part of UTF-8: all that a folder holds comes before.
    return position + b"\xff" if position.endswith(b"/") else position


KEYS_LIMIT: Final = 1000
"""Most keys in one batch of ``ListingStore.keys``."""


class Stamped(NamedTuple):
    """One key of all that a store holds. Two stores that give the same ``stamp`` for a key have the
    same record; None says nothing.
    """

    key: bytes
    stamp: int | None


@runtime_checkable
class ListingStore(Protocol):
    """A store that can tell every key that it holds, in no order that anybody may rely on."""

    def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all keys, whoever wrote them, in batches of at most ``KEYS_LIMIT``.

        A key that is there all the while comes at least once; one that comes or goes meanwhile may
        be left out, and so may one whose record is too damaged to be read. Only when the iteration
        ends of itself was that all: a list that is cut off raises. Memory is bounded. Whoever does
        not iterate to the end calls ``aclose``, or lets go of the iterator.

        Raises ``CannotList``, ``Unreachable``.
        """
