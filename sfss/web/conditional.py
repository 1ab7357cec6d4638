"""Conditional requests and ranges: RFC 9110, sections 13 and 14, as pure functions over fields.

====================  ===========================================  =======================
field                 holds when                                   if not
====================  ===========================================  =======================
If-Match              a listed tag is the file's (strong), ``*``:  412
                      there is a file
If-Unmodified-Since   not changed after that second                412
If-None-Match         no listed tag is the file's (weak), ``*``:   304 for GET and HEAD,
                      there is no file                             else 412
If-Modified-Since     changed after that second (GET, HEAD only)   304
If-Range              the tag is the file's (strong); a date       Range is ignored
                      never will do
====================  ===========================================  =======================

In this order (13.2.2); If-Unmodified-Since is ignored beside If-Match, If-Modified-Since beside
If-None-Match, and a date that is none, or that meets a file without one, wherever it stands.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sfss.http_text import http_date

FIELDS: Final = ("If-Match", "If-Unmodified-Since", "If-None-Match", "If-Modified-Since")
"""The preconditions, in the order in which they are looked at."""

NOT_MODIFIED: Final = frozenset({"If-None-Match", "If-Modified-Since"})
"""Those that make it 304 when somebody reads."""

RANGES_LIMIT: Final = 16
"""Ranges that one request may ask for; more are an attempt to make us work (14.2)."""


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one state of a file from another: its tag as in ETag, with the quotes, and the
    second of its last change since 1970, None where that is unknown.
    """

    etag: str
    modified_s: int | None

    def fields(self) -> dict[str, str]:
        """Return the header fields that show them."""
        found = {"ETag": self.etag}
        if self.modified_s is not None:
            found["Last-Modified"] = http_date(self.modified_s)
        return found


def unmet(fields: Mapping[str, str], current: Validators | None, reading: bool) -> str | None:
    """Return the name of the first precondition in ``fields`` that does not hold, None if all do.

    ``current`` is None where there is no file. ``reading``: the request is GET or HEAD.
    """
    if "If-Match" in fields:
        if not _matches(fields["If-Match"], current, strong=True):
            return "If-Match"
    elif _changed_after(fields.get("If-Unmodified-Since"), current) is True:
        return "If-Unmodified-Since"
    if "If-None-Match" in fields:
        if _matches(fields["If-None-Match"], current, strong=False):
            return "If-None-Match"
    elif reading and _changed_after(fields.get("If-Modified-Since"), current) is False:
        return "If-Modified-Since"
    return None


def malformed(fields: Mapping[str, str]) -> str | None:
    """Return the name of the first list of tags in ``fields`` that is none, None if all are well.

    Whoever reads past a mistake gets the file, but a write must not rely on half a condition.
    """
    for name in ("If-Match", "If-None-Match"):
        text = fields.get(name, "*").strip(" \t")
        ends = [end for _, end in _etags(text)]
        if text != "*" and (not ends or text[ends[-1] :].strip(" \t,")):
            return name
    return None


_ETAG: Final = re.compile(r'[ \t]*(?:,[ \t]*)*((?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*")[ \t]*')


def _etags(text: str) -> Iterator[tuple[str, int]]:
    """Yield the tags of a list up to its end or its first mistake, each with where it ends."""
    position = 0
    while match := _ETAG.match(text, position):
        position = match.end()
        yield match[1], position
        if text[position : position + 1] not in ("", ","):
            return


def _matches(text: str, current: Validators | None, *, strong: bool) -> bool:
    if current is None:
        return False
    if text.strip(" \t") == "*":
        return True
    # Ours is never weak: a weak tag is never strongly equal to it (8.8.3.2).
    tags = (tag if strong else tag.removeprefix("W/") for tag, _ in _etags(text))
    return any(tag == current.etag for tag in tags)


