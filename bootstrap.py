#!/usr/bin/env python3
"""Make this checkout ready to run.

    python3 bootstrap.py [-v VERSION]                 set everything up
    python3 bootstrap.py [-v VERSION] serve [ARG...]  set the service up, then bin/sfss serve ARG...
    python3 bootstrap.py [-v VERSION] test [ARG...]   set everything up, then bin/test ARG...

A private environment is made in .venv, pip installs zc.buildout in it with the packages and the
versions that buildout.cfg names (buildout.cfg says why not buildout), and buildout writes bin/.

A half-made environment is never trusted: the stamp, .venv/set-up.json, is taken away before the
environment is touched and written when everything is in place.
"""

import argparse
import configparser
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Above the rest, so that an older Python prints this and no traceback.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("sfss needs Python 3.11 or later; this is %s" % sys.version.split()[0])  # noqa: UP031

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "set-up.json"
BUILDOUT_CFG = ROOT / "buildout.cfg"
BUILDOUT_VERSION = "6.0.1"

# Each part of buildout.cfg, and a script that is in bin/ when the part is installed.
PARTS = {"service": "sfss", "test": "test"}
PARTS_OF_COMMAND = {None: ("service", "test"), "serve": ("service",), "test": ("service", "test")}

# Programs (and a module of one) that the tests use, and their Debian packages.
PROGRAMS = {
    "cadaver": "cadaver",
    "chromium": "chromium",
    "curl": "curl",
    "memcached": "memcached",
    "memccapable": "libmemcached-tools",
    "nutcracker": "nutcracker",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "ngx_http_dav_ext_module.so": "libnginx-mod-http-dav-ext",
    "rclone": "rclone",
    "wget": "wget",
}
PROGRAM_FOLDERS = (str(ROOT / "bin"), "/usr/sbin", "/usr/lib/nginx/modules")
# Programs that the tests use where Go is, to build them; and for how many seconds that may go on.
# versitygw is a hundred seconds of work for one core.
GO_PROGRAMS = {
    "gobeansdb": ("github.com/douban/gobeansdb@latest", 120),
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw@v1.8.0", 420),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Set up what the command needs, then become the command."""
    options = parse(arguments)
    refuse_without_venv()
    try:
        with only_one_at_a_time():
            set_up(PARTS_OF_COMMAND[options.command], options.version)
        if options.command == "test":
            install_programs()
            install_go_programs()
    except subprocess.CalledProcessError as error:
        command = " ".join(error.cmd)
        sys.exit(f"bootstrap.py: not set up: exit status {error.returncode} from: {command}")
    except KeyboardInterrupt:
        sys.exit("bootstrap.py: interrupted; run it again to continue")
    if options.command is not None:
        become(options.command, options.arguments)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return `version`, `command` (None: only set up) and the command's own `arguments`."""
    parser = argparse.ArgumentParser(
        description="Set up this checkout in .venv and bin/, and run the service or the tests."
    )
    parser.add_argument(
        "-v",
        dest="version",
        type=buildout_version,
        metavar="VERSION",
        default=BUILDOUT_VERSION,
        help="version of zc.buildout, 6.0.0 or later (default: %(default)s)",
    )
    parser.add_argument("command", nargs="?", choices=("serve", "test"))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the command")
    return parser.parse_args(arguments)


def buildout_version(text: str) -> str:
    """Return a version of zc.buildout; raise for one that zc.recipe.egg does not go with."""
    if not re.fullmatch(r"([6-9]|[1-9]\d)(\.\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version of zc.buildout from 6.0.0 on")
    return text


def refuse_without_venv() -> None:
    """Exit with the line that helps where Python came without what `python3 -m venv` needs."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "bootstrap.py: this Python has no venv; install it first: apt-get install python3-venv"
        )


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold the checkout's lock, so that `serve` and `test` may be started at the same time."""
    with Path(__file__).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another bootstrap.py that sets up this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Inherited by pip and buildout (see `run`): if this process is killed, its successor waits
        # for them to end instead of working in the same folder.
        os.set_inheritable(lock.fileno(), True)
        yield


def set_up(parts: Sequence[str], version: str) -> None:
    """Bring the environment and bin/ to the state that buildout.cfg describes, if they are not."""
    digest = fingerprint(version)
    ready = parts_ready(digest)
    if ready.issuperset(parts):
        return
    STAMP.unlink(missing_ok=True)
    if not ready:
        say("making a private environment in .venv")
        run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT])
        # bin/buildout's list. In a copy of a checkout it names, and buildout removes, the
        # original's scripts.
        (ROOT / ".installed.cfg").unlink(missing_ok=True)
    wanted = [part for part in PARTS if part in ready or part in parts]
    say("installing packages for " + " and ".join(wanted))
    install_packages(wanted, version)
    write_scripts(wanted)
    STAMP.write_text(json.dumps({"digest": digest, "parts": wanted}), "utf-8")


