"""The file browser, as a person uses it: find, look at, copy, delete."""

from itertools import count

import pytest
from playwright.async_api import Page, expect

from tests.browser.browsing import Shelf, png, wav
from tests.browser.conftest import IN_THE_BROWSER, Complaints, Screenshot
from tests.servers import Gateway, damage_heads

pytestmark = IN_THE_BROWSER

NAMES = [
    " leading and trailing ",
    "&lt;b&gt;",
    "+plus%2B",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)<",
    "?query=1&b#fragment",
    "a%00b%2Fc",
    "javascript:alert(1)",
    "photo\u202egnp.exe",
    "quote'\"`",
    "é" * 110,
    "اسم الملف.txt",
    "日本語 😀👩‍👩‍👧.txt",
]
"""Names of files that a page could get wrong."""

_numbers = count()


@pytest.fixture(name="folder")
def unused_folder() -> str:
    return f"looked at {next(_numbers)}/"


def fill(shelf: Shelf) -> None:
    """Put what people have into the folder."""
    shelf.put("beach at dusk.png", png(320, 200, 240))
    shelf.put("forest.png", png(300, 220))
    shelf.put("notes.md", "# Notes\n\n<b>no</b> HTML here: <script>alert(1)</script> ä\n".encode())
    shelf.put("long.txt", b"0123456789abcde\n" * 8192)
    shelf.put("waves.wav", wav(2.0))
    shelf.put("program.bin", b"\0\1\2\3")
    shelf.put("empty.txt", b"")
    shelf.put("2025/spring/one.txt")
    shelf.put("2026/a.txt")


async def test_the_pages_lead_to_each_other(page: Page, gateway: Gateway) -> None:
    await page.goto(gateway.url)
    pages = page.get_by_role("navigation", name="Pages").get_by_role("link")
    for name, address in (("Status", "/status/"), ("API", "/api/"), ("Files", "/browse/")):
        await pages.filter(has_text=name).first.click()
        await page.wait_for_url(f"{gateway.url}{address}")
        await expect(pages.filter(has_text=name).first).to_have_attribute("aria-current", "page")
        await expect(pages).to_contain_text(["Files", "Status", "API"])


async def test_folders_are_walked_there_and_back(shelf: Shelf, screenshot: Screenshot) -> None:
    page = shelf.page
    fill(shelf)
    await shelf.open()
    names = await shelf.names()
    assert names[:3] == ["2025/", "2026/", "beach at dusk.png"]
    assert names == sorted(names)
    await expect(page.locator("#count")).to_have_text("2 folders, 7 files")
    await screenshot("browse-list-wide-light")
    await shelf.link("2025/").click()
    await shelf.link("2025/spring/").click()
    await expect(shelf.link("2025/spring/one.txt")).to_be_visible()
    await expect(page.locator("#crumbs li").last).to_have_text("spring")
    await expect(page).to_have_title("spring · Files")
    await page.locator("#crumbs").get_by_text("2025").click()
    await expect(shelf.link("2025/spring/")).to_be_visible()
    await page.go_back()
    await expect(shelf.link("2025/spring/one.txt")).to_be_visible()
    await page.reload()
    await expect(shelf.link("2025/spring/one.txt")).to_be_visible()
    await page.keyboard.press("Backspace")
    await page.keyboard.press("Backspace")
    await expect(shelf.link("forest.png")).to_be_visible()


async def test_a_search_finds_names_by_their_beginning(shelf: Shelf) -> None:
    fill(shelf)
    await shelf.open()
    await shelf.names()
    await shelf.page.keyboard.press("/")
    await shelf.page.keyboard.type("be")
    await expect(shelf.page.locator("#things tr")).to_have_count(1)
    await shelf.lists(["beach at dusk.png"])
    await shelf.page.reload()
    await expect(shelf.page.locator("#things tr")).to_have_count(1)
    await expect(shelf.page.locator("#search-text")).to_have_value("be")
    await shelf.page.fill("#search-text", "#?%")
    await expect(shelf.page.locator("#empty")).to_contain_text("Nothing begins with “#?%” here")
    await shelf.page.fill("#search-text", "2025/s")
    await expect(shelf.page.locator("#things .name")).to_have_text("2025/spring/")
    await shelf.page.locator("#search-text").fill("")
    await expect(shelf.page.locator("#things tr")).to_have_count(9)


