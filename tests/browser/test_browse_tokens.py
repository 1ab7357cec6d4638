"""The file browser with the tokens of ``[access]``."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.browsing import Shelf, png
from tests.browser.conftest import IN_THE_BROWSER, Complaints
from tests.servers import Gateway, gateway, running

pytest.importorskip("sfss.grants")

pytestmark = IN_THE_BROWSER

TOKEN = "sfss_" + "a" * 43
SETTINGS = f"""
[access]
tokens = ["all sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()} read+write+delete+list photos/"]
anonymous = ["read"]
"""


@pytest.fixture(name="site", scope="module")
def gateway_with_a_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("tokens")
    with running(gateway(folder, "--store", "store", settings=SETTINGS)) as server:
        yield server


async def test_the_token_opens_its_folder_and_no_other(
    page: Page, site: Gateway, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expect("status of 40[13]")
    allowed = {"Authorization": f"Bearer {TOKEN}"}
    target = "/file?path=photos/a.png"
    assert site.request("PUT", target, png(20, 10), allowed).status == 200
    (tmp_path / "b.txt").write_bytes(b"b" * 1_500_000)
    shelf = Shelf(page, site, "photos/")
    await shelf.open()
    await page.get_by_role("textbox", name="Token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await shelf.lists(["a.png"])
    await shelf.drop([tmp_path / "b.txt"])
    await expect(page.locator("#tray-title")).to_have_text("1 file uploaded")
    await page.locator("#crumbs a").first.click()
    await expect(page.locator("#notice")).to_contain_text("You may not see what is in this folder")


async def test_large_uploads_that_were_refused_go_on_with_the_token(
    page: Page, site: Gateway, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expect("status of 401")
    files = [tmp_path / f"{number}.bin" for number in range(5)]
    for file in files:
        file.write_bytes(bytes(2_000_000))
    shelf = Shelf(page, site, "photos/many/")
    await shelf.open()
    await expect(page.get_by_role("textbox", name="Token")).to_be_focused()
    await page.keyboard.press("Escape")
    await shelf.drop(files)
    await page.get_by_role("textbox", name="Token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.locator("#tray-title")).to_have_text("5 files uploaded")
    await shelf.lists([file.name for file in files])
