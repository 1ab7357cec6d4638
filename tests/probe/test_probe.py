"""N=3 W=2 with real processes under load, while one store after the other fails.

No acknowledged change is lost or undone, no stale read, and the service goes on. For longer:
``pytest tests/probe --probe-s 120``.
"""

from contextlib import closing
from pathlib import Path

import pytest

from tests.probe.load import until
from tests.probe.probe import Probe, probing
from tests.probe.stores import KINDS, Peek

SUCCESS_SHARE = 0.999


@pytest.mark.parametrize("kind", KINDS)
async def test_one_store_after_the_other_fails(
    kind: str,
    tmp_path: Path,
    probe_s: float,
    probe_seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with probing(kind, tmp_path, probe_seed) as probe:
        await probe.load.start()
        await probe.load.more(100)
        await probe.run(probe_s * KINDS[kind].share)
        await probe.finish()
        report(probe, capsys)
        share = probe.disturbed.success_share
        assert share >= SUCCESS_SHARE, probe.failed(f"{100 * share:.3f}% succeeded")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gateway_that_is_killed_while_writes_are_owed(
    kind: str,
    tmp_path: Path,
    probe_s: float,
    probe_seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it owed outlives it; what it was doing may or may not have been done.

    A fault for every 8 s that a probe takes, but each once.
    """
    async with probing(kind, tmp_path, probe_seed) as probe:
        await probe.load.start()
        names = [name for name, fault in probe.kind.faults.items() if fault.stays]
        count = 1 + int(probe_s * probe.kind.share / 8)
        for name in probe.random.sample(names, min(count, len(names))):
            await probe.load.more(100)
            await kill_gateway_during(probe, name)
        await probe.finish()
        report(probe, capsys)


async def kill_gateway_during(probe: Probe, name: str) -> None:
    """Have a store fail, and the gateway die and come back before the store does."""
    server = probe.random.choice(probe.servers)
    probe.load.gateway_dies = True
    async with probe.fault(name, server):
        owed = await probe.owing()
        await probe.kill_gateway()
        await probe.load.more(150)
        # No more: what a client has written again is owed only once.
        assert await probe.owed() >= owed
    await probe.paid()
    if probe.kind.faults[name].loses:
        await probe.repair(server)
    probe.load.gateway_dies = False


async def test_a_store_that_is_not_in_the_roster_is_asked_for_nothing(
    tmp_path: Path, probe_seed: int
) -> None:
    async with probing("nodes", tmp_path, probe_seed, clients=4) as probe:
        await probe.load.start()
        server = probe.random.choice(probe.servers)
        async with probe.fault("unlisted", server):
            left = f"left {server.address}"
            await until(lambda: probe.gateway.output().count(left) == 2, "both workers know it")
            await probe.load.more(50)
            with closing(Peek(server)) as peek:
                before = peek.requests()
                await probe.load.more(500)
                assert peek.requests() == before
        await probe.paid()
        await probe.finish()
        assert not probe.disturbed.failures


def report(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """Print how the run went."""
    with capsys.disabled():
        print(f"{probe.load.report()}\n  {'with a store down':24} {probe.disturbed}")
        print(f"  debts were paid within {max(probe.paid_s):.1f} s")
