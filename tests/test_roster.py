"""The roster: what a line says, every way in which a file changes, and what goes wrong with it."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss import roster
from sfss.roster import SIZE_LIMIT, Roster, is_listed, read_roster
from tests.servers import DEADLINE_S

BOTH = "10.0.0.1 one:7900\n10.0.0.2 two:7900\n"
ONE = "10.0.0.1 one:7900\n"

LINES = {
    "10.0.0.1 One": {"one"},
    "10.0.0.1 one:7900": {"one:7900"},
    "::1 one:7900": {"one:7900"},
    "one": {"one"},
    "ONE:7900": {"one:7900"},
    "one:07900": {"one:7900"},
    "127.0.0.1:7900": {"127.0.0.1:7900"},
    "10.0.0.1 10.0.0.2": {"10.0.0.2"},
    "[::1]:7900": {"[::1]:7900"},
    "[FE80::1]": {"[fe80::1]"},
    "": set(),
    "   # all are away": set(),
    "\t10.0.0.1\tone:1 # the old one\r": {"one:1"},
}
MISTAKES = [
    "one two",
    "10.0.0.1 one two",
    "one:",
    ":7900",
    "one:0",
    "one:65536",
    "one:7900:7901",
    "one:x",
    "::1",
    "[::1",
    "10.0.0.1 one:7900/tcp",
    "one:\N{ARABIC-INDIC DIGIT SEVEN}",
    "one\0two:x",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_says(line: str) -> None:
    assert read_roster(line) == LINES[line]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2 is .*is expected$"):
        read_roster(f"one:7900\n{line}\n")


def test_a_store_is_live_by_its_port_or_by_its_host() -> None:
    listed = read_roster("one:7900\ntwo\n[::1]\n")
    live = ["one:7900", "ONE:7900", "one:07900", "two:7900", "two:7901", "[::1]:7900"]
    dead = ["one:7901", "three:7900", "wo:7900", "two.example:7900", "[::2]:7900"]
    assert [address for address in live + dead if is_listed(listed, address)] == live


hosts = st.from_regex(r"[a-zA-Z0-9.-]{1,20}|\[[0-9a-fA-F:]{2,20}\]", fullmatch=True)
ports = st.integers(1, 65_535)
comments = st.sampled_from(["", "  ", "# one:1", " #"])


@given(st.lists(st.tuples(hosts, st.none() | ports, st.sampled_from(["", "10.0.0.1 "]), comments)))
def test_what_is_listed_is_live_and_nothing_else(
    entries: list[tuple[str, int | None, str, str]],
) -> None:
    lines = [
        f"{ip}{host}{'' if port is None else f':{port}'}{comment}"
        for host, port, ip, comment in entries
    ]
    listed = read_roster("\n".join(lines))
    for host, port, _, _ in entries:
        assert is_listed(listed, f"{host.swapcase()}:{port or 7900}")
        others = {(other.lower(), wanted) for other, wanted, _, _ in entries}
        is_known = (host.lower(), None) in others or (host.lower(), 65_535) in others
        assert is_listed(listed, f"{host}:65535") == is_known


@given(st.text())
def test_any_text_is_a_roster_or_a_mistake(text: str) -> None:
    try:
        listed = read_roster(text)
    except ValueError as error:
        assert str(error).startswith("line ")
        return
    for name in listed:
        assert read_roster(name) == {name}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A roster of two stores that has been as it is for a while."""
    found = tmp_path / "roster"
    found.write_text(BOTH)
    return found


@pytest.fixture
def watched(file: Path, monkeypatch: pytest.MonkeyPatch) -> Roster:
    """The roster of ``file``, loaded; its times count as exact, so that they alone must tell."""
    monkeypatch.setattr(roster, "_SETTLED_NS", 0)
    found = Roster(file, check_s=0.001)
    found.load()
    return found


def live(watched: Roster) -> list[str]:
    """Return which of the two stores are live."""
    return [name for name in ("one", "two") if watched.is_live(f"{name}:7900")]


def after_a_tick(file: Path, change: Callable[[], object]) -> None:
    """Do ``change`` until the times of ``file`` differ: their clock goes in steps."""
    before = file.stat().st_ctime_ns
    end = time.monotonic() + DEADLINE_S
    change()
    while file.stat().st_ctime_ns == before:
        assert time.monotonic() < end
        change()


def in_place(file: Path) -> None:
    """Write over the file."""
    after_a_tick(file, lambda: file.write_text(ONE))


def renamed(file: Path) -> None:
    """Put another file in its place."""
    other = file.with_name("other")
    other.write_text(ONE)
    other.rename(file)


