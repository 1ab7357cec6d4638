"""What gateways and nodes say to each other beside the memcached text protocol. Pure."""

from typing import Final

NEWEST: Final = "newest"
"""Our own command, with the arguments of set: keep a record unless there is a newer one, then
EXISTS. Gateways that do not share a lock need it to be one step. A node that says that it knows it
knows ``delete_damaged``, too.
"""

MEMBERS: Final = "members"
"""Our own command, with a size and so many bytes, for messages between members of a cluster; the
answer is "MEMBERS", a size and so many bytes. A node that takes messages says so in its settings.
"""

BROWSE: Final = "browse"
"""Our own command, ``browse LIMIT =PREFIX =AFTER``: what is in a folder, in byte order, up to
``LIMIT`` things behind the name ``AFTER``; the "=" make words of empty ones. The answer is as one
to "get", its keys are numbers from 0 on; see ``memtext_listing.thing``. A node that knows it says
so in its settings.
"""

BROWSE_LIMIT: Final = 1024
"""Most things in one answer."""

MESSAGE_LIMIT: Final = 1024 * 1024
"""Bytes that a message may have, and the answer to one."""

DAMAGED: Final = "damaged record"
"""What the text of a SERVER_ERROR begins with when the bytes in the store fail their check."""

DISK_FULL: Final = "disk full"
"""What it begins with when there is no room; the former item is kept."""


def read_damage(text: str) -> tuple[str, str]:
    """Return what was expected and what was found, from a text that begins with ``DAMAGED``."""
    _, _, damage = text.partition(f"{DAMAGED}: expected ")
    expected, _, found = damage.partition(", found ")
    return (expected, found) if found else ("what was stored", text)
