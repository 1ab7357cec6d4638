"""conf/objstore.toml at work: the API of objstore over real processes, and a bucket behind it."""

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from sfss import __version__
from sfss.record import encode_head, new_record
from sfss.stores.embedded import EmbeddedStore
from sfss.ulid import read_ulid
from tests.objstore import BUCKET, PREFIX, Objstore
from tests.servers import PYTHON_ENVIRON, SFSS, S3Server, binary, running, wait_until
from tests.shared_s3 import with_bucket

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
MIB = 1024 * 1024


@pytest.fixture(name="alone")
def without_a_bucket(tmp_path: Path) -> Iterator[Objstore]:
    objstore = Objstore(tmp_path, None)
    with running(objstore.gateway):
        yield objstore
        assert "Traceback" not in objstore.gateway.output()


@pytest.fixture(name="server")
def own_server(shared_s3: S3Server) -> Iterator[S3Server]:
    with with_bucket(shared_s3, BUCKET) as server:
        yield server


@pytest.fixture(name="through")
def write_through(tmp_path: Path, server: S3Server) -> Iterator[Objstore]:
    objstore = Objstore(tmp_path, server)
    with running(objstore.gateway):
        yield objstore
        assert "Traceback" not in objstore.gateway.output()


@pytest.fixture(name="back")
def write_back(tmp_path: Path, server: S3Server) -> Iterator[Objstore]:
    objstore = Objstore(tmp_path, server, write='"back"')
    with running(objstore.gateway):
        yield objstore
        assert "Traceback" not in objstore.gateway.output()


