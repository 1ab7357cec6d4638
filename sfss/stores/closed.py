"""A store that may not be used: as far as anybody can tell, it cannot be reached."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NoReturn

from sfss.errors import Unreachable
from sfss.record import Head, Record
from sfss.stores.base import Child, Entry, Guard, Stamped, Use


class ClosedStore:
    """The store at ``address``, which is closed for a ``reason``. See ``Store``: everything that
    would read or write raises ``Unreachable``.
    """

    head_is_cheap = True

    def __init__(self, address: str, reason: str) -> None:
        self.address, self._reason = address, reason

    def _refuse(self) -> NoReturn:
        raise Unreachable(self.address, self._reason, applied=False)

    async def get(self, key: bytes) -> Record | None:
        """Raise ``Unreachable``."""
        self._refuse()

    async def head(self, key: bytes) -> Head | None:
        """Raise ``Unreachable``."""
        self._refuse()

    def view(self, key: bytes, use: Use) -> bool:
        """Return False: nothing is at hand."""
        return False

    def state(self) -> int:
        """Return 0: nothing is known."""
        return 0

    async def set(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Raise ``Unreachable``."""
        self._refuse()

    async def set_copy(self, key: bytes, record: Record, guard: Guard | None = None) -> None:
        """Raise ``Unreachable``."""
        self._refuse()

    async def delete(self, key: bytes, guard: Guard | None = None) -> bool:
        """Raise ``Unreachable``."""
        self._refuse()

    async def delete_damaged(self, key: bytes) -> bool:
        """Raise ``Unreachable``."""
        self._refuse()

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        """Raise ``Unreachable``."""
        self._refuse()

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Raise ``Unreachable``."""
        self._refuse()

    def keys(self) -> AsyncIterator[Sequence[Stamped]]:
        """Raise ``Unreachable``."""
        self._refuse()

    async def heads(self, after: bytes) -> tuple[list[tuple[bytes, Head | None]], bytes | None]:
        """Raise ``Unreachable``."""
        self._refuse()

    async def stats(self) -> Mapping[str, str]:
        """Raise ``Unreachable``."""
        self._refuse()

    async def close(self) -> None:
        """Do nothing."""
