"""What all faces share: errors as statuses and sentences, arguments of the query, responses."""

import json
import logging
import re
from collections.abc import AsyncGenerator, Container, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from aiohttp import web

from sfss import __version__, errors, signing
from sfss.asking import forwarded_for, new_request_id, request_id_line, request_id_of
from sfss.cluster import Cluster
from sfss.config_limits import LimitsSettings
from sfss.grants import OPEN, READ, Grant, Rules
from sfss.listening import nearest
from sfss.metrics import Board
from sfss.objects import Objects
from sfss.readiness import Readiness
from sfss.record import Body, Buffer, StreamedBody, pieces_of
from sfss.streams import stream
from sfss.web.answers import CACHE_CONTROL, NO_SNIFFING, Answers
from sfss.web.cors import Cors
from sfss.web.traces import UNTRACED, Trace, Traces
from sfss.web.watchers import Watchers

SOFTWARE: Final = f"sfss/{__version__}"
"""What the Server field says."""

STATUS: Final[Mapping[type[errors.SfssError], int]] = {
    errors.BadPath: 400,
    errors.BadArgument: 400,
    errors.BadBody: 400,
    errors.NotFound: 404,
    errors.BodyTimeout: 408,
    errors.Refused: 409,
    errors.PathTaken: 409,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.UnsupportedCoding: 415,
    errors.TooManyNames: 431,
    errors.SettingError: 500,
    errors.Corrupt: 500,
    errors.CannotList: 501,
    errors.CannotTell: 504,
    errors.Unreachable: 504,
    errors.Unsettled: 504,
    errors.NoStoreReachable: 504,
    errors.QuorumFailed: 504,
    errors.QuotaExceeded: 507,
    errors.StoreFull: 507,
}
"""The status of every leaf of the tree in ``errors``."""

KIND: Final[Mapping[type[errors.SfssError], str]] = {
    leaf: re.sub("(?<=[a-z])(?=[A-Z])", "_", leaf.__name__).lower() for leaf in STATUS
}
"""What each is counted as."""

INTERNAL: Final = "internal"
"""What errors are counted as that are mistakes of this software."""

PAGE_LIMIT: Final = 1000
"""Most things on one page of a listing, and the default."""

NO_FIELDS: Final[Mapping[str, str]] = MappingProxyType({})

TAKEN: Final = web.RequestKey("taken", Container[str])
"""The addresses of its listener that name no files, in a request."""

ONLY_JSON: Final = web.RequestKey("only_json", bool)
"""What is set in a request to say that a refusal is not for people, whoever asks."""

GRANT: Final = web.RequestKey("grant", Grant)
"""What whoever asks may do, and by the name of which token, in a request that is handled."""

NOT_FOR_ALL: Final = web.RequestKey("not_for_all", bool)
"""What is set in a request that not anybody may make."""


class Shown(NamedTuple):
    """A route of a listener, as far as it can be described: the ``face`` that it belongs to, method
    and address, a few words, and whether its refusals are JSON, whoever asks.
    """

    face: str
    method: str
    address: str
    summary: str
    only_json: bool


SHOWN: Final = web.RequestKey("shown", tuple[Shown, ...])
"""All that its listener shows, in a request."""


def is_public(request: web.BaseRequest) -> bool:
    """Tell whether anybody may read the files that this request is shown."""
    return READ in request[GRANT].free


class Throttle(Protocol):
    """Takes requests on, as many as each client may make."""

    def refuse(self, request: web.BaseRequest, face: str, /) -> "Answer | None":
        """Return the refusal of a request to ``face`` that comes too early; None takes it on."""

    def lets(self, request: bytes, peer: str, /) -> bool:
        """Tell whether the bytes of ``request`` may be answered at once, and take it on."""


