"""Plain files on a real nginx: odd names, other programs, marks, folders, the short way."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sfss.config import WebdavSettings
from sfss.errors import BadPath, Corrupt, PathTaken
from sfss.items import unique_of
from sfss.record import (
    Buffer,
    Form,
    Head,
    Kind,
    Record,
    decode,
    digest_of,
    held,
    new_record,
)
from sfss.spool import Spool
from sfss.stores.key_locks import KeyLocks
from sfss.stores.marks import Marks
from sfss.stores.plain_heads import is_raw, raw_file_head
from sfss.stores.webdav import WebdavStore
from tests.servers import Server, nginx_node, nginx_root, running
from tests.stores.dict_store import ViewableDict

VERSION = 1_700_000_000_123_456
SECOND = VERSION // 1_000_000
MIB = 1024 * 1024
TOMBSTONE = Record(Head(VERSION + 9, 0, digest_of(b""), Kind.TOMBSTONE), b"")


class Place:
    """A folder of its own on the node, the marks of it, and a store over both."""

    def __init__(self, server: Server) -> None:
        self.folder = nginx_root(server) / uuid4().hex
        self.folder.mkdir()
        self.address = f"http://{server.address}/{self.folder.name}/"
        self.marks = ViewableDict()
        self.store = self.open()

    def open(self, locks: KeyLocks | None = None) -> WebdavStore:
        """Return another store over the same."""
        marks = Marks(self.marks, self.address)
        return WebdavStore(self.address, marks, WebdavSettings(timeout_s=30.0), locks=locks)

    def write(self, name: str, body: bytes, second: int = SECOND) -> None:
        """Write a file as another program."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        os.utime(file, (0, second))


