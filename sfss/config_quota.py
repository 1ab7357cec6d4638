"""Settings of how much may be kept below a prefix. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sfss.checks import NOT_EMPTY, Check, at_least
from sfss.declaring import setting
from sfss.keys import KEY_LIMIT
from sfss.prefixes import ESCAPES, read_prefix

_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_LINE: Final = re.compile(
    r"(?P<prefix>\S(?:.*\S)?)\s+(?P<bytes>-|\d{1,18})(?P<unit>[KMGT]iB)?\s+(?P<files>-|\d{1,18})"
)


class Quota(NamedTuple):
    """What may lie below a ``prefix`` of paths ("" is that of all); None: any number."""

    prefix: str
    bytes: int | None
    files: int | None


class Used(NamedTuple):
    """What is below a prefix; ``is_counted``: that is known."""

    bytes: int
    files: int
    is_counted: bool


def read_quota(text: str) -> Quota | None:
    """Return what "PREFIX BYTES FILES" says, None where it is something else."""
    found = _LINE.fullmatch(text)
    if found is None or (found["bytes"] == "-" and found["unit"]):
        return None
    try:
        prefix = read_prefix(found["prefix"])
    except ValueError:
        return None
    if len(prefix.encode()) > KEY_LIMIT:
        return None
    size = None if found["bytes"] == "-" else int(found["bytes"]) * _UNITS[found["unit"] or ""]
    files = None if found["files"] == "-" else int(found["files"])
    return Quota(prefix, size, files)


def _are_quotas(values: Sequence[str]) -> bool:
    found = [read_quota(value) for value in values]
    return all(found) and len({each.prefix for each in found if each}) == len(found)


QUOTAS: Final = Check(
    f'a list of "PREFIX BYTES FILES", all prefixes different, {ESCAPES}', _are_quotas
)


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """How much may be kept below prefixes of paths; objects and other gateways do not count."""

    prefixes: tuple[str, ...] = setting(
        (),
        'for each "PREFIX BYTES FILES": files whose paths begin with PREFIX ("/" is all) may have'
        ' BYTES together (as 10GiB, too), and be FILES in number; "-" is any; 507 beyond it',
        QUOTAS,
    )
    folder: str = setting(
        "var/quota", "folder in which it is noted what counts, made if missing", NOT_EMPTY
    )
    recount_hours: float = setting(
        24.0,
        "hours between two counts of what is there, besides that at the start; 0: only then",
        at_least(0),
    )

    def quotas(self) -> list[Quota]:
        """Return what ``prefixes`` say."""
        return [quota for text in self.prefixes if (quota := read_quota(text))]
