"""Connections to one server of the memcached protocol, and the commands asked through them.

A connection is out of step from the first byte of a request until the last byte of its reply has
been parsed with nothing left over. Only one that is in step goes back to the pool; one that was
cancelled, timed out, closed or answered what was not asked is thrown away. A connection on which
bytes arrived that nobody asked for is never used again.

Everything is built on aiomcache 0.8.2, which keeps none of this: the classes here take the place of
its pool and of the three methods through which all of its commands go.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from aiomcache.client import FlagClient
from aiomcache.pool import Connection, MemcachePool

from sfss.memtext import GET, Answer, AnswerParser, BadReply, Grammar, Value, check_key
from sfss.stores.memcached_opening import NotAuthenticated, check_refusal, open_connection

_READ_SIZE: Final = 256 * 1024
_ANY: Final = Grammar(
    frozenset({"STORED", "NOT_STORED", "EXISTS", "NOT_FOUND", "DELETED", "OK", "VERSION"}),
    changes=True,
)


class Closed(Exception):
    """Raised when the server closed or reset a connection before its whole reply had come."""


@dataclass(slots=True)
class Exchange:
    """One request with the grammar of its answer, and how often it has been sent.

    ``keys`` are those that the request asks for: a VALUE must name one of them, each at most once.
    """

    request: bytes
    grammar: Grammar
    keys: Collection[bytes] = ()
    times_sent: int = 0

    @property
    def applied(self) -> bool | None:
        """What is known of a change that got no good answer, in the words of ``Unreachable``."""
        return None if self.grammar.changes and self.times_sent else False


class CountingReader(asyncio.StreamReader):
    """Knows how many bytes have arrived and were not read: on an idle connection, none may."""

    unread_bytes = 0

    def feed_data(self, data: Any) -> None:
        """Take bytes from the transport."""
        self.unread_bytes += len(data)
        super().feed_data(data)

    async def read(self, n: int = -1) -> bytes:
        """Return up to ``n`` bytes as soon as there are any; none at the end of the stream."""
        chunk = await super().read(n)
        self.unread_bytes -= len(chunk)
        return chunk


class ServerConnection(Connection):
    """One connection. ``pooled`` once it has answered: the server may have closed it since."""

    reader: CountingReader

    def __init__(self, reader: CountingReader, writer: asyncio.StreamWriter) -> None:
        self._in_step = False
        self.pooled = False

    def usable(self) -> bool:
        """Tell whether the next bytes from the server would answer the next request."""
        reader = self.reader
        return (
            self._in_step
            and not reader.unread_bytes
            and not reader.at_eof()
            and reader.exception() is None
            and not self.writer.is_closing()
        )

    def taken(self) -> None:
        """Count as out of step until ``ask`` has returned."""
        self._in_step = False

    async def ask(self, exchange: Exchange) -> Answer:
        """Send the request and return its whole answer; raise ``Closed``, ``BadReply``, or
        ``NotAuthenticated`` where the server asks for a secret.
        """
        exchange.times_sent += 1
        # Not drained: the server may answer, and close, before it has read a whole body.
        self.writer.write(exchange.request)
        parser = AnswerParser()
        while (answer := parser.next_answer(exchange.grammar, exchange.keys)) is None:
            parser.feed(await self._read())
        if self.reader.unread_bytes or not parser.empty():
            raise BadReply(f"more than one answer, the first of them {answer.status.word}")
        try:
            check_refusal(answer.status)
        except NotAuthenticated:
            exchange.times_sent -= 1  # nothing was done
            raise
        self._in_step = answer.in_step
        self.pooled = True
        return answer

    async def _read(self) -> bytes:
        try:
            chunk = await self.reader.read(_READ_SIZE)
        except ConnectionError as error:
            raise Closed(f"it reset the connection ({error})") from error
        if not chunk:
            raise Closed("it closed the connection without a whole answer")
        return chunk


class Pool(MemcachePool):
    """Up to ``size_limit`` connections, opened when needed, authenticated by ``secret`` if any.

    Whoever waits does so for a slot, not for a connection: a slot is given back whatever became of
    the connection in it, so that no waiter is forgotten when connections die.
    """

    def __init__(self, host: str, port: int, size_limit: int, secret: str = "") -> None:
        super().__init__(host, port, minsize=1, maxsize=size_limit)
        self._secret = secret
        self._slots = asyncio.Semaphore(size_limit)
        self._closed = False
        self.deaths = 0
        """How many pooled connections were found closed: the server may have been restarted."""

    async def acquire(self, fresh: bool = False) -> ServerConnection:
        """Return a connection in step: a ``fresh`` one, or any. ``release`` must follow.

        Raises OSError when it cannot be opened.
        """
        await self._slots.acquire()
        try:
            if fresh:
                self._drop_one_idle()
            idle = None if fresh else self._idle_connection()
            connection = idle or await self._create_new_conn()
        except BaseException:
            self._slots.release()
            raise
        connection.taken()
        self._in_use.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back, or throw it away, and let the next waiter go on."""
        assert isinstance(connection, ServerConnection)
        self._in_use.remove(connection)
        if connection.usable() and not self._closed:
            self._pool.put_nowait(connection)
        else:
            self._do_close(connection)
        self._slots.release()

    def _idle_connection(self) -> ServerConnection | None:
        while not self._pool.empty():
            connection = self._pool.get_nowait()
            assert isinstance(connection, ServerConnection)
            if connection.usable():
                return connection
            self.deaths += 1
            self._do_close(connection)
        return None

    def _drop_one_idle(self) -> None:
        # Slots bound connections in use; with a new one beside them, idle ones could exceed it.
        if not self._pool.empty():
            self._do_close(self._pool.get_nowait())

    async def _create_new_conn(self) -> ServerConnection:
        if self._closed:
            raise ConnectionError("the store has been closed")
        # asyncio.open_connection does the same, with a reader that cannot count.
        loop = asyncio.get_running_loop()
        reader = CountingReader(limit=_READ_SIZE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = await open_connection(protocol, self._host, self._port, self._secret)
        return ServerConnection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    def _do_close(self, connection: Connection) -> None:
        # close() would first send what is still buffered: a set that was given up on minutes ago
        # would replace newer files when a stopped server goes on.
        connection.writer.transport.abort()

    async def close(self) -> None:
        """Wait until every connection has been released, and close them all."""
        if not self._closed:
            self._closed = True
            for _ in range(self._maxsize):
                await self._slots.acquire()
            for _ in range(self._maxsize):
                self._slots.release()
        await self.clear()


class Client(FlagClient[Value]):
    """aiomcache's client on the pool above. Its own commands take and return what aiomcache's do,
    except that values come as ``memtext.Value``; ``run`` is what the store uses.
    """

    def __init__(self, host: str, port: int, connections: int, secret: str = "") -> None:
        super().__init__(host, port, pool_size=connections)
        self._pool: Pool = Pool(host, port, connections, secret)

    async def run(self, exchange: Exchange) -> Answer:
        """Return the answer of the server, asked a second time, on a fresh connection, when a
        pooled one turned out closed. Raises OSError, ``Closed`` or ``BadReply``.
        """
        connection = await self._pool.acquire()
        pooled = connection.pooled
        try:
            return await connection.ask(exchange)
        except Closed:
            if not pooled:
                raise
        finally:
            self._pool.release(connection)
        return await self._run_afresh(exchange)

    async def _run_afresh(self, exchange: Exchange) -> Answer:
        connection = await self._pool.acquire(fresh=True)
        try:
            answer = await connection.ask(exchange)
        finally:
            self._pool.release(connection)
        self._pool.deaths += 1
        return answer

    @property
    def deaths(self) -> int:
        """How many connections were found closed by a server that then answered anew."""
        return self._pool.deaths

    async def close(self) -> None:
        """Wait for what is being asked, and close every connection."""
        await self._pool.close()

    def _validate_key(self, key: bytes) -> bytes:
        return check_key(key)

    async def _execute_simple_command(self, conn: Connection, raw_command: bytes) -> bytes:
        assert isinstance(conn, ServerConnection)
        status = (await conn.ask(Exchange(raw_command, _ANY))).status
        return f"{status.word} {status.text}".rstrip().encode()

    async def _multi_get(  # type: ignore[override]
        self, conn: Connection, *keys: bytes, with_cas: bool = False
    ) -> tuple[dict[bytes, Value], dict[bytes, None]]:
        """Ask with ``get`` whatever ``with_cas`` says: Beansdb knows no ``gets``."""
        assert isinstance(conn, ServerConnection)
        unique = list(dict.fromkeys(map(self._validate_key, keys)))
        if not unique:
            return {}, {}
        request = b"get %b\r\n" % b" ".join(unique)
        answer = await conn.ask(Exchange(request, GET, unique))
        if answer.status.word != "END":
            raise BadReply(f"{answer.status.word} {answer.status.text}")
        return {value.key: value for value in answer.values}, dict.fromkeys(unique)
