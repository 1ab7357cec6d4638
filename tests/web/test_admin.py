"""The face "admin": who may do what, and that all workers see it at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Answer, Gateway, gateway, running
from tests.web.client import sentence

TOKEN = "s3cret: a token"
OWN = {"Authorization": f"Bearer {TOKEN}"}
MIGRATION = "/admin/migration"


def over_folders(folder: Path, server: str = "", new: str = "['file:{}/new']") -> Gateway:
    """Return a gateway (not started) over a folder, that is to be left for a new one."""
    settings = (
        f"[server]\nfaces = ['native', 'debug', 'admin']\nworkers = 4\n{server}"
        "[cluster]\nkind = 'replicated'\n"
        f"[replicated]\nplacement = 'mirror'\nstores = ['file:{folder}/old']\n"
        f"[migration]\nplacement = 'mirror'\nstores = {new.format(folder)}\n"
    )
    return gateway(folder, settings=settings)


@pytest.fixture(name="site")
def new_site(tmp_path: Path) -> Iterator[Gateway]:
    with running(over_folders(tmp_path, f"admin_token = '{TOKEN}'\n")) as server:
        yield server


def step(server: Gateway, query: str, headers: dict[str, str] | None = None) -> Answer:
    """Ask for a step."""
    return server.request("POST", f"{MIGRATION}{query}", None, OWN if headers is None else headers)


def states(server: Gateway, count: int = 24) -> set[object]:
    """Return what workers say of the state, each asked over a connection of its own."""
    return {server.request("GET", "/debug/vars").json()["MigrationState"] for _ in range(count)}


def test_a_migration_from_its_beginning_to_its_end(site: Gateway) -> None:
    found = site.request("GET", MIGRATION, None, OWN)
    assert (found.status, found.json()) == (200, {"state": "old", "since": None, "copied": False})
    assert site.put("a", b"old").status == 200
    begun = step(site, "?step=start")
    assert begun.status == 200
    assert begun.json()["state"] == "both"
    assert begun.json()["since"].endswith("Z")
    assert step(site, "?step=start").json() == begun.json()
    assert states(site) == {"both"}
    assert {site.get("a").body for _ in range(8)} == {b"old"}
    refused = step(site, "?step=finish")
    assert (refused.status, "not everything has been copied" in sentence(refused)) == (409, True)
    assert states(site) == {"both"}
    assert step(site, "?step=finish&force=false").status == 409
    assert step(site, "?step=finish&force=true").json()["state"] == "new"
    assert states(site) == {"new"}
    assert site.request("HEAD", MIGRATION, None, OWN).status == 200


def test_a_step_that_does_not_follow(site: Gateway) -> None:
    for each in ("abort", "finish"):
        refused = step(site, f"?step={each}&force=true")
        assert refused.status == 409
        assert f"{each} does not follow on the state 'old'" in sentence(refused)
    assert states(site, 4) == {"old"}


def test_the_state_outlives_the_gateway(site: Gateway) -> None:
    assert step(site, "?step=start").status == 200
    assert step(site, "?step=abort").json()["state"] == "back"
    site.kill()
    site.start()
    assert site.request("GET", MIGRATION, None, OWN).json()["state"] == "back"
    assert states(site) == {"both"}  # Photosrv has no name for it


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "step"),
        ("?step=", "step"),
        ("?step=begin", "start, finish, abort"),
        ("?step=start&step=start", "step"),
        ("?step=start&force=yes", "force"),
        ("?step=start&force=", "force"),
    ],
)
def test_what_is_no_step(site: Gateway, query: str, words: str) -> None:
    refused = step(site, query)
    assert (refused.status, words in sentence(refused)) == (400, True)
    assert states(site, 4) == {"old"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Basic eDo="},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xfc"},
    ],
)
def test_strangers_are_refused(site: Gateway, headers: dict[str, str]) -> None:
    for method, target in (("GET", MIGRATION), ("POST", f"{MIGRATION}?step=start")):
        refused = site.request(method, target, None, headers)
        assert refused.status == 401, refused
        assert refused.headers["www-authenticate"] == 'Bearer realm="sfss"'
        assert "token" in sentence(refused)
    assert states(site, 4) == {"old"}


def test_the_scheme_may_be_written_as_one_likes(site: Gateway) -> None:
    headers = {"Authorization": f"bearer  {TOKEN}"}
    assert site.request("GET", MIGRATION, None, headers).status == 200


def test_without_a_token_nobody_may(tmp_path: Path) -> None:
    with running(over_folders(tmp_path)) as server:
        for headers in ({}, OWN, {"Authorization": "Bearer "}):
            refused = step(server, "?step=start", headers)
            assert (refused.status, 'no token with the scope "admin"' in sentence(refused)) == (
                403,
                True,
            )
        assert states(server, 4) == {"old"}


def test_without_new_stores_there_is_nothing_to_migrate(tmp_path: Path) -> None:
    with running(over_folders(tmp_path, f"admin_token = '{TOKEN}'\n", "[]")) as server:
        for method, target in (("GET", MIGRATION), ("POST", f"{MIGRATION}?step=start")):
            refused = server.request(method, target, None, OWN)
            assert (refused.status, "no [migration]" in sentence(refused)) == (409, True)
        assert states(server, 4) == {"old"}
