"""A store in a bucket of S3, or of what speaks like it: each file an object under its own path.

The head of a file travels with it as metadata of the object, ``x-amz-meta-sfss``, so whoever reads
the bucket sees ordinary objects with their types. What lies beside them is hidden below ``.sfss/``,
where no path leads:

    .sfss/deleted/PATH   a head: PATH was deleted, and every gateway on the bucket has to know
    .sfss/names/PATH     the head of PATH with all its names, where they are too long for metadata

An object without that metadata was put there by others. It is served as it is (``plain_heads``).

A file counts, whatever is remembered of its deletion. So a deletion is remembered first, and then
the object is removed: what a crash leaves between the two is the file. To write, a key is looked at
first, and the object is then put there only if it is still the one that was seen (If-Match). Large
bodies, which go in parts, and deletions have no such condition: who else writes to the bucket may
come in between. Changes of one key take turns (``key_locks``) among the processes of a gateway.
"""

import asyncio
import logging
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import gettempdir
from typing import Final, NamedTuple, Protocol

from sfss.agreement import rank
from sfss.config import BucketSettings
from sfss.errors import Corrupt, Unreachable
from sfss.items import unique_of
from sfss.keys import is_file_path, names_of
from sfss.record import (
    HEADER_SIZE,
    METADATA_LIMIT,
    Head,
    Kind,
    Record,
    decode_lone_head,
    encode_head,
    held,
)
from sfss.stores.base import Child, Entry, Guard, Stamped, scan_of
from sfss.stores.bucket_client import Bucket, Condition, Object
from sfss.stores.bucket_listing import Thing, page
from sfss.stores.key_locks import KeyLocks
from sfss.stores.plain_heads import is_raw, raw_file_head
from sfss.turns import Background

OWN: Final = ".sfss/"
DELETED: Final = f"{OWN}deleted/"
NAMES: Final = f"{OWN}names/"

_HEAD: Final = "sfss"
_TYPE: Final = "Content-Type"
_TYPE_LIMIT: Final = 200
_SAYS_NOTHING: Final = frozenset({"binary/octet-stream", "application/octet-stream"})
_CARRIED_LIMIT: Final = 1800  # of the 2048 bytes that all metadata of an object may have
_ALL_LIMIT: Final = 2000
_LABEL: Final = re.compile("[a-z0-9][a-z0-9-]{0,99}")
_NAMES_ARE_ELSEWHERE: Final = " names"
_HEAD_LIMIT: Final = HEADER_SIZE + METADATA_LIMIT
_REMEMBERED_HEADS: Final = 16_384
_ATTEMPTS: Final = 8
_TURN_PATIENCE_S: Final = 30.0

_log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """What is under a key: its ``head``, None for nothing, and the etag of the object, if any."""

    head: Head | None
    etag: str | None = None
    has_names: bool = False

    @property
    def condition(self) -> Condition:
        """That it has not changed since."""
        return Condition(self.etag)


