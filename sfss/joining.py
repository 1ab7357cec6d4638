"""A gateway as a member of a cluster: its own store, and what it says to the others.

Every worker has the store open, serves it to the other members, and answers their messages; one
worker asks them, and moves files. A worker goes by the membership that it finds when it starts:
with another one, new workers take its place, as with new settings.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from sfss.checks import read_address
from sfss.config import Settings
from sfss.discovery import Discovery, read_view
from sfss.errors import SettingError
from sfss.member_files import Epochs, StateFile
from sfss.member_messages import ask
from sfss.member_stores import MemberStores
from sfss.moving import Move, MoveProgress, MoveSettings
from sfss.node import Server
from sfss.node_commands import NodeSettings
from sfss.node_listener import NodeListener
from sfss.object_bodies import Placed
from sfss.replicas import Turn
from sfss.stores.base import Store
from sfss.stores.closed import ClosedStore
from sfss.stores.lmdb_copies import LmdbCopies
from sfss.talking import Talk, TalkOptions

ANSWER_S: Final = 2.0
"""Seconds that another member may take to answer a message."""

_SPEAKER: Final = "member.speaker"

_NO_MEMBER: Final = "no member of the cluster was found yet"
_NO_CLUSTER: Final = (
    "no cluster was found yet. Other members call this one if its disk was lost; if it is the first"
    ' of a new cluster, "sfss members found" begins it'
)

_log = logging.getLogger(__name__)


class Joining:
    """This process as a part of the member that ``settings`` describe; ``owed`` is for what stores
    still have to get; ``master`` is the process that has forked this one. Raises ``SettingError``.
    """

    def __init__(self, settings: Settings, owed: Store, master: int) -> None:
        self._options, self._renew = settings.discovery, partial(renew, master)
        self._stores = MemberStores(settings, owed)
        self._talk = make_talk(settings, self._stores.file, self._stores.epochs)
        self.settings, self.replicas = self._stores.settings, self._stores.replicas
        self.listener = NodeListener(self._server(settings))
        """Takes in other members."""
        self._mover: _Mover | None = None
        copies, own = self.replicas.copies, self._options.advertise
        self.members = Placed(copies.places, own, copies.is_resting)

    def _server(self, settings: Settings) -> Server:
        found = read_address(settings.discovery.advertise)
        assert found is not None
        limits = NodeSettings(secret=settings.discovery.secret)
        store = self._stores.store
        if not self._stores.state.is_member(store.address):
            # Who asks for it goes by a membership that is old, or by one in which another store
            # stood at this address: what is here, or is not, would be a wrong answer. So it is
            # before any membership is known here, for the disk may have been lost.
            closed = ClosedStore(store.address, "it does not belong to the cluster")
            return Server(closed, limits, found[1], self._talk.answer)
        return Server(store, limits, found[1], self._talk.answer)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what has to go on while this process serves."""
        folder, everything = self._stores.folder, self._stores.moves_everything
        speaker = Turn(folder / _SPEAKER)
        pace = MoveSettings(self._options.moves_per_s, everything=everything)
        move = Move(self.replicas.copies, self._stores.store, pace, lambda _: None)
        mover = self._mover = _Mover(move, speaker)
        every_s, epoch = self._options.heartbeat_s, self._stores.state.epoch
        discovery = Discovery(self._talk, folder, every_s, mover, self._renew, epoch)
        paying = self.replicas.work(Path(self.settings.replicated.owed_folder))
        return [discovery.run(speaker.is_ours), *paying]

    @property
    def lacking(self) -> str:
        """Which cluster was not found yet; see ``cluster.Joined``."""
        if self._stores.state.membership is not None:
            return ""
        return _NO_CLUSTER if self._talk.options.is_first else _NO_MEMBER

    def shown(self) -> Mapping[str, object]:
        """Return what is known of all members, for people."""
        return {**read_view(self._stores.folder), "lacking": self.lacking}

    @property
    def store(self) -> LmdbCopies:
        """The own store."""
        return self._stores.store

    async def stop(self) -> None:
        """Move no more files: the stores are about to be closed."""
        if self._mover is not None:
            await self._mover.end()

    async def close(self) -> None:
        """Close the own store; the others are closed by the engine."""
        await self._stores.store.close()


class _Mover:
    """Moves the files of the own store, in a task that is begun when it is time."""

    def __init__(self, move: Move, turn: Turn) -> None:
        self._move, self._turn = move, turn
        self._task: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        """Whether all have moved."""
        return self._move.progress.done

    def begin(self) -> None:
        """Begin, if that has not been done."""
        if self._task is None:
            self._task = asyncio.create_task(self._move.run(self._turn.is_ours))

    async def end(self) -> None:
        """End, wherever that is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def progress(self) -> Mapping[str, object]:
        """Return how far that is."""
        return asdict(self._move.progress)


def make_talk(settings: Settings, file: StateFile, epochs: Epochs) -> Talk:
    """Return what the member that ``settings`` describe says."""
    options = settings.discovery

    async def tell(address: str, payload: bytes) -> bytes:
        return await ask(address, options.secret, payload, ANSWER_S)

    return Talk(file, epochs, TalkOptions(options.advertise, options.tag, options.join), tell)


def find_others(settings: Settings) -> None:
    """Look for the members of the cluster, once, before anything is served: who was away must not
    answer as if nothing had happened. Raises ``SettingError``.
    """
    folder = Path(settings.embedded.folder)
    talk = make_talk(settings, StateFile(folder), Epochs(folder))
    every_s, epoch = settings.discovery.heartbeat_s, talk.state.epoch
    discovery = Discovery(talk, folder, every_s, _NoMover(), lambda: None, epoch)
    # Nobody is to be admitted that does not serve yet, and perhaps never will.
    try:
        asyncio.run(discovery.look())
    except OSError as error:
        found, wanted = f"is {str(folder)!r}: {error}", "a folder that can be written is expected"
        raise SettingError("settings", "embedded.folder", found, wanted) from error


class _NoMover:
    is_done = False

    def begin(self) -> None:
        """Do nothing: that is for a worker."""

    def progress(self) -> Mapping[str, object]:
        """Return how far it is: nowhere."""
        return asdict(MoveProgress())


def renew(master: int) -> None:
    """Have the process ``master`` start new workers, if it is still there: as it is our parent,
    nobody else has its number. Whoever has got us after its death is not to hear of it.
    """
    if os.getppid() != master:
        return
    _log.info("the members of the cluster are others: new workers take over")
    with suppress(ProcessLookupError):
        os.kill(master, signal.SIGHUP)
