"""A proxy of a test: it cuts connections off after so many bytes of what the server has said."""

import asyncio
from contextlib import suppress
from typing import Self

_PIECE = 16_384


class CuttingProxy:
    """Relays connections to ``port``. ``cuts``: for each connection in turn the bytes of answers
    after which it is cut off; later ones are left alone. ``heads`` are the requests that came.
    """

    def __init__(self, port: int, *cuts: int) -> None:
        self._port = port
        self.cuts = list(cuts)
        self.heads: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.cuts.pop(0) if self.cuts else None
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
        going = asyncio.ensure_future(self._up(reader, requests))
        try:
            with suppress(ConnectionError):
                while piece := await answers.read(_PIECE):
                    writer.write(piece if left is None else piece[:left])
                    await writer.drain()
                    if left is not None and (left := left - len(piece)) <= 0:
                        break
        finally:
            going.cancel()
            requests.close()
            writer.close()

    async def _up(self, reader: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                if piece.startswith((b"GET ", b"PUT ", b"HEAD ", b"DELETE ")):
                    self.heads.append(piece.partition(b"\r\n\r\n")[0])
                requests.write(piece)
                await requests.drain()