async def test_the_list_is_sorted_by_what_is_asked(shelf: Shelf) -> None:
    fill(shelf)
    await shelf.open()
    await shelf.names()
    await shelf.page.get_by_role("button", name="Size").click()
    names = shelf.page.locator("#things .name")
    await expect(names.nth(2)).to_have_text("long.txt")
    await expect(names.nth(0)).to_have_text("2025/")
    await expect(names.last).to_have_text("empty.txt")
    await shelf.page.get_by_role("button", name="Size").click()
    await expect(shelf.page.locator("#things .name").nth(2)).to_have_text("empty.txt")
    head = shelf.page.get_by_role("columnheader", name="Size")
    await expect(head).to_have_attribute("aria-sort", "ascending")


async def test_many_files_come_page_by_page(shelf: Shelf) -> None:
    names = [f"{number:03}" for number in range(260)]
    shelf.put_all(names)
    await shelf.open()
    await shelf.lists(names[:200])
    await expect(shelf.page.locator("#count")).to_have_text("The first 200 files")
    await shelf.page.locator("#things tr").last.scroll_into_view_if_needed()
    await expect(shelf.page.locator("#count")).to_have_text("260 files")
    await shelf.lists(names)


async def test_files_are_shown_by_what_they_are(shelf: Shelf, screenshot: Screenshot) -> None:
    page, body = shelf.page, shelf.page.locator("#preview-body")
    fill(shelf)
    await shelf.open()
    await shelf.link("beach at dusk.png").click()
    image = body.locator("img")
    await expect(image).to_have_js_property("naturalWidth", 320)
    await screenshot("browse-image-wide-light")
    await expect(page.locator("#preview-back")).to_be_disabled()
    await page.keyboard.press("ArrowRight")
    await expect(body).to_have_text("The file is empty.")
    await page.keyboard.press("ArrowRight")
    await expect(image).to_have_js_property("naturalWidth", 300)
    await page.locator("#preview-on").click()
    await expect(body).to_contain_text("The first 64 KiB of 128 KiB")
    text = await body.locator("pre").text_content()
    assert text == "0123456789abcde\n" * 4096
    await page.keyboard.press("Escape")
    await expect(page.locator("#preview")).to_be_hidden()
    await expect(shelf.link("beach at dusk.png")).to_be_focused()
    await shelf.link("notes.md").click()
    await expect(body.locator("pre")).to_contain_text("<script>alert(1)</script> ä")
    await screenshot("browse-text-wide-light")
    await page.go_back()
    await shelf.link("waves.wav").click()
    await expect(body.locator("audio")).to_have_js_property("duration", 2)
    await page.keyboard.press("Escape")
    await shelf.link("program.bin").click()
    await expect(body).to_contain_text("no preview")


async def test_what_could_run_is_not_run(shelf: Shelf) -> None:
    page = "<!DOCTYPE html><title>t</title><script>top.location='http://127.0.0.2/'</script>"
    image = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" onload="alert(1)">'
        '<script>alert(2)</script><image href="http://127.0.0.2/x.png"/></svg>'
    )
    shelf.put("page.html", page.encode())
    shelf.put("picture.svg", image.encode())
    await shelf.open("page.html")
    await expect(shelf.page.locator("#preview-body pre")).to_have_text(page)
    await shelf.page.keyboard.press("ArrowRight")
    shown = shelf.page.locator("#preview-body img")
    await expect(shown).to_have_js_property("naturalWidth", 40)
    await expect(shelf.page).to_have_title("picture.svg · Files")


async def test_a_link_to_a_file_shows_it_before_its_folder(shelf: Shelf) -> None:
    fill(shelf)
    await shelf.open("2026/a.txt")
    await expect(shelf.page.locator("#preview-body pre")).to_have_text("x")
    await expect(shelf.page.locator("#preview-facts")).to_contain_text("1 B · text/plain")
    await shelf.page.locator("#preview-close").click()
    await shelf.lists(["a.txt"])


