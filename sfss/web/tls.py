"""TLS for small installations, by ``ssl``: a certificate and its key for a listener.

Files are read when a worker starts, so a renewed certificate counts from the next reload (SIGHUP).
"""

import ssl
from pathlib import Path
from typing import Any, Final

from sfss.config import Settings
from sfss.errors import SettingError
from sfss.listening import Listen

HANDSHAKE_S: Final = 10.0
"""Seconds in which a client has to be done with the handshake."""

GOODBYE_S: Final = 5.0
"""Seconds for which a client is waited for that is to close a connection."""


def context_of(listen: Listen, section: str = "server") -> ssl.SSLContext | None:
    """Return what is to be spoken at ``listen``: TLS 1.2 or 1.3 with Python's choice of ciphers,
    None for plain HTTP. Raises ``SettingError``, which names a setting of ``section`` and the file.
    """
    if not listen.is_secure:
        return None
    for name in ("tls_certificate", "tls_key"):
        _check_readable(f"{section}.{name}", getattr(listen, name))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With it, a client could have us do the expensive part again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password, OpenSSL would ask the terminal for it.
        context.load_cert_chain(listen.tls_certificate, listen.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise _wrong(listen, section, error) from None
    return context


def contexts_of(settings: Settings) -> list[ssl.SSLContext | None]:
    """Return ``context_of`` each of the listeners. Raises ``SettingError``."""
    section = "listen" if settings.listen else "server"
    return [context_of(listen, section) for listen in settings.listeners()]


def options_for(context: ssl.SSLContext | None) -> dict[str, Any]:
    """Return what ``create_server`` of an event loop is told."""
    if context is None:
        return {}
    return {
        "ssl": context,
        "ssl_handshake_timeout": HANDSHAKE_S,
        "ssl_shutdown_timeout": GOODBYE_S,
    }


def _check_readable(key: str, name: str) -> None:
    try:
        with Path(name).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        found = f"is {name!r}, which cannot be read ({getattr(error, 'strerror', None) or error})"
        raise SettingError("settings", key, found, "a PEM file is expected") from None


def _wrong(listen: Listen, section: str, error: Exception) -> SettingError:
    """Return what is wrong with one of the two files."""
    certificate, key = listen.tls_certificate, listen.tls_key
    if not _holds_certificates(certificate):
        found, wanted = f"is {certificate!r}, with no certificate in it", "PEM is expected"
        return SettingError("settings", f"{section}.tls_certificate", found, wanted)
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        found = f"is {key!r}, which is not the key of the certificate in {certificate!r}"
        wanted = "the one that it was made with is expected"
    elif "ENCRYPTED" in _text(key):
        found, wanted = f"is {key!r}, which needs a password", "a key without one is expected"
    else:
        found, wanted = f"is {key!r}, with no key that is understood ({error})", "PEM is expected"
    return SettingError("settings", f"{section}.tls_key", found, wanted)


def _holds_certificates(name: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=name)
    except (OSError, ValueError):
        return False
    return True


def _text(name: str) -> str:
    try:
        return Path(name).read_text("latin-1")
    except OSError:
        return ""
