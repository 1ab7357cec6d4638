"""A connection whose plain GETs go the short way (``fast``); all else is ``Connection``'s.

The order of answers is the order of requests: while aiohttp has one in hand, all that comes goes to
aiohttp; while a store is waited for, what comes is held, and then aiohttp answers both.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, TypeAlias

from aiohttp import web

from sfss.asking import request_id_of
from sfss.metrics import Counters
from sfss.record import Buffer
from sfss.web import fast
from sfss.web.access import Entry, quoted, redacted
from sfss.web.connection import SLOW, Bounds, Connection
from sfss.web.fast import ShortWay

HEAD_LIMIT: Final = 16 * 1024
"""Bytes among which the end of a request's head is looked for, to come back to the short way."""

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("sfss.access")

ShortLog: TypeAlias = Callable[[asyncio.Transport, bytes, int, float | None], None]
"""Called with the connection, the request, the size of the body of its answer, and seconds."""


class FastConnection(Connection):
    """One connection of a client."""

    __slots__ = (
        "_awaits_store",
        "_began_s",
        "_descriptor",
        "_fed",
        "_head",
        "_head_size",
        "_held",
        "_interrupted",
        "_log",
        "_now",
        "_short_way",
        "_short_way_open",
        "_tail",
        "peer",
    )

    def __init__(
        self,
        server: web.Server,
        counters: Counters,
        bounds: Bounds,
        ways: tuple[ShortWay, ShortLog | None],
        **options: Any,
    ) -> None:
        super().__init__(server, counters, bounds, **options)
        (self._short_way, self._log), self._now = ways, self._loop.time
        self._short_way_open = False
        self._descriptor = -1
        self.peer = ""
        # A request that went the short way and is not answered yet; what has come behind it; and
        # whether something came in between, so that the answer must be aiohttp's.
        self._awaits_store = self._interrupted = False
        self._held = b""
        self._began_s = 0.0
        # Bytes in aiohttp's parser since it was last known empty, and the last four of them; the
        # head that they begin with, as far as it has come, and its size once it has come whole.
        self._fed = self._head_size = 0
        self._head = self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        name: Any = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        if self._may_half_close:  # what is written past the transport would not be encrypted
            self._descriptor = transport.get_extra_info("socket").fileno()
        self._settle()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End: nobody can be answered any more."""
        self._short_way_open = False
        self._interrupted = True
        self._descriptor = -1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client: all of them come through here, before anything is parsed."""
        if self._short_way_open:
            found = self._short_way.remembered(data)
            if found is not None:
                face, parts = found
                self._send(data, face, parts, None)
                return
            self._awaits_store = True
            self._began_s = perf_counter()
            if self._short_way.begin(data, self):
                if self._awaits_store:
                    self._short_way_open = False
                return
            self._awaits_store = False
        elif self._awaits_store:
            self._hold(data)
            return
        self._feed(data)

    def answer(self, request: bytes, face: str, parts: tuple[bytes, bytes, Buffer]) -> None:
        """Send the answer to ``request``, which went the short way; see ``fast.Client``."""
        if self._interrupted:
            self.go_long_way(request)
            return
        self._awaits_store = False
        self._short_way_open = True
        self._send(request, face, parts, self._began_s)

    def _send(
        self,
        request: bytes,
        face: str,
        parts: tuple[bytes, bytes, Buffer],
        began_s: float | None,
    ) -> None:
        """Send head, date and body of an answer from where they are, and count the request;
        ``began_s`` is None where the answer was remembered.
        """
        transport = self.transport
        if transport is None:
            return
        try:
            direct = self._descriptor >= 0 and not transport.get_write_buffer_size()
            sent = os.writev(self._descriptor, parts) if direct else 0
        except OSError:
            sent = 0  # the transport will find the same, and knows what to do
        head, date, body = parts
        body_size = len(body)
        if sent != len(head) + len(date) + body_size:
            transport.write(_unsent(parts, sent))
        seconds = None if began_s is None else perf_counter() - began_s
        if seconds is None:
            self._counters.remembered(face, body_size)
        else:
            self._counters.short(face, body_size, seconds)
            if seconds > self._slow_s:
                self._loop.call_soon(_log_slow, request, seconds)
        self._next_keepalive_close_time = self._now() + self._keepalive_timeout
        self.head_began_s = None
        if self._log is not None:
            # Later: a log that does not take the line must not hold a store up.
            self._loop.call_soon(self._log, transport, request, body_size, seconds)

    def go_long_way(self, request: bytes) -> None:
        """Have aiohttp answer ``request``, and what has come behind it."""
        held, self._held = self._held, b""
        self._awaits_store = self._interrupted = False
        if self.transport is None or self.transport.is_closing():
            return  # nobody to answer
        if held:
            self.transport.resume_reading()
        input_ended, self._input_ended = self._input_ended, False
        self._feed(request + held)
        if input_ended:
            super().eof_received()

    def _refuse_head(self, sentence: str, status: int) -> None:
        self._short_way_open = False
        super()._refuse_head(sentence, status)

    def _hold(self, data: bytes) -> None:
        """Keep what comes while a file is awaited: aiohttp then answers both requests, in order,
        and asks the store for the first once more.
        """
        if not self._held and self.transport is not None:
            self.transport.pause_reading()
        self._held += data
        self._interrupted = True

    def eof_received(self) -> bool:  # type: ignore[override]
        """Take note that the client has sent all it will; return whether it still gets answers."""
        if self._awaits_store:
            self._input_ended = self._interrupted = True
            return self._may_half_close
        self._short_way_open = False
        return super().eof_received()

    def drain(self) -> None:
        """Close the connection with the next answer."""
        super().drain()
        self._short_way_open = False
        self._interrupted = self._awaits_store

    def pause_writing(self) -> None:
        """Take note that more waits to be sent than the transport likes to hold."""
        super().pause_writing()
        self._short_way_open = False

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        super().resume_writing()
        self._settle()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer to one request and count it; if it was the last, open the short way."""
        sent, disconnected = await super().finish_response(request, resp, start_time)
        if self._idle() and sent.keep_alive and self._parser_is_empty(request):
            self._fed = 0
            self._settle()
        return sent, disconnected

    def _settle(self) -> None:
        """Open the short way unless something is in flight, unsent, or about to end."""
        busy = self._fed or self._paused or self._awaits_store
        self._short_way_open = not (busy or self._input_ended or self._draining)

    def _idle(self) -> bool:
        return super()._idle() and not self._awaits_store

    def _process_keepalive(self) -> None:
        if self._awaits_store or self._paused:
            self._next_keepalive_close_time = self._now() + self._keepalive_timeout
        super()._process_keepalive()

    def _feed(self, data: bytes) -> None:
        """Give ``data`` to aiohttp's parser, and note how much it has since it was empty."""
        if self._fed == 0:
            self._head, self._tail, self._head_size = b"", b"", 0
        self._short_way_open = False
        self._fed += len(data)
        self._tail = (self._tail + data[-4:])[-4:]
        if not self._head_size and len(self._head) < HEAD_LIMIT:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end >= 0:
                self._head, self._head_size = b"", end + 4
        super().data_received(data)

    def _parser_is_empty(self, request: web.BaseRequest) -> bool:
        """Tell whether the parser holds nothing behind ``request``, the last that it has found."""
        if not request.content.is_eof():
            return False
        # A head that ended so would have been found. Chunks end so, too; other bodies anyhow.
        ends_here = self._tail == b"\r\n\r\n"
        size = self._head_size + (request.content_length or 0)
        return ends_here or (self._head_size > 0 and self._fed == size)


def _unsent(parts: tuple[Buffer, ...], sent: int) -> bytes:
    """Return a copy of ``parts`` without the first ``sent`` bytes."""
    rest = []
    for part in parts:
        rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return b"".join(rest)


def _log_slow(request: bytes, seconds: float) -> None:
    line, fields = fast.read(request)
    request_id = request_id_of(fields.get("x-request-id")) or "-"
    _log.warning(SLOW, seconds, quoted(line), 200, request_id)


def log_short(
    transport: asyncio.Transport, request: bytes, body_size: int, seconds: float | None
) -> None:
    """Write the line of a request that was answered 200 by the short way."""
    peer: Any = transport.get_extra_info("peername")
    line, fields = fast.read(request)
    referer, agent = redacted(fields.get("referer")), fields.get("user-agent")
    remote = peer[0] if isinstance(peer, tuple) else peer or None
    request_id = request_id_of(fields.get("x-request-id")) or None
    entry = Entry(remote, line, 200, body_size, referer, agent, request_id, seconds)
    _access_log.info(entry)