def curl(*arguments: str) -> str:
    """Return what curl prints."""
    command = [binary("curl"), "-s", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_the_transcript(through: Objstore, tmp_path: Path) -> None:
    # The README of objstore, line by line.
    api = f"{through.gateway.url}/api/v1"
    object_id = curl(f"{api}/id")
    assert read_ulid(object_id) == object_id
    file = tmp_path / "test.txt"
    file.write_text("It works!")
    fields = ("-H", "X-Meta-ConsistencyLevel: 2", "-H", "X-Meta-Name: test.txt")
    put = curl("-d", f"@{file}", *fields, "-H", f"X-Meta-ID: {object_id}", "-i", f"{api}/put")
    assert put.startswith("HTTP/1.1 200 OK")
    assert curl(f"{api}/get/{object_id}") == "It works!"
    shown = curl("-i", f"{api}/get/{object_id}").replace("\r", "")
    for line in (
        "HTTP/1.1 200 OK",
        "Accept-Ranges: bytes",
        "Content-Length: 9",
        "X-Meta-Consistencylevel: 2",
        f"X-Meta-Id: {object_id}",
        "X-Meta-Name: test.txt",
    ):
        assert f"{line}\n" in shown
    assert re.search(r"^Content-Type: text/plain", shown, re.M)
    assert re.search(r"^Last-Modified: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$", shown, re.M)
    assert "X-Meta-Fetched" not in shown
    through.wipe()
    assert curl("-i", f"{api}/get/{object_id}").startswith("HTTP/1.1 404 Not Found")
    shown = curl("-i", "-H", "X-Meta-Fetch: 1", f"{api}/get/{object_id}").replace("\r", "")
    for line in (
        "HTTP/1.1 200 OK",
        "Content-Length: 9",
        "X-Meta-Consistencylevel: 2",
        "X-Meta-Fetched: true",
        f"X-Meta-Id: {object_id}",
        "X-Meta-Name: test.txt",
    ):
        assert f"{line}\n" in shown
    assert shown.endswith("\n\nIt works!")
    assert "X-Meta-Fetched" not in curl("-i", f"{api}/get/{object_id}")


def test_ping_id_version_and_stats(alone: Objstore) -> None:
    member = alone.ask("GET", "ping")
    assert (member.status, read_ulid(member.body.decode())) == (200, member.body.decode())
    assert member.headers["content-type"] == "text/plain; charset=utf-8"
    assert len({alone.new_id() for _ in range(20)}) == 20
    assert alone.ask("GET", "version").body.decode() == __version__
    stats = alone.ask("GET", "stats").json()
    disk = stats["disk_stats"]
    assert disk["all"] >= disk["used"] + disk["free"] > 0
    assert stats["sfss"]["owed_to_bucket"] == 0
    alone.gateway.stop()
    alone.gateway.start()
    assert alone.ask("GET", "ping").body == member.body, "a member keeps its name"
    assert "objects.bucket is empty" in alone.gateway.output()


def test_what_is_put_comes_back(alone: Objstore) -> None:
    user = {"colour": "rot", "größe": "5 µm"}
    put = alone.put(ID, b"body", 1, "ü a.png", user)
    assert put.status == 200
    for method in ("GET", "HEAD"):
        answer = alone.get(ID, method=method)
        assert answer.status == 200
        assert answer.body == (b"body" if method == "GET" else b"")
        assert answer.headers["content-length"] == "4"
        assert answer.headers["x-meta-id"] == ID
        assert answer.headers["x-meta-name"].encode("latin-1").decode() == "ü a.png"
        assert answer.headers["x-meta-consistencylevel"] == "1"
        assert json.loads(answer.headers["x-meta-usermeta"]) == user
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["etag"] == put.headers["etag"]
        for name in ("x-meta-symlink", "x-meta-fetched", "x-meta-deleted"):
            assert name not in answer.headers
    known = alone.meta(ID.lower()).json()
    assert known == put.json()
    assert known.pop("timestamp") > 1_700_000_000_000_000_000
    assert known == {
        "id": ID,
        "name": "ü a.png",
        "size": 4,
        "user_meta": user,
        "is_symlink": False,
        "consistency": 1,
        "is_deleted": False,
        "is_fetched": False,
    }


def test_header_names_are_written_as_objstore_writes_them(alone: Objstore) -> None:
    alone.put(ID, b"body", 0, "a", {"a": "b"})
    shown = curl("-i", f"{alone.gateway.url}/api/v1/get/{ID}")
    names = re.findall(r"^(X-Meta-\w+):", shown, re.M)
    assert sorted(names) == [
        "X-Meta-Consistencylevel",
        "X-Meta-Id",
        "X-Meta-Name",
        "X-Meta-Usermeta",
    ]
    alone.delete(ID)
    shown = curl("-i", f"{alone.gateway.url}/api/v1/get/{ID}")
    assert re.search("^X-Meta-Deleted: true$", shown, re.M)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "X-Meta-ID is missing"),
        ({"X-Meta-ID": "foo"}, "X-Meta-ID is 'foo'"),
        ({"X-Meta-ID": ID, "X-Meta-ConsistencyLevel": "3"}, "0, 1 or 2 is expected"),
        ({"X-Meta-ID": ID, "X-Meta-ConsistencyLevel": "one"}, "0, 1 or 2 is expected"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": "{"}, "a JSON object of strings is expected"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": '{"a": 1}'}, "'a' is no string"),
        ({"X-Meta-ID": ID, "Expires-In": "soon"}, "Expires-In"),
    ],
)
def test_mistakes_are_400_with_a_sentence(
    alone: Objstore, fields: dict[str, str], sentence: str
) -> None:
    answer = alone.ask("POST", "put", b"body", fields)
    assert answer.status == 400
    assert sentence in answer.json()["error"]
    assert alone.meta(ID).status == 404


def test_too_much_user_metadata_is_431(alone: Objstore) -> None:
    user = {str(number): "" for number in range(65)}
    assert alone.put(ID, b"body", user=user).status == 431


