"""httplint over the bytes of every kind of answer: nothing bad, and no warning without a reason."""

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from httplint import HttpRequestLinter, HttpResponseLinter
from httplint.note import levels

from sfss import errors
from sfss.config import ServerSettings
from sfss.web.cors import Cors
from tests.objstore import Objstore
from tests.servers import Gateway, gateway, running
from tests.test_objects import ID
from tests.web import test_protocol
from tests.web.client import head, multipart
from tests.web.test_fast import serving
from tests.web.test_gate_ways import RULES

ALLOWED = {
    "VARY_USER_AGENT": "refusals, which nobody keeps, are plain text for curl and JSON for others",
    "STATUS_BAD_REQUEST": "it says what the status means",
    "STATUS_URI_TOO_LONG": "the same",
    "FRESHNESS_HEURISTIC": "of files, which the owner may set a time for (answers.caching);"
    " what is no file says no-store, as ``notes`` sees",
    "CSP_UNSAFE_INLINE": "of style only, in a sandbox that runs no script",
    "STORE_PUBLIC_UNNECESSARY": "it has shared caches keep what was asked for with a token",
    "PARTIAL_WITHOUT_RANGE": "several ranges: RFC 9110, 15.3.7.2 wants it in the parts only",
}
"""Notes that are right and stay, by the name of their class: and why."""

FIELD = re.compile(rb"([^:\r\n]+):[ \t]*([^\r\n]*)")


def notes(sent: bytes, answer: bytes) -> list[str]:
    """Return what httplint finds bad or doubtful in ``answer`` to ``sent``."""
    now = time.time()
    first, *fields = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")
    method, target, _ = first.split(b" ")
    asked = HttpRequestLinter(start_time=now)
    asked.process_request_topline(method, b"http://localhost" + target, b"1.1")
    asked.process_headers([FIELD.fullmatch(field).groups() for field in fields])  # type: ignore[union-attr]
    asked.finish_content(True)
    text, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = text.split(b"\r\n")
    version, status, phrase = line.split(b" ", 2)
    assert version == b"HTTP/1.1"
    told = HttpResponseLinter(start_time=now, _related=asked, no_content=method == b"HEAD")
    told.process_response_topline(b"1.1", status, phrase)
    told.process_headers([FIELD.fullmatch(each).groups() for each in lines])  # type: ignore[union-attr]
    told.feed_content(body)
    told.finish_content(True)
    names = {type(note).__name__ for note in told.notes}
    guesses = "FRESHNESS_HEURISTIC" in names and b"\r\netag: " not in text.lower()
    return ["no file, and caches may guess"] * guesses + [
        f"{type(note).__name__}: {note.summary}"
        for each in told.notes
        for note in (each, *each.subnotes)
        if note.level in (levels.BAD, levels.WARN) and type(note).__name__ not in ALLOWED
    ]


def read_answer(connection: socket.socket, method: bytes) -> bytes:
    """Read one answer, without chunks; of one that does not end, its head."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(1 << 16)
        assert piece, found
        found += piece
    text, _, body = found.partition(b"\r\n\r\n")
    if text.startswith(b"HTTP/1.1 100"):
        return read_answer(connection, method)
    size = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", text)
    missing = 0 if size is None or method == b"HEAD" else int(size[1]) - len(body)
    while missing > 0:
        piece = connection.recv(1 << 16)
        assert piece
        body, missing = body + piece, missing - len(piece)
    return text + b"\r\n\r\n" + body


def ask(port: int, sent: bytes, times: int = 1) -> bytes:
    """Send a request, ``times`` on one connection; return the bytes of its last answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(times):
            connection.sendall(sent)
            answer = read_answer(connection, sent.partition(b" ")[0])
    return answer


