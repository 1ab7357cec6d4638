"""The contract of a store in the fewest words: records in a dict, no faults, no waiting."""

from collections.abc import AsyncIterator, Mapping, Sequence

from sfss.agreement import rank
from sfss.errors import Corrupt, Unreachable
from sfss.items import unique_of
from sfss.record import Form, Head, Record, decode, decode_head, encode
from sfss.stores.base import KEYS_LIMIT, Child, Entry, Guard, Stamped, Use, children_of


class DictStore:
    """Keeps encoded records in ``values``, which a test may damage."""

    head_is_cheap = False

    def __init__(self, address: str = "dict") -> None:
        self.address = address
        self.values: dict[bytes, bytes] = {}
        self.closed = False

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``, or None."""
        value = self._open().get(key)
        return None if value is None else decode(value, self.address, key)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``, or None."""
        value = self._open().get(key)
        return None if value is None else decode_head(value, self.address, key)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder."""
        return await children_of(self.scan, prefix, after, limit)

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key`` unless ``guard`` forbids it."""
        self._ask(guard, key)
        self._open()[key] = encode(record)

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless the header of what is there is newer: return the head of that, or
        raise ``Corrupt`` if it is damaged, as ``sfss node`` does.
        """
        found = self.header(key)
        if found is not None and rank(found) > rank(record.head):
            return decode(self.values[key], self.address, key).head
        self.values[key] = encode(record)
        return None

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key`` unless ``guard`` forbids it; return whether it was there."""
        self._ask(guard, key)
        return self._open().pop(key, None) is not None

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries in byte order, damaged ones without a head."""
        keys = sorted(key for key in self._open() if key.startswith(prefix) and key > after)
        return [Entry(key, self.header(key)) for key in keys][:limit]

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all keys with the stamps of their records, damaged ones left out."""
        after = b""
        while entries := await self.scan(b"", after, KEYS_LIMIT):
            yield [Stamped(each.key, unique_of(each.head)) for each in entries if each.head]
            after = entries[-1].key

    async def stats(self) -> Mapping[str, str]:
        """Return how many records there are."""
        return {"curr_items": str(len(self._open()))}

    async def close(self) -> None:
        """Refuse everything from now on."""
        self.closed = True

    def _open(self) -> dict[bytes, bytes]:
        if self.closed:
            raise Unreachable(self.address, "it is closed", applied=False)
        return self.values

    def header(self, key: bytes) -> Head | None:
        """Return what the header under ``key`` says; None where there is none that is sound."""
        value = self._open().get(key)
        try:
            return None if value is None else decode_head(value, self.address, key)
        except Corrupt:
            return None

    def _ask(self, guard: Guard | None, key: bytes) -> None:
        if guard is not None:
            guard(self._head(key))

    def _head(self, key: bytes) -> Head | None:
        value = self._open().get(key)
        try:
            return None if value is None else decode(value, self.address, key).head
        except Corrupt:
            return None


class ViewableDict(DictStore):
    """The same, which the short way can look into at once, as into the embedded store."""

    def view(self, key: bytes, use: Use) -> bool:
        """Show the value under ``key``."""
        value = self.values.get(key)
        use(value, Form.RAW if value is None else Form.RECORD)
        return True

    def state(self) -> int:
        """Return another number after each record that was set."""
        return self.changes

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Count, too."""
        self.changes += 1
        await super().set(key, record, guard)

    changes = 1
