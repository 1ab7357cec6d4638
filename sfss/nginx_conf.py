"""The text of an nginx.conf: of a WebDAV storage node, and of a proxy in front of gateways.

No word from outside gets in unless it is known to stay one word. Names of folders are quoted, the
rest is of a form that needs no quotes, and whatever has neither is refused (``SettingError``).
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from sfss import __version__
from sfss.errors import SettingError
from sfss.web import answers
from sfss.web.mediatypes import guess

DAV_EXT_MODULE: Final = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"
"""Where Debian's libnginx-mod-http-dav-ext puts it."""

CHILDREN_LIMIT: Final = 8
"""nginx goes from location to location ten times for a request, and then answers 500."""

_MIB: Final = 1024 * 1024
_LOOPBACK: Final = ("127.0.0.1", "::1")
_HOST: Final = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
_ADDRESS: Final = re.compile(rf"({_HOST}):([0-9]{{1,5}})")
_SEGMENTS: Final = r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+"
_CHILD: Final = re.compile(rf"http://({_HOST}(?::[0-9]{{1,5}})?)({_SEGMENTS})?/?")
_PREFIX: Final = re.compile(rf"/|({_SEGMENTS})/?")
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SUFFIXES: Final = (
    "7z aac avif bmp css csv doc docx epub flac gif gz htm html ico jpeg jpg js json jsonl log m4a"
    " md mjs mkv mp3 mp4 mpeg odt ogg ogv otf pdf png pptx rtf svg tar tiff toml ttf txt wav webm"
    " webp woff woff2 xlsx xml yaml yml zip zst"
)


@dataclass(frozen=True, slots=True)
class Process:
    """What every nginx needs. ``work``: an absolute folder for its pid, log and temporary files;
    ``listen``: "host:port"; ``user``: whom its workers run as when it is started by root, "" for
    nginx's own choice; ``workers``: 0 for one a core; ``body_limit``: bytes of a body, 0 for any.
    """

    work: str
    listen: str
    user: str = ""
    workers: int = 0
    body_limit: int = 64 * _MIB


@dataclass(frozen=True, slots=True)
class Node:
    """A storage node over the absolute folder ``root``, shown under the address ``prefix``.

    What it lacks is asked of ``children`` (http:// URLs), one after the other. Networks in
    ``writers`` may write, and only this machine if there is none. ``delete_depth``: names that a
    path below the prefix needs to be deleted; ``propfind``: the dav-ext module to load, "" for
    none; ``child_timeout_s``: seconds that a child may be silent until it counts as down.
    """

    process: Process
    root: str
    prefix: str = "/"
    children: Sequence[str] = ()
    writers: Sequence[str] = ()
    delete_depth: int = 1
    propfind: str = ""
    child_timeout_s: int = 5


@dataclass(frozen=True, slots=True)
class Front:
    """A proxy before ``gateways`` ("host:port"); with ``certificate`` and ``key`` (absolute names
    of files) it speaks TLS and HTTP/2.
    """

    process: Process
    gateways: Sequence[str]
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Child:
    address: str
    folder: str


def node_conf(node: Node) -> str:
    """Return the nginx.conf of a storage node; raises ``SettingError``."""
    prefix = _read_prefix(node.prefix)
    children = [_read_child(text) for text in node.children]
    if len(children) > CHILDREN_LIMIT:
        raise _wrong("--child", f"{len(children)} are given", f"at most {CHILDREN_LIMIT} work")
    for flag, number in (
        ("--delete-depth", node.delete_depth),
        ("--child-timeout", node.child_timeout_s),
    ):
        if number < 1:
            raise _wrong(flag, f"is {number}", "a number from 1 is expected")
    root = check_folder("--root", node.root)
    load = [f"load_module {_literal('--propfind', node.propfind)};"] if node.propfind else []
    uploads = f"client_body_temp_path {_literal('--root', f'{root}/.uploads')};"
    http = [
        "# Where the files are, so that an upload is renamed into its place.",
        uploads,
        *_types(),
        *_protection(),
        "sendfile on;",
        "tcp_nopush on;",
        "# Gateways ask for files that are not there yet.",
        "log_not_found off;",
        *_geo_dollar(root),
        *_upstreams(children),
        *_block(
            "server",
            [
                f"listen {_address('--listen', node.process.listen)};",
                *_children_rules(node.child_timeout_s if children else 0),
                *_hidden(),
                *_files(node, root, prefix, bool(children)),
                *(_block("location /", ["return 404;"]) if prefix else []),
                *_child_locations(children, prefix),
            ],
        ),
    ]
    folders = [root, check_folder("--work", node.process.work)]
    return _file("A WebDAV storage node", folders, load, node.process, http)


