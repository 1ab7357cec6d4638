"""Blob servers of SOS as stores of a gateway: beside servers of our own, and moved away from."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import (
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    Server,
    free_port,
    node,
    running,
    wait_until,
)
from tests.sos_server import folder_of, sos_server
from tests.test_sos import keys_of

SETTINGS = """
[[listen]]
address = "127.0.0.1:{port}"
faces = [{faces}]
[server]
workers = 2
[cluster]
kind = "replicated"
[replicated]
{stores}
write_quorum = 1
cooling_s = 0.2
owed_folder = "owed"
"""


def sha1(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@dataclass
class Site:
    """A gateway, and what it is over."""

    gateway: Gateway
    config: Path

    def configure(self, stores: str, faces: Sequence[str] = ("upload", "fetch", "blobs")) -> None:
        """Write the settings."""
        names = ", ".join(f'"{face}"' for face in faces)
        text = SETTINGS.format(port=self.gateway.port, faces=names, stores=stores)
        self.config.write_text(text)

    def upload(self, body: bytes, **fields: str) -> int:
        """Upload a body; return the status."""
        names = {name.replace("_", "-"): text for name, text in fields.items()}
        answer = self.gateway.request("POST", "/upload", body, names)
        assert answer.status != 200 or answer.json()["id"] == sha1(body)
        return answer.status

    def fetch(self, body: bytes) -> Answer:
        """Fetch what holds this body."""
        return self.gateway.request("GET", f"/fetch/{sha1(body)}")

    def delete(self, body: bytes) -> int:
        """Delete what holds this body; return the status."""
        return self.gateway.request("DELETE", f"/blob/{sha1(body)}").status

    def tool(self, *arguments: str) -> tuple[int, str]:
        """Run a command; return its exit status and what it prints."""
        done = subprocess.run(
            [*SFSS, *arguments, "--config", str(self.config)],
            cwd=self.config.parent,
            env=PYTHON_ENVIRON,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(name="site")
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A gateway that has to be configured and started."""
    config, port = tmp_path / "sos.toml", free_port()
    gateway = Gateway([*SFSS, "serve", "--config", str(config)], port, tmp_path, PYTHON_ENVIRON)
    try:
        yield Site(gateway, config)
    finally:
        gateway.kill()
    assert "Traceback" not in gateway.output()


def url(server: Server) -> str:
    return f"blobs:http://{server.address}/"


def has(server: Gateway, body: bytes) -> bool:
    return server.request("GET", f"/blob/{sha1(body)}").status == 200


def sfss_as_blob_server(folder: Path) -> Gateway:
    """Return a gateway (not started) that is one, on a port that nobody takes while it is down."""
    port, config = free_port(), folder / "blobs.toml"
    config.write_text("[server]\nfaces = ['blobs']\n")
    command = [*SFSS, "serve", "--config", str(config), "--port", str(port), "--store", "blobs"]
    return Gateway(command, port, folder, PYTHON_ENVIRON)


