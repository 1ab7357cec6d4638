"""The bucket behind objects, their origin, and the list of what it is owed.

What is owed of an object is to be made as its entry says, whatever that is by then: a debt says
only that the two may differ. It is noted before the bucket is changed, or could not be, and struck
off when both are known to say the same. Its version is the newest that may lie in the bucket by a
write of this gateway: so what such a write has left there, though it was never acknowledged, can be
told from what others have put.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from sfss.agreement import Debt, left_nothing, reason_of
from sfss.complaints import Complaints
from sfss.errors import Corrupt, NoStoreReachable, StoreError, Unreachable
from sfss.owed import Owed
from sfss.record import (
    Body,
    Head,
    Kind,
    Record,
    digest_of,
    digest_of_any,
    has_expired,
)
from sfss.stores.base import NewestStore, Store
from sfss.streams import in_spool_thread

UNLIMITED: Final = 1 << 62
"""Debts that there may be: beyond a limit it would not be known of which objects."""

_PAGE: Final = 100
_INLINE_SIZE: Final = 16 * 1024
_NO_DIGEST: Final = digest_of(b"")

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class _IsNewer(Exception):
    """Raised by a guard when the bucket has something newer than what is to go."""


class Origin:
    """Objects in ``store`` under their ids; what it is owed lies in ``debts``."""

    def __init__(self, store: NewestStore, debts: Store) -> None:
        self.address = store.address
        self._store, self._owed = store, Owed(debts, UNLIMITED)
        self._complaints = Complaints()

    async def get(self, object_id: str, now_us: int) -> Record | None:
        """Return what the bucket has under this id, None for nothing. Raises ``Unreachable``,
        ``Corrupt``.
        """
        record = await self._asked(self._store.get(object_id.encode()))
        return record if record is not None and _is_there(record.head, now_us) else None

    async def head(self, object_id: str, now_us: int) -> Head | None:
        """Return the same without the body."""
        head = await self._asked(self._store.head(object_id.encode()))
        return head if head is not None and _is_there(head, now_us) else None

    async def put(self, object_id: str, record: Record) -> Head | None:
        """Have the bucket keep ``record``, unless it has something newer: return the head of that.
        Raises ``Unreachable``, ``TooLarge``.
        """
        return await self._asked(self._store.set_newest(object_id.encode(), record))

    async def replace(self, object_id: str, record: Record, up_to: int) -> None:
        """Have the bucket keep ``record`` in place of anything that is not newer than the version
        ``up_to``. Raises ``Unreachable``, ``TooLarge``.
        """
        with suppress(_IsNewer):
            await self._asked(
                self._store.set(object_id.encode(), record, _unless_newer_than(up_to))
            )

    async def remove(self, object_id: str, up_to: int) -> None:
        """Have the bucket forget what is not newer than the version ``up_to``. Raises
        ``Unreachable``.
        """
        with suppress(_IsNewer):
            await self._asked(self._store.delete(object_id.encode(), _unless_newer_than(up_to)))

    async def _asked(self, answer: Awaitable[Result]) -> Result:
        try:
            found = await answer
        except StoreError as error:
            self._complaints.failed(self.address, error)
            raise
        self._complaints.answered(self.address)
        return found

    async def owe(self, key: bytes, version: int) -> Debt:
        """Note, durably, that the bucket may not be as the entry under ``key`` says. Raises
        ``StoreError``.
        """
        debt = Debt(self.address, key, version, version, _NO_DIGEST)
        await self._owed.add([debt])
        return debt

    async def owes(self, key: bytes) -> bool:
        """Tell whether it is noted already. Raises ``StoreError``."""
        return bool(await self._owed.owes(key, [self.address]))

    async def settle(self, debt: Debt) -> None:
        """Strike ``debt`` off, unless a newer one has come in its place."""
        try:
            await self._owed.settle(debt)
        except StoreError as error:
            _log.warning("it stays noted that the bucket is owed %r: %s", debt.key, error)

    async def failed(self, debt: Debt, was_owed: bool, error: Exception) -> None:
        """Take note that the write for which ``debt`` was noted has failed with ``error``."""
        if left_nothing(error) and not was_owed:
            await self.settle(debt)

    async def count(self) -> int:
        """Return how many objects the bucket is owed."""
        return await self._owed.count()

    async def page(self, after: bytes) -> list[Debt]:
        """Return some of what is owed, behind the place ``after``."""
        return await self._owed.of(self.address, after, _PAGE)

    async def close(self) -> None:
        """Close the bucket and the list."""
        await self._store.close()
        await self._owed.close()


async def digest_of_fetched(body: Body) -> bytes:
    """Return the digest of ``body``, without holding others up over a large one."""
    if len(body) <= _INLINE_SIZE:
        return digest_of_any(body)
    return await in_spool_thread(lambda: digest_of_any(body))


def neither(failure: StoreError | None, error: StoreError) -> StoreError:
    """Return the error for a body that the members do not give, because of ``failure`` or, None,
    for they do not have it; nor does the bucket, because of ``error``.
    """
    if failure is None or isinstance(failure, Corrupt):
        return error
    if isinstance(error, Corrupt):
        return failure
    reasons = {"of members": str(failure)}
    if isinstance(failure, NoStoreReachable):
        reasons = dict(failure.failures)
    bucket = error.store if isinstance(error, Unreachable) else "of the bucket"
    return NoStoreReachable({**reasons, bucket: reason_of(error)})


def _is_there(head: Head, now_us: int) -> bool:
    return head.kind is Kind.FILE and not has_expired(head, now_us)


def _unless_newer_than(up_to: int) -> Callable[[Head | None], None]:
    def guard(found: Head | None) -> None:
        if found is not None and found.version > up_to:
            raise _IsNewer

    return guard
