"""TLS by setting: what is answered over it, what is refused, and a certificate that is renewed."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import uvloop

from sfss.checks import in_toml
from sfss.config_reading import load
from sfss.config_text import as_toml
from sfss.errors import SettingError
from sfss.listening import Listen
from sfss.web import tls
from tests.servers import (
    CHECKOUT,
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    binary,
    free_port,
    gateway,
    listens,
    running,
    wait_until,
)
from tests.web.client import head
from tests.web.test_fast import LAST, serving, undated

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


def openssl(folder: Path, *arguments: str) -> str:
    """Run openssl; return what it prints."""
    done = subprocess.run(
        [binary("openssl"), *arguments],
        cwd=folder,
        check=True,
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    return done.stdout


def issue(folder: Path, name: str) -> None:
    """Make ``name.pem`` and ``name.key``, for 127.0.0.1, of the authority in ``folder``."""
    options = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-subj", "/CN=localhost")
    openssl(folder, "req", *options, "-out", "request.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", "request.pem", *signing, "-out", f"{name}.pem")


@pytest.fixture(name="files", scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, two certificates, and what is none."""
    folder = tmp_path_factory.mktemp("certificates")
    options = ("-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-subj", "/CN=tests")
    openssl(folder, "req", "-x509", *options, "-out", "ca.pem", "-days", "2")
    issue(folder, "one")
    issue(folder, "two")
    locked = ("-aes256", "-passout", "pass:word")
    openssl(folder, "rsa", "-in", "one.key", *locked, "-out", "locked.key")
    (folder / "none.pem").write_text("nothing\n")
    return folder


def listening(files: Path, certificate: str = "one.pem", key: str = "one.key") -> Listen:
    """Return a listener with two of ``files``."""
    return Listen("127.0.0.1:1", ("native",), str(files / certificate), str(files / key))


def trusting(files: Path) -> ssl.SSLContext:
    """Return what a client trusts."""
    return ssl.create_default_context(cafile=str(files / "ca.pem"))


