"""``GET /status/events``: how this service is, as server-sent events (WHATWG HTML, 9.2), for the
page ``/status/``.

The first event, ``hello``, says what there is beside the page. Those that follow, without a name,
are ``snapshot.take``, every two seconds. The answer ends with the worker, with the last day of the
token that was shown, or with a client that does not read; a connection has one such answer. (Where
a token is taken away, it ends with the worker: other rules come with other workers.)
"""

import asyncio
import json
import time
from functools import partial
from typing import Final

from aiohttp import web

from sfss.grants import LIST
from sfss.web import http, snapshot
from sfss.web.watchers import Watch

RETRY_MS: Final = 2000
"""Milliseconds after which a client may come again when the answer has ended."""

HEARTBEAT_S: Final = 8.0
"""Seconds without an event after which a comment says that the server is there."""

STALLED_S: Final = 20.0
"""Seconds in which a client has to make room for the next event."""

_FIELDS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect events until a page of memory is full
    "X-Content-Type-Options": "nosniff",
}
_HEARTBEAT: Final = b":\n\n"


async def watch(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer with events, with 503 where too many watch; with none that go on where this worker is
    about to end: the next connection is another's.
    """
    if site.watchers.is_full:
        sentence = "as many watch this server as there is room for"
        return http.refuse(request, 503, sentence, {"Retry-After": "10"})
    return Events(site, request)


class Events(http.Answer):
    """An answer that goes on until the watcher leaves, or may not watch, or the worker ends."""

    def __init__(self, site: http.Site, request: web.BaseRequest) -> None:
        super().__init__(200, _FIELDS)
        self.content_length = None
        self.force_close()
        self._site, self._asker, self._grant = site, request, request[http.GRANT]
        self._sent_bytes = 0

    @property
    def sent_bytes(self) -> int:
        """Size of all events that were sent."""
        return self._sent_bytes

    async def write_eof(self, data: bytes = b"") -> None:
        """Send events, if the method has any, and the end."""
        if not self._must_be_empty_body:
            asked, began_s = http.asked_of(self._asker), time.perf_counter()
            try:
                await self._go_on()
            finally:
                # To watch for an hour is not to wait for an hour.
                asked.began_s += time.perf_counter() - began_s
        await super().write_eof()

    async def _go_on(self) -> None:
        shown = self._asker.get(http.TAKEN, ())
        pages = {"has_files": "/browse/" in shown, "has_api": "/api/" in shown}
        hello = json.dumps({**pages, "every_s": self._site.watchers.every_s})
        first = f"retry: {RETRY_MS}\nevent: hello\ndata: {hello}\n\n".encode()
        with self._site.watchers.watching(partial(_event, self._site)) as watch:
            await self._send_event(watch, first)
            while not watch.is_over:
                look = await watch.next(HEARTBEAT_S)
                if not self._grant.lasts(LIST, time.time()):
                    break
                if not watch.is_over:
                    await self._send_event(watch, look or _HEARTBEAT)
        transport = self._asker.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # it does not read, and would keep the worker from ending

    async def _send_event(self, watch: Watch, text: bytes) -> None:
        try:
            async with asyncio.timeout(STALLED_S) as watch.patience:
                await self.write(text)
        except TimeoutError:
            if self._asker.transport is not None:
                self._asker.transport.abort()
            raise ConnectionError("who watches does not read") from None
        finally:
            watch.patience = None
        self._sent_bytes += len(text)


async def _event(site: http.Site) -> bytes:
    text = json.dumps(await snapshot.take(site), ensure_ascii=True, separators=(",", ":"))
    return f"data: {text}\n\n".encode("ascii")
