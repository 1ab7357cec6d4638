"""RFC 9110, sections 13 and 14, as tables and as properties."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.web.conditional import (
    Span,
    Validators,
    malformed,
    parse_date,
    parse_range,
    range_applies,
    unmet,
)

MODIFIED_S = 784_111_777  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110, 5.6.7
THEN = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
NOW = Validators('"abc"', MODIFIED_S)
UNDATED = Validators('"abc"', None)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('"abc"', True),
        ('"x", "abc"', True),
        ('"x","abc","y"', True),
        (',, "x" ,,\t"abc" ,', True),
        ('"a,b", "abc"', True),
        ('"x", W/"abc"', None),
        ('W/"abc"', None),
        ("*", True),
        (" * ", True),
        ('"ABC"', False),
        ('"x"', False),
        ('"x, \\"abc\\""', False),
        ("abc", False),
        ('"x" "abc"', False),
        ('w/"abc"', False),
        ('"x", *', False),
        ("", False),
        (",", False),
        ('"abc', False),
        ('"\u00e9", "abc"', True),
    ],
)
def test_lists_of_tags(text: str, matches: bool | None) -> None:
    """``matches`` is None where only the weak comparison holds."""
    strong, weak = matches is True, matches is not False
    for reading in (True, False):
        assert (unmet({"If-Match": text}, NOW, reading) is None) == strong
        assert (unmet({"If-None-Match": text}, NOW, reading) is None) == (not weak)
        assert unmet({"If-Match": text}, None, reading) == "If-Match"
        assert unmet({"If-None-Match": text}, None, reading) is None


@pytest.mark.parametrize(
    ("fields", "reading", "expected"),
    [
        ({}, True, None),
        ({"If-Modified-Since": THEN}, True, "If-Modified-Since"),
        ({"If-Modified-Since": LATER}, True, "If-Modified-Since"),
        ({"If-Modified-Since": BEFORE}, True, None),
        ({"If-Modified-Since": THEN}, False, None),
        ({"If-Modified-Since": "yesterday"}, True, None),
        ({"If-Unmodified-Since": THEN}, True, None),
        ({"If-Unmodified-Since": LATER}, False, None),
        ({"If-Unmodified-Since": BEFORE}, True, "If-Unmodified-Since"),
        ({"If-Unmodified-Since": BEFORE}, False, "If-Unmodified-Since"),
        ({"If-Unmodified-Since": "yesterday"}, False, None),
        # 13.2.2, step by step
        ({"If-Match": '"abc"', "If-Unmodified-Since": BEFORE}, True, None),
        ({"If-Match": '"x"', "If-Unmodified-Since": THEN}, True, "If-Match"),
        ({"If-Match": '"x"', "If-None-Match": '"abc"'}, True, "If-Match"),
        ({"If-Match": '"abc"', "If-None-Match": '"abc"'}, True, "If-None-Match"),
        ({"If-Unmodified-Since": BEFORE, "If-None-Match": '"abc"'}, True, "If-Unmodified-Since"),
        ({"If-None-Match": '"x"', "If-Modified-Since": THEN}, True, None),
        ({"If-None-Match": '"abc"', "If-Modified-Since": BEFORE}, True, "If-None-Match"),
        ({"If-None-Match": "nonsense", "If-Modified-Since": THEN}, True, None),
    ],
)
def test_order_of_precedence(fields: dict[str, str], reading: bool, expected: str | None) -> None:
    assert unmet(fields, NOW, reading) == expected


@pytest.mark.parametrize("field", ["If-Modified-Since", "If-Unmodified-Since"])
def test_dates_mean_nothing_without_a_file_or_its_date(field: str) -> None:
    for current in (None, UNDATED):
        for date in (BEFORE, THEN, LATER):
            assert unmet({field: date}, current, reading=True) is None


def test_the_fields_that_show_a_state() -> None:
    assert NOW.fields() == {"ETag": '"abc"', "Last-Modified": THEN}
    assert UNDATED.fields() == {"ETag": '"abc"'}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (THEN, MODIFIED_S),
        ("Sunday, 06-Nov-94 08:49:37 GMT", MODIFIED_S),
        ("Sun Nov  6 08:49:37 1994", MODIFIED_S),
        (" " + THEN + " ", MODIFIED_S),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
        ("Mon, 29 Feb 1999 23:59:59 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +0000", None),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("sun, 06 nov 1994 08:49:37 gmt", None),
        ("06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT" * 2, None),
        ("784111777", None),
        ("Sun, \u0660\u0666 Nov 1994 08:49:37 GMT", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: int | None) -> None:
    assert parse_date(text) == expected


@pytest.mark.parametrize(
    ("text", "is_well"),
    [
        ("*", True),
        (' "a" ', True),
        ('"a","b"', True),
        ('W/"a" , "b"', True),
        (',"a",,"b",', True),
        ('""', True),
        ("", False),
        (",", False),
        ("abc", False),
        ('"a', False),
        ('"a" "b"', False),
        ('"a", *', False),
        ('w/"a"', False),
        ('"a", b', False),
        ('"a"' + "," * 5000, True),
        ('"a"' + "," * 5000 + "b", False),
        ('"a",' * 5000 + "b", False),
    ],
)
def test_which_lists_are_malformed(text: str, is_well: bool) -> None:
    for name in ("If-Match", "If-None-Match"):
        assert malformed({name: text}) == (None if is_well else name)
    assert malformed({"If-Modified-Since": text}) is None


@given(st.text(alphabet='"W/, a*', max_size=200))
def test_no_list_takes_long_to_look_at(text: str) -> None:
    malformed({"If-Match": text * 40})


@given(st.integers(0, 253_402_300_799))
def test_a_date_as_we_write_it_is_read_back(seconds: int) -> None:
    assert parse_date(formatdate(seconds, usegmt=True)) == seconds


@given(st.text())
def test_no_date_makes_it_fail(text: str) -> None:
    assert parse_date(text) is None or isinstance(parse_date(text), int)


@pytest.mark.parametrize(
    ("if_range", "current", "applies"),
    [
        (None, NOW, True),
        ('"abc"', NOW, True),
        (' "abc" ', NOW, True),
        ('W/"abc"', NOW, False),
        ('"x"', NOW, False),
        ('"abc", "x"', NOW, False),
        (THEN, NOW, False),
        (BEFORE, NOW, False),
        (LATER, NOW, False),
        (THEN, UNDATED, False),
        ("nonsense", NOW, False),
        ("*", NOW, False),
        ("", NOW, False),
    ],
)
def test_if_range(if_range: str | None, current: Validators, applies: bool) -> None:
    assert range_applies(if_range, current) is applies


HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-9", [(0, 10)]),
        ("bytes=0-", [(0, 10)]),
        ("bytes=9-", [(9, 10)]),
        ("bytes=2-5", [(2, 6)]),
        ("bytes=2-99", [(2, 10)]),
        ("bytes=-3", [(7, 10)]),
        ("bytes=-99", [(0, 10)]),
        ("Bytes=0-0", [(0, 1)]),
        ("bytes= 0-0 , 2-3", [(0, 1), (2, 4)]),
        ("bytes=0-0,-1", [(0, 1), (9, 10)]),
        ("bytes=,0-0,,", [(0, 1)]),
        ("bytes=5-6,0-1", [(5, 7), (0, 2)]),
        ("bytes=0-0,50-60", [(0, 1)]),
        (f"bytes=0-{HUGE}", [(0, 10)]),
        (f"bytes=-{HUGE}", [(0, 10)]),
        ("bytes=000000000000000000000000-000000000000000000000001", [(0, 2)]),
        # nothing of the file: 416
        ("bytes=10-", []),
        ("bytes=10-20", []),
        ("bytes=-0", []),
        ("bytes=-000", []),
        (f"bytes={HUGE}-", []),
        (f"bytes={HUGE}-{HUGE}", []),
        # malformed, or another unit: ignored
        ("bytes=", None),
        ("bytes=,", None),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-0,5-2", None),
        ("bytes=a-b", None),
        ("bytes=1", None),
        ("bytes=1-2-3", None),
        ("bytes=--1", None),
        ("bytes=+1-2", None),
        ("bytes=1 - 2", None),
        ("bytes=\u0661-2", None),
        ("bytes 0-0", None),
        ("bytes", None),
        ("lines=0-0", None),
        ("", None),
        # too much work, or more than the file: ignored
        ("bytes=" + ",".join(["0-0"] * 10), [(0, 1)] * 10),
        ("bytes=" + ",".join(["0-0"] * 11), None),
        ("bytes=" + ",".join(["50-"] * 16), []),
        ("bytes=" + ",".join(["50-"] * 17), None),
        ("bytes=0-,0-", None),
        ("bytes=0-5,5-9", None),
        ("bytes=0-4,5-9", [(0, 5), (5, 10)]),
    ],
)
def test_ranges_of_ten_bytes(text: str, expected: list[tuple[int, int]] | None) -> None:
    found = parse_range(text, 10)
    assert found == (None if expected is None else [Span(*ends) for ends in expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bytes=0-", []), ("bytes=0-0", []), ("bytes=-1", None), ("bytes=-0", [])],
)
def test_ranges_of_an_empty_file(text: str, expected: list[Span] | None) -> None:
    assert parse_range(text, 0) == expected


def test_content_range() -> None:
    assert Span(2, 6).content_range(10) == "bytes 2-5/10"


NUMBER = st.none() | st.integers(0, 30)


def no_range(first: int | None, last: int | None) -> bool:
    """Tell whether ``first-last`` is no range at all."""
    if first is None:
        return last is None
    return last is not None and last < first


def sliced(whole: bytes, first: int | None, last: int | None) -> bytes:
    """Return what the range ``first-last`` means, as a slice."""
    if first is None:
        return whole[-last:] if last else b""
    return whole[first:] if last is None else whole[first : last + 1]


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=6), st.integers(0, 20))
def test_ranges_mean_what_slices_mean(
    asked: list[tuple[int | None, int | None]], size: int
) -> None:
    whole = bytes(range(size))
    parts = (["" if end is None else str(end) for end in ends] for ends in asked)
    found = parse_range("bytes=" + ",".join(map("-".join, parts)), size)
    if any(no_range(*ends) for ends in asked):
        assert found is None
        return
    expected = [piece for ends in asked if (piece := sliced(whole, *ends))]
    if found is None:
        assert size == 0 or sum(map(len, expected)) > size
    else:
        assert [whole[span.start : span.stop] for span in found] == expected


@given(st.text(alphabet="bytes=0123456789-, \t", max_size=60) | st.text(), st.integers(0, 2**40))
def test_no_range_makes_it_fail_or_leave_the_file(text: str, size: int) -> None:
    for prefix in ("", "bytes="):
        for span in parse_range(prefix + text, size) or ():
            assert 0 <= span.start < span.stop <= size


TAG = st.text(
    alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"')
)


@given(st.lists(st.tuples(TAG, st.booleans()), max_size=8), TAG)
def test_a_tag_is_found_where_it_is_listed(listed: list[tuple[str, bool]], current: str) -> None:
    text = ", ".join(f'W/"{tag}"' if weak else f'"{tag}"' for tag, weak in listed)
    now = Validators(f'"{current}"', None)
    assert (unmet({"If-Match": text}, now, True) is None) == ((current, False) in listed)
    found = any(tag == current for tag, _ in listed)
    assert (unmet({"If-None-Match": text}, now, True) is not None) == found
