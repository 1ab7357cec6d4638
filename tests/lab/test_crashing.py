"""SIGKILL at any moment: all that was acknowledged is there, and nothing is there in part.

For more of it: ``pytest tests/lab/test_crashing.py --lab-kills 1000``.
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from sfss.record import new_record
from sfss.stores.embedded import EmbeddedStore
from tests.lab.ledger import Event, Ledger, body_of
from tests.lab.store_check import complaints
from tests.probe.load import Load
from tests.servers import CHECKOUT, PYTHON_ENVIRON, gateway, running

KILLS_EACH_GATEWAY = 15
"""A gateway takes that much longer to start than a process that writes."""

EMBEDDED = "[embedded]\nfolder = 'store'\n[cluster]\nchunks_above = 65536\n"


def test_processes_that_write_to_a_store(
    tmp_path: Path, lab_kills: int, lab_seed: int, say: Callable[[str], None]
) -> None:
    options = [str(tmp_path), "--kills", str(lab_kills), "--seed", str(lab_seed)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.crashing", *options],
        cwd=CHECKOUT,
        env=PYTHON_ENVIRON,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    say(done.stdout.strip())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    assert report["kills"] >= lab_kills
    assert report["acknowledged"] > report["kills"]


async def test_a_gateway_and_its_workers(
    tmp_path: Path, lab_kills: int, lab_seed: int, say: Callable[[str], None]
) -> None:
    choose = random.Random(lab_seed)
    kills = max(1, lab_kills // KILLS_EACH_GATEWAY)
    server = gateway(tmp_path, "--workers", "2", settings=EMBEDDED)
    with running(server):
        load = Load(server.port, lab_seed)
        await load.start()
        load.gateway_dies = True
        try:
            for _ in range(kills):
                await load.more(choose.randrange(400))
                server.kill()
                server.start()
            await load.more(100)
            await load.stop()
            load.gateway_dies = False
            await load.check_all()
        finally:
            await load.close()
        assert not load.wrong, load.wrong
        assert server.stop() == 0
    assert not complaints(tmp_path / "store")
    say(f"{kills} kills of a gateway, {load.requests} requests, {len(load.expected)} paths read")


# The lab sees what it looks for


def said(what: str, at_us: int, turn: int, answer: str = "", ttl_s: int = 0) -> bytes:
    return Event(what, "path", at_us, turn, 100, ttl_s, answer).line()


PUT = [said("begin put", 10, 1), said("done", 20, 1, "kept")]
DELETE = [said("begin delete", 30, 2), said("done", 40, 2, "deleted")]
HALF = body_of("path", 1, 100)[:50]


@pytest.mark.parametrize(
    ("lines", "found", "is_right"),
    [
        (PUT, body_of("path", 1, 100), True),
        (PUT, None, False),
        (PUT, HALF, False),
        (PUT[:1], None, True),
        (PUT[:1], body_of("path", 1, 100), True),
        (PUT[:1], HALF, False),
        (PUT + DELETE, None, True),
        (PUT + DELETE, body_of("path", 1, 100), False),
        (PUT + DELETE[:1], body_of("path", 1, 100), True),
        (PUT + DELETE[:1], None, True),
        ([*PUT, said("begin put", 30, 2)], None, False),
        ([*PUT, said("begin put", 30, 2)], body_of("path", 2, 100), True),
        ([said("begin create", 10, 1), said("done", 20, 2, "taken"),
          said("begin create", 11, 2)], None, False),
    ],
)  # fmt: skip
def test_what_may_be_read(lines: list[bytes], found: bytes | None, is_right: bool) -> None:
    ledger = Ledger()
    ledger.read(lines, 100)
    ledger.look("path", found, 200, 300)
    assert (not ledger.wrong) is is_right


def test_what_has_expired_may_not_be_read() -> None:
    body = body_of("path", 1, 100)
    ledger = Ledger()
    ledger.read([said("begin put", 10, 1, ttl_s=1), said("done", 20, 1, "kept")], 100)
    ledger.look("path", body, 900_000, 900_000)
    assert not ledger.wrong
    ledger.look("path", None, 900_000, 900_000)
    assert len(ledger.wrong) == 1
    ledger.look("path", None, 1_000_010, 1_000_010)
    assert len(ledger.wrong) == 1
    ledger.look("path", body, 1_000_021, 1_000_021)
    assert len(ledger.wrong) == 2


def test_what_only_one_may_create() -> None:
    ledger = Ledger()
    lines = [said("begin create", at, at) for at in (1, 2)]
    ledger.read(lines + [said("done", 10 + at, at, "kept") for at in (1, 2)], 100)
    assert ledger.wrong == ["path: created twice"]


async def test_a_store_that_is_not_whole(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await store.set(b"key", new_record(b"body", 1))
    await store.close()
    assert not complaints(tmp_path)
    with lmdb.open(str(tmp_path), lib_version=0) as environment, environment.begin(write=True) as t:
        value = bytearray(t.get(b"key") or b"")
        value[-1] ^= 1
        t.put(b"key", bytes(value))
    assert len(complaints(tmp_path)) == 1
