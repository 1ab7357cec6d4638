"""A node that answers wrong, late, or not at all; and askers that do not wait."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from sfss.config import WebdavSettings
from sfss.errors import (
    CannotList,
    CannotTell,
    Corrupt,
    PathTaken,
    SettingError,
    SfssError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.record import Buffer, Form, Head, Kind, Record, decode, digest_of, held, new_record
from sfss.stores.key_locks import KeyLocks
from sfss.stores.marks import Marks
from sfss.stores.webdav import WebdavStore
from tests.servers import Server, free_port, nginx_node, nginx_root, running
from tests.stores.dict_store import ViewableDict
from tests.stores.scripted import CLOSE, Script, ScriptedHttpServer, until

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

MIB = 1024 * 1024
DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"
VERSION = 1_700_000_000_000_000


def answer(status: bytes, body: bytes = b"", *fields: bytes) -> bytes:
    """Return an answer with a Content-Length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*lines, b"", body])


def file(body: bytes, *fields: bytes) -> bytes:
    """Return the answer to a GET of a file."""
    return answer(b"200 OK", body, b"Last-Modified: " + DATE, *fields)


def shown(size: int, date: bytes = DATE) -> bytes:
    """Return the answer to a HEAD."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nLast-Modified: %b\r\n\r\n" % (size, date)


LONG_AGO = b"Sun, 09 Sep 2001 01:46:40 GMT"
ABSENT = answer(b"404 Not Found", b"<html>")
CREATED = answer(b"201 Created")


def open_store(address: str, timeout_s: float = 30.0, connections: int = 4) -> WebdavStore:
    """Return a store whose marks are in memory."""
    settings = WebdavSettings(timeout_s=timeout_s, connections=connections)
    return WebdavStore(address, Marks(ViewableDict(), address), settings)


@asynccontextmanager
async def scripted(
    *scripts: Script, timeout_s: float = 30.0, connections: int = 4
) -> AsyncIterator[tuple[WebdavStore, ScriptedHttpServer]]:
    """Run a store on a server that plays ``scripts``."""
    async with ScriptedHttpServer(*scripts) as server:
        store = open_store(server.url, timeout_s, connections)
        try:
            yield store, server
        finally:
            await store.close()


@pytest.fixture(name="node", scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An nginx that all tests of this module share."""
    with running(nginx_node(tmp_path_factory.mktemp("node"))) as server:
        yield server


