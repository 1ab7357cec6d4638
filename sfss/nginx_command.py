"""``sfss nginx node`` and ``sfss nginx front``: write an nginx.conf."""

import argparse
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sfss.command_parsers import NewParser
from sfss.errors import SettingError
from sfss.nginx_conf import DAV_EXT_MODULE, Front, Node, Process, front_conf, node_conf

_DEFAULTS: Final = {"node": "127.0.0.1:8080", "front": "127.0.0.1:8000"}
_BODY_LIMITS: Final = {"node": 64 * 1024 * 1024, "front": 0}


def run_nginx(options: argparse.Namespace) -> None:
    """Write the nginx.conf that ``options`` ask for, to a file together with the folders that it
    names; raises ``SettingError``.
    """
    text = _WRITERS[options.kind](options)
    _check_user(options)
    if options.output is None:
        sys.stdout.write(text)
        return
    output = Path(options.output)
    for flag, folder in _folders(options).items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(flag, folder, error) from None
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise _unusable("--output", output, error) from None


def _check_user(options: argparse.Namespace) -> None:
    if options.user:
        try:
            pwd.getpwnam(options.user)
        except KeyError:
            allowed = "a user of this machine is expected"
            raise SettingError("command line", "--user", f"is {options.user!r}", allowed) from None
    elif options.kind == "node" and os.geteuid() == 0:
        sentence = (
            "sfss: started by root, workers of nginx run as another user, who has to be able to"
            " write into the folders; --user NAME says who"
        )
        print(sentence, file=sys.stderr)


def _folders(options: argparse.Namespace) -> dict[str, Path]:
    """Return the folders that nginx has to find, by the flag that names them."""
    if options.kind == "front":
        return {"--work": Path(options.work)}
    return {"--root": Path(options.root), "--work": Path(_work(options))}


def _work(options: argparse.Namespace) -> str:
    return options.work or f"{_absolute(options.root)}/.nginx"


def _unusable(flag: str, name: Path, error: OSError) -> SettingError:
    return SettingError("command line", flag, f"{name}: {error.strerror}", "it must be writable")


def _node(options: argparse.Namespace) -> str:
    return node_conf(
        Node(
            process=_process(options, _work(options)),
            root=_absolute(options.root),
            prefix=options.prefix,
            children=options.child,
            writers=options.allow,
            delete_depth=options.delete_depth,
            propfind=options.propfind or "",
            child_timeout_s=options.child_timeout,
        )
    )


def _front(options: argparse.Namespace) -> str:
    return front_conf(
        Front(
            process=_process(options, options.work),
            gateways=options.gateway or ["127.0.0.1:8255"],
            certificate=_absolute(options.certificate),
            key=_absolute(options.key),
        )
    )


_WRITERS: Final[Mapping[str, Callable[[argparse.Namespace], str]]] = {
    "node": _node,
    "front": _front,
}


def _process(options: argparse.Namespace, work: str) -> Process:
    return Process(
        work=_absolute(work),
        listen=options.listen,
        user=options.user,
        workers=options.workers,
        body_limit=options.body_limit,
    )


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if name else ""


def add_nginx(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(description="Write an nginx.conf to standard output.")
    kinds = parser.add_subparsers(dest="kind", metavar="kind", required=True)
    _add_node(kinds)
    _add_front(kinds)


def _add_node(kinds: Any) -> None:
    parser = _kind(kinds, "node", "a WebDAV storage node: files are plain files under a folder")
    parser.add_argument("--root", required=True, metavar="FOLDER", help="folder of the files")
    _add_process(parser, "node", "ROOT/.nginx")
    parser.add_argument(
        "--prefix",
        default="/",
        metavar="/NAME",
        help="what the addresses of all files begin with (default: /)",
    )
    _add_children(parser)
    _add_rules(parser)


def _add_children(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--child",
        action="append",
        default=[],
        metavar="URL",
        help="a node that is asked for what is not here, http://HOST:PORT/FOLDER; may be given"
        " several times, and they are asked in this order",
    )
    parser.add_argument(
        "--child-timeout",
        type=int,
        default=5,
        metavar="SECONDS",
        help="how long a child may be silent until it counts as down (default: 5)",
    )


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NETWORK",
        help="who may write, 10.0.0.0/8 or an address; may be given several times (default: this"
        " machine only)",
    )
    parser.add_argument(
        "--delete-depth",
        type=int,
        default=1,
        metavar="NUMBER",
        help="fewest names in a path that DELETE takes; 2 protects the folders of the first level"
        " and the files beside them (default: 1)",
    )
    parser.add_argument(
        "--propfind",
        nargs="?",
        const=DAV_EXT_MODULE,
        metavar="MODULE",
        help="answer PROPFIND too, with nginx's dav-ext module, Debian's libnginx-mod-http-dav-ext"
        f" unless another file is named ({DAV_EXT_MODULE})",
    )


def _add_front(kinds: Any) -> None:
    parser = _kind(kinds, "front", "a proxy in front of gateways of sfss")
    parser.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a gateway; may be given several times (default: 127.0.0.1:8255)",
    )
    _add_process(parser, "front", "var/nginx")
    parser.add_argument(
        "--certificate",
        default="",
        metavar="FILE",
        help="chain of certificates (PEM); with it TLS and HTTP/2 are spoken",
    )
    parser.add_argument("--key", default="", metavar="FILE", help="its private key (PEM)")


def _kind(kinds: Any, name: str, help: str) -> argparse.ArgumentParser:
    description = f"Write the nginx.conf of {help}."
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, allow_abbrev=False, help=help, description=description
    )
    return parser


def _add_process(parser: argparse.ArgumentParser, kind: str, work: str) -> None:
    parser.add_argument(
        "--listen",
        default=_DEFAULTS[kind],
        metavar="HOST:PORT",
        help=f"address to listen on (default: {_DEFAULTS[kind]})",
    )
    parser.add_argument(
        "--work",
        default=None if kind == "node" else work,
        metavar="FOLDER",
        help=f"folder for the pid, the error log and temporary files (default: {work})",
    )
    parser.add_argument(
        "--user",
        default="",
        metavar="NAME",
        help="whom workers run as, if root starts nginx (default: as nginx was built)",
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="NUMBER", help="(default: 0, one a core)"
    )
    limit = _BODY_LIMITS[kind]
    parser.add_argument(
        "--body-limit",
        type=int,
        default=limit,
        metavar="BYTES",
        help="bytes a body may have, 0 for any number (default: "
        + (f"{limit})" if limit else "0: sfss decides)"),
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write; the folders are made, too (default: standard output)",
    )
