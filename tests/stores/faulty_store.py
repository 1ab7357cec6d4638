"""A store that fails as a plan says, around one that does not."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Any, TypeAlias

from sfss.agreement import rank
from sfss.errors import CannotTell, StoreFull, Unreachable
from sfss.record import Head, Record
from sfss.stores.base import Entry, Guard
from tests.stores.dict_store import DictStore


class Fault(Enum):
    """What can go wrong with one operation."""

    REFUSE = auto()
    """It fails, and nothing was done."""
    LOSE_ANSWER = auto()
    """It is done, and fails."""
    HANG = auto()
    """Nothing comes until it times out; it is done when the store goes on (``resume``)."""
    LATE = auto()
    """It is done, and answered, after ``late_s``."""
    CORRUPT = auto()
    """What is there afterwards is damaged; of a get, what was there before."""
    FULL = auto()
    """There is no room."""
    UNSURE = auto()
    """It cannot tell where it has nothing."""


Plan: TypeAlias = Callable[[str, bytes], Fault | None]
"""Called with ``get``, ``set`` or ``delete`` and the key; returns what goes wrong."""


def healthy(operation: str, key: bytes) -> None:
    """Plan nothing."""


def always(fault: Fault) -> Plan:
    """Return a plan by which everything fails."""
    return lambda operation, key: fault


def at(operation: str, fault: Fault) -> Plan:
    """Return a plan by which one kind of operation fails."""
    return lambda asked, key: fault if asked == operation else None


class FaultyStore:
    """``inner``, but for what ``plan`` says. A test may change the plan and ``inner.values``.

    ``asked`` lists the operations. Every operation has places where it can be cancelled, before
    and after it is done. ``two_steps``: a guard is called with the header that a get returns, and
    the change follows, as on servers of the memcached protocol.
    """

    def __init__(
        self,
        inner: DictStore,
        plan: Plan = healthy,
        *,
        timeout_s: float = 2.0,
        late_s: float = 1.0,
        two_steps: bool = False,
    ) -> None:
        self.inner, self.plan, self.address = inner, plan, inner.address
        self.head_is_cheap = inner.head_is_cheap
        self.timeout_s, self.late_s, self.two_steps = timeout_s, late_s, two_steps
        self.asked: list[tuple[str, bytes]] = []
        self._stuck: list[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = []

    async def get(self, key: bytes) -> Record | None:
        """See ``Store.get``."""
        found = await self._do("get", key, lambda: self.inner.get(key), applied=False)
        assert found is None or isinstance(found, Record)
        return found

    async def head(self, key: bytes) -> Head | None:
        """See ``Store.head``; to a plan it is a ``get``."""
        found = await self._do("get", key, lambda: self.inner.head(key), applied=False)
        assert found is None or isinstance(found, Head)
        return found

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """See ``Store.set``."""
        guard = await self._guarded(key, guard)
        await self._do("set", key, lambda: self.inner.set(key, record, guard))

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """See ``NewestStore``; to a plan it is a ``set``."""
        if self.two_steps:
            return await self._set_newest_in_two_steps(key, record)
        newer = await self._do("set", key, lambda: self.inner.set_newest(key, record))
        assert newer is None or isinstance(newer, Head)
        return newer

    async def _set_newest_in_two_steps(self, key: bytes, record: Record) -> Head | None:
        found = await self._seen(key)
        if found is not None and rank(found) > rank(record.head):
            return found
        await self._do("set", key, lambda: self.inner.set(key, record))
        return None

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """See ``Store.delete``."""
        guard = await self._guarded(key, guard)
        return bool(await self._do("delete", key, lambda: self.inner.delete(key, guard)))

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """See ``Store.scan``: never at fault."""
        return await self.inner.scan(prefix, after, limit)

    async def stats(self) -> Mapping[str, str]:
        """See ``Store.stats``: never at fault."""
        return await self.inner.stats()

    async def close(self) -> None:
        """Close ``inner``."""
        await self.inner.close()

    async def resume(self) -> None:
        """End the plan, and do, in their order, all operations that hang: those too that nobody
        waits for any more.
        """
        self.plan = healthy
        stuck, self._stuck = self._stuck, []
        for act, future in stuck:
            try:
                answer = await act()
                if not future.done():
                    future.set_result(answer)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)

    def damage(self, key: bytes) -> None:
        """Flip a bit of the last byte of what ``inner`` has under ``key``, if anything."""
        value = self.inner.values.get(key)
        if value:
            self.inner.values[key] = value[:-1] + bytes([value[-1] ^ 1])

    async def _guarded(self, key: bytes, guard: Guard | None) -> Guard | None:
        """Return the guard that is left to be called together with the change."""
        if guard is None or not self.two_steps:
            return guard
        guard(await self._seen(key))
        return None

    async def _seen(self, key: bytes) -> Head | None:
        async def look() -> Head | None:
            return self.inner.header(key)

        found = await self._do("get", key, look, applied=False)
        assert found is None or isinstance(found, Head)
        return found

    async def _do(
        self,
        operation: str,
        key: bytes,
        act: Callable[[], Awaitable[Any]],
        applied: bool | None = None,
    ) -> Any:
        self.asked.append((operation, key))
        fault = self.plan(operation, key)
        await asyncio.sleep(0)
        if fault is Fault.REFUSE:
            raise Unreachable(self.address, "refused", applied=False)
        if fault is Fault.FULL:
            raise StoreFull(self.address, "no room")
        if fault is Fault.HANG:
            return await self._hang(act, applied)
        if fault is Fault.LATE:
            await asyncio.sleep(self.late_s)
        if fault is Fault.CORRUPT and operation == "get":
            self.damage(key)
        answer = await act()
        if fault is Fault.UNSURE and answer is None:
            raise CannotTell(self.address)
        if fault is Fault.CORRUPT:
            self.damage(key)
        await asyncio.sleep(0)
        if fault is Fault.LOSE_ANSWER:
            raise Unreachable(self.address, "the answer was lost", applied)
        return answer

    async def _hang(self, act: Callable[[], Awaitable[Any]], applied: bool | None) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._stuck.append((act, future))
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timeout_s):
                return await future
        raise Unreachable(self.address, f"no answer within {self.timeout_s:g} s", applied)
