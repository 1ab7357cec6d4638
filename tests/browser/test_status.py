"""The page /status/, as a person sees it."""

import asyncio
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import IN_THE_BROWSER, Complaints, Screenshot
from tests.servers import (
    DEADLINE_S,
    SFSS,
    Gateway,
    Server,
    binary,
    free_port,
    gateway,
    node,
    running,
)
from tests.test_readable import SIZES

pytestmark = IN_THE_BROWSER

expect.set_options(timeout=DEADLINE_S * 1000)

SETTINGS = """
[server]
workers = 2
faces = ["native", "status", "health"]
[cluster]
kind = "replicated"
[replicated]
placement = "mirror"
stores = {stores}
owed_folder = "owed"
cooling_s = 0.5
"""

GUARDED = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors warn;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass {url}; }}
        location = /under/status/events {{
            if ($http_authorization != "Bearer the-token") {{ return 401; }}
            proxy_pass {url}/status/events;
        }}
        location /under/ {{ proxy_pass {url}/; }}
    }}
}}
"""


class Service(NamedTuple):
    """A gateway, the nodes that it keeps copies on, and an nginx that wants a token."""

    front: Gateway
    nodes: list[Server]
    guard: Server


@pytest.fixture(name="service", scope="module")
def service_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("status")
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(node(folder))) for _ in range(3)]
        settings = SETTINGS.format(stores=[each.address for each in nodes])
        front = stack.enter_context(running(gateway(folder, settings=settings)))
        yield Service(front, nodes, stack.enter_context(running(guard_of(front, folder))))


def guard_of(front: Gateway, folder: Path) -> Server:
    """Return an nginx (not started) before ``front``, which shows all below /under/, to events with
    a token.
    """
    port, conf = free_port(), folder / "guard.conf"
    conf.write_text(GUARDED.format(folder=folder, port=port, url=front.url))
    return Server([binary("nginx"), "-e", str(folder / "early"), "-c", str(conf)], port, folder)


async def use(front: Gateway, count: int) -> None:
    """Have ``front`` asked some things."""

    def ask() -> None:
        for number in range(count):
            front.put(f"pictures/{number}.jpg", bytes(20_000))
            front.get(f"pictures/{number}.jpg")
        front.get("not/there")

    await asyncio.to_thread(ask)


async def test_the_state_of_stores_is_seen_as_it_changes(
    page: Page, service: Service, screenshot: Screenshot
) -> None:
    await use(service.front, 5)
    await page.goto(f"{service.front.url}/status/")
    verdict = page.get_by_role("heading", level=1)
    await expect(verdict).to_have_text("All is well")
    await expect(page.locator("#live")).to_have_text("Live")
    stores = page.get_by_role("table", name="Stores")
    rows = [stores.get_by_role("row", name=each.address) for each in service.nodes]
    for row in rows:
        await expect(row).to_contain_text("up")
        await expect(row).to_contain_text("free")
    errors = page.get_by_role("table", name="Requests that were answered with errors")
    await expect(errors.get_by_role("row", name="not found")).to_contain_text("1")

    service.nodes[1].kill()
    await expect(rows[1]).to_contain_text("down")
    await expect(verdict).to_have_text("1 of 3 stores does not answer")
    await use(service.front, 3)
    owed = page.locator("#care div", has_text="Owed writes").locator("dd")
    await expect(owed).to_have_text("3")
    await expect(page.locator("#reasons")).to_contain_text("3 writes owed to stores")
    await screenshot("status-store-down", full=True)

    service.nodes[1].start()
    await expect(rows[1]).to_contain_text("up")
    await expect(owed).to_have_text("0")
    await expect(verdict).to_have_text("All is well")


SIZES_OF_A_PAGE = """async (counts) => {
  const { sizeOf } = await import("./sizes.js");
  return counts.map((each) => sizeOf(each).replace("\\u00a0", " "));
}"""


async def test_sizes_are_written_as_everywhere(page: Page, service: Service) -> None:
    await page.goto(f"{service.front.url}/status/")
    assert await page.evaluate(SIZES_OF_A_PAGE, list(SIZES)) == list(SIZES.values())


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => colour.slice(0, 3).map((each) => each / 255)
    .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [one, other] = [light(parse(style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${texts.currentNode.textContent}`);
  }
  return found;
}"""
"""Returns the texts that stand out too little, by WCAG 2.2, 1.4.3."""


