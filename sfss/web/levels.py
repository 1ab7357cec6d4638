"""One level of a listing: what lies directly behind a prefix, with folders in place of all that is
in them.
"""

from typing import Final

from sfss.cluster import Cluster, Thing
from sfss.keys import check_path

_LAST: Final = "\U0010ffff"
_BEFORE_SURROGATES: Final = "\ud7ff"


async def level(cluster: Cluster, prefix: str, after: str, limit: int) -> list[Thing]:
    """Return up to ``limit`` things, in the order of ``Cluster.list``, whose paths begin with
    ``prefix`` and come after ``after``: each file that has no "/" behind the prefix, and of all
    others the folder, its path up to that "/". What is in a folder is not walked through.

    Raises ``BadPath``, ``CannotList``, ``NoStoreReachable``.
    """
    for text in filter(None, (prefix, after)):
        check_path(text)
    folder = prefix[: prefix.rfind("/") + 1]
    beginning = prefix[len(folder) :]

    def order(name: str) -> bytes:
        return cluster.order(folder + name)

    if not after.startswith(folder) and cluster.order(after) > order(""):
        return []
    lower = before(beginning)
    if order(lower) > order(beginning):  # where keys are ordered otherwise than paths
        lower = beginning[:-1]
    position = max(_name_in(folder, after), lower, key=order)
    found: list[Thing] = []
    while (wanted := limit - len(found)) > 0:
        things = await cluster.folder(folder, position, wanted)
        for name, head in things:
            if name.startswith(beginning):
                found.append(Thing(folder + name, head))
            elif order(name) > order(beginning):
                return found
        if len(things) < wanted:
            break
        position = things[-1].name
    return found


def _name_in(folder: str, after: str) -> str:
    """Return the name of the last thing in ``folder`` that does not come after ``after``."""
    if not after.startswith(folder):
        return ""
    name, slash, _ = after[len(folder) :].partition("/")
    return name + slash


def before(beginning: str) -> str:
    """Return a text from which on to look for all names with this ``beginning``: none of them comes
    before it, and of others that come behind it there are hardly any.
    """
    if not beginning:
        return ""
    last = ord(beginning[-1]) - 1
    while chr(last) in "/\\" or 0x7F <= last < 0xA0:
        last -= 1  # not in names
    if last < ord(" "):
        return beginning[:-1]
    return beginning[:-1] + (_BEFORE_SURROGATES if 0xD800 <= last < 0xE000 else chr(last)) + _LAST
