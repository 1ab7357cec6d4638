"""The contract of ``sfss.stores.base``, run on every store, against real servers."""

import asyncio
import base64
import hashlib
import os
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import lmdb
import pytest

from sfss.blob_ids import path_of
from sfss.config import BucketSettings, MemcachedSettings, WebdavSettings
from sfss.errors import (
    BadPath,
    CannotList,
    Corrupt,
    PreconditionFailed,
    Unreachable,
)
from sfss.items import unique_of
from sfss.keys import KeyScheme
from sfss.nginx_conf import DAV_EXT_MODULE
from sfss.record import (
    RECORD_FLAGS,
    Content,
    Head,
    Record,
    encode,
    encode_head,
    expired_tombstone,
    held,
    new_record,
    record_of,
)
from sfss.stores.base import BrowsableStore, Child, ListingStore, Store
from sfss.stores.blob_fields import fields_of
from sfss.stores.blob_server import BlobServerStore
from sfss.stores.bucket import BucketStore
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.folder import FolderStore
from sfss.stores.marks import Marks
from sfss.stores.memcached import MemcachedStore
from sfss.stores.webdav import WebdavStore
from tests.servers import (
    Gateway,
    S3Server,
    Server,
    gateway,
    gobeansdb,
    lacking,
    memcached,
    nginx_node,
    nginx_root,
    node,
    node_folder,
    nutcracker,
    running,
    s3,
    versitygw,
)
from tests.stores.dict_store import DictStore

MIB = 1024 * 1024
CANCEL_STEPS = 40


@dataclass
class Subject:
    """A store under test, its key encoding, and a way to write an encoded record, damaged or not,
    behind its back. ``is_plain``: its files are ordinary files. ``hides_dots``: names that begin
    with a dot are refused. ``takes_paths``: keys may be any paths.
    """

    store: Store
    encoding: str
    plant_value: Callable[[bytes, bytes], None]
    is_plain: bool = False
    hides_dots: bool = False
    takes_paths: bool = True

    def key(self, path: str) -> bytes:
        """Return the key of ``path`` in this store."""
        return KeyScheme(self.encoding).key(path)

    def plant(self, key: bytes, record: Record, damage: str | None = None) -> None:
        """Have the store hold ``record`` as it would, but for ``damage``."""
        value = encode(record)
        self.plant_value(key, value if damage is None else damages(value)[damage])

    def paths(self, *paths: str) -> list[str]:
        """Return ``paths`` without those that a folder would have if files are ordinary files."""
        folders = {path[:end] for path in paths for end, byte in enumerate(path) if byte == "/"}
        return [path for path in paths if not (self.is_plain and path in folders)]