async def test_a_file_that_is_gone_is_said_to_be(shelf: Shelf, complaints: Complaints) -> None:
    complaints.expect("status of 404")
    await shelf.open("gone.txt")
    await expect(shelf.page.locator("#preview-body")).to_have_text("There is no such file.")


async def test_names_are_text_and_nothing_else(
    shelf: Shelf, page: Page, screenshot: Screenshot
) -> None:
    for name in NAMES:
        shelf.put(name, name.encode())
    await shelf.open()
    shown = [name.replace("\u202e", "U+202E") for name in sorted(NAMES)]
    await shelf.lists(shown)
    await screenshot("browse-names-wide-light")
    for name in NAMES:
        await shelf.link(name).click()
        title = page.locator("#preview-name .name")
        await expect(title).to_have_text(name.replace("\u202e", "U+202E"))
        await expect(page.locator("#preview-body pre")).to_have_text(name)
        await page.keyboard.press("Escape")
        await expect(page.locator("#preview")).to_be_hidden()
    for name in NAMES:
        await shelf.link(name).focus()
        await page.keyboard.press("Delete")
        await page.get_by_role("button", name="Delete", exact=True).click()
        await expect(shelf.row(name)).to_have_count(0)
        assert shelf.stored(name) is None


async def test_folders_may_have_such_names_too(shelf: Shelf) -> None:
    for name in NAMES:
        shelf.put(f"{name}/in it")
    await shelf.open()
    for name in NAMES:
        await shelf.link(f"{name}/").click()
        await expect(shelf.link(f"{name}/in it")).to_be_visible()
        await shelf.page.go_back()


async def test_a_file_is_deleted_when_that_is_confirmed(
    shelf: Shelf, screenshot: Screenshot
) -> None:
    page = shelf.page
    for name in ("a.txt", "b.txt", "c.txt"):
        shelf.put(name)
    await shelf.open()
    await shelf.act("Delete", "b.txt")
    await expect(page.get_by_role("dialog")).to_contain_text("Delete b.txt?")
    await expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    await screenshot("browse-dialog-wide-light")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert shelf.stored("b.txt") == b"x"
    await shelf.act("Delete", "b.txt")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.locator("#said")).to_have_text("b.txt was deleted")
    await expect(shelf.row("b.txt")).to_have_count(0)
    assert shelf.stored("b.txt") is None
    await expect(shelf.link("c.txt")).to_be_focused()
    await shelf.link("c.txt").click()
    await page.locator("#preview-delete").click()
    await page.get_by_role("dialog").last.get_by_role("button", name="Delete").click()
    await expect(page.locator("#preview")).to_be_hidden()
    await shelf.lists(["a.txt"])


async def test_a_folder_is_deleted_with_what_is_in_it(shelf: Shelf) -> None:
    for number in range(12):
        shelf.put(f"old/{number}/file.txt")
    shelf.put("older.txt")
    await shelf.open()
    await shelf.act("Delete", "old/")
    await expect(shelf.page.get_by_role("dialog")).to_contain_text("the 12 files in it")
    await shelf.page.get_by_role("button", name="Delete", exact=True).click()
    await expect(shelf.page.locator("#said")).to_have_text("old was deleted: 12 files")
    await shelf.lists(["older.txt"])


async def test_what_is_damaged_is_shown_and_can_be_deleted(shelf: Shelf) -> None:
    body = shelf.folder.encode() * 30
    for name in ("a.txt", "old/sick.txt", "sick.txt"):
        shelf.put(name, b"x" if name == "a.txt" else body)
    damage_heads(shelf.gateway.folder / "store", body)
    await shelf.open()
    await shelf.lists(["old/", "a.txt", "sick.txt"])
    await expect(shelf.row("sick.txt")).to_contain_text("damaged")
    await shelf.link("sick.txt").click()
    await expect(shelf.page.locator("#preview-body")).to_have_text(
        "This file is damaged on the server."
    )
    await shelf.page.locator("#preview-close").click()
    for name, asked in (("old/", "the file in it"), ("sick.txt", "Delete sick.txt?")):
        await shelf.act("Delete", name)
        await expect(shelf.page.get_by_role("dialog")).to_contain_text(asked)
        await shelf.page.get_by_role("button", name="Delete", exact=True).click()
        await expect(shelf.row(name)).to_have_count(0)
    await shelf.lists(["a.txt"])


