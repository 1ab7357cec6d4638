"""Clients that others have written, against the face for paths: cadaver, rclone, wget, curl."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers import Gateway, binary, gateway, running
from tests.web.client import LIMIT

FILES = {
    "one.txt": b"one",
    "empty": b"",
    "sub/with space +&'\"#?;.txt": b"odd",
    "sub/100%.txt": b"percent",
    "sub/deep/日本.html": "<a href='nothing'>ü</a>".encode(),
    "sub/deep/-rf": b"dash",
    "sub/deep/large.bin": os.urandom(LIMIT),
}


@pytest.fixture(name="site")
def fresh_site(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with two workers, and nothing stored."""
    settings = "[server]\nfaces = ['paths']\nworkers = 2\n"
    with running(gateway(tmp_path, "--store", "store", settings=settings)) as server:
        yield server


@pytest.fixture(name="here")
def folder_of_files(tmp_path: Path) -> Path:
    """A folder with ``FILES``."""
    for name, body in FILES.items():
        file = tmp_path / "here" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    return tmp_path / "here"


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below ``folder`` by name."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def run(command: Sequence[str], folder: Path, script: str = "") -> subprocess.CompletedProcess[str]:
    """Run a client in ``folder``, which is its home, too; ``script`` is what somebody types."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "dumb"},
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_rclone_copies_compares_and_removes(site: Gateway, here: Path, tmp_path: Path) -> None:
    program = binary("rclone")

    def rclone(*arguments: str, succeeds: bool = True) -> str:
        options = ("--config", os.devnull, "--webdav-url", site.url, "--retries", "1")
        ended = run([program, *arguments, *options], tmp_path)
        assert (ended.returncode == 0) == succeeds, ended.stderr
        return ended.stdout

    def names(folder: str = "") -> set[str]:
        listed = rclone("lsf", "-R", "--files-only", f":webdav:{folder}")
        return set(listed.splitlines())

    rclone("copy", str(here), ":webdav:there")
    assert names("there") == set(FILES)
    rclone("check", "--download", str(here), ":webdav:there")
    rclone("copy", ":webdav:there", "back")
    assert contents(tmp_path / "back") == FILES
    (here / "one.txt").unlink()
    (here / "two.txt").write_bytes(b"two")
    rclone("sync", str(here), ":webdav:there")
    assert names("there") == {*FILES, "two.txt"} - {"one.txt"}
    rclone("moveto", ":webdav:there/two.txt", ":webdav:there/three.txt")
    rclone("copyto", ":webdav:there/three.txt", ":webdav:else/four.txt")
    assert names() == {f"there/{name}" for name in names("there")} | {"else/four.txt"}
    assert rclone("cat", ":webdav:else/four.txt") == "two"
    rclone("move", "--disable", "DirMove", ":webdav:else", ":webdav:new")
    assert names("new") == {"four.txt"}
    rclone("mkdir", ":webdav:made")
    rclone("rmdir", ":webdav:made")
    rclone("rmdir", ":webdav:there", succeeds=False)
    # A folder with files in it is removed by nobody at once, and rclone's purge asks for that.
    rclone("purge", ":webdav:there", succeeds=False)
    rclone("purge", "--disable", "Purge", ":webdav:there")
    rclone("delete", ":webdav:new")
    assert names() == set()


CADAVER = """\
mkcol folder
cd folder
put here/one.txt
put here/empty
put here/sub/100%.txt
ls
get 100%.txt back.txt
copy one.txt two.txt
move two.txt three.txt
delete one.txt
ls
cd ..
rmcol folder
mkcol other
rmcol other
ls
quit
"""


def test_cadaver_works_in_folders(site: Gateway, here: Path, tmp_path: Path) -> None:
    ended = run([binary("cadaver"), f"{site.url}/"], tmp_path, CADAVER)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "back.txt").read_bytes() == FILES["sub/100%.txt"]
    assert contents(here) == FILES
    listed = site.request("GET", "/folder/", None, {"Accept": "application/json"}).json()
    assert [each["name"] for each in listed] == ["100%.txt", "empty", "three.txt"]
    assert site.request("GET", "/folder/three.txt").body == b"one"
    # A folder that is not empty, which is what its only failure is about.
    assert ended.stdout.count("failed") == 1, ended.stdout
    assert "Deleting collection `folder': failed" in ended.stdout


def commands(site: Gateway, word: str) -> list[str]:
    """Return the commands of the readme that ``word`` is in."""
    lines = site.request("GET", "/__readme.txt").body.decode().splitlines()
    return [line.strip() for line in lines if line.startswith("    ") and word in line]


def test_the_commands_of_the_readme(site: Gateway, here: Path, tmp_path: Path) -> None:
    for program in ("curl", "wget"):
        binary(program)
    put, look = commands(site, "curl -T")[0], commands(site, "application/json")[0]
    get, remove = commands(site, "curl -O")[0], commands(site, "DELETE")[0]

    def shell(command: str, folder: Path = tmp_path) -> str:
        ended = run(["sh", "-c", command], folder)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert shell(put.replace("FILE", "here/one.txt")) == "stored\n"
    assert '"name": "name"' in shell(look)
    shell(get)
    assert (tmp_path / "name").read_bytes() == b"one"
    shell(remove)
    assert site.request("GET", "/folder/name").status == 404


def test_wget_makes_a_copy_of_everything(site: Gateway, tmp_path: Path) -> None:
    binary("wget")
    (copy,) = commands(site, "__index__")
    # So that it has to go from page to page.
    copy = copy.replace("/__index__/;", "/__index__/?limit=3;")
    for name, body in FILES.items():
        assert site.request("PUT", f"/{quote(name)}", body).status == 201
    machine = tmp_path / "new machine"
    machine.mkdir()
    assert run(["sh", "-c", copy], machine).returncode == 0
    assert contents(machine) == FILES