def front_conf(front: Front) -> str:
    """Return the nginx.conf of a proxy before gateways; raises ``SettingError``."""
    if bool(front.certificate) != bool(front.key):
        raise _wrong("--certificate", "goes with --key", "give both, or none of them")
    if not front.gateways:
        raise _wrong("--gateway", "is missing", '"host:port" is expected')
    work = check_folder("--work", front.process.work)
    http = [
        f"client_body_temp_path {_literal('--work', f'{work}/uploads')};",
        *_block("upstream sfss", _upstream_of_gateways(front.gateways)),
        *_block(
            "server",
            [
                *_listen_front(front),
                *_PROXY_RULES,
                *_block("location /", _READS),
                *_block("location @change", _CHANGES),
            ],
        ),
    ]
    return _file("A proxy in front of sfss", [work], [], front.process, http)


def check_folder(flag: str, folder: str) -> str:
    """Return the absolute ``folder`` without a slash at its end; raises ``SettingError``."""
    if not folder.startswith("/") or not folder.strip("/"):
        raise _wrong(flag, f"is {folder!r}", "an absolute folder, not /, is expected")
    if _CONTROL.search(folder):
        raise _wrong(flag, f"is {folder!r}", "UTF-8 without control characters is expected")
    return folder.rstrip("/")


def _file(
    what: str, folders: Sequence[str], load: list[str], process: Process, http: list[str]
) -> str:
    work = check_folder("--work", process.work)
    if process.user and not _USER.fullmatch(process.user):
        raise _wrong("--user", f"is {process.user!r}", "the name of a user is expected")
    for flag, number in (("--workers", process.workers), ("--body-limit", process.body_limit)):
        if number < 0:
            raise _wrong(flag, f"is {number}", "a number from 0 is expected")
    user = [f"user {process.user};"] if process.user else []
    lines = [
        f"# {what}. sfss {__version__} has written this; these folders are to be there, and are"
        " made with --output:",
        f"#   mkdir -p {shlex.join(folders)}",
        *load,
        *user,
        f"worker_processes {process.workers or 'auto'};",
        "worker_rlimit_nofile 16384;",
        f"pid {_literal('--work', f'{work}/nginx.pid')};",
        f"error_log {_literal('--work', f'{work}/error.log')} warn;",
        *_block("events", ["worker_connections 4096;"]),
        *_block("http", [*_common(work, process.body_limit), *http]),
    ]
    return "\n".join(lines) + "\n"


def _common(work: str, body_limit: int) -> list[str]:
    temporary = [
        f"{module}_temp_path {_literal('--work', f'{work}/{module}')};"
        for module in ("proxy", "fastcgi", "uwsgi", "scgi")
    ]
    return [
        "access_log off;",
        "server_tokens off;",
        "default_type application/octet-stream;",
        f"client_max_body_size {body_limit};",
        "# As long as sfss waits by default: server.body_timeout_s, server.keepalive_timeout_s.",
        "client_header_timeout 30s;",
        "client_body_timeout 30s;",
        "send_timeout 30s;",
        "keepalive_timeout 75s;",
        "keepalive_requests 100000;",
        *temporary,
    ]


def _types() -> list[str]:
    rows = [f"{guess(f'file.{suffix}')} {suffix};" for suffix in _SUFFIXES.split()]
    return _block("types", rows)


