"""What answers amount to: each decision by itself, and the law that they keep together."""

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.agreement import (
    EVERY_VERSION,
    MICROSECONDS_A_DAY,
    Answer,
    CopiesSettings,
    Debt,
    Quorums,
    Trust,
    Verdict,
    Written,
    decide,
    file_head,
    is_gone,
    is_paid,
    newest,
    newest_seen,
    not_noted,
    presumes_nothing,
    rank,
    refusal,
    stamped,
    tombstone,
    trust,
    unknown,
    unproven,
)
from sfss.errors import (
    Corrupt,
    NoStoreReachable,
    PathTaken,
    QuorumFailed,
    SfssError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.faults import Fault, differ, findings, is_reapable, lacking, why_kept
from sfss.record import VERSION_LIMIT, Kind, Record, new_record, raw_record

KEY = b"k"
THREE = Quorums(3, 2)
DOWN = Unreachable("x", "down", applied=False)
GONE = Unreachable("x", "lost", applied=False, for_good=True)
DAMAGED = Corrupt("x", KEY, "a digest", "another")


def file(version: int, body: bytes = b"body") -> Record:
    """Return a file of a version."""
    return new_record(body, version)


def answers(*found: Record | SfssError | None) -> list[Answer]:
    """Return answers of the stores a, b, c and so on."""
    return [
        Answer(address, failure=each) if isinstance(each, SfssError) else Answer(address, each)
        for address, each in zip("abcdefg", found, strict=False)
    ]


def debts(**owed: tuple[int, int]) -> dict[str, Debt]:
    """Return debts by address: version and acknowledged version."""
    return {address: Debt(address, KEY, *versions) for address, versions in owed.items()}


RANKED = [
    raw_record(b"0").head,
    raw_record(b"1").head,
    file(1, b"x").head,
    file(2, b"x").head,
    tombstone(3).head,
    file(3, b"x").head,
    file(4, b"").head,
    tombstone(4).head,
    file(5).head._replace(metadata={"a": "1"}),
    file(5).head._replace(metadata={"a": "2"}),
    file(5).head._replace(expiry=1),
]


def test_of_two_different_heads_one_is_newer() -> None:
    by_digest = sorted(RANKED, key=lambda head: (head.version, head.digest, head.kind))
    for older, newer in itertools.combinations(by_digest, 2):
        assert rank(older) != rank(newer)
        assert (rank(older) < rank(newer)) or older.version == newer.version
    assert rank(file(4, b"").head) < rank(tombstone(4).head), "the deletion wins"
    assert max(RANKED[:2], key=rank) == max(RANKED[:2], key=lambda head: head.digest)


@given(st.permutations(RANKED))
def test_the_newest_is_the_same_in_every_order(heads: list[object]) -> None:
    records = [Record(head, b"") for head in heads]  # type: ignore[arg-type]
    found = newest(Answer("a", record) for record in records)
    assert found is not None
    assert found.head == RANKED[-1]


@pytest.mark.parametrize(
    ("copies", "write", "noes"),
    [(1, 1, 1), (2, 1, 2), (2, 2, 2), (3, 1, 3), (3, 2, 2), (3, 3, 3), (5, 3, 3), (5, 4, 4)],
)
def test_how_many_noes_are_a_no(copies: int, write: int, noes: int) -> None:
    quorums = Quorums(copies, write)
    assert quorums.noes == noes
    assert quorums.careful() == Quorums(copies, write, noes)


def test_a_majority_is_the_default() -> None:
    found = [CopiesSettings().quorums(copies).write for copies in (1, 2, 3, 4, 5)]
    assert found == [1, 2, 2, 3, 3]
    assert CopiesSettings(write_quorum=3, read_quorum=2).quorums(3) == Quorums(3, 3, 2)
    assert CopiesSettings(read_quorum=2).quorums(1) == Quorums(1, 1, 1)


@pytest.mark.parametrize(
    ("copies", "write", "read"), [(1, 0, 1), (2, 0, 1), (2, 1, 2), (3, 0, 2), (3, 3, 1), (5, 0, 3)]
)
def test_where_not_all_debts_are_known_reads_and_writes_meet(
    copies: int, write: int, read: int
) -> None:
    quorums = CopiesSettings(write_quorum=write, shares_debts=False).quorums(copies)
    assert quorums.read == read
    assert quorums.read + quorums.write == copies + 1
    # No delete can do without a tombstone: a write of somebody else may be on its way.
    assert not is_gone(answers(*[None] * copies), {}, quorums)
    noes = answers(*[None] * read, *[DOWN] * (copies - read))
    assert presumes_nothing(noes, {}, quorums)
    assert not presumes_nothing(noes[1:], {}, quorums)


@pytest.mark.parametrize(
    ("answer", "debt", "expected"),
    [
        (file(5), None, Trust.FULL),
        (None, None, Trust.FULL),
        (file(5), (5, 5), Trust.FULL),
        (file(5), (5, 0), Trust.FULL),
        (file(4), (5, 5), Trust.NONE),
        (file(4), (5, 0), Trust.FAIR),
        (file(4), (6, 4), Trust.FAIR),
        (file(4), (6, 5), Trust.NONE),
        (None, (5, 5), Trust.NONE),
        (None, (5, 0), Trust.FAIR),
        (raw_record(b"x"), (5, 5), Trust.NONE),
        (file(VERSION_LIMIT), (EVERY_VERSION, EVERY_VERSION), Trust.NONE),
        (DOWN, None, Trust.NONE),
        (DAMAGED, None, Trust.NONE),
    ],
)
def test_trust(
    answer: Record | SfssError | None, debt: tuple[int, int] | None, expected: Trust
) -> None:
    (only,) = answers(answer)
    assert trust(only, debt and Debt("a", KEY, *debt)) is expected


UNDECIDED = None
ABSENT = Verdict(None)
OWED = debts(a=(5, 5))


@pytest.mark.parametrize(
    ("found", "owed", "read", "last", "expected"),
    [
        ([], {}, 1, False, UNDECIDED),
        ([file(5)], {}, 1, False, Verdict(file(5))),
        ([tombstone(5)], {}, 1, False, Verdict(tombstone(5))),
        ([None], {}, 1, False, UNDECIDED),
        ([None, None], {}, 1, False, ABSENT),
        ([None, file(5)], {}, 1, False, Verdict(file(5))),
        ([DAMAGED, file(5)], {}, 1, False, Verdict(file(5))),
        ([DOWN, None, None], {}, 1, True, ABSENT),
        ([DOWN, DOWN, None], {}, 1, True, UNDECIDED),
        ([DAMAGED, DOWN, None], {}, 1, True, UNDECIDED),
        ([file(4)], OWED, 1, False, UNDECIDED),
        ([file(4), DOWN, DOWN], OWED, 1, True, UNDECIDED),
        ([file(5)], OWED, 1, False, Verdict(file(5))),
        ([file(4), file(5)], OWED, 1, False, Verdict(file(5))),
        ([None, None], OWED, 1, False, UNDECIDED),
        ([None, None, None], OWED, 1, True, ABSENT),
        ([file(4)], debts(a=(5, 0)), 1, False, UNDECIDED),
        ([file(4), DOWN, DOWN], debts(a=(5, 0)), 1, True, Verdict(file(4))),
        ([None, None, DOWN], debts(a=(5, 0)), 1, True, ABSENT),
        ([file(4)], {}, 2, False, UNDECIDED),
        ([file(4), file(5)], {}, 2, False, Verdict(file(5))),
        ([file(5), None], {}, 2, False, Verdict(file(5))),
        ([file(5), DOWN, DAMAGED], {}, 2, True, UNDECIDED),
        ([GONE, file(5)], {}, 2, False, UNDECIDED),
        ([GONE, file(5), None], {}, 2, True, Verdict(file(5))),
        ([GONE, GONE, file(5)], {}, 2, True, Verdict(file(5))),
        ([GONE, DOWN, file(5)], {}, 2, True, UNDECIDED),
        ([GONE, None, None], {}, 2, True, ABSENT),
        ([GONE, None, DOWN], {}, 2, True, UNDECIDED),
        ([GONE, GONE, None], {}, 2, True, ABSENT),
        ([GONE, GONE, GONE], {}, 2, True, ABSENT),
    ],
)
def test_what_answers_prove(
    found: list[Record | SfssError | None],
    owed: dict[str, Debt],
    read: int,
    last: bool,
    expected: Verdict | None,
) -> None:
    assert decide(answers(*found), owed, Quorums(3, 2, read), last) == expected


def test_where_nothing_is_proven_the_stores_are_named() -> None:
    error = unproven(answers(None, DOWN, DAMAGED), {})
    assert isinstance(error, NoStoreReachable)
    assert set(error.failures) == {"b", "c"}
    error = unproven(answers(file(4), DOWN, DOWN), OWED)
    assert isinstance(error, NoStoreReachable)
    assert error.failures["a"] == "it still lacks a write"


def test_where_all_that_is_there_is_damaged_that_is_said() -> None:
    assert unproven(answers(DAMAGED, None, DAMAGED), {}) is DAMAGED


def test_what_is_lacking() -> None:
    found = answers(file(4), file(5), None, DAMAGED, DOWN)
    assert lacking(found, file(5).head) == ["a", "c", "d"]
    assert differ(found)
    assert not differ(answers(file(5), file(5), DOWN))
    assert not differ(answers(None, DAMAGED))
    assert unknown(found) == {"e": "down"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([None, None, None], True),
        ([None, None], False),
        ([None, None, DOWN], False),
        ([None, None, DAMAGED], False),
        ([tombstone(5), tombstone(5), None], True),
        ([tombstone(5), None, None], False),
        ([tombstone(5), tombstone(4), None], False),
        ([tombstone(5), tombstone(5), file(4)], False),
        ([file(5), file(5), file(5)], False),
    ],
)
def test_when_a_delete_need_not_write(
    found: list[Record | SfssError | None], expected: bool
) -> None:
    assert is_gone(answers(*found), {}, THREE) is expected


