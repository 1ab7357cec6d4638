"""conf/filedist.toml at work: a tree of machines that have the same plain files.

The topmost gateway has an nginx and another gateway as children, and that an nginx of its own. Each
keeps ordinary files in a folder that any program may look into.
"""

import hashlib
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from sfss.stores.webdav_listing import things_in_json
from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    Server,
    binary,
    free_port,
    nginx_node,
    nginx_root,
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
    port = free_port()
    text = (CHECKOUT / "conf" / "filedist.toml").read_text()
    stores = ", ".join(f'"{each}"' for each in (f"file:files-{port}", *children))
    for pattern, new in (
        (r'^address = "127.0.0.1:8080"$', f'address = "127.0.0.1:{port}"'),
        (r'^address = "127.0.0.1:8079"$', f'address = "127.0.0.1:{free_port()}"'),
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
            stack.enter_context(running(nginx_node(folder, port=free_port()))) for _ in range(2)
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


def error_in(answer: Answer) -> str:
    """Return the sentence of a refusal."""
    return answer.body.decode()


@contextmanager
def limited(gateway: Gateway, size: int) -> Iterator[None]:
    """Have the processes of a gateway write no file of over ``size`` bytes: as with a full disk."""
    pids = [gateway.pid, *gateway.workers()]
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for pid in pids:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


def test_what_the_local_disk_refuses_is_not_201(tree: Tree) -> None:
    with limited(tree.root, MIB):
        answer = tree.put("full/large", b"x" * 2 * MIB)
        assert answer.status == 504
        assert "the store that decides has not kept the change; 2 others have" in error_in(answer)
        assert "File too large" in error_in(answer)
        assert tree.put("full/small", b"small").status == 201
    assert not (folder_of(tree.root) / "full" / "large").exists()
    assert tree.put("full/large", b"x" * 2 * MIB).status == 201


def test_a_folder_that_was_moved_away_is_not_201(tree: Tree, tmp_path: Path) -> None:
    folder = folder_of(tree.root)
    folder.rename(tmp_path / "elsewhere")
    try:
        answer = tree.put("moved/file", b"body")
        assert answer.status == 504
        assert "its folder was moved, unmounted or replaced" in error_in(answer)
    finally:
        (tmp_path / "elsewhere").rename(folder)
    assert tree.put("moved/file", b"body").status == 201


def test_what_is_not_here_comes_from_a_child_and_stays(tree: Tree) -> None:
    """Of each child in turn; the next where one does not have it, or does not answer."""
    path = "lost/file"
    copies = [folder_of(machine) / path for machine in tree.machines]
    for number in range(4):
        body = f"{number}".encode() * 1000
        assert tree.put(path, body).status == 201
        copies[0].unlink()
        if number == 1:
            copies[1].unlink()
        if number == 2:
            copies[2].unlink()

        def is_everywhere(body: bytes = body) -> bool:
            assert tree.get(path).body == body
            return all(copy.exists() for copy in copies)

        wait_until(is_everywhere, "it is read from a child, and is everywhere once more")
        for copy in copies:
            assert copy.read_bytes() == body


@pytest.mark.parametrize("who", ["nginx", "child"])
def test_what_nobody_else_has_and_one_might_is_504(tree: Tree, who: str) -> None:
    path = f"only {who}/file"
    assert tree.get(path).status == 404
    machine: Server = getattr(tree, who)
    with down(machine):
        answer = tree.get(path)
        assert answer.status == 504
        assert url_of(machine) in error_in(answer)
        assert tree.root.request("HEAD", f"/{quote(path)}").status == 504
    # It has failed a moment ago; then it is asked again.
    wait_until(lambda: tree.get(path).status == 404, "nobody has it")


def test_a_silent_child_holds_nobody_up_for_ever(tree: Tree) -> None:
    assert tree.put("silent/file", b"old!").status == 201
    with paused(tree.nginx):
        # Of one size and, as a rule, of one second: what a WebDAV node knows of a file.
        for body in (b"then", b"next", b"last"):
            assert tree.put("silent/file", body).status == 201
            assert tree.get("silent/file").body == body
        assert missing(tree.root)
    wait_until(lambda: not missing(tree.root), "the child has what it had missed")
    assert (folder_of(tree.nginx) / "silent/file").read_bytes() == b"last"
    run_tool(tree.root, "check")


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """Have a server stand still for the block."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def write_in_place(file: Path, body: bytes) -> None:
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(body)
        opened.truncate()


def write_beside(file: Path, body: bytes) -> None:
    new = file.with_name("new")
    new.write_bytes(body)
    new.rename(file)


WRITERS: dict[str, Callable[[Path, bytes], None]] = {
    "in place": write_in_place,
    "renamed": write_beside,
}


def test_a_name_is_that_of_a_file_or_of_a_folder(tree: Tree) -> None:
    assert tree.put("taken/file", b"body").status == 201
    for path in ("taken", "taken/file/below"):
        answer = tree.put(path, b"body")
        assert answer.status == 409, answer
    assert tree.get("taken").status == 301
    assert tree.get("taken/file/below").status == 404
    assert tree.delete("taken").status == 404
    assert tree.get("taken/file").body == b"body"
    assert not missing(tree.root)


@pytest.mark.parametrize("how", WRITERS)
def test_what_another_program_writes_is_served_at_once(tree: Tree, how: str) -> None:
    write = WRITERS[how]
    file = folder_of(tree.root) / "other programs" / how
    path = f"other programs/{how}"
    assert tree.put(path, b"by the gateway").status == 201
    for turn in range(20):
        body = b"%d" % turn * 9
        write(file, body)
        answer = tree.get(path)
        assert (answer.status, answer.body) == (200, body)
        head = tree.root.request("HEAD", f"/{quote(path)}")
        assert int(head.headers["content-length"]) == len(body)
    # What comes through the gateway after that is newer.
    assert tree.put(path, b"once more").status == 201
    for machine in tree.machines:
        assert (folder_of(machine) / path).read_bytes() == b"once more"
    new = file.with_name(f"{how} and new")
    write(new, b"new")
    assert tree.get(f"{path} and new").body == b"new"
    listed = tree.root.request("GET", "/other%20programs/", None, JSON).json()
    assert {how, f"{how} and new"} <= {each["name"] for each in listed}


def test_a_file_with_an_older_time_is_served_until_copies_are_compared(tree: Tree) -> None:
    """As ``cp -p`` makes one: it is older, whatever is in it, and the newest is what counts."""
    file = folder_of(tree.root) / "older"
    assert tree.put("older", b"by the gateway").status == 201
    file.write_bytes(b"by another program")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert tree.get("older").body == b"by another program"
    run_tool(tree.root, "repair")
    for machine in tree.machines:
        assert (folder_of(machine) / "older").read_bytes() == b"by the gateway"


def run_tool(gateway: Gateway, name: str) -> None:
    """Run a tool on the settings of a gateway; it has to find or leave nothing."""
    command = [*SFSS, name, *gateway.command[-2:]]
    done = subprocess.run(
        command, cwd=gateway.folder, env=gateway.environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_repair_brings_what_other_programs_have_written_to_all(tree: Tree) -> None:
    file = folder_of(tree.root) / "repaired" / "file"
    file.parent.mkdir()
    file.write_bytes(b"by another program")
    at_child = folder_of(tree.child) / "repaired" / "at a child"
    at_child.parent.mkdir()
    at_child.write_bytes(b"by a program there")
    for gateway in (tree.root, tree.child):
        run_tool(gateway, "repair")
    for machine in tree.machines:
        assert files_below(folder_of(machine) / "repaired") == {
            "file": b"by another program",
            "at a child": b"by a program there",
        }
    run_tool(tree.root, "check")
    run_tool(tree.child, "check")


def test_a_new_machine_is_provisioned_by_a_crawler(tree: Tree, tmp_path: Path) -> None:
    binary("wget")
    names = [name for name in NAMES.values() if "%41" not in name]  # wget would decode it
    for path in [*names, *(f"many/{number}" for number in range(30))]:
        assert tree.put(path, path.encode()).status == 201
    (folder_of(tree.root) / "many" / "raw").write_bytes(b"by another program")
    new = filedist(tmp_path, [])
    folder_of(new).mkdir()
    (command,) = commands(tree, "__index__")
    shell(command.replace("/__index__/;", "/__index__/?limit=7;"), folder_of(new))
    expected = files_below(folder_of(tree.root))
    assert files_below(folder_of(new)) == expected
    with running(new):
        for path, body in expected.items():
            assert new.request("GET", f"/{quote(path)}").body == body
    (folder_of(tree.root) / "many" / "raw").unlink()


def test_a_child_that_is_added_gets_everything(tmp_path: Path) -> None:
    alone = filedist(tmp_path, [])
    config = Path(alone.command[-1])
    with running(alone), running(nginx_node(tmp_path, port=free_port())) as child:
        folder_of(alone).mkdir(exist_ok=True)
        (folder_of(alone) / "raw").write_bytes(b"by another program")
        for path in NAMES.values():
            assert alone.request("PUT", f"/{quote(path)}", path.encode()).status == 201
        own = f'"file:files-{alone.port}"'
        config.write_text(config.read_text().replace(own, f'{own}, "{url_of(child)}"'))
        alone.send(signal.SIGHUP)

        def reaches_the_child() -> bool:
            return url_of(child) in alone.request("PUT", "/new", b"new").body.decode()

        wait_until(reaches_the_child, "the child is written to")
        run_tool(alone, "repair")
        assert files_below(folder_of(child)) == files_below(folder_of(alone))
        assert len(files_below(folder_of(child))) == len(NAMES) + 2
        run_tool(alone, "check")


def test_a_child_can_be_given_what_it_has_missed_by_a_crawler(tree: Tree, tmp_path: Path) -> None:
    binary("wget")
    with down(tree.nginx):
        assert tree.put("missed/a b", b"body").status == 201
        (command,) = commands(tree, "__missing__")
        shell(command, folder_of(tree.nginx))
        assert (folder_of(tree.nginx) / "missed" / "a b").read_bytes() == b"body"
    wait_until(lambda: not missing(tree.root), "the child has what it had missed")
    run_tool(tree.root, "check")


def test_the_readme_tells_what_works_here(tree: Tree, tmp_path: Path) -> None:
    for program in ("curl", "rclone", "cadaver"):
        binary(program)
    (tmp_path / "FILE").write_bytes(b"from a file")
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "in it").write_bytes(b"from a folder")
    said = shell(commands(tree, "curl -T")[0], tmp_path)
    assert said.count(": stored\n") == 3
    shell(commands(tree, "curl -O")[0], tmp_path)
    assert (tmp_path / "name").read_bytes() == b"from a file"
    assert "200" in shell(commands(tree, "curl -I")[0], tmp_path)
    assert '"name": "name"' in shell(commands(tree, "application/json")[0], tmp_path)
    shell(commands(tree, "rclone")[0], tmp_path)
    assert (folder_of(tree.grandchild) / "folder" / "in it").read_bytes() == b"from a folder"
    assert "in it" in shell(f"echo ls folder | {commands(tree, 'cadaver')[0]}", tmp_path)
    shell(commands(tree, "DELETE")[0], tmp_path)
    assert tree.get("folder/name").status == 404
    assert tree.delete("folder/in it").status == 204
    (size,) = re.findall("One may have ([0-9]+) bytes", readme(tree))
    assert int(size) == 1024 * MIB


def readme(tree: Tree) -> str:
    """Return the readme of the root."""
    return tree.root.request("GET", "/__readme.txt").body.decode()


def commands(tree: Tree, word: str) -> list[str]:
    """Return the commands of the readme that ``word`` is in."""
    lines = readme(tree).splitlines()
    return [line.strip() for line in lines if line.startswith("    ") and word in line]


def shell(command: str, folder: Path) -> str:
    """Run a command in ``folder``, and return what it says."""
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_body_over_the_limit_is_413(tree: Tree) -> None:
    size = 1024 * MIB + 1
    with closing(tree.root.connect()) as connection:
        connection.putrequest("PUT", "/too%20large")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
    assert tree.get("too large").status == 404


LARGE = 64 * MIB
MUCH = 16 * MIB
"""Memory that a large body must not take: far less than it has."""


def test_large_bodies_go_through_in_pieces(tree: Tree) -> None:
    block = os.urandom(MIB)
    blocks = LARGE // MIB
    gateways = (tree.root, tree.child)
    for _ in range(2 * len(tree.root.workers())):
        assert tree.put("large/first", block * 4).status == 201  # so that all is loaded
        assert tree.get("large/first").status == 200
    before = {pid: forget_peak(pid) for gateway in gateways for pid in gateway.workers()}
    answer = tree.root.request(
        "PUT", "/large/file", iter([block] * blocks), {"Content-Length": str(LARGE)}
    )
    assert answer.status == 201, answer
    digests = {digest_of_file(folder_of(machine) / "large/file") for machine in tree.machines}
    assert len(digests) == 1
    assert read_in_blocks(tree, {}) == (200, block, blocks)
    assert read_in_blocks(tree, {"Range": f"bytes={MIB}-"}) == (206, block, blocks - 1)
    # From children, one after the other.
    for _ in range(2):
        (folder_of(tree.root) / "large/file").unlink()
        assert read_in_blocks(tree, {"Range": f"bytes={2 * MIB}-"}) == (206, block, blocks - 2)
        wait_until((folder_of(tree.root) / "large/file").exists, "it is here once more")
    grown = {pid: peak(pid) - began for pid, began in before.items()}
    assert max(grown.values()) < MUCH, grown
    assert tree.delete("large/file").status == 204


def read_in_blocks(tree: Tree, headers: dict[str, str]) -> tuple[int, bytes, int]:
    """Return the status, the one block that the file is made of, and how often it came."""
    with closing(tree.root.connect()) as connection:
        connection.request("GET", "/large/file", None, headers)
        response = connection.getresponse()
        blocks = iter(lambda: response.read(MIB), b"")
        first = next(blocks)
        return response.status, first, 1 + sum(block == first for block in blocks)


def digest_of_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def forget_peak(pid: int) -> int:
    """Return how much memory a process has now, from which on ``peak`` counts."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def peak(pid: int) -> int:
    """Return the most memory that a process has had at once."""
    status = Path(f"/proc/{pid}/status").read_text()
    (found,) = re.findall("VmHWM:\\s+([0-9]+) kB", status)
    return int(found) * 1024


def test_a_file_of_1970_spoils_no_listing_of_a_parent(tmp_path: Path) -> None:
    child = filedist(tmp_path, [])
    with running(child):
        assert child.request("PUT", "/there", b"x").status == 201
        old = folder_of(child) / "a/old"
        old.parent.mkdir()
        old.write_bytes(b"body")
        os.utime(old, (0, 0))
        listed = child.request("GET", "/a/", None, JSON).body
    (found,) = things_in_json(listed, b"")
    assert found.file is not None and (found.file.size, found.file.modified_s) == (4, 0)
