"""The client for asyncio; see ``client``."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sfss.client_asking import Asker
from sfss.client_bodies import Content, SentBody, body_of
from sfss.client_download import Download, Wanted
from sfss.client_errors import ConditionFailed, Damaged, NotFound
from sfss.client_expecting import refusal
from sfss.client_saving import Progress, save
from sfss.client_text import (
    DEFAULT_URL,
    DamagedPaths,
    File,
    Page,
    comes_after,
    file_of,
    folded,
    listing_target,
    read_document,
    read_page,
    read_server,
)
from sfss.http_connection import Request
from sfss.upload_plan import Reply, digest_to_compare

URL_VARIABLE: Final = "SFSS_URL"
TOKEN_VARIABLE: Final = "SFSS_TOKEN"

PAGE_LIMIT: Final = 1000
"""Most files of a page."""


def url_of(given: str | None) -> str:
    """Return where the gateway is that is meant: ``given``, or as the environment says, or here."""
    return given or os.environ.get(URL_VARIABLE) or DEFAULT_URL


class AsyncClient:
    """Files of one gateway, which is at ``url``: ``SFSS_URL`` of the environment if it is not
    given, or http://127.0.0.1:8255. ``token``: ``SFSS_TOKEN`` if it is not given.

    Up to ``connections`` requests are under way at the same time, the others wait. Each is tried
    up to ``tries`` times, with growing pauses, where the server cannot be reached, or says that
    it could work later; a try in which nothing moves for ``timeout_s`` has failed.

    It may be used by many tasks at once, of one event loop; a task that is cancelled harms none of
    the others. All methods raise ``ClientError`` (``client_errors``), and ValueError for what
    cannot be a path, a type or a tag.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        connections: int = 64,
        tries: int = 5,
        timeout_s: float = 30.0,
    ) -> None:
        said = token if token is not None else os.environ.get(TOKEN_VARIABLE)
        self._asker = Asker(read_server(url_of(url)), said, connections, tries, timeout_s)

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return self._asker.server.origin + self._asker.server.base

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, when what is under way has been answered."""
        await self._asker.close()

    async def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the file ``path``, or its bytes from ``start`` up to ``stop``.

        Raises ``NotFound``, ``NoSuchRange``; ``Damaged`` where what came is not what is kept.
        """
        async with self.open(path, start, stop) as download:
            return await download.read()

    @asynccontextmanager
    async def open(
        self, path: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None
    ) -> AsyncGenerator[Download, None]:
        """Give the file for the block, to be read piece by piece (``async for block in
        download.blocks()``). It takes one of the connections meanwhile. ``if_match``: raises
        ``ConditionFailed`` if it has another ETag.
        """
        fields = {} if if_match is None else {"If-Match": if_match}
        wanted = Wanted(path, start, stop)
        request = wanted.request(self._asker, start, fields)
        async with self._asker.asking(request, path) as answer:
            yield Download(self._asker, wanted, answer)

    async def get_to_file(
        self, path: str, target: str | Path, progress: Progress = lambda _: None
    ) -> File:
        """Have the file in the file ``target``, which is replaced when all has come and was found
        right. What came of a long file is kept beside it until then, and gone on with next time.

        ``progress`` is called with the number of bytes that have come.
        """
        return await save(self._asker, path, Path(target), progress)

    async def stat(self, path: str) -> File:
        """Return what is known of a file; raises ``NotFound``."""
        request = Request(self._asker.write.file_head("HEAD", path), is_head=True)
        answer = await self._asker.ask(request, path)
        return file_of(path, answer.head)

    async def exists(self, path: str) -> bool:
        """Tell whether there is a file; raises ``Unreachable`` where nobody can tell."""
        try:
            await self.stat(path)
        except NotFound:
            return False
        return True

    async def put(
        self,
        path: str,
        content: Content,
        *,
        content_type: str | None = None,
        ttl_s: int | None = None,
        if_match: str | None = None,
        create: bool = False,
    ) -> File:
        """Keep ``content`` as ``path``: bytes, the file of a Path, an open file, or an iterator of
        pieces, which are gathered in a temporary file if they are many. Returns when it is kept.

        ``content_type``: by the name if not given. ``ttl_s``: seconds after which it is gone.
        ``if_match``: only in place of a file with this ETag, ``create``: only if there is none;
        else raises ``ConditionFailed``.
        """
        fields = {"Content-Type": content_type} if content_type else {}
        if if_match is not None:
            fields["If-Match"] = if_match
        if create:
            fields["If-None-Match"] = "*"
        query = "" if ttl_s is None else f"&ttl={ttl_s}"
        body = await body_of(content)
        try:
            return await self._put(path, body, fields, query)
        finally:
            body.close()

    async def check_put(self, path: str, size: int, *, content_type: str | None = None) -> None:
        """Raise what ``put`` would raise of a file of ``size`` bytes for its path, its size or its
        token, before there are any bytes. ``Unreachable``: the server does not tell.
        """
        fields = {"Content-Type": content_type} if content_type else {}
        fields["Expect"] = "100-continue"
        head = self._asker.write.file_head("PUT", path, fields, size)
        error = await refusal(self._asker.server, head, path)
        if error is not None:
            raise error

    async def _put(self, path: str, body: SentBody, fields: Mapping[str, str], query: str) -> File:
        size = len(body)
        head = self._asker.write.file_head("PUT", path, fields, size, query)
        try:
            answer = await self._asker.ask(Request(head, body.body), path)
        except ConditionFailed as error:
            # By what was answered to no one: then it is there.
            if error.repeated and (kept := await self._kept(path, body)):
                return kept
            raise
        etag = answer.head.fields.get(b"etag", b"").decode("latin-1")
        kept = File(path, size, etag)
        found = digest_to_compare(Reply(answer.head.status, "", size, etag), size)
        if found is not None and found != body.digest():
            raise Damaged(f"{path}: what is kept has the digest {found}, this has {body.digest()}")
        return kept

    async def _kept(self, path: str, body: SentBody) -> File | None:
        try:
            found = await self.stat(path)
        except NotFound:
            return None
        return found if (found.size, found.digest) == (len(body), body.digest()) else None

    async def delete(
        self, path: str, *, if_match: str | None = None, missing_ok: bool = False
    ) -> None:
        """Remove a file. Raises ``NotFound`` where there is none, unless ``missing_ok``;
        ``ConditionFailed`` where its ETag is not ``if_match``.
        """
        fields = {} if if_match is None else {"If-Match": if_match}
        request = Request(self._asker.write.file_head("DELETE", path, fields))
        try:
            await self._asker.ask(request, path)
        except NotFound as error:
            # An earlier try may have done it, and lost only its answer.
            if not missing_ok and not error.repeated:
                raise

    async def copy(self, source: str, target: str, to: "AsyncClient | None" = None) -> File:
        """Keep what ``source`` is as ``target``, of another gateway if ``to`` is given. It comes
        here and goes there.
        """
        async with self.open(source) as download:
            media_type = download.file.media_type or None
            body = await body_of(download.blocks())
        # Not within the block: whoever has one connection, and waits for another, waits for ever.
        return await (to or self).put(target, body, content_type=media_type)

    async def page(
        self, prefix: str = "", after: str = "", limit: int = PAGE_LIMIT, delimiter: str = ""
    ) -> Page:
        """Return one page of what is stored; see ``list``."""
        target = listing_target(prefix, after, limit, delimiter)
        answer = await self._asker.ask(Request(self._asker.write.head("GET", target)))
        page, has_folders = read_page(await answer.whole())
        return page if has_folders or not delimiter else folded(page, prefix, delimiter)

    async def pages(
        self, prefix: str = "", after: str = "", delimiter: str = ""
    ) -> AsyncGenerator[Page, None]:
        """Yield all pages of what is stored, from ``after`` on; see ``list``."""
        following: str | None = after
        while following is not None:
            page = await self.page(prefix, following, delimiter=delimiter)
            yield page
            if page.next is not None and not comes_after(page.next, following):
                raise Damaged("the listing does not go on")
            following = page.next

    async def list(self, prefix: str = "", after: str = "") -> AsyncGenerator[File, None]:
        """Yield all files whose paths begin with ``prefix``, in byte order, from ``after`` on. A
        failure in the middle is raised, and never taken for the end. Where some are damaged, so
        that the server knows no more than their paths, ``Damaged`` is raised behind all others
        (``pages`` tells which).
        """
        damaged = DamagedPaths()
        async with aclosing(self.pages(prefix, after)) as pages:
            async for page in pages:
                damaged.note(page)
                for file in page.files:
                    yield file
        damaged.end()

    async def status(self, full: bool = True) -> dict[str, Any]:
        """Return what ``/status`` says of the stores, ``full``: and of the gateway."""
        target = "/status?detail=full" if full else "/status"
        answer = await self._asker.ask(Request(self._asker.write.head("GET", target)))
        return read_document(await answer.whole())
