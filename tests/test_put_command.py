"""``sfss put`` against real servers, and against some that fail on cue."""

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

import pytest

from tests.servers import (
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    Server,
    binary,
    free_port,
    gateway,
    nginx,
    nginx_node,
    nginx_root,
    running,
    wait_until,
)

ENVIRON = {**os.environ, **PYTHON_ENVIRON}
ODD_NAMES = [
    "a b.txt",
    'it\'s "quoted".txt',
    "grüße/ü.txt",
    "100%.txt",
    "%41.txt",
    "-dash",
    "what?#;.txt",
    "a+b&c=d.txt",
    ".hidden",
    " ",
]


@dataclass
class Client:
    """The command, as it is started from ``folder``."""

    url: str
    folder: Path
    options: list[str] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        return [*SFSS, "put", "--to", self.url, *self.options, *arguments]

    def run(self, *arguments: str, stdin: bytes = b"") -> "Ended":
        ended = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env=ENVIRON,
            timeout=60,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr.decode())

    def write(self, name: str, body: bytes = b"body") -> Path:
        """Make a file that is to be put."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        return file


@dataclass(frozen=True)
class Ended:
    """What the command has said; ``counts``: files, skipped and failed in its last line."""

    status: int
    failed: bytes
    told: str

    @property
    def counts(self) -> tuple[int, int, int]:
        words = self.told.splitlines()[-1].replace(",", "").split()
        return int(words[1]), int(words[3]), int(words[5])


@pytest.fixture
def client(gateway: Gateway, tmp_path: Path, request: pytest.FixtureRequest) -> Client:
    """Puts to a real gateway, below a path of its own."""
    return Client(gateway.url, tmp_path, ["--path", prefix(request)])


@pytest.fixture
def top(request: pytest.FixtureRequest) -> str:
    """The path below which ``client`` puts."""
    return prefix(request)


def prefix(request: pytest.FixtureRequest) -> str:
    return f"put/{crc32(request.node.name.encode()):08x}"


# --- What is stored -------------------------------------------------------------------------------


def test_a_server_that_takes_files_by_path_is_not_put_to_by_query(tmp_path: Path) -> None:
    settings = "[server]\nfaces = ['paths', 'status']\n"
    with running(gateway(tmp_path, "--store", "store", settings=settings)) as server:
        refused_by(server.url, tmp_path)
        assert server.request("GET", "/file").status == 404
        assert Client(server.url, tmp_path, ["--face", "paths"]).run("a").status == 0
    with running(nginx_node(tmp_path)) as bare:
        refused_by(f"http://{bare.address}", tmp_path)
        assert not (nginx_root(bare) / "file").exists()


def refused_by(url: str, folder: Path) -> None:
    client = Client(url, folder)
    client.write("a")
    ended = client.run("a")
    assert (ended.status, "use --face paths" in ended.told) == (2, True), ended.told


def test_files_and_folders_keep_their_names(client: Client, gateway: Gateway, top: str) -> None:
    for name in ("a/b/c.txt", "a/d.txt", "e.txt", "f.txt"):
        client.write(name, name.encode())
    ended = client.run("a", "./e.txt", str(client.folder / "f.txt"))
    assert (ended.status, ended.failed, ended.counts) == (0, b"", (4, 0, 0))
    for name in ("a/b/c.txt", "a/d.txt", "e.txt"):
        assert gateway.get(f"{top}/{name}").body == name.encode()
    assert gateway.get(f"{top}{client.folder}/f.txt").body == b"f.txt"


def test_names_begin_in_the_folder_that_is_given(
    client: Client, gateway: Gateway, top: str
) -> None:
    client.write("far/away/a", b"body")
    assert client.run("--folder", "far/away", ".").status == 0
    assert gateway.get(f"{top}/a").body == b"body"


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_a_list_may_have_any_name(
    client: Client, gateway: Gateway, top: str, separator: bytes
) -> None:
    for name in ODD_NAMES:
        client.write(name, name.encode())
    listed = separator.join(name.encode() for name in ODD_NAMES)
    ended = client.run("-", *(["--null"] if separator == b"\0" else []), stdin=listed)
    assert (ended.status, ended.failed) == (0, b"")
    for name in ODD_NAMES:
        assert gateway.get(f"{top}/{name}").body == name.encode()


def test_a_folder_on_a_list_stands_for_its_files(
    client: Client, gateway: Gateway, top: str
) -> None:
    client.write("a/b")
    assert client.run("-", stdin=b"a\n").counts == (1, 0, 0)
    assert gateway.get(f"{top}/a/b").body == b"body"


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 2 * 1024 * 1024])
def test_bodies_of_any_size(client: Client, gateway: Gateway, top: str, size: int) -> None:
    body = os.urandom(size)
    client.write("a", body)
    assert client.run("a").status == 0
    assert gateway.get(f"{top}/a").body == body


def test_many_files(client: Client, gateway: Gateway, top: str) -> None:
    for number in range(1000):
        client.write(f"many/{number % 7}/{number}", b"%d" % number)
    assert client.run("many").counts == (1000, 0, 0)
    stored = gateway.request("GET", f"/files?prefix={top}/many/&limit=1000").json()
    assert {file["path"].rpartition("/")[2] for file in stored["files"]} == {
        str(number) for number in range(1000)
    }


def test_links(client: Client, gateway: Gateway, top: str) -> None:
    """A link to a file is that file; one to a folder is left out, for it may lead round."""
    client.write("real/file")
    (client.folder / "a").mkdir()
    (client.folder / "a/link").symlink_to("../real/file")
    (client.folder / "a/round").symlink_to("..")
    (client.folder / "a/dangling").symlink_to("nowhere")
    (client.folder / "a/loop").symlink_to("loop")
    os.mkfifo(client.folder / "a/fifo")
    ended = client.run("a")
    assert (ended.status, ended.counts) == (1, (3, 0, 2))
    assert set(ended.failed.split()) == {b"a/dangling", b"a/loop"}
    assert "a/round: neither a file nor a folder" in ended.told
    assert gateway.get(f"{top}/a/link").body == b"body"


# --- Deleting, checking ---------------------------------------------------------------------------


def test_names_are_deleted(client: Client, gateway: Gateway, top: str) -> None:
    client.write("a/b")
    client.write("a/c")
    client.run("a")
    ended = client.run("--delete", "a/b", "a/none", "a")
    assert (ended.status, ended.counts) == (0, (3, 2, 0))
    assert gateway.get(f"{top}/a/b").status == 404
    assert gateway.get(f"{top}/a/c").status == 200


def test_what_is_there_is_left_out(client: Client, gateway: Gateway, top: str) -> None:
    for name in ("same", "other", "longer", "new"):
        client.write(name, b"x" * 300_000)
    client.run("same", "other", "longer")
    before = gateway.get(f"{top}/same").headers["last-modified"]
    client.write("other", b"y" * 300_000)
    client.write("longer", b"x" * 300_001)
    ended = client.run("--check", "same", "other", "longer", "new")
    assert (ended.status, ended.counts) == (0, (4, 1, 0))
    assert gateway.get(f"{top}/other").body == b"y" * 300_000
    assert len(gateway.get(f"{top}/longer").body) == 300_001
    assert gateway.get(f"{top}/new").status == 200
    assert gateway.get(f"{top}/same").headers["last-modified"] == before


# --- Other servers --------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "node").mkdir()
    with running(nginx_node(tmp_path / "node", "--prefix", "/files")) as server:
        yield server


@pytest.mark.parametrize("name", ODD_NAMES[:-2])
def test_a_webdav_node_takes_files(node: Server, tmp_path: Path, name: str) -> None:
    client = Client(f"http://{node.address}/files/", tmp_path, ["--face", "paths"])
    client.write(name, b"body")
    assert client.run("--path", "x y/z", "--", name).status == 0
    assert (nginx_root(node) / "x y/z" / name).read_bytes() == b"body"
    # Its ETag does not tell what the content is.
    assert client.run("--path", "x y/z", "--check", "--", name).counts == (1, 0, 0)
    assert client.run("--path", "x y/z", "--delete", "--", name).status == 0
    assert not (nginx_root(node) / "x y/z" / name).exists()


def test_large_bodies_go_to_a_webdav_node(node: Server, tmp_path: Path) -> None:
    client = Client(f"http://{node.address}/files", tmp_path, ["--face", "paths"])
    body = os.urandom(20_000_000)
    client.write("large", body)
    assert client.run("large").status == 0
    assert (nginx_root(node) / "large").read_bytes() == body


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_what_is_at_a_url_is_fetched(
    client: Client, gateway: Gateway, top: str, node: Server, size: int
) -> None:
    body = os.urandom(size)
    (nginx_root(node) / "a b+ü.bin").write_bytes(body)
    url = f"http://{node.address}/files/{quote('a b+ü.bin')}"
    assert client.run("-", stdin=f"{url}?version=1\n".encode()).status == 0
    assert gateway.get(f"{top}/files/a b+ü.bin").body == body
    assert client.run("--check", url).counts == (1, 1, 0)


def test_a_url_that_cannot_be_fetched_fails(client: Client, node: Server) -> None:
    urls = [
        f"http://{node.address}/files/none",
        f"http://{node.address}/files/folder/",
        f"http://{node.address}/files/%ff",
        f"http://127.0.0.1:{free_port()}/a",
        "http://127.0.0.1:99999/a",
        "http://127.0.0.1:x/a",
        "http://a..b/a",
        "http://[/a",
        "http://",
    ]
    ended = client.run("--tries", "2", "-", stdin="\n".join(urls).encode())
    assert (ended.status, sorted(ended.failed.decode().splitlines())) == (1, sorted(urls))
    assert f"{urls[0]}: cannot be fetched: 404 Not Found" in ended.told


# --- What fails -----------------------------------------------------------------------------------


def test_what_failed_can_be_tried_again(client: Client, gateway: Gateway, top: str) -> None:
    for name in ("a/good", "a/b c\\d", "a/it's", "a/bad\tname"):
        client.write(name)
    ended = client.run("a")
    assert (ended.status, ended.counts) == (1, (4, 0, 2))
    assert set(ended.failed.splitlines()) == {b"a/b c\\d", b"a/bad\tname"}
    assert "a/b c\\d: 400 Bad Request: bad path: it contains a backslash" in ended.told
    again = client.run("-", stdin=ended.failed).failed.splitlines()
    assert sorted(again) == sorted(ended.failed.splitlines())


def test_a_name_that_no_list_can_have_is_only_told(client: Client) -> None:
    client.write("a/new\nline")
    ended = client.run("a")
    assert (ended.status, ended.failed) == (1, b"")
    assert "only --null can print this name" in ended.told
    assert client.run("--null", "a").failed == b"a/new\nline\0"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "none: no such file or folder"),
        ("../a", 'bad path: it contains ".."'),
        ("/dev/null", "it is not a file"),
        ("fifo", "it is not a file"),
        ("x" * 300, "cannot open it: File name too long"),
    ],
)
def test_what_is_no_file_fails(client: Client, name: str, reason: str) -> None:
    os.mkfifo(client.folder / "fifo")
    ended = client.run(name)
    assert (ended.status, ended.failed) == (1, f"{name}\n".encode())
    assert reason in ended.told


def test_a_name_that_is_not_utf_8_fails(client: Client) -> None:
    (client.folder / os.fsdecode(b"a\xff")).write_text("body")
    ended = client.run("-", stdin=b"a\xff\n")
    assert (ended.status, ended.failed) == (1, b"a\xff\n")
    assert "bad path: it is not UTF-8" in ended.told


def test_a_body_over_the_limit_fails_once(client: Client) -> None:
    client.write("huge", bytes(32 * 1024 * 1024))
    ended = client.run("huge")
    assert (ended.status, ended.failed) == (1, b"huge\n")
    assert "413" in ended.told and "a file may have at most" in ended.told


def test_a_webdav_node_refuses_a_body_over_its_limit(tmp_path: Path) -> None:
    with running(nginx_node(tmp_path, "--body-limit", "1000")) as server:
        client = Client(f"http://{server.address}", tmp_path, ["--face", "paths"])
        client.write("huge", bytes(32 * 1024 * 1024))
        ended = client.run("huge")
    assert (ended.status, ended.failed) == (1, b"huge\n")
    assert "huge: 413 Request Entity Too Large" in ended.told


def test_a_list_that_is_none_is_not_read_for_ever(client: Client) -> None:
    ended = client.run("-", stdin=bytes(1_000_000))
    assert (ended.status, ended.failed) == (1, b"")
    assert "a name of more than 65536 bytes" in ended.told


def test_a_server_that_is_down_fails_them_all(tmp_path: Path) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", tmp_path)
    names = [f"{number}" for number in range(300)]
    for name in names:
        client.write(name)
    ended = client.run("-", stdin="\n".join(names).encode())
    assert (ended.status, sorted(ended.failed.decode().split())) == (1, sorted(names))
    assert "cannot connect to 127.0.0.1" in ended.told


Answers = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def answering(answers: Answers) -> Iterator[tuple[str, list[str]]]:
    """Run a server: its URL, and the requests that have come; ``answers`` gets their number."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            requests.append(f"{self.command} {self.path}")
            answers(self, len(requests))

        do_HEAD = do_GET = do_DELETE = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that has gone is what some of these tests are about."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"") -> None:
    """Read the request, and answer it."""
    handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_the_token_is_for_the_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[tuple[str, str | None]] = []

    def answers(handler: BaseHTTPRequestHandler, number: int) -> None:
        tokens.append((handler.command, handler.headers["Authorization"]))
        reply(handler, 200)

    monkeypatch.setitem(ENVIRON, "SFSS_TOKEN", "secret")
    with answering(answers) as (url, _):
        assert Client(url, tmp_path).run(f"{url}/source").status == 0
    assert tokens == [("GET", None), ("PUT", "Bearer secret")]
    monkeypatch.setitem(ENVIRON, "SFSS_TOKEN", "a\nb")
    assert Client(url, tmp_path).run("a").status == 2


