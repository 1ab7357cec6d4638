"""Servers of the questions, each pinned to one core: sfss and its rivals, as fast as they go."""

import os
import socket
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from harness import SERVER_CORE, Void

from tests.servers import (
    PYTHON_ENVIRON,
    AnyServer,
    Gateway,
    Server,
    binary,
    free_port,
    gateway,
    memcached,
    node,
)

_PLAIN_HANDLER: Final = Path(__file__).with_name("plain_handler.py")

_NGINX: Final = """\
{user}
daemon off;
worker_processes 1;
# open_file_cache keeps 16,000 files open.
worker_rlimit_nofile 20000;
pid {folder}/nginx-{port}.pid;
error_log {folder}/nginx-{port}-error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    types {{ image/jpeg jpg; }}
    sendfile on;
    # The default of 1000 would make wrk connect again and again.
    keepalive_requests 1000000000;
    client_max_body_size 64m;
    client_body_temp_path {folder}/nginx-{port}-body;
    proxy_temp_path {folder}/nginx-{port}-proxy;
    fastcgi_temp_path {folder}/nginx-{port}-fastcgi;
    uwsgi_temp_path {folder}/nginx-{port}-uwsgi;
    scgi_temp_path {folder}/nginx-{port}-scgi;
    {upstream}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        {location}
    }}
}}
"""

_STATIC: Final = """\
location / {{
            root {root};
            tcp_nopush {nopush};
            open_file_cache max=16000 inactive=600s;
            open_file_cache_valid 600s;
        }}"""

_DAV: Final = """\
location / {{
            root {root};
            dav_methods PUT;
            create_full_put_path on;
        }}"""

_MEMCACHED_UPSTREAM: Final = """\
upstream store {{
        server 127.0.0.1:{port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}"""

_MEMCACHED: Final = """\
location /file {
            set $memcached_key $arg_path;
            memcached_pass store;
        }"""


_NODE_UPSTREAM: Final = """\
upstream node {{
        server 127.0.0.1:{port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}"""

_PROXY: Final = """\
location / {
            proxy_pass http://node;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }"""


def pinned(server: AnyServer) -> AnyServer:
    """Return ``server`` (not started) so that all its processes will run on the servers' core."""
    server.command = ["taskset", "-c", str(SERVER_CORE), *server.command]
    return server


def sfss_embedded(folder: Path, store: Path, workers: int = 1) -> Gateway:
    """Return sfss over the embedded store in the folder ``store``."""
    options = ("--store", str(store), "--workers", str(workers))
    return pinned(gateway(folder, *options))


def sfss_over(folder: Path, memcached_port: int) -> Gateway:
    """Return sfss over one memcached."""
    server = f"127.0.0.1:{memcached_port}"
    settings = f'[cluster]\nkind = "nodes"\n[memcached]\nservers = ["{server}"]\n'
    return pinned(gateway(folder, "--workers", "1", settings=settings))


def sfss_nodes(folder: Path, nodes: Sequence[Server]) -> Gateway:
    """Return sfss over nodes that hold a share each."""
    addresses = ", ".join(f'"{each.address}"' for each in nodes)
    settings = f'[cluster]\nkind = "nodes"\n[memcached]\nservers = [{addresses}]\n'
    return pinned(gateway(folder, "--workers", "1", settings=settings))


def sfss_copies(folder: Path, nodes: Sequence[Server]) -> Gateway:
    """Return sfss over nodes that all hold every file; a majority must have a write."""
    addresses = ", ".join(f'"{each.address}"' for each in nodes)
    settings = f'[cluster]\nkind = "replicated"\n[replicated]\nstores = [{addresses}]\n'
    return pinned(gateway(folder, "--workers", "1", settings=settings))


