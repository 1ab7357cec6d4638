"""The files that are served: what has which path, and stores that are full of them.

``python3 bench/files.py FOLDER COUNT ORDER`` fills an embedded store of files of 1 KiB through the
store's own API, ``shuffled`` or ``sorted`` by path.
"""

import asyncio
import random
import subprocess
import sys
from collections.abc import Sequence
from hashlib import shake_128
from pathlib import Path
from typing import Final

from checkout import CHECKOUT

from sfss.record import new_record
from sfss.stores.embedded import EmbeddedStore

KIB: Final = 1024
MIB: Final = 1024 * KIB
_AT_ONCE: Final = 1000
_VERSION: Final = 1_700_000_000_000_000


def path(number: int) -> str:
    """Return the path of one of many files; ``random_path.lua`` makes the same."""
    return f"pictures/{number:07d}.jpg"


def body(of_path: str, size: int = KIB) -> bytes:
    """Return the bytes of the file at ``of_path``: nothing can compress or guess them."""
    return shake_128(of_path.encode()).digest(size)


def fill(folder: Path, count: int, order: str = "shuffled") -> None:
    """Make an embedded store of ``count`` files in ``folder``, in a process of its own."""
    print(f"  filling a store with {count:,} files, {order}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, str(folder), str(count), order]
    subprocess.run(command, check=True, cwd=CHECKOUT)


async def _fill(folder: Path, numbers: Sequence[int]) -> None:
    store = EmbeddedStore(folder)
    for start in range(0, len(numbers), _AT_ONCE):
        batch = map(path, numbers[start : start + _AT_ONCE])
        await asyncio.gather(
            *(store.set(name.encode(), new_record(body(name), _VERSION)) for name in batch)
        )
    await store.close()


def _main(folder: str, count: str, order: str) -> None:
    numbers = list(range(int(count)))
    if order == "shuffled":
        random.Random(1).shuffle(numbers)
    asyncio.run(_fill(Path(folder), numbers))


if __name__ == "__main__":
    _main(*sys.argv[1:])
