"""Listings of the memcached text protocol, parsed whole, byte by byte and with what comes after."""

import pytest

from sfss.memtext import LINE_LIMIT, BadReply, Status
from sfss.memtext_listing import (
    Bucket,
    Listed,
    MetadumpParser,
    Thing,
    bucket,
    is_busy,
    is_node,
    is_unknown,
    thing,
    thing_block,
)

FROM_MEMCACHED = b"key=key-0079549 exp=-1 la=1795214968 cas=79550 fetch=no cls=1 size=80\n"
FROM_NODE = b"key=a%2Fb%C3%A4 exp=2100000000 la=0 cas=18446744073709551615 fetch=no cls=1 size=0\n"
FROM_NEWER = b"key=%00%0a~ exp=-1 la=1 cas=0 fetch=yes cls=63 size=80 flags=5\n"
LINES = FROM_MEMCACHED + FROM_NODE + FROM_NEWER
KEYS = [
    Listed(b"key-0079549", 79550),
    Listed("a/bä".encode(), (1 << 64) - 1),
    Listed(b"\x00\n~", 0),
]
ENDINGS = {
    b"END\r\n": Status("END"),
    b"BUSY currently processing crawler request\r\n": Status(
        "BUSY", "currently processing crawler request"
    ),
    b"ERROR\r\n": Status("ERROR"),
    b"BADCLASS invalid class id\r\n": Status("BADCLASS", "invalid class id"),
    b"SERVER_ERROR store x: gone\r\n": Status("SERVER_ERROR", "store x: gone"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("lines", [b"", LINES], ids=["none", "some"])
def test_keys_and_the_end_however_they_are_cut(lines: bytes, ending: bytes) -> None:
    whole = lines + ending
    for size in (1, 2, 7, 61, len(whole)):
        parser = MetadumpParser()
        listed: list[Listed] = []
        for start in range(0, len(whole), size):
            assert parser.ending is None
            listed += parser.feed(whole[start : start + size])
        assert listed == (KEYS if lines else [])
        assert parser.ending == ENDINGS[ending]


def test_what_is_cut_off_has_no_end() -> None:
    for size in range(len(LINES) + len(b"END\r\n")):
        parser = MetadumpParser()
        parser.feed((LINES + b"END\r\n")[:size])
        assert parser.ending is None


@pytest.mark.parametrize("more", [b"\r\n", b"END\r\n", LINES, b"k", b"\n"])
def test_nothing_may_follow_the_end(more: bytes) -> None:
    with pytest.raises(BadReply, match="behind the end"):
        MetadumpParser().feed(LINES + b"END\r\n" + more)
    parser = MetadumpParser()
    parser.feed(b"END\r\n")
    with pytest.raises(BadReply, match="behind the end"):
        parser.feed(more + b"\n")


@pytest.mark.parametrize("size", range(1, len(FROM_MEMCACHED)))
def test_a_line_cut_by_another_is_none(size: int) -> None:
    with pytest.raises(BadReply, match="no line of a list"):
        MetadumpParser().feed(FROM_MEMCACHED[:size].rstrip(b"\n") + FROM_NODE)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\r",
        b"END",
        b"END of it\r",
        b"END\r\r",
        b"OK\r",
        b"STAT a b\r",
        FROM_MEMCACHED.rstrip() + b"\r",
        FROM_MEMCACHED.rstrip() + b" ",
        b" " + FROM_MEMCACHED.rstrip(),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b""),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"a b"),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"a=b"),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"%"),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"%4"),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"%4g"),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"\xc3\xa4"),
        FROM_MEMCACHED.rstrip().replace(b"key-0079549", b"k" * 251),
        FROM_MEMCACHED.rstrip().replace(b"79550", b"-1"),
        FROM_MEMCACHED.rstrip().replace(b"79550", b"1" * 21),
    ],
)
def test_what_is_no_line_of_a_list(line: bytes) -> None:
    with pytest.raises(BadReply):
        MetadumpParser().feed(line + b"\n")


def test_the_longest_key_is_one() -> None:
    line = FROM_MEMCACHED.replace(b"key-0079549", b"%c3" * 250)
    assert MetadumpParser().feed(line) == [Listed(b"\xc3" * 250, 79550)]


