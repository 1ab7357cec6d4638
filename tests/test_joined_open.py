"""What is under way while the members of a cluster change."""

import hashlib
import http.client
import random
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from tests.joined import Member, settled
from tests.servers import DEADLINE_S, running, wait_until

SIZE = 64 * 1024 * 1024
PART = 1024 * 1024


def member_of_size(folder: Path, join: Sequence[str] = ()) -> Member:
    member = Member(folder, join)
    text = member.config.read_text()
    member.config.write_text(text.replace('"joined"\n', f'"joined"\nmax_file_size = {SIZE}\n'))
    return member


def begin_upload(member: Member, path: str, body: bytes) -> http.client.HTTPConnection:
    """Send all but the last part of a file."""
    connection = http.client.HTTPConnection("127.0.0.1", member.port, timeout=DEADLINE_S)
    connection.putrequest("PUT", f"/file?path={path}")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[:-PART])
    return connection


def test_long_uploads_and_slow_readers_see_nothing_of_a_change(tmp_path: Path) -> None:
    body = random.Random(1).randbytes(SIZE)
    wanted = hashlib.sha256(body).hexdigest()
    with ExitStack() as stack:
        members = [stack.enter_context(running(member_of_size(tmp_path / "0")))]
        for name in ("1", "2"):
            member = member_of_size(tmp_path / name, [members[0].place])
            members.append(stack.enter_context(running(member)))
        settled(members)
        assert members[1].put("read", body).status == 200
        upload = stack.enter_context(closing(begin_upload(members[0], "sent", body)))
        never = stack.enter_context(closing(begin_upload(members[0], "never", body)))
        reader = stack.enter_context(closing(members[2].connect()))
        reader.request("GET", "/file?path=read")
        response = reader.getresponse()
        found = hashlib.sha256(response.read(PART))
        before = members[0].output().count("new workers take over")
        more = member_of_size(tmp_path / "3", [members[0].place])
        members.append(stack.enter_context(running(more)))
        wait_until(
            lambda: members[0].output().count("new workers take over") > before, "they change"
        )
        upload.send(body[-PART:])
        answer = upload.getresponse()
        assert answer.status in (200, 201), answer.read()
        while part := response.read(PART):
            found.update(part)
        assert found.hexdigest() == wanted
        settled(members)  # whoever never comes to an end is not waited for
        for member in members:
            for path in ("sent", "read"):
                answer_of = member.get(path)
                assert answer_of.status == 200, (member.place, path, answer_of.status)
                assert hashlib.sha256(answer_of.body).hexdigest() == wanted
            assert member.get("never").status == 404
        assert never.sock is not None
