"""The tools that look after stores: ``sfss check``, ``repair``, ``scrub`` and the like."""

import argparse
from pathlib import Path
from typing import Final

from sfss.command_parsers import NewParser, add_cluster
from sfss.migrate_commands import ACTIONS, Migrate
from sfss.repair import Tool
from sfss.repair_commands import DEFAULT_FOLDER, Options, run_tool
from sfss.settings_file import read_settings

_EPILOG: Final = """\
For cluster.kind "replicated"; to be started on the gateway's machine, in its folder. May be
interrupted, and goes on when it is started again. Exit status: 0 all is well, 1 something is left,
2 not everything could be looked at, 130 interrupted.
"""


def add_check(new: NewParser) -> None:
    """Make the parser of the command."""
    _add_repetition(_tool_parser(new))


def add_repair(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = _tool_parser(new)
    _add_repetition(parser)
    _add_min_copies(parser)


def add_scrub(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = _tool_parser(new)
    _add_orphans(parser)
    _add_repetition(parser)


def add_rebalance(new: NewParser) -> None:
    """Make the parser of the command."""
    _add_repetition(_tool_parser(new))


def add_migrate(new: NewParser) -> None:
    """Make the parser of the command."""
    _add_migration(_tool_parser(new))


def _tool_parser(new: NewParser) -> argparse.ArgumentParser:
    parser = new(epilog=_EPILOG)
    add_cluster(parser)
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print the report as one JSON document"
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        metavar="NUMBER",
        help="files to look at a second, at most (default: 0, as many as can be)",
    )
    parser.add_argument(
        "--work",
        default=DEFAULT_FOLDER,
        metavar="FOLDER",
        help="folder for what the run has to remember, made if missing"
        f" (default: {DEFAULT_FOLDER})",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew, after a run that was interrupted"
    )
    return parser


def _add_orphans(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--orphans-after",
        type=float,
        default=1.0,
        dest="orphans_after_days",
        metavar="DAYS",
        help="remove chunks of no file that were written so many days ago, 0.5 too (default: 1)",
    )


def _add_repetition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every",
        type=float,
        default=0.0,
        dest="every_days",
        metavar="DAYS",
        help="go on for ever, and begin every so many days, 0.5 too (default: 0, one run)",
    )


def _add_min_copies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-copies",
        type=int,
        default=0,
        metavar="NUMBER",
        help="count a file that has fewer sound copies then as wrong (default: 0)",
    )


def _add_migration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="start: write to the new stores, and copy files there; status: say where it is;"
        " finish: ask the old stores no more; abort: write to the old stores again, and copy back"
        " what was written since",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="finish though not everything has been copied; start although one was aborted more"
        " than tombstone_days ago, the new stores being empty",
    )


def run_check(options: argparse.Namespace) -> int:
    """Run the tool, and return the exit status of ``run_tool``."""
    return run_tool(_tool_options(options))


run_repair = run_scrub = run_rebalance = run_check


def run_migrate(options: argparse.Namespace) -> int:
    """Do what is asked, and return the exit status."""
    return Migrate(options.action, _tool_options(options), options.force).run()


def _tool_options(options: argparse.Namespace) -> Options:
    settings = read_settings(options.config, None, options.cluster)
    names = (
        "as_json",
        "dry_run",
        "rate",
        "fresh",
        "every_days",
        "min_copies",
        "orphans_after_days",
    )
    chosen = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return Options(Tool(options.command), settings, Path(options.work), **chosen)
