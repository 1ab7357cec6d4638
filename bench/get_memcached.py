"""How fast is a file of 1 KiB read from memcached, through sfss and through others?

    python3 bench/get_memcached.py [--rounds 5] [--seconds 3]

One memcached on the servers' core, whose CPU time counts for whoever asks it. Through nginx
(memcached_pass, keepalive), through a plain aiohttp and aiomcache handler (plain_handler.py), and
through sfss: a file that sfss stored, with its digest, and the raw item that the others read.
"""

import sys
from collections.abc import Iterator

import command
import rivals
from files import KIB, body
from get_hot import put
from harness import Contender, Group, Load, Plan, Versus, all_running, compete

from tests.servers import Server

FILE, RAW = "pictures/hot.bin", "pictures/raw.bin"
_SFSS, _NGINX, _PLAIN = "sfss over memcached", "nginx memcached_pass", "plain aiohttp + aiomcache"


class OneItem(Contender):
    """A server with the memcached behind it, asked for the file at ``path``."""

    def __init__(self, name: str, server: Server, store: Server, path: str) -> None:
        super().__init__(name, server, store)
        self._path = path

    def load(self, number: int) -> Load:
        """Return the same in each round."""
        return Load(f"/file?path={self._path}", body_size=KIB)

    def check(self, number: int, requests: int | None) -> None:
        """Compare the whole body."""
        rivals.expect(self.servers[0], f"/file?path={self._path}", body(self._path))


def question(plan: Plan) -> Iterator[Group]:
    """Yield the one group."""
    with plan.room() as folder:
        store = rivals.pinned_memcached(folder)
        sfss = rivals.sfss_over(folder, store.port)
        nginx = rivals.nginx_memcached(folder, store.port)
        plain = rivals.plain_handler(folder, store.port)
        with all_running(store, sfss, nginx, plain):
            put(sfss, FILE, body(FILE))
            rivals.set_raw(store, RAW, body(RAW))
            contenders = [
                OneItem(_SFSS, sfss, store, FILE),
                OneItem("sfss, the raw item", sfss, store, RAW),
                OneItem(_NGINX, nginx, store, RAW),
                OneItem(_PLAIN, plain, store, RAW),
            ]
            versus = [Versus(_SFSS, _NGINX, rate=1.4), Versus(_SFSS, _PLAIN, rate=4.0)]
            yield compete("GET one hot file of 1 KiB, memcached", contenders, versus, plan)


if __name__ == "__main__":
    sys.exit(command.main({"get_memcached": question}))