SERVERS: dict[str, Callable[[Path], Gateway]] = {
    "bare": sos_server,
    "sfss": sfss_as_blob_server,
}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_blob_server_and_a_node_mirror_each_other(site: Site, tmp_path: Path, kind: str) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(running(SERVERS[kind](tmp_path)))
        new = stack.enter_context(running(node(tmp_path)))
        raw = b"what a client of SOS has uploaded"
        fields = {"X-Mime-Type": "text/css", "X-Name": "raw"}
        assert old.request("POST", f"/blob/{sha1(raw)}", raw, fields).status == 200
        site.configure(f'placement = "groups"\nshards = ["all {url(old)} {new.address}"]')
        site.gateway.start()
        # It is shown as it came, and copied as it is.
        answer = site.fetch(raw)
        assert (answer.status, answer.body) == (200, raw)
        assert (answer.headers["content-type"], answer.headers["x-name"]) == ("text/css", "raw")
        assert site.tool("repair", "--min-copies", "2")[0] == 0
        assert sha1(raw) in keys_of(new)
        assert site.upload(b"both", X_Name="n") == 200
        wait_until(lambda: has(old, b"both") and sha1(b"both") in keys_of(new), "both have it")
        assert site.fetch(b"absent").status == 404
        # One of them is down, then the other.
        old.kill()
        assert site.upload(b"while old is down") == 200
        assert [site.fetch(each).status for each in (raw, b"both", b"while old is down")] == [
            200
        ] * 3
        assert site.fetch(b"absent").status == 504
        assert site.delete(b"both") == 204
        old.start()
        wait_until(lambda: has(old, b"while old is down"), "it is brought what it has missed")
        wait_until(lambda: site.fetch(b"absent").status == 404, "both answer")
        new.kill()
        assert site.upload(b"while new is down") == 200
        assert site.fetch(raw).headers["x-name"] == "raw"
        assert site.fetch(b"while new is down").body == b"while new is down"
        wait_until(lambda: site.fetch(b"both").status in (404, 504), "it has been told")
        new.start()
        wait_until(lambda: site.fetch(b"absent").status == 404, "both answer")
        assert site.fetch(b"both").status == 404
        # All of that outlives the gateway.
        assert site.gateway.stop() == 0
        site.gateway.start()
        bodies = (raw, b"while old is down", b"while new is down")
        assert [site.fetch(each).body for each in bodies] == list(bodies)
        assert site.fetch(b"both").status == 404
        wait_until(lambda: sha1(bodies[2]) in keys_of(new), "it is brought what it has missed")
        status, text = site.tool("repair", "--min-copies", "2")
        assert status == 0, text
        report = json.loads(site.tool("check", "--json")[1])
        assert report["all"]["keys"] >= 3
        status, text = site.tool("check")
        assert status == 0, text


def test_moving_away_from_sos(site: Site, tmp_path: Path) -> None:
    with ExitStack() as stack:
        mirrors = [stack.enter_context(running(sos_server(tmp_path))) for _ in range(2)]
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(2)]
        bodies = [b"of SOS %d" % number for number in range(10)]
        for body in bodies:
            for mirror in mirrors:
                mirror.request("POST", f"/blob/{sha1(body)}", body, {"X-Name": body.decode()})
        groups = [f"sos {url(mirrors[0])} {url(mirrors[1])}"]
        groups.append(f"new {nodes[0].address} {nodes[1].address}")
        first = f'placement = "groups"\nshards = {groups}\nread_only = ["{url(mirrors[0])}"]'
        site.configure(first)
        site.gateway.start()
        for body in bodies:
            assert (site.fetch(body).body, site.fetch(body).headers["x-name"]) == (
                body,
                body.decode(),
            )
        assert site.upload(b"new") == 200
        assert not any(has(mirror, b"new") for mirror in mirrors)
        assert site.delete(bodies[0]) == 409
        mirrors[0].kill()
        assert [site.fetch(body).status for body in bodies] == [200] * 10
        mirrors[0].start()
        # It is asked again some time after it has failed, and until then nobody knows.
        everything = sorted(sha1(body) for body in (*bodies, b"new"))
        wait_until(
            lambda: site.gateway.request("GET", "/blobs").json() == everything, "all is told"
        )


