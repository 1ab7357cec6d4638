"""Patterns of paths, as shells know them. Pure.

====================  ================================================================
``*``                 anything within one name
``**``                anything, over any number of folders; ``**/`` none of them, too
``?``                 one character of a name
``[a-c]``, ``[!a]``   one of these, one that is none of these
``{jpg,png}``         one of these texts, which may be patterns
``\\*``                the character itself
====================  ================================================================
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SPECIAL: Final = frozenset("*?[{")
_SET: Final = re.compile(r"\[(!?)(\]?[^\]/]*)\]")


def is_pattern(text: str) -> bool:
    """Tell whether ``text`` stands for more than itself."""
    return literal_prefix(text)[1]


def literal_prefix(pattern: str) -> tuple[str, bool]:
    """Return with what every path begins that matches, and whether more than that is meant."""
    found = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character in _SPECIAL:
            return found, True
        if character == "\\":
            position += 1
            character = pattern[position : position + 1]
        found += character
        position += 1
    return found, False


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the expression that matches the whole of those paths; raise ValueError for a brace
    that is not closed.
    """
    return re.compile(f"{_expression(pattern)}", re.DOTALL)


def _expression(pattern: str) -> str:
    found, position = "", 0
    while position < len(pattern):
        text, position = _next(pattern, position)
        found += text
    return found


def _next(pattern: str, position: int) -> tuple[str, int]:
    """Return the expression of what stands at ``position``, and where it ends."""
    character = pattern[position]
    if pattern.startswith("**/", position):
        return "(?:[^/]+/)*+" if _begins_name(pattern, position) else ".*/", position + 3
    if pattern.startswith("**", position):
        return ".*", position + 2
    if character == "*":
        return "[^/]*", position + 1
    if character == "?":
        return "[^/]", position + 1
    if character == "[" and (found := _SET.match(pattern, position)) and found[2]:
        inverse = "^/" if found[1] else ""
        return f"[{inverse}{_members(found[2])}]", found.end()
    if character == "{":
        return _alternatives(pattern, position)
    if character == "\\" and position + 1 < len(pattern):
        return re.escape(pattern[position + 1]), position + 2
    return re.escape(character), position + 1


def _begins_name(pattern: str, position: int) -> bool:
    return position == 0 or pattern[position - 1] == "/"


def _members(text: str) -> str:
    # A "-" between two characters is a range, as in shells.
    return re.sub(r"[\\\]\[^&~|]", lambda found: f"\\{found[0]}", text)


def _alternatives(pattern: str, position: int) -> tuple[str, int]:
    depth, start, parts = 0, position + 1, []
    for index in range(position, len(pattern)):
        character = pattern[index]
        depth += (character == "{") - (character == "}")
        if depth == 0 or (depth == 1 and character == ","):
            parts.append(_expression(pattern[start:index]))
            start = index + 1
        if depth == 0:
            return f"(?:{'|'.join(parts)})", index + 1
    raise ValueError(f"{pattern!r}: a brace is not closed")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which relative paths are meant: those that match one of ``included``, if there are any, and
    none of ``excluded``. A pattern without "/" is about the last name, wherever it is.
    """

    included: Sequence[re.Pattern[str]] = ()
    excluded: Sequence[re.Pattern[str]] = ()

    def takes(self, path: str) -> bool:
        """Tell whether ``path`` is meant."""
        if self.included and not any(each.fullmatch(path) for each in self.included):
            return False
        return not any(each.fullmatch(path) for each in self.excluded)


def choice_of(included: Sequence[str], excluded: Sequence[str]) -> Choice:
    """Return the choice that patterns make; raise ValueError where one is none."""
    return Choice([_anywhere(text) for text in included], [_anywhere(text) for text in excluded])


def _anywhere(pattern: str) -> re.Pattern[str]:
    if pattern.endswith("/"):
        pattern = f"{pattern}**"
    return compiled(pattern if "/" in pattern else f"**/{pattern}")
