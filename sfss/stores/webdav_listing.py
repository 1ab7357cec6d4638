"""What is in the folders of an HTTP node: as JSON (nginx's autoindex) or as XML (PROPFIND).

Which of the two a node has is found out once, at the folder that all files are in. A listing is
bounded before it is parsed, and of what it names, only what somebody could ask for is believed.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit
from xml.etree.ElementTree import Element, ParseError, XMLParser, iterparse

from sfss.config import MIB
from sfss.errors import CannotList, Unreachable
from sfss.http_connection import NoAnswer
from sfss.http_text import LENGTH_LIMIT, BadResponse, second_of
from sfss.keys import FILES_LIMIT, is_file_path
from sfss.stores.webdav_node import SLASH, Answer, File, Node, told

LISTING_LIMIT: Final = 64 * MIB
"""Bytes that the listing of one folder may have."""

_REMEMBERED_S: Final = 2.0
_JSON: Final = b"application/json"
_ACCEPT_JSON: Final = "Accept: application/json\r\n"
_WANTED: Final = (
    b'<?xml version="1.0" encoding="utf-8"?>\n<propfind xmlns="DAV:"><prop><resourcetype/>'
    b"<getcontentlength/><getlastmodified/></prop></propfind>"
)
_PROPFIND_FIELDS: Final = (
    f"Depth: 1\r\nContent-Type: application/xml\r\nContent-Length: {len(_WANTED)}\r\n"
)


class Thing(NamedTuple):
    """One thing in a folder: a ``file``, or a folder, whose name ends with "/". Of another name
    without a ``file``, the node says that it is damaged.
    """

    name: bytes
    file: File | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith(SLASH)


Parse: TypeAlias = Callable[[bytes, bytes], list[Thing]]
"""Returns what a listing names, given that and the path of the folder; raises ValueError."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    folder: bytes
    things: Sequence[Thing]
    state: int
    at_s: float


class Listings:
    """The folders of ``node``."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._by_propfind: bool | None = None
        self._last: _Remembered | None = None

    async def page(self, folder: bytes, after: bytes, limit: int, state: int) -> Sequence[Thing]:
        """Return up to ``limit`` things in ``folder`` ("" or ending with "/") whose names are
        greater than ``after``, in byte order. Raises ``CannotList``, ``Unreachable``.

        Every listing is of a whole folder: one is remembered for a moment, for the next page, as
        long as ``state`` stays the same; 0 never does.
        """
        now_s = asyncio.get_running_loop().time()
        last = self._last
        if not (
            after
            and last is not None
            and (last.folder, last.state) == (folder, state or None)
            and now_s < last.at_s + _REMEMBERED_S
        ):
            self._last = None
            self._last = last = _Remembered(folder, await self._things(folder), state, now_s)
        start = bisect_right(last.things, after, key=attrgetter("name"))
        return last.things[start : start + max(0, limit)]

    async def files(self) -> AsyncIterator[Sequence[tuple[bytes, File]]]:
        """Yield all files with their keys, a folder at a time; raises as ``page``."""
        folders = [b""]
        while folders:
            folder = folders.pop()
            things = await self._things(folder)
            yield [(folder + thing.name, thing.file) for thing in things if thing.file is not None]
            folders += [
                folder + thing.name
                for thing in things
                if thing.is_folder and len(folder + thing.name) < FILES_LIMIT
            ]

    async def _things(self, folder: bytes) -> list[Thing]:
        if self._by_propfind is None:
            self._by_propfind = await self._learn()
        parse: Parse = things_in_xml if self._by_propfind else things_in_json
        if self._by_propfind:
            answer = await self._propfind(folder)
            expected = answer.status == 207
        else:
            answer = await self._node.ask("GET", folder, _ACCEPT_JSON)
            expected = answer.status == 200 and answer.content_type() == _JSON
        if not expected:
            answer.close()
            if answer.status in (404, 410):
                return []
            raise self._node.unexpected("a listing", answer.status, False)
        return await self._parsed(answer, folder, parse)

    async def _learn(self) -> bool:
        """Return whether the node lists by PROPFIND. What it says of any other folder than the one
        of all would not tell: that need not be there.
        """
        answer = await self._node.ask("HEAD", b"", _ACCEPT_JSON)
        if answer.status == 200 and answer.content_type() == _JSON:
            return False
        tried = await self._propfind(b"")
        tried.close()
        if tried.status == 207:
            return True
        reason = f"it answers {answer.status} and no JSON, and {tried.status} to PROPFIND"
        raise CannotList(self._node.address, reason)

    async def _propfind(self, folder: bytes) -> Answer:
        return await self._node.ask("PROPFIND", folder, _PROPFIND_FIELDS, _WANTED)

    async def _parsed(self, answer: Answer, folder: bytes, parse: Parse) -> list[Thing]:
        address = self._node.address
        path = unquote_to_bytes(self._node.base) + folder
        try:
            text = await answer.whole(LISTING_LIMIT)
            if text is None:
                raise Unreachable(address, f"a listing of over {LISTING_LIMIT} bytes", False)
            if len(text) > MIB:
                return await asyncio.to_thread(parse, text, path)
            return parse(text, path)
        except NoAnswer as error:
            raise Unreachable(address, str(error), False) from error
        except (ValueError, RecursionError) as error:
            reason = f"a malformed listing of {folder!r}: {error}"
            raise Unreachable(address, reason, False) from error


def things_in_json(text: bytes, _: bytes) -> list[Thing]:
    """Return what nginx's autoindex names, in byte order; raise ValueError."""
    # nginx writes names as they are: one that is not UTF-8 spoils no other.
    entries = json.loads(text.decode("utf-8", "surrogateescape"))
    if not isinstance(entries, list):
        raise ValueError("no list")
    return _in_order(_thing_of(entry) for entry in entries)


