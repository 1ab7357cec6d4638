"""A blob server of SOS, as plain as its documentation has it: run as a process of its own.

    python tests/sos_server.py PORT FOLDER [--head] [--delete] [--keeps-first]

Only ``GET /alive``, ``GET /blobs``, ``GET`` and ``POST /blob/ID`` are sure; the options add what
some have: HEAD, DELETE; ``--keeps-first``: a second POST to an id is answered, and changes nothing.
"""

import argparse
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.servers import PYTHON_ENVIRON, Gateway, free_port

FIELDS = ".fields"


def sos_server(folder: Path, *options: str, port: int | None = None) -> Gateway:
    """Return a blob server (not started), with its blobs in ``folder_of`` it."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.sos_server", str(port), f"sos-{port}", *options]
    return Gateway(command, port, folder, PYTHON_ENVIRON)


def folder_of(server: Gateway) -> Path:
    """Return where a server has its blobs, each under its id."""
    return server.folder / f"sos-{server.port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65_536  # so that head and body go together
    folder: Path
    keeps_first: bool

    def do_GET(self) -> None:
        """Show a blob, all ids, or that this is alive."""
        if self.path == "/alive":
            self._say(200, b"yes")
        elif self.path == "/blobs":
            names = [file.name for file in self.folder.iterdir()]
            ids = sorted(name for name in names if not name.endswith(FIELDS))
            self._say(200, json.dumps(ids or None).encode())  # as Go writes an empty list
        elif (file := self._file()) is not None and file.exists():
            fields = json.loads(file.with_name(file.name + FIELDS).read_text())
            self._say(200, file.read_bytes(), fields)
        else:
            self._say(404, b"404 page not found\n")

    def do_POST(self) -> None:
        """Keep a blob."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        file = self._file()
        if file is None:
            self._say(404, b"404 page not found\n")
            return
        if not (self.keeps_first and file.exists()):
            fields = [(name, text) for name, text in self.headers.items() if name[:2] in "X-x-"]
            file.with_name(file.name + FIELDS).write_text(json.dumps(fields))
            file.write_bytes(body)
        self._say(200, b"OK")

    def _file(self) -> Path | None:
        found = re.fullmatch("/blob/([a-z0-9]+)", self.path)
        return None if found is None else self.folder / found[1]

    def _say(self, status: int, body: bytes, fields: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for name, text in fields or []:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say what was asked, for a test that fails."""
        sys.stderr.write(f"{format % arguments}\n")


class Deleter(Handler):
    """The same with DELETE."""

    def do_DELETE(self) -> None:
        """Remove a blob."""
        file = self._file()
        if file is None or not file.exists():
            self._say(404, b"404 page not found\n")
            return
        file.unlink()
        self._say(200, b"OK")


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    for option in ("--head", "--delete", "--keeps-first"):
        parser.add_argument(option, action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    kind: type[Handler] = Deleter if options.delete else Handler
    made = type("Made", (kind,), {"folder": options.folder, "keeps_first": options.keeps_first})
    if options.head:
        made.do_HEAD = made.do_GET  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", options.port), made)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