def test_a_delete_writes_where_somebody_is_owed_something() -> None:
    assert not is_gone(answers(None, None, None), debts(a=(5, 0)), THREE)


def test_which_tombstones_can_be_forgotten() -> None:
    old = tombstone(5)
    assert is_reapable(answers(old, None, old), old.head, 6)
    assert not is_reapable(answers(old, None, old), old.head, 5)
    assert not is_reapable(answers(old, file(4), old), old.head, 6)
    assert not is_reapable(answers(old, DOWN, old), old.head, 6)
    assert not is_reapable(answers(old, DAMAGED, old), old.head, 6)
    assert not is_reapable(answers(file(5)), file(5).head, 6)


def test_stamps() -> None:
    assert stamped(file(5), None) == file(5)
    assert stamped(file(5), file(4).head) == file(5)
    assert stamped(file(5), file(5).head) == file(6)
    assert stamped(file(5), file(VERSION_LIMIT).head) == file(VERSION_LIMIT)


def test_what_a_guard_hears_of() -> None:
    assert file_head(None) is None
    assert file_head(tombstone(1).head) is None
    assert file_head(file(1).head) == file(1).head


def test_what_a_write_came_upon() -> None:
    assert newest_seen([Written("a"), Written("b", failure=DOWN)]) is None
    seen = [Written("a", file(6).head), Written("b", file(7).head), Written("c")]
    assert newest_seen(seen) == file(7).head


