"""The golden stores: made once by the first release that could, opened by all that follow.

    python -m tests.lab.golden_store tests/golden/stores-1.tar.xz

makes them anew with real processes: a change of the format, which belongs into the changelog. The
tables below say what is in them. What a packed file would lose, the times and attributes of plain
files, stands beside them in ``plain.json``.
"""

import asyncio
import hashlib
import json
import lzma
import os
import socket
import sys
import tarfile
from collections.abc import Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

from sfss.record import Content, record_of
from sfss.stores.evicting_store import EvictingStore
from tests.lab.ledger import body_of
from tests.servers import Gateway, gateway, node, node_folder, running, wait_until

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "stores-1.tar.xz"

TTL_S: Final = 90 * 365 * 86_400
AWAY: Final = "http://127.0.0.1:1/"
"""A node that nobody is, so that it is owed all."""

OBJECT: Final = "01KB0000000000000000000000"
DELETED_OBJECT: Final = "01KB0000000000000000000001"

EMBEDDED: Final = """
[[listen]]
address = "127.0.0.1:{port}"
faces = ["native", "objects", "upload", "fetch", "status"]
[cluster]
chunks_above = 65536
[embedded]
folder = "embedded"
"""
JOINED: Final = """
[[listen]]
address = "127.0.0.1:{port}"
faces = ["native", "status"]
[cluster]
kind = "joined"
chunks_above = 65536
[embedded]
folder = "member"
[replicated]
copies = 3
owed_folder = "owed-member"
[discovery]
advertise = "127.83.70.1:7955"
secret = "the-secret-of-the-golden-store"
"""
COPIES: Final = f"""
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = ["file:plain-one", "file:plain-two", "{AWAY}"]
write_quorum = 1
owed_folder = "owed"
"""

FILES: Final = {
    "text.txt": (b"the body of a text\n", {"Content-Type": "text/plain"}),
    "empty": (b"", {}),
    "folder/a b%ü/картинка.jpg": (body_of("picture", 1, 3000), {"Content-Type": "image/jpeg"}),
    "folder/page": (b"<p>", {"Content-Type": "text/html; charset=utf-8"}),
    "expires/late": (b"until the next century", {"Expires-In": str(TTL_S)}),
    "large/two-chunks.mp3": (b"sfss" * 150_001, {"Content-Type": "audio/mpeg"}),
    "large/expires": (b"late" * 140_000, {"Expires-In": str(TTL_S)}),
}
"""In the stores "embedded", "member" and, but for what is large, in the plain ones: bodies, and the
fields that they came with.
"""

DELETED: Final = "deleted"
BLOB: Final = b"a file by its content"
BLOB_ID: Final = hashlib.sha1(BLOB).hexdigest()
ITEMS: Final = {b"plain-item": (7, b"an item of another client"), b"zero": (0, b"")}
"""In the store "node": flags and bodies."""


def target(path: str) -> str:
    """Return what a request for ``path`` names."""
    return f"/file?path={quote(path)}"


def make(folder: Path) -> None:
    """Make all the stores in ``folder``."""
    with running(served(folder, EMBEDDED)) as server:
        put_files(server, FILES)
        put_objects(server)
    asyncio.run(add_expired(folder / "embedded"))
    first = served(folder, JOINED)
    first.command.append("--found")
    with running(first) as server:
        wait_until(lambda: server.get("nothing").status == 404, "it has begun a cluster")
        put_files(server, FILES)
    with running(gateway(folder, settings=COPIES)) as server:
        put_files(server, {path: each for path, each in FILES.items() if "large" not in path})
    (folder / "plain-one" / "of-others.txt").write_bytes(b"another program's\n")
    items = node(folder)
    with running(items):
        put_items(items.port)
    node_folder(items).rename(folder / "node")


def served(folder: Path, settings: str) -> Gateway:
    """Return a gateway (not started) with ``settings``."""
    server = gateway(folder)
    Path(server.command[server.command.index("--config") + 1]).write_text(
        settings.format(port=server.port)
    )
    at = server.command.index("--port")
    del server.command[at : at + 2]
    return server


def put_files(server: Gateway, files: Mapping[str, tuple[bytes, Mapping[str, str]]]) -> None:
    """Put ``files``, and one more that is deleted."""
    for path, (body, fields) in files.items():
        ttl = f"&ttl={fields['Expires-In']}" if "Expires-In" in fields else ""
        answer = server.request("PUT", target(path) + ttl, body, fields)
        assert answer.status == 200, answer
    assert server.put(DELETED, b"gone").status == 200
    assert server.request("DELETE", target(DELETED)).status == 204


def put_objects(server: Gateway) -> None:
    """Put a blob, and two objects, one of which is deleted."""
    answer = server.request("POST", "/upload", BLOB, {"X-Owner": "somebody"})
    assert answer.status == 200, answer
    for name in (OBJECT, DELETED_OBJECT):
        fields = {"X-Meta-ID": name, "X-Meta-Name": "name.txt", "X-Meta-ConsistencyLevel": "0"}
        answer = server.request("POST", "/api/v1/put", name.encode(), fields)
        assert answer.status == 200, answer
    assert server.request("POST", f"/api/v1/delete/{DELETED_OBJECT}").status == 200


async def add_expired(folder: Path) -> None:
    """Put what has expired, and nobody has swept; note in which order all came."""
    store = EvictingStore(folder)
    store.limit(1 << 30)
    while await store.prepare() and await store.index():
        pass
    record = record_of(Content(b"over", ttl_s=1), 1_700_000_000_000_000)
    await store.set(b"expires/over", record)
    await store.set_copy(b"expires/over-with-copies", record)
    await store.close()


def put_items(port: int) -> None:
    """Put ``ITEMS`` as another client."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
        for key, (flags, body) in ITEMS.items():
            client.sendall(b"set %b %d 0 %d\r\n%b\r\n" % (key, flags, len(body), body))
            assert client.recv(100) == b"STORED\r\n"


LEFT_OUT: Final = ("lock.mdb", "reserve")
"""Made anew at each opening: locks of processes, and space for deletes."""


def pack(folder: Path, archive: Path) -> None:
    """Pack all stores."""
    names = ["embedded", "member", "node", "owed", "owed-member", "plain-one", "plain-two"]
    files = [
        file
        for name in names
        for file in sorted((folder / name).rglob("*"))
        if file.is_file() and file.name not in LEFT_OUT
    ]
    plain = {
        str(file.relative_to(folder)): [file.stat().st_mtime_ns, _attribute(file)]
        for file in files
        if file.relative_to(folder).parts[0].startswith("plain") and ".sfss" not in file.parts
    }
    with (
        lzma.open(archive, "wb", preset=9) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, "plain.json", json.dumps(plain, indent=1).encode())
        for file in files:
            _add(tar, str(file.relative_to(folder)), file.read_bytes())


def _add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(body)
    tar.addfile(member, BytesIO(body))


def _attribute(file: Path) -> str:
    try:
        return os.getxattr(file, "user.sfss").hex()
    except OSError:
        return ""


def unpack(folder: Path, archive: Path = GOLDEN) -> None:
    """Unpack all stores into ``folder``. Raises OSError where files cannot carry attributes."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    plain = json.loads((folder / "plain.json").read_text())
    for name, (mtime_ns, attribute) in plain.items():
        if attribute:
            os.setxattr(folder / name, "user.sfss", bytes.fromhex(attribute))
        os.utime(folder / name, ns=(mtime_ns, mtime_ns))


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        make(Path(scratch))
        pack(Path(scratch), Path(sys.argv[1]))
