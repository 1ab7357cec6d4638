"""Settings out of texts and mappings: no file and no environment is read here. Pure."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from sfss.checks import in_toml
from sfss.config import DECLARATIONS, SECTIONS, Declaration, Setting, Settings
from sfss.config_checks import check_together
from sfss.errors import SettingError
from sfss.listening import Listen, nearest, read_listen

_BY_VARIABLE: Final = {declaration.variable: declaration for declaration in DECLARATIONS.values()}


def load(
    text: str = "",
    source: str = "settings",
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Setting] | None = None,
    cluster: str = "",
) -> Settings:
    """Return the settings in the TOML ``text``, overridden by ``environ`` and then by ``options``.

    ``source`` names the text in errors. ``options`` maps ``section.name`` to a value. ``cluster``
    is the one that is served of those that the text has by name: ``[clusters.NAME.SECTION]`` goes
    over ``[SECTION]``. Raises ``SettingError`` for what is unknown, of the wrong type or out of
    range, and where settings do not go together.
    """
    values: dict[str, Setting | tuple[Listen, ...]] = {}
    document = _parsed(text, source)
    for origin, key, value in (
        *_from_toml(document, source, cluster),
        *_from_environ(environ or {}),
        *(("command line", key, value) for key, value in (options or {}).items()),
    ):
        values[key] = _checked(origin, key, value)
    settings = _build(values)
    check_together(settings, source)
    return settings


def _parsed(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number, or a nesting, that it cannot read
        raise SettingError(source, "syntax", str(error), "a TOML document is expected") from None


def _from_toml(
    document: Mapping[str, object], source: str, cluster: str
) -> Iterator[tuple[str, str, object]]:
    """Yield what the document says of the cluster, those entries last that count more."""
    plain = {section: entries for section, entries in document.items() if section != "clusters"}
    yield from _entries(plain, source)
    clusters = _tables(document.get("clusters", {}), source, "clusters")
    for name, sections in clusters.items():
        table = _tables(sections, source, f"clusters.{name}")
        entries = list(_entries(table, f"{source}: [clusters.{name}]"))
        for origin, key, value in entries:
            _checked(origin, key, value)  # also of those that are not served
        if name == cluster:
            yield from entries
    if cluster not in clusters and (cluster or clusters):
        names = ", ".join(clusters) or "none"
        wanted = f"--cluster or SFSS_CLUSTER has to name one of those in the file: {names}"
        raise SettingError(source, "cluster", f"is {in_toml(cluster)}", wanted)


def _tables(value: object, source: str, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SettingError(
            source, name, f"is {in_toml(value)}", f"a table is expected: [{name}.NAME]"
        )
    return value


def _entries(document: Mapping[str, object], source: str) -> Iterator[tuple[str, str, object]]:
    for section, entries in document.items():
        if section == "listen":
            yield source, section, entries
            continue
        if section not in SECTIONS:
            known = (*SECTIONS, "listen")
            homes = [f"[{each.section}]" for each in DECLARATIONS.values() if each.name == section]
            if homes and not isinstance(entries, dict):
                wanted = f"did you mean {section} under {' or '.join(homes)}?"
                raise SettingError(source, section, "is in no section", wanted)
            raise SettingError(source, f"[{section}]", "unknown", nearest(section, known))
        if not isinstance(entries, dict):
            raise SettingError(
                source, section, f"is {in_toml(entries)}", f"a section is expected: [{section}]"
            )
        for name, value in entries.items():
            yield source, f"{section}.{name}", value


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    # Other variables may share our prefix: SFSS_CONFIG, and what Kubernetes sets for a service of
    # our name (SFSS_PORT, SFSS_SERVICE_HOST).
    ours = tuple(f"SFSS_{section}_".upper() for section in SECTIONS)
    for variable, text in environ.items():
        if variable.startswith(ours):
            declaration = _BY_VARIABLE.get(variable)
            if declaration is None:
                raise SettingError(
                    "environment", variable, "unknown", nearest(variable, _BY_VARIABLE)
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


def _checked(source: str, key: str, value: object) -> Setting | tuple[Listen, ...]:
    if key == "listen":
        return read_listen(source, value)
    declaration = DECLARATIONS.get(key)
    if declaration is None:
        raise SettingError(source, key, "unknown", nearest(key, DECLARATIONS))
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = tuple(value)
    if declaration.type is float and type(value) is int:
        value = float(value)
    if type(value) is not declaration.type or not declaration.check.holds(value):
        found, allowed = declaration.check.found(value), declaration.check.allowed
        raise SettingError(source, key, found, f"{allowed} is expected")
    return cast(Setting, value)


def _build(values: Mapping[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if name:
            sections[section][name] = value
    built = {section: make(**sections[section]) for section, make in SECTIONS.items()}
    return Settings(**built, listen=values.get("listen", ()))
