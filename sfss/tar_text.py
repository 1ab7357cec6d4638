"""The heads of the entries of a tar archive, written and read. Pure.

An entry is a head of 512 bytes, and its body, filled up to a multiple of that; an archive ends with
heads of zeros (POSIX.1-2017, pax, "ustar Interchange Format"):

    ======  ====  =============================================================
    offset  size  field
    ======  ====  =============================================================
    0       100   name, up to a NUL
    100     24    mode, owner, group
    124     12    bytes of the body, in octal; with the top bit set, in binary
    136     12    time of the last change, in seconds
    148     8     sum of all bytes, this field taken for spaces
    156     1     kind
    157     100   name of the target of a link
    257     6     "ustar\\0"; GNU tar writes "ustar ", and no prefix
    263     82    version, names of owner and group, numbers of devices
    345     155   prefix: what stands before the name, and a slash
    ======  ====  =============================================================

An entry of the kind ``x`` has fields for the next one as its body, ``g`` for all that follow ("pax
Interchange Format"), each "LENGTH KEYWORD=VALUE\\n". GNU tar writes long names as bodies of the
kind ``L``. No length is trusted before it is bounded.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

BLOCK: Final = 512
END: Final = bytes(20 * BLOCK)
"""What ends an archive: a record of zeros, which is what tar reads at once."""

TYPE_FIELD: Final = "SCHILY.xattr.user.mime_type"
"""The type of a file. Of extended attributes it is the one that freedesktop.org has for that."""

EXPIRES_FIELD: Final = "SCHILY.xattr.user.sfss.expires"
"""The second since 1970 from which on a file is gone. GNU tar and bsdtar take both keywords for
extended attributes, and complain of none that begins as they do.
"""

_COMMENT: Final = "comment"
_DIGEST: Final = b"xxh3-128 "
# A comment, and no attribute: whoever unpacks a file and changes it does not take it along.

_SPARSE: Final = b"GNU.sparse."
_KEPT: Final = frozenset(
    key.encode() for key in ("path", "size", _COMMENT, TYPE_FIELD, EXPIRES_FIELD)
)
_DIGITS_LIMIT: Final = 20
_LARGEST: Final = 0o77777777777


class BadHead(ValueError):
    """Raised when what should be a head, or fields, is none; says why."""


class Head(NamedTuple):
    """The head of an entry: ``size`` in bytes as it stands there, which some kinds do not have."""

    name: bytes
    kind: bytes
    size: int
    goes_on: bool = False


def padding(size: int) -> int:
    """Return how many bytes fill up a body of ``size``."""
    return -size % BLOCK


def entry_head(name: str, size: int, mtime: float, fields: Mapping[str, str]) -> bytes:
    """Return what stands before the body of a file, with ``fields`` that have values."""
    encoded = name.encode("utf-8", "surrogateescape")
    second = int(mtime)
    more = {key: value.encode("utf-8", "surrogateescape") for key, value in fields.items() if value}
    if second != mtime or not 0 <= second <= _LARGEST:
        more["mtime"] = f"{mtime:.6f}".encode()
    if size > _LARGEST:
        more["size"] = str(size).encode()
    is_short = len(encoded) <= 100 and encoded.isascii()
    if not is_short:
        more["path"] = encoded
        # For readers that know of no fields; as short as it has to be, and still of characters.
        encoded = encoded[:100].decode("utf-8", "ignore").encode()
    head = _block(encoded, b"0", min(size, _LARGEST), max(0, min(second, _LARGEST)))
    if not more:
        return head
    text = b"".join(_record(key.encode(), value) for key, value in more.items())
    return b"".join((_fields_head(len(text)), text, bytes(padding(len(text))), head))


def digest_comment(digest: str) -> dict[str, str]:
    """Return the field for the XXH3-128 of a body, given in hex."""
    return {_COMMENT: _DIGEST.decode() + digest}


def digest_of(fields: Mapping[bytes, bytes]) -> str | None:
    """Return the XXH3-128 that ``fields`` say a body has, in hex."""
    comment = fields.get(_COMMENT.encode(), b"")
    return comment[len(_DIGEST) :].decode("latin-1") if comment.startswith(_DIGEST) else None


@lru_cache(16)
def _fields_head(size: int) -> bytes:
    return _block(b"././@PaxHeader", b"x", size, 0)


def _block(name: bytes, kind: bytes, size: int, second: int) -> bytes:
    text = b"%b0000644\0000000000\0000000000\0%011o\0%011o\0        %b%bustar\00000%b" % (
        name.ljust(100, b"\0"),
        size,
        second,
        kind,
        bytes(100),
        bytes(247),
    )
    return b"%b%06o\0 %b" % (text[:148], sum(text), text[156:])


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    size = rest
    while (found := rest + len(str(size))) != size:
        size = found
    return b"%d %b=%b\n" % (size, key, value)


def read_head(block: bytes) -> Head | None:
    """Return the head that ``block`` is; None at the end of the archive. Raises ``BadHead``."""
    if not block.strip(b"\0"):
        return None
    field = block[148:156]
    found = sum(block) - sum(field) + 8 * 32
    said = _number(field)
    if said != found:
        # Some have taken bytes for numbers with a sign.
        text = block[:148] + block[156:]
        if said != found - 256 * sum(byte > 127 for byte in text):
            raise BadHead("the sum of its bytes is wrong")
    kind = block[156:157]
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    size = _number(block[124:136])
    return Head(name, kind, size, kind == b"S" and block[482] != 0)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise BadHead("a number in it is negative")
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    text = field.partition(b"\0")[0].strip(b" ")
    if text.strip(b"01234567"):
        raise BadHead(f"{text!r} is no number")
    return int(text or b"0", 8)


def read_fields(text: bytes) -> dict[bytes, bytes]:
    """Return those of the fields in ``text`` that say something here. Raises ``BadHead``."""
    fields: dict[bytes, bytes] = {}
    position = 0
    while position < len(text):
        space = text.find(b" ", position, position + _DIGITS_LIMIT)
        digits = text[position : max(space, position)]
        end = position + int(digits) if digits.isdigit() else 0
        equals = text.find(b"=", space + 1, end)
        if equals < 0 or text[end - 1 : end] != b"\n":
            raise BadHead("its extended header is malformed")
        key = text[space + 1 : equals]
        if key in _KEPT or key.startswith(_SPARSE):
            fields[key] = text[equals + 1 : end - 1]
        position = end
    return fields


def size_of(head: Head, fields: Mapping[bytes, bytes]) -> int:
    """Return how many bytes the body of an entry has. Raises ``BadHead``."""
    text = fields.get(b"size", b"")
    if not text:
        return head.size
    if len(text) > _DIGITS_LIMIT or not text.isdigit():
        raise BadHead(f"its size is {text[:_DIGITS_LIMIT]!r}")
    return int(text)


def sparse_name(head: Head, fields: Mapping[bytes, bytes]) -> bytes | None:
    """Return the name of a file that is kept without its holes; None for any other."""
    if head.kind == b"S":
        return fields.get(b"path") or head.name
    if any(key.startswith(_SPARSE) for key in fields):
        return fields.get(_SPARSE + b"name") or fields.get(b"path") or head.name
    return None
