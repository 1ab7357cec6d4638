"""What is in the folders of a bucket, which has no folders: only keys in byte order.

A page begins with the plain list of keys behind a position, and what lies in a folder is passed
over: by reading on where that is little, by a new list behind it where it is much. Where there are
many large folders, the bucket is asked for the names of all that is in this one instead (a list
with a delimiter): obstore has no way to begin such a list in the middle.
"""

from operator import attrgetter
from typing import Final, NamedTuple

from sfss.keys import is_file_path
from sfss.stores.bucket_client import PAGE_SIZE, Bucket, Object

LAST: Final = "\U0010ffff"
"""No name in a path is behind it."""

JUMPS: Final = 4
"""How many large folders are passed over one by one."""

_KEY_LIMIT: Final = 1024
_BEHIND_ALL: Final = b"\xf5"


class Thing(NamedTuple):
    """One thing in a folder: an object, or, without one, a folder, whose name ends with "/"."""

    name: bytes
    object: Object | None


async def page(bucket: Bucket, folder: str, after: bytes, limit: int) -> list[Thing]:
    """Return the things in ``folder`` ("" or ending with "/") whose names are greater than
    ``after``, in byte order: ``limit`` of them, or all that there are.

    An object that is only the mark of a folder, as some programs make them, may be among them.
    Raises ``CannotList``, ``Unreachable``.
    """
    if limit <= 0 or after[:1] >= _BEHIND_ALL:
        return []
    found: list[Thing] = []
    start = _askable(folder, after)
    position: str | None = start and folder + start
    for _ in range(JUMPS):
        position = await _read_on(_Page(bucket, folder, after, limit, found), position or "")
        if position is None or len(found) >= limit:
            return found[:limit]
    return (await _all(bucket, folder, after))[:limit]


class _Page(NamedTuple):
    """What ``page`` is asked for, and what it has ``found`` so far."""

    bucket: Bucket
    folder: str
    after: bytes
    limit: int
    found: list[Thing]


async def _read_on(wanted: _Page, position: str) -> str | None:
    """Add to what was found what is behind ``position``; return where to go on, None at the end."""
    folder, found = wanted.folder, wanted.found
    passed = 0
    objects = wanted.bucket.objects(folder, position)
    async for batch in objects:
        for each in batch:
            name, slash, _ = each.key[len(folder) :].partition("/")
            thing = Thing((name + slash).encode(), None if slash else each)
            passed += 1
            if thing.name > (found[-1].name if found else wanted.after) and _is_shown(thing.name):
                found.append(thing)
                passed = 0
        if passed >= PAGE_SIZE - 1 or len(found) >= wanted.limit:
            await objects.aclose()
            return f"{folder}{name}/{LAST}" if slash else each.key
    return None


async def _all(bucket: Bucket, folder: str, after: bytes) -> list[Thing]:
    listed = await bucket.folder(folder)
    cut = len(folder)
    things = [Thing(each.key[cut:].encode(), each) for each in listed.objects]
    things += [Thing(name[cut:].encode(), None) for name in listed.folders]
    shown = [thing for thing in things if thing.name > after and _is_shown(thing.name)]
    return sorted(shown, key=attrgetter("name"))


def _is_shown(name: bytes) -> bool:
    return is_file_path(name.removesuffix(b"/"))


def _askable(folder: str, after: bytes) -> str:
    """Return the longest beginning of ``after`` that can be asked for: not behind it."""
    if after.endswith(b"/"):
        return _askable(folder, after[:-1]) + f"/{LAST}" if is_file_path(after[:-1]) else ""
    room = _KEY_LIMIT - len(folder.encode())
    text = after[:room].decode("utf-8", "ignore")
    return text if is_file_path(text.encode()) and after.startswith(text.encode()) else ""
