"""sfss check, repair, scrub and rebalance: whole runs, interrupted and killed ones, real nodes."""

import asyncio
import io
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from sfss import inventory as inventories
from sfss.agreement import Debt, tombstone
from sfss.cli import main
from sfss.config import Settings
from sfss.config_reading import load
from sfss.errors import CannotList
from sfss.owed import EVERYTHING, Owed
from sfss.record import RECORD_FLAGS, encode, new_record
from sfss.repair import Tool
from sfss.repair_commands import Options, Run
from sfss.repair_notes import Notes
from sfss.repair_report import INTERRUPTED, Drawing, Report
from sfss.repair_subject import Subject, opened
from sfss.replicas import make_replicas
from sfss.roster import Roster
from sfss.service import make_scheme
from sfss.stores.embedded import EmbeddedStore
from sfss.tool_progress import Teller
from tests.repair_bench import STORES, ListedStore, Ward
from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Server,
    gateway,
    memcached,
    node,
    node_folder,
    running,
    wait_until,
)
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault
from tests.stores.scripted import until

MANY = 120

TOOLS = [tool for tool in Tool if tool is not Tool.MIGRATE]
"""Those that are commands by themselves."""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventories, "PAUSE_S", 0.0)


# -- runs over stores of the tests


def begin(
    ward: Ward, folder: Path, tool: Tool, drawing: Drawing | None = None, **options: Any
) -> tuple[Run, Notes]:
    """Return a run over the stores of ``ward``."""
    replicas = ward.replicas()
    chosen = Options(tool, Settings(), folder, **options)
    notes = Notes(folder, f"{tool} {chosen.dry_run} {ward.names}")
    subject = Subject(replicas.stores, ward.primaries, ward.scheme, replicas)
    teller = Teller(None, chosen.tool.value, chosen.dry_run)
    return Run(chosen, subject, notes, asyncio.Event(), drawing or Drawing(), teller), notes


async def run(ward: Ward, folder: Path, tool: Tool, **options: Any) -> Report:
    """Do a whole run."""
    one, notes = begin(ward, folder, tool, **options)
    try:
        return await one.to_its_end()
    finally:
        notes.close()


def harmed() -> Ward:
    """Return stores with faults of every kind in 40 files of 200."""
    ward = Ward()
    keys = ward.fill(200)
    for key in keys[:10]:
        ward.plant(key, None, ward.primaries(key)[1])
    for key in keys[10:20]:
        older = new_record(b"older", 1)
        ward.plant(key, older, ward.primaries(key)[2])
    for key in keys[20:30]:
        ward.stores[ward.primaries(key)[0]].damage(key)
    for key in keys[30:40]:
        value = ward.stores[ward.primaries(key)[0]].inner.values[key]
        (other, *_) = (name for name in STORES if name not in ward.primaries(key))
        ward.stores[other].inner.values[key] = value
    return ward


async def test_all_faults_are_found_and_mended_by_their_tools(tmp_path: Path) -> None:
    ward = harmed()
    before = ward.content()
    # A check does not read what all stores list alike.
    report = await run(ward, tmp_path, Tool.CHECK)
    assert report.status == 1
    assert report.document()["findings"] == {
        "missing": 10,
        "stale": 10,
        "damaged": 0,
        "misplaced": 10,
        "orphan": 0,
        "unknown": 0,
    }
    for tool in (Tool.REPAIR, Tool.SCRUB, Tool.REBALANCE):
        assert (await run(ward, tmp_path, tool, dry_run=True)).status == 1
        assert ward.content() == before
    report = await run(ward, tmp_path, Tool.REPAIR)
    assert (report.status, report.remaining) == (1, 10)
    assert report.notes.counts["outcome mended"] == 20
    report = await run(ward, tmp_path, Tool.REBALANCE)
    assert (report.status, report.notes.counts["outcome moved"]) == (0, 10)
    report = await run(ward, tmp_path, Tool.SCRUB)
    assert (report.status, report.notes.counts["outcome mended"]) == (0, 10)
    assert report.notes.counts["looked_at"] == 200
    assert ward.is_well()
    for tool in TOOLS:
        report = await run(ward, tmp_path, tool)
        assert (report.status, report.notes.counts["findings"]) == (0, 0)


