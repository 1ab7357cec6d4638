"""bootstrap.py without its downloads: arguments, the stamp, the sentences for people."""

import ast
import configparser
import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import bootstrap
from tests import run

ROOT = Path(bootstrap.__file__).parent
PACKAGES = [sysconfig.get_path("purelib")]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that bootstrap takes for its checkout, with a buildout.cfg and nothing else."""
    environment = tmp_path / ".venv"
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "ENVIRONMENT", environment)
    monkeypatch.setattr(bootstrap, "PYTHON", environment / "bin" / "python")
    monkeypatch.setattr(bootstrap, "STAMP", environment / "set-up.json")
    monkeypatch.setattr(bootstrap, "BUILDOUT_CFG", tmp_path / "buildout.cfg")
    shutil.copy(ROOT / "buildout.cfg", tmp_path)
    return tmp_path


class Steps:
    """Stands in for `bootstrap.run`: notes the commands and makes the files they would make."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.commands: list[list[str]] = []
        self.stop_at: str | None = None
        self.stop: BaseException = KeyboardInterrupt()

    def __call__(self, command: list[object]) -> None:
        words = [str(word) for word in command]
        assert not bootstrap.STAMP.exists(), "the environment is touched under a valid stamp"
        self.commands.append(words)
        if self.stop_at in words:
            raise self.stop
        if "venv" in words:
            shutil.rmtree(self.checkout / ".venv", ignore_errors=True)
            self.make(".venv/bin/python")
        if "bootstrap" in words:
            self.make("bin/buildout")
        if "install" in words and "-m" not in words:
            for part in words[words.index("install") + 1 :]:
                self.make(f"bin/{bootstrap.PARTS[part]}")

    def make(self, name: str) -> None:
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def forget(self) -> list[str]:
        """Return the commands so far as one string each, and start anew."""
        commands = [" ".join(command) for command in self.commands]
        self.commands.clear()
        return commands


