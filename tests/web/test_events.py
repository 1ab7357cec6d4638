"""Server-sent events of /status/events, and those who watch: byte for byte, to their end."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from typing import Any

import pytest

from sfss.config import ServerSettings
from sfss.grants import LIST, READ, Grant, Rules
from sfss.web import events, snapshot
from sfss.web.watchers import LIMIT, Watchers
from tests.servers import Gateway, gateway, running, wait_until
from tests.web.test_protocol import Face, serving

ASK = b"GET /status/events HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(name="front", scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("events")
    settings = "[server]\nworkers = 2\n[embedded]\nfolder = 'store'\n"
    with running(gateway(folder, settings=settings)) as server:
        yield server


class Watching:
    """A raw connection to a stream of events."""

    def __init__(self, front: Gateway, request: bytes = ASK) -> None:
        self.socket = socket.create_connection((front.host, front.port), timeout=30)
        self.socket.sendall(request)
        self.text = b""

    def until(self, wanted: bytes, times: int = 1) -> bytes:
        """Read on until ``wanted`` has come so often; return all."""
        while self.text.count(wanted) < times:
            more = self.socket.recv(65536)
            assert more, self.text
            self.text += more
        return self.text

    def to_the_end(self) -> bytes:
        """Read all that comes."""
        while more := self.socket.recv(65536):
            self.text += more
        return self.text

    def close(self) -> None:
        """Leave."""
        self.socket.close()


def documents(text: bytes) -> list[Any]:
    """Return what the events without a name say; of an answer that is not chunked."""
    pieces = text.partition(b"\r\n\r\n")[2].split(b"\n\n")
    return [json.loads(each[6:]) for each in pieces if each.startswith(b"data: ")]


def test_events_are_in_the_form_of_the_standard(front: Gateway) -> None:
    front.put("a", b"12345")
    with closing(Watching(front)) as one:
        text = one.until(b"\ndata: {", 2)
        head, _, body = text.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        for field in (
            b"Content-Type: text/event-stream; charset=utf-8",
            b"Cache-Control: no-store",
            b"X-Accel-Buffering: no",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
        ):
            assert field in head
        assert b"Content-Length" not in head
        assert body.partition(b"\r\n")[2].startswith(b"retry: 2000\nevent: hello\ndata: {")


def test_a_client_of_http_1_0_reads_to_the_end(front: Gateway) -> None:
    with closing(Watching(front, b"GET /status/events HTTP/1.0\r\n\r\n")) as one:
        # Of the one that has not come whole yet nothing is known.
        text = one.until(b"\n\ndata: {", 2).rpartition(b"\n\n")[0]
        assert b"Transfer-Encoding" not in text
        found, *_ = documents(text)
    (store,) = found["stores"]
    assert (store["address"], store["why"]) == ("embedded:store", "")
    assert store["capacity_bytes"] > store["free_bytes"] > 0
    assert (found["ready"], found["workers"], found["about"]) == (True, 2, {"kind": "embedded"})
    assert len(found["requests"][0]["counts"]) == len(found["bounds_s"]) + 1


def test_head_tells_the_fields_alone(front: Gateway) -> None:
    answer = front.request("HEAD", "/status/events")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_the_page_and_what_it_is_made_of_are_served(front: Gateway) -> None:
    page = front.request("GET", "/status/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-cache"
    known = {"If-None-Match": page.headers["etag"]}
    assert front.request("GET", "/status/", headers=known).status == 304
    assert front.request("GET", "/status/", headers={"If-Match": '"x"'}).status == 412
    text = page.body.decode()
    assert "style=" not in text
    for name in ("main.js", "status.css", "common.css", "icon.svg"):
        assert name in text or name == "common.css"
        assert front.request("GET", f"/status/{name}").status == 200
    assert front.request("GET", "/status/..%2fmain.js").status == 404
    assert front.request("GET", "/status/none.js").status == 404


def test_those_who_watch_are_let_go_when_a_worker_ends(front: Gateway) -> None:
    before = front.workers()
    watching = [Watching(front) for _ in range(4)]
    try:
        for each in watching:
            each.until(b"\ndata: {", 2)
        front.send(signal.SIGHUP)
        for each in watching:
            assert each.to_the_end().endswith(b"0\r\n\r\n")
        wait_until(lambda: not set(before) & set(front.workers()), "the former workers have ended")
    finally:
        for each in watching:
            each.close()
    with closing(Watching(front)) as one:
        one.until(b"\ndata: {", 2)


def test_who_vanishes_leaves_nothing_behind(front: Gateway) -> None:
    def connections() -> int:
        found: int = front.request("GET", "/status?detail=full").json()["webserver"]["connections"]
        return found

    wait_until(lambda: connections() == 1, "nobody but who asks")
    watching = [Watching(front) for _ in range(6)]
    for each in watching:
        each.until(b"\ndata: {", 2)
    assert connections() == 7
    for each in watching:
        each.close()
    wait_until(lambda: connections() == 1, "they are gone")
    requests = front.request("GET", "/status?detail=full").json()["webserver"]["requests"]
    assert set(requests) <= {"200", "304", "404", "412"}


# -- in this process


@asynccontextmanager
async def flooding(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Face, Watchers]]:
    """A server whose events are large, and many."""

    async def take(site: object) -> dict[str, Any]:
        return {"large": "x" * 1_000_000}

    monkeypatch.setattr(snapshot, "take", take)
    async with serving(ServerSettings()) as face:
        watchers = face.runner._site.watchers
        watchers.every_s = 0.001
        yield face, watchers


async def silent(face: Face) -> socket.socket:
    """Return a connection that has asked for events, and reads none of them."""
    asking = socket.create_connection(("127.0.0.1", face.port))
    asking.sendall(ASK)
    return asking


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STALLED_S", 0.2)
    async with flooding(monkeypatch) as (face, watchers):
        with await silent(face):
            await face.until(lambda: len(watchers) == 1)
            await face.until(lambda: len(watchers) == 0)
        assert watchers._looking is None


async def test_nobody_who_does_not_read_keeps_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with flooding(monkeypatch) as (face, watchers):
        sockets = [await silent(face) for _ in range(3)]
        await face.until(lambda: len(watchers) == 3)
        await face.until(lambda: any(watch.patience for watch in watchers._watches))
        face.runner.stop_listening()
        async with asyncio.timeout(5):
            await face.runner.drain(0.0)
        assert (len(watchers), watchers._looking) == (0, None)
        for each in sockets:
            each.close()


async def test_who_may_watch_no_longer_is_sent_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # That a token is taken away is a reload, which ends the worker; its last day ends like this.
    now_s, ahead_s = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: now_s() + ahead_s)
    grant = Grant("for a day", frozenset({LIST}), until_s=now_s() + 86_400)
    rules = Rules({sha256(b"secret").digest(): grant}, anybody=frozenset({READ}))
    async with serving(ServerSettings(), rules=rules) as face:
        watchers = face.runner._site.watchers
        watchers.every_s = 0.001
        asking = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", face.port))
        with asking:
            asking.sendall(ASK.replace(b"a\r\n\r\n", b"a\r\nAuthorization: Bearer secret\r\n\r\n"))
            asking.setblocking(False)
            text = b""
            while text.count(b"data: ") < 5:
                text += await asyncio.get_running_loop().sock_recv(asking, 65536)
            ahead_s = 90_000.0
            async with asyncio.timeout(30):
                while more := await asyncio.get_running_loop().sock_recv(asking, 65536):
                    text = (text + more)[-20:]
            assert text.endswith(b"\r\n0\r\n\r\n")
        assert len(watchers) == 0


async def test_no_more_are_taken_in_than_there_is_room_for() -> None:
    async with serving(ServerSettings()) as face:
        watchers = face.runner._site.watchers
        sockets = [await silent(face) for _ in range(LIMIT)]
        await face.until(lambda: len(watchers) == LIMIT)
        refused = await face.ask(ASK.replace(b"a\r\n\r\n", b"a\r\nConnection: close\r\n\r\n"))
        assert (refused.status, refused.headers["retry-after"]) == (503, "10")
        for each in sockets:
            each.close()
        await face.until(lambda: len(watchers) == 0)
        assert watchers._looking is None


async def test_one_look_is_for_all_who_watch() -> None:
    watchers, looks = Watchers(every_s=0.01), 0

    async def look() -> bytes:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise RuntimeError("as it may be")
        return str(looks).encode()

    with watchers.watching(look) as one, watchers.watching(look) as other:
        found = await asyncio.gather(one.next(5), other.next(5))
        assert found == [b"1", b"1"]
        with watchers.watching(look) as late:
            assert await late.next(5) in (b"1", b"3")
        assert await one.next(5) == b"3"  # what was not read is not sent late
    assert watchers._looking is None
    before = looks
    await asyncio.sleep(0.03)
    assert looks == before
    with watchers.watching(look) as again:
        watchers.end()
        assert (await again.next(5), again.is_over) == (b"", True)
    with watchers.watching(look) as more:
        assert more.is_over
