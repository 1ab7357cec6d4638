"""``sfss nginx node``: a real nginx with what it writes."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from sfss.cli import main as sfss
from sfss.nginx_conf import DAV_EXT_MODULE
from sfss.web.answers import Answers
from sfss.web.mediatypes import guess
from tests.servers import (
    Answer,
    HTTPConnection,
    Server,
    ask,
    binary,
    free_port,
    lacking,
    nginx,
    nginx_node,
    nginx_root,
    running,
    wait_until,
)

ODD_NAMES = [
    "a b.txt",
    'it\'s "quoted".txt',
    "grüße/ü.txt",
    "100%.txt",
    "%41.txt",
    "-dash",
    "what?#;.txt",
    "a+b&c=d.txt",
    "back\\slash",
    "$uri{}",
]


def request(
    server: Server,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request to ``server``."""
    with closing(HTTPConnection(server.host, server.port, timeout=30)) as connection:
        return ask(connection, method, target, body, headers)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Server]:
    with running(nginx_node(tmp_path)) as server:
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[ExitStack]:
    """What is entered here is running until the test ends."""
    with ExitStack() as stack:
        yield stack


def url(server: Server, folder: str = "") -> str:
    """Return what the parent of ``server`` is told."""
    return f"http://{server.address}{folder}"


def test_a_file_is_put_read_in_part_and_deleted(node: Server) -> None:
    assert request(node, "PUT", "/a/b/c.txt", b"0123456789").status == 201
    assert (nginx_root(node) / "a/b/c.txt").read_bytes() == b"0123456789"
    whole = request(node, "GET", "/a/b/c.txt")
    assert (whole.status, whole.body) == (200, b"0123456789")
    assert whole.headers["content-type"] == "text/plain"
    assert request(node, "HEAD", "/a/b/c.txt").headers["content-length"] == "10"
    part = request(node, "GET", "/a/b/c.txt", headers={"Range": "bytes=2-4"})
    assert (part.status, part.body) == (206, b"234")
    assert request(node, "PUT", "/a/b/c.txt", b"new").status == 204
    assert request(node, "DELETE", "/a/b/c.txt").status == 204
    assert request(node, "GET", "/a/b/c.txt").status == 404
    assert request(node, "DELETE", "/a/b/c.txt").status == 404


def test_what_users_upload_cannot_run_in_the_origin_of_the_node(node: Server) -> None:
    for name in ("a.html", "a.svg", "a.xml", "a.js", "a.png", "a.mp3", "a.pdf", "a"):
        assert request(node, "PUT", f"/{name}", b"<p>").status == 201
        ours = Answers().of(name, guess(name)).fields
        for headers in ({}, {"Range": "bytes=0-1"}):
            got = request(node, "GET", f"/{name}", headers=headers).headers
            assert got["x-content-type-options"] == "nosniff"
            assert got["content-security-policy"] == ours["Content-Security-Policy"]
            assert ("content-disposition" in got) == ("Content-Disposition" in ours)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_has_the_name_that_it_is_put_under(node: Server, name: str) -> None:
    target = "/" + quote(name)
    assert request(node, "PUT", target, b"body").status == 201
    assert (nginx_root(node) / name).read_bytes() == b"body"
    assert request(node, "GET", target).body == b"body"


def test_a_file_can_be_read_by_any_program(node: Server) -> None:
    request(node, "PUT", "/a/b", b"body")
    assert (nginx_root(node) / "a/b").stat().st_mode & 0o777 == 0o644
    assert (nginx_root(node) / "a").stat().st_mode & 0o777 == 0o755


def test_a_folder_is_listed_as_json_whatever_is_in_it(node: Server) -> None:
    for name in ("index.html", "b c.txt", "sub/d"):
        request(node, "PUT", f"/x/{quote(name)}", b"12345")
    listed = request(node, "GET", "/x/")
    assert listed.headers["content-type"] == "application/json"
    found = {entry["name"]: (entry["type"], entry.get("size")) for entry in listed.json()}
    assert found == {
        "index.html": ("file", 5),
        "b c.txt": ("file", 5),
        "sub": ("directory", None),
    }
    assert request(node, "GET", "/").json()[0]["name"] == "x"


