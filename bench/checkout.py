"""Importing this makes the packages of the checkout importable, for scripts of this folder.

The script starts again with ``.venv/bin/python`` of the checkout where there is one; else the
interpreter that it was started with has to have the packages.
"""

import importlib.util
import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = CHECKOUT / ".venv"
_PACKAGES = ("aiohttp", "aiomcache", "gunicorn", "lmdb", "pytest", "uvloop", "xxhash")


def _enter() -> None:
    python = _ENVIRONMENT / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != _ENVIRONMENT.resolve():
        os.execv(python, [str(python), *sys.orig_argv[1:]])
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"bench: {sys.executable} lacks {', '.join(missing)};"
            " `python3 bootstrap.py test` makes an environment that has them"
        )
    sys.path.insert(1, str(CHECKOUT))


_enter()
