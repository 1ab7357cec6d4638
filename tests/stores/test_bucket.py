"""Objects in a bucket of a real S3 server: what others put there, deletions, faults, long lists."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from sfss.config import BucketSettings
from sfss.errors import (
    BadPath,
    CannotList,
    Corrupt,
    PathTaken,
    SfssError,
    TooLarge,
    Unreachable,
)
from sfss.items import unique_of
from sfss.record import Head, Kind, Record, digest_of, encode_head, held, new_record
from sfss.spool import Spool
from sfss.stores import bucket_listing
from sfss.stores.bucket import BucketStore
from sfss.stores.bucket_client import reason_of
from sfss.stores.key_locks import KeyLocks
from sfss.stores.plain_heads import is_raw
from tests.servers import SECRET, S3Server, free_port, running, s3, versitygw, wait_until

VERSION = 1_700_000_000_123_456
MIB = 1024 * 1024
TOMBSTONE = Record(Head(VERSION + 9, 0, digest_of(b""), Kind.TOMBSTONE), b"")
NAMES = [
    "a b/c d",
    "-rf",
    "100%",
    "a%20b",
    "%41",
    "a#b?c&d=e;f",
    "a+b~c@d:e,f",
    "[a]{b}(c)<d>|^`$!",
    "*'\"",
    "日本/ü ñ.txt",
    "\u2028 ",
    "@x",
    "~",
    "x" * 255,
    "/".join(["y" * 100] * 9),
]


class Place:
    """A bucket of its own on the server, and a store over it."""

    def __init__(self, server: S3Server, prefix: str = "/top") -> None:
        self.server, self.bucket = server, uuid4().hex
        server.make_bucket(self.bucket)
        self.address = f"s3://{self.bucket}{prefix}"
        self.top = f"{self.bucket}{prefix}/"
        self.store = self.open()

    def open(self, timeout_s: float = 30.0, locks: KeyLocks | None = None) -> BucketStore:
        """Return another store over the same."""
        return BucketStore(self.address, settings_for(self.server, timeout_s), locks=locks)

    def put(self, name: str, body: bytes, **fields: str) -> None:
        """Put an object there as another program."""
        headers = {name.replace("_", "-"): text for name, text in fields.items()}
        self.server.put(self.top + name, body, headers)


def settings_for(server: S3Server, timeout_s: float = 30.0) -> BucketSettings:
    """Return settings for a bucket on ``server``."""
    return BucketSettings(endpoint=server.url, allow_http=True, timeout_s=timeout_s)


@pytest.fixture(name="server", scope="module", params=[s3, versitygw])
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    """Two servers that all tests of this module share, but for those that harm them."""
    with running(request.param(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(name="own")
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A server of its own."""
    with running(s3(tmp_path)) as server:
        yield server


@pytest.fixture(name="place")
async def own_place(server: S3Server) -> AsyncIterator[Place]:
    """A bucket that no other test uses."""
    place = Place(server)
    yield place
    await place.store.close()


async def keys_of(store: BucketStore) -> dict[bytes, int | None]:
    """Return all keys that the store tells, with their stamps."""
    listed: dict[bytes, int | None] = {}
    async for batch in store.keys():
        listed.update(batch)
    return listed


def body_of(record: Record | None) -> bytes | None:
    """Return the body as bytes, None for no record."""
    return None if record is None else bytes(held(record.body))


@pytest.mark.parametrize("name", NAMES)
async def test_odd_names_are_those_of_the_objects(place: Place, name: str) -> None:
    key = name.encode()
    await place.store.set(key, new_record(b"body", VERSION))
    assert place.server.get(place.top + name).body == b"body"
    assert body_of(await place.store.get(key)) == b"body"
    assert [entry.key for entry in await place.store.scan(b"", b"", 9)] == [key]
    assert await place.store.scan(b"", key, 9) == []
    assert await place.store.set_newest(key, TOMBSTONE) is None
    assert await place.store.get(key) == TOMBSTONE
    assert set(await keys_of(place.store)) == {key}
    assert await place.store.delete(key)
    assert place.server.keys(place.bucket) == []


