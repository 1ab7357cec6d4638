"""The memcached text protocol: every builder, and every reply parsed whole, in bytes, and badly."""

import re
from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sfss import memtext
from sfss.errors import BadPath
from sfss.keys import KEY_LIMIT, KeyScheme
from sfss.memtext import BadKey, BadReply, Reply, ReplyParser, Stat, Status, Value

VALUE_LIMIT = 1000

COMMAND_LINE = re.compile(rb"(?:get|delete) [!-~]{1,250}\r\n|set [!-~]{1,250} \d+ 0 \d+\r\n")


def parse(pieces: Iterable[bytes], value_limit: int = VALUE_LIMIT) -> tuple[list[Reply], bool]:
    """Return the replies in ``pieces``, and whether nothing is left over."""
    parser = ReplyParser(value_limit)
    replies = []
    for piece in pieces:
        parser.feed(piece)
        while (reply := parser.next_reply()) is not None:
            replies.append(reply)
    return replies, parser.empty()


def byte_by_byte(text: bytes) -> list[bytes]:
    return [text[index : index + 1] for index in range(len(text))]


# -- builders


def test_get_command() -> None:
    assert memtext.get_command(b"k") == b"get k\r\n"


def test_set_command_has_exptime_0_and_the_exact_size() -> None:
    assert memtext.set_command(b"k", 7, b"a\r\nb") == b"set k 7 0 4\r\na\r\nb\r\n"
    assert memtext.set_command(b"k", 0, b"") == b"set k 0 0 0\r\n\r\n"
    assert memtext.set_command(b"k", 2**32 - 1, b"x") == b"set k 4294967295 0 1\r\nx\r\n"


def test_delete_command() -> None:
    assert memtext.delete_command(b"k") == b"delete k\r\n"


def test_stats_and_version_commands() -> None:
    assert memtext.stats_command() == b"stats\r\n"
    assert memtext.stats_command("settings") == b"stats settings\r\n"
    assert memtext.VERSION_COMMAND == b"version\r\n"


@pytest.mark.parametrize("key", [b"k", b"!", b"~", b"%40", b"a@b?c", b"k" * KEY_LIMIT])
def test_safe_keys(key: bytes) -> None:
    assert memtext.check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        *[b"", b" ", b"a b", b"a\r\nb", b"a\n", b"\n", b"a\r", b"a\0b", b"a\tb", b"\x7f", b"a\x7f"],
        *[b"@", b"@0", b"?k", b"\x80", b"a\xff", "é".encode(), "a\u2028".encode()],
        *[b"k" * (KEY_LIMIT + 1), "é".encode() * 126],
    ],
)
@pytest.mark.parametrize("build", [memtext.get_command, memtext.delete_command])
def test_unsafe_keys_build_no_command(build: object, key: bytes) -> None:
    with pytest.raises(BadKey):
        memtext.check_key(key)
    with pytest.raises(BadKey):
        build(key)  # type: ignore[operator]
    with pytest.raises(BadKey):
        memtext.set_command(key, 0, b"")


@given(st.binary(max_size=260))
def test_a_key_is_safe_exactly_when_the_protocol_and_beansdb_say_so(key: bytes) -> None:
    safe = (
        1 <= len(key) <= 250 and all(0x21 <= byte <= 0x7E for byte in key) and key[0] not in b"@?"
    )
    try:
        memtext.check_key(key)
    except BadKey:
        assert not safe
    else:
        assert safe


PATHS = st.text(max_size=120) | st.text(alphabet="/@? \r\n\0%aé\u2028\U0001f600", max_size=120)


@given(
    PATHS,
    st.sampled_from(["percent", "base64"]),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=50),
)
def test_no_path_makes_two_commands(path: str, encoding: str, flags: int, body: bytes) -> None:
    try:
        key = KeyScheme(encoding).key(path)
    except BadPath:
        assume(False)
    for command in (memtext.get_command(key), memtext.delete_command(key)):
        assert COMMAND_LINE.fullmatch(command)
    line, end, rest = memtext.set_command(key, flags, body).partition(b"\r\n")
    assert COMMAND_LINE.fullmatch(line + end)
    assert rest == body + b"\r\n"
    assert line.split() == [b"set", key, b"%d" % flags, b"0", b"%d" % len(body)]