def plant_by_socket(port: int, key: bytes, value: bytes) -> None:
    """Set an item on a server of the memcached protocol, without any of our code."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        header = b"set %b %d 0 %d\r\n" % (key, RECORD_FLAGS, len(value))
        connection.sendall(header + value + b"\r\n")
        assert connection.makefile("rb").readline() == b"STORED\r\n"


def plant_in_lmdb(store: EmbeddedStore, key: bytes, value: bytes) -> None:
    """Set a value through the environment that this process has open: a second is not allowed."""
    environment = store._folder._environment
    assert isinstance(environment, lmdb.Environment)
    with environment.begin(write=True) as transaction:
        transaction.put(key, value)


def open_embedded(folder: Path) -> Subject:
    """A store on the disk."""
    store = EmbeddedStore(folder / "store")
    return Subject(store, "plain", lambda key, value: plant_in_lmdb(store, key, value))


class FolderSubject(Subject):
    """A store of ordinary files: only what keeps size and time of a file is damage, anything else
    is another program's.
    """

    def plant(self, key: bytes, record: Record, damage: str | None = None) -> None:
        """Write the file, with the head beside it, as the store does."""
        head, body = record.head, bytes(record.body)
        value = encode_head(head)
        if damage == "header":
            value = damages(value)[damage]
        elif damage is not None:
            body = bytes(len(body) - 1) + b"x"
        self.plant_value(key, body)
        file = self.root / os.fsdecode(key)
        os.setxattr(file, "user.sfss", value)
        os.utime(file, ns=(0, head.version * 1000))

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return Path(self.store.address.removeprefix("file://"))


def open_folder(folder: Path) -> Subject:
    """A store of ordinary files, whose marks are kept in a dict."""
    root = folder / "files"
    address = f"file://{root}"

    def plant_value(key: bytes, body: bytes) -> None:
        file = root / os.fsdecode(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)

    store = FolderStore(address, root, Marks(DictStore(), address))
    return FolderSubject(store, "plain", plant_value, is_plain=True)


def open_remote(server: Server) -> Subject:
    """A store on a server."""
    store = MemcachedStore(server.address, MemcachedSettings(item_limit=4 * MIB))
    return Subject(store, "percent", lambda key, value: plant_by_socket(server.port, key, value))


def open_node(server: Server) -> Subject:
    """A store on one of our own nodes, which takes no damaged records: they are planted on disk."""

    def plant(key: bytes, value: bytes) -> None:
        folder = str(node_folder(server))
        with (
            lmdb.open(folder, lib_version=0) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.put(key, value)

    return replace(open_remote(server), plant_value=plant)


class WebdavSubject(Subject):
    """A store on an nginx with files in ``root``, whose ``marks`` are kept in a dict."""

    root: Path
    marks: Marks

    def plant(self, key: bytes, record: Record, damage: str | None = None) -> None:
        """Write the file, with the mark of the record."""
        body = bytes(record.body)
        if damage is not None:
            body = bytes(len(body) - 1) + b"x"
        self.plant_value(key, body)
        file = self.root / os.fsdecode(key)
        os.utime(file, ns=(0, record.head.version * 1000))
        with suppress(StopIteration):  # it waits for nothing
            self.marks.set(key, record.head).send(None)


def open_webdav(server: Server) -> Subject:
    """A store in a folder of its own on an nginx."""
    root = nginx_root(server) / uuid4().hex
    root.mkdir()
    address = f"http://{server.address}/{root.name}/"

    def plant_value(key: bytes, body: bytes) -> None:
        file = root / os.fsdecode(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)

    marks = Marks(DictStore(), address)
    store = WebdavStore(address, marks, WebdavSettings())
    subject = WebdavSubject(store, "plain", plant_value, is_plain=True)
    subject.root, subject.marks = root, marks
    return subject


class BucketSubject(Subject):
    """A store in a bucket: its heads are metadata of the objects."""

    server: S3Server
    bucket: str

    def plant(self, key: bytes, record: Record, damage: str | None = None) -> None:
        """Put the object there as another client, with the metadata of the record."""
        head, body = encode_head(record.head), bytes(record.body)
        damaged = {
            None: (head, body),
            "body": (head, bytes(len(body) - 1) + b"x"),
            "header": (damages(head)["header"], body),
            "cut": (head, body[:-1]),
            "longer": (head, body + b"x"),
            "foreign": (b"not a head at all", body),
            "nothing": (b"", body),
        }
        head, body = damaged[damage]
        fields = {"x-amz-meta-sfss": base64.b64encode(head).decode() or "?"}
        self.server.put(f"{self.bucket}/{key.decode()}", body, fields)


def open_bucket(server: Server) -> Subject:
    """A store in a bucket of its own."""
    assert isinstance(server, S3Server)
    bucket = uuid4().hex
    server.make_bucket(bucket)
    settings = BucketSettings(endpoint=server.url, allow_http=True, timeout_s=30.0)
    store = BucketStore(f"s3://{bucket}/top", settings)
    is_plain = "versitygw" in server.command[0]
    subject = BucketSubject(store, "plain", lambda _, __: None, is_plain, hides_dots=True)
    subject.server, subject.bucket = server, f"{bucket}/top"
    return subject


class BlobServerSubject(Subject):
    """A store on a blob server, whose keys are those of blobs that have no digest for a name."""

    server: Gateway
    salt: str

    def key(self, path: str) -> bytes:
        """Return the key of a blob that stands for ``path``."""
        blob_id = "n" + hashlib.sha1(f"{self.salt} {path}".encode()).hexdigest()
        return path_of(blob_id).encode()

    def plant(self, key: bytes, record: Record, damage: str | None = None) -> None:
        """Post the blob as another client, with the fields that the store would send."""
        lines = fields_of(record.head).splitlines()
        fields = dict(line.split(": ", 1) for line in lines)
        body, head = bytes(record.body), b64decode(fields["X-Sfss"])
        damaged = {
            None: (head, body),
            "body": (head, bytes(len(body) - 1) + b"x"),
            "header": (damages(head)["header"], body),
            "cut": (head, body[:-1]),
            "longer": (head, body + b"x"),
            "foreign": (b"not a head at all", body),
            "nothing": (b"", body),
        }
        head, body = damaged[damage]
        fields["X-Sfss"] = b64encode(head).decode() or "?"
        target = f"/blob/{key.decode().rpartition('/')[2]}"
        assert self.server.request("POST", target, body, fields).status == 200


def open_blob_server(server: Server) -> Subject:
    """A store on a gateway that shows blobs, whose marks are kept in a dict."""
    assert isinstance(server, Gateway)
    address = f"blobs:{server.url}/"
    store = BlobServerStore(address, Marks(DictStore(), address), WebdavSettings())
    subject = BlobServerSubject(store, "files", lambda _, __: None, takes_paths=False)
    subject.server, subject.salt = server, uuid4().hex
    return subject


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Start a server when it is first asked for; it lives as long as this module's tests."""
    folder = tmp_path_factory.mktemp("servers")
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def start(make: str) -> Server:
            if make not in started:
                started[make] = stack.enter_context(running(MAKERS[make](folder, start)))
            return started[make]

        yield start