MALFORMED = {
    "garbage": b"VALUE a 0 1\r\n\r\n",
    "too much": file(b"body") + b"x",
    "two answers": file(b"body") * 2,
    "shorter, then closed": file(b"body")[:-1],
    "no length": b"HTTP/1.1 200 OK\r\n\r\nbody",
    "two lengths": file(b"body", b"Content-Length: 5"),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + file(b"body"),
    "range": answer(b"206 Partial Content", b"b", b"Content-Range: bytes 0-0/4"),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "coded": file(b"body", b"Content-Encoding: gzip"),
    "no date": answer(b"200 OK", b"body", b"Last-Modified: yesterday"),
    "long head": answer(b"200 OK", b"body", b"X: " + b"y" * 20_000),
    "error": answer(b"500 Internal Server Error", b"canary"),
    "forbidden": answer(b"403 Forbidden", b"canary"),
    "elsewhere": answer(b"301 Moved", b"", b"Location: https://127.0.0.1/files/key"),
    "another folder": answer(b"301 Moved", b"", b"Location: /files/other/"),
    "cut chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo",
    "long and cut": b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 2_000_000,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_an_answer_that_is_none_is_never_served(name: str) -> None:
    async with scripted([MALFORMED[name], CLOSE], [file(b"good")]) as (store, server):
        reading = asyncio.ensure_future(store.get(b"key"))
        if "cut" in name or "closed" in name:
            await until(lambda: any(begun_answers(store)), "the answer has begun")
            server.writers[0].close()
        with pytest.raises(Unreachable) as caught:
            await reading
        assert caught.value.applied is False
        if len(server.requests) == 1 and name not in ("error", "forbidden"):
            read = await store.get(b"key")
            if read is not None and server.connections > 1:
                assert held(read.body) == b"good"


@pytest.mark.parametrize(
    "text",
    [
        ABSENT,
        answer(b"410 Gone"),
        answer(b"301 Moved", b"", b"Location: /files/a%20key/"),
        answer(b"301 Moved", b"", b"Location: http://any.host:99/files/a%20key/"),
    ],
)
async def test_what_is_absent_or_a_folder_is_none(text: bytes) -> None:
    head = text[: text.index(b"\r\n\r\n") + 4]
    async with scripted([text, head]) as (store, server):
        assert await store.get(b"a key") is None
        assert await store.head(b"a key") is None
        assert server.requests[0] == b"GET /files/a%20key HTTP/1.1"
        assert server.connections == 1


async def test_a_file_without_a_date_is_of_no_version() -> None:
    async with scripted([answer(b"200 OK", b"body")]) as (store, _):
        read = await store.get(b"key")
        assert read is not None
        assert (read.head.version, read.body) == (0, b"body")


async def test_no_coding_is_asked_for() -> None:
    async with scripted([file(b"body")]) as (store, server):
        await store.get(b"key")
        assert b"\r\nAccept-Encoding: identity\r\n" in server.heads[0]
        assert b"\r\nHost: " + server.address.encode() + b"\r\n" in server.heads[0]


async def test_a_body_in_chunks_is_whole() -> None:
    text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    async with scripted([text, file(b"2")]) as (store, server):
        for body in (b"body", b"2"):
            read = await store.get(b"key")
            assert read is not None
            assert read.body == body
        assert server.connections == 1


async def test_a_kept_connection_that_was_closed_is_no_failure() -> None:
    async with scripted([file(b"1")], [CLOSE], [file(b"2")]) as (store, server):
        await store.get(b"key")
        await until(lambda: server.writers, "there is a connection")
        server.writers[0].close()
        await until(lambda: not server.open_connections, "the server has closed it")
        with suppress(Unreachable):  # the second closes a new one: that is a failure
            await store.get(b"key")
        read = await store.get(b"key")
        assert read is not None
        assert (read.body, server.connections) == (b"2", 3)


async def test_a_request_is_repeated_once_on_a_fresh_connection() -> None:
    async with scripted([file(b"1"), CLOSE], [file(b"2")]) as (store, server):
        await store.get(b"key")
        read = await store.get(b"key")
        assert read is not None
        assert (read.body, server.connections, len(server.requests)) == (b"2", 2, 3)


async def test_a_request_is_not_repeated_twice() -> None:
    async with scripted([file(b"1"), CLOSE], [CLOSE]) as (store, server):
        await store.get(b"key")
        with pytest.raises(Unreachable):
            await store.get(b"key")
        assert len(server.requests) == 3


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    async with scripted([file(b"1"), file(b"22")[:-1], CLOSE]) as (store, server):
        await store.get(b"key")
        reading = asyncio.ensure_future(store.get(b"key"))
        await until(lambda: any(begun_answers(store)), "the second answer has begun")
        server.writers[0].close()
        with pytest.raises(Unreachable):
            await reading
        assert server.connections == 1


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    texts = [file(b"1", b"Connection: close"), file(b"2")]
    async with scripted(texts[:1], texts[1:]) as (store, server):
        for body in (b"1", b"2"):
            read = await store.get(b"key")
            assert read is not None
            assert read.body == body
        assert server.connections == 2


async def test_bytes_that_nobody_asked_for_end_a_connection() -> None:
    async with scripted([file(b"1")], [file(b"2")]) as (store, server):
        await store.get(b"key")
        server.writers[0].write(file(b"canary"))
        await until(lambda: not server.open_connections, "the connection is thrown away")
        read = await store.get(b"key")
        assert read is not None
        assert read.body == b"2"


SILENT: list[Callable[[WebdavStore], Awaitable[object]]] = [
    lambda store: store.get(b"key"),
    lambda store: store.head(b"key"),
    lambda store: store.set(b"key", new_record(b"body", VERSION)),
    lambda store: store.delete(b"key"),
    lambda store: store.children(b"", b"", 1),
    lambda store: store.stats(),
]


@pytest.mark.parametrize("number", range(len(SILENT)))
async def test_a_silent_node_is_given_up(number: int) -> None:
    async with scripted([], timeout_s=0.2) as (store, server):
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            await SILENT[number](store)
        await until(lambda: not server.open_connections, "the connection is thrown away")


async def test_a_node_that_stops_within_an_answer_is_given_up() -> None:
    for text in (file(b"body")[:20], file(b"body")[:-1], file(b"x" * 3 * MIB)[:-1]):
        async with scripted([text], timeout_s=0.3) as (store, _):
            with pytest.raises(Unreachable, match="no answer within"):
                await store.get(b"key")


async def test_whoever_waits_for_a_connection_is_told_in_the_end() -> None:
    async with scripted([], timeout_s=0.2, connections=2) as (store, server):
        gets = [store.get(b"%d" % number) for number in range(20)]
        outcomes = await asyncio.gather(*gets, return_exceptions=True)
        assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
        assert server.open_connections <= 2


async def test_nobody_listens() -> None:
    store = open_store(f"http://127.0.0.1:{free_port()}/")
    for operation in SILENT:
        with pytest.raises(Unreachable) as caught:
            await operation(store)
        assert caught.value.applied is False
    await store.close()


async def test_a_name_that_nobody_has() -> None:
    store = open_store("http://nobody.invalid/")
    with pytest.raises(Unreachable):
        await store.get(b"key")
    await store.close()


async def test_a_write_may_have_been_done_when_no_answer_came() -> None:
    async with scripted([CLOSE]) as (store, _):
        with pytest.raises(Unreachable) as caught:
            await store.set(b"key", new_record(b"body", VERSION))
        assert caught.value.applied is None


async def test_a_write_that_could_not_be_repeated_may_have_been_done() -> None:
    async with scripted([CREATED, shown(4, LONG_AGO), CREATED, CLOSE]) as (store, server):
        await store.set(b"key", new_record(b"body", VERSION))
        server._server.close()
        with pytest.raises(Unreachable) as caught:
            await store.set(b"key", new_record(b"body", VERSION))
        assert caught.value.applied is None


@pytest.mark.parametrize("script", [[CREATED], [CREATED, shown(4, LONG_AGO)]])
async def test_what_has_begun_may_have_been_done(script: Script) -> None:
    async with scripted([*script, answer(b"403 Forbidden")]) as (store, _):
        with pytest.raises(Unreachable, match="403") as caught:
            await store.set(b"key", new_record(b"body", VERSION))
        assert caught.value.applied is None


REFUSALS: list[tuple[bytes, type[SfssError]]] = [
    (b"507 Insufficient Storage", StoreFull),
    (b"413 Too Large", TooLarge),
    (b"405 Not Allowed", PathTaken),
    (b"409 Conflict", PathTaken),
    (b"403 Forbidden", Unreachable),
    (b"404 Not Found", Unreachable),
    (b"500 Internal Server Error", Unreachable),
    (b"301 Moved", Unreachable),
    (b"202 Accepted", Unreachable),
]


@pytest.mark.parametrize("status, error", REFUSALS)
async def test_a_put_that_is_refused(status: bytes, error: type[SfssError]) -> None:
    async with scripted([answer(status, b"canary")]) as (store, _):
        with pytest.raises(error) as caught:
            await store.set(b"key", new_record(b"body", VERSION))
        assert "canary" not in str(caught.value)


async def test_a_file_has_the_name_of_a_folder_on_the_way(node: Server) -> None:
    store = open_store(f"http://{node.address}/")
    await store.set(b"way/file", new_record(b"body", VERSION))
    for key in (b"way", b"way/file/below", b"way/file/far/below"):
        with pytest.raises(PathTaken):
            await store.set(key, new_record(b"body", VERSION))
    await store.close()


class SlowBody:
    """A body of which nothing comes behind the first piece until ``go_on`` is set."""

    def __init__(self) -> None:
        self.go_on, self.has_begun = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 8 * MIB

    def read(self, start: int, size: int) -> bytes:
        """Wait, but for the first."""
        if start:
            self.has_begun.set()
            self.go_on.wait(30)
        return bytes(size)


async def test_a_refusal_that_comes_before_the_body_has_gone() -> None:
    body = SlowBody()
    async with scripted([]) as (store, server):
        record = new_record(body, VERSION, digest=bytes(16))
        writing = asyncio.ensure_future(store.set(b"key", record))
        await until(body.has_begun.is_set, "the first piece was sent")
        server.writers[0].write(answer(b"413 Too Large"))
        with pytest.raises(TooLarge):
            await writing
        await until(lambda: not server.open_connections, "the connection is thrown away")
        body.go_on.set()


async def test_a_body_that_comes_slowly_is_not_the_fault_of_the_node() -> None:
    body = SlowBody()
    loop = asyncio.get_running_loop()
    texts = [CREATED, shown(8 * MIB, LONG_AGO), CREATED]
    async with scripted(texts, timeout_s=0.1) as (store, _):
        writing = asyncio.ensure_future(store.set(b"key", new_record(body, VERSION, digest=b"")))
        await until(body.has_begun.is_set, "the first piece was sent")
        loop.call_later(0.4, body.go_on.set)
        await writing


async def test_a_body_that_cannot_be_read_is_not_stored() -> None:
    class Broken(SlowBody):
        def read(self, start: int, size: int) -> bytes:
            return b"" if start else bytes(size)

    async with scripted([]) as (store, _):
        with pytest.raises(Unreachable, match="cannot be read"):
            await store.set(b"key", new_record(Broken(), VERSION, digest=bytes(16)))


async def test_folders_are_made_where_they_are_missing() -> None:
    conflict = answer(b"409 Conflict")
    texts = [conflict, CREATED, answer(b"405 Not Allowed"), CREATED, shown(4, LONG_AGO), CREATED]
    async with scripted(texts) as (store, server):
        await store.set(b"a b/c/d", new_record(b"body", VERSION))
        assert server.requests == [
            b"PUT /files/a%20b/c/d HTTP/1.1",
            b"MKCOL /files/a%20b/ HTTP/1.1",
            b"MKCOL /files/a%20b/c/ HTTP/1.1",
            b"PUT /files/a%20b/c/d HTTP/1.1",
            b"HEAD /files/a%20b/c/d HTTP/1.1",
            b"PUT /files/a%20b/c/d HTTP/1.1",
        ]
        assert b"\r\nDate: " + DATE + b"\r\n" in server.heads[-1]
        assert server.bodies[-1] == b"body"


async def test_whether_dates_are_taken_is_tried_once() -> None:
    texts = [CREATED, shown(4, LONG_AGO), CREATED, CREATED, file(b"body")]
    async with scripted(texts) as (store, server):
        record = new_record(b"body", VERSION + 5, {"a": "b"})
        await store.set(b"key", record)
        await store.set(b"key", record)
        assert await store.get(b"key") == record
        methods = [request.split()[0] for request in server.requests]
        assert methods == [b"PUT", b"HEAD", b"PUT", b"PUT", b"GET"]


async def test_a_node_with_its_own_clock_keeps_versions_all_the_same() -> None:
    now = b"Wed, 25 Nov 2026 19:14:34 GMT"
    texts = [CREATED, shown(4, now), CREATED, shown(4, now)]
    served = answer(b"200 OK", b"body", b"Last-Modified: " + now)
    changed = answer(b"200 OK", b"ydob", b"Last-Modified: " + DATE)
    async with scripted([*texts, served, shown(4, now), changed]) as (store, _):
        record = new_record(b"body", VERSION + 5, {"a": "b"})
        await store.set(b"key", record)
        assert await store.get(b"key") == record
        assert await store.head(b"key") == record.head
        read = await store.get(b"key")
        assert read is not None
        assert (read.head.version, read.head.metadata, read.body) == (VERSION, {}, b"ydob")


UNSURE = answer(b"504 Gateway Timeout")


async def test_a_node_that_cannot_tell_takes_a_write() -> None:
    """Those behind it do not answer: that is no reason not to give it a file."""
    texts = [UNSURE, UNSURE, UNSURE, CREATED, shown(4, LONG_AGO), CREATED]
    async with scripted(texts) as (store, server):
        for ask in (store.get, store.head):
            with pytest.raises(CannotTell):
                await ask(b"key")
        assert await store.set_newest(b"key", new_record(b"body", VERSION)) is None
        assert server.bodies[-1] == b"body"


async def test_a_node_that_cannot_tell_is_told_of_a_deletion() -> None:
    deleted = Record(Head(VERSION, 0, digest_of(b""), Kind.TOMBSTONE), b"")
    async with scripted([UNSURE, UNSURE, ABSENT, ABSENT]) as (store, server):
        assert await store.set_newest(b"key", deleted) is None
        assert [request.split()[0] for request in server.requests] == [b"HEAD", b"HEAD", b"DELETE"]
        assert await store.get(b"key") == deleted


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_what_fails_behind_a_node_may_have_been_done(method: str) -> None:
    record = new_record(b"body", VERSION)
    deleted = Record(Head(VERSION, 0, digest_of(b""), Kind.TOMBSTONE), b"")
    async with scripted([*([shown(4)] if method == "DELETE" else []), UNSURE]) as (store, _):
        with pytest.raises(Unreachable) as caught:
            await store.set(b"key", record if method == "PUT" else deleted)
        assert caught.value.applied is None


def of_sfss(body: bytes, version: int) -> bytes:
    """Return what another sfss answers to a GET."""
    etag = digest_of(body).hex().encode()
    return file(body, b"X-Sfss-Version: %d" % version, b'ETag: "%b"' % etag)


async def test_another_sfss_tells_the_whole_head() -> None:
    text = of_sfss(b"body", VERSION + 7)
    async with scripted([text, text.removesuffix(b"body")]) as (store, _):
        record = new_record(b"body", VERSION + 7)
        assert await store.get(b"key") == record
        assert await store.head(b"key") == record.head


async def test_a_mark_is_not_of_a_file_with_another_digest() -> None:
    """Of one size, and of one second: what somebody else has put there is not damaged."""
    async with scripted([of_sfss(b"BODY", VERSION + 7)] * 2) as (store, _):
        await store._marks.set(b"key", new_record(b"body", VERSION).head)
        assert await store.get(b"key") == new_record(b"BODY", VERSION + 7)


async def test_damage_on_the_way_from_another_sfss_is_seen() -> None:
    damaged = of_sfss(b"body", VERSION + 7).replace(b"\r\n\r\nbody", b"\r\n\r\nbodY")
    async with scripted([damaged]) as (store, _):
        with pytest.raises(Corrupt):
            await store.get(b"key")


ODD = {
    "no digest": (b"X-Sfss-Version: 5",),
    "no version": (b'ETag: "%b"' % (b"a" * 32),),
    "too long": (b"X-Sfss-Version: " + b"9" * 20, b'ETag: "%b"' % (b"a" * 32)),
    "of nginx": (b"X-Sfss-Version: 5", b'ETag: "65e0-4"'),
    "negative": (b"X-Sfss-Version: -5", b'ETag: "%b"' % (b"a" * 32)),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_is_told_in_other_words_is_not_believed(name: str) -> None:
    async with scripted([file(b"body", *ODD[name])]) as (store, _):
        read = await store.get(b"key")
        assert read is not None
        assert (read.head.version, read.body) == (VERSION, b"body")


async def test_what_the_node_does_not_show_is_not_kept() -> None:
    for text in (ABSENT[: ABSENT.index(b"<")].replace(b"6", b"0"), shown(5)):
        async with scripted([CREATED, text]) as (store, _):
            with pytest.raises(Unreachable) as caught:
                await store.set(b"key", new_record(b"body", VERSION))
            assert caught.value.applied is None


async def test_a_torn_read_is_read_again() -> None:
    old, new = new_record(b"old!", VERSION), new_record(b"new!", VERSION)
    async with scripted([file(old.body), file(new.body)]) as (store, _):  # type: ignore[arg-type]
        await store._marks.set(b"key", new.head)
        assert await store.get(b"key") == new


async def test_what_is_damaged_twice_is_damaged() -> None:
    async with scripted([file(b"BODY"), file(b"BODY")]) as (store, _):
        await store._marks.set(b"key", new_record(b"body", VERSION).head)
        with pytest.raises(Corrupt):
            await store.get(b"key")


async def test_a_deletion_never_takes_a_folder() -> None:
    moved = b"HTTP/1.1 301 Moved\r\nLocation: /files/key/\r\nContent-Length: 0\r\n\r\n"
    async with scripted([moved]) as (store, server):
        assert await store.delete(b"key") is False
        assert server.requests == [b"HEAD /files/key HTTP/1.1"]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host:80",
        "https://host/",
        "http://",
        "http:///path",
        "http://host:x/",
        "http://host:99999/",
        "http://user:word@host/",
        "http://host/?a",
        "http://host/#a",
        "http://host/a b",
        "http://host/\r\nX: y",
        "http://host/ä",
        "http://host/%zz",
        "http://ho st/",
    ],
)
async def test_what_is_no_address(address: str) -> None:
    with pytest.raises(SettingError):
        open_store(address)


