"""Files and folders by URL path, over a real gateway on an embedded store."""

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote, urljoin
from xml.etree import ElementTree

import pytest

from sfss.stores.webdav_listing import Thing, things_in_json, things_in_xml
from tests.photosrv import open_file_sizes
from tests.servers import Gateway, ask, damage_heads, gateway, node, running, wait_until
from tests.test_replicated import replicated_gateway
from tests.web.client import LIMIT, Wire, head, sentence, wire

JSON = {"Accept": "application/json"}
NAMES = [
    "a b.txt",
    "100%.txt",
    "%41",
    "-rf",
    "<script>alert(1)",
    "q'\"uote&amp;.txt",
    "a:b",
    "javascript:alert(1)",
    "what?x=1",
    "frag#ment",
    "+plus+",
    "ä/日本.html",
]
"""Names of files that a page or a URL could get wrong."""


@pytest.fixture(name="site", scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with all faces and a rewrite: use folders of your own."""
    settings = (
        "[server]\nfaces = ['native', 'status', 'paths']\n"
        "[paths]\nrewrites = ['/img/ /pictures/']\n"
    )
    folder = tmp_path_factory.mktemp("paths")
    with running(gateway(folder, "--store", "store", settings=settings)) as server:
        yield server


_numbers = count()


@pytest.fixture(name="folder")
def unused_folder() -> str:
    """The URL path of a folder that nothing is in, with its "/"."""
    return f"/folder%20{next(_numbers)}/"


def put(site: Gateway, url: str, body: bytes = b"x", **headers: str) -> None:
    answer = site.request("PUT", url, body, headers)
    assert answer.status == 201, answer


def links(page: bytes) -> list[str]:
    """Return where a page leads."""
    found = re.findall(r'href="([^"]*)"', page.decode())
    return [each.replace("&amp;", "&") for each in found]


class TestFiles:
    def test_a_file_is_put_read_and_removed(self, site: Gateway, folder: str) -> None:
        url = f"{folder}a%2Bb.png"
        answer = site.request("PUT", url, b"body")
        assert (answer.status, answer.body) == (201, b"stored\n")
        assert answer.headers["location"] == url
        found = site.request("GET", url)
        assert (found.status, found.body) == (200, b"body")
        assert found.headers["content-type"] == "image/png"
        assert found.headers["etag"] == answer.headers["etag"]
        assert found.headers["x-content-type-options"] == "nosniff"
        looked = site.request("HEAD", f"{url}?no=part&of=it")
        assert (looked.status, looked.headers["content-length"]) == (200, "4")
        assert site.request("DELETE", url).status == 204
        assert [site.request(each, url).status for each in ("GET", "DELETE")] == [404, 404]

    def test_the_version_is_told_to_the_microsecond(self, site: Gateway, folder: str) -> None:
        told = site.request("PUT", f"{folder}a", b"x").headers
        asked = [
            site.request("GET", f"{folder}a"),
            site.request("HEAD", f"{folder}a"),
            site.request("GET", f"{folder}a", None, {"If-None-Match": told["etag"]}),
            site.request("GET", f"{folder}a", None, {"Range": "bytes=0-0"}),
        ]
        assert [each.status for each in asked] == [200, 200, 304, 206]
        assert {each.headers["x-sfss-version"] for each in asked} == {told["x-sfss-version"]}
        modified_s = parsedate_to_datetime(told["last-modified"]).timestamp()
        assert int(told["x-sfss-version"]) // 1_000_000 == modified_s

    def test_both_faces_show_the_same_files(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}a", b"by path")
        path = folder.strip("/").replace("%20", " ")
        assert site.get(f"{path}/a").body == b"by path"
        site.put(f"{path}/b", b"by query")
        assert site.request("GET", f"{folder}b").body == b"by query"

    def test_fixed_addresses_win(self, site: Gateway) -> None:
        assert site.request("GET", "/status").headers["content-type"] == "application/json"
        assert site.request("GET", "/file").status == 400
        for address in ("/__index__/", "/__missing__/", "/__readme.txt"):
            assert site.request("PUT", address, b"x").status == 405

    def test_requests_of_the_native_face_are_not_taken_for_files(self, tmp_path: Path) -> None:
        settings = "[server]\nfaces = ['paths']\n"
        with running(gateway(tmp_path, "--store", "store", settings=settings)) as site:
            for method in ("PUT", "POST", "DELETE", "GET"):
                for address in ("/file", "/files"):
                    refused = site.request(method, f"{address}?path=a%20b/c", b"x")
                    assert refused.status == 400
                    assert f"{method} /a%20b/c; with sfss put: --face paths" in sentence(refused)
            assert site.request("GET", "/file").status == 404
            put(site, "/file")
            assert site.request("GET", "/file?no=matter").body == b"x"

    def test_slashes_fold_and_rewrites_apply(self, site: Gateway, folder: str) -> None:
        put(site, f"//img{folder}/a", b"x")
        assert site.request("GET", f"/pictures{folder}a").body == b"x"
        moved = site.request("GET", f"/img{folder.rstrip('/')}")
        assert (moved.status, moved.headers["location"]) == (301, f"/img{folder}")

    def test_ranges_and_conditions(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}a", b"0123456789")
        part = site.request("GET", f"{folder}a", None, {"Range": "bytes=2-4"})
        assert (part.status, part.body) == (206, b"234")
        tag = part.headers["etag"]
        same = site.request("GET", f"{folder}a", None, {"If-None-Match": tag})
        assert same.status == 304
        for method, fields in (("PUT", {"If-None-Match": "*"}), ("DELETE", {"If-Match": '"x"'})):
            assert site.request(method, f"{folder}a", b"y", fields).status == 412
        assert site.request("GET", f"{folder}a").body == b"0123456789"

    def test_the_answer_to_a_put_as_json(self, site: Gateway, folder: str) -> None:
        answer = site.request("PUT", f"{folder}a", b"x", JSON)
        assert (answer.status, answer.json()) == (201, {"stores": {}})

    def test_a_file_over_the_limit(self, site: Gateway, folder: str) -> None:
        assert site.request("PUT", f"{folder}a", bytes(LIMIT + 1)).status == 413
        assert site.request("GET", f"{folder}a").status == 404

    def test_a_folder_is_no_file(self, site: Gateway, folder: str) -> None:
        refused = site.request("PUT", folder, b"x")
        assert refused.status == 405
        assert "PUT" not in refused.headers["allow"]
        put(site, f"{folder}a")
        refused = site.request("DELETE", folder)
        assert refused.status == 403
        assert "not empty" in sentence(refused)
        assert site.request("DELETE", f"{folder}a").status == 204
        assert site.request("DELETE", folder).status == 204

    def test_other_methods(self, site: Gateway, folder: str) -> None:
        for method in ("POST", "PATCH", "LOCK", "PROPPATCH", "TRACE"):
            refused = site.request(method, f"{folder}a")
            assert refused.status == 405
            assert "PROPFIND" in refused.headers["allow"]


def test_large_files_stream(tmp_path: Path) -> None:
    settings = "[server]\nfaces = ['paths']\n[cluster]\nmax_file_size = 16777216\n"
    body = os.urandom(9_000_000)
    with running(gateway(tmp_path, "--store", "store", settings=settings)) as site:
        put(site, "/a/large.bin", body)
        assert site.request("GET", "/a/large.bin").body == body
        part = site.request("GET", "/a/large.bin", None, {"Range": "bytes=5000000-8999998"})
        assert (part.status, part.body) == (206, body[5_000_000:-1])
        move = {"Destination": "/b.bin"}
        assert site.request("MOVE", "/a/large.bin", None, move).status == 201
        assert site.request("GET", "/b.bin").body == body
        assert site.request("GET", "/a/").status == 404


class TestFolders:
    def test_a_page_leads_to_every_file(self, site: Gateway, folder: str) -> None:
        for name in NAMES:
            put(site, folder + quote(name), name.encode())
        site.put(folder.strip("/").replace("%20", " ") + "/.hidden", b"x")
        page = site.request("GET", folder)
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert b"<script" not in page.body
        found = {urljoin(folder, link) for link in links(page.body)}
        inner = [urljoin(folder, link) for link in found if link.endswith("%A4/")]
        found |= {
            urljoin(each, link) for each in inner for link in links(site.request("GET", each).body)
        }
        for name in NAMES:
            url = folder + quote(name, safe="/")
            assert url in found
            assert site.request("GET", url).body == name.encode()
        assert not any("hidden" in each for each in found)

    def test_as_json_it_is_what_nginx_says(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}a%20b", b"123")
        put(site, f"{folder}sub/c")
        listed = site.request("GET", folder, None, JSON)
        assert listed.headers["content-type"] == "application/json"
        shown = site.request("HEAD", f"{folder}a%20b").headers
        for_another_sfss = {
            "version": int(shown["x-sfss-version"]),
            "digest": shown["etag"].strip('"'),
        }
        modified = shown["last-modified"]
        assert listed.json() == [
            {"name": "a b", "type": "file", "mtime": modified, "size": 3, **for_another_sfss},
            {"name": "sub", "type": "directory"},
        ]
        assert site.request("GET", f"{folder}nothing/", None, JSON).status == 404

    def test_pages_follow_each_other(self, site: Gateway, folder: str) -> None:
        names = [f"{number} +&.txt" for number in range(5)]
        for name in names:
            put(site, folder + quote(name))
        seen, url = [], f"{folder}?limit=2"
        while url:
            page = links(site.request("GET", url).body)
            seen += [each for each in page if each != "../" and not each.startswith("?")]
            url = next((urljoin(folder, each) for each in page if each.startswith("?")), "")
        assert seen == [quote(name) for name in names]
        first = site.request("GET", f"{folder}?limit=2", None, JSON)
        assert [each["name"] for each in first.json()] == names[:2]
        link = re.fullmatch('<(.*)>; rel="next"', first.headers["link"])
        assert link is not None
        second = site.request("GET", urljoin(folder, link[1]), None, JSON)
        assert [each["name"] for each in second.json()] == names[2:4]

    def test_many_files_come_all_as_json_and_by_propfind(self, site: Gateway, folder: str) -> None:
        with closing(site.connect()) as connection:
            for number in range(1100):
                assert ask(connection, "PUT", f"{folder}{number:04}", b"").status == 201
        names = [each["name"] for each in site.request("GET", folder, None, JSON).json()]
        assert names == [f"{number:04}" for number in range(1100)]
        found = site.request("PROPFIND", folder, None, {"Depth": "1"})
        assert found.body.count(b"<D:response>") == 1101
        assert len(links(site.request("GET", folder).body)) == 1002

    def test_without_a_slash_it_is_elsewhere(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}sub/a")
        moved = site.request("GET", f"/{folder.rstrip('/')}/sub")
        assert (moved.status, moved.headers["location"]) == (301, f"{folder}sub/")
        assert site.request("GET", f"{folder}su").status == 404
        put(site, f"{folder}v1.2/a")
        browser = {"Accept": "text/html,*/*;q=0.8"}
        assert site.request("GET", f"{folder}v1.2", None, browser).status == 301
        # What has the name of a file is not looked for among folders, except for people.
        assert site.request("GET", f"{folder}v1.2").status == 404

    def test_an_empty_folder_is_not_there(self, site: Gateway, folder: str) -> None:
        assert site.request("GET", folder).status == 404
        put(site, f"{folder}a")
        assert site.request("GET", folder).status == 200
        site.request("DELETE", f"{folder}a")
        assert site.request("GET", folder).status == 404
        assert site.request("GET", "/").status == 200


DAV = "{DAV:}"


def properties(body: bytes) -> dict[str, dict[str, str]]:
    """Return the properties in a multistatus by reference; "collection" of a folder."""
    found = {}
    for response in ElementTree.fromstring(body).iter(f"{DAV}response"):
        href = response.findtext(f"{DAV}href") or ""
        (prop,) = response.iter(f"{DAV}prop")
        found[href] = {each.tag.removeprefix(DAV): each.text or "" for each in prop}
        if prop.find(f"{DAV}resourcetype/{DAV}collection") is not None:
            found[href]["resourcetype"] = "collection"
    return found


class TestWebDAV:
    def test_options(self, site: Gateway) -> None:
        for target in ("/", "/any/thing"):
            answer = site.request("OPTIONS", target)
            assert (answer.status, answer.headers["dav"]) == (200, "1")
            assert "PROPFIND" in answer.headers["allow"]
        with wire(site) as connection:
            connection.send(head("OPTIONS", "*"))
            assert connection.answer().status == 200

    def test_propfind(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}a%26b.txt", b"123")
        put(site, f"{folder}sub/c")
        request = b'<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>'
        found = site.request("PROPFIND", folder, request, {"Depth": "1"})
        assert found.status == 207
        assert found.headers["content-type"].startswith("application/xml")
        told = properties(found.body)
        assert list(told) == [folder, f"{folder}a%26b.txt", f"{folder}sub/"]
        assert told[f"{folder}sub/"] == {"resourcetype": "collection"}
        shown = site.request("HEAD", f"{folder}a%26b.txt").headers
        assert told[f"{folder}a%26b.txt"] == {
            "resourcetype": "",
            "getcontentlength": "3",
            "getcontenttype": "text/plain",
            "getetag": shown["etag"],
            "getlastmodified": shown["last-modified"],
        }
        for target in (folder, folder.rstrip("/")):
            one = site.request("PROPFIND", target, None, {"Depth": "0"})
            assert list(properties(one.body)) == [folder]
        one = site.request("PROPFIND", f"{folder}a%26b.txt", None, {"Depth": "1"})
        assert list(properties(one.body)) == [f"{folder}a%26b.txt"]

    def test_properties_have_the_type_that_get_has(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}a.txt", **{"Content-Type": 'text/html; charset="utf-8"'})
        (told,) = properties(
            site.request("PROPFIND", f"{folder}a.txt", None, {"Depth": "0"}).body
        ).values()
        assert told["getcontenttype"] == 'text/html; charset="utf-8"'
        assert (
            told["getcontenttype"] == site.request("GET", f"{folder}a.txt").headers["content-type"]
        )

    def test_propfind_of_what_is_not_there(self, site: Gateway, folder: str) -> None:
        statuses = [
            site.request("PROPFIND", target, None, {"Depth": depth}).status
            for target, depth in ((f"{folder}a", "0"), (f"{folder}a", "1"), (folder, "0"))
        ]
        assert statuses == [404, 404, 404]
        # As a client looks that has just removed the last file.
        empty = site.request("PROPFIND", folder, None, {"Depth": "1"})
        assert (empty.status, list(properties(empty.body))) == (207, [folder])

    @pytest.mark.parametrize("fields", [{}, {"Depth": "infinity"}, {"Depth": "2"}])
    def test_propfind_goes_no_deeper(self, site: Gateway, fields: dict[str, str]) -> None:
        refused = site.request("PROPFIND", "/", None, fields)
        assert refused.status == 403
        assert b"propfind-finite-depth" in refused.body

    def test_mkcol(self, site: Gateway, folder: str) -> None:
        assert site.request("MKCOL", folder).status == 201
        assert site.request("PROPFIND", folder, None, {"Depth": "0"}).status == 207
        assert site.request("MKCOL", folder).status == 405
        assert site.request("DELETE", folder).status == 204
        assert site.request("PROPFIND", folder, None, {"Depth": "0"}).status == 404
        put(site, f"{folder}a")
        statuses = [site.request("MKCOL", target).status for target in (folder, f"{folder}a", "/")]
        assert statuses == [405, 405, 405]
        assert site.request("MKCOL", f"{folder}b", b"<x/>").status == 415

    def test_folders_that_were_made_are_forgotten_in_the_end(
        self, site: Gateway, folder: str
    ) -> None:
        with closing(site.connect()) as connection:
            for number in range(1001):
                assert ask(connection, "MKCOL", f"{folder}{number}").status == 201
        depth = {"Depth": "0"}
        assert site.request("PROPFIND", f"{folder}0/", None, depth).status == 404
        assert site.request("PROPFIND", f"{folder}1000/", None, depth).status == 207

    def test_copy_and_move(self, site: Gateway, folder: str) -> None:
        put(site, f"{folder}a", b"one")
        put(site, f"{folder}b", b"two")

        def transfer(method: str, source: str, target: str, **fields: str) -> int:
            headers = {"Destination": target, **fields}
            return site.request(method, f"{folder}{source}", None, headers).status

        assert transfer("COPY", "a", f"{site.url}{folder}c%20d") == 201
        assert transfer("COPY", "a", f"{folder}b", Overwrite="F") == 412
        assert site.request("GET", f"{folder}b").body == b"two"
        assert transfer("MOVE", "a", f"{folder}b") == 204
        bodies = [site.request("GET", f"{folder}{each}") for each in ("a", "b", "c%20d")]
        assert [each.status for each in bodies] == [404, 200, 200]
        assert bodies[1].body == bodies[2].body == b"one"
        assert transfer("MOVE", "nothing", f"{folder}x") == 404
        refused = [f"{folder}b", "http://elsewhere/x", "//elsewhere/x", f"{folder}x/", "%ff"]
        refused += ["/__readme.txt", "/%5F_missing__/", f"{site.url}/__index__/"]
        assert [transfer("MOVE", "b", target) for target in refused] == [400] * len(refused)
        assert transfer("COPY", "", f"{folder}x") == 400
        assert site.request("COPY", f"{folder}b").status == 400
        assert site.request("GET", f"{folder}b").body == b"one"

    def test_copies_expire_with_what_they_are_made_from(self, site: Gateway, folder: str) -> None:
        assert site.request("PUT", f"{folder}soon?ttl=3", b"x").status == 201
        for method, source, target in (("COPY", "soon", "copied"), ("MOVE", "soon", "moved")):
            fields = {"Destination": f"{folder}{target}"}
            assert site.request(method, f"{folder}{source}", None, fields).status == 201
            answer = site.request("GET", f"{folder}{target}")
            assert "expires" in answer.headers or answer.status == 404
        for name in ("copied", "moved"):
            wait_until(
                lambda name=name: site.request("GET", f"{folder}{name}").status == 404,
                f"{name} has expired",
                10,
            )


class TestCrawling:
    def test_the_index_leads_to_all_files(self, tmp_path: Path) -> None:
        settings = "[server]\nfaces = ['paths']\n"
        with running(gateway(tmp_path, "--store", "store", settings=settings)) as site:
            for name in NAMES:
                put(site, f"/{quote(name)}", name.encode())
            seen, url = [], "/__index__/?limit=5"
            while url:
                page = links(site.request("GET", url).body)
                seen += [each for each in page if not each.startswith("?")]
                url = next((urljoin(url, each) for each in page if each.startswith("?")), "")
            assert sorted(seen) == sorted(f"/{quote(name)}" for name in NAMES)
            told = site.request("GET", "/__index__/?limit=2", None, JSON).json()
            assert len(told["files"]) == 2
            assert told["next"] == told["files"][1]["path"]
            nothing = site.request("GET", "/__missing__/", None, JSON).json()
            assert nothing == {"missing": [], "next": None}

    @pytest.mark.parametrize(
        ("host", "shown"),
        [
            ("files.example:81", "http://files.example:81/folder"),
            ("[::1]:81", "http://[::1]:81/folder"),
            ("b;rm&-rf", "http://HOST:PORT/folder"),
            ("$(reboot)", "http://HOST:PORT/folder"),
        ],
    )
    def test_the_readme_has_commands_for_this_installation(
        self, site: Gateway, host: str, shown: str
    ) -> None:
        with wire(site) as connection:
            connection.send(f"GET /__readme.txt HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            text = connection.answer()
        assert text.headers["content-type"] == "text/plain; charset=utf-8"
        assert f"curl -T FILE {shown}" in text.body.decode()
        assert "-rf" not in text.body.decode()

    def test_a_store_that_is_down_is_named_and_what_it_misses(self, tmp_path: Path) -> None:
        nodes = [node(tmp_path) for _ in range(3)]
        faces = {"SFSS_SERVER_FACES": "paths,status"}
        with ExitStack() as stack:
            for each in nodes:
                stack.enter_context(running(each))
            with running(replicated_gateway(tmp_path, nodes, **faces)) as site:
                put(site, "/a%20b")
                nodes[2].kill()
                answer = site.request("PUT", "/c%20d", b"x")
                assert answer.status == 201
                lines = answer.body.decode().splitlines()
                assert sorted(lines)[0].split(": ")[0] in {each.address for each in nodes}
                stored = {line.partition(": ")[0] for line in lines if line.endswith(": stored")}
                assert stored == {each.address for each in nodes[:2]}
                (failed,) = (line for line in lines if not line.endswith(": stored"))
                assert failed.startswith(f"{nodes[2].address}: cannot be reached: ")
                page = site.request("GET", "/__missing__/")
                assert "/c%20d" in links(page.body)
                assert re.search(
                    rf"<h2>{nodes[2].address}, 2\d\d\d-\d\d-\d\d</h2>".encode(), page.body
                )
                (owed,) = site.request("GET", "/__missing__/", None, JSON).json()["missing"]
                assert (owed["store"], owed["path"]) == (nodes[2].address, "c d")
                other = f"/__missing__/?store={nodes[0].address}"
                assert site.request("GET", other, None, JSON).json()["missing"] == []
                assert links(site.request("GET", "/__index__/").body) == ["/a%20b", "/c%20d"]
                assert "c%20d" in links(site.request("GET", "/").body)
                assert site.request("GET", "/nothing").status == 404
                nodes[2].start()
                wait_until(
                    lambda: not site.request("GET", "/__missing__/", None, JSON).json()["missing"],
                    "what was missed is made up for",
                )


HOSTILE = [
    b"/%2e%2e/canary",
    b"/..%2fcanary",
    b"/../canary",
    b"/a/../../canary",
    b"/a/%2e%2e%2f%2e%2e%2fcanary",
    b"/%252e%252e/canary",
    b"/..%5ccanary",
    b"/..\\canary",
    b"/%00",
    b"/canary%00.txt",
    b"/%ff%fe",
    b"/%C0%AE%C0%AE/canary",
    b"/%ED%A0%80",
    b"/\xff\xfe",
    b"/a%0d%0aX-Injected:%20yes",
    b"/a%0aX-Injected:%20yes",
    b"//canary",
    b"///a///..///canary",
    b"//evil.example/%2e%2e/canary",
    b"http://localhost/../canary",
    b"http://evil.example/%2e%2e/canary",
    b"HTTP://evil.example",
    b"file:///etc/passwd",
    b"*",
    b"canary",
    b"?",
    b"#",
    b"/.htaccess",
    b"/~root/canary",
    b"/" + b"a" * 300,
    b"/" + b"a/" * 2000,
    b"/" + b"%C3%A4" * 300,
    b"/" + b"a" * 9000,
    b"/" + b"../" * 500 + b"canary",
    b"/con:$DATA",
    b"/%",
    b"/%2",
    b"/%zz",
    b"/%u002e%u002e/canary",
]
METHODS = ["GET", "HEAD", "PUT", "DELETE", "PROPFIND", "MKCOL"]


class TestHostilePaths:
    """No request gets anything but a clean answer; on both faces."""

    def exchange(self, connection: Wire, method: str, target: bytes) -> int:
        fields = b"Host: localhost\r\nDepth: 1\r\nContent-Length: 1\r\n\r\nx"
        connection.send(method.encode() + b" " + target + b" HTTP/1.1\r\n" + fields)
        answer = connection.answer(method)
        assert answer.status < 500
        assert "x-injected" not in answer.headers
        assert "\n" not in answer.headers.get("location", "")
        assert not answer.headers.get("location", "/").startswith("//")
        assert b"root:" not in answer.body
        return answer.status

    @pytest.mark.parametrize("target", HOSTILE, ids=lambda target: repr(target)[:40])
    def test_by_path_and_by_query(self, site: Gateway, target: bytes) -> None:
        for method in METHODS:
            with wire(site) as connection:
                self.exchange(connection, method, target)
        for method in ("PUT", "GET", "DELETE"):
            with wire(site) as connection:
                self.exchange(connection, method, b"/file?path=" + target)
        with wire(site) as connection:
            connection.send(head("COPY", "/x", f"Destination: {target.decode('latin-1')}"))
            assert connection.answer().status < 500
        assert site.request("GET", "/status").status == 200

    @pytest.mark.parametrize("target", [each for each in HOSTILE if b"anary" in each])
    def test_nothing_that_climbs_is_stored(self, site: Gateway, target: bytes) -> None:
        with wire(site) as connection:
            status = self.exchange(connection, "PUT", target)
        climbs = b".." in target or (b"2e%2e" in target and b"252e" not in target)
        assert not (climbs and status == 201)


def test_the_file_of_a_download_that_was_broken_off_is_closed(tmp_path: Path) -> None:
    size = 20_000_001
    settings = (
        "[server]\nfaces = ['paths']\n[cluster]\nkind = 'replicated'\nmax_file_size = 50000000\n"
        "[replicated]\nplacement = 'mirror'\nstores = ['file:files']\n"
    )
    with running(gateway(tmp_path, settings=settings)) as site:
        assert site.request("PUT", "/large", bytes(size)).status == 201

        def held() -> int:
            return sum(open_file_sizes(worker).count(size) for worker in site.workers())

        with ExitStack() as opened:
            for _ in range(10):
                client = opened.enter_context(socket.create_connection((site.host, site.port)))
                client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: held() == 10, "all are being sent")
            wait_until(lambda: _waits(site.workers()[0]), "the server waits for the clients")
        wait_until(lambda: held() == 0, "none is open", 10)


def _waits(pid: int) -> bool:
    """Tell whether a process has used no time of a processor for a moment."""
    stat = Path(f"/proc/{pid}/schedstat")
    before = stat.read_text()
    time.sleep(0.1)
    return stat.read_text() == before


def test_what_is_damaged_is_shown_in_its_folder(site: Gateway, folder: str) -> None:
    body = folder.encode() * 30
    put(site, f"{folder}fine")
    put(site, f"{folder}sick", body)
    damage_heads(site.folder / "store", body)
    page = site.request("GET", folder).body.decode()
    assert re.search('<a href="sick">sick</a></td><td></td><td>damaged</td>', page)
    fine, sick = things_in_json(site.request("GET", folder, headers=JSON).body, b"")
    assert (fine.name, sick) == (b"fine", Thing(b"sick", None))
    answer = site.request("PROPFIND", folder, headers={"Depth": "1"})
    fine, sick = things_in_xml(answer.body, folder.replace("%20", " ").encode())
    assert (fine.name, sick) == (b"fine", Thing(b"sick", None))
    assert site.request("DELETE", f"{folder}sick").status == 204
