"""The heads of plain files: which one a file has that another program may have written.

A head that a store carries or has marked is believed only if it is about this very file: its size
is the file's, and its version the file's time of change. Otherwise the file is *raw*: served as it
is. Its version is its time in whole seconds, which every store of plain files can tell, and in the
place of a digest stands a token made of its size and that time: equal on every store, known without
reading the file, and no proof of its bytes.
"""

from typing import Final

from xxhash import xxh3_128_digest

from sfss.record import VERSION_LIMIT, Head, Kind

SECOND_US: Final = 1_000_000

_LAST_SECOND: Final = VERSION_LIMIT // SECOND_US


def raw_file_head(size: int, mtime_s: int) -> Head:
    """Return the head of a file of ``size`` bytes that another program has written: whole seconds,
    which are the same for a file on a folder and on a node.
    """
    mtime_s = min(max(mtime_s, 0), _LAST_SECOND)
    return Head(mtime_s * SECOND_US, size, _token(size, mtime_s))


def is_raw(head: Head) -> bool:
    """Tell whether the digest of ``head`` is the token of a raw file, not to be checked."""
    return head.digest == _token(head.size, head.version // SECOND_US)


def is_about(head: Head, size: int, mtime_us: int, precision_us: int) -> bool:
    """Tell whether ``head`` is that of a file of ``size`` bytes that was last changed at
    ``mtime_us``, where the store keeps times to ``precision_us``.
    """
    is_same_time = head.version // precision_us == mtime_us // precision_us
    return head.kind is Kind.FILE and head.size == size and is_same_time


def _token(size: int, mtime_s: int) -> bytes:
    return xxh3_128_digest(f"{size}-{mtime_s}".encode())
