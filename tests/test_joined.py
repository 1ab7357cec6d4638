"""Gateways that find each other: who belongs to the cluster, and what becomes of the files."""

import subprocess
from pathlib import Path

import pytest

from tests.joined import BUCKET, MEMBERS_SECRET, Member, bucket_in, joined, settled
from tests.servers import DEADLINE_S, SFSS, running, wait_until

FILES = 60


def put_files(members: list[Member], text: str = "file") -> None:
    for number in range(FILES):
        member = members[number % len(members)]
        answer = member.put(f"files/{number}", f"{text} {number}".encode())
        assert answer.status in (200, 201), answer


def listed(member: Member) -> list[str]:
    """Return the paths that a member lists, by their numbers."""
    answer = member.request("GET", "/files?prefix=files/")
    assert answer.status == 200, answer
    return sorted(
        (each["path"] for each in answer.json()["files"]), key=lambda path: (len(path), path)
    )


def check_files(members: list[Member], text: str = "file") -> None:
    for number in range(FILES):
        for member in members:
            answer = member.get(f"files/{number}")
            assert (answer.status, answer.body) == (200, f"{text} {number}".encode()), member.place


def curr_items(member: Member) -> int:
    storages = member.request("GET", "/status").json()
    return int(storages[member.place]["curr_items"])


def test_members_learn_of_each_other_and_share_files(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members)
        check_files(members)
        done = members[2].tool()
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" live") == 3
        for member in members:
            assert member.place in done.stdout


def test_a_member_that_is_alone_takes_files_with_it(tmp_path: Path) -> None:
    first, second = Member(tmp_path / "1"), None
    with running(first):
        put_files([first])
        second = Member(tmp_path / "2", [first.place])
        first.stop()
        with running(second):
            assert "no member of a cluster to join answers" in second.output()
            assert second.put("alone", b"by itself").status == 200
            assert second.get("alone").body == b"by itself"
            # It is told that there are others, and these may have what it does not.
            assert second.get("files/1").status == 504
            assert second.request("DELETE", "/file?path=other").status == 504
            assert second.get_object(second.new_id()).status == 504
            first.start()
            settled([first, second])
            check_files([first, second])
            assert first.get("alone").body == b"by itself"
            assert second.get("nothing").status == 404


def test_files_move_to_a_member_that_joins_and_from_one_that_leaves(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members)
        members.append(Member(tmp_path / "more", [members[1].place]))
        members[3].start()
        settled(members)
        check_files(members)
        for member in members:
            assert listed(member) == [f"files/{number}" for number in range(FILES)]
        counts = [curr_items(member) for member in members]
        assert sum(counts) == 3 * FILES, counts  # three copies, and nothing left behind
        assert all(counts), counts
        put_files(members[1:], "newer")
        leaving = members.pop(0)
        done = members[0].tool("leave", leaving.place)
        assert (done.returncode, done.stdout) == (0, f"agreed: leave {leaving.place}\n"), (
            done.stderr
        )
        settled(members)
        wait_until(lambda: "has left" in leaving.tool().stdout, "it knows that it has left")
        check_files([*members, leaving], "newer")  # it is a gateway to the others still
        leaving.stop()
        check_files(members, "newer")
        assert sum(curr_items(member) for member in members) == 3 * FILES


def test_what_was_done_while_a_member_was_away_reaches_it_first(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members)
        members[2].kill()
        put_files(members[:2], "newer")
        for number in range(0, FILES, 2):
            answer = members[0].request("DELETE", f"/file?path=files/{number}")
            assert answer.status == 204, answer
        assert listed(members[1]) == [f"files/{number}" for number in range(1, FILES, 2)]
        members[2].start()
        for number in range(FILES):
            answer = members[2].get(f"files/{number}")
            wanted = (404, 200)[number % 2]
            assert answer.status == wanted, (number, answer)
            if wanted == 200:
                assert answer.body == f"newer {number}".encode()
        wait_until(lambda: not members[0].view()["owed"], "debts are paid")


def test_with_a_majority_away_nothing_is_said_not_to_be_there(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members)
        for member in members[1:]:
            member.kill()
        assert members[0].get("files/1").status == 504
        assert members[0].get("nothing").status == 504
        assert members[0].request("GET", "/files").status == 504
        assert members[0].put("another", b"not kept").status in (503, 504)
        for member in members[1:]:
            member.start()
        settled(members)
        check_files(members[1:])


def test_a_member_whose_disk_was_lost_is_filled_again(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members)
        members[0].kill()  # the first: it is not to found another cluster
        members[0].lose_disk()
        members[0].start()
        for number in range(FILES):
            # As long as it is not full again it is not believed.
            answer = members[1].get(f"files/{number}")
            assert (answer.status, answer.body) == (200, f"file {number}".encode())
        settled(members)
        check_files(members)
        assert curr_items(members[0]) == FILES
        assert listed(members[0]) == [f"files/{number}" for number in range(FILES)]


def statuses(member: Member) -> set[int]:
    """Return how a member answers for all files."""
    return {member.get(f"files/{number}").status for number in range(FILES)}


