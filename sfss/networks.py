"""Addresses of clients: which of them count as one, and who is behind a proxy. Pure."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

OWN_BITS: Final = 64
"""Leading bits of an IPv6 address that one client may have all of (RFC 6177)."""

KNOWN_LIMIT: Final = 4096
"""Addresses that are remembered."""

FORWARDED_LIMIT: Final = 1000
"""Bytes of an X-Forwarded-For that is looked at."""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@lru_cache(maxsize=KNOWN_LIMIT)
def network_of(address: str) -> str:
    """Return what stands for all addresses of the client at ``address``: itself, or its /64."""
    found = _address(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found) >> OWN_BITS << OWN_BITS, OWN_BITS)))
    return address if found is None else str(found)


def is_elsewhere(forwarded: Iterable[str]) -> bool:
    """Tell whether one of the clients that such fields of a proxy name is not on this machine; what
    is no address is not.
    """
    named = [text.strip() for said in forwarded for text in said.split(",")]
    found = [_address(text) for text in named if text]
    return any(address is None or not address.is_loopback for address in found)


class Proxies:
    """The proxies that are believed in whose name they ask; ``trusted``: addresses, or networks."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(each) for each in trusted]
        self._known: dict[str, bool] = {}

    def has(self, address: str) -> bool:
        """Tell whether ``address`` is that of one of them."""
        if not self._networks:
            return False
        is_known = self._known.get(address)
        if is_known is None:
            found = _address(address)
            is_known = found is not None and any(found in each for each in self._networks)
            if len(self._known) < KNOWN_LIMIT:
                self._known[address] = is_known
        return is_known

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the address of the client that ``peer`` asks for: of those that the fields
        X-Forwarded-For name, the last that is none of ours. What stands before it, anybody may have
        written.
        """
        if not self.has(peer):
            return peer
        client = peer
        said = ",".join(forwarded)[-FORWARDED_LIMIT:]
        for text in reversed(said.split(",")):
            address = text.strip().strip('"').removeprefix("[").removesuffix("]")
            if _address(address) is None:
                return client
            client = address
            if not self.has(address):
                return client
        return client
