"""Settings: declared once, here, each with its unit, its default, one line of help and a check.

A value is taken from, in rising order: the default, the TOML file, the environment
(``SFSS_SECTION_NAME``), the command line. The sample file (``conf/sfss.toml``), the table in the
docs and ``sfss config`` are made from these declarations. This module is pure: it is given texts
and mappings, and reads no file and no environment itself.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from math import inf
from typing import Any, Final, TypeAlias, cast

from sfss.errors import SettingError
from sfss.keys import KEY_LIMIT

MIB: Final = 1024 * 1024

Setting: TypeAlias = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """What a value must satisfy, and the words that say so."""

    allowed: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Check:
    """A number not below ``low``."""
    return Check(f"a number from {low:g}", lambda value: low <= value < inf)


def between(low: int, high: int) -> Check:
    """A number from ``low`` to ``high``, both included."""
    return Check(f"a number from {low} to {high}", lambda value: low <= value <= high)


def one_of(*words: str) -> Check:
    """One of a few words."""
    return Check("one of " + ", ".join(f'"{word}"' for word in words), lambda value: value in words)


_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65_536


_ADDRESSES: Final = Check(
    'a list of different "host:port"',
    lambda value: all(map(_is_address, value)) and len(set(value)) == len(value),
)
_BOOLEAN: Final = Check("true or false", lambda _: True)
_NOT_EMPTY: Final = Check("a text that is not empty", bool)


def setting(default: Setting, help: str, check: Check) -> Any:
    """Declare one setting: its default, one line of help (with the unit), and what is allowed."""
    return field(default=default, metadata={"help": help, "check": check})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The HTTP server."""

    host: str = setting("127.0.0.1", "address to listen on", _NOT_EMPTY)
    port: int = setting(8255, "port to listen on", between(1, 65_535))
    workers: int = setting(1, "worker processes; two a core are plenty", between(1, 128))
    keepalive_timeout_s: float = setting(
        75.0, "seconds an idle connection is kept open", at_least(1)
    )
    body_timeout_s: float = setting(
        30.0, "seconds without a byte of an announced body until 408", at_least(0.1)
    )
    graceful_timeout_s: float = setting(
        30.0, "seconds that requests in flight get to finish at a stop or reload", at_least(1)
    )
    access_log: bool = setting(
        False,
        "write an access log (combined format) to standard output",
        _BOOLEAN,
    )
    log_level: str = setting(
        "info", "least severe message that is logged", one_of("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What is stored, and on which kind of stores."""

    kind: str = setting(
        "embedded",
        "embedded: on this disk; nodes: each server of [memcached] holds its share;"
        " proxies: any server of [memcached] reaches all files",
        one_of("embedded", "nodes", "proxies"),
    )
    max_file_size: int = setting(2 * MIB, "bytes a file may have", between(1, 64 * MIB))


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """The embedded store; read when cluster.kind is "embedded"."""

    folder: str = setting(
        "var/store",
        "folder of the files, made if missing; relative to where sfss is started",
        _NOT_EMPTY,
    )
    timeout_s: float = setting(
        30.0, "seconds a write may wait for the disk and other processes until 504", at_least(0.1)
    )


@dataclass(frozen=True, slots=True)
class MemcachedSettings:
    """Servers that speak the memcached protocol; read when cluster.kind is "nodes" or "proxies"."""

    servers: tuple[str, ...] = setting((), 'addresses, each "host:port"', _ADDRESSES)
    timeout_s: float = setting(
        2.0,
        "seconds a server may take to answer; longer than a proxy's own time-out",
        at_least(0.01),
    )
    connections: int = setting(8, "connections to each server, for each worker", between(1, 1024))
    retry_after_s: float = setting(2.0, "seconds a proxy that failed is asked last", at_least(0))
    tries: int = setting(3, "proxies that are tried before a request fails", between(1, 100))
    item_limit: int = setting(
        0, "bytes an item may have on the servers; 0: each is asked for it", between(0, 1024 * MIB)
    )
    key_encoding: str = setting(
        "percent",
        "percent: readable keys; base64: the keys of the sfss of 2014",
        one_of("percent", "base64"),
    )
    key_limit: int = setting(
        KEY_LIMIT, "bytes a key may have; Beanseye reads at most 200", between(16, KEY_LIMIT)
    )
    raw: bool = setting(
        False,
        "store plain bodies, for other readers of the same servers; no digest is kept then",
        _BOOLEAN,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, a section each."""

    server: ServerSettings = field(default_factory=ServerSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    embedded: EmbeddedSettings = field(default_factory=EmbeddedSettings)
    memcached: MemcachedSettings = field(default_factory=MemcachedSettings)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One setting as declared: for the sample file, the docs and the command line."""

    section: str
    name: str
    type: type
    default: Setting
    help: str
    check: Check

    @property
    def key(self) -> str:
        """``section.name``, as errors and the command line call it."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"SFSS_{self.section}_{self.name}".upper()


def _declare(section: str, declared: Field[Any]) -> Declaration:
    assert declared.default is not MISSING
    help, check = declared.metadata["help"], declared.metadata["check"]
    return Declaration(
        section, declared.name, type(declared.default), declared.default, help, check
    )


_SECTIONS: Final = {entry.name: cast(type, entry.default_factory) for entry in fields(Settings)}
DECLARATIONS: Final = {
    declaration.key: declaration
    for section, settings in _SECTIONS.items()
    for declaration in (_declare(section, entry) for entry in fields(settings))
}
_BY_VARIABLE: Final = {declaration.variable: declaration for declaration in DECLARATIONS.values()}


def load(
    text: str = "",
    source: str = "settings",
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Setting] | None = None,
) -> Settings:
    """Return the settings in the TOML ``text``, overridden by ``environ`` and then by ``options``.

    ``source`` names the text in errors. ``options`` maps ``section.name`` to a value. Raises
    ``SettingError`` for what is unknown, of the wrong type or out of range.
    """
    values: dict[str, Setting] = {}
    for origin, key, value in (
        *_from_toml(text, source),
        *_from_environ(environ or {}),
        *(("command line", key, value) for key, value in (options or {}).items()),
    ):
        values[key] = _checked(origin, key, value)
    settings = _build(values)
    if settings.cluster.kind != "embedded" and not settings.memcached.servers:
        kind = settings.cluster.kind
        raise SettingError(
            source,
            "memcached.servers",
            "is empty",
            f'cluster.kind "{kind}" needs at least one "host:port"',
        )
    return settings


def _from_toml(text: str, source: str) -> Iterator[tuple[str, str, object]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(source, "syntax", str(error), "a TOML document is expected") from None
    for section, entries in document.items():
        if section not in _SECTIONS:
            raise SettingError(source, f"[{section}]", "unknown", _nearest(section, _SECTIONS))
        if not isinstance(entries, dict):
            raise SettingError(
                source, section, f"is {entries!r}", f"a section is expected: [{section}]"
            )
        for name, value in entries.items():
            yield source, f"{section}.{name}", value


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    # Other variables may share our prefix: SFSS_CONFIG, and what Kubernetes sets for a service of
    # our name (SFSS_PORT, SFSS_SERVICE_HOST).
    ours = tuple(f"SFSS_{section}_".upper() for section in _SECTIONS)
    for variable, text in environ.items():
        if variable.startswith(ours):
            declaration = _BY_VARIABLE.get(variable)
            if declaration is None:
                raise SettingError(
                    "environment", variable, "unknown", _nearest(variable, _BY_VARIABLE)
                )
            yield f"environment ({variable})", declaration.key, _parse(declaration, text)


def _parse(declaration: Declaration, text: str) -> object:
    """Return ``text`` as the type of the setting, or unchanged where it is not of that type."""
    if declaration.type is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if declaration.type is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if declaration.type in (int, float):
        try:
            return declaration.type(text)
        except ValueError:
            return text
    return text


def _checked(source: str, key: str, value: object) -> Setting:
    declaration = DECLARATIONS.get(key)
    if declaration is None:
        raise SettingError(source, key, "unknown", _nearest(key, DECLARATIONS))
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = tuple(value)
    if declaration.type is float and type(value) is int:
        value = float(value)
    if type(value) is not declaration.type or not declaration.check.holds(value):
        raise SettingError(source, key, f"is {value!r}", f"{declaration.check.allowed} is expected")
    return cast(Setting, value)


def _build(values: Mapping[str, Setting]) -> Settings:
    sections: dict[str, dict[str, Setting]] = {section: {} for section in _SECTIONS}
    for key, value in values.items():
        section, name = key.split(".")
        sections[section][name] = value
    built = {section: make(**sections[section]) for section, make in _SECTIONS.items()}
    return Settings(**built)


def _nearest(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {matches[0]}?" if matches else "known are " + ", ".join(known)


def as_toml(settings: Settings) -> str:
    """Return ``settings`` as a commented TOML document that ``load`` reads back to the same."""
    lines = [
        "# Settings of sfss. Each can also be set in the environment, as SFSS_SECTION_NAME:",
        "# SFSS_SERVER_PORT=80.",
    ]
    for section, kind in _SECTIONS.items():
        lines += ["", f"# {kind.__doc__}", f"[{section}]"]
        values = getattr(settings, section)
        for declaration in DECLARATIONS.values():
            if declaration.section == section:
                value = _toml_value(getattr(values, declaration.name))
                lines += [f"# {_sentence(declaration)}", f"{declaration.name} = {value}"]
    return "\n".join(lines) + "\n"


def _sentence(declaration: Declaration) -> str:
    allowed = "" if declaration.type is bool else f" ({declaration.check.allowed})"
    return f"{declaration.help}{allowed}"


def _toml_value(value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def as_table() -> str:
    """Return all settings as a reStructuredText list-table for the docs."""
    rows = ["   * - setting", "     - default", "     - what it is", "     - environment variable"]
    for declaration in DECLARATIONS.values():
        rows += [
            f"   * - ``{declaration.key}``",
            f"     - ``{_toml_value(declaration.default)}``",
            f"     - {_sentence(declaration)}",
            f"     - ``{declaration.variable}``",
        ]
    return "\n".join([".. list-table::", "   :header-rows: 1", "", *rows]) + "\n"
