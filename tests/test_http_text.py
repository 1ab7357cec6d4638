"""Answers of HTTP servers: parsed whole, byte by byte, and with bytes behind the end."""

from contextlib import suppress

import pytest

from sfss.http_text import (
    HEAD_LIMIT,
    BadResponse,
    Head,
    ResponseParser,
    http_date,
    read_head,
    second_of,
)

PLAIN = b'HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nhello'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'3\r\nhel\r\n2 ;a="b"\r\nlo\r\n000\r\nX-Trailer: 1\r\n\r\n'
)
WELL = {
    "plain": PLAIN,
    "chunked": CHUNKED,
    "no reason": PLAIN.replace(b" OK", b""),
    "odd reason": PLAIN.replace(b"OK", "ÖK\t!".encode()),
    "no space": PLAIN.replace(b"Content-Length: 5", b"content-length:5"),
    "much space": PLAIN.replace(b"Length: 5", b"Length: \t 5 \t "),
    "identity": PLAIN.replace(b"Server: nginx", b"Content-Encoding: Identity"),
    "empty field": PLAIN.replace(b"nginx", b""),
    "old": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "twice": PLAIN.replace(b"Server: nginx", b"Set-Cookie: a\r\nSet-Cookie: b"),
}


def parsed(pieces: list[bytes], is_head: bool = False) -> tuple[Head | None, bytes, bool]:
    """Return what a parser makes of an answer that comes in ``pieces``."""
    parser = ResponseParser(is_head)
    body = b"".join([parser.feed(piece) for piece in pieces])
    return parser.head, body, parser.complete


def singly(text: bytes) -> list[bytes]:
    """Return ``text`` byte by byte."""
    return [text[at : at + 1] for at in range(len(text))]


@pytest.mark.parametrize("name", WELL)
def test_an_answer_is_read_however_it_comes(name: str) -> None:
    text = WELL[name]
    for pieces in ([text], singly(text), *([text[:at], text[at:]] for at in range(1, len(text)))):
        head, body, complete = parsed(pieces)
        assert head is not None
        assert (head.status, body, complete) == (200, b"hello", True)


@pytest.mark.parametrize("name", WELL)
def test_nothing_may_come_behind_an_answer(name: str) -> None:
    for pieces in ([WELL[name] + b"x"], [WELL[name], b"\r"], [*singly(WELL[name]), b"H"]):
        with pytest.raises(BadResponse):
            parsed(pieces)


@pytest.mark.parametrize("name", WELL)
def test_what_is_cut_off_is_not_complete(name: str) -> None:
    for end in range(len(WELL[name])):
        assert not parsed([WELL[name][:end]])[2]
        assert not parsed(singly(WELL[name][:end]))[2]


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("length", [b"", b"Content-Length: 7\r\n"])
def test_some_answers_have_no_body(status: int, length: bytes) -> None:
    text = b"HTTP/1.1 %d X\r\n%b\r\n" % (status, length)
    assert parsed([text])[1:] == (b"", True)
    with pytest.raises(BadResponse):
        parsed([text + b"x"])


def test_head_has_a_length_and_no_body() -> None:
    head, body, complete = parsed([PLAIN[:-5]], is_head=True)
    assert head is not None
    assert (head.length, body, complete) == (5, b"", True)
    head, _, complete = parsed([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], True)
    assert head is not None
    assert (head.length, complete) == (None, True)
    with pytest.raises(BadResponse):
        parsed([PLAIN], is_head=True)


@pytest.mark.parametrize(
    "said, version, keeps",
    [
        (b"", b"1.1", True),
        (b"Connection: close\r\n", b"1.1", False),
        (b"Connection: Foo, CLOSE\r\n", b"1.1", False),
        (b"Connection: keep-alive\r\n", b"1.1", True),
        (b"", b"1.0", False),
        (b"Connection: Keep-Alive\r\n", b"1.0", True),
        (b"Connection: keep-alive, close\r\n", b"1.0", False),
    ],
)
def test_whether_the_connection_is_kept(said: bytes, version: bytes, keeps: bool) -> None:
    head, _, _ = parsed([b"HTTP/%b 200 OK\r\nContent-Length: 0\r\n%b\r\n" % (version, said)])
    assert head is not None
    assert head.keeps is keeps


