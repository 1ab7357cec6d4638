"""The server's side of the memcached text protocol: every command whole, in bytes, and badly."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfss.errors import Corrupt
from sfss.keys import KEY_LIMIT
from sfss.memtext import check_key, delete_command, get_command, set_command, stats_command
from sfss.memtext_commands import (
    BAD_CHUNK,
    BAD_DELTA,
    BAD_FORMAT,
    LINE_LIMIT,
    TOO_LARGE,
    UNKNOWN,
    Answer,
    BadCommand,
    Browse,
    Command,
    CommandParser,
    Count,
    Delete,
    Flush,
    Get,
    Message,
    Set,
    Stats,
    Touch,
    Word,
)
from sfss.memtext_extensions import DAMAGED, MESSAGE_LIMIT, read_damage

VALUE_LIMIT = 1000
LONGEST = b"k" * KEY_LIMIT


def parse(pieces: Iterable[bytes], value_limit: int = VALUE_LIMIT) -> list[Command | bytes]:
    """Return the commands in ``pieces``; the answer of a ``BadCommand`` comes last."""
    parser = CommandParser(value_limit)
    commands: list[Command | bytes] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (command := parser.next_command()) is not None:
                commands.append(plain(command))
    except BadCommand as error:
        commands.append(error.answer)
    return commands


def plain(command: Command) -> Command:
    """Return ``command`` with its body in bytes, so that it can be shown and hashed."""
    return command._replace(body=bytes(command.body)) if isinstance(command, Set) else command


def byte_by_byte(text: bytes) -> list[bytes]:
    return [text[index : index + 1] for index in range(len(text))]


COMMANDS: list[tuple[bytes, Command]] = [
    (b"get k\r\n", Get([b"k"])),
    (b"get k\n", Get([b"k"])),
    (b"get  a   b c \r\n", Get([b"a", b"b", b"c"])),
    (b"get " + LONGEST + b"\r\n", Get([LONGEST])),
    (b"get @0 ?k \xff\x80\r\n", Get([b"@0", b"?k", b"\xff\x80"])),
    (b"get noreply\r\n", Get([b"noreply"])),
    (b"gets a b\r\n", Get([b"a", b"b"], unique=True)),
    (b"gat 0 a\r\n", Get([b"a"], exptime=0)),
    (b"gats -1 a b\r\n", Get([b"a", b"b"], unique=True, exptime=-1)),
    (b"set k 0 0 1\r\nx\r\n", Set("set", b"k", 0, 0, b"x")),
    (b"set k 0 0 0\r\n\r\n", Set("set", b"k", 0, 0, b"")),
    (b"set k 4294967295 -1 4\r\na\r\nb\r\n", Set("set", b"k", 4294967295, -1, b"a\r\nb")),
    (b"set k 1 2 3 noreply\r\nabc\r\n", Set("set", b"k", 1, 2, b"abc", noreply=True)),
    (b"add k 0 0 1\nx\r\n", Set("add", b"k", 0, 0, b"x")),
    (b"replace k 0 0 1\r\nx\r\n", Set("replace", b"k", 0, 0, b"x")),
    (b"append k 0 0 1\r\nx\r\n", Set("append", b"k", 0, 0, b"x")),
    (b"prepend k 0 0 1\r\nx\r\n", Set("prepend", b"k", 0, 0, b"x")),
    (b"cas k 0 0 1 18446744073709551615\r\nx\r\n", Set("cas", b"k", 0, 0, b"x", (1 << 64) - 1)),
    (b"cas k 0 0 1 7 noreply\r\nx\r\n", Set("cas", b"k", 0, 0, b"x", 7, True)),
    (b"set k 0 0 1000\r\n" + b"v" * 1000 + b"\r\n", Set("set", b"k", 0, 0, b"v" * 1000)),
    (b"delete k\r\n", Delete(b"k")),
    (b"delete k 0\r\n", Delete(b"k")),
    (b"delete k noreply\r\n", Delete(b"k", True)),
    (b"delete k 0 noreply\r\n", Delete(b"k", True)),
    (b"delete noreply\r\n", Delete(b"noreply")),
    (b"delete_damaged k\r\n", Delete(b"k", if_damaged=True)),
    (b"delete_damaged k noreply\r\n", Delete(b"k", True, if_damaged=True)),
    (b"delete noreply noreply\r\n", Delete(b"noreply", True)),
    (b"set noreply 0 0 1\r\nx\r\n", Set("set", b"noreply", 0, 0, b"x")),
    (b"incr noreply 1\r\n", Count(b"noreply", 1, down=False)),
    (b"touch noreply 1\r\n", Touch(b"noreply", 1)),
    (b"incr k 1\r\n", Count(b"k", 1, down=False)),
    (b"decr k 18446744073709551615 noreply\r\n", Count(b"k", (1 << 64) - 1, True, True)),
    (b"touch k 60\r\n", Touch(b"k", 60)),
    (b"touch k -1 noreply\r\n", Touch(b"k", -1, True)),
    (b"flush_all\r\n", Flush()),
    (b"flush_all 0\r\n", Flush()),
    (b"flush_all noreply\r\n", Flush(True)),
    (b"stats\r\n", Stats()),
    (b"browse 1 = =\r\n", Browse(b"", b"", 1)),
    (b"browse 1024 =a/ =%20\xff\r\n", Browse(b"a/", b"%20\xff", 1024)),
    (b"browse 1025 = =\r\n", Answer(BAD_FORMAT)),
    (b"browse 0 = =\r\n", Answer(BAD_FORMAT)),
    (b"browse 1 a =\r\n", Answer(BAD_FORMAT)),
    (b"browse 1 = =\x01\r\n", Answer(BAD_FORMAT)),
    (b"browse 1 = =" + b"x" * 251 + b"\r\n", Answer(BAD_FORMAT)),
    (b"browse 1 =\r\n", Answer(UNKNOWN)),
    (b"stats settings\r\n", Stats("settings")),
    (b"stats detail dump\r\n", Stats("detail dump")),
    (b"version\r\n", Word.VERSION),
    (b"version foo bar\r\n", Word.VERSION),
    (b"quit\r\n", Word.QUIT),
    (b"lru_crawler metadump all\r\n", Word.METADUMP),
    (b"members 0\r\n\r\n", Message(b"")),
    (b"members 7\r\nget k\r\n\r\n", Message(b"get k\r\n")),
    (b"verbosity 1\r\n", Answer(b"OK\r\n")),
    (b"verbosity 1 noreply\r\n", Answer(b"OK\r\n", True)),
]
REFUSED: list[tuple[bytes, Command]] = [
    (b"\r\n", Answer(UNKNOWN)),
    (b"   \r\n", Answer(UNKNOWN)),
    (b"foo\r\n", Answer(UNKNOWN)),
    (b"GET k\r\n", Answer(UNKNOWN)),
    (b"get\r\n", Answer(UNKNOWN)),
    (b"get\tk\r\n", Answer(UNKNOWN)),
    (b"get a\tb\r\n", Answer(BAD_FORMAT)),
    (b"get a\0b\r\n", Answer(BAD_FORMAT)),
    (b"get a\x7fb\r\n", Answer(BAD_FORMAT)),
    (b"get a\rb\r\n", Answer(BAD_FORMAT)),
    (b"get a " + LONGEST + b"k\r\n", Answer(BAD_FORMAT)),
    (b"gets\r\n", Answer(UNKNOWN)),
    (b"gat 1\r\n", Answer(UNKNOWN)),
    (b"gat k k\r\n", Answer(BAD_FORMAT)),
    (b"gat 1 " + LONGEST + b"k\r\n", Answer(BAD_FORMAT)),
    (b"delete\r\n", Answer(UNKNOWN)),
    (b"delete k 1\r\n", Answer(UNKNOWN)),
    (b"delete_damaged\r\n", Answer(UNKNOWN)),
    (b"delete_damaged k 1\r\n", Answer(UNKNOWN)),
    (b"delete a b c d e\r\n", Answer(UNKNOWN)),
    (b"delete " + LONGEST + b"k\r\n", Answer(BAD_FORMAT)),
    (b"incr k\r\n", Answer(UNKNOWN)),
    (b"incr k x\r\n", Answer(BAD_DELTA)),
    (b"incr k -1\r\n", Answer(BAD_DELTA)),
    (b"incr k 18446744073709551616\r\n", Answer(BAD_DELTA)),
    (b"decr " + LONGEST + b"k 1 noreply\r\n", Answer(BAD_FORMAT, True)),
    (b"touch k\r\n", Answer(UNKNOWN)),
    (b"touch k x\r\n", Answer(BAD_FORMAT)),
    (b"verbosity\r\n", Answer(UNKNOWN)),
    (b"verbosity noreply\r\n", Answer(UNKNOWN, True)),
    (b"verbosity foo bar my\r\n", Answer(UNKNOWN)),
    (b"lru_crawler enable\r\n", Answer(UNKNOWN)),
    (b"mg k v\r\n", Answer(UNKNOWN)),
    (b"set k 0 0 1001\r\n" + b"v" * 1001 + b"\r\n", Answer(TOO_LARGE)),
    (b"set k 0 0 1001 noreply\r\n" + b"v" * 1001 + b"\r\n", Answer(TOO_LARGE, True)),
    (b"set " + LONGEST + b"k 0 0 8\r\nget a\r\nb\r\n", Answer(BAD_FORMAT)),
    (b"set a\x01 0 0 8\r\nget a\r\nb\r\n", Answer(BAD_FORMAT)),
    (b"set k 4294967296 0 1\r\nx\r\n", Answer(BAD_FORMAT)),
    (b"set k -1 0 1\r\nx\r\n", Answer(BAD_FORMAT)),
    (b"set k x 0 1\r\nx\r\n", Answer(BAD_FORMAT)),
    (b"set k 0 x 1\r\nx\r\n", Answer(BAD_FORMAT)),
    (b"cas k 0 0 1 x\r\nx\r\n", Answer(BAD_FORMAT)),
    (b"cas k 0 0 1 18446744073709551616\r\nx\r\n", Answer(BAD_FORMAT)),
]
"""What is answered without a store; the connection stays in step."""

FATAL = [
    (b"set\r\n", BAD_FORMAT),
    (b"set k 0 0\r\nget a\r\n", BAD_FORMAT),
    (b"set k 0 5\r\nvalue\r\n", BAD_FORMAT),
    (b"set k 0 0 1 2\r\nx\r\n", BAD_FORMAT),
    (b"cas k 0 0 1\r\nx\r\n", BAD_FORMAT),
    (b"set k 0 0 -1\r\n", BAD_CHUNK),
    (b"set k 0 0 x\r\n", BAD_CHUNK),
    (b"set k 0 0 2147483648\r\n", BAD_CHUNK),
    (b"set k 0 0 " + b"9" * 100 + b"\r\n", BAD_CHUNK),
    (b"set k 0 0 1\r\nxyz\r\n", BAD_CHUNK),
    (b"set k 0 0 3\r\nab\r\nget a\r\n", BAD_CHUNK),
    (b"members\r\n", BAD_FORMAT),
    (b"members -1\r\n", BAD_FORMAT),
    (b"members 1 noreply\r\nx\r\n", BAD_FORMAT),
    (b"members 2147483648\r\n", BAD_FORMAT),
    (b"members 1\r\nxyz\r\n", BAD_CHUNK),
    (b"\x80\x0a\x00\x00", b""),
    (b"\x80\r\n", b""),
    (b"GET /set HTTP/1.1\r\nHost: a\r\n\r\nset k 0 0 1\r\nx\r\n", UNKNOWN),
    (b"POST / HTTP/1.0\n", UNKNOWN),
]
"""What leaves it unknown where the next command begins."""


@pytest.mark.parametrize(("text", "expected"), COMMANDS + REFUSED)
def test_a_command_whole_in_bytes_and_followed(text: bytes, expected: Command) -> None:
    assert parse([text]) == [expected]
    assert type(parse([text])[0]) is type(expected)  # as tuples, others might be equal
    assert parse(byte_by_byte(text)) == [expected]
    assert parse([text + b"version\r\n" + text]) == [expected, Word.VERSION, expected]
    assert parse([b"version\r\n" + text[:-1]]) == [Word.VERSION, *parse([text[:-1]])]


@pytest.mark.parametrize(("text", "answer"), FATAL)
def test_what_cannot_be_followed_ends_the_connection(text: bytes, answer: bytes) -> None:
    assert parse([text]) == [answer]
    assert parse(byte_by_byte(text)) == [answer]
    assert parse([b"version\r\n" + text]) == [Word.VERSION, answer]


@pytest.mark.parametrize(("text", "_"), [pair for pair in COMMANDS if b"\n" in pair[0][:-1]])
def test_a_value_without_its_end_is_no_command(text: bytes, _: Command) -> None:
    line, end, rest = text.partition(b"\n")
    for size in range(len(rest)):
        assert parse([line + end, rest[:size]]) == []


@given(st.lists(st.sampled_from(COMMANDS + REFUSED), max_size=8), st.data())
def test_any_split_gives_the_same_commands(
    pairs: list[tuple[bytes, Command]], data: st.DataObject
) -> None:
    text = b"".join(text for text, _ in pairs)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(pieces) == [command for _, command in pairs]


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n", b"set k 0 0 3\r\n"])))
def test_no_bytes_do_harm(pieces: list[bytes]) -> None:
    parse(pieces)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 2**32 - 1), st.binary(max_size=100))
@example(b"noreply", 0, b"")
def test_what_our_client_sends_is_understood(key: bytes, flags: int, body: bytes) -> None:
    try:
        check_key(key)
    except ValueError:
        return
    sent = [get_command(key), set_command(key, flags, body), delete_command(key), stats_command()]
    expected = [Get([key]), Set("set", key, flags, 0, body), Delete(key), Stats()]
    assert parse([b"".join(sent)]) == expected


def test_the_longest_line_and_one_byte_more() -> None:
    keys = [b"%0249d" % number for number in range(LINE_LIMIT // 250)]
    line = b"get " + b" ".join(keys)
    line += b" " * (LINE_LIMIT - len(line))
    assert parse([line + b"\n"]) == [Get(keys)]
    assert parse([line[:1000], line[1000:], b"\n"]) == [Get(keys)]
    too_long = b"CLIENT_ERROR line too long\r\n"
    assert parse([line + b" \n"]) == [too_long]
    assert parse([line + b" "]) == [too_long]
    assert parse([line, b" "]) == [too_long]


def test_a_value_that_is_passed_over_is_not_kept() -> None:
    parser = CommandParser(VALUE_LIMIT)
    size = 50_000_000
    parser.feed(b"set k 0 0 %d\r\n" % size)
    assert parser.next_command() == Answer(TOO_LARGE)
    for _ in range(size // 100_000):
        parser.feed(b"get a\r\n..." * 10_000)
        assert parser.next_command() is None
        assert (parser.unread, parser.expected) == (0, 0)
    parser.feed(b"\r\nversion\r\n")
    assert parser.next_command() is Word.VERSION


def test_a_message_of_full_length_and_one_byte_more() -> None:
    full = b"m" * MESSAGE_LIMIT
    assert parse([b"members %d\r\n%b\r\n" % (len(full), full)]) == [Message(full)]
    longer = b"members %d\r\nm%b\r\nversion\r\n" % (len(full) + 1, full)
    assert parse([longer]) == [Answer(TOO_LARGE), Word.VERSION]


def test_a_value_that_is_coming_is_announced() -> None:
    parser = CommandParser(VALUE_LIMIT)
    parser.feed(b"set k 0 0 10\r\n0123")
    assert (parser.expected, parser.empty) == (0, False)
    assert parser.next_command() is None
    assert (parser.expected, parser.unread) == (12, 0)
    parser.feed(b"456789\r")
    assert parser.next_command() is None
    assert parser.expected == 12
    parser.feed(b"\nget")
    assert (parser.expected, parser.unread, parser.empty) == (0, 3, False)
    command = parser.next_command()
    assert isinstance(command, Set)
    assert plain(command) == Set("set", b"k", 0, 0, b"0123456789")
    parser.feed(b" a\r\n")
    assert parser.next_command() == Get([b"a"])
    assert parser.empty


# -- the short way

GETS = [text for text, command in COMMANDS + REFUSED if text.startswith(b"get ")]


@pytest.mark.parametrize("text", [*GETS, *(text for text, _ in COMMANDS)])
def test_next_get_agrees_with_next_command_or_stands_back(text: bytes) -> None:
    for size in range(len(text) + 1):
        short, long = CommandParser(VALUE_LIMIT), CommandParser(VALUE_LIMIT)
        for parser in (short, long):
            parser.feed(text[:size])
        key = short.next_get()
        if key is not None:
            assert long.next_command() == Get([key])
        assert (short.unread, short.empty) == (long.unread, long.empty)
        rest = text[size:] + b"version\r\n"
        for parser in (short, long):
            parser.feed(rest)
        assert short.next_command() == long.next_command()


def test_next_get_takes_only_whole_plain_gets_of_one_key() -> None:
    parser = CommandParser(VALUE_LIMIT)
    parser.feed(b"get a\r\nget b\nget c d\r\nget e\r\n")
    assert [parser.next_get() for _ in range(3)] == [b"a", b"b", None]
    assert parser.next_command() == Get([b"c", b"d"])
    assert [parser.next_get(), parser.next_get()] == [b"e", None]


def test_next_get_does_not_look_into_values() -> None:
    parser = CommandParser(VALUE_LIMIT)
    parser.feed(b"set k 0 0 16\r\n")
    assert parser.next_command() is None
    parser.feed(b"get a\r\nget b\r\n..\r\nget c\r\n")
    assert parser.next_get() is None
    command = parser.next_command()
    assert isinstance(command, Set) and bytes(command.body) == b"get a\r\nget b\r\n.."
    assert parser.next_get() == b"c"


def test_next_get_does_not_look_into_values_that_are_passed_over() -> None:
    parser = CommandParser(3)
    parser.feed(b"set k 0 0 16\r\n")
    assert parser.next_command() == Answer(TOO_LARGE)
    parser.feed(b"get a\r\nget b\r\n..\r\nget c\r\n")
    assert parser.next_get() is None
    assert parser.next_command() == Get([b"c"])


def test_what_a_node_says_of_damage() -> None:
    said = Corrupt("store", b"k", "digest a", "b, found c").damage
    assert read_damage(f"{DAMAGED}: {said}") == ("digest a", "b, found c")
    assert read_damage("damaged record: of a kind") == (
        "what was stored",
        "damaged record: of a kind",
    )
