"""How far a command is, on standard error: a bar on a terminal, elsewhere now and then a line."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from sfss.upload_plan import Tally, printable

if TYPE_CHECKING:
    from rich.progress import Progress

_REDRAW_S: Final = 0.2
_LINE_S: Final = 10.0
_WIDE: Final = 110
"""Columns from which on there is room for a bar beside the figures."""

_Found = TypeVar("_Found")


class Screen:
    """What the user is told besides the results. ``is_quiet``: only what went wrong, no figures."""

    def __init__(self, tally: Tally, is_quiet: bool = False) -> None:
        self.tally = tally
        self._is_quiet = is_quiet
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._is_drawn = False

    async def during(
        self, work: Awaitable[_Found], look: Callable[[], None] = lambda: None
    ) -> _Found:
        """Return what ``work`` returns; meanwhile say how far it is. ``look`` is called before."""
        drawing = asyncio.create_task(self._draw_on(look))
        try:
            return await work
        finally:
            drawing.cancel()
            self.clear()

    async def _draw_on(self, look: Callable[[], None]) -> None:
        pause_s = _REDRAW_S if self.is_terminal else _LINE_S
        while True:
            await asyncio.sleep(pause_s)
            look()
            self.draw()

    def draw(self) -> None:
        """Say how far it is."""
        if self._is_quiet:
            return
        line = self.tally.line(time.monotonic())
        if not self.is_terminal:
            self.say(line)
            return
        if self._progress is None:
            self._progress = _new_progress()
            self._progress.add_task("")
        if not self._is_drawn:
            self._is_drawn = True
            self._progress.start()
        total = self.tally.total
        (task,) = self._progress.task_ids
        self._progress.update(
            task, description=line, completed=self.tally.seen, total=total, refresh=True
        )

    def end(self) -> None:
        """Say how it went."""
        self.tally.total = None
        self.clear()
        if not self._is_quiet:
            self.say(self.tally.line(time.monotonic()))

    def say(self, sentence: str) -> None:
        """Say ``sentence`` on a line of its own."""
        self.clear()
        if sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(f"sfss: {printable(sentence)}\n")
                sys.stderr.flush()

    def clear(self) -> None:
        """Remove what is drawn, so that other text may follow; it comes back."""
        if self._is_drawn and self._progress is not None:
            self._is_drawn = False
            with suppress(OSError):
                self._progress.stop()


def _new_progress() -> "Progress":
    # Here, for it takes longer to import than most commands to run.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column

    columns: list[ProgressColumn] = []
    if os.get_terminal_size(sys.stderr.fileno()).columns >= _WIDE:
        columns.append(BarColumn(bar_width=20))
    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    console = Console(stderr=True, highlight=False)
    return Progress(
        *columns,
        text,
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
