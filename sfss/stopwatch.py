"""How long stores take to do what they are asked, told to whoever counts that."""

from time import perf_counter
from types import TracebackType

from sfss.errors import StoreError
from sfss.metrics import NoteStore


class Stopwatch:
    """Tells ``note`` of all that it was ``of``."""

    def __init__(self, note: NoteStore | None = None) -> None:
        self._note = note

    def of(self, operation: str, address: str) -> "Lap":
        """Return what takes the time of one operation of the store at ``address``."""
        return Lap(self._note, operation, address)


class Lap:
    """A block of code in which a store is asked. What is cancelled is not told: nobody knows how
    long it would have taken.
    """

    __slots__ = ("_address", "_began", "_note", "_operation")

    def __init__(self, note: NoteStore | None, operation: str, address: str) -> None:
        self._note, self._operation, self._address = note, operation, address

    def __enter__(self) -> None:
        """Begin."""
        self._began = perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End. What the store refuses with good reason is an answer, too."""
        if self._note is not None and (error is None or isinstance(error, Exception)):
            has_failed = isinstance(error, StoreError)
            self._note(self._operation, self._address, has_failed, perf_counter() - self._began)