def test_a_refused_write_says_what_is_known() -> None:
    lost = Unreachable("b", "no answer", applied=None)
    error = refusal([Written("a"), Written("b", failure=lost), Written("c", failure=DOWN)], 2)
    assert isinstance(error, QuorumFailed)
    assert (error.wanted, error.got, error.indeterminate) == (2, 1, True)
    assert str(error) == (
        "1 of the 2 stores that it needs have kept the change; it may or may not be seen:"
        " b (no answer), c (down)"
    )
    error = refusal([Written("a", failure=DOWN), Written("b", failure=StoreFull("b", "full"))], 2)
    assert isinstance(error, QuorumFailed)
    assert (error.got, error.indeterminate) == (0, False)
    assert "may or may not" not in str(error)


def test_when_all_stores_say_the_same_so_does_the_refusal() -> None:
    full = [Written("a", failure=StoreFull("a", "x")), Written("b", failure=StoreFull("b", "x"))]
    assert isinstance(refusal(full, 2), StoreFull)
    lost = StoreFull("c", "x", former_lost=True)
    assert refusal([*full, Written("c", failure=lost)], 2) is lost
    large = TooLarge(10, 5, "a")
    assert refusal([Written("a", failure=large)], 1) is large
    taken = [Written(name, failure=PathTaken(name, "k", "x")) for name in "ab"]
    assert isinstance(refusal(taken, 2), PathTaken)
    mixed = [*taken, Written("c", failure=DOWN)]
    assert isinstance(refusal(mixed, 2), QuorumFailed)