def found_in(port: int, statuses: dict[bytes, int]) -> list[str]:
    """Ask all, by the short way, too, where there is one; return what is wrong with the answers."""
    wrong = []
    for sent, status in statuses.items():
        for times in (1, 3):
            answer = ask(port, sent, times)
            if int(answer.split(b" ")[1]) != status:
                wrong.append(f"{sent[:80]!r}: {answer[:200]!r}, not {status}")
            wrong += [f"{sent[:60]!r} {status}: {note}" for note in notes(sent, answer)]
    return sorted(set(wrong))


def put(target: str, *fields: str, body: bytes = b"x", method: str = "PUT") -> bytes:
    """Return a request with a body."""
    return head(method, target, f"Content-Length: {len(body)}", *fields) + body


SETTINGS = """
[server]
faces = ["native", "status", "debug", "health", "metrics", "upload", "fetch", "blobs"]
body_timeout_s = 1
[cluster]
max_file_size = 100000
"""


@pytest.fixture(name="api", scope="module")
def own_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("answers")
    with running(gateway(folder, "--store", "store", settings=SETTINGS)) as server:
        for path in ("a.txt", "f/b.html", "f/c.png", "f/g/d.bin", "empty", "e.svg"):
            server.put(path, b"" if path == "empty" else b"0123456789")
        yield server


