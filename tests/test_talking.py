"""Members that agree on a membership, while messages are lost and members restart."""

import asyncio
import fcntl
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfss.errors import Unreachable
from sfss.member_files import Epochs, StateFile
from sfss.member_talk import BadWord
from sfss.members import CannotChange, Member, Membership
from sfss.talking import NotAgreed, Talk, TalkOptions
from tests.virtual_time import VirtualLoop


class Net:
    """Members in folders of their own that ask each other, as far as they are not cut off."""

    def __init__(self, folder: Path, tag: str = "test") -> None:
        self._folder, self._tag = folder, tag
        self.talks: dict[str, Talk] = {}
        self.lost: Callable[[str, str], bool] = lambda asker, asked: False
        self.decided: dict[tuple[str, int], set[Membership]] = {}

    def start(self, address: str, join: tuple[str, ...] = (), folder: str = "") -> Talk:
        """Start the member at ``address``, again if it was there, with what it has on its disk."""
        own = self._folder / (folder or address.replace(":", "-"))
        options = TalkOptions(address, self._tag, join)

        async def ask(asked: str, payload: bytes) -> bytes:
            await asyncio.sleep(0)
            if self.lost(address, asked) or asked not in self.talks:
                raise Unreachable(asked, "cut off", applied=False)
            answer = await self.talks[asked].answer(payload)
            await asyncio.sleep(0)
            if self.lost(asked, address):
                raise Unreachable(asked, "cut off", applied=None)
            return answer

        self.talks[address] = Talk(StateFile(own), Epochs(own), options, ask)
        return self.talks[address]

    def note(self) -> None:
        """Remember every membership that any member has taken for agreed."""
        for talk in self.talks.values():
            if (membership := talk.state.membership) is not None:
                place = (membership.cluster, membership.epoch)
                self.decided.setdefault(place, set()).add(membership)


def addresses(net: Net) -> dict[str, tuple[str, ...]]:
    """Return whom each member takes for members."""
    found = {}
    for address, talk in net.talks.items():
        membership = talk.state.membership
        found[address] = () if membership is None else membership.addresses
    return found


async def begin(talk: Talk) -> None:
    """Have a member begin a cluster."""
    await talk.begin()
    await talk.found()


async def beats(net: Net) -> None:
    """Have everybody hear of everybody, and have all files moved."""
    for talk in list(net.talks.values()):
        for other in net.talks:
            if other != talk.member.address:
                await talk.ask(other, "beat")
    for talk in net.talks.values():
        await talk.has_moved(talk.state.epoch)


async def three(folder: Path) -> Net:
    """Return three members of one cluster, settled."""
    net = Net(folder)
    await begin(net.start("a:1"))
    await beats(net)
    for address in ("b:1", "c:1"):
        newcomer = net.start(address, ("a:1",))
        assert not (await newcomer.ask("a:1", "join")).refused
        await net.talks["a:1"].change(lambda now: now.settled())
        await beats(net)
    return net


async def test_members_learn_of_each_other_from_any_one(tmp_path: Path) -> None:
    net = await three(tmp_path)
    assert addresses(net) == dict.fromkeys(("a:1", "b:1", "c:1"), ("a:1", "b:1", "c:1"))
    membership = net.talks["c:1"].state.membership
    assert membership is not None
    assert membership.epoch == 5
    assert not membership.moves


async def test_a_change_waits_for_the_end_of_the_last(tmp_path: Path) -> None:
    net = await three(tmp_path)
    assert not (await net.start("d:1", ("b:1",)).ask("b:1", "join")).refused
    newcomer = net.start("e:1", ("c:1",))
    assert (await newcomer.ask("c:1", "join")).refused == "files still move after the last change"
    await net.talks["a:1"].change(lambda now: now.settled())
    refused = (await newcomer.ask("c:1", "join")).refused
    assert refused == "c:1 still moves files after the last change"
    await beats(net)
    assert not (await newcomer.ask("c:1", "join")).refused