@pytest.fixture(name="secure", scope="module")
def one_gateway(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("secure")
    settings = f"""
[server]
faces = ["native", "paths"]
tls_certificate = {in_toml(str(files / "one.pem"))}
tls_key = {in_toml(str(files / "one.key"))}
"""
    with running(gateway(folder, "--store", str(folder / "store"), settings=settings)) as server:
        yield server


def in_loop(make: Callable[[], asyncio.AbstractEventLoop], work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` in a loop of this kind."""
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(work)


async def over_tls(server: Any, files: Path, segments: list[bytes]) -> bytes:
    """Send ``segments`` over TLS and return all that comes back until the end."""
    loop = asyncio.get_running_loop()
    options = tls.options_for(tls.context_of(listening(files)))
    bound = await loop.create_server(server, "127.0.0.1", 0, **options)
    port = bound.sockets[0].getsockname()[1]
    client = trusting(files)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    for segment in segments:
        writer.write(segment)
        await writer.drain()
        for _ in range(40):
            await asyncio.sleep(0)
    answers = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()
    bound.close()
    return answers


@pytest.mark.parametrize("make_loop", LOOPS)
@pytest.mark.parametrize("by_short_way", [True, False])
def test_the_answers_are_those_of_http(
    files: Path, make_loop: Callable[[], asyncio.AbstractEventLoop], by_short_way: bool
) -> None:
    get, large = head("GET", "/file?path=a.txt"), head("GET", "/file?path=large")
    put = head("PUT", "/file?path=a.txt", "Content-Length: 3") + b"abc"
    part = head("GET", "/file?path=large", "Range: bytes=5-200000")
    segments = [get, get, large, large, put, get, get[:9], get[9:], part, get * 3, large * 2, LAST]

    async def compare() -> None:
        async with serving(True) as plain, serving(by_short_way) as secure:
            expected = await plain.exchange(segments)
            found = await over_tls(secure.runner.server, files, segments)
            assert undated(found) == undated(expected)
            assert found.count(b"HTTP/1.1 200 OK") == 13
            assert (secure.taken > 0) == by_short_way

    in_loop(make_loop, compare())


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_handshake_has_its_time(
    files: Path, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()
        async with serving(True) as gateway:
            with patch.object(tls, "HANDSHAKE_S", 0.1):
                options = tls.options_for(tls.context_of(listening(files)))
            server: Any = gateway.runner.server
            bound = await loop.create_server(server, "127.0.0.1", 0, **options)
            for sent in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
                with socket.create_connection(bound.sockets[0].getsockname()) as client:
                    client.setblocking(False)
                    await loop.sock_sendall(client, sent)
                    with_answer = loop.sock_recv(client, 100)
                    assert b"HTTP/" not in await asyncio.wait_for(with_answer, DEADLINE_S)
            bound.close()

    in_loop(make_loop, wait())


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_client_that_leaves_before_its_answer_harms_nobody(
    files: Path,
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leave() -> None:
        loop = asyncio.get_running_loop()
        async with serving(True) as gateway:
            options = tls.options_for(tls.context_of(listening(files)))
            server: Any = gateway.runner.server
            bound = await loop.create_server(server, "127.0.0.1", 0, **options)
            port = bound.sockets[0].getsockname()[1]
            for request in (
                head("PUT", "/file?path=a.txt", "Content-Length: 9") + b"abc",
                head("GET", "/file?path=large") * 5,
            ):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(files))
                writer.write(request)
                await writer.drain()
                writer.close()
            bound.close()
            get = await gateway.exchange([LAST])
            assert get.endswith(b"0123456789")

    in_loop(make_loop, leave())
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize(("version", "taken"), [("1_1", False), ("1_2", True), ("1_3", True)])
def test_old_versions_are_refused(secure: Gateway, version: str, taken: bool) -> None:
    done = subprocess.run(
        [binary("openssl"), "s_client", "-connect", secure.address, f"-tls{version}", "-brief"],
        input=b"",
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (b"CONNECTION ESTABLISHED" in done.stderr) == taken


def test_real_clients_put_and_get(secure: Gateway, files: Path, tmp_path: Path) -> None:
    address, file = f"https://{secure.address}", tmp_path / "a.bin"
    file.write_bytes(os.urandom(1_500_000))
    curl = [binary("curl"), "--silent", "--show-error", "--fail", "--cacert", files / "ca.pem"]
    subprocess.run([*curl, "-T", file, f"{address}/a.bin"], check=True, timeout=DEADLINE_S)
    for _ in range(2):
        got = subprocess.run(
            [*curl, f"{address}/a.bin", f"{address}/a.bin"],
            check=True,
            capture_output=True,
            timeout=DEADLINE_S,
        )
        assert got.stdout == file.read_bytes() * 2
    readme = subprocess.check_output([*curl, f"{address}/__readme.txt"], timeout=DEADLINE_S)
    assert f"curl -T FILE {address}/".encode() in readme


def test_our_clients_trust_an_authority_of_your_own(
    secure: Gateway, files: Path, tmp_path: Path
) -> None:
    script = [sys.executable, str(CHECKOUT / "simple_client.py")]
    script += ["--https", "--port", str(secure.port)]
    put = [*SFSS, "put", "--to", f"https://{secure.address}"]
    content = os.urandom(300_000)
    (tmp_path / "b.bin").write_bytes(content)

    def run(command: list[str], authority: str | None) -> subprocess.CompletedProcess[bytes]:
        trusted = {} if authority is None else {"SSL_CERT_FILE": authority}
        environ = {**os.environ, **PYTHON_ENVIRON, **trusted}
        return subprocess.run(
            command, env=environ, cwd=tmp_path, capture_output=True, timeout=60, check=False
        )

    authority = str(files / "ca.pem")
    assert run([*script, "--path", "x", "--filepath", "b.bin"], authority).returncode == 0
    got = run([*script, "--method", "GET", "--path", "x"], authority)
    assert got.stdout == content
    assert run([*put, "b.bin"], authority).returncode == 0
    stranger = run([*script, "--method", "GET", "--path", "x"], None)
    assert stranger.returncode == 1
    assert b"is not trusted" in stranger.stderr
    assert run([*put, "b.bin"], None).returncode != 0


def serial(port: int, files: Path) -> int:
    """Return the number of the certificate that is shown at ``port``."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    with trusting(files).wrap_socket(connection, server_hostname="127.0.0.1") as secure:
        shown = secure.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)


def number_of(files: Path, name: str) -> int:
    """Return the number of the certificate in a file."""
    text = openssl(files, "x509", "-in", name, "-noout", "-serial")
    return int(text.strip().partition("=")[2], 16)


def test_a_reload_takes_a_renewed_certificate(files: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "site.pem", tmp_path / "site.key"
    plain_port, port = free_port(), free_port()

    def renew(name: str) -> None:
        certificate.write_bytes((files / f"{name}.pem").read_bytes())
        key.write_bytes((files / f"{name}.key").read_bytes())

    renew("one")
    (tmp_path / "site.toml").write_text(
        f"[embedded]\nfolder = 'store'\n"
        f"[[listen]]\naddress = '127.0.0.1:{plain_port}'\nfaces = ['native']\n"
        f"[[listen]]\naddress = '127.0.0.1:{port}'\nfaces = ['native']\n"
        f"tls_certificate = 'site.pem'\ntls_key = 'site.key'\n"
    )
    command = [*SFSS, "serve", "--config", "site.toml"]
    with running(Gateway(command, plain_port, tmp_path, PYTHON_ENVIRON)) as server:
        assert server.put("a", b"x").status == 200
        wait_until(lambda: listens(port), "the listener with TLS")
        assert serial(port, files) == number_of(files, "one.pem")
        assert f"https://127.0.0.1:{port}" in server.output()
        key.write_bytes((files / "two.key").read_bytes())
        server.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.output(), "a word on the wrong key")
        assert "site.key" in server.output()
        assert serial(port, files) == number_of(files, "one.pem")
        renew("two")
        server.send(signal.SIGHUP)
        wait_until(
            lambda: serial(port, files) == number_of(files, "two.pem"), "the renewed certificate"
        )
        assert server.get("a").body == b"x"
        with closing(server.connect()) as connection:
            connection.connect()


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("missing.pem", "one.key", r"tls_certificate: is '.*missing\.pem', which cannot be read"),
        ("one.pem", "missing.key", r"tls_key: is '.*missing\.key', which cannot be read"),
        (".", "one.key", "tls_certificate: is .*, which cannot be read"),
        ("none.pem", "one.key", r"tls_certificate: is '.*none\.pem', with no certificate"),
        ("one.key", "one.key", r"tls_certificate: is '.*one\.key', with no certificate"),
        ("one.pem", "none.pem", r"tls_key: is '.*none\.pem', with no key"),
        ("one.pem", "two.key", r"tls_key: is '.*two\.key', which is not the key of .*one\.pem"),
        ("one.pem", "locked.key", r"tls_key: is '.*locked\.key', which needs a password"),
    ],
)
def test_wrong_files_are_named(files: Path, certificate: str, key: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        tls.context_of(listening(files, certificate, key))


def test_a_wrong_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\ntls_certificate = 'no.pem'\ntls_key = 'no.key'\n")
    command = [*SFSS, "serve", "--config", "c.toml", "--port", str(free_port())]
    environ = {**os.environ, **PYTHON_ENVIRON}
    done = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert b"server.tls_certificate: is 'no.pem'" in done.stderr


LISTENER = "[[listen]]\naddress = 'a:1'\nfaces = ['native']\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\ntls_certificate = 'a'", r"server\.tls_key: is missing"),
        ("[server]\ntls_key = 'a'", r"server\.tls_certificate: is missing"),
        (f"{LISTENER}tls_key = 'a'", r"listen\.tls_certificate: is missing"),
        (f"{LISTENER}tls_key = ''", r"listen\.tls_key: is \"\""),
        (f"{LISTENER}tls_keys = 'a'", r"did you mean tls_key"),
        (f"[server]\ntls_certificate = 'a'\ntls_key = 'b'\n{LISTENER}", "say it there"),
    ],
)
def test_both_files_are_needed_and_where_they_count(text: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        load(text)


def test_they_are_printed_as_they_are_read() -> None:
    text = f"{LISTENER}tls_certificate = 'a'\ntls_key = 'b'\n"
    settings = load(text)
    assert settings.listen[0].url == "https://a:1"
    assert load(as_toml(settings)) == settings
