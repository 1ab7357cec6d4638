#!/usr/bin/env python3
"""Store, read and delete files of an sfss server, send it whole folders, or measure it.

One file on the standard library alone: `python3 simple_client.py` runs wherever Python 3.11 is.
HTTP is spoken over plain sockets and not through http.client, because that parses headers with
the email package (more work for a benchmark than the server does for the answer), and because it
cannot notice that the server has answered while an upload is still being sent.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import os
import queue
import random
import re
import secrets
import select
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

BLOCK_BYTES = 65_536
LINE_BYTES = 65_536
HEADER_LINES = 200
ENDPOINT = {"POST": "/files", "PUT": "/file", "GET": "/file", "DELETE": "/file"}
STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5]\d\d)(?: (.*))?")
COLUMNS = ("ops/s", "p50 ms", "p95 ms", "p99 ms", "max ms")
REDRAW_S = 0.1
CLEAR_LINE = "\r\x1b[K"
CONCURRENCY_LIMIT = 256  # select() takes no descriptor above 1023, and each upload needs two

EPILOG = """\
exit status: 0 done; 1 not done, standard error says why; 2 wrong arguments; 130 interrupted.
A value that begins with "-" is written with "=": --path=-name.
A server that wants a token is shown the one in SFSS_TOKEN.

--benchmark N measures three runs of N operations each: POST of new files, GET of these files, and
both mixed (every second one a GET). Each of the C connections (--concurrency) stays open and has
one request under way at a time; one process per CPU serves its share of them. Printed are the
operations per second of the whole run, and the time of an operation from before its first byte is
sent until its answer has been read. Connecting is not counted. Every body that comes back is
compared with the one stored; a wrong one, or an answer other than 2xx, voids the benchmark. The
files are made under benchmark/ and deleted at the end.
"""


class Failed(Exception):
    """Raised when what was asked for was not done; its text is the sentence for the user."""


class Unreachable(Failed):
    """Raised when no connection to the server can be opened."""


class Refused(Failed):
    """Raised when the server answered, but not with success."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(status, reason, sentence)
        self.status, self.reason, self.sentence = status, reason, sentence

    def __str__(self) -> str:
        return printable(f"{self.status} {self.reason}".strip() + f": {self.sentence}")


def printable(text: str) -> str:
    """The text without what a terminal would obey instead of show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def why(error: OSError | UnicodeError) -> str:
    """What the operating system says is wrong, without the number."""
    return getattr(error, "strerror", None) or str(error)


# --- What is sent ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """What an upload sends: the header that frames it, and a function that yields its blocks."""

    framing: str
    blocks: Callable[[], Iterable[bytes]]


def bytes_body(content: bytes) -> Body:
    """A body held in memory."""
    return Body(f"Content-Length: {len(content)}", lambda: [content])


NO_BODY = bytes_body(b"")


def file_body(file: BinaryIO) -> Body:
    """An open regular file, as long as it is now; its blocks raise Failed when it shrinks."""
    size = os.fstat(file.fileno()).st_size
    return Body(f"Content-Length: {size}", lambda: file_blocks(file, size))


def file_blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the first size bytes of a file; raises Failed when they are not there (any more)."""
    try:
        file.seek(0)
        for left in range(size, 0, -BLOCK_BYTES):
            wanted = min(left, BLOCK_BYTES)
            block = file.read(wanted)
            if len(block) < wanted:
                raise Failed(f"{file.name} became shorter while it was read")
            yield block
    except OSError as error:
        raise Failed(f"cannot read {file.name}: {why(error)}") from error


def stdin_body() -> Body:
    """Standard input, of unknown length, therefore chunked. Can be sent once."""
    if sys.stdin is None:
        raise Failed("standard input is closed")
    return Body("Transfer-Encoding: chunked", stdin_chunks)


