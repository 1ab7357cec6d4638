"""Where blobs lie, and what their ids are."""

import hashlib

import pytest

from sfss.blob_ids import check_id, digest_like, id_at, id_of, is_digest, path_of
from sfss.errors import NotFound


def test_a_blob_lies_where_its_id_says() -> None:
    for blob_id in ("a", "ab", "abc", "da39a3ee5e6b4b0d3255bfef95601890afd80709"):
        assert check_id(blob_id) == blob_id
        assert id_at(path_of(blob_id)) == blob_id
    assert path_of("abcd") == "blobs/ab/abcd"
    assert path_of("a") == "blobs/a/a"


def test_paths_are_in_the_order_of_the_ids() -> None:
    ids = ["0", "00", "000", "0a", "a", "a0", "ab", "abc", "b", "zz", "zzz"]
    assert sorted(ids) == ids
    assert sorted(map(path_of, ids)) == list(map(path_of, ids))


@pytest.mark.parametrize("text", ["", "A", "ab/cd", "..", "ä", "a.b", "a b", "a\n", "²"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(NotFound):
        check_id(text)


@pytest.mark.parametrize(
    "path", ["blobs/ab/cd", "blobs/ab", "blobs/abc", "blob/ab/abc", "blobs/ab/ABC", "blobs/a/abc"]
)
def test_what_is_not_the_path_of_a_blob(path: str) -> None:
    assert id_at(path) is None


def test_digests() -> None:
    sha1, sha256 = hashlib.sha1(b"x").hexdigest(), hashlib.sha256(b"x").hexdigest()
    assert (id_of(b"x", "sha1"), id_of(b"x", "sha256")) == (sha1, sha256)
    assert (digest_like(sha1, b"x"), digest_like(sha256, b"x")) == (sha1, sha256)
    assert is_digest(sha1) and is_digest(sha256)
    assert not any(map(is_digest, ("", "a", "z" * 40, "a" * 39, "A" * 40)))
