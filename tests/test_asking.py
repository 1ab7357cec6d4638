"""Nodes are told for whom they are asked, whatever way the request goes."""

from contextlib import closing
from pathlib import Path

import pytest

from sfss.asking import forwarded_for
from tests.servers import Server, ask, gateway, nginx_node, nginx_root, running, wait_until


@pytest.mark.parametrize(
    ("said", "peer", "line"),
    [
        ("", "10.0.0.1", "X-Forwarded-For: 10.0.0.1\r\n"),
        ("1.2.3.4, ::1", "10.0.0.1", "X-Forwarded-For: 1.2.3.4, ::1, 10.0.0.1\r\n"),
        (" ,", "::1", "X-Forwarded-For: ::1\r\n"),
        ("a\r\nX: y", "::1", "X-Forwarded-For: ::1\r\n"),
        ("1" * 501, "::1", "X-Forwarded-For: ::1\r\n"),
        ("\u00e4", "", ""),
    ],
)
def test_the_line_that_names_a_client(said: str, peer: str, line: str) -> None:
    assert forwarded_for(said, peer) == line.encode()


def logging_node(folder: Path) -> tuple[Server, Path]:
    """Return a node (not started), and the file in which it says for whom it was asked."""
    node = nginx_node(folder)
    conf, log = folder / f"nginx-{node.port}.conf", folder / f"asked-{node.port}.log"
    form = "log_format asked '$request_method $http_x_forwarded_for';"
    conf.write_text(conf.read_text().replace("access_log off;", f"{form} access_log {log} asked;"))
    return node, log


def test_a_node_hears_of_the_client_and_of_those_before_it(tmp_path: Path) -> None:
    node, log = logging_node(tmp_path)
    (nginx_root(node) / "a").write_bytes(b"body")
    settings = f"""
[server]
faces = ["paths"]
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = ["http://{node.address}/"]
"""
    gate = gateway(tmp_path, settings=settings)
    with running(node), running(gate), closing(gate.connect()) as connection:
        for _ in range(4):  # the first goes the long way, the others the short one
            fields = {"X-Forwarded-For": "1.2.3.4"}
            assert ask(connection, "GET", "/a", headers=fields).body == b"body"
        assert ask(connection, "GET", "/a").status == 200
        assert ask(connection, "HEAD", "/a").status == 200
    lines = log.read_text().splitlines()
    assert set(lines) == {
        "GET 1.2.3.4, 127.0.0.1",
        "GET 127.0.0.1",
        "HEAD 127.0.0.1",
    }


def test_what_is_healed_is_healed_for_nobody(tmp_path: Path) -> None:
    (first, log), second = logging_node(tmp_path), nginx_node(tmp_path)
    settings = f"""
[server]
faces = ["paths"]
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = ["http://{first.address}/", "http://{second.address}/"]
"""
    with running(first), running(second), running(gateway(tmp_path, settings=settings)) as gate:
        assert gate.request("PUT", "/a", b"body").status == 201
        lost = nginx_root(first) / "a"
        wait_until(lost.exists, "it is there")
        lost.unlink()
        assert gate.request("GET", "/a").status == 200
        wait_until(lost.exists, "it has been healed")
    puts = [line for line in log.read_text().splitlines() if line.startswith("PUT")]
    assert puts[-1] == "PUT -", log.read_text()
