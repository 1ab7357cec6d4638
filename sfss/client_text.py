"""What a client says to a gateway, and what it makes of the answers. Pure.

Everything is asked of the face "native": a path is an argument of the query, so that any path can
be named.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import merge
from http import HTTPStatus
from string import punctuation
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from xxhash import xxh3_128_hexdigest

from sfss import __version__
from sfss.client_errors import BY_STATUS, ClientError, Damaged, Refused
from sfss.http_text import BadResponse, Head, second_of
from sfss.trying_again import asked_wait_s
from sfss.upload_plan import digest_in, sentence

DEFAULT_URL: Final = "http://127.0.0.1:8255"

DAMAGED: Final = "it is damaged on the server"
"""Why something was not done with what is listed as damaged."""

_SERVER: Final = re.compile(
    r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*))(?::([0-9]{1,5}))?"
    r"((?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*)/?"
)
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_TOKEN: Final = re.compile("[!-~]+")
_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_IN_KEYS: Final = punctuation.replace("%", "")


class Server(NamedTuple):
    """Where a gateway is: ``base`` stands before all of its addresses."""

    scheme: str
    host: str
    port: int
    base: str = ""

    @property
    def origin(self) -> str:
        """Scheme, host and port, as in a URL."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as in the field Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS: Final = {"http": 80, "https": 443}


def read_server(url: str) -> Server:
    """Return the gateway that ``url`` names; raise ValueError, which says what is expected."""
    match = _SERVER.fullmatch(url)
    port = int(match[3] or _PORTS[match[1]]) if match else 0
    if match is None or not 0 < port < 65_536:
        raise ValueError(f"{url!r} is no address of a server; http://HOST:PORT is expected")
    return Server(match[1], match[2].strip("[]"), port, match[4])


def field_value(name: str, text: str) -> str:
    """Return ``text`` if it can be the value of the field ``name``; raise ValueError."""
    if not _VALUE.fullmatch(text):
        raise ValueError(f"{name} cannot be {text!r}: printable ASCII is expected")
    return text


