"""What is answered to requests that are wrong, over real gateways on every kind of store."""

from urllib.parse import quote

import pytest

from tests.servers import Gateway
from tests.web.client import FILE, file_at, files_at, head, multipart, sentence, wire


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "path is missing"),
        ("?", "path is missing"),
        ("?Path=a", "path"),  # is missing, or is what may have been meant
        ("?path", "it is empty"),
        ("?path=", "it is empty"),
        ("?path=a&path=a", "path is given 2 times"),
        ("?path=%2Fa", "it starts with '/'"),
        ("?path=/a", "it starts with '/'"),
        ("?path=a%5Cb", "it contains a backslash"),
        ("?path=a//b", "it contains '//'"),
        ("?path=a%00", "it contains a control character"),
        ("?path=a%0Ab", "it contains a control character"),
        ("?path=%7F", "it contains a control character"),
        ("?path=%C2%85", "it contains a control character"),
        ("?path=%FF", "it is not UTF-8"),
        ("?path=a%C3", "it is not UTF-8"),
        ("?path=%ED%A0%80", "it is not UTF-8"),
        ("?path=" + "a" * 251, "251 bytes; 250 are allowed"),
        ("?path=" + "a" * 7000, "7000 bytes; 250 are allowed"),
    ],
)
def test_bad_paths(api: Gateway, query: str, words: str) -> None:
    for method, address in (
        ("GET", "/file"),
        ("PUT", "/file"),
        ("DELETE", "/file"),
        ("POST", "/files"),
    ):
        body = b"x" if method in ("PUT", "POST") else None
        answer = api.request(method, address + query, body)
        assert answer.status == 400
        assert words in sentence(answer)
    assert api.request("HEAD", f"/file{query}").status == 400


def test_a_path_is_decoded_once(api: Gateway) -> None:
    assert api.request("PUT", "/file?path=%2541%2525+%2B", b"x").status == 200
    assert sentence(api.request("GET", "/file?path=A%25+%2B")) == "no such file: A% +"
    for same in ("%2541%2525+%2B", "%2541%2525%20%2B", "%2541%2525%20%2b&other=1&x"):
        assert api.request("GET", f"/file?path={same}").status == 200


def test_other_forms_of_an_address(api: Gateway, path: str) -> None:
    api.put(path, b"x")
    for target in (
        f"{file_at(path)}#fragment",
        f"http://elsewhere{file_at(path)}",
        f"/%66ile?%70ath={quote(path)}",
        f"/file?&a&path={quote(path)}&",
    ):
        assert api.request("GET", target).body == b"x"


def test_250_bytes_are_allowed(api: Gateway) -> None:
    assert api.put("b" * 250, b"x").status == 200
    assert api.get("b" * 250).body == b"x"


def test_a_path_is_refused_before_the_body_is_sent(api: Gateway) -> None:
    with wire(api) as connection:
        connection.send(head("PUT", "/file?path=/a", "Content-Length: 1000"))
        assert connection.answer().status == 400


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        (["Content-Length: 1", "Content-Encoding: gzip"], 415, "Content-Encoding 'gzip'"),
        (
            ["Content-Length: 1", "Content-Encoding: identity", "Content-Encoding: gzip"],
            *(415, "Content-Encoding 'gzip'"),
        ),
        (["Content-Length: 1", "If-None-Match: abc"], 400, "If-None-Match is 'abc'"),
        (["Content-Length: 1", 'If-Match: "a" "b"'], 400, "If-Match is"),
        (["Content-Length: 1", "Content-Range: bytes 0-0/5"], 400, "Content-Range"),
        (["Content-Length: 1", "Content-Type: multipart/form-data"], 400, "boundary"),
        ([], 400, "Content-Length: 0"),
    ],
)
def test_bodies_that_cannot_be_stored(
    api: Gateway, path: str, fields: list[str], status: int, words: str
) -> None:
    for method, target in (("PUT", file_at(path)), ("POST", files_at(path))):
        with wire(api) as connection:
            connection.send(head(method, target, *fields), b"x" if fields else b"")
            answer = connection.answer()
            assert answer.status == status
            assert words in sentence(answer)
    assert api.get(path).status == 404


