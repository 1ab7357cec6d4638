"""Settings as texts: the sample file, ``sfss config``, the table in the docs. Pure."""

from sfss.checks import in_toml
from sfss.config import DECLARATIONS, SECTIONS, Declaration, Settings


def as_toml(settings: Settings) -> str:
    """Return ``settings`` as a commented TOML document that ``load`` reads back to the same, but
    for secrets: of those it only says that they are set.
    """
    lines = [
        "# Settings of sfss. Each can also be set in the environment, as SFSS_SECTION_NAME:",
        "# SFSS_SERVER_PORT=80.",
    ]
    for section, kind in SECTIONS.items():
        lines += ["", f"# {kind.__doc__}", f"[{section}]"]
        values = getattr(settings, section)
        for declaration in DECLARATIONS.values():
            if declaration.section == section:
                line = _line(declaration, getattr(values, declaration.name))
                lines += [f"# {_sentence(declaration)}", line]
    return "\n".join([*lines, *_listen_tables(settings)]) + "\n"


def _line(declaration: Declaration, value: object) -> str:
    if declaration.is_hidden and value:
        return f"# {declaration.name} is set, and not shown"
    return f"{declaration.name} = {in_toml(value)}"


def _listen_tables(settings: Settings) -> list[str]:
    lines = [
        "",
        "# In place of server.host, server.port and server.faces: any number of addresses, each",
        "# with its faces. Not to be set in the environment.",
    ]
    if not settings.listen:
        lines += [
            "# [[listen]]",
            '# address = "127.0.0.1:8255"',
            '# faces = ["native", "status", "health", "browser", "api"]',
            '# tls_certificate = "site.pem"',
            '# tls_key = "site.key"',
        ]
    for listen in settings.listen:
        address, faces = in_toml(listen.address), in_toml(listen.faces)
        lines += ["[[listen]]", f"address = {address}", f"faces = {faces}"]
        if listen.is_secure:
            certificate, key = in_toml(listen.tls_certificate), in_toml(listen.tls_key)
            lines += [f"tls_certificate = {certificate}", f"tls_key = {key}"]
    return lines


def _sentence(declaration: Declaration) -> str:
    allowed = "" if declaration.type is bool else f" ({declaration.check.allowed})"
    return f"{declaration.help}{allowed}"


def as_table() -> str:
    """Return all settings as a reStructuredText list-table for the docs."""
    rows = ["   * - setting", "     - default", "     - what it is", "     - environment variable"]
    for declaration in DECLARATIONS.values():
        rows += [
            f"   * - ``{declaration.key}``",
            f"     - ``{in_toml(declaration.default)}``",
            f"     - {_sentence(declaration)}",
            f"     - ``{declaration.variable}``",
        ]
    return "\n".join([".. list-table::", "   :header-rows: 1", "", *rows]) + "\n"
