"""``sfss token`` makes a token, ``sfss sign`` a signed URL.

On standard output is what a program reads; what is for a person is on standard error.
"""

import argparse
import re
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from sfss.checks import in_toml, read_rewrites
from sfss.client import URL_VARIABLE, url_of
from sfss.client_text import DEFAULT_URL
from sfss.command_parsers import NewParser, add_cluster
from sfss.config_access import signing_keys_of
from sfss.errors import BadPath, NotFound, SettingError
from sfss.grants import EVERYDAY, SCOPES, TOKEN_BYTES, TOKEN_MARK, write_token
from sfss.keys import check_path
from sfss.prefixes import read_prefix, write_prefix
from sfss.settings_file import read_settings
from sfss.signing import METHODS, Signed, query_of
from sfss.web.locations import locate

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile("([0-9]{1,9})([smhdw]?)")
_LONGEST_S: Final = 100 * 366 * 86_400


def run_token(options: argparse.Namespace) -> None:
    """Print a new token, and the line of the settings that makes it one. Raises ``SettingError``
    for a name, a prefix or a day that is none.
    """
    for prefix in options.prefixes:
        _check_prefix(prefix)
    secret = TOKEN_MARK + secrets.token_urlsafe(TOKEN_BYTES)
    scopes = list(dict.fromkeys(options.scopes or EVERYDAY))
    try:
        line = write_token(secret, options.name, scopes, options.prefixes, options.until)
    except ValueError:
        found = f"is {options.name!r}, --until {options.until!r}"
        allowed = "up to 64 letters, digits and _ . - are expected, and YYYY-MM-DD"
        raise SettingError("command line", "NAME", found, allowed) from None
    _say("the token, which is not shown again; what keeps it must be readable by its owner only:")
    print(secret, flush=True)
    _say("in the settings, under [access], as one of tokens:")
    print(in_toml(line))


def _check_prefix(prefix: str) -> None:
    """Raise ``SettingError`` where no path begins so. One that is empty is more likely a variable
    that is not set than meant for all.
    """
    try:
        if not prefix:
            raise ValueError("it is empty")
        read_prefix(write_prefix(prefix))
    except ValueError:
        allowed = 'how paths begin is expected, as it is: "photos/", or "/" for all'
        raise SettingError("command line", "--prefix", f"is {prefix!r}", allowed) from None


def run_sign(options: argparse.Namespace) -> None:
    """Print the signed URL. Raises ``SettingError``."""
    settings = read_settings(options.config, None, options.cluster)
    keys = signing_keys_of(settings.access)
    name = options.key or next(iter(keys), "")
    if name not in keys:
        key = "access.signing_keys"
        found = f"has no key {name!r}" if name else "is empty"
        raise SettingError("settings", key, found, '"NAME SECRET" is needed')
    path, url = _named(options.url, read_rewrites(settings.paths.rewrites))
    expires_s = int(time.time()) + _seconds(options.expires)
    query = query_of(Signed(options.method, path, expires_s, name), keys[name])
    print(f"{url}{'&' if '?' in url else '?'}{query}")


def _named(text: str, rewrites: Any) -> tuple[str, str]:
    """Return the path of the file that is meant, as it is stored, and its URL."""
    try:
        if not re.match("https?://", text):
            check_path(text)
            return text, f"{url_of(None).rstrip('/')}/file?path={quote(text, safe='/')}"
        parts = urlsplit(text)
        if parts.fragment or "signature=" in parts.query:
            raise BadPath("it is signed, or has a fragment")
        if parts.path == "/file":
            (path,) = parse_qs(parts.query, strict_parsing=True, errors="strict")["path"]
        else:
            path = locate(text, rewrites).path
        check_path(path)
        return path, text
    except (BadPath, NotFound, KeyError, ValueError) as error:
        allowed = "a path, or the URL of a file (/file?path=P, or /P), is expected"
        raise SettingError("command line", "URL", f"is {text!r} ({error})", allowed) from None


def _seconds(text: str) -> int:
    match = _DURATION.fullmatch(text)
    seconds = 0 if match is None else int(match[1]) * _UNITS_S[match[2] or "s"]
    if not 0 < seconds <= _LONGEST_S:
        allowed = "a number with s, m, h, d or w is expected, as 1h"
        raise SettingError("command line", "--expires", f"is {text!r}", allowed)
    return seconds


def _say(sentence: str) -> None:
    print(f"sfss: {sentence}", file=sys.stderr, flush=True)


def add_token(new: NewParser) -> None:
    """Make the parser of ``sfss token``."""
    parser = new(
        description="Print a new token, and the text for access.tokens that makes it one.",
    )
    add: Callable[..., Any] = parser.add_argument
    add("name", metavar="NAME", help="a name, for logs and refusals")
    add(
        "--scope",
        action="append",
        choices=SCOPES,
        dest="scopes",
        help=f"what it may; repeat it for several (default: {', '.join(EVERYDAY)})",
    )
    add(
        "--prefix",
        action="append",
        default=[],
        dest="prefixes",
        metavar="PREFIX",
        help="how paths begin on which it may, photos/ say, nothing escaped; repeat it for several"
        " (default: all)",
    )
    add("--until", default="", metavar="YYYY-MM-DD", help="its last day, UTC (default: none)")


def add_sign(new: NewParser) -> None:
    """Make the parser of ``sfss sign``."""
    parser = new(description="Print a signed URL, made with a key of access.signing_keys.")
    add_cluster(parser)
    add: Callable[..., Any] = parser.add_argument
    add(
        "url",
        metavar="URL",
        help="the URL of a file, or its path; then the server is the one of"
        f" {URL_VARIABLE} in the environment, or {DEFAULT_URL}",
    )
    add(
        "--method", choices=METHODS, default="GET", help="what may be done (default: GET, and HEAD)"
    )
    add(
        "--expires",
        default="1h",
        metavar="TIME",
        help="for how long: 90s, 15m, 1h, 7d (default: 1h)",
    )
    add("--key", default="", metavar="NAME", help="the key (default: the first)")