# -- replies

REPLIES = [
    (b"END\r\n", [Status("END")]),
    (b"STORED\r\n", [Status("STORED")]),
    (b"NOT_STORED\r\n", [Status("NOT_STORED")]),
    (b"EXISTS\r\n", [Status("EXISTS")]),
    (b"NOT_FOUND\r\n", [Status("NOT_FOUND")]),
    (b"DELETED\r\n", [Status("DELETED")]),
    (b"OK\r\n", [Status("OK")]),
    (b"ERROR\r\n", [Status("ERROR")]),
    (b"ERROR Too many arguments\r\n", [Status("ERROR", "Too many arguments")]),
    (b"VERSION 1.6.18\r\n", [Status("VERSION", "1.6.18")]),
    (b"CLIENT_ERROR bad data chunk\r\n", [Status("CLIENT_ERROR", "bad data chunk")]),
    (b"SERVER_ERROR Connection refused\r\n", [Status("SERVER_ERROR", "Connection refused")]),
    (b"SERVER_ERROR \r\n", [Status("SERVER_ERROR")]),
    (b"SERVER_ERROR caf\xc3\xa9 \xff\r\n", [Status("SERVER_ERROR", "café \\xff")]),
    (b"STAT pid 1\r\nEND\r\n", [Stat("pid", "1"), Status("END")]),
    (b"STAT empty\r\nSTAT also \r\nEND\r\n", [Stat("empty", ""), Stat("also", ""), Status("END")]),
    (b"STAT rusage 0.1 0.2\r\nEND\r\n", [Stat("rusage", "0.1 0.2"), Status("END")]),
    (b"VALUE k 0 0\r\n\r\nEND\r\n", [Value(b"k", 0, b""), Status("END")]),
    (b"VALUE k 5 3\r\nabc\r\nEND\r\n", [Value(b"k", 5, b"abc"), Status("END")]),
    (b"VALUE k 5 3 99\r\nabc\r\nEND\r\n", [Value(b"k", 5, b"abc"), Status("END")]),
    (b"VALUE k 0 7\r\n\r\nEND\r\n\r\nEND\r\n", [Value(b"k", 0, b"\r\nEND\r\n"), Status("END")]),
    (
        b"VALUE a 0 1\r\nx\r\nVALUE b 0 1\r\ny\r\nEND\r\n",
        [Value(b"a", 0, b"x"), Value(b"b", 0, b"y"), Status("END")],
    ),
    (b"VALUE k -1 1\r\nx\r\nEND\r\n", [Value(b"k", 0xFFFFFFFF, b"x"), Status("END")]),
    (b"VALUE k -2147483648 1\r\nx\r\nEND\r\n", [Value(b"k", 0x80000000, b"x"), Status("END")]),
    (b"VALUE k 4294967295 1\r\nx\r\nEND\r\n", [Value(b"k", 0xFFFFFFFF, b"x"), Status("END")]),
]


@pytest.mark.parametrize(("text", "expected"), REPLIES)
def test_replies_parsed_three_ways(text: bytes, expected: list[Reply]) -> None:
    assert parse([text]) == (expected, True)
    assert parse(byte_by_byte(text)) == (expected, True)
    for rest in (b"E", b"VALUE k 0 10\r\nab", b"STORED\r", b"STAT x"):
        assert parse([text + rest]) == (expected, False)
        assert parse(byte_by_byte(text + rest)) == (expected, False)


@pytest.mark.parametrize("text", [text for text, _ in REPLIES])
def test_no_reply_before_its_last_byte(text: bytes) -> None:
    replies, _ = parse([text])
    assert parse([text[:-1]])[0] == replies[:-1]


