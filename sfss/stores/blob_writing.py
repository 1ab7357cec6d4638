"""Changes of what lies on a blob server of SOS: blobs, and the marks that stand for what it cannot
keep.

A blob comes first and its mark after it, a deletion likewise: what a crash leaves between the two
was told to nobody.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from sfss.blob_ids import is_digest
from sfss.errors import CannotTell, Corrupt, StoreFull, TooLarge, Unreachable
from sfss.record import VERSION_LIMIT, Head, Kind, Record
from sfss.stores.blob_fields import Shown, fields_of
from sfss.stores.blob_reading import (
    ALL,
    HIDES,
    NONE,
    UNKNOWN_METHOD,
    Reader,
    id_in,
    place_of,
)
from sfss.stores.marks import Marks

_KEPT: Final = frozenset({200, 201, 204})
_NOT_DELETED: Final = NONE | UNKNOWN_METHOD | {409}
_ABOVE_ALL: Final = b"\xff" * 16


class Removal(NamedTuple):
    """What a DELETE has done: whether there was a blob, and whether it ``stays``."""

    was_there: bool
    stays: bool = False


class Writer:
    """Changes what the server of ``reader`` has. Whoever calls takes care that one key is changed
    by one caller at a time.
    """

    def __init__(self, reader: Reader, marks: Marks) -> None:
        self._reader, self._marks = reader, marks
        self._node = reader.node

    async def keep(self, key: bytes, record: Record) -> None:
        """Keep ``record``, blob or tombstone. Raises as ``Store.set``."""
        if record.head.kind is Kind.TOMBSTONE:
            removal = await self._removed(key)
            names = {HIDES: ""} if removal.stays else record.head.metadata
            with _begun():
                await self._marks.set(key, record.head._replace(metadata=names))
            return
        may_be_there = True
        with suppress(CannotTell):
            may_be_there = await self._reader.found(key) is not None
        await self._post(key, record)
        with _begun():
            if await self._is_kept(key, record.head, may_be_there):
                return
            # Some servers keep what they had, sound or not.
            await self._removed(key)
            await self._post(key, record)
            if not await self._is_kept(key, record.head, True):
                address = self._node.address
                raise Corrupt(address, key, "the blob that it was sent", "another, which it keeps")

    async def forget(self, key: bytes) -> bool:
        """Remove blob and mark; return whether there was either. A blob that stays is hidden."""
        removal = await self._removed(key)
        with _begun():
            mark = await self._marks.get(key)
            is_deleted = mark is not None and mark.kind is Kind.TOMBSTONE
            if removal.stays:
                await self._marks.set(key, await self._hiding(key))
            elif mark is not None:
                await self._marks.delete(key, mark)
            was_shown = is_deleted and mark is not None and mark.metadata.get(HIDES) != ALL
            return was_shown or removal.was_there

    async def _hiding(self, key: bytes) -> Head:
        """Return the mark that hides what the server still has, and all that is older."""
        version = 0
        try:
            shown = await self._reader.shown(key)
            if shown is not None and shown.carried is not None:
                version = shown.carried.version
        except Corrupt:
            version = VERSION_LIMIT
        return Head(version, 0, _ABOVE_ALL, Kind.TOMBSTONE, metadata={HIDES: ALL})

    async def _removed(self, key: bytes) -> Removal:
        with suppress(CannotTell):  # it may be behind the server, which passes it on
            if await self._reader.found(key) is None:
                return Removal(False)
        answer = await self._node.ask("DELETE", place_of(key), changes=True)
        answer.close()
        if answer.status not in _KEPT | _NOT_DELETED:
            raise self._node.unexpected("DELETE", answer.status, _applied(answer.status))
        with _begun():
            try:
                stays = await self._reader.found(key) is not None
            except CannotTell:
                if answer.status not in _KEPT:
                    raise
                stays = False
        return Removal(answer.status not in NONE or stays, stays)

    async def _post(self, key: bytes, record: Record) -> None:
        size = len(record.body)
        kind = "Content-Type: application/octet-stream\r\n"
        fields = f"{fields_of(record.head)}{kind}Content-Length: {size}\r\n"
        answer = await self._node.ask("POST", place_of(key), fields, record.body, changes=True)
        answer.close()
        if answer.status in _KEPT:
            return
        if answer.status in (413, 431):
            raise TooLarge(size, None, self._node.address)
        if answer.status == 507:
            raise StoreFull(self._node.address, "it answered 507")
        raise self._node.unexpected("POST", answer.status, _applied(answer.status))

    async def _is_kept(self, key: bytes, head: Head, was_there: bool) -> bool:
        """Tell whether the server shows the blob with ``head`` that it has just taken; where it
        shows the right bytes alone, ``head`` is marked.
        """
        mark = await self._marks.get(key)
        try:
            shown = await self._looked_at(key, head, was_there)
        except CannotTell:
            shown = Shown(head.size, head.metadata, head)  # it has others behind it, and took it
        except Corrupt:
            return False
        if shown is None:
            return False
        if _is_written(shown, head):
            if mark is not None:
                await self._marks.delete(key, mark)
            return True
        if is_digest(id_in(key)):
            await self._marks.set(key, head)
            return True
        return False

    async def _looked_at(self, key: bytes, head: Head, was_there: bool) -> Shown | None:
        """Return what the server shows, None if that is another blob."""
        shown = None if was_there else await self._reader.shown(key)
        if shown is None or shown.size is None:
            whole = await self._reader.whole(key)
            if whole is None or whole.digest != head.digest:
                return None
            shown = whole.shown
        return shown if shown.size == head.size else None


def _is_written(shown: Shown, head: Head) -> bool:
    if shown.carried is None:
        return head.version == 0 and dict(shown.names) == dict(head.metadata)
    return shown.carried == head


@contextmanager
def _begun() -> Iterator[None]:
    """What fails in the block comes after a change: nobody can tell that nothing was done."""
    try:
        yield
    except Unreachable as error:
        raise Unreachable(error.store, error.reason, None) from error


def _applied(status: int) -> bool | None:
    """Return what a refusal says of a change, as in ``Unreachable``."""
    return None if status >= 500 else False
