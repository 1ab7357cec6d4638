"""The ``sfss`` command.

Only the module of the command that is asked for is imported: what serves files takes ten times as
long to import as what ``sfss ls`` needs.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple

from sfss import __version__
from sfss.completion_command import add_completion, completion_script
from sfss.errors import SettingError


class _Command(NamedTuple):
    """A command: what is said of it in one line, and the module that has ``add_NAME``, which makes
    its parser, and ``run_NAME``, which does it.
    """

    help: str
    module: str


_INTERRUPTED: Final = 130

_COMMANDS: Final[Mapping[str, _Command]] = {
    "serve": _Command("serve files (sfss --port 80 is sfss serve --port 80)", "serve_commands"),
    "config": _Command("print the settings in force, as TOML", "serve_commands"),
    "node": _Command("serve an embedded store in the memcached protocol", "serve_commands"),
    "put": _Command("upload files, folders, and what a list names", "put_command"),
    "get": _Command("download files, folders, and what a pattern names", "get_command"),
    "ls": _Command("list files and folders, with times and sizes", "list_commands"),
    "stat": _Command("print what is known of files", "list_commands"),
    "du": _Command("print how much folders hold", "list_commands"),
    "rm": _Command("remove files, and what a pattern names", "list_commands"),
    "sync": _Command("make a folder and a path of the server alike, either way", "sync_command"),
    "export": _Command("write files as a tar archive to standard output", "tar_commands"),
    "import": _Command("upload the files of a tar archive from standard input", "tar_commands"),
    "status": _Command("show how the server and its stores are", "status_command"),
    "bench": _Command("measure a running server with a mix of GET and PUT", "bench_command"),
    "token": _Command("make a token for who may do what (docs/access.md)", "access_commands"),
    "sign": _Command(
        "make a URL with which anybody may get, or put, one file for a while", "access_commands"
    ),
    "nginx": _Command(
        "write an nginx.conf: of a storage node, or of a proxy before gateways", "nginx_command"
    ),
    "stores": _Command(
        "print which stores the settings name, and how files are placed on them", "stores_command"
    ),
    "members": _Command(
        "show who belongs to the cluster of this gateway; begin one; have a member leave, or"
        " forgotten",
        "members_command",
    ),
    "check": _Command(
        "find files whose copies are missing, stale, or not where they belong", "tool_commands"
    ),
    "repair": _Command(
        "make all copies equal, and give back what stores have lost", "tool_commands"
    ),
    "scrub": _Command(
        "read all files against their digests, mend what is damaged, drop orphans", "tool_commands"
    ),
    "rebalance": _Command(
        "move files to where they belong after stores were added or removed", "tool_commands"
    ),
    "migrate": _Command(
        "move all files to the stores of [migration] while the service goes on", "tool_commands"
    ),
    "completion": _Command("print a script for the completion of a shell", "cli"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for a wrong setting or argument, 130
    where it was interrupted; of the repair tools as ``run_tool``, of ``sfss put`` as ``run_put``.
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # what a command needs takes a while to import
        return _INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    _fill_standard_files()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The sfss of 2014 had one command and no name for it: bin/sfss --host H --port P.
    if given and given[0].startswith("-") and given[0] not in ("-h", "--help", "--version"):
        given.insert(0, "serve")
    parser = _parser(given[:1])
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return _function("run", options.command)(options) or 0
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


def run_completion(options: argparse.Namespace) -> None:
    """Print the script."""
    print(completion_script(options.shell, _parser(_COMMANDS)), end="")


def _function(what: str, command: str) -> Callable[..., Any]:
    if command == "completion":
        return add_completion if what == "add" else run_completion
    module = import_module(f"sfss.{_COMMANDS[command].module}")
    found: Callable[..., Any] = getattr(module, f"{what}_{command}")
    return found


class _Parser(argparse.ArgumentParser):
    """The parser of a command, which says itself what it does not know: with its own usage."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        found, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _parser(needed: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser; of the commands that are not ``needed``, it knows no options."""
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
    commands: Any = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    for name, command in _COMMANDS.items():
        sentence = f"{command.help[0].upper()}{command.help[1:]}."
        new = partial(
            commands.add_parser,
            name,
            help=command.help,
            description=sentence,
            allow_abbrev=False,
        )
        if name in needed:
            _function("add", name)(new)
        else:
            new()
    return parser


if __name__ == "__main__":
    sys.exit(main())