def test_what_is_unknown_is_404_everywhere(alone: Objstore) -> None:
    for what in (ID, "foo", "0" * 25):
        for answer in (alone.get(what), alone.get(what, fetch=True), alone.meta(what)):
            assert answer.status == 404
            assert "error" in answer.json()
            assert "x-meta-deleted" not in answer.headers
        assert alone.get(what, method="HEAD").status == 404
        assert alone.delete(what).status == 404
    assert alone.ask("GET", "nothing").status == 404
    assert alone.ask("GET", "get").status == 404
    assert alone.ask("GET", f"get/{ID}/more").status == 404
    assert alone.ask("PUT", f"get/{ID}", b"x").status == 405


def test_the_same_id_again_replaces(alone: Objstore) -> None:
    alone.put(ID, b"first", 1, "a.txt", {"a": "b"})
    first = alone.meta(ID).json()
    assert alone.put(ID, b"second").status == 200
    answer = alone.get(ID)
    assert answer.body == b"second"
    assert "x-meta-name" not in answer.headers
    assert "x-meta-usermeta" not in answer.headers
    assert answer.headers["content-type"] == "application/octet-stream"
    assert alone.meta(ID).json()["timestamp"] > first["timestamp"]


def test_bodies_that_were_replaced_are_removed_when_the_gateway_ends(alone: Objstore) -> None:
    for number in range(5):
        alone.put(ID, b"body %d" % number)
    alone.put(ID[:-1] + "W", b"gone")
    alone.delete(ID[:-1] + "W")
    alone.gateway.stop()
    alone.gateway.start()
    assert len(alone.files("single/")) == 1
    assert alone.get(ID).body == b"body 4"


def test_a_deletion_is_repeated_and_told(alone: Objstore) -> None:
    alone.put(ID, b"body", 0, "a.txt")
    for _ in range(3):
        assert alone.delete(ID).status == 200
        answer = alone.get(ID)
        assert answer.status == 404
        assert answer.headers["x-meta-deleted"] == "true"
        assert alone.get(ID, method="HEAD").headers["x-meta-deleted"] == "true"
        assert alone.get(ID, fetch=True).headers["x-meta-deleted"] == "true"
        known = alone.meta(ID)
        assert (known.status, known.json()["is_deleted"]) == (200, True)
    assert alone.put(ID, b"again").status == 200
    assert alone.get(ID).body == b"again"
    assert alone.meta(ID).json()["is_deleted"] is False


def test_ranges_and_conditions(alone: Objstore) -> None:
    etag = alone.put(ID, b"0123456789", 0, "a.txt").headers["etag"]
    part = alone.ask("GET", f"get/{ID}", None, {"Range": "bytes=2-4"})
    assert (part.status, part.body) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    same = alone.ask("GET", f"get/{ID}", None, {"If-None-Match": etag})
    assert (same.status, same.headers["x-meta-id"]) == (304, ID)
    modified = alone.get(ID).headers["last-modified"]
    since = {"If-Modified-Since": modified}
    assert alone.ask("GET", f"get/{ID}", None, since).status == 304
    fields = {"X-Meta-ID": ID, "If-None-Match": "*"}
    assert alone.ask("POST", "put", b"other", fields).status == 412
    fields = {"X-Meta-ID": ID, "If-Match": etag}
    assert alone.ask("POST", "put", b"other", fields).status == 200
    assert alone.get(ID).body == b"other"


@pytest.mark.parametrize("how", ["query", "field"])
def test_what_expires_is_gone(alone: Objstore, how: str) -> None:
    if how == "query":
        assert alone.put(ID, b"body", query="?ttl=1").status == 200
    else:
        fields = {"X-Meta-ID": ID, "Expires-In": "1"}
        assert alone.ask("POST", "put", b"body", fields).status == 200
    wait_until(lambda: alone.get(ID).status == 404, "it has expired")
    assert alone.meta(ID).status == 404
    assert "x-meta-deleted" not in alone.get(ID).headers
    wait_until(lambda: not alone.files("single/"), "its body is swept")
    assert alone.delete(ID).status == 404