async def test_stores_that_give_no_stamps_are_all_compared(tmp_path: Path) -> None:
    ward = harmed()
    for store in ward.stores.values():
        store.stamps = False
    report = await run(ward, tmp_path, Tool.CHECK)
    assert report.notes.counts["looked_at"] == 200
    assert report.notes.counts["damaged"] == 10
    assert (await run(ward, tmp_path, Tool.REPAIR)).remaining == 10


async def test_the_document(tmp_path: Path) -> None:
    ward = Ward()
    key = ward.scheme.key("photos/Käse 1.jpg")
    ward.plant(key, ward.record(b"body"), *ward.primaries(key)[:2])
    ward.plant(b"%zz", ward.record(b"another's"), "a")
    document = json.loads(json.dumps((await run(ward, tmp_path, Tool.REPAIR)).document()))
    assert document.pop("elapsed_s") >= 0
    assert document == {
        "tool": "repair",
        "dry_run": False,
        "status": 0,
        "finished": True,
        "stores": list(STORES),
        "unreachable": {},
        "keys": 2,
        "done": 2,
        "looked_at": 1,
        "foreign": 1,
        "findings": {
            "missing": 1,
            "stale": 0,
            "damaged": 0,
            "misplaced": 0,
            "orphan": 0,
            "unknown": 0,
        },
        "mended": 1,
        "moved": 0,
        "removed": 0,
        "failed": 0,
        "remaining": 0,
        "scarce": 0,
        "reaped": 0,
        "expired": 0,
        "written_bytes": 4,
        "settled": [],
        "owed": 0,
        "found": [
            {
                "path": "%zz",
                "store": "a",
                "fault": "foreign",
                "reason": "no file of sfss has this key",
                "outcome": "found",
            },
            {
                "path": "photos/Käse 1.jpg",
                "store": ward.primaries(key)[2],
                "fault": "missing",
                "reason": document["found"][1]["reason"],
                "outcome": "mended",
            },
        ],
        "findings_file": str(tmp_path / "findings.jsonl"),
    }
    reason = document["found"][1]["reason"]
    assert reason == "it has not got the file of 2023-11-14 22:13:20.001000 UTC"


async def test_files_with_too_few_copies_are_counted(tmp_path: Path) -> None:
    ward = Ward()
    keys = [ward.scheme.key(f"photos/{number}.jpg") for number in range(4)]
    for key in keys:
        ward.plant(key, ward.record(b"body"), *ward.primaries(key)[:2])
    report = await run(ward, tmp_path, Tool.REPAIR, min_copies=3)
    assert (report.status, report.document()["scarce"], report.remaining) == (0, 0, 0)
    # No placement of this cluster gives a file so many.
    report = await run(ward, tmp_path, Tool.REPAIR, min_copies=4)
    assert (report.status, report.document()["scarce"], report.remaining) == (1, 4, 0)
    assert "4 files have fewer sound copies than --min-copies says" in report.text()
    # A deletion needs none.
    for address in ward.primaries(keys[0]):
        ward.plant(keys[0], None, address)
    ward.plant(keys[1], tombstone(1 << 50), *ward.primaries(keys[1]))
    report = await run(ward, tmp_path, Tool.REPAIR, min_copies=4)
    assert report.document()["scarce"] == 2


async def test_what_a_terminal_would_obey_is_shown(tmp_path: Path) -> None:
    ward = Ward()
    key = ward.scheme.key("photos/\u202egpj.exe")
    ward.plant(key, ward.record(b"body"), *ward.primaries(key)[:2])
    text = (await run(ward, tmp_path, Tool.CHECK)).text()
    assert r"photos/\u202egpj.exe" in text and "\u202e" not in text
    assert "1 missing" in text


async def test_more_findings_than_are_reported(tmp_path: Path) -> None:
    ward = Ward()
    for key in ward.fill(1100):
        ward.plant(key, None, *ward.primaries(key)[1:])
    report = await run(ward, tmp_path, Tool.REPAIR)
    assert report.status == 0
    document = report.document()
    assert document["findings"]["missing"] == document["mended"] == 2200
    assert len(document["found"]) == 1000
    assert len((tmp_path / "findings.jsonl").read_text().splitlines()) == 2200
    assert len(report.text().splitlines()) < 30


