"""Connections of a node: a server of the memcached protocol over one store.

Answers come in the order of the commands. A plain get whose item the store has at hand is answered
in the call that brought it, with neither task nor future. Whatever else comes is served by one task
of the connection, command by command; only writes that carry their whole item overlap, so that
those of one client, too, share the store's transactions. Any other command waits until they are
done: a client reads what it wrote.

What a client can occupy is bounded: a line by ``memtext_commands``, what is read ahead by
``READ_AHEAD``, writes in flight by ``WRITES_IN_FLIGHT``, answers by the transport's high water and
one item, values that arrive and that wait for the disk by two ``Room`` of all clients. A client
that does not read is not read from, and is cut off after a while; so is one that leaves a large
value unfinished.
"""

import asyncio
import logging
import time
from collections import deque
from functools import partial
from typing import Final, NamedTuple, cast

from sfss import __version__
from sfss.config import MIB
from sfss.memtext_commands import (
    UNKNOWN,
    Answer,
    BadCommand,
    Browse,
    Command,
    CommandParser,
    Count,
    Delete,
    Flush,
    Get,
    Message,
    Set,
    Stats,
    Touch,
    Word,
)
from sfss.node_commands import END, Node, NodeSettings, OnMessage, Refused, answer_message
from sfss.node_newcomers import Newcomer, Newcomers
from sfss.node_outbox import Outbox
from sfss.node_reads import NodeStore
from sfss.node_room import UNRESERVED_BYTES, Arrival, Room
from sfss.node_stats import EMPTY_GROUPS, Traffic, allowed, general, lines

READ_AHEAD: Final = 256 * 1024
"""Bytes that are taken from a client while a command of its is being served."""

WRITES_IN_FLIGHT: Final = 1000
"""Writes of one client that wait for the disk."""

ARRIVING_BYTES: Final = 256 * MIB
WAITING_BYTES: Final = 64 * MIB
"""Memory for values of all clients that have begun to come, and that wait for the disk."""

GETS_PER_TURN: Final = 1024
"""Gets that are answered before others get their turn."""

QUIET_S: Final = 0.1
GRACE_S: Final = 3.0
NEWCOMERS_GRACE_S: Final = 0.5
"""A node that stops closes a connection when nothing has come for the first time, and reads from it
for the second at most.
"""

_READING_MODES: Final = frozenset({"append", "prepend"})
"""Commands with a value that cannot begin before the writes ahead of them are done. The others can:
the store makes changes in the order in which they come.
"""

_WRITE_OVERHEAD: Final = 1024
_BLOCK_END: Final = b"\r\n"
_ONE_BLOCK_END: Final = _BLOCK_END + END

_log = logging.getLogger(__name__)


