"""What the values of settings must satisfy, and the words that say so. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from posixpath import normpath
from typing import Any, Final

from sfss.prefixes import ESCAPES_AND_SPACES, read_prefix


@dataclass(frozen=True, slots=True)
class Check:
    """What a value must satisfy, and the words that say so."""

    allowed: str
    holds: Callable[[Any], bool]

    def found(self, value: object) -> str:
        """Return words that say what ``value`` is, or what in it is wrong where it is a list."""
        if isinstance(value, (list, tuple)) and len(value) > 1:
            for part in value:
                if not isinstance(part, str) or not self.holds((part,)):
                    return f"has {in_toml(part)}"
            for part in value:
                if value.count(part) > 1:
                    return f"has {in_toml(part)} twice"
        return f"is {in_toml(value)}"


@dataclass(frozen=True, slots=True)
class Hidden(Check):
    """The same of a value that is never shown, not even when it is wrong."""

    def found(self, value: object) -> str:
        """Return words that do not say what ``value`` is."""
        return "is something else (it is not shown)"


def in_toml(value: object) -> str:
    """Return a value as it is written in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {in_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value) if isinstance(value, (int, float)) else str(value)


def at_least(low: float) -> Check:
    """A number not below ``low``."""
    return Check(f"a number from {low:g}", lambda value: low <= value < inf)


def in_range(low: float, high: float) -> Check:
    """A number from ``low`` to ``high``, both included, fractions too."""
    return Check(f"a number from {low:g} to {high:g}", lambda value: low <= value <= high)


def between(low: int, high: int) -> Check:
    """A number from ``low`` to ``high``, both included."""
    return Check(f"a number from {low} to {high}", lambda value: low <= value <= high)


def one_of(*words: str) -> Check:
    """One of a few words."""
    return Check("one of " + ", ".join(f'"{word}"' for word in words), lambda value: value in words)


def distinct_of(*words: str) -> Check:
    """A list of some of a few words, none of them twice."""

    def holds(values: Sequence[object]) -> bool:
        known = all(isinstance(value, str) and value in words for value in values)
        return known and 0 < len(values) == len(set(values))

    named = ", ".join(f'"{word}"' for word in words)
    return Check(f"a list of different ones of {named}", holds)


_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})")


