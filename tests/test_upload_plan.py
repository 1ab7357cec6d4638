"""What an upload decides, apart from all input and output."""

import pytest

from sfss.errors import BadArgument, BadPath
from sfss.upload_plan import (
    NAME_LIMIT,
    Outcome,
    Reply,
    Result,
    Splitter,
    Tally,
    Target,
    digest_to_compare,
    outcome_of,
    printable,
    sentence,
    stored_path,
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "a"),
        ("a/b", "a/b"),
        ("./a", "a"),
        ("/srv/a", "srv/a"),
        ("a//./b/", "a/b"),
        ("-a", "-a"),
        ("%41 +\u00fc", "%41 +\u00fc"),
        ("http://host/a/b", "a/b"),
        ("HTTPS://host:8080/a%20b/%C3%BC?x=1#y", "a b/\u00fc"),
        ("http:/a", "http:/a"),
        ("http://host//a", "a"),
    ],
)
def test_a_name_has_a_path(name: str, path: str) -> None:
    assert stored_path(name, ()) == path
    assert stored_path(name, ("x", "y")) == f"x/y/{path}"


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", ".", "..", "a/../b", "../a", "a\udcff"),
        *("http://host", "http://host/a/", "http://host/%ff", "http://host/%2e%2e/a", "http://[/a"),
    ],
)
def test_a_name_without_a_path_is_refused(name: str) -> None:
    with pytest.raises(BadPath):
        stored_path(name, ("x",))


def test_a_path_is_quoted_once() -> None:
    native = Target("native", ("x y",))
    assert native.address("a&b=c%/+\u00fc") == "/file?path=x%20y/a%26b%3Dc%25/%2B%C3%BC"
    assert Target("paths").address("a?b#c;") == "/a%3Fb%23c%3B"


LIST = b"a\n\nb c\n-d\r\ne"
NAMES = [b"a", b"b c", b"-d\r", b"e"]


@pytest.mark.parametrize("step", [1, 2, 3, len(LIST)])
def test_a_list_is_cut_into_names_however_it_comes(step: int) -> None:
    splitter, found = Splitter(b"\n"), []
    for start in range(0, len(LIST), step):
        found += splitter.feed(LIST[start : start + step])
    assert found + splitter.end() == NAMES


def test_names_may_end_with_nul() -> None:
    splitter = Splitter(b"\0")
    assert splitter.feed(b"a\nb\0c\0\0") == [b"a\nb", b"c"]
    assert splitter.end() == []


def test_a_name_is_bounded() -> None:
    splitter = Splitter(b"\n")
    assert splitter.feed(b"x" * NAME_LIMIT) == []
    with pytest.raises(BadArgument):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("reply", "deleting", "result"),
    [
        (Reply(200), False, Result.DONE),
        (Reply(204), True, Result.DONE),
        (Reply(404), True, Result.THERE),
        (Reply(404), False, Result.FAILED),
        (Reply(301), False, Result.FAILED),
        (Reply(503), True, Result.FAILED),
        (Reply(None), True, Result.FAILED),
    ],
)
def test_an_answer_means(reply: Reply, deleting: bool, result: Result) -> None:
    assert outcome_of(reply, 5, deleting).result is result


def test_what_is_stored_is_compared_by_a_digest_only() -> None:
    digest = "0123456789abcdef" * 2
    assert digest_to_compare(Reply(200, size=5, etag=f'"{digest}"'), 5) == digest
    for reply in (
        Reply(200, size=4, etag=f'"{digest}"'),
        Reply(200, etag=f'"{digest}"'),
        Reply(404, size=5, etag=f'"{digest}"'),
        Reply(200, size=5, etag=f'W/"{digest}"'),
        Reply(200, size=5, etag='"5fd3-400"'),
        Reply(200, size=5),
    ):
        assert digest_to_compare(reply, 5) is None


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("application/json", b'{"error": "no room"}', "507 Full: no room"),
        ("application/json", b'{"error"', "507 Full"),
        ("application/json", b"[]", "507 Full"),
        ("application/json", b"[" * 4096, "507 Full"),
        ("text/html", b"<html>", "507 Full"),
        ("text/plain", b"no room\nat all", "507 Full: no room"),
        ("text/plain", b"\xff\x1b[2J", "507 Full: \ufffd\\x1b[2J"),
        ("text/plain", b"", "507 Full"),
    ],
)
def test_an_answer_says(content_type: str, body: bytes, said: str) -> None:
    assert sentence(507, "Full", content_type, body) == said


def test_a_terminal_is_told_nothing_but_text() -> None:
    assert printable("a\x1b[1m\n\u00fc\udcff") == "a\\x1b[1m\\n\u00fc\\udcff"


def test_progress() -> None:
    tally = Tally(began_s=100.0)
    for _ in range(20):
        tally.add(Outcome(Result.DONE, size=1024))
    tally.add(Outcome(Result.THERE))
    tally.add(Outcome(Result.FAILED))
    tally.add(Outcome(Result.IGNORED))
    assert tally.line(110.0) == "22 files, 1 skipped, 1 failed, 2/s, 2 KiB/s"
    tally.total = 22_022
    assert tally.line(110.0) == (
        "22 of 22,022 files, 1 skipped, 1 failed, 2/s, 2 KiB/s, ETA 2:46:40"
    )
    tally.total = 22
    assert "ETA" not in tally.line(110.0)
    assert Tally(began_s=5.0, total=3).line(5.0) == "0 of 3 files, 0 skipped, 0 failed, 0/s, 0 B/s"
