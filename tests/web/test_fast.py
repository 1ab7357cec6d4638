"""The short way: what goes it, and that it gives the same bytes as the long one."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfss.cluster import Cluster
from sfss.config import ServerSettings
from sfss.config_limits import LimitsSettings
from sfss.grants import OPEN, Rules
from sfss.keys import KeyScheme
from sfss.metrics import Board
from sfss.record import Buffer, Form, Kind, Record, new_record
from sfss.routed import Owner, Routed
from sfss.stores.base import Guard, Use
from sfss.web import server as web_server
from sfss.web.answers import Answers
from sfss.web.cors import Cors
from sfss.web.fast import REQUEST_LIMIT, Client, ShortWay, verdict_of
from sfss.web.http import Site
from sfss.web.server import Runner, Server
from tests.stores.dict_store import DictStore
from tests.stores.scripted import until
from tests.web.client import chunked, head

LARGE = bytes(range(256)) * 1024
FILES = {
    "a.txt": b"0123456789",
    "folder/b.tar.gz": b"",
    "folder/typed.txt": b"<svg/>",
    "ä b.png": b"x" * 2000,
    'ä";.html': b"<p>",
    "large": LARGE,
}
CORS = [
    None,
    Cors(["*"], ["GET"], ["ETag", "Location"], 60),
    Cors(["https://a.test", "https://c.test"], ["GET"], [], 60),
]
ANSWERS = [
    Answers(),
    Answers(inline=True, caching=[("folder/", "public, max-age=60")]),
    Answers(trusted=["folder/"], caching=[("ä", "private"), ("", "no-cache")]),
]

BROWSERS = {
    "chromium": [
        "Connection: keep-alive",
        'sec-ch-ua: "Chromium";v="156", "Not)A;Brand";v="24"',
        "sec-ch-ua-mobile: ?0",
        "Upgrade-Insecure-Requests: 1",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
        "Accept: text/html,application/xhtml+xml,image/avif,*/*;q=0.8",
        "Sec-Fetch-Site: none",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-US,en;q=0.9",
        "Cookie: a=b; c=d",
    ],
    "curl": ["User-Agent: curl/7.88.1", "Accept: */*"],
    "wrk": [],
    "nginx": ["X-Real-IP: 10.0.0.1", "X-Forwarded-For: 10.0.0.1, 10.0.0.2", "X-Request-ID: 4f.A"],
}


class ViewableStore(DictStore):
    """A store that calls at once, or in the next turn of the loop."""

    def __init__(self, at_once: bool = True, tells: bool = False) -> None:
        super().__init__()
        self.at_once, self.tells = at_once, tells
        self.changes = 1

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Count a change."""
        await super().set(key, record, guard)
        self.changes += 1

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Count a change."""
        found = await super().delete(key, guard)
        self.changes += 1
        return found

    def view(self, key: bytes, use: Use) -> bool:
        """Call ``use`` with what is under ``key``."""
        value = self.values.get(key)
        form = Form.RAW if value is None else Form.RECORD
        if not self.at_once:
            asyncio.get_running_loop().call_soon(use, value, form)
        else:
            use(None if value is None else memoryview(value), form)
        return True

    def state(self) -> int:
        """Return how often it was changed, if it ``tells``."""
        return self.changes if self.tells else 0


@dataclass
class Gateway:
    """An application on sockets of its own; ``taken`` counts what the short way took on, and
    ``remembered`` what of it was answered from memory.
    """

    runner: Runner
    board: Board
    taken: int = 0
    remembered: int = 0

    async def exchange(self, segments: list[bytes]) -> bytes:
        """Send ``segments`` one by one and return all that comes back until the end."""
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        server = self.runner.server
        assert server is not None
        await loop.connect_accepted_socket(server, theirs)
        answers = bytearray()
        with ours:
            reader = asyncio.ensure_future(read_all(ours, answers))
            for segment in segments:
                # What was sent before is answered by then, as a rule: both ways hold in any case.
                for _ in range(40):
                    await asyncio.sleep(0)
                try:
                    await loop.sock_sendall(ours, segment)
                except ConnectionError:
                    break
            await asyncio.wait_for(reader, 30)
        return bytes(answers)


async def read_all(connection: socket.socket, answers: bytearray) -> None:
    """Read to the end."""
    loop = asyncio.get_running_loop()
    try:
        while piece := await loop.sock_recv(connection, 1 << 20):
            answers += piece
    except ConnectionError:
        answers += b"(reset)"


@asynccontextmanager
async def serving(
    by_short_way: bool,
    store: ViewableStore | None = None,
    rules: Rules = OPEN,
    answers: Answers | None = None,
    cors: Cors | None = None,
    limits: LimitsSettings | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """Serve ``FILES``, by the short way or without it."""
    store = store or ViewableStore()
    cluster = Cluster(
        Routed([store], Owner({"dict": store}, lambda _: "dict")), KeyScheme("plain"), 2**20
    )
    for path, body in FILES.items():
        names = {"Content-Type": "image/svg+xml"} if path == "folder/typed.txt" else {}
        await store.set(path.encode(), new_record(body, 1_700_000_000_000_000, names))
    board = Board(1)
    board.row(0).start(os.getpid())
    site = Site(
        cluster,
        board,
        5,
        Path("/tmp"),
        REWRITES,
        rules,
        answers=answers or Answers(),
        cors=cors,
        limits=limits or LimitsSettings(),
    )
    runner = Runner(site, ServerSettings(**options), board.row(0))
    # How long the rest of an ignored body is waited for; hundreds of them in the test below.
    with patch.object(web_server, "LINGERING_S", 0.02):
        await runner.setup()
    gateway = Gateway(runner, board)
    server = runner.server
    assert isinstance(server, Server)
    short_way = server._short_way

    class Counting(ShortWay):
        def remembered(self, request: bytes) -> tuple[bytes, bytes, bytes] | None:
            found = by_short_way and short_way.remembered(request)
            gateway.taken += bool(found)
            gateway.remembered += bool(found)
            return found or None

        def begin(self, request: bytes, client: Client) -> bool:
            found = by_short_way and short_way.begin(request, client)
            gateway.taken += found
            return found

    server._short_way = Counting(cluster)
    try:
        yield gateway
    finally:
        await runner.cleanup()


LAST = head("GET", "/file?path=a.txt", "Connection: close")
LAST_BY_URL = head("GET", "/a.txt", "Connection: close")
REWRITES = [("/old/", "/folder/")]


def undated(answers: bytes) -> bytes:
    """Return ``answers`` without the moments that they tell, but for that of ``FILES``, and without
    the ids that were made for requests.
    """
    names, ours = rb"Date|Last-Modified|X-Sfss-Version", rb"Tue, 14 Nov 2023|1700000000000000"
    moment = rb"\r\n(" + names + rb"): (?!" + ours + rb")[^\r]*"
    made = rb"\r\nX-Request-ID: [0-9a-f]{16}(?=\r\n)"
    return re.sub(made, b"\r\nX-Request-ID:", re.sub(moment, rb"\r\n\1:", answers))


async def compare(
    segments: list[bytes],
    at_once: bool = True,
    tells: bool = False,
    faces: Sequence[str] = ("native", "status"),
    rules: Rules = OPEN,
    answers: Answers | None = None,
    cors: Cors | None = None,
) -> int:
    """Assert that both ways give the same bytes; return how many requests the short way took."""
    store = ViewableStore(at_once, tells)
    async with (
        serving(True, store, rules, answers, cors, faces=faces) as short,
        serving(False, None, rules, answers, cors, faces=faces) as long,
    ):
        one = await short.exchange(segments)
        other = await long.exchange(segments)
        assert undated(one) == undated(other)
        assert short.board.statuses() == long.board.statuses()
        assert short.board.totals() == long.board.totals()
        return short.taken


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("browser", BROWSERS)
@pytest.mark.parametrize("path", ["a.txt", "folder/b.tar.gz", "%C3%A4%20b.png", "large"])
async def test_requests_of_real_clients_go_the_short_way(
    browser: str, path: str, at_once: bool
) -> None:
    request = head("GET", f"/file?path={path}", *BROWSERS[browser])
    # The first request of a connection may come before aiohttp's loop waits for it.
    assert await compare([request, request, request, LAST], at_once) >= 2


@pytest.mark.parametrize("answers", ANSWERS)
async def test_what_the_heads_of_files_say_is_the_same(answers: Answers) -> None:
    by_url = [head("GET", "/" + quote(path)) for path in FILES]
    by_query = [head("GET", "/file?path=" + quote(path)) for path in FILES]
    segments = [each for each in (*by_url, *by_query) for _ in range(3)] + [LAST]
    faces = ("native", "paths")
    assert await compare(segments, tells=True, faces=faces, answers=answers) >= 2 * len(by_url)


@pytest.mark.parametrize("cors", CORS)
async def test_pages_of_all_origins_are_told_the_same(cors: Cors | None) -> None:
    gets = [
        head("GET", "/a.txt", *fields)
        for fields in (
            [],
            ["Origin: https://a.test"],
            ["origin:https://a.test", "X-Request-ID: 1"],
            ["Origin:  https://b.test "],
            ["Origin: null"],
            ["Origin:"],
            ["X-Origin: https://a.test"],
            ["Referer: x", "ORIGIN:\thttps://a.test\t"],
        )
    ]
    segments = [get for get in gets for _ in range(3)] + [LAST_BY_URL]
    assert await compare(segments, tells=True, faces=["paths"], cors=cors) >= 2 * len(gets)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "address", ["/a.txt", "//a.txt", "/folder/b.tar.gz", "/old/b.tar.gz", "/%C3%A4%20b.png"]
)
async def test_files_by_url_path_go_the_short_way(address: str, at_once: bool) -> None:
    request = head("GET", address, *BROWSERS["curl"])
    segments = [request, request, request, LAST_BY_URL]
    for faces in (("paths",), ("native", "paths")):
        assert await compare(segments, at_once, faces=faces) >= 2


async def test_after_a_request_by_the_long_way_the_short_one_is_open_again() -> None:
    get = head("GET", "/file?path=a.txt")
    put = head("PUT", "/file?path=new", "Content-Length: 3") + b"abc"
    missing = head("GET", "/file?path=missing")
    segments = [put, get, missing, get, get[:20], get[20:], get, put[:-1], put[-1:], get, LAST]
    assert await compare(segments) == 5  # what is missing is found out before it goes the long way


@pytest.mark.parametrize(
    "segments",
    [
        [head("PUT", "/file?path=new", "Transfer-Encoding: chunked") + chunked(b"abc")],
        [head("PUT", "/file?path=new", "Transfer-Encoding: chunked"), chunked(b"abc", b"d")],
        [head("GET", "/file?path=a.txt") * 3],
        [
            head("GET", "/file?path=a.txt") * 2 + b"GET /fi",
            b"le?path=a.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
        [head("GET", "/file?path=a.txt", "Content-Length: 3") + b"abc"],
    ],
)
async def test_after_anything_that_has_come_whole_the_short_way_is_open(
    segments: list[bytes],
) -> None:
    get = head("GET", "/file?path=a.txt")
    assert await compare([*segments, get, get, LAST]) == 2


@pytest.mark.parametrize(
    "beginning", [b"G", b"GET /file?path=a.txt HTTP/1.1\r\n", b"\r\n", b"\r\n\r\n", b"\r"]
)
async def test_behind_the_beginning_of_a_request_it_is_not(beginning: bytes) -> None:
    get = head("GET", "/file?path=a.txt")
    await compare([get + beginning, get, get, LAST])
    await compare([get, get + beginning, get[1:], get, LAST])


METHODS = st.sampled_from(["GET"] * 6 + ["HEAD", "PUT", "POST", "DELETE", "get", "OPTIONS"])
TARGETS = st.sampled_from(
    [
        *["/file?path=a.txt"] * 5,
        "/file?path=folder/b.tar.gz",
        "/file?path=%C3%A4%20b.png",
        "/file?path=%C3%A4%22%3B.html",
        "/file?path=folder/typed.txt",
        "/file?path=%c3%a4+b.png",
        "/file?path=%2561.txt",
        "/file?path=a%2etxt",
        "/file?path=large",
        "/file?path=missing",
        "/file?path=",
        "/file?path=/a",
        "/file?path=a//b",
        "/file?path=%00",
        "/file?path=%ff",
        "/file?path=%zz",
        "/file?path=a.txt&path=b",
        "/file?path=a.txt&x=1",
        "/file?path=a.txt#x",
        "/file?path=a;b",
        "/file?PATH=a.txt",
        "/%66ile?path=a.txt",
        "/file",
        "http://localhost/file?path=a.txt",
        "/files?prefix=a",
        "/nowhere",
        "/file?path=" + "x" * 300,
        "/file?path=" + "%41" * 2000,
    ]
)
ADDRESSES = st.sampled_from(
    [
        *["/a.txt"] * 5,
        "/folder/b.tar.gz",
        "/folder",
        "/folder/",
        "/",
        "//a.txt",
        "/folder//b.tar.gz",
        "/old/b.tar.gz",
        "/%6fld/b.tar.gz",
        "/%C3%A4%20b.png",
        "/folder/typed.txt",
        "/%2561.txt",
        "/a%2etxt",
        "/a.txt?x=1",
        "/a.txt#x",
        "/a.txt;v=1",
        "/a.txt/",
        "/large",
        "/missing",
        "/.a",
        "/folder/../a.txt",
        "/%2e%2e/a.txt",
        "/folder%2fb.tar.gz",
        "/a+b",
        "/%00",
        "/%ff",
        "/%zz",
        "/__missing__/",
        "/%5F_missing__/",
        "/__readme.txt",
        "/file",
        "/file?path=a.txt",
        "/%66ile",
        "/status",
        "http://localhost/a.txt",
        "*",
        "/" + "x" * 300,
        "/" + "%41" * 2000,
    ]
)
FIELDS = st.lists(
    st.sampled_from(
        [
            *(field for fields in BROWSERS.values() for field in fields),
            "Connection: close",
            "Connection: Keep-Alive",
            "connection: upgrade",
            "Upgrade: websocket",
            "Range: bytes=0-1",
            "range: bytes=2-",
            'If-None-Match: "x"',
            "If-None-Match: *",
            "IF-MATCH: *",
            "If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT",
            "Content-Length: 0",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
            "Accept: application/json",
            "Host: other",
            "Host:other",
            "Origin: https://a.test",
            "Origin: https://b.test",
            "Access-Control-Request-Method: PUT",
            "X-Empty:",
            "X-Space : x",
            " X-Folded: x",
            "X-Wide: \xe4",
            "X-Tab: a\tb",
            "X-Nul: a\0b",
            "X-Long: " + "x" * 5000,
            "no colon",
        ]
    ),
    max_size=4,
)
VERSIONS = st.sampled_from(["1.1"] * 8 + ["1.0", "1.2", "2.0"])


def requests_for(targets: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return requests, each for one of ``targets``."""
    return st.builds(
        lambda method, target, fields, version, body: (
            head(method, target, *fields, version=version) + body
        ),
        *(METHODS, targets, FIELDS, VERSIONS),
        st.sampled_from([b""] * 5 + [b"abc", b"0\r\n\r\n"]),
    )


