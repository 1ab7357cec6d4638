"""A load in the memcached text protocol, as cheap as Python makes it; every answer is compared.

    memcached_load.py PORT get|set SECONDS CONNECTIONS BATCH KEYS PREFIX [SECRET]

Each connection sends ``BATCH`` commands in one write and reads all their answers; a connection that
is alone has two batches under way, so that the server never waits for the load. The keys are
``PREFIX`` and a number below ``KEYS``, drawn in an order that is mixed but always the same; the
values are those of ``files.body``. Each connection first proves that it knows ``SECRET``, if there
is one. Prints requests, seconds and latencies of the batches as JSON.
"""

import json
import random
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from files import body

from sfss.handshake import ClientHandshake, new_nonce

Batch = tuple[bytes, bytes]
"""What is sent, and what has to come back."""


class Load(NamedTuple):
    """The command line."""

    port: int
    verb: str
    seconds: float
    connections: int
    batch: int
    keys: int
    prefix: str
    secret: str = ""


def set_command(key: str) -> bytes:
    """Return the command that stores what belongs under ``key``."""
    value = body(key)
    return b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value)


def answer_to_get(key: str) -> bytes:
    """Return what a get of ``key`` is answered."""
    value = body(key)
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key.encode(), len(value), value)


def batches_of(load: Load) -> list[Batch]:
    """Return all that is sent, to be repeated."""
    keys = [f"{load.prefix}{number}" for number in range(load.keys)]
    random.Random(1).shuffle(keys)
    groups = [keys[start : start + load.batch] for start in range(0, load.keys, load.batch)]
    if load.verb == "set":
        return [(b"".join(map(set_command, group)), b"STORED\r\n" * len(group)) for group in groups]
    return [
        (
            b"".join(b"get %b\r\n" % key.encode() for key in group),
            b"".join(map(answer_to_get, group)),
        )
        for group in groups
    ]


def connect(port: int, secret: str) -> socket.socket:
    """Return a connection on which commands are taken."""
    connected = socket.create_connection(("127.0.0.1", port), timeout=30)
    if secret:
        handshake = ClientHandshake(secret, new_nonce())
        connected.sendall(handshake.request)
        while not handshake.finished:
            connected.sendall(handshake.feed(connected.recv(1024)))
    return connected


class Connection:
    """One connection with its share of the batches."""

    def __init__(self, connected: socket.socket, batches: Sequence[Batch], under_way: int) -> None:
        self.socket = connected
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._batches = batches
        self._sent = self._received = 0
        self._got = 0
        self._sent_ns: list[int] = []
        self._buffers = [bytearray(len(answer)) for _, answer in batches]
        for _ in range(under_way):
            self._send()

    def _send(self) -> None:
        self._sent_ns.append(time.perf_counter_ns())
        self.socket.sendall(self._batches[self._sent % len(self._batches)][0])
        self._sent += 1

    def receive(self) -> int | None:
        """Take what has come; at the end of a batch check it, send the next, and return how long it
        took in nanoseconds.
        """
        place = self._received % len(self._batches)
        answer, buffer = self._batches[place][1], self._buffers[place]
        count = self.socket.recv_into(memoryview(buffer)[self._got :])
        if not count:
            sys.exit("the server has closed")
        self._got += count
        if self._got < len(answer):
            return None
        if buffer != answer:
            sys.exit(f"a wrong answer: {bytes(buffer[:200])!r}")
        buffer[:8] = bytes(8)  # the next time it has to come again
        self._got = 0
        self._received += 1
        took_ns = time.perf_counter_ns() - self._sent_ns[self._received - 1]
        self._send()
        return took_ns


def run(load: Load) -> dict[str, float]:
    """Put the load on the server and return what came of it."""
    batches = batches_of(load)
    share = max(1, len(batches) // load.connections)
    under_way = 2 if load.connections == 1 else 1
    begun_s = time.monotonic()
    connections = [
        Connection(connect(load.port, load.secret), batches[number * share :][:share], under_way)
        for number in range(load.connections)
    ]
    took_ns: list[int] = []
    with selectors.EpollSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while time.monotonic() - begun_s < load.seconds:
            for key, _ in selector.select(1):
                took = key.data.receive()
                if took is not None:
                    took_ns.append(took)
    elapsed_s = time.monotonic() - begun_s
    took_ns.sort()
    requests = len(took_ns) * load.batch
    return {
        "requests": requests,
        "rate": requests / elapsed_s,
        "p50_us": took_ns[len(took_ns) // 2] / 1000,
        "p99_us": took_ns[len(took_ns) * 99 // 100] / 1000,
    }


def main(port: str, verb: str, seconds: str, *numbers: str) -> None:
    """Run the command line."""
    connections, batch, keys, *texts = numbers
    load = Load(int(port), verb, float(seconds), int(connections), int(batch), int(keys), *texts)
    print(json.dumps(run(load)))


if __name__ == "__main__":
    main(*sys.argv[1:])