# -- stores that cannot be listed


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_store_that_is_down_is_said_and_nothing_wrong_is_done(
    tmp_path: Path, tool: Tool
) -> None:
    ward = harmed()
    before = ward.content()
    ward.down("b")
    report = await run(ward, tmp_path, tool)
    assert report.status == 2
    assert report.unreachable == {"b": "store b cannot be reached: refused"}
    after = ward.content()
    for name, values in before.items():
        # What was there is there, but for misplaced copies whose primaries have all answered.
        gone = {key for key in values if key not in after[name]}
        assert not gone or tool is Tool.REBALANCE
        assert all(name not in ward.primaries(key) for key in gone)
        assert all("b" not in ward.primaries(key) for key in gone)
    ward.up("b")
    for each in (Tool.REBALANCE, Tool.SCRUB):
        assert (await run(ward, tmp_path, each)).status == 0
    assert ward.is_well()


async def test_a_store_that_ends_in_the_middle_of_its_list(tmp_path: Path) -> None:
    ward = Ward()
    keys = ward.fill(100)
    before = ward.content()
    failing = keys[50]

    ward.stores["a"].plan = lambda operation, key: (
        Fault.REFUSE if operation == "keys" and key >= failing else None
    )
    for tool in (Tool.REPAIR, Tool.REBALANCE):
        report = await run(ward, tmp_path, tool)
        assert (report.status, list(report.unreachable)) == (2, ["a"])
        assert report.notes.counts["looked_at"] == 0 and ward.content() == before


async def test_a_store_that_has_no_list_is_asked_for_what_others_list(tmp_path: Path) -> None:
    ward = harmed()

    class Mute(ListedStore):
        keys = None  # type: ignore[assignment]

    mute = Mute(DictStore("c"))
    mute.inner.values = ward.stores["c"].inner.values
    ward.stores["c"] = mute
    report = await run(ward, tmp_path, Tool.REPAIR)
    assert report.unreachable == {"c": str(CannotList("c"))}
    missing_or_stale = 20
    damaged_seen = report.notes.counts["damaged"]
    assert report.notes.counts["outcome mended"] == missing_or_stale + damaged_seen
    assert report.status == 2


async def test_a_store_that_is_not_in_the_roster_is_not_asked(tmp_path: Path) -> None:
    ward = Ward()
    ward.fill(20)
    one, notes = begin(ward, tmp_path, Tool.CHECK)
    roster = Roster(tmp_path / "roster", 1.0)
    replicas = one.subject.replicas
    assert replicas is not None
    monkeyed = replace(replicas, roster=roster)
    roster.is_live = lambda address: address != "b"  # type: ignore[method-assign]
    one.subject = replace(one.subject, replicas=monkeyed)
    report = await one.to_its_end()
    notes.close()
    assert report.status == 2
    assert report.unreachable == {"b": "store b cannot be reached: it is not in the roster"}
    assert "1 of 5 stores could not be listed" in report.text()
    assert ward.stores["b"].asked == []


# -- debts


async def test_a_store_that_was_owed_everything_is_believed_again(tmp_path: Path) -> None:
    ward = Ward(owed_limit=0)
    for key in ward.fill(50):
        if "a" in ward.primaries(key):
            ward.plant(key, None, "a")
    owed = Owed(ward.list, 0)
    await owed.add([Debt("a", b"file/0001", 5, 5)])
    for tool, dry_run in ((Tool.CHECK, False), (Tool.REPAIR, True), (Tool.REBALANCE, False)):
        report = await run(ward, tmp_path, tool, dry_run=dry_run)
        assert report.settled == () and report.owed == 1
    ward.down("b")
    assert (await run(ward, tmp_path, Tool.REPAIR)).settled == ()
    ward.up("b")
    report = await run(ward, tmp_path, Tool.REPAIR)
    assert (report.status, report.settled, report.owed) == (0, ("a",), 0)
    assert "store a has got all that it had missed" in report.text()


async def test_a_store_is_not_believed_again_as_long_as_another_is_not_listed(
    tmp_path: Path,
) -> None:
    ward = Ward(owed_limit=0)
    ward.fill(50)
    owed = Owed(ward.list, 0)
    await owed.add([Debt("a", b"file/0001", 5, 5)])
    ward.down("b")  # which alone may list what "a" lacks
    report = await run(ward, tmp_path, Tool.REPAIR)
    assert report.notes.counts["looked_at"] == 0
    assert (report.settled, report.owed) == ((), 1)


