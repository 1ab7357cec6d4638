"""What a read may answer, worked out from what was acknowledged: the rule of every probe.

Of one path, one client at a time. After an acknowledged change exactly what it left may be read;
after one that failed, or whose answer never came, that or what could be read before, and by turns.
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

Body: TypeAlias = bytes | None
"""What is at a path; None: nothing."""

_SHOWN: Final = 48


@dataclass(slots=True)
class Expected:
    """What may be read at one path: any of ``bodies``.

    ``is_sure``: the last change was acknowledged. If it was not, copies may differ although there
    is only one right answer: of two deletions, one has reached some of the stores.
    """

    bodies: set[Body] = field(default_factory=lambda: {None})
    is_sure: bool = True

    def acknowledged(self, body: Body) -> None:
        """Take note that a change to ``body`` was answered with a yes."""
        self.bodies, self.is_sure = {body}, True

    def unsure(self, body: Body) -> None:
        """Take note that a change to ``body`` may or may not have been made."""
        self.bodies.add(body)
        self.is_sure = False

    @property
    def body(self) -> Body:
        """The one right answer."""
        (body,) = self.bodies
        return body

    def complaint(self, found: Body) -> str | None:
        """Return what is wrong with the answer ``found``; None: nothing."""
        if found in self.bodies:
            return None
        allowed = " or ".join(sorted(map(shown, self.bodies)))
        return f"{shown(found)} was read where {allowed} was expected"


def shown(body: Body) -> str:
    """Return the beginning of ``body``, which tells it from others."""
    if body is None:
        return "nothing"
    return f"{body[:_SHOWN].rstrip(b'.')!r} ({len(body)} bytes)"
