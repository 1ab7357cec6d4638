"""Which paths are allowed, and under which key a store is asked for one.

A key that leaves this module can be written into a command of the memcached text protocol as it is:
printable ASCII without space, at most 250 bytes (protocol.txt, "Keys"), and not beginning with
``@`` or ``?``, which the Beansdb family reads as commands. The embedded store, which has no
protocol, takes the path itself (``plain``), so that its byte order is the order of the paths.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_letters, digits, punctuation
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sfss.errors import BadPath

KEY_LIMIT: Final = 250
"""Most bytes a key may have in the memcached protocol (protocol.txt, "Keys")."""

FILES_LIMIT: Final = 1024
"""Most bytes that a path may have where files are kept as plain files."""

FILE_NAME_LIMIT: Final = 255
"""Most bytes of a name between two "/" there: NAME_MAX of Linux's file systems."""

# "%" is the escape itself; letters, digits and "_.-~" are never escaped by quote_from_bytes.
_UNESCAPED: Final = "".join(set(ascii_letters + digits + punctuation) - {"%"})
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def _percent(path: bytes) -> bytes:
    key = quote_from_bytes(path, safe=_UNESCAPED)
    if key[0] in "@?":
        key = f"%{ord(key[0]):02X}{key[1:]}"
    return key.encode("ascii")


def _file_path(path: bytes) -> bytes:
    _split(path)
    return path


def _split(path: bytes) -> list[bytes]:
    names = path.split(b"/")
    for name in names:
        if not name:
            raise BadPath("it ends with '/'")
        if name.startswith(b"."):
            raise BadPath("a part of it begins with '.'")
        if len(name) > FILE_NAME_LIMIT:
            raise BadPath(f"a part of it has {len(name)} bytes; {FILE_NAME_LIMIT} are allowed")
    return names


@dataclass(frozen=True, slots=True)
class _Encoding:
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]


ENCODINGS: Final = {
    "percent": _Encoding(_percent, unquote_to_bytes),  # readable; the default
    "base64": _Encoding(b64encode, b64decode),  # what the sfss of 2014 wrote
    "plain": _Encoding(bytes, bytes),  # for stores that take any bytes
    "files": _Encoding(_file_path, bytes),  # for stores that keep plain files
}


def check_path(path: str) -> bytes:
    """Return ``path`` in UTF-8, or raise ``BadPath`` with the rule that it breaks."""
    if not path:
        raise BadPath("it is empty")
    if path.startswith("/"):
        raise BadPath("it starts with '/'")
    if "\\" in path:
        raise BadPath("it contains a backslash")
    if "//" in path:
        raise BadPath("it contains '//'")
    if _CONTROL.search(path):
        raise BadPath("it contains a control character")
    try:
        return path.encode("utf-8")
    except UnicodeEncodeError:
        raise BadPath("it is not UTF-8") from None


def names_of(key: bytes) -> list[bytes]:
    """Return the names between the "/" of a ``files`` key; raise ``BadPath`` where it is none."""
    try:
        check_path(key.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadPath("it is not UTF-8") from None
    return _split(key)


def is_file_path(key: bytes) -> bool:
    """Tell whether ``key`` is a ``files`` key: a plain file that can be asked for."""
    try:
        names_of(key)
    except BadPath:
        return False
    return True


@dataclass(frozen=True, slots=True)
class KeyScheme:
    """How the keys of one kind of store are made.

    ``encoding`` is a name in ``ENCODINGS``; ``limit`` the most bytes a key may have.
    """

    encoding: str = "percent"
    limit: int = KEY_LIMIT

    def key(self, path: str) -> bytes:
        """Return the key of ``path``; raise ``BadPath`` where a rule is broken or the key would be
        too long.
        """
        key = ENCODINGS[self.encoding].encode(check_path(path))
        if len(key) > self.limit:
            what = "it" if self.encoding in ("plain", "files") else f"its key ({self.encoding})"
            raise BadPath(f"{what} has {len(key)} bytes; {self.limit} are allowed")
        return key

    @property
    def has_prefixes(self) -> bool:
        """Whether paths that begin alike have keys that do, so that they can be listed."""
        return self.encoding != "base64"

    def prefix(self, path_prefix: str) -> bytes:
        """Return what the keys of all paths beginning with ``path_prefix`` begin with, if this
        scheme ``has_prefixes``.
        """
        if not path_prefix:
            return b""
        checked = check_path(path_prefix)
        return checked if self.encoding == "files" else ENCODINGS[self.encoding].encode(checked)

    def path(self, key: bytes) -> str:
        """Return the path whose key is ``key``, the inverse of ``key``."""
        return ENCODINGS[self.encoding].decode(key).decode("utf-8")