def sfss_webdav(folder: Path, nodes: Sequence[Server]) -> Gateway:
    """Return sfss with its files by URL path, over WebDAV nodes that all hold every file."""
    addresses = ", ".join(f'"http://{each.address}/"' for each in nodes)
    settings = f"""
[server]
faces = ["paths"]
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = [{addresses}]
"""
    return pinned(gateway(folder, "--workers", "1", settings=settings))


def sfss_near_cache(
    folder: Path, endpoint: str, store: str = "near", capacity_bytes: int = 0
) -> Gateway:
    """Return sfss over a local store before a bucket named "bench"."""
    settings = f"""
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = ["lmdb:{store}", "s3://bench/files"]
write_quorum = 2
owed_folder = "owed-{store}"
[near_cache]
capacity_bytes = {capacity_bytes}
[bucket]
endpoint = "{endpoint}"
allow_http = true
"""
    return pinned(gateway(folder, "--workers", "1", settings=settings))


def sfss_node(folder: Path, secret: str = "") -> Server:
    """Return a node over a store of its own, that wants ``secret`` to be known if it is given."""
    if not secret:
        return pinned(node(folder))
    file = folder / "secret"
    file.write_text(secret)
    return pinned(node(folder, "--secret-file", str(file)))


def pinned_memcached(folder: Path) -> Server:
    """Return a memcached of one thread."""
    return pinned(memcached(folder, "-t", "1", "-m", "256"))


def nginx_static(folder: Path, root: Path, nopush: bool = False) -> Server:
    """Return an nginx that serves the files in ``root``.

    ``nopush``: head and body in one packet, which is faster for small files and slower for large
    ones; nginx leaves it off.
    """
    return _nginx(folder, _STATIC.format(root=root, nopush="on" if nopush else "off"))


def nginx_dav(folder: Path, root: Path) -> Server:
    """Return an nginx that stores what is PUT in ``root``."""
    return _nginx(folder, _DAV.format(root=root))


def nginx_memcached(folder: Path, memcached_port: int) -> Server:
    """Return an nginx that answers ``/file?path=KEY`` from a memcached, over keepalive."""
    return _nginx(folder, _MEMCACHED, _MEMCACHED_UPSTREAM.format(port=memcached_port))


def nginx_proxy(folder: Path, node_port: int) -> Server:
    """Return an nginx that passes all requests on to a node, over keepalive."""
    return _nginx(folder, _PROXY, _NODE_UPSTREAM.format(port=node_port))


def plain_handler(folder: Path, memcached_port: int) -> Server:
    """Return the aiohttp handler of plain_handler.py over a memcached."""
    port = free_port()
    command = [sys.executable, str(_PLAIN_HANDLER), str(port), str(memcached_port)]
    return pinned(Server(command, port, folder, PYTHON_ENVIRON))


def _nginx(folder: Path, location: str, upstream: str = "") -> Server:
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""
    text = _NGINX.format(user=user, folder=folder, port=port, upstream=upstream, location=location)
    config = folder / f"nginx-{port}.conf"
    config.write_text(text)
    log = f"{folder}/nginx-{port}-error.log"
    command = [binary("nginx"), "-p", str(folder), "-e", log, "-c", str(config)]
    return pinned(Server(command, port, folder))


def expect(server: Server, target: str, body: bytes) -> None:
    """Raise ``Void`` unless a GET of ``target`` answers 200 with ``body``."""
    connection = HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        found = answer.read()
    finally:
        connection.close()
    if answer.status != 200 or found != body:
        what = f"{answer.status}, {len(found)} bytes"
        raise Void(f"{server.address}{target} answered {what} that are not the file")


def set_raw(store: Server, key: str, body: bytes) -> None:
    """Store an item without a header, as other clients do; raise ``Void`` if that fails."""
    with socket.create_connection((store.host, store.port), timeout=30) as connection:
        connection.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key.encode(), len(body), body))
        answer = connection.makefile("rb").readline()
    if answer != b"STORED\r\n":
        raise Void(f"memcached answered {answer!r}")