async def test_a_link_is_copied_and_leads_to_the_file(shelf: Shelf) -> None:
    name = "a b+c&d%41#e?.txt"
    shelf.put(name, b"what it leads to")
    await shelf.open()
    await shelf.act("Copy link", name)
    await expect(shelf.page.locator("#said")).to_have_text("Link copied")
    url = await shelf.page.evaluate("navigator.clipboard.readText()")
    target = url.removeprefix(shelf.gateway.url)
    assert shelf.gateway.request("GET", target).body == b"what it leads to"


async def test_a_link_is_shown_where_it_cannot_be_copied(shelf: Shelf) -> None:
    shelf.put("a.txt")
    await shelf.page.add_init_script("delete Navigator.prototype.clipboard")
    await shelf.open()
    await shelf.act("Copy link", "a.txt")
    field = shelf.page.get_by_role("dialog").get_by_label("Link")
    await expect(field).to_be_focused()
    await expect(field).to_have_value(
        f"{shelf.gateway.url}/file?path=looked%20at%20{shelf.folder.split()[-1]}a.txt"
    )


async def test_a_file_is_downloaded_under_its_name(shelf: Shelf) -> None:
    shelf.put("notes.html", b"<p>not shown, but kept")
    await shelf.open()
    await shelf.row("notes.html").hover()
    async with shelf.page.expect_download() as waiting:
        await shelf.act("Download", "notes.html")
    download = await waiting.value
    assert download.suggested_filename == "notes.html"
    assert (await download.path()).read_bytes() == b"<p>not shown, but kept"


async def test_everything_can_be_done_by_keys(shelf: Shelf) -> None:
    page, press = shelf.page, shelf.page.keyboard.press
    fill(shelf)
    await shelf.open()
    await shelf.names()
    await press("/")
    await press("ArrowDown")
    await expect(shelf.link("2025/")).to_be_focused()
    await press("ArrowDown")
    await press("ArrowUp")
    await press("End")
    await expect(shelf.link("waves.wav")).to_be_focused()
    await press("Home")
    await press("Enter")
    await expect(shelf.link("2025/spring/")).to_be_visible()
    await press("Backspace")
    await shelf.link("notes.md").focus()
    await press("ArrowRight")
    await expect(shelf.row("notes.md").locator("button").first).to_be_focused()
    await press("ArrowLeft")
    await press("Enter")
    await expect(page.locator("#preview-body pre")).to_be_visible()
    await press("Escape")
    await expect(shelf.link("notes.md")).to_be_focused()
    await press("Delete")
    await press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(shelf.link("notes.md")).to_be_focused()
    await press("Delete")
    await press("Tab")
    await press("Enter")
    await expect(shelf.row("notes.md")).to_have_count(0)
    assert shelf.stored("notes.md") is None


async def test_one_row_at_a_time_is_on_the_way_of_the_tabulator(shelf: Shelf) -> None:
    fill(shelf)
    await shelf.open()
    await shelf.names()
    stops = shelf.page.locator("#things [tabindex='0']")
    await expect(stops).to_have_count(2)  # a folder, and what deletes it
    await shelf.link("notes.md").focus()
    await expect(stops).to_have_count(4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_narrow_window_shows_everything(
    shelf: Shelf, screenshot: Screenshot, scheme: str
) -> None:
    page = shelf.page
    fill(shelf)
    shelf.put("w" * 200)
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": 320, "height": 640})
    await shelf.open()
    await shelf.names()
    await screenshot(f"browse-list-narrow-{scheme}")
    await _fits(page)
    await shelf.link("beach at dusk.png").click()
    await expect(page.locator("#preview img")).to_be_visible()
    await screenshot(f"browse-image-narrow-{scheme}")
    await _fits(page)
    await page.get_by_role("button", name="Delete", exact=True).click()
    await screenshot(f"browse-dialog-narrow-{scheme}")
    await page.get_by_role("button", name="Cancel").click()
    await page.locator("#preview-close").click()
    await page.set_viewport_size({"width": 1280, "height": 800})
    await screenshot(f"browse-list-wide-{scheme}")


async def _fits(page: Page) -> None:
    """Fail if something has to be scrolled for from side to side."""
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
