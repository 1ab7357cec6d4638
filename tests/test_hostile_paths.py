"""Paths that want to lead out of a folder of plain files, through a real gateway, byte by byte.

Whatever is asked for, nothing outside the folder is read, written or removed: canaries lie there,
and links to them inside. No answer is a bug's, and the gateway goes on.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import DEADLINE_S, Gateway, gateway, running

CANARY = b"canary: nobody may read this"
WRITTEN = b"written by a hostile request"

FIELDS = b"Host: x\r\nConnection: close\r\n"

SETTINGS = """\
[server]
workers = 2
faces = ["native", "status", "paths"]
[cluster]
kind = "replicated"
max_file_size = 65536
[replicated]
placement = "mirror"
stores = ["file:inside/files"]
owed_folder = "owed"
"""

CLIMBS = [
    b"../canary",
    b"../../canary",
    b"a/../../canary",
    b"a/b/../../../canary",
    b"./../canary",
    b".../canary",
    b"..",
    b".",
    b"../",
    b"a/..",
    b"a/.",
    b"%2e%2e/canary",
    b"%2E%2E%2Fcanary",
    b"..%2fcanary",
    b"..%2Fcanary",
    b"a%2f..%2f..%2fcanary",
    b"%252e%252e/canary",
    b"%252e%252e%252fcanary",
    b"..%252fcanary",
    b"%c0%ae%c0%ae/canary",
    b"%c0%ae%c0%ae%c0%afcanary",
    b"%e0%80%ae%e0%80%ae/canary",
    b"..%c0%afcanary",
    b"%uff0e%uff0e/canary",
    b"%ef%bc%8e%ef%bc%8e/canary",
    b"..\\canary",
    b"..%5ccanary",
    b"..%5c..%5ccanary",
    b"a\\..\\..\\canary",
    b"%2e%2e%5ccanary",
    b"..;/canary",
    b"..%3b/canary",
    b"..%00/canary",
    b"%00/../canary",
    b"canary%00",
    b"a%00b",
    b"%00",
    b"link%00.txt",
    b"..%0d%0a/canary",
    b"a%0ab",
    b"a%7fb",
    b"//canary",
    b"///etc/passwd",
    b"//etc/passwd",
    b"/etc/passwd",
    b"%2fetc%2fpasswd",
    b"%2Fetc/passwd",
    b"file:///etc/passwd",
    b"a//../../canary",
    b"a/.//../canary",
    b"a/./../../canary",
    b"/./canary",
    b".sfss",
    b".sfss/tmp/x",
    b".sfss/lock",
    b"%2esfss/lock",
    b".hidden/file",
    b"a/.hidden",
    b"~root/.profile",
    b"~",
    b"C:%5ccanary",
    b"con",
    b"canary::$DATA",
    b"link",
    b"link/canary",
    b"link/new",
    b"link/../canary",
    b"absolute",
    b"absolute/canary",
    b"to a file".replace(b" ", b"%20"),
    b"loop",
    b"loop/loop/canary",
    b"dangling",
    b"dangling/new",
    b"up/canary",
    b"up/files/link/canary",
    b"deep/down/link/canary",
    b"fifo",
    b"socket",
    b"device",
    b"/proc/self/environ",
    b"..%ff/canary",
    b"%ff",
    b"%80%80",
    b"%ed%a0%80/canary",
    b"%f4%90%80%80",
    b"%",
    b"%2",
    b"%zz/canary",
    b"a%",
    b"\xc3\xbc/\xff",
    b"\xff\xfe",
    b"a" * 255,
    b"a" * 256,
    b"%61" * 256,
    b"/".join([b"d" * 100] * 60),
    b"../" * 1000 + b"canary",
    b"%2e%2e%2f" * 500 + b"canary",
    b"a/" * 2000 + b"a",
    b"x" * 7000,
    b"%F0%9F%92%A9" * 300,
    b"a?path=../canary",
    b"a#../../canary",
    b"a;../canary",
    b"?path=../canary",
    b"",
]


@pytest.fixture(name="outside", scope="module")
def folder_of_canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is round the folder ``inside/files``: canaries everywhere."""
    folder = tmp_path_factory.mktemp("outside")
    files = folder / "inside" / "files"
    files.mkdir(parents=True)
    for place in (folder, folder / "inside", folder / "elsewhere", files / ".hidden"):
        place.mkdir(exist_ok=True)
        (place / "canary").write_bytes(CANARY)
    (files / ".hidden" / "file").write_bytes(CANARY)
    (files / "deep" / "down").mkdir(parents=True)
    (files / "a").mkdir()
    (files / "a" / ".hidden").write_bytes(CANARY)
    for link, target in {
        "link": "../../elsewhere",
        "absolute": str(folder / "elsewhere"),
        "to a file": "../canary",
        "loop": "loop",
        "dangling": "../../elsewhere/dangling",
        "up": "..",
        "deep/down/link": "../../../..",
    }.items():
        (files / link).symlink_to(target)
    os.mkfifo(files / "fifo")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        os.chdir(files)
        listener.bind("socket")
    return folder


