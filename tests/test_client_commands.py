"""``sfss get``, ``ls``, ``stat``, ``du``, ``rm`` and ``sync`` against real gateways."""

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sfss.client import AsyncClient, Client
from sfss.client_errors import Damaged
from tests.servers import (
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    damage_heads,
    free_port,
    gateway,
    node,
    running,
)


@dataclass
class Shell:
    """Commands for one gateway, started in ``folder``."""

    url: str
    folder: Path

    def run(
        self,
        *arguments: str,
        status: int = 0,
        stdin: bytes = b"",
        environ: dict[str, str] | None = None,
    ) -> "Ended":
        """Run a command, which has to end with ``status``."""
        ended = subprocess.run(
            [*SFSS, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env={**self.environ(), **(environ or {})},
            timeout=60,
        )
        assert ended.returncode == status, (ended.stdout, ended.stderr)
        assert b"Traceback" not in ended.stderr, ended.stderr
        return Ended(ended.stdout, ended.stderr.decode())

    def environ(self) -> dict[str, str]:
        return {**os.environ, **PYTHON_ENVIRON, "SFSS_URL": self.url}

    def write(self, names: dict[str, bytes]) -> None:
        """Make files here."""
        for name, content in names.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def read(self, folder: str) -> dict[str, bytes]:
        """Return all files below a folder here."""
        top = self.folder / folder
        return {
            str(file.relative_to(top)): file.read_bytes()
            for file in top.rglob("*")
            if file.is_file()
        }


@dataclass(frozen=True)
class Ended:
    """What a command has said."""

    output: bytes
    told: str

    @property
    def lines(self) -> list[str]:
        return self.output.decode().splitlines()

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture(name="server", scope="module")
def gateway_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = "[cluster]\nmax_file_size = 16777216\n"
    folder = tmp_path_factory.mktemp("commands")
    with running(gateway(folder, "--store", "store", settings=settings)) as server:
        for path in PHOTOS:
            server.put(path, path.encode())
        yield server


@pytest.fixture
def shell(server: Gateway, tmp_path: Path) -> Shell:
    return Shell(server.url, tmp_path)


PHOTOS = [
    "photos/2019/x.jpg",
    "photos/2020-01/a.jpg",
    "photos/2020-01/c.png",
    "photos/2020-01/deep/b.jpg",
    "photos/2020-02/d e.jpg",
    "photos/index.txt",
]


# --- Reading --------------------------------------------------------------------------------------


def test_get_of_one_file(shell: Shell) -> None:
    shell.run("get", "photos/index.txt")
    shell.run("get", "sfss:photos/index.txt", "other-name")
    shell.run("get", "photos/index.txt", "sub/folder/")
    assert shell.run("get", "photos/index.txt", "-").output == b"photos/index.txt"
    assert set(shell.read(".")) == {"index.txt", "other-name", "sub/folder/index.txt"}
    ended = shell.run("get", "photos/absent", status=1)
    assert "404 Not Found: no such file: photos/absent" in ended.told


def test_get_of_many_files(shell: Shell) -> None:
    shell.run("get", "photos/2020*/**.jpg", "wild")
    assert shell.read("wild") == {
        "2020-01/a.jpg": b"photos/2020-01/a.jpg",
        "2020-01/deep/b.jpg": b"photos/2020-01/deep/b.jpg",
        "2020-02/d e.jpg": b"photos/2020-02/d e.jpg",
    }
    shell.run("get", "-r", "photos", "all")
    assert [f"photos/{name}" for name in sorted(shell.read("all"))] == PHOTOS
    again = shell.run("get", "-r", "--check", "--json", "photos/", "all")
    assert {each["result"] for each in again.objects} == {"there"}
    (shell.folder / "all/index.txt").write_bytes(b"PHOTOS/index.txt")
    again = shell.run("get", "-r", "--check", "--json", "photos/", "all")
    assert [each["path"] for each in again.objects if each["result"] == "done"] == [
        "photos/index.txt"
    ]
    planned = shell.run("get", "--dry-run", "photos/*.txt", "none")
    assert planned.lines == ["get photos/index.txt"]
    assert not (shell.folder / "none").exists()
    shell.run("get", "photos/none*", "none", status=1)


def test_get_never_leaves_the_folder(shell: Shell, server: Gateway) -> None:
    server.put("evil/../../escaped", b"x")
    server.put("evil/.sfss-a.part", b"x")
    server.put("evil/a", b"x")
    server.put("evil/a/b", b"x")
    ended = shell.run("get", "-r", "evil", "into/here", status=1)
    assert ended.told.count("cannot be a file name here") == 2
    assert not (shell.folder / "escaped").exists()
    assert len(shell.read(".")) == 1


def test_the_token_is_for_the_server_of_the_url_alone(shell: Shell) -> None:
    scripts: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            scripts.append((self.headers["Host"], self.headers["Authorization"]))
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        tokens = {"SFSS_TOKEN": "ours"}
        shell.run("sync", f"{url}/a", "here", status=1, environ=tokens)
        shell.run("sync", f"{url}/a", "here", "--url", url, status=1, environ=tokens)
        both = {**tokens, "SFSS_OTHER_TOKEN": "theirs"}
        shell.run("sync", f"{url}/a", "here", status=1, environ=both)
        server.shutdown()
    assert [token for _, token in scripts] == [None, "Bearer ours", "Bearer theirs"]


def test_ls(shell: Shell) -> None:
    lines = shell.run("ls", "photos").lines
    assert [line.split()[-1] for line in lines] == [
        "photos/2019/",
        "photos/2020-01/",
        "photos/2020-02/",
        "photos/index.txt",
    ]
    assert "16 B" in lines[-1] and lines[-1].startswith("20")
    assert shell.run("ls", "-r", "--names", "photos").lines == PHOTOS
    assert shell.run("ls", "-1", "photos/*/?.???").lines == [
        name for name in PHOTOS if name.count("/") == 2 and " " not in name
    ]
    found = shell.run("ls", "--json", "photos/").objects
    assert found[0] == {"folder": "photos/2019/"} and found[-1]["size"] == 16
    assert shell.run("ls", "-1", "photos/index.txt").lines == ["photos/index.txt"]
    assert "photos/" in shell.run("ls", "-1").lines
    assert "no such file or folder" in shell.run("ls", "nothing", status=1).told


def test_stat_and_du(shell: Shell) -> None:
    assert "size:     16" in shell.run("stat", "photos/index.txt").lines
    (known,) = shell.run("stat", "--json", "photos/index.txt").objects
    assert known["type"].startswith("text/plain") and known["etag"]
    shell.run("stat", "photos/absent", status=1)
    sums = {each["folder"]: each for each in shell.run("du", "--json", "photos").objects}
    assert {folder: each["files"] for folder, each in sums.items()} == {
        "photos/2019/": 1,
        "photos/2020-01/": 3,
        "photos/2020-02/": 1,
        "photos/": 6,
    }
    assert sums["photos/"]["size"] == sum(map(len, PHOTOS))
    deep = [line.split()[-1] for line in shell.run("du", "--depth", "2", "photos").lines]
    assert deep.index("photos/2020-01/deep/") < deep.index("photos/2020-01/")
    assert len(shell.run("du", "--depth", "0", "photos").lines) == 1


def test_rm(shell: Shell, server: Gateway) -> None:
    for name in ("a.tmp", "b.tmp", "c.txt", "d/e.tmp"):
        server.put(f"rm/{name}", b"x")
    assert "a folder" in shell.run("rm", "rm/", status=2).told
    assert shell.run("rm", "--dry-run", "rm/*.tmp").lines == ["delete rm/a.tmp", "delete rm/b.tmp"]
    shell.run("rm", "rm/*.tmp")
    assert shell.run("ls", "-r", "-1", "rm").lines == ["rm/c.txt", "rm/d/e.tmp"]
    shell.run("rm", "rm/a.tmp", status=1)
    shell.run("rm", "-f", "rm/a.tmp", "rm/none*")
    shell.run("rm", "-r", "rm")
    shell.run("ls", "rm", status=1)
    for everything in ("", "/", "**", "sfss:"):
        assert "--all" in shell.run("rm", "-r", everything, status=2).told


def test_wrong_options_and_no_server(shell: Shell) -> None:
    shell.run("get", "--url", "nonsense", "a", status=2)
    shell.run("get", "--concurrency", "0", "a", status=2)
    shell.run("get", "{a", "b", status=2)
    shell.run("get", "http://127.0.0.1:1/a", status=2)
    dead = f"http://127.0.0.1:{free_port()}"
    for command in (["ls"], ["get", "a"], ["bench"], ["status"], ["export"], ["du"]):
        ended = shell.run(*command, "--url", dead, "--tries", "1", status=1)
        assert "gives no answer" in ended.told


# --- Making alike ---------------------------------------------------------------------------------

TREE = {
    "a.txt": b"a",
    "a/b.txt": b"b",
    "a-b/c.txt": b"c",
    "a/d/e+ü.txt": b"e",
    "empty": b"",
    "large": os.urandom(1_500_000),
    "z.tmp": b"tmp",
}


def results(ended: Ended) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in ended.objects:
        key = f"{each['action']} {each['result']}"
        found[key] = sorted([*found.get(key, []), each["path"]])
    return found


def test_sync_up_and_down(shell: Shell) -> None:
    shell.write({f"tree/{name}": content for name, content in TREE.items()})
    shell.write({"tree/.sfss-0.part": b"half"})
    first = shell.run("sync", "--json", "tree", "sfss:up")
    assert results(first) == {"copy done": sorted(TREE)}
    assert results(shell.run("sync", "--json", "tree/", "sfss:/up/")) == {
        "copy there": sorted(TREE)
    }
    # The same size, other bytes; and one more, and one fewer.
    shell.write({"tree/a.txt": b"A", "tree/new": b"new"})
    (shell.folder / "tree/empty").unlink()
    assert results(shell.run("sync", "--json", "--dry-run", "tree", "sfss:up")) == {
        "copy planned": ["a.txt", "new"],
        "copy there": sorted({*TREE} - {"a.txt", "empty"}),
    }
    ended = results(shell.run("sync", "--json", "--delete", "tree", "sfss:up"))
    assert ended["copy done"] == ["a.txt", "new"] and ended["delete done"] == ["empty"]

    shell.run("sync", "sfss:up", "down")
    expected = {**TREE, "a.txt": b"A", "new": b"new"}
    del expected["empty"]
    assert shell.read("down") == expected
    assert set(results(shell.run("sync", "--json", "sfss:up", "down"))) == {"copy there"}
    shell.write({"down/a.txt": b"x", "down/extra/file": b"x"})
    shell.run("sync", "--delete", "sfss:up", "down")
    assert shell.read("down") == expected
    assert not (shell.folder / "down/extra").exists()


def test_sync_of_a_choice(shell: Shell) -> None:
    shell.write({f"tree/{name}": content for name, content in TREE.items()})
    shell.run("sync", "tree", "sfss:choice")
    (shell.folder / "tree/z.tmp").unlink()
    # What is left out is not removed either.
    shell.run("sync", "--delete", "--exclude", "*.tmp", "tree", "sfss:choice")
    assert shell.run("ls", "-1", "choice/z.tmp").lines == ["choice/z.tmp"]
    shell.run("sync", "--include", "a/**", "--exclude", "e*", "sfss:choice", "down")
    assert shell.read("down") == {"a/b.txt": b"b"}


def test_sync_removes_nothing_after_a_failure(shell: Shell, server: Gateway) -> None:
    server.put("kept/old", b"old")
    (shell.folder / "nothing").mkdir()
    ended = shell.run("sync", "--delete", "nothing", "sfss:kept", status=1)
    assert "nothing was removed" in ended.told
    shell.write({"bad/fine": b"x", "bad/back\\slash": b"x"})
    ended = shell.run("sync", "--delete", "bad", "sfss:kept", status=1)
    assert "backslash" in ended.told and "nothing was removed" in ended.told
    assert shell.run("ls", "-1", "kept").lines == ["kept/fine", "kept/old"]
    shell.run("sync", "absent", "sfss:kept", status=2)
    shell.run("sync", "bad", "nothing", status=2)


def test_sync_where_a_file_has_become_a_folder_or_a_folder_a_file(
    shell: Shell, server: Gateway
) -> None:
    server.put("turned/a", b"1")
    server.put("turned/b/x", b"1")
    server.put("turned/b/deep/y", b"1")
    server.put("turned/z", b"1")
    shell.run("sync", "sfss:turned", "down")
    for name in ("a", "b/x", "b/deep/y", "z"):
        server.request("DELETE", f"/file?path=turned/{name}")
    turned = {"a/b": b"2", "a/c/d": b"3", "b": b"4", **{f"a/{n}": b"%d" % n for n in range(40)}}
    for name, body in turned.items():
        server.put(f"turned/{name}", body)
    former = {"a": b"1", "b/x": b"1", "b/deep/y": b"1", "z": b"1"}

    ended = shell.run("sync", "sfss:turned", "down", status=1)
    assert "a/b: down/a is no folder, and stands in the way" in ended.told
    assert "down/b is a folder, and stands in the way" in ended.told
    assert shell.read("down") == former
    # Not what is to stay.
    ended = shell.run("sync", "--delete", "--exclude", "y", "sfss:turned", "down", status=1)
    assert "stands in the way with deep/y, which is to stay" in ended.told
    assert shell.read("down").items() >= {"b/x": b"1", "b/deep/y": b"1", "z": b"1"}.items()

    planned = results(shell.run("sync", "--json", "--dry-run", "--delete", "sfss:turned", "down"))
    assert set(planned) <= {"copy planned", "delete planned", "copy there"}
    (shell.folder / "down/b/none").mkdir()
    shell.write({f"down/b/.sfss-{'0' * 32}.part": b"left over"})
    shell.run("sync", "--delete", "sfss:turned", "down")
    assert shell.read("down") == turned
    assert set(results(shell.run("sync", "--json", "sfss:turned", "down"))) == {"copy there"}


def test_sync_removes_what_stands_in_the_way_only_for_what_can_be_had(
    shell: Shell, server: Gateway
) -> None:
    body = b"what is damaged by now" * 20
    server.put("blocked/a", b"1")
    shell.run("sync", "sfss:blocked", "down")
    server.request("DELETE", "/file?path=blocked/a")
    server.put("blocked/a/b", body)
    damage_bodies(server.folder / "store", body)
    shell.run("sync", "--delete", "sfss:blocked", "down", status=1)
    assert shell.read("down") == {"a": b"1"}
    # FROM can have both names, a folder here cannot.
    server.put("blocked/a", b"1")
    server.put("blocked/a/b", b"sound")
    ended = shell.run("sync", "--delete", "sfss:blocked", "down", status=1)
    assert "down/a is no folder, and stands in the way, and is to stay" in ended.told
    assert shell.read("down") == {"a": b"1"}


def test_sync_removes_parts_that_are_left_over(shell: Shell, server: Gateway) -> None:
    server.put("parts/a/x", b"x")
    parts = [f"down/a/.sfss-{digit * 32}.part" for digit in "0123"]
    other = "down/a/.sfss-by-hand.part"
    shell.write(dict.fromkeys([*parts, other], b"part"))
    (shell.folder / parts[2]).unlink()
    (shell.folder / parts[2]).symlink_to("x")
    shell.run("get", "parts/a/x", "down/a/x")
    with (shell.folder / parts[0]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as by a download that goes on
        shell.run("sync", "--dry-run", "sfss:parts", "down")
        shell.run("sync", "down", "sfss:parts-up")
        # Not after a failure either: the next run may go on with them.
        os.mkfifo(shell.folder / "down/b")
        server.put("parts/b/y", b"y")
        shell.run("sync", "sfss:parts", "down", status=1)
        assert all((shell.folder / name).exists() for name in parts)
        (shell.folder / "down/b").unlink()
        shell.run("sync", "sfss:parts", "down")
    left = {parts[0], parts[2], other}
    found = (shell.folder / "down/a").iterdir()
    assert {f"down/a/{file.name}" for file in found} == {"down/a/x", *left}


def damage_bodies(store: Path, body: bytes) -> None:
    """Flip a bit in each place where ``body`` lies in the data file."""
    content = (store / "data.mdb").read_bytes()
    places = [found.start() for found in re.finditer(re.escape(body), content)]
    assert places
    with (store / "data.mdb").open("r+b") as file:
        for place in places:
            os.pwrite(file.fileno(), bytes([content[place] ^ 1]), place)


BODY = b"a body like no other" * 20


@pytest.fixture
def sick(server: Gateway) -> Iterator[Gateway]:
    """A gateway with files below sick/, of which one is damaged."""
    server.put("sick/fine", b"x")
    server.put("sick/damaged", BODY)
    server.put("sick/deep/last", b"last")
    damage_heads(server.folder / "store", BODY)
    yield server
    for name in ("fine", "damaged", "deep/last"):
        server.request("DELETE", f"/file?path=sick/{name}")


def pages(server: Gateway, query: str, limit: int) -> list[dict[str, Any]]:
    """Return a listing, page by page."""
    found, after = [], ""
    while after is not None:
        address = f"/files?{query}&limit={limit}&after={quote(after)}"
        found.append(json.loads(server.request("GET", address).body))
        after = found[-1]["next"]
    return found


def test_pages_name_what_is_damaged(sick: Gateway) -> None:
    """It counts as a file: for the limit, and as the place where the next page begins."""
    whole, *_ = pages(sick, "prefix=sick/", 10)
    assert whole["damaged"] == ["sick/damaged"]
    assert [each["path"] for each in whole["files"]] == ["sick/deep/last", "sick/fine"]
    assert "damaged" not in pages(sick, "prefix=sick/f", 10)[0]
    single = pages(sick, "prefix=sick/", 1)
    assert [each["next"] for each in single] == ["sick/damaged", "sick/deep/last", None]
    assert [each.get("damaged") for each in single] == [["sick/damaged"], None, None]
    level = pages(sick, "prefix=sick/&delimiter=/", 2)
    assert level[0]["damaged"] == ["sick/damaged"] and level[0]["files"] == []
    assert level[0]["folders"] == ["sick/deep/"] == [level[0]["next"]]
    assert [each["path"] for each in level[1]["files"]] == ["sick/fine"]


def test_a_client_never_leaves_out_silently_what_is_damaged(sick: Gateway) -> None:
    with Client(sick.url) as client:
        assert client.page("sick/").damaged == ["sick/damaged"]
        found: list[str] = []
        with pytest.raises(Damaged, match="sick/damaged: damaged on the server"):
            for file in client.list("sick/"):
                found.append(file.path)
        assert found == ["sick/deep/last", "sick/fine"]

    async def listed() -> list[str]:
        found: list[str] = []
        async with AsyncClient(sick.url) as client:
            with pytest.raises(Damaged):
                async for file in client.list("sick/"):
                    found.append(file.path)
        return found

    assert asyncio.run(listed()) == found


def test_commands_name_what_is_damaged(shell: Shell, sick: Gateway) -> None:
    said = "sick/damaged: it is damaged on the server"
    for ls, lines in (
        (["ls", "-1", "sick"], ["sick/deep/", "sick/fine"]),
        (["ls", "-1", "-r", "sick"], ["sick/deep/last", "sick/fine"]),
        (["ls", "-1", "sick/d*"], []),
    ):
        ended = shell.run(*ls, status=1)
        assert (ended.lines, said in ended.told) == (lines, True)
    ended = shell.run("du", "--bytes", "sick", status=1)
    assert said in ended.told and ended.lines[-1].split() == ["5", "2", "files", "sick/"]
    assert said in shell.run("stat", "sick/*", status=1).told
    for get in (["-r", "sick"], ["sick/**"], ["--check", "-r", "sick"]):
        ended = shell.run("get", *get, "down", status=1)
        assert "sick/damaged: 500" in ended.told
        assert shell.read("down") == {"fine": b"x", "deep/last": b"last"}
    assert said in shell.run("get", "--dry-run", "-r", "sick", "dry", status=1).told
    ended = shell.run("export", "sick", status=1)
    assert "sick/damaged: 500" in ended.told
    assert b"sick/fine" in ended.output and b"sick/deep/last" in ended.output


def test_rm_removes_what_is_damaged(shell: Shell, sick: Gateway) -> None:
    assert "delete sick/damaged" in shell.run("rm", "--dry-run", "-r", "sick").lines
    shell.run("rm", "-r", "sick")
    assert sick.request("GET", "/files?prefix=sick/").json() == {"files": [], "next": None}


def test_sync_names_what_is_damaged(shell: Shell, sick: Gateway) -> None:
    shell.write({"down/damaged": BODY, "down/gone": b"gone"})
    ended = shell.run("sync", "--delete", "sfss:sick", "down", status=1)
    assert "damaged: it is damaged on the server" in ended.told
    assert "nothing was removed" in ended.told
    expected = {"fine": b"x", "deep/last": b"last", "damaged": BODY, "gone": b"gone"}
    assert shell.read("down") == expected
    # The other way it is replaced by what is sound.
    shell.run("sync", "down", "sfss:sick")
    sick.request("DELETE", "/file?path=sick/gone")
    assert sick.get("sick/damaged").body == BODY


def test_sync_takes_a_link_to_nothing_for_a_failure(shell: Shell) -> None:
    shell.write({"up/a": b"a", "up/b": b"b"})
    shell.run("sync", "up", "sfss:linked")
    (shell.folder / "up/b").unlink()
    (shell.folder / "up/b").symlink_to("away/b")
    ended = shell.run("sync", "--delete", "up", "sfss:linked", status=1)
    assert "b: cannot be looked at: No such file" in ended.told
    assert shell.run("ls", "linked").output.endswith(b"linked/b\n")
    # On the second side it is what is to be replaced.
    shell.run("sync", "sfss:linked", "up")
    assert shell.read("up") == {"a": b"a", "b": b"b"}


def test_sync_refuses_sides_within_each_other(shell: Shell) -> None:
    shell.write({"up/x": b"x"})
    shell.run("sync", "up", "sfss:around/in")
    wrong = ["sync", "--delete", "sfss:around/in", "sfss:around"]
    assert "--delete would remove it" in shell.run(*wrong, status=2).told
    assert "lies within FROM" in shell.run("sync", "sfss:around", "sfss:around/in", status=2).told
    shell.run("sync", "sfss:around/in", f"{shell.url}/around")
    assert shell.run("ls", "-r", "around").output.count(b"\n") == 2


def test_standard_output_on_a_full_disk(shell: Shell) -> None:
    arguments = (
        ["ls", "-r"],
        ["get", "photos/index.txt", "-"],
        ["export", "photos"],
        ["sync", "--json", "sfss:photos", "down"],
    )
    for each in arguments:
        with Path("/dev/full").open("wb") as full:
            ended = subprocess.run(
                [*SFSS, *each],
                stdout=full,
                stderr=subprocess.PIPE,
                cwd=shell.folder,
                env=shell.environ(),
                timeout=60,
            )
        assert ended.returncode == 1, each
        assert b"Traceback" not in ended.stderr, each
        assert b"sfss: cannot go on: No space left on device\n" in ended.stderr, each


def test_sync_over_stores_that_are_listed_by_their_keys(shell: Shell, tmp_path: Path) -> None:
    names = ["a b", "a!", "a%41", "ab", "z", "ä", "ö/x y", "ö/x!"]
    shell.write({f"up/{name}": name.encode() for name in names})
    settings = "[cluster]\nkind = 'replicated'\n[replicated]\nplacement = 'mirror'\n"
    with running(node(tmp_path)) as store:
        more = f"write_quorum = 1\nstores = ['{store.address}']\n"
        with running(gateway(tmp_path, settings=settings + more)) as server:
            shell.url = server.url
            shell.run("sync", "up", "sfss:keys")
            (shell.folder / "up/ab").unlink()
            (shell.folder / "up/a b").write_bytes(b"new")
            ended = shell.run("sync", "--delete", "up", "sfss:keys")
            assert "sfss: 8 files, 6 skipped, 0 failed" in ended.told
            shell.run("sync", "sfss:keys", "down")
            assert shell.read("down") == shell.read("up")
            assert len(shell.read("down")) == 7


def test_sync_says_which_names_are_not_utf_8(shell: Shell) -> None:
    shell.write({"up/a": b"a", os.fsdecode(b"up/\xff"): b"b"})
    ended = shell.run("sync", "up", "sfss:bytes", status=1)
    assert "\\udcff: its path is not UTF-8" in ended.told


def test_sync_between_servers(shell: Shell, server: Gateway, tmp_path: Path) -> None:
    with running(gateway(tmp_path, "--store", "store")) as other:
        server.request("PUT", "/file?path=between/a", b"a", {"Content-Type": "text/x-a"})
        server.put("between/large", os.urandom(900_000))
        shell.run("sync", "sfss:between", f"{other.url}/copy")
        assert other.get("copy/a").headers["content-type"] == "text/x-a"
        assert other.get("copy/large").body == server.get("between/large").body
        again = shell.run("sync", "--json", f"{other.url}/copy", "sfss:between")
        assert results(again) == {"copy there": ["a", "large"]}


def test_sync_goes_on_after_an_interruption(shell: Shell) -> None:
    shell.write({f"many/{n:04}": b"%d" % n for n in range(3000)})
    command = [*SFSS, "sync", "--json", "--concurrency", "2", "many", "sfss:many"]
    process = subprocess.Popen(
        command, cwd=shell.folder, env=shell.environ(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    ended = results(shell.run("sync", "--json", "many", "sfss:many"))
    assert sum(map(len, ended.values())) == 3000
    assert len(ended.get("copy there", [])) > 0
    assert len(shell.run("ls", "-r", "-1", "many").lines) == 3000


def test_sync_of_files_that_other_programs_write(shell: Shell, tmp_path: Path) -> None:
    settings = (
        '[cluster]\nkind = "replicated"\n[replicated]\nplacement = "mirror"\n'
        f'stores = ["file:{tmp_path}/files"]\nwrite_quorum = 1\n'
    )
    with running(gateway(tmp_path, settings=settings)) as plain:
        shell.url = plain.url
        shell.write({"local/a": b"a"})
        shell.run("sync", "local", "sfss:")
        (tmp_path / "files" / "raw").write_bytes(b"raw")
        first = shell.run("sync", "--json", "sfss:", "down")
        assert results(first) == {"copy done": ["a", "raw"]}
        again = shell.run("sync", "--json", "sfss:", "down")
        assert results(again) == {"copy there": ["a", "raw"]}
        os.utime(tmp_path / "files" / "raw", (1e9, 1e9))
        third = shell.run("sync", "--json", "sfss:", "down")
        assert results(third) == {"copy done": ["raw"], "copy there": ["a"]}


# --- Archives -------------------------------------------------------------------------------------


def test_export_and_import(shell: Shell, server: Gateway) -> None:
    content = {f"tar/{name}": body for name, body in TREE.items()}
    content[f"tar/{'long/' * 40}ü"] = b"long"
    for name, body in content.items():
        assert server.put(name, body).status == 200
    server.request("PUT", "/file?path=tar/typed&ttl=5000", b"typed", {"Content-Type": "text/x-t"})
    archive = shell.run("export", "tar").output
    assert archive == shell.run("export", "tar/**", "--concurrency", "2").output
    (shell.folder / "archive.tar").write_bytes(archive)
    subprocess.run(["tar", "xf", "archive.tar"], cwd=shell.folder, check=True)
    here = {f"tar/{name}": body for name, body in shell.read("tar").items()}
    assert here == {**content, "tar/typed": b"typed"}

    shell.run("import", "--path", "back", stdin=archive)
    for name, body in content.items():
        assert server.get(f"back/{name}").body == body
    typed = server.get("back/tar/typed")
    assert typed.headers["content-type"] == "text/x-t" and "expires" in typed.headers
    again = shell.run("import", "--json", "--check", "--path", "back", "archive.tar")
    assert {each["result"] for each in again.objects} == {"there"}
    server.put("back/tar/a.txt", b"changed")
    shell.run("import", "--skip-existing", "--path", "back", stdin=archive)
    assert server.get("back/tar/a.txt").body == b"changed"


def test_an_archive_that_was_cut_off_or_damaged(shell: Shell, server: Gateway) -> None:
    for n in range(3):
        server.put(f"cut/{n}", b"%d" % n * 1000)
    archive = shell.run("export", "cut").output
    third = archive.index(b"2" * 1000)
    # Within a file, within a header, and where a file ends: only the end itself is missing.
    for at, count in ((third + 500, 2), (third - 100, 2), (third + 1024, 3)):
        ended = shell.run("import", "--path", "cut-off", status=1, stdin=archive[:at])
        assert f"; {count} files were imported" in ended.told, ended.told
        assert shell.run("ls", "-1", "cut-off/cut").lines == [
            f"cut-off/cut/{n}" for n in range(count)
        ]
        shell.run("rm", "-r", "cut-off")
    ended = shell.run("import", status=1, stdin=b"this is no archive" * 100)
    assert "cannot be read" in ended.told
    ended = shell.run("import", status=1, stdin=b"")
    assert "archive" in ended.told
    damaged = archive.replace(b"1" * 1000, b"1" * 999 + b"x")
    ended = shell.run("import", "--path", "damaged", status=1, stdin=damaged)
    assert "was damaged since" in ended.told
    assert shell.run("ls", "-1", "damaged/cut").lines == ["damaged/cut/0", "damaged/cut/2"]


def test_import_of_another_programs_archive(shell: Shell) -> None:
    shell.write({"other/a": b"a", "other/b/c": b"c"})
    (shell.folder / "other/link").symlink_to("a")
    os.link(shell.folder / "other/a", shell.folder / "other/z")
    subprocess.run(["tar", "czf", "other.tgz", "./other"], cwd=shell.folder, check=True)
    ended = shell.run("import", "other.tgz", status=1)
    assert "another name of a file" in ended.told and "left out" in ended.told
    assert set(shell.run("ls", "-r", "-1", "other").lines) >= {"other/b/c"}
    content = (shell.folder / "other.tgz").read_bytes()
    shell.run("import", "--path", "gz", status=1, stdin=content[: len(content) // 2])


# --- Watching, measuring, completing --------------------------------------------------------------


def test_status(shell: Shell) -> None:
    text = shell.run("status").output.decode()
    assert "embedded:" in text and "ok" in text and "workers" in text and "\x1b" not in text
    (found,) = shell.run("status", "--json").objects
    assert found["webserver"]["version"]


def test_status_again_and_again(shell: Shell) -> None:
    command = [*SFSS, "status", "--json", "--watch", "0.2"]
    process = subprocess.Popen(
        command, cwd=shell.folder, env=shell.environ(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(2):
        assert "storages" in json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_bench(shell: Shell) -> None:
    options = ["--seconds", "0.3", "--files", "20", "--size", "100"]
    (found,) = shell.run("bench", "--json", *options).objects
    assert found["GET"]["requests"] > 0 and found["PUT"]["requests"] > 0
    assert found["failures"] == {}
    text = shell.run("bench", "--reads", "100", *options).output.decode()
    assert "###" in text and "of a core" in text
    assert not [name for name in shell.run("ls", "-1").lines if "bench" in name]


def bash_completes(shell: Shell, line: str) -> list[str]:
    """Return what bash offers at the end of ``line``."""
    script = shell.run("completion", "bash").output.decode()
    words = " ".join(f'"{word}"' for word in line.split(" "))
    asked = (
        f"{script}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
        '\ncompopt() { :; }; _sfss; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ended = subprocess.run(
        ["bash", "-uc", asked], capture_output=True, cwd=shell.folder, timeout=30, check=True
    )
    assert not ended.stderr, ended.stderr
    return sorted(ended.stdout.decode().split())


def test_completion_in_bash(shell: Shell) -> None:
    assert bash_completes(shell, "sfss st") == ["stat", "status", "stores"]
    assert bash_completes(shell, "sfss get --con") == ["--concurrency"]
    assert bash_completes(shell, "sfss --ver") == ["--version"]
    assert bash_completes(shell, "sfss put --face n") == ["native"]
    assert bash_completes(shell, "sfss migrate st") == ["start", "status"]
    shell.write({"some-file": b""})
    assert bash_completes(shell, "sfss put some") == ["some-file"]


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_completion_scripts_are_well_formed(shell: Shell, name: str) -> None:
    script = shell.run("completion", name).output
    (shell.folder / "script").write_bytes(script)
    assert b"--concurrency" in script or b"-l concurrency" in script
    if (program := shutil.which(name)) is not None:
        subprocess.run([program, "-n", "script"], cwd=shell.folder, check=True, timeout=30)
