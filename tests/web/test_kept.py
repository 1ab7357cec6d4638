"""A running gateway keeps what clients say of a file: its type, and how long it is good for."""

import json
import time
from email.utils import parsedate_to_datetime

import pytest

from tests.servers import Gateway, wait_until


def put(gateway: Gateway, path: str, query: str = "", **fields: str) -> int:
    """Store a file, with header fields."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return gateway.request("PUT", f"/file?path={path}{query}", b"body", headers).status


def test_the_type_that_a_client_gives_wins_over_the_name(gateway: Gateway) -> None:
    assert put(gateway, "kept/a.txt", Content_Type="text/html; charset=utf-8") == 200
    for method in ("GET", "HEAD"):
        for _ in range(3):  # the short way, and what it remembers
            answer = gateway.request(method, "/file?path=kept/a.txt")
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
    listed = gateway.request("GET", "/files?prefix=kept/a.txt").json()["files"]
    assert [each["type"] for each in listed] == ["text/html; charset=utf-8"]
    assert put(gateway, "kept/a.txt") == 200
    assert gateway.get("kept/a.txt").headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    "said", ["application/octet-stream", "application/x-www-form-urlencoded", "no type", "a/b\xe4"]
)
def test_a_type_that_says_nothing_does_not(gateway: Gateway, said: str) -> None:
    assert put(gateway, "kept/b.png", Content_Type=said) == 200
    assert gateway.get("kept/b.png").headers["content-type"] == "image/png"


def test_a_form_gives_the_type_of_its_file(gateway: Gateway) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n'
        b"Content-Type: image/avif\r\n\r\nbody\r\n--x--\r\n"
    )
    fields = {"Content-Type": "multipart/form-data; boundary=x"}
    assert gateway.request("POST", "/files?path=kept/c", form, fields).status == 201
    assert gateway.get("kept/c").headers["content-type"] == "image/avif"


def test_a_file_expires(gateway: Gateway) -> None:
    assert put(gateway, "kept/soon", "&ttl=1") == 200
    assert put(gateway, "kept/later", Expires_In="1000") == 200
    expires = parsedate_to_datetime(gateway.get("kept/later").headers["expires"]).timestamp()
    assert 900 < expires - time.time() <= 1000
    wait_until(lambda: gateway.get("kept/soon").status == 404, "the file has expired")
    assert gateway.request("HEAD", "/file?path=kept/soon").status == 404
    listed = gateway.request("GET", "/files?prefix=kept/").json()["files"]
    paths = [each["path"] for each in listed]
    assert "kept/later" in paths and "kept/soon" not in paths
    assert put(gateway, "kept/soon", If_None_Match="*") == 200
    assert gateway.get("kept/soon").body == b"body"


def test_what_has_expired_is_not_there_to_be_deleted(gateway: Gateway) -> None:
    assert put(gateway, "kept/delete", "&ttl=1") == 200
    wait_until(lambda: gateway.get("kept/delete").status == 404, "the file has expired")
    assert gateway.request("DELETE", "/file?path=kept/delete").status == 404
    assert put(gateway, "kept/delete", "&ttl=1000") == 200
    assert gateway.request("DELETE", "/file?path=kept/delete").status == 204


def test_a_page_is_full_although_files_have_expired(gateway: Gateway) -> None:
    for number in range(6):
        assert put(gateway, f"kept-page/{number}", "&ttl=1" if number % 2 else "") == 200
    wait_until(lambda: gateway.get("kept-page/5").status == 404, "the files have expired")
    answer = gateway.request("GET", "/files?prefix=kept-page/&limit=2").json()
    assert [each["path"][-1] for each in answer["files"]] == ["0", "2"]
    rest = gateway.request("GET", f"/files?prefix=kept-page/&limit=2&after={answer['next']}").json()
    assert [each["path"][-1] for each in rest["files"]] == ["4"]
    assert rest["next"] is None


def test_a_wrong_time_to_live_stores_nothing(gateway: Gateway) -> None:
    for query in ("&ttl=0", "&ttl=x", "&ttl=-1"):
        answer = gateway.request("PUT", f"/file?path=kept/none{query}", b"body")
        assert answer.status == 400
        assert "ttl is" in json.loads(answer.body)["error"]
    assert put(gateway, "kept/none", Expires_In="soon") == 400
    assert gateway.get("kept/none").status == 404
