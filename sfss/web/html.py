"""Pages for people and crawlers: links to files, as HTML. Pure.

Whatever stands on a page came from outside: all of it is escaped here, and no page may load or run
anything.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from typing import Final, NamedTuple

_STYLE: Final = (
    "body{font-family:sans-serif;margin:2em}td{padding:.1em 2em .1em 0}"
    "td+td{color:#555;white-space:nowrap}"
)
_STYLE_DIGEST: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()

FIELDS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}
"""Header fields of an answer that is a page: of all there could be it may use its one style."""


class Row(NamedTuple):
    """A line of a page: a ``name``, where it leads if anywhere, and what else is said of it."""

    name: str
    reference: str | None
    details: Sequence[str] = ()


class Section(NamedTuple):
    """Lines under a ``title``; "" for none."""

    title: str
    rows: Sequence[Row]


def page(title: str, sections: Iterable[Section], following: str | None = None) -> bytes:
    """Return a page; ``following`` is the reference of the one after it."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{escape(title)}</h1>\n",
    ]
    for section in sections:
        parts += [f"<h2>{escape(section.title)}</h2>\n" if section.title else "", "<table>\n"]
        parts += map(_row, section.rows)
        parts.append("</table>\n")
    if following is not None:
        parts.append(f'<p><a rel="next" href="{escape(following)}">next page</a></p>\n')
    parts.append("</body></html>\n")
    return "".join(parts).encode("utf-8", "backslashreplace")


def _row(row: Row) -> str:
    name = escape(row.name)
    if row.reference is not None:
        name = f'<a href="{escape(row.reference)}">{name}</a>'
    details = "".join(f"<td>{escape(detail)}</td>" for detail in row.details)
    return f"<tr><td>{name}</td>{details}</tr>\n"
