"""The connections of one worker, from the first to the last.

A worker that stops lets each open connection have one more request, tells it to close, and waits
for what is in flight: a connection closed just as a request arrives would drop that request.
"""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiohttp import web

from sfss.config import ServerSettings
from sfss.metrics import Counters
from sfss.web import http
from sfss.web.access import AccessLogger
from sfss.web.app import dispatch
from sfss.web.connection import Connection
from sfss.web.fast import ShortWay
from sfss.web.fast_connection import FastConnection, ShortLog, log_short

LINGERING_S: Final = 5.0
"""Seconds for which the rest of a refused body is read and dropped, so that the client, busy with
sending, gets to read the refusal.
"""

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("sfss.access")


class Server(web.Server):
    """All connections of one worker."""

    def __init__(
        self,
        handler: Any,
        counters: Counters,
        short_way: ShortWay,
        log: ShortLog | None,
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self._counters, self._short_way, self._log = counters, short_way, log
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        options = {"loop": self._loop, **self._kwargs}
        return FastConnection(self, self._counters, self._short_way, self._log, **options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection up."""
        super().connection_made(handler, transport)
        self._empty.clear()
        if self._draining and isinstance(handler, Connection):
            handler.drain()  # it was accepted before, and is known only now

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

    def drain(self) -> None:
        """Have every answer from now on close its connection."""
        self._draining = True
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.drain()

    def close_idle(self) -> None:
        """Close every connection that has no request in flight."""
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.close_if_idle()


class Runner(web.BaseRunner):
    """Serves ``site`` on the sockets that it is given, and closes its cluster in the end.

    aiohttp's Application is left out: to find the one route in it costs as much as all of ours.
    """

    def __init__(self, site: http.Site, settings: ServerSettings, counters: Counters) -> None:
        # What drain() could not wait for is cut off: it has had its time.
        super().__init__(shutdown_timeout=0.5)
        self._site, self._settings, self._counters = site, settings, counters

    async def _make_server(self) -> Server:
        access_log = _access_log if self._settings.access_log else None
        return Server(
            partial(dispatch, self._site),
            self._counters,
            ShortWay(self._site.cluster),
            log_short if access_log else None,
            keepalive_timeout=self._settings.keepalive_timeout_s,
            lingering_time=LINGERING_S,
            auto_decompress=False,
            access_log_class=AccessLogger,
            access_log=access_log,
            logger=_log,
        )

    async def shutdown(self) -> None:
        """Do nothing: there is nobody to be told."""

    async def _cleanup_server(self) -> None:
        await self._site.cluster.close()

    async def drain(self, idle_s: float) -> None:
        """Wait for the end of all connections, once nobody listens for new ones.

        Each may have one more request within ``idle_s``; after that idle ones are closed, and
        requests in flight get as long as the setting ``graceful_timeout_s`` says.
        """
        server = self.server
        assert isinstance(server, Server)
        server.drain()
        await server.wait_empty(idle_s)
        server.close_idle()
        await server.wait_empty(self._settings.graceful_timeout_s)
