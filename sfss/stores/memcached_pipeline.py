"""The hot path to one server of the memcached protocol: many ``get`` commands under way at a time
on one connection.

All that is asked in one turn of the event loop goes out in one write, each key once, and answers
are matched in order. A request costs neither a task nor a future: it is a key, and a function that
gets the item. Whatever is no clean answer gives it None; whoever asked then goes the long way,
which finds what is wrong and says it. So none of that is logged or raised here.

An answer that is slow keeps back all behind it. While the oldest request is late nobody is let in
any more, and one that is far too old takes the connection with it.
"""

import asyncio
import logging
from collections import deque
from math import ceil, inf
from typing import Final, cast

from sfss.memtext import AnswerParser, BadReply, get_commands, is_safe_key
from sfss.record import RECORD_FLAGS, Buffer, Form
from sfss.stores.base import Use
from sfss.stores.memcached_opening import open_connection

UNDER_WAY_LIMIT: Final = 256
"""Most keys that are asked for at a time."""

RETRY_AFTER_S: Final = 1.0
"""Seconds without a connection after one failed."""

# Of the store's time-out. What was given up here has all of it once more on the long way.
_PATIENCE: Final = 0.25
_TICK_S: Final = 0.01
_LATE_TICKS: Final = 2
_READ_SIZE: Final = 256 * 1024

_log = logging.getLogger(__name__)


class Pipeline:
    """Asks the server at ``host``:``port``; see ``ViewableStore`` for ``view``.

    The connection is opened when one is first asked for; until it is there, the answer is False. It
    is given up when an answer takes ``patience_s`` (by default a quarter of ``timeout_s``).
    """

    def __init__(
        self,
        host: str,
        port: int,
        timeout_s: float,
        patience_s: float | None = None,
        secret: str = "",
    ) -> None:
        self._host, self._port, self._timeout_s, self._secret = host, port, timeout_s, secret
        self._patience_s = timeout_s * _PATIENCE if patience_s is None else patience_s
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._retry_at_s = -inf  # on the clock of the event loop
        self._closed = False

    def view(self, key: bytes, use: Use) -> bool:
        """Have ``use`` called with the item under ``key``; return False where that cannot be."""
        if self._connection is None:
            self._connect()
            return False
        return self._connection.ask(key, use)

    def lost(self, failed: bool) -> None:
        """Take note that there is no connection any more, or again none."""
        self._connection = None
        if failed:
            self._retry_at_s = asyncio.get_running_loop().time() + RETRY_AFTER_S

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._closed and self._connecting is None and loop.time() >= self._retry_at_s:
            self._connecting = loop.create_task(self._open())

    async def _open(self) -> None:
        connection = _Connection(self, ceil(self._patience_s / _TICK_S))
        try:
            async with asyncio.timeout(self._timeout_s):
                await open_connection(connection, self._host, self._port, self._secret)
        except (OSError, UnicodeError):
            self.lost(failed=True)
        else:
            self._connection = None if connection.ended else connection
        finally:
            self._connecting = None

    async def close(self) -> None:
        """Close the connection; what is under way gets None."""
        self._closed = True
        if self._connection is not None:
            self._connection.end()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])


class _Connection(asyncio.BufferedProtocol):
    """One connection, and what is under way on it."""

    def __init__(self, pipeline: Pipeline, patience_ticks: int) -> None:
        self._pipeline, self._patience_ticks = pipeline, patience_ticks
        self._loop = asyncio.get_running_loop()
        self._parser = AnswerParser()
        self._unsent: dict[bytes, list[Use]] = {}
        self._sent: deque[tuple[bytes, list[Use]]] = deque()  # the oldest first
        self._sent_count = 0
        self._paused = self._late = self.ended = False
        self._ticking: asyncio.TimerHandle | None = None
        self._mark = self._age_ticks = 0

    def ask(self, key: bytes, use: Use) -> bool:
        """Put a request into the next write, or return False."""
        uses = self._unsent.get(key)
        if uses is not None:  # the request has not gone out: its answer is new enough for this one
            uses.append(use)
            return True
        if self._paused or self._late or len(self._sent) + len(self._unsent) >= UNDER_WAY_LIMIT:
            return False
        if not is_safe_key(key):
            return False
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent[key] = [use]
        return True

    def _send(self) -> None:
        if self._unsent:
            self._sent.extend(self._unsent.items())
            self._sent_count += len(self._unsent)
            self._transport.write(get_commands(self._unsent))
            self._unsent.clear()
            if self._ticking is None:
                self._ticking = self._loop.call_later(_TICK_S, self._tick)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._parser.room(_READ_SIZE)

    def buffer_updated(self, nbytes: int) -> None:
        """Give out the items that have come."""
        parser, sent = self._parser, self._sent
        parser.received(nbytes)
        try:
            # Whoever is given an item may ask for more, or end this connection.
            while sent and (item := parser.next_item(sent[0][0])) is not None:
                _, uses = sent.popleft()
                form = Form.RECORD if item[1] == RECORD_FLAGS else Form.RAW
                _give(uses, item[0], form)
            if not sent and not parser.empty():
                raise BadReply("more than was asked for")
        except BadReply:
            self.end(failed=True)

    def pause_writing(self) -> None:
        """Let nobody in while the server does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """End; a server may well close a connection on which nothing is under way."""
        self.end(failed=bool(self._sent) or not self._sent_count)

    def _tick(self) -> None:
        """Watch the age of the oldest request. It is counted in ticks: time for which the event
        loop stood still is not the server's.
        """
        if self._sent_count - len(self._sent) >= self._mark:
            # Whatever had been sent when the mark was set has been answered.
            self._mark, self._age_ticks = self._sent_count, 0
        else:
            self._age_ticks += 1
        self._late = self._age_ticks >= _LATE_TICKS
        if self._age_ticks >= self._patience_ticks:
            self.end(failed=True)
        self._ticking = self._loop.call_later(_TICK_S, self._tick) if self._sent else None

    def end(self, failed: bool = False) -> None:
        """Throw the connection away; whoever waits for an item gets None."""
        if self.ended:
            return
        self.ended = True
        self._pipeline.lost(failed)
        self._transport.abort()
        waiting = [*self._sent, *self._unsent.items()]
        self._sent.clear()
        self._unsent.clear()
        for _, uses in waiting:
            _give(uses, None, Form.RAW)


def _give(uses: list[Use], item: Buffer | None, form: Form) -> None:
    for use in uses:
        try:
            use(item, form)
        except Exception:
            _log.exception("whoever asked for an item could not use it")
