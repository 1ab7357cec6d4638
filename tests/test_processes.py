"""The processes of a gateway: several workers as one, reloads, stops, deaths, and how it starts."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    ask,
    free_port,
    gateway,
    running,
    wait_until,
)

EMBEDDED = "[embedded]\nfolder = 'store'\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with two workers."""
    with running(gateway(tmp_path, "--workers", "2", settings=EMBEDDED)) as server:
        wait_until(lambda: webserver(server)["workers"] == 2, "two workers serve")
        yield server


def webserver(server: Gateway) -> Any:
    """Return what the gateway says of itself."""
    return server.request("GET", "/status?detail=full").json()["webserver"]


class Load:
    """Threads that put and get, each its own files on its own connection, until stopped.

    ``kept`` maps each path to the last body that was acknowledged; ``unsure`` to those whose
    answer never came; ``failures`` lists what was not 2xx or right.
    """

    def __init__(self, server: Gateway, reconnect: bool = False, folder: str = "load") -> None:
        self._server, self._reconnect, self._folder = server, reconnect, folder
        self._stop = threading.Event()
        self.kept: dict[str, bytes] = {}
        self.unsure: dict[str, set[bytes]] = {}
        self.failures: list[str] = []
        self.done = 0
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(8)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def more(self, count: int) -> None:
        """Wait until ``count`` more requests were answered."""
        target = self.done + count
        wait_until(lambda: self.done >= target, f"{count} more requests are answered")

    def _run(self, thread: int) -> None:
        connection = self._server.connect()
        turn = 0
        while not self._stop.is_set():
            turn += 1
            path = f"{self._folder}/{thread}/{turn % 50}"
            body = os.urandom(8) * (turn % 1000)
            try:
                self._put_and_get(connection, path, body)
            except (OSError, HTTPException) as error:
                self.unsure.setdefault(path, set()).add(body)
                if not self._reconnect:
                    self.failures.append(f"{path}: {error!r}")
                connection.close()
        connection.close()

    def _put_and_get(self, connection: HTTPConnection, path: str, body: bytes) -> None:
        stored = ask(connection, "PUT", f"/file?path={path}", body)
        if stored.status == 200:
            self.kept[path] = body
            self.unsure.pop(path, None)
        got = ask(connection, "GET", f"/file?path={path}")
        if stored.status != 200 or got.status != 200 or got.body != body:
            self.failures.append(f"{path}: {stored.status} {got.status} {len(got.body)}")
        self.done += 2


def verify(server: Gateway, load: Load) -> None:
    """Assert that every acknowledged file is there and right."""
    assert load.kept
    for path, body in load.kept.items():
        got = server.get(path)
        allowed = {body, *load.unsure.get(path, ())}
        assert got.status == 200 and got.body in allowed, path


def test_a_put_through_one_worker_is_read_through_the_other_at_once(pair: Gateway) -> None:
    one, other = pair.workers()
    for turn in range(20):
        for writer, reader in ((one, other), (other, one)):
            body = f"{turn} {writer}".encode()
            assert only(pair, reader, "PUT", "/file?path=a", body).status == 200
            got = only(pair, writer, "GET", "/file?path=a")
            assert (got.status, got.body) == (200, body), got.body


def only(
    server: Gateway, paused: int, method: str, target: str, body: bytes | None = None
) -> Answer:
    """Ask while the worker ``paused`` is stopped, so that the other one answers."""
    os.kill(paused, signal.SIGSTOP)
    try:
        return server.request(method, target, body)
    finally:
        os.kill(paused, signal.SIGCONT)


