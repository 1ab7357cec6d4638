"""The roster: a watched file that says which stores are live.

Each line is ``IP HOST[:PORT]``, ``HOST:PORT`` or ``HOST``; ``#`` begins a comment. A host without a
port stands for every store on it. The IP is for people and other programs: stores are known by the
host that the settings name. A roster is believed as a whole or not at all: with one line that is
none of these, with none, or too large to be one, it is refused, and the last good one stays in
force, for to take a store out by mistake costs more than to ask one that is dead.
"""

import asyncio
import logging
import os
import re
import stat
import time
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

SIZE_LIMIT: Final = 1024 * 1024
"""Bytes that a roster may have."""

_SETTLED_NS: Final = 2_000_000_000
"""Age from which on a change would show in the times of a file: the coarsest clock of a file system
(FAT's) goes in steps of two seconds.
"""

_NAMES_LOGGED: Final = 20
_NAME: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?", re.ASCII)
_ALLOWED: Final = "IP HOST[:PORT], HOST:PORT or HOST is expected"

_log = logging.getLogger(__name__)


def read_roster(text: str) -> frozenset[str]:
    """Return what the roster ``text`` lists: hosts, and pairs ``host:port``, in lower case.

    Raises ``ValueError`` with the number of the first line that is wrong.
    """
    listed: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].split()
        if words:
            listed.add(_name(words, number))
    return frozenset(listed)


def _name(words: list[str], number: int) -> str:
    try:
        *ip, name = words
        if len(ip) > 1:
            raise ValueError
        for word in ip:
            ip_address(word)
        return _normal(name)
    except ValueError:
        found = repr(" ".join(words)[:100])
        raise ValueError(f"line {number} is {found}; {_ALLOWED}") from None


def _normal(name: str) -> str:
    """Return ``HOST`` or ``HOST:PORT`` as it is compared; raise ``ValueError`` if it is neither."""
    match = _NAME.fullmatch(name.lower())
    if match is None:
        raise ValueError(name)
    host, port = match.groups()
    if port is None:
        return host
    if not 0 < int(port) < 65_536:
        raise ValueError(name)
    return f"{host}:{int(port)}"


def is_listed(roster: Collection[str], address: str) -> bool:
    """Tell whether ``roster`` (of ``read_roster``) lists the store at ``address``, "host:port"."""
    name = _normal(address)
    return name in roster or name.rpartition(":")[0] in roster


class _State(NamedTuple):
    """What tells one content of a file from another without reading it."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class _Look(NamedTuple):
    """What was found in the file: what it ``listed``, or the ``trouble`` with it.

    ``state``: what is in this state need not be read again; None: another look has to read.
    """

    state: _State | None
    listed: frozenset[str] | None = None
    trouble: str = ""


class Roster:
    """The live stores, as ``file`` says; ``run`` looks at it every ``check_s`` seconds.

    Any change counts: in place, by a rename, by a symbolic link that points elsewhere. As long as
    no good roster was found, all stores are live.
    """

    def __init__(self, file: Path, check_s: float) -> None:
        self._file, self._check_s = file, check_s
        self._listed: frozenset[str] | None = None
        self._live: dict[str, bool] = {}
        self._seen: _State | None = None
        self._trouble = ""

    def is_live(self, address: str) -> bool:
        """Tell whether the store at ``address`` ("host:port") may be asked."""
        if self._listed is None:
            return True
        live = self._live.get(address)
        if live is None:
            live = self._live[address] = is_listed(self._listed, address)
        return live

    def load(self) -> None:
        """Read the file, whether it has changed or not: to be called before the first request.

        Raises nothing: what is wrong is logged.
        """
        self._seen = None
        self.look()

    def look(self) -> None:
        """Read the file if it may have changed since it was last read. Raises nothing."""
        self._take(self._found())

    async def run(self) -> NoReturn:
        """Look at the file for ever."""
        while True:
            await asyncio.sleep(self._check_s)
            try:
                # In a thread: a file server that is gone holds up whoever asks it.
                self._take(await asyncio.to_thread(self._found))
            except Exception:
                _log.exception("the roster %s cannot be looked at", self._file)

    def _found(self) -> _Look | None:
        """Return what is in the file, or None if it is what was there at the last look."""
        state = None
        try:
            now = _state(self._file)
            if now == self._seen:
                return None
            # Two changes at one time look like one: what is new may yet change unseen.
            state = now if _is_settled(now) else None
            listed = read_roster(_text(self._file))
        except FileNotFoundError:
            return _Look(None, trouble="it is missing")
        except OSError as error:
            return _Look(None, trouble=f"it cannot be read: {error.strerror or error}")
        except UnicodeDecodeError:
            return _Look(state, trouble="it is not UTF-8")
        except ValueError as error:
            return _Look(state, trouble=str(error))
        return _Look(state, listed) if listed else _Look(state, trouble="it lists no host")

    def _take(self, look: _Look | None) -> None:
        if look is None:
            return
        self._seen = look.state
        if look.listed is None:
            self._complain(look.trouble)
        else:
            self._replace(look.listed)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            force = "the last good one stays in force"
            if self._listed is None:
                force = "all stores count as live"
            _log.error("roster %s: %s; %s", self._file, trouble, force)
        self._trouble = trouble

    def _replace(self, listed: frozenset[str]) -> None:
        former = self._listed
        if listed != former:
            self._listed, self._live = listed, {}
            joined, left = listed - (former or frozenset()), (former or frozenset()) - listed
            _log.info("roster %s: joined %s; left %s", self._file, _names(joined), _names(left))
        elif self._trouble:
            _log.info("roster %s: it is good again, and unchanged", self._file)
        self._trouble = ""


def _state(file: Path) -> _State:
    found = file.stat()
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_settled(state: _State) -> bool:
    """Tell whether any change after this would give the file another state."""
    return max(state.modified_ns, state.changed_ns) < time.time_ns() - _SETTLED_NS


def _text(file: Path) -> str:
    # A pipe would make us wait for its other end, which may never come.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            text = opened.read(SIZE_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(text) > SIZE_LIMIT:
        raise ValueError(f"it has more than {SIZE_LIMIT} bytes")
    return text.decode("utf-8")


def _names(names: Collection[str]) -> str:
    some = ", ".join(sorted(names)[:_NAMES_LOGGED])
    return some + (", ..." if len(names) > _NAMES_LOGGED else "") or "nobody"
