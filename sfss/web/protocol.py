"""Connections: what aiohttp does with one, and where this service needs it done otherwise.

- A body that is cut off or malformed is answered with 400 as soon as that is known, also to a
  client that has closed only its half. aiohttp leaves such a handler waiting for the rest.
- A client that stops reading is cut off: aiohttp waits for it for ever, and holds the file.
- Its errors come in our form, without a traceback; a request is counted when it is answered.
- A worker that stops lets each open connection have one more request, tells it to close, and waits
  for what is in flight: a connection closed just as a request arrives would drop that request.

A request goes on when its client leaves: a write that has begun is finished.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from sfss.config import ServerSettings
from sfss.metrics import Counters
from sfss.web import http
from sfss.web.access import AccessLogger
from sfss.web.fast import ShortWay

HEAD_LIMIT: Final = 16 * 1024
"""Bytes among which the end of a request's head is looked for, to come back to the short way."""

COPIED_BODY_LIMIT: Final = 64 * 1024
"""Bytes of a body that are copied behind their head; a larger one is sent from where it is."""

LINGERING_S: Final = 5.0
"""Seconds for which the rest of a refused body is read and dropped, so that the client, busy with
sending, gets to read the refusal.
"""

STALLED_S: Final = 60.0
"""Seconds in which a client that is being sent an answer has to take some of it."""

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("sfss.access")


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_answered",
        "_counters",
        "_fed",
        "_head",
        "_head_size",
        "_input_ended",
        "_last_payload",
        "_open",
        "_server",
        "_short_way",
        "_stall_check",
    )

    def __init__(self, server: "Server", counters: Counters, **options: Any) -> None:
        super().__init__(server, **options)
        self._server, self._counters = server, counters
        self._short_way = server.short_way
        self._open = False
        self._answered = 0
        # Bytes in aiohttp's parser since it was last known empty; the head that they begin with, as
        # far as it has come, and its size once it has come whole.
        self._fed = self._head_size = 0
        self._head = b""
        self._stall_check: asyncio.TimerHandle | None = None
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        self._input_ended = False  # nothing that may still come is looked at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._open = True
        self._counters.connected(1)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End: nobody can be answered any more."""
        if self._open:
            self._open = False
            self._counters.connected(-1)
        self._forget_stall()
        super().connection_lost(exc)
        self._fail_body("the connection was lost")

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client: all of them come through here, before anything is parsed."""
        if self._input_ended:
            return
        if self._short_way is not None:
            if self._fed == 0 and self._answer_now(self._short_way, data):
                return
            self._fed_more(data)
        super().data_received(data)
        if self._messages:
            message, payload = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._malformed()
            else:
                self._last_payload = payload

    def _answer_now(self, short_way: ShortWay, data: bytes) -> bool:
        """Answer by the short way if it can be gone: nothing is in flight, nothing is unsent."""
        transport, waiter = self.transport, self._waiter
        if transport is None or waiter is None or waiter.done():
            return False
        if self._paused or self._server.draining or (answer := short_way.answer(data)) is None:
            return False
        head, body = answer
        if len(body) > COPIED_BODY_LIMIT:
            transport.writelines((head, body))
        else:
            transport.write(head + body)
        self._counters.request(200, 0, len(body))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    def _fed_more(self, data: bytes) -> None:
        """Count the bytes that aiohttp's parser has been given since it was last known empty."""
        if self._fed == 0:
            self._head, self._head_size = b"", 0
        self._fed += len(data)
        if not self._head_size and len(self._head) < HEAD_LIMIT:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end >= 0:
                self._head, self._head_size = b"", end + 4

    def _check_parser_empty(self, request: web.BaseRequest) -> None:
        """Note whether the request that was just answered is all that the parser was given."""
        chunked = "Transfer-Encoding" in request.headers
        body_size = request.content_length or 0
        if self._head_size and not chunked and self._fed == self._head_size + body_size:
            self._fed = 0

    def _malformed(self) -> None:
        self._input_ended = True
        if not self._last_payload.is_eof():
            # The mistake is in the body of a request that already has a handler: it answers.
            self._messages.pop()
            self._request_count -= 1
            self._fail_body("its chunks are malformed")
            if self._idle():
                self.force_close()  # it has answered already, and what follows makes no sense

    def eof_received(self) -> bool:  # type: ignore[override]
        """Take note that the client has sent all it will; return whether it still gets answers."""
        self._input_ended = True
        self._fail_body("it ends before its Content-Length or its last chunk")
        if not self._messages:
            self._close = True
        return not self._idle()

    def _idle(self) -> bool:
        return self._answered == self._request_count

    def _fail_body(self, reason: str) -> None:
        """Let whoever reads the body that has not come to its end fail."""
        if not self._last_payload.is_eof():
            if not self._idle():
                self._last_payload.set_exception(web.RequestPayloadError(reason))
            self._last_payload.feed_eof()

    def pause_writing(self) -> None:
        """Take note that more waits to be sent than the transport likes to hold."""
        super().pause_writing()
        self._expect_progress(None)

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        self._forget_stall()
        super().resume_writing()

    def _expect_progress(self, unsent_before: int | None) -> None:
        if self.transport is None:
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent == unsent_before:
            self.transport.abort()
        else:
            self._stall_check = self._loop.call_later(STALLED_S, self._expect_progress, unsent)

    def _forget_stall(self) -> None:
        if self._stall_check is not None:
            self._stall_check.cancel()
            self._stall_check = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer to one request and count it."""
        answer = resp
        if not isinstance(answer, http.Answer):  # one that aiohttp made itself
            answer = http.refuse(request, resp.status, resp.reason)
        answer.headers["Server"] = http.SOFTWARE
        if answer.status == 408:  # the rest of that body is not waited for
            self._input_ended = True
            self._fail_body("it came too late")
        if self._server.draining or (self._input_ended and not self._messages):
            answer.force_close()
        sent, disconnected = await super().finish_response(request, answer, start_time)
        self._answered += 1
        if self._idle():
            self._check_parser_empty(request)
        if not disconnected:
            received_bytes = request.content.total_bytes
            self._counters.request(answer.status, received_bytes, answer.sent_bytes)
        return sent, disconnected

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is not HTTP, or to what the handler did not foresee."""
        if isinstance(exc, HttpProcessingError):
            answer = http.refuse(request, status, f"malformed request: {_reason(exc)}")
        else:
            _log.error("error in answering a request", exc_info=exc)
            answer = http.refuse(request, 500, "internal error")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun when the error came")
        answer.force_close()
        return answer

    def close_if_idle(self) -> None:
        """Close the connection unless a request is in flight."""
        if self._idle():
            self.force_close()


