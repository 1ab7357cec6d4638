"""Photosrv as conf/photosrv.toml has it: shards of nginx nodes, and gateways over them."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sfss.placement import JumpShards, Shard
from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    Server,
    free_port,
    nginx_node,
    nginx_root,
    running,
    wait_until,
)

CONF: Final = CHECKOUT / "conf" / "photosrv.toml"
JSON: Final = {"Accept": "application/json"}
PORTS: Final = range(8101, 8107)
"""Of the nodes that the configuration names, two a shard."""


class Site:
    """Nodes, three shards of two, and the text of conf/photosrv.toml that is about them."""

    def __init__(self, folder: Path, nodes: Sequence[Server]) -> None:
        self.folder, self.nodes = folder, list(nodes)
        self.status_ports: dict[int, int] = {}
        self.pairs = [self.nodes[at : at + 2] for at in range(0, len(self.nodes), 2)]
        names = [f"s{number}" for number in range(1, len(self.pairs) + 1)]
        self.shards = JumpShards([Shard(name, (name,)) for name in names])

    def text(self, port: int) -> str:
        """Return the configuration of a gateway on ``port``."""
        status = self.status_ports.setdefault(port, free_port())
        nodes = [node.port for node in self.nodes]
        ports = {8888: port, 8889: status, **dict(zip(PORTS, nodes, strict=True))}
        text = CONF.read_text()
        for former, new in ports.items():
            assert f"127.0.0.1:{former}" in text
            text = text.replace(f"127.0.0.1:{former}", f"127.0.0.1:{new}")
        return text

    def gateway(self, more: str = "", options: Sequence[str] = (), **environ: str) -> Gateway:
        """Return a gateway (not started), with ``more`` behind its configuration."""
        port = free_port()
        config = self.folder / f"photosrv-{port}.toml"
        config.write_text(self.text(port) + more)
        command = [*SFSS, "serve", "--config", str(config), *options]
        return Gateway(command, port, self.folder, {**PYTHON_ENVIRON, **environ})

    def pair(self, path: str) -> list[Server]:
        """Return the nodes of the shard where ``path`` belongs (jump)."""
        name = self.shards.shard(path.encode()).name
        return self.pairs[int(name[1:]) - 1]

    def holders(self, path: str) -> list[Server]:
        """Return the nodes that have the file."""
        return [node for node in self.nodes if file_of(node, path).is_file()]

    def paths(self, prefix: str, count: int = 12) -> list[str]:
        """Return ``count`` paths, some on each shard."""
        found = [f"{prefix}/{number}.jpg" for number in range(count)]
        assert {self.shards.shard(path.encode()).name for path in found} == {"s1", "s2", "s3"}
        return found


def file_of(node: Server, path: str) -> Path:
    """Return where a node keeps ``path``."""
    return nginx_root(node) / path


def plant(node: Server, path: str, body: bytes) -> None:
    """Write a file into the folder of a node, as another program would."""
    file = file_of(node, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)


def get(gateway: Gateway, path: str, **headers: str) -> Answer:
    """Read a file by its URL path."""
    return gateway.request("GET", url_of(path), None, fields(headers))


def put(gateway: Gateway, path: str, body: bytes, **headers: str) -> Answer:
    """Store a file at its URL path."""
    return gateway.request("PUT", url_of(path), body, fields(headers))


def url_of(path: str) -> str:
    """Return the URL path of a file."""
    return f"/{quote(path)}"


def fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Return header fields whose names have an underscore for each hyphen."""
    return {name.replace("_", "-"): text for name, text in headers.items()}


def owed(gateway: Gateway) -> int:
    """Return how many writes nodes still have to get."""
    return len(gateway.request("GET", "/__missing__/", None, JSON).json()["missing"])


def paid(gateway: Gateway) -> None:
    """Wait until no node is owed anything."""
    wait_until(lambda: owed(gateway) == 0, "all debts are paid")


def variables(gateway: Gateway) -> dict[str, object]:
    """Return the counters of a gateway."""
    found = gateway.request("GET", "/debug/vars").json()
    assert isinstance(found, dict)
    return found


def logging(node: Server) -> Path:
    """Have a node (not started) log its requests, and return the file: a line "METHOD path" for
    each, with the X-Forwarded-For behind.
    """
    conf = Path(node.command[node.command.index("-c") + 1])
    file = node.folder / f"requests-{node.port}.log"
    own = f"log_format plain '$request_method $uri $http_x_forwarded_for'; access_log {file} plain;"
    assert "access_log off;" in conf.read_text()
    conf.write_text(conf.read_text().replace("access_log off;", own))
    return file


def slowed(node: Server, rate: str) -> None:
    """Have a node (not started) send no more than ``rate`` bytes a second on a connection."""
    conf = Path(node.command[node.command.index("-c") + 1])
    assert "sendfile on;" in conf.read_text()
    conf.write_text(conf.read_text().replace("sendfile on;", f"sendfile on; limit_rate {rate};"))


@contextmanager
def site(folder: Path, count: int = 6) -> Iterator[Site]:
    """Run the nodes of a site for the block."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(nginx_node(folder))) for _ in range(count)]
        yield Site(folder, nodes)


def memory_kib(pid: int, name: str) -> int:
    """Return a figure of /proc/PID/status: VmRSS, VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(name)


def open_file_sizes(pid: int, only_nameless: bool = False) -> list[int]:
    """Return the sizes of the files that a process has open."""
    sizes = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            is_nameless = str(entry.readlink()).endswith("(deleted)")
            if entry.is_file() and (is_nameless or not only_nameless):
                sizes.append(entry.stat().st_size)
        except OSError:
            continue
    return sizes


def spooled_sizes(pid: int) -> list[int]:
    """Return the sizes of the files without a name that a process has open: what it spools."""
    return open_file_sizes(pid, only_nameless=True)


def set_age(file: Path, age_s: float) -> None:
    """Make a file ``age_s`` old."""
    now_s = time.time()
    os.utime(file, (now_s - age_s, now_s - age_s))