@st.composite
def conversations(
    draw: st.DrawFn, targets: st.SearchStrategy[str] = TARGETS, last: bytes = LAST
) -> list[bytes]:
    """Requests, each in one segment or cut, or several in one; the last closes the connection."""
    whole = b""
    cuts: set[int] = set()
    for request in draw(st.lists(requests_for(targets), min_size=1, max_size=5)):
        whole += request
        if draw(st.booleans()):
            cuts.add(len(whole))
        if draw(st.integers(0, 3)) == 0:
            cuts.add(draw(st.integers(1, len(whole))))
    ends = sorted({*cuts, len(whole)})
    pieces = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    # What is still waited for comes as LAST, and its end ends the connection in any case.
    return [*(piece for piece in pieces if piece), last, last]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    conversations(), st.booleans(), st.booleans(), st.sampled_from(ANSWERS), st.sampled_from(CORS)
)
def test_both_ways_give_the_same_bytes(
    segments: list[bytes], at_once: bool, tells: bool, answers: Answers, cors: Cors | None
) -> None:
    asyncio.run(compare(segments, at_once, tells, answers=answers, cors=cors))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    conversations(ADDRESSES, LAST_BY_URL),
    st.booleans(),
    st.booleans(),
    st.sampled_from([("paths",), ("native", "paths"), ("paths", "status", "debug")]),
    st.sampled_from(ANSWERS),
)
def test_both_ways_give_the_same_bytes_by_url_path(
    segments: list[bytes], at_once: bool, tells: bool, faces: tuple[str, ...], answers: Answers
) -> None:
    asyncio.run(compare(segments, at_once, tells, faces, answers=answers))


