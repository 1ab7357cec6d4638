"""The stores of members that have joined each other, as one process of a member knows them."""

from dataclasses import replace
from pathlib import Path

from sfss.checks import LMDB
from sfss.chunks import is_of_body
from sfss.config import Settings
from sfss.config_joined import joined_settings
from sfss.discovery import LIVE
from sfss.member_files import Epochs, StateFile
from sfss.replicas import Own, make_joined
from sfss.stores.base import Store
from sfss.stores.lmdb_copies import LmdbCopies


class MemberStores:
    """The own store, and the engine over those of all members as of the membership that is known
    when this is made: as long as this process lives, no further change takes place. ``owed`` is
    for what stores still have to get. Raises ``SettingError``.
    """

    def __init__(self, settings: Settings, owed: Store, heals_at_once: int = 4) -> None:
        options, self.folder = settings.discovery, Path(settings.embedded.folder)
        self.file, self.epochs = StateFile(self.folder), Epochs(self.folder)
        self.state = self.epochs.hold(self.file)
        self.settings = joined_settings(settings, self.state, str(self.folder / LIVE))
        """The settings of a cluster with copies that are just these stores."""
        address, timeout_s = f"{LMDB}{self.folder}", settings.embedded.timeout_s
        self.store = LmdbCopies(address, timeout_s, known_as=options.advertise)
        if settings.objects.capacity_bytes:
            self.store.limit(settings.objects.capacity_bytes, is_of_body)
        membership = self.state.membership
        own = Own(self.store, self.is_member)
        if membership is not None:
            own = replace(own, doubted=membership.empty, gone=membership.gone)
        self.replicas = make_joined(self.settings, owed, own, heals_at_once)

    @property
    def is_member(self) -> bool:
        """Whether the own store is one of those of the cluster; or all there is, as long as none
        was found.
        """
        return self.state.membership is None or self.state.is_member(self.store.address)

    @property
    def moves_everything(self) -> bool:
        """Whether each file in the own store is to be seen to, wherever it belonged before."""
        membership = self.state.membership
        is_filled = membership is not None and bool(membership.empty or membership.gone)
        return self.state.written_alone or is_filled

    async def close(self) -> None:
        """Finish what was begun, and close all stores."""
        await self.replicas.close()
        await self.store.close()
