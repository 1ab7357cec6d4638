"""Which gateway begins a cluster: one that is told to, and none that has lost its disk."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from threading import Event

from tests.joined import Member, joined, settled
from tests.servers import running, wait_until

FILES = 40
SELDOM = 5
"""Of so many times that something is read, something is written."""

PACE_S = 0.02
LATE_S = 5.0


def put_files(member: Member) -> None:
    for number in range(FILES):
        assert member.put(f"files/{number}", f"file {number}".encode()).status in (200, 201)


def check_files(members: list[Member], written: list[str] | None = None) -> None:
    """Check that every member has all files, and those that were ``written`` meanwhile."""
    for member in members:
        for number in range(FILES):
            answer = member.get(f"files/{number}")
            assert (answer.status, answer.body) == (200, f"file {number}".encode()), member.place
        for path in written or []:
            answer = member.get(path)
            assert (answer.status, answer.body) == (200, path.encode()), (member.place, path)
        assert member.get("nothing").status == 404


def is_told(member: Member) -> bool:
    """Tell whether a member belongs to a cluster, and can say what is not there."""
    return member.get("nothing").status == 404


class Asking:
    """Asks ``members`` for files that are there, and for one to keep; and notes what is wrong."""

    def __init__(self, members: list[Member]) -> None:
        self._members, self._stopping = members, Event()
        self.wrong: list[str] = []
        self.written: list[str] = []

    def run(self) -> None:
        """Go on until ``stop``."""
        serial = 0
        while not self._stopping.wait(PACE_S):
            serial += 1
            for member in self._members:
                try:
                    self._ask(member, serial)
                except (OSError, HTTPException):
                    continue

    def _ask(self, member: Member, serial: int) -> None:
        answer = member.get(f"files/{serial % FILES}")
        if answer.status not in (200, 503, 504):
            self.wrong.append(f"{member.place}: {answer.status} {answer.body[:100]!r}")
        listed = member.request("GET", "/files?prefix=files/")
        if listed.status == 200 and len(listed.json()["files"]) != FILES:
            self.wrong.append(f"{member.place} lists {len(listed.json()['files'])} files")
        path = f"meanwhile/{member.port}/{serial}"
        if serial % SELDOM == 0 and member.put(path, path.encode()).status in (200, 201):
            self.written.append(path)

    def stop(self) -> None:
        """End after the request that is under way."""
        self._stopping.set()


@contextmanager
def asking(members: list[Member]) -> Iterator[Asking]:
    """Ask ``members`` for the block."""
    asker = Asking(members)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(asker.run)
        try:
            yield asker
        finally:
            asker.stop()
        done.result()
    assert not asker.wrong, asker.wrong[:5]


def test_the_first_with_an_empty_disk_is_found_by_the_others(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members[1])
        first = members[0]
        first.kill()
        first.lose_disk()
        with asking(members) as asker:
            first.start()
            settled(members)
        assert asker.written
        check_files(members, asker.written)
        refused = first.tool("found")
        assert refused.returncode == 1
        assert "belongs to a cluster already" in refused.stderr


def test_who_is_told_to_begin_a_cluster_listens_first(tmp_path: Path) -> None:
    """It is easily left in the command with which a machine starts it."""
    with joined(tmp_path) as members:
        put_files(members[1])
        first, command = members[0], members[0].command
        assert "--found" in command
        first.kill()
        first.lose_disk()
        first.command = command
        with asking(members) as asker:
            first.start()
            settled(members)
        check_files(members, asker.written)
        assert "had a cluster of its own" not in first.output()


def test_the_first_with_an_empty_disk_waits_for_others_that_come_late(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members[1])
        first, others = members[0], members[1:]
        for member in members:
            member.kill()
        first.lose_disk()
        with asking(members) as asker:
            first.start()
            wait_until(lambda: "belongs to no cluster yet" in first.output(), "it says so")
            ready = first.request("GET", "/health/ready")
            assert ready.status == 503
            assert "sfss members found" in ready.json()["error"]
            assert "sfss members found" in first.tool().stdout
            assert "sfss members found" in first.view()["members"]["lacking"]
            for target in ("/files", "/files?delimiter=/", "/file?path=files/1"):
                assert first.request("GET", target).status == 504, target
            unless = {"If-None-Match": "*"}
            assert first.request("PUT", "/file?path=files/1", b"x", unless).status == 504
            assert first.request("DELETE", "/file?path=files/1").status == 504
            time.sleep(LATE_S)  # what is looked at is what happens meanwhile
            for member in others:
                member.start()
            settled(members)
        assert any(str(first.port) in path for path in asker.written)
        check_files(members, asker.written)


def test_one_command_begins_a_cluster_of_one(tmp_path: Path) -> None:
    with running(Member(tmp_path / "1")) as member:
        wait_until(lambda: is_told(member), "it is a cluster")
        assert member.request("GET", "/health/ready").status == 200
        assert member.put("kept", b"kept").status == 200
        member.stop()
        member.start()  # with the same command
        assert is_told(member)
        assert member.get("kept").body == b"kept"
        member.stop()
        member.command.remove("--found")
        member.start()
        assert is_told(member)
        assert "lacking" not in member.tool().stdout


def test_a_cluster_is_begun_by_a_command_while_the_gateway_runs(tmp_path: Path) -> None:
    member = Member(tmp_path / "1")
    member.command.remove("--found")
    with running(member):
        assert member.put("alone", b"alone").status == 200
        assert member.get("nothing").status == 504
        joins = Member(tmp_path / "2", [member.place])
        with running(joins):
            refused = joins.tool("found")
            assert refused.returncode == 1
            assert f"discovery.join names {member.place}" in refused.stderr
            done = member.tool("found")
            assert (done.returncode, done.stderr) == (0, "")
            settled([member, joins])
            for each in (member, joins):
                assert each.get("alone").body == b"alone"


def test_who_joins_others_begins_no_cluster(tmp_path: Path) -> None:
    member = Member(tmp_path / "1", ["127.0.0.1:1"])
    done = member.tool("--found", name="serve")
    assert done.returncode == 2
    assert "discovery.join: is ['127.0.0.1:1']" in done.stderr


def test_of_two_members_the_one_that_is_left_is_told(tmp_path: Path) -> None:
    with joined(tmp_path, 2) as members:
        put_files(members[1])
        first, left = members
        first.kill()
        first.lose_disk()
        with asking(members) as asker:
            first.start()
            wait_until(lambda: "has lost its own, and its vote" in first.output(), "it says why")
            assert left.tool("forget", first.place, "--force").returncode == 0
            settled(members)
        check_files(members, asker.written)