async def test_remembered_answers_have_the_same_bytes() -> None:
    get, other = head("GET", "/file?path=a.txt"), head("GET", "/file?path=large")
    put = head("PUT", "/file?path=a.txt", "Content-Length: 3") + b"abc"
    segments = [get, get, get, get, put, get, get, get, other, other, other, LAST]
    assert await compare(segments, tells=True) >= 9
    async with serving(True, ViewableStore(tells=True), access_log=True) as gateway:
        await gateway.exchange(segments)
        assert gateway.remembered >= 3


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([], b""),
        (["a-Z_0.9~:@=+/"], b"a-Z_0.9~:@=+/"),
        (["x" * 128], b"x" * 128),
        (["x" * 129], b""),
        (["two words"], b""),
        (["\xe4"], b""),
        ([""], b""),
        (["one", "two"], b"one"),
    ],
)
async def test_the_id_of_a_request_comes_back(ids: list[str], told: bytes) -> None:
    fields = [f"X-Request-ID: {each}" for each in ids]
    get = head("GET", "/file?path=a.txt", *fields)
    none = head("GET", "/file?path=none", *fields)
    await compare([get, get, none, get, LAST], tells=True)
    for by_short_way in (True, False):
        async with serving(by_short_way, ViewableStore(tells=True)) as gateway:
            answers = await gateway.exchange([get, get, get, none, LAST])
        found = re.findall(rb"\r\nX-Request-ID: ([^\r]*)", answers)
        *given, last = found  # the 404 always has one
        assert given == [told] * 3 if told else not given
        assert last == told if told else re.fullmatch(rb"[0-9a-f]{16}", last)


