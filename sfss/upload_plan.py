"""What an upload decides, apart from all input and output: names, addresses, verdicts, progress.

A name is what the user gave: of a file, of a folder, or a URL. Its path depends on nothing but the
name and the prefix, so that a name that failed can be given once more.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

from sfss.errors import BadArgument, BadPath
from sfss.readable import readable_size, readable_span

NAME_LIMIT: Final = 65_536
"""Most bytes that a name on a list may have."""

FACES: Final = {"native": "/file?path=", "paths": "/"}
"""What stands between the address of a server and the path."""

_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_DIGEST_ETAG: Final = re.compile(r'"([0-9a-f]{32})"')
_PERSON_LIMIT: Final = 300


class Splitter:
    """Cuts a list into names at each ``separator``, however its bytes come.

    Empty names are left out. Raises ``BadArgument`` for a name over ``NAME_LIMIT``.
    """

    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the names that ``data`` completes."""
        *names, self._rest = (self._rest + data).split(self._separator)
        if any(len(name) > NAME_LIMIT for name in (self._rest, *names)):
            found = f"a name of more than {NAME_LIMIT} bytes"
            raise BadArgument("standard input", found, "a list of names is expected")
        return [name for name in names if name]

    def end(self) -> list[bytes]:
        """Return the last name, which nothing has ended."""
        return [self._rest] if self._rest else []


def is_url(name: str) -> bool:
    """Tell whether ``name`` is to be fetched."""
    return _URL.match(name) is not None


def stored_path(name: str, prefix: Sequence[str]) -> str:
    """Return the path of what ``name`` names, below the names in ``prefix``; raises ``BadPath``."""
    if is_url(name):
        try:
            decoded = unquote_to_bytes(urlsplit(name).path).decode("utf-8")
        except ValueError:
            raise BadPath("it is no URL, or not UTF-8") from None
        if decoded.endswith("/"):
            raise BadPath("the URL names no file")
        name = decoded
    return "/".join((*prefix, *path_segments(name)))


def path_segments(text: str) -> tuple[str, ...]:
    """Return the names that ``text`` consists of; raises ``BadPath``."""
    segments = tuple(segment for segment in text.split("/") if segment not in ("", "."))
    if not segments:
        raise BadPath("it names no file")
    if ".." in segments:
        raise BadPath('it contains ".."')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadPath("it is not UTF-8") from None
    return segments


@dataclass(frozen=True, slots=True)
class Target:
    """Where files of a server go: one of ``FACES``, and the names that stand before every path."""

    face: str = "native"
    prefix: tuple[str, ...] = ()

    def address(self, name: str) -> str:
        """Return at which address of a server ``name`` is kept; raises ``BadPath``."""
        path = stored_path(name, self.prefix)
        return f"{FACES[self.face]}{quote(path, safe='/')}"


class Result(Enum):
    """What became of a name."""

    DONE = auto()
    THERE = auto()  # nothing had to be done
    IGNORED = auto()  # neither a file nor a folder
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a name, and why, for a person; ``size``: bytes that were stored."""

    result: Result
    reason: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, as far as it matters. ``status`` None: there was none, ``reason`` says why.
    ``asked_wait_s``: seconds after which the server wants to be asked again.
    """

    status: int | None
    reason: str = ""
    size: int | None = None
    etag: str = ""
    asked_wait_s: float | None = None

    @property
    def is_success(self) -> bool:
        """The server has done it."""
        return self.status is not None and 200 <= self.status < 300


def takes_paths_only(status: int, fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether an answer to ``OPTIONS /file`` is certainly that of a WebDAV server.

    The face "native" says 405 and what is allowed, which a proxy before it passes on; nginx over a
    folder says 405 and nothing else.
    """
    is_nginx = fields.get(b"server", b"").startswith(b"nginx")
    return b"dav" in fields or (status == 405 and is_nginx and b"allow" not in fields)


def outcome_of(reply: Reply, size: int, deleting: bool) -> Outcome:
    """Return what ``reply`` means, to the last request for a name."""
    if deleting and reply.status == 404:
        return Outcome(Result.THERE)
    if reply.is_success:
        return Outcome(Result.DONE, size=size)
    return Outcome(Result.FAILED, reply.reason)


def digest_to_compare(reply: Reply, size: int) -> str | None:
    """Return the XXH3-128 of what is stored; None if it is another file than one of ``size`` bytes,
    or the server does not tell by its ETag.
    """
    return digest_in(reply.etag) if reply.is_success and reply.size == size else None


def digest_in(etag: str) -> str | None:
    """Return the XXH3-128, in hex, that ``etag`` has the form of; None for another ETag."""
    match = _DIGEST_ETAG.fullmatch(etag)
    return match[1] if match else None


def sentence(status: int, reason: str, content_type: str, body: bytes) -> str:
    """Return what an answer says to a person."""
    text = ""
    if "json" in content_type:
        try:
            text = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            text = ""
    elif "html" not in content_type:
        text = body.decode("utf-8", "replace").strip().partition("\n")[0]
    return printable(f"{status} {reason}".strip() + (f": {text[:_PERSON_LIMIT]}" if text else ""))


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey instead of show."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


@dataclass(slots=True)
class Tally:
    """How far an upload is. ``total``: names there are, None while nobody knows."""

    began_s: float
    stored: int = 0
    there: int = 0
    failed: int = 0
    sent_bytes: int = 0
    total: int | None = None

    @property
    def seen(self) -> int:
        """Names that were dealt with."""
        return self.stored + self.there + self.failed

    def add(self, outcome: Outcome) -> None:
        """Count one more; what was ignored is not counted."""
        self.stored += outcome.result is Result.DONE
        self.there += outcome.result is Result.THERE
        self.failed += outcome.result is Result.FAILED
        self.sent_bytes += outcome.size

    def line(self, now_s: float) -> str:
        """Return how far it is at ``now_s``, by the clock of ``began_s``."""
        elapsed_s = max(1e-3, now_s - self.began_s)
        of_total = "" if self.total is None else f" of {max(self.total, self.seen):,}"
        return (
            f"{self.seen:,}{of_total} files, {self.there:,} skipped, {self.failed:,} failed,"
            f" {self.seen / elapsed_s:,.0f}/s, {readable_size(self.sent_bytes / elapsed_s)}/s"
            f"{self._left(elapsed_s)}"
        )

    def _left(self, elapsed_s: float) -> str:
        if self.total is None or not self.seen or self.total <= self.seen:
            return ""
        return f", ETA {readable_span(elapsed_s * (self.total - self.seen) / self.seen)}"
