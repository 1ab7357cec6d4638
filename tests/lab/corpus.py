"""Requests that nobody should send, and what is to come of each.

A table, by the sections of RFC 9112 ("HTTP/1.1") and RFC 9110 ("HTTP Semantics") that forbid or
allow them. Where a body could be taken for a request, it is ``HIDDEN``: it deletes ``CANARY``,
which is there as long as nobody is deceived.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

CANARY: Final = "a.txt"
HIDDEN: Final = b"DELETE /file?path=a.txt HTTP/1.1\r\nHost: a\r\n\r\n"
TARGET: Final = "/file?path=a.txt"
SIZE: Final = str(len(HIDDEN)).encode()
CHUNK: Final = b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN)
END: Final = b"0\r\n\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked"
HOST: Final = b"Host: a"
LONG: Final = 70_000

BAD: Final = (400,)
"""Statuses of what is malformed."""


class Case(NamedTuple):
    """``sent`` comes on one connection. It gets one answer for each of ``statuses``, in order, and
    no other; the connection is closed then if ``closes``, None: that is left to the server. A
    status of 0 is any refusal of what is too long: 400, 413, 414 or 431. Answers that may come
    instead, where it depends on how the bytes are cut or is left to the server, are ``also``.
    """

    name: str
    sent: bytes
    statuses: tuple[int, ...] = BAD
    closes: bool | None = True
    also: tuple[tuple[int, ...], ...] = ()


def request(
    *fields: bytes,
    method: bytes = b"GET",
    target: bytes = TARGET.encode(),
    version: bytes = b"HTTP/1.1",
    body: bytes = b"",
    line_end: bytes = b"\r\n",
    host: bytes | None = HOST,
) -> bytes:
    """Return a request of these pieces, whatever they are."""
    lines = [method + b" " + target + b" " + version, *([] if host is None else [host]), *fields]
    return line_end.join([*lines, b"", b""]) + body


def put(*fields: bytes, body: bytes = HIDDEN, version: bytes = b"HTTP/1.1") -> bytes:
    """Return a request with a body."""
    return request(*fields, method=b"PUT", target=b"/file?path=new", body=body, version=version)


def refused(group: str, texts: Sequence[bytes], *, statuses: tuple[int, ...] = BAD) -> list[Case]:
    """Return a case for each of ``texts``: one refusal, and the end."""
    return [Case(f"{group} {number}", text, statuses) for number, text in enumerate(texts)]


def taken(
    group: str, texts: Sequence[bytes], *statuses: int, closes: bool | None = False
) -> list[Case]:
    """Return a case for each of ``texts``: these answers, and the connection goes on."""
    return [Case(f"{group} {number}", text, statuses, closes) for number, text in enumerate(texts)]


CODINGS: Final = (
    *(b"xchunked", b"chunkedx", b"x chunked", b"chunked x", b'"chunked"', b"chunked;q=1"),
    *(b"chunked, identity", b"chunked, chunked", b"chunked, gzip", b"identity", b"gzip", b""),
    *(b"chunked\0", b"\0chunked", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"\xefchunked"),
    *(b"chunked\xa0", b"chunk", b"chunked chunked", b"chunked\r", b"\rchunked", b"CHUNKED X"),
    *(b"identity, chunked, identity", b"cow", b"cow, chunked", b"gzip, chunked", b"'chunked'"),
)
"""Transfer-Encoding that is none, or none that is known (RFC 9112, 6.1 and 7)."""

NAMES: Final = (
    *(b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"\tTransfer-Encoding"),
    *(b"Transfer-Encoding\0", b"\0Transfer-Encoding", b"Transfer-Encoding\r", b"Transfer Encoding"),
    *(b"Transfer-Encoding\x0b", b"\x0bTransfer-Encoding", b"Transfer-Encoding\xa0", b"", b" "),
    *(b"Transfer-Encod\xefng", b"(Transfer-Encoding)", b"Transfer-Encoding\n ", b"\rX"),
    *(b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content-Length\0", b"a@b"),
    *(b"Host ", b"a/b", b"a,b", b'"a"', b"a b", b"[a]", b"\x7f", b"a\x01", b"\xff", b"{a}", b"a;b"),
)
"""Names of fields that are none (RFC 9112, 5.1)."""

LENGTHS: Final = (
    *(
        b"+" + SIZE,
        b"-" + SIZE,
        b"0x2c",
        SIZE + b" " + SIZE,
        SIZE + b";",
        b"",
        SIZE + b".0",
        b"1e1",
    ),
    *(
        b"\xd9\xa5",
        SIZE + b"\0",
        b"\0" + SIZE,
        SIZE + b"\x0b",
        b"\x0b" + SIZE,
        b"4_4",
        b"4,4",
        b"a",
    ),
    *(SIZE + b", " + SIZE, SIZE + b", 0", b"0, " + SIZE, SIZE + b",", b"," + SIZE, b"-0", b"+0"),
    *(str(2**64).encode(), str(2**64 + 44).encode(), b"9" * 400, b"-1", b"'44'", b'"44"', b"4 4"),
    *(b"\xa0" + SIZE, SIZE + b"\xa0", b"0b1", b"0o1", b"44h", b"Infinity", b"NaN", b"\x85" + SIZE),
)
"""Content-Length that is no number (RFC 9110, 8.6)."""

SIZES: Final = (
    *(b"0x2c", b"+2c", b"-2c", b" 2c", b"\t2c", b"", b"g", b"2c\0", b"\x002c", b"2 c", b"2c,"),
    *(b"2c\x0b", b"f" * 17, b"1" + b"0" * 16, b"2c.0", b"2_c", b"0X2c", b"2ch", b"\xff", b"2c\r"),
    *(b"2c\r;", b"2c\xa0", b"\xd9\xa5", b"\r2c", b"-0", b"+0", b"0x0", b"2c\x0c"),
)
"""Sizes of chunks that are none (RFC 9112, 7.1)."""


TRAILERS: Final = (
    *(b"Host: b", b"Range: bytes=0-0", b"Connection: close", b"If-None-Match: *", b"Expect: x"),
    *(b"Authorization: Bearer x", b"X-Forwarded-For: 10.0.0.1", b"Upgrade: h2c", b"Cookie: a=b"),
)
"""Fields behind a body, of which none is one of the next request's (RFC 9110, 6.5.1)."""


