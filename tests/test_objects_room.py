"""Objects in a store that has a capacity, at work: real gateways, real S3 servers."""

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from sfss.config_reading import load
from sfss.errors import SettingError
from sfss.stores.embedded import EmbeddedStore
from tests.joined import BUCKET as MEMBERS_BUCKET
from tests.joined import Member, bucket_in, joined, settled
from tests.objstore import BUCKET, Objstore
from tests.servers import (
    PYTHON_ENVIRON,
    SECRET,
    SFSS,
    Answer,
    Gateway,
    S3Server,
    listens,
    running,
    s3,
    versitygw,
    wait_until,
)
from tests.shared_s3 import with_bucket

KIB, MIB = 1 << 10, 1 << 20
CAPACITY = 8 * MIB
SEED = int(os.environ.get("SFSS_SEED", "20261125"))


@pytest.fixture(name="server", params=[s3])
def own_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    if request.param is s3:
        with with_bucket(request.getfixturevalue("shared_s3"), BUCKET) as server:
            yield server
        return
    with running(request.param(tmp_path)) as server:
        server.make_bucket(BUCKET)
        yield server


both_servers = pytest.mark.parametrize("server", [s3, versitygw], indirect=True)


def small(folder: Path, server: S3Server, capacity: int = CAPACITY, **changes: str) -> Objstore:
    """Return a gateway (not started) with a store of this capacity, and chunks of small bodies."""
    fetch = changes.pop("fetch", '"asked"') + f"\ncapacity_bytes = {capacity}"
    most = f"{64 * MIB}\nchunks_above = {256 * KIB}"
    return Objstore(folder, server, fetch=fetch, max_file_size=most, **changes)


def put(gateway: Gateway, object_id: str, body: bytes, level: int = 1) -> Answer:
    fields = {"X-Meta-ID": object_id, "X-Meta-ConsistencyLevel": str(level)}
    return gateway.request("POST", "/api/v1/put", body, fields)


def get(gateway: Gateway, object_id: str, **fields: str) -> Answer:
    return gateway.request("GET", f"/api/v1/get/{object_id}", None, fields)


def is_fetched(answer: Answer) -> bool:
    return "x-meta-fetched" in answer.headers


def new_id(gateway: Gateway) -> str:
    return gateway.request("GET", "/api/v1/id").body.decode().strip()


def own(gateway: Gateway) -> dict[str, str]:
    """Return what the store of a gateway says of itself."""
    shown = gateway.request("GET", "/status?detail=full").json()["storages"]
    found: dict[str, str] = next(iter(shown.values()))
    if isinstance(gateway, Member):
        found = shown[gateway.place]
    return found


def used(gateway: Gateway) -> float:
    """Return the bytes in the store of a gateway; no number, where a worker cannot tell yet."""
    return float(own(gateway).get("used_bytes", "nan"))


def evicted(gateway: Gateway) -> float:
    """Return how many records were evicted from it."""
    return float(own(gateway).get("evicted_files", "nan"))


def wait_for_room(gateways: Sequence[Gateway], capacity: int = CAPACITY) -> None:
    for gateway in gateways:
        wait_until(lambda: used(gateway) <= capacity, "there is room", 60)  # noqa: B023


def tool(gateway: Gateway, config: Path, name: str) -> str:
    """Run a tool that has to find nothing wrong."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    environ = {**os.environ, **PYTHON_ENVIRON, **keys, **gateway.environ}
    command = [*SFSS, name, "--config", str(config), "--orphans-after", "0"]
    if name != "scrub":
        command = command[:-2]
    done = subprocess.run(
        command, cwd=gateway.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Filled:
    """What was put: bodies by id. The ``favourites`` are read again and again meanwhile."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    favourites: list[str] = field(default_factory=list)


def fill(gateways: Sequence[Gateway], size: int, seed: int = SEED) -> Filled:
    """Put objects of level 1, 10 KiB to 2 MiB each, of ``size`` together."""
    chosen, filled = random.Random(seed), Filled()
    while sum(map(len, filled.bodies.values())) < size:
        gateway = chosen.choice(gateways)
        object_id = new_id(gateway)
        is_favourite = len(filled.bodies) < 10
        most = 100 * KIB if is_favourite else 2 * MIB
        body = chosen.randbytes(chosen.randrange(10 * KIB, most))
        assert put(gateway, object_id, body).status == 200
        filled.bodies[object_id] = body
        if is_favourite:
            filled.favourites.append(object_id)
        for each in filled.favourites:
            assert get(gateway, each).body == filled.bodies[each]
    return filled