def test_an_empty_object_and_a_form(alone: Objstore) -> None:
    assert alone.ask("POST", "put", None, {"X-Meta-ID": ID}).status == 200
    assert alone.get(ID).body == b""
    form = curl(
        "-F", "file=@-;filename=a.txt", "-H", f"X-Meta-ID: {ID}", f"{alone.gateway.url}/api/v1/put"
    )
    assert json.loads(form)["size"] == 0


def test_a_large_object_is_kept_in_chunks(through: Objstore) -> None:
    body = bytes(range(256)) * (40 * 1024)
    assert through.put(ID, body, 1, "a.bin").status == 200
    assert through.get(ID).body == body
    part = through.ask("GET", f"get/{ID}", None, {"Range": "bytes=5000000-5000009"})
    assert part.body == body[5_000_000:5_000_010]
    assert through.in_bucket(ID).body == body
    through.lose_body(ID)
    answer = through.get(ID)
    assert (answer.body, answer.headers.get("x-meta-fetched")) == (body, "true")
    answer = through.get(ID)
    assert (answer.body, answer.headers.get("x-meta-fetched")) == (body, None)


def test_levels(through: Objstore) -> None:
    ids = [through.new_id() for _ in range(3)]
    for level, object_id in enumerate(ids):
        assert through.put(object_id, b"body", level, "a.txt", {"Colour": "red"}).status == 200
        assert through.meta(object_id).json()["consistency"] == level
    assert through.in_bucket(ids[0]).status == 404
    for level in (1, 2):
        found = through.in_bucket(ids[level])
        assert (found.status, found.body) == (200, b"body")
        assert found.headers["content-type"] == "text/plain"
        assert found.headers["x-amz-meta-id"] == ids[level]
        assert found.headers["x-amz-meta-name"] == "a.txt"
        assert found.headers["x-amz-meta-consistency"] == str(level)
        assert found.headers["x-amz-meta-usermeta-colour"] == "red"
        assert found.headers["x-amz-meta-size"] == "4"
        timestamp = through.meta(ids[level]).json()["timestamp"]
        assert found.headers["x-amz-meta-timestamp"] == str(timestamp)
    (everywhere,) = through.files("every/")
    assert everywhere.startswith(f"every/{ids[2]}/")
    through.wait_paid()


def test_an_object_that_goes_down_to_level_0_leaves_the_bucket(through: Objstore) -> None:
    through.put(ID, b"first", 1)
    assert through.put(ID, b"second", 0).status == 200
    through.wait_paid()
    assert through.in_bucket(ID).status == 404
    assert through.get(ID).body == b"second"
    through.put(ID, b"third", 2)
    assert through.in_bucket(ID).body == b"third"


def test_a_deletion_goes_to_the_bucket_and_nothing_brings_it_back(through: Objstore) -> None:
    through.put(ID, b"body", 1)
    assert through.delete(ID).status == 200
    through.wait_paid()
    assert through.in_bucket(ID).status == 404
    assert through.get(ID, fetch=True).headers["x-meta-deleted"] == "true"
    # Even if the bucket had it again: a late write, or one of others.
    assert through.server is not None
    through.server.put(f"{BUCKET}/{PREFIX}/{ID}", b"late")
    answer = through.get(ID, fetch=True)
    assert (answer.status, answer.headers["x-meta-deleted"]) == (404, "true")