def test_identity_is_no_coding(api: Gateway, path: str) -> None:
    answer = api.request("PUT", file_at(path), b"x", {"Content-Encoding": "identity"})
    assert answer.status == 200
    with wire(api) as connection:
        fields = ["Content-Length: 1", "Content-Encoding:", "Content-Encoding: identity,"]
        connection.send(head("PUT", file_at(path), *fields), b"x")
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    ("parts", "cut", "words"),
    [
        ([('form-data; name="a"', b"x")], 0, "no part of the form is a file"),
        ([(FILE, b"x")], 5, "cut off"),
        ([(FILE, b"x")], 12, "cut off"),
        ([(f"{FILE}\r\nContent-Transfer-Encoding: base64", b"eA==")], 0, "'base64'"),
    ],
)
def test_forms_that_hold_no_file(
    api: Gateway, path: str, parts: list[tuple[str, bytes]], cut: int, words: str
) -> None:
    content_type, form = multipart(*parts)
    form = form[: len(form) - cut]
    answer = api.request("PUT", file_at(path), form, {"Content-Type": content_type})
    assert answer.status in (400, 415)
    assert words in sentence(answer)
    assert api.get(path).status == 404


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("/file", {"GET", "HEAD", "PUT", "DELETE"}),
        ("/files", {"GET", "HEAD", "POST"}),
        ("/status", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_405(api: Gateway, address: str, allowed: set[str]) -> None:
    every = {"GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS", "TRACE"}
    for method in every - allowed:
        answer = api.request(method, f"{address}?path=a", b"x")
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert method in sentence(answer)


def test_a_browser_that_asks_for_the_server_is_led_to_its_files(api: Gateway) -> None:
    by_browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for method in ("GET", "HEAD"):
        answer = api.request(method, "/", None, by_browser)
        assert (answer.status, answer.headers["location"]) == (302, "browse/")
    answer = api.request("GET", "/api")
    assert (answer.status, answer.headers["location"]) == (302, "api/")
    assert api.request("POST", "/", b"x", by_browser).status == 404
    assert api.request("GET", "/nowhere", None, by_browser).status == 404


@pytest.mark.parametrize("address", ["/", "/files/", "/file/a", "/x?path=a", "//file", "/File"])
def test_another_address_is_404(api: Gateway, address: str) -> None:
    for method in ("GET", "PUT", "PATCH"):
        answer = api.request(method, address, b"x")
        assert answer.status == 404
        assert "no such address" in sentence(answer)


@pytest.mark.parametrize(
    ("fields", "is_text"),
    [
        ({}, False),
        ({"User-Agent": "python-requests/2.0"}, False),
        ({"User-Agent": "python-requests/2.0", "Accept": "*/*"}, False),
        ({"User-Agent": "curl/7.88.1", "Accept": "*/*"}, True),
        ({"User-Agent": "curl/7.88.1", "Accept": "application/json"}, False),
        ({"User-Agent": "Mozilla/5.0", "Accept": "text/html,*/*;q=0.8"}, True),
        ({"Accept": "application/json, text/plain"}, False),
    ],
)
def test_the_two_forms_of_an_error(
    api: Gateway, path: str, fields: dict[str, str], is_text: bool
) -> None:
    answer = api.request("GET", file_at(path), None, fields)
    assert answer.headers["vary"] == "Accept, User-Agent"
    if is_text:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.body.decode() == f"no such file: {path}\n"
    else:
        assert sentence(answer) == f"no such file: {path}"


def test_a_sentence_is_one_printable_line_of_bounded_length(api: Gateway) -> None:
    fields = {"User-Agent": "curl/8", "Content-Encoding": "x\tÿ" + "y" * 5000}
    answer = api.request("PUT", "/file?path=a", b"x", fields)
    assert answer.status == 415
    line = answer.body.decode()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line) < 1100
    for path in ("a%E2%80%A8b", "a%E2%80%AEb"):
        line = api.request("GET", f"/file?path={path}", None, fields).body.decode()
        assert line[:-1].isprintable()
