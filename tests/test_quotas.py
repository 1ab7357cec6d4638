"""Quotas of real gateways: never overshot by many writers, in two workers, whoever is killed."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Gateway, ask, gateway, memcached, running, wait_until
from tests.web.client import sentence
from tests.web.conftest import over

LIMIT = 300_000
FILES = 9
WRITERS = 6


def quotas(*prefixes: str) -> str:
    """Return settings with these quotas."""
    return f"[embedded]\nfolder = 'store'\n[quota]\nprefixes = {list(prefixes)}\nfolder = 'quota'\n"


def usage(server: Gateway, prefix: str) -> Any:
    """Return what is said of a quota."""
    return server.request("GET", "/status?detail=full").json()["webserver"]["quotas"][prefix]


def listed(server: Gateway, prefix: str) -> list[int]:
    """Return the sizes of all files below ``prefix``."""
    found = server.request("GET", f"/files?prefix={prefix}").json()
    return [entry["size"] for entry in found["files"]]


class Writers:
    """Threads that put and delete files of a few names until they are told to stop."""

    def __init__(self, server: Gateway, deletes: float = 0.2) -> None:
        self.server, self.deletes, self.statuses = server, deletes, list[int]()
        self.stopping = threading.Event()
        self.threads = [
            threading.Thread(target=self._write, args=(random.Random(n),)) for n in range(WRITERS)
        ]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _write(self, chance: random.Random) -> None:
        while not self.stopping.is_set():
            with suppress(OSError, HTTPException), closing(self.server.connect()) as connection:
                while not self.stopping.is_set():
                    target = f"/file?path=a/{chance.randrange(14)}"
                    if chance.random() < self.deletes:
                        answer = ask(connection, "DELETE", target)
                    else:
                        body = bytes(chance.randrange(60_000))
                        answer = ask(connection, "PUT", target, body)
                    self.statuses.append(answer.status)

    def until(self, count: int) -> None:
        """Wait for so many more answers."""
        aim = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= aim, f"{count} answers")


def test_many_writers_in_two_workers_never_overshoot_and_neither_do_deaths(tmp_path: Path) -> None:
    server = gateway(tmp_path, "--workers", "2", settings=quotas(f"a/ {LIMIT} {FILES}"))
    with running(server):
        with Writers(server) as writers:
            writers.until(150)
            os.kill(server.workers()[0], signal.SIGKILL)
            writers.until(150)
            server.kill()
        assert set(writers.statuses) <= {200, 204, 404, 507}
        assert {200, 204, 507} <= set(writers.statuses)
        server.start()
        sizes = listed(server, "a/")
        assert sum(sizes) <= LIMIT
        assert len(sizes) <= FILES

        def is_counted() -> bool:
            found = usage(server, "a/")
            return (found["bytes"], found["files"]) == (sum(sizes), len(sizes))

        wait_until(is_counted, "what the dead have left behind is counted")
        with Writers(server) as writers:
            writers.until(100)
        sizes = listed(server, "a/")
        assert sum(sizes) <= usage(server, "a/")["bytes"] <= LIMIT
        assert len(sizes) <= usage(server, "a/")["files"] <= FILES


def test_in_the_embedded_store_the_last_of_many_writers_counts(tmp_path: Path) -> None:
    settings = quotas(f"a/ {LIMIT} {FILES}")
    with running(gateway(tmp_path, "--workers", "2", settings=settings)) as server:
        with Writers(server, deletes=0) as writers:
            writers.until(200)
        sizes, found = listed(server, "a/"), usage(server, "a/")
        assert (found["bytes"], found["files"]) == (sum(sizes), len(sizes))
        assert sum(sizes) <= LIMIT
        assert len(sizes) <= FILES


@pytest.fixture(name="small", scope="module")
def gateway_with_little_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    prefixes = ["a/ 1000 2", "large/ 6MiB -", "/ - 20"]
    settings = quotas(*prefixes).replace("[quota]", "[cluster]\nmax_file_size = 8000000\n[quota]")
    with running(gateway(tmp_path_factory.mktemp("small"), settings=settings)) as server:
        yield server


def test_a_refusal_says_whose_quota_it_is_and_what_is_used(small: Gateway) -> None:
    assert small.put("a/x", bytes(600)).status == 200
    refusal = small.put("a/y", bytes(401))
    assert refusal.status == 507
    assert sentence(refusal) == (
        "the quota of a/* is at most 1000 bytes, of which 600 are used, and this needs 401 more;"
        " nothing was stored"
    )
    assert small.get("a/y").status == 404
    assert small.put("a/y", bytes(400)).status == 200
    assert "at most 2 files, of which 2 are used" in sentence(small.put("a/z", b""))
    assert small.put("a/x", bytes(601)).status == 507
    assert len(small.get("a/x").body) == 600
    assert small.put("a/x", bytes(100)).status == 200
    condition = {"If-None-Match": "*"}
    assert small.request("PUT", "/file?path=a/x", bytes(500), condition).status == 412
    assert usage(small, "a/") == {
        "bytes": 500,
        "bytes_limit": 1000,
        "files": 2,
        "files_limit": 2,
        "counted": True,
    }
    assert small.request("DELETE", "/file?path=a/y").status == 204
    assert small.put("a/z", bytes(900)).status == 200
    assert usage(small, "")["files_limit"] == 20
    assert small.request("DELETE", "/file?path=none").status == 404


def test_a_large_file_counts_with_its_size(small: Gateway) -> None:
    assert small.put("large/a", bytes(5_000_000)).status == 200
    assert usage(small, "large/")["bytes"] == 5_000_000
    assert small.put("large/b", bytes(5_000_000)).status == 507
    assert small.put("large/a", bytes(6_000_000)).status == 200
    assert small.put("large/a", b"small").status == 200
    assert usage(small, "large/")["bytes"] == 5


def test_what_expires_makes_room(small: Gateway) -> None:
    assert small.request("DELETE", "/file?path=large/a").status in (204, 404)
    assert small.request("PUT", "/file?path=large/t&ttl=1", bytes(6_000_000)).status == 200
    wait_until(lambda: small.put("large/b", bytes(1_000_000)).status == 200, "it has expired")


def test_metrics_tell_what_is_used(small: Gateway) -> None:
    settings = quotas("a/ 1000 2").replace("[quota]", "[server]\nfaces = ['metrics']\n[quota]")
    (small.folder / "metrics").mkdir()
    with running(gateway(small.folder / "metrics", settings=settings)) as server:
        found = server.request("GET", "/metrics").body.decode()
    assert 'sfss_quota_bytes{prefix="a/"} 0.0' in found
    assert 'sfss_quota_bytes_limit{prefix="a/"} 1000.0' in found
    assert 'sfss_quota_files_limit{prefix="a/"} 2.0' in found


def test_what_was_there_before_is_counted_first(tmp_path: Path) -> None:
    server = gateway(tmp_path, settings=quotas())
    config = tmp_path / f"sfss-{server.port}.toml"
    with running(server):
        for number in range(30):
            assert server.put(f"a/{number}", bytes(100)).status == 200
    config.write_text(quotas("a/ 3500 -"))
    with running(server):
        statuses = [server.put(f"a/new {number}", bytes(100)).status for number in range(8)]
        assert statuses == [200] * 5 + [507] * 3
        assert usage(server, "a/")["bytes"] == sum(listed(server, "a/")) == 3500


def test_stores_that_cannot_be_listed(tmp_path: Path) -> None:
    with running(memcached(tmp_path)) as store:
        settings = over("nodes", store) + quotas("a/ 1000 -")
        with running(gateway(tmp_path, settings=settings)) as server:
            assert server.put("a/x", bytes(600)).status == 200
            assert server.put("a/x", bytes(1000)).status == 200
            assert server.put("a/y", bytes(1)).status == 507
            store.kill()
            assert server.request("DELETE", "/file?path=a/x").status == 504
            store.start()
            # It may not have been deleted. (It is gone: that server keeps nothing.)
            assert server.put("a/y", bytes(1)).status == 507
            assert server.request("DELETE", "/file?path=a/x").status == 404
            assert usage(server, "a/")["bytes"] == 0
            assert server.put("a/y", bytes(1000)).status == 200
