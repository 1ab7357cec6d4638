"""``sfss.client`` against real gateways, through a proxy that cuts connections off, and against
servers that answer what a test tells them to.
"""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from xxhash import xxh3_128_hexdigest

from sfss import client_errors as errors
from sfss.client import AsyncClient, Client
from sfss.client_bodies import open_body
from sfss.client_text import read_server
from tests.cutting_proxy import CuttingProxy
from tests.servers import (
    DEADLINE_S,
    PYTHON_ENVIRON,
    Gateway,
    binary,
    free_port,
    gateway,
    nginx,
    running,
)
from tests.stores.scripted import CLOSE, ScriptedHttpServer

LARGE = os.urandom(3 * 1024 * 1024 + 7)


@pytest.fixture(name="server", scope="module")
def large_files_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = "[cluster]\nmax_file_size = 16777216\n"
    folder = tmp_path_factory.mktemp("client")
    with running(gateway(folder, "--store", "store", settings=settings)) as server:
        server.put("large", LARGE)
        yield server


@pytest.fixture(name="plain", scope="module")
def gateway_over_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("plain")
    settings = (
        '[cluster]\nkind = "replicated"\nmax_file_size = 16777216\n'
        f'[replicated]\nplacement = "mirror"\nstores = ["file:{folder}/files"]\nwrite_quorum = 1\n'
    )
    with running(gateway(folder, settings=settings)) as server:
        yield server


@pytest.fixture
async def client(server: Gateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url) as opened:
        yield opened


# --- What is asked --------------------------------------------------------------------------------


async def test_a_file_is_kept_read_described_and_removed(client: AsyncClient) -> None:
    path = "a b/grüße+&=?#%.txt"
    kept = await client.put(path, b"hello", content_type="text/x-greeting", ttl_s=600)
    assert await client.get(path) == b"hello"
    found = await client.stat(path)
    assert (found.size, found.etag, found.media_type) == (5, kept.etag, "text/x-greeting")
    assert found.expires is not None and found.modified is not None
    assert await client.exists(path)
    await client.delete(path, if_match=kept.etag)
    assert not await client.exists(path)
    with pytest.raises(errors.NotFound, match=r"404 Not Found: no such file: a b/gr"):
        await client.get(path)
    with pytest.raises(errors.NotFound):
        await client.delete(path)
    await client.delete(path, missing_ok=True)


async def test_ranges(client: AsyncClient) -> None:
    await client.put("ranges", b"0123456789")
    assert await client.get("ranges", 2, 5) == b"234"
    assert await client.get("ranges", 7) == b"789"
    assert await client.get("ranges", 7, 100) == b"789"
    assert await client.get("large", 5, 2_500_000) == LARGE[5:2_500_000]
    with pytest.raises(errors.NoSuchRange):
        await client.get("ranges", 10)


async def pieces_of_large() -> AsyncIterator[bytes]:
    for start in range(0, len(LARGE), 100_000):
        yield LARGE[start : start + 100_000]


