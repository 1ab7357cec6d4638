"""Other processes that copy for a synchronisation: with many small files it is the processor of
this machine that is waited for, and Python uses one.

They are forked before there are threads and an event loop, and wait at a socket for batches; when
that is closed, by whom or whatever, they end. What one had that has ended is done once more.
"""

import asyncio
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from resource import RLIMIT_NOFILE, RLIMIT_NPROC, getrlimit
from struct import Struct
from typing import Any, Final, TypeAlias

from sfss.client_saving import Progress
from sfss.remote_command import new_runner
from sfss.sync_copying import Batch, Copier, Told
from sfss.sync_plan import Pair
from sfss.upload_plan import Outcome

PROCESS_LIMIT: Final = 4
"""Most processes, this one among them: it lists as fast as three others copy."""

ALONE: Final = 8
"""Batches that are done here before any others have to begin."""

_END_S: Final = 10.0
"""Seconds in which processes that have nothing more to do end by themselves."""

_LEAST_LIMIT: Final = 64
"""Processes, threads among them, and descriptors that a user has to be allowed: with four processes
24 and 10 were the least that did it.
"""

_FRAME: Final = Struct(">QI")  # a number, and the bytes that follow

Answer: TypeAlias = tuple[list[Outcome | None], int]
"""What became of the paths of a batch, in its order, and how many bytes have moved."""

Opened: TypeAlias = Callable[[Progress], AbstractAsyncContextManager[Copier]]
"""Gives a copier, with connections of its own."""


def usable_count() -> int:
    """Return how many processes are of use: one where others would take the threads or descriptors
    that it needs itself.
    """
    if any(0 <= getrlimit(each)[0] < _LEAST_LIMIT for each in (RLIMIT_NPROC, RLIMIT_NOFILE)):
        return 1
    affinity = getattr(os, "sched_getaffinity", None)  # macOS does not tell
    count = os.cpu_count() or 1 if affinity is None else len(affinity(0))
    return min(PROCESS_LIMIT, count)


class Gone(Exception):
    """Raised when a process has ended that had something to do."""


class _Worker:
    """One process, as the one that has forked it sees it."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._socket = pid, connection
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it has ended: its stream is closed before ``_listen`` has read so."""
        assert self._streams is not None and self._listening is not None
        return self._streams[1].is_closing() or self._listening.done()

    async def open(self) -> None:
        """Begin to give it something to do. Raises ``OSError``."""
        self._streams = await asyncio.open_connection(sock=self._socket.dup())
        self._listening = asyncio.create_task(self._listen(self._streams[0]))

    async def ask(self, batch: Batch) -> Answer:
        """Return what became of ``batch``; raise ``Gone``."""
        assert self._streams is not None
        if self.is_gone:
            raise Gone
        self._number += 1
        number = self._number
        self.waiting[number] = future = asyncio.get_running_loop().create_future()
        try:
            self._streams[1].write(_frame(number, batch))
            answer: Answer = await future
            return answer
        finally:
            del self.waiting[number]

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while (found := await _read(reader)) is not None:
                number, answer = found
                if number in self.waiting and not self.waiting[number].done():
                    self.waiting[number].set_result(answer)
        finally:
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(Gone)

    async def close(self) -> None:
        """Take no more answers."""
        if self._streams is not None and self._listening is not None:
            self._listening.cancel()
            self._streams[1].close()
            await asyncio.wait({self._listening})

    def forget(self) -> None:
        """Have nothing more to do with it, in a process that is one itself."""
        self._socket.close()

    def dismiss(self) -> None:
        """Have it end by itself."""
        with suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self, until_s: float) -> None:
        """Wait until it has closed its socket; raise ``TimeoutError``."""
        with suppress(ConnectionError):
            while True:
                self._socket.settimeout(max(0.001, until_s - time.monotonic()))
                if not self._socket.recv(65_536):
                    break

    def end(self) -> None:
        """End it if it has not, and leave nothing of it."""
        self._socket.close()
        with suppress(ProcessLookupError, ChildProcessError):  # where SIGCHLD is ignored
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class Workers:
    """Up to ``count`` processes, each with a copier that it has ``opened``, for the block. To be
    made before there are threads: they are forked.
    """

    def __init__(self, count: int, opened: Opened) -> None:
        self._count, self._opened = count, opened
        self.all: list[_Worker] = []

    def __enter__(self) -> "Workers":
        for _ in range(self._count):
            try:
                self._fork()
            except OSError:
                break  # the system has no room for more: fewer do it as well
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.dismiss()
        until_s = time.monotonic() + _END_S
        try:
            for worker in self.all:
                with suppress(TimeoutError):
                    worker.wait(until_s)
        finally:
            for worker in self.all:
                worker.end()

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                pid = os.fork()
                if not pid:
                    # An interrupt is for the first process, which closes the socket.
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
            except OSError:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
            if not pid:
                self._be_worker(ours, theirs)
        self.all.append(_Worker(pid, ours))

    def _be_worker(self, ours: socket.socket, theirs: socket.socket) -> None:
        status = 1
        try:
            ours.close()
            for other in self.all:  # else none would see that the first process is no more
                other.forget()
            _work(theirs, self._opened)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(status)


