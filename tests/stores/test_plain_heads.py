"""Heads of plain files: believed, or made of what every store can tell."""

import pytest

from sfss.record import VERSION_LIMIT, Head, Kind, digest_of, encode_head
from sfss.stores.plain_heads import is_about, is_raw, raw_file_head

HEAD = Head(7_000_001, 4, digest_of(b"body"))


def test_a_raw_file_has_a_token_and_whole_seconds() -> None:
    head = raw_file_head(4, 1_700_000_000)
    assert (head.version, head.size) == (1_700_000_000_000_000, 4)
    assert is_raw(head)
    assert head == raw_file_head(4, 1_700_000_000)
    assert head.digest != raw_file_head(5, 1_700_000_000).digest
    assert head.digest != raw_file_head(4, 1_700_000_001).digest
    assert not is_raw(HEAD)


@pytest.mark.parametrize("mtime_s", [-(10**12), -1, 0, 10**15])
def test_odd_times_become_versions(mtime_s: int) -> None:
    head = raw_file_head(1, mtime_s)
    assert 0 <= head.version <= VERSION_LIMIT
    assert is_raw(head)
    assert encode_head(head)


def test_a_head_is_believed_of_its_own_file_only() -> None:
    assert is_about(HEAD, 4, 7_000_001, 1)
    assert not is_about(HEAD, 5, 7_000_001, 1)
    assert not is_about(HEAD, 4, 7_000_002, 1)
    assert is_about(HEAD, 4, 7_000_000, 1_000_000)
    assert not is_about(HEAD, 4, 8_000_000, 1_000_000)
    assert not is_about(HEAD._replace(kind=Kind.TOMBSTONE), 4, 7_000_001, 1)
