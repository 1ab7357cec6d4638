"""How settings name a prefix of paths: one form for all of them. Pure.

A prefix is written as paths are stored, with or without a ``/`` before it; ``/`` alone is that of
all. ``%`` begins an escape, as in a URL, so ``%`` itself is ``%25``; a space is ``%20`` where
another one ends the prefix.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sfss.errors import BadPath
from sfss.keys import check_path

ESCAPES: Final = '"%" in them as "%25"'
"""What the description of a setting says of prefixes."""

ESCAPES_AND_SPACES: Final = 'a space in them as "%20", "%" as "%25"'
"""The same where a space ends each."""

_PLAIN: Final = re.compile(r"(?!\s)(?:[^%]|%[0-9A-Fa-f]{2})+(?<!\s)")


def read_prefix(text: str) -> str:
    """Return the prefix that ``text`` names; "" is that of all. Raises ``ValueError`` where no path
    can begin so, and for an escape that is none.
    """
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} has an escape that is none, or a space at an end, or is empty")
    prefix = unquote_to_bytes(text).decode("utf-8").removeprefix("/")
    try:
        if prefix:
            check_path(prefix)
    except BadPath as error:
        raise ValueError(f"{text!r}: {error.rule}") from None
    return prefix


def read_prefixes(texts: Iterable[str]) -> list[str]:
    """Return the prefixes that ``texts`` name. Raises ``ValueError``, also where two are the
    same.
    """
    prefixes = [read_prefix(text) for text in texts]
    if len(set(prefixes)) < len(prefixes):
        raise ValueError("two prefixes are the same")
    return prefixes


def write_prefix(prefix: str) -> str:
    """Return what ``read_prefix`` reads, in ASCII, without spaces and commas."""
    return quote(prefix, safe="/") or "/"
