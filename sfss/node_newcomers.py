"""Clients of a node that have not yet proven that they know its secret.

They can occupy next to nothing: a line each that is bounded, no memory for values, ``HANDSHAKE_S``
seconds, and of so many that ``NEWCOMERS_LIMIT`` is exceeded, the one that has been there longest
has to go. Whatever they say but the handshake ends the connection.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final, cast

from sfss.handshake import REFUSAL, BadHandshake, ServerHandshake, new_nonce

HANDSHAKE_S: Final = 10.0
"""Seconds in which a client has to prove that it knows the secret."""

NEWCOMERS_LIMIT: Final = 128

WARNING_EVERY_S: Final = 10.0
"""Seconds between two lines of the log about clients that were refused."""

_log = logging.getLogger(__name__)


class Newcomers:
    """All of one node that has ``secret``; ``admit`` makes the protocol of whoever knows it."""

    def __init__(self, secret: str, admit: Callable[[], asyncio.Protocol]) -> None:
        self.secret, self.admit = secret, admit
        self._waiting: dict[Newcomer, None] = {}  # the first to come first
        self._warned_at_s = -inf
        self._closed = False

    def add(self, newcomer: "Newcomer") -> None:
        """Take a client up; another may have to go."""
        if len(self._waiting) >= NEWCOMERS_LIMIT:
            next(iter(self._waiting)).abort()
        if self._closed:
            newcomer.abort()
        else:
            self._waiting[newcomer] = None

    def remove(self, newcomer: "Newcomer") -> None:
        """Let a client go, wherever to."""
        self._waiting.pop(newcomer, None)

    def warn(self, client: object, reason: str) -> None:
        """Log, once in a while, that a client was refused."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._warned_at_s >= WARNING_EVERY_S:
            self._warned_at_s = now_s
            _log.warning("client %s was refused: %s", client, reason)

    @property
    def waiting(self) -> int:
        """How many are neither admitted nor refused yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Close all connections at once, and those that still come: nothing was asked on them."""
        self._closed = True
        for newcomer in list(self._waiting):
            newcomer.abort()


class Newcomer(asyncio.Protocol):
    """One client, until it is admitted or refused."""

    def __init__(self, newcomers: Newcomers) -> None:
        self._newcomers = newcomers
        self._handshake = ServerHandshake(newcomers.secret, new_nonce())
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.abort)
        self._newcomers.add(self)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake."""
        if self._refused:
            return
        try:
            answer = self._handshake.feed(data)
        except BadHandshake as error:
            self._refuse(error)
            return
        if answer:
            self._transport.write(answer)
        if self._handshake.finished:
            self._admit()

    def _refuse(self, error: BadHandshake) -> None:
        # The timer goes on: the client may not take its answer.
        self._refused = True
        self._newcomers.warn(self._transport.get_extra_info("peername"), str(error))
        self._transport.write(REFUSAL)
        self._transport.close()

    def _admit(self) -> None:
        self._leave()
        admitted = self._newcomers.admit()
        self._transport.set_protocol(admitted)
        admitted.connection_made(self._transport)
        if self._handshake.rest:
            admitted.data_received(self._handshake.rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._leave()

    def abort(self) -> None:
        """Close at once."""
        self._leave()
        self._transport.abort()

    def _leave(self) -> None:
        self._timer.cancel()
        self._newcomers.remove(self)
