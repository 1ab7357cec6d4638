"""What do copies cost: three on three nodes, of which two must have a write, beside one on one?

    python3 bench/copies.py [--rounds 5] [--seconds 3]

PUT of new files of 1 KiB over 64 connections and GET of one hot file, through one worker. All nodes
(sfss node, fsync before each answer) share the servers' core with the gateway, and their CPU time
counts; on machines of their own, three copies would cost less time and the same CPU.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import command
import rivals
from files import KIB, body
from get_hot import put
from get_memcached import OneItem
from harness import Group, Load, Plan, Versus, all_running, compete
from put import CONTENT, Putting

from tests.servers import Gateway, Server

_HOT = "pictures/hot.bin"
_CONNECTIONS = 64
_SETTLED_S = 10.0


class CopiesPutting(Putting):
    """A gateway over nodes."""

    def __init__(self, name: str, gateway: Gateway, nodes: list[Server]) -> None:
        super().__init__(name, gateway, "/file?path=put/", _CONNECTIONS)
        self.servers = (gateway, *nodes)
        self._gateway = gateway
        self._was = 0

    def check(self, number: int, requests: int | None) -> None:
        """Give the last copy the time to arrive, and count."""
        if requests is None:
            self._was = self.stored(number)
        else:
            end = time.monotonic() + _SETTLED_S
            while self.stored(number) - self._was < requests and time.monotonic() < end:
                time.sleep(0.05)
        super().check(number, requests)

    def stored(self, number: int) -> int:
        """Return how many items the node with the fewest has."""
        stores = self._gateway.request("GET", "/status").json().values()
        return min(int(store["curr_items"]) for store in stores)


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group for PUT and one for GET."""
    with plan.room() as folder, ExitStack() as stack:
        one = [rivals.sfss_node(_made(folder / "one"))]
        three = [rivals.sfss_node(_made(folder / f"three-{number}")) for number in range(3)]
        stack.enter_context(all_running(*one, *three))
        single = rivals.sfss_nodes(_made(folder / "single"), one)
        copies = rivals.sfss_copies(_made(folder / "copies"), three)
        for gateway in (single, copies):
            (gateway.folder / "content").write_bytes(CONTENT)
        stack.enter_context(all_running(single, copies))
        yield _puts(plan, (single, one), (copies, three))
        yield _gets(plan, (single, one), (copies, three))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _puts(
    plan: Plan, single: tuple[Gateway, list[Server]], copies: tuple[Gateway, list[Server]]
) -> Group:
    contenders = [CopiesPutting("N=3 W=2", *copies), CopiesPutting("one copy", *single)]
    title = f"PUT of new files of 1 KiB, {_CONNECTIONS} connections, nodes"
    return compete(title, contenders, [Versus("N=3 W=2", "one copy", p99=None)], plan)


def _gets(
    plan: Plan, single: tuple[Gateway, list[Server]], copies: tuple[Gateway, list[Server]]
) -> Group:
    for gateway, _ in (single, copies):
        put(gateway, _HOT, body(_HOT))
    contenders = [_Hot("N=3 W=2", *copies), _Hot("one copy", *single)]
    title = "GET one hot file of 1 KiB, nodes"
    return compete(title, contenders, [Versus("N=3 W=2", "one copy", p99=None)], plan)


class _Hot(OneItem):
    """A gateway over nodes, asked for one file."""

    def __init__(self, name: str, gateway: Gateway, nodes: list[Server]) -> None:
        super().__init__(name, gateway, nodes[0], _HOT)
        self.servers = (gateway, *nodes)

    def load(self, number: int) -> Load:
        """Return the same in each round."""
        return Load(f"/file?path={_HOT}", body_size=KIB)


if __name__ == "__main__":
    sys.exit(command.main({"copies": question}))
