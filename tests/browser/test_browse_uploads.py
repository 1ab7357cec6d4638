"""Uploads in the file browser: by drop and by button, what is in their way, and what fails."""

import re
from itertools import count
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.browsing import Shelf, png
from tests.browser.conftest import IN_THE_BROWSER, Complaints, Screenshot
from tests.servers import gateway, running
from tests.web.client import LIMIT

pytestmark = IN_THE_BROWSER

SLOW = 100_000
"""Bytes that go out in a second, to see what happens meanwhile."""

_numbers = count()


@pytest.fixture(name="folder")
def unused_folder() -> str:
    return f"uploaded {next(_numbers)}/"


@pytest.fixture(name="files")
def some_files(tmp_path: Path) -> list[Path]:
    """Files of this machine: a text, an empty one, one whose name is odd."""
    bodies = {"a.txt": b"from here", "empty": b"", "ä+b %41 #?&.txt": b"odd"}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    return [tmp_path / name for name in bodies]


async def test_files_are_uploaded_where_they_are_dropped(
    shelf: Shelf, files: list[Path], screenshot: Screenshot
) -> None:
    await shelf.open()
    await expect(shelf.page.locator("#empty")).to_contain_text("Drop files or folders anywhere")
    await expect(shelf.page.locator("#limit")).to_have_text("Files may have up to 2 MiB")
    await screenshot("browse-empty-wide-light")
    await shelf.drag("dragEnter", files)
    await expect(shelf.page.locator("#target")).to_contain_text(shelf.folder)
    await screenshot("browse-target-wide-light")
    await shelf.drag("dragOver", files)
    await shelf.drag("drop", files)
    await expect(shelf.page.locator("#told")).to_have_text("3 files uploaded")
    await expect(shelf.page.locator("#target")).to_be_hidden()
    await shelf.lists(sorted(file.name for file in files))
    for file in files:
        assert shelf.stored(file.name) == file.read_bytes()
        await expect(shelf.upload(file.name)).to_contain_text("Uploaded")
    await shelf.page.locator("#tray-close").click()
    await expect(shelf.page.locator("#tray")).to_be_hidden()


