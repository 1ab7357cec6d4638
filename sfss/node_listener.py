"""A node that listens: in a process of its own (``node_process``), or in each of several that share
a socket and a store.

The store belongs to whoever has opened it: it has to be open until ``stop`` has returned, and to be
swept (``sweeping``) and closed by others.
"""

import asyncio
import socket
from typing import Final

from sfss.node import Server

BACKLOG: Final = 1024

DRAIN_S: Final = 30.0
"""Seconds that a stopping node waits for its clients at most."""


class NodeListener:
    """The clients of ``server`` are taken in from ``listen`` or ``accept`` until ``stop``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listening: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Listen on an address. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            self._server.connection, host, port, backlog=BACKLOG
        )

    async def accept(self, bound: socket.socket) -> None:
        """Take clients of a socket that is bound, and that other processes may share: each client
        comes to one of them. ``bound`` itself stays open. Raises OSError.
        """
        loop = asyncio.get_running_loop()
        own = bound.dup()
        try:
            self._listening = await loop.create_server(
                self._server.connection, sock=own, backlog=BACKLOG
            )
        except BaseException:
            own.close()
            raise

    async def stop(self, timeout_s: float = DRAIN_S) -> None:
        """Take nobody in any more, answer what the others have sent, and close their connections;
        see ``Server.drain``. Clients that have not been taken in stay with the socket.
        """
        if self._listening is not None:
            self._listening.close()
        await self._server.drain(timeout_s)
