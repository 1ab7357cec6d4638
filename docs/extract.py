"""All files of an embedded store of sfss as a tar stream, without sfss: needs lmdb and xxhash.

    python extract.py STORE > files.tar              the store of an embedded gateway
    python extract.py STORE --escaped > files.tar    of sfss node, or a gateway that joins others

What a file has besides its body is in the tar as PAX headers, as sfss import reads them and tar
--xattrs takes them for extended attributes: its type, the second when it expires, other metadata.
"""

import io
import json
import struct
import sys
import tarfile
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes

import lmdb
from xxhash import xxh3_64_intdigest, xxh3_128_digest, xxh3_128_hexdigest

HEADER = struct.Struct("<2sBBIQQQ16sQ")  # docs/disk-format.md has the table
TOMBSTONE, MANIFEST = 2, 4


def read(value):
    """Return kind, version, expiry, metadata, body; raise ValueError for what is damaged."""
    magic, form, kind, length, version, expiry, size, digest, checksum = HEADER.unpack_from(value)
    metadata, body = value[56 : 56 + length], value[56 + length :]
    # Of a copy of a plain file that another program wrote, the digest is of size and second.
    right = xxh3_128_digest(body), xxh3_128_digest(f"{size}-{version // 1_000_000}".encode())
    if (magic, form) != (b"SF", 1) or xxh3_64_intdigest(value[:48] + metadata) != checksum:
        raise ValueError("damaged head")
    if len(body) != size or (kind != TOMBSTONE and digest not in right):
        raise ValueError("damaged body")
    return kind, version, expiry, json.loads(metadata or "{}"), body


def joined(transaction, prefix, key, metadata, digests):
    """Return the body of a large file, whose manifest is under ``key``."""
    size, digest, _, upload = metadata.pop("large file").split()
    mark = {b"single": b"s", b"every": b"m"}.get(key.split(b"/")[0] if is_body(key) else b"", b"")
    name = prefix + mark + b"c" + xxh3_128_hexdigest(key).encode() + b"." + upload.encode()
    chunks = [transaction.get(b"%b.%04x" % (name, n)) for n in range(len(digests) // 16)]
    body = b"".join(read(chunk or b"")[4] for chunk in chunks)
    if len(body) != int(size) or xxh3_128_hexdigest(body) != digest:
        raise ValueError("another body than the manifest's")
    return body


def keyword(name):
    """Return the keyword of a PAX header that is the extended attribute for ``name``."""
    return f"SCHILY.xattr.user.{'mime_type' if name == 'Content-Type' else f'sfss.{name}'}"


def is_body(key):
    """Tell whether ``key`` is that of the body of an object: KIND/26 characters/32 digits."""
    return [len(part) for part in key.split(b"/")][1:] == [26, 32]


def extract(store, escaped, tar):
    """Write what is in ``store`` to ``tar``; return how many files are damaged."""
    damaged, prefix = 0, b"%00" if escaped else b"\0"
    lock = Path(store, "lock.mdb").exists()  # while a gateway runs, LMDB has to know of readers
    environment = lmdb.open(store, readonly=True, lock=lock, max_dbs=2)
    with environment.begin() as transaction:
        for key, value in transaction.cursor():
            if key.startswith((prefix, b"\xff" * 251)):
                continue  # a chunk; the format, the indexes
            try:
                kind, version, expiry, metadata, body = read(value)
                if kind == TOMBSTONE or 0 < expiry <= time.time_ns() // 1000:
                    continue
                if kind == MANIFEST:
                    body = joined(transaction, prefix, key, metadata, body)
            except (ValueError, struct.error) as error:
                print(f"{key!r}: {error}", file=sys.stderr)
                damaged += 1
                continue
            path = unquote_to_bytes(key) if escaped else key
            member = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
            member.size, member.mtime = len(body), version // 1_000_000
            metadata |= {"expires": str(expiry // 1_000_000)} if expiry else {}
            member.pax_headers = {keyword(name): text for name, text in metadata.items()}
            tar.addfile(member, io.BytesIO(body))
    return damaged


if __name__ == "__main__":
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as files:
        sys.exit(bool(extract(sys.argv[1], "--escaped" in sys.argv[2:], files)))