def read_address(text: str) -> tuple[str, int] | None:
    """Return host and port of an address, "host:port" or "[IPv6]:port"; None if it is none."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65_536:
        return None
    return match[1] or match[2], int(match[3])


def _are_addresses(values: Sequence[str]) -> bool:
    """Tell whether all are addresses, and no two of them mean the same."""
    found = [address for address in map(read_address, values) if address is not None]
    return len({(host.lower(), port) for host, port in found}) == len(values)


ADDRESSES: Final = Check('a list of different "host:port"', _are_addresses)
ADDRESS: Final = Check(
    '"host:port", or an empty text', lambda value: not value or _are_addresses((value,))
)

LMDB: Final = "lmdb:"
BUCKET: Final = "s3://"
BLOBS: Final = "blobs:"
FILES: Final = ("file:", "http://", LMDB, BUCKET, BLOBS)
"""How the addresses of stores begin whose keys are paths, as those of plain files are."""

_BUCKET: Final = re.compile(
    r"s3://(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"
    r"(?P<prefix>(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,5})/?"
)

_URL: Final = re.compile(
    r"http://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-~]*)?"
)


_ENDPOINT: Final = re.compile(
    r"https?://(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(/[!-~]*)?"
)
ENDPOINT: Final = Check(
    '"http://HOST:PORT", the same with https, or an empty text',
    lambda value: not value or _ENDPOINT.fullmatch(value) is not None,
)


def keeps_files(address: str) -> bool:
    """Tell whether the store at ``address`` keeps files under their paths."""
    return address.startswith(FILES)


def folder_of(address: str) -> str:
    """Return the folder that ``file:FOLDER`` or ``file:///FOLDER`` names, or the same of
    ``lmdb:``.
    """
    path = address.partition(":")[2]
    return "/" + path.lstrip("/") if path.startswith("//") else path


def is_blob_server(address: str) -> bool:
    """Tell whether the store at ``address`` is a blob server of SOS, which keeps only blobs."""
    return address.startswith(BLOBS)


def kinds_of(addresses: Iterable[str]) -> set[bool]:
    """Return of which kinds stores are: such with paths for keys, and others. A blob server goes
    with either.
    """
    return {keeps_files(address) for address in addresses if not is_blob_server(address)}


def host_of(address: str) -> str | None:
    """Return ``host:port`` of a store; None for a folder, and for a bucket."""
    if address.startswith(("file:", LMDB, BUCKET)):
        return None
    match = _URL.fullmatch(address.removeprefix(BLOBS))
    return address if match is None else f"{match['host']}:{match['port'] or 80}"


def bucket_of(address: str) -> tuple[str, str]:
    """Return the name of a bucket, and the prefix that all keys have there: "" or ending with "/".
    Raises ValueError for what is no address of one.
    """
    match = _BUCKET.fullmatch(address)
    if match is None:
        raise ValueError(address)
    prefix = match["prefix"].lstrip("/")
    return match["name"], prefix and f"{prefix}/"


def store_name(address: str) -> str | None:
    """Return the same for all addresses of one store; None for what is no address."""
    if address.startswith(("file:", LMDB)):
        scheme, folder = address.partition(":")[0], folder_of(address)
        return None if folder == "" else f"{scheme}:{normpath(folder)}"
    if address.startswith(BUCKET):
        return address.rstrip("/") if _BUCKET.fullmatch(address) else None
    if is_blob_server(address):
        name = store_name(address.removeprefix(BLOBS))
        return f"{BLOBS}{name}" if name is not None and name.startswith("http:") else None
    if address.startswith("http:"):
        match = _URL.fullmatch(address)
        if match is None or any(mark in (match["path"] or "") for mark in "?#%"):
            return None
        host = host_of(address) or ""
        if read_address(host) is None:
            return None
        return f"http://{host.lower()}{(match['path'] or '/').rstrip('/')}"
    return address.lower() if read_address(address) else None


def _are_stores(values: Sequence[str]) -> bool:
    """Tell whether all are addresses of different stores, whose keys are paths or none of them."""
    names = [store_name(value) for value in values]
    if None in names or len(set(names)) != len(values):
        return False
    return len(kinds_of(values)) <= 1


STORES: Final = Check(
    'a list of different "host:port", or of different "file:FOLDER", "http://HOST:PORT/PATH/",'
    ' "lmdb:FOLDER" and "s3://BUCKET/PREFIX"; with either, "blobs:http://HOST:PORT/"',
    _are_stores,
)
ORIGIN: Final = Check(
    '"s3://BUCKET/PREFIX", or an empty text',
    lambda value: not value or _BUCKET.fullmatch(value) is not None,
)
_SHARD: Final = re.compile(r"([A-Za-z0-9_.-]+)(?: +x([1-9]\d{0,3}))?((?: +[^ ]+)+)")


def _are_shards(values: Sequence[str]) -> bool:
    found = [_SHARD.fullmatch(value) for value in values]
    names = [match[1] for match in found if match is not None]
    stores = [store for match in found if match is not None for store in match[3].split()]
    return len(set(names)) == len(values) and _are_stores(stores)


SHARDS: Final = Check(
    'a list of "NAME STORE ..." or "NAME xWEIGHT STORE ...", all names and stores different, each'
    ' store "host:port", or each "file:FOLDER", "http://HOST:PORT/PATH/", "lmdb:FOLDER" or'
    ' "s3://BUCKET/PREFIX", or, with either, "blobs:http://HOST:PORT/"',
    _are_shards,
)


def is_read_by(read: Callable[[Any], object]) -> Callable[[Any], bool]:
    """Return what tells whether ``read`` takes a value: it raises ``ValueError`` for another."""

    def holds(value: Any) -> bool:
        try:
            read(value)
        except ValueError:
            return False
        return True

    return holds


def read_rewrites(rules: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return FROM and TO of each of ``rewrites``, each with the "/" before it. Raises
    ``ValueError``.
    """
    found = []
    for rule in rules:
        former, new = (f"/{read_prefix(text)}" for text in rule.split(" "))
        if "/." in former + new:
            raise ValueError(f"{rule!r}: no part of a path begins with a dot")
        found.append((former, new))
    return tuple(found)


REWRITES: Final = Check(
    'a list of "FROM TO", each a prefix of paths, without "//" and "/.", ' + ESCAPES_AND_SPACES,
    is_read_by(read_rewrites),
)

BOOLEAN: Final = Check("true or false", lambda _: True)
NOT_EMPTY: Final = Check("a text that is not empty", bool)
ANY_TEXT: Final = Check("a text", lambda _: True)
HIDDEN_TEXT: Final = Hidden("a text", lambda _: True)

_SECRET: Final = re.compile(r"[!-~]{16,1000}")
SECRET: Final = Hidden(
    "16 to 1000 characters of ASCII without spaces, or an empty text",
    lambda value: not value or _SECRET.fullmatch(value) is not None,
)


def read_shard(text: str) -> tuple[str, int, tuple[str, ...]]:
    """Return name, weight and stores of one of ``shards``."""
    match = _SHARD.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match[1], int(match[2] or 1), tuple(match[3].split())
