"""How fast does a file of 64 MiB come and go, and how much memory do 16 at once take in one worker?

    python3 bench/large.py [--rounds 5]

One client sends a file and fetches it again, from the embedded store, which has it on disk before
the answer, and over one memcached with its stock items of 1 MiB. Then 16 clients do so at once.
The memory is the worker's RssAnon, looked at every few milliseconds, less what it was before: what
is mapped of the database is the page cache's.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import command
import rivals
from files import MIB
from get_hot import put
from harness import Figure, Group, Plan, Void
from processes import memory_bytes
from upload_memory import watched

from tests.servers import Gateway, gateway, running

SIZE, AT_ONCE = 64 * MIB, 16
BAR_MIB = 64.0
_PIECE = MIB
_BODY = hashlib.shake_256(b"bench").digest(_PIECE)


def question(plan: Plan) -> Iterator[Group]:
    """Yield one group for each kind of store."""
    for name, over in (("embedded store", _embedded), ("over memcached", _memcached)):
        rounds = [_round(plan, over) for _ in range(plan.rounds)]
        up, down, grown = (list(column) for column in zip(*rounds, strict=True))
        figures = [
            Figure("one upload of 64 MiB", "s", up),
            Figure("one fetch of 64 MiB", "s", down),
            Figure("16 uploads, then 16 fetches at once: memory added", "MiB", grown, BAR_MIB),
        ]
        yield Group(f"files of 64 MiB, {name}, one worker", figures=figures)


def _embedded(folder: Path, start: ExitStack) -> str:
    return f"[embedded]\nfolder = '{folder}/store'\n"


def _memcached(folder: Path, start: ExitStack) -> str:
    store = rivals.pinned_memcached(folder)
    store.command += ["-m", "2048"]
    start.enter_context(running(store))
    return f'kind = "nodes"\n[memcached]\nservers = ["127.0.0.1:{store.port}"]\n'


def _round(plan: Plan, over: Callable[[Path, ExitStack], str]) -> list[float]:
    """Return the seconds of an upload and of a fetch, and the memory added in MiB."""
    with plan.room() as folder, ExitStack() as start:
        top = f"[server]\nspool_folder = '{folder}'\n[cluster]\nmax_file_size = {SIZE}\n"
        server = rivals.pinned(gateway(folder, settings=top + over(folder, start)))
        start.enter_context(running(server))
        put(server, "first", b"first")
        (worker,) = server.workers()
        seconds = [_timed(lambda: _send(server, "one")), _timed(lambda: _fetch(server, "one"))]
        before = memory_bytes([worker], "RssAnon")
        paths = [f"large/{number}" for number in range(AT_ONCE)]
        with watched(worker) as seen, ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda path: _send(server, path), paths))
            list(threads.map(lambda path: _fetch(server, path), paths))
        return [*seconds, (max(seen) - before) / MIB]


def _timed(transfer: Callable[[], None]) -> float:
    begun_s = time.monotonic()
    transfer()
    return time.monotonic() - begun_s


def _send(server: Gateway, path: str) -> None:
    headers = {"Content-Length": str(SIZE)}
    pieces = (_BODY for _ in range(SIZE // _PIECE))
    answer = server.request("PUT", f"/file?path={path}", pieces, headers)
    if answer.status != 200:
        raise Void(f"an upload was answered {answer.status}")


def _fetch(server: Gateway, path: str) -> None:
    with closing(server.connect()) as connection:
        connection.request("GET", f"/file?path={path}")
        response, count = connection.getresponse(), 0
        while piece := response.read(_PIECE):
            if piece != _BODY:
                raise Void(f"{path} is not what was sent")
            count += len(piece)
        if count != SIZE:
            raise Void(f"{path} has {count} bytes")


if __name__ == "__main__":
    sys.exit(command.main({"large": question}))
