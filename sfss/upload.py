"""The uploader: brings one name after the other to a server, and says what became of it.

A name is tried several times where that may help, with growing pauses. While the server cannot be
reached at all, each further name is tried once only, so that a long list ends.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import random
from typing import Final

from sfss.client_bodies import FileBody, SentBody, body_of_file, in_thread
from sfss.client_errors import Unreadable
from sfss.client_text import Server, Writer, phrase
from sfss.errors import SettingError, SfssError
from sfss.http_connection import NoAnswer, Request, Stream
from sfss.http_pool import Pool, ask
from sfss.http_text import Head
from sfss.trying_again import asked_wait_s, may_pass, pause_s
from sfss.upload_fetching import Fetcher
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
from sfss.upload_sources import Item

_ANSWER_LIMIT: Final = 4096
"""Bytes of an answer that are read."""

_LOOK_S: Final = 5.0
"""How long the server may take to say what it understands."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with names. ``tries``: of each, at most; ``silence_s``: seconds without
    progress after which a try counts as failed; ``token``: what the server is shown, and nobody
    else.
    """

    server: Server
    target: Target
    folder: Path
    check: bool = False
    delete: bool = False
    tries: int = 5
    silence_s: float = 60.0
    token: str = ""


@asynccontextmanager
async def opened(order: Order, concurrency: int) -> AsyncIterator["Uploader"]:
    """Give an uploader for the block that does ``concurrency`` names at the same time, at most."""
    server = order.server
    tls = ssl.create_default_context() if server.scheme == "https" else None
    pool = Pool(server.host, server.port, order.silence_s, concurrency, tls)
    async with aclosing(Fetcher(order.tries, order.silence_s, concurrency)) as fetcher:
        try:
            yield Uploader(pool, fetcher, order)
        finally:
            await pool.close(minds_readers=True)


class Uploader:
    """Does an ``Order``."""

    def __init__(self, pool: Pool, fetcher: Fetcher, order: Order) -> None:
        self._pool, self._fetcher, self._order = pool, fetcher, order
        self._write = Writer(order.server, order.token)
        self._is_down = False

    async def check_face(self) -> None:
        """Raise ``SettingError`` when the server is certain to take files by their URL path only:
        it would keep all of them as one. Whatever else is wrong, the first file tells.
        """
        order = self._order
        if order.target.face != "native":
            return
        with suppress(NoAnswer, TimeoutError):
            async with asyncio.timeout(min(order.silence_s, _LOOK_S)):
                head, said = await ask(self._pool, Request(self._write.head("OPTIONS", "/file")))
            if isinstance(said, Stream):
                said.close()
            if takes_paths_only(head.status, head.fields):
                url = order.server.origin + order.server.base
                found = f"is {url}, which takes files by their URL path"
                raise SettingError("command line", "--to", found, "use --face paths")

    async def treat(self, item: Item) -> Outcome:
        """Do what is to be done with ``item``; never raises but when it is cancelled."""
        if item.problem is not None:
            return Outcome(Result.IGNORED if item.is_ignored else Result.FAILED, item.problem)
        try:
            address = self._order.target.address(item.name)
            if self._order.delete:
                return outcome_of(await self._request("DELETE", address), 0, deleting=True)
            body = await self._body(item.name)
            try:
                return await self._store(address, body)
            finally:
                body.close()
        except OSError as error:  # of a file that is read
            return Outcome(Result.FAILED, error.strerror or str(error))
        except (SfssError, Unreadable) as error:
            return Outcome(Result.FAILED, str(error))

    async def _body(self, name: str) -> SentBody:
        if is_url(name):
            return await self._fetcher.fetched(name)
        return await in_thread(partial(body_of_file, self._order.folder / name))

    async def _store(self, address: str, body: SentBody) -> Outcome:
        if self._order.check:
            reply = await self._request("HEAD", address)
            if may_pass(reply.status):
                return outcome_of(reply, 0, deleting=False)
            digest = digest_to_compare(reply, len(body))
            if digest is not None and digest == await in_thread(body.digest):
                return Outcome(Result.THERE)
        return outcome_of(await self._request("PUT", address, body), len(body), deleting=False)

    async def _request(self, method: str, address: str, body: SentBody | None = None) -> Reply:
        """Return the answer to the last of the tries."""
        tries = 0
        while True:
            reply = await self._once(method, address, body)
            tries += 1
            if reply.status is not None:
                self._is_down = False
            wait_s = pause_s(reply.status, tries, random(), reply.asked_wait_s)
            if wait_s is None or self._is_down:
                return reply
            if tries >= self._order.tries:
                self._is_down = reply.status is None
                return reply
            await asyncio.sleep(wait_s)

    async def _once(self, method: str, address: str, body: SentBody | None) -> Reply:
        size = None if body is None else len(body)
        sent = b"" if body is None else body.body
        request = Request(self._write.head(method, address, None, size), sent, method == "HEAD")
        try:
            head, said = await ask(self._pool, request)
        except NoAnswer as failure:
            if isinstance(body, FileBody) and body.failure is not None:
                raise Unreadable(body.failure) from None
            return Reply(None, self._why(failure))
        return await _reply(head, said)

    def _why(self, failure: NoAnswer) -> str:
        if failure.sent:
            return str(failure)
        server = self._order.server
        return f"cannot connect to {server.host}:{server.port}: {failure}"


async def _reply(head: Head, said: bytes | Stream) -> Reply:
    body = said if isinstance(said, bytes) else await said.beginning(_ANSWER_LIMIT)
    field = {name: value.decode("latin-1") for name, value in head.fields.items()}
    if 200 <= head.status < 300:
        return Reply(head.status, "", head.length, field.get(b"etag", ""))
    content_type = field.get(b"content-type", "")
    reason = sentence(head.status, phrase(head.status), content_type, body[:_ANSWER_LIMIT])
    return Reply(head.status, reason, asked_wait_s=asked_wait_s(field.get(b"retry-after", "")))
