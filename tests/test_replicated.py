"""Copies on three nodes, as conf/replicated.toml has it: one gateway, real processes."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SFSS,
    Answer,
    Gateway,
    Server,
    damage_heads,
    free_port,
    node,
    node_folder,
    running,
    wait_until,
)

CONF = CHECKOUT / "conf" / "replicated.toml"
PATHS = [f"pictures/{number}.jpg" for number in range(20)]


@dataclass
class Replicated:
    """A gateway and its nodes."""

    gateway: Gateway
    nodes: list[Server]

    def owed(self) -> int:
        """Return how many writes nodes still have to get."""
        return int(self.gateway.request("GET", "/status?detail=full").json()["webserver"]["owed"])

    def paid(self) -> None:
        """Wait until no node is owed anything."""
        wait_until(lambda: self.owed() == 0, "all debts are paid")

    def delete(self, path: str) -> Answer:
        """Delete a file."""
        return self.gateway.request("DELETE", f"/file?path={quote(path)}")


def item(server: Server, path: str) -> bytes:
    """Return what a node has under the key of ``path``, as the protocol gives it."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(f"get {path}\r\n".encode())
        answer = b""
        while not answer.endswith(b"END\r\n"):
            piece = connection.recv(65_536)
            assert piece
            answer += piece
    return answer


def replicated_gateway(folder: Path, nodes: list[Server], **settings: str) -> Gateway:
    """Return a gateway (not started) with conf/replicated.toml, but for addresses and folders."""
    environ = {
        **PYTHON_ENVIRON,
        "SFSS_REPLICATED_STORES": ",".join(server.address for server in nodes),
        "SFSS_REPLICATED_COOLING_S": "0.2",
        **settings,
    }
    port = free_port()
    command = [*SFSS, "serve", "--config", str(CONF), "--port", str(port)]
    return Gateway(command, port, folder, environ)


