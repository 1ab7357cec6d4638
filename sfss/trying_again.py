"""What is asked once more after it has failed, and when: one rule for all that asks a server. Pure.

Only requests that may be repeated are made: GET, HEAD, OPTIONS, DELETE, and PUT of a whole file
(RFC 9110, 9.2.2). So the method does not matter, and it does not matter whether a request whose
connection broke was heard.

What may pass has statuses of its own, with gateways: 504 where stores do not answer. Theirs for
what is damaged, and for a mistake of the software, is 500, which would be the same a second later.
"""

import re
from typing import Final

LONGEST_WAIT_S: Final = 60.0
"""A server that wants to be asked again only after more than that is not waited for."""

_AGAIN: Final = frozenset({408, 425, 429, 502, 503, 504})
_FIRST_WAIT_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 8.0
_SECONDS: Final = re.compile("[0-9]{1,9}")


def may_pass(status: int | None) -> bool:
    """Tell whether what failed may succeed a moment later; ``status`` None: there was no answer."""
    return status is None or status in _AGAIN


def asked_wait_s(field: str) -> float | None:
    """Return after how many seconds a server wants to be asked again, by its Retry-After; None
    where it has said none, or a date (RFC 9110, 10.2.3).
    """
    return float(field) if _SECONDS.fullmatch(field) else None


def pause_s(status: int | None, tries: int, chance: float, asked_s: float | None) -> float | None:
    """Return how long to wait before the next try; None: there is to be none.

    ``status`` is the answer to the last of ``tries``, None if there was none, and ``asked_s`` what
    it wants (``asked_wait_s``). ``chance``: as of ``growing_pause_s``.
    """
    if not may_pass(status) or (asked_s or 0.0) > LONGEST_WAIT_S:
        return None
    return max(asked_s or 0.0, growing_pause_s(tries, chance))


def growing_pause_s(tries: int, chance: float) -> float:
    """Return the pause after ``tries`` failed ones, by ``chance`` from 0 to 1 half or all of it, so
    that not all clients come back at once.
    """
    return min(_LONGEST_PAUSE_S, _FIRST_WAIT_S * 2.0 ** (tries - 1)) * (1 + chance) / 2