MAKERS: dict[str, Callable[[Path, Callable[[str], Server]], Server]] = {
    "memcached": lambda folder, _: memcached(folder, "-I", "4m"),
    "memcached-2": lambda folder, _: memcached(folder, "-I", "4m"),
    "twemproxy": lambda folder, start: nutcracker(
        folder, [start("memcached").address, start("memcached-2").address]
    ),
    "gobeansdb": lambda folder, _: gobeansdb(folder),
    "node": lambda folder, _: node(folder),
    "nginx": lambda folder, _: nginx_node(folder),
    "nginx-propfind": lambda folder, _: nginx_by_propfind(folder),
    "bucket": lambda folder, _: s3(folder),
    "bucket-versitygw": lambda folder, _: versitygw(folder),
    "blob-server": lambda folder, _: gateway(folder, settings='[server]\nfaces = ["blobs"]\n'),
}


def nginx_by_propfind(folder: Path) -> Server:
    """An nginx that lists only when asked with PROPFIND."""
    if not Path(DAV_EXT_MODULE).exists():
        lacking("libnginx-mod-http-dav-ext is not installed")
    server = nginx_node(folder, "--propfind")
    conf = folder / f"nginx-{server.port}.conf"
    conf.write_text(conf.read_text().replace("autoindex on;", "autoindex off;"))
    return server


STORES = [
    "dict",
    "embedded",
    "folder",
    "memcached",
    "twemproxy",
    "gobeansdb",
    "node",
    "nginx",
    "nginx-propfind",
    "bucket",
    "bucket-versitygw",
    "blob-server",
]


@pytest.fixture(params=STORES)
async def subject(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server]
) -> AsyncIterator[Subject]:
    """Each store in turn."""
    if request.param == "dict":
        plain = DictStore()
        opened = Subject(plain, "plain", plain.values.__setitem__)
    elif request.param == "embedded":
        opened = open_embedded(tmp_path)
    elif request.param == "folder":
        opened = open_folder(tmp_path)
    elif request.param == "node":
        opened = open_node(servers("node"))
    elif request.param.startswith("bucket"):
        opened = open_bucket(servers(request.param))
    elif request.param == "blob-server":
        opened = open_blob_server(servers("blob-server"))
    elif request.param.startswith("nginx"):
        opened = open_webdav(servers(request.param))
    else:
        opened = open_remote(servers(request.param))
    yield opened
    await opened.store.close()


