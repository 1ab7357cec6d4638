"""How fast is one file read over and over, from the embedded store and from nginx?

    python3 bench/get_hot.py [--rounds 5] [--seconds 3]

Files of 1 KiB, 16 KiB, 256 KiB and 2 MiB. nginx serves a static file with sendfile and
open_file_cache; it keeps no digest to check. A second nginx has tcp_nopush, too. The 1 KiB file is
asked for once more with the headers of a browser, for it is browsers that ask.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import command
import rivals
from files import KIB, MIB, body
from harness import Contender, Group, Load, Plan, Versus, Void, all_running, compete

from tests.servers import Gateway, Server

BARS = {KIB: 1.0, 16 * KIB: 0.8, 256 * KIB: 0.8, 2 * MIB: None}
"""The least rate over nginx's, by size."""

BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Connection: keep-alive",
    "Referer: http://127.0.0.1/pictures/",
    "Cookie: session=0123456789abcdef0123456789abcdef",
    "Sec-Fetch-Dest: image",
    "Sec-Fetch-Mode: no-cors",
    "Sec-Fetch-Site: same-origin",
    "Priority: u=5, i",
)

PATH = "pictures/hot.jpg"

_SFSS, _NGINX, _NOPUSH = "sfss embedded", "nginx static", "nginx static, tcp_nopush"


class OneFile(Contender):
    """One server that is asked for one file."""

    def __init__(
        self, name: str, server: Server, target: str, size: int, headers: Sequence[str] = ()
    ) -> None:
        super().__init__(name, server)
        self._load = Load(target, body_size=size, headers=headers)

    def load(self, number: int) -> Load:
        """Return the same in each round."""
        return self._load

    def check(self, number: int, requests: int | None) -> None:
        """Compare the whole body."""
        rivals.expect(self.servers[0], self._load.target, body(PATH, self._load.body_size))


def question(plan: Plan) -> Iterator[Group]:
    """Yield a group for each size, and one for the browser."""
    for size, bar in BARS.items():
        yield _compare(plan, size, bar)
    yield _compare(plan, KIB, None, BROWSER)


def _compare(plan: Plan, size: int, bar: float | None, headers: Sequence[str] = ()) -> Group:
    title = f"GET one hot file of {_named(size)}" + (", headers of a browser" if headers else "")
    with plan.room() as folder:
        sfss, nginx, nopush = servers = _servers(folder, size)
        with all_running(*servers):
            put(sfss, PATH, body(PATH, size))
            contenders = [
                OneFile(_SFSS, sfss, f"/file?path={PATH}", size, headers),
                OneFile(_NGINX, nginx, f"/{PATH}", size, headers),
                OneFile(_NOPUSH, nopush, f"/{PATH}", size, headers),
            ]
            cpu = 1.0 if size == KIB and not headers else None
            versus = [
                Versus(_SFSS, _NGINX, rate=bar, cpu=cpu),
                Versus(_SFSS, _NOPUSH, p99=None),
            ]
            return compete(title, contenders, versus, plan)


def _servers(folder: Path, size: int) -> tuple[Gateway, Server, Server]:
    root = folder / "root"
    (root / PATH).parent.mkdir(parents=True)
    (root / PATH).write_bytes(body(PATH, size))
    return (
        rivals.sfss_embedded(folder, folder / "store"),
        rivals.nginx_static(folder, root),
        rivals.nginx_static(folder, root, nopush=True),
    )


def put(server: Gateway, path: str, content: bytes) -> None:
    """Store a file or raise ``Void``."""
    answer = server.put(path, content)
    if answer.status != 200:
        raise Void(f"{server.url} answered {answer.status} to a PUT")


def _named(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


if __name__ == "__main__":
    sys.exit(command.main({"get_hot": question}))
