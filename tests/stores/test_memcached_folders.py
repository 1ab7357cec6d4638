"""Folders of a node that answers wrong: nothing that was not asked for is shown."""

import pytest

from sfss.config import MemcachedSettings
from sfss.errors import CannotList, Unreachable
from sfss.memtext_listing import Thing, thing_block
from sfss.stores.memcached import MemcachedStore
from tests.stores.scripted import ScriptedServer

SETTINGS = b"STAT item_size_max 1048576\r\nSTAT newest yes\r\nSTAT browse yes\r\nEND\r\n"
OLDER = b"STAT item_size_max 1048576\r\nSTAT newest yes\r\nEND\r\n"


def answer_of(*names: bytes) -> bytes:
    """Return an answer that shows folders."""
    blocks = [thing_block(Thing(name, b"")) for name in names]
    values = (b"VALUE %d 0 %d\r\n%b\r\n" % (n, len(block), block) for n, block in enumerate(blocks))
    return b"".join(values) + b"END\r\n"


async def shown(*script: bytes, limit: int) -> list[bytes]:
    """Return the names that a store shows over a server with this script."""
    async with ScriptedServer(script) as server:
        store = MemcachedStore(server.address, MemcachedSettings(timeout_s=5, connections=1))
        try:
            return [child.name for child in await store.children(b"", b"", limit)]
        finally:
            await store.close()


async def test_what_was_asked_for_is_shown() -> None:
    assert await shown(SETTINGS, answer_of(b"a/", b"b/"), limit=3) == [b"a/", b"b/"]


async def test_a_node_that_shows_more_than_was_asked_for_is_out_of_step() -> None:
    with pytest.raises(Unreachable, match="3 things in place of 2"):
        await shown(SETTINGS, answer_of(b"a/", b"b/", b"c/"), limit=2)


@pytest.mark.parametrize("answer", [b"SERVER_ERROR disk\r\n", b"ERROR\r\n", b"STORED\r\n"])
async def test_a_refusal_is_no_empty_folder(answer: bytes) -> None:
    with pytest.raises(Unreachable):
        await shown(SETTINGS, answer, limit=3)


async def test_an_older_node_cannot_list() -> None:
    with pytest.raises(CannotList):
        await shown(OLDER, limit=3)
