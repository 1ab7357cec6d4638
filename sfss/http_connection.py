"""One connection to an HTTP server (a node, say), and what is asked on it: one request at a time.

A request costs neither a task nor a future of its own: it is an ``Exchange``, which is told the
answer when that has come. A connection can be used again only after a whole, well-formed answer
with nothing behind it, and not if the node is about to close it. Whatever else happens, cancelled
askers included, throws it away.

Requests are not pipelined: an answer that is slow would keep back all behind it, and what a node
does with those behind one that it answers by closing, each server decides for itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from math import ceil
from typing import Final, NamedTuple, Protocol, cast

from sfss.http_text import HEAD_LIMIT, BadResponse, Head, ResponseParser
from sfss.record import Body, pieces_of

HELD_LIMIT: Final = 1024 * 1024
"""Bytes of an answer that are held; a longer one is given out piece by piece."""

TICKS: Final = 16
"""How often in a time-out connections are looked after."""


class NoAnswer(Exception):
    """Raised when no answer came that can be trusted. ``sent``: the node may have had the
    request.
    """

    def __init__(self, reason: str, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Request(NamedTuple):
    """A request: all of its bytes up to the body, and that. ``head_limit``: bytes that the head of
    the answer may have.
    """

    head: bytes
    body: Body = b""
    is_head: bool = False
    head_limit: int = HEAD_LIMIT


class Exchange:
    """One request, and whoever gets the answer: one of the three methods is called, once, and
    none after ``give_up``. ``patience`` is the share of the time-out that each byte may take.
    """

    def __init__(self, request: Request, patience: float = 1.0) -> None:
        self.request = request
        self.patience_ticks = ceil(patience * TICKS)
        self.age_ticks = 0
        self.repeated = self.over = False
        self.connection: Connection | None = None

    def answered(self, head: Head, body: bytes) -> None:
        """Take a whole answer."""
        raise NotImplementedError

    def begun(self, head: Head, stream: "Stream") -> None:
        """Take an answer whose body is long, and is still to come."""
        raise NotImplementedError

    def failed(self, failure: NoAnswer) -> None:
        """Take note that there is no answer."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Wait no longer; the connection goes with it."""
        self.over = True
        if self.connection is not None:
            self.connection.end("it was not waited for")


