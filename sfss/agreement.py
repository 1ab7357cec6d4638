"""What the answers of several stores that hold the same key amount to. Pure.

How it is kept that a read never misses an acknowledged write, with N copies and a write quorum of
W: when a write is acknowledged, each of the N stores has either confirmed it or is owed it
(``Debt``), and at least W have confirmed it. So a store that is owed nothing can be believed by
itself, unless it has lost something: "I have nothing" counts only from ``Quorums.noes`` stores, and
what is damaged counts for nothing at all.

Which record is newer, ``rank`` says, and nothing else does: everywhere, in every order, the same
record wins.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from sfss.errors import (
    CannotTell,
    Corrupt,
    NoStoreReachable,
    QuorumFailed,
    RequestError,
    SfssError,
    StoreError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.record import (
    VERSION_LIMIT,
    Head,
    Kind,
    Record,
    digest_of,
    expired_tombstone,
    has_expired,
)

MICROSECONDS_A_DAY: Final = 86_400 * 1_000_000

EVERY_VERSION: Final = VERSION_LIMIT + 1
"""As the version of a debt: nothing that the store has is new enough."""


@dataclass(frozen=True, slots=True)
class CopiesSettings:
    """How many stores have to agree, and how long they are waited for.

    ``write_quorum`` 0 is a majority. ``shares_debts`` False: other gateways write the same
    stores, and what they know to be owed is not known here; so many stores answer each read
    that one of them has confirmed whatever was acknowledged. ``read_quorum`` may ask for more.
    ``read_mode``: ``first`` asks the stores in their order, ``random`` in any, ``fastest``
    first the one that is the first to say that it has the file, ``local`` the first and then
    the others in turn. ``head_timeout_ms``: a store that has not answered a read by then is not
    waited for alone, the next is asked as well. ``first_decides``: a write is kept only if the
    first store has it, and folders are shown as that one has them. ``least_copies``: of any
    file. ``straggler_ms``: a write that has its quorum waits for the other stores only so much
    longer, counted from then; what they have not confirmed is noted as owed. ``gone``: the stores
    that will never be back.

    ``may_lack``: the first store, if files are removed from it that the others have: that it has
    nothing is no fault, and nothing is brought to it but what a read has found elsewhere, if it
    ``keeps_fetched``. ``around``: writes go to the others only, and what it has is removed.
    """

    write_quorum: int = 0
    read_quorum: int = 1
    read_mode: str = "first"
    head_timeout_ms: int = 100
    straggler_ms: int = 50
    cooling_s: float = 2.0
    tombstone_days: float = 10.0
    pay_every_s: float = 1.0
    background_bytes: int = 64 * 1024 * 1024
    heals_at_once: int = 4
    first_decides: bool = False
    least_copies: int = 1
    shares_debts: bool = True
    gone: frozenset[str] = frozenset()
    may_lack: str = ""
    keeps_fetched: bool = True
    around: bool = False

    @property
    def least_quorum(self) -> int:
        """How many stores at least have confirmed a write, whatever its path is."""
        return self.quorums(self.least_copies).write

    def quorums(self, copies: int) -> "Quorums":
        """Return what is asked of ``copies`` stores."""
        # Of some keys there may be fewer copies than of others.
        write, read = self.write_quorum or copies // 2 + 1, self.read_quorum
        write, read = min(write, copies), min(read, copies)
        if not self.shares_debts:
            read = max(read, copies - write + 1)
        return Quorums(copies, write, read, self.shares_debts)


@dataclass(frozen=True, slots=True)
class Quorums:
    """How many of ``copies`` stores must confirm a ``write``, how many answer a ``read``;
    and whether all debts are known, see ``CopiesSettings``.
    """

    copies: int
    write: int
    read: int = 1
    shares_debts: bool = True

    @property
    def noes(self) -> int:
        """How many stores must say "nothing" until there is nothing.

        More than could have missed an acknowledged write, and, where a majority confirms writes, so
        many that as many stores as had confirmed one would have to have lost it: N=3 W=2 gives 2,
        N=3 W=3 gives 3, although one store would know.
        """
        return min(self.copies, max(self.write, self.copies - self.write + 1, self.read))

    def careful(self) -> "Quorums":
        """Return the same, with reads that need no knowledge of debts to see what is newest."""
        return replace(self, read=self.noes)


class Answer(NamedTuple):
    """What one store says of a key: a record; that it has nothing (neither record nor failure); or
    why it cannot tell.
    """

    address: str
    record: Record | None = None
    failure: SfssError | None = None

    @property
    def says_no(self) -> bool:
        """Whether the store has said that it has nothing."""
        return self.record is None and self.failure is None

    @property
    def is_damaged(self) -> bool:
        """Whether the store has something, but not what was stored."""
        return isinstance(self.failure, Corrupt)

    @property
    def is_gone(self) -> bool:
        """Whether the store will never answer again."""
        return isinstance(self.failure, Unreachable) and self.failure.for_good

    @property
    def is_unsure(self) -> bool:
        """Whether the store, which has nothing itself, could not ask those behind it."""
        return isinstance(self.failure, CannotTell)


class Debt(NamedTuple):
    """That a store has not confirmed the write of ``version`` under ``key``.

    ``acknowledged`` is the newest version owed whose writer was told that it is kept; 0: none of
    them was. With ``EVERY_VERSION`` nothing is known of what the store has missed. ``digest`` is
    that of the body owed: of two writes with one version, the store may have the one that loses.
    ``expiry`` is that of the file owed, 0 never.
    """

    address: str
    key: bytes
    version: int
    acknowledged: int = 0
    digest: bytes = b""
    expiry: int = 0


class Owing(NamedTuple):
    """How many ``writes`` stores still have to get, and which have missed more than was noted: they
    are asked last until they were repaired.
    """

    writes: int = 0
    needs_repair: Sequence[str] = ()


class Health(NamedTuple):
    """Why stores do not answer, by address ("" of those that do), and what is ``lacking`` until
    files can be read and written ("": nothing).
    """

    stores: Mapping[str, str]
    lacking: str = ""

    @property
    def up(self) -> list[str]:
        """The addresses of the stores that answer."""
        return [address for address, why in self.stores.items() if not why]


Debts: TypeAlias = Mapping[str, Debt]
"""What stores are owed of one key, by address."""


class Written(NamedTuple):
    """What became of a write at one store: kept; not needed, for it has something ``newer``; or
    failed, perhaps because the store was not ``asked``. One that is written around was not asked
    and has not failed.
    """

    address: str
    newer: Head | None = None
    failure: SfssError | None = None
    asked: bool = True

    @property
    def maybe(self) -> bool:
        """Whether the store may have kept it, though it failed."""
        return isinstance(self.failure, Unreachable) and self.failure.applied is None


class Kept(NamedTuple):
    """A write that is kept: the ``head`` of the record, and what became of it at each store, where
    there are several.
    """

    head: Head
    written: Sequence[Written] = ()


class Trust(IntEnum):
    """How far an answer can be believed."""

    NONE = 0
    """It failed, is damaged, or lacks a write that was acknowledged."""
    FAIR = 1
    """It has all that was acknowledged; it may lack a write that was refused as not kept."""
    FULL = 2
    """It has all."""


class Verdict(NamedTuple):
    """What a read has found; None: nothing, for certain. A tombstone says so as well."""

    record: Record | None


def rank(head: Head) -> tuple[object, ...]:
    """Return what orders heads: the newer one's is greater.

    Ties are broken by digest, and then by all the rest: of two different records one always wins.
    A raw body, whose version is 0, loses to every record. The tombstone of a file that has expired
    wins against that file, whatever its kind is.
    """
    rest = (head.kind, head.expiry, sorted(head.metadata.items()))
    return head.version, head.digest, head.kind is Kind.TOMBSTONE, *rest


def newest(answers: Iterable[Answer]) -> Record | None:
    """Return the newest record, tombstones included; None where no store has one."""
    records = [answer.record for answer in answers if answer.record is not None]
    return max(records, key=lambda record: rank(record.head), default=None)


def to_be_had(answers: Iterable[Answer], debts: Debts, now_us: int) -> Record | None:
    """Return what all stores are to have: the newest record that any of them has or, where that
    file has expired, its tombstone; None where no store has one.

    A file that is owed and has expired counts, too, if it was acknowledged: its copies may have
    gone by themselves, and what the store has that is owed it is older.
    """
    found = newest(answers)
    heads = [] if found is None else [found.head]
    for debt in debts.values():
        if debt.acknowledged >= debt.version:
            heads.append(Head(debt.version, 0, debt.digest, expiry=debt.expiry))
    gone = [expired_tombstone(head) for head in heads if has_expired(head, now_us)]
    known = gone if found is None else [found, *gone]
    return max(known, key=lambda record: rank(record.head), default=None)


def without_expired(answers: Iterable[Answer], now_us: int) -> list[Answer]:
    """Return ``answers`` as if each file that has expired were a tombstone already."""
    return [
        answer._replace(record=expired_tombstone(answer.record.head))
        if answer.record is not None and has_expired(answer.record.head, now_us)
        else answer
        for answer in answers
    ]


def trust(answer: Answer, debt: Debt | None) -> Trust:
    """Return how far ``answer`` can be believed of a store that is owed ``debt``."""
    if answer.failure is not None:
        return Trust.NONE
    head = None if answer.record is None else answer.record.head
    if debt is None or is_paid(head, debt):
        return Trust.FULL
    acknowledged = debt
    if debt.acknowledged < debt.version:
        acknowledged = debt._replace(version=debt.acknowledged, digest=b"")
    return Trust.FAIR if is_paid(head, acknowledged) else Trust.NONE


def is_paid(head: Head | None, debt: Debt) -> bool:
    """Tell whether a store that has ``head`` (None: nothing) has what it is owed, or something
    newer.
    """
    version, digest = (0, b"") if head is None else (head.version, head.digest)
    return (version, digest) >= (debt.version, debt.digest)


def decide(answers: Sequence[Answer], debts: Debts, quorums: Quorums, last: bool) -> Verdict | None:
    """Return what ``answers`` prove, or None as long as more have to be asked.

    ``last``: there are no more. Then a store that is as good as any, as far as acknowledged writes
    go, is believed too.
    """
    least = Trust.FAIR if last else Trust.FULL
    trusted = [answer for answer in answers if trust(answer, debts.get(answer.address)) >= least]
    found = newest(trusted)
    # More than all of those that are left cannot be asked for.
    left = quorums.copies - sum(answer.is_gone for answer in answers)
    if found is not None and len(trusted) >= min(quorums.read, left):
        return Verdict(found)
    noes = sum(answer.says_no for answer in trusted)
    is_all = len(answers) == quorums.copies
    all_say_no = is_all and all(answer.says_no or answer.is_gone for answer in answers)
    return Verdict(None) if noes >= min(quorums.noes, left) or all_say_no else None


def presumes_nothing(answers: Sequence[Answer], debts: Debts, quorums: Quorums) -> bool:
    """Tell whether there is nothing that was acknowledged, unless as many stores as had confirmed
    it have lost it; where not all debts are known, unless one store has.
    """
    trusted = [each for each in answers if trust(each, debts.get(each.address)) is Trust.FULL]
    wanted = quorums.write if quorums.shares_debts else quorums.read
    return len(trusted) >= wanted and all(each.says_no for each in trusted)


def unproven(answers: Sequence[Answer], debts: Debts) -> StoreError:
    """Return the error for a read of which all answers together prove nothing."""
    reasons: dict[str, str] = {}
    damaged: list[Corrupt] = []
    for answer in answers:
        if isinstance(answer.failure, Corrupt):  # not is_damaged: for the type
            damaged.append(answer.failure)
        if trust(answer, debts.get(answer.address)) < Trust.FAIR:
            reasons[answer.address] = reason_of(answer.failure)
    if damaged and len(damaged) == len(reasons):
        return damaged[0]
    return NoStoreReachable(reasons)


def reason_of(failure: SfssError | None, otherwise: str = "it still lacks a write") -> str:
    """Return why a store, named before, is not believed; without a ``failure``, ``otherwise``."""
    if failure is None:
        return otherwise
    if isinstance(failure, Corrupt):
        return f"it is damaged: {failure.damage}"
    return failure.reason if isinstance(failure, Unreachable) else str(failure)


def failures(outcomes: Iterable[Answer | Written]) -> dict[str, str]:
    """Return the stores without a sound answer, or that have not kept a write, with the reasons."""
    return {each.address: reason_of(each.failure) for each in outcomes if each.failure is not None}


def unknown(answers: Iterable[Answer]) -> dict[str, str]:
    """Return the stores that could not be asked now, with the reasons."""
    asked = (answer for answer in answers if not answer.is_damaged)
    return failures(answer for answer in asked if not answer.is_gone)


def is_gone(answers: Sequence[Answer], debts: Debts, quorums: Quorums) -> bool:
    """Tell whether a key needs no tombstone: all stores have nothing, or a quorum has the tombstone
    already, and none has a file that could come back.

    That cannot be told where not all debts are known: a write that another gateway has given up may
    be on its way to a store yet.
    """
    if not quorums.shares_debts or len(answers) < quorums.copies:
        return False
    if any(trust(answer, debts.get(answer.address)) < Trust.FULL for answer in answers):
        return False
    found = newest(answers)
    if found is None:
        return True
    having = [answer.record for answer in answers if answer.record is not None]
    kinds = {record.head.kind for record in having}
    same = sum(rank(record.head) == rank(found.head) for record in having)
    return kinds == {Kind.TOMBSTONE} and same >= quorums.write


def tombstone(version: int) -> Record:
    """Return the record that says: deleted."""
    return Record(Head(version, 0, digest_of(b""), Kind.TOMBSTONE), b"")


def stamped(record: Record, above: Head | None) -> Record:
    """Return ``record``, with a version above that of ``above`` if it had none."""
    if above is None or record.head.version > above.version:
        return record
    version = min(above.version + 1, VERSION_LIMIT)
    return record._replace(head=record.head._replace(version=version))


def file_head(head: Head | None) -> Head | None:
    """Return ``head`` if it is a file's: a guard is not to hear of tombstones."""
    return head if head is not None and head.kind is not Kind.TOMBSTONE else None


