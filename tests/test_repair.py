"""What the repair tools decide and do: which keys they look at, what they find, what they mend."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from sfss.agreement import MICROSECONDS_A_DAY, Debt, tombstone
from sfss.faults import Fault, Finding
from sfss.inventory import Inventory, Listed, make_inventory
from sfss.owed import EVERYTHING, Owed
from sfss.record import encode
from sfss.repair import (
    PATIENCE_S,
    Mender,
    Outcome,
    Patience,
    Reader,
    Seen,
    Stopped,
    Tool,
    Treated,
    needs_look,
    owed_everything,
    pay,
    settle_everything,
)
from sfss.repair_notes import RESUME_WITHIN_S, Notes
from sfss.repair_walk import FOREIGN_SHOWN, Pace, Walk
from tests.repair_bench import STORES, ListedStore, Ward
from tests.stores.dict_store import DictStore
from tests.stores.faulty_store import Fault as Trouble
from tests.stores.faulty_store import always, at, healthy
from tests.stores.scripted import until
from tests.virtual_time import in_virtual_time

KEY = b"photos/a.jpg"
FIRST, SECOND, THIRD = Ward().primaries(KEY)
OTHER, LAST = (name for name in STORES if name not in Ward().primaries(KEY))


# -- which keys are looked at


@pytest.mark.parametrize(
    ("stores", "alike", "check", "rebalance"),
    [
        ("abc", True, False, False),
        ("abc", False, True, False),
        ("ab", True, True, False),
        ("a", True, True, False),
        ("abcd", True, True, True),
        ("d", True, True, True),
        ("", True, True, False),
    ],
)
def test_which_keys_need_a_look(stores: str, alike: bool, check: bool, rebalance: bool) -> None:
    listed = Listed(b"k", frozenset(stores), alike)
    assert needs_look(Tool.CHECK, listed, "abc") is check
    assert needs_look(Tool.REPAIR, listed, "abc") is check
    assert needs_look(Tool.REBALANCE, listed, "abc") is rebalance
    assert needs_look(Tool.SCRUB, listed, "abc")


@pytest.mark.parametrize(
    ("stores", "blind", "down", "looks"),
    [
        ("ab", "", "c", False),
        ("ab", "c", "", True),
        ("a", "", "c", True),
        ("abc", "d", "", False),
        ("abc", "c", "", True),
    ],
)
def test_stores_that_could_not_be_listed(
    stores: str, blind: Collection[str], down: Collection[str], looks: bool
) -> None:
    listed = Listed(b"k", frozenset(stores), True)
    assert needs_look(Tool.CHECK, listed, "abc", blind, down) is looks


# -- one key


def mender(ward: Ward, tool: Tool, dry_run: bool = False) -> Mender:
    """Return what treats keys."""
    patience = Patience(asyncio.Event())
    return Mender(ward.copies(), ward.primaries, tool, dry_run, patience)


async def treat(ward: Ward, tool: Tool, dry_run: bool = False) -> Treated:
    """Treat ``KEY``."""
    return await mender(ward, tool, dry_run).treat(ward.listed(KEY))


def brief(treated: Treated) -> set[tuple[str, str, str]]:
    """Return store, fault and outcome of all that was seen."""
    return {(each.finding.address, each.finding.fault, each.outcome) for each in treated.seen}


def faulty(fault: Fault) -> Ward:
    """Return stores with one fault."""
    ward = Ward()
    older, newer = ward.record(b"older"), ward.record(b"newer body")
    ward.plant(KEY, newer, FIRST, SECOND, THIRD)
    if fault is Fault.MISSING:
        ward.plant(KEY, None, SECOND)
    if fault is Fault.STALE:
        ward.plant(KEY, older, SECOND)
    if fault is Fault.DAMAGED:
        ward.stores[SECOND].damage(KEY)
    if fault is Fault.MISPLACED:
        ward.plant(KEY, newer, OTHER)
    return ward


MENDABLE = [Fault.MISSING, Fault.STALE, Fault.DAMAGED]


@pytest.mark.parametrize("fault", [*MENDABLE, Fault.MISPLACED])
@pytest.mark.parametrize("tool", [tool for tool in Tool if tool is not Tool.MIGRATE])
def test_a_dry_run_and_a_check_find_what_is_wrong_and_change_nothing(
    tool: Tool, fault: Fault
) -> None:
    @in_virtual_time
    async def run() -> None:
        ward = faulty(fault)
        before = ward.content()
        treated = await treat(ward, tool, dry_run=tool is not Tool.CHECK)
        store = OTHER if fault is Fault.MISPLACED else SECOND
        is_for = tool is not Tool.REBALANCE or fault is Fault.MISPLACED
        assert brief(treated) == ({(store, fault, "found")} if is_for else set())
        assert ward.content() == before
        asked = {operation for each in ward.stores.values() for operation, _ in each.asked}
        assert asked == {"get"}

    run()


@pytest.mark.parametrize("fault", MENDABLE)
@pytest.mark.parametrize("tool", [Tool.REPAIR, Tool.SCRUB])
def test_repair_and_scrub_mend(tool: Tool, fault: Fault) -> None:
    @in_virtual_time
    async def run() -> None:
        ward = faulty(fault)
        treated = await treat(ward, tool)
        assert brief(treated) == {(SECOND, fault, "mended")}
        assert treated.written == len(b"newer body")
        assert ward.is_well()
        assert await treat(ward, tool) == Treated([])

    run()


@in_virtual_time
async def test_repair_leaves_what_is_misplaced() -> None:
    ward = faulty(Fault.MISPLACED)
    before = ward.content()
    assert brief(await treat(ward, Tool.REPAIR)) == {(OTHER, "misplaced", "found")}
    assert ward.content() == before


@in_virtual_time
async def test_repair_brings_what_only_a_misplaced_copy_has() -> None:
    ward = Ward()
    ward.plant(KEY, ward.record(b"body"), OTHER)
    treated = await treat(ward, Tool.REPAIR)
    mended = {(name, "missing", "mended") for name in (FIRST, SECOND, THIRD)}
    assert brief(treated) == {*mended, (OTHER, "misplaced", "found")}
    assert treated.written == 3 * len(b"body")
    assert set(ward.listed(KEY).stores) == {FIRST, SECOND, THIRD, OTHER}


@in_virtual_time
async def test_rebalance_moves() -> None:
    ward = Ward()
    ward.plant(KEY, ward.record(b"body"), OTHER, LAST)
    treated = await treat(ward, Tool.REBALANCE)
    assert brief(treated) == {(name, "misplaced", "moved") for name in (OTHER, LAST)}
    assert treated.written == 3 * len(b"body") and ward.is_well()
    assert set(ward.listed(KEY).stores) == {FIRST, SECOND, THIRD}


@in_virtual_time
async def test_rebalance_removes_nothing_that_is_not_proven_elsewhere() -> None:
    ward = Ward()
    ward.plant(KEY, ward.record(b"body"), OTHER)
    ward.down(SECOND)
    treated = await treat(ward, Tool.REBALANCE)
    assert brief(treated) == {(OTHER, "misplaced", "failed"), (SECOND, "unknown", "found")}
    assert OTHER in ward.listed(KEY).stores
    ward.up(SECOND)
    await asyncio.sleep(60)
    assert brief(await treat(ward, Tool.REBALANCE)) == {(OTHER, "misplaced", "moved")}
    assert ward.is_well()


@in_virtual_time
async def test_a_store_that_is_full_is_said() -> None:
    ward = faulty(Fault.MISSING)
    ward.stores[SECOND].plan = at("set", Trouble.FULL)
    treated = await treat(ward, Tool.REPAIR)
    assert brief(treated) == {(SECOND, "missing", "failed")}
    assert "full" in treated.seen[0].why


@in_virtual_time
async def test_a_heal_that_failed_is_tried_again() -> None:
    ward = faulty(Fault.MISSING)
    refused: list[bytes] = []

    def once(operation: str, key: bytes) -> Trouble | None:
        if operation != "set" or refused:
            return None
        refused.append(key)
        return Trouble.REFUSE

    ward.stores[SECOND].plan = once
    assert brief(await treat(ward, Tool.REPAIR)) == {(SECOND, "missing", "mended")}
    assert refused and ward.is_well()


@in_virtual_time
async def test_an_older_write_that_comes_late_is_mended_by_the_last_look() -> None:
    ward = faulty(Fault.MISSING)
    newer = ward.record(b"a gateway's, meanwhile")

    def overtaken(operation: str, key: bytes) -> None:
        if operation == "set":
            ward.up(SECOND)
            ward.plant(KEY, newer, FIRST, THIRD)

    ward.stores[SECOND].plan = overtaken
    await treat(ward, Tool.REPAIR)
    assert ward.is_well()
    assert ward.stores[SECOND].inner.values[KEY] == encode(newer)


@in_virtual_time
async def test_where_all_copies_are_damaged_nothing_can_be_done() -> None:
    ward = faulty(Fault.DAMAGED)
    for name in (FIRST, THIRD):
        ward.stores[name].damage(KEY)
    treated = await treat(ward, Tool.SCRUB)
    assert brief(treated) == {(name, "damaged", "failed") for name in (FIRST, SECOND, THIRD)}
    assert {each.why for each in treated.seen} == {"no sound copy is left"}


@in_virtual_time
async def test_a_write_that_is_under_way_is_no_fault() -> None:
    ward = Ward()
    ward.stores[THIRD].plan, ward.stores[THIRD].late_s = at("set", Trouble.LATE), 0.2
    put = asyncio.ensure_future(ward.copies().put(KEY, ward.record(b"body")))
    await asyncio.sleep(0.1)
    assert ward.listed(KEY).stores == {FIRST, SECOND}
    assert await treat(ward, Tool.CHECK) == Treated([])
    await put
    ward.plant(KEY, None, THIRD)
    assert brief(await treat(ward, Tool.CHECK)) == {(THIRD, "missing", "found")}


@pytest.mark.parametrize("tool", [Tool.CHECK, Tool.REPAIR, Tool.SCRUB])
def test_a_file_that_is_written_all_the_time_has_no_fault(tool: Tool) -> None:
    @in_virtual_time
    async def run() -> None:
        ward = Ward()
        ward.plant(KEY, ward.record(b"first"), FIRST, SECOND, THIRD)
        ward.stores[THIRD].plan, ward.stores[THIRD].late_s = at("set", Trouble.LATE), 0.15
        gateway = ward.copies()

        async def write() -> None:
            while True:
                await gateway.put(KEY, ward.record(b"another"))

        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.1)
        for _ in range(50):
            assert (await treat(ward, tool)).seen == []
            await asyncio.sleep(0.01)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    run()


@in_virtual_time
async def test_scrub_forgets_old_tombstones() -> None:
    ward = Ward()
    ward.plant(KEY, tombstone(ward.clock.version()), FIRST, SECOND, THIRD)
    assert await treat(ward, Tool.SCRUB) == Treated([])
    ward.clock.now += 11 * MICROSECONDS_A_DAY
    for tool, dry_run in ((Tool.CHECK, False), (Tool.SCRUB, True)):
        assert await treat(ward, tool, dry_run) == Treated([])
    assert len(ward.listed(KEY).stores) == 3
    assert await treat(ward, Tool.SCRUB) == Treated([], reaped=3)
    assert not ward.listed(KEY).stores


# -- stores that do not answer


@in_virtual_time
async def test_a_store_that_comes_back_is_waited_for() -> None:
    ward = faulty(Fault.MISSING)
    ward.down(FIRST)
    asyncio.get_running_loop().call_later(PATIENCE_S - 5, ward.up, FIRST)
    assert brief(await treat(ward, Tool.REPAIR)) == {(SECOND, "missing", "mended")}
    assert ward.is_well()


@in_virtual_time
async def test_a_store_that_stays_away_is_waited_for_once() -> None:
    ward = faulty(Fault.MISSING)
    ward.down(FIRST)
    loop, one = asyncio.get_running_loop(), mender(ward, Tool.CHECK)
    wanted = {(FIRST, "unknown", "found"), (SECOND, "missing", "found")}
    began_s = loop.time()
    assert brief(await one.treat(ward.listed(KEY))) == wanted
    assert PATIENCE_S <= loop.time() - began_s < PATIENCE_S + 5
    began_s = loop.time()
    assert brief(await one.treat(ward.listed(KEY))) == wanted
    assert loop.time() - began_s < 1
    ward.up(FIRST)
    await asyncio.sleep(5)
    assert brief(await one.treat(ward.listed(KEY))) == {(SECOND, "missing", "found")}


@in_virtual_time
async def test_a_store_that_is_known_to_be_down_is_not_waited_for() -> None:
    patience = Patience(asyncio.Event(), ["a"])
    assert not await patience.wait(["a"])
    assert await patience.wait(["a", "b"])
    patience.answered(["a"])
    assert await patience.wait(["a"])


@in_virtual_time
async def test_a_run_that_is_told_to_stop_waits_for_nothing() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(1, stopping.set)
    patience, pace = Patience(stopping), Pace(0.001, stopping)
    await pace.wait()
    with pytest.raises(Stopped):
        await pace.wait()
    with pytest.raises(Stopped):
        await patience.wait(["a"])
    with pytest.raises(Stopped):
        patience.go_on()
    assert asyncio.get_running_loop().time() < 2


@in_virtual_time
async def test_the_pace_is_kept() -> None:
    pace, loop = Pace(10, asyncio.Event()), asyncio.get_running_loop()
    began_s = loop.time()
    for _ in range(101):
        await pace.wait()
    assert loop.time() - began_s == pytest.approx(10)


# -- one store alone


async def read(store: ListedStore) -> Treated:
    """Treat ``KEY``."""
    reader = Reader(store, Patience(asyncio.Event()))
    return await reader.treat(Listed(KEY, frozenset(), True))


@in_virtual_time
async def test_a_single_store_is_read() -> None:
    store = ListedStore(DictStore("a"))
    store.inner.values[KEY] = encode(Ward().record(b"body"))
    assert await read(store) == Treated()
    store.plan = always(Trouble.REFUSE)
    assert brief(await read(store)) == {("a", "unknown", "found")}
    store.plan = healthy
    store.damage(KEY)
    assert brief(await read(store)) == {("a", "damaged", "found")}


# -- all keys


async def inventory_of(ward: Ward, folder: Path) -> Inventory:
    """List all stores."""
    return await make_inventory(folder / "inventory.sqlite", "f", ward.stores, lambda _: None)


def new_notes(folder: Path) -> Notes:
    """Return notes of a run that begins."""
    notes = Notes(folder, "f")
    notes.begin()
    return notes


class Treating:
    """Notes which keys are treated, and does what a test wants."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.slow: dict[bytes, asyncio.Event] = {}

    async def treat(self, listed: Listed) -> Treated:
        """Treat one key."""
        self.keys.append(listed.key)
        if (event := self.slow.get(listed.key)) is not None:
            await event.wait()
        return Treated()