@pytest.fixture(name="path")
def own_path(request: pytest.FixtureRequest) -> str:
    """A path that no other test uses: servers are shared."""
    return f"{request.node.name}/file"


def body_of(record: Record | None) -> bytes | None:
    """Return the body as bytes, None for no record."""
    return None if record is None else bytes(held(record.body))


async def test_nothing_is_none(subject: Subject, path: str) -> None:
    assert await subject.store.get(subject.key(path)) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"\r\nEND\r\n", bytes(range(256)) * 8192],
    ids=["empty", "1 byte", "protocol", "2 MiB"],
)
async def test_what_was_set_is_got(subject: Subject, path: str, body: bytes) -> None:
    written = new_record(body, 1_700_000_000_000_000)
    await subject.store.set(subject.key(path), written)
    read = await subject.store.get(subject.key(path))
    assert read is not None
    assert (read.head, bytes(held(read.body))) == (written.head, body)


async def test_a_head_is_that_of_the_record(subject: Subject, path: str) -> None:
    assert await subject.store.head(subject.key(path)) is None
    written = new_record(b"body" * 100_000, 1_700_000_000_000_000, {"a": "b"})
    await subject.store.set(subject.key(path), written)
    assert await subject.store.head(subject.key(path)) == written.head


async def test_a_file_that_has_expired_is_replaced_by_its_tombstone(
    subject: Subject, path: str
) -> None:
    key, store = subject.key(path), subject.store
    newest = getattr(store, "set_newest", None)
    record = record_of(Content(b"body" * 1000, ttl_s=1_000_000), time.time_ns() // 1000)
    gone = expired_tombstone(record.head)
    for each in (record, gone):
        if newest is None:
            await store.set(key, each)
        else:
            assert await newest(key, each) is None
        read = await store.get(key)
        assert read is not None
        assert (read.head, bytes(held(read.body))) == (each.head, bytes(held(each.body)))
        assert await store.head(key) == each.head
    if newest is not None:
        assert await newest(key, record) == gone.head
        assert await newest(key, gone) is None
        later = new_record(b"later", record.head.version + 1_000_000)
        assert await newest(key, later) is None
        assert await store.head(key) == later.head


async def test_folders_are_shown_one_by_one(subject: Subject) -> None:
    if not isinstance(subject.store, BrowsableStore) or not subject.takes_paths:
        return
    names = subject.paths("b", "a/1", "a/2", "a/x/y", "a", "a.txt", "ä", "Z/z", "gone/x")
    for name in names:
        await subject.store.set(subject.key(f"top/{name}"), new_record(name.encode(), 3))
    await subject.store.delete(subject.key("top/gone/x"))
    try:
        found = await subject.store.children(b"top/", b"", 100)
    except CannotList as error:
        assert error.store == subject.store.address
        return
    if subject.is_plain:  # a folder may stay behind, without anything in it
        found = [child for child in found if child.name != b"gone/"]
    files = ["a.txt", "b", "ä"] + ([] if subject.is_plain else ["a"])
    heads = {
        subject.key(f"top/{name}").removeprefix(b"top/"): new_record(name.encode(), 3).head
        for name in files
    }
    shown = sorted([*heads, b"Z/", b"a/"])
    assert found == [Child(name, heads.get(name)) for name in shown]
    assert await subject.store.children(b"top/", b"", 2) == found[:2]
    behind = shown.index(b"a/") + 1
    assert await subject.store.children(b"top/", b"a/", 1) == found[behind : behind + 1]
    assert await subject.store.children(b"top/", b"\xff", 9) == []
    assert [child.name for child in await subject.store.children(b"top/a/", b"1", 9)] == [
        b"2",
        b"x/",
    ]
    assert await subject.store.children(b"nothing/", b"", 9) == []


async def test_metadata_is_kept(subject: Subject, path: str) -> None:
    names = {"Content-Type": "text/plain; charset=utf-8", "X-Größe": "\x00\n\u2028"}
    await subject.store.set(subject.key(path), new_record(b"body", 7, names))
    read = await subject.store.get(subject.key(path))
    assert read is not None
    assert read.head.metadata == names


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "@command",
        "?command",
        "a b",
        "a%20b",
        "€" * 27,
        "x" * 250,
        "get x",
        "\u2028 ",
        "..",
        "-",
    ],
)
async def test_odd_keys(subject: Subject, path: str) -> None:
    key = subject.key(path)
    if (subject.is_plain or subject.hides_dots) and path.startswith("."):
        for refused in (
            subject.store.get(key),
            subject.store.set(key, new_record(b"", 1)),
            subject.store.delete(key),
        ):
            with pytest.raises(BadPath):
                await refused
        return
    await subject.store.set(key, new_record(path.encode(), 1))
    assert body_of(await subject.store.get(key)) == path.encode()
    assert await subject.store.delete(key)
    assert await subject.store.get(key) is None


