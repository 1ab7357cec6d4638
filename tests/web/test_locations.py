"""What a URL names: one rule a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadPath, NotFound
from sfss.keys import check_path
from sfss.web.locations import Location, is_addressable, locate, reference

RULES = [("/img/", "/pictures/"), ("/pictures/old", "/archive/old"), ("/short", "/")]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", ""),
        ("/a", "a"),
        ("/a/", "a/"),
        ("/a/b.c.txt", "a/b.c.txt"),
        ("//a///b//", "a/b/"),
        ("//evil.example/a", "evil.example/a"),
        ("/a%20b%2Fc+d", "a b/c+d"),
        ("/%2F%2Fa", "a"),
        ("/%2541", "%41"),
        ("/100%", "100%"),
        ("/%zz", "%zz"),
        ("/%C3%A4", "ä"),
        ("/a?b=c/../d", "a"),
        ("/a?b#c", "a"),
        ("/a#b?c", "a"),
        ("/?x", ""),
        ("http://host/a/b", "a/b"),
        ("HTTPS://host:1/a", "a"),
        ("http://host", ""),
        ("http://host?a/b", ""),
        ("/http://host/a", "http:/host/a"),
        ("/a...b", "a...b"),
    ],
)
def test_a_target_names_a_path(target: str, path: str) -> None:
    location = locate(target)
    assert location == (path, path)
    assert location.is_folder == (not path or path.endswith("/"))


@pytest.mark.parametrize(
    "target",
    ["/.", "/..", "/../a", "/a/..", "/a/./b", "/%2e%2e/a", "/..%2fa", "/a%2F..", "/.git", "/a//.b"],
)
def test_no_part_begins_with_a_dot(target: str) -> None:
    with pytest.raises(NotFound):
        locate(target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/a%5cb", "backslash"),
        ("/a\\b", "backslash"),
        ("/a%00", "control"),
        ("/a%0d%0ab", "control"),
        ("/%7f", "control"),
        ("/%C2%85", "control"),
        ("/%ff", "UTF-8"),
        ("/%C0%AE%C0%AE/a", "UTF-8"),
        ("/%ED%A0%80", "UTF-8"),
        ("/\udcff", "UTF-8"),
        ("*", "'/'"),
        ("a/b", "'/'"),
        ("ftp://host/a", "'/'"),
    ],
)
def test_what_no_path_may_be(target: str, words: str) -> None:
    with pytest.raises(BadPath, match=words):
        locate(target)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/img/a", "pictures/a"),
        ("/img/old/a", "archive/old/a"),
        ("/image/a", "image/a"),
        ("/img", "img"),
        ("//img//old", "archive/old"),
        ("/short/a", "a"),
        ("/shorter", "er"),
        ("/short", ""),
        ("/a/img/b", "a/img/b"),
        ("/%69mg/a", "pictures/a"),
    ],
)
def test_rewrites_apply_in_the_order_written(target: str, path: str) -> None:
    assert locate(target, RULES).path == path
    assert locate(target, RULES).asked == locate(target).asked


def test_a_rewrite_does_not_make_a_hidden_name() -> None:
    with pytest.raises(NotFound):
        locate("/short.htaccess", RULES)


@given(st.text(), st.booleans())
def test_whatever_comes_is_refused_or_a_path_without_dots(text: str, quoted: bool) -> None:
    target = "/" + (reference(text) if quoted and text.isprintable() else text)
    try:
        location = locate(target, RULES)
    except (BadPath, NotFound):
        return
    for path in location:
        assert not path.startswith("/")
        assert not any(part.startswith(".") for part in path.split("/"))
    if location.path:
        check_path(location.path)


@given(st.text(min_size=1))
def test_a_reference_leads_back(name: str) -> None:
    if is_addressable(name):
        assert locate(reference(f"/{name}")) == (name, name)


def test_the_folder_of_a_name() -> None:
    assert Location("a", "b/a").as_folder == Location("a/", "b/a/")
    assert Location("a/", "a/").as_folder == Location("a/", "a/")
    assert locate("/").as_folder == ("", "")