class _Write(NamedTuple):
    """A write in flight; the task returns its answer."""

    task: asyncio.Task[bytes]
    noreply: bool


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: "Server") -> None:
        self._server, self._node, self._traffic = server, server.node, server.traffic
        self._loop = asyncio.get_running_loop()
        self._parser = CommandParser(server.settings.item_limit)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._missed: bytes | None = None  # a get that is the task's to answer
        self._writes: deque[_Write] = deque()
        self._settling = False
        self._outbox = Outbox(server.traffic)
        self._input_ended = False  # nothing that may still come is looked at
        self._moved: asyncio.Future[None] | None = None
        self._arrival = Arrival(server.arriving, self)
        self.received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many already."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._outbox.open(self._transport)
        if not self._server.opened(self):
            self._input_ended = True
            self._outbox.say(b"ERROR Too many open connections\r\n")
            self._outbox.close()

    def connection_lost(self, error: Exception | None) -> None:
        """End; writes that have begun are finished."""
        self._transport = None
        self._outbox.lost()
        self._server.closed(self)
        self._arrival.give()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._input_ended:
            return
        self.received_bytes += len(data)
        self._traffic.received_bytes += len(data)
        self._parser.feed(data)
        if self._task is not None:
            if self._transport is not None and self._parser.unread > READ_AHEAD:
                self._transport.pause_reading()
        elif not self._parser.expected:
            self._answer_gets()
            if self._missed is not None or not self._parser.empty:
                self._task = self._loop.create_task(self._serve())

    def eof_received(self) -> bool:
        """Take note that the client sends no more; it still gets its answers."""
        self._input_ended = True
        self._close_if_done()
        return True

    def idle(self) -> bool:
        """Tell whether every command that came whole has been answered."""
        return self._task is None and not self._writes

    def finish(self) -> None:
        """Answer what has come, look at nothing more, and close."""
        self._input_ended = True
        if self._transport is not None:
            self._transport.pause_reading()
        self._close_if_done()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- at once

    def _answer_gets(self) -> int:
        """Answer the plain gets that come next, if nothing has to come before; return how many."""
        if self._writes or self._missed is not None:
            return 0
        next_get, show, outbox, hits = self._parser.next_get, self._node.show, self._outbox, 0
        while hits < GETS_PER_TURN and not outbox.full and (key := next_get()):
            block = show(key)
            if block is None:
                self._missed = key
                break
            hits += 1
            outbox.show(block, _ONE_BLOCK_END)
        self._traffic.get_hits += hits
        outbox.flush()
        return hits

    # -- by the task

    async def _serve(self) -> None:
        """Serve commands until more bytes are needed for the next."""
        try:
            await self._serve_all()
        except BadCommand as error:
            self._input_ended = True
            await self._written()
            self._outbox.say(error.answer)
        except Exception:
            _log.exception("error in serving a client")
            self.abort()
        finally:
            self._task = None
            self._outbox.flush()
            self._close_if_done()
        if self._transport is not None and not self._input_ended:
            self._transport.resume_reading()

    async def _serve_all(self) -> None:
        turn = 0
        while True:
            turn += self._answer_gets() + 1
            command = self._next_command()
            if command is not None:
                await self._do(command)
            elif not await self._reserve(self._parser.expected):
                return
            while self._outbox.full:
                await self._wait()
            turn += len(command.keys) if isinstance(command, Get) else 0
            if turn >= GETS_PER_TURN:
                turn = 0
                await asyncio.sleep(0)

    def _next_command(self) -> Command | None:
        if self._missed is not None:
            key, self._missed = self._missed, None
            return Get([key])
        command = self._parser.next_command()
        if command is not None and self._arrival.size:
            self._arrival.came()
        return command

    async def _do(self, command: Command) -> None:
        if isinstance(command, Delete) or (
            isinstance(command, Set) and command.mode not in _READING_MODES
        ):
            await self._begin_write(command)
            return
        await self._written()
        if isinstance(command, Get):
            await self._retrieve(command)
        elif isinstance(command, Set | Count | Touch):
            self._outbox.say(await self._node.change(command), command.noreply)
            self._arrival.give()
        elif isinstance(command, Flush):
            self._outbox.say(await self._node.flush(), command.noreply)
        elif isinstance(command, Answer):
            self._outbox.say(command.line, command.noreply)
        elif isinstance(command, Message):
            self._outbox.flush()  # it may take a while
            self._outbox.say(await answer_message(self._server.on_message, command.payload))
            self._arrival.give()
        else:
            await self._report(command)

    async def _report(self, command: Stats | Browse | Word) -> None:
        try:
            if isinstance(command, Stats):
                self._outbox.say(await self._server.stats(command.group))
            elif isinstance(command, Browse):
                for block in await self._node.browse(command):
                    self._outbox.show(block, _BLOCK_END)
                self._outbox.say(END)
            elif command is Word.VERSION:
                self._outbox.say(b"VERSION %b\r\n" % __version__.encode())
            elif command is Word.METADUMP:
                await self._metadump()
            else:
                raise BadCommand(b"")  # quit
        except Refused as refused:
            self._outbox.say(refused.line)

    async def _retrieve(self, command: Get) -> None:
        node, traffic = self._node, self._traffic
        for key in command.keys:
            while self._outbox.full:
                await self._wait()
            block = node.show(key, command.unique) if command.exptime is None else None
            try:
                block = block or await node.read(key, command.unique, command.exptime)
            except Refused as refused:
                traffic.get_errors += 1
                self._outbox.say(refused.line)  # in place of END: nobody can take it for a miss
                return
            if block is None:
                traffic.get_misses += 1
            else:
                traffic.get_hits += 1
                self._outbox.show(block, _BLOCK_END)
        self._outbox.say(END)

    async def _metadump(self) -> None:
        async for keys in self._node.metadump():
            self._outbox.say(keys)
            self._outbox.flush()
            while self._outbox.full:
                await self._wait()
        self._outbox.say(END)

    # -- writes

    async def _begin_write(self, command: Set | Delete) -> None:
        while len(self._writes) >= WRITES_IN_FLIGHT:
            await self._wait()
        size = _WRITE_OVERHEAD + (len(command.body) if isinstance(command, Set) else 0)
        if not self._server.waiting.try_take(size):
            self._outbox.flush()
            await self._server.waiting.take(size)
        self._arrival.give()
        task = self._loop.create_task(self._node.write(command))
        self._writes.append(_Write(task, command.noreply))
        task.add_done_callback(partial(self._write_done, size))

    def _write_done(self, size: int, _: asyncio.Task[bytes]) -> None:
        self._server.waiting.give(size)
        if not self._settling:
            # Those of one transaction end in one turn: their answers go out together.
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Send the answers of writes that are done, up to the first that is not."""
        self._settling = False
        while self._writes and self._writes[0].task.done():
            write = self._writes.popleft()
            if not write.task.cancelled():
                self._outbox.say(write.task.result(), write.noreply)
        self._outbox.flush()
        self._wake()
        self._close_if_done()

    async def _written(self) -> None:
        while self._writes:
            await self._wait()

    # -- waiting

    async def _wait(self) -> None:
        """Wait until some writes are done or the client has caught up."""
        self._outbox.flush()
        self._moved = self._loop.create_future()
        try:
            await self._moved
        finally:
            self._moved = None

    def _wake(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    def pause_writing(self) -> None:
        """Take note that more waits to be sent than the transport likes to hold."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        self._outbox.resume()
        self._wake()

    async def _reserve(self, size: int) -> bool:
        """Make room for a value that has begun to come; return False if it needs none."""
        if size <= UNRESERVED_BYTES or self._arrival.size:
            return False
        if not self._arrival.try_take(size):
            if self._transport is not None:
                self._transport.pause_reading()
            self._outbox.flush()
            await self._arrival.take(size)
        return True

    def _close_if_done(self) -> None:
        if self._input_ended and self.idle():
            self._outbox.close()