async def test_set_replaces(subject: Subject, path: str) -> None:
    for body in (b"a longer first body", b"second", b""):
        await subject.store.set(subject.key(path), new_record(body, 1))
        assert body_of(await subject.store.get(subject.key(path))) == body


async def test_delete_tells_whether_it_was_there(subject: Subject, path: str) -> None:
    key = subject.key(path)
    await subject.store.set(key, new_record(b"body", 1))
    assert await subject.store.delete(key) is True
    assert await subject.store.get(key) is None
    assert await subject.store.delete(key) is False


async def test_a_guard_sees_the_present_head(subject: Subject, path: str) -> None:
    seen: list[Head | None] = []
    key, first, second = subject.key(path), new_record(b"1", 1), new_record(b"22", 2, {"a": "b"})
    await subject.store.set(key, first, seen.append)
    await subject.store.set(key, second, seen.append)
    await subject.store.delete(key, seen.append)
    await subject.store.delete(key, seen.append)
    assert seen == [None, first.head, second.head, None]


async def test_a_guard_that_raises_forbids(subject: Subject, path: str) -> None:
    def forbid(_: Head | None) -> None:
        raise PreconditionFailed("If-Match")

    key = subject.key(path)
    with pytest.raises(PreconditionFailed):
        await subject.store.set(key, new_record(b"new", 2), forbid)
    assert await subject.store.get(key) is None
    await subject.store.set(key, new_record(b"old", 1))
    with pytest.raises(PreconditionFailed):
        await subject.store.set(key, new_record(b"new", 2), forbid)
    with pytest.raises(PreconditionFailed):
        await subject.store.delete(key, forbid)
    assert body_of(await subject.store.get(key)) == b"old"


async def test_a_guard_that_raises_fails_only_its_own(subject: Subject, path: str) -> None:
    def forbid(_: Head | None) -> None:
        raise PreconditionFailed("If-Match")

    keys = [subject.key(f"{path}-{number}") for number in range(20)]
    outcomes = await asyncio.gather(
        *(
            subject.store.set(key, new_record(key, 1), forbid if number % 2 else None)
            for number, key in enumerate(keys)
        ),
        return_exceptions=True,
    )
    assert [isinstance(outcome, PreconditionFailed) for outcome in outcomes] == [False, True] * 10
    found = [body_of(await subject.store.get(key)) for key in keys]
    assert found == [None if number % 2 else key for number, key in enumerate(keys)]


async def test_concurrent_sets_of_one_key_leave_one_of_them(subject: Subject, path: str) -> None:
    key = subject.key(path)
    bodies = [bytes([number]) * 50_000 for number in range(30)]
    await asyncio.gather(
        *(subject.store.set(key, new_record(body, 1)) for body in bodies),
        *(subject.store.get(key) for _ in bodies),
    )
    assert body_of(await subject.store.get(key)) in bodies


