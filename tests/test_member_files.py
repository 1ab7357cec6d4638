"""What the processes of a member tell each other through files."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from sfss.member_files import Epochs, StateFile
from sfss.member_state import State
from sfss.members import Member, alone
from tests.servers import PYTHON_ENVIRON


class Overtaken(StateFile):
    """A state that another process changes right after it was loaded; once ``is_overtaken`` is
    False.
    """

    is_overtaken = True

    def load(self) -> State:
        """Return the state, as of before the change."""
        found = super().load()
        if not self.is_overtaken:
            self.is_overtaken = True
            epoch_two = replace(alone(Member("a:1", found.store)), epoch=2)
            self.change(lambda state: (replace(state, membership=epoch_two), None))
        return found


def test_who_is_overtaken_by_a_change_goes_by_the_change(tmp_path: Path) -> None:
    states, epochs = Overtaken(tmp_path), Epochs(tmp_path)
    states.is_overtaken = False
    assert epochs.hold(states).epoch == 2
    assert epochs.held() == [2]


def test_nobody_but_the_master_is_told_to_renew() -> None:
    """Who has forked a worker dies: whoever gets the worker then, here we, hears nothing of it."""
    heard: list[int] = []
    former = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        for master in (1, os.getpid()):
            code = f"from sfss.joining import renew; renew({master})"
            command = [sys.executable, "-c", code]
            subprocess.run(command, check=True, env={**os.environ, **PYTHON_ENVIRON}, timeout=60)
            assert heard == ([] if master == 1 else [signal.SIGHUP])
    finally:
        signal.signal(signal.SIGHUP, former)
