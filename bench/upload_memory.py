"""How much memory do 64 uploads of 2 MiB at once take in one worker?

    python3 bench/upload_memory.py [--rounds 5]

Each upload sends all but its last byte and waits until all others have done so; then all of them
end. So 128 MiB are in flight at one moment. Raw bodies by PUT and forms by POST, a new server for
each round. The figure is the worker's VmHWM, which the kernel keeps; RssAnon is looked at every few
milliseconds.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import command
import rivals
from files import MIB, body
from get_hot import put
from harness import Figure, Group, Plan, Void, all_running, say
from processes import memory_bytes

from tests.servers import Gateway

UPLOADS, SIZE = 64, 2 * MIB
BAR_MIB = 64 + 2 * UPLOADS * SIZE / MIB
_SAMPLE_S = 0.005
_HELD_S = 20.0
_BOUNDARY = "----of-bench-upload-memory"


def question(plan: Plan) -> Iterator[Group]:
    """Yield the one group."""
    figures = []
    for name, send in (("PUT, raw body", _put), ("POST, form", _post)):
        say(f"  {UPLOADS} uploads at once: {name}")
        peaks = [_round(plan, send) for _ in range(plan.rounds)]
        total, private, idle = (list(column) for column in zip(*peaks, strict=True))
        figures += [
            Figure(f"{name}: peak of the worker (VmHWM)", "MiB", total, BAR_MIB),
            Figure(f"{name}: peak without mapped files (RssAnon)", "MiB", private),
            Figure(f"{name}: the idle worker before (VmRSS)", "MiB", idle),
        ]
    notes = (f"in flight at one moment: {UPLOADS * SIZE // MIB} MiB",)
    yield Group(f"{UPLOADS} uploads of 2 MiB at once, one worker", figures=figures, notes=notes)


def _round(plan: Plan, send: Callable[[Gateway, str, threading.Barrier], int]) -> list[float]:
    """Return peak, peak of RssAnon, and memory before, in MiB."""
    paths = [f"upload/{number}.jpg" for number in range(UPLOADS)]
    with plan.room() as folder:
        server = rivals.sfss_embedded(folder, folder / "store")
        with all_running(server):
            put(server, "first", b"first")
            (worker,) = server.workers()
            idle = memory_bytes([worker], "VmRSS")
            with watched(worker) as seen:
                _upload(server, paths, send)
            peak = memory_bytes([worker], "VmHWM")
            for path in paths:
                rivals.expect(server, f"/file?path={path}", body(path, SIZE))
    return [value / MIB for value in (peak, max(seen), idle)]


def _upload(
    server: Gateway, paths: list[str], send: Callable[[Gateway, str, threading.Barrier], int]
) -> None:
    together = threading.Barrier(UPLOADS)
    with ThreadPoolExecutor(UPLOADS) as threads:
        statuses = list(threads.map(lambda path: send(server, path, together), paths))
    if together.broken:
        raise Void(f"not all uploads were in flight at once within {_HELD_S:g} s")
    if set(statuses) - {200, 201}:
        raise Void(f"uploads were answered {sorted(set(statuses))}")


def _put(server: Gateway, path: str, together: threading.Barrier) -> int:
    return _send(server, "PUT", f"/file?path={path}", {}, body(path, SIZE), together)


def _post(server: Gateway, path: str, together: threading.Barrier) -> int:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="upload_file"; filename="f"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    form = b"".join((head.encode(), body(path, SIZE), f"\r\n--{_BOUNDARY}--\r\n".encode()))
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return _send(server, "POST", f"/files?path={path}", headers, form, together)


def _send(
    server: Gateway,
    method: str,
    target: str,
    headers: dict[str, str],
    content: bytes,
    together: threading.Barrier,
) -> int:
    with closing(server.connect()) as connection:
        connection.putrequest(method, target)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(memoryview(content)[:-1])
        with suppress(threading.BrokenBarrierError):
            together.wait(_HELD_S)
        connection.send(content[-1:])
        answer = connection.getresponse()
        answer.read()
        return answer.status


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Give a list that grows by the process's RssAnon every few milliseconds of the block."""
    seen = [memory_bytes([pid], "RssAnon")]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_S):
            seen.append(memory_bytes([pid], "RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(command.main({"upload_memory": question}))