@pytest.mark.parametrize("options", [("--keeps-first",), ("--head", "--delete")])
def test_blob_servers_alone(site: Site, tmp_path: Path, options: Sequence[str]) -> None:
    with ExitStack() as stack:
        one, two = (stack.enter_context(running(sos_server(tmp_path, *options))) for _ in range(2))
        only_one, differs = b"on one server alone", b"with other fields on each"
        for server, name in ((one, "a"), (two, "b")):
            server.request("POST", f"/blob/{sha1(differs)}", differs, {"X-Name": name})
        one.request("POST", f"/blob/{sha1(only_one)}", only_one, {"X-Name": "n"})
        site.configure(f'placement = "mirror"\nstores = ["{url(one)}", "{url(two)}"]')
        site.gateway.start()
        bodies = [b"mirrored %d" % number for number in range(20)]
        assert [site.upload(body, X_Name="x") for body in bodies] == [200] * 20
        assert site.upload(b"for a while", Expires_In="1") == 200
        ids = sorted(map(sha1, [*bodies, only_one, differs]))
        wait_until(lambda: site.fetch(b"for a while").status == 404, "it has expired")
        assert site.gateway.request("GET", "/blobs").json() == ids
        assert site.fetch(only_one).headers["x-name"] == "n"
        assert site.tool("repair", "--min-copies", "2")[0] == 0
        assert has(two, only_one)
        assert json.loads(site.tool("check", "--json")[1])["status"] == 0
        assert site.fetch(differs).headers["x-name"] == "b"
        damaged = folder_of(one) / sha1(bodies[0])
        damaged.write_bytes(b"MIRRORED 0")
        assert site.fetch(bodies[0]).body == bodies[0]
        (folder_of(two) / sha1(bodies[1])).unlink()
        assert site.delete(bodies[2]) == 204
        # An upload of the same once more, with other fields: those of the first stay.
        assert site.upload(bodies[3], X_Name="y") == 200
        assert site.fetch(bodies[3]).headers["x-name"] == "x"
        site.tool("repair")
        assert has(two, bodies[1])
        left = sorted(set(ids) - {sha1(bodies[2])})
        assert site.gateway.request("GET", "/blobs").json() == left
        assert site.fetch(bodies[2]).status == 404
        assert has(one, bodies[2]) is ("--delete" not in options)
        large = bytes(range(256)) * 8_000
        assert site.upload(large) == 200
        wait_until(lambda: has(one, large) and has(two, large), "both have it")
        part = site.gateway.request(
            "GET", f"/fetch/{sha1(large)}", None, {"Range": "bytes=-1000000"}
        )
        assert (part.status, part.body) == (206, large[-1_000_000:])


def test_a_blob_server_beside_plain_files(site: Site, tmp_path: Path) -> None:
    with running(sos_server(tmp_path, "--keeps-first")) as server:
        raw, plain = b"as SOS has it", b"as another program has put it there"
        assert server.request("POST", f"/blob/{sha1(raw)}", raw, {"X-Name": "n"}).status == 200
        file = tmp_path / "one" / "blobs" / sha1(plain)[:2] / sha1(plain)
        file.parent.mkdir(parents=True)
        file.write_bytes(plain)
        site.configure(f'placement = "mirror"\nstores = ["{url(server)}", "file:one", "lmdb:two"]')
        site.gateway.start()
        assert [site.fetch(body).body for body in (raw, plain)] == [raw, plain]
        assert site.upload(b"uploaded", Expires_In="1000") == 200
        assert site.tool("repair", "--min-copies", "3")[0] == 0
        for _ in range(2):  # they agree, and go on to agree
            report = json.loads(site.tool("check", "--json")[1])
            assert (report["status"], report["keys"]) == (0, 3), report
            assert json.loads(site.tool("scrub", "--json")[1])["status"] == 0
        assert (tmp_path / "one" / "blobs" / sha1(raw)[:2] / sha1(raw)).read_bytes() == raw
        assert has(server, plain)
        assert site.upload(raw, X_Name="m") == 200
        assert site.fetch(raw).headers["x-name"] == "n"
        ids = sorted(map(sha1, (raw, plain, b"uploaded")))
        assert site.gateway.request("GET", "/blobs").json() == ids
        assert site.delete(plain) == 204
        assert site.delete(raw) == 204
        assert json.loads(site.tool("check", "--json")[1])["status"] == 0
        assert site.gateway.request("GET", "/blobs").json() == [sha1(b"uploaded")]
