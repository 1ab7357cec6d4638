"""Clients of a gateway: each puts, gets and deletes paths of its own, and checks every answer.

All run in one event loop, over plain sockets. A client has several connections and takes any of
them for the next request, so that what one worker has acknowledged is read through another.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote

from tests.probe.expectations import Body, Expected
from tests.servers import DEADLINE_S

CONNECTIONS: Final = 2
"""Connections of each client."""

PATHS: Final = 24
"""Paths of each client; every other request is for one of the first ``HOT``."""

HOT: Final = 2
SHARED: Final = 48
"""Paths that all clients read and none writes."""

_HEAD_LIMIT: Final = 64 * 1024
_SIZES: Final = (0, 10, 100, 1000, 1000, 4000, 4000, 20_000, 100_000)
_RECONNECT_S: Final = 0.05


class Reply(NamedTuple):
    """One HTTP answer."""

    status: int
    body: bytes


class Lost(Exception):
    """Raised when a connection ends before the answer has come."""


class HttpConnection:
    """One request after the other; connects when it has to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, body: bytes | None = None) -> Reply:
        """Send a request and return its answer; raises ``Lost``."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._ask(message(method, target, body), method)
        except (OSError, EOFError, TimeoutError) as error:
            await self.close()
            raise Lost(repr(error)) from error

    async def _ask(self, request: bytes, method: str) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=_HEAD_LIMIT
            )
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        size = int(fields.get("content-length", 0)) if method != "HEAD" else 0
        body = await reader.readexactly(size)
        if fields.get("connection") == "close":
            await self.close()
        return Reply(int(status.split()[1]), body)

    async def close(self) -> None:
        """Close the connection; the next request makes another."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with suppress(OSError):
                await streams[1].wait_closed()


def message(method: str, target: str, body: bytes | None) -> bytes:
    """Return a request as it is sent."""
    size = "" if body is None else f"Content-Length: {len(body)}\r\n"
    head = f"{method} {target} HTTP/1.1\r\nHost: probe\r\nAccept: application/json\r\n{size}\r\n"
    return head.encode("ascii") + (body or b"")


def target_of(path: str) -> str:
    """Return what a request for ``path`` names."""
    return f"/file?path={quote(path)}"


