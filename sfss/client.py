"""Talks to a gateway: ``AsyncClient`` for asyncio, ``Client`` for everybody else.

    with Client("http://127.0.0.1:8255") as client:
        client.put("notes/hello.txt", b"hello")
        client.get("notes/hello.txt")

``Client`` has the methods of ``AsyncClient``, made from them: it drives one, in an event loop in a
thread of its own. It may be used by many threads at once, and in the process that has made it.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import wraps
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sfss.client_asynchronous import TOKEN_VARIABLE, URL_VARIABLE, AsyncClient, url_of
from sfss.client_download import Download
from sfss.client_text import DamagedPaths, File, Page

__all__ = [
    "TOKEN_VARIABLE",
    "URL_VARIABLE",
    "AsyncClient",
    "BlockingDownload",
    "Client",
    "File",
    "Page",
    "url_of",
]

_CLOSED: Final = "the client has been closed"

_Arguments = ParamSpec("_Arguments")
_Found = TypeVar("_Found")


def _blocking(
    method: Callable[Concatenate[AsyncClient, _Arguments], Coroutine[Any, Any, _Found]],
) -> Callable[Concatenate["Client", _Arguments], _Found]:
    """Return ``method`` as one of ``Client``, which waits for what it returns."""

    @wraps(method)
    def call(self: "Client", /, *args: _Arguments.args, **named: _Arguments.kwargs) -> _Found:
        return self._wait_for(method(self._client, *args, **named))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, _Arguments], AsyncGenerator[_Found, None]],
) -> Callable[Concatenate["Client", _Arguments], Iterator[_Found]]:
    """Return ``method`` as one of ``Client``, which iterates over what it yields."""

    @wraps(method)
    def call(
        self: "Client", /, *args: _Arguments.args, **named: _Arguments.kwargs
    ) -> Iterator[_Found]:
        return self._each_of(method(self._client, *args, **named))

    return call


class Client:
    """``AsyncClient`` without asyncio: the same arguments, methods and errors."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        connections: int = 64,
        tries: int = 5,
        timeout_s: float = 30.0,
    ) -> None:
        self._loop: Final = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sfss client", daemon=True
        )
        self._thread.start()
        self._is_closed = False
        self._turn = threading.RLock()
        self._endings: set[asyncio.Task[object]] = set()
        self._process_id = os.getpid()

        async def make() -> AsyncClient:
            limits = {"connections": connections, "tries": tries}
            return AsyncClient(url, token, timeout_s=timeout_s, **limits)

        try:
            self._client = self._wait_for(make())
        except BaseException:
            self._end()
            raise

    get = _blocking(AsyncClient.get)
    get_to_file = _blocking(AsyncClient.get_to_file)
    stat = _blocking(AsyncClient.stat)
    exists = _blocking(AsyncClient.exists)
    put = _blocking(AsyncClient.put)
    check_put = _blocking(AsyncClient.check_put)
    delete = _blocking(AsyncClient.delete)
    page = _blocking(AsyncClient.page)
    pages = _iterating(AsyncClient.pages)
    status = _blocking(AsyncClient.status)

    def copy(self, source: str, target: str, to: "Client | None" = None) -> File:
        """As ``AsyncClient.copy``."""
        if to is None:
            return self._wait_for(self._client.copy(source, target))
        with TemporaryFile() as file:
            with self.open(source) as download:
                for block in download.blocks():
                    file.write(block)
            file.seek(0)
            return to.put(target, file, content_type=download.file.media_type or None)

    def list(self, prefix: str = "", after: str = "") -> Iterator[File]:
        """As ``AsyncClient.list``."""
        # One step of the other thread for each page, not for each file.
        damaged = DamagedPaths()
        for page in self.pages(prefix, after):
            damaged.note(page)
            yield from page.files
        damaged.end()

    @contextmanager
    def open(
        self, path: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None
    ) -> Generator["BlockingDownload", None, None]:
        """As ``AsyncClient.open``; ``blocks`` is an ordinary iterator."""
        opened = self._client.open(path, start, stop, if_match=if_match)
        download = self._wait_for(opened.__aenter__())
        try:
            yield BlockingDownload(self, download)
        finally:
            self._let_go(lambda: opened.__aexit__(None, None, None))

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return self._client.url

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, when what is under way has been answered. Who waits for something
        in another thread all the same, as for a further try, gets a RuntimeError.
        """
        if self._process_id != os.getpid():
            return
        with self._turn:
            if self._is_closed:
                return
            self._is_closed = True
        # What others have asked for has come before this: nobody hands anything over any more.
        asyncio.run_coroutine_threadsafe(self._closed(), self._loop).result()
        self._end()

    async def _closed(self) -> None:
        await self._client.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _end(self) -> None:
        self._is_closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, _Found]) -> _Found:
        if self._process_id != os.getpid():  # a fork takes no threads along
            work.close()
            raise RuntimeError("the client is that of another process: make one after the fork")
        if threading.current_thread() is self._thread:  # it would wait for itself
            work.close()
            raise RuntimeError("the client is at work: what it calls, as progress, cannot ask it")
        with self._turn:
            if self._is_closed:
                work.close()
                raise RuntimeError(_CLOSED)
            future: Future[_Found] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(_CLOSED) from None
        except BaseException:
            future.cancel()  # for Ctrl-C; else it is over
            raise

    def _each_of(self, items: AsyncGenerator[_Found, None]) -> Iterator[_Found]:
        async def following() -> _Found | _End:
            return await anext(items, _End())

        try:
            while not isinstance(item := self._wait_for(following()), _End):
                yield item
        finally:
            self._let_go(items.aclose)

    def _let_go(self, ending: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have ``ending`` end what was begun, unless it has ended with the client.

        The collector of garbage may ask, of what was left: in our own thread, which must not wait
        for itself; after a fork; and when the interpreter ends, and that thread is no more.
        """
        if self._is_closed or self._process_id != os.getpid() or sys.is_finalizing():
            return
        if threading.current_thread() is not self._thread:
            self._wait_for(ending())
            return
        task = self._loop.create_task(ending())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


class _End:
    """Comes after the last item."""


class BlockingDownload:
    """``Download`` without asyncio."""

    def __init__(self, client: Client, download: Download) -> None:
        self._client, self._download = client, download
        self.file = download.file

    def read(self) -> bytes:
        """As ``Download.read``."""
        return self._client._wait_for(self._download.read())

    def blocks(self) -> Iterator[bytes]:
        """As ``Download.blocks``."""
        return self._client._each_of(self._download.blocks())
