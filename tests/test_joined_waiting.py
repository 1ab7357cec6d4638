"""What a change of the members of a cluster waits for, and where that is said."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.joined import Member, joined, settled
from tests.servers import wait_until


@contextmanager
def tool_at_work(member: Member) -> Iterator[int]:
    """Hold the epoch of a member as a tool does that looks at all files, for the block."""
    epoch = int(member.view()["members"]["epoch"])
    file = member.folder / "store" / "member.epochs" / str(epoch)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield epoch
    finally:
        os.close(descriptor)


def test_a_change_waits_for_a_tool_and_that_is_shown(tmp_path: Path) -> None:
    with joined(tmp_path, 2) as members:
        with tool_at_work(members[1]) as epoch:
            members.append(Member(tmp_path / "more", [members[0].place]))
            members[2].start()
            said = f"{members[1].place}  live, has a process that goes by epoch {epoch}"
            for member in members[:2]:
                wait_until(lambda: said in member.tool().stdout, f"{member.place} says: {said}")  # noqa: B023
            assert members[0].view()["members"]["members"][members[1].place]["moved"] <= epoch
        settled(members)
        assert "goes by" not in members[0].tool().stdout


def test_who_had_a_cluster_of_its_own_is_waited_for_as_well(tmp_path: Path) -> None:
    """Its epochs have nothing to do with those of the cluster that it joins."""
    with joined(tmp_path, 1) as members, joined(tmp_path / "own", 2) as others:
        own, gone = others
        gone.kill()
        assert own.tool("forget", gone.place, "--force").returncode == 0
        settled([own])
        assert own.put("alone", b"alone").status == 200
        own.stop()
        members[0].stop()
        text = own.config.read_text()
        own.config.write_text(text.replace("join = []", f'join = ["{members[0].place}"]'))
        own.start()
        with tool_at_work(own) as epoch:
            members[0].start()
            assert epoch > int(members[0].view()["members"]["epoch"]) + 2
            moves = f"{own.place}  live, has a process that goes by"
            wait_until(lambda: moves in members[0].tool().stdout, "it is waited for")
            shown = members[0].view()["members"]
            assert shown["members"][own.place]["moved"] == 0
        settled([members[0], own])
        assert members[0].get("alone").body == b"alone"
