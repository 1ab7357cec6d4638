"""Items as records and back: nothing is lost, and what could not be given back is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.items import (
    FLAGS_NAME,
    RELATIVE_EXPTIME_LIMIT,
    BadItem,
    expiry_of,
    is_alive,
    is_own,
    item_of,
    item_size,
    record_of,
    unique_of,
)
from sfss.record import (
    RECORD_FLAGS,
    Head,
    Kind,
    Record,
    decode,
    encode,
    expired_tombstone,
    new_record,
)

NOW_US = 1_700_000_000_000_000


def kept(flags: int, value: bytes, expiry: int = 0, version: int = 7) -> Record:
    """Return the record of an item as it comes back from a store."""
    return decode(encode(record_of(flags, value, expiry, version)), "", b"")


@given(st.integers(0, 2**32 - 1).filter(lambda flags: flags != RECORD_FLAGS), st.binary())
def test_a_plain_item_comes_back(flags: int, value: bytes) -> None:
    record = kept(flags, value, expiry=9, version=5)
    item = item_of(record, encode(record))
    assert (item.flags, bytes(item.value)) == (flags, value)
    assert (record.head.version, record.head.expiry) == (5, 9)
    assert is_own(record.head)
    assert item_size(record.head) == len(value)


@pytest.mark.parametrize(
    "record",
    [
        new_record(b"", 1),
        new_record(b"body", 2, {"Content-Type": "text/plain", "X-Größe": "\x00\u2028"}),
        new_record(b"body", 3)._replace(head=new_record(b"body", 3).head._replace(expiry=4)),
        Record(Head(5, 0, new_record(b"", 5).head.digest, Kind.TOMBSTONE), b""),
    ],
    ids=["empty", "metadata", "expiry", "tombstone"],
)
def test_a_record_stays_what_it_is(record: Record) -> None:
    value = encode(record)
    again = kept(RECORD_FLAGS, value)
    assert encode(again) == value
    assert item_of(again, encode(again)) == (RECORD_FLAGS, value)
    assert not is_own(again.head)
    assert item_size(again.head) == len(value)
    assert is_alive(again.head, NOW_US)


METADATA = encode(new_record(b"body", 2, {"a": "b"}))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "header of 56 bytes"),
        (b"no record", "header of 56 bytes"),
        (METADATA[:-1], "body of 4 bytes"),
        (METADATA[:-1] + b"x", "digest"),
        (METADATA[:9] + b"\xff" + METADATA[10:], "checksum"),
        (encode(new_record(b"body", 2, {FLAGS_NAME: "5"})), "memcached flags"),
    ],
)
def test_what_is_no_record_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(BadItem, match=reason):
        record_of(RECORD_FLAGS, value, 0, 7)


@pytest.mark.parametrize("metadata", [b"{}", b'{ "a":"b"}', b'{"a":"b","a":"b"}'])
def test_metadata_that_would_not_come_back_are_refused(
    monkeypatch: pytest.MonkeyPatch, metadata: bytes
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sfss.record.json.dumps", lambda *_, **__: metadata.decode())
        value = encode(new_record(b"body", 2, {"a": "b"}))
    decode(value, "", b"")
    with pytest.raises(BadItem, match="not written as sfss writes"):
        record_of(RECORD_FLAGS, value, 0, 7)


def test_a_record_takes_no_exptime() -> None:
    with pytest.raises(BadItem, match="exptime"):
        record_of(RECORD_FLAGS, METADATA, NOW_US, 7)


def test_equal_records_have_equal_cas_numbers_and_others_have_not() -> None:
    records = [
        new_record(body, version, metadata)
        for body in (b"a", b"b")
        for version in (1, 2)
        for metadata in (None, {"a": "b"})
    ]
    numbers = [unique_of(record.head) for record in records]
    assert numbers == [unique_of(decode(encode(record), "", b"").head) for record in records]
    numbers += [unique_of(expired_tombstone(record.head).head) for record in records]
    assert len(set(numbers)) == 8
    assert all(0 <= number < 1 << 64 for number in numbers)


@pytest.mark.parametrize(
    ("exptime", "expiry"),
    [
        (0, 0),
        (1, NOW_US + 1_000_000),
        (RELATIVE_EXPTIME_LIMIT, NOW_US + RELATIVE_EXPTIME_LIMIT * 1_000_000),
        (RELATIVE_EXPTIME_LIMIT + 1, (RELATIVE_EXPTIME_LIMIT + 1) * 1_000_000),
        (2_000_000_000, 2_000_000_000_000_000),
        (10**18 - 1, (1 << 63) - 1),
    ],
)
def test_exptimes(exptime: int, expiry: int) -> None:
    assert expiry_of(exptime, NOW_US) == expiry
    encode(record_of(0, b"", expiry, 1))


def test_only_plain_items_expire() -> None:
    def alive(expiry: int) -> bool:
        return is_alive(kept(0, b"", expiry).head, NOW_US)

    assert [alive(0), alive(NOW_US + 1), alive(NOW_US), alive(expiry_of(-1, NOW_US))] == [
        True,
        True,
        False,
        False,
    ]
    assert is_alive(new_record(b"", 1).head._replace(expiry=1), NOW_US)