@pytest.mark.parametrize("key", [b"", b"/a", b"a//b", b"../a", b"a/.", b".sfss/deleted/a", b"\xff"])
async def test_what_is_no_name_is_refused(place: Place, key: bytes) -> None:
    for refused in (
        place.store.get(key),
        place.store.head(key),
        place.store.set(key, new_record(b"", 1)),
        place.store.set_newest(key, new_record(b"", 1)),
        place.store.delete(key),
    ):
        with pytest.raises(BadPath):
            await refused


async def test_an_object_is_an_ordinary_one_with_its_type(place: Place) -> None:
    names = {"Content-Type": "text/plain; charset=utf-8", "X-A": "ü"}
    await place.store.set(b"a/b.txt", new_record(b"body", VERSION, names))
    answer = place.server.get(f"{place.top}a/b.txt")
    assert (answer.body, answer.headers["content-type"]) == (b"body", names["Content-Type"])
    head = new_record(b"body", VERSION, names).head
    assert base64.b64decode(answer.headers["x-amz-meta-sfss"]) == encode_head(head)


@pytest.mark.parametrize("text", ["", "x\r\ny: z", "ü", "a/b\x00", "x" * 300])
async def test_a_type_that_is_no_field_is_kept_beside(place: Place, text: str) -> None:
    record = new_record(b"body", VERSION, {"Content-Type": text})
    await place.store.set(b"a", record)
    assert await place.store.get(b"a") == record


async def test_many_names_are_kept_beside_the_object(place: Place) -> None:
    record = new_record(b"body", VERSION, {f"X-{number}": "ü" * 100 for number in range(60)})
    assert await place.store.set_newest(b"a", record) is None
    assert await place.store.get(b"a") == record
    assert await place.store.head(b"a") == record.head
    assert [entry.head for entry in await place.open().scan(b"", b"", 9)] == [record.head]
    assert set(await keys_of(place.store)) == {b"a"}
    place.server.delete(f"{place.top}.sfss/names/a")
    with pytest.raises(Corrupt):
        await place.store.get(b"a")
    assert await place.store.set_newest(b"a", record) is None
    assert await place.store.delete(b"a")
    assert place.server.keys(place.bucket) == []


class Labels:
    """Labels that a test has chosen, and reads under another name."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels

    def of(self, path: str, head: Head) -> dict[str, str]:
        """Return the labels."""
        return self.labels

    def read(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the colour of an object."""
        return {"its colour": attributes["colour"]} if "colour" in attributes else {}


async def test_labels_are_there_for_other_programs(place: Place) -> None:
    odd = {
        "a": "ü",
        "b": "x\r\ny: z",
        "C": "c",
        "d e": "d",
        "f": " f",
        "g": "",
        "": "h",
        "sfss": "x",
    }
    labels = {"colour": "red", **odd, "large": "x" * 2000, "last": "y" * 50}
    settings = settings_for(place.server)
    store = BucketStore(place.address, settings, labels=Labels(labels))
    record = new_record(b"body", VERSION, {"Content-Type": "image/png", "name": "n"})
    await store.set(b"a", record)
    assert await store.get(b"a") == record
    assert await place.store.get(b"a") == record
    headers = place.server.get(f"{place.top}a").headers
    found = {name[11:]: headers[name] for name in headers if name.startswith("x-amz-meta-")}
    assert found.pop("sfss")
    assert found == {"colour": "red", "last": "y" * 50}
    place.server.put(f"{place.top}b", b"theirs", {"x-amz-meta-colour": "blue"})
    head = await store.head(b"b")
    assert head is not None
    assert head.metadata == {"its colour": "blue"}
    await store.close()


async def test_what_others_put_there_is_served_as_it_is(place: Place) -> None:
    place.put("a/foreign", b"by others", content_type="image/png")
    record = await place.store.get(b"a/foreign")
    assert record is not None
    assert body_of(record) == b"by others"
    assert is_raw(record.head)
    assert record.head.version % 1_000_000 == 0
    assert record.head.version > VERSION
    assert record.head.metadata == {"Content-Type": "image/png"}
    assert await place.store.head(b"a/foreign") == record.head
    assert [child.head for child in await place.store.children(b"a/", b"", 9)] == [record.head]
    assert await place.store.set_newest(b"a/foreign", new_record(b"old", VERSION)) == record.head
    newer = new_record(b"new", record.head.version + 5)
    assert await place.store.set_newest(b"a/foreign", newer) is None
    assert await place.store.get(b"a/foreign") == newer


