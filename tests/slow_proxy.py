"""A proxy of a test before an S3 server: it holds answers back until it is told to go on."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from tests.servers import DEADLINE_S

_PIECE = 65_536


class SlowProxy:
    """Relays connections to ``port``; what is answered to a GET of a target with ``held`` in it
    waits. ``waiting`` is set when the server has given such an answer.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.held = b""
        self.waiting, self._released = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []

    def hold(self, target: bytes) -> None:
        """Hold the answer to the next GET of ``target``; those to all others pass."""
        self.waiting.clear()
        self._released.clear()
        self.held = target

    def release(self) -> None:
        """Let what is held go on."""
        self.held = b""
        self._released.set()

    def run(self) -> None:
        """Take connections until it is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                threading.Thread(target=self._relay, args=(client, server), daemon=True).start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        is_held = threading.Event()
        threading.Thread(target=self._up, args=(client, server, is_held), daemon=True).start()
        with suppress(OSError), closing(client), closing(server):
            while piece := server.recv(_PIECE):
                if is_held.is_set():
                    self.waiting.set()
                    self._released.wait(DEADLINE_S)
                    is_held.clear()
                client.sendall(piece)

    def _up(self, client: socket.socket, server: socket.socket, is_held: threading.Event) -> None:
        with suppress(OSError):
            while piece := client.recv(_PIECE):
                if self.held and piece.startswith(b"GET ") and self.held in piece.split(b"\r")[0]:
                    self.held = b""
                    is_held.set()
                server.sendall(piece)

    def close(self) -> None:
        """Cut everything off."""
        self.release()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def slow_proxy(port: int) -> Iterator[SlowProxy]:
    """Run one for the block."""
    proxy = SlowProxy(port)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(DEADLINE_S)
