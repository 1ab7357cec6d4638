"""Real servers for the tests: started on free ports of 127.0.0.1, stopped with the test that asked.

A server is a child process; ``pause`` and ``resume`` stop and continue it (SIGSTOP), ``kill`` is
SIGKILL, and ``start`` after ``kill`` gives a new process on the same port.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote
from xml.sax.saxutils import unescape

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sfss.cli import main as sfss

CHECKOUT = Path(__file__).resolve().parent.parent
DEADLINE_S = 30.0

PYTHON_ENVIRON = {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])}
"""Lets a child interpreter import what this one can."""

SECRET = "the-secret-key-of-the-tests"
"""For buckets. It is never to be seen."""

_LOWEST_PORT = 12_000
_HIGHEST_PORT = 32_000

SFSS = [sys.executable, "-m", "sfss.cli"]

SEARCH_PATH = os.pathsep.join([str(CHECKOUT / "bin"), os.environ.get("PATH", ""), "/usr/sbin"])


OPTIONAL = frozenset({"gobeansdb", "versitygw"})
"""What is no package of Debian: the only programs whose tests CI may skip."""


def lacking(what: str) -> NoReturn:
    """Skip the test for want of something of the machine; in CI it fails, nothing hides there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def binary(name: str) -> str:
    """Return the program ``name``; skip the test where it is missing."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None and name in OPTIONAL:
        pytest.skip(f"{name} is not installed")
    return found or lacking(f"{name} is not installed")


def _ports() -> Iterator[int]:
    """Yield ports for ever: each process that runs tests has some of its own, one after the other.

    Drawn from all of them, one would be given to two tests now and then: some time passes before a
    server listens, and one that was killed is to have its port again.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    turn = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(_LOWEST_PORT + turn, min(_HIGHEST_PORT, int(ephemeral[0])), count)
    # Hypothesis seeds the other one: two runs would take the same ports.
    start = random.SystemRandom().randrange(len(ports))
    return itertools.cycle([*ports[start:], *ports[:start]])


_own_ports = _ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, that nobody was given lately, and that no
    outgoing connection is given: those are many.
    """
    while True:
        port = next(_own_ports)
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(holds: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until ``holds()`` is true; fail the test after ``deadline_s``."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.01)


def listens(port: int) -> bool:
    """Tell whether 127.0.0.1:``port`` accepts connections."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Server:
    """A child process that listens on ``port``."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        folder: Path,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.command, self.port, self.folder = list(command), port, folder
        self.environ = {**os.environ, **(environ or {})}
        self.log = folder / f"{Path(command[0]).name}-{port}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.host = "127.0.0.1"
        self.address = f"{self.host}:{port}"

    def start(self) -> None:
        """Start the process and wait until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._ready, f"{self.command[0]} listens on {self.port}; see {self.log}")

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"{self.command} ended with {self.process.returncode}: {self.output()}")
        return listens(self.port)

    def output(self) -> str:
        """Return what the process has written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self.process is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        os.kill(self.pid, number)

    def pause(self) -> None:
        """Stop the process without closing its connections; return when all its threads have."""
        self.send(signal.SIGSTOP)
        wait_until(self._stopped, f"every thread of {self.command[0]} has stopped")

    def _stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        states = [(thread / "stat").read_text().rpartition(")")[2] for thread in threads]
        return all(state.split()[0] == "T" for state in states)

    def resume(self) -> None:
        """Let a paused process go on."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End the process and its children at once."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask the process to end, wait for it and return its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
                # Only after the signal: a paused server must not answer before it is killed.
                os.kill(self.process.pid, signal.SIGCONT)
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                number = signal.SIGKILL
        # The server leads a session of its own: what it left behind goes with it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        wait_until(lambda: not listens(self.port), f"nobody listens on {self.port} any more")
        return self.process.wait(DEADLINE_S)


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Run ``server`` for the block."""
    try:
        server.start()
        yield server
    finally:
        server.kill()


def memcached(folder: Path, *options: str, port: int | None = None) -> Server:
    """Return a memcached (not started); ``options`` as on its command line."""
    port = port or free_port()
    command = [binary("memcached"), "-l", "127.0.0.1", "-p", str(port), "-U", "0", *options]
    return Server([*command, *(["-u", "root"] if os.getuid() == 0 else [])], port, folder)


def nutcracker(folder: Path, servers: Sequence[str], timeout_ms: int = 400) -> Server:
    """Return a twemproxy (not started) over memcached ``servers``, each ``host:port``."""
    port = free_port()
    conf = folder / f"nutcracker-{port}.yml"
    lines = [
        "pool:",
        f"  listen: 127.0.0.1:{port}",
        "  hash: md5",
        "  distribution: ketama",
        "  auto_eject_hosts: false",
        f"  timeout: {timeout_ms}",
        "  servers:",
        *(f"    - {server}:1" for server in servers),
    ]
    conf.write_text("\n".join(lines) + "\n")
    stats_port = free_port()
    command = [binary("nutcracker"), "-c", str(conf), "-s", str(stats_port), "-a", "127.0.0.1"]
    return Server([*command, "-p", str(folder / f"nutcracker-{port}.pid")], port, folder)


def gobeansdb(folder: Path) -> Server:
    """Return a gobeansdb (not started) that keeps its data under ``folder``."""
    program, port, web_port = binary("gobeansdb"), free_port(), free_port()
    home = folder / f"gobeansdb-{port}"
    for name in ("conf", "log", "data"):
        (home / name).mkdir(parents=True)
    (home / "conf" / "global.yaml").write_text(
        f"""\
server:
  hostname: 127.0.0.1
  listen: 127.0.0.1
  port: {port}
  webport: {web_port}
  threads: 4
  logdir: {home / "log"}