def _thing_of(entry: object) -> Thing | None:
    if not isinstance(entry, dict):
        raise ValueError(f"not an entry: {entry!r:.80}")
    name, kind = entry.get("name"), entry.get("type")
    if not isinstance(name, str):
        raise ValueError(f"no name: {entry!r:.80}")
    key = name.encode("utf-8", "surrogatepass")
    if kind == "directory":
        return Thing(key + SLASH, None)
    if kind != "file":
        return Thing(key, None) if entry.get("damaged") is True else None  # so another sfss
    size, date = entry.get("size"), entry.get("mtime")
    if type(size) is not int or not 0 <= size <= LENGTH_LIMIT or not isinstance(date, str):
        raise ValueError(f"no file: {entry!r:.80}")
    version, digest = entry.get("version"), entry.get("digest")
    return Thing(key, File(size, _second(date), *told(str(version), str(digest))))


def things_in_xml(text: bytes, path: bytes) -> list[Thing]:
    """Return what an answer to PROPFIND for the folder at ``path`` names, in byte order; raise
    ValueError. Definitions of entities are refused before anything is parsed.
    """
    if b"\0" in text or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("it has definitions of its own")
    return _in_order(_responses(text, path))


def _responses(text: bytes, path: bytes) -> Iterator[Thing | None]:
    try:
        # Whatever encoding it declares, it is read as what was searched for definitions.
        parser = XMLParser(encoding="utf-8")
        for _, element in iterparse(BytesIO(text), ("end",), parser):
            if element.tag == "{DAV:}response":
                yield _thing_in(element, path)
                element.clear()
    except ParseError as error:
        raise ValueError(str(error)) from error


def _thing_in(response: Element, path: bytes) -> Thing | None:
    href = unquote_to_bytes(urlsplit((response.findtext("{DAV:}href") or "").strip()).path)
    if not href.startswith(path):
        raise ValueError(f"{href[:80]!r} is not in the folder")
    name = href[len(path) :].removesuffix(SLASH)
    if not name:
        return None  # the folder itself
    if response.find(".//{DAV:}resourcetype/{DAV:}collection") is not None:
        return Thing(name + SLASH, None)
    if " 500 " in (response.findtext("{DAV:}status") or ""):
        return Thing(name, None)
    size = response.findtext(".//{DAV:}getcontentlength") or ""
    if not (size.isascii() and size.isdigit() and len(size) <= 16):
        raise ValueError(f"a file of {size[:80]!r} bytes")
    return Thing(name, File(int(size), _second(response.findtext(".//{DAV:}getlastmodified"))))


def _second(date: str | None) -> int:
    if not date:
        return 0
    try:
        return second_of(date.encode("ascii"))
    except BadResponse as error:
        raise ValueError(str(error)) from error


def _in_order(things: Iterator[Thing | None]) -> list[Thing]:
    shown = [thing for thing in things if thing is not None and _is_shown(thing)]
    return sorted(shown, key=attrgetter("name"))


def _is_shown(thing: Thing) -> bool:
    name = thing.name[:-1] if thing.file is None and thing.is_folder else thing.name
    return SLASH not in name and is_file_path(name)
