"""What lies on a blob server of SOS under an id, and how that is seen: its head, its body.

A body is held against its id whenever it is read. What a head is taken from, in this order: the
newest of what came with the blob (``blob_fields``) and what the gateway has marked; the body, of a
raw blob.
"""

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Final, NamedTuple

from sfss.agreement import rank
from sfss.blob_ids import digest_like, id_at, is_digest
from sfss.errors import BadPath, CannotTell, Corrupt, Unreachable
from sfss.http_text import Head as ResponseHead
from sfss.record import Body, Head, Kind
from sfss.stores.blob_fields import Shown, carried_in, names_in
from sfss.stores.blob_listing import ID_LIMIT
from sfss.stores.marks import Marks
from sfss.stores.plain_heads import is_raw
from sfss.stores.webdav_node import Node

HIDES: Final = " hides"
"""In the mark of a deletion: the server still has the blob. ``ALL``: nor is the deletion shown."""

ALL: Final = "all"

NONE: Final = frozenset({404, 410})
"""Answers that say that there is nothing."""

UNKNOWN_METHOD: Final = frozenset({400, 403, 405, 501})
"""Answers of servers that do not know a method."""

_DIGESTS_REMEMBERED: Final = 16_384


class OnlyTheBody(Exception):
    """Raised where a head cannot be told without the body."""


class Whole(NamedTuple):
    """A blob whose body was read, and is what its id says: ``digest`` is that of a record."""

    shown: Shown
    body: Body
    digest: bytes


def id_in(key: bytes) -> str:
    """Return the id of the blob whose path is ``key``; raise ``BadPath`` where it is no such."""
    text = key.decode("latin-1")
    blob_id = id_at(text) if text.isascii() else None
    if blob_id is None or len(blob_id) > ID_LIMIT:
        raise BadPath(
            "a blob server keeps nothing but blobs: blobs/, two characters of the id, /, id"
        )
    return blob_id


def place_of(key: bytes) -> bytes:
    """Return where a server has the blob whose path is ``key``; errors as ``id_in``."""
    return b"blob/" + id_in(key).encode()


def bare(mark: Head | None) -> Head | None:
    """Return the deletion that was marked, without what the mark says beside it; None: none that is
    to be shown.
    """
    if mark is None or mark.kind is not Kind.TOMBSTONE or mark.metadata.get(HIDES) == ALL:
        return None
    return mark._replace(metadata={}) if HIDES in mark.metadata else mark


