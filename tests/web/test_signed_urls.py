"""Signed URLs on real gateways; commands that make them, and tokens; what the logs show of both."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from sfss.signing import Signed, query_of
from sfss.web.access import redacted
from tests.servers import PYTHON_ENVIRON, SFSS, Answer, Gateway, gateway, running
from tests.web.client import head, sentence, wire

KEYS = {"new": "the-newer-secret-of-urls", "old": "the-older-secret-of-urls"}
SIGNING_KEYS = {"SFSS_ACCESS_SIGNING_KEYS": ", ".join(f"{k} {v}" for k, v in KEYS.items())}
SETTINGS = (
    "[server]\nfaces = ['native', 'paths']\naccess_log = true\nslow_request_ms = 1\n"
    "log_format = '{}'\n[paths]\nrewrites = ['/short/ /photos/']\n[access]\nanonymous = []\n"
)
OPEN_BY_PATH = "[server]\nfaces = ['native', 'paths']\n"
BODY = b"a file"
PATH = "photos/ä b+c%41.jpg"
AT = quote(PATH)


@pytest.fixture(name="site", scope="module", params=["line", "json"])
def closed_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway where nobody may do anything, but for signed URLs."""
    text = SETTINGS.format(request.param)
    folder = tmp_path_factory.mktemp("signed")
    server = gateway(folder, "--store", "store", settings=text, environ=SIGNING_KEYS)
    with running(server):
        for path in (PATH, "a"):
            target = f"/file?path={quote(path)}&{signed('PUT', path)}"
            assert server.request("PUT", target, BODY).status == 200
        yield server


def signed(method: str, path: str, name: str = "new", for_s: int = 600) -> str:
    """Return what is added to the query of a URL."""
    return query_of(Signed(method, path, int(time.time()) + for_s, name), KEYS[name].encode())


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("target", [f"/file?path={AT}&", f"/{AT}?", f"/short/{AT[7:]}?ttl=86400&"])
def test_a_signed_url_is_good_for_one_file(site: Gateway, target: str, name: str) -> None:
    get, put = signed("GET", PATH, name), signed("PUT", PATH, name)
    assert site.request("PUT", target + put, BODY).status in (200, 201)
    assert site.request("GET", target + get).body == BODY
    assert site.request("HEAD", target + get).status == 200
    ranged = site.request("GET", target + get, None, {"Range": "bytes=0-0"})
    assert (ranged.status, ranged.body) == (206, b"a")
    assert ranged.headers["cache-control"] == "private"  # or a cache would have it for longer
    for method, query in (("PUT", get), ("GET", put), ("HEAD", put)):
        answer = site.request(method, target + query, BODY if method == "PUT" else None)
        assert answer.status == 403
        assert method == "HEAD" or "not that of this method and path" in sentence(answer)
    assert site.request("DELETE", target + put).status == 403
    assert site.request("GET", target + get).body == BODY


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/file?path=a&{}", "not that of this method and path"),
        ("/a?{}", "not that of this method and path"),
        ("/photos/?{}", "nobody may"),
        ("/photos/?{}&", "nobody may"),
        ("/files?prefix=photos/&{}", "nobody may"),
        ("/__index__/?{}", "nobody may"),
    ],
)
def test_it_is_not_good_for_another(site: Gateway, target: str, words: str) -> None:
    answer = site.request("GET", target.format(signed("GET", PATH)))
    assert answer.status == 403
    assert words in sentence(answer)


def test_it_is_not_good_for_long(site: Gateway) -> None:
    answer = site.request("GET", f"/file?path={AT}&{signed('GET', PATH, for_s=0)}")
    assert (answer.status, sentence(answer)) == (403, "this URL has expired")


def test_a_signature_that_is_given_twice_is_malformed(site: Gateway) -> None:
    query = signed("GET", PATH)
    for twice in (f"{query}&{query}", f"{query}&signature=", f"key=new&{query}"):
        assert site.request("GET", f"/file?path={AT}&{twice}").status == 400
    assert site.request("GET", f"/file?path=a&path={AT}&{query}").status == 403