def framing() -> Iterator[Case]:
    """Yield requests whose end can be seen in two ways (RFC 9112, 6.3)."""
    length, zero = b"Content-Length: " + SIZE, b"Content-Length: 0"
    both = [
        [length, CHUNKED],
        [CHUNKED, length],
        [zero, CHUNKED],
        [CHUNKED, zero],
        [length.lower(), CHUNKED.upper()],
        [length, b"X: y", CHUNKED],
        [CHUNKED, CHUNKED, length],
        [length, b"Transfer-Encoding:\tchunked"],
        [length, b"Transfer-Encoding: Chunked"],
        [length, b"Transfer-Encoding: identity"],
        [b"Content-Length: 4", CHUNKED],
    ]
    for body, name in ((END + HIDDEN, "CL.TE"), (CHUNK + END, "TE.CL"), (HIDDEN, "CL")):
        yield from refused(name, [put(*fields, body=body) for fields in both])
        yield from refused(f"{name} GET", [request(*fields, body=body) for fields in both])
    for name, body in (("end first", END + HIDDEN), ("chunk", CHUNK + END)):
        fields = [b"Transfer-Encoding: " + coding for coding in CODINGS]
        yield from refused(f"coding, {name}", [put(field, body=body) for field in fields])
        yield from refused(f"coding, GET, {name}", [request(field, body=body) for field in fields])
    two = [put(CHUNKED, b"Transfer-Encoding: " + each, body=END + HIDDEN) for each in CODINGS]
    yield from refused("chunked and another", two)
    two = [put(b"Transfer-Encoding: " + each, CHUNKED, body=END + HIDDEN) for each in CODINGS[:12]]
    yield from refused("another and chunked", two)
    yield from refused("1.0 and chunked", [put(CHUNKED, body=CHUNK + END, version=b"HTTP/1.0")])
    yield from refused("chunked twice", [put(CHUNKED, CHUNKED, body=CHUNK + END)])


