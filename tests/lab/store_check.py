"""An embedded store looked through from outside, page by page and record by record.

What is checked is what every commit must leave whole: each record with its digest, that the indexes
say just what the records are, that every page of the file is in use or free, and no chunk of a file
is missing.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import TypeAlias

import lmdb

from sfss.chunks import chunk_key, digests_in, layout_of
from sfss.errors import Corrupt
from sfss.record import Head, Kind, Record, decode, encode_head, held
from sfss.stores.lmdb_arrivals import ARRIVALS
from sfss.stores.lmdb_expiries import INDEX
from sfss.stores.lmdb_opening import FORMAT, FORMAT_KEY

Records: TypeAlias = dict[bytes, Record]


def complaints(folder: Path) -> list[str]:
    """Return what is wrong with the store in ``folder``, which no process has open."""
    with lmdb.open(str(folder), lib_version=0, max_dbs=2, map_size=1 << 30) as environment:
        found = list(_page_complaints(environment))
        with environment.begin() as transaction:
            records, damaged = _records(transaction)
            found += damaged
            found += _chunk_complaints(records)
            if transaction.get(INDEX) is not None:
                found += _expiry_complaints(environment, transaction, records)
            if transaction.get(ARRIVALS) is not None:
                found += _arrival_complaints(environment, transaction, records)
    return found


def _page_complaints(environment: lmdb.Environment) -> Iterator[str]:
    """A compacting copy counts pages: one that is neither in use nor free is an error."""
    copy = os.memfd_create("copy")
    try:
        environment.copyfd(copy, compact=True)
    except lmdb.Error as error:
        yield f"pages: {error}"
    finally:
        os.close(copy)


def _records(transaction: "lmdb.Transaction[bytes]") -> tuple[Records, list[str]]:
    records: Records = {}
    found = [] if transaction.get(FORMAT_KEY) == FORMAT else ["it does not say its format"]
    for key, value in transaction.cursor():
        if key.startswith(FORMAT_KEY):
            continue
        try:
            records[key] = decode(value, "store", key)
        except Corrupt as error:
            found.append(str(error))
    return records, found


def _chunk_complaints(records: Records) -> Iterator[str]:
    for key, record in records.items():
        layout = layout_of(record.head)
        if record.head.kind is not Kind.MANIFEST or layout is None:
            continue
        for number, digest in enumerate(digests_in(held(record.body))):
            chunk = records.get(chunk_key(b"\0", key, layout.upload, number))
            if chunk is None or chunk.head.digest != digest:
                yield f"{key!r}: chunk {number} of {layout.chunks} is missing"


def _expiry_complaints(
    environment: lmdb.Environment, transaction: "lmdb.Transaction[bytes]", records: Records
) -> Iterator[str]:
    index = environment.open_db(INDEX, transaction)
    noted = {(key[8:], unpack_from(">Q", key)[0]) for key, _ in transaction.cursor(index)}
    expiring = {
        (key, record.head.expiry)
        for key, record in records.items()
        if record.head.expiry and record.head.kind is not Kind.TOMBSTONE
    }
    yield from (f"the index of expiries has {each}" for each in noted - expiring)
    yield from (f"the index of expiries lacks {each}" for each in expiring - noted)


def _arrival_complaints(
    environment: lmdb.Environment, transaction: "lmdb.Transaction[bytes]", records: Records
) -> Iterator[str]:
    index = environment.open_db(ARRIVALS, transaction)
    numbers: dict[int, bytes] = {}
    noted: dict[bytes, tuple[int, int]] = {}
    usage = (0, 0)
    for key, value in transaction.cursor(index):
        if key[:1] == b"a":
            numbers[unpack_from(">Q", key, 1)[0]] = value
        elif key[:1] == b"k":
            noted[key[1:]] = unpack_from(">QQ", value)
        elif key[:1] == b"s":
            usage = unpack_from(">QQ", value)
    sizes = {key: _size(record.head, len(record.body)) for key, record in records.items()}
    if {key: size for key, (_, size) in noted.items()} != sizes:
        yield "the index of arrivals has other records, or sizes, than there are"
    if {number: key for key, (number, _) in noted.items()} != numbers:
        yield "the numbers of the index of arrivals are not those of its keys"
    if usage != (sum(sizes.values()), len(sizes)):
        yield f"usage is noted as {usage}"


def _size(head: Head, body_size: int) -> int:
    return len(encode_head(head)) + body_size
