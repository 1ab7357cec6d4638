"""How fast is a file of 1 KiB read from a WebDAV node, through sfss and through nginx?

    python3 bench/get_webdav.py [--rounds 5] [--seconds 3]

One nginx with the files on the servers' core, whose CPU time counts for whoever asks it. Through
nginx (proxy_pass, keepalive), which is the ruler, and through sfss over two such nodes: a file that
sfss has put there, which is held against its digest, and one that another program has. Photosrv,
whose work this is, made 6,700 requests a second on a like machine, at 147 us of CPU each without
the node's: sfss is to make twice as many.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import command
import rivals
from files import KIB, body
from harness import Contender, Group, Load, Plan, Versus, Void, all_running, compete

from tests.servers import Server

PUT, FOREIGN = "pictures/put.bin", "pictures/foreign.bin"
_SFSS, _PROXY = "sfss over WebDAV nodes", "nginx proxy_pass"


class OneFile(Contender):
    """A server with a node behind it, asked for the file at ``path``."""

    def __init__(self, name: str, servers: tuple[Server, ...], path: str) -> None:
        super().__init__(name, *servers)
        self._path = path

    def load(self, number: int) -> Load:
        """Return the same in each round."""
        return Load(f"/{self._path}", body_size=KIB)

    def check(self, number: int, requests: int | None) -> None:
        """Compare the whole body."""
        rivals.expect(self.servers[0], f"/{self._path}", body(self._path))


def question(plan: Plan) -> Iterator[Group]:
    """Yield the one group."""
    with plan.room() as folder:
        roots = [folder / "files-1", folder / "files-2"]
        nodes = [rivals.nginx_dav(folder, root) for root in roots]
        sfss = rivals.sfss_webdav(folder, nodes)
        proxy = rivals.nginx_proxy(folder, nodes[0].port)
        for root in roots:
            _write(root / FOREIGN, body(FOREIGN))
        with all_running(*nodes, sfss, proxy):
            if sfss.request("PUT", f"/{PUT}", body(PUT)).status != 201:
                raise Void("a PUT failed")
            contenders = [
                OneFile(_SFSS, (sfss, *nodes), PUT),
                OneFile("sfss, a file of another program", (sfss, *nodes), FOREIGN),
                OneFile(_PROXY, (proxy, *nodes), FOREIGN),
            ]
            versus = [Versus(_SFSS, _PROXY, p99=None)]
            yield compete("GET one hot file of 1 KiB, WebDAV", contenders, versus, plan)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


if __name__ == "__main__":
    sys.exit(command.main({"get_webdav": question}))