class Asked:
    """What is known of a request that begins now: the face and the method for which it is counted,
    both from a short list; when it began (``perf_counter``); and the id that it came with, if any.
    """

    __slots__ = ("_id", "began_s", "error", "face", "method", "trace", "was_given")

    def __init__(self, face: str, method: str, given_id: str = "") -> None:
        self.face, self.method, self._id = face, method, given_id
        self.was_given = given_id != ""
        self.trace: Trace | None = None
        """Its span, where there are traces."""
        self.error = ""
        """The kind of the error that is the answer, "" for what has only a status."""
        self.began_s = perf_counter()

    @property
    def request_id(self) -> str:
        """The id of the request; one is made when it is first asked for."""
        self._id = self._id or new_request_id()
        return self._id

    def told_id(self, status: int) -> str:
        """Return the id that stands in the answer and in the log: of an error, one is made where
        none was given; all other answers need none to be found again.
        """
        return self.request_id if self.was_given or status >= 400 else ""


ASKED: Final = web.RequestKey("asked", Asked)
"""What a request is counted for, in a request."""

BLOB_SERVER: Final = "blobs"
"""The face whose answers have no fields with ``X-`` but those of blobs."""

NO_FACE: Final = "none"
"""What requests to addresses that are not known are counted for."""

OTHER_METHOD: Final = "other"
"""What those with a method that means nothing anywhere are counted for."""

SENTENCE_LIMIT: Final = 1000
"""Characters that a refusal quotes at most."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """What the faces show, the longest silence in a body that they bear, the folder for bodies that
    are too large to be held in memory, and the rules, FROM and TO, for paths in URLs.
    """

    cluster: Cluster
    board: Board
    body_timeout_s: float
    spool_folder: Path
    rewrites: Sequence[tuple[str, str]] = ()
    rules: Rules = OPEN
    """Who may do what."""
    digest: str = "sha1"
    """Which digest of their content is the id of blobs: "sha1" or "sha256"."""
    objects: Objects | None = None
    """The objects of the face "objects"."""
    readiness: Readiness = field(default_factory=Readiness)
    """Whether this process can serve."""
    about: Mapping[str, object] = field(default_factory=dict)
    """How files are kept, for people; see ``status_parts.about``."""
    tool_folders: Mapping[str, Path] = field(default_factory=dict)
    """Where repair tools say how far they are, by the names of groups of stores."""
    traces: Traces | None = None
    """Where spans are noted, if anywhere."""
    watchers: Watchers = field(default_factory=Watchers)
    """Who watches how this process is."""
    answers: Answers = field(default_factory=Answers)
    """What stands in the heads of answers with files."""
    cors: Cors | None = None
    """Which pages of other origins may ask; None where none may."""
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    """What a client may have."""
    throttle: Throttle | None = None
    """What counts requests, where that is done."""
    made_folders: dict[str, None] = field(default_factory=dict)
    """The folders that clients have made last, the latest at the end; see ``folders.remember``."""


class Answer(web.StreamResponse):
    """A response with its whole body, which may be a view and is not copied on the way; a long one
    is read piece by piece while it is sent. ``part`` says which bytes of it are sent: from, up to.
    """

    _send_headers_immediately = False  # one write for head and body

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: Body = b"",
        part: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._content, self._part = body, part or (0, len(body))
        self.content_length = self._part[1] - self._part[0]
        self._pieces: AsyncGenerator[Buffer, None] | None = None
        self._first: Buffer = b""

    async def begin(self) -> None:
        """Have what is sent first of a body that lies in stores: as long as nothing is sent, what
        they raise can still be told.
        """
        if isinstance(self._content, StreamedBody) and self.content_length:
            self._pieces = stream(self._content, *self._part)
            self._first = await anext(self._pieces)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, or none where the method or the status has none."""
        if isinstance(self._content, bytes | bytearray | memoryview):
            pieces = iter(()) if self._must_be_empty_body else pieces_of(self._content, *self._part)
            await super().write_eof(next(pieces, b""))  # type: ignore[arg-type]
            return
        if not self._must_be_empty_body:
            await self._send()
        await super().write_eof()

    async def _send(self) -> None:
        try:
            async with aclosing(self._pieces or stream(self._content, *self._part)) as pieces:
                if self._first:
                    first, self._first = self._first, b""
                    await self.write(first)
                    del first  # or it would be held as long as the last one
                async for piece in pieces:
                    await self.write(piece)
        except (OSError, errors.StoreError) as error:
            if isinstance(error, errors.Corrupt):
                _log.error("%s", error)
            # The length was promised: to break off is the only way to say that it is not kept.
            raise ConnectionError(f"the file cannot be read on: {error}") from error
        finally:
            # What is left of a request that was broken off may stay for long: not its file.
            self._content, self._pieces = b"", None

    @property
    def sent_bytes(self) -> int:
        """Size of the body as it was sent."""
        return 0 if self._must_be_empty_body else self._part[1] - self._part[0]