async def test_a_folder_is_dropped_with_all_that_is_in_it(shelf: Shelf, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    expected = {f"tree/{number % 7}/{number}.txt" for number in range(130)}
    for name in expected:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    await shelf.open()
    await shelf.drop([tree])
    await expect(shelf.page.locator("#told")).to_have_text("130 files uploaded")
    listed = shelf.gateway.request("GET", f"/files?prefix={shelf.folder.replace(' ', '+')}").json()
    assert {file["path"].removeprefix(shelf.folder) for file in listed["files"]} == expected
    await shelf.lists(["tree/"])


async def test_files_and_folders_are_chosen_by_buttons(
    shelf: Shelf, files: list[Path], tmp_path: Path
) -> None:
    await shelf.open()
    async with shelf.page.expect_file_chooser() as waiting:
        await shelf.page.locator("#upload-files").click()
    await (await waiting.value).set_files(files)
    await expect(shelf.page.locator("#told")).to_have_text("3 files uploaded")
    chosen = tmp_path / "chosen" / "in it"
    chosen.mkdir(parents=True)
    (chosen / "x.txt").write_text("x")
    async with shelf.page.expect_file_chooser() as waiting:
        await shelf.page.locator("#upload-folder").click()
    await (await waiting.value).set_files(tmp_path / "chosen")
    await expect(shelf.row("chosen/")).to_be_visible()
    assert shelf.stored("chosen/in it/x.txt") == b"x"


async def test_each_upload_shows_how_far_it_is_and_can_be_cancelled(
    shelf: Shelf, tmp_path: Path, screenshot: Screenshot, complaints: Complaints
) -> None:
    page = shelf.page
    names = [f"recording {number}.mp3" for number in range(6)]
    for name in names:
        (tmp_path / name).write_bytes(bytes(500_000))
    await shelf.open()
    await shelf.slow_down(SLOW)
    await shelf.drop([tmp_path / name for name in names])
    bars = page.locator("#tray-list progress:not([hidden])")
    await expect(bars).to_have_count(4)  # at a time
    await shelf.has_sent(0.03)
    assert 0 < await bars.first.evaluate("bar => bar.value") < 1
    await screenshot("browse-uploading-wide-light")
    await page.emulate_media(color_scheme="dark")
    await screenshot("browse-uploading-wide-dark")
    await page.set_viewport_size({"width": 320, "height": 640})
    await screenshot("browse-uploading-narrow-dark")
    await shelf.upload(names[0]).get_by_role("button", name="Cancel").click()
    await expect(shelf.upload(names[0])).to_contain_text("Cancelled")
    await page.locator("#tray-cancel").click()
    await expect(page.locator("#tray-title")).to_have_text("Nothing uploaded")
    assert all(shelf.stored(name) is None for name in names)
    await shelf.slow_down(-1)
    await shelf.upload(names[0]).get_by_role("button", name="Try again").click()
    await expect(page.locator("#tray-title")).to_have_text("1 file uploaded")
    assert shelf.stored(names[0]) == bytes(500_000)


async def test_what_is_there_is_replaced_only_when_that_is_wanted(
    shelf: Shelf, files: list[Path], screenshot: Screenshot, complaints: Complaints
) -> None:
    complaints.expect("status of 412")
    page = shelf.page
    for file in files:
        shelf.put(file.name, b"there before")
    await shelf.open()
    await shelf.drop(files[:1])
    await expect(page.get_by_role("dialog")).to_contain_text("a.txt is already there")
    await screenshot("browse-there-wide-light")
    await page.get_by_role("button", name="Keep what is there").click()
    await expect(shelf.upload("a.txt")).to_contain_text("Left as it was")
    assert shelf.stored("a.txt") == b"there before"
    await page.locator("#tray-close").click()
    await shelf.drop(files[:1])
    await page.get_by_role("button", name="Replace").click()
    await expect(shelf.upload("a.txt")).to_contain_text("Uploaded")
    assert shelf.stored("a.txt") == b"from here"
    shelf.put("a.txt", b"there before")
    await page.locator("#tray-close").click()
    await shelf.drop(files)
    await page.get_by_label("Do the same for all others").check()
    await page.get_by_role("button", name="Replace").click()
    await expect(page.locator("#tray-title")).to_have_text("3 files uploaded")
    for file in files:
        assert shelf.stored(file.name) == file.read_bytes()


async def test_a_file_that_is_too_large_is_refused_in_words(
    shelf: Shelf, tmp_path: Path, complaints: Complaints
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(LIMIT + 1))
    await shelf.open()
    await shelf.drop([large])
    await expect(shelf.upload("large.bin")).to_contain_text(
        f"A file may have {LIMIT} bytes; this has {LIMIT + 1}."
    )
    await expect(shelf.page.locator("#tray-title")).to_have_text("1 file failed")


async def test_the_sentence_of_the_server_is_shown(
    shelf: Shelf, tmp_path: Path, complaints: Complaints
) -> None:
    complaints.expect("status of 4(13|00)", "ERR_CONNECTION")

    async def larger(route: Route) -> None:
        settings = {"max_file_size": 1 << 30, "has_files": True, "has_status": False}
        await route.fulfill(json=settings)

    (tmp_path / "large.bin").write_bytes(bytes(LIMIT + 1))
    (tmp_path / "back\\slash").write_bytes(b"x")
    await shelf.page.route("**/settings.json", larger)
    await shelf.open()
    await shelf.drop([tmp_path / "large.bin", tmp_path / "back\\slash"])
    await expect(shelf.upload("large.bin")).to_contain_text(
        f"too large: a file may have at most {LIMIT} bytes"
    )
    await expect(shelf.upload("slash")).to_contain_text("it contains a backslash")


async def test_a_server_that_is_busy_is_asked_again_later(
    shelf: Shelf, files: list[Path], complaints: Complaints
) -> None:
    complaints.expect("status of (429|503)")
    refusals = iter([(429, "0"), (503, "0"), (429, "later")])

    async def refuse(route: Route) -> None:
        status, wait = next(refusals, (0, ""))
        if status:
            headers = {"Retry-After": wait}
            await route.fulfill(status=status, headers=headers, json={"error": "too many"})
        else:
            await route.continue_()

    await shelf.open()
    await shelf.page.route(re.compile("/file[?]path="), refuse)
    await shelf.drop(files[:1])
    await expect(shelf.page.locator("#tray-title")).to_have_text("1 file uploaded")
    assert shelf.stored("a.txt") == b"from here"
    assert next(refusals, None) is None


async def test_an_image_that_was_replaced_is_shown_as_it_is_now(
    shelf: Shelf, files: list[Path]
) -> None:
    shelf.put("image.png", png(20, 10))
    await shelf.open()
    image = shelf.link("image.png").locator("img")
    await expect(image).to_have_js_property("naturalWidth", 20)
    shelf.put("image.png", png(30, 10))
    await shelf.drop(files[:1])
    await expect(image).to_have_js_property("naturalWidth", 30)


async def test_a_new_folder_is_there_when_a_file_is(shelf: Shelf, files: list[Path]) -> None:
    shelf.put("there.txt")
    await shelf.open()
    await shelf.page.get_by_role("button", name="New folder").click()
    await shelf.page.keyboard.type("new & empty")
    await shelf.page.keyboard.press("Enter")
    await expect(shelf.page.locator("#empty")).to_contain_text("Nothing here yet")
    await shelf.drop(files[:1])
    await expect(shelf.link("new & empty/a.txt")).to_be_visible()
    await shelf.page.go_back()
    await shelf.lists(["new & empty/", "there.txt"])


async def test_what_failed_because_the_server_was_gone_is_tried_again(
    page: Page, tmp_path: Path, complaints: Complaints
) -> None:
    complaints.expect("ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_SOCKET")
    file = tmp_path / "song.mp3"
    file.write_bytes(bytes(150_000))
    with running(gateway(tmp_path, "--store", "store")) as server:
        shelf = Shelf(page, server, "music/")
        shelf.put("there.txt")
        await shelf.open()
        await shelf.slow_down(SLOW)
        await shelf.drop([file])
        await shelf.has_sent(0.1)
        server.kill()
        await expect(shelf.upload("song.mp3")).to_contain_text("The server does not answer.")
        await expect(page.locator("#notice")).to_contain_text("The server does not answer.")
        server.start()
        await shelf.slow_down(-1)
        await shelf.upload("song.mp3").get_by_role("button", name="Try again").click()
        await expect(page.locator("#tray-title")).to_have_text("1 file uploaded")
        await shelf.lists(["song.mp3", "there.txt"])
        await expect(page.locator("#notice")).to_be_hidden()
        assert shelf.stored("song.mp3") == bytes(150_000)
