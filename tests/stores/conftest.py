"""Event loops: asyncio's for every test, uvloop too where ``loop_factories`` names it."""

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import pytest
import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    marks = item.iter_markers("asyncio")
    named = {name for mark in marks for name in mark.kwargs.get("loop_factories", ())}
    return {name: make for name, make in LOOPS.items() if name in (named or {"asyncio"})}
