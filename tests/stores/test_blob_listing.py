"""Lists of ids: in one piece, byte by byte, and such as are no lists; in bounded memory."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.config import WebdavSettings
from sfss.stores.blob_listing import ID_LIMIT, IdList, Listing
from sfss.stores.webdav_node import Node
from tests.stores.scripted import ScriptedHttpServer

IDS = st.lists(st.from_regex("[a-z0-9]{1,40}", fullmatch=True))
INDENTS = st.sampled_from([None, 0, 2])


def parsed(text: bytes, step: int) -> list[bytes]:
    ids = IdList()
    found = [
        each for start in range(0, len(text), step) for each in ids.feed(text[start : start + step])
    ]
    ids.finish()
    return found


@given(IDS, INDENTS, st.sampled_from([b"", b"\n", b" \r\n\t"]))
def test_ids_however_they_come(names: list[str], indent: int | None, around: bytes) -> None:
    text = around + json.dumps(names, indent=indent).encode() + around
    expected = [name.encode() for name in names]
    for step in (1, 2, 7, len(text)):
        assert parsed(text, step) == expected


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("text", [b"null", b"[]", b" [ ] ", b"\nnull\n"])
def test_no_ids(text: bytes, step: int) -> None:
    assert parsed(text, step) == []


@pytest.mark.parametrize("step", [1, 1000])
def test_what_is_no_id_is_left_out(step: int) -> None:
    names = ["ab", "A", ".tmp", 'a"b\\', "ä", "", "a" * (ID_LIMIT + 1), "cd"]
    assert parsed(json.dumps(names).encode(), step) == [b"ab", b"cd"]
    assert parsed(json.dumps(names, ensure_ascii=False).encode(), step) == [b"ab", b"cd"]


@pytest.mark.parametrize("step", [1, 1000, 100_000])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"nul",
        b"nullx",
        b"[",
        b'["ab"',
        b'["ab',
        b'["ab",',
        b'["ab",]',
        b"[,]",
        b'["ab" "cd"]',
        b'["ab"]x',
        b'["ab"][]',
        b"[]]",
        b"[1]",
        b'[["ab"]]',
        b'{"ab": "cd"}',
        b"internal error",
        b"['ab']",
        b'["a\nb"]',
        b'["' + b"a" * 10_000 + b'"]' * 2,
        b'["' + b"a" * 10_000 + b'"]',
        b'["ab",' + b" " * 10_000 + b'"cd"]',
        b" " * 10_000 + b"[]",
        b"[" + b" " * 10_000 + b"]",
        b"[]" + b" " * 10_000,
    ],
)
def test_what_is_no_list_of_texts(text: bytes, step: int) -> None:
    with pytest.raises(ValueError, match="list"):
        parsed(text, step)


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, held_ids = 100_000, 5000
    monkeypatch.setattr("sfss.stores.blob_listing.HELD_IDS", held_ids)
    names = [f"{number:040x}" for number in range(count)]
    body = json.dumps(names).encode()
    said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with ScriptedHttpServer([said] * 9) as server:
        address = f"http://{server.address}/"
        node = Node(address, WebdavSettings())
        listing = Listing(node, tmp_path)
        tracemalloc.start()
        found, before = 0, tracemalloc.get_traced_memory()[0]
        async for batch in listing.all():
            assert batch[0] == names[found].encode()
            found += len(batch)
        assert found == count
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # The server, in this process, has the whole; all ids as bytes would be 8 MiB more.
        assert peak - before < len(said) + 5 * 1024 * 1024
        page = await listing.page(b"", 10)
        assert list(page) == [name.encode() for name in names[:10]]
        page = await listing.page(names[2 * held_ids].encode(), 10)
        assert list(page) == [name.encode() for name in names[2 * held_ids :][:10]]
        requests = len(server.requests)
        page = await listing.page(names[2 * held_ids + 10].encode(), 10)
        assert list(page) == [name.encode() for name in names[2 * held_ids + 10 :][:10]]
        assert await listing.folders(anew=False) == [b"00"]
        assert len(server.requests) == requests
        assert await listing.page(b"ff", 10) == []
        await node.pool.close()
