"""The page /status/, as a person sees it."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import IN_THE_BROWSER, Screenshot
from tests.servers import Gateway, Server, binary, free_port, gateway, node, running

pytestmark = IN_THE_BROWSER

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


async def test_it_can_be_read_on_any_screen(
    page: Page, service: Service, screenshot: Screenshot
) -> None:
    for _ in range(3):
        await use(service.front, 10)
    await page.goto(f"{service.front.url}/status/")
    await expect(page.locator("#tiles .spark .line").first).to_have_attribute("d", "M")
    await screenshot("status-wide", full=True)
