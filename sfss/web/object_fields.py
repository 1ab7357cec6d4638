"""The header fields of the face "objects", read and written. Pure.

Those of a request say what an object is; the same come back with it. Names of fields are written as
objstore's server sent them.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from sfss.errors import BadArgument, TooManyNames
from sfss.object_entries import LEVELS, Traits, user_of
from sfss.record import METADATA_LIMIT
from sfss.ulid import read_ulid

ID: Final = "X-Meta-ID"
NAME: Final = "X-Meta-Name"
LEVEL: Final = "X-Meta-ConsistencyLevel"
USER: Final = "X-Meta-UserMeta"
FETCH: Final = "X-Meta-Fetch"

USER_LIMIT: Final = 64
"""Names that the owner of an object may give values."""

SIZE_LIMIT: Final = 16 * 1024
"""Characters of all of them, their values, and the name of the object."""

_ENCODED_LIMIT: Final = METADATA_LIMIT - 4096
_UNSENDABLE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def object_id(fields: Mapping[str, str]) -> str:
    """Return the id that a request to put an object gives it. Raises ``BadArgument``."""
    text = fields.get(ID, "").strip()
    if not text:
        raise BadArgument(ID, "missing", "a ULID is needed; /api/v1/id makes one")
    found = read_ulid(text)
    if found is None:
        raise BadArgument(ID, repr(text), "a ULID is expected: 26 letters and digits")
    return found


def traits(fields: Mapping[str, str], media_type: str) -> Traits:
    """Return what a request says of its object. Raises ``BadArgument``, ``TooManyNames``."""
    name, user = fields.get(NAME, "").strip(), _user(fields.get(USER, "").strip())
    if _UNSENDABLE.search(name):
        raise BadArgument(NAME, repr(name), "UTF-8 without control characters is expected")
    size = len(name) + sum(len(key) + len(value) for key, value in user.items())
    encoded = len(json.dumps([name, json.dumps(dict(user), ensure_ascii=False)]))
    if len(user) > USER_LIMIT or size > SIZE_LIMIT or encoded > _ENCODED_LIMIT:
        found = f"{len(user)} names of {USER} and {size} characters, {encoded} bytes as they are"
        allowed = f"{USER_LIMIT} with {SIZE_LIMIT} are allowed, with {NAME}"
        raise TooManyNames(f"{found} kept", allowed)
    return Traits(name, _level(fields.get(LEVEL, "").strip()), user, media_type)


def _level(text: str) -> int:
    if text and text not in map(str, LEVELS):
        raise BadArgument(LEVEL, repr(text), "0, 1 or 2 is expected")
    return int(text or "0")


def _user(text: str) -> Mapping[str, str]:
    try:
        found = user_of(text)
        json.dumps(dict(found), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        wanted = "a JSON object of strings is expected"
        raise BadArgument(USER, f"{text!r} ({error})", wanted) from None
    return found


def wants_fetch(fields: Mapping[str, str]) -> bool:
    """Tell whether a request asks for what only the bucket may have."""
    return fields.get(FETCH, "").strip().lower() in ("1", "true", "yes")


def shown(object_id: str, traits: Traits) -> dict[str, str]:
    """Return the fields that say what an object is."""
    fields = {"X-Meta-Id": object_id, "X-Meta-Consistencylevel": str(traits.level)}
    # What has come from the bucket was said by whoever wrote there.
    if traits.name and not _UNSENDABLE.search(traits.name):
        fields["X-Meta-Name"] = traits.name
    if traits.user:
        fields["X-Meta-Usermeta"] = json.dumps(dict(traits.user))
    return fields
