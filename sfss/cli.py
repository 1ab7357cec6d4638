"""The ``sfss`` command."""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from sfss import __version__
from sfss.config import DECLARATIONS, Setting, as_toml
from sfss.errors import SettingError
from sfss.service import read_settings
from sfss.worker import Gateway

_FLAGS: Final = {
    "--host": "server.host",
    "--port": "server.port",
    "--workers": "server.workers",
    "--store": "embedded.folder",
}
"""Settings that have a flag of their own; all others are set in the file or the environment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 for a wrong setting or argument."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The sfss of 2014 had one command and no name for it: bin/sfss --host H --port P.
    if given and given[0].startswith("-") and given[0] not in ("-h", "--help", "--version"):
        given.insert(0, "serve")
    parser = _parser()
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help()
        return 0
    overrides: dict[str, Setting] = {
        key: value for key in _FLAGS.values() if (value := getattr(options, key)) is not None
    }
    try:
        if options.command == "config":
            print(as_toml(read_settings(options.config, overrides)), end="")
            return 0
        Gateway(options.config, overrides).run()
        return 0
    except SettingError as error:
        print(f"sfss: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sfss", description="A small-file store over HTTP.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sfss {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    settings = _settings_parser()
    commands.add_parser(
        "serve",
        parents=[settings],
        allow_abbrev=False,
        help="serve files; may be left out before a flag",
    )
    commands.add_parser(
        "config",
        parents=[settings],
        allow_abbrev=False,
        help="print the settings in force, as TOML",
    )
    return parser


def _settings_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML); conf/ has examples")
    for flag, key in _FLAGS.items():
        declaration = DECLARATIONS[key]
        parser.add_argument(
            flag,
            dest=key,
            type=declaration.type,
            metavar=declaration.name.upper(),
            help=f"{declaration.help} (default: {declaration.default})",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
