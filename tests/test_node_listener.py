"""Several processes that serve one store as nodes on one socket, as the workers of a gateway do."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sfss.config import MemcachedSettings
from sfss.handshake import ClientHandshake, new_nonce
from sfss.member_messages import ask
from sfss.record import new_record
from sfss.stores.memcached import MemcachedStore
from tests.servers import CHECKOUT, DEADLINE_S, PYTHON_ENVIRON, wait_until

SECRET = "the-secret-of-the-workers"
SETTINGS = MemcachedSettings(timeout_s=DEADLINE_S, secret=SECRET)
VERSION = 1_700_000_000_000_000


class Worker:
    """One process."""

    def __init__(self, bound: socket.socket, folder: Path, number: int) -> None:
        command = [sys.executable, "-m", "tests.serving_process", str(bound.fileno())]
        self.log = folder / f"worker-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(folder / "store"), SECRET],
                cwd=CHECKOUT,
                env={**os.environ, **PYTHON_ENVIRON},
                pass_fds=[bound.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: self.has_said("ready"), f"a worker serves; see {self.log}")

    def has_said(self, word: str) -> bool:
        """Tell whether the process has printed ``word``."""
        return word in self.log.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait(DEADLINE_S)


@contextmanager
def workers(folder: Path, count: int) -> Iterator[tuple[str, list[Worker]]]:
    """Run so many on one socket for the block; yield its address."""
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as bound:
        found = []
        for number in range(count):
            found.append(Worker(bound, folder, number))
            held.callback(found[-1].end)
        yield f"127.0.0.1:{bound.getsockname()[1]}", found


async def who(address: str) -> int:
    """Return the id of the process that takes in one client."""
    return int(await ask(address, SECRET, b"who", DEADLINE_S))


@contextmanager
def stopped(worker: Worker) -> Iterator[None]:
    """Have ``worker`` stand still for the block."""
    worker.send(signal.SIGSTOP)
    status = Path(f"/proc/{worker.process.pid}/status")
    wait_until(lambda: "\nState:\tT" in status.read_text(), "it stands still")
    yield
    worker.send(signal.SIGCONT)


@pytest.mark.asyncio
async def test_each_serves_and_sees_what_the_other_has_written(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (address, (one, two)):
        with stopped(two):
            assert await who(address) == one.process.pid
            store = MemcachedStore(address, SETTINGS)
            assert await store.set_newest(b"k", new_record(b"by one", VERSION)) is None
            await store.close()
        with stopped(one):
            assert await who(address) == two.process.pid
            store = MemcachedStore(address, SETTINGS)
            found = await store.get(b"k")
            assert found is not None
            assert bytes(found.body) == b"by one"
            newer = await store.set_newest(b"k", new_record(b"older", VERSION - 1))
            assert newer is not None
            assert newer.version == VERSION
            await store.close()


@pytest.mark.asyncio
async def test_one_that_is_killed_leaves_the_other(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (address, (one, two)):
        store = MemcachedStore(address, SETTINGS)
        await store.set(b"k", new_record(b"kept", VERSION))
        await store.close()
        one.end()
        for _ in range(5):
            assert await who(address) == two.process.pid
        store = MemcachedStore(address, SETTINGS)
        assert await store.get(b"k") is not None
        await store.close()


@pytest.mark.asyncio
async def test_one_that_stops_answers_and_lets_its_clients_go(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (address, (one, two)):
        with stopped(two):
            store = MemcachedStore(address, SETTINGS)
            await store.set(b"k0", new_record(b"0", VERSION))
            one.send(signal.SIGTERM)
        # Connections of the one that stops are closed under way; the other takes over.
        for number in range(1, 50):
            await store.set(b"k%d" % number, new_record(b"%d" % number, VERSION))
        await asyncio.to_thread(one.process.wait, DEADLINE_S)
        assert one.process.returncode == 0
        assert one.has_said("stopped")
        assert await who(address) == two.process.pid
        found = await asyncio.gather(*(store.get(b"k%d" % number) for number in range(50)))
        assert [bytes(each.body) for each in found if each is not None] == [
            b"%d" % number for number in range(50)
        ]
        await store.close()


@pytest.mark.asyncio
async def test_the_socket_outlives_all_who_stop(tmp_path: Path) -> None:
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as bound:
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for number in range(2):
            worker = Worker(bound, tmp_path, number)
            held.callback(worker.end)
            assert await who(address) == worker.process.pid
            worker.send(signal.SIGTERM)
            assert await asyncio.to_thread(worker.process.wait, DEADLINE_S) == 0


def test_a_client_in_the_middle_of_its_handshake_is_still_answered(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as (address, found), socket.socket() as client:
        host, _, port = address.rpartition(":")
        client.settimeout(DEADLINE_S)
        client.connect((host, int(port)))
        handshake = ClientHandshake(SECRET, new_nonce())
        client.sendall(handshake.request)
        proof = handshake.feed(client.recv(4096))
        found[0].send(signal.SIGTERM)
        wait_until(lambda: found[0].has_said("stopping"), "the worker stops")
        client.sendall(proof + b"version\r\n")
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
        assert answer.startswith(b"OK\r\nVERSION ")
