"""Which file or folder a URL names, where paths are those of URLs. Pure.

A path is percent-decoded once and is UTF-8; ``//`` is ``/``; the query is no part of it. No part of
a path begins with ``.``, so nothing can be asked for that lies above, or hidden.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from sfss.errors import BadPath, NotFound
from sfss.keys import check_path

_ORIGIN: Final = re.compile(rb"\Ahttps?://[^/?#]*", re.IGNORECASE)
_BEHIND_PATH: Final = re.compile(rb"[?#].*", re.DOTALL)
_SLASHES: Final = re.compile("//+")


class Location(NamedTuple):
    """What a URL names: the path that it says, without the ``/`` before it, and the ``path`` where
    that is stored, after the rewrites. That of a folder ends with ``/``; the topmost is "".
    """

    asked: str
    path: str

    @property
    def is_folder(self) -> bool:
        """Whether a folder is meant."""
        return not self.path or self.path.endswith("/")

    @property
    def as_folder(self) -> "Location":
        """The folder of this name."""
        return self if self.is_folder else Location(f"{self.asked}/", f"{self.path}/")


def locate(target: str, rewrites: Sequence[tuple[str, str]] = ()) -> Location:
    """Return what ``target`` names, a URL or its part from the path on.

    For each FROM and TO of ``rewrites``, in order, a path that begins with FROM is made to begin
    with TO. Raises ``BadPath``, and ``NotFound`` for a path with a part that begins with ``.``.
    """
    raw = target.encode("utf-8", "surrogateescape")
    raw = _BEHIND_PATH.sub(b"", _ORIGIN.sub(b"", raw)) or b"/"
    if not raw.startswith(b"/"):
        raise BadPath("it does not start with '/'")
    try:
        address = _normal(unquote_to_bytes(raw).decode("utf-8"))
    except UnicodeDecodeError:
        raise BadPath("it is not UTF-8") from None
    asked = address[1:]
    for former, new in rewrites:
        if address.startswith(former):
            address = _normal(new + address[len(former) :])
    path = address[1:]
    if path:
        check_path(path)
    return Location(asked, path)


def _normal(address: str) -> str:
    address = _SLASHES.sub("/", address)
    if "/." in address:
        raise NotFound(address[1:])
    return address


def is_addressable(name: str) -> bool:
    """Tell whether a URL can name what is called ``name``, a path or the end of one."""
    try:
        check_path(name)
    except BadPath:
        return False
    return "/." not in f"/{name}"


def reference(path: str) -> str:
    """Return ``path`` as a reference: absolute if it begins with ``/``, else relative."""
    return quote(path, safe="/")