def _reason(error: HttpProcessingError) -> str:
    if isinstance(error, LineTooLong):
        return f"a line has more than {error.args[1]} bytes"
    if isinstance(error, InvalidURLError):
        return "the address may hold only ASCII; write other characters as %XX"
    # What follows the first line quotes the request.
    return error.message.partition("\n")[0].rstrip(":")


class Server(web.Server):
    """All connections of one worker. While it is ``draining``, every answer closes its own."""

    def __init__(
        self, handler: Any, counters: Counters, short_way: ShortWay | None, **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self.draining = False
        self.short_way = short_way
        self._counters = counters
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, self._counters, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection up."""
        super().connection_made(handler, transport)
        self._empty.clear()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Let a connection go, as soon as its request, if there is one, is done."""
        task = handler._task_handler
        super().connection_lost(handler, exc)
        if task is None:
            self._check_empty()
        else:
            task.add_done_callback(lambda _: self._check_empty())

    def _check_empty(self) -> None:
        if not self._connections:
            self._empty.set()

    async def wait_empty(self, timeout_s: float) -> None:
        """Wait until there is no connection, at most for ``timeout_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()

    def close_idle(self) -> None:
        """Close every connection that has no request in flight."""
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.close_if_idle()


class Runner(web.AppRunner):
    """Serves an application on the sockets of the sites that are made with it."""

    def __init__(self, app: web.Application, settings: ServerSettings, counters: Counters) -> None:
        # What drain() could not wait for is cut off: it has had its time.
        super().__init__(app, shutdown_timeout=0.5)
        self._settings, self._counters = settings, counters

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        # The short way writes no log.
        short_way = None if self._settings.access_log else ShortWay(self.app[http.CLUSTER])
        return Server(
            made.request_handler,
            self._counters,
            short_way,
            request_factory=made.request_factory,
            keepalive_timeout=self._settings.keepalive_timeout_s,
            lingering_time=LINGERING_S,
            auto_decompress=False,
            access_log_class=AccessLogger,
            access_log=_access_log if self._settings.access_log else None,
            logger=_log,
        )

    async def drain(self, idle_s: float) -> None:
        """Wait for the end of all connections, once nobody listens for new ones.

        Each may have one more request within ``idle_s``; after that idle ones are closed, and
        requests in flight get as long as the setting ``graceful_timeout_s`` says.
        """
        server = self.server
        assert isinstance(server, Server)
        server.draining = True
        await server.wait_empty(idle_s)
        server.close_idle()
        await server.wait_empty(self._settings.graceful_timeout_s)