async def test_members_join_and_leave_only_while_all_are_there(tmp_path: Path) -> None:
    net = await three(tmp_path)
    del net.talks["b:1"]
    refused = (await net.start("d:1", ("a:1",)).ask("a:1", "join")).refused
    assert refused == "b:1 does not answer, and all members have to know: cut off"
    assert not (await net.talks["a:1"].ask("c:1", "forget", address="b:1")).refused
    assert addresses(net)["a:1"] == ("a:1", "c:1")


async def test_without_a_majority_nothing_is_changed(tmp_path: Path) -> None:
    net = await three(tmp_path)
    del net.talks["b:1"], net.talks["c:1"]
    with pytest.raises(NotAgreed, match=r"a majority of 3 members has to answer: .*b:1"):
        await net.talks["a:1"].change(lambda now: now.forgotten("b:1"))
    assert addresses(net) == {"a:1": ("a:1", "b:1", "c:1")}
    await net.talks["a:1"].change(lambda now: now.forgotten("b:1"), is_forced=True)
    assert addresses(net) == {"a:1": ("a:1", "c:1")}


async def test_who_has_lost_its_store_has_no_vote_until_it_is_back(tmp_path: Path) -> None:
    net = await three(tmp_path)
    del net.talks["b:1"]
    net.start("c:1", ("a:1",), folder="another disk")
    with pytest.raises(NotAgreed, match="c:1 has another store: it has lost its own, and its vote"):
        await net.talks["a:1"].change(lambda now: now.forgotten("b:1"))


async def test_a_store_that_was_lost_is_replaced_by_another(tmp_path: Path) -> None:
    net = await three(tmp_path)
    empty = net.start("c:1", ("a:1",), folder="another disk")
    assert not empty.state.is_member("c:1")
    await empty.ask("a:1", "join")
    membership = net.talks["b:1"].state.membership
    assert membership is not None
    assert membership.empty == ("c:1",)
    assert membership.moves
    assert membership.member("c:1") == empty.member
    assert empty.state.is_member("c:1")


async def test_a_first_member_that_has_lost_its_store_does_not_stay_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = await three(tmp_path)
    first = net.start("a:1", folder="another disk")
    await begin(first)
    assert addresses(net)["a:1"] == ("a:1",)
    await net.talks["b:1"].ask("a:1", "beat")
    assert addresses(net)["a:1"] == ("a:1", "b:1", "c:1")
    assert not first.state.is_member("a:1")
    assert not first.state.left
    assert "belongs to that of a:1, b:1, c:1: it gives up its own" in caplog.text
    assert first.state.written_alone


async def test_a_member_that_two_clusters_have_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = await three(tmp_path)
    await begin(net.start("a:1", folder="another disk"))
    await net.talks["a:1"].has_moved(1)
    assert not (await net.start("d:1", ("a:1",)).ask("a:1", "join")).refused
    for _ in range(2):
        await net.talks["b:1"].ask("a:1", "beat")
    assert addresses(net)["a:1"] == ("a:1", "d:1")
    assert addresses(net)["b:1"] == ("a:1", "b:1", "c:1")
    assert caplog.text.count("two clusters have this member") == 1


async def test_nobody_begins_a_cluster_without_being_told(tmp_path: Path) -> None:
    net = Net(tmp_path)
    first = net.start("a:1")
    await first.found()
    assert first.state.membership is None
    with pytest.raises(CannotChange, match=r"discovery.join names a:1"):
        await net.start("b:1", ("a:1",)).begin()
    assert not (await first.ask("a:1", "found")).refused
    await first.found()
    assert addresses(net)["a:1"] == ("a:1",)
    assert "belongs to a cluster already" in (await first.ask("a:1", "found")).refused


def test_a_process_that_stops_within_a_change_holds_up_no_other(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_held_up(tmp_path))


