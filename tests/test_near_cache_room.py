"""A near cache with a capacity, or written around, at work: real gateways, a real S3 server."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from sfss.config_reading import load
from sfss.errors import SettingError
from tests.servers import S3Server, listens, running, wait_until
from tests.shared_s3 import with_bucket
from tests.slow_proxy import SlowProxy, slow_proxy
from tests.test_near_cache import BUCKET, TOP, Near, patience

KIB, MIB = 1 << 10, 1 << 20
SEED = int(os.environ.get("SFSS_SEED", "20261125"))


@pytest.fixture(name="server")
def own_server(shared_s3: S3Server) -> Iterator[S3Server]:
    """A server with an empty bucket."""
    with with_bucket(shared_s3, BUCKET) as server:
        yield server


def local(near: Near) -> dict[str, str]:
    """Return what the local store says of itself."""
    status = near.gateway.request("GET", "/status").json()
    found = status["lmdb:var/near"]
    assert isinstance(found, dict)
    return found


def used(near: Near) -> float:
    """Return the bytes in the local store; no number, where a worker cannot tell yet."""
    return float(local(near).get("used_bytes", "nan"))


def shown(near: Near, path: str) -> tuple[int, bytes]:
    """Return the status, and the body of a file."""
    status, body = near.get(path)
    return status, body if status == 200 else b""


def fill(near: Near, size: int) -> None:
    """Write so many bytes of files that nobody reads."""
    for number in range(-(-size // (64 * KIB))):
        assert near.gateway.put(f"filler/{random.random()}/{number}", bytes(64 * KIB)).status == 200


def evicted(near: Near, path: str) -> None:
    """Have ``path`` evicted."""

    def is_gone() -> bool:
        fill(near, 256 * KIB)
        return not near.has(path)

    wait_until(is_gone, f"{path} is evicted")


def test_what_was_evicted_is_there_and_is_no_fault(tmp_path: Path, server: S3Server) -> None:
    patient = patience(server, 4)
    near = Near(tmp_path, server, capacity_bytes=str(MIB), timeout_s=patient)
    with running(near.gateway):
        answer = near.gateway.request("PUT", "/a/b.txt", b"body", {"Content-Type": "text/x-own"})
        assert answer.status == 201
        evicted(near, "a/b.txt")
        wait_until(lambda: used(near) <= MIB, "there is room")
        said = local(near)
        assert int(said["capacity_bytes"]) == MIB
        assert int(said["evicted_files"]) > 0
        assert int(said["evicted_bytes"]) > 0
        listed = near.gateway.request("GET", "/files?prefix=a/").json()
        assert "a/b.txt" in str(listed)
        for tool in ("check", "repair", "scrub"):
            near.repair(tool)
            assert not near.has("a/b.txt")
        again = near.gateway.request("GET", "/a/b.txt")
        assert (again.body, again.headers["content-type"]) == (b"body", "text/x-own")
        wait_until(lambda: near.has("a/b.txt"), "it is kept again")
        server.pause()
        assert near.get("a/b.txt") == (200, b"body")
        assert near.gateway.request("GET", "/files?prefix=a/").status == 504
        server.resume()


def test_what_others_do_in_the_bucket_after_it_was_evicted_counts(
    tmp_path: Path, server: S3Server
) -> None:
    near = Near(tmp_path, server, capacity_bytes=str(MIB))
    folder = tmp_path / "other"
    folder.mkdir()
    other = Near(folder, server)
    with running(near.gateway), running(other.gateway):
        for path in ("replaced", "deleted", "removed", "foreign"):
            if path == "foreign":
                server.put(f"{TOP}/{path}", b"old", {"Content-Type": "text/x-own"})
                assert near.get(path) == (200, b"old")
                wait_until(lambda: near.has("foreign"), "it is kept")
            else:
                assert near.gateway.put(path, b"old").status == 200
            evicted(near, path)
        assert near.get("foreign") == (200, b"old")
        assert other.gateway.put("replaced", b"new").status == 200
        assert other.get("deleted") == (200, b"old")
        assert other.gateway.request("DELETE", "/deleted").status == 204
        server.delete(f"{TOP}/removed")
        assert near.get("replaced") == (200, b"new")
        assert near.get("deleted")[0] == 404
        assert near.get("removed")[0] == 404
        near.repair()
        assert near.get("deleted")[0] == 404


def test_while_the_bucket_is_away_nothing_is_evicted(tmp_path: Path, server: S3Server) -> None:
    hasty = patience(server, 2)
    near = Near(tmp_path, server, capacity_bytes=str(MIB), write_quorum="1", timeout_s=hasty)
    with running(near.gateway):
        assert near.gateway.put("first", b"body").status == 200
        wait_until(lambda: near.owed() == 0, "the bucket has it")
        server.pause()
        fill(near, 3 * MIB)
        assert used(near) >= 3 * MIB
        assert local(near)["evicted_files"] == "0"
        assert near.get("first") == (200, b"body")
        server.resume()
        wait_until(lambda: near.owed() == 0, "the bucket has all", 60)
        wait_until(lambda: used(near) <= MIB, "there is room", 60)
        assert near.get("first") == (200, b"body")


def test_a_store_that_was_there_before_gets_a_capacity(tmp_path: Path, server: S3Server) -> None:
    near = Near(tmp_path, server)
    with running(near.gateway):
        fill(near, 2 * MIB)
        assert "used_bytes" not in local(near)
    near.config.write_text(near.text(capacity_bytes=str(MIB)))
    with running(near.gateway):
        wait_until(lambda: 0 < used(near) <= MIB, "there is room")
        names = near.gateway.request("GET", "/files?prefix=filler/&limit=1000").json()
        assert len(names["files"]) == 32


def test_what_is_only_served_does_not_stay(tmp_path: Path, server: S3Server) -> None:
    near = Near(tmp_path, server, fetch='"serve"', timeout_s=patience(server, 2))
    with running(near.gateway):
        server.put(f"{TOP}/there", b"by others")
        for _ in range(4):
            assert near.get("there") == (200, b"by others")
        assert near.get("nowhere")[0] == 404
        assert near.gateway.put("own", b"body").status == 200
        assert near.has("own")
        server.pause()
        assert near.get("own") == (200, b"body")
        assert near.get("there")[0] == 504
        server.resume()
        assert not near.has("there")


def test_written_around_it_is_in_the_bucket_only(tmp_path: Path, server: S3Server) -> None:
    near = Near(tmp_path, server, around="true", timeout_s=patience(server, 2))
    with running(near.gateway):
        server.put(f"{TOP}/a", b"old")
        assert near.get("a") == (200, b"old")
        wait_until(lambda: near.has("a"), "it is kept")
        answer = near.gateway.request("PUT", "/a", b"new", {"Accept": "application/json"})
        stored = {
            "lmdb:var/near": "not stored: written around it",
            "s3://my-bucket/files": "stored",
        }
        assert answer.json() == {"stores": stored}
        assert not near.has("a")
        assert server.get(f"{TOP}/a").body == b"new"
        for _ in range(4):
            assert near.get("a") == (200, b"new")
        wait_until(lambda: near.has("a"), "it is kept")
        server.pause()
        assert near.gateway.put("a", b"newest").status in (500, 503, 504)
        assert near.get("a") == (200, b"new")
        server.resume()
        wait_until(lambda: near.owed() == 0, "the bucket was asked what it has")
        assert near.gateway.request("DELETE", "/a").status == 204
        assert not near.has("a")
        assert near.get("a")[0] == 404
        assert server.get(f"{TOP}/a").status == 404


@pytest.fixture(name="proxy")
def own_proxy(server: S3Server) -> Iterator[SlowProxy]:
    """A proxy before the server."""
    with slow_proxy(server.port) as proxy:
        yield proxy


def behind(tmp_path: Path, server: S3Server, proxy: SlowProxy, **changes: str) -> Near:
    """Return a gateway that reaches its bucket through ``proxy``."""
    return Near(tmp_path, server, timeout_s=patience(server, 20, proxy.url), **changes)


@pytest.mark.parametrize("around", ["false", "true"])
@pytest.mark.parametrize("what", ["written", "written and read", "deleted"])
def test_a_fetch_under_way_does_not_undo_what_is_written_meanwhile(
    tmp_path: Path, server: S3Server, proxy: SlowProxy, around: str, what: str
) -> None:
    deletes = what == "deleted"
    near = behind(tmp_path, server, proxy, around=around)
    expected = (404, b"") if deletes else (200, b"new")
    with running(near.gateway), ThreadPoolExecutor(1) as pool:
        server.put(f"{TOP}/wanted", b"old")
        proxy.hold(f"/{TOP}/wanted".encode())
        fetch = pool.submit(shown, near, "wanted")
        assert proxy.waiting.wait(20)
        if deletes:
            assert near.gateway.request("DELETE", "/wanted").status == 204
        else:
            assert near.gateway.put("wanted", b"new").status == 200
        if what == "written and read":
            assert [shown(near, "wanted") for _ in range(4)] == [expected] * 4
        proxy.release()
        assert fetch.result() in {(200, b"old"), expected}
        for _ in range(20):
            assert shown(near, "wanted") == expected
        proxy.close()
        # What is here now, if anything.
        assert shown(near, "wanted") in {expected, (504, b"")}


def connections(near: Near) -> int:
    """Return how many connections the gateway has."""
    status = near.gateway.request("GET", "/status?detail=full").json()
    return int(status["webserver"]["connections"])


def test_one_fetch_however_many_ask_while_it_takes_long(
    tmp_path: Path, server: S3Server, proxy: SlowProxy
) -> None:
    near = behind(tmp_path, server, proxy, workers="1")
    body = b"x" * 100_000
    with running(near.gateway):
        server.put(f"{TOP}/wanted", body)
        proxy.hold(f"/{TOP}/wanted".encode())
        with near.asked_by(16, "wanted") as readers:
            assert proxy.waiting.wait(20)
            # That of the question is one, and comes behind them.
            wait_until(lambda: connections(near) > len(readers), "all have come")
            proxy.release()
            answers = [reader.getresponse() for reader in readers]
            assert {(each.status, each.read()) for each in answers} == {(200, body)}
        assert server.output().count(f"GET /{TOP}/wanted ") == 1


class Client(threading.Thread):
    """Writes and reads files of its own until ``limit`` bytes are written, whatever fails."""

    def __init__(self, near: Near, name: str, limit: int, chosen: random.Random) -> None:
        super().__init__(daemon=True)
        self.near, self.prefix, self.limit, self.chosen = near, name, limit, chosen
        self.possible: dict[str, set[bytes | None]] = {}
        self.written, self.wrong = 0, list[str]()

    def run(self) -> None:
        """Go on to the end."""
        while self.written < self.limit and not self.wrong:
            if self.possible and self.chosen.random() < 0.4:
                self._read(self.chosen.choice(list(self.possible)))
            else:
                self._write(f"{self.prefix}/{self.chosen.randrange(150)}")

    def _write(self, path: str) -> None:
        size = self.chosen.choice([1000, 20_000, 300_000, 700_000])
        body = self.chosen.randbytes(64) * (size // 64)
        former = self.possible.get(path, {None})
        self.possible[path] = former | {body}
        try:
            if self.near.gateway.put(path, body).status == 200:
                self.possible[path] = {body}
                self.written += len(body)
        except (OSError, HTTPException):
            self._wait()

    def _read(self, path: str) -> None:
        try:
            status, body = self.near.get(path)
        except (OSError, HTTPException):
            self._wait()
        else:
            self.check(path, status, body)

    def _wait(self) -> None:
        """Wait for the gateway, which was killed."""
        wait_until(lambda: listens(self.near.port), "the gateway is there again", 60)

    def check(self, path: str, status: int, body: bytes) -> None:
        """Note what is not one of those that may be."""
        found = None if status == 404 else body
        if status not in (200, 404, 504) or (status != 504 and found not in self.possible[path]):
            self.wrong.append(f"{path}: {status} {len(body)}")


@pytest.mark.parametrize("quorum", ["2", "1"])
def test_no_file_is_lost_and_the_store_stays_small_whatever_dies(
    tmp_path: Path, server: S3Server, quorum: str
) -> None:
    chosen = random.Random(SEED)
    capacity = 10 * MIB
    changes = {"write_quorum": quorum, "capacity_bytes": str(capacity)}
    near = Near(tmp_path, server, **changes)
    with running(near.gateway):
        clients = [
            Client(near, f"c{number}", 12 * MIB, random.Random(SEED + number))
            for number in range(4)
        ]
        for client in clients:
            client.start()
        killed = 0
        while any(client.is_alive() for client in clients):
            # So far they have come: kills are spread over the work, not over time.
            mark = sum(client.written for client in clients) + chosen.randrange(MIB, 11 * MIB)
            wait_until(
                lambda mark=mark: (
                    sum(each.written for each in clients) >= mark
                    or not any(each.is_alive() for each in clients)
                ),
                "more is written",
                120,
            )
            near.gateway.kill()
            near.gateway.start()
            killed += 1
        assert killed > 3
        wait_until(lambda: near.owed() == 0, "the bucket has all", 60)
        wait_until(lambda: used(near) <= capacity, "there is room", 60)
        assert int(local(near)["evicted_bytes"]) > capacity
        for client in clients:
            assert client.wrong == []
            for path in client.possible:
                client.check(path, *near.get(path))
            assert client.wrong == []
        wait_until(lambda: used(near) <= capacity, "there is room", 60)


def settings(near_cache: str, **changes: str) -> str:
    """Return settings of a near cache."""
    options = {
        "placement": '"mirror"',
        "stores": '["lmdb:near", "s3://bucket"]',
        **changes,
    }
    lines = "\n".join(f"{name} = {value}" for name, value in options.items())
    return f'[cluster]\nkind = "replicated"\n[replicated]\n{lines}\n[near_cache]\n{near_cache}\n'


def test_it_is_for_a_local_store_before_a_bucket() -> None:
    for own in ("capacity_bytes = 1", "around = true", 'fetch = "serve"'):
        name = own.partition(" ")[0]
        load(settings(own))
        for changes in (
            {"stores": '["s3://bucket", "lmdb:near"]'},
            {"stores": '["file:near", "s3://bucket"]'},
            {"stores": '["lmdb:near", "s3://bucket", "s3://other"]'},
            {"placement": '"ketama"', "copies": "2"},
            {"first_decides": "true"},
        ):
            with pytest.raises(SettingError, match=f"near_cache.{name}"):
                load(settings(own, **changes))
        with pytest.raises(SettingError, match=f"near_cache.{name}"):
            load(f"[near_cache]\n{own}\n")
    load("[near_cache]\ncapacity_bytes = 0\n")
