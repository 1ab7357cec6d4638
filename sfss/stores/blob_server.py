"""A store on a blob server of SOS: it keeps blobs under their ids, and knows neither versions nor
conditions nor deletions.

Only paths of blobs (``blob_ids``) are keys here. What such a server is relied on for:

    GET /alive         200
    GET /blobs         all ids, as one JSON array
    POST /blob/ID      keeps the body, and the fields of the request that begin with ``X-``
    GET /blob/ID       the body, with those fields; 404: there is none. HEAD too, where it has that

The head of a record goes along as such a field (``blob_fields``). A blob without, which a client of
SOS has written, is raw: its version is 0, its digest that of its body; so it has the same head on
all servers, and loses to what was written here. A body is held against its id whenever it is read,
and for the head of a raw blob it is read once.

Servers differ in what they do with an id that they have: some keep what they had. What was there
before is read again after a POST; if it has the right bytes and another head, that which it should
have is a mark of the gateway (``marks``). So is the memory of a deletion. SOS has no DELETE: where
the blob is still there after one, the mark says so, and hides it. Elsewhere a blob that is there
counts, whatever is remembered, for somebody has put it there again.

Changes of one key take turns (``key_locks``) among the processes of a gateway.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Final

from sfss.agreement import rank
from sfss.blob_ids import PREFIX, path_of
from sfss.checks import BLOBS
from sfss.config import WebdavSettings
from sfss.errors import CannotTell, Corrupt
from sfss.items import unique_of
from sfss.record import Head, Kind, Record
from sfss.stores.base import Child, Entry, Guard, Stamped, scan_of
from sfss.stores.blob_fields import ANSWER_HEAD_LIMIT
from sfss.stores.blob_listing import Listing
from sfss.stores.blob_reading import OnlyTheBody, Reader, id_in
from sfss.stores.blob_writing import Writer
from sfss.stores.key_locks import KeyLocks
from sfss.stores.marks import Marks
from sfss.stores.plain_heads import raw_file_head
from sfss.stores.webdav_node import Node
from sfss.turns import Background

_FOLDER: Final = PREFIX.encode()
_TURN_PATIENCE_S: Final = 30.0
_HEADS_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


class BlobServerStore:
    """Blobs on the server at ``address``, "blobs:http://host:port/"; the Store contract.

    ``marks`` are this store's; ``locks`` those of all processes that share the marks, without them
    this process is taken to be alone. Both stay open when it is closed. Bodies of over 1 MiB are
    kept in ``spool_folder`` while they are read, by default that of temporary files. All methods
    raise ``BadPath`` for a key that is no path of a blob. Raises ``SettingError`` for an address of
    another form.
    """

    head_is_cheap = True

    def __init__(
        self,
        address: str,
        marks: Marks,
        settings: WebdavSettings,
        spool_folder: Path | None = None,
        locks: KeyLocks | None = None,
    ) -> None:
        self.address = address
        self._marks = marks
        # What names the client would be kept with each blob: it begins with "X-".
        url = address.removeprefix(BLOBS)
        self._node = Node(address, settings, url, False, ANSWER_HEAD_LIMIT)
        spool_folder = spool_folder or Path(gettempdir())
        self._listing = Listing(self._node, spool_folder)
        self._reader = Reader(self._node, marks, spool_folder)
        self._writer = Writer(self._reader, marks)
        self._changes = Background()
        self._locks, self._lock_prefix = locks or KeyLocks(None), address.encode() + b" "

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``, or None; see ``Store.get``."""
        found = await self._reader.read(key)
        return None if found is None else Record(*found)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``, or None; see ``Store.head``. Of a raw blob
        the body is read, once for many times.
        """
        try:
            return await self._reader.look(key)
        except OnlyTheBody:
            found = await self._reader.read(key)
            return None if found is None else found[0]

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``; see ``Store.set``."""
        id_in(key)
        await self._changes.make(self._set(key, record, guard))

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is a newer one; see ``NewestStore``. Bodies are not looked
        at: what is newer and damaged is returned.
        """
        id_in(key)
        return await self._changes.make(self._set_newest(key, record))

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``, blob and mark; return whether it was there; see ``Store.delete``."""
        id_in(key)
        return await self._changes.make(self._delete(key, guard))

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries in byte order, tombstones left out; see ``Store.scan``, ``children``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore.children``. Of raw blobs that
        have not been read neither size nor digest are told. Raises ``CannotList``, ``CannotTell``.
        """
        if prefix in (b"", _FOLDER):
            folders = await self._listing.folders(anew=not after)
            names = [each + b"/" for each in folders] if prefix else [_FOLDER][: len(folders)]
            return [Child(name, None) for name in names if name > after][:limit]
        folder = prefix.removeprefix(_FOLDER).removesuffix(b"/")
        if prefix != b"%b%b/" % (_FOLDER, folder) or not 0 < len(folder) <= 2:
            return []
        return await self._blobs_in(folder, after, limit)

    async def _blobs_in(self, folder: bytes, after: bytes, limit: int) -> list[Child]:
        found: list[Child] = []
        start = max(folder, after + b"\0") if after else folder
        while len(found) < limit:
            listed = await self._listing.page(start, min(limit - len(found), _HEADS_AT_ONCE))
            ids = [each for each in listed if each[:2] == folder]
            for shown in await asyncio.gather(*map(self._shown, ids)):
                found += shown
            if not ids or len(ids) < len(listed):
                break
            start = ids[-1] + b"\0"
        return found

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all blobs, and what is remembered as deleted; see ``ListingStore.keys``. Raw blobs
        that have not been read have no stamps. Raises as ``children``.
        """
        async for ids in self._listing.all():
            for first in range(0, len(ids), _HEADS_AT_ONCE):
                yield await self._stamps([_key_of(each) for each in ids[first:][:_HEADS_AT_ONCE]])
        async for marks in self._marks.all():
            deleted = [key for key, mark in marks if mark.kind is Kind.TOMBSTONE]
            for first in range(0, len(deleted), _HEADS_AT_ONCE):
                yield await self._stamps(deleted[first : first + _HEADS_AT_ONCE])

    async def _stamps(self, keys: Sequence[bytes]) -> list[Stamped]:
        heads = await asyncio.gather(*(self._listed(key) for key in keys))
        return [
            Stamped(key, unique_of(head) if head.version or self._reader.is_known(key) else None)
            for key, head in zip(keys, heads, strict=True)
            if head is not None
        ]

    async def _shown(self, blob_id: bytes) -> list[Child]:
        try:
            head = await self._look(_key_of(blob_id))
        except Corrupt as error:
            _log.warning("in a list: %s", error)
            return [Child(blob_id, None)]
        return [Child(blob_id, head)] if head is not None and head.kind is Kind.FILE else []

    async def _look(self, key: bytes) -> Head | None:
        try:
            return await self._reader.look(key)
        except OnlyTheBody:
            return raw_file_head(0, 0)

    async def _listed(self, key: bytes) -> Head | None:
        """Return the head of what was listed, or None: it is not to be seen, or is damaged."""
        try:
            return await self._look(key)
        except Corrupt as error:
            _log.warning("left out of a list: %s", error)
            return None

    async def stats(self) -> Mapping[str, str]:
        """Return the ``version``: what the server says that it is, if it is alive."""
        answer = await self._node.ask("GET", b"alive")
        answer.close()
        if answer.status != 200:
            raise self._node.unexpected("/alive", answer.status, False)
        server = answer.head.fields.get(b"server", b"unknown")
        return {"version": server.decode("latin-1")}

    async def close(self) -> None:
        """Wait for what is being asked, and close every connection."""
        await self._changes.finish()
        await self._node.pool.close()

    async def _set(self, key: bytes, record: Record, guard: Guard | None) -> None:
        async with self._turn(key):
            if guard is not None:
                guard(await self.head(key))
            await self._writer.keep(key, record)

    async def _set_newest(self, key: bytes, record: Record) -> Head | None:
        async with self._turn(key):
            found = None
            with suppress(CannotTell, Corrupt):  # what it has not, or has damaged, it can be given
                found = await self.head(key)
            if found is not None and rank(found) > rank(record.head):
                return found
            await self._writer.keep(key, record)
            return None

    async def _delete(self, key: bytes, guard: Guard | None) -> bool:
        async with self._turn(key):
            if guard is not None:
                found = None
                with suppress(Corrupt):  # what is damaged counts as nothing
                    found = await self.head(key)
                guard(found)
            return await self._writer.forget(key)

    def _turn(self, key: bytes) -> AbstractAsyncContextManager[None]:
        """Return what holds the lock of ``key``; see ``KeyLocks.within``."""
        return self._locks.within(_TURN_PATIENCE_S, self._lock_prefix + key, self.address)


def _key_of(blob_id: bytes) -> bytes:
    return path_of(blob_id.decode("ascii")).encode()
