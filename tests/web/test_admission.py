"""How many connections are let in, and what happens to those beyond; and without descriptors."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sfss.networks import Proxies, network_of
from tests.servers import Gateway, gateway, running, wait_until
from tests.web.client import Wire, head, sentence

GET = head("GET", "/file?path=a")
MOST = 12
SETTINGS = f"""
[embedded]
folder = 'store'
[limits]
connections = {MOST}
head_timeout_s = 600
"""


@pytest.fixture(name="small", scope="module")
def gateway_for_few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(gateway(tmp_path_factory.mktemp("few"), settings=SETTINGS)) as server:
        assert server.put("a", b"abc").status == 201 or server.get("a").status == 200
        yield server


def let_all_go(server: Gateway) -> None:
    """Wait until nobody is connected."""

    def is_empty() -> bool:
        answer = server.request("GET", "/status?detail=full")
        return answer.status == 200 and answer.json()["webserver"]["connections"] == 1

    wait_until(is_empty, "all connections are gone")


def test_who_comes_beyond_the_limit_is_503_and_told_when_to_come_again(small: Gateway) -> None:
    let_all_go(small)
    with ExitStack() as stack:
        silent = [stack.enter_context(Wire(small.host, small.port)) for _ in range(MOST)]
        with Wire(small.host, small.port) as beyond:
            refusal = beyond.answer()
            assert refusal.status == 503
            assert refusal.headers["retry-after"] == "1"
            assert refusal.headers["connection"] == "close"
            assert sentence(refusal).startswith(f"{MOST} connections are open")
            assert beyond.ended()
        for one in silent:  # those that are in are served
            one.send(GET)
            assert one.answer().body == b"abc"


def test_an_idle_connection_makes_room(small: Gateway) -> None:
    let_all_go(small)
    with ExitStack() as stack:
        kept = [stack.enter_context(Wire(small.host, small.port)) for _ in range(MOST)]
        for one in kept:
            one.send(GET)
            assert one.answer().status == 200

        def is_let_in() -> bool:
            with Wire(small.host, small.port) as another:
                another.send(GET)
                return another.answer().status == 200

        wait_until(is_let_in, "some have been idle for long enough")
        assert kept[0].ended()  # the one that has been so longest
        kept[-1].send(GET)
        assert kept[-1].answer().status == 200


def test_a_worker_without_descriptors_serves_on_and_recovers(small: Gateway) -> None:
    let_all_go(small)
    (worker,) = small.workers()
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    with Wire(small.host, small.port) as known:
        known.send(GET)
        assert known.answer().status == 200
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, before[1]))
        with ExitStack() as stack:
            for _ in range(5):
                with suppress(OSError):
                    stack.enter_context(Wire(small.host, small.port)).send(GET)
            for _ in range(3):
                known.send(GET)
                assert known.answer().body == b"abc"
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)

    def is_served() -> bool:
        with suppress(OSError, AssertionError), Wire(small.host, small.port) as another:
            another.send(GET)
            return another.answer().status == 200
        return False

    wait_until(is_served, "it has descriptors again")
    assert small.workers() == [worker]


def test_a_worker_may_open_as_many_files_as_it_may(small: Gateway) -> None:
    soft, hard = resource.prlimit(small.workers()[0], resource.RLIMIT_NOFILE)
    assert soft == min(hard, 1 << 20)


def test_connections_of_one_address(tmp_path: Path) -> None:
    settings = "[embedded]\nfolder = 'store'\n[limits]\nconnections_per_address = 2\n"
    server = gateway(tmp_path, settings=settings + "trusted_proxies = ['127.0.0.3']\n")

    def status_from(stack: ExitStack, address: str) -> int:
        client = socket.create_connection((server.host, server.port), 30, (address, 0))
        stack.enter_context(client)
        client.sendall(head("GET", "/health/live"))
        return int(client.recv(1 << 16).split()[1])

    with running(server), ExitStack() as stack:
        assert [status_from(stack, "127.0.0.1") for _ in range(3)] == [200, 200, 503]
        assert [status_from(stack, "127.0.0.2") for _ in range(3)] == [200, 200, 503]
        assert [status_from(stack, "127.0.0.3") for _ in range(3)] == [200, 200, 200]
        stack.close()
        wait_until(lambda: status_from(stack, "127.0.0.1") == 200, "it has left, and may come")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2"),
    ],
)
def test_addresses_of_one_client(one: str, other: str) -> None:
    assert network_of(one) == network_of(other)
    assert network_of("2001:db8:0:2::1") != network_of("2001:db8:0:1::1")
    assert network_of("") == ""


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("1.2.3.4", ["9.9.9.9"], "1.2.3.4"),  # anybody may write that
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["8.8.8.8, 9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["8.8.8.8, 9.9.9.9, 10.0.0.2"], "9.9.9.9"),
        ("10.0.0.1", ["8.8.8.8", "9.9.9.9", "10.0.0.2"], "9.9.9.9"),
        ("10.0.0.1", ["9.9.9.9, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", [", " * 5000 + "9.9.9.9"], "9.9.9.9"),
    ],
)
def test_who_is_behind_a_proxy(peer: str, forwarded: list[str], client: str) -> None:
    assert Proxies(["10.0.0.0/24"]).client(peer, forwarded) == client
