"""What a real browser makes of what was uploaded: Debian's Chromium."""

import base64
import struct
import zlib
from pathlib import Path

from playwright.async_api import Browser, Page

from tests.browser.conftest import IN_THE_BROWSER
from tests.servers import Gateway, gateway, running

pytestmark = IN_THE_BROWSER

HTML = (
    b"<!DOCTYPE html><title>still</title><script>document.title = 'ran'</script>"
    b"<img src='/no.png' onerror=\"document.title = 'ran'\"><p onclick='x()'>text"
)
SVG = (
    b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><title>still</title>"
    b"<rect width='9' height='9' fill='red'/><script>document.title = 'ran'</script></svg>"
)
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
trailer<</Root 1 0 R>>
%%EOF"""

FILM = """async type => {
    const canvas = document.createElement('canvas'), parts = [];
    canvas.width = canvas.height = 64;
    const paper = canvas.getContext('2d');
    const recorder = new MediaRecorder(canvas.captureStream(20), {mimeType: type});
    recorder.ondataavailable = event => parts.push(event.data);
    const stopped = new Promise(resolve => recorder.onstop = resolve);
    recorder.start();
    for (let turn = 0; turn < 6; turn++) {
        paper.fillStyle = turn % 2 ? 'red' : 'blue';
        paper.fillRect(0, 0, 64, 64);
        await new Promise(resolve => setTimeout(resolve, 50));
    }
    recorder.stop();
    await stopped;
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    return btoa(String.fromCharCode(...bytes));
}"""


def png() -> bytes:
    """Return a red picture of 10 by 10."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    rows = (b"\0" + b"\xff\0\0" * 10) * 10
    header = struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


async def film(browser: Browser) -> bytes:
    """Return a short MP4, made by the browser itself."""
    page = await browser.new_page()
    try:
        return base64.b64decode(await page.evaluate(FILM, "video/mp4"))
    finally:
        await page.close()


async def open_all(page: Page, shown: Gateway, saved: Gateway) -> None:
    """Open one file after the other."""
    for name in ("a.html", "a.svg"):
        await page.goto(f"{shown.url}/{name}")
        assert await page.title() == "still", name
        assert await page.evaluate("self.origin") == "null"
        await page.goto("about:blank")  # what is in a sandbox may not even save
        async with page.expect_download() as download:
            await page.evaluate("address => { location = address }", f"{saved.url}/{name}")
        assert (await download.value).suggested_filename == name
    await page.goto(f"{shown.url}/site/a.html")
    assert await page.title() == "ran"
    await page.goto(f"{saved.url}/a.png")
    assert await page.evaluate("document.images[0].naturalWidth") == 10
    await page.goto(f"{saved.url}/a.mp4")
    await page.wait_for_function("document.querySelector('video').readyState >= 2")
    assert await page.evaluate("document.querySelector('video').videoWidth") == 64
    await page.goto(f"{saved.url}/a.pdf")
    while not any(frame.url.startswith("chrome-extension:") for frame in page.frames):
        await page.wait_for_event("framenavigated", timeout=10_000)
    # A page of our own may show pictures, and its style counts.
    await page.goto(f"{saved.url}/")
    assert await page.evaluate("getComputedStyle(document.body).fontFamily") == "sans-serif"


async def test_scripts_do_not_run_and_all_else_is_shown(browser: Browser, tmp_path: Path) -> None:
    faces = "[server]\nfaces = ['native', 'paths']\n"
    inline = f"{faces}[answers]\nactive_types = 'inline'\ntrusted = ['site/']\n"
    store = ("--store", str(tmp_path / "store"))
    files = {"a.html": HTML, "a.svg": SVG, "site/a.html": HTML, "a.png": png(), "a.pdf": PDF}
    files["a.mp4"] = await film(browser)
    with (
        running(gateway(tmp_path, *store, settings=inline)) as shown,
        running(gateway(tmp_path, *store, settings=faces)) as saved,
    ):
        for name, body in files.items():
            assert shown.put(name, body).status == 200
        page = await browser.new_page()
        await open_all(page, shown, saved)
        await page.close()
