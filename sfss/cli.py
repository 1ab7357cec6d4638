"""The ``sfss`` command."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from sfss import __version__
from sfss.config import DECLARATIONS, Setting, as_toml
from sfss.errors import SettingError
from sfss.node_commands import NodeSettings
from sfss.node_process import DEFAULT_ADDRESS, read_address, run
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
    try:
        _COMMANDS[options.command](options)
        return 0
    except SettingError as error:
        print(f"sfss: {error}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> None:
    Gateway(options.config, _overrides(options)).run()


def _print_settings(options: argparse.Namespace) -> None:
    print(as_toml(read_settings(options.config, _overrides(options))), end="")


def _overrides(options: argparse.Namespace) -> dict[str, Setting]:
    values = vars(options)
    return {key: values[key] for key in _FLAGS.values() if values[key] is not None}


def _node(options: argparse.Namespace) -> None:
    values = vars(options)
    settings = NodeSettings(**{entry.name: values[entry.name] for entry in fields(NodeSettings)})
    for entry in fields(NodeSettings):
        if not entry.metadata["check"].holds(values[entry.name]):
            allowed = f"{entry.metadata['check'].allowed} is expected"
            found = f"is {values[entry.name]!r}"
            raise SettingError("command line", _flag(entry.name), found, allowed)
    run(read_address(options.listen), Path(options.store), settings)


_COMMANDS: Final = {"serve": _serve, "config": _print_settings, "node": _node}


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
    _add_node(commands)
    return parser


def _add_node(commands: Any) -> None:
    parser = commands.add_parser(
        "node",
        allow_abbrev=False,
        help="serve an embedded store in the memcached protocol",
        description="Serve an embedded store in the memcached protocol.",
    )
    parser.add_argument(
        "--listen",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"address to listen on (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--store", required=True, metavar="FOLDER", help="folder of the items, made if missing"
    )
    for entry in fields(NodeSettings):
        help = f"{entry.metadata['help']} (default: {entry.default})"
        if entry.type is bool:
            parser.add_argument(_flag(entry.name), action="store_true", help=help)
        else:
            parser.add_argument(
                _flag(entry.name), type=int, default=entry.default, metavar="NUMBER", help=help
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
