"""The processes of a gateway: gunicorn forks, watches and replaces workers; in each serves uvloop.

A stop (SIGTERM to a worker, also a part of every reload) drops no request: the worker closes its
listening sockets, which the master and the new workers keep open, answers what is in flight and
what still comes over open connections, tells those clients to close, and ends when they have.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import Container, Sequence
from functools import partial
from time import perf_counter
from typing import Any, ClassVar, Final, NoReturn

import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers import base

from sfss import __version__, service
from sfss.config import Setting, Settings
from sfss.config_access import rules_of, warnings_of
from sfss.config_joined import bound
from sfss.errors import SettingError, SfssError
from sfss.listening import Listen
from sfss.metrics import ROWS, Board
from sfss.service_checks import check_startable
from sfss.settings_file import read_settings
from sfss.web.server import Runner
from sfss.web.tls import contexts_of

IDLE_GRACE_S: Final = 3.0
"""Seconds that a stopping worker waits for a last request on an idle connection.

A connection closed at the moment of a client's next request would drop it (RFC 9112, 9.3.1).
"""

HEARTBEAT_S: Final = 1.0

LAG_EVERY_S: Final = 0.25
"""Seconds between two looks at how late the event loop is."""

RESTART_PAUSE_S: Final = 1.0
"""Seconds before a worker that cannot start ends and the master tries the next."""

_INHERITED: Final = frozenset({"LISTEN_FDS", "GUNICORN_FD"})
"""Variables that say that somebody listens for us: systemd, or the master that we replace."""

_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGINT})

_log = logging.getLogger(__name__)


class Worker(base.Worker):  # type: ignore[misc]
    """gunicorn worker class: ``gunicorn -k sfss.worker.Worker sfss.service:application``."""

    # Made when the master imports this module, so before any fork: that is what makes it shared.
    board: ClassVar = Board()
    _holders: ClassVar[dict[int, "Worker"]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counters = self.board.row(self._take_row())
        self.board.master = int(self.ppid)

    def _take_row(self) -> int:
        """Return a row of the board that no living worker writes; runs in the master."""
        for row in range(ROWS):
            holder = self._holders.get(row)
            if holder is None or holder._gone():
                self._holders[row] = self
                return row
        # As where there is no room for a process: those there are go on, and it is tried again.
        raise OSError(errno.EAGAIN, f"there are {ROWS} workers, old ones included")

    def _gone(self) -> bool:
        try:
            os.kill(int(self.pid), 0)
        except (ProcessLookupError, PermissionError, ValueError):
            # PermissionError: another user's process has the number by now. ValueError:
            # "[booting]", and as the next one is made already, it failed.
            return True
        return False

    def init_signals(self) -> None:
        """Take over the signals, those that came since the fork included."""
        super().init_signals()
        # For a whole group, as of a terminal that is closed, or of pkill: it is for the master.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def run(self) -> None:
        """Serve until told to stop."""
        self.booted = False
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        for number in (signal.SIGQUIT, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_now, stopping)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        heartbeat = asyncio.create_task(self._heartbeat(stopping))
        watch = asyncio.create_task(self._watch_loop())
        runner = await self._start()
        self.booted = True
        if self.alive:
            await stopping.wait()
        runner.stop_listening()
        await runner.drain(IDLE_GRACE_S if self.alive else 0.0)
        await runner.cleanup()
        heartbeat.cancel()
        watch.cancel()

    def _stop_now(self, stopping: asyncio.Event) -> None:
        self.alive = False
        stopping.set()

    async def _start(self) -> Runner:
        try:
            runner: Runner = await self.wsgi(self.counters, self.board)
            sockets = [listener.sock for listener in self.sockets]
            await runner.listen(sockets, self.cfg.backlog)
        except SfssError as error:
            await self._give_up(str(error))
        except Exception as error:
            self.log.exception("in starting")
            await self._give_up(repr(error))
        self.counters.start(os.getpid())
        # What is there now stays: no later collection has to look through it, which takes a while.
        # Not collected here: that would write to every page that is shared with the master.
        gc.freeze()
        return runner

    async def _give_up(self, reason: str) -> NoReturn:
        """End the process: the whole gateway with it at the first start, else to be replaced."""
        self.log.error("cannot start: %s", reason)
        if not self.board.pids():
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR)
        await asyncio.sleep(RESTART_PAUSE_S)
        raise SystemExit(1)

    async def _heartbeat(self, stopping: asyncio.Event) -> None:
        """Tell the master that the loop runs; stop when the master is gone."""
        while True:
            self.notify()
            if self.ppid != os.getppid():
                self.log.warning("the master is gone: stopping")
                stopping.set()
            await asyncio.sleep(HEARTBEAT_S)

    async def _watch_loop(self) -> None:
        while True:
            due_s = perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            # uvloop's timers count milliseconds, and may be early.
            self.counters.lagged(max(0.0, perf_counter() - due_s))


class _Arbiter(Arbiter):  # type: ignore[misc]
    """The master: gunicorn's, but that workers which are about to end count for nothing.

    gunicorn waits for them in a reload, deaf to signals, and takes them for workers that serve.
    """

    def __init__(self, app: "Gateway") -> None:
        self._leaving: set[int] = set()
        super().__init__(app)

    def reload(self) -> None:
        """Reload, and let the old workers finish while the master goes on."""
        super().reload()
        self.cfg.set("graceful_timeout", graceful_timeout_s(self.app.settings))

    def manage_workers(self) -> None:
        """Have as many workers as set beside those that are about to end."""
        self._leaving &= self.WORKERS.keys()
        staying = [worker for pid, worker in self.WORKERS.items() if pid not in self._leaving]
        for _ in range(self.num_workers - len(staying)):
            self.spawn_worker()
        oldest_first = sorted(staying, key=lambda worker: int(worker.age))
        for worker in oldest_first[: max(0, len(staying) - self.num_workers)]:
            self._leaving.add(worker.pid)
            self.kill_worker(worker.pid, signal.SIGTERM)

    def spawn_worker(self) -> int | None:
        """Fork a worker; where the machine has no room for one now, it is tried again later."""
        # A stop sent to a worker that still has the master's signal handlers would be lost on it:
        # it waits until the worker has its own (init_signals).
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            return int(super().spawn_worker())
        except OSError as error:
            self.log.error("cannot fork a worker: %s", error)
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


class Gateway(BaseApplication):  # type: ignore[misc]
    """``sfss serve``: gunicorn with our settings. Arguments as of ``read_settings``."""

    def __init__(
        self, file: str | None, options: dict[str, Setting], cluster: str | None = None
    ) -> None:
        self._read = partial(read_settings, file, options, cluster)
        self.settings = self._read()
        # Read here, and for every worker: one that is started later, while a certificate is being
        # renewed, is to serve as the others do.
        self._contexts = contexts_of(self.settings)
        check_startable(self.settings)
        check_bindable(self.settings)
        super().__init__()

    def load_config(self) -> None:
        """Translate our settings into gunicorn's."""
        for name, value in gunicorn_settings(self.settings).items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until stopped."""
        gc.collect()
        gc.freeze()
        _Arbiter(self).run()

    def load(self) -> Any:
        """Return what a worker calls to start."""
        return partial(service.start, self.settings, contexts=self._contexts)

    def reload(self) -> None:
        """Read the settings again; on a mistake say so and go on with the last good ones."""
        try:
            settings = self._read()
            contexts = contexts_of(settings)
            check_startable(settings, self.settings)
            check_bindable(settings, bound(self.settings))
        except SfssError as error:
            _log.error("not reloaded, the former settings stay in force: %s", error)
            return
        self.settings, self._contexts = settings, contexts
        warn_of_openness(settings)
        super().reload()


def gunicorn_settings(settings: Settings) -> dict[str, Any]:
    """Return what gunicorn is told, by gunicorn's names."""
    server = settings.server
    return {
        "bind": [listen.address for listen in bound(settings)],
        "workers": server.workers,
        "worker_class": Worker,
        "graceful_timeout": graceful_timeout_s(settings),
        "on_reload": lambda arbiter: arbiter.cfg.set("graceful_timeout", 0),
        "proc_name": "sfss",
        "logconfig_dict": service.logging_settings(server.log_level, server.log_format),
        "control_socket_disable": True,
        "worker_tmp_dir": _heartbeat_folder(),
        "when_ready": lambda _: _tell(settings),
    }


