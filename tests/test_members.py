"""Memberships, their changes, and what is read of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.ballots import NO_BALLOT, Ballot, Vote, majority, read_vote, to_propose, vote_as_words
from sfss.member_state import State, read_state, state_as_words
from sfss.member_talk import BadWord, question, read_question, read_reply, reply
from sfss.members import (
    MEMBERS_LIMIT,
    CannotChange,
    Member,
    Membership,
    alone,
    as_words,
    read_words,
)

A, B, C = (Member(f"{name}:1", name * 32) for name in "abc")
NEW_B = Member("b:1", "0" * 32)
THREE = Membership(A.store, 5, (A, B, C))


def test_who_joins_is_a_member_and_former_ones_stay_until_files_have_moved() -> None:
    two = alone(A).joined(B)
    assert two == Membership(A.store, 2, (A, B), (A,))
    assert two.moves
    assert two.settled() == Membership(A.store, 3, (A, B))
    assert two.settled().joined(B) == two.settled()
    with pytest.raises(CannotChange, match="files still move"):
        two.joined(C)
    assert two.joined(B) == two  # it is asked for again, as the answer was lost


def test_who_leaves_has_to_give_away_what_it_has() -> None:
    less = THREE.left("b:1")
    assert less == Membership(A.store, 6, (A, C), THREE.members)
    assert set(less.everybody) == {A, B, C}
    with pytest.raises(CannotChange, match="z:1 is no member; members are a:1, b:1, c:1"):
        THREE.left("z:1")
    with pytest.raises(CannotChange, match="a:1 is the only member"):
        alone(A).left("a:1")


def test_who_is_forgotten_is_not_waited_for() -> None:
    less = THREE.forgotten("b:1")
    assert less == Membership(A.store, 6, (A, C), THREE.members, ("b:1",))
    assert less.everybody == (A, C)
    assert less.settled().members == (A, C)


def test_one_that_was_leaving_can_be_forgotten() -> None:
    less = THREE.left("b:1").forgotten("b:1")
    assert less == Membership(A.store, 7, (A, C), THREE.members, ("b:1",))


def test_another_may_be_lost_while_files_move() -> None:
    less = THREE.left("b:1").forgotten("c:1")
    assert less == Membership(A.store, 7, (A,), THREE.members, ("c:1",))
    assert set(less.everybody) == {A, B}


def test_an_empty_store_in_place_of_one_that_was_lost_is_not_believed() -> None:
    filling = THREE.joined(NEW_B)
    assert filling == Membership(A.store, 6, (A, NEW_B, C), THREE.members, (), ("b:1",))
    assert filling.everybody == (A, NEW_B, C)
    assert filling.settled().empty == ()
    assert filling.forgotten("b:1").empty == ()


def test_a_store_may_be_lost_while_files_move() -> None:
    moving = THREE.left("c:1")
    filling = moving.joined(NEW_B)
    assert filling == Membership(A.store, 7, (A, NEW_B), THREE.members, (), ("b:1",))
    assert filling.joined(NEW_B) == filling
    with pytest.raises(CannotChange, match="files still move"):
        moving.joined(Member("c:1", "0" * 32))


def test_there_is_an_end_to_how_many_can_join() -> None:
    many = tuple(Member(f"m{number:03}:1", f"{number:032x}") for number in range(MEMBERS_LIMIT))
    with pytest.raises(CannotChange, match="as many as there can be"):
        Membership(many[0].store, 9, many).joined(A)


@pytest.mark.parametrize(
    "membership", [alone(A), THREE, THREE.joined(NEW_B), THREE.left("c:1").forgotten("a:1")]
)
def test_what_is_written_is_read(membership: Membership) -> None:
    vote = Vote(7, Ballot(3, "a:1"), Ballot(2, "b:1"), membership)
    state = State(A.store, membership, vote, 4, written_alone=True, left=True)
    for words in (state_as_words(state), json.loads(json.dumps(state_as_words(state)))):
        assert read_state(words) == state
    assert read_vote(vote_as_words(vote)) == vote
    asked = read_question(question("tag", "beat", A, state), "tag")
    assert (asked.ask, asked.member, asked.membership) == ("beat", A, membership)
    answered = read_reply(reply("tag", B, state, adopted=2, moved=1, refused="no"), "tag")
    assert (answered.member, answered.membership) == (B, membership)
    assert (answered.adopted, answered.moved, answered.refused) == (2, 1, "no")


WRONG = {
    "no object": [],
    "no cluster": {**as_words(THREE), "cluster": "x"},
    "no epoch": {**as_words(THREE), "epoch": 0},
    "an epoch that is none": {**as_words(THREE), "epoch": True},
    "no members": {**as_words(THREE), "members": []},
    "no list of members": {**as_words(THREE), "members": {"a:1": A.store}},
    "an address twice": {**as_words(THREE), "members": [list(B), list(NEW_B)]},
    "no address": {**as_words(THREE), "members": [["a", A.store]]},
    "a long address": {**as_words(THREE), "members": [["a" * 300 + ":1", A.store]]},
    "no store": {**as_words(THREE), "members": [["a:1", "store"]]},
    "a stranger gone": {**as_words(THREE), "gone": ["z:1"]},
    "a stranger empty": {**as_words(THREE), "empty": [7]},
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_what_is_no_membership_is_refused(words: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_words(words)
    text = json.dumps({"tag": "t", "ask": "beat", "from": list(A), "membership": words})
    with pytest.raises(BadWord, match="not understood"):
        read_question(text.encode(), "t")


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_no_bytes_are_misunderstood(text: bytes) -> None:
    for read in (read_question, read_reply):
        with pytest.raises(BadWord):
            read(text, "tag")


def test_deep_json_is_refused() -> None:
    with pytest.raises(BadWord):
        read_question(b"[" * 100_000, "tag")


def test_a_promise_is_kept() -> None:
    low, high = Ballot(1, "b:1"), Ballot(2, "a:1")
    vote = Vote(6).promise(high)
    assert vote is not None
    assert vote.promise(low) is None
    assert vote.accept(low, THREE.left("a:1")) is None
    assert vote.promise(high) == vote
    accepted = vote.accept(high, THREE.left("a:1"))
    assert accepted == Vote(6, high, high, THREE.left("a:1"))
    assert vote.accept(high, THREE.left("a:1").settled()) is None  # of another epoch


def test_what_may_have_been_decided_is_proposed_again() -> None:
    older, newer = THREE.left("a:1"), THREE.left("b:1")
    votes = [
        Vote(6, Ballot(3, "c:1")),
        Vote(6, Ballot(3, "c:1"), Ballot(1, "a:1"), older),
        Vote(6, Ballot(3, "c:1"), Ballot(2, "b:1"), newer),
    ]
    assert to_propose(votes, THREE.left("c:1")) == newer
    assert to_propose(votes[:1], THREE.left("c:1")) == THREE.left("c:1")
    assert Vote(6).accepted_in == NO_BALLOT


def test_a_majority_is_more_than_half() -> None:
    assert [majority(members) for members in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
