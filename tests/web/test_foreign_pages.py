"""Pages of other origins change nothing, whatever their reader may; on real gateways."""

from base64 import b64encode
from collections.abc import Iterator, Mapping

import pytest

from sfss.grants import write_token
from tests.servers import Gateway, gateway, running
from tests.web.client import sentence

TOKEN = "a token of somebody"
SETTINGS = (
    "[server]\nfaces = ['native', 'paths', 'upload', 'blobs']\n"
    "[access]\nsigning_keys = ['key the-secret-of-the-key']\n"
    f"tokens = ['{write_token(TOKEN, 'some', ['write'], [], '')}']\n"
)
CORS = "[cors]\norigins = ['https://known.test']\n"
BASIC = {"Authorization": f"Basic {b64encode(f'x:{TOKEN}'.encode()).decode()}"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CROSS = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}
NEAR = {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"}
OLD = {"Origin": "https://evil.test"}
NULL = {"Origin": "null"}
OWN = {"Sec-Fetch-Site": "same-origin", "Origin": "https://proxied.test"}
KNOWN = {"Sec-Fetch-Site": "cross-site", "Origin": "https://known.test"}


@pytest.fixture(name="site", scope="module", params=["", CORS])
def open_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway for this machine, where anybody may write."""
    folder = tmp_path_factory.mktemp("site")
    with running(gateway(folder, "--store", "store", settings=SETTINGS + request.param)) as server:
        yield server


@pytest.mark.parametrize("fields", [CROSS, NEAR, OLD, NULL, {**CROSS, **BASIC}])
def test_others_change_nothing(site: Gateway, fields: Mapping[str, str]) -> None:
    plain = {**fields, "Content-Type": "text/plain"}
    for target in ("/files?path=a", "/files?path=a&signature=x", "/upload", "/blob/a"):
        answer = site.request("POST", target, b"x", plain)
        assert answer.status == 403, target
        assert "cors.origins" in sentence(answer)
    assert site.request("PUT", "/a", b"x", plain).status == 403
    assert site.request("DELETE", "/file?path=a", None, plain).status == 403
    assert site.request("GET", "/files", None, fields).json()["files"] == []


@pytest.mark.parametrize("fields", [{}, OWN, {**CROSS, **BEARER}, {"Sec-Fetch-Site": "none"}])
def test_others_than_those_do(site: Gateway, fields: Mapping[str, str]) -> None:
    assert site.request("POST", "/files?path=b", b"x", fields).status == 201
    assert site.request("DELETE", "/file?path=b", None, fields).status == 204


def test_its_own_pages_do_where_browsers_say_less(site: Gateway) -> None:
    own = {"Origin": f"http://127.0.0.1:{site.port}"}
    proxied = {"Origin": "http://Files.test", "X-Forwarded-Host": "files.test"}
    for fields in (own, proxied):
        assert site.request("POST", "/files?path=b", b"x", fields).status == 201
    assert site.request("DELETE", "/file?path=b").status == 204


def test_pages_that_are_named_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("named")
    for text, status in ((CORS, 201), ("[cors]\norigins = ['*']\n", 201), ("", 403)):
        with running(gateway(folder, "--store", "store", settings=text)) as server:
            assert server.request("POST", "/files?path=b", b"x", KNOWN).status == status
