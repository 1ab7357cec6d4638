"""What one member of a cluster says to the others, and how it has the membership changed.

Any process of a gateway answers; what it knows lies in a file that all of them share.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

from sfss.ballots import NO_BALLOT, Ballot, Vote, majority, to_propose
from sfss.errors import Unreachable
from sfss.member_files import Epochs, StateFile, StateInUse
from sfss.member_state import State
from sfss.member_talk import (
    BadWord,
    Question,
    Reply,
    bad_reply,
    learned,
    question,
    read_question,
    read_reply,
    reply,
    vote_for,
    vote_words,
    voted,
)
from sfss.members import CannotChange, Member, Membership, alone, as_words

_COMPLAINTS_LIMIT: Final = 20
_TRIES: Final = 5
_PAUSE_S: Final = 0.2
_NEWCOMER_S: Final = 1.0
"""Seconds that a newcomer may take to answer: less than it waits for us."""

_GIVEN_UP: Final = (
    "this member had a cluster of its own, and belongs to that of %s: it gives up its own, and what"
    " was written here meanwhile is brought to the others"
)
_CLAIMED: Final = (
    "two clusters have this member, and neither knows of the files of the other: its own, and that"
    " of %s. If its disk was lost, stop it, and the members that have joined it since, and start"
    " them again with empty folders"
)

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

Ask: TypeAlias = Callable[[str, bytes], Awaitable[bytes]]
"""Sends bytes to the member at an address, and returns what it answers; raises ``Unreachable``."""


class NotAgreed(Exception):
    """Raised when no majority of the members has agreed on a change, or this one cannot note it
    now; the text says why.
    """


@dataclass(frozen=True, slots=True)
class TalkOptions:
    """Who we are (``address``), the ``tag`` of the cluster, and the addresses of some members whose
    cluster is to be joined.
    """

    address: str
    tag: str
    join: Sequence[str] = ()

    @property
    def is_first(self) -> bool:
        """Whether this member is to be joined by others, rather than to join them."""
        return not self.join or self.join[0] == self.address


class Talk:
    """What this member says: to others, as one of any number of processes that share ``file``."""

    def __init__(self, file: StateFile, epochs: Epochs, options: TalkOptions, ask: Ask) -> None:
        self._file, self._epochs, self.options, self._ask = file, epochs, options, ask
        self._complained: set[str] = set()

    @property
    def state(self) -> State:
        """What this member knows at this moment."""
        return self._file.load()

    @property
    def member(self) -> Member:
        """This member, whether it belongs to a cluster or not."""
        return self.member_of(self.state)

    def member_of(self, state: State) -> Member:
        """Return this member, which is in ``state``."""
        return Member(self.options.address, state.store)

    async def answer(self, payload: bytes) -> bytes:
        """Return the answer to what a member asks."""
        try:
            asked = read_question(payload, self.options.tag)
            await self._hear(asked.membership)
            more = await self._answers(asked)
        except BadWord as error:
            self._complain(str(error))
            return bad_reply(self.options.tag, self.member, error)
        state = self.state
        far = {"adopted": self.adopted(state), "moved": state.moved}
        return reply(self.options.tag, self.member_of(state), state, **far, **more)

    def _complain(self, text: str) -> None:
        """Log why somebody was not understood."""
        self._complain_of(f"a message of another gateway makes no sense here: {text}")

    def _complain_of(self, text: str) -> None:
        """Log what is wrong with another gateway: once, for it will ask again."""
        if text not in self._complained and len(self._complained) < _COMPLAINTS_LIMIT:
            self._complained.add(text)
            _log.warning("%s", text)

    async def _answers(self, asked: Question) -> Mapping[str, object]:
        if asked.ask == "beat":
            return {}
        try:
            if asked.ask in ("promise", "accept"):
                vote = await self._change_state(lambda state: voted(state, asked))
                return {"vote": vote_words(vote)}
            if asked.ask == "found":
                await self.begin()
                return {}
            if asked.ask == "join":
                await self._check_newcomer(asked.member)
            if asked.ask != "forget":
                await self._check_others(asked)
            await self.change(lambda membership: _changed(membership, asked), asked.is_forced)
        except (CannotChange, NotAgreed) as error:
            return {"refused": str(error)}
        return {}

    async def _check_newcomer(self, newcomer: Member) -> None:
        """Raise ``CannotChange`` unless ``newcomer`` is who answers at its address: one that nobody
        can reach would hold up all that comes, and one that gives the address of another, from
        wrong settings or because it was started twice, would push it out.
        """
        if newcomer == self.member:
            return
        address, found = newcomer.address, None
        try:
            async with asyncio.timeout(_NEWCOMER_S):
                if address != self.options.address:
                    found = (await self.ask(address, "beat")).member
        except TimeoutError:
            reason = f"no answer within {_NEWCOMER_S:g} s"
            raise CannotChange(f"{address} cannot be reached: {reason}") from None
        except (Unreachable, BadWord) as error:
            reason = error.reason if isinstance(error, Unreachable) else str(error)
            raise CannotChange(f"{address} cannot be reached: {reason}") from None
        if found != newcomer:
            raise CannotChange(f"another store is at {address}: is discovery.advertise right?")

    async def _check_others(self, asked: Question) -> None:
        """Raise ``CannotChange`` unless all members but who asks are there, and have removed what
        does not belong on their stores: it could come back to life when they are given the same
        keys again. With a store in place of one that was lost, nobody is given other keys; and
        what others have to remove they cannot be rid of as long as that one is missing.
        """
        state, asker = self.state, asked.member.address
        if state.membership is None:
            return  # the change itself says so
        refills = asked.ask == "join" and state.membership.member(asker) is not None
        if state.membership.moves and not refills:
            return
        own = self.options.address
        everybody = [each.address for each in state.membership.everybody]
        others = [each for each in everybody if each not in (own, asker)]
        far = self.adopted(state) if refills else state.moved
        if own in everybody and far < state.epoch:
            raise _still_moves(own)
        asks = (self.ask(each, "beat") for each in others)
        found = await asyncio.gather(*asks, return_exceptions=True)
        for address, answer in zip(others, found, strict=True):
            if isinstance(answer, Unreachable | BadWord):
                reason = answer.reason if isinstance(answer, Unreachable) else str(answer)
                sentence = "does not answer, and all members have to know"
                raise CannotChange(f"{address} {sentence}: {reason}")
            if isinstance(answer, BaseException):
                raise answer
            if (answer.adopted if refills else answer.moved) < state.epoch:
                raise _still_moves(address)

    async def _change_state(self, change: Callable[[State], tuple[State, _Result]]) -> _Result:
        try:
            return await self._file.change_soon(change)
        except StateInUse as error:
            raise NotAgreed(str(error)) from None

    async def _hear(self, heard: Membership | None) -> None:
        """Do as ``learn``; or later, as it will be told again."""
        try:
            await self.learn(heard)
        except NotAgreed as error:
            self._complain_of(str(error))

    async def learn(self, heard: Membership | None) -> None:
        """Take over a membership that another has told, if it is newer. Raises ``NotAgreed`` where
        the state cannot be changed now, as do all that change it.
        """
        joins = not self.options.is_first

        def change(state: State) -> tuple[State, bool]:
            new = learned(state, self.member_of(state), heard, joins)
            return new, state.is_in_another(new)

        # Most of the time there is nothing new: no lock for that.
        state = self.state
        if learned(state, self.member_of(state), heard, joins) != state:
            if await self._change_state(change) and heard is not None:
                _log.warning(_GIVEN_UP, ", ".join(heard.addresses))
        elif heard is not None and state.is_claimed_by(heard, self.options.address):
            self._complain_of(_CLAIMED % ", ".join(heard.addresses))

    async def begin(self) -> None:
        """Note that somebody has said that this member is the first of a new cluster; see
        ``begun``.
        """
        await self._change_state(lambda state: (begun(state, self.options), None))

    async def found(self) -> None:
        """Begin a cluster with this member alone, if somebody has said so, and there is none."""

        def change(state: State) -> tuple[State, None]:
            if state.membership is not None or not state.begins:
                return state, None
            return replace(state, membership=alone(self.member_of(state))), None

        await self._change_state(change)

    async def has_moved(self, epoch: int) -> None:
        """Note that all own files have moved for ``epoch``."""

        def change(state: State) -> tuple[State, None]:
            if state.epoch != epoch:
                return state, None
            return replace(state, moved=epoch, written_alone=False), None

        await self._change_state(change)

    def adopted(self, state: State) -> int:
        """Return the lowest epoch of any process of this gateway, which is in ``state``: as long as
        there is an older one, the change is not known. 0 where one goes by a later epoch: that is
        of a cluster to which this gateway belonged before.
        """
        held = self._epochs.held() or [state.epoch]
        return held[0] if held[-1] <= state.epoch else 0

    def has_adopted(self, epoch: int) -> bool:
        """Tell whether all processes of this gateway, and there are some, go by ``epoch``."""
        held = self._epochs.held()
        return bool(held) and set(held) == {epoch}

    async def ask(self, whom: str, ask: str, **more: object) -> Reply:
        """Return what the member at the address ``whom`` answers, having learned from it. Raises
        ``Unreachable``, ``BadWord``.
        """
        state = self.state
        text = question(self.options.tag, ask, self.member_of(state), state, **more)
        answer = read_reply(await self._ask(whom, text), self.options.tag)
        await self._hear(answer.membership)
        return answer

    async def change(
        self, change: Callable[[Membership], Membership], is_forced: bool = False
    ) -> None:
        """Have the membership changed; return when that is agreed on, or was so already.

        ``is_forced``: without asking anybody, for the others will never answer again. Raises
        ``CannotChange``; ``NotAgreed`` where too few members answer, or others change it too.
        """
        for _ in range(_TRIES):
            membership = self.state.membership
            if membership is None:
                raise CannotChange("this member belongs to no cluster yet")
            wanted = change(membership)
            if wanted == membership:
                return
            if is_forced or await self._is_agreed(membership, wanted):
                await self.learn(wanted)
                await self._tell({*membership.everybody, *wanted.everybody})
                return
            await asyncio.sleep(random.uniform(0.0, _PAUSE_S))  # others may be at it, too
        raise NotAgreed("others change it at this moment")

    async def _tell(self, everybody: Iterable[Member]) -> None:
        """Tell everybody what is new, as far as they answer."""
        others = [each.address for each in everybody if each != self.member]
        await asyncio.gather(*(self.ask(each, "beat") for each in others), return_exceptions=True)

    async def _is_agreed(self, membership: Membership, wanted: Membership) -> bool:
        """Hold a ballot on ``wanted``; return whether that was decided. Raises ``NotAgreed`` where
        no majority answers.
        """
        ballot = await self._next_ballot(wanted.epoch)
        promises = await self._votes(membership, ballot, wanted.epoch, None)
        if not _is_majority(promises, membership):
            return False
        proposed = to_propose([vote for vote in promises if vote is not None], wanted)
        accepted = await self._votes(membership, ballot, wanted.epoch, proposed)
        if not _is_majority(accepted, membership):
            return False
        await self.learn(proposed)
        return proposed == wanted

    async def _next_ballot(self, epoch: int) -> Ballot:
        """Return a ballot above all that this member has seen, and have it promised at once: so no
        other worker makes the same.
        """

        def change(state: State) -> tuple[State, Ballot]:
            seen = NO_BALLOT if state.vote is None else state.vote.about(epoch).promised
            ballot = Ballot(seen.number + 1, self.options.address)
            return vote_for(state, ballot, epoch, None)[0], ballot

        return await self._change_state(change)

    async def _votes(
        self, membership: Membership, ballot: Ballot, epoch: int, proposed: Membership | None
    ) -> list[Vote | None]:
        votes = [self._vote_of(each, ballot, epoch, proposed) for each in membership.members]
        found = await asyncio.gather(*votes, return_exceptions=True)
        failures = [each for each in found if isinstance(each, BaseException)]
        for failure in failures:
            if not isinstance(failure, Unreachable | BadWord):
                raise failure
        if len(found) - len(failures) < majority(len(found)):
            reasons = "; ".join(map(str, failures))
            raise NotAgreed(f"a majority of {len(found)} members has to answer: {reasons}")
        return [vote for vote in found if not isinstance(vote, BaseException)]

    async def _vote_of(
        self, member: Member, ballot: Ballot, epoch: int, proposed: Membership | None
    ) -> Vote | None:
        if member == self.member:
            return await self._change_state(lambda state: vote_for(state, ballot, epoch, proposed))
        if proposed is None:
            answer = await self.ask(member.address, "promise", ballot=ballot, epoch=epoch)
        else:
            words = as_words(proposed)
            answer = await self.ask(
                member.address, "accept", ballot=ballot, **{"membership proposed": words}
            )
        # A store that was lost has taken the promises of its member with it.
        if answer.member != member:
            raise BadWord(f"{member.address} has another store: it has lost its own, and its vote")
        return answer.vote


def begun(state: State, options: TalkOptions) -> State:
    """Return ``state`` after somebody has said that the member of ``options`` is the first of a new
    cluster. Raises ``CannotChange`` where it cannot be.
    """
    if state.membership is not None:
        raise CannotChange("this member belongs to a cluster already")
    if not options.is_first:
        others = ", ".join(options.join)
        raise CannotChange(f"this member is to join others: discovery.join names {others}")
    return replace(state, begins=True)


def _still_moves(address: str) -> CannotChange:
    return CannotChange(f"{address} still moves files after the last change")


def _is_majority(votes: Sequence[Vote | None], membership: Membership) -> bool:
    return sum(vote is not None for vote in votes) >= majority(len(membership.members))


def _changed(membership: Membership, asked: Question) -> Membership:
    if asked.ask == "join":
        return membership.joined(asked.member)
    if asked.ask == "leave":
        return membership.left(asked.address)
    return membership.forgotten(asked.address)
