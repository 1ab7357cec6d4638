"""How members agree on the next membership: a ballot, of which one can win. Pure.

Each membership is decided by the members of the one before, a majority of them: the synod of
Lamport ("Paxos Made Simple", 2001), held once for each epoch. Who proposes asks all for a promise,
not to listen to lower ballots any more; takes over what a promise says was accepted in a higher
ballot than any other; and asks all to accept that. What a majority has accepted is decided: no
ballot after it can propose anything else. What a member has promised and accepted has to be on its
disk before it answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sfss.members import Membership, as_words, read_words

_NUMBER_LIMIT: Final = 1 << 53


class Ballot(NamedTuple):
    """The greater one counts; no two members make the same: ``proposer`` is an address."""

    number: int
    proposer: str


NO_BALLOT: Final = Ballot(0, "")


@dataclass(frozen=True, slots=True)
class Vote:
    """What one member has promised, and the last that it has accepted, about the membership of the
    ``epoch``.
    """

    epoch: int
    promised: Ballot = NO_BALLOT
    accepted_in: Ballot = NO_BALLOT
    accepted: Membership | None = None

    def about(self, epoch: int) -> "Vote":
        """Return the vote about the membership of ``epoch``: this, or one still free."""
        return self if self.epoch == epoch else Vote(epoch)

    def promise(self, ballot: Ballot) -> "Vote | None":
        """Return the vote after a promise to ``ballot``; None where a higher one has it."""
        if ballot < self.promised:
            return None
        return Vote(self.epoch, ballot, self.accepted_in, self.accepted)

    def accept(self, ballot: Ballot, membership: Membership) -> "Vote | None":
        """Return the vote after ``membership`` was accepted; None where a higher ballot has the
        promise, or this is about another epoch.
        """
        if ballot < self.promised or membership.epoch != self.epoch:
            return None
        return Vote(self.epoch, ballot, ballot, membership)


def majority(members: int) -> int:
    """Return how many of ``members`` are more than half."""
    return members // 2 + 1


def to_propose(votes: Sequence[Vote], wanted: Membership) -> Membership:
    """Return what is to be proposed to those who have given these ``votes`` as their promises: what
    one of them has accepted in the highest ballot, or else what is ``wanted``.
    """
    highest = max(votes, key=lambda vote: vote.accepted_in)
    return highest.accepted or wanted


def vote_as_words(vote: Vote) -> dict[str, Any]:
    """Return ``vote`` as JSON has it."""
    return {
        "epoch": vote.epoch,
        "promised": list(vote.promised),
        "accepted in": list(vote.accepted_in),
        "accepted": None if vote.accepted is None else as_words(vote.accepted),
    }


def read_vote(words: Any) -> Vote:
    """Return the vote that ``vote_as_words`` has made these of; raise ``ValueError`` for anything
    else.
    """
    try:
        epoch, accepted = words["epoch"], words["accepted"]
        promised, accepted_in = read_ballot(words["promised"]), read_ballot(words["accepted in"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is no vote: {error}") from None
    if not isinstance(epoch, int):
        raise ValueError("the epoch of a vote is a number")
    return Vote(epoch, promised, accepted_in, None if accepted is None else read_words(accepted))


def read_ballot(words: Any) -> Ballot:
    """Return the ballot that a list of number and proposer stands for; raise ``ValueError`` for
    anything else.
    """
    if not isinstance(words, list | tuple) or len(words) != 2:
        raise ValueError("a ballot is a number and a proposer")
    number, proposer = words
    is_number = isinstance(number, int) and 0 <= number < _NUMBER_LIMIT
    if not is_number or not isinstance(proposer, str) or len(proposer) > 255:
        raise ValueError("a ballot is a number and a proposer")
    return Ballot(number, proposer)