def forwarded(request: web.BaseRequest) -> bytes:
    """Return the header line that tells nodes for whom they are asked."""
    said = ", ".join(request.headers.getall("X-Forwarded-For", []))
    asked = asked_of(request)
    request_id = request_id_line(asked.request_id).encode("ascii")
    trace = b"" if asked.trace is None else asked.trace.lines()
    return forwarded_for(said, request.remote or "") + request_id + trace


def begin(request: web.BaseRequest, face: str, method: str) -> None:
    """Note what ``request`` is counted for, and that it begins now."""
    request[ASKED] = Asked(face, method, request_id_of(request.headers.get("X-Request-ID")))


def trace(traces: Traces, request: web.BaseRequest, route: str) -> None:
    """Begin the span of ``request``, which has begun."""
    asked = asked_of(request)
    if asked.face not in UNTRACED:
        asked.trace = traces.begin(request.headers, asked.method, request.raw_path, route)


def asked_of(request: web.BaseRequest) -> Asked:
    """Return what was noted; of what is no HTTP nothing was, and its headers are not looked at."""
    asked = request.get(ASKED)
    if asked is None:
        asked = request[ASKED] = Asked(NO_FACE, OTHER_METHOD)
    return asked


def without_sniffing(request: web.BaseRequest, answer: Answer) -> Answer:
    """Return ``answer``, which has browsers believe its type; but for those of blob servers, whose
    clients keep what they get with the blob.
    """
    if "Content-Type" in answer.headers and asked_of(request).face != BLOB_SERVER:
        answer.headers.setdefault(NO_SNIFFING, "nosniff")
    return answer


def kept_apart(request: web.BaseRequest, answer: Answer) -> Answer:
    """Return ``answer``, which no cache gives to others, if not anybody may ask for it."""
    if request.get(NOT_FOR_ALL) and request.method in ("GET", "HEAD"):
        answer.headers.setdefault(CACHE_CONTROL, "private")
    return answer


def without_guesses(request: web.BaseRequest, answer: Answer) -> Answer:
    """Return ``answer``, which is not kept by caches if it is no file: where nothing is said, they
    guess how long it is good (RFC 9111, 4.2.2).
    """
    may_be_kept = answer.status in (200, 301) and request.method in ("GET", "HEAD")
    if may_be_kept and "ETag" not in answer.headers:
        answer.headers.setdefault(CACHE_CONTROL, "no-store")
    return answer


def json_answer(
    document: object, status: int = 200, fields: Mapping[str, str] = NO_FIELDS
) -> Answer:
    """Return an answer with ``document`` as JSON."""
    text = json.dumps(document, ensure_ascii=False) + "\n"
    body = text.encode("utf-8", "backslashreplace")
    return Answer(status, {**fields, "Content-Type": "application/json"}, body)