async def test_many_at_the_same_time(subject: Subject, path: str) -> None:
    keys = [subject.key(f"{path}-{number}") for number in range(300)]

    async def round_trip(key: bytes) -> None:
        await subject.store.set(key, new_record(key * 20, 1))
        assert body_of(await subject.store.get(key)) == key * 20

    await asyncio.gather(*map(round_trip, keys))
    records = await asyncio.gather(*map(subject.store.get, keys))
    assert list(map(body_of, records)) == [key * 20 for key in keys]


async def cancel_after(steps: int, operation: "asyncio.Task[object]") -> None:
    """Let ``operation`` run for so many turns of the loop, cancel it and wait for its end."""
    for _ in range(steps):
        await asyncio.sleep(0)
    operation.cancel()
    await asyncio.gather(operation, return_exceptions=True)


async def test_cancel_a_set_at_every_step(subject: Subject, path: str) -> None:
    key, old = subject.key(path), b"old" * 10_000
    for steps in range(CANCEL_STEPS):
        await subject.store.set(key, new_record(old, 1))
        new = b"%d" % steps * 10_000
        await cancel_after(steps, asyncio.ensure_future(subject.store.set(key, new_record(new, 2))))
        assert body_of(await subject.store.get(key)) in (old, new)
        await subject.store.set(subject.key("another"), new_record(b"another", 1))


async def test_cancel_a_get_at_every_step(subject: Subject, path: str) -> None:
    keys = [subject.key(f"{path}-{number}") for number in range(3)]
    for key in keys:
        await subject.store.set(key, new_record(key * 1000, 1))
    for steps in range(CANCEL_STEPS):
        others = [asyncio.ensure_future(subject.store.get(key)) for key in keys[1:]]
        await cancel_after(steps, asyncio.ensure_future(subject.store.get(keys[0])))
        found = [body_of(await other) for other in others]
        found.insert(0, body_of(await subject.store.get(keys[0])))
        assert found == [key * 1000 for key in keys]


async def test_cancel_a_delete_at_every_step(subject: Subject, path: str) -> None:
    key = subject.key(path)
    for steps in range(CANCEL_STEPS):
        await subject.store.set(key, new_record(b"body", 1))
        await cancel_after(steps, asyncio.ensure_future(subject.store.delete(key)))
        assert body_of(await subject.store.get(key)) in (None, b"body")


def damages(value: bytes) -> dict[str, bytes]:
    """Return ``value`` damaged in different places."""
    flipped = bytes([value[-1] ^ 1])
    return {
        "body": value[:-1] + flipped,
        "header": value[:9] + b"\xff" + value[10:],
        "cut": value[:-1],
        "longer": value + b"x",
        "foreign": b"not a record at all",
        "nothing": b"",
    }


@pytest.mark.parametrize("damage", list(damages(b"0" * 100)))
async def test_what_is_damaged_is_never_served(subject: Subject, path: str, damage: str) -> None:
    if subject.is_plain and damage in {"cut", "longer", "nothing"}:
        return  # a file of another size is another program's
    key = subject.key(path)
    subject.plant(key, new_record(b"the body", 1), damage)
    with pytest.raises(Corrupt) as caught:
        await subject.store.get(key)
    assert (caught.value.store, caught.value.key) == (subject.store.address, key)
    await subject.store.set(key, new_record(b"new", 2))
    assert body_of(await subject.store.get(key)) == b"new"


async def test_what_is_damaged_can_be_deleted(subject: Subject, path: str) -> None:
    subject.plant(subject.key(path), new_record(b"body", 1), "foreign")
    assert await subject.store.delete(subject.key(path)) is True
    assert await subject.store.get(subject.key(path)) is None


async def test_planted_values_are_what_the_store_writes(subject: Subject, path: str) -> None:
    planted = new_record(b"planted", 5)
    subject.plant(subject.key(path), planted)
    assert await subject.store.get(subject.key(path)) == planted


