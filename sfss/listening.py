"""On which addresses which faces are shown: the tables ``[[listen]]`` of the settings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from sfss.checks import ADDRESSES, Check, distinct_of, in_toml
from sfss.errors import SettingError

FACES: Final = (
    "native",
    "status",
    "paths",
    "debug",
    "admin",
    "upload",
    "fetch",
    "blobs",
    "objects",
    "health",
    "metrics",
    "api",
)
"""The faces that there are; ``web.app`` has their routes."""

DEFAULT_FACES: Final = ("native", "status", "health", "api")

SOME_FACES: Final = distinct_of(*FACES)


@dataclass(frozen=True, slots=True)
class Listen:
    """An ``address`` to listen on, "host:port", and the ``faces`` that are shown there."""

    address: str
    faces: tuple[str, ...]

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The two parts of the address, an IPv6 address without its brackets."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


_ONE_ADDRESS: Final = Check('"host:port"', lambda value: ADDRESSES.holds((value,)))
_TABLE: Final[Mapping[str, tuple[type, Check]]] = {
    "address": (str, _ONE_ADDRESS),
    "faces": (list, SOME_FACES),
}


def read_listen(source: str, value: object) -> tuple[Listen, ...]:
    """Return what the tables ``[[listen]]`` in ``source`` say; raise ``SettingError`` for what is
    unknown, missing, or wrong.
    """
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise SettingError(
            source, "listen", f"is {in_toml(value)}", "tables are expected: [[listen]]"
        )
    found = tuple(_read_table(source, table) for table in value)
    if not ADDRESSES.holds([listen.address for listen in found]):
        raise SettingError(source, "listen.address", "is given twice", "all must be different")
    return found


def _read_table(source: str, table: Mapping[str, object]) -> Listen:
    for name in table:
        if name not in _TABLE:
            raise SettingError(source, f"listen.{name}", "unknown", nearest(name, _TABLE))
    for name, (kind, check) in _TABLE.items():
        value = table.get(name)
        if type(value) is not kind or not check.holds(value):
            found = "is missing" if name not in table else check.found(value)
            raise SettingError(source, f"listen.{name}", found, f"{check.allowed} is expected")
    faces = table["faces"]
    assert isinstance(faces, list)
    return Listen(str(table["address"]), tuple(faces))


def address_of(host: str, port: int) -> str:
    """Return "host:port", an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def nearest(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """Return words that say what ``name`` may have been meant to be."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {matches[0]}?" if matches else "known are " + ", ".join(known)
