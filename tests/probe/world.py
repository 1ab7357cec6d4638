"""Three nodes and a gateway that a model does things to, one after the other, and what it did."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from tests.probe.load import message, target_of
from tests.probe.stores import STORES, StoreKind, config_of, files_of, make_gateway, summary
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

    def __init__(self, folder: Path, kind: StoreKind) -> None:
        self._folder, self._kind = folder, kind
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
            self.stores = [self._kind.make(folder) for _ in range(STORES)]
            self.gateway = make_gateway(folder, self.stores, kind=self._kind)
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
        fault = self._kind.faults["wiped"]
        fault.begin(store)
        fault.end(store)
        self.say(f"{store.address} has lost its disk")

    def flip(self, store: Server, path: str, bit: int) -> None:
        """Flip a bit of a file behind the back of a store, if it has got it."""
        flip = _flip_in_file if self._kind.is_plain else _flip_in_node
        size = flip(store, self._kind.key(path), bit)
        if size:
            self.say(f"bit {bit % (8 * size)} of {size} bytes: {store.address} {path}")

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
        key, found = self._kind.key(path), []
        for store in self.stores:
            try:
                item = self._kind.contents(store, [key], _LOOK_S)[key]
                found.append(summary(store.address, item))
            except (OSError, AssertionError) as error:
                found.append(f"{store.address}: {error!r}")
        return f"{path}: {', '.join(found)}"


def _flip_in_node(store: Server, key: bytes, bit: int) -> int:
    """Flip a bit of a record; return how many bytes that has."""
    folder = str(node_folder(store))
    with (
        lmdb.open(folder, lib_version=0, map_size=1 << 30) as environment,
        environment.begin(write=True) as transaction,
    ):
        value = bytearray(transaction.get(key) or b"")
        if value:
            _flip(value, bit)
            transaction.put(key, bytes(value))
    return len(value)


def _flip_in_file(store: Server, key: bytes, bit: int) -> int:
    """Flip a bit of a file as a bad disk does, which sets no time; return its size."""
    file = files_of(store) / key.decode()
    if not file.exists():
        return 0
    status, value = file.stat(), bytearray(file.read_bytes())
    if value:
        _flip(value, bit)
        file.write_bytes(value)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return len(value)


def _flip(value: bytearray, bit: int) -> None:
    bit %= 8 * len(value)
    value[bit // 8] ^= 1 << bit % 8


@contextmanager
def world_in(folder: Path, kind: StoreKind) -> Iterator[World]:
    """Return a world for the block."""
    world = World(folder, kind)
    try:
        yield world
    finally:
        world.end()