def _protection() -> list[str]:
    """Return what makes ``_PROTECTION`` of the type of a file: the same fields as sfss sends."""
    policies = [
        f'default "{answers.SANDBOX}";',
        f'~^(audio|video)/ "{answers.MEDIA_POLICY}";',
        f'{answers.PDF} "{answers.PDF_POLICY}";',
    ]
    types = {guess(f"file.{suffix}") for suffix in _SUFFIXES.split()}
    active = [f"{each} attachment;" for each in sorted(types) if answers.is_active(each)]
    return [
        *_block("map $sent_http_content_type $sfss_policy", policies),
        *_block("map $sent_http_content_type $sfss_disposition", ['default "";', *active]),
    ]


_PROTECTION: Final = (
    "# What users upload cannot run in the origin of this server: see docs/answers.md.",
    "add_header X-Content-Type-Options nosniff;",
    "add_header Content-Security-Policy $sfss_policy;",
    "add_header Content-Disposition $sfss_disposition;",
)


def _geo_dollar(root: str) -> list[str]:
    """Return what makes ``$sfss_dollar`` a dollar sign: nginx has no other way to write one."""
    return _block("geo $sfss_dollar", ['default "$";']) if "$" in root else []


def _hidden() -> list[str]:
    return _block(r'location ~ "/\.|[\x01-\x1f\x7f]"', ["return 404;"])


def _files(node: Node, root: str, prefix: str, has_children: bool) -> list[str]:
    place = f"alias {_expanded(f'{root}/')};" if prefix else f"root {_expanded(root)};"
    depth = node.delete_depth + prefix.count("/")
    rules = [
        place,
        *_block("limit_except GET PROPFIND OPTIONS", _access(node.writers)),
        "dav_methods PUT DELETE MKCOL;",
        "create_full_put_path on;",
        f"min_delete_depth {depth};",
        "dav_access user:rw group:r all:r;",
        *(["dav_ext_methods PROPFIND OPTIONS;"] if node.propfind else []),
        f"disable_symlinks on {_expanded(f'from={root}/')};",
        "autoindex on;",
        "autoindex_format json;",
        "# A name that nobody may put: a folder is listed whatever is in it.",
        "index .no-index;",
        "absolute_redirect off;",
        *_PROTECTION,
        *(["error_page 404 = @child1;"] if has_children else []),
    ]
    return _block(f"location {prefix}/", rules)


def _access(writers: Sequence[str]) -> list[str]:
    return [*(f"allow {_network(text)};" for text in writers or _LOOPBACK), "deny all;"]


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        allowed = "an address or a network such as 10.0.0.0/8 is expected"
        raise _wrong("--allow", f"is {text!r}", allowed) from None


def _upstreams(children: Iterable[_Child]) -> list[str]:
    return [
        line
        for number, child in enumerate(children, 1)
        for line in _block(
            f"upstream sfss_child{number}", [f"server {child.address};", "keepalive 32;"]
        )
    ]


def _children_rules(timeout_s: int) -> list[str]:
    if not timeout_s:
        return []
    return [
        "proxy_http_version 1.1;",
        f"proxy_connect_timeout {timeout_s}s;",
        f"proxy_send_timeout {timeout_s}s;",
        f"proxy_read_timeout {timeout_s}s;",
        "proxy_max_temp_file_size 0;",
        "proxy_intercept_errors on;",
        "recursive_error_pages on;",
    ]


def _child_locations(children: Sequence[_Child], prefix: str) -> list[str]:
    """Return the ways from child to child.

    There are two of them. On the second, some child before has failed, and what the rest does not
    have is 504: the one that failed may have it.
    """
    if not children:
        return []
    lines = _block("location @unsure", ["return 504;"])
    for number, child in enumerate(children, 1):
        following = f"@child{number + 1}" if number < len(children) else ""
        unsure = f"{following}_unsure" if following else "@unsure"
        sure = [f"error_page 404 = {following};"] if following else []
        ask = _ask(number, child, prefix)
        failed = f"error_page 500 502 503 504 = {unsure};"
        lines += _block(f"location @child{number}", [*sure, failed, *ask])
        if number > 1:
            missed = f"error_page 404 500 502 503 504 = {unsure};"
            lines += _block(f"location @child{number}_unsure", [missed, *ask])
    return lines


