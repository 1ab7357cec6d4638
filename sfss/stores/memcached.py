"""A store on a server that speaks the memcached protocol.

Works alike on memcached, twemproxy, Beansdb, gobeansdb and Beanseye, because it sends only what all
of them understand: ``get``, ``set`` with exptime 0, ``delete``, ``stats``, ``version``. Listings
ask for more; where the newest has to win, or a removal has a condition, memcached and ``sfss node``
are sent ``gets``, ``cas``, ``add`` and commands of our own, and memcached an exptime with what
expires, once they have said what they are. A key and a size are checked before a byte is sent: over
its limits, memcached drops the old value and the Beansdb family runs the body as commands.

An item is a record (flags ``RECORD_FLAGS``) or, with any other flags, the plain body that some
other client stored.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final

from sfss import record as records
from sfss.agreement import rank
from sfss.config import MemcachedSettings
from sfss.errors import Corrupt, SfssError, StoreFull, TooLarge, Unreachable
from sfss.keys import KEY_LIMIT
from sfss.memtext import (
    CAS,
    DELETE,
    GET,
    NEWEST,
    SET,
    STATS,
    Answer,
    BadReply,
    Status,
    Value,
    add_command,
    cas_command,
    delete_command,
    delete_damaged_command,
    get_command,
    gets_command,
    newest_command,
    remove_command,
    set_command,
    stats_command,
)
from sfss.memtext_extensions import DAMAGED, DISK_FULL, read_damage
from sfss.record import RECORD_FLAGS, Buffer, Form, Head, Kind, Record
from sfss.stores.base import Child, Entry, Guard, HasNewer, Stamped, Use, scan_of, unless_newer
from sfss.stores.memcached_folders import Folders
from sfss.stores.memcached_listing import Listings
from sfss.stores.memcached_pipeline import Pipeline
from sfss.stores.memcached_pool import Client, Closed, Exchange
from sfss.stores.memcached_server import Introduction, Server, border, refused
from sfss.stores.memcached_writer import SMALL, NoNode, Writers

ITEM_OVERHEAD: Final = 48 + 8 + 24 + 1 + 2
"""Bytes of memcached's item_size_max that key and value cannot use: item header, cas number, flags,
the NUL after the key, CRLF after the value. Flags take 4 in memcached 1.6; before 1.5 they and the
size were kept as text of up to 24.
"""

EXPIRY_MARGIN_S: Final = 60
"""Seconds for which a real memcached keeps a file that has expired: its clock is not ours."""

_LAST_EXPTIME: Final = (1 << 31) - 1

_TOO_LARGE: Final = "object too large for cache"

# A damaged file must not forbid its own replacement.
_ABSENT: Final = "taken for absent by a conditional write: %s"

_log = logging.getLogger(__name__)


class MemcachedStore:
    """Records on the server at ``address`` ("host:port"); the Store contract.

    Of ``settings`` it reads ``timeout_s`` (every operation ends within it), ``connections``,
    ``item_limit`` (0: the server is asked before the first set), ``raw`` (write plain bodies with
    flags 0, without digest and version) and ``secret`` (what an ``sfss node`` wants to be known;
    proven on every connection before anything else). ``patience_s`` is how long the hot path waits,
    see ``Pipeline``.
    """

    head_is_cheap = False

    def __init__(
        self, address: str, settings: MemcachedSettings, patience_s: float | None = None
    ) -> None:
        name, _, number = address.rpartition(":")
        host, port = name.strip("[]"), int(number)
        self.address = address
        self._settings = settings
        self._client = Client(host, port, settings.connections, settings.secret)
        self._pipeline = Pipeline(host, port, settings.timeout_s, patience_s, settings.secret)
        self._writers = Writers(host, port, settings.timeout_s, settings.secret)
        self._listings = Listings(address, host, port, settings.timeout_s, settings.secret)
        self._introduction = Introduction(address, self._client)
        self._folders = Folders(self._introduction, self._client, settings.timeout_s)

    async def get(self, key: bytes) -> Record | None:
        """Return the record under ``key``, or None; see ``Store.get``."""
        known = self._introduction.known
        if known is not None and known.is_node:
            value = await self._pipelined(key)
            if value is not None:
                return self._record(key, value)
        exchange = Exchange(get_command(key), GET, (key,))
        async with self._border(exchange):
            value = await self._fetch(exchange)
        return None if value is None else self._record(key, value)

    async def head(self, key: bytes) -> Head | None:
        """Return the head of the record under ``key``; see ``Store.head``. The protocol has no
        command for it: the body comes along.
        """
        exchange = Exchange(get_command(key), GET, (key,))
        async with self._border(exchange):
            value = await self._fetch(exchange)
        if value is None:
            return None
        if value.flags != RECORD_FLAGS:
            return records.raw_head(value.body)
        return records.decode_head(value.body, self.address, key)

    async def _pipelined(self, key: bytes) -> Value | None:
        """Return the value under ``key`` by the hot path; None tells nothing."""
        found: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()

        def use(item: Buffer | None, form: Form) -> None:
            if not found.done():
                flags = RECORD_FLAGS if form is Form.RECORD else 0
                found.set_result(None if item is None else Value(key, flags, bytes(item)))

        return await found if self._pipeline.view(key, use) else None

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``; see ``ViewableStore.view``."""
        return self._pipeline.view(key, use)

    def state(self) -> int:
        """Return 0: the server does not say when it is changed."""
        return 0

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Keep ``record`` under ``key``; see ``Store.set``.

        The protocol has no lock: another writer can come in between ``guard`` and the change. When
        memcached is out of memory (``StoreFull``), it has dropped what the key held before.
        """
        flags, value = self._item(record)
        exptime = _exptime(record.head)
        if exptime and not (await self._what_it_is()).is_memcached:
            exptime = 0
        exchange, size = Exchange(set_command(key, flags, value, exptime), SET), len(value)
        del value  # it may be large, and is in the request
        async with self._border(exchange):
            await self._check_size(key, record, size)
            if guard is not None:
                guard(await self._head(key))
            status = (await self._run(exchange)).status
            if status.word != "STORED":
                if status.text.startswith(_TOO_LARGE):
                    # What it is decides what the refusal means.
                    with suppress(OSError, Closed, BadReply, Unreachable):
                        await self._introduction.server()
                raise self._set_error(status, record, exchange)

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is a newer one; see ``NewestStore``.

        In one step on ``sfss node``, which knows a command for it; by cas numbers on memcached, so
        that nobody comes in between; on others in two steps, as in ``set``.
        """
        known = await self._what_it_is()
        if known.is_memcached:
            return await self._set_newest_by_cas(key, record)
        if not known.is_node:
            return await self._set_newest_in_two_steps(key, record)
        flags, value = self._item(record)
        exchange = Exchange(newest_command(key, flags, value), NEWEST)
        del value  # it may be large, and is in the request
        try:
            # It bounds the time by itself, which costs less than the border.
            status = (await self._writers.run(exchange)).status
        except NoNode:
            self._introduction.forget()
            return await self.set_newest(key, record)
        except (OSError, UnicodeError, Closed, BadReply) as error:
            reason = str(error) or f"no answer within {self._settings.timeout_s:g} s"
            raise Unreachable(self.address, reason, exchange.applied) from error
        if status.word == "STORED":
            return None
        if status.word != "EXISTS":
            raise self._set_error(status, record, exchange)
        # Raises Corrupt where the newer one is damaged: that is nothing to go by. Where it has gone
        # again in the meantime, what was refused was older all the same.
        newer = await self.get(key)
        return record.head if newer is None else newer.head

    async def _set_newest_by_cas(self, key: bytes, record: Record) -> Head | None:
        flags, value = self._item(record)
        exptime = _exptime(record.head)
        changes = Exchange(b"", SET)  # what is known of all tries together
        async with self._border(changes):
            await self._check_size(key, record, len(value))
            while True:
                found = await self._fetch(Exchange(gets_command(key), GET, (key,)))
                head = self._head_of(key, found)
                if head is not None and rank(head) > rank(record.head):
                    return head
                if found is None:
                    exchange = Exchange(add_command(key, flags, value, exptime), SET)
                else:
                    request = cas_command(key, flags, value, found.unique, exptime)
                    exchange = Exchange(request, CAS)
                changes.times_sent += 1
                status = (await self._client.run(exchange)).status
                if status.word == "STORED":
                    return None
                if status.word not in ("NOT_STORED", "EXISTS", "NOT_FOUND"):
                    raise self._set_error(status, record, exchange)

    async def _set_newest_in_two_steps(self, key: bytes, record: Record) -> Head | None:
        try:
            await self.set(key, record, unless_newer(record.head))
        except HasNewer as newer:
            return newer.head
        return None

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Remove ``key``; return whether it was there; see ``Store.delete``.

        On memcached and ``sfss node`` nobody comes in between ``guard`` and the removal: what has
        been changed by then is looked at again. On others somebody can, see ``set``.
        """
        if guard is not None and (await self._what_it_is()).has_cas:
            return await self._delete_by_cas(key, guard)
        exchange = Exchange(delete_command(key), DELETE)
        async with self._border(exchange):
            if guard is not None:
                guard(await self._head(key))
            status = (await self._run(exchange)).status
        if status.word not in DELETE.ends:
            raise refused(self.address, status, exchange)
        # Sent twice, the first may have removed what the second did not find.
        return status.word == "DELETED" or exchange.times_sent > 1

    async def _delete_by_cas(self, key: bytes, guard: Guard) -> bool:
        changes = Exchange(b"", DELETE)  # what is known of all tries together
        async with self._border(changes):
            while True:
                exchange = await self._removal(key, guard)
                if exchange is None:
                    return False
                changes.times_sent += 1
                status = (await self._run(exchange)).status
                # Sent twice, the first may have removed what the second did not find.
                twice = exchange.grammar is CAS and exchange.times_sent > 1
                if status.word in ("STORED", "DELETED") or (twice and status.word == "NOT_FOUND"):
                    return True
                if status.word not in ("EXISTS", "NOT_FOUND"):
                    raise refused(self.address, status, exchange)

    async def _removal(self, key: bytes, guard: Guard) -> Exchange | None:
        """Return what removes exactly that which is under ``key`` now, and ``guard`` has allowed to
        be removed; None where there is nothing.
        """
        try:
            found = await self._fetch(Exchange(gets_command(key), GET, (key,)))
        except Corrupt as error:  # of a node: others give damaged bytes, too
            _log.warning(_ABSENT, error)
            guard(None)
            return Exchange(delete_damaged_command(key), DELETE)
        guard(self._head_of(key, found))
        return None if found is None else Exchange(remove_command(key, found.unique), CAS)

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Return entries in byte order, tombstones left out; see ``Store.scan``, ``children``."""
        return await scan_of(self.children, prefix, after, limit)

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore.children``. Raises ``CannotList`` where
        the server is not ``sfss node``: no command of others lists keys in order.
        """
        return await self._folders.children(prefix, after, limit)

    def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all keys, on a connection of its own; see ``ListingStore.keys``.

        memcached, ``sfss node`` and Beansdb can list. Only a node gives stamps; it cuts off who
        takes nothing for a minute. The list of a memcached is read whole, into a temporary file if
        it is long, before the first of it comes. ``timeout_s`` bounds each wait for the server.
        """
        return self._listings.keys()

    async def stats(self) -> Mapping[str, str]:
        """Return the server's statistics; of a proxy without any (twemproxy), only the
        ``version``.
        """
        async with self._border(Exchange(stats_command(), STATS)):
            stats = await self._introduction.stats()
            return {"version": await self._introduction.version()} if stats is None else stats

    async def room(self) -> int:
        """Return how many bytes a record may have; see ``LimitedStore.room``."""
        limit = self._settings.item_limit
        if not limit:
            # What is known may be out of date: that is found out by the next write.
            limit = (self._introduction.known or await self._what_it_is()).item_limit
        return max(0, limit - ITEM_OVERHEAD - KEY_LIMIT)

    async def close(self) -> None:
        """Wait for what is being asked, end listings, and close every connection."""
        self._listings.close()
        await self._pipeline.close()
        await self._writers.close()
        await self._client.close()

    def _border(self, exchange: Exchange) -> AbstractAsyncContextManager[None]:
        return border(self.address, self._settings.timeout_s, exchange)

    async def _run(self, exchange: Exchange) -> Answer:
        """Make a change: a small one at a node with all others, else on a connection of its own."""
        known = self._introduction.known
        if known is not None and known.is_node and len(exchange.request) <= SMALL:
            try:
                return await self._writers.run(exchange)
            except NoNode:
                self._introduction.forget()
        return await self._client.run(exchange)

    async def _fetch(self, exchange: Exchange) -> Value | None:
        answer = await self._client.run(exchange)
        if answer.status.word == "SERVER_ERROR" and answer.status.text.startswith(DAMAGED):
            expected, found = read_damage(answer.status.text[:200])
            raise Corrupt(self.address, next(iter(exchange.keys)), expected, found)
        if answer.status.word != "END":
            raise refused(self.address, answer.status, exchange)
        return answer.values[0] if answer.values else None

    async def _head(self, key: bytes) -> Head | None:
        try:
            value = await self._fetch(Exchange(get_command(key), GET, (key,)))
        except Corrupt as error:
            _log.warning(_ABSENT, error)
            return None
        return self._head_of(key, value)

    def _head_of(self, key: bytes, value: Value | None) -> Head | None:
        if value is None:
            return None
        if value.flags != RECORD_FLAGS:
            return records.raw_head(value.body)
        try:
            return records.decode_head(value.body, self.address, key)
        except Corrupt as error:
            _log.warning(_ABSENT, error)
            return None

    def _record(self, key: bytes, value: Value) -> Record:
        if value.flags != RECORD_FLAGS:
            return records.raw_record(value.body)
        return records.decode(value.body, self.address, key)

    def _item(self, record: Record) -> tuple[int, bytes]:
        if self._settings.raw:
            return 0, bytes(records.held(record.body))
        return RECORD_FLAGS, records.encode(record)

    def _set_error(self, status: Status, record: Record, exchange: Exchange) -> SfssError:
        if status.word == "NOT_STORED":
            return StoreFull(self.address, "it answered NOT_STORED: no room, or over its limit")
        if status.word == "SERVER_ERROR" and status.text.startswith(_TOO_LARGE):
            # The limit that we went by is wrong, and the right one is not in the answer.
            known = self._introduction.known
            self._introduction.forget()
            lost = known is None or not known.is_node  # a node keeps what it has
            return TooLarge(len(record.body), None, self.address, former_lost=lost)
        if status.word == "SERVER_ERROR" and status.text.startswith(DISK_FULL):
            return StoreFull(self.address, status.text[:200])
        if status.word == "SERVER_ERROR" and status.text.startswith("out of memory"):
            return StoreFull(self.address, status.text[:200], former_lost=True)
        return refused(self.address, status, exchange)

    async def _check_size(self, key: bytes, record: Record, value_size: int) -> None:
        value_limit = await self._item_limit() - ITEM_OVERHEAD - len(key)
        if value_size > value_limit:
            header_size = value_size - len(record.body)
            limit = max(0, value_limit - header_size)
            raise TooLarge(len(record.body), limit, self.address)

    async def _item_limit(self) -> int:
        """Return the most bytes an item may have."""
        return self._settings.item_limit or (await self._introduction.server()).item_limit

    async def _what_it_is(self) -> Server:
        return await self._introduction.within(self._settings.timeout_s)


def _exptime(head: Head) -> int:
    """Return when a real memcached is to forget a file of itself; 0 never."""
    if not head.expiry or head.kind is Kind.TOMBSTONE:
        return 0
    exptime = head.expiry // 1_000_000 + EXPIRY_MARGIN_S
    return exptime if exptime <= _LAST_EXPTIME else 0
