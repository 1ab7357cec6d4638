"""How long a probe takes, and what decides what happens in it."""

import random

import pytest


@pytest.fixture
def probe_s(request: pytest.FixtureRequest) -> float:
    """Seconds that a probe takes."""
    return float(request.config.getoption("--probe-s"))


@pytest.fixture
def probe_seed(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> int:
    """The seed of this probe, which is printed."""
    given = request.config.getoption("--probe-seed")
    seed = random.randrange(1 << 32) if given is None else int(given)
    with capsys.disabled():
        print(f"\n{request.node.name}: --probe-seed {seed}")
    return seed
