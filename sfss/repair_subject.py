"""What a repair tool works on: the stores of a cluster, opened by a process of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sfss.chunks import prefix_of, read_chunk_key
from sfss.config import Settings
from sfss.config_checks import HELD_FILE_LIMIT, has_plain_files
from sfss.errors import BadPath, SettingError, Unreachable
from sfss.keys import KeyScheme
from sfss.member_stores import MemberStores
from sfss.repair import Tool, at_once
from sfss.replicas import MARKS, Replicas, make_replicas
from sfss.roster import Roster
from sfss.service import make_scheme
from sfss.stores.base import ListingStore, Store
from sfss.stores.embedded import EmbeddedStore

_KINDS: Final[Mapping[str, Collection[Tool]]] = {
    '"replicated"': frozenset(Tool),
    '"joined"': frozenset({Tool.CHECK, Tool.REPAIR, Tool.SCRUB}),
    '"embedded"': frozenset({Tool.CHECK, Tool.SCRUB}),
}
"""What the tools are for; members that have joined each other move files by themselves."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The stores that a run is about, and where their keys belong; ``replicas`` None: it is one
    store, for itself.
    """

    stores: Mapping[str, Store]
    primaries: Callable[[bytes], Sequence[str]]
    scheme: KeyScheme
    replicas: Replicas | None = None

    def path_of(self, key: bytes) -> str | None:
        """Return the path whose key is ``key``, or what a chunk is called; None of what is not
        ours.
        """
        if name := read_chunk_key(prefix_of(self.scheme.encoding), key):
            return f"(chunk {name.number} of upload {name.upload} of {name.file})"
        try:
            path = self.scheme.path(key)
            return path if self.scheme.key(path) == key else None
        except (ValueError, BadPath):
            return None

    def listing(self) -> dict[str, Store | ListingStore]:
        """Return what is to be listed for each store."""
        is_live = (lambda _: True) if self.replicas is None else self.replicas.is_live
        return {
            address: store if is_live(address) else _NotLive(address)
            for address, store in self.stores.items()
        }


class _NotLive:
    """In the place of a store that is not in the roster: it is not asked."""

    def __init__(self, address: str) -> None:
        self._address = address

    def keys(self) -> Any:
        """Raise ``Unreachable``."""
        raise Unreachable(self._address, "it is not in the roster", applied=False)


@asynccontextmanager
async def opened(tool: Tool, settings: Settings) -> AsyncIterator[Subject]:
    """Open the stores for the block. Raises ``SettingError`` for what the ``tool`` is not for."""
    kind, scheme = settings.cluster.kind, make_scheme(settings)
    if kind == "replicated":
        # Never made here: with an empty list, stores would be believed that have missed something.
        folder = Path(settings.replicated.owed_folder)
        timeout_s = settings.embedded.timeout_s
        owed, marks = EmbeddedStore(folder, make=False, timeout_s=timeout_s), None
        if has_plain_files(settings):
            marks = EmbeddedStore(folder / MARKS, make=False, timeout_s=timeout_s)
        heals_at_once = at_once(_largest_record(settings))
        replicas = make_replicas(settings, owed, marks, heals_at_once, fetches=False)
        try:
            async with _watching(replicas.roster):
                yield Subject(replicas.stores, replicas.places.primaries, scheme, replicas)
        finally:
            await replicas.close()
    elif kind == "joined" and tool in _KINDS['"joined"']:
        async with _as_member(settings, scheme) as subject:
            yield subject
    elif kind == "embedded" and tool in _KINDS['"embedded"']:
        store = EmbeddedStore(Path(settings.embedded.folder), make=False)
        try:
            yield Subject({store.address: store}, lambda _: (store.address,), scheme)
        finally:
            await store.close()
    else:
        kinds = [each for each in _KINDS if tool in _KINDS[each]]
        allowed = f"sfss {tool.value} is for {' and '.join(kinds)}"
        raise SettingError("settings", "cluster.kind", f'is "{kind}"', allowed)


@asynccontextmanager
async def _as_member(settings: Settings, scheme: KeyScheme) -> AsyncIterator[Subject]:
    """Open the stores of all members for the block, as this one knows them; who belongs to the
    cluster cannot change meanwhile.
    """
    folder = Path(settings.replicated.owed_folder)
    owed = EmbeddedStore(folder, make=False, timeout_s=settings.embedded.timeout_s)
    members = MemberStores(settings, owed, at_once(_largest_record(settings)))
    replicas = members.replicas
    try:
        async with _watching(replicas.roster):
            yield Subject(replicas.stores, replicas.places.primaries, scheme, replicas)
    finally:
        await members.close()


def _largest_record(settings: Settings) -> int:
    """Return the bytes of what is held in memory at a time."""
    limit = HELD_FILE_LIMIT if has_plain_files(settings) else settings.cluster.chunks_above
    return min(settings.cluster.max_file_size, limit)


@asynccontextmanager
async def _watching(roster: Roster | None) -> AsyncIterator[None]:
    """Look at ``roster`` again and again for the block: a run may take days."""
    watch = None if roster is None else asyncio.ensure_future(roster.run())
    try:
        yield
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
