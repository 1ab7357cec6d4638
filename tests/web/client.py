"""A client that does as it is told, byte by byte: what an HTTP library would never send."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from urllib.parse import quote

from tests.servers import DEADLINE_S, Answer, Gateway


class Wire:
    """One connection to ``host:port``; ``answer`` reads one answer whole."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=DEADLINE_S)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, *pieces: bytes) -> None:
        """Send bytes."""
        for piece in pieces:
            self._socket.sendall(piece)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave without a word: the server finds the connection reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def answer(self, method: str = "GET") -> Answer:
        """Read the next answer; it is one to ``method``."""
        line = self._file.readline()
        assert line.startswith(b"HTTP/"), line
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            # Of ways to say who one is there may be several, and clients expect a line for each.
            assert name.lower() not in headers or name.lower() == "www-authenticate", line
            headers[name.lower()] = value.strip()
        bare = method == "HEAD" or status in (100, 204, 304)
        size = 0 if bare else int(headers["content-length"])
        return Answer(status, headers, self._file.read(size))

    def ended(self) -> bool:
        """Wait for the end of the connection, and tell whether nothing came before it."""
        return self._file.read(1) == b""


@contextmanager
def wire(gateway: Gateway) -> Iterator[Wire]:
    """Connect to a gateway."""
    with Wire(gateway.host, gateway.port) as connection:
        yield connection


def head(method: str, target: str, *fields: str, version: str = "1.1") -> bytes:
    """Return the head of a request with the header ``fields``, each "Name: value"."""
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def chunked(*chunks: bytes) -> bytes:
    """Return ``chunks`` in chunked transfer coding, with the last chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def multipart(*parts: tuple[str, bytes], boundary: str = "x1y2") -> tuple[str, bytes]:
    """Return Content-Type and body of a form; each part is (Content-Disposition, body)."""
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
        for disposition, content in parts
    )
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


LIMIT = 2_097_152
"""Bytes that a file may have, unless set otherwise."""

FILE = 'form-data; name="upload_file"; filename="a.bin"'
"""Content-Disposition of a part that is a file, as ``curl -F upload_file=@a.bin`` sends it."""


def file_at(path: str) -> str:
    """Return the target of /file for ``path``."""
    return f"/file?path={quote(path)}"


def files_at(path: str) -> str:
    """Return the target of /files for ``path``."""
    return f"/files?path={quote(path)}"


def sentence(answer: Answer) -> str:
    """Return the sentence of an error in JSON."""
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert list(document) == ["error"]
    return str(document["error"])