class Crew:
    """Does batches with ``copier``, and when there are many in ``workers``, too; ``say`` is told
    when one of those has ended. For the block.
    """

    def __init__(
        self, copier: Copier, workers: Workers, moved: Progress, say: Callable[[str], None]
    ) -> None:
        self.copier, self._workers = copier, list(workers.all)
        self._moved, self._say = moved, say
        self._begun = self._here = 0
        self._opening = asyncio.Lock()
        self._open: list[_Worker] = []

    async def __aenter__(self) -> "Crew":
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._open:
            await worker.close()

    async def do_batch(self, batch: Batch, told: Told, anywhere: bool) -> None:
        """See ``Copier``; by any process that has least to do, if it may be done ``anywhere``."""
        if anywhere:
            self._begun += 1
            worker = await self._idlest() if self._begun > ALONE else None
            if worker is not None and await self._is_done_by(worker, batch, told):
                return
        self._here += 1
        try:
            await self.copier.do_batch(batch, told)
        finally:
            self._here -= 1

    async def _idlest(self) -> _Worker | None:
        await self._open_all()
        alive = [worker for worker in self._open if not worker.is_gone]
        found = min(alive, key=lambda worker: len(worker.waiting), default=None)
        return found if found is not None and len(found.waiting) < self._here else None

    async def _is_done_by(self, worker: _Worker, batch: Batch, told: Told) -> bool:
        try:
            outcomes, size = await worker.ask(batch)
        except Gone:
            if worker in self._open:
                self._open.remove(worker)
                await worker.close()
                self._say("a process that copied has ended; what it had is done again")
            return False
        self._moved(size)
        for (_, pair), outcome in zip(batch, outcomes, strict=True):
            told(pair, outcome)
        return True

    async def _open_all(self) -> None:
        async with self._opening:
            while self._workers:
                worker = self._workers.pop()
                try:
                    await worker.open()
                except OSError:  # no descriptors are left: fewer do it as well
                    self._workers.clear()
                else:
                    self._open.append(worker)


def _work(connection: socket.socket, opened: Opened) -> None:
    """Do what comes until there is no more to come; what is being done then is left off."""
    if connection.recv(1, socket.MSG_PEEK):  # mostly there is nothing to do at all
        with new_runner() as runner:
            runner.run(_serve(connection, opened))


async def _serve(connection: socket.socket, opened: Opened) -> None:
    moved = 0

    def note_moved(size: int) -> None:
        nonlocal moved
        moved += size

    reader, writer = await asyncio.open_connection(sock=connection.dup())

    async def do(number: int, batch: Batch) -> None:
        nonlocal moved
        outcomes: dict[int, Outcome | None] = {}

        def told(pair: Pair, outcome: Outcome | None) -> None:
            outcomes[id(pair)] = outcome

        await copier.do_batch(batch, told)
        size, moved = moved, 0
        writer.write(_frame(number, ([outcomes[id(pair)] for _, pair in batch], size)))

    async with opened(note_moved) as copier, asyncio.TaskGroup() as group:
        tasks: set[asyncio.Task[None]] = set()
        while (found := await _read(reader)) is not None:
            task = group.create_task(do(*found))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
    writer.close()


def _frame(number: int, what: Sequence[object]) -> bytes:
    content = pickle.dumps(what, pickle.HIGHEST_PROTOCOL)
    return _FRAME.pack(number, len(content)) + content


async def _read(reader: asyncio.StreamReader) -> tuple[int, Any] | None:
    """Return what is said next; None at the end."""
    try:
        number, size = _FRAME.unpack(await reader.readexactly(_FRAME.size))
        return number, pickle.loads(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