def test_a_bucket_that_is_down(through: Objstore) -> None:
    assert through.server is not None
    kept, unknown, local = (through.new_id() for _ in range(3))
    through.put(kept, b"first", 1)
    for stop in (through.server.pause, through.server.kill):
        stop()
        assert through.put(local, b"local", 0).status == 200
        assert through.get(local).body == b"local"
        for level in (1, 2):
            answer = through.put(kept, b"second", level)
            assert answer.status == 504
            assert "s3://" in answer.json()["error"]
            assert through.put(unknown, b"new", level).status == 504
        assert through.get(kept).body == b"first"
        assert through.get(unknown).status == 404
        assert through.get(unknown, fetch=True).status == 504
        through.lose_body(kept)
        assert through.get(kept).status == 504
        if stop == through.server.pause:
            through.server.resume()
            wait_until(lambda: through.get(kept).status == 200, "the bucket answers again")
            through.wait_paid()
            assert through.in_bucket(kept).body == b"first"
            assert through.in_bucket(unknown).status == 404


def test_what_was_deleted_without_the_bucket_is_removed_there_later(through: Objstore) -> None:
    assert through.server is not None
    through.put(ID, b"body", 1)
    through.wait_paid()
    through.server.pause()
    assert through.delete(ID).status == 200
    assert through.delete(ID).status == 200
    answer = through.get(ID, fetch=True)
    assert (answer.status, answer.headers["x-meta-deleted"]) == (404, "true")
    assert through.owed() == 1
    through.gateway.kill()
    through.gateway.start()
    assert through.owed() == 1
    through.server.resume()
    through.wait_paid()
    assert through.in_bucket(ID).status == 404
    through.wipe()
    assert through.get(ID, fetch=True).status == 404


def test_a_deletion_is_remembered_until_the_bucket_has_forgotten(
    tmp_path: Path, server: S3Server
) -> None:
    objstore = Objstore(tmp_path, server, fetch='"asked"\ntombstone_days = 0.01')
    with running(objstore.gateway):
        objstore.put(ID, b"body", 1)
        objstore.wait_paid()
        server.pause()
        assert objstore.delete(ID).status == 200
        entry = objstore.gateway.request("GET", f"/file?path=objects/{ID}")
        assert "expires" not in entry.headers
        server.resume()
        objstore.wait_paid()
        entry = objstore.gateway.request("GET", f"/file?path=objects/{ID}")
        assert "expires" in entry.headers
        assert objstore.get(ID).headers["x-meta-deleted"] == "true"


def test_what_others_have_put_is_fetched_by_its_key(through: Objstore) -> None:
    assert through.server is not None
    labels = {
        "Content-Type": "image/png",
        "x-amz-meta-name": "theirs.png",
        "x-amz-meta-consistency": "2",
        "x-amz-meta-usermeta-a": "b",
    }
    other = through.new_id()
    through.server.put(f"{BUCKET}/{PREFIX}/{ID}", b"by others")
    through.server.put(f"{BUCKET}/{PREFIX}/{other}", b"by objstore", labels)
    assert through.get(ID).status == 404
    assert through.meta(ID).status == 404
    answer = through.get(ID, fetch=True)
    assert (answer.status, answer.body) == (200, b"by others")
    assert answer.headers["x-meta-fetched"] == "true"
    assert answer.headers["x-meta-consistencylevel"] == "1"
    assert through.get(ID).body == b"by others"
    assert through.meta(ID).json()["is_fetched"] is True
    answer = through.get(other, fetch=True)
    assert answer.headers["x-meta-name"] == "theirs.png"
    assert answer.headers["x-meta-consistencylevel"] == "2"
    assert answer.headers["x-meta-usermeta"] == '{"a": "b"}'
    assert answer.headers["content-type"] == "image/png"
    through.lose_body(ID)
    assert through.get(ID).headers["x-meta-fetched"] == "true"
    assert through.delete(ID).status == 200
    through.wait_paid()
    assert through.in_bucket(ID).status == 404


def test_what_only_the_bucket_has_is_deleted_if_asked(through: Objstore) -> None:
    assert through.server is not None
    through.server.put(f"{BUCKET}/{PREFIX}/{ID}", b"by others")
    assert through.delete(ID).status == 404
    assert through.ask("POST", f"delete/{ID}", None, {"X-Meta-Fetch": "1"}).status == 200
    through.wait_paid()
    assert through.in_bucket(ID).status == 404
    assert through.get(ID, fetch=True).headers["x-meta-deleted"] == "true"