def test_a_line_without_an_end_is_not_waited_for() -> None:
    parser = MetadumpParser()
    parser.feed(b"key=" + b"k" * (LINE_LIMIT - 4))
    with pytest.raises(BadReply, match="a line of over"):
        parser.feed(b"k")


def test_a_line_that_is_too_long_is_none_however_it_comes() -> None:
    line = b"BUSY" + b" x" * (LINE_LIMIT // 2) + b"\r\n"
    for step in (1, 1000, len(line)):
        parser = MetadumpParser()
        with pytest.raises(BadReply, match="a line of over"):
            for start in range(0, len(line), step):
                parser.feed(line[start : start + step])


def test_a_hostile_line_is_refused_at_once() -> None:
    # Would take for ever where the grammar can be tried in many ways.
    with pytest.raises(BadReply):
        MetadumpParser().feed(b"key=" + b"k" * 4000 + b"!\n" * 20)


def test_what_a_refusal_means() -> None:
    busy = [
        Status("BUSY", "currently processing crawler request"),
        Status("ERROR", "locked try again later"),
        Status("NOTSTARTED", "no items to crawl"),
    ]
    others = [
        Status("CLIENT_ERROR", "lru crawler disabled"),
        Status("ERROR", "metadump not allowed"),
        Status("BADCLASS", "invalid class id"),
    ]
    unknown = [Status("ERROR")]
    assert list(filter(is_busy, busy + others + unknown)) == busy
    assert list(filter(is_unknown, busy + others + unknown)) == unknown


@pytest.mark.parametrize(
    ("names", "own"),
    [
        ("pid version cas_hits cas_misses", False),
        ("pid version avail_space total_space", False),
        ("", False),
        ("pid version avail_space cas_hits", True),
    ],
)
def test_a_node_has_the_names_of_both_families(names: str, own: bool) -> None:
    assert is_node(dict.fromkeys(names.split(), "0")) is own


# -- Beansdb


FOLDERS = b"".join(b"%x/ %d %d\n" % (digit, digit * 100, digit) for digit in range(16))


def test_folders_that_are_not_empty() -> None:
    assert bucket(FOLDERS) == Bucket(b"123456789abcdef", [])
    assert bucket(FOLDERS.replace(b"1/ 100 1\n", b"1/ 0 1\n")).digits[:1] == b"1"
    assert bucket(FOLDERS.replace(b"1/ 100 1\n", b"1/ 100 0\n")).digits[:1] == b"1"


def test_leaves_without_the_deleted() -> None:
    body = b"a/b 65535 1\ngone 1 -2\n@odd 0 2147483647\n"
    assert bucket(body) == Bucket(b"", [b"a/b", b"@odd"])
    assert bucket(b"") == Bucket(b"", [])


def test_keys_that_look_like_folders_are_keys() -> None:
    assert bucket(b"a/ 5 1\n") == Bucket(b"", [b"a/"])
    fifteen = FOLDERS.split(b"\n", 1)[1]
    assert len(bucket(fifteen).keys) == 15
    assert len(bucket(FOLDERS + b"key 1 1\n").keys) == 17


@pytest.mark.parametrize(
    "body",
    [b"a 1 1", b"\n", b"a 1\n", b"a b 1 1\n", b"a 1 x\n", b"a\x7f 1 1\n", b"k" * 251 + b" 1 1\n"],
)
def test_what_is_no_bucket(body: bytes) -> None:
    with pytest.raises(BadReply):
        bucket(body)


def test_names_that_may_be_hashes() -> None:
    assert bucket(b"0123456789abcdef 1 1\n").may_be_hashes()
    assert not bucket(b"0123456789abcdef 1 1\nname 1 1\n").may_be_hashes()
    assert not bucket(b"0123456789abcdefg 1 1\n").may_be_hashes()
    assert not bucket(b"").may_be_hashes()


@pytest.mark.parametrize(
    "shown",
    [Thing(b"a", b"head"), Thing(b"a/", b""), Thing(b"a", b""), Thing(b"x" * 250, b"\x00" * 99)],
)
def test_what_is_in_a_folder(shown: Thing) -> None:
    assert thing(thing_block(shown)) == shown


@pytest.mark.parametrize(
    "block",
    [b"", b"\x01", b"\x00\x00", b"\x00\x00head", b"\x02\x00a/head", b"\x09\x00a"],
)
def test_what_is_nothing_in_a_folder(block: bytes) -> None:
    with pytest.raises(BadReply):
        thing(block)
