"""In which order records came, and how much there is of them: an index beside the records.

It is changed in the transactions that change records, and is a database of its own in the
environment, made when something is to be evicted from it; its name is an entry among the records.
Its entries:

======================  ===========================================================================
key                     value
======================  ===========================================================================
``a`` and a number      the key of a record; numbers are of 8 bytes, and rise as records come
``k`` and a key         that number, and the size of the record in bytes; the number 0: it stays,
                        and stands in no queue
``e`` and a place       how often anything of this place was removed, and the newest version of
                        that; a place is 16 bits of a hash of the key
``s``                   ``Usage``
``w``                   while what was there before the index is noted: the last key that was
======================  ===========================================================================

Tombstones are in none of these. ``Usage`` has the number of the commit that wrote it: if a program
wrote that knows nothing of the index, the last commit is another, and all keys are gone through
again.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

import lmdb
from xxhash import xxh3_64_intdigest

from sfss.record import is_tombstone_in, version_in
from sfss.sieve import Arrival
from sfss.stores.lmdb_opening import FORMAT_KEY

ARRIVALS: Final = FORMAT_KEY + b"\xfe"
"""The name of the index."""

PLACES: Final = 1 << 16

_NUMBER: Final = Struct(">Q")
_PAIR: Final = Struct(">QQ")
_PLACE: Final = Struct(">H")
_USAGE: Final = Struct(">QQQQQ")
_OF_NUMBER, _OF_KEY, _OF_PLACE = b"a", b"k", b"e"
_STATE, _WALKED = b"s", b"w"
_BEHIND_NUMBERS: Final = b"b"

_Transaction: TypeAlias = "lmdb.Transaction[memoryview]"


class Usage(NamedTuple):
    """What is in a store but for tombstones, and what was evicted from it, ever; ``commit``: as of
    which number.
    """

    size: int = 0
    files: int = 0
    evicted_files: int = 0
    evicted_size: int = 0
    commit: int = 0


class Arrivals:
    """The index, open in its environment. What changes something is for the writer thread, between
    ``begin`` and ``end`` of a transaction.
    """

    def __init__(self, database: "lmdb._Database", queues: Callable[[bytes], bool]) -> None:
        self._database, self._queues = database, queues
        self._usage = self._before = Usage()
        self._is_changed = False
        self._newest: int | None = None

    @classmethod
    def within(
        cls,
        environment: lmdb.Environment,
        transaction: _Transaction,
        make: bool,
        queues: Callable[[bytes], bool] = bool,
    ) -> "Arrivals | None":
        """Return the index, made if ``make``; None where there is none. It stays open only if the
        ``transaction`` is committed. Records that may be evicted are under keys that it ``queues``.
        """
        is_there = transaction.get(ARRIVALS) is not None
        if not is_there and not make:
            return None
        arrivals = cls(environment.open_db(ARRIVALS, transaction), queues)
        if not is_there:
            transaction.put(_WALKED, b"", db=arrivals._database)
        return arrivals

    def stat(self, transaction: "lmdb.Transaction[bytes]") -> "lmdb._StatDict":
        """Return what LMDB says of the pages of the index."""
        return transaction.stat(self._database)

    def begin(self, transaction: _Transaction) -> None:
        """Read what is changed from now on."""
        self._usage = self._before = self.usage(transaction)
        self._is_changed, self._newest = False, None

    def end(self, transaction: _Transaction, is_changed: bool) -> None:
        """Write what has changed; ``is_changed``: something has, here or in the records."""
        if is_changed or self._is_changed or self._usage != self._before:
            usage = self._usage._replace(commit=transaction.id())
            transaction.put(_STATE, _USAGE.pack(*usage), db=self._database)

    def usage(self, transaction: _Transaction) -> Usage:
        """Return what is noted of the whole."""
        value = transaction.get(_STATE, db=self._database)
        return Usage() if value is None else Usage(*_USAGE.unpack(value))

    def keeps(self, transaction: _Transaction, key: bytes, size: int) -> bool:
        """Note that a record of ``size`` bytes is put under ``key``. One that was there keeps its
        place; return whether there was one.
        """
        noted = transaction.get(_OF_KEY + key, db=self._database)
        if noted is None:
            number, former = 0, 0
            if self._queues(key):
                number = self._next(transaction)
                transaction.put(_OF_NUMBER + _NUMBER.pack(number), key, db=self._database)
        else:
            number, former = _PAIR.unpack(noted)
        if noted is None or size != former:
            transaction.put(_OF_KEY + key, _PAIR.pack(number, size), db=self._database)
        self._count(size - former, noted is None)
        return noted is not None

    def drops(self, transaction: _Transaction, key: bytes) -> int | None:
        """Forget the record under ``key``, in whose place there is a tombstone, or nothing; return
        its size, None if it is not known.
        """
        noted = transaction.get(_OF_KEY + key, db=self._database)
        if noted is None:
            return None
        number, size = _PAIR.unpack(noted)
        transaction.delete(_OF_NUMBER + _NUMBER.pack(number), db=self._database)
        transaction.delete(_OF_KEY + key, db=self._database)
        self._count(-size, -1)
        return int(size)

    def removes(self, transaction: _Transaction, key: bytes, floor: int, evicts: bool) -> None:
        """Note that nothing remains of what is under ``key``, which is about to be removed: the
        newest there was has the version ``floor``, or that of the record. ``evicts``: to count.
        """
        value = transaction.get(key)
        size = self.drops(transaction, key)
        if evicts and value is not None:
            files, evicted = self._usage.evicted_files + 1, self._usage.evicted_size + (size or 0)
            self._usage = self._usage._replace(evicted_files=files, evicted_size=evicted)
        count, former = self._place(transaction, key)
        newest = max(floor, former, 0 if value is None else version_in(value))
        transaction.put(_place_of(key), _PAIR.pack(count + 1, newest), db=self._database)

    def moment(self, transaction: _Transaction, key: bytes) -> int:
        """Return a number that is another when anything of the place of ``key`` was removed."""
        return self._place(transaction, key)[0]

    def newer_than(
        self,
        transaction: _Transaction,
        key: bytes,
        version: int,
        since: int,
    ) -> int | None:
        """Return the version of what may have been removed from under ``key`` after the moment
        ``since`` and not be older than ``version``; None: there is no such thing.
        """
        count, newest = self._place(transaction, key)
        return newest if count != since and newest >= version else None

    def behind(self, transaction: _Transaction, number: int, limit: int) -> list[Arrival]:
        """Return up to ``limit`` records that came after ``number``, in their order."""
        found: list[Arrival] = []
        for came, key in self._numbered(transaction, number + 1):
            noted = transaction.get(_OF_KEY + key, db=self._database)
            size = 0 if noted is None else _PAIR.unpack(noted)[1]
            found.append(Arrival(came, key, size))
            if len(found) == limit:
                break
        return found

    def _numbered(self, transaction: _Transaction, first: int) -> Iterator[tuple[int, bytes]]:
        with transaction.cursor(db=self._database) as cursor:
            positioned = cursor.set_range(_OF_NUMBER + _NUMBER.pack(first))
            while positioned and (place := bytes(cursor.key()))[:1] == _OF_NUMBER:
                yield _NUMBER.unpack(place[1:])[0], bytes(cursor.value())
                positioned = cursor.next()

    def check(self, transaction: _Transaction) -> bool:
        """Have all keys gone through again if somebody has changed records without the index;
        return whether there is anything to ``walk``.
        """
        if self._usage.commit and self._usage.commit + 1 != transaction.id():
            transaction.put(_WALKED, b"", db=self._database)
            self._is_changed = True
        return transaction.get(_WALKED, db=self._database) is not None

    def walk(self, transaction: _Transaction, limit: int) -> bool:
        """Note up to ``limit`` records that are not noted, or not as they are; return whether there
        may be more.
        """
        walked = transaction.get(_WALKED, db=self._database)
        if walked is None:
            return False
        self._is_changed = True
        position: bytes | None = bytes(walked)
        with transaction.cursor() as cursor:
            assert position is not None
            positioned = cursor.set_range(position + b"\0")
            for _ in range(limit):
                if not positioned or (key := bytes(cursor.key())) == FORMAT_KEY:
                    position = None
                    break
                self._see(transaction, key, cursor.value())
                position = key
                positioned = cursor.next()
        if position is None:
            transaction.delete(_WALKED, db=self._database)
        else:
            transaction.put(_WALKED, position, db=self._database)
        return position is not None

    def _see(self, transaction: _Transaction, key: bytes, value: memoryview) -> None:
        if is_tombstone_in(value):
            self.drops(transaction, key)
        else:
            self.keeps(transaction, key, len(value))

    def _count(self, size: int, files: int) -> None:
        usage = self._usage
        self._usage = usage._replace(
            size=max(0, usage.size + size), files=max(0, usage.files + files)
        )

    def _next(self, transaction: _Transaction) -> int:
        if self._newest is None:
            self._newest = self._last(transaction)
        self._newest += 1
        return self._newest

    def _last(self, transaction: _Transaction) -> int:
        with transaction.cursor(db=self._database) as cursor:
            found = cursor.prev() if cursor.set_range(_BEHIND_NUMBERS) else cursor.last()
            if not found or (place := bytes(cursor.key()))[:1] != _OF_NUMBER:
                return 0
            return int(_NUMBER.unpack(place[1:])[0])

    def _place(self, transaction: _Transaction, key: bytes) -> tuple[int, int]:
        value = transaction.get(_place_of(key), db=self._database)
        return (0, 0) if value is None else _PAIR.unpack(value)


def _place_of(key: bytes) -> bytes:
    return _OF_PLACE + _PLACE.pack(xxh3_64_intdigest(key) % PLACES)
