"""Five stores that can be listed and can fail, three of them for each key; a gateway over them."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from xxhash import xxh3_64_intdigest

from sfss.agreement import CopiesSettings
from sfss.copies import Copies
from sfss.errors import Unreachable
from sfss.inventory import Listed
from sfss.items import unique_of
from sfss.keys import KeyScheme
from sfss.owed import Owed
from sfss.placement import Places
from sfss.record import Record, decode_head, encode, new_record
from sfss.replicas import Replicas
from sfss.stores.base import Stamped
from tests.copies_bench import TestClock
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault, FaultyStore, always, healthy

STORES: Final = ("a", "b", "c", "d", "e")
COPIES: Final = 3


class ListedStore(FaultyStore):
    """A store at fault that can be listed: ``can_list`` False, it refuses that. ``stamps`` False:
    it does not know one record from another.
    """

    can_list = True
    stamps = True

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield one key after the other."""
        for key, value in sorted(self.inner.values.items()):
            if self.plan("keys", key) is not None or not self.can_list:
                raise Unreachable(self.address, "refused")
            head = decode_head(value, self.address, key)
            yield [Stamped(key, unique_of(head) if self.stamps else None)]


def placed(key: bytes, names: Sequence[str] = STORES) -> list[str]:
    """Return the primaries of ``key``."""
    first = xxh3_64_intdigest(key) % len(names)
    return [names[(first + number) % len(names)] for number in range(min(COPIES, len(names)))]


@dataclass
class Ward:
    """The stores, one list of debts, and gateways and tools over them."""

    names: Sequence[str] = STORES
    clock: TestClock = field(default_factory=TestClock)
    primaries: Callable[[bytes], Sequence[str]] = placed
    former: Callable[[bytes], Sequence[str]] = lambda _: ()
    settings: CopiesSettings = field(default_factory=CopiesSettings)
    owed_limit: int = 1000

    def __post_init__(self) -> None:
        self.stores = {name: ListedStore(DictStore(name)) for name in self.names}
        self.list = FaultyStore(DictStore("list"))
        self.scheme = KeyScheme("percent")

    def copies(self) -> Copies:
        """Return a new gateway."""
        owed = Owed(self.list, self.owed_limit)
        return Copies(
            self.stores, Places(self.primaries, self.former), owed, self.clock, self.settings
        )

    def replicas(self) -> Replicas:
        """Return what a tool works on."""
        owed, stores = Owed(self.list, self.owed_limit), dict(self.stores)
        return Replicas(stores, Places(self.primaries, self.former), owed, self.copies(), None)  # type: ignore[arg-type]

    def record(self, body: bytes) -> Record:
        """Return a new record."""
        return new_record(body, self.clock.version())

    def plant(self, key: bytes, record: Record | None, *names: str) -> None:
        """Have stores hold ``record``, or nothing, under ``key``, whatever was there."""
        for name in names:
            if record is None:
                self.stores[name].inner.values.pop(key, None)
            else:
                self.stores[name].inner.values[key] = encode(record)

    def fill(self, count: int, names: Sequence[str] | None = None) -> list[bytes]:
        """Plant ``count`` files where they belong and return their keys."""
        keys = [b"file/%04d" % number for number in range(count)]
        for key in keys:
            self.plant(key, self.record(b"body of " + key), *(names or self.primaries(key)))
        return keys

    def listed(self, key: bytes) -> Listed:
        """Return what the listings say of ``key``."""
        having = {name: store.inner.values.get(key) for name, store in self.stores.items()}
        values = {value for value in having.values() if value is not None}
        names = frozenset(name for name, value in having.items() if value is not None)
        return Listed(key, names, len(values) == 1)

    def down(self, *names: str) -> None:
        """Have stores refuse everything."""
        for name in names:
            self.stores[name].plan = always(Fault.REFUSE)

    def up(self, *names: str) -> None:
        """Have stores be well."""
        for name in names:
            self.stores[name].plan = healthy

    def content(self) -> dict[str, dict[bytes, bytes]]:
        """Return all that the stores hold, the list of debts too."""
        stores = {name: dict(store.inner.values) for name, store in self.stores.items()}
        return {**stores, "list": dict(self.list.inner.values)}

    def is_well(self) -> bool:
        """Tell whether every key is on its primaries alone, and the same on all."""
        keys = {key for store in self.stores.values() for key in store.inner.values}
        return all(
            {name for name in self.names if key in self.stores[name].inner.values}
            == set(self.primaries(key))
            and len({self.stores[name].inner.values[key] for name in self.primaries(key)}) == 1
            for key in keys
        )
