"""Which paths are allowed, and their keys."""

import base64
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfss.errors import BadPath
from sfss.keys import (
    ENCODINGS,
    FILES_LIMIT,
    KEY_LIMIT,
    KeyScheme,
    check_path,
    is_file_path,
    names_of,
)
from sfss.memtext import check_key, get_command

BROKEN = {
    "": "it is empty",
    "/a": "it starts with '/'",
    "/": "it starts with '/'",
    "a\\b": "it contains a backslash",
    "a//b": "it contains '//'",
    "a//": "it contains '//'",
    "a\0b": "it contains a control character",
    "a\nb": "it contains a control character",
    "a\rb": "it contains a control character",
    "\tb": "it contains a control character",
    "a\x1f": "it contains a control character",
    "a\x7f": "it contains a control character",
    "a\x80": "it contains a control character",
    "a\x9f": "it contains a control character",
    "a\ud800": "it is not UTF-8",
}
ANY_NAME = sorted(set(ENCODINGS) - {"files"})
ALLOWED = ["a", "a/", "a/b", ".", "..", "a/../b", " ", "a b", "@a", "?a", "%41", "€", "\xa0", "a:b"]


@pytest.mark.parametrize("path", BROKEN)
def test_a_broken_rule_is_named(path: str) -> None:
    for encoding in ENCODINGS:
        with pytest.raises(BadPath) as caught:
            KeyScheme(encoding).key(path)
        assert caught.value.rule == BROKEN[path]
        assert str(caught.value) == f"bad path: {BROKEN[path]}"


@pytest.mark.parametrize("path", ALLOWED)
def test_allowed_paths(path: str) -> None:
    assert check_path(path) == path.encode()
    for encoding in ANY_NAME:
        scheme = KeyScheme(encoding)
        assert scheme.path(scheme.key(path)) == path


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b.txt", b"a/b.txt"),
        ("a b", b"a%20b"),
        ("a%20b", b"a%2520b"),
        ("ä", b"%C3%A4"),
        ("@a", b"%40a"),
        ("?a", b"%3Fa"),
        ("a@?", b"a@?"),
        ("@@", b"%40@"),
        ("!\"#$&'()*+,-.:;<=>[]^_`{|}~", b"!\"#$&'()*+,-.:;<=>[]^_`{|}~"),
    ],
)
def test_percent_keys_are_readable(path: str, key: bytes) -> None:
    assert KeyScheme("percent").key(path) == key


def test_base64_keys_are_those_of_2014() -> None:
    for path in ("a", "a/b.txt", "ä?>", "@"):
        assert KeyScheme("base64").key(path) == base64.b64encode(path.encode())


def test_plain_keys_are_the_paths() -> None:
    assert KeyScheme("plain").key("@ä b") == "@ä b".encode()


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("a/", "it ends with '/'"),
        (".", "a part of it begins with '.'"),
        ("a/../b", "a part of it begins with '.'"),
        ("a/.sfss/b", "a part of it begins with '.'"),
        ("a/" + "ä" * 128, "a part of it has 256 bytes; 255 are allowed"),
    ],
)
def test_what_is_no_name_of_a_file(path: str, rule: str) -> None:
    with pytest.raises(BadPath) as caught:
        KeyScheme("files", FILES_LIMIT).key(path)
    assert caught.value.rule == rule


def test_names_of_files_are_the_paths() -> None:
    for path in ("a", "ä b/c.d", "a/" + "x" * 255, "-/%41/a.", "@a"):
        assert KeyScheme("files", FILES_LIMIT).key(path) == path.encode()
        assert names_of(path.encode()) == path.encode().split(b"/")


@pytest.mark.parametrize(
    "key", [b"", b"/a", b"a//b", b"a/", b".a", b"a\\b", b"a\n", b"\xff", b"x" * 256]
)
def test_what_stores_of_plain_files_do_not_show(key: bytes) -> None:
    assert not is_file_path(key)
    with pytest.raises(BadPath):
        names_of(key)


@pytest.mark.parametrize(
    ("encoding", "longest"),
    [("percent", "x" * 250), ("base64", "x" * 186), ("plain", "x" * 250)],
)
def test_the_longest_path(encoding: str, longest: str) -> None:
    key = KeyScheme(encoding).key(longest)
    assert len(key) <= KEY_LIMIT
    with pytest.raises(BadPath, match=r"it.* has 25[12] bytes; 250 are allowed"):
        KeyScheme(encoding).key(longest + "x")


def test_bytes_count_and_not_characters() -> None:
    assert len(KeyScheme("plain").key("ä" * 125)) == 250
    with pytest.raises(BadPath, match="252 bytes"):
        KeyScheme("plain").key("ä" * 126)
    assert len(KeyScheme("base64").key("ä" * 93)) == 248
    with pytest.raises(BadPath, match="252 bytes"):
        KeyScheme("base64").key("ä" * 94)
    with pytest.raises(BadPath, match="252 bytes"):
        KeyScheme("percent").key("ä" * 42)


def test_the_escape_of_the_first_character_counts() -> None:
    assert len(KeyScheme().key("@" + "x" * 247)) == 250
    with pytest.raises(BadPath, match="251 bytes"):
        KeyScheme().key("@" + "x" * 248)


def test_a_smaller_limit() -> None:
    scheme = KeyScheme("percent", 200)
    assert scheme.key("x" * 200)
    with pytest.raises(BadPath, match="201 bytes; 200 are allowed"):
        scheme.key("x" * 201)


def test_prefix() -> None:
    scheme = KeyScheme("plain")
    assert scheme.prefix("") == b""
    assert scheme.prefix("ä/") == "ä/".encode()
    assert scheme.key("ä/b").startswith(scheme.prefix("ä/"))
    for path in ("/", "a//", "a\n"):
        with pytest.raises(BadPath):
            scheme.prefix(path)


def is_allowed(path: str) -> bool:
    """Tell whether ``check_path`` takes ``path``."""
    try:
        check_path(path)
    except BadPath:
        return False
    return True


anything = st.text(st.characters(), max_size=300)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1)
paths = texts.filter(is_allowed)


@given(paths)
@example("%")
@example("%40")
@example("@")
@example("\u2028")
def test_any_allowed_path_round_trips(path: str) -> None:
    for encoding in ANY_NAME:
        scheme = KeyScheme(encoding, limit=10_000)
        assert scheme.path(scheme.key(path)) == path


@given(paths, paths)
def test_two_paths_never_share_a_key(one: str, other: str) -> None:
    for encoding in ANY_NAME:
        scheme = KeyScheme(encoding, limit=10_000)
        assert (scheme.key(one) == scheme.key(other)) == (one == other)


@given(anything)
def test_no_path_makes_two_commands(path: str) -> None:
    for encoding in ("percent", "base64"):
        try:
            key = KeyScheme(encoding).key(path)
        except BadPath:
            continue
        assert re.fullmatch(rb"[!->A-~][!-~]{0,249}", key)
        assert check_key(key) == key
        assert get_command(key) == b"get " + key + b"\r\n"


@given(st.lists(paths, max_size=5))
def test_plain_keys_are_in_the_order_of_the_paths(some: list[str]) -> None:
    key = KeyScheme("plain", limit=10_000).key
    assert sorted(map(key, some)) == [key(path) for path in sorted(some)]
