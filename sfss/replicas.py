"""From settings to copies on many stores: for the service and for the tools that repair."""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from sfss.agreement import CopiesSettings
from sfss.checks import read_shard
from sfss.cluster import Clock
from sfss.config import ReplicatedSettings, Settings, least_copies
from sfss.copies import Copies
from sfss.errors import SettingError, StoreError
from sfss.owed import Owed
from sfss.placement import ChashShards, JumpShards, KetamaRing, Mirror, Placement, Shard
from sfss.roster import Roster
from sfss.stores.base import Store
from sfss.stores.memcached import MemcachedStore

TURN_EVERY_S: Final = 1.0
"""Seconds between two looks at whether the process that paid has ended."""

_PAYER: Final = "payer"
_STORES: Final = "stores"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Stores by address; which of them should hold a key, and which did before a change; what they
    still have to get; and the engine over all that. ``copies.close`` closes everything.
    """

    stores: Mapping[str, MemcachedStore]
    primaries: Callable[[bytes], Sequence[str]]
    former: Callable[[bytes], Sequence[str]]
    owed: Owed
    copies: Copies
    roster: Roster | None

    def work(self, folder: Path) -> list[Coroutine[Any, Any, None]]:
        """Return what has to go on while a gateway serves: debts are paid, the roster is watched.

        Of all processes that share ``folder``, one pays.
        """
        watched = [] if self.roster is None else [self.roster.run()]
        return [self._pay(Turn(folder / _PAYER)), *watched]

    async def _pay(self, turn: "Turn") -> None:
        while not turn.is_ours():  # noqa: ASYNC110 - another process cannot tell when it ends
            await asyncio.sleep(TURN_EVERY_S)
        try:
            forgotten = await self.owed.forget_others(self.stores)
            if forgotten:
                _log.warning("%d writes owed to stores that are gone are forgotten", forgotten)
        except StoreError as error:
            _log.error("what is owed to stores that are gone stays: %s", error)
        await self.copies.healing.run(turn.is_ours)


class Turn:
    """A lock that one process has at a time, and until it ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def is_ours(self) -> bool:
        """Tell whether this process has it; take it if nobody has."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True


def claim_folder(options: ReplicatedSettings) -> None:
    """Write down whose debts are in the folder of ``options``; raise ``SettingError`` when it is
    those of quite other stores: one gateway would forget what another has noted.
    """
    file, addresses = Path(options.owed_folder) / _STORES, _addresses(options)
    try:
        former = file.read_text(encoding="utf-8").split() if file.exists() else []
        if former and not set(former) & set(addresses):
            found = f"is {options.owed_folder!r}, which is about the stores {', '.join(former)}"
            wanted = "each cluster needs a folder of its own"
            raise SettingError("settings", "replicated.owed_folder", found, wanted)
        if former != addresses:
            scratch = file.with_name(f"{_STORES}.{os.getpid()}")
            scratch.write_text("\n".join(addresses) + "\n", encoding="utf-8")
            scratch.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("settings", "replicated.owed_folder", str(error), "a folder") from error


def make_replicas(settings: Settings, owed_store: Store, heals_at_once: int = 4) -> Replicas:
    """Return the replicas of ``settings``, whose kind is "replicated"; debts are in ``owed_store``.

    Raises ``SettingError``.
    """
    options = settings.replicated
    now, former = _placement(options), _former(options)
    roster = _roster(options)
    stores = {
        address: MemcachedStore(address, settings.memcached, options.head_timeout_ms / 1000)
        for address in _addresses(options)
    }
    owed = Owed(owed_store, options.owed_limit)
    copies = Copies(
        stores,
        now.primaries,
        owed,
        Clock(),
        _engine_settings(options, heals_at_once),
        former,
        None if roster is None else roster.is_live,
    )
    return Replicas(stores, now.primaries, former, owed, copies, roster)


def _engine_settings(options: ReplicatedSettings, heals_at_once: int) -> CopiesSettings:
    ours = {entry.name for entry in fields(options)}
    names = ours & {entry.name for entry in fields(CopiesSettings)}
    chosen = {name: getattr(options, name) for name in names}
    least = least_copies(options)
    return CopiesSettings(**chosen, heals_at_once=heals_at_once, least_copies=least)


def _placement(options: ReplicatedSettings) -> Placement:
    return _placed(options, options.stores, options.shards)


def _former(options: ReplicatedSettings) -> Callable[[bytes], Sequence[str]]:
    if not options.former_stores and not options.former_shards:
        return lambda _: ()
    return _placed(options, options.former_stores, options.former_shards).primaries


def _placed(options: ReplicatedSettings, stores: Sequence[str], shards: Sequence[str]) -> Placement:
    if options.placement == "mirror":
        return Mirror(stores)
    if options.placement == "ketama":
        return KetamaRing(stores, options.copies)
    found = [_shard(text) for text in shards]
    return JumpShards(found) if options.placement == "jump" else ChashShards(found)


def _shard(text: str) -> Shard:
    name, weight, stores = read_shard(text)
    return Shard(name, stores, weight)


def _addresses(options: ReplicatedSettings) -> list[str]:
    """Return all stores, those of before a change included, each once."""
    shards = (*options.shards, *options.former_shards)
    named = (store for shard in shards for store in read_shard(shard)[2])
    return list(dict.fromkeys((*options.stores, *options.former_stores, *named)))


def _roster(options: ReplicatedSettings) -> Roster | None:
    if not options.roster:
        return None
    roster = Roster(Path(options.roster), options.roster_check_s)
    roster.load()
    return roster