hstore:
  local:
    homes:
    - {home / "data"}
"""
    )
    return Server([program, "-confdir", str(home / "conf")], port, folder)


def node(folder: Path, *options: str) -> Server:
    """Return an ``sfss node`` (not started) over a store under ``folder``; see ``node_folder``."""
    port = free_port()
    command = [*SFSS, "node", "--listen", f"127.0.0.1:{port}", *options]
    return Server([*command, "--store", f"node-{port}"], port, folder, PYTHON_ENVIRON)


def node_folder(server: Server) -> Path:
    """Return where a node keeps its store."""
    return server.folder / f"node-{server.port}"


def damage_heads(store: Path, body: bytes) -> None:
    """Flip a bit before each place where ``body`` lies in the data file."""
    content = (store / "data.mdb").read_bytes()
    places = [found.start() - 40 for found in re.finditer(re.escape(body), content)]
    assert places
    with (store / "data.mdb").open("r+b") as file:
        for place in places:
            os.pwrite(file.fileno(), bytes([content[place] ^ 1]), place)


def nginx_node(folder: Path, *options: str, port: int | None = None) -> Server:
    """Return an nginx (not started) as ``sfss nginx node`` sets it up, over ``nginx_root``.

    ``options`` are those of ``sfss nginx node``. It is one process, so that ``pause`` stops it.
    """
    port = port or free_port()
    root, work = folder / f"files-{port}", folder / f"nginx-{port}"
    places = ["--root", str(root), "--work", str(work), "--listen", f"127.0.0.1:{port}"]
    return nginx(folder, port, "node", *places, *options)


def nginx_root(server: Server) -> Path:
    """Return the folder of the files of an ``nginx_node``."""
    return server.folder / f"files-{server.port}"


def s3(folder: Path, port: int | None = None) -> "S3Server":
    """Return a server of the S3 protocol (not started), which keeps all in memory."""
    port = port or free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return S3Server(command, port, folder, PYTHON_ENVIRON)


def versitygw(folder: Path) -> "S3Server":
    """Return another (not started), which keeps all in ``folder`` and looks at signatures."""
    port, root = free_port(), folder / "versitygw"
    root.mkdir(exist_ok=True)
    options = ["--port", f"127.0.0.1:{port}", "--access", "key", "--secret", SECRET, "--keep-alive"]
    command = [binary("versitygw"), *options, "posix", str(root)]
    return S3Server(command, port, folder)


class S3Server(Server):
    """A running server of the S3 protocol."""

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{self.host}:{self.port}"

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Answer":
        """Send one request as another client and return the answer."""
        request = AWSRequest(method, self.url + target, dict(headers or {}), body or b"")
        S3SigV4Auth(Credentials("key", SECRET), "s3", "us-east-1").add_auth(request)
        with closing(HTTPConnection(self.host, self.port, timeout=DEADLINE_S)) as connection:
            return ask(connection, method, target, body, dict(request.headers.items()))

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        assert self.ask("PUT", f"/{name}").status == 200

    def put(self, key: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Put an object as another client; ``key`` begins with the name of the bucket."""
        assert self.ask("PUT", f"/{quote(key)}", body, headers).status == 200

    def get(self, key: str) -> "Answer":
        """Return the object as another client sees it."""
        return self.ask("GET", f"/{quote(key)}")

    def delete(self, key: str) -> None:
        """Remove an object as another client."""
        assert self.ask("DELETE", f"/{quote(key)}").status == 204

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of all objects, up to 1000."""
        text = self.ask("GET", f"/{bucket}?list-type=2").body.decode()
        return [unescape(key) for key in re.findall("<Key>(.*?)</Key>", text)]


def nginx(folder: Path, port: int, *arguments: str) -> Server:
    """Return an nginx (not started) with what ``sfss nginx`` writes for ``arguments``."""
    program, conf = binary("nginx"), folder / f"nginx-{port}.conf"
    for name in (f"files-{port}", f"nginx-{port}"):
        (folder / name).mkdir(exist_ok=True)
    assert sfss(["nginx", *arguments, "--output", str(conf)]) == 0
    errors = str(folder / f"nginx-{port}" / "early.log")
    in_foreground = "daemon off; master_process off;"
    return Server([program, "-e", errors, "-c", str(conf), "-g", in_foreground], port, folder)


def gateway(
    folder: Path, *options: str, settings: str = "", environ: Mapping[str, str] | None = None
) -> "Gateway":
    """Return a gateway (not started) with the TOML ``settings``, on a free port."""
    port = free_port()
    config = folder / f"sfss-{port}.toml"
    config.write_text(settings)
    command = [*SFSS, "serve", "--config", str(config), "--port", str(port), *options]
    return Gateway(command, port, folder, {**PYTHON_ENVIRON, **(environ or {})})


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; ``headers`` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body parsed."""
        return json.loads(self.body)


class Gateway(Server):
    """A running ``sfss serve``."""

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{self.host}:{self.port}"

    def connect(self) -> HTTPConnection:
        """Return a connection to the gateway."""
        return HTTPConnection(self.host, self.port, timeout=DEADLINE_S)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        with closing(self.connect()) as connection:
            return ask(connection, method, target, body, headers)

    def put(self, path: str, body: bytes) -> Answer:
        """Store a file."""
        return self.request("PUT", f"/file?path={quote(path)}", body)

    def get(self, path: str) -> Answer:
        """Read a file."""
        return self.request("GET", f"/file?path={quote(path)}")

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def ask(
    connection: HTTPConnection,
    method: str,
    target: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request over ``connection`` and read its answer whole."""
    connection.request(method, target, body, dict(headers or {}))
    response = connection.getresponse()
    names = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, names, response.read())
