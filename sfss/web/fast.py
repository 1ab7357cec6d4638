"""The short way for a plain GET of a file.

A request that is understood here from its bytes alone is answered by the function that the store
calls with the file: without a parser, a task, a future or a request object, and from the embedded
store without a copy. Everything else goes the long way, through aiohttp; so does what cannot be
answered 200. Both ways give the same bytes but for Date (``tests/web/test_fast.py``), so a request
that could mean anything more than "the whole file, please, and keep the connection" is not for
this module.

Clients repeat themselves. What was found in a header block, in a whole request, and in the header
of the record that answered it, is remembered. The answer itself is good only for as long as nobody,
in whatever process, has changed anything in the store; otherwise the file is read and held against
its digest.
"""

import re
import time
from collections.abc import Callable, Container, Sequence
from functools import lru_cache, partial
from math import inf
from typing import Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

from sfss import record as records
from sfss.asking import FORWARDED, forwarded_for, request_id_line, request_id_of
from sfss.cluster import Cluster
from sfss.errors import BadPath, Corrupt, NotFound
from sfss.grants import READ, Grant
from sfss.http_text import http_date, is_host
from sfss.record import Buffer, Form, Head, Kind, digest_of
from sfss.web import http, mediatypes, names_kept
from sfss.web.answers import Answers
from sfss.web.cors import Cors
from sfss.web.locations import locate

REQUEST_LIMIT: Final = 4096
"""Bytes of a request that is looked at here; browsers send about 700."""

_FIELDS_LIMIT: Final = 64
"""Fields that a header block may have here; aiohttp refuses what has some more."""

_BLOCKS_LIMIT: Final = 1024
"""Header blocks that are remembered."""

_REQUESTS_LIMIT: Final = 16 * 1024
"""Requests that are remembered, about 1 KiB each without the bodies."""

ANSWER_LIMIT: Final = 64 * 1024
"""Bytes of a body whose answer is remembered; of a larger one, the copy to the socket is what
costs.
"""