def stdin_chunks() -> Iterator[bytes]:
    """Yield standard input in chunks (RFC 9112, 7.1); raises Failed when it cannot be read."""
    try:
        while block := os.read(sys.stdin.fileno(), BLOCK_BYTES):
            yield b"%x\r\n%b\r\n" % (len(block), block)
    except OSError as error:
        raise Failed(f"cannot read standard input: {why(error)}") from error
    yield b"0\r\n\r\n"


def opened(filepath: str) -> BinaryIO:
    """Open a regular file to read; raises Failed when it is none or may not be read."""
    try:
        # Asked before opening it, because opening a named pipe would wait for its writer.
        if not Path(filepath).is_file():
            hint = " but a folder, which needs --recursive" if Path(filepath).is_dir() else ""
            raise Failed(f"{filepath} is not a file{hint}")
        return Path(filepath).open("rb")
    except OSError as error:
        raise Failed(f"cannot read {filepath}: {why(error)}") from error


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """Where the server is, how many seconds it may stay silent, the token it is shown, and whether
    TLS is spoken.
    """

    host: str
    port: int
    timeout_s: float
    token: str = field(default="", repr=False)
    secure: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class Answer:
    """An HTTP answer: its head, and its body as blocks that are still to be read."""

    status: int
    reason: str
    headers: dict[str, str]
    blocks: Iterator[bytes] = field(default_factory=lambda: iter(()))
    on_repeat: bool = False

    @property
    def size(self) -> int | None:
        """The length of the body; None when the end of the connection is its end."""
        if self.status in (204, 304):
            return 0
        length = self.headers.get("content-length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None

    @property
    def is_chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    def require_success(self) -> None:
        """Raise Refused, with the server's sentence, unless the status is 2xx."""
        if not 200 <= self.status < 300:
            raise Refused(self.status, self.reason, self._sentence() or "no reason given")

    def _sentence(self) -> str:
        body = bytearray()
        # The status is the news; a server that hangs up within the sentence must not hide it.
        with suppress(OSError, Failed):
            for block in self.blocks:
                body += block
                if len(body) > BLOCK_BYTES:
                    break
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            return str(json.loads(body)["error"])
        return body.decode(errors="replace").strip().partition("\n")[0][:500]


class Connection:
    """One open connection. Not `idle` from the first byte sent until the answer was read whole."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket = connected(server)
        self._reader = self._socket.makefile("rb")
        self.idle = True

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def exchange(self, head: bytes, body: Body) -> Answer:
        """Send a request and read the head of its answer.

        Raises ConnectionError when the server closes without an answer, TimeoutError when it is
        silent, Failed when the answer is not HTTP or the body cannot be read.
        """
        self.idle = False
        whole = self._send(head, body)
        answer = self._read_head()
        while answer.status < 200:
            answer = self._read_head()
        if answer.status < 300 and not whole:
            raise Failed(f"{self._server} answered {answer.status} before it had the whole upload")
        answer.blocks = self._blocks(answer, stays_open=whole and stays_open(answer))
        return answer

    def _send(self, head: bytes, body: Body) -> bool:
        """Send all; False when the server answered, or stopped listening, before it had it all."""
        blocks = iter(body.blocks())
        # Head and first block go out together: one packet and one wake-up of the server.
        for block in itertools.chain([head + next(blocks, b"")], blocks):
            unsent = memoryview(block)
            while unsent:
                if not self._may_send():
                    return False
                try:
                    unsent = unsent[self._socket.send(unsent) :]
                except ConnectionError:
                    return False  # the answer that says why may have come before the reset
        return True

    def _may_send(self) -> bool:
        """Wait until there is room to send: True, or until there is something to read: False."""
        if isinstance(self._socket, ssl.SSLSocket):
            return True  # what can be read there need not be an answer; sending waits by itself
        readable, writable, _ = select.select(
            [self._socket], [self._socket], [], self._server.timeout_s
        )
        if not readable and not writable:
            raise TimeoutError
        return not readable

    def _read_head(self) -> Answer:
        line = self._line()
        matched = STATUS_LINE.fullmatch(line)
        if not matched:
            raise Failed(f"{self._server} does not answer in HTTP/1.1: {line[:80]!r}")
        answer = Answer(int(matched[1]), matched[2] or "", {})
        for _ in range(HEADER_LINES):
            line = self._line()
            if not line:
                return answer
            name, _, value = line.partition(":")
            known = answer.headers.setdefault(name.lower(), value.strip())
            if name.lower() == "content-length" and known != value.strip():
                raise Failed(f"{self._server} answers with two different lengths")
        raise Failed(f"{self._server} answers with more than {HEADER_LINES} header lines")

    def _line(self) -> str:
        line = self._reader.readline(LINE_BYTES)
        if line.endswith(b"\n"):
            return line.rstrip(b"\r\n").decode("latin-1")
        if len(line) == LINE_BYTES:
            raise Failed(f"{self._server} answers with a line of over {LINE_BYTES} bytes")
        raise ConnectionResetError("the server closed it")

    def _blocks(self, answer: Answer, stays_open: bool) -> Iterator[bytes]:
        if answer.is_chunked:
            yield from self._chunks()
        elif answer.size is None:
            yield from iter(lambda: self._reader.read1(BLOCK_BYTES), b"")
        else:
            yield from self._counted(answer.size)
        self.idle = stays_open

    def _counted(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            block = self._reader.read1(min(left, BLOCK_BYTES))
            if not block:
                raise Failed(f"the answer was cut short, {left} of {size} bytes are missing")
            left -= len(block)
            yield block

    def _chunks(self) -> Iterator[bytes]:
        """Yield a chunked body (RFC 9112, 7.1); raises Failed when it is cut short or malformed."""
        while True:
            line = self._line().partition(";")[0].strip()
            if not re.fullmatch("[0-9a-fA-F]{1,15}", line):
                raise Failed(f"{self._server} answers with a malformed chunk: {line[:80]!r}")
            yield from self._counted(int(line, 16))
            if int(line, 16) == 0:
                break
            self._line()
        while self._line():  # trailers
            pass


def connected(server: Server) -> socket.socket:
    """Connect a socket; raises Unreachable with the reason."""
    try:
        connection = socket.create_connection((server.host, server.port), server.timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return secured(connection, server) if server.secure else connection
    except socket.gaierror as error:
        raise Unreachable(f"cannot find the host {server.host}: {why(error)}") from error
    except TimeoutError as error:
        raise Unreachable(f"cannot connect to {server} in {server.timeout_s:g} s") from error
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"cannot connect to {server}: {why(error)}") from error


def secured(connection: socket.socket, server: Server) -> ssl.SSLSocket:
    """The same with TLS; the certificate must be one that the machine, or SSL_CERT_FILE, trusts."""
    try:
        return default_context().wrap_socket(connection, server_hostname=server.host)
    except ssl.SSLCertVerificationError as error:
        connection.close()
        raise Unreachable(f"{server} is not trusted: {error.verify_message}") from error
    except BaseException:
        connection.close()
        raise


@functools.cache
def default_context() -> ssl.SSLContext:
    """What is trusted; read once, for that takes longer than many uploads."""
    return ssl.create_default_context()


def stays_open(answer: Answer) -> bool:
    """Whether the answer leaves its connection fit for another request."""
    ends = "close" in answer.headers.get("connection", "").lower()
    return not ends and (answer.is_chunked or answer.size is not None)


class Client:
    """The service over one connection, which is kept between requests.

    A request that finds the kept connection closed is repeated once on a new one. That is safe,
    since every request of this service may be: POST and PUT replace what is there.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection:
            self._connection.close()

    def upload(self, method: str, path: str, body: Body) -> None:
        """Store a body under a path; raises Failed."""
        b"".join(self._success(self._ask(method, path, body)))

    def read(self, path: str) -> Iterator[bytes]:
        """Yield the file in blocks; raises Failed, also after some blocks, when it is cut short."""
        answer = self._ask("GET", path)
        answer.require_success()
        if answer.status != 200 or "content-encoding" in answer.headers:
            raise Failed(f"{self._server} answered with something else than the whole file")
        return self._success(answer)

    def delete(self, path: str, *, absent_too: bool = False) -> None:
        """Delete a file; raises Failed, also when it is absent unless that is allowed."""
        answer = self._ask("DELETE", path)
        # A repeat finds nothing when the first attempt did its work and lost only its answer.
        absent_is_fine = answer.status == 404 and (absent_too or answer.on_repeat)
        b"".join(self._blocks(answer) if absent_is_fine else self._success(answer))

    def connect(self) -> Connection:
        """Open a new connection in place of the old one; raises Unreachable."""
        self.__exit__()
        self._connection = Connection(self._server)
        return self._connection

    def _ask(self, method: str, path: str, body: Body = NO_BODY) -> Answer:
        head = self._head(method, path, body.framing)
        with self._named_errors():
            kept = self._connection if self._connection and self._connection.idle else None
            if kept:
                with suppress(ConnectionError):
                    return kept.exchange(head, body)
            answer = self.connect().exchange(head, body)
            answer.on_repeat = kept is not None
            return answer

    def _head(self, method: str, path: str, framing: str) -> bytes:
        target = f"{ENDPOINT[method]}?path={urllib.parse.quote(path, safe='/')}"
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._server}"]
        if self._server.token:
            lines.append(f"Authorization: Bearer {self._server.token}")
        lines += ["User-Agent: sfss-simple-client", "Accept: application/json", framing, "", ""]
        return "\r\n".join(lines).encode()

    def _success(self, answer: Answer) -> Iterator[bytes]:
        answer.require_success()
        if not answer.is_chunked and answer.size is None:
            raise Failed("the answer has no length, so whether it is whole cannot be known")
        return self._blocks(answer)

    def _blocks(self, answer: Answer) -> Iterator[bytes]:
        while True:
            with self._named_errors():
                block = next(answer.blocks, None)
            if block is None:
                return
            yield block

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            limit_s = self._server.timeout_s
            raise Failed(f"no answer from {self._server} within {limit_s:g} s") from error
        except OSError as error:
            raise Failed(f"the connection to {self._server} broke: {why(error)}") from error


