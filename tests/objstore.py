"""conf/objstore.toml in a test: a gateway with objects, over a bucket on a real S3 server."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sfss.member_files import StateFile
from sfss.member_state import State
from sfss.members import Member, alone
from tests.servers import (
    CHECKOUT,
    PYTHON_ENVIRON,
    SECRET,
    SFSS,
    Answer,
    Gateway,
    S3Server,
    free_port,
    wait_until,
)

BUCKET = "my-bucket"
PREFIX = "objects"


class Objstore:
    """A gateway with conf/objstore.toml in ``folder``, and the ``server`` of its bucket, if any."""

    def __init__(self, folder: Path, server: S3Server | None, **changes: str) -> None:
        self.folder, self.server = folder, server
        self.port = free_port()
        self.config = folder / "objstore.toml"
        self.config.write_text(self.text(**changes))
        command = [*SFSS, "serve", "--config", str(self.config)]
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
        self.gateway = Gateway(command, self.port, folder, {**PYTHON_ENVIRON, **keys})
        self._begin()

    def _begin(self) -> None:
        """Have it be a cluster of its own, unless it joins others: as --found does in a while."""
        text = self.config.read_text()
        advertised = re.search(r'^advertise = "(.*)"$', text, re.M)
        if advertised is None or "join = []" not in text:
            return

        def alone_at(state: State) -> tuple[State, None]:
            return replace(state, membership=alone(Member(advertised[1], state.store))), None

        StateFile(self.folder / "var" / "objects").change(alone_at)

    def text(self, **changes: str) -> str:
        """Return the page, but for addresses, patience and ``changes``."""
        text = (CHECKOUT / "conf" / "objstore.toml").read_text()
        bucket = {} if self.server is None else {"bucket": f'"s3://{BUCKET}/{PREFIX}"'}
        for name, value in {
            "address": f'"127.0.0.1:{self.port}"',
            "advertise": f'"127.0.0.1:{free_port()}"',
            "faces": '["objects", "status", "native"]',
            **bucket,
            **changes,
        }.items():
            text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
            assert count == 1, name
        if self.server is not None:
            text += f'endpoint = "{self.server.url}"\nallow_http = true\ntimeout_s = 2.0\n'
        return text

    def new_id(self) -> str:
        """Return a new ULID."""
        return self.ask("GET", "id").body.decode()

    def ask(
        self,
        method: str,
        what: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request of the API."""
        return self.gateway.request(method, f"/api/v1/{what}", body, headers)

    def put(
        self,
        object_id: str,
        body: bytes,
        level: int = 0,
        name: str = "",
        user: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Answer:
        """Put an object."""
        headers = {"X-Meta-ID": object_id, "X-Meta-ConsistencyLevel": str(level)}
        headers |= {"X-Meta-Name": name.encode().decode("latin-1")} if name else {}
        headers |= {"X-Meta-UserMeta": json.dumps(user)} if user else {}
        return self.ask("POST", f"put{query}", body, headers)

    def get(self, object_id: str, fetch: bool = False, method: str = "GET") -> Answer:
        """Get an object."""
        return self.ask(method, f"get/{object_id}", None, {"X-Meta-Fetch": "1"} if fetch else {})

    def delete(self, object_id: str) -> Answer:
        """Delete an object."""
        return self.ask("POST", f"delete/{object_id}")

    def meta(self, object_id: str) -> Answer:
        """Ask for what is known of an object."""
        return self.ask("GET", f"meta/{object_id}")

    def owed(self) -> int:
        """Return of how many objects the bucket is owed the state."""
        answer = self.gateway.request("GET", "/status?detail=full")
        return int(answer.json()["webserver"]["owed_to_bucket"])

    def wait_paid(self) -> None:
        """Wait until the bucket is owed nothing."""
        wait_until(lambda: self.owed() == 0, "the bucket has got everything")

    def in_bucket(self, object_id: str) -> Answer:
        """Return the object as another client of the bucket sees it."""
        assert self.server is not None
        return self.server.get(f"{BUCKET}/{PREFIX}/{object_id}")

    def files(self, prefix: str = "") -> list[str]:
        """Return the paths of all that the store holds for objects."""
        answer = self.gateway.request("GET", f"/files?prefix={prefix}")
        return [each["path"] for each in answer.json()["files"]]

    def lose_body(self, object_id: str) -> None:
        """Remove the body of an object from the store, and not its entry."""
        bodies = [path for path in self.files() if f"/{object_id}/" in path]
        assert bodies
        for path in bodies:
            assert self.gateway.request("DELETE", f"/file?path={path}").status == 204

    def wipe(self) -> None:
        """Lose all of the local store."""
        self.gateway.kill()
        shutil.rmtree(self.folder / "var" / "objects")
        self._begin()
        self.gateway.start()
