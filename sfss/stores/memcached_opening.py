"""Connections to a server of the memcached protocol: opened, and authenticated where there is a
secret, before anything else is sent on them.
"""

import asyncio
from typing import Final, TypeVar, cast

from sfss.handshake import UNAUTHENTICATED, BadHandshake, ClientHandshake, new_nonce
from sfss.memtext import Status

SECRET_WANTED: Final = "it asks for a secret, and none is set (memcached.secret)"

AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.BaseProtocol)


class NotAuthenticated(ConnectionError):
    """Raised when one side has not proven to the other that it knows the secret. The text says
    "it ...", of the server. Nothing but the handshake was sent, or what was sent was refused.
    """


def check_refusal(status: Status) -> None:
    """Raise ``NotAuthenticated`` where ``status`` says that the server asks for a secret."""
    if status.word == "CLIENT_ERROR" and status.text == UNAUTHENTICATED:
        raise NotAuthenticated(SECRET_WANTED)


async def open_connection(
    protocol: AnyProtocol, host: str, port: int, secret: str
) -> asyncio.Transport:
    """Return a new connection of ``protocol``, authenticated by ``secret`` unless that is empty.

    Raises OSError (``NotAuthenticated`` is one), UnicodeError for a host that cannot be asked for.
    Nothing bounds the time but whoever calls; a call that is cancelled leaves no connection.
    """
    loop = asyncio.get_running_loop()
    if not secret:
        found, _ = await loop.create_connection(lambda: protocol, host, port)
        return found
    transport, newcomer = await loop.create_connection(lambda: _Newcomer(secret), host, port)
    try:
        await newcomer.passed
        newcomer.check()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
    except BaseException:
        transport.abort()
        raise
    return transport


class _Newcomer(asyncio.Protocol):
    """A connection until both sides have proven that they know the secret.

    ``passed`` is done then, and nothing more is read.
    """

    def __init__(self, secret: str) -> None:
        self._handshake = ClientHandshake(secret, new_nonce())
        self._lost = False
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def check(self) -> None:
        """Raise ``NotAuthenticated`` if the connection was lost since."""
        if self._lost:
            raise NotAuthenticated("it closed the connection behind the handshake")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake."""
        if self.passed.done():
            return
        try:
            proof = self._handshake.feed(data)
        except BadHandshake as error:
            self._fail(str(error))
            self._transport.abort()
            return
        if proof:
            self._transport.write(proof)
        if self._handshake.finished:
            # What comes next is for another protocol, of another kind perhaps.
            self._transport.pause_reading()
            self.passed.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._lost = True
        if not self.passed.done():
            how = f"reset the connection ({exc})" if exc else "closed the connection"
            self._fail(f"it {how} when a secret was to be proven")

    def _fail(self, reason: str) -> None:
        self.passed.set_exception(NotAuthenticated(reason))
        self.passed.exception()  # nobody may be waiting any more, and that is no error