@pytest.fixture(name="node", scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An nginx that all tests of this module share."""
    with running(nginx_node(tmp_path_factory.mktemp("node"))) as server:
        yield server


@pytest.fixture(name="place")
async def own_place(node: Server) -> AsyncIterator[Place]:
    """A folder that no other test uses."""
    place = Place(node)
    yield place
    await place.store.close()


NAMES = [
    "a b/c d",
    "-rf",
    "--",
    "a%2fb",
    "%",
    "%00",
    "100%/x",
    "a?b",
    "a#b",
    "a;b=c",
    "a&b+c",
    "a'b\"c",
    "<a>",
    "ä/ö/ü",
    "e\u0301",
    "日本語",
    "\U0001f600",
    "a:b@c",
    "a..b",
    "a.",
    "~",
    "$uri",
    "*",
    "{}[]|^`",
    "http://a".replace("//", "/"),
    "n" * 250,
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_has_its_own_name(place: Place, name: str) -> None:
    key = name.encode()
    record = new_record(key, VERSION, {"a": "b"})
    await place.store.set(key, record)
    assert (place.folder / name).read_bytes() == key
    assert (place.folder / name).stat().st_mtime == SECOND
    assert await place.store.get(key) == record
    assert await place.store.head(key) == record.head
    entries = await place.store.scan(b"", b"", 10)
    assert [(entry.key, entry.head) for entry in entries] == [(key, record.head)]
    assert await place.store.delete(key)
    assert not (place.folder / name).exists()


@pytest.mark.parametrize("key", [b"..", b".", b"a/../b", b"a/.b", b"a/", b"a//b", b"\xff", b""])
async def test_what_is_no_name(place: Place, key: bytes) -> None:
    store = place.store
    for refused in (
        store.get(key),
        store.head(key),
        store.set(key, new_record(b"", 1)),
        store.set_newest(key, TOMBSTONE),
        store.delete(key),
    ):
        with pytest.raises(BadPath):
            await refused


async def test_folders_and_files_are_in_the_way_of_each_other(place: Place) -> None:
    await place.store.set(b"a/b", new_record(b"1", VERSION))
    for key in (b"a", b"a/b/c"):
        assert await place.store.get(key) is None
        assert await place.store.delete(key) is False
        with pytest.raises(PathTaken) as caught:
            await place.store.set(key, new_record(b"2", VERSION))
        assert caught.value.path == key.decode()
    assert await place.store.get(b"a/b") == new_record(b"1", VERSION)


async def test_what_another_program_wrote_is_served_as_it_is(place: Place) -> None:
    place.write("a/b", b"theirs")
    expected = raw_file_head(6, SECOND)
    read = await place.store.get(b"a/b")
    assert read == Record(expected, b"theirs")
    assert await place.store.head(b"a/b") == expected
    (child,) = await place.store.children(b"a/", b"", 9)
    assert child.head == expected


@pytest.mark.parametrize("body, second", [(b"theirs!", SECOND), (b"theirs", SECOND + 1)])
async def test_what_another_program_has_changed(place: Place, body: bytes, second: int) -> None:
    await place.store.set(b"key", new_record(b"our own", VERSION, {"a": "b"}))
    place.write("key", body if second != SECOND else body + b"!", second)
    head = await place.store.head(b"key")
    assert head is not None
    assert is_raw(head)
    read = await place.store.get(b"key")
    assert read is not None
    assert read.head == head


async def test_a_raw_record_comes_back_raw(place: Place) -> None:
    record = Record(raw_file_head(4, SECOND), b"body")
    await place.store.set(b"key", record)
    assert await place.store.get(b"key") == record


async def test_damage_is_found(place: Place) -> None:
    await place.store.set(b"key", new_record(b"body", VERSION))
    place.write("key", b"BODY")
    with pytest.raises(Corrupt):
        await place.store.get(b"key")
    await place.store.set_newest(b"key", new_record(b"body", VERSION))
    assert await place.store.get(b"key") == new_record(b"body", VERSION)


async def test_within_a_second_and_of_one_size(place: Place) -> None:
    for number in range(20):
        record = new_record(b"%08d" % number, VERSION + number)
        await place.store.set(b"key", record)
        assert await place.store.get(b"key") == record


async def test_a_tombstone_is_remembered_and_a_file_counts_more(place: Place) -> None:
    store = place.store
    await store.set(b"a/key", new_record(b"body", VERSION))
    assert await store.set_newest(b"a/key", TOMBSTONE) is None
    assert not (place.folder / "a/key").exists()
    assert await store.get(b"a/key") == TOMBSTONE
    assert await store.head(b"a/key") == TOMBSTONE.head
    assert await store.children(b"a/", b"", 9) == []
    assert await store.set_newest(b"a/key", new_record(b"old", VERSION)) == TOMBSTONE.head
    place.write("a/key", b"theirs")
    read = await store.get(b"a/key")
    assert read is not None
    assert read.body == b"theirs"
    assert await store.delete(b"a/key") is True
    assert await store.get(b"a/key") is None
    await store.set(b"a/key", TOMBSTONE)
    assert await store.delete(b"a/key") is True
    assert await store.delete(b"a/key") is False
    assert not place.marks.values


async def test_the_newest_wins(place: Place) -> None:
    store = place.store
    for number in (3, 1, 2, 5, 4):
        await store.set_newest(b"key", new_record(b"%d" % number, VERSION + number))
    assert await store.get(b"key") == new_record(b"5", VERSION + 5)


async def test_all_keys_are_listed_with_their_stamps(place: Place) -> None:
    store = place.store
    records = {key: new_record(key, VERSION) for key in (b"a/b/c", b"a/b c", "ä".encode(), b"z")}
    for key, record in records.items():
        await store.set(key, record)
    place.write("theirs/x", b"body")
    for key in (b"gone/1", b"z2"):
        await store.set(key, TOMBSTONE)
    place.write("z2", b"back")
    listed: dict[bytes, list[int | None]] = {}
    async for batch in store.keys():
        for key, stamp in batch:
            listed.setdefault(key, []).append(stamp)
    expected = {key: [unique_of(record.head)] for key, record in records.items()}
    expected[b"theirs/x"] = [unique_of(raw_file_head(4, SECOND))]
    expected[b"gone/1"] = [unique_of(TOMBSTONE.head)]
    expected[b"z2"] = [unique_of(raw_file_head(4, SECOND))]
    assert listed == expected


async def test_files_far_down_are_listed(place: Place) -> None:
    key = b"/".join([b"f" * 100] * 10)
    await place.store.set(key, new_record(b"", VERSION))
    listed = place.store.keys()
    assert [stamped.key async for batch in listed for stamped in batch] == [key]


async def test_what_cannot_be_asked_for_is_not_listed(place: Place) -> None:
    place.write("good", b"1")
    place.write(".hidden/x", b"2")
    place.write("a\\b", b"3")
    place.write("a\nb", b"4")
    (place.folder / os.fsdecode(b"\xff")).write_bytes(b"5")
    (place.folder / "link").symlink_to("/etc/passwd")
    (place.folder / "loop").symlink_to(".")
    children = await place.store.children(b"", b"", 99)
    names = [child.name for child in children if child.name not in (b"link", b"loop/")]
    assert names == [b"good"]


async def test_pages_of_a_folder_are_of_one_listing(place: Place) -> None:
    for number in range(20):
        place.write(f"{number:02}", b"")
    pages: list[bytes] = []
    while found := await place.store.children(b"", pages[-1] if pages else b"", 7):
        pages += [child.name for child in found]
        (place.folder / "15").unlink(missing_ok=True)
    assert pages == [b"%02d" % number for number in range(20)]
    another_worker = place.open()
    await another_worker.set(b"20", new_record(b"", VERSION))
    await another_worker.close()
    (child,) = await place.store.children(b"", b"19", 7)
    assert child.name == b"20"


async def viewed(store: WebdavStore, key: bytes) -> tuple[Buffer | None, Form]:
    """Return what a view shows."""
    shown: asyncio.Future[tuple[Buffer | None, Form]] = asyncio.get_running_loop().create_future()
    assert store.view(key, lambda item, form: shown.set_result((item, form)))
    return await shown


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024, MIB])
async def test_a_view_is_the_record_that_is_got(place: Place, size: int) -> None:
    await place.store.set(b"a b", new_record(bytes(size), VERSION, {"a": "b"}))
    for _ in range(2):
        item, form = await viewed(place.store, b"a b")
        assert form is Form.RECORD
        assert item is not None
        assert decode(item, "", b"") == await place.store.get(b"a b")
    place.write("a b", b"theirs" * 7)
    assert await viewed(place.store, b"a b") == (None, Form.RAW)
    await place.store.set(b"a b", TOMBSTONE)
    assert await viewed(place.store, b"none") == (None, Form.RAW)
    for key in (b"a b", b"..", b"a/"):
        assert not place.store.view(key, lambda *_: None)


async def test_many_views_at_a_time(place: Place) -> None:
    records = {b"%d" % number: new_record(b"%d" % number, VERSION) for number in range(200)}
    for key, record in records.items():
        await place.store.set(key, record)
    items = await asyncio.gather(*(viewed(place.store, key) for key in records))
    for (item, _), record in zip(items, records.values(), strict=True):
        assert item is not None
        assert decode(item, "", b"") == record


async def test_long_bodies_go_both_ways_in_pieces(place: Place, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(9):
        await spool.write(bytes([number]) * MIB)
    body, digest = await spool.finish()
    record = new_record(body, VERSION, digest=digest)
    await place.store.set(b"long", record)
    read = await place.store.get(b"long")
    assert read is not None
    assert not isinstance(read.body, bytes)
    assert read.head == record.head
    assert held(read.body) == held(body)
    place.write("long", b"\x01" + bytes(held(body))[1:])
    with pytest.raises(Corrupt):
        await place.store.get(b"long")


async def test_two_gateways_and_one_key(place: Place, tmp_path: Path) -> None:
    with (tmp_path / "locks").open("w") as first, (tmp_path / "locks").open("w") as second:
        stores = [place.open(KeyLocks(file.fileno())) for file in (first, second)]
        for turn in range(30):
            records = [new_record(b"%d %02d" % (number, turn), VERSION) for number in range(2)]
            await asyncio.gather(
                *(store.set(b"key", each) for store, each in zip(stores, records, strict=True)),
                *(store.get(b"key") for store in stores),
            )
            assert await place.store.get(b"key") in records
        for store in stores:
            await store.close()


async def test_an_empty_folder_has_nothing(place: Place) -> None:
    assert await place.store.children(b"", b"", 9) == []
    assert await place.store.children(b"none/", b"", 9) == []
    assert await place.store.children(b"../", b"", 9) == []
    assert await place.store.scan(b"a/b", b"", 9) == []


async def test_the_node_says_what_it_is(place: Place) -> None:
    assert (await place.store.stats())["version"].startswith("nginx")
