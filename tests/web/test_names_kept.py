"""What is kept with a file: its type, its time to live, fields of the request."""

import pytest

from sfss.errors import BadArgument, TooManyNames
from sfss.web.names_kept import (
    FIELDS_LIMIT,
    FIELDS_SIZE_LIMIT,
    TTL_LIMIT_S,
    fields_to_keep,
    media_type,
    shown_fields,
    ttl_s,
)


@pytest.mark.parametrize(
    "text",
    [
        "image/png",
        "text/plain; charset=utf-8",
        'text/plain;charset="utf 8";a=b',
        "application/vnd.a+b-c.1",
    ],
)
def test_a_type_is_kept(text: str) -> None:
    assert media_type(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "image",
        "image/",
        "/png",
        "a/b c",
        "a/b;",
        "a/b\r\nX: y",
        'a/b;c="\\"',
        "a/ü",
        "a/" + "b" * 200,
        "application/octet-stream",
        "Application/X-WWW-Form-Urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
def test_what_is_no_type_or_says_nothing_is_not(text: str | None) -> None:
    assert media_type(text) is None


def test_a_time_to_live() -> None:
    assert ttl_s(None, None) is None
    assert ttl_s("1", None) == 1
    assert ttl_s(None, " 3600 ") == 3600
    assert ttl_s("5", "6") == 5
    assert ttl_s(str(TTL_LIMIT_S), None) == TTL_LIMIT_S


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "x", "²", str(TTL_LIMIT_S + 1), "9" * 5000])
def test_what_is_no_time_to_live(text: str) -> None:
    with pytest.raises(BadArgument, match="ttl is"):
        ttl_s(text, None)
    with pytest.raises(BadArgument, match="Expires-In is"):
        ttl_s(None, text)
    with pytest.raises(BadArgument, match="Expires-In is"):
        ttl_s("5", text)


def test_fields_that_begin_with_x_are_kept() -> None:
    fields = [("x-a-b", "1"), ("Host", "h"), ("X-A-B", "2"), ("X-c", ""), ("Y-X", "3")]
    assert fields_to_keep(fields) == {"X-A-B": "1, 2", "X-C": ""}


def test_too_many_or_too_large_fields() -> None:
    assert len(fields_to_keep((f"X-{n}", "") for n in range(FIELDS_LIMIT))) == FIELDS_LIMIT
    with pytest.raises(TooManyNames, match=f"{FIELDS_LIMIT + 1} fields"):
        fields_to_keep((f"X-{n}", "") for n in range(FIELDS_LIMIT + 1))
    with pytest.raises(TooManyNames, match="characters"):
        fields_to_keep([("X-A", "v" * FIELDS_SIZE_LIMIT)])


def test_what_servers_in_front_obey_is_not_kept() -> None:
    fields = [("X-Accel-Redirect", "/a"), ("x-sendfile", "/b"), ("X-Accelerate", "c")]
    assert fields_to_keep(fields) == {"X-Accelerate": "c"}
    # Nor shown, where somebody else has kept it.
    names = {"X-Accel-Redirect": "/a", "X-SENDFILE": "/b", "X-Accelerate": "c"}
    assert shown_fields(names) == {"X-Accelerate": "c"}


def test_what_a_store_keeps_is_not_counted() -> None:
    fields = [(f"X-{number}", "a" * 200) for number in range(FIELDS_LIMIT)]
    own = [("X-Sfss", "b" * 4000), ("X-Sfss-2", "b" * 4000)]
    assert len(fields_to_keep([*fields, *own])) == FIELDS_LIMIT + 2
    with pytest.raises(TooManyNames):
        fields_to_keep([(f"X-Sfss-{number}", "b" * 4000) for number in range(20)])


def test_fields_that_could_not_be_kept_or_sent_back() -> None:
    with pytest.raises(TooManyNames, match="bytes as they are kept"):
        fields_to_keep([("X-A", "ä" * 10_500)])
    with pytest.raises(BadArgument, match="X-A is"):
        fields_to_keep([("X-A", "\udcff")])


def test_only_fields_that_are_whole_are_shown() -> None:
    names = {"X-A": "1", "Content-Type": "a/b", "X-B": "1\r\nSet-Cookie: a", "X-C D": "", "X-": "x"}
    assert shown_fields({**names, "X-E": "\udcff", "X-F": "ü\t"}) == {"X-A": "1", "X-F": "ü\t"}
