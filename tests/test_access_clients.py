"""Whoever asks a gateway that wants a token: other gateways, sfss put, simple_client.py, curl and
WebDAV clients; and what is said at a start.
"""

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from sfss.config_reading import load
from sfss.grants import write_token
from sfss.worker import warn_of_openness
from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    binary,
    gateway,
    running,
    wait_until,
)

TOKEN = "sfss_a-token-of-the-tests"
OWN = {"Authorization": f"Bearer {TOKEN}"}
LINE = write_token(TOKEN, "tests", ["read", "write", "delete", "list"], [], "")
PART = "sfss_a-token-for-some-paths"
LINE_OF_PART = write_token(PART, "part", ["read", "write", "delete", "list"], ["some/"], "")
CLOSED = f"[access]\nanonymous = []\ntokens = ['{LINE}', '{LINE_OF_PART}']\n"
BODY = b"a file of somebody"


def closed(folder: Path, *faces: str) -> Gateway:
    """Return a gateway (not started) where nobody may do anything without a token."""
    settings = f"[server]\nfaces = {list(faces)}\naccess_log = true\n{CLOSED}"
    return gateway(folder, "--store", "store", settings=settings)


@pytest.fixture(name="site", scope="module")
def closed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(closed(tmp_path_factory.mktemp("closed"), "native", "paths", "blobs")) as server:
        yield server
        assert TOKEN not in server.output()


def tree(folder: Path, child: str, token: str) -> Gateway:
    """Return a gateway (not started) over a folder and a ``child``."""
    settings = (
        "[server]\nfaces = ['paths', 'status']\n[cluster]\nkind = 'replicated'\n"
        "[replicated]\nplacement = 'mirror'\nfirst_decides = true\nwrite_quorum = 1\n"
        f"read_mode = 'local'\nstraggler_ms = 10000\nstores = ['file:{folder}/files', '{child}']\n"
        f"cooling_s = 0.2\nowed_folder = '{folder}/owed'\n"
    )
    return gateway(folder, settings=settings, environ={"SFSS_WEBDAV_TOKEN": token})


def test_a_child_that_wants_a_token(site: Gateway, tmp_path: Path) -> None:
    child, at_child = f"http://{site.address}/", "/tree/a.txt"
    with running(tree(tmp_path, child, "wrong-token-of-the-tests")) as parent:
        put = parent.request("PUT", at_child, BODY, {"Accept": "application/json"})
        assert put.status == 201
        assert "401" in put.json()["stores"][child]
        assert "token" not in parent.output().replace("SFSS_WEBDAV_TOKEN", "")
        assert site.request("GET", at_child, None, OWN).status == 404
    parent = tree(tmp_path, child, TOKEN)
    with running(parent):
        # What it has missed it gets, now that the token is right.
        wait_until(lambda: site.request("GET", at_child, None, OWN).body == BODY, "it is there")
        put = parent.request("PUT", "/tree/b.txt", BODY, {"Accept": "application/json"})
        assert put.json()["stores"][child] == "stored"
        (tmp_path / "files" / "tree" / "b.txt").unlink()
        assert parent.request("GET", "/tree/b.txt").body == BODY
        assert parent.request("DELETE", at_child).status == 204
        wait_until(lambda: site.request("GET", at_child, None, OWN).status == 404, "it is gone")
        assert TOKEN not in parent.output()


def test_a_blob_server_that_wants_a_token(site: Gateway, tmp_path: Path) -> None:
    settings = (
        "[server]\nfaces = ['upload', 'fetch']\n[cluster]\nkind = 'replicated'\n[replicated]\n"
        f"placement = 'mirror'\nstores = ['blobs:http://{site.address}/']\n"
        f"owed_folder = '{tmp_path}/owed'\n"
    )
    environ = {"SFSS_WEBDAV_TOKEN": TOKEN}
    with running(gateway(tmp_path, settings=settings, environ=environ)) as parent:
        blob_id = parent.request("POST", "/upload", BODY).json()["id"]
        assert parent.request("GET", f"/fetch/{blob_id}").body == BODY
        assert site.request("GET", f"/blob/{blob_id}", None, OWN).body == BODY


def run(command: list[str], folder: Path, token: str | None = TOKEN) -> tuple[int, str]:
    """Run a client and return how it ended, and all that it has written."""
    environ = {**PYTHON_ENVIRON, **({} if token is None else {"SFSS_TOKEN": token})}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("face", ["native", "paths"])
