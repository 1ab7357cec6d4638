"""``sfss serve`` is a gateway, ``sfss config`` prints its settings, ``sfss node`` is a node."""

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Final

from sfss.command_parsers import NewParser, add_cluster, flag
from sfss.config import DECLARATIONS, Setting
from sfss.config_text import as_toml
from sfss.errors import SettingError
from sfss.members_command import begin_cluster
from sfss.node_commands import NodeSettings
from sfss.node_process import (
    DEFAULT_ADDRESS,
    SECRET_VARIABLE,
    read_address,
    read_secret,
    run,
)
from sfss.settings_file import read_settings
from sfss.worker import Gateway

_FLAGS: Final = {
    "--host": "server.host",
    "--port": "server.port",
    "--workers": "server.workers",
    "--store": "embedded.folder",
}
"""Settings that have a flag of their own; all others are set in the file or the environment."""

_NODE_FLAGS: Final = [entry for entry in fields(NodeSettings) if entry.name != "secret"]
"""Settings of a node that have a flag: what stands in a command line can be read by everybody."""


def add_serve(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Serve files over HTTP, until Ctrl-C or SIGTERM. Options go over the settings"
        " of --config and the environment; docs/settings.rst has all of these.",
    )
    _add_settings(parser)
    parser.add_argument(
        "--found",
        action="store_true",
        help="begin a cluster of gateways that others join, if this one belongs to none: for the"
        " first start of the first of them, never for one whose disk was lost",
    )


def add_config(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Print the settings with which sfss serve would start, as TOML; no secrets.",
    )
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add_cluster(parser)
    for name, key in _FLAGS.items():
        declaration = DECLARATIONS[key]
        parser.add_argument(
            name,
            dest=key,
            type=declaration.type,
            metavar=declaration.name.upper(),
            help=f"{declaration.help} (default: {declaration.default})",
        )


def add_node(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new()
    parser.add_argument(
        "--listen",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"address to listen on (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--store", required=True, metavar="FOLDER", help="folder of the items, made if missing"
    )
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help="file of what clients have to know, 16 or more characters; in place of it"
        f" {SECRET_VARIABLE} may be set (default: clients need to know nothing)",
    )
    for entry in _NODE_FLAGS:
        help = f"{entry.metadata['help']} (default: {entry.default})"
        if entry.type is bool:
            parser.add_argument(flag(entry.name), action="store_true", help=help)
        else:
            parser.add_argument(
                flag(entry.name), type=int, default=entry.default, metavar="NUMBER", help=help
            )


def run_serve(options: argparse.Namespace) -> None:
    """Serve until a signal comes. Raises ``SettingError``."""
    if options.found:
        begin_cluster(read_settings(options.config, _overrides(options), options.cluster))
    Gateway(options.config, _overrides(options), options.cluster).run()


def run_config(options: argparse.Namespace) -> None:
    """Print the settings. Raises ``SettingError``."""
    settings = read_settings(options.config, _overrides(options), options.cluster)
    print(as_toml(settings), end="")


def _overrides(options: argparse.Namespace) -> dict[str, Setting]:
    values = vars(options)
    return {key: values[key] for key in _FLAGS.values() if values[key] is not None}


def run_node(options: argparse.Namespace) -> None:
    """Serve a store until a signal comes. Raises ``SettingError``."""
    values = vars(options)
    for entry in _NODE_FLAGS:
        if not entry.metadata["check"].holds(values[entry.name]):
            allowed = f"{entry.metadata['check'].allowed} is expected"
            found = f"is {values[entry.name]!r}"
            raise SettingError("command line", flag(entry.name), found, allowed)
    secret = read_secret(options.secret_file, os.environ)
    chosen = {entry.name: values[entry.name] for entry in _NODE_FLAGS}
    settings = NodeSettings(**chosen, secret=secret)
    run(read_address(options.listen), Path(options.store), settings)