async def viewed(store: WebdavStore, key: bytes) -> tuple[Buffer | None, Form]:
    """Return what a view shows."""
    shown: asyncio.Future[tuple[Buffer | None, Form]] = asyncio.get_running_loop().create_future()
    assert store.view(key, lambda item, form: shown.set_result((item, form)))
    return await shown


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_view_shows_nothing_that_is_malformed(name: str) -> None:
    async with scripted([MALFORMED[name]], timeout_s=0.4) as (store, _):
        await store._marks.set(b"key", new_record(b"body", VERSION).head)
        assert await viewed(store, b"key") == (None, Form.RAW)


async def test_a_view_shows_nothing_that_is_long_or_raw_or_absent() -> None:
    long = b"x" * 2 * MIB
    async with scripted([file(b"raw"), ABSENT, file(long)], [file(b"body")]) as (store, _):
        record = new_record(b"body", VERSION)
        await store._marks.set(b"key", record.head)
        for _ in range(3):
            assert await viewed(store, b"key") == (None, Form.RAW)
        item, _ = await viewed(store, b"key")
        assert item is not None
        assert decode(item, "", b"") == record


async def test_whoever_views_and_fails_harms_nobody() -> None:
    def fail(_: Buffer | None, __: bool) -> None:
        raise ValueError

    async with scripted([file(b"1"), file(b"2")]) as (store, server):
        await store._marks.set(b"key", new_record(b"1", VERSION).head)
        assert store.view(b"key", fail)
        read = await store.get(b"key")
        assert read is not None
        await until(lambda: len(server.requests) == 2, "both were asked")


