"""How fast are files of 1 KiB stored, on disk by fsync before the answer, and by nginx, which syncs
nothing?

    python3 bench/put.py [--rounds 5] [--seconds 3]

PUT of a new path each, over 32, 64 and 128 connections, into the embedded store and by nginx's
WebDAV module into files. Before each round the disk is given time to write what is left of the last
one, for sfss's fsync must not pay for what nginx has left to the kernel.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import command
import rivals
from files import body
from harness import Contender, Group, Load, Plan, Versus, Void, all_running, compete

from tests.servers import Gateway, Server

BARS: dict[int, float | None] = {32: None, 64: 1.0, 128: None}
"""The least rate over nginx's, by connections."""

CONTENT = body("put")
_SAMPLES = 20


class Putting(Contender):
    """A server that is sent new files, in a folder for each round."""

    def __init__(self, name: str, server: Server, before: str, connections: int) -> None:
        super().__init__(name, server)
        self._before, self._connections = before, connections
        self._former = 0

    def load(self, number: int) -> Load:
        """Return the load with the paths of this round."""
        arguments = (self._target(number, ""), str(self.servers[0].folder / "content"))
        return Load("/", self._connections, script="put.lua", arguments=arguments)

    def check(self, number: int, requests: int | None) -> None:
        """Count the files, all of this round, and compare some."""
        if requests is None:
            os.sync()
            self._former = self.stored(number)
            return
        kept = self.stored(number) - self._former
        # What was on its way when wrk stopped may have been stored, and was not counted.
        if not requests <= kept <= requests + self._connections:
            raise Void(f"{self.name} answered {requests} times and stored {kept} files")
        # wrk draws the first path for itself and never sends it; the last may be unanswered.
        last = requests - self._connections
        for sample in range(2, max(3, last), max(1, last // _SAMPLES)):
            rivals.expect(self.servers[0], self._target(number, str(sample)), CONTENT)
        self.tidy(number)

    def _target(self, number: int, name: str) -> str:
        return f"{self._before}{self._connections}-{number}/{name}"

    def stored(self, number: int) -> int:
        """Return how many files there are, of this round at least."""
        raise NotImplementedError

    def tidy(self, number: int) -> None:
        """Remove what would be in the way of the next round."""


class SfssPutting(Putting):
    """sfss over an embedded store."""

    def __init__(self, server: Gateway, connections: int) -> None:
        super().__init__("sfss embedded, fsync", server, "/file?path=put/", connections)
        self._gateway = server

    def stored(self, number: int) -> int:
        """Return what /status says."""
        (store,) = self._gateway.request("GET", "/status").json().values()
        return int(store["curr_items"])


class NginxPutting(Putting):
    """nginx with WebDAV over the folder ``root``."""

    def __init__(self, server: Server, root: Path, connections: int) -> None:
        super().__init__("nginx WebDAV, no sync", server, "/", connections)
        self._root = root

    def stored(self, number: int) -> int:
        """Return how many files the folder has."""
        folder = self._root / self._target(number, "").strip("/")
        return sum(1 for _ in folder.iterdir()) if folder.exists() else 0

    def tidy(self, number: int) -> None:
        """Remove the folder, so that nginx never has to find a name among too many."""
        shutil.rmtree(self._root / self._target(number, "").strip("/"))


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group for each number of connections."""
    for connections, bar in BARS.items():
        yield _compare(plan, connections, bar)


def _compare(plan: Plan, connections: int, bar: float | None) -> Group:
    with plan.room() as folder:
        root = folder / "root"
        root.mkdir()
        (folder / "content").write_bytes(CONTENT)
        sfss = rivals.sfss_embedded(folder, folder / "store")
        nginx = rivals.nginx_dav(folder, root)
        with all_running(sfss, nginx):
            contenders = [SfssPutting(sfss, connections), NginxPutting(nginx, root, connections)]
            versus = Versus("sfss embedded, fsync", "nginx WebDAV, no sync", rate=bar)
            title = f"PUT of new files of 1 KiB, {connections} connections"
            return compete(title, contenders, [versus], plan)


if __name__ == "__main__":
    sys.exit(command.main({"put": question}))
