"""Gateways that join each other, each in a folder of its own, with a bucket behind them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    SECRET,
    SFSS,
    Answer,
    Gateway,
    S3Server,
    free_port,
    s3,
    wait_until,
)

BUCKET = "objects"
MEMBERS_SECRET = "what-only-members-know"
MOVED_S = 60.0
"""Seconds within which a change of the members has to be over."""

PAGE = """
[[listen]]
address = "127.0.0.1:{port}"
faces = ["native", "objects", "status", "health"]

[server]
workers = {workers}
graceful_timeout_s = 5

[cluster]
kind = "joined"
chunks_above = {chunks_above}

[embedded]
folder = "store"

[replicated]
owed_folder = "owed"
cooling_s = 0.2

[discovery]
advertise = "{address}"
join = {join}
heartbeat_s = 0.2

[objects]
owed_folder = "owed-objects"
bucket = "{bucket}"
capacity_bytes = {capacity}

[bucket]
endpoint = "{endpoint}"
allow_http = true
timeout_s = 2
"""


class Member(Gateway):
    """A gateway that joins others; ``place`` is what it advertises."""

    def __init__(
        self,
        folder: Path,
        join: Sequence[str] = (),
        bucket: S3Server | None = None,
        workers: int = 2,
        secret: str = MEMBERS_SECRET,
        capacity: int = 0,
    ) -> None:
        folder.mkdir(parents=True)
        port = free_port()
        self.place = f"127.0.0.1:{free_port()}"
        self.config = folder / "sfss.toml"
        where = f"s3://{BUCKET}" if bucket else ""
        text = PAGE.format(
            port=port,
            workers=workers,
            address=self.place,
            join=json.dumps(list(join)),
            bucket=where,
            capacity=capacity,
            chunks_above=256 * 1024 if capacity else 4 * 1024 * 1024,
            endpoint=bucket.url if bucket else "",
        )
        self.config.write_text(text)
        environ = {
            **PYTHON_ENVIRON,
            "SFSS_DISCOVERY_SECRET": secret,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        founds = [] if join else ["--found"]
        command = [*SFSS, "serve", "--config", str(self.config), *founds]
        super().__init__(command, port, folder, environ)

    def lose_disk(self) -> None:
        """Remove all that the member has, which has to be stopped; nobody says again that it is the
        first.
        """
        self.command = [word for word in self.command if word != "--found"]
        for name in ("store", "owed", "owed-objects"):
            shutil.rmtree(self.folder / name)

    def joins(self, place: str) -> None:
        """Have it look for its cluster at ``place`` from its next start on."""
        text = self.config.read_text()
        self.config.write_text(re.sub(r"(?m)^join = .*", f'join = ["{place}"]', text))

    def view(self) -> dict[str, Any]:
        """Return what the member shows of all members."""
        answer = self.request("GET", "/status?detail=full")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json()["webserver"]
        return found

    def knows(self, members: Sequence["Member"]) -> bool:
        """Tell whether for this member just these belong to the cluster, all are there, and no file
        is on its way.
        """
        try:
            view = self.view()["members"]
        except (OSError, AssertionError):
            return False
        shown = view["members"]
        is_quiet = view["moving"] is None and all(
            each["live"] and each["adopted"] == each["moved"] == view["epoch"]
            for each in shown.values()
        )
        return set(shown) == {each.place for each in members} and is_quiet

    def tool(self, *arguments: str, name: str = "members") -> "subprocess.CompletedProcess[str]":
        """Run ``sfss members``, or another command, with the settings of this member."""
        return subprocess.run(
            [*SFSS, name, "--config", str(self.config), *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def put_object(self, object_id: str, body: bytes, level: int) -> Answer:
        """Put an object."""
        fields = {"X-Meta-ID": object_id, "X-Meta-ConsistencyLevel": str(level)}
        return self.request("POST", "/api/v1/put", body, fields)

    def get_object(self, object_id: str, fetches: bool = False) -> Answer:
        """Get an object."""
        fields = {"X-Meta-Fetch": "1"} if fetches else {}
        return self.request("GET", f"/api/v1/get/{object_id}", None, fields)

    def delete_object(self, object_id: str) -> Answer:
        """Delete an object."""
        return self.request("POST", f"/api/v1/delete/{object_id}")

    def new_id(self) -> str:
        """Return a ULID."""
        return self.request("GET", "/api/v1/id").body.decode().strip()


def settled(members: Sequence[Member]) -> None:
    """Wait until all ``members`` know of each other, and nothing moves."""
    for member in members:
        places = [each.place for each in members]
        wait_until(lambda: member.knows(members), f"{member.place} knows {places}", MOVED_S)  # noqa: B023


@contextmanager
def bucket_in(folder: Path) -> Iterator[S3Server]:
    """Run a server of the S3 protocol that has the bucket, for the block."""
    folder.mkdir(exist_ok=True)
    server = s3(folder)
    try:
        server.start()
        server.make_bucket(BUCKET)
        yield server
    finally:
        server.kill()


@contextmanager
def joined(
    folder: Path,
    count: int = 3,
    bucket: S3Server | None = None,
    workers: int = 2,
    capacity: int = 0,
) -> Iterator[list[Member]]:
    """Run ``count`` members of one cluster for the block. Members that are added to the list are
    stopped with the others.
    """
    members: list[Member] = []
    first: list[Member] = []
    with ExitStack() as stack:
        stack.callback(lambda: [member.kill() for member in {*first, *members}])
        for number in range(count):
            join = [members[0].place] if members else []
            place = folder / f"member-{number}"
            members.append(Member(place, join, bucket, workers, capacity=capacity))
            first.append(members[-1])
            members[-1].start()
        settled(members)
        yield members
