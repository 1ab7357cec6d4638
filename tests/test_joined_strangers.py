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
from tests.servers import quiet_port, running, wait_until

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
        listens = f'advertise = "127.0.0.1:{quiet_port()}"\nlisten = "{stranger.place}"'
        text = text.replace(f'advertise = "{stranger.place}"', listens)
        stranger.config.write_text(text)
        with running(stranger):
            wait_until(lambda: "not admitted by" in stranger.output(), "it is told why")
            settled(members)
            assert epoch_of(members[0]) == epoch
