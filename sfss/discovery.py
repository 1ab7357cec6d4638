"""Gateways that find each other, and agree on who belongs to their cluster.

Each member asks each other one, once in a while, how it is and what it knows: so all hear of a
change, and of who is away. A change goes through in steps, each for all before the next:

1. The next membership is agreed on (``talking``, ``ballots``). Each gateway learns of it, and
   starts new workers, which write to where files are to be and to where they were, and read from
   both.
2. When no gateway has a worker left that does not know of it (``adopted``), each member moves what
   it has.
3. When all have ``moved``, another membership says so: files are only where they belong, and each
   member removes what does not belong on its store.

A member that is away when a change begins is waited for: it keeps its place, until somebody says
that it is to be forgotten.

Somebody has to say, too, that a gateway is the first of a new cluster: one that has lost its disk
knows as little of others, and would say of all their files that they are not there.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from sfss.complaints import Complaints
from sfss.errors import Unreachable
from sfss.member_state import State
from sfss.member_talk import BadWord, Reply
from sfss.members import CannotChange, Membership
from sfss.talking import NotAgreed, Talk

AWAY_AFTER: Final = 3
"""Heartbeats in a row that a member misses until it counts as away."""

LIVE: Final = "member.live"
"""The file of the members that are live, as ``roster`` reads it."""

VIEW: Final = "member.view"
"""The file of what is shown of the members."""

NOT_BEGUN: Final = (
    "this gateway belongs to no cluster yet. If its disk was lost, the other members call it once"
    " they run. If it is the first of a new cluster, say so: sfss members found. Until then, what"
    " it does not have is 504"
)

_log = logging.getLogger(__name__)


class Mover(Protocol):
    """Moves the files of the own store, for one epoch."""

    @property
    def is_done(self) -> bool:
        """Whether all have moved."""

    def begin(self) -> None:
        """Begin, if that has not been done."""

    def progress(self) -> Mapping[str, object]:
        """Return how far that is."""


@dataclass(slots=True)
class _Peer:
    """What is known of another member: its last answer, and how many it has ``missed`` since; who
    has not said a word yet is away: with it we may have missed what the others have agreed on.
    """

    reply: Reply | None = None
    missed: int = AWAY_AFTER

    @property
    def is_live(self) -> bool:
        return self.missed < AWAY_AFTER


class Discovery:
    """Asks the other members for this gateway, every ``heartbeat_s`` seconds.

    ``folder`` is that of the own store. This process goes by the membership of ``epoch``;
    ``renew`` is called when there is another, to have new processes take its place. ``mover`` moves
    the files of the own store.
    """

    def __init__(
        self,
        talk: Talk,
        folder: Path,
        heartbeat_s: float,
        mover: Mover,
        renew: Callable[[], None],
        epoch: int,
    ) -> None:
        self._talk, self._folder, self._heartbeat_s = talk, folder, heartbeat_s
        self._mover, self._renew = mover, renew
        self._epoch = self._renewed = epoch
        self._peers: dict[str, _Peer] = {}
        self._complaints = Complaints()
        self._refused = ""
        self._listened = 0
        self._unwritten = ""

    async def run(self, leader: Callable[[], bool]) -> None:
        """Go on for ever, as long as ``leader`` says that it is this process that does it."""
        while True:
            try:
                if leader():
                    await self.beat()
            except Exception:
                _log.exception("members: unexpected")
            await asyncio.sleep(self._heartbeat_s)

    async def look(self) -> None:
        """Ask everybody once."""
        await asyncio.gather(*map(self._ask, self._others()))
        state = self._talk.state
        if state.membership is None:
            self._warn_alone(state)
        self._write_files(state)

    async def beat(self) -> None:
        """Ask everybody once, and do what there is to do then."""
        await asyncio.gather(*map(self._ask, self._others()))
        try:
            await self._step()
        except NotAgreed as error:  # what it was about is tried again with the next beat
            _log.warning("members: %s", error)
        self._write_files(self._talk.state)

    async def _step(self) -> None:
        state, own = self._talk.state, self._talk.options.address
        if state.membership is None and self._talk.options.is_first:
            await self._found(state)
        elif not state.left and not state.is_member(own):
            await self._join()
        state = self._talk.state
        if state.epoch != self._renewed:
            self._renewed = state.epoch
            self._renew()
        elif state.membership is not None and state.epoch == self._epoch:
            await self._go_on(state, state.membership)

    def _others(self) -> list[str]:
        """Return whom to ask: all that have to do with the cluster, or may."""
        state, options = self._talk.state, self._talk.options
        membership, others = state.membership, dict.fromkeys(options.join)
        # Who is alone with what it has, and is told to join others now, has to find them.
        is_alone = membership is not None and membership.everybody == (self._talk.member,)
        if state.is_member(options.address) and (options.is_first or not is_alone):
            others.clear()
        if membership is not None:
            others.update(dict.fromkeys(each.address for each in membership.everybody))
        others.pop(options.address, None)
        self._peers = {each: self._peers.get(each, _Peer()) for each in others}
        return list(others)

    async def _ask(self, address: str) -> None:
        peer = self._peers[address]
        try:
            peer.reply = await self._talk.ask(address, "beat")
        except (Unreachable, BadWord) as error:
            peer.missed += 1
            reason = error.reason if isinstance(error, Unreachable) else str(error)
            self._complaints.failed(address, Unreachable(address, f"member: {reason}", False))
        else:
            peer.missed = 0
            self._complaints.answered(address)

    async def _join(self) -> None:
        """Ask to be admitted, of those who have answered."""
        for address, peer in self._peers.items():
            if peer.missed or peer.reply is None:
                continue
            try:
                answer = await self._talk.ask(address, "join")
            except (Unreachable, BadWord):
                continue
            if answer.refused and answer.refused != self._refused:
                _log.warning("not admitted by %s yet: %s", address, answer.refused)
            self._refused = answer.refused
            return
        self._warn_alone(self._talk.state)

    async def _found(self, state: State) -> None:
        """Begin a cluster if somebody has said so; but members of one that is there already, and
        have this address for one of theirs, have the time to say that its disk was lost.
        """
        if not state.begins:
            self._warn_alone(state)
            return
        self._listened += 1
        if self._listened > AWAY_AFTER:
            await self._talk.found()

    def _warn_alone(self, state: State) -> None:
        if self._refused or state.begins:
            return
        self._refused = "nobody answers"
        if self._talk.options.is_first:
            _log.warning("%s", NOT_BEGUN)
        else:
            asked = ", ".join(self._peers) or "nobody"
            _log.warning("no member of a cluster to join answers (asked: %s): alone so far", asked)

    async def _go_on(self, state: State, membership: Membership) -> None:
        """Move files, or say that all have, where it is time; and remove what does not belong on
        the own store any more.
        """
        if not self._all(membership, lambda reply: reply.adopted):
            return
        if state.moved != state.epoch and state.is_member(self._talk.options.address):
            self._mover.begin()
            if not self._mover.is_done:
                return
            await self._talk.has_moved(state.epoch)
        if membership.moves and self._all(membership, lambda reply: reply.moved):
            await self._settle(membership)

    def _all(self, membership: Membership, epoch_of: Callable[[Reply], int]) -> bool:
        """Tell whether all others have come as far as ``membership``, by their last word; and we
        ourselves, of whom we know it.
        """
        own = self._talk.member
        if not self._talk.has_adopted(membership.epoch):
            return False
        replies = [self._reply(each.address) for each in membership.everybody if each != own]
        return all(each is not None and epoch_of(each) >= membership.epoch for each in replies)

    def _reply(self, address: str) -> Reply | None:
        peer = self._peers.get(address)
        return None if peer is None or peer.missed else peer.reply

    async def _settle(self, membership: Membership) -> None:
        # All of them see it at the same time; one is enough: the first of those that are live.
        live = [each for each in membership.addresses if self._is_live(each)]
        if live and live[0] != self._talk.options.address:
            return
        try:
            await self._talk.change(lambda now: now.settled() if now == membership else now)
        except (CannotChange, NotAgreed) as error:
            _log.warning("all files have moved, and that could not be agreed on: %s", error)

    def _is_live(self, address: str) -> bool:
        if address == self._talk.options.address:
            return True
        peer = self._peers.get(address)
        return peer is not None and peer.is_live

    def _write_files(self, state: State) -> None:
        """Tell the other workers, and people, how the members are."""
        if state.membership is None:
            return
        everybody = [each.address for each in state.membership.everybody]
        own = self._talk.options.address
        # Who was not waited for, being none of them any more, and goes by what was two changes ago
        # does not know where to look: until it does it asks nobody, and says nothing.
        is_behind = state.epoch > self._epoch + 1 and not state.is_member(own)
        live = [] if is_behind else [each for each in everybody if self._is_live(each)]
        live = live or [own]
        self._write(LIVE, "".join(f"{address}\n" for address in live))
        self._write_view(json.dumps(self._view(state, state.membership)))

    def _write_view(self, text: str) -> None:
        # It is for people only: a gateway whose disk is full has to start all the same.
        try:
            self._write(VIEW, text)
        except OSError as error:
            if str(error) != self._unwritten:
                _log.warning("what is shown of the members is old: %s", error)
            self._unwritten = str(error)
        else:
            self._unwritten = ""

    def _view(self, state: State, membership: Membership) -> dict[str, Any]:
        members = {each.address: self._shown(each.address) for each in membership.everybody}
        moving = dict(self._mover.progress()) if membership.moves else None
        return {"epoch": state.epoch, "members": members, "moving": moving}

    def _shown(self, address: str) -> dict[str, object]:
        own = address == self._talk.options.address
        reply = None if own else self._reply(address)
        state = self._talk.state
        adopted = self._talk.adopted(state) if own else 0 if reply is None else reply.adopted
        moved = state.moved if own else 0 if reply is None else reply.moved
        membership = state.membership
        leaves = membership is not None and membership.member(address) is None
        return {
            "live": self._is_live(address),
            "adopted": adopted,
            "moved": moved,
            "leaves": leaves,
        }

    def _write(self, name: str, text: str) -> None:
        # Compared with the file: somebody who was started beside us by mistake writes it, too.
        file = self._folder / name
        if file.exists() and file.read_text(encoding="utf-8") == text:
            return
        scratch = self._folder / f"{name}.new"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)


def read_view(folder: Path) -> Mapping[str, Any]:
    """Return what the gateway whose store is in ``folder`` has noted of the members; of a gateway
    that has noted nothing yet, no members.
    """
    try:
        view = json.loads((folder / VIEW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        view = {}
    return {"epoch": 0, "members": {}, "moving": None, **view}
