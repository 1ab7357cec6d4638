"""The API, row by row, over real gateways on every kind of store."""

import re
import subprocess
import time
from contextlib import closing
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from sfss import __version__
from tests.servers import Gateway, ask, binary, gateway, running
from tests.web.client import (
    FILE,
    LIMIT,
    chunked,
    file_at,
    files_at,
    head,
    multipart,
    sentence,
    wire,
)


class TestWrite:
    """POST /files and PUT /file."""

    def test_post_creates_and_replaces(self, api: Gateway, path: str) -> None:
        for body in (b"first", b"second"):
            answer = api.request("POST", files_at(path), body)
            assert (answer.status, answer.body) == (201, b"")
            assert answer.headers["location"] == file_at(path)
            got = api.request("GET", answer.headers["location"])
            assert (got.status, got.body) == (200, body)
            assert got.headers["etag"] == answer.headers["etag"]

    def test_put_creates_and_replaces(self, api: Gateway, path: str) -> None:
        tags = set()
        for body in (b"first", b"second"):
            answer = api.put(path, body)
            assert (answer.status, answer.body) == (200, b"")
            assert api.get(path).body == body
            tags.add(answer.headers["etag"])
        assert len(tags) == 2

    def test_the_same_bytes_have_the_same_etag(self, api: Gateway, path: str) -> None:
        tags = {api.put(f"{turn}{path}", b"same").headers["etag"] for turn in range(2)}
        assert len(tags) == 1
        assert re.fullmatch('"[0-9a-f]{32}"', tags.pop())

    def test_if_none_match_makes_only_new_files(self, api: Gateway, path: str) -> None:
        only_new = {"If-None-Match": "*"}
        assert api.request("POST", files_at(path), b"1", only_new).status == 201
        for method, target in (("POST", files_at(path)), ("PUT", file_at(path))):
            refused = api.request(method, target, b"2", only_new)
            assert refused.status == 412
            assert "If-None-Match" in sentence(refused)
        assert api.get(path).body == b"1"

    def test_if_match_replaces_only_what_was_seen(self, api: Gateway, path: str) -> None:
        for present in ('"x"', "*"):
            answer = api.request("PUT", file_at(path), b"0", {"If-Match": present})
            assert answer.status == 412
        assert api.get(path).status == 404
        tag = api.put(path, b"1").headers["etag"]
        assert api.request("PUT", file_at(path), b"2", {"If-Match": f'"x", {tag}'}).status == 200
        refused = api.request("PUT", file_at(path), b"3", {"If-Match": tag})
        assert refused.status == 412
        assert "If-Match" in sentence(refused)
        assert api.request("PUT", file_at(path), b"3", {"If-None-Match": tag}).status == 200
        assert api.get(path).body == b"3"

    def test_if_unmodified_since(self, api: Gateway, path: str) -> None:
        at = api.put(path, b"1").headers["last-modified"]
        past = formatdate(parsedate_to_datetime(at).timestamp() - 1, usegmt=True)
        before = {"If-Unmodified-Since": past}
        assert api.request("PUT", file_at(path), b"2", before).status == 412
        assert api.request("DELETE", file_at(path), None, before).status == 412
        assert api.get(path).body == b"1"
        assert api.request("PUT", file_at(path), b"3", {"If-Unmodified-Since": at}).status == 200
        assert api.request("PUT", file_at(path), b"4", {"If-Unmodified-Since": "?"}).status == 200

    @pytest.mark.parametrize("size", [0, 1, 100_000, LIMIT])
    def test_sizes_up_to_the_limit(self, api: Gateway, path: str, size: int) -> None:
        body = (b"\r\n\0\xffEND" * (size // 7 + 1))[:size]
        content_type, form = multipart((FILE, body))
        half = size // 2
        stored = [
            api.put(path + "length", body),
            api.request("PUT", file_at(path + "chunks"), iter([body[:half], body[half:]])),
            api.request("PUT", file_at(path + "form"), form, {"Content-Type": content_type}),
        ]
        assert [answer.status for answer in stored] == [200] * 3
        for kind in ("length", "chunks", "form"):
            got = api.get(path + kind)
            assert got.status == 200
            assert got.headers["content-length"] == str(size)
            assert got.body == body

    def test_one_byte_more_is_413(self, api: Gateway, path: str) -> None:
        body = bytes(LIMIT + 1)
        content_type, form = multipart((FILE, body))
        refused = [
            api.put(path, body),
            api.request("PUT", file_at(path), form, {"Content-Type": content_type}),
        ]
        with wire(api) as connection:
            connection.send(head("PUT", file_at(path), "Transfer-Encoding: chunked"))
            connection.send(chunked(body[:LIMIT], body[LIMIT:]))
            refused.append(connection.answer())
        assert [answer.status for answer in refused] == [413] * 3
        for answer in refused:
            assert "at most 2097152 bytes" in sentence(answer)
        assert api.get(path).status == 404

    def test_an_old_file_survives_a_refused_one(self, api: Gateway, path: str) -> None:
        api.put(path, b"old")
        assert api.put(path, bytes(LIMIT + 1)).status == 413
        assert api.get(path).body == b"old"

    def test_two_files_in_a_form_the_first_wins(self, api: Gateway, path: str) -> None:
        content_type, form = multipart(
            ('form-data; name="note"', b"x"), (FILE, b"one"), (FILE, b"two")
        )
        answer = api.request("POST", files_at(path), form, {"Content-Type": content_type})
        assert answer.status == 201
        assert api.get(path).body == b"one"

    def test_curl_sends_forms_and_raw_bodies(self, api: Gateway, path: str, tmp_path: Path) -> None:
        file = tmp_path / "file.bin"
        file.write_bytes(b"\0curl\r\n")
        for options in (["-F", f"upload_file=@{file}"], ["--data-binary", f"@{file}"]):
            url = f"{api.url}{files_at(path)}"
            command = [binary("curl"), "-sS", "-o", "-", "-w", "%{http_code}", *options, url]
            ended = subprocess.run(command, capture_output=True, check=True, timeout=30)
            assert ended.stdout == b"201"
            assert api.get(path).body == b"\0curl\r\n"
            assert api.request("DELETE", file_at(path)).status == 204


class TestRead:
    """GET and HEAD /file."""

    def test_get(self, api: Gateway, path: str) -> None:
        before = int(time.time())
        stored = api.put(path, b"0123456789")
        got = api.get(path)
        assert (got.status, got.body) == (200, b"0123456789")
        assert got.headers["content-type"] == "text/plain"
        assert got.headers["content-length"] == "10"
        assert got.headers["accept-ranges"] == "bytes"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["server"] == f"sfss/{__version__}"
        assert "content-encoding" not in got.headers
        for name in ("etag", "last-modified"):
            assert got.headers[name] == stored.headers[name]
        modified = parsedate_to_datetime(got.headers["last-modified"]).timestamp()
        assert before <= modified <= time.time()

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a.png", "image/png"),
            ("a.tar.gz", "application/gzip"),
            ("a", "application/octet-stream"),
            ("a.x.y", "application/octet-stream"),
        ],
    )
    def test_types(self, api: Gateway, path: str, name: str, expected: str) -> None:
        api.put(f"{path}/{name}", b"x")
        got = api.get(f"{path}/{name}")
        assert got.headers["content-type"] == expected
        assert "content-encoding" not in got.headers

    def test_absent_is_404(self, api: Gateway, path: str) -> None:
        answer = api.get(path)
        assert answer.status == 404
        assert sentence(answer) == f"no such file: {path}"

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"Range": "bytes=0-1"},
            {"If-None-Match": "*"},
            {"If-Match": '"x"'},
            {"If-Modified-Since": "Fri, 31 Dec 2100 00:00:00 GMT"},
        ],
    )
    def test_head_is_get_without_the_body(
        self, api: Gateway, path: str, fields: dict[str, str]
    ) -> None:
        api.put(path, b"0123456789")
        # A Range is for GET alone (RFC 9110, 14.2): HEAD answers for the whole file.
        unranged = {name: value for name, value in fields.items() if name != "Range"}
        got = api.request("GET", file_at(path), None, unranged)
        found = api.request("HEAD", file_at(path), None, fields)
        assert found.body == b""
        assert found.status == got.status
        for answer in (got, found):
            del answer.headers["date"]
            answer.headers.pop("x-request-id", None)  # of a refusal; each has its own
        assert found.headers == got.headers

    def test_head_of_what_is_absent(self, api: Gateway, path: str) -> None:
        answer = api.request("HEAD", file_at(path))
        assert (answer.status, answer.body) == (404, b"")
        assert int(answer.headers["content-length"]) > 0

    def test_a_connection_serves_many_requests(self, api: Gateway, path: str) -> None:
        with wire(api) as connection:
            for body in (b"one", b"two"):
                fields = f"Content-Length: {len(body)}"
                connection.send(head("PUT", file_at(path), fields), body)
                assert connection.answer().status == 200
                connection.send(head("HEAD", file_at(path)), head("GET", file_at(path)))
                assert connection.answer("HEAD").body == b""
                assert connection.answer().body == body

    @pytest.mark.parametrize(
        ("field", "expected"),
        [
            ("If-None-Match: {tag}", 304),
            ('If-None-Match: "x", W/{tag}', 304),
            ("If-None-Match: *", 304),
            ('If-None-Match: "x"', 200),
            ("If-Modified-Since: {at}", 304),
            ("If-Modified-Since: {past}", 200),
            ("If-Modified-Since: nonsense", 200),
            ('If-None-Match: "x"\r\nIf-Modified-Since: {at}', 200),
            ('If-None-Match: "x"\r\nIf-None-Match: {tag}', 304),
            ("If-Match: {tag}", 200),
            ("If-Match: *", 200),
            ("If-Match: W/{tag}", 412),
            ('If-Match: "x"', 412),
            ("If-Unmodified-Since: {at}", 200),
            ("If-Unmodified-Since: {past}", 412),
            ("If-Match: {tag}\r\nIf-Unmodified-Since: {past}", 200),
            ("If-Match: {tag}\r\nIf-None-Match: {tag}", 304),
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_preconditions(
        self, api: Gateway, path: str, method: str, field: str, expected: int
    ) -> None:
        stored = api.put(path, b"x").headers
        at = stored["last-modified"]
        past = formatdate(parsedate_to_datetime(at).timestamp() - 1, usegmt=True)
        with wire(api) as connection:
            fields = field.format(tag=stored["etag"], at=at, past=past)
            connection.send(head(method, file_at(path), fields))
            answer = connection.answer(method)
            assert answer.status == expected
            if expected == 304:
                assert answer.body == b""
                assert "content-length" not in answer.headers
                assert answer.headers["etag"] == stored["etag"]
                assert answer.headers["last-modified"] == stored["last-modified"]
            connection.send(head("GET", file_at(path)))
            assert connection.answer().body == b"x"

    @pytest.mark.parametrize(
        ("wanted", "content_range", "body"),
        [
            ("bytes=0-3", "bytes 0-3/10", b"0123"),
            ("bytes=7-", "bytes 7-9/10", b"789"),
            ("bytes=-4", "bytes 6-9/10", b"6789"),
            ("bytes=5-500", "bytes 5-9/10", b"56789"),
            ("bytes=9-9,100-", "bytes 9-9/10", b"9"),
        ],
    )
    def test_one_range(
        self, api: Gateway, path: str, wanted: str, content_range: str, body: bytes
    ) -> None:
        stored = api.put(path, b"0123456789")
        answer = api.request("GET", file_at(path), None, {"Range": wanted})
        assert (answer.status, answer.body) == (206, body)
        assert answer.headers["content-range"] == content_range
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["etag"] == stored.headers["etag"]

    def test_several_ranges(self, api: Gateway, path: str) -> None:
        api.put(path, b"0123456789")
        answer = api.request("GET", file_at(path), None, {"Range": "bytes=8-,0-1"})
        assert answer.status == 206
        assert "content-range" not in answer.headers
        match = re.fullmatch(
            "multipart/byteranges; boundary=([0-9a-f]+)", answer.headers["content-type"]
        )
        assert match
        assert answer.body.decode() == (
            f"\r\n--{match[1]}\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89"
            f"\r\n--{match[1]}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
            f"\r\n--{match[1]}--\r\n"
        )

    @pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=-0", f"bytes={'9' * 500}-"])
    def test_no_such_range_is_416(self, api: Gateway, path: str, wanted: str) -> None:
        api.put(path, b"0123456789")
        answer = api.request("GET", file_at(path), None, {"Range": wanted})
        assert answer.status == 416
        assert answer.headers["content-range"] == "bytes */10"
        assert "10 bytes" in sentence(answer)

    @pytest.mark.parametrize(
        "wanted", ["bytes=3-1", "lines=1-2", "bytes=x", "bytes=0-9,0-9", "bytes=" + "0-0," * 17]
    )
    def test_a_range_that_means_nothing_is_the_whole(
        self, api: Gateway, path: str, wanted: str
    ) -> None:
        api.put(path, b"0123456789")
        answer = api.request("GET", file_at(path), None, {"Range": wanted})
        assert (answer.status, answer.body) == (200, b"0123456789")

    def test_ranges_of_an_empty_file(self, api: Gateway, path: str) -> None:
        api.put(path, b"")
        answer = api.request("GET", file_at(path), None, {"Range": "bytes=0-"})
        assert answer.status == 416
        assert answer.headers["content-range"] == "bytes */0"
        assert api.request("GET", file_at(path), None, {"Range": "bytes=-1"}).status == 200

    def test_if_range(self, api: Gateway, path: str) -> None:
        stored = api.put(path, b"0123456789").headers
        expected = {
            stored["etag"]: 206,
            stored["last-modified"]: 200,  # a date may stand for two files of one second
            f"W/{stored['etag']}": 200,
            '"x"': 200,
            "Fri, 31 Dec 2100 00:00:00 GMT": 200,
        }
        for value, status in expected.items():
            fields = {"Range": "bytes=0-0", "If-Range": value}
            assert api.request("GET", file_at(path), None, fields).status == status
        fields = {"Range": "bytes=0-0", "If-None-Match": stored["etag"]}
        assert api.request("GET", file_at(path), None, fields).status == 304


class TestRemove:
    """DELETE /file."""

    def test_delete(self, api: Gateway, path: str) -> None:
        api.put(path, b"x")
        answer = api.request("DELETE", file_at(path))
        assert (answer.status, answer.body) == (204, b"")
        assert api.get(path).status == 404
        assert api.request("DELETE", file_at(path)).status == 404

    def test_preconditions(self, api: Gateway, path: str) -> None:
        assert api.request("DELETE", file_at(path), None, {"If-Match": "*"}).status == 404
        tag = api.put(path, b"x").headers["etag"]
        assert api.request("DELETE", file_at(path), None, {"If-Match": '"x"'}).status == 412
        assert api.request("DELETE", file_at(path), None, {"If-None-Match": "*"}).status == 412
        assert api.get(path).status == 200
        assert api.request("DELETE", file_at(path), None, {"If-Match": tag}).status == 204
        assert api.get(path).status == 404


class TestList:
    """GET /files."""

    def test_pages(self, gateway: Gateway, path: str) -> None:
        names = sorted(f"{path}/{name}" for name in ("a.png", "a/b", "B", "é", "z", "~"))
        for name in names:
            gateway.put(name, name.encode())
        prefix = f"/files?prefix={quote(path)}/"
        whole = gateway.request("GET", prefix).json()
        assert [entry["path"] for entry in whole["files"]] == names
        assert whole["next"] is None
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = gateway.request("GET", f"{prefix}&limit=4&after={quote(after)}").json()
            found += [entry["path"] for entry in page["files"]]
            after = page["next"]
        assert found == names
        assert gateway.request("GET", f"{prefix}&limit=6").json()["next"] is None
        assert gateway.request("GET", f"{prefix}&limit=5").json()["next"] == names[4]
        gateway.request("DELETE", file_at(names[0]))
        rest = gateway.request("GET", prefix).json()["files"]
        assert [entry["path"] for entry in rest] == names[1:]

    def test_an_entry(self, gateway: Gateway, path: str) -> None:
        stored = gateway.put(path, b"12345").headers
        answer = gateway.request("GET", f"/files?prefix={quote(path)}")
        assert answer.headers["content-type"] == "application/json"
        ((entry),) = answer.json()["files"]
        modified = entry.pop("modified")
        assert entry == {
            "path": path,
            "size": 5,
            "type": "text/plain",
            "etag": stored["etag"],
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", modified)
        at = parsedate_to_datetime(stored["last-modified"])
        assert modified.startswith(at.strftime("%Y-%m-%dT%H:%M:%S"))

    def test_a_page_has_a_thousand_files_unless_asked(self, tmp_path: Path) -> None:
        with running(gateway(tmp_path, "--store", "store")) as server:
            with closing(server.connect()) as connection:
                for number in range(1001):
                    assert ask(connection, "PUT", f"/file?path={number:04}", b"").status == 200
            page = server.request("GET", "/files").json()
            assert (len(page["files"]), page["next"]) == (1000, "0999")
            last = server.request("GET", "/files?after=0999&limit=1000").json()
            assert ([entry["path"] for entry in last["files"]], last["next"]) == (["1000"], None)

    def test_501_where_the_store_has_no_listing(self, api: Gateway, kind: str) -> None:
        answer = api.request("GET", "/files")
        if kind == "embedded":
            assert answer.status == 200
        else:
            assert answer.status == 501
            assert "cannot be listed" in sentence(answer)

    @pytest.mark.parametrize(
        "limit", ["0", "1001", "-1", "x", "", "1.0", "%2B1", "9" * 30, "%D9%A1"]
    )
    def test_a_bad_limit_is_400(self, api: Gateway, limit: str) -> None:
        answer = api.request("GET", f"/files?limit={limit}")
        assert answer.status == 400
        assert "a number from 1 to 1000" in sentence(answer)

    @pytest.mark.parametrize("query", ["prefix=%FF", "after=%FF", "prefix=a&prefix=b"])
    def test_other_bad_arguments(self, api: Gateway, query: str) -> None:
        assert api.request("GET", f"/files?{query}").status == 400


class TestUnknownArguments:
    """What is misspelt is not left out without a word."""

    @pytest.mark.parametrize(
        ("method", "target", "words"),
        [
            ("PUT", "/file?path=unknown&tll=60", ["tll is unknown", "did you mean ttl?"]),
            ("POST", "/files?path=unknown&tt%6C=60&x=", ["x is unknown", "known are path, ttl"]),
            ("PUT", "/file?Path=unknown", ["Path is unknown", "did you mean path?"]),
            ("DELETE", "/file?path=unknown&force", ["force is unknown", "known are path"]),
            ("GET", "/files?perfix=a", ["perfix is unknown", "did you mean prefix?"]),
            ("GET", "/status?details=full", ["details is unknown", "did you mean detail?"]),
            ("GET", "/status?%FF=1", ["is unknown"]),
        ],
    )
    def test_they_are_refused_by_name(
        self, gateway: Gateway, method: str, target: str, words: list[str]
    ) -> None:
        answer = gateway.request(method, target, None if method == "GET" else b"x")
        assert answer.status == 400
        for word in words:
            assert word in sentence(answer)
        assert gateway.get("unknown").status == 404

    def test_those_of_signed_urls_are_known(self, gateway: Gateway, path: str) -> None:
        signed = f"{file_at(path)}&expires=1&key=a&signature=b"
        assert gateway.request("PUT", signed, b"x").status != 400

    def test_links_to_files_may_be_decorated(self, gateway: Gateway, path: str) -> None:
        gateway.put(path, b"x")
        assert gateway.request("GET", f"{file_at(path)}&v=2&fbclid=1").body == b"x"


class TestStatus:
    """GET /status."""

    def test_a_flat_map_of_strings_for_each_store(self, api: Gateway) -> None:
        answer = api.request("GET", "/status")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        ((address, stats),) = answer.json().items()
        assert address
        assert stats
        assert all(isinstance(value, str) for value in stats.values())

    def test_full(self, api: Gateway, path: str) -> None:
        plain = api.request("GET", "/status")
        before = api.request("GET", "/status?detail=full").json()["webserver"]
        api.put(path, b"12345")
        assert api.get(path).body == b"12345"
        api.get(path + "no")
        full = api.request("GET", "/status?detail=full").json()
        assert set(full) == {"storages", "webserver"}
        assert set(full["storages"]) == set(plain.json())
        after = full["webserver"]
        assert after["version"] == __version__
        assert after["workers"] == 1
        assert after["uptime"] > before["uptime"] > 0
        assert after["memory_bytes"] > 1_000_000
        assert after["connections"] >= 1
        # The request that asked before is counted, too.
        assert after["requests"]["200"] - before["requests"]["200"] == 3
        assert after["requests"]["404"] - before["requests"].get("404", 0) == 1
        assert after["received_bytes"] - before["received_bytes"] == 5
        assert after["sent_bytes"] > before["sent_bytes"] + 5

    def test_another_detail_is_400(self, api: Gateway) -> None:
        assert api.request("GET", "/status?detail=half").status == 400

    def test_head(self, api: Gateway) -> None:
        assert api.request("HEAD", "/status").body == b""
