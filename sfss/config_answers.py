"""Settings of what stands in the head of answers, beside what HTTP asks for. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sfss.checks import Check, between, is_read_by, one_of
from sfss.declaring import setting
from sfss.prefixes import ESCAPES, ESCAPES_AND_SPACES, read_prefixes

_DIRECTIVE: Final = r"[a-z][a-z-]*(?:=(?:[0-9]{1,10}|[a-z-]+|\"[!#-~]*\"))?"
_DIRECTIVES: Final = re.compile(rf"{_DIRECTIVE}(?:, ?{_DIRECTIVE})*")
_ORIGIN: Final = re.compile(
    r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([1-9][0-9]{0,4}))?"
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEFAULT_PORTS: Final = (("http:", "80"), ("https:", "443"))


def read_caching(rules: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return prefix and value of each of ``answers.cache_control``, the longest prefixes first.
    Raises ``ValueError``.
    """
    pairs = [rule.partition(" ") for rule in rules]
    prefixes = read_prefixes(prefix for prefix, _, _ in pairs)
    values = [value.strip() for _, _, value in pairs]
    if not all(map(_DIRECTIVES.fullmatch, values)):
        raise ValueError("a value is none of Cache-Control")
    found = zip(prefixes, values, strict=True)
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))


def _are_different(values: Iterable[str]) -> bool:
    found = list(values)
    return len(set(found)) == len(found)


def _are_origins(values: Sequence[str]) -> bool:
    if "*" in values:
        return len(values) == 1
    return len(set(values)) == len(values) and all(map(_is_origin, values))


def _is_origin(text: str) -> bool:
    """Tell whether ``text`` is an origin as browsers write it (RFC 6454, 6.2), which leave the
    usual port away: another form would never be that of a request.
    """
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return False
    port = match[1]
    usual = any(text.startswith(scheme) and port == number for scheme, number in _DEFAULT_PORTS)
    return not usual and (port is None or int(port) < 65_536)


def _are_tokens(values: Sequence[str]) -> bool:
    return all(map(_TOKEN.fullmatch, values)) and _are_different(value.lower() for value in values)


@dataclass(frozen=True, slots=True)
class AnswersSettings:
    """What the answer with a file tells browsers and caches."""

    active_types: str = setting(
        "attachment",
        "what browsers do with files that can hold scripts, such as HTML and SVG. attachment: they"
        " save them; inline: they show them, and run no script",
        one_of("attachment", "inline"),
    )
    trusted: tuple[str, ...] = setting(
        (),
        "prefixes of paths below which files may run scripts in the origin of this service: only"
        " where nobody writes whom you would not let change the service itself",
        Check(f"a list of different prefixes, {ESCAPES}", is_read_by(read_prefixes)),
    )
    cache_control: tuple[str, ...] = setting(
        (),
        'Cache-Control of files, for each "PREFIX VALUE"; of the prefixes of a path the longest'
        " counts",
        Check(
            'a list of "PREFIX VALUE" such as "photos/ public, max-age=3600", all prefixes'
            f" different, {ESCAPES_AND_SPACES}",
            is_read_by(read_caching),
        ),
    )


@dataclass(frozen=True, slots=True)
class CorsSettings:
    """Which pages of other origins may ask, by scripts in a browser."""

    origins: tuple[str, ...] = setting(
        (),
        "origins whose pages may ask, and read the answers; none: those of this service alone",
        Check(
            'a list of different "https://HOST:PORT" in small letters, without the usual port, or'
            ' ["*"] for all',
            _are_origins,
        ),
    )
    methods: tuple[str, ...] = setting(
        ("GET", "HEAD", "PUT", "POST", "DELETE"),
        "methods that pages of these origins may use",
        Check("a list of different methods", _are_tokens),
    )
    exposed: tuple[str, ...] = setting(
        (
            "Accept-Ranges",
            "Content-Disposition",
            "Content-Range",
            "ETag",
            "Link",
            "Location",
            "Retry-After",
            "WWW-Authenticate",
            "X-Request-ID",
            "X-Sfss-Version",
        ),
        "header fields of answers that these pages may read, beside those that all may"
        " (Content-Type, Content-Length, Cache-Control, Expires, Last-Modified)",
        Check('a list of different names of fields, or ["*"] for all', _are_tokens),
    )
    max_age_s: int = setting(
        7200, "seconds that a browser may remember what a page may ask", between(0, 86_400)
    )
