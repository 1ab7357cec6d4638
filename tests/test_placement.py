"""Which stores a key belongs to: pinned in golden files, and the same as twemproxy's and Photosrv's
choice.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import SimpleNamespace

import pytest
from uhashring import HashRing

from sfss.keys import KeyScheme
from sfss.placement import (
    ChashShards,
    JumpShards,
    KetamaRing,
    Mirror,
    OwnFirst,
    Shard,
    jump,
    leveldb_hash,
    siphash,
)
from tests.servers import Server, memcached, nutcracker, running

GOLDEN = Path(__file__).parent / "golden" / "placement-ketama.json"
PATHS = [
    *(f"photos/{number:04}.jpg" for number in range(150)),
    *(f"attachments/{number}/página {number}.pdf" for number in range(100)),
    *(f"{number}" for number in range(50)),
]
RINGS = {
    "three": ["10.0.0.1:7900", "10.0.0.2:7900", "10.0.0.3:7900"],
    "three on the default port": ["10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211"],
    "five by name": [
        "cache-a.example:11211",
        "cache-b.example:11211",
        "cache-b.example:11212",
        "localhost:7900",
        "[::1]:7900",
    ],
}
KEYS = [KeyScheme().key(path) for path in PATHS]


def owners(addresses: list[str]) -> dict[str, str]:
    ring = KetamaRing(addresses)
    return {key.decode(): ring.owner(key) for key in KEYS}


@pytest.mark.parametrize("name", RINGS)
def test_golden_placement(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert golden["addresses"] == RINGS[name]
    assert owners(RINGS[name]) == golden["owners"], "files on running clusters would be lost"


@pytest.mark.parametrize("name", RINGS)
def test_golden_orders(name: str) -> None:
    """All stores in order, each as its number in the list: the first N hold the N copies."""
    golden = json.loads((GOLDEN.parent / "placement-ketama-orders.json").read_text())[name]
    ring = KetamaRing(RINGS[name])
    found = {key.decode(): list(map(RINGS[name].index, ring.order(key))) for key in KEYS}
    assert found == golden, "files on running clusters would be lost"


@pytest.mark.parametrize("addresses", RINGS.values())
def test_the_order_of_addresses_does_not_matter(addresses: list[str]) -> None:
    assert owners(addresses[::-1]) == owners(addresses)


@pytest.mark.parametrize("addresses", RINGS.values())
def test_order_is_a_permutation_that_begins_with_the_owner(addresses: list[str]) -> None:
    ring = KetamaRing(addresses)
    for key in KEYS:
        order = ring.order(key)
        assert order[0] == ring.owner(key)
        assert sorted(order) == sorted(addresses)


@pytest.mark.parametrize("addresses", RINGS.values())
def test_removing_a_node_moves_only_its_keys(addresses: list[str]) -> None:
    before = owners(addresses)
    for removed in addresses:
        after = owners([address for address in addresses if address != removed])
        moved = {key for key in before if after[key] != before[key]}
        assert moved == {key for key, owner in before.items() if owner == removed}


@pytest.mark.parametrize("addresses", RINGS.values())
def test_the_next_in_order_inherits_the_keys_of_a_removed_owner(addresses: list[str]) -> None:
    ring = KetamaRing(addresses)
    for key in KEYS:
        owner, heir, *_ = ring.order(key)
        rest = KetamaRing([address for address in addresses if address != owner])
        assert rest.owner(key) == heir


@pytest.mark.parametrize("addresses", RINGS.values())
def test_every_node_has_a_share(addresses: list[str]) -> None:
    shares = list(owners(addresses).values())
    assert all(shares.count(address) > len(KEYS) / len(addresses) / 4 for address in addresses)


def test_a_ring_of_one() -> None:
    ring = KetamaRing(["10.0.0.1:11211"])
    assert list(ring.order(b"k")) == [ring.owner(b"k")] == ["10.0.0.1:11211"]


@pytest.mark.parametrize("addresses", RINGS.values())
def test_the_answers_are_those_of_uhashring(addresses: list[str]) -> None:
    names = {address.removesuffix(":11211"): address for address in addresses}
    theirs, ring = HashRing(list(names), hash_fn="ketama"), KetamaRing(addresses)
    for key in map(str, range(3000)):
        assert ring.owner(key.encode()) == names[theirs.get_node(key)]
        order = [names[node["nodename"]] for node in theirs.range(key)]
        assert list(ring.order(key.encode())) == order


# Around every point of a ring: md5 gives no key for a point, so the ring is given the point.
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_a_key_on_a_point_belongs_to_the_next(monkeypatch: pytest.MonkeyPatch, beside: int) -> None:
    addresses = RINGS["three"]
    theirs, ring = HashRing(addresses, hash_fn="ketama"), KetamaRing(addresses)
    for point, _ in theirs.get_points():
        word = (point + beside) % (1 << 32)
        digest = SimpleNamespace(digest=lambda word=word: word.to_bytes(4, "little"))
        monkeypatch.setattr("sfss.placement.md5", lambda _, digest=digest: digest)
        monkeypatch.setattr(theirs, "hashi", lambda _, word=word: word)
        assert ring.owner(b"") == theirs.get_node("")
        assert list(ring.order(b"")) == [node["nodename"] for node in theirs.range("")]


@pytest.mark.parametrize("copies", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("addresses", RINGS.values())
def test_primaries_are_the_first_of_the_order(addresses: list[str], copies: int) -> None:
    ring = KetamaRing(addresses, copies)
    for key in KEYS:
        assert list(ring.primaries(key)) == list(ring.order(key))[:copies]


def test_a_removed_store_costs_each_key_at_most_one_copy() -> None:
    addresses = RINGS["five by name"]
    before, after = KetamaRing(addresses, 3), KetamaRing(addresses[1:], 3)
    for key in KEYS:
        kept = set(before.primaries(key)) - {addresses[0]}
        assert kept <= set(after.primaries(key))


# -- shards

SHARDS = [Shard(f"shard{number}", (f"a{number}", f"b{number}")) for number in range(1, 6)]
WEIGHTED = [Shard("large", ("a:80", "b:80"), 3), Shard("small", ("c:80",)), Shard("none", (), 0)]
CHOOSERS: dict[str, type[JumpShards] | type[ChashShards]] = {
    "jump": JumpShards,
    "chash": ChashShards,
}


@pytest.mark.parametrize(
    ("key", "siphashed", "jumped", "chashed"),
    [
        (b"a", 0x96C20860CD93A249, 1, 3),
        (b"foo", 0xDDE38BD48EAE7414, 4, 1),
        (b"baz", 0x665E159A7E18356C, 5, 2),
        (b"a/b/c", 0x52F5756E9C17045F, 3, 4),
    ],
)
def test_the_placements_of_photosrv(key: bytes, siphashed: int, jumped: int, chashed: int) -> None:
    assert siphash(key) == siphashed
    assert JumpShards(SHARDS).shard(key) == SHARDS[jumped - 1]
    assert ChashShards(SHARDS).shard(key) == SHARDS[chashed - 1]
    assert JumpShards(SHARDS).primaries(key) == (f"a{jumped}", f"b{jumped}")
    assert ChashShards(SHARDS).primaries(key) == (f"a{chashed}", f"b{chashed}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", 0xBC9F1D34),
        (b"\x62", 0xEF1345C4),
        (b"\xc3\x97", 0x5B663814),
        (b"\xe2\x99\xa5", 0x323C078F),
        (b"\xe1\x80\xb9\x32", 0xED21633A),
    ],
)
def test_the_hashes_of_leveldb(text: bytes, expected: int) -> None:
    """From its own util/hash_test.cc."""
    assert leveldb_hash(text) == expected


@pytest.mark.parametrize(
    ("key_hash", "buckets", "expected"),
    [
        (0, 1, 0),
        (1, 1, 0),
        (42, 57, 43),
        (0xDEAD10CC, 1, 0),
        (0xDEAD10CC, 666, 361),
        (256, 1024, 520),
    ],
)
def test_jumps_of_the_paper(key_hash: int, buckets: int, expected: int) -> None:
    """As in other implementations of it."""
    assert jump(key_hash, buckets) == expected


@pytest.mark.parametrize("name", CHOOSERS)
def test_golden_shards(name: str) -> None:
    golden = json.loads((GOLDEN.parent / f"placement-{name}.json").read_text())
    for title, shards in (("five equal", SHARDS), ("weighted", WEIGHTED)):
        chooser = CHOOSERS[name](shards)
        found = {key.decode(): chooser.shard(key).name for key in KEYS}
        assert found == golden[title], "files on running clusters would be lost"


def test_weights_choose_among_the_expanded_list() -> None:
    expanded = [Shard(name, ()) for name in ("large#0", "large#1", "large#2", "small#0")]
    for chooser in CHOOSERS.values():
        weighted, equal = chooser(WEIGHTED), chooser(expanded)
        for key in KEYS:
            assert weighted.shard(key).name == equal.shard(key).name.partition("#")[0]


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_shard_gets_keys_by_its_weight(name: str) -> None:
    chooser = CHOOSERS[name](WEIGHTED)
    owners = [chooser.shard(b"%d" % number).name for number in range(4000)]
    assert owners.count("none") == 0
    assert 600 < owners.count("small") < 1400


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_further_shard_takes_keys_and_moves_no_others(name: str) -> None:
    before, after = CHOOSERS[name](SHARDS[:-1]), CHOOSERS[name](SHARDS)
    moved = {key: after.shard(key) for key in KEYS if after.shard(key) != before.shard(key)}
    assert set(map(id, moved.values())) == {id(SHARDS[-1])}
    assert len(moved) < len(KEYS) / 3


@pytest.mark.parametrize("name", CHOOSERS)
def test_shards_without_weight_are_refused(name: str) -> None:
    for shards in ([], [Shard("one", ("a",), 0)]):
        with pytest.raises(ValueError, match="weight"):
            CHOOSERS[name](shards)


def test_ones_own_store_is_asked_first_where_it_has_a_copy() -> None:
    ring = KetamaRing(["a:1", "b:1", "c:1", "d:1"], 3)
    own = OwnFirst(ring, "c:1")
    for key in KEYS:
        there, first = ring.primaries(key), own.primaries(key)
        assert set(first) == set(there)
        assert first[0] == ("c:1" if "c:1" in there else there[0])
        assert [each for each in first if each != "c:1"] == [e for e in there if e != "c:1"]


def test_a_mirror_holds_everything_everywhere() -> None:
    assert Mirror(["b", "a", "c"]).primaries(b"k") == ("b", "a", "c")


@pytest.fixture(name="twemproxy", scope="module")
def twemproxy_over_three(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, list[Server]]]:
    folder = tmp_path_factory.mktemp("placement")
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(memcached(folder))) for _ in range(3)]
        proxy = nutcracker(folder, [node.address for node in nodes])
        yield stack.enter_context(running(proxy)), nodes


def ask(server: Server, request: bytes, replies: int) -> list[bytes]:
    """Send ``request`` and return so many reply lines."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            return [lines.readline() for _ in range(replies)]


