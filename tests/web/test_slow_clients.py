"""Clients that are slow, or stop, or send too much before a body, on both loops and both ways."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
import uvloop

from sfss.config_limits import LimitsSettings
from sfss.errors import BodyTimeout
from sfss.record import new_record
from sfss.web.body import _Pace
from sfss.web.unsent import Unsent
from tests.stores.scripted import until
from tests.web.client import head
from tests.web.test_fast import Gateway, ViewableStore, read_all, serving, undated

GET = head("GET", "/file?path=a.txt")
PUT = head("PUT", "/file?path=new", "Content-Length: 3") + b"abc"

Loops: TypeAlias = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(name="loop_factory", params=[uvloop.new_event_loop, asyncio.new_event_loop])
def each_loop(request: pytest.FixtureRequest) -> Loops:
    factory: Loops = request.param
    return factory


def run(factory: Loops, work: Any) -> None:
    """Run ``work`` in a loop of its own."""
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(work, 60))


@asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[tuple[socket.socket, asyncio.Transport]]:
    """Connect; what comes back is not read."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        loop = asyncio.get_running_loop()
        server = gateway.runner.server
        assert server is not None
        transport, _ = await loop.connect_accepted_socket(server, theirs)
        yield ours, transport


async def ended(ours: socket.socket) -> bytes:
    """Return all that comes until the connection is closed."""
    answers = bytearray()
    await read_all(ours, answers)
    return bytes(answers)


@pytest.mark.parametrize("by_short_way", [True, False])
@pytest.mark.parametrize(
    ("before", "begun", "answered"),
    [
        (b"", b"", 0),
        (b"", b"GET /file?path=a.t", 0),
        (GET, b"GET /file?path=a.t", 1),
        (PUT, b"PUT /file?path=new HTTP/1.1\r\nHost: a\r\nX-A: ", 1),
    ],
)
def test_a_request_that_does_not_come_in_time_is_408(
    loop_factory: Loops, by_short_way: bool, before: bytes, begun: bytes, answered: int
) -> None:
    async def work() -> None:
        limits = LimitsSettings(head_timeout_s=0.3)
        async with serving(by_short_way, limits=limits) as gateway, connected(gateway) as (ours, _):
            loop = asyncio.get_running_loop()
            if before:
                await loop.sock_sendall(ours, before)
                assert b" 200 OK" in await loop.sock_recv(ours, 1 << 16)
            if begun:
                await loop.sock_sendall(ours, begun)
            refusal = await ended(ours)
            assert refusal.startswith(b"HTTP/1.1 408 "), refusal
            assert b"no whole request came within 0.3 s" in refusal
            assert gateway.board.statuses() == {"408": 1} | ({"200": 1} if answered else {})

    run(loop_factory, work())


@pytest.mark.parametrize("by_short_way", [True, False])
@pytest.mark.parametrize("request_", [GET, PUT])
async def test_a_connection_that_has_had_an_answer_may_be_idle(
    by_short_way: bool, request_: bytes
) -> None:
    limits = LimitsSettings(head_timeout_s=0.1)
    async with (
        serving(by_short_way, limits=limits, keepalive_timeout_s=1.0) as gateway,
        connected(gateway) as (ours, _),
    ):
        await asyncio.get_running_loop().sock_sendall(ours, request_)
        answers = await ended(ours)
        assert answers.startswith(b"HTTP/1.1 200")
        assert b" 408 " not in answers


class Drops:
    """A body that comes byte by byte."""

    def __init__(self, size: int) -> None:
        self.size, self.came = size, 0

    def is_eof(self) -> bool:
        """Tell that there is more."""
        return False

    def read_nowait(self) -> bytes:
        """Return nothing."""
        return b""

    async def readany(self) -> bytes:
        """Return the next bytes."""
        await asyncio.sleep(0.02)
        self.came += self.size
        return b"x" * self.size


