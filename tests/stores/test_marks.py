"""Marks: what plain stores cannot carry, kept for each of them by itself."""

from sfss.record import Head, Kind, digest_of
from sfss.stores.marks import Marks, marked
from tests.stores.dict_store import DictStore, ViewableDict

FILE = Head(7, 4, digest_of(b"body"), expiry=9, metadata={"Content-Type": "a/b"})
GONE = Head(8, 0, digest_of(b""), Kind.TOMBSTONE)
KEY = "ü/a b".encode() + b"\xff"


async def test_what_was_marked_is_got() -> None:
    marks = Marks(DictStore(), "http://a/")
    for head in (FILE, GONE):
        await marks.set(KEY, head)
        assert await marks.get(KEY) == head
    assert await marks.get(b"another") is None


async def test_each_store_has_its_own() -> None:
    store = DictStore()
    one, other = Marks(store, "http://a/"), Marks(store, "http://b/")
    await one.set(KEY, FILE)
    await other.set(b"other", GONE)
    assert await other.get(KEY) is None
    assert [batch async for batch in one.all()] == [[(KEY, FILE)]]
    assert [batch async for batch in other.all()] == [[(b"other", GONE)]]


async def test_only_the_mark_that_was_meant_is_removed() -> None:
    marks = Marks(DictStore(), "http://a/")
    await marks.set(KEY, FILE)
    assert not await marks.delete(KEY, GONE)
    assert await marks.delete(KEY, FILE)
    assert not await marks.delete(KEY, FILE)
    assert await marks.get(KEY) is None


async def test_damaged_and_foreign_marks_are_none() -> None:
    store = DictStore()
    marks = Marks(store, "http://a/")
    await marks.set(KEY, FILE)
    (place,) = store.values
    store.values[place] = store.values[place][:-1] + b"x"
    assert await marks.get(KEY) is None
    await marks.set(KEY, FILE)
    assert await marks.get(KEY) == FILE


async def test_an_item_is_there_at_once_where_the_store_can_show_it() -> None:
    marks = Marks(ViewableDict(), "http://a/")
    assert marks.item(KEY) == b""
    state = marks.state()
    await marks.set(KEY, FILE)
    item = marks.item(KEY)
    assert item is not None
    assert marked(item) == (KEY, FILE)
    assert marks.state() != state
    slow = Marks(DictStore(), "http://a/")
    await slow.set(KEY, FILE)
    assert slow.item(KEY) is None
    assert slow.state() == 0


async def test_an_item_that_is_damaged_is_no_mark() -> None:
    marks = Marks(ViewableDict(), "http://a/")
    await marks.set(KEY, FILE)
    item = marks.item(KEY)
    assert item is not None
    for at in range(len(item)):
        flipped = item[:at] + bytes([item[at] ^ 1]) + item[at + 1 :]
        assert marked(flipped) is None
