"""The memcached text protocol: every builder, and every reply parsed whole, in bytes, and badly."""

import re
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sfss import memtext
from sfss.errors import BadPath
from sfss.keys import KEY_LIMIT, KeyScheme
from sfss.memtext import (
    AnswerParser,
    BadKey,
    BadReply,
    Grammar,
    Reply,
    ReplyParser,
    Stat,
    Status,
    Value,
)

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


@given(st.lists(st.from_regex(rb"[!-~]{1,250}", fullmatch=True).filter(memtext.is_safe_key)))
def test_get_commands_are_one_for_each_key(keys: list[bytes]) -> None:
    each = b"".join(map(memtext.get_command, keys))
    assert (memtext.get_commands(keys) if keys else b"") == each


def test_set_command_has_exptime_0_and_the_exact_size() -> None:
    assert memtext.set_command(b"k", 7, b"a\r\nb") == b"set k 7 0 4\r\na\r\nb\r\n"
    assert memtext.set_command(b"k", 0, b"") == b"set k 0 0 0\r\n\r\n"
    assert memtext.set_command(b"k", 2**32 - 1, b"x") == b"set k 4294967295 0 1\r\nx\r\n"


def test_delete_command() -> None:
    assert memtext.delete_command(b"k") == b"delete k\r\n"


def test_removals_under_a_condition() -> None:
    assert memtext.remove_command(b"k", 7) == b"cas k 0 -1 0 7\r\n\r\n"
    assert memtext.delete_damaged_command(b"k") == b"delete_damaged k\r\n"


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
    (b"VALUE k 5 3 99\r\nabc\r\nEND\r\n", [Value(b"k", 5, b"abc", 99), Status("END")]),
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


# -- answers

A_VALUE = b"VALUE k 5 3\r\nabc\r\n"


@pytest.mark.parametrize(
    ("text", "grammar", "keys"),
    [
        (b"VALUE other 5 3\r\nabc\r\nEND\r\n", memtext.GET, [b"k"]),
        (b"VALUE K 5 3\r\nabc\r\nEND\r\n", memtext.GET, [b"k"]),
        (b"VALUE kk 5 3\r\nabc\r\nEND\r\n", memtext.GET, [b"k"]),
        (A_VALUE + A_VALUE + b"END\r\n", memtext.GET, [b"k"]),
        (A_VALUE + b"STORED\r\n", memtext.GET, [b"k"]),
        (b"STORED\r\n", memtext.GET, [b"k"]),
        (b"NOT_FOUND\r\n", memtext.GET, [b"k"]),
        (b"STAT pid 1\r\nEND\r\n", memtext.GET, [b"k"]),
        (A_VALUE + b"END\r\n", memtext.STATS, ()),
        (b"END\r\n", memtext.SET, ()),
        (b"VERSION 1\r\n", memtext.DELETE, ()),
        (b"".join(b"STAT %d 0\r\n" % number for number in range(10_001)), memtext.STATS, ()),
    ],
)
def test_what_does_not_answer_the_command(text: bytes, grammar: Grammar, keys: list[bytes]) -> None:
    for pieces in ([text], byte_by_byte(text)):
        parser = AnswerParser(VALUE_LIMIT)
        with pytest.raises(BadReply):
            for piece in pieces:
                parser.feed(piece)
                assert parser.next_answer(grammar, keys) is None


def test_answers() -> None:
    parser = AnswerParser(VALUE_LIMIT)
    parser.feed(A_VALUE + b"VALUE l 0 0\r\n\r\nEND\r\nSTAT pid 1\r\nEND\r\nSERVER_ERROR x\r\n")
    found = parser.next_answer(memtext.GET, [b"k", b"l"])
    assert found is not None
    assert (found.status.word, found.stats) == ("END", {})
    assert found.values == [Value(b"k", 5, b"abc"), Value(b"l", 0, b"")]
    assert parser.next_answer(memtext.STATS) == memtext.Answer(Status("END"), [], {"pid": "1"})
    assert parser.next_answer(memtext.SET) == memtext.Answer(Status("SERVER_ERROR", "x"))
    assert parser.next_answer(memtext.SET) is None


@pytest.mark.parametrize(
    ("word", "in_step"),
    [("END", True), ("SERVER_ERROR", True), ("CLIENT_ERROR", False), ("ERROR", False)],
)
def test_after_which_words_a_server_is_in_step(word: str, in_step: bool) -> None:
    assert memtext.Answer(Status(word)).in_step is in_step


# -- items: the hot path, held to the same answers

Item = tuple[bytes | None, int]

KEYS = [b"k", b"kk", b"a/b%20c.png"]


