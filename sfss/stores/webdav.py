"""A store of plain files on a WebDAV node: nginx with its dav module, or anything like it.

A file lies on the node under its own name, and its time of change is the second of its version; all
else of its head is a mark in the gateway's folder (``marks``). What nobody has marked, or somebody
has changed since, is served as it is (``plain_heads``).

obstore, which stores in S3 go through, speaks WebDAV as well, and is not used here: it cannot send
the ``Date`` from which nginx's PUT takes the time, and each call costs a hop to other threads.

nginx renames an upload into its place when it is whole, and does not sync it to the disk first.
No node can compare and write in one step. So changes of one key take turns (``key_locks``), among
all processes of this machine that share the folder of the marks; whoever else writes to a node may
come in between. What a node was sent before it stopped answering it may still do when it goes
on; what it then has is seen to be old by its time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import gettempdir
from typing import Final, NamedTuple, TypeVar

from sfss.agreement import rank
from sfss.config import WebdavSettings
from sfss.errors import BadPath, CannotTell, Corrupt, Unreachable
from sfss.http_connection import Exchange, NoAnswer, Stream
from sfss.http_text import Head as ResponseHead
from sfss.items import unique_of
from sfss.keys import is_file_path, names_of
from sfss.record import Body, Form, Head, Kind, Record, encode_head
from sfss.stores.base import KEYS_LIMIT, Child, Entry, Guard, Stamped, Use, scan_of
from sfss.stores.key_locks import KeyLocks
from sfss.stores.marks import Marks, marked
from sfss.stores.plain_heads import is_raw
from sfss.stores.webdav_listing import Listings
from sfss.stores.webdav_node import File, Node
from sfss.stores.webdav_writer import Writer, bare, head_in
from sfss.turns import Background

_VIEW_PATIENCE: Final = 0.25
"""Of the time-out. What was given up on the short way has all of it once more on the long way."""

_TURN_PATIENCE_S: Final = 30.0
"""A process that stands still in the middle of a change holds up others, but not for ever."""

_READ_PATIENCE_S: Final = 2.0

_TOMBSTONES_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")


class _Seen(NamedTuple):
    """What is under a key: the file, the mark, and of a read that brought the body, that too."""

    file: File | None
    mark: Head | None
    body: Body | None = None
    digest: bytes = b""

    @property
    def head(self) -> Head | None:
        """The head of what is there; None: nothing."""
        if self.file is not None:
            return head_in(self.mark, self.file) or self.file.head
        return self.mark if self.mark is not None and self.mark.kind is Kind.TOMBSTONE else None

    @property
    def is_unmarked(self) -> bool:
        """Whether there is a file that the mark is not about."""
        return self.file is not None and head_in(self.mark, self.file) is None

    @property
    def is_damaged(self) -> bool:
        """Whether the body is not the one that the head is about."""
        head = self.head
        if self.body is None or head is None or is_raw(head):
            return False
        return self.digest != head.digest

    @property
    def may_be_torn(self) -> bool:
        """Whether the file may be from before a write that the mark is from after, or the like."""
        if self.file is None or self.mark is None:
            return False
        if self.is_unmarked:
            return self.mark.version // 1_000_000 > self.file.modified_s
        return self.is_damaged


class WebdavStore:
    """Plain files on the node at ``address``, "http://host:port/folder/"; the Store contract.

    ``marks`` are this store's; ``locks`` those of all processes that share the marks, without them
    this process is taken to be alone. Both stay open when it is closed. Bodies of over 1 MiB are
    kept in ``spool_folder`` while they are read, by default that of temporary files. All methods
    raise ``BadPath`` for a key that is no name of a file. Raises ``SettingError`` for an address of
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
        self._node = Node(address, settings)
        self._writer = Writer(self._node, marks)
        self._listings = Listings(self._node)
        self._spool_folder = spool_folder or Path(gettempdir())
        self._changes = Background()
        self._locks = locks or KeyLocks(None)
        self._lock_prefix = address.encode() + b" "

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``, or None; see ``Store.get``."""
        seen = await self._settled(key, "GET")
        head = seen.head
        if head is None:
            return None
        if seen.is_damaged:
            raise Corrupt(self.address, key, f"digest {head.digest.hex()}", seen.digest.hex())
        return Record(head, b"" if seen.body is None else seen.body)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``, or None; see ``Store.head``."""
        return (await self._settled(key, "HEAD")).head

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``; see ``ViewableStore.view``.

        A file whose mark is about another is not shown: the long way waits for what is right. The
        mark is read before the file, so that a file is never older than its mark.
        """
        item = self._marks.item(key)
        if item is None or self._locks.is_held(self._lock_of(key)):
            return False  # it cannot be told, or file and mark are being written
        found = _encoded(item) if item else None
        if found is not None:
            is_shown = found.key == key and found.mark.kind is Kind.FILE
        else:
            is_shown = not item and is_file_path(key)
        if not is_shown:
            return False
        self._node.start(_View(self._node, key, found, use))
        return True

    def state(self) -> int:
        """Return 0: a node does not say when it is changed."""
        return 0

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``; see ``Store.set``. Raises ``PathTaken`` where a
        folder has that name, or a file that of a folder on the way.
        """
        names_of(key)
        await self._changes.make(self._set(key, record, guard))

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is a newer one; see ``NewestStore``, and ``set``. Bodies are
        not looked at: what is newer and damaged is returned.
        """
        names_of(key)
        return await self._changes.make(self._set_newest(key, record))

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``, file and mark; return whether it was there; see ``Store.delete``. Folders
        stay, even without anything in them.
        """
        names_of(key)
        return await self._changes.make(self._delete(key, guard))

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries in byte order, tombstones left out; see ``Store.scan``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore.children``. Names that begin with a dot
        are left out. Raises ``CannotList`` where the node has no listings.
        """
        try:
            names_of(prefix + b"x")
        except BadPath:
            return []
        # All that this gateway writes is marked, by whichever worker: see your own writes.
        things = await self._listings.page(prefix, after, limit, self._marks.state())
        return [
            Child(thing.name, thing.file and await self._head_of(prefix + thing.name, thing.file))
            for thing in things
        ]

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all files, and what is remembered as deleted; see ``ListingStore.keys``. Raises as
        ``children``.
        """
        async for files in self._listings.files():
            for batch in _batches(files, KEYS_LIMIT):
                yield [
                    Stamped(key, unique_of(await self._head_of(key, file))) for key, file in batch
                ]
        async for marks in self._marks.all():
            deleted = [(key, mark) for key, mark in marks if mark.kind is Kind.TOMBSTONE]
            for group in _batches(deleted, _TOMBSTONES_AT_ONCE):
                # A file that is there counts, whatever the mark; it has been listed.
                found = await asyncio.gather(*(self._node.look(key) for key, _ in group))
                yield [
                    Stamped(key, unique_of(mark))
                    for (key, mark), file in zip(group, found, strict=True)
                    if file is None
                ]

    async def stats(self) -> Mapping[str, str]:
        """Return the ``version``: what the node says that it is. Any answer at all will do."""
        answer = await self._node.ask("HEAD", b"")
        server = answer.head.fields.get(b"server", b"unknown")
        return {"version": server.decode("latin-1")}

    async def close(self) -> None:
        """Wait for what is being asked, and close every connection."""
        await self._changes.finish()
        await self._node.pool.close()

    async def _settled(self, key: bytes, method: str) -> _Seen:
        """Return what is under ``key``. Where file and mark are not of one write, one that is under
        way is given time to end.
        """
        seen = await self._see(key, method)
        if not (seen.may_be_torn or seen.is_unmarked):
            return seen
        is_held = self._locks.is_held(self._lock_of(key))
        if is_held:
            with suppress(Unreachable):
                async with self._turn(key, _READ_PATIENCE_S):
                    pass
        if is_held or seen.may_be_torn or await self._marks.get(key) != seen.mark:
            seen = await self._see(key, method)
        return seen

    async def _see(self, key: bytes, method: str) -> _Seen:
        names_of(key)
        answer = await self._node.ask(method, key)
        body: Body | None = None
        digest = b""
        if answer.status == 200 and method == "GET":
            body, digest = await self._node.body(answer, self._spool_folder)
        answer.close()
        size = None if body is None else len(body)
        file = self._node.file_of(answer.head, key, size)
        return _Seen(file, await self._marks.get(key), body, digest)

    async def _set(self, key: bytes, record: Record, guard: Guard | None) -> None:
        async with self._turn(key):
            if guard is not None:
                guard((await self._see(key, "HEAD")).head)
            await self._writer.keep(key, record)

    async def _set_newest(self, key: bytes, record: Record) -> Head | None:
        async with self._turn(key):
            found = None
            with suppress(CannotTell):  # it can be given what it may not have
                found = (await self._see(key, "HEAD")).head
            if found is not None and rank(found) > rank(record.head):
                return found
            await self._writer.keep(key, record)
            return None

    async def _delete(self, key: bytes, guard: Guard | None) -> bool:
        async with self._turn(key):
            if guard is not None:
                guard((await self._see(key, "HEAD")).head)
            was_there = await self._writer.remove(key)
            mark = await self._marks.get(key)
            if mark is None or not await self._marks.delete(key, mark):
                return was_there
            return was_there or mark.kind is Kind.TOMBSTONE

    async def _head_of(self, key: bytes, file: File) -> Head:
        return head_in(await self._marks.get(key), file) or file.head

    def _lock_of(self, key: bytes) -> bytes:
        return self._lock_prefix + key

    def _turn(
        self, key: bytes, patience_s: float = _TURN_PATIENCE_S
    ) -> AbstractAsyncContextManager[None]:
        """Return what holds the lock of ``key``; see ``KeyLocks.within``."""
        return self._locks.within(patience_s, self._lock_of(key), self.address)


