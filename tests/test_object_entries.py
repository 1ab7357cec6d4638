"""Entries of objects: as records and back, in a bucket and back; where bodies and chunks belong."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.chunks import (
    ESCAPED_PREFIX,
    PLAIN_PREFIX,
    body_path,
    chunk_key,
    home_of,
    object_of,
    read_chunk_key,
    upload_name,
)
from sfss.errors import BadArgument, Corrupt, TooManyNames
from sfss.keys import KeyScheme
from sfss.object_entries import (
    Entry,
    ObjstoreLabels,
    Traits,
    entry_from_bucket,
    read_entry,
    record_for_bucket,
    record_of_entry,
)
from sfss.placement import KetamaRing, Mirror, ObjectPlacement
from sfss.record import Head, Record, decode, digest_of, encode
from sfss.web import object_fields

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
VERSION = 1_700_000_000_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TRAITS = st.builds(
    Traits,
    TEXTS,
    st.sampled_from((0, 1, 2)),
    st.dictionaries(TEXTS, TEXTS, max_size=5),
    st.sampled_from(("", "text/plain", "image/png")),
    st.sampled_from((0, VERSION + 5)),
)
ENTRIES = st.builds(
    Entry,
    st.just(ID),
    TRAITS,
    st.integers(0, 1 << 30),
    st.binary(min_size=16, max_size=16),
    st.integers(1, VERSION),
    st.sampled_from(("", f"single/{ID}/{'0' * 32}")),
    st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)),
    st.booleans(),
    st.just(False),
)


@given(ENTRIES)
def test_an_entry_is_a_record_and_back(entry: Entry) -> None:
    record = record_of_entry(entry, VERSION, entry.traits.expiry)
    read = decode(encode(record), "store", b"key")
    assert read.head == record.head
    assert read_entry(ID, read.head) == entry


@given(ENTRIES)
def test_a_deleted_entry_is_kept_for_as_long_as_deletions_are(entry: Entry) -> None:
    gone = entry._replace(is_deleted=True)
    record = record_of_entry(gone, VERSION, VERSION + 77)
    assert record.head.expiry == VERSION + 77
    assert read_entry(ID, record.head) == gone._replace(traits=gone.traits._replace(expiry=0))


def test_entries_of_one_version_have_different_digests() -> None:
    entry = Entry(ID, Traits(), 1, b"\0" * 16, 5, "single/a")
    other = entry._replace(body="single/b")
    assert record_of_entry(entry, 9, 0).head.digest != record_of_entry(other, 9, 0).head.digest


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"size": "1", "digest": "zz", "written": "1"},
        {"size": "x", "digest": "00", "written": "1"},
        {"size": "1", "digest": "00", "written": "1", "level": "3"},
        {"size": "1", "digest": "00", "written": "1", "user": "[]"},
        {"size": "1", "digest": "00", "written": "1", "user": '{"a": 1}'},
        {"size": "1", "digest": "00", "written": "1", "user": "[" * 5000},
    ],
)
def test_what_is_no_entry(names: Mapping[str, str]) -> None:
    with pytest.raises(Corrupt, match="an entry"):
        read_entry(ID, Head(1, 0, b"\0" * 16, metadata=names))


@given(ENTRIES)
def test_an_object_in_the_bucket_tells_its_entry(entry: Entry) -> None:
    record = record_for_bucket(entry._replace(seal=b""), b"")
    found = entry_from_bucket(ID, record.head, entry.digest)
    level = max(entry.traits.level, 1)
    assert found.traits == entry.traits._replace(level=level)
    assert (found.size, found.digest, found.written) == (entry.size, entry.digest, entry.written)
    assert found.is_fetched
    assert entry._replace(seal=b"").is_version_of(record.head)
    assert not entry._replace(seal=b"", written=entry.written + 1).is_version_of(record.head)


def test_an_object_of_others_is_of_level_1() -> None:
    head = Head(VERSION, 3, b"t" * 16, metadata={"Content-Type": "image/png"})
    found = entry_from_bucket(ID, head, b"d" * 16)
    assert found.traits == Traits(level=1, media_type="image/png")
    assert found.is_version_of(head)
    assert found.digest == b"d" * 16
    odd = entry_from_bucket(ID, head._replace(metadata={"level": "9", "user": "no"}), b"d" * 16)
    assert odd.traits == Traits(level=1)


def test_labels_are_those_of_objstore() -> None:
    traits = Traits("a.txt", 2, {"Colour": "red", "b": "ü"})
    record = record_for_bucket(Entry(ID, traits, 3, digest_of(b"abc"), VERSION), b"abc")
    labels = ObjstoreLabels().of(ID, record.head)
    assert labels == {
        "id": ID,
        "name": "a.txt",
        "size": "3",
        "timestamp": str(VERSION * 1000),
        "consistency": "2",
        "usermeta-colour": "red",
        "usermeta-b": "ü",
    }
    read = ObjstoreLabels().read({"Name": "a.txt", "consistency": "2", "usermeta-colour": "red"})
    assert read == {"name": "a.txt", "level": "2", "user": '{"colour": "red"}'}
    assert ObjstoreLabels().read({"Content-Type": "x/y", "consistency": "7"}) == {}


UPLOADS = st.integers(0, (1 << 64) - 1)


@given(
    UPLOADS, st.booleans(), st.sampled_from((("plain", PLAIN_PREFIX), ("percent", ESCAPED_PREFIX)))
)
def test_chunks_belong_where_their_body_does(
    random: int, everywhere: bool, kind: tuple[str, bytes]
) -> None:
    encoding, prefix = kind
    upload = upload_name(VERSION, random)
    path = body_path(ID, upload, everywhere)
    key = KeyScheme(encoding).key(path)
    assert object_of(key) == ID
    chunk = chunk_key(prefix, key, upload, random % 5000)
    name = read_chunk_key(prefix, chunk)
    assert name is not None
    assert (name.upload, name.number) == (upload, random % 5000)
    assert home_of(chunk) == home_of(key)
    servers = [f"127.0.0.1:{port}" for port in range(7901, 7908)]
    placement = ObjectPlacement(KetamaRing(servers[:1]), KetamaRing(servers), Mirror(servers))
    assert placement.primaries(chunk) == placement.primaries(key)
    assert len(placement.primaries(key)) == (7 if everywhere else 1)
    assert placement.primaries(f"objects/{ID}".encode()) == tuple(servers)


@pytest.mark.parametrize(
    "key",
    [
        b"single/x/y",
        f"single/{ID}/{'0' * 31}".encode(),
        f"single/{ID.lower()}/{'0' * 32}".encode(),
        f"both/{ID}/{'0' * 32}".encode(),
        f"single/{ID}/{'0' * 32}/x".encode(),
        b"\x00c" + b"0" * 32 + b"." + b"1" * 32 + b".0000",
    ],
)
def test_files_belong_where_files_do(key: bytes) -> None:
    assert home_of(key) is None
    assert object_of(key) is None
    placement = ObjectPlacement(Mirror(["f"]), Mirror(["s"]), Mirror(["e"]))
    assert placement.primaries(key) == ("f",)
    if b"." not in key:
        assert chunk_key(PLAIN_PREFIX, key, "0" * 32, 1).startswith(PLAIN_PREFIX + b"c")


def test_bodies_are_spread_over_all() -> None:
    servers = [f"127.0.0.1:{port}" for port in range(7901, 7904)]
    placement = ObjectPlacement(Mirror(servers), KetamaRing(servers), Mirror(servers))
    paths = [body_path(ID, upload_name(VERSION, number), False) for number in range(600)]
    homes = [placement.primaries(path.encode())[0] for path in paths]
    assert min(homes.count(each) for each in servers) > 60


def test_the_fields_of_a_request() -> None:
    fields = {
        "X-Meta-ID": ID.lower(),
        "X-Meta-Name": "a.txt",
        "X-Meta-ConsistencyLevel": "2",
        "X-Meta-UserMeta": '{"a": "ü"}',
    }
    assert object_fields.object_id(fields) == ID
    traits = object_fields.traits(fields, "text/plain")
    assert traits == Traits("a.txt", 2, {"a": "ü"}, "text/plain")
    assert object_fields.traits({}, "") == Traits()
    assert object_fields.shown(ID, traits) == {
        "X-Meta-Id": ID,
        "X-Meta-Name": "a.txt",
        "X-Meta-Consistencylevel": "2",
        "X-Meta-Usermeta": '{"a": "\\u00fc"}',
    }


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "X-Meta-ID"),
        ({"X-Meta-ID": "foo"}, "X-Meta-ID"),
        ({"X-Meta-ID": ID, "X-Meta-ConsistencyLevel": "3"}, "X-Meta-ConsistencyLevel"),
        ({"X-Meta-ID": ID, "X-Meta-ConsistencyLevel": "-0"}, "X-Meta-ConsistencyLevel"),
        ({"X-Meta-ID": ID, "X-Meta-ConsistencyLevel": "\u0661"}, "X-Meta-ConsistencyLevel"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": "{"}, "X-Meta-UserMeta"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": "[]"}, "X-Meta-UserMeta"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": '{"a": {}}'}, "X-Meta-UserMeta"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": '{"a": "\\ud800"}'}, "X-Meta-UserMeta"),
        ({"X-Meta-ID": ID, "X-Meta-UserMeta": "[" * 9000}, "X-Meta-UserMeta"),
        ({"X-Meta-ID": ID, "X-Meta-Name": "a\udcff"}, "X-Meta-Name"),
    ],
)
def test_mistakes_are_told(fields: Mapping[str, str], name: str) -> None:
    with pytest.raises(BadArgument) as caught:
        object_fields.traits(fields, "")
        object_fields.object_id(fields)
    assert caught.value.name == name


@pytest.mark.parametrize(
    "user",
    [
        {str(number): "" for number in range(65)},
        {"a": "x" * 16_384},
        {"a": "\U0001f600" * 9000},
    ],
)
def test_what_is_too_much_to_keep(user: Mapping[str, str]) -> None:
    with pytest.raises(TooManyNames):
        object_fields.traits({"X-Meta-UserMeta": json.dumps(user)}, "")


@given(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=64))
def test_what_is_taken_fits_into_a_record(name: str, user: Mapping[str, str]) -> None:
    fields = {"X-Meta-Name": name.strip(), "X-Meta-UserMeta": json.dumps(user)}
    try:
        traits = object_fields.traits(fields, "")
    except (BadArgument, TooManyNames):
        return
    entry = Entry(ID, traits, 0, b"\0" * 16, 1, "x" * 100)
    assert encode(record_of_entry(entry, 1, 0))
    assert encode(Record(*record_for_bucket(entry, b"")))


def test_the_form_of_an_entry_stays() -> None:
    # Changing it would lose sight of objects.
    traits = Traits("a.txt", 2, {"a": "ü"}, "text/plain")
    entry = Entry(ID, traits, 3, digest_of(b"abc"), VERSION, "every/x", b"t" * 16, True)
    record = record_of_entry(entry, VERSION + 1, 0)
    assert record.body == b"1700000000000000 every/x"
    assert record.head.metadata == {
        "written": "1700000000000000",
        "size": "3",
        "digest": "06b05ab6733a618578af5f94892f3950",
        "seal": "74" * 16,
        "body": "every/x",
        "name": "a.txt",
        "level": "2",
        "user": '{"a": "ü"}',
        "type": "text/plain",
        "fetched": "1",
    }


@pytest.mark.parametrize(
    ("everywhere", "path", "token", "chunk", "owner"),
    [
        (
            False,
            "single/01ARZ3NDEKTSV4RRFFQ69G5FAV/00060a24181e40000000000000000005",
            "37eed5dcae4b44442ebe091688b68d75",
            "%00sc37eed5dcae4b44442ebe091688b68d75.00000000000000000000000000000000.0001",
            "127.0.0.1:7901",
        ),
        (
            True,
            "every/01ARZ3NDEKTSV4RRFFQ69G5FAV/00060a24181e40000000000000000005",
            "f0c18af02846e4269d68a9474b779193",
            "%00mcf0c18af02846e4269d68a9474b779193.00000000000000000000000000000000.0001",
            "127.0.0.1:7902",
        ),
    ],
)
def test_where_bodies_belong_stays(
    everywhere: bool, path: str, token: str, chunk: str, owner: str
) -> None:
    # Changing it would lose sight of them.
    found = body_path(ID, upload_name(VERSION, 5), everywhere)
    assert found == path
    home = home_of(found.encode())
    assert home == (everywhere, token.encode())
    assert chunk_key(ESCAPED_PREFIX, found.encode(), "0" * 32, 1) == chunk.encode()
    servers = [f"127.0.0.1:{port}" for port in range(7901, 7904)]
    placement = ObjectPlacement(Mirror(servers), KetamaRing(servers), KetamaRing(servers))
    assert placement.primaries(found.encode()) == (owner,)
