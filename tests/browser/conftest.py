"""A real browser: Debian's Chromium, one for the whole run, with a fresh profile for each test.

Modules of this folder begin with ``pytestmark = IN_THE_BROWSER``: their tests run in the event loop
of the session, where the browser lives. (Playwright's other face, without ``async``, keeps a loop
running between tests, in which nothing else could run.)
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.browser.browsing import Shelf
from tests.servers import CHECKOUT, Gateway, binary

IN_THE_BROWSER = pytest.mark.asyncio(loop_scope="session")

SCREENSHOTS = CHECKOUT / "var" / "screenshots"
"""Where pictures of pages are kept, to be looked at."""

_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_WAIT_MS = 20_000

expect.set_options(timeout=_WAIT_MS)

Screenshot = Callable[..., Awaitable[Path]]


class Complaints:
    """What a page did that no page may do: errors on the console (a breach of the content security
    policy is one), exceptions, requests to other hosts.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._expected: list[str] = []

    def expect(self, *patterns: str) -> None:
        """Say which complaints are meant to be, by regular expressions: "status of 413"."""
        self._expected += patterns

    def watch(self, context: BrowserContext) -> None:
        """Note what goes wrong on all pages of ``context``."""
        context.on("console", lambda said: said.type == "error" and self._note(said.text))
        context.on("weberror", lambda error: self._note(f"exception: {error.error}"))
        context.on("request", lambda request: self._check_host(request.url))

    def _note(self, text: str) -> None:
        self.found.append(text)

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data") and parts.hostname != "127.0.0.1":
            self._note(f"asked another host: {url}")

    def unexpected(self) -> list[str]:
        """Return the complaints that were not expected."""
        return [
            text
            for text in self.found
            if not any(re.search(pattern, text) for pattern in self._expected)
        ]


@pytest_asyncio.fixture(name="browser", scope="session", loop_scope="session")
async def only_browser() -> AsyncIterator[Browser]:
    program = binary("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture(name="complaints")
def complaints_of_pages() -> Complaints:
    return Complaints()


@pytest_asyncio.fixture(name="context", loop_scope="session")
async def fresh_profile(browser: Browser, complaints: Complaints) -> AsyncIterator[BrowserContext]:
    """A browser without a past. The test fails for what its pages do that was not expected."""
    context = await browser.new_context(
        viewport={"width": 1280, "height": 800},
        color_scheme="light",
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(_WAIT_MS)
    complaints.watch(context)
    yield context
    await context.close()
    assert not complaints.unexpected()


@pytest_asyncio.fixture(name="page", loop_scope="session")
async def fresh_page(context: BrowserContext) -> Page:
    return await context.new_page()


@pytest.fixture(name="shelf")
def page_of_folder(page: Page, gateway: Gateway, folder: str) -> Shelf:
    """The file browser at the ``folder`` of the module that asks for it."""
    return Shelf(page, gateway, folder)


@pytest.fixture(name="screenshot")
def keep_screenshot(page: Page) -> Screenshot:
    """Keeps a picture of a page as ``var/screenshots/NAME.png``: ``await screenshot(NAME)``."""

    async def screenshot(name: str, shown: Page | None = None, full: bool = False) -> Path:
        file = SCREENSHOTS / f"{name}.png"
        await (shown or page).screenshot(path=file, full_page=full)
        return file

    return screenshot
