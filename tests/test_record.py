"""Records: golden bytes, every kind of damage, and round trips of anything."""

import json
from collections.abc import Callable
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from sfss.errors import Corrupt
from sfss.record import (
    HEADER_SIZE,
    METADATA_LIMIT,
    RECORD_FLAGS,
    VERSION_LIMIT,
    Head,
    Kind,
    Record,
    decode,
    decode_head,
    decode_lone_head,
    described,
    encode,
    encode_head,
    expired_tombstone,
    expiry_in,
    has_expired,
    new_record,
    raw_record,
)

GOLDEN = Path(__file__).parent / "golden"

VERSION = 1_700_000_000_123_456
METADATA = {"Content-Type": "text/plain", "X-Name": "Größe.txt"}


def assembled(
    body: bytes = b"Hello, world\n",
    *,
    magic: bytes = b"SF",
    form: int = 1,
    kind: int = 1,
    metadata: bytes = b"",
    metadata_size: int | None = None,
    expiry: int = 0,
    size: int | None = None,
    digest: bytes | None = None,
    checksum: int | None = None,
) -> bytes:
    """Put a record together from the table in ``sfss.record``, without its code."""
    fields = pack(
        "<2sBBIQQQ16s",
        magic,
        form,
        kind,
        len(metadata) if metadata_size is None else metadata_size,
        VERSION,
        expiry,
        len(body) if size is None else size,
        xxh3_128_digest(body) if digest is None else digest,
    )
    check = xxh3_64_intdigest(fields + metadata) if checksum is None else checksum
    return fields + pack("<Q", check) + metadata + body


WELL = {
    "ok": assembled,
    "metadata": lambda: assembled(metadata=json.dumps(METADATA, separators=(",", ":")).encode()),
    "tombstone": lambda: assembled(b"", kind=2),
    "expiry": lambda: assembled(expiry=VERSION + 1),
    "expired": lambda: assembled(
        b"", kind=2, expiry=VERSION + 1, digest=xxh3_128_digest(b"Hello, world\n")
    ),
    "empty": lambda: assembled(b""),
}
DAMAGED: dict[str, Callable[[], bytes]] = {
    "bad-digest": lambda: assembled(digest=xxh3_128_digest(b"Hello, World\n")),
    "bad-checksum": lambda: assembled(checksum=0x0123456789ABCDEF),
    "bad-magic": lambda: assembled(magic=b"FS"),
    "bad-format": lambda: assembled(form=2),
    "bad-kind": lambda: assembled(kind=3),
    "bad-json": lambda: assembled(metadata=b'{"a":'),
    "not-an-object": lambda: assembled(metadata=b'["a"]'),
    "not-of-strings": lambda: assembled(metadata=b'{"a":{"b":1}}'),
    "truncated": lambda: assembled()[:-1],
    "longer": lambda: assembled() + b"x",
    "header-cut": lambda: assembled()[: HEADER_SIZE - 1],
    "metadata-over-limit": lambda: assembled(metadata_size=METADATA_LIMIT + 1),
    "metadata-past-end": lambda: assembled(metadata_size=1000),
    "empty-file": lambda: b"",
}


def golden(name: str) -> bytes:
    """Return one of the committed files."""
    return (GOLDEN / f"record-v1-{name}.bin").read_bytes()


@pytest.mark.parametrize("name", [*WELL, *DAMAGED])
def test_golden_files_are_made_like_this(name: str) -> None:
    assert golden(name) == {**WELL, **DAMAGED}[name]()


EXPECTED = {
    "ok": new_record(b"Hello, world\n", VERSION),
    "metadata": new_record(b"Hello, world\n", VERSION, METADATA),
    "tombstone": Record(Head(VERSION, 0, xxh3_128_digest(b""), Kind.TOMBSTONE), b""),
    "expiry": Record(
        Head(VERSION, 13, xxh3_128_digest(b"Hello, world\n"), expiry=VERSION + 1),
        b"Hello, world\n",
    ),
    "empty": new_record(b"", VERSION),
    "expired": Record(
        Head(VERSION, 0, xxh3_128_digest(b"Hello, world\n"), Kind.TOMBSTONE, VERSION + 1), b""
    ),
}


@pytest.mark.parametrize("name", WELL)
def test_golden_records_are_read(name: str) -> None:
    read = decode(golden(name), "store", b"key")
    assert read == EXPECTED[name]
    assert decode_head(golden(name), "store", b"key") == read.head
    assert decode(memoryview(golden(name)), "store", b"key") == read


@pytest.mark.parametrize("name", ["ok", "tombstone", "expiry", "expired", "empty"])
def test_golden_records_are_written(name: str) -> None:
    assert encode(EXPECTED[name]) == golden(name)


def test_what_an_expired_file_becomes() -> None:
    head, other = EXPECTED["expiry"].head, EXPECTED["ok"].head
    assert expired_tombstone(head._replace(metadata=METADATA)) == EXPECTED["expired"]
    assert has_expired(head, VERSION + 1)
    assert not has_expired(head, VERSION)
    assert not has_expired(EXPECTED["expired"].head, VERSION + 1)
    assert not has_expired(other, VERSION_LIMIT)
    with pytest.raises(Corrupt):  # what a tombstone may say, a file may not
        decode(assembled(b"", digest=head.digest), "", b"")
    assert expiry_in(golden("expiry")) == expiry_in(golden("expired")) == VERSION + 1
    assert expiry_in(golden("ok")) == expiry_in(golden("header-cut")) == 0