async def test_what_is_missed_during_a_run_stays_owed(tmp_path: Path) -> None:
    ward = Ward(owed_limit=0)
    keys = ward.fill(50)
    owed = Owed(ward.list, 0)
    await owed.add([Debt("a", keys[1], 5, 5)])

    class Drawer(Drawing):
        late: asyncio.Task[None] | None = None

        def walked(self, *arguments: Any) -> None:
            if self.late is None:
                debt = Debt("a", keys[2], 2_000_000_000_000_000, 5)
                self.late = asyncio.ensure_future(owed.add([debt]))

    one, notes = begin(ward, tmp_path, Tool.SCRUB, Drawer())
    report = await one.to_its_end()
    notes.close()
    assert (report.settled, report.owed) == ((), 1)
    assert (await owed.everything("a")) == Debt("a", EVERYTHING, 2_000_000_000_000_000, 5)


# -- interrupted


def when_asked_for(ward: Ward, count: int, act: Callable[[], object]) -> None:
    """Have ``act`` called when stores have been asked for ``count`` different keys."""
    keys: set[bytes] = set()

    def plan(operation: str, key: bytes) -> None:
        keys.update([key] if operation == "get" else [])
        if len(keys) == count:
            act()

    for store in ward.stores.values():
        store.plan = plan


async def stopped_after(count: int, ward: Ward, folder: Path, tool: Tool) -> Report:
    """Begin or go on with a run, and stop it when it looks at the ``count``-th key."""
    one, notes = begin(ward, folder, tool)
    when_asked_for(ward, count, one.stopping.set)
    try:
        return await one.to_its_end()
    finally:
        ward.up(*ward.names)
        notes.close()


def asked_for(ward: Ward) -> set[bytes]:
    """Return the keys that stores were asked for, and forget it."""
    keys = {key for store in ward.stores.values() for operation, key in store.asked}
    for store in ward.stores.values():
        store.asked.clear()
    return keys


async def test_an_interrupted_run_goes_on_after_the_last_key(tmp_path: Path) -> None:
    ward = harmed()
    first = await stopped_after(50, ward, tmp_path, Tool.SCRUB)
    done = first.notes.counts["keys"]
    assert first.status == INTERRUPTED and 50 <= done < 100
    assert f"interrupted after {done} of 200 keys: the same command goes on" in first.text()
    begun = asked_for(ward)
    second = await stopped_after(40, ward, tmp_path, Tool.SCRUB)
    assert done + 40 <= second.notes.counts["keys"] < 200
    third = await run(ward, tmp_path, Tool.SCRUB)
    assert third.status == 1 and third.remaining == 10  # what is misplaced
    assert (third.notes.counts["keys"], third.notes.counts["looked_at"]) == (200, 200)
    assert third.notes.counts["outcome mended"] == 30
    # What was begun was finished, and nothing is looked at twice.
    assert len(begun) == done and not begun & asked_for(ward)


async def test_other_settings_and_fresh_begin_anew(tmp_path: Path) -> None:
    ward = harmed()
    done = (await stopped_after(50, ward, tmp_path, Tool.SCRUB)).notes.counts["keys"]
    assert done < 200
    report = await run(ward, tmp_path, Tool.SCRUB, fresh=True)
    assert report.notes.counts["looked_at"] == 200 and report.notes.counts["outcome mended"] < 30
    assert (await stopped_after(50, ward, tmp_path, Tool.SCRUB)).status == INTERRUPTED
    report = await run(ward, tmp_path, Tool.SCRUB, dry_run=True)
    assert report.notes.counts["looked_at"] == 200


async def test_a_run_stopped_while_it_lists_begins_anew(tmp_path: Path) -> None:
    ward = harmed()
    one, notes = begin(ward, tmp_path, Tool.REPAIR)

    class StopListing(Drawing):
        def listed(self, count: int) -> None:
            one.stopping.set()

    one.drawing = StopListing()
    before = ward.content()
    report = await one.to_its_end()
    notes.close()
    assert report.status == INTERRUPTED and ward.content() == before
    assert "begins anew" in report.text()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (await run(ward, tmp_path, Tool.REPAIR)).notes.counts["keys"] == 200


