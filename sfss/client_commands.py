"""The commands that ask a gateway over HTTP, as a table: adding one is adding a row."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from sfss.bench_command import add_bench, run_bench
from sfss.get_command import add_get, run_get
from sfss.list_commands import add_du, add_ls, add_rm, add_stat, run_du, run_ls, run_rm, run_stat
from sfss.status_command import add_status, run_status
from sfss.sync_command import add_sync, run_sync
from sfss.tar_commands import add_export, add_import, run_export, run_import


class Command(NamedTuple):
    """How a command is added to a parser, and run."""

    add: Callable[[Any], None]
    run: Callable[[argparse.Namespace], int]


CLIENT_COMMANDS: Final[Mapping[str, Command]] = {
    "get": Command(add_get, run_get),
    "ls": Command(add_ls, run_ls),
    "stat": Command(add_stat, run_stat),
    "du": Command(add_du, run_du),
    "rm": Command(add_rm, run_rm),
    "sync": Command(add_sync, run_sync),
    "export": Command(add_export, run_export),
    "import": Command(add_import, run_import),
    "status": Command(add_status, run_status),
    "bench": Command(add_bench, run_bench),
}
