"""Messages between members: asked of nodes in this process and of others, and of who is none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sfss import node, node_commands
from sfss.errors import Unreachable
from sfss.member_messages import ask
from sfss.memtext_extensions import MESSAGE_LIMIT
from sfss.node_commands import NodeSettings, OnMessage
from tests.servers import DEADLINE_S, Server, free_port, memcached, running
from tests.servers import node as node_process
from tests.stores.dict_store import DictStore
from tests.stores.scripted import CLOSE, Script, ScriptedServer
from tests.test_node_limits import Run, run, until  # noqa: F401 - a fixture

SECRET = "the-secret-of-the-members"
SECRETS = pytest.mark.parametrize("secret", ["", SECRET])


class Store(DictStore):
    """What a node asks of its store that no message needs."""

    view = heads = set_copy = delete_damaged = None


@asynccontextmanager
async def member(
    on_message: OnMessage | None, secret: str = SECRET
) -> AsyncIterator[tuple[str, node.Server]]:
    """Serve a node for the block; yield its address."""
    store: object = Store()
    server = node.Server(store, NodeSettings(secret=secret), 0, on_message)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server.connection, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", server
        await until(lambda: not server.traffic.connections, "all connections are let go")
        assert server.arriving._free == server.arriving._limit
    finally:
        listener.close()
        await server.drain(0.0)


async def backwards(payload: bytes) -> bytes:
    """Answer with what was asked, the last byte first."""
    await asyncio.sleep(0)
    return payload[::-1]


@SECRETS
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, MESSAGE_LIMIT])
def test_a_question_is_answered(run: Run, secret: str, size: int) -> None:  # noqa: F811
    payload = (b"0123456789\r\n" * (size // 12 + 1))[:size]

    async def test() -> None:
        async with member(backwards, secret) as (address, _):
            assert await ask(address, secret, payload, DEADLINE_S) == payload[::-1]

    run(test())


def test_many_at_the_same_time(run: Run) -> None:  # noqa: F811
    async def test() -> None:
        async with member(backwards) as (address, _):
            asking = (ask(address, SECRET, b"%d" % number, DEADLINE_S) for number in range(50))
            found = await asyncio.gather(*asking)
            assert found == [str(number)[::-1].encode() for number in range(50)]

    run(test())


def refusing(
    run: Run,  # noqa: F811
    doing: Callable[[], Awaitable[bytes]],
    reason: str,
    applied: bool | None,
) -> None:
    """See to it that ``doing`` fails so."""

    async def test() -> None:
        with pytest.raises(Unreachable, match=reason) as caught:
            await doing()
        assert caught.value.applied is applied
        assert SECRET not in str(caught.value)

    run(test())


@pytest.mark.parametrize(
    ("own", "theirs", "reason"),
    [
        ("another-secret-than-that", SECRET, "it has another secret"),
        ("", SECRET, "it asks for a secret"),
        (SECRET, "", "it knows no secrets"),
    ],
)
def test_secrets_that_do_not_agree(
    run: Run,  # noqa: F811
    own: str,
    theirs: str,
    reason: str,
) -> None:
    async def doing() -> bytes:
        async with member(backwards, theirs) as (address, _):
            return await ask(address, own, b"question", DEADLINE_S)

    refusing(run, doing, reason, applied=False)


@SECRETS
def test_who_takes_no_messages(run: Run, secret: str) -> None:  # noqa: F811
    async def doing() -> bytes:
        async with member(None, secret) as (address, _):
            return await ask(address, secret, b"question", DEADLINE_S)

    refusing(run, doing, "it takes no messages of members", applied=False)


async def fails(_: bytes) -> bytes:
    """Fail."""
    raise RuntimeError("on purpose")


async def says_too_much(_: bytes) -> bytes:
    """Answer more than is sent."""
    return b"x" * (MESSAGE_LIMIT + 1)


@pytest.mark.parametrize("on_message", [fails, says_too_much])
def test_a_member_that_cannot_answer(
    run: Run,  # noqa: F811
    on_message: OnMessage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def doing() -> bytes:
        async with member(on_message) as (address, _):
            return await ask(address, SECRET, b"question", DEADLINE_S)

    refusing(run, doing, "it answered SERVER_ERROR members", applied=None)
    assert "error in answering a member" in caplog.text


def test_who_gives_up_leaves_nothing_behind(run: Run) -> None:  # noqa: F811
    async def test() -> None:
        gate = asyncio.Event()

        async def hangs(_: bytes) -> bytes:
            await gate.wait()
            return b"late"

        async with member(hangs) as (address, server):
            with pytest.raises(Unreachable, match="no answer within 1 s") as caught:
                await ask(address, SECRET, b"x" * 100_000, 1.0)
            assert caught.value.applied is None
            asking = asyncio.ensure_future(ask(address, SECRET, b"question", DEADLINE_S))
            await until(lambda: server.traffic.total_connections == 2, "it has come")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            gate.set()

    run(test())


def test_an_answer_that_never_comes(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_commands, "MESSAGE_S", 0.1)

    async def hangs(_: bytes) -> bytes:
        await asyncio.get_running_loop().create_future()
        return b""

    async def doing() -> bytes:
        async with member(hangs) as (address, _):
            return await ask(address, SECRET, b"question", DEADLINE_S)

    refusing(run, doing, "it answered SERVER_ERROR members", applied=None)


def test_a_question_that_is_too_long_is_not_sent(run: Run) -> None:  # noqa: F811
    async def test() -> None:
        async with member(backwards) as (address, server):
            with pytest.raises(ValueError, match="at most 1048576 are sent"):
                await ask(address, SECRET, b"x" * (MESSAGE_LIMIT + 1), DEADLINE_S)
            assert not server.traffic.total_connections

    run(test())


@pytest.mark.parametrize("address", ["", "here", "127.0.0.1", "127.0.0.1:0", ":80"])
def test_what_is_no_address(run: Run, address: str) -> None:  # noqa: F811
    refusing(run, lambda: ask(address, SECRET, b"", DEADLINE_S), "has no address", applied=False)


def test_nobody_listens(run: Run) -> None:  # noqa: F811
    address = f"127.0.0.1:{free_port()}"
    refusing(run, lambda: ask(address, SECRET, b"", DEADLINE_S), "Connect", applied=False)


@pytest.mark.parametrize("kind", [memcached, node_process])
@SECRETS
def test_servers_that_are_no_members(
    run: Run,  # noqa: F811
    tmp_path: Path,
    kind: Callable[[Path], Server],
    secret: str,
) -> None:
    with running(kind(tmp_path)) as server:
        dangerous = b"\r\nset k 0 0 1\r\nx\r\n"
        reason = "it knows no secrets" if secret else "it takes no messages"
        address = server.address
        refusing(run, lambda: ask(address, secret, dangerous, DEADLINE_S), reason, applied=False)


SETTINGS = b"STAT members yes\r\nEND\r\n"


@pytest.mark.parametrize(
    ("script", "reason", "applied"),
    [
        ([CLOSE], "closed the connection without a whole answer", False),
        ([b"STAT members yes\r\n", CLOSE], "within 1 s", False),
        ([SETTINGS + b"END\r\n"], "takes no messages", False),
        ([b"END\r\n"], "takes no messages", False),
        ([b"VERSION 1\r\n"], "VERSION", False),
        ([b"x" * 10_000], "a line of over", False),
        ([SETTINGS, CLOSE], "closed the connection without a whole answer", None),
        ([SETTINGS, b"MEMBERS 5\r\nab"], "within 1 s", None),
        ([SETTINGS, b"MEMBERS 5\r\nabcdefg"], "does not end where it should", None),
        ([SETTINGS, b"MEMBERS 1048577\r\n"], "it answered MEMBERS 1048577", None),
        ([SETTINGS, b"MEMBERS -1\r\n"], "it answered MEMBERS -1", None),
        ([SETTINGS, b"MEMBERS 1 2\r\n"], "it answered MEMBERS 1 2", None),
        ([SETTINGS, b"END\r\n"], "it answered END", None),
        ([SETTINGS, b"x" * 10_000], "Separator", None),
        ([SETTINGS], "within 1 s", None),
        ([], "within 1 s", False),
    ],
)
def test_answers_that_are_none(
    run: Run,  # noqa: F811
    script: Script,
    reason: str,
    applied: bool | None,
) -> None:
    async def doing() -> bytes:
        async with ScriptedServer(script) as server:
            try:
                timeout_s = 1.0 if reason == "within 1 s" else DEADLINE_S
                return await ask(server.address, "", b"q", timeout_s)
            finally:
                await until(lambda: not server.open_connections, "the connection is closed")

    refusing(run, doing, reason, applied)