@pytest.fixture
def steps(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What `set_up` would have run."""
    steps = Steps(checkout)
    monkeypatch.setattr(bootstrap, "run", steps)
    return steps


# Arguments


@pytest.mark.parametrize(
    ("arguments", "version", "command", "rest"),
    [
        ([], bootstrap.BUILDOUT_VERSION, None, []),
        (["-v", "6.0.0"], "6.0.0", None, []),
        (["serve"], bootstrap.BUILDOUT_VERSION, "serve", []),
        (["-v", "6.0.0", "test", "-k", "x"], "6.0.0", "test", ["-k", "x"]),
        (["serve", "--port", "1"], bootstrap.BUILDOUT_VERSION, "serve", ["--port", "1"]),
        (["serve", "-v", "--help"], bootstrap.BUILDOUT_VERSION, "serve", ["-v", "--help"]),
        (["test", "-x", "test", "--", "a"], bootstrap.BUILDOUT_VERSION, "test", None),
    ],
)
def test_arguments(
    arguments: list[str], version: str, command: str | None, rest: list[str] | None
) -> None:
    options = bootstrap.parse(arguments)
    assert (options.version, options.command) == (version, command)
    assert options.arguments == (arguments[1:] if rest is None else rest)


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bootstrap.parse(["server"])
    assert stopped.value.code == 2
    assert "server" in capsys.readouterr().err


# The stamp


def test_set_up_then_nothing_to_do(steps: Steps) -> None:
    bootstrap.set_up(["service"], "6.0.1")
    environment, packages, own, part = steps.forget()
    assert "-m venv --clear" in environment
    assert "zc.buildout==6.0.1" in packages
    assert " aiohttp " in packages
    assert " pytest " not in packages
    assert own.endswith(" bootstrap")
    assert part.endswith(" install service")
    bootstrap.set_up(["service"], "6.0.1")
    assert steps.forget() == []


def test_tests_are_added_to_a_service(steps: Steps) -> None:
    bootstrap.set_up(["service"], "6.0.1")
    steps.forget()
    bootstrap.set_up(["service", "test"], "6.0.1")
    packages, _, *parts = steps.forget()
    assert " pytest " in packages
    assert [part.split()[-1] for part in parts] == ["service", "test"]
    bootstrap.set_up(["service"], "6.0.1")
    assert steps.forget() == []


@pytest.mark.parametrize("stop", [subprocess.CalledProcessError(1, "pip"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["--constraint", "bootstrap", "install"])
def test_set_up_that_stopped_starts_anew(steps: Steps, at: str, stop: BaseException) -> None:
    """Also when it was only adding to an environment that was in order."""
    bootstrap.set_up(["service"], "6.0.1")
    steps.stop_at, steps.stop = at, stop
    with pytest.raises(type(stop)):
        bootstrap.set_up(["service", "test"], "6.0.1")
    steps.stop_at = None
    steps.forget()
    bootstrap.set_up(["service"], "6.0.1")
    environment, *others = steps.forget()
    assert "-m venv --clear" in environment
    assert len(others) == 3


@pytest.mark.parametrize("change", ["version", "buildout.cfg", "python", "script", "stamp"])
def test_changed_environment_is_made_anew(steps: Steps, checkout: Path, change: str) -> None:
    bootstrap.set_up(["service"], "6.0.1")
    steps.forget()
    version = "6.0.1"
    if change == "version":
        version = "6.0.0"
    elif change == "buildout.cfg":
        with (checkout / "buildout.cfg").open("a") as config:
            config.write("# changed\n")
    elif change == "python":
        bootstrap.PYTHON.unlink()
    elif change == "script":
        (checkout / "bin" / "sfss").unlink()
    else:
        bootstrap.STAMP.write_text('{"digest": ')
    bootstrap.set_up(["service"], version)
    assert "-m venv --clear" in steps.forget()[0]


def test_list_of_scripts_of_another_folder_is_forgotten(steps: Steps, checkout: Path) -> None:
    """zc.buildout would remove the scripts of the checkout that this one is a copy of."""
    (checkout / ".installed.cfg").write_text("[buildout]\n")
    bootstrap.set_up(["service"], "6.0.1")
    assert not (checkout / ".installed.cfg").exists()


def test_fingerprint_depends_on_the_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bootstrap.fingerprint("6.0.1")
    monkeypatch.setattr(bootstrap, "ROOT", checkout / "moved")
    assert bootstrap.fingerprint("6.0.1") != before


def test_every_package_is_pinned(steps: Steps, checkout: Path) -> None:
    bootstrap.set_up(["service"], "6.0.1")
    pins = (checkout / ".venv" / "versions.txt").read_text().splitlines()
    assert "aiohttp==3.14.5" in pins
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the checkout's environment")
def test_every_installed_package_is_pinned() -> None:
    """pip would take the newest of a package that another one needs and buildout.cfg forgot."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "buildout.cfg")
    installed = {name_of(found.name) for found in importlib.metadata.distributions(path=PACKAGES)}
    assert "aiohttp" in installed
    assert installed - {name_of(name) for name in config["versions"]} == {"zc-buildout"}


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the checkout's environment")
@pytest.mark.parametrize("script", ["sfss", "gunicorn"])
def test_scripts_work_from_another_folder(tmp_path: Path, script: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(ROOT / "bin" / script), "--version"]
    printed = subprocess.check_output(command, cwd=tmp_path, env=environ, text=True)
    assert printed.startswith(script)


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the checkout's environment")
def test_bin_test_runs_the_tests_of_the_checkout(tmp_path: Path) -> None:
    """And no package "tests" that something installed has brought."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = (ROOT / "bin" / "test").read_text().partition("import tests.run")[0]
    command = [sys.executable, "-c", f"{path}\nimport tests; print(tests.__file__)"]
    printed = subprocess.check_output(command, cwd=tmp_path, env=environ, text=True)
    assert Path(printed.strip()) == ROOT / "tests" / "__init__.py"


@pytest.mark.parametrize("version", ["5.2", "6.x", "", "latest"])
def test_a_version_that_cannot_work_is_refused_in_words(
    version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bootstrap.parse(["-v", version])
    assert ended.value.code == 2
    assert "from 6.0.0 on" in capsys.readouterr().err


def name_of(package: str) -> str:
    """Return the one spelling of a name that has several (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def test_lock_is_inherited_and_let_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    locked = tmp_path / "bootstrap.py"
    locked.touch()
    monkeypatch.setattr(bootstrap, "__file__", str(locked))
    with locked.open() as other:
        with bootstrap.only_one_at_a_time():
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            child = subprocess.Popen(["sleep", "60"], close_fds=False)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            child.kill()
            child.wait()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# buildout.cfg and setup.py


def names(requirements: list[str]) -> list[str]:
    return sorted(re.split(r"[^\w.-]", requirement)[0] for requirement in requirements)


def test_buildout_and_setup_name_the_same_packages() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "buildout.cfg")
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    declared = {
        keyword.arg: ast.literal_eval(keyword.value)
        for keyword in call.value.keywords
        if keyword.arg in {"install_requires", "extras_require"}
    }
    assert config["service"]["eggs"].split() == names(declared["install_requires"])
    assert config["test"]["eggs"].split()[1:] == names(declared["extras_require"]["test"])


# Sentences


def test_missing_venv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.refuse_without_venv()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name)
    )
    with pytest.raises(SystemExit, match=r"^[^\n]*: apt-get install python3-venv$"):
        bootstrap.refuse_without_venv()