# --- One file -------------------------------------------------------------------------------------


def upload_one(server: Server, method: str, path: str, filepath: str) -> None:
    """Store a file, or standard input for "-"; raises Failed."""
    with Client(server) as client:
        if filepath == "-":
            return client.upload(method, path, stdin_body())
        with opened(filepath) as file:
            return client.upload(method, path, file_body(file))


def download_one(server: Server, path: str, filepath: str) -> None:
    """Read a file into filepath, or to standard output for "-"; raises Failed."""
    with Client(server) as client:
        blocks = client.read(path)
        if filepath == "-":
            print_blocks(blocks)
        else:
            save(blocks, Path(os.path.realpath(filepath)))


def print_blocks(blocks: Iterable[bytes]) -> None:
    """Write to standard output; raises BrokenPipeError when nobody reads it, else Failed."""
    if sys.stdout is None:
        raise Failed("standard output is closed")
    try:
        for block in blocks:
            sys.stdout.buffer.write(block)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(f"cannot write standard output: {why(error)}") from error


def save(blocks: Iterable[bytes], target: Path) -> None:
    """Write a file whole or not at all; raises Failed when it cannot, or when the blocks do."""
    partial = target.parent / f".sfss-{secrets.token_hex(8)}.part"
    try:
        # Renaming over a device such as /dev/null would replace it.
        if target.exists() and not target.is_file():
            raise Failed(f"{target} is not a file")
        try:
            write_new(partial, blocks)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"cannot write {target}: {why(error)}") from error