async def test_any_kind_of_content_is_put(client: AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(LARGE)
    with file.open("rb") as opened:
        opened.seek(10)
        await client.put("kinds/open", opened)
        assert opened.read(1) == LARGE[10:11], "it is as it was for whoever has opened it"
    await client.put("kinds/path", file)
    await client.put("kinds/memory", io.BytesIO(LARGE))
    await client.put("kinds/pieces", pieces_of_large())
    await client.put("kinds/view", memoryview(b"view"))
    await client.put("kinds/empty", b"")
    found = {file.path: file.size async for file in client.list("kinds/")}
    whole = len(LARGE)
    assert found == {
        "kinds/empty": 0,
        "kinds/memory": whole,
        "kinds/open": whole - 10,
        "kinds/path": whole,
        "kinds/pieces": whole,
        "kinds/view": 4,
    }
    assert await client.get("kinds/pieces") == LARGE
    await client.copy("kinds/pieces", "kinds/copy")
    assert await client.get("kinds/copy") == LARGE


async def test_a_copy_needs_one_connection(server: Gateway) -> None:
    async with AsyncClient(server.url, connections=1) as client, asyncio.timeout(30):
        await client.copy("large", "copy")
        assert (await client.stat("copy")).digest == (await client.stat("large")).digest


async def test_what_cannot_be_read_is_not_put(client: AsyncClient, tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "absent"):
        with pytest.raises(errors.Unreadable, match=str(name)):
            await client.put("unreadable", name)
    assert not await client.exists("unreadable")


async def test_conditions(client: AsyncClient) -> None:
    first = await client.put("conditions", b"1", create=True)
    with pytest.raises(errors.ConditionFailed):
        await client.put("conditions", b"2", create=True)
    second = await client.put("conditions", b"2", if_match=first.etag)
    with pytest.raises(errors.ConditionFailed):
        await client.put("conditions", b"3", if_match=first.etag)
    with pytest.raises(errors.ConditionFailed):
        await client.delete("conditions", if_match=first.etag)
    async with client.open("conditions", if_match=second.etag) as download:
        assert await download.read() == b"2"


async def test_a_listing_of_many_pages_and_of_folders(client: AsyncClient) -> None:
    names = [f"many/{n % 3}/{n:04}" for n in range(2100)] + ["many/0-file", "many/x"]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(client.put(name, b"1"))
    assert [file.path async for file in client.list("many/")] == sorted(names)
    pages = [page async for page in client.pages("many/", delimiter="/")]
    assert [folder for page in pages for folder in page.folders] == [
        "many/0/",
        "many/1/",
        "many/2/",
    ]
    files = [file.path for page in pages for file in page.files]
    assert files == ["many/0-file", "many/x"]


async def test_what_is_too_large_is_said_to_be(client: AsyncClient) -> None:
    with pytest.raises(errors.TooLarge) as caught:
        await client.put("too-large", bytes(16_777_217))
    assert caught.value.status == 413


async def test_a_file_of_another_program_is_read_though_nothing_proves_it(plain: Gateway) -> None:
    folder = plain.folder / "files"
    plain.put("first", b"makes the folder")
    (folder / "raw.txt").write_bytes(b"raw")
    (folder / "raw-large").write_bytes(LARGE)
    async with AsyncClient(plain.url) as client:
        assert await client.get("raw.txt") == b"raw"
        assert (await client.stat("raw.txt")).digest is None
        saved = plain.folder / "saved"
        await client.get_to_file("raw-large", saved)
        assert saved.read_bytes() == LARGE
        await client.put("own.txt", b"own")
        assert (await client.stat("own.txt")).digest is not None


# --- What fails -----------------------------------------------------------------------------------


async def test_nobody_there_is_unreachable_and_not_absent() -> None:
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", tries=2) as client:
        with pytest.raises(errors.Unreachable, match="gives no answer"):
            await client.exists("a")


def answer(status: int, body: bytes = b"", *fields: bytes) -> bytes:
    head = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*head, b"", body])


ETAG_OF_A = b'ETag: "%s"' % xxh3_128_hexdigest(b"a").encode()


async def test_a_busy_server_is_asked_again() -> None:
    busy = [answer(503, b"", b"Retry-After: 0"), answer(429), answer(504), CLOSE]
    good = answer(200, b"a", ETAG_OF_A)
    async with (
        ScriptedHttpServer(busy, [good]) as server,
        AsyncClient(f"http://{server.address}", tries=6) as client,
    ):
        assert await client.get("a") == b"a"
        assert len(server.requests) == 5


async def test_tries_end_and_some_answers_are_final() -> None:
    later = answer(429, b'{"error": "slower"}', b"Retry-After: 3600", b"Content-Type: text/json")
    for script, kind, asked in (
        ([later], errors.TooManyRequests, 1),
        ([answer(504)] * 3, errors.CannotTell, 2),
        ([answer(401)], errors.Unauthorized, 1),
        ([answer(403)], errors.Forbidden, 1),
        ([answer(507)], errors.Full, 1),
        ([answer(400)], errors.Refused, 1),
        ([answer(500)], errors.Refused, 1),
        ([b"nonsense\r\n\r\n"], errors.Unreachable, 2),
    ):
        async with (
            ScriptedHttpServer(script) as server,
            AsyncClient(f"http://{server.address}", tries=2) as client,
        ):
            with pytest.raises(kind):
                await client.get("a")
            assert len(server.requests) == asked


async def test_a_write_whose_answer_was_lost_has_been_done() -> None:
    # HEAD says the length of what it does not send.
    head = answer(200, b"", ETAG_OF_A).replace(b"Length: 0", b"Length: 1")
    async with (
        ScriptedHttpServer([CLOSE], [answer(412), head]) as server,
        AsyncClient(f"http://{server.address}") as client,
    ):
        assert (await client.put("a", b"a", create=True)).digest
    async with (
        ScriptedHttpServer([CLOSE], [answer(404)]) as server,
        AsyncClient(f"http://{server.address}") as client,
    ):
        await client.delete("a")


