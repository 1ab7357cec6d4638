"""What the heads of answers with files say: what browsers may do with them, and for how long."""

from collections.abc import Iterator

import pytest

from sfss.web.answers import (
    MEDIA_POLICY,
    PDF_POLICY,
    SANDBOX,
    Answers,
    attachment,
    is_active,
)
from tests.servers import Answer, Gateway, gateway, running

SETTINGS = """
[server]
faces = ["native", "paths", "upload", "fetch", "blobs", "status", "objects"]
[answers]
trusted = ["site/", "/my%20own/"]
cache_control = [
    "photos/ public, max-age=3600",
    "photos/new/ no-cache",
    "/long public, max-age=31536000, s-maxage=31536000, immutable",
    "objects/ private",
]
"""
PAGE = b"<script>alert(1)</script>"
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture(name="site", scope="module")
def one_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("answers")
    with running(gateway(folder, "--store", str(folder / "store"), settings=SETTINGS)) as server:
        for path in (
            *("page.html", "a.png", "a.pdf", "a.mp4", "site/page.html", "my own/a.svg", "ä.svg"),
            *("photos/a.jpg", "photos/new/a.jpg"),
        ):
            assert server.put(path, PAGE).status == 200
        yield server


@pytest.mark.parametrize(
    "media_type",
    [
        *("text/html", "TEXT/HTML ; charset=utf-8", "image/svg+xml", "application/xhtml+xml"),
        *("text/xml", "application/atom+xml", "text/javascript", "application/x-javascript"),
        *("multipart/x-mixed-replace; boundary=x", "message/rfc822", "*/*", "text/xsl"),
    ],
)
def test_what_can_hold_scripts(media_type: str) -> None:
    assert is_active(media_type)


@pytest.mark.parametrize(
    "media_type",
    ["image/png", "audio/mpeg", "video/mp4", "text/plain", "application/pdf", "application/json"],
)
def test_what_can_not(media_type: str) -> None:
    assert not is_active(media_type)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("", "attachment"),
        ("a b.html", 'attachment; filename="a b.html"'),
        ('a"\\.html', "attachment; filename=\"a__.html\"; filename*=UTF-8''a%22%5C.html"),
        ("ä.html", "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%A4.html"),
        ("a%41.html", "attachment; filename=\"a_41.html\"; filename*=UTF-8''a%2541.html"),
        ("a\r\nb", "attachment; filename=\"a__b\"; filename*=UTF-8''a%0D%0Ab"),
        ("\ud800", "attachment; filename=\"_\"; filename*=UTF-8''%3F"),
    ],
)
def test_the_name_under_which_a_file_is_saved(name: str, field: str) -> None:
    assert attachment(name) == field
    assert field.isascii()


def test_the_longest_prefix_counts() -> None:
    answers = Answers(caching=[("a/b", "two"), ("a/", "one"), ("", "all")])
    found = [
        answers.of(path, "text/plain").fields["Cache-Control"] for path in ("a/bc", "a/c", "c")
    ]
    assert found == ["two", "one", "all"]
    assert "Cache-Control" not in Answers().of("a", "text/plain").fields


def every_way(site: Gateway, path: str) -> Iterator[Answer]:
    """Yield every answer that tells of a file, by both faces."""
    for target in (f"/file?path={path}", f"/{path}"):
        for _ in range(2):  # the second by the short way
            yield site.request("GET", target)
        whole = site.request("GET", target)
        yield site.request("HEAD", target)
        yield site.request("GET", target, headers={"Range": "bytes=0-3"})
        yield site.request("GET", target, headers={"Range": "bytes=0-1,4-5"})
        unchanged = {"If-None-Match": whole.headers["etag"]}
        yield site.request("GET", target, headers=unchanged)


