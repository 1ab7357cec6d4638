"""What is held for clients who do not take their answers: counted, and bounded in all."""

import fcntl
import termios
from asyncio import Transport
from struct import Struct
from typing import Any, Final, Protocol

_COUNT: Final = Struct("i")


class Reader(Protocol):
    """A connection that is being sent an answer."""

    def cut_off(self) -> None:
        """End at once; what is unsent is dropped."""


class Unsent:
    """Bytes of answers of one worker that wait for ``limit`` at most; beyond it, those readers are
    cut off that have been waited for longest. The last one may stay, however much it holds.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, dict[Reader, int]()
        self.total = 0
        """Bytes that are held now."""

    def hold(self, reader: Reader, size: int) -> None:
        """Count ``size`` bytes that ``reader`` has to take before it is sent more."""
        self.release(reader)
        self._held[reader] = size
        self.total += size
        while self.total > self._limit and len(self._held) > 1:
            slowest = next(iter(self._held))
            self.release(slowest)
            slowest.cut_off()

    def release(self, reader: Reader) -> None:
        """Count nothing for ``reader`` any more."""
        self.total -= self._held.pop(reader, 0)


def waiting_in(transport: Transport) -> int:
    """Return how many bytes the other end has not acknowledged: ours, and the kernel's.

    The latter move long before the kernel takes more of ours: it waits until a third of its buffer
    is free (tcp(7), SIOCOUTQ; sk_stream_is_writeable).
    """
    size = transport.get_write_buffer_size()
    connection: Any = transport.get_extra_info("socket")
    try:
        found = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, _COUNT.pack(0))
    except (OSError, ValueError, AttributeError):  # closed, or no socket
        return size
    return size + int(_COUNT.unpack(found)[0])