def _tell(settings: Settings) -> None:
    _log.info("%s", describe(settings))
    warn_of_openness(settings)


def warn_of_openness(settings: Settings) -> None:
    """Log what others than this machine may do, or cannot, where that is to be known."""
    rules = rules_of(settings.access, settings.server.admin_token)
    for sentence in warnings_of(rules, settings.listeners()):
        _log.warning("%s", sentence)


def graceful_timeout_s(settings: Settings) -> int:
    """Return how long the master waits for a worker, which ends by itself before that."""
    return int(settings.server.graceful_timeout_s + IDLE_GRACE_S) + 2


def _heartbeat_folder() -> str | None:
    # A heartbeat file on a slow disk would make the master kill a worker that is well.
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def describe(settings: Settings) -> str:
    """Return the line that says at the start what is served, where."""
    kind, stores = settings.cluster.kind, service.stores_of(settings)
    addresses = [listen.url for listen in settings.listeners()]
    if settings.listen:
        faces = [", ".join(listen.faces) for listen in settings.listen]
        addresses = [
            f"{address} ({shown})" for address, shown in zip(addresses, faces, strict=True)
        ]
    return f"sfss {__version__} serves {', '.join(addresses)} ({kind}: {stores})"


def check_bindable(settings: Settings, former: Sequence[Listen] = ()) -> None:
    """Raise ``SettingError`` when nobody can listen on the addresses of ``settings``.

    The ports of the ``former`` ones are in use by ourselves: then only the host is tried.
    """
    listeners = bound(settings)
    addresses = [listen.address for listen in listeners]
    former_addresses = [listen.address for listen in former]
    if _INHERITED & os.environ.keys() or addresses == former_addresses:
        return
    for listen in listeners:
        if listen.address in former_addresses:
            # gunicorn binds all of them anew, and this one while our workers still have it.
            found = f"other addresses are to go with {listen.address}, which is in use by ourselves"
            raise SettingError("settings", "listen", found, "that takes a restart")
    used = {listen.host_and_port[1] for listen in former}
    for listen in listeners:
        try:
            _try_to_bind(listen, used)
        except OSError as error:
            setting, found, allowed = _why_not_bound(error)
            key = "listen.address" if settings.listen else setting
            found = f"cannot listen on {listen.address}: {found}"
            raise SettingError("settings", key, found, allowed) from None


def _why_not_bound(error: OSError) -> tuple[str, str, str]:
    """Return which setting is wrong, why, and what is expected instead."""
    number = error.errno or 0
    if number < 0:  # of getaddrinfo, whose numbers are negative; a gaierror is turned into this one
        return "server.host", "unknown host", "a host of this machine is needed"
    if number == errno.EADDRNOTAVAIL:
        return "server.host", "not an address of this machine", "one of its own is needed"
    if number == errno.EADDRINUSE:
        return "server.port", "another program listens there", "a free port is needed"
    return "server.port", os.strerror(number), "an address that may be used is needed"


def _try_to_bind(listen: Listen, used: Container[int]) -> None:
    host, port = listen.host_and_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0 if port in used else port), family=family):
        pass
