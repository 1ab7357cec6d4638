"""The OpenAPI description: that it is whole, where it is shown, and that its commands work."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from sfss.listening import DEFAULT_FACES
from sfss.listening import FACES as KNOWN_FACES
from sfss.web import api_page, http, openapi
from sfss.web.app import FACES, shown_of
from sfss.web.description import ENTRIES
from sfss.web.description import FACES as SAID_OF_FACES
from sfss.web.description_parts import ALWAYS, ARGUMENTS, HEADERS, REFUSALS, SCHEMAS
from tests.servers import Answer, Gateway, binary
from tests.web.described import SHOWN, TOKEN, gateways

WHOLE = openapi.document(shown_of(KNOWN_FACES))
STATUSES_OF_HTTP = {405, 416, 429, 505}
"""What refusals have that no error of ours stands for."""


@pytest.fixture(name="sites", scope="module")
def all_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Gateway]]:
    with gateways(tmp_path_factory.mktemp("described")) as found:
        yield found


def operations(document: Mapping[str, dict[str, dict[str, object]]]) -> list[dict[str, object]]:
    """Return all operations, those of WebDAV, too."""
    items = [*document["paths"].values()]
    more = [item[openapi.MORE_METHODS] for item in items if openapi.MORE_METHODS in item]
    return [
        each
        for item in (*items, *more)
        for method, each in item.items()
        if method != openapi.MORE_METHODS
    ]


def test_every_route_has_an_entry_and_every_entry_a_route() -> None:
    routes = {(route.method, route.address) for routes in FACES.values() for route in routes}
    twice = {(method, f"{address}/") for method, address in routes if address == "/*"}
    assert set(ENTRIES) <= routes | twice
    assert routes <= set(ENTRIES)
    assert set(SAID_OF_FACES) == set(FACES) == set(KNOWN_FACES)


def test_the_description_is_one_of_openapi_3_1() -> None:
    problems = [str(each) for each in OPENAPI_31_VALIDATOR.iter_errors(WHOLE)]
    assert problems == []
    for face in FACES:
        assert OPENAPI_31_VALIDATOR.is_valid(openapi.document(shown_of([face]))), face


def test_every_status_is_described() -> None:
    assert set(http.STATUS.values()) <= set(REFUSALS)
    used = {status for entry in ENTRIES.values() for status in entry.refusals} | {*ALWAYS}
    assert used <= set(REFUSALS)
    assert set(REFUSALS) - used <= STATUSES_OF_HTTP


def test_nothing_is_described_that_is_never_meant() -> None:
    components = WHOLE["components"]
    named = {ARGUMENTS[each]["name"] for entry in ENTRIES.values() for each in entry.takes}
    assert named == {each["name"] for each in ARGUMENTS.values()}
    assert set(components["schemas"]) == set(SCHEMAS)
    answers = [answer for entry in ENTRIES.values() for answer in entry.answers.values()]
    used = {name for answer in answers for name in (*answer.fields, *answer.may)}
    refused = {name for _, names in REFUSALS.values() for name in names}
    assert set(HEADERS) == used | refused | {"X-Request-ID"}


def test_operations_have_names_of_their_own() -> None:
    names = [str(each["operationId"]) for each in operations(WHOLE)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    heads = [item for item in WHOLE["paths"].values() if "get" in item and "head" not in item]
    assert heads == []


@pytest.mark.parametrize("name", SHOWN)
def test_a_listener_describes_what_it_shows(sites: Mapping[str, Gateway], name: str) -> None:
    answer = sites[name].request("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == openapi.document(shown_of(SHOWN[name]))
    assert [tag["name"] for tag in answer.json()["tags"]] == [
        *filter(SHOWN[name].__contains__, FACES)
    ]


def test_who_has_the_description_is_told_so(sites: Mapping[str, Gateway]) -> None:
    for target in ("/openapi.json", "/api/", "/api/page.css", "/api/common.css"):
        first = sites["native"].request("GET", target)
        tag = first.headers["etag"]
        again = sites["native"].request("GET", target, None, {"If-None-Match": tag})
        assert (first.status, again.status, again.body) == (200, 304, b"")
        assert again.headers["etag"] == tag
        head = sites["native"].request("HEAD", target)
        assert {**head.headers, "date": ""} == {**first.headers, "date": ""}
        changed = sites["native"].request("GET", target, None, {"If-Match": '"other"'})
        assert changed.status == 412


def test_it_is_shown_unless_told_otherwise() -> None:
    assert "api" in DEFAULT_FACES


class Reader(HTMLParser):
    """Reads a page as strictly as needs be: all that opens is closed, in order."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.targets: list[str] = []
        self.elements: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.add(tag)
        self.names += filter(None, [found.get("id")])
        self.targets += filter(None, [found.get("href")])
        assert "style" not in found and not any(name.startswith("on") for name in found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_all_and_needs_no_script() -> None:
    page = Reader(api_page.page(WHOLE).decode())
    assert page.open == []
    assert len(set(page.names)) == len(page.names)
    assert {each[1:] for each in page.targets if each.startswith("#")} <= set(page.names)
    assert not page.elements & {"script", "style", "img", "iframe"}
    shown = [
        each
        for path, item in WHOLE["paths"].items()
        if not path.endswith(".css")
        for each in operations({"paths": {path: item}})
        if not str(each["summary"]).startswith("the head")
    ]
    assert {str(each["operationId"]) for each in shown} <= set(page.names)
    for status in REFUSALS:
        assert f"refusal-{status}" in page.names
    for path in WHOLE["paths"]:
        assert (path in page.text) is not path.endswith(".css")


def test_the_page_may_load_its_own_style_only(sites: Mapping[str, Gateway]) -> None:
    answer = sites["native"].request("GET", "/api/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for target in Reader(answer.body.decode()).targets:
        if not target.startswith("#"):
            assert sites["native"].request("GET", _beside("/api/", target)).status == 200
    assert {"../browse/", "../status/"} <= set(Reader(answer.body.decode()).targets)


def _beside(address: str, reference: str) -> str:
    return os.path.normpath(address + reference) + ("/" if reference.endswith("/") else "")


@pytest.mark.parametrize("name", SHOWN)
def test_the_commands_work(sites: Mapping[str, Gateway], name: str, tmp_path: Path) -> None:
    site, photo = sites[name], tmp_path / "photo.jpg"
    photo.write_bytes(b"a photo")
    commands = [
        sample["source"]
        for each in operations(site.request("GET", "/openapi.json").json())
        for sample in each.get(openapi.SAMPLES, [])  # type: ignore[attr-defined]
    ]
    assert len(commands) >= 3
    for command in commands:
        blob_id = _prepared(site, name, photo.read_bytes())
        environ = {**os.environ, "SFSS_URL": site.url, "ID": blob_id, "SFSS_TOKEN": TOKEN}
        binary("curl")
        text = command.replace("curl ", "curl -sS --fail ", 1)
        run = subprocess.run(
            ["sh", "-c", text], cwd=tmp_path, env=environ, capture_output=True, timeout=60
        )
        assert run.returncode == 0, (command, run.stdout, run.stderr)


def _prepared(site: Gateway, name: str, photo: bytes) -> str:
    """Have what a command is about; return its id where it has one."""
    answer: Answer | None = None
    if name == "native":
        answer = site.put("a/photo.jpg", photo)
    elif name == "paths":
        answer = site.request("PUT", "/a/photo.jpg", photo)
    elif name == "blobs":
        answer = site.request("POST", "/upload", photo)
        return str(answer.json()["id"])
    elif name == "objects":
        object_id = site.request("GET", "/api/v1/id").body.decode()
        answer = site.request("POST", "/api/v1/put", photo, {"X-Meta-ID": object_id})
        assert answer.status == 200
        return object_id
    assert answer is None or answer.status in (200, 201)
    return ""
