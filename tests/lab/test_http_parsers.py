"""Every parser of ``parsers`` under bytes that nobody meant for it: a value or its own error.

Most of them are good input with a few bytes changed, cut out, repeated or put in the wrong place;
``--lab-long`` tries more. A parser whose time or memory grew without bound would not come to an
end here: some inputs are long.
"""

import time
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.lab.parsers import BROKE_IT, PARSERS, checks

FEW, SHORT_S, LONG_S = 40, 0.1, 9.0
PIECES = [
    b"\r\n",
    b"\n",
    b"\0",
    b"\xff",
    b" ",
    b":",
    b"0",
    b"-1",
    b"9" * 20,
    b"\xc3",
    b'"',
    b"%",
    b";",
]


def mutated(good: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Return good input with a few changes."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(good)))
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, len(data)))
            other = at + draw(st.integers(0, 20))
            match draw(st.integers(0, 5)):
                case 0 if at < len(data):
                    data[at] ^= 1 << draw(st.integers(0, 7))
                case 1:
                    del data[at:other]
                case 2:
                    data[at:at] = draw(st.sampled_from(PIECES))
                case 3:
                    data[at:at] = data[at:other] * draw(st.sampled_from([1, 2, 300]))
                case 4:
                    data[at:other] = draw(st.binary(max_size=8))
                case _:
                    del data[at:]
        return bytes(data[:200_000])

    return changed()


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_what_is_good(name: str) -> None:
    parser = PARSERS[name]
    for good in parser.good:
        try:
            checks(name, parser.read(good))
        except parser.raises as error:
            # A few have two forms of input, of which one is for another function.
            assert name == "id of a blob", error


def changed_at_random(choose: Random, good: tuple[bytes, ...]) -> bytes:
    """Return the same as ``mutated``, or random bytes, a hundred times as fast."""
    if choose.random() < 0.05:
        return choose.randbytes(choose.randrange(200))
    data = bytearray(choose.choice(good))
    for _ in range(choose.randrange(1, 6)):
        at = choose.randrange(len(data) + 1)
        other = at + choose.randrange(20)
        match choose.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << choose.randrange(8)
            case 1:
                del data[at:other]
            case 2:
                data[at:at] = choose.choice(PIECES)
            case 3:
                data[at:at] = data[at:other] * choose.choice([1, 1, 2, 3, 300])
            case 4:
                data[at:other] = choose.randbytes(choose.randrange(8))
            case 5 if choose.random() < 0.3:
                del data[at:]
    return bytes(data)


def is_refused(name: str, data: bytes) -> bool:
    """Have a parser read ``data``; tell whether it refuses that, as it may."""
    parser = PARSERS[name]
    try:
        checks(name, parser.read(data))
    except parser.raises:
        return True
    except Exception as error:
        error.add_note(f"of {data!r}")
        raise
    return False


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_survives_any_bytes(
    name: str, pytestconfig: pytest.Config, lab_seed: int, say: Callable[[str], None]
) -> None:
    seconds = LONG_S if pytestconfig.getoption("--lab-long") else SHORT_S
    choose, end, tried, refused = Random(lab_seed), time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        refused += is_refused(name, changed_at_random(choose, PARSERS[name].good))
        tried += 1
    say(f"{tried} inputs tried, {refused} refused")


def test_what_a_parser_did_not_survive_once_it_survives() -> None:
    for name, data in BROKE_IT:
        is_refused(name, data)


@pytest.mark.parametrize("name", PARSERS)
def test_the_smallest_bytes_that_a_parser_does_not_survive_are_found(
    name: str, lab_seed: int
) -> None:
    good = PARSERS[name].good

    @seed(lab_seed)
    @settings(
        max_examples=FEW, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(mutated(good), st.binary(max_size=200)))
    def survives(data: bytes) -> None:
        is_refused(name, data)

    survives()
