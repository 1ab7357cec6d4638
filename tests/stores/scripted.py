"""Faults on cue: a server that answers what a test tells it to; a real one that stands still."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self, TypeAlias

CLOSE = None
"""In a script: close the connection instead of answering."""

Script: TypeAlias = Sequence[bytes | None]


class ScriptedServer:
    """Plays a script on each connection: one answer for each request, then silence.

    The last script is played on all further connections. ``requests`` are the command lines that
    came, on whichever connection.
    """

    def __init__(self, *scripts: Script, host: str = "127.0.0.1") -> None:
        self._scripts, self._host = scripts, host
        self._players: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.open_connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{host}:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for player in self._players:
            player.cancel()
        await asyncio.gather(*self._players, return_exceptions=True)
        for writer in self.writers:
            writer.transport.abort()  # a player that was cancelled before its first step has not
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        self.open_connections += 1
        self.writers.append(writer)
        player = asyncio.get_running_loop().create_task(self._play(script, reader, writer))
        self._players.add(player)
        player.add_done_callback(self._players.discard)

    async def _play(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                for answer in script:
                    await self._read_request(reader)
                    if answer is CLOSE:
                        return
                    writer.write(answer)
                    await writer.drain()
                while True:
                    await self._read_request(reader)
        finally:
            self.open_connections -= 1
            writer.transport.abort()

    async def _read_request(self, reader: asyncio.StreamReader) -> None:
        line = await reader.readuntil(b"\r\n")
        self.requests.append(line.rstrip())
        if line.startswith(b"set "):
            await reader.readexactly(int(line.split()[4]) + 2)


class ScriptedHttpServer(ScriptedServer):
    """The same for HTTP. ``requests`` are request lines, ``heads`` and ``bodies`` the rest."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__(*scripts)
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        """The address of a store on this server."""
        return f"http://{self.address}/files/"

    async def _read_request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head.partition(b"\r\n")[0])
        self.heads.append(head)
        found = re.search(rb"\r\nContent-Length: ([0-9]+)\r\n", head)
        self.bodies.append(await reader.readexactly(int(found[1])) if found else b"")


async def until(holds: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Let the event loop run until ``holds()`` is true; fail after ``deadline_s``."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.005)
