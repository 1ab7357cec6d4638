"""What is at URLs, fetched: any server, its redirects, its certificates, whatever it says."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import random
from typing import TYPE_CHECKING, Final

from sfss import __version__
from sfss.client_bodies import HELD_LIMIT, SentBody, Spool, in_thread
from sfss.client_errors import Unreadable
from sfss.errors import BadArgument
from sfss.trying_again import asked_wait_s, pause_s
from sfss.upload_plan import Reply, sentence

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_ANSWER_LIMIT: Final = 4096
"""Bytes of an answer that are read."""

_AGENT: Final = f"sfss-put/{__version__}"


class Fetcher:
    """Fetches, ``concurrency`` at the same time, each in up to ``tries`` tries, which have failed
    when nothing moves for ``silence_s``. ``aclose`` must follow.
    """

    def __init__(self, tries: int, silence_s: float, concurrency: int) -> None:
        self._tries, self._silence_s, self._concurrency = tries, silence_s, concurrency
        self._session: ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def fetched(self, name: str) -> SentBody:
        """Return what is at the URL ``name``; raises ``Unreadable``."""
        tries = 0
        while True:
            spool = Spool()
            try:
                reply = await self._translated(partial(self._fetch, name, spool))
                if reply.is_success:
                    return await in_thread(spool.body)
            except BaseException:
                spool.close()
                raise
            spool.close()
            tries += 1
            wait_s = pause_s(reply.status, tries, random(), reply.asked_wait_s)
            if wait_s is None or tries >= self._tries:
                raise Unreadable(f"cannot be fetched: {reply.reason}")
            await asyncio.sleep(wait_s)

    async def _translated(self, exchange: Callable[["_Silence"], Awaitable[Reply]]) -> Reply:
        """Return the answer, or why there is none."""
        import aiohttp

        try:
            async with asyncio.timeout(self._silence_s) as timeout:
                return await exchange(_Silence(timeout, self._silence_s))
        except aiohttp.InvalidURL:
            raise _unusable() from None
        except TimeoutError:
            return Reply(None, f"no progress for {self._silence_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Reply(None, _why(error))
        except ValueError:  # of a port, and of IDNA; after OSError: wrong certificates are both
            raise _unusable() from None

    async def _fetch(self, name: str, spool: Spool, silence: "_Silence") -> Reply:
        async with self._opened().get(name) as response:
            if response.status != 200:
                return await _reply(response)
            coding = response.headers.get("Content-Encoding", "identity")
            if coding != "identity":
                raise Unreadable(f"it comes coded, as {coding}")
            async for block in response.content.iter_chunked(HELD_LIMIT):
                silence.is_broken()
                if spool.takes_at_once(block):
                    spool.write(block)
                else:
                    await in_thread(partial(spool.write, block))
        return Reply(200)

    def _opened(self) -> "ClientSession":
        if self._session is None:
            # Only now: it takes longer than all else that a command needs.
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
                headers={"User-Agent": _AGENT, "Accept": "*/*"},
                skip_auto_headers=("Accept-Encoding",),
                auto_decompress=False,
            )
        return self._session


class _Silence:
    """How long nothing has moved."""

    def __init__(self, timeout: asyncio.Timeout, longest_s: float) -> None:
        self._timeout, self._longest_s = timeout, longest_s
        self._loop = asyncio.get_running_loop()

    def is_broken(self) -> None:
        """Start anew: something has moved."""
        self._timeout.reschedule(self._loop.time() + self._longest_s)


async def _reply(response: "ClientResponse") -> Reply:
    body = b""
    while not response.content.at_eof() and len(body) < _ANSWER_LIMIT:
        body += await response.content.read(_ANSWER_LIMIT)
    reason = sentence(response.status, response.reason or "", response.content_type, body)
    wait_s = asked_wait_s(response.headers.get("Retry-After", ""))
    return Reply(response.status, reason, asked_wait_s=wait_s)


def _unusable() -> BadArgument:
    return BadArgument("URL", "of no use", "http://HOST:PORT/PATH is expected")


def _why(error: Exception) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server has closed the connection without an answer"
    return str(error) or type(error).__name__