def walk(
    inventory: Inventory,
    notes: Notes,
    treating: Treating,
    stopping: asyncio.Event | None = None,
    progress: list[int] | None = None,
    only: Sequence[bytes] | None = None,
) -> Walk:
    """Return a walk over all keys, or ``only`` some."""
    stopping = stopping or asyncio.Event()

    def shown(done: int, total: int, counts: Counter[str]) -> None:
        if progress is not None:
            progress.append(done)

    return Walk(
        inventory,
        notes,
        lambda key: None if b"%zz" in key else key.decode(),
        lambda listed: only is None or listed.key in only,
        treating.treat,
        Pace(0, stopping),
        stopping,
        shown,
    )


async def test_a_walk_treats_each_key_once_in_order(tmp_path: Path) -> None:
    ward, treating = Ward(), Treating()
    keys = ward.fill(2500)
    inventory, notes, progress = await inventory_of(ward, tmp_path), new_notes(tmp_path), [0]
    assert await walk(inventory, notes, treating, progress=progress).run()
    assert treating.keys == keys
    assert (notes.after, notes.counts["keys"], notes.counts["looked_at"]) == (keys[-1], 2500, 2500)
    assert progress == sorted(progress) and progress[-1] == 2500
    await inventory.close()
    notes.close()


async def test_a_slow_key_keeps_its_place(tmp_path: Path) -> None:
    ward, treating, stopping = Ward(), Treating(), asyncio.Event()
    keys = ward.fill(1000)
    slow = treating.slow[keys[10]] = asyncio.Event()
    inventory, notes = await inventory_of(ward, tmp_path), new_notes(tmp_path)
    running = asyncio.ensure_future(walk(inventory, notes, treating, stopping).run())
    await until(lambda: len(treating.keys) >= 200, "many keys have begun")
    stopping.set()
    await asyncio.sleep(0)
    assert notes.after <= keys[10]
    slow.set()
    assert not await running
    seen = len(treating.keys)
    assert notes.counts["keys"] == seen < 1000 and notes.after == keys[seen - 1]
    assert await walk(inventory, notes, treating).run()
    assert treating.keys == keys
    await inventory.close()
    notes.close()