async def test_a_body_that_shrinks_is_not_sent_again_and_again(
    client: AsyncClient, tmp_path: Path
) -> None:
    file = tmp_path / "shrinking"
    file.write_bytes(LARGE)
    body = open_body(file)
    file.write_bytes(LARGE[:1_500_000])
    with pytest.raises(errors.Unreadable, match="became shorter"):
        await client.put("shrinking", body)
    assert not await client.exists("shrinking")


async def test_wrong_bytes_are_never_returned() -> None:
    for damaged in (answer(200, b"b", ETAG_OF_A), answer(206, b"a", b"Content-Range: x")):
        async with (
            ScriptedHttpServer([damaged]) as server,
            AsyncClient(f"http://{server.address}", tries=1) as client,
        ):
            with pytest.raises(errors.Damaged):
                await client.get("a")
    async with (
        ScriptedHttpServer([answer(200, b"", ETAG_OF_A)]) as server,
        AsyncClient(f"http://{server.address}", tries=1) as client,
    ):
        with pytest.raises(errors.Damaged, match="what is kept"):
            await client.put("a", b"b")


async def test_the_token_goes_with_each_request_and_cannot_break_it() -> None:
    async with ScriptedHttpServer([answer(204)] * 2) as server:
        url = f"http://{server.address}"
        async with AsyncClient(url, token="s3cret") as client:
            await client.delete("a")
        with pytest.raises(ValueError):
            AsyncClient(url, token="a\r\nX: y")
        async with AsyncClient(url) as client:
            with pytest.raises(ValueError):
                await client.delete("a", if_match="a\r\nX: y")


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "http://", "http://a:0", "http://u@a", "http://a/?b", "http://a b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        read_server(url)


def test_addresses() -> None:
    assert read_server("http://a").authority == "a"
    assert read_server("https://[::1]:8/b/").origin == "https://[::1]:8"
    assert read_server("https://a:443/b").base == "/b"


def names_in(folder: Path) -> list[str]:
    return sorted(name.name for name in folder.iterdir())


# --- Cut off, and cancelled -----------------------------------------------------------------------


async def test_a_download_goes_on_where_it_was_cut_off(server: Gateway, tmp_path: Path) -> None:
    async with (
        CuttingProxy(server.port, 2_000_000, 700_000) as proxy,
        AsyncClient(proxy.url) as client,
    ):
        assert await client.get("large") == LARGE
        assert len(proxy.heads) == 3 and b"If-Match" in proxy.heads[1]
        proxy.cuts = [1, 2_000_000]
        moved: list[int] = []
        await client.get_to_file("large", tmp_path / "large", moved.append)
        assert sum(moved) == len(LARGE)
    assert (tmp_path / "large").read_bytes() == LARGE
    assert names_in(tmp_path) == ["large"]


async def test_what_came_is_gone_on_with_next_time(server: Gateway, tmp_path: Path) -> None:
    target = tmp_path / "large"
    target.write_bytes(b"former")
    async with CuttingProxy(server.port, 2_000_000) as proxy:
        async with AsyncClient(proxy.url, tries=1) as client:
            with pytest.raises(errors.Unreachable):
                await client.get_to_file("large", target)
            assert target.read_bytes() == b"former"
            (part,) = (tmp_path / name for name in names_in(tmp_path) if name != "large")
            came = part.stat().st_size
            assert came > 1_000_000
            await client.get_to_file("large", target)
        assert f"Range: bytes={came}-".encode() in proxy.heads[-1]
        assert b"If-Range: " in proxy.heads[-1]
    assert target.read_bytes() == LARGE
    assert names_in(tmp_path) == ["large"]


async def test_a_part_without_bytes_or_with_too_many_is_of_no_use(
    client: AsyncClient, server: Gateway, tmp_path: Path
) -> None:
    target = tmp_path / "large"
    async with CuttingProxy(server.port, 2_000_000) as proxy, AsyncClient(proxy.url, tries=1) as it:
        with pytest.raises(errors.Unreachable):
            await it.get_to_file("large", target)
    (part,) = (tmp_path / name for name in names_in(tmp_path))
    for left in (b"", bytes(len(LARGE)), bytes(len(LARGE) + 1)):
        part.write_bytes(left)
        await client.get_to_file("large", target)
        assert target.read_bytes() == LARGE
        assert names_in(tmp_path) == ["large"]