class Reader:
    """Reads what ``node`` has; long bodies go to ``spool_folder``. All methods raise ``BadPath``
    for a key that is no path of a blob, ``CannotTell`` and ``Unreachable``.
    """

    def __init__(self, node: Node, marks: Marks, spool_folder: Path) -> None:
        self.node = node
        self._marks, self._spool_folder = marks, spool_folder
        self._has_head: bool | None = None
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()  # those of raw blobs, by key

    async def look(self, key: bytes) -> Head | None:
        """Return the head of what is under ``key``, None for nothing. Raises ``Corrupt``;
        ``OnlyTheBody`` of a raw blob that has not been read.
        """
        shown = await self.shown(key)
        return self._head_of(key, shown, await self._marks.get(key))

    async def read(self, key: bytes) -> tuple[Head, Body] | None:
        """Return head and body of what is under ``key``, None for nothing. Raises ``Corrupt``."""
        whole = await self.whole(key)
        mark = await self._marks.get(key)
        if whole is None:
            head = self._head_of(key, None, mark)
            return None if head is None else (head, b"")
        head = self._head_of(key, whole.shown, mark, whole.digest)
        if head is None or head.kind is Kind.TOMBSTONE:
            return None if head is None else (head, b"")
        if not is_raw(head) and head.digest != whole.digest:
            address = self.node.address
            raise Corrupt(address, key, f"digest {head.digest.hex()}", whole.digest.hex())
        if not head.version:
            self._remember(key, whole.digest)
        return head, whole.body

    def is_known(self, key: bytes) -> bool:
        """Tell whether the digest of a raw blob is known."""
        return key in self._digests

    async def whole(self, key: bytes) -> Whole | None:
        """Return the blob with its body, None: there is none. Raises ``Corrupt``."""
        answer = await self.node.ask("GET", place_of(key))
        try:
            if not self._says_there_is(answer.head):
                return None
            body, digest = await self.node.body(answer, self._spool_folder)
        finally:
            answer.close()
        await self._check(key, body)
        shown = self._shown_by(answer.head, key)
        return Whole(shown._replace(size=len(body)), body, digest)

    async def _check(self, key: bytes, body: Body) -> None:
        blob_id = id_in(key)
        if not is_digest(blob_id):
            return
        try:
            found = await asyncio.to_thread(digest_like, blob_id, body)
        except OSError as error:
            raise Unreachable(self.node.address, str(error), False) from error
        if found != blob_id:
            raise Corrupt(self.node.address, key, f"the digest {blob_id}", found)

    async def shown(self, key: bytes) -> Shown | None:
        """Return what the server shows of the blob, None: there is none. Raises ``Corrupt``."""
        head = await self.found(key)
        return None if head is None else self._shown_by(head, key)

    async def found(self, key: bytes) -> ResponseHead | None:
        """Return the head of the answer that shows the blob, by HEAD where the server has that;
        None: there is none.
        """
        place = place_of(key)
        if self._has_head is not False:
            answer = await self.node.ask("HEAD", place)
            if answer.status == 200:
                self._has_head = True
            is_clear = answer.status not in NONE | UNKNOWN_METHOD
            if is_clear or (self._has_head and answer.status in NONE):
                return answer.head if self._says_there_is(answer.head) else None
        answer = await self.node.ask("GET", place)
        answer.close()
        if not self._says_there_is(answer.head):
            return None
        self._has_head = False  # or it would have said so
        return answer.head

    def _says_there_is(self, head: ResponseHead) -> bool:
        if head.status in NONE:
            return False
        if head.status == 504:
            raise CannotTell(self.node.address)
        if head.status != 200:
            raise self.node.unexpected("a blob", head.status, False)
        return True

    def _shown_by(self, head: ResponseHead, key: bytes) -> Shown:
        try:
            names = names_in(head.fields)
        except ValueError as error:
            raise Unreachable(self.node.address, str(error), False) from error
        try:
            carried = carried_in(head.fields, names, self.node.address, key)
        except Corrupt:
            if not is_digest(id_in(key)):
                raise
            carried = None  # the id tells which bytes are right
        return Shown(head.length, names, carried)

    def _head_of(
        self, key: bytes, shown: Shown | None, mark: Head | None, digest: bytes | None = None
    ) -> Head | None:
        """Return the head of what the server has ``shown``, with a ``digest`` where that is known,
        and what is marked; None: nothing.
        """
        if shown is None:
            return bare(mark)
        head = self._newest_of(key, shown, mark, digest)
        is_hidden = mark is not None and HIDES in mark.metadata
        if mark is not None and is_hidden and (head is None or rank(head) < rank(mark)):
            return bare(mark)
        if head is not None:
            return head
        digest = digest or self._digests.get(key)
        if digest is None or shown.size is None:
            raise OnlyTheBody
        return Head(0, shown.size, digest, metadata=shown.names)

    def _newest_of(
        self, key: bytes, shown: Shown, mark: Head | None, digest: bytes | None
    ) -> Head | None:
        """Return the newest head that is known of the blob ``shown``; None of a raw one."""
        carried, size = shown.carried, shown.size
        if not is_digest(id_in(key)):
            # Its bytes may change, so that a mark would tell nothing.
            if carried is not None and size not in (None, carried.size):
                raise Corrupt(self.node.address, key, f"{carried.size} bytes", f"{size} bytes")
            return carried
        known = [head for head in (carried, mark) if head is not None and head.kind is Kind.FILE]
        sound = [head for head in known if head.size == size and _may_be(head, digest)]
        return max(sound, key=rank, default=None)

    def _remember(self, key: bytes, digest: bytes) -> None:
        if not is_digest(id_in(key)):
            return
        self._digests[key] = digest
        self._digests.move_to_end(key)
        if len(self._digests) > _DIGESTS_REMEMBERED:
            self._digests.popitem(last=False)


def _may_be(head: Head, digest: bytes | None) -> bool:
    return digest is None or is_raw(head) or head.digest == digest
