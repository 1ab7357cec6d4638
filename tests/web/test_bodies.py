"""Bodies that do not come as they should, byte by byte on the wire, on every kind of store."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.servers import Gateway, gateway, running
from tests.web.client import (
    LIMIT,
    chunked,
    file_at,
    head,
    sentence,
    wire,
)


def test_an_announced_size_over_the_limit_is_413_at_once(api: Gateway, path: str) -> None:
    content_type = "Content-Type: multipart/form-data; boundary=b"
    for fields in (
        [f"Content-Length: {LIMIT + 1}"],
        [f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"],
        ["Content-Length: 99999999999999"],
        [f"Content-Length: {LIMIT + 64 * 1024 + 1}", content_type, "Expect: 100-continue"],
    ):
        with wire(api) as connection:
            connection.send(head("PUT", file_at(path), *fields))
            answer = connection.answer()
            assert answer.status == 413
            assert answer.headers["connection"] == "close"


def test_100_continue_is_sent_when_the_body_is_wanted(api: Gateway, path: str) -> None:
    with wire(api) as connection:
        fields = ["Content-Length: 4", "Expect: 100-Continue"]
        connection.send(head("PUT", file_at(path), *fields))
        assert connection.answer().status == 100
        connection.send(b"body")
        assert connection.answer().status == 200
        connection.send(head("GET", file_at(path)))
        assert connection.answer().body == b"body"


@pytest.mark.parametrize(
    ("method", "target", "fields", "status"),
    [
        ("PUT", "/file?path=/a", [], 400),
        ("PUT", "/file?path=a", ["Content-Encoding: br"], 415),
        ("PATCH", "/file?path=a", [], 405),
        ("PUT", "/nowhere", [], 404),
    ],
)
def test_no_100_before_a_refusal(
    api: Gateway, method: str, target: str, fields: list[str], status: int
) -> None:
    with wire(api) as connection:
        expecting = ["Content-Length: 4", "Expect: 100-continue"]
        connection.send(head(method, target, *expecting, *fields))
        answer = connection.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 10"], b""),
        (["Content-Length: 10"], b"123456789"),
        ([f"Content-Length: {LIMIT}"], bytes(LIMIT - 1)),
        (["Transfer-Encoding: chunked"], b""),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n"),
        (["Transfer-Encoding: chunked"], b"3\r\nab"),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n"),
    ],
)
def test_a_short_body_is_400_and_nothing_is_stored(
    api: Gateway, path: str, fields: list[str], body: bytes
) -> None:
    api.put(path, b"old")
    with wire(api) as connection:
        connection.send(head("PUT", file_at(path), *fields), body)
        connection.half_close()
        answer = connection.answer()
        assert answer.status == 400
        assert "nothing was stored" in sentence(answer)
        assert connection.ended()
    with wire(api) as connection:
        connection.send(head("PUT", file_at(path), *fields), body)
    assert api.get(path).body == b"old"


@pytest.mark.parametrize("size", [0, 10, LIMIT])
def test_a_whole_body_and_a_half_closed_connection(api: Gateway, path: str, size: int) -> None:
    with wire(api) as connection:
        connection.send(head("PUT", file_at(path), f"Content-Length: {size}"), bytes(size))
        connection.half_close()
        assert connection.answer().status == 200
        assert connection.ended()
    assert api.get(path).body == bytes(size)


def test_requests_before_a_half_close_are_all_answered(api: Gateway, path: str) -> None:
    with wire(api) as connection:
        connection.send(
            head("PUT", file_at(path), "Content-Length: 3") + b"abc",
            head("GET", file_at(path)) * 40,
            head("PUT", file_at(path), "Content-Length: 3") + b"ab",
        )
        connection.half_close()
        assert connection.answer().status == 200
        assert [connection.answer().body for _ in range(40)] == [b"abc"] * 40
        assert connection.answer().status == 400
        assert connection.ended()


def test_malformed_chunks_are_400(api: Gateway, path: str) -> None:
    with wire(api) as connection:
        # 100 tells that the body is being read.
        fields = ["Transfer-Encoding: chunked", "Expect: 100-continue"]
        connection.send(head("PUT", file_at(path), *fields))
        assert connection.answer().status == 100
        connection.send(b"3\r\nabc\r\nxyz\r\n")
        answer = connection.answer()
        assert answer.status == 400
        assert "malformed" in sentence(answer)
        assert connection.ended()
    assert api.get(path).status == 404


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(api: Gateway, path: str) -> None:
    with wire(api) as connection:
        connection.send(head("PUT", file_at(path), "Transfer-Encoding: chunked"))
        for _ in range(LIMIT // 65_536 + 1):
            connection.send(b"10000\r\n" + bytes(65_536) + b"\r\n")
        # The body has no end yet.
        answer = connection.answer()
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        connection.send(b"0\r\n\r\n")
        assert connection.ended()


@pytest.mark.parametrize(
    "request_",
    [
        head("PUT", "/file?path=s", "Content-Length: 5", "Transfer-Encoding: chunked")
        + chunked(b"abc"),
        head("PUT", "/file?path=s", "Transfer-Encoding: chunked", "Content-Length: 5")
        + chunked(b"abc"),
        head("PUT", "/file?path=s", "Content-Length: 3", "Content-Length: 4") + b"abcd",
        head("PUT", "/file?path=s", "Content-Length: 3, 3") + b"abc",
        head("PUT", "/file?path=s", "Content-Length: +3") + b"abc",
        head("PUT", "/file?path=s", "Content-Length: -3") + b"abc",
        head("PUT", "/file?path=s", "Content-Length: 0x3") + b"abc",
        head("PUT", "/file?path=s", "Content-Length: " + "9" * 40) + b"abc",
        head("PUT", "/file?path=s", "Content-Length : 3") + b"abc",
        head("PUT", "/file?path=s", "Transfer-Encoding: gzip, chunked") + chunked(b"abc"),
        head("PUT", "/file?path=s", "Transfer-Encoding: chunked, gzip") + chunked(b"abc"),
        head("PUT", "/file?path=s", "Transfer-Encoding: xchunked") + chunked(b"abc"),
        head("PUT", "/file?path=s", *["Transfer-Encoding: chunked"] * 2) + chunked(b"abc"),
        head("PUT", "/file?path=s", "Transfer-Encoding: chunked", version="1.0") + chunked(b"abc"),
        head("PUT", "/file?path=s", "Transfer-Encoding: chunked") + b"-3\r\nabc\r\n0\r\n\r\n",
        head("PUT", "/file?path=s", "Transfer-Encoding: chunked")
        + b"1" * 40
        + b"\r\nabc\r\n0\r\n\r\n",
        b"PUT /file?path=s HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /file?path=s HTTP/9.1\r\n\r\n",
        b"GET /file?path=s HTTP/1.2\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        head("PUT", "/file?path=s", "Content-Length: 3", "Transfer-Encoding:") + b"abc",
        head("GET", "/file?path=s", "Transfer-Encoding: gzip, chunked") + chunked(b"abc"),
        b"PUT /file?path=s HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n" + chunked(b"abc"),
        b"BREW /file?path=s HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /file?path=ä HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /file?path=s HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
    ],
    ids=lambda request: repr(request[:60]),
)
def test_what_two_servers_could_read_in_two_ways_is_refused(api: Gateway, request_: bytes) -> None:
    with wire(api) as connection:
        connection.send(request_)
        answer = connection.answer()
        assert answer.status == 400
        assert sentence(answer)
        assert connection.ended()
    assert api.get("s").status == 404
    assert "Traceback" not in api.output()


@pytest.mark.parametrize("version", ["", " HTTP/2.0"])
def test_other_versions_of_http(api: Gateway, version: str) -> None:
    with wire(api) as connection:
        connection.send(f"GET /file?path=s{version}\r\nHost: x\r\n\r\n".encode())
        assert connection.answer().status in (400, 505)
        assert connection.ended()


def test_a_trickle_of_tiny_chunks(api: Gateway, path: str) -> None:
    with wire(api) as connection:
        connection.send(head("PUT", file_at(path), "Transfer-Encoding: chunked"))
        connection.send(chunked(*[b"ab"] * 10_000))
        assert connection.answer().status == 200
    assert api.get(path).body == b"ab" * 10_000


@pytest.mark.parametrize(
    "begin", [b"1;", b"", b"1\r\nx\r\n1;"], ids=["extension", "zeros", "later"]
)
def test_what_is_beside_the_chunks_of_a_body_has_bounds(
    api: Gateway, path: str, begin: bytes
) -> None:
    fields = ["Transfer-Encoding: chunked", "Expect: 100-continue"]
    for size, status in ((20_000, 200), (100_000, 400)):
        with wire(api) as connection:
            connection.send(head("PUT", file_at(path), *fields))
            assert connection.answer().status == 100
            connection.send(begin + b"0" * size)
            if status == 200:
                connection.send((b"" if begin else b"1") + b"\r\nx\r\n0\r\n\r\n")
            answer = connection.answer()
            assert answer.status == status
            if status == 400:
                assert "too much beside its chunks" in sentence(answer)
                assert connection.ended()


def test_body_of_a_request_that_takes_none(api: Gateway, path: str) -> None:
    api.put(path, b"x")
    with wire(api) as connection:
        connection.send(head("GET", file_at(path), "Content-Length: 3") + b"abc")
        assert connection.answer().body == b"x"
        connection.send(head("GET", file_at(path)))
        assert connection.answer().body == b"x"


@pytest.fixture(name="hasty", scope="module")
def gateway_that_waits_shortly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that does not wait long for a body."""
    folder = tmp_path_factory.mktemp("hasty")
    settings = "[embedded]\nfolder = 'store'\n[server]\nbody_timeout_s = 0.3\n"
    with running(gateway(folder, settings=settings)) as server:
        yield server


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 10"], b""),
        (["Content-Length: 10"], b"123"),
        (["Content-Length: 10", "Expect: 100-continue"], b""),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n"),
        (["Content-Length: 9", "Content-Type: multipart/form-data; boundary=b"], b"--b"),
    ],
)
def test_a_body_that_stops_is_408(
    hasty: Gateway, path: str, fields: list[str], body: bytes
) -> None:
    with wire(hasty) as connection:
        connection.send(head("PUT", file_at(path), *fields), body)
        answer = connection.answer()
        if answer.status == 100:
            answer = connection.answer()
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert "0.3 s" in sentence(answer)
        assert connection.ended()
    assert hasty.get(path).status == 404


def test_a_client_that_leaves_harms_nobody(hasty: Gateway, path: str) -> None:
    for _ in range(20):
        with wire(hasty) as connection:
            connection.send(head("PUT", file_at(path), "Content-Length: 1000"), b"x")
        with socket.create_connection((hasty.host, hasty.port)):
            pass
    assert hasty.put(path, b"x").status == 200
    assert json.loads(hasty.request("GET", "/status?detail=full").body)
    assert "Traceback" not in hasty.output()


def test_a_malformed_body_that_nobody_wanted_ends_the_connection(api: Gateway, path: str) -> None:
    api.put(path, b"x")
    with wire(api) as connection:
        connection.send(head("GET", file_at(path), "Transfer-Encoding: chunked"))
        assert connection.answer().status == 200
        connection.send(b"no size of a chunk\r\n")
        assert connection.ended()