def test_a_member_that_is_gone_for_good_is_forgotten(tmp_path: Path) -> None:
    with joined(tmp_path, 4) as members:
        put_files(members)
        gone = members.pop()
        gone.kill()
        refused = members[0].tool("leave", gone.place)
        assert refused.returncode == 1
        assert f"{gone.place} does not answer" in refused.stderr
        done = members[0].tool("forget", gone.place)
        assert done.returncode == 0, done.stderr
        settled(members)
        check_files(members)
        assert sum(curr_items(member) for member in members) == 3 * FILES
        # Back after all, it learns of it, and does not bring back what it has.
        gone.start()
        wait_until(lambda: "has left" in gone.tool().stdout, "it knows that it has left")
        # Each of its workers reads by itself whom it may ask; until then, nobody can tell.
        wait_until(lambda: statuses(gone) == {200}, "its workers ask the others")
        check_files([gone])


def test_the_last_but_one_is_forgotten_by_force_only(tmp_path: Path) -> None:
    with joined(tmp_path, 2) as members:
        put_files(members)
        gone = members.pop()
        gone.kill()
        refused = members[0].tool("forget", gone.place)
        assert refused.returncode == 1
        assert "a majority of 2 members has to answer" in refused.stderr
        assert members[0].tool("forget", gone.place, "--force").returncode == 0
        settled(members)
        check_files(members)


def tool(member: Member, name: str) -> "subprocess.CompletedProcess[str]":
    """Run a repair tool with the settings of a member."""
    return subprocess.run(
        [*SFSS, name, "--config", str(member.config)],
        cwd=member.folder,
        env=member.environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_tools_look_at_the_stores_of_all(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        put_files(members)
        for name in ("check", "repair", "scrub"):
            done = tool(members[1], name)
            assert (done.returncode, done.stderr) == (0, ""), name
            assert f"{FILES} keys on 3 stores" in done.stdout
        done = tool(members[1], "rebalance")
        assert done.returncode == 2
        assert 'cluster.kind: is "joined"; sfss rebalance is for "replicated"' in done.stderr


@pytest.mark.parametrize("wrong", ["", "something-else-entirely"])
def test_without_the_secret_nobody_joins(tmp_path: Path, wrong: str) -> None:
    with joined(tmp_path, 1) as members:
        put_files(members)
        with running(Member(tmp_path / "x", [members[0].place], secret=wrong)) as stranger:
            wait_until(lambda: "alone so far" in stranger.output(), "it is told that it is alone")
            assert stranger.get("files/1").status == 504
            assert set(members[0].view()["members"]["members"]) == {members[0].place}
            assert MEMBERS_SECRET not in members[0].output() + stranger.output()


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    member = Member(tmp_path / "1")
    text = member.config.read_text()
    member.config.write_text(text.replace(f'advertise = "{member.place}"', ""))
    done = member.tool()
    assert done.returncode == 2
    assert "discovery.advertise: is empty" in done.stderr
    member.config.write_text(text.replace("127.0.0.1:", "0.0.0.0:"))
    member.environ["SFSS_DISCOVERY_SECRET"] = ""
    done = member.tool()
    assert "discovery.secret: is empty, and discovery.advertise is" in done.stderr
    member.config.write_text("")
    assert 'cluster.kind: is "embedded"; "joined" is expected' in member.tool().stderr


def test_objects_of_all_levels(tmp_path: Path) -> None:
    with bucket_in(tmp_path / "s3") as bucket, joined(tmp_path, bucket=bucket) as members:
        bodies = {}
        for level in (0, 1, 2):
            object_id = members[level].new_id()
            bodies[object_id] = f"level {level}".encode()
            assert members[level].put_object(object_id, bodies[object_id], level).status == 200
        zero, one, two = bodies
        assert sorted(bucket.keys(BUCKET)) == sorted([one, two])
        for object_id, body in bodies.items():
            for member in members:
                assert member.get_object(object_id).body == body
        # Of level 0 one member has the body, of level 2 all.
        shown = [member.get_object(zero).headers.get("x-meta-symlink") for member in members]
        assert shown == [None, "true", "true"]
        assert all("x-meta-symlink" not in m.get_object(two).headers for m in members)
        members[1].kill()
        assert members[0].get_object(one).body == b"level 1"  # from the bucket
        members[0].kill()
        assert members[2].get_object(one).status == 504  # one of three cannot tell


def test_a_deletion_holds_on_a_member_that_was_away_and_in_the_bucket(tmp_path: Path) -> None:
    with bucket_in(tmp_path / "s3") as bucket, joined(tmp_path, bucket=bucket) as members:
        object_id = members[0].new_id()
        assert members[0].put_object(object_id, b"to be deleted", 2).status == 200
        members[2].kill()
        assert members[0].delete_object(object_id).status == 200
        assert bucket.keys(BUCKET) == []
        members[2].start()
        for member in members:
            for fetches in (False, True):
                answer = member.get_object(object_id, fetches)
                assert (answer.status, answer.headers["x-meta-deleted"]) == (404, "true")
            assert member.delete_object(object_id).status == 200


def test_all_disks_lost_but_the_bucket(tmp_path: Path) -> None:
    with bucket_in(tmp_path / "s3") as bucket, joined(tmp_path, 2, bucket) as members:
        object_id = members[0].new_id()
        assert members[0].put_object(object_id, b"kept", 1).status == 200
        for member in members:
            member.kill()
            member.lose_disk()
        for member in members:
            member.start()
        assert members[0].tool("found").returncode == 0
        settled(members)
        assert members[1].get_object(object_id).status == 404
        answer = members[1].get_object(object_id, fetches=True)
        assert (answer.status, answer.body) == (200, b"kept")
        assert answer.headers["x-meta-fetched"] == "true"
        assert members[0].get_object(object_id).body == b"kept"