async def test_a_body_may_be_slow_but_not_for_ever() -> None:
    pace, drops = _Pace(0.5, 1000), Drops(1)
    with pytest.raises(BodyTimeout, match="fewer than 1000 bytes a second"):
        while drops.came < 500:
            await pace.piece(drops)
    assert drops.came > 0


@pytest.mark.parametrize("rate", [0, 10])
async def test_a_body_that_is_fast_enough_may_take_its_time(rate: int) -> None:
    pace, drops = _Pace(0.5, rate), Drops(100)
    while drops.came < 5000:
        assert await pace.piece(drops)


class Reader:
    """Who is cut off says so."""

    def __init__(self, unsent: Unsent) -> None:
        self.unsent, self.is_cut_off = unsent, False

    def cut_off(self) -> None:
        """Take note."""
        self.is_cut_off = True
        self.unsent.release(self)


def test_of_many_that_do_not_read_the_oldest_go() -> None:
    unsent = Unsent(100)
    readers = [Reader(unsent) for _ in range(5)]
    for reader in readers[:4]:
        unsent.hold(reader, 25)
    unsent.hold(readers[0], 20)  # it has taken some, and waits again
    unsent.hold(readers[4], 40)
    assert [reader.is_cut_off for reader in readers] == [False, True, True, False, False]
    assert unsent.total == 25 + 20 + 40
    unsent.hold(readers[4], 1000)
    assert [reader.is_cut_off for reader in readers] == [True, True, True, True, False]
    unsent.release(readers[4])
    assert unsent.total == 0


def test_what_is_held_for_those_that_do_not_read_is_bounded(loop_factory: Loops) -> None:
    async def work() -> None:
        store, limits = ViewableStore(), LimitsSettings(unsent_bytes=4 * 1024 * 1024)
        async with serving(True, store, limits=limits) as gateway:
            await store.set(b"big", new_record(bytes(1_000_000), 1))
            loop, talks = asyncio.get_running_loop(), []
            for _ in range(12):
                talks.append(connected(gateway))
                ours, _ = await talks[-1].__aenter__()
                await loop.sock_sendall(ours, head("GET", "/file?path=big"))
            unsent = gateway.runner._bounds.unsent
            await until(lambda: gateway.board.totals()["connections"] <= 5, "some are cut off")
            assert 0 < unsent.total <= 4 * 1024 * 1024
            for talk in talks:
                await talk.__aexit__(None, None, None)
            await until(lambda: unsent.total == 0, "nothing is held")

    run(loop_factory, work())


def large_head(kind: str) -> bytes:
    """Return a request that has too much of something."""
    return {
        "address": head("GET", f"/file?path={'a' * 9000}"),
        "field": head("GET", "/file?path=a.txt", f"X-A: {'a' * 9000}"),
        "name": head("GET", "/file?path=a.txt", f"{'A' * 9000}: a"),
        "fields": head("GET", "/file?path=a.txt", *(f"X-{n}: a" for n in range(200))),
        "all": head("GET", "/file?path=a.txt", *(f"X-{n}: {'a' * 8000}" for n in range(10))),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        ("address", 414, b"the address has more than 8190 bytes"),
        ("field", 431, b"a header field has more than 8190 bytes"),
        ("name", 431, b"a header field has more than 8190 bytes"),
        ("fields", 431, b"there are more than 128 header fields"),
        ("all", 431, b"the request has more than 65536 bytes before its body"),
    ],
)
async def test_too_much_before_the_body_is_refused_in_words(
    kind: str, status: int, sentence: bytes
) -> None:
    whole = large_head(kind)
    for segments in ([whole], [whole[at : at + 3000] for at in range(0, len(whole), 3000)]):
        found = []
        for by_short_way in (True, False):
            async with serving(by_short_way) as gateway:
                found.append(undated(await gateway.exchange(segments)))
        assert found[0] == found[1]
        assert re.match(rb"HTTP/1\.[01] %d " % status, found[0]), found[0]
        assert sentence in found[0]
