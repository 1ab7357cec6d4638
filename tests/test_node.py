"""``sfss node``: a real process, spoken to over sockets, beside a memcached where both can."""

import asyncio
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sfss.config import MemcachedSettings
from sfss.errors import StoreFull
from sfss.record import RECORD_FLAGS, encode, new_record
from sfss.stores.memcached import MemcachedStore
from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SFSS,
    Server,
    binary,
    free_port,
    listens,
    memcached,
    node,
    node_folder,
    running,
    wait_until,
)

MIB = 1024 * 1024
STORED = b"STORED\r\n"


@pytest.fixture(name="shared", scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node for all tests that use keys of their own."""
    with running(node(tmp_path_factory.mktemp("node"))) as server:
        yield server


@pytest.fixture(name="rival", scope="module")
def shared_memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A memcached for the same."""
    with running(memcached(tmp_path_factory.mktemp("memcached"))) as server:
        yield server


@pytest.fixture(name="own")
def node_of_its_own(tmp_path: Path) -> Iterator[Server]:
    """A node for one test."""
    with running(node(tmp_path)) as server:
        yield server


class Client:
    """One connection."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=DEADLINE_S)
        self._lines = self.socket.makefile("rb")

    def close(self) -> None:
        """Leave."""
        self._lines.close()
        self.socket.close()

    def send(self, request: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(request)

    def line(self) -> bytes:
        """Return the next line; nothing at the end."""
        return self._lines.readline()

    def read(self, size: int) -> bytes:
        """Return so many bytes, or fewer at the end."""
        return self._lines.read(size)

    def ask(self, request: bytes) -> bytes:
        """Send a request and return the line that answers it."""
        self.send(request)
        return self.line()

    def get(self, key: bytes) -> bytes | None:
        """Return the value under ``key``."""
        found = self.ask(b"get %b\r\n" % key)
        if found == b"END\r\n":
            return None
        value = self.read(int(found.split()[3]))
        assert found.startswith(b"VALUE %b " % key)
        assert self.read(7) == b"\r\nEND\r\n"
        return value


@contextmanager
def client_of(server: Server) -> Iterator[Client]:
    """A client for the block."""
    with closing(Client(server)) as client:
        yield client


def exchange(server: Server, request: bytes) -> bytes:
    """Send ``request`` and nothing more; return all that is answered until the server closes."""
    with client_of(server) as client:
        sender = threading.Thread(target=_send_all, args=(client.socket, request))
        sender.start()
        answer = client.read(-1)
        sender.join()
        return answer


def _send_all(connection: socket.socket, request: bytes) -> None:
    with suppress(OSError):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)


def set_command(key: bytes, value: bytes, flags: int = 0, tail: bytes = b"") -> bytes:
    """Return a set with whatever should stand at the end of its line."""
    return b"set %b %d 0 %d%b\r\n%b\r\n" % (key, flags, len(value), tail, value)


def stats_of(server: Server, group: bytes = b"") -> dict[str, str]:
    """Return what ``stats`` says."""
    lines = exchange(server, b"stats %b\r\n" % group).decode().splitlines()
    assert lines.pop() == "END"
    return dict(line.removeprefix("STAT ").split(" ", 1) for line in lines)


# -- the protocol

EXCHANGES: dict[str, tuple[bytes, bytes]] = {
    "nothing there": (b"get K\r\n", b"END\r\n"),
    "set and get": (
        b"set K 5 0 3\r\nabc\r\nget K\r\n",
        b"STORED\r\nVALUE K 5 3\r\nabc\r\nEND\r\n",
    ),
    "lines that end in LF": (
        b"set K 5 0 1\na\r\nget K\n",
        b"STORED\r\nVALUE K 5 1\r\na\r\nEND\r\n",
    ),
    "an empty value": (
        b"set K 0 0 0\r\n\r\nget K\r\n",
        b"STORED\r\nVALUE K 0 0\r\n\r\nEND\r\n",
    ),
    "commands in a value": (
        b"set K 0 0 14\r\nget x\r\nget x\r\n\r\nget K\r\n",
        b"STORED\r\nVALUE K 0 14\r\nget x\r\nget x\r\n\r\nEND\r\n",
    ),
    "the largest flags": (
        b"set K 4294967295 0 1\r\na\r\nget K\r\n",
        b"STORED\r\nVALUE K 4294967295 1\r\na\r\nEND\r\n",
    ),
    "read your writes": (
        b"set K 1 0 1\r\na\r\nget K\r\nset K 2 0 1\r\nb\r\nget K\r\ndelete K\r\nget K\r\n",
        b"STORED\r\nVALUE K 1 1\r\na\r\nEND\r\nSTORED\r\nVALUE K 2 1\r\nb\r\nEND\r\n"
        b"DELETED\r\nEND\r\n",
    ),
    "many keys, some twice, some missing": (
        b"set K 0 0 1\r\na\r\nset K2 0 0 1\r\nb\r\nget K K1 K2 K\r\n",
        b"STORED\r\nSTORED\r\nVALUE K 0 1\r\na\r\nVALUE K2 0 1\r\nb\r\nVALUE K 0 1\r\na\r\nEND\r\n",
    ),
    "add": (
        b"add K 1 0 1\r\na\r\nadd K 2 0 1\r\nb\r\nget K\r\n",
        b"STORED\r\nNOT_STORED\r\nVALUE K 1 1\r\na\r\nEND\r\n",
    ),
    "replace": (
        b"replace K 1 0 1\r\na\r\nset K 2 0 1\r\nb\r\nreplace K 3 0 1\r\nc\r\nget K\r\n",
        b"NOT_STORED\r\nSTORED\r\nSTORED\r\nVALUE K 3 1\r\nc\r\nEND\r\n",
    ),
    "append and prepend keep the flags": (
        b"append K 1 0 1\r\na\r\nprepend K 1 0 1\r\na\r\nset K 2 0 1\r\nb\r\n"
        b"append K 3 0 2\r\ncd\r\nprepend K 4 0 1\r\na\r\nget K\r\n",
        b"NOT_STORED\r\nNOT_STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nVALUE K 2 4\r\nabcd\r\nEND\r\n",
    ),
    "delete": (
        b"set K 0 0 1\r\na\r\ndelete K\r\ndelete K\r\ndelete K 0\r\n",
        b"STORED\r\nDELETED\r\nNOT_FOUND\r\nNOT_FOUND\r\n",
    ),
    "a key of the name noreply": (
        b"set noreply 0 0 1\r\na\r\nget noreply\r\ndelete noreply\r\nget noreply\r\n",
        b"STORED\r\nVALUE noreply 0 1\r\na\r\nEND\r\nDELETED\r\nEND\r\n",
    ),
    "incr": (
        b"incr K 1\r\nset K 7 0 1\r\n9\r\nincr K 1\r\nincr K 90\r\nget K\r\n",
        b"NOT_FOUND\r\nSTORED\r\n10\r\n100\r\nVALUE K 7 3\r\n100\r\nEND\r\n",
    ),
    "incr wraps": (
        b"set K 0 0 20\r\n18446744073709551615\r\nincr K 1\r\nincr K 5\r\n",
        b"STORED\r\n0\r\n5\r\n",
    ),
    "decr stops at 0": (
        b"set K 0 0 1\r\n5\r\ndecr K 3\r\ndecr K 3\r\ndecr K 18446744073709551615\r\n",
        b"STORED\r\n2\r\n0\r\n0\r\n",
    ),
    "no number": (
        b"set K 0 0 1\r\nx\r\nincr K 1\r\ndecr K 1\r\nincr K x\r\nget K\r\n",
        b"STORED\r\n"
        + b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n" * 2
        + b"CLIENT_ERROR invalid numeric delta argument\r\nVALUE K 0 1\r\nx\r\nEND\r\n",
    ),
    "expired at once": (
        b"set K 0 -1 1\r\na\r\nget K\r\ngets K\r\nincr K 1\r\ntouch K 0\r\ndelete K\r\n"
        b"add K 0 0 1\r\nb\r\nget K\r\n",
        b"STORED\r\nEND\r\nEND\r\nNOT_FOUND\r\nNOT_FOUND\r\nNOT_FOUND\r\nSTORED\r\n"
        b"VALUE K 0 1\r\nb\r\nEND\r\n",
    ),
    "expires later": (
        b"set K 0 1000 1\r\na\r\nget K\r\ntouch K -1\r\nget K\r\ntouch K 0\r\n",
        b"STORED\r\nVALUE K 0 1\r\na\r\nEND\r\nTOUCHED\r\nEND\r\nNOT_FOUND\r\n",
    ),
    "a time in the past, a time in the future": (
        b"set K 0 1000000000 1\r\na\r\nget K\r\nset K 0 2100000000 1\r\nb\r\nget K\r\n",
        b"STORED\r\nEND\r\nSTORED\r\nVALUE K 0 1\r\nb\r\nEND\r\n",
    ),
    "append keeps the expiry": (
        b"set K 0 1000 1\r\na\r\nappend K 0 -1 1\r\nb\r\nget K\r\n",
        b"STORED\r\nSTORED\r\nVALUE K 0 2\r\nab\r\nEND\r\n",
    ),
    "touch": (
        b"touch K 0\r\nset K 3 0 1\r\na\r\ntouch K 1000\r\nget K\r\n",
        b"NOT_FOUND\r\nSTORED\r\nTOUCHED\r\nVALUE K 3 1\r\na\r\nEND\r\n",
    ),
    "gat": (
        b"gat 0 K\r\nset K 3 0 1\r\na\r\ngat 1000 K K1\r\ngat -1 K\r\nget K\r\n",
        b"END\r\nSTORED\r\n" + b"VALUE K 3 1\r\na\r\nEND\r\n" * 2 + b"END\r\n",
    ),
    "what has expired when it comes takes the place of what was there": (
        b"set K 0 0 1\r\na\r\nset K 0 -1 1\r\nb\r\nget K\r\ndelete K\r\n"
        b"set K 0 -1 1\r\nb\r\nadd K 0 -1 1\r\nb\r\nadd K 0 0 1\r\na\r\n"
        b"add K 0 -1 1\r\nb\r\nget K\r\n"
        b"cas K 0 -1 0 5\r\n\r\n",
        b"STORED\r\nSTORED\r\nEND\r\nNOT_FOUND\r\n"
        b"STORED\r\nSTORED\r\nSTORED\r\nNOT_STORED\r\nVALUE K 0 1\r\na\r\nEND\r\nEXISTS\r\n",
    ),
    "cas of nothing": (b"cas K 0 0 1 5\r\na\r\n", b"NOT_FOUND\r\n"),
    "noreply": (
        b"set K 0 0 1 noreply\r\n1\r\nadd K 0 0 1 noreply\r\n2\r\nappend K 0 0 1 noreply\r\n3\r\n"
        b"prepend K 0 0 1 noreply\r\n4\r\nincr K 1 noreply\r\ndecr K 2 noreply\r\n"
        b"touch K 0 noreply\r\nget K\r\nreplace K 0 0 1 noreply\r\n5\r\nget K\r\n"
        b"delete K noreply\r\ndelete K noreply\r\nincr K 1 noreply\r\nget K\r\n",
        b"VALUE K 0 3\r\n412\r\nEND\r\nVALUE K 0 1\r\n5\r\nEND\r\nEND\r\n",
    ),
    "unknown commands": (
        b"foo\r\n\r\nget\r\ngets\r\ndelete\r\nstats noreply\r\nset K 0 0 1\r\na\r\n",
        b"ERROR\r\n" * 6 + b"STORED\r\n",
    ),
    "the longest key": (
        b"set K" + b"k" * 218 + b" 0 0 1\r\na\r\nget K" + b"k" * 218 + b"\r\n",
        b"STORED\r\nVALUE K" + b"k" * 218 + b" 0 1\r\na\r\nEND\r\n",
    ),
    "bytes of any kind in a key": (
        b"set K\xff\x80%/@? 0 0 1\r\na\r\nget K\xff\x80%/@?\r\n",
        b"STORED\r\nVALUE K\xff\x80%/@? 0 1\r\na\r\nEND\r\n",
    ),
    "verbosity": (
        b"verbosity 1\r\nverbosity 1 noreply\r\nverbosity\r\nverbosity 0\r\n",
        b"OK\r\nERROR\r\nOK\r\n",
    ),
    "quit": (b"set K 0 0 1\r\na\r\nquit\r\nget K\r\n", b"STORED\r\n"),
}
"""What is asked and what is answered; a key of 32 bytes stands in for K."""


@pytest.mark.parametrize("what", EXCHANGES)
@pytest.mark.parametrize("kind", ["shared", "rival"])
def test_the_same_answers_as_memcached(
    request: pytest.FixtureRequest, kind: str, what: str
) -> None:
    server: Server = request.getfixturevalue(kind)
    key = uuid.uuid4().hex.encode()
    asked, answered = (re.sub(rb"\bK", key, text) for text in EXCHANGES[what])
    assert exchange(server, asked) == answered
    with client_of(server) as client:  # what was stored is out of the way
        client.ask(b"delete %b\r\n" % key)
        for byte in asked[:400]:
            client.send(bytes([byte]))
        if len(asked) <= 400:
            assert client.read(len(answered)) == answered


KEYS = [b"a", b"b"]
VALUES = st.sampled_from([b"", b"7", b"18446744073709551610", b"x", b"get a\r\n"])
COMMANDS = st.one_of(
    st.builds(
        lambda verb, key, flags, exptime, value, noreply: (
            b"%b %b %d %d %d%b\r\n%b\r\n" % (verb, key, flags, exptime, len(value), noreply, value)
        ),
        st.sampled_from([b"set", b"add", b"replace", b"append", b"prepend"]),
        st.sampled_from(KEYS),
        st.sampled_from([0, 1, RECORD_FLAGS - 1, 2**32 - 1]),
        st.sampled_from([0, 0, 1000, -1]),
        VALUES,
        st.sampled_from([b"", b"", b" noreply"]),
    ),
    st.builds(
        lambda verb, key, number: b"%b %b %d\r\n" % (verb, key, number),
        st.sampled_from([b"incr", b"touch"]),
        st.sampled_from(KEYS),
        st.sampled_from([0, 1]),
    ),
    st.sampled_from([b"delete a\r\n", b"delete b noreply\r\n", b"get a b\r\n", b"get a\r\n"]),
    st.sampled_from([b"gat 0 a\r\n", b"get b\r\n", b"foo\r\n", b"version 1\r\n"]),
)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commands=st.lists(COMMANDS, min_size=1, max_size=25))
def test_any_commands_are_answered_as_by_memcached(
    shared: Server, rival: Server, commands: list[bytes]
) -> None:
    start = b"delete a noreply\r\ndelete b noreply\r\n"
    asked = start + b"".join(commands) + b"get a b\r\n"
    theirs = exchange(rival, asked).replace(b"VERSION 1.6.18", b"VERSION 2.0.0")
    assert exchange(shared, asked) == theirs


def test_memcapable_passes_all_its_ascii_tests(tmp_path: Path) -> None:
    program = binary("memccapable")
    with running(node(tmp_path, "--allow-flush")) as server:
        command = [program, "-a", "-h", server.host, "-p", str(server.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "All tests passed" in done.stderr + done.stdout
    assert (done.stdout + done.stderr).count("[pass]") == 27
    assert done.returncode == 0


def test_cas(shared: Server) -> None:
    with client_of(shared) as client:
        client.ask(set_command(b"cas", b"1"))
        unique = int(client.ask(b"gets cas\r\n").split()[4])
        assert client.read(8) == b"1\r\nEND\r\n"
        assert client.ask(b"cas cas 0 0 1 %d\r\n2\r\n" % (unique ^ 1)) == b"EXISTS\r\n"
        assert client.ask(b"cas cas 0 0 1 %d\r\n2\r\n" % unique) == STORED
        assert client.ask(b"cas cas 0 0 1 %d\r\n3\r\n" % unique) == b"EXISTS\r\n"
        assert client.get(b"cas") == b"2"
        # The same bytes again are another item: nobody may take it for the one that he read.
        client.ask(set_command(b"cas", b"1"))
        assert client.ask(b"cas cas 0 0 1 %d\r\n4\r\n" % unique) == b"EXISTS\r\n"


def test_flush_all_is_refused_unless_it_is_allowed(own: Server, tmp_path: Path) -> None:
    refused = b"CLIENT_ERROR flush_all not allowed\r\n"
    assert exchange(own, set_command(b"a", b"x") + b"flush_all\r\nget a\r\n") == (
        STORED + refused + b"VALUE a 0 1\r\nx\r\nEND\r\n"
    )
    assert exchange(own, b"flush_all noreply\r\nget a\r\n") == b"VALUE a 0 1\r\nx\r\nEND\r\n"
    assert stats_of(own, b"settings")["flush_enabled"] == "no"
    with running(node(tmp_path, "--allow-flush")) as server:
        sets = b"".join(set_command(b"k%d" % number, b"x") for number in range(2000))
        assert exchange(server, sets + b"flush_all\r\nget k0 k1999\r\n") == (
            STORED * 2000 + b"OK\r\nEND\r\n"
        )
        assert stats_of(server)["curr_items"] == "0"
        assert exchange(server, b"flush_all 10\r\n").startswith(b"CLIENT_ERROR")


def test_metadump_lists_every_key_as_memcached_does(own: Server, rival: Server) -> None:
    keys = [b"plain", b"a b%c/\xc3\xa4?@&=+".replace(b" ", b"_"), *(b"%d" % n for n in range(1500))]
    sets = b"".join(set_command(key, b"x" * 10) for key in keys)
    expiring = b"set later 0 2100000000 1\r\nx\r\nset gone 0 -1 1\r\nx\r\n"
    listings = []
    for server in (own, rival):
        exchange(server, sets + expiring)
        *lines, end = exchange(server, b"lru_crawler metadump all\r\n").split(b"\n")[:-1]
        assert end == b"END\r"
        rows = [dict(field.split(b"=", 1) for field in line.split()) for line in lines]
        assert all(list(row) == list(rows[0]) for row in rows)
        listings.append({row[b"key"]: row for row in rows})
    ours, theirs = listings
    assert list(next(iter(ours.values()))) == list(next(iter(theirs.values())))
    assert set(ours) <= set(theirs)
    assert len(ours) == len(keys) + 1
    assert [ours[key][b"exp"] for key in (b"later", b"plain")] == [b"2100000000", b"-1"]
    assert (ours[b"later"][b"size"], ours[b"plain"][b"size"]) == (b"1", b"10")
    assert list(ours) == sorted(ours, key=lambda key: bytes(key).replace(b"%25", b"%"))


def flip(position: int) -> Callable[[bytearray], None]:
    """Return what changes one bit at ``position``."""

    def change(value: bytearray) -> None:
        value[position] ^= 1

    return change


@pytest.mark.parametrize("change", [flip(20), lambda value: value.__delitem__(slice(-3, None))])
def test_metadump_lists_what_is_damaged_without_a_cas_number(
    own: Server, change: Callable[[bytearray], object]
) -> None:
    exchange(own, b"".join(set_command(key, b"body") for key in (b"a", b"b", b"c")))
    plant(own, b"b", change)
    listed = exchange(own, b"lru_crawler metadump all\r\n").split(b"\n")
    assert [line.split()[0] for line in listed[:3]] == [b"key=a", b"key=b", b"key=c"]
    assert listed[1] == b"key=b exp=-1 la=0 cas=0 fetch=no cls=1 size=0"
    with running(node(own.folder, "--allow-flush")) as flushed:
        exchange(flushed, set_command(b"b", b"body"))
        plant(flushed, b"b", change)
        assert exchange(flushed, b"flush_all\r\n") == b"OK\r\n"
        assert stats_of(flushed)["curr_items"] == "0"


def test_equal_records_have_equal_cas_numbers_on_two_nodes(own: Server, shared: Server) -> None:
    record = set_command(b"same", encode(new_record(b"body", 5, {"a": "b"})), RECORD_FLAGS)
    numbers = set()
    for server in (own, shared):
        exchange(server, record)
        listed = exchange(server, b"lru_crawler metadump all\r\n").split(b"\n")
        (line,) = (line for line in listed if line.startswith(b"key=same "))
        numbers.add(line.split()[3])
        assert line.endswith(b" size=%d" % (56 + 9 + 4))
    assert len(numbers) == 1


BEANSDB_NAMES = {
    *("pid", "uptime", "time", "version", "pointer_size"),
    *("rusage_user", "rusage_system", "curr_items", "total_items", "curr_connections"),
    *("total_connections", "connection_structures", "cmd_get", "cmd_set", "cmd_delete"),
    *("get_hits", "get_misses", "bytes_read", "bytes_written", "threads"),
    *("avail_space", "total_space", "rusage_maxrss", "rusage_minflt", "rusage_majflt"),
    *("rusage_nswap", "rusage_inblock", "rusage_oublock", "rusage_nvcsw", "rusage_nivcsw"),
}


def test_stats_have_the_names_of_beansdb_and_memcached(own: Server, rival: Server) -> None:
    exchange(
        own,
        set_command(b"a", b"x" * 100)
        + b"get a\r\nget a b\r\ndelete a\r\ndelete a\r\nincr a 1\r\ncas a 0 0 1 1\r\nx\r\n"
        + set_command(b"kept", b"5")
        + b"incr kept 1\r\ntouch kept 0\r\n",
    )
    stats = stats_of(own)
    assert set(stats) >= BEANSDB_NAMES
    assert set(stats) - BEANSDB_NAMES - set(stats_of(rival)) == {"errors"}
    expected = {
        **{"get_hits": 2, "get_misses": 1, "cmd_get": 3, "cmd_set": 2, "total_items": 2},
        **{"delete_hits": 1, "delete_misses": 1, "incr_hits": 1, "incr_misses": 1},
        **{"cas_misses": 1, "touch_hits": 1, "curr_items": 1, "curr_connections": 1},
    }
    assert {name: int(stats[name]) for name in expected} == expected
    assert stats["pid"] == str(own.pid)
    assert int(stats["bytes_read"]) > 200 < int(stats["bytes_written"])


def test_stats_settings_say_what_is_allowed(tmp_path: Path) -> None:
    with running(node(tmp_path, "--item-limit", "1000", "--connections", "77")) as server:
        settings = stats_of(server, b"settings")
        assert (settings["item_size_max"], settings["maxconns"]) == ("1000", "77")
        assert settings["tcpport"] == str(server.port)
        assert stats_of(server, b"items") == stats_of(server, b"slabs") == {}
        assert exchange(server, b"stats foo\r\n") == b"ERROR\r\n"


# -- records


def test_a_record_is_kept_and_given_back_to_the_byte(shared: Server) -> None:
    value = encode(new_record(b"body", 1_700_000_000_000_000, {"Content-Type": "image/png"}))
    answer = exchange(shared, set_command(b"record", value, RECORD_FLAGS) + b"get record\r\n")
    assert answer == STORED + b"VALUE record %d %d\r\n%b\r\nEND\r\n" % (
        RECORD_FLAGS,
        len(value),
        value,
    )


def test_what_says_that_it_is_a_record_and_is_none_is_refused_in_step(shared: Server) -> None:
    good = set_command(b"none", encode(new_record(b"body", 1)), RECORD_FLAGS)
    bad = [
        set_command(b"none", b"get none\r\nget none\r\n", RECORD_FLAGS),
        set_command(b"none", encode(new_record(b"body", 1))[:-1] + b"x", RECORD_FLAGS),
        b"set none %d 100 60\r\n%b\r\n" % (RECORD_FLAGS, encode(new_record(b"body", 1))),
    ]
    lines = exchange(shared, good + b"".join(bad) + b"version\r\n").split(b"\r\n")
    assert lines[0] + b"\r\n" == STORED
    assert all(line.startswith(b"CLIENT_ERROR ") for line in lines[1:4])
    assert lines[4].startswith(b"VERSION ") and lines[5:] == [b""]
    with client_of(shared) as client:
        assert client.get(b"none") == encode(new_record(b"body", 1))


def test_a_record_can_only_be_replaced(shared: Server) -> None:
    value = encode(new_record(b"1", 1))
    asked = (
        b"append fixed 0 0 1\r\n1\r\nprepend fixed 0 0 1\r\n1\r\nincr fixed 1\r\ntouch fixed 5\r\n"
        b"gat 5 fixed\r\n"
    )
    lines = exchange(shared, set_command(b"fixed", value, RECORD_FLAGS) + asked).splitlines()
    assert len(lines) == 6
    assert all(line.startswith(b"CLIENT_ERROR ") for line in lines[1:])
    with client_of(shared) as client:
        assert client.get(b"fixed") == value


# -- what is kept


def plant(server: Server, key: bytes, change: Callable[[bytearray], object]) -> None:
    """Change the bytes under ``key`` behind the back of the node, from this process."""
    environment = lmdb.open(str(node_folder(server)), lib_version=0)
    with environment.begin(write=True) as transaction:
        value = bytearray(transaction.get(key) or b"")
        change(value)
        transaction.put(key, bytes(value))
    environment.close()


@pytest.mark.parametrize("position", [-1, 2, 20, 60])
@pytest.mark.parametrize("flags", [0, RECORD_FLAGS])
def test_damaged_bytes_are_never_served_and_no_miss(own: Server, position: int, flags: int) -> None:
    secret = b"never to be seen damaged"
    value = encode(new_record(secret, 5, {"a": "b"})) if flags else secret
    with client_of(own) as client:
        assert client.ask(set_command(b"a", value, flags)) == STORED
        assert client.ask(set_command(b"b", b"sound")) == STORED
        assert client.get(b"a") == client.get(b"a") == value  # it is remembered, too
        plant(own, b"a", flip(position))
        answer = client.ask(b"get a\r\n")
        assert answer.startswith(b"SERVER_ERROR damaged record: ")
        assert secret not in answer
        assert client.ask(b"get b a b\r\n") == b"VALUE b 0 5\r\n"
        assert client.read(7) == b"sound\r\n"
        assert client.line().startswith(b"SERVER_ERROR damaged record: ")
        assert client.ask(b"append a 0 0 1\r\nx\r\n").startswith(b"SERVER_ERROR damaged record: ")
        assert client.ask(b"gets a\r\n").startswith(b"SERVER_ERROR damaged record: ")
        assert client.ask(b"version\r\n").startswith(b"VERSION ")
        assert client.ask(set_command(b"a", b"new")) == STORED
        assert client.get(b"a") == b"new"
        plant(own, b"a", flip(position))
        assert client.ask(b"delete a\r\n") == b"DELETED\r\n"
        assert client.get(b"a") is None
        client.ask(set_command(b"a", value, flags))
        plant(own, b"a", flip(position))
        assert client.ask(b"delete_damaged b\r\ndelete_damaged a\r\n") == b"NOT_FOUND\r\n"
        assert client.line() == b"DELETED\r\n"
        assert client.ask(b"delete_damaged a\r\n") == b"NOT_FOUND\r\n"
        assert client.get(b"a") is None
    assert int(stats_of(own)["errors"]) == 4


def test_a_store_that_is_gone_is_an_error_and_no_miss(own: Server) -> None:
    with client_of(own) as client:
        client.ask(set_command(b"a", b"x"))
        node_folder(own).rename(own.folder / "away")
        assert client.ask(set_command(b"b", b"x")).startswith(b"SERVER_ERROR store ")
        for request in (b"get a\r\n", b"get nothing\r\n", b"delete a\r\n", b"incr a 1\r\n"):
            assert client.ask(request).startswith(b"SERVER_ERROR store "), request
        for request in (b"stats\r\n", b"lru_crawler metadump all\r\n"):
            assert client.ask(request).startswith(b"SERVER_ERROR store "), request
        (own.folder / "away").rename(node_folder(own))
        wait_until(lambda: client.get(b"a") == b"x", "the store is back")
        assert client.get(b"b") is None


def test_a_full_disk_refuses_keeps_what_was_there_and_serves_on(own: Server) -> None:
    with client_of(own) as client:
        assert client.ask(set_command(b"kept", b"old")) == STORED
        size = (node_folder(own) / "data.mdb").stat().st_size
        resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        answer = client.ask(set_command(b"kept", bytes(2 * MIB)))
        assert answer.startswith(b"SERVER_ERROR disk full: ")
        assert client.get(b"kept") == b"old"
        with pytest.raises(StoreFull) as caught:
            asyncio.run(_set_through_our_client(own, b"kept", bytes(2 * MIB)))
        assert not caught.value.former_lost
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(own.pid, resource.RLIMIT_FSIZE, unlimited)
        assert client.ask(set_command(b"kept", bytes(2 * MIB))) == STORED


async def _set_through_our_client(server: Server, key: bytes, body: bytes) -> None:
    store = MemcachedStore(server.address, MemcachedSettings())
    try:
        await store.set(key, new_record(body, 1))
    finally:
        await store.close()


def test_everything_is_there_after_a_restart(own: Server) -> None:
    record = encode(new_record(b"body", 5))
    asked = (
        set_command(b"plain", b"x", 7)
        + set_command(b"record", record, RECORD_FLAGS)
        + b"set later 3 2100000000 1\r\ny\r\n"
    )
    reads = b"gets plain record later\r\nlru_crawler metadump all\r\n"
    before = exchange(own, asked + reads).removeprefix(STORED * 3)
    assert own.stop() == 0
    own.start()
    assert exchange(own, reads) == before


class Writer(threading.Thread):
    """Sends sets, many at once, and remembers which were acknowledged."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__()
        self._client, self._number = Client(server), number
        self.kept: list[bytes] = []
        self.sent: list[bytes] = []

    def run(self) -> None:
        """Go on until the server is gone."""
        with closing(self._client), suppress(OSError):
            while True:
                keys = [b"%d-%d" % (self._number, len(self.sent) + n) for n in range(50)]
                self.sent += keys
                self._client.send(b"".join(set_command(key, key * 50) for key in keys))
                for key in keys:
                    if self._client.line() != STORED:
                        return
                    self.kept.append(key)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_every_acknowledged_set_is_there_after_the_end(own: Server, end: signal.Signals) -> None:
    writers = [Writer(own, number) for number in range(4)]
    for writer in writers:
        writer.start()
    wait_until(lambda: all(len(writer.kept) > 500 for writer in writers), "sets were kept")
    own.send(end)
    for writer in writers:
        writer.join(DEADLINE_S)
        assert not writer.is_alive()
    own.kill()
    own.start()
    with client_of(own) as client:
        for writer in writers:
            for key in writer.kept:
                assert client.get(key) == key * 50
            for key in writer.sent[len(writer.kept) :]:
                assert client.get(key) in (None, key * 50)


# -- many at once


def together(count: int, work: Callable[[int], object]) -> list[object]:
    """Return what ``work`` returns for 0 to ``count``, each in a thread of its own."""
    results: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(DEADLINE_S)
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_counting_together_loses_nothing(shared: Server) -> None:
    exchange(shared, set_command(b"counter", b"0"))

    def count(_: int) -> list[bytes]:
        with client_of(shared) as client:
            return [client.ask(b"incr counter 1\r\n") for _ in range(25)]

    answers = [line for lines in together(8, count) for line in lines]  # type: ignore[attr-defined]
    assert sorted(map(int, answers)) == list(range(1, 201))


def test_appending_together_loses_nothing(shared: Server) -> None:
    exchange(shared, set_command(b"pieces", b""))
    pieces = [b"<%d>" % number for number in range(80)]

    def append(number: int) -> bytes:
        mine = pieces[number * 10 : number * 10 + 10]
        verb = b"append" if number % 2 else b"prepend"
        commands = (b"%b pieces 0 0 %d\r\n%b\r\n" % (verb, len(piece), piece) for piece in mine)
        return exchange(shared, b"".join(commands))

    assert together(8, append) == [STORED * 10] * 8
    with client_of(shared) as client:
        whole = client.get(b"pieces") or b""
    assert sorted(whole.replace(b"><", b"> <").split()) == sorted(pieces)


def test_only_one_of_many_that_add_or_compare_wins(shared: Server) -> None:
    outcomes = together(8, lambda n: exchange(shared, b"add first 0 0 1\r\n%d\r\n" % n))
    assert sorted(outcomes) == sorted([STORED, *[b"NOT_STORED\r\n"] * 7])  # type: ignore[type-var]
    unique = int(exchange(shared, b"gets first\r\n").split()[4])
    outcomes = together(8, lambda n: exchange(shared, b"cas first 0 0 1 %d\r\nx\r\n" % unique))
    assert sorted(outcomes) == sorted([STORED, *[b"EXISTS\r\n"] * 7])  # type: ignore[type-var]


def test_what_one_client_wrote_another_reads_at_once(shared: Server) -> None:
    with client_of(shared) as one, client_of(shared) as other:
        for number in range(50):
            writer, reader = (one, other) if number % 2 else (other, one)
            assert writer.ask(set_command(b"turns", b"%d" % number)) == STORED
            assert reader.get(b"turns") == b"%d" % number


def test_thousands_of_pipelined_commands_are_answered_in_order(shared: Server) -> None:
    count = 20_000
    sets = b"".join(set_command(b"p%d" % n, b"%d" % n, n) for n in range(count))
    assert exchange(shared, sets) == STORED * count
    gets = b"".join(b"get p%d%b\r\n" % (n, b"x" * (n % 7 == 0)) for n in range(count))
    expected = b"".join(
        b"END\r\n" if n % 7 == 0 else b"VALUE p%d %d %d\r\n%d\r\nEND\r\n" % (n, n, len(str(n)), n)
        for n in range(count)
    )
    assert exchange(shared, gets) == expected
    keys = [b"p%d" % n for n in range(count)]
    lines = b"".join(b"get %b\r\n" % b" ".join(keys[n : n + 50]) for n in range(0, count, 50))
    assert exchange(shared, lines).count(b"VALUE ") == count
    deletes = b"".join(b"delete %b noreply\r\n" % key for key in keys)
    assert exchange(shared, deletes + b"get p1 p2\r\n") == b"END\r\n"


@pytest.mark.parametrize("size", [65_536, 262_144, 300_000, 20 * MIB])
def test_large_values_between_others(shared: Server, size: int) -> None:
    value = os.urandom(size)
    asked = set_command(b"small", b"x") + set_command(b"large", value, 9) + b"get small large\r\n"
    expected = b"VALUE small 0 1\r\nx\r\nVALUE large 9 %d\r\n%b\r\nEND\r\n" % (size, value)
    assert exchange(shared, asked * 2) == (STORED * 2 + expected) * 2


# -- clients that misbehave


def private_mib(server: Server) -> float:
    """Return the memory that is the node's alone."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def test_a_value_over_the_limit_is_passed_over_and_the_old_one_stays(tmp_path: Path) -> None:
    with running(node(tmp_path, "--item-limit", str(MIB))) as server:
        assert exchange(server, set_command(b"a", bytes(MIB))) == STORED
        before = private_mib(server)
        too_large = b"SERVER_ERROR object too large for cache\r\n"
        large = b"get a\r\n" * (30 * MIB)
        answer = exchange(
            server, set_command(b"a", large) + b"append a 0 0 1\r\nx\r\n" + b"get a\r\n"
        )
        assert answer == too_large * 2 + b"VALUE a 0 %d\r\n%b\r\nEND\r\n" % (MIB, bytes(MIB))
        assert exchange(server, set_command(b"a", large[: MIB + 1], tail=b" noreply")) == b""
        assert private_mib(server) < before + 20


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"\x80\x00\x00\x01" + bytes(20) + b"set evil 0 0 1\r\nx\r\n", b""),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\nset evil 0 0 1\r\nx\r\n", b"ERROR\r\n"),
        (b"get " + b"k" * 70_000, b"CLIENT_ERROR line too long\r\n"),
        (b"set evil 0 0 3\r\nabcdef\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
        (b"set evil 0 0 -5\r\nset evil 0 0 1\r\nx\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
        (b"set evil 0 0\r\nset evil 0 0 1\r\nx\r\n", b"CLIENT_ERROR bad command line format\r\n"),
        (b"set " + b"k" * 251 + b" 0 0 1\r\nx\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    ],
)
def test_nothing_of_a_broken_client_is_taken_for_commands(
    shared: Server, request_: bytes, answer: bytes
) -> None:
    with client_of(shared) as client:
        client.send(request_)
        if b"k" * 251 not in request_ or len(request_) > 300:
            assert client.read(1000) == answer  # and closed
        else:
            assert client.line() == answer
    assert exchange(shared, b"get evil\r\n") == b"END\r\n"


def test_a_client_that_does_not_read_costs_no_memory_and_nobody_else(own: Server) -> None:
    value = os.urandom(MIB)
    exchange(own, set_command(b"large", value) + set_command(b"small", b"x" * 100))
    before = private_mib(own)
    with client_of(own) as large, client_of(own) as many:
        large.send(b"get large\r\n" * 500)
        many.send(b"get large large large large\r\n" * 100 + set_command(b"w", b"x"))
        with client_of(own) as other:
            for _ in range(100):
                assert other.get(b"small") == b"x" * 100
                assert other.ask(set_command(b"other", b"y")) == STORED
        assert private_mib(own) < before + 40
        one = b"VALUE large 0 %d\r\n%b\r\n" % (MIB, value)
        for _ in range(500):
            assert large.read(len(one) + 5) == one + b"END\r\n"
        for _ in range(100):
            assert many.read(4 * len(one) + 5) == one * 4 + b"END\r\n"
        assert many.line() == STORED


FLOODS = {
    "gets": b"get small\r\n",
    "gets with cas numbers": b"gets small\r\n",
    "other commands": b"stats settings\r\n",
}


def flood(connection: socket.socket, request: bytes, limit: int) -> int:
    """Send ``request`` again and again until the other side takes no more; return how often.

    Fails when it has taken ``limit`` bytes.
    """
    connection.setblocking(False)
    crowd = request * 1000
    sent = 0
    while select.select([], [connection], [], 0.5)[1]:
        with suppress(BlockingIOError):
            sent += connection.send(memoryview(crowd)[sent % len(request) :])
        if sent > limit:
            pytest.fail(f"{sent} bytes were taken from a client that does not read")
    connection.settimeout(DEADLINE_S)
    _send_all_of(connection, memoryview(request)[sent % len(request) or len(request) :])
    return -(-sent // len(request))


def _send_all_of(connection: socket.socket, rest: memoryview) -> None:
    threading.Thread(target=connection.sendall, args=(rest,), daemon=True).start()


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_of_commands_is_not_read_when_its_answers_are_not(own: Server, what: str) -> None:
    request = FLOODS[what]
    exchange(own, set_command(b"small", b"x" * 1000))
    before = private_mib(own)
    with client_of(own) as client:
        # Less than this stays in the buffers of the kernel, on either side.
        count = flood(client.socket, request, 60 * MIB)
        assert private_mib(own) < before + 20
        one = exchange(own, request)
        assert client.read(len(one) * count) == one * count


def open_files(server: Server) -> int:
    """Return how many descriptors the process has."""
    return sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())


def test_hostile_clients_leave_nothing_behind(own: Server) -> None:
    chance = random.Random(20)
    exchange(own, set_command(b"kept", b"x" * 1000))
    descriptors = open_files(own)
    pieces: Sequence[bytes] = [
        *(b"set kept 0 0 5000000\r\nabc", b"set a 0 0 3\r\nab", b"get kept\r\n" * 500, b"\x80"),
        *(b"append kept 0 0 9\r\n", b"incr", b"cas a 0 0 1 1\r\n", b"\r\n", b"gat 1 a\r\n"),
        *(b"set a 0 0 1\r\nx\r\n" * 300, b"lru_crawler metadump all\r\n", b"stats\r\n"),
    ]
    for _ in range(150):
        client = Client(own)
        with suppress(OSError):
            for piece in chance.choices(pieces, k=chance.randrange(1, 6)):
                client.send(piece + chance.randbytes(chance.randrange(20)) * chance.randrange(2))
        if chance.random() < 0.5:  # a reset instead of an orderly end
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
        client.close()
    wait_until(lambda: stats_of(own)["curr_connections"] == "1", "all connections are let go")
    wait_until(lambda: open_files(own) <= descriptors, "all descriptors are let go")
    with client_of(own) as client:
        assert client.get(b"kept") == b"x" * 1000
    assert "Traceback" not in own.output()


def test_one_client_too_many_is_told_and_others_stay(tmp_path: Path) -> None:
    with running(node(tmp_path, "--connections", "3")) as server:
        clients = [Client(server) for _ in range(3)]
        for client in clients:
            assert client.ask(b"version\r\n").startswith(b"VERSION ")
        with client_of(server) as extra:
            assert extra.line() == b"ERROR Too many open connections\r\n"
            assert extra.line() == b""
        assert clients[0].ask(set_command(b"a", b"x")) == STORED
        clients[0].close()
        wait_until(lambda: _is_served(server), "there is room again")
        for client in clients[1:]:
            client.close()


def _is_served(server: Server) -> bool:
    with client_of(server) as client, suppress(OSError):
        return client.ask(b"version\r\n").startswith(b"VERSION ")
    return False


# -- the process


def test_a_stop_answers_what_was_sent_and_closes_idle_clients(own: Server) -> None:
    with client_of(own) as idle, client_of(own) as busy, client_of(own) as partial:
        assert idle.ask(b"version\r\n").startswith(b"VERSION ")
        partial.send(b"set half 0 0 10\r\nabc")
        busy.send(b"".join(set_command(b"b%d" % number, bytes(1000)) for number in range(5000)))
        own.send(signal.SIGTERM)
        assert busy.read(len(STORED) * 5000) == STORED * 5000
        assert busy.line() == idle.line() == partial.line() == b""
    assert own.stop() == 0
    assert not listens(own.port)
    own.start()
    with client_of(own) as client:
        assert client.get(b"half") is None
        assert all(client.get(b"b%d" % number) == bytes(1000) for number in range(0, 5000, 97))


def test_a_stop_does_not_wait_for_a_client_that_goes_on(own: Server) -> None:
    writer = Writer(own, 1)
    writer.start()
    wait_until(lambda: len(writer.kept) > 100, "sets were kept")
    assert own.stop() == 0
    writer.join(DEADLINE_S)
    assert not writer.is_alive()


def sfss(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*SFSS, *arguments],
        cwd=folder,
        env={**os.environ, **PYTHON_ENVIRON},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--listen", "nonsense"), "--listen"),
        (("--listen", "127.0.0.1:0"), "--listen"),
        (("--listen", "127.0.0.1:65536"), "--listen"),
        (("--listen", "192.0.2.1:7900"), "192.0.2.1:7900"),
        (("--item-limit", "0"), "--item-limit"),
        (("--connections", "-1"), "--connections"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    tmp_path: Path, arguments: Sequence[str], named: str
) -> None:
    ended = sfss("node", "--store", "store", *arguments, folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("sfss: ")
    assert named in ended.stderr


def test_a_taken_port_and_a_foreign_folder_are_one_sentence(own: Server, tmp_path: Path) -> None:
    ended = sfss("node", "--listen", own.address, "--store", "another", folder=tmp_path)
    assert (ended.returncode, own.address in ended.stderr) == (2, True)
    (tmp_path / "file").write_text("in the way")
    listen = f"127.0.0.1:{free_port()}"
    ended = sfss("node", "--listen", listen, "--store", "file", folder=tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)


def test_two_nodes_on_one_folder_are_one_store(own: Server) -> None:
    other = node(own.folder)
    other.command[-1] = own.command[-1]
    with running(other), client_of(own) as one, client_of(other) as two:
        for number in range(20):
            assert one.ask(set_command(b"a", b"%d" % number)) == STORED
            assert two.get(b"a") == b"%d" % number
            assert two.ask(b"incr a 1\r\n") == one.ask(b"incr a 0\r\n")
        both = (own, other)
        together(8, lambda n: exchange(both[n % 2], b"incr a 1\r\n" * 20))
        assert one.get(b"a") == b"%d" % (20 + 160)


def test_ipv6(tmp_path: Path) -> None:
    server = node(tmp_path)
    server.command[server.command.index("--listen") + 1] = f"[::1]:{server.port}"
    if not socket.has_ipv6 or shutil.which("ip") is None:
        pytest.skip("no IPv6 here")
    process = subprocess.Popen(
        server.command, cwd=tmp_path, env={**os.environ, **PYTHON_ENVIRON}, stderr=subprocess.PIPE
    )
    with process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert f"[::1]:{server.port}".encode() in line