@pytest.mark.parametrize(
    "target", ["/.hidden", "/a/.hidden", "/a/%2ehidden", "/.uploads/0", "/a%00b", "/a%0Ab", "/..a"]
)
def test_hidden_and_control_names_are_refused(node: Server, target: str) -> None:
    root = nginx_root(node)
    (root / "a").mkdir()
    for name in (".hidden", "a/.hidden", "a\nb"):
        (root / name).write_text("canary")
    before = sorted(root.rglob("*"))
    assert request(node, "GET", target).status in (400, 404)
    assert request(node, "PUT", target, b"body").status in (400, 404)
    assert request(node, "DELETE", target).status in (400, 404)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("target", ["/../outside", "/a/../../outside", "/%2e%2e/outside"])
def test_nothing_outside_is_reached(node: Server, target: str) -> None:
    outside = nginx_root(node).parent / "outside"
    outside.write_text("canary")
    assert request(node, "GET", target).status in (400, 404)
    request(node, "PUT", target, b"body")
    request(node, "DELETE", target)
    assert outside.read_text() == "canary"


def test_what_a_symlink_points_to_is_not_served(node: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("canary")
    (nginx_root(node) / "link").symlink_to(tmp_path / "secret")
    (nginx_root(node) / "file").symlink_to(tmp_path / "secret/file")
    for target in ("/link/file", "/file", "/link/"):
        answer = request(node, "GET", target)
        assert answer.status in (403, 404) and b"canary" not in answer.body


def test_an_upload_that_breaks_off_leaves_what_was_there(node: Server) -> None:
    request(node, "PUT", "/a", b"before")
    uploads = nginx_root(node) / ".uploads"
    with socket.create_connection((node.host, node.port)) as connection:
        connection.sendall(
            b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 60000
        )
        wait_until(lambda: list(uploads.iterdir()), "the body has a temporary file of its own")
    wait_until(lambda: not list(uploads.iterdir()), "nothing is left of it")
    assert request(node, "GET", "/a").body == b"before"


def test_a_body_over_the_limit_is_413(start: ExitStack, tmp_path: Path) -> None:
    server = start.enter_context(running(nginx_node(tmp_path, "--body-limit", "1000")))
    assert request(server, "PUT", "/a", b"x" * 1000).status == 201
    assert request(server, "PUT", "/b", b"x" * 1001).status == 413


def test_a_large_body_comes_back_whole(node: Server) -> None:
    body = os.urandom(8 * 1024 * 1024)
    assert request(node, "PUT", "/large", body).status == 201
    assert request(node, "GET", "/large").body == body


def test_who_is_not_allowed_may_only_read(start: ExitStack, tmp_path: Path) -> None:
    others = ("--allow", "10.0.0.0/8", "--allow", "2001:db8::/32")
    server = start.enter_context(running(nginx_node(tmp_path, *others)))
    (nginx_root(server) / "a").write_text("body")
    assert request(server, "GET", "/a").status == 200
    for method in ("PUT", "DELETE", "MKCOL"):
        assert request(server, method, "/a" if method != "MKCOL" else "/b/").status == 403
    assert (nginx_root(server) / "a").read_text() == "body"


def test_folders_of_the_first_level_can_be_protected(start: ExitStack, tmp_path: Path) -> None:
    options = ("--delete-depth", "2", "--prefix", "/files")
    server = start.enter_context(running(nginx_node(tmp_path, *options)))
    request(server, "PUT", "/files/a/b", b"body")
    assert request(server, "DELETE", "/files/a/").status == 409
    assert request(server, "DELETE", "/files/").status == 409
    assert request(server, "DELETE", "/files/a/b").status == 204


def test_a_prefix_stands_before_every_file(start: ExitStack, tmp_path: Path) -> None:
    server = start.enter_context(running(nginx_node(tmp_path, "--prefix", "/my/files/")))
    assert request(server, "PUT", "/my/files/a/b", b"body").status == 201
    assert (nginx_root(server) / "a/b").read_bytes() == b"body"
    assert request(server, "GET", "/my/files/a/").json()[0]["name"] == "b"
    assert request(server, "GET", "/a/b").status == 404
    assert request(server, "PUT", "/c", b"body").status in (404, 405)
    assert request(server, "GET", "/my/files/.uploads/").status == 404


def test_a_collection_is_made(node: Server) -> None:
    assert request(node, "MKCOL", "/a/").status == 201
    assert (nginx_root(node) / "a").is_dir()
    assert request(node, "MKCOL", "/a/").status == 405


def test_propfind_lists_a_folder(start: ExitStack, tmp_path: Path) -> None:
    if not Path(DAV_EXT_MODULE).exists():
        lacking("libnginx-mod-http-dav-ext is not installed")
    server = start.enter_context(running(nginx_node(tmp_path, "--propfind")))
    request(server, "PUT", "/a/b%20c", b"12345")
    (nginx_root(server) / "a/.hidden").write_text("canary")
    answer = request(server, "PROPFIND", "/a/", headers={"Depth": "1"})
    assert answer.status == 207
    hrefs = [element.text for element in ElementTree.fromstring(answer.body).iter("{DAV:}href")]
    assert sorted(filter(None, hrefs)) == ["/a/", "/a/b%20c"]
    assert request(server, "PROPFIND", "/none", headers={"Depth": "0"}).status == 404
    assert "PROPFIND" in request(server, "OPTIONS", "/").headers["allow"]


def test_what_is_not_here_is_asked_of_the_children_in_turn(
    start: ExitStack, tmp_path: Path
) -> None:
    first = start.enter_context(running(nginx_node(tmp_path)))
    second = start.enter_context(running(nginx_node(tmp_path, "--prefix", "/other/files")))
    children = ("--child", url(first), "--child", url(second, "/other/files"))
    parent = start.enter_context(running(nginx_node(tmp_path, *children)))
    for server, names in ((parent, "p"), (first, "pf"), (second, "pfs")):
        for name in names:
            (nginx_root(server) / name).write_text(f"{name} of {server.port}")
    assert request(parent, "GET", "/p").body == b"p of %d" % parent.port
    assert request(parent, "GET", "/f").body == b"f of %d" % first.port
    assert request(parent, "GET", "/s").body == b"s of %d" % second.port
    part = request(parent, "GET", "/s", headers={"Range": "bytes=0-0"})
    assert (part.status, part.body) == (206, b"s")
    assert request(parent, "HEAD", "/s").headers["content-length"] == str(len(f"s of {first.port}"))
    assert request(parent, "GET", "/none").status == 404


def test_a_child_that_is_down_makes_504_of_what_nobody_else_has(
    start: ExitStack, tmp_path: Path
) -> None:
    first, second = (start.enter_context(running(nginx_node(tmp_path))) for _ in range(2))
    children = ("--child", url(first), "--child", url(second))
    parent = start.enter_context(running(nginx_node(tmp_path, *children)))
    (nginx_root(first) / "f").write_text("first")
    (nginx_root(second) / "s").write_text("second")
    first.kill()
    assert request(parent, "GET", "/s").body == b"second"
    assert request(parent, "GET", "/f").status == 504
    first.start()
    assert request(parent, "GET", "/f").body == b"first"
    second.kill()
    assert request(parent, "GET", "/f").body == b"first"
    assert request(parent, "GET", "/s").status == 504


def test_a_child_that_is_silent_counts_as_down(start: ExitStack, tmp_path: Path) -> None:
    silent, other = (start.enter_context(running(nginx_node(tmp_path))) for _ in range(2))
    children = ("--child", url(silent), "--child", url(other), "--child-timeout", "1")
    parent = start.enter_context(running(nginx_node(tmp_path, *children)))
    (nginx_root(other) / "a").write_text("body")
    silent.pause()
    assert request(parent, "GET", "/a").body == b"body"
    assert request(parent, "GET", "/none").status == 504


def test_changes_stay_at_the_node(start: ExitStack, tmp_path: Path) -> None:
    child = start.enter_context(running(nginx_node(tmp_path)))
    parent = start.enter_context(running(nginx_node(tmp_path, "--child", url(child))))
    (nginx_root(child) / "a").write_text("body")
    assert request(parent, "DELETE", "/a").status == 404
    assert request(parent, "PUT", "/b", b"body").status == 201
    assert [file.name for file in nginx_root(child).iterdir() if file.is_file()] == ["a"]


@pytest.mark.parametrize("prefixes", [("/", "/"), ("/files", "/there"), ("/files", "/files")])
def test_odd_names_are_found_at_a_child_of_a_child(
    start: ExitStack, tmp_path: Path, prefixes: tuple[str, str]
) -> None:
    above, below = prefixes
    leaf = start.enter_context(running(nginx_node(tmp_path, "--prefix", below)))
    child_of = ("--child", url(leaf, below), "--prefix", above)
    middle = start.enter_context(running(nginx_node(tmp_path, *child_of)))
    child_of = ("--child", url(middle, above), "--prefix", above)
    root = start.enter_context(running(nginx_node(tmp_path, *child_of)))
    for name in ODD_NAMES:
        file = nginx_root(leaf) / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        answer = request(root, "GET", f"{above.rstrip('/')}/in/{quote(name)}")
        assert (answer.status, answer.body.decode()) == (200, name)


def test_as_many_children_as_are_allowed_are_asked(start: ExitStack, tmp_path: Path) -> None:
    leaf = start.enter_context(running(nginx_node(tmp_path)))
    (nginx_root(leaf) / "a").write_text("body")
    nobody = [f"http://127.0.0.1:{free_port()}" for _ in range(7)]
    children = [word for child in (*nobody, url(leaf)) for word in ("--child", child)]
    parent = start.enter_context(running(nginx_node(tmp_path, *children)))
    assert request(parent, "GET", "/a").body == b"body"
    assert request(parent, "GET", "/none").status == 504


def test_a_paused_child_does_not_answer(start: ExitStack, tmp_path: Path) -> None:
    node = start.enter_context(running(nginx_node(tmp_path)))
    (nginx_root(node) / "a").write_text("body")
    node.pause()
    impatient = closing(HTTPConnection(node.host, node.port, timeout=0.2))
    with impatient as connection, pytest.raises(TimeoutError):
        ask(connection, "GET", "/a")
    node.resume()
    assert request(node, "GET", "/a").body == b"body"


WILD_FOLDER = "a b\"c'd$e;f{g}h\\i#j%k${l}\\n"
"""What would end a word, a directive or a block, or name a variable, if it was let."""


def test_a_folder_of_any_name_is_served(start: ExitStack, tmp_path: Path) -> None:
    port, root = free_port(), tmp_path / WILD_FOLDER / "files"
    (root / ".nginx").mkdir(parents=True)
    places = ("--root", str(root), "--listen", f"127.0.0.1:{port}")
    for prefix in ("/", "/files"):
        with running(nginx(tmp_path, port, "node", *places, "--prefix", prefix)) as server:
            target = f"{prefix.rstrip('/')}/a"
            assert request(server, "PUT", target, b"body").status in (201, 204)
            assert (root / "a").read_bytes() == b"body"
            assert request(server, "GET", target).body == b"body"


NOBODY = 65534


@pytest.mark.parametrize("kind", ["node", "front"])
def test_nginx_takes_it_from_root_and_from_anybody(kind: str) -> None:
    program = binary("nginx")
    # Not below tmp_path, which only we may enter.
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name), Path(name) / "work"
        work.mkdir()
        root = ["--root", name] if kind == "node" else []
        conf = str(folder / "nginx.conf")
        assert sfss(["nginx", kind, *root, "--work", str(work), "--output", conf]) == 0
        command = [program, "-t", "-e", "stderr", "-c", conf]
        subprocess.run(command, check=True, capture_output=True)
        if os.geteuid() == 0:
            for place in (folder, work):
                shutil.chown(place, NOBODY, NOBODY)
            (work / "error.log").unlink(missing_ok=True)
            (work / "nginx.pid").unlink(missing_ok=True)
            subprocess.run(command, check=True, capture_output=True, user=NOBODY, group=NOBODY)


def test_with_a_file_the_folders_are_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, conf = tmp_path / "a" / "files", tmp_path / "a" / "node.conf"
    listen = ["--listen", f"127.0.0.1:{free_port()}"]
    assert sfss(["nginx", "node", "--root", str(root), *listen, "--output", str(conf)]) == 0
    assert (root / ".nginx").is_dir()
    check = [binary("nginx"), "-t", "-e", "stderr", "-c", str(conf)]
    subprocess.run(check, check=True, capture_output=True)
    (tmp_path / "file").write_text("")
    refused = ["nginx", "node", "--root", str(tmp_path / "file" / "x"), *listen]
    assert sfss([*refused, "--output", str(tmp_path / "c.conf")]) == 2
    assert "--root" in capfd.readouterr().err
    assert not (tmp_path / "c.conf").exists()


def test_what_is_not_there_is_no_line_in_the_log(node: Server) -> None:
    assert request(node, "HEAD", "/none").status == 404
    assert request(node, "GET", "/none").status == 404
    assert "none" not in (node.folder / f"nginx-{node.port}" / "error.log").read_text()