async def test_a_store_that_dies_in_the_middle_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfss.repair.Patience.__init__.__defaults__", ((), 0.0))
    ward = harmed()

    when_asked_for(ward, 100, lambda: ward.down("d"))
    report = await run(ward, tmp_path, Tool.SCRUB)
    assert report.status == 2 and report.notes.counts["unknown"] > 0
    ward.up(*ward.names)
    for each in (Tool.REBALANCE, Tool.SCRUB):
        assert (await run(ward, tmp_path, each)).status == 0
    assert ward.is_well()


# -- on a terminal


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_the_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, now = Terminal(), [100.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "200")
    drawing = Drawing()
    drawing.listed(1000)
    drawing.listed(1001)  # too soon
    now[0] += 1
    drawing.walked(50, 200, Counter())
    now[0] += 10
    drawing.walked(100, 200, Counter(findings=7, **{"outcome mended": 5}))
    drawing.clear()
    assert terminal.getvalue().split("\r\x1b[K") == [
        "",
        "listing the stores: 1000 keys",
        "[#####...............] 50/200 keys, 0 findings, 0 mended, 0/s, ETA 0:00:00",
        "[##########..........] 100/200 keys, 7 findings, 5 mended, 5/s, ETA 0:00:20",
        "",
    ]


async def test_elsewhere_nothing_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(harmed(), tmp_path, Tool.REPAIR)
    assert capsys.readouterr() == ("", "")


# -- real nodes


class Cluster:
    """Three nodes, a settings file over them, and the command."""

    def __init__(self, folder: Path, nodes: Sequence[Server]) -> None:
        self.folder, self.nodes = folder, nodes
        addresses = json.dumps([each.address for each in nodes])
        self.text = (
            f"[cluster]\nkind = 'replicated'\n[replicated]\nstores = {addresses}\n"
            f"copies = {min(3, len(nodes))}\n"
            "owed_folder = 'owed'\n[memcached]\ntimeout_s = 0.5\n"
        )
        (folder / "sfss.toml").write_text(self.text)
        make_store(folder / "owed")

    def put(self, bodies: Mapping[str, bytes]) -> None:
        """Put files, as a gateway does."""

        async def put_all() -> None:
            settings = load(self.text)
            replicas = make_replicas(settings, EmbeddedStore(self.folder / "owed"))
            scheme = make_scheme(settings)
            for path, body in bodies.items():
                record = new_record(body, time.time_ns() // 1000)
                await replicas.copies.put(scheme.key(path), record)
            await replicas.copies.close()

        asyncio.run(put_all())

    def fill(self, count: int) -> None:
        """Put ``count`` files."""
        self.put({f"photos/{number:05}.jpg": b"%d" % number * 50 for number in range(count)})

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a tool."""
        return subprocess.Popen(
            [*SFSS, arguments[0], "--config", "sfss.toml", *arguments[1:]],
            cwd=self.folder,
            env=PYTHON_ENVIRON,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run a tool with ``--json``; return its exit status and what it prints."""
        with self.begin(*arguments, "--json") as process:
            out, error = process.communicate(timeout=DEADLINE_S)
        assert not error, error
        return process.returncode, json.loads(out)

    def content(self) -> list[dict[bytes, bytes]]:
        """Return what the nodes hold."""
        return [dict(self._items(each)) for each in self.nodes]

    def _items(self, server: Server) -> Iterator[tuple[bytes, bytes]]:
        with (
            lmdb.open(str(node_folder(server)), lib_version=0) as environment,
            environment.begin() as transaction,
        ):
            yield from ((bytes(key), bytes(value)) for key, value in transaction.cursor())

    def change(self, number: int, changes: Mapping[bytes, bytes | None]) -> None:
        """Change items of one node behind its back."""
        folder = str(node_folder(self.nodes[number]))
        with (
            lmdb.open(folder, lib_version=0, map_size=1 << 30) as environment,
            environment.begin(write=True) as transaction,
        ):
            for key, value in changes.items():
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)

    def keys(self, count: int) -> list[bytes]:
        """Return the keys of the first files."""
        return [b"photos/%05d.jpg" % number for number in range(count)]