def received(parser: AnswerParser, text: bytes, size: int) -> None:
    """Let ``text`` come in as a socket would bring it, where the parser says."""
    while text:
        room = parser.room(size)
        assert len(room) > 0
        part = text[: len(room)]
        room[: len(part)] = part
        parser.received(len(part))
        text = text[len(part) :]


def items(
    pieces: Iterable[bytes], asked: list[bytes], release: bool = True
) -> tuple[list[Item], str]:
    """Return the items for the keys ``asked``, and how it ended."""
    parser, found = AnswerParser(VALUE_LIMIT), list[tuple[bytes | memoryview | None, int]]()
    keys = list(asked)
    try:
        for piece in pieces:
            received(parser, piece, len(piece))
            while keys and (item := parser.next_item(keys[0])) is not None:
                body, flags = item
                found.append((bytes(body) if release and body is not None else body, flags))
                del keys[0], body, item
    except BadReply:
        end = "bad"
    else:
        end = "whole" if parser.empty() else "more"
    return [(None if body is None else bytes(body), flags) for body, flags in found], end


def items_by_the_long_way(text: bytes, asked: list[bytes]) -> tuple[list[Item], str]:
    """Return what ``items`` should, by ``next_answer`` and the checks of a connection."""
    parser, found = AnswerParser(VALUE_LIMIT), list[Item]()
    parser.feed(text)
    try:
        for key in asked:
            answer = parser.next_answer(memtext.GET, [key])
            if answer is None:
                break
            if not answer.in_step:
                return found, "bad"
            told = answer.status.word == "END" and answer.values
            found.append((answer.values[0].body, answer.values[0].flags) if told else (None, 0))
    except BadReply:
        return found, "bad"
    return found, "whole" if parser.empty() else "more"


def whole_value(key: bytes, flags: bytes, size: bytes, body: bytes, end: bytes) -> bytes:
    return b"VALUE %b %b %b\r\n%b%b" % (key, flags, size, body, end)


BODIES = st.binary(max_size=40) | st.sampled_from(
    [b"\r\nEND\r\n", b"END\r\nVALUE k 5 3\r\nabc\r\nEND\r\n", b"x" * 900, b"y" * VALUE_LIMIT]
)
GOOD = st.builds(
    lambda key, flags, body: whole_value(key, flags, b"%d" % len(body), body, b"\r\nEND\r\n"),
    st.sampled_from(KEYS),
    st.sampled_from([b"0", b"1398145025"]),
    BODIES,
)
ODD = st.builds(
    whole_value,
    st.sampled_from([*KEYS, b"K", b"", b"k" * 251]),
    st.sampled_from([b"0", b"-1", b"4294967295", b"4294967296", b"-2147483649", b"+1", b"1_0"]),
    st.sampled_from([b"0", b"3", b"003", b"3 77", b"03 ", b" 3", b"3_", b"0000000000003", b"1001"]),
    st.sampled_from([b"", b"abc", b"abcd", b"x" * 1001]),
    st.sampled_from([b"\r\nEND\r\n", b"END\r\n", b"\r\nSERVER_ERROR x\r\n", b"\r\n" + A_VALUE]),
)
LINES = st.sampled_from([b"END\r\n", b"SERVER_ERROR no\r\n", b"ERROR\r\n", b"STORED\r\n", b"x"])


