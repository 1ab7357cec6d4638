"""Stores as the first release wrote them: served, changed, and read without sfss."""

import ast
import io
import json
import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import lmdb
import pytest

from sfss.stores.lmdb_opening import FORMAT, FORMAT_KEY
from sfss.tar_reading import EXPIRES_FIELD, TYPE_FIELD
from tests.lab.golden_store import (
    BLOB,
    BLOB_ID,
    COPIES,
    DELETED,
    DELETED_OBJECT,
    EMBEDDED,
    FILES,
    ITEMS,
    JOINED,
    OBJECT,
    served,
    target,
    unpack,
)
from tests.lab.store_check import complaints
from tests.servers import CHECKOUT, Gateway, Server, gateway, lacking, node, running, wait_until

EXTRACT = CHECKOUT / "docs" / "extract.py"
PAGE = CHECKOUT / "docs" / "disk-format.md"


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """The golden stores, a copy for this test."""
    try:
        unpack(tmp_path)
    except OSError as error:
        lacking(f"plain files cannot have attributes in {tmp_path}: {error}")
    return tmp_path


def check_files(server: Gateway, paths: set[str]) -> None:
    """Read all that is there, and see that nothing else is."""
    for path in paths:
        body, fields = FILES[path]
        answer = server.get(path)
        assert (answer.status, answer.body) == (200, body), path
        if "Content-Type" in fields:
            assert answer.headers["content-type"] == fields["Content-Type"]
    assert server.get(DELETED).status == 404
    assert server.get("expires/over").status == 404
    listed = server.request("GET", "/files?limit=1000").json()["files"]
    assert {each["path"] for each in listed} >= paths
    assert not {each["path"] for each in listed} & {DELETED, "expires/over"}


def change_files(server: Gateway) -> None:
    """Write what is new, replace, delete, and delete on condition."""
    large = bytes(range(256)) * 3000
    for path, body in (("new", b"new"), ("text.txt", b"replaced"), ("large/new", large)):
        assert server.put(path, body).status == 200
        assert server.get(path).body == body
    tag = server.get("folder/page").headers["etag"]
    assert server.request("DELETE", target("folder/page"), None, {"If-Match": tag}).status == 204
    assert server.get("folder/page").status == 404
    assert server.put(DELETED, b"again").status == 200
    assert server.get(DELETED).body == b"again"


def test_an_embedded_store(stores: Path) -> None:
    with running(served(stores, EMBEDDED)) as server:
        check_files(server, set(FILES))
        blob = server.request("GET", f"/fetch/{BLOB_ID}")
        assert (blob.body, blob.headers["x-owner"]) == (BLOB, "somebody")
        thing = server.request("GET", f"/api/v1/get/{OBJECT}")
        assert (thing.status, thing.body) == (200, OBJECT.encode())
        assert server.request("GET", f"/api/v1/get/{DELETED_OBJECT}").status == 404
        change_files(server)
        assert server.stop() == 0
    assert not complaints(stores / "embedded")


def test_a_member(stores: Path) -> None:
    before = json.loads((stores / "member" / "member.json").read_text())
    with running(served(stores, JOINED)) as server:
        check_files(server, set(FILES))
        change_files(server)
        members = server.request("GET", "/status?detail=full").json()["webserver"]["members"]
        assert members
    assert json.loads((stores / "member" / "member.json").read_text()) == before
    assert not complaints(stores / "member")


def test_plain_files_and_what_is_owed(stores: Path) -> None:
    plain = {path for path in FILES if "large" not in path}
    with running(gateway(stores, settings=COPIES)) as server:
        owed = server.request("GET", "/status?detail=full").json()["webserver"]["owed"]
        assert owed == len(plain) + 1  # to the third, which is away
        for path in plain:
            body, fields = FILES[path]
            answer = server.get(path)
            assert (answer.status, answer.body) == (200, body), path
            assert path != "expires/late" or "expires" in answer.headers
            if "Content-Type" in fields:
                assert answer.headers["content-type"] == fields["Content-Type"]
        assert server.get("of-others.txt").body == b"another program's\n"
        assert server.get(DELETED).status == 404  # two marks remember it; the third store is away
        change_files(server)
        assert (stores / "plain-one" / "text.txt").read_bytes() == b"replaced"
    assert not complaints(stores / "owed") + complaints(stores / "owed" / "marks")


def test_a_node(stores: Path) -> None:
    items = node(stores)
    (stores / "node").rename(stores / items.command[items.command.index("--store") + 1])
    with running(items):
        for key, (flags, body) in ITEMS.items():
            assert ask(items, b"get %b\r\n" % key).startswith(
                b"VALUE %b %d %d\r\n%b\r\n" % (key, flags, len(body), body)
            )
        assert ask(items, b"set zero 1 0 3\r\nnew\r\n") == b"STORED\r\n"
        assert ask(items, b"delete plain-item\r\n") == b"DELETED\r\n"