CANCEL_STEPS = 30


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_cancelled_get_harms_nobody(node: Server, size: int) -> None:
    store = open_store(f"http://{node.address}/cancelled-{size}/", connections=2)
    records = [new_record(bytes([number]) * size, VERSION + number) for number in range(3)]
    for number, record in enumerate(records):
        await store.set(b"%d" % number, record)
    for steps in range(CANCEL_STEPS):
        operation = asyncio.ensure_future(store.get(b"0"))
        others = [asyncio.ensure_future(store.get(b"%d" % number)) for number in (1, 2)]
        await asyncio.sleep(steps * 0.0002)
        operation.cancel()
        for record, other in zip(records[1:], others, strict=True):
            read = await other
            assert read is not None
            assert (read.head, held(read.body)) == (record.head, record.body)
        await asyncio.gather(operation, return_exceptions=True)
    await store.close()


async def test_a_cancelled_set_of_a_long_body_leaves_what_was_there(node: Server) -> None:
    store = open_store(f"http://{node.address}/cancelled-set/", connections=2)
    old = new_record(b"old", VERSION)
    for steps in range(CANCEL_STEPS):
        await store.set(b"key", old)
        new = new_record(bytes([steps]) * 8 * MIB, VERSION + 1)
        operation = asyncio.ensure_future(store.set(b"key", new))
        await asyncio.sleep(steps * 0.0005)
        operation.cancel()
        await asyncio.gather(operation, return_exceptions=True)
        read = await store.get(b"key")
        assert read is not None
        assert held(read.body) in (b"old", new.body)
    await store.close()


