"""Requests per client: the buckets, and a gateway that counts by both ways in all its workers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from sfss.config_limits import LimitsSettings
from sfss.grants import Grant
from sfss.metrics import Board
from sfss.networks import Proxies
from sfss.rates import Rates
from sfss.web import http
from sfss.web.throttling import Client, Throttle, client_of
from tests.servers import Gateway, gateway, running
from tests.web.client import Wire, head, sentence

BURST = 6


def rates(per_s: float, burst: int) -> Rates:
    """Return buckets of their own."""
    return Rates(Board(1).rates, "address", per_s, burst)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60),
    st.integers(1, 5),
)
def test_never_more_than_the_burst_and_what_has_dripped_in(
    asked: list[tuple[str, float]], burst: int
) -> None:
    buckets, now_s = rates(2.0, burst), 1000.0
    level = dict.fromkeys("ab", (float(burst), now_s))
    for client, pause_s in asked:
        now_s += pause_s
        tokens, since_s = level[client]
        tokens = min(burst, tokens + (now_s - since_s) * 2.0)
        wait_s = buckets.wait_s(client, now_s)
        if wait_s:
            assert tokens < 1 + 1e-6
            assert wait_s == pytest.approx((1 - tokens) / 2.0, abs=1e-6)
        else:
            assert tokens > 1 - 1e-6
            tokens -= 1
        level[client] = (tokens, now_s)


def test_a_flood_of_addresses_takes_no_memory_and_leaves_others_alone() -> None:
    buckets = rates(1.0, 1)
    for number in range(5000):
        buckets.wait_s(f"flood {number}", 1.0)
    refused = sum(buckets.wait_s(f"honest {number}", 1.0) > 0 for number in range(1000))
    assert refused < 30


def asked_by(peer: str, *forwarded: str, token: str = "") -> Any:
    """Return a request as far as it says who asks."""

    class Request(dict[Any, Any]):
        remote = peer
        headers = CIMultiDict([("X-Forwarded-For", each) for each in forwarded])
        protocol = SimpleNamespace()
        content = SimpleNamespace(is_eof=lambda: True)

    return Request({http.GRANT: Grant(token)})


def test_a_token_counts_for_itself() -> None:
    assert client_of(asked_by("1.1.1.1"), Proxies([])) == Client("1.1.1.1")
    assert client_of(asked_by("1.1.1.1", token="backup"), Proxies([])) == Client("backup", True)
    limits = LimitsSettings(requests_per_s=0.001, token_requests_per_s=0.001, token_burst=2)
    throttle = Throttle(limits, Board(1).rates)
    refusals = [throttle.refuse(asked_by("1.1.1.1", token="t"), "native") for _ in range(3)]
    assert [refusal and refusal.status for refusal in refusals] == [None, None, 429]
    assert throttle.refuse(asked_by("1.1.1.1"), "native") is None
    assert throttle.refuse(asked_by("1.1.1.1"), "native") is not None
    assert throttle.refuse(asked_by(""), "native") is None  # nobody knows who: a Unix socket
    assert not throttle.lets(head("GET", "/file?path=a", "authorization: Bearer t"), "2.2.2.2")


@pytest.fixture(name="pair", scope="module")
def gateway_with_two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = (
        f"[embedded]\nfolder = 'store'\n[limits]\nrequests_per_s = 0.001\nburst = {BURST}\n"
        "trusted_proxies = ['127.0.0.1']\n"
    )
    server = gateway(tmp_path_factory.mktemp("rated"), "--workers", "2", settings=settings)
    with running(server):
        assert server.request("PUT", "/file?path=a", b"abc", {"X-Forwarded-For": "0.0.0.1"})
        yield server


@pytest.mark.parametrize(
    ("client", "target"),
    [("10.0.0.1", "/file?path=a"), ("10.0.0.2", "/file?path=none"), ("10.0.0.3", "/status")],
)
@pytest.mark.parametrize("connections", [1, 8])
def test_as_many_as_the_burst_whichever_way_and_worker(
    pair: Gateway, client: str, target: str, connections: int
) -> None:
    client += f"{connections}"
    asked = head("GET", target, f"X-Forwarded-For: 9.9.9.9, {client}")
    wires = [Wire(pair.host, pair.port) for _ in range(connections)]
    found = []
    for number in range(4 * BURST):
        wire = wires[number % connections]
        wire.send(asked)
        found.append(wire.answer())
    statuses = [answer.status for answer in found]
    assert 429 not in statuses[:BURST]
    assert set(statuses[BURST:]) == {429}
    assert 900 <= int(found[-1].headers["retry-after"]) <= 1000
    assert sentence(found[-1]).startswith(f"too many requests from {client}; the next")
    for wire in wires:
        wire.send(head("GET", "/health/live", f"X-Forwarded-For: {client}"))
        assert wire.answer().status == 200
        wire.close()


def test_nothing_is_counted_unless_set() -> None:
    assert not Throttle(LimitsSettings(), Board(1).rates).is_on
