"""conf/near-cache.toml at work: a local store before a bucket on a real S3 server."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import lmdb
import pytest

from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SECRET,
    SFSS,
    Gateway,
    S3Server,
    free_port,
    running,
    s3,
    wait_until,
)
from tests.shared_s3 import with_bucket

BUCKET = "my-bucket"
TOP = f"{BUCKET}/files"


def patience(server: S3Server, seconds: float, url: str = "") -> str:
    """Return settings for a bucket that is waited for; ``url`` instead of that of the server."""
    return f'{seconds}\nendpoint = "{url or server.url}"\nallow_http = true'


class Near:
    """A gateway with conf/near-cache.toml in ``folder``, and the server of its bucket."""

    def __init__(self, folder: Path, server: S3Server, **changes: str) -> None:
        self.folder, self.server = folder, server
        self.port = free_port()
        self.config = folder / "near-cache.toml"
        self.config.write_text(self.text(**changes))
        command = [*SFSS, "serve", "--config", str(self.config)]
        self.gateway = Gateway(command, self.port, folder, PYTHON_ENVIRON)

    def text(self, **changes: str) -> str:
        """Return the page, but for addresses, patience and ``changes``."""
        text = (CHECKOUT / "conf" / "near-cache.toml").read_text()
        for name, value in {
            "address": f'"127.0.0.1:{self.port}"',
            "timeout_s": patience(self.server, 10),
            "owed_folder": '"var/owed-near"\ncooling_s = 0.2',
            **changes,
        }.items():
            text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
            assert count == 1, name
        return text

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body."""
        answer = self.gateway.get(path)
        return answer.status, answer.body

    def has(self, path: str) -> bool:
        """Tell whether the local store has something under ``path``."""
        folder = str(self.folder / "var" / "near")
        with lmdb.open(folder, readonly=True, lib_version=0) as store, store.begin() as reading:
            return reading.get(path.encode()) is not None

    @contextmanager
    def asked_by(self, clients: int, path: str) -> Iterator[Sequence[HTTPConnection]]:
        """Have so many clients ask for ``path``; enter when all have sent their request."""
        with ExitStack() as stack:
            asking = [stack.enter_context(closing(self.gateway.connect())) for _ in range(clients)]
            for each in asking:
                each.request("GET", f"/file?path={path}")
            yield asking

    def repair(self, tool: str = "repair") -> None:
        """Run sfss repair, or another tool."""
        command = [*SFSS, tool, "--config", str(self.config)]
        environ = {**os.environ, **PYTHON_ENVIRON}
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def owed(self) -> int:
        """Return how many writes are owed."""
        return int(self.gateway.request("GET", "/status?detail=full").json()["webserver"]["owed"])

    def wipe(self) -> None:
        """Lose all of the local store."""
        self.gateway.kill()
        shutil.rmtree(self.folder / "var" / "near")
        self.gateway.start()


@pytest.fixture(name="server")
def own_server(shared_s3: S3Server) -> Iterator[S3Server]:
    """A server with an empty bucket."""
    with with_bucket(shared_s3, BUCKET) as server:
        yield server


@pytest.fixture(name="through")
def write_through(tmp_path: Path, server: S3Server) -> Iterator[Near]:
    """A gateway that writes through."""
    near = Near(tmp_path, server)
    with running(near.gateway):
        yield near


@pytest.fixture(name="back")
def write_back(tmp_path: Path, server: S3Server) -> Iterator[Near]:
    """A gateway that writes back."""
    near = Near(tmp_path, server, write_quorum="1", timeout_s=patience(server, 2))
    with running(near.gateway):
        yield near


def test_a_write_is_answered_when_the_bucket_has_it(through: Near) -> None:
    answer = through.gateway.request(
        "PUT", "/music/a%20b.txt", b"body", {"Content-Type": "text/x-own"}
    )
    assert answer.status == 201
    found = through.server.get(f"{TOP}/music/a b.txt")
    assert (found.body, found.headers["content-type"]) == (b"body", "text/x-own")
    assert through.get("music/a b.txt") == (200, b"body")
    assert through.gateway.request("DELETE", "/music/a%20b.txt").status == 204
    assert through.server.get(f"{TOP}/music/a b.txt").status == 404
    assert through.get("music/a b.txt")[0] == 404


def test_what_is_here_is_served_without_the_bucket_and_the_rest_is_504(
    tmp_path: Path, server: S3Server
) -> None:
    near = Near(tmp_path, server, timeout_s=patience(server, 2))
    with running(near.gateway), ThreadPoolExecutor(3) as pool:
        assert near.gateway.put("here", b"body").status == 200
        server.put(f"{TOP}/there", b"by others")
        for stop in (server.pause, server.kill):
            stop()
            assert near.get("here") == (200, b"body")
            asked = [pool.submit(near.get, path) for path in ("there", "nowhere")]
            put = pool.submit(near.gateway.put, "new", b"x")
            assert [each.result()[0] for each in asked] == [504, 504]
            assert put.result().status in (500, 503, 504)
            if stop == server.pause:
                server.resume()
                wait_until(lambda: near.get("nowhere")[0] == 404, "the bucket is asked again")


