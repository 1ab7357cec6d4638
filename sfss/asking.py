"""For whom stores are asked, and by which request: told to HTTP nodes without being handed through
all that lies between.

A task that is started for a request inherits what was set for it (PEP 567).
"""

import random
import re
from contextvars import ContextVar
from typing import Final

FORWARDED: Final[ContextVar[bytes]] = ContextVar("forwarded", default=b"")
"""The header lines that name client and request to a node, with their ends; empty where nobody is
named.
"""

_HEX: Final = "%016x"
_REQUEST_ID: Final = re.compile("[0-9A-Za-z._~:@=+/-]{1,128}")

_LIMIT: Final = 500
_VALUE: Final = re.compile("[0-9A-Za-z.:, _%\\[\\]-]*")


def forwarded_for(said: str, peer: str) -> bytes:
    """Return the header line X-Forwarded-For for a request that came from ``peer``; ``said`` is
    what that field said when it came, of which nothing odd is passed on.
    """
    known = said.strip(" \t,") if len(said) <= _LIMIT and _VALUE.fullmatch(said) else ""
    clients = ", ".join(filter(None, (known, peer)))
    return f"X-Forwarded-For: {clients}\r\n".encode("ascii", "replace") if clients else b""


def request_id_of(said: str | None) -> str:
    """Return the id that a client gave its request, "" for none, or one that is odd or too long."""
    return said if said is not None and _REQUEST_ID.fullmatch(said) else ""


def new_request_id() -> str:
    """Return an id for a request that came without one: different from others, and no secret."""
    return _HEX % random.getrandbits(64)


def request_id_line(request_id: str) -> str:
    """Return the header line X-Request-ID with its end; "" without an id."""
    return f"X-Request-ID: {request_id}\r\n" if request_id else ""