def test_metadata_is_kept() -> None:
    assert decode(encode(EXPECTED["metadata"]), "", b"") == EXPECTED["metadata"]


def test_a_head_in_words() -> None:
    head = new_record(b"body", 1_700_000_000_000_001).head
    assert described(head) == "the file of 2023-11-14 22:13:20.000001 UTC"
    gone = head._replace(kind=Kind.TOMBSTONE, version=VERSION_LIMIT)
    assert described(gone) == "the deletion of 9999-12-31 23:59:59.999999 UTC"
    assert described(raw_record(b"body").head) == "a file without a version"


@pytest.mark.parametrize("name", DAMAGED)
def test_golden_damage_is_found(name: str) -> None:
    with pytest.raises(Corrupt) as caught:
        decode(golden(name), "store-1", b"key-1")
    assert (caught.value.store, caught.value.key) == ("store-1", b"key-1")
    assert str(caught.value).startswith("store store-1 holds a damaged key-1: expected ")


@pytest.mark.parametrize("name", sorted(set(DAMAGED) - {"bad-digest"}))
def test_a_head_is_not_read_from_damage(name: str) -> None:
    with pytest.raises(Corrupt):
        decode_head(golden(name), "", b"")


def test_a_head_is_read_without_the_body() -> None:
    assert decode_head(golden("bad-digest"), "", b"").size == 13


def test_a_head_may_be_kept_apart_from_its_body() -> None:
    head = new_record(b"body", 7, {"a": "b"}).head
    assert decode_lone_head(encode_head(head), "store", b"key") == head
    for value in (b"", encode_head(head)[:-1], encode_head(head) + b"body", b"x" * 56):
        with pytest.raises(Corrupt):
            decode_lone_head(value, "store", b"key")


@pytest.mark.parametrize("name", WELL)
def test_every_flipped_byte_is_found(name: str) -> None:
    good = golden(name)
    for position in range(len(good)):
        for change in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= change
            with pytest.raises(Corrupt):
                decode(bytes(bad), "", b"")


@pytest.mark.parametrize("name", WELL)
def test_every_cut_is_found(name: str) -> None:
    good = golden(name)
    for length in range(len(good)):
        with pytest.raises(Corrupt):
            decode(good[:length], "", b"")


texts = st.text(st.characters(codec="utf-8"), max_size=30)


@given(
    st.binary(max_size=300),
    st.integers(0, VERSION_LIMIT),
    st.integers(0, 2**64 - 1),
    st.sampled_from(Kind),
    st.dictionaries(texts, texts, max_size=5),
)
def test_any_record_round_trips(
    body: bytes, version: int, expiry: int, kind: Kind, metadata: dict[str, str]
) -> None:
    head = Head(version, len(body), xxh3_128_digest(body), kind, expiry, metadata)
    read = decode(encode(Record(head, body)), "", b"")
    assert (read.head, bytes(read.body)) == (head, body)
    assert decode_head(encode(read), "", b"") == head


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_corrupt(value: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(value, "", b"")


@given(
    st.binary(max_size=100),
    st.sampled_from([b"SF", b"XX"]),
    st.integers(0, 3),
    st.integers(0, 4),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)
def test_wrong_fields_under_a_right_checksum_raise_nothing_but_corrupt(
    metadata: bytes, magic: bytes, form: int, kind: int, metadata_size: int | None, size: int | None
) -> None:
    value = assembled(
        magic=magic,
        form=form,
        kind=kind,
        metadata=metadata,
        metadata_size=metadata_size,
        size=size,
    )
    try:
        read = decode(value, "", b"")
    except Corrupt:
        return
    assert all(isinstance(text, str) for pair in read.head.metadata.items() for text in pair)
    assert bytes(read.body) == b"Hello, world\n"


def test_deep_metadata_is_damage() -> None:
    with pytest.raises(Corrupt):
        decode(assembled(metadata=b"[" * 60_000), "", b"")


def test_metadata_up_to_its_limit() -> None:
    fits = {"a": "x" * (METADATA_LIMIT - len('{"a":""}'))}
    assert decode(encode(new_record(b"", 1, fits)), "", b"").head.metadata == fits
    with pytest.raises(ValueError, match="metadata has 65537 bytes; 65536 are allowed"):
        encode(new_record(b"", 1, {"a": fits["a"] + "x"}))


def test_the_digest_is_of_the_body() -> None:
    assert new_record(b"body", 1).head.digest == xxh3_128_digest(b"body")
    assert new_record(b"body", 1).head.size == 4


def test_a_raw_body_has_no_version() -> None:
    record = raw_record(b"anything")
    assert record.head == Head(0, 8, xxh3_128_digest(b"anything"))
    assert record.body == b"anything"


def test_flags_keep_off_the_bits_that_servers_give_a_meaning_to() -> None:
    assert RECORD_FLAGS == 0x53460001
    assert not RECORD_FLAGS & (0x10000 | 0x100 | 0x204 | 0x80000000)


def test_a_version_that_no_calendar_knows_is_damage() -> None:
    last = new_record(b"x", VERSION_LIMIT)
    assert decode(encode(last), "store", b"k").head == last.head
    with pytest.raises(Corrupt, match="version"):
        decode(encode(new_record(b"x", VERSION_LIMIT + 1)), "store", b"k")
