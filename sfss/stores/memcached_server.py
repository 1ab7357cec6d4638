"""What a server of the memcached protocol says of itself: of what kind it is, and its limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sfss import memtext_extensions
from sfss.config import MIB
from sfss.errors import Unreachable
from sfss.memtext import STATS, VERSION, VERSION_COMMAND, BadReply, Status, stats_command
from sfss.stores.memcached_pool import Client, Closed, Exchange

BEANSDB_ITEM_LIMIT: Final = 50 * MIB
"""gobeansdb's and Beanseye's limit; Beansdb itself takes 100 MiB. None of them can be asked."""

PROXY_ITEM_LIMIT: Final = 1 * MIB
"""The limit of a stock memcached, which is what twemproxy, which cannot be asked either, hides."""


@dataclass(frozen=True, slots=True)
class Server:
    """What the server has said of itself, when so many connections had been found closed."""

    item_limit: int
    is_node: bool
    can_browse: bool
    has_cas: bool
    deaths: int

    @property
    def is_memcached(self) -> bool:
        """Whether it is a real memcached."""
        return self.has_cas and not self.is_node


class Introduction:
    """Has the server at ``address``, which ``client`` asks, say once what it is.

    It is asked again after connections were found closed: another may have been started, or the
    same with another limit. Raises what ``Client.run`` does, and ``Unreachable`` where the server
    refuses to say it.
    """

    def __init__(self, address: str, client: Client) -> None:
        self.address, self._client = address, client
        self._asking = asyncio.Lock()
        self.known: Server | None = None
        """What it was when it was asked last."""

    @property
    def latest(self) -> Server | None:
        """What is known, if nothing has happened since that could have changed it."""
        known = self.known
        return known if known is not None and known.deaths == self._client.deaths else None

    async def within(self, timeout_s: float) -> Server:
        """Return what the server is, asked again only where that may have changed; raises
        ``Unreachable`` where it does not say it in time.
        """
        if (server := self.latest) is not None:
            return server
        async with border(self.address, timeout_s, Exchange(stats_command(), STATS)):
            return await self.server()

    def forget(self) -> None:
        """Have it asked again: it has turned out to be something else."""
        self.known = None

    async def server(self) -> Server:
        """Return what the server is, asked once by whoever comes first."""
        async with self._asking:
            deaths, known = self._client.deaths, self.known
            if known is None or known.deaths != deaths:
                known = self.known = await self._ask(deaths)
            return known

    async def _ask(self, deaths: int) -> Server:
        settings = await self.stats("settings") or {}
        is_node = memtext_extensions.NEWEST in settings
        can_browse = memtext_extensions.BROWSE in settings
        has_cas = settings.get("cas_enabled") == "yes"
        if "item_size_max" in settings:
            return Server(_number(settings["item_size_max"]), is_node, can_browse, has_cas, deaths)
        if await self.stats():
            return Server(BEANSDB_ITEM_LIMIT, is_node, can_browse, has_cas, deaths)
        # A server that has just died closes connections, too; one that gives its version has not.
        await self.version()
        return Server(PROXY_ITEM_LIMIT, is_node, can_browse, has_cas, deaths)

    async def stats(self, group: str = "") -> dict[str, str] | None:
        """Return statistics, or None from a server that knows no such command."""
        exchange = Exchange(stats_command(group), STATS)
        try:
            answer = await self._client.run(exchange)
        except Closed:
            return None
        if answer.status.word == "SERVER_ERROR":
            raise refused(self.address, answer.status, exchange)
        return answer.stats if answer.status.word == "END" else None

    async def version(self) -> str:
        """Return the version that the server gives."""
        exchange = Exchange(VERSION_COMMAND, VERSION)
        status = (await self._client.run(exchange)).status
        if status.word != "VERSION":
            raise refused(self.address, status, exchange)
        return status.text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadReply(f"an item_size_max of {text[:80]!r}")
    return int(text)


@asynccontextmanager
async def border(address: str, timeout_s: float, exchange: Exchange) -> AsyncIterator[None]:
    """Bound the block by ``timeout_s``, and turn what went wrong in it, which is about
    ``exchange``, into ``Unreachable``.
    """
    clock = asyncio.timeout(timeout_s)
    try:
        async with clock:
            yield
    # UnicodeError: a host name that no name server can be asked for.
    except (OSError, UnicodeError, Closed, BadReply) as error:
        reason = str(error) or type(error).__name__
        if clock.expired():
            reason = f"no answer within {timeout_s:g} s"
        raise Unreachable(address, reason, exchange.applied) from error


def refused(address: str, status: Status, exchange: Exchange) -> Unreachable:
    """Return the error for an answer of the server at ``address`` that means that it will not."""
    reason = f"it answered {status.word} {status.text[:200]}".rstrip()
    return Unreachable(address, reason, exchange.applied)
