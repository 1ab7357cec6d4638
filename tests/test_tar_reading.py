"""What is read from archives: those of Python and GNU tar, mangled ones, and what is none."""

import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.client_bodies import HELD_LIMIT, HeldBody
from sfss.tar_export import END
from sfss.tar_reading import (
    DIGEST_FIELD,
    DIGEST_MARK,
    EXPIRES_FIELD,
    EXTENSION_LIMIT,
    TYPE_FIELD,
    Archive,
    BadArchive,
    Member,
)

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
BODIES = st.binary(max_size=1500)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def members(text: bytes, longest: int = 1 << 24) -> list[Member]:
    """Return all that an archive has, bodies up to ``longest`` read."""
    archive = Archive(io.BytesIO(text))
    found = []
    while (member := archive.next()) is not None:
        if member.is_long and member.size <= longest:
            member.body = archive.body()
            member.body.close()
        found.append(member)
    archive.drain()
    return found


def bodies(found: list[Member]) -> list[tuple[str, bytes]]:
    """Return names and bytes of files."""
    return [
        (member.name, member.body.body) for member in found if isinstance(member.body, HeldBody)
    ]


def filled(body: bytes) -> bytes:
    """Return what a body is in an archive."""
    return body + bytes(-len(body) % tarfile.BLOCKSIZE)


