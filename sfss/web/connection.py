"""Connections: what aiohttp does with one, and where this service needs it done otherwise.

- A body that is cut off or malformed is answered with 400 as soon as that is known, also to a
  client that has closed only its half. aiohttp leaves such a handler waiting for the rest.
- A client that stops reading is cut off: aiohttp waits for it for ever, and holds the file.
- Fields behind a body (trailers) end with it: aiohttp's parser takes the last of them for a field
  of the next request.
- Its errors come in our form, without a traceback; a request is counted when it is answered.

A request goes on when its client leaves: a write that has begun is finished.
"""

import asyncio
import logging
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from sfss.metrics import Counters
from sfss.web import http
from sfss.web.access import quoted, request_line

STALLED_S: Final = 60.0
"""Seconds in which a client that is being sent an answer has to take some of it."""

SLOW: Final = "slow: %.3f s for %s, answered %d, request %s"
"""What is said of a request that took long: seconds, its first line, the status, its id."""

_log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_answered",
        "_chunked",
        "_counters",
        "_draining",
        "_input_ended",
        "_last_bytes",
        "_last_payload",
        "_may_half_close",
        "_open",
        "_slow_s",
        "_stall_check",
    )

    def __init__(
        self, server: web.Server, counters: Counters, slow_s: float = inf, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._counters, self._slow_s = counters, slow_s
        self._open = self._draining = False
        self._answered = 0
        self._stall_check: asyncio.TimerHandle | None = None
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        self._input_ended = False  # nothing that may still come is looked at
        self._may_half_close = True
        # Whether the last request in the parser came in chunks, and the last bytes of all.
        self._chunked = False
        self._last_bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._open = True
        # Over TLS, the loop closes a connection whose other side has ended, whatever is said to it.
        self._may_half_close = transport.get_extra_info("sslcontext") is None
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
        """Take bytes from the client and have aiohttp parse them."""
        if self._input_ended:
            return
        requests = self._request_count
        super().data_received(data)
        if self._messages:
            message, payload = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._malformed()
                return
            self._last_payload = payload
        self._last_bytes = (self._last_bytes + data[-4:])[-4:]
        if self._request_count != requests:
            self._look_behind_chunks(self._request_count - requests)
        if self._chunked and self._last_payload.is_eof():
            self._end_chunks()

    def _look_behind_chunks(self, number: int) -> None:
        """Take note of how the last ``number`` of requests come; none is taken that has come
        together with the end of chunks.
        """
        for index in range(-number, 0):
            message, _ = self._messages[index]
            if self._chunked:
                self._ignore(-index)
                return
            self._chunked = not isinstance(message, _ErrInfo) and message.chunked

    def _end_chunks(self) -> None:
        """Begin anew behind a request whose chunks have come to their end, so that no trailer is
        left in the parser; where more than that end has come, this was the last request.
        """
        requests = self._request_count
        super().data_received(b"")  # what the parser has put off
        if self._request_count == requests and self._last_bytes == b"\r\n\r\n":
            self._chunked = False
            self._parser = HttpRequestParser(
                self,
                self._loop,
                self._read_bufsize,
                max_line_size=self.max_line_size,
                max_field_size=self.max_field_size,
                max_headers=self.max_headers,
                payload_exception=web.RequestPayloadError,
                auto_decompress=False,
                max_msg_queue_size=self._max_msg_queue_size,
            )
        else:
            self._ignore(self._request_count - requests)

    def _ignore(self, number: int) -> None:
        """Take no more requests, nor the last ``number`` of those that have come."""
        self._chunked, self._last_payload, self._input_ended = False, EMPTY_PAYLOAD, True
        for _ in range(number):
            self._messages.pop()
        self._request_count -= number
        if self._idle():
            self.force_close()

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
        return self._may_half_close and not self._idle()

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
        if self.transport is not None:
            self._expect_progress(self.transport, None)

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        self._forget_stall()
        super().resume_writing()

    def _expect_progress(self, transport: asyncio.Transport, unsent_before: int | None) -> None:
        # Not self.transport: that of a connection which is to close when all is sent is gone.
        unsent = transport.get_write_buffer_size()
        if unsent == unsent_before:
            transport.abort()
        else:
            check = partial(self._expect_progress, transport, unsent)
            self._stall_check = self._loop.call_later(STALLED_S, check)

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
        asked = http.asked_of(request)
        if told_id := asked.told_id(answer.status):
            answer.headers["X-Request-ID"] = told_id
        answer.headers["Server"] = http.SOFTWARE
        if answer.status == 408:  # the rest of that body is not waited for
            self._input_ended = True
            self._fail_body("it came too late")
        # Behind a request to upgrade, whatever it asks for, aiohttp's parser loses bytes, and would
        # take the rest of a body for requests.
        lost = request._message.upgrade
        if self._draining or lost or (self._input_ended and not self._messages):
            answer.force_close()
        disconnected = True
        try:
            sent, disconnected = await super().finish_response(request, answer, start_time)
        finally:
            if asked.trace is not None:
                asked.trace.end(answer.status, asked.error, disconnected)
        self._answered += 1
        if not disconnected:
            received_bytes = request.content.total_bytes
            self._counters.request(answer.status, received_bytes, answer.sent_bytes)
            self._count(request, asked, answer.status)
        return sent, disconnected

    def _count(self, request: web.BaseRequest, asked: http.Asked, status: int) -> None:
        seconds = perf_counter() - asked.began_s
        self._counters.took(asked.face, asked.method, status, seconds)
        if status >= 400:
            self._counters.failed(asked.error or f"status_{status}")
        if seconds > self._slow_s:
            line = request_line(request) or ""
            _log.warning(SLOW, seconds, quoted(line), status, asked.request_id)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is not HTTP, or to what the handler did not foresee."""
        if isinstance(exc, HttpProcessingError):
            http.speak_newest(request)  # its own is not known
            answer = http.refuse(request, status, f"malformed request: {_reason(exc)}")
        else:
            _log.error("error in answering a request", exc_info=exc)
            answer = http.refuse(request, 500, "internal error")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun when the error came")
        answer.force_close()
        return answer

    def drain(self) -> None:
        """Close the connection with the next answer."""
        self._draining = True

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
