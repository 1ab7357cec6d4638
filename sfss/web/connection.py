"""Connections: what aiohttp does with one, and where this service needs it done otherwise.

- A body that is cut off or malformed is answered with 400 as soon as that is known, also to a
  client that has closed only its half. aiohttp leaves such a handler waiting for the rest.
- A client that stops reading is cut off: aiohttp waits for it for ever, and holds the file.
- A request has to come up to its body in time and in bounds: 408, 414, 431 (RFC 9110, 15.5; RFC
  6585, 5).
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
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from sfss.config_limits import LimitsSettings
from sfss.metrics import Counters
from sfss.web import framing, http
from sfss.web.access import quoted, request_line
from sfss.web.unsent import Unsent, waiting_in

SLOW: Final = "slow: %.3f s for %s, answered %d, request %s"
"""What is said of a request that took long: seconds, its first line, the status, its id."""

CHUNKED_PER_BYTE: Final = 32
"""Bytes that may come in chunks for one of the body: in chunks of one byte each there are 6, and
more where sizes have zeros before them.
"""

_log = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """What one client may have, and what all of one worker are held for."""

    limits: LimitsSettings
    unsent: Unsent

    @classmethod
    def of(cls, limits: LimitsSettings) -> "Bounds":
        """Return bounds for which nothing is held yet."""
        return cls(limits, Unsent(limits.unsent_bytes))

    def for_parser(self) -> dict[str, Any]:
        """Return how aiohttp's parser is told of them."""
        line, field = self.limits.line_bytes, self.limits.field_bytes
        # It says of what is too long only how much was allowed: the two must not be the same.
        return {
            "max_line_size": line,
            "max_field_size": field + (field == line),
            "max_headers": self.limits.fields,
        }


