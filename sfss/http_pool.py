"""Connections to one HTTP server, kept as long as they are used."""

import asyncio
from collections import deque
from contextlib import suppress
from ssl import SSLContext
from typing import Final

from sfss.http_connection import TICKS, Connection, Exchange, NoAnswer, Request, Stream
from sfss.http_text import Head

IDLE_LIMIT_S: Final = 30.0
"""Seconds for which a connection is kept that nobody uses: servers close them after 60 to 75."""


class Pool:
    """Up to ``size_limit`` connections to ``host``:``port``, opened when needed. A node that takes
    ``timeout_s`` until its next byte, or to let a connection be made, has failed. With ``tls``
    what is said is enciphered, and the server proves who it is.
    """

    def __init__(
        self,
        host: str,
        port: int,
        timeout_s: float,
        size_limit: int,
        tls: SSLContext | None = None,
    ) -> None:
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._size_limit, self._tls = size_limit, tls
        self._idle: list[Connection] = []  # the one that was used last comes last
        self._busy: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Exchange] = deque()
        self._ticking: asyncio.TimerHandle | None = None
        self._closed = self._minds_readers = False
        self._quiet = asyncio.Event()

    def ask(self, exchange: Exchange) -> None:
        """Send a request as soon as there is a connection for it."""
        if self._closed:
            exchange.failed(NoAnswer("the store has been closed", sent=False))
            return
        loop = asyncio.get_running_loop()
        if self._ticking is None:
            self._ticking = loop.call_later(self._timeout_s / TICKS, self._tick)
        while self._idle:
            connection = self._idle.pop()
            if loop.time() - connection.idle_since_s < IDLE_LIMIT_S:
                self._use(connection, exchange)
                return
            connection.end("it was not used for long")
        self._waiting.append(exchange)
        self._open()

    def ask_again(self, exchange: Exchange) -> None:
        """Send a request once more. The other idle connections will be as dead as the one that it
        was sent on.
        """
        exchange.repeated = True
        self._drop_idle()
        self.ask(exchange)

    def too_late(self) -> str:
        """Return the reason for giving up a node that is silent."""
        return f"no answer within {self._timeout_s:g} s"

    def free(self, connection: Connection) -> None:
        """Take back a connection whose answer has come."""
        self._busy.discard(connection)
        exchange = self._next()
        if exchange is not None:
            self._use(connection, exchange)
        elif self._closed:
            connection.end("the store has been closed")
        else:
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)
        self._tell_quiet()

    def gone(self, connection: Connection) -> None:
        """Take note that there is one connection fewer."""
        self._busy.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._open()
        self._tell_quiet()

    async def close(self, minds_readers: bool = False) -> None:
        """Wait for the answers that are under way, and close every connection. ``minds_readers``:
        not for those that nobody reads on.
        """
        self._closed, self._minds_readers = True, minds_readers
        self._drop_idle()
        for task in list(self._opening):
            task.cancel()
        while (exchange := self._next()) is not None:
            exchange.failed(NoAnswer("the store has been closed", sent=False))
        self._tell_quiet()
        await self._quiet.wait()

    def _use(self, connection: Connection, exchange: Exchange) -> None:
        self._busy.add(connection)
        connection.begin(exchange)

    def _next(self) -> Exchange | None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.over:
                return exchange
        return None

    def _open(self) -> None:
        """Open connections for those who wait."""
        open_count = len(self._busy) + len(self._idle)
        while len(self._opening) < len(self._waiting) and not self._closed:
            if open_count + len(self._opening) >= self._size_limit:
                return
            task = asyncio.ensure_future(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._open()
        self._tell_quiet()

    async def _connect(self) -> None:
        connection = Connection(self)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                await loop.create_connection(
                    lambda: connection, self._host, self._port, ssl=self._tls
                )
        # UnicodeError: a host name that no name server can be asked for.
        except (OSError, UnicodeError) as error:
            late = isinstance(error, TimeoutError)
            reason = self.too_late() if late else str(error) or type(error).__name__
            if (exchange := self._next()) is not None:
                exchange.failed(NoAnswer(reason, sent=False))
        else:
            if not connection.ended:
                self.free(connection)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().end("the node has closed another like it")

    def _tick(self) -> None:
        self._ticking = None
        for connection in list(self._busy):
            connection.tick(self._minds_readers)
        for exchange in self._waiting:
            exchange.age_ticks += 1
        while self._waiting and self._waiting[0].age_ticks > self._waiting[0].patience_ticks:
            exchange = self._waiting.popleft()
            if not exchange.over:
                exchange.failed(NoAnswer("all connections to it are in use", sent=False))
        if self._busy or self._waiting:
            loop = asyncio.get_running_loop()
            self._ticking = loop.call_later(self._timeout_s / TICKS, self._tick)

    def _tell_quiet(self) -> None:
        if self._closed and not self._busy and not self._opening:
            self._quiet.set()


class _Asking(Exchange):
    """A request that a coroutine waits for."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[tuple[Head, bytes | Stream]] = loop.create_future()

    def answered(self, head: Head, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result((head, body))

    def begun(self, head: Head, stream: Stream) -> None:
        if self.answer.done():
            stream.close()
        else:
            self.answer.set_result((head, stream))

    def failed(self, failure: NoAnswer) -> None:
        if not self.answer.done():
            failure.sent = failure.sent or self.repeated
            self.answer.set_exception(failure)


async def ask(pool: Pool, request: Request) -> tuple[Head, bytes | Stream]:
    """Return the answer to ``request``, whose body is a ``Stream`` if it is long. Raises
    ``NoAnswer``. Cancelled, it takes the connection with it.
    """
    exchange = _Asking(request)
    pool.ask(exchange)
    try:
        return await exchange.answer
    except asyncio.CancelledError:
        exchange.give_up()
        if exchange.answer.done() and not exchange.answer.cancelled():
            with suppress(NoAnswer):
                _, body = exchange.answer.result()
                if isinstance(body, Stream):
                    body.close()
        raise
