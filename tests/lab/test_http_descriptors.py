"""A worker that has no file descriptor left: it goes on, says what it cannot do, and recovers."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.lab.processes import limit_descriptors
from tests.servers import Answer, Gateway, ask, gateway, memcached, running, wait_until
from tests.web.client import Wire

LARGE = bytes(range(256)) * 20_000
FILES = {f"f/{number}": b"%d" % number * 1000 for number in range(8)}
STAYING = 6


@contextmanager
def over(kind: str, folder: Path) -> Iterator[Gateway]:
    """Run a gateway of one worker over one kind of store."""
    with ExitStack() as stack:
        settings = "[server]\nworkers = 1\n[cluster]\nmax_file_size = 67108864\n"
        if kind == "memcached":
            node = stack.enter_context(running(memcached(folder)))
            settings += f"kind = 'nodes'\n[memcached]\nservers = ['{node.address}']\n"
        if kind == "folder":
            (folder / "files").mkdir()
            settings += "kind = 'replicated'\n[replicated]\ncopies = 1\n"
            settings += f"stores = ['file://{folder / 'files'}']\nowed_folder = 'owed'\n"
        options = ["--store", "store"] if kind == "embedded" else []
        yield stack.enter_context(running(gateway(folder, *options, settings=settings)))


@pytest.mark.parametrize("kind", ["embedded", "memcached", "folder"])
def test_without_descriptors_nothing_is_lost_and_nothing_is_said_that_is_not_so(
    kind: str, tmp_path: Path
) -> None:
    with over(kind, tmp_path) as server, ExitStack() as stack:
        for path, body in FILES.items():
            assert server.put(path, body).status == 200
        (worker,) = server.workers()
        staying = [stack.enter_context(closing(server.connect())) for _ in range(STAYING)]
        for connection in staying:
            assert ask(connection, "GET", "/file?path=f/0").status == 200
        written: dict[str, bytes] = {}
        with ExitStack() as crowd:
            limit_descriptors(worker, 1)
            for _ in range(40):
                with suppress(OSError):
                    crowd.enter_context(Wire(server.host, server.port))
            for turn in range(5):
                for number, connection in enumerate(staying):
                    told = read_all(connection, written)
                    path, body = f"new/{turn}/{number}", b"%d" % turn * 500
                    if put(connection, path, body, told):
                        written[path] = body
                large = put(connection, f"large/{turn}", LARGE, told)
                if large:
                    written[f"large/{turn}"] = LARGE
            assert server.workers() == [worker]
        limit_descriptors(worker, 1000)
        wait_until(lambda: answers(server), "new connections are answered")
        for path, body in {**FILES, **written}.items():
            assert server.get(path).body == body
        assert server.workers() == [worker]
        assert server.put("after", b"x").status == 200


def put(connection: HTTPConnection, path: str, body: bytes, told: set[int]) -> bool:
    """Store a file; return whether it is said to be kept."""
    answer = one(connection, "PUT", path, body)
    told.add(answer.status)
    assert answer.status == 200 or answer.status >= 500, answer
    if answer.status != 200:
        assert answer.json()["error"], answer
        assert answer.json()["error"] != "internal error", answer
    return answer.status == 200


def read_all(connection: HTTPConnection, written: dict[str, bytes]) -> set[int]:
    """Read what was written: it is right, or it cannot be told, which is not 404."""
    told = set()
    for path, body in {**FILES, **written}.items():
        answer = one(connection, "GET", path)
        told.add(answer.status)
        if answer.status == 200:
            assert answer.body == body
        else:
            assert answer.status in (503, 504), answer
    assert one(connection, "GET", "f/none").status in (404, 503, 504)
    return told


def one(connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> Answer:
    """Send a request on a connection that is kept."""
    return ask(connection, method, f"/file?path={path}", body)


def answers(server: Gateway) -> bool:
    """Tell whether a new connection is answered."""
    with suppress(OSError), closing(HTTPConnection(server.host, server.port, timeout=2)) as fresh:
        return ask(fresh, "GET", "/file?path=f/0").status == 200
    return False