class Stream:
    """The body of a long answer, as it comes. ``close`` must follow."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Connection | None = connection
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._failure: NoAnswer | None = None
        self._news = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body; raise ``NoAnswer`` where it is cut off."""
        while self._connection is not None or self._pieces or self._failure:
            if self._pieces:
                piece = self._pieces.popleft()
                self._size -= len(piece)
                if self._connection is not None and self._size < HELD_LIMIT // 2:
                    self._connection.read_on()
                yield piece
            elif self._failure is not None:
                raise self._failure
            else:
                self._news.clear()
                await self._news.wait()

    async def beginning(self, limit: int) -> bytes:
        """Return about ``limit`` bytes of the body, as far as they come, and wait for no more."""
        said = bytearray()
        try:
            async for piece in self.pieces():
                said += piece
                if len(said) >= limit:
                    break
        except NoAnswer:
            pass  # who asks knows the status, and that is the news
        finally:
            self.close()
        return bytes(said)

    def add(self, piece: bytes) -> None:
        """Take the next piece; the node is not read from while too many wait."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > HELD_LIMIT and self._connection is not None:
            self._connection.read_no_more()
        self._news.set()

    def end(self, failure: NoAnswer | None = None) -> None:
        """Take note that this was all, or that it was not."""
        self._connection, self._failure = None, failure
        self._news.set()

    def close(self) -> None:
        """Wait for no more."""
        if self._connection is not None:
            self._connection.end("it was not waited for")


class Home(Protocol):
    """Whom a connection belongs to."""

    def free(self, connection: "Connection") -> None:
        """Take it back: its answer has come."""

    def gone(self, connection: "Connection") -> None:
        """Take note that it is no more."""

    def ask_again(self, exchange: Exchange) -> None:
        """Send a request once more."""

    def too_late(self) -> str:
        """Return the reason for giving up a node that is silent."""


class Connection(asyncio.Protocol):
    """One connection, and what is asked on it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._exchange: Exchange | None = None
        self._parser = ResponseParser()
        self._pieces: list[bytes] = []
        self._size = self._unsent = self._silent_ticks = 0
        self._stream: Stream | None = None
        self._sending: asyncio.Task[None] | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._begun = self._reused = self._paused = self.ended = False
        self._is_read = False  # the body to be sent: meanwhile the node need not say anything
        self.idle_since_s = 0.0  # on the clock of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, exchange: Exchange) -> None:
        """Send a request."""
        self._exchange, exchange.connection = exchange, self
        request = exchange.request
        self._parser = ResponseParser(request.is_head, request.head_limit)
        self._size = self._silent_ticks = 0
        self._begun = self._is_read = False
        body = request.body
        if not isinstance(body, bytes | bytearray | memoryview):
            self._transport.write(request.head)
            self._sending = asyncio.ensure_future(self._send(body))
        elif len(body) > HELD_LIMIT:
            self._transport.write(request.head)
            self._transport.write(body)
        else:
            self._transport.write(b"".join((request.head, body)) if body else request.head)

    async def _send(self, body: Body) -> None:
        pieces, left = pieces_of(body), len(body)
        try:
            while left:
                await self._can_write.wait()
                self._is_read = True
                piece = await asyncio.to_thread(next, pieces)
                self._is_read, self._silent_ticks = False, 0
                self._transport.write(piece)
                left -= len(piece)
            self._sending = None
        except OSError as error:
            self._sending = None
            self.end(f"the body to be sent cannot be read: {error}")

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of the answer."""
        self._silent_ticks = 0
        self._begun = True
        if self._exchange is None:
            self.end("it sent what nobody had asked for")
            return
        parser = self._parser
        try:
            body = parser.feed(data)
        except BadResponse as error:
            self.end(f"its answer is malformed: {error}")
            return
        if body:
            self._take(body)
        if parser.complete and self._exchange is not None:
            self._complete()

    def _take(self, body: bytes) -> None:
        if self._stream is not None:
            self._stream.add(body)
            return
        self._pieces.append(body)
        self._size += len(body)
        head = self._parser.head
        assert head is not None
        if self._size > HELD_LIMIT or (head.length or 0) > HELD_LIMIT:
            assert self._exchange is not None
            self._stream = stream = Stream(self)
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                stream.add(piece)
            self._exchange.begun(head, stream)

    def _complete(self) -> None:
        exchange, head, stream = self._exchange, self._parser.head, self._stream
        assert exchange is not None and head is not None
        pieces, self._pieces = self._pieces, []
        exchange.connection = self._exchange = self._stream = None
        self.read_on()
        if head.keeps and self._sending is None and not self._transport.get_write_buffer_size():
            self._reused = True
            self._home.free(self)
        else:
            self.end("it is about to close the connection")
        if stream is not None:
            stream.end()
        else:
            exchange.answered(head, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def read_no_more(self) -> None:
        """Leave what comes in the hands of the kernel."""
        if not self._paused and not self.ended:
            self._paused = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        if self._paused and not self.ended:
            self._paused = False
            self._silent_ticks = 0
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Send no more for now."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._silent_ticks = 0
        self._can_write.set()

    def tick(self, minds_readers: bool = False) -> None:
        """Watch how long the node is silent, or, if that ``minds_readers``, not read from. It is
        counted in ticks: time for which the event loop stood still is not the node's.
        """
        exchange = self._exchange
        if exchange is None or (self._paused and not minds_readers) or self._is_read:
            return
        unsent = self._transport.get_write_buffer_size()
        self._silent_ticks = 0 if unsent < self._unsent else self._silent_ticks + 1
        self._unsent = unsent
        if self._silent_ticks > exchange.patience_ticks:
            self.end(self._home.too_late())

    def eof_received(self) -> None:
        """End: who closes one direction gets no more requests."""
        self.end("it closed the connection without a whole answer", closed=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        how = "closed the connection" if exc is None else f"reset the connection ({exc})"
        self.end(f"it {how} without a whole answer", closed=True)

    def end(self, reason: str, closed: bool = False) -> None:
        """Throw the connection away. What was asked on it is asked again if the node ``closed`` a
        connection that it had kept, before it said anything.
        """
        if self.ended:
            return
        self.ended = True
        self._transport.abort()
        if self._sending is not None:
            self._sending.cancel()
        exchange, stream = self._exchange, self._stream
        self._exchange = self._stream = None
        self._home.gone(self)
        if stream is not None:
            stream.end(NoAnswer(reason, sent=True))
        elif exchange is not None and not exchange.over:
            exchange.connection = None
            if closed and self._reused and not self._begun and not exchange.repeated:
                self._home.ask_again(exchange)
            else:
                exchange.failed(NoAnswer(reason, sent=True))
