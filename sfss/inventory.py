"""Which stores list which keys: a table on disk, so that memory is bounded however many there are.

The table is an SQLite file that is filled once, under another name, and never changed after it has
got its own: whoever finds it finds all of it. It can be made again from the stores at any time, and
so it needs no journal and no waiting for the disk while it is filled.

==========  ========================================================================================
column      what it holds
==========  ========================================================================================
``key``     the key, of any bytes
``stores``  one character for each store that lists it, in the order of the list of stores
``stamp``   what the first store has said of the record; see ``Stamped``
``alike``   1 if all of them have said the same
==========  ========================================================================================
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sfss.errors import CannotList, SettingError, StoreError, Unreachable
from sfss.stores.base import ListingStore, Stamped, Store

LISTING_TRIES: Final = 3
"""How often a listing that breaks off is begun."""

PAUSE_S: Final = 1.0
"""Seconds before it is begun again."""

_FORMAT: Final = 1
_CACHE_KIB: Final = 32 * 1024
_FIRST_MARK: Final = ord("A")
_SETS_KEPT: Final = 10_000

_MAKE: Final = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -{_CACHE_KIB};
CREATE TABLE listed (
    key BLOB PRIMARY KEY, stores TEXT NOT NULL, stamp INTEGER, alike INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
BEGIN;
"""
_ADD: Final = """
INSERT INTO listed VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    stores = CASE WHEN instr(stores, excluded.stores) THEN stores
             ELSE stores || excluded.stores END,
    alike = alike AND stamp IS excluded.stamp
"""
_PAGE: Final = "SELECT key, stores, alike FROM listed WHERE key > ? ORDER BY key LIMIT ?"

Result = TypeVar("Result")


