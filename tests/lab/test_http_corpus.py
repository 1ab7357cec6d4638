"""Malformed and deceiving requests (``corpus``): by both ways, on both loops, and behind nginx."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop

from tests.lab.corpus import (
    BAD,
    CANARY,
    CASES,
    CHUNK,
    CHUNKED,
    HIDDEN,
    SIZE,
    Case,
    put,
    request,
)
from tests.servers import Gateway as Process
from tests.servers import gateway, running
from tests.test_nginx_front import front
from tests.web.client import Wire, multipart
from tests.web.test_fast import FILES, Gateway, ViewableStore, serving

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PATIENCE_S = 20.0
SECRET = HIDDEN.replace(b"DELETE /file?path=a.txt", b"GET /file?path=secret&a")
"""As long as what it takes the place of."""
assert len(SECRET) == len(HIDDEN)
TOO_MUCH = (400, 413, 414, 431)
PROBE = request()
BODY = FILES[CANARY]


class Told(NamedTuple):
    """What came back on one connection."""

    statuses: tuple[int, ...]
    is_open: bool
    more: int = 0
    """Answers behind that to the last request, which was sent to see whether it is open."""


class Client:
    """One connection whose answers are read one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.buffer = connection, bytearray()
        self.ended, self.body = False, b""

    async def more(self) -> bool:
        """Read some; return False at the end."""
        piece = b""
        with suppress(ConnectionError):
            piece = await asyncio.get_running_loop().sock_recv(self.connection, 1 << 20)
        self.buffer += piece
        self.ended = not piece
        return bool(piece)

    async def answer(self) -> int | None:
        """Read one answer and return its status, None at the end."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                return None
        text, _, _ = bytes(self.buffer).partition(b"\r\n\r\n")
        lines = text.split(b"\r\n")
        assert lines[0].startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), text
        status = int(lines[0].split()[1])
        if status == 100:  # comes or not, as the body is there already or not
            del self.buffer[: len(text) + 4]
            return await self.answer()
        sizes = [line[16:] for line in lines if line.lower().startswith(b"content-length: ")]
        size = len(text) + 4 + (int(sizes[0]) if sizes and status not in (204, 304) else 0)
        while len(self.buffer) < size:
            assert await self.more(), "an answer was cut off"
        self.body = bytes(self.buffer[len(text) + 4 : size])
        del self.buffer[:size]
        return status


async def tell(gateway: Gateway, pieces: list[bytes], number: int) -> Told:
    """Send ``pieces`` on one connection and read ``number`` answers; then see whether it is open,
    by a request that gets the canary.
    """
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    ours.setblocking(False)
    assert gateway.runner.server is not None
    await loop.connect_accepted_socket(gateway.runner.server, theirs)
    client = Client(ours)
    with ours:
        for piece in pieces:
            with suppress(ConnectionError):
                await loop.sock_sendall(ours, piece)
            for _ in range(10 if len(pieces) > 1 else 0):
                await asyncio.sleep(0)
        statuses = []
        async with asyncio.timeout(PATIENCE_S):
            while len(statuses) < number and (status := await client.answer()) is not None:
                statuses.append(status)
            if not client.ended:
                with suppress(ConnectionError):
                    await loop.sock_sendall(ours, PROBE)
            last = await client.answer()
            while last is not None and client.body != BODY:
                statuses.append(last)
                last = await client.answer()
            more = 0
            if last is not None:
                ours.shutdown(socket.SHUT_WR)
                while await client.answer() is not None:
                    more += 1
        return Told(tuple(statuses), last is not None, more)


def is_as_wanted(case: Case, told: Told, before: int) -> bool:
    """Tell whether ``told`` is what ``case`` wants behind ``before`` other answers."""
    refusals = TOO_MUCH if case.statuses == (0,) else BAD
    if before and told.statuses in {(each,) for each in refusals} and case.closes is not False:
        # It came in one piece with what is malformed: the parser refuses both, as one.
        return True
    statuses = told.statuses[before:]
    if case.statuses == (0,):
        fits = len(statuses) == 1 and statuses[0] in TOO_MUCH
    else:
        fits = statuses in (case.statuses, *case.also)
    is_open = told.is_open if case.closes is None else not case.closes
    return (
        fits
        and told.is_open == is_open
        and told.more <= (case.closes is None)
        and told.statuses[:before] == (200,) * before
    )


WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "alone": lambda sent: [sent],
    "behind a request": lambda sent: [PROBE, sent],
    "in one piece with a request": lambda sent: [PROBE + sent],
    "in two pieces": lambda sent: [sent[: len(sent) // 2], sent[len(sent) // 2 :]],
    "byte by byte": lambda sent: [sent[i : i + 1] for i in range(len(sent))],
}


async def wrong_ones(by_short_way: bool, at_once: bool, turn: int | None) -> list[str]:
    """Send all cases, in all ways, or in the first and one other, by ``turn``; return in words what
    was not as it is to be.
    """
    wrong = []
    store = ViewableStore(at_once, tells=True)
    async with serving(by_short_way, store) as gateway:
        canary, answered = store.values[CANARY.encode()], 0
        for number, case in enumerate(CASES):
            for index, (way, cut) in enumerate(WAYS.items()):
                if turn is not None and index not in (0, (number + turn) % len(WAYS)):
                    continue
                if way == "byte by byte" and len(case.sent) > 1000:
                    continue
                before = int("request" in way)
                try:
                    told = await tell(gateway, cut(case.sent), before + len(case.statuses))
                except (TimeoutError, AssertionError) as error:
                    wrong.append(f"{case.name}, {way}: {error!r}")
                    continue
                answered += len(told.statuses) + told.is_open + told.more
                if not is_as_wanted(case, told, before):
                    wrong.append(f"{case.name}, {way}: {told}\n    {case.sent[:200]!r}")
                if store.values[CANARY.encode()] != canary:
                    wrong.append(f"{case.name}, {way}: what was hidden in it came into force")
                    store.values[CANARY.encode()] = canary
        totals = gateway.board.totals()
        counted = sum(gateway.board.statuses().values())
    if counted != answered:
        wrong.append(f"{counted} answers were counted, and {answered} were given")
    if totals["connections"]:
        wrong.append(f"{totals['connections']} connections were not counted off")
    return wrong


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turn", range(3))
def test_no_request_of_the_corpus_deceives(
    loop: str, turn: int, pytestconfig: pytest.Config
) -> None:
    by_short_way, at_once = [(False, True), (True, True), (True, False)][turn]
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        some = None if pytestconfig.getoption("--lab-long") else 2 * turn + (loop == "uvloop")
        wrong = runner.run(wrong_ones(by_short_way, at_once, some))
    assert not wrong, "\n".join(wrong)


TYPE, FORM = multipart(('form-data; name="f"; filename="a"', HIDDEN))
WHOLE = {
    "length": put(b"Content-Length: " + SIZE),
    "chunks": put(CHUNKED, body=b"1\r\nx\r\n" + CHUNK + b"0\r\nX: y\r\n\r\n"),
    "form": put(f"Content-Length: {len(FORM)}\r\nContent-Type: {TYPE}".encode(), body=FORM),
    "form in chunks": put(
        CHUNKED,
        f"Content-Type: {TYPE}".encode(),
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(FORM), FORM),
    ),
}


async def cut_off(by_short_way: bool, whole: bytes) -> list[str]:
    """Send the beginning of a request, in one piece and in two, and then the end of the connection;
    return in words where anything came of it.
    """
    wrong = []
    store = ViewableStore(tells=True)
    async with serving(by_short_way, store) as served:
        kept = dict(store.values)
        for size in range(1, len(whole)):
            for first in {0, max(0, size - 2), size // 2}:
                ours, theirs = socket.socketpair()
                loop = asyncio.get_running_loop()
                ours.setblocking(False)
                assert served.runner.server is not None
                await loop.connect_accepted_socket(served.runner.server, theirs)
                with ours:
                    for piece in (whole[:first], whole[first:size]):
                        await loop.sock_sendall(ours, piece)
                        for _ in range(5):
                            await asyncio.sleep(0)
                    ours.shutdown(socket.SHUT_WR)
                    client, statuses = Client(ours), []
                    async with asyncio.timeout(PATIENCE_S):
                        while (status := await client.answer()) is not None:
                            statuses.append(status)
                if statuses not in ([], [400]) or store.values != kept:
                    wrong.append(f"{first}, {size}: {statuses} {whole[:size][-40:]!r}")
                    store.values = dict(kept)
    return wrong


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_cut_off_at_any_byte_is_not_stored(loop: str, kind: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        for by_short_way in (False, True):
            wrong = runner.run(cut_off(by_short_way, WHOLE[kind]))
            assert not wrong, "\n".join(wrong)


def test_nothing_smuggled_past_nginx_reaches_another_client(tmp_path: Path) -> None:
    settings = "[server]\nworkers = 1\n"
    with (
        running(gateway(tmp_path, "--store", "store", settings=settings)) as behind,
        running(front(tmp_path, behind.address)) as proxy,
    ):
        for name in ("a.txt", "b.txt", "secret"):
            assert behind.put(name, name.encode() * 100).status == 200
        wrong = [case.name for case in CASES if (case.closes and deceived(proxy, case))]
        assert not wrong
        assert behind.request("GET", "/status?detail=full").status == 200


def deceived(proxy: Process, case: Case) -> bool:
    """Send a case with a request for "secret" hidden in it; tell whether another client gets it."""
    sent = case.sent.replace(HIDDEN, SECRET)
    with Wire(proxy.host, proxy.port) as connection, Wire(proxy.host, proxy.port) as other:
        with suppress(OSError):
            connection.send(sent)
        for name in ("a.txt", "b.txt"):
            other.send(request(target=f"/file?path={name}".encode()))
            if other.answer().body != name.encode() * 100:
                return True
    return False