def test_always_fetched(tmp_path: Path, server: S3Server) -> None:
    objstore = Objstore(tmp_path, server, fetch='"always"')
    server.put(f"{BUCKET}/{PREFIX}/{ID}", b"by others")
    with running(objstore.gateway):
        assert objstore.get(ID).headers["x-meta-fetched"] == "true"
        assert objstore.get(objstore.new_id()).status == 404


def test_of_all_who_ask_at_once_one_asks_the_bucket(tmp_path: Path, server: S3Server) -> None:
    objstore = Objstore(tmp_path, server, workers="1")
    with running(objstore.gateway):
        objstore.put(ID, b"body" * 100_000, 1)
        objstore.lose_body(ID)
        before = server.output().count(f'"GET /{BUCKET}/{PREFIX}/{ID}')
        server.pause()
        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(objstore.get, ID) for _ in range(16)]
            wait_until(lambda: asked(objstore) >= 16, "all have asked")
            server.resume()
            found = [each.result() for each in answers]
        assert {each.body for each in found} == {b"body" * 100_000}
        assert {each.headers.get("x-meta-fetched") for each in found} == {"true"}
        assert server.output().count(f'"GET /{BUCKET}/{PREFIX}/{ID}') == before + 1


def asked(objstore: Objstore) -> int:
    return int(objstore.ask("GET", "stats").json()["sfss"]["this_worker"]["gets"])


def test_a_body_that_is_lost(through: Objstore) -> None:
    local, kept = through.new_id(), through.new_id()
    through.put(local, b"local", 0)
    through.put(kept, b"kept", 1, "a.txt")
    for object_id in (local, kept):
        through.lose_body(object_id)
    answer = through.get(local)
    assert answer.status == 500
    assert "a body" in answer.json()["error"]
    assert through.get(local, method="HEAD").status == 200, "its entry is there"
    answer = through.get(kept)
    assert (answer.body, answer.headers["x-meta-fetched"]) == (b"kept", "true")
    assert through.put(local, b"again", 0).status == 200
    assert through.get(local).body == b"again"


@pytest.mark.parametrize("other", [b"other", b"first"])
def test_what_others_have_put_over_it_is_not_served_for_it(through: Objstore, other: bytes) -> None:
    assert through.server is not None
    through.put(ID, b"first", 1)
    through.server.put(f"{BUCKET}/{PREFIX}/{ID}", other)
    assert through.get(ID, fetch=True).body == b"first"
    through.lose_body(ID)
    assert through.get(ID, fetch=True).status == 500
    assert through.put(ID, b"second", 1).status == 200
    assert through.in_bucket(ID).body == b"second"


def test_a_bucket_that_was_wiped(through: Objstore) -> None:
    assert through.server is not None
    through.put(ID, b"body", 1)
    through.server.delete(f"{BUCKET}/{PREFIX}/{ID}")
    assert through.get(ID).body == b"body"
    through.lose_body(ID)
    assert through.get(ID).status == 500
    through.wipe()
    assert through.get(ID, fetch=True).status == 404


def test_a_bucket_that_is_not_there(through: Objstore) -> None:
    assert through.server is not None
    through.put(ID, b"body", 1)
    through.server.kill()
    through.server.start()
    assert through.put(ID, b"other", 1).status == 504
    assert through.get(ID).body == b"body"
    assert through.get(through.new_id(), fetch=True).status == 504


