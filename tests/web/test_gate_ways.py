"""Who may pass, on both ways, and on listeners that other machines reach."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfss.config import ServerSettings
from sfss.config_access import rules_of
from sfss.config_reading import load
from sfss.grants import NO_SCOPES, OPEN, Grant, Rules
from sfss.web import fast, gate
from sfss.web.server import Runner
from tests.servers import DEADLINE_S, Answer, ask
from tests.web.client import head, sentence
from tests.web.test_fast import LAST, LAST_BY_URL, compare, serving

READER = "reader-of-all"
SOME = "reader-of-a-folder"
WRITER = "writer"
GRANTS = {
    READER: Grant("all", frozenset({"read"})),
    SOME: Grant("some", frozenset({"read"}), ("folder/",)),
    WRITER: Grant("writer", frozenset({"write", "list"})),
}
RULES = Rules({sha256(secret.encode()).digest(): grant for secret, grant in GRANTS.items()})
FIELDS = {
    secret: f"Authorization: Bearer {secret}" for secret in (*GRANTS, "wrong", "", f"{READER} ")
}


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("secret", "target", "taken"),
    [
        (READER, "a.txt", 2),
        (READER, "folder/b.tar.gz", 2),
        (SOME, "folder/b.tar.gz", 2),
        (SOME, "a.txt", 0),
        (WRITER, "a.txt", 0),
        ("wrong", "a.txt", 0),
    ],
)
async def test_a_token_goes_the_short_way_if_it_is_good(
    secret: str, target: str, taken: int, tells: bool
) -> None:
    for face, address, last in (("native", "/file?path=", LAST), ("paths", "/", LAST_BY_URL)):
        request = head("GET", f"{address}{target}", FIELDS[secret], "User-Agent: x")
        plain = head("GET", f"{address}{target}", "User-Agent: x")
        segments = [request, request, plain, request, plain, last]
        found = await compare(segments, tells=tells, faces=(face,), rules=RULES)
        assert found >= taken if taken else found == 0


REQUESTS = st.builds(
    lambda method, target, fields: head(method, target, *fields),
    st.sampled_from(["GET"] * 5 + ["HEAD", "DELETE", "PUT"]),
    st.sampled_from(
        [
            "/file?path=a.txt",
            "/file?path=folder/b.tar.gz",
            "/file?path=folder%2fb.tar.gz",
            "/file?path=missing",
            "/file?path=folder/missing",
            "/file?path=%00",
            "/a.txt",
            "/folder/b.tar.gz",
            "/old/b.tar.gz",
            "/%6fld/b.tar.gz",
            "/old//b.tar.gz",
            "/folder/",
            "/folder",
            "/folder/../a.txt",
        ]
    ),
    st.lists(
        st.sampled_from(
            [
                *FIELDS.values(),
                f"authorization:{FIELDS[SOME].partition(':')[2]}\t",
                "Authorization: Basic eDpyZWFkZXItb2YtYWxs",
                "X-Authorization: Bearer reader-of-all",
                "User-Agent: x",
                f"User-Agent: x Authorization: Bearer {READER}",
                "Connection: keep-alive",
            ]
        ),
        max_size=2,
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(REQUESTS, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([("native",), ("paths",), ("native", "paths")]),
    st.sampled_from([NO_SCOPES, frozenset({"read"}), frozenset({"list"})]),
)
def test_both_ways_let_the_same_pass(
    requests: list[bytes], tells: bool, faces: tuple[str, ...], free: frozenset[str]
) -> None:
    last = LAST_BY_URL if faces == ("paths",) else LAST
    rules = replace(RULES, network=free)
    asyncio.run(compare([*requests, *requests, last], tells=tells, faces=faces, rules=rules))


@pytest.mark.parametrize("short", [True, False])
async def test_a_token_ends_while_the_connection_goes_on(short: bool) -> None:
    now = [1000.0]
    clock = SimpleNamespace(time=lambda: now[0])
    digest, grant = sha256(b"for a while").digest(), Grant("brief", frozenset({"read"}))
    rules = Rules({digest: replace(grant, until_s=1002.0)})
    request = head("GET", "/file?path=a.txt", "Authorization: Bearer for a while")
    with patch.object(gate, "time", clock), patch.object(fast, "time", clock):
        async with serving(short, None, rules) as server:
            statuses = []
            for now[0] in (1000.0, 1000.5, 1001.0, 1001.9, 1002.0, 1002.5):
                answer = await server.exchange([request, request, LAST])
                statuses.append(answer.count(b"HTTP/1.1 200"))
            assert statuses == [2, 2, 2, 2, 0, 0]
            assert (server.taken > 0) == short


async def test_what_is_remembered_of_tokens_is_bounded() -> None:
    async with serving(True, None, RULES) as server:
        known = server.runner._gates[0]
        for number in range(3000):
            assert known.grant_of(f"Bearer {number}") is known.anybody
            assert known.grant_of("Bearer" + " " * (number + 1) + READER).name == "all"
        assert len(known._known) <= gate._KNOWN_LIMIT


class OfTheNetwork(socket.socket):
    """A socket that says that others than this machine reach it."""

    def getsockname(self) -> Any:
        """Say so; it is not true, for tests are for this machine alone."""
        return ("0.0.0.0", super().getsockname()[1])


async def asked(rules: Rules, kinds: list[type[socket.socket]], *asks: tuple[str, str]) -> Any:
    """Serve on sockets, and return the answers of each."""
    async with serving(True, None, rules, faces=("native", "paths", "admin")) as server:
        with bound(kinds) as sockets:
            await server.runner.listen(sockets, 5)
            ports = [socket.socket.getsockname(each)[1] for each in sockets]
            found = [
                [await asyncio.to_thread(once, port, *each) for each in asks] for port in ports
            ]
            server.runner.stop_listening()
            return found


@contextmanager
def bound(kinds: list[type[socket.socket]]) -> Iterator[list[socket.socket]]:
    """Give sockets of these kinds, each on a port of its own."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(kind()) for kind in kinds]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        yield sockets


