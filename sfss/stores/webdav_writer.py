"""Changes to one HTTP node: PUT, DELETE, and the marks that go with them.

A file comes first and its mark after it: what a crash leaves between the two is a file whose head
nobody knows, which is served as if another program had written it. A deletion likewise: the memory
of it comes last, and until then nobody was told that the file is gone.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sfss.errors import (
    CannotTell,
    PathTaken,
    SfssError,
    StoreError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.http_text import http_date
from sfss.record import Head, Kind, Record
from sfss.stores.marks import Marks
from sfss.stores.plain_heads import SECOND_US, is_about
from sfss.stores.webdav_node import SLASH, File, Node

_MODIFIED: Final = " modified"
"""In a mark: the second that the node gave the file, where it does not take ours."""

_LONG_AGO_S: Final = 1_000_000_000
"""In 2001: no clock of a node shows it."""

_KEPT: Final = frozenset({200, 201, 204})


def head_in(mark: Head | None, file: File) -> Head | None:
    """Return the head that is marked, if it is about ``file``."""
    return None if mark is None or not _is_of(mark, file) else bare(mark)


def bare(mark: Head) -> Head:
    """Return the head that was marked, without what a mark says beside it."""
    if _MODIFIED not in mark.metadata:
        return mark
    names = {name: text for name, text in mark.metadata.items() if name != _MODIFIED}
    return mark._replace(metadata=names)


def _is_of(mark: Head, file: File) -> bool:
    if file.digest and file.digest != mark.digest:
        return False
    text = mark.metadata.get(_MODIFIED)
    if text is None:
        return is_about(mark, file.size, file.modified_s * SECOND_US, SECOND_US)
    return mark.kind is Kind.FILE and (mark.size, text) == (file.size, str(file.modified_s))


@dataclass(slots=True)
class _Change:
    """What is to be kept, and whether the node has done some of it."""

    key: bytes
    record: Record
    has_begun: bool = False


class Writer:
    """Changes what ``node`` has. Whoever calls takes care that one key is changed by one caller
    at a time.
    """

    def __init__(self, node: Node, marks: Marks) -> None:
        self._node, self._marks = node, marks
        self._takes_dates: bool | None = None
        self._learning = asyncio.Lock()

    async def keep(self, key: bytes, record: Record) -> None:
        """Keep ``record``, file or tombstone. Raises as ``Store.set``."""
        change = _Change(key, record)
        try:
            if record.head.kind is Kind.TOMBSTONE:
                change.has_begun = await self.remove(key)
                await self._marks.set(key, record.head)
            else:
                await self._keep_file(change)
        except Unreachable as error:
            if change.has_begun:
                raise Unreachable(error.store, error.reason, None) from error
            raise

    async def _keep_file(self, change: _Change) -> None:
        key, record = change.key, change.record
        takes_dates = await self._learn(change)
        file = File(record.head.size, record.head.version // SECOND_US)
        mark = await self._marks.get(key)
        may_fit = mark is not None and (_is_of(mark, file) or not takes_dates)
        if mark is not None and may_fit and mark != record.head and mark.size == file.size:
            # It would be taken for the mark of the new file, and that for damaged.
            await self._marks.delete(key, mark)
        await self._put(change, file.modified_s)
        await self._marks.set(key, record.head if takes_dates else await self._dated(key, record))

    async def remove(self, key: bytes) -> bool:
        """Remove the file under ``key``, and no folder; return whether it was there."""
        with suppress(CannotTell):  # it may be behind the node, which passes it on
            if await self._node.look(key) is None:
                return False
        answer = await self._node.ask("DELETE", key, changes=True)
        answer.close()
        if answer.status in (200, 204):
            return True
        if answer.status in (404, 410):
            return False
        raise self._node.unexpected("DELETE", answer.status, _applied(answer.status))

    async def _learn(self, change: _Change) -> bool:
        """Return whether the node gives a file the time that it is told.

        It is tried once, with the file itself: with any other, listings would show what nobody
        stored. The time tried is no node's own, which ours may be.
        """
        async with self._learning:
            if self._takes_dates is None:
                await self._put(change, _LONG_AGO_S)
                found = await self._shown(change.key, change.record)
                self._takes_dates = found.modified_s == _LONG_AGO_S
            return self._takes_dates

    async def _dated(self, key: bytes, record: Record) -> Head:
        """Return what is to be marked of a file on a node that goes by its own clock."""
        found = await self._shown(key, record)
        names = {**record.head.metadata, _MODIFIED: str(found.modified_s)}
        return record.head._replace(metadata=names)

    async def _shown(self, key: bytes, record: Record) -> File:
        found = await self._node.look(key)
        if found is None or found.size != record.head.size:
            reason = "it does not show the file that it has just taken"
            raise Unreachable(self._node.address, reason, None)
        return found

    async def _put(self, change: _Change, modified_s: int) -> None:
        key, record = change.key, change.record
        status = await self._put_once(key, record, modified_s)
        if status == 409 and await self._make_folders(key):
            status = await self._put_once(key, record, modified_s)
        if status not in _KEPT:
            raise await self._refusal(status, key, record)
        change.has_begun = True

    async def _put_once(self, key: bytes, record: Record, modified_s: int) -> int:
        fields = f"Date: {http_date(modified_s)}\r\nContent-Length: {len(record.body)}\r\n"
        answer = await self._node.ask("PUT", key, fields, record.body, changes=True)
        answer.close()
        return answer.status

    async def _make_folders(self, key: bytes) -> bool:
        """Make the folders on the way to ``key``; return whether there are any."""
        names = key.split(SLASH)[:-1]
        for count in range(len(names)):
            folder = SLASH.join(names[: count + 1]) + SLASH
            answer = await self._node.ask("MKCOL", folder, "Content-Length: 0\r\n", changes=True)
            answer.close()
            if answer.status not in (201, 405):  # made now, or before
                break
        return bool(names)

    async def _is_below_a_file(self, key: bytes) -> bool:
        """Tell whether a file has the name of a folder on the way to ``key``, as far as can be
        seen: to nginx, that is an error of its own.
        """
        names = key.split(SLASH)
        with suppress(StoreError):
            for count in range(1, len(names)):
                if await self._node.look(SLASH.join(names[:count])) is not None:
                    return True
        return False

    async def _refusal(self, status: int, key: bytes, record: Record) -> SfssError:
        address = self._node.address
        if status == 413:
            return TooLarge(len(record.body), None, address)
        if status == 507:
            return StoreFull(address, "it answered 507")
        if status in (405, 409):
            return PathTaken(address, key.decode(), "a folder has that name")
        if status == 500 and await self._is_below_a_file(key):
            return PathTaken(address, key.decode(), "a file has the name of its folder")
        return self._node.unexpected("PUT", status, _applied(status))


def _applied(status: int) -> bool | None:
    """Return what a refusal says of a change, as in ``Unreachable``: a node with others behind it,
    which fails, may have made it.
    """
    return None if status >= 500 else False
