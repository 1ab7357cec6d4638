"""Answers on their way to one client of a node.

A client that does not read is noticed: ``full`` says that nothing more should be said to it now,
and when it takes nothing for ``STALLED_S`` it is cut off.
"""

import asyncio
from typing import Final

from sfss.node_reads import Block
from sfss.node_stats import Traffic

FLUSH_BYTES: Final = 256 * 1024
JOINED_BYTES: Final = 512 * 1024
"""Answers are sent when there are so many bytes; above the second they are not copied together."""

STALLED_S: Final = 60.0
"""Seconds in which a client has to take some of what it is being sent."""


class Outbox:
    """What has been said to a client and not been sent."""

    def __init__(self, traffic: Traffic) -> None:
        self.full = False
        self._traffic = traffic
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._check: asyncio.TimerHandle | None = None

    def open(self, transport: asyncio.Transport) -> None:
        """Begin to send."""
        self._transport = transport

    def lost(self) -> None:
        """Stop sending: whatever is said from now on is lost."""
        self._transport = None
        self._forget_check()

    def show(self, block: Block, end: bytes) -> None:
        """Say one value, and what comes behind it."""
        line, value = block
        self._parts += (line, value, end)
        self._size += len(line) + len(value) + len(end)
        if self._size > FLUSH_BYTES:
            self.flush()

    def say(self, line: bytes, noreply: bool = False) -> None:
        """Say ``line`` unless nothing is to be said."""
        if not noreply:
            self._parts.append(line)
            self._size += len(line)

    def flush(self) -> None:
        """Send what has been said."""
        parts, size = self._parts, self._size
        if not size:
            return
        self._parts, self._size = [], 0
        if self._transport is None:
            return
        self._traffic.sent_bytes += size
        if size > JOINED_BYTES:
            self._transport.writelines(parts)
        else:
            self._transport.write(b"".join(parts))

    def pause(self) -> None:
        """Take note that more waits to be sent than the transport likes to hold."""
        self.full = True
        self._expect_progress()

    def resume(self) -> None:
        """Take note that the client has caught up."""
        self.full = False
        self._forget_check()

    def close(self) -> None:
        """Send what has been said and close; after that nothing may be said."""
        self.flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._expect_progress()

    def _expect_progress(self, unsent_before: int | None = None) -> None:
        self._forget_check()
        if self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent == unsent_before:
            self._transport.abort()
        else:
            self._check = self._loop.call_later(STALLED_S, self._expect_progress, unsent)

    def _forget_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
