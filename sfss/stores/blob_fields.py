"""What a blob server of SOS keeps with a blob: header fields that begin with ``X-``. Pure.

The head of a record travels among them, and comes back with the blob:

    X-Sfss             base64 of the head (``record``), in pieces: X-Sfss, X-Sfss-2, X-Sfss-3 ...
    X-Orig-Filename    what is kept with the blob, each field as the client has sent it

A field that every server gives back as it came stands in the head by its name only, with a checksum
over all of them; any other stands there whole. A blob without X-Sfss is *raw*: some client of SOS
has written it. What it came with is known, and when is not: its version is 0.
"""

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest

from sfss.errors import Corrupt
from sfss.record import METADATA_LIMIT, Head, Kind, decode_lone_head, encode_head

ANSWER_HEAD_LIMIT: Final = 128 * 1024
"""Bytes that the head of an answer may have: the fields, and the head in base64."""

_OWN: Final = "X-Sfss"
_PIECE: Final = 4000  # servers that bound a line of a head do so at 8 KiB
_PIECES_LIMIT: Final = 32
_FIELDS, _SUM = " fields", " sum"

# What comes back as it was sent whatever a server does with letters, spaces and odd bytes.
_PLAIN_NAME: Final = re.compile("X(?:-[A-Z0-9][a-z0-9]*)+")
_PLAIN_VALUE: Final = re.compile("[!-~](?:[ -~]*[!-~])?")
_NAME: Final = re.compile("X-[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Shown(NamedTuple):
    """What the head of an answer says of a blob: its ``size``, None where it does not; what it came
    with; and the head that it was written with, None of a raw one.
    """

    size: int | None
    names: Mapping[str, str]
    carried: Head | None = None


def fields_of(head: Head) -> str:
    """Return the lines of a request that has a server keep a blob with ``head``."""
    names = head.metadata
    plain = {name: value for name, value in names.items() if _is_plain(name, value)}
    lines = [f"{name}: {value}\r\n" for name, value in names.items() if _is_field(name, value)]
    if not (head.version == 0 and len(plain) == len(names)):  # otherwise it is raw
        lines += _own_lines(head, plain)
    return "".join(lines)


def _own_lines(head: Head, plain: Mapping[str, str]) -> Iterator[str]:
    others = {name: value for name, value in head.metadata.items() if name not in plain}
    if plain:
        others |= {_FIELDS: " ".join(plain), _SUM: _sum_of(plain)}
    text = b64encode(encode_head(head._replace(metadata=others))).decode()
    for number, start in enumerate(range(0, len(text), _PIECE), start=1):
        yield f"{_own_name(number)}: {text[start : start + _PIECE]}\r\n"


def names_in(fields: Mapping[bytes, bytes]) -> Mapping[str, str]:
    """Return what a blob came with, by names in the usual case; raise ValueError where that is more
    than can be kept with a file.
    """
    names: dict[str, str] = {}
    for name, value in fields.items():
        usual = "-".join(part.capitalize() for part in name.decode("ascii").split("-"))
        if usual.startswith("X-") and not usual.startswith(_OWN):
            names[usual] = _text(value)
    if len(json.dumps(names)) > METADATA_LIMIT:
        raise ValueError(f"over {METADATA_LIMIT} bytes of fields with a blob")
    return names


def carried_in(
    fields: Mapping[bytes, bytes], names: Mapping[str, str], store: str, key: bytes
) -> Head | None:
    """Return the head in an answer with ``fields``, of which ``names`` are those that it came with;
    None where there is none. Raises ``Corrupt`` (naming ``store`` and ``key``).
    """
    pieces: list[bytes] = []
    while (piece := fields.get(_own_name(len(pieces) + 1).lower().encode())) is not None:
        pieces.append(piece)
        if len(pieces) > _PIECES_LIMIT:
            break
    if not pieces:
        return None
    try:
        head = decode_lone_head(b64decode(b"".join(pieces), validate=True), store, key)
    except NotBase64 as error:
        raise Corrupt(store, key, "a head in base64", str(error)) from error
    if head.kind is not Kind.FILE:
        raise Corrupt(store, key, "the head of a file", head.kind.name)
    metadata = dict(head.metadata)
    listed, expected = metadata.pop(_FIELDS, ""), metadata.pop(_SUM, "")
    if listed:
        plain = {name: names[name] for name in listed.split(" ") if name in names}
        if (found := _sum_of(plain)) != expected:
            raise Corrupt(store, key, f"fields with the checksum {expected}", found)
        metadata |= plain
    return head._replace(metadata=metadata)


def _own_name(number: int) -> str:
    return _OWN if number == 1 else f"{_OWN}-{number}"


def _is_plain(name: str, value: str) -> bool:
    if name.startswith(_OWN):
        return False
    return bool(_PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value))


def _is_field(name: str, value: str) -> bool:
    """Tell whether it can be sent as a field: for others to read, if it is not plain."""
    if not _NAME.fullmatch(name) or name.startswith(_OWN):
        return False
    return value.isprintable() and value == value.strip() != ""


def _sum_of(names: Mapping[str, str]) -> str:
    return xxh3_64_hexdigest(json.dumps(sorted(names.items())).encode())


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
