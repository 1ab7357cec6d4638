"""A thread for what may never come back: a read of a pipe into which nobody writes, a write into
one that nobody reads. asyncio's own threads are waited for when a program ends.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_Found = TypeVar("_Found")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class OwnThread:
    """Does one thing after the other. It is a daemon: nobody waits for it at the end."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._name = name
        self._is_running = False

    async def do(self, work: Callable[[], _Found]) -> _Found:
        """Return what ``work`` returns, or raise what it raises. Cancelled, it goes on there."""
        if not self._is_running:
            self._is_running = True
            Thread(target=self._run, name=self._name, daemon=True).start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Found] = loop.create_future()
        self._jobs.put((work, loop, done))
        return await done

    def _run(self) -> None:
        while True:
            work, loop, done = self._jobs.get()
            tell: Callable[[], None]
            try:
                found = work()
            except BaseException as error:
                tell = _telling(done, None, error)
            else:
                tell = _telling(done, found, None)
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(tell)
            del work, done, tell


def _telling(
    done: "asyncio.Future[Any]", found: Any, error: BaseException | None
) -> Callable[[], None]:
    def tell() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(found)
        else:
            done.set_exception(error)

    return tell