async def test_what_others_put_over_ours_is_theirs(place: Place) -> None:
    await place.store.set(b"a", new_record(b"ours", VERSION))
    place.put("a", b"theirs")
    assert body_of(await place.store.get(b"a")) == b"theirs"
    place.server.delete(f"{place.top}a")
    assert await place.store.get(b"a") is None


async def test_a_deletion_is_remembered_in_the_bucket(place: Place) -> None:
    old, other = new_record(b"old", VERSION), place.open()
    await place.store.set(b"a", old)
    assert await place.store.set_newest(b"a", TOMBSTONE) is None
    assert await other.get(b"a") == TOMBSTONE
    assert await other.head(b"a") == TOMBSTONE.head
    assert await other.set_newest(b"a", old) == TOMBSTONE.head
    assert await other.scan(b"", b"", 9) == []
    assert set(await keys_of(other)) == {b"a"}
    newer = new_record(b"new", TOMBSTONE.head.version + 1)
    assert await other.set_newest(b"a", newer) is None
    assert await place.store.get(b"a") == newer
    assert await place.store.set_newest(b"a", TOMBSTONE) == newer.head
    await other.close()


async def test_what_is_no_tombstone_is_none(place: Place) -> None:
    for number, body in enumerate(
        (b"", b"x" * 100, b"x" * 200_000, encode_head(new_record(b"", 1).head))
    ):
        place.put(f".sfss/deleted/{number}", body)
        assert await place.store.get(b"%d" % number) is None


async def test_newest_wins_in_any_order(place: Place) -> None:
    first, second = new_record(b"1", VERSION), new_record(b"2", VERSION + 1)
    assert await place.store.set_newest(b"a", second) is None
    assert await place.store.set_newest(b"a", first) == second.head
    assert await place.store.set_newest(b"a", second) is None
    assert await place.store.get(b"a") == second


