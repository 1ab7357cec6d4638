"""How long the lab goes on, and what decides what happens in it."""

import random
from collections.abc import Callable

import pytest


@pytest.fixture
def lab_kills(request: pytest.FixtureRequest) -> int:
    """How many processes are killed."""
    return int(request.config.getoption("--lab-kills"))


@pytest.fixture
def lab_seed(request: pytest.FixtureRequest, say: Callable[[str], None]) -> int:
    """The seed of this run, which is printed."""
    given = request.config.getoption("--lab-seed")
    seed = random.randrange(1 << 32) if given is None else int(given)
    say(f"--lab-seed {seed}")
    return seed


@pytest.fixture
def say(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    """Print a figure of the lab, whatever becomes of the test."""

    def show(text: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {text}")

    return show
