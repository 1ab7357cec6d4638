"""Heads among the fields of a blob: there and back, and what is wrong with them."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import Corrupt
from sfss.record import METADATA_LIMIT, VERSION_LIMIT, Head, Kind
from sfss.stores.blob_fields import carried_in, fields_of, names_in

NAMES = st.dictionaries(
    st.one_of(
        st.sampled_from(["X-A", "X-Name", "X-odd", "X-Sfss", "X-Sfss-2", "X-", "Content-Type"]),
        st.from_regex(r"X-[!-9;-~]{1,20}", fullmatch=True),
        st.text(max_size=8),
    ),
    st.text(max_size=40),
    max_size=8,
)


def sent(head: Head) -> dict[bytes, bytes]:
    """Return the fields that a server gives back, as they are read."""
    lines = fields_of(head).encode().split(b"\r\n")
    assert lines.pop() == b""
    assert all(re.fullmatch(rb"X-[!-9;-~]+: [\x20-\x7e\x80-\xff]+", line) for line in lines)
    pairs = [line.split(b": ", 1) for line in lines]
    return {name.lower(): value.strip(b" \t") for name, value in pairs}


def read(fields: Mapping[bytes, bytes]) -> Head | None:
    return carried_in(fields, names_in(fields), "store", b"key")


@given(st.integers(1, VERSION_LIMIT), st.integers(0, 2**40), st.integers(0, 2**40), NAMES)
def test_a_head_comes_back(version: int, size: int, expiry: int, names: dict[str, str]) -> None:
    head = Head(version, size, bytes(range(16)), Kind.FILE, expiry, names)
    assert read(sent(head)) == head


@given(NAMES)
def test_what_a_proxy_adds_changes_nothing(names: dict[str, str]) -> None:
    head = Head(1, 2, bytes(16), metadata=names)
    fields = {**sent(head), b"x-cache": b"hit", b"x-sfss-99": b"?", b"server": b"nginx"}
    if b"x-cache" not in sent(head):
        assert read(fields) == head


def test_a_raw_head_is_not_sent() -> None:
    head = Head(0, 2, bytes(16), metadata={"X-Name": "a", "X-Mime-Type": "text/plain"})
    assert fields_of(head) == "X-Name: a\r\nX-Mime-Type: text/plain\r\n"
    assert names_in(sent(head)) == head.metadata
    assert "X-Sfss" in fields_of(head._replace(metadata={"Content-Type": "text/plain"}))


def test_a_large_head_comes_in_pieces() -> None:
    head = Head(1, 2, bytes(16), metadata={"a": "b" * (METADATA_LIMIT - 100)})
    fields = sent(head)
    assert len(fields) > 20
    assert max(map(len, fields.values())) == 4000
    assert read(fields) == head
    del fields[b"x-sfss-3"]
    with pytest.raises(Corrupt):
        read(fields)


def test_golden_fields() -> None:
    head = Head(
        1_700_000_000_000_000,
        5,
        bytes.fromhex("b5e9c1ad071b3e7fc779cfaa5e523818"),
        metadata={"Content-Type": "text/plain", "X-Name": "n"},
    )
    file = Path(__file__).parent.parent / "golden" / "blob-fields.txt"
    assert fields_of(head) == file.read_bytes().decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-name", b"another"),
        (b"x-sfss", b"?"),
        (b"x-sfss", b""),
        (b"x-sfss", b"AAAA"),
        (b"x-sfss-2", b"AAAA"),
    ],
)
def test_a_head_that_was_changed(name: bytes, value: bytes) -> None:
    fields = sent(Head(1, 2, bytes(16), metadata={"X-Name": "a"}))
    with pytest.raises(Corrupt):
        read({**fields, name: value})
    del fields[b"x-name"]
    with pytest.raises(Corrupt):
        read(fields)


def test_a_deletion_is_no_head_of_a_blob() -> None:
    with pytest.raises(Corrupt):
        read(sent(Head(1, 0, bytes(16), Kind.TOMBSTONE)))


def test_names_of_others() -> None:
    fields = {
        b"x-mime-type": b"text/plain",
        b"x-ODD_name": b"\xc3\xb6",
        b"x-latin": b"\xf6",
        b"x-sfss-version": b"1",
        b"content-type": b"a/b",
    }
    assert names_in(fields) == {"X-Mime-Type": "text/plain", "X-Odd_name": "ö", "X-Latin": "ö"}
    with pytest.raises(ValueError, match="fields"):
        names_in({b"x-a": b"a" * METADATA_LIMIT})
