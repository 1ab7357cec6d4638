"""Asks a gateway: over connections that are kept, several times where that may help.

All that is asked here may be asked again: a PUT replaces what is there, and whoever makes it
conditional has to see what has become of it (``Answer.repeated``).
"""

import asyncio
import ssl
from dataclasses import dataclass
from random import random
from typing import Final

from sfss.client_bodies import FileBody
from sfss.client_errors import ClientError, Unreachable, Unreadable
from sfss.client_text import Server, Writer, error_of
from sfss.http_connection import NoAnswer, Request, Stream
from sfss.http_pool import Pool, ask
from sfss.http_text import Head
from sfss.trying_again import pause_s

_SENTENCE_LIMIT: Final = 65_536


@dataclass(slots=True)
class Answer:
    """An answer; a long body is still to come. ``repeated``: a former try may have been heard."""

    head: Head
    body: bytes | Stream
    repeated: bool = False

    def close(self) -> None:
        """Wait for no more of it."""
        if isinstance(self.body, Stream):
            self.body.close()

    async def whole(self) -> bytes:
        """Return the body; raises ``Unreachable`` where it is cut off."""
        if not isinstance(self.body, Stream):
            return self.body
        try:
            return b"".join([piece async for piece in self.body.pieces()])
        except NoAnswer as error:
            raise Unreachable(str(error)) from None
        finally:
            self.body.close()


class Asker:
    """Asks ``server``, by up to ``connections`` requests at the same time and ``tries`` times each;
    one that moves nothing for ``timeout_s`` has failed. To be used in one event loop.
    """

    def __init__(
        self, server: Server, token: str | None, connections: int, tries: int, timeout_s: float
    ) -> None:
        self.server, self.tries = server, tries
        self.write = Writer(server, token)
        tls = ssl.create_default_context() if server.scheme == "https" else None
        self._pool = Pool(server.host, server.port, timeout_s, connections, tls)
        self._room = asyncio.Semaphore(connections)

    async def close(self) -> None:
        """Close all connections; what is still asked, fails."""
        await self._pool.close(minds_readers=True)

    async def ask(self, request: Request, path: str = "") -> Answer:
        """Return the answer to ``request`` if it is a success or 304, its body whole; else raise
        ``ClientError``, whose sentence names ``path``.
        """
        async with self._room:
            answer = await self.answered(request, path)
            if isinstance(answer.body, Stream):
                answer.body = await answer.whole()
            return answer

    def asking(self, request: Request, path: str = "") -> "_Asking":
        """Give the answer for the block: as ``ask``, but a long body is still to come."""
        return _Asking(self, self._room, request, path)

    async def answered(self, request: Request, path: str) -> Answer:
        """Return the answer as ``asking`` does, without a place of its own: for whoever is within
        ``asking``. ``close`` must follow.
        """
        tries, heard = 0, False
        while True:
            tries += 1
            try:
                head, body = await ask(self._pool, request)
            except NoAnswer as failure:
                if isinstance(request.body, FileBody) and request.body.failure is not None:
                    raise Unreadable(f"{path}: {request.body.failure}") from None
                heard = heard or failure.sent
                error: ClientError = Unreachable(self._named(path, str(failure)))
            else:
                if head.status < 300 or head.status == 304:
                    return Answer(head, body, heard)
                error = await self._refusal(head, body, path)
                heard = heard or head.status >= 500
                error.repeated = heard
            wait_s = pause_s(error.status, tries, random(), error.retry_after_s)
            if wait_s is None or tries >= self.tries:
                raise error
            await asyncio.sleep(wait_s)

    async def _refusal(self, head: Head, body: bytes | Stream, path: str) -> ClientError:
        said = body if isinstance(body, bytes) else await body.beginning(_SENTENCE_LIMIT)
        return error_of(head, said, path)

    def _named(self, path: str, reason: str) -> str:
        return f"{path + ': ' if path else ''}{self.server.origin} gives no answer: {reason}"


class _Asking:
    """Has a place among those who ask, and an answer."""

    __slots__ = ("_answer", "_asker", "_path", "_request", "_room")

    def __init__(self, asker: Asker, room: asyncio.Semaphore, request: Request, path: str) -> None:
        self._asker, self._room = asker, room
        self._request, self._path = request, path
        self._answer: Answer | None = None

    async def __aenter__(self) -> Answer:
        await self._room.acquire()
        try:
            self._answer = await self._asker.answered(self._request, self._path)
        except BaseException:
            self._room.release()
            raise
        return self._answer

    async def __aexit__(self, *_: object) -> None:
        assert self._answer is not None
        self._answer.close()
        self._room.release()