def same_size(file: Path) -> None:
    """Write over the file as many bytes, and claim that it was not modified."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns

    def change() -> None:
        file.write_text(BOTH.replace("two", "owt"))
        os.utime(file, ns=times)

    after_a_tick(file, change)


@pytest.mark.parametrize("change", [in_place, renamed, same_size])
def test_any_change_counts(
    file: Path, watched: Roster, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert live(watched) == ["one", "two"]
    change(file)
    watched.look()
    assert live(watched) == ["one"]
    assert "left two:7900" in caplog.text
    after_a_tick(file, lambda: file.write_text(BOTH))
    watched.look()
    assert live(watched) == ["one", "two"]
    assert "joined two:7900" in caplog.text


def test_a_link_that_points_elsewhere_counts(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "_SETTLED_NS", 0)
    (tmp_path / "second").write_text(ONE)
    link = tmp_path / "current"
    link.symlink_to("roster")
    watched = Roster(link, check_s=1)
    watched.load()
    assert live(watched) == ["one", "two"]
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(link)
    watched.look()
    assert live(watched) == ["one"]


def test_two_changes_at_one_time_of_the_file_system_count(file: Path) -> None:
    watched = Roster(file, check_s=1)
    watched.load()
    before = file.stat()
    file.write_text(BOTH.replace("two", "owt"))

    class Frozen(type(file)):  # type: ignore[misc]
        """The file, with the times that it had."""

        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            return before

    watched._file = Frozen(file)
    watched.look()
    assert live(watched) == ["one"]


def test_an_old_file_is_not_read_again(
    file: Path, watched: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "_text", lambda _: pytest.fail("it was read"))
    watched.look()
    with pytest.raises(pytest.fail.Exception):
        watched.load()


def deny(file: Path) -> None:
    """Put what nobody can open in its place; permissions do not stop root."""
    file.unlink()
    file.symlink_to(file.name)


def pipe(file: Path) -> None:
    """Put a pipe in its place."""
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()


TROUBLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "emptied": (lambda file: file.write_bytes(b""), "it lists no host"),
    "only comments": (lambda file: file.write_bytes(b"# later\n"), "it lists no host"),
    "deleted": (lambda file: file.unlink(), "it is missing"),
    "denied": (deny, "it cannot be read"),
    "a pipe": (pipe, "it is not a file"),
    "a folder": (folder, "it is not a file"),
    "not UTF-8": (lambda file: file.write_bytes(b"one\xff:7900\n"), "it is not UTF-8"),
    "a mistake": (lambda file: file.write_bytes(b"one:7900\none:x\n"), "line 2 is 'one:x'"),
    "too large": (lambda file: file.write_bytes(b"\n" * SIZE_LIMIT + b"x"), "more than 1048576"),
    "enormous": (lambda file: os.truncate(file, 1 << 40), "more than 1048576"),
}


@pytest.mark.parametrize("what", TROUBLES)
def test_trouble_leaves_the_last_good_one_in_force_and_is_said_once(
    file: Path, watched: Roster, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    after_a_tick(file, lambda: file.write_text(ONE))
    watched.look()
    make, sentence = TROUBLES[what]
    make(file)
    for _ in range(3):
        watched.look()
        assert live(watched) == ["one"]
    assert caplog.text.count("ERROR") == 1
    assert sentence in caplog.text
    assert "the last good one stays in force" in caplog.text
    file.with_name("good").write_text(ONE)
    remove(file)
    file.with_name("good").rename(file)
    watched.look()
    assert live(watched) == ["one"]
    assert "it is good again" in caplog.text


def remove(file: Path) -> None:
    """Make room for a file, whatever is there."""
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("what", TROUBLES)
def test_without_a_good_one_from_the_start_all_stores_are_live(
    file: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, sentence = TROUBLES[what]
    make(file)
    watched = Roster(file, check_s=1)
    assert watched.is_live("any:1")
    watched.load()
    assert live(watched) == ["one", "two"]
    assert f"{sentence}" in caplog.text
    assert "all stores count as live" in caplog.text
    remove(file)
    file.write_text(ONE)
    watched.look()
    assert live(watched) == ["one"]


def test_another_trouble_is_said_too(
    file: Path, watched: Roster, caplog: pytest.LogCaptureFixture
) -> None:
    file.unlink()
    watched.look()
    file.write_bytes(b"")
    watched.look()
    file.unlink()
    watched.look()
    said = [record.getMessage() for record in caplog.records]
    assert ["missing" in line for line in said] == [True, False, True]


async def until(holds: Callable[[], bool], what: str) -> None:
    """Let others run until ``holds()``."""
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.001)


async def test_it_is_watched_for_ever_whatever_happens(
    file: Path,
    watched: Roster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watching = asyncio.create_task(watched.run())
    renamed(file)
    await until(lambda: live(watched) == ["one"], "the change counts")
    with monkeypatch.context() as broken:
        broken.setattr(roster, "read_roster", lambda _: 1 / 0)
        after_a_tick(file, lambda: file.write_text(BOTH))
        await until(lambda: "ZeroDivisionError" in caplog.text, "it is logged")
    await until(lambda: live(watched) == ["one", "two"], "the next change counts")
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_file_server_that_hangs_holds_nobody_up(
    watched: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(file: Path) -> roster._State:
        asked.set()
        answer.wait(DEADLINE_S)
        raise OSError("stale file handle")

    monkeypatch.setattr(roster, "_state", hang)
    watching = asyncio.create_task(watched.run())
    await until(asked.is_set, "the file is looked at")
    assert live(watched) == ["one", "two"]
    assert not watched._trouble, "others had to wait"
    answer.set()
    await until(lambda: bool(watched._trouble), "the trouble is noticed")
    watching.cancel()


def test_many_names_are_not_all_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file.write_text("".join(f"store{number}\n" for number in range(1000)))
    Roster(file, check_s=1).load()
    assert "store0" in caplog.text
    assert len(caplog.text) < 1000
