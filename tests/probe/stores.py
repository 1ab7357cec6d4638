"""The stores of a probe: how they are made, what is done to them, and what each really has."""

import resource
import shutil
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sfss.keys import KeyScheme
from sfss.record import Kind, decode
from tests.probe.expectations import shown
from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    Server,
    free_port,
    gobeansdb,
    memcached,
    nginx_node,
    nginx_root,
    node_folder,
)

STORES: Final = 3
_ROSTER: Final = "roster"


def make_node(folder: Path) -> Server:
    """Return an ``sfss node`` (not started)."""
    port = free_port()
    command = [*SFSS, "node", "--listen", f"127.0.0.1:{port}", "--store", f"node-{port}"]
    return Server(command, port, folder, PYTHON_ENVIRON)


def make_gateway(
    folder: Path, stores: Sequence[Server], more: str = "", kind: "StoreKind | None" = None
) -> Gateway:
    """Return a gateway (not started) that keeps three copies, and needs two; ``more`` settings.
    ``kind`` of the stores, by default nodes.
    """
    kind = kind or KINDS["nodes"]
    port = free_port()
    config = config_of(folder, port)
    _write_roster(folder, [store.address for store in stores])
    addresses = ", ".join(f'"{kind.url(store)}"' for store in stores)
    config.write_text(
        f"""\
[server]
port = {port}
workers = 2
[cluster]
kind = "replicated"
[replicated]
stores = [{addresses}]
{kind.placement}
write_quorum = 2
owed_folder = "owed-{port}"
roster = "{_ROSTER}"
roster_check_s = 0.1
{more}"""
    )
    command = [*SFSS, "serve", "--config", str(config)]
    return Gateway(command, port, folder, PYTHON_ENVIRON)


def _write_roster(folder: Path, addresses: Sequence[str]) -> None:
    new = folder / f"{_ROSTER}.new"
    new.write_text("".join(f"{address}\n" for address in addresses))
    new.rename(folder / _ROSTER)


def _listed(folder: Path) -> list[str]:
    return (folder / _ROSTER).read_text().split()


def config_of(folder: Path, port: int) -> Path:
    """Return the settings file of the gateway on ``port``."""
    return folder / f"sfss-{port}.toml"


@dataclass(frozen=True)
class Fault:
    """Something that happens to one store: how it begins and ends; whether it ``loses`` files, and
    ``stays`` when the gateway is started anew.
    """

    begin: Callable[[Server], object]
    end: Callable[[Server], object]
    loses: bool = False
    stays: bool = True


def _wipe(server: Server) -> None:
    server.kill()
    shutil.rmtree(node_folder(server))


def _fill(server: Server) -> None:
    """Have writes fail with EFBIG, which is treated like a full disk."""
    # Less than the file has already, or free pages in it would do for a while.
    size = (node_folder(server) / "data.mdb").stat().st_size // 2
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _make_room(server: Server) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)


def _unlist(server: Server) -> None:
    others = [each for each in _listed(server.folder) if each != server.address]
    _write_roster(server.folder, others)


def _list(server: Server) -> None:
    _write_roster(server.folder, [*_listed(server.folder), server.address])


PAUSED: Final = Fault(Server.pause, Server.resume)
KILLED: Final = Fault(Server.kill, Server.start)
UNLISTED: Final = Fault(_unlist, _list)


class Item(NamedTuple):
    """What a store has under a key, as it lies there. Without ``flags`` it is a plain file."""

    flags: int | None
    value: bytes


@dataclass(frozen=True)
class StoreKind:
    """One kind of servers: how one is made, and what may happen to it.

    Plain ones keep files in ``files_of``, by path. ``share`` of the time of a probe is for it.
    """

    make: Callable[[Path], Server]
    faults: dict[str, Fault]
    is_plain: bool = False
    share: float = 1.0

    def url(self, server: Server) -> str:
        """Return the address of ``server`` as a store."""
        is_node = self.is_plain and not isinstance(server, Folder)
        return f"http://{server.address}/" if is_node else server.address

    @property
    def placement(self) -> str:
        """Settings by which each store has each file."""
        return 'placement = "mirror"\nread_mode = "random"' if self.is_plain else "copies = 3"

    def key(self, path: str) -> bytes:
        """Return the key of ``path``."""
        return KeyScheme("files" if self.is_plain else "percent").key(path)

    def contents(
        self, server: Server, keys: Iterable[bytes], timeout_s: float = DEADLINE_S
    ) -> dict[bytes, Item | None]:
        """Return what ``server`` has under each of ``keys``; raises ``OSError``."""
        if self.is_plain:
            return {key: _file(files_of(server) / key.decode()) for key in keys}
        with closing(Peek(server, timeout_s)) as peek:
            return {key: peek.get(key) for key in keys}


