"""On which addresses which faces are shown: the tables ``[[listen]]`` of the settings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from typing import Final

from sfss.checks import ADDRESSES, NOT_EMPTY, Check, distinct_of, in_toml
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
    "browser",
    "api",
)
"""The faces that there are; ``web.app`` has their routes."""

DEFAULT_FACES: Final = ("native", "status", "health", "browser", "api")

SOME_FACES: Final = distinct_of(*FACES)


@dataclass(frozen=True, slots=True)
class Listen:
    """An ``address`` to listen on, "host:port", and the ``faces`` that are shown there; with the
    names of two files, TLS is spoken.
    """

    address: str
    faces: tuple[str, ...]
    tls_certificate: str = ""
    tls_key: str = ""

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The two parts of the address, an IPv6 address without its brackets."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.tls_certificate != ""

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http{'s' if self.is_secure else ''}://{self.address}"


_ONE_ADDRESS: Final = Check('"host:port"', lambda value: ADDRESSES.holds((value,)))
_TABLE: Final[Mapping[str, tuple[type, Check]]] = {
    "address": (str, _ONE_ADDRESS),
    "faces": (list, SOME_FACES),
    "tls_certificate": (str, NOT_EMPTY),
    "tls_key": (str, NOT_EMPTY),
}
_OPTIONAL: Final = ("tls_certificate", "tls_key")


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
        if name in _OPTIONAL and name not in table:
            continue
        value = table.get(name)
        if type(value) is not kind or not check.holds(value):
            found = "is missing" if name not in table else check.found(value)
            raise SettingError(source, f"listen.{name}", found, f"{check.allowed} is expected")
    faces = table["faces"]
    assert isinstance(faces, list)
    certificate, key = (str(table.get(name, "")) for name in _OPTIONAL)
    listen = Listen(str(table["address"]), tuple(faces), certificate, key)
    check_tls_pair(listen, source, "listen")
    return listen


def check_tls_pair(listen: Listen, source: str, section: str) -> None:
    """Raise ``SettingError`` where one of two files is given without the other."""
    if bool(listen.tls_certificate) != bool(listen.tls_key):
        given, missing = _OPTIONAL if listen.tls_certificate else _OPTIONAL[::-1]
        wanted = f"{given} goes with it"
        raise SettingError(source, f"{section}.{missing}", "is missing", wanted)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens on ``host``. A name that has to be looked
    up first does not count, whatever it stands for, but for "localhost" (RFC 6761, 6.3).
    """
    try:
        found = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def address_of(host: str, port: int) -> str:
    """Return "host:port", an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def nearest(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """Return words that say what ``name`` may have been meant to be."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {matches[0]}?" if matches else "known are " + ", ".join(known)
