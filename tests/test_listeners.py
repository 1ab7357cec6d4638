"""Several listeners of one gateway: which faces each shows, and what a reload can change."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import (
    PYTHON_ENVIRON,
    SFSS,
    Gateway,
    ask,
    free_port,
    listens,
    running,
    wait_until,
)

EMBEDDED = "[embedded]\nfolder = 'store'\n"


def tables(*listeners: tuple[int, Sequence[str]]) -> str:
    """Return the settings of a gateway with ``listeners``: port and faces."""
    return EMBEDDED + "".join(
        f"[[listen]]\naddress = '127.0.0.1:{port}'\nfaces = {list(faces)}\n"
        for port, faces in listeners
    )


def started(folder: Path, text: str, port: int) -> Gateway:
    """Return a gateway (not started) with the settings ``text``, which listens on ``port``."""
    config = folder / "listen.toml"
    config.write_text(text)
    return Gateway([*SFSS, "serve", "--config", str(config)], port, folder, PYTHON_ENVIRON)


def at(port: int, folder: Path) -> Gateway:
    """Return a client of the gateway at another of its ports."""
    return Gateway(SFSS, port, folder)


def status(client: Gateway, target: str) -> int:
    return client.request("GET", target).status


def test_each_listener_shows_its_own_faces(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    text = tables((one, ["native"]), (two, ["status", "debug"]))
    with running(started(tmp_path, text, one)) as server:
        other = at(two, tmp_path)
        assert server.put("a", b"x").status == 200
        assert server.get("a").body == b"x"
        targets = ("/file?path=a", "/files", "/status", "/debug/vars")
        assert [status(server, each) for each in targets] == [200, 200, 404, 404]
        assert [status(other, each) for each in targets] == [404, 404, 200, 200]
        assert f"http://127.0.0.1:{one} (native), http://127.0.0.1:{two} (status, debug)" in (
            server.output()
        )


def test_the_counters_are_of_all_listeners(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    text = tables((one, ["native"]), (two, ["debug"]))
    with running(started(tmp_path, text, one)) as server:
        other = at(two, tmp_path)
        server.get("a")
        status(other, "/file?path=a")
        counters = other.request("GET", "/debug/vars").json()
        assert (counters["Requests"], counters["Errors"]) == (2, 0)
        assert counters["MigrationState"] == "old"
        assert {"MultiHeadTimeout", "BuildVersion", "DeadShards"} < counters.keys()


def test_a_stop_drains_all_listeners(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    text = tables((one, ["native"]), (two, ["native"]))
    with running(started(tmp_path, text, one)) as server:
        clients = [server.connect(), at(two, tmp_path).connect()]
        for number, connection in enumerate(clients):
            assert ask(connection, "PUT", f"/file?path={number}", b"x").status == 200
        server.send(signal.SIGTERM)
        wait_until(lambda: not listens(one) and not listens(two), "nobody is taken in any more")
        for number, connection in enumerate(clients):
            with closing(connection):
                answer = ask(connection, "GET", f"/file?path={number}")
                assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert server.process is not None
        assert server.process.wait(30) == 0


def test_a_reload_can_change_the_faces_and_move_all_addresses(tmp_path: Path) -> None:
    one, two, three = free_port(), free_port(), free_port()
    server = started(tmp_path, tables((one, ["native"]), (two, ["status"])), one)
    config = tmp_path / "listen.toml"
    with running(server):
        server.put("a", b"x")
        config.write_text(tables((one, ["status"]), (two, ["native"])))
        server.send(signal.SIGHUP)
        other = at(two, tmp_path)
        wait_until(lambda: status(other, "/file?path=a") == 200, "the faces have changed")
        config.write_text(tables((two, ["native"]), (three, ["native"])))
        server.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.output(), "a part of a change is refused")
        assert f"127.0.0.1:{two}, which is in use by ourselves; that takes a restart" in (
            server.output()
        )
        assert status(other, "/file?path=a") == 200
        config.write_text(EMBEDDED + f"[server]\nport = {three}\n")
        server.send(signal.SIGHUP)
        server.port = three
        wait_until(lambda: listens(three), "the new address listens")
        assert server.get("a").body == b"x"
        wait_until(lambda: not listens(one) and not listens(two), "the former ones are left")


def refusal(folder: Path, text: str, *options: str) -> str:
    """Return what a gateway with the settings ``text`` says when it refuses to start."""
    config = folder / "listen.toml"
    config.write_text(text)
    ended = subprocess.run(
        [*SFSS, "serve", "--config", str(config), *options],
        cwd=folder,
        env={**os.environ, **PYTHON_ENVIRON},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    return ended.stderr


@pytest.mark.parametrize("option", ["--host=127.0.0.2", "--port=80"])
def test_flags_do_not_go_with_listeners(tmp_path: Path, option: str) -> None:
    assert "[[listen]]" in refusal(tmp_path, tables((free_port(), ["native"])), option)


def plain_gunicorn(folder: Path, text: str, *ports: int) -> Gateway:
    """Return a gateway under gunicorn's own command (not started), which listens on ``ports``."""
    config = folder / "listen.toml"
    config.write_text(text)
    bound = [word for port in ports for word in ("-b", f"127.0.0.1:{port}")]
    command = [sys.executable, "-m", "gunicorn", "-k", "sfss.worker.Worker", *bound]
    environ = {**PYTHON_ENVIRON, "SFSS_CONFIG": str(config)}
    command += ["--no-control-socket", "sfss.service:application"]
    return Gateway(command, ports[0], folder, environ)


def test_under_plain_gunicorn_its_addresses_get_the_faces_in_order(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    text = tables((1, ["native"]), (2, ["status"]))
    with running(plain_gunicorn(tmp_path, text, one, two)):
        other = at(two, tmp_path)
        assert [status(at(one, tmp_path), each) for each in ("/files", "/status")] == [200, 404]
        assert [status(other, each) for each in ("/files", "/status")] == [404, 200]


def test_under_plain_gunicorn_every_listener_needs_an_address(tmp_path: Path) -> None:
    server = plain_gunicorn(tmp_path, tables((1, ["native"]), (2, ["status"])), free_port())
    ended = subprocess.run(
        server.command,
        cwd=tmp_path,
        env=server.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode != 0
    assert "there are 2, and 1 sockets were handed over" in ended.stderr


def test_a_taken_address_is_named(tmp_path: Path, gateway: Gateway) -> None:
    text = tables((free_port(), ["native"]), (gateway.port, ["native"]))
    assert f"127.0.0.1:{gateway.port}" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "another program listens there"),
        ("192.0.2.1", "not an address of this machine"),
        ("no.such.host.invalid", "unknown host"),
    ],
)
def test_why_an_address_cannot_be_listened_on_is_told(
    tmp_path: Path, host: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for text, key in (
            (f"[server]\nhost = '{host}'\nport = {port}\n", "server."),
            (f"[[listen]]\naddress = '{host}:{port}'\nfaces = ['native']\n", "listen.address: "),
        ):
            config = tmp_path / "sfss.toml"
            config.write_text(EMBEDDED + text)
            ended = subprocess.run(
                [*SFSS, "serve", "--config", str(config)],
                cwd=tmp_path,
                env={**os.environ, **PYTHON_ENVIRON},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert ended.returncode == 2
            assert f"settings: {key}" in ended.stderr
            assert f"cannot listen on {host}:{port}: {reason}" in ended.stderr