async def test_a_node_that_is_killed_and_started_again(tmp_path: Path) -> None:
    with running(nginx_node(tmp_path)) as server:
        store = open_store(f"http://{server.address}/")
        record = new_record(b"body", VERSION)
        await store.set(b"key", record)
        await asyncio.gather(*(store.get(b"key") for _ in range(4)))
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unreachable):
            await store.get(b"key")
        await asyncio.to_thread(server.start)
        assert await store.get(b"key") == record
        await store.close()


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_a_node_that_stops_within_a_long_body(tmp_path: Path, fault: str) -> None:
    with running(nginx_node(tmp_path)) as server:
        store = open_store(f"http://{server.address}/", timeout_s=0.5)
        body = bytes(range(256)) * 256 * 1024
        (nginx_root(server) / "long").write_bytes(body)
        reading = asyncio.ensure_future(store.get(b"long"))
        await until(lambda: any(pool_has_stream(store)), "the answer has begun")
        await asyncio.to_thread(getattr(server, fault))
        with suppress(Unreachable):
            read = await reading  # all of it may be on its way already
            assert read is not None
            assert held(read.body) == body
        if fault == "pause":
            with pytest.raises(Unreachable):
                await store.set(b"another", new_record(b"x" * 8 * MIB, VERSION))
        await store.close()


