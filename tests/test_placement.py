"""Which node a key belongs to: pinned in a golden file, and the same as twemproxy's choice."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from sfss.keys import KeyScheme
from sfss.placement import KetamaRing
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
    assert ring.order(b"k") == [ring.owner(b"k")] == ["10.0.0.1:11211"]


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
