"""Changes to one ``sfss node``, many under way at a time on one connection.

All that is asked in one turn of the event loop goes out in one write; a node keeps what comes
together in one commit, and answers in order. So a change costs a future, and no turn of its own at
a pool of connections.

A connection is used only after the server has said, on it, that it is a node: another would answer
our own command with an error, and run the body behind it as commands.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, cast

from sfss.memtext import STATS, Answer, AnswerParser, BadReply, stats_command
from sfss.memtext_extensions import NEWEST
from sfss.stores.memcached_opening import open_connection
from sfss.stores.memcached_pool import Closed, Exchange

SMALL: Final = 64 * 1024
"""Bytes of a request that does not keep others waiting; larger ones have a connection of their
own.
"""

_SMALL_AT_ONCE: Final = 512
_LARGE_AT_ONCE: Final = 4


class NoNode(Exception):
    """Raised when another server answers at the address: nothing was sent."""


class Writers:
    """The connections to the node at ``host``:``port``: one for small requests, one for large.

    They are opened when they are first needed. A request without an answer within ``timeout_s`` is
    given up, and so is the connection if nothing came on it for so long.
    """

    def __init__(self, host: str, port: int, timeout_s: float, secret: str = "") -> None:
        opening = partial(_open, host, port, timeout_s, secret)
        self._small = _Writer(opening, timeout_s, _SMALL_AT_ONCE)
        self._large = _Writer(opening, timeout_s, _LARGE_AT_ONCE)

    async def run(self, exchange: Exchange) -> Answer:
        """Return the answer of the node. Raises OSError (``TimeoutError`` is one), ``Closed``,
        ``BadReply``, ``NoNode``.
        """
        writer = self._small if len(exchange.request) <= SMALL else self._large
        return await writer.run(exchange)

    async def close(self) -> None:
        """Wait for what is under way, and close the connections."""
        await self._small.close()
        await self._large.close()


class _Writer:
    """One connection after the other; ``at_once`` requests under way at most."""

    def __init__(
        self, opening: Callable[[], Awaitable["_Connection"]], timeout_s: float, at_once: int
    ) -> None:
        self._open, self._timeout_s = opening, timeout_s
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()
        self._room = asyncio.Semaphore(at_once)
        self._closed = False

    async def run(self, exchange: Exchange) -> Answer:
        """See ``Writers.run``."""
        async with self._room:
            connection = self._connection
            if connection is None or connection.ended:
                async with asyncio.timeout(self._timeout_s):
                    connection = await self._opened()
            return await connection.ask(exchange)

    async def _opened(self) -> "_Connection":
        async with self._opening:
            if self._closed:
                raise ConnectionError("the store has been closed")
            if self._connection is None or self._connection.ended:
                self._connection = await self._open()
            return self._connection

    async def close(self) -> None:
        """Wait for what is under way, and close the connection."""
        self._closed = True
        if self._connection is not None:
            await self._connection.finish()


async def _open(host: str, port: int, timeout_s: float, secret: str) -> "_Connection":
    connection = _Connection(timeout_s)
    await open_connection(connection, host, port, secret)
    try:
        settings = (await connection.ask(Exchange(stats_command("settings"), STATS))).stats
        if NEWEST not in settings:
            raise NoNode("it is no sfss node any more")
    except BaseException:
        connection.end(Closed("it was not used"))
        raise
    return connection


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
        self._heard_at_s = 0.0
        self.ended = False

    def ask(self, exchange: Exchange) -> "asyncio.Future[Answer]":
        """Put a request into the next write; return its answer to come."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self.ended:
            answer.set_exception(Closed("it closed the connection"))
            return answer
        if not self._unsent:
            self._loop.call_soon(self._send)
        now_s = self._loop.time()
        if not self._waiting:
            self._heard_at_s = now_s
        exchange.times_sent += 1
        self._unsent.append(exchange.request)
        self._waiting.append((exchange, answer, now_s + self._timeout_s))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_age)
        return answer

    def _send(self) -> None:
        if self._unsent and not self.ended:
            self._transport.writelines(self._unsent)
        self._unsent = []

    def _check_age(self) -> None:
        """Give up what has waited for too long: one timer for all, which waits for the oldest."""
        self._timer = None
        now_s = self._loop.time()
        late = TimeoutError(f"no answer within {self._timeout_s:g} s")
        if self._waiting and now_s - self._heard_at_s >= self._timeout_s:
            self.end(late)
            return
        # The node goes on, only not as fast as it should: the others have time left.
        for _, answer, deadline_s in self._waiting:
            if deadline_s > now_s:
                self._timer = self._loop.call_at(deadline_s, self._check_age)
                return
            if not answer.done():
                answer.set_exception(late)

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
        self._heard_at_s = self._loop.time()
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
