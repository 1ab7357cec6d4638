"""Listings of one server of the memcached protocol, each on connections of its own.

``sfss node`` is read as fast as the list is taken, and its cas numbers are stamps. A memcached that
waits for its reader does harm: whoever asks it for another listing then holds up every client of
one of its threads, and after a second it sends again what was sent, from the middle of a line. So
its list is read at once, into a temporary file if it is long; and since its cas numbers count its
own changes, they are no stamps. Beansdb is asked for one bucket after the other.

After the last line the server is asked for its version: what it answers must be next.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from socket import SO_RCVBUF, SOL_SOCKET
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Final, Protocol, TypeAlias

from sfss.errors import CannotList, Unreachable
from sfss.memtext import (
    GET,
    STATS,
    VERSION,
    VERSION_COMMAND,
    Answer,
    AnswerParser,
    BadReply,
    Grammar,
    Status,
    stats_command,
)
from sfss.memtext_listing import (
    BUCKET_DEPTH_LIMIT,
    METADUMP_ALL,
    METADUMP_HASH,
    Listed,
    MetadumpParser,
    bucket,
    bucket_key,
    is_busy,
    is_node,
    is_unknown,
    metadata_key,
)
from sfss.stores.base import KEYS_LIMIT, Stamped
from sfss.stores.memcached_opening import check_refusal, open_connection
from sfss.stores.memcached_pool import Closed

BUSY_S: Final = 30.0
BUSY_PAUSE_S: Final = 0.1
"""How long, and how often, a server is asked that is busy with another listing."""

_READ_SIZE: Final = 64 * 1024
_RECEIVE_BYTES: Final = 128 * 1024  # that the kernel may hold of a list that nobody takes
_MEMORY_BYTES: Final = 1024 * 1024  # of a list before it goes to a file
_BUCKET_LIMIT: Final = 16 * 1024 * 1024

_PROXY: Final = "it closes the connection when asked to, as proxies do: list the servers behind it"
_FORBIDDEN: Final = "start it without -X and without -o no_lru_crawler"
_TOO_OLD: Final = (
    "it has no 'lru_crawler metadump hash', and 'all' lacks keys in use; use a newer one"
)

_Spooled: TypeAlias = "SpooledTemporaryFile[bytes]"


class Listings:
    """The listings of the server at ``host``:``port`` that are under way.

    ``address`` names it in errors. A server that is silent for ``timeout_s`` while it is waited for
    is ``Unreachable``.
    """

    def __init__(
        self, address: str, host: str, port: int, timeout_s: float, secret: str = ""
    ) -> None:
        self._address, self._host, self._port = address, host, port
        self._timeout_s, self._secret = timeout_s, secret
        self._open: set[_Connection] = set()
        self._closed = False

    async def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Yield all keys of the server; see ``ListingStore.keys``."""
        with self._border(), ExitStack() as held:
            source = await self._source(held)
            while (found := await source.read()) is not None:
                for start in range(0, len(found), KEYS_LIMIT):
                    yield found[start : start + KEYS_LIMIT]

    def close(self) -> None:
        """Close every connection; listings that are under way fail."""
        self._closed = True
        for connection in list(self._open):
            connection.close()

    @contextmanager
    def _border(self) -> Iterator[None]:
        """Turn what goes wrong in the block into ``Unreachable``."""
        try:
            yield
        # UnicodeError: a host name that no name server can be asked for.
        except (OSError, UnicodeError, Closed, BadReply) as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                reason = f"nothing came for {self._timeout_s:g} s"
            raise Unreachable(self._address, reason, applied=False) from error

    async def _connect(self, held: ExitStack) -> "_Connection":
        """Return a new connection, which is closed with ``held``."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ_SIZE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(self._timeout_s):
            opened = await open_connection(protocol, self._host, self._port, self._secret)
        writer = asyncio.StreamWriter(opened, protocol, reader, loop)
        connection = _Connection(reader, writer, self._timeout_s, self._open)
        held.callback(connection.close)
        if self._closed:
            raise ConnectionError("the store has been closed")
        return connection

    async def _source(self, held: ExitStack) -> "_Source":
        """Return what the keys are to be read from; raises ``CannotList`` where nothing is."""
        try:
            dump = await self._dump(held)
        except Closed as error:
            # A server that has just died closes as well; one that tells its version has not.
            await (await self._connect(held)).version()
            raise CannotList(self._address, _PROXY) from error
        if dump is None:
            return await self._buckets(held)
        if dump.is_node:
            return dump
        return await _spooled(dump, held.enter_context(_new_spool()), self._address)

    async def _dump(self, held: ExitStack) -> "_Dump | None":
        """Return a metadump whose keys begin to come; None from a server that knows no such."""
        connection = await self._connect(held)
        # On one connection: the server that tells what it is has to be the one that lists.
        stats = (await connection.ask(stats_command(), STATS)).stats
        dump = _Dump(connection, is_node(stats))
        refusal = await self._begun(dump, METADUMP_ALL if dump.is_node else METADUMP_HASH)
        if refusal is None:
            return dump
        if is_unknown(refusal):
            return None
        raise self._refused(refusal)

    async def _begun(self, dump: "_Dump", command: bytes) -> Status | None:
        """Begin, again and again while the server is busy; return the refusal, if any."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + BUSY_S
        while (refusal := await dump.begin(command)) is not None and is_busy(refusal):
            if loop.time() > end_s:
                reason = f"it has been busy with another listing for {BUSY_S:g} s; try again later"
                raise Unreachable(self._address, reason, applied=False)
            await asyncio.sleep(BUSY_PAUSE_S)
        return refusal

    def _refused(self, refusal: Status) -> CannotList | Unreachable:
        reason = f"it answered {refusal.word} {refusal.text[:200]}".rstrip()
        if refusal.word == "SERVER_ERROR":
            return Unreachable(self._address, reason, applied=False)
        if refusal.word == "BADCLASS":
            return CannotList(self._address, _TOO_OLD)
        return CannotList(self._address, f"{reason}; {_FORBIDDEN}")

    async def _buckets(self, held: ExitStack) -> "_Buckets":
        buckets = _Buckets(await self._connect(held), self._address)
        if not await buckets.begin():
            raise CannotList(self._address)
        return buckets