BAD_LINES = [
    b"HTTP/2 200 OK",
    b"HTTP/1.2 200 OK",
    b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 600 OK",
    b"HTTP/1.1 200OK",
    b"http/1.1 200 OK",
    b" HTTP/1.1 200 OK",
    b"HTTP/1.1 200 O\x00K",
    b"HTTP/1.1 200 OK\nX: y",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 101 Switching Protocols",
    b"STORED",
    b"",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_first_line(line: bytes) -> None:
    text = line + b"\r\nContent-Length: 0\r\n\r\n"
    for pieces in ([text], singly(text)):
        with pytest.raises(BadResponse):
            parsed(pieces)


BAD_FIELDS = [
    b"Content-Length : 0",
    b" Content-Length: 0",
    b"Content-Length: 0\r\n folded",
    b"Content-Length: 0\nX: y",
    b"Content-Length: 0\rX: y",
    b"Content-Length: 0\r\nno field",
    b"Content-Length: 0\r\n: x",
    b"Content-Length: 0\r\nX\x00: y",
    b"Content-Length: 0\r\nX: \x01",
    b"Content-Length: 0\r\nContent-Length: 0",
    b"Content-Length: 0\r\ncontent-length: 1",
    b"Content-Length: 0, 0",
    b"Content-Length: +0",
    b"Content-Length: -1",
    b"Content-Length: 0x0",
    b"Content-Length: 1_0",
    b"Content-Length: 9007199254740993",
    b"Content-Length: 99999999999999999999",
    b"Content-Length:",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Content-Length: 0\r\nContent-Encoding: gzip",
    b"Content-Length: 0\r\nLast-Modified: a\r\nLast-Modified: b",
    b"X: y",
]


@pytest.mark.parametrize("fields", BAD_FIELDS)
def test_bad_fields(fields: bytes) -> None:
    text = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % fields
    for pieces in ([text], singly(text)):
        with pytest.raises(BadResponse):
            parsed(pieces)


def test_chunks_are_no_part_of_http_1_0() -> None:
    with pytest.raises(BadResponse):
        parsed([CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0")])


BAD_CHUNKS = [
    b"\r\n",
    b"x\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b"0x1\r\n",
    b"1\n",
    b" 1\r\n",
    b"fffffffffffffff\r\n",
    b"1\r\nab",
    b"1\r\na\n",
    b"1\r\na\rx",
    b"1;" + b"x" * 300,
    b"1" * 300,
    b"0\r\nno field\r\n",
    b"0\r\nX: y\n",
    b"0\r\n\n",
    b"0\r\n" + b"X: y\r\n" * 5000,
    b"0\r\nX: " + b"y" * HEAD_LIMIT + b"\r\n",
]


@pytest.mark.parametrize("text", BAD_CHUNKS)
def test_bad_chunks(text: bytes) -> None:
    begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for pieces in ([begin + text], [begin, *singly(text)]):
        with pytest.raises(BadResponse):
            parsed(pieces)


def test_a_head_is_bounded() -> None:
    field = b"X: " + b"y" * 1000 + b"\r\n"
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + field * 17
    for pieces in ([text + b"\r\n"], [text], singly(text)):
        with pytest.raises(BadResponse):
            parsed(pieces)


def test_a_flipped_byte_gives_no_other_error() -> None:
    for text in (PLAIN, CHUNKED):
        for at in range(len(text)):
            for flip in (0x01, 0x20, 0x80):
                flipped = text[:at] + bytes([text[at] ^ flip]) + text[at + 1 :]
                for pieces in ([flipped], singly(flipped)):
                    with suppress(BadResponse):
                        parsed(pieces)


@pytest.mark.parametrize("second", [0, 1, 951_782_400, 1_700_000_000, 253_402_300_799])
def test_dates_are_written_and_read(second: int) -> None:
    assert second_of(http_date(second).encode()) == second


def test_a_date_as_the_standard_has_it() -> None:
    assert http_date(784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "date",
    [
        b"",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 32 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nix 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"784111777",
    ],
)
def test_what_is_no_date(date: bytes) -> None:
    with pytest.raises(BadResponse):
        second_of(date)


def test_no_second_is_before_1970() -> None:
    assert second_of(b"Wed, 31 Dec 1969 23:59:59 GMT") == 0


def test_fields_that_come_twice_are_joined() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: 1\r\nx-b: 2 \r\nx-A:\t3"
    fields = {b"content-length": b"0", b"x-a": b"1, 3", b"x-b": b"2"}
    assert read_head(text).fields == fields


def test_a_head_may_have_another_limit() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: %b\r\n\r\n" % (b"a" * HEAD_LIMIT)
    with pytest.raises(BadResponse, match="head"):
        ResponseParser().feed(text)
    parser = ResponseParser(head_limit=2 * HEAD_LIMIT)
    assert parser.feed(text) == b""
    assert parser.complete