async def test_as_many_fields_as_aiohttp_refuses() -> None:
    for count in (60, 64, 65, 127, 128, 129, 300):
        await compare([head("GET", "/file?path=a.txt", *(f"X{n}: y" for n in range(count))), LAST])


@pytest.mark.parametrize("browser", BROWSERS)
async def test_both_ways_write_the_same_log(browser: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sfss.access")
    request = head("GET", "/file?path=a.txt", 'Referer:  "quoted"\\', *BROWSERS[browser])
    lines: list[list[str]] = []
    for by_short_way in (True, False):
        caplog.clear()
        async with serving(by_short_way, access_log=True) as gateway:
            await gateway.exchange([request, request, request, LAST])
            assert gateway.taken >= 2 * by_short_way
        lines.append([re.sub(r"\[.*?\]", "[]", record.getMessage()) for record in caplog.records])
    assert len(lines[0]) == 4
    assert lines[0] == lines[1]


def block(*fields: str) -> bytes:
    """Return a header block."""
    return "".join(f"{field}\r\n" for field in fields).encode("latin-1") + b"\r\n"


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_block_of_a_real_client_means_nothing(browser: str) -> None:
    assert verdict_of(block("Host: a", *BROWSERS[browser])) is not None


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["Host: a", "Host: b"],
        ["Host: a", "X: 1", "x: 2"],
        ["Host: a", "Range: bytes=0-"],
        ["Host: a", "If-Range: x"],
        ["Host: a", "Content-Length: 0"],
        ["Host: a", "Connection: close"],
        ["Host: a", "Connection: keep-alive, x"],
        ["Host: a", "Transfer-Encoding: chunked"],
        ["Host: a", "Expect: x"],
        ["Host: a", "X: \xe4"],
        ["Host: a", "X: a\tb"],
        ["Host: a", "X : a"],
        ["Host: a", " X: a"],
        ["Host: a", "X"],
        ["Host: a", "X: a\nRange: bytes=0-"],
        ["Host: a", "X: a\rb"],
        ["Host: a", "", "Y: z"],
    ],
)
def test_a_block_that_may_mean_something(fields: list[str]) -> None:
    assert verdict_of(block(*fields)) is None