class Server:
    """All connections to one store. ``port`` is what ``stats settings`` calls it; ``on_message``
    answers messages of other members of a cluster, if any are taken.
    """

    def __init__(
        self,
        store: NodeStore,
        settings: NodeSettings,
        port: int,
        on_message: OnMessage | None = None,
    ) -> None:
        self.on_message = on_message
        self.node, self.settings, self.traffic = Node(store, settings), settings, Traffic()
        self.arriving = Room(max(ARRIVING_BYTES, settings.item_limit))
        self.waiting = Room(max(WAITING_BYTES, settings.item_limit))
        self._port = port
        self._connections: set[Connection] = set()
        self._newcomers = Newcomers(settings.secret, partial(Connection, self))

    def connection(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return Newcomer(self._newcomers) if self.settings.secret else Connection(self)

    def opened(self, connection: Connection) -> bool:
        """Take a connection up; return False if it is one too many."""
        if len(self._connections) >= self.settings.connections:
            self.traffic.rejected_connections += 1
            return False
        self._connections.add(connection)
        self.traffic.connections = len(self._connections)
        self.traffic.total_connections += 1
        return True

    def closed(self, connection: Connection) -> None:
        """Let a connection go."""
        self._connections.discard(connection)
        self.traffic.connections = len(self._connections)

    async def stats(self, group: str) -> bytes:
        """Return the answer to ``stats``; raises ``Refused``."""
        if group == "settings":
            return lines(allowed(self.settings, self._port, self.on_message is not None))
        if group in EMPTY_GROUPS:
            return END
        if group:
            return UNKNOWN
        store = await self.node.store_stats()
        return lines(general(store, self.traffic, self.node.outcomes, self.settings))

    async def drain(self, timeout_s: float) -> None:
        """Answer what comes until the clients are silent, and close; wait ``timeout_s`` at most.

        Nobody may be listening for new connections any more.
        """
        begun_s = time.monotonic()
        received: dict[Connection, int] = {}
        while time.monotonic() - begun_s < timeout_s:
            # Who was taken in a moment ago is about to ask something.
            if time.monotonic() - begun_s > NEWCOMERS_GRACE_S:
                self._newcomers.close()
            if not self._connections and not self._newcomers.waiting:
                break
            late = time.monotonic() - begun_s > GRACE_S
            for connection in list(self._connections):
                silent = received.get(connection) == connection.received_bytes
                if late or (silent and connection.idle()):
                    connection.finish()
                received[connection] = connection.received_bytes
            await asyncio.sleep(QUIET_S)
        self._newcomers.close()
        for connection in list(self._connections):
            connection.abort()