@pytest.mark.parametrize(
    ("path", "policy", "disposition", "caching"),
    [
        ("page.html", SANDBOX, 'attachment; filename="page.html"', None),
        (
            "%C3%A4.svg",
            SANDBOX,
            "attachment; filename=\"_.svg\"; filename*=UTF-8''%C3%A4.svg",
            None,
        ),
        ("a.png", SANDBOX, None, None),
        ("a.pdf", PDF_POLICY, None, None),
        ("a.mp4", MEDIA_POLICY, None, None),
        ("site/page.html", None, None, None),
        ("my%20own/a.svg", None, None, None),
        ("photos/a.jpg", SANDBOX, None, "public, max-age=3600"),
        ("photos/new/a.jpg", SANDBOX, None, "no-cache"),
    ],
)
def test_every_answer_with_a_file_says_it(
    site: Gateway, path: str, policy: str | None, disposition: str | None, caching: str | None
) -> None:
    statuses = []
    for answer in every_way(site, path):
        statuses.append(answer.status)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get("content-security-policy") == policy
        assert answer.headers.get("content-disposition") == disposition
        assert answer.headers.get("cache-control") == caching
    assert statuses == [200, 200, 200, 206, 206, 304] * 2


def test_a_refusal_is_not_kept_as_long_as_a_file(site: Gateway) -> None:
    too_far = site.request("GET", "/photos/a.jpg", headers={"Range": "bytes=100-"})
    assert too_far.status == 416
    missing = site.request("GET", "/photos/none.jpg")
    assert missing.status == 404
    for answer in (too_far, missing):
        assert "cache-control" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_cache_keeps_nothing_for_longer_than_it_is_there(site: Gateway) -> None:
    assert site.request("PUT", "/file?path=long&ttl=100", b"x").status == 200
    for target in ("/file?path=long", "/long"):
        caching = site.request("GET", target).headers["cache-control"]
        _, one, other, immutable = caching.split(", ")
        assert 0 < int(one.removeprefix("max-age=")) <= 100
        assert 0 < int(other.removeprefix("s-maxage=")) <= 100
        assert immutable == "immutable"


def test_a_type_that_was_said_counts(site: Gateway) -> None:
    said = {"Content-Type": "text/html"}
    assert site.request("PUT", "/file?path=said.txt", PAGE, said).status == 200
    for answer in every_way(site, "said.txt"):
        assert answer.headers["content-disposition"] == 'attachment; filename="said.txt"'


def test_no_field_that_an_uploader_sends_takes_their_place(site: Gateway) -> None:
    sent = {"X-Mime-Type": "text/html", "X-Content-Type-Options": "sniff", "X-Frame-Options": "x"}
    blob_id = site.request("POST", "/upload", PAGE, sent).json()["id"]
    fetched = site.request("GET", f"/fetch/{blob_id}.html")
    assert fetched.headers["x-content-type-options"] == "nosniff"
    assert fetched.headers["x-frame-options"] == "x"
    # To another blob server it goes as it came.
    blob = site.request("GET", f"/blob/{blob_id}")
    assert blob.headers["x-content-type-options"] == "sniff"
    for answer in (fetched, blob):
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["content-security-policy"] == SANDBOX
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_objects_say_it_too(site: Gateway) -> None:
    fields = {"X-Meta-ID": ULID, "X-Meta-Name": "folder/page.html"}
    assert site.request("POST", "/api/v1/put", PAGE, fields).status == 200
    got = site.request("GET", f"/api/v1/get/{ULID}").headers
    assert got["content-security-policy"] == SANDBOX
    assert got["content-disposition"] == 'attachment; filename="page.html"'
    assert got["cache-control"] == "private"


@pytest.mark.parametrize(
    "target", ["/status", "/files", "/", "/__index__/", "/__readme.txt", "/no"]
)
def test_all_that_has_a_type_is_not_guessed_at(site: Gateway, target: str) -> None:
    for accept in ("application/json", "text/html"):
        answer = site.request("GET", target, headers={"Accept": accept})
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.headers["content-type"].startswith("text/html"):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
