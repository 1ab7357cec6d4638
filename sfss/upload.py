"""The uploader: brings one name after the other to a server, and says what became of it.

A name is tried several times where that may help, with growing pauses. While the server cannot be
reached at all, each further name is tried once only, so that a long list ends.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import random
from typing import Final, TypeVar

import aiohttp
from yarl import URL

from sfss import __version__
from sfss.errors import BadArgument, BadBody, SettingError, SfssError
from sfss.trying_again import asked_wait_s, may_pass, pause_s
from sfss.upload_plan import (
    Outcome,
    Reply,
    Result,
    Target,
    digest_to_compare,
    is_url,
    outcome_of,
    sentence,
    takes_paths_only,
)
from sfss.upload_sources import BLOCK_BYTES, Body, Item, Spool, open_body

_ANSWER_LIMIT: Final = 4096
"""Bytes of an answer that are read."""

_LOOK_S: Final = 5.0
"""How long the server may take to say what it understands."""

_Found = TypeVar("_Found")
_AGENT: Final = f"sfss-put/{__version__}"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with names. ``tries``: of each, at most; ``silence_s``: seconds without
    progress after which a try counts as failed; ``token``: what the server is shown, and nobody
    else.
    """

    target: Target
    folder: Path
    check: bool = False
    delete: bool = False
    tries: int = 5
    silence_s: float = 60.0
    token: str = ""

    def fields(self) -> dict[str, str]:
        """Return the fields that go with each request to the server, and to no other."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@asynccontextmanager
async def opened(order: Order, concurrency: int) -> AsyncIterator["Uploader"]:
    """Give an uploader for the block that does ``concurrency`` names at the same time, at most."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=2 * concurrency, keepalive_timeout=30.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
        headers={"User-Agent": _AGENT, "Accept": "application/json"},
        skip_auto_headers=("Content-Type", "Accept-Encoding"),
        auto_decompress=False,
    ) as session:
        yield Uploader(session, order)