class _View(Exchange):
    """A file that is asked for by the short way."""

    def __init__(self, node: Node, key: bytes, marked: "_Encoded | None", use: Use) -> None:
        super().__init__(node.get_request(key), _VIEW_PATIENCE)
        self._node, self._key, self._marked, self._use = node, key, marked, use

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._give(*self._item(head, body))

    def begun(self, head: ResponseHead, stream: Stream) -> None:
        stream.close()
        self._give(None, Form.RAW)

    def failed(self, failure: NoAnswer) -> None:
        self._give(None, Form.RAW)

    def _item(self, head: ResponseHead, body: bytes) -> tuple[bytes | None, Form]:
        if head.status != 200:
            return None, Form.RAW
        try:
            file = self._node.file_of(head, self._key, len(body))
        except Unreachable:
            return None, Form.RAW  # the long way finds it again, and says it
        if file is None:
            return None, Form.RAW
        if self._marked is None:
            form = Form.RECORD if file.digest else Form.UNPROVEN
            return encode_head(file.head) + body, form
        if head_in(self._marked.mark, file) is None:
            return None, Form.RAW
        return self._marked.head + body, Form.RECORD

    def _give(self, item: bytes | None, form: Form) -> None:
        try:
            self._use(item, form)
        except Exception:
            _log.exception("whoever asked for a file could not use it")


class _Encoded(NamedTuple):
    """A mark, and the head that it is of as it stands before the body in a record."""

    key: bytes
    mark: Head
    head: bytes


@lru_cache(maxsize=4096)
def _encoded(item: bytes) -> _Encoded | None:
    found = marked(item)
    return None if found is None else _Encoded(*found, encode_head(bare(found[1])))


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
