"""Photosrv as conf/photosrv.toml has it: three shards of two nginx nodes, one gateway."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest

from sfss import __version__
from sfss.placement import ChashShards, JumpShards, Shard
from tests.photosrv import (
    Site,
    file_of,
    get,
    logging,
    memory_kib,
    owed,
    paid,
    plant,
    put,
    set_age,
    site,
    slowed,
    spooled_sizes,
    url_of,
    variables,
)
from tests.servers import (
    SFSS,
    Gateway,
    Server,
    free_port,
    gateway,
    nginx_node,
    nginx_root,
    running,
    wait_until,
)

MIB = 1024 * 1024
ODD_NAMES = [
    "a b.txt",
    'it\'s "quoted".txt',
    "grüße/日本.txt",
    "100%.txt",
    "%41.txt",
    "-rf",
    "-/-dash",
    "what?#;.txt",
    "a+b&c=d.txt",
    "$uri{}",
]
SHEET = {
    "jump": {"a": 1, "foo": 4, "baz": 5, "a/b/c": 3},
    "chash": {"a": 3, "foo": 1, "baz": 2, "a/b/c": 4},
}
"""Where Photosrv places keys over five equal shards, which it numbers from 1."""


@pytest.fixture(name="shared", scope="module")
def shared_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nodes that tests share: use paths of your own, and start again what you stop."""
    with site(tmp_path_factory.mktemp("photosrv")) as found:
        yield found


@pytest.fixture(name="served", scope="module")
def shared_gateway(shared: Site) -> Iterator[Gateway]:
    """A gateway over them."""
    with running(shared.gateway(SFSS_REPLICATED_COOLING_S="0.2")) as found:
        yield found