def make_store(folder: Path) -> None:
    """Make an empty store."""

    async def make() -> None:
        await EmbeddedStore(folder).close()

    asyncio.run(make())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes."""
    with ExitStack() as stack:
        yield Cluster(tmp_path, [stack.enter_context(running(node(tmp_path))) for _ in range(3)])


def test_the_tools_over_real_nodes(cluster: Cluster) -> None:
    cluster.fill(MANY)
    whole = cluster.content()
    keys, chance = cluster.keys(MANY), random.Random(8)
    assert cluster.run("check")[0] == 0
    flipped: dict[bytes, bytes | None] = {}
    for key in chance.sample(keys, 40):
        value = bytearray(whole[2][key])
        value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
        flipped[key] = bytes(value)
    cluster.change(2, flipped)
    cluster.change(0, dict.fromkeys(keys[:30]))
    cluster.change(1, {key: encode(new_record(b"older", 1)) for key in keys[30:50]})
    harmed = cluster.content()
    status, report = cluster.run("check")
    assert status == 1
    assert (report["findings"]["missing"], report["findings"]["stale"]) == (30, 20)
    status, report = cluster.run("scrub", "--dry-run")
    assert status == 1 and report["findings"]["damaged"] == 40
    assert cluster.run("repair", "--dry-run")[0] == 1
    assert cluster.content() == harmed
    status, report = cluster.run("repair")
    assert status == 0 and report["mended"] >= 50
    status, report = cluster.run("scrub")
    assert status == 0 and report["looked_at"] == MANY
    assert cluster.content() == whole
    for tool in TOOLS:
        status, report = cluster.run(tool.value)
        assert (status, sum(report["findings"].values())) == (0, 0)


def test_what_a_node_cannot_list_is_found_by_what_others_list(cluster: Cluster) -> None:
    cluster.fill(10)
    whole = cluster.content()
    flipped, cut, *_ = cluster.keys(10)
    head = bytearray(whole[0][flipped])
    head[20] ^= 1
    cluster.change(0, {flipped: bytes(head), cut: whole[0][cut][:-1]})
    status, report = cluster.run("check")
    assert (status, report["findings"]["damaged"], report["looked_at"]) == (1, 2, 2)
    status, report = cluster.run("repair")
    assert (status, report["mended"]) == (0, 2)
    assert cluster.content() == whole


def test_a_node_that_was_emptied_is_filled(cluster: Cluster) -> None:
    cluster.fill(MANY)
    whole = cluster.content()
    cluster.change(1, dict.fromkeys(cluster.keys(MANY)))
    status, report = cluster.run("repair")
    assert (status, report["mended"]) == (0, MANY)
    assert report["written_bytes"] == sum(len(b"%d" % number * 50) for number in range(MANY))
    assert cluster.content() == whole


def progress_of(cluster: Cluster, tool: str) -> int:
    """Return how many keys the notes say are done."""
    try:
        text = (cluster.folder / "var/tools" / tool / "progress.json").read_text()
        return int(json.loads(text)["counts"].get("keys", 0))
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_interrupted_or_killed_goes_on(
    cluster: Cluster, number: signal.Signals
) -> None:
    cluster.fill(MANY)
    whole = cluster.content()
    cluster.change(1, dict.fromkeys(cluster.keys(MANY)))
    process = cluster.begin("repair", "--rate", "30", "--json")
    wait_until(lambda: progress_of(cluster, "repair") >= 10, "some keys are done")
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE_S)
    done = progress_of(cluster, "repair")
    assert 10 <= done < MANY
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == INTERRUPTED
        report = json.loads(out)
        assert (report["finished"], report["done"]) == (False, done)
        assert report["mended"] == done
    # What the first run had listed is lost again: another would look at it, this one does not.
    cluster.change(1, {cluster.keys(1)[0]: None})
    status, report = cluster.run("repair")
    assert (status, report["done"]) == (0, MANY)
    if number is not signal.SIGKILL:
        assert report["mended"] == report["looked_at"] == MANY
    (lost,) = whole[1].keys() - cluster.content()[1].keys()
    assert lost == cluster.keys(1)[0]
    status, report = cluster.run("repair")
    assert (status, report["mended"]) == (0, 1)
    assert cluster.content() == whole


async def test_the_roster_is_watched_while_a_tool_runs(tmp_path: Path) -> None:
    roster, here = tmp_path / "roster", "127.0.0.1:1"
    roster.write_text(here)
    settings = load(
        f"[cluster]\nkind = 'replicated'\n[replicated]\nstores = ['{here}', '127.0.0.2:1']\n"
        f"copies = 2\nowed_folder = '{tmp_path / 'owed'}'\n"
        f"roster = '{roster}'\nroster_check_s = 0.05\n"
    )
    await EmbeddedStore(tmp_path / "owed").close()
    others = asyncio.all_tasks()
    async with opened(Tool.CHECK, settings) as subject:
        assert subject.replicas is not None and subject.replicas.roster is not None
        watched = subject.replicas.roster
        assert watched.is_live(here) and not watched.is_live("127.0.0.2:1")
        roster.write_text("127.0.0.2:1")
        await until(lambda: watched.is_live("127.0.0.2:1"), "the change is seen")
        assert not watched.is_live(here)
    assert asyncio.all_tasks() == others


def test_a_node_that_is_down_or_stands_still(cluster: Cluster) -> None:
    cluster.fill(30)
    cluster.change(0, dict.fromkeys(cluster.keys(10)))
    cluster.nodes[1].pause()
    for tool in ("check", "rebalance"):
        status, report = cluster.run(tool)
        assert (status, list(report["unreachable"])) == (2, [cluster.nodes[1].address])
    cluster.nodes[1].resume()
    cluster.nodes[1].kill()
    status, report = cluster.run("check")
    assert (status, list(report["unreachable"])) == (2, [cluster.nodes[1].address])
    cluster.nodes[1].start()
    assert cluster.run("repair")[0] == 0


def test_stores_are_changed_and_files_move(cluster: Cluster, tmp_path: Path) -> None:
    cluster.fill(MANY)
    with running(node(tmp_path)) as added:
        former = json.dumps([each.address for each in cluster.nodes])
        stores = json.dumps([each.address for each in [*cluster.nodes[:2], added]])
        (tmp_path / "sfss.toml").write_text(
            f"[cluster]\nkind = 'replicated'\n[replicated]\nstores = {stores}\ncopies = 2\n"
            f"former_stores = {former}\nowed_folder = 'owed'\n"
        )
        status, report = cluster.run("check")
        assert status == 1 and report["findings"]["misplaced"] > MANY
        status, report = cluster.run("rebalance")
        assert status == 0 and report["moved"] > MANY
        assert cluster.run("check")[0] == 0
        cluster.nodes.append(added)  # type: ignore[attr-defined]
        held = [len(each) - 1 for each in cluster.content()]
        assert held[2] == 0 and sum(held) == 2 * MANY and min(held[0], held[1], held[3]) > 0


def test_a_scrub_that_goes_on_for_ever(cluster: Cluster) -> None:
    cluster.fill(10)
    (key, *_) = cluster.keys(10)
    process = cluster.begin("scrub", "--every", "0.00001", "--rate", "100")
    assert process.stdout is not None
    reports = iter(process.stdout.readline, "")
    assert any("all is well" in line for line in reports)
    value = cluster.content()[0][key]
    cluster.change(0, {key: value[:-1] + b"?"})
    assert any("1 damaged; 1 mended" in line for line in reports)
    assert any("all is well" in line for line in reports)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode in (0, INTERRUPTED)
    assert cluster.content()[0][key] == value


def test_a_repair_beside_a_gateway(cluster: Cluster) -> None:
    with running(gateway(cluster.folder, settings=cluster.text)) as server:
        bodies = {f"file {number}": b"%d" % number * 99 for number in range(60)}
        for path, body in bodies.items():
            assert server.put(path, body).status == 200
        cluster.nodes[2].kill()
        for path in list(bodies)[:20]:
            bodies[path] = b"newer " + path.encode()
            assert server.put(path, bodies[path]).status == 200
        cluster.nodes[2].start()
        status, report = cluster.run("repair")
        assert (status, report["owed"]) == (0, 0)
        assert cluster.run("check")[0] == 0
        assert {path: server.get(path).body for path in bodies} == bodies


def test_the_tools_over_memcached(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(running(memcached(tmp_path))) for _ in range(3)]
        cluster = Cluster(tmp_path, servers)
        cluster.fill(30)
        ask(servers[0], b"delete photos/00001.jpg\r\n", b"DELETED\r\n")
        ask(servers[1], b"set photos/00002.jpg %d 0 5\r\nwrong\r\n" % RECORD_FLAGS, b"STORED\r\n")
        ask(servers[2], b"set %zz 0 0 5\r\nother\r\n", b"STORED\r\n")
        status, report = cluster.run("check")
        assert (status, report["looked_at"], report["foreign"]) == (1, 30, 1)
        assert (report["findings"]["missing"], report["findings"]["damaged"]) == (1, 1)
        status, report = cluster.run("repair")
        assert (status, report["mended"]) == (0, 2)
        status, report = cluster.run("check")
        assert (status, sum(report["findings"].values())) == (0, 0)
        ask(servers[2], b"get %zz\r\n", b"VALUE %zz 0 5\r\n")


def test_damage_that_only_a_list_can_tell(tmp_path: Path) -> None:
    """With one copy, or with all copies damaged, nothing else knows of the file."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        for count in (1, 3):
            (tmp_path / str(count)).mkdir()
            cluster = Cluster(tmp_path / str(count), nodes[:count])
            cluster.fill(20)
            for number, items in enumerate(cluster.content()):
                damaged = bytearray(items[b"photos/00007.jpg"])
                damaged[20] ^= 1
                cluster.change(number, {b"photos/00007.jpg": bytes(damaged)})
            for tool in ("check", "scrub"):
                status, report = cluster.run(tool)
                assert (status, report["keys"]) == (1, 20)
                assert report["findings"]["damaged"] == report["remaining"] == count
                assert {row["path"] for row in report["found"]} == {"photos/00007.jpg"}


