"""conf/filedist.toml at work: a tree of machines that have the same plain files.

The topmost gateway has an nginx and another gateway as children, and that an nginx of its own. Each
keeps ordinary files in a folder that any program may look into.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    Server,
    nginx_node,
    nginx_root,
    quiet_port,
    running,
    wait_until,
)

MIB = 1024 * 1024
JSON = {"Accept": "application/json"}
NAMES = {
    "space": "odd/with space.txt",
    "quotes": "odd/'single' \"double\" `back`.txt",
    "UTF-8": "odd/日本 ü ñ/é.txt",
    "percent": "odd/100% %41 %2F.txt",
    "dash": "-rf/-leading",
    "hash and question mark": "odd/a#b?c&d=e;f.txt",
    "plus and tilde": "odd/a+b~c@d:e,f.txt",
    "brackets": "odd/[a]{b}(c)<d>|e^f.txt",
    "dollar": "odd/$(HOME) *.txt",
}


COOLING = "cooling_s = 0.2"
"""So that nobody takes a child that has come back for one that has failed a moment ago."""


def filedist(folder: Path, children: Sequence[str]) -> Gateway:
    """Return a gateway (not started) with conf/filedist.toml over ``folder_of`` it and the
    addresses ``children``.
    """
    port = quiet_port()
    text = (CHECKOUT / "conf" / "filedist.toml").read_text()
    stores = ", ".join(f'"{each}"' for each in (f"file:files-{port}", *children))
    for pattern, new in (
        (r"^address = .*$", f'address = "127.0.0.1:{port}"'),
        (r"^stores = .*$", f"stores = [{stores}]"),
        (r"^owed_folder = .*$", f'owed_folder = "owed-{port}"\n{COOLING}'),
    ):
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count == 1, pattern
    config = folder / f"filedist-{port}.toml"
    config.write_text(text)
    command = [*SFSS, "serve", "--config", str(config)]
    return Gateway(command, port, folder, PYTHON_ENVIRON)


def url_of(server: Server) -> str:
    """Return the address of a server as a store."""
    return f"http://{server.address}/"


def folder_of(server: Server) -> Path:
    """Return the folder of the files of a gateway or nginx."""
    return nginx_root(server)


def files_below(folder: Path) -> dict[str, bytes]:
    """Return all files in ``folder`` by name, but those that are its owner's own."""
    names = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in names.items() if not name.startswith(".")}


@dataclass(frozen=True)
class Tree:
    """Four machines."""

    root: Gateway
    nginx: Server
    child: Gateway
    grandchild: Server

    @property
    def machines(self) -> list[Server]:
        """All of them."""
        return [self.root, self.nginx, self.child, self.grandchild]

    def put(self, path: str, body: bytes) -> Answer:
        """Put a file at the root."""
        return self.root.request("PUT", f"/{quote(path)}", body)

    def get(self, path: str) -> Answer:
        """Read a file at the root."""
        return self.root.request("GET", f"/{quote(path)}")

    def delete(self, path: str) -> Answer:
        """Remove a file at the root."""
        return self.root.request("DELETE", f"/{quote(path)}")


def missing(gateway: Gateway) -> list[dict[str, str]]:
    """Return what a gateway says that its children still have to get."""
    answer = gateway.request("GET", "/__missing__/", None, JSON)
    assert answer.status == 200
    found: list[dict[str, str]] = answer.json()["missing"]
    return found


@pytest.fixture(name="tree", scope="module")
def four_machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """The tree, which all tests of this module share: each uses paths of its own."""
    folder = tmp_path_factory.mktemp("tree")
    with ExitStack() as stack:
        nginx, grandchild = (
            stack.enter_context(running(nginx_node(folder, port=quiet_port()))) for _ in range(2)
        )
        child = stack.enter_context(running(filedist(folder, [url_of(grandchild)])))
        children = [url_of(nginx), url_of(child)]
        root = stack.enter_context(running(filedist(folder, children)))
        yield Tree(root, nginx, child, grandchild)


@pytest.fixture(autouse=True)
def no_traceback(tree: Tree) -> Iterator[None]:
    """Whatever a test has done, no gateway has come upon anything that it did not expect."""
    yield
    for gateway in (tree.root, tree.child):
        assert "Traceback" not in gateway.output()


@contextmanager
def down(server: Server) -> Iterator[None]:
    """Have a server be down for the block."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@pytest.mark.parametrize("name", NAMES)
def test_a_change_at_the_root_reaches_all(tree: Tree, name: str) -> None:
    path = NAMES[name]
    answer = tree.put(path, name.encode())
    assert answer.status == 201
    stores = [f"file:files-{tree.root.port}", url_of(tree.nginx), url_of(tree.child)]
    assert answer.body.decode().splitlines() == [f"{store}: stored" for store in stores]
    for machine in tree.machines:
        assert (folder_of(machine) / path).read_bytes() == name.encode()
    assert tree.get(path).body == name.encode()
    listed = tree.root.request("GET", f"/{quote(str(Path(path).parent))}/", None, JSON).json()
    assert Path(path).name in [each["name"] for each in listed]
    assert tree.delete(path).status == 204
    for machine in tree.machines:
        assert not (folder_of(machine) / path).exists()
    assert tree.get(path).status == 404
    assert tree.delete(path).status == 404


@pytest.mark.parametrize("who", ["nginx", "child", "grandchild"])
def test_a_child_gets_what_it_has_missed(tree: Tree, who: str) -> None:
    machine: Server = getattr(tree, who)
    kept, gone = f"missed {who}/new.txt", f"missed {who}/gone.txt"
    assert tree.put(gone, b"gone").status == 201
    with down(machine):
        answer = tree.put(kept, b"kept")
        assert answer.status == 201
        assert tree.delete(gone).status == 204
        lines = dict(line.split(": ", 1) for line in answer.body.decode().splitlines())
        assert len(lines) == 3
        if who == "grandchild":
            # What a child owes to its own children is its own matter.
            assert set(lines.values()) == {"stored"}
            owing = tree.child
        else:
            failed = {store: line for store, line in lines.items() if line != "stored"}
            assert list(failed) == [url_of(machine)]
            assert "connect" in failed[url_of(machine)].lower()
            owing = tree.root
        address = url_of(machine)
        found = owing.request("GET", "/__missing__/", None, JSON).json()["missing"]
        assert {(each["store"], each["path"]) for each in found} == {
            (address, kept),
            (address, gone),
        }
        page = owing.request("GET", "/__missing__/").body.decode()
        assert f'href="/{quote(kept)}"' in page
        assert address in page
        # Served all the same, also by the machine above the one that is down.
        assert tree.get(kept).body == b"kept"
        assert owing.request("GET", f"/{quote(gone)}").status == 404
    wait_until(
        lambda: not missing(owing),
        "the child has what it had missed",
    )
    for each in tree.machines:
        assert (folder_of(each) / kept).read_bytes() == b"kept"
        assert not (folder_of(each) / gone).exists()