def ask(server: Server, command: bytes) -> bytes:
    """Return what a node answers, in one piece."""
    with closing(socket.create_connection((server.host, server.port), timeout=30)) as client:
        client.sendall(command)
        return client.recv(1000)


def test_what_has_expired_is_swept(stores: Path) -> None:
    with running(served(stores, EMBEDDED)):
        wait_until(lambda: not kept(stores / "embedded", b"expires/over"), "it is swept")
        wait_until(lambda: kept(stores / "embedded", b"expires/over-w") == {2}, "one is remembered")
        assert set(extracted(stores / "embedded")) >= set(FILES)  # while it is in use


def kept(folder: Path, prefix: bytes) -> set[int]:
    """Return the kinds of the records that begin with ``prefix`` and are no longer than it, or end
    with "copies".
    """
    with (
        lmdb.open(str(folder), lib_version=0, max_dbs=2, readonly=True) as environment,
        environment.begin() as transaction,
    ):
        return {
            value[3]
            for key, value in transaction.cursor()
            if key == prefix or (key.startswith(prefix) and prefix.endswith(b"-w"))
        }


# Without sfss


def extracted(folder: Path, *options: str) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return the bodies that a reader without sfss finds, and what the files have besides."""
    command = [sys.executable, "-I", str(EXTRACT), str(folder), *options]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert not done.stderr
    listed = subprocess.run(["tar", "t"], input=done.stdout, capture_output=True, check=True)
    assert not listed.stderr, "tar takes all of it"
    found = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read(), dict(member.pax_headers)
    return found


def test_the_reader_knows_nothing_of_sfss() -> None:
    tree = ast.parse(EXTRACT.read_text())
    names = [
        name.name for each in ast.walk(tree) if isinstance(each, ast.Import) for name in each.names
    ]
    names += [each.module or "" for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    others = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert others == {"lmdb", "xxhash"}


def test_all_files_come_out_of_an_embedded_store(stores: Path) -> None:
    found = extracted(stores / "embedded")
    assert {path: found[path][0] for path in FILES} == {path: FILES[path][0] for path in FILES}
    assert found["folder/page"][1][TYPE_FIELD] == "text/html; charset=utf-8"
    assert int(found["expires/late"][1][EXPIRES_FIELD]) > 4_000_000_000
    assert found[f"blobs/{BLOB_ID[:2]}/{BLOB_ID}"][0] == BLOB
    body = found[f"objects/{OBJECT}"][1]["SCHILY.xattr.user.sfss.body"]
    assert found[body][0] == OBJECT.encode()
    others = {path for path in found if not path.startswith(("objects/", "single/", "blobs/"))}
    assert others == set(FILES)


@pytest.mark.parametrize("store", ["member", "node"])
def test_all_files_come_out_of_stores_with_escaped_keys(stores: Path, store: str) -> None:
    found = {path: body for path, (body, _) in extracted(stores / store, "--escaped").items()}
    items = {key.decode(): body for key, (_, body) in ITEMS.items()}
    assert found == (items if store == "node" else {path: each[0] for path, each in FILES.items()})


def test_what_is_damaged_is_named(stores: Path) -> None:
    folder = stores / "embedded"
    with (
        lmdb.open(str(folder), lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        value = bytearray(transaction.get(b"text.txt") or b"")
        value[-2] ^= 1
        transaction.put(b"text.txt", bytes(value))
    command = [sys.executable, "-I", str(EXTRACT), str(folder)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"b'text.txt': damaged body\n"


# What the page says


def keys_in(folder: Path) -> Iterator[bytes]:
    """Yield the keys of a store that are not its own."""
    with (
        lmdb.open(str(folder), lib_version=0, lock=False, readonly=True) as environment,
        environment.begin() as transaction,
    ):
        assert transaction.get(FORMAT_KEY) == FORMAT
        yield from (key for key, _ in transaction.cursor() if not key.startswith(FORMAT_KEY))


def documented() -> dict[str, re.Pattern[bytes]]:
    """Return the patterns of keys that the page names, by the store that they are of."""
    rows = re.findall(r"^\| `(\w[\w/]*)` \| `([^`]+)` \|", PAGE.read_text(), re.M)
    assert rows
    return {
        name: re.compile(b"|".join(text.encode() for store, text in rows if store == name), re.S)
        for name in {store for store, _ in rows}
    }


@pytest.mark.parametrize("store", ["owed", "owed/marks", "owed-member"])
def test_keys_are_what_the_page_says(stores: Path, store: str) -> None:
    pattern = documented()["marks" if store.endswith("marks") else "owed"]
    for key in keys_in(stores / store):
        assert pattern.fullmatch(key), key


def test_chunks_are_what_the_page_says(stores: Path) -> None:
    pattern = documented()["store"]
    paths = {path.encode() for path in FILES}
    for key in keys_in(stores / "embedded"):
        assert key in paths or key.startswith(b"expires/over") or pattern.fullmatch(key), key
    escaped = {quote(path).encode() for path in FILES} | {DELETED.encode()}
    for key in keys_in(stores / "member"):
        assert key in escaped or key.startswith(b"%00c"), key
