"""Members of one cluster under load, while they are killed, lose their disks, join and leave.

No acknowledged file and no object of level 1 or 2 is lost, no deletion is undone, and what cannot
be told is not said to be gone. For longer: ``pytest tests/probe/test_joined.py --probe-s 120``.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.joined import Member, bucket_in, joined, settled
from tests.probe.expectations import Body, Expected
from tests.servers import Answer, S3Server, wait_until

CLIENTS = 4
NAMES = 16
"""Files, and objects, of each client."""

MOST_MEMBERS = 5
LEAST_MEMBERS = 3
KEPT = (200, 201, 204)

Ask: TypeAlias = Callable[[], Answer]


class Client(threading.Thread):
    """Changes and reads names of its own through any of ``members``, until it is told to stop."""

    def __init__(self, number: int, seed: int, members: Sequence[Member]) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.members = members
        self.number, self._random = number, random.Random(seed + number)
        self._stopping = threading.Event()
        self.objects = {f"01J{number:03d}{index:020d}": Expected() for index in range(NAMES)}
        self.files = {f"probe/{number}/{index}": Expected() for index in range(NAMES)}
        self.levels: dict[str, int] = {}
        self.wrong: list[str] = []
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        """Go on until ``stop``."""
        serial = 0
        while not self._stopping.is_set() and not self.wrong:
            serial += 1
            member = self._random.choice(self.members)
            if self._random.random() < 0.5:
                self._use_object(member, self._random.choice(list(self.objects)), serial)
            else:
                self._use_file(member, self._random.choice(list(self.files)), serial)

    def stop(self) -> None:
        """End after the request that is under way."""
        self._stopping.set()
        self.join()

    def _use_object(self, member: Member, name: str, serial: int) -> None:
        expected, choice = self.objects[name], self._random.random()
        if choice < 0.4:
            level = self._random.choice((1, 2))
            body = f"{name} {serial} ".encode() * self._random.choice((1, 10, 1000))
            self._change(lambda: member.put_object(name, body, level), expected, body)
        elif choice < 0.5:
            self._change(lambda: member.delete_object(name), expected, None)
        else:
            fetches = self._random.random() < 0.5
            self._read(lambda: member.get_object(name, fetches), expected, name, member)

    def _use_file(self, member: Member, path: str, serial: int) -> None:
        expected, choice = self.files[path], self._random.random()
        if choice < 0.4:
            body = f"{path} {serial} ".encode() * self._random.choice((1, 10, 1000))
            self._change(lambda: member.put(path, body), expected, body)
        elif choice < 0.5:
            target = f"/file?path={path}"
            self._change(lambda: member.request("DELETE", target), expected, None)
        else:
            self._read(lambda: member.get(path), expected, path, member)

    def _change(self, ask: Ask, expected: Expected, body: Body) -> None:
        answer = self._asked(ask)
        if answer is not None and answer.status in KEPT:
            expected.acknowledged(body)
        elif answer is not None and answer.status == 404 and body is None:
            # There is nothing to be deleted: what was unsure is known now.
            self._check(expected, None, answer, "deleting")
        else:
            expected.unsure(body)

    def _read(self, ask: Ask, expected: Expected, name: str, member: Member) -> None:
        answer = self._asked(ask)
        if answer is None or answer.status >= 500:
            return
        found = answer.body if answer.status == 200 else None
        self._check(expected, found, answer, f"{name} of {member.place}")

    def _check(self, expected: Expected, found: Body, answer: Answer, what: str) -> None:
        complaint = expected.complaint(found)
        if complaint is not None:
            now = time.strftime("%H:%M:%S")
            self.wrong.append(f"{now} {what}: {answer.status} {answer.body[:200]!r}: {complaint}")

    def _asked(self, ask: Ask) -> Answer | None:
        try:
            answer = ask()
        except (OSError, HTTPException):
            self.statuses[0] += 1
            return None
        self.statuses[answer.status] += 1
        return answer

    def read_all(self, members: Sequence[Member]) -> None:
        """Read everything through every member: each has to have an answer, and the right one."""
        for member in members:
            for name, expected in self.objects.items():
                answer = member.get_object(name, fetches=True)
                assert answer.status in (200, 404), (name, member.place, answer)
                found = answer.body if answer.status == 200 else None
                self._check(expected, found, answer, f"{name} of {member.place}")
            for path, expected in self.files.items():
                answer = member.get(path)
                assert answer.status in (200, 404), (path, member.place, answer)
                found = answer.body if answer.status == 200 else None
                self._check(expected, found, answer, f"{path} of {member.place}")


class Chaos:
    """What happens to ``members`` of a cluster: one thing after the other."""

    def __init__(
        self, folder: Path, members: list[Member], bucket: S3Server, dice: random.Random
    ) -> None:
        self._folder, self.members, self._bucket, self._dice = folder, members, bucket, dice
        self.everybody = list(members)
        self.events: list[str] = []

    def happen(self) -> None:
        """Do something to the members, and wait until all is well again."""
        choices = [self.kill, self.lose_disk, self.pause, self.kill_master, self.renew]
        if len(self.members) >= MOST_MEMBERS:
            choices += [self.kill_two, self.kill_two]
        if len(self.members) < MOST_MEMBERS:
            choices += [self.join, self.join, self.join_and_kill]
        if len(self.members) > LEAST_MEMBERS:
            choices += [self.leave, self.forget, self.leave_and_kill]
        self._dice.choice(choices)()
        settled(self.members)
        self._say("all is well")

    def _say(self, event: str) -> None:
        self.events.append(f"{time.strftime('%H:%M:%S')} {event}")

    def kill(self) -> None:
        """Kill a member, and start it again after a while."""
        member = self._dice.choice(self.members)
        self._say(f"kill {member.place}")
        member.kill()
        time.sleep(self._dice.random())  # what is measured is what happens meanwhile
        member.start()

    def pause(self) -> None:
        """Have all workers of a member stop for a while, which may be longer than all others wait
        for it.
        """
        member, seconds = self._dice.choice(self.members), 8 * self._dice.random()
        self._say(f"pause {member.place} for {seconds:.1f} s")
        with paused(member):
            time.sleep(seconds)

    def kill_two(self) -> None:
        """Kill two members at once: of five, three are left, and each file has a copy there."""
        two = self._dice.sample(self.members, 2)
        self._say(f"kill {two[0].place} and {two[1].place}")
        for member in two:
            member.kill()
        time.sleep(self._dice.random())
        for member in two:
            member.start()

    def kill_master(self) -> None:
        """Kill the master of a member alone: its workers see that, and end."""
        member = self._dice.choice(self.members)
        self._say(f"kill the master of {member.place}")
        workers = member.workers()
        os.kill(member.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, workers)), "its workers end")
        member.kill()  # there is nothing left of it but what has to be waited for
        member.start()

    def renew(self) -> None:
        """Have members start new workers, some of them twice, while another joins or not."""
        for member in self._dice.choices(self.members, k=3):
            self._say(f"HUP {member.place}")
            member.send(signal.SIGHUP)
            time.sleep(self._dice.random() / 2)

    def join_and_kill(self) -> None:
        """Start another member, and kill one, old or new, somewhere in the change."""
        self.join()
        time.sleep(2 * self._dice.random())
        self.kill()

    def leave_and_kill(self) -> None:
        """Have a member leave, and kill one, the same or another, somewhere in the change."""
        leaving = self._dice.choice(self.members)
        others = [each for each in self.members if each is not leaving]
        self._say(f"{leaving.place} leaves")
        done = others[0].tool("leave", leaving.place)
        assert done.returncode == 0, done.stderr
        time.sleep(self._dice.random())
        self.kill()
        self.members.remove(leaving)
        settled(self.members)
        wait_until(lambda: "has left" in leaving.tool().stdout, "it knows that it has left")
        leaving.stop()

    def lose_disk(self) -> None:
        """Kill a member and start it without anything that it had; also without the address of
        another that lives: the others know its own.
        """
        member = self._dice.choice(self.members)
        other = self._dice.choice([each for each in self.members if each is not member])
        self._say(f"{member.place} loses its disk")
        member.kill()
        member.lose_disk()
        if self._dice.random() < 0.5:
            member.joins(other.place)
        member.start()

    def join(self) -> None:
        """Start another member."""
        through = self._dice.choice(self.members).place
        folder = self._folder / f"more-{len(self.everybody)}"
        member = Member(folder, [through], self._bucket)
        self._say(f"{member.place} joins through {through}")
        self.everybody.append(member)
        member.start()
        self.members.append(member)

    def leave(self) -> None:
        """Have a member leave, and stop it when it has."""
        member = self._dice.choice(self.members)
        others = [each for each in self.members if each is not member]
        self._say(f"{member.place} leaves")
        done = others[0].tool("leave", member.place)
        assert done.returncode == 0, done.stderr
        self.members.remove(member)
        settled(others)
        wait_until(lambda: "has left" in member.tool().stdout, "it knows that it has left")
        member.stop()

    def forget(self) -> None:
        """Kill a member for good."""
        member = self._dice.choice(self.members)
        self._say(f"{member.place} is gone for good")
        self.members.remove(member)
        member.kill()
        done = self._dice.choice(self.members).tool("forget", member.place)
        assert done.returncode == 0, done.stderr


def is_running(pid: int) -> bool:
    """Tell whether there is a process ``pid`` that is more than its own remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def paused(member: Member) -> Iterator[None]:
    """Have the workers of a member stop for the block, without closing their connections."""

    workers = member.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def test_members_come_and_go(
    tmp_path: Path, probe_s: float, probe_seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(probe_seed)
    with bucket_in(tmp_path / "s3") as bucket, joined(tmp_path, 3, bucket) as members:
        chaos = Chaos(tmp_path, members, bucket, dice)
        clients = [Client(number, probe_seed, members) for number in range(CLIENTS)]
        try:
            run(chaos, clients, probe_s)
        finally:
            for member in chaos.everybody:
                member.kill()
    total: Counter[int] = sum((client.statuses for client in clients), Counter())
    with capsys.disabled():
        print(f"\n  {len(chaos.events)} events, answers {dict(sorted(total.items()))}")


def run(chaos: Chaos, clients: Sequence[Client], seconds: float) -> None:
    """Have things happen to the members while the clients go on, and compare in the end."""

    def explain() -> str:
        wrong = [line for client in clients for line in client.wrong[:5]]
        return "\n  ".join(["wrong answers", *wrong, *chaos.events])

    for client in clients:
        client.start()
    try:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            chaos.happen()
            assert not any(client.wrong for client in clients), explain()
    finally:
        for client in clients:
            client.stop()
    assert not any(client.wrong for client in clients), explain()
    settled(chaos.members)
    for client in clients:
        client.read_all(chaos.members)
    assert not any(client.wrong for client in clients), explain()