async def test_a_damaged_part_is_thrown_away(server: Gateway, tmp_path: Path) -> None:
    target = tmp_path / "large"
    async with CuttingProxy(server.port, 2_000_000) as proxy, AsyncClient(proxy.url, tries=1) as it:
        with pytest.raises(errors.Unreachable):
            await it.get_to_file("large", target)
        (part,) = (tmp_path / name for name in names_in(tmp_path))
        with part.open("r+b") as file:
            file.write(bytes(100))
        with pytest.raises(errors.Damaged):
            await it.get_to_file("large", target)
        assert not names_in(tmp_path)
        await it.get_to_file("large", target)
    assert target.read_bytes() == LARGE


async def test_a_part_that_somebody_else_may_have_made_is_left_alone(
    client: AsyncClient, server: Gateway, tmp_path: Path
) -> None:
    target, victim = tmp_path / "folder" / "large", tmp_path / "victim"
    async with CuttingProxy(server.port, 2_000_000) as proxy, AsyncClient(proxy.url, tries=1) as it:
        with pytest.raises(errors.Unreachable):
            await it.get_to_file("large", target)
    (name,) = names_in(target.parent)
    part = target.parent / name
    others = (part.symlink_to, part.hardlink_to, lambda _: os.mkfifo(part), lambda _: part.mkdir())
    for put in others:
        victim.write_bytes(LARGE[:1_000_000])
        part.unlink(missing_ok=True)
        put(victim)
        await client.get_to_file("large", target)
        assert target.read_bytes() == LARGE
        assert victim.read_bytes() == LARGE[:1_000_000]


async def test_a_file_that_is_replaced_meanwhile_is_not_mixed(server: Gateway) -> None:
    async with CuttingProxy(server.port, 1_500_000) as proxy, AsyncClient(proxy.url) as client:
        await client.put("replaced", LARGE)
        proxy.cuts = [1_500_000]
        async with AsyncClient(proxy.url) as reader, reader.open("replaced") as download:
            blocks = download.blocks()
            first = await anext(blocks)
            await client.put("replaced", bytes(len(LARGE)))
            with pytest.raises(errors.Changed):
                async for block in blocks:
                    first += block


async def test_who_is_cancelled_within_a_long_refusal_keeps_no_connection() -> None:
    has_begun = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9999999\r\n\r\nno")
        has_begun.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncClient(url, timeout_s=10 * DEADLINE_S) as client:
            asking = asyncio.ensure_future(client.get("a"))
            await has_begun.wait()
            for _ in range(100):
                await asyncio.sleep(0)  # until the refusal is read
            assert client._asker._pool._busy
            asking.cancel()
            await asyncio.wait({asking})
            assert not client._asker._pool._busy