@dataclass
class Tally:
    """What became of requests: how many, how many of them failed, and how long they took."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    def add(self, failure: str | None, took_s: float) -> None:
        """Count one request."""
        self.requests += 1
        self.latencies_s.append(took_s)
        if failure is not None:
            self.failures[failure] += 1

    @property
    def success_share(self) -> float:
        """The part of all requests that did not fail."""
        return 1 - self.failures.total() / max(1, self.requests)

    def percentile_ms(self, percent: float) -> float:
        """Return the time within which ``percent`` of the requests were answered."""
        ordered = sorted(self.latencies_s) or [0.0]
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def __str__(self) -> str:
        found = f"{self.requests} requests, {100 * self.success_share:.3f}% succeeded"
        times = [f"p{percent} {self.percentile_ms(percent):.0f} ms" for percent in (50, 99, 100)]
        failures = "".join(f"; {count} x {what}" for what, count in self.failures.most_common(5))
        return f"{found}; {', '.join(times)}{failures}"


class Load:
    """``count`` clients of the gateway at ``port``, and of those at ``also``, which are to be one
    with it.

    ``stage`` names what is done to the stores at the moment; requests are tallied by the stage in
    which they began. ``gateway_dies`` allows connections to be lost. ``wrong`` collects every
    answer that breaks the rule; ``others`` are paths that a test writes by itself.
    """

    def __init__(self, port: int, seed: int, count: int = 12, also: Sequence[int] = ()) -> None:
        self.port, self.seed = port, seed
        self.ports = (port, *also) if also else (port,) * CONNECTIONS
        self.stage = "quiet"
        self.gateway_dies = False
        self.tallies: dict[str, Tally] = {}
        self.wrong: list[str] = []
        self.wrong_paths: set[str] = set()
        self.shared = {f"shared/{n}": body_for(f"shared/{n}", 0, 1000 * n) for n in range(SHARED)}
        self.others: dict[str, Expected] = {}
        self._clients = [_Client(self, f"client{number}") for number in range(count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def requests(self) -> int:
        """How many requests have been answered."""
        return sum(tally.requests for tally in self.tallies.values())

    @property
    def expected(self) -> dict[str, Expected]:
        """What may be read at every path."""
        own = {path: each for client in self._clients for path, each in client.expected.items()}
        shared = {path: Expected({body}) for path, body in self.shared.items()}
        return own | shared | self.others

    async def start(self) -> None:
        """Store what all read, and start the clients."""
        connection = HttpConnection(self.port)
        for path, body in self.shared.items():
            reply = await connection.ask("PUT", target_of(path), body)
            assert reply.status == 200, reply
        await connection.close()
        self._tasks = [asyncio.create_task(client.run()) for client in self._clients]

    async def more(self, count: int) -> None:
        """Wait until ``count`` more requests have been answered."""
        target = self.requests + count
        await until(lambda: self.requests >= target or self._ended(), f"{count} more requests")

    def _ended(self) -> bool:
        return any(task.done() for task in self._tasks)

    async def stop(self) -> None:
        """Have every client finish its request and end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """End the clients at once, wherever they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()

    @property
    def is_stopping(self) -> bool:
        """Whether the clients are to end."""
        return self._stopping or bool(self.wrong)

    async def make_sure(self) -> None:
        """Put once more whatever is in doubt; for when the clients have ended."""
        for client in self._clients:
            await client.make_sure()

    async def check_all(self) -> None:
        """Read every path once."""
        connection = HttpConnection(self.port)
        for path, expected in self.expected.items():
            reply = await connection.ask("GET", target_of(path))
            self.check(path, expected, reply)
            if reply.status not in (200, 404):
                self.say_wrong(path, f"{reply.status} {reply.body[:200]!r} at the end")
        await connection.close()

    def check(self, path: str, expected: Expected, reply: Reply) -> None:
        """Hold the answer to a GET against what may be read."""
        if reply.status in (200, 404):
            found = reply.body if reply.status == 200 else None
            if complaint := expected.complaint(found):
                self.say_wrong(path, f"GET: {complaint}")

    def say_wrong(self, path: str, sentence: str) -> None:
        """Take note of an answer that breaks the rule; it ends all clients."""
        self.wrong.append(f"{time.time():.3f} {self.stage}: {path}: {sentence}")
        self.wrong_paths.add(path)

    def tally(self, stage: str, failure: str | None, took_s: float) -> None:
        """Count a request that began in ``stage``."""
        self.tallies.setdefault(stage, Tally()).add(failure, took_s)

    def report(self) -> str:
        """Return how every stage went, a line each."""
        return "\n".join(f"  {stage:24} {tally}" for stage, tally in sorted(self.tallies.items()))


def body_for(path: str, turn: int, size: int) -> bytes:
    """Return a body that no other path or turn has, of about ``size`` bytes."""
    return f"{path} turn {turn} ".encode().ljust(size, b".")


async def until(holds: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Let others run until ``holds()``."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.02)


class _Client:
    def __init__(self, load: Load, name: str) -> None:
        self._load, self._random = load, random.Random(f"{load.seed} {name}")
        self._connections = [HttpConnection(port) for port in load.ports]
        self._turn = 0
        self.expected = {f"{name}/{number}": Expected() for number in range(PATHS)}
        self._paths = list(self.expected)
        self._shared = list(load.shared)

    async def run(self) -> None:
        while not self._load.is_stopping:
            await self._one()
        await self.close()

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def _one(self) -> None:
        choose = self._random
        path = choose.choice(self._paths[: choose.choice((HOT, PATHS))])
        what = choose.random()
        if what < 0.30:
            await self._change(path, "PUT", self._body(path))
        elif what < 0.40:
            await self._change(path, "DELETE", None)
        elif what < 0.50:
            shared = choose.choice(self._shared)
            await self._get(shared, Expected({self._load.shared[shared]}))
        else:
            await self._get(path, self.expected[path])

    def _body(self, path: str) -> bytes:
        self._turn += 1
        return body_for(path, self._turn, self._random.choice(_SIZES))

    async def make_sure(self) -> None:
        for path, expected in self.expected.items():
            if not expected.is_sure:
                await self._change(path, "PUT", self._body(path))
                if not expected.is_sure:
                    self._load.say_wrong(path, "a PUT fails although all stores are up")
        await self.close()

    async def _get(self, path: str, expected: Expected) -> None:
        reply = await self._ask("GET", path, None)
        if reply is not None:
            self._load.check(path, expected, reply)

    async def _change(self, path: str, method: str, body: Body) -> None:
        expected = self.expected[path]
        reply = await self._ask(method, path, body)
        if reply is None or reply.status >= 500:
            expected.unsure(body)
            return
        if reply.status == 404 and (complaint := expected.complaint(None)):
            self._load.say_wrong(path, f"DELETE: {complaint}")
        if reply.status == 204 and expected.bodies == {None}:
            self._load.say_wrong(path, "DELETE: there was a file where there is none")
        expected.acknowledged(body)

    async def _ask(self, method: str, path: str, body: bytes | None) -> Reply | None:
        """Return the answer, None where the gateway died; count it."""
        load, began_s = self._load, time.monotonic()
        stage = load.stage
        try:
            reply = await self._random.choice(self._connections).ask(method, target_of(path), body)
        except Lost as error:
            if not load.gateway_dies:
                load.say_wrong(path, f"{method}: {error}")
            await asyncio.sleep(_RECONNECT_S)
            return None
        failure = None
        if reply.status not in _RIGHT[method]:
            failure = f"{method} {reply.status} {_sentence(reply.body)}"
            if reply.status < 500:
                load.say_wrong(path, failure)
        load.tally(stage, failure, time.monotonic() - began_s)
        return reply


_RIGHT: Final = {"PUT": {200}, "GET": {200, 404}, "DELETE": {204, 404}}


def _sentence(body: bytes) -> str:
    return body.decode("utf-8", "replace")[:160].strip()
