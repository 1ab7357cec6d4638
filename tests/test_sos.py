"""conf/sos.toml at work: two blob servers, an upload port and a fetch port, real processes."""

import hashlib
import json
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    Server,
    binary,
    free_port,
    gateway,
    node,
    node_folder,
    running,
    wait_until,
)

COOLING = "cooling_s = 0.2"
"""So that nobody takes a server that has come back for one that has failed a moment ago."""

CURL = {"User-Agent": "curl/7.88.1", "Accept": "*/*"}


@dataclass
class Sos:
    """The gateway at both of its ports, and its blob servers."""

    uploads: Gateway
    fetches: Gateway
    servers: list[Server]

    def upload(self, body: bytes, **fields: str) -> Answer:
        """Upload a body with header fields."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        return self.uploads.request("POST", "/upload", body, {**CURL, **headers})

    def fetch(self, name: str, method: str = "GET") -> Answer:
        """Fetch a blob."""
        return self.fetches.request(method, f"/fetch/{name}", None, CURL)

    def holders(self, blob_id: str) -> list[Server]:
        """Return the servers that have a blob, asked through a gateway over each alone."""
        return [each for each in self.servers if blob_id in keys_of(each)]


def keys_of(server: Server) -> str:
    """Return all keys of an ``sfss node``, as it lists them."""
    command = ["bash", "-c", f"exec 3<>/dev/tcp/{server.host}/{server.port}; {_LIST}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


_LIST = "printf 'lru_crawler metadump all\\r\\nquit\\r\\n' >&3; cat <&3"


def configured(folder: Path, servers: list[str]) -> tuple[Path, int, int]:
    """Write conf/sos.toml for other addresses; return it, and the ports for upload and fetch."""
    text = (CHECKOUT / "conf" / "sos.toml").read_text()
    upload, fetch = free_port(), free_port()
    stores = ", ".join(f'"{each}"' for each in servers)
    for pattern, new in (
        (r'^address = "127.0.0.1:9991"$', f'address = "127.0.0.1:{upload}"'),
        (r'^address = "127.0.0.1:9992"$', f'address = "127.0.0.1:{fetch}"'),
        (r'^address = "127.0.0.1:9993"$', f'address = "127.0.0.1:{free_port()}"'),
        (r"^stores = .*$", f"stores = [{stores}]"),
        (r"^owed_folder = .*$", f'owed_folder = "owed"\n{COOLING}'),
    ):
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count == 1, pattern
    config = folder / "sos.toml"
    config.write_text(text)
    return config, upload, fetch


@pytest.fixture(name="sos")
def two_blob_servers(tmp_path: Path) -> Iterator[Sos]:
    with ExitStack() as stack:
        servers = [stack.enter_context(running(node(tmp_path))) for _ in range(2)]
        config, upload, fetch = configured(tmp_path, [each.address for each in servers])
        command = [*SFSS, "serve", "--config", str(config)]
        uploads = Gateway(command, upload, tmp_path, PYTHON_ENVIRON)
        fetches = Gateway(command, fetch, tmp_path)
        yield Sos(stack.enter_context(running(uploads)), fetches, servers)
        assert "Traceback" not in uploads.output()


def sha1(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def curl(*arguments: str) -> str:
    """Return what curl prints."""
    command = [binary("curl"), "-s", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_the_transcript(sos: Sos, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n" * 40)
    blob_id = sha1(file.read_bytes())
    upload, fetch = f"{sos.uploads.url}/upload", f"{sos.fetches.url}/fetch"
    data = ("-X", "POST", "--data-binary", f"@{file}")
    said = curl(*data, "-H", "X-Mime-Type: text/plain", "-H", "x-orig-filename: passwd", upload)
    assert said == f'{{"id": "{blob_id}", "status": "OK", "size": 1280}}\n'
    assert curl(f"{fetch}/{blob_id}") == file.read_text()
    assert curl(f"{fetch}/{blob_id}.txt") == file.read_text()
    head = curl("-I", f"{fetch}/{blob_id}.txt").replace("\r", "")
    assert head.startswith("HTTP/1.1 200 OK\n")
    for line in (
        "Content-Type: text/plain",
        "X-Mime-Type: text/plain",
        "X-Orig-Filename: passwd",
        "Content-Length: 1280",
        f'ETag: "{blob_id}"',
    ):
        assert f"\n{line}\n" in head
    assert '"error"' in curl(f"{fetch}/{sha1(b'nothing')}")
    assert curl("-X", "POST", upload) == f'{{"id": "{sha1(b"")}", "status": "OK", "size": 0}}\n'


def test_each_port_does_one_thing(sos: Sos) -> None:
    blob_id = sos.upload(b"x").json()["id"]
    assert sos.uploads.request("GET", f"/fetch/{blob_id}").status == 404
    assert sos.fetches.request("POST", "/upload", b"y").status == 404
    assert sos.fetches.request("GET", "/blobs").status == 404
    assert sos.fetches.request("DELETE", f"/fetch/{blob_id}").status == 405
    assert sos.fetch(blob_id).status == 200


def test_both_servers_have_what_was_uploaded(sos: Sos) -> None:
    ids = [sos.upload(b"both %d" % number).json()["id"] for number in range(10)]
    wait_until(lambda: all(len(sos.holders(each)) == 2 for each in ids), "both have all")
    for server in sos.servers:
        server.kill()
        assert [sos.fetch(each).status for each in ids] == [200] * len(ids)
        server.start()
        wait_until(lambda: sos.fetch(sha1(b"absent")).status == 404, "both answer again")


def test_a_server_is_killed_during_uploads(sos: Sos) -> None:
    acknowledged: list[bytes] = []
    for number in range(60):
        if number == 20:
            sos.servers[0].kill()
        body = b"during %d" % number
        answer = sos.upload(body)
        assert answer.status == 200
        acknowledged.append(body)
    for body in acknowledged:
        assert sos.fetch(sha1(body)).body == body
    # The one that is down may have it: nobody can tell.
    unknown = sos.fetch(sha1(b"absent"))
    assert unknown.status == 504
    assert set(unknown.json()) == {"error"}
    sos.servers[0].start()
    wait_until(
        lambda: all(len(sos.holders(sha1(body))) == 2 for body in acknowledged),
        "the server that was down has got all",
    )
    assert sos.fetch(sha1(b"absent")).status == 404
    sos.servers[1].kill()
    assert {sos.fetch(sha1(body)).status for body in acknowledged} == {200}


def test_a_full_server_is_passed_over(sos: Sos) -> None:
    full, other = sos.servers
    sos.upload(b"before")
    size = (node_folder(full) / "data.mdb").stat().st_size
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    large = bytes(range(256)) * 4096
    answer = sos.upload(large, X_Name="large")
    assert (answer.status, answer.json()["id"]) == (200, sha1(large))
    assert sos.fetch(sha1(large)).body == large
    assert sos.holders(sha1(large)) == [other]
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: full in sos.holders(sha1(large)), "it has got it since there is room")
    other.kill()
    got = sos.fetch(sha1(large))
    assert (got.status, got.body, got.headers["x-name"]) == (200, large, "large")


def test_all_servers_are_full(sos: Sos) -> None:
    for server in sos.servers:
        size = (node_folder(server) / "data.mdb").stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    answer = sos.upload(bytes(1024 * 1024))
    assert answer.status == 507
    assert "is full" in answer.json()["error"]


def test_all_servers_are_down(sos: Sos) -> None:
    blob_id = sos.upload(b"kept").json()["id"]
    wait_until(lambda: len(sos.holders(blob_id)) == 2, "both have it")
    for server in sos.servers:
        server.kill()
    for answer in (sos.upload(b"lost"), sos.fetch(blob_id), sos.fetch(sha1(b"absent"))):
        assert answer.status == 504
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"error"}
    assert sos.fetch(blob_id, "HEAD").status == 504
    sos.servers[1].start()
    wait_until(lambda: sos.fetch(blob_id).body == b"kept", "one is back")


def test_a_blob_that_expires_is_not_taken_for_one_that_cannot_be_seen(sos: Sos) -> None:
    sos.servers[0].kill()
    blob_id = sos.upload(b"for ever").json()["id"]
    sos.servers[1].kill()
    sos.servers[0].start()
    wait_until(lambda: sos.upload(b"another").status == 200, "one is back")
    refused = sos.uploads.request("POST", "/upload?ttl=1", b"for ever", CURL)
    assert refused.status == 504
    sos.servers[1].start()
    wait_until(lambda: sos.fetch(blob_id).status == 200, "both are back")
    assert "expires" not in sos.fetch(blob_id).headers


def test_a_blob_server_that_others_mirror(tmp_path: Path) -> None:
    """What ``replicate`` of SOS does: list both, ask which are missing, copy those."""
    settings = "[server]\nfaces = ['blobs']\n"
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(running(gateway(tmp_path, "--store", name, settings=settings)))
            for name in ("one", "two")
        )
        for number in range(5):
            body = b"mirrored %d" % number
            fields = {"X-Number": str(number), "X-Mime-Type": "text/plain"}
            assert one.request("POST", f"/blob/{sha1(body)}", body, fields).status == 200
        for blob_id in one.request("GET", "/blobs").json():
            assert two.request("HEAD", f"/blob/{blob_id}").status == 404
            got = one.request("GET", f"/blob/{blob_id}")
            fields = {name: each for name, each in got.headers.items() if name.startswith("x-")}
            assert two.request("POST", f"/blob/{blob_id}", got.body, fields).status == 200
            copy = two.request("GET", f"/blob/{blob_id}")
            assert {**copy.headers, "date": ""} == {**got.headers, "date": ""}
            assert copy.body == got.body
        assert two.request("GET", "/blobs").json() == one.request("GET", "/blobs").json()


GROUPS = """
[[listen]]
address = "127.0.0.1:{port}"
faces = ["upload", "fetch", "blobs", "status"]
[server]
workers = 2
[cluster]
kind = "replicated"
[replicated]
placement = "groups"
shards = ["old {}", "new {} {}"]
write_quorum = 1
cooling_s = 0.2
owed_folder = "owed"
"""


@dataclass
class Grouped:
    """A gateway over two groups, of one server and of two."""

    site: Gateway
    nodes: list[Server]
    config: Path

    def upload(self, body: bytes) -> Answer:
        """Upload a body."""
        return self.site.request("POST", "/upload", body, CURL)

    def fetch(self, body: bytes) -> Answer:
        """Fetch what holds this body."""
        return self.site.request("GET", f"/fetch/{sha1(body)}", None, CURL)

    def holders(self, body: bytes) -> list[bool]:
        """Return which servers have it."""
        return [sha1(body) in keys_of(each) for each in self.nodes]

    def configure(self, more: str = "") -> None:
        """Write the settings, with ``more`` of them."""
        addresses = [each.address for each in self.nodes]
        self.config.write_text(GROUPS.format(*addresses, port=self.site.port) + more)

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
        return done.returncode, done.stdout


@pytest.fixture(name="grouped")
def two_groups(tmp_path: Path) -> Iterator[Grouped]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        config, port = tmp_path / "groups.toml", free_port()
        site = Gateway([*SFSS, "serve", "--config", str(config)], port, tmp_path, PYTHON_ENVIRON)
        grouped = Grouped(site, nodes, config)
        grouped.configure()
        stack.enter_context(running(site))
        yield grouped
        assert "Traceback" not in site.output()


def test_a_group_that_is_full_or_down_is_passed_over(grouped: Grouped) -> None:
    old, new, mirror = grouped.nodes
    assert grouped.upload(b"first").status == 200
    assert grouped.holders(b"first") == [True, False, False]
    size = (node_folder(old) / "data.mdb").stat().st_size
    resource.prlimit(old.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    large = bytes(range(256)) * 4096
    assert grouped.upload(large).status == 200
    wait_until(lambda: grouped.holders(large) == [False, True, True], "the others have it")
    assert [grouped.fetch(each).body for each in (b"first", large)] == [b"first", large]
    assert grouped.fetch(b"absent").status == 404
    old.kill()
    assert grouped.upload(b"second").status == 200
    answers = [grouped.fetch(each).status for each in (b"first", large, b"second", b"absent")]
    assert answers == [504, 200, 200, 504]
    new.kill()
    assert grouped.upload(b"third").status == 200
    assert grouped.fetch(b"third").status == 200
    mirror.kill()
    assert (grouped.upload(b"no").status, grouped.fetch(b"third").status) == (504, 504)
    old.start()
    assert grouped.site.request("GET", "/blobs").status == 504
    wait_until(lambda: grouped.upload(b"fourth").status == 200, "one is back")
    new.start()
    mirror.start()
    wait_until(lambda: grouped.holders(b"third") == [False, True, True], "it is mirrored")
    assert grouped.fetch(b"absent").status == 404


def test_a_group_that_is_only_read_by_a_setting(grouped: Grouped) -> None:
    grouped.upload(b"before")
    assert grouped.site.stop() == 0
    grouped.configure(f"read_only = ['{grouped.nodes[0].address}']\n")
    grouped.site.start()
    assert grouped.upload(b"after").status == 200
    wait_until(lambda: grouped.holders(b"after") == [False, True, True], "it is mirrored")
    assert grouped.fetch(b"before").body == b"before"
    gone = grouped.site.request("DELETE", f"/blob/{sha1(b'before')}", None, CURL)
    assert gone.status == 409
    assert grouped.site.request("DELETE", f"/blob/{sha1(b'after')}").status == 204
    assert grouped.fetch(b"after").status == 404


def test_a_group_is_repaired_by_itself(grouped: Grouped) -> None:
    assert grouped.tool("repair", "--min-copies", "1")[0] == 0
    grouped.upload(b"one copy")
    status, text = grouped.tool("repair", "--min-copies", "2")
    assert status == 1
    assert "old:\n1 files have fewer sound copies than --min-copies says" in text
    report = json.loads(grouped.tool("repair", "--json")[1])
    assert {name: each["keys"] for name, each in report.items()} == {"old": 1, "new": 0}


def test_groups_have_lists_of_debts_of_their_own(grouped: Grouped, tmp_path: Path) -> None:
    assert sorted(each.name for each in (tmp_path / "owed").iterdir()) == ["new", "old"]
    text = grouped.config.read_text()
    other = tmp_path / "other.toml"
    other.write_text(
        text.replace('"groups"', '"jump"').replace(str(grouped.site.port), str(free_port()))
    )
    done = subprocess.run(
        [*SFSS, "serve", "--config", str(other)],
        cwd=tmp_path,
        env=PYTHON_ENVIRON,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "of a cluster with another placement" in done.stderr
    grouped.config.write_text(text.replace('"new ', '"newer '))
    grouped.site.send(signal.SIGHUP)
    wait_until(lambda: "changes the groups" in grouped.site.output(), "that is refused")
    assert grouped.upload(b"still here").status == 200


def test_blobs_as_plain_files(tmp_path: Path) -> None:
    settings = """
    [server]
    faces = ["upload", "fetch", "blobs"]
    [cluster]
    kind = "replicated"
    max_file_size = 33554432
    [replicated]
    placement = "groups"
    shards = ["one file:one", "two file:two file:three"]
    write_quorum = 1
    """
    large = bytes(range(256)) * 80_000
    with running(gateway(tmp_path, settings=settings)) as site:
        for body in (large, b"small"):
            answer = site.request("POST", "/upload", body, {"X-Name": "n"})
            assert (answer.status, answer.json()["id"]) == (200, sha1(body))
            file = tmp_path / "one" / "blobs" / sha1(body)[:2] / sha1(body)
            assert file.read_bytes() == body
            got = site.request("GET", f"/fetch/{sha1(body)}")
            assert (got.body, got.headers["x-name"]) == (body, "n")
        part = site.request("GET", f"/fetch/{sha1(large)}", None, {"Range": "bytes=-5"})
        assert (part.status, part.body) == (206, large[-5:])
        # As other programs put files there.
        for folder, body, name in (("two", large[1:], large[1:]), ("one", b"wrong", b"right")):
            file = tmp_path / folder / "blobs" / sha1(name)[:2] / sha1(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
        assert site.request("GET", f"/fetch/{sha1(large[1:])}").body == large[1:]
        assert site.request("HEAD", f"/fetch/{sha1(large[1:])}").status == 200
        assert site.request("GET", f"/fetch/{sha1(b'right')}").status == 500
        assert site.request("POST", "/upload", b"right").status == 200
        assert site.request("GET", f"/fetch/{sha1(b'right')}").body == b"right"
        ids = sorted(map(sha1, (large, b"small", large[1:], b"right")))
        assert site.request("GET", "/blobs").json() == ids
        assert site.request("DELETE", f"/blob/{sha1(large[1:])}").status == 204
        assert site.request("GET", f"/fetch/{sha1(large[1:])}").status == 404
        assert "Traceback" not in site.output()
