"""Bodies of objects: to which member one goes, and how long it is kept when it is not needed any
more.

A body lies under a name that is used once (``chunks.body_path``). Where one member is to keep it,
the name decides which: so names are drawn until one belongs to this very member, for an object is
mostly asked for where it was put. If that member fails, another name is tried, of another member.

What was replaced or deleted is removed after ``kept_s``, because there may be readers of it. A
process that is killed before that leaves it there, in nobody's way; so does one whose member is
down just then.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from sfss.agreement import left_nothing
from sfss.chunks import SINGLE, body_path, upload_name
from sfss.cluster import Engine
from sfss.errors import NoStoreReachable, QuorumFailed, SfssError, StoreError, StoreFull
from sfss.keys import KeyScheme
from sfss.placement import Places
from sfss.record import Body, Buffer, Record, StreamedBody
from sfss.streams import stream
from sfss.turns import Background

DRAWS: Final = 64
"""Names that are drawn until one is what is wished for."""

_MEMBERS_TRIED: Final = 3
_REMOVALS_WAITING: Final = 10_000
_REMOVALS_AT_ONCE: Final = 8
_CLOSE_S: Final = 10.0

_log = logging.getLogger(__name__)


class Members(Protocol):
    """The members of a cluster, by their addresses."""

    def home(self, key: bytes) -> str:
        """Return the member that keeps the body ``key``, one that a single member is to keep."""

    def is_here(self, address: str) -> bool:
        """Tell whether this is the member ``address``."""

    def rests(self, address: str) -> bool:
        """Tell whether the member has failed a moment ago, or is not live."""

    def keeps_alone(self, key: bytes) -> bool:
        """Tell whether this member, and no other, is to have what is under ``key``."""


class Alone:
    """There are no other members."""

    def home(self, key: bytes) -> str:
        """Return this member; see ``Members.home``."""
        return ""

    def is_here(self, address: str) -> bool:
        """Return True."""
        return True

    def rests(self, address: str) -> bool:
        """Return False."""
        return False

    def keeps_alone(self, key: bytes) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, slots=True)
class Placed:
    """Members whose stores are found by ``places``; ``own`` is the address of this one.
    ``is_resting`` tells which are left alone.
    """

    places: Places
    own: str
    is_resting: Callable[[str], bool]

    def home(self, key: bytes) -> str:
        """Return the first of the primaries; see ``Members.home``."""
        return self.places.primaries(key)[0]

    def is_here(self, address: str) -> bool:
        """Tell whether it is the own one; see ``Members.is_here``."""
        return address == self.own

    def rests(self, address: str) -> bool:
        """Tell whether a member is left alone; see ``Members.rests``."""
        return self.is_resting(address)

    def keeps_alone(self, key: bytes) -> bool:
        """Tell whether only this member is to have it: not while files move; see ``Members``."""
        where = self.places.of(key)
        return not where.moves and list(where.primaries) == [self.own]


class HelpedBody(StreamedBody):
    """A body in pieces; from the first one on that cannot be had, what ``fetch`` returns is taken
    instead, if it returns something: the same object, from elsewhere.
    """

    def __init__(self, body: StreamedBody, fetch: Callable[[], Awaitable[Body | None]]) -> None:
        self._body, self._fetch = body, fetch

    def __len__(self) -> int:
        return len(self._body)

    async def pieces(self, start: int, stop: int) -> AsyncGenerator[Buffer, None]:
        """Yield bytes ``start`` to ``stop``; errors as those of the body."""
        other = None
        try:
            async with aclosing(self._body.pieces(start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
                    start += len(piece)
        except StoreError:
            other = await self._fetch()
            if other is None:
                raise
        if other is not None:
            async with aclosing(stream(other, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece


class Bodies:
    """The bodies that ``engine`` keeps."""

    def __init__(
        self, engine: Engine, scheme: KeyScheme, members: Members, kept_s: float = 60.0
    ) -> None:
        self._engine, self._scheme, self._members = engine, scheme, members
        self._kept_s = kept_s
        self._removing = asyncio.Semaphore(_REMOVALS_AT_ONCE)
        self._closing = asyncio.Event()
        self._background = Background()

    async def keep(self, object_id: str, level: int, record: Record) -> str:
        """Keep ``record`` as a body of an object of this ``level``; return its path. Raises as
        ``Engine.put``; then there is no such body, or it will be removed.
        """
        failed: set[str] = set()
        while True:
            path = self._draw(object_id, level, record.head.version, failed)
            home = self._members.home(self._scheme.key(path)) if level < 2 else ""
            try:
                await self._engine.put(self._scheme.key(path), record)
            except (NoStoreReachable, QuorumFailed, StoreFull) as error:
                self._failed(path, error)
                failed.add(home)
                if level == 2 or len(failed) == _MEMBERS_TRIED or not self._has_others(failed):
                    raise
            except SfssError as error:
                self._failed(path, error)
                raise
            except asyncio.CancelledError:
                self.remove_now(path)
                raise
            else:
                return path

    def _failed(self, path: str, error: SfssError) -> None:
        if not left_nothing(error):
            self.remove_now(path)

    def _has_others(self, failed: set[str]) -> bool:
        """Tell whether a name can be found that belongs to another member."""
        path = self._draw("0" * 26, 0, 0, failed)
        return self._members.home(self._scheme.key(path)) not in failed

    def _draw(self, object_id: str, level: int, version: int, failed: set[str]) -> str:
        """Return a path for a body: of this member, else of one that does not rest, else of one
        that has not failed just now, if such names are found.
        """
        members, best, path = self._members, -1, ""
        for _ in range(DRAWS):
            drawn = body_path(object_id, upload_name(version, secrets.randbits(64)), level == 2)
            if level == 2:
                return drawn
            home = members.home(self._scheme.key(drawn))
            wish = 0
            if home not in failed:
                wish = 1 if members.rests(home) else 3 if members.is_here(home) else 2
            if wish > best:
                best, path = wish, drawn
            if wish == 3:
                break
        return path

    def is_elsewhere(self, path: str) -> bool:
        """Tell whether a body is kept by another member, and not here."""
        if not path.startswith(f"{SINGLE}/"):
            return False
        return not self._members.is_here(self._members.home(self._scheme.key(path)))

    async def get(self, path: str) -> Record | None:
        """Return a body; raises as ``Engine.get``."""
        return await self._engine.get(self._scheme.key(path))

    def remove_later(self, path: str) -> None:
        """Remove a body when its readers had time to finish."""
        if path and len(self._background) < _REMOVALS_WAITING:
            self._background.start(self._remove_in_time(path))

    def remove_now(self, path: str) -> None:
        """Remove a body that nobody has been told of."""
        self._background.start(self._remove(path))

    async def _remove_in_time(self, path: str) -> None:
        try:
            async with asyncio.timeout(self._kept_s):
                await self._closing.wait()
        except TimeoutError:
            pass
        await self._remove(path)

    async def _remove(self, path: str) -> None:
        async with self._removing:
            try:
                await self._engine.delete(self._scheme.key(path))
            except StoreError as error:
                # A scrub removes it; while a member is away there are many.
                _log.debug("%s, which is not needed any more, is left: %s", path, error)

    async def finish(self) -> None:
        """Remove at once what is still to be removed, as far as that can be done within a few
        seconds.
        """
        self._closing.set()
        await self._background.finish(_CLOSE_S)
