"""Who may do what: every route of every face, each scope, and paths; on real gateways."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import sha1
from itertools import count
from typing import NamedTuple

import pytest

from sfss.grants import SCOPES, write_token
from sfss.listening import FACES as FACE_NAMES
from sfss.web.app import FACES
from tests.servers import Answer, Gateway, gateway, running
from tests.web.client import head, sentence, wire

WITHIN = "photos/"
"""The paths of the tokens that have not all."""

BODY = b"a file"
BLOB = sha1(BODY).hexdigest()
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
PUT_OBJECT = {"X-Meta-ID": ULID}

_numbers = count()


class Ask(NamedTuple):
    """A request, to a route of ``address``, and the scopes that it needs; ``path``: that it names,
    None for all.
    """

    method: str
    address: str
    target: str
    needs: str
    path: str | None = None
    headers: Mapping[str, str] = {}
    body: bytes | None = None

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes."""
        return frozenset(self.needs.split("+")) - {""}


def on_file(method: str, needs: str, path: str = "a", **more: object) -> list[Ask]:
    """Return requests for one file, on both faces that name files."""
    body = BODY if method in ("PUT", "POST") else None
    asks = [Ask(method, "/*", f"/{path}", needs, path, body=body)] if method != "POST" else []
    address = "/files" if method == "POST" else "/file"
    return [*asks, Ask(method, address, f"{address}?path={path}", needs, path, body=body)]


def moved(method: str, needs: str, source: str = "a", target: str = "b") -> Ask:
    """Return a copy or a move."""
    return Ask(method, "/*", f"/{source}", needs, source, {"Destination": f"/{target}"})


ASKS = [
    *on_file("GET", "read"),
    *on_file("HEAD", "read"),
    *on_file("PUT", "write"),
    *on_file("POST", "write"),
    *on_file("DELETE", "delete", "gone"),
    Ask("GET", "/files", "/files", "list", ""),
    Ask("GET", "/*", "/", "list", ""),
    Ask("GET", "/*", "/folder/", "list", "folder/"),
    Ask("DELETE", "/*", "/empty/", "delete", "empty/"),
    Ask("PROPFIND", "/*", "/", "list", "", {"Depth": "1"}),
    Ask("PROPFIND", "/*", "/a", "list", "a", {"Depth": "0"}),
    Ask("MKCOL", "/*", "/made-{}/", "write", "made/"),
    Ask("OPTIONS", "/*", "/a", ""),
    moved("COPY", "read+write"),
    moved("MOVE", "read+write+delete", "gone"),
    Ask("GET", "/__index__/", "/__index__/", "list"),
    Ask("GET", "/__missing__/", "/__missing__/", "list"),
    Ask("GET", "/__readme.txt", "/__readme.txt", ""),
    Ask("GET", "/status", "/status", "list"),
    Ask("GET", "/status/*", "/status/", ""),
    Ask("GET", "/openapi.json", "/openapi.json", ""),
    Ask("GET", "/api/", "/api/", ""),
    Ask("GET", "/api/common.css", "/api/common.css", ""),
    Ask("GET", "/api/page.css", "/api/page.css", ""),
    Ask("GET", "/browse", "/browse", ""),
    Ask("GET", "/browse/*", "/browse/", ""),
    Ask("HEAD", "/status/events", "/status/events", "list"),  # a GET goes on for ever
    Ask("GET", "/debug/vars", "/debug/vars", "list"),
    Ask("GET", "/metrics", "/metrics", "list"),
    Ask("GET", "/health/live", "/health/live", ""),
    Ask("GET", "/health/ready", "/health/ready", ""),
    Ask("GET", "/admin/migration", "/admin/migration", "admin"),
    Ask("POST", "/admin/migration", "/admin/migration?step=start", "admin"),
    Ask("POST", "/upload", "/upload", "write", "blobs/", body=BODY),
    Ask("GET", "/fetch/*", f"/fetch/{BLOB}.txt", "read", f"blobs/{BLOB[:2]}/{BLOB}"),
    Ask("GET", "/alive", "/alive", ""),
    Ask("GET", "/blobs", "/blobs", "list", "blobs/"),
    Ask("GET", "/blob/*", f"/blob/{BLOB}", "read", f"blobs/{BLOB[:2]}/{BLOB}"),
    Ask("POST", "/blob/*", f"/blob/{BLOB}", "write", f"blobs/{BLOB[:2]}/{BLOB}", body=BODY),
    Ask("DELETE", "/blob/*", "/blob/none", "delete", "blobs/no/none"),
    Ask("GET", "/api/v1/ping", "/api/v1/ping", ""),
    Ask("GET", "/api/v1/id", "/api/v1/id", ""),
    Ask("GET", "/api/v1/version", "/api/v1/version", ""),
    Ask("GET", "/api/v1/stats", "/api/v1/stats", "list"),
    Ask("POST", "/api/v1/put", "/api/v1/put", "write", None, PUT_OBJECT, BODY),
    Ask("GET", "/api/v1/get/*", f"/api/v1/get/{ULID}", "read"),
    Ask("GET", "/api/v1/meta/*", f"/api/v1/meta/{ULID}", "read"),
    Ask("POST", "/api/v1/delete/*", f"/api/v1/delete/{ULID}", "delete"),
]