def begun_answers(store: WebdavStore) -> Iterator[bool]:
    """Yield of each connection that is waited for whether it has said anything."""
    return (connection._begun for connection in store._node.pool._busy)


def pool_has_stream(store: WebdavStore) -> Iterator[bool]:
    """Yield of each connection whether a long answer comes on it."""
    return (connection._stream is not None for connection in store._node.pool._busy)


async def test_close_waits_for_what_was_begun(node: Server) -> None:
    store = open_store(f"http://{node.address}/closing/")
    record = new_record(b"body" * MIB, VERSION)
    await store.set(b"key", record)
    operation = asyncio.ensure_future(store.get(b"key"))
    await asyncio.sleep(0)  # until the request has gone out
    assert store._node.pool._busy
    await store.close()
    read = await operation
    assert read is not None
    assert held(read.body) == record.body
    with pytest.raises(Unreachable):
        await store.get(b"key")


async def test_a_listing_that_is_none() -> None:
    html = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n"
    async with scripted([html, answer(b"405 Not Allowed")]) as (store, _):
        with pytest.raises(CannotList):
            await store.children(b"", b"", 1)


JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    "body", [b"{}", b"[1]", b'[{"name":1}]', b"[", b'[{"name":"a","type":"file"}]', b"[" * 100_000]
)
async def test_a_listing_that_is_malformed(body: bytes) -> None:
    listing = answer(b"200 OK", body, b"Content-Type: application/json")
    async with scripted([JSON, listing]) as (store, _):
        with pytest.raises(Unreachable):
            await store.children(b"", b"", 1)


