"""``GET /files?delimiter=/`` against the plain listing, on three kinds of stores."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sfss.cluster import Cluster
from sfss.keys import KeyScheme
from sfss.record import encode, new_record
from sfss.routed import Owner, Routed
from sfss.stores.base import Entry
from sfss.web.levels import before, level
from tests.servers import Gateway, gateway, memcached, node, running, s3
from tests.stores.dict_store import DictStore
from tests.web.client import sentence
from tests.web.conftest import over

PATHS = sorted(
    [
        "a b/c",
        "a!/x",
        "a+b",
        "a-",
        "a.txt",
        "a/b/c/d",
        "a/b/e",
        "a/b0",
        "a0",
        "a~/~",
        "a\xa0b",
        "a\ud7fbb",
        "a\ue000b",
        "a\U0010ffff",
        "a\U0010ffff\U0010ffffc",
        "b/1",
        "b/10/x",
        "b/100",
        "b/2/" + "y" * 200,
        "b/\U0010ffff/z",
        "c]/d",
        "c^",
        "日本/語/本",
        "日本/語2",
    ]
)
TWINS = ["a", "a/b"]
"""Files that have the name of a folder, which not every kind of store takes."""


def _embedded(folder: Path, _: ExitStack) -> Gateway:
    return gateway(folder, "--store", "store")


def _mirror(folder: Path, store: str, more: str = "") -> Gateway:
    text = (
        f"[cluster]\nkind = 'replicated'\n[replicated]\nstores = ['{store}']\n"
        f"placement = 'mirror'\ncopies = 1\n{more}"
    )
    return gateway(folder, settings=text)


def _folder(folder: Path, _: ExitStack) -> Gateway:
    (folder / "files").mkdir()
    return _mirror(folder, f"file:{folder / 'files'}")


def _bucket(folder: Path, stack: ExitStack) -> Gateway:
    server = stack.enter_context(running(s3(folder)))
    server.make_bucket("bucket")
    more = f"[bucket]\nendpoint = '{server.url}'\nallow_http = true\n"
    return _mirror(folder, "s3://bucket/top", more)


KINDS: dict[str, Callable[[Path, ExitStack], Gateway]] = {
    "embedded": _embedded,
    "folder": _folder,
    "bucket": _bucket,
}


class Shelf(NamedTuple):
    """A gateway with files."""

    server: Gateway
    paths: list[str]

    def page(self, **arguments: object) -> dict[str, Any]:
        """Return the answer to ``GET /files``."""
        return page(self.server, **arguments)

    def level(self, prefix: str, after: str = "") -> list[str]:
        """Return what the plain listing, folded, says of a level."""
        things = set()
        for path in self.paths:
            if path.startswith(prefix):
                name, slash, _ = path[len(prefix) :].partition("/")
                things.add(prefix + name + slash)
        return sorted(thing for thing in things if thing > after)


@pytest.fixture(name="shelf", scope="module", params=KINDS)
def filled_gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shelf]:
    paths = sorted(PATHS + TWINS if request.param == "embedded" else PATHS)
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp(request.param)
        server = stack.enter_context(running(KINDS[request.param](folder, stack)))
        for path in paths:
            assert server.put(path, path.encode()).status == 200
        yield Shelf(server, paths)


def page(server: Gateway, **arguments: object) -> dict[str, Any]:
    """Return the answer to ``GET /files``."""
    answer = server.request("GET", f"/files?{urlencode(arguments)}")
    assert answer.status == 200, answer.body
    return dict(answer.json())


def test_pages_together_are_the_level(shelf: Shelf) -> None:
    assert [file["path"] for file in shelf.page()["files"]] == shelf.paths
    for prefix in ("", "a/", "b/", "a", "日"):
        for limit in (1, 2, 5):
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                answer = shelf.page(prefix=prefix, delimiter="/", after=after, limit=limit)
                after = answer["next"]
                things = sorted([each["path"] for each in answer["files"]] + answer["folders"])
                assert len(things) == limit or after is None
                assert after in (None, things[-1])
                found += things
            assert found == shelf.level(prefix)


PIECES = st.sampled_from(sorted({path[:end] for path in PATHS for end in range(len(path) + 1)}))
ODD = st.sampled_from(["", "0", " ", "z", "\U0010ffff", "\xa0", "\ud7ff", "\ue000", "é", ".", "~"])
TEXTS = st.builds(str.__add__, PIECES, ODD)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(prefix=TEXTS, after=st.one_of(st.just(""), TEXTS), limit=st.integers(1, 9))
@example("a/b", "a/b/c/d", 9)
@example("a", "a/b", 1)
@example("a\U0010ffff", "", 9)
@example("b/1", "b/10/", 9)
def test_any_page_is_what_the_plain_listing_says(
    shelf: Shelf, prefix: str, after: str, limit: int
) -> None:
    answer = shelf.page(prefix=prefix, after=after, limit=limit, delimiter="/")
    expected = shelf.level(prefix, after)
    shown = expected[:limit]
    assert [file["path"] for file in answer["files"]] == [x for x in shown if x[-1] != "/"]
    assert answer["folders"] == [each for each in shown if each[-1] == "/"]
    assert answer["next"] == (shown[-1] if len(expected) > limit else None)


def test_over_stores_that_are_listed_by_their_keys(tmp_path: Path) -> None:
    paths = [
        "!a/b",
        " b",
        "a b",
        "a!",
        "a!/c",
        "a#/d",
        "a%41",
        "a\xa0c",
        "@x",
        "?y",
        "~",
        "ä",
        "z/ä",
    ]
    with running(node(tmp_path)) as store, running(_mirror(tmp_path, store.address)) as server:
        for path in paths:
            assert server.put(path, b"x").status == 200
        shelf = Shelf(server, paths)
        for prefix in {path[:end] for path in paths for end in range(len(path) + 1)}:
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                answer = shelf.page(prefix=prefix, delimiter="/", after=after, limit=2)
                found += [each["path"] for each in answer["files"]] + answer["folders"]
                after = answer["next"]
            assert sorted(found) == shelf.level(prefix), prefix


def test_a_file_is_described_as_in_the_plain_listing(shelf: Shelf) -> None:
    (described,) = shelf.page(prefix="a.txt", delimiter="/")["files"]
    assert shelf.page(prefix="a.txt") == {"files": [described], "next": None}
    assert described["size"] == 5


@pytest.mark.parametrize("delimiter", ["", ".", "//", "a"])
def test_another_delimiter_is_refused(gateway: Gateway, delimiter: str) -> None:
    answer = gateway.request("GET", f"/files?delimiter={delimiter}")
    assert answer.status == 400
    assert 'only "/" is known' in sentence(answer)


@pytest.mark.parametrize("argument", ["prefix=/a", "prefix=a%01", "after=a//b", "prefix=%ff"])
def test_what_no_path_begins_with_is_refused_as_without(gateway: Gateway, argument: str) -> None:
    plain = gateway.request("GET", f"/files?{argument}")
    answer = gateway.request("GET", f"/files?{argument}&delimiter=/")
    assert (answer.status, answer.body) == (plain.status, plain.body)
    assert answer.status == 400


def test_long_arguments_do_no_harm(gateway: Gateway) -> None:
    for length in (249, 600, 3000):
        name = "x" * length
        answer = page(gateway, prefix=name, after=name, delimiter="/")
        assert answer == {"files": [], "folders": [], "next": None}


def test_servers_that_cannot_list_say_so(tmp_path: Path) -> None:
    with (
        running(memcached(tmp_path)) as server,
        running(gateway(tmp_path, settings=over("nodes", server))) as site,
    ):
        assert site.request("GET", "/files?delimiter=/").status == 501


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4), st.text())
def test_names_with_a_beginning_come_behind_the_text_before_it(beginning: str, rest: str) -> None:
    assert before(beginning) < beginning + rest


class CountingStore(DictStore):
    """Counts the entries that it has shown."""

    shown = 0

    async def scan(self, prefix: bytes, after: bytes, limit: int) -> list[Entry]:
        entries = await super().scan(prefix, after, limit)
        self.shown += len(entries)
        return entries


async def test_what_is_in_a_folder_is_passed_over() -> None:
    store = CountingStore()
    owner = Owner({"dict": store}, lambda _: "dict")
    cluster = Cluster(Routed([store], owner), KeyScheme("plain"), 1)
    empty = encode(new_record(b"", 1))
    for folder in range(3):
        for number in range(5000):
            store.values[b"top/%d/%d" % (folder, number)] = empty
    found = await level(cluster, "top/", "top/0/", 9)
    assert [thing.name for thing in found] == ["top/1/", "top/2/"]
    assert store.shown < 100
    assert await level(cluster, "top/3", "", 9) == []
    await cluster.close()