def test_the_native_answers(api: Gateway) -> None:
    etag = api.get("a.txt").headers["etag"]
    kind, form = multipart(('form-data; name="a"; filename="b"', b"x"))
    statuses = {
        **{
            head("GET", f"/file?path={path}"): 200
            for path in ("a.txt", "empty", "f/b.html", "e.svg")
        },
        head("HEAD", "/file?path=a.txt"): 200,
        head("GET", "/file?path=a.txt", "Range: bytes=2-4"): 206,
        head("GET", "/file?path=a.txt", "Range: bytes=-4"): 206,
        head("GET", "/file?path=a.txt", "Range: bytes=0-1,4-5"): 206,
        head("GET", "/file?path=a.txt", "Range: bytes=90-"): 416,
        head("GET", "/file?path=a.txt", f"If-None-Match: {etag}"): 304,
        head("HEAD", "/file?path=a.txt", f"If-None-Match: {etag}"): 304,
        head("GET", "/file?path=a.txt", 'If-Match: "x"'): 412,
        head("GET", "/file?path=a.txt", "User-Agent: curl/8", "X-Request-ID: a1"): 200,
        head("GET", "/file?path=none"): 404,
        head("HEAD", "/file?path=none"): 404,
        head("GET", "/file?path=none", "User-Agent: curl/8"): 404,
        head("GET", "/file"): 400,
        head("GET", "/file?path=%ff"): 400,
        head("GET", "/nowhere"): 404,
        head("PATCH", "/file?path=a.txt"): 405,
        put("/file?path=new"): 200,
        put("/file?path=new", "Expect: 100-continue"): 200,
        put("/files?path=new", method="POST"): 201,
        put("/file?path=new", f"Content-Type: {kind}", body=form): 200,
        put("/file?path=new", "Content-Encoding: gzip"): 415,
        put("/file?path=new", "Content-Range: bytes 0-0/5"): 400,
        put("/file?path=new", 'If-Match: "x"'): 412,
        head("DELETE", "/file?path=never"): 404,
        head("GET", "/files"): 200,
        head("GET", "/files?prefix=f/&limit=1"): 200,
        head("HEAD", "/files"): 200,
        head("GET", "/files?limit=x"): 400,
    }
    assert found_in(api.port, statuses) == []
    too_large = head("PUT", "/file?path=new", "Content-Length: 200000")
    for sent, status in (
        (too_large, 413),
        (head("PUT", "/file?path=new", "Content-Length: 10"), 408),
        (head("DELETE", "/file?path=f/g/d.bin"), 204),
        (head("GET", "/file?path=a.txt", "Connection: close"), 200),
        (head("GET", "/file?path=a.txt", "X: " + "y" * 20_000), 431),
        (head("GET", "/file?path=" + "y" * 9000), 414),
        (b"GET /file?path=a.txt HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ):
        answer = ask(api.port, sent)
        assert answer.split(b" ")[1] == b"%d" % status
        assert notes(sent, answer) == []


LIMITS = """
[embedded]
folder = "store"
[limits]
requests_per_s = 0.001
burst = 3
connections_per_address = 2
head_timeout_s = 1
[quota]
prefixes = ["small/ 1 -"]
folder = "quota"
"""


def test_answers_about_limits(tmp_path: Path) -> None:
    with running(gateway(tmp_path, settings=LIMITS)) as limited:
        for sent, status in (
            (put("/file?path=small/a", body=b"xy"), 507),
            (head("GET", "/file?path=none"), 404),
            (head("GET", "/file?path=none"), 404),
            (head("GET", "/file?path=none"), 429),
            (head("GET", "/files"), 429),
            (b"GET /file?path=late HTTP/1.1\r\n", 408),
        ):
            answer = ask(limited.port, sent)
            assert answer.split(b" ")[1] == b"%d" % status, answer
            assert notes(head("GET", "/file") if status == 408 else sent, answer) == []
        with (
            socket.create_connection(("127.0.0.1", limited.port)) as first,
            socket.create_connection(("127.0.0.1", limited.port)) as second,
        ):
            for held in (first, second):
                held.sendall(head("GET", "/file?path=none"))
                assert read_answer(held, b"GET").split(b" ")[1] == b"429"
                held.sendall(b"GET /")
            with socket.create_connection(("127.0.0.1", limited.port), timeout=20) as third:
                answer = read_answer(third, b"GET")
            assert answer.split(b" ")[1] == b"503", answer
            assert notes(head("GET", "/file"), answer) == []


def test_answers_about_how_it_is(api: Gateway) -> None:
    targets = [
        *("/status", "/status?detail=full", "/status/", "/debug/vars", "/metrics"),
        *("/health/live", "/health/ready", "/alive", "/status/events", "/blobs"),
    ]
    page = api.request("GET", "/status/").body.decode()
    targets += [
        f"/status/{name}" for name in re.findall('(?:src|href)="([a-z_-]+[.][a-z]+)"', page)
    ]
    assert len(targets) > 11
    statuses = {head("GET", target): 200 for target in targets if "events" not in target}
    assert found_in(api.port, statuses) == []
    sent = head("GET", "/status/events")
    assert notes(sent, ask(api.port, sent)) == []
    assert (
        found_in(api.port, {head("GET", "/status/nothing"): 404, head("PUT", "/metrics"): 405})
        == []
    )


def test_answers_about_blobs(api: Gateway) -> None:
    kept = ask(api.port, put("/upload", method="POST", body=b"blob"))
    assert notes(put("/upload", method="POST", body=b"blob"), kept) == []
    found = re.search("[0-9a-f]{32,64}", kept.decode())
    assert found is not None, kept
    statuses = {
        head("GET", f"/blob/{found[0]}"): 200,
        head("HEAD", f"/blob/{found[0]}"): 200,
        head("GET", f"/fetch/{found[0]}"): 200,
        head("GET", f"/fetch/{found[0]}.png"): 200,
        head("GET", f"/blob/{'0' * len(found[0])}"): 404,
        head("GET", "/blob/x"): 404,
        put(f"/blob/{found[0]}", method="POST", body=b"blob"): 200,
    }
    assert found_in(api.port, statuses) == []


def test_answers_of_the_face_for_paths(tmp_path: Path) -> None:
    settings = "[server]\nfaces = ['paths']\n"
    with running(gateway(tmp_path, "--store", "store", settings=settings)) as site:
        for path in ("/a.txt", "/f/b.txt"):
            assert site.request("PUT", path, b"x").status == 201
        statuses = {
            head("GET", "/a.txt"): 200,
            head("HEAD", "/a.txt"): 200,
            head("GET", "/f/"): 200,
            head("GET", "/f"): 301,
            head("GET", "/"): 200,
            head("GET", "/none"): 404,
            head("GET", "/__index__/"): 200,
            head("GET", "/__readme.txt"): 200,
            head("OPTIONS", "/"): 200,
            head("PROPFIND", "/f/", "Depth: 1", "Content-Length: 0"): 207,
            head("PROPFIND", "/", "Depth: infinity", "Content-Length: 0"): 403,
            put("/new.txt"): 201,
            put("/a.txt", 'If-Match: "x"'): 412,
            head("DELETE", "/none"): 404,
            head("MOVE", "/none", "Destination: /b"): 404,
            head("COPY", "/a.txt", "Destination: /new.txt"): 204,
            head("COPY", "/a.txt", "Destination: /a.txt"): 400,
            head("LOCK", "/a.txt"): 405,
        }
        assert found_in(site.port, statuses) == []


def test_answers_about_objects(tmp_path: Path) -> None:
    objstore = Objstore(tmp_path, None)
    with running(objstore.gateway):
        at = "/api/v1"
        statuses = {
            **{head("GET", f"{at}/{name}"): 200 for name in ("ping", "id", "version", "stats")},
            put(f"{at}/put", f"X-Meta-ID: {ID}", method="POST"): 200,
            head("GET", f"{at}/get/{ID}"): 200,
            head("HEAD", f"{at}/get/{ID}"): 200,
            head("GET", f"{at}/get/{ID}", "Range: bytes=0-0"): 206,
            head("GET", f"{at}/get/01ARZ3NDEKTSV4RRFFQ69G5FAX"): 404,
            head("GET", f"{at}/get/x"): 404,
        }
        assert found_in(objstore.port, statuses) == []


async def test_refusals_and_other_origins() -> None:
    cors = Cors(["https://a.test"], ["GET", "PUT"], ["ETag"], 60)
    bearer = "Authorization: Bearer "
    preflight = ["Origin: https://a.test", "Access-Control-Request-Method: PUT"]
    for by_short_way in (False, True):
        async with serving(
            by_short_way, rules=RULES, cors=cors, faces=("native", "paths")
        ) as served:

            async def raw(sent: bytes, served: object = served) -> bytes:
                return await served.exchange([sent])  # type: ignore[attr-defined, no-any-return]

            for sent, status in {
                head("GET", "/a.txt"): 401,
                head("GET", "/file?path=a.txt"): 401,
                head("GET", "/a.txt", bearer + "wrong"): 401,
                head("GET", "/a.txt", bearer + "reader-of-a-folder"): 403,
                head("GET", "/a.txt", bearer + "reader-of-all", "Origin: https://a.test"): 200,
                head("GET", "/a.txt", bearer + "reader-of-all", "Origin: https://b.test"): 200,
                head("OPTIONS", "/a.txt", *preflight): 204,
                head("OPTIONS", "/a.txt", "Origin: https://b.test", preflight[1]): 403,
            }.items():
                closing = sent[:-2] + b"Connection: close\r\n\r\n"
                answer = await raw(closing)
                assert answer.split(b" ")[1] == b"%d" % status
                assert notes(closing, answer) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Unreachable("a:1", "refused"), 504),
        (errors.StoreFull("a:1", "no memory"), 507),
        (errors.PathTaken("file:///a", "b", "a folder has that name"), 409),
        (errors.CannotList("a", "b"), 501),
        (errors.Corrupt("a:1", b"k", "x", "y"), 500),
        (ValueError("secret"), 500),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_answers_about_what_stores_say(error: Exception, status: int) -> None:
    async with test_protocol.serving(ServerSettings()) as face:
        face.store.error = error
        for sent in (
            head("GET", "/file?path=a"),
            head("HEAD", "/file?path=a"),
            put("/file?path=a"),
        ):
            answer = await asyncio.to_thread(ask, face.port, sent)
            assert answer.split(b" ")[1] == b"%d" % status
            assert notes(sent, answer) == []
