"""The ``sfss`` command."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from sfss import __version__
from sfss.access_commands import add_sign, add_token, run_sign, run_token
from sfss.client_commands import CLIENT_COMMANDS
from sfss.completion_command import add_completion, completion_script
from sfss.config import DECLARATIONS, Setting
from sfss.config_text import as_toml
from sfss.errors import SettingError
from sfss.members_command import add_members, begin_cluster, run_members
from sfss.migrate_commands import ACTIONS, Migrate
from sfss.nginx_command import add_nginx, run_nginx
from sfss.node_commands import NodeSettings
from sfss.node_process import (
    DEFAULT_ADDRESS,
    SECRET_VARIABLE,
    read_address,
    read_secret,
    run,
)
from sfss.put_command import add_put, run_put
from sfss.repair import Tool
from sfss.repair_commands import DEFAULT_FOLDER, Options, run_tool
from sfss.service import read_settings
from sfss.stores_command import add_stores, run_stores
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 for a wrong setting or argument; of
    the repair tools as ``run_tool``, of ``sfss put`` as ``run_put``.
    """
    _fill_standard_files()
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
        return _COMMANDS[options.command](options) or 0
    except SettingError as error:
        print(f"sfss: {error}", file=sys.stderr)
        return 2


def _fill_standard_files() -> None:
    """Have standard input, output and error be something where whoever started us has closed them:
    else the next file or socket gets their number, and libuv aborts when that is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _serve(options: argparse.Namespace) -> None:
    if options.found:
        begin_cluster(read_settings(options.config, _overrides(options), options.cluster))
    Gateway(options.config, _overrides(options), options.cluster).run()


def _print_settings(options: argparse.Namespace) -> None:
    settings = read_settings(options.config, _overrides(options), options.cluster)
    print(as_toml(settings), end="")


def _overrides(options: argparse.Namespace) -> dict[str, Setting]:
    values = vars(options)
    return {key: values[key] for key in _FLAGS.values() if values[key] is not None}


def _node(options: argparse.Namespace) -> None:
    values = vars(options)
    for entry in _NODE_FLAGS:
        if not entry.metadata["check"].holds(values[entry.name]):
            allowed = f"{entry.metadata['check'].allowed} is expected"
            found = f"is {values[entry.name]!r}"
            raise SettingError("command line", _flag(entry.name), found, allowed)
    secret = read_secret(options.secret_file, os.environ)
    chosen = {entry.name: values[entry.name] for entry in _NODE_FLAGS}
    settings = NodeSettings(**chosen, secret=secret)
    run(read_address(options.listen), Path(options.store), settings)


def _tool(options: argparse.Namespace) -> int:
    return run_tool(_tool_options(options))


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


def _migrate(options: argparse.Namespace) -> int:
    return Migrate(options.action, _tool_options(options), options.force).run()


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int | None]]] = {
    "serve": _serve,
    "config": _print_settings,
    "node": _node,
    "put": run_put,
    **{name: command.run for name, command in CLIENT_COMMANDS.items()},
    "nginx": run_nginx,
    "stores": run_stores,
    "members": run_members,
    "token": run_token,
    "sign": run_sign,
    **dict.fromkeys(Tool, _tool),
    "migrate": _migrate,
    "completion": lambda options: print(completion_script(options.shell, _parser()), end=""),
}


class _Command(argparse.ArgumentParser):
    """The parser of a command, which says itself what it does not know: with its own usage."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        found, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _add_orphans(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--orphans-after",
        type=float,
        default=1.0,
        dest="orphans_after_days",
        metavar="DAYS",
        help="remove chunks of no file that were written so many days ago, 0.5 too (default: 1)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sfss",
        description="A store for small files, over HTTP. sfss serve starts one, on"
        " http://127.0.0.1:8255 and in var/store unless told; sfss put, get, ls and the like ask"
        " one, that of SFSS_URL if it is set; check, repair and the like look after its stores.",
        epilog="sfss COMMAND --help has the rest of a command. Begin with docs/quickstart.md; conf/"
        " has a page of settings for each way to keep files.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sfss {__version__}")
    commands: Any = parser.add_subparsers(dest="command", metavar="command", parser_class=_Command)
    settings = _settings_parser()
    serve = commands.add_parser(
        "serve",
        parents=[settings],
        allow_abbrev=False,
        help="serve files (sfss --port 80 is sfss serve --port 80)",
        description="Serve files over HTTP, until Ctrl-C or SIGTERM. Options go over the settings"
        " of --config and the environment; docs/settings.rst has all of these.",
    )
    serve.add_argument(
        "--found",
        action="store_true",
        help="begin a cluster of gateways that others join, if this one belongs to none: for the"
        " first start of the first of them, never for one whose disk was lost",
    )
    commands.add_parser(
        "config",
        parents=[settings],
        allow_abbrev=False,
        help="print the settings in force, as TOML",
        description="Print the settings with which sfss serve would start, as TOML; no secrets.",
    )
    _add_node(commands)
    add_put(commands)
    for command in CLIENT_COMMANDS.values():
        command.add(commands)
    add_token(commands)
    add_sign(commands, _cluster_parser())
    add_nginx(commands)
    add_stores(commands, _cluster_parser())
    add_members(commands, _cluster_parser())
    for tool, help in _TOOLS.items():
        added = _add_tool(commands, tool, help)
        if tool is Tool.SCRUB:
            _add_orphans(added)
        if tool is Tool.MIGRATE:
            _add_migration(added)
        else:
            _add_repetition(added)
        if tool is Tool.REPAIR:
            _add_min_copies(added)
    add_completion(commands)
    return parser


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
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help="file of what clients have to know, 16 or more characters; in place of it"
        f" {SECRET_VARIABLE} may be set (default: clients need to know nothing)",
    )
    for entry in _NODE_FLAGS:
        help = f"{entry.metadata['help']} (default: {entry.default})"
        if entry.type is bool:
            parser.add_argument(_flag(entry.name), action="store_true", help=help)
        else:
            parser.add_argument(
                _flag(entry.name), type=int, default=entry.default, metavar="NUMBER", help=help
            )


_TOOLS: Final = {
    Tool.CHECK: "find files whose copies are missing, stale, or not where they belong",
    Tool.REPAIR: "make all copies equal, and give back what stores have lost",
    Tool.SCRUB: "read all files against their digests, mend what is damaged, drop orphans",
    Tool.REBALANCE: "move files to where they belong after stores were added or removed",
    Tool.MIGRATE: "move all files to the stores of [migration] while the service goes on",
}


def _add_tool(commands: Any, tool: Tool, help: str) -> Any:
    parser = commands.add_parser(
        tool.value,
        allow_abbrev=False,
        help=help,
        description=f'{help[0].upper()}{help[1:]}. For cluster.kind "replicated"; to be started'
        " on the gateway's machine, in its folder. May be interrupted, and goes on when it is"
        " started again. Exit status: 0 all is well, 1 something is left, 2 not everything could be"
        " looked at, 130 interrupted.",
    )
    _add_cluster(parser)
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


def _add_repetition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every",
        type=float,
        default=0.0,
        dest="every_days",
        metavar="DAYS",
        help="go on for ever, and begin every so many days, 0.5 too (default: 0, one run)",
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _settings_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    _add_cluster(parser)
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


def _cluster_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    _add_cluster(parser)
    return parser


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML); conf/ has examples")
    parser.add_argument(
        "--cluster", metavar="NAME", help="which of the clusters that the file has by name"
    )


if __name__ == "__main__":
    sys.exit(main())