@given(st.lists(st.sampled_from([text for text, _ in REPLIES]), max_size=6), st.data())
def test_any_cut_of_any_stream_gives_the_same_replies(
    texts: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(pieces) == parse([stream])
    assert parse(pieces)[1]


@given(st.binary(max_size=VALUE_LIMIT), st.integers(0, 2**32 - 1))
def test_any_body_comes_back(body: bytes, flags: int) -> None:
    text = b"VALUE k %d %d\r\n%b\r\nEND\r\n" % (flags, len(body), body)
    assert parse([text]) == ([Value(b"k", flags, body), Status("END")], True)


@pytest.mark.parametrize(
    "text",
    [
        b"\r\n",
        b" END\r\n",
        b"END \r\n",
        b"END of chapter one\r\n",
        b"STORED twice\r\n",
        b"end\r\n",
        b"END\nEND\r\n",
        b"STOREDX\r\n",
        b"SERVER_ERRORS\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"12\r\n",
        b"STAT\r\n",
        b"STAT \r\n",
        b"\x80\x01\r\n",
        b"VALUE\r\n",
        b"VALUE \r\n",
        b"VALUE k\r\n",
        b"VALUE k 0\r\n",
        b"VALUE k 0 \r\n",
        b"VALUE  0 1\r\n",
        b"VALUE k 0 -1\r\n",
        b"VALUE k 0 +1\r\n",
        b"VALUE k 0 1_0\r\n",
        b"VALUE k 0 0x1\r\n",
        b"VALUE k x 1\r\n",
        b"VALUE k 0 1 x\r\n",
        b"VALUE k 0 1 2 3\r\n",
        b"VALUE k  0 1\r\n",
        b"VALUE k 0 99999999999\r\n",
        b"VALUE k 0 \xd9\xa1\r\n",
        b"VALUE k 4294967296 1\r\n",
        b"VALUE k -2147483649 1\r\n",
        b"VALUE k\xc3\xa9 0 1\r\n",
        b"VALUE " + b"k" * 251 + b" 0 1\r\n",
        b"VALUE k 0 1\r\nxyz",
        b"VALUE k 0 2\r\nx\r\n\r\n",
        b"VALUE k 0 %d\r\n" % (VALUE_LIMIT + 1),
    ],
)
def test_malformed_replies(text: bytes) -> None:
    with pytest.raises(BadReply):
        parse([text])
    with pytest.raises(BadReply):
        parse(byte_by_byte(text))
    with pytest.raises(BadReply):
        parse([text + b"END\r\n"])


def test_a_value_of_exactly_the_limit_is_taken() -> None:
    body = b"x" * VALUE_LIMIT
    replies, empty = parse([b"VALUE k 0 %d\r\n%b\r\n" % (VALUE_LIMIT, body)])
    assert (replies, empty) == ([Value(b"k", 0, body)], True)


def test_a_line_of_exactly_the_limit_is_taken() -> None:
    line = b"SERVER_ERROR ".ljust(memtext.LINE_LIMIT, b"x")
    assert len(parse([line + b"\r\n"])[0]) == 1
    assert len(parse(byte_by_byte(line + b"\r\n"))[0]) == 1


def test_an_endless_line_is_refused_before_it_ends() -> None:
    assert parse([b"x" * memtext.LINE_LIMIT]) == ([], False)
    with pytest.raises(BadReply):
        parse([b"x" * (memtext.LINE_LIMIT + 2)])
    with pytest.raises(BadReply):
        parse([b"SERVER_ERROR ".ljust(memtext.LINE_LIMIT + 1, b"x") + b"\r\n"])


@given(st.binary(max_size=200))
def test_any_bytes_give_replies_or_a_bad_reply(noise: bytes) -> None:
    try:
        replies, _ = parse([noise])
    except BadReply:
        with pytest.raises(BadReply):
            parse(byte_by_byte(noise))
    else:
        assert parse(byte_by_byte(noise))[0] == replies
