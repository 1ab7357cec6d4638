"""Changes to one ``sfss node``, many under way at a time on one connection.

All that is asked in one turn of the event loop goes out in one write; a node keeps what comes
together in one commit, and answers in order. So a change costs a future, and no turn of its own at
a pool of connections.

Only for servers that are known to read commands behind a long one while that is being done, and
only for small ones: what is large would keep all behind it waiting.
"""

import asyncio
from collections import deque
from typing import Final, cast

from sfss.memtext import Answer, AnswerParser, BadReply
from sfss.stores.memcached_pool import Closed, Exchange

REQUEST_LIMIT: Final = 64 * 1024
"""Bytes of a request that goes this way; a larger one gets a connection of the pool to itself."""

UNDER_WAY_LIMIT: Final = 512
"""Most requests that are under way at a time."""


class Writer:
    """Asks the node at ``host``:``port``; the connection is opened when it is first needed.

    A request that has got no answer for ``timeout_s`` takes the connection with it.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self.losses = 0
        """How many connections have ended: the node may have been restarted."""

    def takes(self, exchange: Exchange) -> bool:
        """Tell whether ``exchange`` can go this way now."""
        connection = self._connection
        is_free = connection is None or connection.under_way < UNDER_WAY_LIMIT
        return is_free and len(exchange.request) <= REQUEST_LIMIT

    async def run(self, exchange: Exchange) -> Answer:
        """Return the answer of the server. Raises OSError (``TimeoutError`` is one), ``Closed`` or
        ``BadReply``.
        """
        connection = self._connection
        if connection is None or connection.ended:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._open()
        return await connection.ask(exchange)

    async def _open(self) -> "_Connection":
        async with self._opening:
            if self._closed:
                raise ConnectionError("the store has been closed")
            connection = self._connection
            if connection is not None and not connection.ended:
                return connection
            self.losses += connection is not None
            connection = _Connection(self._timeout_s)
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, self._host, self._port)
            self._connection = connection
            return connection

    async def close(self) -> None:
        """Wait for what is under way, and close the connection."""
        self._closed = True
        if self._connection is not None:
            await self._connection.finish()


class _Connection(asyncio.Protocol):
    """One connection, and what is under way on it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._parser = AnswerParser()
        self._unsent: list[bytes] = []
        # In the order in which they are answered, with the time when each is given up.
        self._waiting: deque[tuple[Exchange, asyncio.Future[Answer], float]] = deque()
        self.ended = False

    @property
    def under_way(self) -> int:
        """How many requests wait for their answer."""
        return len(self._waiting)

    def ask(self, exchange: Exchange) -> "asyncio.Future[Answer]":
        """Put a request into the next write; return its answer to come."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self.ended:
            answer.set_exception(Closed("it closed the connection"))
            return answer
        if not self._unsent:
            self._loop.call_soon(self._send)
        exchange.times_sent += 1
        self._unsent.append(exchange.request)
        self._waiting.append((exchange, answer, self._loop.time() + self._timeout_s))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_age)
        return answer

    def _check_age(self) -> None:
        """End if the oldest request has waited for too long: one timer for all of them."""
        self._timer = None
        if not self._waiting:
            return
        deadline_s = self._waiting[0][2]
        if deadline_s <= self._loop.time():
            self.end(TimeoutError(f"no answer within {self._timeout_s:g} s"))
        else:
            self._timer = self._loop.call_at(deadline_s, self._check_age)

    def _send(self) -> None:
        if self._unsent and not self.ended:
            self._transport.writelines(self._unsent)
        self._unsent = []

    async def finish(self) -> None:
        """Wait for what is under way, and end."""
        if self._waiting:
            await asyncio.wait([answer for _, answer, _ in self._waiting])
        self.end(Closed("the store has been closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Give out the answers that have come."""
        parser, waiting = self._parser, self._waiting
        parser.feed(data)
        try:
            while waiting:
                exchange, future, _ = waiting[0]
                answer = parser.next_answer(exchange.grammar, exchange.keys)
                if answer is None:
                    return
                waiting.popleft()
                if not future.done():
                    future.set_result(answer)
                if not answer.in_step:
                    raise BadReply(f"{answer.status.word} {answer.status.text}")
            if not parser.empty():
                raise BadReply("more than was asked for")
        except BadReply as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: what is under way may have been done."""
        how = f"reset the connection ({exc})" if exc else "closed the connection without an answer"
        self.end(Closed(f"it {how}"))

    def end(self, error: Exception) -> None:
        """Throw the connection away; whoever waits is told ``error``."""
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        # abort(): what is still buffered must not be done minutes later, when the node goes on.
        self._transport.abort()
        while self._waiting:
            _, future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)
