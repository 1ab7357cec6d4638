"""Objects as records: what is known of an object, its *entry*, is a small record of its own. Pure.

The entry of the object ``ID`` lies at ``objects/ID``; the body lies elsewhere, under a name that is
used once (``chunks.body_path``), so that a body can be lost, and never be an old one. In the
metadata of an entry stand, each only where it says something:

===========  =======================================================================================
name         what it says
===========  =======================================================================================
``written``  the version under which the object was put, microseconds since 1970: that of its body,
             and of the object in the bucket
``size``     bytes of the body
``digest``   of the body: 128-bit XXH3, 32 hexadecimal digits
``seal``     the digest that the bucket tells of the object, where that is another: others have put
             it there (``plain_heads``)
``body``     the path of the body
``level``    0, 1 or 2
``name``     the name that the object came with
``user``     what its owner has said of it: a JSON object of strings
``type``     the media type that was said with it
``fetched``  1: it came from the bucket
``deleted``  1: it was deleted; there is no body any more
===========  =======================================================================================

The body of the entry is ``written`` and ``body``, with a space in between: so that two entries of
one version have different digests.

An entry of what was deleted is a record like any other, and wins against older ones as they all do.
It is kept until the bucket has forgotten the object, and then for as long as deletions are
remembered.

In the bucket an object is its body with ``name``, ``level``, ``user`` and ``type`` beside it, and
the labels that objstore puts on its objects, for other readers of the bucket.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from sfss.chunks import ENTRIES
from sfss.errors import Corrupt
from sfss.record import Body, Head, Kind, Record, digest_of

LEVELS: Final = (0, 1, 2)
"""Where an object is kept: 0 on one member, 1 there and in the bucket, 2 on all and there."""

_NO_USER: Final[Mapping[str, str]] = MappingProxyType({})
_TYPE: Final = "Content-Type"
_USER_LABEL: Final = "usermeta-"


class Traits(NamedTuple):
    """What is said of an object when it is put; ``expiry``: microseconds since 1970, 0 never."""

    name: str = ""
    level: int = 0
    user: Mapping[str, str] = _NO_USER
    media_type: str = ""
    expiry: int = 0


class Entry(NamedTuple):
    """What is known of an object; see the head of this module."""

    id: str
    traits: Traits
    size: int
    digest: bytes
    written: int
    body: str = ""
    seal: bytes = b""
    is_fetched: bool = False
    is_deleted: bool = False

    @property
    def head(self) -> Head:
        """The head of the object as it is shown: of a file with this body."""
        return Head(self.written, self.size, self.digest, expiry=self.traits.expiry)

    def has_body(self, head: Head) -> bool:
        """Tell whether the body with ``head`` is that of the object."""
        return (head.size, head.digest) == (self.size, self.digest)

    def is_version_of(self, head: Head) -> bool:
        """Tell whether the object in the bucket that has ``head`` is this one."""
        return (head.version, head.digest) == (self.written, self.seal or self.digest)


def entry_path(object_id: str) -> str:
    """Return the path of the entry of an object."""
    return f"{ENTRIES.decode()}{object_id}"


def record_of_entry(entry: Entry, version: int, expiry: int) -> Record:
    """Return the record that says ``entry``, and is kept until ``expiry``."""
    names = {
        "written": str(entry.written),
        "size": str(entry.size),
        "digest": entry.digest.hex(),
        "seal": entry.seal.hex(),
        "body": entry.body,
        **_names_of(entry.traits),
        "type": entry.traits.media_type,
        "fetched": "1" if entry.is_fetched else "",
        "deleted": "1" if entry.is_deleted else "",
    }
    said = {name: text for name, text in names.items() if text}
    body = f"{entry.written} {entry.body}".encode()
    return Record(Head(version, len(body), digest_of(body), Kind.FILE, expiry, said), body)


def _names_of(traits: Traits) -> dict[str, str]:
    user = json.dumps(dict(traits.user), ensure_ascii=False) if traits.user else ""
    return {"name": traits.name, "level": str(traits.level), "user": user}


def read_entry(object_id: str, head: Head) -> Entry:
    """Return the entry whose record has ``head``. Raises ``Corrupt`` for what is none."""
    names = head.metadata
    is_deleted = names.get("deleted") == "1"
    expiry = 0 if is_deleted else head.expiry
    try:
        return Entry(
            object_id,
            _traits_of(names, names.get("type", ""), expiry),
            int(names["size"]),
            bytes.fromhex(names["digest"]),
            int(names["written"]),
            names.get("body", ""),
            bytes.fromhex(names.get("seal", "")),
            names.get("fetched") == "1",
            is_deleted,
        )
    except (KeyError, ValueError, RecursionError) as error:
        key = entry_path(object_id).encode()
        raise Corrupt("of objects", key, "an entry", f"{type(error).__name__}: {error}") from error


def _traits_of(names: Mapping[str, str], media_type: str, expiry: int) -> Traits:
    level = int(names.get("level", "1"))
    if level not in LEVELS:
        raise ValueError(f"level {level}")
    return Traits(names.get("name", ""), level, user_of(names.get("user")), media_type, expiry)


def user_of(text: str | None) -> Mapping[str, str]:
    """Return the strings by name that ``text`` is in JSON; raise ValueError where it is not."""
    if not text:
        return _NO_USER
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"{name!r} is no string")
    return found


def record_for_bucket(entry: Entry, body: Body) -> Record:
    """Return the record that the bucket has of an object."""
    names = {**_names_of(entry.traits), _TYPE: entry.traits.media_type}
    said = {name: text for name, text in names.items() if text}
    return Record(entry.head._replace(metadata=said), body)


def entry_from_bucket(object_id: str, head: Head, digest: bytes) -> Entry:
    """Return the entry of an object that the bucket has with ``head``, and whose body has
    ``digest``. What others have put there, and what says nothing of its level, is of level 1; so is
    what says 0, for it is in the bucket.
    """
    names = head.metadata
    media_type = names.get(_TYPE, "")
    try:
        traits = _traits_of(names, media_type, head.expiry)
    except (ValueError, RecursionError):
        traits = Traits(media_type=media_type, expiry=head.expiry)
    traits = traits._replace(level=max(traits.level, 1))
    seal = head.digest if head.digest != digest else b""
    return Entry(object_id, traits, head.size, digest, head.version, seal=seal, is_fetched=True)


class ObjstoreLabels:
    """The metadata that objstore gives its objects in a bucket; see ``stores.bucket.Labels``."""

    def of(self, path: str, head: Head) -> Mapping[str, str]:
        """Return the labels of the object at ``path``, which is its id."""
        names = head.metadata
        labels = {
            "id": path,
            "consistency": names.get("level", "1"),
            "size": str(head.size),
            "timestamp": str(head.version * 1000),
            "name": names.get("name", ""),
        }
        for name, text in user_of(names.get("user")).items():
            labels.setdefault(f"{_USER_LABEL}{name}".lower(), text)
        return labels

    def read(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """Return what the labels of an object of objstore say of it."""
        found = {name.lower(): text for name, text in attributes.items()}
        cut = len(_USER_LABEL)
        user = {name[cut:]: text for name, text in found.items() if name.startswith(_USER_LABEL)}
        names = {"name": found.get("name", ""), "user": json.dumps(user) if user else ""}
        if found.get("consistency") in ("0", "1", "2"):
            names["level"] = found["consistency"]
        return {name: text for name, text in names.items() if text}
