"""Forms: the first file of one, whatever else is in it, and all that may be wrong with it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadBody, UnsupportedCoding
from sfss.web.form import PARTS_LIMIT, FormReader, boundary, first_file
from tests.web.client import FILE, multipart

FIELD = 'form-data; name="note"'


def file_of(*parts: tuple[str, bytes]) -> bytes:
    """Return the file in a form of ``parts``."""
    content_type, body = multipart(*parts)
    return first_file(body, boundary(content_type))[0]


def test_the_first_file_wins() -> None:
    assert file_of((FILE, b"one"), (FILE, b"two")) == b"one"


def test_fields_before_the_file_are_skipped() -> None:
    assert file_of((FIELD, b"x"), (FIELD, b""), (FILE, b"file"), (FIELD, b"y")) == b"file"


def test_an_empty_file_is_a_file() -> None:
    assert file_of((FILE, b"")) == b""


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="f"; filename="a b.txt"',
        "form-data; name=f; filename=a.txt",
        "form-data; filename*=UTF-8''%e2%82%ac.txt; name=f",
        'FORM-DATA; NAME="f"; FILENAME="a.txt"',
        'form-data; name="f"; filename="a\\"b;c.txt"',
        'form-data; name="f" ; filename = "a.txt"',
        'form-data;name="f";filename="\u00e9.txt"',
    ],
)
def test_names_of_files(disposition: str) -> None:
    assert file_of((disposition, b"file")) == b"file"


@pytest.mark.parametrize(
    "disposition",
    [
        FIELD,
        'form-data; name="f"; filename=""',
        "form-data; name=f; filename=",
        'form-data; name="; filename=x"',
        'form-data; name="f\\"; filename=x"',
        "form-data",
        "",
    ],
)
def test_what_is_no_file(disposition: str) -> None:
    with pytest.raises(BadBody, match="no part of the form is a file"):
        file_of((disposition, b"file"))


WHOLE = multipart((FIELD, b"note"), (FILE, b"the file"))[1]


@pytest.mark.parametrize("cut", range(len(WHOLE) - 2))
def test_a_form_cut_off_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(BadBody):
        first_file(WHOLE[:cut], b"x1y2")


@pytest.mark.parametrize("tail", [b"", b"\r\n", b"epilogue", b"\r\n--x1y2\r\nmore"])
def test_what_follows_the_last_delimiter_is_ignored(tail: bytes) -> None:
    assert first_file(WHOLE + tail, b"x1y2")[0] == b"the file"


@pytest.mark.parametrize("end", [b"", b"\r\n", b"  \r\n"])
def test_the_last_delimiter_needs_no_line_end(end: bytes) -> None:
    assert first_file(WHOLE.removesuffix(b"\r\n") + end, b"x1y2")[0] == b"the file"


def test_preamble_padding_and_odd_lines() -> None:
    form = (
        b"preamble\r\n--x1y2 \t\r\nX: y\r\n\r\n\r\n"
        b"--x1y2\r\ncontent-DISPOSITION:form-data;filename=a\r\n\r\n"
        b"--x1y2z\r\n--x1y2-- no\r\n\r\n--x1y\r\n"
        b"\r\n--x1y2--"
    )
    assert first_file(form, b"x1y2")[0] == b"--x1y2z\r\n--x1y2-- no\r\n\r\n--x1y\r\n"


def test_a_part_without_headers_and_one_without_a_body() -> None:
    form = b"--b\r\n\r\nbare\r\n--b\r\nContent-Disposition: form-data; filename=a\r\n\r\n--b--"
    assert first_file(form, b"b")[0] == b""


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"nothing",
        b"--b",
        b"--b--",
        b"--b\n\n--b--",
        b"--b\r\nno colon\r\n\r\nx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data; filename=a\r\n",
        b"--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nx--b--",
        b"--b\r\nX: " + b"y" * 20_000 + b"\r\n\r\nx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nx\r\n--c--",
    ],
)
def test_malformed_forms(form: bytes) -> None:
    with pytest.raises(BadBody):
        first_file(form, b"b")


@pytest.mark.parametrize("field", ["Content-Transfer-Encoding", "Content-Encoding"])
def test_a_coded_file_is_refused_and_a_coded_field_skipped(field: str) -> None:
    coded = f"{FILE}\r\n{field}: base64"
    with pytest.raises(UnsupportedCoding, match=f"{field} 'base64'"):
        file_of((coded, b"eA=="))
    assert file_of((f"{FIELD}\r\n{field}: base64", b"eA=="), (FILE, b"x")) == b"x"


@pytest.mark.parametrize("coding", ["binary", "8bit", "7BIT"])
def test_codings_that_change_nothing(coding: str) -> None:
    assert file_of((f"{FILE}\r\nContent-Transfer-Encoding: {coding}", b"x")) == b"x"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ("multipart/form-data;boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; BOUNDARY="a b:c"', b"a b:c"),
        ("multipart/form-data; boundary=" + "a" * 70, b"a" * 70),
    ],
)
def test_boundaries(content_type: str, expected: bytes) -> None:
    assert boundary(content_type) == expected


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="a "',
        'multipart/form-data; boundary="a\x7f"',
        "multipart/form-data; boundary=\u00e9",
        "multipart/form-data; boundary=" + "a" * 71,
    ],
)
def test_a_form_without_a_valid_boundary(content_type: str) -> None:
    with pytest.raises(BadBody, match="boundary"):
        boundary(content_type)


@given(st.binary(), st.lists(st.binary(), max_size=3))
def test_any_file_comes_out_as_it_went_in(file: bytes, before: list[bytes]) -> None:
    assert file_of(*((FIELD, body) for body in before), (FILE, file)) == file


@given(
    st.binary() | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b"x:y", b" "])).map(b"".join)
)
def test_no_form_makes_it_fail_otherwise(form: bytes) -> None:
    with suppress(BadBody, UnsupportedCoding):
        assert first_file(form, b"b") in form


def test_the_number_of_parts_is_bounded() -> None:
    _, most = multipart(*[(FILE, b"x")] * PARTS_LIMIT)
    assert first_file(most, b"x1y2")[0] == b"x"
    _, more = multipart(*[(FILE, b"x")] * (PARTS_LIMIT + 1))
    with pytest.raises(BadBody, match=f"more than {PARTS_LIMIT} parts"):
        first_file(more, b"x1y2")


_OPENING = b"--B\r\nContent-Disposition: form-data; filename=a\r\n\r\n"
_SCRAPS = [
    *(b"\r\n", b"\r\n--B", b"--B", b"--", b" ", b"\t", b"\r", b"\n", b"-", b"x", b"\r\n--B--"),
    *(b"Content-Disposition: form-data; filename=a\r\n\r\n", b"Content-Type: a/b", _OPENING),
]


@given(st.lists(st.sampled_from(_SCRAPS)), st.lists(st.integers(1, 9), min_size=1))
def test_a_form_may_come_in_any_pieces(scraps: list[bytes], sizes: list[int]) -> None:
    form = b"".join(scraps)
    for whole in (form, _OPENING + form + b"\r\n--B--"):
        assert _read(whole, [len(whole) or 1]) == _read(whole, sizes)


def _read(form: bytes, sizes: list[int]) -> tuple[bytes, str | None] | None:
    reader, start, turn = FormReader(b"B"), 0, 0
    found: list[bytes] = []
    try:
        while start < len(form):
            stop = start + sizes[turn % len(sizes)]
            found += reader.feed(form[start:stop])
            start, turn = stop, turn + 1
        found += reader.finish()
    except (BadBody, UnsupportedCoding):
        return None
    return b"".join(found), reader.media_type


def test_of_a_long_file_hardly_anything_is_held() -> None:
    reader = FormReader(b"B")
    assert reader.feed(_OPENING) == []
    for _ in range(10):
        assert sum(map(len, reader.feed(bytes(100_000)))) > 99_000
        assert len(reader._unread) < 10