class Folder(Server):
    """A folder of plain files, which is no process."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        super().__init__(["folder"], port, folder)
        self.address = f"file:files-{port}"

    def start(self) -> None:
        """Make it."""
        files_of(self).mkdir()

    def kill(self) -> None:
        """Nothing is to be ended."""


def files_of(server: Server) -> Path:
    """Return where a plain store keeps its files."""
    return nginx_root(server)


def _file(file: Path) -> Item | None:
    try:
        return Item(None, file.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _move_away(server: Server) -> None:
    files_of(server).rename(_elsewhere(server))


def _move_back(server: Server) -> None:
    _elsewhere(server).rename(files_of(server))


def _elsewhere(server: Server) -> Path:
    return server.folder / f"moved-{server.port}"


def _emptied(server: Server) -> None:
    """Move a folder back without what was in it. It has to be the same one: of another, the gateway
    would say that it is not there.
    """
    for place in _elsewhere(server).glob("[!.]*"):
        shutil.rmtree(place)
    _move_back(server)


def _robbed(server: Server) -> None:
    """Move a folder back without every other file."""
    files = sorted(file for file in _elsewhere(server).glob("[!.]*/**/*") if file.is_file())
    for file in files[::2]:
        file.unlink()
    _move_back(server)


def _bar(server: Server) -> None:
    """Have nothing be written any more; reads go on."""
    own = files_of(server) / ".sfss"
    (own / "tmp").rename(own / "barred")
    while not (own / "tmp").is_file():
        # The gateway makes it anew when it finds it missing.
        with suppress(IsADirectoryError):
            (own / "tmp").touch()
        if (own / "tmp").is_dir():
            shutil.rmtree(own / "tmp")


def _unbar(server: Server) -> None:
    own = files_of(server) / ".sfss"
    (own / "tmp").unlink()
    (own / "barred").rename(own / "tmp")


def _wipe_node(server: Server) -> None:
    server.kill()
    for place in files_of(server).glob("[!.]*"):
        shutil.rmtree(place)


KINDS: Final = {
    "nodes": StoreKind(
        make_node,
        {
            "killed": KILLED,
            "paused": PAUSED,
            "wiped": Fault(_wipe, Server.start, loses=True),
            "full": Fault(_fill, _make_room),
            "unlisted": UNLISTED,
        },
    ),
    "memcacheds": StoreKind(
        lambda folder: memcached(folder, port=free_port()),
        {
            "paused": PAUSED,
            "emptied": Fault(Server.kill, Server.start, loses=True),
            "unlisted": UNLISTED,
        },
    ),
    "gobeansdbs": StoreKind(
        gobeansdb, {"paused": PAUSED, "stopped": Fault(Server.stop, Server.start)}
    ),
    "folders": StoreKind(
        Folder,
        {
            "moved": Fault(_move_away, _move_back, stays=False),
            "emptied": Fault(_move_away, _emptied, loses=True, stays=False),
            "robbed": Fault(_move_away, _robbed, loses=True, stays=False),
            "read-only": Fault(_bar, _unbar),
        },
        is_plain=True,
        share=0.25,
    ),
    "nginxes": StoreKind(
        lambda folder: nginx_node(folder, port=free_port()),
        {
            "killed": KILLED,
            "paused": PAUSED,
            "wiped": Fault(_wipe_node, Server.start, loses=True),
            "unlisted": UNLISTED,
        },
        is_plain=True,
        share=0.25,
    ),
}


class Peek:
    """A look into one store past the gateway, in the memcached protocol."""

    def __init__(self, server: Server, timeout_s: float = DEADLINE_S) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout_s)
        self._file = self._socket.makefile("rb")

    def get(self, key: bytes) -> Item | None:
        """Return what is under ``key``."""
        self._socket.sendall(b"get %s\r\n" % key)
        line = self._line()
        if line == b"END":
            return None
        word, found, flags, size = line.split()
        assert (word, found) == (b"VALUE", key), line
        value = self._file.read(int(size))
        assert self._line() == b""
        assert self._line() == b"END"
        return Item(int(flags), value)

    def requests(self) -> int:
        """Return how many gets and sets the store was asked for, this one's included."""
        self._socket.sendall(b"stats\r\n")
        stats: dict[bytes, bytes] = {}
        while (line := self._line()) != b"END":
            _, name, value = line.split(b" ", 2)
            stats[name] = value
        return int(stats[b"cmd_get"]) + int(stats[b"cmd_set"])

    def _line(self) -> bytes:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2]

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()


def body_in(item: Item | None, address: str, key: bytes) -> bytes | None:
    """Return the body of what the store at ``address`` has; None: nothing, or a tombstone."""
    if item is None or item.flags is None:
        return None if item is None else item.value
    head, body = decode(item.value, address, key)
    return None if head.kind is Kind.TOMBSTONE else bytes(body)


def summary(address: str, item: Item | None) -> str:
    """Return what the store at ``address`` has, for a person."""
    if item is None:
        return f"{address} has nothing"
    if item.flags is None:
        return f"{address} has {shown(item.value)}"
    head, body = decode(item.value, address, b"")
    return f"{address} has {head.kind.name.lower()} {head.version} {shown(bytes(body))}"