class _Source(Protocol):
    """What keys are read from."""

    async def read(self) -> Sequence[Stamped] | None:
        """Return the next keys, perhaps none now; None when that was all."""


class _Connection:
    """One connection, used for nothing but a listing; it is in ``others`` while it is open."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeout_s: float,
        others: "set[_Connection]",
    ) -> None:
        self._reader, self._writer, self._timeout_s = reader, writer, timeout_s
        self._others = others
        others.add(self)
        # As little as can be: a node sees that its list is taken when there is room for more.
        socket = writer.get_extra_info("socket")
        socket.setsockopt(SOL_SOCKET, SO_RCVBUF, _RECEIVE_BYTES)

    def send(self, request: bytes) -> None:
        """Send a request, of a few bytes."""
        self._writer.write(request)

    async def read(self) -> bytes:
        """Return some bytes, at least one. Raises ``Closed``, TimeoutError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                chunk = await self._reader.read(_READ_SIZE)
        except ConnectionError as error:
            raise Closed(f"it reset the connection ({error})") from error
        if not chunk:
            raise Closed("it closed the connection before the end of its list")
        return chunk

    async def ask(self, request: bytes, grammar: Grammar, keys: Sequence[bytes] = ()) -> Answer:
        """Return the whole answer to a request. Raises ``Closed``, ``BadReply``, OSError, also
        where the server asks for a secret.
        """
        self.send(request)
        parser = AnswerParser(_BUCKET_LIMIT)
        while (answer := parser.next_answer(grammar, keys)) is None:
            parser.feed(await self.read())
        if not parser.empty():
            raise BadReply(f"more than one answer, the first of them {answer.status.word}")
        check_refusal(answer.status)
        return answer

    async def value(self, key: bytes) -> bytes | None:
        """Return what the server has under ``key``, which may be a command of Beansdb's. Errors as
        of ``ask``.
        """
        answer = await self.ask(b"get %b\r\n" % key, GET, (key,))
        if answer.status.word != "END":
            raise BadReply(f"it answered {answer.status.word} {answer.status.text[:200]}".rstrip())
        return answer.values[0].body if answer.values else None

    async def version(self) -> None:
        """Have the server say its version, and nothing before. Errors as of ``ask``."""
        status = (await self.ask(VERSION_COMMAND, VERSION)).status
        if status.word != "VERSION":
            raise BadReply(f"it answered {status.word} when asked for its version")

    def close(self) -> None:
        """Close at once."""
        self._others.discard(self)
        self._writer.transport.abort()