def check_all(gateways: Sequence[Gateway], filled: Filled) -> None:
    """Read all objects; all have to be right, and most of the favourites here."""
    answers = [get(gateways[0], each) for each in filled.favourites]
    assert sum(map(is_fetched, answers)) <= 2
    fetched = 0
    for number, (object_id, body) in enumerate(filled.bodies.items()):
        answer = get(gateways[number % len(gateways)], object_id)
        assert (answer.status, answer.body) == (200, body)
        fetched += is_fetched(answer)
    assert fetched > 0


@both_servers
def test_a_full_store_lets_bodies_go_that_the_bucket_has(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server)
    gateway = objstore.gateway
    with running(gateway):
        assert gateway.put("a/b.txt", b"native").status == 200
        low = new_id(gateway)
        assert put(gateway, low, b"level 0" * KIB, 0).status == 200
        filled = fill([gateway], 40 * MIB)
        wait_for_room([gateway])
        said = own(gateway)
        assert int(said["capacity_bytes"]) == CAPACITY
        assert int(said["evicted_bytes"]) > 30 * MIB
        entries = objstore.files("objects/")
        assert sorted(entries) == sorted(f"objects/{each}" for each in [low, *filled.bodies])
        check_all([gateway], filled)
        wait_for_room([gateway])
        for name in ("check", "scrub"):
            assert "damaged" not in tool(gateway, objstore.config, name)
        check_all([gateway], filled)
        server.pause()
        assert get(gateway, low).body == b"level 0" * KIB
        assert gateway.get("a/b.txt").body == b"native"
        server.resume()
        assert "Traceback" not in gateway.output()


def test_level_2_and_fetched_objects_go_as_well(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server, MIB, fetch='"always"')
    gateway = objstore.gateway
    with running(gateway):
        ids = [new_id(gateway) for _ in range(20)]
        for number, object_id in enumerate(ids):
            body = bytes([number]) * (150 * KIB)
            if number % 2:
                assert put(gateway, object_id, body, 2).status == 200
            else:
                server.put(f"{BUCKET}/objects/{object_id}", body)
        for _ in range(2):
            for number, object_id in enumerate(ids):
                assert get(gateway, object_id).body == bytes([number]) * (150 * KIB)
        wait_for_room([gateway], MIB)
        assert evicted(gateway) > 13


def test_without_the_bucket_nothing_goes(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server, 2 * MIB)
    gateway = objstore.gateway
    with running(gateway):
        bodies = {new_id(gateway): bytes([number]) * (100 * KIB) for number in range(40)}
        for object_id, body in bodies.items():
            assert put(gateway, object_id, body).status == 200
        wait_for_room([gateway], 2 * MIB)
        is_here = {each: f"/{each}/" in "".join(objstore.files("single/")) for each in bodies}
        server.pause()
        before = evicted(gateway)
        low = {new_id(gateway): bytes([number]) * (100 * KIB) for number in range(10)}
        for object_id, body in low.items():
            assert put(gateway, object_id, body, 0).status == 200
        wait_until(
            lambda: (
                "store embedded:var/objects" in gateway.output()
                or f"store s3://{BUCKET}" in gateway.output()
            ),
            "it has tried to make room",
        )
        assert used(gateway) > 2 * MIB
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(lambda each: get(gateway, each), bodies)
            answers = dict(zip(bodies, found, strict=True))
        for object_id, answer in answers.items():
            assert answer.status == (200 if is_here[object_id] else 504)
            assert not is_here[object_id] or answer.body == bodies[object_id]
        assert 0 < sum(is_here.values()) < 40
        assert evicted(gateway) == before
        server.resume()
        wait_for_room([gateway], 2 * MIB)
        for object_id, body in {**bodies, **low}.items():
            assert get(gateway, object_id).body == body


def test_what_the_bucket_is_owed_stays(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server, MIB, write='"back"')
    gateway = objstore.gateway
    with running(gateway):
        server.pause()
        bodies = {new_id(gateway): bytes([number]) * (100 * KIB) for number in range(30)}
        for object_id, body in bodies.items():
            assert put(gateway, object_id, body).status == 200
        assert objstore.owed() == 30
        assert (evicted(gateway), used(gateway) > 2 * MIB) == (0, True)
        for object_id, body in bodies.items():
            assert get(gateway, object_id).body == body
        server.resume()
        objstore.wait_paid()
        wait_for_room([gateway], MIB)
        for object_id, body in bodies.items():
            assert get(gateway, object_id).body == body