def token_value(text: str) -> str:
    """Return ``text`` if it can be a token (RFC 6750, 2.1), no spaces in it; raise ValueError."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("a token is printable ASCII without spaces")  # it is not repeated
    return text


class Writer:
    """Writes the heads of requests to one gateway, with ``token`` if there is one."""

    def __init__(self, server: Server, token: str | None = None) -> None:
        self._base = server.base
        lines = [
            f"Host: {server.authority}",
            f"User-Agent: sfss-client/{__version__}",
            "Accept: application/json",
        ]
        if token:
            lines.append(f"Authorization: Bearer {token_value(token)}")
        self._common = "\r\n".join(["", *lines, ""])

    def file_head(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body_size: int | None = None,
        query: str = "",
    ) -> bytes:
        """Return a request about the file ``path``. Raises ValueError for one that is not UTF-8."""
        return self.head(method, f"/file?path={quote(path, safe='/')}{query}", fields, body_size)

    def head(
        self,
        method: str,
        target: str,
        fields: Mapping[str, str] | None = None,
        body_size: int | None = None,
    ) -> bytes:
        """Return a request for ``target``, with ``fields``; raises ValueError for one that is
        none.
        """
        more = "" if body_size is None else f"Content-Length: {body_size}\r\n"
        for name, value in (fields or {}).items():
            more += f"{name}: {field_value(name, value)}\r\n"
        return f"{method} {self._base}{target} HTTP/1.1{self._common}{more}\r\n".encode("ascii")


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file. ``etag`` with its quotes; ``modified`` and ``expires`` None where
    that is unknown, or never.
    """

    path: str
    size: int
    etag: str = ""
    media_type: str = ""
    modified: datetime | None = None
    expires: datetime | None = None

    @property
    def digest(self) -> str | None:
        """The XXH3-128 of its bytes in hex; None where the server does not know it: the ETag of a
        file that another program has written is made of its size and its time.
        """
        found = digest_in(self.etag)
        return None if found == self._token() else found

    def _token(self) -> str | None:
        # As ``raw_file_head`` of ``stores.plain_heads`` makes it.
        if self.modified is None:
            return None
        return xxh3_128_hexdigest(f"{self.size}-{int(self.modified.timestamp())}".encode())

    def as_json(self) -> dict[str, str | int | None]:
        """Return it as one object of JSON, times as in RFC 3339."""
        return {
            "path": self.path,
            "size": self.size,
            "type": self.media_type,
            "etag": self.etag,
            "modified": _rfc3339(self.modified),
            "expires": _rfc3339(self.expires),
        }


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: files and, if a delimiter was given, folders, their names ending with
    it, in byte order. ``next``: after what the next page begins; None on the last. ``damaged``:
    paths within the page of which the server knows no more, for what it has there is damaged.
    """

    files: list[File]
    folders: list[str]
    next: str | None
    damaged: list[str] = field(default_factory=list)

    def things(self) -> Iterator[tuple[str, File | None]]:
        """Yield the paths of files in their order; those that are damaged with None."""
        files = ((file.path, file) for file in self.files)
        damaged = ((path, None) for path in self.damaged)
        yield from merge(files, damaged, key=_path_key)


def _path_key(thing: tuple[str, object]) -> bytes:
    return thing[0].encode("utf-8", "surrogatepass")


class DamagedPaths:
    """Those of a listing."""

    def __init__(self) -> None:
        self._count, self._first = 0, ""

    def note(self, page: Page) -> None:
        """Take note of those of a page."""
        if page.damaged and not self._count:
            self._first = page.damaged[0]
        self._count += len(page.damaged)

    def end(self) -> None:
        """Raise ``Damaged`` if there were any."""
        if self._count:
            others = f" and {self._count - 1:,} other files" if self._count > 1 else ""
            raise Damaged(f"{self._first}{others}: damaged on the server, and left out of the list")


def file_of(path: str, head: Head) -> File:
    """Return what the head of an answer to GET or HEAD says of a file. Raises ``Damaged``."""
    fields = head.fields
    size = head.length
    if head.status == 206:
        size = range_of(head)[1]
    if size is None:
        raise Damaged("the answer does not say how long the file is", head.status)
    return File(
        path,
        size,
        fields.get(b"etag", b"").decode("latin-1"),
        fields.get(b"content-type", b"").decode("latin-1"),
        _moment(fields.get(b"last-modified")),
        _moment(fields.get(b"expires")),
    )


def range_of(head: Head) -> tuple[int, int]:
    """Return where the bytes of a 206 begin, and the size of the whole file. Raises ``Damaged``."""
    found = _CONTENT_RANGE.fullmatch(head.fields.get(b"content-range", b""))
    if found is None:
        raise Damaged("the answer does not say which part of the file it is", head.status)
    return int(found[1]), int(found[3])


def _moment(date: bytes | None) -> datetime | None:
    if date is None:
        return None
    try:
        return datetime.fromtimestamp(second_of(date), UTC)
    except BadResponse:
        return None


def listing_target(prefix: str, after: str, limit: int, delimiter: str) -> str:
    """Return the address of a page of files."""
    folders = f"&delimiter={quote(delimiter, safe='')}" if delimiter else ""
    return f"/files?prefix={quote(prefix)}&after={quote(after)}&limit={limit}{folders}"


def read_page(body: bytes) -> tuple[Page, bool]:
    """Return a page of files, and whether the server has made folders of them. Raises
    ``Damaged``.
    """
    try:
        document = json.loads(body)
        files = [_listed(entry) for entry in document["files"]]
        folders = [str(name) for name in document.get("folders", ())]
        damaged = [str(path) for path in document.get("damaged", ())]
        following = document["next"]
        if not (following is None or isinstance(following, str)):
            raise ValueError("next")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged("the listing is not in the form that was expected") from None
    return Page(files, folders, following, damaged), "folders" in document


def read_document(body: bytes) -> dict[str, Any]:
    """Return an answer that is an object of JSON; raises ``Damaged``."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Damaged("the answer is no object of JSON")
    return document


def _listed(entry: Mapping[str, Any]) -> File:
    modified = entry["modified"]
    return File(
        str(entry["path"]),
        int(entry["size"]),
        str(entry["etag"]),
        str(entry["type"]),
        None if modified is None else datetime.fromisoformat(modified),
    )


def comes_after(path: str, former: str) -> bool:
    """Tell whether ``path`` comes after ``former`` in a listing: by its bytes, or by its key in
    stores that speak the memcached protocol (``keys``).
    """
    return path > former or quote(path, safe=_IN_KEYS) > quote(former, safe=_IN_KEYS)


def folded(page: Page, prefix: str, delimiter: str) -> Page:
    """Return ``page`` of files with folders made of those that have ``delimiter`` behind
    ``prefix``, for a server that makes none. A page that ends in a folder goes on behind it.
    """
    files: list[File] = []
    folders: dict[str, None] = {}
    for file in page.files:
        name, found, _ = file.path[len(prefix) :].partition(delimiter)
        if found:
            folders[f"{prefix}{name}{delimiter}"] = None
        else:
            files.append(file)
    following = page.next
    if following is not None and (within := following[len(prefix) :].partition(delimiter))[1]:
        # No path has a character above this one.
        following = f"{prefix}{within[0]}{delimiter}\U0010ffff"
    return Page(files, list(folders), following, page.damaged)


def phrase(status: int) -> str:
    """Return what a status is called, "" for one that has no name (RFC 9110, 15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def error_of(head: Head, body: bytes, path: str = "") -> ClientError:
    """Return what an answer that is no success means."""
    content_type = head.fields.get(b"content-type", b"").decode("latin-1")
    said = sentence(head.status, phrase(head.status), content_type, body)
    if path and path not in said:
        said = f"{path}: {said}"
    kind = BY_STATUS.get(head.status, Refused)
    retry_after = head.fields.get(b"retry-after", b"").decode("latin-1")
    return kind(said, head.status, asked_wait_s(retry_after))