class _Dump:
    """The answer to a metadump command, read as it is taken; the cas numbers of a node are stamps.

    Reading ends with the connection closed.
    """

    def __init__(self, connection: _Connection, is_node: bool) -> None:
        self.is_node = is_node
        self._connection = connection
        self._parser = MetadumpParser()
        self._first: list[Listed] = []

    async def begin(self, command: bytes) -> Status | None:
        """Ask; return None when the keys begin to come, or why they do not."""
        self._parser = parser = MetadumpParser()
        self._connection.send(command)
        while not self._first and parser.ending is None:
            self._first = parser.feed(await self._connection.read())
        refused = not self._first and parser.ending is not None and parser.ending.word != "END"
        return parser.ending if refused else None

    async def read(self) -> Sequence[Stamped] | None:
        """See ``_Source.read``. Raises ``BadReply`` where the list ends with anything but END."""
        found, self._first = self._first, []
        if not found and self._parser.ending is None:
            found = self._parser.feed(await self._connection.read())
        if not found and (ending := self._parser.ending) is not None:
            if ending.word != "END":
                text = ending.text[:200]
                raise BadReply(f"its list was cut short by {ending.word} {text}".rstrip())
            await self._connection.version()
            self._connection.close()
            return None
        # A node gives 0 for a record whose head is damaged.
        return [Stamped(key, (unique or None) if self.is_node else None) for key, unique in found]


def _new_spool() -> _Spooled:
    return SpooledTemporaryFile(_MEMORY_BYTES)


async def _spooled(dump: _Dump, file: _Spooled, address: str) -> "_Spool":
    """Read all of ``dump`` into ``file``."""
    while (found := await dump.read()) is not None:
        try:
            file.writelines(b"%c%b" % (len(key), key) for key, _ in found)
        except OSError as error:
            reason = f"there is no room for its list in {gettempdir()}: {error.strerror}"
            raise Unreachable(address, reason, applied=False) from error
    file.seek(0)
    return _Spool(file)


class _Spool:
    """Keys in a file, each behind a byte with its length; they have no stamps."""

    def __init__(self, file: _Spooled) -> None:
        self._file = file

    async def read(self) -> Sequence[Stamped] | None:
        """See ``_Source.read``."""
        await asyncio.sleep(0)
        found: list[Stamped] = []
        while len(found) < KEYS_LIMIT and (size := self._file.read(1)):
            found.append(Stamped(self._file.read(size[0]), None))
        return found or None


class _Buckets:
    """The buckets of a Beansdb, asked for one by one; they tell nothing that would be a stamp."""

    def __init__(self, connection: _Connection, address: str) -> None:
        self._connection, self._address = connection, address
        self._paths = [b""]
        self._has_names = False

    async def begin(self) -> bool:
        """Tell whether the server has buckets."""
        return await self._connection.value(bucket_key(b"")) is not None

    async def read(self) -> Sequence[Stamped] | None:
        """See ``_Source.read``. Raises ``CannotList`` for gobeansdb, ``BadReply``."""
        if not self._paths:
            return None
        path = self._paths.pop()
        body = await self._connection.value(bucket_key(path))
        if body is None:
            raise BadReply(f"it has no bucket {path!r}, of which it told")
        digits, keys = found = bucket(body)
        if digits and len(path) >= BUCKET_DEPTH_LIMIT:
            raise BadReply(f"buckets below {path!r}")
        if found.may_be_hashes() and not self._has_names:
            await self._check_names(keys[0])
        self._paths += (path + bytes([digit]) for digit in digits)
        return [Stamped(key, None) for key in keys]

    async def _check_names(self, key: bytes) -> None:
        if await self._connection.value(metadata_key(key)) is None:
            raise CannotList(self._address, "it keeps hashes of its keys and not the keys")
        self._has_names = True
