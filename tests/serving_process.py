"""One of several processes that serve a store of their own as nodes on one socket, for the tests.

    python -m tests.serving_process DESCRIPTOR FOLDER SECRET

Messages are answered with the id of the process; SIGTERM drains.
"""

import asyncio
import os
import signal
import socket
import sys

import uvloop

from sfss.node import Server
from sfss.node_commands import NodeSettings
from sfss.node_listener import NodeListener
from sfss.stores.lmdb_copies import LmdbCopies


async def _tell(_: bytes) -> bytes:
    return b"%d" % os.getpid()


async def _serve(bound: socket.socket, folder: str, secret: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    store = LmdbCopies(f"lmdb:{folder}", timeout_s=30.0)
    listener = NodeListener(Server(store, NodeSettings(secret=secret), 0, _tell))
    await listener.accept(bound)
    print("ready", flush=True)
    await stopping.wait()
    print("stopping", flush=True)
    await listener.stop()
    assert bound.fileno() >= 0
    await store.close()
    print("stopped", flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:]))
