"""``sfss export`` and ``import`` against real gateways: what tar makes of it, what is hostile, what
is interrupted.
"""

import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from sfss.client import AsyncClient, File
from sfss.client_errors import TooLarge, Unreachable
from sfss.tar_export import END
from tests.lab.disks import small_disk
from tests.servers import SFSS, Gateway, gateway, running, wait_until
from tests.test_client_commands import Shell
from tests.test_tar_reading import entry, extended, field, other

LIMIT = 4 * 1024 * 1024


@pytest.fixture(name="server", scope="module")
def gateway_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = f"[cluster]\nmax_file_size = {LIMIT}\n"
    folder = tmp_path_factory.mktemp("archives")
    with running(gateway(folder, "--store", "store", settings=settings)) as server:
        yield server


@pytest.fixture
def shell(server: Gateway, tmp_path: Path) -> Shell:
    return Shell(server.url, tmp_path)


def started(shell: Shell, *arguments: str) -> subprocess.Popen[bytes]:
    """Return a command that is running, with pipes."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*SFSS, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env=shell.environ()
    )


def ended(process: subprocess.Popen[bytes]) -> str:
    """Return what a command has told when it has ended."""
    _, told = process.communicate(timeout=60)
    assert b"Traceback" not in told, told
    return told.decode()


# --- What tar makes of it -------------------------------------------------------------------------


def test_tar_unpacks_an_export_and_says_nothing(shell: Shell, server: Gateway) -> None:
    names = ["unpacked/ü.html", f"unpacked/{'long/' * 30}a", "unpacked/plain", "unpacked/a b=c\tö"]
    names = [name for name in names if server.put(name, name.encode()).status == 200]
    expiring = {"Content-Type": "text/x-t; charset=utf-8"}
    server.request("PUT", "/file?path=unpacked/typed&ttl=5000", b"typed", expiring)
    (shell.folder / "archive.tar").write_bytes(shell.run("export", "unpacked").output)
    for options in (["tv"], ["x"], ["x", "--xattrs"]):
        command = ["tar", *options, "-f", "archive.tar"]
        done = subprocess.run(command, cwd=shell.folder, capture_output=True, check=True)
        assert done.stderr == b"", options
    found = {f"unpacked/{name}": body for name, body in shell.read("unpacked").items()}
    assert found == {**{name: name.encode() for name in names}, "unpacked/typed": b"typed"}
    attributes = attributes_of(shell.folder / "unpacked/typed")
    assert attributes.pop("user.mime_type") == b"text/x-t; charset=utf-8"
    assert int(attributes.pop("user.sfss.expires")) > 1_700_000_000 and not attributes

    # Unpacked, changed, and packed again: it still has its type, and is not taken for damaged.
    (shell.folder / "unpacked/typed").write_bytes(b"changed")
    command = ["tar", "c", "--xattrs", "unpacked"]
    packed = subprocess.run(command, cwd=shell.folder, stdout=subprocess.PIPE, check=True)
    shell.run("import", "--path", "again", stdin=packed.stdout)
    typed = server.get("again/unpacked/typed")
    assert typed.body == b"changed" and "expires" in typed.headers
    assert typed.headers["content-type"] == "text/x-t; charset=utf-8"


def attributes_of(file: Path) -> dict[str, bytes]:
    try:
        os.setxattr(file, "user.mime_type", os.getxattr(file, "user.mime_type"))
    except OSError as error:
        pytest.skip(f"no extended attributes on this file system: {error}")
    return {name: os.getxattr(file, name) for name in os.listxattr(file)}


async def test_all_of_it_comes_back(tmp_path: Path) -> None:
    large = os.urandom(2_500_000)
    files = {
        "a b+c%20d&e=f?g#h": b"signs",
        "ünï/日本/🎈": b"letters",
        "quo'te\"s/$HOME/*.[x]/{a,b}": b"patterns",
        "x/": b"a slash at its end",
        "./x": b"a point",
        "../x": b"above",
        "z" * 250: b"long",
        "-rf": b"dash",
        "empty": b"",
        "large": large,
        "large2": large[::-1],
        **{f"many/{n:04}": b"%d" % n * n for n in range(200)},
    }
    settings = f"[cluster]\nmax_file_size = {LIMIT}\n"
    first, second = (
        gateway(tmp_path, "--store", name, settings=settings) for name in ("first", "second")
    )
    with running(first), running(second):
        for name, body in files.items():
            assert first.put(name, body).status == 200, name
        typed = {"Content-Type": 'text/x-t; title="a b"'}
        first.request("PUT", "/file?path=t/typed&ttl=5000", b"typed", typed)
        first.request("PUT", "/file?path=t/named.jpg", b"typed", {"Content-Type": "image/jpeg"})
        archive = Shell(first.url, tmp_path).run("export").output
        back = Shell(second.url, tmp_path)
        back.run("import", "--concurrency", "64", stdin=archive)
        for name, body in files.items():
            assert second.get(name).body == body
        async with AsyncClient(first.url) as one, AsyncClient(second.url) as other_one:
            there = [described(file) async for file in one.list()]
            assert there == [described(file) async for file in other_one.list()]
            assert len(there) == len(files) + 2
            kept, found = await one.stat("t/typed"), await other_one.stat("t/typed")
        assert found.media_type == 'text/x-t; title="a b"'
        assert kept.expires is not None and found.expires is not None
        assert abs((kept.expires - found.expires).total_seconds()) <= 1
        again = back.run("import", "--check", "--json", stdin=archive)
        assert {each["result"] for each in again.objects} == {"there"}


def described(file: File) -> tuple[str, int, str, str]:
    return file.path, file.size, file.etag, file.media_type


# --- What is hostile, or damaged ------------------------------------------------------------------

SURROGATE = b"not-\xff-utf-8".decode("utf-8", "surrogateescape")
SPARSE = field(b"GNU.sparse.map", b"0,1") + field(b"GNU.sparse.size", b"9" * 15)
TYPE, EXPIRES = (b"SCHILY.xattr.user." + name for name in (b"mime_type", b"sfss.expires"))

REFUSED = {
    "above": (entry("../../up", b"x"), '../../up: bad path: it contains ".."'),
    "no name": (entry("./", b"x"), "./: bad path: it names no file"),
    "not UTF-8": (entry(SURROGATE, b"x"), "not-\\udcff-utf-8: bad path: it is not UTF-8"),
    "NUL": (extended("nul", field(b"path", b"a\0b")), "a\\x00b: there is a NUL in its name"),
    "control": (entry("bell-\a", b"x"), "control character"),
    "hard link": (other("linked", tarfile.LNKTYPE), "linked: another name of a file"),
    "unknown": (other("odd", b"Q", 600, bytes(1024)), "odd: of a kind that is not known, 'Q'"),
    "volume": (other("rest", b"M", 600, bytes(1024)), "rest: of a kind that is not known, 'M'"),
    "sparse": (extended("holes", SPARSE), "holes: 413"),
    "too large": (entry("too-large", bytes(LIMIT + 1)), "too-large: 413"),
    "type": (extended("typed", field(TYPE, b"text/pl\nain")), "Content-Type cannot be"),
    "for ever": (extended("late", field(EXPIRES, b"9" * 12)), "late: 400"),
}
"""One entry each, and what is said of it."""

IGNORED = {
    "symbolic link": (other("soft", tarfile.SYMTYPE), "soft: a symbolic link; left out"),
    "device": (other("null", tarfile.CHRTYPE), "null: a device; left out"),
    "pipe": (other("pipe", tarfile.FIFOTYPE), "pipe: a named pipe; left out"),
    "folder": (other("folder/", tarfile.DIRTYPE), ""),
    "label": (other("volume", b"V"), ""),
    "comment for all": (other("g", b"g", 14) + b"14 comment=ab\n" + bytes(498), ""),
}


def test_each_entry_is_judged_by_itself(shell: Shell, server: Gateway) -> None:
    middle = {**REFUSED, **IGNORED}
    text = b"".join(
        entry(f"before/{what}", b"x") + each for what, (each, _) in middle.items()
    ) + entry("behind", b"x")
    ended = shell.run("import", "--path", "judged", "--json", status=1, stdin=text + END)
    told = ended.told.splitlines()
    for what, (_, said) in middle.items():
        assert any(said in line for line in told), (what, told)
    assert f", {len(REFUSED)} failed" in told[-1]
    assert [each["result"] for each in ended.objects].count("ignored") == 3
    there = {f"judged/before/{what}" for what in middle} | {"judged/behind"}
    assert set(shell.run("ls", "-r", "-1", "judged").lines) == there


def test_names_are_made_relative_as_tar_does(shell: Shell, server: Gateway) -> None:
    shell.run("import", stdin=entry("/./absolute//name", b"x") + END)
    assert server.get("absolute/name").body == b"x"


def test_of_two_with_one_name_the_last_one_counts(shell: Shell, server: Gateway) -> None:
    long = [bytes([n]) * 300_000 for n in range(3)]
    text = b"".join(
        entry("twice/long", long[n % 3]) + entry("twice/short", b"%d" % n) for n in range(100)
    )
    text += entry("twice/long", b"last") + END
    shell.run("import", "--concurrency", "64", stdin=text)
    assert server.get("twice/short").body == b"99" and server.get("twice/long").body == b"last"
    shell.run("import", "--path", "1", "--skip-existing", "--concurrency", "64", stdin=text)
    assert server.get("1/twice/short").body == b"0" and server.get("1/twice/long").body == long[0]


def test_what_the_gateway_refuses_is_not_spooled(shell: Shell, server: Gateway) -> None:
    # Not one byte may be written to a file here.
    command = ["sh", "-c", 'ulimit -f 0; exec "$0" "$@"', *SFSS, "import", "--quiet"]
    text = entry("refused", bytes(LIMIT + 1)) + entry("absurd", size=1 << 40)
    done = subprocess.run(command, input=text, capture_output=True, env=shell.environ())
    assert done.returncode == 1
    first, second, third = done.stderr.decode().splitlines()
    assert first.startswith("sfss: refused: 413") and second.startswith("sfss: absurd: 413")
    assert "on behind absurd: it was cut off; 0 files" in third


def test_no_room_for_what_is_long(shell: Shell, server: Gateway, tmp_path: Path) -> None:
    long = os.urandom(LIMIT)
    text = entry("long-1", long) + entry("room/short", b"short") + entry("long-2", long) + END
    command = ["sh", "-c", 'ulimit -f 4; exec "$0" "$@"', *SFSS, "import", "--quiet"]
    done = subprocess.run(command, input=text, capture_output=True, env=shell.environ())
    told = done.stderr.decode().splitlines()
    assert done.returncode == 1 and len(told) == 2
    assert told[0] == "sfss: long-1: cannot be kept here meanwhile: File too large"
    assert server.get("room/short").body == b"short" and server.get("long-1").status == 404

    half = [os.urandom(1_500_000) for _ in range(6)]
    text = entry("room/over", long) + b"".join(
        entry(f"room/{n}", body) for n, body in enumerate(half)
    )
    # What is too large for it is seen before a byte is written.
    with small_disk(tmp_path / "disk", 2) as disk:
        environ = {"TMPDIR": str(disk.path)}
        ended = shell.run("import", "--json", status=1, stdin=text + END, environ=environ)
        assert not any(disk.path.iterdir())
    assert f"room/over: cannot be kept here meanwhile: it has {LIMIT:,} bytes" in ended.told
    # One waits until the others have made room.
    assert [each["result"] for each in ended.objects].count("done") == 6
    assert all(server.get(f"room/{n}").body == body for n, body in enumerate(half))


def test_a_rehearsal_stores_nothing(shell: Shell, server: Gateway) -> None:
    server.put("dry/there", b"there")
    archive = shell.run("export", "dry").output
    at = archive.rindex(b"there")  # the body
    damaged = archive[:at] + b"THERE" + archive[at + 5 : -len(END)]
    text = archive[: -len(END)] + entry("dry/new", b"new") + damaged
    text += extended("dry/holes", SPARSE)  # as many zeros as no disk has
    found = shell.run("import", "--dry-run", "--check", "--json", status=1, stdin=text + END)
    assert [each["result"] for each in found.objects] == ["there", "planned", "failed", "failed"]
    assert "dry/holes: 413" in found.told
    assert shell.run("ls", "-r", "-1", "dry").lines == ["dry/there"]


@pytest.mark.parametrize("closed", ["export >&-", "import <&-"])
def test_pipes_that_are_closed_from_the_beginning(shell: Shell, closed: str) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *SFSS]
    done = subprocess.run(command, capture_output=True, env=shell.environ())
    assert done.returncode == 2 and b"is closed" in done.stderr


# --- Interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import(shell: Shell, server: Gateway, number: signal.Signals) -> None:
    process = started(shell, "import", "--quiet")
    assert process.stdin is not None
    # So many come at once; then it waits, and nobody writes.
    process.stdin.write(b"".join(entry(f"waits-{number}/{n}", b"x") for n in range(33)))
    process.stdin.flush()
    wait_until(lambda: server.get(f"waits-{number}/31").status == 200, "some were imported")
    process.send_signal(number)
    assert process.wait(30) == 130
    assert ended(process) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export(shell: Shell, server: Gateway, number: signal.Signals) -> None:
    server.put("interrupted/a", os.urandom(1_000_000))
    process = started(shell, "export", "--quiet", "interrupted")
    assert process.stdout is not None and process.stdout.read(1)
    process.send_signal(number)  # while nobody reads on
    assert process.wait(30) == 130
    assert ended(process) == ""


def test_an_export_that_nobody_reads_on(shell: Shell, server: Gateway) -> None:
    server.put("interrupted/a", os.urandom(1_000_000))
    process = started(shell, "export", "interrupted")
    assert process.stdout is not None and process.stdout.read(1)
    process.stdout.close()
    assert process.wait(30) == 1
    process.stdout = None
    assert ended(process) == ""


def test_a_file_that_is_removed_meanwhile(shell: Shell, server: Gateway) -> None:
    server.put("meanwhile/a", os.urandom(1_000_000))
    server.put("meanwhile/b", b"b")
    server.put("meanwhile/c", b"c")
    process = started(shell, "export", "--concurrency", "1", "meanwhile")
    assert process.stdout is not None and process.stdout.read(1)
    assert server.request("DELETE", "/file?path=meanwhile/b").status == 204
    told = ended(process)
    assert process.returncode == 0 and "meanwhile/b: it was removed since" in told


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    server = gateway(tmp_path, "--store", "store")
    with running(server):
        for name in "abc":
            server.put(name, name.encode())
        server.kill()
        with lmdb.open(str(tmp_path / "store"), max_dbs=2) as store, store.begin(write=True) as do:
            do.put(b"b", do.get(b"b")[:-1] + b"x")
        server.start()
        shell = Shell(server.url, tmp_path)
        ended = shell.run("export", status=1)
        assert "b: 500" in ended.told and "the archive has no end" in ended.told
        with tarfile.open(fileobj=io.BytesIO(ended.output)) as archive:
            assert archive.getnames() == ["a", "c"]
        told = shell.run("import", "--path", "back", status=1, stdin=ended.output).told
        assert "it has no end: it was cut off, or its export has failed; 2 files" in told


def test_a_gateway_that_stops(tmp_path: Path) -> None:
    settings = f"[cluster]\nmax_file_size = {LIMIT}\n"
    server = gateway(tmp_path, "--store", "store", settings=settings)
    with running(server):
        shell = Shell(server.url, tmp_path)
        for n in range(3):
            server.put(f"stops/{n}", os.urandom(LIMIT))
        process = started(shell, "export", "--tries", "1")
        assert process.stdout is not None and process.stdout.read(1)
        server.kill()
        told = ended(process)
        assert process.returncode == 1 and "the archive has no end" in told
        assert "stops/0: " in told or "stops/1: " in told
        server.start()
        process = started(shell, "import", "--tries", "1")
        assert process.stdin is not None
        process.stdin.write(b"".join(entry(f"in/{n}", b"x") for n in range(33)))
        process.stdin.flush()
        wait_until(lambda: server.get("in/31").status == 200, "some were imported")
        server.kill()
        process.stdin.write(entry("in/last", bytes(1_000_000)) + END)
        told = ended(process)
        assert process.returncode == 1 and "in/last: " in told and "in/32: " in told
        assert "34 files, 0 skipped, " in told and ", 0 failed" not in told


# --- What is asked first --------------------------------------------------------------------------


async def test_a_gateway_is_asked_what_it_would_take(server: Gateway) -> None:
    async with AsyncClient(server.url, tries=1) as client:
        await client.check_put("asked", LIMIT)
        with pytest.raises(TooLarge, match="asked: 413"):
            await client.check_put("asked", LIMIT + 1)
        assert not await client.exists("asked")
    nobody = AsyncClient("http://127.0.0.1:1", tries=1)
    with pytest.raises(Unreachable, match="asked"):
        await nobody.check_put("asked", 1)
    await nobody.close()
