"""simple_client.py as its users run it: a process of its own, against a real gateway.

Only the faults that no real server commits on cue come from a scripted socket server.
"""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

import simple_client
from tests.servers import Gateway, free_port

SCRIPT = Path(__file__).absolute().parent.parent / "simple_client.py"
HANGS_AFTER_S = 120
ODD_NAMES = [
    "plain.txt",
    "two words.txt",
    'it\'s "quoted".txt',
    "100%25.txt",
    "a+b&c=d?e#f;g.txt",
    "-leading",
    ".hidden",
    "žluťoučký/kůň.jpg",
    "日本/語/😀.bin",
    "deep/er/and/deeper/file",
]

Completed = subprocess.CompletedProcess[bytes]
Handler = Callable[[socket.socket], None]


class Client:
    """Runs simple_client.py against one server."""

    def __init__(self, host: str, port: int) -> None:
        self.options = ["--host", host, "--port", str(port)]

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, str(SCRIPT), *self.options, *map(str, arguments)]

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Completed:
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=HANGS_AFTER_S,
        )

    def content(self, path: str) -> bytes:
        """What GET prints; fails the test when it does not succeed."""
        got = self("--method", "GET", f"--path={path}")
        assert succeeded(got)
        return got.stdout


def succeeded(ended: Completed) -> bool:
    assert ended.stderr == b""
    return ended.returncode == 0


def sentence(ended: Completed) -> str:
    """The one line on standard error of a run that ended with exit status 1."""
    assert ended.returncode == 1, ended
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("simple_client.py: ")


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def client(gateway: Gateway) -> Client:
    return Client(gateway.host, gateway.port)


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """A path that no other test uses."""
    return f"simple_client/{re.sub('[^a-z0-9]+', '-', request.node.name.lower())}"


# --- A scripted server ----------------------------------------------------------------------------


