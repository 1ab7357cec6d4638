"""Disks that are lost in the middle of a change of the members."""

from pathlib import Path

from tests.joined import Member, joined, settled
from tests.servers import wait_until

FILES = 120


def slow(member: Member) -> None:
    """Have the member move few files a second, from its next start."""
    text = member.config.read_text()
    member.config.write_text(text.replace("heartbeat_s", "moves_per_s = 25\nheartbeat_s"))
    member.stop()
    member.start()


def put_files(member: Member) -> None:
    for number in range(FILES):
        assert member.put(f"files/{number}", f"file {number}".encode()).status in (200, 201)


def check_files(members: list[Member]) -> None:
    for number in range(FILES):
        for member in members:
            answer = member.get(f"files/{number}")
            assert (answer.status, answer.body) == (200, f"file {number}".encode()), member.place


def shown(member: Member) -> dict[str, object]:
    view: dict[str, object] = member.view()["members"]
    return view


def test_a_disk_is_lost_while_files_move(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members[0])
        for member in members:
            slow(member)
        settled(members)
        members.append(Member(tmp_path / "more", [members[0].place]))
        members[3].start()
        wait_until(lambda: shown(members[0])["moving"] is not None, "files move")
        members[1].kill()
        members[1].lose_disk()
        members[1].start()
        settled(members)
        check_files(members)


def test_a_disk_is_lost_while_others_remove_what_has_moved(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members[0])
        for member in members:
            slow(member)
        settled(members)
        members.append(Member(tmp_path / "more", [members[0].place]))
        members[3].start()
        wait_until(lambda: shown(members[0])["moving"] is not None, "files move")
        wait_until(lambda: shown(members[0])["moving"] is None, "all have moved", 60)
        members[3].kill()
        members[3].lose_disk()
        members[3].start()
        settled(members)
        check_files(members)