class Client(threading.Thread):
    """Puts, reads and deletes objects, and knows which bodies each of them may have."""

    def __init__(self, gateways: Sequence[Gateway], number: int, limit: int) -> None:
        super().__init__(daemon=True)
        self.gateways, self.limit = gateways, limit
        self.chosen = random.Random(SEED + number)
        self.possible: dict[str, set[bytes | None]] = {}
        self.ids = [f"01ARZ3NDEKTSV4RRFFQ69G{number:02}{each:02}" for each in range(40)]
        self.written, self.wrong = 0, list[str]()

    def run(self) -> None:
        """Go on to the end."""
        while self.written < self.limit and not self.wrong:
            gateway, object_id = self.chosen.choice(self.gateways), self.chosen.choice(self.ids)
            try:
                if object_id in self.possible and self.chosen.random() < 0.4:
                    self.read(gateway, object_id)
                elif self.chosen.random() < 0.1:
                    self._delete_object(gateway, object_id)
                else:
                    self._put_object(gateway, object_id)
            except (OSError, HTTPException):
                wait_until(lambda: listens(gateway.port), "it is there again", 60)  # noqa: B023

    def _put_object(self, gateway: Gateway, object_id: str) -> None:
        size = self.chosen.choice([10_000, 100_000, 700_000])
        body = self.chosen.randbytes(64) * (size // 64)
        self.possible[object_id] = self.possible.get(object_id, {None}) | {body}
        if put(gateway, object_id, body).status == 200:
            self.possible[object_id] = {body}
            self.written += size

    def _delete_object(self, gateway: Gateway, object_id: str) -> None:
        self.possible[object_id] = self.possible.get(object_id, {None}) | {None}
        if gateway.request("POST", f"/api/v1/delete/{object_id}").status in (200, 404):
            self.possible[object_id] = {None}

    def read(self, gateway: Gateway, object_id: str, statuses: tuple[int, ...] = (504,)) -> None:
        """Note what is not one of those that may be."""
        answer = get(gateway, object_id)
        found = None if answer.status == 404 else answer.body
        is_right = answer.status in (200, 404) and found in self.possible[object_id]
        if not is_right and answer.status not in statuses:
            self.wrong.append(f"{object_id}: {answer.status} {answer.body[:100]!r}")


def work_and_kill(
    gateways: Sequence[Gateway], limit: int, is_paid: Callable[[], bool], scrub: Callable[[], str]
) -> None:
    """Have clients work, and kill gateways meanwhile; then all has to be right."""
    chosen = random.Random(SEED)
    clients = [Client(gateways, number, limit) for number in range(4)]
    for client in clients:
        client.start()
    killed = 0
    while any(client.is_alive() for client in clients):
        mark = sum(client.written for client in clients) + chosen.randrange(MIB, 9 * MIB)
        wait_until(
            lambda mark=mark: (
                sum(each.written for each in clients) >= mark
                or not any(each.is_alive() for each in clients)
            ),
            "more is written",
            120,
        )
        victim = chosen.choice(gateways)
        victim.kill()
        victim.start()
        killed += 1
    assert killed > 2
    assert [client.wrong for client in clients] == [[]] * 4
    wait_until(is_paid, "nothing is owed", 90)
    scrub()  # what was replaced just before a kill is left
    for client in clients:
        for object_id in client.possible:
            client.read(gateways[0], object_id, ())
        assert client.wrong == []


def test_whatever_is_killed_all_is_there(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server, 4 * MIB)
    gateway = objstore.gateway
    with running(gateway):
        work_and_kill(
            [gateway],
            8 * MIB,
            lambda: objstore.owed() == 0,
            lambda: tool(gateway, objstore.config, "scrub"),
        )
        wait_for_room([gateway], 4 * MIB)
        assert evicted(gateway) > 20
        tool(gateway, objstore.config, "check")


def chunks_of(store_keys: Sequence[bytes]) -> list[bytes]:
    return [key for key in store_keys if key.startswith(b"%00s")]


async def remove(objstore: Objstore, choose: Callable[[bytes], bool]) -> None:
    """Remove records from the store, and nothing else."""
    store = EmbeddedStore(objstore.folder / "var" / "objects", make=False)
    try:
        keys = [entry.key for entry in await store.scan(b"", b"", 100_000)]
        chosen = [key for key in keys if choose(key)]
        assert chosen
        for key in chosen:
            await store.delete(key)
    finally:
        await store.close()


async def keys_of(objstore: Objstore) -> list[bytes]:
    store = EmbeddedStore(objstore.folder / "var" / "objects", make=False)
    try:
        return [entry.key for entry in await store.scan(b"", b"", 100_000)]
    finally:
        await store.close()


@pytest.mark.parametrize("number", [0, 3])
async def test_readers_of_a_body_that_has_lost_a_chunk(
    tmp_path: Path, server: S3Server, number: int
) -> None:
    objstore = small(tmp_path, server)
    gateway = objstore.gateway
    with running(gateway):
        object_id, body = new_id(gateway), random.Random(SEED).randbytes(2 * MIB)
        for _ in range(3):
            assert put(gateway, object_id, body).status == 200
            lost = chunks_of(await keys_of(objstore))[-5:][number]
            await remove(objstore, lambda key: key == lost)  # noqa: B023
            with ThreadPoolExecutor(12) as pool:
                whole = [pool.submit(get, gateway, object_id) for _ in range(6)]
                parts = [
                    pool.submit(get, gateway, object_id, Range="bytes=100000-1999999")
                    for _ in range(6)
                ]
                assert {each.result().body for each in whole} == {body}
                assert {each.result().body for each in parts} == {body[100_000:2_000_000]}
            wait_until(lambda: not is_fetched(get(gateway, object_id)), "it is here again")


async def test_chunks_that_are_left_of_a_body_go_by_themselves(
    tmp_path: Path, server: S3Server
) -> None:
    objstore = small(tmp_path, server, 3 * MIB)
    gateway = objstore.gateway
    with running(gateway):
        object_id = new_id(gateway)
        assert put(gateway, object_id, bytes(2 * MIB)).status == 200
        await remove(objstore, lambda key: key.startswith(b"single/"))
        assert len(chunks_of(await keys_of(objstore))) == 5
        for number in range(20):
            assert put(gateway, new_id(gateway), bytes([number]) * (200 * KIB)).status == 200
        wait_for_room([gateway], 3 * MIB)
        assert chunks_of(await keys_of(objstore)) == []
        assert get(gateway, object_id).body == bytes(2 * MIB)


def test_ranges_of_what_was_let_go(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server, 3 * MIB)
    gateway = objstore.gateway
    with running(gateway):
        object_id, body = new_id(gateway), random.Random(SEED).randbytes(2 * MIB)
        assert put(gateway, object_id, body).status == 200
        for number in range(20):
            assert put(gateway, new_id(gateway), bytes([number]) * (200 * KIB)).status == 200
        wait_for_room([gateway], 3 * MIB)
        head = objstore.get(object_id, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(2 * MIB))
        answer = get(gateway, object_id, Range="bytes=1000000-1500000")
        assert (answer.status, answer.body) == (206, body[1_000_000:1_500_001])
        assert is_fetched(answer)
        answer = get(gateway, object_id, Range="bytes=1000000-1500000")
        assert (answer.status, is_fetched(answer)) == (206, False)


def test_what_was_let_go_is_replaced_and_deleted(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server, MIB)
    gateway = objstore.gateway
    with running(gateway):
        ids = [new_id(gateway) for _ in range(20)]
        for object_id in ids:
            assert put(gateway, object_id, b"first" * (20 * KIB)).status == 200
        wait_for_room([gateway], MIB)
        held = "".join(objstore.files("single/"))
        gone = [each for each in ids if each not in held]
        assert len(gone) > 6
        assert put(gateway, gone[0], b"second").status == 200
        assert put(gateway, gone[1], b"local", 0).status == 200
        assert objstore.delete(gone[2]).status == 200
        objstore.wait_paid()
        assert get(gateway, gone[0]).body == b"second"
        assert get(gateway, gone[1]).body == b"local"
        answer = objstore.get(gone[2], fetch=True)
        assert (answer.status, answer.headers["x-meta-deleted"]) == (404, "true")
        assert objstore.in_bucket(gone[2]).status == objstore.in_bucket(gone[1]).status == 404
        tool(gateway, objstore.config, "scrub")
        assert get(gateway, gone[3]).body == b"first" * (20 * KIB)


def test_no_reader_is_told_that_an_object_is_lost_while_it_changes(
    tmp_path: Path, server: S3Server
) -> None:
    # The bucket has the new one before the entry says so, and forgets a deleted one after it.
    objstore = small(tmp_path, server, 256 * KIB)
    gateway = objstore.gateway
    answers: list[Answer] = []
    going_on = threading.Event()
    with running(gateway), ThreadPoolExecutor(4) as pool:
        ids = [new_id(gateway) for _ in range(3)]

        def read() -> None:
            while not going_on.is_set():
                answers.extend(get(gateway, each) for each in ids)

        readers = [pool.submit(read) for _ in range(4)]
        for number in range(40):
            for object_id in ids:
                with suppress(AssertionError):  # it has none, or not any more
                    objstore.lose_body(object_id)
                body = bytes([number]) * (50 * KIB)
                assert put(gateway, object_id, body).status == 200
                if number % 4 == 3:
                    assert objstore.delete(object_id).status == 200
        going_on.set()
        for reader in readers:
            reader.result()
        assert {each.status for each in answers} <= {200, 404}


def test_a_put_of_others_that_is_not_finished_is_no_loss(tmp_path: Path, server: S3Server) -> None:
    objstore = small(tmp_path, server)
    (tmp_path / "other").mkdir()
    other = small(tmp_path / "other", server)
    with running(objstore.gateway), running(other.gateway):
        object_id = objstore.new_id()
        assert objstore.put(object_id, b"first", 1).status == 200
        assert other.put(object_id, b"second", 1).status == 200
        assert objstore.get(object_id).body == b"first"
        objstore.lose_body(object_id)
        assert objstore.get(object_id).status == 504


def test_members_let_bodies_go_that_they_alone_keep(tmp_path: Path) -> None:
    with (
        bucket_in(tmp_path / "s3") as bucket,
        joined(tmp_path, bucket=bucket, capacity=CAPACITY) as members,
    ):
        low = new_id(members[0])
        assert put(members[0], low, b"level 0", 0).status == 200
        everywhere = new_id(members[0])
        assert put(members[0], everywhere, b"level 2", 2).status == 200
        filled = fill(members, 60 * MIB)
        wait_for_room(members)
        assert all(evicted(member) > 20 for member in members)
        check_all(members, filled)
        wait_for_room(members)
        for name in ("check", "repair", "scrub"):
            assert "damaged" not in tool(members[0], members[0].config, name)
        bucket.pause()
        for member in members:
            assert get(member, low).body == b"level 0"
            assert get(member, everywhere).body == b"level 2"
        bucket.resume()
        gone = next(each for each in filled.bodies if is_fetched(get(members[0], each)))
        assert members[1].delete_object(gone).status == 200
        for member in members:
            assert member.get_object(gone, fetches=True).status == 404
        wait_until(lambda: gone not in bucket.keys(MEMBERS_BUCKET), "the bucket has forgotten it")
        del filled.bodies[gone]
        newcomer = Member(tmp_path / "more", [members[1].place], bucket, capacity=CAPACITY)
        members.append(newcomer)
        newcomer.start()
        settled(members)
        for object_id, body in filled.bodies.items():
            answer = get(newcomer, object_id)
            assert (answer.status, answer.body) == (200, body)
        wait_for_room(members)


def test_members_whatever_is_killed(tmp_path: Path) -> None:
    with (
        bucket_in(tmp_path / "s3") as bucket,
        joined(tmp_path, bucket=bucket, capacity=2 * MIB, workers=1) as members,
    ):

        def is_paid() -> bool:
            views = [member.view() for member in members]
            return not any(view["owed_to_bucket"] + view["owed"] for view in views)

        scrub = partial(tool, members[0], members[0].config, "scrub")
        work_and_kill(members, 8 * MIB, is_paid, scrub)
        wait_for_room(members, 2 * MIB)


def settings(**changes: str) -> str:
    objects = "\n".join(f"{name} = {value}" for name, value in changes.items())
    return f'[server]\nfaces = ["objects"]\n[objects]\n{objects}\n'


def test_a_capacity_is_for_objects_that_a_bucket_has() -> None:
    load(settings(bucket='"s3://bucket"', capacity_bytes="1"))
    load(settings(capacity_bytes="0"))
    for text in (
        settings(capacity_bytes="1"),
        '[objects]\nbucket = "s3://bucket"\ncapacity_bytes = 1\n',
    ):
        with pytest.raises(SettingError, match=r"objects\.capacity_bytes"):
            load(text)