async def test_scan_in_byte_order_or_cannot_list(subject: Subject) -> None:
    if not subject.takes_paths:
        return
    paths = subject.paths("scan/b", "scan/a", "scan/ä", "scan/a/b", "scan/Z", "other", "scan")
    for path in paths:
        await subject.store.set(subject.key(path), new_record(path.encode(), 3))
    try:
        found = await subject.store.scan(b"scan/", b"", 1000)
    except CannotList as error:
        assert error.store == subject.store.address
        return
    records = {subject.key(path): new_record(path.encode(), 3) for path in paths}
    expected = sorted(key for key in records if key.startswith(b"scan/"))
    assert [entry.key for entry in found] == expected
    assert [entry.head for entry in found] == [records[key].head for key in expected]
    assert await subject.store.scan(b"scan/", b"", 2) == found[:2]
    assert await subject.store.scan(b"scan/", found[1].key, 2) == found[2:4]
    assert await subject.store.scan(b"scan/", b"scan/b0", 9) == [
        entry for entry in found if entry.key > b"scan/b0"
    ]
    assert await subject.store.scan(b"scan/", b"x" * 2000, 9) == []
    assert await subject.store.scan(b"scan/", b"scan/" + b"a" * 2000, 9) == [
        entry for entry in found if entry.key > b"scan/" + b"a" * 2000
    ]
    assert await subject.store.scan(b"nothing", b"", 9) == []
    assert await subject.store.scan(b"", b"", 0) == []
    everything = {entry.key for entry in await subject.store.scan(b"", b"", 100)}
    assert everything >= {subject.key(path) for path in paths}


async def test_scan_shows_damaged_records_without_a_head(subject: Subject) -> None:
    if subject.is_plain or not subject.takes_paths:
        return
    good = new_record(b"body", 1)
    for number in range(10):
        key = subject.key(f"file-{number}")
        subject.plant(key, good, "header" if number % 2 else None)
    try:
        found = await subject.store.scan(b"file-", b"", 4)
    except CannotList:
        return
    assert [entry.key for entry in found] == [b"file-%d" % number for number in range(4)]
    assert [entry.head for entry in found] == [good.head, None, good.head, None]


async def stamps(store: Store) -> dict[bytes, int | None]:
    """Return what the store lists."""
    assert isinstance(store, ListingStore)
    listed: dict[bytes, int | None] = {}
    async for batch in store.keys():
        listed.update(batch)
    return listed


async def test_every_key_is_listed_or_none_can_be(subject: Subject) -> None:
    records = {
        subject.key(path): new_record(path.encode(), 3)
        for path in subject.paths("keys/ä b%", "@keys", "keys")
    }
    for key, record in records.items():
        await subject.store.set(key, record)
    await subject.store.set(subject.key("keys/gone"), new_record(b"x", 1))
    await subject.store.delete(subject.key("keys/gone"))
    try:
        listed = await stamps(subject.store)
    except CannotList as error:
        assert error.store == subject.store.address
        return
    assert set(listed) >= set(records)
    assert subject.key("keys/gone") not in listed
    for key, record in records.items():
        assert listed[key] in (None, unique_of(record.head))


async def test_damaged_records_do_not_end_a_listing(subject: Subject) -> None:
    keys = [subject.key(f"listed-{number}") for number in range(10)]
    for number, key in enumerate(keys):
        subject.plant(key, new_record(b"body", 1), "header" if number % 2 else None)
    try:
        listed = await stamps(subject.store)
    except CannotList:
        return
    assert set(listed) >= set(keys[::2])


async def test_stats_are_text(subject: Subject) -> None:
    stats = await subject.store.stats()
    assert stats
    assert all(type(name) is str and type(value) is str for name, value in stats.items())


async def test_after_close_everything_is_unreachable(subject: Subject, path: str) -> None:
    store, key = subject.store, subject.key(path)
    await store.close()
    await store.close()
    for operation in (
        store.get(key),
        store.set(key, new_record(b"", 1)),
        store.delete(key),
        store.stats(),
    ):
        with pytest.raises(Unreachable):
            await operation
    with pytest.raises((Unreachable, CannotList)):
        await store.scan(b"", b"", 1)
