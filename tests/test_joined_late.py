"""Members that come back late, and do not hear at once what the others have agreed on."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.joined import Member, joined, settled
from tests.probe.test_joined import paused
from tests.servers import Answer

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
