"""ULIDs: names that are unique and sort by the time at which they were made. Pure.

A ULID is 128 bits, 48 of a time in milliseconds since 1970 and 80 at random, as 26 characters of
Crockford's base 32, most significant first: https://github.com/ulid/spec. Small letters mean the
same; ``I``, ``L``, ``O`` and ``U`` are not used at all, and the first character is at most 7, for
26 characters have room for 130 bits.
"""

import re
from typing import Final

LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

TIME_LIMIT_MS: Final = (1 << 48) - 1
RANDOM_BITS: Final = 80

LENGTH: Final = 26
PATTERN: Final = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
"""A regular expression for a ULID in capital letters."""

_ULID: Final = re.compile(PATTERN)


def ulid(time_ms: int, random: int) -> str:
    """Return the ULID of a time in milliseconds since 1970 and a number of 80 bits at random.

    Raises ValueError for what is out of these bounds.
    """
    if not 0 <= time_ms <= TIME_LIMIT_MS or not 0 <= random < 1 << RANDOM_BITS:
        raise ValueError("a ULID has 48 bits of time and 80 at random")
    number = time_ms << RANDOM_BITS | random
    return "".join(LETTERS[number >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


def read_ulid(text: str) -> str | None:
    """Return ``text`` in capital letters if it is a ULID, else None."""
    # Only ASCII: some other letters have ASCII ones for capitals.
    capitals = text.upper() if text.isascii() else ""
    return capitals if _ULID.fullmatch(capitals) else None