def token_of(scopes: frozenset[str] | set[str], prefixes: tuple[str, ...] = ()) -> str:
    """Return the secret of the token with ``scopes``."""
    return "-".join(["token", *sorted(scopes), *map(str.upper, prefixes)])


def tokens() -> Iterator[str]:
    """Yield a token for each set of scopes that is needed, and for all scopes but one."""
    exact = {ask.scopes for ask in ASKS if ask.scopes}
    but_one = {frozenset(SCOPES) - {scope} for scope in SCOPES}
    for scopes in exact | but_one | {frozenset(SCOPES)}:
        for prefixes in ((), (WITHIN,), ("blobs/",)):
            secret = token_of(scopes, prefixes)
            yield write_token(secret, secret.replace("/", ""), sorted(scopes), list(prefixes), "")


def settings(access: str) -> str:
    """Return the settings of a gateway that shows all faces."""
    return f"[server]\nfaces = {list(FACE_NAMES)}\naccess_log = true\n[access]\n{access}\n"


OLD = "until-yesterday"
CLOSED = (
    f"anonymous = []\ntokens = {[*tokens(), write_token(OLD, OLD, ['read'], [], '2026-01-01')]}"
)


@pytest.fixture(name="site", scope="module")
def closed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway where nobody may do anything without a token."""
    server = gateway(tmp_path_factory.mktemp("gate"), "--store", "store", settings=settings(CLOSED))
    with running(server):
        for path in ("a", "folder/a", f"{WITHIN}a", "photos"):
            assert (
                ask(server, Ask("PUT", "/file", f"/file?path={path}", "", body=BODY)).status == 200
            )
        assert ask(server, Ask("POST", "/upload", "/upload", "", body=BODY)).status == 200
        yield server


ALL = token_of(frozenset(SCOPES))


def ask(server: Gateway, what: Ask, token: str | None = ALL) -> Answer:
    """Ask, with a token."""
    fields = {} if token is None else {"Authorization": f"Bearer {token}"}
    target = what.target.format(next(_numbers))
    return server.request(what.method, target, what.body, {**what.headers, **fields})


def passed(answer: Answer) -> bool:
    """Tell whether a request was not refused for want of a permission."""
    return answer.status not in (401, 403)


def test_every_route_is_asked_for_here() -> None:
    routes = {(route.method, route.address) for face in FACES.values() for route in face}
    assert routes == {(each.method.replace("HEAD", "GET"), each.address) for each in ASKS}


def test_a_route_says_what_it_changes() -> None:
    scopes = {
        (route.method, route.address): route.scope for face in FACES.values() for route in face
    }
    for each in ASKS:
        scope = scopes.get((each.method, each.address), "read")
        assert scope in each.scopes | ({"read"} if each.scopes == {"list"} else {""})


@pytest.mark.parametrize("what", ASKS, ids=lambda what: f"{what.method} {what.target}")
def test_what_each_request_needs(site: Gateway, what: Ask) -> None:
    assert passed(ask(site, what, token_of(what.scopes) if what.scopes else None))
    for token in (None, "wrong", OLD):
        answer = ask(site, what, token)
        if not what.scopes:
            assert passed(answer)
            continue
        assert answer.status == 401
    for scope in what.scopes:
        answer = ask(site, what, token_of(frozenset(SCOPES) - {scope}))
        assert answer.status == 403
        assert what.method == "HEAD" or f'the scope "{scope}"' in sentence(answer)


@pytest.mark.parametrize("what", ASKS, ids=lambda what: f"{what.method} {what.target}")
def test_a_token_for_some_paths(site: Gateway, what: Ask) -> None:
    inside = what.path is not None and what.path.startswith("blobs/")
    answer = ask(site, what, token_of(frozenset(SCOPES), ("blobs/",)))
    assert passed(answer) == (inside or not what.scopes)
    if not passed(answer) and what.method != "HEAD":
        assert "and not for" in sentence(answer)


PATHS = [
    *on_file("GET", "read", f"{WITHIN}a"),
    *on_file("PUT", "write", f"{WITHIN}new"),
    *on_file("POST", "write", f"{WITHIN}new"),
    *on_file("DELETE", "delete", f"{WITHIN}gone"),
    Ask("GET", "/file", "/file?path=photos%2Fa", "", f"{WITHIN}a"),
    Ask("GET", "/*", "/photos%2fa", "", f"{WITHIN}a"),
    Ask("GET", "/*", "//photos//a", "", f"{WITHIN}a"),
    Ask("GET", "/files", "/files?prefix=photos/", "", WITHIN),
    Ask("GET", "/files", "/files?prefix=photos/a&after=photos/", "", WITHIN),
    Ask("GET", "/*", "/photos/", "", WITHIN),
    Ask("PROPFIND", "/*", "/photos/", "", WITHIN, {"Depth": "1"}),
    Ask("PROPFIND", "/*", "/photos/a", "", WITHIN, {"Depth": "0"}),
    Ask("MKCOL", "/*", "/photos/{}/", "", WITHIN),
    Ask("MKCOL", "/*", "/photos", "", WITHIN),
    moved("COPY", "", f"{WITHIN}a", f"{WITHIN}b"),
    Ask("COPY", "/*", "/photos/a", "", WITHIN, {"Destination": "/photos//c"}),
    moved("MOVE", "", f"{WITHIN}gone", f"{WITHIN}b"),
]
BESIDE = [
    *on_file("GET", "read", "photos"),
    *on_file("GET", "read", "a"),
    *on_file("GET", "read", "Photos/a"),
    *on_file("PUT", "write", "photos2/a"),
    *on_file("POST", "write", "/photos/a"),
    *on_file("DELETE", "delete", "a"),
    Ask("GET", "/file", "/file", ""),
    Ask("GET", "/file", "/file?path=photos/a&path=a", ""),
    Ask("GET", "/file", "/file?path=%ff", ""),
    Ask("GET", "/*", "/photos/../a", ""),
    Ask("GET", "/*", "/%ff", ""),
    Ask("GET", "/files", "/files", ""),
    Ask("GET", "/files", "/files?prefix=photos", ""),
    Ask("GET", "/files", "/files?prefix=&after=photos/", ""),
    Ask("GET", "/files", "/files?prefix=photos/&prefix=", ""),
    Ask("GET", "/*", "/", ""),
    Ask("PROPFIND", "/*", "/photos", "", None, {"Depth": "1"}),
    Ask("PROPFIND", "/*", "/", "", None, {"Depth": "0"}),
    Ask("MKCOL", "/*", "/photos2/", ""),
    moved("COPY", "", f"{WITHIN}a", "b"),
    moved("COPY", "", "a", f"{WITHIN}b"),
    moved("MOVE", "", f"{WITHIN}a", "b"),
    moved("MOVE", "", "a", f"{WITHIN}b"),
    Ask("COPY", "/*", "/photos/a", ""),
    Ask("COPY", "/*", "/photos/a", "", None, {"Destination": "http://elsewhere/photos/b"}),
]


@pytest.mark.parametrize("what", PATHS, ids=lambda what: f"{what.method} {what.target}")
def test_inside_its_paths_a_token_is_good(site: Gateway, what: Ask) -> None:
    assert passed(ask(site, what, token_of(frozenset(SCOPES), (WITHIN,))))


@pytest.mark.parametrize("what", BESIDE, ids=lambda what: f"{what.method} {what.target}")
def test_outside_its_paths_it_is_not(site: Gateway, what: Ask) -> None:
    answer = ask(site, what, token_of(frozenset(SCOPES), (WITHIN,)))
    assert answer.status == 403
    assert "for some paths" in sentence(answer)
    assert ask(site, Ask("GET", "/file", "/file?path=a", "")).body == BODY


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (f"Bearer {ALL}", 200),
        (f"bearer   {ALL} ", 200),
        ("Basic " + b64encode(f"anybody:{ALL}".encode()).decode(), 200),
        ("basic " + b64encode(f":{ALL}".encode()).decode(), 200),
        ("Basic " + b64encode(ALL.encode()).decode(), 401),
        ("Basic " + b64encode(f"{ALL}:".encode()).decode(), 401),
        (f"Basic {ALL}", 401),
        ("Basic =", 401),
        (ALL, 401),
        (f"Bearer {ALL}x", 401),
        (f"Bearer {ALL[:-1]}", 401),
        ("Bearer", 401),
        ("Bearer \xfc", 401),
        ("", 401),
        (f"Digest {ALL}", 401),
    ],
)
@pytest.mark.parametrize("odd", [{}, {"Range": "bytes=0-"}])
def test_how_a_token_is_brought(
    site: Gateway, field: str, status: int, odd: dict[str, str]
) -> None:
    for target in ("/file?path=a", "/a"):
        answer = site.request("GET", target, None, {"Authorization": field, **odd})
        assert answer.status == (206 if odd and status == 200 else status)


def test_two_tokens_are_none(site: Gateway) -> None:
    fields = [f"Authorization: Bearer {ALL}"] * 2
    with wire(site) as connection:
        connection.send(head("GET", "/file?path=a", *fields))
        assert connection.answer().status == 401


def challenges(server: Gateway, target: str) -> list[str] | None:
    """Return how a client may say who it is, as the answer says."""
    with closing(server.connect()) as connection:
        connection.request("GET", target)
        return connection.getresponse().headers.get_all("WWW-Authenticate")


def test_webdav_clients_are_told_of_basic(site: Gateway) -> None:
    bearer = 'Bearer realm="sfss"'
    assert challenges(site, "/file?path=a") == [bearer]
    assert challenges(site, "/a") == [bearer, 'Basic realm="sfss", charset="UTF-8"']
    assert challenges(site, "/__readme.txt") is None


def test_a_refusal_comes_before_the_body(site: Gateway) -> None:
    for target in ("/file?path=a", "/a"):
        with wire(site) as connection:
            connection.send(head("PUT", target, "Content-Length: 2000000", "Expect: 100-continue"))
            answer = connection.answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            connection.half_close()  # or the body would be waited for, for a while
            assert connection.ended()
        with wire(site) as connection:
            connection.send(head("PUT", target, "Transfer-Encoding: chunked"), b"5\r\nabcde\r\n")
            assert connection.answer().status == 401
    assert ask(site, Ask("GET", "/file", "/file?path=a", "")).body == BODY


def test_the_log_names_no_token(site: Gateway) -> None:
    assert ask(site, Ask("GET", "/file", "/file?path=a", "")).status == 200
    assert ALL not in site.output()


def test_who_may_not_list_is_told_of_no_folder(site: Gateway) -> None:
    asked = Ask("GET", "/*", "/folder", "read")
    reader = token_of({"read"})
    assert ask(site, asked).status == 301
    assert ask(site, asked, reader).status == 404
    ready = Ask("GET", "/health/ready", "/health/ready", "")
    assert ask(site, ready, None).json() == ask(site, ready, reader).json() == {"ready": True}
    assert "stores" in ask(site, ready, token_of({"list"})).json()


def test_what_a_token_may_see_stays_out_of_shared_caches(site: Gateway) -> None:
    for address in ("fetch", "blob"):
        found = ask(site, Ask("GET", "", f"/{address}/{BLOB}", ""))
        assert found.headers["cache-control"] == "private, max-age=31536000, immutable"
    # nginx, say, heeds no Authorization.
    for target in ("/file?path=a", "/a", "/files", "/", "/status", "/__index__/", "/metrics"):
        found = ask(site, Ask("GET", "", target, ""))
        assert (found.status, found.headers.get("cache-control")) == (200, "private"), target
