"""A removal under a condition, while another writer comes between the look and the removal: on real
servers, where it is one step.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from sfss.config import MemcachedSettings
from sfss.errors import Corrupt
from sfss.record import RECORD_FLAGS, Head, Record, digest_of, encode, new_record
from sfss.stores.base import Guard
from sfss.stores.memcached import MemcachedStore
from tests.servers import Server, memcached, node, node_folder, running

KEY = b"k"
OLD, NEW = new_record(b"old", 5), new_record(b"new", 6)


class Refused(Exception):
    """Raised by a guard that does not find what it is about."""


@pytest.fixture(name="server", params=[memcached, node], ids=["memcached", "node"])
def real_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with running(request.param(tmp_path)) as server:
        yield server


def ask(server: Server, request: bytes) -> bytes:
    """Be another client: send ``request``, and return the first line of the answer."""
    with socket.create_connection((server.host, server.port), timeout=10) as client:
        client.sendall(request)
        return client.makefile("rb").readline()


def write(server: Server, record: Record) -> None:
    """Be another client, who stores ``record``."""
    value = encode(record)
    request = b"set %b %d 0 %d\r\n%b\r\n" % (KEY, RECORD_FLAGS, len(value), value)
    assert ask(server, request) == b"STORED\r\n"


def damage(server: Server, record: Record) -> None:
    """Put ``record`` with a damaged body there, behind the back of the server."""
    value = encode(record)[:-1] + b"?"
    if not node_folder(server).exists():
        request = b"set %b %d 0 %d\r\n%b\r\n" % (KEY, RECORD_FLAGS, len(value), value)
        assert ask(server, request) == b"STORED\r\n"
        return
    with (
        lmdb.open(str(node_folder(server)), lib_version=0) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(KEY, value)


def only(*heads: Head | None) -> tuple[Guard, list[Head | None]]:
    """Return a guard that forbids all but ``heads``, and the list of what it has been shown."""
    seen: list[Head | None] = []

    def guard(head: Head | None) -> None:
        seen.append(head)
        if head not in heads:
            raise Refused

    return guard, seen


def interrupted(guard: Guard, between: Callable[[], None]) -> Guard:
    """Return ``guard``, behind which ``between`` is called the first time."""
    todo = [between]

    def interrupting(head: Head | None) -> None:
        guard(head)
        if todo:
            todo.pop()()

    return interrupting


async def remove(server: Server, guard: Guard) -> bool:
    store = MemcachedStore(server.address, MemcachedSettings())
    try:
        return await store.delete(KEY, guard)
    finally:
        await store.close()


async def found(server: Server) -> Record | None:
    store = MemcachedStore(server.address, MemcachedSettings())
    try:
        return await store.get(KEY)
    finally:
        await store.close()


async def test_what_is_written_between_the_look_and_the_removal_stays(server: Server) -> None:
    write(server, OLD)
    guard, seen = only(OLD.head)
    with pytest.raises(Refused):
        await remove(server, interrupted(guard, lambda: write(server, NEW)))
    assert seen == [OLD.head, NEW.head]
    assert await found(server) == NEW


async def test_what_is_damaged_is_removed_and_what_is_written_over_it_stays(
    server: Server,
) -> None:
    damage(server, OLD)
    guard, seen = only(None, OLD.head)
    with suppress(Refused):
        await remove(server, interrupted(guard, lambda: write(server, NEW)))
    assert seen[1:] == [NEW.head]
    assert await found(server) == NEW
    damage(server, OLD)
    assert await remove(server, guard)
    assert await found(server) is None


async def test_what_is_damaged_is_told_once_wherever_it_was_found(server: Server) -> None:
    damage(server, OLD)
    with pytest.raises(Corrupt) as caught:
        await found(server)
    digests = OLD.head.digest.hex(), digest_of(b"ol?").hex()
    damaged = f"store {server.address} holds a damaged k"
    assert str(caught.value) == f"{damaged}: expected digest {digests[0]}, found {digests[1]}"


async def test_the_same_record_written_soundly_over_a_damaged_one_is_looked_at_again(
    server: Server,
) -> None:
    damage(server, OLD)
    guard, seen = only(None, OLD.head)
    assert await remove(server, interrupted(guard, lambda: write(server, OLD)))
    assert seen[1:] == [OLD.head]
    assert await found(server) is None


async def test_a_removal_that_finds_the_key_changed_and_allowed_removes_it(server: Server) -> None:
    write(server, OLD)
    guard, seen = only(OLD.head, NEW.head)
    assert await remove(server, interrupted(guard, lambda: write(server, NEW)))
    assert seen == [OLD.head, NEW.head]
    assert await found(server) is None


async def test_what_is_removed_meanwhile_is_not_there(server: Server) -> None:
    write(server, OLD)
    guard, seen = only(OLD.head, None)
    deleted = interrupted(guard, lambda: assert_deleted(server))
    assert not await remove(server, deleted)
    assert seen == [OLD.head, None]


def assert_deleted(server: Server) -> None:
    assert ask(server, b"delete %b\r\n" % KEY) == b"DELETED\r\n"


async def test_a_removal_leaves_nothing(server: Server) -> None:
    write(server, OLD)
    assert await remove(server, only(OLD.head)[0])
    assert ask(server, b"get %b\r\n" % KEY) == b"END\r\n"
    assert ask(server, b"lru_crawler metadump all\r\n") == b"END\r\n"
    assert not await remove(server, only(None)[0])
    if node_folder(server).exists():
        with (
            lmdb.open(str(node_folder(server)), lib_version=0) as environment,
            environment.begin() as transaction,
        ):
            assert transaction.get(KEY) is None