def fingerprint(version: str) -> str:
    """Digest of all that the environment is made from; with another one it must be made anew."""
    digest = hashlib.sha256()
    # The folder too: a checkout that was moved or copied has scripts that name the old place.
    for made_from in (version, sys.version, sys.base_prefix, str(ROOT)):
        digest.update(made_from.encode() + b"\0")
    for path in (Path(__file__), BUILDOUT_CFG):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def parts_ready(digest: str) -> set[str]:
    """Return the parts in an environment with this digest; if empty, it must be made anew."""
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return set()
    parts = stamp["parts"]
    programs = [PYTHON, ROOT / "bin" / "buildout", *(ROOT / "bin" / PARTS[part] for part in parts)]
    if stamp["digest"] != digest or not all(program.exists() for program in programs):
        return set()
    return set(parts)


def install_packages(parts: Sequence[str], version: str) -> None:
    """Have pip install zc.buildout and the eggs of these parts, at the versions of buildout.cfg."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(BUILDOUT_CFG, "utf-8")
    pins = ENVIRONMENT / "versions.txt"
    pins.write_text("".join(f"{name}=={pin}\n" for name, pin in config["versions"].items()))
    eggs = {egg for part in parts for egg in config[part]["eggs"].split() if "$" not in egg}
    packages = [f"zc.buildout=={version}", "zc.recipe.egg", *sorted(eggs)]
    pip = [PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "install", "--constraint", pins, *packages])


def write_scripts(parts: Sequence[str]) -> None:
    """Have zc.buildout write bin/buildout and the scripts of these parts."""
    config = ["-q", "-c", BUILDOUT_CFG]
    run([PYTHON, ENVIRONMENT / "bin" / "buildout", *config, "bootstrap"])
    for part in parts:
        # Each with its own list of what is installed: by the usual one a later bin/buildout, which
        # makes the service, would take bin/test away.
        installed = f"buildout:installed={ENVIRONMENT / part}.cfg"
        run([PYTHON, ROOT / "bin" / "buildout", *config, installed, "install", part])


def missing_programs() -> list[str]:
    """Return the programs that the tests would not find."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *PROGRAM_FOLDERS])
    # F_OK: a module cannot be executed.
    return [program for program in PROGRAMS if shutil.which(program, os.F_OK, path) is None]


def install_programs() -> None:
    """Install the programs that are missing where we may; name those that are still missing.

    In CI a missing one ends the run; elsewhere its tests are skipped.
    """
    missing = missing_programs()
    if missing and os.geteuid() == 0 and Path("/etc/debian_version").exists():
        say(f"installing {' and '.join(missing)}")
        packages = [PROGRAMS[program] for program in missing]
        if not apt_get("install", *packages):
            apt_get("update")
            apt_get("install", *packages)
        missing = missing_programs()
    if missing and os.environ.get("CI") == "true":
        sys.exit(f"bootstrap.py: CI=true, and these programs are missing: {', '.join(missing)}")
    for program in missing:
        say(f"{program} is missing (apt-get install {PROGRAMS[program]}): its tests are skipped")


def apt_get(*arguments: str) -> bool:
    """Run apt-get, which asks nothing and starts no service, and say whether it succeeded."""
    # The tests start their own servers: sysvinit's scripts start none in runlevel 1, and systemctl
    # starts none offline.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1", "SYSTEMD_OFFLINE": "1"}
    command = ["apt-get", "-qq", "--yes", "--no-install-recommends", *arguments]
    finished = subprocess.run(
        command, env=os.environ | quiet, stdout=subprocess.DEVNULL, check=False
    )
    return finished.returncode == 0


def install_go_programs() -> None:
    """Build what is missing into bin/ where Go is; name a failure, and try again only with another
    Go, or another version of the program.
    """
    go = shutil.which("go")
    for program, (module, timeout_s) in GO_PROGRAMS.items():
        if go is None or (ROOT / "bin" / program).exists():
            continue
        tried = ENVIRONMENT / f"{program}-tried"
        attempt = f"{go} {module}"
        if not tried.exists() or tried.read_text("utf-8") != attempt:
            say(f"building {program}")
            if go_install(go, module, timeout_s):
                continue
            tried.write_text(attempt, "utf-8")
        say(f"{program} could not be built: its tests are skipped (remove {tried} to try again)")


def go_install(go: str, module: str, timeout_s: int) -> bool:
    """Have Go build a program into bin/; say whether it succeeded within its time."""
    environment = os.environ | {"GOBIN": str(ROOT / "bin")}
    try:
        finished = subprocess.run(
            [go, "install", module], env=environment, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return False
    return finished.returncode == 0


def become(command: str, arguments: Sequence[str]) -> None:
    """Replace this process by the command, with the checkout as its working folder."""
    os.chdir(ROOT)
    script = {"serve": ["bin/sfss", "serve"], "test": ["bin/test"]}[command]
    # Not through the script's first line, which cannot hold a path with a space.
    os.execv(PYTHON, [str(PYTHON), *script, *arguments])


def run(command: Sequence[object]) -> None:
    """Run a step of the set-up in the checkout; raise CalledProcessError if it fails."""
    words = [str(word) for word in command]
    subprocess.run(words, cwd=ROOT, check=True, close_fds=False)


def say(sentence: str) -> None:
    """Tell the person at the terminal what takes the time."""
    print(f"bootstrap.py: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