async def test_keys_behind_one_in_hand_are_not_done_yet(tmp_path: Path) -> None:
    ward, treating = Ward(), Treating()
    keys = ward.fill(50)
    treating.slow[keys[5]] = asyncio.Event()
    inventory, notes = await inventory_of(ward, tmp_path), new_notes(tmp_path)
    one = walk(inventory, notes, treating, only=[keys[5], keys[30]])
    running = asyncio.ensure_future(one.run())
    await until(lambda: treating.keys == [keys[5], keys[30]], "both have begun")
    assert (notes.after, notes.counts["keys"]) == (keys[4], 5)
    treating.slow[keys[5]].set()
    assert await running
    assert (notes.after, notes.counts["keys"]) == (keys[49], 50)
    await inventory.close()
    notes.close()


async def test_a_walk_that_is_cut_off_repeats_only_what_was_in_hand(tmp_path: Path) -> None:
    ward, treating = Ward(), Treating()
    keys = ward.fill(600)
    treating.slow[keys[300]] = asyncio.Event()
    inventory, notes = await inventory_of(ward, tmp_path), new_notes(tmp_path)
    running = asyncio.ensure_future(walk(inventory, notes, treating).run())
    await until(lambda: len(treating.keys) >= 400, "many keys have begun")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}
    notes.close()
    notes = Notes(tmp_path, "f")
    assert notes.resume()
    assert (notes.after, notes.counts["keys"]) == (keys[299], 300)
    again = Treating()
    assert await walk(inventory, notes, again).run()
    assert again.keys == keys[300:] and notes.counts["keys"] == 600
    await inventory.close()
    notes.close()


