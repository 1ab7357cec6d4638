"""Pages of other origins: what they are told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sfss.config_reading import load
from sfss.errors import SettingError
from sfss.web.cors import Cors, vary
from tests.servers import Answer, Gateway, gateway, running

FACES = "native", "paths", "upload", "fetch", "blobs", "objects", "status", "health"
LISTED = f"""
[server]
faces = {list(FACES)}
[cors]
origins = ["https://a.test", "http://b.test:81"]
methods = ["GET", "PUT"]
max_age_s = 60
"""
ALL = "[server]\nfaces = ['paths']\n[cors]\norigins = ['*']\nexposed = ['*']\n"
MINE = {"Origin": "https://a.test"}
OTHERS = {"Origin": "https://a.test:444"}
ALLOWED = "access-control-allow-origin"
ADDRESSES = "/file?path=x", "/x", "/fetch/abc", "/api/v1/get/x", "/upload", "/status", "/blob/x"


@pytest.fixture(name="listed", scope="module")
def for_some(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("listed")
    with running(gateway(folder, "--store", str(folder / "store"), settings=LISTED)) as server:
        assert server.put("a.txt", b"abc").status == 200
        yield server


def ask_before(site: Gateway, target: str, origin: str, fields: str = "") -> Answer:
    """Ask as a browser does before a page may."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    if fields:
        headers["Access-Control-Request-Headers"] = fields
    return site.request("OPTIONS", target, headers=headers)


@pytest.mark.parametrize("target", ADDRESSES)
def test_a_browser_may_ask_before_on_every_face(listed: Gateway, target: str) -> None:
    answer = ask_before(listed, target, "https://a.test", "authorization,x-meta-id")
    assert answer.status == 204
    assert answer.headers[ALLOWED] == "https://a.test"
    assert answer.headers["access-control-allow-methods"] == "GET, PUT"
    assert answer.headers["access-control-allow-headers"] == "authorization,x-meta-id"
    assert answer.headers["access-control-max-age"] == "60"
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers
    refused = ask_before(listed, target, "https://A.test")
    assert refused.status == 403
    assert ALLOWED not in refused.headers
    assert "Origin" in refused.headers["vary"]
    assert "cors.origins" in refused.json()["error"]


def test_fields_that_are_none_are_not_allowed(listed: Gateway) -> None:
    for fields in ("a b", "a,,b", "a;b", "x" * 5000):
        answer = ask_before(listed, "/x", "https://a.test", fields)
        assert answer.status == 204
        assert "access-control-allow-headers" not in answer.headers


def test_webdav_has_its_own_options(listed: Gateway) -> None:
    for headers in ({}, MINE, {"Access-Control-Request-Method": "PUT"}):
        answer = listed.request("OPTIONS", "/x", headers=headers)
        assert answer.status == 200
        assert answer.headers["dav"] == "1"
        assert answer.headers["vary"] == "Origin"
        assert (ALLOWED in answer.headers) == (headers is MINE)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/file?path=a.txt", 200),
        ("GET", "/a.txt", 200),
        ("HEAD", "/a.txt", 200),
        ("PUT", "/b.txt", 201),
        ("GET", "/none.txt", 404),
        ("GET", "/file", 400),
        ("PATCH", "/a.txt", 405),
        ("GET", "/", 200),
        ("GET", "/api/v1/get/x", 404),
    ],
)
def test_every_answer_says_who_may_read_it(
    listed: Gateway, method: str, target: str, status: int
) -> None:
    for headers in (MINE, OTHERS, {}):
        for _ in range(2):
            answer = listed.request(method, target, headers={**headers, "Accept": "text/html"})
            is_refused = method == "PUT" and headers is OTHERS
            assert answer.status == (403 if is_refused else status)
            assert "Origin" in answer.headers["vary"].split(", ")
            assert answer.headers.get(ALLOWED) == (MINE["Origin"] if headers is MINE else None)
            exposed = answer.headers.get("access-control-expose-headers", "")
            assert ("ETag" in exposed.split(", ")) == (headers is MINE)


def test_parts_and_what_is_unchanged_say_it_too(listed: Gateway) -> None:
    etag = listed.request("GET", "/a.txt").headers["etag"]
    for fields, status in (
        ({"Range": "bytes=0-1"}, 206),
        ({"Range": "bytes=9-"}, 416),
        ({"If-None-Match": etag}, 304),
        ({"If-Match": '"x"'}, 412),
    ):
        answer = listed.request("GET", "/a.txt", headers={**MINE, **fields})
        assert answer.status == status
        assert answer.headers[ALLOWED] == MINE["Origin"]


def test_for_all_origins_the_answer_is_the_same_for_all(tmp_path: Path) -> None:
    with running(gateway(tmp_path, "--store", str(tmp_path / "store"), settings=ALL)) as site:
        assert site.request("PUT", "/a.txt", b"x", MINE).headers[ALLOWED] == "*"
        for headers in ({}, MINE, OTHERS):
            answer = site.request("GET", "/a.txt", headers=headers)
            assert answer.headers[ALLOWED] == "*"
            assert answer.headers["access-control-expose-headers"] == "*"
            assert "vary" not in answer.headers
        assert ask_before(site, "/a.txt", "null").headers[ALLOWED] == "*"


def test_without_the_setting_nothing_is_said(gateway: Gateway) -> None:
    answer = gateway.request("GET", "/file?path=none", headers=MINE)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "Origin" not in answer.headers["vary"]
    assert ask_before(gateway, "/file?path=none", MINE["Origin"]).status == 405


@pytest.mark.parametrize(
    ("said", "both"),
    [
        (None, "Origin"),
        ("Accept", "Accept, Origin"),
        ("accept, ORIGIN", "accept, ORIGIN"),
        ("*", "*"),
    ],
)
def test_vary(said: str | None, both: str) -> None:
    assert vary(said) == both


def test_without_exposed_fields_none_are_named() -> None:
    assert Cors(["*"], ["GET"], [], 1).lines(None) == "Access-Control-Allow-Origin: *\r\n"


@pytest.mark.parametrize(
    "text",
    [
        *("'https://a.test/'", "'https://A.test'", "'a.test'", "'null'", "'https://a.test:443'"),
        *("'http://a.test:80'", "'http://a.test:99999'", "'*', 'https://a.test'", "'https://*'"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(text: str) -> None:
    with pytest.raises(SettingError, match=r"cors\.origins"):
        load(f"[cors]\norigins = [{text}]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cache_control = ['photos/']", "PREFIX VALUE"),
        ("cache_control = ['a/ public', '/a/ private']", "PREFIX VALUE"),
        ("cache_control = ['a/ max-age=1\\r\\nX: y']", "PREFIX VALUE"),
        ('trusted = ["a\\r"]', "prefixes"),
        ("active_types = 'show'", "attachment"),
    ],
)
def test_answers_have_settings_that_fit_into_a_head(text: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        load(f"[answers]\n{text}")
