"""The process of a node: ``sfss node`` opens a store, listens, and stops when it is told to.

SIGTERM and SIGINT drain: nobody new is taken in, what clients have sent is answered, and the store
is closed last.
"""

import asyncio
import logging
import logging.config
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from sfss import __version__, checks
from sfss.checks import SECRET
from sfss.errors import SettingError
from sfss.listening import is_loopback
from sfss.node import Server
from sfss.node_commands import NodeSettings
from sfss.node_listener import NodeListener
from sfss.service import logging_settings
from sfss.stores.embedded import EmbeddedStore
from sfss.sweeping import keep_sweeping

DEFAULT_ADDRESS: Final = "127.0.0.1:7900"
SECRET_VARIABLE: Final = "SFSS_NODE_SECRET"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Address:
    """Return the address in ``text``, "host:port" or "[IPv6]:port"; raises ``SettingError``."""
    found = checks.read_address(text)
    if found is None:
        raise SettingError("command line", "--listen", f"is {text!r}", '"host:port" is expected')
    return Address(*found)


def read_secret(file: str | None, environ: Mapping[str, str]) -> str:
    """Return what clients have to know: what stands in ``file``, else in SFSS_NODE_SECRET; "" where
    neither is given. White space around it in the file does not count.

    Raises ``SettingError``, also for a secret that is given and empty: nobody means that.
    """
    if file is not None:
        source, key = "command line", "--secret-file"
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name of a file
            reason = getattr(error, "strerror", None) or "it is no text"
            raise SettingError(source, key, f"{file}: {reason}", "a text is expected") from None
    elif SECRET_VARIABLE in environ:
        source, key, secret = "environment", SECRET_VARIABLE, environ[SECRET_VARIABLE]
    else:
        return ""
    if not secret or not SECRET.holds(secret):
        found = SECRET.found(secret) if secret else "is empty"
        raise SettingError(source, key, found, f"{SECRET.allowed.partition(',')[0]} are expected")
    return secret


def run(address: Address, folder: Path, settings: NodeSettings) -> None:
    """Serve the store in ``folder``, made if missing, until told to stop.

    Raises ``SettingError``.
    """
    logging.config.dictConfig(logging_settings("info"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(address, folder.absolute(), settings))


def is_open(address: Address, settings: NodeSettings) -> bool:
    """Tell whether other machines reach a node that asks for no secret."""
    return not settings.secret and not is_loopback(address.host)


async def _serve(address: Address, folder: Path, settings: NodeSettings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    store = EmbeddedStore(folder)
    try:
        server = Server(store, settings, address.port)
        listener = await _listening(address, server)
        _log.info("sfss %s: node listens on %s, %s", __version__, address, store.address)
        if is_open(address, settings):
            _log.warning("WHOEVER REACHES %s MAY READ, WRITE AND DELETE: --secret-file", address)
        sweeping = asyncio.ensure_future(keep_sweeping(store))
        await stopping.wait()
        _log.info("stopping: %d clients", server.traffic.connections)
        await listener.stop()
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
    finally:
        await store.close()


async def _listening(address: Address, server: Server) -> NodeListener:
    listener = NodeListener(server)
    try:
        await listener.listen(address.host, address.port)
    except OSError as error:
        found = f"{address}: {error.strerror or error}"
        raise SettingError("command line", "--listen", found, "it must be free") from None
    return listener