def command(server: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of sfss with the settings of a gateway."""
    config = server.command[server.command.index("--config") + 1]
    return subprocess.run(
        [*SFSS, *arguments, "--config", config],
        env=server.environ,
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def down(*nodes: Server) -> Iterator[None]:
    """Have nodes be dead for the block."""
    for node in nodes:
        node.kill()
    try:
        yield
    finally:
        for node in nodes:
            node.start()


# -- placement


@pytest.mark.parametrize("placement", SHEET)
def test_files_are_where_photosrv_places_them(tmp_path: Path, placement: str) -> None:
    with running(nginx_node(tmp_path)) as node:
        shards = [f"shard{number} http://{node.address}/{number}/" for number in range(1, 6)]
        settings = (
            "[server]\nfaces = ['paths']\n[cluster]\nkind = 'replicated'\n"
            f"[replicated]\nplacement = '{placement}'\nshards = {json.dumps(shards)}\n"
            "[paths]\nrewrites = ['/old/ /a/', '/p/ /']\n"
        )
        with running(gateway(tmp_path, settings=settings)) as server:
            for path, number in SHEET[placement].items():
                assert put(server, path, path.encode()).status == 201
                assert file_of(node, f"{number}/{path}").read_bytes() == path.encode()
            # The key is the path after normalising and rewrites, without the query.
            for target in ("/old/b/c", "//a//b/c", "/old//b/%63?v=2", "/p/a/b/c"):
                assert server.request("PUT", target, target.encode()).status == 201
                assert server.request("GET", "/a/b/c").body == target.encode()
                number = SHEET[placement]["a/b/c"]
                assert file_of(node, f"{number}/a/b/c").read_bytes() == target.encode()
            assert server.request("GET", "/a/../foo").status == 404
            assert server.request("PUT", "/a/.hidden", b"x").status == 404
        found = {
            str(each.relative_to(nginx_root(node))) for each in nginx_root(node).rglob("[!.]*")
        }
        files = {f"{number}/{path}" for path, number in SHEET[placement].items()}
        assert {name for name in found if file_of(node, name).is_file()} == files


def test_the_sheet_is_what_is_tested() -> None:
    shards = [Shard(f"shard{number}", ("",)) for number in range(1, 6)]
    for placement, chosen in (("jump", JumpShards(shards)), ("chash", ChashShards(shards))):
        for key, number in SHEET[placement].items():
            assert chosen.shard(key.encode()).name == f"shard{number}"


# -- files


def test_a_file_is_on_both_nodes_of_its_shard_and_on_no_other(
    shared: Site, served: Gateway
) -> None:
    for path in shared.paths("copies"):
        answer = put(served, path, path.encode())
        assert answer.status == 201
        lines = [f"http://{node.address}/: stored\n" for node in shared.pair(path)]
        assert sorted(answer.body.decode().splitlines(keepends=True)) == sorted(lines)
        assert shared.holders(path) == shared.pair(path)
        assert served.request("DELETE", url_of(path)).status == 204
        assert shared.holders(path) == []
        assert [get(served, path).status, put(served, path, b"").status] == [404, 201]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(shared: Site, served: Gateway, name: str) -> None:
    path = f"odd/{name}"
    assert put(served, path, name.encode()).status == 201
    assert [file_of(node, path).read_text() for node in shared.pair(path)] == [name, name]
    assert get(served, path).body == name.encode()
    assert served.request("DELETE", url_of(path)).status == 204
    assert get(served, path).status == 404
    path = f"planted odd/{name}"
    plant(shared.pair(path)[0], path, b"by another program")
    assert get(served, path).body == b"by another program"


def test_ranges_conditions_and_heads(shared: Site, served: Gateway) -> None:
    stored = put(served, "conditions/a.png", b"0123456789")
    plant(shared.pair("conditions/b.png")[0], "conditions/b.png", b"0123456789")
    for path in ("conditions/a.png", "conditions/b.png"):
        whole = get(served, path)
        assert (whole.status, whole.headers["content-type"]) == (200, "image/png")
        part = get(served, path, Range="bytes=2-4")
        assert (part.status, part.body) == (206, b"234")
        assert part.headers["content-range"] == "bytes 2-4/10"
        assert get(served, path, Range="bytes=10-").status == 416
        looked = served.request("HEAD", url_of(path))
        assert (looked.status, looked.body) == (200, b"")
        for name in ("content-length", "etag", "last-modified", "accept-ranges"):
            assert looked.headers[name] == whole.headers[name]
        assert get(served, path, If_None_Match=whole.headers["etag"]).status == 304
        assert get(served, path, If_Modified_Since=whole.headers["last-modified"]).status == 304
        assert get(served, path, If_None_Match='"another"').status == 200
        assert put(served, path, b"new", If_Match='"another"').status == 412
        assert put(served, path, b"new", If_None_Match="*").status == 412
        assert get(served, path).body == b"0123456789"
        assert put(served, path, b"newer", If_Match=whole.headers["etag"]).status == 201
        assert get(served, path).body == b"newer"
    assert stored.headers["etag"].startswith('"')


def test_files_that_another_program_has_put_there(shared: Site, served: Gateway) -> None:
    paths = shared.paths("planted")
    for path in paths:
        first, second = shared.pair(path)
        plant(first, path, b"on one node")
        copy = file_of(second, path)
        while not copy.is_file():  # reads that ask the other first bring it there
            assert get(served, path).body == b"on one node"
        assert copy.read_bytes() == b"on one node"
        plant(first, path, b"replaced behind our back")
        set_age(file_of(first, path), -1)  # a second newer
    # A read asks one node; what differs elsewhere is for a tool to find.
    assert command(served, "repair").returncode == 0
    for path in paths:
        assert get(served, path).body == b"replaced behind our back"
        for node in shared.pair(path):
            assert file_of(node, path).read_bytes() == b"replaced behind our back"
    assert command(served, "check").returncode == 0


def test_a_large_body_needs_little_memory(shared: Site) -> None:
    body = os.urandom(8 * MIB)
    one = shared.gateway(SFSS_SERVER_WORKERS="1")
    with running(one) as server, ThreadPoolExecutor(8) as pool:
        assert put(server, "large.bin", body).status == 201
        (worker,) = server.workers()
        Path(f"/proc/{worker}/clear_refs").write_text("5")  # VmHWM begins again
        before_kib = memory_kib(worker, "VmHWM")
        answers = list(pool.map(lambda _: get(server, "large.bin").body == body, range(16)))
        assert answers == [True] * 16
        grown_kib = memory_kib(worker, "VmHWM") - before_kib
        assert grown_kib < 40 * 1024, f"{grown_kib} KiB for 8 of 8 MiB at a time"
        part = get(server, "large.bin", Range=f"bytes={5 * MIB}-{5 * MIB + 9}")
        assert part.body == body[5 * MIB : 5 * MIB + 10]


# -- nodes that fail


@pytest.mark.parametrize("which", [0, 1])
def test_with_a_node_of_each_shard_down_every_file_is_served(
    shared: Site, served: Gateway, which: int
) -> None:
    paths = shared.paths(f"one-down-{which}", 24)
    for path in paths:
        assert put(served, path, path.encode()).status == 201
    paid(served)
    with down(*(pair[which] for pair in shared.pairs)):
        for path in paths:
            answer = get(served, path)
            assert (answer.status, answer.body) == (200, path.encode())
            assert served.request("HEAD", url_of(path)).status == 200


def test_what_a_node_misses_while_it_is_down_it_is_owed(shared: Site, served: Gateway) -> None:
    paths = shared.paths("missed")
    for path in paths:
        assert put(served, path, b"before").status == 201
    paid(served)
    lost = [pair[0] for pair in shared.pairs]
    with down(*lost):
        for path in paths[:6]:
            answer = put(served, path, b"while it was down")
            assert answer.status == 201
            assert b"stored\n" in answer.body
        for path in paths[6:]:
            assert served.request("DELETE", url_of(path)).status == 204
        assert owed(served) == len(paths)
        for path in paths[:6]:
            assert get(served, path).body == b"while it was down"
        for path in paths[6:]:
            assert get(served, path).status == 404
    paid(served)
    for path in paths[:6]:
        bodies = [file_of(node, path).read_bytes() for node in shared.pair(path)]
        assert bodies == [b"while it was down"] * 2
    for path in paths[6:]:
        assert shared.holders(path) == []
    with down(*(pair[1] for pair in shared.pairs)):
        for path in paths[:6]:
            assert get(served, path).body == b"while it was down"


def test_the_line_of_a_node_that_is_down_names_it_once(shared: Site, served: Gateway) -> None:
    path = "line/a"
    lost, other = shared.pair(path)
    with down(lost):
        lines = put(served, path, b"x").body.decode().splitlines()
    assert f"http://{other.address}/: stored" in lines
    (line,) = [each for each in lines if each.startswith(f"http://{lost.address}/: ")]
    assert line.startswith(f"http://{lost.address}/: cannot be reached: ")
    assert line.count(lost.address) == 1
    paid(served)


def test_a_node_that_dies_in_the_middle_of_a_body(tmp_path: Path) -> None:
    body = os.urandom(4 * MIB)
    with ExitStack() as stack:
        nodes = [nginx_node(tmp_path) for _ in range(6)]
        own = Site(tmp_path, nodes)
        dying, other = own.pair("a.bin")
        slowed(dying, "1m")
        for node in nodes:
            stack.enter_context(running(node))
        for node in (dying, other):
            plant(node, "a.bin", body)
            set_age(file_of(node, "a.bin"), 10)
        settings = {
            "SFSS_SERVER_WORKERS": "1",
            "SFSS_REPLICATED_READ_MODE": "first",
            "SFSS_REPLICATED_HEAD_TIMEOUT_MS": "60000",  # the other is asked when this one fails
        }
        one = own.gateway(**settings)
        server = stack.enter_context(running(one))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        assert get(server, "none").status == 404  # now there is one
        (worker,) = server.workers()
        reading = pool.submit(get, server, "a.bin")
        wait_until(
            lambda: any(MIB // 2 < size < 4 * MIB for size in spooled_sizes(worker)),
            "half of the body has come",
        )
        assert not reading.done()
        dying.kill()
        answer = reading.result(30)
        assert (answer.status, answer.body) == (200, body)


def test_fastest_with_a_node_that_is_silent(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [nginx_node(tmp_path) for _ in range(6)]
        logs = {node.port: logging(node) for node in nodes}
        for node in nodes:
            stack.enter_context(running(node))
        own = Site(tmp_path, nodes)
        settings = {
            "SFSS_REPLICATED_READ_MODE": "fastest",
            "SFSS_REPLICATED_COOLING_S": "300",
            "SFSS_WEBDAV_TIMEOUT_S": "1",
            "SFSS_SERVER_WORKERS": "1",
        }
        server = stack.enter_context(running(own.gateway(**settings)))
        silent, other = own.pair("a")
        assert put(server, "a", b"body").status == 201
        failed = f"http://{silent.address}/ cannot be reached"
        silent.pause()
        # Both are asked, the one that is well says yes: nobody waits for the other.
        assert get(server, "a").body == b"body"
        assert variables(server)["MultiHeadTimeout"] == 0
        wait_until(
            lambda: get(server, "a").status == 200 and failed in server.output(),
            "it is known to have failed",
        )
        assert variables(server)["MultiHeadTimeout"] == 0
        names = [
            f"later-{number}" for number in range(300) if own.pair(f"later-{number}")[0] is silent
        ]
        for name in names[:50]:
            plant(other, name, b"body")
            assert get(server, name).body == b"body"
        assert variables(server)["MultiHeadTimeout"] == 0
        silent.resume()
        wait_until(lambda: "/a" in logs[silent.port].read_text(), "it does what it was asked")
        assert "later" not in logs[silent.port].read_text()
        assert logs[other.port].read_text().count("/later") >= 50


def test_fastest_where_no_node_says_yes_in_time(tmp_path: Path) -> None:
    with site(tmp_path) as own:
        settings = {
            "SFSS_REPLICATED_READ_MODE": "fastest",
            "SFSS_REPLICATED_COOLING_S": "300",
            "SFSS_WEBDAV_TIMEOUT_S": "1",
            "SFSS_SERVER_WORKERS": "1",
        }
        with running(own.gateway(**settings)) as server:
            silent, other = own.pair("b")
            plant(other, "a", b"body")
            silent.pause()
            # One has nothing, the other does not answer: the time-out is over once.
            assert get(server, "b").status == 504
            assert variables(server)["MultiHeadTimeout"] == 1
            assert get(server, "b").status == 504
            assert variables(server)["MultiHeadTimeout"] == 1
            silent.resume()


def test_what_is_to_be_seen_from_outside(tmp_path: Path) -> None:
    with site(tmp_path) as own, running(own.gateway(SFSS_SERVER_WORKERS="1")) as server:
        before = variables(server)
        assert before["BuildVersion"] == __version__
        assert (before["MigrationState"], before["DeadShards"]) == ("old", [])
        assert (before["Errors"], before["MultiHeadTimeout"]) == (0, 0)
        assert isinstance(before["Requests"], int)
        paths = own.paths("seen")
        for path in paths:
            assert put(server, path, b"body").status == 201
        dead = [path for path in paths if own.pair(path) is own.pairs[1]]
        with down(own.pairs[1][0]):
            assert [get(server, path).status for path in paths] == [200] * len(paths)
            assert variables(server)["DeadShards"] == []
        with down(*own.pairs[1]):
            assert get(server, dead[0]).status == 504
            found = variables(server)
            assert (found["DeadShards"], found["Errors"]) == (["s2"], 1)
        assert int(str(found["Requests"])) > before["Requests"] + len(paths)
        wait_until(lambda: get(server, dead[0]).status == 200, "it is asked again")
        assert variables(server)["DeadShards"] == []


# -- roster


class Reader:
    """Reads files for the block, again and again, and fails if one was not served."""

    def __init__(self, server: Gateway, paths: list[str]) -> None:
        self._server, self._paths = server, paths
        self._stopping = Event()
        self.count = 0

    def __enter__(self) -> "Reader":
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(self._run)
        return self

    def _run(self) -> None:
        while not self._stopping.is_set():
            path = self._paths[self.count % len(self._paths)]
            answer = get(self._server, path)
            assert (answer.status, answer.body) == (200, path.encode())
            self.count += 1

    def more(self, count: int) -> None:
        """Wait until that many more files have been read, or one was not."""
        end = self.count + count
        wait_until(lambda: self.count >= end or self._running.done(), f"{count} more reads")

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._running.result(30)
        self._pool.shutdown()


def test_whatever_is_done_to_the_roster_no_request_is_dropped(tmp_path: Path) -> None:
    roster, spare = tmp_path / "live-nodes", tmp_path / "spare"
    with ExitStack() as stack:
        own = stack.enter_context(site(tmp_path))
        first = "".join(f"127.0.0.1 {pair[0].address}\n" for pair in own.pairs)
        both = "".join(f"127.0.0.1 {node.address}\n" for node in own.nodes)
        roster.write_text(both)
        settings = {
            "SFSS_REPLICATED_ROSTER": str(roster),
            "SFSS_REPLICATED_ROSTER_CHECK_S": "0.05",
            "SFSS_SERVER_WORKERS": "1",
        }
        server = stack.enter_context(running(own.gateway(**settings)))
        paths = own.paths("roster")
        for path in paths:
            assert put(server, path, path.encode()).status == 201

        def said(sentence: str, times: int) -> None:
            wait_until(lambda: server.output().count(sentence) >= times, f"{sentence}, {times}")

        def has_left() -> bool:
            """Tell whether a write is owed to the node that the short roster leaves out."""
            assert put(server, "probe", b"x").status == 201
            return owed(server) > 0

        reader = stack.enter_context(Reader(server, paths))
        said("roster", 1)
        assert not has_left()
        roster.write_text(first)  # in place
        said("joined nobody; left", 1)
        assert has_left()
        spare.write_text(both)
        spare.replace(roster)
        said("left nobody", 2)
        paid(server)
        targets = [tmp_path / "short", tmp_path / "long"]
        for number, (target, text) in enumerate(zip(targets, (first, both), strict=True)):
            target.write_text(text)
            link = tmp_path / f"link-{number}"
            link.symlink_to(target)
            link.replace(roster)
            said("joined nobody; left" if text is first else "left nobody", 2 + number)
            if text is first:
                assert has_left()
        paid(server)
        assert not has_left()
        roster.unlink()
        said("it is missing; the last good one stays in force", 1)
        assert not has_left()
        roster.write_text("")
        said("it lists no host; the last good one stays in force", 1)
        assert not has_left()
        roster.write_text(first)
        said("joined nobody; left", 3)
        # What is not in it is not asked: nobody notices that it has died.
        with down(*(pair[1] for pair in own.pairs)):
            reader.more(2 * len(paths))
        assert "cannot be reached" not in server.output()
        roster.write_text(both)
        said("left nobody", 4)
        paid(server)


def test_nodes_are_told_for_whom_they_are_asked(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [nginx_node(tmp_path) for _ in range(6)]
        logs = {node.port: logging(node) for node in nodes}
        for node in nodes:
            stack.enter_context(running(node))
        own = Site(tmp_path, nodes)
        # Whoever a proxy asks for is not on this machine.
        opened = {"SFSS_ACCESS_OPEN_TO_THE_NETWORK": "write"}
        server = stack.enter_context(running(own.gateway(**opened)))
        given = {"a": "", "b": "10.1.2.3, 10.1.2.4", "c": "2001:db8::1"}
        for path, header in given.items():
            headers = {"X_Forwarded_For": header} if header else {}
            assert put(server, path, b"x", **headers).status == 201
            told = f"{header}, 127.0.0.1" if header else "127.0.0.1"
            for node in own.pair(path):
                line = f"PUT /{path} {told}\n"
                wait_until(lambda of=node, line=line: line in logs[of.port].read_text(), line)


# -- data centers


def test_each_data_center_has_shards_of_its_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(site(tmp_path))
        halves = {"east": own.pairs[0], "west": own.pairs[1]}
        more = "".join(
            f"\n[clusters.{name}.replicated]\n"
            f'shards = ["{name} http://{pair[0].address}/ http://{pair[1].address}/"]\n'
            f'owed_folder = "var/owed-{name}"\n'
            for name, pair in halves.items()
        )
        for name, pair in halves.items():
            one = own.gateway(more, ["--cluster", name])
            server = stack.enter_context(running(one))
            for path in [f"{name}/{number}" for number in range(5)]:
                assert put(server, path, path.encode()).status == 201
                assert own.holders(path) == pair
                assert get(server, path).body == path.encode()
            assert get(server, "west/0" if name == "east" else "east/0").status == 404


def test_a_data_center_has_to_be_named(tmp_path: Path) -> None:
    own = Site(tmp_path, [Server(["true"], free_port(), tmp_path) for _ in range(6)])
    one = own.gateway("\n[clusters.east.replicated]\nshards = ['s http://127.0.0.1:1/']\n")
    with pytest.raises(pytest.fail.Exception, match="--cluster or SFSS_CLUSTER has to name"):
        one.start()
    one.kill()