def test_concurrent_puts_of_one_path_leave_one_of_them_whole(pair: Gateway) -> None:
    bodies = [bytes([65 + n]) * (100_000 + n) for n in range(8)]
    for _ in range(5):
        threads = [threading.Thread(target=pair.put, args=("same", body)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pair.get("same").body in bodies


def test_only_one_of_many_creators_wins(pair: Gateway) -> None:
    statuses: list[int] = []

    def create(path: str) -> None:
        target = f"/files?path={path}"
        statuses.append(pair.request("POST", target, b"x", {"If-None-Match": "*"}).status)

    for turn in range(5):
        threads = [threading.Thread(target=create, args=(f"new{turn}",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses.count(201) == 5
    assert statuses.count(412) == 35


def test_a_worker_killed_during_puts_loses_nothing_acknowledged(pair: Gateway) -> None:
    with Load(pair, reconnect=True) as load:
        for _ in range(4):
            load.more(100)
            victim = pair.workers()[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda victim=victim: len(set(pair.workers()) - {victim}) == 2,
                "the dead worker is replaced",
            )
    assert not load.failures
    verify(pair, load)


def test_the_whole_gateway_killed_during_puts_loses_nothing_acknowledged(pair: Gateway) -> None:
    with Load(pair, reconnect=True) as load:
        load.more(500)
        pair.kill()
    assert not load.failures
    pair.start()
    verify(pair, load)


def test_a_reload_takes_new_settings_and_drops_no_request(tmp_path: Path) -> None:
    server = gateway(tmp_path, "--workers", "2", settings=EMBEDDED)
    config = tmp_path / f"sfss-{server.port}.toml"
    with running(server), Load(server) as load:
        for size in (1_000_000, 1_000_001, 1_000_002):
            load.more(200)
            before = set(server.workers())
            config.write_text(EMBEDDED + f"[cluster]\nmax_file_size = {size}\n")
            server.send(signal.SIGHUP)
            wait_until(lambda b=before: not b & set(server.workers()), "old workers have ended")
            assert server.put("exact", bytes(size)).status == 200
            assert server.put("larger", bytes(size + 1)).status == 413
    assert not load.failures
    assert load.done


def test_a_reload_that_all_processes_are_told_of_drops_no_request(pair: Gateway) -> None:
    former = set(pair.workers())
    with Load(pair) as load:
        load.more(100)
        os.killpg(pair.pid, signal.SIGHUP)
        wait_until(lambda: not former & set(pair.workers()), "the former workers have ended")
        load.more(100)
    assert not load.failures
    assert "was sent SIGHUP" not in pair.output()


def test_a_reload_with_a_mistake_keeps_the_former_settings(tmp_path: Path) -> None:
    server = gateway(tmp_path, settings=EMBEDDED)
    config = tmp_path / f"sfss-{server.port}.toml"
    with running(server):
        before = server.put("a", b"x")
        for mistake in (
            "[server]\nworkers = 'many'\n",
            "[embedded]\nfolder = '/proc/nowhere'\n",
            "[server\n",
        ):
            config.write_text(mistake)
            known = server.output().count("not reloaded")
            server.send(signal.SIGHUP)
            wait_until(
                lambda known=known: server.output().count("not reloaded") > known,
                "the mistake is logged",
            )
            assert (before.status, server.get("a").body) == (200, b"x")
        assert 'server.workers: is "many"' in server.output()


def test_a_reload_can_move_to_another_port_but_not_to_a_taken_one(
    tmp_path: Path, gateway: Gateway
) -> None:
    config = tmp_path / "moving.toml"
    first, second = free_port(), free_port()
    config.write_text(f"{EMBEDDED}[server]\nport = {first}\n")
    server = Gateway(
        [*SFSS, "serve", "--config", str(config)],
        first,
        tmp_path,
        PYTHON_ENVIRON,
    )
    with running(server):
        server.put("a", b"x")
        config.write_text(f"{EMBEDDED}[server]\nport = {gateway.port}\n")
        server.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.output(), "the taken port is logged")
        assert server.get("a").body == b"x"
        config.write_text(f"{EMBEDDED}[server]\nport = {second}\n")
        server.send(signal.SIGHUP)
        server.port = second
        wait_until(server._ready, "the new port listens")
        assert server.get("a").body == b"x"


def test_a_stop_finishes_requests_in_flight(tmp_path: Path) -> None:
    server = gateway(tmp_path, settings=EMBEDDED)
    with running(server):
        with closing(server.connect()) as connection:
            begin_upload(server, connection)
            (worker,) = server.workers()
            server.send(signal.SIGTERM)
            wait_until(lambda: not accepts(server), "no new connection is taken")
            connection.send(b"34")
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.getheader("Connection") == "close"
        assert server.stop() == 0
        assert not Path(f"/proc/{worker}").exists()
        server.start()
        assert server.get("slow").body == b"1234"


def begin_upload(server: Gateway, connection: HTTPConnection) -> None:
    """Send half of a file of four bytes to the path ``slow``."""
    connection.putrequest("PUT", "/file?path=slow")
    connection.putheader("Content-Length", "4")
    connection.endheaders(b"12")
    wait_until(lambda: connections(server) == 2, "the worker has the request")


def reload_beside_an_upload(server: Gateway, connection: HTTPConnection) -> tuple[int, int]:
    """Reload while an upload keeps the one worker; return its process id and the new one's."""
    begin_upload(server, connection)
    (old,) = server.workers()
    server.send(signal.SIGHUP)
    wait_until(lambda: len(server.workers()) == 2, "a new worker is beside the old one")
    (new,) = set(server.workers()) - {old}
    return old, new


def connections(server: Gateway) -> int:
    """Return how many connections are open, the one that asks included."""
    return int(webserver(server)["connections"])


def accepts(server: Gateway) -> bool:
    """Tell whether a new connection is answered."""
    try:
        return server.request("GET", "/status").status > 0
    except (OSError, HTTPException):
        return False


def test_workers_end_when_their_master_is_gone(pair: Gateway) -> None:
    workers = pair.workers()
    os.kill(pair.pid, signal.SIGKILL)
    wait_until(
        lambda: not any(Path(f"/proc/{worker}/exe").exists() for worker in workers),
        "orphaned workers end",
    )


def test_status_counts_over_all_workers_also_dead_ones(pair: Gateway) -> None:
    for _ in range(20):
        pair.put("a", b"12345")
    # A request is counted just after its answer was sent.
    wait_until(lambda: webserver(pair)["received_bytes"] == 100, "all are counted")
    for worker in pair.workers():
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: pair.get("a").status == 200, "new workers serve")
    assert webserver(pair)["requests"]["200"] >= 20
    assert webserver(pair)["received_bytes"] == 100


def plain_gunicorn(folder: Path, *options: str, environ: dict[str, str]) -> Gateway:
    """Return a gateway (not started) that gunicorn itself runs."""
    port = free_port()
    worker = (sys.executable, "-m", "gunicorn", "-k", "sfss.worker.Worker", *options)
    command = [*worker, "-b", f"127.0.0.1:{port}", "sfss.service:application"]
    return Gateway(command, port, folder, {**PYTHON_ENVIRON, **environ})


def test_plain_gunicorn_with_the_worker_class(tmp_path: Path) -> None:
    config = tmp_path / "sfss.toml"
    config.write_text(EMBEDDED)
    server = plain_gunicorn(tmp_path, "-w", "2", environ={"SFSS_CONFIG": str(config)})
    with running(server):
        assert server.put("a", b"x").status == 200
        assert server.get("a").body == b"x"
        # In plain gunicorn a signal that comes just after the fork is lost on a worker.
        wait_until(
            lambda: all(map(ignores_hangups, server.workers())), "workers have their signals"
        )
        assert server.stop() == 0


def ignores_hangups(pid: int) -> bool:
    """Tell whether a process ignores SIGHUP, as a worker does as soon as it has its own signals."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigIgn:")[2].split()[0], 16) & 1 << signal.SIGHUP - 1)


def sfss(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*SFSS, *arguments],
        cwd=folder,
        env={**os.environ, **PYTHON_ENVIRON, **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["serve", "--config", "none.toml"], {}, "none.toml: file: "),
        (["serve", "--port", "0"], {}, "command line: server.port: is 0; a number from 1"),
        (["--port", "99999"], {}, "command line: server.port: is 99999"),
        (["serve", "--port", "x"], {}, "invalid int value: 'x'"),
        (["serve", "--prot", "1"], {}, "sfss serve: error: unrecognized arguments: --prot"),
        (["nginx", "node", "--root", "a", "--x"], {}, "sfss nginx node: error: unrecognized"),
        (["migrate", "start", "--every", "1"], {}, "sfss migrate: error: unrecognized"),
        (["repair", "--every", "x"], {}, "argument --every: invalid float value"),
        (
            ["serve"],
            {"SFSS_SERVER_PORT": "x"},
            'environment (SFSS_SERVER_PORT): server.port: is "x"',
        ),
        (["serve", "--store", "file"], {}, "embedded.folder"),
    ],
)
def test_a_wrong_start_is_refused_in_words(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], words: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = sfss(*arguments, folder=tmp_path, **environ)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_command_of_2014_has_no_subcommand(tmp_path: Path) -> None:
    port = free_port()
    server = Gateway(
        [*SFSS, "--host", "127.0.0.1", "--port", str(port)],
        port,
        tmp_path,
        PYTHON_ENVIRON,
    )
    with running(server):
        assert server.put("a", b"x").status == 200
        assert (tmp_path / "var" / "store").is_dir()
        assert f"http://127.0.0.1:{port}" in server.output()


def test_config_prints_the_settings_in_force(tmp_path: Path) -> None:
    printed = sfss("config", "--port", "81", folder=tmp_path, SFSS_SERVER_WORKERS="3").stdout
    assert "port = 81\n" in printed
    assert "workers = 3\n" in printed


def test_version_and_help(tmp_path: Path) -> None:
    assert sfss("--version", folder=tmp_path).stdout.startswith("sfss 2.")
    assert "--workers" in sfss("serve", "--help", folder=tmp_path).stdout
    assert "serve" in sfss(folder=tmp_path).stdout


def test_the_access_log_is_off_by_default_and_in_combined_format(tmp_path: Path) -> None:
    server = gateway(tmp_path, settings=EMBEDDED)
    with running(server):
        server.put("quiet", b"x")
        assert "quiet" not in server.output()
    server = gateway(tmp_path, settings=EMBEDDED + "[server]\naccess_log = true\n")
    with running(server):
        server.request("GET", "/file?path=n%22o", headers={"User-Agent": 'a"b\\', "Referer": "r"})
        wait_until(lambda: "GET /file" in server.output(), "the request is logged")
        (line,) = [line for line in server.output().splitlines() if "GET /file" in line]
        assert line.startswith("127.0.0.1 - - [")
        assert '"GET /file?path=n%22o HTTP/1.1" 404 ' in line
        assert line.endswith(r'"r" "a\x22b\x5C"')


FOREIGN = {
    "a file": lambda folder: folder.write_text("in the way"),
    "no database": lambda folder: (folder.mkdir(), (folder / "data.mdb").write_bytes(b"x" * 9000)),
    "the database of another program": lambda folder: foreign_database(folder),
}


def foreign_database(folder: Path) -> None:
    """Make an LMDB environment that is no store."""
    environment = lmdb.open(str(folder), lib_version=0)
    with environment.begin(write=True) as transaction:
        transaction.put(b"somebody", b"else")
    environment.close()


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_that_is_no_store_is_refused_at_the_start_and_at_a_reload(
    tmp_path: Path, what: str
) -> None:
    FOREIGN[what](tmp_path / "foreign")
    ended = sfss("serve", "--store", "foreign", folder=tmp_path)
    assert ended.returncode == 2
    assert "embedded.folder" in ended.stderr
    server = gateway(tmp_path, settings=EMBEDDED)
    config = tmp_path / f"sfss-{server.port}.toml"
    with running(server):
        assert server.put("a", b"x").status == 200
        before = set(server.workers())
        config.write_text("[embedded]\nfolder = 'foreign'\n")
        server.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.output(), "the mistake is logged")
        wait_until(lambda: not before & set(server.workers()), "old workers have ended")
        assert server.get("a").body == b"x"


def test_a_worker_that_cannot_start_later_is_tried_again(tmp_path: Path) -> None:
    with running(gateway(tmp_path, settings=EMBEDDED)) as server:
        assert server.put("a", b"x").status == 200
        (tmp_path / "store").rename(tmp_path / "moved")
        (tmp_path / "store").write_text("in the way")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "cannot start" in server.output(), "the next worker says why")
        (tmp_path / "store").unlink()
        (tmp_path / "moved").rename(tmp_path / "store")
        wait_until(lambda: accepts(server), "a worker serves again")
        assert server.get("a").body == b"x"


def test_a_taken_port_is_one_sentence(tmp_path: Path, gateway: Gateway) -> None:
    ended = sfss("serve", "--port", str(gateway.port), folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1:{gateway.port}" in ended.stderr


def test_a_reload_can_listen_on_all_addresses_of_the_same_port(tmp_path: Path) -> None:
    server = gateway(tmp_path, settings=EMBEDDED)
    config = tmp_path / f"sfss-{server.port}.toml"
    with running(server):
        config.write_text(EMBEDDED + "[server]\nhost = '127.0.0.2'\n")
        server.send(signal.SIGHUP)
        server.host = "127.0.0.2"
        wait_until(lambda: accepts(server), "the new address answers")


def test_plain_gunicorn_writes_the_access_log_too(tmp_path: Path) -> None:
    server = plain_gunicorn(tmp_path, environ={"SFSS_SERVER_ACCESS_LOG": "true"})
    with running(server):
        server.get("a")
        wait_until(lambda: '"GET /file?path=a HTTP/1.1" 404' in server.output(), "it is logged")


def test_an_embedded_store_that_is_full_is_507_and_serves_on(tmp_path: Path) -> None:
    with running(gateway(tmp_path, settings=EMBEDDED)) as server:
        assert server.put("kept", bytes(1000)).status == 200
        (worker,) = server.workers()
        size = (tmp_path / "store" / "data.mdb").stat().st_size
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        refused = server.put("large", bytes(2_000_000))
        assert refused.status == 507
        assert "is full" in refused.json()["error"]
        assert server.get("large").status == 404
        assert server.get("kept").body == bytes(1000)
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, unlimited)
        assert server.put("large", bytes(2_000_000)).status == 200
        assert server.get("large").body == bytes(2_000_000)
        assert server.workers() == [worker]


@pytest.mark.parametrize("position", [20, -1])
def test_wrong_bytes_in_an_embedded_store_are_500_and_never_served(
    tmp_path: Path, position: int
) -> None:
    secret = b"never to be seen damaged" * 10
    with running(gateway(tmp_path, settings=EMBEDDED)) as server:
        server.put("a", secret)
        environment = lmdb.open(str(tmp_path / "store"), lib_version=0)
        with environment.begin(write=True) as transaction:
            value = bytearray(transaction.get(b"a") or b"")
            value[position] ^= 1
            transaction.put(b"a", bytes(value))
        environment.close()
        answer = server.get("a")
        assert answer.status == 500
        assert b"never to be" not in answer.body
        assert "damaged a" in answer.json()["error"]
        conditional = server.request("DELETE", "/file?path=a", None, {"If-Match": '"x"'})
        assert conditional.status in (404, 412)
        assert server.get("a").status == 500
        assert server.put("a", secret).status == 200
        assert server.get("a").body == secret


def statuses(server: Gateway, turns: int = 20) -> set[int]:
    """Return what a file that was stored answers, asked often enough to meet every worker."""
    return {server.get("kept").status for _ in range(turns)}


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced", "without its lock file"])
def test_a_store_that_is_no_longer_in_its_place_is_504_and_acknowledges_nothing(
    pair: Gateway, how: str
) -> None:
    store = pair.folder / "store"
    pair.put("kept", b"x")
    backup = (store / "data.mdb").read_bytes()
    if how == "moved":
        store.rename(pair.folder / "away")
    elif how == "deleted":
        shutil.rmtree(store)
    elif how == "replaced":
        (store / "new").write_bytes(backup)
        (store / "new").rename(store / "data.mdb")
    else:
        (store / "lock.mdb").unlink()
    assert pair.put("lost", b"y").status == 504
    wait_until(lambda: statuses(pair) == {504}, "every worker has noticed")
    assert "start sfss anew" in pair.output()
    if how in ("moved", "deleted"):
        os.kill(pair.workers()[0], signal.SIGKILL)
        wait_until(lambda: "its files are gone" in pair.output(), "no empty store is made")
        assert not (store / "data.mdb").exists()
    if how == "moved":
        shutil.rmtree(store, ignore_errors=True)
        (pair.folder / "away").rename(store)
        wait_until(lambda: statuses(pair) == {200}, "the store is back")
        assert pair.put("again", b"z").status == 200


@pytest.mark.parametrize("part", [0.99, 0.8, 0.5, 0.2])
def test_a_data_file_that_was_cut_short_serves_what_is_whole(pair: Gateway, part: float) -> None:
    for turn in range(40):
        pair.put(f"file{turn}", b"%d" % turn * 50_000)
    data = pair.folder / "store" / "data.mdb"
    pair.stop()
    os.truncate(data, int(data.stat().st_size * part))
    pair.start()
    wait_until(lambda: accepts(pair), "it serves")
    answers = [pair.get(f"file{turn}") for turn in range(40)]
    assert {answer.status for answer in answers} <= {200, 500}
    for turn, answer in enumerate(answers):
        if answer.status == 200:
            assert answer.body == b"%d" % turn * 50_000
    assert "cut short" in pair.output()
    assert "SIGBUS" not in pair.output()


def test_a_write_behind_a_paused_process_is_504_in_time(tmp_path: Path) -> None:
    settings = EMBEDDED + "timeout_s = 0.5\n"
    with running(gateway(tmp_path, settings=settings)) as server:
        wait_until(lambda: server.put("a", b"x").status == 200, "a file is there")
        code = (
            "import lmdb, sys\n"
            "environment = lmdb.open('store', lib_version=0)\n"
            "transaction = environment.begin(write=True)\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            answer = server.put("a", b"y")
            assert answer.status == 504
            assert "within 0.5 s; the change may or may not" in sentence_of(answer)
            assert server.get("a").body == b"x"
            holder.kill()
        wait_until(lambda: server.put("a", b"z").status == 200, "writes go on")
        assert server.get("a").body == b"z"


def sentence_of(answer: Answer) -> str:
    """Return the sentence of an error, without what stands between the reason and its end."""
    return str(answer.json()["error"]).replace(")", "")


def test_the_master_hears_a_stop_while_a_reload_waits_for_an_upload(tmp_path: Path) -> None:
    settings = EMBEDDED + "[server]\ngraceful_timeout_s = 600\nbody_timeout_s = 600\n"
    server = gateway(tmp_path, settings=settings)
    with running(server), closing(server.connect()) as connection:
        old, _ = reload_beside_an_upload(server, connection)
        wait_until(lambda: server.put("a", b"x").status == 200, "the new one serves")
        server.send(signal.SIGTERM)
        wait_until(lambda: not accepts(server), "the master has heard it")
        assert old in server.workers()
        connection.send(b"34")
        assert connection.getresponse().status == 200
        assert server.stop() == 0


def test_two_gateways_on_one_folder_are_one_store(tmp_path: Path) -> None:
    with (
        running(gateway(tmp_path, settings=EMBEDDED)) as one,
        running(gateway(tmp_path, settings=EMBEDDED)) as other,
    ):
        for turn in range(20):
            body = b"%d" % turn
            assert one.put("a", body).status == 200
            assert other.get("a").body == body
            assert other.request("DELETE", "/file?path=a").status == 204
            assert one.get("a").status == 404
        with Load(one, folder="one") as ones, Load(other, folder="other") as others:
            ones.more(400)
        assert not ones.failures + others.failures
        verify(other, ones)
        verify(one, others)


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid"])
def test_a_reload_to_a_host_that_is_not_ours_keeps_the_former_settings(
    tmp_path: Path, host: str
) -> None:
    server = gateway(tmp_path, settings=EMBEDDED)
    config = tmp_path / f"sfss-{server.port}.toml"
    with running(server):
        config.write_text(EMBEDDED + f"[server]\nhost = '{host}'\n")
        server.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.output(), "the mistake is logged")
        assert server.put("a", b"x").status == 200


def test_a_new_worker_that_dies_while_old_ones_finish_is_replaced_at_once(tmp_path: Path) -> None:
    settings = EMBEDDED + "[server]\ngraceful_timeout_s = 600\nbody_timeout_s = 600\n"
    server = gateway(tmp_path, settings=settings)
    with running(server), closing(server.connect()) as connection:
        old, new = reload_beside_an_upload(server, connection)
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: server.put("a", b"x").status == 200, "another one serves")
        assert old in server.workers()
        connection.send(b"34")
        assert connection.getresponse().status == 200


def test_plain_gunicorn_reloads_to_a_new_folder(tmp_path: Path) -> None:
    config = tmp_path / "sfss.toml"
    config.write_text(EMBEDDED)
    server = plain_gunicorn(tmp_path, environ={"SFSS_CONFIG": str(config)})
    with running(server):
        assert server.put("a", b"x").status == 200
        config.write_text("[embedded]\nfolder = 'other'\n")
        server.send(signal.SIGHUP)
        wait_until(lambda: server.get("a").status == 404, "the new store serves")
        assert server.put("a", b"y").status == 200


def test_a_worker_that_cannot_be_forked_is_tried_again(tmp_path: Path) -> None:
    """No file descriptor is left for the heartbeat of another worker."""
    with running(gateway(tmp_path, settings=EMBEDDED)) as server:
        assert server.put("a", b"x").status == 200
        (worker,) = server.workers()
        hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (4, hard))
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "cannot fork a worker" in server.output(), "the master says so")
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        wait_until(lambda: accepts(server), "a worker serves again")
        assert server.get("a").body == b"x"


def test_reloads_beside_more_workers_than_can_be_counted_end_nothing(tmp_path: Path) -> None:
    settings = EMBEDDED + "[server]\nworkers = 1\ngraceful_timeout_s = 600\nbody_timeout_s = 600\n"
    server = gateway(tmp_path, settings=settings)
    program = "import sys, sfss.metrics; sfss.metrics.ROWS = 2\nimport sfss.cli; "
    start = f"{program}sys.exit(sfss.cli.main(sys.argv[1:]))"
    server.command = [sys.executable, "-c", start, *server.command[len(SFSS) :]]
    with running(server), closing(server.connect()) as connection:
        old, new = reload_beside_an_upload(server, connection)
        wait_until(lambda: server.put("a", b"x").status == 200, "the new one serves")
        server.send(signal.SIGHUP)
        wait_until(lambda: "cannot fork a worker" in server.output(), "the master says so")
        assert server.workers() == [old, new]
        assert server.get("a").body == b"x"
        connection.send(b"34")
        assert connection.getresponse().status == 200
        wait_until(lambda: server.workers() == [new], "the old one has ended")
        server.send(signal.SIGHUP)
        wait_until(lambda: new not in server.workers() and accepts(server), "it is reloaded")


def test_the_number_of_a_dead_worker_may_be_that_of_another_users_process() -> None:
    code = (
        "import os\n"
        "from sfss.worker import Worker\n"
        "os.getuid() or os.setuid(65534)\n"
        "dead = Worker.__new__(Worker)\n"
        "dead.pid = 1\n"
        "Worker._holders[0] = dead\n"
        "print(Worker._take_row(dead))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **PYTHON_ENVIRON},
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert (ended.stdout, ended.stderr) == (b"0\n", b"")


def test_a_folder_for_long_bodies_has_to_be_there(tmp_path: Path) -> None:
    environ = {**os.environ, **PYTHON_ENVIRON, "SFSS_SERVER_SPOOL_FOLDER": "no/where"}
    ended = subprocess.run(
        [*SFSS, "serve"], capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=60
    )
    assert ended.returncode == 2
    assert "server.spool_folder: is 'no/where'" in ended.stderr


FOLDERS = """
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = ["file:disk/old"]
[migration]
placement = "mirror"
stores = ["file:disk/new"]
"""


def test_migrate_says_when_there_is_nothing_to_move_yet(tmp_path: Path) -> None:
    (tmp_path / "sfss.toml").write_text(FOLDERS)
    for action in ("status", "start"):
        ended = sfss("migrate", action, "--config", "sfss.toml", folder=tmp_path)
        assert ended.returncode == 2
        assert "no gateway with these settings has been started in this folder" in ended.stderr
    (tmp_path / "var/owed").mkdir(parents=True)
    ended = sfss("migrate", "start", "--dry-run", "--config", "sfss.toml", folder=tmp_path)
    assert (ended.returncode, "before sfss migrate start" in ended.stderr) == (1, True)


def test_a_folder_on_a_disk_that_is_missing_is_not_made(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "sfss.toml").write_text(FOLDERS.partition("[migration]")[0])
    arguments = ("--config", "sfss.toml", "--port", str(port))
    ended = sfss("serve", *arguments, folder=tmp_path)
    assert ended.returncode != 0
    assert "is 'disk/old' ([Errno 2]" in ended.stderr
    assert not (tmp_path / "disk").exists()
    (tmp_path / "disk").mkdir()
    server = Gateway([*SFSS, "serve", *arguments], port, tmp_path, PYTHON_ENVIRON)
    for _ in range(2):
        with running(server):
            assert server.put("a", b"x").status == 200
        assert server.output().count("store file:disk/old is new and empty") == 1
