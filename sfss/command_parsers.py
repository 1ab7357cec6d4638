"""What the parsers of commands have in common."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

NewParser: TypeAlias = Callable[..., argparse.ArgumentParser]
"""Makes the parser of a command, with what else ``argparse.ArgumentParser`` is to be told."""


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options that name settings, and a cluster among them."""
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML); conf/ has examples")
    parser.add_argument(
        "--cluster", metavar="NAME", help="which of the clusters that the file has by name"
    )


def flag(name: str) -> str:
    """Return the option for a setting."""
    return f"--{name.replace('_', '-')}"