def test_the_same_node_as_twemproxy(twemproxy: tuple[Server, list[Server]]) -> None:
    proxy, nodes = twemproxy
    ring = KetamaRing([node.address for node in nodes])
    sets = b"".join(b"set %b 0 0 1\r\nx\r\n" % key for key in KEYS)
    assert set(ask(proxy, sets, len(KEYS))) == {b"STORED\r\n"}
    for node in nodes:
        expected = [key for key in KEYS if ring.owner(key) == node.address]
        touched = ask(node, b"".join(b"delete %b\r\n" % key for key in KEYS), len(KEYS))
        held = [key for key, line in zip(KEYS, touched, strict=True) if line == b"DELETED\r\n"]
        assert held == expected
        assert held


class Node(ThreadingTCPServer):
    """Answers STORED to every set and remembers the keys."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port), NodeHandler)
        self.address = f"{host}:{port}"
        self.keys: set[bytes] = set()


class NodeHandler(StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Node)
        while line := self.rfile.readline():
            _, key, _, _, size = line.split()
            self.rfile.read(int(size) + 2)
            self.server.keys.add(key)
            self.wfile.write(b"STORED\r\n")


@pytest.fixture(name="default_port_nodes")
def nodes_on_the_default_port() -> Iterator[list[Node]]:
    """Nodes on port 11211, on addresses of the loopback net where nobody else has one."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node(f"127.0.53.{last}", 11211)) for last in (1, 2, 3)]
        for node in nodes:
            threading.Thread(target=node.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(node.shutdown)
        yield nodes


def test_the_same_node_as_twemproxy_on_the_default_port(
    tmp_path: Path, default_port_nodes: list[Node]
) -> None:
    addresses = [node.address for node in default_port_nodes]
    with running(nutcracker(tmp_path, addresses)) as proxy:
        sets = b"".join(b"set %b 0 0 1\r\nx\r\n" % key for key in KEYS)
        assert set(ask(proxy, sets, len(KEYS))) == {b"STORED\r\n"}
    ring = KetamaRing(addresses)
    for node in default_port_nodes:
        assert node.keys == {key for key in KEYS if ring.owner(key) == node.address}