def entry(
    name: str,
    body: bytes = b"",
    size: int | None = None,
    fields: dict[str, str] | None = None,
    form: int = tarfile.PAX_FORMAT,
) -> bytes:
    """Return a file of an archive, which says that it has ``size`` bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = len(body) if size is None else size, fields or {}
    return member.tobuf(form, "utf-8", "surrogateescape") + filled(body)


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


def extended(name: str, fields: bytes, body: bytes = b"x", kind: bytes = b"x") -> bytes:
    """Return a file with extended fields, as they are."""
    return other("pax", kind, len(fields)) + filled(fields) + entry(name, body)


@given(NAMES, BODIES, st.integers(0, 10**12 - 1))
def test_what_is_written_is_read(name: str, body: bytes, expires: int) -> None:
    fields = {TYPE_FIELD: "text/x-t", EXPIRES_FIELD: str(expires), DIGEST_FIELD: DIGEST_MARK + "ab"}
    (ours,) = members(entry(name, body, fields=fields) + END)
    assert (ours.name, ours.media_type, ours.expires) == (name, "text/x-t", expires)
    assert ours.digest == "ab" and bodies([ours]) == [(name, body)]


@given(
    st.lists(st.tuples(NAMES.map(lambda name: name.strip("/") or "a"), BODIES), max_size=4),
    st.sampled_from(FORMATS),
)
def test_all_forms_are_read(files: list[tuple[str, bytes]], form: int) -> None:
    text, kept = b"", []
    for name, body in files:
        try:
            text += entry(name, body, form=form)
        except ValueError:
            continue  # too long for that form
        kept.append((name, body))
    assert bodies(members(text + END)) == kept


GOOD = (
    entry("a" * 120, bytes(600), fields={TYPE_FIELD: "a/b"})
    + entry("b" * 120, b"b", form=tarfile.GNU_FORMAT)
    + extended("c", field(b"GNU.sparse.map", b"0,5,9,5") + field(b"GNU.sparse.size", b"20"))
    + other("holes", b"S", 1, filled(b"h"))
)


@given(
    st.binary(min_size=1, max_size=40),
    st.integers(0, len(GOOD)),
    st.booleans(),
    st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress]),
)
def test_a_mangled_archive_is_read_or_refused(
    text: bytes, at: int, is_summed: bool, pack: Callable[[bytes], bytes]
) -> None:
    mangled = (GOOD[:at] + text + GOOD[at + len(text) :])[: len(GOOD)] + END
    if is_summed:
        begin = at // 512 * 512
        head = summed(mangled[begin : begin + 512])
        mangled = mangled[:begin] + head + mangled[begin + 512 :]
    read_or_refused(pack(mangled))
    packed = pack(GOOD)
    at %= len(packed)
    read_or_refused(packed[:at] + text + packed[at + len(text) :])


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0"]))
def test_what_is_random_is_read_or_refused(text: bytes, begin: bytes) -> None:
    read_or_refused(begin + text)


@given(st.lists(st.tuples(st.sampled_from(sorted(b"x0gLKSXVD1257M")), BODIES), max_size=6))
def test_entries_in_any_order_are_read_or_refused(entries: list[tuple[int, bytes]]) -> None:
    text = b"".join(other("a", bytes([kind]), len(body), filled(body)) for kind, body in entries)
    read_or_refused(text + END)


def read_or_refused(text: bytes) -> None:
    try:
        for member in members(text):
            assert member.body is None or len(member.body) == member.size
    except BadArchive as error:
        assert str(error).startswith("the archive cannot be read")


def test_a_file_of_an_archive_that_was_cut_off_is_whole_or_not_there() -> None:
    files = [("a", b"1" * 700), ("b" * 130, b""), ("c", b"3" * 512)]
    text = b"".join(entry(*file) for file in files)
    ends = [len(b"".join(entry(*file) for file in files[:count])) for count in range(4)]
    for size in range(0, len(text) + 1, 8):
        archive, found = Archive(io.BytesIO(text[:size])), []
        with pytest.raises(BadArchive):
            while (member := archive.next()) is not None:
                found.append(member)
        count = sum(end <= size for end in ends[1:])
        # What fills up the last block may be missing.
        assert bodies(found) in (files[:count], files[: count + 1])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_archives(pack: Callable[[bytes], bytes]) -> None:
    text = entry("a", b"a") + entry("b", b"b" * 3000) + END
    packed = pack(text)
    assert bodies(members(packed)) == [("a", b"a"), ("b", b"b" * 3000)]
    # Programs that use several processors write several parts.
    parts = pack(text[:1500]) + pack(text[1500:])
    assert bodies(members(parts)) == bodies(members(packed))
    for damaged in (packed[: len(packed) // 2], packed[:-5], packed[:30] + b"xx" + packed[32:]):
        with pytest.raises(BadArchive):
            members(damaged)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_what_becomes_much_is_not_held(pack: Callable[[bytes], bytes]) -> None:
    zeros = pack(entry("zeros", size=1 << 26) + bytes(1 << 26) + END)
    # A map of a sparse file that never ends; fields for all files, and more of them.
    sparse = field(b"GNU.sparse.major", b"1") + field(b"GNU.sparse.minor", b"0")
    numbers = extended("map", sparse, b"9999999\n" + (b"1" * 63 + b"\n") * (1 << 16))
    common = b"".join(
        extended("a", field(b"%d" % n, b"v" * 1_000_000), kind=b"g") for n in range(9)
    )
    chain = other("g", b"g", 512, field(b"a", b"v" * 505)) * 9000
    refused = [pack(text) for text in (numbers, common, chain)]
    tracemalloc.start()
    try:
        (member,) = members(zeros)
        assert member.name == "zeros"
        for text in refused:
            with pytest.raises(BadArchive, match=r"header goes on|recursion depth"):
                members(text)
        # The dictionary of xz has 8 MiB.
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no end"),
        (b"short", "what should be a head is none, truncated header"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "packed with zstd"),
        (b"PK\x03\x04" + bytes(600), "what should be a head is none"),
        (b"no archive" * 100, "what should be a head is none"),
        (entry("a", b"a") + b"x" * 512 + END, "on behind a: what should be a head"),
        (entry("a", size=5), "on in a: unexpected end of data"),
    ],
)
def test_what_is_no_archive_says_what_it_is(text: bytes, said: str) -> None:
    with pytest.raises(BadArchive, match=said):
        members(text)


def test_sparse_files_are_read_with_their_holes(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 17)
        file.seek(1 << 16)
        file.write(b"x")
    (tmp_path / "z").write_bytes(b"z")
    for form in ("gnu", "posix", "posix --sparse-version=0.0", "posix --sparse-version=0.1"):
        command = f"tar -cS --format={form} holes z"
        done = subprocess.run(command.split(), cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        expected = [("holes", (tmp_path / "holes").read_bytes()), ("z", b"z")]
        assert len(done.stdout) < 1 << 17 and bodies(members(done.stdout)) == expected, form


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


def test_a_pipe_that_does_not_wait() -> None:
    text = entry("a", b"a") + END
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def write() -> None:
        with os.fdopen(writing, "wb", 0) as pipe:
            for at in range(0, len(text), 700):
                pipe.write(text[at : at + 700])

    with os.fdopen(reading, "rb", 0) as file:
        writer = threading.Thread(target=write)
        writer.start()
        member = Archive(file).next()
        file.read(1 << 20)
        writer.join(30)
    assert member is not None and bodies([member]) == [("a", b"a")]


def test_the_digest_is_a_comment_and_not_any_comment() -> None:
    text = entry("a", fields={"comment": "0c7f3ca98c3c3a3f3d2a"})  # git archive has such
    text += entry("b", fields={"comment": "xxh3-128 abc"}) + entry("c") + END
    assert [member.digest for member in members(text)] == [None, "abc", None]


BINARY_SIZE = summed(entry("negative")[:124] + b"\xff" * 12 + entry("negative")[136:])
LARGE = 2 * EXTENSION_LIMIT

UNREADABLE = {
    "negative": (BINARY_SIZE, "behind before: a size in it is negative"),
    "size": (extended("minus", field(b"size", b"-5")), "in minus: its size is -5"),
    "absurd": (extended("huge", field(b"size", b"9" * 16)), "behind huge: it was cut off"),
    "giga": (other("pax", b"x", 1 << 30), "header has 1,073,741,824 bytes, up to 1,048,576 are"),
    "long name": (other("@", b"L", LARGE, bytes(LARGE)), "header has 2,097,152 bytes"),
    "many": (other("@", b"L", 1 << 20, bytes(1 << 20)) * 3, "header goes on"),
    "endless": (other("pax", b"x", 512, field(b"a", b"b" * 505)) * 3, "it has no end"),
    "octal": (summed(entry("x")[:124] + b"99999999999\0" + entry("x")[136:]), "head is none"),
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
