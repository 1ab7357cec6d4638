"""Pages of other origins: what a real browser lets them ask."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Error, Page

from tests.browser.conftest import IN_THE_BROWSER
from tests.servers import gateway, running

pytestmark = IN_THE_BROWSER

ASK = """async ([url, options]) => {
    const answer = await fetch(url, options);
    const names = ['ETag', 'Location', 'Content-Range', 'Server'];
    return [answer.status, await answer.text(), names.map(name => answer.headers.get(name))];
}"""


async def fetch(page: Page, url: str, **options: object) -> list[object]:
    """Have a page ask."""
    found: list[object] = await page.evaluate(ASK, [url, options])
    return found


async def test_a_browser_lets_pages_of_allowed_origins_ask(
    browser: Browser, tmp_path: Path
) -> None:
    faces = "[server]\nfaces = ['paths']\n"
    store = ("--store", str(tmp_path / "store"))
    pages = gateway(tmp_path, *store, settings=f"{faces}[answers]\ntrusted = ['/']\n")
    allowing = f"{faces}[cors]\norigins = ['{pages.url}']\n"
    page = await browser.new_page()
    with running(pages), running(gateway(tmp_path, *store, settings=allowing)) as files:
        assert pages.request("PUT", "/page.html", b"<p>").status == 201
        url = f"{files.url}/a.txt"
        await page.goto(f"{pages.url}/page.html")
        headers = {"Authorization": "Bearer x", "Expires-In": "60", "Content-Type": "text/css"}
        put = await fetch(page, url, method="PUT", body="abc", headers=headers)
        assert put[0] == 201
        status, body, fields = await fetch(page, url, headers={"Range": "bytes=0-1"})
        assert (status, body) == (206, "ab")
        etag, location, content_range, server = fields  # type: ignore[misc]
        assert etag and content_range == "bytes 0-1/3"
        assert location is server is None
        assert (await fetch(page, f"{files.url}/none"))[0] == 404
        # The same page by another name is of another origin.
        await page.goto(f"http://localhost:{pages.port}/page.html")
        for options in ({}, {"method": "PUT", "body": "other"}):
            with pytest.raises(Error, match="Failed to fetch"):
                await fetch(page, url, **options)
        assert files.request("GET", "/a.txt").body == b"abc"
    await page.close()
