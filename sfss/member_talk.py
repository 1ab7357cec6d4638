"""What members say to each other: JSON in, JSON out. Pure.

A question has the ``tag`` of the cluster, who asks (``from``: address and store), what (``ask``),
and the newest membership that the asker knows, if any. So does each answer: whoever lags behind
learns of it with the next word, whatever that is about.

=========  =====================================  ==================================================
ask        with                                   the answer says
=========  =====================================  ==================================================
beat                                              how far the other is: ``adopted``, ``moved``
promise    ``ballot``, ``epoch``                  ``vote``, None where it has been given away
accept     ``ballot``, ``membership proposed``    the same
join                                              ``refused``: why not, or not yet
leave      ``address``                            the same
forget     ``address``, ``force``                 the same
found                                             the same: of ``sfss members``, on this machine
=========  =====================================  ==================================================
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sfss.ballots import Ballot, Vote, read_ballot, read_vote, vote_as_words
from sfss.member_state import State
from sfss.members import Member, Membership, as_words, read_member, read_words

_TEXT_LIMIT: Final = 300
ASKS: Final = ("beat", "promise", "accept", "join", "leave", "forget", "found")


class BadWord(Exception):
    """Raised for what is no question or answer of a member of this cluster; the text says why, in
    no more than ``_TEXT_LIMIT`` characters.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}...")


@dataclass(frozen=True, slots=True)
class Question:
    """What another member asks; see the table above."""

    ask: str
    member: Member
    membership: Membership | None
    words: Mapping[str, Any]

    @property
    def address(self) -> str:
        """The address of the member that is to leave, or to be forgotten."""
        address = self.words.get("address")
        return address if isinstance(address, str) else ""

    @property
    def is_forced(self) -> bool:
        """Whether the change is to be made although no majority answers."""
        return self.ask == "forget" and self.words.get("force") is True


@dataclass(frozen=True, slots=True)
class Reply:
    """What another member has answered."""

    member: Member
    membership: Membership | None
    adopted: int = 0
    moved: int = 0
    vote: Vote | None = None
    refused: str = ""


def question(tag: str, ask: str, member: Member, state: State, **more: object) -> bytes:
    """Return the bytes of a question of ``member``, which is in ``state``."""
    words = {"tag": tag, "ask": ask, "from": list(member), "membership": _known(state), **more}
    return json.dumps(words).encode()


def reply(tag: str, member: Member, state: State, **more: object) -> bytes:
    """Return the bytes of an answer of ``member``, which is in ``state``."""
    words = {"tag": tag, "from": list(member), "membership": _known(state), **more}
    return json.dumps(words).encode()


def bad_reply(tag: str, member: Member, error: BadWord) -> bytes:
    """Return the bytes of the answer to what was no question."""
    return json.dumps({"tag": tag, "from": list(member), "bad": str(error)}).encode()


def _known(state: State) -> dict[str, Any] | None:
    return None if state.membership is None else as_words(state.membership)


def read_question(text: bytes, tag: str) -> Question:
    """Return the question that ``text`` is; raise ``BadWord`` for anything else."""
    words = _read(text, tag)
    try:
        ask = words["ask"]
        if ask not in ASKS:
            raise ValueError(f"it asks {ask!r}; known are {', '.join(ASKS)}")
        return Question(ask, read_member(words["from"]), _membership(words), words)
    except (KeyError, TypeError, ValueError) as error:
        raise BadWord(f"not understood: {error}") from None


def read_reply(text: bytes, tag: str) -> Reply:
    """Return the answer that ``text`` is; raise ``BadWord`` for anything else."""
    words = _read(text, tag)
    if "bad" in words:
        raise BadWord(f"it says: {words['bad']}")
    try:
        vote = words.get("vote")
        return Reply(
            read_member(words["from"]),
            _membership(words),
            int(words.get("adopted", 0)),
            int(words.get("moved", 0)),
            None if vote is None else read_vote(vote),
            str(words.get("refused", "")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadWord(f"not understood: {error}") from None


def _read(text: bytes, tag: str) -> Mapping[str, Any]:
    try:
        words = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadWord(f"no JSON: {error}") from None
    if not isinstance(words, dict):
        raise BadWord("an object is expected")
    if words.get("tag") != tag:
        raise BadWord(f"its discovery.tag is {words.get('tag')!r}, here it is {tag!r}")
    return words


def _membership(words: Mapping[str, Any]) -> Membership | None:
    found = words.get("membership")
    return None if found is None else read_words(found)


def learned(state: State, own: Member, heard: Membership | None, joins: bool) -> State:
    """Return ``state`` after ``heard`` was told by another. What counts is the higher epoch; of two
    clusters that each know nothing of the other, one that is ``own`` alone gives way, if it
    ``joins`` others, or if they have it for a member: then its store was lost.
    """
    known = state.membership
    if heard is None:
        return state
    if known is None:
        return replace(state.with_membership(heard, own.address), written_alone=True)
    if heard.cluster == known.cluster:
        return state.with_membership(heard, own.address) if heard.epoch > known.epoch else state
    is_alone = known.members == (own,)
    is_known_there = heard.member(own.address) is not None
    if is_alone and (joins or is_known_there) and heard.members != (own,):
        return replace(state.with_membership(heard, own.address), written_alone=True)
    return state


def voted(state: State, asked: Question) -> tuple[State, Vote | None]:
    """Return ``state`` after a promise or an acceptance was asked for; and the vote, None where it
    is not given: a higher ballot has it, or the question is about another epoch than the next.
    """
    if state.membership is None:
        return state, None
    try:
        ballot = read_ballot(asked.words.get("ballot"))
        if asked.ask == "promise":
            epoch, proposed = asked.words.get("epoch"), None
        else:
            proposed = read_words(asked.words.get("membership proposed"))
            epoch = proposed.epoch
    except (TypeError, ValueError) as error:
        raise BadWord(f"not understood: {error}") from None
    return vote_for(state, ballot, epoch, proposed)


def vote_for(
    state: State, ballot: Ballot, epoch: object, proposed: Membership | None
) -> tuple[State, Vote | None]:
    """Return ``state`` after a promise to ``ballot`` or, with a membership that is ``proposed``,
    its acceptance; and the vote, None where it is not given.
    """
    following, known = state.epoch + 1, state.membership
    if epoch != following:
        return state, None
    # What was accepted of another cluster would be proposed again for ever, and never be learned.
    if proposed is not None and known is not None and proposed.cluster != known.cluster:
        return state, None
    vote = (state.vote or Vote(following)).about(following)
    new = vote.promise(ballot) if proposed is None else vote.accept(ballot, proposed)
    return (state, None) if new is None else (replace(state, vote=new), new)


def vote_words(vote: Vote | None) -> dict[str, Any] | None:
    """Return a vote as an answer has it."""
    return None if vote is None else vote_as_words(vote)
