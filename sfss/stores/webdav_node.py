"""One HTTP node: how it is asked, and what its answers mean.

A node that is another sfss says of a file what others cannot: its version to the microsecond, and
its digest.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from sfss.asking import FORWARDED
from sfss.config import WebdavSettings
from sfss.errors import CannotTell, SettingError, StoreFull, Unreachable
from sfss.http_connection import HELD_LIMIT, Exchange, NoAnswer, Request, Stream
from sfss.http_pool import Pool, ask
from sfss.http_text import HEAD_LIMIT, BadResponse, Head, second_of
from sfss.record import VERSION_LIMIT, Body, digest_of
from sfss.record import Head as RecordHead
from sfss.spool import Spool
from sfss.stores.plain_heads import raw_file_head

_ADDRESS: Final = re.compile(
    r"http://[A-Za-z0-9.:\[\]_-]+(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*"
)
_VERSION: Final = re.compile("[1-9][0-9]{0,18}")
_DIGEST: Final = re.compile("[0-9a-f]{32}")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

SLASH: Final = b"/"


class File(NamedTuple):
    """What a node says of a file: its size, and the second of its last change (0: not said); its
    version and digest, where the node tells them.
    """

    size: int
    modified_s: int
    version: int = 0
    digest: bytes = b""

    @property
    def head(self) -> RecordHead:
        """The head that it has where nothing else is known of it."""
        if self.digest:
            return RecordHead(self.version, self.size, self.digest)
        return raw_file_head(self.size, self.modified_s)


def told(version: str, digest: str) -> tuple[int, bytes]:
    """Return version and digest as a node has told them; 0 and b"" unless both are well-formed."""
    if _VERSION.fullmatch(version) is None or _DIGEST.fullmatch(digest) is None:
        return 0, b""
    return min(int(version), VERSION_LIMIT), bytes.fromhex(digest)


class Answer(NamedTuple):
    """An answer; ``body`` is a ``Stream`` if it is long, and then that must be closed."""

    head: Head
    body: bytes | Stream

    @property
    def status(self) -> int:
        """The status."""
        return self.head.status

    def content_type(self) -> bytes:
        """Return the media type of the body, without parameters."""
        return self.head.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()

    async def whole(self, limit: int) -> bytes | None:
        """Return the body, None if it has more than ``limit`` bytes; raise ``NoAnswer``."""
        if isinstance(self.body, bytes):
            return self.body
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in self.body.pieces():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    return None
        finally:
            self.body.close()
        return b"".join(pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raise ``NoAnswer``."""
        if isinstance(self.body, bytes):
            yield self.body
        else:
            async for piece in self.body.pieces():
                yield piece

    def close(self) -> None:
        """Let go of a body that nobody wants."""
        if isinstance(self.body, Stream):
            self.body.close()


