"""``sfss nginx node``: a real nginx with what it writes."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import Answer, HTTPConnection, Server, ask, nginx_node, nginx_root, running


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


def test_a_file_is_put_read_in_part_and_deleted(node: Server) -> None:
    assert request(node, "PUT", "/a/b/c.txt", b"0123456789").status == 201
    assert (nginx_root(node) / "a/b/c.txt").read_bytes() == b"0123456789"
    whole = request(node, "GET", "/a/b/c.txt")
    assert (whole.status, whole.body) == (200, b"0123456789")
    assert whole.headers["content-type"] == "text/plain"
    part = request(node, "GET", "/a/b/c.txt", headers={"Range": "bytes=2-4"})
    assert (part.status, part.body) == (206, b"234")
    assert request(node, "PUT", "/a/b/c.txt", b"new").status == 204
    assert request(node, "DELETE", "/a/b/c.txt").status == 204
    assert request(node, "GET", "/a/b/c.txt").status == 404
    assert request(node, "DELETE", "/a/b/c.txt").status == 404
