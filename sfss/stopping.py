"""How a signal stops a command that puts its work in order first."""

import asyncio
import signal


def listen_for_signals(stopping: asyncio.Event) -> None:
    """Have SIGINT and SIGTERM set ``stopping``; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        stopping.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
