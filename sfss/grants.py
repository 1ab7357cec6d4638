"""Who may do what: scopes, tokens, and what they allow. Pure; what time it is, is told.

A token is kept as its SHA-256. That is fast, and may be: a token has 256 random bits, and nobody
finds one by trying, however fast. A slow hash is for passwords, which people choose, and would cost
each request milliseconds.
"""

import hmac
import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from math import inf
from typing import Final

from sfss.prefixes import read_prefix, write_prefix

READ: Final = "read"
WRITE: Final = "write"
DELETE: Final = "delete"
LIST: Final = "list"
ADMIN: Final = "admin"
ANYBODY: Final = ""
"""In place of a scope: none is needed."""

SCOPES: Final = (READ, WRITE, DELETE, LIST, ADMIN)
"""All that can be allowed: to see files; to create and replace them; to remove them; to see which
there are, and figures of the service; and to change how it works.
"""

EVERYDAY: Final = (READ, WRITE, DELETE, LIST)
"""All but what changes how the service works."""

CHANGES: Final = (WRITE, DELETE, ADMIN)
"""What nobody may from elsewhere without a token, unless that is said."""

NO_SCOPES: Final[frozenset[str]] = frozenset()

TOKEN_BYTES: Final = 32
"""Random bytes of a token."""

TOKEN_MARK: Final = "sfss_"
"""What a token begins with, so that programs that look for leaked secrets know it."""

_TOKEN: Final = re.compile(r"([A-Za-z0-9_.-]{1,64}) sha256:([0-9a-f]{64}) ([a-z+]+)((?: \S+)*)")
_UNTIL: Final = "until="


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody may: ``scopes`` on paths that begin with one of ``prefixes``, or on all where
    there are none, before ``until_s`` (seconds since 1970); and ``free``, what anybody may there.
    ``name`` is that of the token, "" without one.
    """

    name: str = ""
    scopes: frozenset[str] = NO_SCOPES
    prefixes: tuple[str, ...] = ()
    until_s: float = inf
    free: frozenset[str] = NO_SCOPES

    def allows(self, scope: str, path: str | None) -> bool:
        """Tell whether ``scope`` is allowed for ``path``, a path or how paths begin; None: for all
        that there is.
        """
        return scope in self.free or (scope in self.scopes and self._covers(path))

    def lasts(self, scope: str, now_s: float) -> bool:
        """Tell whether what was allowed of ``scope`` still is at ``now_s``."""
        return scope in self.free or now_s < self.until_s

    def _covers(self, path: str | None) -> bool:
        return not self.prefixes or (path or "").startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may do what: whoever has one of ``tokens``, by the SHA-256 of each; ``anybody`` on a
    listener that only this machine reaches, and ``network`` on others. ``signing_keys``, by name,
    are those of signed URLs.
    """

    tokens: Mapping[bytes, Grant] = field(default_factory=dict)
    anybody: frozenset[str] = NO_SCOPES
    network: frozenset[str] = NO_SCOPES
    signing_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def free(self, is_local: bool) -> frozenset[str]:
        """Return what anybody may without a token."""
        return self.anybody if is_local else self.network

    def find(self, secret: bytes) -> Grant | None:
        """Return what the token ``secret`` allows; None for one that is not known."""
        digest = sha256(secret).digest()
        for known, grant in self.tokens.items():
            if hmac.compare_digest(known, digest):
                return grant
        return None

    def has_token(self, scope: str) -> bool:
        """Tell whether there is a token with ``scope``."""
        return any(scope in grant.scopes for grant in self.tokens.values())


OPEN: Final = Rules(anybody=frozenset(EVERYDAY), network=frozenset(EVERYDAY))
"""Everybody may do everything, but change how the service works."""


def read_token(text: str) -> tuple[bytes, Grant]:
    """Return the SHA-256 of a token, and what it allows: "NAME sha256:HEX SCOPE+SCOPE PREFIX ...
    until=YYYY-MM-DD", where prefixes and the last day (UTC) may be missing. Raises ``ValueError``.
    """
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise ValueError(text)
    scopes = match[3].split("+")
    if len(set(scopes) & set(SCOPES)) != len(scopes):
        raise ValueError(match[3])
    prefixes: list[str] = []
    until_s = inf
    for word in match[4].split():
        if word.startswith(_UNTIL):
            until_s = _end_of(word.removeprefix(_UNTIL))
        else:
            prefixes.append(read_prefix(word))
    good_for = () if "" in prefixes else tuple(prefixes)
    grant = Grant(match[1], frozenset(scopes), good_for, until_s)
    return bytes.fromhex(match[2]), grant


def write_token(secret: str, name: str, scopes: list[str], prefixes: list[str], until: str) -> str:
    """Return what ``read_token`` reads. Raises ``ValueError``."""
    digest = sha256(secret.encode()).hexdigest()
    words = [name, f"sha256:{digest}", "+".join(scopes), *map(_quoted, prefixes)]
    text = " ".join([*words, *([f"{_UNTIL}{until}"] if until else [])])
    read_token(text)
    return text


def _quoted(prefix: str) -> str:
    quoted = write_prefix(prefix)
    return quoted.replace("until", "%75ntil", 1) if prefix.startswith(_UNTIL) else quoted


def _end_of(day: str) -> float:
    following = date.fromisoformat(day) + timedelta(days=1)
    return float(timegm(following.timetuple()))
