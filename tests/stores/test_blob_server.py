"""A store on blob servers of SOS: on such as have HEAD and DELETE, and such as have not."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sfss.agreement import rank, tombstone
from sfss.asking import FORWARDED
from sfss.blob_ids import path_of
from sfss.config import WebdavSettings
from sfss.errors import (
    BadPath,
    CannotList,
    CannotTell,
    Corrupt,
    SettingError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.items import unique_of
from sfss.record import Content, Head, Record, digest_of, held, new_record, record_of
from sfss.stores.base import unless_newer
from sfss.stores.blob_server import BlobServerStore
from sfss.stores.marks import Marks
from tests.servers import Gateway, running
from tests.sos_server import FIELDS, folder_of, sos_server
from tests.stores.dict_store import DictStore
from tests.stores.scripted import CLOSE, Script, ScriptedHttpServer

KINDS = {
    "bare": (),
    "first": ("--keeps-first",),
    "head": ("--head", "--keeps-first"),
    "delete": ("--delete",),
    "all": ("--head", "--delete"),
}
NAMES = {
    "Content-Type": "text/plain",
    "X-Mime-Type": "text/css",
    "X-Größe": "\x00\n\u2028",
    "X-Name": "größe",
    "X-Odd_name": "a",
    "X-Empty": "",
    "X-Sfss": "mine",
    "Blob": "b",
}


class Place:
    """A server, and a store on it."""

    def __init__(self, server: Gateway) -> None:
        self.server, self.has_delete = server, "--delete" in server.command
        self.folder = folder_of(server)
        self.address = f"blobs:http://{server.address}/"
        self.marks = Marks(DictStore(), self.address)
        self.store = self.open(self.marks)

    def open(self, marks: Marks | None = None) -> BlobServerStore:
        """Return a store on it, as another gateway has it without ``marks``."""
        return BlobServerStore(
            self.address, marks or Marks(DictStore(), self.address), WebdavSettings()
        )

    def post(self, body: bytes, blob_id: str = "", **fields: str) -> bytes:
        """Have the server keep a blob as a client of SOS does; return its key."""
        names = {name.replace("_", "-"): text for name, text in fields.items()}
        blob_id = blob_id or hashlib.sha1(body).hexdigest()
        assert self.server.request("POST", f"/blob/{blob_id}", body, names).status == 200
        return path_of(blob_id).encode()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Gateway]]:
    """Start a server of a kind when it is first asked for."""
    folder = tmp_path_factory.mktemp("servers")
    started: dict[str, Gateway] = {}
    with ExitStack() as stack:

        def start(kind: str) -> Gateway:
            if kind not in started:
                started[kind] = stack.enter_context(running(sos_server(folder, *KINDS[kind])))
            return started[kind]

        yield start


@pytest.fixture(params=KINDS)
async def place(
    request: pytest.FixtureRequest, servers: Callable[[str], Gateway]
) -> AsyncIterator[Place]:
    place = Place(servers(request.param))
    yield place
    await place.store.close()


@pytest.fixture
async def full(servers: Callable[[str], Gateway]) -> AsyncIterator[Place]:
    """A place with all that a server may have."""
    place = Place(servers("all"))
    yield place
    await place.store.close()


def key_of(body: bytes, kind: str = "sha1") -> bytes:
    return path_of(hashlib.new(kind, body).hexdigest()).encode()


def body_of(record: Record | None) -> bytes:
    assert record is not None
    return bytes(held(record.body))


async def stamps_of(store: BlobServerStore) -> dict[bytes, int | None]:
    found: dict[bytes, int | None] = {}
    async for batch in store.keys():
        found.update(batch)
    return found


async def in_list(store: BlobServerStore, key: bytes) -> bool:
    name = key.rpartition(b"/")[2]
    return name in [child.name for child in await store.children(key[: -len(name)], b"", 10_000)]


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
async def test_a_blob_is_kept_with_all_of_its_head(place: Place, kind: str) -> None:
    body = f"{place.address} {kind}".encode() * 100
    key = key_of(body, kind)
    written = record_of(Content(body, names=NAMES, ttl_s=1000), 1_700_000_000_000_123)
    await place.store.set(key, written)
    for store in (place.store, place.open()):
        assert await store.head(key) == written.head
        read = await store.get(key)
        assert read is not None
        assert (read.head, bytes(held(read.body))) == (written.head, body)
        await store.close()
    kept = place.server.request("GET", f"/blob/{key.decode()[9:]}")
    assert kept.body == body
    assert kept.headers["x-mime-type"] == "text/css"
    assert kept.headers["x-odd-name" if "x-odd-name" in kept.headers else "x-odd_name"] == "a"


async def test_large_blobs(place: Place) -> None:
    body = bytes(range(256)) * 12_000
    key = key_of(body)
    await place.store.set(key, new_record(body, 5))
    assert body_of(await place.store.get(key)) == body
    assert await place.store.head(key) == new_record(body, 5).head


async def test_what_clients_of_sos_have_written(place: Place) -> None:
    body = b"as SOS has it " + place.address.encode()
    key = place.post(body, x_mime_type="text/plain", X_Two="a, b")
    expected = Head(
        0, len(body), digest_of(body), metadata={"X-Mime-Type": "text/plain", "X-Two": "a, b"}
    )
    assert await place.store.head(key) == expected
    read = await place.store.get(key)
    assert read is not None
    assert (read.head, body_of(read)) == (expected, body)
    assert await in_list(place.store, key)
    assert (await stamps_of(place.store))[key] == unique_of(expected)
    other = place.open()
    assert (await stamps_of(other))[key] is None
    await other.close()


async def test_a_raw_blob_is_copied_as_it_is(place: Place, full: Place) -> None:
    body = b"copied " + place.address.encode()
    key = full.post(body, x_mime_type="text/plain")
    record = await full.store.get(key)
    assert record is not None
    assert await place.store.set_newest(key, record) is None
    assert await place.store.head(key) == record.head
    assert not [name for name, _ in fields_at(place, key) if "sfss" in name.lower()]


def fields_at(place: Place, key: bytes) -> list[list[str]]:
    found: list[list[str]] = json.loads((place.folder / (key.decode()[9:] + FIELDS)).read_text())
    return found


async def test_a_raw_blob_that_is_uploaded_again_has_its_new_head(place: Place) -> None:
    body = b"again " + place.address.encode()
    key = place.post(body, x_name="first")
    record = new_record(body, 1_700_000_000_000_000, {"X-Name": "second"})
    assert await place.store.set_newest(key, record) is None
    assert await place.store.head(key) == record.head
    read = await place.store.get(key)
    assert read is not None
    assert read.head == record.head
    older = new_record(body, 1_600_000_000_000_000)
    assert await place.store.set_newest(key, older) == record.head
    assert (await stamps_of(place.store))[key] == unique_of(record.head)


async def test_a_deletion_is_remembered(place: Place) -> None:
    body = b"deleted " + place.address.encode()
    key = key_of(body)
    record = new_record(body, 1_700_000_000_000_000)
    await place.store.set(key, record)
    gone = tombstone(1_700_000_000_000_001)
    assert await place.store.set_newest(key, gone) is None
    assert await place.store.get(key) == gone
    assert await place.store.head(key) == gone.head
    assert not await in_list(place.store, key)
    assert (await stamps_of(place.store))[key] == unique_of(gone.head)
    assert (place.folder / key.decode()[9:]).exists() is not place.has_delete
    assert await place.store.set_newest(key, record) == gone.head
    # Forgotten, it is not to be seen again.
    assert await place.store.delete(key, unless_newer(gone.head)) is True
    assert await place.store.get(key) is None
    assert await place.store.head(key) is None
    assert not await in_list(place.store, key)
    assert key not in await stamps_of(place.store)
    assert await place.store.delete(key) is (not place.has_delete)
    assert await place.store.get(key) is None
    # Until it is uploaded again.
    later = new_record(body, 1_700_000_000_000_002)
    assert await place.store.set_newest(key, later) is None
    assert await place.store.head(key) == later.head
    assert body_of(await place.store.get(key)) == body


async def test_a_raw_blob_is_deleted(place: Place) -> None:
    body = b"raw and deleted " + place.address.encode()
    key = place.post(body)
    gone = tombstone(1_700_000_000_000_001)
    assert await place.store.set_newest(key, gone) is None
    assert await place.store.head(key) == gone.head
    assert await place.store.delete(key) is True
    assert await place.store.head(key) is None
    place.post(body)
    # Where it never went, nobody can tell that it was put there again.
    assert (await place.store.head(key) is not None) is place.has_delete


async def test_a_blob_that_was_put_there_again_counts(full: Place) -> None:
    body = b"put there again"
    key = full.post(body)
    gone = tombstone(1_700_000_000_000_001)
    await full.store.set_newest(key, gone)
    full.post(body)
    assert (await full.store.head(key)) == Head(0, len(body), digest_of(body))


async def test_what_is_damaged_is_never_served_and_can_be_mended(place: Place) -> None:
    body = b"damaged " + place.address.encode()
    key = key_of(body)
    record = new_record(body, 7)
    for write in (place.store.set, place.store.set_newest):
        place.post(b"wrong bytes", key.decode()[9:])
        if (place.folder / key.decode()[9:]).read_bytes() == body:  # it keeps what it has
            (place.folder / key.decode()[9:]).write_bytes(b"wrong bytes")
        store = place.open(place.marks)
        with pytest.raises(Corrupt):
            await store.get(key)
        if place.has_delete or "--keeps-first" not in place.server.command:
            await write(key, record)
            assert body_of(await store.get(key)) == body
        else:
            with pytest.raises(Corrupt):
                await write(key, record)
        await store.close()


async def test_only_blobs_are_kept(full: Place) -> None:
    for key in (
        b"a",
        b"blobs/ab",
        b"blobs/ab/cd",
        b"blobs/AB/ABC",
        b"blobs/ab/ab-c",
        b"\xff",
        b"",
        path_of("a" * 300).encode(),
        b"\0chunk",
        b"blobs/ab/abc/x",
    ):
        for refused in (
            full.store.get(key),
            full.store.head(key),
            full.store.set(key, new_record(b"", 1)),
            full.store.set_newest(key, new_record(b"", 1)),
            full.store.delete(key),
        ):
            with pytest.raises(BadPath, match="nothing but blobs"):
                await refused


async def test_listing_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(sos_server(tmp_path, "--head", "--delete")) as server:
        place = Place(server)
        store = place.store
        assert await store.scan(b"", b"", 10) == []
        assert await store.children(b"", b"", 10) == []
        assert await stamps_of(store) == {}
        bodies = [b"%d" % number for number in range(60)]
        keys = sorted(key_of(body) for body in bodies)
        await asyncio.gather(*(store.set(key_of(body), new_record(body, 3)) for body in bodies))
        keys.append(place.post(b"odd", "zz"))
        keys.append(place.post(b"odd", "z"))
        keys.sort()
        for held_ids in (65_536, 7):
            monkeypatch.setattr("sfss.stores.blob_listing.HELD_IDS", held_ids)
            found = await store.scan(b"blobs/", b"", 1000)
            assert [entry.key for entry in found] == keys
            paged: list[bytes] = []
            while page := await store.scan(b"", paged[-1] if paged else b"", 5):
                paged += [entry.key for entry in page]
            assert paged == keys
            assert [entry.key for entry in await store.scan(keys[3], b"", 5)] == [keys[3]]
            assert await store.scan(b"other", b"", 5) == []
            assert await store.children(b"blobs/zz/zz/", b"", 5) == []
            assert set(await stamps_of(store)) == set(keys)
        assert {entry.head.version for entry in found} == {0, 3}
        await store.delete(keys[0])
        assert [entry.key for entry in await store.scan(b"", b"", 2)] == keys[1:3]
        await store.close()


async def test_the_client_is_not_kept_with_a_blob(full: Place) -> None:
    FORWARDED.set(b"X-Forwarded-For: 192.0.2.1\r\n")
    key = key_of(b"for somebody")
    await full.store.set(key, new_record(b"for somebody", 1))
    assert [name for name, _ in fields_at(full, key)] == ["X-Sfss"]


def test_addresses() -> None:
    for address in ("blobs:ftp://a/", "blobs:a:80", "blobs:"):
        with pytest.raises(SettingError):
            BlobServerStore(address, Marks(DictStore(), address), WebdavSettings())


# Servers that answer otherwise than they should.


def answer(status: str, body: bytes = b"", *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 %b" % status.encode(), b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Scripted:
    """A store on a server that answers as a script has it."""

    def __init__(self, *scripts: Script) -> None:
        self.server = ScriptedHttpServer(*scripts)

    async def __aenter__(self) -> BlobServerStore:
        await self.server.__aenter__()
        address = f"blobs:http://{self.server.address}/"
        settings = WebdavSettings(timeout_s=0.3)
        self.store = BlobServerStore(address, Marks(DictStore(), address), settings)
        return self.store

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        await self.server.__aexit__()


BODY = b"the body"
KEY = key_of(BODY)
WRONG = {
    "an error that says 200": (answer("200 OK", b"open data/ab: no such file"), Corrupt),
    "another blob": (answer("200 OK", b"x" * len(BODY)), Corrupt),
    "no bytes": (answer("200 OK"), Corrupt),
    "500": (answer("500 Internal Server Error", b"disk"), Unreachable),
    "503": (answer("503 Service Unavailable"), Unreachable),
    "403": (answer("403 Forbidden"), Unreachable),
    "a redirect": (answer("302 Found", b"", b"Location: /blob/"), Unreachable),
    "a part": (answer("206 Partial Content", BODY), Unreachable),
    "others do not answer": (answer("504 Gateway Timeout"), CannotTell),
    "cut off": (answer("200 OK", BODY)[:-1], Unreachable),
    "cut off in the head": (answer("200 OK", BODY)[:20], Unreachable),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, Unreachable),
    "a head without end": (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000, Unreachable),
    "too many names": (
        answer("200 OK", BODY, *(b"X-%d: %b" % (n, b"a" * 1000) for n in range(80))),
        Unreachable,
    ),
    "not HTTP": (b"yes\r\n\r\n", Unreachable),
    "nothing": (CLOSE, Unreachable),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_answers_to_a_read(wrong: str) -> None:
    said, expected = WRONG[wrong]
    async with Scripted([said]) as store:
        with pytest.raises(expected):
            await store.get(KEY)
    head = said if said is None else said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    async with Scripted([head, said], [said]) as store:
        with pytest.raises((expected, Unreachable)):
            await store.head(KEY)


async def test_absent_is_only_what_says_so() -> None:
    for status in ("404 Not Found", "410 Gone"):
        async with Scripted([answer(status, b"404 page not found\n")] * 2) as store:
            assert await store.get(KEY) is None
        async with Scripted([answer(status), answer(status, b"404 page not found\n")]) as store:
            assert await store.head(KEY) is None


async def test_a_server_without_head_that_says_404_to_it() -> None:
    absent, there = answer("404 Not Found"), answer("200 OK", BODY)
    async with Scripted([absent, there, there, there]) as store:
        assert await store.head(KEY) == Head(0, len(BODY), digest_of(BODY))


@pytest.mark.parametrize("fields", [(b"X-Sfss: ?",), (b"X-Sfss: AAAA",), (b"X-Sfss: ",)])
async def test_a_head_that_cannot_be_read_is_none(fields: tuple[bytes, ...]) -> None:
    async with Scripted([answer("200 OK", BODY, *fields)]) as store:
        record = await store.get(KEY)
        assert record is not None
        assert record.head == Head(0, len(BODY), digest_of(BODY))


REFUSED = {
    "413 Content Too Large": (TooLarge, "-"),
    "431 Request Header Fields Too Large": (TooLarge, "-"),
    "507 Insufficient Storage": (StoreFull, "-"),
    "500 Internal Server Error": (Unreachable, None),
    "400 Bad Request": (Unreachable, False),
}


@pytest.mark.parametrize("status", REFUSED)
async def test_a_blob_that_is_refused(status: str) -> None:
    kind, applied = REFUSED[status]
    absent = answer("404 Not Found")
    async with Scripted([absent, absent, answer(status)]) as store:
        with pytest.raises(kind) as caught:
            await store.set(KEY, new_record(BODY, 1))
        if isinstance(caught.value, Unreachable):
            assert caught.value.applied is applied


async def test_a_blob_that_is_taken_and_not_shown() -> None:
    absent = answer("404 Not Found")
    async with Scripted(
        [absent, absent, answer("200 OK", b"error: disk full"), *[absent] * 9]
    ) as store:
        with pytest.raises((Unreachable, Corrupt)) as caught:
            await store.set(KEY, new_record(BODY, 1))
        assert getattr(caught.value, "applied", None) is None


async def test_a_server_that_is_lost_after_the_upload() -> None:
    absent = answer("404 Not Found")
    async with Scripted([absent, absent, answer("200 OK"), CLOSE], [CLOSE]) as store:
        with pytest.raises(Unreachable) as caught:
            await store.set(KEY, new_record(BODY, 1))
        assert caught.value.applied is None


LISTS = {
    "cut off": answer("200 OK", b'["ab"')[:-1],
    "not ended": answer("200 OK", b'["ab",'),
    "no list": answer("200 OK", b'{"ab": 1}'),
    "a text": answer("200 OK", b"internal error"),
    "numbers": answer("200 OK", b"[1, 2]"),
    "more behind it": answer("200 OK", b'["ab"]["cd"]'),
    "500": answer("500 Internal Server Error", b"[]"),
    "nothing": answer("200 OK"),
    "one long text": answer("200 OK", b'["' + b"a" * 100_000 + b'"'),
}


@pytest.mark.parametrize("wrong", LISTS)
async def test_lists_that_are_not_whole(wrong: str) -> None:
    async with Scripted([LISTS[wrong]]) as store:
        with pytest.raises(Unreachable):
            await store.scan(b"", b"", 10)
    async with Scripted([LISTS[wrong]]) as store:
        found = []
        with pytest.raises(Unreachable):
            async for batch in store.keys():
                found.append(batch)
        assert found == []


async def test_a_server_that_does_not_list() -> None:
    for status in ("404 Not Found", "501 Not Implemented"):
        async with Scripted([answer(status)]) as store:
            with pytest.raises(CannotList):
                await store.scan(b"", b"", 10)


async def test_a_server_that_is_not_alive() -> None:
    async with Scripted([answer("500 Internal Server Error")]) as store:
        with pytest.raises(Unreachable):
            await store.stats()
    async with Scripted([]) as store:
        with pytest.raises(Unreachable, match=r"0\.3 s"):
            await store.stats()


async def test_a_raw_blob_has_one_rank_on_all_servers(servers: Callable[[str], Gateway]) -> None:
    heads: list[Head | None] = []
    for kind in KINDS:
        place = Place(servers(kind))
        key = place.post(b"everywhere", x_a="b")
        heads.append(await place.store.head(key))
        await place.store.close()
    assert len({repr(rank(head)) for head in heads if head is not None}) == 1
