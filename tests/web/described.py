"""Gateways that show all faces between them, each with its description."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.objstore import Objstore
from tests.servers import PYTHON_ENVIRON, SFSS, Gateway, free_port, gateway, running

TOKEN = "the token of the tests"
SHOWN: Mapping[str, tuple[str, ...]] = {
    "native": ("native", "status", "health", "metrics", "debug", "browser", "api"),
    "paths": ("paths", "api"),
    "blobs": ("upload", "fetch", "blobs", "api"),
    "admin": ("admin", "api"),
    "objects": ("objects", "api"),
}
"""What each of these gateways shows."""


@contextmanager
def gateways(folder: Path) -> Iterator[Mapping[str, Gateway]]:
    """Run gateways by the names of ``SHOWN`` for the block."""
    with ExitStack() as stack:
        found = dict(_listeners(folder, stack))
        found["admin"] = stack.enter_context(running(_with_migration(folder)))
        objstore = Objstore(folder, None, faces=str(list(SHOWN["objects"])).replace("'", '"'))
        found["objects"] = stack.enter_context(running(objstore.gateway))
        yield found
        for server in found.values():
            assert "Traceback" not in server.output()


def _listeners(folder: Path, stack: ExitStack) -> Iterator[tuple[str, Gateway]]:
    """Yield the listeners of one gateway over an embedded store."""
    names = ("native", "paths", "blobs")
    ports = [free_port() for _ in names]
    tables = [
        f"[[listen]]\naddress = '127.0.0.1:{port}'\nfaces = {list(SHOWN[name])}\n"
        for name, port in zip(names, ports, strict=True)
    ]
    config = folder / "listeners.toml"
    config.write_text("[embedded]\nfolder = 'store'\n" + "".join(tables))
    command = [*SFSS, "serve", "--config", str(config)]
    first = Gateway(command, ports[0], folder, PYTHON_ENVIRON)
    stack.enter_context(running(first))
    yield names[0], first
    for name, port in zip(names[1:], ports[1:], strict=True):
        yield name, Gateway(SFSS, port, folder)


def _with_migration(folder: Path) -> Gateway:
    settings = (
        f"[server]\nfaces = {list(SHOWN['admin'])}\nadmin_token = '{TOKEN}'\n"
        "[cluster]\nkind = 'replicated'\n"
        f"[replicated]\nplacement = 'mirror'\nstores = ['file:{folder}/old']\n"
        f"[migration]\nplacement = 'mirror'\nstores = ['file:{folder}/new']\n"
    )
    return gateway(folder, settings=settings)
