"""Archives as text: held against Python's own reader and writer, and against what is none."""

import bz2
import gzip
import io
import lzma
import re
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.client_bodies import HELD_LIMIT, HeldBody
from sfss.tar_reading import Archive, BadArchive, Member
from sfss.tar_text import (
    END,
    EXPIRES_FIELD,
    TYPE_FIELD,
    BadHead,
    digest_comment,
    digest_of,
    entry_head,
    padding,
    read_fields,
    read_head,
)

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
BODIES = st.binary(max_size=1500)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def members(text: bytes) -> list[Member]:
    """Return all that an archive has; bodies are all short here."""
    archive = Archive(io.BytesIO(text))
    found = []
    while (member := archive.next()) is not None:
        found.append(member)
    archive.drain()
    return found


def bodies(found: list[Member]) -> list[tuple[str, bytes]]:
    """Return names and bytes of files."""
    return [
        (member.name, member.body.body) for member in found if isinstance(member.body, HeldBody)
    ]


def entry(name: str, body: bytes = b"", size: int | None = None) -> bytes:
    """Return a file of an archive, which says that it has ``size`` bytes."""
    head = entry_head(name, len(body) if size is None else size, 0, {})
    return head + body + bytes(padding(len(body)))


def other(name: str, kind: bytes, size: int = 0, body: bytes = b"") -> bytes:
    """Return an entry of another kind."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, "target"
    return member.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + body


def summed(head: bytes) -> bytes:
    """Return a head with the sum that it should have."""
    total = sum(head[:148]) + sum(head[156:512]) + 256
    return head[:148] + b"%06o\0 " % total + head[156:]


def field(key: bytes, value: bytes) -> bytes:
    """Return a field of an extended header."""
    rest = len(key) + len(value) + 3
    size = next(size for size in range(rest, rest + 9) if size == rest + len(str(size)))
    return b"%d %b=%b\n" % (size, key, value)


def extended(name: str, fields: bytes, body: bytes = b"x") -> bytes:
    """Return a file with extended fields, as they are."""
    filled = fields + bytes(padding(len(fields)))
    return other("pax", b"x", len(fields)) + filled + entry(name, body)


@given(NAMES, BODIES, st.floats(-1e9, 2**33), st.integers(0, 10**12 - 1))
def test_what_is_written_is_read_by_anybody(
    name: str, body: bytes, mtime: float, expires: int
) -> None:
    fields = {TYPE_FIELD: "text/x-t", EXPIRES_FIELD: str(expires), **digest_comment("ab" * 16)}
    text = entry_head(name, len(body), mtime, fields) + body + bytes(padding(len(body))) + END
    with tarfile.open(fileobj=io.BytesIO(text)) as archive:
        (theirs,) = archive.getmembers()
        content = archive.extractfile(theirs)
        assert content is not None and content.read() == body
        # Of some names tarfile takes away the slash at the end.
        assert theirs.name.rstrip("/") == name.rstrip("/") and theirs.isfile()
        assert abs(theirs.mtime - mtime) < 1e-5
    (ours,) = members(text)
    assert (ours.name, ours.media_type, ours.expires) == (name, "text/x-t", expires)
    assert ours.digest == "ab" * 16 and bodies([ours]) == [(name, body)]


@given(
    st.lists(st.tuples(NAMES.map(lambda name: name.strip("/") or "a"), BODIES), max_size=4),
    st.sampled_from(FORMATS),
)
def test_what_others_write_is_read(files: list[tuple[str, bytes]], form: int) -> None:
    packed = io.BytesIO()
    kept = []
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, body in files:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            try:
                archive.addfile(member, io.BytesIO(body))
            except ValueError:
                continue  # too long for that form
            kept.append((name, body))
    assert bodies(members(packed.getvalue())) == kept


@given(st.binary(max_size=512), st.integers(0, 511))
def test_no_head_and_no_fields_are_ever_taken_for_one(text: bytes, at: int) -> None:
    head = bytearray(entry_head("name", 5, 0, {}))
    head[at : at + len(text)] = text
    block = bytes(head[:512])
    total = sum(block[:148]) + sum(block[156:]) + 256
    summed = block[:148] + b"%06o\0 " % total + block[156:]
    for each in (block, summed):
        try:
            found = read_head(each)
        except BadHead:
            continue
        assert found is not None and found.size >= 0
    with suppress(BadHead):
        read_fields(text)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 3071), st.booleans())
def test_a_mangled_archive_is_read_or_refused(text: bytes, at: int, is_packed: bool) -> None:
    good = entry_head("a" * 120, 600, 1.5, {TYPE_FIELD: "a/b"}) + bytes(1024) + entry("b", b"b")
    mangled = (good[:at] + text + good[at + len(text) :])[: len(good)] + END
    try:
        for member in members(gzip.compress(mangled, 1) if is_packed else mangled):
            assert member.body is None or len(member.body) == member.size
    except BadArchive as error:
        assert str(error).startswith("the archive cannot be read")


def test_a_file_of_an_archive_that_was_cut_off_is_whole_or_not_there() -> None:
    files = [("a", b"1" * 700), ("b" * 130, b""), ("c", b"3" * 512)]
    text = b"".join(entry(*file) for file in files)
    ends = [len(b"".join(entry(*file) for file in files[:count])) for count in range(4)]
    for size in range(0, len(text) + 1, 8):
        archive, found = Archive(io.BytesIO(text[:size])), []
        with pytest.raises(BadArchive, match=r"no end|cut off"):
            while (member := archive.next()) is not None:
                found.append(member)
        count = sum(end <= size for end in ends[1:])
        # What fills up the last block may be missing.
        assert bodies(found) in (files[:count], files[: count + 1])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_archives(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(entry("a", b"a") + entry("b", b"b" * 3000) + END)
    assert bodies(members(packed)) == [("a", b"a"), ("b", b"b" * 3000)]
    for damaged in (packed[: len(packed) // 2], packed[:-5], packed[:30] + b"xx" + packed[32:]):
        with pytest.raises(BadArchive):
            members(damaged)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no end"),
        (b"short", "cut off, or is none"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "packed with zstd"),
        (b"PK\x03\x04" + bytes(600), "packed with zip"),
        (b"no archive" * 100, "what should be a head is none"),
        (entry("a", b"a") + b"x" * 512 + END, "on behind a: what should be a head"),
        (entry_head("a", 5, 0, {}), "on in a: it was cut off"),
    ],
)
def test_what_is_no_archive_says_what_it_is(text: bytes, said: str) -> None:
    with pytest.raises(BadArchive, match=said):
        members(text)


def test_sparse_files_of_other_programs_are_told_apart(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    (tmp_path / "z").write_bytes(b"z")
    for form in ("gnu", "posix", "posix --sparse-version=0.0", "posix --sparse-version=0.1"):
        command = f"tar -cS --format={form} holes z"
        text = subprocess.run(command.split(), cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        holes, last = members(text.stdout)
        assert holes.name == "holes" and "sparse" in holes.problem, form
        assert bodies([last]) == [("z", b"z")]


def test_a_long_file_is_read_when_it_is_wanted() -> None:
    long = bytes(range(256)) * 2000
    archive = Archive(io.BytesIO(entry("a", long) + entry("b", long) + entry("c", b"c")))
    first = archive.next()
    assert first is not None and first.is_long and len(long) > HELD_LIMIT
    body = archive.body()
    assert (len(body), body.digest()) == (len(long), HeldBody(long).digest())
    body.close()
    skipped, last = archive.next(), archive.next()
    assert skipped is not None and skipped.name == "b" and last is not None
    assert bodies([last]) == [("c", b"c")]


def test_the_digest_is_a_comment_and_not_any_comment() -> None:
    assert digest_of({b"comment": b"xxh3-128 abc"}) == "abc"
    assert digest_of({b"comment": b"0c7f3ca98c3c3a3f3d2a"}) is None  # git archive has such
    assert digest_of({}) is None


BINARY_SIZE = summed(entry("negative")[:124] + b"\xff" * 12 + entry("negative")[136:])

UNREADABLE = {
    "negative": (BINARY_SIZE, "behind before: what should be a head is none, a number in it"),
    "size": (extended("minus", field(b"size", b"-5")), "in minus: its size is b'-5'"),
    "absurd": (extended("huge", field(b"size", b"9" * 16)), "in huge: it was cut off"),
    "digits": (extended("digits", b"99 " + b"9" * 3000), "extended header is malformed"),
    "length": (extended("length", b"9" * 3000 + b" a=b\n"), "header is malformed"),
    "giga": (other("pax", b"x", 1 << 30, b"9" * 1024), "behind before: it was cut off"),
    "endless": (other("pax", b"x", 512, field(b"a", b"bcd") * 64) * 3, "it has no end"),
    "octal": (summed(entry("x")[:124] + b"99999999999\0" + entry("x")[136:]), "is no number"),
}
"""After these, nothing can be found any more."""


@pytest.mark.parametrize("what", UNREADABLE)
def test_where_an_archive_cannot_be_read_on(what: str) -> None:
    middle, said = UNREADABLE[what]
    is_cut = what in ("absurd", "giga", "endless")
    text = entry("before", b"before") + middle + (b"" if is_cut else entry("behind", b"x") + END)
    archive = Archive(io.BytesIO(text))
    assert bodies([archive.next() or Member("")]) == [("before", b"before")]
    with pytest.raises(BadArchive, match=re.escape(said)):
        while (member := archive.next()) is not None:
            assert member.is_long