def test_a_write_that_could_not_be_noted() -> None:
    error = not_noted([Written("a"), Written("b", failure=DOWN)], 1, "list", StoreFull("l", "full"))
    assert (error.wanted, error.got, error.indeterminate) == (1, 1, True)
    assert set(error.failures) == {"b", "list"}


def test_findings() -> None:
    now = 20 * MICROSECONDS_A_DAY
    found = findings(KEY, answers(file(4), file(5), None, DAMAGED, DOWN, file(5)), "abcde", now)
    assert [(each.address, each.fault) for each in found] == [
        ("a", Fault.STALE),
        ("c", Fault.MISSING),
        ("d", Fault.DAMAGED),
        ("e", Fault.UNKNOWN),
        ("f", Fault.MISPLACED),
    ]
    assert all(each.key == KEY and each.reason for each in found)
    assert findings(KEY, answers(file(5), file(5), None), "ab", now) == []
    assert findings(KEY, answers(None, None), "ab", now) == []


def test_what_is_wrong_is_said_in_sentences_without_the_name_of_the_store() -> None:
    old, new, gone = file(1), file(2), tombstone(3)
    since = "1970-01-01 00:00:00.00000"
    said = [
        each.reason for each in findings(KEY, answers(old, None, new, DAMAGED, DOWN), "abcde", 0)
    ]
    assert said == [
        f"it has the file of {since}1 UTC, and not the file of {since}2 UTC",
        f"it has not got the file of {since}2 UTC",
        "it is damaged: expected a digest, found another",
        "it cannot be asked: down",
    ]
    said = [each.reason for each in findings(KEY, answers(new, None, gone), "abc", 0)]
    assert said == [
        f"it has the file of {since}2 UTC, and not the deletion of {since}3 UTC",
        f"it has not got the deletion of {since}3 UTC",
    ]
    (tie,) = findings(KEY, answers(file(2, b"one"), file(2, b"two")), "ab", 0)
    assert tie.reason.endswith(", and not another of the same time, which wins")


def test_of_a_store_that_cannot_be_asked_nobody_knows_whether_it_has_a_misplaced_copy() -> None:
    found = findings(KEY, answers(file(5), DOWN, DAMAGED), "a", 0)
    assert [each.fault for each in found] == [Fault.UNKNOWN, Fault.MISPLACED]


@pytest.mark.parametrize(
    ("copy", "primaries", "may_go"),
    [
        (file(5), (file(5), file(5)), True),
        (file(5), (file(6), file(7)), True),
        (file(5), (tombstone(6), tombstone(6)), True),
        (file(5), (file(5), file(4)), False),
        (file(5), (file(5), None), False),
        (file(5), (file(5), DAMAGED), False),
        (file(5), (file(5), DOWN), False),
        (file(5, b"1"), (file(5, b"1"), file(5, b"2")), False),
        (raw_record(b"x"), (file(1), file(1)), True),
        (DAMAGED, (file(5), file(5)), True),
        (DAMAGED, (file(5), file(6)), False),
        (DAMAGED, (file(5), None), False),
        (DOWN, (file(5), file(5)), False),
    ],
)
def test_a_misplaced_copy_stays_until_all_primaries_have_it(
    copy: Record | SfssError, primaries: tuple[Record | SfssError | None, ...], may_go: bool
) -> None:
    if copy == file(5, b"1") and rank(file(5, b"1").head) < rank(file(5, b"2").head):
        may_go = True  # of the same version, the other wins
    asked, *theirs = answers(copy, *primaries)
    assert (why_kept(asked, theirs) is None) is may_go