@pytest.mark.parametrize("status, found", [(b"404 Not Found", True), (b"500 Oh", False)])
async def test_a_folder_that_is_not_there_is_empty(status: bytes, found: bool) -> None:
    async with scripted([JSON, answer(status)]) as (store, _):
        if found:
            assert await store.children(b"a/", b"", 1) == []
        else:
            with pytest.raises(Unreachable):
                await store.children(b"a/", b"", 1)


async def test_a_tombstone_is_no_file_and_a_mark() -> None:
    gone = Record(Head(VERSION, 0, digest_of(b""), Kind.TOMBSTONE), b"")
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n"
    async with scripted([head, ABSENT, file(b"back")]) as (store, _):
        await store.set(b"key", gone)
        assert await store.get(b"key") == gone
        read = await store.get(b"key")
        assert read is not None
        assert held(read.body) == b"back"


@asynccontextmanager
async def processes(node: Server, folder: Path) -> AsyncIterator[list[WebdavStore]]:
    """Run the stores of two processes that share marks, as the workers of a gateway do."""
    address, shared = f"http://{node.address}/{uuid4().hex}/", ViewableDict()
    locks = [KeyLocks.on(folder / "locks") for _ in range(2)]
    stores = [
        WebdavStore(address, Marks(shared, address), WebdavSettings(), locks=each) for each in locks
    ]
    try:
        yield stores
    finally:
        for store, own in zip(stores, locks, strict=True):
            await store.close()
            own.close()


async def test_an_older_write_of_another_process_does_not_come_between(
    node: Server, tmp_path: Path
) -> None:
    async with processes(node, tmp_path) as (here, there):
        for number in range(30):
            key = b"%d" % number
            old, new = (new_record(body, VERSION + at) for at, body in ((0, b"old"), (1, b"newer")))
            await asyncio.gather(here.set_newest(key, old), there.set_newest(key, new))
            for store in (here, there):
                found = await store.get(key)
                assert found is not None
                assert (found.head, found.body) == (new.head, b"newer")


async def test_a_read_waits_for_a_write_of_another_process(node: Server, tmp_path: Path) -> None:
    async with processes(node, tmp_path) as (here, there):
        for number in range(30):
            key = b"read %d" % number
            record = new_record(b"body", VERSION + number)
            writing = asyncio.ensure_future(here.set(key, record))
            while not writing.done():
                found = await there.head(key)
                assert found is None or found == record.head
            assert await there.head(key) == record.head


async def test_a_process_that_stands_still_is_waited_for_only_so_long(
    node: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfss.stores.webdav._TURN_PATIENCE_S", 0.05)
    async with processes(node, tmp_path) as (here, there):
        async with here._turn(b"held"):
            with pytest.raises(Unreachable, match="another process") as caught:
                await there.set(b"held", new_record(b"body", VERSION))
            assert caught.value.applied is False
        await there.set(b"held", new_record(b"body", VERSION))