@pytest.fixture(name="replicated")
def replicated_fixture(tmp_path: Path) -> Iterator[Replicated]:
    """Three nodes and a gateway over them."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        gateway = stack.enter_context(running(replicated_gateway(tmp_path, nodes)))
        yield Replicated(gateway, nodes)


def test_every_node_has_every_file(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    for path in PATHS:
        assert gateway.put(path, path.encode()).status == 200
        found = gateway.get(path)
        assert (found.status, found.body) == (200, path.encode())
        for server in nodes:
            wait_until(lambda at=server, path=path: path.encode() in item(at, path)[30:], path)
    assert gateway.get("nothing").status == 404
    assert set(gateway.request("GET", "/status").json()) == {each.address for each in nodes}
    assert replicated.owed() == 0
    assert listed(gateway) == sorted(PATHS)


def listed(gateway: Gateway, limit: int = 1000) -> list[str]:
    """Return all paths that the gateway lists, ``limit`` on a page."""
    found: list[str] = []
    after = ""
    while True:
        page = gateway.request("GET", f"/files?limit={limit}&after={quote(after)}")
        assert page.status == 200, page
        found += (entry["path"] for entry in page.json()["files"])
        if (after := page.json()["next"]) is None:
            return found


ODD_PATHS = ["@a", "a b", "d/@x", "d/@x/y", "d/%41", "d/ä", "d/?", "d/e/f", "z"]


def test_chunks_are_no_files_of_a_listing(tmp_path: Path) -> None:
    nodes = [node(tmp_path) for _ in range(3)]
    with ExitStack() as stack:
        for each in nodes:
            stack.enter_context(running(each))
        small = {"SFSS_CLUSTER_CHUNKS_ABOVE": "16384", "SFSS_MEMCACHED_ITEM_LIMIT": "20000"}
        site = stack.enter_context(running(replicated_gateway(tmp_path, nodes, **small)))
        paths = ["!before", "$large", "behind"]
        for path in paths:
            assert site.put(path, bytes(1_000_000)).status == 200
        for limit in (1, 2, 50, 1000):
            assert listed(site, limit) == paths


def test_files_are_listed_as_long_as_most_nodes_answer(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    for path in ODD_PATHS:
        gateway.put(path, b"1")
    nodes[1].kill()
    assert replicated.delete("z").status == 204
    gateway.put("d/ä", b"22")
    expected = sorted(ODD_PATHS[:-1])
    for limit in (1, 2, 1000):
        found = listed(gateway, limit)
        assert sorted(found) == expected, limit
    assert gateway.request("GET", "/files?prefix=d/%C3%A4").json()["files"][0]["size"] == 2
    nodes[1].start()
    replicated.paid()
    assert sorted(listed(gateway)) == expected
    nodes[0].kill()
    nodes[1].kill()
    answer = gateway.request("GET", "/files")
    assert answer.status == 504
    assert nodes[0].address in answer.json()["error"]


def test_what_is_damaged_on_all_nodes_is_listed_as_damaged(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    bodies = {"d/lost": b"that of no node" * 20, "d/whole": b"that of most nodes" * 20}
    for path, body in bodies.items():
        gateway.put(path, body)
    replicated.paid()
    damage_heads(node_folder(nodes[0]), bodies["d/whole"])
    for each in nodes:
        damage_heads(node_folder(each), bodies["d/lost"])
    for limit in (1, 2, 1000):
        page = gateway.request("GET", f"/files?limit={limit}").json()
        assert page["damaged"] == ["d/lost"] and page["next"] in (None, "d/lost")
        page = gateway.request("GET", f"/files?prefix=d/w&limit={limit}").json()
        assert page["files"][0]["path"] == "d/whole" and "damaged" not in page


def test_one_node_down_is_not_noticed_and_gets_what_it_missed(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    for path in PATHS:
        gateway.put(path, b"before")
    nodes[1].kill()
    for path in PATHS[:10]:
        assert gateway.put(path, b"while one was down").status == 200
    for path in PATHS[10:15]:
        assert replicated.delete(path).status == 204
    for path in PATHS[:10]:
        assert gateway.get(path).body == b"while one was down"
    for path in PATHS[10:15]:
        assert gateway.get(path).status == 404
    assert gateway.get("never there").status == 404
    assert replicated.owed() == 15
    status = gateway.request("GET", "/status").json()
    assert set(status[nodes[1].address]) == {"error"}
    nodes[1].start()
    replicated.paid()
    for path in PATHS[:10]:
        assert b"while one was down" in item(nodes[1], path)
    # Nobody but the one that was down is left to say that the files are gone.
    nodes[0].kill()
    for path in PATHS[10:15]:
        assert gateway.get(path).status == 404


def test_two_nodes_down(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    assert gateway.put("a", b"one").status == 200
    for server in nodes:
        wait_until(lambda server=server: b"one" in item(server, "a"), "all have it")
    nodes[0].kill()
    nodes[1].kill()
    refused = gateway.request("PUT", "/file?path=a", b"two", {"Accept": "application/json"})
    assert refused.status == 504
    assert "1 of the 2 stores that it needs have kept the change" in refused.json()["error"]
    assert gateway.get("nothing").status == 504
    nodes[0].start()
    nodes[1].start()
    replicated.paid()
    found = gateway.get("a").body
    assert found in (b"one", b"two")
    for server in nodes:
        wait_until(lambda server=server: found in item(server, "a"), "all have the same")


def test_a_store_that_has_missed_too_much_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        gateway = replicated_gateway(tmp_path, nodes, SFSS_REPLICATED_OWED_LIMIT="5")
        stack.enter_context(running(gateway))
        nodes[2].kill()
        for path in PATHS:
            assert gateway.put(path, path.encode()).status == 200
        full = gateway.request("GET", "/status?detail=full").json()["webserver"]
        assert full["needs_repair"] == [nodes[2].address]
        assert full["events"] == {"owed": len(PATHS)}
        nodes[2].start()
        for path in PATHS:
            assert gateway.get(path).body == path.encode()
        command = [*SFSS, "repair", "--config", str(CONF), "--work", "tools"]
        done = subprocess.run(
            command,
            env=gateway.environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        full = gateway.request("GET", "/status?detail=full").json()["webserver"]
        assert (full["needs_repair"], full["owed"]) == ([], 0)
        for path in PATHS:
            assert path.encode() in item(nodes[2], path)[30:]


def test_debts_outlive_the_gateway(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    nodes[2].kill()
    for path in PATHS:
        assert gateway.put(path, path.encode()).status == 200
    gateway.kill()
    gateway.start()
    assert replicated.owed() == len(PATHS)
    nodes[2].start()
    replicated.paid()
    for path in PATHS:
        assert path.encode() in item(nodes[2], path)[30:]


def test_a_wiped_node_is_healed_by_reads(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    for path in PATHS:
        assert gateway.put(path, b"x" * 1000).status == 200
    replicated.paid()
    nodes[0].kill()
    for file in node_folder(nodes[0]).iterdir():
        file.unlink()
    nodes[0].start()

    for path in PATHS:
        assert gateway.get(path).body == b"x" * 1000
    # Those are healed where the wiped node was asked first.
    wait_until(lambda: any(len(item(nodes[0], path)) > 1000 for path in PATHS), "reads heal")


def test_a_store_that_left_the_roster_is_owed_what_it_misses(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(tmp_path))) for _ in range(3)]
        roster = tmp_path / "roster"
        roster.write_text("".join(f"{each.address}\n" for each in nodes))
        gateway = replicated_gateway(
            tmp_path,
            nodes,
            SFSS_REPLICATED_ROSTER=str(roster),
            SFSS_REPLICATED_ROSTER_CHECK_S="0.05",
            SFSS_SERVER_WORKERS="1",
        )
        stack.enter_context(running(gateway))
        replicated = Replicated(gateway, nodes)
        assert replicated.owed() == 0  # the worker runs, and has read it
        roster.write_text("".join(f"{each.address}\n" for each in nodes[:2]))
        left = f"left {nodes[2].address}"
        wait_until(lambda: left in gateway.output(), "the change is noticed")
        assert gateway.put("a", b"one").status == 200
        assert item(nodes[2], "a") == b"END\r\n"
        assert replicated.owed() == 1
        roster.write_text("".join(f"{each.address}\n" for each in nodes))
        replicated.paid()
        assert b"one" in item(nodes[2], "a")


def test_what_a_store_that_is_gone_was_owed_is_forgotten(replicated: Replicated) -> None:
    gateway, nodes = replicated.gateway, replicated.nodes
    nodes[2].kill()
    for path in PATHS:
        assert gateway.put(path, path.encode()).status == 200
    assert replicated.owed() == len(PATHS)
    gateway.stop()
    gateway.environ["SFSS_REPLICATED_STORES"] = ",".join(each.address for each in nodes[:2])
    gateway.environ["SFSS_REPLICATED_COPIES"] = "2"
    gateway.start()
    replicated.paid()
    for path in PATHS:
        assert gateway.get(path).body == path.encode()


def test_two_clusters_do_not_share_a_folder(replicated: Replicated, tmp_path: Path) -> None:
    replicated.gateway.stop()
    others = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
    command = [*replicated.gateway.command[:-1], str(free_port())]
    environ = {**replicated.gateway.environ, "SFSS_REPLICATED_STORES": ",".join(others)}
    refused = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert "replicated.owed_folder: is 'var/owed', which is about the stores" in refused.stderr
    assert replicated.nodes[0].address in refused.stderr


def test_one_of_several_clusters(tmp_path: Path) -> None:
    file = tmp_path / "sfss.toml"
    file.write_text(
        '[clusters.here.cluster]\nkind = "embedded"\n[clusters.here.embedded]\nfolder = "here"\n'
        '[clusters.there.cluster]\nkind = "embedded"\n[clusters.there.embedded]\nfolder = "there"\n'
    )
    port = free_port()
    command = [*SFSS, "serve", "--config", str(file), "--cluster", "there", "--port", str(port)]
    with running(Gateway(command, port, tmp_path, PYTHON_ENVIRON)) as gateway:
        assert gateway.put("a", b"one").status == 200
    assert (tmp_path / "there" / "data.mdb").exists()
    assert not (tmp_path / "here").exists()