def test_what_others_put_into_the_bucket_is_fetched_and_stays(through: Near) -> None:
    through.server.put(f"{TOP}/a/by others.png", b"image", {"Content-Type": "image/x-own"})
    answer = through.gateway.request("GET", "/a/by%20others.png")
    assert (answer.status, answer.body) == (200, b"image")
    assert answer.headers["content-type"] == "image/x-own"
    names = through.gateway.request("GET", "/files?prefix=a/").json()
    assert "a/by others.png" in str(names)
    wait_until(lambda: through.has("a/by others.png"), "it is here")
    through.server.pause()
    assert through.get("a/by others.png") == (200, b"image")


def test_one_fetch_however_many_ask(through: Near) -> None:
    body = b"x" * 100_000
    through.server.put(f"{TOP}/wanted", body)
    line = f"GET /{TOP}/wanted "
    through.server.pause()
    with through.asked_by(16, "wanted") as readers:
        through.server.resume()
        answers = [reader.getresponse() for reader in readers]
        assert {(each.status, each.read()) for each in answers} == {(200, body)}
    assert through.server.output().count(line) <= 4  # two workers, and who comes before it is kept


def test_a_local_disk_that_was_lost_is_filled_again(through: Near) -> None:
    for number in range(5):
        assert through.gateway.put(f"f/{number}", b"%d" % number).status == 200
    assert through.gateway.request("DELETE", "/f/4").status == 204
    through.wipe()
    for number in range(4):
        assert through.get(f"f/{number}") == (200, b"%d" % number)
    assert through.get("f/4")[0] == 404
    found = through.gateway.request("GET", "/files?prefix=f/").json()
    assert "f/4" not in str(found)


def test_a_bucket_that_was_lost_is_filled_again(through: Near) -> None:
    for number in range(5):
        assert through.gateway.put(f"f/{number}", b"%d" % number).status == 200
    assert through.gateway.request("DELETE", "/f/4").status == 204
    through.server.kill()
    through.server.start()
    assert through.get("f/1") == (200, b"1")
    assert through.get("nowhere")[0] == 504  # there is no such bucket: that is no "no"
    through.server.make_bucket(BUCKET)
    through.repair()
    expected = ["files/.sfss/deleted/f/4", *(f"files/f/{number}" for number in range(4))]
    assert sorted(through.server.keys(BUCKET)) == sorted(expected)
    assert through.get("f/4")[0] == 404


def test_writes_that_the_bucket_misses_are_owed_and_paid(back: Near) -> None:
    assert back.gateway.put("before", b"old").status == 200
    wait_until(lambda: back.owed() == 0, "the bucket has it")
    back.server.pause()
    assert back.gateway.put("during", b"new").status == 200
    assert back.gateway.request("DELETE", "/before").status == 204
    assert back.owed() == 2
    assert back.get("during") == (200, b"new")
    assert back.get("before")[0] == 404
    back.server.resume()
    wait_until(lambda: back.owed() == 0, "the bucket has what it has missed")
    assert back.server.get(f"{TOP}/during").body == b"new"
    assert back.server.get(f"{TOP}/before").status == 404


def test_what_only_a_lost_disk_had_is_504_until_all_were_asked(back: Near) -> None:
    back.server.pause()
    assert back.gateway.put("only here", b"x").status == 200
    assert back.owed() == 1
    back.wipe()
    assert back.get("only here")[0] == 504
    back.server.resume()
    # Both say that they have nothing: it is lost, and that is said.
    wait_until(lambda: back.get("only here")[0] == 404, "both were asked")
    wait_until(lambda: back.owed() == 0, "nothing is owed any more")
    assert "no store has it any more" in back.gateway.output()


def test_an_old_object_never_replaces_what_is_newer_here(back: Near) -> None:
    assert back.gateway.put("a", b"first").status == 200
    wait_until(lambda: back.owed() == 0, "the bucket has it")
    old = back.server.get(f"{TOP}/a")
    assert back.gateway.put("a", b"second").status == 200
    wait_until(lambda: back.owed() == 0, "the bucket has it")
    fields = {name: old.headers[name] for name in ("x-amz-meta-sfss",)}
    back.server.put(f"{TOP}/a", old.body, fields)
    assert back.get("a") == (200, b"second")
    back.repair()
    assert back.server.get(f"{TOP}/a").body == b"second"
    assert back.get("a") == (200, b"second")


def test_it_starts_without_its_bucket(tmp_path: Path) -> None:
    server = s3(tmp_path, free_port())
    near = Near(tmp_path, server, write_quorum="1")
    with running(near.gateway):
        assert near.gateway.put("a", b"body").status == 200
        assert near.get("a") == (200, b"body")
        assert near.get("b")[0] == 504
        assert SECRET not in near.gateway.output()
        with running(server):
            server.make_bucket(BUCKET)
            wait_until(lambda: server.get(f"{TOP}/a").body == b"body", "the bucket has it")
            wait_until(lambda: near.get("b")[0] == 404, "the bucket is asked again")


def test_two_gateways_on_one_bucket(through: Near, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = Near(folder, through.server)
    with running(other.gateway):
        assert through.gateway.put("shared", b"body").status == 200
        assert other.get("shared") == (200, b"body")
        assert through.gateway.put("gone", b"x").status == 200
        assert through.gateway.request("DELETE", "/gone").status == 204
        assert other.get("gone")[0] == 404