def newest_seen(written: Iterable[Written]) -> Head | None:
    """Return the newest head that a write has come upon instead of replacing it."""
    return max((each.newer for each in written if each.newer is not None), key=rank, default=None)


def refusal(written: Sequence[Written], wanted: int) -> SfssError:
    """Return the error for a write that fewer than ``wanted`` stores have kept."""
    failed = [each.failure for each in written if each.failure is not None]
    for kind in (TooLarge, StoreFull):
        alike = [each for each in failed if isinstance(each, kind)]
        if len(alike) == len(written):
            return max(alike, key=lambda each: each.former_lost)
    if len(failed) == len(written) and all(isinstance(each, RequestError) for each in failed):
        return failed[0]
    got = len(written) - len(failed)
    return QuorumFailed(wanted, got, failures(written), any(each.maybe for each in written))


def left_nothing(error: Exception) -> bool:
    """Tell whether a write that failed with ``error`` has certainly left nothing behind."""
    if isinstance(error, QuorumFailed):
        return not error.got and not error.indeterminate
    if isinstance(error, NoStoreReachable):
        return not error.indeterminate
    if isinstance(error, Unreachable):
        return error.applied is False
    return isinstance(error, StoreFull) or not isinstance(error, StoreError)


def not_noted(
    written: Sequence[Written], wanted: int, address: str, error: SfssError
) -> QuorumFailed:
    """Return the error for a write where ``address``, the list of debts, failed with ``error``."""
    reasons = failures(written)
    reasons[address] = f"what the others lack cannot be noted: {reason_of(error)}"
    got = sum(each.failure is None for each in written)
    return QuorumFailed(wanted, got, reasons, indeterminate=True)
