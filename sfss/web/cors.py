"""Which pages of other origins may ask, and read the answers: CORS, of WHATWG Fetch. Pure.

Nothing here keeps anybody from asking: a browser obeys what is said, others never look. Credentials
are never allowed ("CORS protocol and credentials"): a page that may know a token sends it as a
field of its own. So every field may be sent, and "*" is a safe answer.

An answer that depends on who asks says so (``Vary: Origin``), also where nobody is named, or a
cache would give it to the next ("CORS protocol and HTTP caches").
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

ANY: Final = "*"

_LIST: Final = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*"
)
_LIST_LIMIT: Final = 4096


class Cors:
    """What the settings allow: the pages of ``origins``, to use ``methods``, to read the fields
    ``exposed``, and to remember that for ``max_age_s``.
    """

    def __init__(
        self,
        origins: Sequence[str],
        methods: Sequence[str],
        exposed: Sequence[str],
        max_age_s: int,
    ) -> None:
        self.varies = ANY not in origins
        """Whether an answer depends on who asks."""
        self._methods, self._max_age_s = ", ".join(methods), max_age_s
        self._exposed = {"Access-Control-Expose-Headers": ", ".join(exposed)} if exposed else {}
        self._fields = {origin: self._fields_for(origin) for origin in origins}
        self._none = self._varying({})
        lines = {origin: _lines(self._varying(self._fields[origin])) for origin in origins}
        self._lines, self._no_lines = lines, _lines(self._none)

    def _fields_for(self, origin: str) -> Mapping[str, str]:
        return {"Access-Control-Allow-Origin": origin, **self._exposed}

    def _varying(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return {"Vary": "Origin", **fields} if self.varies else fields

    def allows(self, origin: str | None) -> bool:
        """Tell whether pages of ``origin`` may ask."""
        return not self.varies or origin in self._fields

    def fields(self, origin: str | None) -> Mapping[str, str]:
        """Return the fields of an answer to a page of ``origin``, but for Vary."""
        return self._fields.get(origin if self.varies and origin else ANY, {})

    def lines(self, origin: str | None) -> str:
        """Return the same with Vary as lines."""
        return self._lines.get(origin if self.varies and origin else ANY, self._no_lines)

    def permission(self, origin: str, asked: Mapping[str, str]) -> Mapping[str, str]:
        """Return what a page of ``origin`` that may ask is told before it does ("HTTP responses"),
        Vary not with it; ``asked`` are the fields of its question.
        """
        fields = {
            "Access-Control-Allow-Origin": origin if self.varies else ANY,
            "Access-Control-Allow-Methods": self._methods,
            "Access-Control-Max-Age": str(self._max_age_s),
        }
        wanted = asked.get("Access-Control-Request-Headers", "").strip(" \t")
        if len(wanted) <= _LIST_LIMIT and _LIST.fullmatch(wanted):
            fields["Access-Control-Allow-Headers"] = wanted
        return fields


def is_preflight(method: str, fields: Mapping[str, str]) -> bool:
    """Tell whether a browser asks what a page may ask; any other OPTIONS is one of WebDAV."""
    asks = "Origin" in fields and "Access-Control-Request-Method" in fields
    return method == "OPTIONS" and asks


def vary(said: str | None) -> str:
    """Return the Vary of an answer that depends on Origin, too."""
    if said is None:
        return "Origin"
    names = {name.strip().lower() for name in said.split(",")}
    return said if names & {"*", "origin"} else f"{said}, Origin"


def _lines(fields: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items())
