"""ULIDs: the form of the specification, in both directions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.ulid import LETTERS, PATTERN, RANDOM_BITS, TIME_LIMIT_MS, read_ulid, ulid

TIMES = st.integers(0, TIME_LIMIT_MS)
RANDOM = st.integers(0, (1 << RANDOM_BITS) - 1)


def time_of(name: str) -> int:
    """Return the time, in milliseconds since 1970, that a ULID in capital letters was made at."""
    number = 0
    for letter in name[:10]:
        number = number << 5 | LETTERS.index(letter)
    return number


def test_the_example_of_the_specification() -> None:
    # https://github.com/ulid/spec: 01ARZ3NDEKTSV4RRFFQ69G5FAV
    name = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    number = 0
    for letter in name:
        number = number * 32 + LETTERS.index(letter)
    assert ulid(number >> RANDOM_BITS, number & ((1 << RANDOM_BITS) - 1)) == name
    assert time_of(name) == 1_469_922_850_259


@given(TIMES, RANDOM)
def test_what_is_made_is_read(time_ms: int, random: int) -> None:
    name = ulid(time_ms, random)
    assert re.fullmatch(PATTERN, name)
    assert read_ulid(name) == read_ulid(name.lower()) == name
    assert time_of(name) == time_ms


@given(TIMES, TIMES, RANDOM, RANDOM)
def test_names_sort_by_time(first: int, second: int, one: int, other: int) -> None:
    if first != second:
        assert (ulid(first, one) < ulid(second, other)) == (first < second)


def test_the_ends() -> None:
    assert ulid(0, 0) == "0" * 26
    assert ulid(TIME_LIMIT_MS, (1 << RANDOM_BITS) - 1) == "7" + "Z" * 25
    for time_ms, random in ((-1, 0), (TIME_LIMIT_MS + 1, 0), (0, -1), (0, 1 << RANDOM_BITS)):
        with pytest.raises(ValueError, match="48 bits"):
            ulid(time_ms, random)


ZEROS = "0" * 25
LOOK_ALIKE = ["\u017f", "\u212a"]
"""Letters that are not ASCII, and whose capital or small letters are."""


@pytest.mark.parametrize("text", ["", ZEROS, f"8{ZEROS}", f" {ZEROS}", f"0{ZEROS}\n", f"00{ZEROS}"])
def test_what_is_no_ulid(text: str) -> None:
    assert read_ulid(text) is None


@pytest.mark.parametrize("letter", [*"ILOUilou-", *LOOK_ALIKE])
def test_letters_that_no_ulid_has(letter: str) -> None:
    assert read_ulid(f"{ZEROS}{letter}") is None
