"""A connection whose clients may ask only so often; for others there is no such thing to pay for.

What goes the short way is counted before. If it has to go the long way after all, it is not counted
again there: it is the next that aiohttp hands over.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from sfss.record import Buffer
from sfss.web.fast_connection import FastConnection

Lets: TypeAlias = Callable[[bytes, str], bool]
"""Takes a request on, of a peer; see ``throttling.Throttle.lets``."""


class RatedConnection(FastConnection):
    """One connection of a client."""

    __slots__ = ("_is_counted", "_lets")

    def __init__(self, lets: Lets, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._lets, self._is_counted = lets, False

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._short_way_open and self._short_way.understands(data):
            if not self._lets(data, self.peer):
                self._feed(data)  # to be refused in words
                return
            self._is_counted = True
        super().data_received(data)

    def _send(
        self,
        request: bytes,
        face: str,
        parts: tuple[bytes, bytes, Buffer],
        began_s: float | None,
    ) -> None:
        self._is_counted = False
        super()._send(request, face, parts, began_s)

    def take_counted(self) -> bool:
        """Tell whether the request that is handed over now has been counted."""
        is_counted, self._is_counted = self._is_counted, False
        return is_counted
