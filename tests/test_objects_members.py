"""Objects on several members: copies on three real nodes, a bucket on a real S3 server, and faults.

A gateway of a member is built here as the service builds it, over the stores of all members.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sfss.agreement import CopiesSettings
from sfss.chunks import ENTRIES, ESCAPED_PREFIX, read_chunk_key
from sfss.cluster import Clock
from sfss.config import BucketSettings, MemcachedSettings
from sfss.copies import Copies
from sfss.errors import Corrupt, NoStoreReachable, QuorumFailed, StoreError, Unreachable
from sfss.keys import KeyScheme
from sfss.large import Large, LargeSettings
from sfss.object_bodies import Bodies, Placed
from sfss.object_entries import ObjstoreLabels, Traits
from sfss.object_origin import Origin
from sfss.object_shelf import Entries
from sfss.objects import Found, ObjectRules, Objects
from sfss.owed import Owed
from sfss.placement import KetamaRing, Mirror, ObjectPlacement, Places
from sfss.record import Content, digest_of
from sfss.stores.base import NewestStore
from sfss.stores.bucket import BucketStore
from sfss.stores.embedded import EmbeddedStore
from sfss.stores.key_locks import KeyLocks
from sfss.stores.lmdb_copies import LmdbCopies
from sfss.stores.memcached import MemcachedStore
from sfss.streams import stream
from sfss.ulid import ulid
from tests.servers import SECRET, S3Server, Server, node, running
from tests.shared_s3 import with_bucket

BUCKET = "bucket"
SCHEME = KeyScheme("percent")


@pytest.fixture(name="credentials", autouse=True)
def credentials_of_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(name="server")
def own_server(shared_s3: S3Server) -> Iterator[S3Server]:
    with with_bucket(shared_s3, BUCKET) as server:
        yield server


@pytest.fixture(name="nodes")
def three_nodes(tmp_path: Path) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(running(node(tmp_path))) for _ in range(3)]


@dataclass
class Member:
    """A gateway that is at home at ``own``: its objects, and what they are made of."""

    own: str
    copies: Copies
    objects: Objects

    async def pay(self) -> None:
        """Pay all that is owed, to members and to the bucket."""
        for address in self.copies._holders.addresses:
            await self.copies.paying.pay(address)
        if self.objects._payments is not None:
            await self.objects._payments.round()

    async def put(self, object_id: str, body: bytes, level: int) -> None:
        """Put an object."""
        content = Content(body, digest_of(body))
        await self.objects.put(object_id, content, Traits("a.txt", level, {"a": "b"}))

    async def get(self, object_id: str, fetches: bool = False) -> tuple[bytes, Found] | None:
        """Return an object with its whole body; None: there is none."""
        found = await self.objects.get(object_id, fetches)
        if found is None or found.entry.is_deleted:
            return None
        return b"".join([bytes(piece) async for piece in stream(found.body)]), found

    async def body(self, object_id: str, fetches: bool = False) -> bytes | None:
        """Return the body of an object, None where there is none."""
        found = await self.get(object_id, fetches)
        return None if found is None else found[0]

    async def is_deleted(self, object_id: str, fetches: bool = True) -> bool:
        """Tell whether an object is known as deleted."""
        found = await self.objects.get(object_id, fetches)
        return found is not None and found.entry.is_deleted


class Team:
    """Members over the same stores, and a bucket."""

    def __init__(self, folder: Path, addresses: list[str], server: S3Server) -> None:
        self.folder, self.addresses, self.server = folder, addresses, server
        self.stack = AsyncExitStack()
        self.members: list[Member] = []

    async def member(
        self, own: int, rules: ObjectRules | None = None, local: Path | None = None
    ) -> Member:
        """Return another member; with ``local`` its own store is not a node, but a folder."""
        number = len(self.members)
        addresses, stores = list(self.addresses), dict[str, NewestStore]()
        if local is not None:
            addresses[own] = f"lmdb:{local}"
        for address in addresses:
            stores[address] = (
                LmdbCopies(address, 10.0)
                if address.startswith("lmdb:")
                else MemcachedStore(address, MemcachedSettings(timeout_s=1.0))
            )
        placement = ObjectPlacement(
            Mirror(addresses), KetamaRing(self.addresses), Mirror(addresses)
        )
        if local is not None:
            names = dict(zip(self.addresses, addresses, strict=True))
            single = _Renamed(KetamaRing(self.addresses), names)
            placement = ObjectPlacement(Mirror(addresses), single, Mirror(addresses))
        owed = Owed(EmbeddedStore(self.folder / f"owed-{number}"), 1000)
        settings = CopiesSettings(read_quorum=2, cooling_s=0.1, head_timeout_ms=500, least_copies=1)
        copies = Copies(stores, Places(placement.primaries), owed, Clock(), settings)
        large = Large(copies, LargeSettings(64 << 20, 1 << 20, ESCAPED_PREFIX, 0.0))
        bucket = BucketStore(
            f"s3://{BUCKET}",
            BucketSettings(endpoint=self.server.url, allow_http=True, timeout_s=1.0),
            self.folder,
            labels=ObjstoreLabels(),
        )
        locks = KeyLocks.on(self.folder / f"locks-{number}")
        placed = Placed(copies.places, addresses[own], copies.is_resting)
        objects = Objects(
            Entries(large, SCHEME, locks, 10.0),
            Bodies(large, SCHEME, placed, 0.0),
            rules or ObjectRules(spool_folder=self.folder),
            Origin(bucket, EmbeddedStore(self.folder / f"owed-bucket-{number}")),
        )
        member = Member(addresses[own], copies, objects)
        self.members.append(member)
        self.stack.push_async_callback(large.close)
        self.stack.push_async_callback(objects.close)
        return member

    async def holders(self, object_id: str) -> list[str]:
        """Return the addresses of the nodes that hold a body, or chunks of one, of an object."""
        return [each for each in self.addresses if await self._has(each, object_id)]

    async def _has(self, address: str, object_id: str) -> bool:
        store = MemcachedStore(address, MemcachedSettings(timeout_s=5.0))
        try:
            keys = await keys_of(store)
            mine = [key for key in keys if not key.startswith(ENTRIES)]
            bodies = [key for key in mine if f"/{object_id}/".encode() in key]
            return any([await store.get(key) is not None for key in bodies])
        finally:
            await store.close()


class _Renamed:
    """A placement whose stores have other names."""

    def __init__(self, placement: KetamaRing, names: dict[str, str]) -> None:
        self._placement, self._names = placement, names

    def primaries(self, key: bytes) -> list[str]:
        """Return the stores by their other names."""
        return [self._names[each] for each in self._placement.primaries(key)]


@pytest.fixture(name="team")
async def a_team(tmp_path: Path, nodes: list[Server], server: S3Server) -> AsyncIterator[Team]:
    team = Team(tmp_path, [each.address for each in nodes], server)
    async with team.stack:
        yield team


async def keys_of(store: MemcachedStore) -> list[bytes]:
    found: list[bytes] = []
    async for batch in store.keys():
        found += [stamped.key for stamped in batch]
    return found


def new_id() -> str:
    return ulid(1_700_000_000_000, int.from_bytes(os.urandom(10), "big"))


async def until_well(member: Member) -> None:
    """Wait until no store rests."""
    async with asyncio.timeout(30):
        while any(map(member.copies.is_resting, member.copies._holders.addresses)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_body_goes_to_the_member_that_got_it_and_all_know(team: Team) -> None:
    one, two = await team.member(0), await team.member(1)
    first, second = new_id(), new_id()
    await one.put(first, b"first", 0)
    await two.put(second, b"second", 2)
    assert await team.holders(first) == [team.addresses[0]]
    assert await team.holders(second) == team.addresses
    for member, elsewhere in ((one, False), (two, True)):
        found = await member.get(first)
        assert found is not None
        assert (found[0], found[1].is_elsewhere) == (b"first", elsewhere)
        found = await member.get(second)
        assert found is not None
        assert (found[0], found[1].is_elsewhere) == (b"second", False)


async def test_chunks_go_with_their_body(team: Team) -> None:
    one = await team.member(2)
    object_id = new_id()
    body = os.urandom(3 << 20)
    await one.put(object_id, body, 0)
    assert await one.body(object_id) == body
    for address in team.addresses:
        store = MemcachedStore(address, MemcachedSettings(timeout_s=5.0))
        keys = await keys_of(store)
        chunks = [key for key in keys if read_chunk_key(ESCAPED_PREFIX, key)]
        assert len(chunks) == (7 if address == one.own else 0)
        await store.close()


async def test_level_0_while_a_member_is_down(team: Team, nodes: list[Server]) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id, other = new_id(), new_id()
    await one.put(object_id, b"body", 0)
    nodes[0].kill()
    for member in (one, two):
        with pytest.raises(NoStoreReachable):
            await member.get(object_id)
        assert await member.objects.look(object_id) is not None
        assert await member.get(new_id()) is None, "two of three know"
    await one.put(other, b"other", 0)
    assert await two.body(other) == b"other"
    assert team.addresses[0] not in await _holders_of(team, [1, 2], other) != []
    nodes[0].start()
    await until_well(one)
    await until_well(two)
    assert await two.body(object_id) == b"body"


async def _holders_of(team: Team, numbers: list[int], object_id: str) -> list[str]:
    addresses = [team.addresses[number] for number in numbers]
    return [each for each in addresses if await team._has(each, object_id)]


async def test_level_1_while_its_member_is_down_comes_from_the_bucket(
    team: Team, nodes: list[Server]
) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id = new_id()
    await one.put(object_id, b"body", 1)
    nodes[0].kill()
    found = await two.get(object_id)
    assert found is not None
    assert (found[0], found[1].was_fetched) == (b"body", True)
    team.server.kill()
    found = await two.get(object_id)
    assert found is not None, "it is kept again, by a member that is well"
    assert (found[0], found[1].was_fetched) == (b"body", False)


async def test_level_1_without_its_member_and_the_bucket(team: Team, nodes: list[Server]) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id = new_id()
    await one.put(object_id, b"body", 1)
    nodes[0].kill()
    team.server.kill()
    with pytest.raises(NoStoreReachable) as caught:
        await two.get(object_id)
    assert set(caught.value.failures) == {team.addresses[0], f"s3://{BUCKET}"}


async def test_level_2_while_members_are_down(team: Team, nodes: list[Server]) -> None:
    one = await team.member(0)
    object_id = new_id()
    nodes[2].kill()
    await one.put(object_id, b"body", 2)
    nodes[2].start()
    await until_well(one)
    await one.pay()
    assert await team.holders(object_id) == team.addresses
    nodes[0].kill()
    team.server.kill()
    assert await one.body(object_id) == b"body"


async def test_a_deletion_while_a_member_is_down(team: Team, nodes: list[Server]) -> None:
    one, two, three = [await team.member(number) for number in range(3)]
    ids = [new_id() for _ in range(3)]
    for level, object_id in enumerate(ids):
        await three.put(object_id, b"body", level)
    nodes[2].kill()
    for object_id in ids:
        assert await one.objects.delete(object_id) is not None
    nodes[2].start()
    for member in (one, two, three):
        await until_well(member)
        for object_id in ids:
            assert await member.is_deleted(object_id)
    await one.pay()
    nodes[0].kill()
    for object_id in ids:
        assert await three.is_deleted(object_id)
    assert team.server.keys(BUCKET) == []


async def test_a_deletion_needs_a_quorum(team: Team, nodes: list[Server]) -> None:
    one = await team.member(0)
    object_id = new_id()
    await one.put(object_id, b"body", 1)
    nodes[1].kill()
    nodes[2].kill()
    with pytest.raises((NoStoreReachable, QuorumFailed)):
        await one.objects.delete(object_id)
    with pytest.raises((NoStoreReachable, QuorumFailed)):
        await one.put(object_id, b"other", 1)
    for server in nodes[1:]:
        server.start()
    await until_well(one)
    assert await one.body(object_id) == b"body"
    await one.pay()
    assert team.server.get(f"{BUCKET}/{object_id}").body == b"body"


async def test_a_deletion_without_the_bucket_is_finished_later(team: Team) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id = new_id()
    await one.put(object_id, b"body", 2)
    team.server.pause()
    assert await one.objects.delete(object_id) is not None
    assert await one.objects.owing() == 1
    assert await two.is_deleted(object_id)
    team.server.resume()
    await one.pay()
    assert await one.objects.owing() == 0
    assert team.server.keys(BUCKET) == []
    assert await two.is_deleted(object_id)


async def test_a_member_whose_disk_was_lost(
    tmp_path: Path, team: Team, nodes: list[Server]
) -> None:
    one = await team.member(0)
    ids = [new_id() for _ in range(3)]
    for level, object_id in enumerate(ids):
        await one.put(object_id, f"body {level}".encode(), level)
    nodes[0].kill()
    (tmp_path / f"node-{nodes[0].port}" / "data.mdb").rename(tmp_path / "lost.mdb")
    (tmp_path / f"node-{nodes[0].port}").rename(tmp_path / "lost")
    nodes[0].start()
    await until_well(one)
    with pytest.raises(Corrupt, match="a body"):
        await one.get(ids[0])
    found = await one.get(ids[1])
    assert found is not None
    assert (found[0], found[1].was_fetched) == (b"body 1", True)
    found = await one.get(ids[2])
    assert found is not None
    assert (found[0], found[1].was_fetched) == (b"body 2", False)


async def test_a_bucket_that_was_wiped(team: Team) -> None:
    one, two = await team.member(0), await team.member(1)
    ids = [new_id() for _ in range(2)]
    for level, object_id in enumerate(ids, start=1):
        await one.put(object_id, b"body", level)
    for key in team.server.keys(BUCKET):
        team.server.delete(f"{BUCKET}/{key}")
    for object_id in ids:
        assert await two.body(object_id) == b"body"


async def test_an_old_answer_of_the_bucket_replaces_nothing(
    team: Team, nodes: list[Server]
) -> None:
    one = await team.member(0)
    object_id = new_id()
    await one.put(object_id, b"old", 1)
    old = team.server.get(f"{BUCKET}/{object_id}")
    await one.put(object_id, b"new", 1)
    fields = {name: text for name, text in old.headers.items() if name.startswith("x-amz-meta-")}
    team.server.put(f"{BUCKET}/{object_id}", old.body, fields)
    assert await one.body(object_id, fetches=True) == b"new"
    nodes[0].kill()
    with pytest.raises(NoStoreReachable):
        await one.body(object_id, fetches=True)
    nodes[0].start()
    await until_well(one)
    assert await one.body(object_id, fetches=True) == b"new"


async def test_a_put_that_came_late_does_not_bring_a_deleted_object_back(team: Team) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id = new_id()
    await one.put(object_id, b"body", 1)
    late = team.server.get(f"{BUCKET}/{object_id}")
    await two.objects.delete(object_id)
    fields = {name: text for name, text in late.headers.items() if name.startswith("x-amz-meta-")}
    team.server.put(f"{BUCKET}/{object_id}", late.body, fields)
    for member in (one, two):
        assert await member.is_deleted(object_id)


async def test_a_fetched_object_is_kept_at_its_level(team: Team) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id = new_id()
    team.server.put(
        f"{BUCKET}/{object_id}", b"theirs", {"x-amz-meta-consistency": "2", "x-amz-meta-name": "b"}
    )
    assert await one.body(object_id) is None
    found = await two.get(object_id, fetches=True)
    assert found is not None
    assert (found[0], found[1].entry.traits.name) == (b"theirs", "b")
    assert await team.holders(object_id) == team.addresses
    found = await one.get(object_id)
    assert found is not None
    assert found[1].entry.is_fetched


async def test_many_ask_for_what_only_the_bucket_has(team: Team) -> None:
    one, two = await team.member(0), await team.member(1)
    object_id = new_id()
    team.server.put(f"{BUCKET}/{object_id}", b"theirs")
    asking = [member.body(object_id, fetches=True) for member in (one, two) for _ in range(10)]
    assert set(await asyncio.gather(*asking)) == {b"theirs"}
    # Each member has asked once, and may have kept it; one entry stays.
    asked = team.server.output().count(f'"GET /{BUCKET}/{object_id} ')
    assert asked <= 2
    entries = [await member.objects.look(object_id) for member in (one, two)]
    assert entries[0] is not None
    assert entries[1] is not None
    assert entries[0].entry == entries[1].entry


async def test_a_write_that_failed_half_way_is_taken_back_from_the_bucket(
    team: Team, nodes: list[Server]
) -> None:
    one = await team.member(0)
    object_id = new_id()
    await one.put(object_id, b"acknowledged", 1)
    entries = one.objects._entries
    write = entries.write

    async def fail(*arguments: object) -> None:
        for server in nodes[1:]:
            server.kill()
        await write(*arguments)  # type: ignore[arg-type]

    entries.write = fail  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await one.put(object_id, b"in doubt", 1)
    entries.write = write  # type: ignore[method-assign]
    assert await one.objects.owing() == 1
    for server in nodes[1:]:
        server.start()
    await until_well(one)
    await one.pay()
    assert await one.objects.owing() == 0
    body = await one.body(object_id)
    assert team.server.get(f"{BUCKET}/{object_id}").body == body


async def test_the_store_of_this_process_is_one_of_them(team: Team, tmp_path: Path) -> None:
    one = await team.member(1, local=tmp_path / "own")
    ids = [new_id() for _ in range(3)]
    for level, object_id in enumerate(ids):
        await one.put(object_id, b"body", level)
        assert await one.body(object_id) == b"body"
    assert await team.holders(ids[0]) == []
    assert await team.holders(ids[2]) == [team.addresses[0], team.addresses[2]]
    assert await one.objects.delete(ids[2]) is not None
    assert await one.is_deleted(ids[2])


async def test_written_back_from_a_member(team: Team) -> None:
    one = await team.member(0, ObjectRules(writes_through=False, spool_folder=team.folder))
    object_id = new_id()
    team.server.pause()
    body = os.urandom(3 << 20)
    await one.put(object_id, body, 1)
    assert await one.objects.owing() == 1
    team.server.resume()
    await one.pay()
    assert await one.objects.owing() == 0
    assert team.server.get(f"{BUCKET}/{object_id}").body == body


async def test_who_leaves_does_not_leave_half_an_object(team: Team) -> None:
    one = await team.member(0)
    object_id = new_id()
    team.server.pause()
    putting = asyncio.ensure_future(one.put(object_id, b"body", 1))
    await asyncio.sleep(0.1)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    team.server.resume()
    async with asyncio.timeout(30):
        await one.objects._background.finish()
    await one.pay()
    found = await one.body(object_id)
    in_bucket = team.server.get(f"{BUCKET}/{object_id}")
    assert (found, in_bucket.status) in ((b"body", 200), (None, 404))
    with pytest.raises(Unreachable):
        team.server.kill()
        await one.put(object_id, b"other", 1)
    assert await one.body(object_id) == found


async def test_two_members_put_one_object_at_the_same_time(team: Team) -> None:
    members = [await team.member(0), await team.member(1)]
    object_id = new_id()
    for turn in range(6):
        puts = [
            members[number % 2].put(object_id, b"body %d of %d" % (number, turn), 1 + number % 2)
            for number in range(8)
        ]
        await asyncio.gather(*puts)
        bodies = [await member.body(object_id) for member in members]
        in_bucket = team.server.get(f"{BUCKET}/{object_id}").body
        assert bodies == [in_bucket, in_bucket]
        found = await members[0].objects.look(object_id)
        assert found is not None
        await asyncio.gather(*(member.objects.delete(object_id) for member in members))
        for member in members:
            assert await member.is_deleted(object_id)
            await member.pay()
        assert team.server.keys(BUCKET) == []
