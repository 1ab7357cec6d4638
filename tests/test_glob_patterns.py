"""Patterns of paths."""

import pytest

from sfss.glob_patterns import choice_of, compiled, literal_prefix


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a/*.jpg", ["a/b.jpg", "a/.jpg"], ["a/b/c.jpg", "a/b.jpgx", "xa/b.jpg"]),
        ("a/**.jpg", ["a/b.jpg", "a/b/c.jpg"], ["b/a/c.jpg"]),
        ("a/**/x", ["a/x", "a/b/x", "a/b/c/x"], ["a/bx", "ax"]),
        ("**/x", ["x", "a/x"], ["ax", "a/xy"]),
        ("a**/x", ["a/x", "ab/c/x"], ["x", "ax"]),
        ("a?c", ["abc", "aüc"], ["a/c", "ac"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("[]^]x", ["]x", "^x"], ["ax"]),
        ("x[", ["x["], ["x"]),
        ("a.{jpg,p*g}", ["a.jpg", "a.png"], ["a.gif", "a.{jpg,p*g}"]),
        ("{a,b{c,d}}", ["a", "bc", "bd"], ["b", "c"]),
        (r"a\*", ["a*"], ["ab"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    expression = compiled(pattern)
    assert [path for path in matching if not expression.fullmatch(path)] == []
    assert [path for path in others if expression.fullmatch(path)] == []


def test_what_every_match_begins_with() -> None:
    assert literal_prefix("photos/2020*/**.jpg") == ("photos/2020", True)
    assert literal_prefix(r"a\*b") == ("a*b", False)
    assert literal_prefix("**") == ("", True)
    with pytest.raises(ValueError, match="not closed"):
        compiled("{a")


def test_a_choice() -> None:
    choice = choice_of(["*.jpg", "a/*.png"], ["tmp/", "no*"])
    taken = ["x.jpg", "b/x.jpg", "a/x.png"]
    left_out = ["x.png", "b/a/x.png", "tmp/x.jpg", "b/no.jpg"]
    assert [path for path in taken + left_out if choice.takes(path)] == taken
    assert choice_of([], ["*.x"]).takes("a/b")
