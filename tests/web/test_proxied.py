"""Whom a proxy on the same machine asks for: others than this machine may no more than they would
by an address of their own.
"""

from collections.abc import Iterator, Mapping

import pytest

from sfss.grants import write_token
from sfss.networks import is_elsewhere
from tests.servers import Gateway, gateway, running
from tests.web.client import sentence

TOKEN = "a token of somebody"
TOKENS = f"[access]\ntokens = ['{write_token(TOKEN, 'some', ['read'], [], '')}']\n"
FAR = {"X-Forwarded-For": "192.0.2.1"}
BY_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(name="site", scope="module")
def local_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for this machine, with a token that has not all that anybody may here."""
    folder = tmp_path_factory.mktemp("site")
    text = f"[server]\nfaces = ['native', 'paths']\n{TOKENS}"
    with running(gateway(folder, "--store", "store", settings=text)) as server:
        assert server.put("a", b"x").status == 200
        yield server


@pytest.mark.parametrize(
    "fields",
    [
        FAR,
        {"X-Real-IP": "2001:db8::1"},
        {"X-Forwarded-For": "127.0.0.1, 192.0.2.1"},
        {"X-Forwarded-For": "192.0.2.1, 127.0.0.1"},
        {"X-Forwarded-For": "unknown"},
        {**FAR, **BY_TOKEN},
    ],
)
def test_who_is_elsewhere_reads_only(site: Gateway, fields: Mapping[str, str]) -> None:
    for method, target in (("PUT", "/a"), ("POST", "/files?path=a"), ("DELETE", "/file?path=a")):
        answer = site.request(method, target, b"x" if method != "DELETE" else None, fields)
        assert answer.status == 403
        words = "the token some has not" if len(fields) > 1 else "access.open_to_the_network"
        assert words in sentence(answer)
    for target in ("/a", "/file?path=a", "/files", "/"):
        assert site.request("GET", target, None, fields).status == 200


@pytest.mark.parametrize("said", ["127.0.0.1", "::1, ::ffff:127.0.0.2", "", " ,"])
def test_who_is_here_writes(site: Gateway, said: str) -> None:
    assert site.request("PUT", "/a", b"x", {"X-Forwarded-For": said}).status == 201


def test_what_is_said_to_be_open_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = "[access]\nopen_to_the_network = ['write']\n"
    folder = tmp_path_factory.mktemp("open")
    with running(gateway(folder, "--store", "store", settings=text)) as server:
        assert server.request("PUT", "/file?path=a", b"x", FAR).status == 200
        assert server.request("DELETE", "/file?path=a", None, FAR).status == 403


def test_what_is_no_address_is_elsewhere() -> None:
    assert is_elsewhere(["127.0.0.1:80"])
    assert not is_elsewhere([])
