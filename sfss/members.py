"""Who belongs to a cluster of gateways that have joined each other. Pure.

A membership is agreed on as a whole, and each change makes the next one, its epoch one higher
(``ballots`` says how). While files move after a change, ``former`` is who held them before: every
read and write then goes to both, so that those who know of the change and those who do not yet
see each other's writes. The next change but one has to wait until all have moved what they had:
then no two members ever are more than one epoch apart.

That is the joint consensus of Raft (Ongaro and Ousterhout, "In Search of an Understandable
Consensus Algorithm", 2014, section 6), with the moving of files in its middle.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sfss.checks import read_address

MEMBERS_LIMIT: Final = 256
"""Members that a cluster may have: each has its word with each once in ``heartbeat_s``."""

_ADDRESS_LIMIT: Final = 255
_EPOCH_LIMIT: Final = 1 << 53
_STORE: Final = re.compile("[0-9a-f]{32}")


class CannotChange(Exception):
    """Raised when a membership cannot be changed like that, or not now; the text says why."""


class Member(NamedTuple):
    """A gateway: the ``address`` at which others reach its store, "host:port", and the name of that
    ``store``, 32 hexadecimal digits: with a disk that was lost another store comes to the address.
    """

    address: str
    store: str


@dataclass(frozen=True, slots=True)
class Membership:
    """The ``members`` of a ``cluster`` as of an ``epoch``, in the order of their addresses. A
    cluster has the name of the store of its first member.

    ``former``: those from before the last change, until all files have moved. ``gone``: the
    addresses of those among them who will not come back. ``empty``: those whose stores were lost,
    and are not believed until they have been filled again.
    """

    cluster: str
    epoch: int
    members: tuple[Member, ...]
    former: tuple[Member, ...] = ()
    gone: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the members."""
        return tuple(member.address for member in self.members)

    @property
    def former_addresses(self) -> tuple[str, ...]:
        """The addresses of those from before the last change."""
        return tuple(member.address for member in self.former)

    @property
    def moves(self) -> bool:
        """Whether files still move after the last change."""
        return bool(self.former)

    @property
    def everybody(self) -> tuple[Member, ...]:
        """All who have to move what they have: members, and former ones that are not gone."""
        known = {
            member.address: member for member in self.former if member.address not in self.gone
        }
        known.update((member.address, member) for member in self.members)
        return tuple(known.values())

    def member(self, address: str) -> Member | None:
        """Return the member at ``address``; None where there is none."""
        return next((each for each in self.members if each.address == address), None)

    def joined(self, newcomer: Member) -> "Membership":
        """Return the next membership, with ``newcomer``, or with its store in place of the one that
        was lost; this one where it belongs to it already. Raises ``CannotChange``.
        """
        present = self.member(newcomer.address)
        if present == newcomer:
            return self
        if present is not None:
            return self._refilled(newcomer)
        if self.moves:
            raise CannotChange("files still move after the last change")
        if len(self.members) >= MEMBERS_LIMIT:
            count = len(self.members)
            raise CannotChange(f"there are {count} members already, as many as there can be")
        return self._next(_sorted([*self.members, newcomer]), self.members)

    def _refilled(self, newcomer: Member) -> "Membership":
        """Return the next membership, with another store at an address that belongs to it. Files
        belong where they did, so that this may be while others move: they wait for this one.
        """
        others = [each for each in self.members if each.address != newcomer.address]
        empty = dict.fromkeys([*self.empty, newcomer.address])
        members, former = _sorted([*others, newcomer]), self.former or self.members
        return self._next(members, former, self.gone, tuple(empty))

    def left(self, address: str) -> "Membership":
        """Return the next membership, without the member at ``address``, which still has to give
        away what it has. Raises ``CannotChange``.
        """
        if self.moves:
            raise CannotChange("files still move after the last change")
        return self._next(self._without(address), self.members)

    def forgotten(self, address: str) -> "Membership":
        """Return the next membership, without the member at ``address``, which will not come back.
        Raises ``CannotChange``.
        """
        if address in self.former_addresses and self.member(address) is None:
            members = self.members  # it was about to leave
        else:
            members = self._without(address)
        former = self.former or self.members
        gone = (*self.gone, address) if address not in self.gone else self.gone
        empty = tuple(each for each in self.empty if each != address)
        return self._next(members, former, gone, empty)

    def settled(self) -> "Membership":
        """Return the next membership: all files have moved."""
        return self._next(self.members)

    def _next(
        self,
        members: tuple[Member, ...],
        former: tuple[Member, ...] = (),
        gone: tuple[str, ...] = (),
        empty: tuple[str, ...] = (),
    ) -> "Membership":
        return Membership(self.cluster, self.epoch + 1, members, former, gone, empty)

    def _without(self, address: str) -> tuple[Member, ...]:
        if self.member(address) is None:
            known = ", ".join(self.addresses)
            raise CannotChange(f"{address} is no member; members are {known}")
        if len(self.members) == 1:
            raise CannotChange(f"{address} is the only member")
        return tuple(each for each in self.members if each.address != address)


def alone(member: Member) -> Membership:
    """Return the membership of one who is the first."""
    return Membership(member.store, 1, (member,))


def as_words(membership: Membership) -> dict[str, Any]:
    """Return ``membership`` as JSON has it."""
    return {
        "cluster": membership.cluster,
        "epoch": membership.epoch,
        "members": [list(member) for member in membership.members],
        "former": [list(member) for member in membership.former],
        "gone": list(membership.gone),
        "empty": list(membership.empty),
    }


def read_words(words: object) -> Membership:
    """Return the membership that ``as_words`` has made these of; raise ``ValueError`` for anything
    else.
    """
    if not isinstance(words, Mapping):
        raise ValueError("a membership is an object")
    cluster, epoch = words.get("cluster"), words.get("epoch")
    if not isinstance(cluster, str) or not _STORE.fullmatch(cluster):
        raise ValueError("a cluster has 32 hexadecimal digits for a name")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 < epoch < _EPOCH_LIMIT:
        raise ValueError("an epoch is a number above 0")
    members = _members(words.get("members"))
    if not members:
        raise ValueError("a membership has members")
    former = _members(words.get("former", []))
    known = {member.address for member in (*members, *former)}
    gone, empty = (_some_of(known, words.get(name, [])) for name in ("gone", "empty"))
    return Membership(cluster, epoch, members, former, gone, empty)


def read_member(words: object) -> Member:
    """Return the member that a list of address and store stands for; raise ``ValueError`` for
    anything else.
    """
    if not isinstance(words, list | tuple) or len(words) != 2:
        raise ValueError("a member is an address and a store")
    address, store = words
    if not isinstance(address, str) or len(address) > _ADDRESS_LIMIT or not read_address(address):
        raise ValueError("the address of a member is host:port")
    if not isinstance(store, str) or not _STORE.fullmatch(store):
        raise ValueError("the store of a member is 32 hexadecimal digits")
    return Member(address, store)


def _members(words: object) -> tuple[Member, ...]:
    if not isinstance(words, list) or len(words) > MEMBERS_LIMIT + 1:
        raise ValueError(f"members are a list of at most {MEMBERS_LIMIT}")
    members = _sorted(read_member(each) for each in words)
    if len({member.address for member in members}) != len(members):
        raise ValueError("each member has an address of its own")
    return members


def _some_of(known: set[str], words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(each in known for each in words):
        raise ValueError("a list of addresses of members is expected")
    return tuple(words)


def _sorted(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members))