@pytest.fixture(name="site", scope="module")
def gateway_inside(outside: Path) -> Iterator[Gateway]:
    """A gateway over the folder in the midst of the canaries."""
    with running(gateway(outside, settings=SETTINGS)) as server:
        yield server


def state(outside: Path) -> dict[str, object]:
    """Return all that nobody may change: what is outside the folder, and hidden or no file in it.

    What the gateway writes for itself is left out.
    """
    files, own = outside / "inside" / "files", outside / "inside" / "files" / ".sfss"
    found: dict[str, object] = {}
    for place in [outside, *outside.rglob("*")]:
        name = str(place.relative_to(outside))
        if own in place.parents or place == own or name.startswith(("owed", "sfss-")):
            continue
        if name.startswith("python"):
            continue
        if place.is_symlink():
            found[name] = place.readlink()
        elif files in place.parents and not any(part.startswith(".") for part in place.parts):
            continue
        elif place.is_file():
            found[name] = place.read_bytes()
        else:
            found[name] = place.stat().st_mode
    return found


def talk(server: Gateway, request: bytes) -> bytes:
    """Return all that the gateway answers to ``request``, until it closes the connection."""
    with socket.create_connection((server.host, server.port), DEADLINE_S) as client:
        client.sendall(request)
        answer = bytearray()
        while piece := client.recv(65536):
            answer += piece
    return bytes(answer)


def targets(path: bytes) -> list[bytes]:
    """Return the request targets that ask for ``path``, on both faces and in absolute form."""
    return [
        b"/file?path=" + path.replace(b"&", b"%26").replace(b"#", b"%23"),
        b"/files?prefix=" + path,
        b"/" + path,
        b"/a/" + path,
        b"http://127.0.0.1/" + path,
        b"HTTP://elsewhere:99//" + path,
        path,
        b"/" + path + b"/",
    ]


REQUESTS = {
    b"GET": b"",
    b"HEAD": b"",
    b"PUT": b"Content-Length: %d\r\n" % len(WRITTEN),
    b"POST": b"Content-Length: %d\r\n" % len(WRITTEN),
    b"DELETE": b"",
    b"PROPFIND": b"Depth: 1\r\n",
    b"MKCOL": b"",
    b"OPTIONS": b"",
}


@pytest.mark.parametrize("method", REQUESTS)
def test_no_path_leads_out(site: Gateway, outside: Path, method: bytes) -> None:
    before = state(outside)
    body = WRITTEN if method in (b"PUT", b"POST") else b""
    for path in CLIMBS:
        for target in targets(path):
            fields = FIELDS + REQUESTS[method]
            answer = talk(site, b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, fields, body))
            check(answer, b"%b %b" % (method, target[:100]))
    assert state(outside) == before
    assert "Traceback" not in site.output()


@pytest.mark.parametrize("method", [b"COPY", b"MOVE"])
def test_no_destination_leads_out(site: Gateway, outside: Path, method: bytes) -> None:
    before = state(outside)
    for path in CLIMBS:
        for source, destination in ((b"/good", b"/" + path), (b"/" + path, b"/copied")):
            put = b"PUT /good HTTP/1.1\r\n%bContent-Length: 4\r\n\r\ngood" % FIELDS
            assert talk(site, put).startswith(b"HTTP/1.1 201")
            for url in (destination, b"http://x" + destination):
                fields = b"%bDestination: %b\r\n" % (FIELDS, url)
                answer = talk(site, b"%b %b HTTP/1.1\r\n%b\r\n" % (method, source, fields))
                check(answer, b"%b %b to %b" % (method, source[:100], url[:100]))
    assert state(outside) == before
    assert "Traceback" not in site.output()


def check(answer: bytes, asked: bytes) -> None:
    """Assert that an answer is one, is no bug's, and has nothing in it that nobody may read."""
    assert answer.startswith(b"HTTP/1."), asked
    status = int(answer[9:12])
    assert 200 <= status < 500, (asked, answer[:300])
    assert CANARY not in answer, asked
    assert b"root:" not in answer, asked


def test_links_and_the_like_are_not_listed(site: Gateway) -> None:
    fields = FIELDS + b"Accept: application/json\r\n"
    unseen = (b"link", b"absolute", b"to a file", b"dangling", b"fifo", b"socket", b"canary")
    for target in (b"/", b"/deep/down/", b"/files?prefix=", b"/__index__/"):
        answer = talk(site, b"GET %b HTTP/1.1\r\n%b\r\n" % (target, fields))
        for name in unseen:
            assert b'"%b' % name not in answer
        assert b".hidden" not in answer
        assert b".sfss" not in answer