async def test_what_needs_no_look_and_what_is_foreign(tmp_path: Path) -> None:
    ward, treating = Ward(), Treating()
    keys = ward.fill(30)
    for number in range(FOREIGN_SHOWN + 5):
        ward.plant(b"file/%%zz%03d" % number, ward.record(b"x"), "a", "b")
    inventory, notes = await inventory_of(ward, tmp_path), new_notes(tmp_path)
    assert await walk(inventory, notes, treating, only=[keys[7], keys[29]]).run()
    assert treating.keys == [keys[7], keys[29]]
    assert notes.counts["foreign"] == FOREIGN_SHOWN + 5
    assert (notes.counts["keys"], notes.counts["looked_at"]) == (30 + FOREIGN_SHOWN + 5, 2)
    rows = notes.findings(1000)
    assert len(rows) == FOREIGN_SHOWN
    assert (rows[0]["path"], rows[0]["store"]) == ("file/%zz000", "a, b")
    await inventory.close()
    notes.close()


async def test_random_bits_in_one_store_are_all_found_and_mended(tmp_path: Path) -> None:
    ward, chance = Ward(), random.Random(4)
    ward.fill(400)
    before, values = ward.content(), ward.stores["c"].inner.values
    harmed = chance.sample(sorted(values), 100)
    for key in harmed:
        value = bytearray(values[key])
        value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
        values[key] = bytes(value)
    notes = new_notes(tmp_path)
    inventory = await make_inventory(
        tmp_path / "i", "f", {name: ward.stores[name] for name in "abde"}, lambda _: None
    )
    one = walk(inventory, notes, Treating())
    one.treat = mender(ward, Tool.SCRUB).treat
    assert await one.run()
    assert notes.counts["damaged"] == notes.counts["outcome mended"] == 100
    assert {row["path"].encode() for row in notes.findings(1000)} == set(harmed)
    assert ward.content() == before
    await inventory.close()
    notes.close()