def lengths() -> Iterator[Case]:
    """Yield wrong Content-Length."""
    fields = [b"Content-Length: " + each for each in LENGTHS]
    yield from refused("length", [put(field) for field in fields])
    yield from refused("length, GET", [request(field, body=HIDDEN) for field in fields])
    good = b"Content-Length: " + SIZE
    yield from refused("two lengths", [put(good, field) for field in fields])
    yield from refused("two lengths, wrong first", [put(field, good) for field in fields])
    more = [b"Content-Length: 0", b"Content-Length: 4", good, good.lower(), good + b" "]
    yield from refused("lengths that differ", [put(good, field) for field in more])
    yield from taken("length with zeros", [put(b"Content-Length: 000" + SIZE)], 200)
    yield from taken("length with spaces", [put(b"Content-Length: \t " + SIZE + b" \t")], 200)
    yield from taken("names that only look so", [put(good, b"Content_Length: 4", b"X-TE: y")], 200)


def chunks() -> Iterator[Case]:
    """Yield chunks with errors, and unusual ones without."""

    def sent(body: bytes) -> bytes:
        return put(CHUNKED, body=body)

    rest = b"\r\n" + HIDDEN + b"\r\n" + END
    yield from refused("size", [sent(size + rest) for size in SIZES])
    yield from refused(
        "size of a later chunk", [sent(b"1\r\nx\r\n" + size + rest) for size in SIZES]
    )
    size = b"%x" % len(HIDDEN)
    yield from refused(
        "ends of chunks",
        [
            sent(size + b"\n" + HIDDEN + b"\r\n" + END),
            sent(size + b"\r" + HIDDEN + b"\r\n" + END),
            sent(size + b"\r\n" + HIDDEN + b"\n" + END),
            sent(size + b"\r\n" + HIDDEN + b"\r" + END),
            sent(size + b"\r\n" + HIDDEN + END),
            sent(size + b"\r\n" + HIDDEN + b"xx" + END),
            sent(size + b"\r\n" + HIDDEN + b"x\r\n" + END),
            sent(b"1\r\n" + HIDDEN + b"\r\n" + END),
            sent(size + b"\r\n\r\n" + HIDDEN + b"\r\n" + END),
            sent(size + b"\n\n" + HIDDEN),
            sent(CHUNK + b"0\n\n" + HIDDEN),
            sent(CHUNK + b"0\r\n\n" + HIDDEN),
            sent(CHUNK + b"0\r\r\n" + HIDDEN),
            sent(CHUNK + b"0\r\n\rX" + HIDDEN),
            sent(b"\r\n" + CHUNK + END),
            sent(CHUNK + b"\r\n" + END),
        ],
    )
    yield from refused(
        "extensions with line ends",
        [
            sent(size + b";a\n" + HIDDEN + b"\r\n" + END),
            sent(size + b";a\nb\r\n" + HIDDEN + b"\r\n" + END),
            sent(size + b";a\rb\r\n" + HIDDEN + b"\r\n" + END),
            sent(size + b";\n" + HIDDEN + b"\r\n" + END),
            sent(size + b';a="\n"\r\n' + HIDDEN + b"\r\n" + END),
            sent(size + b";a=\0\r\n" + HIDDEN + b"\r\n" + END),
        ],
    )
    yield from refused(
        "trailers that are none",
        [
            sent(CHUNK + b"0\r\nX\r\n\r\n"),
            sent(CHUNK + b"0\r\n: x\r\n\r\n"),
            sent(CHUNK + b"0\r\nX : y\r\n\r\n"),
            sent(CHUNK + b"0\r\nX: y\n\r\n"),
            sent(CHUNK + b"0\r\nX: \0\r\n\r\n"),
            sent(CHUNK + b"0\r\nX: y\r\n z\r\n\r\n"),
            sent(CHUNK + b"0\r\n" + HIDDEN),
            # What says how a message is framed may not come behind it (9110, 6.5.1).
            sent(CHUNK + b"0\r\nContent-Length: 5\r\n\r\n"),
            sent(CHUNK + b"0\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ],
    )
    yield from taken(
        "good chunks",
        [
            sent(CHUNK + END),
            sent(CHUNK.upper().replace(b"DELETE", b"delete") + END),
            sent(b"000" + CHUNK + b"000" + END),
            sent(CHUNK.replace(b"\r\n", b";a=b;c\r\n", 1) + END),
            sent(CHUNK.replace(b"\r\n", b';a="b;c"\r\n', 1) + END),
            sent(CHUNK + b"0;x=y\r\n\r\n"),
            sent(CHUNK + b"0\r\nX: y\r\n\r\n"),
            put(b"Transfer-Encoding:chunked", body=CHUNK + END),
            put(b"TRANSFER-ENCODING: \t CHUNKED", body=CHUNK + END),
            *(sent(CHUNK + b"0\r\n" + trailer + b"\r\n\r\n") for trailer in TRAILERS),
            put(b"Trailer: X", CHUNKED, body=CHUNK + b"0\r\nX: y\r\n\r\n"),
        ],
        200,
    )


def fields() -> Iterator[Case]:
    """Yield malformed fields (RFC 9112, 5)."""
    yield from refused("name", [put(name + b": chunked", body=END + HIDDEN) for name in NAMES])
    yield from refused("name, GET", [request(name + b": 44", body=HIDDEN) for name in NAMES])
    lines = [
        *(
            b"X: a\0b",
            b"X: \0",
            b"X",
            b"X\0",
            b"X y",
            b": y",
            b":",
            b"X: a\rb",
            b"X: a\r",
            b"X: \x01",
        ),
        *(b"X: a\n b", b"X: a\r\n b", b"X: a\r\n\tb", b"X: y\nZ: z", b"X: a\nb", b"X:\r\n y"),
        *(b"X: y\n" + CHUNKED, b"X: y\r" + CHUNKED, b"X: y\n\rZ: z", b"X: \x7f", b"X: \x1b[0m"),
        *(b"Content-Length:\r\n 44", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding\r\n:x"),
    ]
    yield from refused("line", [request(line, body=HIDDEN) for line in lines])
    yield from refused("first line of fields", [request(line, HOST, host=None) for line in lines])
    yield from refused("fields that begin with space", [request(HOST, host=b" X: y")])
    yield from taken("values of any bytes", [request(b"X: \xff\xfe", b"Y: a\tb", b"Z:")], 200)
    yield from taken("spaces around", [request(b"X: \t y \t ")], 200)


def line_ends() -> Iterator[Case]:
    """Yield requests whose lines do not end as lines do (RFC 9112, 2.2)."""
    ends = [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b"\x0b", b"\x85", b"\x0c\r\n", b"\r\0\n"]
    yield from refused("ends of lines", [request(line_end=end) + b"\r\n\r\n" for end in ends])
    first, rest = request().split(b"\r\n", 1)
    yield from refused("end of the first", [first + end + rest for end in ends])
    head = request()[:-2]
    yield from refused("last of all", [head + end + HIDDEN for end in (b"\n", b"\r", b"\r\r\n")])
    yield from taken("an empty line before", [b"\r\n" + request(), b"\r\n\r\n" + request()], 200)


def first_lines() -> Iterator[Case]:
    """Yield first lines that are none (RFC 9112, 3)."""
    rest = b"\r\nHost: a\r\n\r\n"
    lines = [
        *(b"GET", b"GET ", b"/ HTTP/1.1", b" / HTTP/1.1", b"\0"),
        *(b"GET\t/file?path=a.txt\tHTTP/1.1", b"GET / a HTTP/1.1"),
        *(b" GET /file?path=a.txt HTTP/1.1", b"GET  HTTP/1.1"),
        *(
            b"GET /file?path=a.txt HTTP/1.1 ",
            b"GET /file?path=a.txt HTTP/1.1 x",
            b"HTTP/1.1 200 OK",
        ),
        *(
            b"GET\0 /file?path=a.txt HTTP/1.1",
            b"GET /file?path=a\0.txt HTTP/1.1",
            b"GET \0 HTTP/1.1",
        ),
        *(b"GET\x0b/file?path=a.txt HTTP/1.1", b"GET /file?path=a.txt\x0bHTTP/1.1", b"Host: a"),
        *(
            b"GET /file?path=a b HTTP/1.1",
            b"GET /file?path=\xc3\xa4 HTTP/1.1",
            b"GET /\x7f HTTP/1.1",
        ),
        *(
            b"GET /\rX HTTP/1.1",
            b"GET /\x01 HTTP/1.1",
            b"GET file?path=a.txt HTTP/1.1",
            b"{}",
            b"\xff",
        ),
        *(
            b"G(T / HTTP/1.1",
            b"G\xc3T / HTTP/1.1",
            b"GET: / HTTP/1.1",
            b"[GET] / HTTP/1.1",
            b"G@T / X",
        ),
    ]
    yield from refused("first line", [line + rest for line in lines])
    old = [b"GET /", b"GET /file?path=a.txt"]
    yield from refused("0.9", [line + rest for line in old], statuses=(505,))
    # RFC 9112, 3 leaves it to the server how much space it takes for one.
    wide = [b"GET  /file?path=a.txt HTTP/1.1", b"GET /file?path=a.txt  HTTP/1.1"]
    yield from taken("two spaces", [line + rest for line in wide], 200)
    versions = [
        *(b"HTTP/1.2", b"HTTP/1.9", b"HTTP/3.0", b"HTTP/9.9"),
        *(
            b"HTTP/1.1.1",
            b"HTTP/11",
            b"http/1.1",
            b"HTTP/1.",
            b"HTTP/.1",
            b"HTTP/ 1.1",
            b"HTTQ/1.1",
        ),
        *(b"HTTP/1", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1,1", b"HTTP/1.10", b"HTTP/01.1", b"HTTP"),
        *(b"HTTP/a.b", b"HTTP/1.1a", b"ICY", b"HTTPS/1.1", b"HTTP /1.1", b"HTTP/\xb9.1"),
    ]
    yield from refused("version", [request(version=each, body=HIDDEN) for each in versions])
    # Where nothing came with it, the parser has found a request: in a version that is not served.
    also = ((505,),)
    for each in (b"HTTP/0.9", b"HTTP/2.0"):
        yield Case(f"version {each.decode()}", request(version=each, body=HIDDEN), also=also)
    yield Case("RTSP", request(version=b"RTSP/1.0", body=HIDDEN), also=((200,),))
    yield from refused("other protocols", list(STRANGERS))
    yield Case("1.0", request(version=b"HTTP/1.0"), (200,))
    yield Case(
        "1.0 that goes on", request(b"Connection: keep-alive", version=b"HTTP/1.0"), (200,), False
    )


STRANGERS: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(32) + b"\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"get key\r\n",
    b"set key 0 0 44\r\n" + HIDDEN,
    b"\x80\x10" + bytes(22) + b"\r\n\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"EHLO a\r\n",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + request(),
    b"\r\n\r\n\0\r\nQUIT\n" + request(),
    b"<policy-file-request/>\0\r\n\r\n",
)
"""The first bytes of clients that took this for another server."""


def methods_and_targets() -> Iterator[Case]:
    """Yield unusual methods and targets (RFC 9110, 9; RFC 9112, 3.2)."""

    def of(method: bytes, target: bytes = TARGET.encode(), *more: bytes) -> bytes:
        return request(*more, method=method, target=target)

    yield from refused("method", [of(each) for each in (b"get", b"Get", b"GeT", b"gET")])
    unknown = [
        b"PATCH",
        b"TRACE",
        b"OPTIONS",
        b"PROPFIND",
        b"LOCK",
        b"M-SEARCH",
        b"PURGE",
        b"QUERY",
    ]
    yield from taken("another method", [of(each) for each in unknown], 405)
    others = [b"FOO", b"GETX", b"GE", b"X-Y", b"DELETEX", b"!#$%&'*+-.^_`|~09", b"HELLO", b"PUTT"]
    yield from refused("unknown method", [of(each) for each in others])
    absolute = [
        b"http://a/file?path=a.txt",
        b"http://b:1/file?path=a.txt",
        b"HTTP://a/file?path=a.txt",
    ]
    yield from taken("absolute form", [of(b"GET", each) for each in absolute], 200)
    yield from taken("asterisk", [of(b"OPTIONS", b"*")], 404)
    nowhere = [
        b"/",
        b"//",
        b"/..",
        b"/file/../file",
        b"/%2e%2e/file",
        b"/\\",
        b"/file;x",
        b"//file",
    ]
    yield from taken(
        "no such address", [of(b"GET", each + b"?path=a.txt") for each in nowhere], 404
    )
    queries = [b"", b"?", b"?path", b"?path=", b"?path=%00", b"?path=%", b"?path=%ff", b"?path=/a"]
    taken_queries = [of(b"GET", b"/file" + each) for each in queries if each != b"?path=%"]
    yield from taken("argument", taken_queries, 400)
    wrong = [b"?path=a&path=b", b"?path=%0d%0aX:y", b"?path=%C0%80"]
    yield from taken("argument, wrong", [of(b"GET", b"/file" + each) for each in wrong], 400)
    dots = [b"?path=..", b"?path=a%2f..%2fb", b"?path=%2e%2e%2fx"]
    yield from taken("dots are only dots", [of(b"GET", b"/file" + each) for each in dots], 404)
    yield Case("CONNECT", of(b"CONNECT", b"a:1") + HIDDEN, (404,))


def hosts() -> Iterator[Case]:
    """Yield Host that is wrong (RFC 9112, 3.2): 400."""
    yield from refused("no host", [request(host=None), request(b"X: y", host=None)])
    yield from refused(
        "no host, PUT", [put(b"Content-Length: " + SIZE).replace(HOST + b"\r\n", b"")]
    )
    twice = [request(HOST), request(b"host: a"), request(b"HOST: b"), request(b"X: y", b"Host: b")]
    yield from refused(
        "two hosts", [*twice, request(b"Host:"), request(b"Host: a", version=b"HTTP/1.0")]
    )
    values = [
        *(
            b"a b",
            b"a/b",
            b"a@b",
            b"a, b",
            b"a?b",
            b"a#b",
            b"a\\b",
            b"a:b",
            b"a:1:2",
            b"[::1",
            b"::1",
        ),
        *(b"a\tb", b'"a"', b"<a>", b"http://a", b"a:-1", b"a|b", b"\xff", b"a^b", b"{a}", b"a:1x"),
    ]
    yield from refused("host", [request(host=b"Host: " + each) for each in values])
    good = [b"", b"a:80", b"a:", b"[::1]", b"[::1]:80", b"1.2.3.4", b"a_b", b"a%20b", b"A.Example."]
    yield from taken("good host", [request(host=b"Host: " + each) for each in good], 200)
    yield Case("no host, 1.0", request(host=None, version=b"HTTP/1.0"), (200,))


def expectations() -> Iterator[Case]:
    """Yield Expect and Upgrade (RFC 9110, 10.1.1 and 7.8)."""
    length = b"Content-Length: " + SIZE
    go_on = [b"Expect: 100-continue", b"Expect: 100-Continue", b"expect:100-CONTINUE"]
    yield from taken("expect", [put(length, each) for each in go_on], 200)
    yield from taken("expect, chunked", [put(CHUNKED, go_on[0], body=CHUNK + END)], 200)
    others = [b"x", b"100-continue, x", b"100-continuex", b"200-ok", b"100"]
    unmet = [put(length, b"Expect: " + each) for each in others]
    yield from taken("expect another thing", unmet, 200)  # 417 is not asked for by 9110, 10.1.1
    yield from refused("expect, refused", [put(go_on[0], b"Content-Length: x")])
    wishes = [b"h2c", b"websocket", b"x", b"TLS/1.0", b"h2c, websocket"]
    for wish in wishes:
        fields = (b"Connection: Upgrade", b"Upgrade: " + wish)
        yield Case(f"upgrade {wish.decode()}", request(*fields) + HIDDEN, (200,))
        yield Case(f"upgrade {wish.decode()}, body", request(*fields, length, body=HIDDEN), (200,))


def bodies() -> Iterator[Case]:
    """Yield bodies that look like requests: they are none."""

    def early(group: str, texts: Sequence[bytes], status: int) -> list[Case]:
        """Whether the body, which nobody wants, has come in time decides whether the connection
        goes on.
        """
        return taken(group, texts, status, closes=None)

    length = b"Content-Length: " + SIZE
    yield from taken("body", [put(length), put(CHUNKED, body=CHUNK + END)], 200)
    yield from taken("body, twice", [put(length) * 2], 200, 200)
    # What comes in one piece with the end of chunks is not read: it could begin with a trailer.
    twice = put(CHUNKED, body=CHUNK + END) * 2
    yield Case("chunks, twice", twice, (200,), None, ((200, 200),))
    for trailer in TRAILERS:
        twice = put(CHUNKED, body=CHUNK + b"0\r\n" + trailer + b"\r\n\r\n") + request()
        # These the parser takes for its own, and refuses what follows, or all that came with it.
        also = ((400,), (200, 400)) if trailer[:2] in (b"Ho", b"Co", b"Up") else ()
        yield Case(f"behind {trailer.decode()}", twice, (200,), None, also)
    yield from early("body of GET", [request(length, body=HIDDEN)], 200)
    yield from early("body of GET, chunked", [request(CHUNKED, body=CHUNK + END)], 200)
    head = request(length, method=b"OPTIONS", body=HIDDEN)
    yield from early("body of another method", [head], 405)
    for method in (b"PATCH", b"TRACE", b"PROPFIND", b"LOCK"):
        yield from early(
            f"body of {method.decode()}", [request(length, method=method, body=HIDDEN)], 405
        )
    yield from early("body for nobody", [request(length, target=b"/x", body=HIDDEN)], 404)
    yield from early("body for a bad path", [request(length, target=b"/file", body=HIDDEN)], 400)
    coded = put(length, b"Content-Encoding: gzip")
    yield from early("body that is not stored", [coded, coded.replace(b"gzip", b"br")], 415)
    ranged = put(length, b"Content-Range: bytes 0-43/44")
    yield from early("part of a body", [ranged], 400)
    form = put(length, b"Content-Type: multipart/form-data; boundary=x")
    yield from taken("no form", [form], 400)
    yield from taken("failed condition", [put(length, b'If-Match: "x"')], 412)
    yield from early(
        "override", [request(length, b"X-HTTP-Method-Override: DELETE", body=HIDDEN)], 200
    )
    # Nothing may follow (9112, 9.6): the parser says so before it hands on what came with it.
    also = ((400,),)
    closing = request(length, b"Connection: close", body=HIDDEN)
    yield Case("close", closing + HIDDEN, (200,), also=also)
    closing = request(length, b"Connection: x, Close", body=HIDDEN)
    yield Case("close among others", closing + HIDDEN, (200,), also=also)


def too_much() -> Iterator[Case]:
    """Yield what is longer than anything may be: refused, with any of the statuses for it."""
    long = b"a" * LONG
    texts = [
        request(target=b"/file?path=" + long),
        request(target=b"/" + long),
        request(b"X: " + long),
        request(long + b": y"),
        request(method=b"G" * LONG),
        request(version=b"HTTP/1.1" + long),
        request(*[b"X%d: y" % number for number in range(5000)]),
        request(*[b"Cookie: a=b"] * 5000),
        put(b"Content-Length: " + b"0" * LONG + SIZE),
        put(CHUNKED, body=CHUNK + b"0\r\nX: " + long + b"\r\n\r\n"),
        put(CHUNKED, body=CHUNK + b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
        put(b"Content-Length: 99999999999999", body=b""),
    ]
    yield from refused("too much", texts, statuses=(0,))


CASES: Final = tuple(
    case
    for group in (
        *(framing, lengths, chunks, fields, line_ends, first_lines, methods_and_targets, hosts),
        *(expectations, bodies, too_much),
    )
    for case in group()
)
