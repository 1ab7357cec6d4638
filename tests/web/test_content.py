"""A running gateway with the faces "upload", "fetch" and "blobs" on one address."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import Answer, Gateway, gateway, memcached, running, wait_until
from tests.web.client import chunked, head, wire
from tests.web.conftest import over

FACES = "[server]\nfaces = ['upload', 'fetch', 'blobs', 'native', 'paths']\n"
IMMUTABLE = "public, max-age=31536000, immutable"
CURL = {"User-Agent": "curl/7.88.1", "Accept": "*/*"}


@pytest.fixture(name="site", scope="module", params=["embedded", "memcached"])
def a_gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        with running(gateway(folder, "--store", "store", settings=FACES)) as server:
            yield server
    else:
        store = memcached(folder, "-I", "4m")
        settings = FACES + over("nodes", store)
        with running(store), running(gateway(folder, settings=settings)) as server:
            yield server


@pytest.fixture(name="listed", scope="module")
def a_gateway_that_lists(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("listed")
    settings = FACES + "workers = 2\n[content]\ndigest = 'sha256'\n"
    with running(gateway(folder, "--store", "store", settings=settings)) as server:
        yield server


def sha1(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def upload(
    site: Gateway, body: bytes, fields: Mapping[str, str] | None = None, query: str = ""
) -> Answer:
    return site.request("POST", f"/upload{query}", body, fields)


def fetch(site: Gateway, name: str, fields: Mapping[str, str] | None = None) -> Answer:
    return site.request("GET", f"/fetch/{name}", None, fields)


@pytest.mark.parametrize("body", [b"", b"hello\n", bytes(range(256)) * 4096])
def test_an_upload_is_fetched_by_its_digest(site: Gateway, body: bytes) -> None:
    answer = upload(site, body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"id": sha1(body), "status": "OK", "size": len(body)}
    for name in (sha1(body), f"{sha1(body)}.jpg", f"{sha1(body)}.tar.gz", f"{sha1(body)}."):
        got = fetch(site, name)
        assert (got.status, got.body) == (200, body)
        assert got.headers["etag"] == f'"{sha1(body)}"'
        assert got.headers["cache-control"] == IMMUTABLE
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["x-content-type-options"] == "nosniff"
        bare = site.request("HEAD", f"/fetch/{name}")
        assert (bare.status, bare.body) == (200, b"")
        assert {**bare.headers, "date": ""} == {**got.headers, "date": ""}


def test_an_upload_without_a_length_is_empty(site: Gateway) -> None:
    with wire(site) as connection:
        connection.send(head("POST", "/upload"))
        assert connection.answer().json() == {"id": sha1(b""), "status": "OK", "size": 0}
        connection.send(head("POST", "/upload", "Transfer-Encoding: chunked"), chunked(b"a", b"b"))
        assert connection.answer().json()["id"] == sha1(b"ab")


def test_fields_that_begin_with_x_come_back(site: Gateway) -> None:
    fields = {"x-mime-type": "text/plain", "X-ORIGINAL-name": "ü.txt", "Other": "no"}
    with wire(site) as connection:
        lines = [f"{name}: {value}" for name, value in fields.items() if name != "X-ORIGINAL-name"]
        raw = head(
            "POST", "/upload", *lines, "X-ORIGINAL-name: caf\u00c3\u00a9", "Content-Length: 6"
        )
        connection.send(raw, b"fields")
        assert connection.answer().status == 200
        for method in ("GET", "HEAD"):
            connection.send(head(method, f"/fetch/{sha1(b'fields')}.png"))
            got = connection.answer(method)
            assert got.headers["x-mime-type"] == "text/plain"
            assert got.headers["x-original-name"].encode() == "café".encode()
            assert got.headers["content-type"] == "text/plain"
            assert "other" not in got.headers


def test_orders_to_a_server_in_front_are_not_kept(site: Gateway) -> None:
    fields = {"X-Accel-Redirect": "/status", "X-Sendfile": "/etc/passwd", "X-Kept": "yes"}
    blob_id = upload(site, b"orders", fields).json()["id"]
    got = fetch(site, blob_id).headers
    assert got["x-kept"] == "yes"
    assert "x-accel-redirect" not in got and "x-sendfile" not in got


@pytest.mark.parametrize(
    ("fields", "media_type"),
    [
        ({"Content-Type": "image/avif"}, "image/avif"),
        ({"Content-Type": "image/avif", "X-Mime-Type": "image/webp"}, "image/webp"),
        ({"X-Mime-Type": "no type"}, "application/octet-stream"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "application/octet-stream"),
    ],
)
def test_the_type_of_a_blob(site: Gateway, fields: dict[str, str], media_type: str) -> None:
    blob_id = upload(site, repr(fields).encode(), fields).json()["id"]
    assert fetch(site, f"{blob_id}.html").headers["content-type"] == media_type


def test_too_much_to_keep(site: Gateway) -> None:
    many = {f"X-{number}": "v" for number in range(65)}
    answer = upload(site, b"too much", {**many, **CURL})
    assert answer.status == 431
    assert "65 fields" in answer.json()["error"]
    # Each of these characters takes six bytes, or twelve, as they are kept.
    wide = {f"X-{number}": "\u00e4" * 3000 for number in range(5)}
    with wire(site) as connection:
        lines = [f"{name}: {value}" for name, value in wide.items()]
        text = head("POST", "/upload", *lines, "Content-Length: 4").decode("latin-1").encode()
        connection.send(text, b"wide")
        assert connection.answer().status == 431
    with wire(site) as connection:
        connection.send(head("POST", "/upload", "X-A: \xff", "Content-Length: 1"), b"x")
        answer = connection.answer()
        assert answer.status == 400
        assert "X-A" in answer.json()["error"]
    assert fetch(site, sha1(b"too much")).status == 404


@pytest.mark.parametrize(
    "name", [sha1(b"nothing"), f"{sha1(b'nothing')}.txt", "A", "a/b", "", "%2e"]
)
def test_what_is_not_there_is_404_as_json_for_anybody(site: Gateway, name: str) -> None:
    answer = fetch(site, name, CURL)
    assert answer.status == 404
    assert set(answer.json()) == {"error"}
    assert "cache-control" not in answer.headers
    assert site.request("HEAD", f"/fetch/{name}").status == 404


def test_other_methods_are_refused_as_json(site: Gateway) -> None:
    for method, target in (("PUT", "/upload"), ("POST", "/fetch/a"), ("PUT", "/blob/a")):
        answer = site.request(method, target, b"", CURL)
        assert answer.status == 405
        assert set(answer.json()) == {"error"}


def test_conditions_and_ranges(site: Gateway) -> None:
    blob_id = upload(site, b"0123456789").json()["id"]
    tag = f'"{blob_id}"'
    unchanged = fetch(site, blob_id, {"If-None-Match": tag})
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert unchanged.headers["cache-control"] == IMMUTABLE
    assert fetch(site, blob_id, {"If-Match": '"other"'}).status == 412
    part = fetch(site, blob_id, {"Range": "bytes=2-4", "If-Range": tag})
    assert (part.status, part.body) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert fetch(site, blob_id, {"Range": "bytes=2-4", "If-Range": '"other"'}).status == 200
    assert fetch(site, blob_id, {"Range": "bytes=10-"}).status == 416


def test_the_same_content_twice_is_one_blob(site: Gateway) -> None:
    first = upload(site, b"twice", {"X-Name": "first", "Content-Type": "text/plain"})
    second = upload(site, b"twice", {"X-Name": "second", "X-Other": "second"})
    assert (first.status, second.status) == (200, 200)
    assert first.json() == second.json()
    got = fetch(site, sha1(b"twice"))
    assert got.headers["x-name"] == "first"
    assert got.headers["content-type"] == "text/plain"
    assert "x-other" not in got.headers


def test_many_upload_the_same_at_once(site: Gateway) -> None:
    def one(number: int) -> Answer:
        return upload(site, b"at once", {"X-Name": str(number)})

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(36)))
    assert {each.status for each in answers} == {200}
    assert len({each.body for each in answers}) == 1
    assert fetch(site, sha1(b"at once")).body == b"at once"


def test_a_blob_expires(site: Gateway) -> None:
    assert upload(site, b"soon", query="?ttl=1").status == 200
    later = upload(site, b"later", {"Expires-In": "1000"}).json()["id"]
    got = fetch(site, later).headers["cache-control"]
    age_s = int(got.partition("max-age=")[2].partition(",")[0])
    assert 900 < age_s <= 1000
    wait_until(lambda: fetch(site, sha1(b"soon")).status == 404, "the blob has expired")
    assert upload(site, b"soon").status == 200
    assert fetch(site, sha1(b"soon")).headers["cache-control"] == IMMUTABLE
    assert upload(site, b"x", query="?ttl=x").status == 400


def test_a_blob_is_kept_as_long_as_anybody_wants(site: Gateway) -> None:
    def expires(body: bytes) -> bool:
        return "expires" in fetch(site, sha1(body)).headers

    upload(site, b"for ever")
    upload(site, b"for ever", query="?ttl=1")
    assert not expires(b"for ever")
    upload(site, b"longer", query="?ttl=1")
    upload(site, b"longer", query="?ttl=2000")
    upload(site, b"longer", query="?ttl=1")
    assert expires(b"longer")
    age = fetch(site, sha1(b"longer")).headers["cache-control"]
    assert 1900 < int(age.partition("max-age=")[2].partition(",")[0]) <= 2000
    upload(site, b"longer")
    assert not expires(b"longer")
    ended = time.time() + 1.1
    wait_until(lambda: time.time() > ended, "the shortest time is over")
    assert [fetch(site, sha1(each)).status for each in (b"for ever", b"longer")] == [200, 200]


def test_a_blob_server(site: Gateway) -> None:
    assert site.request("GET", "/alive").status == 200
    blob_id = sha1(b"a blob")
    fields = {"X-Name": "n", "X-Mime-Type": "text/css"}
    assert site.request("HEAD", f"/blob/{blob_id}").status == 404
    stored = site.request("POST", f"/blob/{blob_id}", b"a blob", fields)
    assert (stored.status, stored.json()) == (200, {"id": blob_id, "status": "OK", "size": 6})
    got = site.request("GET", f"/blob/{blob_id}")
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"a blob", "text/css")
    # Another blob server gets what this one got, and nothing else.
    assert {each for each in got.headers if each.startswith("x-")} == {"x-name", "x-mime-type"}
    assert site.request("HEAD", f"/blob/{blob_id}").headers == {
        **got.headers,
        "date": site.request("HEAD", f"/blob/{blob_id}").headers["date"],
    }
    assert fetch(site, blob_id).body == b"a blob"
    assert site.request("GET", f"/blob/{blob_id}.css").status == 404


def test_an_id_that_is_the_digest_of_something_else(site: Gateway) -> None:
    for wrong in (sha1(b"right"), hashlib.sha256(b"right").hexdigest()):
        answer = site.request("POST", f"/blob/{wrong}", b"wrong", CURL)
        assert answer.status == 400
        assert "the id is" in answer.json()["error"]
        assert site.request("GET", f"/blob/{wrong}").status == 404
    right = hashlib.sha256(b"right").hexdigest()
    assert site.request("POST", f"/blob/{right}", b"right").status == 200
    assert fetch(site, right).body == b"right"


def test_conditions_of_a_blob_that_is_put_under_its_digest(site: Gateway) -> None:
    body = b"under a condition"
    blob = f"/blob/{sha1(body)}"

    def put(fields: Mapping[str, str]) -> int:
        return site.request("POST", blob, body, fields).status

    assert put({"If-Match": "*"}) == 412
    assert put({"If-None-Match": "bare"}) == 400
    assert site.request("GET", blob).status == 404
    assert put({"If-None-Match": "*"}) == 200
    assert put({"If-None-Match": "*"}) == 412
    assert put({"If-Match": '"other"'}) == 412
    assert put({"If-Match": f'"{sha1(body)}"'}) == 200


def test_an_id_that_is_no_digest_is_a_name(site: Gateway) -> None:
    assert site.request("POST", "/blob/steve", b"one", {"X-A": "1"}).status == 200
    got = site.request("GET", "/blob/steve")
    assert (got.body, got.headers["x-a"]) == (b"one", "1")
    assert "cache-control" not in got.headers
    assert site.request("POST", "/blob/steve", b"two").status == 200
    after = site.request("GET", "/blob/steve")
    assert (after.body, "x-a" in after.headers) == (b"two", False)
    assert after.headers["etag"] != got.headers["etag"]
    refused = site.request("POST", "/blob/steve", b"3", {"If-Match": got.headers["etag"]})
    assert refused.status == 412
    for name in ("Steve", "ste.ve", "ste/ve", "a" * 300):
        assert site.request("POST", f"/blob/{name}", b"x").status in (400, 404), name


def test_a_blob_is_removed(site: Gateway) -> None:
    blob_id = upload(site, b"removed").json()["id"]
    refused = site.request("DELETE", f"/blob/{blob_id}", None, {"If-Match": '"other"'})
    assert refused.status == 412
    tag = {"If-Match": f'"{blob_id}"'}
    assert site.request("DELETE", f"/blob/{blob_id}", None, tag).status == 204
    gone = site.request("DELETE", f"/blob/{blob_id}")
    assert gone.status == 404
    assert gone.json()["error"] == f"no such file: {blob_id}"
    assert fetch(site, blob_id).status == 404
    assert upload(site, b"removed").status == 200
    assert fetch(site, blob_id).body == b"removed"


def test_other_bytes_under_an_id_are_never_served(site: Gateway) -> None:
    blob_id = sha1(b"the blob")
    path = f"blobs/{blob_id[:2]}/{blob_id}"
    assert site.put(path, b"not it!!").status == 200
    for method in ("GET", "HEAD"):
        answer = site.request(method, f"/fetch/{blob_id}")
        assert answer.status == 500
        assert b"not it" not in answer.body
    assert upload(site, b"the blob", {"X-A": "1"}).status == 200
    assert fetch(site, blob_id).body == b"the blob"
    assert fetch(site, blob_id).headers["x-a"] == "1"
    # As another program has written it, and it is right.
    assert site.put(path, b"the blob").status == 200
    assert fetch(site, blob_id).body == b"the blob"
    assert site.request("HEAD", f"/fetch/{blob_id}").headers["content-length"] == "8"
    for name in ("first", "second"):
        assert upload(site, b"the blob", {"X-Name": name}, "?ttl=1").status == 200
    assert fetch(site, blob_id).headers["x-name"] == "first"
    assert fetch(site, blob_id).headers["cache-control"] == IMMUTABLE


def test_a_copy_under_another_id_is_not_that_blob(site: Gateway) -> None:
    one, other = upload(site, b"copied").json()["id"], sha1(b"other one")
    target = {"Destination": f"{site.url}/blobs/{other[:2]}/{other}"}
    assert site.request("COPY", f"/blobs/{one[:2]}/{one}", None, target).status == 201
    assert fetch(site, other).status == 500
    assert fetch(site, one).body == b"copied"


def test_the_face_paths_leaves_the_addresses_alone(site: Gateway) -> None:
    blob_id = upload(site, b"beside").json()["id"]
    assert site.request("PUT", "/plain/file.txt", b"plain").status == 201
    for _ in range(3):  # the short way, and what it remembers
        assert fetch(site, blob_id).body == b"beside"
        assert site.request("GET", "/plain/file.txt").body == b"plain"
        assert site.request("GET", f"/blobs/{blob_id[:2]}/{blob_id}").body == b"beside"


def test_sha256_by_a_setting(listed: Gateway) -> None:
    blob_id = hashlib.sha256(b"longer id").hexdigest()
    assert upload(listed, b"longer id").json()["id"] == blob_id
    assert fetch(listed, f"{blob_id}.txt").headers["etag"] == f'"{blob_id}"'
    assert listed.request("POST", f"/blob/{sha1(b's')}", b"s").status == 200
    assert fetch(listed, sha1(b"s")).body == b"s"


def test_all_ids_are_listed(listed: Gateway) -> None:
    for answer in (listed.request("DELETE", f"/blob/{each}") for each in ids(listed)):
        assert answer.status == 204
    assert ids(listed) == []
    names = [f"blob{number}" for number in range(1200)]
    with ThreadPoolExecutor(4) as pool:
        stored = pool.map(lambda name: listed.request("POST", f"/blob/{name}", b"").status, names)
        assert set(stored) == {200}
    listed.put("blobs/no/blob", b"")
    listed.put("elsewhere", b"")
    listed.request("DELETE", "/blob/blob7")
    assert ids(listed) == sorted(set(names) - {"blob7"})


def ids(site: Gateway) -> list[str]:
    answer = site.request("GET", "/blobs")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: list[str] = json.loads(answer.body)
    return found


def test_what_cannot_be_listed_is_501(tmp_path: Path) -> None:
    store = memcached(tmp_path)
    settings = FACES + over("nodes", store)
    with running(store), running(gateway(tmp_path, settings=settings)) as server:
        answer = server.request("GET", "/blobs", None, CURL)
        assert answer.status == 501
        assert set(answer.json()) == {"error"}
        store.kill()
        for each in (upload(server, b"x", CURL), fetch(server, sha1(b"x"), CURL)):
            assert each.status == 504
            assert set(each.json()) == {"error"}


def test_what_a_store_keeps_with_a_blob_no_upload_does(site: Gateway) -> None:
    body = b"with a head of its own"
    fields = {"X-Sfss": "AAAA", "X-Sfss-2": "AAAA", "X-Kept": "yes"}
    assert upload(site, body, fields).status == 200
    shown = fetch(site, sha1(body)).headers
    assert (shown["x-kept"], "x-sfss" in shown, "x-sfss-2" in shown) == ("yes", False, False)
    other = b"another with a head of its own"
    assert site.request("POST", f"/blob/{sha1(other)}", other, fields).status == 200
    shown = site.request("GET", f"/blob/{sha1(other)}").headers
    assert (shown["x-sfss"], shown["x-sfss-2"]) == ("AAAA", "AAAA")