# -- notes


def test_notes_are_of_one_run_at_a_time(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "work", "one")
    with pytest.raises(Exception, match="in use by another run"):
        Notes(tmp_path / "work", "one")
    notes.close()
    Notes(tmp_path / "work", "one").close()


def test_notes_are_taken_over_as_they_were_saved(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "one")
    assert not notes.resume()
    notes.begin()
    notes.add({"number": 1})
    notes.after, notes.counts["keys"] = b"\xff\x00", 7
    notes.debts = [Debt("a", EVERYTHING, 5, 4, b"digest")]
    notes.unsettled = {"b"}
    notes.save()
    notes.add({"number": 2})
    notes.close()  # and what came after the save is in the file, as after a kill
    other = Notes(tmp_path, "another")
    assert not other.resume()
    other.close()
    notes = Notes(tmp_path, "one")
    assert notes.resume()
    assert (notes.after, notes.counts["keys"], notes.unsettled) == (b"\xff\x00", 7, {"b"})
    assert notes.debts == [Debt("a", EVERYTHING, 5, 4, b"digest")]
    notes.add({"number": 3})
    assert notes.findings(10) == [{"number": 1}, {"number": 3}]
    notes.end()
    notes.close()
    notes = Notes(tmp_path, "one")
    assert not notes.resume()
    notes.close()


