"""Three nodes and a gateway that a model does things to, one after the other, and what it did."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from sfss.keys import KeyScheme
from tests.probe.load import message, target_of
from tests.probe.stores import STORES, config_of, contents, make_gateway, make_node, summary
from tests.servers import (
    DEADLINE_S,
    SFSS,
    Answer,
    Gateway,
    Server,
    node_folder,
    wait_until,
)

PAID_S: Final = 90.0
"""Seconds until all debts have to be paid; a store that was down is asked after up to 60 s."""

_LOG_LINES: Final = 40
_LOOK_S: Final = 1.0


class World:
    """The processes, in ``folder``; ``events`` say what has happened to them since ``begin``, and
    ``has_failed`` that it was not right. ``count`` says how often all was begun.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = self.count = 0
        self._is_sound = False
        self.stores: list[Server] = []
        self.gateway: Gateway
        self.events: list[str] = []
        self.has_failed = False

    def begin(self) -> None:
        """Have everything run; start with empty stores, unless all was found to be well."""
        if not self._is_sound:
            self.end()
            self._number += 1
            folder = self._folder / str(self._number)
            folder.mkdir()
            self.stores = [make_node(folder) for _ in range(STORES)]
            self.gateway = make_gateway(folder, self.stores)
            for server in (*self.stores, self.gateway):
                server.start()
        self._is_sound = self.has_failed = False
        self.events, self.count = [], self.count + 1

    def is_well(self) -> None:
        """Take note that all copies are equal, and can be used again."""
        self._is_sound = True

    def end(self) -> None:
        """End all processes."""
        if self.stores:
            for server in (self.gateway, *self.stores):
                server.kill()

    def say(self, event: str) -> None:
        """Remember what has happened."""
        self.events.append(f"{time.time():.3f} {event}")

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send a request for a file."""
        began_s = time.monotonic()
        answer = self.gateway.request(method, target_of(path), body)
        took_ms = 1000 * (time.monotonic() - began_s)
        said = answer.body[:300] if answer.status >= 400 else b""
        self.say(f"{method} {path} {body!r:.40}: {answer.status} {said!r} {took_ms:.0f} ms")
        return answer

    def kill_gateway_in(self, method: str, path: str, body: bytes | None, after_s: float) -> None:
        """Send a request, and kill the gateway a moment later, whatever it has done by then."""
        with socket.create_connection((self.gateway.host, self.gateway.port)) as client:
            client.sendall(message(method, target_of(path), body))
            time.sleep(after_s)
            self.gateway.kill()
        self.gateway.start()
        self.say(f"the gateway was killed {1000 * after_s:g} ms after {method} {path}")

    def lose_disk(self, store: Server) -> None:
        """Kill a store, delete its files, and start it empty."""
        store.kill()
        shutil.rmtree(node_folder(store))
        store.start()
        self.say(f"{store.address} has lost its disk")

    def flip(self, store: Server, path: str, bit: int) -> None:
        """Flip a bit of a file behind the back of a store, if it has got it."""
        key = KeyScheme("percent").key(path)
        folder = str(node_folder(store))
        with (
            lmdb.open(folder, lib_version=0, map_size=1 << 30) as environment,
            environment.begin(write=True) as transaction,
        ):
            value = bytearray(transaction.get(key) or b"")
            if value:
                bit %= 8 * len(value)
                value[bit // 8] ^= 1 << bit % 8
                transaction.put(key, bytes(value))
                self.say(f"bit {bit} of {len(value)} bytes: {store.address} {path}")

    def owing(self) -> dict[str, Any]:
        """Return what the gateway says that stores are owed."""
        answer = self.gateway.request("GET", "/status?detail=full")
        assert answer.status == 200, answer
        ours = answer.json()["webserver"]
        return {name: ours[name] for name in ("owed", "needs_repair")}

    def wait_until_paid(self) -> None:
        """Wait until no store is owed anything."""
        began_s = time.monotonic()
        wait_until(lambda: not self.owing()["owed"], "all debts are paid", PAID_S)
        self.say(f"all debts are paid after {time.monotonic() - began_s:.1f} s")

    def tool(self, name: str) -> dict[str, Any]:
        """Run a repair tool on the stores of the gateway; return its report."""
        config = config_of(self.gateway.folder, self.gateway.port)
        done = subprocess.run(
            [*SFSS, name, "--config", str(config), "--json"],
            cwd=self.gateway.folder,
            env=self.gateway.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE_S,
            check=False,
        )
        assert not done.stderr, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        counts = {fault: count for fault, count in report["findings"].items() if count}
        self.say(f"sfss {name}: {done.returncode}, {counts}, {report['mended']} mended")
        return report

    @contextmanager
    def explaining(self, paths: Iterable[str]) -> Iterator[None]:
        """Say all that helps to find out why the block fails."""
        try:
            yield
        except AssertionError as error:
            self.has_failed = True
            looks = [self._look(path) for path in paths]
            log = self.gateway.output().splitlines()[-_LOG_LINES:]
            lines = [str(error), *self.events, *looks, *log]
            raise AssertionError("\n  ".join(lines)) from error

    def _look(self, path: str) -> str:
        """Return what every store that answers has at ``path`` now."""
        key, found = KeyScheme("percent").key(path), []
        for store in self.stores:
            try:
                found.append(summary(store.address, contents(store, [key], _LOOK_S)[key]))
            except (OSError, AssertionError) as error:
                found.append(f"{store.address}: {error!r}")
        return f"{path}: {', '.join(found)}"


@contextmanager
def world_in(folder: Path) -> Iterator[World]:
    """Return a world for the block."""
    world = World(folder)
    try:
        yield world
    finally:
        world.end()
