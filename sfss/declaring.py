"""How one setting is declared. Pure."""

from dataclasses import field
from typing import Any, Final, TypeAlias

from sfss.checks import Check, Hidden

MIB: Final = 1024 * 1024

Setting: TypeAlias = str | int | float | bool | tuple[str, ...]


def setting(default: Setting, help: str, check: Check) -> Any:
    """Declare one setting: its default, one line of help (with the unit), and what is allowed."""
    shown = not isinstance(check, Hidden)
    return field(default=default, repr=shown, metadata={"help": help, "check": check})