def _ask(number: int, child: _Child, prefix: str) -> list[str]:
    moved = [
        f'rewrite "(?s)^{re.escape(prefix)}/(.*)$" "{child.folder}/$1" break;',
        f"proxy_redirect {child.folder}/ {prefix}/;",
    ]
    return [
        "# What is to be deleted here is not deleted there.",
        'if ($request_method !~ "^(GET|HEAD)$") { return 404; }',
        'proxy_set_header Connection "";',
        f"proxy_set_header Host {child.address};",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        *(moved if child.folder != prefix else []),
        f"proxy_pass http://sfss_child{number};",
    ]


_PROXY_RULES: Final = (
    "proxy_http_version 1.1;",
    'proxy_set_header Connection "";',
    "proxy_set_header Host $http_host;",
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "proxy_set_header X-Forwarded-Proto $scheme;",
    "# A body goes on as it comes: what sfss refuses, it refuses before all is here.",
    "proxy_request_buffering off;",
    "proxy_max_temp_file_size 0;",
    "proxy_connect_timeout 2s;",
    "proxy_send_timeout 30s;",
    "# Longer than sfss takes to say 504: embedded.timeout_s, memcached.timeout_s times tries.",
    "proxy_read_timeout 40s;",
)
_READS: Final = (
    "error_page 418 = @change;",
    'if ($request_method !~ "^(GET|HEAD)$") { return 418; }',
    "proxy_next_upstream error timeout;",
    "proxy_next_upstream_tries 3;",
    "proxy_pass http://sfss;",
)
_CHANGES: Final = (
    "# Never repeated: whether the first gateway has done it, nobody knows.",
    "proxy_next_upstream off;",
    "proxy_pass http://sfss;",
)


def _upstream_of_gateways(gateways: Sequence[str]) -> list[str]:
    return [
        *(f"server {_address('--gateway', gateway)};" for gateway in gateways),
        "keepalive 64;",
        "# Shorter than server.keepalive_timeout_s, so that nginx is the one that closes.",
        "keepalive_timeout 60s;",
        "keepalive_requests 100000;",
    ]


def _listen_front(front: Front) -> list[str]:
    address = _address("--listen", front.process.listen)
    if not front.certificate:
        return [f"listen {address};"]
    return [
        f"listen {address} ssl http2;",
        f"ssl_certificate {_expanded_file('--certificate', front.certificate)};",
        f"ssl_certificate_key {_expanded_file('--key', front.key)};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_session_cache shared:sfss:8m;",
    ]


def _expanded_file(flag: str, name: str) -> str:
    if "$" in name:
        raise _wrong(flag, f"is {name!r}", "nginx takes no $ in it")
    return _literal(flag, check_folder(flag, name))


def _read_prefix(text: str) -> str:
    """Return the prefix without a slash at its end; "" for the root."""
    match = _PREFIX.fullmatch(text)
    if match is None:
        allowed = "/ or /name, of letters, digits and ._~-, is expected"
        raise _wrong("--prefix", f"is {text!r}", allowed)
    return match[1] or ""


def _read_child(text: str) -> _Child:
    match = _CHILD.fullmatch(text)
    if match is None or (":" in match[1].rpartition("]")[2] and not _is_address(match[1])):
        allowed = "http://HOST, http://HOST:PORT or http://HOST:PORT/FOLDER is expected"
        raise _wrong("--child", f"is {text!r}", allowed)
    return _Child(match[1], match[2] or "")


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65_536


def _address(flag: str, text: str) -> str:
    if not _is_address(text):
        raise _wrong(flag, f"is {text!r}", '"host:port" is expected')
    return text


def _literal(flag: str, text: str) -> str:
    """Return ``text`` in quotes, for a directive that knows no variables."""
    if _CONTROL.search(text):
        raise _wrong(flag, f"is {text!r}", "UTF-8 without control characters is expected")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _expanded(text: str) -> str:
    """Return ``text`` in quotes, for a directive that takes ``$`` for a variable."""
    return _literal("--root", text).replace("$", "${sfss_dollar}")


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in lines), "}"]


def _wrong(flag: str, found: str, allowed: str) -> SettingError:
    return SettingError("command line", flag, found, allowed)