def test_written_back(back: Objstore) -> None:
    assert back.server is not None
    back.server.pause()
    ids = [back.new_id() for _ in range(3)]
    for level, object_id in enumerate(ids):
        assert back.put(object_id, b"body", level).status == 200
    assert back.put(ids[1], b"newer", 1).status == 200
    assert back.delete(ids[2]).status == 200
    assert back.owed() == 2
    back.gateway.kill()
    back.gateway.start()
    assert back.get(ids[1]).body == b"newer"
    back.server.resume()
    back.wait_paid()
    assert back.in_bucket(ids[0]).status == 404
    assert back.in_bucket(ids[1]).body == b"newer"
    assert back.in_bucket(ids[2]).status == 404


def test_a_large_object_is_written_back(back: Objstore) -> None:
    body = bytes(range(256)) * (20 * 1024)
    assert back.put(ID, body, 1, "a.bin").status == 200
    back.wait_paid()
    assert back.in_bucket(ID).body == body


def test_no_acknowledged_object_is_lost_when_it_is_killed(through: Objstore) -> None:
    ids = [through.new_id() for _ in range(200)]
    answered: list[str] = []

    def put(object_id: str) -> None:
        try:
            if through.put(object_id, object_id.encode(), 1).status == 200:
                answered.append(object_id)
        except (OSError, HTTPException):
            return

    with ThreadPoolExecutor(8) as pool:
        for object_id in ids:
            pool.submit(put, object_id)
        wait_until(lambda: len(answered) >= 20, "some were answered")
        through.gateway.kill()
    through.gateway.start()
    assert len(answered) < len(ids)
    for object_id in answered:
        assert through.get(object_id).body == object_id.encode()
        assert through.in_bucket(object_id).body == object_id.encode()
    through.wait_paid()
    for object_id in set(ids) - set(answered):
        known = through.get(object_id).status
        assert known in (200, 404)
        assert through.in_bucket(object_id).status == known, "the bucket is as the entries say"


def test_two_workers_and_one_id(through: Objstore) -> None:
    def put(number: int) -> int:
        return through.put(ID, b"body %d" % number, number % 3).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, range(60))) == {200}
    through.wait_paid()
    last = through.get(ID)
    assert last.status == 200
    level = int(last.headers["x-meta-consistencylevel"])
    found = through.in_bucket(ID)
    assert (found.status, found.body) == ((200, last.body) if level else (404, found.body))


def test_a_reload_goes_on_with_objects(through: Objstore) -> None:
    through.put(ID, b"body", 1)
    before = through.gateway.workers()
    through.gateway.send(signal.SIGHUP)
    wait_until(lambda: not set(before) & set(through.gateway.workers()), "the workers are new")
    assert through.get(ID).body == b"body"
    assert through.delete(ID).status == 200
    through.wait_paid()


def test_bodies_that_nobody_needs_are_found_by_scrub(through: Objstore) -> None:
    large = bytes(range(256)) * (20 * 1024)
    through.put(ID, large, 1)
    other = through.new_id()
    through.put(other, b"body")
    through.put(ID, b"first", 1)
    through.put(ID, large, 1)
    through.gateway.kill()
    through.gateway.start()
    assert len(through.files("single/")) == 4
    assert tool(through, "check") == (0, 0)
    assert tool(through, "scrub") == (0, 0)
    assert tool(through, "scrub", "--orphans-after", "0", "--dry-run") == (1, 13)  # 11 chunks
    assert tool(through, "scrub", "--orphans-after", "0")[0] == 0
    assert len(through.files("single/")) == 2
    assert tool(through, "scrub", "--orphans-after", "0") == (0, 0)
    assert through.get(ID).body == large
    assert through.get(other).body == b"body"


def tool(objstore: Objstore, name: str, *options: str) -> tuple[int, int]:
    """Run a tool; return its status, and how many orphans it has found."""
    command = [*SFSS, name, "--config", str(objstore.config), "--json", *options]
    environ = {**os.environ, **objstore.gateway.environ}
    done = subprocess.run(
        command, cwd=objstore.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]["orphan"]


