"""What stands in the head of an answer with a stored file, by its type and its path. Pure.

Whoever may upload says what a file is. Opened in a browser by its address, an HTML page or an SVG
would run its scripts in the origin of this service, with all that a page of it may do. So:

- ``nosniff``: the type is what it is said to be, whatever the bytes look like (WHATWG Fetch,
  "X-Content-Type-Options header").
- a policy that makes a document of its own origin, without scripts, forms and plugins (``sandbox``,
  CSP Level 3, "Document Directives"), which may load pictures, sound and films from here, and
  nothing from elsewhere. That is what shows a picture: browsers make a document around it. GitHub's
  raw files have the same policy but for these. Around sound and films, which have no scripts, that
  document keeps the origin: in another one, Chromium does not play them. PDF goes without the
  sandbox: neither Chromium nor WebKit starts its viewer in one. A script in a PDF is the viewer's,
  and knows no origin.
- what can hold scripts is saved and not shown (``Content-Disposition: attachment``).

The first two hold whatever the type, so a type that is missing in ``is_active`` runs no script.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote

NO_SNIFFING: Final = "X-Content-Type-Options"

POLICY: Final = "Content-Security-Policy"

CACHE_CONTROL: Final = "Cache-Control"

SANDBOX: Final = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'; sandbox"
)
"""The policy of what users have uploaded."""

MEDIA_POLICY: Final = SANDBOX + " allow-same-origin"
"""That of sound and films."""

PDF: Final = "application/pdf"
PDF_POLICY: Final = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"
"""That of PDF, with what the documents need that browsers make around their viewers."""

_ACTIVE: Final = frozenset(
    {
        # Documents with scripts (WHATWG MIME Sniffing, "MIME type groups": scriptable).
        "text/html",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "application/xml",
        # XML that a browser may take for a style sheet of XML, for a part of it or for its DTD.
        "text/xsl",
        "application/xslt+xml",
        "application/xml-dtd",
        "application/xml-external-parsed-entity",
        "text/xml-external-parsed-entity",
        # JavaScript (the same: all of them): run by documents, and by service workers.
        "application/ecmascript",
        "application/javascript",
        "application/x-ecmascript",
        "application/x-javascript",
        "text/ecmascript",
        "text/javascript",
        "text/javascript1.0",
        "text/javascript1.1",
        "text/javascript1.2",
        "text/javascript1.3",
        "text/javascript1.4",
        "text/javascript1.5",
        "text/jscript",
        "text/livescript",
        "text/x-ecmascript",
        "text/x-javascript",
        # No type at all, so that browsers look for one (the same: "computed MIME type").
        "*/*",
        "application/unknown",
        "unknown/unknown",
        # Of older browsers and their plugins.
        "application/hta",
        "application/x-shockwave-flash",
        "text/cache-manifest",
        "text/x-component",
    }
)
_ACTIVE_GROUPS: Final = ("multipart/", "message/")
"""Documents in parts that have types of their own: ``multipart/x-mixed-replace``, and MHTML."""


def is_active(media_type: str) -> bool:
    """Tell whether a file of this type can hold scripts that browsers run."""
    bare = media_type.partition(";")[0].strip().lower()
    return bare in _ACTIVE or bare.endswith("+xml") or bare.startswith(_ACTIVE_GROUPS)


class Shown(NamedTuple):
    """How a file is shown: ``lines`` are its type and all that goes with it, up to what tells its
    states apart, as they are sent; ``fields`` the same without the type.
    """

    fields: Mapping[str, str]
    lines: str


class Answers:
    """What the settings say of the heads of answers with files.

    ``inline``: active types are shown; ``trusted``: prefixes of paths below which scripts run;
    ``caching``: prefixes with their Cache-Control, the longest first.
    """

    def __init__(
        self,
        inline: bool = False,
        trusted: Sequence[str] = (),
        caching: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._inline, self._trusted, self._caching = inline, tuple(trusted), caching
        self._shown = lru_cache(maxsize=4096)(_shown)
        self._is_active = lru_cache(maxsize=1024)(is_active)

    def of(
        self, path: str, media_type: str, name: str | None = None, is_public: bool = True
    ) -> Shown:
        """Return how a file at ``path`` is shown that is of ``media_type``. ``name`` is that under
        which it is saved, "" for the end of its address; the end of the path, unless given. What
        not anybody may read, and so is not ``is_public``, no cache gives to others.
        """
        trusted = bool(self._trusted) and path.startswith(self._trusted)
        saved_as = None
        if not trusted and not self._inline and self._is_active(media_type):
            saved_as = path.rpartition("/")[2] if name is None else name
        caching = self.caching_of(path)
        caching = caching if is_public else _private(caching)
        return self._shown(media_type, trusted, saved_as, caching)

    def caching_of(self, path: str) -> str:
        """Return what the settings say of caches for a file at ``path``; "" for nothing."""
        return next((value for prefix, value in self._caching if path.startswith(prefix)), "")


def _shown(media_type: str, trusted: bool, saved_as: str | None, caching: str) -> Shown:
    fields = {NO_SNIFFING: "nosniff"}
    if not trusted:
        fields[POLICY] = _policy(media_type)
    if saved_as is not None:
        fields["Content-Disposition"] = attachment(saved_as)
    if caching:
        fields[CACHE_CONTROL] = caching
    lines = [("Content-Type", media_type), ("Accept-Ranges", "bytes"), *fields.items()]
    return Shown(fields, "".join(f"{name}: {value}\r\n" for name, value in lines))


def _private(caching: str) -> str:
    """Return a Cache-Control that keeps what a token was given out of caches that others ask (RFC
    9111, 3.5), also out of those that do not heed Authorization, and from behind signed URLs.
    """
    words = [word.strip() for word in caching.split(",")] if caching else []
    shared = ("public", "private", "s-maxage")
    kept = [word for word in words if not word.lower().startswith(shared)]
    return ", ".join(["private", *kept])


def _policy(media_type: str) -> str:
    bare = media_type.partition(";")[0].strip().lower()
    if bare == PDF:
        return PDF_POLICY
    return MEDIA_POLICY if bare.startswith(("audio/", "video/")) else SANDBOX


def attachment(name: str) -> str:
    """Return the Content-Disposition of a file that is to be saved under ``name`` (RFC 6266)."""
    if not name:
        return "attachment"
    plain = "".join(each if " " <= each <= "~" and each not in '"\\%' else "_" for each in name)
    extended = (
        "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    )
    return f'attachment; filename="{plain}"{extended}'
