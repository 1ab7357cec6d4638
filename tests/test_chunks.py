"""Manifests and chunks: golden bytes, keys that no path has, and ranges over chunks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss import chunks
from sfss.chunks import (
    CHUNK_SIZE,
    KEY_SIZE,
    Layout,
    chunk_key,
    chunk_record,
    chunk_size_for,
    digests_in,
    file_head,
    file_key_of,
    layout_of,
    manifest,
    prefix_of,
    read_chunk_key,
    spans,
    upload_name,
)
from sfss.errors import BadPath, Corrupt
from sfss.items import record_of
from sfss.keys import KEY_LIMIT, KeyScheme
from sfss.memtext import set_command
from sfss.record import RECORD_FLAGS, Head, Kind, Record, decode, digest_of, encode

GOLDEN = Path(__file__).parent / "golden"
VERSION = 1_700_000_000_123_456
BODY = b"0123456789"
KEY = b"photos/1.jpg"
UPLOAD = upload_name(VERSION, 0x0123456789ABCDEF)
FILE = Head(VERSION, 10, digest_of(BODY), expiry=VERSION + 1, metadata={"Content-Type": "a/b"})
LAYOUT = Layout(10, FILE.digest, 4, UPLOAD)
PIECES = [b"0123", b"4567", b"89"]
SCHEMES = [KeyScheme("percent"), KeyScheme("base64"), KeyScheme("plain")]


def whole() -> Record:
    """Return the manifest of ``FILE``."""
    return manifest(FILE, LAYOUT, [digest_of(piece) for piece in PIECES])


@pytest.mark.parametrize(
    ("name", "record"),
    [("manifest", whole()), ("chunk", chunk_record(PIECES[1], KEY, FILE))],
)
def test_golden_bytes(name: str, record: Record) -> None:
    golden = (GOLDEN / f"record-v1-{name}.bin").read_bytes()
    assert encode(record) == golden
    assert decode(golden, "", b"") == Record(record.head, record.body)
    assert record_of(RECORD_FLAGS, golden, 0, 1) == record  # as a node takes it


def test_the_golden_key() -> None:
    assert chunk_key(b"%00", KEY, UPLOAD, 258) == (
        b"%00c8dabc2566cc1ff7c2076b7469f64bb8b.00060a24182022400123456789abcdef.0102"
    )


def test_a_manifest_tells_its_file() -> None:
    record = whole()
    assert record.head.kind is Kind.MANIFEST
    assert layout_of(record.head) == LAYOUT
    assert file_head(record.head, KEY) == FILE
    assert digests_in(record.body) == [digest_of(piece) for piece in PIECES]
    assert [LAYOUT.size_of(number) for number in range(LAYOUT.chunks)] == [4, 4, 2]


def test_what_is_no_manifest_is_as_it_is() -> None:
    assert layout_of(FILE) is None
    assert file_head(FILE, KEY) is FILE
    claims = FILE._replace(metadata=whole().head.metadata)
    assert layout_of(claims) is None
    assert file_head(claims, KEY) is claims


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        f"10 {FILE.digest.hex()} 0 {UPLOAD}",
        f"10 {FILE.digest.hex()} 4 {UPLOAD} ",
        f"10 {FILE.digest.hex()} 4 {UPLOAD[1:]}",
        f"1{'0' * 30} {FILE.digest.hex()} 4 {UPLOAD}",
        f"-1 {FILE.digest.hex()} 4 {UPLOAD}",
        f"100 {FILE.digest.hex()} 4 {UPLOAD}",
    ],
)
def test_a_manifest_that_cannot_be_read_is_damaged(text: str) -> None:
    head = whole().head._replace(metadata={chunks.FILE_NAME: text})
    assert layout_of(head) is None
    with pytest.raises(Corrupt, match="a readable manifest"):
        file_head(head, KEY)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("number", [0, 65_535, 65_536, (1 << 24) - 1])
def test_a_chunk_has_a_key_that_no_path_has(scheme: KeyScheme, number: int) -> None:
    prefix = prefix_of(scheme.encoding)
    key = chunk_key(prefix, KEY, UPLOAD, number)
    assert len(key) <= KEY_SIZE <= KEY_LIMIT
    name = read_chunk_key(prefix, key)
    assert name == (digest_of(KEY).hex(), UPLOAD, number)
    assert name is not None
    assert name.version == VERSION
    try:
        path = scheme.path(key)
        assert scheme.key(path) != key
    except (ValueError, BadPath):
        pass


@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_the_key_is_one_of_the_protocol(scheme: KeyScheme) -> None:
    key = chunk_key(prefix_of(scheme.encoding), KEY, UPLOAD, 1)
    assert set_command(key, 0, b"").startswith(b"set " + key)
    assert all(0x21 <= byte <= 0x7E for byte in key)
    assert key[:1] not in b"@?"


@given(st.text(min_size=1, max_size=100))
def test_no_path_is_taken_for_a_chunk(path: str) -> None:
    for scheme in SCHEMES:
        try:
            key = scheme.key(path)
        except BadPath:
            continue
        assert read_chunk_key(prefix_of(scheme.encoding), key) is None


@given(st.binary(max_size=120))
def test_any_key_may_be_looked_at(key: bytes) -> None:
    assert read_chunk_key(b"%00", b"%00c" + key) is None or len(key) >= 70


@given(st.binary(min_size=1, max_size=250))
def test_a_chunk_tells_the_key_of_its_file(key: bytes) -> None:
    record = chunk_record(b"piece", key, FILE)
    assert file_key_of(decode(encode(record), "", b"").head) == key
    assert record.head.expiry == FILE.expiry
    assert file_key_of(FILE) is None


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))
def test_ranges_are_made_of_the_chunks_they_need(
    chunk_size: int, size: int, start: int, stop: int
) -> None:
    body = bytes(range(size))
    start, stop = min(start, size), min(stop, size)
    layout = Layout(size, b"", chunk_size, UPLOAD)
    parts = [body[at : at + chunk_size] for at in range(0, size, chunk_size)]
    assert layout.chunks == len(parts)
    found = spans(layout, start, stop)
    assert (
        b"".join(parts[each.number][each.start : each.stop] for each in found) == body[start:stop]
    )
    assert all(each.start < each.stop for each in found)


@pytest.mark.parametrize(
    ("room", "size"),
    [
        (None, CHUNK_SIZE),
        (1 << 20, CHUNK_SIZE),
        (100_000, 97_952),
        (18_432, 16_384),
        (18_431, None),
    ],
)
def test_chunks_are_as_large_as_the_stores_take(room: int | None, size: int | None) -> None:
    assert chunk_size_for(room) == size
    if room is not None and size is not None:
        longest = chunk_record(bytes(size), b"\xff" * 250, FILE)
        assert len(encode(longest)) <= room
