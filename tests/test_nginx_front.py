"""``sfss nginx front``: a real nginx with what it writes, before real gateways."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from urllib.parse import quote

import pytest

from tests.servers import Gateway, binary, free_port, nginx, running


class Front(Gateway):
    """An nginx in front of gateways, with the requests that a gateway has."""


def front(folder: Path, *addresses: str, options: Sequence[str] = ()) -> Front:
    """Return a front (not started) before the gateways at ``addresses``."""
    port = free_port()
    places = ["--listen", f"127.0.0.1:{port}", "--work", str(folder / f"nginx-{port}")]
    behind = [word for address in addresses for word in ("--gateway", address)]
    server = nginx(folder, port, "front", *places, *behind, *options)
    return Front(server.command, server.port, server.folder)


@pytest.fixture
def proxy(tmp_path: Path, gateway: Gateway) -> Iterator[Front]:
    with running(front(tmp_path, gateway.address)) as server:
        yield server


def test_a_file_goes_through_both_ways(proxy: Front, gateway: Gateway) -> None:
    path = "front/a b+ü%.txt"
    stored = proxy.put(path, b"0123456789")
    assert stored.status == 200
    assert gateway.get(path).body == b"0123456789"
    read = proxy.get(path)
    assert (read.status, read.body) == (200, b"0123456789")
    assert read.headers["etag"] == stored.headers["etag"]
    target = f"/file?path={quote(path)}"
    assert proxy.request("HEAD", target).headers["content-length"] == "10"
    part = proxy.request("GET", target, headers={"Range": "bytes=-3"})
    assert (part.status, part.body) == (206, b"789")
    not_modified = proxy.request("GET", target, headers={"If-None-Match": stored.headers["etag"]})
    assert not_modified.status == 304
    created = proxy.request("POST", f"/files?path={quote('front/new')}", b"posted")
    assert (created.status, created.headers["location"]) == (201, "/file?path=front/new")
    assert proxy.request("DELETE", target).status == 204
    assert proxy.get(path).status == 404
    assert proxy.request("GET", "/status").json()


def test_bodies_of_any_size_come_back_whole(proxy: Front) -> None:
    for size in (0, 1, 70_000, 2 * 1024 * 1024):
        body = os.urandom(size)
        assert proxy.put("front/large", body).status == 200
        assert proxy.get("front/large").body == body
        pieces = iter([body[:1000], body[1000:]])
        target = "/file?path=front/pieces"
        assert proxy.request("PUT", target, pieces).status == 200
        assert proxy.get("front/pieces").body == body


def test_what_sfss_refuses_is_refused_before_it_has_all_come(proxy: Front, tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(bytes(16 * 1024 * 1024))
    command = [binary("curl"), "-sS", "-T", str(tmp_path / "huge"), "-w", "%{http_code}"]
    finished = subprocess.run(
        [*command, f"{proxy.url}/file?path=front/huge"], capture_output=True, text=True, check=True
    )
    assert "too large" in finished.stdout
    assert finished.stdout.endswith("413")


def test_reads_go_round_a_gateway_that_is_down(tmp_path: Path, gateway: Gateway) -> None:
    gateway.put("front/read", b"body")
    nobody = f"127.0.0.1:{free_port()}"
    with running(front(tmp_path, nobody, gateway.address)) as server:
        assert {server.get("front/read").status for _ in range(20)} == {200}


class _Breaking(ThreadingTCPServer):
    """Counts requests, and closes instead of an answer: whether it was done nobody knows."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Break)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Break(BaseRequestHandler):
    server: _Breaking

    def handle(self) -> None:
        received = b""
        while not received.partition(b"\r\n\r\n")[1] and (block := self.request.recv(65_536)):
            received += block
        if received:
            self.server.requests.append(received)


@pytest.fixture
def breaking() -> Iterator[list[_Breaking]]:
    """Two gateways that break off."""
    servers = [_Breaking(), _Breaking()]
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("DELETE", 1), ("PUT", 1), ("POST", 1)])
def test_no_change_is_sent_to_two_gateways(
    tmp_path: Path, breaking: list[_Breaking], method: str, times: int
) -> None:
    with running(front(tmp_path, *(server.address for server in breaking))) as server:
        body = None if method in ("GET", "DELETE") else b""
        assert server.request(method, "/file?path=a", body).status == 502
    assert sum(len(server.requests) for server in breaking) == times


def test_a_gateway_is_told_who_asks(tmp_path: Path, breaking: list[_Breaking]) -> None:
    with running(front(tmp_path, breaking[0].address)) as server:
        fields = {"X-Forwarded-For": "192.0.2.1", "Host": "files.example:8000"}
        server.request("DELETE", "/file?path=a%2Fb+c//%2e", headers=fields)
    head = breaking[0].requests[0].decode().split("\r\n")
    assert head[0] == "DELETE /file?path=a%2Fb+c//%2e HTTP/1.1"
    assert "X-Forwarded-For: 192.0.2.1, 127.0.0.1" in head
    assert "X-Forwarded-Proto: http" in head
    assert "Host: files.example:8000" in head


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 for itself, and its key."""
    files = tmp_path / "front.pem", tmp_path / "front.key"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    written = ["-out", str(files[0]), "-keyout", str(files[1])]
    command = [binary("openssl"), "req", "-x509", "-days", "2", *key, *subject, *written]
    subprocess.run(command, check=True, capture_output=True)
    return files


def test_with_a_certificate_tls_and_http_2_are_spoken(
    tmp_path: Path, gateway: Gateway, certificate: tuple[Path, Path]
) -> None:
    options = ("--certificate", str(certificate[0]), "--key", str(certificate[1]))
    (tmp_path / "file").write_text("over TLS")
    with running(front(tmp_path, gateway.address, options=options)) as server:
        target = f"https://127.0.0.1:{server.port}/file?path=front/tls"
        curl = [binary("curl"), "-sS", "--fail", "--cacert", str(certificate[0]), "--http2"]
        subprocess.run([*curl, "-T", str(tmp_path / "file"), target], check=True)
        version = subprocess.check_output([*curl, "-w", " %{http_version}", target], text=True)
    assert version == "over TLS 2"