class HeadRefused(HttpProcessingError):
    """Raised of a request that does not come up to its body as it should: a status, and why."""


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "__weakref__",
        "_answered",
        "_bounds",
        "_chunked",
        "_counters",
        "_draining",
        "_head_bytes",
        "_in_chunks",
        "_input_ended",
        "_last_bytes",
        "_last_payload",
        "_may_half_close",
        "_open",
        "_reader",
        "_slow_s",
        "_stall_check",
        "head_began_s",
        "may_have_large_head",
    )

    def __init__(
        self,
        server: web.Server,
        counters: Counters,
        bounds: Bounds,
        slow_s: float = inf,
        **options: Any,
    ) -> None:
        super().__init__(server, **bounds.for_parser(), **options)
        self._counters, self._slow_s, self._bounds = counters, slow_s, bounds
        self.head_began_s: float | None = None
        """Since when the head of a request is waited for: of the loop's time, None while it is not.
        """
        self._head_bytes = 0
        self.may_have_large_head = False
        """Whether so much has come at once that a request may have too much before its body."""
        self._open = self._draining = False
        self._answered = 0
        self._stall_check: asyncio.TimerHandle | None = None
        self._reader: asyncio.Transport | None = None  # while it is waited for
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        self._input_ended = False  # nothing that may still come is looked at
        self._may_half_close = True
        # Whether the last request in the parser came in chunks; how many bytes have come since, and
        # the last bytes of all.
        self._chunked, self._in_chunks = False, 0
        self._last_bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._open = True
        # Over TLS, the loop closes a connection whose other side has ended, whatever is said to it.
        self._may_half_close = transport.get_extra_info("sslcontext") is None
        self._counters.connected(1)
        self.head_began_s = self._loop.time()
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
        if self._head_bytes + len(data) > self._bounds.limits.head_bytes:
            self.may_have_large_head = True
        requests = self._request_count
        super().data_received(data)
        if self._messages:
            message, payload = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._malformed()
                self._follow_head(len(data))
                return
            self._last_payload = payload
        self._last_bytes = (self._last_bytes + data[-4:])[-4:]
        if self._request_count != requests:
            self._look_behind_chunks(self._request_count - requests)
        elif self._chunked and not self._last_payload.is_eof():
            self._look_beside_chunks(len(data))
        if self._chunked and self._last_payload.is_eof():
            self._end_chunks()
        self._follow_head(len(data))

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
            self._in_chunks = 0

    def _look_beside_chunks(self, size: int) -> None:
        """Take note of ``size`` bytes more that have come in chunks, and refuse them where hardly
        any of them are of the body: sizes and extensions of chunks have no end of their own, and
        RFC 9112, 7.1.1, wants them limited.
        """
        self._in_chunks += size
        # What the parser has put off is not of the body yet: but then a lot else is.
        body = self._last_payload.total_bytes
        if self._in_chunks > self._bounds.limits.head_bytes + CHUNKED_PER_BYTE * body:
            self._input_ended = True
            self._fail_body("there is too much beside its chunks (limits.head_bytes)")
            if self._idle():
                self.force_close()

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

    def _follow_head(self, size: int) -> None:
        """Take note of ``size`` bytes that have come: where no request is in hand, they are the
        beginning of one.
        """
        if not self._idle() or not self._last_payload.is_eof():
            self.head_began_s, self._head_bytes = None, 0
            return
        if self.head_began_s is None:
            self.head_began_s = self._loop.time()
        self._head_bytes += size
        if self._head_bytes > self._bounds.limits.head_bytes:
            self._refuse_head(framing.too_large_head(self._bounds.limits.head_bytes), 431)

    def idle_since_s(self) -> float | None:
        """Return since when, in the loop's time, the connection is kept for a next request and has
        nothing to do; None while that is not so.
        """
        is_kept = self.head_began_s is None and self._idle() and not self._paused
        if not is_kept or self.transport is None or self._keepalive_timeout <= 0:
            return None
        return self._next_keepalive_close_time - self._keepalive_timeout

    def refuse_late(self) -> None:
        """Answer 408, the head of a request not having come in time."""
        if self._idle():
            seconds = self._bounds.limits.head_timeout_s
            sentence = f"no whole request came within {seconds:g} s (limits.head_timeout_s)"
            self._refuse_head(sentence, 408)

    def _refuse_head(self, sentence: str, status: int) -> None:
        self._input_ended, self.head_began_s = True, None
        error = HeadRefused(code=status, message=sentence)
        self._request_count += 1
        self._messages.append((_ErrInfo(status, error, sentence), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

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
            self._reader = self.transport
            self._bounds.unsent.hold(self, self.transport.get_write_buffer_size())
            self._expect_progress(self.transport, inf)

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        self._forget_stall()
        super().resume_writing()

    def _expect_progress(self, transport: asyncio.Transport, before: float) -> None:
        # Not self.transport: that of a connection which is to close when all is sent is gone.
        limits, unsent = self._bounds.limits, waiting_in(transport)
        if before - unsent < max(1.0, limits.least_bytes_per_s * limits.send_timeout_s):
            transport.abort()
        else:
            check = partial(self._expect_progress, transport, unsent)
            self._stall_check = self._loop.call_later(limits.send_timeout_s, check)

    def cut_off(self) -> None:
        """End at once; what is unsent is dropped."""
        if self._reader is not None:
            self._reader.abort()

    def _forget_stall(self) -> None:
        if self._stall_check is not None:
            self._stall_check.cancel()
            self._stall_check = self._reader = None
            self._bounds.unsent.release(self)

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
            framing.speak_newest(request)  # its own is not known
            answer = http.refuse(request, *self._fault(exc, status))
        else:
            _log.error("error in answering a request", exc_info=exc)
            answer = http.refuse(request, 500, "internal error")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun when the error came")
        answer.force_close()
        return answer

    def _fault(self, error: HttpProcessingError, status: int) -> tuple[int, str]:
        """Return the status and the sentence for what the parser has raised."""
        limits = self._bounds.limits
        if isinstance(error, HeadRefused):
            return error.code, error.message
        if isinstance(error, LineTooLong):
            if error.args[1] == limits.line_bytes:
                return 414, f"the address has more than {limits.line_bytes} bytes"
            return 431, f"a header field has more than {limits.field_bytes} bytes"
        if error.message.startswith(_TOO_MANY):
            return 431, f"there are more than {limits.fields} header fields"
        return status, f"malformed request: {_reason(error)}"

    def drain(self) -> None:
        """Close the connection with the next answer."""
        self._draining = True

    def close_if_idle(self) -> None:
        """Close the connection unless a request is in flight."""
        if self._idle():
            self.force_close()


_TOO_MANY: Final = "Too many headers"
"""How aiohttp's parsers begin what they say of too many fields."""


def _reason(error: HttpProcessingError) -> str:
    if isinstance(error, InvalidURLError):
        return "the address may hold only ASCII; write other characters as %XX"
    # What follows the first line quotes the request.
    return error.message.partition("\n")[0].rstrip(":")