async def test_of_two_gateways_the_newest_stays(place: Place) -> None:
    others = [place.open() for _ in range(4)]
    records = [new_record(b"%d" % number, VERSION + number) for number in range(12)]
    writes = [others[number % 4].set_newest(b"a", record) for number, record in enumerate(records)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert all(
        not isinstance(each, BaseException) or isinstance(each, Unreachable) for each in outcomes
    )
    kept = [
        record
        for record, each in zip(records, outcomes, strict=True)
        if not isinstance(each, BaseException)
    ]
    found = await place.store.get(b"a")
    assert found is not None
    assert found.head.version >= max(record.head.version for record in kept)
    for other in others:
        await other.close()


async def test_a_long_body_goes_and_comes_in_parts(place: Place, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(20):
        await spool.write(bytes([number]) * MIB)
    body, digest = await spool.finish()
    record = new_record(body, VERSION, {"Content-Type": "a/b"}, digest)
    assert await place.store.set_newest(b"big", record) is None
    found = await place.store.get(b"big")
    assert found is not None
    assert (found.head, type(found.body)) == (record.head, type(body))
    assert digest_of(held(found.body)) == digest
    assert place.server.get(f"{place.top}big").headers["content-type"] == "a/b"


class Broken:
    """A long body that cannot be read to its end."""

    def __len__(self) -> int:
        return 20 * MIB

    def read(self, start: int, size: int) -> bytes:
        """Return bytes, and fail behind the first part."""
        if start > 9 * MIB:
            raise OSError("the disk is gone")
        return bytes(size)


async def test_a_body_that_cannot_be_read_leaves_what_was_there(place: Place) -> None:
    await place.store.set(b"a", new_record(b"old", VERSION))
    broken = Record(Head(VERSION + 1, 20 * MIB, b"0" * 16), Broken())
    with pytest.raises(Unreachable, match="the disk is gone"):
        await place.store.set_newest(b"a", broken)
    assert body_of(await place.store.get(b"a")) == b"old"
    uploads = place.server.ask("GET", f"/{place.bucket}?uploads").body
    assert b"<Upload>" not in uploads


async def test_a_name_that_the_server_cannot_keep_is_an_error(place: Place) -> None:
    await place.store.set(b"folder/file", new_record(b"1", VERSION))
    for key in (b"folder", b"folder/file/below"):
        for write in (place.store.set, place.store.set_newest):
            try:
                await write(key, new_record(b"2", VERSION))
            except PathTaken as error:
                assert error.path == f"top/{key.decode()}"
                assert await place.store.get(key) is None
            else:
                assert body_of(await place.store.get(key)) == b"2"
    assert body_of(await place.store.get(b"folder/file")) == b"1"


async def test_the_marks_of_folders_are_no_files(place: Place) -> None:
    place.put("a/", b"")
    place.put("a/b", b"1")
    place.put("empty/", b"")
    assert [child.name for child in await place.store.children(b"", b"", 9)] == [b"a/"]
    assert [entry.key for entry in await place.store.scan(b"", b"", 9)] == [b"a/b"]


@pytest.mark.parametrize("name", ["a//b", "a/../b", "a/./b", "a/\x7f"])
async def test_a_name_that_obstore_does_not_take_ends_lists_and_nothing_else(
    place: Place, name: str
) -> None:
    await place.store.set(b"x/y", new_record(b"body", VERSION))
    target = f"/{place.top}" + name.replace("\x7f", "%7F")
    place.server.ask("PUT", target, b"1")
    if f"top/{name}" not in place.server.keys(place.bucket):
        return  # neither does the server
    with pytest.raises(CannotList):
        await place.store.children(b"", b"", 9)
    with pytest.raises(CannotList):
        await keys_of(place.store)
    assert len(await place.store.children(b"x/", b"", 9)) == 1
    assert body_of(await place.store.get(b"x/y")) == b"body"


async def test_pages_of_more_than_a_thousand(place: Place) -> None:
    names = [f"many/{number:04}" for number in range(1030)]
    for name in names:
        place.put(name, b"x")
    for name in ("a", "many.txt", "z/1", "z/2"):
        place.put(name, b"x")
    assert len(await keys_of(place.store)) == 1034
    top = await place.store.children(b"", b"", 99)
    assert [child.name for child in top] == [b"a", b"many.txt", b"many/", b"z/"]
    found = await place.store.children(b"many/", b"", 5)
    assert [child.name for child in found] == [b"%04d" % number for number in range(5)]
    found = await place.store.children(b"many/", b"1000", 99)
    assert [child.name for child in found] == [b"%04d" % number for number in range(1001, 1030)]


async def test_many_large_folders(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_listing, "PAGE_SIZE", 2)
    for folder in "abcdefgh":
        for number in range(4):
            place.put(f"{folder}/{number}", b"x")
        place.put(f"{folder}.txt", b"x")
    expected = [
        name for each in "abcdefgh" for name in (f"{each}.txt".encode(), f"{each}/".encode())
    ]
    for after in [b"", *expected]:
        found = await place.store.children(b"", after, 99)
        assert [child.name for child in found] == [name for name in expected if name > after]


async def test_stamps_are_told_of_what_is_known(place: Place) -> None:
    record = new_record(b"x", VERSION)
    await place.store.set(b"a", record)
    assert await keys_of(place.store) == {b"a": None}
    await place.store.head(b"a")
    assert await keys_of(place.store) == {b"a": unique_of(record.head)}
    await place.open().set(b"a", new_record(b"y", VERSION + 1))
    assert await keys_of(place.store) == {b"a": None}


async def failures_of(store: BucketStore) -> list[str]:
    """Return why nothing can be done, of each operation; fail where something can."""
    reasons = []
    for operation in (
        store.get(b"a"),
        store.get(b"absent"),
        store.head(b"absent"),
        store.set(b"a", new_record(b"x", VERSION + 1)),
        store.set_newest(b"a", new_record(b"x", VERSION + 1)),
        store.set_newest(b"a", TOMBSTONE),
        store.delete(b"a"),
        store.children(b"", b"", 9),
        store.scan(b"", b"", 9),
        keys_of(store),
        store.stats(),
    ):
        with pytest.raises(Unreachable) as caught:
            await operation
        reasons.append(caught.value.reason)
    return reasons


async def test_a_bucket_that_is_not_there_is_unreachable(server: S3Server) -> None:
    store = BucketStore("s3://no-such-bucket/top", settings_for(server))
    assert set(await failures_of(store)) == {"there is no bucket no-such-bucket"}
    await store.close()


async def test_a_server_that_is_not_there_is_unreachable(own: S3Server) -> None:
    place = Place(own)
    await place.store.set(b"a", new_record(b"body", VERSION))
    own.kill()
    await failures_of(place.store)
    own.start()
    own.make_bucket(place.bucket)
    assert await place.store.get(b"a") is None  # a server that keeps all in memory
    await place.store.close()


async def test_a_server_that_stands_still_is_unreachable_and_comes_back(own: S3Server) -> None:
    place = Place(own)
    await place.store.set(b"a", new_record(b"body", VERSION))
    impatient = place.open(timeout_s=0.2)
    own.pause()
    for operation in (
        impatient.get(b"a"),
        impatient.head(b"a"),
        impatient.set_newest(b"b", new_record(b"x", VERSION)),
        impatient.children(b"", b"", 9),
        impatient.stats(),
    ):
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            await operation
    own.resume()
    assert body_of(await place.store.get(b"a")) == b"body"
    await place.store.close()
    await impatient.close()


async def test_more_at_once_than_there_are_connections(place: Place) -> None:
    few = BucketStore(
        place.address, BucketSettings(endpoint=place.server.url, allow_http=True, connections=2)
    )
    await asyncio.gather(*(few.set(b"%d" % number, new_record(b"x", 1)) for number in range(30)))
    assert len(await few.scan(b"", b"", 99)) == 30
    await few.close()


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (
            403,
            b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
            Unreachable,
            "403 Forbidden: AccessDenied: Access Denied",
        ),
        (
            403,
            b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>private</StringToSign></Error>",
            Unreachable,
            "403 Forbidden: SignatureDoesNotMatch",
        ),
        (401, b"", Unreachable, "401 Unauthorized"),
        (500, b"oops", Unreachable, "500 Internal Server Error"),
        (503, b"<Error><Code>SlowDown</Code></Error>", Unreachable, "SlowDown"),
        (400, b"<Error><Code>EntityTooLarge</Code></Error>", TooLarge, ""),
        (301, b"<Error><Code>PermanentRedirect</Code></Error>", Unreachable, ""),
        (200, b"", Unreachable, ""),
    ],
)
async def test_a_refusal_says_why_and_nothing_secret(
    status: int, body: bytes, error: type[SfssError], says: str
) -> None:
    fields = f"Content-Length: {len(body)}\r\nConnection: close"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = BucketSettings(endpoint=f"http://127.0.0.1:{port}", allow_http=True, timeout_s=5.0)
    store = BucketStore("s3://some-bucket", settings)
    for operation in (store.get(b"a"), store.head(b"a"), store.children(b"", b"", 9)):
        with pytest.raises(SfssError) as caught:
            await operation
        if error is not TooLarge:
            assert isinstance(caught.value, Unreachable)
        assert SECRET not in str(caught.value)
        assert "private" not in str(caught.value)
    with pytest.raises(error) as caught:
        await store.set(b"a", new_record(b"x", VERSION))
    assert says in str(caught.value)
    await store.close()
    server.close()


def test_a_reason_is_short() -> None:
    assert len(reason_of("x" * 10_000 + "\nDebug source:")) <= 300


async def test_no_keys_is_unreachable(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    place = Place(server)
    with pytest.raises(Unreachable):
        await place.open(timeout_s=2.0).get(b"a")
    file.write_text(
        f"[other]\naws_access_key_id = key\naws_secret_access_key = {SECRET}\n[with %]\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "other")
    store = place.open()
    assert await store.get(b"a") is None
    file.write_text(f"[broken {SECRET}")
    with pytest.raises(Unreachable) as caught:
        await place.open(timeout_s=2.0).get(b"a")
    assert SECRET not in str(caught.value)
    await store.close()


async def test_cancelled_changes_come_to_their_end(place: Place) -> None:
    change = asyncio.ensure_future(place.store.set_newest(b"a", new_record(b"x", VERSION)))
    await asyncio.sleep(0)
    change.cancel()
    with suppress(asyncio.CancelledError):
        await change
    await place.store.close()
    wait_until(lambda: place.server.get(f"{place.top}a").status == 200, "the object is there")