@given(
    st.lists(GOOD | GOOD | GOOD | ODD | LINES, max_size=8),
    st.lists(st.sampled_from(KEYS), max_size=8),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_items_are_what_the_answers_say(
    texts: list[bytes], keys: list[bytes], matching: bool, release: bool, data: st.DataObject
) -> None:
    stream = b"".join(texts)
    if matching:  # mostly the right keys, so that more than the first is looked at
        keys = [text.split(b" ")[1] if b" " in text else b"k" for text in texts]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found, end = items(pieces, keys, release)
    expected, expected_end = items_by_the_long_way(stream, keys)
    assert (found, end) == (expected, expected_end)


@given(st.lists(GOOD, min_size=1, max_size=5), st.data())
def test_one_byte_changed_is_never_read_otherwise(texts: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(b"".join(texts))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] = data.draw(st.integers(0, 255))
    keys = [text.split(b" ")[1] for text in texts]
    assert items([bytes(stream)], keys) == items_by_the_long_way(bytes(stream), keys)
    assert items(byte_by_byte(bytes(stream)), keys) == items_by_the_long_way(bytes(stream), keys)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_no_item_before_its_last_byte(count: int) -> None:
    # All answers alike: what is left of the last one in memory would complete the next.
    text = b"VALUE k 1398145025 10\r\n0123456789\r\nEND\r\n"
    parser = AnswerParser(VALUE_LIMIT)
    for _ in range(count):
        for byte in byte_by_byte(text[:-1]):
            received(parser, byte, 1000)
            assert parser.next_item(b"k") is None
        received(parser, text[-1:], 1000)
        assert parser.next_item(b"k") == (b"0123456789", 1398145025)
    assert parser.empty()


@pytest.mark.parametrize("room", [1, 7, 64, 5000])
def test_what_is_looked_at_is_not_written_over(room: int) -> None:
    random = Random(room)
    bodies = [random.randbytes(random.randrange(VALUE_LIMIT)) for _ in range(50)]
    parser, held = AnswerParser(VALUE_LIMIT), []
    for body in bodies:
        received(parser, whole_value(b"k", b"0", b"%d" % len(body), body, b"\r\nEND\r\n"), room)
        item = parser.next_item(b"k")
        assert item is not None
        held.append(item[0])
    assert held == bodies


@pytest.mark.parametrize(
    ("pieces", "asked", "expected"),
    [
        # A second value in one answer, once the first has been taken.
        ([A_VALUE, A_VALUE + b"END\r\n"], [b"k"], ([], "bad")),
        # Refused at the last moment; the next answer is right.
        ([A_VALUE + b"SERVER_ERROR x\r\n" + b"END\r\n"], [b"k"] * 2, ([(None, 0)] * 2, "whole")),
        ([A_VALUE, b"END\r\n" + b"END\r\n"], [b"k"] * 2, ([(b"abc", 5), (None, 0)], "whole")),
        # A whole value that is one byte too large.
        ([b"VALUE k 0 1001\r\n" + b"x" * 1001 + b"\r\nEND\r\n"], [b"k"], ([], "bad")),
        # A line after a value that was known to be coming.
        (
            [b"VALUE k 5 3\r\na", b"bc\r\nEND\r\n", b"END\r\n"],
            [b"k"] * 2,
            ([(b"abc", 5), (None, 0)], "whole"),
        ),
        # Bytes that nobody asked for.
        ([A_VALUE + b"END\r\n", b"END\r\n"], [b"k"], ([(b"abc", 5)], "more")),
    ],
)
def test_items_at_the_seams(
    pieces: list[bytes], asked: list[bytes], expected: tuple[list[Item], str]
) -> None:
    assert items(pieces, asked) == expected
    assert items_by_the_long_way(b"".join(pieces), asked) == expected


@pytest.mark.parametrize("larger", [0, 50, 4000])
def test_more_than_the_value_that_was_waited_for(larger: int) -> None:
    parser = AnswerParser()
    parser.feed(b"STAT x %b\r\nEND\r\n" % (b"x" * larger))
    assert parser.next_answer(memtext.STATS)
    rest = b"c\r\nEND\r\n" + b"VALUE k 5 9000\r\n%b\r\nEND\r\n" % (b"y" * 9000)
    parser.feed(b"VALUE k 5 3\r\nab")
    assert parser.next_item(b"k") is None
    parser.feed(rest)
    assert parser.next_item(b"k") == (b"abc", 5)
    assert parser.next_item(b"k") == (b"y" * 9000, 5)
    assert parser.empty()


@pytest.mark.parametrize(("size", "copies"), [(3 << 20, 0.03), (9 << 20, 2)])
def test_a_large_value_is_hardly_moved(
    size: int, copies: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []
    move = AnswerParser._move_to_front

    def counted(parser: AnswerParser, capacity: int) -> None:
        moved.append(parser._end - parser._start)
        move(parser, capacity)

    monkeypatch.setattr(AnswerParser, "_move_to_front", counted)
    body = Random(1).randbytes(size)
    text = whole_value(b"k", b"0", b"%d" % len(body), body, b"\r\nEND\r\n")
    parser = AnswerParser()
    for count in range(1, 4):
        for start in range(0, len(text), 10_000):
            received(parser, text[start : start + 10_000], 64_000)
            item = parser.next_item(b"k")
        assert item == (body, 0)
        del item
        assert sum(moved) <= copies * len(text) * count


def test_a_promise_of_many_bytes_takes_no_memory() -> None:
    parser = AnswerParser()
    parser.feed(b"VALUE k 0 %d\r\n" % memtext.VALUE_LIMIT)
    assert parser.next_item(b"k") is None
    assert len(parser.room(1000)) <= 5 << 20


def test_memory_for_a_very_large_value_is_not_kept() -> None:
    body = bytes(20 << 20)
    parser = AnswerParser()
    parser.feed(whole_value(b"k", b"0", b"%d" % len(body), body, b"\r\n"))
    assert parser.next_item(b"k") is None
    parser.feed(b"END\r\n")
    assert parser.next_item(b"k") == (body, 0)
    assert len(parser.room(1000)) <= 5 << 20