def test_sfss_put_shows_its_token(site: Gateway, tmp_path: Path, face: str) -> None:
    (tmp_path / "a").write_bytes(BODY)
    (tmp_path / "large").write_bytes(BODY * 20_000)
    put = [*SFSS, "put", "--to", site.url, "--face", face, "--path", face, "--tries", "1"]
    for token in (None, "wrong"):
        status, said = run([*put, "a"], tmp_path, token)
        assert (status, "401" in said) == (1, True)
    assert run([*put, "a", "large"], tmp_path)[0] == 0
    assert run([*put, "--check", "a", "large"], tmp_path)[0] == 0
    assert site.request("GET", f"/{face}/large", None, OWN).body == BODY * 20_000
    assert run([*put, "--delete", "a", "large"], tmp_path)[0] == 0
    assert site.request("GET", f"/{face}/a", None, OWN).status == 404
    assert run([*put, "a"], tmp_path, "two words")[0] == 2


class Elsewhere(BaseHTTPRequestHandler):
    """A server of somebody else, which notes what it is told."""

    told: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        """Answer with a file."""
        self.told.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_sfss_put_shows_its_token_to_nobody_else(site: Gateway, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        thread = Thread(target=other.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{other.server_port}/fetched.txt"
            assert run([*SFSS, "put", "--to", site.url, url], tmp_path)[0] == 0
        finally:
            other.shutdown()
            thread.join()
    assert Elsewhere.told == [None]
    assert site.request("GET", "/fetched.txt", None, OWN).body == BODY


def test_simple_client_shows_its_token(site: Gateway, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(BODY)
    client = [sys.executable, str(CHECKOUT / "simple_client.py"), "--port", str(site.port)]
    at_a = [*client, "--path", "simple/a", "--filepath"]
    status, said = run([*at_a, "a"], tmp_path, None)
    assert (status, "401" in said) == (1, True)
    assert run([*at_a, "a"], tmp_path)[0] == 0
    assert run([*at_a, "c", "--method", "GET"], tmp_path)[0] == 0
    assert (tmp_path / "c").read_bytes() == BODY
    assert (
        run([*client, "--recursive", "--filepath", "folder", "--path", "simple"], tmp_path)[0] == 0
    )
    assert run([*client, "--path", "simple/b", "--method", "DELETE"], tmp_path)[0] == 0
    assert run([*client, "--benchmark", "4", "--concurrency", "2"], tmp_path)[0] == 0
    assert run([*at_a, "a"], tmp_path, "two words")[0] == 1


@pytest.mark.parametrize(
    ("token", "folder"), [(TOKEN, "rclone"), (PART, "some"), (PART, "some/of/it")]
)
def test_curl_and_rclone_bring_it_as_a_password(
    site: Gateway, tmp_path: Path, token: str, folder: str
) -> None:
    (tmp_path / "a").write_bytes(BODY)
    curl = [binary("curl"), "-sS", "-f", "-u", f"anybody:{token}"]
    assert run([*curl, "-T", "a", f"{site.url}/{folder}/a"], tmp_path)[0] == 0
    assert site.request("GET", f"/{folder}/a", None, OWN).body == BODY
    rclone = binary("rclone")
    hidden = subprocess.run([rclone, "obscure", token], capture_output=True, text=True, check=True)
    login = ["--webdav-url", site.url, "--webdav-user", "x", "--webdav-pass", hidden.stdout.strip()]
    copy = [rclone, "--config", "/dev/null", *login, "copy"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(BODY)
    status, said = run([*copy, "folder", f":webdav:{folder}/new"], tmp_path)
    assert status == 0, said
    assert site.request("GET", f"/{folder}/new/b", None, OWN).body == BODY
    wrong = [rclone, "--config", "/dev/null", "--webdav-url", site.url, "--retries", "1", "ls"]
    assert run([*wrong, f":webdav:{folder}"], tmp_path)[0] != 0


NETWORK = "[server]\nhost = '0.0.0.0'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (NETWORK, ["nobody may write at 0.0.0.0:8255", "sfss token"]),
        (NETWORK + f"[access]\ntokens = ['{LINE}']", []),
        (
            NETWORK + "[access]\nopen_to_the_network = ['write']",
            ["WHOEVER REACHES 0.0.0.0:8255 MAY WRITE WITHOUT A TOKEN"],
        ),
        (NETWORK + "faces = ['metrics']", []),
    ],
)
def test_what_is_said_at_a_start(
    text: str, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        warn_of_openness(load(text))
    assert len(caplog.records) == (1 if words else 0)
    for word in words:
        assert word in caplog.text
        assert caplog.records[0].levelno == logging.WARNING


def test_a_reload_takes_a_token_away(tmp_path: Path) -> None:
    with running(closed(tmp_path, "native")) as server:
        assert server.request("GET", "/files", None, OWN).status == 200
        (config,) = tmp_path.glob("*.toml")
        config.write_text(config.read_text().replace(f"'{LINE}', ", ""))
        server.send(signal.SIGHUP)
        wait_until(lambda: server.request("GET", "/files", None, OWN).status == 401, "no token")
