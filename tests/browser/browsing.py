"""What a person does on the page ``/browse/``, in words."""

import asyncio
import io
import struct
import time
import wave
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from playwright.async_api import Locator, Page, expect

from tests.servers import DEADLINE_S, Gateway, ask


def png(width: int, height: int, red: int = 11) -> bytes:
    """Return an image whose colours run from side to side."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    lines = (
        b"\0" + b"".join(bytes((red, x * 255 // width, y * 255 // height)) for x in range(width))
        for y in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"".join(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def wav(seconds: float) -> bytes:
    """Return silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(1)
        written.setframerate(8000)
        written.writeframes(b"\x80" * int(8000 * seconds))
    return file.getvalue()


class Shelf:
    """The page, on which a folder of a gateway is looked at."""

    def __init__(self, page: Page, gateway: Gateway, folder: str) -> None:
        self.page, self.gateway, self.folder = page, gateway, folder

    def put(self, name: str, body: bytes = b"x") -> None:
        """Store a file in the folder, as another client."""
        answer = self.gateway.put(self.folder + name, body)
        assert answer.status == 200, answer.body

    def put_all(self, names: Iterable[str]) -> None:
        """Store many files over one connection."""
        with closing(self.gateway.connect()) as connection:
            for name in names:
                target = f"/file?path={quote(self.folder + name)}"
                assert ask(connection, "PUT", target, b"x").status == 200

    def stored(self, name: str) -> bytes | None:
        """Return what is stored of a file in the folder."""
        answer = self.gateway.get(self.folder + name)
        assert answer.status in (200, 404), answer
        return answer.body if answer.status == 200 else None

    async def open(self, path: str = "", top: str | None = None) -> None:
        """Go to the folder, or to what is at ``path`` in it."""
        where = quote(self.folder + path)
        await self.page.goto(f"{top or self.gateway.url}/browse/#{where}")
        await self.page.locator("#crumbs a").first.wait_for()

    async def names(self) -> list[str]:
        """Return the names that are listed, when there is a list."""
        await self.page.locator("#things tr, #empty:not([hidden])").first.wait_for()
        return await self.page.locator("#things .name").all_inner_texts()

    async def lists(self, names: Sequence[str]) -> None:
        """Wait until these are listed, in this order."""
        await expect(self.page.locator("#things .name")).to_have_text(list(names))

    def row(self, name: str) -> Locator:
        """Return the line of what is called exactly so."""
        selector = f"[data-path={_in_css(self.folder + name)}]"
        return self.page.locator(f"#things tr{selector}")

    def link(self, name: str) -> Locator:
        """Return what opens it."""
        return self.row(name).locator("a")

    async def act(self, label: str, name: str) -> None:
        """Press a button in the line of ``name``."""
        await self.row(name).hover()
        await self.row(name).locator(f"button[aria-label^='{label}']").click()

    def upload(self, name: str) -> Locator:
        """Return the line of an upload."""
        return self.page.locator("#tray-list li").filter(has_text=name)

    async def has_sent(self, share: float) -> None:
        """Wait until this share of all uploads has gone out."""
        bar, end = self.page.locator("#tray-progress"), time.monotonic() + DEADLINE_S
        while (await bar.evaluate("bar => bar.value")) < share:
            assert time.monotonic() < end, f"less than {share} of the uploads has gone out"
            await asyncio.sleep(0.02)

    async def drop(self, files: Sequence[Path]) -> None:
        """Drop files and folders of this machine on the page."""
        await self.drag("dragEnter", files)
        await self.drag("dragOver", files)
        await self.drag("drop", files)

    async def drag(self, step: str, files: Sequence[Path]) -> None:
        """Take one step of a drag, as the window system tells the browser of it."""
        session = await self.page.context.new_cdp_session(self.page)
        dragged = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        step_at = {"type": step, "x": 300, "y": 300, "data": dragged}
        await session.send("Input.dispatchDragEvent", step_at)
        await session.detach()

    async def slow_down(self, bytes_per_second: int) -> None:
        """Let the browser send no faster; -1: as fast as it can."""
        session = await self.page.context.new_cdp_session(self.page)
        await session.send("Network.enable")
        conditions = {
            "offline": False,
            "latency": 0,
            "downloadThroughput": -1,
            "uploadThroughput": bytes_per_second,
        }
        await session.send("Network.emulateNetworkConditions", conditions)


def _in_css(text: str) -> str:
    return '"' + "".join(f"\\{ord(each):x} " for each in text) + '"'
