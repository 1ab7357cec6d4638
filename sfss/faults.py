"""What is wrong with the copies of a key, and what can be done about it. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from sfss.agreement import Answer, newest, rank, reason_of
from sfss.record import Head, Kind, described


class Fault(StrEnum):
    """What can be wrong with one copy."""

    MISSING = "missing"
    STALE = "stale"
    DAMAGED = "damaged"
    MISPLACED = "misplaced"
    ORPHAN = "orphan"
    UNKNOWN = "unknown"


MENDABLE: Final = frozenset({Fault.MISSING, Fault.STALE, Fault.DAMAGED})
"""What another copy can mend."""


class Finding(NamedTuple):
    """What is wrong with the copy of ``key`` at one store; ``reason`` is for a person."""

    address: str
    key: bytes
    fault: Fault
    reason: str


def findings(
    key: bytes,
    answers: Sequence[Answer],
    primaries: Collection[str],
    before: int,
    may_lack: str = "",
) -> list[Finding]:
    """Return all that is wrong with the copies of ``key``.

    ``answers`` are of its primaries and of others that may hold it, too. A tombstone older than the
    version ``before`` need not be everywhere: it is about to be reaped. Nor need that of a file
    that has expired: on some stores such a file goes without leaving one. The store ``may_lack``
    need not have anything.
    """
    found = newest(answers)
    head = None if found is None else found.head
    reaping = (
        head is not None
        and head.kind is Kind.TOMBSTONE
        and (head.version < before or head.expiry != 0)
    )
    faults: list[Finding] = []
    for answer in answers:
        fault = _fault(answer, head)
        if answer.address not in primaries and fault is not Fault.UNKNOWN:
            fault = None if answer.says_no else Fault.MISPLACED
        is_right = fault is Fault.MISSING and (reaping or answer.address == may_lack)
        if fault is not None and not is_right:
            faults.append(Finding(answer.address, key, fault, _EXPLAIN[fault](answer, head)))
    return faults


def differ(answers: Sequence[Answer], may_lack: str = "") -> bool:
    """Tell whether some of the stores that answered could be mended from others."""
    found = newest(answers)
    return found is not None and bool(lacking(answers, found.head, may_lack))


def lacking(answers: Iterable[Answer], head: Head, may_lack: str = "") -> list[str]:
    """Return the addresses of those that answered and have not got ``head``: nothing, as far as
    they know, unless they ``may_lack`` it, something older, or something damaged.
    """
    return [
        answer.address
        for answer in answers
        if (answer.is_unsure or _fault(answer, head) in MENDABLE)
        and not (answer.says_no and answer.address == may_lack)
    ]


def is_reapable(answers: Sequence[Answer], head: Head, before: int) -> bool:
    """Tell whether the tombstone ``head`` can be forgotten: it is older than the version
    ``before``, and each store has it or has nothing. ``answers`` are of all stores.
    """
    return (
        head.kind is Kind.TOMBSTONE
        and head.version < before
        and all(_fault(answer, head) in (None, Fault.MISSING) for answer in answers)
    )


def why_kept(copy: Answer, primaries: Sequence[Answer]) -> str | None:
    """Return why ``copy``, on a store that is no primary, must not be removed; None: all of the
    ``primaries`` have what it is, or something newer.
    """
    if copy.failure is not None and not copy.is_damaged:
        return str(copy.failure)
    ranks = []
    for answer in primaries:
        if answer.record is None:
            lacks = _lacks(copy.record.head if copy.record else None)
            return f"store {answer.address}: {reason_of(answer.failure, lacks)}"
        ranks.append(rank(answer.record.head))
        if copy.record is not None and ranks[-1] < rank(copy.record.head):
            return f"store {answer.address}: it has something older"
    if copy.is_damaged and min(ranks) < max(ranks):
        return "it is damaged, and the stores where it belongs do not have the same"
    return None


def _fault(answer: Answer, head: Head | None) -> Fault | None:
    """Return what is wrong with a primary's copy where ``head`` is the newest of all."""
    if answer.failure is not None:
        return Fault.DAMAGED if answer.is_damaged else Fault.UNKNOWN
    if head is None:
        return None
    if answer.record is None:
        return Fault.MISSING
    return Fault.STALE if rank(answer.record.head) < rank(head) else None


def _lacks(head: Head | None) -> str:
    return f"it has not got {'the file' if head is None else described(head)}"


def _explain_stale(answer: Answer, head: Head | None) -> str:
    if answer.record is None or head is None:
        return _lacks(head)
    is_same = answer.record.head.version == head.version
    newer = "another of the same time, which wins" if is_same else described(head)
    return f"it has {described(answer.record.head)}, and not {newer}"


_EXPLAIN: Final[Mapping[Fault, Callable[[Answer, Head | None], str]]] = {
    Fault.MISSING: lambda _, head: _lacks(head),
    Fault.STALE: _explain_stale,
    Fault.DAMAGED: lambda answer, _: reason_of(answer.failure),
    Fault.UNKNOWN: lambda answer, _: f"it cannot be asked: {reason_of(answer.failure)}",
    Fault.MISPLACED: lambda answer, _: "it does not belong on this store",
}