def test_a_refused_upload_is_not_read(site: Gateway) -> None:
    target = f"/file?path=a&{signed('PUT', PATH)}"
    with wire(site) as connection:
        connection.send(head("PUT", target, "Content-Length: 2000000", "Expect: 100-continue"))
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        connection.half_close()  # or the body would be waited for, for a while
        assert connection.ended()


def test_no_log_shows_a_signature(site: Gateway) -> None:
    query = signed("GET", PATH)
    referer = {"Referer": f"http://localhost/file?path=a&{query}&x=1"}
    assert site.request("GET", f"/file?path={AT}&{query}", None, referer).status == 200
    assert site.request("GET", f"/file?path=a&{query}", None, referer).status == 403
    log = site.output()
    assert "signature=***" in log
    assert "key=new" in log
    assert not re.search("signature=[^*]", log)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/file", "/file"),
        ("/file?path=a", "/file?path=a"),
        ("/file?signature", "/file?signature"),
        ("/file?signature=", "/file?signature=***"),
        ("/a?x=1&signature=abc&y=2", "/a?x=1&signature=***&y=2"),
        ("/a?Signature=abc#f", "/a?Signature=***#f"),
        ("/a?%73ignature=abc", "/a?%73ignature=***"),
        ("/a?signature=a=b?c&y", "/a?signature=***&y"),
        ("http://h/a?token=abc;access_token=d", "http://h/a?token=***;access_token=***"),
        ("/a?x=?signature=abc", "/a?x=?signature=***"),
        ("/a?path=signature", "/a?path=signature"),
        (None, None),
    ],
)
def test_what_is_hidden(url: str | None, shown: str | None) -> None:
    assert redacted(url) == shown


def test_a_path_may_have_the_word_in_it(tmp_path: Path) -> None:
    server = gateway(tmp_path, "--store", "s", settings=OPEN_BY_PATH, environ=SIGNING_KEYS)
    path = "a/signature=b"
    with running(server):
        assert server.request("PUT", f"/{path}", BODY).status == 201
        for target in (f"/{path}", f"/file?path={path}", f"/{path}?x=a?signature=b"):
            for fields in ({}, {"Range": "bytes=0-"}):
                answer = server.request("GET", target, None, fields)
                assert (answer.status, answer.body) == (206 if fields else 200, BODY), target