def test_a_block_without_its_end_means_something() -> None:
    assert verdict_of(b"Host: a\r\n") is None
    assert verdict_of(b"Host: a") is None
    assert verdict_of(b"") is None


class Witness:
    """A client that notes how it was answered."""

    peer = "127.0.0.1"

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.long = 0

    def answer(self, request: bytes, face: str, parts: tuple[bytes, bytes, Buffer]) -> None:
        """Note an answer."""
        head, date, body = parts
        self.answers.append(head + date + bytes(body))

    def go_long_way(self, request: bytes) -> None:
        """Note that there was none."""
        self.long += 1


def way_to(store: ViewableStore) -> ShortWay:
    """Return the short way to ``store``."""
    owner = Owner({"dict": store}, lambda _: "dict")
    return ShortWay(Cluster(Routed([store], owner), KeyScheme("plain"), 2**20))


async def test_what_is_remembered_is_bounded() -> None:
    way, client = way_to(ViewableStore()), Witness()
    for turn in range(20_000):
        way.begin(head("GET", "/file?path=a", f"X-{turn}: x"), client)
        way.begin(head("GET", f"/file?path=a{turn}"), client)
    assert len(way._verdicts) <= 1024
    assert len(way._asked) <= 16 * 1024
    assert not way.begin(head("GET", "/file?path=a", "X: " + "x" * REQUEST_LIMIT), client)


