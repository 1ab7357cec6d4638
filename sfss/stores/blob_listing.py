"""All ids of a blob server, from the one answer that it gives: ``GET /blobs``, a JSON array.

It may have any length. It is parsed as it comes, and bounded before it is; of its ids, only so many
are held as a page of a listing needs, or all of them in a temporary file. Only when the array has
ended, that was all.
"""

import asyncio
import re
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, NamedTuple

from sfss.errors import CannotList, CannotTell, StoreFull, Unreachable
from sfss.http_connection import HELD_LIMIT, NoAnswer
from sfss.record import pieces_of
from sfss.spool import Spool
from sfss.stores.base import KEYS_LIMIT
from sfss.stores.webdav_node import Answer, Node

LISTING_LIMIT: Final = 1 << 30
"""Bytes that a list of ids may have: 25 million of them."""

ID_LIMIT: Final = 200
"""Characters of an id."""

HELD_IDS: Final = 65_536
"""Ids that are held, for the next pages of a listing."""

_REMEMBERED_S: Final = 60.0
_NO_LIST: Final = frozenset({404, 405, 410, 501})

_TEXT_LIMIT: Final = 4096
_BEGIN: Final = re.compile(rb"[ \t\r\n]*+(?:(\[)(?:[ \t\r\n]*+(\]))?|(null))")
_ITEM: Final = re.compile(rb'[ \t\r\n]*+"((?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*+)"[ \t\r\n]*+([,\]])')
_ID: Final = re.compile(rb"[a-z0-9]{1,%d}" % ID_LIMIT)


class IdList:
    """Takes the bytes of a JSON array of ids as they come. What is in it and no id is left out: no
    blob can be asked for by it.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._begun = self._ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the ids that ``data`` completes; raise ValueError where it is no such array."""
        text = self._rest + data
        position = 0
        if not self._begun:
            position = self._begin(text)
        found: list[bytes] = []
        while self._begun and not self._ended and (item := _ITEM.match(text, position)):
            position = _bounded(item)
            self._ended = item[2] == b"]"
            if _ID.fullmatch(item[1]):
                found.append(item[1])
        self._rest = text[position:]
        if self._ended and self._rest.strip(b" \t\r\n"):
            raise ValueError("bytes behind the end of the list")
        if len(self._rest) > _TEXT_LIMIT:
            raise _too_long(self._rest)
        return found

    def _begin(self, text: bytes) -> int:
        begin = _BEGIN.match(text)
        # An empty list is seen to be one when its end has come.
        if begin is None or (begin[1] and not begin[2] and not text[begin.end() :].strip()):
            return 0
        self._begun, self._ended = True, not begin[1] or begin[2] is not None
        return _bounded(begin)

    def finish(self) -> None:
        """Raise ValueError unless the array has ended."""
        if not self._ended:
            raise ValueError(f"it ends with {self._rest[-80:]!r}, and not as a list of texts does")


def _bounded(found: re.Match[bytes]) -> int:
    """Return where it ends, if it may be so long: however many pieces it came in."""
    if found.end() - found.start() > _TEXT_LIMIT:
        raise _too_long(found[0])
    return found.end()


def _too_long(text: bytes) -> ValueError:
    return ValueError(f"no list of texts: {text[:80]!r}")


class _Part(NamedTuple):
    """The ids from ``start`` on in byte order, all of them if ``is_rest``; and all folders."""

    start: bytes
    ids: Sequence[bytes]
    is_rest: bool
    folders: Sequence[bytes]
    at_s: float


class Listing:
    """The ids that ``node`` lists; lists of all of them go to ``spool_folder``.

    All methods raise ``CannotList``, ``CannotTell``, ``Unreachable``.
    """

    def __init__(self, node: Node, spool_folder: Path) -> None:
        self._node, self._spool_folder = node, spool_folder
        self._part: _Part | None = None
        self._reading = asyncio.Lock()

    async def folders(self, anew: bool) -> Sequence[bytes]:
        """Return the first two characters of all ids, in byte order; ``anew``: of no list that was
        read before.
        """
        async with self._reading:
            part = None if anew else self._remembered()
            if part is None:
                part = await self._read_part(b"")
            return part.folders

    async def page(self, start: bytes, limit: int) -> Sequence[bytes]:
        """Return up to ``limit`` ids from ``start`` on, in byte order; none where there are none.
        They may be of a list that was read a minute ago.
        """
        async with self._reading:
            part = self._remembered()
            if part is None or not _covers(part, start):
                part = await self._read_part(start)
            first = bisect_left(part.ids, start)
            return part.ids[first : first + limit]

    async def all(self) -> AsyncIterator[Sequence[bytes]]:
        """Yield all ids, in batches of up to ``KEYS_LIMIT``, when the list has come whole."""
        spool = Spool(self._spool_folder, HELD_LIMIT)
        try:
            async with aclosing(self._read()) as batches:
                async for ids in batches:
                    await spool.write(b"".join(each + b"\n" for each in ids))
            body, _ = await spool.finish()
            pieces, rest = pieces_of(body), b""
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                lines = (rest + piece).split(b"\n")
                rest = lines.pop()
                for first in range(0, len(lines), KEYS_LIMIT):
                    yield lines[first : first + KEYS_LIMIT]
        except (OSError, StoreFull) as error:
            raise Unreachable(self._node.address, str(error), False) from error

    def _remembered(self) -> _Part | None:
        part = self._part
        if part is None or asyncio.get_running_loop().time() > part.at_s + _REMEMBERED_S:
            return None
        return part

    async def _read_part(self, start: bytes) -> _Part:
        self._part = None
        ids: list[bytes] = []
        folders: set[bytes] = set()
        is_rest = True
        async with aclosing(self._read()) as batches:
            async for batch in batches:
                folders.update(each[:2] for each in batch)
                ids += [each for each in batch if each >= start]
                if len(ids) > 2 * HELD_IDS:
                    ids, is_rest = _first(ids), False
        if len(ids) > HELD_IDS:
            ids, is_rest = _first(ids), False
        else:
            ids.sort()
        now_s = asyncio.get_running_loop().time()
        self._part = part = _Part(start, ids, is_rest, sorted(folders), now_s)
        return part

    async def _read(self) -> AsyncGenerator[list[bytes], None]:
        answer = await self._node.ask("GET", b"blobs")
        ids, size = IdList(), 0
        try:
            self._check(answer)
            async for piece in answer.pieces():
                size += len(piece)
                if size > LISTING_LIMIT:
                    raise ValueError(f"it has over {LISTING_LIMIT} bytes")
                yield ids.feed(piece)
            ids.finish()
        except NoAnswer as error:
            raise Unreachable(self._node.address, str(error), False) from error
        except ValueError as error:
            reason = f"a malformed list of blobs: {error}"
            raise Unreachable(self._node.address, reason, False) from error
        finally:
            answer.close()

    def _check(self, answer: Answer) -> None:
        if answer.status in _NO_LIST:
            raise CannotList(self._node.address, f"it answers {answer.status} to GET /blobs")
        if answer.status == 504:
            raise CannotTell(self._node.address)
        if answer.status != 200:
            raise self._node.unexpected("a list of blobs", answer.status, False)


def _covers(part: _Part, start: bytes) -> bool:
    if part.start > start:
        return False
    return part.is_rest or bool(part.ids and part.ids[-1] >= start)


def _first(ids: list[bytes]) -> list[bytes]:
    ids.sort()
    return ids[:HELD_IDS]
