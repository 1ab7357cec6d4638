"""``sfss status``: how a gateway and its stores are, as a table, once or again and again."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sfss.command_parsers import NewParser
from sfss.readable import readable_size
from sfss.remote_command import (
    add_json,
    add_server,
    opened,
    print_line,
    run_command,
    wrong,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_SHORTEST_WATCH_S: Final = 0.2


def add_status(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Show how the server and its stores are. Exit status: 0, 1 if the server cannot"
        " tell or a store does not answer, 2 a wrong option, 130 interrupted.",
    )
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="show it again and again, every 2 seconds unless told (Ctrl-C ends it)",
    )
    add_json(parser)
    add_server(parser)


def run_status(options: argparse.Namespace) -> int:
    """Show it, and return the exit status."""
    if options.watch is not None and not _SHORTEST_WATCH_S <= options.watch < 1e6:
        allowed = f"seconds from {_SHORTEST_WATCH_S:g} on are expected"
        raise wrong("--watch", f"is {options.watch:g}", allowed)
    return run_command(lambda: _status(options))


async def _status(options: argparse.Namespace) -> int:
    async with opened(options) as client:
        if options.watch is None or options.as_json:
            while True:
                found = await client.status()
                if options.as_json:
                    print_line(json.dumps(found))
                else:
                    print_line(as_text(client.url, found))
                if options.watch is None:
                    return int(any("error" in store for store in _stores(found).values()))
                await asyncio.sleep(options.watch)
        # Here, for it takes longer to import than to ask.
        from rich.live import Live

        with Live(shown(client.url, await client.status()), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(options.watch)
                live.update(shown(client.url, await client.status()), refresh=True)


def as_text(url: str, found: Mapping[str, Any]) -> str:
    """Return the tables as text, as wide as the terminal, or as they need to be."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=160, highlight=False)
    with console.capture() as capture:
        console.print(shown(url, found))
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def shown(url: str, found: Mapping[str, Any]) -> "Group":
    """Return what ``/status`` says as tables."""
    from rich.console import Group
    from rich.text import Text

    ours = found.get("webserver", {})
    rows = {name: _value(name, value) for name, value in ours.items() if value not in ({}, [])}
    line = "  ".join(f"{name} {value}" for name, value in rows.items())
    return Group(Text(f"{url}  {line}"), _stores_table(_stores(found)))


def _stores(found: Mapping[str, Any]) -> Mapping[str, Any]:
    stores = found.get("storages", {})
    return stores if isinstance(stores, dict) else {}


_COLUMNS: Final = {
    "curr_items": "files",
    "bytes": "bytes",
    "avail_space": "free",
    "total_space": "of",
    "version": "version",
}
"""What is shown of the STATS of each store, and under which name."""

_SIZES: Final = frozenset(
    {"bytes", "avail_space", "total_space", "memory_bytes", "received_bytes", "sent_bytes"}
)


def _stores_table(stores: Mapping[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("store", "state")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for address, stats in stores.items():
        figures = stats if isinstance(stats, dict) else {}
        is_well = "error" not in figures
        state = Text("ok" if is_well else str(figures["error"]), "green" if is_well else "bold red")
        cells = [Text(_value(name, figures.get(name, ""))) for name in _COLUMNS]
        table.add_row(Text(address), state, *cells)
    return table


def _value(name: str, value: object) -> str:
    text = str(value)
    if name in _SIZES and text.isdigit():
        return readable_size(int(text))
    if isinstance(value, dict):
        return " ".join(f"{key}:{each}" for key, each in value.items())
    return f"{int(text):,}" if name == "curr_items" and text.isdigit() else text