class Labels(Protocol):
    """What other programs are to read in the metadata of objects, beside the head; and what is read
    there of an object that others have put.
    """

    def of(self, path: str, head: Head) -> Mapping[str, str]:
        """Return metadata for the object of a file, the most needed first."""

    def read(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """Return the names of a file that others have put there with ``attributes``."""


class BucketStore:
    """Files in the bucket at ``address``, "s3://BUCKET/PREFIX"; the Store contract.

    ``locks`` are those of all processes of the gateway, and stay open when it is closed; without
    them this process is taken to be alone. Bodies of over 1 MiB are kept in ``spool_folder`` while
    they are read, by default that of temporary files. ``labels`` are put on objects as far as they
    fit. All methods raise ``BadPath`` for a key that is no name of a file. Raises ``SettingError``.
    """

    head_is_cheap = True

    def __init__(
        self,
        address: str,
        settings: BucketSettings,
        spool_folder: Path | None = None,
        locks: KeyLocks | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.address, self._labels = address, labels
        self._bucket = Bucket(address, settings, spool_folder or Path(gettempdir()))
        self._locks, self._lock_prefix = locks or KeyLocks(None), address.encode() + b" "
        self._heads: OrderedDict[str, tuple[Object, Head]] = OrderedDict()
        self._changes = Background()

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``, or None; see ``Store.get``."""
        path = _path(key)
        found = await self._bucket.get(path)
        if found is None:
            tombstone = await self._tombstone(path)
            return None if tombstone is None else Record(tombstone, b"")
        head = await self._head_of(found.object)
        if not is_raw(head) and found.digest != head.digest:
            raise Corrupt(self.address, key, f"digest {head.digest.hex()}", found.digest.hex())
        return Record(head, found.body)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``, or None; see ``Store.head``."""
        return (await self._see(_path(key))).head

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``; see ``Store.set``. ``guard`` is called again where the
        object has changed meanwhile.
        """
        path = _path(key)
        await self._changes.make(self._set(path, record, guard))

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is a newer one; see ``NewestStore``, and ``set``. Bodies are
        not looked at: what is newer and damaged is returned.
        """
        path = _path(key)
        return await self._changes.make(self._set_newest(path, record))

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``, and what is remembered of its deletion; return whether there was either;
        see ``Store.delete``.
        """
        path = _path(key)
        return await self._changes.make(self._delete(path, guard))

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries in byte order, tombstones left out; see ``Store.scan``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore.children``. A list of a bucket has no
        metadata: each file is asked for its head, but for those that are remembered. Raises
        ``CannotList`` where an object has a name that obstore does not take.
        """
        if prefix and not is_file_path(prefix[:-1]):
            return []
        folder, found = prefix.decode(), list[Child]()
        while len(found) < limit:
            things = await page(self._bucket, folder, after, limit - len(found))
            if not things:
                break
            for shown in await asyncio.gather(*map(self._shown, things)):
                found += shown
            after = things[-1].name
        return found

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all files, and what is remembered as deleted; see ``ListingStore.keys``. Only heads
        that are remembered have stamps: to ask for the others is for whoever needs them. Raises as
        ``children``.
        """
        async for batch in self._bucket.objects("", ""):
            named = [each for each in batch if is_file_path(each.key.encode())]
            yield [Stamped(each.key.encode(), self._stamp(each)) for each in named]
        async for batch in self._bucket.objects(DELETED, ""):
            paths = [each.key.removeprefix(DELETED).encode() for each in batch]
            yield [Stamped(path, None) for path in paths if is_file_path(path)]

    async def stats(self) -> Mapping[str, str]:
        """Return the ``version``: the protocol. It is asked whether the bucket is there."""
        await self._bucket.get(f"{OWN}version")
        return {"version": "S3"}

    async def close(self) -> None:
        """Wait for changes that have begun; then everything is unreachable."""
        await self._changes.finish()
        self._bucket.close()

    async def _see(self, path: str) -> _Seen:
        found = await self._bucket.look(path)
        if found is None:
            return _Seen(await self._tombstone(path))
        return _Seen(
            await self._head_of(found), found.etag, _NAMES_ARE_ELSEWHERE in _carried(found)
        )

    async def _tombstone(self, path: str) -> Head | None:
        """Return what is remembered of the deletion of ``path``; None: it was not deleted."""
        head = await self._kept_head(DELETED + path)
        return head if head is not None and head.kind is Kind.TOMBSTONE else None

    async def _kept_head(self, place: str) -> Head | None:
        found = await self._bucket.get(place)
        if found is None:
            return None
        if found.object.size <= _HEAD_LIMIT:
            try:
                return decode_lone_head(held(found.body), self.address, place.encode())
            except Corrupt as error:
                _log.warning("what lies among the heads is none: %s", error)
        return None

    async def _head_of(self, found: Object) -> Head:
        """Return the head of an object, its own or a raw one. Raises ``Corrupt``."""
        key, attributes = found.key.encode(), found.attributes or {}
        text = attributes.get(_HEAD)
        if text is None:
            head = raw_file_head(found.size, found.modified_s)
            read = {} if self._labels is None else self._labels.read(attributes)
            return head._replace(metadata={**_foreign_names(attributes), **read})
        try:
            head = decode_lone_head(b64decode(text, validate=True), self.address, key)
        except NotBase64 as error:
            raise Corrupt(self.address, key, "a head in base64", str(error)) from error
        if head.size != found.size or head.kind is not Kind.FILE:
            raise Corrupt(self.address, key, f"{head.size} bytes", f"{found.size} bytes")
        if _NAMES_ARE_ELSEWHERE in head.metadata:
            head = await self._with_names(found.key, head)
        self._remember(found, head)
        return head

    async def _with_names(self, path: str, head: Head) -> Head:
        whole = await self._kept_head(NAMES + path)
        if whole is None or _without_names(whole) != head:
            raise Corrupt(self.address, path.encode(), "the names of the file", "none, or others")
        return whole

    async def _shown(self, thing: Thing) -> list[Child]:
        """Return what a list names; nothing if it is gone, or was only listed as an object."""
        if thing.object is None:
            return [Child(thing.name, None)]
        head = self._remembered(thing.object)
        if head is None:
            try:
                head = (await self._see(thing.object.key)).head
            except Corrupt as error:
                _log.warning("in a list: %s", error)
                return [Child(thing.name, None)]
        return [Child(thing.name, head)] if head is not None and head.kind is Kind.FILE else []

    def _remember(self, found: Object, head: Head) -> None:
        self._heads[found.key] = found._replace(attributes=None), head
        self._heads.move_to_end(found.key)
        if len(self._heads) > _REMEMBERED_HEADS:
            self._heads.popitem(last=False)

    def _remembered(self, listed: Object) -> Head | None:
        known = self._heads.get(listed.key)
        return known[1] if known is not None and known[0] == listed else None

    def _stamp(self, listed: Object) -> int | None:
        head = self._remembered(listed)
        return None if head is None else unique_of(head)

    async def _set(self, path: str, record: Record, guard: Guard | None) -> None:
        async with self._turn(path):
            if guard is None:
                await self._write(path, record, None)
                return
            for _ in range(_ATTEMPTS):
                seen = await self._see(path)
                guard(seen.head)
                if await self._write(path, record, seen.condition):
                    return
        raise self._busy()

    async def _set_newest(self, path: str, record: Record) -> Head | None:
        async with self._turn(path):
            for _ in range(_ATTEMPTS):
                seen = await self._seen_or_damaged(path)
                if seen.head is not None and rank(seen.head) > rank(record.head):
                    return seen.head
                if await self._write(path, record, seen.condition):
                    return None
        raise self._busy()

    async def _seen_or_damaged(self, path: str) -> _Seen:
        """Return what is there; what has no sound head counts as nothing, and can be replaced."""
        try:
            return await self._see(path)
        except Corrupt:
            found = await self._bucket.look(path)
            return _Seen(None, None if found is None else found.etag)

    async def _write(self, path: str, record: Record, condition: Condition | None) -> bool:
        """Write file or tombstone; return False where the ``condition`` does not hold."""
        if record.head.kind is Kind.TOMBSTONE:
            await self._bucket.put(DELETED + path, encode_head(record.head), {})
            await self._bucket.delete(path)
            return True
        head = record.head
        if _does_not_fit(head):
            await self._bucket.put(NAMES + path, encode_head(head), {})
            head = _without_names(head)
        labels = {} if self._labels is None else self._labels.of(path, record.head)
        attributes = _fitting({_HEAD: _text_of(head)}, labels) | _type_of(record.head)
        return await self._bucket.put(path, record.body, attributes, condition)

    async def _delete(self, path: str, guard: Guard | None) -> bool:
        async with self._turn(path):
            seen = await self._seen_or_damaged(path)
            if guard is not None:
                guard(seen.head)
            await self._bucket.delete(path)
            await self._bucket.delete(DELETED + path)
            if seen.has_names:
                await self._bucket.delete(NAMES + path)
            return seen.head is not None or seen.etag is not None

    def _busy(self) -> Unreachable:
        return Unreachable(self.address, "others keep changing the object", applied=False)

    def _turn(self, path: str) -> AbstractAsyncContextManager[None]:
        """Return what holds the lock of ``path``; see ``KeyLocks.within``."""
        return self._locks.within(_TURN_PATIENCE_S, self._lock_prefix + path.encode(), self.address)


def _path(key: bytes) -> str:
    names_of(key)
    return key.decode()


def _carried(found: Object) -> str:
    """Return the metadata that the head of an object has, in the form that it has there."""
    text = (found.attributes or {}).get(_HEAD, "")
    try:
        return b64decode(text)[HEADER_SIZE:].decode("utf-8", "replace")
    except NotBase64:
        return ""


def _text_of(head: Head) -> str:
    return b64encode(encode_head(head)).decode()


def _fitting(needed: dict[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """Return ``needed``, and of ``labels`` as many as fit beside it and can be sent."""
    room = _ALL_LIMIT - sum(len(name) + len(text) for name, text in needed.items())
    found = dict(needed)
    for name, text in labels.items():
        if name in found:
            continue
        is_sent = _LABEL.fullmatch(name) and text.isascii() and text.isprintable()
        if (
            text
            and is_sent
            and text.strip() == text
            and name not in found
            and len(name + text) <= room
        ):
            found[name] = text
            room -= len(name + text)
    return found


def _does_not_fit(head: Head) -> bool:
    return bool(head.metadata) and len(_text_of(head)) > _CARRIED_LIMIT


def _without_names(head: Head) -> Head:
    return head._replace(metadata={_NAMES_ARE_ELSEWHERE: ""})


def _type_of(head: Head) -> dict[str, str]:
    said = head.metadata.get(_TYPE, "")
    return {_TYPE: said} if _is_type(said) else {}


def _foreign_names(attributes: Mapping[str, str]) -> Mapping[str, str]:
    said = attributes.get(_TYPE, "")
    return {_TYPE: said} if _is_type(said) and said not in _SAYS_NOTHING else {}


def _is_type(text: str) -> bool:
    # obstore does not survive what is no value of a header field.
    return 0 < len(text) <= _TYPE_LIMIT and text.isascii() and text.isprintable()
