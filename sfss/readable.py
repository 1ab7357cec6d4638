"""Sizes and times as people read them: one form for commands, reports and pages. Pure.

``web/pages/sizes.js`` is the same for pages.
"""

from math import floor
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def readable_size(count: float) -> str:
    """Return a number of bytes for a person: "512 B", "1.5 KiB", "2 MiB". Units are powers of 1024,
    with one digit behind the point unless it is a zero, rounded half up.
    """
    whole = floor(count + 0.5)
    if whole < 1024:
        return f"{whole} B"
    for unit in _UNITS:
        count /= 1024
        tenths = floor(count * 10 + 0.5)
        if tenths < 10_240 or unit == _UNITS[-1]:
            break
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth} {unit}" if tenth else f"{whole} {unit}"


def readable_span(seconds: float) -> str:
    """Return how long something takes, in whole seconds, for a person: "0:00:07", "12:30:00"."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
