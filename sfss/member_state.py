"""What a member knows of its cluster. Pure; ``member_files`` keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sfss.ballots import Vote, read_vote, vote_as_words
from sfss.members import Member, Membership, as_words, read_words


@dataclass(frozen=True, slots=True)
class State:
    """The name of the own ``store``; the newest ``membership`` known, None before the first; the
    own ``vote`` about the next; the epoch for which all own files have ``moved``; whether all have
    to, for some were ``written_alone``; whether the store has ``left`` for good; and whether
    somebody has said that this member ``begins`` a cluster: nothing here tells whether it is the
    first of all, or has lost its disk.
    """

    store: str
    membership: Membership | None = None
    vote: Vote | None = None
    moved: int = 0
    written_alone: bool = False
    left: bool = False
    begins: bool = False

    @property
    def epoch(self) -> int:
        """The epoch of the membership; 0 where there is none."""
        return 0 if self.membership is None else self.membership.epoch

    def is_member(self, address: str) -> bool:
        """Tell whether the own store, at ``address``, belongs to the cluster, or still holds files
        for it.
        """
        own = Member(address, self.store)
        return self.membership is not None and (
            own in self.membership.members or own in self.membership.former
        )

    def is_in_another(self, later: "State") -> bool:
        """Tell whether the member has gone from one cluster to that of ``later``."""
        now, then = self.membership, later.membership
        return now is not None and then is not None and now.cluster != then.cluster

    def is_claimed_by(self, other: Membership, address: str) -> bool:
        """Tell whether a cluster that is not this one has a member at the own ``address``."""
        known = self.membership
        is_another = known is not None and known.cluster != other.cluster
        return is_another and other.member(address) is not None

    def with_membership(self, membership: Membership, address: str) -> "State":
        """Return the state with a newer membership, of the member at ``address``."""
        former = self.membership
        is_same = former is not None and former.cluster == membership.cluster
        # Epochs of another cluster have nothing to do with these.
        moved = self.moved if is_same else 0
        new = replace(self, membership=membership, vote=None, moved=moved)
        leaves = is_same and self.is_member(address) and not new.is_member(address)
        return replace(new, left=self.left or leaves)


def state_as_words(state: State) -> dict[str, Any]:
    """Return ``state`` as JSON has it."""
    return {
        "store": state.store,
        "membership": None if state.membership is None else as_words(state.membership),
        "vote": None if state.vote is None else vote_as_words(state.vote),
        "moved": state.moved,
        "written alone": state.written_alone,
        "left": state.left,
        "begins": state.begins,
    }


def read_state(words: Mapping[str, Any]) -> State:
    """Return the state that ``state_as_words`` has made these of; raise ``ValueError`` for anything
    else.
    """
    try:
        membership, vote = words["membership"], words["vote"]
        return State(
            str(words["store"]),
            None if membership is None else read_words(membership),
            None if vote is None else read_vote(vote),
            int(words["moved"]),
            bool(words["written alone"]),
            bool(words["left"]),
            bool(words.get("begins", False)),  # states of before have none
        )
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"this is no state of a member: {error}") from None