def _changed_after(text: str | None, current: Validators | None) -> bool | None:
    """Tell whether the file changed after the date in ``text``; None where that means nothing."""
    if text is None or current is None or current.modified_s is None:
        return None
    date_s = parse_date(text)
    return None if date_s is None else current.modified_s > date_s


_MONTHS: Final = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_CLOCK: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH: Final = f"(?P<month>{_MONTHS})"
_DATES: Final = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_CLOCK} GMT",
        r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day,"
        rf" (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_CLOCK} GMT",
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})",
    )
)


def parse_date(text: str) -> int | None:
    """Return an HTTP-date as seconds since 1970, or None if it is none (RFC 9110, 5.6.7).

    All three formats are read: IMF-fixdate, RFC 850's and asctime's.
    """
    for pattern in _DATES:
        if match := pattern.fullmatch(text.strip(" \t")):
            year = _full_year(match["year"])
            month = _MONTHS.index(match["month"]) // 4 + 1
            clock = (int(match["hour"]), int(match["minute"]), int(match["second"]))
            try:
                return int(datetime(year, month, int(match["day"]), *clock, tzinfo=UTC).timestamp())
            except ValueError:
                return None
    return None


def _full_year(digits: str) -> int:
    if len(digits) == 4:
        return int(digits)
    # Two digits that seem to be over 50 years ahead are of the past (5.6.7).
    this_year = datetime.now(UTC).year
    year = this_year - this_year % 100 + int(digits)
    return year - 100 if year > this_year + 50 else year


def range_applies(if_range: str | None, current: Validators) -> bool:
    """Tell whether a Range may be answered with a part, given the If-Range beside it (13.1.5)."""
    # A date never will do: a file may be replaced twice within its second (8.8.2.2), and the part
    # would then belong to another file than the client has. All our answers carry an ETag.
    return if_range is None or if_range.strip(" \t") == current.etag


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` up to but not including ``stop`` of a file."""

    start: int
    stop: int

    def content_range(self, size: int) -> str:
        """Return the Content-Range that goes with these bytes of a file of ``size``."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


_UNIT: Final = re.compile(r"[ \t]*bytes=(.*)", re.IGNORECASE | re.DOTALL)
_RANGE: Final = re.compile(r"([0-9]*)-([0-9]*)")


def parse_range(text: str, size: int) -> list[Span] | None:
    """Return what a Range asks of a file of ``size`` bytes; empty: nothing that is there (416).

    None: it is to be ignored and the whole file answered. That is so for another unit, for what is
    malformed, and for too many ranges or ones that overlap to more than the file (14.2, 17.15).
    """
    unit = _UNIT.fullmatch(text)
    if unit is None:
        return None
    parts = [part.strip(" \t") for part in unit[1].split(",", RANGES_LIMIT)]
    matches = [_RANGE.fullmatch(part) for part in parts if part]
    if not matches or len(parts) > RANGES_LIMIT:
        return None
    spans: list[Span] = []
    for match in matches:
        asked = match and _ends(match[1], match[2])
        if not asked:
            return None
        spans += _span(*asked, size)
    if any(span.start == span.stop for span in spans):
        return None  # the last bytes of an empty file: there is no way to write that range
    total = sum(span.stop - span.start for span in spans)
    return None if total > size else spans


def _ends(first: str, last: str) -> tuple[int | None, int | None] | None:
    """Return both numbers of a range, each None where left out; None for what is malformed."""
    start, end = (_number(digits) if digits else None for digits in (first, last))
    if start is None and end is None:
        return None
    if start is not None and end is not None and end < start:
        return None
    return start, end


def _span(start: int | None, end: int | None, size: int) -> list[Span]:
    """Return the bytes meant in a list, an empty one where the file has none of them."""
    if start is None:  # the last ``end`` bytes
        return [Span(size - min(end or 0, size), size)] if end else []
    if start >= size:
        return []
    return [Span(start, size if end is None else min(end + 1, size))]


def _number(digits: str) -> int:
    # int() of thousands of digits raises, and 18 are more than any file has bytes.
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 18 else 10**18
