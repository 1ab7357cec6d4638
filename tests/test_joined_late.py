"""Members that come back late, and do not hear at once what the others have agreed on."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.joined import Member, joined, settled
from tests.probe.test_joined import paused
from tests.servers import Answer, wait_until

FILES = 40


def test_who_has_heard_nobody_yet_does_not_go_by_what_it_knew(tmp_path: Path) -> None:
    with joined(tmp_path, 4) as members:
        for number in range(FILES):
            assert members[0].put(f"files/{number}", b"old").status in (200, 201)
        late = members.pop()
        late.kill()
        assert members[0].tool("forget", late.place).returncode == 0
        settled(members)
        for name in ("e", "f", "g"):
            members.append(Member(tmp_path / name, [members[0].place]))
            members[-1].start()
            settled(members)
        for number in range(FILES):
            assert members[0].put(f"files/{number}", b"new").status in (200, 201)

        def read(number: int) -> tuple[int, Answer]:
            return number, late.get(f"files/{number}")

        with ThreadPoolExecutor(FILES) as pool:
            with ExitStack() as stack:
                for member in members:
                    stack.enter_context(paused(member))
                late.start()  # nobody answers in time
                asked = [pool.submit(read, number) for number in range(FILES)]
            for answer in asked:
                number, found = answer.result()
                assert found.status >= 500 or found.body == b"new", (number, found)
            for number in range(FILES):
                found = late.get(f"files/{number}")
                assert found.status >= 500 or found.body == b"new", (number, found)


def test_all_members_start_again_at_the_same_time(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        for number in range(FILES):
            assert members[0].put(f"files/{number}", b"kept").status in (200, 201)
        for member in members:
            member.kill()
        with ThreadPoolExecutor(3) as pool:
            starts = [pool.submit(member.start) for member in members]
            for start in starts:
                start.result()
            for number in range(FILES):  # what cannot be told yet is not said to be gone
                found = members[number % 3].get(f"files/{number}")
                assert found.status in (200, 503, 504), found
                assert members[number % 3].get(f"none/{number}").status in (404, 503, 504)
        settled(members)
        for member in members:
            wait_until(
                partial(has_kept, member), "what a member knows of the others is seen by all"
            )


def has_kept(member: Member) -> bool:
    """Tell whether a member has a file; it may not be able to tell yet."""
    answer = member.get("files/1")
    assert answer.status in (200, 503, 504), answer
    return answer.body == b"kept"


def test_the_first_with_an_empty_disk_gives_way_to_those_who_come_later(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        first, others = members[0], members[1:]
        text = first.config.read_text()
        join = f'join = ["{first.place}", "{others[0].place}"]'
        first.config.write_text(text.replace("join = []", join))
        assert first.put("kept", b"kept").status == 200
        for member in members:
            member.kill()
        first.lose_disk()
        first.start()  # nobody is there: it is alone
        assert first.put("alone", b"alone").status == 200
        for member in others:
            member.start()
        settled(members)
        for member in members:
            assert member.get("kept").body == b"kept"
            assert member.get("alone").body == b"alone"


def test_a_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with joined(tmp_path, 1) as members:
        members[0].stop()
        file = members[0].folder / "store" / "member.json"
        good = file.read_text()
        for bad in ("", "[]", "{", good[:-20], good.replace('"moved": ', '"moved": 1e999')):
            file.write_text(bad)
            done = members[0].tool()
            assert (done.returncode, "Traceback" in done.stderr) == (2, False), (bad, done.stderr)
            assert "a folder with a sound state" in done.stderr
            assert file.read_text() == bad
        file.write_text(good)