async def _held_up(folder: Path) -> None:
    net = Net(folder)
    first, second = net.start("a:1"), net.start("b:1", ("a:1",))
    with (folder / "a-1" / "member.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asked = asyncio.create_task(second.ask("a:1", "found"))
        assert not (await second.ask("a:1", "beat")).refused
        assert not asked.done()
        assert "another process of it has had its state for 1 s" in (await asked).refused
        with pytest.raises(NotAgreed):
            await begin(first)
        # What is heard meanwhile is for later.
        await begin(net.start("c:1"))
        third = net.talks["c:1"]
        joins = net.start("a:1", ("c:1",))
        assert (await joins.ask("c:1", "beat")).membership == third.state.membership
        assert joins.state.membership is None
        asked = asyncio.create_task(joins.ask("c:1", "beat"))
        await asyncio.sleep(0.5)
    await asked
    assert joins.state.membership == third.state.membership


async def test_who_has_left_knows_it(tmp_path: Path) -> None:
    net = await three(tmp_path)
    assert not (await net.talks["a:1"].ask("b:1", "leave", address="c:1")).refused
    leaving = net.talks["c:1"].state
    assert leaving.is_member("c:1")  # it still has what it holds to give away
    assert not leaving.left
    await net.talks["b:1"].change(lambda now: now.settled())
    assert net.talks["c:1"].state.left
    await beats(net)
    refused = (await net.talks["a:1"].ask("b:1", "leave", address="z:9")).refused
    assert refused == "z:9 is no member; members are a:1, b:1"


async def test_another_tag_is_refused(tmp_path: Path) -> None:
    net = await three(tmp_path)
    other = Net(tmp_path / "other", tag="another")
    other.talks = net.talks
    with pytest.raises(BadWord, match=r"its discovery.tag is 'test', here it is 'another'"):
        await other.start("d:1", ("a:1",)).ask("a:1", "join")


async def test_two_clusters_do_not_become_one(tmp_path: Path) -> None:
    net = await three(tmp_path)
    await begin(net.start("d:1"))
    await net.talks["d:1"].ask("a:1", "beat")
    assert addresses(net)["d:1"] == ("d:1",)
    assert addresses(net)["a:1"] == ("a:1", "b:1", "c:1")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_is_lost_each_epoch_has_one_membership(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_chaos(tmp_path_factory.mktemp("members"), random.Random(seed)))


async def _chaos(folder: Path, dice: random.Random) -> None:
    net = await three(folder)
    known = {address: talk.options.join for address, talk in net.talks.items()}
    net.lost = lambda asker, asked: dice.random() < 0.2
    for number in range(30):
        await asyncio.gather(*(_step(net, dice, known, number) for _ in range(3)))
        net.note()
    net.lost = lambda asker, asked: False
    for address, join in known.items():
        if address not in net.talks:
            net.start(address, join)
    await beats(net)
    net.note()
    for (_, epoch), memberships in net.decided.items():
        assert len(memberships) == 1, f"epoch {epoch} has two"


async def _step(
    net: Net, dice: random.Random, known: dict[str, tuple[str, ...]], number: int
) -> None:
    talk = dice.choice(list(net.talks.values()))
    member: Member = talk.member
    choice = dice.randrange(6)
    try:
        if choice == 0 and len(known) < 7:
            address = f"n{number}:{len(known)}"
            known[address] = (member.address,)
            await net.start(address, (member.address,)).ask(member.address, "join")
        elif choice == 1:
            await talk.change(lambda now: now.left(dice.choice(now.addresses)))
        elif choice == 2:
            await talk.change(lambda now: now.settled() if now.moves else now)
            await talk.has_moved(talk.state.epoch)
        elif choice == 3 and len(net.talks) > 2:
            del net.talks[member.address]
        elif choice == 4:
            for address, join in known.items():
                if address not in net.talks:
                    net.start(address, join)
                    break
        else:
            await talk.ask(dice.choice(list(known)), "beat")
    except (CannotChange, NotAgreed, Unreachable, BadWord):
        pass
