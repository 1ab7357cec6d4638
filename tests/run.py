"""bin/test: style, types and every test.

Each step runs even if an earlier one failed. pytest gets the arguments of the command and comes
last, so that the last line of a good run is its count of passed and skipped tests. Without any, all
tests are run by one process more than there are processors: half of the time, a test waits.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROCESSES = min(4, (os.cpu_count() or 1) + 1)
IN_PARALLEL = ("-n", str(PROCESSES), "--dist", "worksteal")

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
)


def main() -> int:
    """Run everything and return the exit status: 0 only if every step succeeded."""
    steps = [*CHECKS, ("pytest", *(sys.argv[1:] or IN_PARALLEL))]
    failed = [" ".join(step) for step in steps if not succeeds(step)]
    if failed:
        print(f"\nbin/test: FAILED: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def succeeds(step: tuple[str, ...]) -> bool:
    """Run one tool in the checkout, as a module of this interpreter; say whether it succeeded."""
    print(f"== {' '.join(step)}", flush=True)
    # A script in bin/ puts the checkout on its own path only; the tools, and the servers that tests
    # start with sys.executable from other folders, get it from the environment.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", *step]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
