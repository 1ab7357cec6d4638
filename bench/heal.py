"""How long does it take to make everything whole again, by one command?

    python3 bench/heal.py [--full]

Five nodes that hold three copies of each of 10,000 files of 1 KiB (with ``--full`` of 100,000).
One node loses its disk: ``sfss repair``, and what it wrote beside what was missing. Then one bit is
flipped in each of 1,000 values on another: ``sfss scrub``. After the first, ``sfss check`` has to
find nothing; after the second another ``sfss scrub``, for a check does not read what is listed
alike. Missing and written are bytes of bodies. Nodes on one core, the tool on the other.
"""

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import command
import files
import lmdb
import rivals
from files import KIB, MIB
from harness import LOAD_CORE, Figure, Group, Plan, Void, all_running, say

from sfss.placement import KetamaRing
from sfss.record import new_record
from sfss.stores.embedded import EmbeddedStore
from tests.servers import PYTHON_ENVIRON, SFSS, Server, node_folder

_NODES = 5
_COPIES = 3
_FILES = {False: 10_000, True: 100_000}
_DAMAGED = 1000
_AT_ONCE = 1000
_VERSION = 1_700_000_000_000_000


def question(plan: Plan) -> Iterator[Group]:
    """Yield the one group."""
    count = _FILES[plan.full]
    say(f"  {_NODES} nodes with {_COPIES} copies of {count:,} files")
    with plan.room() as folder:
        nodes = [rivals.sfss_node(folder) for _ in range(_NODES)]
        asyncio.run(_fill(nodes, count))
        asyncio.run(EmbeddedStore(folder / "owed").close())  # as a gateway has made it
        with all_running(*nodes):
            settings = _settings(folder, nodes)
            figures = [*_lose_one(nodes[1], nodes, settings, count)]
            figures += _flip_bits(nodes[2], settings, count)
    yield Group(f"Healing, {_COPIES} copies of {count:,} files on {_NODES} nodes", figures=figures)


def _settings(folder: Path, nodes: Sequence[Server]) -> Path:
    addresses = ", ".join(f'"{each.address}"' for each in nodes)
    file = folder / "sfss.toml"
    file.write_text(
        f'[cluster]\nkind = "replicated"\n[replicated]\nstores = [{addresses}]\n'
        f'copies = {_COPIES}\nowed_folder = "{folder / "owed"}"\n'
    )
    return file


async def _fill(nodes: Sequence[Server], count: int) -> None:
    """Write straight into the folders: that is not what is measured."""
    ring = KetamaRing([each.address for each in nodes], _COPIES)
    stores = {each.address: EmbeddedStore(node_folder(each)) for each in nodes}
    for start in range(0, count, _AT_ONCE):
        paths = [files.path(number) for number in range(start, min(count, start + _AT_ONCE))]
        records = {path: new_record(files.body(path), _VERSION) for path in paths}
        sets = (
            stores[address].set(path.encode(), record)
            for path, record in records.items()
            for address in ring.primaries(path.encode())
        )
        await asyncio.gather(*sets)
    for store in stores.values():
        await store.close()


def _lose_one(
    lost: Server, nodes: Sequence[Server], settings: Path, count: int
) -> Iterator[Figure]:
    ring = KetamaRing([each.address for each in nodes], _COPIES)
    keys = (files.path(number).encode() for number in range(count))
    missing = sum(lost.address in ring.primaries(key) for key in keys)
    lost.kill()
    shutil.rmtree(node_folder(lost))
    lost.start()
    report, elapsed_s = _run("repair", settings)
    _expect(report["mended"] == missing, f"{missing} copies are mended: {report}")
    _expect(_run("check", settings)[0]["status"] == 0, "nothing is left to do")
    yield Figure("repair of a node that lost all: time", "s", [elapsed_s])
    yield Figure("  copies brought to it", "copies", [missing])
    yield Figure("  missing", "MiB", [missing * KIB / MIB])
    yield Figure("  written", "MiB", [report["written_bytes"] / MIB])


def _flip_bits(damaged: Server, settings: Path, count: int) -> Iterator[Figure]:
    damaged.kill()
    flipped = _flip(node_folder(damaged), _DAMAGED)
    damaged.start()
    report, elapsed_s = _run("scrub", settings)
    _expect(report["findings"]["damaged"] == flipped == report["mended"], f"all found: {report}")
    _expect(_run("scrub", settings)[0]["status"] == 0, "nothing is left to do")
    yield Figure(f"scrub that finds and mends {flipped:,} flipped bits: time", "s", [elapsed_s])
    yield Figure("  files looked at in a second, all copies", "files/s", [count / elapsed_s])


def _flip(folder: Path, count: int) -> int:
    """Flip one bit in each of ``count`` values; LMDB's own pages are left alone."""
    draw = random.Random(1)
    with lmdb.open(str(folder), map_size=1 << 34) as environment:
        with environment.begin() as transaction, transaction.cursor() as cursor:
            keys = [key for key in cursor.iternext(values=False) if key.startswith(b"pictures/")]
        with environment.begin(write=True) as transaction:
            for key in draw.sample(keys, count):
                value = bytearray(transaction.get(key) or b"")
                value[draw.randrange(len(value))] ^= 1 << draw.randrange(8)
                transaction.put(key, bytes(value))
    return count


def _run(tool: str, settings: Path) -> tuple[dict[str, Any], float]:
    """Run a tool of the command line; return its report, and how long it took in seconds."""
    work = settings.parent / "tools"
    shutil.rmtree(work, ignore_errors=True)
    pinned = ["taskset", "-c", str(LOAD_CORE)]
    before_s = time.monotonic()
    done = subprocess.run(
        [*pinned, *SFSS, tool, "--config", str(settings), "--json", "--work", str(work)],
        capture_output=True,
        text=True,
        env=PYTHON_ENVIRON,
        check=False,
    )
    if not done.stdout:
        raise Void(f"sfss {tool} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout), time.monotonic() - before_s


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise Void(f"not so: {what}")


if __name__ == "__main__":
    sys.exit(command.main({"heal": question}))