_BODIES_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of all bodies that are remembered."""


class Shape(NamedTuple):
    """One form of the first line of a request to a ``face``: its first group is what ``path_of``
    makes a path of, raising what the face would, or None for what is not for the short way.
    ``says_version``: the answer has X-Sfss-Version.
    """

    line: re.Pattern[bytes]
    path_of: Callable[[bytes], str | None]
    face: str
    says_version: bool = False


def _decoded(text: bytes) -> str:
    return (unquote_to_bytes(text) if b"%" in text else text).decode()


# Of a query's characters (RFC 3986, 3.4) those with no meaning of their own in a form. Possessive:
# a long path that ends wrong is looked at once, not over and over.
NATIVE: Final = Shape(
    re.compile(
        rb"GET /file\?path=((?:[A-Za-z0-9._~!$'()*,:@/-]++|%[0-9A-Fa-f]{2})++) HTTP/1\.1\r\n"
    ),
    _decoded,
    "native",
)
"""``GET /file?path=P``"""

# Of a path's characters (RFC 3986, 3.3) all.
_PATH_LINE: Final = re.compile(
    rb"GET (/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]++|%[0-9A-Fa-f]{2})++) HTTP/1\.1\r\n"
)


def paths_shape(rewrites: Sequence[tuple[str, str]], taken: Container[str]) -> Shape:
    """Return the shape of ``GET /P``; ``taken`` are addresses that name no files."""

    def path_of(target: bytes) -> str | None:
        if _decoded(target) in taken:
            return None
        location = locate(target.decode("ascii"), rewrites)
        return None if location.is_folder else location.path

    return Shape(_PATH_LINE, path_of, "paths", says_version=True)


_FIELD: Final = re.compile(
    rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?"
)

# What asks for another answer than the whole file, or for another state of the connection.
_SIGNIFICANT: Final = re.compile(
    rb"if-.*|range|content-.*|transfer-encoding|te|trailer|expect|upgrade|http2-settings"
    rb"|connection|keep-alive|proxy-connection|sec-websocket-.*|x-http-method.*"
)


def verdict_of(block: bytes) -> str | None:
    """Return the id that a header block (with the empty line at its end) gives a GET, "" for none;
    None where it does not leave it as plain as it is.

    Strict: each line one well-formed field of ASCII, no name twice, a good Host among them, and of
    those that could matter none but ``Connection: keep-alive``.
    """
    lines = block.split(b"\r\n")
    if lines[-2:] != [b"", b""] or len(lines) > _FIELDS_LIMIT + 2:
        return None
    names: set[bytes] = set()
    request_id = ""
    for line in lines[:-2]:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name = field[1].lower()
        kept_alive = name == b"connection" and (field[2] or b"").lower() == b"keep-alive"
        if name in names or (_SIGNIFICANT.fullmatch(name) and not kept_alive):
            return None
        if name == b"host" and not is_host((field[2] or b"").decode("ascii")):
            return None
        if name == b"x-request-id":
            request_id = request_id_of((field[2] or b"").decode("ascii"))
        names.add(name)
    return request_id if b"host" in names else None


_ORIGIN: Final = re.compile(rb"(?im)^origin:[ \t]*([^\r]*?)[ \t]*\r$")


def _origin_of(block: bytes) -> str | None:
    """Return the Origin in a header block that has passed ``verdict_of``."""
    found = _ORIGIN.search(block)
    return None if found is None else found[1].decode("ascii")


def read(request: bytes) -> tuple[str, dict[str, str]]:
    """Return the first line of a request that went the short way, and its fields by lower name."""
    line, *fields = request.decode("ascii").split("\r\n")[:-2]
    found = (field.partition(":") for field in fields)
    return line, {name.lower(): value.strip(" \t") for name, _, value in found}


Reader: TypeAlias = Callable[[bytes, str], Grant | None]
"""Called with a header block and a path: what whoever sent it may do, None where that is not to
read that path.
"""


def _anybody(_: bytes, __: str) -> Grant:
    return Grant()


class Client(Protocol):
    """The connection that a request came from, the address of its other end; one of the two is
    called for each request.
    """

    peer: str

    def answer(self, request: bytes, face: str, parts: tuple[bytes, bytes, Buffer]) -> None:
        """Send an answer of ``face`` in its parts, head, date and body, before this returns: the
        body may be gone then.
        """

    def go_long_way(self, request: bytes) -> None:
        """Have aiohttp answer ``request``."""


_NOTHING: Final = (b"", b"")
_UNKNOWN: Final = "?"  # no id has that character


class _Asked:
    """A request that was understood, and what is known of the record that answers it.

    ``stamp`` is all of the record before its body, when it was read last; as long as that is the
    same, so are ``digest`` and ``head``, the answer's up to its date. ``kept`` is head and body of
    the whole answer, good in the state ``kept_in`` of the store. ``grant``: what whoever asks may
    do; ``has_end``: not for ever.
    """

    __slots__ = (
        "digest",
        "face",
        "forwarded",
        "grant",
        "has_end",
        "head",
        "kept",
        "kept_in",
        "key",
        "lines",
        "lines_of",
        "request_line",
        "says_version",
        "stamp",
        "tail",
    )

    def __init__(
        self,
        key: bytes,
        path: str,
        lines: Callable[[str, str], str],
        shape: Shape,
        request_id: str,
        grant: Grant,
    ) -> None:
        self.key, self.lines_of, self.grant = key, partial(lines, path), grant
        self.has_end = grant.until_s != inf
        self.lines = self.lines_of(_type_of(path))
        self.tail = self.request_line = request_id_line(request_id) if request_id else ""
        self.face, self.says_version = shape.face, shape.says_version
        self.forwarded = ""
        self.stamp = self.digest = self.head = b""
        self.kept, self.kept_in = _NOTHING, -1

    def answer(self, item: Buffer, form: Form) -> tuple[bytes, Buffer] | None:
        """Return head and body of the answer; None for what is damaged, or no file, or not for
        ever.
        """
        if form is Form.RAW:
            return _head(self.lines, records.raw_head(item), False, self.tail), item
        known = self.stamp
        if (not known or item[: len(known)] != known) and not self._learn(item):
            return None
        body = memoryview(item)[len(self.stamp) :]
        is_sound = form is Form.UNPROVEN or digest_of(body) == self.digest
        return (self.head, body) if is_sound else None

    def _learn(self, item: Buffer) -> bool:
        try:
            head = records.decode_head(item, "", self.key)
        except Corrupt:
            return False  # the long way names the store
        if head.kind is not Kind.FILE or head.expiry:
            return False
        self.stamp, self.digest = bytes(item[: len(item) - head.size]), head.digest
        said = names_kept.media_type(head.metadata.get(names_kept.CONTENT_TYPE))
        lines = self.lines if said is None else self.lines_of(said)
        self.head = _head(lines, head, self.says_version, self.tail)
        return True


class ShortWay:
    """Answers what it can from ``cluster``, of requests that have one of ``shapes``, to those who
    are a ``reader``.
    """

    def __init__(
        self,
        cluster: Cluster,
        shapes: Sequence[Shape] = (NATIVE,),
        reader: Reader = _anybody,
        answers: Answers | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._cluster, self._state, self._reader = cluster, cluster.state, reader
        self._shapes, self._answers, self._cors = shapes, answers or Answers(), cors
        self._verdicts: dict[bytes, str | None] = {}
        self._asked: dict[bytes, _Asked] = {}
        self._bodies_size = 0
        self._date, self._date_s = b"", 0

    def remembered(self, request: bytes) -> tuple[str, tuple[bytes, bytes, bytes]] | None:
        """Return the face of ``request`` and the answer in its three parts, if it is remembered.

        The first in each second is not: now and then the store is to see whether it is in its
        place.
        """
        asked = self._asked.get(request)
        if asked is None or asked.kept_in != self._state() or int(time.time()) != self._date_s:
            return None
        head, body = asked.kept
        return asked.face, (head, self._date, body)

    def begin(self, request: bytes, client: Client) -> bool:
        """Take ``request`` on, and call ``client``, now or later; return False if it is not for
        this way.

        ``request`` is all that has come; it is taken only if it is one whole request.
        """
        asked = self._asked.get(request)
        # What is answered from memory was asked here in the same second, and days end with one.
        if asked is None or (asked.has_end and time.time() >= asked.grant.until_s):
            asked = self._understand(request)
            if asked is None:
                return False
            state = 0
        else:
            # Before anything is read: what is kept may be newer than its state, but never older.
            state = self._state()
        if self._cluster.has_http_nodes:
            FORWARDED.set(
                forwarded_for(asked.forwarded, client.peer) + asked.request_line.encode("ascii")
            )
        return self._cluster.view(asked.key, partial(self._finish, asked, state, request, client))

    def understands(self, request: bytes) -> bool:
        """Tell whether ``request`` is one for this way; what answers it may not be."""
        return request in self._asked or self._understand(request) is not None

    def _understand(self, request: bytes) -> _Asked | None:
        found = self._shape_of(request)
        if found is None or len(request) > REQUEST_LIMIT:
            return None
        shape, line = found
        block = request[line.end() :]
        request_id = self._verdicts.get(block, _UNKNOWN)
        if request_id is _UNKNOWN:
            request_id = self._judge(block)
        if request_id is None:
            return None
        try:
            path = shape.path_of(line[1])
            key = None if path is None else self._cluster.key(path)
        except (BadPath, NotFound, UnicodeDecodeError):
            return None  # the long way finds it again, and says it in words
        if path is None or key is None:
            return None
        grant = self._reader(block, path)
        if grant is None:
            return None
        lines = self._public_lines if READ in grant.free else self._private_lines
        asked = _Asked(key, path, lines, shape, request_id, grant)
        if self._cors is not None:
            asked.tail = self._cors.lines(_origin_of(block)) + asked.tail
        if self._cluster.has_http_nodes:
            asked.forwarded = read(request)[1].get("x-forwarded-for", "")
        # What finds no room is not missed: in a flood of requests that come once, to make room for
        # each costs more than it saves. All is forgotten within a second, and what comes often is
        # back.
        if len(self._asked) < _REQUESTS_LIMIT:
            self._asked[request] = asked
        return asked

    def _public_lines(self, path: str, media_type: str) -> str:
        return self._answers.of(path, media_type).lines

    def _private_lines(self, path: str, media_type: str) -> str:
        return self._answers.of(path, media_type, is_public=False).lines

    def _judge(self, block: bytes) -> str | None:
        verdict = verdict_of(block)
        if len(self._verdicts) < _BLOCKS_LIMIT:
            self._verdicts[block] = verdict
        return verdict

    def _shape_of(self, request: bytes) -> tuple[Shape, re.Match[bytes]] | None:
        for shape in self._shapes:
            if line := shape.line.match(request):
                return shape, line
        return None

    def _finish(
        self,
        asked: _Asked,
        state: int,
        request: bytes,
        client: Client,
        item: Buffer | None,
        form: Form,
    ) -> None:
        """Answer with ``item``, see ``Use``; keep the answer for ``state`` of the store unless that
        is 0.
        """
        answer = None if item is None else asked.answer(item, form)
        if answer is None:
            client.go_long_way(request)
            return
        head, body = answer
        if state and len(body) <= ANSWER_LIMIT:
            self._keep(asked, head, body, state)
        client.answer(request, asked.face, (head, self._date_line(), body))

    def _keep(self, asked: _Asked, head: bytes, body: Buffer, state: int) -> None:
        size = self._bodies_size + len(body) - len(asked.kept[1])
        if size <= _BODIES_LIMIT:
            self._bodies_size = size
            asked.kept, asked.kept_in = (head, bytes(body)), state

    def _date_line(self) -> bytes:
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = f"{http_date(now_s)}\r\n\r\n".encode()
            self._make_room()
        return self._date

    def _make_room(self) -> None:
        if len(self._verdicts) >= _BLOCKS_LIMIT:
            self._verdicts.clear()
        if len(self._asked) >= _REQUESTS_LIMIT or self._bodies_size > _BODIES_LIMIT - ANSWER_LIMIT:
            self._asked.clear()
            self._bodies_size = 0


def _head(lines: str, head: Head, says_version: bool, tail: str) -> bytes:
    """Return the head of a 200 up to its date, as ``files.show`` and aiohttp make it;
    ``lines`` are those of ``answers``, ``tail`` those of ``cors`` and the one with the request id.
    """
    modified = ""
    if head.version:
        modified = f"Last-Modified: {http_date(head.version // 1_000_000)}\r\n"
        if says_version:
            modified += f"X-Sfss-Version: {head.version}\r\n"
    return (
        f"HTTP/1.1 200 OK\r\n{lines}"
        f'ETag: "{head.digest.hex()}"\r\n{modified}'
        f"Content-Length: {head.size}\r\n{tail}Server: {http.SOFTWARE}\r\nDate: "
    ).encode("ascii")


def _type_of(path: str) -> str:
    # Only the first "." behind the last "/" and what follows say the type, and that repeats.
    dot = path.find(".", path.rfind("/") + 1)
    return _type_of_suffix(path[dot:] if dot >= 0 else "")


@lru_cache(maxsize=1024)
def _type_of_suffix(suffix: str) -> str:
    return mediatypes.guess(f"a{suffix}")
