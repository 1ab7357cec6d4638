"""The wall clock is set back and ahead by hours while gateways serve."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import pytest

from tests.lab.clock import HOUR_S, WallClock
from tests.lab.store_check import complaints
from tests.servers import Answer, Gateway, Server, gateway, node, running, wait_until

STEPS_H = (0, 3, -3, 26, 0, -26, 1, 0)

SETTINGS = {
    "embedded": "[embedded]\nfolder = 'store'\n",
    "copies": """
[cluster]
kind = "replicated"
[replicated]
stores = {stores}
copies = 3
write_quorum = 2
cooling_s = 0.3
owed_folder = "owed"
""",
}


@dataclass
class Site:
    """A gateway of two workers, and the nodes behind it, which all go by one ``clock``."""

    kind: str
    clock: WallClock
    server: Gateway
    nodes: list[Server]

    def put(self, path: str, body: bytes, ttl_s: int = 0) -> Answer:
        """Put a file, and see that it is kept."""
        ttl = f"&ttl={ttl_s}" if ttl_s else ""
        answer = self.server.request("PUT", f"/file?path={path}{ttl}", body)
        assert answer.status == 200, answer
        return answer

    def found(self, path: str) -> set[bytes | None]:
        """Return what several connections, which any worker may have accepted, read of a file."""
        answers = [self.server.get(path) for _ in range(4)]
        assert all(each.status in (200, 404) for each in answers), answers
        return {each.body if each.status == 200 else None for each in answers}

    def delete(self, path: str) -> int:
        """Delete a file; return the status."""
        return self.server.request("DELETE", f"/file?path={path}").status


@pytest.fixture(params=SETTINGS, scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site of each kind, shared by the tests."""
    kind, folder = str(request.param), tmp_path_factory.mktemp("clock")
    clock = WallClock(folder)
    nodes = [node(folder) for _ in range(3)] if kind == "copies" else []
    settings = SETTINGS[kind].format(stores=[each.address for each in nodes])
    server = gateway(folder, "--workers", "2", settings=settings, environ=clock.environ)
    for each in nodes:
        each.environ.update(clock.environ)
    with ExitStack() as stack:
        for each in (*nodes, server):
            stack.enter_context(running(each))
        yield Site(kind, clock, server, nodes)
        assert server.stop() == 0
    if kind == "embedded":
        assert not complaints(folder / "store")


@pytest.fixture(autouse=True)
def right_again(site: Site) -> Iterator[None]:
    """Leave the clock as it was."""
    yield
    site.clock.set(0)


def date_of(answer: Answer) -> float:
    """Return what the gateway takes for the time."""
    return parsedate_to_datetime(answer.headers["date"]).timestamp()


def test_the_clock_is_the_one_that_is_set(site: Site) -> None:
    right_s = date_of(site.server.get("a"))
    site.clock.set(5 * HOUR_S)
    assert 4.9 * HOUR_S < date_of(site.server.get("a")) - right_s < 5.1 * HOUR_S


def test_the_latest_write_is_read(site: Site) -> None:
    workers = site.server.workers()
    for turn, hours in enumerate(STEPS_H):
        site.clock.set(hours * HOUR_S)
        for again in range(3):
            body = b"%d %d" % (turn, again)
            site.put("same", body)
            assert site.found("same") == {body}
        assert site.delete("same") == 204
        assert site.found("same") == {None}
        site.put("same", b"after the delete")
        assert site.found("same") == {b"after the delete"}
    assert site.server.workers() == workers


def test_what_was_written_while_the_clock_was_ahead_is_replaced_after_a_new_start(
    site: Site,
) -> None:
    site.clock.set(30 * HOUR_S)
    site.put("tomorrow", b"of tomorrow")
    site.put("deleted", b"of tomorrow")
    site.clock.set(0)
    assert site.server.stop() == 0
    site.server.start()
    assert site.found("tomorrow") == {b"of tomorrow"}
    site.put("tomorrow", b"of today")
    assert site.found("tomorrow") == {b"of today"}
    assert site.delete("deleted") == 204
    assert site.found("deleted") == {None}
    site.put("deleted", b"again")
    assert site.found("deleted") == {b"again"}


def test_files_expire_by_the_clock_there_is(site: Site) -> None:
    site.put("hour", b"body", ttl_s=HOUR_S)
    site.put("day", b"body", ttl_s=24 * HOUR_S)
    site.clock.set(2 * HOUR_S)
    assert site.found("hour") == {None}
    assert site.found("day") == {b"body"}
    site.put("hour", b"new", ttl_s=HOUR_S)
    assert site.found("hour") == {b"new"}
    site.clock.set(0)
    assert site.found("day") == {b"body"}


def test_a_file_lives_as_long_as_it_is_to_although_the_clock_was_ahead(site: Site) -> None:
    """Versions go on from where they were; that is nothing to how long a file lives."""
    site.clock.set(48 * HOUR_S)
    for number in range(8):  # through each worker
        site.put(f"ahead/{number}", b"body")
    site.clock.set(0)
    for number in range(8):
        site.put(f"short/{number}", b"body", ttl_s=HOUR_S)
        site.put(f"ahead/{number}", b"body", ttl_s=HOUR_S)
        assert site.found(f"ahead/{number}") == {b"body"}
    site.clock.set(HOUR_S + 60)
    for number in range(8):
        assert site.found(f"short/{number}") == {None}
        assert site.found(f"ahead/{number}") == {None}


def test_a_store_that_comes_back_is_asked_again(site: Site) -> None:
    """What waits, waits by another clock."""
    if not site.nodes:
        return
    victim, *others = site.nodes
    victim.kill()
    site.put("missed", b"written while it was away")
    site.clock.set(-5 * HOUR_S)
    victim.start()
    wait_until(lambda: owed(site.server) == 0, "what it has missed is paid", 90.0)
    for other in others:
        other.kill()
    # It has got what it had missed, and is asked again.
    assert site.server.get("missed").body == b"written while it was away"
    for other in others:
        other.start()
    wait_until(lambda: site.server.put("again", b"again").status == 200, "all are written to")


def owed(server: Gateway) -> int:
    """Return how many writes stores still have to get."""
    return int(server.request("GET", "/status?detail=full").json()["webserver"]["owed"])
