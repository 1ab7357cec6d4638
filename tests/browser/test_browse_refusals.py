"""The file browser where not all can be had: tokens, stores that cannot list, other faces."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiohttp import ClientSession, web
from playwright.async_api import Page, expect

from tests.browser.browsing import Shelf, png, wav
from tests.browser.conftest import IN_THE_BROWSER, Complaints, Screenshot
from tests.servers import Gateway, gateway, memcached, running
from tests.web.conftest import over

pytestmark = IN_THE_BROWSER

TOKEN = "a-token-of-the-tests"
_OPEN = "/browse/"
_PASSED_ON = ("If-None-Match", "Range", "Content-Type", "Accept")


@pytest_asyncio.fixture(name="guarded", loop_scope="session")
async def gateway_that_wants_a_token(gateway: Gateway) -> AsyncIterator[str]:
    """The URL of a gateway that shows its page to all, and files to those with the token."""

    async def answer(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization")
        if not request.path.startswith(_OPEN) and given != f"Bearer {TOKEN}":
            fields = {"WWW-Authenticate": 'Bearer realm="sfss"'}
            return web.json_response({"error": "a token is needed"}, status=401, headers=fields)
        if request.query.get("prefix") == "":
            return web.json_response({"error": "the token is for guarded/"}, status=403)
        fields = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        body = await request.read()
        url = gateway.url + request.raw_path
        async with session.request(request.method, url, data=body, headers=fields) as found:
            kept = {
                name: value
                for name, value in found.headers.items()
                if name not in ("Transfer-Encoding", "Content-Length", "Date", "Server")
            }
            return web.Response(status=found.status, headers=kept, body=await found.read())

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    async with ClientSession() as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
        await runner.cleanup()


async def test_a_token_is_asked_for_and_kept_while_the_tab_is_open(
    page: Page,
    gateway: Gateway,
    guarded: str,
    complaints: Complaints,
    screenshot: Screenshot,
    tmp_path: Path,
) -> None:
    complaints.expect("status of 401")
    shelf = Shelf(page, gateway, "guarded/")
    shelf.put("picture.png", png(20, 10))
    shelf.put("sound.wav", wav(1.0))
    await shelf.open(top=guarded)
    await expect(page.get_by_role("dialog")).to_contain_text("A token is needed")
    await expect(page.get_by_role("textbox", name="Token")).to_be_focused()
    await screenshot("browse-token-wide-light")
    await page.keyboard.type("not this one")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("not accepted: a token is needed")
    await page.keyboard.type(TOKEN)
    await page.keyboard.press("Enter")
    await shelf.lists(["picture.png", "sound.wav"])
    await page.reload()
    await shelf.lists(["picture.png", "sound.wav"])
    await _is_used_for_everything(shelf, tmp_path)
    await page.get_by_role("button", name="Forget token").click()
    await expect(page.get_by_role("textbox", name="Token")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("#notice")).to_contain_text("a token is needed")
    await expect(page.locator("#things")).to_be_hidden()
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("textbox", name="Token")).to_be_focused()


async def _is_used_for_everything(shelf: Shelf, folder: Path) -> None:
    page = shelf.page
    await shelf.link("picture.png").click()
    image = page.locator("#preview-body img")
    await expect(image).to_have_js_property("naturalWidth", 20)
    assert (await image.get_attribute("src") or "").startswith("blob:")
    await page.locator("#preview-on").click()
    await expect(page.locator("#preview-body audio")).to_have_js_property("duration", 1)
    async with page.expect_download() as waiting:
        await page.locator("#preview-download").click()
    download = await waiting.value
    assert download.suggested_filename == "sound.wav"
    assert (await download.path()).read_bytes() == wav(1.0)
    await page.keyboard.press("Escape")
    (folder / "new.txt").write_text("new")
    await shelf.drop([folder / "new.txt"])
    await expect(page.locator("#tray-title")).to_have_text("1 file uploaded")
    assert shelf.stored("new.txt") == b"new"
    await page.locator("#tray-close").click()
    await shelf.act("Delete", "new.txt")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(shelf.row("new.txt")).to_have_count(0)


async def test_an_upload_goes_on_when_the_token_was_given(
    page: Page, gateway: Gateway, guarded: str, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expect("status of 401")
    shelf = Shelf(page, gateway, "guarded uploads/")
    files = [tmp_path / f"{number}.txt" for number in range(5)]
    for file in files:
        file.write_text(file.name)
    await shelf.open(top=guarded)
    await expect(page.get_by_role("textbox", name="Token")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("#notice")).to_contain_text("a token is needed")
    await shelf.drop(files)
    await page.get_by_role("textbox", name="Token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.locator("#tray-title")).to_have_text("5 files uploaded")
    await shelf.lists([file.name for file in files])


async def test_a_token_for_some_folders_opens_these(
    page: Page, gateway: Gateway, guarded: str, complaints: Complaints
) -> None:
    complaints.expect("status of 403")
    await page.add_init_script(f"sessionStorage.setItem('sfss-token', '{TOKEN}')")
    shelf = Shelf(page, gateway, "guarded/")
    shelf.put("deep/a.txt")
    await page.goto(f"{guarded}/browse/")
    await expect(page.locator("#notice")).to_contain_text("the token is for guarded/")
    await page.get_by_label("Open a file, or a folder, by its path").fill("guarded/deep/")
    await page.keyboard.press("Enter")
    await expect(shelf.link("deep/a.txt")).to_be_visible()
    await expect(page.locator("#notice")).to_be_hidden()


async def test_where_nothing_is_listed_files_are_opened_by_path(
    page: Page, tmp_path: Path, complaints: Complaints, screenshot: Screenshot
) -> None:
    complaints.expect("status of 501", "status of 404")
    (tmp_path / "mine.txt").write_text("mine")
    with (
        running(memcached(tmp_path)) as server,
        running(gateway(tmp_path, settings=over("nodes", server))) as site,
    ):
        shelf = Shelf(page, site, "")
        shelf.put("a/b c.txt", b"found")
        await shelf.open()
        await expect(page.locator("#notice")).to_contain_text("cannot list what they hold")
        await screenshot("browse-unlisted-wide-light")
        await page.get_by_label("Open a file, or a folder, by its path").fill("/a/b c.txt")
        await page.keyboard.press("Enter")
        await expect(page.locator("#preview-body pre")).to_have_text("found")
        await page.keyboard.press("Escape")
        await shelf.drop([tmp_path / "mine.txt"])
        await expect(page.locator("#tray-title")).to_have_text("1 file uploaded")
        assert shelf.stored("a/mine.txt") == b"mine"


async def test_without_the_face_native_the_page_says_so(page: Page, tmp_path: Path) -> None:
    settings = "[server]\nfaces = ['browser', 'paths']\n"
    with running(gateway(tmp_path, "--store", "store", settings=settings)) as site:
        await page.goto(f"{site.url}/browse")
        await expect(page.locator("#notice")).to_contain_text("the face native, which is not shown")
        assert page.url == f"{site.url}/browse/"


async def test_the_page_and_what_it_is_made_of(gateway: Gateway) -> None:
    page = gateway.request("GET", "/browse/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert gateway.request("GET", "/browse").headers["location"] == "browse/"
    for name, media_type in {"main.js": "text/javascript", "common.css": "text/css"}.items():
        asset = gateway.request("GET", f"/browse/{name}")
        assert asset.headers["content-type"].startswith(media_type)
        unchanged = {"If-None-Match": asset.headers["etag"]}
        assert gateway.request("GET", f"/browse/{name}", headers=unchanged).status == 304
    settings = gateway.request("GET", "/browse/settings.json").json()
    assert (settings["max_file_size"], settings["has_files"]) == (2_097_152, True)
    assert settings["has_api"] is True
    for missing in ("nothing.js", "../app.py", "%2e%2e/app.py", "main.js/", "index.html"):
        assert gateway.request("GET", f"/browse/{missing}").status == 404, missing
    assert gateway.request("PUT", "/browse/main.js", b"x").status == 405
