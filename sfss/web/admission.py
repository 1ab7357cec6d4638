"""Who is let in: as many connections as one worker may have, and as one address may.

Whoever comes beyond that is told so before anything is parsed. The limit lies below that of open
files, so that a store or a body always finds a descriptor; where there is none all the same, uvloop
lets those go who come, and is there for those who follow (libuv, uv__emfile_trick).
"""

import asyncio
import json
import logging
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final, cast
from weakref import WeakSet

from sfss.config_limits import LimitsSettings
from sfss.http_text import http_date
from sfss.metrics import Counters
from sfss.networks import Proxies, network_of
from sfss.web import http
from sfss.web.connection import Connection

RETRY_S: Final = 1
"""Seconds after which whoever was not let in may come again."""

IDLE_S: Final = 0.5
"""Seconds that a connection has been idle at least until it is closed for another."""

_RESERVE: Final = 512
_MOST_FILES: Final = 1 << 20
_LOOK_EVERY_S: Final = 0.1
_KNOWN_IDLE: Final = 256
_LINGER_S: Final = 1.0
_LINGERING: Final = 64

_log = logging.getLogger(__name__)


def allow_files() -> int:
    """Let this process open as many files as it may; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _MOST_FILES) if hard != resource.RLIM_INFINITY else _MOST_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        except (OSError, ValueError):
            pass
    return soft if soft != resource.RLIM_INFINITY else _MOST_FILES


class Admission:
    """Counts the connections of one worker, and lets in who may come."""

    def __init__(self, limits: LimitsSettings, counters: Counters) -> None:
        files = allow_files()
        self.limit = min(limits.connections, files - min(_RESERVE, files // 4))
        """Connections that there may be."""
        if self.limit < limits.connections:
            _log.info("%d connections at most: %d files may be open", self.limit, files)
        self.per_address = limits.connections_per_address
        self._proxies, self._counters = Proxies(limits.trusted_proxies), counters
        # Many may come in one turn of the loop, before any is taken up.
        self._coming: WeakSet[Connection] = WeakSet()
        self._addresses: dict[Connection, str] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._open = self.lingering = 0
        self._idle: list[Connection] = []
        self._looked_s = 0.0

    def protocol(
        self, make: Callable[[], Connection], others: Callable[[], Iterable[Connection]]
    ) -> asyncio.Protocol:
        """Return what takes up a connection that has come: ``make``'s, if there is room beside, or
        in place of one of, ``others``.
        """
        if self._open + len(self._coming) >= self.limit and not self._make_room(others):
            return Refusal(self, f"{self.limit} connections are open, and that is all there may be")
        if self.per_address:
            return _Newcomer(self, make)
        return self._expect(make())

    def _expect(self, connection: Connection) -> Connection:
        self._coming.add(connection)
        return connection

    def enter(self, transport: asyncio.Transport, make: Callable[[], Connection]) -> None:
        """Have ``make``'s or a refusal go on with ``transport``, as the address may have more."""
        name: Any = transport.get_extra_info("peername")
        peer = name[0] if isinstance(name, tuple) else ""
        address = network_of(peer)
        next_one: Connection | Refusal
        if peer and not self._proxies.has(peer) and self._counts[address] >= self.per_address:
            sentence = f"{self.per_address} connections from {address} are open"
            next_one = Refusal(self, f"{sentence}, and that is all it may have")
        else:
            next_one = self._expect(make())
            self._addresses[next_one] = address
            self._counts[address] += 1
        transport.set_protocol(next_one)
        next_one.connection_made(transport)

    def took_up(self, connection: Connection) -> None:
        """Count a connection."""
        self._coming.discard(connection)
        self._open += 1

    def let_go(self, connection: Connection) -> None:
        """Count a connection no more."""
        self._open -= 1
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def _make_room(self, others: Callable[[], Iterable[Connection]]) -> bool:
        """Close the connection that has been idle longest, if one is; they are looked for now and
        then only, or a flood would make that its own.
        """
        now_s = asyncio.get_running_loop().time()
        if not self._idle and now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            idle = [(each.idle_since_s(), each) for each in others()]
            found = [(since, each) for since, each in idle if since is not None]
            found.sort(key=itemgetter(0))
            long_idle = [each for since, each in found if now_s - since >= IDLE_S]
            self._idle = long_idle[:_KNOWN_IDLE][::-1]
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since_s() is not None:
                connection.force_close()
                return True
        return False

    def answer(self, sentence: str) -> bytes:
        """Return the bytes of a refusal, which is counted."""
        body = json.dumps({"error": sentence}).encode() + b"\n"
        self._counters.request(503, 0, len(body))
        self._counters.took(http.NO_FACE, http.OTHER_METHOD, 503, 0.0)
        return (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"X-Content-Type-Options: nosniff\r\nRetry-After: {RETRY_S}\r\n"
            f"Content-Length: {len(body)}\r\nServer: {http.SOFTWARE}\r\n"
            f"Date: {http_date(int(time.time()))}\r\nConnection: close\r\n\r\n"
        ).encode("ascii") + body


class _Newcomer(asyncio.Protocol):
    """Who has come, and is not known yet."""

    def __init__(self, admission: Admission, make: Callable[[], Connection]) -> None:
        self._admission, self._make = admission, make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See who it is."""
        self._admission.enter(cast(asyncio.Transport, transport), self._make)


class Refusal(asyncio.Protocol):
    """Tells whoever has come that there is no room. What it sends is read and dropped for a moment,
    where few do so: closed before that, it might never see the answer (RFC 9112, 9.6).
    """

    def __init__(self, admission: Admission, sentence: str) -> None:
        self._admission, self._sentence = admission, sentence
        self._lingers: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer."""
        client = cast(asyncio.Transport, transport)  # uvloop's is none
        client.write(self._admission.answer(self._sentence))
        if client.can_write_eof() and self._admission.lingering < _LINGERING:
            self._admission.lingering += 1
            loop = asyncio.get_running_loop()
            self._lingers = loop.call_later(_LINGER_S, client.abort)
            client.write_eof()
        else:
            client.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._lingers is not None:
            self._lingers.cancel()
            self._admission.lingering -= 1
