"""What stores of plain files cannot carry themselves, kept beside them in one place.

A plain file has a body, a size and a time of change. All else of its head, and the memory of files
that were deleted, is a *mark* in a store of the gateway: a record without a body, under

    xxh3_64 of the store's address, 16 hex digits; a space; xxh3_128 of the key, 32 hex digits

so that the marks of one store lie together. What the marked record is stands in the metadata, under
names that begin with a space, as no name of a header field does. A mark that is lost costs the
digest of a file, and the memory of a deletion; never a file.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

from xxhash import xxh3_64_hexdigest, xxh3_128_hexdigest

from sfss.errors import Corrupt
from sfss.record import Buffer, Form, Head, Kind, Record, decode_head, digest_of
from sfss.stores.base import KEYS_LIMIT, Guard, Store, ViewableStore

_KEY, _KIND, _SIZE, _DIGEST = " key", " kind", " size", " digest"
_EMPTY_DIGEST: Final = digest_of(b"")

_log = logging.getLogger(__name__)


class _Another(Exception):
    """Raised when a mark is not the one that was to be removed."""


class Marks:
    """The marks of the store at ``address``, kept in ``store``, whose errors all methods raise."""

    def __init__(self, store: Store, address: str) -> None:
        self._store = store
        self._viewable = store if isinstance(store, ViewableStore) else None
        self._prefix = xxh3_64_hexdigest(address.encode()).encode() + b" "

    async def get(self, key: bytes) -> Head | None:
        """Return the head that is marked under ``key``; None where there is none, or none sound."""
        try:
            record = await self._store.get(self._place(key))
        except Corrupt as error:
            _log.warning("a mark is lost: %s", error)
            return None
        found = None if record is None else _marked(record.head)
        return found[1] if found is not None and found[0] == key else None

    def item(self, key: bytes) -> bytes | None:
        """Return the item under ``key``, for ``marked``, without waiting: for the hot path. Empty
        where there is none; None where that cannot be told at once.
        """
        found: list[bytes] = []

        def use(item: Buffer | None, _: Form) -> None:
            found.append(b"" if item is None else bytes(item))

        if self._viewable is not None:
            self._viewable.view(self._place(key), use)
        return found[0] if found else None

    def state(self) -> int:
        """Return a number that is another after every change of a mark; 0 tells nothing."""
        return 0 if self._viewable is None else self._viewable.state()

    async def set(self, key: bytes, head: Head) -> None:
        """Mark ``head`` under ``key``; when this returns, the mark is durable."""
        names = {
            **head.metadata,
            _KEY: key.decode("latin-1"),  # of any bytes
            _KIND: str(int(head.kind)),
            _SIZE: str(head.size),
            _DIGEST: head.digest.hex(),
        }
        mark = Head(head.version, 0, _EMPTY_DIGEST, head.kind, head.expiry, names)
        await self._store.set(self._place(key), Record(mark, b""))

    async def delete(self, key: bytes, head: Head) -> bool:
        """Remove the mark under ``key`` if it is ``head``; return whether it was."""
        try:
            return await self._store.delete(self._place(key), _only_if(head))
        except _Another:
            return False

    async def all(self) -> AsyncIterator[Sequence[tuple[bytes, Head]]]:
        """Yield all keys with what is marked under them, in batches of up to ``KEYS_LIMIT``."""
        after = b""
        while entries := await self._store.scan(self._prefix, after, KEYS_LIMIT):
            found = [_marked(entry.head) for entry in entries if entry.head is not None]
            yield [each for each in found if each is not None]
            after = entries[-1].key

    def _place(self, key: bytes) -> bytes:
        return self._prefix + xxh3_128_hexdigest(key).encode()


def marked(item: bytes) -> tuple[bytes, Head] | None:
    """Return key and head of an ``item``, None if it is not sound."""
    try:
        return _marked(decode_head(item, "marks", b""))
    except Corrupt:
        return None


def _only_if(expected: Head) -> Guard:
    def guard(found: Head | None) -> None:
        marked = None if found is None else _marked(found)
        if marked is None or marked[1] != expected:
            raise _Another

    return guard


def _marked(mark: Head) -> tuple[bytes, Head] | None:
    names = dict(mark.metadata)
    try:
        key, kind = names.pop(_KEY).encode("latin-1"), Kind(int(names.pop(_KIND)))
        size, digest = int(names.pop(_SIZE)), bytes.fromhex(names.pop(_DIGEST))
    except (KeyError, ValueError):
        _log.warning("what lies among the marks is none: %s", names)
        return None
    return key, Head(mark.version, size, digest, kind, mark.expiry, names)