def test_failed_step_is_one_sentence(steps: Steps) -> None:
    steps.stop_at, steps.stop = "venv", subprocess.CalledProcessError(7, ["pip", "x"])
    with pytest.raises(SystemExit, match=r"not set up: exit status 7 from: pip x$"):
        bootstrap.main(["serve"])


def test_old_python_is_told_in_one_line() -> None:
    """The check works only if it comes before anything that an older Python cannot do."""
    body = ast.parse((ROOT / "bootstrap.py").read_text()).body
    first_not_import = next(
        node for node in body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)
    )
    assert isinstance(first_not_import, ast.If)
    assert ast.unparse(first_not_import.test) == "sys.version_info < (3, 11)"


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without the programs, where we are not root."""
    monkeypatch.setattr(bootstrap, "PROGRAM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("no_programs")
def test_missing_programs_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    bootstrap.install_programs()
    lines = capsys.readouterr().err.splitlines()
    named = [line.split()[1] for line in lines]
    assert named == list(bootstrap.PROGRAMS)
    assert "(apt-get install libmemcached-tools)" in lines[named.index("memccapable")]


@pytest.mark.usefixtures("no_programs")
def test_missing_programs_fail_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit, match=f"missing: {', '.join(bootstrap.PROGRAMS)}$"):
        bootstrap.install_programs()


@pytest.fixture
def go(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Go that makes gobeansdb, and nothing else; it notes what it is to build."""
    (checkout / ".venv").mkdir()
    go = tmp_path / "go"
    go.write_text(
        """#!/bin/sh
echo $2 >> $GOBIN.log
case $2 in *gobeansdb*) /bin/mkdir -p $GOBIN; : > $GOBIN/gobeansdb;; *) exit 1;; esac
"""
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return go


def test_a_program_that_cannot_be_built_is_tried_once(
    go: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        bootstrap.install_go_programs()
    built = (checkout / "bin.log").read_text().splitlines()
    assert built == [module for module, _ in bootstrap.GO_PROGRAMS.values()]
    assert built[1].startswith("github.com/versity/versitygw/cmd/versitygw@v")
    said = capsys.readouterr().err
    assert said.count("versitygw could not be built: its tests are skipped") == 2
    assert "gobeansdb could not" not in said


def test_a_program_that_takes_too_long_is_given_up(
    go: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(bootstrap, "GO_PROGRAMS", {"slow": ("module@v1", 0.1)})
    bootstrap.install_go_programs()
    assert "slow could not be built" in capsys.readouterr().err


def test_without_go_nothing_is_built(
    go: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go.unlink()
    bootstrap.install_go_programs()
    assert capsys.readouterr().err == ""
    assert not (checkout / "bin.log").exists()


# bin/test


def test_every_step_runs_and_any_failure_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, ...]] = []

    def succeeds(step: tuple[str, ...]) -> bool:
        ran.append(step)
        return step[0] != "mypy"

    monkeypatch.setattr(run, "succeeds", succeeds)
    monkeypatch.setattr(sys, "argv", ["bin/test", "-k", "x"])
    assert run.main() == 1
    assert ran == [*run.CHECKS, ("pytest", "-k", "x")]
    assert capsys.readouterr().err.strip() == "bin/test: FAILED: mypy"