async def lose_chunk(objstore: Objstore, number: int) -> None:
    """Remove one chunk of the one large object from the store."""
    store = EmbeddedStore(objstore.folder / "var" / "objects", make=False)
    try:
        chunks = [entry.key for entry in await store.scan(b"%00s", b"", 1000)]
        assert await store.delete(chunks[number])
    finally:
        await store.close()


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize("level", [0, 1])
async def test_a_chunk_that_is_lost_comes_from_the_bucket(
    through: Objstore, number: int, level: int
) -> None:
    body = hashlib.shake_256(b"large").digest(5 * MIB)
    through.put(ID, body, level)
    await lose_chunk(through, number)
    if level:
        assert through.get(ID).body == body
        assert through.get(ID).body == body
        part = through.ask("GET", f"get/{ID}", None, {"Range": "bytes=3000000-3000009"})
        assert part.body == body[3_000_000:3_000_010]
    elif number == 0:
        assert through.get(ID).status == 500
    else:
        with pytest.raises(HTTPException):
            through.get(ID)


def test_beside_files_by_path(tmp_path: Path) -> None:
    objstore = Objstore(tmp_path, None, faces='["objects", "paths", "status"]')
    with running(objstore.gateway) as server:
        objstore.put(ID, b"object", name="a.txt")
        for _ in range(2):  # the short way is tried, too
            assert objstore.get(ID).headers["x-meta-id"] == ID
            assert server.request("PUT", "/api/v1/other/a", b"file").status in (201, 204)
            assert server.request("GET", "/api/v1/other/a").body == b"file"
        assert server.request("PUT", f"/api/v1/get/{ID}", b"file").status == 405
        assert server.request("GET", f"/objects/{ID}").status == 200


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    environ = {**os.environ, **PYTHON_ENVIRON}
    for changes, sentence in (
        ({"kind": '"nodes"'}, 'cluster.kind "nodes" has no objects'),
        ({"bucket": '"my-bucket"'}, '"s3://BUCKET/PREFIX", or an empty text'),
        ({"write": '"around"'}, "objects.write"),
        ({"fetch": '"never"'}, "objects.fetch"),
        ({"fetch": '"always"\nowed_folder = "/proc/none"'}, "objects.owed_folder"),
    ):
        objstore = Objstore(tmp_path, None, **changes)
        text = objstore.config.read_text() + "[memcached]\nservers = ['127.0.0.1:1']\n"
        if "/proc/none" in text:
            text = text.replace('owed_folder = "var/owed-objects"', "")
        objstore.config.write_text(text)
        ended = subprocess.run(
            objstore.gateway.command,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert ended.returncode != 0
        assert sentence in ended.stderr


def test_the_list_of_what_is_owed_stays_where_it_is_until_a_restart(through: Objstore) -> None:
    text = through.config.read_text()
    through.config.write_text(text.replace('"var/owed-objects"', '"var/another"'))
    through.gateway.send(signal.SIGHUP)
    wait_until(lambda: "until a restart" in through.gateway.output(), "the reload is refused")
    assert through.put(ID, b"body", 1).status == 200


def test_a_clock_that_is_ahead_does_not_keep_a_put_from_the_bucket(through: Objstore) -> None:
    assert through.server is not None
    ahead = time.time_ns() // 1000 + 3_600_000_000
    head = encode_head(new_record(b"ahead", ahead).head)
    fields = {"x-amz-meta-sfss": base64.b64encode(head).decode()}
    through.server.put(f"{BUCKET}/{PREFIX}/{ID}", b"ahead", fields)
    put = through.put(ID, b"body", 1)
    assert put.json()["timestamp"] == (ahead + 1) * 1000
    assert through.in_bucket(ID).body == b"body"
    assert through.get(ID).body == b"body"
    through.lose_body(ID)
    assert through.get(ID).body == b"body"
    through.put(ID, b"second", 1)
    assert through.in_bucket(ID).body == b"second"
    through.delete(ID)
    through.wait_paid()
    assert through.in_bucket(ID).status == 404
