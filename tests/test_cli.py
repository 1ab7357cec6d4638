"""The table of commands: all are there, and each imports what it needs, and no more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sfss import cli
from tests.servers import PYTHON_ENVIRON, SFSS

HEAVY = {"aiohttp", "gunicorn", "lmdb", "obstore", "prometheus_client", "rich"}
LIGHT = ["get", "ls", "stat", "du", "rm", "sync", "export", "import", "status", "bench"]


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: sfss {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_each_command_can_be_run(name: str) -> None:
    assert callable(cli._function("run", name))


@pytest.mark.parametrize("name", [*LIGHT, "token", "sign", "nginx", "stores"])
def test_a_command_imports_no_server(name: str) -> None:
    code = (
        "import sys; from sfss import cli\n"
        f"try: cli.main([{name!r}, '--help'])\n"
        f"finally: print(*{HEAVY!r} & set(sys.modules), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=PYTHON_ENVIRON, timeout=60
    )
    assert ended.stderr.strip() == ""


def test_an_interrupt_while_a_command_is_imported(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("import time\nprint('now', flush=True)\ntime.sleep(60)\n")
    path = f"{tmp_path}{os.pathsep}{PYTHON_ENVIRON['PYTHONPATH']}"
    process = subprocess.Popen(
        [*SFSS, "ls"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None and process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, b"")


def test_a_name_that_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["gte", "photos"])
    assert ended.value.code == 2
    assert "invalid choice: 'gte' (choose from 'serve'," in capsys.readouterr().err
