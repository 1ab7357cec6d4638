"""Does reading get slower as the number of files grows?

    python3 bench/get_random.py [--full] [--rounds 5] [--seconds 3]

The embedded store with 10,000 files of 1 KiB, with ``--full`` also with 1,000,000: paths drawn at
random, beside one hot path of the same store, drawn in the same way. nginx reads the same from
a folder; its open_file_cache holds 16,000. And 10,000 files in memcached, at random.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import command
import files
import rivals
from files import KIB
from harness import Contender, Group, Load, Plan, Versus, all_running, compete

from tests.servers import Server

MANY = 10_000
FULL = 1_000_000
BARS = {MANY: None, FULL: 0.8}
"""The least rate over that of one hot file, by number of files."""

_SAMPLES = 50
_NUMBER_DIGITS = 7


class ManyFiles(Contender):
    """One server that is asked for the first ``count`` files; ``before`` begins each target.

    ``behind`` is what it asks itself.
    """

    def __init__(self, name: str, server: Server, before: str, count: int, *behind: Server) -> None:
        super().__init__(name, server, *behind)
        self._before, self._count = before, count

    def load(self, number: int) -> Load:
        """Return the same in each round; wrk draws the paths."""
        first = files.path(0)
        head, tail = first.split("0" * _NUMBER_DIGITS)
        arguments = (self._before + head, str(self._count), tail)
        target = self._before + first
        return Load(target, body_size=KIB, script="random_path.lua", arguments=arguments)

    def check(self, number: int, requests: int | None) -> None:
        """Compare some of the files, the first and the last among them."""
        step = max(1, (self._count - 1) // _SAMPLES)
        for sample in {*range(0, self._count, step), self._count - 1}:
            path = files.path(sample)
            rivals.expect(self.servers[0], self._before + path, files.body(path))


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group for each number of files."""
    for count in (MANY, FULL) if plan.full else (MANY,):
        yield _compare(plan, count)
    yield _compare_memcached(plan)


def _compare(plan: Plan, count: int) -> Group:
    with plan.room() as folder:
        files.fill(folder / "store", count)
        _write(folder / "root", count)
        sfss = rivals.sfss_embedded(folder, folder / "store")
        nginx = rivals.nginx_static(folder, folder / "root")
        with all_running(sfss, nginx):
            hot, at_random, static = (
                "sfss, one hot file",
                "sfss, at random",
                "nginx static, at random",
            )
            contenders = [
                ManyFiles(at_random, sfss, "/file?path=", count),
                ManyFiles(hot, sfss, "/file?path=", 1),
                ManyFiles(static, nginx, "/", count),
            ]
            versus = [Versus(at_random, hot, rate=BARS[count]), Versus(at_random, static)]
            title = f"GET 1 KiB of {count:,} files, embedded"
            return compete(title, contenders, versus, plan)


def _compare_memcached(plan: Plan) -> Group:
    with plan.room() as folder:
        store = rivals.pinned_memcached(folder)
        sfss = rivals.sfss_over(folder, store.port)
        nginx = rivals.nginx_memcached(folder, store.port)
        with all_running(store, sfss, nginx):
            for number in range(MANY):
                path = files.path(number)
                rivals.set_raw(store, path, files.body(path))
            ours, theirs = "sfss over memcached", "nginx memcached_pass"
            contenders = [
                ManyFiles(ours, sfss, "/file?path=", MANY, store),
                ManyFiles(theirs, nginx, "/file?path=", MANY, store),
            ]
            title = f"GET 1 KiB of {MANY:,} files, memcached, at random"
            return compete(title, contenders, [Versus(ours, theirs)], plan)


def _write(root: Path, count: int) -> None:
    (root / files.path(0)).parent.mkdir(parents=True)
    for number in range(count):
        path = files.path(number)
        (root / path).write_bytes(files.body(path))


if __name__ == "__main__":
    sys.exit(command.main({"get_random": question}))