@contextmanager
def scripted(*handlers: Handler) -> Iterator[Client]:
    """A server that hands each new connection to the next handler, then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HANGS_AFTER_S)
        serving = threading.Thread(target=serve, args=(listener, handlers), daemon=True)
        serving.start()
        yield Client("127.0.0.1", listener.getsockname()[1])
        serving.join(HANGS_AFTER_S)
        assert not serving.is_alive(), "the client made fewer connections than scripted"


def serve(listener: socket.socket, handlers: tuple[Handler, ...]) -> None:
    for handler in handlers:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            handler(connection)


def read_request(connection: socket.socket) -> bytes:
    """Read one request with its body (Content-Length only); empty at the end of the connection."""
    request = b""
    while b"\r\n\r\n" not in request:
        received = connection.recv(65536)
        if not received:
            return b""
        request += received
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        missing -= len(connection.recv(65536))
    return head


def wait_for_close(connection: socket.socket) -> None:
    """Return when the client has closed, leaving what it sent before that unread."""
    while connection.recv(1, socket.MSG_PEEK) and connection.recv(65536):
        pass


def answers(*replies: bytes) -> Handler:
    """Answer one request after the other, then close."""

    def handle(connection: socket.socket) -> None:
        for reply in replies:
            read_request(connection)
            connection.sendall(reply)

    return handle


def then_drops_request(handler: Handler) -> Handler:
    """Close, after what the handler does, on receipt of one more request."""

    def handle(connection: socket.socket) -> None:
        handler(connection)
        read_request(connection)

    return handle


def silent(connection: socket.socket) -> None:
    wait_for_close(connection)


CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
TOO_LARGE_BODY = b'{"error": "at most 5 bytes, please"}'
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n%b" % (
    len(TOO_LARGE_BODY),
    TOO_LARGE_BODY,
)


# --- One file, real gateway -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 2_097_152])
def test_a_file_comes_back_as_it_was_stored(
    client: Client, path: str, tmp_path: Path, method: str, size: int
) -> None:
    content = os.urandom(size)
    (tmp_path / "sent").write_bytes(content)

    stored = client("--method", method, "--path", path, "--filepath", tmp_path / "sent")
    assert succeeded(stored)
    assert stored.stdout == b""

    got = client("--method", "GET", "--path", path, "--filepath", tmp_path / "received")
    assert succeeded(got)
    assert (tmp_path / "received").read_bytes() == content
    assert client.content(path) == content


def test_post_is_the_default(client: Client, path: str, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"as in 2014")
    assert succeeded(client("--path", path, "--filepath", tmp_path / "sent"))
    assert client.content(path) == b"as in 2014"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("content", [b"", b"line\n" * 40_000], ids=["empty", "long"])
def test_standard_input(client: Client, path: str, method: str, content: bytes) -> None:
    stored = client("--method", method, "--path", path, "--filepath", "-", stdin=content)
    assert succeeded(stored)
    assert client.content(path) == content


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_path_is_quoted_once(client: Client, path: str, name: str) -> None:
    odd = f"{path[:40]}/{name}"
    assert succeeded(client(f"--path={odd}", "--filepath", "-", stdin=name.encode()))
    assert client.content(odd) == name.encode()


def test_delete(client: Client, path: str) -> None:
    assert succeeded(client("--path", path, "--filepath", "-", stdin=b"short-lived"))
    assert succeeded(client("--method", "DELETE", "--path", path))
    assert sentence(client("--method", "DELETE", "--path", path)).startswith("404 Not Found: ")


def test_get_of_an_absent_file_leaves_the_old_one(
    client: Client, path: str, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"still here")
    got = client("--method", "GET", "--path", path, "--filepath", tmp_path / "old")
    assert sentence(got).startswith("404 Not Found: ")
    assert (tmp_path / "old").read_bytes() == b"still here"
    assert names_in(tmp_path) == ["old"]


def test_get_replaces_what_a_link_points_to(client: Client, path: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    assert succeeded(client("--path", path, "--filepath", "-", stdin=b"new"))
    assert succeeded(client("--method", "GET", "--path", path, "--filepath", tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_get_does_not_replace_a_device(client: Client, path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert succeeded(client("--path", path, "--filepath", "-", stdin=b"content"))
    got = client("--method", "GET", "--path", path, "--filepath", tmp_path / "pipe")
    assert sentence(got).endswith("pipe is not a file")
    assert (tmp_path / "pipe").is_fifo()


def test_get_into_a_missing_folder(client: Client, path: str, tmp_path: Path) -> None:
    assert succeeded(client("--path", path, "--filepath", "-", stdin=b"content"))
    target = tmp_path / "missing" / "file"
    got = client("--method", "GET", "--path", path, "--filepath", target)
    assert sentence(got) == f"cannot write {target}: No such file or directory"


def test_nobody_reads_standard_output(client: Client, path: str, tmp_path: Path) -> None:
    assert succeeded(client("--path", path, "--filepath", "-", stdin=b"x" * 1_000_000))
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    with os.fdopen(writing_end, "wb") as closed_pipe:
        got = subprocess.run(
            client.command("--method", "GET", "--path", path),
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            check=False,
            timeout=HANGS_AFTER_S,
        )
    assert (got.returncode, got.stderr) == (1, b"")


def test_standard_output_is_full(client: Client, path: str) -> None:
    assert succeeded(client("--path", path, "--filepath", "-", stdin=b"content"))
    with Path("/dev/full").open("wb") as full:
        got = subprocess.run(
            client.command("--method", "GET", "--path", path),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=HANGS_AFTER_S,
        )
    assert sentence(got) == "cannot write standard output: No space left on device"


# --- Refusals, real gateway -----------------------------------------------------------------------


def test_a_refused_path(client: Client) -> None:
    refused = sentence(client("--path", "a//b", "--filepath", "-", stdin=b"content"))
    assert re.fullmatch(r"400 Bad Request: .*//.*", refused)


@pytest.mark.parametrize("from_stdin", [False, True], ids=["length", "chunked"])
def test_a_file_that_is_too_large(
    client: Client, path: str, tmp_path: Path, from_stdin: bool
) -> None:
    content = bytes(3 * 1024 * 1024)
    (tmp_path / "large").write_bytes(content)
    source = "-" if from_stdin else tmp_path / "large"
    refused = sentence(client("--path", path, "--filepath", source, stdin=content))
    assert re.match(r"413 [A-Za-z ]+: .*[0-9]", refused)


# --- The command line -----------------------------------------------------------------------------


def test_no_argument_prints_help() -> None:
    ended = subprocess.run([sys.executable, SCRIPT], capture_output=True, check=False)
    assert succeeded(ended)
    assert ended.stdout.startswith(b"usage: ")
    assert b"operations per second" in b" ".join(ended.stdout.split())


def test_runs_alone(tmp_path: Path) -> None:
    """Nothing but the file and the standard library: no checkout, no installed packages."""
    shutil.copy(SCRIPT, tmp_path / "client.py")
    command = [sys.executable, "-I", "-S", "client.py", "--help"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert succeeded(ended)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--path", "p"], "--filepath is needed"),
        (["--filepath", "f"], "--path is needed"),
        (["--method", "GET"], "--path is needed"),
        (["--method", "DELETE"], "--path is needed"),
        (["--method", "DELETE", "--path", "p", "--filepath", "f"], "DELETE takes no --filepath"),
        (["--method", "PATCH", "--path", "p"], "invalid choice"),
        (["--method", "GET", "--recursive", "--path", "p"], "--recursive goes with POST and PUT"),
        (["--recursive"], "--filepath is needed"),
        (["--benchmark", "0"], "0 is not between 1 and"),
        (["--benchmark", "5", "--path", "p"], "--benchmark takes no file, path or method"),
        (["--benchmark", "5", "--concurrency", "257"], "257 is not between 1 and 256"),
        (["--benchmark", "5", "--size", "-1"], "-1 is not between 0 and"),
        (["--port", "65536"], "65536 is not between 1 and 65535"),
        (["--port", "http"], "invalid"),
        (["--timeout", "nan", "--path", "p"], "nan is not between"),
        (["--host", "a" * 64, "--method", "GET", "--path", "p"], "is not a host name"),
        (["--path", os.fsdecode(b"\xff"), "--filepath", "f"], "not UTF-8"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_usage_errors(arguments: list[str], complaint: str) -> None:
    ended = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, check=False)
    assert ended.returncode == 2
    assert complaint in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["absent", "folder", "pipe"])
def test_not_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    nobody = Client("127.0.0.1", free_port())
    ended = nobody("--path", "p", "--filepath", tmp_path / name)
    assert sentence(ended).startswith(f"{tmp_path / name} is not a file")


def test_not_a_folder(tmp_path: Path) -> None:
    nobody = Client("127.0.0.1", free_port())
    ended = nobody("--recursive", "--filepath", tmp_path / "absent")
    assert sentence(ended) == f"{tmp_path / 'absent'} is not a folder"


# --- No server, or a bad one ----------------------------------------------------------------------


def test_connection_refused() -> None:
    port = free_port()
    ended = Client("127.0.0.1", port)("--method", "GET", "--path", "p")
    assert sentence(ended) == f"cannot connect to 127.0.0.1:{port}: Connection refused"


def test_unknown_host() -> None:
    ended = Client("no-such-host.invalid", 80)("--method", "GET", "--path", "p")
    assert sentence(ended).startswith("cannot find the host no-such-host.invalid: ")


def test_a_server_that_never_answers() -> None:
    with scripted(silent) as client:
        ended = client("--method", "GET", "--path", "p", "--timeout", "0.2")
    assert re.fullmatch(r"no answer from 127\.0\.0\.1:\d+ within 0\.2 s", sentence(ended))


def test_a_server_that_stops_reading(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(32 * 1024 * 1024))
    gone = threading.Event()

    def deaf(connection: socket.socket) -> None:
        gone.wait(HANGS_AFTER_S)

    with scripted(deaf) as client:
        ended = client("--path", "p", "--filepath", tmp_path / "large", "--timeout", "0.2")
        gone.set()
    assert sentence(ended).startswith("no answer from ")


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (b"", "the server closed it"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the server closed it"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer in HTTP/1.1: 'SSH-2.0-OpenSSH_9.2'"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201, "more than 200 header lines"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "a line of over 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "cut short, 7 of 10 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "the answer has no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", "the answer has no length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "cut short, 3 of 5"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "server closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab", "malformed chunk"),
    ],
)
def test_a_bad_answer_leaves_no_file(tmp_path: Path, reply: bytes, complaint: str) -> None:
    with scripted(answers(reply)) as client:
        ended = client("--method", "GET", "--path", "p", "--filepath", tmp_path / "received")
    assert complaint in sentence(ended)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
        b"HTTP/1.0 200\r\ncontent-length:4\r\n\r\nbody",
    ],
    ids=["chunked", "continue", "1.0"],
)
def test_good_answers_of_other_servers(reply: bytes) -> None:
    with scripted(answers(reply)) as client:
        assert client.content("p") == b"body"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": "the disk is full"}', "the disk is full"),
        (b"<html>\nmore", "<html>"),
        (b"", "no reason given"),
        (b'["error"]', '["error"]'),
        (b'{"error": "\\u001b[2Jcleared"}', "\\x1b[2Jcleared"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_what_a_refusal_prints(body: bytes, told: str) -> None:
    head = b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: %d\r\n\r\n" % len(body)
    with scripted(answers(head + body)) as client:
        ended = client("--path", "p", "--filepath", "-", stdin=b"content")
    assert sentence(ended) == f"507 Insufficient Storage: {told}"


def test_a_refusal_that_is_cut_short_still_tells_the_status() -> None:
    with scripted(answers(b"HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\nbecause")) as client:
        ended = client("--method", "DELETE", "--path", "p")
    assert sentence(ended) == "500 Oh: because"


@pytest.mark.parametrize("source", ["length", "chunked"])
@pytest.mark.parametrize("hangs_up", [True, False], ids=["reset", "open"])
def test_an_early_refusal_is_read(tmp_path: Path, source: str, hangs_up: bool) -> None:
    """The server answers 413 and reads no further: it resets the connection, or keeps it open."""
    content = bytes(32 * 1024 * 1024)
    (tmp_path / "large").write_bytes(content)
    seen = threading.Event()

    def refuse(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(TOO_LARGE)
        hangs_up or seen.wait(HANGS_AFTER_S)

    with scripted(refuse) as client:
        if source == "length":
            ended = client("--path", "p", "--filepath", tmp_path / "large")
        else:
            with (tmp_path / "large").open("rb") as stdin:
                command = client.command("--path", "p", "--filepath", "-")
                ended = subprocess.run(command, stdin=stdin, capture_output=True, check=False)
        seen.set()
    assert sentence(ended) == "413 Content Too Large: at most 5 bytes, please"


def test_success_before_the_upload_is_whole_is_none(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(32 * 1024 * 1024))

    def hasty(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(CREATED)

    with scripted(hasty) as client:
        ended = client("--path", "p", "--filepath", tmp_path / "large")
    assert sentence(ended).endswith("answered 201 before it had the whole upload")


# --- Kept connections -----------------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1").write_bytes(b"one")
    (folder / "2").write_bytes(b"two")
    return folder


def test_one_connection_serves_several_requests(two_files: Path) -> None:
    with scripted(answers(CREATED, CREATED)) as client:
        ended = client("--recursive", "--filepath", two_files, "--concurrency", "1")
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"2 files (6 B) stored in ")


@pytest.mark.parametrize(
    "first",
    [
        answers(CREATED),
        then_drops_request(answers(CREATED)),
        answers(CREATED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
    ],
    ids=["closed while idle", "closed on receipt", "closed as announced"],
)
def test_a_kept_connection_that_was_closed_is_reopened(two_files: Path, first: Handler) -> None:
    with scripted(first, answers(CREATED)) as client:
        ended = client("--recursive", "--filepath", two_files, "--concurrency", "1")
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"2 files ")


def test_a_connection_is_reopened_only_once(two_files: Path) -> None:
    with scripted(then_drops_request(answers(CREATED)), answers(b"")) as client:
        ended = client("--recursive", "--filepath", two_files, "--concurrency", "1")
    assert ended.returncode == 1
    failure, summary = ended.stderr.decode().splitlines()
    assert failure.endswith("broke: the server closed it")
    assert summary.startswith("simple_client.py: 1 files ")
    assert summary.endswith("; 1 failed")


def test_a_delete_that_is_repeated_may_find_nothing() -> None:
    with scripted(then_drops_request(answers(WHOLE)), answers(NOT_FOUND, NOT_FOUND)) as script:
        server = simple_client.Server("127.0.0.1", int(script.options[-1]), HANGS_AFTER_S)
        with simple_client.Client(server) as client:
            assert b"".join(client.read("p")) == b"body"
            client.delete("p")


def test_a_first_delete_that_finds_nothing_fails() -> None:
    with scripted(answers(NOT_FOUND)) as client:
        assert sentence(client("--method", "DELETE", "--path", "p")).startswith("404 Not Found")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    shrinking = tmp_path / "shrinking"
    shrinking.write_bytes(bytes(200_000))
    with closing(simple_client.opened(str(shrinking))) as file:
        blocks = iter(simple_client.file_body(file).blocks())
        assert len(next(iter(blocks))) == simple_client.BLOCK_BYTES
        os.truncate(shrinking, 70_000)
        with pytest.raises(simple_client.Failed, match="became shorter while it was read"):
            list(blocks)


# --- Signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [(signal.SIGINT, 130, b"simple_client.py: interrupted\n"), (signal.SIGTERM, 143, b"")],
)
@pytest.mark.parametrize("recursive", [False, True], ids=["one", "folder"])
def test_interrupted(
    tmp_path: Path, number: signal.Signals, status: int, told: bytes, recursive: bool
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    asked = threading.Event()

    def hold(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        wait_for_close(connection)

    upload: list[str | Path] = ["--recursive", "--filepath", tmp_path]
    download: list[str | Path] = ["--method", "GET", "--path", "p", "--filepath"]
    download.append(tmp_path / "received")
    with scripted(hold) as client, interruptible():
        command = client.command(*(upload if recursive else download))
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert asked.wait(HANGS_AFTER_S)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=HANGS_AFTER_S)
    assert (process.returncode, stderr) == (status, told)
    assert names_in(tmp_path) == ["file"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes started here obey SIGINT, even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- Folders, real gateway ------------------------------------------------------------------------


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    """Files with odd names, an empty one, and links: their content is their name."""
    folder = tmp_path / "odd"
    for name in ODD_NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "empty").touch()
    (folder / "empty folder").mkdir()
    (folder / "link to file").symlink_to("plain.txt")
    (folder / "link to folder").symlink_to("deep")
    (folder / "link to itself").symlink_to(folder)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize("options", [["--method", "PUT", "--concurrency", "1"], []])
def test_a_folder(client: Client, path: str, odd_folder: Path, options: list[str]) -> None:
    ended = client("--recursive", "--path", path, "--filepath", odd_folder, *options)
    assert ended.returncode == 0, ended.stderr
    (summary,) = ended.stderr.decode().splitlines()
    assert summary.startswith(f"{len(ODD_NAMES) + 2} files ")
    assert summary.endswith("; 0 failed")
    for name in ODD_NAMES:
        assert client.content(f"{path}/{name}") == name.encode()
    assert client.content(f"{path}/empty") == b""
    assert client.content(f"{path}/link to file") == b"plain.txt"
    followed = client("--method", "GET", "--path", f"{path}/link to folder/er/and/deeper/file")
    assert sentence(followed).startswith("404 ")


@pytest.mark.parametrize("prefix", ["", "p", "p/"])
def test_the_prefix_of_a_folder(client: Client, path: str, tmp_path: Path, prefix: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(prefix)
    ended = client("--recursive", "--path", prefix, "--filepath", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert client.content(f"{prefix.removesuffix('/')}/{path}".lstrip("/")) == prefix.encode()


def test_an_empty_folder(client: Client, tmp_path: Path) -> None:
    ended = client("--recursive", "--filepath", tmp_path)
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"0 files ")


def test_each_failure_in_a_folder_is_named(client: Client, path: str, odd_folder: Path) -> None:
    (odd_folder / "large").write_bytes(bytes(3 * 1024 * 1024))
    (odd_folder / "back\\slash").touch()
    Path(os.fsdecode(os.fsencode(odd_folder) + b"/not \xff UTF-8")).touch()
    ended = client("--recursive", "--path", path, "--filepath", odd_folder)
    assert ended.returncode == 1
    *failures, summary = sorted(ended.stderr.decode().splitlines(), key=lambda line: line[:14])
    told = "\n".join(failures)
    assert len(failures) == 3
    assert re.search(r"^large: 413 [A-Za-z ]+: .+", told, re.MULTILINE)
    assert re.search(r"^back\\slash: 400 Bad Request: .+", told, re.MULTILINE)
    assert "not \\udcff UTF-8: the name is not UTF-8" in told
    assert summary.startswith(f"simple_client.py: {len(ODD_NAMES) + 2} files ")
    assert summary.endswith("; 3 failed")
    assert client.content(f"{path}/plain.txt") == b"plain.txt"


def test_a_folder_without_a_server_stops_at_once(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).touch()
    nobody = Client("127.0.0.1", free_port())
    ended = nobody("--recursive", "--filepath", tmp_path, "--concurrency", "4")
    assert ended.returncode == 1
    *failures, summary = ended.stderr.decode().splitlines()
    assert 1 <= len(failures) <= 4
    assert all(failure.endswith(": Connection refused") for failure in failures)
    assert summary.endswith(" failed, and the rest was not tried")


def test_a_terminal_shows_progress(client: Client, path: str, odd_folder: Path) -> None:
    ours, terminal = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(terminal, "wb") as stderr:  # noqa: PTH123
        command = client.command("--recursive", "--path", path, "--filepath", odd_folder)
        ended = subprocess.run(command, stderr=stderr, check=False, timeout=HANGS_AFTER_S)
        shown = screen.read(65536).decode()
    assert ended.returncode == 0
    assert re.search(r"\r\x1b\[K(\d+ files, .* scanning: \d+ found|\[[#.]{20}\].* ETA )", shown)
    assert re.search(r"\r\x1b\[K\d+ files \(\d+ B\) stored in .*; 0 failed\r\n$", shown)


def test_progress_tells_share_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = simple_client.Tally(started=100.0, total_files=4, total_size=40_000_000)
    monkeypatch.setattr("simple_client.time.monotonic", lambda: 130.0)
    tally.add(simple_client.Outcome("a", size=3_000_000))
    assert tally.progress() == "1 files, 2.9 MiB, 97.7 KiB/s, scanning: 4 found"
    tally.is_scanned = True
    bar = "[#####...............] 1/4 files, 2.9 MiB/38.1 MiB, 97.7 KiB/s, ETA 0:01:30"
    assert tally.progress() == bar
    tally.add(simple_client.Outcome("b", failure="refused"))
    assert tally.progress().startswith("[##########..........] 2/4 files, 2.9 MiB")
    assert tally.summary() == "1 files (2.9 MiB) stored in 30.0 s, 97.7 KiB/s; 1 failed"


def test_progress_of_a_folder_that_grew_or_is_empty() -> None:
    tally = simple_client.Tally(is_scanned=True)
    assert tally.progress().startswith("[....................] 0/0 files")
    tally.add(simple_client.Outcome("came later"))
    assert tally.progress().startswith("[####################] 1/0 files")


# --- Benchmark ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "concurrency", "size"), [(1, 1, 0), (7, 8, 10), (60, 5, 4096), (9, 2, 2_097_152)]
)
def test_benchmark(
    client: Client, gateway: Gateway, operations: int, concurrency: int, size: int
) -> None:
    ended = client(
        "--benchmark",
        str(operations),
        "--concurrency",
        str(concurrency),
        "--size",
        str(size),
    )
    assert succeeded(ended)
    title, columns, *rows = ended.stdout.decode().splitlines()
    at_once = min(operations, concurrency)
    assert title.endswith(f": {operations} operations each, {at_once} at a time, {size} bytes")
    assert " ".join(columns.split()) == "ops/s p50 ms p95 ms p99 ms max ms"
    assert [row.split()[0] for row in rows] == ["POST", "GET", "mixed"]
    for row in rows:
        rate, *percentiles = map(float, row.split()[1:])
        assert rate > 0
        assert len(percentiles) == 4
        assert percentiles == sorted(percentiles)
    assert benchmark_files(gateway) == []


def test_a_refusal_voids_the_benchmark(client: Client, gateway: Gateway) -> None:
    ended = client("--benchmark", "4", "--size", "2097153")
    assert sentence(ended).startswith("benchmark void: POST: 413 ")
    assert b"\nPOST" not in ended.stdout
    assert benchmark_files(gateway) == []


def test_a_wrong_body_voids_the_benchmark() -> None:
    with scripted(answers(CREATED), answers(WHOLE), answers(*[NO_CONTENT] * 2)) as client:
        ended = client("--benchmark", "1", "--size", "4")
    told = sentence(ended)
    assert re.match(r"benchmark void: GET: benchmark/[0-9a-f]{16}/0 came back with other", told)


def test_a_benchmark_without_a_server() -> None:
    told = sentence(Client("127.0.0.1", free_port())("--benchmark", "3"))
    assert "benchmark void: POST: cannot connect to " in told
    assert re.search(r"files may be left under benchmark/[0-9a-f]{16}/: cannot connect", told)


def test_percentiles_are_by_nearest_rank() -> None:
    slow = simple_client.Timing(0.0, 4.0, [n / 1000 for n in range(1, 100)])
    slowest = simple_client.Timing(1.0, 5.0, [0.1])
    row = simple_client.table_row("GET", [slowest, slow])
    assert row.split() == ["GET", "20.0", "50.00", "95.00", "99.00", "100.00"]


def test_each_file_of_a_benchmark_differs() -> None:
    server = simple_client.Server("h", 1, 1.0)
    load = simple_client.Load(server, "benchmark/x/", operations=5, connections=2, size=40)
    files = {load.operation(run, n) for run in ("POST", "mixed") for n in range(load.length(run))}
    written = {number for method, number in files if method == "POST"}
    assert written == set(range(load.length("DELETE")))
    assert len({load.content(number) for number in written}) == len(written)
    assert {len(load.content(number)) for number in written} == {40}


def benchmark_files(gateway: Gateway) -> list[str]:
    """The files of benchmarks that are on the server."""
    with urllib.request.urlopen(f"{gateway.url}/files?prefix=benchmark/") as listing:
        page = json.dumps(json.load(listing))
    return re.findall(r"benchmark/[0-9a-f]{16}/\d+", page)
