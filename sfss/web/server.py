"""The connections of one worker, from the first to the last.

A worker that stops lets each open connection have one more request, tells it to close, and waits
for what is in flight: a connection closed just as a request arrives would drop that request.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, Protocol

from aiohttp import web

from sfss.config import ServerSettings
from sfss.errors import SettingError
from sfss.listening import is_loopback
from sfss.metrics import Counters
from sfss.web import fast, http
from sfss.web.access import AccessLogger
from sfss.web.admission import Admission
from sfss.web.app import App
from sfss.web.connection import Bounds, Connection
from sfss.web.fast import ShortWay
from sfss.web.fast_connection import FastConnection, ShortLog, log_short
from sfss.web.gate import Gate
from sfss.web.rated_connection import RatedConnection
from sfss.web.tls import options_for

LINGERING_S: Final = 5.0
"""Seconds for which the rest of a refused body is read and dropped, so that the client, busy with
sending, gets to read the refusal.
"""

_CUT_OFF_AFTER_S: Final = 0.5
"""Seconds that are left to what drain() could not wait for: it has had its time."""

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("sfss.access")


def is_local(sock: socket.socket) -> bool:
    """Tell whether only this machine reaches what listens on ``sock``."""
    return sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0])


class Door(Protocol):
    """Takes in others than clients of HTTP."""

    async def accept(self, bound: socket.socket) -> None:
        """Take in whoever comes to a socket."""

    async def stop(self) -> None:
        """Take nobody in any more, and let go of all, in their time."""


class Server(web.Server):
    """All connections of one worker to one listener; without a ``short_way`` all requests are
    aiohttp's.
    """

    def __init__(
        self,
        handler: Any,
        counters: Counters,
        rules: tuple[Bounds, Admission],
        ways: tuple[ShortWay | None, ShortLog | None],
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self._counters = counters
        (self._bounds, self._admission), (self._short_way, self._log) = rules, ways
        self._watch: asyncio.TimerHandle | None = None
        self._draining = False
        self.tls: ssl.SSLContext | None = None
        """What is spoken below HTTP, if anything."""
        self.slow_s = inf
        """Seconds that a request may take until that is logged."""
        self.throttle: http.Throttle | None = None
        """What counts requests, where that is done."""
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]
        """Return the protocol of a new connection."""
        return self._admission.protocol(self._make, self._others)

    def _others(self) -> Iterator[Connection]:
        return (each for each in self._connections if isinstance(each, Connection))

    def _make(self) -> Connection:
        options = {"loop": self._loop, **self._kwargs}
        if self._short_way is None:
            return Connection(self, self._counters, self._bounds, self.slow_s, **options)
        parts = (self, self._counters, self._bounds, (self._short_way, self._log))
        if self.throttle is not None:
            return RatedConnection(self.throttle.lets, *parts, slow_s=self.slow_s, **options)
        return FastConnection(*parts, slow_s=self.slow_s, **options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection up."""
        super().connection_made(handler, transport)
        if isinstance(handler, Connection):
            self._admission.took_up(handler)
        self._empty.clear()
        if self._watch is None:
            self._look_later()
        if self._draining and isinstance(handler, Connection):
            handler.drain()  # it was accepted before, and is known only now

    def _look_later(self) -> None:
        pause_s = min(1.0, self._bounds.limits.head_timeout_s / 4)
        self._watch = self._loop.call_later(pause_s, self._look)

    def _look(self) -> None:
        """Refuse the requests that have not come in time. One look at all, and not an alarm for
        each: most come at once.
        """
        self._watch = None
        due_s = self._loop.time() - self._bounds.limits.head_timeout_s
        late = [
            connection
            for connection in self._connections
            if isinstance(connection, Connection) and (connection.head_began_s or inf) <= due_s
        ]
        for connection in late:
            connection.refuse_late()
        if self._connections:
            self._look_later()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Let a connection go, as soon as its request, if there is one, is done."""
        task = handler._task_handler
        if handler in self._connections and isinstance(handler, Connection):
            self._admission.let_go(handler)
        super().connection_lost(handler, exc)
        if task is None:
            self._check_empty()
        else:
            task.add_done_callback(lambda _: self._check_empty())

    def _check_empty(self) -> None:
        if not self._connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until there is no connection."""
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
    """Serves ``site`` on the sockets that it is given, and closes its cluster in the end. For each
    listener, ``shown`` names the faces; None: one listener with those of ``settings``. ``doors``
    are given the last of the sockets; ``contexts`` say which listeners speak TLS.

    aiohttp's Application is left out: to find the one route in it costs as much as all of ours.
    """

    def __init__(
        self,
        site: http.Site,
        settings: ServerSettings,
        counters: Counters,
        shown: Sequence[Sequence[str]] | None = None,
        doors: Sequence[Door] = (),
        contexts: Sequence[ssl.SSLContext | None] = (),
    ) -> None:
        super().__init__(shutdown_timeout=_CUT_OFF_AFTER_S)
        limits = site.limits
        self._bounds, self._admission = Bounds.of(limits), Admission(limits, counters)
        self._site, self._settings, self._counters = site, settings, counters
        self._shown, self._doors = shown or [settings.faces], doors
        self._contexts = contexts or [None] * len(self._shown)
        self._servers: list[Server] = []
        self._gates: list[Gate] = []
        self._listening: list[asyncio.Server] = []

    async def listen(self, sockets: Sequence[socket.socket], backlog: int) -> None:
        """Listen on ``sockets``, one for each listener in order; any number of them where there is
        one listener. Raises ``SettingError`` where the numbers differ.
        """
        servers, gates = self._servers, self._gates
        ours = len(sockets) - len(self._doors)
        if len(servers) == 1:
            gates[0].settle(all(map(is_local, sockets[:ours])))
            servers = servers * ours
        else:
            for gate, sock in zip(gates, sockets[:ours], strict=False):
                gate.settle(is_local(sock))
        if len(servers) != ours:
            found = f"there are {len(servers)}, and {ours} sockets were handed over"
            raise SettingError("settings", "listen", found, "one socket for each is expected")
        loop = asyncio.get_running_loop()
        for door, sock in zip(self._doors, sockets[ours:], strict=True):
            await door.accept(sock)
        for server, sock in zip(servers, sockets[:ours], strict=True):
            # web.Server is called as a factory of protocols; its own type does not say so.
            factory: Any = server
            options = {"sock": sock, "backlog": backlog, **options_for(server.tls)}
            self._listening.append(await loop.create_server(factory, **options))

    def stop_listening(self) -> None:
        """Take no more connections."""
        for listening in self._listening:
            listening.close()

    async def _make_server(self) -> Server:
        self._servers, self._gates = [], []
        for faces, context in zip(self._shown, self._contexts, strict=True):
            app = App(self._site, faces)
            self._gates.append(app.gate)
            self._servers.append(self._server_of(app))
            self._servers[-1].tls = context
        return self._servers[0]

    def _server_of(self, app: App) -> Server:
        access_log = _access_log if self._settings.access_log else None
        server = Server(
            app.answer if self._site.cors is None else app.answer_all_origins,
            self._counters,
            (self._bounds, self._admission),
            (self._short_way(app), log_short if access_log else None),
            keepalive_timeout=self._settings.keepalive_timeout_s,
            lingering_time=LINGERING_S,
            auto_decompress=False,
            access_log_class=AccessLogger,
            access_log=access_log,
            logger=_log,
        )
        server.throttle = self._site.throttle
        server.slow_s = (self._settings.slow_request_ms or inf) / 1000
        return server

    def _short_way(self, app: App) -> ShortWay | None:
        shapes = [fast.NATIVE] if "native" in app.faces else []
        if "paths" in app.faces:
            shapes.append(fast.paths_shape(self._site.rewrites, app.addresses))
        site = self._site
        if site.traces is not None:
            return None  # it takes no longer than a span does
        if not shapes:
            return None
        return ShortWay(site.cluster, shapes, app.gate.reader, site.answers, site.cors)

    async def shutdown(self) -> None:
        """Do nothing: there is nobody to be told."""

    async def _cleanup_server(self) -> None:
        for server in self._servers[1:]:  # the first is cleaned up by aiohttp
            server.pre_shutdown()
            await server.shutdown(_CUT_OFF_AFTER_S)
        if self._site.objects is not None:
            await self._site.objects.close()
        await self._site.cluster.close()
        if self._site.traces is not None:
            await self._site.traces.close()

    async def drain(self, idle_s: float) -> None:
        """Wait for the end of all connections, once nobody listens for new ones.

        Each may have one more request within ``idle_s``; after that idle ones are closed, and
        requests in flight get as long as the setting ``graceful_timeout_s`` says.
        """
        self._site.readiness.draining = True
        self._site.watchers.end()
        doors = [asyncio.ensure_future(door.stop()) for door in self._doors]
        for server in self._servers:
            server.drain()
        await self._wait_empty(idle_s)
        for server in self._servers:
            server.close_idle()
        await self._wait_empty(self._settings.graceful_timeout_s)
        await asyncio.gather(*doors)

    async def _wait_empty(self, timeout_s: float) -> None:
        # Not with gather: where all is empty, no connection may become known before this returns.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for server in self._servers:
                    await server.wait_empty()
