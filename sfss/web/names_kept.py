"""What is kept with a file besides its body: its type, how long it is kept, fields of a request.

Pure. What clients send without meaning anything by it is left out: curl gives every body that it
sends with ``--data-binary`` the type of a form, and many programs call all bytes an octet-stream.
"""

import re
from collections.abc import Iterable
from typing import Final

from sfss.errors import BadArgument, TooManyNames

CONTENT_TYPE: Final = "Content-Type"

TTL_LIMIT_S: Final = 100 * 366 * 86_400
"""Seconds that a file may be kept, if not for ever."""

FIELDS_LIMIT: Final = 64
"""Fields that are kept with a file."""

FIELDS_SIZE_LIMIT: Final = 16 * 1024
"""Characters of all their names and values."""

_TYPE_LIMIT: Final = 200
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE: Final = re.compile(
    rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*'
)
_SAYS_NOTHING: Final = frozenset(
    {
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    }
)
_SECONDS: Final = re.compile("[0-9]{1,10}")


def media_type(text: str | None) -> str | None:
    """Return the type that a client gives a file (RFC 9110, 8.3.1); None where it is none, or says
    nothing.
    """
    if text is None or len(text) > _TYPE_LIMIT or not _TYPE.fullmatch(text.strip()):
        return None
    said = text.strip()
    return None if said.partition(";")[0].strip().lower() in _SAYS_NOTHING else said


def ttl_s(argument: str | None, field: str | None) -> int | None:
    """Return for how many seconds a file is kept, as ``ttl`` in the query or the field Expires-In
    says, None for ever; raise ``BadArgument`` for what is no such number.
    """
    name, text = ("ttl", argument) if argument is not None else ("Expires-In", field)
    if text is None:
        return None
    seconds = int(text) if _SECONDS.fullmatch(text.strip()) else 0
    if not 0 < seconds <= TTL_LIMIT_S:
        raise BadArgument(name, repr(text), f"a number of seconds to {TTL_LIMIT_S} is expected")
    return seconds


def fields_to_keep(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return those of the header ``fields`` of a request that begin with ``X-``, their names in the
    usual case, several of one name joined.

    Raises ``TooManyNames``.
    """
    kept: dict[str, str] = {}
    for name, value in fields:
        if name[:2].lower() == "x-":
            usual = "-".join(part.capitalize() for part in name.split("-"))
            kept[usual] = f"{kept[usual]}, {value}" if usual in kept else value
    size = sum(len(name) + len(value) for name, value in kept.items())
    if len(kept) > FIELDS_LIMIT or size > FIELDS_SIZE_LIMIT:
        found = f"{len(kept)} fields with {size} characters"
        allowed = f"{FIELDS_LIMIT} with {FIELDS_SIZE_LIMIT} are allowed"
        raise TooManyNames(found, allowed)
    return kept
