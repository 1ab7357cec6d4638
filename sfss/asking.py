"""For whom stores are asked: told to HTTP nodes without being handed through all that lies between.

A task that is started for a request inherits what was set for it (PEP 567).
"""

import re
from contextvars import ContextVar
from typing import Final

FORWARDED: Final[ContextVar[bytes]] = ContextVar("forwarded", default=b"")
"""The header line that names the client to a node, with its end; empty where nobody is named."""

_LIMIT: Final = 500
_VALUE: Final = re.compile("[0-9A-Za-z.:, _%\\[\\]-]*")


def forwarded_for(said: str, peer: str) -> bytes:
    """Return the header line X-Forwarded-For for a request that came from ``peer``; ``said`` is
    what that field said when it came, of which nothing odd is passed on.
    """
    known = said.strip(" \t,") if len(said) <= _LIMIT and _VALUE.fullmatch(said) else ""
    clients = ", ".join(filter(None, (known, peer)))
    return f"X-Forwarded-For: {clients}\r\n".encode("ascii", "replace") if clients else b""