@pytest.mark.parametrize("status", [502, 503, 504, 429, 408])
def test_an_error_that_may_pass_is_tried_again(tmp_path: Path, status: int) -> None:
    def answers(handler: BaseHTTPRequestHandler, number: int) -> None:
        reply(handler, status if number < 3 else 200)

    with answering(answers) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a")
        assert client.run("a").status == 0
    assert requests == ["PUT /file?path=a"] * 3


@pytest.mark.parametrize("status", [301, 400, 403, 404, 409, 412, 413, 500, 507])
def test_an_error_that_stays_is_not_tried_again(tmp_path: Path, status: int) -> None:
    def answers(handler: BaseHTTPRequestHandler, _: int) -> None:
        reply(handler, status, b"a reason\x1b[2J\nand more")

    with answering(answers) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a")
        ended = client.run("a")
    assert (ended.status, ended.failed, len(requests)) == (1, b"a\n", 1)
    assert str(status) in ended.told and "\x1b" not in ended.told and "a reason" in ended.told


def test_a_server_that_wants_to_be_left_alone_for_long_is(tmp_path: Path) -> None:
    def answers(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.send_response(429)
        handler.send_header("Retry-After", "3600")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with answering(answers) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a")
        ended = client.run("a")
    assert (ended.status, ended.failed, len(requests)) == (1, b"a\n", 1)


def test_tries_are_bounded(tmp_path: Path) -> None:
    with answering(lambda handler, _: reply(handler, 503)) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a")
        ended = client.run("--tries", "3", "a")
    assert (ended.status, ended.failed, len(requests)) == (1, b"a\n", 3)


def test_a_connection_that_breaks_is_made_anew(tmp_path: Path) -> None:
    def answers(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number < 3:
            handler.close_connection = True
        else:
            reply(handler, 200)

    with answering(answers) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a", b"x" * 1_000_000)
        assert client.run("a").status == 0
    assert len(requests) == 3


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    silence = threading.Event()

    def answers(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.close_connection = silence.wait(60)

    with answering(answers) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a", b"x" * 10_000_000)
        ended = client.run("--timeout", "0.3", "--tries", "2", "a")
        silence.set()
    assert (ended.status, ended.failed, len(requests)) == (1, b"a\n", 2)
    assert "no answer within 0.3 s" in ended.told


def test_a_check_that_cannot_be_made_fails(tmp_path: Path) -> None:
    with answering(lambda handler, _: reply(handler, 504)) as (url, requests):
        client = Client(url, tmp_path)
        client.write("a")
        ended = client.run("--check", "--tries", "2", "a")
    assert (ended.status, ended.failed) == (1, b"a\n")
    assert requests == ["HEAD /file?path=a"] * 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://no-such-host.invalid", "cannot connect to no-such-host.invalid:80"),
        ("http://a..b", "cannot connect to a..b:80"),
        ("http://" + "a" * 70 + ".invalid", "cannot connect to aaa"),
        ("http://[1.2.3:::4]", "cannot connect to"),
    ],
)
def test_a_server_that_cannot_be_found(tmp_path: Path, url: str, reason: str) -> None:
    client = Client(url, tmp_path)
    client.write("a")
    ended = client.run("--tries", "1", "a")
    assert (ended.status, ended.failed) == (1, b"a\n")
    assert reason in ended.told and "Traceback" not in ended.told


def test_a_server_that_nobody_vouches_for(gateway: Gateway, tmp_path: Path) -> None:
    files = ["-out", str(tmp_path / "c"), "-keyout", str(tmp_path / "k")]
    options = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    options += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = [binary("openssl"), "req", "-x509", *options, *files]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    places = ("--listen", f"127.0.0.1:{port}", "--work", str(tmp_path / f"nginx-{port}"))
    tls = ("--certificate", str(tmp_path / "c"), "--key", str(tmp_path / "k"))
    behind = ("--gateway", gateway.address)
    with running(nginx(tmp_path, port, "front", *places, *behind, *tls)):
        client = Client(f"https://127.0.0.1:{port}", tmp_path)
        client.write("a")
        ended = client.run("--tries", "1", "a")
        assert (ended.status, ended.failed) == (1, b"a\n")
        assert "certificate" in ended.told and "Traceback" not in ended.told
        trusting = {**ENVIRON, "SSL_CERT_FILE": str(tmp_path / "c")}
        command = client.command("--path", "put/tls", "a")
        subprocess.run(command, cwd=tmp_path, env=trusting, check=True, capture_output=True)
    assert gateway.get("put/tls/a").body == b"body"


def test_names_that_cannot_be_written_are_not_lost_silently(tmp_path: Path) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", tmp_path)
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            client.command("--tries", "1", "none", "nothing"),
            cwd=tmp_path,
            env=ENVIRON,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert ended.returncode == 1
    assert b"cannot write to standard output: No space left" in ended.stderr
    assert b"Traceback" not in ended.stderr


# --- Being stopped --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_list_of_what_is_left(tmp_path: Path, number: signal.Signals) -> None:
    silence = threading.Event()
    names = [f"name {number}" for number in range(1000)]

    def answers(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number > 10:
            silence.wait(60)
        reply(handler, 200)

    with answering(answers) as (url, requests):
        client = Client(url, tmp_path)
        for name in names:
            client.write(f"all/{name}")
        process = subprocess.Popen(
            client.command("--concurrency", "4", "all"),
            cwd=tmp_path,
            env=ENVIRON,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_until(lambda: len(requests) == 14, "four requests wait for an answer")
        process.send_signal(number)
        left, told = process.communicate(timeout=30)
        silence.set()
    done = {request.partition("all/")[2].replace("%20", " ") for request in requests[:10]}
    assert process.returncode == 130
    assert {name.decode() for name in left.splitlines()} == {f"all/{name}" for name in names} - {
        f"all/{name}" for name in done
    }
    assert b"Traceback" not in told


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", tmp_path)
    process = subprocess.Popen(
        client.command("-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=ENVIRON,
    )
    assert process.stdin and process.stderr
    process.stdin.write(b"a\n")
    process.stdin.flush()
    assert b"a: " in process.stderr.readline()  # it runs, and has nothing more to do
    process.send_signal(signal.SIGINT)
    while b"interrupted" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_may_be_closed(client: Client, closed: str) -> None:
    client.write("there")
    for name, status in (("there", 0), ("missing", 1)):
        command = ["bash", "-c", f'"$@" {closed}', "bash", *client.command(name)]
        ended = subprocess.run(command, cwd=client.folder, env=ENVIRON, timeout=60)
        assert ended.returncode == status


def test_nobody_reads_what_failed(tmp_path: Path) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        client.command("--tries", "1", "none", "nothing"),
        cwd=tmp_path,
        env=ENVIRON,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert ended.returncode == 1
    assert ended.stderr.count(b"Broken pipe") == 1 and b"Traceback" not in ended.stderr


# --- Progress -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["folder", "list"])
def test_a_terminal_shows_how_far_it_is(tmp_path: Path, source: str) -> None:
    """What is to be done is counted beforehand, and a list is still read from its beginning."""
    go_on = threading.Event()

    def answers(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number > 10:
            go_on.wait(60)
        reply(handler, 200)

    client = Client("", tmp_path)
    names = [f"all/{number}" for number in range(30)]
    for name in names:
        client.write(name)
    (tmp_path / "list").write_text("\n".join(names))
    with answering(answers) as (client.url, requests):
        ours, theirs = pty.openpty()
        with (tmp_path / "list").open() as listed:
            process = subprocess.Popen(
                client.command("all" if source == "folder" else "-"),
                cwd=tmp_path,
                env=ENVIRON,
                stdin=listed,
                stdout=subprocess.PIPE,
                stderr=theirs,
            )
        os.close(theirs)
        shown = b""
        while b"10 of 30 files" not in shown or b"ETA 0:" not in shown:
            shown += os.read(ours, 1000)
        go_on.set()
        failed, _ = process.communicate(timeout=30)
        shown += os.read(ours, 1000)
        os.close(ours)
    assert (process.returncode, failed, len(requests)) == (0, b"", 30)
    assert b"\x1b[2Ksfss: 30 files, 0 skipped, 0 failed" in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is there again"


# --- Usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "NAME"),
        (["--to", "ftp://a", "x"], "--to"),
        (["--to", "http://a?b", "x"], "--to"),
        (["--path", "../a", "x"], "--path"),
        (["--concurrency", "0", "x"], "--concurrency"),
        (["--concurrency", "100000", "x"], "--concurrency"),
        (["--tries", "0", "x"], "--tries"),
        (["--timeout", "nan", "x"], "--timeout"),
        (["--check", "--delete", "x"], "--check"),
        (["--face", "none", "x"], "--face"),
    ],
)
def test_wrong_usage_is_2(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    client = Client("http://127.0.0.1:1", tmp_path)
    ended = client.run(*arguments)
    assert (ended.status, ended.failed) == (2, b"")
    assert complaint in ended.told


def test_the_server_may_be_named_in_the_environment(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("by environment")
    command = [*SFSS, "put", "--path", "put/environment", "a"]
    environ = {**ENVIRON, "SFSS_URL": gateway.url}
    subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True)
    assert gateway.get("put/environment/a").body == b"by environment"
