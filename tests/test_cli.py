"""The table of commands: all are there, and each imports what it needs, and no more."""

import subprocess
import sys

import pytest

from sfss import cli
from tests.servers import PYTHON_ENVIRON

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


def test_a_name_that_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["gte", "photos"])
    assert ended.value.code == 2
    assert "invalid choice: 'gte' (choose from 'serve'," in capsys.readouterr().err