def write_new(target: Path, blocks: Iterable[bytes]) -> None:
    """Write a file that must not be there yet, and have it on the disk."""
    with target.open("xb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


# --- A folder -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its size when it is stored, else why it is not."""

    name: str
    size: int = 0
    failure: str = ""


@dataclass
class Tally:
    """How far the upload of a folder is. The totals are growing until `is_scanned`."""

    files: int = 0
    failed: int = 0
    size: int = 0
    total_files: int = 0
    total_size: int = 0
    is_scanned: bool = False
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        self.files += not outcome.failure
        self.failed += bool(outcome.failure)
        self.size += outcome.size

    def progress(self) -> str:
        """One line for people: how much is done, how fast, and how long it will still take."""
        done = self.files + self.failed
        rate = self.size / self._elapsed_s()
        if not self.is_scanned:
            seen = f"{done} files, {readable(self.size)}, {readable(rate)}/s"
            return f"{seen}, scanning: {self.total_files} found"
        share = min(1.0, done / max(1, self.total_files))
        left_s = int(self._elapsed_s() * (1 - share) / share) if share else 0
        return (
            f"[{'#' * int(20 * share):.<20}] {done}/{self.total_files} files, "
            f"{readable(self.size)}/{readable(self.total_size)}, {readable(rate)}/s, "
            f"ETA {left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02}"
        )

    def summary(self) -> str:
        """One line for the end."""
        elapsed_s = self._elapsed_s()
        return (
            f"{self.files} files ({readable(self.size)}) stored in {elapsed_s:.1f} s, "
            f"{readable(self.size / elapsed_s)}/s; {self.failed} failed"
        )

    def _elapsed_s(self) -> float:
        return max(time.monotonic() - self.started, 1e-6)


class FolderUpload:
    """Uploads every regular file under a folder, over several connections at a time.

    The threads take names from one lazy walk, so that a tree of any size needs no list; a second
    walk only counts, for the ETA. The main thread alone tallies and writes to standard error.
    """

    def __init__(self, server: Server, method: str, prefix: str, folder: str) -> None:
        self._server, self._method, self._folder = server, method, folder
        self._prefix = prefix.removesuffix("/") + "/" if prefix else ""
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._walk_lock = threading.Lock()
        self._walk = regular_files(folder, self._outcomes.put)
        self._stopped = threading.Event()
        self._tally = Tally()
        self._drawn = 0.0
        self._is_drawing = sys.stderr is not None and sys.stderr.isatty()

    def run(self, concurrency: int) -> None:
        """Upload all; raises Failed when some were not stored, each of which has been named."""
        if self._is_drawing:
            threading.Thread(target=self._count, daemon=True).start()
        for _ in range(concurrency):
            threading.Thread(target=self._work, daemon=True).start()
        while concurrency:
            with suppress(queue.Empty):
                outcome = self._outcomes.get(timeout=REDRAW_S)
                concurrency -= outcome is None
                self._account(outcome)
            self._draw()
        self._finish()

    def _count(self) -> None:
        for _, entry in regular_files(self._folder, lambda _: None):
            with suppress(OSError):
                self._tally.total_size += entry.stat().st_size
            self._tally.total_files += 1
        self._tally.is_scanned = True

    def _work(self) -> None:
        try:
            with Client(self._server) as client:
                while not self._stopped.is_set() and (found := self._next_file()):
                    self._outcomes.put(self._upload(client, *found))
        finally:
            self._outcomes.put(None)

    def _next_file(self) -> tuple[str, os.DirEntry[str]] | None:
        with self._walk_lock:
            return next(self._walk, None)

    def _upload(self, client: Client, name: str, entry: os.DirEntry[str]) -> Outcome:
        try:
            name.encode()
            with opened(entry.path) as file:
                client.upload(self._method, self._prefix + name, file_body(file))
                return Outcome(name, size=file.tell())
        except UnicodeError:
            return Outcome(name, failure="the name is not UTF-8")
        except Unreachable as error:
            # The others would all fail alike; a million such lines would help nobody.
            self._stopped.set()
            return Outcome(name, failure=str(error))
        except Failed as error:
            return Outcome(name, failure=str(error))

    def _account(self, outcome: Outcome | None) -> None:
        if outcome:
            self._tally.add(outcome)
            if outcome.failure:
                clear = CLEAR_LINE if self._is_drawing else ""
                complain(f"{clear}{printable(outcome.name)}: {outcome.failure}")

    def _draw(self) -> None:
        if self._is_drawing and time.monotonic() - self._drawn >= REDRAW_S:
            self._drawn = time.monotonic()
            width = shutil.get_terminal_size().columns - 1
            complain(CLEAR_LINE + self._tally.progress()[:width], end="")

    def _finish(self) -> None:
        if self._is_drawing:
            complain(CLEAR_LINE, end="")
        summary = self._tally.summary()
        if self._stopped.is_set():
            summary += ", and the rest was not tried"
        if self._tally.failed:
            raise Failed(summary)
        complain(summary)


def regular_files(
    folder: str, failed: Callable[[Outcome], None]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the name within the folder, and the entry, of every regular file under it.

    Links to files count as files, links to folders are not followed. A folder that cannot be read
    is handed to `failed`.
    """
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(Path(folder, inside)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{inside}{entry.name}/")
                    elif is_regular(entry):
                        yield inside + entry.name, entry
        except OSError as error:
            failed(Outcome(inside or folder, failure=f"cannot read the folder: {why(error)}"))


def is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or so hidden that opening it as one will say what is wrong."""
    try:
        return entry.is_file()
    except OSError:
        return True


def readable(size: float) -> str:
    """The number of bytes as sfss writes it everywhere: "512 B", "1.5 KiB", "2 MiB"."""
    whole = math.floor(size + 0.5)
    if whole < 1024:
        return f"{whole} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        tenths = math.floor(size * 10 + 0.5)
        if tenths < 10_240 or unit == "TiB":
            break
    return f"{tenths / 10:g} {unit}"


# --- Benchmark ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What a benchmark does: `operations` in each run, on files of `size` bytes under `prefix`."""

    server: Server
    prefix: str
    operations: int
    connections: int
    size: int

    @functools.cached_property
    def _filler(self) -> bytes:
        return random.Random(self.prefix).randbytes(self.size)

    @property
    def processes(self) -> int:
        return min(self.connections, os.cpu_count() or 1)

    def path(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def content(self, number: int) -> bytes:
        """The bytes of a file: no two files are equal, as far as their size permits."""
        return (b"%016d" % number + self._filler)[: self.size]

    def length(self, run: str) -> int:
        """How many operations a run has. DELETE removes the files of POST and of mixed."""
        return self.operations + (self.operations + 1) // 2 if run == "DELETE" else self.operations

    def operation(self, run: str, index: int) -> tuple[str, int]:
        """The method of an operation, and the number of its file."""
        if run != "mixed":
            return run, index
        return ("GET", index) if index % 2 else ("POST", self.operations + index // 2)


@dataclass(frozen=True)
class Timing:
    """When a connection began and ended its share of a run, and the seconds of each operation."""

    began: float
    ended: float
    latencies: list[float]


def benchmark(server: Server, operations: int, concurrency: int, size: int) -> None:
    """Measure, print a table, and delete what was stored; raises Failed when it is void."""
    prefix = f"benchmark/{secrets.token_hex(8)}/"
    load = Load(server, prefix, operations, min(concurrency, operations), size)
    print(f"{server}: {operations} operations each, {load.connections} at a time, {size} bytes")
    print(" " * 8 + "".join(f"{title:>10}" for title in COLUMNS), flush=True)
    wrong: list[str] = []
    try:
        with processes(load) as pool:
            for run in ("POST", "GET", "mixed"):
                print(table_row(run, measured(pool, load, run)), flush=True)
    except Failed as error:
        wrong.append(f"benchmark void: {run}: {error}")
    finally:
        wrong += clean_up(load)
    if wrong:
        raise Failed("; ".join(wrong))


def clean_up(load: Load) -> list[str]:
    """Delete the files of a benchmark, as far as they are there; returns what went wrong."""
    # In new processes: after an interruption the old ones still had requests to do.
    try:
        with processes(load) as pool:
            measured(pool, load, "DELETE")
    except Failed as error:
        return [f"files may be left under {load.prefix}: {error}"]
    return []


def processes(load: Load) -> multiprocessing.pool.Pool:
    """Processes that do the operations: threads alone would take turns on one CPU."""
    return multiprocessing.Pool(load.processes, initializer=leave_signals_to_parent)


def leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def measured(pool: multiprocessing.pool.Pool, load: Load, run: str) -> list[Timing]:
    """Do one run, spread over the processes; raises Failed at the first failed operation."""
    connections = [range(n, load.connections, load.processes) for n in range(load.processes)]
    shares = [(load, run, share) for share in connections]
    return [timing for timings in pool.starmap(in_process, shares, 1) for timing in timings]


def in_process(load: Load, run: str, connections: range) -> list[Timing]:
    """Do the share of several connections, a thread each."""
    with ThreadPoolExecutor(len(connections)) as threads:
        return list(threads.map(functools.partial(on_connection, load, run), connections))


def on_connection(load: Load, run: str, connection: int) -> Timing:
    """Do the share of one connection: every n-th operation, where n connections share the run."""
    with Client(load.server) as client:
        client.connect()
        began = time.perf_counter()
        indexes = range(connection, load.length(run), load.connections)
        latencies = [timed(client, load, *load.operation(run, index)) for index in indexes]
        return Timing(began, time.perf_counter(), latencies)


def timed(client: Client, load: Load, method: str, number: int) -> float:
    """Do one operation and return its seconds; raises Failed, also when a body is not right."""
    path, content, found = load.path(number), load.content(number), None
    began = time.perf_counter()
    if method == "POST":
        client.upload("POST", path, bytes_body(content))
    elif method == "GET":
        found = b"".join(client.read(path))
    else:
        client.delete(path, absent_too=True)
    elapsed = time.perf_counter() - began
    if method == "GET" and found != content:
        raise Failed(f"{path} came back with other bytes than were stored")
    return elapsed


def table_row(run: str, timings: list[Timing]) -> str:
    """A line of the table: operations per second, and percentiles (nearest rank) of latency."""
    latencies = sorted(itertools.chain.from_iterable(timing.latencies for timing in timings))
    span = max(timing.ended for timing in timings) - min(timing.began for timing in timings)
    ranks = [math.ceil(share * len(latencies)) - 1 for share in (0.5, 0.95, 0.99, 1)]
    percentiles = "".join(f"{latencies[rank] * 1000:10.2f}" for rank in ranks)
    return f"{run:8}{len(latencies) / span:10.1f}{percentiles}"


# --- Command line ---------------------------------------------------------------------------------


def within(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    """A type for argparse: a number between two limits, both included."""

    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def utf8(text: str) -> str:
    """A type for argparse: text that was valid UTF-8 on the command line."""
    try:
        text.encode()
    except UnicodeError:
        raise argparse.ArgumentTypeError("not UTF-8") from None
    return text


def host_name(text: str) -> str:
    """A type for argparse: a host, an international name in its ASCII form."""
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name") from None


def argument_parser() -> argparse.ArgumentParser:
    """The command line; `checked` refuses what does not go together."""
    parser = argparse.ArgumentParser(
        description="Store, read and delete files of an sfss server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", type=host_name, default="127.0.0.1", help="the server (%(default)s)")
    add("--port", type=within(1, 65535, int), default=8255, help="its port (%(default)s)")
    add("--https", action="store_true", help="speak TLS; SSL_CERT_FILE names who is trusted")
    add("--path", type=utf8, help="name of the file on the server; with --recursive a prefix")
    add("--filepath", help='local file or folder; "-": standard input or output (GET: the default)')
    add("--method", choices=list(ENDPOINT), help="POST, the default, and PUT store the file")
    add("--recursive", action="store_true", help="store every file under the folder --filepath")
    add("--benchmark", type=within(1, 10**8, int), metavar="N", help="measure, see below")
    add(
        "--concurrency",
        type=within(1, CONCURRENCY_LIMIT, int),
        default=8,
        metavar="C",
        help=f"connections of --recursive, --benchmark (%(default)s, up to {CONCURRENCY_LIMIT})",
    )
    add(
        "--size",
        type=within(0, 2**30, int),
        default=4096,
        metavar="BYTES",
        help="size of each file of --benchmark (%(default)s)",
    )
    add(
        "--timeout",
        type=within(0.001, 86400, float),
        default=30.0,
        metavar="SECONDS",
        help="how long the server may be silent (%(default)g)",
    )
    return parser


def misuse(options: argparse.Namespace) -> str:
    """Why these options do not go together; empty when they do."""
    method = options.method or "POST"
    if options.benchmark:
        others = options.path, options.filepath, options.method, options.recursive
        return "--benchmark takes no file, path or method" if any(others) else ""
    if method in ("POST", "PUT") and not options.filepath:
        return f"--filepath is needed: what {method} stores"
    if method == "DELETE" and options.filepath:
        return "DELETE takes no --filepath"
    if options.recursive:
        return "" if method in ("POST", "PUT") else "--recursive goes with POST and PUT only"
    return "" if options.path is not None else "--path is needed: the name on the server"


def given_token() -> str:
    """The token in the environment, if any; raises Failed for what can be none."""
    token = os.environ.get("SFSS_TOKEN", "").strip()
    if not re.fullmatch("[!-~]*", token):
        raise Failed("SFSS_TOKEN in the environment is no token")
    return token


def perform(options: argparse.Namespace) -> None:
    """Do what the options say; raises Failed."""
    server = Server(options.host, options.port, options.timeout, given_token(), options.https)
    method, path, filepath = options.method or "POST", options.path or "", options.filepath or "-"
    if options.benchmark:
        benchmark(server, options.benchmark, options.concurrency, options.size)
    elif options.recursive:
        if not Path(filepath).is_dir():
            raise Failed(f"{filepath} is not a folder")
        FolderUpload(server, method, path, filepath).run(options.concurrency)
    elif method == "GET":
        download_one(server, path, filepath)
    elif method == "DELETE":
        with Client(server) as client:
            client.delete(path)
    else:
        upload_one(server, method, path, filepath)


def complain(text: str, end: str = "\n") -> None:
    """Write to standard error, if there is one."""
    if sys.stderr is not None:
        print(text, end=end, file=sys.stderr, flush=True)


def terminated(_signal: int, _frame: object) -> NoReturn:
    """End on SIGTERM as on an error, so that temporary files and processes go away."""
    sys.exit(128 + signal.SIGTERM)


def command(arguments: list[str]) -> int:
    """Parse and do; returns the exit status, raises Failed."""
    parser = argument_parser()
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    if wrong := misuse(options):
        parser.error(wrong)
    perform(options)
    return 0


def main() -> int:
    """The command; returns its exit status."""
    signal.signal(signal.SIGTERM, terminated)
    try:
        try:
            return command(sys.argv[1:])
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except Failed as error:
        complain(f"simple_client.py: {error}")
    except BrokenPipeError:
        # Nobody reads on. What is still buffered must not raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        complain("simple_client.py: interrupted")
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
