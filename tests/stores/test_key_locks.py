"""Locks of keys: in turns in one process, one at a time among all that have the file open."""

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfss.stores.key_locks import KeyLocks
from tests.servers import DEADLINE_S, PYTHON_ENVIRON


@pytest.fixture(name="files")
def lock_files(tmp_path: Path) -> Iterator[list[int]]:
    """The file of locks as two processes have it open: locks are of the open file."""
    opened = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


async def test_another_process_waits(files: list[int]) -> None:
    here, there = KeyLocks(files[0]), KeyLocks(files[1])
    order: list[str] = []

    async def take() -> None:
        async with there.of(b"key"):
            order.append("there")

    async with here.of(b"key"):
        waiting = asyncio.ensure_future(take())
        async with there.of(b"another key"):
            pass
        given_up = asyncio.ensure_future(take())
        await asyncio.sleep(0.01)  # more than one try of the other
        given_up.cancel()
        order.append("here")
    await waiting
    assert order == ["here", "there"]
    assert not here._turns._locks
    assert not there._turns._locks


async def test_turns_in_one_process(files: list[int]) -> None:
    locks, order = KeyLocks(files[0]), []

    async def take(number: int) -> None:
        async with locks.of(b"key"):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*map(take, range(5)))
    assert order == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_whoever_dies_lets_go(files: list[int], tmp_path: Path) -> None:
    code = """
import asyncio, os, sys
from sfss.stores.key_locks import KeyLocks
async def hold():
    async with KeyLocks(os.open(sys.argv[1], os.O_RDWR)).of(b"key"):
        print("taken", flush=True)
        await asyncio.sleep(1000)
asyncio.run(hold())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    environ = {**os.environ, **PYTHON_ENVIRON}
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    locks = KeyLocks(files[0])

    async def take() -> None:
        async with locks.of(b"key"):
            pass

    try:
        assert await process.stdout.readline() == b"taken\n"
        waiting = asyncio.ensure_future(take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
    finally:
        process.kill()
        await process.wait()
    await asyncio.wait_for(waiting, DEADLINE_S)


async def test_a_file_system_without_locks(
    files: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    locks = KeyLocks(files[0])
    for _ in range(2):
        async with locks.of(b"key"):
            pass
    assert caplog.text.count("no locks between processes") == 1


async def test_whether_a_lock_is_held_is_seen_without_taking_it(tmp_path: Path) -> None:
    here, there = KeyLocks.on(tmp_path / "lock"), KeyLocks.on(tmp_path / "lock")
    async with here.of(b"key"):
        assert (here.is_held(b"key"), there.is_held(b"key")) == (True, True)
        assert not there.is_held(b"another key")
    assert (here.is_held(b"key"), there.is_held(b"key")) == (False, False)
    here.close()
    there.close()
    assert not here.is_held(b"key")