class Node:
    """The node at ``address``, "http://host:port/folder/", below which all names are.

    ``url``: where it is, if the address of the store is another. ``forwards``: it is told for whom
    it is asked. ``head_limit``: bytes that the head of an answer may have. Raises ``SettingError``
    for an address of another form.
    """

    def __init__(
        self,
        address: str,
        settings: WebdavSettings,
        url: str | None = None,
        forwards: bool = True,
        head_limit: int = HEAD_LIMIT,
    ) -> None:
        self.address = address
        self._forwards, self._head_limit = forwards, head_limit
        host, port, base = _read_address(address if url is None else url)
        self.base = base.encode()
        self.pool = Pool(host, port, settings.timeout_s, settings.connections)
        name = f"[{host}]" if ":" in host else host
        self._host = f"{name}:{port}" if port != 80 else name
        token = f"Authorization: Bearer {settings.token}\r\n" if settings.token else ""
        self._fields = (
            f" HTTP/1.1\r\nHost: {self._host}\r\nAccept-Encoding: identity\r\n{token}"
        ).encode("ascii")

    def target(self, key: bytes) -> bytes:
        """Return the path of ``key`` in an URL."""
        return self.base + quote_from_bytes(key, safe="/").encode()

    def get_request(self, key: bytes) -> Request:
        """Return the request for a file."""
        return Request(
            b"GET " + self.target(key) + self._fields + FORWARDED.get() + b"\r\n",
        )

    def start(self, exchange: Exchange) -> None:
        """Have ``exchange`` told the answer to its request."""
        self.pool.ask(exchange)

    async def ask(
        self, method: str, key: bytes, fields: str = "", body: Body = b"", changes: bool = False
    ) -> Answer:
        """Return the answer to a request for ``key``, with header ``fields`` of its own.

        Raises ``Unreachable``; ``changes``: it may have been done all the same.
        """
        line = f"{method} ".encode() + self.target(key)
        client = FORWARDED.get() if self._forwards else b""
        block = self._fields + client + fields.encode() + b"\r\n"
        request = Request(line + block, body, method == "HEAD", self._head_limit)
        try:
            return Answer(*await ask(self.pool, request))
        except NoAnswer as error:
            applied = None if changes and error.sent else False
            raise Unreachable(self.address, str(error), applied) from error

    async def body(self, answer: Answer, spool_folder: Path) -> tuple[Body, bytes]:
        """Return the body of ``answer`` whole, with its digest, a long one in a file: an answer to
        a client that has begun is never cut off by a node that dies. Raises ``Unreachable``.
        """
        if isinstance(answer.body, bytes):
            return answer.body, digest_of(answer.body)
        spool = Spool(spool_folder, HELD_LIMIT)
        try:
            async for piece in answer.body.pieces():
                await spool.write(piece)
            return await spool.finish()
        except (NoAnswer, OSError, StoreFull) as error:
            raise Unreachable(self.address, str(error), False) from error
        finally:
            answer.close()

    async def look(self, key: bytes) -> File | None:
        """Return what is said of the file under ``key``, None if there is none."""
        answer = await self.ask("HEAD", key)
        return self.file_of(answer.head, key)

    def file_of(self, head: Head, key: bytes, size: int | None = None) -> File | None:
        """Return the file that an answer to GET or HEAD is about, None if there is none.

        ``size`` of its body where that has come. Raises ``CannotTell`` for 504, ``Unreachable`` for
        any other answer.
        """
        if head.status == 200:
            size = head.length if size is None else size
            if size is None:
                raise Unreachable(self.address, "it does not say how long a file is", False)
            version = head.fields.get(b"x-sfss-version", b"").decode("latin-1")
            etag = head.fields.get(b"etag", b"").decode("latin-1")
            return File(size, self.modified_s(head), *told(version, etag.strip('"')))
        if head.status in (404, 410) or self._is_folder(head, key):
            return None
        if head.status == 504:
            raise CannotTell(self.address)
        raise self.unexpected("a file", head.status, False)

    def modified_s(self, head: Head) -> int:
        """Return the second of the last change, 0 if it is not said; raise ``Unreachable``."""
        date = head.fields.get(b"last-modified")
        try:
            return 0 if date is None else second_of(date)
        except BadResponse as error:
            raise Unreachable(self.address, f"its answer is malformed: {error}", False) from error

    def unexpected(self, what: str, status: int, applied: bool | None) -> Unreachable:
        """Return the error for an answer with a status that does not tell."""
        return Unreachable(self.address, f"it answered {status} when asked for {what}", applied)

    def _is_folder(self, head: Head, key: bytes) -> bool:
        # Servers send whoever asks for a folder to its name with a slash behind it.
        place = head.fields.get(b"location", b"")
        if head.status not in _REDIRECTS or not place.endswith(SLASH):
            return False
        try:
            path = unquote_to_bytes(urlsplit(place).path)
        except ValueError:
            return False
        return path == unquote_to_bytes(self.base) + key + SLASH


def _read_address(address: str) -> tuple[str, int, str]:
    """Return host, port and path; raise ``SettingError``."""
    wanted = '"http://host:port/folder/" is expected'
    if _ADDRESS.fullmatch(address) is None:
        raise SettingError("settings", "address of a store", f"is {address!r}", wanted)
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise SettingError("settings", "address of a store", f"is {address!r}", wanted)
    base = parts.path if parts.path.endswith("/") else parts.path + "/"
    return host, 80 if port is None else port, base
