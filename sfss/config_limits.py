"""Settings of what one client, or all of them, may have of a gateway. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from sfss.checks import Check, at_least, between
from sfss.declaring import MIB, setting

LEAST_BYTES: Final = 4096
"""Bytes that a request may always have: so much is looked at without a parser."""


def _are_networks(values: Sequence[str]) -> bool:
    try:
        return all(ip_network(value) is not None for value in values)
    except ValueError:
        return False


NETWORKS: Final = Check('a list of addresses or networks, "10.0.0.0/8"', _are_networks)


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """What clients may have; connections and bytes for each worker, requests for all."""

    connections: int = setting(
        10_000,
        "connections at the same time, fewer where the process may not open as many files; those"
        " beyond it are answered 503",
        between(1, 1_000_000),
    )
    connections_per_address: int = setting(
        0,
        "connections of one address at the same time (of IPv6: of one /64); those beyond it are"
        " answered 503; 0: any number",
        between(0, 1_000_000),
    )
    requests_per_s: float = setting(
        0.0,
        "requests a second of one address (of IPv6: of one /64), in all workers together; those"
        " beyond it are answered 429; 0: any number",
        at_least(0),
    )
    burst: int = setting(
        0,
        "requests that one address may make at once after a pause; 0: as many as in a second",
        between(0, 1_000_000),
    )
    token_requests_per_s: float = setting(
        0.0,
        "requests a second with one token, which do not count for its address; 0: any number",
        at_least(0),
    )
    token_burst: int = setting(
        0,
        "requests that may be made with one token at once after a pause; 0: as many as in a second",
        between(0, 1_000_000),
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "addresses or networks of the proxies before this service, whose X-Forwarded-For is"
        " believed",
        NETWORKS,
    )
    head_timeout_s: float = setting(
        10.0, "seconds within which a request has to come up to its body, until 408", at_least(0.1)
    )
    send_timeout_s: float = setting(
        60.0,
        "seconds without progress after which a client is cut off that does not take its answer",
        at_least(0.1),
    )
    least_bytes_per_s: int = setting(
        500,
        "bytes a second that a client has to send of a body, and to take of an answer, on average;"
        " the time-outs come on top of that; 0: as few as it likes",
        between(0, 1 << 30),
    )
    unsent_bytes: int = setting(
        512 * MIB,
        "bytes of answers that are held for clients who do not take them; beyond it, those that"
        " have been at it longest are cut off",
        between(MIB, 1 << 40),
    )
    line_bytes: int = setting(
        8190, "bytes the address in a request may have, until 414", between(LEAST_BYTES, 65_536)
    )
    field_bytes: int = setting(
        8190, "bytes a header field may have, until 431", between(LEAST_BYTES, 65_536)
    )
    fields: int = setting(128, "header fields a request may have, until 431", between(64, 1000))
    head_bytes: int = setting(
        64 * 1024, "bytes a request may have before its body, until 431", between(LEAST_BYTES, MIB)
    )
