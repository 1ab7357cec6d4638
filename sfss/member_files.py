"""The files of a member, beside its store, that all its workers share.

A change of the state is on the disk before anybody hears of it. The state lies in the folder of the
store, so that both are lost together: who comes back with an empty store does not vote as if it
were full.
"""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sfss.errors import SettingError
from sfss.member_state import State, read_state, state_as_words

_FILE: Final = "member.json"
_LOCK: Final = "member.lock"
_EPOCHS: Final = "member.epochs"

Result = TypeVar("Result")


LOCK_S: Final = 1.0
"""Seconds that a change may wait for another process: it takes as long as a disk, unless that
process was stopped within. Less than another member waits for an answer.
"""

_LOCK_AGAIN_S: Final = 0.005


class StateInUse(Exception):
    """Raised when another process does not come to the end of its change; nothing was changed."""


class StateFile:
    """The state in ``folder``, made if it is missing. Raises ``SettingError`` where it cannot be
    read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _FILE).exists():
                self._make()
            self.load()
        except (OSError, ValueError) as error:
            found = f"is {str(folder)!r}: {_FILE}: {error}"
            raise SettingError(
                "settings", "embedded.folder", found, "a folder with a sound state"
            ) from error

    def load(self) -> State:
        """Return the state. Raises ``OSError``, ``ValueError``."""
        return read_state(json.loads((self._folder / _FILE).read_bytes()))

    def change(self, change: Callable[[State], tuple[State, Result]]) -> Result:
        """Have the state replaced by what ``change`` returns first; return what it returns second.
        Nobody comes in between. Raises as ``load``, and what ``change`` raises.

        It waits for whoever is at it, however long: ``change_soon`` is for event loops.
        """
        with self._lock() as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return self._changed(change)

    async def change_soon(self, change: Callable[[State], tuple[State, Result]]) -> Result:
        """Do as ``change``, and let others go on while another process is at it. Raises
        ``StateInUse`` after ``LOCK_S``. Cancelled, it has changed nothing.
        """
        with self._lock() as descriptor:
            await _lock_soon(descriptor)
            return self._changed(change)

    def _changed(self, change: Callable[[State], tuple[State, Result]]) -> Result:
        state = self.load()
        new, result = change(state)
        if new != state:
            self._write(new)
        return result

    def _make(self) -> None:
        with self._lock() as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not (self._folder / _FILE).exists():
                self._write(State(secrets.token_hex(16)))

    @contextmanager
    def _lock(self) -> Iterator[int]:
        """Give the file that has to be locked for a change; nobody has it locked afterwards."""
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _write(self, state: State) -> None:
        scratch = self._folder / f"{_FILE}.new"
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(state_as_words(state), file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._folder / _FILE)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


async def _lock_soon(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if loop.time() >= end_s:
                sentence = f"another process of it has had its state for {LOCK_S:g} s"
                raise StateInUse(f"this member cannot change: {sentence}") from None
        await asyncio.sleep(_LOCK_AGAIN_S)


class Epochs:
    """The epochs that the processes of one gateway go by: each holds a lock for as long as it
    lives.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _EPOCHS
        self._descriptor: int | None = None

    def hold(self, states: StateFile) -> State:
        """Return the state by which this process goes until it ends. Raises as ``StateFile.load``.

        A change that came before it was said that the epoch is held may have been taken for known
        to all: then the state is that from after the change.
        """
        while True:
            state = states.load()
            descriptor = self._hold(state.epoch)
            if states.load().epoch == state.epoch:
                self._descriptor = descriptor
                return state
            os.close(descriptor)

    def _hold(self, epoch: int) -> int:
        """Say that this process goes by ``epoch``, until what is returned is closed."""
        self._folder.mkdir(exist_ok=True)
        while True:
            file = self._folder / str(epoch)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, file):
                return descriptor
            os.close(descriptor)  # it was removed in between

    def held(self) -> list[int]:
        """Return the epochs that living processes go by, the lowest first."""
        return sorted(each for each in self._all() if self._is_held(each))

    def _all(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return [int(each.name) for each in self._folder.iterdir() if each.name.isdecimal()]

    def _is_held(self, epoch: int) -> bool:
        """Tell whether a process holds ``epoch``; remove its file if none does."""
        file = self._folder / str(epoch)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            file.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