REQUEST = head("GET", "/file?path=a")


async def test_what_has_changed_is_read_anew() -> None:
    store, client = ViewableStore(), Witness()
    way = way_to(store)
    for body in (b"one", b"two", b"", b"longer than before"):
        await store.set(b"a", new_record(body, 1))
        assert way.begin(REQUEST, client)
        assert client.answers[-1].endswith(b"\r\n\r\n" + body)
    await store.delete(b"a")
    assert way.begin(REQUEST, client)
    assert client.long == 1


@pytest.mark.parametrize("seen_before", [True, False])
@pytest.mark.parametrize("position", [0, 3, 20, 40, 50, 56, 60, -1])
async def test_a_damaged_record_goes_the_long_way(seen_before: bool, position: int) -> None:
    store, client = ViewableStore(), Witness()
    way = way_to(store)
    await store.set(b"a", new_record(b"12345678", 1))
    if seen_before:
        assert way.begin(REQUEST, client)
    value = bytearray(store.values[b"a"])
    value[position] ^= 1
    for damaged in (bytes(value), store.values[b"a"][:position], b""):
        store.values[b"a"] = damaged
        assert way.begin(REQUEST, client)
    assert client.long == 3
    assert len(client.answers) == seen_before


@pytest.mark.parametrize("seen_before", [True, False])
@pytest.mark.parametrize("change", [{"kind": Kind.TOMBSTONE}, {"expiry": 1}])
async def test_what_is_not_a_file_for_ever_goes_the_long_way(
    seen_before: bool, change: dict[str, int]
) -> None:
    store, client = ViewableStore(), Witness()
    way = way_to(store)
    record = new_record(b"12345678", 1)
    await store.set(b"a", record)
    if seen_before:
        assert way.begin(REQUEST, client)
    await store.set(b"a", Record(record.head._replace(**change), record.body))
    assert way.begin(REQUEST, client)
    assert client.long == 1


async def test_a_raw_body_is_answered_with_the_tag_of_its_bytes() -> None:
    class RawStore(ViewableStore):
        def view(self, key: bytes, use: Use) -> bool:
            use(self.values[key], Form.RAW)
            return True

    store, client = RawStore(), Witness()
    way = way_to(store)
    for body in (b"SF raw", b"another"):
        store.values[b"a"] = body
        assert way.begin(REQUEST, client)
        assert f'ETag: "{new_record(body, 0).head.digest.hex()}"'.encode() in client.answers[-1]
        assert b"Last-Modified" not in client.answers[-1]
        assert client.answers[-1].endswith(b"\r\n\r\n" + body)


async def test_a_client_that_does_not_read_makes_nothing_grow() -> None:
    async with serving(True) as gateway:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        assert gateway.runner.server is not None
        transport, _ = await loop.connect_accepted_socket(gateway.runner.server, theirs)
        request = head("GET", "/file?path=large")
        largest = 0
        with ours:
            for _ in range(200):
                try:
                    ours.send(request)
                except BlockingIOError:
                    break
                for _ in range(6):
                    await asyncio.sleep(0)
                largest = max(largest, transport.get_write_buffer_size())
        assert 0 < largest < 3 * len(LARGE)


async def test_an_idle_connection_is_closed_in_time() -> None:
    async with serving(True, keepalive_timeout_s=1.0) as gateway:
        request = head("GET", "/file?path=a.txt")
        answers = await gateway.exchange([request, request, request])
        assert answers.count(b"HTTP/1.1 200 OK") == 3
        assert gateway.taken >= 2


async def test_a_draining_worker_closes_after_the_next_answer() -> None:
    async with serving(True) as gateway:
        request = head("GET", "/file?path=a.txt")
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        assert gateway.runner.server is not None
        await loop.connect_accepted_socket(gateway.runner.server, theirs)
        answers = bytearray()
        with ours:
            reader = asyncio.ensure_future(read_all(ours, answers))
            await loop.sock_sendall(ours, request)
            await until(lambda: answers, "the first answer")
            draining = asyncio.ensure_future(gateway.runner.drain(30))
            await asyncio.sleep(0)
            await loop.sock_sendall(ours, request)
            await asyncio.wait_for(asyncio.gather(reader, draining), 20)
        assert answers.count(b"HTTP/1.1 200 OK") == 2
        assert answers.count(b"Connection: close") == 1
