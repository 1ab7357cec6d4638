"""The folders of one server of the memcached protocol, if it can show them: ``sfss node`` can."""

from typing import Final

from sfss.errors import CannotList
from sfss.keys import KEY_LIMIT
from sfss.memtext import BROWSE, BadReply, browse_command
from sfss.memtext_extensions import BROWSE_LIMIT
from sfss.memtext_listing import thing
from sfss.record import decode_lone_head
from sfss.stores.base import Child
from sfss.stores.memcached_pool import Client, Exchange
from sfss.stores.memcached_server import Introduction, border, refused

_NOT_HERE: Final = "servers of this kind are not listed; sfss check goes through all files"
_NUMBERS: Final = {b"%d" % number: None for number in range(BROWSE_LIMIT)}


class Folders:
    """Shows the folders of the server that ``introduction`` knows and ``client`` asks; each answer
    has to come within ``timeout_s``.
    """

    def __init__(self, introduction: Introduction, client: Client, timeout_s: float) -> None:
        self._introduction, self._client, self._timeout_s = introduction, client, timeout_s
        self._address = introduction.address

    async def children(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what is in a folder; see ``BrowsableStore.children``. Raises ``CannotList``,
        ``Corrupt``, ``Unreachable``.
        """
        if not (await self._introduction.within(self._timeout_s)).can_browse:
            raise CannotList(self._address, _NOT_HERE)
        if len(prefix) > KEY_LIMIT:
            return []
        found: list[Child] = []
        after = after[:KEY_LIMIT]  # no name is longer: what comes behind is the same
        while len(found) < limit:
            wanted = min(limit - len(found), BROWSE_LIMIT)
            page = await self._page(prefix, found[-1].name if found else after, wanted)
            found += page
            if len(page) < wanted:
                break
        return found

    async def _page(self, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        exchange = Exchange(browse_command(prefix, after, limit), BROWSE, _NUMBERS)
        async with border(self._address, self._timeout_s, exchange):
            answer = await self._client.run(exchange)
            if len(answer.values) > limit:
                raise BadReply(f"{len(answer.values)} things in place of {limit}")
            things = [thing(value.body) for value in answer.values]
        if answer.status.word != "END":
            self._introduction.forget()
            raise refused(self._address, answer.status, exchange)
        return [self._child(prefix, *each) for each in things]

    def _child(self, prefix: bytes, name: bytes, head: bytes) -> Child:
        if not head:
            return Child(name, None)
        return Child(name, decode_lone_head(head, self._address, prefix + name))
