"""The rule by which probes judge, and that they see what breaks it."""

import asyncio

import pytest

from tests.probe.expectations import Expected
from tests.probe.load import HttpConnection, Load, Lost, Tally, target_of
from tests.servers import Gateway


def test_after_an_acknowledged_change_only_that_may_be_read() -> None:
    expected = Expected()
    assert expected.complaint(None) is None
    assert expected.complaint(b"a")
    expected.acknowledged(b"a")
    assert expected.complaint(b"a") is None
    assert expected.complaint(None) == "nothing was read where b'a' (1 bytes) was expected"


def test_after_a_change_in_doubt_old_and_new_may_be_read_by_turns() -> None:
    expected = Expected({b"a"})
    expected.unsure(None)
    expected.unsure(b"b")
    assert not expected.is_sure
    for body in (b"a", None, b"b", b"a"):
        assert expected.complaint(body) is None
    assert "b'a' (1 bytes) or b'b' (1 bytes) or nothing" in (expected.complaint(b"c") or "")
    expected.acknowledged(b"c")
    assert expected.body == b"c"
    assert expected.complaint(b"a")


def test_of_two_deletions_one_may_have_reached_some_stores_only() -> None:
    expected = Expected()
    expected.unsure(None)
    assert expected.body is None
    assert not expected.is_sure
    expected.acknowledged(None)
    assert expected.is_sure


def test_a_tally_says_how_many_and_how_long() -> None:
    tally = Tally()
    for turn in range(1000):
        tally.add("GET 504" if turn < 2 else None, turn / 1000)
    assert tally.success_share == 0.998
    assert tally.percentile_ms(99) == 990
    assert "2 x GET 504" in str(tally)


async def test_the_load_sees_a_change_that_nobody_acknowledged(
    gateway: Gateway, probe_seed: int
) -> None:
    load = Load(gateway.port, probe_seed, count=2)
    await load.start()
    await load.more(200)
    assert not load.wrong
    connection = HttpConnection(gateway.port)
    for path in load.shared:
        await connection.ask("PUT", target_of(path), b"stale")
    await connection.close()
    await load.more(200)
    await load.stop()
    assert load.wrong
    assert "b'stale' (5 bytes) was read where b'shared/" in load.wrong[0]


async def test_a_lost_connection_is_told_from_an_answer() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        connection = HttpConnection(server.sockets[0].getsockname()[1])
        with pytest.raises(Lost):
            await connection.ask("GET", "/")
        await connection.close()
