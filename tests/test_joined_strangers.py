"""Gateways that are not what they say, or say what is no sense: none of them changes a cluster."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sfss.errors import Unreachable
from sfss.member_messages import ask
from tests.joined import MEMBERS_SECRET, Member, joined, settled
from tests.servers import free_port, running, wait_until

SETTLE_S = 2.0


def told(member: Member, words: object) -> Any:
    """Return what the member answers to a message of one who knows the secret; None: nothing."""
    payload = words if isinstance(words, bytes) else json.dumps(words).encode()
    try:
        return json.loads(asyncio.run(ask(member.place, MEMBERS_SECRET, payload, SETTLE_S)))
    except Unreachable:
        return None


def epoch_of(member: Member) -> int:
    return int(member.view()["members"]["epoch"])


def test_a_gateway_started_twice_does_not_take_the_place_of_the_first(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        assert members[1].put("kept", b"kept").status == 200
        epoch = epoch_of(members[0])
        # The same settings, from another folder: so with another, empty store.
        again = Member(tmp_path / "again")
        again.command.remove("--found")
        shutil.copy(members[1].config, again.config)
        again.place = members[1].place
        with pytest.raises(pytest.fail.Exception):
            again.start()
        again.kill()
        settled(members)
        assert epoch_of(members[0]) == epoch
        assert "has left" not in members[1].tool().stdout


def test_nobody_is_admitted_at_the_address_of_another(tmp_path: Path) -> None:
    with joined(tmp_path) as members:
        epoch = epoch_of(members[0])
        stranger = Member(tmp_path / "x", [members[0].place])
        text = stranger.config.read_text()
        own = f'advertise = "{stranger.place}"'
        listens = f'advertise = "{members[1].place}"\nlisten = "{stranger.place}"'
        assert own in text
        stranger.config.write_text(text.replace(own, listens))
        with running(stranger):
            wait_until(lambda: "another store" in stranger.output(), "it is told why")
            settled(members)
            assert epoch_of(members[0]) == epoch


def test_nobody_is_admitted_who_cannot_be_reached(tmp_path: Path) -> None:
    with joined(tmp_path, 2) as members:
        epoch = epoch_of(members[0])
        stranger = Member(tmp_path / "x", [members[0].place])
        text = stranger.config.read_text()
        listens = f'advertise = "127.0.0.1:{free_port()}"\nlisten = "{stranger.place}"'
        text = text.replace(f'advertise = "{stranger.place}"', listens)
        stranger.config.write_text(text)
        with running(stranger):
            wait_until(lambda: "not admitted by" in stranger.output(), "it is told why")
            settled(members)
            assert epoch_of(members[0]) == epoch


def beat(member: Member, **words: object) -> dict[str, object]:
    """Return the words of a beat that ``member`` may have said itself, but for ``words``."""
    state = json.loads((member.folder / "store" / "member.json").read_text())
    mine = [member.place, state["store"]]
    return {"tag": "sfss", "ask": "beat", "from": mine, "membership": None, **words}


def test_messages_that_make_no_sense_change_nothing(tmp_path: Path) -> None:
    with joined(tmp_path, 2, workers=1) as members:
        known = json.loads((members[0].folder / "store" / "member.json").read_text())["membership"]
        other = {**known, "cluster": "f" * 32, "epoch": known["epoch"] + 7}
        lower = {**known, "epoch": 1, "members": known["members"][:1]}
        huge = 10**400
        messages: list[object] = [
            b"",
            b"\0" * 1000,
            b"\xff\xfe{}",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"[]",
            b"1e999",
            beat(members[1], tag=["sfss"]),
            beat(members[1], ask={"a": 1}),
            beat(members[1], **{"from": [members[1].place]}),
            beat(members[1], membership=other),
            beat(members[1], membership=lower),
            beat(members[1], membership={**known, "epoch": known["epoch"] + 1, "members": []}),
            beat(members[1], membership={**known, "epoch": float("inf")}),
            beat(members[1], membership={**known, "epoch": huge}),
            beat(members[1], membership={**known, "gone": [["a"]]}),
            beat(members[1], membership={**known, "members": [[1, 2]] * 3}),
            beat(members[1], ask="promise", ballot=[float("inf"), "x"], epoch=known["epoch"] + 1),
            beat(members[1], ask="promise", ballot=[1], epoch="x"),
            beat(members[1], ask="promise"),
            beat(members[1], ask="accept", ballot=[1, "x"]),
            beat(
                members[1],
                ask="accept",
                ballot=[1, "x"],
                **{"membership proposed": {**known, "gone": [["a"]]}},
            ),
            beat(
                members[1],
                ask="accept",
                ballot=[1 << 52, "x"],
                **{"membership proposed": {**other, "epoch": known["epoch"] + 1}},
            ),
            beat(members[1], ask="leave", address=["x"]),
            beat(members[1], ask="forget", address="x" * 100_000, force="yes"),
        ]
        for message in messages:
            told(members[0], message)
        settled(members)
        now = json.loads((members[0].folder / "store" / "member.json").read_text())
        assert now["membership"] == known
        vote = now["vote"]
        assert vote is None or vote["accepted"] is None, vote
        log = members[0].output()
        assert "Traceback" not in log
        members.append(Member(tmp_path / "more", [members[0].place]))
        members[2].start()
        settled(members)


def test_with_another_tag_nobody_joins_and_the_log_says_so_once(tmp_path: Path) -> None:
    with joined(tmp_path, 1) as members:
        stranger = Member(tmp_path / "x", [members[0].place])
        text = stranger.config.read_text()
        stranger.config.write_text(text.replace("[objects]", 'tag = "other"\n\n[objects]'))
        with running(stranger):
            told_why = "its discovery.tag is 'sfss', here it is 'other'"
            wait_until(lambda: told_why in stranger.output(), "it is told why")
            heard = "its discovery.tag is 'other', here it is 'sfss'"
            wait_until(lambda: heard in members[0].output(), "the member says why, too")
        assert set(members[0].view()["members"]["members"]) == {members[0].place}
        assert "Traceback" not in members[0].output()
        # Once for each worker that was asked.
        assert members[0].output().count(heard) <= 2