def refuse(
    request: web.BaseRequest,
    status: int,
    sentence: str,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return an error: one line for people, ``{"error": sentence}`` for programs."""
    sentence = printable(sentence)
    if _wants_text(request):
        content_type, text = "text/plain; charset=utf-8", f"{sentence}\n"
    else:
        content_type, text = "application/json", json.dumps({"error": sentence}) + "\n"
    fields = {
        "Content-Type": content_type,
        "Vary": "Accept, User-Agent",
        "X-Content-Type-Options": "nosniff",
    }
    answer = Answer(status, {**fields, **(headers or {})}, text.encode("utf-8"))
    if not request.content.is_eof():
        # Without it the client could not tell whether the rest of its body is still wanted.
        answer.force_close()
    return answer


def refuse_error(request: web.BaseRequest, error: errors.SfssError) -> Answer:
    """Return the refusal that ``error`` stands for."""
    if isinstance(error, errors.Corrupt):
        _log.error("%s", error)
    asked_of(request).error = KIND[type(error)]
    return refuse(request, STATUS[type(error)], str(error))


def printable(text: str) -> str:
    """Return ``text`` cut to the limit, with what does not print (line ends, too) escaped."""
    if len(text) > SENTENCE_LIMIT:
        text = text[:SENTENCE_LIMIT] + "..."
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def wants_json(request: web.BaseRequest) -> bool:
    """Tell whether ``Accept`` names JSON."""
    return "application/json" in request.headers.get("Accept", "").lower()


def _wants_text(request: web.BaseRequest) -> bool:
    if request.get(ONLY_JSON) or wants_json(request):
        return False
    accept = request.headers.get("Accept", "").lower()
    agent = request.headers.get("User-Agent", "")
    return agent.lower().startswith("curl/") or accept.lstrip().startswith("text/")


def argument(request: web.BaseRequest, name: str) -> str | None:
    """Return the argument ``name`` of the query, or None where it is missing.

    It is decoded once, as forms are (WHATWG URL, application/x-www-form-urlencoded): "+" is a
    space and %XX a byte, and the bytes are UTF-8. Raises ``BadArgument`` when it is given twice,
    ``BadPath`` when it is not UTF-8.
    """
    wanted = name.encode()
    found = [_decoded(value) for key, value in _query(request) if _decoded(key) == wanted]
    if len(found) > 1:
        raise errors.BadArgument(name, f"given {len(found)} times", "once is allowed")
    try:
        return found[0].decode("utf-8") if found else None
    except UnicodeDecodeError:
        raise errors.BadPath(
            "it is not UTF-8" if name == "path" else f"{name} is not UTF-8"
        ) from None


def _query(request: web.BaseRequest) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and values of the query, both as they came."""
    # Not request.query: that replaces what is not UTF-8, and would store under another path.
    target = request.raw_path.encode("utf-8", "surrogateescape").partition(b"#")[0]
    for pair in target.partition(b"?")[2].split(b"&"):
        name, _, value = pair.partition(b"=")
        yield name, value


def check_arguments(request: web.BaseRequest, known: Sequence[str]) -> None:
    """Raise ``BadArgument`` for an argument of the query that is neither ``known`` nor of those of
    signed URLs, which may be there wherever others are.
    """
    for encoded, _ in _query(request):
        name = _decoded(encoded).decode("utf-8", "backslashreplace")
        if name and name not in known and name not in signing.ARGUMENTS:
            raise errors.BadArgument(name, "unknown", nearest(name, known))


def _decoded(text: bytes) -> bytes:
    # Most texts are plain, and to find that out is cheap.
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


_LIMIT: Final = re.compile("[0-9]{1,4}")


def page_limit(text: str | None) -> int:
    """Return how many things a page shall have, ``text`` being what the query says of it; raise
    ``BadArgument`` for what is no number or too large a one.
    """
    if text is None:
        return PAGE_LIMIT
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= PAGE_LIMIT:
        found, wanted = repr(text), f"a number from 1 to {PAGE_LIMIT} is expected"
        raise errors.BadArgument("limit", found, wanted)
    return int(text)


def path_argument(request: web.BaseRequest) -> str:
    """Return the path that the request names; raise ``BadArgument`` when it names none."""
    path = argument(request, "path")
    if path is None:
        raise errors.BadArgument("path", "missing", "one is needed: ?path=folder/file.txt")
    return path
