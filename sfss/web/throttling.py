"""Requests per client: who a client is, and what is said to one that asks too often."""

import math
import re
import time
from typing import Final, NamedTuple

from aiohttp import web

from sfss.config_limits import LimitsSettings
from sfss.networks import Proxies, network_of
from sfss.rates import Rates
from sfss.web import http
from sfss.web.rated_connection import RatedConnection

FREE_FACES: Final = frozenset({"health"})
"""Who asks for these is counted by nobody."""

_FORWARDED: Final = re.compile(rb"\r\nx-forwarded-for:([^\r\n]*)", re.IGNORECASE)
_AUTHORIZED: Final = re.compile(rb"\r\nauthorization:", re.IGNORECASE)


class Client(NamedTuple):
    """Who asks: the name of a token, or an address."""

    name: str
    is_token: bool = False


def client_of(request: web.BaseRequest, proxies: Proxies) -> Client:
    """Return who asks: the owner of the token that was found to be good, else the address."""
    if token := request[http.GRANT].name:
        return Client(token, is_token=True)
    forwarded = request.headers.getall("X-Forwarded-For", [])
    return Client(proxies.client(request.remote or "", forwarded))


class Throttle:
    """Takes requests on, as many as ``limits`` say; see ``rates`` for ``cells``."""

    def __init__(self, limits: LimitsSettings, cells: "memoryview[float]") -> None:
        self._proxies = Proxies(limits.trusted_proxies)
        self._of_addresses = self._of_tokens = None
        if limits.requests_per_s:
            burst = limits.burst or math.ceil(limits.requests_per_s)
            self._of_addresses = Rates(cells, "address", limits.requests_per_s, burst)
        if limits.token_requests_per_s:
            burst = limits.token_burst or math.ceil(limits.token_requests_per_s)
            self._of_tokens = Rates(cells, "token", limits.token_requests_per_s, burst)
        self.is_on = self._of_addresses is not None or self._of_tokens is not None

    def _wait_s(self, client: Client) -> float:
        rates = self._of_tokens if client.is_token else self._of_addresses
        if rates is None or not client.name:
            return 0.0
        name = client.name if client.is_token else network_of(client.name)
        return rates.wait_s(name, time.monotonic())

    def refuse(self, request: web.BaseRequest, face: str) -> http.Answer | None:
        """Return the refusal of a request that comes too early; None takes it on."""
        connection = request.protocol
        if isinstance(connection, RatedConnection) and connection.take_counted():
            return None
        if face in FREE_FACES:
            return None
        client = client_of(request, self._proxies)
        wait_s = self._wait_s(client)
        if not wait_s:
            return None
        whose = "with this token" if client.is_token else f"from {network_of(client.name)}"
        sentence = f"too many requests {whose}; the next is taken in {wait_s:.3f} s"
        return http.refuse(request, 429, sentence, {"Retry-After": str(math.ceil(wait_s))})

    def lets(self, request: bytes, peer: str) -> bool:
        """Tell whether the bytes of ``request`` may be answered at once, and take it on."""
        if _AUTHORIZED.search(request):
            return False  # whose token that is has to be found first
        if self._proxies.has(peer) and (said := _FORWARDED.search(request)):
            peer = self._proxies.client(peer, [said[1].decode("latin-1")])
        return not self._wait_s(Client(peer))