async def test_a_cancelled_task_harms_no_other(client: AsyncClient, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    target = tmp_path / "large"
    for pause_s in (0.0, 0.001, 0.003, 0.01, 0.03):
        saving = loop.create_task(client.get_to_file("large", target))
        reading = loop.create_task(client.get("large"))
        others = [loop.create_task(client.get("large", n, n + 9)) for n in range(20)]
        await asyncio.sleep(pause_s)
        saving.cancel()
        reading.cancel()
        await asyncio.gather(saving, reading, return_exceptions=True)
        assert await asyncio.gather(*others) == [LARGE[n : n + 9] for n in range(20)]
        assert not target.exists() or target.read_bytes() == LARGE
        target.unlink(missing_ok=True)
    await client.get_to_file("large", target)
    assert target.read_bytes() == LARGE


async def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with running(gateway(tmp_path, "--store", "store")) as server:
        server.put("a", b"a")
        async with AsyncClient(server.url, tries=1, timeout_s=1.5) as client:
            assert await client.get("a") == b"a"
            for worker in (server.pid, *server.workers()):
                os.kill(worker, signal.SIGSTOP)
            with pytest.raises(errors.Unreachable, match=r"1\.5 s"):
                await client.get("a")
            for worker in (*server.workers(), server.pid):
                os.kill(worker, signal.SIGCONT)
            assert await client.get("a") == b"a"


def test_tls(server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = str(tmp_path / "c"), str(tmp_path / "k")
    options = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    options += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run([binary("openssl"), "req", "-x509", *options], check=True, capture_output=True)
    port = free_port()
    places = ("--listen", f"127.0.0.1:{port}", "--work", str(tmp_path / f"nginx-{port}"))
    tls = ("--certificate", certificate, "--key", key, "--gateway", server.address)
    with running(nginx(tmp_path, port, "front", *places, *tls)):
        url = f"https://127.0.0.1:{port}"
        with Client(url, tries=1) as client, pytest.raises(errors.Unreachable, match="certificate"):
            client.get("large")
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        with Client(url) as client:
            assert client.get("large") == LARGE
            client.put("tls", LARGE)
            with pytest.raises(errors.TooLarge):
                client.put("tls", bytes(16_777_217))


# --- The twin without asyncio ---------------------------------------------------------------------


def test_the_twin_does_the_same(server: Gateway, tmp_path: Path) -> None:
    with Client(server.url) as client:
        client.put("twin/a", b"abc", content_type="text/x-twin")
        assert client.get("twin/a", 1) == b"bc"
        assert client.stat("twin/a").media_type == "text/x-twin"
        assert [file.path for file in client.list("twin/")] == ["twin/a"]
        with client.open("large") as download:
            assert b"".join(download.blocks()) == LARGE
        with client.open("large") as download:
            assert download.file.size == len(LARGE)
        client.copy("large", "twin/large", to=client)
        client.get_to_file("twin/large", tmp_path / "large")
        assert (tmp_path / "large").read_bytes() == LARGE
        client.delete("twin/a")
        with pytest.raises(errors.NotFound):
            client.get("twin/a")
        assert client.status()["webserver"]["workers"]
        pages = client.pages("twin/")
        next(pages)
        pages.close()
    with pytest.raises(RuntimeError):
        client.get("a")


async def test_a_download_that_nobody_reads_does_not_keep_a_client_open(server: Gateway) -> None:
    client = AsyncClient(server.url, timeout_s=0.2)
    async with client.open("large"):
        await asyncio.wait_for(client.close(), 30)


def test_nobody_waits_for_a_client_that_was_closed() -> None:
    with ThreadPoolExecutor(8) as threads, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        accepted = threads.submit(silent.accept)
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        asking = threads.submit(client.get, "a")
        accepted.result()[0].close()  # now it waits until it tries again
        for closing in [threads.submit(client.close) for _ in range(6)]:
            closing.result(30)
        with pytest.raises((RuntimeError, errors.Unreachable)):
            asking.result(30)
        with pytest.raises(RuntimeError, match="has been closed"):
            client.get("a")


def test_a_client_is_of_no_use_after_a_fork(server: Gateway) -> None:
    with Client(server.url) as client:
        assert client.exists("large")
        process_id = os.fork()
        if not process_id:
            signal.alarm(20)  # it would wait for ever
            try:
                client.get("large")
            except RuntimeError:
                client.close()
                os._exit(17)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]) == 17
        assert client.exists("large")


def test_what_the_twin_calls_cannot_ask_it(server: Gateway, tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from sfss.client import Client
with Client({server.url!r}) as client:
    client.put("called", b"x")
    try:
        target = Path({str(tmp_path / "called")!r})
        client.get_to_file("called", target, lambda _: client.exists("x"))
    except RuntimeError as error:
        print(error, flush=True)
    client.exists("called")
"""
    ended = run_python(program)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"cannot ask it" in ended.stdout


def run_python(program: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program, which is to end in time."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        timeout=DEADLINE_S,
        env={**os.environ, **PYTHON_ENVIRON},
    )


LEFT = """
listing = client.list()
next(listing)
opened = client.open("large")
blocks = opened.__enter__().blocks()
next(blocks)
"""
COLLECTED = """
import gc
listing = client.list()
next(listing)
listing = [listing]
listing.append(listing)
del listing
# As it is by itself, whenever something is made in the client's thread.
client._loop.call_soon_threadsafe(gc.collect)
client.stat("large")
"""


@pytest.mark.parametrize("program", [LEFT, COLLECTED])
def test_what_is_left_open_makes_nobody_wait_for_ever(server: Gateway, program: str) -> None:
    client = f"from sfss.client import Client\nclient = Client({server.url!r})"
    ended = run_python(f"{client}{program}print('the end', flush=True)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"the end\n", b"")


def test_the_twin_has_every_method() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


def test_the_environment_says_where_to_ask(
    server: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFSS_URL", server.url)
    with Client() as client:
        assert client.url == server.url
        assert client.exists("large")
    with pytest.raises(ValueError):
        Client("nonsense")


def test_a_token_that_is_none_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="without spaces") as raised:
        Client("http://127.0.0.1:1", "a secret")
    assert "secret" not in str(raised.value)