class Listed(NamedTuple):
    """A key, and the stores that list it. ``alike``: they are known to have the same record, and
    that its head is sound.
    """

    key: bytes
    stores: frozenset[str]
    alike: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a table as a whole: the ``fingerprint`` that it was made with, the addresses
    of its stores, how many keys it has.
    """

    fingerprint: str
    addresses: tuple[str, ...]
    total: int


class Inventory:
    """A table that is complete, and open; ``failures`` say which stores could not be listed.

    Where there are any, what is missing from the table proves nothing. Every method raises
    ``SettingError`` when the file cannot be read or written.
    """

    def __init__(
        self, table: "_Table", thread: ThreadPoolExecutor, failures: Mapping[str, StoreError]
    ) -> None:
        self._table, self._thread = table, thread
        self.facts = table.facts
        self.failures = failures

    async def page(self, after: bytes, limit: int) -> list[Listed]:
        """Return the first ``limit`` keys behind ``after``, in byte order."""
        return await _in(self._thread, lambda: self._table.page(after, limit))

    async def close(self) -> None:
        """Close the file; it stays, for a run that goes on later, if the table is complete."""
        await _leave(self._thread, self._table)


async def open_inventory(file: Path, fingerprint: str) -> Inventory | None:
    """Return the table in ``file``; None where there is none, or one with another fingerprint."""
    thread = ThreadPoolExecutor(1, "inventory")
    table = await _in(thread, lambda: _Table.open(file, fingerprint))
    if table is None:
        thread.shutdown(wait=False)
        return None
    return Inventory(table, thread, {})


async def make_inventory(
    file: Path,
    fingerprint: str,
    stores: Mapping[str, Store | ListingStore],
    seen: Callable[[int], None],
) -> Inventory:
    """List ``stores`` into a new table and return it.

    Only a table without failures is kept in ``file``, for ``open_inventory``. ``seen`` is called
    with the number of keys that have been listed so far, those of all stores together.
    """
    thread = ThreadPoolExecutor(1, "inventory")
    part = file.with_name(f"{file.name}.part")
    table = await _in(thread, lambda: _Table.make(part, list(stores)))
    try:
        listing = _Listing(table, thread, seen)
        await _all(listing.fill(address, store) for address, store in stores.items())
        await _in(thread, lambda: table.finish(fingerprint, None if listing.failures else file))
    except BaseException:
        await _leave(thread, table)
        raise
    return Inventory(table, thread, listing.failures)


class _Listing:
    """One listing of many stores, each as fast as it can and as the table takes it."""

    def __init__(
        self, table: "_Table", thread: ThreadPoolExecutor, seen: Callable[[int], None]
    ) -> None:
        self._table, self._thread, self._seen = table, thread, seen
        self._count = 0
        self.failures: dict[str, StoreError] = {}

    async def fill(self, address: str, store: Store | ListingStore) -> None:
        """Take over all that ``store`` lists; note if that fails."""
        for left in reversed(range(LISTING_TRIES)):
            try:
                await self._take(address, store)
                return
            except StoreError as error:
                if not left or not isinstance(error, Unreachable):
                    self.failures[address] = error
                    return
            # What was listed before is there still, and counts once.
            await asyncio.sleep(PAUSE_S)

    async def _take(self, address: str, store: Store | ListingStore) -> None:
        if not isinstance(store, ListingStore):
            raise CannotList(address)
        batches = store.keys()
        try:
            async for batch in batches:
                await self._add(address, batch)
        finally:
            # A generator that is left alone keeps its connection until somebody finds it.
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()

    async def _add(self, address: str, batch: Sequence[Stamped]) -> None:
        await _in(self._thread, lambda: self._table.add(address, batch))
        self._count += len(batch)
        self._seen(self._count)


class _Table:
    """The file. Every method is for one thread, and raises ``SettingError``."""

    def __init__(
        self, file: Path, connection: sqlite3.Connection, facts: Facts, is_named: bool
    ) -> None:
        self._file, self._connection, self.facts = file, connection, facts
        self._is_named = is_named
        self._marks = {
            address: chr(_FIRST_MARK + number) for number, address in enumerate(facts.addresses)
        }
        self._addresses = {mark: address for address, mark in self._marks.items()}
        # Mostly few different sets of stores list all keys, each in many orders.
        self._sets: dict[str, frozenset[str]] = {}

    @classmethod
    def make(cls, file: Path, addresses: Sequence[str]) -> "_Table":
        """Return a new table for the stores at ``addresses``, in place of what is there."""
        with _border(file):
            file.unlink(missing_ok=True)
            connection = sqlite3.connect(file, isolation_level=None)
            try:
                connection.executescript(_MAKE)
            except BaseException:
                connection.close()
                raise
            return cls(file, connection, Facts("", tuple(addresses), 0), False)

    @classmethod
    def open(cls, file: Path, fingerprint: str) -> "_Table | None":
        """Return the table in ``file`` if it is complete and has ``fingerprint``."""
        if not file.exists():
            return None
        try:
            connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        except sqlite3.Error:
            return None
        facts = _read_facts(connection)
        if facts is None or facts.fingerprint != fingerprint:
            connection.close()
            return None
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return cls(file, connection, facts, True)

    def add(self, address: str, batch: Iterable[Stamped]) -> None:
        """Note that the store at ``address`` lists ``batch``."""
        mark = self._marks[address]
        stamped = ((key, _signed(stamp)) for key, stamp in batch)
        rows = ((key, mark, stamp, stamp is not None) for key, stamp in stamped)
        with _border(self._file):
            self._connection.executemany(_ADD, rows)

    def finish(self, fingerprint: str, file: Path | None) -> None:
        """Note the facts of a table that is complete; give it its name, ``file``."""
        with _border(self._file):
            total = self._connection.execute("SELECT count(*) FROM listed").fetchone()[0]
            self.facts = Facts(fingerprint, self.facts.addresses, total)
            self._connection.execute(
                "INSERT INTO facts VALUES ('facts', ?)", [_facts_text(self.facts)]
            )
            self._connection.execute("COMMIT")
            if file is not None:
                _flush(self._file)
                self._file.replace(file)
                self._file, self._is_named = file, True

    def page(self, after: bytes, limit: int) -> list[Listed]:
        """Return the first ``limit`` rows behind the key ``after``."""
        with _border(self._file):
            rows = self._connection.execute(_PAGE, (after, limit)).fetchall()
        return [self._listed(*row) for row in rows]

    def _listed(self, key: bytes, marks: str, alike: int) -> Listed:
        stores = self._set_of("".join(sorted(marks)))
        return Listed(key, stores, bool(alike))

    def _set_of(self, marks: str) -> frozenset[str]:
        stores = self._sets.get(marks)
        if stores is None:
            if len(self._sets) >= _SETS_KEPT:
                self._sets.clear()
            stores = self._sets[marks] = frozenset(self._addresses[mark] for mark in marks)
        return stores

    def close(self) -> None:
        """Close the file, and delete it unless it has got its name."""
        self._connection.close()
        if not self._is_named:
            self._file.unlink(missing_ok=True)


def _read_facts(connection: sqlite3.Connection) -> Facts | None:
    try:
        row = connection.execute("SELECT value FROM facts WHERE name = 'facts'").fetchone()
        form, fingerprint, addresses, total = json.loads(row[0])
    except (sqlite3.Error, TypeError, ValueError):
        return None
    return Facts(fingerprint, tuple(addresses), total) if form == _FORMAT else None


def _facts_text(facts: Facts) -> str:
    return json.dumps([_FORMAT, facts.fingerprint, facts.addresses, facts.total])


def _signed(stamp: int | None) -> int | None:
    """Return ``stamp``, of 64 bits, as SQLite keeps numbers; None for one that is larger."""
    if stamp is None or not 0 <= stamp < 1 << 64:
        return None
    return stamp - (1 << 64) if stamp >> 63 else stamp


def _flush(file: Path) -> None:
    # Once, so that a table which has its name is whole after a power failure, too.
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _border(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        wanted = "a folder that can be written, with room, is expected"
        raise SettingError("command line", "--work", f"{file}: {error}", wanted) from error


async def _in(thread: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
    # One thread for all: SQLite's calls block, and a connection belongs to the thread that made it.
    return await asyncio.get_running_loop().run_in_executor(thread, call)


async def _leave(thread: ThreadPoolExecutor, table: _Table) -> None:
    """Close ``table`` behind what its thread still does, also when the caller is cancelled."""
    try:
        await asyncio.shield(_in(thread, table.close))
    finally:
        thread.shutdown(wait=False)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; when one fails, or this is cancelled, none goes on."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