def once(port: int, method: str, target: str) -> Answer:
    """Ask once."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        return ask(connection, method, target, b"x" if method in ("PUT", "POST") else None)


ALL_OF_IT = (
    ("GET", "/file?path=a.txt"),
    ("GET", "/a.txt"),
    ("GET", "/files"),
    ("PUT", "/file?path=new"),
    ("POST", "/files?path=new"),
    ("PUT", "/new"),
    ("DELETE", "/file?path=new"),
    ("DELETE", "/new"),
    ("POST", "/admin/migration?step=start"),
)


async def test_what_other_machines_may_not_unless_it_is_said() -> None:
    rules = rules_of(load().access)
    ((*here, _), (*there, _)) = await asked(rules, [socket.socket, OfTheNetwork], *ALL_OF_IT)
    # One gateway with two sockets: what holds for one that others reach holds for both.
    assert [each.status for each in here] == [each.status for each in there]
    assert [each.status for each in there] == [200, 200, 200, 403, 403, 403, 403, 403]
    words = 'no token with the scope "write" (access.tokens), and access.open_to_the_network'
    assert words in sentence(there[3])
    ((*here, admin),) = await asked(rules, [socket.socket], *ALL_OF_IT)
    assert [each.status for each in here] == [200, 200, 200, 200, 201, 201, 204, 404]
    assert admin.status == 403


async def test_what_other_machines_may_if_it_is_said() -> None:
    text = "[access]\nopen_to_the_network = ['write', 'delete']"
    ((*there, admin),) = await asked(rules_of(load(text).access), [OfTheNetwork], *ALL_OF_IT)
    assert [each.status for each in there] == [200, 200, 200, 200, 201, 201, 204, 404]
    assert admin.status == 403


async def test_with_tokens_other_machines_are_asked_for_one() -> None:
    rules = replace(rules_of(load().access), tokens=RULES.tokens)
    ((*there, _),) = await asked(rules, [OfTheNetwork], *ALL_OF_IT)
    assert [each.status for each in there] == [200, 200, 200, 401, 401, 401, 403, 403]


async def test_open_is_open() -> None:
    async with serving(True, None, OPEN) as server:
        assert server.runner._gates[0].anybody.allows("write", None)


async def test_each_listener_is_decided_on_by_itself() -> None:
    async with serving(True) as server:
        shown = [["native"], ["native"], ["native"]]
        runner = Runner(server.runner._site, ServerSettings(), server.board.row(0), shown)
        await runner.setup()
        with bound([socket.socket, OfTheNetwork, socket.socket]) as sockets:
            await runner.listen(sockets, 5)
            assert [each._is_local for each in runner._gates] == [True, False, True]
            runner.stop_listening()


@given(st.text(max_size=60), st.sampled_from(["", "Bearer ", "Basic ", "basic "]))
def test_whatever_is_brought_is_read_or_is_none(text: str, scheme: str) -> None:
    found = gate.secret_in(scheme + text)
    assert found is None or RULES.find(found) is None
    if scheme == "Bearer ":
        assert found == text.strip().encode()