class Uploader:
    """Does an ``Order``."""

    def __init__(self, session: aiohttp.ClientSession, order: Order) -> None:
        self._session, self._order = session, order
        self._is_down = False

    async def check_face(self) -> None:
        """Raise ``SettingError`` when the server is certain to take files by their URL path only:
        it would keep all of them as one. Whatever else is wrong, the first file tells.
        """
        target = self._order.target
        if target.face != "native":
            return
        try:
            async with (
                asyncio.timeout(min(self._order.silence_s, _LOOK_S)),
                self._session.options(
                    URL(f"{target.url}/file", encoded=True),
                    headers=self._order.fields(),
                    allow_redirects=False,
                ) as response,
            ):
                is_misled = takes_paths_only(response.status, response.headers)
        except (aiohttp.ClientError, OSError, ValueError):
            return
        if is_misled:
            found = f"is {target.url}, which takes files by their URL path"
            raise SettingError("command line", "--to", found, "use --face paths")

    async def treat(self, item: Item) -> Outcome:
        """Do what is to be done with ``item``; never raises but when it is cancelled."""
        if item.problem is not None:
            return Outcome(Result.IGNORED if item.is_ignored else Result.FAILED, item.problem)
        try:
            address = self._order.target.address(item.name)
            if self._order.delete:
                return outcome_of(await self._request("DELETE", address), 0, deleting=True)
            async with self._body(item.name) as body:
                return await self._store(address, body)
        except BadBody as error:
            return Outcome(Result.FAILED, error.reason)
        except SfssError as error:
            return Outcome(Result.FAILED, str(error))

    @asynccontextmanager
    async def _body(self, name: str) -> AsyncIterator[Body]:
        if is_url(name):
            body = await self._fetched(name)
        else:
            body = await _in_thread(partial(open_body, self._order.folder / name))
        try:
            yield body
        finally:
            body.close()

    async def _store(self, address: str, body: Body) -> Outcome:
        if self._order.check:
            reply = await self._request("HEAD", address)
            if may_pass(reply.status):
                return outcome_of(reply, 0, deleting=False)
            digest = digest_to_compare(reply, body.size)
            if digest is not None and digest == await _in_thread(body.digest):
                return Outcome(Result.THERE)
        return outcome_of(await self._request("PUT", address, body), body.size, deleting=False)

    async def _request(self, method: str, address: str, body: Body | None = None) -> Reply:
        """Return the answer to the last of the tries."""
        tries = 0
        while True:
            reply = await self._once(method, address, body)
            tries += 1
            if reply.status is not None:
                self._is_down = False
            wait_s = _pause_s(reply, tries)
            if wait_s is None or self._is_down:
                return reply
            if tries >= self._order.tries:
                self._is_down = reply.status is None
                return reply
            await asyncio.sleep(wait_s)

    async def _once(self, method: str, address: str, body: Body | None) -> Reply:
        async def exchange(silence: "_Silence") -> Reply:
            url = URL(address, encoded=True)
            fields = self._order.fields()
            if body is not None and body.file is not None:
                fields["Content-Length"] = str(body.size)
            async with self._session.request(
                method,
                url,
                data=body and _data(body, silence),
                headers=fields,
                allow_redirects=False,
            ) as response:
                return await _reply(response)

        reply = await self._translated(exchange)
        if body is not None and body.failure is not None:
            raise body.failure
        return reply

    async def _translated(self, exchange: Callable[["_Silence"], Awaitable[Reply]]) -> Reply:
        """Return the answer, or why there is none."""
        try:
            async with asyncio.timeout(self._order.silence_s) as timeout:
                return await exchange(_Silence(timeout, self._order.silence_s))
        except aiohttp.InvalidURL:
            raise _unusable() from None
        except TimeoutError:
            return Reply(None, f"no progress for {self._order.silence_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Reply(None, _why(error))
        except ValueError:  # of a port, and of IDNA; after OSError: wrong certificates are both
            raise _unusable() from None

    async def _fetched(self, name: str) -> Body:
        """Return what is at the URL ``name``; raises ``BadBody``."""
        tries = 0
        while True:
            spool = Spool()
            try:
                reply = await self._translated(partial(self._fetch, name, spool))
                if reply.is_success:
                    return await _in_thread(spool.body)
            except BaseException:
                spool.close()
                raise
            spool.close()
            tries += 1
            wait_s = _pause_s(reply, tries)
            if wait_s is None or tries >= self._order.tries:
                raise BadBody(f"cannot be fetched: {reply.reason}")
            await asyncio.sleep(wait_s)

    async def _fetch(self, name: str, spool: Spool, silence: "_Silence") -> Reply:
        async with self._session.get(name, headers={"Accept": "*/*"}) as response:
            if response.status != 200:
                return await _reply(response)
            coding = response.headers.get("Content-Encoding", "identity")
            if coding != "identity":
                raise BadBody(f"it comes coded, as {coding}")
            async for block in response.content.iter_chunked(BLOCK_BYTES):
                silence.is_broken()
                if len(block) < BLOCK_BYTES // 8:
                    spool.write(block)
                else:
                    await _in_thread(partial(spool.write, block))
        return Reply(200)


class _Silence:
    """How long nothing has moved."""

    def __init__(self, timeout: asyncio.Timeout, longest_s: float) -> None:
        self._timeout, self._longest_s = timeout, longest_s
        self._loop = asyncio.get_running_loop()

    def is_broken(self) -> None:
        """Start anew: something has moved."""
        self._timeout.reschedule(self._loop.time() + self._longest_s)


def _data(body: Body, silence: _Silence) -> bytes | AsyncIterator[bytes]:
    return body.content if body.file is None else _blocks(body, silence)


async def _blocks(body: Body, silence: _Silence) -> AsyncIterator[bytes]:
    offset = 0
    while offset < body.size:
        block = await _in_thread(partial(body.block, offset))
        offset += len(block)
        silence.is_broken()
        yield block


async def _reply(response: aiohttp.ClientResponse) -> Reply:
    body = b""
    while not response.content.at_eof() and len(body) < _ANSWER_LIMIT:
        body += await response.content.read(_ANSWER_LIMIT)
    if 200 <= response.status < 300:
        etag = response.headers.get("ETag", "")
        return Reply(response.status, "", _length(response.headers), etag)
    reason = sentence(response.status, response.reason or "", response.content_type, body)
    wait_s = asked_wait_s(response.headers.get("Retry-After", ""))
    return Reply(response.status, reason, asked_wait_s=wait_s)


def _pause_s(reply: Reply, tries: int) -> float | None:
    return pause_s(reply.status, tries, random(), reply.asked_wait_s)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _unusable() -> BadArgument:
    return BadArgument("URL", "of no use", "http://HOST:PORT/PATH is expected")


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server has closed the connection without an answer"
    return str(error) or type(error).__name__


async def _in_thread(work: Callable[[], _Found]) -> _Found:
    return await asyncio.get_running_loop().run_in_executor(None, work)