def ask(server: Server, command: bytes, answer: bytes) -> None:
    """Send a command without any of our code, and hear the answer."""
    with socket.create_connection((server.host, server.port), timeout=DEADLINE_S) as connection:
        connection.sendall(command)
        assert connection.makefile("rb").readline() == answer


# -- other kinds of clusters, and the command line


def test_an_embedded_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = tmp_path / "sfss.toml", tmp_path / "store"
    config.write_text(f"[embedded]\nfolder = '{folder}'\n")
    work = ["--config", str(config), "--work", str(tmp_path / "work")]
    assert main(["check", *work]) == 2
    assert "its files are gone" in capsys.readouterr().err

    async def fill() -> None:
        store = EmbeddedStore(folder)
        for number in range(20):
            await store.set(b"photos/%d" % number, new_record(b"%d" % number * 99, 1))
        await store.close()

    asyncio.run(fill())
    assert main(["check", *work]) == main(["scrub", *work]) == 0
    with (
        lmdb.open(str(folder), lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        value = transaction.get(b"photos/7")
        assert value is not None
        transaction.put(b"photos/7", value[:-1] + b"?")
    capsys.readouterr()
    for tool in ("check", "scrub"):
        assert main([tool, *work]) == 1
        assert "damaged   " in capsys.readouterr().out
    with (
        lmdb.open(str(folder), lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key in (b"photos/8", b"photos/9"):
            value = transaction.get(key)
            assert value is not None
            flipped = bytes([value[20] ^ 1])
            transaction.put(
                key, value[:-3] if key == b"photos/8" else value[:20] + flipped + value[21:]
            )
    for tool in ("check", "scrub"):
        assert main([tool, *work]) == 1
        said = capsys.readouterr().out
        assert "20 keys" in said and "3 damaged" in said
        assert all(f"photos/{number}: " in said for number in (7, 8, 9))
    assert main(["repair", *work]) == 2
    assert 'cluster.kind: is "embedded"; sfss repair is for "replicated"' in capsys.readouterr().err


@pytest.mark.parametrize("tool", TOOLS)
def test_kinds_that_have_no_copies(
    tmp_path: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sfss.toml"
    config.write_text("[cluster]\nkind = 'nodes'\n[memcached]\nservers = ['127.0.0.1:1']\n")
    assert main([tool, "--config", str(config), "--work", str(tmp_path / "work")]) == 2
    assert f'sfss {tool} is for "replicated"' in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["-1", "nan", "inf"])
def test_a_wrong_rate(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"--rate={rate}"]) == 2
    assert "--rate" in capsys.readouterr().err


def test_a_list_of_debts_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sfss.toml"
    config.write_text(
        "[cluster]\nkind = 'replicated'\n[replicated]\nstores = ['127.0.0.1:1']\n"
        f"owed_folder = '{tmp_path / 'owed'}'\ncopies = 1\n"
    )
    assert main(["repair", "--config", str(config), "--work", str(tmp_path / "work")]) == 2
    assert "its files are gone" in capsys.readouterr().err
    assert not (tmp_path / "owed").exists()