def test_of_two_writes_with_one_version_the_one_that_lost_is_not_what_is_owed() -> None:
    older, newer = sorted((file(5, b"1"), file(5, b"2")), key=lambda record: rank(record.head))
    for acknowledged in (0, 5):
        debt = Debt("a", KEY, 5, acknowledged, newer.head.digest)
        assert is_paid(newer.head, debt)
        assert not is_paid(older.head, debt)
        lacking_it = trust(Answer("a", older), debt)
        assert lacking_it is (Trust.NONE if acknowledged else Trust.FAIR)
        assert trust(Answer("a", newer), debt) is Trust.FULL


def test_a_tombstone_that_is_about_to_be_reaped_need_not_be_everywhere() -> None:
    old = tombstone(5)
    assert findings(KEY, answers(old, None), "ab", 6) == []
    assert [each.fault for each in findings(KEY, answers(old, None), "ab", 5)] == [Fault.MISSING]
    assert [each.fault for each in findings(KEY, answers(old, file(4)), "ab", 6)] == [Fault.STALE]


@dataclass
class World:
    """Stores, what they are owed, and what was acknowledged last, told in versions."""

    quorums: Quorums
    has: dict[str, Record | SfssError | None] = field(default_factory=dict)
    owed: dict[str, Debt] = field(default_factory=dict)
    acknowledged: int = 0

    def write(self, record: Record, confirmed: set[str]) -> None:
        """Write as the engine does, with answers of ``confirmed`` only."""
        version = record.head.version
        is_kept = len(confirmed) >= self.quorums.write
        if is_kept:
            self.acknowledged = version
        for address in self.has:
            if address in confirmed:
                self.has[address] = record
            elif confirmed:
                old = self.owed.get(address)
                known = version if is_kept else old.acknowledged if old else 0
                self.owed[address] = Debt(address, KEY, version, known)

    def settle(self, address: str) -> None:
        """Strike off what the store has got."""
        record, debt = self.has[address], self.owed.get(address)
        if isinstance(record, Record) and debt and record.head.version >= debt.version:
            del self.owed[address]

    def read(self, order: list[str]) -> Verdict | None:
        """Ask in ``order`` until something is proven."""
        found: list[Answer] = []
        for address in order:
            found += [answer._replace(address=address) for answer in answers(self.has[address])]
            verdict = decide(found, self.owed, self.quorums, len(found) == len(order))
            if verdict is not None:
                return verdict
        return None


@given(st.integers(1, 5), st.data(), st.randoms(use_true_random=False))
def test_no_acknowledged_write_is_missed(
    copies: int, choose: st.DataObject, dice: random.Random
) -> None:
    """As ``copies`` says it: fewer than W stores have lost something, any number are down."""
    write = choose.draw(st.integers(1, copies), "write quorum")
    world = World(Quorums(copies, write), dict.fromkeys("abcde"[:copies]))
    addresses = list(world.has)
    for version in range(1, choose.draw(st.integers(0, 5), "writes") + 1):
        record = tombstone(version) if dice.random() < 0.3 else file(version)
        world.write(record, set(choose.draw(st.sets(st.sampled_from(addresses)), "confirmed")))
        for address in addresses:
            if dice.random() < 0.5:
                world.settle(address)
    lost = choose.draw(st.sets(st.sampled_from(addresses), max_size=write - 1), "lost")
    down = choose.draw(st.sets(st.sampled_from(addresses)), "down")
    for address in lost:
        world.has[address] = DAMAGED if dice.random() < 0.5 else None
    for address in down:
        world.has[address] = DOWN
    verdict = world.read(dice.sample(addresses, copies))
    if verdict is None:
        assert lost or len(down) > min(copies - write, write - 1), "it could have been proven"
    elif world.acknowledged:
        assert verdict.record is not None, "nothing is there"
        assert verdict.record.head.version >= world.acknowledged, "it is stale"
        assert verdict.record.head.kind in Kind
