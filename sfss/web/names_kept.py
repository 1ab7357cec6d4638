"""What is kept with a file besides its body: its type, how long it is kept, fields of a request.

Pure. What clients send without meaning anything by it is left out: curl gives every body that it
sends with ``--data-binary`` the type of a form, and many programs call all bytes an octet-stream.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from sfss.errors import BadArgument, TooManyNames
from sfss.record import METADATA_LIMIT

CONTENT_TYPE: Final = "Content-Type"

TTL_LIMIT_S: Final = 100 * 366 * 86_400
"""Seconds that a file may be kept, if not for ever."""

FIELDS_LIMIT: Final = 64
"""Fields that are kept with a file."""

FIELDS_SIZE_LIMIT: Final = 16 * 1024
"""Characters of all their names and values."""

OF_STORES: Final = "X-Sfss"
"""How fields begin by which another sfss has a blob server keep the head of a blob."""

_ENCODED_LIMIT: Final = METADATA_LIMIT - 4096
"""Bytes of them as they are kept; the rest is for names of our own."""

_OBEYED: Final = ("X-Accel-", "X-Sendfile", "X-Lighttpd-Send", "X-Reproxy-")
"""How fields begin that servers in front take for orders: to send some other file, say."""

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
_FIELD_NAME: Final = re.compile(f"X-{_TOKEN}")
_UNSENDABLE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def media_type(text: str | None) -> str | None:
    """Return the type that a client gives a file (RFC 9110, 8.3.1); None where it is none, or says
    nothing.
    """
    said = well_formed_type(text)
    return None if said and said.partition(";")[0].strip().lower() in _SAYS_NOTHING else said


def well_formed_type(text: str | None) -> str | None:
    """Return the type that ``text`` is; None where it is none."""
    if text is None or len(text) > _TYPE_LIMIT or not _TYPE.fullmatch(text.strip()):
        return None
    return text.strip()


def ttl_s(argument: str | None, field: str | None) -> int | None:
    """Return for how many seconds a file is kept, as ``ttl`` in the query or, without it, the field
    Expires-In says, None for ever; raise ``BadArgument`` for what is no such number.
    """
    said = [_seconds("ttl", argument), _seconds("Expires-In", field)]
    return next((seconds for seconds in said if seconds is not None), None)


def _seconds(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.strip(" \t")
    seconds = int(digits) if _SECONDS.fullmatch(digits) else 0
    if not 0 < seconds <= TTL_LIMIT_S:
        raise BadArgument(name, repr(text), f"seconds from 1 to {TTL_LIMIT_S} are expected")
    return seconds


def fields_to_keep(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return those of the header ``fields`` of a request that begin with ``X-``, their names in the
    usual case, several of one name joined. Left out is what servers in front take for orders.

    Raises ``TooManyNames``, and ``BadArgument`` for a field that is not UTF-8: it could not be sent
    back as it was.
    """
    kept: dict[str, str] = {}
    for name, value in fields:
        if name[:2].lower() == "x-":
            usual = "-".join(part.capitalize() for part in name.split("-"))
            if usual.startswith(_OBEYED):
                continue
            if not _is_utf8(value):
                raise BadArgument(usual, repr(value), "UTF-8 is expected")
            kept[usual] = f"{kept[usual]}, {value}" if usual in kept else value
    # A blob that had as many as it may has to be taken by a store, too.
    counted = {name: each for name, each in kept.items() if not name.startswith(OF_STORES)}
    size = sum(len(name) + len(value) for name, value in counted.items())
    encoded = len(json.dumps(kept))
    if len(counted) > FIELDS_LIMIT or size > FIELDS_SIZE_LIMIT or encoded > _ENCODED_LIMIT:
        found = f"{len(counted)} fields with {size} characters, {encoded} bytes as they are kept"
        allowed = f"{FIELDS_LIMIT} with {FIELDS_SIZE_LIMIT} are allowed"
        raise TooManyNames(found, allowed)
    return kept


def shown_fields(names: Mapping[str, str]) -> dict[str, str]:
    """Return those of the ``names`` kept with a file that are fields to send back; never one that
    would end its line, or be taken for an order, whoever has written the file.
    """
    return {
        name: value
        for name, value in names.items()
        if _FIELD_NAME.fullmatch(name) and not _UNSENDABLE.search(value)
        if not name.title().startswith(_OBEYED)
    }


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