@pytest.mark.parametrize("passed_s", [RESUME_WITHIN_S + 1, -60])
def test_notes_that_are_old_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed_s: float
) -> None:
    notes = new_notes(tmp_path)
    notes.save()
    notes.close()
    now_s = time.time()
    for later_s, resumes in ((passed_s, False), (60, True)):
        monkeypatch.setattr(time, "time", lambda later_s=later_s: now_s + later_s)
        notes = Notes(tmp_path, "f")
        assert notes.resume() is resumes
        notes.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "fingerprint": "one"}'])
def test_notes_that_are_damaged_are_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text)
    (tmp_path / "findings.jsonl").write_text("")
    notes = Notes(tmp_path, "one")
    assert not notes.resume()
    notes.close()


# -- debts


@in_virtual_time
async def test_debts_are_paid() -> None:
    ward = Ward()
    ward.down(SECOND)
    gateway = ward.copies()
    await gateway.put(KEY, ward.record(b"body"))
    ward.up(SECOND)
    await asyncio.sleep(5)
    copies = ward.copies()
    assert await Owed(ward.list, 1000).count() == 1
    await pay(copies, ward.stores)
    assert await Owed(ward.list, 1000).count() == 0
    assert ward.is_well()


async def test_a_debt_of_everything_is_settled_for_stores_that_lack_nothing(
    tmp_path: Path,
) -> None:
    ward, notes = Ward(owed_limit=0), new_notes(tmp_path)
    owed = Owed(ward.list, 0)
    await owed.add([Debt(name, KEY, 5, 5) for name in ("a", "b", "c")])
    notes.debts = await owed_everything(owed, ward.stores)
    assert [debt.address for debt in notes.debts] == ["a", "b", "c"]
    notes.unsettled = {"b"}
    await owed.add([Debt("c", b"another", 9, 9)])  # since then
    assert await settle_everything(owed, notes) == ["a"]
    left = await owed_everything(owed, ward.stores)
    assert [(debt.address, debt.version) for debt in left] == [("b", 5), ("c", 9)]
    notes.close()


async def test_which_stores_still_lack_something(tmp_path: Path) -> None:
    ward, treating = Ward(), Treating()
    keys = ward.fill(3)
    inventory, notes = await inventory_of(ward, tmp_path), new_notes(tmp_path)

    def seen(address: str, fault: Fault, outcome: Outcome) -> Treated:
        return Treated([Seen(Finding(address, KEY, fault, "for a reason"), outcome)])

    answers = {
        keys[0]: seen("a", Fault.STALE, Outcome.MENDED),
        keys[1]: seen("b", Fault.MISSING, Outcome.FAILED),
        keys[2]: seen("c", Fault.DAMAGED, Outcome.FAILED),
    }

    async def answer(listed: Listed) -> Treated:
        return answers[listed.key]

    one = walk(inventory, notes, treating)
    one.treat = answer
    assert await one.run()
    assert notes.unsettled == {"b"}
    answers[keys[0]] = seen("d", Fault.UNKNOWN, Outcome.FOUND)
    notes.after = b""
    assert await one.run()
    assert notes.unsettled == set(STORES)
    await inventory.close()
    notes.close()
