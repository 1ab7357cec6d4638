"""Figures of the stores and of the tools that work on them, as a gateway shows them."""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from sfss.config_reading import load
from sfss.status_parts import about, tool_folders
from sfss.tool_progress import FINISHED, LOST, LOST_AFTER_S, RUNNING, Teller, read_progress
from sfss.ulid import ulid
from sfss.web.figures import Room, room_of
from sfss.web.metrics_figures import of_members, of_migration
from tests.servers import CHECKOUT, SFSS, Gateway, gateway, running, s3, wait_until
from tests.test_metrics import scraped, value

SETTINGS = """
[server]
workers = 2
faces = ["native", "status", "metrics"]
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = ["lmdb:cache", "s3://files/"]
owed_folder = "owed"
write_quorum = 1
[bucket]
endpoint = "{url}"
allow_http = true
[near_cache]
capacity_bytes = 1000000
"""


@pytest.fixture(name="front", scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a near cache of a megabyte, before a bucket."""
    folder = tmp_path_factory.mktemp("figures")
    with running(s3(folder)) as bucket:
        bucket.make_bucket("files")
        with running(gateway(folder, settings=SETTINGS.format(url=bucket.url))) as server:
            yield server


def config_of(front: Gateway) -> str:
    """Return the file of the settings of a gateway."""
    return front.command[front.command.index("--config") + 1]


def told(front: Gateway) -> Any:
    """Return what a gateway says of itself."""
    return front.request("GET", "/status?detail=full").json()["webserver"]


def tool(front: Gateway, name: str) -> Any:
    """Return what is said of a repair tool, None if nothing is."""
    return next((each for each in told(front)["tools"] if each["tool"] == name), None)


def test_what_a_near_cache_had_is_counted(front: Gateway) -> None:
    before = scraped(front)
    for number in range(3):
        assert front.put(f"hit/{number}", b"x" * 100).status == 200
    for _ in range(2):  # as a whole, and by the short way
        for number in range(3):
            assert front.get(f"hit/{number}").status == 200
    for number in range(30):
        assert front.put(f"big/{number}", b"y" * 60_000).status == 200
    cache = "lmdb:cache"
    evicted = lambda: value(scraped(front), "sfss_store_evicted_files_total", store=cache)  # noqa: E731
    wait_until(lambda: evicted() > 8, "room is made")
    for number in range(30):
        assert front.get(f"big/{number}").status == 200
    name = "sfss_cache_reads_total"

    def grown(outcome: str) -> float:
        labels = {"outcome": outcome}
        return value(scraped(front), name, **labels) - value(before, name, **labels)

    wait_until(lambda: grown("hit") + grown("miss") == 36, "each read is counted once")
    assert grown("hit") >= 6
    assert grown("miss") >= 5
    assert value(scraped(front), "sfss_store_capacity_bytes", store=cache) == 1_000_000
    # A worker that has just begun cannot tell yet.
    used = lambda: value(scraped(front), "sfss_store_used_bytes", store=cache)  # noqa: E731
    wait_until(lambda: 0 < used() < 3_000_000, "each of the workers can tell")


def test_what_has_expired_and_what_failed_is_counted(front: Gateway) -> None:
    assert front.request("PUT", "/file?path=gone&ttl=1", b"x").status == 200
    assert front.get("not/there").status == 404
    assert front.request("GET", "/file").status == 400
    assert front.request("PATCH", "/file?path=a").status == 405
    kinds = {"not_found", "bad_argument", "status_405"}
    wait_until(lambda: kinds <= told(front)["errors"].keys(), "errors have kinds")
    labels = {"kind": "not_found"}
    assert (
        value(scraped(front), "sfss_errors_total", **labels) == told(front)["errors"]["not_found"]
    )
    expired = lambda: value(scraped(front), "sfss_events_total", event="expired")  # noqa: E731
    wait_until(lambda: expired() >= 1, "it is removed")


def test_a_tool_is_seen_at_work_and_after_it(front: Gateway) -> None:
    for number in range(40):
        assert front.put(f"many/{number}", b"x").status == 200
    command = [*SFSS, "scrub", "--config", config_of(front), "--rate", "20", "--work", "of-mine"]
    with subprocess.Popen(
        command, cwd=front.folder, env=front.environ, stdout=subprocess.DEVNULL
    ) as scrub:
        try:
            wait_until(lambda: (tool(front, "scrub") or {}).get("done", 0) > 1, "it is at work")
            labels = {"tool": "scrub", "group": ""}
            assert value(scraped(front), "sfss_tool_running", **labels) == 1
            assert tool(front, "scrub")["keys"] >= 40
            os.kill(scrub.pid, signal.SIGINT)
            assert scrub.wait() == 130
        finally:
            scrub.kill()
    ended = tool(front, "scrub")
    assert (ended["state"], ended["status"]) == ("interrupted", 130)
    subprocess.run(
        [*command[:-4], "--work", "of-mine"],
        cwd=front.folder,
        env=front.environ,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    ended = tool(front, "scrub")
    assert (ended["state"], ended["status"], ended["remaining"]) == ("finished", 0, 0)
    assert ended["done"] == ended["keys"] >= 40
    assert ended["started_s"] < ended["ended_s"]


def test_a_run_that_was_killed_is_not_at_work(tmp_path: Path) -> None:
    teller = Teller(tmp_path, "repair", dry_run=False)
    teller.tell(RUNNING, {"keys": 5, "done": 2})
    now_s = teller.progress.updated_s
    (found,) = read_progress(tmp_path, now_s + 1)
    assert found == teller.progress
    assert found.is_at_work
    (found,) = read_progress(tmp_path, now_s + LOST_AFTER_S + 1)
    assert (found.state, found.is_at_work) == (LOST, False)
    teller.tell(FINISHED, {"status": 0})
    (found,) = read_progress(tmp_path, now_s + 1000)
    assert (found.state, found.status, found.done) == (FINISHED, 0, 2)


def test_what_is_no_word_of_a_tool_is_not_there(tmp_path: Path) -> None:
    Teller(tmp_path, "scrub", dry_run=False).tell(RUNNING, {})
    file = tmp_path / "tools" / "scrub.json"
    whole = json.loads(file.read_text())
    wrong = [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"{" * 100_000,
        json.dumps({**whole, "done": "1"}).encode(),
    ]
    wrong.append(json.dumps({**whole, "done": True}).encode())
    for text in wrong:
        file.write_bytes(text)
        assert read_progress(tmp_path, 0.0) == []
    assert read_progress(tmp_path / "none", 0.0) == []
    Teller(tmp_path / "none", "scrub", dry_run=False).tell(RUNNING, {})  # nor is it told there
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("stats", "room"),
    [
        ({}, Room()),
        ({"bytes": "5", "limit_maxbytes": "20", "curr_items": "2"}, Room(2, 5, 15, 20)),
        (
            {"bytes": "5", "avail_space": "7", "total_space": "20", "limit_maxbytes": "20"},
            Room(None, 5, 7, 20),
        ),
        (
            {
                **{"bytes": "9", "avail_space": "7", "total_space": "20", "capacity_bytes": "8"},
                **{"used_bytes": "3", "evicted_files": "1", "evicted_bytes": "4"},
            },
            Room(None, 3, 5, 8, 1, 4),
        ),
        ({"bytes": "9", "avail_space": "70", "capacity_bytes": "8"}, Room(None, None, 8, 8)),
        ({"bytes": "-5", "total_space": "x"}, Room()),
    ],
)
def test_stores_say_in_their_own_words_how_much_room_they_have(
    stats: dict[str, str], room: Room
) -> None:
    assert room_of(stats) == room


SAMPLES = sorted((CHECKOUT / "conf").glob("*.toml"))


def values(families: Iterable[Metric]) -> dict[str, float]:
    """Return the first sample of each family."""
    return {each.name: each.samples[0].value for each in families}


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.name)
def test_every_installation_says_how_it_keeps_files(file: Path) -> None:
    cluster = "east" if file.name == "clusters.toml" else ""
    settings = load(file.read_text(), file.name, {}, None, cluster)
    said, folders = about(settings), tool_folders(settings)
    assert json.loads(json.dumps(said)) == said
    assert 1 <= said.get("write_quorum", 1) <= said.get("copies", 1)
    is_remote = settings.cluster.kind in ("nodes", "proxies")
    assert bool(folders) is not is_remote
    assert len(folders) == 1 or said["kind"] == "groups" or is_remote


def test_members_and_migrations_are_told() -> None:
    moving = {"keys": 9, "seen": 4, "moved": 2, "bytes": 50, "failed": 1, "done": False}
    members = {"a": {"live": True}, "b": {"live": False}}
    shown = {"epoch": 3, "members": members, "moving": moving}
    everybody = {"sfss_members": 2, "sfss_members_live": 1, "sfss_members_epoch": 3}
    moved = {"sfss_move_keys": 9, "sfss_move_keys_seen": 4, "sfss_move_failed": 1}
    moved |= {"sfss_move_files": 2, "sfss_move_bytes": 50}
    assert values(of_members(shown)) == everybody | moved
    assert values(of_members({**shown, "moving": None})) == everybody
    assert not list(of_members(None))
    for state, active in (("old", 0), ("both", 1), ("back", 1), ("new", 0)):
        told = values(of_migration({"state": state, "copied": True}))
        assert told == {"sfss_migration_active": active, "sfss_migration_copied": 1}
    assert not list(of_migration(None))


def test_all_metrics_of_members_and_migrations_are_in_the_document() -> None:
    document = (CHECKOUT / "docs" / "metrics.md").read_text()
    shown = {"epoch": 1, "members": {}, "moving": {"keys": 1}}
    families = [*of_members(shown), *of_migration({"state": "old", "copied": False})]
    assert not {each.name for each in families if each.name not in document}


def test_whose_bodies_were_here_and_whose_in_the_bucket_is_counted(tmp_path: Path) -> None:
    settings = (
        "[server]\nfaces = ['objects', 'metrics']\n[embedded]\nfolder = 'store'\n"
        "[bucket]\nendpoint = '{url}'\nallow_http = true\n"
        "[objects]\nbucket = 's3://objects/'\nfetch = 'always'\n"
    )
    here, there = ulid(1, 1), ulid(1, 2)
    with running(s3(tmp_path)) as bucket:
        bucket.make_bucket("objects")
        bucket.put(f"objects/{there}", b"of others")
        with running(gateway(tmp_path, settings=settings.format(url=bucket.url))) as front:
            fields = {"X-Meta-ID": here, "X-Meta-Level": "1"}
            assert front.request("POST", "/api/v1/put", b"x", fields).status == 200
            for object_id in (here, there, there):
                assert front.request("GET", f"/api/v1/get/{object_id}").status == 200
            assert front.request("GET", f"/api/v1/get/{ulid(1, 3)}").status == 404
            found = scraped(front)
    assert value(found, "sfss_cache_reads_total", outcome="hit") == 2
    assert value(found, "sfss_cache_reads_total", outcome="miss") == 1