def test_where_all_is_open_a_signature_counts_all_the_same(tmp_path: Path) -> None:
    server = gateway(tmp_path, "--store", "store", environ=SIGNING_KEYS)
    with running(server):
        assert server.put("a", BODY).status == 200
        assert server.get("a").body == BODY
        target = "/file?path=a&"
        assert server.request("GET", target + signed("GET", "a")).body == BODY
        assert server.request("GET", target + signed("GET", "b")).status == 403
        assert server.request("GET", target + signed("GET", "a", for_s=-1)).status == 403
        assert server.request("GET", target + "expires=1&key=new").body == BODY


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of sfss."""
    return subprocess.run(
        [*SFSS, *arguments],
        env={**PYTHON_ENVIRON, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def ask(server: Gateway, method: str, url: str) -> Answer:
    """Ask for a URL."""
    parts = urlsplit(url)
    body = b"by a signed URL" if method == "PUT" else None
    return server.request(method, f"{parts.path}?{parts.query}", body)


def test_the_command_makes_urls(site: Gateway) -> None:
    config = next(site.folder.glob("sfss-*.toml"))
    for name in (
        PATH,
        f"{site.url}/file?path={AT}",
        f"{site.url}/{AT}",
        f"{site.url}/short/{AT[7:]}",
    ):
        for method in ("PUT", "GET"):
            given = ["--config", str(config), "--method", method, "--expires", "2m", name]
            done = run("sign", *given, SFSS_URL=site.url + "/", **SIGNING_KEYS)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(site.url)
            assert "&key=new&" in done.stdout
            assert ask(site, method, done.stdout.strip()).status in (200, 201)
    done = run("sign", "--key", "old", "a", **SIGNING_KEYS)
    assert "&key=old&" in done.stdout
    assert ask(site, "GET", done.stdout.strip()).status == 200


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["a"], {}, "access.signing_keys: is empty"),
        (["--key", "none", "a"], SIGNING_KEYS, "has no key 'none'"),
        (["/a"], SIGNING_KEYS, "is '/a'"),
        (["http://h/file"], SIGNING_KEYS, "is expected"),
        (["http://h/file?path=a&path=/"], SIGNING_KEYS, "is expected"),
        (["http://h/"], SIGNING_KEYS, "is expected"),
        (["http://h/a?signature=x"], SIGNING_KEYS, "is signed"),
        (["--expires", "0", "a"], SIGNING_KEYS, "--expires"),
        (["--expires", "1y", "a"], SIGNING_KEYS, "--expires"),
        (["--expires", "999999999w", "a"], SIGNING_KEYS, "--expires"),
        (["a"], {"SFSS_ACCESS_SIGNING_KEYS": "new short-secret"}, "NAME SECRET"),
    ],
)
def test_what_cannot_be_signed(
    arguments: list[str], environ: Mapping[str, str], words: str
) -> None:
    done = run("sign", *arguments, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "secret" not in done.stderr.lower().replace("name secret", "").replace("each secret", "")


def test_a_token_of_the_command_is_good(tmp_path: Path) -> None:
    done = run("token", "some", "--scope", "write", "--scope", "read", "--prefix", "a b/")
    assert done.returncode == 0
    secret, line = done.stdout.splitlines()
    assert re.fullmatch(r"sfss_[\w-]{43}", secret)
    assert secret not in done.stderr + line
    settings = f"[access]\nanonymous = []\ntokens = [{line}]\n"
    with running(gateway(tmp_path, "--store", "store", settings=settings)) as server:
        own = {"Authorization": f"Bearer {secret}"}
        assert server.request("PUT", "/file?path=a%20b/c", BODY, own).status == 200
        assert server.request("GET", "/file?path=a%20b/c", None, own).body == BODY
        assert server.request("PUT", "/file?path=c", BODY, own).status == 403
        assert server.request("DELETE", "/file?path=a%20b/c", None, own).status == 403
        assert server.request("GET", "/file?path=a%20b/c").status == 401
        from_put = run("put", "--to", server.url, "--path", "a b", "README.rst", SFSS_TOKEN=secret)
        assert from_put.returncode == 0, from_put.stderr
    shown = run(
        "config", SFSS_ACCESS_SIGNING_KEYS=f"one {secret}", SFSS_ACCESS_TOKENS=line.strip('"')
    )
    assert secret not in shown.stdout
    assert line in shown.stdout


@pytest.mark.parametrize(
    "arguments", [["a b"], ["a", "--until", "tomorrow"], ["a", "--until", "2026-02-30"], [""]]
)
def test_what_is_no_token(arguments: list[str]) -> None:
    done = run("token", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NAME" in done.stderr


def test_a_file_may_have_signature_in_its_name(tmp_path: Path) -> None:
    server = gateway(
        tmp_path,
        "--store",
        "store",
        settings="[server]\nfaces = ['native', 'paths']\n",
        environ=SIGNING_KEYS,
    )
    with running(server):
        for put, get in (
            ("/a&signature=b", "/a&signature=b"),
            ("/file?path=signature=b", "/file?path=signature%3Db"),
        ):
            assert server.request("PUT", put, BODY).status in (200, 201)
            # The second is not one for the short way.
            assert server.request("GET", get).body == BODY
            assert server.request("GET", get, None, {"Range": "bytes=0-0"}).status == 206
        assert server.request("GET", "/file?path=signature=b&signature=").status == 403
        assert server.request("GET", "/a&signature=b?signature=").status == 403