async def test_it_can_be_read_on_any_screen(
    page: Page, service: Service, screenshot: Screenshot
) -> None:
    front = service.front
    config = front.command[front.command.index("--config") + 1]
    scrub = await asyncio.create_subprocess_exec(
        *[*SFSS, "scrub", "--config", config],
        cwd=front.folder,
        env=front.environ,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await scrub.wait() == 0
    await page.goto(f"{front.url}/status/")
    tools = page.get_by_role("table", name="Repair tools")
    await expect(tools.get_by_role("row", name="scrub")).to_contain_text("finished")
    await use(front, 10)
    line = page.locator("#tiles .spark .line").first
    await expect(line).to_have_attribute("d", re.compile("L.*L"))
    for name, width, scheme in (
        ("wide", 1280, "light"),
        ("wide-dark", 1280, "dark"),
        ("narrow", 320, "light"),
        ("narrow-dark", 320, "dark"),
    ):
        await page.set_viewport_size({"width": width, "height": 800})
        await page.emulate_media(color_scheme=scheme)
        assert await page.evaluate(CONTRAST) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        # Cards are a table still to whoever hears it.
        row = page.get_by_role("table", name="Stores").get_by_role("row").nth(1)
        assert await row.get_by_role("cell").count() == 6
        await screenshot(f"status-{name}", full=True)
    await expect(tools.get_by_role("row", name="scrub")).to_contain_text("s ago")


async def test_a_token_is_asked_for_and_kept_in_the_tab(
    page: Page, service: Service, complaints: Complaints, screenshot: Screenshot
) -> None:
    complaints.expect("status of 401")
    await page.goto(f"http://{service.guard.address}/under/status/")
    await expect(page.get_by_role("heading", name="A token is needed")).to_be_visible()
    await expect(page.get_by_label("Token", exact=True)).to_be_focused()
    await screenshot("status-token")
    await page.keyboard.type("not-the-token")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("This token is not accepted.")
    await page.get_by_label("Token", exact=True).fill("the-token")
    await page.get_by_role("button", name="Show status").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("All is well")
    await page.reload()
    await expect(page.locator("#live")).to_have_text("Live")
    await page.get_by_role("button", name="Forget token").click()
    await expect(page.get_by_role("heading", name="A token is needed")).to_be_visible()
    assert await page.evaluate("sessionStorage.length + document.cookie.length") == 0


async def test_what_is_broken_off_is_said_and_goes_on(
    page: Page, service: Service, complaints: Complaints, screenshot: Screenshot
) -> None:
    complaints.expect("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_CONNECTION_RESET")
    front = service.front
    await page.goto(f"{front.url}/status/")
    live = page.locator("#live")
    await expect(live).to_have_text("Live")
    # New workers: nobody who watches is told of it.
    seen = await page.evaluate_handle(
        """() => {
          const said = [];
          const live = document.getElementById("live");
          new MutationObserver(() => said.push(live.textContent))
            .observe(live, {childList: true, characterData: true, subtree: true});
          return said;
        }"""
    )
    before = front.workers()
    front.send(signal.SIGHUP)
    await until(lambda: not set(before) & set(front.workers()))
    async with page.expect_response("**/status/events"):
        pass
    assert await seen.json_value() == []

    front.kill()
    await expect(page.locator("#broken-words")).to_contain_text("The server does not answer.")
    await expect(live).to_have_text("Not live")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("No news since")
    await expect(page.get_by_role("table", name="Stores")).to_be_visible()
    await screenshot("status-broken", full=True)
    front.start()
    await page.get_by_role("button", name="Try now").click()
    await expect(live).to_have_text("Live")
    await expect(page.locator("#broken")).to_be_hidden()


async def test_without_scripts_there_is_a_sentence(browser: Browser, service: Service) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{service.front.url}/status/")
    await expect(page.get_by_text("This page needs JavaScript.")).to_be_visible()
    answer = await page.goto(f"{service.front.url}/status?detail=full")
    assert answer is not None
    assert "webserver" in await answer.json()
    await context.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that the page does not show."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)
