"""How many gets and durable sets does ``sfss node`` do a second, beside memcached?

    python3 bench/node.py [--rounds 5] [--seconds 3]

Items of 1 KiB, one server of each kind on one core, memcached with one thread. Gets are pipelined,
200 in a write, over few keys and over many at random. Sets are pipelined the same way, and one at a
time on each of 64 connections; the node answers them when they are on the disk, memcached keeps
them in memory. Latencies of pipelined commands are those of a whole write. A second node has a
secret: once that is proven on a connection, it must be as fast as the first.

Beansdb did 112k pipelined gets where memcached did 241k, and gobeansdb 73k: hence the bar for the
rate, 112 / 241.
"""

import json
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

import command
import memcached_load
import rivals
from harness import BENCH, Contender, Group, Plan, Versus, Void, all_running, compete, run_load

from tests.servers import Server

BAR: Final = 112 / 241
BATCH: Final = 200
FEW, MANY = 1000, 50_000
_NODE, _GUARDED, _MEMCACHED = "sfss node", "sfss node, a secret", "memcached, one thread"
_SECRET: Final = "a-secret-of-the-benchmarks"


class Row(NamedTuple):
    """One line of questions."""

    title: str
    verb: str
    connections: int
    batch: int
    keys: int
    bar: float | None


ROWS: Final = (
    Row("GET, pipelined, 1 KiB, 1,000 keys", "get", 1, BATCH, FEW, BAR),
    Row("GET, pipelined, 1 KiB, 50,000 keys at random", "get", 1, BATCH, MANY, None),
    Row("SET, pipelined, 1 KiB", "set", 1, BATCH, FEW, None),
    Row("SET, 64 connections, 1 KiB", "set", 64, 1, 64 * 100, None),
)


class Items(Contender):
    """A server of the memcached protocol under the load of one row."""

    def __init__(self, name: str, server: Server, row: Row, secret: str = "") -> None:
        super().__init__(name, server)
        self._row, self._secret = row, secret

    def measure(self, number: int, seconds: int) -> tuple[dict[str, float], float]:
        """Put the load on; see ``memcached_load``."""
        row, port = self._row, self.servers[0].port
        numbers = (port, row.verb, seconds, row.connections, row.batch, row.keys)
        script = str(BENCH / "memcached_load.py")
        texts = [*map(str, numbers), row.verb, self._secret]
        text, load_cpu_s = run_load([sys.executable, script, *texts])
        return json.loads(text), load_cpu_s

    def check(self, number: int, requests: int | None) -> None:
        """Look at some items, all of which the load has compared or set."""
        if requests is None and self._row.verb == "get":
            return
        keys = [f"{self._row.verb}{number}" for number in range(0, self._row.keys, 97)]
        asked = b"".join(b"get %b\r\n" % key.encode() for key in keys)
        expected = b"".join(map(memcached_load.answer_to_get, keys))
        if requests is not None and _exchange(self.servers[0], asked, self._secret) != expected:
            raise Void(f"{self.name}: what was set is not there")


def _exchange(server: Server, request: bytes, secret: str) -> bytes:
    with memcached_load.connect(server.port, secret) as connection:
        connection.sendall(request + b"quit\r\n")
        return connection.makefile("rb").read()


def _fill(server: Server, row: Row, secret: str = "") -> None:
    keys = [f"{row.verb}{number}" for number in range(row.keys)]
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        answer = _exchange(server, b"".join(map(memcached_load.set_command, batch)), secret)
        if answer != b"STORED\r\n" * len(batch):
            raise Void(f"{server.address} answered {answer[:100]!r}")


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group for each row."""
    for row in ROWS:
        with plan.room() as folder:
            node, memcached = rivals.sfss_node(folder), rivals.pinned_memcached(folder)
            guarded = rivals.sfss_node(folder, _SECRET)
            with all_running(node, guarded, memcached):
                contenders = [
                    Items(_NODE, node, row),
                    Items(_GUARDED, guarded, row, _SECRET),
                    Items(_MEMCACHED, memcached, row),
                ]
                _fill(node, row)
                _fill(guarded, row, _SECRET)
                _fill(memcached, row)
                versus = [
                    Versus(_NODE, _MEMCACHED, rate=row.bar, p99=None),
                    Versus(_GUARDED, _NODE, p99=None),
                ]
                yield compete(row.title, contenders, versus, plan)


if __name__ == "__main__":
    sys.exit(command.main({"node": question}))
